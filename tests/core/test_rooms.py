"""Rooms: live membership, and messages that nobody stores."""

import pytest

from ecorelay import wire
from ecorelay.core.actions import Push, Reply
from ecorelay.core.ops import ENTRY_ROOM, PageRead, Snapshot
from ecorelay.errors import Code
from tests.core.helpers import WALL, Script, World, mid, peer_row

KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "bob"), peer_row(3, "cat")))


def script_in_hall(**limits) -> Script:
    """ann, bob (with a carrier) and cat (without one) are in the hall, in sessions 1, 2 and 3."""
    script = Script(KNOWN, **limits)
    for sid, name in enumerate(("ann", "bob", "cat"), 1):
        script.online(sid, name, push=name == "bob")
        script.frame(sid, wire.Join(req_id=0, room="Hall"))
    return script


def failed(code: Code, message: str) -> wire.Failed:
    return wire.Failed(req_id=7, code=code, message=message)


def room_mail(number: int, text: str, *, redelivered: bool = False) -> wire.Mail:
    return wire.Mail(
        msg_id=mid(number),
        kind="room",
        sender="ann",
        ts=WALL,
        text=text,
        room="Hall",
        redelivered=redelivered,
    )


def say(script: Script, number: int, text: str = "hi") -> list:
    return script.frame(1, wire.RoomSend(req_id=7, op_id=mid(number), room="hall", text=text))


# --- membership --------------------------------------------------------------------------------------


def test_a_room_is_made_by_the_first_join_and_lists_its_members_in_order():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.online(2, "bob")
    assert script.frame(1, wire.Join(req_id=7, room="Hall")) == [
        Reply(1, wire.RoomMembers(req_id=7, room="Hall", members=("ann",)))
    ]
    both = ("ann", "bob")
    assert script.frame(2, wire.Join(req_id=7, room="hall@here")) == [
        Reply(2, wire.RoomMembers(req_id=7, room="Hall", members=both))
    ]
    assert script.frame(1, wire.Join(req_id=8, room="HALL")) == [
        Reply(1, wire.RoomMembers(req_id=8, room="Hall", members=both))
    ]
    script.opened(3, role="observer")
    assert script.frame(3, wire.Rooms(req_id=7)) == [
        Reply(3, wire.RoomList(req_id=7, rooms=(wire.Room(name="Hall", members=both),)))
    ]


def test_a_room_ends_with_the_last_leave_and_leaving_twice_is_fine():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.frame(1, wire.Join(req_id=1, room="hall"))
    for _ in range(2):
        assert script.frame(1, wire.Leave(req_id=7, room="hall")) == [Reply(1, wire.Done(req_id=7))]
    assert script.frame(1, wire.Rooms(req_id=7)) == [Reply(1, wire.RoomList(req_id=7))]


def test_a_room_goes_on_while_anybody_is_in_it():
    script = script_in_hall()
    script.frame(1, wire.Leave(req_id=7, room="hall"))
    script.closed(2)
    [answer] = script.frame(3, wire.Rooms(req_id=7))
    assert answer.frame.rooms == (wire.Room(name="Hall", members=("cat",)),)
    script.closed(3)
    assert script.state.rooms == {}


def test_a_room_holds_live_sessions_only():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.online(2, "ann", role="attach")
    message = "a room holds live sessions only: join from the assistant's own session"
    assert script.frame(2, wire.Join(req_id=7, room="hall")) == [Reply(2, failed("not_registered", message))]


def test_a_room_of_another_hub_is_an_error():
    script = Script(KNOWN)
    script.online(1, "ann")
    [answer] = script.frame(1, wire.Join(req_id=7, room="hall@there"))
    assert answer.frame.code == "hub_not_found"


