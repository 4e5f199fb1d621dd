"""Files are removed under a hub that runs: by hand, or by what cleans directories."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.e2e.stage import Machine, texts, until


@pytest.mark.guarantee("removed-db-put-back")
async def test_a_database_removed_under_the_hub_is_there_again_even_when_the_hub_is_killed(machine: Machine):
    async with machine.assistants("ann", "ben") as (ann, ben):
        await ann.call("send", to=ben.name, text="before")
        for path in machine.home.glob("hub.db*"):
            path.unlink()
        for number in range(3):
            await ann.call("send", to=ben.name, text=f"after {number}")
        [problem] = (await machine.status())["problems"]
        assert "hub.db was removed while the hub ran, and was put back with all mail in it" in problem
        await machine.end_hub(signal.SIGKILL)
        found = await ben.read_all()
        assert texts(found) == ["before", "after 0", "after 1", "after 2"]
        assert (await machine.status())["problems"] == []


@pytest.mark.guarantee("removed-db-put-back")
async def test_with_the_data_directory_gone_nothing_is_acknowledged_until_another_hub_is_there(
    machine: Machine,
):
    async with machine.assistants("ann", "ben") as (ann, ben):
        await ann.call("send", to=ben.name, text="before")
        pid = machine.hub_pid
        shutil.rmtree(machine.home)
        said = await ann.refused("send", to=ben.name, text="into nothing")
        assert said["code"] == "mailbox_error"
        assert f"{machine.home} was removed while the hub ran: try again" in said["message"]
        await until(lambda: machine.endpoint is not None and machine.hub_pid != pid, "another hub")
        await until(lambda: (machine.home / "hub.log").exists())
        # The same sessions, under their names; what was removed with its directory is gone.
        assert await ben.me() == ben.name
        assert (await ann.call("send", to=ben.name, text="after"))["status"] == "queued"
        assert texts(await ben.read_all()) == ["after"]


async def test_a_socket_that_was_cleaned_away_is_made_again_by_the_same_hub(machine: Machine):
    async with machine.assistants("ann", "ben") as (ann, ben):
        await ann.call("send", to=ben.name, text="before")
        pid = machine.hub_pid
        machine.paths.socket.unlink()
        machine.paths.endpoint.write_bytes(b"garbled")
        # Who is connected notices nothing, and who comes is let in as soon as there is a door again.
        await ann.call("send", to=ben.name, text="meanwhile")
        await machine.cli("send", ben.name, "from outside")
        assert machine.hub_pid == pid
        assert texts(await ben.read_all()) == ["before", "meanwhile", "from outside"]
