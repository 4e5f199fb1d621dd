"""Claude Code itself: who a session is, through everything its user may do to it."""

from __future__ import annotations

import time

import pytest

from ecorelay_adapters.clients.program import own_program
from tests.real.claude import TOOL, Terminal, World, until
from tests.real.model import Reply, Request, call

pytestmark = pytest.mark.real

WAKE_S = 10.0


def is_told(world: World, who: str, text: str, within: float = 20) -> Request:
    """Wait until the model of `who` is shown `text`."""
    return world.model.wait(who, text, within=within)


def add_by_hand(world: World, scope: str = "local") -> None:
    """As the person did before there was the plugin."""
    words = ["mcp", "add", "-s", scope, "ecorelay", "--", *own_program(), "mcp"]
    world.run(world.claude, *words, cwd=world.project("bob"))


def was_never_told(world: World, who: str, text: str) -> bool:
    return not any(text in request.text for request in world.model.requests(who))


def two(world: World) -> tuple[Terminal, Terminal]:
    """Two sessions in one directory, as bob and bob-2; both have had a turn."""
    one = world.open("one", project="bob", peer="bob")
    other = world.open("other", project="bob", peer="bob-2")
    for who, terminal in (("one", one), ("other", other)):
        terminal.type(f"hello {who}")
        is_told(world, who, f"hello {who}")
        terminal.wait_idle()
    return one, other


def end_both(one: Terminal, other: Terminal, world: World) -> None:
    one.quit()
    other.quit()
    until(lambda: not any(world.peers().values()), "both are offline")
    world.send("bob", "waited for bob")
    world.send("bob-2", "waited for the second")


def test_two_sessions_in_one_directory_have_two_names_and_their_own_mail(world: World):
    two(world)
    world.send("bob", "for bob alone")
    world.send("bob-2", "for the second alone")
    is_told(world, "one", "for bob alone")
    is_told(world, "other", "for the second alone")
    assert was_never_told(world, "one", "for the second alone")
    assert was_never_told(world, "other", "for bob alone")


def test_started_again_in_the_same_order_they_are_who_they_were(world: World):
    end_both(*two(world), world)
    world.open("again-one", project="bob", peer="bob")
    is_told(world, "again-one", "waited for bob")
    world.open("again-other", project="bob", peer="bob-2")
    is_told(world, "again-other", "waited for the second")
    assert was_never_told(world, "again-one", "waited for the second")
    assert sorted(world.peers()) == ["alice", "bob", "bob-2"]


def test_resumed_in_another_order_they_are_who_they_were(world: World):
    one, other = two(world)
    first, second = one.session_id, other.session_id
    end_both(one, other, world)
    world.open("again-other", "--resume", second, project="bob", peer="bob-2")
    is_told(world, "again-other", "waited for the second")
    assert not world.peers()["bob"]
    world.open("again-one", "--resume", first, project="bob", peer="bob")
    is_told(world, "again-one", "waited for bob")
    assert was_never_told(world, "again-other", "waited for bob")
    assert sorted(world.peers()) == ["alice", "bob", "bob-2"]


def test_a_resumed_session_takes_its_name_and_mail_from_the_directorys_first(world: World):
    """The one that is resumed is not the one that would come first in this directory."""
    one, other = two(world)
    second = other.session_id
    end_both(one, other, world)
    world.open("again", "--resume", second, project="bob", peer="bob-2")
    is_told(world, "again", "waited for the second")
    time.sleep(3)
    assert was_never_told(world, "again", "waited for bob")


def test_cleared_it_is_the_same_peer_and_is_woken(world: World):
    bob = world.open("bob")
    bob.type("hello")
    is_told(world, "bob", "hello")
    bob.wait_idle()
    before = bob.session_id
    bob.type("/clear")
    until(lambda: bob.session_id not in ("", before), "another session id")
    [msg_id] = world.send("bob", "after the clearing")
    shown = is_told(world, "bob", "after the clearing")
    assert "hello" not in shown.text
    world.wait_seen(msg_id)
    assert world.peers() == {"alice": False, "bob": True}


