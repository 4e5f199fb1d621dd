"""Mail: what is stored, pushed and answered for send, reply and broadcast, and the guards against loops."""

import pytest

from ecorelay import wire
from ecorelay.core.actions import Push, Reply, Store
from ecorelay.core.messages import BroadcastStored, MailStored, ReplyStored
from ecorelay.core.ops import Appended, AppendMail, AppendReply, MarkPushed, Replied, SaveOp, Snapshot
from ecorelay.core.replay import checksum
from ecorelay.errors import Code
from tests.core.helpers import DAY_S, MONO, WALL, Script, World, mid, peer_row

KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "bob"), peer_row(3, "cat")))
SEND = wire.Send(req_id=7, op_id=mid(1), to="bob", text="hello", reply_to=mid(9), urgent=True)
MAIL = AppendMail(
    msg_id=mid(1),
    kind="message",
    sender_no=1,
    sender="ann",
    recipients=(2,),
    text="hello",
    at=WALL,
    reply_to=mid(9),
    urgent=True,
)
PUSH = wire.Push(
    msg_id=mid(1), kind="message", sender="ann", text="hello", ts=WALL, reply_to=mid(9), urgent=True
)


def failed(code: Code, message: str, *, req_id: int = 7, unread: int = 0) -> wire.Failed:
    return wire.Failed(req_id=req_id, code=code, message=message, unread=unread)


def sent(status: wire.Status, *, msg_id: str = mid(1), unread: int = 0) -> wire.Sent:
    return wire.Sent(req_id=7, msg_id=msg_id, status=status, unread=unread)


def script_with_ann() -> Script:
    script = Script(KNOWN)
    script.online(1, "ann")
    return script


# --- send --------------------------------------------------------------------------------------------


@pytest.mark.guarantee("durable-before-ack")
def test_mail_to_somebody_offline_is_stored_first_and_then_answered_queued():
    script = script_with_ann()
    assert script.frame(1, SEND) == [Store((MAIL,), MailStored(1, 7, MAIL))]
    assert script.stored(Appended(5, (1,))) == [Reply(1, sent("queued"))]


@pytest.mark.guarantee("durable-before-ack")
def test_mail_to_a_live_session_is_stored_then_pushed_then_answered_when_the_carrier_has_it():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    assert script.frame(1, SEND) == [Store((MAIL,), MailStored(1, 7, MAIL))]
    assert script.stored(Appended(5, (1,))) == [Push((2,), PUSH)]
    assert script.frame(2, wire.Pushed(msg_ids=(mid(1),), carrier="inbox")) == [Reply(1, sent("delivered"))]
    assert script.tick(0.2) == [Store((MarkPushed(rows=((2, 5, WALL),), carrier="inbox"),))]
    assert script.stored(None) == []


@pytest.mark.guarantee("delivered-is-proved")
def test_without_an_acknowledgement_in_time_the_answer_is_queued_and_stays_so():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    script.frame(1, SEND)
    script.stored(Appended(5, (1,)))
    assert script.hub.next_deadline() == MONO + 0.3
    assert script.tick(0.29) == []
    assert script.tick(0.02) == [Reply(1, sent("queued"))]
    assert script.frame(2, wire.Pushed(msg_ids=(mid(1),), carrier="inbox")) == []


def test_the_request_numbered_nought_waits_like_any_other():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    script.frame(1, wire.Send(req_id=0, op_id=mid(1), to="bob", text="hi"))
    script.stored(Appended(5, (1,)))
    assert script.tick(0.1) == []
    script.frame(2, wire.Pushed(msg_ids=(mid(9),)))
    assert script.frame(2, wire.Pushed(msg_ids=(mid(1),))) == [
        Reply(1, wire.Sent(req_id=0, msg_id=mid(1), status="delivered"))
    ]


@pytest.mark.guarantee("delivered-is-proved")
def test_a_session_without_a_carrier_is_not_a_delivery():
    script = script_with_ann()
    script.online(2, "bob")
    script.frame(1, SEND)
    assert script.stored(Appended(5, (1,))) == [Reply(1, sent("queued"))]


