"""The traffic of one connection to the hub: hello, then lines out and frames in until it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from ecorelay import wire
from ecorelay.errors import WireError
from ecorelay.framing import LineSplitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WELCOME_S: Final = 5.0
"""How long a hub may take to answer hello."""
CLAIM_WELCOME_S: Final = 20.0
"""The same for a session: whether the holder of its name still lives may have to be found out first."""
UNSENT_MAX: Final = 32 * 1024 * 1024
"""Bytes; a hub that lets so much pile up does not read any more."""
_READ: Final = 64 * 1024
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, WireError)


class Lost(Exception):
    """The connection is of no more use, because."""


class Connection:
    """One stream to a hub.

    Resource handling: whoever made `stream` closes it.

    Args:
        stream: connected, and proved to belong to our hub.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._splitter = LineSplitter(wire.LINE_MAX)
        self._lines: Iterator[bytes] = iter(())
        # Owned by queue() and the writer:
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._wake = trio.Event()
        self.over = trio.Event()
        """Set when :meth:`run` has ended."""
        self._scope = trio.CancelScope()
        self._ended = ""

    async def greet(self, hello: wire.Hello) -> wire.Welcome | wire.Refused | wire.Bye:
        """Say hello and wait for what the hub says to it.

        Raises:
            Lost: no answer in time, or one that makes no sense.
        """
        seconds = CLAIM_WELCOME_S if hello.role == "session" else WELCOME_S
        with trio.move_on_after(seconds):
            try:
                await self._stream.send_all(wire.encode(hello))
                while True:
                    match await self._next_frame():
                        case wire.Welcome() | wire.Refused() | wire.Bye() as answer:
                            return answer
                        case wire.Ping():
                            await self._stream.send_all(wire.encode(wire.Pong()))
                        case other:
                            raise Lost(f"the hub answered hello with {type(other).__name__}")
            except _BROKEN as error:
                raise Lost(_reason(error)) from error
        raise Lost(f"the hub did not answer hello within {seconds:.0f} s")

    def queue(self, line: bytes) -> None:
        """Have `line` sent, after all that were queued before, joined with what is waiting by then."""
        self._unsent.append(line)
        self._unsent_bytes += len(line)
        if self._unsent_bytes > UNSENT_MAX:
            self.end("the hub does not read any more")
        self._wake.set()

    def end(self, reason: str) -> None:
        """Stop using the stream; :meth:`run` then returns `reason`, the first one given."""
        self._ended = self._ended or reason
        self._scope.cancel()

    async def run(
        self, on_frame: Callable[[wire.ToSession], None], on_error: Callable[[WireError], None]
    ) -> str:
        """Send what is queued and hand over what comes, until the connection ends; then say why.

        Args:
            on_frame: called for each frame after hello's answer, in order.
            on_error: called for a line that is no frame; the connection goes on.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read(on_frame, on_error)
        finally:
            self.over.set()
        return self._ended or "the hub closed the connection"

    async def _read(
        self, on_frame: Callable[[wire.ToSession], None], on_error: Callable[[WireError], None]
    ) -> None:
        try:
            while True:
                # Everything one read returned is handled before the next await; first what came together
                # with the welcome.
                for line in self._lines:
                    try:
                        frame = wire.decode_to_session(line)
                    except WireError as error:
                        on_error(error)
                    else:
                        on_frame(frame)
                data = await self._stream.receive_some(_READ)
                if not data:
                    self.end("the hub closed the connection")
                    return
                self._lines = self._splitter.feed(data)
        except _BROKEN as error:
            self.end(_reason(error))

    async def _next_frame(self) -> wire.ToSession:
        while True:
            for line in self._lines:
                return wire.decode_to_session(line)
            data = await self._stream.receive_some(_READ)
            if not data:
                raise WireError("the hub closed the connection")
            self._lines = self._splitter.feed(data)

    async def _write(self) -> None:
        try:
            while True:
                if not self._unsent:
                    self._wake = trio.Event()
                    await self._wake.wait()
                data = b"".join(self._unsent)
                self._unsent.clear()
                await self._stream.send_all(data)
                self._unsent_bytes -= len(data)
        except _BROKEN as error:
            self.end(_reason(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, WireError):
        return error.message
    return str(error) or "the connection broke"
