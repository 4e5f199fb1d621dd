"""What commands print of a hub's answers, harmless on a terminal, and what of hubs of other versions."""

import json
import re
import sys

import pytest

from ecorelay import __version__, wire
from ecorelay.cli import exits, screen
from ecorelay.cli.counters import in_words
from ecorelay.daemon.reasons import Reason
from tests.helpers.command_line import run_here
from tests.helpers.scripted_hub import Answer, ScriptedHub

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in listens on a Unix socket")

ID = "01j5zk3m8v9w2x4y6z7abcdefg"
HOSTILE = "\x1b]0;owned\x07\x1b[2J \u202egnp\u2066 \x9b31m\r\nover\u200b\ufeff\U000e0041"
TS = 1_700_000_000_123

MAIL = wire.Mail(
    msg_id=HOSTILE, kind="ask", sender=HOSTILE, ts=TS, text=HOSTILE, reply_to=HOSTILE, room=HOSTILE
)
STUB = wire.Mail(msg_id=HOSTILE, kind="message", sender=HOSTILE, ts=TS)
RECEIPT = wire.Receipt(
    recipient=HOSTILE,
    state="dead",
    stored_at=TS,
    pushed_at=TS + 8,
    carrier=HOSTILE,
    ended_at=TS,
    reason=HOSTILE,
)
ANSWERS = {
    "peers": wire.PeerList(
        req_id=0,
        hub_id=HOSTILE,
        peers=(
            wire.Peer(
                name=HOSTILE,
                online=True,
                cwd=HOSTILE,
                git_branch=HOSTILE,
                client=HOSTILE,
                last_seen=TS,
                carrier=HOSTILE,
                evidence_at=TS,
            ),
        ),
        more=3,
    ),
    "add_peer": wire.Renamed(req_id=0, name=HOSTILE),
    "forget_peer": wire.Done(req_id=0),
    "send": wire.Sent(req_id=0, msg_id=HOSTILE, unread=2),
    "reply": wire.Sent(req_id=0, msg_id=HOSTILE, unread=2),
    "broadcast": wire.Broadcasted(req_id=0, broadcast_id=HOSTILE, peer_count=0, unread=1),
    "inbox": wire.InboxPage(
        req_id=0,
        lease=1,
        messages=(MAIL, STUB),
        groups=(wire.GroupUnread(name=HOSTILE, unread_count=2),),
        missed=4,
        remaining=2,
    ),
    "confirm": wire.Done(req_id=0),
    "rooms": wire.RoomList(req_id=0, rooms=(wire.Room(name=HOSTILE, members=(HOSTILE, HOSTILE)),)),
    "groups": wire.GroupList(req_id=0, groups=(wire.GroupUnread(name=HOSTILE, unread_count=2),)),
    "group_info": wire.GroupDetails(
        req_id=0, group=HOSTILE, admin=HOSTILE, members=(wire.Member(name=HOSTILE),), unread_count=3
    ),
    "group_history": wire.GroupPage(
        req_id=0,
        group=HOSTILE,
        messages=(wire.GroupEntry(seq=1, msg_id=HOSTILE, sender=HOSTILE, text=HOSTILE, ts=TS),),
        upto=1,
        unread_remaining=2,
        missed=1,
    ),
    "group_confirm": wire.Done(req_id=0),
    "group_create": wire.GroupMembers(req_id=0, group=HOSTILE, members=(HOSTILE,)),
    "group_send": wire.Sent(req_id=0, msg_id=HOSTILE),
    "group_invite": wire.Done(req_id=0),
    "group_remove": wire.Done(req_id=0),
    "group_leave": wire.Done(req_id=0),
    "group_delete": wire.Done(req_id=0),
    "trace": wire.Traced(
        req_id=0,
        msg_id=HOSTILE,
        kind="reply",
        sender=HOSTILE,
        ts=TS,
        size=1300,
        reply_to=HOSTILE,
        broadcast_id=HOSTILE,
        group=HOSTILE,
        receipts=(RECEIPT,),
    ),
    "block": wire.Done(req_id=0),
    "blocks": wire.BlockList(req_id=0, names=(HOSTILE,)),
    "purge": wire.Purged(req_id=0, messages=1, lines=2),
    "backup": wire.BackedUp(req_id=0, path=HOSTILE, size=4096),
    "hub_status": wire.HubDetails(
        req_id=0,
        hub_id=HOSTILE,
        version=HOSTILE,
        sessions=1,
        durability=HOSTILE,
        data_dir=HOSTILE,
        mailboxes=1,
        largest=(wire.MailboxSize(name=HOSTILE, messages=2),),
        problems=(HOSTILE,),
        counters={HOSTILE: 1, "closed " + HOSTILE: 2},
    ),
}
PRINTING = [
    "peers",
    "peers add bob",
    "peers forget bob",
    "send bob hello",
    f"reply {ID} hello",
    "broadcast hello",
    "inbox",
    "rooms",
    "groups",
    "groups info team",
    "groups history team",
    "groups create team bob",
    "groups send team hello",
    "groups invite team bob",
    "groups remove team bob",
    "groups leave team",
    "groups delete team",
    f"trace {ID}",
    "block",
    "block bob",
    "block bob --off",
    "purge --older 30d --yes",
    "backup copy.db",
    "hub status",
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def harmless(text):
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("words", PRINTING)
def test_nothing_of_a_peer_or_a_hub_reaches_the_terminal_raw(home, monkeypatch, capsys, words):
    with ScriptedHub(home, ANSWERS, name=HOSTILE):
        said = run_here(home, monkeypatch, capsys, *words.split())
        assert said.code == 0, said
        assert said.out + said.err
        assert harmless(said.out), said.out
        assert harmless(said.err), said.err
        assert said.out.count("over") == said.out.count("\\nover") + said.out.count("    over")
        as_json = run_here(home, monkeypatch, capsys, *words.split(), "--json")
        assert as_json.json["v"] == 1
        assert harmless(as_json.out)


@pytest.mark.parametrize("words", PRINTING)
def test_what_a_hub_says_of_an_error_does_not_reach_the_terminal_raw(home, monkeypatch, capsys, words):
    refusal = wire.Failed(req_id=0, code="group_not_found", message=HOSTILE)
    with ScriptedHub(home, dict.fromkeys(ANSWERS, refusal)):
        said = run_here(home, monkeypatch, capsys, *words.split())
        assert (said.code, said.out) == (4, "")
        assert said.err.startswith("error: ")
        assert harmless(said.err)


NEW = [
    "trace " + ID,
    "peers forget bob",
    "purge --older 1d --yes",
    "backup copy.db",
    "block",
    "block bob",
    "watch",
]


@pytest.mark.parametrize("words", NEW)
def test_a_hub_older_than_the_command_is_to_be_restarted(home, monkeypatch, capsys, words):
    with ScriptedHub(home, {}, version="0.0.9"):
        said = run_here(home, monkeypatch, capsys, *words.split())
    assert (said.code, said.out) == (3, "")
    assert "the running hub, ecorelay 0.0.9, is older than this command" in said.err
    assert "`ecorelay hub restart`" in said.err


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        ("99.0.0", "upgrade ecorelay here"),
        (__version__, "hub restart"),
        ("", "hub restart"),
        ("x", "hub restart"),
    ],
)
def test_what_to_do_about_a_hub_that_does_not_know_the_command(home, monkeypatch, capsys, version, advice):
    with ScriptedHub(home, {}, version=version):
        said = run_here(home, monkeypatch, capsys, "trace", ID)
    assert said.code == 3
    assert advice in said.err


