"""Mail between two assistants, as the tools show it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stage import Machine, mode_of, texts

ID = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
RESULT_MAX = 20_000


@pytest.mark.guarantee("no-cut-multibyte")
async def test_a_question_is_asked_read_and_answered(either: Machine):
    async with either.assistants("ann", "ben") as (ann, ben):
        sent = await ann.call("send", to=ben.name, text="which branch has the fix?", urgent=True)
        assert ID.fullmatch(sent["msg_id"])
        assert sent == {"msg_id": sent["msg_id"], "status": "queued"}
        page = await ben.call("inbox")
        assert page["remaining"] == 0
        [mail] = page["messages"]
        assert TIME.fullmatch(mail.pop("ts"))
        assert mail.pop("age") == "just now"
        assert mail == {
            "msg_id": sent["msg_id"],
            "kind": "message",
            "from": ann.name,
            "urgent": True,
            "text": "which branch has the fix?",
        }
        answered = await ben.call("reply", ask_id=sent["msg_id"], text="fix/läuft")
        assert answered == {"ok": True, "msg_id": answered["msg_id"], "status": "queued"}
        [answer] = (await ann.call("inbox"))["messages"]
        assert (answer["kind"], answer["from"], answer["reply_to"], answer["text"]) == (
            "reply",
            ben.name,
            sent["msg_id"],
            "fix/läuft",
        )
        assert (await ann.call("inbox"))["messages"] == []


@pytest.mark.guarantee("mailbox-outlives-session")
@pytest.mark.guarantee("fifo")
async def test_mail_for_a_peer_that_is_away_waits_in_order(either: Machine):
    name = either.name("ben")
    async with either.assistant(name):
        pass
    async with either.assistants("ann") as (ann,):
        sent = [await ann.call("send", to=name, text=f"note {number}") for number in range(5)]
        assert {answer["status"] for answer in sent} == {"queued"}
    async with either.assistant(name) as ben:
        assert texts(await ben.read_all(limit=2)) == [f"note {number}" for number in range(5)]


@pytest.mark.guarantee("unknown-target-error")
@pytest.mark.guarantee("caps-spare-the-innocent")
async def test_mail_to_nobody_is_an_error_with_the_nearest_names_and_makes_no_mailbox(shared: Machine):
    async with shared.assistants("frontend") as (ann,):
        before = (await shared.status())["peers"]
        said = await ann.refused("send", to="fronted", text="hello")
        assert said["code"] == "peer_not_found"
        assert "frontend" in said["message"]
        for number in range(20):
            assert (await ann.refused("send", to=f"invented-{number}", text="x"))["code"] == "peer_not_found"
        said = await ann.refused("send", to=f"{ann.name}@mars", text="hello")
        assert said["code"] == "hub_not_found"
        assert "mars" in said["message"]
        assert (await ann.refused("reply", ask_id="nothing", text="x"))["code"] == "unknown_ask"
        assert (await ann.refused("reply", ask_id="0" * 26, text="x"))["code"] == "unknown_ask"
        assert (await shared.status())["peers"] == before
        own = await ann.call("send", to=f"{ann.name}@here", text="to myself, by my full address")
        assert own["status"] == "queued"


async def test_everybody_online_is_asked_and_the_answers_come_back_marked(either: Machine):
    async with either.assistants("ann", "ben", "cal") as (ann, ben, cal):
        asked = await ann.call("broadcast", question="who has the lock?")
        assert asked == {"ok": True, "broadcast_id": asked["broadcast_id"], "peer_count": 2}
        for peer in (ben, cal):
            [ask] = (await peer.call("inbox"))["messages"]
            assert (ask["kind"], ask["ask_id"], ask["broadcast_id"]) == (
                "ask",
                asked["broadcast_id"],
                asked["broadcast_id"],
            )
            await peer.call("reply", ask_id=ask["ask_id"], text=f"not {peer.name}")
        answers = await ann.read_all()
        assert {answer["broadcast_id"] for answer in answers} == {asked["broadcast_id"]}
        assert sorted(texts(answers)) == sorted([f"not {ben.name}", f"not {cal.name}"])
        myself = await ann.call("broadcast", question="and me?", exclude_self=False)
        assert myself["peer_count"] == 3
        assert texts((await ann.call("inbox"))["messages"]) == ["and me?"]


@pytest.mark.guarantee("unread-on-every-result")
async def test_every_result_says_how_much_is_unread(shared: Machine):
    async with shared.assistants("ann", "ben") as (ann, ben):
        await ben.call("send", to=ann.name, text="read before")
        [read] = (await ann.call("inbox"))["messages"]
        await ann.call("rooms")
        for text in ("one", "two"):
            await ben.call("send", to=ann.name, text=text)
        group, room, name = shared.name("group"), shared.name("room"), shared.name("anne")
        calls: dict[str, dict[str, Any]] = {
            "peers": {},
            "send": {"to": ben.name, "text": "x"},
            "reply": {"ask_id": read["msg_id"], "text": "x"},
            "broadcast": {"question": "x"},
            "rename": {"new_name": name},
            "join": {"room": room},
            "room": {"room": room, "text": "x"},
            "rooms": {},
            "leave": {"room": room},
            "group_create": {"name": group, "members": []},
            "group_invite": {"group": group, "peer": ben.name},
            "group_remove": {"group": group, "peer": ben.name, "reason": "x"},
            "group_send": {"group": group, "text": "x"},
            "group_history": {"group": group},
            "group_list": {},
            "group_info": {"group": group},
            "group_delete": {"group": group},
        }
        for tool, arguments in calls.items():
            assert (await ann.call(tool, **arguments))["unread"] == 2, tool
        for tool, arguments in {**calls, "group_leave": {"group": group}}.items():
            if tool in ("send", "room", "group_send", "reply"):
                arguments = {**arguments, "text": ""}
            elif "group" in arguments:
                arguments = {**arguments, "group": "nowhere"}
            else:
                continue
            assert (await ann.refused(tool, **arguments))["unread"] == 2, tool
        page = await ann.call("inbox", limit=1)
        assert page["unread"] == 1
        assert page["remaining"] == 1
        assert "unread" not in await ann.call("inbox")


async def test_rooms_are_live_and_forget(either: Machine):
    async with either.assistants("ann", "ben") as (ann, ben):
        room = either.name("den")
        assert await ann.call("join", room=room) == {"ok": True, "room": room, "members": [ann.name]}
        joined = await ben.call("join", room=f"{room.upper()}@HERE")
        assert joined == {"ok": True, "room": room, "members": [ann.name, ben.name]}
        assert {"name": room, "members": [ann.name, ben.name]} in (await ann.call("rooms"))["rooms"]
        said = await ann.call("room", room=room, text="hello, room")
        assert said == {"ok": True, "room": room, "delivered_count": 1}
        [heard] = (await ben.call("inbox"))["messages"]
        assert (heard["kind"], heard["room"], heard["from"], heard["text"]) == (
            "room",
            room,
            ann.name,
            "hello, room",
        )
        for _ in range(2):
            assert await ben.call("leave", room=room) == {"ok": True}
        assert (await ben.refused("room", room=room, text="x"))["code"] == "not_member"
        assert (await ann.call("room", room=room, text="x"))["delivered_count"] == 0
        await ann.call("leave", room=room)
        assert room not in [found["name"] for found in (await ann.call("rooms"))["rooms"]]


@pytest.mark.guarantee("group-cursor-on-confirmation")
async def test_a_group_keeps_its_history_for_a_member_who_was_away(either: Machine):
    group, away = either.name("team"), either.name("ben")
    async with either.assistant(away):
        pass
    async with either.assistants("ann") as (ann,):
        made = await ann.call("group_create", name=group, members=[away])
        assert made == {"ok": True, "group": group, "members": [ann.name, away]}
        sent = [await ann.call("group_send", group=group, text=f"line {number}") for number in range(3)]
        assert all(answer["ok"] and ID.fullmatch(answer["msg_id"]) for answer in sent)
        async with either.assistant(away) as ben:
            assert {"name": group, "unread_count": 4} in (await ben.call("group_list"))["groups"]
            assert (await ben.call("inbox"))["groups"] == [{"name": group, "unread_count": 4}]
            page = await ben.call("group_history", group=group, limit=2)
            assert [(line["type"], line["from"]) for line in page["messages"]] == [
                ("system", ann.name),
                ("message", ann.name),
            ]
            assert page["unread_remaining"] == 2
            await ben.kill()
        async with either.assistant(away) as ben:
            # The page was never confirmed: it is the first again.
            again = await ben.call("group_history", group=group, limit=2)
            assert again["messages"] == page["messages"]
            rest = await ben.call("group_history", group=group)
            assert texts(rest["messages"]) == ["line 1", "line 2"]
            assert rest["unread_remaining"] == 0
            found = await ben.call("group_info", group=group)
            assert found == {
                "group": group,
                "admin": ann.name,
                "members": [{"name": ann.name, "online": True}, {"name": away, "online": True}],
                "unread_count": 0,
            }


async def test_only_the_admin_governs_a_group_and_who_is_removed_is_told_why(shared: Machine):
    async with shared.assistants("ann", "ben", "cal") as (ann, ben, cal):
        group = shared.name("team")
        await ann.call("group_create", name=group, members=[ben.name])
        for tool, more in (
            ("group_invite", {"peer": cal.name}),
            ("group_remove", {"peer": ann.name, "reason": "x"}),
            ("group_delete", {}),
        ):
            assert (await ben.refused(tool, group=group, **more))["code"] == "not_admin"
            assert (await cal.refused(tool, group=group, **more))["code"] == "not_member"
        for tool in ("group_info", "group_history", "group_leave"):
            assert (await cal.refused(tool, group=group))["code"] == "not_member"
        assert (await cal.refused("group_send", group=group, text="x"))["code"] == "not_member"
        assert (await ann.refused("group_leave", group=group))["code"] == "bad_args"
        assert (await ann.refused("group_create", name=group.upper(), members=[]))["code"] == "name_taken"
        assert await ann.call("group_invite", group=group, peer=cal.name) == {"ok": True}
        assert await cal.call("group_leave", group=group) == {"ok": True}
        reason = "r" * 256
        removed = await ann.call("group_remove", group=group, peer=ben.name, reason=reason)
        assert removed["ok"] is True
        [told] = (await ben.call("inbox"))["messages"]
        assert told["kind"] == "system"
        assert reason in told["text"]
        assert group in told["text"]
        lines = texts((await ann.call("group_history", group=group))["messages"])
        assert any(reason in line for line in lines)
        await ann.call("group_invite", group=group, peer=ben.name)
        await ann.call("group_delete", group=group)
        assert (await ann.refused("group_info", group=group))["code"] == "group_not_found"
        assert group in texts(await ben.read_all())[-1]


@pytest.mark.guarantee("rename-keeps-mailbox")
async def test_a_new_name_keeps_the_mail_and_the_old_one_forwards(shared: Machine):
    async with shared.assistants("ann", "ben") as (ann, ben):
        await ben.call("send", to=ann.name, text="before")
        new = shared.name("anne")
        assert (await ann.refused("rename", new_name=ben.name))["code"] == "name_taken"
        assert (await ann.call("rename", new_name=new))["name"] == new
        await ben.call("send", to=ann.name, text="to the old name")
        await ben.call("send", to=new.upper(), text="to the new one")
        assert texts(await ann.read_all()) == ["before", "to the old name", "to the new one"]
        found = (await ben.call("peers", match=new))["peers"]
        assert [peer["name"] for peer in found] == [new]
        assert await ann.me() == new


# --- sizes -----------------------------------------------------------------------------------------------


@pytest.mark.guarantee("no-cut-multibyte")
@pytest.mark.guarantee("long-message-whole")
async def test_120_000_characters_of_many_bytes_arrive_whole_wherever_reads_cut_them(either: Machine):
    text = "".join(random.Random(7).choices('é鍵😀\u202e\u0007\n"\\', k=120_000))
    async with either.assistants("ann", "ben") as (ann, ben):
        # There: in pieces of a size that no character's length divides.
        request = ann.make_call("relay_send", to=ben.name, text=text)
        line = json.dumps({"jsonrpc": "2.0", **request}, ensure_ascii=False).encode() + b"\n"
        for start in range(0, len(line), 4099):
            await ann.write_bytes(line[start : start + 4099])
        await ann.finish(request["id"])
        [mail] = (await ben.call("inbox"))["messages"]
        assert mail["truncated"] is True
        assert mail["size"] == len(text.encode())
        file = Path(mail["file"])
        assert file.parent == either.paths.texts
        assert file.read_bytes().decode() == text
        assert mode_of(file) == 0o600
        assert mode_of(file.parent) == 0o700
        assert mail["text"] == text[: len(mail["text"])]
        # And back, in pages that are shown whole.
        parts = [text[start : start + 3_000] for start in range(0, len(text), 3_000)]
        for part in parts:
            await ben.call("reply", ask_id=mail["msg_id"], text=part)
        assert texts(await ann.read_all()) == parts


@pytest.mark.guarantee("terminal-safe")
async def test_what_an_assistant_writes_does_nothing_to_a_persons_terminal(shared: Machine):
    async with shared.assistants("ann") as (ann,):
        person = shared.name("grace")
        async with shared.client(person):
            pass
        await ann.call("send", to=person, text="\x1b[2J\x1b]0;title\x07 \u202egnp.exe \x9b31m \u200bend")
        shown = (await shared.cli("inbox", "--as", person)).stdout.decode()
        assert all(character.isprintable() or character == "\n" for character in shown)
        assert "\\x1b[2J" in shown
        assert "\\u202e" in shown
