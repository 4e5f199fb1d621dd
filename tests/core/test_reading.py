"""Reading a mailbox: pages, leases, confirmation, waiting, cancelling, notices."""

from typing import Any

import pytest

from ecorelay import wire
from ecorelay.core.actions import Reply, Store
from ecorelay.core.mailbox import LeaseFreed, MailConfirmed, PageReady
from ecorelay.core.ops import (
    Appended,
    Confirmed,
    ConfirmMail,
    Dropped,
    DropPeers,
    EndLease,
    Eviction,
    Housekeep,
    HousekeepingDone,
    Notice,
    PageRead,
    ReadPage,
    Snapshot,
    StoredMail,
)
from ecorelay.errors import RelayError
from tests.core.helpers import MONO, WALL, Client, Script, World, left, mid, peer_row

KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "bob")))
LEASE = WALL
"""The first lease: a number no earlier hub can have given."""


def stored_mail(number: int, text: str | None = "hi", **fields) -> StoredMail:
    return StoredMail(
        mid=number, msg_id=mid(number), kind="message", sender="ann", at=WALL, text=text, **fields
    )


def shown(number: int, text: str | None = "hi", **fields) -> wire.Mail:
    return wire.Mail(msg_id=mid(number), kind="message", sender="ann", ts=WALL, text=text, **fields)


def notice(number: int, count: int = 1, reason: str = "evicted") -> Notice:
    return Notice(notice_id=f"n{number}-{count}", about="bob", reason=reason, count=count, at=WALL)


def page_read(*mails: StoredMail, notices=(), unread: int | None = None, remaining: int = 0) -> PageRead:
    count = len(mails) if unread is None else unread
    return PageRead(mails=mails, notices=tuple(notices), unread=count, remaining=remaining)


def script_with_bob(**fields) -> Script:
    script = Script(KNOWN)
    script.online(2, "bob", **fields)
    return script


def freed(lease: int = LEASE) -> Store:
    return Store((EndLease(lease=lease),), LeaseFreed(lease, 2))


def cancelled(req_id: int) -> wire.Failed:
    return wire.Failed(req_id=req_id, code="timeout", message="cancelled by the caller")


# --- a page ------------------------------------------------------------------------------------------


@pytest.mark.guarantee("leased-until-confirmed")
def test_a_page_is_leased_to_its_reader_and_seen_once_confirmed():
    script = script_with_bob(unread=3)
    request = wire.Inbox(req_id=7, limit=2, budget=5_000)
    read = ReadPage(no=2, lease=LEASE, limit=2, budget=5_000)
    assert script.frame(2, request) == [Store((read,), PageReady(2, 2, LEASE, request, MONO))]
    mails = (stored_mail(1, "a", handed=True), stored_mail(2, "b", pushed_at=5))
    assert script.stored(page_read(*mails, unread=3, remaining=1)) == [
        Reply(
            2,
            wire.InboxPage(
                req_id=7,
                lease=LEASE,
                messages=(shown(1, "a", redelivered=True), shown(2, "b", pushed_at=5)),
                remaining=1,
                unread=1,
            ),
        )
    ]
    confirm = wire.Confirm(req_id=8, lease=LEASE, msg_ids=(mid(1), mid(2)))
    msg_ids = (mid(1), mid(2))
    op = ConfirmMail(no=2, lease=LEASE, msg_ids=msg_ids, notices=(), at=WALL)
    assert script.frame(2, confirm) == [Store((op,), MailConfirmed(2, 2, confirm, LEASE, msg_ids))]
    assert script.stored(Confirmed(1, 0)) == [Reply(2, wire.Done(req_id=8, unread=1))]
    assert script.state.leases == {}


def test_an_empty_page_needs_no_confirmation():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7))
    assert script.stored(page_read()) == [Reply(2, wire.InboxPage(req_id=7))]
    assert script.state.leases == {}


