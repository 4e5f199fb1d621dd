"""What a person asks of the hub: what became of a message, a purge, a backup."""

import pytest

from ecorelay import wire
from ecorelay.core import admin
from ecorelay.core.actions import Reload, Reply, Store
from ecorelay.core.ops import (
    Appended,
    BackupWritten,
    Eviction,
    LineAdded,
    MailPurged,
    MailReceipt,
    MarkPushed,
    MessageTraced,
    PurgeMail,
    Snapshot,
    TraceMessage,
    WriteBackup,
)
from ecorelay.core.state import unread_of
from tests.core.helpers import WALL, Client, Script, World, group_row, mid, peer_row

KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "bob")), groups=(group_row(9, "red", 1, 2),))


def watched() -> Script:
    """An observer, sid 1, at a hub that knows ann and bob."""
    script = Script(KNOWN)
    script.opened(1, role="observer")
    return script


# --- trace -------------------------------------------------------------------------------------------


def test_what_is_known_of_a_message_is_told_to_whoever_asks():
    script = watched()
    assert script.frame(1, wire.Trace(req_id=7, msg_id=mid(1))) == [
        Store((TraceMessage(msg_id=mid(1)),), admin.MessageFound(1, 7))
    ]
    found = MessageTraced(
        msg_id=mid(1),
        kind="ask",
        sender="ann",
        at=WALL,
        size=5,
        reply_to=mid(3),
        broadcast_id=mid(4),
        receipts=(MailReceipt(recipient="bob", stored_at=WALL),),
    )
    assert script.stored(found) == [
        Reply(
            1,
            wire.Traced(
                req_id=7,
                msg_id=mid(1),
                kind="ask",
                sender="ann",
                ts=WALL,
                size=5,
                reply_to=mid(3),
                broadcast_id=mid(4),
                receipts=(wire.Receipt(recipient="bob", state="unread", stored_at=WALL),),
            ),
        )
    ]


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({}, {"state": "unread"}),
        ({"forwarded_at": 5}, {"state": "forwarded", "forwarded_at": 5}),
        ({"pushed_at": 5, "carrier": "c"}, {"state": "pushed", "pushed_at": 5, "carrier": "c"}),
        ({"pushed_at": 5, "seen_at": 6}, {"state": "seen", "pushed_at": 5, "seen_at": 6}),
        ({"seen_at": 6, "replied_at": 7}, {"state": "replied", "seen_at": 6, "replied_at": 7}),
        (
            {"pushed_at": 5, "ended": "evicted", "ended_at": 8},
            {"state": "evicted", "pushed_at": 5, "ended_at": 8, "reason": "evicted"},
        ),
        (
            {"ended": "dead", "reason": "damaged", "ended_at": 8},
            {"state": "dead", "ended_at": 8, "reason": "damaged"},
        ),
        (
            {"ended": "expired", "reason": "purged", "ended_at": 8},
            {"state": "expired", "ended_at": 8, "reason": "purged"},
        ),
        # It left while it was being read, and then was read.
        ({"ended": "evicted", "ended_at": 8, "seen_at": 9}, {"state": "seen", "seen_at": 9}),
    ],
    ids=lambda value: value.get("state", ""),
)
def test_a_receipt_is_at_the_last_rung_for_which_there_is_proof(known, told):
    script = watched()
    script.frame(1, wire.Trace(req_id=7, msg_id=mid(1)))
    receipt = MailReceipt(recipient="bob", stored_at=1, **known)
    found = MessageTraced(msg_id=mid(1), kind="message", sender="ann", at=1, size=5, receipts=(receipt,))
    [reply] = script.stored(found)
    assert reply.frame.receipts == (wire.Receipt(recipient="bob", stored_at=1, **told),)


def test_what_a_carrier_took_a_moment_ago_is_in_the_answer():
    script = Script(KNOWN)
    script.online(2, "bob", push=True)
    script.online(1, "ann")
    script.frame(1, wire.Send(req_id=1, op_id=mid(1), to="bob", text="hi"))
    script.stored(Appended(5, (1,)))
    script.frame(2, wire.Pushed(msg_ids=(mid(1),), carrier="inbox"))
    assert script.frame(1, wire.Trace(req_id=2, msg_id=mid(1))) == [
        Store((MarkPushed(rows=((2, 5, WALL),), carrier="inbox"),)),
        Store((TraceMessage(msg_id=mid(1)),), admin.MessageFound(1, 2)),
    ]


def test_of_an_unknown_message_it_is_said_that_it_is_unknown():
    world = World()
    watcher = world.open(role="observer")
    assert watcher.call(wire.Trace, msg_id=mid(1)).code == "unknown_ask"


