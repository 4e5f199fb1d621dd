"""The yardstick's store: SQLite in WAL mode, one thread, group commit, nothing else.

All statements of a commit take whole batches. CPython releases its global lock in every step of every
statement, and has to get it back from a busy event loop afterwards: `executemany` pays that once for
each row, one `INSERT ... VALUES (...), (...)` once for all of them.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

RING = 500
"""Entries a mailbox keeps, as the product does by default."""
ROWS_AT_ONCE = 2_000
"""Rows of one statement; SQLite takes 32,766 variables."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS mail (
    peer INTEGER NOT NULL, seq INTEGER NOT NULL, msg_id TEXT NOT NULL, sender TEXT NOT NULL,
    text TEXT NOT NULL, PRIMARY KEY (peer, seq)
);
CREATE TABLE IF NOT EXISTS broadcasts (msg_id TEXT NOT NULL, sender TEXT NOT NULL, text TEXT NOT NULL);
"""


@dataclass(slots=True)
class Write:
    """One message for one mailbox, or for everybody (`peer` 0)."""

    peer: int
    msg_id: str
    sender: str
    text: str
    note: Any
    """Handed back with the commit."""


@dataclass(slots=True)
class Page:
    """Read the newest `limit` entries of a mailbox, in its turn among the writes."""

    peer: int
    limit: int
    note: Any
    rows: list[tuple[str, str, str]]


class Store:
    """Commits what `submit` gathered while the last commit ran.

    Args:
        path: of the database.
        synchronous: ``FULL`` survives a power failure, ``NORMAL`` the end of the process.
        hand_back: gets each list of work that is on disk, called in the store's thread.
    """

    def __init__(self, path: str, synchronous: str, hand_back: Callable[[list[Write | Page]], None]) -> None:
        self._hand_back = hand_back
        # Owned by whoever holds the lock:
        self._lock = Lock()
        self._pending: list[Write | Page] = []
        self._asleep = True
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._path = path
        self._synchronous = synchronous
        Thread(target=self._run, name="store", daemon=True).start()

    def submit(self, work: Iterable[Write | Page]) -> None:
        """Add work of one read of one connection. Called in the event loop's thread only."""
        with self._lock:
            self._pending.extend(work)
            wakes, self._asleep = self._asleep, False
        if wakes:
            self._wake.put(True)

    def _run(self) -> None:
        db = sqlite3.connect(self._path, isolation_level=None, cached_statements=512)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {self._synchronous}")
        db.executescript(_SCHEMA)
        last: dict[int, int] = defaultdict(int)
        while True:
            self._wake.get()
            while batch := self._take():
                self._commit(db, batch, last)
                self._hand_back(batch)

    def _take(self) -> list[Write | Page]:
        with self._lock:
            batch, self._pending = self._pending, []
            self._asleep = not batch
        return batch

    def _commit(self, db: sqlite3.Connection, batch: list[Write | Page], last: dict[int, int]) -> None:
        rows: list[Any] = []
        trims: dict[int, int] = {}
        everybody: list[str] = []
        pages: list[Page] = []
        for work in batch:
            if isinstance(work, Page):
                pages.append(work)
            elif work.peer:
                last[work.peer] = seq = last[work.peer] + 1
                rows += (work.peer, seq, work.msg_id, work.sender, work.text)
                if seq > RING:
                    trims[work.peer] = seq - RING
            else:
                everybody += (work.msg_id, work.sender, work.text)
        if rows or everybody:
            db.execute("BEGIN IMMEDIATE")
            _insert(db, "mail", 5, rows)
            _insert(db, "broadcasts", 3, everybody)
            if trims:
                bounds = [number for pair in trims.items() for number in pair]
                db.execute(
                    f"WITH v(p, s) AS (VALUES {_marks(len(trims), 2)}) DELETE FROM mail WHERE rowid IN "
                    "(SELECT mail.rowid FROM v CROSS JOIN mail ON mail.peer = v.p AND mail.seq <= v.s)",
                    bounds,
                )
            db.execute("COMMIT")
        for page in pages:
            page.rows = db.execute(
                "SELECT msg_id, sender, text FROM mail WHERE peer = ? ORDER BY seq DESC LIMIT ?",
                (page.peer, page.limit),
            ).fetchall()


def _insert(db: sqlite3.Connection, table: str, width: int, values: list[Any]) -> None:
    size = ROWS_AT_ONCE * width
    for start in range(0, len(values), size):
        part = values[start : start + size]
        db.execute(f"INSERT INTO {table} VALUES {_marks(len(part) // width, width)}", part)


def _marks(rows: int, width: int) -> str:
    row = f"({','.join('?' * width)})"
    return ",".join([row] * rows)
