"""The hub goes and comes back in the middle of a session, and the assistant notices nothing."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.stage import POLL_S, Assistant, Machine, texts, until


async def settled(peer: Assistant, room: str) -> None:
    """Until it is back and has rejoined: what is said in a room reaches those who are in it."""
    with trio.fail_after(30):
        while True:
            if peer.name in await members(peer, room):
                return
            await trio.sleep(POLL_S)


async def members(peer: Assistant, room: str) -> list[str]:
    found = (await peer.call("rooms"))["rooms"]
    return [name for entry in found if entry["name"] == room for name in entry["members"]]


@pytest.mark.guarantee("reconnect-restores")
@pytest.mark.guarantee("identity-kept")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "restart"])
async def test_a_session_goes_on_under_its_name_in_its_rooms_with_its_mail(either: Machine, how: str):
    async with either.assistants("ann", "ben") as (ann, ben):
        room, group = either.name("den"), either.name("team")
        for peer in (ann, ben):
            await peer.call("join", room=room)
        await ann.call("group_create", name=group, members=[ben.name])
        await ben.call("group_history", group=group)
        await ann.call("send", to=ben.name, text="from before")
        wait = await ann.begin("relay_inbox", wait=60)
        before = either.hub_pid
        if how == "restart":
            await either.cli("hub", "restart")
        else:
            await either.end_hub(signal.Signals[how])
        # The next calls work as if nothing had been.
        assert await ben.me() == ben.name
        assert either.hub_pid != before
        assert texts((await ben.call("inbox"))["messages"]) == ["from before"]
        for peer in (ann, ben):
            await settled(peer, room)
        assert (await ben.call("room", room=room, text="still here?"))["delivered_count"] == 1
        [heard] = (await ann.finish(wait))["messages"]
        assert (heard["kind"], heard["text"]) == ("room", "still here?")
        assert (await ann.call("group_info", group=group))["members"] == [
            {"name": peer.name, "online": True} for peer in (ann, ben)
        ]
        await ben.call("group_send", group=group, text="and the group")
        assert texts((await ann.call("group_history", group=group))["messages"])[-1] == "and the group"
        assert not ann.notifications


@pytest.mark.guarantee("reconnect-restores")
async def test_an_open_wait_goes_on_at_the_next_hub(either: Machine):
    async with either.assistants("ann", "ben") as (ann, ben):
        wait = await ben.begin("relay_inbox", wait=60, meta={"progressToken": "w"})
        await ben.call("rooms")
        await either.end_hub(signal.SIGKILL)
        await ann.call("send", to=ben.name, text="to the one who waits")
        assert texts((await ben.finish(wait))["messages"]) == ["to the one who waits"]


@pytest.mark.guarantee("leased-until-confirmed")
async def test_a_page_confirmed_to_the_next_hub_is_seen_there(either: Machine):
    async with either.assistants("ann", "ben") as (ann, ben):
        await ann.call("send", to=ben.name, text="once")
        page = await ben.call("inbox")
        assert texts(page["messages"]) == ["once"]
        await either.end_hub(signal.SIGKILL)
        assert (await ben.call("inbox"))["messages"] in ([], [redelivered(page["messages"][0])])
        assert (await ben.call("inbox"))["messages"] == []


def redelivered(mail: dict) -> dict:
    return {**mail, "redelivered": True}


@pytest.mark.guarantee("durable-before-ack")
async def test_calls_in_the_moment_of_the_restart_are_carried_out_once(either: Machine):
    async with either.assistants("ann", "ben") as (ann, ben):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(either.cli, "hub", "restart")
            ids = [await ann.begin("relay_send", to=ben.name, text=f"note {number}") for number in range(200)]
            answers = [await ann.finish(id) for id in ids]
        assert len({answer["msg_id"] for answer in answers}) == 200
        found = await ben.read_all()
        assert texts(found) == [f"note {number}" for number in range(200)]


async def test_a_renamed_peer_keeps_its_new_name_and_a_peer_that_was_away_keeps_its_mail(shared: Machine):
    away = shared.name("ben")
    async with shared.assistant(away):
        pass
    async with shared.assistants("ann") as (ann,):
        new = shared.name("anne")
        await ann.call("rename", new_name=new)
        await ann.call("send", to=away, text="while you were away")
        await shared.end_hub()
        assert await ann.me() == new
        await ann.call("send", to=ann.name, text="to the old name")
        assert texts(await ann.read_all()) == ["to the old name"]
        async with shared.assistant(away) as ben:
            assert texts(await ben.read_all()) == ["while you were away"]


async def test_a_hub_that_nobody_needs_leaves_and_comes_back_on_demand(tmp_path: Path):
    machine = Machine(tmp_path, ECORELAY_KEEP_ALIVE="no", ECORELAY_IDLE_EXIT_S="0.1")
    try:
        async with machine.assistants("ann") as (ann,):
            await ann.call("send", to=ann.name, text="note to self")
            first = machine.hub_pid
        await until(lambda: not machine.hub_runs(), "the hub left")
        assert not machine.paths.endpoint.exists()
        assert not machine.paths.socket.exists()
        async with machine.assistant(ann.name) as again:
            assert machine.hub_pid != first
            assert texts(await again.read_all()) == ["note to self"]
        log = machine.paths.log.read_text()
        assert '"reason":"nobody needs it"' in log
        assert "crash" not in log
    finally:
        machine.close()


async def test_an_adapter_that_may_start_no_hub_says_so_and_works_once_one_is_there(machine: Machine):
    async with machine.assistant("ann", environ={"ECORELAY_SPAWN": "no"}) as ann:
        assert "the hub cannot be reached" in ann.instructions
        said = await ann.refused("peers")
        assert said["code"] == "hub_unreachable"
        assert "hub start" in said["message"]
        await machine.cli("hub", "start")
        assert await ann.me() == "ann"
        await machine.cli("hub", "stop")
        await machine.cli("hub", "start")
        assert await ann.me() == "ann"


async def test_settings_that_are_wrong_are_told_by_every_tool_until_they_are_right(machine: Machine):
    machine.home.mkdir(mode=0o700)
    machine.paths.config.write_text("transport = 'carrier pigeon'\n")
    async with machine.assistant("ann") as ann:
        assert "transport" in ann.instructions
        for _ in range(2):
            said = await ann.refused("peers")
            assert said["code"] == "bad_args"
            assert "transport" in said["message"]
        machine.paths.config.unlink()
        assert await ann.me() == "ann"


@pytest.mark.guarantee("no-text-in-logs")
async def test_no_text_is_in_any_log_and_no_key_in_the_hubs_environment(machine: Machine):
    secret = "the-treasure-is-under-the-oak"
    environ = {"ANTHROPIC_API_KEY": secret, "AWS_SECRET_ACCESS_KEY": secret}
    async with machine.assistant("ann", environ=environ) as ann:
        calls: dict[str, dict[str, Any]] = {
            "send": {"to": "ann", "text": secret},
            "broadcast": {"question": secret},
            "group_create": {"name": "team", "members": []},
            "group_send": {"group": "team", "text": secret},
            "join": {"room": "den"},
            "room": {"room": "den", "text": secret},
        }
        for tool, arguments in calls.items():
            await ann.call(tool, **arguments)
        await ann.refused("send", to="nobody", text=secret)
        await ann.write_bytes(
            b'{"jsonrpc":"2.0","id":99,"method":"tools/call","params":"%s\xff"}\n' % secret.encode()
        )
        await ann.read_all()
        await machine.end_hub(signal.SIGKILL)
        await ann.refused("send", to="nobody", text=secret)
        assert secret not in ann.stderr
        shown = Path(f"/proc/{machine.hub_pid}/environ")
        assert not shown.exists() or secret.encode() not in shown.read_bytes()
    await machine.end_hub()
    for log in machine.home.glob("*.log*"):
        assert secret not in log.read_text()
    for file in machine.home.rglob("*"):
        if file.is_file():
            assert file.stat().st_mode & 0o077 == 0, file
