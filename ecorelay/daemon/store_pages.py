"""Mail on its way out: pages, leases, confirmation, the backlog of a session."""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from ecorelay.core.ops import (
    ENTRY_ROOM,
    Backlog,
    Confirmed,
    ConfirmMail,
    EndLease,
    LoadBacklog,
    MailboxState,
    Notice,
    OpenMailbox,
    PageRead,
    ReadPage,
    StoredMail,
)
from ecorelay.daemon import store_groups, store_ring
from ecorelay.daemon.schema import KINDS, SEEN, UNREAD
from ecorelay.daemon.store_sql import as_json, execute_rows, listed, one
from ecorelay.daemon.store_text import json_length, readable
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from ecorelay.daemon.store_ledger import Ledger

NOTICES_PER_PAGE: Final = 50
"""The rest comes with the next page, once these are confirmed."""

_TEXTS: Final = (
    "SELECT m.mid, m.msg_id, m.kind, m.sender, m.at, m.checksum, m.reply_to, m.broadcast_id, m.urgent, b.text"
    " FROM messages AS m LEFT JOIN bodies AS b ON b.mid = m.mid"
    " WHERE m.mid IN (SELECT value FROM json_each(?)) ORDER BY m.mid"
)


class Row:
    """A row of a ring, as far as reading it is concerned."""

    __slots__ = ("handed", "mid", "pushed_at", "seen", "size")

    def __init__(self, mid: int, state: int, size: int, handed: int, pushed_at: int) -> None:
        self.mid = mid
        self.seen = state == SEEN
        self.size = size
        self.handed = bool(handed) and not self.seen
        self.pushed_at = pushed_at


def _rows(db: sqlite3.Connection, where: str, parameters: tuple[Any, ...]) -> list[Row]:
    """Rows of a ring by mid, without their texts, in one step."""
    found = listed(
        db,
        "SELECT json_group_array(json_array(r.mid, state, size, handed, coalesce(p.at, 0))) FROM"
        f" (SELECT box, mid, state, size, handed FROM ring WHERE {where} ORDER BY mid LIMIT ?) AS r"
        " LEFT JOIN pushes AS p ON p.mid = r.mid AND p.box = r.box",
        parameters,
    )
    return sorted([Row(*row) for row in found], key=attrgetter("mid"))


def _mails(
    ledger: Ledger, rows: Sequence[Row], stubs: frozenset[int], damaged: list[int]
) -> Iterator[tuple[Row, StoredMail, int]]:
    """Read messages one by one, so that no more texts are read than are taken.

    Yields:
        The row, the message, and the bytes of its text. Mids whose checksum does not hold, or whose
        message is missing, go to `damaged` instead.
    """
    waiting = deque(rows)
    cursor = ledger.db.execute(_TEXTS, (as_json([row.mid for row in rows]),))
    try:
        for mid, msg_id, kind, sender, at, check, reply_to, broadcast_id, urgent, data in cursor:
            while (row := waiting.popleft()).mid != mid:
                damaged.append(row.mid)
            if mid in stubs:
                text, size = None, 0
            else:
                text = readable(data, check, (msg_id, kind, sender, reply_to, broadcast_id))
                if text is None or not isinstance(at, int):
                    damaged.append(mid)
                    continue
                size = len(data)
            mail = StoredMail(
                mid=mid,
                msg_id=msg_id,
                kind=KINDS[kind],
                sender=sender,
                at=at,
                text=text,
                reply_to=reply_to,
                broadcast_id=broadcast_id,
                urgent=bool(urgent),
                handed=row.handed,
                seen=row.seen,
                pushed_at=row.pushed_at,
            )
            yield row, mail, size
        damaged += [row.mid for row in waiting]
    finally:
        cursor.close()


# --- pages -----------------------------------------------------------------------------------------------


