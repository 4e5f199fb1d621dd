"""Groups: who governs them, who is told, what is said, and races between all that."""

import pytest

from ecorelay import wire
from ecorelay.core.actions import Push, Reply, Store
from ecorelay.core.groups import GroupCreated, GroupDropped, LineStored, MemberAdded, MemberRemoved
from ecorelay.core.ops import (
    AddMember,
    Appended,
    AppendGroup,
    AppendMail,
    CreateGroup,
    DropGroup,
    GroupMade,
    GroupRow,
    Line,
    LineAdded,
    RemoveMember,
    SaveOp,
    Snapshot,
)
from ecorelay.core.replay import checksum
from ecorelay.core.sessions import SessionBound
from ecorelay.errors import Code
from tests.core.helpers import WALL, Script, World, group_row, made, mid, peer_row

PEERS = tuple(peer_row(no, name) for no, name in enumerate(("ann", "bob", "cat", "dan"), 1))
KNOWN = Snapshot(peers=PEERS, groups=(group_row(9, "Red", 1, 2),))


def script_with(*names: str, groups: bool = True, **limits) -> Script:
    """Each is online with a carrier: ann in session 1, bob in 2, and so on."""
    script = Script(KNOWN if groups else Snapshot(peers=PEERS), **limits)
    for name in names:
        script.online(("ann", "bob", "cat", "dan").index(name) + 1, name, push=True)
    return script


def line(number: int, text: str) -> Line:
    """The `number`-th id that the hub makes; said by ann, about the group."""
    return Line(msg_id=made(number), sender_no=1, sender="ann", text=text, at=WALL, system=True)


def saved(frame: wire.Mutation, answer: wire.Result, no: int = 1) -> SaveOp:
    return SaveOp(no=no, op_id=frame.op_id, request=checksum(frame), reply=wire.encode(answer), at=WALL)


def told(number: int, text: str, *recipients: int) -> AppendMail:
    return AppendMail(
        msg_id=made(number),
        kind="system",
        sender_no=1,
        sender="ann",
        recipients=recipients,
        text=text,
        at=WALL,
    )


def pushed(sids: tuple[int, ...], number: int, text: str, seq: int) -> Push:
    frame = wire.Push(
        msg_id=made(number), kind="system", sender="ann", text=text, ts=WALL, group="Red", seq=seq
    )
    return Push(sids, frame)


def failed(code: Code, message: str) -> wire.Failed:
    return wire.Failed(req_id=7, code=code, message=message)


def refused(script: Script, frame: wire.FromSession, sid: int = 1) -> wire.Failed:
    [answer] = script.frame(sid, frame)
    assert isinstance(answer, Reply)
    assert isinstance(answer.frame, wire.Failed)
    assert answer.frame.req_id == 7
    return answer.frame


DONE = wire.Done(req_id=7)


# --- making one --------------------------------------------------------------------------------------


def test_a_group_is_stored_with_its_members_who_then_hear_of_it():
    script = script_with("ann", "bob", groups=False)
    request = wire.GroupCreate(req_id=7, op_id=mid(1), name="Red", members=("bob", "cat", "BOB", "ann"))
    answer = wire.GroupMembers(req_id=7, group="Red", members=("ann", "bob", "cat"))
    create = CreateGroup(
        group_id=made(1),
        name="Red",
        admin_no=1,
        members=(2, 3),
        line=line(2, "ann created the group Red"),
    )
    note = GroupCreated(1, create, answer)
    assert script.frame(1, request) == [Store((create, saved(request, answer)), note)]
    assert script.state.groups == {}
    assert script.stored(GroupMade(9, 1), None) == [
        pushed((2,), 2, "ann created the group Red", 1),
        Reply(1, answer),
    ]
    assert (script.peer("ann").groups, script.peer("cat").groups) == ({9}, {9})
    assert script.peer("bob").group_unread == {9: 1}
    assert script.state.reserved == set()


