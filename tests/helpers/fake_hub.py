"""A hub as a test wants it: connections over memory streams, every frame in the test's hand."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
import trio.lowlevel
import trio.testing

from ecorelay import wire
from ecorelay.client import HubClient, open_hub_client
from ecorelay.framing import LineSplitter

HELLO = wire.Hello(versions=(1, 1), name="alice", client="test", pid=1)
PEER_ID = "01j5zk3m8v9w2x4y6z7abcdefg"
WELCOME = wire.Welcome(version=1, hub_id="hub", app_version="0.1.0", name="alice", peer_id=PEER_ID)


class FakeSession:
    """The hub's end of one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.splitter = LineSplitter(wire.LINE_MAX)
        self.lines: list[bytes] = []
        self.hello: wire.Hello | None = None
        self.greeted = trio.Event()
        self._sending = trio.Lock()

    async def read(self) -> list[wire.FromSession]:
        """All frames of one send; an empty list at the end of the stream."""
        data = await self.stream.receive_some()
        return [wire.decode_from_session(line) for line in self.splitter.feed(data)]

    async def receive(self) -> Any:
        """The next frame; None at the end of the stream."""
        while not self.lines:
            data = await self.stream.receive_some()
            if not data:
                return None
            self.lines += self.splitter.feed(data)
        return wire.decode_from_session(self.lines.pop(0))

    async def receive_all(self) -> list[Any]:
        """All frames up to the end of the stream."""
        frames = []
        while (frame := await self.receive()) is not None:
            frames.append(frame)
        return frames

    async def quiet(self, seconds: float = 1.0) -> bool:
        """Whether nothing comes for so long."""
        with trio.move_on_after(seconds):
            await self.receive()
            return False
        return True

    async def send(self, *frames: wire.Frame) -> None:
        async with self._sending:
            await self.stream.send_all(b"".join(map(wire.encode, frames)))

    async def greet(self, answer: wire.Frame | None, more: list[wire.Frame]) -> None:
        self.hello = await self.receive()
        if answer is not None:
            await self.send(answer, *more)
        self.greeted.set()

    async def close(self) -> None:
        await self.stream.aclose()


class FakeHub:
    """Greets each connection with the next of `answers`, else with `WELCOME`; None is silence."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.answers: list[wire.Frame | None] = []
        self.after_welcome: list[wire.Frame] = []
        """Sent together with the answer to hello."""
        self.errors: list[Exception] = []
        """Raised by the next connects, in order."""
        self.down: Exception | None = None
        """Raised by every connect while it is set."""
        self.attempts: list[float] = []
        self.pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = trio.testing.memory_stream_pair
        self._put, self._sessions = trio.open_memory_channel[FakeSession](math.inf)

    async def connect(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.attempts.append(trio.current_time())
        if self.errors:
            raise self.errors.pop(0)
        if self.down is not None:
            raise self.down
        ours, theirs = self.pair()
        session = FakeSession(ours)
        answer = self.answers.pop(0) if self.answers else WELCOME
        self._put.send_nowait(session)
        self.nursery.start_soon(session.greet, answer, self.after_welcome)
        return theirs

    async def session(self) -> FakeSession:
        """The next connection; its hello is read, and answered unless the answer is silence."""
        session = await self._sessions.receive()
        await session.greeted.wait()
        return session

    @asynccontextmanager
    async def client(
        self, hello: wire.Hello = HELLO, **options: Any
    ) -> AsyncIterator[tuple[HubClient, FakeSession]]:
        """A welcomed client and the hub's end of its connection."""
        async with open_hub_client(hello, connect=self.connect, **options) as client:
            yield client, await self.session()


async def connected(client: HubClient, within: float = 60) -> None:
    """Wait until `client` has a connection."""
    with trio.fail_after(within):
        while not client.connected:  # noqa: ASYNC110 - a client tells nobody that it connects
            await trio.sleep(0.01)


class Asked:
    """A request in a task of its own; what became of it."""

    def __init__(self, nursery: trio.Nursery, client: HubClient, frame: wire.Request, **options: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = trio.Event()
        self.scope = trio.CancelScope()
        nursery.start_soon(self._run, client, frame, options)

    async def _run(self, client: HubClient, frame: wire.Request, options: dict[str, Any]) -> None:
        with self.scope:
            try:
                self.result = await client.request(frame, **options)
            except Exception as error:
                self.error = error
        self.ended.set()

    async def wait(self) -> Any:
        """The answer, or what the request raised."""
        await self.ended.wait()
        if self.error is not None:
            raise self.error
        return self.result


def send(text: str, to: str = "bob", op_id: str = "") -> wire.Send:
    return wire.Send(req_id=0, op_id=op_id, to=to, text=text)


def answer(frame: wire.Request, result: wire.Result) -> wire.Result:
    """`result` under the id of `frame`."""
    return msgspec.structs.replace(result, req_id=frame.req_id)


def sent(frame: wire.Send) -> wire.Sent:
    return wire.Sent(req_id=frame.req_id, msg_id=frame.op_id)
