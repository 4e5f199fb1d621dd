"""Lines of one connection, with what all connections together may hold of unfinished ones bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ecorelay.daemon.reasons import Ended, Reason
from ecorelay.daemon.streams import READ_SIZE
from ecorelay.framing import LineSplitter
from ecorelay.wire import LINE_MAX_BEFORE_HELLO

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_LINE = LINE_MAX_BEFORE_HELLO
"""Bytes of an unfinished line beyond which its connection needs one of the few places for long ones."""
LONG_LINES = 4
"""Such places: with `LINE_MAX` each they bound what unfinished lines cost."""
LINE_S = 10.0
"""Seconds for which a connection may be waited for in the middle of one line, all in all: who sends a byte
now and then keeps no place for ever. Before hello `HELLO_S` is shorter."""


def long_line_places() -> trio.CapacityLimiter:
    """What all connections of a hub share."""
    return trio.CapacityLimiter(LONG_LINES)


class Lines:
    """Reads lines from a stream.

    Resource handling: call :meth:`close` when done. The stream is not closed here.

    Args:
        stream: of the connection.
        places: see `long_line_places`.
    """

    def __init__(self, stream: trio.abc.Stream, places: trio.CapacityLimiter) -> None:
        self._stream = stream
        self._places = places
        self._splitter = LineSplitter()
        self._whole: Iterator[bytes] = iter(())
        self._placed = False
        self._patience = LINE_S
        """Seconds left for the line that is not whole."""

    def allow(self, limit: int) -> None:
        """Set the longest line allowed, in bytes."""
        self._splitter.limit = limit

    async def next(self) -> bytes:
        """The next line.

        Raises:
            Ended: `EOF`, or `STALLED`.
            WireError: it is too long.
            BrokenResourceError: the connection broke.
        """
        while True:
            for line in self._whole:
                return line
            self._whole = await self.read()

    def rest(self) -> Iterator[bytes]:
        """The lines that arrived together with those of :meth:`next`; they are not given again."""
        whole, self._whole = self._whole, iter(())
        return whole

    async def read(self) -> Iterator[bytes]:
        """Wait for bytes; give the lines they complete, perhaps none. Raises as :meth:`next`."""
        pending = self._splitter.pending
        if pending:
            data = await self._read_more(pending)
        else:
            data = await self._stream.receive_some(READ_SIZE)
        if not data:
            raise Ended(Reason.EOF)
        lines = self._splitter.feed(data)
        if self._splitter.pending < pending + len(data):
            self._patience = LINE_S
        if self._placed and self._splitter.pending <= LONG_LINE:
            self.close()
        return lines

    async def _read_more(self, pending: int) -> bytes | bytearray:
        if pending > LONG_LINE and not self._placed:
            await self._places.acquire_on_behalf_of(self)
            self._placed = True
        began = trio.current_time()
        with trio.move_on_after(self._patience):
            data = await self._stream.receive_some(READ_SIZE)
            self._patience -= trio.current_time() - began
            return data
        raise Ended(Reason.STALLED)

    def close(self) -> None:
        """Give the place for a long line back, if this has one."""
        if self._placed:
            self._placed = False
            self._places.release_on_behalf_of(self)
