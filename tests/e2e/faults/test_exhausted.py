"""The hub has no descriptors left, no memory, no disk: who is served stays served, and it recovers."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.e2e.faults.kit import cpu_ticks, limited, resize, small_disk
from tests.e2e.stage import Machine, Refusal, texts

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are Linux's")


@linux
async def test_without_descriptors_sessions_go_on_and_who_comes_is_let_in_later(machine: Machine):
    async with machine.assistants("ann", "ben") as (ann, ben):
        await ann.call("send", to=ben.name, text="before")
        pid = machine.hub_pid
        highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
        let_in = trio.Event()

        async def come() -> None:
            async with machine.client(machine.name("late")):
                let_in.set()

        async with trio.open_nursery() as nursery:
            with limited(pid, "RLIMIT_NOFILE", highest + 1):
                before = cpu_ticks(pid)
                nursery.start_soon(come)
                for number in range(10):
                    await ann.call("send", to=ben.name, text=f"meanwhile {number}")
                    await trio.sleep(0.1)
                assert not let_in.is_set()
                # It tries again now and then, and does not turn in circles.
                assert cpu_ticks(pid) - before < os.sysconf("SC_CLK_TCK") / 2
            with trio.fail_after(30):
                await let_in.wait()
        assert machine.hub_pid == pid
        assert texts(await ben.read_all()) == ["before", *[f"meanwhile {number}" for number in range(10)]]
        assert (await machine.status())["counters"]["accept_failed"] > 0


@linux
async def test_without_memory_nothing_that_was_acknowledged_is_lost(tmp_path: Path):
    machine = Machine(tmp_path)
    sent: list[str] = []
    try:
        async with machine.assistants("ann", "ben") as (ann, ben):
            await ann.call("send", to=ben.name, text="before")
            pid = machine.hub_pid
            kibs = re.search(r"VmSize:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            assert kibs is not None
            with limited(pid, "RLIMIT_AS", int(kibs[1]) * 1024 + 2 * 1024 * 1024):
                for number in range(12):
                    text = f"{number} " + "x" * 400_000
                    with suppress(Refusal):
                        await ann.call("send", to=ben.name, text=text)
                        sent.append(text)
                    if machine.endpoint is None or machine.hub_pid != pid:
                        break  # it did not outlive that, and another one began
            await ann.call("send", to=ben.name, text="after")
            found: list[str] = []
            for mail in await ben.read_all():
                found.append(Path(mail["file"]).read_text() if "file" in mail else mail["text"])
            assert set(sent) <= set(found)
            assert found == sorted(set(found), key=found.index)
            assert (found[0], found[-1]) == ("before", "after")
    finally:
        for log in machine.home.glob("hub.log*"):
            # The only bug it may have met is that there was no memory.
            lines = [line for line in log.read_text().splitlines() if '"event":"crash"' in line]
            assert all("MemoryError" in line for line in lines), lines
            log.unlink()
        machine.close()


@pytest.mark.guarantee("full-disk")
async def test_a_disk_that_is_full_to_the_last_byte_keeps_what_it_has(tmp_path: Path):
    machine = Machine(tmp_path)
    with small_disk(machine.home, "1m"):
        try:
            async with machine.assistants("ann", "ben") as (ann, ben):
                sent: list[str] = []
                with pytest.raises(Refusal) as refusal:
                    while len(sent) < 200:
                        text = f"{len(sent)} " + "x" * 10_000
                        await ann.call("send", to=ben.name, text=text)
                        sent.append(text)
                assert refusal.value.fields["code"] == "mailbox_error"
                assert "the disk is full" in refusal.value.fields["message"]
                # The log cannot be moved into the file now either; what is in it is read all the same.
                await trio.sleep(0.5)
                assert texts((await ben.call("inbox", limit=1))["messages"]) == sent[:1]
                await machine.end_hub()
                # A start needs some bytes: a clear refusal, each time somebody asks, and no data is touched.
                for peer in (ann, ben):
                    said = await peer.refused("inbox")
                    assert said["code"] == "mailbox_error"
                    assert "full" in said["message"] or "No space left" in said["message"], said
                resize(machine.home, "20m")
                await ann.call("send", to=ben.name, text="room again")
                found = await ben.read_all()
                assert texts(found)[-len(sent) :] == [*sent[1:], "room again"]
        finally:
            machine.close()
