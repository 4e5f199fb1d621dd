"""A mutating request takes effect once, however often it is sent."""

from typing import Any

import pytest

from ecorelay import wire
from ecorelay.core.actions import Reply, Store
from ecorelay.core.ops import AppendGroup, AppendMail, AppendReply, FindOp, FoundOp, Snapshot
from ecorelay.core.replay import USED, Resume, checksum
from ecorelay.errors import Code, RelayError
from tests.core.helpers import Client, Script, World, group_row, made, mid, peer_row

KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "bob")), groups=(group_row(9, "red", 1),))
FULL = RelayError("mailbox_error", "the disk is full")
AGAIN = wire.Rename(req_id=7, op_id=mid(1), resend=True, new_name="zoe")


def script_with_ann() -> Script:
    script = Script(KNOWN)
    script.online(1, "ann", unread=2)
    return script


def failed(code: Code, message: str) -> wire.Failed:
    return wire.Failed(req_id=7, code=code, message=message, unread=2)


def test_a_request_sent_again_is_looked_up_first():
    script = script_with_ann()
    assert script.frame(1, AGAIN) == [Store((FindOp(no=1, op_id=mid(1)),), Resume(1, AGAIN))]


@pytest.mark.guarantee("stored-once")
def test_what_was_done_is_answered_as_it_was_then_with_what_is_unread_now():
    script = script_with_ann()
    script.frame(1, AGAIN)
    kept = wire.encode(wire.Renamed(req_id=3, name="zoe", unread=9))
    assert script.stored(FoundOp(checksum(AGAIN), kept)) == [
        Reply(1, wire.Renamed(req_id=7, name="zoe", unread=2))
    ]


def test_what_was_not_done_is_done_now():
    script = script_with_ann()
    script.frame(1, AGAIN)
    [store] = script.stored(None)
    assert store.ops[0].name == "zoe"


def test_what_cannot_be_done_now_is_refused():
    script = script_with_ann()
    script.frame(1, wire.Rename(req_id=7, op_id=mid(1), resend=True, new_name="bob"))
    assert script.stored(None) == [
        Reply(1, failed("name_taken", "bob is another peer's name: choose one not in relay_peers"))
    ]


@pytest.mark.guarantee("same-id-other-content")
def test_an_id_that_was_used_for_something_else_is_refused():
    script = script_with_ann()
    script.frame(1, AGAIN)
    assert script.stored(FoundOp(checksum(AGAIN) + 1, b"{}")) == [Reply(1, failed("bad_msg", USED))]


@pytest.mark.parametrize("kept", [wire.encode(wire.Ping()), b"{}"], ids=["another frame", "no frame"])
def test_a_kept_answer_that_makes_no_sense_is_an_error_and_the_request_is_not_done_again(kept):
    script = script_with_ann()
    script.frame(1, AGAIN)
    message = "it was done before, but what was answered is lost"
    assert script.stored(FoundOp(checksum(AGAIN), kept)) == [Reply(1, failed("unexpected", message))]


def test_a_look_up_the_disk_refuses_is_told():
    script = script_with_ann()
    script.frame(1, AGAIN)
    assert script.failed() == [Reply(1, failed("mailbox_error", "the disk is full"))]


def test_who_left_meanwhile_is_not_answered_and_nothing_is_done():
    script = script_with_ann()
    script.frame(1, AGAIN)
    script.closed(1)
    assert script.stored(None) == []


def test_the_number_of_the_request_and_that_it_is_sent_again_are_no_part_of_what_was_asked():
    first = wire.Rename(req_id=3, op_id=mid(1), new_name="zoe")
    assert checksum(first) == checksum(AGAIN)
    assert checksum(first) != checksum(wire.Rename(req_id=3, op_id=mid(1), new_name="zoey"))


def test_without_a_peer_there_is_nothing_to_look_up():
    script = Script(KNOWN)
    script.opened(1, role="observer")
    [store] = script.frame(1, wire.AddPeer(req_id=7, op_id=mid(1), resend=True, name="cat"))
    assert store.ops[0].peer_id == made(1)