def test_rooms_and_their_members_are_limited():
    script = Script(KNOWN, rooms=1, room_members=2)
    for sid, name in enumerate(("ann", "bob", "cat"), 1):
        script.online(sid, name)
    script.frame(1, wire.Join(req_id=1, room="Hall"))
    assert script.frame(1, wire.Join(req_id=7, room="yard")) == [
        Reply(1, failed("limit_reached", "there are 1 rooms: leave one first"))
    ]
    script.frame(2, wire.Join(req_id=1, room="hall"))
    assert script.frame(3, wire.Join(req_id=7, room="hall")) == [
        Reply(3, failed("limit_reached", "Hall has its 2 members"))
    ]
    [again] = script.frame(2, wire.Join(req_id=7, room="hall"))
    assert isinstance(again.frame, wire.RoomMembers)


def test_a_renamed_member_is_listed_under_its_new_name():
    world = World()
    ann = world.open("ann")
    ann.call(wire.Join, room="hall")
    ann.call(wire.Rename, new_name="zoe")
    assert ann.call(wire.Rooms).rooms == (wire.Room(name="hall", members=("zoe",)),)


# --- talking -----------------------------------------------------------------------------------------


def test_a_room_message_is_pushed_where_there_is_a_carrier_and_kept_where_there_is_none():
    script = script_in_hall()
    push = wire.Push(msg_id=mid(1), kind="room", sender="ann", text="hi", ts=WALL, room="Hall")
    answer = wire.RoomSent(req_id=7, room="Hall", delivered_count=2)
    assert say(script, 1) == [Push((2,), push), Reply(1, answer)]
    assert list(script.peer("cat").room_mail) == [room_mail(1, "hi")]
    assert script.frame(2, wire.Pushed(msg_ids=(mid(1),), carrier="inbox")) == []
    assert script.state.pushed_due == 0.0


def test_only_members_may_speak_and_empty_words_are_an_error():
    script = script_in_hall()
    assert script.frame(1, wire.RoomSend(req_id=7, op_id=mid(1), room="yard", text="hi")) == [
        Reply(1, failed("not_member", "you are not in the room yard: relay_join it first"))
    ]
    script.frame(1, wire.Leave(req_id=1, room="hall"))
    [answer] = say(script, 2)
    assert answer.frame.code == "not_member"
    [answer] = say(script, 3, "")
    assert answer.frame.code == "bad_args"


def test_to_be_alone_in_a_room_is_to_speak_to_nobody():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.frame(1, wire.Join(req_id=1, room="Hall"))
    assert say(script, 1) == [Reply(1, wire.RoomSent(req_id=7, room="Hall", delivered_count=0))]


def test_a_room_message_the_carrier_could_not_take_is_kept():
    script = script_in_hall()
    say(script, 1)
    script.frame(2, wire.PushFailed(msg_ids=(mid(1),)))
    assert list(script.peer("bob").room_mail) == [room_mail(1, "hi")]


def test_a_room_message_that_does_not_fit_the_window_is_kept():
    script = script_in_hall(push_window_messages=1)
    say(script, 1)
    say(script, 2)
    assert list(script.peer("bob").room_mail) == [room_mail(2, "hi")]


@pytest.mark.guarantee("stored-once")
def test_a_room_message_repeated_after_a_reconnect_is_said_once():
    world = World()
    ann, bob = world.open("ann", pinned=True), world.open("bob", push=True)
    for client in (ann, bob):
        client.call(wire.Join, room="hall")
    op_id = world.new_op()
    ann.call(wire.RoomSend, op_id=op_id, room="hall", text="once")
    ann.close()
    bob.send("ann", "unread")
    ann = world.open("ann", pinned=True)
    again = ann.call(wire.RoomSend, op_id=op_id, room="hall", text="once", resend=True)
    assert (again.room, again.delivered_count, again.unread) == ("hall", 1, 1)
    assert bob.pushed_texts == ["once"]


def test_a_room_message_that_is_repeated_to_a_hub_that_began_anew_may_have_been_said():
    world = World()
    ann = world.open("ann")
    op_id = world.new_op()
    refused = ann.call(wire.RoomSend, op_id=op_id, room="hall", text="once", resend=True)
    assert refused.code == "timeout"
    assert refused.message.startswith("whether it was said is not known, and now it is refused: you are not")
    assert ann.call(wire.RoomSend, op_id=op_id, room="hall", text="once").code == "not_member"
    assert ann.call(wire.RoomSend, op_id=op_id, room="hall", text="", resend=True).code == "bad_args"


