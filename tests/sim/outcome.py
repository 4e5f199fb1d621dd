"""Runs one history; the same history again is the same run."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trio
import trio.testing

from ecorelay.daemon.log import logger
from tests.sim.bounds import small
from tests.sim.ledger import Wrong
from tests.sim.steps import Step
from tests.sim.world import BEGIN_S, World

TICKS_PER_S = 2**20


def jumping_clock() -> trio.testing.MockClock:
    """Jumps whenever nothing can be done.

    Its times are whole ticks, so that sums of them are exact: a clock that stands still while anything is
    done would never get past a moment that is a rounding error away.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    jump = clock.jump
    clock.jump = lambda seconds: jump(  # type: ignore[method-assign]
        math.ceil(seconds * TICKS_PER_S) / TICKS_PER_S
    )
    clock.jump(BEGIN_S)
    return clock


TURNS_MAX = 200_000
"""A run has some thousands."""


class Outcome(NamedTuple):
    """How a run ended."""

    error: BaseException | None
    log: list[str]
    trace: str
    """The same for the same history."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Trio's scheduler makes the same choices each time."""
    run: Any = trio._core._run
    before = run._ALLOW_DETERMINISTIC_SCHEDULING
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = before
        run._r.seed()


class _Watch(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.crashed(record)


class _Turns(trio.abc.Instrument):
    """Ends a run whose loop turns without end: the clock never jumps then."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._left = TURNS_MAX

    def before_io_wait(self, timeout: float) -> None:
        self._left -= 1
        if self._left == 0:
            self._world.fail(Wrong(f"it spins: {TURNS_MAX} turns of the loop"))


def shared_memory() -> str | None:
    """Where files cost no disk, if there is such a place."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() else None


def descriptors() -> int:
    """Open in this process; 0 where that cannot be seen."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def outcome(seed: int, steps: Sequence[Step]) -> Outcome:
    """Run it."""
    before = descriptors()
    with tempfile.TemporaryDirectory(dir=shared_memory()) as root, small(), seeded(seed):
        made: list[World] = []

        async def run() -> None:
            world = World(Path(root), seed)
            made.append(world)
            watch = _Watch(world)
            logger.addHandler(watch)
            trio.lowlevel.add_instrument(_Turns(world))
            try:
                await world.run(steps)
            finally:
                logger.removeHandler(watch)

        error: BaseException | None = None
        try:
            trio.run(run, clock=jumping_clock())
        except Exception as caught:
            error = _only(caught)
        world = made[0]
        if error is None and descriptors() > before:
            error = Wrong(f"{descriptors() - before} descriptors are left open")
        return Outcome(error, world.log, world.trace)


def _only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
