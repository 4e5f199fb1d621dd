"""Mail to and from other hubs, many at once: a number of statements that does not depend on how many.

Only the plain case is done so, where nothing is repeated, out of order, short of room or told of in two ways.
Otherwise nothing was touched, and each op is done by itself, as in `store_links`. Both leave the same behind.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from ecorelay.core.link_ops import OutAppended, Received
from ecorelay.daemon import store_links, store_mail
from ecorelay.daemon.schema import KIND_NUMBERS
from ecorelay.daemon.store_sql import as_json, insert_rows, listed, one
from ecorelay.daemon.store_text import checksum
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ecorelay.core.link_ops import AppendOut, FarPeer, Receive
    from ecorelay.core.ops import AppendMail
    from ecorelay.daemon.store_ledger import Ledger


def append_outs(ledger: Ledger, ops: Sequence[AppendOut]) -> list[OutAppended] | None:
    """See `AppendOut`: all of them, in this order; None: not a plain case."""
    db, no = ledger.db, ops[0].hub_no
    far = _plain_peers([op.to for op in ops])
    if far is None or any(op.hub_no != no or op.also or op.missing for op in ops):
        return None
    ids = {op.msg_id for op in ops}
    row = db.execute("SELECT key, last_seq, outbox_bytes FROM hubs WHERE no = ?", (no,)).fetchone()
    if row is None or len(ids) < len(ops) or _any_known(ledger, ids, "m.origin = 0"):
        return None
    key, last, before = row
    size = sum([len(op.body) for op in ops])
    if not _has_room(ledger, ops, key, last, before + size):
        return None
    boxes = {
        peer: store_links.far_no(ledger, no, peer, next(op.at for op in ops if op.to == peer)) for peer in far
    }
    first = mid = ledger.take_mids(len(ops))
    messages: list[tuple[Any, ...]] = []
    rows: list[tuple[Any, ...]] = []
    for op in ops:
        last += 1
        text, kind, box = op.text.encode(), KIND_NUMBERS[op.kind], boxes[op.to]
        check = checksum(op.msg_id, kind, op.sender, op.reply_to, op.broadcast_id, text)
        head = (mid, op.msg_id, kind, op.sender_no, op.sender, op.at, len(text), check, box)
        messages.append((*head, op.reply_to, op.broadcast_id))
        rows.append((no, last, op.msg_id, mid, box, op.body, len(op.body), op.at))
        ledger.note_time(op.at)
        mid += 1
    columns = "mid, msg_id, kind, sender_no, sender, at, size, checksum, box, reply_to, broadcast_id"
    insert_rows(db, f"messages ({columns})", messages)
    ledger.stored_mid = mid - 1
    store_links.end_streams(ledger, no)
    db.execute("UPDATE hubs SET last_seq = ?, outbox_bytes = outbox_bytes + ? WHERE no = ?", (last, size, no))
    for part in store_mail.bundles(rows, 5):
        insert_rows(db, "outbox (hub_no, seq, msg_id, mid, box, body, size, at)", part)
    return [OutAppended(last - len(ops) + 1 + n, first + n) for n in range(len(ops))]


def _plain_peers(peers: Iterable[FarPeer]) -> list[FarPeer] | None:
    """The different ones; None: one of them is called by two names."""
    different = list(dict.fromkeys(peers))
    return different if len({store_links.far_id(peer) for peer in different}) == len(different) else None


def _any_known(ledger: Ledger, ids: Iterable[str], where: str, *more: Any) -> bool:
    sql = (
        "SELECT 1 FROM json_each(?1) AS j CROSS JOIN messages AS m ON m.msg_id = j.value"
        f" LEFT JOIN peers AS p ON p.no = m.sender_no WHERE {where} LIMIT 1"
    )
    return one(ledger.db, sql, (as_json(list(ids)), *more)) is not None


def _has_room(ledger: Ledger, ops: Sequence[AppendOut], key: str, last: int, size: int) -> bool:
    """Whether none of them is refused for want of room."""
    db, limits, no = ledger.db, ledger.limits, ops[0].hub_no
    wanted = Counter([store_links.far_id(op.to) for op in ops])
    waiting = dict(
        listed(
            db,
            "SELECT json_group_array(json_array(p.peer_id, (SELECT count(*) FROM outbox AS o"
            " WHERE o.hub_no = ?1 AND o.box = p.no))) FROM peers AS p"
            " WHERE p.hub = ?2 AND p.peer_id IN (SELECT value FROM json_each(?3))",
            (no, key, as_json(wanted)),
        )
    )
    if any(waiting.get(peer, 0) + count > limits.mailbox_messages for peer, count in wanted.items()):
        return False
    first: int = one(db, "SELECT coalesce(min(seq), 0) FROM outbox WHERE hub_no = ?", (no,))
    there = last - first + 1 if first else 0
    return there + len(ops) <= limits.outbox_messages and size <= limits.outbox_bytes


def receive_all(ledger: Ledger, ops: Sequence[Receive]) -> list[Received] | None:
    """See `Receive`: all of them, in this order; None: not a plain case."""
    db, op = ledger.db, ops[0]
    mails: list[AppendMail] = []
    for number, each in enumerate(ops, op.number):
        if (each.hub_no, each.stream, each.first, each.number) != (op.hub_no, op.stream, op.first, number):
            return None
        if each.mail is None or not each.mail.recipients or each.far is not None:
            return None
        mails.append(each.mail)
    far = _plain_peers([each.sender for each in ops])
    ids = {each.msg_id for each in ops}
    hub = one(db, "SELECT key FROM hubs WHERE no = ?", (op.hub_no,))
    if far is None or hub is None or len(ids) < len(ops):
        return None
    row = store_links.stream_of(db, op)
    if op.number != max(row[0] if row is not None else 0, op.first - 1) + 1:
        return None
    if _any_known(ledger, ids, "m.origin = ?2 OR m.origin > 0 AND p.hub = ?3", op.hub_no, hub):
        return None
    senders = {
        peer: store_links.far_no(
            ledger, op.hub_no, peer, next(each.at for each in ops if each.sender == peer)
        )
        for peer in far
    }
    mails = [
        msgspec.structs.replace(mail, sender_no=senders[each.sender], origin=op.hub_no)
        for each, mail in zip(ops, mails, strict=True)
    ]
    done: list[Received] = []
    refused: list[tuple[int, str, str]] = []
    for each, result in zip(ops, store_mail.append(ledger, mails), strict=True):
        if isinstance(result, RelayError):
            done.append(Received(None, result.code, result.message))
            refused.append((each.number, result.code, result.message))
        else:
            done.append(Received(result))
    store_links.note_taken(ledger, ops[-1], row, refused)
    return done