@pytest.mark.guarantee("same-id-other-content")
def test_the_id_of_a_room_message_used_for_another_text_is_refused():
    script = script_in_hall()
    say(script, 1)
    message = "op_id was used for another request: make a new one for each"
    assert say(script, 1, "else") == [Reply(1, failed("bad_msg", message))]


def test_so_many_room_messages_are_remembered_by_their_ids():
    script = script_in_hall()
    for number in range(65):
        say(script, number)
    assert len(script.peer("ann").recent_ops) == 64
    assert mid(0) not in script.peer("ann").recent_ops


# --- reading what was kept ---------------------------------------------------------------------------


def test_kept_messages_are_read_with_the_mail_and_are_gone_once_confirmed():
    world = World()
    ann, cat = world.open("ann"), world.open("cat")
    for client in (ann, cat):
        client.call(wire.Join, room="Hall")
    ann.call(wire.RoomSend, room="hall", text="in the room")
    ann.send("cat", "mail")
    assert cat.call(wire.Peers).unread == 2
    page = cat.inbox()
    assert [mail.text for mail in page.messages] == ["mail", "in the room"]
    assert page.unread == 0
    cat.confirm(page)
    assert cat.inbox().messages == ()
    assert world.state.room_backlog_bytes == 0


@pytest.mark.guarantee("redelivered-is-marked")
def test_kept_messages_nobody_confirmed_come_again_in_order_and_are_marked():
    script = script_in_hall()
    say(script, 1, "a")
    say(script, 2, "b")
    script.frame(3, wire.Inbox(req_id=8))
    say(script, 3, "c")
    [answer] = script.stored(PageRead(mails=(), notices=(), unread=0, remaining=0))
    assert answer.frame.messages == (room_mail(1, "a"), room_mail(2, "b"), room_mail(3, "c"))
    script.tick(30)
    assert list(script.peer("cat").room_mail) == [
        room_mail(1, "a", redelivered=True),
        room_mail(2, "b", redelivered=True),
        room_mail(3, "c", redelivered=True),
    ]


@pytest.mark.guarantee("page-fits")
def test_kept_messages_fill_a_page_only_up_to_its_limit_and_budget():
    world = World()
    ann, cat = world.open("ann"), world.open("cat")
    for client in (ann, cat):
        client.call(wire.Join, room="hall")
    text = "x" * 500
    ann.send("cat", text)
    for _ in range(4):
        ann.call(wire.RoomSend, room="hall", text=text)
    entry = len(text) + 2 + ENTRY_ROOM
    page = cat.inbox(budget=3 * entry)
    assert (len(page.messages), page.remaining) == (3, 2)
    cat.confirm(page)
    page = cat.inbox(limit=1)
    assert (len(page.messages), page.remaining) == (1, 1)
    cat.confirm(page)
    assert len(cat.inbox(budget=1_000).messages) == 1


@pytest.mark.guarantee("page-fits")
def test_a_kept_message_longer_than_the_page_comes_alone():
    world = World()
    ann, cat = world.open("ann"), world.open("cat")
    for client in (ann, cat):
        client.call(wire.Join, room="hall")
    ann.call(wire.RoomSend, room="hall", text="x" * 5_000)
    ann.call(wire.RoomSend, room="hall", text="y")
    assert [len(mail.text or "") for mail in cat.inbox(budget=1_000).messages] == [5_000]


@pytest.mark.guarantee("queues-bounded")
def test_kept_messages_over_the_limit_make_way_oldest_first_and_are_counted():
    script = script_in_hall(room_backlog_bytes=10)
    for number, text in enumerate(("aaaa", "bbbb", "cccc"), 1):
        say(script, number, text)
    assert [mail.text for mail in script.peer("cat").room_mail] == ["bbbb", "cccc"]
    assert script.hub.counters == {"room_messages_missed": 1}
    script.frame(3, wire.Inbox(req_id=8))
    [answer] = script.stored(PageRead(mails=(), notices=(), unread=0, remaining=0))
    assert (answer.frame.missed, len(answer.frame.messages)) == (1, 2)
    script.frame(3, wire.Inbox(req_id=9))
    [answer] = script.stored(PageRead(mails=(), notices=(), unread=0, remaining=0))
    assert answer.frame.missed == 0


