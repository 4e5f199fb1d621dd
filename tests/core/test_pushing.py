"""How mail reaches a live session: caught up or behind, within a window, once and in order."""

import pytest

from ecorelay import wire
from ecorelay.core.actions import Push, Reply, Store
from ecorelay.core.delivery import BacklogLoaded
from ecorelay.core.ops import (
    Appended,
    Backlog,
    LoadBacklog,
    MailboxState,
    MarkPushed,
    PageRead,
    Snapshot,
    StoredMail,
)
from ecorelay.errors import RelayError
from tests.core.helpers import MONO, WALL, Script, World, mid, peer_row, welcome

KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "bob")))
EMPTY_PAGE = PageRead(mails=(), notices=(), unread=0, remaining=0)


def stored_mail(number: int, text: str = "hi", **fields) -> StoredMail:
    return StoredMail(
        mid=number, msg_id=mid(number), kind="message", sender="ann", at=WALL, text=text, **fields
    )


def push_of(number: int, text: str = "hi") -> Push:
    return Push((2,), wire.Push(msg_id=mid(number), kind="message", sender="ann", text=text, ts=WALL))


def load(after: int, count: int = 500, size: int = 1024 * 1024, sid: int = 2) -> Store:
    op = LoadBacklog(no=2, after=after, max_count=count, max_bytes=size)
    return Store((op,), BacklogLoaded(sid))


def script_with_bob(**limits) -> Script:
    """Session 1 is ann, session 2 is bob with a carrier, caught up."""
    script = Script(KNOWN, **limits)
    script.online(1, "ann")
    script.online(2, "bob", push=True)
    return script


def send(script: Script, number: int, text: str = "hi", unread: int = 1) -> list:
    """Mail with this number is sent and stored."""
    script.frame(1, wire.Send(req_id=number, op_id=mid(number), to="bob", text=text))
    return script.stored(Appended(number, (unread,)))


def ack(script: Script, *numbers: int) -> list:
    return script.frame(2, wire.Pushed(msg_ids=tuple(mid(number) for number in numbers), carrier="inbox"))


# --- connecting with a backlog -----------------------------------------------------------------------


@pytest.mark.guarantee("mailbox-outlives-session")
def test_what_waited_is_pushed_in_order_after_the_welcome():
    script = Script(KNOWN)
    script.opened(2, peer_id="id-bob", push=True)
    assert script.stored(None, None, MailboxState(2, 0, ())) == [
        Reply(2, welcome("bob", unread=2)),
        load(0),
    ]
    mails = (stored_mail(3, "a"), stored_mail(4, "b"))
    assert script.stored(Backlog(mails, False, 2)) == [push_of(3, "a"), push_of(4, "b")]
    assert script.session(2).caught_up


def test_mail_stored_while_the_backlog_is_on_its_way_comes_with_it_once():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.opened(2, peer_id="id-bob", push=True)
    script.frame(1, wire.Send(req_id=3, op_id=mid(3), to="bob", text="hi"))
    assert script.stored(None, None, MailboxState(0, 0, ()))[1] == load(0)
    assert script.stored(Appended(3, (1,))) == [Reply(1, wire.Sent(req_id=3, msg_id=mid(3)))]
    assert script.stored(Backlog((stored_mail(3),), False, 1)) == [push_of(3)]


def test_all_that_a_message_carries_is_pushed_from_the_backlog_too():
    script = Script(KNOWN)
    script.opened(2, peer_id="id-bob", push=True)
    script.stored(None, None, MailboxState(1, 0, ()))
    mail = stored_mail(3, reply_to=mid(8), broadcast_id=mid(9), urgent=True)
    push = wire.Push(
        msg_id=mid(3),
        kind="message",
        sender="ann",
        text="hi",
        ts=WALL,
        reply_to=mid(8),
        broadcast_id=mid(9),
        urgent=True,
    )
    assert script.stored(Backlog((mail,), False, 1)) == [Push((2,), push)]


def test_a_long_backlog_comes_in_parts_as_the_carrier_accepts_them():
    script = Script(KNOWN, push_window_messages=4)
    script.opened(2, peer_id="id-bob", push=True)
    script.stored(None, None, MailboxState(6, 0, ()))
    mails = tuple(stored_mail(number) for number in (1, 2, 3, 4))
    assert script.stored(Backlog(mails, True, 6)) == [push_of(number) for number in (1, 2, 3, 4)]
    assert ack(script, 1) == []
    assert ack(script, 2) == [load(4, 2, 1024 * 1024 - 4)]
    # While it is loading nothing more is asked for.
    assert ack(script, 3, 4) == []
    assert script.stored(Backlog((stored_mail(5), stored_mail(6)), False, 6)) == [push_of(5), push_of(6)]


