"""Who a connection becomes when it says hello."""

import pytest

from ecorelay import wire
from ecorelay.core.actions import CloseSession, Reply, Store
from ecorelay.core.ops import (
    AddPeer,
    Backlog,
    LoadBacklog,
    MailboxState,
    NotePeer,
    Numbered,
    OpenMailbox,
    Snapshot,
)
from ecorelay.core.sessions import PeerAdded, SessionBound
from ecorelay.errors import Code
from tests.core.helpers import (
    DAY_MS,
    HUB_ID,
    MONO,
    VERSION,
    WALL,
    Script,
    World,
    bind_ops,
    left,
    made,
    peer_row,
    welcome,
)

EMPTY = MailboxState(0, 0, ())
KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "Bob")))


def refused(sid: int, code: Code, message: str) -> list:
    return [
        Reply(sid, wire.Refused(code=code, message=message)),
        CloseSession(sid, f"refused {code}"),
    ]


# --- a new peer --------------------------------------------------------------------------------------


def test_a_new_name_is_added_then_bound_then_welcomed():
    script = Script()
    add = AddPeer(peer_id=made(1), name="ann", auto=True, at=WALL)
    assert script.opened(
        1, name="ann", client="claude", cwd="/src/api", git_branch="main", identity="i1"
    ) == [Store((add,), PeerAdded(1, add))]
    assert script.stored(Numbered(1)) == [
        Store(bind_ops(1, identity="i1", client="claude", cwd="/src/api", branch="main"), SessionBound(1))
    ]
    assert not script.peer("ann").online
    assert script.stored(None, None, EMPTY) == [Reply(1, welcome("ann", peer_id=made(1)))]
    assert script.peer("ann").online


def test_a_pinned_name_makes_a_peer_that_is_not_automatic():
    script = Script()
    add = AddPeer(peer_id=made(1), name="boss", auto=False, at=WALL)
    assert script.opened(1, name="boss", pinned=True) == [Store((add,), PeerAdded(1, add))]


@pytest.mark.parametrize(
    ("client", "name"), [("Claude Code", "Claude-Code"), ("", "peer")], ids=["client", "nothing"]
)
def test_who_wants_no_name_gets_one_made_from_what_is_known_of_it(client, name):
    script = Script()
    add = AddPeer(peer_id=made(1), name=name, auto=True, at=WALL)
    assert script.opened(1, client=client) == [Store((add,), PeerAdded(1, add))]


def test_a_taken_name_gets_a_suffix_and_the_session_is_told():
    script = Script(KNOWN)
    add = AddPeer(peer_id=made(1), name="bob-2", auto=True, at=WALL)
    assert script.opened(1, name="bob") == [Store((add,), PeerAdded(1, add))]
    script.stored(Numbered(3))
    assert script.stored(None, None, EMPTY) == [
        Reply(1, welcome("bob-2", peer_id=made(1), wanted_taken=True))
    ]


def test_a_name_that_is_being_registered_gets_a_suffix_too():
    script = Script()
    script.opened(1, name="ann")
    add = AddPeer(peer_id=made(2), name="Ann-2", auto=True, at=WALL)
    assert script.opened(2, name="Ann") == [Store((add,), PeerAdded(2, add))]


def test_two_sessions_of_one_pinned_name_in_the_same_moment_both_get_in_when_a_suffix_will_do():
    script = Script()
    script.opened(1, name="boss", pinned=True, fallback=True)
    assert script.opened(2, name="boss", pinned=True, fallback=True) == []
    assert script.hub.next_deadline() == MONO + 0.05
    assert script.tick(0.05) == []  # not decided yet
    script.stored(Numbered(1))
    script.stored(None, None, EMPTY)
    wall = script.clock.wall + 50
    add = AddPeer(peer_id=made(2, wall), name="boss-2", auto=True, at=wall)
    assert script.tick(0.05) == [Store((add,), PeerAdded(2, add))]
    script.stored(Numbered(2))
    assert script.stored(None, None, EMPTY) == [
        Reply(2, welcome("boss-2", peer_id=made(2, wall), wanted_taken=True))
    ]