def test_a_message_is_followed_from_the_mailbox_to_the_answer():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    watcher = world.open(role="observer")
    sent = ann.ask(wire.Send, to="bob", text="hi")
    [push] = bob.pushes

    def state() -> str:
        [receipt] = watcher.call(wire.Trace, msg_id=push.msg_id).receipts
        return receipt.state

    assert state() == "unread"
    bob.ack(carrier="inbox")
    assert state() == "pushed"
    assert ann.answers[sent].status == "delivered"
    page = bob.inbox(since_id=push.msg_id)
    assert state() == "pushed"
    bob.confirm(page)
    assert state() == "seen"
    bob.call(wire.Reply, ask_id=push.msg_id, text="hello")
    assert state() == "replied"


# --- backup ------------------------------------------------------------------------------------------


def test_a_backup_is_answered_once_the_copy_is_complete():
    script = watched()
    assert script.frame(1, wire.Backup(req_id=7, path="/b/hub.db")) == [
        Store((WriteBackup(path="/b/hub.db"),), admin.BackupMade(1, 7, "/b/hub.db"))
    ]
    assert script.stored(BackupWritten(4096)) == [
        Reply(1, wire.BackedUp(req_id=7, path="/b/hub.db", size=4096))
    ]
    assert script.hub.counters == {"backups": 1}


def test_a_backup_that_failed_says_why():
    script = watched()
    script.frame(1, wire.Backup(req_id=7, path="/b/hub.db"))
    assert script.failed("mailbox_error", "the disk is full") == [
        Reply(1, wire.Failed(req_id=7, code="mailbox_error", message="the disk is full"))
    ]


# --- purge -------------------------------------------------------------------------------------------


def step(before: int, *, unread: bool = False, place: tuple[int, ...] = (), **fields) -> PurgeMail:
    return PurgeMail(before=before, unread=unread, now=WALL, place=place, **fields)


def test_a_purge_goes_on_step_by_step_and_says_in_the_end_what_is_gone():
    script = watched()
    assert script.frame(1, wire.Purge(req_id=7, before=5)) == [
        Store((step(5),), admin.Purging(1, 7, 5, unread=False))
    ]
    assert script.stored(MailPurged(messages=3, place=(0, 4))) == [
        Store((step(5, place=(0, 4)),), admin.Purging(1, 7, 5, unread=False, messages=3))
    ]
    script.stored(MailPurged(messages=1, lines=2, place=(1,)))
    assert script.stored(MailPurged()) == [Reply(1, wire.Purged(req_id=7, messages=4, lines=2))]
    assert script.hub.counters == {"purged": 6}


def test_nothing_is_older_than_what_has_not_happened_yet():
    script = watched()
    script.frame(1, wire.Purge(req_id=7, before=WALL + 5, unread=True))
    assert script.units[0].ops == (step(WALL, unread=True),)


def test_a_purge_goes_on_though_who_asked_for_it_has_left():
    script = watched()
    script.frame(1, wire.Purge(req_id=7, before=5))
    script.closed(1)
    assert script.stored(MailPurged(messages=3, place=(0, 4))) == [
        Store((step(5, place=(0, 4)),), admin.Purging(1, 7, 5, unread=False, messages=3))
    ]
    assert script.stored(MailPurged()) == []


def test_a_purge_that_fails_says_what_it_had_done():
    script = watched()
    script.frame(1, wire.Purge(req_id=7, before=5))
    assert script.failed() == [
        Reply(1, wire.Failed(req_id=7, code="mailbox_error", message="the disk is full"))
    ]
    script.frame(1, wire.Purge(req_id=8, before=5))
    script.stored(MailPurged(messages=3, place=(0, 4)))
    [reply] = script.failed()
    assert reply.frame.message == "the disk is full (3 messages and 0 lines were removed before that)"


def test_what_was_on_its_way_to_a_session_is_forgotten_when_it_is_purged():
    script = Script(KNOWN)
    script.online(2, "bob", push=True)
    script.online(1, "ann")
    for number in (1, 2, 3):
        script.frame(1, wire.Send(req_id=number, op_id=mid(number), to="bob", text="hi"))
        script.stored(Appended(number, (number,)))
    script.frame(2, wire.Pushed(msg_ids=(mid(1),)))
    bob = script.peer("bob")
    assert (unread_of(bob), script.session(2).inflight_mail) == (0, 2)
    script.units.clear()
    script.frame(1, wire.Purge(req_id=7, before=WALL, unread=True))
    script.units.popleft()  # the mark of the first
    told = Eviction(1, 2, 2, first=True)
    purged = MailPurged(messages=2, unread=((2, 1, (mid(1), mid(2))),), evictions=(told,))
    assert script.stored(purged) == [Reply(1, wire.Purged(req_id=7, messages=2, unread=1))]
    assert (bob.unread, bob.pushed, bob.stubs, unread_of(bob)) == (1, {}, set(), 0)
    assert script.session(2).inflight_mail == 1
    # What the carrier says of it afterwards is heard, and marks nothing.
    answers = script.frame(2, wire.Pushed(msg_ids=(mid(2), mid(3))))
    assert [type(answer) for answer in answers] == [Reply, Reply]
    assert script.state.pushed_rows == {"": [(2, 3, WALL)]}


