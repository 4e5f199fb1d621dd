"""The open database together with what is remembered of it between transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ecorelay.daemon.store_sql import as_json, insert_rows, listed, one
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Mapping

    from ecorelay.core.ops import WriteBackup
    from ecorelay.limits import Limits

_ABSENT: Final[Any] = object()
BOXES_KEPT: Final = 20_000
"""Counters of mailboxes kept in memory."""


Box = tuple[int, int, int]
"""What lies in one ring: entries, bytes of text, unread entries."""


class Lease(NamedTuple):
    """What one reader holds: nobody else gets it until the lease ends."""

    box: int
    mids: frozenset[int]


class Ledger:
    """Used by one thread at a time, within a transaction.

    Counters of mailboxes are kept here and written once per transaction. Leases are nowhere else: a
    hub that starts has none, and what was handed out before is marked in its row.

    Args:
        db: as `store_file.connect` sets it up.
        limits: of the rings, and of how long things are kept.
        now_ms: the time until an op brings a later one.
    """

    def __init__(self, db: sqlite3.Connection, limits: Limits, now_ms: int) -> None:
        self.db = db
        self.limits = limits
        self.latest = now_ms
        """The latest time any op brought: when something ends in an op that brings none."""
        self.writable = True
        """False while a read is done on a disk that takes no writes: its marks are left out."""
        self.stored_mid = 0
        """The last message this transaction stored; it proves a commit whose result was lost."""
        self.give_back = 0
        """Free pages to be returned to the file system once this transaction is committed."""
        self.scrub_before = -1
        """Once this transaction is committed, the log is to be emptied, and files of texts older than this
        (ms) are to go; negative: nothing of the kind."""
        self.backups: list[WriteBackup] = []
        """Copies to be begun once this transaction is committed; taken from here by the store."""
        self.swept = 0
        self.sweep_at = 0
        """Owned by `store_upkeep`: how far messages were looked through, as a mid; when to begin anew."""
        self._looked_at = self._calm_from = 0
        """When the clock was last looked at for what is too old, and from when on it is believed."""
        self.next_mid = self._first_free_mid()
        self.boxes: dict[int, Box] = {}
        """Counters of the mailboxes loaded so far; to be changed by `put_boxes` only."""
        self._dirty: set[int] = set()
        self._done: dict[Any, bool] = {}
        self._leases: dict[int, Lease] = {}
        self._leases_of: dict[int, tuple[int, ...]] = {}
        self._journal: list[tuple[dict[Any, Any], Any, Any]] = []

    def _first_free_mid(self) -> int:
        kept = one(self.db, "SELECT value FROM meta WHERE key = 'last_mid'")
        there = one(self.db, "SELECT max(mid) FROM messages")
        return max(kept or 0, there or 0) + 1

    def take_mids(self, count: int) -> int:
        """The first of `count` numbers for messages. What is taken is never taken again."""
        first = self.next_mid
        self.next_mid += count
        return first

    # --- counters of mailboxes -----------------------------------------------------------------------

    def load(self, boxes: Collection[int]) -> None:
        """Have the counters of these mailboxes at hand."""
        known = self.boxes
        missing = [box for box in boxes if box not in known]
        if missing:
            rows = listed(
                self.db,
                "SELECT json_group_array(json_array(box, entries, bytes, unread)) FROM mailboxes"
                " WHERE box IN (SELECT value FROM json_each(?))",
                (as_json(missing),),
            )
            for box, entries, size, unread in rows:
                known[box] = (entries, size, unread)

    def box(self, no: int) -> Box:
        """The counters of one mailbox.

        Raises:
            RelayError: ``peer_gone``, there is none.
        """
        found = self.boxes.get(no)
        if found is None:
            self.load((no,))
            found = self.boxes.get(no)
            if found is None:
                raise RelayError("peer_gone", "that peer was removed: relay_peers lists those there are")
        return found

    def put_boxes(self, changed: Mapping[int, Box]) -> None:
        """Change counters; `finish` writes them."""
        boxes = self.boxes
        self._journal += [(boxes, no, boxes[no]) for no in changed]
        boxes.update(changed)
        self._dirty.update(changed)

    def drop_box(self, no: int) -> None:
        """Forget a mailbox whose row is removed."""
        self._put(self.boxes, no, _ABSENT)
        self._dirty.discard(no)

    # --- leases --------------------------------------------------------------------------------------

    def held(self, no: int) -> frozenset[int]:
        """Mids of a mailbox under any lease."""
        leases = self._leases_of.get(no)
        if not leases:
            return frozenset()
        return frozenset().union(*[self._leases[lease].mids for lease in leases])

    def leased(self, lease: int) -> frozenset[int]:
        """Mids under this lease; none under an unknown one."""
        found = self._leases.get(lease)
        return frozenset() if found is None else found.mids

    def hold(self, lease: int, no: int, mids: frozenset[int]) -> None:
        """Lease these to a reader."""
        self._put(self._leases, lease, Lease(no, mids))
        self._put(self._leases_of, no, (*self._leases_of.get(no, ()), lease))

    def end_lease(self, lease: int) -> None:
        """What it held is free; unknown ones are passed over."""
        found = self._leases.get(lease)
        if found is not None:
            left = tuple(each for each in self._leases_of[found.box] if each != lease)
            self._put(self._leases, lease, _ABSENT)
            self._put(self._leases_of, found.box, left or _ABSENT)

    def end_leases_of(self, no: int) -> None:
        """Nothing of a mailbox is held any more."""
        for lease in self._leases_of.get(no, ()):
            self.end_lease(lease)

    # --- transactions --------------------------------------------------------------------------------

    def begin(self) -> None:
        """A transaction begins."""
        self.stored_mid = 0
        self.give_back = 0
        self.scrub_before = -1
        self._journal.clear()

    def mark(self) -> int:
        """A point to which `undo` can go back."""
        return len(self._journal)

    def undo(self, mark: int = 0) -> None:
        """Remember what was so at `mark`, as the database does when it rolls back."""
        journal = self._journal
        while len(journal) > mark:
            table, key, before = journal.pop()
            if before is _ABSENT:
                table.pop(key, None)
            else:
                table[key] = before

    def finish(self) -> None:
        """Write the counters that changed; the commit follows."""
        self.write_counters()
        if len(self.boxes) > BOXES_KEPT:
            self.forget()

    def write_counters(self) -> None:
        """Write the counters that changed, for who reads their table. Not in a unit that may be refused."""
        if self._dirty:
            boxes = self.boxes
            rows = [(no, *boxes[no]) for no in sorted(self._dirty) if no in boxes]
            if rows:
                insert_rows(
                    self.db,
                    "mailboxes",
                    rows,
                    "ON CONFLICT (box) DO UPDATE SET entries = excluded.entries,"
                    " bytes = excluded.bytes, unread = excluded.unread",
                )
            self._dirty.clear()

    def forget(self) -> None:
        """Read counters anew when they are needed: the database was opened again, or there are too many."""
        self.boxes.clear()
        self._dirty.clear()

    def _put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._journal.append((table, key, table.get(key, _ABSENT)))
        if value is _ABSENT:
            table.pop(key, None)
        else:
            table[key] = value

    def first_time(self, what: Any) -> bool:
        """Whether this is asked for the first time in this run; not, if the transaction is rolled back."""
        if what in self._done:
            return False
        self._put(self._done, what, True)
        return True

    def calm(self, now: int, jump_ms: int, calm_ms: int) -> bool:
        """Whether the wall clock has gone on without a jump for some time: only then is anything too old."""
        if not 0 <= now - self._looked_at <= jump_ms:
            self._calm_from = now + calm_ms
        self._looked_at = now
        return now >= self._calm_from

    def note_time(self, at: int) -> None:
        """An op came with this time."""
        self.latest = max(self.latest, at)
