"""Who gets a peer that a session holds already: its dead holder's successor, or its own identity."""

from typing import Any

import pytest

from ecorelay import wire
from ecorelay.core.actions import CheckProcess, CloseSession, Reply, Store
from ecorelay.core.events import ProcessChecked
from ecorelay.core.ops import AddPeer, EndLease, MailboxState, Numbered, PageRead, Snapshot
from ecorelay.core.sessions import Claim, PeerAdded, SessionBound
from tests.core.helpers import (
    MONO,
    WALL,
    Client,
    Script,
    World,
    bind_ops,
    left,
    made,
    mid,
    peer_row,
    welcome,
)

EMPTY = MailboxState(0, 0, ())
ME: dict[str, Any] = {"client": "claude", "identity": "i1"}


def script_with_ann(*, pid: int = 0, **fields) -> Script:
    """Session 1 is ann; later ones claim her."""
    script = Script(Snapshot(peers=(peer_row(1, "ann"),)))
    script.online(1, "ann", pid=pid, **fields)
    return script


def claim(script: Script, sid: int = 2, **fields) -> list:
    return script.opened(sid, **{"name": "ann", "pinned": True, **fields})


def taken_over(why: str, *, wall: int = WALL, **bound) -> list:
    """Session 1 is told, closed and left; then session 2 is bound."""
    bye = wire.Bye(reason=f"another session took over ann: {why}", code="name_taken")
    return [
        Reply(1, bye),
        CloseSession(1, "taken over"),
        left(1, wall),
        Store(bind_ops(1, **bound), SessionBound(2)),
    ]


def name_taken(sid: int, where: str = "an unknown directory") -> list:
    message = f"ann is held by a living session in {where}: choose another name, or end that session first"
    return [
        Reply(sid, wire.Refused(code="name_taken", message=message)),
        CloseSession(sid, "refused name_taken"),
    ]


# --- at once -----------------------------------------------------------------------------------------


@pytest.mark.guarantee("zombie-take-over")
def test_the_same_process_connecting_again_replaces_its_old_connection():
    script = script_with_ann(instance=mid(1), pid=7)
    assert claim(script, instance=mid(1), pid=7) == taken_over("the same process connected again")
    assert script.stored(None) == []
    assert script.stored(None, None, EMPTY) == [Reply(2, welcome("ann"))]
    assert script.hub.counters == {"sessions_taken_over": 1}


def test_two_processes_that_name_no_instance_are_not_the_same():
    script = script_with_ann()
    assert claim(script) == name_taken(2)


@pytest.mark.guarantee("zombie-take-over")
def test_a_holder_whose_process_is_gone_gives_the_name_up_and_is_told_why():
    script = script_with_ann(pid=7)
    [check] = claim(script)
    assert check == CheckProcess(7, 0, Claim(2, 1, 1))
    assert script.checked(check, alive=False) == taken_over("its process is gone")


def test_the_start_of_the_process_counts_only_if_the_kernel_confirmed_its_pid():
    script = script_with_ann(pid=7)
    script.session(1).hello = wire.Hello(versions=(1, 1), pid=7, pid_start=99)
    assert claim(script) == [CheckProcess(7, 99, Claim(2, 1, 1))]
    script.session(1).hello = wire.Hello(versions=(1, 1), pid=8, pid_start=99)
    assert claim(script, 3) == [CheckProcess(7, 0, Claim(3, 1, 1))]


@pytest.mark.guarantee("identity-kept")
def test_who_was_killed_and_comes_back_to_its_directory_before_that_is_heard_is_who_it_was():
    where: dict[str, Any] = {"client": "claude", "cwd": "/src/api"}
    places = (("claude", "/src/api", 1), ("claude", "/src/api", 3))
    script = Script(Snapshot(peers=(peer_row(1, "ann"), peer_row(3, "work")), places=places))
    script.online(1, "ann", pid=7, **where)
    [check] = script.opened(2, name="work", **where)
    assert check == CheckProcess(7, 0, Claim(2, 1, 1))
    assert script.checked(check, alive=False) == taken_over("its process is gone", **where)


