"""Why a connection ended, and the counts of it that `hub status` shows."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Everything that ends a connection, unless the core does; counted as ``closed <reason>``."""

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
    STALLED = "stalled"
    """Something it had begun, a long line above all, did not go on in time."""
    GARBAGE = "garbage"
    """Nothing but lines that are no frames."""
    SLOW_READER = "slow_reader"
    """It let more wait than its queue holds."""
    CRASH = "crash"
    """A bug of ours while serving it; the log has the traceback."""
    SPARE = "spare"
    """A second stream to a hub whose link works."""
    STOPPED = "stopped"
    """The hub ended."""


class Ended(Exception):
    """The connection ends, because of something that is nobody's bug."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Tally:
    """Counters of what the shell closed and dropped, by name. What said hello the core counts."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, name: str) -> None:
        """One more of `name`; there are few names, known beforehand."""
        self.counts[name] = self.counts.get(name, 0) + 1
