"""A WebSocket to a server, over a stream we connected ourselves. The only module here that knows wsproto.

All that waits leaves in one write and all that one read brings is handed over at once: that is most of what a
WebSocket costs. Nothing here reads unasked, so what is not received is held back by the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from ecorelay.relay_wire import HEADER, PIECE_MAX, SUBPROTOCOL, TEXT_MAX
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.workers import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsproto import WSConnection
    from wsproto.events import BytesMessage, TextMessage

MESSAGE_MAX: Final = max(TEXT_MAX, PIECE_MAX + HEADER)
READ_SIZE: Final = 256 * 1024
SLICE: Final = 256
"""Frames taken apart before others on this machine get a turn: one read may bring a hundred thousand."""
CONTROL_PER_S: Final = 10.0
CONTROL_BURST: Final = 200
"""Frames that carry nothing (pings, and pieces of a message with no bytes in them) which are put up with."""
ABNORMAL: Final = 1006
"""The connection ended without a close of the WebSocket."""
TOO_BIG: Final = 1009
NONSENSE: Final = 1002
TOO_MUCH: Final = 1008
_AWAY: Final = frozenset(range(500, 600)) - {501, 505}
"""HTTP: a proxy or a tunnel is there, and the server behind it is not."""
_NOT_HERE: Final = "correct url in bridge.json: host, port and path of the relay server"


class Closed(Exception):
    """The WebSocket ended.

    Args:
        code: of RFC 6455, 7.4, or the relay's own; `ABNORMAL` where there was none.
        ours: it is our verdict on what came, not the server's word.
    """

    def __init__(self, code: int, *, ours: bool = False) -> None:
        super().__init__(f"closed with {code}")
        self.code = code
        self.ours = ours


class WebSocket:
    """One that is open; made by :func:`open_websocket`. One task may send and another receive.

    Attributes:
        heard: when anything came last, pings included.
        on_control: called when :meth:`send` should be called, be it with nothing: a ping is to be answered.
    """

    def __init__(self, stream: trio.abc.Stream, protocol: WSConnection) -> None:
        self.heard = trio.current_time()
        self.on_control: Callable[[], None] = lambda: None
        self._stream = stream
        self._protocol = protocol
        self._control = b""
        """The answer to the last ping; older ones need none."""
        self._part: list[bytes | str] = []
        self._part_size = 0
        self._ended = 0
        self._ours = False
        """See `Closed`."""
        self._more = False
        """What was read is not taken apart to its end."""
        self._idle = Pace(CONTROL_PER_S, CONTROL_BURST)

    async def send(self, messages: Sequence[str | bytes] = ()) -> None:
        """Send messages in one write. Cancelled, the connection is of no use any more.

        Raises:
            Closed: it ended.
        """
        from wsproto.events import BytesMessage, TextMessage

        if self._ended:
            raise Closed(self._ended, ours=self._ours)
        parts = [self._control] if self._control else []
        self._control = b""
        for message in messages:
            event = BytesMessage(data=message) if isinstance(message, bytes) else TextMessage(data=message)
            parts.append(self._protocol.send(event))
        try:
            await self._stream.send_all(parts[0] if len(parts) == 1 else b"".join(parts))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Closed(ABNORMAL) from None

    def ping(self) -> None:
        """Have the server asked whether it is there."""
        from wsproto.events import Ping

        if not self._ended:
            self._control = self._protocol.send(Ping())
            self.on_control()

    async def receive(self) -> list[str | bytes]:
        """The next messages, all that are there; at least one.

        Raises:
            Closed: it ended; everything before that was received.
        """
        while True:
            if self._more:
                await trio.lowlevel.checkpoint()
                self.heard = trio.current_time()
            found = self._events()
            if found:
                return found
            if self._ended:
                raise Closed(self._ended, ours=self._ours)
            if self._more:
                continue
            try:
                data = await self._stream.receive_some(READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise Closed(ABNORMAL) from None
            if not data:
                raise Closed(ABNORMAL)
            self.heard = trio.current_time()
            self._protocol.receive_data(bytes(data))

    def _events(self) -> list[str | bytes]:
        from wsproto.connection import ConnectionState
        from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
        from wsproto.utilities import ProtocolError

        found: list[str | bytes] = []
        self._more = False
        try:
            for count, event in enumerate(self._protocol.events(), 1):
                if isinstance(event, BytesMessage | TextMessage):
                    self._gather(event, found)
                elif isinstance(event, Ping):
                    self._spend()
                    self._control = self._protocol.send(event.response())
                    self.on_control()
                elif isinstance(event, CloseConnection):
                    # It makes one itself of what is no WebSocket; then nobody has closed anything yet.
                    self._end(int(event.code), ours=self._protocol.state is ConnectionState.OPEN)
                else:
                    self._spend()
                if self._ended:
                    break
                if count >= SLICE:
                    self._more = True
                    break
        except ProtocolError:
            self._end(NONSENSE, ours=True)
        return found

    def _end(self, code: int, *, ours: bool) -> None:
        if not self._ended:
            self._ended, self._ours = code, ours

    def _spend(self) -> None:
        now = trio.current_time()
        if self._idle.wait(now) > 0:
            self._end(TOO_MUCH, ours=True)
        self._idle.take(now)

    def _gather(self, event: BytesMessage | TextMessage, found: list[str | bytes]) -> None:
        if not event.data and not event.message_finished:
            self._spend()
            return
        if event.message_finished and not self._part:
            self._part_size = len(event.data)
            message = _as_sent(event)
        else:
            self._part.append(_as_sent(event))
            self._part_size += len(event.data)
            message = b""
        if self._part_size > MESSAGE_MAX:
            self._end(TOO_BIG, ours=True)
        elif event.message_finished:
            if self._part:
                empty = self._part[0][:0]
                message = empty.join(self._part)  # type: ignore[arg-type] # all of one kind
                self._part = []
            self._part_size = 0
            found.append(message)


def _as_sent(event: BytesMessage | TextMessage) -> bytes | str:
    return event.data if isinstance(event.data, str) else bytes(event.data)


async def open_websocket(stream: trio.abc.Stream, host: str, path: str) -> WebSocket:
    """Ask the server at the other end of `stream` for a WebSocket. The caller closes the stream.

    Args:
        stream: connected, TLS included.
        host: for the header, with the port where it is not the usual one.
        path: with the query.

    Raises:
        Refused: there is none, and what is there instead.
    """
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, RejectConnection, Request
    from wsproto.utilities import ProtocolError

    protocol = WSConnection(ConnectionType.CLIENT)
    answered = False
    try:
        await stream.send_all(protocol.send(Request(host=host, target=path, subprotocols=[SUBPROTOCOL])))
        while True:
            data = await stream.receive_some(READ_SIZE)
            if not data:
                raise _not_http(answered)
            answered = True
            protocol.receive_data(bytes(data))
            # Only the first event: what comes after it is for the one who receives.
            for event in protocol.events():
                if isinstance(event, RejectConnection):
                    raise _refused(event.status_code)
                if isinstance(event, AcceptConnection):
                    if event.subprotocol != SUBPROTOCOL:
                        raise Refused(
                            Reason.NO_RELAY,
                            "a WebSocket server answers there, but no relay server of ecorelay",
                            _NOT_HERE,
                        )
                    return WebSocket(stream, protocol)
    except (ProtocolError, UnicodeDecodeError, trio.BrokenResourceError):
        # UnicodeDecodeError: in a header that wsproto takes to be of letters.
        raise _not_http(answered) from None


def _not_http(answered: bool) -> Refused:
    if not answered:
        # Tunnels and forwarders take connections for a server that is not running.
        return Refused(
            Reason.RELAY_AWAY,
            "it took the connection and ended it without a word: the relay server behind it is not running, "
            "or what is there is none",
            "start the relay server; is the port in url right?",
        )
    return Refused(
        Reason.NO_RELAY,
        "what it answers is no WebSocket: no relay server, or something in between that opens TLS or HTTP",
        _NOT_HERE,
    )


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
        f"{_NOT_HERE}; a proxy in front of it must pass on WebSockets",
    )
