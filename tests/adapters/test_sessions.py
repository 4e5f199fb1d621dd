"""Several sessions of one assistant behind one adapter, and a companion that names too many, or none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ecorelay import wire
from ecorelay_adapters import session as session_module, sessions as sessions_module
from ecorelay_adapters.sessions import Sessions
from ecorelay_adapters.tool_calls import ToolCall
from tests.adapters.test_session import CLIENT, FakeServer
from tests.helpers.fake_hub import WELCOME, FakeHub, FakeSession

ID = "01j5zk3m8v9w2x4y6z7abcdefg"


class Desk:
    """Sessions that run, their server and their hub."""

    def __init__(self, sessions: Sessions, hub: FakeHub) -> None:
        self.sessions = sessions
        self.hub = hub
        self.server = FakeServer()

    async def begin(self, id: str, directory: Any = "/srv/shop") -> FakeSession:
        """The hub's end of a session that the companion introduces."""
        await self.sessions.noted("ecorelay/session", {"session": id, "directory": directory})
        return await self.hub.session()

    async def call(self, tool: str, id: Any = None, key: str = "ecorelay/session") -> dict[str, Any]:
        meta = {} if id is None else {key: id}
        result = await self.sessions.handle(ToolCall(f"relay_{tool}", b"{}", meta))
        found: dict[str, Any] = json.loads(result.text)
        return found

    def told(self, id: str) -> list[str]:
        return [method for method, params in self.server.told if params.get("session") == id]


