"""Canaries: who may be asked, what comes back, and everybody who goes away meanwhile."""

from typing import Any

import pytest

from ecorelay import wire
from ecorelay.core import canary
from ecorelay.core.actions import Reply
from ecorelay.core.canary import CANARY_S, PROBES_MAX, PROBES_OF_ONE
from ecorelay.core.ops import Snapshot
from tests.core.helpers import WALL, Client, Script, World, peer_row
from tests.core.test_hooks import BESIDE, Desk

SOUND: dict[str, Any] = {"ok": True, "stage": "session", "says": "there and back", "took_ms": 7}


def canaries(client: Client) -> list[wire.Canary]:
    """What the session was sent."""
    return [frame for frame in client.got if isinstance(frame, wire.Canary)]


def answer(client: Client, **fields: Any) -> None:
    """The session answers the last of them."""
    client.say(wire.CanaryAnswer(**{"id": canaries(client)[-1].id, **SOUND, **fields}))


def staged(**fields: Any) -> tuple[World, Client, Client]:
    """Somebody at the command line, and bob, whose adapter answers canaries."""
    world = World(ping_s=10_000)
    bob = world.open("bob", pinned=True, canary=True, **fields)
    return world, world.open(role="observer"), bob


def leave(world: World) -> None:
    """Everybody goes, and nothing is left."""
    for client in list(world.clients.values()):
        client.close()
    world.tick(CANARY_S)
    world.idle()


# --- nobody to be asked ----------------------------------------------------------------------------------


def test_of_a_peer_nobody_knows_it_is_said_that_it_is_unknown():
    world, asker, _ = staged()
    refused = asker.call(wire.Probe, peer="bbo")
    assert (refused.code, "did you mean bob" in refused.message) == ("peer_not_found", True)
    assert asker.call(wire.Probe, peer="bob@far").code == "hub_not_found"
    leave(world)


def test_a_peer_that_is_offline_is_gone():
    world, asker, bob = staged()
    bob.close()
    refused = asker.call(wire.Probe, peer="bob")
    assert (refused.code, refused.message) == (
        "peer_gone",
        "bob is not online: there is no session to probe",
    )
    leave(world)


def test_a_session_that_is_being_bound_is_not_online_yet():
    world, asker, bob = staged()
    bob.close()
    with world.hold():
        again = world.open("bob", pinned=True, canary=True)
        assert asker.call(wire.Probe, peer="bob").code == "peer_gone"
    assert canaries(again) == []
    leave(world)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("0.1.0", "its adapter (0.1.0) is older than this check: restart the session"),
        ("", "its adapter (of some version) is older than this check: restart the session"),
    ],
)
def test_an_adapter_of_before_is_answered_for_at_once(version, says):
    world, asker, _ = staged()
    old = world.open("old", pinned=True, app_version=version)
    assert asker.call(wire.Probe, peer="old") == wire.Probed(req_id=1, peer="old", stage="hub", says=says)
    assert canaries(old) == []
    ann = world.open("ann", role="attach", create=True)
    old.send("ann", "hi")
    assert ann.call(wire.Probe, peer="old").unread == 1
    leave(world)


# --- there and back --------------------------------------------------------------------------------------


def test_a_canary_goes_to_the_session_and_what_it_says_to_the_asker():
    script = Script(Snapshot(peers=(peer_row(1, "bob"),)))
    script.online(1, "bob", canary=True)
    script.opened(2, role="observer")
    assert script.frame(2, wire.Probe(req_id=5, peer="BOB")) == [Reply(1, wire.Canary(id=1))]
    script.clock.forward(0.0126)
    assert script.frame(1, wire.CanaryAnswer(id=1, **SOUND)) == [
        Reply(
            2,
            wire.Probed(
                req_id=5,
                peer="bob",
                ok=True,
                stage="session",
                says="there and back",
                took_ms=13,
                adapter_ms=7,
            ),
        )
    ]
    assert script.tick(CANARY_S) == []


@pytest.mark.parametrize("ok", [False, None])
def test_what_failed_or_cannot_be_told_is_told_as_it_is(ok):
    world, asker, bob = staged()
    asked = asker.ask(wire.Probe, peer="bob")
    answer(bob, ok=ok, stage="adapter", says="the daemon is away")
    probed = asker.answers[asked]
    assert (probed.ok, probed.stage, probed.says) == (ok, "adapter", "the daemon is away")
    leave(world)


def test_a_peer_may_probe_itself_and_hears_what_it_has_unread():
    world, _, bob = staged()
    ann = world.open("ann", pinned=True)
    ann.send("bob", "hi")
    asked = bob.ask(wire.Probe, peer="bob")
    answer(bob)
    assert bob.answers[asked].unread == 1
    leave(world)


