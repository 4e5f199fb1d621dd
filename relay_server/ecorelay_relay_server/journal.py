"""What the server says of itself: one JSON object a line on stderr. Never a token, never a byte of a stream.

A line holds ``ts`` (RFC 3339 UTC), ``level``, ``event`` (a word or two) and the event's fields.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

import msgspec

from ecorelay_relay_server.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

STRANGERS_PER_S: Final = 1.0
"""Lines about those who proved nothing, of each kind; the rest is counted in the next line of it."""
STRANGERS_BURST: Final = 20
FRAMES_MAX: Final = 20


def write_stderr(line: bytes) -> None:
    """Write one line. If nobody reads there any more, the server goes on without."""
    try:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
    except (OSError, ValueError):
        pass


class FromLibraries(logging.Handler):
    """What a library has to say (Trio: no more files can be opened) as lines too."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        self._journal.stranger("library", record.name, said=record.getMessage()[:200])


class Journal:
    """Writes lines.

    Args:
        write: where each goes, as UTF-8 with its end.
        monotonic: seconds.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        write: Callable[[bytes], None] = write_stderr,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._write = write
        self._monotonic = monotonic
        self._wall = wall
        self._paces: defaultdict[str, Pace] = defaultdict(lambda: Pace(STRANGERS_PER_S, STRANGERS_BURST))
        self._left_out: Counter[str] = Counter()

    def say(self, event: str, /, level: str = "info", **fields: object) -> None:
        """One line."""
        now = self._wall()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        line = {"ts": f"{stamp}.{int(now % 1 * 1000):03d}Z", "level": level, "event": event, **fields}
        self._write(msgspec.json.encode(line) + b"\n")

    def warn(self, event: str, /, **fields: object) -> None:
        """One line of level warning."""
        self.say(event, "warning", **fields)

    def stranger(self, event: str, why: str, /, **fields: object) -> None:
        """One line about somebody who proved nothing; a flood of them becomes a number.

        Args:
            event: what happened.
            why: a word, each of which has its own bound.
            fields: more.
        """
        left_out = self._turn(why)
        if left_out is not None:
            self.warn(event, why=why, **fields, **left_out)

    def _turn(self, why: str) -> dict[str, int] | None:
        """What to add to the next line of this kind; None: there are too many, and it is counted."""
        pace = self._paces[why]
        if pace.wait(self._monotonic()) > 0:
            self._left_out[why] += 1
            return None
        pace.spend(1)
        left_out = self._left_out.pop(why, 0)
        return {"left_out": left_out} if left_out else {}

    def crash(self, where: str, error: BaseException) -> None:
        """A bug of ours: where it happened, without the values its message may quote.

        A stranger may have found out how to cause it: a flood of them becomes a number too.
        """
        left_out = self._turn("crash")
        if left_out is None:
            return
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
        stack = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        self.say("crash", "error", where=where, error=type(error).__qualname__, stack=stack, **left_out)