def test_a_part_with_more_behind_it_and_room_left_is_followed_by_the_next_at_once():
    script = Script(KNOWN)
    script.opened(2, peer_id="id-bob", push=True)
    script.stored(None, None, MailboxState(2, 0, ()))
    assert script.stored(Backlog((stored_mail(1),), True, 2)) == [
        push_of(1),
        load(1, 499, 1024 * 1024 - 2),
    ]


@pytest.mark.guarantee("damaged-mail-is-told")
def test_damaged_mail_found_while_loading_is_counted_and_not_pushed():
    script = Script(KNOWN)
    script.opened(2, peer_id="id-bob", push=True)
    script.stored(None, None, MailboxState(2, 0, ()))
    assert script.stored(Backlog((stored_mail(2),), False, 1, damaged=1)) == [push_of(2)]
    assert script.hub.counters == {"damaged": 1}


def test_a_backlog_that_cannot_be_loaded_is_tried_again_in_a_while():
    script = Script(KNOWN)
    script.opened(2, peer_id="id-bob", push=True)
    script.stored(None, None, MailboxState(1, 0, ()))
    assert script.failed() == []
    assert script.hub.counters == {"store_failed mailbox_error": 1, "backlog_failed": 1}
    assert script.tick(4.9) == []
    assert script.tick(0.2) == [load(0)]
    assert script.stored(Backlog((stored_mail(1),), False, 1)) == [push_of(1)]


def test_a_session_that_left_is_not_tried_again():
    script = Script(KNOWN)
    script.opened(2, peer_id="id-bob", push=True)
    script.stored(None, None, MailboxState(1, 0, ()))
    script.failed()
    script.opened(3, peer_id="id-ann", push=True)
    script.stored(None, None, MailboxState(1, 0, ()))
    script.closed(2)
    script.closed(3)
    assert script.failed() == []
    assert script.tick(6) == []


# --- the window --------------------------------------------------------------------------------------


@pytest.mark.guarantee("stalled-reader-bounded")
def test_a_session_that_acknowledges_nothing_gets_no_more_than_its_window():
    script = script_with_bob(push_window_messages=2)
    assert send(script, 1) == [push_of(1)]
    assert send(script, 2) == [push_of(2)]
    assert send(script, 3) == [Reply(1, wire.Sent(req_id=3, msg_id=mid(3)))]
    assert send(script, 4) == [Reply(1, wire.Sent(req_id=4, msg_id=mid(4)))]
    assert len(script.session(2).inflight) == 2


@pytest.mark.guarantee("stalled-reader-bounded")
def test_the_window_is_bounded_in_bytes_and_one_push_may_overshoot():
    script = script_with_bob(push_window_bytes=10)
    assert send(script, 1, "x" * 9) == [push_of(1, "x" * 9)]
    assert send(script, 2, "x" * 9) == [push_of(2, "x" * 9)]
    assert send(script, 3, "x")[0] == Reply(1, wire.Sent(req_id=3, msg_id=mid(3)))
    assert script.session(2).inflight_bytes == 18
    answered = [Reply(1, wire.Sent(req_id=n, msg_id=mid(n), status="delivered")) for n in (1, 2)]
    assert ack(script, 1) == answered[:1]
    assert ack(script, 2) == [answered[1], load(2, 500, 10)]


def test_loading_goes_on_when_half_the_window_is_free_in_bytes_too():
    script = script_with_bob(push_window_bytes=10)
    send(script, 1, "x" * 5)
    send(script, 2, "x" * 5)
    send(script, 3)
    assert ack(script, 1)[1] == load(2, 499, 5)


@pytest.mark.guarantee("fifo")
def test_what_did_not_fit_the_window_follows_in_order_before_what_came_later():
    world = World(push_window_messages=2)
    ann, bob = world.open("ann"), world.open("bob", push=True)
    for number in range(5):
        ann.ask(wire.Send, to="bob", text=str(number))
    assert bob.pushed_texts == ["0", "1"]
    bob.ack(bob.pushes[0].msg_id)
    ann.ask(wire.Send, to="bob", text="5")
    while len(bob.pushes) < 6:
        bob.ack()
    assert bob.pushed_texts == ["0", "1", "2", "3", "4", "5"]