def test_the_name_of_a_group_is_its_own_without_regard_to_case():
    script = script_with("ann")
    request = wire.GroupCreate(req_id=7, op_id=mid(1), name="RED", members=())
    assert refused(script, request) == failed(
        "name_taken", "there is a group called RED: choose another name"
    )


def test_of_two_who_make_the_same_group_the_first_wins():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    with world.hold():
        first = ann.ask(wire.GroupCreate, name="red", members=())
        second = bob.call(wire.GroupCreate, name="Red", members=())
    assert isinstance(ann.answers[first], wire.GroupMembers)
    assert second.code == "name_taken"


def test_a_group_may_have_the_name_of_a_peer():
    world = World()
    ann = world.open("ann")
    assert ann.call(wire.GroupCreate, name="ann", members=()).members == ("ann",)
    assert ann.call(wire.Rename, new_name="red").name == "red"


def test_groups_are_limited_and_those_on_their_way_count():
    script = Script(KNOWN, groups=2)
    script.online(1, "ann")
    script.frame(1, wire.GroupCreate(req_id=6, op_id=mid(1), name="blue", members=()))
    request = wire.GroupCreate(req_id=7, op_id=mid(2), name="green", members=())
    full = failed("limit_reached", "this hub has its 2 groups: delete one first")
    assert refused(script, request) == full
    script.failed()
    assert isinstance(script.frame(1, request)[0], Store)


def test_members_of_a_new_group_are_limited():
    script = script_with("ann", groups=False, group_members=2)
    request = wire.GroupCreate(req_id=7, op_id=mid(1), name="blue", members=("bob", "cat"))
    assert refused(script, request) == failed("limit_reached", "a group has at most 2 members")
    assert script.state.reserved == set()


def test_an_unknown_member_is_an_error():
    script = script_with("ann", groups=False)
    request = wire.GroupCreate(req_id=7, op_id=mid(1), name="blue", members=("nobody",))
    assert refused(script, request).code == "peer_not_found"


def test_a_group_the_disk_refuses_leaves_its_name_free():
    script = script_with("ann", groups=False)
    request = wire.GroupCreate(req_id=7, op_id=mid(1), name="blue", members=())
    script.frame(1, request)
    assert script.failed() == [Reply(1, failed("mailbox_error", "the disk is full"))]
    assert isinstance(script.frame(1, request)[0], Store)


# --- members -----------------------------------------------------------------------------------------


def test_the_admin_invites_and_the_new_member_hears_of_it_with_the_others():
    script = script_with("ann", "bob", "cat")
    request = wire.GroupInvite(req_id=7, op_id=mid(1), group="red", peer="cat")
    add = AddMember(group_no=9, no=3, line=line(1, "ann invited cat"))
    assert script.frame(1, request) == [Store((add, saved(request, DONE)), MemberAdded(1, add, DONE))]
    assert script.stored(LineAdded(5), None) == [
        pushed((2, 3), 1, "ann invited cat", 5),
        Reply(1, DONE),
    ]
    assert list(script.state.groups[9].members) == [1, 2, 3]


def test_inviting_a_member_again_is_fine_and_nobody_is_told():
    script = script_with("ann", "bob")
    script.frame(1, wire.GroupInvite(req_id=7, op_id=mid(1), group="red", peer="bob"))
    assert script.stored(LineAdded(0), None) == [Reply(1, DONE)]


def test_members_are_limited_and_those_on_their_way_count():
    script = script_with("ann", group_members=3)
    script.frame(1, wire.GroupInvite(req_id=6, op_id=mid(1), group="red", peer="cat"))
    request = wire.GroupInvite(req_id=7, op_id=mid(2), group="red", peer="dan")
    full = failed("limit_reached", "Red has its 3 members")
    assert refused(script, request) == full
    script.failed()
    assert isinstance(script.frame(1, request)[0], Store)
    script.stored(LineAdded(5), None)
    assert script.state.groups[9].coming == set()


