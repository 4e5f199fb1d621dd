"""Other hubs: what waits for them, what came from them, and which of their peers we know."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ecorelay import names
from ecorelay.core.link_ops import (
    FarPeer,
    HubKnown,
    HubRow,
    OutAppended,
    OutFrame,
    OutLoaded,
    OutSettled,
    Received,
    Refusal,
    Resumed,
)
from ecorelay.core.ops import Appended, Eviction, OutExpired
from ecorelay.daemon import store_mail, store_ring
from ecorelay.daemon.schema import DEAD, KIND_NUMBERS
from ecorelay.daemon.store_sql import as_json, insert_rows, listed, one
from ecorelay.daemon.store_text import checksum
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from ecorelay.core.group_ops import FarOp
    from ecorelay.core.link_ops import (
        AppendOut,
        ForgetHub,
        KnowHub,
        LoadOut,
        Receive,
        ResumeOut,
        SaveDirectory,
        SettleOut,
    )
    from ecorelay.daemon.store_ledger import Ledger

OURS: Final = 0
THEIRS: Final = 1
"""`streams.direction`."""
STREAMS_KEPT: Final = 20
"""Of each direction and hub: a restored backup finds the stream that its other hub remembers."""
REJECTED_KEPT: Final = 1_000
"""Rejections of one stream: as many as may be on their way without a result."""
USED_EVERY_MS: Final = 86_400_000
"""How exactly it is known when the number of another hub's peer was used last."""
FORGOTTEN: Final = "hub_forgotten"
EXPIRED_REASON: Final = "expired"


# --- hubs and their peers --------------------------------------------------------------------------------


def know_hub(ledger: Ledger, op: KnowHub) -> HubKnown:
    """See `KnowHub`."""
    db = ledger.db
    key = names.key(op.hub_id)
    db.execute(
        "INSERT INTO hubs (key, hub_id, seen_at) VALUES (?1, ?2, ?3)"
        " ON CONFLICT (key) DO UPDATE SET seen_at = max(seen_at, ?3)",
        (key, op.hub_id, op.at),
    )
    no: int = one(db, "SELECT no FROM hubs WHERE key = ?", (key,))
    ledger.note_time(op.at)
    next_seq: int = one(
        db,
        "SELECT coalesce((SELECT min(seq) FROM outbox WHERE hub_no = ?1), last_seq + 1) FROM hubs"
        " WHERE no = ?1",
        (no,),
    )
    found = db.execute(  # not by time: a clock may have been set back
        "SELECT stream, number, rejected FROM streams WHERE hub_no = ? AND direction = ?"
        " ORDER BY place DESC LIMIT 1",
        (no, THEIRS),
    ).fetchone()
    if found is None:
        return HubKnown(hub_no=no, next_seq=next_seq)
    return HubKnown(
        hub_no=no, next_seq=next_seq, stream=found[0], received=found[1], rejected=_refusals(found[2])
    )


def _refusals(text: str) -> tuple[Refusal, ...]:
    return tuple([Refusal(*each) for each in msgspec.json.decode(text)])


def save_directory(ledger: Ledger, op: SaveDirectory) -> None:
    """See `SaveDirectory`."""
    db, no = ledger.db, op.hub_no
    check_hub(db, no)
    if op.reset:
        db.execute("DELETE FROM directory WHERE hub_no = ?", (no,))
        db.execute("UPDATE hubs SET complete = 0 WHERE no = ?", (no,))
    if op.gone:
        db.execute(
            "DELETE FROM directory WHERE hub_no = ? AND peer_id IN (SELECT value FROM json_each(?))",
            (no, as_json(op.gone)),
        )
    if op.peers:
        insert_rows(
            db,
            "directory (hub_no, peer_id, name)",
            [(no, peer.peer_id, peer.name) for peer in op.peers],
            "ON CONFLICT (hub_no, peer_id) DO UPDATE SET name = excluded.name",
        )
        db.execute(
            "UPDATE peers SET name = d.name FROM directory AS d JOIN hubs AS h ON h.no = d.hub_no"
            " WHERE d.hub_no = ? AND d.peer_id IN (SELECT value FROM json_each(?))"
            " AND peers.hub = h.key AND peers.peer_id = d.peer_id AND peers.name <> d.name",
            (no, as_json([peer.peer_id for peer in op.peers])),
        )
        db.execute(  # whom a person blocked stays blocked under the new name
            "UPDATE OR REPLACE blocks SET key = lower(p.name || '@' || h.hub_id),"
            " address = p.name || '@' || h.hub_id FROM peers AS p JOIN hubs AS h ON h.key = p.hub"
            " WHERE blocks.no = p.no AND h.no = ? AND blocks.key <> lower(p.name || '@' || h.hub_id)",
            (no,),
        )
    db.execute(
        "UPDATE hubs SET complete = complete OR ?, seen_at = max(seen_at, ?) WHERE no = ?",
        (op.complete, op.at, no),
    )


