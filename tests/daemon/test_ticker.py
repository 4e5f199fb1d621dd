"""The alarm clock: on time, seldom, and the last to leave."""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ecorelay.core.actions import Action
from ecorelay.core.events import ClockJumped, Event, SessionClosed, SessionFrame, Tick
from ecorelay.daemon import ticker
from ecorelay.daemon.ticker import LOOK_S, Ticker
from tests.daemon.house import House, ScriptedCore


class Watched:
    """A ticker, and when what happened."""

    def __init__(self, house: House, core: ScriptedCore, idle_exit_s: float = math.inf) -> None:
        self.core = core
        self.busy = False
        self.left: list[float] = []
        self.ticks: list[float] = []
        self.fed = 0
        self.began = trio.current_time()
        core.script = self.note
        self.ticker = Ticker(
            house.shell,
            idle_exit_s=idle_exit_s,
            busy=lambda: self.busy,
            leave=lambda: self.left.append(self.since()),
        )
        house.nursery.start_soon(self.ticker.run)

    def since(self) -> float:
        return round(trio.current_time() - self.began, 3)

    def note(self, event: Event) -> list[Action]:
        if isinstance(event, Tick):
            self.ticks.append(self.since())
            self.core.deadline = None
        return []


async def test_it_ticks_once_at_the_start_and_then_when_a_deadline_comes(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    watched = Watched(house, core)
    await trio.sleep(1)
    core.deadline = watched.began + 7
    house.shell.feed(())
    await trio.sleep(100)
    assert watched.ticks == [0, 7]


async def test_an_earlier_deadline_wakes_it_earlier_and_a_later_one_does_not_bother_it(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    watched = Watched(house, core)
    await trio.sleep(0.5)
    for deadline in (5.0, 3.0, 4.0):
        core.deadline = watched.began + deadline
        house.shell.feed((SessionFrame(1, object()),))  # type: ignore[arg-type]
    core.deadline = watched.began + 3
    await trio.sleep(20)
    assert watched.ticks == [0, 3]


async def test_a_deadline_that_does_not_go_away_cannot_spin(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    watched = Watched(house, core)
    await wait_all_tasks_blocked()
    core.script = lambda event: watched.ticks.append(watched.since()) or []  # type: ignore[func-returns-value]
    core.deadline = watched.began
    house.shell.feed(())
    await trio.sleep(60)
    assert len(watched.ticks) < 60 / ticker.PAUSE_MAX_S + 15


async def test_without_deadlines_it_looks_at_the_clocks_now_and_then(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    Watched(house, core)
    await trio.sleep(1)
    house.clock.wall_offset_s = 3600
    await trio.sleep(LOOK_S)
    assert ClockJumped(3600.0) in core.events


async def test_it_leaves_after_the_hub_was_idle_for_long_enough(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    watched = Watched(house, core, idle_exit_s=4)
    core.idle_since = 0.0  # before the first session: the start counts
    await trio.sleep(3)
    assert watched.left == []
    await trio.sleep(60)
    assert watched.left == [4]


async def test_it_stays_while_something_is_going_on(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    watched = Watched(house, core, idle_exit_s=4)
    await trio.sleep(100)
    core.idle_since = watched.began + 100
    house.shell.feed((SessionClosed(1, "eof"),))
    await trio.sleep(3)
    core.idle_since = None
    await trio.sleep(100)
    assert watched.left == []
    core.idle_since = watched.began + 203
    house.shell.feed((SessionClosed(1, "eof"),))
    await trio.sleep(10)
    assert watched.left == [207]


async def test_a_connection_before_its_hello_keeps_the_hub_too(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    watched = Watched(house, core, idle_exit_s=4)
    core.idle_since = 0.0
    await trio.sleep(3.5)
    watched.busy = True
    await trio.sleep(3)
    watched.busy = False
    await trio.sleep(60)
    (left,) = watched.left
    assert 8 <= left <= 12


async def test_it_never_leaves_where_it_shall_stay(
    house: House, core: ScriptedCore, autojump_clock: MockClock
):
    watched = Watched(house, core, math.inf)
    core.idle_since = 0.0
    await trio.sleep(10_000)
    assert watched.left == []
