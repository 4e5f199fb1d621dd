"""One assistant session between its MCP server and a hub that comes late, refuses, goes and comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ecorelay import wire
from ecorelay.errors import RelayError
from ecorelay.keeper import BACKOFF_COSTLY_S
from ecorelay.spawn import NoHub
from ecorelay_adapters import session as session_module
from ecorelay_adapters.carriers import Carrier, ChannelCarrier
from ecorelay_adapters.envelope import Incoming
from ecorelay_adapters.handover import ToolResult
from ecorelay_adapters.mcp_stdio import ClientInfo
from ecorelay_adapters.session import CALL_PATIENCE_S, INITIALIZE_PATIENCE_S, PROGRESS_S, Session
from ecorelay_adapters.tool_calls import ToolCall
from tests.helpers.fake_hub import WELCOME, FakeHub, FakeSession

ID = "01j5zk3m8v9w2x4y6z7abcdefg"
OTHER = "01j5zk3m8v9w2x4y6z7abcdefh"
CLIENT = ClientInfo(name="some-client", version="1")
PUSH = wire.Push(msg_id=ID, kind="message", sender="ben", text="hello", ts=0)


class FakeServer:
    """What a session sees of its MCP server."""

    def __init__(self) -> None:
        self.client = CLIENT
        self.initialized = trio.Event()
        self.told: list[tuple[str, dict[str, Any]]] = []

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append((method, params))


class FakeCarrier(Carrier):
    """Takes what a test lets it take."""

    name = "fake"
    evidence = ""

    def __init__(self, *, takes: bool = True, usable: bool = True) -> None:
        self.takes = takes
        self.usable = usable
        self.pushed: list[Incoming] = []

    async def probe(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.usable

    async def push(self, mail: Incoming) -> bool:
        await trio.lowlevel.checkpoint()
        self.pushed.append(mail)
        return self.takes


class Desk:
    """A session that runs, its server, and its hub."""

    def __init__(self, session: Session, hub: FakeHub, nursery: trio.Nursery) -> None:
        self.session = session
        self.hub = hub
        self.nursery = nursery
        self.server = FakeServer()

    async def call(self, tool: str, *, progress: Any = None, **arguments: Any) -> ToolResult:
        call = ToolCall(f"relay_{tool}", json.dumps(arguments).encode(), {}, progress)
        return await self.session.handle(call)

    async def opened(self) -> FakeSession:
        """The hub's end of the connection, made because somebody asked for something."""
        await self.session.instructions(CLIENT)
        return await self.hub.session()

    def begin(self, tool: str, *, progress: Any = None, **arguments: Any) -> Calling:
        return Calling(self, tool, progress, arguments)


class Calling:
    """A tool call in a task of its own."""

    def __init__(self, desk: Desk, tool: str, progress: Any, arguments: dict[str, Any]) -> None:
        self.result: ToolResult | None = None
        self.ended = trio.Event()
        self.scope = trio.CancelScope()
        desk.nursery.start_soon(self._run, desk, tool, progress, arguments)

    async def _run(self, desk: Desk, tool: str, progress: Any, arguments: dict[str, Any]) -> None:
        with self.scope:
            self.result = await desk.call(tool, progress=progress, **arguments)
        self.ended.set()

    async def wait(self) -> ToolResult:
        await self.ended.wait()
        assert self.result is not None
        return self.result


def fields(result: ToolResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.text)
    return found


