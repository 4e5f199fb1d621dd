"""Who an adapter is: its name, and what becomes of it when adapters come, go, die and come back."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.e2e.stage import Machine, texts

MANY = 20
SOME = 6


def hub_processes(home: Path) -> list[int]:
    """Processes that run the hub of this data directory, as far as this system tells."""
    if not Path("/proc/self/environ").exists():
        listed = subprocess.run(["ps", "axeww", "-o", "pid=,command="], capture_output=True, check=True)
        lines = listed.stdout.decode(errors="replace").splitlines()
        ours = [line for line in lines if f"ECORELAY_HOME={home} " in line and "hub run" in line]
        return [int(line.split()[0]) for line in ours]
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
            environ = (directory / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if b"hub" in words and b"run" in words and f"ECORELAY_HOME={home}".encode() in environ:
            found.append(int(directory.name))
    return found


@pytest.mark.guarantee("single-hub")
async def test_twenty_adapters_started_at_once_get_one_hub_and_a_name_each(machine: Machine):
    async with AsyncExitStack() as stack:
        adapters = [
            await stack.enter_async_context(
                machine.assistant(directory=f"project-{number}", initialize=False)
            )
            for number in range(MANY)
        ]
        async with trio.open_nursery() as nursery:
            for adapter in adapters:
                nursery.start_soon(adapter.initialize)
        names = [await adapter.me() for adapter in adapters]
        assert names == [f"project-{number}" for number in range(MANY)]
        assert hub_processes(machine.home) == [machine.hub_pid]
        assert machine.hubs_started() == 1
        listed = (await adapters[0].call("peers"))["peers"]
        assert {peer["name"] for peer in listed if peer["online"]} == set(names[1:])


@pytest.mark.guarantee("single-hub")
@pytest.mark.guarantee("identity-kept")
async def test_adapters_started_at_once_in_one_directory_get_a_name_each(machine: Machine):
    async with AsyncExitStack() as stack:
        adapters = [
            await stack.enter_async_context(machine.assistant(directory="backend", initialize=False))
            for _ in range(SOME)
        ]
        async with trio.open_nursery() as nursery:
            for adapter in adapters:
                nursery.start_soon(adapter.initialize)
        names = [await adapter.me() for adapter in adapters]
        expected = ["backend", *(f"backend-{number}" for number in range(2, SOME + 1))]
        assert sorted(names) == sorted(expected)
        assert machine.hubs_started() == 1
        for adapter, name in zip(adapters, names, strict=True):
            assert f'You are "{name}"' in adapter.instructions


# --- one directory ---------------------------------------------------------------------------------------


@pytest.mark.guarantee("same-directory-no-swap")
async def test_two_sessions_in_one_directory_keep_their_names_and_their_mail(machine: Machine):
    async with machine.assistants("ann") as (ann,):
        async with machine.assistant(directory="backend") as one:
            async with machine.assistant(directory="backend") as two:
                assert [await one.me(), await two.me()] == ["backend", "backend-2"]
        for name in ("backend", "backend-2"):
            await ann.call("send", to=name, text=f"for {name}")
        async with machine.assistant(directory="backend") as one:
            async with machine.assistant(directory="backend") as two:
                assert texts(await one.read_all()) == ["for backend"]
                assert texts(await two.read_all()) == ["for backend-2"]
                assert [await one.me(), await two.me()] == ["backend", "backend-2"]


@pytest.mark.guarantee("same-directory-no-swap")
@pytest.mark.guarantee("identity-kept")
async def test_sessions_with_an_id_get_their_own_name_back_in_whatever_order_they_return(machine: Machine):
    first = {"CLAUDE_CODE_SESSION_ID": "first"}
    second = {"CLAUDE_CODE_SESSION_ID": "second"}
    async with machine.assistants("ann") as (ann,):
        async with (
            machine.assistant(directory="backend", environ=first) as one,
            machine.assistant(directory="backend", environ=second) as two,
        ):
            assert [await one.me(), await two.me()] == ["backend", "backend-2"]
        for name in ("backend", "backend-2"):
            await ann.call("send", to=name, text=f"for {name}")
        await machine.end_hub()
        async with (
            machine.assistant(directory="backend", environ=second) as two,
            machine.assistant(directory="backend", environ=first) as one,
        ):
            assert [await one.me(), await two.me()] == ["backend", "backend-2"]
            assert texts(await one.read_all()) == ["for backend"]
            assert texts(await two.read_all()) == ["for backend-2"]


@pytest.mark.guarantee("identity-kept")
async def test_a_returning_session_gets_its_groups_and_its_own_chosen_name_back(machine: Machine):
    mine = {"CLAUDE_CODE_SESSION_ID": "s-1"}
    async with machine.assistant(directory="backend", environ=mine) as ann:
        await ann.call("rename", new_name="reviewer")
        await ann.call("group_create", name="team", members=[])
    await machine.end_hub()
    async with machine.assistant(directory="backend", environ=mine) as ann:
        assert 'You are "reviewer"' in ann.instructions
        assert (await ann.call("group_info", group="team"))["admin"] == "reviewer"


# --- one name --------------------------------------------------------------------------------------------


@pytest.mark.guarantee("name-first-wins")
async def test_a_pinned_name_stays_with_the_living_session_and_the_second_is_told(either: Machine):
    name = either.name("ann")
    async with either.assistant(name) as one, either.assistant(name.upper()) as two:
        assert await one.me() == name
        assert await two.me() == f"{name.upper()}-2"
        assert f'You are "{name.upper()}-2"' in two.instructions
        assert f"Note: the name {name.upper()} was taken" in two.instructions
        assert "Note:" not in one.instructions
        await one.call("send", to=name, text="for the first")
        await one.call("send", to=f"{name}-2", text="for the second")
        assert texts(await one.read_all()) == ["for the first"]
        assert texts(await two.read_all()) == ["for the second"]


@pytest.mark.guarantee("zombie-take-over")
async def test_a_holder_that_was_killed_is_replaced_at_once(either: Machine):
    name = either.name("ann")
    async with either.assistants("ben") as (ben,):
        async with either.assistant(name, leave=False) as dead:
            await ben.call("send", to=name, text="for whoever is ann")
            await dead.kill()
            async with either.assistant(name) as alive:
                assert await alive.me() == name
                assert texts(await alive.read_all()) == ["for whoever is ann"]


@pytest.mark.guarantee("zombie-take-over")
@pytest.mark.guarantee("name-first-wins")
async def test_a_session_that_stands_still_is_replaced_by_its_successor_and_by_nobody_else(machine: Machine):
    session = {"CLAUDE_CODE_SESSION_ID": "s-1"}
    async with machine.assistant("ann", leave=False, environ=session) as stuck:
        stuck.stop()
        async with machine.assistant("ann", environ={"CLAUDE_CODE_SESSION_ID": "s-2"}) as stranger:
            assert await stranger.me() == "ann-2"
        async with machine.assistant("ann", environ=session) as successor:
            await successor.call("send", to="ann", text="still here")
            assert await successor.me() == "ann"
            # It wakes up, is told, and does not fight for the name.
            stuck.process.send_signal(signal.SIGCONT)
            said = await stuck.refused("inbox")
            assert said["code"] == "name_taken"
            assert "another session took over ann" in said["message"]
            assert await successor.me() == "ann"
            assert texts(await successor.read_all()) == ["still here"]
        assert (await machine.status())["counters"]["sessions_taken_over"] == 1


async def test_a_name_that_is_none_is_spelled_as_one_and_the_session_is_told(machine: Machine):
    async with machine.assistant(directory="d", environ={"RELAY_PEER_ID": "Über den/Wolken\u202e"}) as ann:
        assert await ann.me() == "ber-den-Wolken"
        assert "is no valid name" in ann.instructions
    async with machine.assistant(directory="e", environ={"RELAY_PEER_ID": "  "}) as ann:
        assert await ann.me() == "e"
    async with machine.assistant(directory="é 鍵") as ann:
        assert await ann.me() == "peer"


async def test_peers_show_directory_branch_and_client(machine: Machine):
    git = machine.directory("backend") / ".git"
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/fix/läuft\n")
    async with machine.assistants("ann") as (ann,):
        async with machine.assistant(directory="backend", client="codex-mcp-client"):
            [peer] = (await ann.call("peers"))["peers"]
            assert peer.pop("last_seen")
            assert peer == {
                "name": "backend",
                "online": True,
                "cwd": str(machine.directory("backend")),
                "git_branch": "fix/läuft",
                "client": "codex",
            }
        for match in ("BACK", "Läuft", "projects/backend"):
            [peer] = (await ann.call("peers", match=match))["peers"]
            assert peer["online"] is False
        assert (await ann.call("peers", match="nothing like it"))["peers"] == []


async def test_an_adapter_whose_directory_was_removed_serves_all_the_same(machine: Machine):
    async with machine.assistant(directory="gone", initialize=False) as ann:
        await ann.ask("ping")
        os.rmdir(machine.directory("gone"))
        await ann.initialize()
        assert await ann.me()
