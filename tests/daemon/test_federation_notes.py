"""What the hub tells of its links to other hubs, and what of it outlives a reload."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from ecorelay.daemon.federation import STRANGERS_S, TWINS_S, Federation
from ecorelay.paths import Paths
from ecorelay_bridge.listener import failed
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.roads import RoadReport
from ecorelay_bridge.twins import twins


async def no_room() -> None:
    await trio.lowlevel.checkpoint()


@pytest.fixture
def shell():
    return SimpleNamespace(core=SimpleNamespace(knows_hub=lambda hub_id: hub_id == "known"))


@pytest.fixture
def federation(tmp_path, shell):
    return Federation(Paths(tmp_path), "zentral", shell, room=no_room)


def refused(refusal: Refused, *, dialed: str = "") -> RoadReport:
    return failed(
        "dialer" if dialed else "acceptor", refusal, hub_id=dialed, address="" if dialed else "192.0.2.7:4000"
    )


async def test_two_machines_that_are_one_hub_are_a_problem_for_a_while(federation, shell, autojump_clock):
    federation._told(refused(twins("desk")))
    federation._told(RoadReport(event="up", side="acceptor", hub_id="desk", address="192.0.2.7:4001"))
    (note,) = shell.notes()
    assert "two machines are desk" in note
    assert "identity.pem" in note
    await trio.sleep(TWINS_S + 1)
    assert shell.notes() == ()


async def test_the_copy_itself_says_who_told_it(federation, shell):
    told = Refused(Reason.TWINS, "another machine is this hub too", told=True)
    federation._told(refused(told, dialed="desk"))
    (note,) = shell.notes()
    assert note.startswith("desk: another machine is this hub too")


async def test_a_hub_at_a_relay_that_never_was_linked_is_told_of_with_the_reason(
    federation, shell, autojump_clock
):
    """It has no line of its own, and the next attempt may be an hour away."""
    differ = Refused(Reason.WRONG_SECRET, "the secrets differ", "make them the same")
    for name in ("one", "two", "known", "three", "Four"):
        federation._told(failed("dialer", differ, hub_id=name, address="relay relay.test"))
    assert shell.notes() == tuple(
        f"{name} at relay relay.test: the secrets differ; make them the same" for name in ("three", "Four")
    )
    federation._told(RoadReport(event="up", side="acceptor", hub_id="four", address="relay relay.test"))
    assert len(shell.notes()) == 1
    await trio.sleep(4_000)
    assert len(shell.notes()) == 1
    await trio.sleep(STRANGERS_S)
    assert shell.notes() == ()
    federation._told(failed("dialer", differ, hub_id="desk", address="192.0.2.7:9700"))
    assert shell.notes() == (), "a peer of bridge.json has a line of its own"


async def test_a_trouble_from_before_does_not_outlive_a_reload(federation, shell):
    federation._told(refused(Refused(Reason.WRONG_SECRET, "the secrets differ"), dialed="desk"))
    federation._told(refused(twins("desk")))
    assert federation._links.troubles
    done = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(federation.run)
            federation.reload(lambda error: done.set())
            await done.wait()
            nursery.cancel_scope.cancel()
    assert federation._links.troubles == {}
    assert shell.notes() == ()