def test_a_bad_msg_of_a_hub_of_the_same_version_is_told_as_it_is(home, monkeypatch, capsys):
    refusal = wire.Failed(req_id=0, code="bad_msg", message="this id was used for another text")
    with ScriptedHub(home, {"send": refusal}):
        said = run_here(home, monkeypatch, capsys, "send", "bob", "hello")
    assert (said.code, said.err) == (1, "error: this id was used for another text\n")


def test_an_older_hub_is_not_said_to_hold_no_mail(home, monkeypatch, capsys):
    details = wire.HubDetails(req_id=0, hub_id="h", version="0.0.9", sessions=0)
    with ScriptedHub(home, {"hub_status": details}, version="0.0.9"):
        assert "in 0 mailboxes" not in run_here(home, monkeypatch, capsys, "hub", "status").out


# --- hub status ------------------------------------------------------------------------------------------


def test_every_reason_for_which_a_connection_ends_has_words():
    named = {f"closed {reason}": 1 for reason in Reason}
    assert not {what for what, _ in in_words(named)} & {name.replace("_", " ") for name in named}
    assert len({what for what, _ in in_words(named)}) == len(named)


def test_a_counter_of_a_newer_hub_is_shown_under_its_own_name_and_what_is_0_is_not():
    assert in_words({"new_thing": 2, "crash": 0, "closed some_day": 1}) == [
        ("connections ended: some day", 1),
        ("new thing", 2),
    ]


