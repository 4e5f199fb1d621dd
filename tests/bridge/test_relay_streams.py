"""The streams in one connection to a relay: whatever comes in whatever order, bytes stay whole, and few."""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque

import pytest
from hypothesis import given, settings, strategies as st

from ecorelay import relay_wire
from ecorelay.errors import WireError
from ecorelay.relay_wire import CLOSE, CREDIT, CREDIT_MORE, DATA, HEADER, OPEN, PIECE_MAX, STREAMS_MAX, piece
from ecorelay_bridge.relay_streams import (
    BACK_OFF_S,
    REFUSALS_MAX,
    RESETS_S,
    STRANGER_MAX,
    End,
    Flow,
    Streams,
)

HERE, THERE = b"h" * 32, b"t" * 32


class Side:
    """One hub's end."""

    def __init__(self) -> None:
        self.now = 100.0
        self.wakes = 0
        self._drawn = 0
        self.streams = Streams(lambda: self.now, self._wake, self._draw)

    def _wake(self) -> None:
        self.wakes += 1

    def _draw(self, size: int) -> bytes:
        self._drawn += 1
        return self._drawn.to_bytes(size, "big")

    def messages(self) -> list[bytes]:
        found = []
        while (message := self.streams.next()) is not None:
            found.append(message)
        return found

    def kinds(self) -> list[int]:
        return [message[0] for message in self.messages()]

    def open(self) -> Flow:
        flow = self.streams.open(THERE)
        assert flow is not None
        return flow


def from_there(kind: int, number: bytes, payload: bytes = b"") -> bytes:
    return piece(kind, THERE, number, payload)


def accepted(side: Side, number: bytes = b"01234567") -> Flow:
    flow = side.streams.take(from_there(OPEN, number))
    assert flow is not None
    return flow


def test_nothing_is_said_until_something_is_written_but_the_opening():
    side = Side()
    flow = side.open()
    flow.write(b"hello")
    flow.write(b" there")
    opened, data = side.messages()
    assert opened == piece(OPEN, THERE, flow.number)
    assert data == piece(DATA, THERE, flow.number, b"hello there")
    assert side.messages() == []


def test_what_gathers_shares_pieces_and_a_piece_is_never_too_large():
    side = Side()
    flow = side.open()
    for _ in range(1000):
        flow.write(b"x" * 200)
    sizes = [len(message) - HEADER for message in side.messages()[1:]]
    assert sizes == [PIECE_MAX, PIECE_MAX, PIECE_MAX, 200_000 - 3 * PIECE_MAX]


def test_streams_take_turns():
    side = Side()
    flows = [side.open(), side.open()]
    for flow in flows:
        flow.write(b"x" * 3 * PIECE_MAX)
    said = [message[33:HEADER] for message in side.messages() if message[0] == DATA]
    assert said == [flow.number for _ in range(3) for flow in flows]


def test_no_more_is_sent_than_was_granted_and_a_grant_sends_the_rest():
    side = Side()
    flow = side.open()
    flow.write(b"x" * (CREDIT + 10))
    assert sum(len(message) - HEADER for message in side.messages()) == CREDIT
    assert flow.waiting == 10
    assert side.streams.take(from_there(CREDIT_MORE, flow.number, (5).to_bytes(4, "big"))) is None
    assert [len(message) - HEADER for message in side.messages()] == [5]
    side.streams.take(from_there(CREDIT_MORE, flow.number, (2**32 - 1).to_bytes(4, "big")))
    flow.write(b"x" * 2 * CREDIT)
    assert sum(len(message) - HEADER for message in side.messages()) == CREDIT  # whatever somebody grants


def test_credit_is_given_back_as_the_reader_consumes():
    side = Side()
    flow = accepted(side)
    flow.unread_max = CREDIT
    for _ in range(8):
        side.streams.take(from_there(DATA, flow.number, b"x" * PIECE_MAX))
    assert side.messages() == []
    assert len(flow.read(CREDIT)) == CREDIT
    [credit] = side.messages()
    assert credit == piece(CREDIT_MORE, THERE, flow.number, CREDIT.to_bytes(4, "big"))


