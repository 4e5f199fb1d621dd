"""The real store on a real file, worked by a task instead of a thread: a unit takes a while, and what it led
to is heard of later still. A crash in between loses what was not committed; what was is there.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import trio

from ecorelay.core.events import Stored, StoreFailed
from ecorelay.daemon.guard import contain
from ecorelay.daemon.store import InlineStore
from ecorelay.daemon.store_commit import Committer

FULL = "the disk is full (as the simulator wants it)"
Events = list[Stored | StoreFailed]


class Disk:
    """What a hub's disk is like; outlives the hub."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.slow_s = 0.0
        """How long a commit takes at most; 0: next to nothing."""
        self.refuses = 0.0
        """How likely a unit is refused."""
        self.full = False
        """The file cannot grow."""


class SimStore(InlineStore):
    """See the module; open it with :meth:`open`, then set `disk`, `point` and `heard`."""

    def __init__(self, path: Path, committer: Committer) -> None:
        super().__init__(path, committer)
        self.disk: Disk
        self.point: Callable[[str], object] = lambda where: None
        """Called wherever a crash makes a difference."""
        self.heard: Callable[[Events], object] = lambda events: None
        """Called with what was done, before the hub knows."""
        self.dead = False
        self._done: deque[Events] = deque()
        self._wanted = trio.Event()
        self._came = trio.Event()
        self._to_shell: Callable[[Events], object] = lambda events: None
        self._room = 0

    @property
    def db(self) -> sqlite3.Connection:
        """For those who look at what is stored."""
        return self._committer.ledger.db

    def start(self, deliver: Callable[[Any], object]) -> None:
        self._to_shell = deliver
        super().start(self._is_done)

    def submit(self, unit: tuple[Any, ...], then: Any) -> None:
        super().submit(unit, then)
        self._wanted.set()

    def _is_done(self, events: Events) -> None:
        self.heard(events)
        self._done.append(events)
        self._came.set()

    async def run(self) -> None:
        """Commit, and tell, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            while True:
                while not self._pending:
                    self._wanted = trio.Event()
                    await self._wanted.wait()
                disk = self.disk
                await trio.sleep(disk.chance.random() * disk.slow_s)
                batch = self._pending[: disk.chance.choice((1, 3, 1_000))]
                del self._pending[: len(batch)]
                self.point("before a commit")
                if self.dead:
                    return
                self._do(batch)
                self.point("after a commit")

    def _do(self, batch: list[Any]) -> None:
        disk = self.disk
        self._mind_room()
        while batch:
            good = 0
            while good < len(batch) and not (disk.refuses and disk.chance.random() < disk.refuses):
                good += 1
            if good:
                self._commit(batch[:good])
            if good < len(batch):
                self._refuse((batch[good],), "mailbox_error", FULL)
            del batch[: good + 1]

    def _mind_room(self) -> None:
        """The file may not grow while the disk is full."""
        try:
            [pages] = self.db.execute("PRAGMA page_count").fetchone()
            room = pages if self.disk.full else 1_000_000
            if room != self._room:
                self._room = room
                self.db.execute(f"PRAGMA max_page_count = {room}").fetchall()
        except sqlite3.Error:
            self._room = 0  # closed after a failure, and opened again by the next commit

    async def _tell(self) -> None:
        while True:
            while not self._done:
                self._came = trio.Event()
                await self._came.wait()
            await trio.sleep(self.disk.chance.choice((0.0, 0.0, 0.0002)))
            events = self._done.popleft()
            self.point("before the hub hears of a commit")
            if self.dead:
                return
            contain(partial(self._to_shell, events), "store")

    def close(self) -> None:
        """In good order: all is committed, and the hub hears of it."""
        if not self.dead:
            super().close()
            while self._done:
                self._to_shell(self._done.popleft())

    def crash(self) -> None:
        self.dead = True
        super().crash()
