"""Codex's daemon: JSON-RPC without its version member, in text frames of a WebSocket, over a Unix socket.

A plain ``codex`` starts it; all its terminals share it. It is not ours: whatever it does, or does not answer
in time, ends the connection as `Gone`, and a new one is made by who needs it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from msgspec import Raw, Struct

from ecorelay import __version__
from ecorelay.peercred import peer_cred

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from wsproto import WSConnection
    from wsproto.events import Event

    Note = Callable[[str, Mapping[str, Any]], None]

ANSWER_S: Final = 10.0
"""How long the daemon may take for an answer, or for opening the connection."""
MESSAGE_MAX: Final = 64 * 1024 * 1024
"""Characters of one message: a page of a thread's history may be long."""
CHUNK: Final = 64 * 1024
SOCKET: Final = ("app-server-control", "app-server-control.sock")
"""Where it listens, below ``CODEX_HOME``."""
METHOD_NOT_FOUND: Final = -32601


class Gone(Exception):
    """There is no daemon, it went away, or it does not answer: ask another connection."""


class Refused(Exception):
    """The daemon answered with an error: asking again would not help."""


class _Error(Struct):
    message: str = ""


class _Message(Struct):
    """All there is: a request, a notification or an answer."""

    id: int | str | None = None
    method: str | None = None
    params: Raw = Raw(b"{}")
    result: Raw = Raw(b"{}")
    error: _Error | None = None


class _Answer(Struct):
    came: trio.Event
    message: _Message | None = None


async def connect(codex_home: str) -> trio.abc.Stream:
    """Connect to the daemon of this ``CODEX_HOME``.

    Raises:
        OSError: there is none, or another user listens there.
    """
    if not hasattr(trio.socket, "AF_UNIX"):
        raise OSError("this system has no Unix sockets")
    # It is a link into the temporary directory, because a socket's path must be short: so must ours be.
    path = os.path.realpath(os.path.join(codex_home, *SOCKET))  # noqa: ASYNC240
    made = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await made.connect(path)
        cred = peer_cred(made)
        if cred is not None and cred.uid != os.geteuid():
            raise OSError("another user listens there")
    except BaseException:
        made.close()
        raise
    return trio.SocketStream(made)


class Daemon:
    """One open connection; made by `visit`."""

    def __init__(self, stream: trio.abc.Stream, note: Note) -> None:
        self._socket = _WebSocket(stream)
        self._note = note
        self._number = 0
        self._open: dict[int | str, _Answer] = {}
        self._over = False
        self._ended = trio.CancelScope()

    async def introduce(self) -> None:
        """Open the connection and say who we are.

        Raises:
            Gone: it did not come about.
        """
        with trio.move_on_after(ANSWER_S) as patience:
            await self._socket.open()
        if patience.cancelled_caught:
            raise Gone("the daemon does not open the connection")

    async def greet(self) -> None:
        """The first words; the connection is read meanwhile."""
        info = {"name": "ecorelay", "title": "ecorelay", "version": __version__}
        await self.ask("initialize", clientInfo=info, capabilities={"experimentalApi": True})
        await self._send({"method": "initialized"})

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask, and give the result.

        Raises:
            Gone: no answer. Whether it was done is unknown, and this connection is over.
            Refused: it answered with an error.
        """
        if self._over:
            raise Gone("the daemon went away")
        self._number += 1
        number, answer = self._number, _Answer(trio.Event())
        self._open[number] = answer
        try:
            with trio.move_on_after(ANSWER_S):
                await self._send({"id": number, "method": method, "params": params})
                await answer.came.wait()
        finally:
            del self._open[number]
        if answer.message is None:
            self.end()
            raise Gone(f"the daemon does not answer {method}")
        if answer.message.error is not None:
            raise Refused(f"{method}: {answer.message.error.message[:300]}")
        return _object(answer.message.result)

    def end(self) -> None:
        """Nothing more comes: who waits for an answer is told."""
        self._over = True
        for answer in self._open.values():
            answer.came.set()
        self._ended.cancel()

    async def read(self) -> None:
        """Take what the daemon says until it goes away, or `end`."""
        try:
            with self._ended:
                while (text := await self._socket.receive()) is not None:
                    await self._take(text)
        except Gone:
            pass
        finally:
            self.end()

    async def _take(self, text: str) -> None:
        try:
            message = msgspec.json.decode(text, type=_Message)
        except (msgspec.DecodeError, RecursionError):
            return  # not meant for us
        if message.method is None:
            answer = self._open.get(message.id or 0)
            if answer is not None:
                answer.message = message
                answer.came.set()
        elif message.id is not None:
            error = {"code": METHOD_NOT_FOUND, "message": "ecorelay does not decide that"}
            await self._send({"id": message.id, "error": error})
        else:
            self._note(message.method, _object(message.params))

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._socket.send(msgspec.json.encode(message).decode())


def _object(raw: Raw) -> dict[str, Any]:
    """What it holds; nothing, if that is no object."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