@pytest.mark.guarantee("same-directory-no-swap")
def test_of_living_sessions_in_its_directory_each_is_looked_at_once_and_none_is_taken():
    where: dict[str, Any] = {"client": "claude", "cwd": "/src/api"}
    places = tuple(("claude", "/src/api", no) for no in (1, 2, 3))
    peers = (peer_row(1, "ann"), peer_row(2, "bob"), peer_row(3, "work"))
    script = Script(Snapshot(peers=peers, places=places))
    script.online(1, "ann", pid=7, **where)
    script.online(2, "bob", pid=8, **where)
    [check] = script.opened(3, name="work", **where)
    assert check == CheckProcess(7, 0, Claim(3, 1, 1))
    [check] = script.checked(check, alive=True)
    assert check == CheckProcess(8, 0, Claim(3, 2, 2, tried=(1,)))
    assert script.checked(check, alive=True) == [Store(bind_ops(3, **where), SessionBound(3))]


# --- a living holder ---------------------------------------------------------------------------------


@pytest.mark.guarantee("name-first-wins")
def test_a_living_session_keeps_its_name_and_the_claimant_is_told_where_it_is():
    script = script_with_ann(pid=7, cwd="/src/api")
    [check] = claim(script)
    assert script.checked(check, alive=True) == name_taken(2, "/src/api")


@pytest.mark.guarantee("name-first-wins")
def test_a_claimant_content_with_a_suffix_gets_one():
    script = script_with_ann()
    add = AddPeer(peer_id=made(1), name="ann-2", auto=True, at=WALL)
    assert claim(script, fallback=True) == [Store((add,), PeerAdded(2, add))]
    script.stored(Numbered(2))
    assert script.stored(None, None, EMPTY) == [
        Reply(2, welcome("ann-2", peer_id=made(1), wanted_taken=True))
    ]


def test_a_claimant_by_what_is_remembered_of_it_gets_another_name_too():
    script = script_with_ann()
    add = AddPeer(peer_id=made(1), name="work", auto=True, at=WALL)
    assert script.opened(2, name="work", peer_id="id-ann") == [Store((add,), PeerAdded(2, add))]


def test_the_loser_is_refused_when_the_hub_is_full():
    script = Script(Snapshot(peers=(peer_row(1, "ann"),)), peers=1)
    script.online(1, "ann")
    full = "this hub has its 1 peers: raise limits.peers, or take one that exists"
    assert claim(script, fallback=True) == [
        Reply(2, wire.Refused(code="limit_reached", message=full)),
        CloseSession(2, "refused limit_reached"),
    ]


# --- the same identity -------------------------------------------------------------------------------


@pytest.mark.guarantee("zombie-take-over")
def test_a_silent_holder_of_the_same_identity_is_replaced_after_three_pings_in_five_seconds():
    script = script_with_ann(**ME)
    assert claim(script, **ME) == []
    assert script.hub.next_deadline() == MONO
    assert script.tick() == [Reply(1, wire.Ping())]
    assert script.tick(5 / 3) == [Reply(1, wire.Ping())]
    assert script.tick(5 / 3) == [Reply(1, wire.Ping())]
    assert script.tick(1.0) == []
    actions = script.tick(1.0)
    expected = taken_over("it did not answer for 5 s", wall=script.clock.wall)
    assert actions == [*expected[:3], Store(actions[3].ops, SessionBound(2))]


@pytest.mark.guarantee("one-lost-ping-is-forgiven")
def test_a_holder_that_misses_one_ping_and_answers_the_next_keeps_its_name():
    script = script_with_ann(**ME)
    claim(script, **ME)
    script.tick()
    assert script.tick(5 / 3) == [Reply(1, wire.Ping())]
    script.clock.forward(0.1)
    assert script.frame(1, wire.Pong()) == []
    assert script.tick(5 / 3) == name_taken(2)
    assert script.peer("ann").session is script.session(1)


def test_any_frame_of_the_holder_is_an_answer():
    script = script_with_ann(**ME)
    claim(script, **ME)
    script.tick()
    script.clock.forward(0.1)
    script.frame(1, wire.Rooms(req_id=1))
    assert script.tick(5 / 3) == name_taken(2)


def test_the_same_identity_of_another_assistant_may_not_ask():
    script = script_with_ann(client="codex", identity="i1")
    assert claim(script, **ME) == name_taken(2)


def test_soon_after_the_machine_slept_a_holder_has_ten_seconds_more():
    script = script_with_ann(**ME)
    claim(script, **ME)
    script.tick()
    script.clock.forward(1.0)
    assert script.jumped() == [Reply(1, wire.Ping()), Reply(2, wire.Ping())]
    assert script.tick(5 / 3 - 1.0) == []
    # From then on it is asked anew, three times.
    assert script.tick(10.0) == [Reply(1, wire.Ping())]
    script.tick(5 / 3)
    script.tick(5 / 3)
    assert CloseSession(1, "taken over") in script.tick(2.0)