def test_a_backlog_does_not_overfill_a_window_that_others_filled_meanwhile():
    world = World(push_window_messages=4)
    ann, bob = world.open("ann"), world.open("bob", pinned=True)
    for client in (ann, bob):
        client.call(wire.Join, room="hall")
    for number in range(4):
        ann.send("bob", str(number))
    bob.close()
    with world.hold():
        bob = world.open("bob", push=True, pinned=True)
        world.commit(2)
        bob.call(wire.Join, room="hall")
        for number in range(3):
            ann.call(wire.RoomSend, room="hall", text=f"room {number}")
    assert bob.pushed_texts == ["room 0", "room 1", "room 2", "0"]
    bob.ack()
    assert bob.pushed_texts[4:] == ["1", "2", "3"]


# --- acknowledging -----------------------------------------------------------------------------------


def test_receipts_of_pushes_are_written_together_one_unit_for_each_carrier():
    script = script_with_bob()
    for number in (1, 2, 3):
        send(script, number)
    assert script.state.pushed_due == 0.0
    ack(script, 1)
    assert script.hub.next_deadline() == MONO + 0.2
    script.clock.forward(0.1)
    script.frame(2, wire.Pushed(msg_ids=(mid(2),), carrier="hook"))
    ack(script, 3)
    first, second = script.clock.wall - 100, script.clock.wall
    assert script.tick(0.1) == [
        Store((MarkPushed(rows=((2, 1, first), (2, 3, second)), carrier="inbox"),)),
        Store((MarkPushed(rows=((2, 2, second),), carrier="hook"),)),
    ]
    assert script.tick(1) == []
    assert script.failed() == []


def test_very_many_receipts_are_written_at_once():
    script = Script(KNOWN, push_window_messages=3_000)
    script.opened(2, peer_id="id-bob", push=True)
    script.stored(None, None, MailboxState(2_000, 0, ()))
    script.stored(Backlog(tuple(stored_mail(number) for number in range(1, 2_001)), False, 2_000))
    assert ack(script, *range(1, 2_000)) == []
    [store] = ack(script, 2_000)
    assert len(store.ops[0].rows) == 2_000
    assert script.state.pushed_due == 0.0


def test_an_acknowledgement_of_what_was_not_pushed_changes_nothing():
    script = script_with_bob()
    for number in range(100):
        assert script.frame(2, wire.Pushed(msg_ids=(mid(9),), carrier=f"carrier {number}")) == []
    assert script.frame(2, wire.PushFailed(msg_ids=(mid(9),))) == []
    assert script.state.pushed_rows == {}
    assert script.hub.counters == {}


def test_a_push_the_carrier_could_not_take_waits_in_the_inbox():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    ann.ask(wire.Send, to="bob", text="hi")
    bob.say(wire.PushFailed(msg_ids=(bob.pushes[0].msg_id,)))
    assert bob.call(wire.Peers).unread == 1
    assert bob.texts() == ["hi"]
    assert len(bob.pushes) == 1
    assert world.hub.counters["push_failed"] == 1


@pytest.mark.guarantee("pushed-is-not-seen")
def test_pushed_mail_without_evidence_is_unread_again_when_the_session_ends():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True, pinned=True)
    ann.ask(wire.Send, to="bob", text="accepted")
    bob.ack()
    ann.ask(wire.Send, to="bob", text="not accepted")
    assert bob.call(wire.Peers).unread == 0
    bob.close()
    bob = world.open("bob", pinned=True)
    assert bob.welcome is not None
    assert bob.welcome.unread == 2
    assert bob.texts() == ["accepted", "not accepted"]


def test_one_id_used_for_two_things_leaves_the_window_as_it_was():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    for client in (ann, bob):
        client.call(wire.Join, room="hall")
    op_id = world.new_op()
    ann.ask(wire.Send, op_id=op_id, to="bob", text="mail")
    ann.call(wire.RoomSend, op_id=op_id, room="hall", text="in the room")
    assert bob.pushed_texts == ["mail", "in the room"]
    bob.ack(op_id)
    session = world.peer("bob").session
    assert session is not None
    assert (session.inflight, session.inflight_bytes, session.inflight_mail) == ({}, 0, 0)


# --- pushing and reading at once ---------------------------------------------------------------------


