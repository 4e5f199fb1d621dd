"""The end of a run: everything works again, all comes to rest, and then all is ended in good order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.sim.checks import busy
from tests.sim.ledger import holds

if TYPE_CHECKING:
    from tests.sim.world import World

LOOK_S = 5.0
REST_S = 400.0
"""Within so long everything has been sent that can be: the longest pause of a dialer, a request's patience
and a lease are all much shorter."""
END_S = 10.0
"""A hub says goodbye for three seconds at most, an adapter for half a second."""


async def come_to_rest(world: World) -> None:
    """Networks, disks and machines work; until nothing is left to be done.

    Raises:
        Wrong: something never ends.
    """
    for machine in world.machines.values():
        machine.disk.refuses, machine.disk.full, machine.disk.slow_s, machine.fuse = 0.0, False, 0.0, 0
    world.network.off.clear()
    for adapter in world.adapters:
        adapter.read(False)
    world.network.free(lost=True)
    for _ in range(10):  # one that is just stopping
        for machine in world.machines.values():
            machine.start(world.nursery)
        await trio.sleep(0.5)
    waited, why = 0.0, ""
    quiet = 0
    while quiet < 2:
        why = busy(world)
        quiet = 0 if why else quiet + 1
        holds(waited < REST_S, f"it never comes to rest: {why}")
        await trio.sleep(LOOK_S)
        waited += LOOK_S


async def end_all(world: World) -> None:
    """Adapters leave, hubs stop; nothing may be left.

    Raises:
        Wrong: something is left.
    """
    for adapter in world.adapters:
        adapter.leave()
    with trio.move_on_after(END_S):
        for adapter in world.adapters:
            await adapter.gone.wait()
    left = [adapter.host for adapter in world.adapters if not adapter.gone.is_set()]
    holds(not left, f"adapters do not end: {left}")
    for machine in world.machines.values():
        assert machine.running is not None
        await trio.sleep(0.1)
        holds(not machine.running.sessions.open, f"{machine.hub_id} has connections that nobody has")
        with trio.move_on_after(END_S) as scope:
            await machine.stop()
        holds(not scope.cancelled_caught, f"{machine.hub_id} does not end")
    if world.relay is not None:
        holds(not world.relay.crashes, f"the relay crashed: {world.relay.crashes[:1]}")
    world.nursery.cancel_scope.cancel()