def test_that_messages_were_missed_is_news_of_its_own():
    script = script_in_hall(room_backlog_bytes=3)
    script.frame(3, wire.Inbox(req_id=8, wait=60))
    say(script, 1, "long")
    [answer] = script.stored(PageRead(mails=(), notices=(), unread=0, remaining=0))
    assert (answer.frame.missed, answer.frame.messages, answer.frame.lease) == (1, (), 0)


@pytest.mark.guarantee("queues-bounded")
def test_what_all_sessions_together_may_keep_is_limited_as_well():
    script = script_in_hall(room_backlog_total_bytes=6)
    say(script, 1, "aaaa")
    script.frame(2, wire.PushFailed(msg_ids=(mid(1),)))
    assert [len(script.peer(name).room_mail) for name in ("bob", "cat")] == [0, 1]
    assert script.peer("bob").missed == 1


def test_kept_messages_end_with_the_session_that_was_in_the_room():
    world = World(room_backlog_bytes=3)
    ann, cat = world.open("ann"), world.open("cat", pinned=True)
    for client in (ann, cat):
        client.call(wire.Join, room="hall")
    ann.call(wire.RoomSend, room="hall", text="a")
    cat.inbox()
    ann.call(wire.RoomSend, room="hall", text="b")
    ann.call(wire.RoomSend, room="hall", text="c")
    ann.call(wire.RoomSend, room="hall", text="d")
    cat.close()
    assert (world.peer("cat").room_bytes, world.peer("cat").missed) == (0, 0)
    assert world.state.room_backlog_bytes == 0
    assert world.open("cat", pinned=True).inbox().messages == ()


def test_kept_messages_leased_to_an_attached_reader_end_with_the_last_connection():
    world = World()
    ann, cat = world.open("ann"), world.open("cat", pinned=True)
    for client in (ann, cat):
        client.call(wire.Join, room="hall")
    reader = world.open("cat", role="attach")
    ann.call(wire.RoomSend, room="hall", text="a")
    assert len(reader.inbox().messages) == 1
    cat.close()
    reader.close()
    ann.close()
    world.idle()


@pytest.mark.guarantee("rate-guard")
def test_what_one_says_in_rooms_has_a_guard_of_its_own():
    world = World(sends_per_minute=2)
    ann, cat = world.open("ann"), world.open("cat", pinned=True)
    for client in (ann, cat):
        client.call(wire.Join, room="hall")
    for text in ("one", "two"):
        ann.call(wire.RoomSend, room="hall", text=text)
    refused = ann.call(wire.RoomSend, room="hall", text="three")
    assert (refused.code, refused.message) == (
        "limit_reached",
        "2 room messages in 60 s is the guard against loops: wait 61 s, and do not answer answers",
    )
    assert cat.call(wire.RoomSend, room="hall", text="mine").delivered_count == 1
    world.tick(60.0)
    assert ann.call(wire.RoomSend, room="hall", text="three").delivered_count == 1


@pytest.mark.parametrize("how", ["gives it back", "lapses", "ends"])
def test_what_was_out_with_another_reader_when_the_session_ended_is_nobodys(how: str):
    world = World()
    ann, bob = world.open("ann"), world.open("bob", pinned=True)
    for each in (ann, bob):
        each.call(wire.Join, room="hall")
    other = world.open("bob", role="attach")
    ann.call(wire.RoomSend, room="hall", text="hi")
    page = other.inbox()
    bob.close()
    bob = world.open("bob", pinned=True)
    match how:
        case "gives it back":
            other.call(wire.Release, lease=page.lease)
        case "lapses":
            world.tick(31)
        case _:
            other.close()
    assert bob.inbox().messages == ()
    for each in (ann, bob, other):
        each.close()
    world.idle()
