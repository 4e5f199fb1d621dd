"""Names: renaming, old names, addresses made beforehand, forgetting; and how an address is looked up."""

import pytest

from ecorelay import wire
from ecorelay.core.actions import CloseSession, Reply, Store
from ecorelay.core.events import Stored
from ecorelay.core.hub import HouseKept
from ecorelay.core.ops import (
    AddPeer,
    AppendMail,
    Dropped,
    DropPeers,
    Housekeep,
    HousekeepingDone,
    Numbered,
    RenamePeer,
    SaveOp,
    Snapshot,
)
from ecorelay.core.peers import AddressAdded, PeerRenamed, PeersDropped
from ecorelay.core.replay import checksum
from ecorelay.core.sessions import SessionBound
from ecorelay.errors import Code, RelayError
from tests.core.helpers import (
    DAY_MS,
    DAY_S,
    WALL,
    Script,
    World,
    bind_ops,
    group_row,
    made,
    mid,
    peer_row,
)

KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "bob")))


def saved(frame: wire.Mutation, answer: wire.Result, no: int = 1, wall: int = WALL) -> SaveOp:
    return SaveOp(no=no, op_id=frame.op_id, request=checksum(frame), reply=wire.encode(answer), at=wall)


def failed(req_id: int, code: Code, message: str) -> wire.Failed:
    return wire.Failed(req_id=req_id, code=code, message=message)


# --- renaming ----------------------------------------------------------------------------------------


def test_a_rename_is_stored_with_its_answer_then_takes_effect_then_is_answered():
    script = Script(KNOWN)
    script.online(1, "ann")
    request = wire.Rename(req_id=7, op_id=mid(1), new_name="Zoe")
    answer = wire.Renamed(req_id=7, name="Zoe")
    rename = RenamePeer(no=1, name="Zoe", forward_until=WALL + 30 * DAY_MS)
    note = PeerRenamed(1, 1, "Zoe", WALL + 30 * DAY_MS, answer)
    assert script.frame(1, request) == [Store((rename, saved(request, answer)), note)]
    assert script.state.resolve("ann", script.clock.now).name == "ann"
    assert script.stored(None, None) == [Reply(1, answer)]
    peer = script.state.resolve("zoe", script.clock.now)
    assert (peer.no, peer.name, peer.auto) == (1, "Zoe", False)
    assert script.state.reserved == set()


@pytest.mark.guarantee("rename-keeps-mailbox")
def test_mail_to_the_old_name_reaches_the_renamed_peer_for_thirty_days():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    bob.send("ann", "before")
    ann.call(wire.Rename, new_name="zoe")
    bob.send("ann", "after")
    bob.send("ZOE", "by the new name")
    assert ann.texts() == ["before", "after", "by the new name"]
    world.restart()
    world.clock.forward(29 * DAY_S)
    bob = world.open("bob", pinned=True)
    assert bob.send("ann", "late").status == "queued"
    world.clock.forward(1 * DAY_S)
    assert bob.send("ann", "too late").code == "peer_not_found"


def test_other_connections_of_the_renamed_peer_are_told():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.online(2, "ann", role="attach")
    script.online(3, "ann", role="attach")
    answer = wire.Renamed(req_id=7, name="zoe")
    script.frame(2, wire.Rename(req_id=7, op_id=mid(1), new_name="zoe"))
    assert script.stored(None, None) == [
        Reply(2, answer),
        Reply(1, wire.NameChanged(name="zoe")),
        Reply(3, wire.NameChanged(name="zoe")),
    ]


def test_a_session_is_told_nothing_twice_when_it_renames_itself():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.frame(1, wire.Rename(req_id=7, op_id=mid(1), new_name="zoe"))
    script.closed(1)
    assert script.stored(None, None) == []
    assert script.peer("zoe").no == 1


@pytest.mark.parametrize("wanted", ["bob", "BOB"])
@pytest.mark.guarantee("name-first-wins")
def test_another_peers_name_is_taken(wanted):
    script = Script(KNOWN)
    script.online(1, "ann")
    taken = f"{wanted} is another peer's name: choose one not in relay_peers"
    assert script.frame(1, wire.Rename(req_id=7, op_id=mid(1), new_name=wanted)) == [
        Reply(1, failed(7, "name_taken", taken))
    ]


