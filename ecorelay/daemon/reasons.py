"""Why a connection ended, and the counts of it that `hub status` shows."""

from __future__ import annotations

import re
from enum import StrEnum


class Reason(StrEnum):
    """Everything that ends a connection, unless the core does; counted as ``closed_<reason>``."""

    EOF = "eof"
    """The other side closed its end."""
    BYE = "bye"
    """The other side said so."""
    BROKEN = "broken"
    """Reset, or the other side closed before everything reached it."""
    HELLO_TIMEOUT = "hello_timeout"
    """No hello (nor proof, over TCP) in time."""
    BAD_HELLO = "bad_hello"
    """The first line was no hello."""
    AUTH_FAILED = "auth_failed"
    """Over TCP: it does not know the token."""
    PROTOCOL_MISMATCH = "protocol_mismatch"
    """No protocol version that both speak."""
    FOREIGN_USER = "foreign_user"
    """A process of another user."""
    TOO_MANY_SESSIONS = "too_many_sessions"
    """`Limits.sessions` are open."""
    CROWDED_OUT = "crowded_out"
    """The longest silent of too many connections that said no hello."""
    LINE_TOO_LONG = "line_too_long"
    """A line over the limit of `ecorelay.wire`."""
    LINE_STALLED = "line_stalled"
    """A long line that was begun and not ended in time."""
    GARBAGE = "garbage"
    """Nothing but lines that are no frames."""
    SLOW_READER = "slow_reader"
    """It let more wait than its queue holds."""
    CRASH = "crash"
    """A bug of ours while serving it; the log has the traceback."""
    STOPPED = "stopped"
    """The hub ended."""


_WORD = re.compile(r"[A-Za-z0-9_]+")


class Tally:
    """Counters of what the shell closed and dropped, by name."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, name: str) -> None:
        """One more of `name`."""
        self.counts[name] = self.counts.get(name, 0) + 1

    def closed(self, reason: str) -> None:
        """One more connection closed; only the first word of `reason` counts."""
        word = _WORD.search(reason)
        self.count(f"closed_{word[0].lower() if word else 'unknown'}")
