#!/usr/bin/env python3
"""Load and faults on real processes, and an independent ledger that judges what they promised.

    nice -n 5 .venv/bin/python scripts/soak.py --minutes 60 --report soak.md

Three hubs on two roads (TCP, a relay server), 50 peers (half by the client library, some by `ecorelay mcp`),
all 19 tools, a fault every few seconds. Exit code 1 if anything acknowledged is lost, doubled or out of
order, or any other promise is broken; then everything is kept, with a history of each message it happened to.
Linux only, for it looks into /proc.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.soak_lib.cli import main

    sys.exit(main(sys.argv[1:]))