@pytest.mark.guarantee("name-first-wins")
def test_without_a_suffix_the_second_of_one_pinned_name_is_refused_once_the_first_has_it():
    script = Script()
    script.opened(1, name="boss", pinned=True)
    assert script.opened(2, name="boss", pinned=True) == []
    script.stored(Numbered(1))
    message = (
        "boss is held by a living session in an unknown directory: "
        "choose another name, or end that session first"
    )
    assert script.tick(0.05) == refused(2, "name_taken", message)


def test_who_waits_for_a_name_that_could_not_be_registered_gets_it():
    script = Script()
    script.opened(1, name="boss", pinned=True)
    script.opened(2, name="boss", pinned=True)
    script.failed()
    [store] = script.tick(0.05)
    assert isinstance(store.then, PeerAdded)
    assert store.then.sid == 2


def test_who_leaves_while_a_name_is_being_registered_is_not_thought_of_again():
    script = Script()
    script.opened(1, name="boss", pinned=True)
    script.opened(2, name="boss", pinned=True)
    script.closed(2)
    assert script.tick(0.05) == []


def test_a_process_that_connects_again_while_its_name_is_being_registered_gets_it():
    world = World()
    with world.hold():
        world.open("boss", pinned=True, instance=made(1)).close()
        again = world.open("boss", pinned=True, instance=made(1))
    world.tick(0.05)
    assert again.name == "boss"


def test_two_commands_that_make_the_same_address_in_one_moment_both_act_for_it():
    world = World()
    with world.hold():
        clients = [world.open("me", role="attach", create=True) for _ in range(3)]
    world.tick(0.05)
    assert [client.name for client in clients] == ["me", "me", "me"]


def test_automatic_naming_avoids_the_old_name_of_a_renamed_peer():
    forwards = (("old", 1, WALL + DAY_MS),)
    script = Script(Snapshot(peers=(peer_row(1, "new"),), forwards=forwards))
    add = AddPeer(peer_id=made(1), name="old-2", auto=True, at=WALL)
    assert script.opened(1, name="old") == [Store((add,), PeerAdded(1, add))]


def test_an_old_name_is_free_for_anybody_once_it_no_longer_forwards():
    forwards = (("old", 1, WALL),)
    script = Script(Snapshot(peers=(peer_row(1, "new"),), forwards=forwards))
    add = AddPeer(peer_id=made(1), name="old", auto=True, at=WALL)
    assert script.opened(1, name="old") == [Store((add,), PeerAdded(1, add))]


def test_pinning_the_old_name_of_a_renamed_peer_is_an_explicit_claim_to_it():
    forwards = (("old", 1, WALL + DAY_MS),)
    script = Script(Snapshot(peers=(peer_row(1, "new"),), forwards=forwards))
    add = AddPeer(peer_id=made(1), name="old", auto=False, at=WALL)
    assert script.opened(1, name="old", pinned=True) == [Store((add,), PeerAdded(1, add))]
    script.stored(Numbered(2))
    assert script.state.resolve("old", script.clock.now).no == 2


def test_a_full_hub_refuses_new_peers_and_counts_those_on_their_way():
    script = Script(Snapshot(peers=(peer_row(1, "ann"),)), peers=2)
    script.opened(1, name="bob")
    full = "this hub has its 2 peers: raise limits.peers, or take one that exists"
    assert script.opened(2, name="cat") == refused(2, "limit_reached", full)
    script.failed()
    assert len(script.opened(3, name="cat")) == 1
    script.stored(Numbered(2))
    assert script.opened(4, name="dan") == refused(4, "limit_reached", full)


# --- a known peer ------------------------------------------------------------------------------------


@pytest.mark.guarantee("identity-kept")
def test_a_returning_connection_gets_its_peer_whatever_its_name_is_now():
    script = Script(KNOWN)
    assert script.opened(1, name="ann", pinned=True, peer_id="id-Bob") == [
        Store(bind_ops(2), SessionBound(1))
    ]


