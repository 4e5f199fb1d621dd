#!/usr/bin/env python3
"""Measure the hub against the yardstick, the thinnest hub that keeps its word; print one table.

Both are driven by the same load, alternately: on a machine where the same code runs at half the speed an
hour later, only their ratio says something. Gates are the ones the project set itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if sys.argv[1:2] == ["yardstick"]:
        from scripts.bench_lib.yardstick import main
    else:
        from scripts.bench_lib.cli import main
    sys.exit(main(sys.argv[2:] if sys.argv[1:2] == ["yardstick"] else sys.argv[1:]))
