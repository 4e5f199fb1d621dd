"""A world for each test that drives a real assistant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.real.claude import World, why_not
from tests.real.model import Model


@pytest.fixture(scope="session")
def _installed() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def make_world(_installed: None, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes a world, with the arguments of `World`; it is ended with the test."""
    with ExitStack() as stack:
        model = stack.enter_context(Model())

        def make(**options: object) -> World:
            world = World(tmp_path, model, **options)  # type: ignore[arg-type]
            stack.callback(world.close)
            return world

        yield make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """One as it is most of the time."""
    return make_world()