def read_page(ledger: Ledger, op: ReadPage) -> PageRead:
    """See `ReadPage`."""
    db, no = ledger.db, op.no
    ledger.box(no)
    held = ledger.held(no)
    passed = as_json(held | op.hidden)
    if op.since_id is None:
        rows = _rows(
            db,
            f"box = ? AND state = {UNREAD} AND mid NOT IN (SELECT value FROM json_each(?))",
            (no, passed, op.limit),
        )
        stubs = op.pushed
    else:
        start = _in_ring(db, no, op.since_id)
        rows = _rows(db, "box = ? AND state IN (0, 1) AND mid >= ?", (no, start, op.limit))
        stubs = frozenset()
    mails: list[StoredMail] = []
    leased: list[Row] = []
    damaged: list[int] = []
    used = 0
    for row, mail, size in _mails(ledger, rows, stubs, damaged):
        used += ENTRY_ROOM + (2 if mail.text is None else json_length(mail.text, size))
        if mails and used > op.budget:
            break
        mails.append(mail)
        if mail.text is not None and not row.seen and row.mid not in held:
            leased.append(row)
    _lease(ledger, op, leased)
    if damaged and ledger.writable:
        store_ring.bury(ledger, no, damaged, "damaged")
    unread = ledger.box(no)[2]
    if op.since_id is None and len(rows) < op.limit and len(mails) + len(damaged) == len(rows):
        remaining = 0
    else:
        given = {mail.mid for mail in mails}
        remaining = one(
            db,
            f"SELECT count(*) FROM ring WHERE box = ? AND state = {UNREAD}"
            " AND mid NOT IN (SELECT value FROM json_each(?))",
            (no, as_json(held | op.hidden | given)),
        )
    return PageRead(
        mails=tuple(mails),
        notices=notices_for(db, no),
        unread=unread,
        remaining=remaining,
        damaged=len(damaged),
    )


def _in_ring(db: sqlite3.Connection, no: int, msg_id: str) -> int:
    found: int | None = one(
        db,
        "SELECT r.mid FROM messages AS m CROSS JOIN ring AS r"
        " ON r.box = ? AND r.state IN (0, 1) AND r.mid = m.mid WHERE m.msg_id = ?",
        (no, msg_id),
    )
    if found is None:
        raise RelayError(
            "bad_args", f"since_id {msg_id} is not in your mailbox (any more): read without since_id"
        )
    return found


def _lease(ledger: Ledger, op: ReadPage, rows: Sequence[Row]) -> None:
    if not rows:
        return
    ledger.hold(op.lease, op.no, frozenset([row.mid for row in rows]))
    new = [row.mid for row in rows if not row.handed]
    if new and ledger.writable:
        ledger.db.execute(
            f"UPDATE ring SET handed = 1 WHERE box = ? AND state = {UNREAD}"
            " AND mid IN (SELECT value FROM json_each(?))",
            (op.no, as_json(new)),
        )


def load_backlog(ledger: Ledger, op: LoadBacklog) -> Backlog:
    """See `LoadBacklog`."""
    no = op.no
    ledger.box(no)
    rows = _rows(
        ledger.db,
        f"box = ? AND state = {UNREAD} AND mid > ? AND mid NOT IN (SELECT value FROM json_each(?))",
        (no, op.after, as_json(ledger.held(no)), max(op.max_count, 1) + 1),
    )
    taken, size = 0, 0
    for row in rows:
        size += row.size
        if taken and (taken >= op.max_count or size > op.max_bytes):
            break
        taken += 1
    damaged: list[int] = []
    mails = tuple([mail for _, mail, _ in _mails(ledger, rows[:taken], frozenset(), damaged)])
    if damaged and ledger.writable:
        store_ring.bury(ledger, no, damaged, "damaged")
    return Backlog(mails, taken < len(rows), ledger.box(no)[2], len(damaged))


# --- confirmation ----------------------------------------------------------------------------------------


