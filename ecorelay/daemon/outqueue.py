"""What is on its way to one session: in order, bounded, and sent at once where the socket takes it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from ecorelay.daemon.reasons import Reason
from ecorelay.daemon.streams import SendsNow

if TYPE_CHECKING:
    from collections.abc import Callable

OUT_MAX = 8 * 1024 * 1024
"""Bytes that may wait for one session; beyond it the session is closed as `SLOW_READER`."""
OUT_PAUSE = 1024 * 1024
"""Bytes waiting beyond which nothing more is read from the session that causes them."""
SPARE_MAX = 512 * 1024
"""Bytes waiting beyond which what can be spared is not queued. Below `OUT_PAUSE`: whoever is slow is still
heard, its answers to pings above all."""
SPARE_AGAIN = 64 * 1024
"""Bytes waiting at which it is queued again."""
SEND_SIZE = 256 * 1024
"""Bytes joined for one send."""


class OutQueue:
    """The outward half of one connection.

    `put` queues and `flush` sends, so that all that one event or one commit leads to leaves in one
    system call. A session that reads takes everything at once; only for what its socket does not
    take a task is started, in `nursery`. Nothing here waits but that task.

    Args:
        stream: where the bytes go. Where it offers `SendsNow` that is used.
        nursery: of the connection.
        end: called, perhaps more than once, when the connection must end, with the reason. After
            `BROKEN` what the other side wrote before it went may still be read (a confirmation, perhaps).
    """

    __slots__ = (
        "_end",
        "_excuse",
        "_missed",
        "_moved",
        "_nursery",
        "_parts",
        "_send_now",
        "_stream",
        "_writing",
        "broken",
        "dirty",
        "size",
    )

    def __init__(self, stream: trio.abc.Stream, nursery: trio.Nursery, end: Callable[[str], object]) -> None:
        self._stream = stream
        self._nursery = nursery
        self._end = end
        self._send_now = stream.send_now if isinstance(stream, SendsNow) else None
        self._parts: deque[bytes | memoryview] = deque()
        self._writing = False
        self._missed = 0
        """How much that could be spared was not queued, and is not told of yet."""
        self._excuse: Callable[[int], bytes] | None = None
        self._moved = trio.lowlevel.ParkingLot()
        self.size = 0
        """Bytes that wait, what the kernel took not included."""
        self.broken = False
        """Nothing reaches the other side any more; what is put is dropped."""
        self.dirty = False
        """Owned by `perform`: this queue is on its list of those to flush."""

    def put(self, data: bytes) -> None:
        """Queue `data`, whole lines."""
        if self.broken:
            return
        self._parts.append(data)
        self.size += len(data)
        if self.size > OUT_MAX:
            self.close()
            self._end(Reason.SLOW_READER)

    def offer(self, data: bytes, excuse: Callable[[int], bytes]) -> bool:
        """Queue what can be spared: not if too much waits, nor before it was told how much was left out.

        Args:
            data: whole lines.
            excuse: makes the line, given a number, that says so in the place of what was left out.

        Returns:
            Whether it is queued.
        """
        if not self._missed and self.size <= SPARE_MAX:
            self.put(data)
            return True
        self._missed += 1
        self._excuse = excuse
        return False

    def _apologize(self) -> None:
        if self._excuse is not None and self.size <= SPARE_AGAIN:
            line = self._excuse(self._missed)
            self._missed, self._excuse = 0, None
            self.put(line)

    def flush(self) -> None:
        """Send what is queued, now as far as that needs no waiting."""
        parts = self._parts
        if self._writing or not parts:
            return
        if self._send_now is not None:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            try:
                sent = self._send_now(data)
            except OSError:
                self._break()
                return
            parts.clear()
            if sent == len(data):
                self.size = 0
                if self._missed:
                    self._apologize()
                    self.flush()
                return
            self.size -= sent
            parts.append(memoryview(data)[sent:])
        self._writing = True
        self._nursery.start_soon(self._write)

    def end(self, reason: str) -> None:
        """End the connection once what is queued is flushed."""
        self._end(reason)

    def close(self) -> None:
        """Drop what waits; nothing is taken any more."""
        self.broken = True
        self._parts.clear()
        self.size = 0
        self._missed, self._excuse = 0, None
        self._moved.unpark_all()

    async def wait_below(self, size: int) -> None:
        """Wait until at most `size` bytes wait, or none will ever leave."""
        while self.size > size and not self.broken:
            await self._moved.park()

    async def _write(self) -> None:
        try:
            while self._parts:
                data = self._take()
                await self._stream.send_all(data)
                if self.broken:
                    return
                self.size -= len(data)
                self._apologize()
                self._moved.unpark_all()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._break()
        finally:
            self._writing = False

    def _take(self) -> bytes | memoryview:
        parts = self._parts
        first = parts.popleft()
        if not parts or len(first) + len(parts[0]) > SEND_SIZE:
            return first
        joined = [first]
        size = len(first)
        while parts and size + len(parts[0]) <= SEND_SIZE:
            size += len(parts[0])
            joined.append(parts.popleft())
        return b"".join(joined)

    def _break(self) -> None:
        self.close()
        self._end(Reason.BROKEN)
