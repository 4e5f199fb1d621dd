"""What a hub does by itself: pings, deadlines, housekeeping; what it says of itself; when it is idle."""

import pytest

from ecorelay import wire
from ecorelay.core.actions import CloseSession, Describe, Reply, Stop, Store
from ecorelay.core.admin import MailSized
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.core.hub import HouseKept
from ecorelay.core.ops import (
    Appended,
    EndLease,
    Housekeep,
    HousekeepingDone,
    MailboxState,
    MailMeasured,
    MeasureMail,
    PageRead,
    Snapshot,
    StoredMail,
)
from ecorelay.core.state import unread_of
from tests.core.helpers import DAY_MS, HUB_ID, MONO, VERSION, WALL, Script, group_row, mid, peer_row

KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "bob")), groups=(group_row(9, "red", 1),))


def script_with_ann(**limits) -> Script:
    script = Script(KNOWN, **limits)
    script.online(1, "ann")
    return script


# --- keepalive ---------------------------------------------------------------------------------------


def tick(script: Script, after: float = 0.0) -> list:
    """What a tick leads to, but for the housekeeping."""
    return [action for action in script.tick(after) if not isinstance(action, Store)]


def test_who_is_silent_for_a_minute_is_pinged_and_an_answer_is_enough():
    script = script_with_ann()
    assert script.hub.next_deadline() == MONO + 60
    assert tick(script, 60) == [Reply(1, wire.Ping())]
    assert script.hub.next_deadline() == MONO + 80
    script.clock.forward(5)
    assert script.frame(1, wire.Pong()) == []
    assert tick(script, 15) == []
    assert script.hub.next_deadline() == MONO + 120
    assert script.session(1).pings == 0


def test_any_frame_is_a_sign_of_life():
    script = script_with_ann()
    script.clock.forward(30)
    script.frame(1, wire.Bye(reason="not yet"))
    assert tick(script, 30) == []
    assert tick(script, 29) == []
    assert tick(script, 1) == [Reply(1, wire.Ping())]


def test_a_deadline_that_is_a_hair_off_is_not_due_for_ever():
    # 1000.1 + 50 is less than a hair away from what the clock shows then.
    script = script_with_ann(ping_s=50)
    script.clock.mono = 1000.1
    script.frame(1, wire.Pong())
    script.clock.mono = 1050.0
    tick(script)
    script.clock.mono = 1000.1 + 50
    assert tick(script) == [Reply(1, wire.Ping())]
    assert (script.hub.next_deadline() or 0.0) > script.clock.mono


def test_three_unanswered_pings_in_a_row_end_the_connection():
    script = script_with_ann()
    for after in (60, 20, 20):
        assert tick(script, after) == [Reply(1, wire.Ping())]
    assert tick(script, 20) == [CloseSession(1, "ping unanswered")]
    assert tick(script, 100) == []


@pytest.mark.guarantee("one-lost-ping-is-forgiven")
def test_a_session_that_answers_the_second_ping_stays():
    script = script_with_ann()
    tick(script, 60)
    tick(script, 20)
    script.frame(1, wire.Pong())
    assert tick(script, 59) == []
    assert tick(script, 1) == [Reply(1, wire.Ping())]
    assert tick(script, 20) == [Reply(1, wire.Ping())]


def test_nobody_is_given_up_within_ten_seconds_of_a_clock_jump():
    script = script_with_ann()
    for after in (60, 20, 20):
        tick(script, after)
    script.clock.forward(15)
    assert script.jumped() == [Reply(1, wire.Ping())]
    assert tick(script, 5) == [Reply(1, wire.Ping())]
    assert tick(script, 20) == [CloseSession(1, "ping unanswered")]


def test_after_a_clock_jump_everybody_is_asked_at_once():
    script = script_with_ann()
    script.opened(2, role="observer")
    assert script.jumped() == [Reply(1, wire.Ping()), Reply(2, wire.Ping())]


def test_who_left_is_not_pinged():
    script = script_with_ann()
    script.closed(1)
    assert tick(script, 60) == []


