"""Idempotent requests, and clearing away what outlived its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ecorelay.core.ops import FindOp, FoundOp, Housekeep, HousekeepingDone, SaveOp
from ecorelay.daemon import store_links, store_peers
from ecorelay.daemon.store_sql import one
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    import sqlite3

    from ecorelay.daemon.store_ledger import Ledger

ROWS_PER_CALL: Final = 2_000
"""Rows of one kind looked at by one `Housekeep`: some milliseconds."""
FOREIGN_IDS_MS: Final = 45 * 86_400_000
"""Ids of other hubs' messages stay known longer than any outbox keeps them, unless room runs short: then
what was taken and comes again after an hour, with its result lost all that time, may be taken twice."""
FAR_KEPT_MS: Final = 60 * 86_400_000
"""Numbers of other hubs' peers that were used since are not looked at."""
PRESSED: Final = 0.8
"""Filled to this part of data_bytes, receipts go early: their room is needed for mail."""
PRESSED_KEEPS_MS: Final = 3_600_000
"""Still longer than a client repeats a request."""
FREE_PAGES_KEPT: Final = 256
FREE_PAGES_PER_CALL: Final = 512
JUMP_MS: Final = 3_600_000
CALM_MS: Final = 3_600_000
"""Two times further apart than the former were not both right. For so long after that, and after the start,
no mail is too old: a clock that is wrong is mostly set right by then, or the mail has gone over a link."""
SWEEP_AGAIN_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


def save_op(ledger: Ledger, op: SaveOp) -> None:
    """See `SaveOp`."""
    changed = ledger.db.execute(
        "INSERT INTO ops VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (op.no, op.op_id, op.request, op.reply, op.at),
    ).rowcount
    if not changed:
        raise RelayError("bad_msg", "op_id was used for another request: make a new one for each")


def find_op(ledger: Ledger, op: FindOp) -> FoundOp | None:
    """See `FindOp`."""
    row = ledger.db.execute(
        "SELECT request, reply FROM ops WHERE no = ? AND op_id = ?", (op.no, op.op_id)
    ).fetchone()
    return None if row is None else FoundOp(*row)


def housekeep(ledger: Ledger, op: Housekeep) -> HousekeepingDone:
    """See `Housekeep`."""
    db, now, limits = ledger.db, op.now, ledger.limits
    ledger.note_time(now)
    pressed = _is_pressed(db)
    keep = PRESSED_KEEPS_MS if pressed else int(limits.receipts_days * DAY_MS)
    counts = [
        drop_ops(db, now - int(limits.op_ids_hours * HOUR_MS)),
        db.execute(
            "DELETE FROM names WHERE key IN (SELECT key FROM names WHERE until BETWEEN 1 AND ? LIMIT ?)",
            (now, ROWS_PER_CALL),
        ).rowcount,
    ]
    foreign = now - keep if pressed else now - max(keep, FOREIGN_IDS_MS)
    swept, unfinished = _sweep(ledger, now, now - keep, foreign)
    counts.append(store_peers.sweep_far(ledger, now - FAR_KEPT_MS, ROWS_PER_CALL))
    before = now - int(limits.outbox_days * DAY_MS)
    away = op.away if ledger.calm(now, JUMP_MS, CALM_MS) else ()
    found = [store_links.expire_out(ledger, no, before, now, ROWS_PER_CALL) for no in away]
    expired = tuple([each for each in found if each is not None])
    rows = sum(counts) + swept + sum([each.count for each in expired])
    spare = max(0, one(db, "PRAGMA freelist_count") - FREE_PAGES_KEPT)
    ledger.give_back = min(spare, FREE_PAGES_PER_CALL)
    counts += [each.count for each in expired]
    more = unfinished or max(counts) >= ROWS_PER_CALL or spare > FREE_PAGES_PER_CALL
    return HousekeepingDone(rows, more, expired)


def drop_ops(db: sqlite3.Connection, before: int) -> int:
    """Forget answers given earlier than `before`, `ROWS_PER_CALL` at most; how many."""
    return db.execute(
        "DELETE FROM ops WHERE (no, op_id) IN (SELECT no, op_id FROM ops WHERE at < ? ORDER BY at LIMIT ?)",
        (before, ROWS_PER_CALL),
    ).rowcount


def _is_pressed(db: sqlite3.Connection) -> bool:
    pages: int = one(db, "PRAGMA page_count")
    free: int = one(db, "PRAGMA freelist_count")
    most: int = one(db, "PRAGMA max_page_count")
    return pages - free > most * PRESSED


def _sweep(ledger: Ledger, now: int, before: int, foreign: int) -> tuple[int, bool]:
    """Go on through the messages, oldest first, removing what nothing refers to any more.

    Args:
        ledger: knows how far it came.
        now: wall time.
        before: receipts that ended earlier go.
        foreign: ids of other hubs' messages older than this go.

    Returns:
        Rows removed, and whether there may be more to look at.
    """
    if now >= ledger.sweep_at:  # what was passed over because a ring held it may have left it since
        ledger.swept, ledger.sweep_at = 0, now + SWEEP_AGAIN_MS
    swept = sweep(ledger, ledger.swept, now, before, before, foreign)
    ledger.swept = swept.upto
    return swept.rows, swept.more


class Swept(NamedTuple):
    """How far a sweep came, as a mid; rows removed; whether there may be more to look at."""

    upto: int
    rows: int
    more: bool


def sweep(
    ledger: Ledger, start: int, now: int, before: int, ids_before: int, foreign: int | None = None
) -> Swept:
    """Look through some messages, oldest first, and remove what nothing refers to any more.

    Args:
        ledger: the open transaction.
        start: the mid after which to begin.
        now: wall time.
        before: receipts that ended earlier go.
        ids_before: messages older than this go, once no text, receipt or group's log needs them.
        foreign: the same of other hubs' messages; None: what is older than `FOREIGN_IDS_MS`.
    """
    db = ledger.db
    # A message dated in the future was written under a clock set wrong: it does not end the sweep.
    upto, count = db.execute(
        "SELECT max(mid) FILTER (WHERE at < ? OR at > ?), count(*) FROM"
        " (SELECT mid, at FROM messages WHERE mid > ? ORDER BY mid LIMIT ?)",
        (before, now, start, ROWS_PER_CALL),
    ).fetchone()
    if upto is None:
        return Swept(start, 0, False)
    rows = db.execute(
        "DELETE FROM receipts WHERE mid > ? AND mid <= ? AND ended_at < ?", (start, upto, before)
    ).rowcount
    rows += db.execute(
        "DELETE FROM messages WHERE mid > ? AND mid <= ? AND at < iif(origin, ?, ?)"
        " AND NOT EXISTS (SELECT 1 FROM bodies AS b WHERE b.mid = messages.mid)"
        " AND NOT EXISTS (SELECT 1 FROM receipts AS r WHERE r.mid = messages.mid)"
        " AND NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.mid = messages.mid)"
        " AND NOT EXISTS (SELECT 1 FROM group_log AS l"
        " WHERE l.group_no = messages.group_no AND l.seq = messages.seq)",
        (start, upto, now - FOREIGN_IDS_MS if foreign is None else foreign, ids_before),
    ).rowcount
    db.execute(
        "DELETE FROM pushes WHERE mid > ? AND mid <= ?"
        " AND NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.mid = pushes.mid)",
        (start, upto),
    )
    # The highest mid may be among them, and is not to be given again.
    db.execute("INSERT OR REPLACE INTO meta VALUES ('last_mid', ?)", (ledger.next_mid - 1,))
    return Swept(upto, rows, count == ROWS_PER_CALL)