def test_a_peer_id_that_is_no_longer_known_is_passed_over():
    script = Script(KNOWN)
    assert script.opened(1, name="ann", pinned=True, peer_id="id-gone") == [
        Store(bind_ops(1), SessionBound(1))
    ]


def test_a_pinned_name_is_the_peer_itself_without_regard_to_case():
    script = Script(KNOWN)
    assert script.opened(1, name="BOB", pinned=True) == [Store(bind_ops(2), SessionBound(1))]


def test_a_pinned_name_comes_before_what_is_remembered_of_the_session():
    snapshot = Snapshot(
        peers=KNOWN.peers, identities=(("claude", "i1", 1),), places=(("claude", "/src/api", 1),)
    )
    script = Script(snapshot)
    unit = bind_ops(2, identity="i1", client="claude", cwd="/src/api")
    assert script.opened(1, name="bob", pinned=True, client="claude", identity="i1", cwd="/src/api") == [
        Store(unit, SessionBound(1))
    ]


@pytest.mark.guarantee("identity-kept")
def test_a_resumed_assistant_session_gets_its_peer_wherever_it_runs():
    script = Script(Snapshot(peers=KNOWN.peers, identities=(("claude", "i1", 2),)))
    unit = bind_ops(2, identity="i1", client="claude", cwd="/elsewhere")
    assert script.opened(1, name="elsewhere", client="claude", identity="i1", cwd="/elsewhere") == [
        Store(unit, SessionBound(1))
    ]


def test_the_same_identity_of_another_assistant_is_somebody_else():
    script = Script(Snapshot(peers=KNOWN.peers, identities=(("claude", "i1", 2),)))
    add = AddPeer(peer_id=made(1), name="x", auto=True, at=WALL)
    assert script.opened(1, name="x", client="codex", identity="i1") == [Store((add,), PeerAdded(1, add))]


def test_an_absent_peer_of_the_same_directory_and_assistant_is_taken_up_again():
    script = Script(Snapshot(peers=KNOWN.peers, places=(("claude", "/src/api", 1),)))
    unit = bind_ops(1, client="claude", cwd="/src/api")
    assert script.opened(1, name="work", client="claude", cwd="/src/api") == [Store(unit, SessionBound(1))]


def test_a_held_peer_of_the_directory_is_passed_over_for_the_next_absent_one():
    places = (("claude", "/src/api", 1), ("claude", "/src/api", 2))
    script = Script(Snapshot(peers=KNOWN.peers, places=places))
    script.online(1, "ann")
    unit = bind_ops(2, client="claude", cwd="/src/api")
    assert script.opened(2, name="work", client="claude", cwd="/src/api") == [Store(unit, SessionBound(2))]


def test_a_second_session_in_a_directory_becomes_another_peer_and_both_are_remembered():
    script = Script()
    script.opened(1, name="work", client="claude", cwd="/src/api")
    script.stored(Numbered(1))
    script.stored(None, None, EMPTY)
    script.opened(2, name="work", client="claude", cwd="/src/api")
    script.stored(Numbered(2))
    assert script.stored(None, None, EMPTY) == [
        Reply(2, welcome("work-2", peer_id=made(2), wanted_taken=True))
    ]
    assert [peer.name for peer in script.state.places["claude", "/src/api"]] == ["work", "work-2"]


def test_a_chosen_name_of_the_directory_is_not_given_to_who_lost_the_claim_for_another():
    peers = (peer_row(1, "boss"), peer_row(2, "chosen"), peer_row(3, "boss-2", auto=True))
    places = tuple(("claude", "/src/api", no) for no in (1, 2, 3))
    script = Script(Snapshot(peers=peers, places=places))
    script.online(1, "boss")
    unit = bind_ops(3, client="claude", cwd="/src/api")
    asked = script.opened(2, name="boss", pinned=True, fallback=True, client="claude", cwd="/src/api")
    assert asked == [Store(unit, SessionBound(2))]
    assert script.stored(None, None, EMPTY) == [Reply(2, welcome("boss-2", wanted_taken=True))]


# --- the other roles ---------------------------------------------------------------------------------