# --- somebody leaves meanwhile -----------------------------------------------------------------------


def test_a_holder_that_leaves_while_its_process_is_looked_up_leaves_the_peer_to_the_claimant():
    script = script_with_ann(pid=7)
    [check] = claim(script)
    assert script.closed(1) == [left(1)]
    assert script.checked(check, alive=True) == [Store(bind_ops(1), SessionBound(2))]


def test_who_lost_a_name_and_gets_it_after_all_is_not_told_that_it_is_taken():
    where: dict[str, Any] = {"client": "claude", "cwd": "/src/api"}
    peers = (peer_row(1, "ann"), peer_row(2, "bob", auto=True))
    script = Script(Snapshot(peers=peers, places=(("claude", "/src/api", 2),)))
    script.online(1, "ann", pid=7)
    script.online(2, "bob", pid=8, **where)
    [check] = script.opened(3, name="ann", pinned=True, fallback=True, **where)
    [check] = script.checked(check, alive=True)
    assert check == CheckProcess(8, 0, Claim(3, 2, 2, tried=(1,)))
    script.closed(1)
    script.closed(2)
    script.units.clear()
    script.checked(check, alive=True)
    [*before, _] = script.units[0].ops
    [answer] = script.stored(*[None for _ in before], MailboxState(0, 0, ()))
    assert isinstance(answer, Reply)
    assert isinstance(answer.frame, wire.Welcome)
    assert (answer.frame.name, answer.frame.wanted_taken) == ("ann", False)


def test_a_holder_that_leaves_while_it_is_asked_leaves_the_peer_to_the_claimant():
    script = script_with_ann(**ME)
    claim(script, **ME)
    script.tick()
    script.closed(1)
    [bound] = script.tick(5 / 3)
    assert isinstance(bound, Store)
    assert bound.then == SessionBound(2)


def test_a_claimant_that_leaves_is_not_thought_of_again():
    script = script_with_ann(pid=7, **ME)
    [check] = claim(script, **ME)
    assert script.closed(2) == []
    assert script.checked(check, alive=False) == []
    [check] = claim(script, 3, **ME)
    assert script.checked(check, alive=True) == []
    script.closed(3)
    assert script.tick() == []
    assert script.peer("ann").session is script.session(1)


def test_of_two_claimants_of_a_dead_session_the_second_meets_the_first():
    script = script_with_ann(pid=7)
    [first] = claim(script, 2, pid=8)
    [second] = claim(script, 3, pid=9)
    assert script.checked(first, alive=False) == taken_over("its process is gone")
    [third] = script.checked(second, alive=False)
    assert third == CheckProcess(8, 0, Claim(3, 2, 1))
    assert script.checked(third, alive=True) == name_taken(3)


def test_who_can_be_given_no_peer_after_waiting_for_one_is_refused():
    snapshot = Snapshot(peers=(peer_row(1, "ann"),))
    script = Script(snapshot, peers=1)
    script.online(1, "ann", pid=7)
    [check] = claim(script)
    script.frame(1, wire.Rename(req_id=1, op_id=mid(1), new_name="zoe"))
    script.stored(None, None)
    script.closed(1)
    assert script.checked(check, alive=True) == [
        Reply(
            2,
            wire.Refused(
                code="limit_reached",
                message="this hub has its 1 peers: raise limits.peers, or take one that exists",
            ),
        ),
        CloseSession(2, "refused limit_reached"),
    ]


def test_what_was_looked_up_for_nobody_changes_nothing():
    assert script_with_ann().handle(ProcessChecked(None, False)) == []


# --- what becomes of the loser -----------------------------------------------------------------------


def test_who_was_taken_over_acts_for_nobody_any_more():
    world = World()
    world.lingering = True
    old = world.open("ann", pinned=True, instance=mid(1), push=True)
    new = world.open("ann", pinned=True, instance=mid(1), push=True)
    assert (old.close_reason, new.name) == ("taken over", "ann")
    assert old.call(wire.Inbox).code == "not_registered"
    old.say(wire.Pushed(msg_ids=(mid(5),)))
    old.say(wire.PushFailed(msg_ids=(mid(5),)))
    old.say(wire.Cancel(req_id=1))
    old.close()
    assert world.peer("ann").online
    new.close()
    world.idle()


