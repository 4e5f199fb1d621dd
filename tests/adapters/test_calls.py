"""From a tool call to the hub's request, and from its answer to what a model reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from ecorelay import wire
from ecorelay.errors import RelayError
from ecorelay.requests import Asking
from ecorelay.wire import TEXT_MAX
from ecorelay_adapters import calls
from ecorelay_adapters.calls import RESULT_MAX, SHOWN_OF_LONG, TEXTS_KEPT_S, Outcome, Tools
from tests.e2e.stage import mode_of

ID = "01j5zk3m8v9w2x4y6z7abcdefg"
OTHER = "01j5zk3m8v9w2x4y6z7abcdefh"
TS = 1_700_000_000_123
AT = "2023-11-14T22:13:20.123Z"


class Hub(Asking):
    """Notes what it is asked and says what it was told to, in order."""

    def __init__(self, *answers: wire.Result | RelayError) -> None:
        self.answers = list(answers)
        self.asked: list[wire.Request] = []

    async def _ask(self, frame: wire.Request, patience: float | None) -> wire.Result:
        await trio.lowlevel.checkpoint()
        assert patience is None
        self.asked.append(frame)
        answer = self.answers.pop(0)
        if isinstance(answer, RelayError):
            raise answer
        return answer


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Any]:
    """Call a tool of a hub that gives these answers; the outcome and what the hub was asked."""

    async def call(
        tool: str, *answers: wire.Result | RelayError, can_wait: bool = True, **arguments: Any
    ) -> tuple[Outcome, list[wire.Request]]:
        hub = Hub(*answers)
        tools = Tools(hub, tmp_path / "texts")
        outcome = await tools.call(f"relay_{tool}", json.dumps(arguments).encode(), can_wait=can_wait)
        assert hub.answers == []
        return outcome, hub.asked

    return call


def mail(text: str | None = "hello", **fields: Any) -> wire.Mail:
    return wire.Mail(**{"msg_id": ID, "kind": "message", "sender": "ann", "ts": TS, "text": text, **fields})


def page(*messages: wire.Mail, **fields: Any) -> wire.InboxPage:
    return wire.InboxPage(**{"req_id": 0, "lease": 7, "messages": messages, **fields})


# --- each tool asks for one thing ------------------------------------------------------------------------

SENT = wire.Sent(req_id=0, msg_id=ID, status="delivered", unread=3)
DONE = wire.Done(req_id=0, unread=3)


@pytest.mark.guarantee("tool-contract")
@pytest.mark.parametrize(
    ("tool", "arguments", "asked", "answer", "fields"),
    [
        (
            "send",
            {"to": "ben@mars", "text": "x", "reply_to": ID, "urgent": True},
            wire.Send(req_id=0, op_id="", to="ben@mars", text="x", reply_to=ID, urgent=True),
            SENT,
            {"msg_id": ID, "status": "delivered"},
        ),
        (
            "send",
            {"to": "ben", "text": "x"},
            wire.Send(req_id=0, op_id="", to="ben", text="x"),
            wire.Sent(req_id=0, msg_id=ID, unverified=True, unread=3),
            {"msg_id": ID, "status": "queued", "unverified": True},
        ),
        (
            "reply",
            {"ask_id": ID, "text": "x"},
            wire.Reply(req_id=0, op_id="", ask_id=ID, text="x"),
            SENT,
            {"ok": True, "msg_id": ID, "status": "delivered"},
        ),
        (
            "broadcast",
            {"question": "x", "exclude_self": False},
            wire.Broadcast(req_id=0, op_id="", question="x", exclude_self=False),
            wire.Broadcasted(req_id=0, broadcast_id=ID, peer_count=2, unread=3),
            {"ok": True, "broadcast_id": ID, "peer_count": 2},
        ),
        (
            "rename",
            {"new_name": "anne"},
            wire.Rename(req_id=0, op_id="", new_name="anne"),
            wire.Renamed(req_id=0, name="anne", unread=3),
            {"ok": True, "name": "anne"},
        ),
        (
            "join",
            {"room": "den"},
            wire.Join(req_id=0, room="den"),
            wire.RoomMembers(req_id=0, room="den", members=("ann", "ben"), unread=3),
            {"ok": True, "room": "den", "members": ("ann", "ben")},
        ),
        ("leave", {"room": "den"}, wire.Leave(req_id=0, room="den"), DONE, {"ok": True}),
        (
            "room",
            {"room": "den", "text": "x"},
            wire.RoomSend(req_id=0, op_id="", room="den", text="x"),
            wire.RoomSent(req_id=0, room="den", delivered_count=2, unread=3),
            {"ok": True, "room": "den", "delivered_count": 2},
        ),
        (
            "rooms",
            {},
            wire.Rooms(req_id=0),
            wire.RoomList(req_id=0, rooms=(wire.Room(name="den", members=("ann",)),), unread=3),
            {"rooms": [{"name": "den", "members": ("ann",)}]},
        ),
        (
            "group_create",
            {"name": "team", "members": ["ben"]},
            wire.GroupCreate(req_id=0, op_id="", name="team", members=("ben",)),
            wire.GroupMembers(req_id=0, group="team", members=("ann", "ben"), unread=3),
            {"ok": True, "group": "team", "members": ("ann", "ben")},
        ),
        (
            "group_invite",
            {"group": "team", "peer": "ben"},
            wire.GroupInvite(req_id=0, op_id="", group="team", peer="ben"),
            DONE,
            {"ok": True},
        ),
        (
            "group_remove",
            {"group": "team", "peer": "ben", "reason": "r"},
            wire.GroupRemove(req_id=0, op_id="", group="team", peer="ben", reason="r"),
            DONE,
            {"ok": True},
        ),
        (
            "group_leave",
            {"group": "team"},
            wire.GroupLeave(req_id=0, op_id="", group="team"),
            DONE,
            {"ok": True},
        ),
        (
            "group_delete",
            {"group": "team"},
            wire.GroupDelete(req_id=0, op_id="", group="team"),
            DONE,
            {"ok": True},
        ),
        (
            "group_send",
            {"group": "team", "text": "x"},
            wire.GroupSend(req_id=0, op_id="", group="team", text="x"),
            SENT,
            {"ok": True, "msg_id": ID},
        ),
        (
            "group_list",
            {},
            wire.Groups(req_id=0),
            wire.GroupList(req_id=0, groups=(wire.GroupUnread(name="team", unread_count=2),), unread=3),
            {"groups": [{"name": "team", "unread_count": 2}]},
        ),
        (
            "group_info",
            {"group": "team"},
            wire.GroupInfo(req_id=0, group="team"),
            wire.GroupDetails(
                req_id=0,
                group="team",
                admin="ann",
                members=(wire.Member(name="ann", online=True), wire.Member(name="ben")),
                unread_count=2,
                unread=3,
            ),
            {
                "group": "team",
                "admin": "ann",
                "members": [{"name": "ann", "online": True}, {"name": "ben", "online": False}],
                "unread_count": 2,
            },
        ),
    ],
)
async def test_a_tool_asks_the_hub_once_and_shows_its_answer(
    call,
    tool: str,
    arguments: dict[str, Any],
    asked: wire.Request,
    answer: wire.Result,
    fields: dict[str, Any],
):
    outcome, frames = await call(tool, answer, **arguments)
    assert frames == [asked]
    assert outcome == Outcome(fields, unread=3)


async def test_the_hubs_refusal_is_the_tools(call):
    with pytest.raises(RelayError, match="peer_not_found"):
        await call("send", RelayError("peer_not_found", "nobody"), to="ben", text="x")


# --- peers -----------------------------------------------------------------------------------------------


async def test_peers_are_shown_without_what_is_unknown_of_them(call):
    found = wire.PeerList(
        req_id=0,
        me="ann",
        hub_id="here",
        peers=(
            wire.Peer(name="ben", online=True, cwd="/src", git_branch="main", client="codex", last_seen=TS),
            wire.Peer(name="cal@mars", last_seen=TS, unreachable_since=TS),
        ),
        unread=1,
    )
    outcome, frames = await call("peers", found, match="src")
    assert frames == [wire.Peers(req_id=0, match="src")]
    assert outcome.fields == {
        "me": "ann",
        "hub_id": "here",
        "peers": [
            {
                "name": "ben",
                "online": True,
                "cwd": "/src",
                "git_branch": "main",
                "client": "codex",
                "last_seen": AT,
            },
            {"name": "cal@mars", "online": False, "last_seen": AT, "unreachable_since": AT},
        ],
    }


@pytest.mark.guarantee("page-fits")
@pytest.mark.parametrize("count", [1, 40, 80, 100])
async def test_a_list_of_peers_fits_a_result_and_counts_what_was_cut(call, count: int):
    peers = tuple(wire.Peer(name=f"p{number:03}", cwd="/é" * 100, last_seen=TS) for number in range(count))
    outcome, _ = await call("peers", wire.PeerList(req_id=0, me="ann", hub_id="here", peers=peers, more=5))
    shown = outcome.fields["peers"]
    assert len(msgspec.json.encode(outcome.fields)) <= RESULT_MAX
    assert [row["name"] for row in shown] == [peer.name for peer in peers[: len(shown)]]
    assert len(shown) + outcome.fields["more"] == count + 5


@pytest.mark.guarantee("page-fits")
async def test_a_list_of_rooms_or_groups_fits_a_result_too(call):
    members = tuple(f"{'m' * 60}-{number:03}" for number in range(100))
    rooms = tuple(wire.Room(name=f"r{number}", members=members) for number in range(10))
    outcome, _ = await call("rooms", wire.RoomList(req_id=0, rooms=rooms))
    assert len(msgspec.json.encode(outcome.fields)) <= RESULT_MAX
    assert len(outcome.fields["rooms"]) + outcome.fields["more"] == 10
    groups = tuple(wire.GroupUnread(name="g" * 60 + f"{number:04}") for number in range(1_000))
    outcome, _ = await call("group_list", wire.GroupList(req_id=0, groups=groups))
    assert len(msgspec.json.encode(outcome.fields)) <= RESULT_MAX
    assert len(outcome.fields["groups"]) + outcome.fields["more"] == 1_000


# --- texts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "field"),
    [("send", "text"), ("reply", "text"), ("broadcast", "question"), ("group_send", "text")],
)
@pytest.mark.parametrize("text", ["x" * (TEXT_MAX + 1), "é" * (TEXT_MAX // 2) + "x", "😀" * TEXT_MAX])
async def test_a_text_over_the_limit_goes_nowhere(call, tool: str, field: str, text: str):
    more = {"send": {"to": "ben"}, "reply": {"ask_id": ID}, "group_send": {"group": "team"}}.get(tool, {})
    with pytest.raises(RelayError) as caught:
        await call(tool, **more, **{field: text})
    assert caught.value.code == "too_large"
    assert f"{field} is {len(text.encode())} bytes of UTF-8, the limit is {TEXT_MAX}" in caught.value.message


async def test_an_answer_to_what_cannot_be_an_id_goes_nowhere(call):
    with pytest.raises(RelayError) as caught:
        await call("reply", ask_id="the last one", text="x")
    assert caught.value.code == "unknown_ask"


# --- the inbox -------------------------------------------------------------------------------------------


async def test_every_kind_of_mail_is_shown_with_what_is_known_of_it(call, monkeypatch):
    monkeypatch.setattr("time.time", lambda: TS / 1000 + 180)
    outcome, frames = await call(
        "inbox",
        page(
            mail(),
            mail(kind="ask", broadcast_id=ID, urgent=True, redelivered=True),
            mail(kind="reply", reply_to=OTHER, broadcast_id=ID, seen=True),
            mail(kind="room", room="den"),
            mail(None, pushed_at=TS),
            mail("2 messages from you left", kind="system", msg_id="n1-2", sender="here"),
            remaining=4,
            groups=(wire.GroupUnread(name="team", unread_count=2),),
            missed=1,
            unread=5,
        ),
        limit=6,
    )
    assert frames == [wire.Inbox(req_id=0, limit=6, budget=RESULT_MAX - 2_000)]
    common = {"from": "ann", "ts": AT, "age": "3 min ago"}
    assert outcome.fields == {
        "messages": [
            {"msg_id": ID, "kind": "message", **common, "text": "hello"},
            {
                "msg_id": ID,
                "kind": "ask",
                "ask_id": ID,
                "broadcast_id": ID,
                **common,
                "urgent": True,
                "redelivered": True,
                "text": "hello",
            },
            {
                "msg_id": ID,
                "kind": "reply",
                "broadcast_id": ID,
                "reply_to": OTHER,
                **common,
                "seen": True,
                "text": "hello",
            },
            {"msg_id": ID, "kind": "room", "room": "den", **common, "text": "hello"},
            {"msg_id": ID, "kind": "message", **common, "pushed": AT},
            {
                "msg_id": "n1-2",
                "kind": "system",
                **common,
                "from": "here",
                "text": "2 messages from you left",
            },
        ],
        "remaining": 4,
        "groups": [{"name": "team", "unread_count": 2}],
        "missed": 1,
    }
    assert outcome.unread == 5


@pytest.mark.guarantee("leased-until-confirmed")
async def test_what_was_shown_whole_is_confirmed_and_nothing_else(call):
    stub, note = mail(None, pushed_at=TS), mail("told", kind="system", msg_id="n1-2")
    about_a_group = mail("removed", kind="system", msg_id=OTHER)
    outcome, _ = await call("inbox", page(mail(), stub, mail(kind="room"), note, about_a_group))
    assert outcome.confirm == wire.Confirm(req_id=0, lease=7, msg_ids=(ID, OTHER), notices=("n1-2",))
    assert outcome.release == wire.Release(req_id=0, lease=7)


async def test_a_page_without_a_lease_needs_no_word(call):
    outcome, _ = await call("inbox", wire.InboxPage(req_id=0))
    assert outcome == Outcome({"messages": [], "remaining": 0})


@pytest.mark.parametrize(
    ("wait", "can_wait", "asked"), [(600, True, 600), (600, False, 45), (20, False, 20), (0, True, 0)]
)
async def test_a_silent_wait_ends_before_clients_give_up(call, wait: float, can_wait: bool, asked: float):
    _, [frame] = await call("inbox", wire.InboxPage(req_id=0), wait=wait, can_wait=can_wait)
    assert isinstance(frame, wire.Inbox)
    assert frame.wait == asked


async def test_a_wait_is_said_together_with_its_other_arguments(call):
    _, [frame] = await call("inbox", wire.InboxPage(req_id=0), limit=3, since_id=ID, can_wait=False)
    assert frame == wire.Inbox(req_id=0, limit=3, since_id=ID, budget=RESULT_MAX - 2_000)


# --- long messages ---------------------------------------------------------------------------------------


@pytest.mark.guarantee("long-message-whole")
@pytest.mark.parametrize("text", ["x" * 20_001, "é鍵😀" * 7_000, '"' * 10_000, "\r\n" * 5_000 + "\u2028"])
async def test_a_long_message_is_cut_and_its_whole_put_into_a_private_file(call, tmp_path: Path, text: str):
    outcome, _ = await call("inbox", page(mail(text)))
    [shown] = outcome.fields["messages"]
    assert shown["text"] == text[:SHOWN_OF_LONG]
    assert (shown["truncated"], shown["size"]) == (True, len(text.encode()))
    file = Path(shown["file"])
    assert file == tmp_path / "texts" / f"{ID}.txt"
    assert file.read_bytes() == text.encode()
    if os.name == "posix":
        assert (mode_of(file), mode_of(file.parent)) == (0o600, 0o700)
    assert outcome.confirm is not None


async def test_a_message_that_fits_with_its_escapes_is_shown_whole(call, tmp_path: Path):
    room = RESULT_MAX - 2_000 - 2
    for text in ("x" * room, '"' * (room // 2), "é" * (room // 2)):
        outcome, _ = await call("inbox", page(mail(text)))
        assert outcome.fields["messages"][0]["text"] == text
        assert "file" not in outcome.fields["messages"][0]
    assert not (tmp_path / "texts").exists()


async def test_a_long_line_of_a_group_is_put_into_a_file_too(call):
    text = "x" * 100_000
    entry = wire.GroupEntry(seq=1, msg_id=ID, sender="ann", text=text, ts=TS)
    outcome, _ = await call(
        "group_history", wire.GroupPage(req_id=0, group="team", messages=(entry,), upto=1), group="team"
    )
    [shown] = outcome.fields["messages"]
    assert Path(shown["file"]).read_text() == text
    assert shown.keys() == {"id", "from", "text", "truncated", "size", "file", "ts", "type"}


async def test_the_file_of_a_message_read_again_is_written_again(call, tmp_path: Path):
    for text in ("x" * 30_000, "y" * 20_001):
        await call("inbox", page(mail(text)))
        assert (tmp_path / "texts" / f"{ID}.txt").read_text() == text


async def test_files_of_messages_read_long_ago_go(call, tmp_path: Path):
    await call("inbox", page(mail("x" * 30_000)))
    texts = tmp_path / "texts"
    (texts / "kept.txt").touch()
    (texts / "somebody's.md").touch()
    now = (texts / "kept.txt").stat().st_mtime
    for name, age in ((f"{ID}.txt", 60), ("kept.txt", -60), ("somebody's.md", 60)):
        os.utime(texts / name, (now, now - TEXTS_KEPT_S - age))
    await call("inbox", page(mail("y" * 30_000, msg_id=OTHER)))
    assert {path.name for path in texts.iterdir()} == {"kept.txt", "somebody's.md", f"{OTHER}.txt"}


@pytest.mark.parametrize("answers", [(DONE,), (RelayError("hub_unreachable", "gone"),)])
async def test_a_page_whose_long_message_cannot_be_written_is_given_back_at_once(tmp_path: Path, answers):
    (tmp_path / "texts").write_text("in the way")
    hub = Hub(page(mail("x" * 30_000)), *answers)
    with pytest.raises(RelayError) as caught:
        await Tools(hub, tmp_path / "texts").call("relay_inbox", b"{}", can_wait=False)
    assert caught.value.code == "mailbox_error"
    assert str(tmp_path / "texts") in caught.value.message
    assert "free space" in caught.value.message
    assert hub.asked[1:] == [wire.Release(req_id=0, lease=7)]


# --- the history of a group ------------------------------------------------------------------------------


@pytest.mark.guarantee("group-cursor-on-confirmation")
async def test_history_is_shown_and_confirmed_up_to_its_last_line(call):
    lines = (
        wire.GroupEntry(seq=4, msg_id=ID, sender="ann", text="ann invited ben", ts=TS, kind="system"),
        wire.GroupEntry(seq=5, msg_id=OTHER, sender="ann", text="hello", ts=TS),
    )
    got = wire.GroupPage(
        req_id=0, group="Team", messages=lines, upto=5, unread_remaining=2, missed=3, unread=2
    )
    outcome, frames = await call("group_history", got, group="team@here", limit=2)
    assert frames == [
        wire.GroupHistory(req_id=0, group="team@here", limit=2, budget=RESULT_MAX - calls.PAGE_ROOM)
    ]
    assert outcome.fields == {
        "group": "Team",
        "messages": [
            {"id": ID, "from": "ann", "text": "ann invited ben", "ts": AT, "type": "system"},
            {"id": OTHER, "from": "ann", "text": "hello", "ts": AT, "type": "message"},
        ],
        "unread_remaining": 2,
        "missed": 3,
    }
    assert outcome.confirm == wire.GroupConfirm(req_id=0, group="team@here", upto=5)
    assert outcome.release == wire.GroupRelease(req_id=0, group="team@here")


async def test_history_without_news_needs_no_word(call):
    outcome, _ = await call("group_history", wire.GroupPage(req_id=0, group="team", unread=1), group="team")
    assert outcome == Outcome({"group": "team", "messages": [], "unread_remaining": 0}, unread=1)


@pytest.mark.parametrize("ts", [-1, 0, 2**63 - 1])
async def test_any_time_of_a_message_has_a_spelling(call, ts: int):
    mail = wire.Mail(msg_id=ID, kind="message", sender="ann", ts=ts, text="x")
    outcome, _ = await call("inbox", wire.InboxPage(req_id=0, messages=(mail,)))
    assert outcome.fields["messages"][0]["ts"] in ("1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z")
