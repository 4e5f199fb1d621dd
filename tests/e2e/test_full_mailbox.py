"""A ring that is full, and senders that are too quick: nothing goes without a word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ecorelay import wire
from tests.e2e.stage import Assistant, Machine, Refusal, texts

RING = 500
A_MINUTE = 600


@pytest.mark.guarantee("eviction-notice")
@pytest.mark.guarantee("notices-cause-no-notices")
@pytest.mark.guarantee("fifo")
async def test_the_501st_message_evicts_the_first_and_its_sender_is_told(machine: Machine):
    away = "ben"
    async with machine.assistant(away):
        pass
    async with machine.assistants("ann", "cal") as (ann, cal):
        ids = [await ann.begin("relay_send", to=away, text=f"note {number}") for number in range(RING)]
        for id in ids:
            answer = await ann.finish(id)
            assert answer["status"] == "queued"
            assert "unread" not in answer
        # Not yet: the ring is full, and nothing has left it.
        assert (await ann.call("inbox"))["messages"] == []
        await cal.call("send", to=away, text="one too many")
        page = await ann.call("inbox")
        [notice] = page["messages"]
        assert (notice["kind"], notice["from"]) == ("system", "here")
        assert notice["text"].startswith(f"1 message from you left the full mailbox of {away} unread")
        assert (await ann.call("inbox"))["messages"] == []
        assert (await cal.call("inbox"))["messages"] == []
        counters = (await machine.status())["counters"]
        assert counters["evicted_unread"] == 1
        told = (await machine.cli("hub", "status")).stdout.decode()
        assert "messages left a full mailbox unread" in told
        # More of them are one notice, and what was told is not told again.
        for number in range(3):
            await ann.call("send", to=away, text=f"more {number}")
        [notice] = (await ann.call("inbox"))["messages"]
        assert notice["text"].startswith("3 messages from you")
        async with machine.assistant(away) as ben:
            found = await ben.read_all()
        expected = [f"note {number}" for number in range(4, RING)]
        assert texts(found) == [*expected, "one too many", "more 0", "more 1", "more 2"]


@pytest.mark.guarantee("page-fits")
async def test_many_notices_are_told_page_by_page_beside_the_mail(tmp_path: Path):
    machine = Machine(tmp_path, ECORELAY_LIMITS_MAILBOX_MESSAGES="1")
    names = [f"{'n' * 60}-{number:03}" for number in range(60)]
    try:
        async with machine.assistants("ann") as (ann,):
            async with machine.client(None, role="observer", create=False) as client:
                for name in names:
                    await client.request(wire.AddPeer(req_id=0, op_id=client.new_id(), name=name))
            for name in names * 2:
                await ann.call("send", to=name, text="x")
            await ann.call("send", to=ann.name, text="m" * 17_000)
            found = []
            while page := (await ann.call("inbox"))["messages"]:
                found += page
            assert ann.longest < 20_000
            told = [notice["text"] for notice in found if notice["kind"] == "system"]
            assert all(any(name in text for text in told) for name in names)
            assert len(told) == len(set(told)) == 60
            assert len(found) == 61
    finally:
        machine.close()


@pytest.mark.guarantee("eviction-notice")
async def test_mail_that_was_read_makes_room_first_and_nobody_is_told(tmp_path: Path):
    machine = Machine(tmp_path, ECORELAY_LIMITS_MAILBOX_MESSAGES="5")
    try:
        async with machine.assistants("ann", "ben") as (ann, ben):
            for number in range(5):
                await ann.call("send", to=ben.name, text=f"read {number}")
            read = await ben.read_all()
            assert len(read) == 5
            await machine.seen(ben.name, read[-1]["msg_id"])
            for number in range(5):
                await ann.call("send", to=ben.name, text=f"unread {number}")
            assert (await ann.call("inbox"))["messages"] == []
            assert texts(await ben.read_all()) == [f"unread {number}" for number in range(5)]
            assert "evicted_unread" not in (await machine.status())["counters"]
    finally:
        machine.close()


async def test_a_group_keeps_its_latest_lines_and_says_how_many_were_missed(tmp_path: Path):
    machine = Machine(tmp_path, ECORELAY_LIMITS_MAILBOX_MESSAGES="5")
    try:
        async with machine.assistants("ann", "ben") as (ann, ben):
            await ann.call("group_create", name="team", members=[ben.name])
            for number in range(8):
                await ann.call("group_send", group="team", text=f"line {number}")
            page = await ben.call("group_history", group="team")
            assert texts(page["messages"]) == [f"line {number}" for number in range(3, 8)]
            assert page["missed"] == 4
            assert page["unread_remaining"] == 0
    finally:
        machine.close()


async def test_room_messages_over_their_room_in_memory_are_counted(tmp_path: Path):
    machine = Machine(tmp_path, ECORELAY_LIMITS_ROOM_BACKLOG_BYTES="1000")
    try:
        async with machine.assistants("ann", "ben") as (ann, ben):
            for peer in (ann, ben):
                await peer.call("join", room="den")
            for number in range(5):
                await ann.call("room", room="den", text=f"{number}" + "x" * 399)
            page = await ben.call("inbox")
            assert [text[0] for text in texts(page["messages"])] == ["3", "4"]
            assert page["missed"] == 3
            assert "missed" not in await ben.call("inbox")
    finally:
        machine.close()


@pytest.mark.guarantee("rate-guard")
async def test_a_sender_over_its_rate_is_told_how_long_to_wait_and_nothing_is_stored(tmp_path: Path):
    machine = Machine(tmp_path, ECORELAY_LIMITS_MAILBOX_MESSAGES="2000")
    try:
        async with machine.assistants("ann", "ben", "cal") as (ann, ben, cal):
            ids = [await ann.begin("relay_send", to=ben.name, text=f"{number}") for number in range(620)]
            refused = [fields for id in ids if (fields := await refusal(ann, id))]
            assert len(refused) == 620 - A_MINUTE
            assert {fields["code"] for fields in refused} == {"limit_reached"}
            assert all(re.search(r"wait \d+ s", fields["message"]) for fields in refused)
            # Others, and other recipients, are not concerned.
            await ann.call("send", to=cal.name, text="to another")
            await cal.call("send", to=ben.name, text="from another")
            found = texts(await ben.read_all())
            assert found == [*(f"{number}" for number in range(A_MINUTE)), "from another"]
            for _ in range(60):
                await ann.call("broadcast", question="?")
            assert (await ann.refused("broadcast", question="?"))["code"] == "limit_reached"
    finally:
        machine.close()


async def refusal(peer: Assistant, id: int) -> dict[str, Any] | None:
    """The error a call was answered with, if it was."""
    try:
        await peer.finish(id)
    except Refusal as error:
        return error.fields
    return None