def test_mail_that_was_pushed_to_the_old_connection_is_pushed_to_the_new_one():
    world = World()
    bob = world.open("bob")
    old = world.open("ann", pinned=True, instance=mid(1), push=True)
    bob.ask(wire.Send, to="ann", text="one")
    old.ack()
    new = world.open("ann", pinned=True, instance=mid(1), push=True)
    assert (old.pushed_texts, new.pushed_texts) == (["one"], ["one"])


def test_a_page_read_for_a_connection_that_was_taken_over_is_not_leased_to_it():
    world = World()
    world.lingering = True
    bob = world.open("bob")
    old = world.open("ann", pinned=True, instance=mid(1), push=False)
    bob.send("ann", "one")
    with world.hold():
        old.ask(wire.Inbox)
        new = world.open("ann", pinned=True, instance=mid(1), push=True)
    assert new.pushed_texts == ["one"]
    assert world.state.leases == {}


def test_a_wait_of_a_connection_that_was_taken_over_is_not_kept():
    script = script_with_ann(instance=mid(1))
    script.frame(1, wire.Inbox(req_id=1, wait=60))
    claim(script, instance=mid(1))
    empty = PageRead(mails=(), notices=(), unread=0, remaining=0)
    actions = script.stored(empty)
    assert actions[0].ops == (EndLease(lease=WALL),)
    assert script.peer("ann").waiters == []


@pytest.mark.guarantee("same-directory-no-swap")
def test_two_sessions_in_one_directory_keep_their_names_across_restarts_of_hub_and_sessions():
    world = World()
    where: dict[str, Any] = {"client": "claude", "cwd": "/src/api"}
    first = world.open("work", identity="a", **where)
    second = world.open("work", identity="b", **where)
    assert (first.name, second.name) == ("work", "work-2")
    world.restart()
    # Now the second one is quicker.
    second = world.open("work", identity="b", **where)
    first = world.open("work", identity="a", **where)
    assert (first.name, second.name) == ("work", "work-2")
    world.restart()
    # Adapters that lived on name the peer; their assistants may have other sessions by now.
    second = world.open("work", peer_id=second.peer_id, identity="d", **where)
    first = world.open("work", peer_id=first.peer_id, identity="c", **where)
    assert (first.name, second.name) == ("work", "work-2")
    for client in (first, second):
        client.close()
    assert world.open("work", identity="d", **where).name == "work-2"
    assert world.open("work", identity="c", **where).name == "work"


def second_window(world: World) -> tuple[Client, Client]:
    """One conversation, open in two windows of its assistant; the first answers when it is asked."""
    where: dict[str, Any] = {"client": "opencode", "cwd": "/src/shop", "identity": "s1"}
    first = world.open("shop", pid=7, **where)
    second = world.open("shop", pid=8, **where)
    world.tick(0.1)
    first.say(wire.Pong())
    world.tick(5.0)
    assert (first.name, second.name) == ("shop", "shop-2")
    return first, second


@pytest.mark.guarantee("identity-kept")
def test_a_second_window_of_a_conversation_does_not_change_who_it_is_when_it_is_opened_again():
    world = World()
    first, second = second_window(world)
    first.close()
    second.close()
    world.restart()
    assert world.open("x", client="opencode", identity="s1").name == "shop"


@pytest.mark.guarantee("identity-kept")
def test_nor_does_one_that_comes_back_to_a_hub_that_was_restarted():
    world = World()
    _, second = second_window(world)
    world.restart()
    name, peer_id = second.name, second.peer_id
    world.open(name, client="opencode", cwd="/src/shop", identity="s1", peer_id=peer_id).close()
    assert world.open("x", client="opencode", identity="s1").name == "shop"


def test_a_conversation_whose_peer_goes_on_as_another_one_is_from_then_on_who_it_becomes():
    world = World()
    where: dict[str, Any] = {"client": "claude", "cwd": "/src/shop"}
    cleared = world.open("shop", identity="s1", **where)
    assert cleared.call(wire.Identify, identity="s2").name == "shop"
    resumed = world.open("shop", identity="s1", **where)
    assert resumed.name == "shop-2"
    cleared.close()
    resumed.close()
    assert world.open("x", client="claude", identity="s1").name == "shop-2"
    assert world.open("x", client="claude", identity="s2").name == "shop"
