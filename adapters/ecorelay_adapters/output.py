"""What goes out to the client: whole lines through one writer, and what became of the results in them."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from ecorelay_adapters import jsonrpc
from ecorelay_adapters.handover import PATIENCE, Handover, Handovers, ToolResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ecorelay_adapters.handover import Callback
    from ecorelay_adapters.jsonrpc import Id
    from ecorelay_adapters.stdio import Wire

QUEUE_MAX: Final = 64
"""Lines waiting to be written. Whoever has the next one waits, the reader of stdin included."""
JOIN_MAX: Final = 64 * 1024
"""Bytes after which no further waiting line joins the same write."""
GRACE: Final = 0.15
"""Seconds for the last lines, and then for the last callbacks, when the connection ends."""


class Line:
    """One line to be written: a notification, a response, or the array of responses a batch is owed."""

    __slots__ = ("_array", "_owed", "parts")

    def __init__(self, owed: int = 1, array: bool = False) -> None:
        self._owed = owed
        self._array = array
        self.parts: list[tuple[bytes, Handover | None]] = []

    def add(self, part: bytes | None, handover: Handover | None = None) -> bool:
        """Add one answer, None where none is due. Whether it was the last one owed."""
        self._owed -= 1
        if part is not None:
            self.parts.append((part, handover))
        return self._owed == 0

    def render(self) -> bytes:
        """Its bytes, newline included, without what was cancelled meanwhile; empty if nothing is left."""
        left = [part for part, handover in self.parts if handover is None or not handover.dropped]
        if not left:
            return b""
        return b"[" + b",".join(left) + b"]\n" if self._array else left[0] + b"\n"


class Output:
    """The client's end of one connection, as far as we write to it.

    The reader of stdin says what it learns: `quiet` before it waits, `heard` and `cancelled` for what
    it read. From that and from the clock follows what became of each result.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._queue, self._unwritten = trio.open_memory_channel[Line](QUEUE_MAX)
        self._written = 0  # bytes
        self._flushed = trio.Event()
        self._reader_waits = False
        self._handovers = Handovers(self.tell)
        self._telling: set[trio.CancelScope] = set()
        self._ending = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Write while the body runs, and for `GRACE` seconds after it; nothing is confirmed then.

        The body is cancelled when nobody reads our output any more; that raises nothing.
        """
        with self._unwritten:
            async with trio.open_nursery() as self._nursery:
                try:
                    self._nursery.start_soon(self._write)
                    yield
                    self._wind_down()
                    self._queue.close()
                    with trio.move_on_after(GRACE):
                        await self._flushed.wait()
                finally:
                    self._wind_down()
                    self._nursery.cancel_scope.cancel()

    async def send(self, line: Line) -> None:
        """Queue a line; waits while `QUEUE_MAX` are unwritten.

        Raises:
            trio.ClosedResourceError: the connection has ended.
        """
        try:
            await self._queue.send(line)
        except trio.BrokenResourceError:
            raise trio.ClosedResourceError("the client is gone") from None

    async def finish(self, line: Line, part: bytes | None, handover: Handover | None = None) -> None:
        """Add one answer to a line, None where none is due; send the line when it has all it owes."""
        if line.add(part, handover):
            await self.send(line)

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification; raises like `send`."""
        await self.finish(Line(), jsonrpc.notification(method, params))

    def returned(self, request_id: Id, result: ToolResult) -> Handover:
        """A tool's result is about to be sent, in a line that carries this handover."""
        return self._handovers.returned(request_id, result)

    def quiet(self, waits: bool) -> None:
        """Whether the reader waits for input, with no part of a line in its hands."""
        self._reader_waits = waits
        self._arm()

    def heard(self) -> None:
        """The client sent a line; what it cancels was said before by `cancelled`."""
        self._handovers.heard(self._taken())

    def cancelled(self, request_id: Id) -> None:
        """The client gave up a request whose tool had returned."""
        self._handovers.cancelled(request_id)

    def tell(self, callback: Callback) -> None:
        """Call it in a task of its own, which outlives the connection by `GRACE` seconds at most."""
        self._nursery.start_soon(self._call, callback)

    async def _write(self) -> None:
        async for first in self._unwritten:
            lines = [(first, first.render())]
            size = len(lines[0][1])
            with suppress(trio.WouldBlock, trio.EndOfChannel):
                while size < JOIN_MAX:
                    line = self._unwritten.receive_nowait()
                    lines.append((line, line.render()))
                    size += len(lines[-1][1])
            try:
                await self._wire.stdout.send_all(b"".join(data for _, data in lines))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._nursery.cancel_scope.cancel()
                return
            for line, data in lines:
                self._written += len(data)
                for _, handover in line.parts:
                    if handover is not None and self._handovers.written(handover, self._written):
                        self._nursery.start_soon(self._wait_for_silence, handover)
            self._arm()
        self._flushed.set()

    def _arm(self) -> None:
        if self._reader_waits and not self._wire.pending():
            self._handovers.arm()

    def _taken(self) -> int:
        return self._written - self._wire.untaken()

    async def _wait_for_silence(self, handover: Handover) -> None:
        settled = False
        while not settled:
            await trio.sleep(PATIENCE)
            # An orphan's silence says nothing; it will end in a moment.
            settled = self._wire.orphaned() or self._handovers.overdue(handover, self._taken())

    def _wind_down(self) -> None:
        self._ending = True
        self._handovers.lose()
        for scope in self._telling:
            scope.deadline = min(scope.deadline, trio.current_time() + GRACE)

    async def _call(self, callback: Callback) -> None:
        with trio.CancelScope(shield=True) as scope:
            if self._ending:
                scope.deadline = trio.current_time() + GRACE
            self._telling.add(scope)
            try:
                waits = callback()
                if waits is not None:
                    await waits
            except Exception:
                print_traceback()
            finally:
                self._telling.discard(scope)


def print_traceback() -> None:
    """Print the current exception on stderr, for a person; failing at that must not end the server."""
    import traceback

    with suppress(Exception):
        sys.stderr.write(traceback.format_exc())  # in one piece: other adapters write to the same log
