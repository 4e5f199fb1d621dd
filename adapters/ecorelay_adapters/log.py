"""The adapters' own log: what would go to stderr goes into ``adapter.log`` in the data directory.

An assistant shows its user what its servers write to stderr, or mixes it with its own; so nothing goes there
once we serve. All adapters of a data directory share the file, a JSON object a line (``ts``, ``level``,
``event``, ``pid``), rotated. What cannot be written down is dropped without a word.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

import msgspec

from ecorelay.paths import find_paths, make_private_dir

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_BYTES: Final = 1024 * 1024
FILES: Final = 3
"""The current file and two before it: adapter.log, adapter.log.1, adapter.log.2."""
LINE_MAX: Final = 2_000
"""Characters of one line that are kept."""


def begin(environ: Mapping[str, str]) -> None:
    """From now on nothing reaches stdout or stderr of this process, and ``sys.stderr`` is the log.

    The protocol's own stdout is not this process's any more, see `ecorelay_adapters.stdio.take`.
    """
    sys.stderr = Log(environ)
    if sys.__stderr__ is None:
        return  # started without; the number may mean something else by now
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # of children, and of a Python that dies
    os.close(nowhere)


class Log(io.TextIOBase):
    """A text stream whose lines go to the log of the data directory that `environ` asks for. Never raises."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._rest = ""
        self._lock = threading.RLock()

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, text: str) -> int:
        """Write down whole lines, and keep the beginning of one until its end comes."""
        with self._lock:
            *lines, rest = (self._rest + text).split("\n")
            self._rest = rest[:LINE_MAX]
            if lines := [line[:LINE_MAX] for line in lines if line.strip()]:
                _append(self._environ, lines)
        return len(text)

    def flush(self) -> None:
        """A line that has no end yet waits for it."""


def _append(environ: Mapping[str, str], lines: list[str]) -> None:
    try:
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z"
        entries = [{"ts": stamp, "level": "warning", "event": line, "pid": os.getpid()} for line in lines]
        data = b"".join([msgspec.json.encode(entry) + b"\n" for entry in entries])
        path = find_paths(environ).adapter_log
        make_private_dir(path.parent)
        handle = _open(path)
        try:
            os.write(handle, data)  # in one piece, so that lines of others do not come between
        finally:
            os.close(handle)
    except Exception:
        return  # no directory, no room: there is nobody to tell


def _open(path: Path) -> int:
    """The current file, with room left in it."""
    flags = (
        os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    )
    handle = os.open(path, flags, 0o600)
    try:
        if os.fstat(handle).st_size < FILE_BYTES or not _rotate(path, handle):
            return handle
    except OSError:
        return handle  # larger than it should be, but there
    os.close(handle)
    return os.open(path, flags, 0o600)


def _rotate(path: Path, handle: int) -> bool:
    """Make the current file an older one; whether there may be another current one now."""
    from ecorelay.file_lock import try_lock  # seldom, and every adapter has a log

    if not try_lock(handle):
        return False  # another adapter is at it
    if not os.path.samestat(os.stat(path), os.fstat(handle)):
        return True  # another one has done it
    for age in range(FILES - 1, 0, -1):
        older = path.with_name(f"{path.name}.{age}")
        newer = path if age == 1 else path.with_name(f"{path.name}.{age - 1}")
        try:
            os.replace(newer, older)
        except FileNotFoundError:
            continue
    return True
