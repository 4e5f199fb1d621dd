"""The wall clock is set back and forward under a hub that runs, and between two hubs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.faults.kit import clocked_hub
from tests.e2e.stage import Machine, texts

DAY = 86_400
SHIFTS = (0, -DAY, 365 * DAY, 0, -20 * 365 * DAY, 50 * 365 * DAY, -DAY)


@pytest.mark.guarantee("clock-jump-keeps-mail")
@pytest.mark.guarantee("fifo")
async def test_no_jump_of_the_clock_loses_mail_or_a_session_or_the_order(tmp_path: Path):
    machine = Machine(tmp_path, ECORELAY_SPAWN="no")
    clock = tmp_path / "clock"
    try:
        async with clocked_hub(machine, clock):
            async with machine.assistants("ann", "ben") as (ann, ben):
                await ann.call("group_create", name="team", members=[ben.name])
                wanted: list[str] = []
                for number, shift in enumerate(SHIFTS):
                    clock.write_text(str(shift))
                    for text in (f"{number} a", f"{number} b"):
                        await ann.call("send", to=ben.name, text=text)
                        await ann.call("group_send", group="team", text=text)
                        wanted.append(text)
                pid = machine.hub_pid
                first = await ben.call("inbox", limit=5)
                assert texts(first["messages"]) == wanted[:5]
                await machine.seen(ben.name, first["messages"][-1]["msg_id"])
            # The next one begins under yet another clock.
        clock.write_text(str(400 * DAY))
        async with clocked_hub(machine, clock):
            assert machine.hub_pid != pid
            async with machine.assistant(ben.name) as ben:
                assert texts(await ben.read_all()) == wanted[5:]
                lines = (await ben.call("group_history", group="team", limit=100))["messages"]
                assert [line["text"] for line in lines if line["type"] == "message"] == wanted
    finally:
        machine.close()
