"""Waiting until something holds, among tasks of one carrier that change what it depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class News:
    """That something changed, told to whoever waits for it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def tell(self) -> None:
        """Something changed."""
        self._event.set()
        self._event = trio.Event()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until that is so; it is looked at again after each :meth:`tell`."""
        while not holds():
            await self._event.wait()
