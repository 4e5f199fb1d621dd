"""Who may be in without a proof, and who failed too often. Decides; no I/O, no clock.

A *source* is an IPv4 address or an IPv6 /64, which one machine has to itself; behind a trusted proxy the one
that the proxy names.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Generic, TypeVar

from ecorelay_relay_server.bounds import (
    HALF_OPEN_MAX,
    HALF_OPEN_PER_SOURCE,
    REMEMBERED_MAX,
    SOURCE_BURST,
    SOURCE_PER_S,
    WINDOW_S,
)
from ecorelay_relay_server.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

Ticket = TypeVar("Ticket")
Network = IPv4Network | IPv6Network


def source_of(address: str) -> str:
    """The source an IP address belongs to; any other text is one itself."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network((found, 64), strict=False))


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Whether an IP address lies in one of the networks."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found if isinstance(found, IPv4Address) else found.ipv4_mapped or found
    return any(mapped in network for network in networks)


def behind(forwarded: str, networks: Sequence[Network]) -> str:
    """The address a trusted proxy speaks for: the last in ``X-Forwarded-For`` that is no such proxy itself.

    What stands before it anybody can have written. "" if there is none.
    """
    for each in reversed(forwarded.split(",")):
        address = each.strip().strip("[]")
        if not is_in(address, networks):
            try:
                # Without the zone of an IPv6 address: it may be any text.
                return str(ip_address(address.partition("%")[0]))
            except ValueError:
                return ""
    return ""


class HalfOpen(Generic[Ticket]):
    """Connections that have not proved themselves. For a new one room is made: the oldest has had its time.

    So neither silent connections nor many of them at once keep a hub out that proves itself at once.

    Args:
        most: connections in all.
    """

    def __init__(self, most: int = HALF_OPEN_MAX) -> None:
        self._most = most
        self._by_source: dict[str, OrderedDict[Ticket, None]] = {}
        self._source: dict[Ticket, str] = {}

    def __len__(self) -> int:
        return len(self._source)

    def enter(self, ticket: Ticket, source: str, *, proxy: bool = False) -> Ticket | None:
        """One more.

        Args:
            ticket: what stands for it.
            source: where it comes from.
            proxy: whether that is a proxy that speaks for others: it has no bound of its own.

        Returns:
            One that must be closed for it, and is out already.
        """
        mates = self._by_source.get(source, ())
        victim: Ticket | None = None
        if len(mates) >= HALF_OPEN_PER_SOURCE and not proxy:
            victim = next(iter(mates))
        elif len(self._source) >= self._most:
            fullest = max(self._by_source.values(), key=len)
            victim = next(iter(fullest))
        if victim is not None:
            self.leave(victim)
        self._by_source.setdefault(source, OrderedDict())[ticket] = None
        self._source[ticket] = source
        return victim

    def all(self) -> list[Ticket]:
        """Those that are in."""
        return list(self._source)

    def leave(self, ticket: Ticket) -> bool:
        """It proved itself or ended; whether it was still in."""
        source = self._source.pop(ticket, None)
        if source is None:
            return False
        mates = self._by_source[source]
        del mates[ticket]
        if not mates:
            del self._by_source[source]
        return True


class Failures:
    """What counts against somebody: so many times within a window, then refused for a window.

    Args:
        most: times.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: OrderedDict[Hashable, list[float]] = OrderedDict()
        self._until: OrderedDict[Hashable, float] = OrderedDict()

    def refused(self, who: Hashable, now: float) -> bool:
        """Whether it is refused at `now`, in seconds."""
        return now < self._until.get(who, now)

    def count(self, who: Hashable, now: float) -> None:
        """Once more."""
        times = [then for then in self._times.get(who, ()) if then > now - WINDOW_S]
        times.append(now)
        self._times[who] = times
        self._times.move_to_end(who)
        if len(times) >= self._most:
            del self._times[who]
            self._until[who] = now + WINDOW_S
        for remembered in (self._times, self._until):
            if len(remembered) > REMEMBERED_MAX:
                remembered.popitem(last=False)


class Comings:
    """How fast those who prove themselves may come from one source."""

    def __init__(self) -> None:
        self._paces: OrderedDict[str, Pace] = OrderedDict()

    def too_many(self, source: str, now: float) -> bool:
        """One more at `now`, in seconds; whether it is one too many."""
        pace = self._paces.setdefault(source, Pace(SOURCE_PER_S, SOURCE_BURST))
        self._paces.move_to_end(source)
        if len(self._paces) > REMEMBERED_MAX:
            self._paces.popitem(last=False)
        if pace.wait(now) > 0:
            return True
        pace.spend(1)
        return False


class Familiar:
    """Who has been here before, the last `REMEMBERED_MAX` of them."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def __contains__(self, who: Hashable) -> bool:
        return who in self._seen

    def add(self, who: Hashable) -> None:
        """It was here."""
        self._seen[who] = None
        self._seen.move_to_end(who)
        if len(self._seen) > REMEMBERED_MAX:
            self._seen.popitem(last=False)
