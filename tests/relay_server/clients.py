"""Raw hubs for the relay server's tests: what they say is made by hand, over a real trio-websocket."""

import hashlib
import os
import secrets
import ssl
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import trio
import trio_websocket
import wsproto
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from wsproto.utilities import LocalProtocolError

from ecorelay import relay_wire
from ecorelay.relay_wire import SUBPROTOCOL, RelayHello, RelayNonce
from ecorelay.secret import Secret
from ecorelay_relay_server.journal import Journal
from ecorelay_relay_server.server import Server
from ecorelay_relay_server.settings import RealmSettings, Settings

TOKEN = "a token of the tests, long enough 4711"
URL = "ws://relay.test"
PATIENCE_S = 30.0
open_stream: Any = trio.open_tcp_stream


def settings(*, token=TOKEN, **fields):
    """Settings with one realm."""
    realm = RealmSettings(name="default", tokens=(Secret(token),), max_hubs=1000)
    proxies = (ip_network("127.0.0.0/8"),)
    return Settings(**{"port": 0, "bind": "127.0.0.1", "realms": (realm,), "proxies": proxies, **fields})


@asynccontextmanager
async def running(**fields):
    """A server on a port of its own; `lines` of it is its log."""
    lines = []
    server = Server(settings(**fields), Journal(lambda line: lines.append(line.decode())))
    async with trio.open_nursery() as nursery:
        where = await nursery.start(server.run)
        yield Here(server, where[0][1], lines)
        server.stop()


class Here:
    """A server in this process, with its port and its log."""

    def __init__(self, server, port, lines):
        self.server = server
        self.port = port
        self.lines = lines

    def __getattr__(self, name):
        return getattr(self.server, name)


def over_tls(monkeypatch, cert):
    """Let hubs dial through TLS, to the owner of that certificate."""
    context = ssl.create_default_context(cafile=str(cert))

    async def dial(host, port):
        plain = await trio.open_tcp_stream(host, port)
        stream: Any = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
        stream.socket = plain.socket
        return stream

    monkeypatch.setattr("tests.relay_server.clients.open_stream", dial)


class Identity:
    """A key."""

    def __init__(self):
        self.key = Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes_raw()
        self.address = hashlib.sha256(self.public).digest()

    def hello(self, nonce, *, token=TOKEN, hub_id="hub", url=URL, version=1, key=None, **changes):
        """A hello that proves this hub."""
        fields = {
            "version": version,
            "hub_id": hub_id,
            "public": self.public.hex(),
            "nonce": secrets.token_hex(32),
            "url": url,
            "proof": "0" * 64,
            "signature": "0" * 128,
        } | changes
        said = relay_wire.statement(nonce, RelayHello(**fields))
        fields.setdefault("app_version", "test")
        proof = changes.get("proof") or relay_wire.proof_of(token, said)
        signature = changes.get("signature") or (key or self.key).sign(relay_wire.to_sign(said)).hex()
        return RelayHello(**fields | {"proof": proof, "signature": signature})


class Client:
    """A hub's end of a connection."""

    def __init__(self, socket, identity):
        self.socket = socket
        self.identity = identity
        self.address = identity.address
        self.texts: list[Any] = []
        self.here: list[Any] = []

    async def send(self, kind, to, stream, payload=b""):
        """A data message."""
        await self.socket.send_message(relay_wire.piece(kind, to, stream, payload))

    async def text(self):
        """The next text."""
        with trio.fail_after(PATIENCE_S):
            found = await self.socket.get_message()
        assert isinstance(found, str), found[:50]
        return relay_wire.decode_to_hub(found)

    async def data(self):
        """The next data message; texts before it go to `texts`."""
        with trio.fail_after(PATIENCE_S):
            while True:
                found = await self.socket.get_message()
                if isinstance(found, bytes):
                    return relay_wire.take_apart(found)
                self.texts.append(relay_wire.decode_to_hub(found))

    async def closed(self):
        """The code and reason with which the server closes it, whatever comes before."""
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    await self.socket.get_message()
                except trio_websocket.ConnectionClosed as closed:
                    return how(closed)


def how(closed: Any):
    """The code and reason of a ConnectionClosed."""
    return closed.reason.code, closed.reason.reason


async def nonce_of(socket):
    """The server's, its first message."""
    with trio.fail_after(PATIENCE_S):
        said = relay_wire.decode_to_hub(await socket.get_message())
    assert isinstance(said, RelayNonce)
    return said.nonce


async def connect(nursery, port, *, path="/", subprotocols=(SUBPROTOCOL,), headers=()):
    """A WebSocket before the hello."""
    stream = await open_stream("127.0.0.1", port)
    socket = trio_websocket.WebSocketConnection(
        stream,
        wsproto.WSConnection(wsproto.ConnectionType.CLIENT),
        host=f"localhost:{port}",
        path=path,
        client_subprotocols=subprotocols,
        client_extra_headers=list(headers),
        receive_buffer_size=64 * 1024,
    )
    nursery.start_soon(socket._reader_task)
    nursery.start_soon(_close_at_last, stream)
    await socket._open_handshake.wait()
    return socket


async def _close_at_last(stream):
    """trio-websocket leaves the socket open where the other side closed first."""
    try:
        await trio.sleep_forever()
    finally:
        stream.socket.close()


async def join(nursery, server, identity=None, **fields):
    """A hub that is in, its `here` read."""
    identity = identity or Identity()
    headers = fields.pop("headers", ())
    socket = await connect(nursery, server.port, headers=headers)
    client = Client(socket, identity)
    nonce = await nonce_of(socket)
    await socket.send_message(relay_wire.encode(identity.hello(nonce, **fields)))
    while True:
        part = await client.text()
        client.here += part.hubs
        if part.complete:
            return client


@asynccontextmanager
async def hub(server, identity=None, **fields):
    """As `join`, for a block."""
    with trio.fail_after(PATIENCE_S * 2):
        try:
            async with trio.open_nursery() as nursery:
                client = await join(nursery, server, identity, **fields)
                yield client
                with trio.move_on_after(1):
                    await client.socket.aclose()
                nursery.cancel_scope.cancel()
        except* LocalProtocolError:
            pass  # trio-websocket answers a ping that comes when it has said goodbye


def stream_number():
    """A fresh one."""
    return os.urandom(8)