def test_an_observer_is_welcome_at_once_and_is_nobody():
    script = Script(KNOWN)
    assert script.opened(1, role="observer", name="ann") == [
        Reply(1, wire.Welcome(version=1, hub_id=HUB_ID, app_version=VERSION))
    ]
    answer = wire.Failed(
        req_id=7,
        code="not_registered",
        message="this connection acts for no peer: say hello with a name (ecorelay … --as NAME) first",
    )
    assert script.frame(1, wire.Inbox(req_id=7)) == [Reply(1, answer)]


def test_who_attaches_acts_for_the_peer_beside_its_session():
    script = Script(KNOWN)
    script.online(1, "ann")
    assert script.opened(2, role="attach", name="ANN") == [Store((OpenMailbox(no=1),), SessionBound(2))]
    assert script.stored(EMPTY) == [Reply(2, welcome("ann"))]
    assert script.peer("ann").session is script.session(1)


def test_attaching_gives_no_presence():
    script = Script(KNOWN)
    script.online(1, "ann", role="attach")
    assert not script.peer("ann").online


def test_attaching_counts_as_having_been_seen_once_an_hour():
    script = Script(Snapshot(peers=(peer_row(1, "ann", last_seen=WALL - 3_600_001),)))
    unit = (NotePeer(no=1, last_seen=WALL), OpenMailbox(no=1))
    assert script.opened(1, role="attach", name="ann") == [Store(unit, SessionBound(1))]
    assert script.stored(None, EMPTY) == [Reply(1, welcome("ann"))]
    assert script.opened(2, role="attach", name="ann") == [Store((OpenMailbox(no=1),), SessionBound(2))]


def test_attaching_by_peer_id_or_by_the_old_name_finds_the_peer():
    forwards = (("old", 2, WALL + DAY_MS),)
    script = Script(Snapshot(peers=KNOWN.peers, forwards=forwards))
    bound = [Store((OpenMailbox(no=2),), SessionBound(1))]
    assert script.opened(1, role="attach", peer_id="id-Bob") == bound
    assert script.opened(2, role="attach", name="old") == [Store((OpenMailbox(no=2),), SessionBound(2))]


def test_attaching_makes_the_peer_only_when_asked_to():
    script = Script()
    nobody = "no peer is called ann: `ecorelay peers` lists them"
    assert script.opened(1, role="attach", name="ann") == refused(1, "not_registered", nobody)
    add = AddPeer(peer_id=made(1), name="ann", auto=False, at=WALL)
    assert script.opened(2, role="attach", name="ann", create=True) == [Store((add,), PeerAdded(2, add))]
    assert script.stored(Numbered(1)) == [Store((OpenMailbox(no=1),), SessionBound(2))]


def test_attaching_without_any_name_is_refused():
    nobody = "no peer is called (no name given): `ecorelay peers` lists them"
    assert Script().opened(1, role="attach", create=True) == refused(1, "not_registered", nobody)


# --- the welcome -------------------------------------------------------------------------------------


def test_the_welcome_says_what_is_unread_and_the_backlog_is_loaded():
    script = Script(KNOWN)
    script.opened(1, peer_id="id-ann", push=True)
    load = LoadBacklog(no=1, after=0, max_count=500, max_bytes=1024 * 1024)
    actions = script.stored(None, None, MailboxState(3, 2, ((7, 4),)))
    assert actions[0] == Reply(1, welcome("ann", unread=9))
    assert [action.ops for action in actions[1:] if isinstance(action, Store)] == [(load,)]


def test_a_session_without_a_carrier_is_not_pushed_to():
    script = Script(KNOWN)
    script.opened(1, peer_id="id-ann")
    assert script.stored(None, None, MailboxState(3, 0, ())) == [Reply(1, welcome("ann", unread=3))]


def test_a_carrier_of_an_attached_connection_is_not_used():
    script = Script(KNOWN)
    script.opened(1, role="attach", peer_id="id-ann", push=True)
    assert script.stored(MailboxState(3, 0, ())) == [Reply(1, welcome("ann", unread=3))]


