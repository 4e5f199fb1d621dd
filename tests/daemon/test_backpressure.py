"""Nobody who does not read, or says too much at once, costs the others more than a bounded amount."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ecorelay import wire
from ecorelay.core.actions import Action, Push, Reply
from ecorelay.core.events import Event, SessionFrame
from ecorelay.daemon import lines, outqueue
from ecorelay.daemon.lines import LONG_LINES, Lines, long_line_places
from ecorelay.daemon.outqueue import OUT_MAX, OUT_PAUSE, SPARE_MAX, OutQueue
from ecorelay.daemon.perform import INPUT_MAX
from ecorelay.daemon.reasons import Ended, Reason
from tests.daemon.house import Client, House, ScriptedCore, hello, op_id, unix_pair

CHUNK = 128 * 1024


def push(size: int = CHUNK) -> wire.Push:
    return wire.Push(msg_id="m", kind="message", sender="bob", text="x" * size, ts=1)


def room(number: int = 1) -> wire.Rooms:
    return wire.Rooms(req_id=number)


@pytest.fixture
def house(house: House) -> House:
    house.pair = unix_pair
    return house


# --- who does not read -------------------------------------------------------------------------------


@pytest.mark.guarantee("stalled-reader-bounded")
async def test_a_session_that_does_not_read_is_closed_when_its_queue_is_full_and_slows_nobody(
    house: House, core: ScriptedCore
):
    def script(event: Event) -> list[Action]:
        return [Push((1, 2), push())] if isinstance(event, SessionFrame) else []

    core.script = script
    stalled, reader, speaker = await house.opened(), await house.opened(), await house.opened()
    most = 0
    for _ in range(OUT_MAX // CHUNK + 2):
        await speaker.send(room())
        assert (await reader.receive()).msg_id == "m"
        most = max(most, *[out.size for out in house.shell.sessions.values()])  # type: ignore[attr-defined]
    assert most <= OUT_MAX
    await wait_all_tasks_blocked()
    assert core.closed == [(1, Reason.SLOW_READER)]
    await stalled.close()


async def test_a_session_is_not_read_while_its_own_answers_wait(house: House, core: ScriptedCore):
    core.script = lambda event: [Reply(1, push())] if isinstance(event, SessionFrame) else []
    client = await house.opened()
    asked = 4 * OUT_PAUSE // CHUNK

    async def ask() -> None:
        for number in range(asked):
            await client.send(room(number))
            await wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked(0.05)
        # A few that shared a read with the one too many are handled too.
        assert OUT_PAUSE // CHUNK <= len(core.frames) < asked // 2
        assert house.shell.sessions[1].size < 2 * OUT_PAUSE  # type: ignore[attr-defined]
        for _ in range(asked):
            await client.receive()
    assert len(core.frames) == asked


async def test_nothing_is_read_while_too_much_waits_for_the_store(house: House, core: ScriptedCore):
    client = await house.opened()
    house.store.backlog_bytes = INPUT_MAX + 1
    # The read that was under way is still handled; the next waits.
    await client.send(room(1))
    await wait_all_tasks_blocked()
    await client.send(room(2))
    await wait_all_tasks_blocked()
    assert core.frames == [room(1)]
    house.shell.deliver(())
    await wait_all_tasks_blocked()
    assert core.frames == [room(1)]
    house.store.backlog_bytes = INPUT_MAX
    house.shell.deliver(())
    await wait_all_tasks_blocked()
    assert core.frames == [room(1), room(2)]


async def test_what_the_other_side_wrote_before_it_stopped_to_read_is_still_handled(
    house: House, core: ScriptedCore
):
    client = await house.opened()
    house.store.backlog_bytes = INPUT_MAX + 1
    await client.send(room(1))
    await wait_all_tasks_blocked()
    await client.send(room(2))
    await client.close()
    # Sending fails now, and reading has not begun.
    house.shell.send(house.shell.sessions[1], b"{}\n")
    house.shell.flush()
    house.store.backlog_bytes = 0
    house.shell.deliver(())
    while not core.closed:
        await wait_all_tasks_blocked()
    assert core.frames == [room(1), room(2)]


# --- the queue ---------------------------------------------------------------------------------------------


class Ends:
    """Notes why a queue wanted its connection to end."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)


async def test_what_is_queued_leaves_at_once_and_without_a_task(nursery: trio.Nursery):
    ours, theirs = unix_pair()
    async with ours, theirs:
        out = OutQueue(ours, nursery, Ends())
        out.put(b"one\n")
        out.put(b"two\n")
        assert out.size == 8
        out.flush()
        assert out.size == 0
        assert len(nursery.child_tasks) == 0
        assert await theirs.receive_some() == b"one\ntwo\n"