@pytest.mark.guarantee("leased-until-confirmed")
def test_two_reads_never_get_the_same_mail():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    other = world.open("bob", role="attach")
    for text in "abc":
        ann.send("bob", text)
    with world.hold():
        asked = [bob.ask(wire.Inbox, limit=2), bob.ask(wire.Inbox)]
        third = other.ask(wire.Inbox)
    pages = [*[bob.answers[req_id] for req_id in asked], other.answers[third]]
    assert [[mail.text for mail in page.messages] for page in pages] == [["a", "b"], ["c"], []]


@pytest.mark.guarantee("unread-on-every-result")
def test_what_is_leased_is_not_unread_and_is_not_again_while_its_confirmation_is_stored():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.send("bob", "hi")
    assert bob.call(wire.Peers).unread == 1
    page = bob.inbox()
    assert (page.unread, bob.call(wire.Peers).unread) == (0, 0)
    with world.hold():
        bob.ask(wire.Confirm, lease=page.lease, msg_ids=(page.messages[0].msg_id,))
        assert bob.call(wire.Peers).unread == 0
    assert bob.call(wire.Peers).unread == 0


@pytest.mark.guarantee("unread-on-every-result")
def test_mail_that_is_on_a_page_and_pushed_or_answered_as_well_is_taken_off_the_count_once():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", pinned=True, push=True)
    reader = world.open("bob", role="attach")
    for text in "abc":
        ann.ask(wire.Send, to="bob", text=text)
    a, b, c = (push.msg_id for push in bob.pushes)
    bob.ack(a)
    page = reader.inbox(since_id=a)
    again = reader.inbox(since_id=b)
    assert [mail.text for mail in page.messages] == ["a", "b", "c"]
    bob.say(wire.PushFailed(msg_ids=(c,)))
    assert reader.call(wire.Peers).unread == 0  # all are on the page
    bob.close()
    assert reader.call(wire.Peers).unread == 0
    assert reader.call(wire.Reply, ask_id=b, text="!").unread == 0
    assert reader.call(wire.Release, lease=page.lease).unread == 1  # c is on the other page
    assert reader.call(wire.Release, lease=again.lease).unread == 2


def test_a_confirmation_by_ids_works_without_a_lease():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    ann.ask(wire.Send, to="bob", text="the turn that holds it began")
    bob.ack()
    assert bob.call(wire.Confirm, msg_ids=(bob.pushes[0].msg_id,)) == wire.Done(req_id=1)
    assert world.store.rows[2, 1].state == "seen"
    assert bob.inbox().messages == ()


def test_a_confirmation_that_overtakes_the_acknowledgement_leaves_no_miscount():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    waits = ann.ask(wire.Send, to="bob", text="one")
    bob.call(wire.Confirm, msg_ids=(bob.pushes[0].msg_id,))
    bob.ack()
    assert ann.answers[waits].status == "delivered"
    ann.ask(wire.Send, to="bob", text="two")
    bob.say(wire.PushFailed(msg_ids=(bob.pushes[1].msg_id,)))
    assert bob.call(wire.Peers).unread == 1


def test_a_confirmation_the_disk_refuses_leaves_the_page_unread_and_free():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.send("bob", "hi")
    page = bob.inbox()
    world.store.refuse = lambda unit: (
        RelayError("mailbox_error", "the disk is full") if isinstance(unit[0], ConfirmMail) else None
    )
    refused = bob.confirm(page)
    assert (refused.code, refused.unread) == ("mailbox_error", 0)
    assert bob.call(wire.Peers).unread == 1
    assert [mail.redelivered for mail in bob.inbox().messages] == [True]


def test_mail_whose_confirmation_failed_wakes_who_waits():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.send("bob", "hi")
    page = bob.inbox()
    waits = bob.ask(wire.Inbox, wait=60)
    world.store.refuse = lambda unit: (
        RelayError("mailbox_error", "?") if isinstance(unit[0], ConfirmMail) else None
    )
    bob.confirm(page)
    assert [mail.text for mail in bob.answers[waits].messages] == ["hi"]


