"""Reading mail: pages, what counts as seen, waiting, and what is given up or cut off on the way."""

from __future__ import annotations

import random

import pytest
import trio

from ecorelay import wire
from ecorelay.wire import TEXT_MAX
from tests.e2e.stage import Assistant, Machine, giving_up, texts

RESULT_MAX = 20_000
SHOWN_OF_LONG = 16_000


async def fill(machine: Machine, to: str, messages: list[str]) -> None:
    """Put these into a mailbox, in order."""
    async with machine.client(machine.name("filler")) as client, trio.open_nursery() as nursery:
        for text in messages:
            frame = wire.Send(req_id=0, op_id=client.new_id(), to=to, text=text)
            nursery.start_soon(client.request, frame)
            await trio.lowlevel.checkpoint()  # tasks of one moment start in any order


# --- pages -----------------------------------------------------------------------------------------------


@pytest.mark.guarantee("page-fits")
async def test_150_messages_of_8_kib_are_read_page_by_page_and_none_is_dropped(shared: Machine):
    async with shared.assistants("ben") as (ben,):
        sent = [f"{number:03} " + "m" * 8_188 for number in range(150)]
        await fill(shared, ben.name, sent)
        assert texts(await ben.read_all()) == sent
        assert ben.longest < RESULT_MAX


@pytest.mark.guarantee("page-fits")
async def test_messages_of_mixed_sizes_are_read_page_by_page_and_none_is_dropped(shared: Machine):
    rng = random.Random(3)
    async with shared.assistants("ben") as (ben,):
        alphabets = ["plain words ", '"\\\n', "é鍵😀", "\u0000\u0007\u2028"]
        sent = [
            (rng.choice(alphabets) * 20_000)[: rng.choice((1, 50, 700, 5_000, 12_000, 17_990, 40_000))]
            for _ in range(100)
        ]
        await fill(shared, ben.name, sent)
        pages = 0
        found = []
        while page := (await ben.call("inbox", limit=100))["messages"]:
            pages += 1
            if len(page) > 1:
                assert ben.longest < RESULT_MAX
            found += page
            ben.longest = 0
        assert len(found) == len(sent)
        for mail, text in zip(found, sent, strict=True):
            if mail.get("truncated"):
                assert len(text) > SHOWN_OF_LONG / 6  # escapes may take six characters for one
                with open(mail["file"], encoding="utf-8", newline="") as file:
                    assert file.read() == text
                assert mail["size"] == len(text.encode())
                assert text.startswith(mail["text"])
            else:
                assert mail["text"] == text
        assert pages > 20


@pytest.mark.guarantee("long-message-whole")
async def test_a_long_message_comes_alone_cut_and_with_the_path_of_the_whole(shared: Machine):
    async with shared.assistants("ben") as (ben,):
        longest = "x" * TEXT_MAX
        await fill(shared, ben.name, ["before", "y" * 20_001, "after", longest])
        assert texts((await ben.call("inbox"))["messages"]) == ["before"]
        page = await ben.call("inbox")
        [mail] = page["messages"]
        assert mail["text"] == "y" * SHOWN_OF_LONG
        assert (mail["truncated"], mail["size"]) == (True, 20_001)
        assert page["remaining"] == 2
        assert texts((await ben.call("inbox"))["messages"]) == ["after"]
        [mail] = (await ben.call("inbox"))["messages"]
        with open(mail["file"], encoding="utf-8") as file:
            assert file.read() == longest
        assert ben.longest < RESULT_MAX


async def test_what_was_read_can_be_shown_again_while_it_is_in_the_ring(shared: Machine):
    async with shared.assistants("ben") as (ben,):
        await fill(shared, ben.name, ["one", "two", "three"])
        found = await ben.read_all()
        again = await ben.call("inbox", since_id=found[1]["msg_id"])
        assert texts(again["messages"]) == ["two", "three"]
        assert all(mail["seen"] for mail in again["messages"])


@pytest.mark.guarantee("page-fits")
async def test_a_long_list_of_peers_is_cut_at_the_size_of_a_result(machine: Machine):
    async with machine.assistants("ann") as (ann,):
        async with machine.client(None, role="observer", create=False) as client:
            async with trio.open_nursery() as nursery:
                for number in range(400):
                    add = wire.AddPeer(req_id=0, op_id=client.new_id(), name=f"peer-{'x' * 50}-{number:03}")
                    nursery.start_soon(client.request, add)
        found = await ann.call("peers")
        assert ann.longest < RESULT_MAX
        assert 50 < len(found["peers"]) < 400
        assert len(found["peers"]) + found["more"] == 400


