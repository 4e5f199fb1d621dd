"""A hub's connection from its proof to its end: reads what it says, writes what waits for it, says why."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Final

import trio

from ecorelay.errors import WireError
from ecorelay.relay_wire import CLOSE_FRAME, CLOSE_SLOW, HEADER, PIECE_MAX, PING_S
from ecorelay_relay_server import websocket
from ecorelay_relay_server.bounds import CLOSING_S, MESSAGES_AT_ONCE, TAKE
from ecorelay_relay_server.websocket import Closed, Pinged

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay.secret import Secret
    from ecorelay_relay_server.switch import Actions, Hub, LeftReason, Switch
    from ecorelay_relay_server.websocket import WebSocket

RECEIVE: Final = 64 * 1024
"""Bytes read at once."""
SILENT_S: Final = 2 * PING_S
"""Seconds without a word, a pong included, after which a hub is taken for lost."""
NORMAL: Final = 1000


class Connection:
    """A hub's connection, from its proof to its end.

    Args:
        stream: open; the caller closes it.
        socket: of it.
        hub: who it is.
        token: with which it proved itself.
        switch: that all hubs share.
        perform: does what the switch answers.
    """

    __slots__ = (
        "_drain",
        "_end",
        "_event",
        "_perform",
        "_ping",
        "_pong",
        "_read_scope",
        "_scope",
        "_socket",
        "_stream",
        "_switch",
        "heard",
        "hub",
        "left",
        "pinged",
        "token",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        socket: WebSocket,
        hub: Hub,
        token: Secret,
        switch: Switch,
        perform: Callable[[Actions], None],
    ) -> None:
        self.hub = hub
        self.token = token
        self.heard = self.pinged = trio.current_time()
        self.left: LeftReason = "lost"
        """How it ended, for the others."""
        self._stream = stream
        self._socket = socket
        self._switch = switch
        self._perform = perform
        self._event = trio.Event()
        self._scope = trio.CancelScope()
        self._read_scope = trio.CancelScope()
        self._ping = False
        self._pong: bytes | None = None
        self._end: tuple[int, str] | None = None
        self._drain = False

    @property
    def ended(self) -> tuple[int, str] | None:
        """The code and reason with which it is closed or was; None while it is open."""
        return self._end

    async def serve(self) -> None:
        """Until either side ends it. Raises what a broken stream raises only to itself."""
        self._socket.limit = HEADER + PIECE_MAX
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                with self._read_scope:
                    await self._read()
                if self._end is None:
                    nursery.cancel_scope.cancel()

    def wake(self) -> None:
        """Something waits to be written."""
        self._event.set()

    def tick(self, now: float) -> None:
        """Ping it, or end it if it has long been silent. To be called every second or so."""
        if self._end is not None:
            return
        if now > self.heard + SILENT_S:
            self.end(CLOSE_SLOW, f"nothing was heard from it for {SILENT_S:.0f} s", "lost")
        elif now >= self.pinged + PING_S:
            self.pinged = now
            self._ping = True
            self.wake()

    def end(
        self, code: int, reason: str, left: LeftReason, *, within: float = CLOSING_S, drain: bool = False
    ) -> None:
        """Close it: what is being written is finished, then the reason is told, all `within` seconds.

        Args:
            code: see `ecorelay.relay_wire`.
            reason: for a person.
            left: for the other hubs.
            within: then it is cut.
            drain: whether all that waits for it goes first.
        """
        if self._end is not None:
            return
        self._end, self._drain, self.left = (code, reason), drain, left
        self._scope.deadline = trio.current_time() + within
        self._read_scope.cancel()
        self.wake()
        if not drain:
            self._perform(self._switch.leave(self.hub, left))

    # --- reading -----------------------------------------------------------------------------------------

    async def _read(self) -> None:
        data = b""  # what came with the hello is in the socket already
        try:
            while True:
                for handled, each in enumerate(self._socket.feed(data), 1):
                    if isinstance(each, bytes):
                        self._perform(self._switch.data(self.hub, each))
                    elif isinstance(each, Closed):
                        self.end(NORMAL, "", "closed")
                        return
                    elif isinstance(each, Pinged):
                        self._switch.small_talk(self.hub)
                        self._pong = each.payload
                        self.wake()
                    elif each is None:
                        self._switch.small_talk(self.hub)
                    else:
                        self._switch.text(self.hub)
                    if self._end is not None:
                        return
                    if handled % MESSAGES_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
                data, each = b"", None  # a hub that is silent now holds nothing of what it said last
                now = trio.current_time()
                pause = self._switch.pause(self.hub, now)
                if pause:
                    self.heard = now + pause  # it is we who do not listen
                    await trio.sleep(pause)
                data = bytes(await self._stream.receive_some(RECEIVE))
                self.heard = trio.current_time()
                if not data:
                    return
        except WireError as error:
            self.end(CLOSE_FRAME, error.message, "refused")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    # --- writing -----------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while self._end is None or self._drain:
                parts: list[bytes | memoryview] = []
                if self._ping:
                    self._ping = False
                    parts.append(websocket.ping())
                if self._pong is not None:
                    parts.append(websocket.pong(self._pong))
                    self._pong = None
                taken, actions = self._switch.take(self.hub, TAKE)
                self._perform(actions)
                parts += websocket.framed(taken)
                del taken  # not kept while it is being written, or while nothing is
                if parts:
                    data = b"".join(parts)
                    del parts
                    await self._stream.send_all(data)
                    del data
                elif self._drain:
                    break
                else:
                    await self._event.wait()
                    self._event = trio.Event()
            await self._close()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._scope.cancel()

    async def _close(self) -> None:
        if self._end is None:
            raise AssertionError("closed without a reason")
        await self._stream.send_all(websocket.close(*self._end))
        await linger(self._stream)


async def linger(stream: trio.abc.Stream, most: float = math.inf) -> None:
    """Read on until the other side closes too, or `most` bytes have come; the caller bounds the time.

    Closing with its words unread would make the kernel reset the connection, our reason and all.
    """
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()
        while most > 0 and (data := await stream.receive_some(RECEIVE)):
            most -= len(data)
