"""A bound on the bytes that are on their way; who does not fit waits, in order."""

from __future__ import annotations

import trio


class ByteGate:
    """Room for `capacity` bytes. Something larger passes when it is alone."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken = 0
        self._turn = trio.Lock()  # fair: the first that waits is the first to get room
        self._given = trio.Event()

    @property
    def taken(self) -> int:
        """Bytes in use."""
        return self._taken

    async def take(self, size: int) -> None:
        """Wait for room and take it. A checkpoint only if there is none; cancelled, nothing is taken."""
        if not self._turn.locked() and self._fits(size):
            self._taken += size
            return
        async with self._turn:
            while not self._fits(size):
                self._given = trio.Event()
                await self._given.wait()
            self._taken += size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self._taken -= size
        self._given.set()

    def _fits(self, size: int) -> bool:
        return not self._taken or self._taken + size <= self._capacity
