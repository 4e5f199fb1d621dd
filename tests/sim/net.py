"""A network in memory, on Trio's clock: streams with delay and little room, and all that ails real ones.

A *way* leads from one host to another, and may hold what is on it (half-open, or loss in one direction only):
it arrives once the way is free again, or never, if the stream was cut meanwhile. Each stream is a pipe along
a way and one along the way back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random

import trio

ROOM = 64 * 1024
"""Bytes on a stream that were not read; beyond them, who writes waits."""
CONNECT_S = 10.0
"""How long somebody waits for a host that says nothing."""
AGAIN_S = 1.0
"""After so long the kernel knocks again."""
DELAYS_S = (0.0002, 0.002, 0.03, 0.15)
"""The shortest times from one machine to another that there are."""
Serve = Callable[["SimStream"], Awaitable[None]]
Note = Callable[[str, bytes], None]


class NoAnswer(OSError):
    """Nothing comes back from there."""


class Refusing(OSError):
    """The host is there, and nobody listens."""


class Way:
    """From one host to another.

    Args:
        name: of both.
        chance: draws delays.
        base_s: the shortest time there.
    """

    def __init__(self, name: str, chance: Random, base_s: float) -> None:
        self.name = name
        self.held = False
        self.walled = False
        """A firewall lets no connection be made here; over a relay one can meet."""
        self.base_s = base_s
        self._chance = chance
        self.pipes: dict[Pipe, None] = {}

    def delay(self) -> float:
        return self.base_s * (0.5 + self._chance.random())

    def hold(self, held: bool) -> None:
        """Let nothing arrive any more; or let it."""
        self.held = held
        for pipe in list(self.pipes):
            pipe.wake()


class Pipe:
    """Bytes in one direction."""

    def __init__(self, way: Way, note: Note, room: int) -> None:
        self.way = way
        self.room = room
        self.size = 0
        self.stopped = False
        """Its reader takes nothing for now."""
        self.broken = False
        """Both ends know that it is no more."""
        self.lost = False
        """It is no more, and its reader will never hear of that."""
        self.ends_at = math.inf
        """When the reader sees the end."""
        self._note = note
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._last = 0.0
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        way.pipes[self] = None

    def wake(self) -> None:
        self._readers.unpark_all()
        self._writers.unpark_all()

    # --- its beginning -------------------------------------------------------------------------------

    def put(self, data: bytes) -> int:
        """Take what there is room for; how much that was."""
        taken = data[: self.room - self.size]
        if taken:
            self.size += len(taken)
            if not self.lost:
                self._last = max(self._last, trio.current_time() + self.way.delay())
                self._chunks.append((self._last, taken))
                self._readers.unpark_all()
            self._note(self.way.name, taken)
        return len(taken)

    async def wait_for_room(self) -> None:
        while self.size >= self.room and not self.broken:
            await self._writers.park()

    def end(self) -> None:
        """Its writer has said all."""
        if self.ends_at == math.inf:
            self.ends_at = self._last = max(self._last, trio.current_time() + self.way.delay())
            self._readers.unpark_all()

    def cut(self) -> None:
        """At once, and both ends know."""
        self.broken = True
        self._drop()
        self.wake()

    def lose(self) -> None:
        """What is on it and what comes is lost, and nobody is told."""
        self.lost = True
        self._chunks.clear()

    def _drop(self) -> None:
        self._chunks.clear()
        self.size = 0
        self.way.pipes.pop(self, None)

    # --- its end -------------------------------------------------------------------------------------

    async def take(self, size: int, closed: Callable[[], bool]) -> bytes:
        while True:
            if closed():
                raise trio.ClosedResourceError
            if self.broken:
                raise trio.BrokenResourceError("cut")
            when = math.inf
            if not (self.way.held or self.stopped or self.lost):
                when = self._chunks[0][0] if self._chunks else self.ends_at
                if when <= trio.current_time():
                    return self._arrived(size) if self._chunks else b""
            with trio.CancelScope(deadline=when):
                await self._readers.park()

    def _arrived(self, size: int) -> bytes:
        now = trio.current_time()
        parts: list[bytes] = []
        while self._chunks and size and self._chunks[0][0] <= now:
            at, chunk = self._chunks.popleft()
            parts.append(chunk[:size])
            if len(chunk) > size:
                self._chunks.appendleft((at, chunk[size:]))
            size -= len(parts[-1])
        data = b"".join(parts)
        self.size -= len(data)
        self._writers.unpark_all()
        return data


class SimStream(trio.abc.HalfCloseableStream):
    """One end of a connection between hubs."""

    def __init__(self, inward: Pipe, outward: Pipe, ends: dict[SimStream, str]) -> None:
        self.inward = inward
        self.outward = outward
        self.closed = False
        self._ended = False
        self._ends = ends

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        left = bytes(data)
        while True:
            self._check()
            left = left[self.outward.put(left) :]
            if not left:
                return
            await self.outward.wait_for_room()

    async def wait_send_all_might_not_block(self) -> None:
        await self.outward.wait_for_room()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return await self.inward.take(max_bytes or ROOM, lambda: self.closed)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._ended = True
        self.outward.end()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """As when a process ends: what it wrote arrives, what it did not read makes the other side fail."""
        if self.closed:
            return
        self.closed = True
        self._ends.pop(self, None)
        self.outward.end()
        # Who writes to it learns that nobody is there; what waits for it is lost.
        self.inward.cut()

    def cut(self) -> None:
        """As by a reset: both ends know at once, what is on its way is lost."""
        self.inward.cut()
        self.outward.cut()

    def vanish(self) -> None:
        """As when a machine loses its power: the other end hears nothing at all."""
        self.closed = True
        self._ends.pop(self, None)
        self.inward.lose()
        self.outward.lose()
        self.inward.wake()

    def _check(self) -> None:
        if self.closed or self._ended:
            raise trio.ClosedResourceError
        if self.outward.broken:
            raise trio.BrokenResourceError("cut")


class LocalStream(SimStream):
    """One end of a connection on one machine: takes without waiting what there is room for."""

    def send_now(self, data: bytes | memoryview) -> int:
        if self.closed or self._ended or self.outward.broken:
            raise BrokenPipeError
        return self.outward.put(bytes(data))


class Network:
    """All hosts, by name, who listens at each, and the streams between them.

    A part of a host (an adapter beside a hub) is called ``host/part``; what stays on a host is quick, and
    taken without waiting.

    Args:
        chance: draws delays.
        note: is told of all that is written: the way's name, and the bytes.
    """

    def __init__(self, chance: Random, note: Note) -> None:
        self._chance = chance
        self._note = note
        self._ways: dict[tuple[str, str], Way] = {}
        self.doors: dict[str, tuple[Serve, trio.Nursery]] = {}
        self.off: set[str] = set()
        """Hosts without power."""
        self.ends: dict[SimStream, str] = {}
        """Every end that is open → whose it is."""

    def way(self, start: str, end: str) -> Way:
        if (start, end) not in self._ways:
            base = 0.00005 if _machine(start) == _machine(end) else self._chance.choice(DELAYS_S)
            self._ways[start, end] = Way(f"{start}>{end}", self._chance, base)
        return self._ways[start, end]

    def pair(self, start: str, end: str, room: int = ROOM) -> tuple[SimStream, SimStream]:
        """A connection: the end of who dialed, and the other."""
        there = Pipe(self.way(start, end), self._note, room)
        back = Pipe(self.way(end, start), self._note, room)
        kind = LocalStream if _machine(start) == _machine(end) else SimStream
        ours, theirs = kind(back, there, self.ends), kind(there, back, self.ends)
        self.ends[ours], self.ends[theirs] = start, end
        return ours, theirs

    async def connect(self, start: str, end: str, room: int = ROOM) -> SimStream:
        """Dial a host; who listens there serves the other end.

        Raises:
            Refusing: nobody listens there.
            NoAnswer: nothing comes back.
        """
        there, back = self.way(start, end), self.way(end, start)
        with trio.move_on_after(CONNECT_S):
            while True:
                await trio.sleep(there.delay() + back.delay())
                if not (there.held or there.walled or back.held or end in self.off):
                    break
                await trio.sleep(AGAIN_S)
            if end not in self.doors:
                raise Refusing(f"nobody listens at {end}")
            ours, theirs = self.pair(start, end, room)
            serve, nursery = self.doors[end]
            nursery.start_soon(_serve, serve, theirs)
            return ours
        raise NoAnswer(f"{end} says nothing")

    def free(self, *, lost: bool) -> None:
        """All ways are free again; `lost`: what had been held has been cut meanwhile."""
        for way in list(self._ways.values()):
            if way.held:
                for end in list(self.ends) if lost else ():
                    if end.outward.way is way:
                        end.cut()
                way.hold(False)

    def of(self, host: str) -> list[SimStream]:
        """The open ends of a host."""
        return [each for each, owner in self.ends.items() if owner == host]

    def between(self, one: str, other: str) -> list[SimStream]:
        """The open ends at `one` of what joins it to `other`."""
        name = f"{one}>{other}"
        return [each for each in self.of(one) if each.outward.way.name == name]


async def _serve(serve: Serve, stream: SimStream) -> None:
    try:
        await serve(stream)
    finally:
        stream.close()


def _machine(host: str) -> str:
    return host.partition("/")[0]
