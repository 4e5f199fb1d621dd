"""Who may come in: limits on connections whose other end has not proved itself yet. Decides, does no I/O.

A *source* is an IPv4 address or an IPv6 /64, which one machine has to itself. It is *familiar* when a hub
proved itself from there, or bridge.json names it: a part of the room is kept for those.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from ecorelay_bridge.refusals import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

HALF_OPEN_MAX: Final = 64
"""Connections that have not proved themselves, in all."""
HALF_OPEN_RESERVE: Final = 16
"""Of those, kept for familiar sources."""
HALF_OPEN_PER_SOURCE: Final = 4
FAILED_PROOFS_MAX: Final = 5
"""Failed proofs of one source within a window, then it is refused for a window."""
FRUITLESS_MAX: Final = 60
"""Connections of one source within a window that ended in nothing: garbage, scans, checks of a monitor."""
WINDOW_S: Final = 60.0
SOURCES_MAX: Final = 2_000
"""Sources remembered; beyond, those not seen for longest are forgotten."""


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


class Door:
    """The limits, and what was seen of each source.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._half_open: dict[str, int] = {}
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._familiar: OrderedDict[str, None] = OrderedDict()

    @property
    def half_open(self) -> int:
        """Connections inside that have not proved themselves."""
        return sum(self._half_open.values())

    def admit(self, source: str) -> Reason | None:
        """Let a connection in (then :meth:`leave` must follow), or the reason why not."""
        seen = self._sources.get(source)
        if seen is not None and self._clock() < seen.refused_until:
            return Reason.SOURCE_BLOCKED
        if self._half_open.get(source, 0) >= HALF_OPEN_PER_SOURCE:
            return Reason.SOURCE_FULL
        room = HALF_OPEN_MAX if source in self._familiar else HALF_OPEN_MAX - HALF_OPEN_RESERVE
        if self.half_open >= room:
            return Reason.DOOR_FULL
        self._half_open[source] = self._half_open.get(source, 0) + 1
        return None

    def leave(self, source: str) -> None:
        """A connection that was let in has proved itself or ended."""
        self._half_open[source] -= 1
        if not self._half_open[source]:
            del self._half_open[source]

    def failed(self, source: str) -> None:
        """A proof failed, or was broken off after we had computed for it."""
        seen = self._seen(source)
        self._count(seen, seen.failed, FAILED_PROOFS_MAX)

    def fruitless(self, source: str) -> None:
        """A connection ended before it cost us a proof."""
        seen = self._seen(source)
        self._count(seen, seen.fruitless, FRUITLESS_MAX)

    def proved(self, source: str) -> None:
        """A hub proved itself from there, or bridge.json names the address: familiar from now on."""
        self._familiar[source] = None
        self._familiar.move_to_end(source)
        if len(self._familiar) > SOURCES_MAX:
            self._familiar.popitem(last=False)

    def _seen(self, source: str) -> _Source:
        seen = self._sources.setdefault(source, _Source())
        self._sources.move_to_end(source)
        if len(self._sources) > SOURCES_MAX:
            self._sources.popitem(last=False)
        return seen

    def _count(self, seen: _Source, times: deque[float], allowed: int) -> None:
        now = self._clock()
        times.append(now)
        while times and times[0] <= now - WINDOW_S:
            times.popleft()
        if len(times) >= allowed:
            seen.refused_until = now + WINDOW_S
            times.clear()


class _Source:
    """What one source did lately."""

    __slots__ = ("failed", "fruitless", "refused_until")

    def __init__(self) -> None:
        self.failed: deque[float] = deque()
        self.fruitless: deque[float] = deque()
        self.refused_until = 0.0
