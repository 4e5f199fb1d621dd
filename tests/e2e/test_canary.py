"""Canaries through a real hub to real adapters: of every kind, frozen, killed, of before, and with hooks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ecorelay import wire
from ecorelay.client import HubClient
from ecorelay.requests import RequestError
from tests.e2e.stage import PATIENCE_S, Machine, until
from tests.e2e.test_hooks import Session, called


@asynccontextmanager
async def looking_on(machine: Machine) -> AsyncIterator[HubClient]:
    async with machine.client(None, role="observer", create=False) as client:
        yield client


async def probed(hub: HubClient, peer: str) -> wire.Probed:
    return await hub.request(wire.Probe(req_id=0, peer=peer))


async def test_adapters_without_evidence_say_how_far_it_got(shared: Machine):
    pulls, channel = shared.name("pulls"), shared.name("channel")
    async with (
        shared.assistant(pulls) as api,
        shared.assistant(channel, arguments=("--carrier", "channel")) as web,
        looking_on(shared) as hub,
    ):
        for assistant in (api, web):
            await called(assistant, assistant.name)
        found = await probed(hub, pulls)
        assert (found.ok, found.stage, "relay_inbox" in found.says) == (None, "adapter", True)
        assert found.took_ms < 2_000
        found = await probed(hub, channel)
        assert (found.ok, found.stage, "channel shows nothing" in found.says) == (None, "adapter", True)
        assert not [each for each in web.notifications if "channel" in each["method"]]


async def test_a_frozen_adapter_is_told_of_within_six_seconds(shared: Machine):
    name = shared.name("frozen")
    async with shared.assistant(name) as api, looking_on(shared) as hub:
        await called(api, name)
        api.stop()
        began = trio.current_time()
        found = await probed(hub, name)
        assert trio.current_time() - began < 6
        assert (found.ok, found.stage) == (False, "hub")
        assert found.says == "its adapter was given it and did not answer within 5 s"
        assert 4_900 < found.took_ms < 6_000


async def test_an_adapter_that_is_killed_meanwhile_is_gone(shared: Machine):
    name = shared.name("killed")
    async with shared.assistant(name, leave=False) as api, looking_on(shared) as hub:
        await called(api, name)
        api.stop()
        async with trio.open_nursery() as nursery:

            async def expect() -> None:
                with pytest.raises(RequestError, match="ended before it answered"):
                    await probed(hub, name)

            nursery.start_soon(expect)
            await trio.sleep(0.3)
            await api.kill()
        with pytest.raises(RequestError, match="is not online"):
            await probed(hub, name)


async def test_a_session_of_before_is_answered_for_at_once(shared: Machine):
    name = shared.name("old")
    async with shared.client(name, role="session", create=False, pinned=True), looking_on(shared) as hub:
        found = await probed(hub, name)
        assert (found.ok, found.stage, "restart the session" in found.says) == (None, "hub", True)


async def test_a_hook_that_hears_the_bell_is_the_evidence_and_wakes_nobody(machine: Machine, tmp_path: Path):
    session = Session(machine, tmp_path / "claude")
    async with session.adapter() as bob, looking_on(machine) as hub:
        await called(bob, "bob")
        [bell] = (await session.hook("SessionStart"))["hookSpecificOutput"]["watchPaths"]
        assert not Path(bell).exists()
        results: list[wire.Probed] = []

        async def play_claude(scope: trio.CancelScope) -> None:
            with scope:
                await until(Path(bell).exists, "the bell is rung")
                while True:  # a hook does not wait long for a busy machine
                    assert await session.hook("FileChanged", file_path=bell, event="change") is None

        with trio.fail_after(PATIENCE_S):
            while not results or not results[-1].ok:
                async with trio.open_nursery() as nursery:
                    scope = trio.CancelScope()
                    nursery.start_soon(play_claude, scope)
                    results.append(await probed(hub, "bob"))
                    scope.cancel()
        assert results[-1].stage == "session"
        assert results[-1].says == "a hook of the assistant heard the bell"
        assert results[-1].hook_at > 0


async def test_a_busy_assistant_with_hooks_shows_nothing_and_nothing_is_wrong(
    machine: Machine, tmp_path: Path
):
    session = Session(machine, tmp_path / "claude")
    async with session.adapter() as bob, looking_on(machine) as hub:
        await called(bob, "bob")
        found = await probed(hub, "bob")
        assert (found.ok, found.stage) == (None, "adapter")
        assert "the bell was rung, and no hook heard it" in found.says
        async with machine.client("ada") as ada:
            await ada.request(wire.Send(req_id=0, op_id="", to="bob", text="hi"))
        found = await probed(hub, "bob")
        assert (found.ok, "mail waits for its hooks" in found.says) == (None, True)
        assert found.took_ms < 4_000  # and is not waited for


async def test_a_hub_that_restarts_meanwhile_answers_a_probe_that_is_asked_again(machine: Machine):
    name = machine.name("api")
    async with machine.assistant(name) as api, looking_on(machine) as hub:
        await called(api, name)
        await machine.end_hub()

        found = None
        with trio.fail_after(PATIENCE_S):
            while found is None:
                try:
                    found = await probed(hub, name)
                except RequestError as error:
                    if error.code != "peer_gone":  # it is not back yet
                        raise
                    await trio.sleep(0.1)
        assert (found.ok, found.stage) == (None, "adapter")


async def test_hostile_words_of_an_adapter_stay_words(shared: Machine):
    name, words = shared.name("mallory"), '\x1b[2J"}\n\u202etxt$(id)'
    async with looking_on(shared) as hub:
        clients: list[HubClient] = []

        def answer(canary: wire.Canary) -> None:
            says = wire.CanaryAnswer(id=canary.id, ok=False, stage="session", says=words)
            clients[0].send_nowait(says)

        async with claiming(shared, name, answer) as mallory:
            clients.append(mallory)
            assert (await probed(hub, name)).says == words
            said = await shared.cli("doctor", "--probe", code=1, HOME=str(shared.root), PATH="/usr/bin:/bin")
            assert rb"\x1b[2J" in said.stdout
            assert b"\x1b" not in said.stdout
            as_json = await shared.cli(
                "doctor", "--probe", "--json", code=1, HOME=str(shared.root), PATH="/usr/bin:/bin"
            )
            [row] = [each for each in json.loads(as_json.stdout)["sessions"] if each["peer"] == name]
            assert row["probe"]["says"] == words


@asynccontextmanager
async def claiming(machine: Machine, name: str, answer: Any) -> AsyncIterator[HubClient]:
    """A session that answers canaries as a test wants."""
    from ecorelay.client import open_hub_client
    from ecorelay.spawn import hub_connector

    hello = wire.Hello(versions=(1, 1), name=name, pinned=True, client="mallory")
    connect = hub_connector(machine.paths, machine.environ)
    async with open_hub_client(hello, connect=connect, on_canary=answer) as client:
        yield client