@pytest.mark.guarantee("delivered-is-proved")
def test_a_push_the_carrier_could_not_take_is_answered_queued_at_once():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    script.frame(1, SEND)
    script.stored(Appended(5, (1,)))
    assert script.frame(2, wire.PushFailed(msg_ids=(mid(1),))) == [Reply(1, sent("queued"))]


def test_a_recipient_that_ends_before_acknowledging_is_answered_queued():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    script.frame(1, SEND)
    script.stored(Appended(5, (1,)))
    assert script.closed(2)[0] == Reply(1, sent("queued"))


def test_a_recipient_that_ends_between_commit_and_push_is_answered_queued():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    script.frame(1, SEND)
    script.closed(2)
    assert script.stored(Appended(5, (1,))) == [Reply(1, sent("queued"))]


def test_a_sender_that_ends_meanwhile_is_not_answered():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    script.frame(1, SEND)
    script.closed(1)
    assert script.stored(Appended(5, (1,))) == [Push((2,), PUSH)]
    script.stored(None)
    assert script.frame(2, wire.Pushed(msg_ids=(mid(1),))) == []
    script = script_with_ann()
    script.frame(1, SEND)
    script.closed(1)
    assert script.stored(Appended(5, (1,))) == []


def test_the_answer_says_what_the_sender_has_unread():
    script = Script(KNOWN)
    script.online(1, "ann", unread=4)
    script.frame(1, SEND)
    assert script.stored(Appended(5, (1,))) == [Reply(1, sent("queued", unread=4))]


def test_mail_to_oneself_is_mail():
    world = World()
    ann = world.open("ann")
    assert ann.send("ann", "do not forget").unread == 1
    assert ann.texts() == ["do not forget"]


@pytest.mark.guarantee("unknown-target-error")
@pytest.mark.guarantee("caps-spare-the-innocent")
def test_mail_to_nobody_is_an_error_and_nothing_is_stored():
    script = script_with_ann()
    actions = script.frame(1, wire.Send(req_id=7, op_id=mid(1), to="bobby", text="hi"))
    assert actions == [
        Reply(
            1, failed("peer_not_found", "no peer is called 'bobby'; did you mean bob? relay_peers lists all")
        )
    ]
    actions = script.frame(1, wire.Send(req_id=7, op_id=mid(1), to="bob@there", text="hi"))
    assert actions[0].frame.code == "hub_not_found"
    assert not script.units


def test_a_refused_request_says_what_is_unread_as_well():
    script = Script(KNOWN)
    script.online(1, "ann", unread=4)
    [answer] = script.frame(1, wire.Send(req_id=7, op_id=mid(1), to="bobby", text="hi"))
    assert answer.frame.unread == 4


def test_an_empty_text_is_an_error():
    script = script_with_ann()
    assert script.frame(1, wire.Send(req_id=7, op_id=mid(1), to="bob", text="")) == [
        Reply(1, failed("bad_args", "text is empty: say something"))
    ]


@pytest.mark.parametrize(
    ("text", "fits"), [("x" * 10, True), ("x" * 11, False), ("€€€", True), ("€€€€", False)]
)
def test_a_text_is_measured_in_bytes(text, fits):
    script = Script(KNOWN, text_bytes=10)
    script.online(1, "ann")
    [action] = script.frame(1, wire.Send(req_id=7, op_id=mid(1), to="bob", text=text))
    if fits:
        assert isinstance(action, Store)
    else:
        size = len(text.encode())
        assert action == Reply(
            1,
            failed(
                "too_large",
                f"text is {size} bytes of UTF-8, the limit is 10: "
                "send it in parts, or write it to a file and send the path",
            ),
        )


def test_a_disk_that_refuses_is_told_to_the_sender_and_pushes_nothing():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    script.frame(1, SEND)
    assert script.failed() == [Reply(1, failed("mailbox_error", "the disk is full"))]
    assert script.hub.counters == {"store_failed mailbox_error": 1}


# --- the same mail again -----------------------------------------------------------------------------


