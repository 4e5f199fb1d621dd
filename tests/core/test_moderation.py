"""Forgetting a peer with all it has, and stopping one from sending."""

from contextlib import nullcontext
from typing import Any

import pytest

from ecorelay import wire
from ecorelay.core import moderation
from ecorelay.core.actions import Push, Reply, Store
from ecorelay.core.moderation import BlockSet, PeerForgotten
from ecorelay.core.ops import (
    Appended as AppendedMail,
    AppendMail,
    DropGroup,
    DropPeers,
    Eviction,
    ForgetPeer,
    Forgotten,
    Line,
    LineAdded,
    MailboxState,
    RemoveMember,
    SetBlock,
    Snapshot,
)
from ecorelay.errors import Code
from tests.core.helpers import DAY_S, WALL, Client, Script, World, group_row, made, mid, peer_row

KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "bob"), peer_row(3, "cat")))


def failed(req_id: int, code: Code, message: str) -> wire.Failed:
    return wire.Failed(req_id=req_id, code=code, message=message)


def with_observer(snapshot: Snapshot = KNOWN, **limits: Any) -> Script:
    """An observer is session 9."""
    script = Script(snapshot, **limits)
    script.opened(9, role="observer")
    return script


def line(text: str, number: int, no: int, sender: str) -> Line:
    return Line(msg_id=made(number), sender_no=no, sender=sender, text=text, at=WALL, system=True)


def forget(req_id: int = 7, name: str = "bob") -> wire.ForgetPeer:
    return wire.ForgetPeer(req_id=req_id, name=name)


# --- forgetting --------------------------------------------------------------------------------------


@pytest.mark.guarantee("forgotten-is-told")
def test_a_peer_that_is_not_online_is_forgotten_and_its_name_is_free():
    script = with_observer()
    op = ForgetPeer(no=2, at=WALL)
    assert script.frame(9, forget(name="BOB")) == [Store((op,), PeerForgotten(9, 7, 2, (), (), (), 1))]
    assert script.stored(Forgotten(())) == [Reply(9, wire.Done(req_id=7))]
    state = script.state
    assert set(state.peers) == {1, 3}
    assert set(state.names) == {"ann", "cat"}
    assert set(state.by_peer_id) == {"id-ann", "id-cat"}
    assert state.reserved == set()
    [add] = script.frame(9, wire.AddPeer(req_id=8, op_id=mid(1), name="bob"))
    assert isinstance(add, Store)


def test_all_that_led_to_a_forgotten_peer_leads_nowhere():
    world = World()
    bob = world.open("bob", client="claude", cwd="/src", identity="s1")
    bob.call(wire.Rename, new_name="rob")
    bob.close()
    peer_id = bob.peer_id
    observer = world.open(role="observer")
    assert observer.call(wire.ForgetPeer, name="rob") == wire.Done(req_id=1)
    state = world.state
    assert (state.peers, state.forwards, state.identities, state.places) == ({}, {}, {}, {})
    assert world.store.snapshot() == Snapshot()
    again = world.open("bob", client="claude", cwd="/src", identity="s1", peer_id=peer_id)
    assert again.name == "bob"
    assert again.peer_id != peer_id
    again.close()
    observer.close()
    world.idle()


def test_senders_of_unread_mail_of_a_forgotten_peer_are_told_and_woken():
    world = World()
    ann, bob, cat = world.open("ann"), world.open("bob"), world.open("cat")
    for text in ("a", "b"):
        ann.send("bob", text)
    cat.send("bob", "seen")
    assert bob.texts(limit=100) == ["a", "b", "seen"]
    ann.send("bob", "c")
    ann.send("bob", "d")
    bob.close()
    waits = ann.ask(wire.Inbox, wait=60)
    world.open(role="observer").call(wire.ForgetPeer, name="bob")
    [notice] = ann.answers[waits].messages
    assert notice.kind == "system"
    assert notice.text == (
        "2 messages from you lay unread in the mailbox of bob when a person removed bob from this hub: "
        "that address is nobody's now"
    )
    ann.confirm(ann.answers[waits])
    assert cat.inbox().messages == ()
    states = [(row.state, row.in_ring) for (no, _), row in world.store.rows.items() if no == 2]
    assert states == [("seen", False)] * 3 + [("dead", False)] * 2
    assert world.hub.counters["forgotten_unread"] == 2
    assert ann.send("bob", "e").code == "peer_not_found"