# --- what counts as seen ---------------------------------------------------------------------------------


@pytest.mark.guarantee("leased-until-confirmed")
@pytest.mark.guarantee("redelivered-is-marked")
async def test_a_page_whose_adapter_was_killed_is_unread_again_and_marked(either: Machine):
    name = either.name("ben")
    async with either.assistant(name, leave=False) as ben:
        await fill(either, name, ["one", "two"])
        page = await ben.call("inbox")
        assert texts(page["messages"]) == ["one", "two"]
        await ben.kill()
    async with either.assistant(name) as ben:
        again = (await ben.call("inbox"))["messages"]
        assert texts(again) == ["one", "two"]
        assert [mail["redelivered"] for mail in again] == [True, True]
        assert [mail["msg_id"] for mail in again] == [mail["msg_id"] for mail in page["messages"]]
        assert (await ben.call("inbox"))["messages"] == []


async def test_a_result_that_was_followed_by_another_request_is_seen_for_good(shared: Machine):
    name = shared.name("ben")
    async with shared.assistant(name, leave=False) as ben:
        await fill(shared, name, ["one"])
        [mail] = (await ben.call("inbox"))["messages"]
        await ben.ask("ping")
        await shared.seen(name, mail["msg_id"])
        await ben.kill()
    async with shared.assistant(name) as ben:
        assert (await ben.call("inbox"))["messages"] == []


async def test_a_result_that_was_followed_by_silence_is_seen_for_good(shared: Machine):
    name = shared.name("ben")
    async with shared.assistant(name, leave=False) as ben:
        await fill(shared, name, ["one"])
        [mail] = (await ben.call("inbox"))["messages"]
        await shared.seen(name, mail["msg_id"])
        await ben.kill()
    async with shared.assistant(name) as ben:
        assert (await ben.call("inbox"))["messages"] == []


@pytest.mark.guarantee("leased-until-confirmed")
async def test_two_readers_never_get_the_same_mail_at_once(shared: Machine):
    async with shared.assistants("ben") as (ben,):
        sent = [f"note {number}" for number in range(30)]
        await fill(shared, ben.name, sent)
        ids = [await ben.begin("relay_inbox", limit=7) for _ in range(6)]
        found = [text for id in ids for text in texts((await ben.finish(id))["messages"])]
        assert sorted(found) == sorted(sent)
        async with shared.client(ben.name) as beside:
            await fill(shared, ben.name, ["for one of us"])
            mine = await ben.call("inbox")
            theirs = await beside.request(wire.Inbox(req_id=0))
            assert texts(mine["messages"]) == ["for one of us"]
            assert theirs.messages == ()


# --- cut off ---------------------------------------------------------------------------------------------


@pytest.mark.guarantee("cancel-never-confirms")
async def test_a_page_whose_request_was_cancelled_stays_unread(either: Machine):
    async with either.assistants("ben") as (ben,):
        await fill(either, ben.name, ["precious"])
        for _ in range(2):
            # The answer may overtake the cancellation or not: both count as not seen.
            request = ben.make_call("relay_inbox")
            await ben.write(request, giving_up(request["id"]))
        id = await ben.begin("relay_inbox")
        await ben.hear(lambda: ben.answered(id))
        await ben.cancel(id)
        await ben.ask("ping")
        [mail] = (await ben.call("inbox"))["messages"]
        assert mail["text"] == "precious"
        assert mail["redelivered"] is True
        assert (await ben.call("inbox"))["messages"] == []


@pytest.mark.guarantee("cancel-never-confirms")
async def test_history_whose_request_was_cancelled_stays_unread(shared: Machine):
    async with shared.assistants("ann", "ben") as (ann, ben):
        group = shared.name("team")
        await ann.call("group_create", name=group, members=[ben.name])
        await ann.call("group_send", group=group, text="precious")
        id = await ben.begin("relay_group_history", group=group)
        await ben.hear(lambda: ben.answered(id))
        await ben.cancel(id)
        await ben.ask("ping")
        assert texts((await ben.call("group_history", group=group))["messages"])[-1] == "precious"
        assert (await ben.call("group_history", group=group))["messages"] == []


