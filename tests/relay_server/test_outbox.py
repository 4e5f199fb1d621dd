"""What waits for one hub: closing a stream costs what that stream holds, whatever else waits."""

from ecorelay.relay_wire import DATA
from ecorelay_relay_server.outbox import Item, Outbox
from ecorelay_relay_server.record import Record
from tests.relay_server.switches import NUMBER, OTHER, address

MANY = 5_000


class Watched(Item):
    """Counts how often anybody looks at which stream one of these is of."""

    __slots__ = ("_stream",)
    looks = 0

    @property
    def stream(self):
        Watched.looks += 1
        return self._stream

    @stream.setter
    def stream(self, value):
        self._stream = value


def outbox():
    made = Outbox(address("me"), (), Record())
    made.take(1)
    return made


def payloads(found):
    return [bytes(each.payload) for each in found]


def test_closing_a_stream_does_not_search_through_what_waits_of_others():
    box, source = outbox(), address("one")
    for _ in range(MANY):
        box.put(source, Watched(DATA, NUMBER, b"x"))
    cost = box.put(source, Watched(DATA, OTHER, b"y"))
    before = box.queued
    Watched.looks = 0
    assert box.purge(source, OTHER) == cost
    for _ in range(10):
        assert box.purge(source, b"never-is") == 0
    assert Watched.looks < 10
    assert box.queued == box.lane_size(source) == before - cost
    assert payloads(box.take(1 << 30)) == [b"x"] * MANY
    assert (box.queued, box.take(1)) == (0, [])


def test_a_number_that_is_used_again_is_another_stream_and_order_stays():
    box, source = outbox(), address("one")
    box.put(source, Item(DATA, NUMBER, b"dead"))
    box.put(source, Item(DATA, OTHER, b"1"))
    box.put(source, Item(DATA, OTHER, b"2"))
    box.purge(source, NUMBER)
    box.put(source, Item(DATA, NUMBER, b"3"))
    box.put(source, Item(DATA, OTHER, b"4"))
    assert payloads(box.take(1 << 30)) == [b"1", b"2", b"3", b"4"]
    assert box.queued == 0


def test_what_was_forgotten_is_held_by_nothing():
    box, source = outbox(), address("one")
    box.put(source, Item(DATA, OTHER, b"stays"))
    dead = [Item(DATA, NUMBER, bytes(1_000)) for _ in range(MANY)]
    for item in dead:
        box.put(source, item)
    box.purge(source, NUMBER)
    assert not any(item.payload for item in dead)
    assert len(box._lanes[source]._items) == 1
    box.purge(source, OTHER)
    assert not box._lanes
    assert box.queued == 0
