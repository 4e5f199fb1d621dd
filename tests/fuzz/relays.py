"""Doors at a relay server: its HTTP and WebSocket, hellos, data; and the hub's side of the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

import trio
import wsproto
from wsproto.events import BytesMessage, CloseConnection, Ping, Request, TextMessage

from ecorelay import relay_wire
from ecorelay.errors import WireError
from ecorelay.relay_wire import (
    SUBPROTOCOL,
    Congested,
    Here,
    HubHere,
    Joined,
    Left,
    NoSuchHub,
    RelayHello,
    RelayNonce,
)
from ecorelay_bridge import websocket as hubs
from ecorelay_bridge.proxy import Proxy, connect_through, proxy_for
from ecorelay_bridge.refusals import Refused
from ecorelay_bridge.relay_connection import HUBS_MAX, Connection, news_pace
from ecorelay_bridge.settings import RelayServer, Secret
from ecorelay_relay_server import websocket as servers
from ecorelay_relay_server.bounds import HEAD_MAX
from ecorelay_relay_server.door import behind, source_of
from ecorelay_relay_server.guest import Turned, _hello
from ecorelay_relay_server.head import plain_answer, read_head
from ecorelay_relay_server.judge import Judge, Proven, normal
from ecorelay_relay_server.settings import RealmSettings, Settings
from tests.fuzz.target import Target, chunks, finish, text_of

_HEX = "ab" * 32
_HERE = HubHere(hub_id="desk", address="cd" * 32, app_version="0.1.0")
_HELLO = RelayHello(
    version=1,
    hub_id="desk",
    public=_HEX,
    nonce=_HEX,
    url="wss://relay.example/x",
    proof=_HEX,
    signature=_HEX * 2,
    app_version="0.1.0",
)
_TO_HUB = (
    RelayNonce(versions=(1, 1), nonce=_HEX, app_version="0.1.0"),
    Here(hubs=(_HERE,), complete=True),
    Joined(hub=_HERE),
    Left(address="cd" * 32, reason="lost"),
    NoSuchHub(address="cd" * 32, stream="00" * 8),
    Congested(address="cd" * 32, stream="00" * 8),
)
TEXTS = tuple([relay_wire.encode(each).encode() for each in (*_TO_HUB, _HELLO)])
_FAR = bytes.fromhex("cd" * 32)
PIECES = (
    relay_wire.piece(relay_wire.OPEN, _FAR, bytes(8)),
    relay_wire.piece(relay_wire.DATA, _FAR, bytes(8), b"hello"),
    relay_wire.piece(relay_wire.CREDIT_MORE, _FAR, bytes(8), b"\0\0\1\0"),
    relay_wire.piece(relay_wire.CLOSE, _FAR, bytes(8)),
)
_SETTINGS = Settings(
    port=9800,
    bind="0.0.0.0",
    tls_cert="",
    tls_key="",
    max_hubs=10,
    realms=(RealmSettings(name="main", tokens=(Secret("t" * 20),), max_hubs=10),),
    metrics_port=0,
    metrics_bind="127.0.0.1",
    urls=("wss://relay.example/x",),
    proxies=(),
    warnings=(),
)


def relay_text(data: bytes) -> None:
    """What is said in text, by either side: a message, or a WireError; and no hello passes without proof."""
    text = text_of(data)
    try:
        message = relay_wire.decode_to_hub(text)
        if message is not None:
            assert relay_wire.decode_to_hub(relay_wire.encode(message)) == message
    except WireError as error:
        assert len(error.message) < 300
    try:
        hello = _hello(text)
    except WireError as error:
        assert len(error.message) < 300
    except Turned as turned:
        assert 2 <= len(turned.say) <= 2 + 2 + servers.REASON_MAX
    else:
        assert not isinstance(Judge(_SETTINGS).judge(hello, _HEX, "192.0.2.1", 0.0), Proven)
    normal(text)


def relay_piece(data: bytes) -> None:
    """A data message is what it was made of, or breaks a rule."""
    with suppress(WireError):
        found = relay_wire.take_apart(data)
        assert relay_wire.piece(*found) == data


def relay_request(data: bytes) -> None:
    """Any request has an answer, which says nothing of what was asked."""
    head = read_head(data)
    response = plain_answer(head)
    assert response.startswith(b"HTTP/1.1 ")
    assert response.count(b"\r\n\r\n") == 1
    forwarded = head.forwarded if head is not None else text_of(data)
    found = behind(forwarded, (ip_network("127.0.0.0/8"), ip_network("::1/128")))
    assert len(found) < 200
    assert "\n" not in found
    source_of(found or forwarded)
    try:
        said, _ = servers.accept(data)
    except servers.Refusal as refusal:
        assert refusal.status in (400, 426)
        assert len(refusal.reason) < HEAD_MAX
    else:
        assert said.startswith(b"HTTP/1.1 101 ")


def _at_server(limit: int) -> servers.WebSocket:
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    request = client.send(Request(host="relay", target="/", subprotocols=[SUBPROTOCOL]))
    _, server = servers.accept(request)
    server.limit = limit
    return server


def relay_socket(data: bytes) -> None:
    """What comes after the handshake at the server: messages within the limit, or a WireError."""
    server = _at_server(100)
    with suppress(WireError):
        for chunk in chunks(data):
            for each in server.feed(chunk):
                if isinstance(each, str | bytes):
                    assert len(each) <= 100
                elif isinstance(each, servers.Closed):
                    servers.close(each.code, each.reason)
                    return


class Said(trio.abc.Stream):
    """A stream that says what it was told to, and ends; what it is told is dropped."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = list(pieces)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return self._pieces.pop(0) if self._pieces else b""

    async def aclose(self) -> None:
        self._pieces.clear()