def test_who_is_told_already_or_away_or_gone_itself_is_not_counted_again():
    script = with_observer()
    ann = script.online(1, "ann", notices=1)
    script.frame(9, forget())
    lost = tuple(
        Eviction(no, 2, 1, first=first) for no, first in ((1, False), (3, True), (8, True), (0, False))
    )
    assert script.stored(Forgotten(lost)) == [Reply(9, wire.Done(req_id=7))]
    assert ann.notices == 1
    assert script.hub.counters == {"forgotten_unread": 4}


def test_a_peer_that_is_online_is_not_forgotten():
    script = with_observer()
    script.opened(1, peer_id="id-bob")  # not welcome yet
    refused = failed(7, "bad_args", "bob is online: end its session first")
    assert script.frame(9, forget()) == [Reply(9, refused)]
    script.stored(None, None, MailboxState(0, 0, ()))
    assert script.frame(9, forget()) == [Reply(9, refused)]
    script.closed(1)
    assert isinstance(script.frame(9, forget())[0], Store)


def test_an_unknown_name_is_answered_with_close_ones():
    script = with_observer()
    [answer] = script.frame(9, forget(name="bobb"))
    assert answer.frame.code == "peer_not_found"
    assert "did you mean bob?" in answer.frame.message


def test_an_old_name_is_answered_with_the_one_of_now():
    script = with_observer(Snapshot(peers=KNOWN.peers, forwards=(("robert", 2, WALL + 1000),)))
    assert script.frame(9, forget(name="robert")) == [
        Reply(9, failed(7, "peer_not_found", "robert is called bob now: forget it under that name"))
    ]


def test_what_an_attached_connection_of_a_forgotten_peer_asks_is_not_registered():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    hand = world.open("bob", role="attach")
    ann.send("bob", "1")
    ann.send("bob", "2")
    bob.close()
    hand.inbox(limit=1)
    hand.inbox(limit=1)
    waits = hand.ask(wire.Inbox, wait=60)
    assert ann.call(wire.ForgetPeer, name="bob") == wire.Done(req_id=3, unread=1)
    assert hand.answers[waits].code == "not_registered"
    assert "a person removes bob" in hand.answers[waits].message
    for kind, fields in (
        (wire.Send, {"to": "ann", "text": "hi"}),
        (wire.Inbox, {}),
        (wire.Confirm, {"lease": 1}),
        (wire.Rename, {"new_name": "rob"}),
        (wire.Groups, {}),
    ):
        assert hand.call(kind, **fields).code == "not_registered", kind
    hand.say(wire.Cancel(req_id=waits))
    hand.say(wire.Pushed(msg_ids=(mid(1),)))
    assert hand.call(wire.Peers).me == ""
    assert hand.call(wire.HubStatus).peers == 1
    world.tick(100)
    hand.close()
    ann.close()
    world.idle()


def test_a_send_that_waits_to_be_delivered_is_answered_when_its_sender_is_forgotten():
    world = World()
    ann = world.open("ann", push=True)
    world.open("bob").close()
    hand = world.open("bob", role="attach")
    waits, other = hand.ask(wire.Send, to="ann", text="hi"), ann.ask(wire.Send, to="ann", text="hi")
    assert isinstance(ann.call(wire.ForgetPeer, name="bob"), wire.Done)
    assert hand.answers[waits].status == "queued"
    assert other not in ann.answers
    ann.ack()
    assert ann.answers[other].status == "delivered"


def test_an_attached_connection_may_have_its_own_peer_forgotten():
    world = World()
    world.open("bob").close()
    hand = world.open("bob", role="attach")
    assert hand.call(wire.ForgetPeer, name="bob") == wire.Done(req_id=1)
    assert hand.call(wire.ForgetPeer, name="bob").code == "peer_not_found"


