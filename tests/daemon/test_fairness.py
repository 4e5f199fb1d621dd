"""Who says much at once waits for its turn, and nobody waits for ever for who stops in the middle."""

from __future__ import annotations

from itertools import groupby

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ecorelay import wire
from ecorelay.core.actions import Action, Store
from ecorelay.core.events import Event, SessionFrame, Stored, Tick
from ecorelay.core.ops import WriteBackup
from ecorelay.daemon.connection import (
    BAD_LINE_S,
    BAD_LINES_MAX,
    IN_STORE_BYTES,
    IN_STORE_UNITS,
    SLICE_FRAMES,
)
from ecorelay.daemon.lines import LINE_S, LONG_LINE, LONG_LINES
from ecorelay.daemon.sessions import READS_MAX
from tests.daemon.house import House, ScriptedCore, hello, op_id

PONG = wire.encode(wire.Pong())


def stores(event: Event) -> list[Action]:
    """Everything a session says leads to a unit in the store."""
    return [Store((), None)] if isinstance(event, SessionFrame) else []


def said_by(core: ScriptedCore) -> list[int]:
    return [event.sid for event in core.events if isinstance(event, SessionFrame)]


# --- turns -----------------------------------------------------------------------------------------------


async def test_a_neighbour_is_heard_between_the_slices_of_a_flood(house: House, core: ScriptedCore):
    flood, neighbour = await house.opened(), await house.opened()
    await flood.send(*[wire.Rooms(req_id=number) for number in range(1_000)])
    await neighbour.send(wire.Rooms(req_id=1))
    await wait_all_tasks_blocked()
    said = said_by(core)
    assert len(said) == 1_001
    assert said.index(2) <= 4 * SLICE_FRAMES
    # Each session is still heard in its order.
    flooded = [event.frame for event in core.events if isinstance(event, SessionFrame) and event.sid == 1]
    assert flooded == [wire.Rooms(req_id=number) for number in range(1_000)]


async def test_several_floods_take_turns(house: House, core: ScriptedCore):
    floods = [await house.opened() for _ in range(3)]
    for flood in floods:
        await flood.send(*[wire.Rooms(req_id=number) for number in range(500)])
    await wait_all_tasks_blocked()
    said = said_by(core)
    assert sorted(said) == [1] * 500 + [2] * 500 + [3] * 500
    all_begun = max(said.index(sid) for sid in (1, 2, 3))
    one_done = min(len(said) - said[::-1].index(sid) for sid in (1, 2, 3))
    turns = [len(list(turn)) for _, turn in groupby(said[all_begun:one_done])]
    assert len(turns) >= 3
    assert max(turns) <= 2 * SLICE_FRAMES


async def test_what_stands_behind_a_bye_is_not_handled(house: House, core: ScriptedCore):
    client = await house.opened()
    await client.send(wire.Rooms(req_id=1), wire.Bye(reason="done"), wire.Rooms(req_id=2))
    assert await client.receive_all() == []
    assert core.frames == [wire.Rooms(req_id=1), wire.Bye(reason="done")]
    assert core.closed == [(1, "bye")]


# --- garbage ---------------------------------------------------------------------------------------------