def test_a_peer_renamed_meanwhile_is_told_by_its_name_of_now():
    world, asker, bob = staged()
    asked = asker.ask(wire.Probe, peer="bob")
    bob.call(wire.Rename, new_name="rob")
    answer(bob)
    assert asker.answers[asked].peer == "rob"
    again = asker.ask(wire.Probe, peer="bob")  # the old name leads to it
    answer(bob)
    assert asker.answers[again].peer == "rob"
    leave(world)


def test_two_who_ask_at_once_share_one_canary():
    world, asker, bob = staged()
    other = world.open(role="observer")
    first, second = asker.ask(wire.Probe, peer="bob"), other.ask(wire.Probe, peer="bob")
    third = other.ask(wire.Probe, peer="bob")
    assert len(canaries(bob)) == 1
    answer(bob)
    assert asker.answers[first].ok
    assert other.answers[second].ok
    assert other.answers[third].ok
    asker.ask(wire.Probe, peer="bob")
    assert [each.id for each in canaries(bob)] == [1, 2]
    leave(world)


# --- no answer -------------------------------------------------------------------------------------------


def test_a_session_that_does_not_answer_is_told_of_after_five_seconds():
    world, asker, bob = staged()
    asked = asker.ask(wire.Probe, peer="bob")
    world.tick(CANARY_S - 0.01)
    assert asked not in asker.answers
    world.tick(0.01)
    assert asker.answers[asked] == wire.Probed(
        req_id=asked,
        peer="bob",
        ok=False,
        stage="hub",
        says="its adapter was given it and did not answer within 5 s",
        took_ms=5000,
    )
    answer(bob)  # too late, and no harm
    fresh = asker.ask(wire.Probe, peer="bob")
    world.tick(1)
    answer(bob)
    assert asker.answers[fresh].took_ms == 1000
    leave(world)


def test_answers_nobody_asked_for_are_passed_over():
    world, asker, bob = staged()
    eve = world.open("eve", pinned=True, canary=True)
    bob.say(wire.CanaryAnswer(id=1, **SOUND))
    asked = asker.ask(wire.Probe, peer="bob")
    eve.say(wire.CanaryAnswer(id=canaries(bob)[0].id, **SOUND))
    asker.say(wire.CanaryAnswer(id=canaries(bob)[0].id, **SOUND))
    bob.say(wire.CanaryAnswer(id=77, **SOUND))
    assert asked not in asker.answers
    answer(bob)
    assert asker.answers[asked].ok
    answer(bob)
    leave(world)


def test_a_session_that_ends_meanwhile_is_gone():
    world, asker, bob = staged()
    asked = [asker.ask(wire.Probe, peer="bob") for _ in range(2)]
    bob.close()
    failed = [asker.answers[each] for each in asked]
    assert [each.code for each in failed] == ["peer_gone"] * 2
    assert failed[0].message == "the session of bob ended before it answered"
    leave(world)


def test_a_session_that_is_taken_over_is_gone_and_its_heir_is_asked_anew():
    world, asker, bob = staged(pid=7)
    world.lingering = True
    asked = asker.ask(wire.Probe, peer="bob")
    world.dead_pids.add(7)
    heir = world.open("bob", pinned=True, canary=True)
    assert bob.close_reason == "taken over"
    assert asker.answers[asked].code == "peer_gone"
    answer(bob)
    again = asker.ask(wire.Probe, peer="bob")
    answer(heir)
    assert asker.answers[again].ok
    leave(world)


def test_the_end_of_a_connection_that_acts_for_the_peer_changes_nothing():
    world, asker, bob = staged()
    attached = world.open("bob", role="attach")
    asked = asker.ask(wire.Probe, peer="bob")
    attached.close()
    answer(bob)
    assert asker.answers[asked].ok
    leave(world)


def test_an_asker_that_leaves_is_not_waited_for():
    world, asker, bob = staged()
    other = world.open(role="observer")
    asker.ask(wire.Probe, peer="bob")
    asked = other.ask(wire.Probe, peer="bob")
    asker.close()
    answer(bob)
    assert other.answers[asked].ok
    for ending in (bob.close, lambda: world.tick(CANARY_S)):
        gone = world.open(role="observer")
        gone.ask(wire.Probe, peer="bob")
        gone.close()
        ending()
        assert not world.state.canaries
        bob = world.open("bob", pinned=True, canary=True)
    leave(world)


def test_a_hub_that_stops_has_its_probes_open_until_the_connection_ends():
    world, asker, _ = staged()
    asker.ask(wire.Probe, peer="bob")
    asker.call(wire.HubStop)
    assert world.stopped
    leave(world)


# --- bounds ----------------------------------------------------------------------------------------------


def test_one_connection_has_a_bounded_number_of_probes_open():
    world, asker, bob = staged()
    asked = [asker.ask(wire.Probe, peer="bob") for _ in range(PROBES_OF_ONE)]
    assert asker.call(wire.Probe, peer="bob").code == "limit_reached"
    answer(bob)
    assert all(asker.answers[each].ok for each in asked)
    again = asker.ask(wire.Probe, peer="bob")
    answer(bob)
    assert asker.answers[again].ok
    leave(world)