def test_a_confirmation_without_a_lease_that_the_disk_refuses_frees_nothing():
    script = script_with_bob()
    script.frame(2, wire.Confirm(req_id=8, msg_ids=(mid(1),)))
    answer = wire.Failed(req_id=8, code="mailbox_error", message="the disk is full")
    assert script.failed() == [Reply(2, answer)]


def test_the_lease_of_another_peer_is_not_ended_by_a_confirmation_or_a_release():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.send("bob", "hi")
    page = bob.inbox()
    ann.call(wire.Confirm, lease=page.lease)
    ann.call(wire.Release, lease=page.lease)
    assert bob.inbox().messages == ()
    assert page.lease in world.state.leases


@pytest.mark.guarantee("leased-until-confirmed")
def test_a_late_confirmation_of_a_page_of_the_last_hub_ends_no_lease_of_this_one():
    world = World()
    ann, bob = world.open("ann", pinned=True), world.open("bob", pinned=True)
    ann.send("bob", "one")
    ann.send("bob", "two")
    old = bob.inbox(limit=1)
    world.restart()
    world.clock.forward(0.01)
    bob = world.open("bob", pinned=True)
    new = bob.inbox()
    bob.confirm(old)
    assert [mail.text for mail in new.messages] == ["one", "two"]
    assert new.lease in world.state.leases
    assert bob.inbox().messages == ()
    assert [row.state for row in world.store.ring(2)] == ["seen", "unread"]


def test_a_page_that_is_released_is_unread_again_at_once():
    script = script_with_bob(unread=1)
    script.frame(2, wire.Inbox(req_id=7))
    script.stored(page_read(stored_mail(1)))
    assert script.frame(2, wire.Release(req_id=8, lease=LEASE)) == [
        freed(),
        Reply(2, wire.Done(req_id=8, unread=1)),
    ]
    assert script.frame(2, wire.Release(req_id=9, lease=LEASE)) == [Reply(2, wire.Done(req_id=9, unread=1))]
    assert script.stored(None) == []


@pytest.mark.guarantee("redelivered-is-marked")
def test_a_page_nobody_confirmed_comes_again_after_thirty_seconds_and_is_marked():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.send("bob", "hi")
    assert [mail.redelivered for mail in bob.inbox().messages] == [False]
    world.tick(29.9)
    assert bob.inbox().messages == ()
    world.tick(0.2)
    assert bob.call(wire.Peers).unread == 1
    assert [mail.redelivered for mail in bob.inbox().messages] == [True]
    assert world.hub.counters["leases_lapsed"] == 1


@pytest.mark.guarantee("redelivered-is-marked")
def test_pages_of_a_session_that_ends_come_again_and_are_marked():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", pinned=True)
    ann.send("bob", "hi")
    assert len(bob.inbox().messages) == 1
    bob.close()
    bob = world.open("bob", pinned=True)
    assert [mail.redelivered for mail in bob.inbox().messages] == [True]


@pytest.mark.guarantee("redelivered-is-marked")
def test_pages_of_a_hub_that_died_come_again_and_are_marked():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", pinned=True)
    ann.send("bob", "hi")
    bob.inbox()
    world.restart()
    bob = world.open("bob", pinned=True)
    assert [mail.redelivered for mail in bob.inbox().messages] == [True]


def test_a_page_that_was_confirmed_does_not_lapse():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7))
    script.stored(page_read(stored_mail(1)))
    script.frame(2, wire.Confirm(req_id=8, lease=LEASE, msg_ids=(mid(1),)))
    script.stored(Confirmed(0, 0))
    assert script.tick(31) == []


def test_since_an_id_seen_mail_is_read_again():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    first = ann.send("bob", "a").msg_id
    ann.send("bob", "b")
    bob.texts()
    page = bob.inbox(since_id=first)
    assert [(mail.text, mail.seen) for mail in page.messages] == [("a", True), ("b", True)]
    assert bob.inbox(since_id=mid(999)).code == "bad_args"


def test_since_an_id_and_wait_do_not_go_together():
    script = script_with_bob()
    answer = wire.Failed(
        req_id=7,
        code="bad_args",
        message="since_id and wait do not go together: re-read, or wait for news",
    )
    assert script.frame(2, wire.Inbox(req_id=7, since_id=mid(1), wait=1)) == [Reply(2, answer)]


