"""All connections of the local hop: how many there may be, who gets in, how all of them end."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import trio

from ecorelay import wire
from ecorelay.daemon.connection import Connection, InStore
from ecorelay.daemon.greet import Turned
from ecorelay.daemon.guard import guard
from ecorelay.daemon.lines import long_line_places
from ecorelay.daemon.reasons import Reason
from ecorelay.names import new_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay.daemon.perform import Shell
    from ecorelay.limits import Limits

SILENT_MAX = 1024
"""Connections that said no hello yet; one more ends the longest silent of them. So many, because after
a restart of the hub all sessions of a machine come back in one moment, and some of them slowly."""

READS_MAX = 4
"""Pages that the store makes at once, for all connections: each may be a few megabytes."""


class Sessions:
    """Serves connections and knows all that are open.

    Args:
        shell: takes what sessions say.
        limits: `sessions` is held here.
        token: what a connection has to prove to know first; empty where the socket keeps others out.
        random_bits: for nonces.
    """

    def __init__(
        self,
        shell: Shell,
        limits: Limits,
        *,
        token: str = "",
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self.shell = shell
        self.limits = limits
        self.token = token
        self.places = long_line_places()
        self.closing = False
        """No more input is handled: the hub stops."""
        self.busy = trio.Lock()
        """Held for one slice by a connection that says much."""
        self.commits = 0
        """Of the store, so far."""
        self.reads = self.new_in_store()
        """Requests for pages."""
        self._random_bits = random_bits
        self._last_sid = 0
        self._open: set[Connection] = set()
        self._silent: dict[Connection, None] = {}
        self._room = trio.lowlevel.ParkingLot()
        self._commit = trio.lowlevel.ParkingLot()
        self._all_gone = trio.lowlevel.ParkingLot()
        shell.on_room = self._on_room

    @property
    def open(self) -> int:
        """Connections, those without a hello included."""
        return len(self._open)

    @property
    def silent(self) -> int:
        """Connections that said no hello yet."""
        return len(self._silent)

    async def serve(self, stream: trio.abc.Stream, pid: int | None = None) -> None:
        """Serve one connection until it ends.

        Raises nothing but Cancelled.

        Resource handling: `stream` is closed.

        Args:
            stream: connected.
            pid: of the process at its other end by the kernel's word, 0 where the kernel cannot
                tell; None: the hello's word is taken.
        """
        connection = Connection(self, stream, pid)
        self._open.add(connection)
        self._silent[connection] = None
        if len(self._silent) > SILENT_MAX:
            oldest = next(iter(self._silent))
            del self._silent[oldest]
            oldest.end(Reason.CROWDED_OUT)
        if self.closing:
            connection.end(Reason.STOPPED)
        try:
            reason = await guard(connection.run)
            if not connection.sid:
                self.shell.tally.count(f"closed {reason}")
        finally:
            self._silent.pop(connection, None)
            self._open.discard(connection)
            if not self._open:
                self._all_gone.unpark_all()
            await trio.aclose_forcefully(stream)

    def admit(self, connection: Connection) -> int:
        """Give a connection that said hello its number, from 1.

        Raises:
            Turned: ``limit_reached``.
        """
        if len(self.shell.sessions) >= self.limits.sessions:
            raise Turned(
                Reason.TOO_MANY_SESSIONS,
                "limit_reached",
                f"this hub has its {self.limits.sessions} connections: end some, or raise limits.sessions",
            )
        self._silent.pop(connection, None)
        self._last_sid += 1
        return self._last_sid

    def new_nonce(self) -> str:
        """A fresh nonce for a proof."""
        return new_id(self.shell.clock.now().wall, self._random_bits)

    def new_in_store(self) -> InStore:
        """For one connection."""
        return InStore(lambda: self.commits, lambda: not self.shell.ahead)

    async def wait_room(self) -> None:
        """Wait while too much waits for the store."""
        while self.shell.full:
            await self._room.park()

    async def wait_commit(self) -> None:
        """Wait for the store's next commit; call it while something is in there."""
        await self._commit.park()

    async def wait_reads(self) -> None:
        """Wait while as many pages are being made as may be."""
        self.reads.settle()
        while self.reads.units >= READS_MAX:
            await self.wait_commit()
            self.reads.settle()

    def _on_room(self) -> None:
        self.commits += 1
        self._commit.unpark_all()
        if self._room and not self.shell.full:
            self._room.unpark_all()

    async def say_bye(self, reason: str) -> None:
        """Tell every session that the hub ends, flush, close; returns when all are gone.

        The caller bounds the time.
        """
        line = wire.encode(wire.Bye(reason=reason))
        shell = self.shell
        for out in shell.sessions.values():
            shell.send(out, line)
        shell.flush()
        for connection in self._open:
            connection.end(Reason.STOPPED)
        while self._open:
            await self._all_gone.park()
