"""A WebSocket to a server, over a stream we connected ourselves. The only module here that knows trio-websocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from ecorelay.relay_wire import HEADER, PIECE_MAX, SUBPROTOCOL, TEXT_MAX
from ecorelay_bridge.refusals import Reason, Refused

if TYPE_CHECKING:
    from trio_websocket import WebSocketConnection

MESSAGE_MAX: Final = max(TEXT_MAX, PIECE_MAX + HEADER)
READ_SIZE: Final = 256 * 1024
QUEUE: Final = 64
"""Messages the library may keep for us: each hand-over to our task costs it as much as a message."""
ABNORMAL: Final = 1006
"""The connection ended without a close of the WebSocket."""
_AWAY: Final = frozenset({502, 503, 504})
"""HTTP: a proxy is there, and the server behind it is not."""
NOT_HERE: Final = "correct url in bridge.json: host, port and path of the relay server"


class Closed(Exception):
    """The WebSocket ended.

    Args:
        code: of RFC 6455, 7.4, or the relay's own; `ABNORMAL` where there was none.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class WebSocket:
    """One that is open; made by :func:`open_websocket`. One task may send and another receive."""

    def __init__(self, connection: WebSocketConnection, ears: _Ears) -> None:
        self._connection = connection
        self._ears = ears

    @property
    def heard(self) -> float:
        """When anything came last, pings included."""
        return self._ears.heard

    async def send(self, message: str | bytes) -> None:
        """Send one message. Cancelled, the connection is of no use any more.

        Raises:
            Closed: it ended.
        """
        await self._guarded(self._connection.send_message, message)

    async def receive(self) -> str | bytes:
        """The next message. Raises as :meth:`send`."""
        message: str | bytes = await self._guarded(self._connection.get_message)
        return message

    async def ping(self) -> None:
        """Ask whether the server is there, and wait for the answer. Raises and is cancelled as :meth:`send`."""
        await self._guarded(self._connection.ping)

    async def _guarded(self, what: Any, *args: Any) -> Any:
        from trio_websocket import ConnectionClosed

        try:
            return await what(*args)
        except ConnectionClosed as closed:
            raise Closed(ABNORMAL if closed.reason is None else closed.reason.code) from None


async def open_websocket(nursery: trio.Nursery, stream: trio.abc.Stream, host: str, path: str) -> WebSocket:
    """Ask the server at the other end of `stream` for a WebSocket.

    Resource handling: what it runs in `nursery` ends with the stream, or when that is cancelled. The caller
    closes the stream. See also :func:`ended_badly`.

    Args:
        nursery: for its reader.
        stream: connected, TLS included.
        host: for the header, with the port where it is not the usual one.
        path: with the query.

    Raises:
        Refused: there is none, and what is there instead.
    """
    from trio_websocket import ConnectionClosed, ConnectionRejected, wrap_client_stream

    ears = _Ears(stream)
    try:
        connection = await wrap_client_stream(
            nursery,
            ears,  # type: ignore[arg-type] # it uses what any stream has
            host,
            path,
            subprotocols=[SUBPROTOCOL],
            message_queue_size=QUEUE,
            max_message_size=MESSAGE_MAX,
            receive_buffer_size=READ_SIZE,
        )
    except ConnectionRejected as rejected:
        raise _refused(rejected.status_code) from None
    except ConnectionClosed:
        raise not_http() from None
    if connection.subprotocol != SUBPROTOCOL:
        raise Refused(
            Reason.NO_RELAY, "a WebSocket server answers there, but no relay server of ecorelay", NOT_HERE
        )
    return WebSocket(connection, ears)


def not_http() -> Refused:
    """What answers says nothing that we know."""
    return Refused(
        Reason.NO_RELAY,
        "it took the connection and ended it without a WebSocket: no relay server, or one that is just going",
        NOT_HERE,
    )


def ended_badly(group: BaseExceptionGroup[BaseException]) -> bool:
    """Whether a nursery given to :func:`open_websocket` failed only because the server talked nonsense."""
    from trio_websocket import ConnectionClosed, HandshakeError
    from wsproto.utilities import ProtocolError

    return group.split((ConnectionClosed, HandshakeError, ProtocolError))[1] is None


def _refused(status: int) -> Refused:
    if status in _AWAY:
        return Refused(
            Reason.RELAY_AWAY,
            f"a proxy answers there, but not the relay server behind it (HTTP {status})",
            "start the relay server; does the proxy know its port?",
        )
    if 300 <= status < 400:
        return Refused(
            Reason.NO_RELAY,
            f"it redirects elsewhere (HTTP {status})",
            "write the address it leads to into url, with wss:// for https://",
        )
    if status in (401, 403, 407):
        return Refused(
            Reason.NO_RELAY,
            f"something in front of the relay server asks for a login or refuses (HTTP {status})",
            "let WebSocket requests to the relay server through there",
        )
    return Refused(
        Reason.NO_RELAY,
        f"a web server answers there, but no relay server (HTTP {status})",
        f"{NOT_HERE}; a proxy in front of it must pass on WebSockets",
    )


class _Ears(trio.abc.Stream):
    """Notes when something was heard: the library does not say, for pings it answers itself."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.heard = trio.current_time()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self.heard = trio.current_time()
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()