def test_a_page_the_disk_refuses_is_answered_so_and_leaves_nothing_behind():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7))
    answer = wire.Failed(req_id=7, code="mailbox_error", message="the disk is full")
    assert script.failed() == [Reply(2, answer)]
    assert (script.peer("bob").reads, script.session(2).open_reads) == (0, set())
    script.frame(2, wire.Inbox(req_id=8))
    script.closed(2)
    assert script.failed() == []
    assert script.stored(None) == []
    assert script.peer("bob").reads == 0


def test_too_many_open_reads_of_one_session_are_refused():
    script = script_with_bob()
    for number in range(100):
        script.frame(2, wire.Inbox(req_id=number))
    answer = wire.Failed(
        req_id=100, code="limit_reached", message="100 reads of this session are open: let some finish first"
    )
    assert script.frame(2, wire.Inbox(req_id=100)) == [Reply(2, answer)]


@pytest.mark.guarantee("damaged-mail-is-told")
def test_damaged_mail_found_while_reading_is_counted_and_no_longer_unread():
    script = script_with_bob(unread=2)
    script.frame(2, wire.Inbox(req_id=7))
    page = PageRead(mails=(), notices=(), unread=0, remaining=0, damaged=2)
    assert script.stored(page) == [Reply(2, wire.InboxPage(req_id=7))]
    assert script.hub.counters == {"damaged": 2}


# --- notices -----------------------------------------------------------------------------------------


@pytest.mark.guarantee("eviction-notice")
def test_mail_that_left_a_full_mailbox_unread_is_told_to_its_sender():
    world = World(mailbox_messages=2)
    ann = world.open("ann")
    world.open("bob", pinned=True).close()
    for text in "abcd":
        ann.send("bob", text)
    assert world.hub.counters == {"closed eof": 1, "evicted_unread": 2}
    assert ann.call(wire.Peers).unread == 1
    page = ann.inbox()
    assert page.messages == (
        wire.Mail(
            msg_id="n1-2",
            kind="system",
            sender="here",
            ts=WALL,
            text="2 messages from you left the full mailbox of bob unread: "
            "tell it again when bob reads its mail",
        ),
    )
    assert page.unread == 0
    ann.send("bob", "e")
    assert ann.call(wire.Peers).unread == 0
    ann.confirm(page)
    [mail] = ann.inbox().messages
    assert mail.text is not None
    assert mail.text.startswith("1 message from you left")


def test_what_left_a_full_mailbox_is_not_marked_as_pushed_whatever_the_order_of_the_carrier():
    world = World(mailbox_messages=2)
    ann, bob = world.open("ann"), world.open("bob", push=True)
    for text in "ab":
        ann.ask(wire.Send, to="bob", text=text)
    first, second = [push.msg_id for push in bob.pushes]
    bob.ack(second)
    bob.ack(first)
    ann.ask(wire.Send, to="bob", text="c")
    assert set(world.hub.state.names["bob"].pushed) == {second}
    assert bob.call(wire.Peers).unread == 0, "all that is there was pushed"


@pytest.mark.guarantee("eviction-notice")
def test_the_first_notice_wakes_a_sender_that_waits():
    world = World(mailbox_messages=1)
    ann, bob = world.open("ann"), world.open("bob")
    waits = ann.ask(wire.Inbox, wait=60)
    ann.send("bob", "a")
    assert waits not in ann.answers
    bob.send("bob", "b")
    assert len(ann.answers[waits].messages) == 1


def test_a_notice_is_shown_by_one_open_page_only():
    world = World(mailbox_messages=1)
    ann, _ = world.open("ann"), world.open("bob")
    ann.send("bob", "a")
    ann.send("bob", "b")
    first, second = ann.inbox(), ann.inbox()
    assert (len(first.messages), len(second.messages)) == (1, 0)
    ann.call(wire.Release, lease=first.lease)
    assert len(ann.inbox().messages) == 1


