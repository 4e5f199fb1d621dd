"""Handlers called one after another, apart from the task that reads: a handler may wait for an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")
Handler = Callable[[T], Awaitable[None] | None]
"""A plain or an async function."""


class Callbacks:
    """A queue of calls. Who puts calls in bounds their number; here it is the hub's push window."""

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[[], Awaitable[None] | None], bool]] = deque()
        self._came = trio.Event()
        self._scope = trio.CancelScope()

    def put(self, handler: Handler[T] | None, argument: T, *, until_lost: bool = False) -> None:
        """Have `handler` called in its turn.

        Args:
            handler: None: nobody wants to know.
            argument: what it is called with.
            until_lost: drop the call if :meth:`lost` comes before its turn.
        """
        if handler is not None:
            self._calls.append((lambda: handler(argument), until_lost))
            self._came.set()

    def lost(self) -> None:
        """Drop the calls that make no sense without the connection they came from."""
        self._calls = deque(call for call in self._calls if not call[1])

    def stop(self) -> None:
        """Call nobody any more, and cancel the handler that is running."""
        self._scope.cancel()

    async def run(self) -> None:
        """Call, until :meth:`stop`. What a handler raises is raised here."""
        with self._scope:
            while True:
                while self._calls:
                    waits = self._calls.popleft()[0]()
                    if waits is not None:
                        await waits
                self._came = trio.Event()
                await self._came.wait()
