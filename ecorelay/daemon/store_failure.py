"""What can go wrong with the disk, in words: what is the matter and what to do."""

from __future__ import annotations

import sqlite3
from typing import Final

from ecorelay.errors import RelayError

_FULL: Final = 13
_IO: Final = 10
_DAMAGED: Final = (11, 26)
"""Primary result codes of SQLite: FULL, IOERR, CORRUPT and NOTADB."""

_DAMAGE: Final = (
    "hub.db is damaged: restart the hub (`ecorelay hub restart` sets the file aside and saves what can be "
    "read), then try again"
)
_SENTENCES: Final = {
    5: "hub.db is locked by another program: end that program, then try again",
    6: "hub.db is locked by another program: end that program, then try again",
    7: "there is no memory left for hub.db: free some, then try again",
    8: "hub.db cannot be written: make it and its directory writable, then try again",
    _IO: "the disk failed to read or write hub.db: check the disk and the space on it, then try again",
    11: _DAMAGE,
    _FULL: (
        "hub.db cannot grow: the disk is full, or the limit data_bytes is reached; "
        "free space or raise the limit, then try again"
    ),
    14: "hub.db cannot be opened: check its directory and the modes of its files, then try again",
    26: _DAMAGE,
}


class Misplaced(sqlite3.OperationalError):
    """hub.db is not where it was any more; the message says what to do."""


class StoreUnusable(RelayError):
    """There can be no store here until a person does what `message` says."""

    def __init__(self, message: str) -> None:
        super().__init__("mailbox_error", message)


def code_of(error: BaseException) -> int:
    """SQLite's primary result code; 0 where there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_damage(error: BaseException) -> bool:
    """Whether the file is no longer what was written."""
    # SQLite quotes rotted bytes of a schema in its own messages, which Python cannot decode.
    return code_of(error) in _DAMAGED or isinstance(error, UnicodeDecodeError)


def is_full(error: BaseException) -> bool:
    """Whether it failed for want of space, which leaves no doubt about what was written."""
    return code_of(error) == _FULL


def explain(error: BaseException) -> str:
    """One sentence with its remedy. It quotes no value: a value may be somebody's text."""
    if isinstance(error, Misplaced):
        return str(error)
    known = _SENTENCES.get(11 if is_damage(error) else code_of(error))
    if known:
        return known
    if isinstance(error, OSError):
        return f"hub.db cannot be used ({error.strerror or type(error).__name__}): check its directory"
    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        return f"hub.db cannot be used ({name}): see hub.log, then restart the hub"
    return "the store failed unexpectedly: see hub.log, and please report it"