def sender_with_a_notice() -> tuple[World, Client, Client, Any]:
    """ann, and the page that tells her that her mail left bob's mailbox; another connection of hers."""
    world = World(mailbox_messages=1)
    ann = world.open("ann")
    world.open("bob")
    ann.send("bob", "a")
    ann.send("bob", "b")
    page = ann.inbox()
    assert len(page.messages) == 1
    return world, ann, world.open("ann", role="attach"), page


def test_a_notice_is_not_shown_again_while_it_is_being_confirmed():
    world, ann, other, page = sender_with_a_notice()
    with world.hold():
        asked_for = other.ask(wire.Inbox)
        ann.ask(wire.Confirm, lease=page.lease, notices=(page.messages[0].msg_id,))
    assert other.answers[asked_for].messages == ()


@pytest.mark.guarantee("eviction-notice")
def test_what_came_on_top_of_a_notice_that_is_out_is_told_once_that_is_confirmed():
    _, ann, other, page = sender_with_a_notice()
    waits = other.ask(wire.Inbox, wait=60)
    ann.send("bob", "c")
    assert waits not in other.answers
    ann.confirm(page)
    [mail] = other.answers[waits].messages
    assert mail.text is not None
    assert mail.text.startswith("1 message from you left")


@pytest.mark.guarantee("page-fits")
def test_notices_that_do_not_fit_a_page_come_with_the_next():
    script = script_with_bob(notices=4)
    notices = [notice(number) for number in (1, 2, 3, 4)]
    script.frame(2, wire.Inbox(req_id=7, budget=2_000))
    [answer] = script.stored(page_read(stored_mail(1), notices=notices))
    assert [mail.msg_id for mail in answer.frame.messages] == [mid(1), "n1-1", "n2-1", "n3-1"]
    assert (answer.frame.remaining, answer.frame.unread) == (1, 1)
    script.frame(2, wire.Inbox(req_id=8, budget=1_000))
    [answer] = script.stored(page_read(stored_mail(2, "x" * 800), notices=notices, unread=2))
    assert [mail.msg_id for mail in answer.frame.messages] == [mid(2)]
    script.frame(2, wire.Inbox(req_id=9, budget=1_000))
    [answer] = script.stored(page_read(notices=notices, unread=2))
    assert [mail.msg_id for mail in answer.frame.messages] == ["n4-1"]
    assert (answer.frame.remaining, answer.frame.unread) == (0, 0)


def test_a_notice_of_any_other_reason_names_it():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7))
    [answer] = script.stored(page_read(notices=(notice(1, 1, "damaged"), notice(2, 3, "expired"))))
    assert [mail.text for mail in answer.frame.messages] == [
        "1 message from you could not be read back from the disk of bob's hub and was not seen: "
        "send it again",
        "3 messages from you to bob ended unseen (expired)",
    ]


def test_eviction_of_a_sender_that_was_removed_is_only_counted():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.frame(1, wire.Send(req_id=7, op_id=mid(1), to="bob", text="hi"))
    evictions = (Eviction(9, 2, 1, False), Eviction(0, 8, 2, False))
    assert script.stored(Appended(5, (1,), evictions)) == [Reply(1, wire.Sent(req_id=7, msg_id=mid(1)))]
    assert script.hub.counters == {"evicted_unread": 3}


def test_marks_of_pushed_mail_do_not_outgrow_the_ring():
    world = World(mailbox_messages=2)
    ann, bob = world.open("ann"), world.open("bob", push=True)
    for text in "abcdef":
        ann.ask(wire.Send, to="bob", text=text)
        bob.ack()
    assert len(world.peer("bob").pushed) == 2
    assert world.peer("bob").stubs <= world.peer("bob").pushed.keys()
    assert bob.call(wire.Peers).unread == 0


