"""Whether hub.db is still the file under its name, while the hub has it open.

A removed file goes on taking what is written to it, and all of it is gone with the hub: mail would be
acknowledged that nobody can ever read. Two looks at names before a commit cost some millionths of a second.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Literal

from ecorelay.daemon.store_failure import Misplaced

if TYPE_CHECKING:
    from pathlib import Path

Missing = Literal["", "log", "database"]


class Presence:
    """See the module.

    Args:
        path: of the database, which is open.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._log = self._path + "-wal"
        self._directory = os.fspath(path.parent)
        self.note()

    def note(self) -> None:
        """What lies there now is ours."""
        self._ours = _which(self._path)
        self._ours_in = _which(self._directory)
        self._log_ours = _which(self._log)

    def missing(self) -> Missing:
        """What of it was removed; it can be put back.

        Raises:
            Misplaced: nothing that is written would be found again, and nothing can be put back.
        """
        found = _which(self._path)
        if found == self._ours:
            if self._log_ours is None:
                self._log_ours = _which(self._log)  # it appears with the first write
            return "" if _which(self._log) == self._log_ours else "log"
        if found is not None:
            raise Misplaced(
                f"{self._path} was replaced by another file while the hub ran: `ecorelay hub restart` goes "
                "on with what lies there now"
            )
        if _which(self._directory) != self._ours_in:
            raise Misplaced(
                f"{self._directory} was removed while the hub ran: try again, another hub begins anew"
            )
        return "database"


def write_out(db: sqlite3.Connection, new: Path) -> None:
    """Copy the open database, whatever became of its names, into the empty file `new`.

    Raises:
        sqlite3.Error: it cannot be written there.
    """
    with closing(sqlite3.connect(new, isolation_level=None)) as copy:
        for pragma in ("journal_mode = OFF", "synchronous = OFF"):
            copy.execute("PRAGMA " + pragma).fetchall()
        db.backup(copy)


def _which(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