def check_hub(db: sqlite3.Connection, no: int) -> str:
    """The key of a hub, unless it was forgotten: ``hub_not_found``."""
    key: str | None = one(db, "SELECT key FROM hubs WHERE no = ?", (no,))
    if key is None:
        raise RelayError("hub_not_found", "that hub was forgotten meanwhile")
    return key


def far_id(far: FarPeer) -> str:
    """What a peer of another hub is known by here."""
    return far.peer_id or f"@{names.key(far.name)}"  # no peer_id has an @ in it


def far_no(ledger: Ledger, hub_no: int, far: FarPeer, at: int) -> int:
    """The number of another hub's peer, which is given one when it is first needed.

    Raises:
        RelayError: ``hub_not_found``, the hub was forgotten.
    """
    db = ledger.db
    hub = check_hub(db, hub_no)
    peer_id = far_id(far)
    # Mail that waited may name it as it was called then; what its hub tells of it is from now.
    told = one(db, "SELECT name FROM directory WHERE hub_no = ? AND peer_id = ?", (hub_no, peer_id))
    name: str = told or far.name
    row = db.execute(
        "SELECT no, name, last_seen FROM peers WHERE hub = ? AND peer_id = ?", (hub, peer_id)
    ).fetchone()
    if row is None:
        made = db.execute(
            "INSERT INTO peers (peer_id, hub, name, created, last_seen) VALUES (?, ?, ?, ?4, ?4)",
            (peer_id, hub, name, at),
        ).lastrowid
        assert made is not None, "SQLite gives a row number to every new row"
        return made
    no: int
    no, known, used = row
    if known != name:
        db.execute("UPDATE peers SET name = ? WHERE no = ?", (name, no))
    if at - used > USED_EVERY_MS:
        db.execute("UPDATE peers SET last_seen = ? WHERE no = ?", (at, no))
    return no


def snapshot(db: sqlite3.Connection) -> tuple[HubRow, ...]:
    """All hubs we know of."""
    peers: dict[int, list[FarPeer]] = {}
    for hub_no, peer_id, name in db.execute("SELECT hub_no, peer_id, name FROM directory"):
        peers.setdefault(hub_no, []).append(FarPeer(name=name, peer_id=peer_id))
    return tuple(
        [
            HubRow(
                no=no,
                hub_id=hub_id,
                complete=bool(complete),
                seen_at=seen_at,
                waiting=waiting,
                bytes=size,
                peers=tuple(peers.get(no, ())),
            )
            for no, hub_id, complete, seen_at, waiting, size in db.execute(
                "SELECT h.no, h.hub_id, h.complete, h.seen_at, count(o.seq), coalesce(sum(o.size), 0)"
                " FROM hubs AS h LEFT JOIN outbox AS o ON o.hub_no = h.no GROUP BY h.no ORDER BY h.no"
            )
        ]
    )


# --- what goes there -------------------------------------------------------------------------------------


def append_out(ledger: Ledger, op: AppendOut) -> OutAppended:
    """See `AppendOut`."""
    db = ledger.db
    check_hub(db, op.hub_no)
    text = op.text.encode()
    kind = KIND_NUMBERS[op.kind]
    known = store_mail.find_known(ledger, op.msg_id)
    if known and not op.also:
        return _known(ledger, op, known, text)
    if op.missing:
        raise RelayError("peer_not_found", op.missing)
    try:
        _refuse_full(ledger, op)
    except RelayError:
        if op.also:  # one of several hubs: the others are asked all the same
            return OutAppended(0, 0)
        raise
    box = far_no(ledger, op.hub_no, op.to, op.at)
    check = checksum(op.msg_id, kind, op.sender, op.reply_to, op.broadcast_id, text)
    if known:
        db.execute(
            "UPDATE messages SET boxes = json_insert(coalesce(boxes, json_array(box)), '$[#]', ?), box = NULL"
            " WHERE mid = ?",
            (box, known),
        )
        return _put_out(ledger, op, known, box)
    mid = ledger.take_mids(1)
    db.execute(
        "INSERT INTO messages (mid, msg_id, kind, sender_no, sender, at, size, checksum, box, reply_to,"
        " broadcast_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            mid,
            op.msg_id,
            kind,
            op.sender_no,
            op.sender,
            op.at,
            len(text),
            check,
            box,
            op.reply_to,
            op.broadcast_id,
        ),
    )
    ledger.stored_mid = mid
    return _put_out(ledger, op, mid, box)