@asynccontextmanager
async def desk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    carrier: Any = None,
    environ: Mapping[str, str] | None = None,
    channel: bool = False,
    hooks: bool = False,
) -> AsyncIterator[Desk]:
    async with trio.open_nursery() as nursery:
        hub = FakeHub(nursery)
        monkeypatch.setattr(session_module, "hub_connector", lambda *_args, **_more: hub.connect)
        given = {"ECORELAY_HOME": str(tmp_path / "home"), **(environ or {})}
        make = (lambda server: carrier) if carrier is not None else None
        if channel:
            make = lambda server: ChannelCarrier(server.notify, server.initialized)  # noqa: E731
        found = Desk(Session(given, make, hooks=hooks), hub, nursery)
        server: Any = found.server
        nursery.start_soon(found.session.run, server)
        with trio.fail_after(10_000):
            yield found
        nursery.cancel_scope.cancel()


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it for a desk."""

    def opened(**options: Any) -> Any:
        return desk(tmp_path, monkeypatch, **options)

    return opened


# --- hello and instructions ------------------------------------------------------------------------------


async def test_nothing_is_opened_before_the_assistant_said_a_word(opened, autojump_clock: MockClock):
    async with opened() as desk:
        await trio.sleep(100)
        assert desk.hub.attempts == []


async def test_hello_says_who_the_session_is(opened, autojump_clock: MockClock, tmp_path: Path, monkeypatch):
    project = tmp_path / "backend"
    project.mkdir()
    monkeypatch.chdir(project)
    async with opened(environ={"CLAUDE_CODE_SESSION_ID": "s-1"}) as desk:
        there = await desk.opened()
        hello = there.hello
        assert hello is not None
        assert (hello.role, hello.name, hello.pinned, hello.fallback) == ("session", "backend", False, True)
        assert (hello.client, hello.identity, hello.cwd) == ("claude-code", "s-1", str(project))
        assert (hello.push, hello.versions) == (False, (1, 1))


async def test_a_pinned_name_and_a_carrier_are_said_too(opened, autojump_clock: MockClock):
    async with opened(environ={"RELAY_PEER_ID": "ann"}, carrier=FakeCarrier()) as desk:
        there = await desk.opened()
        assert there.hello is not None
        assert (there.hello.name, there.hello.pinned, there.hello.push) == ("ann", True, True)
        assert (there.hello.client, there.hello.identity) == ("some-client", None)


async def test_a_carrier_that_cannot_be_used_is_not_promised(opened, autojump_clock: MockClock):
    async with opened(carrier=FakeCarrier(usable=False)) as desk:
        there = await desk.opened()
        assert there.hello is not None
        assert there.hello.push is False
        assert "Nothing is pushed" in await desk.session.instructions(CLIENT)


async def test_instructions_name_the_peer_the_hub_made_us(opened, autojump_clock: MockClock):
    async with opened() as desk:
        said = await desk.session.instructions(CLIENT)
        assert 'You are "alice"' in said
        assert "Note:" not in said
        assert "SendMessage" not in said
        assert "SendMessage" in await desk.session.instructions(ClientInfo(name="claude-code"))


async def test_a_pinned_name_that_went_to_another_is_told(opened, autojump_clock: MockClock):
    async with opened(environ={"RELAY_PEER_ID": "ann"}) as desk:
        taken = wire.Welcome(
            version=1, hub_id="hub", app_version="0", name="ann-2", peer_id=ID, wanted_taken=True
        )
        desk.hub.answers = [taken]
        said = await desk.session.instructions(CLIENT)
        assert 'You are "ann-2"' in said
        assert "Note: the name ann was taken by a living session" in said


async def test_without_a_hub_instructions_come_in_time_and_say_so(opened, autojump_clock: MockClock):
    async with opened(environ={"RELAY_PEER_ID": "my name"}) as desk:
        desk.hub.answers = [None]
        began = trio.current_time()
        said = await desk.session.instructions(CLIENT)
        assert trio.current_time() - began == pytest.approx(INITIALIZE_PATIENCE_S)
        assert 'You are "my-name"' in said
        assert "the hub cannot be reached now" in said
        assert "is no valid name" in said


# --- the hub is late, or refuses -------------------------------------------------------------------------


async def test_a_call_waits_for_the_hub_and_says_in_the_end_that_it_did_not_come(
    opened, autojump_clock: MockClock
):
    async with opened() as desk:
        desk.hub.answers = [None]
        began = trio.current_time()
        result = await desk.call("peers")
        assert trio.current_time() - began == pytest.approx(CALL_PATIENCE_S)
        assert result.is_error
        assert fields(result)["code"] == "hub_unreachable"
        there = await desk.hub.session()
        await there.send(WELCOME)
        calling = desk.begin("rooms")
        frame = await there.receive()
        await there.send(wire.RoomList(req_id=frame.req_id, unread=2))
        assert fields(await calling.wait()) == {"rooms": [], "unread": 2}


async def test_a_refusal_is_told_by_every_call_and_each_call_tries_anew(opened, autojump_clock: MockClock):
    async with opened() as desk:
        desk.hub.down = RelayError("mailbox_error", "the disk is full: free some space")
        for tries in (1, 2, 3):
            result = await desk.call("peers")
            assert fields(result) == {
                "ok": False,
                "code": "mailbox_error",
                "message": "the disk is full: free some space",
            }
            assert len(desk.hub.attempts) == tries
        desk.hub.down = None
        calling = desk.begin("rooms")
        there = await desk.hub.session()
        frame = await there.receive()
        await there.send(wire.RoomList(req_id=frame.req_id))
        assert not (await calling.wait()).is_error


async def test_a_hub_that_could_not_be_had_at_first_is_tried_again_though_nobody_calls(
    opened, autojump_clock: MockClock
):
    carrier = FakeCarrier()
    async with opened(carrier=carrier) as desk:
        desk.hub.down = RelayError("mailbox_error", "the disk is full: free some space")
        await desk.session.instructions(CLIENT)
        await trio.sleep(3_600)
        assert 10 <= len(desk.hub.attempts) <= 20  # each may start a hub in vain
        desk.hub.down = None
        with trio.fail_after(BACKOFF_COSTLY_S):
            there = await desk.hub.session()
            await there.send(PUSH)
            assert await there.receive() == wire.Pushed(msg_ids=(ID,), carrier="fake")


async def test_no_hub_and_none_to_be_started_is_an_error_with_the_remedy(opened, autojump_clock: MockClock):
    async with opened() as desk:
        desk.hub.down = NoHub("no hub runs: start one with `ecorelay hub start`")
        result = await desk.call("peers")
        assert fields(result)["code"] == "hub_unreachable"
        assert "hub start" in fields(result)["message"]


async def test_wrong_settings_are_an_error_and_read_again_at_the_next_call(
    opened, autojump_clock: MockClock, tmp_path: Path
):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text("spawn = 'perhaps'\n")
    async with opened() as desk:
        result = await desk.call("peers")
        assert fields(result)["code"] == "bad_args"
        assert "spawn" in fields(result)["message"]
        (tmp_path / "home" / "config.toml").unlink()
        await desk.opened()


async def test_a_session_whose_name_was_taken_over_says_so_at_once_and_does_not_fight(
    opened, autojump_clock: MockClock
):
    async with opened() as desk:
        there = await desk.opened()
        await there.send(wire.Bye(reason="another session took over alice", code="name_taken"))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            began = trio.current_time()
            result = await desk.call("peers")
            assert trio.current_time() == began
            assert fields(result) == {
                "ok": False,
                "code": "name_taken",
                "message": "another session took over alice",
            }
        await trio.sleep(1_000)
        assert len(desk.hub.attempts) == 1


async def test_an_error_of_the_hub_keeps_its_count_of_unread(opened, autojump_clock: MockClock):
    async with opened() as desk:
        there = await desk.opened()
        calling = desk.begin("send", to="nobody", text="x")
        frame = await there.receive()
        await there.send(wire.Failed(req_id=frame.req_id, code="peer_not_found", message="no peer", unread=4))
        result = await calling.wait()
        assert result.is_error
        assert fields(result) == {"ok": False, "code": "peer_not_found", "message": "no peer", "unread": 4}


# --- pages -----------------------------------------------------------------------------------------------


def page(frame: wire.Inbox) -> wire.InboxPage:
    mail = wire.Mail(msg_id=ID, kind="message", sender="ben", ts=0, text="hello")
    return wire.InboxPage(req_id=frame.req_id, lease=7, messages=(mail,))


async def read(desk: Desk, there: FakeSession, **options: Any) -> ToolResult:
    calling = desk.begin("inbox", **options)
    await there.send(page(await there.receive()))
    return await calling.wait()


@pytest.mark.guarantee("leased-until-confirmed")
async def test_a_page_is_confirmed_by_ids_when_it_went_out_and_not_before(opened, autojump_clock: MockClock):
    async with opened() as desk:
        there = await desk.opened()
        result = await read(desk, there)
        assert await there.quiet(20)
        assert result.on_written is not None
        desk.nursery.start_soon(result.on_written)
        frame = await there.receive()
        assert frame == wire.Confirm(req_id=frame.req_id, lease=7, msg_ids=(ID,))
        await there.send(wire.Done(req_id=frame.req_id))


@pytest.mark.guarantee("cancel-never-confirms")
async def test_a_page_of_a_cancelled_call_is_given_back(opened, autojump_clock: MockClock):
    async with opened() as desk:
        there = await desk.opened()
        result = await read(desk, there)
        assert result.on_cancelled is not None
        assert result.on_lost is None  # the end of the connection gives it back
        desk.nursery.start_soon(result.on_cancelled)
        frame = await there.receive()
        assert frame == wire.Release(req_id=frame.req_id, lease=7)


@pytest.mark.guarantee("cancel-never-confirms")
async def test_a_wait_that_is_given_up_is_given_up_at_the_hub(opened, autojump_clock: MockClock):
    async with opened() as desk:
        there = await desk.opened()
        calling = desk.begin("inbox", wait=60)
        asked = await there.receive()
        calling.scope.cancel()
        assert await there.receive() == wire.Cancel(req_id=asked.req_id)
        # Its page was on the way already.
        await there.send(page(asked))
        frame = await there.receive()
        assert frame == wire.Release(req_id=frame.req_id, lease=7)
        assert calling.result is None


@pytest.mark.guarantee("cancel-never-confirms")
async def test_a_page_that_came_in_the_moment_of_the_cancellation_is_given_back(
    opened, autojump_clock: MockClock
):
    async def progress(count: float, total: float | None, message: str) -> None:
        await trio.lowlevel.checkpoint()

    for steps in range(12):
        async with opened() as desk:
            there = await desk.opened()
            calling = desk.begin("inbox", progress=progress, wait=60)
            await there.send(page(await there.receive()))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            calling.scope.cancel()
            await calling.ended.wait()
            if calling.result is not None:
                continue  # it was too late: who cancelled finds the result, and releases it
            while not isinstance(frame := await there.receive(), wire.Release):
                assert isinstance(frame, wire.Cancel)
            assert frame.lease == 7


async def test_a_page_that_cannot_be_confirmed_is_no_failure_of_the_session(
    opened, autojump_clock: MockClock, capsys
):
    async with opened() as desk:
        there = await desk.opened()
        result = await read(desk, there)
        assert result.on_written is not None
        desk.nursery.start_soon(result.on_written)
        frame = await there.receive()
        await there.send(wire.Failed(req_id=frame.req_id, code="mailbox_error", message="the disk is full"))
        await trio.sleep(1)
        assert "a page of mail stays unconfirmed: mailbox_error: the disk is full" in capsys.readouterr().err


# --- waiting ---------------------------------------------------------------------------------------------


async def test_a_call_with_a_progress_token_says_that_it_is_alive_and_may_wait_long(
    opened, autojump_clock: MockClock
):
    told: list[tuple[float, float | None, str, float]] = []

    async def progress(count: float, total: float | None, message: str) -> None:
        await trio.lowlevel.checkpoint()
        told.append((count, total, message, trio.current_time()))

    async with opened() as desk:
        there = await desk.opened()
        began = trio.current_time()
        calling = desk.begin("inbox", progress=progress, wait=600)
        asked = await there.receive()
        assert asked.wait == 600
        await trio.sleep(35)
        await there.send(page(asked))
        await calling.wait()
        await trio.sleep(100)
        assert [entry[:3] for entry in told] == [
            (number, None, "waiting for messages") for number in (1, 2, 3)
        ]
        assert [entry[3] - began for entry in told] == pytest.approx(
            [PROGRESS_S * number for number in (1, 2, 3)]
        )


async def test_an_error_ends_the_progress_too(opened, autojump_clock: MockClock):
    told: list[float] = []

    async def progress(count: float, total: float | None, message: str) -> None:
        await trio.lowlevel.checkpoint()
        told.append(count)

    async with opened() as desk:
        there = await desk.opened()
        calling = desk.begin("inbox", progress=progress, wait=600)
        asked = await there.receive()
        await there.send(wire.Failed(req_id=asked.req_id, code="mailbox_error", message="no"))
        assert fields(await calling.wait())["code"] == "mailbox_error"
        await trio.sleep(100)
        assert told == []
        assert fields(await desk.call("inbox", progress=progress, limit=0))["code"] == "bad_args"


async def test_a_call_without_a_progress_token_waits_for_45_seconds_at_most(
    opened, autojump_clock: MockClock
):
    async with opened() as desk:
        there = await desk.opened()
        calling = desk.begin("inbox", wait=600)
        asked = await there.receive()
        assert asked.wait == 45
        await there.send(page(asked))
        await calling.wait()


# --- pushed mail -----------------------------------------------------------------------------------------


@pytest.mark.guarantee("delivered-is-proved")
@pytest.mark.parametrize("takes", [True, False])
async def test_a_push_is_acknowledged_when_the_carrier_took_it_and_refused_when_not(
    opened, autojump_clock: MockClock, takes: bool
):
    carrier = FakeCarrier(takes=takes)
    async with opened(carrier=carrier) as desk:
        there = await desk.opened()
        await there.send(PUSH)
        answer = await there.receive()
        if takes:
            assert answer == wire.Pushed(msg_ids=(ID,), carrier="fake")
        else:
            assert answer == wire.PushFailed(msg_ids=(ID,))
        [mail] = carrier.pushed
        assert (mail.msg_id, mail.sender, mail.text, mail.kind) == (ID, "ben", "hello", "message")


async def test_a_push_that_comes_together_with_the_welcome_is_taken(opened, autojump_clock: MockClock):
    # Which task runs first in such a moment is left to chance.
    for _ in range(20):
        carrier = FakeCarrier()
        async with opened(carrier=carrier) as desk:
            desk.hub.answers = [None]
            calling = desk.begin("rooms")
            there = await desk.hub.session()
            await there.send(WELCOME, PUSH)
            frames = [await there.receive(), await there.receive()]
            assert wire.Pushed(msg_ids=(ID,), carrier="fake") in frames
            assert len(carrier.pushed) == 1
            calling.scope.cancel()


async def test_a_push_repeated_after_a_reconnect_is_acknowledged_and_not_shown_again(
    opened, autojump_clock: MockClock
):
    carrier = FakeCarrier()
    async with opened(carrier=carrier) as desk:
        there = await desk.opened()
        await there.send(PUSH)
        await there.receive()
        await there.close()
        again = await desk.hub.session()
        await again.send(PUSH, wire.Push(msg_id=OTHER, kind="message", sender="ben", text="new", ts=0))
        frames = [await again.receive(), await again.receive()]
        assert frames == [wire.Pushed(msg_ids=(msg_id,), carrier="fake") for msg_id in (ID, OTHER)]
        assert [mail.text for mail in carrier.pushed] == ["hello", "new"]


async def test_only_the_last_pushes_are_remembered(opened, autojump_clock: MockClock, monkeypatch):
    monkeypatch.setattr(session_module, "PUSHED_KEPT", 1)
    carrier = FakeCarrier()
    async with opened(carrier=carrier) as desk:
        there = await desk.opened()
        for msg_id in (ID, OTHER, OTHER, ID):
            await there.send(wire.Push(msg_id=msg_id, kind="message", sender="ben", text="x", ts=0))
            assert await there.receive() == wire.Pushed(msg_ids=(msg_id,), carrier="fake")
        assert [mail.msg_id for mail in carrier.pushed] == [ID, OTHER, ID]


@pytest.mark.guarantee("delivered-is-proved")
async def test_the_channel_waits_until_the_client_is_ready(opened, autojump_clock: MockClock):
    async with opened(channel=True) as desk:
        there = await desk.opened()
        await there.send(PUSH)
        assert await there.quiet(20)
        assert desk.server.told == []
        desk.server.initialized.set()
        assert await there.receive() == wire.Pushed(msg_ids=(ID,), carrier="channel")
        [(method, params)] = desk.server.told
        assert method == "notifications/claude/channel"
        assert params["content"] == "hello"


async def test_a_channel_whose_client_is_gone_took_nothing(opened, autojump_clock: MockClock):
    class Gone(FakeServer):
        async def notify(self, method: str, params: dict[str, Any]) -> None:
            raise trio.ClosedResourceError

    gone = Gone()
    gone.initialized.set()
    carrier = ChannelCarrier(gone.notify, gone.initialized)
    async with opened(carrier=carrier) as desk:
        there = await desk.opened()
        await there.send(PUSH)
        assert await there.receive() == wire.PushFailed(msg_ids=(ID,))
