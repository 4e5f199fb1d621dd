"""The daemon's insides without processes, threads or files: a core, a store in memory, clients."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import trio
import trio.lowlevel
import trio.testing

from ecorelay import names, wire
from ecorelay.core.actions import Action
from ecorelay.core.events import Event, Now, SessionClosed, SessionFrame, SessionOpened
from ecorelay.core.hub import Hub
from ecorelay.core.ops import Op
from ecorelay.daemon.perform import Facts, Shell
from ecorelay.daemon.reasons import Tally
from ecorelay.daemon.sessions import Sessions
from ecorelay.daemon.streams import SocketStream
from ecorelay.framing import LineSplitter
from ecorelay.limits import Limits
from tests.helpers.model_store import ModelStore

WALL = 1_700_000_000_000
HUB_ID = "here"
Pair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


def op_id(number: int) -> str:
    return names.new_id(0, lambda _: number)


def hello(name: str = "alice", **fields: Any) -> wire.Hello:
    return wire.Hello(**{"versions": (1, 1), "name": name, "client": "test", "pinned": True, **fields})


def unix_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """A socket for the hub and one for the client; kernel buffers as small as they get."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return SocketStream(ours), SocketStream(theirs)


def tcp_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    return SocketStream(ours), SocketStream(theirs)


class WallClock:
    """Trio's clock, and a wall beside it that a test may move."""

    def __init__(self) -> None:
        self.wall_offset_s = 0.0

    def now(self) -> Now:
        mono = trio.current_time()
        return Now(mono, WALL + round((mono + self.wall_offset_s) * 1000))


class ScriptedCore:
    """Notes every event; a test says what to do about it."""

    def __init__(self, script: Callable[[Event], list[Action]] | None = None) -> None:
        self.script = script or (lambda event: [])
        self.events: list[Event] = []
        self.deadline: float | None = None
        self.idle_since: float | None = None

    def knows_hub(self, hub_id: str) -> bool:
        return False

    def next_deadline(self) -> float | None:
        return self.deadline

    def handle(self, event: Event, now: Now) -> list[Action]:
        self.events.append(event)
        return self.script(event)

    @property
    def frames(self) -> list[wire.Frame]:
        return [event.frame for event in self.events if isinstance(event, SessionFrame)]

    @property
    def opened(self) -> list[SessionOpened]:
        return [event for event in self.events if isinstance(event, SessionOpened)]

    @property
    def closed(self) -> list[tuple[int, str]]:
        return [(event.sid, event.reason) for event in self.events if isinstance(event, SessionClosed)]


class InlineStore(ModelStore):
    """The model store as the shell sees a store: everything pending is committed in the loop's next turn."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.deliver: Callable[[Any], object] = lambda events: None
        self.backlog_bytes = 0
        self.problems: tuple[str, ...] = ()
        self.held = False
        """Nothing is committed while this is set."""
        self._token = trio.lowlevel.current_trio_token()

    def start(self, deliver: Callable[[Any], object]) -> None:
        self.deliver = deliver

    def submit(self, unit: tuple[Op, ...], then: Any) -> None:
        super().submit(unit, then)
        self._token.run_sync_soon(self.commit_all, idempotent=True)

    def commit_all(self) -> None:
        if not self.held and (events := self.commit()):
            self.deliver(events)

    def size_bytes(self) -> int:
        return 4096

    def close(self) -> None:
        self.commit_all()


class Client:
    """One end of a connection, frame by frame or byte by byte."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._splitter = LineSplitter(wire.LINE_MAX)
        self._lines: list[bytes] = []
        self.reads: list[int] = []
        """How many lines each read brought."""

    async def send(self, *frames: wire.Frame) -> None:
        await self.stream.send_all(b"".join(map(wire.encode, frames)))

    async def send_bytes(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self) -> Any:
        """The next frame; None at the end of the stream."""
        while not self._lines:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            lines = list(self._splitter.feed(data))
            self.reads.append(len(lines))
            self._lines += lines
        return wire.decode_to_session(self._lines.pop(0))

    async def receive_all(self) -> list[Any]:
        frames = []
        while (frame := await self.receive()) is not None:
            frames.append(frame)
        return frames

    async def request(self, frame: wire.Request) -> Any:
        """Send it and take frames until its answer comes."""
        await self.send(frame)
        while (answer := await self.receive()) is not None:
            if isinstance(answer, wire.Result) and answer.req_id == frame.req_id:
                return answer
        raise AssertionError("closed without an answer")

    async def close(self) -> None:
        await self.stream.aclose()


class House:
    """A shell with its sessions; connections are made by hand.

    Args:
        nursery: for the connections.
        core: a `ScriptedCore`; None: the real one, on the model store.
        limits: of both.
        pair: makes (the hub's end, the client's end).
        token: see `Sessions`.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        core: ScriptedCore | None = None,
        *,
        limits: Limits | None = None,
        pair: Pair = trio.testing.memory_stream_pair,
        token: str = "",
    ) -> None:
        limits = limits or Limits()
        self.nursery = nursery
        self.pair = pair
        self.clock = WallClock()
        self.store = InlineStore(limits)
        self.tally = Tally()
        self.stops: list[str] = []
        self.dead_processes: set[int] = set()
        self.clients: list[Client] = []
        self._made = 0
        self.hub = Hub(
            hub_id=HUB_ID, version="1.2.3", new_id=self._new_id, limits=limits, snapshot=self.store.snapshot()
        )
        self.shell = Shell(
            core=core or self.hub,
            store=self.store,
            clock=self.clock,
            facts=Facts(pid=4711, data_dir="/data", durability="power", started=trio.current_time()),
            tally=self.tally,
            stop=self.stops.append,
            alive=lambda pid, start: pid not in self.dead_processes,
        )
        self.store.start(self.shell.deliver)
        self.sessions = Sessions(self.shell, limits, token=token, random_bits=lambda bits: 7)

    def _new_id(self, wall: int) -> str:
        self._made += 1
        return names.new_id(wall, lambda _: self._made)

    def connect(self, pid: int | None = None) -> Client:
        ours, theirs = self.pair()
        self.nursery.start_soon(self.sessions.serve, ours, pid)
        client = Client(theirs)
        self.clients.append(client)
        return client

    async def counted(self) -> dict[str, int]:
        """The tally, once all connections have ended."""
        for client in self.clients:
            await client.close()
        while self.sessions.open:
            await trio.testing.wait_all_tasks_blocked()
        return self.tally.counts

    async def close(self) -> None:
        """End everything."""
        for client in self.clients:
            await client.close()
        self.nursery.cancel_scope.cancel()

    async def enter(self, name: str = "alice", **fields: Any) -> Client:
        """A client that was welcomed by the real core."""
        client = self.connect()
        await client.send(hello(name, **fields))
        welcome = await client.receive()
        assert isinstance(welcome, wire.Welcome), welcome
        return client

    async def opened(self) -> Client:
        """A client that said hello to a scripted core."""
        client = self.connect()
        before = len(self.shell.sessions)
        await client.send(hello())
        while len(self.shell.sessions) == before:
            await trio.testing.wait_all_tasks_blocked()
        return client