async def test_what_the_socket_does_not_take_follows_in_order(nursery: trio.Nursery):
    ours, theirs = unix_pair()
    async with ours, theirs:
        out = OutQueue(ours, nursery, Ends())
        expected = bytearray()
        for number in range(200):
            data = b"%d " % number * 1000 + b"\n"
            expected += data
            out.put(data)
            if number % 3 == 0:
                out.flush()
        out.flush()
        assert 0 < out.size < len(expected)
        received = bytearray()
        while len(received) < len(expected):
            received += await theirs.receive_some()
        assert received == expected
        await out.wait_below(0)
        out.put(b"again\n")
        out.flush()
        assert await theirs.receive_some() == b"again\n"


async def test_a_stream_that_can_only_wait_gets_everything_too(nursery: trio.Nursery):
    ours, theirs = trio.testing.lockstep_stream_pair()
    out = OutQueue(ours, nursery, Ends())
    for number in range(10):
        out.put(b"%d\n" % number)
        out.flush()
    received = bytearray()
    while len(received) < 20:
        received += await theirs.receive_some()
    assert received == b"".join(b"%d\n" % number for number in range(10))


def excuse(count: int) -> bytes:
    return b"%d missed\n" % count


@pytest.mark.parametrize("pair", [unix_pair, trio.testing.lockstep_stream_pair])
async def test_what_can_be_spared_is_left_out_while_too_much_waits_and_that_is_said_in_its_place(
    nursery: trio.Nursery, pair
):
    ours, theirs = pair()
    async with ours, theirs:
        ends = Ends()
        out = OutQueue(ours, nursery, ends)
        line = b"x" * 9_999 + b"\n"
        taken = 0
        while out.offer(line, excuse):
            taken += 1
            out.flush()
        assert out.size <= SPARE_MAX + len(line)
        for _ in range(2):
            assert not out.offer(line, excuse)
        out.put(b"an answer\n")
        received = bytearray()
        while not received.endswith(b"missed\n"):
            received += await theirs.receive_some(1000)
        assert received == line * taken + b"an answer\n" + b"3 missed\n"
        assert out.offer(b"and on\n", excuse)
        out.flush()
        assert await theirs.receive_some() == b"and on\n"
        assert ends.reasons == []


async def test_what_is_left_out_of_one_burst_is_told_of_even_to_a_quick_reader(nursery: trio.Nursery):
    ours, _ = trio.testing.memory_stream_pair()
    out = OutQueue(ours, nursery, Ends())
    taken = bytearray()

    def take(data: bytes | memoryview) -> int:
        taken.extend(data)
        return len(data)

    out._send_now = take
    line = b"x" * 99_999 + b"\n"
    offered = [out.offer(line, excuse) for _ in range(9)]
    assert offered == [True] * 6 + [False] * 3
    out.flush()
    assert taken == line * 6 + b"3 missed\n"
    assert out.size == 0


async def test_nobody_is_told_of_what_was_left_out_for_a_connection_that_broke(nursery: trio.Nursery):
    ours, theirs = unix_pair()
    ends = Ends()
    out = OutQueue(ours, nursery, ends)
    while out.offer(b"x" * 9_999 + b"\n", excuse):
        out.flush()
    await theirs.aclose()
    await wait_all_tasks_blocked()
    assert (ends.reasons, out.size) == ([Reason.BROKEN], 0)
    out.offer(b"dropped", excuse)
    out.flush()
    assert out.size == 0
    await ours.aclose()


async def test_a_watching_observer_that_does_not_read_stays_misses_some_and_hears_how_much(
    lived_in: House, monkeypatch: pytest.MonkeyPatch
):
    house = lived_in
    house.pair = unix_pair
    monkeypatch.setattr(outqueue, "SPARE_MAX", 100_000)
    observer = house.connect()
    await observer.send(hello(role="observer"), wire.Watch(req_id=1, texts=True))
    assert isinstance(await observer.receive(), wire.Welcome)
    assert isinstance(await observer.receive(), wire.Done)
    alice = await house.enter()
    bob = await house.enter("bob")
    sent = 400
    for number in range(sent):
        frame = wire.Send(req_id=number, op_id=op_id(number + 1), to="alice", text=f"{number} " + "x" * 600)
        assert isinstance(await bob.request(frame), wire.Sent)
        most = max(out.size for out in house.shell.sessions.values())  # type: ignore[attr-defined]
        assert most <= 101_000
    stored, missed = 0, 0
    with trio.fail_after(30):
        while not missed:
            frame = await observer.receive()
            match frame.what:
                case "stored":
                    stored += 1
                case "missed":
                    missed = frame.count
    assert stored + missed == sent
    assert 100 < stored < 300
    assert house.shell.tally.counts == {"activity_missed": missed}
    await alice.request(wire.Rename(req_id=1, op_id=op_id(9_000), new_name="zoe"))
    assert (await observer.receive()).what == "renamed"


