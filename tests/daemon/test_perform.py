"""The core's actions, done: in order, once each, in one send per session."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ecorelay import link_wire, wire
from ecorelay.core.actions import (
    Action,
    CheckProcess,
    CloseLink,
    CloseSession,
    Describe,
    Push,
    Reload,
    Reply,
    Stop,
    Store,
    ToLink,
)
from ecorelay.core.events import (
    ClockJumped,
    Event,
    Now,
    ProcessChecked,
    SessionFrame,
    Stored,
    StoreFailed,
    Tick,
)
from ecorelay.core.ops import EndLease, FoundOp, Op
from ecorelay.daemon.perform import Facts, Shell
from ecorelay.daemon.reasons import Tally
from ecorelay.errors import RelayError
from tests.daemon.house import WALL, ScriptedCore

OP = EndLease(lease=1)


class Out:
    """A session's outward half that notes each call."""

    def __init__(self, sid: int, log: list[tuple[object, ...]]) -> None:
        self.sid = sid
        self.log = log
        self.dirty = False
        self.full = False

    def offer(self, data: bytes, excuse: Callable[[int], bytes]) -> bool:
        self.log.append(("offer", self.sid, excuse(7) if self.full else data))
        return not self.full

    def put(self, data: bytes) -> None:
        self.log.append(("put", self.sid, data))

    def flush(self) -> None:
        self.log.append(("flush", self.sid))

    def end(self, reason: str) -> None:
        self.log.append(("end", self.sid, reason))


class NotingStore:
    def __init__(self, log: list[tuple[object, ...]]) -> None:
        self.log = log
        self.backlog_bytes = 0
        self.problems = ("the disk is nearly full",)

    def submit(self, unit: tuple[Op, ...], then: object) -> None:
        self.log.append(("store", unit, then))

    def size_bytes(self) -> int:
        return 12345


class Hands:
    """A shell whose every deed goes into `log`."""

    def __init__(self, core: ScriptedCore) -> None:
        self.core = core
        self.log: list[tuple[object, ...]] = []
        self.reading = Now(100.0, WALL)
        self.tally = Tally()
        self.store = NotingStore(self.log)
        self.shell = Shell(
            core=core,
            store=self.store,  # type: ignore[arg-type]
            clock=self,
            facts=Facts(pid=4711, data_dir="/data", durability="power", started=90.0),
            tally=self.tally,
            stop=lambda reason: self.log.append(("stop", reason)),
            rearm=lambda: self.log.append(("rearm",)),
            alive=lambda pid, start: (pid, start) == (7, 70),
        )
        for sid in (1, 2, 3):
            self.shell.sessions[sid] = Out(sid, self.log)

    def now(self) -> Now:
        return self.reading


@pytest.fixture
def hands(core: ScriptedCore) -> Hands:
    return Hands(core)


def answers(*actions: Action) -> object:
    return lambda event: list(actions) if isinstance(event, Tick) else []


def pushed(text: str = "hello") -> wire.Push:
    return wire.Push(msg_id="m", kind="message", sender="bob", text=text, ts=1)


async def test_actions_are_done_in_order_and_each_session_is_flushed_once(hands: Hands, core: ScriptedCore):
    done, ping = wire.Done(req_id=1), wire.Ping()
    core.script = answers(  # type: ignore[assignment]
        Reply(1, done), Store((OP,), "then"), Push((2, 1), pushed()), CloseSession(2, "why"), Reply(1, ping)
    )
    hands.shell.feed((Tick(),))
    line = wire.encode(pushed())
    assert hands.log == [
        ("put", 1, wire.encode(done)),
        ("store", (OP,), "then"),
        ("put", 2, line),
        ("put", 1, line),
        ("end", 2, "why"),
        ("put", 1, wire.encode(ping)),
        ("flush", 1),
        ("flush", 2),
        ("rearm",),
    ]


async def test_a_push_to_many_is_encoded_once(
    hands: Hands, core: ScriptedCore, monkeypatch: pytest.MonkeyPatch
):
    core.script = answers(Push((1, 2, 3), pushed()))  # type: ignore[assignment]
    encoded: list[wire.Frame] = []
    encode = wire.encode

    def note(frame: wire.Frame) -> bytes:
        encoded.append(frame)
        return encode(frame)

    monkeypatch.setattr(wire, "encode", note)
    hands.shell.feed((Tick(),))
    assert encoded == [pushed()]
    assert len({id(entry[2]) for entry in hands.log if entry[0] == "put"}) == 1