def full_of_pushes(*took: int) -> tuple[World, Client, Client]:
    """bob's mailbox took three messages, and then pushed out the first two; his carrier took only these."""
    world = World(mailbox_messages=3)
    ann, bob = world.open("ann"), world.open("bob", push=True)
    for number in range(3):
        ann.ask(wire.Send, to="bob", text=str(number))
    bob.ack(*[bob.pushes[number].msg_id for number in took])
    for number in range(3, 5):
        ann.ask(wire.Send, to="bob", text=str(number))
    bob.say(wire.PushFailed(msg_ids=tuple(push.msg_id for push in bob.pushes[3:])))
    return world, ann, bob


@pytest.mark.guarantee("unread-on-every-result")
@pytest.mark.parametrize("took", [(0, 1, 2), (2, 1, 0), (2,), ()])
def test_what_left_a_full_ring_hides_nothing_that_waits(took: tuple[int, ...]):
    _, _, bob = full_of_pushes(*took)
    bob.ack(*[push.msg_id for push in bob.pushes[:3]])  # at last
    assert bob.call(wire.Peers).unread == 2
    page = bob.inbox()
    assert [mail.text for mail in page.messages] == [None, "3", "4"]
    bob.confirm(page)
    assert bob.call(wire.Peers).unread == 0


@pytest.mark.guarantee("unread-on-every-result")
def test_mail_that_left_a_full_ring_while_its_page_was_out_hides_nothing_that_waits():
    world = World(mailbox_messages=3)
    ann, bob, cat = world.open("ann"), world.open("bob"), world.open("cat")
    for text in "abc":
        ann.send("bob", text)
        ann.send("cat", text)
    page, other = bob.inbox(limit=2), cat.inbox()
    for text in "def":
        ann.send("bob", text)
    assert bob.call(wire.Peers).unread == 3
    assert cat.call(wire.Peers).unread == 0
    assert bob.confirm(page).unread == 3
    assert cat.confirm(other).unread == 0


# --- waiting -----------------------------------------------------------------------------------------


def test_an_empty_mailbox_is_waited_at_until_mail_comes():
    script = script_with_bob()
    request = wire.Inbox(req_id=7, wait=60)
    script.frame(2, request)
    assert script.stored(page_read()) == []
    script.online(1, "ann")
    script.frame(1, wire.Send(req_id=1, op_id=mid(1), to="bob", text="hi"))
    actions = script.stored(Appended(5, (1,)))
    read = ReadPage(no=2, lease=LEASE + 1, limit=20, budget=20_000)
    assert actions[0] == Store((read,), PageReady(2, 2, LEASE + 1, request, MONO + 60))
    [answer] = script.stored(page_read(stored_mail(5)))
    assert answer == Reply(2, wire.InboxPage(req_id=7, lease=LEASE + 1, messages=(shown(5),)))
    assert script.tick(29) == []


def three_readers() -> tuple[Client, Any, list[tuple[Client, int]]]:
    """bob with a page of three messages, and two more connections of his that wait for one each."""
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    for text in "abc":
        ann.send("bob", text)
    page = bob.inbox()
    others = [world.open("bob", role="attach") for _ in range(2)]
    return bob, page, [(each, each.ask(wire.Inbox, wait=60, limit=1)) for each in others]


def test_a_page_that_is_free_again_is_read_by_all_who_wait():
    bob, page, others = three_readers()
    bob.call(wire.Release, lease=page.lease)
    shown = [mail.text for reader, waits in others for mail in reader.answers[waits].messages]
    assert shown == ["a", "b"]


def test_what_of_a_page_was_not_shown_is_read_by_who_waits():
    bob, page, others = three_readers()
    bob.call(wire.Confirm, lease=page.lease, msg_ids=tuple(mail.msg_id for mail in page.messages[:2]))
    shown = [mail.text for reader, waits in others for mail in reader.answers.get(waits, page).messages]
    assert shown[0] == "c"


def test_a_wait_that_was_in_vain_ends_with_an_empty_page():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7, wait=10))
    script.stored(page_read())
    assert script.hub.next_deadline() == MONO + 10
    assert script.tick(10) == [Reply(2, wire.InboxPage(req_id=7))]
    assert (script.peer("bob").waiters, script.session(2).open_reads) == ([], set())


