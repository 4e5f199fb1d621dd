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

    __slots__ = ("_gone", "_items", "_streams", "size", "source")

    def __init__(self, source: bytes) -> None:
        self.source = source
        """Address of the hub it comes from."""
        self.size = 0
        """Cost of all that waits."""
        self._items: deque[Item] = deque()
        self._streams: dict[bytes, deque[Item]] = {}
        """Stream → what waits of it: nothing has to be searched for when it is closed."""
        self._gone = 0
        """Items of closed streams that are still in line: no more than what waited beside them."""

    def put(self, item: Item) -> int:
        """Queue a message; its cost."""
        self._items.append(item)
        self._streams.setdefault(item.stream, deque()).append(item)
        cost = item.cost
        self.size += cost
        return cost

    def take(self) -> Item | None:
        """The next message, out of the lane; None: there is none."""
        while self._items:
            item = self._items.popleft()
            if not item.queued:
                self._gone -= 1
                continue
            item.queued = False
            mates = self._streams[item.stream]
            mates.popleft()
            if not mates:
                del self._streams[item.stream]
            self.size -= item.cost
            return item
        return None

    def purge(self, stream: bytes) -> int:
        """Forget what waits of one stream; what it cost. Takes time for each message of that stream alone.

        A search through the lane would be dear: whoever lets much wait for himself, and opens and closes
        streams all the time, would keep the server busy with it.
        """
        freed = 0
        gone = self._streams.pop(stream, ())
        for item in gone:
            freed += item.cost
            item.queued = False
            item.payload = b""
        self.size -= freed
        self._gone += len(gone)
        if 2 * self._gone > len(self._items):
            self._items = deque([item for item in self._items if item.queued])
            self._gone = 0
        return freed


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
        cost = lane.put(item)
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
        freed = lane.purge(stream)
        self.queued -= freed
        if not lane.size:
            del self._lanes[source]
        return freed

    def drop(self, source: bytes) -> int:
        """Forget all that waits from that hub; what it cost."""
        lane = self._lanes.pop(source, None)
        if lane is None:
            return 0
        self.queued -= lane.size
        return lane.size

    def clear(self) -> None:
        """Forget everything: nobody will read it any more."""
        self._here = None
        self._notes = []
        self._lanes = {}
        self.queued = 0

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
        before = lane.size
        size = 0
        while size < PIECE_MAX and (item := lane.take()) is not None:
            head = relay_wire.piece(item.kind, lane.source, item.stream)
            taken.append(Data(head, item.payload))
            size += HEADER + len(item.payload)
        self.queued -= before - lane.size
        if lane.size:
            self._lanes[lane.source] = lane  # behind all others
        return size