def _put_out(ledger: Ledger, op: AppendOut, mid: int, box: int) -> OutAppended:
    db = ledger.db
    ledger.note_time(op.at)
    end_streams(ledger, op.hub_no)
    db.execute(
        "UPDATE hubs SET last_seq = last_seq + 1, outbox_bytes = outbox_bytes + ? WHERE no = ?",
        (len(op.body), op.hub_no),
    )
    seq: int = one(db, "SELECT last_seq FROM hubs WHERE no = ?", (op.hub_no,))
    db.execute(
        "INSERT INTO outbox (hub_no, seq, msg_id, mid, box, body, size, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (op.hub_no, seq, op.msg_id, mid, box, op.body, len(op.body), op.at),
    )
    return OutAppended(seq, mid)


def _known(ledger: Ledger, op: AppendOut, mid: int, text: bytes) -> OutAppended:
    """What is answered to mail that is stored already.

    Raises:
        RelayError: ``bad_msg``, it is another message.
    """
    db = ledger.db
    kind, sender_no, sender, size, check, hub_no = db.execute(
        "SELECT m.kind, m.sender_no, m.sender, m.size, m.checksum, h.no FROM messages AS m"
        " LEFT JOIN peers AS p ON p.no = m.box LEFT JOIN hubs AS h ON h.key = p.hub WHERE m.mid = ?",
        (mid,),
    ).fetchone()
    same = (
        hub_no == op.hub_no
        and sender_no == op.sender_no
        and size == len(text)
        and check == checksum(op.msg_id, kind, sender, op.reply_to, op.broadcast_id, text)
    )
    if not same:
        raise RelayError("bad_msg", "msg_id was used for another message: make a new one for each")
    seq = one(db, "SELECT seq FROM outbox WHERE mid = ?", (mid,)) or 0
    return OutAppended(seq, mid, duplicate=True)


def _refuse_full(ledger: Ledger, op: AppendOut) -> None:
    """Before anything is touched: refuse what finds no room."""
    db, limits = ledger.db, ledger.limits
    key, last, size = db.execute(
        "SELECT key, last_seq, outbox_bytes FROM hubs WHERE no = ?", (op.hub_no,)
    ).fetchone()
    waiting: int = one(
        db,
        "SELECT count(*) FROM outbox WHERE hub_no = ? AND box ="
        " (SELECT no FROM peers WHERE hub = ? AND peer_id = ?)",
        (op.hub_no, key, far_id(op.to)),
    )
    if waiting >= limits.mailbox_messages:
        raise RelayError(
            "limit_reached",
            f"{waiting} messages wait for {op.to.name} until the link to its hub is back: they are kept; "
            "send more when they have left (`ecorelay hub status`)",
        )
    first: int = one(db, "SELECT coalesce(min(seq), 0) FROM outbox WHERE hub_no = ?", (op.hub_no,))
    if first and (last - first + 1 >= limits.outbox_messages or size + len(op.body) > limits.outbox_bytes):
        raise RelayError(
            "limit_reached",
            f"{last - first + 1} messages ({size} bytes) wait for that hub until its link is back: they are "
            "kept; send more when they have left (`ecorelay hub status`)",
        )


def load_out(ledger: Ledger, op: LoadOut) -> OutLoaded:
    """See `LoadOut`."""
    db = ledger.db
    sizes = db.execute(
        "SELECT seq, size FROM outbox WHERE hub_no = ? AND seq > ? ORDER BY seq LIMIT ?",
        (op.hub_no, op.after, op.max_count + 1),
    ).fetchall()
    upto, total, count = 0, 0, 0
    for seq, size in sizes[: op.max_count]:
        total += size
        if count and total > op.max_bytes:
            break
        upto, count = seq, count + 1
    rows = db.execute(
        "SELECT seq, msg_id, at, body FROM outbox WHERE hub_no = ? AND seq > ? AND seq <= ? ORDER BY seq",
        (op.hub_no, op.after, upto),
    )
    return OutLoaded(tuple([OutFrame(*row) for row in rows]), count < len(sizes))


