"""What leaves a full ring, and what its senders are told.

The read goes first, then the oldest; what came last never goes. A ring's key order is the order of
leaving, so what leaves is always the beginning of a ring, and finding it does not depend on its length.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from ecorelay.daemon.schema import DEAD, EVICTED, UNREAD
from ecorelay.daemon.store_ledger import Box
from ecorelay.daemon.store_sql import ROWS_MAX, as_json, execute_rows, listed, placeholders

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from ecorelay.daemon.store_ledger import Ledger

_COPIED: Final = (
    "INSERT INTO receipts (mid, box, pushed_at, carrier, seen_at, replied_at, outcome, reason, ended_at)"
    " SELECT r.mid, r.box, r.pushed_at, r.carrier, r.seen_at, r.replied_at,"
)


class Entry(NamedTuple):
    """A row of a ring, as far as leaving it is concerned."""

    state: int
    mid: int
    size: int
    sender: int
    shared: int


class Ring:
    """One mailbox during an append: it grows row by row, and sheds what no longer fits.

    Args:
        before: its counters before the append.
        oldest: what leaves it first, in order: as many as may have to.
    """

    def __init__(self, before: Box, oldest: Sequence[Entry]) -> None:
        self.entries, self.bytes, self.unread = before
        self.gone = 0
        """How many of `oldest` left."""
        self._oldest = oldest

    def add(self, size: int, ledger: Ledger) -> Counter[int] | None:
        """One more unread message of `size` bytes.

        Returns:
            How many left unread, by sender; None for none.
        """
        self.entries += 1
        self.bytes += size
        self.unread += 1
        limits = ledger.limits
        lost: Counter[int] | None = None
        while self.entries > 1 and (
            self.entries > limits.mailbox_messages or self.bytes > limits.mailbox_bytes
        ):
            entry = self._oldest[self.gone]
            self.gone += 1
            self.entries -= 1
            self.bytes -= entry.size
            if entry.state == UNREAD:
                self.unread -= 1
                if lost is None:
                    lost = Counter()
                lost[entry.sender] += 1
        return lost

    @property
    def left(self) -> Sequence[Entry]:
        """What left, oldest first."""
        return self._oldest[: self.gone]


def oldest_of(ledger: Ledger, after: Mapping[int, Box]) -> dict[int, list[Entry]]:
    """The beginning of each ring, as much of it as has to leave.

    Args:
        after: mailboxes over a limit, as they are with everything appended and nothing removed.
    """
    limits = ledger.limits
    found: dict[int, list[Entry]] = {}
    wanted = {no: max(1, box.entries - limits.mailbox_messages) for no, box in after.items()}
    while wanted:
        rows_of = _first_rows(ledger.db, wanted)
        found.update(rows_of)
        # How many are needed for the sake of bytes shows only in their sizes.
        wanted = {
            no: 4 * count
            for no, count in wanted.items()
            if len(rows_of[no]) < after[no].entries - 1
            and after[no].bytes - sum(entry.size for entry in rows_of[no]) > limits.mailbox_bytes
        }
    return found


def _first_rows(db: sqlite3.Connection, wanted: Mapping[int, int]) -> dict[int, list[Entry]]:
    """The first rows of each ring, at least as many as wanted of it."""
    if len(wanted) == 1:
        [(no, count)] = wanted.items()
        rows = listed(
            db,
            "SELECT json_group_array(json_array(state, mid, size, sender, shared)) FROM"
            " (SELECT * FROM ring WHERE box = ? ORDER BY state, mid LIMIT ?)",
            (no, count),
        )
        return {no: [Entry(*row) for row in rows]}
    found: dict[int, list[Entry]] = {}
    # Rings that need about as many share a statement.
    by_count: dict[int, list[int]] = {}
    for no, count in wanted.items():
        by_count.setdefault(1 if count == 1 else 4 ** -(-(count - 1).bit_length() // 2), []).append(no)
    for count, boxes in by_count.items():
        for start in range(0, len(boxes), ROWS_MAX):
            part = boxes[start : start + ROWS_MAX]
            several = listed(
                db,
                "SELECT json_group_array(json_array(v.column1, json((SELECT"
                " json_group_array(json_array(state, mid, size, sender, shared)) FROM"
                " (SELECT * FROM ring WHERE box = v.column1 ORDER BY state, mid LIMIT ?)))))"
                f" FROM (VALUES {placeholders(len(part), 1)}) AS v",
                (count, *part),
            )
            for no, rows in several:
                found[no] = [Entry(*row) for row in rows]
    return found


def remove(ledger: Ledger, left: Mapping[int, Sequence[Entry]], at: int) -> None:
    """Take the beginnings of rings out: receipts stay, texts nobody holds any more go.

    Args:
        left: what leaves each ring, at least one each.
        at: when, ms.
    """
    db = ledger.db
    ends = [(no, entries[-1].state, entries[-1].mid) for no, entries in left.items()]
    outcome = f"iif(r.state = {UNREAD}, {EVICTED}, 0), NULL, ?"
    if len(ends) == 1:
        where = "WHERE box = ? AND (state, mid) <= (?, ?)"
        db.execute(f"{_COPIED} {outcome} FROM ring AS r {where}", (at, *ends[0]))
        db.execute(f"DELETE FROM bodies WHERE mid IN (SELECT mid FROM ring {where} AND NOT shared)", ends[0])
        db.execute(f"DELETE FROM ring {where}", ends[0])
    else:
        for start in range(0, len(ends), ROWS_MAX):
            _remove_several(db, ends[start : start + ROWS_MAX], outcome, at)
    release_texts(db, (entry.mid for entries in left.values() for entry in entries if entry.shared))


def _remove_several(
    db: sqlite3.Connection, ends: Sequence[tuple[int, int, int]], outcome: str, at: int
) -> None:
    flat = [value for end in ends for value in end]
    rows = f"(VALUES {placeholders(len(ends), 3)}) AS v CROSS JOIN ring AS r"
    until = "ON r.box = v.column1 AND (r.state, r.mid) <= (v.column2, v.column3)"
    db.execute(f"{_COPIED} {outcome} FROM {rows} {until}", (at, *flat))
    db.execute(f"DELETE FROM bodies WHERE mid IN (SELECT r.mid FROM {rows} {until} WHERE NOT r.shared)", flat)
    db.execute(
        f"DELETE FROM ring WHERE (box, state, mid) IN (SELECT r.box, r.state, r.mid FROM {rows} {until})",
        flat,
    )


def release_texts(db: sqlite3.Connection, mids: Iterable[int]) -> None:
    """Rings let go of texts with several recipients, once for each time a mid is named."""
    counts = Counter(mids)
    if counts:
        execute_rows(
            db,
            "UPDATE messages SET refs = refs - v.column2 FROM (VALUES",
            list(counts.items()),
            ") AS v WHERE mid = v.column1",
        )
        db.execute(
            "DELETE FROM bodies WHERE mid IN (SELECT mid FROM messages"
            " WHERE mid IN (SELECT value FROM json_each(?)) AND refs <= 0)",
            (as_json(counts),),
        )


def bury(ledger: Ledger, no: int, mids: Sequence[int], reason: str) -> None:
    """These unread or seen messages of one mailbox end as dead; the senders of the unread are told."""
    db = ledger.db
    keys = as_json(mids)
    where = "WHERE box = ? AND state IN (0, 1) AND mid IN (SELECT value FROM json_each(?))"
    rows = listed(
        db,
        "SELECT json_group_array(json_array(state, mid, size, sender, shared)) FROM ring " + where,
        (no, keys),
    )
    entries = [Entry(*row) for row in rows]
    db.execute(f"{_COPIED} {DEAD}, ?, ? FROM ring AS r {where}", (reason, ledger.latest, no, keys))
    db.execute(f"DELETE FROM ring {where}", (no, keys))
    alone = [entry.mid for entry in entries if not entry.shared]
    db.execute("DELETE FROM bodies WHERE mid IN (SELECT value FROM json_each(?))", (as_json(alone),))
    release_texts(db, (entry.mid for entry in entries if entry.shared))
    unread = [entry for entry in entries if entry.state == UNREAD]
    box = ledger.box(no)
    size = sum(entry.size for entry in entries)
    ledger.put_box(no, Box(box.entries - len(entries), box.bytes - size, box.unread - len(unread)))
    tell(ledger, Counter((entry.sender, no) for entry in unread), reason, ledger.latest)


def tell(ledger: Ledger, lost: Mapping[tuple[int, int], int], reason: str, at: int) -> set[tuple[int, int]]:
    """Add to the notices of senders: of their messages to a recipient so many ended unread.

    Args:
        lost: (sender no, recipient no) → how many. Sender 0 is nobody, and those removed are not told.
        reason: one word.
        at: when, ms.

    Returns:
        The pairs that had no such notice waiting.
    """
    rows = [(sender, about, count) for (sender, about), count in lost.items() if sender]
    first: set[tuple[int, int]] = set()
    for start in range(0, len(rows), ROWS_MAX):
        part = rows[start : start + ROWS_MAX]
        flat = [value for row in part for value in row]
        changed = ledger.db.execute(
            "INSERT INTO notices (sender_no, about_no, reason, total, at)"
            f" SELECT column1, column2, ?, column3, ? FROM (VALUES {placeholders(len(part), 3)})"
            " WHERE EXISTS (SELECT 1 FROM peers WHERE no = column1)"
            " ON CONFLICT (sender_no, about_no, reason)"
            " DO UPDATE SET total = total + excluded.total, at = excluded.at"
            " RETURNING sender_no, about_no, total",
            (reason, at, *flat),
        ).fetchall()
        first.update((sender, about) for sender, about, total in changed if total == lost[sender, about])
    return first
