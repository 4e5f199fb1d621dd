"""How fast somebody may go: so many units a second, and some in advance after a quiet time."""

from __future__ import annotations

import math


class Pace:
    """A budget that grows with time.

    Args:
        per_second: units a second.
        burst: units saved up at most.
    """

    __slots__ = ("_burst", "_left", "_per_second", "_since")

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = self._left = burst
        self._since = -math.inf

    def spend(self, units: float) -> None:
        """Use units, beyond the budget too: that is a debt, see :meth:`wait`."""
        self._left -= units

    def wait(self, now: float) -> float:
        """Seconds until there is no debt any more; `now` in seconds, never going back."""
        if now > self._since:
            if self._since > -math.inf:
                self._left = min(self._burst, self._left + (now - self._since) * self._per_second)
            self._since = now
        return max(0.0, -self._left / self._per_second)