async def visit(
    connect: Callable[[], Awaitable[trio.abc.Stream]],
    note: Note,
    stay: Callable[[Daemon], Awaitable[None]],
) -> str:
    """Connect, and do `stay` while the connection lasts.

    Args:
        connect: gives the stream.
        note: called with each notification: method and params.
        stay: cancelled when the connection is gone. It may raise `Gone` and `Refused`.

    Returns:
        why it is over; empty: `stay` came to its end.
    """
    try:
        with trio.fail_after(ANSWER_S):
            stream = await connect()
    except (OSError, trio.TooSlowError) as error:
        return str(error) or type(error).__name__
    why = "the daemon went away"
    async with stream:
        daemon = Daemon(stream, note)
        try:
            await daemon.introduce()
        except Gone as error:
            return str(error)
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                await daemon.read()
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            await trio.lowlevel.checkpoint()
            try:
                await daemon.greet()
                await stay(daemon)
                why = ""
            except (Gone, Refused) as error:
                why = str(error)
            nursery.cancel_scope.cancel()
    return why


class _WebSocket:
    """A WebSocket's client side over any stream. Whatever goes wrong is `Gone`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        from wsproto import ConnectionType, WSConnection  # only who talks to a daemon pays for it

        self._stream = stream
        self._protocol: WSConnection = WSConnection(ConnectionType.CLIENT)
        self._sending = trio.Lock()
        self._pending: list[Event] = []
        self._text: list[str] = []
        self._size = 0

    async def open(self) -> None:
        from wsproto.events import AcceptConnection, Request

        await self._write(Request(host="localhost", target="/"))
        while not self._pending:  # a handshake in pieces
            self._pending = await self._events()
        if not isinstance(self._pending.pop(0), AcceptConnection):
            raise Gone("the daemon speaks another protocol")

    async def send(self, text: str) -> None:
        from wsproto.events import TextMessage

        await self._write(TextMessage(data=text))

    async def receive(self) -> str | None:
        """The next text; None at the end."""
        from wsproto.events import CloseConnection, Ping, TextMessage

        while True:
            if self._pending:
                event = self._pending.pop(0)
            else:
                self._pending = await self._events()
                continue
            match event:
                case TextMessage(data=data, message_finished=finished):
                    self._text.append(data)
                    self._size += len(data)
                    if self._size > MESSAGE_MAX:
                        raise Gone("the daemon's message is too long")
                    if finished:
                        text = "".join(self._text)
                        self._text, self._size = [], 0
                        return text
                case Ping():
                    await self._write(event.response())
                case CloseConnection():
                    return None
                case _:  # pongs, and bytes: nothing it sends
                    pass

    async def _events(self) -> list[Event]:
        from wsproto.utilities import RemoteProtocolError

        try:
            data = await self._stream.receive_some(CHUNK)
            if not data:
                raise Gone("the daemon went away")
            self._protocol.receive_data(bytes(data))
            return list(self._protocol.events())
        except (trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError) as error:
            raise Gone("the daemon went away") from error

    async def _write(self, event: Event) -> None:
        from wsproto.utilities import LocalProtocolError

        try:
            async with self._sending:
                await self._stream.send_all(self._protocol.send(event))
        except (trio.BrokenResourceError, trio.ClosedResourceError, LocalProtocolError) as error:
            raise Gone("the daemon went away") from error