def test_the_status_names_the_largest_mailboxes_and_what_was_dropped(home, monkeypatch, capsys):
    details = wire.HubDetails(
        req_id=0,
        pid=7,
        hub_id="here",
        version=__version__,
        sessions=2,
        mailboxes=2,
        mail_messages=12,
        mail_unread=5,
        mail_bytes=3 * 1024 * 1024,
        largest=(
            wire.MailboxSize(name="api", messages=11, unread=4, bytes=3 * 1024 * 1024),
            wire.MailboxSize(name="web", messages=1, unread=1, bytes=10),
        ),
        problems=("hub.db is nearly full: raise limits.data_bytes",),
        counters={"evicted_unread": 3, "closed bye": 4},
    )
    with ScriptedHub(home, {"hub_status": details}):
        said = run_here(home, monkeypatch, capsys, "hub", "status")
    assert "12 messages, 5 unread, in 2 mailboxes (3.0 MiB)" in said.out
    assert "largest     api: 11 messages, 4 unread (3.0 MiB)\n            web: 1 messages" in said.out
    assert "problem     hub.db is nearly full: raise limits.data_bytes" in said.out
    assert "3 messages left a full mailbox unread" in said.out
    assert said.out.index("unread (their") < said.out.index("in good order")


# --- trace -----------------------------------------------------------------------------------------------


def test_a_trace_is_a_ladder_with_the_time_between_its_steps(home, monkeypatch, capsys):
    receipts = (
        wire.Receipt(
            recipient="api",
            state="replied",
            stored_at=TS,
            pushed_at=TS + 8,
            carrier="channel",
            seen_at=TS + 2_008,
            replied_at=TS + 902_008,
        ),
        wire.Receipt(recipient="web", state="evicted", stored_at=TS, ended_at=TS + 5, reason="full"),
        wire.Receipt(recipient="old", state="unread", stored_at=TS),
    )
    found = wire.Traced(req_id=0, msg_id=ID, kind="ask", sender="ada", ts=TS, size=12, receipts=receipts)
    with ScriptedHub(home, {"trace": found}):
        said = run_here(home, monkeypatch, capsys, "trace", ID)
        as_json = run_here(home, monkeypatch, capsys, "trace", ID, "--json").json
    rows = [line.split() for line in said.out.splitlines()]
    assert rows[0][:4] == [ID, "ask,", "from", "ada,"]
    without_times = [
        [cell for cell in row if ":" not in cell and not cell.startswith("20")] for row in rows[1:]
    ]
    assert without_times == [
        ["to", "replied"],
        ["stored"],
        ["pushed", "+8", "ms", "by", "channel"],
        ["seen", "+2.0", "s"],
        ["replied", "+15", "min"],
        ["to", "evicted"],
        ["stored"],
        ["evicted", "+5", "ms", "full"],
        ["to", "unread"],
        ["stored"],
    ]
    assert as_json["receipts"][1] == {
        "to": "web",
        "state": "evicted",
        "stored_at": "2023-11-14T22:13:20.123Z",
        "ended_at": "2023-11-14T22:13:20.128Z",
        "reason": "full",
    }


# --- broadcast -------------------------------------------------------------------------------------------


def test_waiting_for_answers_ends_with_the_hub(home, monkeypatch, capsys):
    answers: dict[str, Answer] = {
        "watch": [wire.Done(req_id=0), wire.Bye(reason="stopped")],
        "broadcast": wire.Broadcasted(req_id=0, broadcast_id=ID, peer_count=1),
    }
    with ScriptedHub(home, answers):
        said = run_here(home, monkeypatch, capsys, "broadcast", "who?", "--wait", "60")
    assert (said.code, said.out) == (5, f"{ID} 1 asked\n")
    assert "the hub is gone (stopped)" in said.err
    assert "0 of 1 answered" in said.err