def test_who_sends_beyond_the_credit_is_cut_off_and_what_came_before_can_be_read():
    side = Side()
    flow = accepted(side)
    flow.unread_max = CREDIT
    for _ in range(8):
        side.streams.take(from_there(DATA, flow.number, b"x" * PIECE_MAX))
    side.streams.take(from_there(DATA, flow.number, b"y"))
    assert flow.end is End.OVERRUN
    assert side.kinds() == [CLOSE]
    assert bytes(flow.read(2 * CREDIT)) == b"x" * CREDIT
    assert side.messages() == []


def test_a_hub_that_has_not_proved_itself_may_not_send_ahead():
    side = Side()
    flow = accepted(side)
    side.streams.take(from_there(DATA, flow.number, b"x" * STRANGER_MAX))
    assert flow.end is None
    side.streams.take(from_there(DATA, flow.number, b"x"))
    assert flow.end is End.OVERRUN


def test_a_close_comes_after_what_was_written_and_a_drop_before():
    side = Side()
    flow, other, unheard = side.open(), side.open(), side.open()
    for each in (flow, other):
        each.write(b"last words")
    side.streams.next(), side.streams.next(), side.streams.next()
    unheard = side.open()
    unheard.drop()
    flow.close()
    other.drop()
    rest = {(message[0], message[33:HEADER]) for message in side.messages()}
    assert (DATA, flow.number) in rest
    assert (CLOSE, flow.number) in rest
    assert (CLOSE, other.number) in rest
    assert (DATA, other.number) not in rest
    assert not {each for each in rest if each[1] == unheard.number}
    assert (flow.end, other.end, unheard.end) == (End.DONE, End.DONE, End.DONE)


def test_what_came_before_a_close_is_read_first():
    side = Side()
    flow = accepted(side)
    side.streams.take(from_there(DATA, flow.number, b"last words"))
    side.streams.take(from_there(CLOSE, flow.number))
    assert flow.end is End.CLOSED
    assert flow.read(4) == b"last"
    assert flow.read(100) == b" words"
    flow.write(b"nobody hears this")
    flow.close()
    assert side.messages() == []


def test_pieces_of_a_stream_that_is_not_known_are_dropped_without_an_answer():
    side = Side()
    for kind, payload in ((DATA, b"x"), (CREDIT_MORE, b"1234"), (CLOSE, b"")):
        assert side.streams.take(from_there(kind, b"unknown!", payload)) is None
    flow = side.open()
    side.messages()
    assert side.streams.take(piece(DATA, HERE, flow.number, b"x")) is None  # another hub, the same number
    assert flow.unread == 0
    assert side.messages() == []


def test_a_number_that_is_open_is_not_opened_again():
    side = Side()
    flow = accepted(side)
    side.streams.take(from_there(DATA, flow.number, b"x"))
    assert side.streams.take(from_there(OPEN, flow.number)) is None
    assert flow.unread == 1


def test_only_so_many_streams_with_one_hub_and_refusals_do_not_pile_up():
    side = Side()
    for number in range(STREAMS_MAX):
        accepted(side, number.to_bytes(8, "big"))
    assert side.streams.open(THERE) is None
    for number in range(100, 100 + 2 * REFUSALS_MAX):
        assert side.streams.take(from_there(OPEN, number.to_bytes(8, "big"))) is None
    assert side.kinds() == [CLOSE] * REFUSALS_MAX
    assert side.streams.open(HERE) is not None


@pytest.mark.parametrize("why", [End.LEFT, End.NO_SUCH_HUB, End.CONGESTED, End.LOST])
def test_what_the_server_says_ends_streams_with_the_reason(why: End):
    side = Side()
    flow, other = side.open(), side.streams.open(HERE)
    assert other is not None
    changes: list[End | None] = []
    flow.changed = lambda: changes.append(flow.end)
    match why:
        case End.LEFT:
            side.streams.left(THERE)
        case End.NO_SUCH_HUB:
            side.streams.no_such_hub(THERE, flow.number)
        case End.CONGESTED:
            side.streams.congested(THERE, flow.number)
        case _:
            side.streams.lost()
    assert flow.end is why
    assert changes == [why]
    assert (other.end is None) == (why is not End.LOST)
    flow.write(b"x")
    flow.drop()
    assert OPEN not in [message[0] for message in side.messages() if message[1:33] == THERE]
    assert (side.streams.open(HERE) is None) == (why is End.LOST)