@asynccontextmanager
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **environ: str) -> AsyncIterator[Desk]:
    async with trio.open_nursery() as nursery:
        hub = FakeHub(nursery)
        monkeypatch.setattr(session_module, "hub_connector", lambda *_args, **_more: hub.connect)
        given = {"ECORELAY_HOME": str(tmp_path / "home"), **environ}
        made = Desk(Sessions(given, client="opencode", carrier="plugin"), hub)
        server: Any = made.server
        nursery.start_soon(made.sessions.run, server)
        with trio.fail_after(10_000):
            yield made
        nursery.cancel_scope.cancel()


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it for a desk."""

    def opened(**environ: str) -> Any:
        return desk(tmp_path, monkeypatch, **environ)

    return opened


async def test_each_session_is_a_peer_of_its_own(opened, autojump_clock: MockClock):
    async with opened() as desk:
        one = await desk.begin("s-1")
        two = await desk.begin("s-2", "/srv/desk")
        for there, id, name in ((one, "s-1", "shop"), (two, "s-2", "desk")):
            hello = there.hello
            assert (hello.identity, hello.name, hello.cwd) == (id, name, f"/srv/{name}")
            assert (hello.client, hello.push, hello.pinned) == ("opencode", True, False)
        await trio.testing.wait_all_tasks_blocked()
        assert desk.told("s-1") == desk.told("s-2") == ["ecorelay/welcome"]
        [welcome] = [params for _, params in desk.server.told if params["session"] == "s-1"]
        assert f'You are "{WELCOME.name}"' in welcome["text"]


async def test_mail_goes_to_the_session_it_is_for(opened, autojump_clock: MockClock):
    async with opened() as desk:
        await desk.begin("s-1")
        two = await desk.begin("s-2")
        await two.send(wire.Push(msg_id=ID, kind="message", sender="ben", text="hello", ts=0))
        await trio.sleep(0.1)
        [given] = [params for method, params in desk.server.told if method == "ecorelay/hand_over"]
        assert given["session"] == "s-2"
        await desk.sessions.noted("ecorelay/handed_over", {"session": "s-1", "id": given["id"]})
        await trio.sleep(0.1)
        await desk.sessions.noted("ecorelay/handed_over", {"session": "s-2", "id": given["id"]})
        assert await two.receive() == wire.Pushed(msg_ids=(ID,), carrier="plugin")


async def test_a_tool_call_is_its_sessions(opened, autojump_clock: MockClock):
    async with opened() as desk:
        await desk.begin("s-1")
        two = await desk.begin("s-2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.call, "peers", "s-2")
            request = await two.receive()
            assert isinstance(request, wire.Peers)
            await two.send(wire.PeerList(req_id=request.req_id, hub_id="hub", peers=()))


@pytest.mark.parametrize("key", ["ecorelay/session", "ai.opencode/sessionID"])
async def test_a_call_introduces_its_session_where_no_companion_does(opened, key, autojump_clock: MockClock):
    async with opened() as desk:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.call, "peers", "s-9", key)
            there = await desk.hub.session()
            assert there.hello.identity == "s-9"
            request = await there.receive()
            await there.send(wire.PeerList(req_id=request.req_id, hub_id="hub", peers=()))


@pytest.mark.parametrize("id", [None, "", 7, "x" * 300, ["s-1"]])
async def test_a_call_of_nobody_is_refused(opened, id, autojump_clock: MockClock):
    async with opened() as desk:
        answer = await desk.call("peers", id)
        assert (answer["code"], "ecorelay doctor" in answer["message"]) == ("bad_args", True)
        await desk.sessions.noted("ecorelay/session", {"session": id, "directory": "/srv/shop"})
        assert desk.hub.attempts == []


async def test_a_session_that_is_gone_is_offline_at_once_and_may_come_back(opened, autojump_clock: MockClock):
    async with opened() as desk:
        one = await desk.begin("s-1")
        await desk.begin("s-2")
        await desk.sessions.noted("ecorelay/gone", {"session": "s-1"})
        assert await one.receive_all() == []
        await desk.sessions.noted("ecorelay/gone", {"session": "s-1"})
        again = await desk.begin("s-1")
        assert again.hello.identity == "s-1"


async def test_introduced_again_it_stays_one(opened, autojump_clock: MockClock):
    async with opened() as desk:
        await desk.begin("s-1")
        for directory in ("/srv/other", None, 7):
            await desk.sessions.noted("ecorelay/session", {"session": "s-1", "directory": directory})
        await trio.sleep(1)
        assert len(desk.hub.attempts) == 1


async def test_too_many_sessions_are_refused(opened, monkeypatch, autojump_clock: MockClock):
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 2)
    async with opened() as desk:
        await desk.begin("s-1")
        await desk.begin("s-2")
        await desk.sessions.noted("ecorelay/session", {"session": "s-3"})
        await trio.sleep(1)
        assert len(desk.hub.attempts) == 2
        assert (await desk.call("peers", "s-3"))["code"] == "limit_reached"
        await desk.sessions.noted("ecorelay/gone", {"session": "s-1"})
        await trio.sleep(0.1)
        await desk.begin("s-3")


async def test_nonsense_is_ignored(opened, autojump_clock: MockClock):
    async with opened() as desk:
        await desk.begin("s-1")
        for method, params in (
            ("other/session", {"session": "s-2"}),
            ("ecorelay/status", {"session": "s-2", "busy": True}),
            ("ecorelay/gone", {"session": "s-2"}),
            ("ecorelay/what", {"session": "s-1"}),
            ("ecorelay/session", {}),
        ):
            await desk.sessions.noted(method, params)
        await trio.sleep(1)
        assert len(desk.hub.attempts) == 1


async def test_a_wanted_name_goes_to_each_that_can_have_it(opened, autojump_clock: MockClock):
    async with opened(RELAY_PEER_ID="boss") as desk:
        there = await desk.begin("s-1")
        assert (there.hello.name, there.hello.pinned) == ("boss", True)


async def test_one_whose_name_is_taken_for_good_does_not_end_the_others(opened, autojump_clock: MockClock):
    async with opened() as desk:
        desk.hub.answers.append(wire.Refused(code="name_taken", message="another session took over"))
        one = await desk.begin("s-1")
        assert await one.receive() is None
        two = await desk.begin("s-2")
        assert two.hello.identity == "s-2"
        assert (await desk.call("peers", "s-1"))["code"] == "name_taken"


async def test_instructions_name_no_session(opened, autojump_clock: MockClock):
    async with opened() as desk:
        assert "relay_peers" in await desk.sessions.instructions(CLIENT)


async def test_a_renamed_session_is_welcomed_again(opened, autojump_clock: MockClock):
    async with opened() as desk:
        there = await desk.begin("s-1")
        await trio.sleep(0.1)
        renamed = msgspec.structs.replace(WELCOME, name="other")
        await there.send(wire.NameChanged(name=renamed.name))
        await trio.sleep(0.1)
        texts = [params["text"] for method, params in desk.server.told if method == "ecorelay/welcome"]
        assert len(texts) == 2
        assert 'You are "other"' in texts[1]
