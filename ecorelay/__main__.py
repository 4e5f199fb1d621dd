"""``python -m ecorelay``: the same as the command ``ecorelay``."""

from __future__ import annotations

import sys

from ecorelay.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