@pytest.mark.guarantee("adapter-ends-with-stdin")
async def test_mail_asked_for_by_a_client_that_left_at_once_is_still_there(shared: Machine):
    name = shared.name("ben")
    async with shared.assistant(name) as ben:
        await fill(shared, name, ["precious"])
        await ben.begin("relay_inbox")
        assert await ben.leave() == 0
    async with shared.assistant(name) as ben:
        assert texts((await ben.call("inbox"))["messages"]) == ["precious"]


@pytest.mark.guarantee("adapter-ends-with-stdin")
async def test_an_adapter_ends_when_its_client_leaves_although_a_call_waits(shared: Machine):
    name = shared.name("ben")
    async with shared.assistant(name) as ben:
        await ben.begin("relay_inbox", wait=600)
        await ben.ask("ping")
        assert await ben.leave() == 0
    async with shared.assistant(name, initialize=False) as ben:
        await ben.begin("relay_inbox", wait=600)
        await ben.ask("ping")
        ben.process.terminate()
        assert await ben.gone() == 0


@pytest.mark.guarantee("adapter-ends-with-stdin")
async def test_an_adapter_without_a_hub_ends_when_its_client_leaves(machine: Machine):
    async with machine.assistant("ben", initialize=False, environ={"ECORELAY_SPAWN": "no"}) as ben:
        assert await ben.leave() == 0
    async with machine.assistant("ben", environ={"ECORELAY_SPAWN": "no"}) as ben:
        assert "the hub cannot be reached" in ben.instructions
        await ben.begin("relay_inbox", wait=600)
        assert await ben.leave() == 0


# --- waiting ---------------------------------------------------------------------------------------------


async def waiting(ben: Assistant, machine: Machine, **options) -> int:
    """A relay_inbox(wait) that found nothing and waits in the hub."""
    id = await ben.begin("relay_inbox", wait=60, **options)
    # An answer to a later call of the same session: the earlier one has been looked at.
    await ben.call("rooms")
    assert not ben.answered(id)
    return id


@pytest.mark.parametrize("meta", [None, {"progressToken": "t-1"}], ids=["silent", "with a progress token"])
async def test_waiting_ends_when_mail_comes(either: Machine, meta):
    async with either.assistants("ann", "ben") as (ann, ben):
        id = await waiting(ben, either, meta=meta)
        await ann.call("send", to=ben.name, text="wake up")
        assert texts((await ben.finish(id))["messages"]) == ["wake up"]
        assert (await ben.call("inbox"))["messages"] == []


async def test_waiting_ends_for_room_and_group_messages_too(shared: Machine):
    async with shared.assistants("ann", "ben") as (ann, ben):
        room, group = shared.name("room"), shared.name("group")
        for peer in (ann, ben):
            await peer.call("join", room=room)
        id = await waiting(ben, shared)
        await ann.call("room", room=room, text="in the room")
        assert texts((await ben.finish(id))["messages"]) == ["in the room"]
        id = await waiting(ben, shared)
        await ann.call("group_create", name=group, members=[ben.name])
        assert (await ben.finish(id))["groups"] == [{"name": group, "unread_count": 1}]


async def test_waiting_for_nothing_ends_with_an_empty_page(shared: Machine):
    async with shared.assistants("ben") as (ben,):
        assert await ben.call("inbox", wait=0.2) == {"messages": [], "remaining": 0}


@pytest.mark.guarantee("cancel-never-confirms")
async def test_mail_that_comes_after_a_wait_was_given_up_is_not_lost(either: Machine):
    async with either.assistants("ann", "ben") as (ann, ben):
        id = await waiting(ben, either, meta={"progressToken": 1})
        await ben.cancel(id)
        await ann.call("send", to=ben.name, text="precious")
        [mail] = (await ben.call("inbox"))["messages"]
        assert mail["text"] == "precious"
        assert not ben.answered(id)
        # And in the same moment: either it was handed to the cancelled wait, or it was not.
        for number in range(10):
            id = await waiting(ben, either)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ben.cancel, id)
                await ann.call("send", to=ben.name, text=f"{number}")
            page = await ben.call("inbox", wait=30)
            assert texts(page["messages"]) == [f"{number}"]
