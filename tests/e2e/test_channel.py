"""Mail pushed into a session as MCP channel notifications, ``ecorelay mcp --carrier channel``."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio

from tests.e2e.stage import Assistant, Machine, texts

METHOD = "notifications/claude/channel"
CARRIER = ("--carrier", "channel")
KEY = re.compile(r"[A-Za-z0-9_]+")
KINDS = {"message", "ask", "reply", "room", "group", "system"}


async def pushed(peer: Assistant, count: int) -> list[dict[str, Any]]:
    """The parameters of the first `count` channel notifications."""

    def come() -> list[dict[str, Any]]:
        return [told["params"] for told in peer.notifications if told["method"] == METHOD]

    await peer.hear(lambda: len(come()) >= count)
    found = come()
    assert len(found) == count
    for params in found:
        assert params.keys() == {"content", "meta"}
        assert all(KEY.fullmatch(key) for key in params["meta"])
        assert all(isinstance(value, str) and value for value in params["meta"].values())
        assert params["meta"]["kind"] in KINDS
    return found


@pytest.mark.guarantee("delivered-is-proved")
async def test_a_pushed_message_is_delivered_and_a_stub_in_the_inbox_once(either: Machine):
    async with (
        either.assistants("ann") as (ann,),
        either.assistants("ben", arguments=CARRIER) as (ben,),
    ):
        assert ben.initialized["result"]["capabilities"]["experimental"] == {"claude/channel": {}}
        assert "Incoming" in ben.instructions
        assert "Nothing is pushed" in ann.instructions
        sent = await ann.call("send", to=ben.name, text="hello, <channel> </channel>", urgent=True)
        assert sent["status"] == "delivered"
        [params] = await pushed(ben, 1)
        assert params["content"] == "hello, &lt;channel> &lt;/channel>"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", params["meta"].pop("ts"))
        assert params["meta"] == {
            "from": ann.name,
            "kind": "message",
            "msg_id": sent["msg_id"],
            "urgent": "true",
        }
        page = await ben.call("inbox")
        assert "unread" not in page
        [stub] = page["messages"]
        assert stub.pop("age")
        assert stub.pop("ts")
        assert stub.pop("pushed")
        assert stub == {"msg_id": sent["msg_id"], "kind": "message", "from": ann.name, "urgent": True}
        assert (await ben.call("inbox"))["messages"] == []
        [whole] = (await ben.call("inbox", since_id=sent["msg_id"]))["messages"]
        assert whole["text"] == "hello, <channel> </channel>"
        listed = (await ann.call("peers", match=ben.name))["peers"]
        assert [peer["online"] for peer in listed] == [True]


async def test_every_kind_of_mail_is_pushed_in_its_shape(either: Machine):
    async with (
        either.assistants("ann") as (ann,),
        either.assistants("ben", arguments=CARRIER) as (ben,),
    ):
        room, group = either.name("den"), either.name("team")
        for peer in (ann, ben):
            await peer.call("join", room=room)
        await ann.call("room", room=room, text="in the room")
        asked = await ann.call("broadcast", question="who?")
        await pushed(ben, 2)
        mine = await ben.call("send", to=ann.name, text="question")
        await ann.call("inbox")
        answered = await ann.call("reply", ask_id=mine["msg_id"], text="answer")
        assert answered["status"] == "delivered"
        await ann.call("group_create", name=group, members=[ben.name])
        said = await ann.call("group_send", group=group, text="to the group")
        await ann.call("group_delete", group=group)
        in_room, ask, reply, created, line, deleted = await pushed(ben, 6)
        assert (in_room["meta"]["kind"], in_room["meta"]["room"]) == ("room", room)
        assert (ask["meta"]["ask_id"], ask["meta"]["broadcast_id"]) == (asked["broadcast_id"],) * 2
        assert "msg_id" not in ask["meta"]
        assert (reply["meta"]["reply_to"], reply["content"]) == (mine["msg_id"], "answer")
        assert (created["meta"]["kind"], created["meta"]["group"]) == ("system", group)
        assert (line["meta"]["kind"], line["meta"]["group"]) == ("group", group)
        assert (line["meta"]["msg_id"], line["content"]) == (said["msg_id"], "to the group")
        assert deleted["meta"]["kind"] == "system"
        assert group in deleted["content"]
        # It can be answered by the id it came with.
        await ben.call("reply", ask_id=ask["meta"]["ask_id"], text="me")
        assert texts((await ann.call("inbox"))["messages"])[-1] == "me"


@pytest.mark.guarantee("pushed-is-not-seen")
async def test_mail_pushed_to_a_session_that_died_is_unread_for_the_next(either: Machine):
    name = either.name("ben")
    async with either.assistants("ann") as (ann,):
        async with either.assistant(name, arguments=CARRIER, leave=False) as ben:
            sent = await ann.call("send", to=name, text="seen by nobody")
            assert sent["status"] == "delivered"
            await pushed(ben, 1)
            await ben.kill()
        async with either.assistant(name) as again:
            [mail] = (await again.call("inbox"))["messages"]
            assert mail["text"] == "seen by nobody"
            assert mail["pushed"]


async def test_mail_that_waited_is_pushed_in_order_when_the_session_comes(either: Machine):
    name = either.name("ben")
    async with either.assistant(name):
        pass
    async with either.assistants("ann") as (ann,):
        for number in range(20):
            await ann.call("send", to=name, text=f"note {number}")
        async with either.assistant(name, arguments=CARRIER) as ben:
            found = await pushed(ben, 20)
            assert [params["content"] for params in found] == [f"note {number}" for number in range(20)]
            assert (await ann.call("send", to=name, text="live"))["status"] == "delivered"


@pytest.mark.guarantee("delivered-is-proved")
async def test_nothing_is_pushed_before_the_client_is_ready_and_nothing_is_claimed(shared: Machine):
    async with shared.assistants("ann") as (ann,):
        name = shared.name("ben")
        async with shared.assistant(name, arguments=CARRIER, initialize=False) as ben:
            request = ben.make(
                "initialize",
                {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c"}},
            )
            await ben.write(request)
            await ben.answer(request["id"])
            assert (await ann.call("send", to=name, text="too early"))["status"] == "queued"
            assert ben.notifications == []
            await ben.write({"method": "notifications/initialized"})
            [params] = await pushed(ben, 1)
            assert params["content"] == "too early"


async def test_pushes_go_on_after_the_hub_was_restarted(either: Machine):
    async with (
        either.assistants("ann") as (ann,),
        either.assistants("ben", arguments=CARRIER) as (ben,),
    ):
        await ann.call("send", to=ben.name, text="before")
        await pushed(ben, 1)
        await either.end_hub()
        await ann.call("send", to=ben.name, text="after")
        with trio.fail_after(20):
            while "after" not in [params["content"] for params in notified(ben)]:
                await ben.ask("ping")
        assert {params["content"] for params in notified(ben)} == {"before", "after"}


def notified(peer: Assistant) -> list[dict[str, Any]]:
    return [told["params"] for told in peer.notifications if told["method"] == METHOD]
