"""When a result counts as seen by the client: the ledger of results that are on their way.

A result written to a pipe has not been read. What is known about it, in this order:

* *Written*: our write returned. Nothing more: the client may be stopped, or about to cancel.
* *Confirmed*: it was written, and afterwards the client either sent another line or kept its end open
  for :data:`PATIENCE` seconds, without cancelling the request. A client that gives up a request says
  so at once, in its next line, so silence about this request is evidence.
* *Cancelled*: the client gave the request up before it was confirmed; what it still reads it drops.
* *Lost*: the connection ended, or the write failed, before any of these.

Each result ends in exactly one of the last three, and its callback for that end is called once.

Two refinements keep "the next line" honest. A line that was already on its way when the result was
written says nothing about it, though it is handled later: pipelined requests are such lines. So a
result is *armed* only at a moment at which nothing lies unread in stdin, and only a line that comes
after that counts. And where the system can tell how much of our output the client has not yet taken
out of the pipe, a result that still lies in it is never confirmed: its client is stopped or stuck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ecorelay_adapters.jsonrpc import Id

    Callback = Callable[[], Awaitable[None] | None]

PATIENCE: Final = 2.0
"""Seconds after which a written result that was not cancelled counts as read."""


class ToolResult(Struct, frozen=True):
    """What a tool answers, and who wants to know whether it arrived.

    Of the callbacks at most one is called, and it is called once; each may be a plain or an async
    function. They must be quick, and have `output.GRACE` seconds when the connection is ending.
    """

    text: str
    is_error: bool = False
    on_written: Callback | None = None
    """The client has it: it was written and confirmed."""
    on_cancelled: Callback | None = None
    """The client gave the request up, so nobody looks at it; it may or may not have been written."""
    on_lost: Callback | None = None
    """The connection ended, or the write failed, before anything else was known."""


class Handover:
    """One result on its way. Owned by :class:`Handovers`; `dropped` is all that others may read."""

    __slots__ = ("armed", "dropped", "end", "request_id", "result")

    def __init__(self, request_id: Id, result: ToolResult) -> None:
        self.request_id = request_id
        self.result = result
        self.end: int | None = None  # where its line ends in all that was written; None: not written
        self.armed = False
        self.dropped = False  # cancelled: not to be written if it was not written yet


class Handovers:
    """All results that were handed over and are not yet confirmed, cancelled or lost.

    It decides and calls; reading, writing and the clock are the server's.

    Args:
        tell: starts a callback; it must not wait for it.
    """

    def __init__(self, tell: Callable[[Callback], None]) -> None:
        self._tell = tell
        self._open: list[Handover] = []

    def returned(self, request_id: Id, result: ToolResult) -> Handover:
        """A tool has returned; its response is about to be written."""
        handover = Handover(request_id, result)
        self._open.append(handover)
        return handover

    def written(self, handover: Handover, end: int) -> bool:
        """Its line was written up to byte `end` of our output. Whether `overdue` has to be asked later."""
        if handover not in self._open:
            return False  # cancelled while it was being written
        handover.end = end
        if handover.result.on_written or handover.result.on_cancelled or handover.result.on_lost:
            return True
        self._open.remove(handover)
        return False

    def arm(self) -> None:
        """Nothing lies unread in stdin: the next line was sent with every written result in reach."""
        for handover in self._open:
            handover.armed = handover.end is not None

    def cancelled(self, request_id: Id) -> None:
        """The client gave a request up whose tool had already returned."""
        for handover in self._open:
            if handover.request_id == request_id and request_id is not None:
                handover.dropped = True
                self._settle(handover, handover.result.on_cancelled)
                return

    def heard(self, taken: int) -> None:
        """A line arrived that cancels none of these; the client has taken `taken` bytes of our output."""
        for handover in [h for h in self._open if h.armed]:
            self._confirm(handover, taken)

    def overdue(self, handover: Handover, taken: int) -> bool:
        """`PATIENCE` has passed since it was written. Whether it is settled now."""
        if handover in self._open:
            self._confirm(handover, taken)
        return handover not in self._open

    def lose(self) -> None:
        """The connection has ended."""
        for handover in self._open.copy():
            self._settle(handover, handover.result.on_lost)

    def _confirm(self, handover: Handover, taken: int) -> None:
        if handover.end is not None and handover.end <= taken:
            self._settle(handover, handover.result.on_written)

    def _settle(self, handover: Handover, callback: Callback | None) -> None:
        self._open.remove(handover)
        if callback is not None:
            self._tell(callback)
