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

    event: Literal[
        "listening", "not_listening", "dialing", "failed", "up", "down", "at_relay", "relay_failed"
    ]
    side: Literal["dialer", "acceptor"]
    """Ours."""
    hub_id: str = ""
    """The hub dialed, or the one that proved itself; "" unknown: what a stranger says is not repeated."""
    address: str = ""
    """``host:port`` there, ``relay host``, or where we listen. With the last two events the relay's name."""
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


class RelayState(Struct, kw_only=True):
    """How it stands with one relay server."""

    up: bool = False
    since: float = 0.0
    """When that began, on Trio's clock."""
    hubs: int = 0
    """Others that are there."""
    trouble: str = ""
    """Why it is down; empty: it was never tried. While it is up: what is not as it should be."""


class Roads:
    """Which hubs are to be dialed now. The hub's part holds one and calls it; dialers wait on it.

    At first every configured hub is sought. A hub that is reached some other way is left alone with
    :meth:`rest` until :meth:`seek`. Without that two hubs that list each other would dial for ever. One that
    is reached over a relay is still dialed directly, calmly: that way is the better one.

    Attributes:
        relays: the relay servers, by name; see `RelayState`.
    """

    def __init__(self) -> None:
        self.relays: dict[str, RelayState] = {}
        self._resting: dict[str, bool] = {}
        """Hubs that are reached, and whether over a relay."""
        self._waiting: dict[str, trio.lowlevel.ParkingLot] = {}
        """Who waits for news of a hub: with a thousand hubs not everybody is to wake for each."""
        self._calls: Counter[str] = Counter()
        self._called = 0
        """All of those."""
        self._any = trio.lowlevel.ParkingLot()

    def rest(self, hub_id: str, *, relayed: bool = False) -> None:
        """Dial this hub no more, until told otherwise. Streams that are up stay up.

        Args:
            hub_id: of the hub.
            relayed: it is reached over a relay, so that only relays rest.
        """
        self._resting[key(hub_id)] = relayed
        self._wake(hub_id)

    def seek(self, hub_id: str) -> None:
        """Dial this hub, and now.

        Its dialer's pause is over, but for the one after a failed proof. If the dialer has a stream up, it
        makes another one beside it: that is what to call when the link is suspect.
        """
        self._resting.pop(key(hub_id), None)
        self._calls[key(hub_id)] += 1
        self._called += 1
        self._any.unpark_all()
        self._wake(hub_id)

    def is_sought(self, hub_id: str, *, relayed: bool = False) -> bool:
        """Whether it is to be dialed; `relayed`: over a relay."""
        over_relay = self._resting.get(key(hub_id))
        return over_relay is None or (over_relay and not relayed)

    def is_relayed(self, hub_id: str) -> bool:
        """Whether it is reached, over a relay: then there is no hurry."""
        return self._resting.get(key(hub_id), False)

    async def sought(self, hub_id: str, *, relayed: bool = False, for_s: float = 0.0) -> None:
        """Wait until this hub is to be dialed, and has been for so many seconds; see :meth:`is_sought`."""
        await trio.lowlevel.checkpoint()
        while True:
            while not self.is_sought(hub_id, relayed=relayed):
                await self._changes(hub_id)
            with trio.move_on_after(for_s):
                while self.is_sought(hub_id, relayed=relayed):
                    await self._changes(hub_id)
            if self.is_sought(hub_id, relayed=relayed):
                return

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
                await self._changes(hub_id)
            return True
        return False

    async def pause_any(self, seconds: float) -> bool:
        """Wait so long, or until any hub is sought anew; whether one was."""
        await trio.lowlevel.checkpoint()
        since = self._called
        with trio.move_on_after(seconds):
            while self._called == since:
                await self._any.park()
            return True
        return False

    async def _changes(self, hub_id: str) -> None:
        """Wait for news of this hub."""
        lot = self._waiting.setdefault(key(hub_id), trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        finally:
            if not lot and self._waiting.get(key(hub_id)) is lot:
                del self._waiting[key(hub_id)]

    def _wake(self, hub_id: str) -> None:
        if (lot := self._waiting.get(key(hub_id))) is not None:
            lot.unpark_all()