async def test_what_is_watched_is_offered_and_what_was_left_out_is_counted_and_dated(
    hands: Hands, core: ScriptedCore
):
    online = wire.Activity(what="online", ts=1, peer="bob")
    core.script = answers(Push((1, 2, 9), online), Push((1,), online))  # type: ignore[assignment]
    hands.shell.sessions[2].full = True  # type: ignore[attr-defined]
    hands.shell.feed((Tick(),))
    line = wire.encode(online)
    assert hands.log == [
        ("offer", 1, line),
        ("offer", 2, wire.encode(wire.Activity(what="missed", ts=WALL, count=7))),
        ("offer", 1, line),
        ("flush", 1),
        ("rearm",),
    ]
    assert hands.tally.counts == {"activity_missed": 1}


async def test_a_batch_of_events_is_handled_in_order_and_flushed_once(hands: Hands, core: ScriptedCore):
    core.script = lambda event: [Reply(event.sid, event.frame)] if isinstance(event, SessionFrame) else []
    frames = [wire.Rooms(req_id=number) for number in range(3)]
    hands.shell.feed([SessionFrame(1, frame) for frame in frames])
    assert hands.log == [
        *[("put", 1, wire.encode(frame)) for frame in frames],
        ("flush", 1),
        ("rearm",),
    ]


async def test_what_happens_while_performing_is_handled_after_it_not_inside(hands: Hands, core: ScriptedCore):
    def script(event: Event) -> list[Action]:
        match event:
            case Tick():
                return [
                    CheckProcess(7, 70, "a"),
                    CheckProcess(7, 71, "b"),
                    Reply(1, wire.Done(req_id=1)),
                ]
            case ProcessChecked():
                return [Reply(1, wire.Done(req_id=2 if event.alive else 3))]
            case _:
                return []

    core.script = script
    hands.shell.feed((Tick(), Tick()))
    assert core.events == [
        Tick(),
        Tick(),
        *[ProcessChecked("a", True), ProcessChecked("b", False)] * 2,
    ]
    ids = [entry[2] for entry in hands.log if entry[0] == "put"]
    assert ids == [wire.encode(wire.Done(req_id=number)) for number in (1, 1, 2, 3, 2, 3)]


async def test_a_long_chain_of_events_does_not_recurse(hands: Hands, core: ScriptedCore):
    left = 10_000

    def script(event: Event) -> list[Action]:
        nonlocal left
        left -= 1
        return [CheckProcess(7, 70, None)] if left else []

    core.script = script
    hands.shell.feed((Tick(),))
    assert len(core.events) == 10_000


async def test_feeding_from_within_an_action_is_taken_up_by_the_same_loop(hands: Hands, core: ScriptedCore):
    def submit(unit: tuple[Op, ...], then: object) -> None:
        hands.shell.feed((Stored(then, ()),))
        assert core.events == [Tick()]

    hands.store.submit = submit  # type: ignore[method-assign]
    core.script = answers(Store((OP,), "then"))  # type: ignore[assignment]
    hands.shell.feed((Tick(),))
    assert core.events == [Tick(), Stored("then", ())]


async def test_what_is_meant_for_a_session_that_is_gone_is_dropped(hands: Hands, core: ScriptedCore):
    details = wire.HubDetails(req_id=1, hub_id="h", version="1", sessions=0)
    core.script = answers(  # type: ignore[assignment]
        Reply(9, wire.Ping()), Push((9, 1), pushed()), CloseSession(9, "why"), Describe(9, details)
    )
    hands.shell.feed((Tick(),))
    assert hands.log == [("put", 1, wire.encode(pushed())), ("flush", 1), ("rearm",)]


async def test_hub_status_is_completed_with_what_only_the_shell_knows(hands: Hands, core: ScriptedCore):
    details = wire.HubDetails(
        req_id=1, hub_id="h", version="1.2.3", sessions=3, peers=2, counters={"crash": 1, "closed eof": 2}
    )
    hands.tally.count("crash")
    hands.tally.count("closed hello_timeout")
    core.script = answers(Describe(1, details))  # type: ignore[assignment]
    hands.shell.feed((Tick(),))
    assert wire.decode_to_session(hands.log[0][2]) == wire.HubDetails(  # type: ignore[arg-type]
        req_id=1,
        hub_id="h",
        version="1.2.3",
        sessions=3,
        peers=2,
        pid=4711,
        uptime_s=10.0,
        durability="power",
        data_dir="/data",
        db_bytes=12345,
        problems=("the disk is nearly full",),
        counters={"crash": 2, "closed eof": 2, "closed hello_timeout": 1},
    )


async def test_stop_is_passed_on(hands: Hands, core: ScriptedCore):
    core.script = answers(Reply(1, wire.Done(req_id=1)), Stop("asked"))  # type: ignore[assignment]
    hands.shell.feed((Tick(),))
    assert ("stop", "asked") in hands.log
    assert ("flush", 1) in hands.log