def hub_socket(data: bytes) -> None:
    """What a server answers, and sends after it: messages within the limit, or the end of the WebSocket."""
    pieces = chunks(data)
    opened = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    opened.send(Request(host="relay", target="/", subprotocols=[SUBPROTOCOL]))

    async def run() -> None:
        with suppress(Refused):
            await hubs.open_websocket(Said(pieces), "relay", "/")
        socket = hubs.WebSocket(Said(pieces), _after_handshake())
        with suppress(hubs.Closed):
            while True:
                for message in await socket.receive():
                    assert len(message) <= hubs.MESSAGE_MAX
                assert len(socket._part) <= 1 + sum(map(len, socket._part))
                await socket.send()

    trio.run(run)


def _after_handshake() -> wsproto.WSConnection:
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    response, _ = servers.accept(client.send(Request(host="relay", target="/", subprotocols=[SUBPROTOCOL])))
    client.receive_data(response)
    list(client.events())
    return client


class _Nobody:
    """A guest that looks at what it gets."""

    def arrived(self, connection: Connection) -> None:
        assert connection.complete

    def seen(self, connection: Connection, address: bytes, hub: HubHere | None) -> None:
        assert len(address) == 32

    def called(self, connection: Connection, stream: Any, address: bytes) -> None:
        assert len(address) == 32

    def flooded(self, connection: Connection) -> None:
        raise AssertionError("so much was not told")

    def left(self, connection: Connection) -> None:
        raise AssertionError("nobody left")


def hub_at_relay(data: bytes) -> None:
    """A relay server that says anything: texts, which begin with a brace, and pieces, with ``--`` between."""
    relay = RelayServer(url="wss://relay.example", token=Secret("t" * 20))

    async def run() -> None:
        connection = Connection(relay, bytes(32), news_pace())
        for line in data.split(b"\n--\n"):
            with suppress(WireError):
                if line[:1] == b"{":
                    await connection._told(text_of(line), _Nobody())
                else:
                    connection._streams.take(line)
            while connection._streams.next() is not None:
                pass
        assert len(connection.hubs) <= HUBS_MAX
        assert sum(flow.unread for flow in connection._streams._flows.values()) <= len(data)
        connection.lost()

    trio.run(run)


def proxy_answer(data: bytes) -> None:
    """A proxy's answer opens the way only if it says 2xx (RFC 9110, 9.3.6), and nothing behind it."""
    pieces = [piece for piece in chunks(data) if piece]
    proxy = Proxy("http", "proxy.example", 3128, "user:pass")
    try:
        finish(connect_through(_Plain(pieces), proxy, "relay.example", 443))  # type: ignore[arg-type]
    except Refused as refused:
        assert "pass" not in refused.sentence.replace("password", "")
        return
    assert re.match(rb"HTTP/1\.[01] 2\d\d\b", data[1:])


