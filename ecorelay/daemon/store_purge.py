"""Removing what is old, on a person's word, so that no file holds it any more.

In steps of bounded work, each a transaction of its own, so that other work goes on between them: mailboxes,
groups, receipts with the ids, answers, and in the end the places of the file in which what was removed
earlier may still stand. Where a step ended is in `place`: the number of its kind, then how far it came.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ecorelay.core.ops import Eviction, MailPurged, PurgeMail
from ecorelay.daemon import store_groups, store_ring, store_upkeep
from ecorelay.daemon.schema import EXPIRED, UNREAD
from ecorelay.daemon.store_file import PAGE_BYTES
from ecorelay.daemon.store_sql import as_json, insert_rows, listed, one

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ecorelay.daemon.store_ledger import Box, Ledger

REASON: Final = "purged"
ROWS_PER_STEP: Final = 1_000
"""Looked at by one step: some ten milliseconds."""
BYTES_PER_STEP: Final = 1024 * 1024
"""Texts that one step removes: what is overwritten goes through the log."""
TEXTS_PER_STEP: Final = 2_000
FREE_PAGES_PER_STEP: Final = 256
LOCAL_BYTES_MIN: Final = 230
"""A text fills so much of the page its row stands on, at least, if it is so long."""
IDS_KEPT_MS: Final = 3_600_000
"""Longer than a client repeats a request: what comes again is known, though its text is gone."""


class _Entry(NamedTuple):
    """A row of a ring, in its key order; `old`: it is to go if it may."""

    box: int
    state: int
    mid: int
    size: int
    sender: int
    shared: int
    old: int


_entries = msgspec.json.Decoder(list[_Entry])


def purge(ledger: Ledger, op: PurgeMail) -> MailPurged:
    """See `PurgeMail`."""
    db = ledger.db
    ledger.note_time(op.now)
    number = op.place[0] if op.place else 0
    # What is deleted in here is overwritten, the pages that become free as well; that is not worth the
    # writing for what leaves a full ring.
    db.execute("PRAGMA secure_delete = ON").fetchall()
    try:
        done = _STEPS[number](ledger, op, op.place[1:])
    finally:
        db.execute("PRAGMA secure_delete = FAST").fetchall()
    if done.place or number + 1 == len(_STEPS):
        return msgspec.structs.replace(done, place=(number, *done.place)) if done.place else done
    return msgspec.structs.replace(done, place=(number + 1,))


# --- mailboxes -------------------------------------------------------------------------------------------


def _mailboxes(ledger: Ledger, op: PurgeMail, place: tuple[int, ...]) -> MailPurged:
    entries = _entries.decode(
        one(
            ledger.db,
            "SELECT json_group_array(json_array(r.box, r.state, r.mid, r.size, r.sender, r.shared,"
            " coalesce(m.at < ?, 1))) FROM (SELECT * FROM ring WHERE (box, state, mid) > (?, ?, ?)"
            " ORDER BY box, state, mid LIMIT ?) AS r LEFT JOIN messages AS m ON m.mid = r.mid",
            (op.before, *(place or (0, 0, 0)), ROWS_PER_STEP),
        )
    )
    entries.sort()
    more = len(entries) == ROWS_PER_STEP
    boxes = {entry.box for entry in entries}
    ledger.load(boxes)
    held = {box: ledger.held(box) for box in boxes}
    gone: list[_Entry] = []
    size = 0
    for index, entry in enumerate(entries):
        seen = entry.state != UNREAD  # then nobody has to find it where a page showed it
        may_go = seen or (op.unread and entry.mid not in held[entry.box])
        if entry.old and may_go and entry.box in ledger.boxes:
            gone.append(entry)
            size += entry.size
            if size >= BYTES_PER_STEP:
                more = True
                del entries[index + 1 :]
                break
    purged = _take_out(ledger, gone, op.now) if gone else MailPurged()
    return msgspec.structs.replace(purged, place=entries[-1][:3] if more else ())


def _take_out(ledger: Ledger, gone: Sequence[_Entry], now: int) -> MailPurged:
    """These leave their rings. Of the unread a receipt stays, and their senders are told."""
    db = ledger.db
    unread = [entry for entry in gone if entry.state == UNREAD]
    for (box, state), entries in groupby(gone, itemgetter(0, 1)):
        keys = as_json([entry.mid for entry in entries])
        mids = "mid IN (SELECT value FROM json_each(?))"
        db.execute(f"DELETE FROM ring WHERE box = ? AND state = ? AND {mids}", (box, state, keys))
        if state != UNREAD:
            db.execute(f"DELETE FROM pushes WHERE {mids} AND box = ?", (keys, box))
    alone = as_json([entry.mid for entry in gone if not entry.shared])
    db.execute("DELETE FROM bodies WHERE mid IN (SELECT value FROM json_each(?))", (alone,))
    store_ring.release_texts(db, [entry.mid for entry in gone if entry.shared])
    ids: dict[int, list[str]] = {}
    if unread:  # after the deletes, whose pages it may need: a full database is what is purged
        rows = [(entry.mid, entry.box, EXPIRED, REASON, now) for entry in unread]
        insert_rows(db, "receipts (mid, box, outcome, reason, ended_at)", rows)
        known = dict(
            listed(
                db,
                "SELECT json_group_array(json_array(mid, msg_id)) FROM messages"
                " WHERE mid IN (SELECT value FROM json_each(?))",
                (as_json({entry.mid for entry in unread}),),
            )
        )
        for entry in unread:
            of_box = ids.setdefault(entry.box, [])
            if entry.mid in known:
                of_box.append(known[entry.mid])
    _recount(ledger, gone)
    lost = Counter([(entry.sender, entry.box) for entry in unread])
    first = store_ring.tell(ledger, {pair: (count, now) for pair, count in lost.items()}, REASON)
    return MailPurged(
        messages=len(gone),
        unread=tuple([(box, ledger.box(box)[2], tuple(found)) for box, found in ids.items()]),
        evictions=tuple([Eviction(*pair, count, pair in first) for pair, count in lost.items()]),
    )


def _recount(ledger: Ledger, gone: Sequence[_Entry]) -> None:
    """Counters of the mailboxes that entries left."""
    after: dict[int, Box] = {}
    for box, state, _, size, *_ in gone:
        entries, total, unread = after.get(box) or ledger.box(box)
        after[box] = (entries - 1, total - size, unread - 1 if state == UNREAD else unread)
    ledger.put_boxes(after)


# --- groups ----------------------------------------------------------------------------------------------


def _groups(ledger: Ledger, op: PurgeMail, place: tuple[int, ...]) -> MailPurged:
    lines = 0
    rows, size = ROWS_PER_STEP, BYTES_PER_STEP
    (group_no,) = place or (0,)
    counts: list[tuple[int, int, int]] = []
    while rows > 0 and size > 0:
        found: int | None = one(
            ledger.db, "SELECT no FROM groups WHERE no > ? ORDER BY no LIMIT 1", (group_no,)
        )
        if found is None:
            return MailPurged(lines=lines, groups=tuple(counts))
        if found in op.spared:
            group_no = found
            continue
        cut = store_groups.cut_old(ledger, found, op.before, ROWS_PER_STEP, size)
        rows -= cut.looked + 1
        size -= cut.bytes
        if cut.lines:
            lines += cut.lines
            counts = [each for each in counts if each[0] != found]
            counts += store_groups.unread_of_members(ledger.db, found)
        if not cut.more:
            group_no = found
    return MailPurged(lines=lines, groups=tuple(counts), place=(group_no,))


# --- receipts, ids, answers ------------------------------------------------------------------------------


def _receipts(ledger: Ledger, op: PurgeMail, place: tuple[int, ...]) -> MailPurged:
    (start,) = place or (0,)
    swept = store_upkeep.sweep(ledger, start, op.now, op.before, min(op.before, op.now - IDS_KEPT_MS))
    return MailPurged(place=(swept.upto,) if swept.more else ())


def _answers(ledger: Ledger, op: PurgeMail, place: tuple[int, ...]) -> MailPurged:
    rows = store_upkeep.drop_ops(ledger.db, min(op.before, op.now - IDS_KEPT_MS))
    return MailPurged(place=(0,) if rows >= store_upkeep.ROWS_PER_CALL else ())


# --- the file --------------------------------------------------------------------------------------------


def _texts(ledger: Ledger, op: PurgeMail, place: tuple[int, ...]) -> MailPurged:
    """Write the texts that stay once more.

    SQLite overwrites what it deletes, but not the copies that stayed where it had moved rows between pages:
    in the gap of a page in use, behind the end of a text on its last page. A page that becomes free is
    overwritten wholly. So the rows go, some pages of them at a time, and come again; and since a page at the
    end of such a stretch keeps other rows and does not become free, the next one begins before it.
    """
    db = ledger.db
    (after,) = place or (-1,)
    rows: list[tuple[int, bytes]] = []
    size = 0
    cursor = db.execute(
        "SELECT mid, text FROM bodies WHERE mid > ? ORDER BY mid LIMIT ?", (after, TEXTS_PER_STEP)
    )
    for row in cursor:
        rows.append(row)
        size += len(row[1])
        if size >= BYTES_PER_STEP:
            break
    cursor.close()
    if not rows:
        return MailPurged()
    more = size >= BYTES_PER_STEP or len(rows) == TEXTS_PER_STEP
    db.execute("DELETE FROM bodies WHERE mid BETWEEN ? AND ?", (rows[0][0], rows[-1][0]))
    insert_rows(db, "bodies", rows)
    return MailPurged(place=(_before_last_page(rows),) if more else ())


def _before_last_page(rows: Sequence[tuple[int, bytes]]) -> int:
    """The mid after which everything stands that may share a page with the last of these."""
    room = 2 * PAGE_BYTES
    for mid, text in reversed(rows[1:]):
        room -= min(len(text), LOCAL_BYTES_MIN)
        if room < 0:
            return mid
    return rows[len(rows) // 2][0]


def _free_pages(ledger: Ledger, _op: PurgeMail, _place: tuple[int, ...]) -> MailPurged:
    free: int = one(ledger.db, "PRAGMA freelist_count")
    ledger.give_back = min(free, FREE_PAGES_PER_STEP)
    return MailPurged(place=(0,) if free > FREE_PAGES_PER_STEP else ())


def _empty_log(ledger: Ledger, op: PurgeMail, _place: tuple[int, ...]) -> MailPurged:
    ledger.scrub_before = max(ledger.scrub_before, op.before)
    return MailPurged()


_STEPS: Final[Sequence[Callable[[Ledger, PurgeMail, tuple[int, ...]], MailPurged]]] = (
    _mailboxes,
    _groups,
    _receipts,
    _answers,
    _free_pages,  # what stands in them must not come into use again
    _texts,
    _free_pages,
    _empty_log,
)