def settle_out(ledger: Ledger, op: SettleOut) -> OutSettled:
    """See `SettleOut`."""
    ledger.note_time(op.at)
    return _settle(ledger, op.hub_no, op.upto, dict(op.rejected), op.at)


def _settle(ledger: Ledger, hub_no: int, upto: int, rejected: Mapping[int, str], at: int) -> OutSettled:
    db = ledger.db
    where = "WHERE hub_no = ? AND seq <= ?"
    size: int
    count, size = db.execute(
        f"SELECT count(*), coalesce(sum(size), 0) FROM outbox {where}", (hub_no, upto)
    ).fetchone()
    if not count:
        return OutSettled(0, 0)
    bad = _rejected(ledger, hub_no, upto, rejected, at)
    db.execute(
        "INSERT INTO receipts (mid, box, forwarded_at, ended_at)"
        " SELECT mid, box, ?1, ?1 FROM outbox WHERE hub_no = ?2 AND seq <= ?3 AND mid NOTNULL"
        " ON CONFLICT (mid, box) DO NOTHING",
        (at, hub_no, upto),
    )
    db.execute(f"DELETE FROM outbox {where}", (hub_no, upto))
    db.execute("UPDATE hubs SET outbox_bytes = outbox_bytes - ? WHERE no = ?", (size, hub_no))
    return OutSettled(count, size, bad)


def _rejected(
    ledger: Ledger, hub_no: int, upto: int, rejected: Mapping[int, str], at: int
) -> tuple[Eviction, ...]:
    """Receipts of what did not arrive, and notices to those who sent it."""
    seqs = [seq for seq in rejected if seq <= upto]
    if not seqs:
        return ()
    db = ledger.db
    rows = listed(
        db,
        "SELECT json_group_array(json_array(o.seq, o.mid, o.box, m.sender_no)) FROM outbox AS o"
        " JOIN messages AS m ON m.mid = o.mid"
        " WHERE o.hub_no = ? AND o.seq IN (SELECT value FROM json_each(?))",
        (hub_no, as_json(seqs)),
    )
    return _die(ledger, [(mid, box, sender, rejected[seq]) for seq, mid, box, sender in rows], at)


def _die(ledger: Ledger, rows: list[tuple[int, int, int, str]], at: int) -> tuple[Eviction, ...]:
    """Mail (mid, box, sender, why) ends as dead; its senders are told."""
    if not rows:
        return ()
    insert_rows(
        ledger.db,
        "receipts (mid, box, outcome, reason, ended_at)",
        [(mid, box, DEAD, why, at) for mid, box, _, why in rows],
        "ON CONFLICT (mid, box) DO NOTHING",
    )
    told: list[Eviction] = []
    by_reason: dict[str, Counter[tuple[int, int]]] = {}
    for _, box, sender, why in rows:
        by_reason.setdefault(why, Counter())[sender, box] += 1
    for why, pairs in by_reason.items():
        first = store_ring.tell(ledger, {pair: (count, at) for pair, count in pairs.items()}, why)
        told += [Eviction(sender, box, n, (sender, box) in first) for (sender, box), n in pairs.items()]
    return tuple(told)


def resume_out(ledger: Ledger, op: ResumeOut) -> Resumed:
    """See `ResumeOut`."""
    db, no = ledger.db, op.hub_no
    ledger.note_time(op.at)
    settled = OutSettled(0, 0)
    check_hub(db, no)
    end_streams(ledger, no)
    last: int = one(db, "SELECT last_seq FROM hubs WHERE no = ?", (no,))
    covered = _ours(db, no, op.known)
    if covered is not None:
        base, ended = covered
        rejected = {base + number: code for number, code in op.rejected}
        upto = min(base + op.received, last if ended is None else ended)
        settled = _settle(ledger, no, upto, rejected, op.at)
    first: int | None = one(db, "SELECT min(seq) FROM outbox WHERE hub_no = ?", (no,))
    before = last if first is None else first - 1
    begun = _ours(db, no, op.stream)
    if begun is None:
        begun = before, None
        _put_stream(db, no, OURS, op.stream, before, op.at)
    return Resumed(base=begun[0], settled=before, last=last, out=settled)


