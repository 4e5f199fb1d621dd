"""What waits for one hub, and in which order it goes. Decides, does no I/O.

First the texts: who is here, who came and went, notes for this hub alone. Then data, from one *lane* for each
hub that sends: they take turns of about `PIECE_MAX` bytes, so that nobody's flood delays another's message
by more than that.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ecorelay import relay_wire
from ecorelay.relay_wire import HEADER, HERE_PART, PIECE_MAX, Here, HubHere
from ecorelay_relay_server.bounds import NOTES_MAX, OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay_relay_server.record import Record

    Bytes = bytes | memoryview


class Data(NamedTuple):
    """A data message on its way out, in two parts that nobody has copied into one yet."""

    head: bytes
    """The header, with the sender's address."""
    payload: Bytes


Outgoing = str | Data


class Item:
    """A data message in a lane.

    Args:
        kind: see `ecorelay.relay_wire`.
        stream: 8 bytes.
        payload: what follows the header.
    """

    __slots__ = ("kind", "payload", "queued", "stream")

    def __init__(self, kind: int, stream: bytes, payload: Bytes = b"") -> None:
        self.kind = kind
        self.stream = stream
        self.payload = payload
        self.queued = True

    @property
    def cost(self) -> int:
        """Bytes it is reckoned to take while it waits."""
        return HEADER + OVERHEAD + len(self.payload)


class Lane:
    """What waits from one hub for one other, in order."""

    __slots__ = ("items", "size", "source")

    def __init__(self, source: bytes) -> None:
        self.source = source
        """Address of the hub it comes from."""
        self.items: deque[Item] = deque()
        self.size = 0
        """Cost of all items."""


class Outbox:
    """Everything that waits for one hub.

    Args:
        address: of this hub.
        here: the hubs it is told of first.
        record: the realm's comings and goings, from its present end on.
    """

    def __init__(self, address: bytes, here: Sequence[HubHere], record: Record) -> None:
        self._address = address
        self._here: Sequence[HubHere] | None = here
        self._told = 0
        self._record = record
        self._read = record.end
        self._notes: list[str] = []
        self._lanes: dict[bytes, Lane] = {}
        """The other hub's address → what waits from it; none that is empty. The first is the next."""
        self.queued = 0
        """Cost of all data."""

    @property
    def behind(self) -> bool:
        """Whether somebody came or went of whom this hub has not read."""
        return self._read < self._record.end

    def lane_size(self, source: bytes) -> int:
        """Cost of what waits from that hub."""
        lane = self._lanes.get(source)
        return 0 if lane is None else lane.size

    def put(self, source: bytes, item: Item) -> int:
        """Queue a message from that hub; its cost."""
        lane = self._lanes.get(source)
        if lane is None:
            lane = self._lanes[source] = Lane(source)
        lane.items.append(item)
        cost = item.cost
        lane.size += cost
        self.queued += cost
        return cost

    def note(self, text: str) -> bool:
        """Queue a text for this hub alone; whether there was room."""
        if len(self._notes) >= NOTES_MAX:
            return False
        self._notes.append(text)
        return True

    def purge(self, source: bytes, stream: bytes) -> int:
        """Forget what waits of one stream from that hub; what it cost."""
        lane = self._lanes.get(source)
        if lane is None:
            return 0
        kept = [item for item in lane.items if item.stream != stream]
        if len(kept) == len(lane.items):
            return 0
        freed = lane.size
        self._forget(lane)
        for item in kept:
            self.put(source, item)
        return freed - self.lane_size(source)

    def drop(self, source: bytes) -> int:
        """Forget all that waits from that hub; what it cost."""
        lane = self._lanes.get(source)
        if lane is None:
            return 0
        freed = lane.size
        self._forget(lane)
        return freed

    def _forget(self, lane: Lane) -> None:
        del self._lanes[lane.source]
        self.queued -= lane.size

    def take(self, limit: int) -> list[Outgoing] | None:
        """Remove what goes next, of about `limit` bytes; empty: nothing waits.

        None: comings and goings that this hub has not read are no longer known, so it cannot be told.
        """
        taken: list[Outgoing] = []
        size = 0
        while self._here is not None and size < limit:
            text = self._next_part()
            taken.append(text)
            size += len(text)
        if self._here is not None:
            return taken
        if self._read < self._record.end:
            entries = self._record.since(self._read)
            if entries is None:
                return None
            for address, text in entries:
                if size >= limit:
                    return taken
                self._read += 1
                if address != self._address:
                    taken.append(text)
                    size += len(text)
        if self._notes and size < limit:
            # All of them, at most `NOTES_MAX` short ones.
            taken += self._notes
            size += sum([len(text) for text in self._notes])
            self._notes = []
        while self._lanes and size < limit:
            size += self._take_turn(taken)
        return taken

    def _next_part(self) -> str:
        here = self._here or ()
        part = tuple(here[self._told : self._told + HERE_PART])
        self._told += HERE_PART
        complete = self._told >= len(here)
        if complete:
            self._here = None
        return relay_wire.encode(Here(hubs=part, complete=complete))

    def _take_turn(self, taken: list[Outgoing]) -> int:
        lane = self._lanes.pop(next(iter(self._lanes)))
        size = cost = 0
        while lane.items and size < PIECE_MAX:
            item = lane.items.popleft()
            item.queued = False
            head = relay_wire.piece(item.kind, lane.source, item.stream)
            taken.append(Data(head, item.payload))
            size += HEADER + len(item.payload)
            cost += item.cost
        lane.size -= cost
        self.queued -= cost
        if lane.items:
            self._lanes[lane.source] = lane  # behind all others
        return size