def test_the_admin_removes_a_member_who_is_told_why():
    script = script_with("ann", "bob")
    request = wire.GroupRemove(req_id=7, op_id=mid(1), group="Red", peer="bob", reason="done")
    mail = told(1, "ann removed you from the group Red: done", 2)
    remove = RemoveMember(group_no=9, no=2, line=line(2, "ann removed bob: done"))
    unit = (remove, saved(request, DONE), mail)
    assert script.frame(1, request) == [Store(unit, MemberRemoved(1, remove, DONE, mail))]
    push = wire.Push(
        msg_id=made(1),
        kind="system",
        sender="ann",
        text="ann removed you from the group Red: done",
        ts=WALL,
    )
    assert script.stored(LineAdded(5), None, Appended(3, (1,))) == [Push((2,), push), Reply(1, DONE)]
    assert (list(script.state.groups[9].members), script.peer("bob").groups) == ([1], set())


def test_a_member_leaves():
    script = script_with("ann", "bob")
    request = wire.GroupLeave(req_id=7, op_id=mid(1), group="Red")
    leaving = Line(msg_id=made(1), sender_no=2, sender="bob", text="bob left", at=WALL, system=True)
    remove = RemoveMember(group_no=9, no=2, line=leaving)
    assert script.frame(2, request) == [
        Store((remove, saved(request, DONE, 2)), MemberRemoved(2, remove, DONE, None))
    ]
    push = wire.Push(
        msg_id=made(1), kind="system", sender="bob", text="bob left", ts=WALL, group="Red", seq=5
    )
    assert script.stored(LineAdded(5), None) == [Push((1,), push), Reply(2, DONE)]


def test_the_admin_ends_the_group_and_the_members_are_told_by_mail():
    script = script_with("ann", "bob")
    request = wire.GroupDelete(req_id=7, op_id=mid(1), group="red")
    mail = told(1, "ann deleted the group Red", 2)
    drop = DropGroup(group_no=9)
    assert script.frame(1, request) == [
        Store((drop, saved(request, DONE), mail), GroupDropped(1, drop, DONE, mail))
    ]
    push = wire.Push(msg_id=made(1), kind="system", sender="ann", text="ann deleted the group Red", ts=WALL)
    assert script.stored(None, None, Appended(3, (1,))) == [Push((2,), push), Reply(1, DONE)]
    assert (script.state.groups, script.state.groups_by_name) == ({}, {})
    assert (script.peer("ann").groups, script.peer("bob").groups) == (set(), set())


def test_a_group_of_one_is_ended_without_mail():
    world = World()
    ann = world.open("ann")
    ann.call(wire.GroupCreate, name="red", members=())
    assert ann.call(wire.GroupDelete, group="red") == wire.Done(req_id=2)
    assert ann.call(wire.GroupCreate, name="red", members=()).group == "red"


# --- who may do what ---------------------------------------------------------------------------------

BY_ADMIN = [
    wire.GroupInvite(req_id=7, op_id=mid(1), group="red", peer="cat"),
    wire.GroupRemove(req_id=7, op_id=mid(1), group="red", peer="ann", reason="because"),
    wire.GroupDelete(req_id=7, op_id=mid(1), group="red"),
]
BY_MEMBERS = [
    *BY_ADMIN,
    wire.GroupLeave(req_id=7, op_id=mid(1), group="red"),
    wire.GroupSend(req_id=7, op_id=mid(1), group="red", text="hi"),
    wire.GroupHistory(req_id=7, group="red"),
    wire.GroupConfirm(req_id=7, group="red", upto=1),
    wire.GroupRelease(req_id=7, group="red"),
    wire.GroupInfo(req_id=7, group="red"),
]


def name_of(frame) -> str:
    return type(frame).__name__


@pytest.mark.parametrize("frame", BY_ADMIN, ids=name_of)
def test_only_the_admin_governs(frame):
    message = "only ann may do that in Red"
    assert refused(script_with("bob"), frame, 2) == failed("not_admin", message)


