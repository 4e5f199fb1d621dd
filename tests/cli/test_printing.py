"""What commands print of a hub's answers, harmless on a terminal, and what of hubs of other versions."""

import sys

import pytest

from ecorelay import __version__, wire
from ecorelay.cli import exits, screen
from tests.helpers.command_line import AT_A_HUB, ID, run_here
from tests.helpers.hostile_words import HOSTILE, harmless
from tests.helpers.scripted_hub import Answer, ScriptedHub

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in listens on a Unix socket")

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
            wire.Peer(name=f"{HOSTILE}@{HOSTILE}", last_seen=TS, unreachable_since=TS),
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
    "group_forget": wire.Done(req_id=0),
    "forget_hub": wire.HubForgotten(req_id=0, messages=2),
    "hub_reload": wire.Done(req_id=0),
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
        links=(
            wire.LinkDetails(hub_id=HOSTILE, up=True, address=HOSTILE, version=HOSTILE),
            wire.LinkDetails(hub_id=HOSTILE, trouble=HOSTILE),
        ),
        listening=(HOSTILE,),
        problems=(HOSTILE,),
        counters={HOSTILE: 1, "closed " + HOSTILE: 2},
    ),
}
PRINTING = [*AT_A_HUB, "block bob --off", "hub status", "hub reload"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


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