def _ours(db: sqlite3.Connection, hub_no: int, stream: str) -> tuple[int, int | None] | None:
    """Where a stream of ours begins and ended; None: it is not known (any more)."""
    found: tuple[int, int | None] | None = db.execute(
        "SELECT number, ended FROM streams WHERE hub_no = ? AND direction = ? AND stream = ?",
        (hub_no, OURS, stream),
    ).fetchone()
    return found


def end_streams(ledger: Ledger, hub_no: int) -> None:
    """Before anything new of this run: what comes now was sent in no earlier stream.

    In a copy of the database that was put back, an earlier stream may have gone on after the copy was made:
    the other hub knows it with numbers that here will be given to other mail.
    """
    if ledger.first_time(("streams ended", hub_no)):
        ledger.db.execute(
            "UPDATE streams SET ended = (SELECT last_seq FROM hubs WHERE no = ?1)"
            " WHERE hub_no = ?1 AND direction = ?2 AND ended ISNULL",
            (hub_no, OURS),
        )


def _put_stream(
    db: sqlite3.Connection, hub_no: int, direction: int, stream: str, number: int, at: int
) -> None:
    """A new stream; of those before it the latest are kept."""
    db.execute(
        "INSERT INTO streams (hub_no, direction, stream, number, at, place) VALUES (?1, ?2, ?3, ?4, ?5,"
        " (SELECT coalesce(max(place), 0) + 1 FROM streams WHERE hub_no = ?1 AND direction = ?2))",
        (hub_no, direction, stream, number, at),
    )
    db.execute(
        "DELETE FROM streams WHERE hub_no = ?1 AND direction = ?2 AND place <="
        " (SELECT max(place) FROM streams WHERE hub_no = ?1 AND direction = ?2) - ?3",
        (hub_no, direction, STREAMS_KEPT),
    )


# --- what came from there --------------------------------------------------------------------------------


def receive(
    ledger: Ledger, op: Receive, take_far: Callable[[Ledger, FarOp], tuple[Any, str, str]]
) -> Received:
    """See `Receive`. `take_far` does what is no mail: what came of it, or code and reason of a refusal."""
    db = ledger.db
    hub = check_hub(db, op.hub_no)
    row = stream_of(db, op)
    have = max(row[0] if row is not None else 0, op.first - 1)
    if row is not None and op.first <= op.number <= have:
        return _taken_before(ledger, op, _refusals(row[1]))
    if op.number != have + 1:
        raise RelayError("bad_msg", f"frame {op.number} does not follow {have}")
    sender_no = far_no(ledger, op.hub_no, op.sender, op.at) if op.mail is not None else 0
    done: Any = None
    if op.far is None:
        appended, code, message = _take(ledger, op, sender_no, hub)
    else:
        appended = None
        done, code, message = take_far(ledger, op.far)
    note_taken(ledger, op, row, [(op.number, code, message)] if code else [])
    return Received(appended, code, message, done)


def stream_of(db: sqlite3.Connection, op: Receive) -> tuple[int, str] | None:
    """The highest number taken of that frame's stream, and the refusals as JSON; None: nothing was."""
    found: tuple[int, str] | None = db.execute(
        "SELECT number, rejected FROM streams WHERE hub_no = ? AND direction = ? AND stream = ?",
        (op.hub_no, THEIRS, op.stream),
    ).fetchone()
    return found


def note_taken(
    ledger: Ledger, op: Receive, row: tuple[int, str] | None, refused: Sequence[tuple[int, str, str]]
) -> None:
    """All up to this frame was taken, but for what was `refused` (number, code, message).

    Args:
        ledger: the open transaction.
        op: the last of them.
        row: what `stream_of` said before.
        refused: those among them.
    """
    db = ledger.db
    if row is None:
        _put_stream(db, op.hub_no, THEIRS, op.stream, op.number, op.at)
    else:
        db.execute(
            "UPDATE streams SET number = ?, at = ? WHERE hub_no = ? AND direction = ? AND stream = ?",
            (op.number, op.at, op.hub_no, THEIRS, op.stream),
        )
    if refused:
        before: list[Any] = msgspec.json.decode(row[1]) if row is not None else []
        db.execute(
            "UPDATE streams SET rejected = ? WHERE hub_no = ? AND direction = ? AND stream = ?",
            (
                msgspec.json.encode([*before, *refused][-REJECTED_KEPT:]).decode(),
                op.hub_no,
                THEIRS,
                op.stream,
            ),
        )