@pytest.mark.parametrize("frame", BY_MEMBERS, ids=name_of)
def test_who_is_no_member_learns_whom_to_ask(frame):
    message = "you are not in Red: ask ann to invite you"
    assert refused(script_with("cat"), frame, 3) == failed("not_member", message)


@pytest.mark.parametrize("frame", BY_MEMBERS, ids=name_of)
def test_a_group_that_does_not_exist_is_an_error(frame):
    message = "no group is called 'red': relay_group_list has yours"
    assert refused(script_with("ann", groups=False), frame) == failed("group_not_found", message)


def test_a_group_of_another_hub_is_an_error():
    frame = wire.GroupInfo(req_id=7, group="red@there")
    assert refused(script_with("ann"), frame).code == "hub_not_found"
    [answer] = script_with("ann").frame(1, wire.GroupInfo(req_id=7, group="red@here"))
    assert answer.frame.group == "Red"


def test_an_admin_neither_leaves_nor_removes_itself():
    script = script_with("ann")
    assert refused(script, wire.GroupLeave(req_id=7, op_id=mid(1), group="red")) == failed(
        "bad_args", "you are the admin of Red: delete the group instead"
    )
    request = wire.GroupRemove(req_id=7, op_id=mid(1), group="red", peer="ann", reason="")
    assert refused(script, request) == failed(
        "bad_args", "an admin cannot remove itself: delete the group instead"
    )


def test_who_is_no_member_cannot_be_removed():
    request = wire.GroupRemove(req_id=7, op_id=mid(1), group="red", peer="cat", reason="")
    assert refused(script_with("ann"), request) == failed("not_member", "cat is not in Red")


def test_a_group_whose_admin_is_unknown_says_so():
    snapshot = Snapshot(peers=PEERS, groups=(group_row(9, "Red", 77, 1),))
    script = Script(snapshot)
    script.online(1, "ann")
    [answer] = script.frame(1, wire.GroupInfo(req_id=7, group="red"))
    assert (answer.frame.admin, answer.frame.members) == (
        "its admin",
        (wire.Member(name="ann", online=True),),
    )


# --- talking -----------------------------------------------------------------------------------------


def said(number: int, no: int = 1, name: str = "ann", text: str = "hi") -> Line:
    return Line(msg_id=mid(number), sender_no=no, sender=name, text=text, at=WALL)


@pytest.mark.guarantee("durable-before-ack")
@pytest.mark.guarantee("one-body-many-recipients")
def test_what_is_said_is_stored_once_then_pushed_to_the_others_then_answered():
    script = script_with("ann", "bob")
    append = AppendGroup(group_no=9, line=said(1))
    request = wire.GroupSend(req_id=7, op_id=mid(1), group="red", text="hi")
    assert script.frame(1, request) == [Store((append,), LineStored(1, 7, append))]
    push = wire.Push(msg_id=mid(1), kind="group", sender="ann", text="hi", ts=WALL, group="Red", seq=5)
    sent = wire.Sent(req_id=7, msg_id=mid(1))
    assert script.stored(LineAdded(5)) == [Push((2,), push), Reply(1, sent)]
    assert script.peer("bob").group_unread == {9: 1}
    assert script.frame(2, wire.Pushed(msg_ids=(mid(1),), carrier="inbox")) == []


def test_members_without_a_carrier_or_with_a_full_window_find_it_in_the_history():
    script = Script(KNOWN, push_window_messages=1)
    script.online(1, "ann")
    script.online(2, "bob", push=True)
    for number in (1, 2):
        script.frame(1, wire.GroupSend(req_id=7, op_id=mid(number), group="red", text="hi"))
    assert len(script.stored(LineAdded(5))) == 2
    assert script.stored(LineAdded(6)) == [Reply(1, wire.Sent(req_id=7, msg_id=mid(2)))]
    script.frame(2, wire.GroupSend(req_id=7, op_id=mid(3), group="red", text="hi"))
    assert script.stored(LineAdded(7)) == [Reply(2, wire.Sent(req_id=7, msg_id=mid(3), unread=2))]
    assert script.peer("ann").group_unread == {9: 1}