def test_nobody_comes_to_a_peer_while_it_is_being_forgotten():
    world = World()
    ann = world.open("ann")
    bob = world.open("bob", client="claude", cwd="/src", identity="s1")
    bob.close()
    hand = world.open("bob", role="attach")
    with world.hold():
        done = ann.ask(wire.ForgetPeer, name="bob")
        assert ann.send("bob", "hi").code == "peer_not_found"
        assert hand.send("ann", "hi").code == "not_registered"
        assert ann.call(wire.ForgetPeer, name="bob").code == "peer_not_found"
        newcomers = [
            world.open("bob", pinned=True),
            world.open(role="attach", name="bob"),
            world.open("tim", client="claude", identity="s1"),
        ]
        placed = world.open("tom", client="claude", cwd="/src")
        world.tick(0.2)
        assert [client.welcome for client in newcomers] == [None] * 3
    assert isinstance(ann.answers[done], wire.Done)
    world.tick(0.2)
    assert placed.name == "tom"
    assert [client.name for client in newcomers] == ["bob", "bob", "tim"]
    assert bob.peer_id not in {client.peer_id for client in (*newcomers, placed)}


@pytest.mark.parametrize("broken", [False, True])
def test_a_page_that_was_being_read_when_its_peer_was_forgotten_is_answered_once(broken):
    world = World()
    ann = world.open("ann")
    world.open("bob").close()
    hand = world.open("bob", role="attach")
    with world.hold():
        reads = hand.ask(wire.Inbox, wait=60)
        done = ann.ask(wire.ForgetPeer, name="bob")
        with world.broken_disk() if broken else nullcontext():
            world.commit(1)
    assert isinstance(ann.answers[done], wire.Done)
    if broken:
        assert hand.answers[reads].code == "mailbox_error"
    else:
        assert hand.answers[reads] == wire.InboxPage(req_id=reads)
    world.tick(61)
    hand.close()
    ann.close()
    world.idle()


def test_a_peer_the_disk_does_not_let_go_of_stays_as_it_was():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.send("bob", "hi")
    bob.close()
    hand = world.open("bob", role="attach")
    with world.broken_disk():
        refused = ann.call(wire.ForgetPeer, name="bob")
    assert (refused.code, refused.message) == ("mailbox_error", "the disk is full")
    assert hand.texts() == ["hi"]
    assert ann.send("bob", "again").status == "queued"
    again = world.open("bob", pinned=True)
    assert (again.name, again.peer_id) == ("bob", bob.peer_id)
    for client in (ann, hand, again):
        client.close()
    world.idle()


def test_a_forgotten_peer_leaves_its_groups_and_those_it_administers_end():
    groups = (group_row(4, "red", 1, 2, 3), group_row(5, "own", 2, 1, 3), group_row(6, "solo", 2))
    script = with_observer(Snapshot(peers=KNOWN.peers, groups=groups))
    ann = script.online(1, "ann", push=True)
    leave = RemoveMember(
        group_no=4, no=2, line=line("bob left: a person removed it from this hub", 1, 2, "bob")
    )
    told = AppendMail(
        msg_id=made(2),
        kind="system",
        sender_no=2,
        sender="bob",
        recipients=(1, 3),
        text="the group own ended: a person removed its admin bob from this hub",
        at=WALL,
    )
    drops = (DropGroup(group_no=5), DropGroup(group_no=6))
    note = PeerForgotten(9, 7, 2, (leave,), drops, (told,), 1)
    unit = (leave, *drops, told, ForgetPeer(no=2, at=WALL))
    assert script.frame(9, forget()) == [Store(unit, note)]
    assert script.stored(LineAdded(8), None, None, AppendedMail(1, (1, 1)), Forgotten(())) == [
        Push(
            (1,),
            wire.Push(
                msg_id=made(1),
                kind="system",
                sender="bob",
                text=leave.line.text,
                ts=WALL,
                group="red",
                seq=8,
            ),
        ),
        Push((1,), wire.Push(msg_id=made(2), kind="system", sender="bob", text=told.text, ts=WALL)),
        Reply(9, wire.Done(req_id=7)),
    ]
    assert [list(group.members) for group in script.state.groups.values()] == [[1, 3]]
    assert set(script.state.groups_by_name) == {"red"}
    assert ann.groups == {4}
    assert script.peer("cat").groups == {4}