def test_mail_on_its_way_to_the_model_is_hidden_from_pages_for_as_long_as_a_lease():
    script = script_with_bob()
    send(script, 1)
    [store] = script.frame(2, wire.Inbox(req_id=1))
    assert (store.ops[0].hidden, store.ops[0].pushed) == (frozenset({1}), frozenset())
    script.stored(EMPTY_PAGE)
    script.clock.forward(30)
    [store] = script.frame(2, wire.Inbox(req_id=2))
    assert (store.ops[0].hidden, store.ops[0].pushed) == (frozenset(), frozenset())


def test_pushed_mail_is_a_stub_until_a_page_listed_it_then_hidden():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    ann.ask(wire.Send, to="bob", text="hi")
    bob.ack()
    page = bob.inbox()
    assert [(mail.msg_id, mail.text) for mail in page.messages] == [(bob.pushes[0].msg_id, None)]
    bob.confirm(page)
    assert bob.inbox().messages == ()
    [mail] = bob.inbox(since_id=bob.pushes[0].msg_id).messages
    assert mail.text == "hi"


def test_a_stub_whose_page_was_not_confirmed_is_listed_again():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    ann.ask(wire.Send, to="bob", text="hi")
    bob.ack()
    bob.call(wire.Release, lease=bob.inbox().lease)
    assert len(bob.inbox().messages) == 1


def test_mail_stored_while_a_page_is_read_is_pushed_after_it():
    script = script_with_bob()
    script.frame(2, wire.Inbox(req_id=1))
    script.frame(1, wire.Send(req_id=3, op_id=mid(3), to="bob", text="hi"))
    assert script.stored(EMPTY_PAGE) == [Reply(2, wire.InboxPage(req_id=1))]
    assert script.stored(Appended(3, (1,))) == [push_of(3)]


def test_a_page_that_is_still_being_read_holds_pushes_back():
    script = script_with_bob()
    script.frame(1, wire.Send(req_id=3, op_id=mid(3), to="bob", text="hi"))
    script.frame(2, wire.Inbox(req_id=1))
    assert script.stored(Appended(3, (1,))) == [Reply(1, wire.Sent(req_id=3, msg_id=mid(3)))]
    page = PageRead(mails=(stored_mail(3),), notices=(), unread=1, remaining=0)
    assert script.stored(page)[1] == load(0)
    assert script.stored(Backlog((), False, 1)) == []


def test_a_page_asked_for_while_the_backlog_is_loading_shows_nothing_twice():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", pinned=True)
    ann.send("bob", "one")
    bob.close()
    with world.hold():
        bob = world.open("bob", pinned=True, push=True)
        world.commit(1)  # welcome; the backlog is in the store
        asked = bob.ask(wire.Inbox)
    page = bob.answers[asked]
    assert isinstance(page, wire.InboxPage)
    assert [mail.text for mail in page.messages] == ["one"]
    assert bob.pushes == []
    ann.ask(wire.Send, to="bob", text="two")
    assert bob.pushed_texts == ["two"]


def test_leased_mail_is_not_pushed_meanwhile():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", pinned=True)
    ann.send("bob", "one")
    reader = world.open("bob", role="attach")
    page = reader.inbox()
    bob.close()
    bob = world.open("bob", pinned=True, push=True)
    assert bob.pushes == []
    reader.confirm(page)
    ann.ask(wire.Send, to="bob", text="two")
    assert bob.pushed_texts == ["two"]


def test_who_waits_reads_what_comes_and_the_session_is_not_pushed_it():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    waits = bob.ask(wire.Inbox, wait=60)
    assert ann.send("bob", "one").status == "queued"
    page = bob.answers[waits]
    assert isinstance(page, wire.InboxPage)
    assert [mail.text for mail in page.messages] == ["one"]
    bob.confirm(page)
    assert bob.pushes == []
    ann.ask(wire.Send, to="bob", text="two")
    assert bob.pushed_texts == ["two"]


def test_a_carrier_is_used_again_after_the_disk_recovered():
    world = World()
    ann = world.open("ann")
    world.open("bob", pinned=True).close()
    ann.send("bob", "one")
    world.store.refuse = lambda unit: (
        RelayError("mailbox_error", "?") if isinstance(unit[0], LoadBacklog) else None
    )
    bob = world.open("bob", push=True, pinned=True)
    assert bob.pushes == []
    world.store.refuse = lambda unit: None
    ann.send("bob", "two")
    world.tick(5)
    assert bob.pushed_texts == ["one", "two"]
