"""What the server says of itself: one JSON object a line on stderr. Never a token, never a byte of a stream.

A line holds ``ts`` (RFC 3339 UTC), ``level``, ``event`` (a word or two) and the event's fields.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Final

from ecorelay_relay_server.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

STRANGERS_PER_S: Final = 1.0
"""Lines about those who proved nothing, of each kind; the rest is counted in the next line of it."""
STRANGERS_BURST: Final = 20
HUBS_PER_S: Final = 10.0
"""Lines about hubs that come, and as many about hubs that go."""
HUBS_BURST: Final = 2_000
FRAMES_MAX: Final = 20
KEPT_MAX: Final = 16 * 1024
"""Bytes of lines that wait for a reader of the log."""
ATOMIC: Final = 4096
"""Bytes that a pipe takes whole, if it takes any."""


class Stderr:
    """Writes lines to stderr, and waits for nobody: a log that nobody reads must not keep all hubs waiting.

    What cannot be written is kept up to `KEPT_MAX` and goes out before the next line; beyond that, lines are
    lost and counted in a line of their own. If nobody can read there any more, the server goes on without.
    """

    def __init__(self) -> None:
        self._kept = bytearray()
        self._lost = 0

    def __call__(self, line: bytes) -> None:
        """Write one line, or keep it."""
        self._flush()
        if self._lost and not self._kept:
            lost, self._lost = self._lost, 0
            self._kept += _line({"level": "warning", "event": "log", "lost": lost})
            self._flush()
            if self._lost:  # this one too
                self._lost = lost
        if self._kept and len(self._kept) + len(line) > KEPT_MAX:
            self._lost += 1
        else:
            self._kept += line
            self._flush()

    def _flush(self) -> None:
        """Write what the other side takes now."""
        try:
            number = sys.stderr.fileno()
            while self._kept and _takes_more(number):
                del self._kept[: os.write(number, self._kept[:ATOMIC])]
        except BlockingIOError:
            pass
        except (OSError, ValueError, AttributeError):  # nobody is there, the disk is full, there is no stderr
            self._lost += self._kept.count(b"\n")
            self._kept.clear()


def _takes_more(number: int) -> bool:
    """Whether a write of `ATOMIC` bytes would not wait."""
    return sys.platform == "win32" or bool(select.select((), (number,), (), 0)[1])


def _line(fields: dict[str, object]) -> bytes:
    # All but ASCII is escaped: half a character, or one that turns the direction of a terminal, does no harm.
    return json.dumps(fields, separators=(",", ":"), default=str).encode() + b"\n"


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
        write: where each goes, as ASCII with its end; None: to stderr.
        monotonic: seconds.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        write: Callable[[bytes], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._write = write or Stderr()
        self._monotonic = monotonic
        self._wall = wall
        self._paces: dict[str, Pace] = {}
        self._left_out: Counter[str] = Counter()

    def say(self, event: str, /, level: str = "info", **fields: object) -> None:
        """One line."""
        now = self._wall()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        line = {"ts": f"{stamp}.{int(now % 1 * 1000):03d}Z", "level": level, "event": event, **fields}
        self._write(_line(line))

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
        left_out = self._let(why, STRANGERS_PER_S, STRANGERS_BURST)
        if left_out is not None:
            self.warn(event, why=why, **fields, **left_out)

    def hub(self, event: str, /, **fields: object) -> None:
        """One line about a hub that proved itself: all of them, but for a flood of hubs."""
        left_out = self._let(event, HUBS_PER_S, HUBS_BURST)
        if left_out is not None:
            self.say(event, "info", **fields, **left_out)

    def _let(self, kind: str, per_s: float, burst: float) -> dict[str, int] | None:
        """None: no line this time. Else how many were left out before it, if any."""
        pace = self._paces.setdefault(kind, Pace(per_s, burst))
        if pace.wait(self._monotonic()) > 0:
            self._left_out[kind] += 1
            return None
        pace.spend(1)
        count = self._left_out.pop(kind, 0)
        return {"left_out": count} if count else {}

    def crash(self, where: str, error: BaseException) -> None:
        """A bug of ours: where it happened, without the values its message may quote.

        A stranger may have found out how to cause it: a flood of them becomes a number too.
        """
        left_out = self._let("crash", STRANGERS_PER_S, STRANGERS_BURST)
        if left_out is None:
            return
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
        stack = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        self.say("crash", "error", where=where, error=type(error).__qualname__, stack=stack, **left_out)