async def test_who_sends_garbage_is_not_read_for_a_while(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    client = await house.opened()
    await client.send_bytes(b"nonsense\n" * (BAD_LINES_MAX - 1))
    await wait_all_tasks_blocked()
    await client.send(wire.Rooms(req_id=1))
    await wait_all_tasks_blocked()
    assert core.frames == []
    await trio.sleep((BAD_LINES_MAX - 1) * BAD_LINE_S)
    await wait_all_tasks_blocked()
    assert core.frames == [wire.Rooms(req_id=1)]


@pytest.mark.parametrize(("bad", "good", "ends"), [(50, 1, True), (2, 1, True), (1, 1, False), (1, 5, False)])
async def test_a_frame_takes_back_one_line_of_garbage(
    house: House, core: ScriptedCore, autojump_clock: MockClock, bad: int, good: int, ends: bool
):
    client = await house.opened()
    await client.send_bytes((b"nonsense\n" * bad + PONG * good) * (2 * BAD_LINES_MAX))
    await trio.sleep(1)
    await wait_all_tasks_blocked()
    assert core.closed == ([(1, "garbage")] if ends else [])


# --- the store -------------------------------------------------------------------------------------------


@pytest.mark.guarantee("queues-bounded")
async def test_one_session_has_a_bounded_number_of_units_in_the_store(house: House, core: ScriptedCore):
    core.script = stores
    house.store.held = True
    eager, other = await house.opened(), await house.opened()
    await eager.send(*[wire.Rooms(req_id=number) for number in range(3 * IN_STORE_UNITS)])
    await wait_all_tasks_blocked()
    assert IN_STORE_UNITS < said_by(core).count(1) <= IN_STORE_UNITS + SLICE_FRAMES
    # That is its own affair.
    await other.send(wire.Rooms(req_id=1))
    await wait_all_tasks_blocked()
    assert said_by(core)[-1] == 2
    house.store.held = False
    house.store.commit_all()
    await wait_all_tasks_blocked()
    assert said_by(core).count(1) == 3 * IN_STORE_UNITS


async def test_one_session_has_a_bounded_number_of_bytes_in_the_store(house: House, core: ScriptedCore):
    core.script = stores
    house.store.held = True
    eager = await house.opened()
    size = IN_STORE_BYTES // 8
    for number in range(20):
        await eager.send(wire.Send(req_id=number, op_id=op_id(number), to="bob", text="x" * size))
    await wait_all_tasks_blocked()
    assert len(core.frames) == 8
    house.store.held = False
    house.store.commit_all()
    await wait_all_tasks_blocked()
    assert len(core.frames) == 20


@pytest.mark.guarantee("queues-bounded")
async def test_few_pages_are_made_at_once_whoever_asks(house: House, core: ScriptedCore):
    core.script = stores
    house.store.held = True
    readers = [await house.opened() for _ in range(READS_MAX)]
    for reader in readers:
        await reader.send(*[wire.Inbox(req_id=number) for number in range(5)])
    await wait_all_tasks_blocked()
    assert len(core.frames) == READS_MAX
    # Who asks for something else is served meanwhile.
    other = await house.opened()
    await other.send(wire.Rooms(req_id=1))
    await wait_all_tasks_blocked()
    assert len(core.frames) == READS_MAX + 1
    house.store.held = False
    house.store.commit_all()
    await wait_all_tasks_blocked()
    assert len(core.frames) == 5 * READS_MAX + 1


async def test_a_reader_that_goes_while_it_waits_for_its_turn_is_in_nobodys_way(
    house: House, core: ScriptedCore
):
    core.script = stores
    house.store.held = True
    for _ in range(2 * READS_MAX):
        reader = await house.opened()
        await reader.send(wire.Inbox(req_id=1))
    await wait_all_tasks_blocked()
    for client in house.clients[READS_MAX + 1 :]:
        await client.close()
    house.store.held = False
    house.store.commit_all()
    await wait_all_tasks_blocked()
    assert len(core.frames) == 2 * READS_MAX


async def test_nobody_waits_behind_a_copy_of_the_database(
    house: House, core: ScriptedCore, monkeypatch: pytest.MonkeyPatch
):
    submit = house.store.submit
    monkeypatch.setattr(
        house.store, "submit", lambda unit, then: None if then == "copy" else submit(unit, then)
    )
    core.script = lambda event: [Store((WriteBackup(path="/copy"),), "copy")]
    house.shell.feed((Tick(),))
    core.script = stores
    house.store.held = True
    eager, reader = await house.opened(), await house.opened()
    await eager.send(*[wire.Rooms(req_id=number) for number in range(3 * IN_STORE_UNITS)])
    await reader.send(*[wire.Inbox(req_id=number) for number in range(3 * READS_MAX)])
    await wait_all_tasks_blocked()
    house.store.held = False
    house.store.commit_all()
    await wait_all_tasks_blocked()
    assert said_by(core).count(1) == 3 * IN_STORE_UNITS
    assert said_by(core).count(2) == 3 * READS_MAX
    assert house.shell.outstanding == 1
    house.shell.deliver((Stored("copy", ()),))
    await house.shell.settled()
    assert house.shell.ahead == 0


# --- half a line -----------------------------------------------------------------------------------------


async def test_half_a_line_is_waited_for_only_so_long(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    client, calm = await house.opened(), await house.opened()
    began = trio.current_time()
    await client.send_bytes(PONG + b'{"type":')
    assert await client.receive() is None
    assert trio.current_time() - began == pytest.approx(LINE_S, abs=0.1)
    assert core.closed == [(1, "stalled")]
    # Silence between two lines is no crime.
    await trio.sleep(10 * LINE_S)
    await calm.send(wire.Rooms(req_id=1))
    await wait_all_tasks_blocked()
    assert core.closed == [(1, "stalled")]


@pytest.mark.parametrize("size", [10, LONG_LINE + 10])
async def test_a_byte_now_and_then_does_not_extend_the_time(
    house: House, core: ScriptedCore, autojump_clock: MockClock, size: int
):
    client = await house.opened()
    began = trio.current_time()
    await client.send_bytes(b"x" * size)
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await trio.sleep(LINE_S / 10)
            await client.send_bytes(b"x")
    assert trio.current_time() - began <= 1.5 * LINE_S
    assert core.closed == [(1, "stalled")]


async def test_who_waits_for_the_place_of_a_stalled_long_line_gets_it(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    for _ in range(LONG_LINES):
        await (await house.opened()).send_bytes(b"x" * (LONG_LINE + 10))
    await wait_all_tasks_blocked()
    patient = await house.opened()
    line = wire.encode(wire.Send(req_id=1, op_id=op_id(1), to="bob", text="x" * 2 * LONG_LINE))
    await patient.send_bytes(line[: LONG_LINE + 1])
    await trio.sleep(1)
    await patient.send_bytes(line[LONG_LINE + 1 :])
    await wait_all_tasks_blocked()
    assert core.frames == []
    await trio.sleep(LINE_S)
    assert len(core.frames) == 1
    assert [reason for _, reason in core.closed] == ["stalled"] * LONG_LINES


async def test_many_lines_in_pieces_are_each_given_their_time(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    client = house.connect()
    await client.send(hello())
    line = wire.encode(wire.Rooms(req_id=1))
    await client.send_bytes(line[:5])
    for _ in range(10):
        await trio.sleep(LINE_S / 2)
        await client.send_bytes(line[5:] + line[:5])
    await wait_all_tasks_blocked()
    assert len(core.frames) == 10
    assert core.closed == []
