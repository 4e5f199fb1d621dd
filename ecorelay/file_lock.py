"""Locks between processes, on files of their own. The operating system's: they end with their process."""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S: Final = 5.0
TRY_EVERY_S: Final = 0.005
# Windows locks bytes against reading too: one far behind any content is locked.
_WINDOWS_BYTE: Final = 1 << 30


def open_lock_file(path: Path) -> int:
    """A handle of the lock file `path`, which is made where it is missing. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)


def try_lock(handle: int) -> bool:
    """Lock an open file until it is closed, or its process ends; whether nobody else has it locked.

    Raises:
        OSError: its file system knows no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _WINDOWS_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` for the block if nobody does; gives whether it is ours. The file stays.

    Raises:
        RelayError: ``mailbox_error``, the file cannot be made, or its file system knows no locks.
    """
    try:
        handle = open_lock_file(path)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot open {path}: {error.strerror}") from error
    try:
        try:
            ours = try_lock(handle)
        except OSError as error:
            raise RelayError("mailbox_error", f"cannot lock {path}: {error.strerror}") from error
        yield ours
    finally:
        os.close(handle)


@contextmanager
def held(path: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock file `path` for the block. Blocks the thread while somebody else does.

    For a file that is read, changed and replaced, so that nobody else's change is lost; the lock lies beside
    it, as one on what is replaced guards nothing.

    Raises:
        RelayError: ``mailbox_error``, it is not to be had in time, or see :func:`locked`.
    """
    until = time.monotonic() + wait_s
    with ExitStack() as stack:
        while not stack.enter_context(locked(path)):
            stack.close()
            if time.monotonic() >= until:
                raise RelayError("mailbox_error", f"another process holds {path}: try again")
            # Not in step with another process that takes it again and again.
            time.sleep(TRY_EVERY_S * random.random())
        yield