def _taken_before(ledger: Ledger, op: Receive, refused: tuple[Refusal, ...]) -> Received:
    """What became of a frame of a stream that is not the latest: the other hub goes on with it.

    A copy of that hub was here meanwhile. The stream is the latest again, so that the next link knows it.
    """
    ledger.db.execute(
        "UPDATE streams SET place = (SELECT max(place) + 1 FROM streams WHERE hub_no = ?1 AND direction = ?2)"
        " WHERE hub_no = ?1 AND direction = ?2 AND stream = ?3",
        (op.hub_no, THEIRS, op.stream),
    )
    found = next((each for each in refused if each.number == op.number), Refusal(op.number, ""))
    return Received(None, found.code, found.message)


def _take(ledger: Ledger, op: Receive, sender_no: int, hub: str) -> tuple[Appended | None, str, str]:
    mail = op.mail
    # What was taken is not refused when it comes again, whatever would be said of it now; nor taken twice
    # because the hub was forgotten meanwhile and has another number.
    known = one(
        ledger.db,
        "SELECT m.mid FROM messages AS m LEFT JOIN peers AS p ON p.no = m.sender_no"
        " WHERE m.msg_id = ?1 AND (m.origin = ?2 OR m.origin > 0 AND p.hub = ?3)",
        (op.msg_id, op.hub_no, hub),
    )
    if known:
        return Appended(known, (), duplicate=True), "", ""
    if mail is None:
        return None, op.code, op.message
    if not mail.recipients:  # a broadcast that found nobody
        return None, "", ""
    mail = msgspec.structs.replace(mail, sender_no=sender_no, origin=op.hub_no)
    [result] = store_mail.append(ledger, (mail,))
    if isinstance(result, RelayError):
        return None, result.code, result.message
    return result, "", ""


# --- the end of it ---------------------------------------------------------------------------------------


def forget_hub(ledger: Ledger, op: ForgetHub) -> OutSettled:
    """See `ForgetHub`."""
    db, no = ledger.db, op.hub_no
    ledger.note_time(op.at)
    ended = _end_all(ledger, no, "", FORGOTTEN, op.at)
    for table in ("directory", "streams"):
        db.execute(f"DELETE FROM {table} WHERE hub_no = ?", (no,))
    db.execute("DELETE FROM hubs WHERE no = ?", (no,))
    return ended


def expire_out(ledger: Ledger, hub_no: int, before: int, at: int, most: int) -> OutExpired | None:
    """What has waited since before `before` (ms) ends as dead; only while no link could be sending it.

    Only what comes before all that stays, for numbers must have no gap; rows of a future that never came stay
    as long as nothing after them is too old. `most` rows at once; None: nothing did.
    """
    upto: int | None = one(
        ledger.db,
        "SELECT max(seq) FROM (SELECT seq, at FROM outbox WHERE hub_no = ?1 AND seq <"
        " coalesce((SELECT min(seq) FROM outbox WHERE hub_no = ?1 AND at BETWEEN ?2 AND ?3), 1 << 62)"
        " ORDER BY seq LIMIT ?4) WHERE at < ?2",
        (hub_no, before, at, most),
    )
    if upto is None:
        return None
    ended = _end_all(ledger, hub_no, f"AND o.seq <= {int(upto)}", EXPIRED_REASON, at)
    return OutExpired(hub_no, upto, ended.count, ended.bytes, ended.told)


def _end_all(ledger: Ledger, hub_no: int, which: str, reason: str, at: int) -> OutSettled:
    db = ledger.db
    rows = listed(
        db,
        "SELECT json_group_array(json_array(o.seq, o.mid, o.box, m.sender_no, o.size)) FROM outbox AS o"
        f" LEFT JOIN messages AS m ON m.mid = o.mid WHERE o.hub_no = ? {which}",
        (hub_no,),
    )
    if not rows:
        return OutSettled(0, 0)
    told = _die(ledger, [(mid, box, sender, reason) for _, mid, box, sender, _ in rows if mid], at)
    size = sum(row[4] for row in rows)
    db.execute(
        "DELETE FROM outbox WHERE hub_no = ? AND seq IN (SELECT value FROM json_each(?))",
        (hub_no, as_json([row[0] for row in rows])),
    )
    db.execute("UPDATE hubs SET outbox_bytes = outbox_bytes - ? WHERE no = ?", (size, hub_no))
    return OutSettled(len(rows), size, told)