def test_the_third_reset_in_a_minute_makes_us_back_off():
    side = Side()
    for _ in range(3):
        assert side.streams.backs_off_s(THERE) == 0
        side.streams.congested(THERE, side.open().number)
        side.now += 10
    assert side.streams.backs_off_s(THERE) == BACK_OFF_S - 10
    assert side.streams.backs_off_s(HERE) == 0
    side.now += BACK_OFF_S
    assert side.streams.backs_off_s(THERE) == 0
    side.now += RESETS_S
    side.streams.congested(THERE, side.open().number)
    assert side.streams.backs_off_s(THERE) == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes):
    side = Side()
    with contextlib.suppress(WireError):
        side.streams.take(data)
    assert len(side.streams) <= 1


# --- two hubs with a relay in between -------------------------------------------------------------------

Step = tuple[str, int, int]
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "send", "arrive", "close"]),
        st.integers(0, 3),
        st.sampled_from([1, 200, 5_000, 70_000, 300_000]),
    ),
    max_size=120,
)


class Ends:
    """Two sides, messages on their way, and what was written and read of each stream."""

    def __init__(self) -> None:
        self.sides = [Side(), Side()]
        self.ways: list[deque[bytes]] = [deque(), deque()]
        self.flows: dict[bytes, list[Flow | None]] = {}
        self.written: dict[tuple[bytes, int], bytearray] = {}
        self.read: dict[tuple[bytes, int], bytearray] = {}
        self.on_the_way: dict[tuple[bytes, int], int] = {}
        """Data that is neither at its reader nor at its writer."""
        for _ in range(2):
            flow = self.sides[0].open()
            self.flows[flow.number] = [flow, None]

    def step(self, what: str, which: int, size: int) -> None:
        number, end = list(self.flows)[which % 2], which // 2
        flow = self.flows[number][end]
        if what == "send" and (message := self.sides[end].streams.next()) is not None:
            self._sent(message, end)
            self.ways[end].append(message)
        elif what == "arrive" and self.ways[end]:
            self._arrived(self.ways[end].popleft(), 1 - end)
        elif flow is None:
            return
        elif what == "write" and flow.end is None and not flow._closing:
            data = hashlib.shake_128(f"{which}{len(self.written)}".encode()).digest(size)
            flow.write(data)
            self.written.setdefault((number, end), bytearray()).extend(data)
        elif what == "read":
            self.read.setdefault((number, end), bytearray()).extend(flow.read(size))
        elif what == "close" and size == 1:
            flow.close()

    def _sent(self, message: bytes, end: int) -> None:
        assert len(message) <= HEADER + PIECE_MAX
        if message[0] == DATA:
            number = message[33:HEADER]
            key = number, end
            self.on_the_way[key] = self.on_the_way.get(key, 0) + len(message) - HEADER
            there = self.flows[number][1 - end]
            unread = 0 if there is None else there.unread
            assert self.on_the_way[key] + unread <= CREDIT, "more is on its way than the credit"

    def _arrived(self, message: bytes, end: int) -> None:
        came = relay_wire.take_apart(message)
        if came.kind == DATA:
            self.on_the_way[came.stream, 1 - end] -= len(came.payload)
        flow = self.sides[end].streams.take(message)
        if flow is not None:
            flow.unread_max = CREDIT
            self.flows[flow.number][end] = flow

    def finish(self) -> None:
        for _ in range(10_000):
            before = [len(way) for way in self.ways], {key: len(data) for key, data in self.read.items()}
            for end in (0, 1):
                for which in (0, 1):
                    self.step("send", which + 2 * end, 1)
                    self.step("arrive", which + 2 * end, 1)
                    self.step("read", which + 2 * end, 10_000_000)
            idle = not any(side.streams._ready for side in self.sides) and not any(self.ways)
            if idle and before[1] == {key: len(data) for key, data in self.read.items()}:
                return
        raise AssertionError("it does not come to rest")


@settings(max_examples=150, deadline=None)
@given(steps)
def test_in_any_interleaving_bytes_arrive_once_and_in_order(steps: list[Step]):
    ends = Ends()
    for step in steps:
        ends.step(*step)
    # All sides address each other as THERE: the relay in between has nothing to do.
    ends.finish()
    for (number, end), written in ends.written.items():
        there = ends.flows[number][1 - end]
        read = bytes(ends.read.get((number, 1 - end), b""))
        assert bytes(written).startswith(read)
        closed = any(flow is not None and flow.end is not None for flow in ends.flows[number])
        if not closed:
            assert there is not None
            assert read == written
            here = ends.flows[number][end]
            assert here is not None
            assert here.waiting == 0
