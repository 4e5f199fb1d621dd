"""A connection from its first byte to its last, over streams in memory."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from ecorelay import wire
from ecorelay.core.actions import Action, CloseSession, Reply
from ecorelay.core.events import Event, SessionFrame
from ecorelay.daemon import connection, sessions
from ecorelay.daemon.greet import HELLO_S
from ecorelay.limits import Limits
from tests.daemon.house import House, ScriptedCore, hello, op_id, tcp_pair, unix_pair


def echo(event: Event) -> list[Action]:
    """Answers every request with `done`."""
    if isinstance(event, SessionFrame) and isinstance(event.frame, wire.Request):
        return [Reply(event.sid, wire.Done(req_id=event.frame.req_id))]
    return []


@pytest.fixture(params=["memory", "unix", "tcp"])
def house(request: pytest.FixtureRequest, house: House) -> House:
    match request.param:
        case "unix":
            house.pair = unix_pair
        case "tcp":
            house.pair = tcp_pair
    return house


# --- hello -------------------------------------------------------------------------------------------


@pytest.mark.guarantee("hello-in-5s")
async def test_a_connection_that_says_nothing_is_closed_after_five_seconds(
    house: House, autojump_clock: MockClock
):
    client = house.connect()
    began = trio.current_time()
    assert await client.receive() is None
    assert trio.current_time() - began == pytest.approx(HELLO_S, abs=0.1)
    assert await house.counted() == {"closed hello_timeout": 1}


async def test_half_a_hello_and_bytes_that_trickle_in_do_not_extend_the_time(
    house: House, autojump_clock: MockClock
):
    client = house.connect()
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        for byte in wire.encode(hello(cwd="/x" * 1000)):
            await client.send_bytes(bytes([byte]))
            await trio.sleep(0.5)
    assert trio.current_time() - began == pytest.approx(HELLO_S, abs=1.1)


async def test_hello_opens_a_session_and_the_frames_behind_it_follow_in_order(
    house: House, core: ScriptedCore
):
    core.script = echo
    client = house.connect()
    await client.send(hello(pid=17), *[wire.Rooms(req_id=number) for number in range(50)])
    assert [(await client.receive()).req_id for _ in range(50)] == list(range(50))
    (opened,) = core.opened
    assert (opened.sid, opened.pid, opened.hello.name) == (1, 17, "alice")
    assert core.events[0] is opened


async def test_the_word_of_the_kernel_counts_more_than_the_hello(house: House, core: ScriptedCore):
    await house.connect(pid=99).send(hello(pid=17, pid_start=5))
    await house.connect(pid=17).send(hello(pid=17, pid_start=5))
    await house.connect(pid=0).send(hello(pid=17, pid_start=5))
    while len(core.opened) < 3:
        await trio.testing.wait_all_tasks_blocked()
    found = {(opened.pid, opened.hello.pid, opened.hello.pid_start) for opened in core.opened}
    # No process 99 is known to live here: its beginning is unknown.
    assert found == {(99, 99, 0), (17, 17, 5), (0, 17, 5)}


async def test_another_frame_before_hello_is_refused(house: House):
    client = house.connect()
    await client.send(wire.Rooms(req_id=1))
    (refused,) = await client.receive_all()
    assert refused == wire.Refused(
        code="not_registered", message="the first line of a connection must be hello"
    )
    assert await house.counted() == {"closed bad_hello": 1}


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1\r\n", b"\xff\xfe\n", b'{"type":"hello"}\n', b"[" * 5000 + b"\n", b"\0\n"]
)
async def test_garbage_instead_of_hello_is_refused(house: House, line: bytes):
    client = house.connect()
    await client.send_bytes(line)
    (refused,) = await client.receive_all()
    assert refused.code == "bad_msg"
    assert await house.counted() == {"closed bad_hello": 1}


async def test_a_line_over_64_kib_before_hello_ends_the_connection(house: House):
    client = house.connect()
    with trio.fail_after(2):
        with suppress(trio.BrokenResourceError):
            await client.send_bytes(b'{"type":"hello","cwd":"' + b"x" * 70_000)
        answers = await client.receive_all()
    assert [answer.code for answer in answers] in (["bad_msg"], [])
    assert await house.counted() == {"closed bad_hello": 1}


async def test_the_oldest_silent_connection_makes_room_for_a_new_one(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "SILENT_MAX", 3)
    first = house.connect()
    await trio.testing.wait_all_tasks_blocked()
    others = [house.connect() for _ in range(3)]
    with trio.fail_after(1):
        assert await first.receive() is None
        await first.close()
        await trio.testing.wait_all_tasks_blocked()
    assert house.tally.counts == {"closed crowded_out": 1}
    assert house.sessions.silent == 3
    await others[0].send(hello())
    await trio.testing.wait_all_tasks_blocked()
    assert house.sessions.silent == 2


async def test_no_more_sessions_than_the_limit(core: ScriptedCore):
    async with trio.open_nursery() as nursery:
        house = House(nursery, core, limits=Limits(sessions=2))
        first = await house.opened()
        await house.opened()
        third = house.connect()
        await third.send(hello())
        (refused,) = await third.receive_all()
        assert refused.code == "limit_reached"
        assert "limits.sessions" in refused.message
        await first.close()
        await trio.testing.wait_all_tasks_blocked()
        await house.opened()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("versions", "advice"),
    [
        ((0, 0), "upgrade ecorelay 0.0.1, it is the older one"),
        ((2, 9), "upgrade the hub"),
        ((3, 1), "versions must be"),
    ],
)
async def test_without_a_common_version_it_says_which_side_to_upgrade(
    house: House, versions: tuple[int, int], advice: str
):
    client = house.connect()
    await client.send(hello(versions=versions, app_version="0.0.1"))
    (refused,) = await client.receive_all()
    assert refused.code == "protocol_mismatch"
    assert advice in refused.message
    assert await house.counted() == {"closed protocol_mismatch": 1}


@pytest.mark.parametrize("versions", [(0, 1), (1, 1), (1, 9), (0, 9)])
async def test_ranges_that_meet_are_enough(house: House, core: ScriptedCore, versions: tuple[int, int]):
    await house.connect().send(hello(versions=versions))
    while not core.opened:
        await trio.testing.wait_all_tasks_blocked()


# --- lines ---------------------------------------------------------------------------------------------


@pytest.mark.guarantee("no-cut-multibyte")
@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_text_in_any_script_arrives_whole_however_it_is_cut(
    house: House, core: ScriptedCore, size: int
):
    client = await house.opened()
    text = "żółć 漢字 🙂 \u0301 " * 5
    line = wire.encode(wire.Send(req_id=1, op_id=op_id(1), to="bob", text=text))
    for start in range(0, len(line), size):
        await client.send_bytes(line[start : start + size])
        await trio.testing.wait_all_tasks_blocked()
    assert [frame.text for frame in core.frames] == [text]  # type: ignore[attr-defined]


async def test_the_longest_line_is_taken(house: House, core: ScriptedCore):
    client = await house.opened()
    frame = wire.Send(req_id=1, op_id=op_id(1), to="bob", text="")
    frame = wire.Send(
        req_id=1, op_id=op_id(1), to="bob", text="x" * (wire.LINE_MAX + 1 - len(wire.encode(frame)))
    )
    assert len(wire.encode(frame)) == wire.LINE_MAX + 1  # with its newline
    await client.send(frame)
    while not core.frames:
        await trio.testing.wait_all_tasks_blocked()
    assert core.frames == [frame]


@pytest.mark.guarantee("error-names-request")
async def test_a_line_too_long_is_answered_and_ends_only_its_own_connection(house: House, core: ScriptedCore):
    core.script = echo
    other = await house.opened()
    client = await house.opened()
    await client.send(wire.Rooms(req_id=1))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def flood() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await client.send_bytes(b'{"type":"send","req_id":2,"text":"')
                while True:
                    await client.send_bytes(b"x" * 65536)

        frames = await client.receive_all()
    assert frames[0] == wire.Done(req_id=1)
    if len(frames) > 1:  # over TCP what was sent last may be lost with the flood that nobody reads
        assert (frames[1].req_id, frames[1].code) == (2, "too_large")
        assert (type(frames[2]), frames[2].code) == (wire.Bye, "too_large")
    assert core.closed == [(2, "line_too_long")]
    assert await other.request(wire.Rooms(req_id=1)) == wire.Done(req_id=1)


@pytest.mark.guarantee("hostile-bytes")
async def test_a_line_that_is_no_frame_is_answered_under_its_req_id_and_the_connection_goes_on(
    house: House, core: ScriptedCore
):
    core.script = echo
    client = await house.opened()
    await client.send_bytes(
        b'{"type":"send","req_id":1,"op_id":"' + op_id(1).encode() + b'","to":"bob","text":"\\ud800"}\n'
        b'{"type":"nonsense","req_id":2}\n'
        b'{"req_id":3}\n'
        b"\xff\xff\n" + b"[" * 5000 + b'\n{"type":"rooms","req_id":4}\r\n\n'
    )
    answers: dict[int, str] = {}
    while len(answers) < 4:
        answer = await client.receive()
        answers[answer.req_id] = getattr(answer, "code", "")
    assert answers == {1: "bad_msg", 2: "bad_msg", 3: "bad_msg", 4: ""}
    assert core.frames == [wire.Rooms(req_id=4)]
    assert await house.counted() == {"bad_msg": 5}


async def test_a_hundred_bad_lines_in_a_row_end_the_connection(house: House, core: ScriptedCore):
    core.script = echo
    client = await house.opened()
    await client.send_bytes(b"nonsense\n" * 99)
    assert await client.request(wire.Rooms(req_id=1)) == wire.Done(req_id=1)
    await client.send_bytes(b"nonsense\n" * 101)
    (bye,) = await client.receive_all()
    assert (type(bye), bye.code) == (wire.Bye, "bad_msg")
    assert core.closed == [(1, "garbage")]


async def test_what_came_before_a_bad_end_is_still_handled(house: House, core: ScriptedCore):
    client = await house.opened()
    await client.send_bytes(wire.encode(wire.Rooms(req_id=1)) + b'{"type":"half')
    await client.close()
    while not core.closed:
        await trio.testing.wait_all_tasks_blocked()
    assert core.frames == [wire.Rooms(req_id=1)]
    assert core.closed == [(1, "eof")]


async def test_pipelined_requests_are_answered_in_one_send(house: House, core: ScriptedCore):
    core.script = echo
    house.pair = unix_pair
    client = await house.opened()
    client.reads.clear()
    await client.send(*[wire.Rooms(req_id=number) for number in range(20)])
    await trio.testing.wait_all_tasks_blocked()
    assert (await client.receive()).req_id == 0
    assert client.reads == [20]


# --- the end --------------------------------------------------------------------------------------------


async def test_a_bye_ends_the_connection_and_the_core_hears_both(house: House, core: ScriptedCore):
    client = await house.opened()
    await client.send(wire.Rooms(req_id=1), wire.Bye(reason="done"))
    assert await client.receive_all() == []
    assert core.frames == [wire.Rooms(req_id=1), wire.Bye(reason="done")]
    assert core.closed == [(1, "bye")]
    assert house.shell.sessions == {}


async def test_the_core_closes_a_session_after_its_last_word(house: House, core: ScriptedCore):
    core.script = lambda event: (
        [
            Reply(event.sid, wire.Bye(reason="gone", code="name_taken")),
            CloseSession(event.sid, "taken over"),
        ]
        if isinstance(event, SessionFrame)
        else []
    )
    client = await house.opened()
    await client.send(wire.Rooms(req_id=1))
    assert await client.receive_all() == [wire.Bye(reason="gone", code="name_taken")]
    assert core.closed == [(1, "taken over")]


@pytest.mark.guarantee("crash-closes-one-connection")
async def test_a_bug_while_serving_one_session_closes_that_one_and_no_other(house: House, core: ScriptedCore):
    def script(event: Event) -> list[Action]:
        if isinstance(event, SessionFrame) and event.sid == 2:
            raise ZeroDivisionError
        return echo(event)

    core.script = script
    good, bad = await house.opened(), await house.opened()
    await bad.send(wire.Rooms(req_id=1))
    assert await bad.receive_all() == []
    assert core.closed == [(2, "crash")]
    assert await good.request(wire.Rooms(req_id=1)) == wire.Done(req_id=1)
    assert await house.counted() == {"crash": 1}


async def test_a_bug_in_the_session_code_itself_closes_that_one_and_no_other(
    house: House, core: ScriptedCore, monkeypatch: pytest.MonkeyPatch
):
    core.script = echo
    good, bad = await house.opened(), await house.opened()

    def broken(self: object, batch: object, out: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(connection.Connection, "_take", broken)
        await bad.send(wire.Rooms(req_id=1))
        assert await bad.receive_all() == []
    assert core.closed == [(2, "crash")]
    assert await good.request(wire.Rooms(req_id=1)) == wire.Done(req_id=1)


async def test_when_the_hub_stops_everybody_is_told_and_all_connections_end(house: House, core: ScriptedCore):
    clients = [await house.opened() for _ in range(3)]
    silent = house.connect()
    await trio.testing.wait_all_tasks_blocked()
    house.sessions.closing = True
    await clients[0].send(wire.Rooms(req_id=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.sessions.say_bye, "the hub stops")
        for client in clients:
            assert await client.receive_all() == [wire.Bye(reason="the hub stops")]
            await client.close()
        assert await silent.receive_all() == []
        await silent.close()
    assert core.frames == []
    assert sorted(core.closed) == [(1, "stopped"), (2, "stopped"), (3, "stopped")]


async def test_a_connection_that_comes_while_the_hub_stops_ends_at_once(house: House, core: ScriptedCore):
    house.sessions.closing = True
    late = house.connect()
    await late.send(hello())
    with trio.fail_after(1):
        assert await late.receive_all() == []
    assert await house.counted() == {"closed stopped": 1}
    assert core.opened == []


async def test_a_session_cancelled_from_outside_is_still_reported(core: ScriptedCore):
    async with trio.open_nursery() as nursery:
        house = House(nursery, core)
        await house.opened()
        house.sessions.closing = True
        nursery.cancel_scope.cancel()
    assert core.closed == [(1, "stopped")]