@pytest.mark.guarantee("stored-once")
@pytest.mark.parametrize(("delivered", "status"), [(True, "delivered"), (False, "queued")])
def test_mail_sent_again_is_answered_from_its_receipt_and_not_pushed_again(delivered, status):
    script = script_with_ann()
    script.online(2, "bob", push=True)
    again = wire.Send(req_id=7, op_id=mid(1), to="bob", text="hello", resend=True)
    [store] = script.frame(1, again)
    assert isinstance(store.then, MailStored)
    result = Appended(5, (1,), duplicate=True, delivered=delivered)
    assert script.stored(result) == [Reply(1, sent(status))]


@pytest.mark.guarantee("stored-once")
def test_mail_whose_answer_was_lost_is_stored_and_pushed_once():
    world = World()
    ann, bob = world.open("ann", pinned=True), world.open("bob", push=True)
    op_id = world.new_op()
    ann.ask(wire.Send, op_id=op_id, to="bob", text="once")
    ann.close()
    ann = world.open("ann", pinned=True)
    assert ann.send("bob", "once", op_id=op_id, resend=True).status == "queued"
    bob.ack()
    world.tick(1)
    assert ann.send("bob", "once", op_id=op_id, resend=True).status == "delivered"
    assert bob.pushed_texts == ["once"]


def test_mail_that_is_said_again_is_known_though_its_name_leads_to_another_by_now():
    world = World()
    ann, cat = world.open("ann", pinned=True), world.open("cat", push=True)
    op_id = world.new_op()
    ann.ask(wire.Send, op_id=op_id, to="cat", text="once")
    ann.close()
    cat.ack()
    world.tick(1)
    cat.call(wire.Rename, new_name="fay")
    other = world.open("cat", pinned=True, cwd="/elsewhere")
    ann = world.open("ann", pinned=True)
    assert ann.send("cat", "once", op_id=op_id, resend=True).status == "delivered"
    assert ann.send("cat", "once", op_id=op_id).code == "bad_msg", "nothing was lost in between"
    assert ann.send("cat", "twice", op_id=op_id, resend=True).code == "bad_msg"
    assert (cat.pushed_texts, other.texts()) == (["once"], [])


@pytest.mark.guarantee("same-id-other-content")
def test_an_id_used_for_another_text_or_recipient_or_by_another_sender_is_refused():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    op_id = world.new_op()
    ann.send("bob", "one", op_id=op_id)
    assert ann.send("bob", "two", op_id=op_id).code == "bad_msg"
    assert ann.send("ann", "one", op_id=op_id).code == "bad_msg"
    assert bob.send("bob", "one", op_id=op_id).code == "bad_msg"
    assert bob.texts() == ["one"]


# --- reply -------------------------------------------------------------------------------------------


def test_a_reply_goes_to_whoever_sent_the_message_and_carries_its_id():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    reply = AppendReply(msg_id=mid(2), target_id=mid(1), sender_no=1, sender="ann", text="yes", at=WALL)
    request = wire.Reply(req_id=7, op_id=mid(2), ask_id=mid(1), text="yes")
    assert script.frame(1, request) == [Store((reply,), ReplyStored(1, 7, reply))]
    result = Replied(Appended(6, (1,)), 2, mid(1), 0, 5)
    push = wire.Push(
        msg_id=mid(2),
        kind="reply",
        sender="ann",
        text="yes",
        ts=WALL,
        reply_to=mid(1),
        broadcast_id=mid(1),
    )
    assert script.stored(result) == [Push((2,), push)]
    assert script.frame(2, wire.Pushed(msg_ids=(mid(2),))) == [Reply(1, sent("delivered", msg_id=mid(2)))]


@pytest.mark.parametrize("kind", ["message", "ask", "group"])
def test_a_reply_may_name_a_message_an_ask_or_a_group_message(kind):
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    if kind == "message":
        target = ann.send("bob", "?").msg_id
    elif kind == "ask":
        target = ann.call(wire.Broadcast, question="?").broadcast_id
    else:
        ann.call(wire.GroupCreate, name="red", members=("bob",))
        target = ann.call(wire.GroupSend, group="red", text="?").msg_id
    op_id = world.new_op()
    answer = bob.call(wire.Reply, op_id=op_id, ask_id=target, text="!")
    assert (answer.status, answer.msg_id) == ("queued", op_id)
    [mail] = [mail for mail in ann.inbox().messages if mail.kind == "reply"]
    assert (mail.text, mail.reply_to) == ("!", target)
    assert mail.broadcast_id == (target if kind == "ask" else None)