def confirm(ledger: Ledger, op: ConfirmMail) -> Confirmed:
    """See `ConfirmMail`."""
    db, no = ledger.db, op.no
    entries, size, unread = ledger.box(no)
    if op.msg_ids:
        mids = _mids_of(ledger, op)
        keys = as_json(mids)
        seen = db.execute(
            f"UPDATE ring SET state = {SEEN}, seen_at = ? WHERE box = ? AND state = {UNREAD}"
            " AND mid IN (SELECT value FROM json_each(?))",
            (op.at, no, keys),
        ).rowcount
        if seen:
            ledger.put_boxes({no: (entries, size, unread - seen)})
        if seen < len(mids):  # left the ring while it was read: its receipt can say so
            db.execute(
                "UPDATE receipts SET seen_at = ? WHERE mid IN (SELECT value FROM json_each(?))"
                " AND box = ? AND seen_at = 0",
                (op.at, keys, no),
            )
    if op.lease:
        ledger.end_lease(op.lease)
    if op.notices:
        _drop_notices(db, no, op.notices)
    ledger.note_time(op.at)
    return Confirmed(ledger.box(no)[2], count_notices(db, no))


def _mids_of(ledger: Ledger, op: ConfirmMail) -> list[int]:
    """The messages a confirmation names.

    What its lease holds is found without the index of ids: mail whose entry there rotted would come again for
    ever.
    """
    wanted = set(op.msg_ids)
    mids: list[int] = []
    if held := ledger.leased(op.lease):
        for mid, msg_id in listed(
            ledger.db,
            "SELECT json_group_array(json_array(mid, msg_id)) FROM messages"
            " WHERE mid IN (SELECT value FROM json_each(?))",
            (as_json(held),),
        ):
            if msg_id in wanted:
                wanted.remove(msg_id)
                mids.append(mid)
    if wanted:
        mids += listed(
            ledger.db,
            "SELECT json_group_array(mid) FROM messages WHERE msg_id IN (SELECT value FROM json_each(?))",
            (as_json(wanted),),
        )
    return mids


def end_lease(ledger: Ledger, op: EndLease) -> None:
    """See `EndLease`."""
    ledger.end_lease(op.lease)


def _drop_notices(db: sqlite3.Connection, no: int, shown: Sequence[str]) -> None:
    """What was shown is told, and gone where nothing came on top since."""
    pairs = [each[1:].partition("-") for each in shown]
    rows = [(int(number), int(total)) for number, _, total in pairs]
    execute_rows(
        db,
        "WITH v (id, total) AS (VALUES",
        rows,
        ") UPDATE notices SET told = max(notices.told, v.total) FROM v"
        " WHERE notices.id = v.id AND notices.sender_no = ?",
        (no,),
    )
    db.execute("DELETE FROM notices WHERE sender_no = ? AND told >= total", (no,))


def notices_for(db: sqlite3.Connection, no: int) -> tuple[Notice, ...]:
    """What a sender is to be told, the oldest first, `NOTICES_PER_PAGE` at most."""
    found = listed(
        db,
        "SELECT json_group_array(json_array(id, total, told, about, reason, at)) FROM"
        " (SELECT n.id, n.total, n.told, n.reason, n.at,"
        " coalesce(p.name || iif(p.hub = '', '', '@' || coalesce(h.hub_id, p.hub)), n.about,"
        " 'a removed peer') AS about"
        " FROM notices AS n LEFT JOIN peers AS p ON p.no = n.about_no LEFT JOIN hubs AS h ON h.key = p.hub"
        " WHERE n.sender_no = ? ORDER BY n.id LIMIT ?)",
        (no, NOTICES_PER_PAGE),
    )
    return tuple(
        [
            Notice(notice_id=f"n{number}-{total}", about=about, reason=reason, count=total - told, at=at)
            for number, total, told, about, reason, at in found
        ]
    )


def count_notices(db: sqlite3.Connection, no: int) -> int:
    """How many notices wait for a sender."""
    count: int = one(db, "SELECT count(*) FROM notices WHERE sender_no = ?", (no,))
    return count


def open_mailbox(ledger: Ledger, op: OpenMailbox) -> MailboxState:
    """See `OpenMailbox`."""
    unread = ledger.box(op.no)[2]
    return MailboxState(
        unread, count_notices(ledger.db, op.no), store_groups.unread_by_group(ledger.db, op.no)
    )
