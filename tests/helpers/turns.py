"""How long one task keeps others waiting, without a clock."""

from __future__ import annotations

import trio


class Turns:
    """Counts what happens between two turns of a task that only waits for its turn."""

    def __init__(self) -> None:
        self.most = 0
        self.counted = 0
        self._since = 0

    def count(self) -> None:
        """It happened."""
        self.counted += 1
        self._since += 1
        self.most = max(self.most, self._since)

    async def run(self) -> None:
        while True:
            self._since = 0
            await trio.lowlevel.checkpoint()
