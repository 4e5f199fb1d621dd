"""Where proofs are computed: in threads, few at once and few a second, and answered at fixed times."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import trio

from ecorelay_bridge.refusals import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE: Final = 2
PER_SECOND: Final = 10.0
"""Proofs computed for hubs that dial us. What we dial ourselves is paced by its pauses."""
STRANGERS_PER_SECOND: Final = 6.0
"""Of those, the ones for whoever is not likely to be a hub we know."""
BURST: Final = 10
STRANGERS_BURST: Final = 6
WAIT_MAX_S: Final = 2.0
"""A longer wait would use up the other side's time to finish: it is told to come back."""
ANSWER_S: Final = 0.025
"""An acceptor's answer, computed from the secret for anybody who asks, leaves at a multiple of this."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Workers:
    """All the computing for handshakes of one hub. Make one inside Trio."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._all = Pace(PER_SECOND, BURST)
        self._strangers = Pace(STRANGERS_PER_SECOND, STRANGERS_BURST)

    async def take_turn(self, *, known: bool) -> None:
        """Wait until a proof for somebody who dials us may be computed.

        Args:
            known: whether it says that it is a hub we know, from where one has proved itself before.

        Raises:
            Refused: ``busy``, too many others wait.
        """
        # One after the other: a stranger that still waits must take no turn from a hub we know.
        for pace in (self._all,) if known else (self._strangers, self._all):
            now = trio.current_time()
            wait = pace.wait(now)
            if wait > WAIT_MAX_S:
                raise Refused(Reason.BUSY, "too many hubs want to prove themselves at once")
            pace.take(now)
            await trio.sleep(wait)

    async def run(self, compute: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Compute in a thread.

        Raises:
            Refused: and whatever else `compute` raises.
        """
        return await trio.to_thread.run_sync(lambda: compute(*args, **kwargs), limiter=self._limiter)


class Pace:
    """So many a second, and a few at once after a quiet time.

    Args:
        per_second: the rate.
        burst: how many at once.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._step = 1 / per_second
        self._ahead = (burst - 1) * self._step
        self._next = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until the next one may go."""
        return max(0.0, self._next - self._ahead - now)

    def take(self, now: float, cost: float = 1.0) -> None:
        """One goes, after its wait; `cost`: or a part of one."""
        self._next = max(self._next, now) + self._step * cost


async def leave_at_fixed_time(began: float) -> None:
    """Wait until a multiple of `ANSWER_S` after `began`, so that the time of an answer tells nothing."""
    elapsed = trio.current_time() - began
    await trio.sleep_until(began + ANSWER_S * max(1, math.ceil(elapsed / ANSWER_S)))