# --- housekeeping ------------------------------------------------------------------------------------


def test_the_first_housekeeping_comes_a_minute_after_the_first_tick_then_every_ten():
    script = Script(KNOWN)
    assert script.hub.next_deadline() is None
    assert script.tick() == []
    assert script.hub.next_deadline() == MONO + 60
    assert script.tick(60) == [Store((Housekeep(now=WALL + 60_000),), HouseKept())]
    assert script.stored(HousekeepingDone(10, False)) == []
    assert script.hub.next_deadline() == MONO + 660


def test_housekeeping_with_more_to_do_goes_on_soon():
    script = Script(KNOWN)
    script.tick()
    script.tick(60)
    script.stored(HousekeepingDone(1_000, True))
    assert script.hub.next_deadline() == MONO + 61


def test_housekeeping_the_disk_refuses_is_tried_again_later():
    script = Script(KNOWN)
    script.tick()
    script.tick(60)
    assert script.failed() == []
    assert script.hub.next_deadline() == MONO + 660


# --- deadlines ---------------------------------------------------------------------------------------


def test_the_next_deadline_is_the_earliest_of_all():
    script = Script(KNOWN)
    script.online(2, "bob", push=True)
    script.clock.forward(1)
    script.online(1, "ann")
    assert script.hub.next_deadline() == MONO + 60
    script.frame(1, wire.Send(req_id=1, op_id=mid(1), to="bob", text="hi"))
    script.stored(Appended(5, (1,)))
    assert script.hub.next_deadline() == MONO + 1.3
    script.frame(2, wire.Pushed(msg_ids=(mid(1),), carrier="inbox"))
    assert script.hub.next_deadline() == MONO + 1.2
    script.tick(0.2)
    assert script.hub.next_deadline() == MONO + 60


def test_waits_for_a_delivery_are_given_up_in_their_order():
    script = Script(KNOWN)
    script.online(2, "bob", push=True)
    script.online(1, "ann")
    for number in (1, 2, 3):
        script.frame(1, wire.Send(req_id=number, op_id=mid(number), to="bob", text="hi"))
        script.stored(Appended(number, (number,)))
        script.clock.forward(0.1)
    script.frame(2, wire.Pushed(msg_ids=(mid(2),)))
    assert len(script.state.delivery_waits) == 3
    assert script.tick() == [Reply(1, wire.Sent(req_id=1, msg_id=mid(1)))]
    script.frame(2, wire.Pushed(msg_ids=(mid(3),)))
    assert len(script.state.delivery_waits) == 0


# --- idleness ----------------------------------------------------------------------------------------


def test_a_hub_is_idle_when_no_session_is_open_and_nothing_is_in_the_store():
    script = Script(KNOWN)
    assert script.hub.idle_since == 0.0
    script.opened(1, peer_id="id-ann")
    assert script.hub.idle_since is None
    script.stored(None, None, MailboxState(0, 0, ()))
    script.clock.forward(5)
    script.closed(1)
    assert script.hub.idle_since is None
    script.stored(None)
    assert script.hub.idle_since == MONO + 5
    script.opened(2, role="observer")
    assert script.hub.idle_since is None


# --- about the hub -----------------------------------------------------------------------------------


def test_the_status_counts_what_the_core_knows():
    script = Script(KNOWN)
    script.online(1, "ann", unread=2)
    script.frame(1, wire.Join(req_id=1, room="hall"))
    script.closed(5, "garbage")
    script.opened(2, role="observer")
    details = wire.HubDetails(
        req_id=7,
        hub_id=HUB_ID,
        version=VERSION,
        sessions=1,
        connections=2,
        peers=2,
        groups=1,
        rooms=1,
        mailboxes=5,
        mail_messages=40,
        mail_unread=7,
        mail_bytes=900,
        largest=(wire.MailboxSize(name="bob", messages=20, unread=5, bytes=600),),
        counters={"closed garbage": 1},
        unread=2,
    )
    assert script.frame(1, wire.HubStatus(req_id=7)) == [Store((MeasureMail(largest=20),), MailSized(1, 7))]
    # A mailbox of a peer that is not known (any more) has no name.
    largest = ((2, 20, 5, 600), (9, 3, 1, 20))
    assert script.stored(MailMeasured(5, 40, 7, 900, largest)) == [Describe(1, details)]


