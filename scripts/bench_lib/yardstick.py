"""The yardstick: the thinnest hub on Trio that still keeps its word.

It decodes every line of a read, commits whatever is pending in one thread, hands results back once
for each commit, and sends once for each wake-up of a connection. It has no features: no receipts,
no names beyond a table, no limits. What a real hub does more must be worth what it costs.

Its frames are a small part of the product's, so that the same load can drive both.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from scripts.bench_lib.yardstick_store import Page, Store, Write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.bench_lib.yardstick_own import OwnStore

READ_SIZE = 64 * 1024


class Frame(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False, tag_field="type", tag=str.lower):
    """Base of the frames; the tag is the class name in lower case."""


class Hello(Frame, kw_only=True):
    """First frame of a connection."""

    name: str


class Send(Frame, kw_only=True):
    """Store, push, answer `Sent`."""

    req_id: int
    op_id: str
    to: str
    text: str


class Broadcast(Frame, kw_only=True):
    """Store once, push to everybody else, answer `Broadcasted`."""

    req_id: int
    op_id: str
    question: str


class Inbox(Frame, kw_only=True):
    """Answered by `InboxPage`."""

    req_id: int
    limit: int


class Pushed(Frame, kw_only=True):
    """The other side took these. Decoded, and passed over."""

    msg_ids: list[str]


class Welcome(Frame, kw_only=True):
    """Answer to hello."""


class Sent(Frame, kw_only=True):
    """On disk."""

    req_id: int
    msg_id: str


class Broadcasted(Frame, kw_only=True):
    """On disk."""

    req_id: int
    peer_count: int


class Push(Frame, kw_only=True):
    """A message."""

    msg_id: str
    sender: str
    text: str


class InboxPage(Frame, kw_only=True, tag="inbox_page"):
    """A page, newest first."""

    req_id: int
    messages: list[tuple[str, str, str]]


class Peer:
    """A name, its mailbox's number and its live connection."""

    __slots__ = ("name", "number", "out", "wake")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.wake: trio.Event | None = None
        """Set when there is something to send; None without a connection."""
        self.out: list[bytes] = []

    def put(self, data: bytes) -> None:
        """Queue a line for the live connection."""
        if self.wake is not None:
            if not self.out:
                self.wake.set()
            self.out.append(data)


class Hub:
    """All peers and what happens to a frame."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        self.store: Store | OwnStore
        self._decode = msgspec.json.Decoder(Hello | Send | Broadcast | Inbox | Pushed).decode_lines
        self._encode = msgspec.json.Encoder().encode

    def peer(self, name: str) -> Peer:
        """The peer of that name, a new one if need be."""
        peer = self.peers.get(name)
        if peer is None:
            peer = self.peers[name] = Peer(name, len(self.peers) + 1)
        return peer

    def line(self, frame: Frame) -> bytes:
        """A frame as bytes."""
        return self._encode(frame) + b"\n"

    def received(self, me: Peer, data: bytes) -> None:
        """Whole lines came from `me`."""
        work: list[Write | Page] = []
        for frame in self._decode(data):
            if type(frame) is Send:
                to = self.peer(frame.to)
                work.append(Write(to.number, frame.op_id, me.name, frame.text, (me, frame.req_id, to)))
            elif type(frame) is Broadcast:
                work.append(Write(0, frame.op_id, me.name, frame.question, (me, frame.req_id, None)))
            elif type(frame) is Inbox:
                work.append(Page(me.number, frame.limit, (me, frame.req_id), []))
        if work:
            self.store.submit(work)

    def stored(self, batch: list[Write | Page]) -> None:
        """A commit is done: push, then answer."""
        for work in batch:
            if isinstance(work, Page):
                me, req_id = work.note
                me.put(self.line(InboxPage(req_id=req_id, messages=work.rows)))
                continue
            sender, req_id, to = work.note
            push = Push(msg_id=work.msg_id, sender=work.sender, text=work.text)
            if to is None:
                line = self.line(push)
                for peer in self.peers.values():
                    if peer is not sender:
                        peer.put(line)
                sender.put(self.line(Broadcasted(req_id=req_id, peer_count=len(self.peers) - 1)))
            else:
                if to.wake is not None:
                    to.put(self.line(push))
                sender.put(self.line(Sent(req_id=req_id, msg_id=work.msg_id)))

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        line = b""
        while not line.endswith(b"\n"):  # hello is waited for before anything else is sent
            data = await stream.receive_some(READ_SIZE)
            if not data:
                return
            line += data
        (hello,) = self._decode(line)
        if not isinstance(hello, Hello):
            raise TypeError("the first frame must be hello")
        me = self.peer(hello.name)
        me.wake = trio.Event()
        me.put(self.line(Welcome()))
        try:
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream, me)
                await self._read(stream, me)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            me.wake = None
            me.out.clear()

    async def _read(self, stream: trio.SocketStream, me: Peer) -> None:
        rest = b""
        while data := await stream.receive_some(READ_SIZE):
            end = data.rfind(b"\n") + 1
            if end:
                self.received(me, rest + data[:end])
                rest = data[end:]
            else:
                rest += data

    async def _write(self, stream: trio.SocketStream, me: Peer) -> None:
        while me.wake is not None:
            await me.wake.wait()
            me.wake = trio.Event()
            data = b"".join(me.out)
            me.out.clear()
            await stream.send_all(data)


async def _run(socket_path: str, db: str, synchronous: str, own: bool) -> None:
    hub = Hub()
    token = trio.lowlevel.current_trio_token()

    def hand_back(batch: list[Write | Page]) -> None:
        token.run_sync_soon(hub.stored, batch)

    if own:
        from scripts.bench_lib.yardstick_own import OwnStore

        hub.store = OwnStore(db, synchronous, hand_back, lambda: len(hub.peers))
    else:
        hub.store = Store(db, synchronous, hand_back)
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    # Complete when it appears under its name.
    await listening.bind(socket_path + ".new")
    listening.listen(1024)
    os.rename(socket_path + ".new", socket_path)
    await trio.serve_listeners(hub.serve, [trio.SocketListener(listening)])


def main(argv: Sequence[str]) -> int:
    """Run the yardstick until it is killed."""
    parser = argparse.ArgumentParser(prog="bench.py yardstick")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--db", required=True)
    parser.add_argument("--synchronous", default="FULL", choices=["FULL", "NORMAL"])
    parser.add_argument("--own-store", action="store_true", help="ecorelay's, instead of the thinnest")
    parser.add_argument("--switch-interval-ms", type=float, default=0.5)
    given = parser.parse_args(argv)
    sys.setswitchinterval(given.switch_interval_ms / 1000)
    trio.run(partial(_run, given.socket, given.db, given.synchronous, given.own_store))
    return 0
