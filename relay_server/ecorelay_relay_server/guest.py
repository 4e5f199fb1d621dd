"""A connection before its proof: TLS, the HTTP request, the WebSocket, the hello; all within `HELLO_S`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import trio

from ecorelay import __version__, relay_wire
from ecorelay.errors import WireError
from ecorelay.relay_wire import CLOSE_FRAME, CLOSE_HUB_ID, CLOSE_SLOW, RelayHello
from ecorelay_relay_server import websocket
from ecorelay_relay_server.bounds import CLOSING_S, HEAD_MAX, HELLO_MAX
from ecorelay_relay_server.connection import linger
from ecorelay_relay_server.head import END, answer, plain_answer, read_head
from ecorelay_relay_server.judge import other_version
from ecorelay_relay_server.websocket import Closed, Pinged, WebSocket

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from ecorelay_relay_server.head import Head
    from ecorelay_relay_server.judge import Refused

RECEIVE: Final = 8 * 1024
_TLS_RECORD: Final = b"\x16\x03"


class Turned(Exception):
    """The connection came to nothing.

    Args:
        why: a word, for counting; "" where that is as it should be, a health check.
        say: the last thing to send, or nothing.
        detail: for the log.
    """

    def __init__(self, why: str, say: bytes = b"", detail: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.say = say
        self.detail = detail


class Asked(NamedTuple):
    """A hub's hello, and what is needed to judge it."""

    socket: WebSocket
    nonce: str
    hello: RelayHello


async def encrypt(stream: trio.SocketStream, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    """TLS, server's side.

    Raises:
        Turned: the other side does not speak it.
    """
    encrypted = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        await encrypted.do_handshake()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise Turned("tls", detail="no TLS handshake") from None
    return encrypted


async def read_request(stream: trio.abc.Stream) -> tuple[Head, bytes]:
    """The HTTP request of somebody who wants a WebSocket, and all bytes that were read.

    Raises:
        Turned: the connection ended, or somebody wants something else.
    """
    data = b""
    while END not in data:
        more = await _receive(stream)
        data += more
        if not more:
            raise Turned("closed" if data else "silent")
        if data.startswith(_TLS_RECORD):
            raise Turned("tls", detail="TLS came, and tls_cert is not set: set it, or let a proxy end TLS")
        if len(data) > HEAD_MAX:
            raise Turned("http", answer("431 Request Header Fields Too Large", "the request is too long\n"))
    head = read_head(data)
    if head is None or not head.upgrade:
        healthy = head is not None and head.path == "/healthz"
        raise Turned("" if healthy else "http", plain_answer(head))
    return head, data


async def greet(stream: trio.abc.Stream, request: bytes) -> Asked:
    """Accept the WebSocket, send the nonce, read the hello.

    Raises:
        Turned: no WebSocket, or no hello.
    """
    try:
        response, socket = websocket.accept(request)
    except websocket.Refusal as refusal:
        status = "426 Upgrade Required" if refusal.status == 426 else "400 Bad Request"
        raise Turned("http", answer(status, f"{refusal.reason}\n"), refusal.reason) from None
    socket.limit = HELLO_MAX
    nonce = secrets.token_hex(32)
    versions = (relay_wire.OLDEST_RELAY_VERSION, relay_wire.RELAY_VERSION)
    said = relay_wire.RelayNonce(versions=versions, nonce=nonce, app_version=__version__)
    await _send(stream, response + b"".join(websocket.framed([relay_wire.encode(said)])))
    try:
        return Asked(socket, nonce, await _read_hello(stream, socket))
    except WireError as error:
        code, why = CLOSE_FRAME, "garbage"
        # What is wrong with a hello stands after this in msgspec's words.
        if "`$.hub_id`" in error.message:
            code, why = CLOSE_HUB_ID, "hub_id"
        raise Turned(why, websocket.close(code, error.message), error.message) from None


async def _read_hello(stream: trio.abc.Stream, socket: WebSocket) -> RelayHello:
    while True:
        data = await _receive(stream)
        if not data:
            raise Turned("closed")
        for each in socket.feed(data):
            match each:
                case str():
                    return _hello(each)
                case Pinged():
                    await _send(stream, websocket.pong(each.payload))
                case Closed():
                    raise Turned("closed", websocket.close(1000, ""))
                case bytes():
                    raise WireError("data before the hello")


class _Versioned(msgspec.Struct):
    version: relay_wire.Version


def _hello(text: str) -> RelayHello:
    try:
        return relay_wire.decode_hello(text)
    except WireError:
        # One of another version need not look as ours do to be told so.
        try:
            version = msgspec.json.decode(text, type=_Versioned).version
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            version = relay_wire.RELAY_VERSION
        wrong = other_version(version)
        if wrong is None:
            raise
        raise refused(wrong) from None


async def answer_scrape(stream: trio.abc.Stream, render: Callable[[], str], content_type: str) -> None:
    """Answer one ``GET /metrics``."""
    data = b""
    while END not in data and len(data) <= HEAD_MAX:
        more = await _receive(stream)
        if not more:
            return
        data += more
    head = read_head(data)
    if head is None or head.method != "GET" or head.path != "/metrics":
        await part(stream, answer("404 Not Found", "there is only GET /metrics\n"))
    else:
        await part(stream, answer("200 OK", render(), content_type=content_type))


def too_slow(*, asked: bool) -> Turned:
    """No proof in time; `asked`: after a request for a WebSocket, so there is a way to say so."""
    words = f"no proof within {relay_wire.HELLO_S:.0f} s"
    return Turned("too_slow" if asked else "silent", websocket.close(CLOSE_SLOW, words) if asked else b"")


def refused(verdict: Refused) -> Turned:
    """The hello proves nothing."""
    return Turned(verdict.why, websocket.close(verdict.code, verdict.reason), verdict.reason)


async def part(stream: trio.abc.Stream, last: bytes) -> None:
    """Say the last, and wait a little for the other side to have read it."""
    with trio.move_on_after(CLOSING_S):
        try:
            await stream.send_all(last)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            return
        await linger(stream)


async def _receive(stream: trio.abc.Stream) -> bytes:
    try:
        return bytes(await stream.receive_some(RECEIVE))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return b""


async def _send(stream: trio.abc.Stream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise Turned("closed") from None
