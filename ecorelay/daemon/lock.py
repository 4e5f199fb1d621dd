"""hub.lock: at most one hub per data directory, whatever happened to the one before.

The lock is the operating system's and ends with the process that holds it. The file stays; its content
only tells a person who holds it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ecorelay.errors import RelayError
from ecorelay.file_lock import open_lock_file, try_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_S = 5.0
"""Seconds to wait for a hub that is just leaving."""
TRY_EVERY_S = 0.05


class Holder(Struct, frozen=True):
    """Who holds the lock."""

    pid: int


class HubLock:
    """The lock, held from :meth:`take` to :meth:`release`, or in a `with` block.

    Args:
        path: of the lock file; its directory exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = -1

    def __enter__(self) -> HubLock:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(
        self,
        wait_s: float = WAIT_S,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Get the lock. Blocks the thread for up to `wait_s` seconds.

        Raises:
            RelayError: ``already_registered``, another hub holds it; ``mailbox_error``, the file
                cannot be opened, or its file system knows no locks.
        """
        until = clock() + wait_s
        try:
            self._handle = open_lock_file(self.path)
            while not try_lock(self._handle):
                if clock() >= until:
                    raise RelayError("already_registered", self._held_message())
                sleep(TRY_EVERY_S)
            os.ftruncate(self._handle, 0)
            os.write(self._handle, msgspec.json.encode(Holder(pid=os.getpid())) + b"\n")
        except OSError as error:
            self.release()
            raise RelayError(
                "mailbox_error", f"cannot lock {self.path}: {error.strerror or error}"
            ) from error
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give it back; a waiting hub goes on at once."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def still_ours(self) -> bool:
        """Whether the file at `path` is the one we hold. A removed one guards nothing any more."""
        try:
            return self._handle >= 0 and os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except OSError:
            return False

    def _held_message(self) -> str:
        pid = holder_pid(self.path)
        who = f"process {pid}" if pid else "another process"
        return (
            f"a hub is already running for {self.path.parent} ({who} holds {self.path.name}): "
            "use it, or end it with `ecorelay hub stop`"
        )


def holder_pid(path: Path) -> int:
    """The process that last took the lock at `path`; 0 where that is unknown."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(1024), type=Holder).pid
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return 0
