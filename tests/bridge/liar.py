"""A relay server that does as a test likes, byte by byte: what hubs meet if one is hostile, or is none."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio

from ecorelay import relay_wire
from ecorelay.relay_wire import Here, HubHere, RelayMessage, RelayNonce

TEXT, BINARY, PING = 1, 2, 9
NONCE = RelayNonce(versions=(1, 1), nonce="ab" * 32)
Script = Callable[["Liar"], Awaitable[None]]


def frame(kind: int, payload: bytes = b"", *, last: bool = True) -> bytes:
    """A WebSocket frame as servers send it."""
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return bytes([kind | 0x80 * last]) + length + payload


def say(message: RelayMessage) -> bytes:
    return frame(TEXT, relay_wire.encode(message).encode())


def piece(kind: int, address: bytes, stream: bytes, payload: bytes = b"") -> bytes:
    return frame(BINARY, relay_wire.piece(kind, address, stream, payload))


def card(number: int, name: str = "") -> HubHere:
    """A hub that does not exist."""
    return HubHere(hub_id=name or f"ghost-{number}", address=number.to_bytes(32, "big").hex())


class Liar:
    """Its end of one connection.

    Attributes:
        stream: to the hub; nobody reads what the hub says after its hello.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send(self, *parts: bytes) -> None:
        await self.stream.send_all(b"".join(parts))

    async def greet(self, *first: RelayMessage) -> None:
        """Open the WebSocket, and say this first; by default who a server is."""
        head = b""
        while b"\r\n\r\n" not in head:
            head += await self.stream.receive_some()
        given = head.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(given + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        await self.send(
            b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: "
            + relay_wire.SUBPROTOCOL.encode()
            + b"\r\nSec-WebSocket-Accept: "
            + accept
            + b"\r\n\r\n",
            *map(say, first or (NONCE,)),
        )

    async def welcome(self, *hubs: HubHere) -> None:
        """Take the hub, whatever it proves, and tell it of these."""
        await self.greet()
        await self.stream.receive_some()
        await self.send(say(Here(hubs=hubs, complete=True)))


@asynccontextmanager
async def liar(script: Script) -> AsyncIterator[str]:
    """One that does this with every hub that comes, and then waits; the URL."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await script(Liar(stream))
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()