def test_an_answer_that_could_not_be_printed_is_unread_again(home, monkeypatch, capsys):
    mail = wire.Mail(msg_id=ID, kind="reply", sender="api", ts=TS, text="8080", broadcast_id=ID)
    came = wire.Activity(what="stored", ts=TS, peer="api", to="ada", msg_id=ID, kind="reply")
    answers: dict[str, Answer] = {
        "watch": [wire.Done(req_id=0), came],
        "broadcast": wire.Broadcasted(req_id=0, broadcast_id=ID, peer_count=2),
        "inbox": wire.InboxPage(req_id=0, lease=5, messages=(mail,)),
        "release": wire.Done(req_id=0),
    }
    printed = iter([None, BrokenPipeError()])

    def out(text):
        if (error := next(printed)) is not None:
            raise error

    monkeypatch.setattr(screen, "out", out)
    with ScriptedHub(home, answers) as hub:
        said = run_here(home, monkeypatch, capsys, "broadcast", "who?", "--wait", "60")
        assert said.code == exits.PIPE_CLOSED
        assert [frame["type"] for frame in hub.asked] == ["watch", "broadcast", "inbox", "release"]


# --- watch -----------------------------------------------------------------------------------------------


def happening(**more):
    return wire.Activity(ts=TS, **more)


HAPPENED = (
    happening(what="online", peer="api"),
    happening(what="stored", peer="ada", to="api", msg_id=ID, kind="ask", text="which port?", size=11),
    happening(what="pushed", peer="api", msg_id=ID, carrier="channel"),
    happening(what="seen", peer="api", msg_id=ID),
    happening(what="evicted", peer="web", to="api", count=2),
    happening(what="missed", count=9),
    happening(
        what="room", peer=HOSTILE, to=HOSTILE, msg_id=HOSTILE, kind=HOSTILE, text=HOSTILE, carrier=HOSTILE
    ),
)


def watched(home, monkeypatch, capsys, *words, happened=HAPPENED, settings=None):
    """What is printed of what happened, until the hub ends it for good."""
    over = wire.Bye(reason="that is enough", code="bad_args")
    with ScriptedHub(home, {"watch": [wire.Done(req_id=0), *happened, over]}) as hub:
        said = run_here(home, monkeypatch, capsys, "watch", *words, **(settings or {}))
        assert said.code == 2
        assert "that is enough" in said.err
        return said, hub.requests("watch")


def test_watching_shows_each_message_with_what_becomes_of_it(home, monkeypatch, capsys):
    said, asked = watched(home, monkeypatch, capsys)
    assert asked[0]["texts"]
    lines = said.out.splitlines()
    assert lines[0].endswith("  api  online")
    assert f"ada → api  stored  ask  11 B  {ID}" in lines[1]
    assert lines[2] == "    which port?"
    assert f"ada → api  pushed  by channel  {ID}" in lines[3]
    assert f"ada → api  seen  {ID}" in lines[4]
    assert "web → api  evicted  2 unread messages" in lines[5]
    assert "9 things happened that are not shown" in lines[6]
    assert harmless(said.out)
    assert "watching scripted" in said.err


def test_watching_on_a_terminal_has_colours_and_own_mail_stands_out_unless_nobody_wants_that(
    home, monkeypatch, capsys
):
    monkeypatch.setattr("ecorelay.cli.screen.is_terminal", lambda stream: stream is sys.stdout)
    monkeypatch.setenv("TERM", "xterm")
    said, _ = watched(home, monkeypatch, capsys, "--as", "ADA")
    online, stored = said.out.splitlines()[:2]
    assert "\x1b[32monline\x1b[0m" in online
    assert "\x1b[1mapi" not in online
    assert "\x1b[1mada → api\x1b[0m" in stored
    assert "\x1b[33mstored\x1b[0m" in stored
    assert all(part.isprintable() for part in re.split(r"\x1b\[[0-9;]+m|\n", said.out))
    said, _ = watched(home, monkeypatch, capsys, "--as", "ADA", settings={"NO_COLOR": "1"})
    assert "\x1b" not in said.out


def test_watching_without_texts_asks_for_none(home, monkeypatch, capsys):
    _, asked = watched(home, monkeypatch, capsys, "--no-texts")
    assert "texts" not in asked[0]


def test_watching_for_scripts_is_one_object_a_line(home, monkeypatch, capsys):
    said, _ = watched(home, monkeypatch, capsys, "--json")
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [each["what"] for each in found] == [each.what for each in HAPPENED]
    assert harmless(said.out)
    assert found[1] == {
        "v": 1,
        "what": "stored",
        "ts": "2023-11-14T22:13:20.123Z",
        "peer": "ada",
        "to": "api",
        "msg_id": ID,
        "kind": "ask",
        "size": 11,
        "carrier": "",
        "count": 0,
        "text": "which port?",
    }