def test_of_two_renames_to_one_name_the_first_wins():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    with world.hold():
        first = ann.ask(wire.Rename, new_name="zoe")
        second = bob.call(wire.Rename, new_name="Zoe")
    assert ann.answers[first] == wire.Renamed(req_id=first, name="zoe")
    assert second.code == "name_taken"


def test_a_name_may_change_its_case():
    world = World()
    ann = world.open("ann")
    ann.call(wire.Rename, new_name="Ann")
    assert world.peer("ann").name == "Ann"
    assert world.state.forwards == {}
    assert world.store.snapshot().forwards == ()


def test_renaming_back_and_forth_leaves_each_name_with_one_meaning():
    world = World()
    ann = world.open("ann")
    ann.call(wire.Rename, new_name="zoe")
    ann.call(wire.Rename, new_name="ann")
    assert set(world.state.names) == {"ann"}
    assert set(world.state.forwards) == {"zoe"}
    with world.hold():
        ann.ask(wire.Rename, new_name="b")
        ann.ask(wire.Rename, new_name="c")
    assert set(world.state.names) == {"c"}
    assert set(world.state.forwards) == {"ann", "b", "zoe"}


def test_renaming_to_a_name_that_only_forwards_is_an_explicit_claim():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    ann.call(wire.Rename, new_name="zoe")
    assert bob.call(wire.Rename, new_name="ann").name == "ann"
    assert world.state.resolve("ann", world.clock.now) is world.peer("ann")
    assert set(world.state.forwards) == {"bob"}


def test_a_rename_the_disk_refuses_changes_nothing():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.frame(1, wire.Rename(req_id=7, op_id=mid(1), new_name="zoe"))
    assert script.failed() == [Reply(1, failed(7, "mailbox_error", "the disk is full"))]
    assert set(script.state.names) == {"ann", "bob"}
    assert script.state.reserved == set()


def test_an_observer_has_no_name_to_change():
    script = Script(KNOWN)
    script.opened(1, role="observer")
    [answer] = script.frame(1, wire.Rename(req_id=7, op_id=mid(1), new_name="zoe"))
    assert answer.frame.code == "not_registered"


# --- addresses made beforehand -----------------------------------------------------------------------


def test_an_address_can_be_made_by_an_observer():
    script = Script()
    script.opened(1, role="observer")
    add = AddPeer(peer_id=made(1), name="ann", auto=False, at=WALL)
    answer = wire.Renamed(req_id=7, name="ann")
    assert script.frame(1, wire.AddPeer(req_id=7, op_id=mid(1), name="ann")) == [
        Store((add,), AddressAdded(1, add, answer))
    ]
    assert script.stored(Numbered(1)) == [Reply(1, answer)]
    assert script.peer("ann").no == 1


def test_an_address_made_by_a_peer_is_made_once_however_often_it_is_asked_for():
    world = World()
    ann = world.open("ann")
    op_id = mid(900)
    first = ann.call(wire.AddPeer, op_id=op_id, name="bob")
    again = ann.call(wire.AddPeer, op_id=op_id, name="bob", resend=True)
    assert (first.name, again.name) == ("bob", "bob")
    assert ann.call(wire.AddPeer, name="bob").code == "name_taken"


def test_an_address_asked_for_again_by_an_observer_is_there():
    script = Script(KNOWN)
    script.opened(1, role="observer")
    again = wire.AddPeer(req_id=7, op_id=mid(1), resend=True, name="Bob")
    assert script.frame(1, again) == [Reply(1, wire.Renamed(req_id=7, name="Bob"))]


def test_the_answer_to_a_new_address_says_what_is_unread():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    bob.send("ann", "hi")
    assert ann.call(wire.AddPeer, name="cat").unread == 1


def test_mail_waits_at_an_address_nobody_has_registered_yet():
    world = World()
    bob = world.open("bob")
    bob.call(wire.AddPeer, name="ann")
    assert bob.send("ann", "welcome").status == "queued"
    assert world.open("ann", pinned=True).texts() == ["welcome"]


def test_a_taken_name_is_no_new_address():
    script = Script(KNOWN)
    script.opened(1, role="observer")
    [answer] = script.frame(1, wire.AddPeer(req_id=7, op_id=mid(1), name="Ann"))
    assert answer.frame.code == "name_taken"


