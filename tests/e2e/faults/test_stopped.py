"""A hub that lives and does nothing: stopped by a signal, in a debugger, waiting for its disk."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import trio

from tests.e2e.stage import Machine, texts, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no process can be stopped there")


@pytest.mark.guarantee("stored-once")
async def test_what_is_sent_to_a_stopped_hub_is_stored_once_when_it_goes_on(machine: Machine):
    async with machine.assistants("ann", "ben") as (ann, ben):
        wait = await ben.begin("relay_inbox", wait=60)
        pid = machine.hub_pid
        os.kill(pid, signal.SIGSTOP)
        ids = [await ann.begin("relay_send", to=ben.name, text=str(number)) for number in range(20)]
        await trio.sleep(1.5)
        assert not any(ann.answered(id) for id in ids)
        os.kill(pid, signal.SIGCONT)
        sent = [(await ann.finish(id))["msg_id"] for id in ids]
        found = (await ben.finish(wait))["messages"] + await ben.read_all()
        assert [mail["msg_id"] for mail in found] == sent
        assert texts(found) == [str(number) for number in range(20)]


@pytest.mark.slow
async def test_a_stopped_hub_can_be_ended_and_nothing_that_was_acknowledged_is_lost(machine: Machine):
    async with machine.assistants("ann", "ben") as (ann, ben):
        await ann.call("send", to=ben.name, text="before")
        pid = machine.hub_pid
        os.kill(pid, signal.SIGSTOP)
        waiting = await ann.begin("relay_send", to=ben.name, text="meanwhile")
        said = await machine.cli("hub", "stop")  # after the 15 s in which a hub has to answer
        assert f"the hub does not answer: its process {pid} is ended".encode() in said.stderr
        assert (await ann.finish(waiting))["status"] == "queued"
        assert texts(await ben.read_all()) == ["before", "meanwhile"]
        assert machine.hub_pid != pid


@pytest.mark.soak
async def test_a_hub_stopped_for_longer_than_anybody_waits(machine: Machine):
    async with machine.assistants("ann", "ben") as (ann, ben):
        pid = machine.hub_pid
        os.kill(pid, signal.SIGSTOP)
        waiting = [await ann.begin("relay_send", to=ben.name, text=str(number)) for number in range(3)]
        for words in (("hub", "status"), ("peers",), ("send", ben.name, "from outside")):
            said = await machine.cli(*words, code=3)
            assert (
                f"its process {pid} was stopped (SIGSTOP, a debugger): `kill -CONT {pid}`".encode()
                in said.stderr
            )
        for id in waiting:
            answer = await ann.answer(id)
            # Whether it was stored is not known, and is not claimed.
            assert "it may have been stored, as " in answer["result"]["content"][0]["text"]
        os.kill(pid, signal.SIGCONT)
        await until(machine.hub_runs)
        await ann.call("send", to=ben.name, text="last")
        found = texts(await ben.read_all())
        assert found[-1] == "last"
        assert found[:-1] == [text for text in ("0", "1", "2") if text in found]
        assert machine.hub_pid == pid
