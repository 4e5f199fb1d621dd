"""A session beside Claude Code: its name and id as the user changes them, and the bell for its hooks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ecorelay import wire
from ecorelay_adapters import identity
from ecorelay_adapters.claude_session import ClaudeProcess
from ecorelay_adapters.mcp_stdio import ClientInfo
from ecorelay_adapters.session import FOLLOW_S
from tests.adapters.test_session import Desk, desk
from tests.helpers.fake_hub import WELCOME, FakeSession, answer

CLAUDE = {"CLAUDE_CODE_SESSION_ID": "old"}


class Claude:
    """The client's session file."""

    def __init__(self, tmp_path: Path) -> None:
        self.file = tmp_path / "70.json"
        self.process = ClaudeProcess(70, 7, str(self.file))
        self.fields: dict[str, Any] = {"name": "proj-3f", "nameSource": "derived", "sessionId": "one"}
        self.change()

    def change(self, **fields: Any) -> None:
        self.fields |= fields
        self.file.write_text(json.dumps(self.fields))


@pytest.fixture
def claude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Claude:
    found = Claude(tmp_path)
    monkeypatch.setattr(identity, "find_process", lambda environ: found.process)
    return found


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def opened(**options: Any) -> Any:
        return desk(tmp_path, monkeypatch, environ={**CLAUDE, **options.pop("environ", {})}, **options)

    return opened


async def asked(there: FakeSession) -> Any:
    """The session's next request, pings aside."""
    with trio.fail_after(60):
        return await there.receive()


async def test_hello_names_the_process_the_session_and_the_bell(opened, claude, autojump_clock: MockClock):
    async with opened(hooks=True) as desk:
        hello = (await desk.opened()).hello
        assert hello is not None
        assert (hello.client_pid, hello.client_start, hello.bell, hello.push) == (70, 7, True, False)
        assert (hello.client, hello.identity, hello.pinned) == ("claude-code", "one", False)
        said = await desk.session.instructions(ClientInfo(name="claude-code"))
        assert "Incoming: a line `[ecorelay]" in said


async def test_a_name_the_user_gave_the_session_is_its_name(opened, claude, autojump_clock: MockClock):
    claude.change(name="Fix login!", nameSource="user")
    async with opened() as desk:
        hello = (await desk.opened()).hello
        assert hello is not None
        assert (hello.name, hello.pinned, hello.fallback) == ("Fix-login", True, True)


async def test_relay_peer_id_comes_before_the_sessions_own_name(opened, claude, autojump_clock: MockClock):
    claude.change(name="bob", nameSource="user")
    async with opened(environ={"RELAY_PEER_ID": "ann"}) as desk:
        there = await desk.opened()
        assert there.hello is not None
        assert there.hello.name == "ann"
        claude.change(name="carol")
        assert await there.quiet(10 * FOLLOW_S)


async def test_a_name_that_was_taken_is_told(opened, claude, autojump_clock: MockClock):
    claude.change(name="bob", nameSource="user")
    async with opened() as desk:
        taken = wire.Welcome(version=1, hub_id="hub", app_version="0", name="bob-2", wanted_taken=True)
        desk.hub.answers = [taken]
        assert "the name bob was taken" in await desk.session.instructions(ClientInfo(name="claude-code"))


async def test_a_renamed_session_is_a_renamed_peer(opened, claude, autojump_clock: MockClock):
    async with opened() as desk:
        there = await desk.opened()
        claude.change(name="bob 2", nameSource="user")
        frame = await asked(there)
        assert isinstance(frame, wire.Rename)
        assert frame.new_name == "bob-2"
        await there.send(answer(frame, wire.Renamed(req_id=0, name="bob-2")))
        assert await there.quiet(10 * FOLLOW_S)


async def test_a_name_that_cannot_be_had_is_not_asked_for_again(
    opened, claude, autojump_clock: MockClock, capsys
):
    async with opened() as desk:
        there = await desk.opened()
        claude.change(name="bob", nameSource="user")
        frame = await asked(there)
        await there.send(wire.Failed(req_id=frame.req_id, code="name_taken", message="another's"))
        assert await there.quiet(10 * FOLLOW_S)
    assert "another's" in capsys.readouterr().err


async def test_what_the_disk_refused_is_asked_again(opened, claude, autojump_clock: MockClock):
    async with opened() as desk:
        there = await desk.opened()
        claude.change(name="bob", nameSource="user")
        for _ in range(3):
            frame = await asked(there)
            assert frame.new_name == "bob"
            await there.send(wire.Failed(req_id=frame.req_id, code="mailbox_error", message="full"))


async def test_a_cleared_session_tells_its_new_id_and_stays_who_it_is(
    opened, claude, autojump_clock: MockClock
):
    async with opened() as desk:
        there = await desk.opened()
        claude.change(sessionId="two")
        frame = await asked(there)
        assert frame == wire.Identify(req_id=frame.req_id, identity="two")
        await there.send(answer(frame, wire.Renamed(req_id=0, name=WELCOME.name)))
        assert await there.quiet(10 * FOLLOW_S)


