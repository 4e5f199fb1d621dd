"""A lock that processes hold while they change a file: read, change, write, and nobody else's change is lost.

The lock is the operating system's, on a file of its own beside the changed one (that one is replaced, and a
lock on what was replaced guards nothing). It ends with the process that holds it; the file stays, empty.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S: Final = 5.0
TRY_EVERY_S: Final = 0.005


@contextmanager
def held(path: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock file `path` for the block. Blocks the thread while somebody else does.

    Raises:
        RelayError: ``mailbox_error``, it is not to be had in time, or its file system knows no locks.
    """
    from ecorelay.spawn import start_lock  # for the few times that something is written

    until = time.monotonic() + wait_s
    with ExitStack() as stack:
        while not stack.enter_context(start_lock(path)):
            stack.close()
            if time.monotonic() >= until:
                raise RelayError("mailbox_error", f"another process holds {path}: try again")
            # Not in step with another process that takes it again and again.
            time.sleep(TRY_EVERY_S * random.random())
        yield