def test_a_wait_whose_time_is_over_when_the_page_is_read_ends_there():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7, wait=1))
    script.clock.forward(1)
    assert script.stored(page_read()) == [Reply(2, wire.InboxPage(req_id=7))]


def test_a_wait_that_is_reading_when_its_time_is_over_answers_with_what_it_reads():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7, wait=10))
    script.stored(page_read())
    script.online(1, "ann")
    script.frame(1, wire.Send(req_id=1, op_id=mid(1), to="bob", text="hi"))
    script.stored(Appended(5, (1,)))
    assert script.tick(10) == []
    [answer] = script.stored(page_read(stored_mail(5)))
    assert answer.frame.messages == (shown(5),)


def test_the_end_of_an_earlier_wait_does_not_end_a_later_one_of_the_same_number():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7, wait=10))
    script.stored(page_read())
    script.frame(2, wire.Cancel(req_id=7))
    script.clock.forward(5)
    script.frame(2, wire.Inbox(req_id=7, wait=10))
    script.stored(page_read())
    assert script.tick(5) == []
    assert script.tick(5) == [Reply(2, wire.InboxPage(req_id=7))]


def test_a_wait_of_a_session_that_left_is_over():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7, wait=10))
    script.stored(page_read())
    script.closed(2)
    assert script.tick(10) == []
    assert script.peer("bob").waiters == []


def test_a_wait_is_woken_by_a_room_message():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    for client in (ann, bob):
        client.call(wire.Join, room="hall")
    waits = bob.ask(wire.Inbox, wait=60)
    ann.call(wire.RoomSend, room="hall", text="hi")
    assert [mail.room for mail in bob.answers[waits].messages] == ["hall"]


def test_a_wait_is_woken_by_a_group_message_and_names_the_group():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    bob.call(wire.GroupConfirm, group="red", upto=bob.call(wire.GroupHistory, group="red").upto)
    waits = bob.ask(wire.Inbox, wait=60)
    assert waits not in bob.answers
    ann.call(wire.GroupSend, group="red", text="hi")
    assert bob.answers[waits].groups == (wire.GroupUnread(name="red", unread_count=1),)


def test_a_wait_is_woken_when_a_push_fails():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    ann.ask(wire.Send, to="bob", text="hi")
    reader = world.open("bob", role="attach")
    waits = reader.ask(wire.Inbox, wait=60)
    assert waits not in reader.answers
    bob.say(wire.PushFailed(msg_ids=(bob.pushes[0].msg_id,)))
    assert [mail.text for mail in reader.answers[waits].messages] == ["hi"]


def test_a_push_that_fails_while_the_page_is_read_is_not_waited_for_in_vain():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    ann.ask(wire.Send, to="bob", text="hi")
    with world.hold():
        waits = bob.ask(wire.Inbox, wait=60)
        bob.say(wire.PushFailed(msg_ids=(bob.pushes[0].msg_id,)))
    assert [mail.text for mail in bob.answers[waits].messages] == ["hi"]


def test_a_lease_that_ends_while_the_page_is_read_is_not_waited_for_in_vain():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    other = world.open("bob", role="attach")
    ann.send("bob", "hi")
    other.inbox()
    with world.hold():
        waits = bob.ask(wire.Inbox, wait=60)
        other.close()
    assert [mail.text for mail in bob.answers[waits].messages] == ["hi"]


def test_a_wait_is_woken_when_the_session_with_the_pushed_mail_ends():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True, pinned=True)
    ann.ask(wire.Send, to="bob", text="hi")
    bob.ack()
    reader = world.open("bob", role="attach")
    reader.confirm(reader.inbox())  # the stub
    waits = reader.ask(wire.Inbox, wait=60)
    assert waits not in reader.answers
    bob.close()
    assert [mail.text for mail in reader.answers[waits].messages] == ["hi"]


def test_one_message_wakes_one_who_waits_and_the_next_another():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    first, second = bob.ask(wire.Inbox, wait=60), bob.ask(wire.Inbox, wait=60)
    ann.send("bob", "a")
    assert (first in bob.answers, second in bob.answers) == (True, False)
    ann.send("bob", "b")
    assert [mail.text for mail in bob.answers[second].messages] == ["b"]


