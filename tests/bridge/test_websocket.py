"""The hub's end of a WebSocket, at a server that says what it likes."""

from __future__ import annotations

import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from ecorelay.relay_wire import SUBPROTOCOL
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.websocket import (
    MESSAGE_MAX,
    NONSENSE,
    TOO_BIG,
    TOO_MUCH,
    Closed,
    WebSocket,
    open_websocket,
)
from ecorelay_relay_server import websocket as server
from tests.fuzz.relays import Said

MIB = 1024 * 1024


class Heard(Said):
    """Says what it was told to, once it was asked, and keeps what it was asked."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__(pieces)
        self.told = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await super().send_all(data)
        self.told += bytes(data)


def opened(*pieces: bytes) -> WebSocket:
    """One that is open, and hears these pieces."""
    client = WSConnection(ConnectionType.CLIENT)
    response, _ = server.accept(client.send(Request(host="r", target="/", subprotocols=[SUBPROTOCOL])))
    client.receive_data(response)
    assert isinstance(next(iter(client.events())), AcceptConnection)
    return WebSocket(Said(pieces), client)


async def test_parts_of_nothing_are_not_kept_and_few() -> None:
    socket = opened(b"\x02\x01a" + b"\x00\x00" * 50, b"\x00\x00" * 50 + b"\x80\x01b")
    assert await socket.receive() == [b"ab"]
    socket = opened(b"\x01\x00" + b"\x00\x00" * 5_000)
    with pytest.raises(Closed) as closed:
        await socket.receive()
    assert closed.value.code == TOO_MUCH
    assert socket._part == []


@pytest.mark.parametrize("opcode", [b"\x01", b"\x02"])
async def test_a_message_over_the_limit_ends_it_before_it_is_whole(opcode: bytes) -> None:
    part = b"\x7e\xff\xff" + b"x" * 65_535
    socket = opened(opcode + part, b"\x00" + part, b"\x00" + part)
    with pytest.raises(Closed) as closed:
        await socket.receive()
    assert closed.value.code == TOO_BIG
    assert sum(map(len, socket._part)) <= MESSAGE_MAX + 65_535


async def test_compression_is_not_asked_for_and_what_comes_compressed_is_nonsense() -> None:
    stream = Heard()
    with pytest.raises(Refused):
        await open_websocket(stream, "r", "/")
    assert b"deflate" not in stream.told.lower()
    # A compressed message of four bytes could be thousands of times as long.
    socket = opened(b"\xc2\x04\x4a\x4c\x04\x00")
    with pytest.raises(Closed) as closed:
        await socket.receive()
    assert closed.value.code == NONSENSE


async def test_a_server_that_compresses_unasked_is_none_of_ours() -> None:
    class Compressing(Heard):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            response, _ = server.accept(self.told)
            return response.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")

    with trio.fail_after(5), pytest.raises(Refused) as refused:
        await open_websocket(Compressing(), "r", "/")
    assert refused.value.reason is Reason.NO_RELAY