def test_a_full_hub_makes_no_new_address_and_counts_those_on_their_way():
    script = Script(KNOWN, peers=3)
    script.opened(1, role="observer")
    script.frame(1, wire.AddPeer(req_id=7, op_id=mid(1), name="cat"))
    full = "this hub has its 3 peers: raise limits.peers, or take one that exists"
    again = wire.AddPeer(req_id=8, op_id=mid(2), name="dan")
    assert script.frame(1, again) == [Reply(1, failed(8, "limit_reached", full))]
    assert script.failed() == [Reply(1, failed(7, "mailbox_error", "the disk is full"))]
    assert len(script.frame(1, again)) == 1
    assert script.state.reserved == {"dan"}


def test_an_address_asked_for_by_who_left_is_made_all_the_same():
    script = Script()
    script.opened(1, role="observer")
    script.frame(1, wire.AddPeer(req_id=7, op_id=mid(1), name="ann"))
    script.closed(1)
    assert script.stored(Numbered(1)) == []
    assert script.peer("ann").no == 1


# --- the list ----------------------------------------------------------------------------------------


def test_the_list_has_everybody_else_online_first_then_those_seen_in_a_week_latest_first():
    peers = (
        peer_row(1, "ann"),
        peer_row(2, "bob", last_seen=WALL - 1),
        peer_row(3, "cat", last_seen=WALL - 2, client="codex", cwd="/c", git_branch="dev"),
        peer_row(4, "dan", last_seen=WALL - 8 * DAY_MS),
        peer_row(5, "eve", last_seen=WALL - 9 * DAY_MS),
    )
    script = Script(Snapshot(peers=peers))
    script.online(1, "ann")
    script.online(2, "dan", push=True, cwd="/d", client="claude")
    assert script.frame(1, wire.Peers(req_id=7)) == [
        Reply(
            1,
            wire.PeerList(
                req_id=7,
                me="ann",
                hub_id="here",
                peers=(
                    wire.Peer(name="dan", online=True, cwd="/d", client="claude", last_seen=WALL, push=True),
                    wire.Peer(name="bob", last_seen=WALL - 1),
                    wire.Peer(name="cat", cwd="/c", git_branch="dev", client="codex", last_seen=WALL - 2),
                ),
            ),
        )
    ]


@pytest.mark.parametrize("match", ["CAT", "/src/api", "Feature"])
def test_a_match_looks_into_name_directory_and_branch_and_finds_those_long_gone(match):
    long_ago = WALL - 100 * DAY_MS
    peers = (
        peer_row(1, "ann"),
        peer_row(3, "cat", last_seen=long_ago, cwd="/SRC/API/c", git_branch="feature/x"),
    )
    script = Script(Snapshot(peers=peers))
    script.opened(1, role="observer")
    [answer] = script.frame(1, wire.Peers(req_id=7, match=match))
    assert (answer.frame.me, [peer.name for peer in answer.frame.peers]) == ("", ["cat"])


def test_who_has_been_online_for_weeks_is_listed():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.online(2, "bob")
    script.clock.forward(8 * DAY_S)
    [answer] = script.frame(1, wire.Peers(req_id=7))
    assert [(peer.name, peer.last_seen) for peer in answer.frame.peers] == [("bob", script.clock.wall)]


def test_a_long_list_is_cut_and_says_how_much_is_missing():
    script = Script(Snapshot(peers=tuple(peer_row(no, f"p{no}") for no in range(1, 6))))
    script.opened(1, role="observer")
    [answer] = script.frame(1, wire.Peers(req_id=7, limit=2))
    assert ([peer.name for peer in answer.frame.peers], answer.frame.more) == (["p1", "p2"], 3)


# --- looking an address up ---------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["ann", "ANN", "ann@here", "Ann@HERE"])
def test_a_name_is_found_without_regard_to_case_and_with_its_own_hub(address):
    script = Script(KNOWN)
    assert script.state.resolve(address, script.clock.now).no == 1


@pytest.mark.guarantee("unknown-target-error")
def test_an_unknown_name_is_an_error_that_names_close_ones():
    script = Script(KNOWN)
    with pytest.raises(RelayError, match="no peer is called 'anne'; did you mean ann"):
        script.state.resolve("anne", script.clock.now)


