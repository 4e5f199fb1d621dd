"""The hub's own socket stream keeps every promise of `trio.abc.Stream`."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from ecorelay.daemon.streams import READ_SIZE, SendsNow, SocketStream
from tests.daemon.house import tcp_pair, unix_pair


async def clogged() -> tuple[SocketStream, SocketStream]:
    """A pair that takes nothing more in either direction."""
    pair = await made()
    for stream in pair:
        while stream.send_now(b"x" * 65536):
            pass
        while stream.send_now(b"x"):
            pass
    return pair


async def made() -> tuple[SocketStream, SocketStream]:
    one, other = socket.socketpair()
    return SocketStream(one), SocketStream(other)


async def test_it_is_a_stream_in_every_respect():
    await trio.testing.check_half_closeable_stream(made, clogged)


@pytest.mark.parametrize("pair", [unix_pair, tcp_pair])
async def test_sending_at_once_takes_what_fits_and_never_waits(pair):
    ours, theirs = pair()
    async with ours, theirs:
        assert isinstance(ours, SendsNow)
        data = bytes(50_000_000)
        sent = ours.send_now(data)
        assert 0 < sent < len(data)
        while more := ours.send_now(data):
            sent += more
        received = 0
        while received < sent:
            received += len(await theirs.receive_some())


async def test_sending_at_once_to_nobody_is_an_error_of_the_system():
    ours, theirs = await made()
    await theirs.aclose()
    async with ours:
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            ours.send_now(b"x")


async def test_what_was_sent_before_the_end_can_be_read_after_it():
    ours, theirs = await made()
    ours.send_now(b"unread by us")
    await theirs.send_all(b"last words")
    await theirs.aclose()
    async with ours:
        assert await ours.receive_some() == b"last words"


async def test_a_read_gives_at_most_what_was_asked_for():
    ours, theirs = await made()
    async with ours, theirs:
        ours.send_now(bytes(READ_SIZE))
        assert len(await theirs.receive_some(10)) == 10
        assert len(await theirs.receive_some()) <= READ_SIZE


def test_tcp_lingers_and_unix_does_not():
    for pair, lingers in ((unix_pair, False), (tcp_pair, True)):
        for stream in pair():
            assert isinstance(stream, SocketStream)
            assert stream.lingers is lingers
            stream.socket.close()