def test_mail_a_cancelled_reader_gave_up_goes_to_the_next_who_waits():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    first, second = bob.ask(wire.Inbox, wait=60), bob.ask(wire.Inbox, wait=60)
    with world.hold():
        ann.ask(wire.Send, to="bob", text="a")
        world.commit(1)
        bob.say(wire.Cancel(req_id=first))
    assert bob.answers[first].code == "timeout"
    assert [mail.text for mail in bob.answers[second].messages] == ["a"]


def test_mail_a_failed_reader_did_not_get_goes_to_the_next_who_waits():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    first, second = bob.ask(wire.Inbox, wait=60), bob.ask(wire.Inbox, wait=60)
    failures = [RelayError("mailbox_error", "once")]
    world.store.refuse = lambda unit: failures.pop() if failures and isinstance(unit[0], ReadPage) else None
    ann.send("bob", "a")
    assert bob.answers[first].code == "mailbox_error"
    assert [mail.text for mail in bob.answers[second].messages] == ["a"]


# --- cancelling --------------------------------------------------------------------------------------


@pytest.mark.guarantee("cancel-never-confirms")
def test_a_cancelled_wait_is_answered_at_once():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7, wait=60))
    script.frame(2, wire.Inbox(req_id=8, wait=60))
    script.stored(page_read())
    script.stored(page_read())
    assert script.frame(2, wire.Cancel(req_id=8)) == [Reply(2, cancelled(8))]
    assert script.frame(2, wire.Cancel(req_id=7)) == [Reply(2, cancelled(7))]
    assert script.frame(2, wire.Cancel(req_id=7)) == []
    assert script.tick(60) == [Reply(2, wire.Ping())]


@pytest.mark.guarantee("cancel-never-confirms")
def test_what_a_cancelled_request_had_read_stays_unread():
    script = script_with_bob(unread=1)
    script.frame(2, wire.Inbox(req_id=7))
    assert script.frame(2, wire.Cancel(req_id=7)) == []
    answer = wire.Failed(req_id=7, code="timeout", message="cancelled by the caller", unread=1)
    assert script.stored(page_read(stored_mail(1))) == [freed(), Reply(2, answer)]
    assert (script.state.leases, script.session(2).cancelled) == ({}, set())


def test_a_page_read_for_a_session_that_left_is_free_again():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=7))
    script.closed(2)
    script.stored(page_read(stored_mail(1)))
    assert [*script.units] == [left(2), freed()]


# --- a lease the disk does not let go of -------------------------------------------------------------


def test_a_lease_that_could_not_be_ended_is_ended_later_and_who_waits_reads_then():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.send("bob", "hi")
    page = bob.inbox()
    world.store.refuse = lambda unit: (
        RelayError("mailbox_error", "?") if isinstance(unit[0], EndLease) else None
    )
    bob.call(wire.Release, lease=page.lease)
    waits = bob.ask(wire.Inbox, wait=60)
    world.tick(1.5)
    assert waits not in bob.answers
    world.store.refuse = lambda unit: None
    world.tick(1.0)
    assert [mail.text for mail in bob.answers[waits].messages] == ["hi"]


def test_a_lease_of_a_peer_that_was_removed_needs_no_end():
    snapshot = Snapshot(peers=(peer_row(2, "bob", auto=True),))
    script = Script(snapshot, forget_auto_peer_days=1e-9)
    script.tick()
    script.clock.forward(59.5)
    script.online(2, "bob", role="attach")
    script.frame(2, wire.Inbox(req_id=7))
    script.frame(2, wire.Cancel(req_id=7))
    script.stored(page_read())
    script.closed(2)
    assert script.failed() == []
    units = script.tick(0.5)
    assert [type(unit.ops[0]) for unit in units if isinstance(unit, Store)] == [Housekeep, DropPeers]
    script.stored(HousekeepingDone(0, False))
    script.stored(Dropped((2,)))
    assert script.tick(0.5) == []