async def test_a_queue_over_its_bound_is_dropped_and_ends_its_connection(nursery: trio.Nursery):
    ours, _theirs = trio.testing.lockstep_stream_pair()
    ends = Ends()
    out = OutQueue(ours, nursery, ends)
    out.put(b"x" * OUT_MAX)
    assert ends.reasons == []
    out.put(b"x")
    assert ends.reasons == [Reason.SLOW_READER]
    assert out.size == 0
    out.put(b"x" * OUT_MAX)
    out.flush()
    assert out.size == 0
    await out.wait_below(0)


@pytest.mark.parametrize("pair", [unix_pair, trio.testing.memory_stream_pair])
async def test_a_queue_to_nobody_says_so_once_and_drops_the_rest(nursery: trio.Nursery, pair):
    ours, theirs = pair()
    await theirs.aclose()
    ends = Ends()
    out = OutQueue(ours, nursery, ends)
    async with ours:
        for _ in range(3):
            out.put(b"x")
            out.flush()
            await wait_all_tasks_blocked()
    assert ends.reasons == [Reason.BROKEN]
    assert out.size == 0


async def test_large_and_small_parts_are_joined_up_to_a_size(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outqueue, "SEND_SIZE", 10)
    ours, _theirs = trio.testing.memory_stream_pair()
    sent: list[bytes] = []
    send_all = ours.send_all

    async def note(data: bytes) -> None:
        sent.append(bytes(data))
        await send_all(data)

    monkeypatch.setattr(ours, "send_all", note)
    out = OutQueue(ours, nursery, Ends())
    for data in (b"aaaa", b"bbbb", b"cccc", b"d" * 20, b"e", b"f"):
        out.put(data)
    out.flush()
    await out.wait_below(0)
    assert sent == [b"aaaabbbb", b"cccc", b"d" * 20, b"ef"]


# --- long lines -------------------------------------------------------------------------------------------


@pytest.mark.guarantee("queues-bounded")
async def test_unfinished_long_lines_are_few_at_a_time(house: House, core: ScriptedCore):
    clients = [await house.opened() for _ in range(LONG_LINES + 3)]
    line = wire.encode(wire.Send(req_id=1, op_id="0" * 26, to="bob", text="x" * 300_000))
    go_on = trio.Event()

    async def say(client: Client) -> None:
        await client.send_bytes(line[:-1])
        await go_on.wait()
        await client.send_bytes(line[-1:])

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(say, client)
        await wait_all_tasks_blocked(0.05)
        assert house.sessions.places.borrowed_tokens == LONG_LINES
        assert house.sessions.places.statistics().tasks_waiting == 3
        # Who is done makes room: all get through in the end.
        go_on.set()
    await wait_all_tasks_blocked()
    assert len(core.frames) == len(clients)
    assert house.sessions.places.borrowed_tokens == 0


async def test_a_long_line_that_does_not_go_on_loses_its_place(autojump_clock: MockClock):
    places = long_line_places()
    ours, theirs = trio.testing.memory_stream_pair()
    reader = Lines(ours, places)
    reader.allow(wire.LINE_MAX)
    await theirs.send_all(b"x" * (lines.LONG_LINE + 1))
    await trio.sleep(1)
    with pytest.raises(Ended) as ended, trio.fail_after(2 * lines.LINE_S):
        await reader.next()
    assert ended.value.reason == Reason.STALLED
    assert places.borrowed_tokens == 1
    reader.close()
    assert places.borrowed_tokens == 0


async def test_a_connection_that_ends_in_the_middle_of_a_long_line_gives_its_place_back(house: House):
    client = house.connect()
    await client.send(hello())
    with trio.move_on_after(0.2):
        await client.send_bytes(b"x" * 200_000)
    await wait_all_tasks_blocked()
    assert house.sessions.places.borrowed_tokens == 1
    await client.close()
    await wait_all_tasks_blocked()
    assert house.sessions.places.borrowed_tokens == 0