EVERY_MUTATION: dict[Any, dict[str, Any]] = {
    wire.Rename: {"new_name": "zoe"},
    wire.AddPeer: {"name": "cat"},
    wire.Broadcast: {"question": "?"},
    wire.GroupCreate: {"name": "blue", "members": ("bob",)},
    wire.GroupInvite: {"group": "red", "peer": "bob"},
    wire.GroupRemove: {"group": "green", "peer": "bob", "reason": "done"},
    wire.GroupLeave: {"group": "grey"},
    wire.GroupDelete: {"group": "green"},
    wire.GroupSend: {"group": "green", "text": "hi"},
    wire.Send: {"to": "bob", "text": "hi"},
    wire.RoomSend: {"room": "hall", "text": "hi"},
}


def test_every_kind_of_mutation_is_tried():
    kinds = {
        kind for kind in vars(wire).values() if isinstance(kind, type) and issubclass(kind, wire.Mutation)
    }
    # Groups of other hubs, and leaving them, are in tests/links.
    assert kinds - {wire.Mutation, wire.Reply, wire.GroupForget} == EVERY_MUTATION.keys()


@pytest.mark.guarantee("stored-once")
@pytest.mark.parametrize("kind", EVERY_MUTATION, ids=lambda kind: kind.__name__)
def test_every_mutation_repeated_after_a_lost_answer_is_done_once_and_answered_the_same(kind):
    world = World()
    ann, bob = world.open("ann", pinned=True), world.open("bob", push=True)
    ann.call(wire.GroupCreate, name="red", members=())
    ann.call(wire.GroupCreate, name="green", members=("bob",))
    bob.call(wire.GroupCreate, name="grey", members=("ann",))
    for client in (ann, bob):
        client.call(wire.Join, room="hall")
    op_id, fields = world.new_op(), EVERY_MUTATION[kind]
    first = ann.ask(kind, op_id=op_id, **fields)
    bob.ack()
    world.tick(1)
    pushed = len(bob.pushes)
    peer_id = ann.peer_id
    ann.close()
    again = world.open("ann", peer_id=peer_id)
    again.call(wire.Join, room="hall")
    answer = again.call(kind, op_id=op_id, resend=True, **fields)
    before = ann.answers[first]
    assert type(answer) is type(before)
    for field in before.__struct_fields__:
        if field not in ("req_id", "unread"):
            assert getattr(answer, field) == getattr(before, field)
    assert len(bob.pushes) == pushed


@pytest.mark.guarantee("stored-once")
def test_what_was_done_before_a_restart_of_the_hub_is_not_done_again():
    world = World()
    ann = world.open("ann", pinned=True)
    op_id = world.new_op()
    ann.call(wire.GroupCreate, op_id=op_id, name="red", members=())
    world.restart()
    ann = world.open("ann", pinned=True)
    answer = ann.call(wire.GroupCreate, op_id=op_id, name="red", members=(), resend=True)
    assert answer == wire.GroupMembers(req_id=1, group="red", members=("ann",))


def refused_now(why: str) -> tuple[World, Client, Client]:
    """ann may say no more to bob, or in red, for this reason; what she said before is stored."""
    world = World(sends_per_minute=1)
    ann, bob = world.open("ann"), world.open("bob", pinned=True)
    bob.call(wire.GroupCreate, name="red", members=("ann",))
    bob.send("ann", "how are you?", op_id=mid(70))
    for kind, op_id, fields in LETTERS:
        assert isinstance(ann.call(kind, op_id=op_id, **fields), wire.Sent)
    if why == "removed":
        bob.call(wire.GroupRemove, group="red", peer="ann", reason="")
    elif why == "blocked":
        bob.call(wire.Block, name="ann")
    elif why == "deleted":
        bob.call(wire.GroupDelete, group="red")
    elif why == "forgotten":
        bob.close()
        ann.call(wire.ForgetPeer, name="bob")
    return world, ann, bob


LETTERS: list[tuple[Any, str, dict[str, Any]]] = [
    (wire.Send, mid(71), {"to": "bob", "text": "hi"}),
    (wire.Reply, mid(72), {"ask_id": mid(70), "text": "well"}),
    (wire.GroupSend, mid(73), {"group": "red", "text": "all"}),
]