def test_replying_counts_as_having_seen_the_message():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    ann.ask(wire.Send, to="bob", text="?")
    target = bob.pushes[0].msg_id
    bob.ack()
    assert bob.call(wire.Reply, ask_id=target, text="!").unread == 0
    assert bob.inbox().messages == ()
    assert world.peer("bob").pushed == {}
    assert world.store.rows[2, 1].state == "seen"


def test_a_reply_that_overtakes_the_acknowledgement_of_the_push_leaves_no_miscount():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    waits = ann.ask(wire.Send, to="bob", text="?")
    bob.call(wire.Reply, ask_id=bob.pushes[0].msg_id, text="!")
    bob.ack()
    assert ann.answers[waits].status == "delivered"
    ann.ask(wire.Send, to="bob", text="again")
    bob.say(wire.PushFailed(msg_ids=(bob.pushes[1].msg_id,)))
    assert bob.call(wire.Peers).unread == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [("unknown_ask", "you were sent no such message"), ("peer_gone", "its sender was removed")],
)
def test_a_reply_the_store_refuses_is_answered_with_its_reason(code, message):
    script = script_with_ann()
    script.frame(1, wire.Reply(req_id=7, op_id=mid(2), ask_id=mid(1), text="yes"))
    assert script.failed(code, message) == [Reply(1, failed(code, message))]


@pytest.mark.guarantee("stored-once")
def test_a_reply_sent_again_is_stored_once():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    target = world.new_op()
    ann.ask(wire.Send, op_id=target, to="bob", text="?")
    op_id = world.new_op()
    assert bob.call(wire.Reply, op_id=op_id, ask_id=target, text="!").status == "queued"
    assert bob.call(wire.Reply, op_id=op_id, ask_id=target, text="!", resend=True).status == "queued"
    ann.texts()
    again = bob.call(wire.Reply, op_id=op_id, ask_id=target, text="!", resend=True)
    assert again.status == "delivered"
    assert ann.inbox().messages == ()


def test_a_reply_whose_author_left_is_delivered_all_the_same():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    script.frame(1, wire.Reply(req_id=7, op_id=mid(2), ask_id=mid(1), text="yes"))
    script.closed(1)
    [push] = script.stored(Replied(Appended(6, (1,)), 2, None, 0, 5))
    assert isinstance(push, Push)


def test_a_reply_by_a_stranger_to_the_message_is_unknown():
    world = World()
    ann, _, cat = world.open("ann"), world.open("bob"), world.open("cat")
    target = ann.send("bob", "?").msg_id
    assert cat.call(wire.Reply, ask_id=target, text="!").code == "unknown_ask"


def test_an_empty_reply_is_an_error():
    script = script_with_ann()
    [answer] = script.frame(1, wire.Reply(req_id=7, op_id=mid(2), ask_id=mid(1), text=""))
    assert answer.frame.code == "bad_args"


# --- broadcast ---------------------------------------------------------------------------------------


@pytest.mark.guarantee("one-body-many-recipients")
def test_a_broadcast_is_one_text_for_all_who_are_online_and_one_push():
    script = script_with_ann()
    script.online(2, "bob", push=True)
    script.online(3, "cat", push=True)
    request = wire.Broadcast(req_id=7, op_id=mid(1), question="who?")
    answer = wire.Broadcasted(req_id=7, broadcast_id=mid(1), peer_count=2)
    ask = AppendMail(
        msg_id=mid(1),
        kind="ask",
        sender_no=1,
        sender="ann",
        recipients=(2, 3),
        text="who?",
        at=WALL,
        broadcast_id=mid(1),
    )
    saved = SaveOp(no=1, op_id=mid(1), request=checksum(request), reply=wire.encode(answer), at=WALL)
    assert script.frame(1, request) == [Store((ask, saved), BroadcastStored(1, answer, ask))]
    push = wire.Push(msg_id=mid(1), kind="ask", sender="ann", text="who?", ts=WALL, broadcast_id=mid(1))
    assert script.stored(Appended(5, (1, 1)), None) == [Push((2, 3), push), Reply(1, answer)]


