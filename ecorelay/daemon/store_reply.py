"""The answer to an ask or a message: to whoever sent it, wherever that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecorelay import link_wire
from ecorelay.core.link_ops import AppendOut, FarPeer
from ecorelay.core.ops import Appended, AppendMail, Replied
from ecorelay.daemon import store_links, store_mail
from ecorelay.daemon.schema import SEEN, UNREAD
from ecorelay.daemon.store_sql import one
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.core.ops import AppendReply
    from ecorelay.daemon.store_ledger import Ledger


def reply(ledger: Ledger, op: AppendReply) -> Replied:
    """See `AppendReply`."""
    row = ledger.db.execute(
        "SELECT m.mid, m.sender_no, m.broadcast_id, r.state, e.mid, g.no FROM messages AS m"
        " LEFT JOIN ring AS r ON r.box = ?1 AND r.state IN (0, 1) AND r.mid = m.mid"
        " LEFT JOIN receipts AS e ON e.mid = m.mid AND e.box = ?1"
        " LEFT JOIN group_members AS g ON g.group_no = m.group_no AND g.no = ?1"
        # Ids of different hubs may be the same: the first is meant, or a hub could draw answers to itself.
        " WHERE m.msg_id = ?2 AND (r.mid NOTNULL OR e.mid NOTNULL OR g.no NOTNULL) ORDER BY m.mid LIMIT 1",
        (op.sender_no, op.target_id),
    ).fetchone()
    if row is not None and not row[1] and row[5] is not None:
        raise RelayError(
            "hub_not_found",
            "whoever wrote that line is on a hub to which this one has no link: answer in the group",
        )
    if row is None or not row[1]:
        raise RelayError("unknown_ask", f"you were sent no message {op.target_id}: relay_inbox lists yours")
    target, asker, broadcast_id, state, receipt, _ = row
    in_mailbox = state is not None or receipt is not None
    if (far := _far(ledger, asker)) is not None:
        return _reply_out(ledger, op, asker, far, target if in_mailbox else 0, broadcast_id, state)
    ledger.load((asker, op.sender_no))
    if asker not in ledger.boxes:
        raise RelayError("peer_gone", "whoever sent it was removed: nobody is left to answer")
    mail = AppendMail(
        msg_id=op.msg_id,
        kind="reply",
        sender_no=op.sender_no,
        sender=op.sender,
        recipients=(asker,),
        text=op.text,
        at=op.at,
        reply_to=op.target_id,
        broadcast_id=broadcast_id,
    )
    # Refused before anything is touched.
    known = (
        store_mail.stored_before(ledger, mail, op.text.encode())
        if store_mail.find_known(ledger, op.msg_id)
        else None
    )
    _mark_replied(ledger, op, target, state)
    if known is None:
        [appended] = store_mail.append(ledger, (mail,))
        if isinstance(appended, RelayError):  # pragma: no cover
            raise appended
    else:
        appended = known
    own = ledger.box(op.sender_no)[2]
    return Replied(appended, asker, broadcast_id, own, target if in_mailbox else 0)


def _far(ledger: Ledger, no: int) -> tuple[int, FarPeer] | None:
    """Of a peer of another hub: the hub's number, and how that hub knows it.

    Raises:
        RelayError: ``peer_gone``, its hub was forgotten.
    """
    row = ledger.db.execute(
        "SELECT h.no, p.name, p.peer_id, p.hub FROM peers AS p LEFT JOIN hubs AS h ON h.key = p.hub"
        " WHERE p.no = ? AND p.hub <> ''",
        (no,),
    ).fetchone()
    if row is None:
        return None
    if row[0] is None:
        raise RelayError(
            "peer_gone", f"{row[1]}@{row[3]} cannot be answered: its hub was forgotten here; see relay_peers"
        )
    return row[0], FarPeer(name=row[1], peer_id=row[2])


def _reply_out(
    ledger: Ledger,
    op: AppendReply,
    asker: int,
    far: tuple[int, FarPeer],
    target: int,
    broadcast_id: str | None,
    state: int | None,
) -> Replied:
    hub_no, to = far
    sender_id: str = one(ledger.db, "SELECT peer_id FROM peers WHERE no = ?", (op.sender_no,))
    body = link_wire.MailBody(
        to=to.name,
        to_id=to.peer_id,
        sender=op.sender,
        sender_id=sender_id,
        kind="reply",
        text=op.text,
        reply_to=op.target_id,
        broadcast_id=broadcast_id,
    )
    encoded = link_wire.encode_body(body)
    out = store_links.append_out(
        ledger,
        AppendOut(
            hub_no=hub_no,
            to=to,
            msg_id=op.msg_id,
            kind="reply",
            sender_no=op.sender_no,
            sender=op.sender,
            text=op.text,
            body=encoded,
            at=op.at,
            reply_to=op.target_id,
            broadcast_id=broadcast_id,
        ),
    )
    _mark_replied(ledger, op, target, state)
    own = ledger.box(op.sender_no)[2]
    appended = Appended(out.mid, (), duplicate=out.duplicate)
    return Replied(appended, asker, broadcast_id, own, target, hub_no, out.seq, encoded, to.peer_id)


def _mark_replied(ledger: Ledger, op: AppendReply, mid: int, state: int | None) -> None:
    if state is None:
        ledger.db.execute(
            "UPDATE receipts SET replied_at = ? WHERE mid = ? AND box = ?", (op.at, mid, op.sender_no)
        )
        return
    ledger.db.execute(
        f"UPDATE ring SET state = {SEEN}, seen_at = iif(seen_at, seen_at, ?1), replied_at = ?1"
        " WHERE box = ?2 AND state = ?3 AND mid = ?4",
        (op.at, op.sender_no, state, mid),
    )
    if state == UNREAD:
        entries, size, unread = ledger.box(op.sender_no)
        ledger.put_boxes({op.sender_no: (entries, size, unread - 1)})