def test_the_hub_has_a_bounded_number_of_probes_open():
    world, _, bob = staged()
    for _ in range(PROBES_MAX // PROBES_OF_ONE):
        crowd = world.open(role="observer")
        for _ in range(PROBES_OF_ONE):
            crowd.ask(wire.Probe, peer="bob")
    late = world.open(role="observer")
    refused = late.call(wire.Probe, peer="bob")
    assert (refused.code, "wait 5 s" in refused.message) == ("limit_reached", True)
    assert len(canaries(bob)) == 1
    world.tick(CANARY_S)
    asked = late.ask(wire.Probe, peer="bob")
    answer(bob)
    assert late.answers[asked].ok
    leave(world)


# --- hooks -----------------------------------------------------------------------------------------------


class Bell(Desk):
    """bob works in an assistant with hooks; somebody probes him."""

    def __init__(self) -> None:
        super().__init__(ping_s=10_000)
        self.asker = self.world.open(role="observer")

    def sit_down(self) -> Client:
        return self.world.open("bob", pinned=True, bell=True, canary=True, **BESIDE)

    def probe(self) -> int:
        return self.asker.ask(wire.Probe, peer="bob")

    def rung(self) -> None:
        """The adapter has done what it can."""
        answer(self.bob, ok=None, stage="adapter", says="the bell was rung")

    def told(self, asked: int) -> tuple[bool | None, str, str]:
        probed = self.asker.answers[asked]
        return probed.ok, probed.stage, probed.says


HEARD = (True, "session", "a hook of the assistant heard the bell")


def test_a_hook_that_hears_the_bell_is_the_evidence():
    desk = Bell()
    asked = desk.probe()
    assert canaries(desk.bob) == [wire.Canary(id=1, ring=True)]
    desk.rung()
    assert asked not in desk.asker.answers
    desk.world.tick(0.2)
    assert desk.hook("bell").wake is False  # and it wakes nobody
    assert desk.told(asked) == HEARD
    probed = desk.asker.answers[asked]
    assert (probed.took_ms, probed.adapter_ms, probed.hook_at) == (200, 7, WALL + 200)
    leave(desk.world)


def test_a_hook_that_is_quicker_than_the_adapters_answer_counts_too():
    desk = Bell()
    asked = desk.probe()
    desk.hook("bell")
    assert asked not in desk.asker.answers
    desk.rung()
    assert desk.told(asked) == HEARD
    leave(desk.world)


def test_a_hook_that_runs_for_something_else_is_as_good():
    desk = Bell()
    asked = desk.probe()
    desk.rung()
    desk.hook("tool")
    assert desk.told(asked) == (True, "session", "a hook of the assistant ran at its event 'tool'")
    leave(desk.world)


def test_without_a_hook_nothing_is_known_after_five_seconds():
    desk = Bell()
    desk.hook("prompt")
    desk.world.tick(60)
    asked = desk.probe()
    desk.rung()
    desk.world.tick(CANARY_S)
    assert desk.told(asked) == (None, "adapter", "the bell was rung")
    assert desk.asker.answers[asked].hook_at == WALL
    desk.rung()  # twice: of no interest
    leave(desk.world)


def test_an_adapter_that_waits_for_a_hook_is_not_heard_twice():
    desk = Bell()
    asked = desk.probe()
    desk.rung()
    answer(desk.bob)
    assert asked not in desk.asker.answers
    desk.hook("bell")
    assert desk.told(asked) == HEARD
    leave(desk.world)


def test_an_adapter_that_could_not_ring_is_told_of_at_once():
    desk = Bell()
    asked = desk.probe()
    answer(desk.bob, ok=False, stage="adapter", says="the bell cannot be rung")
    assert desk.told(asked) == (False, "adapter", "the bell cannot be rung")
    leave(desk.world)


def test_while_something_waits_the_bell_is_not_rung_for_a_canary():
    desk = Bell()
    desk.ann.send("bob", "hi")
    asked = desk.probe()
    assert canaries(desk.bob) == [wire.Canary(id=1)]
    answer(desk.bob, ok=None, stage="adapter", says="mail waits")
    assert desk.told(asked) == (None, "adapter", "mail waits")
    asked = desk.probe()
    desk.show("tool")
    answer(desk.bob, ok=None, stage="adapter", says="mail waits")
    assert desk.told(asked)[0] is True
    leave(desk.world)


def test_a_session_that_ends_while_a_hook_is_waited_for_is_gone():
    desk = Bell()
    asked = desk.probe()
    desk.rung()
    desk.bob.close()
    assert desk.asker.answers[asked].code == "peer_gone"
    leave(desk.world)


def test_a_canary_of_long_ago_may_be_called_lost_again():
    script = Script()
    canary.lost(script.state, canary.CanaryLost(9), script.clock.now)
    assert script.state.out == []