@pytest.mark.guarantee("stored-once")
@pytest.mark.parametrize("why", ["removed", "blocked", "deleted", "forgotten", "limit"])
def test_mail_that_was_stored_is_answered_so_though_it_would_be_refused_by_now(why: str):
    _, ann, _ = refused_now(why)
    for kind, op_id, fields in LETTERS:
        answer = ann.call(kind, op_id=op_id, resend=True, **fields)
        assert isinstance(answer, wire.Sent), answer
        assert (answer.msg_id, answer.status) == (op_id, "queued")


def test_mail_that_bob_took_was_delivered_though_it_would_be_refused_by_now():
    _, ann, bob = refused_now("limit")
    assert bob.texts() == ["hi", "well"]
    kind, op_id, fields = LETTERS[0]
    assert ann.call(kind, op_id=op_id, resend=True, **fields).status == "delivered"


@pytest.mark.guarantee("same-id-other-content")
@pytest.mark.parametrize("changed", [{"text": "bye"}, {"op_id": mid(99)}])
def test_mail_that_was_not_stored_is_refused_as_it_is_now(changed: dict[str, str]):
    _, ann, bob = refused_now("blocked")
    for kind, op_id, fields in LETTERS:
        answer = ann.call(kind, resend=True, **{"op_id": op_id, **fields, **changed})
        assert (answer.code, answer.unread) == ("blocked", ann.call(wire.Peers).unread)
    kind, op_id, fields = LETTERS[0]
    assert bob.call(kind, op_id=op_id, resend=True, **{**fields, "to": "nobody"}).code == "peer_not_found"


def test_whether_mail_was_stored_is_not_known_while_the_disk_refuses():
    world, ann, _ = refused_now("blocked")
    kind, op_id, fields = LETTERS[0]
    with world.broken_disk():
        answer = ann.call(kind, op_id=op_id, resend=True, **fields)
    assert answer.code == "timeout"
    assert "the disk is full" in answer.message


@pytest.mark.guarantee("stored-once")
def test_mail_that_was_stored_is_answered_so_though_the_disk_takes_none_by_now():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    bob.call(wire.GroupCreate, name="red", members=("ann",))
    bob.send("ann", "how are you?", op_id=mid(70))
    for kind, op_id, fields in LETTERS:
        ann.call(kind, op_id=op_id, **fields)
    writes = AppendMail | AppendReply | AppendGroup
    world.store.refuse = lambda ops: FULL if isinstance(ops[0], writes) else None
    for kind, op_id, fields in LETTERS:
        assert isinstance(ann.call(kind, op_id=op_id, resend=True, **fields), wire.Sent)
        # The same id for something else, or what is new: that is not stored.
        assert ann.call(kind, **fields).code == "mailbox_error"
        assert ann.call(kind, op_id=mid(98), resend=True, **fields).code == "mailbox_error"


def test_mail_of_who_is_gone_is_not_looked_for():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.frame(1, wire.Send(req_id=7, op_id=mid(1), to="bob", text="hi", resend=True))
    mail = script.units.popleft()
    script.closed(1)
    script.units.appendleft(mail)
    assert script.failed() == []


def test_who_is_nobody_is_refused_at_once():
    world = World()
    nobody = world.open(role="observer")
    with world.hold():
        answer = nobody.call(wire.Send, to="bob", text="hi", resend=True)
    assert answer.code == "not_registered"


@pytest.mark.guarantee("durable-before-ack")
def test_what_was_not_committed_when_the_hub_died_was_not_answered_and_is_done_when_sent_again():
    world = World()
    ann = world.open("ann", pinned=True)
    world.held = True
    op_id = world.new_op()
    lost = ann.ask(wire.Send, op_id=op_id, to="ann", text="hi")
    world.restart()
    world.held = False
    assert lost not in ann.answers
    ann = world.open("ann", pinned=True)
    assert ann.inbox().messages == ()
    ann.send("ann", "hi", op_id=op_id, resend=True)
    assert ann.texts() == ["hi"]
