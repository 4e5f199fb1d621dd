"""The two clocks, read together."""

from __future__ import annotations

import time
from typing import Protocol

import trio

from ecorelay.core.events import Now

JUMP_S = 30.0
"""How far the wall clock may move against the other between two readings before it is news."""


class Clock(Protocol):
    """Gives readings; tests have their own."""

    def now(self) -> Now:
        """One reading."""
        ...


class SystemClock:
    """Trio's clock beside the wall's. Only inside `trio.run`."""

    def now(self) -> Now:
        """See `Clock`."""
        return Now(trio.current_time(), time.time_ns() // 1_000_000)


class JumpDetector:
    """Finds that the machine slept, or that its clock was set: only then the two clocks part suddenly."""

    def __init__(self, now: Now) -> None:
        self._offset = now.wall / 1000 - now.mono

    def jumped(self, now: Now) -> float:
        """Seconds the wall clock jumped since the last reading; 0.0 for what is no jump."""
        offset = now.wall / 1000 - now.mono
        moved = offset - self._offset
        # Drift and small corrections do not add up: each reading is compared with the one before.
        self._offset = offset
        return moved if abs(moved) > JUMP_S else 0.0
