"""Who may come in: limits on connections whose other end has not proved itself yet. Decides, does no I/O.

A *source* is an IP address. It is *familiar* when a hub proved itself from there, or bridge.json names it:
a part of the room is kept for those, and one connection at a time comes in whatever else that address has
done. A machine may have a whole IPv6 /64 to itself, or share one with all of its network: strangers of one
/64 have limits together, which are wider than those of an address and do not touch familiar ones.

Limits: whoever shares a familiar address (behind one NAT, or on that very machine) can keep its places
occupied, for nothing tells them apart before they have spoken. A stranger elsewhere cannot.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
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
HALF_OPEN_EXTRA: Final = 1
"""Beside those, for a familiar source; also while it is blocked."""
HALF_OPEN_PER_NETWORK: Final = 16
FAILED_PROOFS_MAX: Final = 5
"""Failed proofs of one source within a window, then it is refused for a window."""
FAILED_PROOFS_PER_NETWORK: Final = 20
FRUITLESS_MAX: Final = 60
"""Connections of one source within a window that came to nothing before a proof: garbage, scans, a monitor's
checks, guesses at names."""
FRUITLESS_PER_NETWORK: Final = 240
FRUITLESS_FAMILIAR: Final = 300
"""A hub that stood still finds as many abandoned connections of one peer as the kernel keeps, 256."""
SILENT_WEIGHT: Final = 5
"""A connection that occupied its place to the end counts as so many."""
WINDOW_S: Final = 60.0
SOURCES_MAX: Final = 2_000
"""Sources remembered; beyond, those not seen for longest are forgotten."""


def source_of(address: str) -> str:
    """The source an IP address is, in one spelling; any other text is one itself."""
    bare, percent, zone = address.partition("%")
    try:
        found = ip_address(bare)
    except ValueError:
        return address
    if isinstance(found, IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    # The same link-local address is another machine on another network.
    return f"{found}{percent}{zone}" if found.is_link_local else str(found)


def network_of(source: str) -> str:
    """The IPv6 /64 a source is in; "" for any other."""
    bare, percent, zone = source.partition("%")
    if ":" not in bare:
        return ""
    try:
        return str(ip_network((ip_address(bare), 64), strict=False)) + percent + zone
    except ValueError:
        return ""


class Door:
    """The limits, and what was seen of each source.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._half_open: Counter[str] = Counter()
        """By source, and by network."""
        self._inside = 0
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        """By source, and by network."""
        self._familiar: OrderedDict[str, None] = OrderedDict()

    @property
    def half_open(self) -> int:
        """Connections inside that have not proved themselves."""
        return self._inside

    def admit(self, source: str) -> Reason | None:
        """Let a connection in (then :meth:`leave` must follow), or the reason why not."""
        familiar = self.is_familiar(source)
        network = network_of(source)
        blocked = self.is_blocked(source)
        if blocked and not familiar:
            return Reason.SOURCE_BLOCKED
        places = 0 if blocked else HALF_OPEN_PER_SOURCE
        if familiar:
            places += HALF_OPEN_EXTRA
        elif network and self._half_open[network] >= HALF_OPEN_PER_NETWORK:
            return Reason.SOURCE_FULL
        if self._half_open[source] >= places:
            return Reason.SOURCE_BLOCKED if blocked else Reason.SOURCE_FULL
        room = HALF_OPEN_MAX if familiar else HALF_OPEN_MAX - HALF_OPEN_RESERVE
        if self._inside >= room:
            return Reason.DOOR_FULL
        self._inside += 1
        for each in _both(source, network):
            self._half_open[each] += 1
        return None

    def leave(self, source: str) -> None:
        """A connection that was let in has proved itself or ended."""
        self._inside -= 1
        for each in _both(source, network_of(source)):
            self._half_open[each] -= 1
            if not self._half_open[each]:
                del self._half_open[each]

    def is_familiar(self, source: str) -> bool:
        """Whether a hub proved itself from there, or bridge.json names the address."""
        return source in self._familiar

    def is_blocked(self, source: str) -> bool:
        """Whether it is refused for what it did. A familiar one then has one place left, for hubs we know."""
        names = (source,) if self.is_familiar(source) else _both(source, network_of(source))
        now = self._clock()
        return any(now < self._sources[name].refused_until for name in names if name in self._sources)

    def failed(self, source: str) -> None:
        """A proof failed, or was broken off after we had computed for it."""
        now = self._clock()
        seen = self._seen(source)
        if _too_many(seen.failed, now, FAILED_PROOFS_MAX):
            seen.failed_until = now + WINDOW_S
        if (network := network_of(source)) and not self.is_familiar(source):
            seen = self._seen(network)
            if _too_many(seen.failed, now, FAILED_PROOFS_PER_NETWORK):
                seen.failed_until = now + WINDOW_S

    def fruitless(self, source: str, *, silent: bool = False) -> None:
        """A connection ended before it cost us a proof.

        Args:
            source: whose.
            silent: whether it kept its place until it was thrown out.
        """
        now = self._clock()
        weight = SILENT_WEIGHT if silent else 1
        familiar = self.is_familiar(source)
        seen = self._seen(source)
        if _too_many(seen.fruitless, now, FRUITLESS_FAMILIAR if familiar else FRUITLESS_MAX, weight):
            seen.fruitless_until = now + WINDOW_S
        if (network := network_of(source)) and not familiar:
            seen = self._seen(network)
            if _too_many(seen.fruitless, now, FRUITLESS_PER_NETWORK, weight):
                seen.fruitless_until = now + WINDOW_S

    def proved(self, source: str) -> None:
        """A hub proved itself from there, or bridge.json names the address: familiar from now on."""
        self._familiar[source] = None
        self._familiar.move_to_end(source)
        if len(self._familiar) > SOURCES_MAX:
            self._familiar.popitem(last=False)
        if (seen := self._sources.get(source)) is not None:
            # Not its failed proofs: somebody else at that address may be guessing.
            seen.fruitless.clear()
            seen.fruitless_until = 0.0

    def _seen(self, source: str) -> _Source:
        seen = self._sources.setdefault(source, _Source())
        self._sources.move_to_end(source)
        if len(self._sources) > SOURCES_MAX:
            self._sources.popitem(last=False)
        return seen


def _both(source: str, network: str) -> tuple[str, ...]:
    return (source, network) if network else (source,)


def _too_many(times: deque[float], now: float, allowed: int, weight: int = 1) -> bool:
    """Note that it happened; whether that is too often within a window."""
    times.extend([now] * weight)
    while times and times[0] <= now - WINDOW_S:
        times.popleft()
    if len(times) < allowed:
        return False
    times.clear()
    return True


class _Source:
    """What one source, or all strangers of one network, did lately."""

    __slots__ = ("failed", "failed_until", "fruitless", "fruitless_until")

    def __init__(self) -> None:
        self.failed: deque[float] = deque()
        self.fruitless: deque[float] = deque()
        self.failed_until = 0.0
        self.fruitless_until = 0.0

    @property
    def refused_until(self) -> float:
        return max(self.failed_until, self.fruitless_until)
