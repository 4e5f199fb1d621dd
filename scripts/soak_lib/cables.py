"""TCP connections that can be cut, frozen in one direction or both, or made slow: what networks do."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PIECE = 32 * 1024
_BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Cable:
    """A proxy in front of a port of this machine; made by `laid`.

    Args:
        name: for reports.
        to: the port it leads to.
        hubs: the hubs that notice when it breaks.
    """

    def __init__(self, name: str, to: int, hubs: tuple[str, ...]) -> None:
        self.name = name
        self.to = to
        self.hubs = hubs
        self.port = 0
        self.cut_off = False
        """Nobody gets through; connections are closed as they come."""
        self.frozen: set[int] = set()
        """Directions (0: towards `to`, 1: back) in which bytes are kept back, and nobody is told."""
        self.bytes_per_s = 0.0
        """How much goes through each way; 0: as much as can."""
        self._pieces: set[trio.CancelScope] = set()
        self._moved = trio.Event()

    def cut(self) -> None:
        """End all connections, and take no more until `heal`."""
        self.cut_off = True
        for scope in self._pieces:
            scope.cancel()

    def freeze(self, *directions: int) -> None:
        """Keep back what comes, both ways or one: a connection that is half open."""
        self.frozen = set(directions or (0, 1))

    def slow(self, bytes_per_s: float) -> None:
        """Let so much through."""
        self.bytes_per_s = bytes_per_s

    def heal(self) -> None:
        """As good as new; what was kept back goes on."""
        self.cut_off = False
        self.frozen = set()
        self.bytes_per_s = 0.0
        self._moved.set()
        self._moved = trio.Event()

    async def _serve(self, near: trio.SocketStream) -> None:
        if self.cut_off:
            await near.aclose()
            return
        with suppress(*_BROKEN), trio.CancelScope() as scope:
            self._pieces.add(scope)
            try:
                async with near, await trio.open_tcp_stream("127.0.0.1", self.to) as far:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pump, near, far, 0, scope)
                        nursery.start_soon(self._pump, far, near, 1, scope)
            finally:
                self._pieces.discard(scope)

    async def _pump(
        self, from_: trio.SocketStream, to: trio.SocketStream, direction: int, both: trio.CancelScope
    ) -> None:
        with suppress(*_BROKEN):
            while data := await from_.receive_some(PIECE):
                while direction in self.frozen:
                    await self._moved.wait()
                if self.bytes_per_s:
                    await trio.sleep(len(data) / self.bytes_per_s)
                await to.send_all(data)
        both.cancel()


@asynccontextmanager
async def laid(*cables: Cable) -> AsyncIterator[None]:
    """These are there, until the end of the block."""
    async with trio.open_nursery() as nursery:
        for cable in cables:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            cable.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, cable._serve, listeners)
        yield
        nursery.cancel_scope.cancel()