def test_nothing_is_pushed_before_the_welcome():
    script = script_with("ann")
    script.online(5, "bob", role="attach")
    script.opened(2, peer_id="id-bob", push=True)
    bound = script.units.popleft()
    script.frame(1, wire.GroupSend(req_id=7, op_id=mid(1), group="red", text="hi"))
    assert script.stored(LineAdded(5)) == [Reply(1, wire.Sent(req_id=7, msg_id=mid(1)))]
    script.frame(1, wire.Send(req_id=7, op_id=mid(2), to="bob", text="hi"))
    assert script.stored(Appended(6, (1,))) == [Reply(1, wire.Sent(req_id=7, msg_id=mid(2)))]
    assert bound.then == SessionBound(2)


@pytest.mark.guarantee("stored-once")
def test_what_was_said_before_is_answered_and_not_said_again():
    script = script_with("ann", "bob")
    script.frame(1, wire.GroupSend(req_id=7, op_id=mid(1), group="red", text="hi", resend=True))
    sent = wire.Sent(req_id=7, msg_id=mid(1))
    assert script.stored(LineAdded(5, duplicate=True)) == [Reply(1, sent)]
    assert script.peer("bob").group_unread == {}


@pytest.mark.guarantee("same-id-other-content")
def test_the_id_of_a_group_message_used_for_another_text_is_refused():
    world = World()
    ann = world.open("ann")
    ann.call(wire.GroupCreate, name="red", members=())
    op_id = world.new_op()
    ann.call(wire.GroupSend, op_id=op_id, group="red", text="one")
    assert ann.call(wire.GroupSend, op_id=op_id, group="red", text="two").code == "bad_msg"


def test_a_speaker_that_left_is_not_answered():
    script = script_with("ann", "bob")
    script.frame(1, wire.GroupSend(req_id=7, op_id=mid(1), group="red", text="hi"))
    script.closed(1)
    assert len(script.stored(LineAdded(5))) == 1


def test_empty_words_are_an_error():
    request = wire.GroupSend(req_id=7, op_id=mid(1), group="red", text="")
    assert refused(script_with("ann"), request).code == "bad_args"


def test_a_member_counts_no_more_than_the_history_holds():
    script = Script(KNOWN, mailbox_messages=2)
    script.online(1, "ann")
    script.online(2, "bob")
    for number in (1, 2, 3):
        script.frame(1, wire.GroupSend(req_id=7, op_id=mid(number), group="red", text="hi"))
        script.stored(LineAdded(4 + number))
    assert script.peer("bob").group_unread == {9: 2}


# --- races -------------------------------------------------------------------------------------------


def test_what_is_said_while_the_group_is_being_ended_is_told_there_is_none():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    with world.hold():
        ended = ann.ask(wire.GroupDelete, group="red")
        spoken = bob.ask(wire.GroupSend, group="red", text="hi")
        again = ann.ask(wire.GroupDelete, group="red")
        invited = ann.ask(wire.GroupInvite, group="red", peer="bob")
        removed = ann.ask(wire.GroupRemove, group="red", peer="bob", reason="")
        left = bob.ask(wire.GroupLeave, group="red")
    assert ann.answers[ended] == wire.Done(req_id=ended)
    late = [bob.answers[spoken], bob.answers[left], *[ann.answers[r] for r in (again, invited, removed)]]
    assert {answer.code for answer in late} == {"group_not_found"}
    assert [mail.text for mail in bob.inbox().messages] == ["ann deleted the group red"]


def test_what_a_member_says_while_it_is_being_removed_is_refused():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    with world.hold():
        ann.ask(wire.GroupRemove, group="red", peer="bob", reason="")
        spoken = bob.ask(wire.GroupSend, group="red", text="hi")
        left = bob.ask(wire.GroupLeave, group="red")
    assert (bob.answers[spoken].code, bob.answers[left].code) == ("not_member", "not_member")
    assert world.peer("bob").group_unread == {}