def test_the_status_is_for_observers_too():
    script = Script(KNOWN)
    script.opened(1, role="observer")
    script.frame(1, wire.HubStatus(req_id=7))
    [described] = script.stored(MailMeasured(0, 0, 0, 0, ()))
    assert (described.details.sessions, described.details.unread) == (0, 0)


def test_the_status_is_told_without_sizes_when_the_store_cannot_say_them():
    script = script_with_ann()
    script.frame(1, wire.HubStatus(req_id=7))
    [described] = script.failed(message="the disk is gone: bring it back")
    details = described.details
    assert (details.peers, details.mailboxes, details.largest) == (2, 0, ())
    assert details.problems == ("what lies in the mailboxes is not known: the disk is gone: bring it back",)


def test_who_left_is_not_told_the_status_it_asked_for():
    script = script_with_ann()
    script.frame(1, wire.HubStatus(req_id=7))
    script.frame(1, wire.HubStatus(req_id=8))
    script.closed(1)
    assert script.stored(MailMeasured(0, 0, 0, 0, ())) == []
    assert script.failed() == []


def test_a_hub_that_is_asked_to_stop_says_so_and_stops():
    script = Script(KNOWN)
    script.opened(1, role="observer")
    assert script.frame(1, wire.HubStop(req_id=7)) == [
        Reply(1, wire.Done(req_id=7)),
        Stop("asked to by a client"),
    ]


# --- what must never happen --------------------------------------------------------------------------


def test_a_note_nobody_knows_is_a_bug_and_says_so():
    script = Script(KNOWN)
    with pytest.raises(AssertionError, match="no way to go on after str"):
        script.handle(Stored("?", ()))
    with pytest.raises(AssertionError, match="no way to go on after str"):
        script.handle(StoreFailed("?", "mailbox_error", "?"))
    script.state.at(MONO, "?")
    with pytest.raises(AssertionError, match="no timer note: str"):
        script.tick()


def test_what_the_store_does_for_nobody_is_only_counted_when_it_fails():
    script = Script(KNOWN)
    assert script.handle(Stored(None, ())) == []
    assert script.handle(StoreFailed(None, "mailbox_error", "?")) == []
    assert script.hub.counters == {"store_failed mailbox_error": 1}


def test_a_snapshot_that_names_peers_it_does_not_have_is_read_without_them():
    snapshot = Snapshot(
        peers=(peer_row(1, "ann", client="claude", cwd="/src/api", git_branch="main"),),
        forwards=(("old", 9, WALL + DAY_MS),),
        identities=(("claude", "i1", 9),),
        places=(("claude", "/src/api", 9),),
        groups=(group_row(4, "red", 1, 9),),
    )
    state = Script(snapshot).state
    assert (state.forwards, state.identities, state.places) == ({}, {}, {})
    assert list(state.groups[4].members) == [1]
    peer = state.names["ann"]
    assert (peer.client, peer.cwd, peer.git_branch) == ("claude", "/src/api", "main")


def test_what_is_unread_is_never_less_than_nothing():
    script = script_with_ann()
    peer = script.peer("ann")
    peer.pushed = {mid(1): 1, mid(2): 2}
    peer.unread = 1
    assert unread_of(peer) == 0


def test_a_lease_of_who_left_is_ended_once():
    script = script_with_ann()
    script.frame(1, wire.Inbox(req_id=7))
    mail = StoredMail(mid=1, msg_id=mid(1), kind="message", sender="bob", at=WALL, text="hi")
    script.stored(PageRead(mails=(mail,), notices=(), unread=1, remaining=0))
    ended = [action for action in script.closed(1) if isinstance(action, Store)]
    assert [type(action.ops[0]) for action in ended].count(EndLease) == 1
    assert script.tick(31) == []
