"""Which hubs are dialed: the hub's part says so, and dialers hear it at once."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ecorelay_bridge.roads import Roads


async def test_every_hub_is_sought_until_it_is_left_alone(autojump_clock) -> None:
    roads = Roads()
    with trio.fail_after(1):
        await roads.sought("desk")
    roads.rest("Desk")
    assert not roads.is_sought("desk")
    with pytest.raises(trio.TooSlowError), trio.fail_after(100):
        await roads.sought("desk")


async def test_a_hub_sought_again_wakes_its_dialer(autojump_clock) -> None:
    roads = Roads()
    roads.rest("desk")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(roads.sought, "desk")
        await wait_all_tasks_blocked()
        roads.seek("tower")
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        roads.seek("desk")


async def test_a_pause_ends_in_time_or_when_the_hub_is_sought_anew(autojump_clock) -> None:
    roads = Roads()
    began = trio.current_time()
    assert await roads.pause("desk", 30, roads.calls("desk")) is False
    assert trio.current_time() - began == 30
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def later() -> None:
            await trio.sleep(5)
            roads.seek("tower")
            await trio.sleep(5)
            roads.seek("desk")

        assert await roads.pause("desk", 30, roads.calls("desk")) is True
    assert trio.current_time() - began == 40


async def test_a_call_during_what_the_pause_is_about_ends_it_at_once(autojump_clock) -> None:
    roads = Roads()
    since = roads.calls("desk")
    roads.seek("Desk")
    began = trio.current_time()
    assert await roads.pause("desk", 30, since) is True
    assert trio.current_time() == began


async def test_a_hub_reached_over_a_relay_is_sought_directly_and_at_no_relay(autojump_clock) -> None:
    roads = Roads()
    assert not roads.is_relayed("desk")
    roads.rest("Desk", relayed=True)
    assert roads.is_sought("desk")
    assert not roads.is_sought("desk", relayed=True)
    assert roads.is_relayed("desk")
    with trio.fail_after(1):
        await roads.sought("desk")
    roads.rest("desk")
    assert not roads.is_sought("desk")
    assert not roads.is_relayed("desk")
    roads.seek("desk")
    assert roads.is_sought("desk", relayed=True)


async def test_a_hub_must_have_been_sought_for_a_while(autojump_clock) -> None:
    roads = Roads()
    found: list[float] = []

    async def wait() -> None:
        await roads.sought("desk", relayed=True, for_s=2)
        found.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        roads.rest("desk")  # somebody else was quicker
        await trio.sleep(10)
        roads.seek("desk")
    assert found == [began + 13]


async def test_a_pause_for_all_ends_when_any_hub_is_sought(autojump_clock) -> None:
    roads = Roads()
    assert not await roads.pause_any(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(roads.pause_any, 1e9)
        await wait_all_tasks_blocked()
        roads.rest("desk")
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        roads.seek("desk")


async def test_news_of_one_hub_wakes_nobody_who_waits_for_another() -> None:
    asked: list[str] = []

    class Noting(Roads):
        def is_sought(self, hub_id: str, *, relayed: bool = False) -> bool:
            asked.append(hub_id)
            return super().is_sought(hub_id, relayed=relayed)

    roads = Noting()
    hubs = [f"hub-{number}" for number in range(50)]
    for hub in hubs:
        roads.rest(hub)
    async with trio.open_nursery() as nursery:
        for hub in hubs:
            nursery.start_soon(roads.sought, hub)
        await wait_all_tasks_blocked()
        asked.clear()
        for hub in hubs:
            roads.rest(hub)
            await wait_all_tasks_blocked()
        assert asked == hubs
        nursery.cancel_scope.cancel()
    assert not roads._waiting, "nothing is kept of those that wait no more"