def test_a_group_is_made_anew_only_when_the_old_one_is_gone():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.call(wire.GroupCreate, name="red", members=())
    with world.hold():
        ann.ask(wire.GroupDelete, group="red")
        early = bob.ask(wire.GroupCreate, name="red", members=())
    assert bob.answers[early].code == "name_taken"
    assert bob.call(wire.GroupCreate, name="red", members=()).members == ("bob",)
    assert ann.call(wire.GroupInfo, group="red").code == "not_member"


def test_two_invitations_of_one_peer_make_one_member():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.call(wire.GroupCreate, name="red", members=())
    with world.hold():
        asked = [ann.ask(wire.GroupInvite, group="red", peer="bob") for _ in range(2)]
    assert [ann.answers[req_id] for req_id in asked] == [wire.Done(req_id=req_id) for req_id in asked]
    assert world.peer("bob").group_unread == {1: 1}
    assert bob.call(wire.GroupHistory, group="red").messages[0].text == "ann invited bob"


@pytest.mark.parametrize(
    "frame",
    [
        *BY_ADMIN[::2],
        wire.GroupRemove(req_id=7, op_id=mid(1), group="red", peer="bob", reason=""),
        wire.GroupSend(req_id=7, op_id=mid(1), group="red", text="hi"),
    ],
    ids=name_of,
)
def test_what_the_disk_refuses_changes_nothing_in_the_group(frame):
    script = script_with("ann", "bob")
    script.frame(1, frame)
    assert script.failed() == [Reply(1, failed("mailbox_error", "the disk is full"))]
    assert list(script.state.groups[9].members) == [1, 2]
    assert script.state.groups[9].coming == set()
    assert script.peer("bob").group_unread == {}


# --- lists -------------------------------------------------------------------------------------------


def test_a_peer_lists_its_groups_and_what_is_unread_in_them():
    snapshot = Snapshot(peers=PEERS, groups=(group_row(9, "Red", 1, 2), group_row(4, "blue", 2, 1)))
    script = Script(snapshot)
    script.online(1, "ann", groups=((9, 3),))
    listed = (wire.GroupUnread(name="blue"), wire.GroupUnread(name="Red", unread_count=3))
    assert script.frame(1, wire.Groups(req_id=7)) == [
        Reply(1, wire.GroupList(req_id=7, groups=listed, unread=3))
    ]
    assert script.frame(1, wire.GroupInfo(req_id=7, group="red")) == [
        Reply(
            1,
            wire.GroupDetails(
                req_id=7,
                group="Red",
                admin="ann",
                members=(wire.Member(name="ann", online=True), wire.Member(name="bob")),
                unread_count=3,
                unread=3,
            ),
        )
    ]


def test_a_group_of_which_all_is_read_has_nothing_unread():
    [answer] = script_with("bob").frame(2, wire.GroupInfo(req_id=7, group="red"))
    assert (answer.frame.unread_count, answer.frame.unread) == (0, 0)


def test_groups_survive_a_restart_with_members_admin_and_what_is_unread():
    world = World()
    ann, bob = world.open("ann", pinned=True), world.open("bob", pinned=True)
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    ann.call(wire.GroupSend, group="red", text="hi")
    world.restart()
    bob = world.open("bob", pinned=True)
    details = bob.call(wire.GroupInfo, group="red")
    assert (details.admin, details.unread_count) == ("ann", 2)
    assert [entry.text for entry in bob.call(wire.GroupHistory, group="red").messages] == [
        "ann created the group red",
        "hi",
    ]


def test_a_group_of_a_hub_that_is_not_on_the_disk_keeps_no_hub_from_starting():
    stray = GroupRow(no=1, group_id=mid(1), name="red", admin_no=0, members=(1,), hub="gone")
    script = Script(Snapshot(peers=(peer_row(1, "ann"),), groups=(stray,)))
    assert script.hub.state.groups == {}
