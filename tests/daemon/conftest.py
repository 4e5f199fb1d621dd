"""Fixtures of the daemon's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

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
        yield house
        await house.close()