def test_members_of_a_group_may_go_in_any_order_at_the_same_time():
    world = World()
    ann, bob, cat, dan = [world.open(name) for name in ("ann", "bob", "cat", "dan")]
    bob.call(wire.GroupCreate, name="red", members=("ann", "cat", "dan"))
    cat.call(wire.GroupCreate, name="blue", members=("ann", "bob"))
    bob.close()
    cat.close()
    with world.hold():
        asked = [ann.ask(wire.ForgetPeer, name=name) for name in ("bob", "cat")]
    assert [type(ann.answers[req_id]) for req_id in asked] == [wire.Done, wire.Done]
    assert world.state.groups == {}
    assert ann.texts() == [
        "the group red ended: a person removed its admin bob from this hub",
        "the group blue ended: a person removed its admin cat from this hub",
    ]
    assert len(dan.texts()) == 1
    assert world.store.snapshot().groups == ()


def test_what_was_on_its_way_when_a_peer_was_forgotten_is_taken_into_account():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.call(wire.GroupCreate, name="red", members=())
    bob.call(wire.GroupCreate, name="blue", members=("ann",))
    bob.close()
    hand = world.open("bob", role="attach")
    with world.hold():
        invited = ann.ask(wire.GroupInvite, group="red", peer="bob")
        deleted = hand.ask(wire.GroupDelete, group="blue")
        made_one = hand.ask(wire.GroupCreate, name="green", members=("ann",))
        renamed = hand.ask(wire.Rename, new_name="rob")
        done = ann.ask(wire.ForgetPeer, name="bob")
    assert isinstance(ann.answers[invited], wire.Done)
    assert isinstance(ann.answers[done], wire.Done)
    assert [type(hand.answers[each]) for each in (deleted, made_one, renamed)] == [
        wire.Done,
        wire.GroupMembers,
        wire.Renamed,
    ]
    assert [(group.name, list(group.members)) for group in world.state.groups.values()] == [("red", [1])]
    assert set(world.state.names) == {"ann"}
    assert world.state.forwards == {}
    assert world.state.reserved == set()
    snapshot = world.store.snapshot()
    assert [peer.name for peer in snapshot.peers] == ["ann"]
    assert [group.members for group in snapshot.groups] == [(1,)]
    assert world.open("bob", pinned=True).name == "bob"
    assert world.open("rob", pinned=True).name == "rob"


def test_a_rename_that_is_refused_while_its_peer_is_being_forgotten_leaves_no_name_behind():
    world = World()
    ann = world.open("ann")
    world.open("bob").close()
    hand = world.open("bob", role="attach")
    with world.hold():
        renamed = hand.ask(wire.Rename, new_name="rob")
        done = ann.ask(wire.ForgetPeer, name="bob")
        with world.broken_disk():
            world.commit(1)
    assert hand.answers[renamed].code == "mailbox_error"
    assert isinstance(ann.answers[done], wire.Done)
    assert (set(world.state.names), world.state.reserved) == ({"ann"}, set())


def test_a_group_deleted_by_its_admin_does_not_write_to_a_member_that_is_being_forgotten():
    world = World()
    ann = world.open("ann")
    world.open("bob").close()
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    with world.hold():
        done = ann.ask(wire.ForgetPeer, name="bob")
        deleted = ann.ask(wire.GroupDelete, group="red")
    assert isinstance(ann.answers[deleted], wire.Done)
    assert isinstance(ann.answers[done], wire.Done)
    assert (world.state.groups, set(world.state.names)) == ({}, {"ann"})


def test_forgetting_that_is_refused_time_and_again_is_given_up():
    script = with_observer()
    script.frame(9, forget())
    for tries in (2, 3):
        [again] = script.failed("bad_args", "that peer is in a group")
        assert again.then == PeerForgotten(9, 7, 2, (), (), (), tries)
    assert script.failed("bad_args", "that peer is in a group") == [
        Reply(9, failed(7, "bad_args", "that peer is in a group"))
    ]
    assert script.peer("bob").going is False
    assert script.state.reserved == set()


def test_who_asked_for_forgetting_and_left_is_answered_nothing():
    script = with_observer()
    script.frame(9, forget())
    script.closed(9)
    assert script.stored(Forgotten(())) == []
    assert set(script.state.names) == {"ann", "cat"}


def test_room_messages_a_forgotten_peers_hand_had_taken_are_let_go_of():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    hand = world.open("bob", role="attach")
    for client in (ann, bob):
        client.call(wire.Join, room="hall")
    ann.call(wire.RoomSend, room="hall", text="one")
    ann.call(wire.RoomSend, room="hall", text="two")
    assert len(hand.inbox(limit=1).messages) == 1
    ann.send("bob", "three")
    assert len(hand.inbox().messages) == 2
    bob.close()
    assert isinstance(ann.call(wire.ForgetPeer, name="bob"), wire.Done)
    hand.close()
    ann.close()
    world.idle()


