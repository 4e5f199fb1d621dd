"""What a person asks about mail: what became of one message, and what lies in all mailboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ecorelay.core.ops import (
    Ending,
    MailMeasured,
    MailReceipt,
    MeasureMail,
    MessageTraced,
    TraceMessage,
)
from ecorelay.daemon.schema import DEAD, EVICTED, EXPIRED, KINDS
from ecorelay.daemon.store_sql import listed
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ecorelay.daemon.store_ledger import Ledger

_ENDINGS: Final[dict[int, Ending]] = {EVICTED: "evicted", DEAD: "dead", EXPIRED: "expired"}

# One row for each recipient, in the order in which they were named: from its ring or from its receipt, never
# from both.
_RECEIPTS: Final = """
SELECT json_group_array(json_array(name, in_ring, forwarded_at, pushed_at, carrier, seen_at, replied_at,
        outcome, reason, ended_at))
FROM (
    SELECT coalesce(n.name || iif(n.hub = '', '', '@' || coalesce(h.hub_id, n.hub)), '(removed)') AS name,
        r.mid NOTNULL AS in_ring,
        coalesce(e.forwarded_at, 0) AS forwarded_at,
        coalesce(p.at, 0) AS pushed_at,
        coalesce(p.carrier, '') AS carrier,
        coalesce(r.seen_at, e.seen_at, 0) AS seen_at,
        coalesce(r.replied_at, e.replied_at, 0) AS replied_at,
        coalesce(e.outcome, 0) AS outcome,
        coalesce(e.reason, '') AS reason,
        coalesce(e.ended_at, 0) AS ended_at,
        o.mid NOTNULL AS in_outbox
    FROM json_each(?2) AS j
    LEFT JOIN ring AS r ON r.box = j.value AND r.state IN (0, 1) AND r.mid = ?1
    LEFT JOIN receipts AS e ON e.mid = ?1 AND e.box = j.value
    LEFT JOIN pushes AS p ON p.mid = ?1 AND p.box = j.value
    LEFT JOIN peers AS n ON n.no = j.value
    LEFT JOIN hubs AS h ON h.key = n.hub
    LEFT JOIN outbox AS o ON o.mid = ?1 AND o.box = j.value
    WHERE r.mid NOTNULL OR e.mid NOTNULL OR o.mid NOTNULL
    ORDER BY j.key
)
"""


def trace(ledger: Ledger, op: TraceMessage) -> MessageTraced:
    """See `TraceMessage`."""
    db = ledger.db
    row = db.execute(
        "SELECT m.mid, m.kind, m.sender, m.at, m.size, m.reply_to, m.broadcast_id,"
        " coalesce(m.boxes, json_array(m.box)), m.group_no, g.name"
        " FROM messages AS m LEFT JOIN groups AS g ON g.no = m.group_no"
        " WHERE m.msg_id = ?1 AND (?2 IS NULL OR m.origin = ?2) ORDER BY m.origin LIMIT 1",
        (op.msg_id, op.origin),
    ).fetchone()
    if row is None:
        raise _unknown(ledger, op.msg_id)
    mid, kind, sender, at, size, reply_to, broadcast_id, boxes, group_no, group = row
    receipts: tuple[MailReceipt, ...] = ()
    if group_no is None:
        receipts = tuple([_receipt(at, each) for each in listed(db, _RECEIPTS, (mid, boxes))])
        if not receipts:  # only its id is kept yet
            raise _unknown(ledger, op.msg_id)
    return MessageTraced(
        msg_id=op.msg_id,
        kind=KINDS[kind],
        sender=sender,
        at=at,
        size=size,
        reply_to=reply_to,
        broadcast_id=broadcast_id,
        group=None if group_no is None else group or "(deleted)",
        receipts=receipts,
    )


def _receipt(stored_at: int, row: Sequence[Any]) -> MailReceipt:
    name, in_ring, forwarded_at, pushed_at, carrier, seen_at, replied_at, outcome, reason, ended_at = row
    ended = _ENDINGS.get(outcome, "")
    return MailReceipt(
        recipient=name,
        stored_at=stored_at,
        forwarded_at=forwarded_at,
        pushed_at=pushed_at,
        carrier=carrier,
        seen_at=seen_at,
        replied_at=replied_at,
        ended_at=ended_at if ended and not in_ring else 0,
        ended=ended,
        reason=reason,
    )


def _unknown(ledger: Ledger, msg_id: str) -> RelayError:
    days = f"{ledger.limits.receipts_days:g}"
    return RelayError(
        "unknown_ask",
        f"nothing is known of a message {msg_id}: receipts are kept {days} days after it was read or given "
        "up, and a hub knows only what passed through it; messages to rooms are not stored",
    )


def measure(ledger: Ledger, op: MeasureMail) -> MailMeasured:
    """See `MeasureMail`. Reads one row for each mailbox."""
    ledger.write_counters()
    db = ledger.db
    count, entries, unread, size = db.execute(
        "SELECT count(*), total(entries), total(unread), total(bytes) FROM mailboxes WHERE entries > 0"
    ).fetchone()
    largest = db.execute(
        "SELECT box, entries, unread, bytes FROM mailboxes WHERE entries > 0"
        " ORDER BY bytes DESC, entries DESC, box LIMIT ?",
        (op.largest,),
    ).fetchall()
    return MailMeasured(count, int(entries), int(unread), int(size), tuple(largest))
