"""How long a dialer waits before it tries again. Decides only; the randomness is an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ecorelay_bridge.refusals import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay_bridge.refusals import Refused

FIRST_S: Final = 0.5
AWAY_LAST_S: Final = 1.5
"""Longest wait for a hub that is away: it is to be back within 2 s of the network; asking costs a packet."""
LAST_S: Final = 30.0
"""Longest wait after attempts that cost the other side something."""
STABLE_S: Final = 60.0
"""A link that held this long makes the next wait short again."""
PROOF_FIRST_S: Final = 60.0
PROOF_LAST_S: Final = 3600.0
_AWAY: Final = frozenset(
    {
        Reason.NOT_RESOLVED,
        Reason.CONNECTION_REFUSED,
        Reason.FILTERED,
        Reason.UNREACHABLE,
        Reason.RELAY_AWAY,
        Reason.RELAY_LOST,
        Reason.NOT_AT_RELAY,
    }
)
"""Nobody was met."""


class Backoff:
    """The waits of one dialer.

    Full jitter: a wait is anything between nothing and a bound that doubles, so that hubs which lost their
    network together do not come back together. The bound begins at 0.5 s and ends at 1.5 s where nobody was
    met or a link ended, at 30 s where somebody did not become a link. After a failed proof the wait is a
    minute, doubling to an hour: whoever listens there may be collecting guesses at the secret, one for each
    of our proofs.

    Args:
        random: gives a number from 0 up to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._away = FIRST_S
        self._bound = FIRST_S
        self._proof = PROOF_FIRST_S

    def after_failure(self, refused: Refused) -> float:
        """Seconds to wait after an attempt that brought no link."""
        if refused.slow:
            wait = self._proof
            self._proof = min(self._proof * 2, PROOF_LAST_S)
            # Never shorter than the bound; a little longer, so that many do not come at once.
            return wait * (1 + self._random() / 10)
        if refused.settled:
            # A person must change something first; but they may do so on the other machine.
            return LAST_S * (1 + self._random()) / 2
        if refused.reason in _AWAY:
            return self._after_absence()
        wait = self._bound * self._random()
        self._bound = min(self._bound * 2, LAST_S)
        return wait

    def after_link(self, held_s: float) -> float:
        """Seconds to wait after a link that held for `held_s` seconds."""
        self._proof = PROOF_FIRST_S
        self._bound = FIRST_S
        if held_s >= STABLE_S:
            self._away = FIRST_S
        return self._after_absence()

    def calmly(self, wait: float) -> float:
        """At least 15 to 30 s, where there is another road and this one would only be better."""
        return max(wait, LAST_S * (1 + self._random()) / 2)

    def _after_absence(self) -> float:
        wait = self._away * self._random()
        self._away = min(self._away * 2, AWAY_LAST_S)
        return wait

    def hurry(self) -> None:
        """The network came back, or somebody asked: begin with short waits again."""
        self._away = self._bound = FIRST_S