def test_a_broadcast_to_nobody_is_answered_with_a_count_of_none():
    script = script_with_ann()
    request = wire.Broadcast(req_id=7, op_id=mid(1), question="who?")
    [store] = script.frame(1, request)
    assert [type(op) for op in store.ops] == [SaveOp]
    assert script.stored(None) == [Reply(1, wire.Broadcasted(req_id=7, broadcast_id=mid(1), peer_count=0))]


def test_a_broadcast_reaches_the_asker_only_when_it_wants_to():
    world = World()
    ann = world.open("ann")
    world.open("bob")
    assert ann.call(wire.Broadcast, question="?").peer_count == 1
    assert ann.call(wire.Broadcast, question="!", exclude_self=False).peer_count == 2
    assert ann.texts() == ["!"]


def test_a_broadcast_passes_over_who_is_offline_attached_observing_or_not_yet_welcome():
    world = World()
    ann = world.open("ann")
    bob, cat = world.open("bob", pinned=True), world.open("cat", pinned=True)
    bob.close()
    cat.close()
    world.open("cat", role="attach")
    world.open(role="observer")
    with world.hold():
        world.open("bob", pinned=True)
        asked = ann.ask(wire.Broadcast, question="?")
    assert ann.answers[asked].peer_count == 0


def test_a_broadcast_reaches_those_without_a_carrier_in_their_mailboxes():
    world = World()
    ann, bob, cat = world.open("ann"), world.open("bob", push=True), world.open("cat")
    asked = ann.call(wire.Broadcast, question="?")
    assert bob.pushed_texts == ["?"]
    [mail] = cat.inbox().messages
    assert (mail.kind, mail.broadcast_id, mail.msg_id) == ("ask", asked.broadcast_id, asked.broadcast_id)


def test_replies_to_a_broadcast_wait_for_an_asker_that_left():
    world = World()
    ann, bob = world.open("ann", pinned=True), world.open("bob")
    asked = ann.call(wire.Broadcast, question="?")
    ann.close()
    bob.call(wire.Reply, ask_id=asked.broadcast_id, text="!")
    [mail] = world.open("ann", pinned=True).inbox().messages
    assert (mail.text, mail.broadcast_id) == ("!", asked.broadcast_id)


def test_more_online_peers_than_a_broadcast_may_ask_are_an_error():
    script = Script(KNOWN, broadcast_peers=1)
    for sid, name in enumerate(("ann", "bob", "cat"), 1):
        script.online(sid, name)
    [answer] = script.frame(1, wire.Broadcast(req_id=7, op_id=mid(1), question="?"))
    assert answer == Reply(
        1,
        failed(
            "limit_reached",
            "2 peers are online, a broadcast asks at most 1: pick some by relay_peers, or use a group",
        ),
    )


def test_an_empty_question_is_an_error():
    script = script_with_ann()
    assert script.frame(1, wire.Broadcast(req_id=7, op_id=mid(1), question="")) == [
        Reply(1, failed("bad_args", "question is empty: say something"))
    ]


def test_a_broadcast_the_disk_refuses_is_told_to_the_asker():
    script = script_with_ann()
    script.frame(1, wire.Broadcast(req_id=7, op_id=mid(1), question="?"))
    assert script.failed() == [Reply(1, failed("mailbox_error", "the disk is full"))]


@pytest.mark.guarantee("stored-once")
def test_a_broadcast_sent_again_asks_nobody_again():
    world = World()
    ann, bob = world.open("ann"), world.open("bob", push=True)
    op_id = world.new_op()
    ann.call(wire.Broadcast, op_id=op_id, question="?")
    world.open("cat")
    assert ann.call(wire.Broadcast, op_id=op_id, question="?", resend=True).peer_count == 1
    assert bob.pushed_texts == ["?"]
    assert ann.call(wire.Broadcast, op_id=op_id, question="!", resend=True).code == "bad_msg"


# --- guards ------------------------------------------------------------------------------------------


