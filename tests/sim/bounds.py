"""Bounds small enough to be met within a short run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ecorelay import link_wire
from ecorelay.core import outbox
from ecorelay.daemon import connection, outqueue, store_upkeep

WINDOW_FRAMES = 6
WINDOW_BYTES = 6_000
OUT_MAX = 40 * 1024
OUT_PAUSE = 12 * 1024


@contextmanager
def small() -> Iterator[None]:
    """Within the block these are the product's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "WINDOW_FRAMES", WINDOW_FRAMES)
        patch.setattr(outbox, "WINDOW_BYTES", WINDOW_BYTES)
        patch.setattr(link_wire, "PRESENCE_PART", 2)
        patch.setattr(link_wire, "GROUPS_PART", 1)
        patch.setattr(link_wire, "LINES_PART", 2)
        patch.setattr(outqueue, "OUT_MAX", OUT_MAX)
        for module in (outqueue, connection):
            patch.setattr(module, "OUT_PAUSE", OUT_PAUSE)
        # A full disk and a clock that leaps would take receipts early, and they are asked for in the end.
        patch.setattr(store_upkeep, "PRESSED_KEEPS_MS", int(1e12))
        patch.setattr(outqueue, "SPARE_MAX", 8 * 1024)
        patch.setattr(outqueue, "SPARE_AGAIN", 4 * 1024)
        yield