async def test_a_session_that_goes_on_as_another_greets_as_that_one(
    opened, claude, autojump_clock: MockClock
):
    async with opened(hooks=True) as desk:
        there = await desk.opened()
        claude.change(sessionId="two")
        frame = await asked(there)
        await there.send(answer(frame, wire.Renamed(req_id=0, name="amy")))
        again = await desk.hub.session()
        assert again.hello is not None
        assert (again.hello.identity, again.hello.peer_id, again.hello.client_pid) == ("two", None, 70)
        calling = desk.begin("peers")
        frame = await asked(again)
        await again.send(answer(frame, wire.PeerList(req_id=0, hub_id="hub", me="amy")))
        assert '"me":"amy"' in (await calling.wait()).text


async def test_a_named_session_that_is_resumed_renames_nobody_and_greets_under_its_name(
    opened, claude, autojump_clock: MockClock
):
    claude.change(name="bob", nameSource="user")
    async with opened() as desk:
        there = await desk.opened()
        claude.change(sessionId="two", name="amy")
        frame = await asked(there)
        assert isinstance(frame, wire.Identify)
        await there.send(answer(frame, wire.Renamed(req_id=0, name="amy")))
        assert isinstance(await asked(there), wire.Bye)
        again = await desk.hub.session()
        assert again.hello is not None
        assert (again.hello.identity, again.hello.name, again.hello.pinned) == ("two", "amy", True)
        assert await again.quiet(10 * FOLLOW_S)


async def test_a_call_under_way_while_the_session_goes_on_as_another_is_told_and_the_next_one_waits(
    opened, claude, autojump_clock: MockClock
):
    async with opened() as desk:
        there = await desk.opened()
        waiting = desk.begin("inbox", wait=600)
        assert isinstance(await asked(there), wire.Inbox)
        claude.change(sessionId="two")
        frame = await asked(there)
        began = trio.current_time()
        await there.send(answer(frame, wire.Renamed(req_id=0, name="amy")))
        assert isinstance(await asked(there), wire.Bye)
        calling = desk.begin("peers")  # the old client is closing
        assert "hub_unreachable" in (await waiting.wait()).text
        assert trio.current_time() - began < 5
        again = await desk.hub.session()
        frame = await asked(again)
        await again.send(answer(frame, wire.PeerList(req_id=0, hub_id="hub", me="amy")))
        assert '"me":"amy"' in (await calling.wait()).text


async def test_a_data_directory_that_is_none_is_told_to_who_calls(opened, claude, autojump_clock: MockClock):
    async with opened(environ={"ECORELAY_HOME": "not/absolute"}, hooks=True) as desk:
        assert "absolute" in await desk.session.instructions(ClientInfo(name="claude-code"))
        assert "absolute" in (await desk.call("peers")).text


async def test_a_session_file_that_is_half_written_changes_nothing(opened, claude, autojump_clock: MockClock):
    async with opened() as desk:
        there = await desk.opened()
        claude.file.write_text('{"name":')
        assert await there.quiet(10 * FOLLOW_S)


# --- the bell --------------------------------------------------------------------------------------------


def bells(desk: Desk, tmp_path: Path) -> list[str]:
    return [file.name for file in (tmp_path / "home" / "bells").iterdir()]


async def test_the_hubs_bell_touches_the_file_and_the_end_takes_it_away(
    opened, claude, autojump_clock: MockClock, tmp_path
):
    async with opened(hooks=True) as desk:
        there = await desk.opened()
        assert bells(desk, tmp_path) == []
        await there.send(wire.Bell())
        await trio.sleep(1)
        assert bells(desk, tmp_path) == ["70-7"]
    assert bells(desk, tmp_path) == []


async def test_without_hooks_there_is_no_bell(opened, claude, autojump_clock: MockClock, tmp_path):
    async with opened() as desk:
        there = await desk.opened()
        assert there.hello is not None
        assert there.hello.bell is False
        await there.send(wire.Bell())
        assert await there.quiet()
        assert not (tmp_path / "home" / "bells").exists()


async def test_an_assistant_that_is_not_claude_code_has_no_bell(
    opened, autojump_clock: MockClock, tmp_path, monkeypatch
):
    async with opened(environ={"CLAUDE_CODE_SESSION_ID": ""}, hooks=True) as desk:
        there = await desk.opened()
        assert there.hello is not None
        assert (there.hello.bell, there.hello.client_pid) == (False, 0)


# --- a second adapter ------------------------------------------------------------------------------------


@pytest.mark.guarantee("one-adapter")
async def test_a_second_adapter_beside_one_assistant_says_so_and_tries_again_when_it_is_called(
    opened, claude, autojump_clock: MockClock
):
    async with opened() as desk:
        refused = wire.Refused(code="already_registered", message="bob's session has an adapter already")
        desk.hub.answers = [refused, refused]
        said = await desk.session.instructions(ClientInfo(name="claude-code"))
        assert "Note: bob's session has an adapter already" in said
        tried = len(desk.hub.attempts)
        await trio.sleep(3_600)
        assert len(desk.hub.attempts) == tried
        result = await desk.call("peers")
        assert "already_registered" in result.text
        calling = desk.begin("peers")
        *_, there = [await desk.hub.session() for _ in range(3)]
        frame = await asked(there)
        await there.send(answer(frame, wire.PeerList(req_id=0, hub_id="hub", me="alice")))
        assert not (await calling.wait()).is_error