def test_after_compaction_it_is_told_who_it_is_and_is_woken(world: World):
    bob = world.open("bob")
    bob.type("hello")
    is_told(world, "bob", "hello")
    bob.wait_idle()
    world.model.will("bob", Reply("<summary>hello was said</summary>"))
    bob.type("/compact")
    bob.shows("Compacted")
    [msg_id] = world.send("bob", "after the compaction")
    shown = is_told(world, "bob", "after the compaction")
    assert 'You are still "bob" in ecorelay' in shown.text
    world.wait_seen(msg_id)


def test_cleared_and_then_resumed_it_is_still_the_same_peer(world: World):
    bob = world.open("bob")
    bob.type("hello")
    is_told(world, "bob", "hello")
    bob.wait_idle()
    before = bob.session_id
    bob.type("/clear")
    until(lambda: bob.session_id not in ("", before), "another session id")
    after = bob.session_id
    bob.type("hello again")
    is_told(world, "bob", "hello again")
    bob.wait_idle()
    time.sleep(3)  # the adapter looks every two seconds
    bob.quit()
    world.send("bob", "while away")
    other = world.open("squatter", project="bob", peer="bob")
    other.quit()
    until(lambda: not world.peers()["bob"], "it left")
    for n, id in enumerate((before, after)):
        world.send("bob", f"for resumption <{n}>")
        resumed = world.open(f"resumed-{n}", "--resume", id, project="bob", peer="bob")
        is_told(world, f"resumed-{n}", f"for resumption <{n}>")
        resumed.quit()
        until(lambda: not world.peers()["bob"], "it left")
    assert sorted(world.peers()) == ["alice", "bob"]


def test_renamed_in_the_terminal_the_peer_is_renamed_and_the_old_name_forwards(world: World):
    bob = world.open("bob")
    bob.type("/rename bob2")
    until(lambda: world.peers().get("bob2"), "bob2 is there")
    assert "bob" not in world.peers()
    world.send("bob", "to the old name")
    world.send("bob2", "to the new name")
    is_told(world, "bob", "to the old name")
    is_told(world, "bob", "to the new name")


def test_a_session_started_with_a_name_has_it(world: World):
    world.open("bob", "--name", "worker", peer="worker")
    world.send("worker", "to the worker")
    is_told(world, "bob", "to the worker")


def test_another_session_resumed_in_the_terminal_is_the_peer_it_was(world: World):
    one, other = two(world)
    second = other.session_id
    other.quit()
    until(lambda: not world.peers()["bob-2"], "it left")
    world.send("bob-2", "waited for the second")
    one.type(f"/resume {second}")
    until(lambda: one.session_id == second, "the other session goes on")
    until(lambda: world.peers() == {"alice": False, "bob": False, "bob-2": True}, "it is bob-2")
    is_told(world, "one", "waited for the second")
    world.send("bob", "kept for the other")
    time.sleep(2)
    assert was_never_told(world, "one", "kept for the other")


@pytest.mark.parametrize("scope", ["user", "local"])
def test_beside_the_plugin_a_second_adapter_stays_passive_and_says_so(world: World, scope: str):
    add_by_hand(world, scope)
    bob = world.open("bob")
    until(lambda: len(world.adapters()) == 2, "two adapters")
    world.model.will("bob", call("mcp__ecorelay__relay_peers"), call(TOOL + "relay_peers"))
    bob.type("who is there?")
    asked = world.model.wait("bob", lambda request: len(request.results) == 1)
    second = world.model.wait("bob", lambda request: request.results, since=2)
    answers = [request.results[0] for request in (asked, second)]
    assert sorted("already_registered" in answer for answer in answers) == [False, True]
    assert list(world.peers()) == ["bob"]
    bob.wait_idle()
    [msg_id] = world.send("bob", "only once")
    is_told(world, "bob", "only once")  # woken, whichever of the two was first
    world.wait_seen(msg_id)
    bob.wait_idle()
    assert world.model.requests("bob")[-1].text.count("only once") == 1


def test_after_a_restart_of_the_hub_both_adapters_are_what_they_were(world: World):
    add_by_hand(world)
    world.open("bob")
    for n in range(3):
        world.end_hub()
        [msg_id] = world.send("bob", f"round <{n}>")
        is_told(world, "bob", f"round <{n}>")
        world.wait_seen(msg_id)