# --- blocking ----------------------------------------------------------------------------------------

SAYING: dict[type[wire.Request], dict[str, Any]] = {
    wire.Send: {"to": "ann", "text": "hi"},
    wire.Reply: {"ask_id": mid(1), "text": "hi"},
    wire.Broadcast: {"question": "hi"},
    wire.RoomSend: {"room": "hall", "text": "hi"},
    wire.GroupSend: {"group": "own", "text": "hi"},
    wire.GroupCreate: {"name": "new", "members": ("ann",)},
    wire.GroupInvite: {"group": "own", "peer": "cat"},
    wire.GroupRemove: {"group": "own", "peer": "ann", "reason": "words"},
}


def bob_who_may_speak() -> tuple[World, Client, Client]:
    """ann and bob, a room and a group of bob's; a message of ann's in his mailbox."""
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    world.open("cat").close()
    for client in (ann, bob):
        client.call(wire.Join, room="hall")
    bob.call(wire.GroupCreate, name="own", members=("ann",))
    ann.send("bob", "?", op_id=mid(1))
    return world, ann, bob


@pytest.mark.guarantee("blocked-sends-nothing")
@pytest.mark.parametrize("kind", SAYING, ids=lambda kind: kind.__name__)
def test_a_blocked_peer_says_nothing_until_a_person_ends_it(kind):
    world, ann, bob = bob_who_may_speak()
    hand = world.open("bob", role="attach")
    assert ann.call(wire.Block, name="BOB") == wire.Done(req_id=3, unread=1)
    messages = [row.mid for row in world.store.rows.values()]
    for client in (bob, hand):
        refused = client.call(kind, **SAYING[kind])
        assert refused.code == "blocked"
        assert refused.message == (
            "a person blocked bob: nothing it sends goes out. Reading still works (relay_inbox, relay_peers, "
            "relay_group_history); trying again does not help: only a person ends it, with "
            "`ecorelay block bob --off`"
        )
    assert [row.mid for row in world.store.rows.values()] == messages
    assert world.hub.counters["blocked_refused"] == 2
    ann.call(wire.Block, name="bob", blocked=False)
    assert not isinstance(bob.call(kind, **SAYING[kind]), wire.Failed)


def test_a_blocked_peer_reads_as_before_and_is_written_to():
    _, ann, bob = bob_who_may_speak()
    ann.call(wire.Block, name="bob")
    assert ann.send("bob", "news").status == "queued"
    assert bob.texts() == ["?", "news"]
    assert not isinstance(bob.call(wire.GroupHistory, group="own"), wire.Failed)
    assert [peer.name for peer in bob.call(wire.Peers).peers] == ["ann", "cat"]
    assert isinstance(bob.call(wire.Leave, room="hall"), wire.Done)
    assert isinstance(bob.call(wire.GroupDelete, group="own"), wire.Done)


def test_a_block_is_stored_then_counts_then_is_answered():
    script = with_observer()
    op = SetBlock(no=2, blocked=True, at=WALL)
    assert script.frame(9, wire.Block(req_id=7, name="bob@HERE")) == [Store((op,), BlockSet(9, 7, op))]
    assert script.state.blocked == set()
    assert script.stored(None) == [Reply(9, wire.Done(req_id=7))]
    assert script.state.blocked == {2}
    script.frame(9, wire.Block(req_id=8, name="bob", blocked=False))
    assert script.failed() == [Reply(9, failed(8, "mailbox_error", "the disk is full"))]
    assert script.state.blocked == {2}


def test_a_rename_does_not_escape_a_block_and_the_name_left_behind_is_not_blocked():
    world, ann, bob = bob_who_may_speak()
    ann.call(wire.Block, name="bob")
    bob.call(wire.Rename, new_name="rob")
    assert bob.send("ann", "hi").code == "blocked"
    assert ann.call(wire.Blocks).names == ("rob",)
    for client in (ann, bob):
        client.close()
    world.restart()
    ann, rob = world.open("ann", pinned=True), world.open("rob", pinned=True)
    assert rob.send("ann", "hi").code == "blocked"
    assert ann.call(wire.Blocks).names == ("rob",)
    bob = world.open("bob", pinned=True)
    assert bob.send("ann", "hi").status == "queued"
    ann.call(wire.Block, name="bob")
    assert ann.call(wire.Blocks).names == ("bob", "rob")