@pytest.mark.guarantee("rate-guard")
def test_too_many_messages_to_one_address_in_a_minute_are_refused_with_the_time_to_wait():
    world = World(sends_per_minute=3)
    ann, _, _ = world.open("ann"), world.open("bob"), world.open("cat")
    for text in "abc":
        assert ann.send("bob", text).status == "queued"
    world.clock.forward(20.5)
    refused = ann.send("bob", "d")
    assert (refused.code, refused.message) == (
        "limit_reached",
        "3 messages to one address in 60 s is the guard against loops: wait 40 s, and do not answer answers",
    )
    assert ann.send("cat", "e").status == "queued"
    assert len(world.store.ring(2)) == 3
    assert world.hub.counters == {"guard_refused": 1}
    world.clock.forward(40)
    assert ann.send("bob", "f").status == "queued"


@pytest.mark.guarantee("rate-guard")
def test_replies_broadcasts_and_group_messages_have_guards_of_their_own():
    world = World(sends_per_minute=1, broadcasts_per_hour=1)
    ann, bob = world.open("ann"), world.open("bob")
    target = ann.send("bob", "?").msg_id
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    assert bob.call(wire.Reply, ask_id=target, text="!").status == "queued"
    assert "1 replies in 60 s" in bob.call(wire.Reply, ask_id=target, text="!!").message
    assert bob.call(wire.GroupSend, group="red", text="!").status == "queued"
    assert bob.call(wire.GroupSend, group="red", text="!!").code == "limit_reached"
    assert bob.call(wire.Broadcast, question="?").peer_count == 1
    refused = bob.call(wire.Broadcast, question="??")
    assert "1 broadcasts in 3600 s" in refused.message
    assert "wait 3601 s" in refused.message
    world.clock.forward(60)
    assert bob.call(wire.GroupSend, group="red", text="!!").status == "queued"
    assert bob.call(wire.Broadcast, question="??").code == "limit_reached"


def test_after_the_time_that_a_refused_broadcast_was_told_to_wait_it_is_done():
    world = World(broadcasts_per_hour=2)
    ann = world.open("ann")
    for question in "ab":
        assert isinstance(ann.call(wire.Broadcast, question=question), wire.Broadcasted)
        world.clock.forward(100)
    refused = ann.call(wire.Broadcast, question="c")
    assert (refused.code, refused.message) == (
        "limit_reached",
        "2 broadcasts in 3600 s is the guard against loops: wait 3401 s, and do not answer answers",
    )
    world.clock.forward(3401)
    assert isinstance(ann.call(wire.Broadcast, question="c"), wire.Broadcasted)


def test_guards_are_600_messages_a_minute_and_60_broadcasts_an_hour_unless_they_are_set():
    world = World()
    ann = world.open("ann")
    for number in range(600):
        assert ann.send("ann", str(number)).status == "queued"
    assert ann.send("ann", "600").code == "limit_reached"
    for number in range(60):
        assert isinstance(ann.call(wire.Broadcast, question=str(number)), wire.Broadcasted)
    assert ann.call(wire.Broadcast, question="60").code == "limit_reached"


def test_a_guard_of_nought_is_switched_off():
    world = World(sends_per_minute=0, broadcasts_per_hour=0)
    ann = world.open("ann")
    ann.call(wire.GroupCreate, name="red", members=())
    for number in range(700):
        sent = ann.send("ann", str(number))
        assert sent.status == "queued"
        assert ann.call(wire.Reply, ask_id=sent.msg_id, text="!").status == "queued"
        assert ann.call(wire.GroupSend, group="red", text="!").status == "queued"
        assert isinstance(ann.call(wire.Broadcast, question="?"), wire.Broadcasted)
    assert world.state.guards == {}


def test_guards_whose_time_is_over_are_forgotten():
    script = Script(KNOWN)
    script.online(1, "ann")
    long_ago = MONO - 2 * DAY_S
    script.state.guards = {(1, no): (long_ago, 1) for no in range(100, 20_100)}
    script.state.guards[1, -1] = (MONO - 1800.0, 1)
    script.frame(1, SEND)
    assert script.state.guards == {(1, -1): (MONO - 1800.0, 1), (1, 2): (MONO, 1)}