async def test_a_reload_is_answered_when_it_was_done_and_with_what_was_wrong(
    hands: Hands, core: ScriptedCore
):
    asked: list[Callable[[RelayError | None], object]] = []
    hands.shell.reload = asked.append
    core.script = answers(Reload(1, 5, 3), Reload(1, 6), Reload(99, 7))  # type: ignore[assignment]
    hands.shell.feed((Tick(),))
    assert [entry for entry in hands.log if entry[0] == "put"] == []
    ended, wrong, gone = asked
    ended(None)
    wrong(RelayError("bad_args", "a comma before }"))
    gone(None)  # its session left meanwhile
    said = [wire.decode_to_session(entry[2]) for entry in hands.log if entry[0] == "put"]  # type: ignore[arg-type]
    assert said == [
        wire.Done(req_id=5, unread=3),
        wire.Failed(req_id=6, code="bad_args", message="a comma before }"),
    ]
    assert hands.log[-1] == ("flush", 1)


async def test_every_kind_of_action_is_known(hands: Hands, core: ScriptedCore):
    examples: dict[type[Action], Action] = {
        Store: Store((OP,)),
        Reply: Reply(1, wire.Ping()),
        Push: Push((1,), pushed()),
        CloseSession: CloseSession(1, "why"),
        CheckProcess: CheckProcess(1, 0, None),
        Describe: Describe(1, wire.HubDetails(req_id=1, hub_id="h", version="1", sessions=0)),
        Stop: Stop("why"),
        ToLink: ToLink(1, link_wire.LinkPing(number=1)),
        CloseLink: CloseLink(1, "why"),
        Reload: Reload(1, 2),
    }
    assert set(examples) == set(Action.__subclasses__())
    core.script = answers(*examples.values())  # type: ignore[assignment]
    hands.shell.feed((Tick(),))
    assert hands.tally.counts == {}


# --- bugs ------------------------------------------------------------------------------------------------


@pytest.mark.guarantee("crash-closes-one-connection")
async def test_a_bug_in_one_event_ends_its_session_and_the_rest_of_the_batch_is_handled(
    hands: Hands, core: ScriptedCore
):
    def script(event: Event) -> list[Action]:
        if isinstance(event, SessionFrame) and event.sid == 2:
            raise ValueError("a text of somebody")
        return [Reply(1, wire.Ping())]

    core.script = script
    hands.shell.feed(
        (SessionFrame(1, wire.Pong()), SessionFrame(2, wire.Pong()), SessionFrame(3, wire.Pong()))
    )
    assert [entry[:2] for entry in hands.log] == [
        ("put", 1),
        ("end", 2),
        ("put", 1),
        ("flush", 1),
        ("rearm",),
    ]
    assert hands.tally.counts == {"crash": 1}


async def test_a_bug_after_a_commit_is_survived(hands: Hands, core: ScriptedCore):
    def script(event: Event) -> list[Action]:
        if isinstance(event, Stored):
            raise ZeroDivisionError
        return [Reply(1, wire.Ping())]

    core.script = script
    hands.shell.outstanding = 2
    hands.shell.deliver([Stored("x", (FoundOp(1, b""),)), StoreFailed("y", "mailbox_error", "full")])
    assert [entry[:2] for entry in hands.log] == [("put", 1), ("flush", 1), ("rearm",)]


# --- clocks, and the store's end --------------------------------------------------------------------------


async def test_a_jump_of_the_wall_clock_is_news_before_anything_else(hands: Hands, core: ScriptedCore):
    hands.reading = Now(110.0, WALL + 10_000)
    hands.shell.feed((Tick(),))
    hands.reading = Now(111.0, WALL + 11_000 + 30_001)
    hands.shell.feed((Tick(),))
    hands.reading = Now(112.0, WALL + 12_000 + 30_001)
    hands.shell.feed((Tick(),))
    hands.reading = Now(113.0, WALL - 1_000_000)
    hands.shell.feed(())
    kinds = [type(event) for event in core.events]
    assert kinds == [Tick, ClockJumped, Tick, Tick, ClockJumped]
    jumps = [event.seconds for event in core.events if isinstance(event, ClockJumped)]
    assert jumps == pytest.approx([30.001, -1043.001])


async def test_a_clock_that_drifts_does_not_jump(hands: Hands, core: ScriptedCore):
    for number in range(100):
        hands.reading = Now(100.0 + number, WALL + number * 1000 + number * 900)
        hands.shell.feed(())
    assert core.events == []


async def test_one_can_wait_until_the_store_has_answered_everything(
    hands: Hands, core: ScriptedCore, nursery: trio.Nursery
):
    core.script = answers(Store((OP,)), Store((OP,)))  # type: ignore[assignment]
    hands.shell.feed((Tick(),))
    settled = trio.Event()

    @nursery.start_soon
    async def wait() -> None:
        await hands.shell.settled()
        settled.set()

    await wait_all_tasks_blocked()
    hands.shell.deliver([Stored(None, ())])
    await wait_all_tasks_blocked()
    assert not settled.is_set()
    hands.shell.deliver([Stored(None, ())])
    await settled.wait()
    await hands.shell.settled()