class _Plain:
    """As `Said`, without an event loop."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def send_all(self, data: bytes) -> None:
        assert data.startswith(b"CONNECT ")

    async def receive_some(self, size: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def proxy_environment(data: bytes) -> None:
    """Variables that name proxies: one that can be asked, none, or a refusal that quotes nothing."""
    proxies, _, rest = data.decode("utf-8", "surrogateescape").partition("\n")
    no_proxy, _, host = rest.partition("\n")
    environ = {"https_proxy": proxies, "no_proxy": no_proxy}
    try:
        proxy = proxy_for(host or "relay.example", 443, encrypted=True, environ=environ)
    except Refused as refused:
        assert len(refused.sentence) < 200
        return
    if proxy is not None:
        assert 0 < proxy.port < 65_536
        request = proxy.request("relay.example", 443)
        assert request.startswith(b"CONNECT relay.example:443 HTTP/1.1\r\n")
        assert request.count(b"\r\n") in (3, 4)


_REQUEST = (
    b"GET /x?y HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: ecorelay-relay-1\r\nX-Forwarded-For: 192.0.2.7, fe80::1%eth0, 127.0.0.1\r\n\r\n"
)
_ANSWER = (
    b"HTTP/1.1 101 \r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: ecorelay-relay-1\r\n\r\n"
)


def _client_frames() -> tuple[bytes, ...]:
    client = _after_handshake()
    return (
        client.send(BytesMessage(data=b"ab", message_finished=False)) + client.send(BytesMessage(data=b"cd")),
        client.send(TextMessage(data="ünd")) + client.send(Ping(payload=b"p")),
        client.send(TextMessage(data="x" * 90)),
        client.send(CloseConnection(code=1000, reason="bye")),
    )


_SERVER_FRAMES = (
    b"".join([bytes(part) for part in servers.framed(["{}", "ünd"])]) + servers.ping(b"p"),
    b"\x01\x01a\x00\x00\x00\x00\x80\x01b",
    servers.close(4003, "no"),
    b"\x82\x7e\x01\x00" + bytes(256),
)
_HEAD_WORDS = (b"\r\n", b"X-Forwarded-For: ", b"Upgrade: websocket\r\n", b"::ffff:1.2.3.4", b"%", b"[::1]")
_FRAME_WORDS = (b"\x00\x00", b"\x80\x00", b"\x01\x7e\xff\xff", b"\x88\x02\x03\xe8", b"\x89\x00", b"\xc1\x00")

TARGETS = (
    Target("relay-text", relay_text, TEXTS, (b'"type":"', b'"versions":[', b'"version":', _HEX.encode())),
    Target("relay-piece", relay_piece, PIECES, (bytes(8), b"\x01", b"\x04")),
    Target(
        "relay-request",
        relay_request,
        (_REQUEST, b"GET /healthz HTTP/1.1\r\n\r\n", b"HEAD / HTTP/1.0\r\n\r\n"),
        _HEAD_WORDS,
    ),
    Target("relay-socket", relay_socket, tuple([b"\x40" + each for each in _client_frames()]), _FRAME_WORDS),
    Target(
        "hub-socket",
        hub_socket,
        (b"\xff" + _ANSWER, *[b"\x40" + each for each in _SERVER_FRAMES]),
        (*_FRAME_WORDS, *_HEAD_WORDS, b"HTTP/1.1 302 Found\r\n"),
    ),
    Target(
        "hub-at-relay",
        hub_at_relay,
        (b"\n--\n".join([*TEXTS[1:6], *PIECES]), b"\n--\n".join(PIECES), *TEXTS[:6]),
        (b"\n--\n", *PIECES, *TEXTS[1:6]),
    ),
    Target(
        "proxy-answer",
        proxy_answer,
        (b"\x40HTTP/1.1 200 Connection established\r\n\r\n", b"\x10HTTP/1.0 407 No\r\nX: y\r\n\r\n"),
        (b"\r\n\r\n", b"HTTP/1.1 200 ", b"HTTP/1.1 503 "),
    ),
    Target(
        "proxy-environment",
        proxy_environment,
        (b"http://user:p%40ss@[::1]:3128\n.example,10.0.0.0/8:443\nrelay.example", b"proxy:80\n*\n::1"),
        (b"http://", b"https://", b"@", b"%ff", b"[", b"]", b":", "²".encode(), b"\n", b"*.", b"/24"),
    ),
)