def test_an_old_name_blocks_and_unblocks_the_peer_it_leads_to():
    _, ann, bob = bob_who_may_speak()
    bob.call(wire.Rename, new_name="rob")
    ann.call(wire.Block, name="bob")
    assert bob.send("ann", "hi").code == "blocked"
    ann.call(wire.Block, name="bob", blocked=False)
    assert bob.send("ann", "hi").status == "queued"


def test_blocking_twice_and_ending_it_twice_is_fine():
    world, ann, _ = bob_who_may_speak()
    for name in ("bob", "Bob@Far", "bob@far"):
        assert isinstance(ann.call(wire.Block, name=name), wire.Done)
        assert isinstance(ann.call(wire.Block, name=name), wire.Done)
    assert ann.call(wire.Blocks).names == ("bob", "Bob@Far")
    assert world.store.snapshot().blocks == (("bob", 2), ("Bob@Far", 0))
    for name in ("bob", "BOB@FAR"):
        assert isinstance(ann.call(wire.Block, name=name, blocked=False), wire.Done)
        assert isinstance(ann.call(wire.Block, name=name, blocked=False), wire.Done)
    assert ann.call(wire.Blocks).names == ()
    assert world.store.snapshot().blocks == ()


def test_a_peer_of_another_hub_can_be_blocked_before_it_is_known():
    world = World()
    observer = world.open(role="observer")
    assert observer.call(wire.Block, name="Eve@There") == wire.Done(req_id=1)
    world.restart()
    assert world.state.blocked_far == {"eve@there": "Eve@There"}
    assert world.open(role="observer").call(wire.Blocks) == wire.BlockList(req_id=1, names=("Eve@There",))


@pytest.mark.parametrize("blocked", [True, False])
def test_an_unknown_name_cannot_be_blocked(blocked):
    script = with_observer()
    [answer] = script.frame(9, wire.Block(req_id=7, name="bobb", blocked=blocked))
    assert answer.frame.code == "peer_not_found"
    assert "did you mean bob?" in answer.frame.message


def test_there_is_a_limit_of_blocks(monkeypatch):
    monkeypatch.setattr(moderation, "BLOCKS_MAX", 2)
    world = World()
    observer = world.open(role="observer")
    for name in ("a@b", "c@d"):
        observer.call(wire.Block, name=name)
    refused = observer.call(wire.Block, name="e@f")
    assert (refused.code, refused.message) == (
        "limit_reached",
        "2 peers are blocked: end some, `ecorelay block` lists them",
    )
    assert isinstance(observer.call(wire.Block, name="a@b", blocked=False), wire.Done)
    assert isinstance(observer.call(wire.Block, name="e@f"), wire.Done)


def test_who_asked_for_a_block_and_left_is_answered_nothing():
    script = with_observer()
    script.frame(9, wire.Block(req_id=7, name="bob"))
    script.closed(9)
    assert script.stored(None) == []
    assert script.state.blocked == {2}


def test_a_block_ends_when_its_peer_is_forgotten():
    world, ann, bob = bob_who_may_speak()
    ann.call(wire.Block, name="bob")
    bob.close()
    ann.call(wire.ForgetPeer, name="bob")
    assert ann.call(wire.Blocks).names == ()
    bob = world.open("bob", pinned=True)
    assert bob.send("ann", "hi").status == "queued"


def test_a_blocked_peer_is_not_removed_for_being_away_and_so_does_not_come_back_unblocked():
    snapshot = Snapshot(
        peers=(peer_row(1, "ann", auto=True), peer_row(2, "bob", auto=True)),
        blocks=(("bob", 2), ("gone", 9), ("a@b", 0)),
    )
    script = Script(snapshot)
    assert script.state.blocked == {2}
    script.tick()
    units = [action for action in script.tick(15 * DAY_S) if isinstance(action, Store)]
    assert [unit.ops for unit in units if isinstance(unit.ops[0], DropPeers)] == [(DropPeers(nos=(1,)),)]
