"""What leaves a full ring, and what its senders are told.

The read goes first, then the oldest; what came last never goes. A ring's key order is the order of
leaving, so what leaves is always the beginning of a ring, and finding it does not depend on its length.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from ecorelay.daemon.schema import DEAD, EVICTED, UNREAD
from ecorelay.daemon.store_sql import ROWS_MAX, as_json, execute_rows, insert_rows, one, placeholders

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from ecorelay.daemon.store_ledger import Box, Ledger

Entry = tuple[int, int, int, int, int]
"""A row of a ring, as far as leaving it is concerned: state, mid, size, sender, shared."""

_entries = msgspec.json.Decoder(list[Entry])
_entries_by_box = msgspec.json.Decoder(list[tuple[int, list[Entry]]])
_numbers = msgspec.json.Decoder(list[int])
_pairs = msgspec.json.Decoder(list[tuple[int, int, int]])

_COPIED: Final = (
    "INSERT INTO receipts (mid, box, seen_at, replied_at, outcome, reason, ended_at)"
    " SELECT r.mid, r.box, r.seen_at, r.replied_at,"
)
_ENTRIES: Final = "json_group_array(json_array(state, mid, size, sender, shared))"


class Shedding:
    """A mailbox over its limits during an append: it grows row by row, and sheds what no longer fits.

    Args:
        before: its counters before the append.
        oldest: what leaves it first, in order: as many as may have to.
        entries_max: of the ring.
        bytes_max: of the ring.
    """

    def __init__(self, before: Box, oldest: Sequence[Entry], entries_max: int, bytes_max: int) -> None:
        self.entries, self.bytes, self.unread = before
        self.oldest = oldest
        self.gone = 0
        """How many of `oldest` left."""
        self.upto = 0
        """The mid of the last that left unread: whatever is older has left, too."""
        self._entries_max = entries_max
        self._bytes_max = bytes_max

    def add(self, size: int) -> list[int]:
        """One more unread message of `size` bytes; the senders of what leaves unread for it."""
        self.entries += 1
        self.bytes += size
        self.unread += 1
        lost: list[int] = []
        while self.entries > 1 and (self.entries > self._entries_max or self.bytes > self._bytes_max):
            state, mid, length, sender, _ = self.oldest[self.gone]
            self.gone += 1
            self.entries -= 1
            self.bytes -= length
            if state == UNREAD:
                self.unread -= 1
                self.upto = mid
                lost.append(sender)
        return lost


def oldest_of(ledger: Ledger, over: Mapping[int, Box]) -> dict[int, list[Entry]]:
    """The beginning of each ring, as much of it as has to leave.

    Args:
        ledger: with everything appended and nothing removed.
        over: counters of the mailboxes over a limit, in that state.
    """
    limits = ledger.limits
    found: dict[int, list[Entry]] = {}
    wanted = {no: max(1, box[0] - limits.mailbox_messages) for no, box in over.items()}
    while wanted:
        rows_of = _first_rows(ledger.db, wanted)
        found.update(rows_of)
        # How many are needed for the sake of bytes shows only in their sizes.
        wanted = {
            no: 4 * count
            for no, count in wanted.items()
            if len(rows_of[no]) < over[no][0] - 1
            and over[no][1] - sum([entry[2] for entry in rows_of[no]]) > limits.mailbox_bytes
        }
    return found


def _first_rows(db: sqlite3.Connection, wanted: Mapping[int, int]) -> dict[int, list[Entry]]:
    """The first rows of each ring, at least as many as wanted of it."""
    if len(wanted) == 1:
        [(no, count)] = wanted.items()
        first = f"SELECT {_ENTRIES} FROM (SELECT * FROM ring WHERE box = ? ORDER BY state, mid LIMIT ?)"
        return {no: _entries.decode(one(db, first, (no, count)))}
    # Rings that need about as many share a statement.
    by_count: dict[int, list[int]] = {}
    for no, count in wanted.items():
        by_count.setdefault(1 if count == 1 else 4 ** -(-(count - 1).bit_length() // 2), []).append(no)
    found: dict[int, list[Entry]] = {}
    for count, boxes in by_count.items():
        for start in range(0, len(boxes), ROWS_MAX):
            part = boxes[start : start + ROWS_MAX]
            found.update(_first_of_several(db, part, count))
    return found


def _first_of_several(db: sqlite3.Connection, boxes: Sequence[int], count: int) -> dict[int, list[Entry]]:
    values = f"FROM (VALUES {placeholders(len(boxes), 1)}) AS v"
    if count == 1:  # as when something goes to everybody; half the time of the general form
        numbers = _numbers.decode(
            one(
                db,
                "SELECT '[' || group_concat("
                "(SELECT printf('%d,%d,%d,%d,%d', state, mid, size, sender, shared)"
                f" FROM ring WHERE box = v.column1 ORDER BY state, mid LIMIT 1)) || ']' {values}",
                boxes,
            )
        )
        rows = zip(*[iter(numbers)] * 5, strict=True)
        return {no: [row] for no, row in zip(boxes, rows, strict=True)}
    return dict(
        _entries_by_box.decode(
            one(
                db,
                f"SELECT json_group_array(json_array(v.column1, json((SELECT {_ENTRIES} FROM"
                f" (SELECT * FROM ring WHERE box = v.column1 ORDER BY state, mid LIMIT ?))))) {values}",
                (count, *boxes),
            )
        )
    )


def remove(ledger: Ledger, left: Mapping[int, Sequence[Entry]], at: int) -> None:
    """Take the beginnings of rings out: receipts stay, texts nobody holds any more go.

    Args:
        ledger: the open transaction.
        left: what leaves each ring, at least one each.
        at: when, ms.
    """
    db = ledger.db
    ends = [(no, entries[-1][0], entries[-1][1]) for no, entries in left.items()]
    alone = any(not entry[4] for entries in left.values() for entry in entries)
    if len(ends) == 1:
        where = "WHERE box = ? AND (state, mid) <= (?, ?)"
        db.execute(f"{_COPIED} {_OUTCOME} FROM ring AS r {where}", (at, *ends[0]))
        if alone:
            rows = f"SELECT mid FROM ring {where} AND NOT shared"
            db.execute(f"DELETE FROM bodies WHERE mid IN ({rows})", ends[0])
        db.execute(f"DELETE FROM ring {where}", ends[0])
    else:
        for start in range(0, len(ends), ROWS_MAX):
            _remove_several(db, ends[start : start + ROWS_MAX], at, alone=alone)
    release_texts(db, [entry[1] for entries in left.values() for entry in entries if entry[4]])


_OUTCOME: Final = f"iif(r.state = {UNREAD}, {EVICTED}, 0), NULL, ?"


def _remove_several(
    db: sqlite3.Connection, ends: Sequence[tuple[int, int, int]], at: int, *, alone: bool
) -> None:
    flat = [value for end in ends for value in end]
    rows = (
        f"FROM (VALUES {placeholders(len(ends), 3)}) AS v CROSS JOIN ring AS r"
        " ON r.box = v.column1 AND (r.state, r.mid) <= (v.column2, v.column3)"
    )
    db.execute(f"{_COPIED} {_OUTCOME} {rows}", (at, *flat))
    if alone:
        db.execute(f"DELETE FROM bodies WHERE mid IN (SELECT r.mid {rows} WHERE NOT r.shared)", flat)
    db.execute(f"DELETE FROM ring WHERE (box, state, mid) IN (SELECT r.box, r.state, r.mid {rows})", flat)


def release_texts(db: sqlite3.Connection, mids: Sequence[int]) -> None:
    """Rings let go of texts with several recipients, once for each time a mid is named."""
    if mids:
        counts = Counter(mids)
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
    """These messages of one mailbox end as dead; the senders of the unread among them are told."""
    db = ledger.db
    keys = as_json(mids)
    where = "WHERE box = ? AND state IN (0, 1) AND mid IN (SELECT value FROM json_each(?))"
    entries = _entries.decode(one(db, f"SELECT {_ENTRIES} FROM ring {where}", (no, keys)))
    db.execute(f"{_COPIED} {DEAD}, ?, ? FROM ring AS r {where}", (reason, ledger.latest, no, keys))
    db.execute(f"DELETE FROM ring {where}", (no, keys))
    alone = [entry[1] for entry in entries if not entry[4]]
    db.execute("DELETE FROM bodies WHERE mid IN (SELECT value FROM json_each(?))", (as_json(alone),))
    release_texts(db, [entry[1] for entry in entries if entry[4]])
    senders = [entry[3] for entry in entries if entry[0] == UNREAD]
    count, size, unread = ledger.box(no)
    size -= sum([entry[2] for entry in entries])
    ledger.put_boxes({no: (count - len(entries), size, unread - len(senders))})
    counts = Counter(senders)
    tell(ledger, {(sender, no): (count, ledger.latest) for sender, count in counts.items()}, reason)


def tell(
    ledger: Ledger, lost: Mapping[tuple[int, int], tuple[int, int]], reason: str
) -> set[tuple[int, int]]:
    """Add to the notices of senders: of their messages to a recipient so many ended unread.

    Args:
        ledger: the open transaction.
        lost: (sender no, recipient no) → how many, and when the last of them. Sender 0 is nobody, and
            those removed are not told.
        reason: one word.

    Returns:
        The pairs that had no such notice waiting.
    """
    db = ledger.db
    first: set[tuple[int, int]] = set()
    pairs = [pair for pair in lost if pair[0]]
    for start in range(0, len(pairs), ROWS_MAX):
        part = pairs[start : start + ROWS_MAX]
        found = _pairs.decode(
            one(
                db,
                "SELECT json_group_array(json_array(v.column1, v.column2, n.id IS NULL))"
                f" FROM (VALUES {placeholders(len(part), 2)}) AS v CROSS JOIN peers AS p ON p.no = v.column1"
                " LEFT JOIN notices AS n ON n.sender_no = v.column1 AND n.about_no = v.column2"
                " AND n.reason = ?",
                [*[no for pair in part for no in pair], reason],
            )
        )
        if found:
            insert_rows(
                db,
                "notices (sender_no, about_no, reason, total, at)",
                [(sender, about, reason, *lost[sender, about]) for sender, about, _ in found],
                "ON CONFLICT (sender_no, about_no, reason)"
                " DO UPDATE SET total = total + excluded.total, at = excluded.at",
            )
            first.update([(sender, about) for sender, about, new in found if new])
    return first
