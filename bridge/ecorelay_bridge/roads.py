"""What the hub hears of its roads to other hubs, and how it says which of them it wants."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import trio
from msgspec import Struct

from ecorelay.names import key
from ecorelay_bridge.refusals import Reason


class RoadReport(Struct, frozen=True, kw_only=True):
    """One event on a road, for `hub status` and the log. Holds no secret and no text of the other side."""

    event: Literal["listening", "not_listening", "dialing", "failed", "up", "down"]
    side: Literal["dialer", "acceptor"]
    """Ours."""
    hub_id: str = ""
    """The hub dialed, or the one that proved itself; "" unknown: what a stranger says is not repeated."""
    address: str = ""
    """``host:port`` there, or where we listen."""
    reason: Reason | None = None
    """With `failed`, `not_listening` and, where something broke, `down`."""
    sentence: str = ""
    remedy: str = ""
    told: bool = False
    """Whether the other side refused us, rather than we it."""
    retry_in_s: float | None = None
    suppressed: int = 0
    """How many failures of strangers for this reason were not reported before this one: too many."""
    error: Exception | None = None
    """With reason ``crash``: a bug to log with its traceback."""


class Roads:
    """Which hubs are to be dialed now. The hub's part holds one and calls it; dialers wait on it.

    At first every configured hub is sought. A hub that is reached some other way is left alone with
    :meth:`rest` until :meth:`seek`. Without that two hubs that list each other would dial for ever.
    """

    def __init__(self) -> None:
        self._resting: set[str] = set()
        self._changed = trio.Event()
        self._calls: Counter[str] = Counter()

    def rest(self, hub_id: str) -> None:
        """Dial this hub no more, until told otherwise. Streams that are up stay up."""
        self._resting.add(key(hub_id))

    def seek(self, hub_id: str) -> None:
        """Dial this hub, and now.

        Its dialer's pause is over, but for the one after a failed proof. If the dialer has a stream up, it
        makes another one beside it: that is what to call when the link is suspect.
        """
        self._resting.discard(key(hub_id))
        self._calls[key(hub_id)] += 1
        self._wake()

    def is_sought(self, hub_id: str) -> bool:
        """Whether it is to be dialed."""
        return key(hub_id) not in self._resting

    async def sought(self, hub_id: str) -> None:
        """Wait until this hub is to be dialed."""
        await trio.lowlevel.checkpoint()
        while not self.is_sought(hub_id):
            await self._changed.wait()

    def calls(self, hub_id: str) -> int:
        """How often it was sought until now: what :meth:`pause` compares with."""
        return self._calls[key(hub_id)]

    async def pause(self, hub_id: str, seconds: float, since: int) -> bool:
        """Wait so long, or until the hub is sought anew.

        Args:
            hub_id: of the hub.
            seconds: may be infinite.
            since: of :meth:`calls`, when what the pause is about began: a call during that ends it at once.

        Returns:
            Whether it was sought anew.
        """
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(seconds):
            while self.calls(hub_id) == since:
                await self._changed.wait()
            return True
        return False

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