def test_the_lower_of_the_newest_versions_is_spoken():
    script = Script()
    [answer] = script.opened(1, role="observer", versions=(1, 9))
    assert answer == Reply(1, wire.Welcome(version=1, hub_id=HUB_ID, app_version=VERSION))


def test_a_second_hello_is_an_error_of_the_caller():
    script = Script(KNOWN)
    script.online(1, "ann")
    second = wire.Hello(versions=(1, 1), name="bob")
    answer = wire.Failed(
        req_id=0, code="already_registered", message="this connection said hello before: open another one"
    )
    assert script.frame(1, second) == [Reply(1, answer)]


@pytest.mark.parametrize(
    "frame",
    [
        wire.Inbox(req_id=7),
        wire.Send(req_id=7, op_id=made(9), to="bob", text="hi"),
        wire.Join(req_id=7, room="hall"),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_what_is_asked_before_the_welcome_is_answered_not_registered(frame):
    script = Script(KNOWN)
    script.opened(1, name="ann", pinned=True)
    [answer] = script.frame(1, frame)
    assert isinstance(answer, Reply)
    assert isinstance(answer.frame, wire.Failed)
    assert (answer.frame.req_id, answer.frame.code) == (7, "not_registered")


def test_acknowledging_before_the_welcome_is_passed_over():
    script = Script(KNOWN)
    script.opened(1, name="new")
    for frame in (
        wire.Pushed(msg_ids=(made(1),)),
        wire.PushFailed(msg_ids=(made(1),)),
        wire.Cancel(req_id=1),
    ):
        assert script.frame(1, frame) == []
    assert script.state.pushed_rows == {}


def test_frames_of_a_connection_that_never_said_hello_or_is_gone_are_nobodys():
    script = Script(KNOWN)
    assert script.frame(5, wire.Inbox(req_id=1)) == []
    assert script.closed(5) == []


# --- when the disk refuses, or the session goes ------------------------------------------------------


def test_a_peer_that_cannot_be_added_is_refused_and_the_name_is_free_again():
    script = Script()
    script.opened(1, name="ann", pinned=True)
    assert script.failed() == refused(1, "mailbox_error", "the disk is full")
    add = AddPeer(peer_id=made(2), name="ann", auto=False, at=WALL)
    assert script.opened(2, name="ann", pinned=True) == [Store((add,), PeerAdded(2, add))]


def test_a_session_that_left_before_its_peer_could_be_added_leaves_the_name_free():
    script = Script()
    script.opened(1, name="ann")
    assert script.closed(1) == []
    assert script.failed() == []
    assert script.state.reserved == set()
    assert script.state.adding == 0


def test_a_session_that_cannot_be_bound_is_refused_and_its_peer_is_free_at_once():
    script = Script(KNOWN)
    script.opened(1, name="ann", pinned=True)
    assert script.failed() == [left(1), *refused(1, "mailbox_error", "the disk is full")]
    # The connection is still being closed; the next one need not wait for that.
    assert script.opened(2, name="ann", pinned=True) == [Store(bind_ops(1), SessionBound(2))]
    assert script.closed(1) == []


def test_a_session_that_left_before_its_binding_failed_hears_nothing():
    script = Script(KNOWN)
    script.opened(1, name="ann", pinned=True)
    assert script.closed(1) == [left(1)]
    assert script.failed() == []


def test_a_session_that_left_before_its_peer_was_added_leaves_the_peer_behind():
    script = Script()
    script.opened(1, name="ann")
    script.closed(1)
    assert script.stored(Numbered(1)) == []
    assert script.peer("ann").session is None


def test_a_session_that_left_before_the_welcome_is_not_welcomed():
    script = Script(KNOWN)
    script.opened(1, name="ann", pinned=True, push=True)
    assert script.closed(1) == [left(1)]
    assert script.stored(None, None, EMPTY) == []
    assert not script.peer("ann").loaded


def test_a_session_that_left_while_its_backlog_was_loaded_is_not_pushed_to():
    script = Script(KNOWN)
    script.opened(1, peer_id="id-ann", push=True)
    script.stored(None, None, EMPTY)
    script.closed(1)
    assert script.stored(Backlog((), False, 0)) == []
