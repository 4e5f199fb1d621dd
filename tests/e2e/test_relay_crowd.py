"""Two hundred hubs at a relay server that is killed and started again: they are back soon, not at once."""

from __future__ import annotations

import math
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio

from ecorelay_bridge.known import Reading
from ecorelay_bridge.relay_dialer import RelayDialer
from ecorelay_bridge.relay_probe import Throwaway
from ecorelay_bridge.roads import RoadReport, Roads
from ecorelay_bridge.settings import RelayServer, Secret, Settings
from tests.e2e.relays import TOKEN, Relay
from tests.e2e.sites import eventually

HUBS = 200
SLOT_S = 0.1


class Connector:
    """A hub as far as it is at the relay: it links with nobody.

    Attributes:
        plans: when it meant to come again, each time it had failed.
    """

    def __init__(self, number: int, relay: Relay) -> None:
        self.roads = Roads()
        self.plans: list[float] = []
        self.came = 0.0
        settings = Settings(
            hub_id=f"hub-{number}",
            secret=Secret("nobody is linked here"),
            relays=(RelayServer(url=relay.entry()["url"], token=Secret(TOKEN)),),
        )
        nobody: Any = None
        self.dialer = _Alone(
            settings,
            Throwaway(),  # type: ignore[arg-type]
            Reading({}),
            nobody,
            self.roads,
            nobody,
            nobody,
            nobody,
            self.report,
            app="1",
            environ={},
        )

    def report(self, report: RoadReport) -> None:
        now = trio.current_time()
        if report.event == "at_relay":
            self.came = now
        elif report.retry_in_s is not None:
            self.plans.append(now + report.retry_in_s)

    @property
    def up(self) -> bool:
        return any(each.up for each in self.roads.relays.values())


class _Alone(RelayDialer):
    def seen(self, *args: object) -> None:
        """Leave the others alone."""


@pytest.mark.soak
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_two_hundred_hubs_come_back_soon_and_not_at_once(tmp_path: Path, how: signal.Signals) -> None:
    relay = Relay(tmp_path / "relay", max_hubs=2 * HUBS)
    hubs = [Connector(number, relay) for number in range(HUBS)]

    async def all_up() -> bool:
        return all(each.up for each in hubs)

    async def none_up() -> bool:
        return not any(each.up for each in hubs)

    try:
        await relay.start()
        async with trio.open_nursery() as nursery:
            for each in hubs:
                nursery.start_soon(each.dialer.run)
            await eventually(all_up)
            await relay.kill(how)
            ended = trio.current_time()
            await eventually(none_up)
            first = [each.plans[0] - ended for each in hubs]
            await trio.sleep(4)
            await relay.start()
            answers = trio.current_time()
            # What each meant when it failed last is its own, however busy this machine is.
            last = [each.plans[-1] - answers for each in hubs]
            await eventually(all_up)
            took = sorted(each.came - answers for each in hubs)
            nursery.cancel_scope.cancel()
    finally:
        relay.close()
    crowds = [max(Counter(math.floor(when / SLOT_S) for when in plans).values()) for plans in (first, last)]
    print(f"back after {took[0]:.2f} to {took[-1]:.2f} s, half of them by {took[HUBS // 2]:.2f} s")
    print(f"the fullest tenth of a second was meant by {crowds[0]} at first, {crowds[1]} after 4 s")
    assert max(last) <= 3, "all meant to be back within 3 s"
    assert crowds[1] <= HUBS / 4, "a second and a half is what they have"
    assert crowds[0] <= HUBS / 2.5, "half a second is what they begin with"
