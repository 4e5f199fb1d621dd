"""A carrier for doors that must not be given a message itself: the session is told that there is mail.

Some doors take a program's argument, which every user of the machine can read, or treat what they are given
as if its user had typed it. So they are given one line of our own words, `envelope.pointer`, never a word of
the message, and the model reads that with relay_inbox. To the hub such mail is not pushed, but unread: the
line proves nothing, and may be lost. Where that is possible it is given again, ever more seldom, until the
session reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from ecorelay_adapters import envelope
from ecorelay_adapters.batches import GATHER_S
from ecorelay_adapters.carriers import Carrier
from ecorelay_adapters.news import News

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ecorelay_adapters.carriers import Reports
    from ecorelay_adapters.envelope import Incoming
    from ecorelay_adapters.handover import ToolResult
    from ecorelay_adapters.tool_calls import ToolCall

AGAIN_S: Final = (3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 192.0, 384.0)
"""Pauses before a line that may have been lost is given again, as long as nobody reads."""
KNOWN_MAX: Final = 2_000
"""Messages remembered, so that a hub that pushes its backlog anew causes no second line."""


class PointingCarrier(Carrier):
    """See the module; a kind of it says how a line is given, by `point`.

    Args:
        now_ms: the clock, as `Incoming.ts`.
    """

    evidence = ""
    spacing = GATHER_S
    """Seconds from one line to the next: mail that comes meanwhile goes into one line."""
    again: Sequence[float] = AGAIN_S
    """Pauses before a line is given again."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._first: Incoming | None = None
        """The message the next line is about: an urgent one, else the first that nobody has read."""
        self._count = 0
        """Messages that came since the session last read."""
        self._fresh = False
        """One of them came since the last line."""
        self._reads = 0
        """How often the session has read."""
        self._known: dict[str, None] = {}
        self._not_before = 0.0
        self._news = News()
        """Set, and replaced, whenever something came or was read."""

    async def point(self, line: str) -> bool:
        """Give the session the line; whether it is certain to be shown."""
        raise NotImplementedError

    async def push(self, mail: Incoming) -> bool:
        """Take note of it. False: it stays unread, for relay_inbox."""
        if mail.msg_id not in self._known:
            self._known[mail.msg_id] = None
            if len(self._known) > KNOWN_MAX:
                del self._known[next(iter(self._known))]
            if self._first is None or (mail.urgent and not self._first.urgent):
                self._first = mail._replace(text="")
            self._count += 1
            self._fresh = True
            self._news.tell()
        await trio.lowlevel.checkpoint()
        return False

    def heard(self, call: ToolCall) -> ToolResult | None:
        """Whoever reads needs to be told no more."""
        if call.name == "relay_inbox":
            self._first, self._count, self._fresh = None, 0, False
            self._reads += 1
            self._news.tell()
        return None

    async def run(self, reports: Reports) -> None:
        """Give lines, until cancelled."""
        while True:
            await self._news.until(lambda: self._fresh)
            await trio.sleep_until(self._not_before)
            await self._tell()

    async def _tell(self) -> None:
        reads = self._reads
        for pause in (*self.again, 0.0):
            if self._first is None or self._reads != reads:
                return
            line = envelope.pointer(self._first, now_ms=self._now_ms())
            if self._count > 1:
                line += f" {self._count - 1} more there."
            self._fresh = False
            certain = await self.point(line)
            self._not_before = trio.current_time() + self.spacing
            if certain:
                return
            with trio.move_on_after(pause) as waiting:
                await self._news.until(lambda: self._fresh or self._reads != reads)
                # What came meanwhile does not wait so long, nor has it a line for each message.
                waiting.deadline = min(waiting.deadline, trio.current_time() + self.again[0])
                await self._news.until(lambda: self._reads != reads)
