"""This process as a daemon: what it keeps of its surroundings."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ecorelay.launch import scrubbed

if TYPE_CHECKING:
    from pathlib import Path

SPARE_FILES = 1280
"""Descriptors for everything that is no session: connections before their hello, above all."""


def settle(home: Path, sessions: int) -> None:
    """Make this process one that may live for weeks.

    Args:
        home: the data directory, which becomes the working directory: no project is kept from being
            unmounted or removed.
        sessions: how many connections must be possible.
    """
    os.umask(0o077)
    os.chdir(home)
    # Whoever started us may have had keys in its environment; children (git) must not get them either.
    for name in set(os.environ) - set(scrubbed(os.environ)):
        del os.environ[name]
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it outlives its terminal
        _raise_file_limit(sessions + SPARE_FILES)


def freeze() -> None:
    """Call it once everything is loaded: it stays, so the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


if sys.platform != "win32":

    def _raise_file_limit(wanted: int) -> None:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            # The system may allow less than it says. Then there are fewer sessions.
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