@pytest.mark.guarantee("unknown-target-error")
def test_an_unknown_name_like_no_other_says_where_to_look():
    script = Script(KNOWN)
    with pytest.raises(RelayError, match="relay_peers lists who can be reached") as caught:
        script.state.resolve("xyz@here", script.clock.now)
    assert caught.value.code == "peer_not_found"


@pytest.mark.guarantee("unknown-target-error")
def test_an_unknown_hub_is_an_error():
    script = Script(KNOWN)
    with pytest.raises(RelayError, match="no link to a hub called 'there'") as caught:
        script.state.resolve("ann@there", script.clock.now)
    assert caught.value.code == "hub_not_found"


# --- forgetting --------------------------------------------------------------------------------------

OLD = WALL - 15 * DAY_MS


def script_with_unused(**limits) -> Script:
    """Peer 2 is automatic and unused; so would the others be, but for one thing each."""
    peers = (
        peer_row(1, "ann"),
        peer_row(2, "unused", auto=True, last_seen=OLD),
        peer_row(3, "named", last_seen=OLD),
        peer_row(4, "member", auto=True, last_seen=OLD),
        peer_row(5, "seen", auto=True, last_seen=OLD + 2 * DAY_MS),
        peer_row(6, "online", auto=True, last_seen=OLD),
        peer_row(7, "attached", auto=True, last_seen=OLD),
    )
    snapshot = Snapshot(
        peers=peers,
        groups=(group_row(1, "red", 1, 4),),
        forwards=(("was-unused", 2, WALL + DAY_MS), ("was-ann", 1, WALL + DAY_MS)),
        identities=(("claude", "i2", 2), ("claude", "i1", 1)),
        places=(("claude", "/shared", 1), ("claude", "/shared", 2), ("claude", "/own", 2)),
    )
    script = Script(snapshot, ping_s=10_000, **limits)
    script.online(1, "ann")
    script.online(6, "online")
    script.online(7, "attached", role="attach")
    script.units.clear()
    script.peer("online").last_seen = script.peer("attached").last_seen = OLD
    script.tick()
    return script


def test_automatic_peers_unseen_for_a_fortnight_are_offered_to_the_store():
    script = script_with_unused()
    assert script.tick(60) == [
        Store((Housekeep(now=script.clock.wall),), HouseKept()),
        Store((DropPeers(nos=(2,)),), PeersDropped((2,))),
    ]


def test_a_peer_that_a_person_is_just_removing_is_not_offered_as_well():
    script = script_with_unused()
    script.frame(1, wire.ForgetPeer(req_id=7, name="unused"))
    assert script.tick(60) == [Store((Housekeep(now=script.clock.wall),), HouseKept())]


def test_a_peer_that_is_dropped_is_gone_with_all_that_led_to_it():
    script = script_with_unused()
    script.tick(60)
    script.stored(HousekeepingDone(0, False))
    assert script.stored(Dropped((2,))) == []
    state = script.state
    assert 2 not in state.peers
    assert "unused" not in state.names
    assert "id-unused" not in state.by_peer_id
    assert set(state.forwards) == {"was-ann"}
    assert set(state.identities) == {("claude", "i1")}
    assert {place: [p.no for p in found] for place, found in state.places.items()} == {
        ("claude", "/shared"): [1]
    }
    assert state.reserved == set()


@pytest.mark.parametrize("kept", [True, False], ids=["the store keeps it", "the disk refuses"])
def test_a_peer_that_is_not_dropped_is_as_it_was(kept):
    script = script_with_unused()
    script.tick(60)
    script.stored(HousekeepingDone(0, False))
    assert (script.stored(Dropped(())) if kept else script.failed()) == []
    peer = script.peer("unused")
    assert script.state.by_peer_id["id-unused"] is peer
    assert not peer.going
    assert script.state.reserved == set()
    assert script.state.resolve("was-unused", script.clock.now) is peer


