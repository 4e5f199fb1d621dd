"""Fixtures of the daemon's tests."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import pytest
import trio

from ecorelay.daemon.ticker import Ticker
from tests.daemon.house import House, ScriptedCore


@pytest.fixture
def core() -> ScriptedCore:
    return ScriptedCore()


@pytest.fixture
async def house(core: ScriptedCore) -> AsyncIterator[House]:
    """A house with a scripted core."""
    async with trio.open_nursery() as nursery:
        house = House(nursery, core)
        yield house
        await house.close()


@pytest.fixture
async def lived_in() -> AsyncIterator[House]:
    """A house with the real core."""
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        ticker = Ticker(house.shell, idle_exit_s=math.inf, busy=lambda: False, leave=lambda: None)
        nursery.start_soon(ticker.run)
        yield house
        await house.close()
