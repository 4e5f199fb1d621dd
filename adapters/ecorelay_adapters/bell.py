"""The file an assistant watches, and the adapter touches to wake it."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from ecorelay.errors import RelayError
from ecorelay.paths import make_private_dir, write_private
from ecorelay.process import is_alive

if TYPE_CHECKING:
    from pathlib import Path

SWEPT = 200
"""Files of other processes looked at for being left over."""


class Bell:
    """One session's bell.

    Args:
        path: its file, ``<pid>-<start>`` of the assistant's process, in a folder of bells.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def hang(self) -> None:
        """Make the folder, and take away the bells of processes that are gone.

        Without it nothing wakes the session, but nothing else depends on it; so what goes wrong is only said.
        """
        try:
            make_private_dir(self._path.parent)
            for _, other in zip(range(SWEPT), self._path.parent.iterdir(), strict=False):
                pid, _, start = other.name.partition("-")
                if pid.isdecimal() and start.isdecimal() and not is_alive(int(pid), int(start)):
                    other.unlink(missing_ok=True)
        except (OSError, RelayError) as error:
            print(f"ecorelay: no bell at {self._path}: {error}", file=sys.stderr)

    def ring(self) -> bool:
        """Change the file: whoever watches it wakes. Whether it was changed."""
        try:
            write_private(self._path, f"{time.time_ns()}\n".encode())
        except OSError as error:
            try:
                os.utime(self._path)  # needs no room on a full disk
            except OSError:
                print(f"ecorelay: the bell at {self._path} cannot be rung: {error}", file=sys.stderr)
                return False
        return True

    def take_down(self) -> None:
        """Nobody is to be woken by it any more."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return
