"""The hub's log: JSON lines in a rotated file of ours, never a text, a token or a key in it.

A line holds ``ts`` (RFC 3339 UTC), ``level``, ``event`` (a word or two) and the event's fields.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import traceback
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Any

import msgspec

from ecorelay.errors import RelayError, WireError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import TextIOWrapper
    from pathlib import Path

FILE_BYTES = 1024 * 1024
FILES = 5
"""The current file and four before it: hub.log, hub.log.1, ..."""
MESSAGE_MAX = 200
FRAMES_MAX = 30

logger = logging.getLogger("ecorelay")
# Before the log is open nothing goes to stderr in its place: that is for people.
logger.addHandler(logging.NullHandler())

# Their messages name files, numbers and attributes. Others (ValueError above all) may quote a value,
# and a value may be somebody's text.
_HARMLESS = (
    OSError,
    RelayError,
    WireError,
    sqlite3.Error,
    AttributeError,
    TypeError,
    KeyError,
    IndexError,
    AssertionError,
    RecursionError,
)


def log(event: str, /, **fields: object) -> None:
    """Write one line of level info. `fields` are plain data and hold no text of a message."""
    logger.info(event, extra={"fields": fields})


def warn(event: str, /, **fields: object) -> None:
    """Write one line of level warning; as :func:`log`."""
    logger.warning(event, extra={"fields": fields})


@contextmanager
def log_to(path: Path, *, echo: bool = False) -> Iterator[None]:
    """Within the block, what the hub logs goes to `path`, rotated, mode 0600.

    Args:
        path: of the current file; the directory exists.
        echo: also to stderr (a person looks on).

    Raises:
        RelayError: ``mailbox_error``, the file cannot be opened.
    """
    try:
        file = _PrivateFile(path, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8")
    except OSError as error:
        raise RelayError(
            "mailbox_error", f"cannot write the log {path}: {error.strerror or error}"
        ) from error
    handlers: list[logging.Handler] = [file]
    if echo:
        handlers.append(logging.StreamHandler())
    # The root logger's: what a library has to say belongs into the same file.
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    logger.setLevel(logging.INFO)
    # On a full disk the hub goes on without its log.
    logging.raiseExceptions = False
    for handler in handlers:
        handler.setFormatter(_JsonLines())
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def stack_of(error: BaseException) -> list[str]:
    """An exception as lines: innermost call last, causes and groups included, values left out."""
    lines: list[str] = []
    _describe(error, lines, depth=0)
    return lines


def _describe(error: BaseException, lines: list[str], depth: int) -> None:
    for frame in traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]:
        lines.append(f"{frame.filename}:{frame.lineno} {frame.name}: {frame.line}")
    kind = type(error).__qualname__
    harmless = isinstance(error, _HARMLESS)
    lines.append(f"{kind}: {str(error)[:MESSAGE_MAX]}" if harmless else kind)
    if depth >= 3:
        return
    inner = error.exceptions[:3] if isinstance(error, BaseExceptionGroup) else ()
    for number, each in enumerate(inner, 1):
        lines.append(f"in group, {number}:")
        _describe(each, lines, depth + 1)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        lines.append("after:")
        _describe(cause, lines, depth + 1)


class _PrivateFile(RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        # Rotation renames and opens anew: every file gets its mode here, whatever the umask.
        return open(self.baseFilename, "a", encoding=self.encoding, opener=_open_private)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "ts": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage()[:MESSAGE_MAX],
        }
        if record.name != logger.name:
            line["logger"] = record.name
        if record.exc_info and record.exc_info[1] is not None:
            line["stack"] = stack_of(record.exc_info[1])
        line.update(getattr(record, "fields", {}))
        return msgspec.json.encode(line, enc_hook=repr).decode("utf-8", "replace")