def test_nobody_reaches_or_becomes_a_peer_that_is_about_to_go():
    script = script_with_unused()
    script.tick(60)
    for name in ("unused", "was-unused"):
        [answer] = script.frame(1, wire.Send(req_id=1, op_id=mid(1), to=name, text="hi"))
        assert answer.frame.code == "peer_not_found"
    # Whoever would be it waits for what the store says.
    assert script.opened(9, name="x", client="claude", identity="i2") == []
    assert script.opened(10, name="unused", pinned=True) == []
    assert script.opened(11, name="unused", role="attach") == []
    # Who only would take it up in its directory gets another name.
    wall = script.clock.wall
    add = AddPeer(peer_id=made(1, wall), name="unused-2", auto=True, at=wall)
    assert script.opened(12, name="unused", client="claude", cwd="/own")[0].ops == (add,)
    script.stored(HousekeepingDone(0, False))
    script.stored(Dropped(()))
    actions = script.tick(0.05)
    assert [action.then for action in actions if isinstance(action, Store)] == [
        SessionBound(9),
        SessionBound(11),
    ]
    assert actions[2] == CloseSession(10, "refused name_taken")
    assert script.peer("unused").session is script.session(9)


def test_those_the_store_keeps_do_not_stand_before_the_others_for_ever():
    peers = tuple(peer_row(no, f"p{no}", auto=True, last_seen=OLD) for no in range(1, 1_003))
    script = Script(Snapshot(peers=peers))
    script.tick()

    def offered() -> tuple[int, ...]:
        op = script.units[-1].ops[0]
        assert isinstance(op, DropPeers)
        script.stored(HousekeepingDone(0, False))
        script.stored(Dropped(()))
        return op.nos

    script.tick(60)
    assert offered() == (*range(1, 501),)
    script.tick(600)
    assert offered() == (*range(501, 1_001),)
    script.tick(600)
    assert offered() == (1_001, 1_002, *range(1, 499))


def test_a_peer_that_is_renamed_this_moment_is_in_use():
    script = script_with_unused()
    script.online(8, "unused", role="attach")
    script.peer("unused").last_seen = OLD
    script.frame(8, wire.Rename(req_id=1, op_id=mid(1), new_name="used"))
    script.closed(8)
    assert [action.then for action in script.tick(60)] == [HouseKept()]


def test_a_forgotten_address_is_unknown_and_free():
    world = World()
    ann = world.open("ann", pinned=True)
    world.open("work").close()
    assert ann.send("work", "hi").status == "queued"
    world.tick(15 * DAY_S)
    assert "work" in world.state.names, "it has mail"
    work = world.open("work", pinned=True)
    assert work.texts() == ["hi"]
    work.close()
    world.store.mailboxes.drop(2)
    world.tick(15 * DAY_S)
    assert "work" not in world.state.names
    again = world.open("ann", pinned=True)
    assert again.send("work", "hi").code == "peer_not_found"


def test_housekeeping_ends_the_forwarding_of_names_whose_time_is_over():
    forwards = (("a", 1, WALL + 1), ("b", 1, WALL + 60_000), ("c", 1, WALL + 60_001))
    script = Script(Snapshot(peers=KNOWN.peers, forwards=forwards))
    script.tick()
    script.tick(60)
    script.stored(HousekeepingDone(1, False))
    assert set(script.state.forwards) == {"c"}


def test_the_binding_of_a_peer_remembers_where_it_was_seen_in_the_order_of_peers():
    script = Script(KNOWN)
    script.online(1, "bob", client="claude", cwd="/src/api")
    assert script.opened(2, peer_id="id-ann", client="claude", cwd="/src/api")[0].ops == bind_ops(
        1, client="claude", cwd="/src/api"
    )
    assert [peer.no for peer in script.state.places["claude", "/src/api"]] == [1, 2]


def test_the_name_in_mail_is_the_one_the_sender_had_then():
    script = Script(KNOWN)
    script.online(1, "ann")
    script.frame(1, wire.Rename(req_id=1, op_id=mid(1), new_name="zoe"))
    [store] = script.frame(1, wire.Send(req_id=2, op_id=mid(2), to="bob", text="hi"))
    assert isinstance(store.ops[0], AppendMail)
    assert store.ops[0].sender == "ann"
    unit = script.units.popleft()
    script.handle(Stored(unit.then, (None, None)))
    [store] = script.frame(1, wire.Send(req_id=3, op_id=mid(3), to="bob", text="hi"))
    assert store.ops[0].sender == "zoe"