def test_who_is_told_of_purged_mail_is_woken_and_who_is_gone_is_not():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.frame(1, wire.Purge(req_id=7, before=WALL, unread=True))
    lost = (Eviction(1, 2, 2, first=True), Eviction(1, 2, 1, first=False), Eviction(2, 1, 1, first=True))
    gone = (Eviction(0, 1, 1, first=False), Eviction(8, 1, 1, first=True))
    unread = ((2, 0, (mid(1),)), (8, 0, (mid(2),)))
    script.stored(MailPurged(messages=6, unread=unread, evictions=(*lost, *gone)))
    assert script.peer("ann").notices == 1
    assert script.hub.counters == {"purged": 6, "purged_unread": 6}


def test_lines_that_are_gone_are_not_unread_any_more():
    script = Script(KNOWN)
    script.online(1, "ann", groups=((9, 4),))
    script.frame(1, wire.Purge(req_id=7, before=WALL))
    counts = ((9, 1, 1), (9, 2, 3), (9, 8, 3))
    script.stored(MailPurged(lines=3, groups=counts, place=(2,)))
    assert script.peer("ann").group_unread == {9: 1}
    assert script.peer("bob").group_unread == {}
    script.stored(MailPurged(lines=1, groups=((9, 1, 0), (8, 1, 4)), place=(2,)))
    assert script.peer("ann").group_unread == {}


def test_a_group_of_which_a_page_is_out_is_left_alone():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    ann.call(wire.GroupSend, group="red", text="one")
    world.tick(1)
    page = bob.call(wire.GroupHistory, group="red")
    assert len(page.messages) == 2
    assert ann.call(wire.Purge, before=world.clock.wall).lines == 0
    bob.call(wire.GroupConfirm, group="red", upto=page.upto)
    assert ann.call(wire.Purge, before=world.clock.wall).lines == 2
    assert bob.call(wire.Groups).groups == (wire.GroupUnread(name="red"),)
    assert ann.call(wire.GroupSend, group="red", text="two").msg_id
    assert bob.call(wire.GroupHistory, group="red").messages[0].text == "two"


def read_one(world: World, ann: Client) -> wire.InboxPage:
    page = ann.inbox(limit=1)
    assert [mail.text for mail in page.messages] == ["one"]
    world.tick(1)
    return page


@pytest.mark.guarantee("eviction-notice")
def test_unread_mail_is_purged_only_when_that_is_asked_for_and_its_sender_is_told():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    sent = [bob.send("ann", text).msg_id for text in ("one", "two", "three")]
    page = read_one(world, ann)
    purged = ann.call(wire.Purge, before=world.clock.wall)
    assert (purged.messages, purged.unread) == (0, 2)
    purged = ann.call(wire.Purge, before=world.clock.wall, unread=True)
    assert (purged.messages, purged.unread) == (2, 0)
    # What a page holds is left alone.
    ann.confirm(page)
    states = [bob.call(wire.Trace, msg_id=msg_id).receipts[0] for msg_id in sent]
    assert [(each.state, each.reason) for each in states] == [
        ("seen", ""),
        ("expired", "purged"),
        ("expired", "purged"),
    ]
    [notice] = bob.inbox().messages
    assert notice.text == (
        "2 messages from you lay unread in the mailbox of ann when a person had old mail removed: "
        "send it again if it still matters"
    )
    assert ann.texts() == []


def test_a_page_that_lapses_after_a_purge_brings_its_mail_back():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    for text in ("one", "two"):
        bob.send("ann", text)
    read_one(world, ann)
    ann.call(wire.Purge, before=world.clock.wall, unread=True)
    world.tick(31)
    assert ann.texts() == ["one"]
    for client in (ann, bob):
        client.close()
    world.idle()


def test_lines_said_during_a_purge_are_counted():
    script = Script(KNOWN)
    script.online(1, "ann", groups=((9, 4),))
    script.online(2, "bob")
    script.frame(1, wire.Purge(req_id=7, before=WALL))
    script.frame(2, wire.GroupSend(req_id=1, op_id=mid(1), group="red", text="hi"))
    script.stored(MailPurged(lines=4, groups=((9, 1, 0), (9, 2, 0)), place=(2,)))
    script.stored(LineAdded(5))
    assert script.peer("ann").group_unread == {9: 1}


# --- other hubs --------------------------------------------------------------------------------------


def test_a_reload_is_passed_on_with_whom_to_answer():
    script = watched()
    assert script.frame(1, wire.HubReload(req_id=7)) == [Reload(1, 7)]
