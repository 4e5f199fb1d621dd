"""Mail on its way in: append, and the receipt that it was pushed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from ecorelay.core.ops import Appended, AppendMail, Eviction, FindMail, FoundMail, MarkPushed
from ecorelay.daemon import store_ring
from ecorelay.daemon.schema import KIND_NUMBERS, SEEN, SYSTEM, UNREAD
from ecorelay.daemon.store_ring import Shedding
from ecorelay.daemon.store_sql import as_json, insert_rows, listed, one
from ecorelay.daemon.store_text import checksum
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ecorelay.daemon.store_ledger import Box, Ledger

_PLAIN: Final = "messages (mid, msg_id, kind, sender_no, sender, at, size, checksum, box)"
_FULL: Final = (
    "messages (mid, msg_id, kind, sender_no, sender, at, size, checksum, box,"
    " boxes, refs, reply_to, broadcast_id, urgent, origin)"
)
BOUND_BYTES: Final = 64 * 1024
"""Bytes of text in one statement. SQLite keeps what was bound to a prepared statement until it is bound anew,
and there is one such statement for every number of rows: what is kept must not add up."""
_NONE: Final = (0, 0)
Row = TypeVar("Row", bound=tuple[Any, ...])
_IF_NEW: Final = "ON CONFLICT (msg_id, origin) DO NOTHING"


# --- append --------------------------------------------------------------------------------------------


def append(ledger: Ledger, mails: Sequence[AppendMail]) -> list[Appended | RelayError]:
    """Store messages in this order, with a number of statements that does not depend on how many.

    Returns:
        For each what became of it: stored, found stored before, or refused without a trace.
    """
    boxes = ledger.boxes
    ledger.load({no for mail in mails for no in mail.recipients})
    results: list[Any] = [None] * len(mails)
    rows: list[tuple[Any, ...]] = []
    full: list[tuple[Any, ...]] = []
    texts: list[tuple[int, bytes]] = []
    ids: set[str] = set()
    again: list[int] = []
    mid = first = ledger.take_mids(len(mails))
    for mail in mails:
        if mail.msg_id in ids:
            again.append(mid - first)
            mid += 1
            continue
        ids.add(mail.msg_id)
        to = mail.recipients
        text = mail.text.encode()
        kind = KIND_NUMBERS[mail.kind]
        check = checksum(mail.msg_id, kind, mail.sender, mail.reply_to, mail.broadcast_id, text)
        row = (mid, mail.msg_id, kind, mail.sender_no, mail.sender, mail.at, len(text), check)
        if not to or not boxes.keys() >= set(to):
            results[mid - first] = _peer_gone()
        elif len(to) == 1 and not (mail.reply_to or mail.broadcast_id or mail.urgent or mail.origin):
            rows.append((*row, to[0]))
            texts.append((mid, text))
        else:
            sole, several = (to[0], None) if len(to) == 1 else (None, as_json(to))
            extra = (sole, several, len(to), mail.reply_to, mail.broadcast_id, mail.urgent, mail.origin)
            full.append((*row, *extra))
            texts.append((mid, text))
        mid += 1
    stored = 0
    if rows:
        stored += insert_rows(ledger.db, _PLAIN, rows, _IF_NEW)
    if full:
        stored += insert_rows(ledger.db, _FULL, full, _IF_NEW)
    known: list[tuple[int, bytes]] = []
    if stored < len(texts):
        texts, known = _part_known(ledger, texts)
    if texts:
        ledger.stored_mid = texts[-1][0]
        shared = any(row[9] for row in full)
        _enter(ledger, texts, sole=bool(rows) or not all(row[9] for row in full), shared=shared)
        _count(ledger, mails, first, texts, results)
    for mid, text in known:
        try:
            results[mid - first] = stored_before(ledger, mails[mid - first], text)
        except RelayError as error:
            results[mid - first] = error
    if again:  # each id once at a time, so that the first of two is the one stored
        for place, result in zip(again, append(ledger, [mails[place] for place in again]), strict=True):
            results[place] = result
    return results


def _peer_gone() -> RelayError:
    return RelayError("peer_gone", "the recipient was removed: relay_peers lists those there are")


def _enter(ledger: Ledger, texts: Sequence[tuple[int, bytes]], *, sole: bool, shared: bool) -> None:
    """Texts, and a row in every recipient's ring: of messages to one, and of those to several."""
    db = ledger.db
    for part in bundles(texts, 1):
        insert_rows(db, "bodies", part)
    between = (texts[0][0], texts[-1][0])
    # Nobody is told of lost notices, and no peer of another hub: its hub tells it what became of the frame.
    sender = f"iif(m.kind = {SYSTEM} OR m.origin, 0, m.sender_no)"
    if sole:
        db.execute(
            "INSERT INTO ring (box, state, mid, size, sender, shared)"
            f" SELECT m.box, {UNREAD}, m.mid, m.size, {sender}, 0 FROM messages AS m"
            " WHERE m.mid BETWEEN ? AND ? AND m.box NOTNULL",
            between,
        )
    if shared:
        db.execute(
            "INSERT INTO ring (box, state, mid, size, sender, shared)"
            f" SELECT j.value, {UNREAD}, m.mid, m.size, {sender}, 1"
            " FROM messages AS m CROSS JOIN json_each(m.boxes) AS j"
            " WHERE m.mid BETWEEN ? AND ? AND m.boxes NOTNULL",
            between,
        )


def bundles(rows: Sequence[Row], blob: int) -> Iterator[list[Row]]:
    """`rows` in their order, in parts of `BOUND_BYTES` or of one row. `blob`: the column that is large."""
    part: list[Row] = []
    size = 0
    for row in rows:
        if part and size + len(row[blob]) > BOUND_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row[blob])
    if part:
        yield part


def _count(
    ledger: Ledger,
    mails: Sequence[AppendMail],
    first: int,
    texts: Sequence[tuple[int, bytes]],
    results: list[Any],
) -> None:
    """Counters and results, as if the messages had come one by one."""
    boxes = ledger.boxes
    after: dict[int, Box] = {}
    unread_of: list[tuple[int, ...]] = []
    for mid, text in texts:
        size = len(text)
        counts = []
        for no in mails[mid - first].recipients:
            entries, total, unread = after.get(no) or boxes[no]
            unread += 1
            after[no] = (entries + 1, total + size, unread)
            counts.append(unread)
        unread_of.append(tuple(counts))
    entries_max, bytes_max = ledger.limits.mailbox_messages, ledger.limits.mailbox_bytes
    over = {no: box for no, box in after.items() if box[0] > entries_max or box[1] > bytes_max}
    evictions: dict[int, tuple[Eviction, ...]] = {}
    if over:
        oldest = store_ring.oldest_of(ledger, over)
        rings = {no: Shedding(boxes[no], oldest[no], entries_max, bytes_max) for no in over}
        evictions = _shed(ledger, rings, mails, first, texts, unread_of)
        for no, ring in rings.items():
            after[no] = (ring.entries, ring.bytes, ring.unread)
    ledger.put_boxes(after)
    ledger.note_time(mails[-1].at)
    for (mid, _), unread_now in zip(texts, unread_of, strict=True):
        results[mid - first] = Appended(mid, unread_now, evictions.get(mid, ()))


def _shed(
    ledger: Ledger,
    rings: Mapping[int, Shedding],
    mails: Sequence[AppendMail],
    first: int,
    texts: Sequence[tuple[int, bytes]],
    unread_of: list[tuple[int, ...]],
) -> dict[int, tuple[Eviction, ...]]:
    """Let full rings shed, and tell the senders of what left unread.

    Args:
        ledger: the open transaction, with everything appended.
        rings: those over a limit.
        mails: all of them.
        first: the mid of the first of `mails`.
        texts: mid and text of those that are stored.
        unread_of: unread counts beside `texts`; corrected where a ring sheds.

    Returns:
        What was evicted, by mid of the message it had to make room for.
    """
    lost: list[tuple[int, int, list[int], int]] = []
    totals: dict[tuple[int, int], tuple[int, int]] = {}
    for place, (mid, text) in enumerate(texts):
        mail = mails[mid - first]
        counts = []
        for no, unread in zip(mail.recipients, unread_of[place], strict=True):
            ring = rings.get(no)
            if ring is None:
                counts.append(unread)
                continue
            senders = ring.add(len(text))
            counts.append(ring.unread)
            if senders:
                lost.append((mid, no, senders, ring.upto))
                for sender in senders:
                    pair = sender, no
                    totals[pair] = (totals.get(pair, _NONE)[0] + 1, mail.at)
        unread_of[place] = tuple(counts)
    left = {no: ring.oldest[: ring.gone] for no, ring in rings.items() if ring.gone}
    if left:
        store_ring.remove(ledger, left, mails[-1].at)
    new = store_ring.tell(ledger, totals, "evicted") if totals else set()
    evictions: dict[int, tuple[Eviction, ...]] = {}
    for mid, no, senders, upto in lost:
        gone = []
        for sender in senders if len(senders) == 1 else dict.fromkeys(senders):
            opened = (sender, no) in new
            if opened:
                new.discard((sender, no))
            gone.append(Eviction(sender, no, senders.count(sender), opened, upto))
        evictions[mid] = (*evictions.get(mid, ()), *gone)
    return evictions


# --- the same id again -----------------------------------------------------------------------------------


def _part_known(
    ledger: Ledger, texts: Sequence[tuple[int, bytes]]
) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
    """Those whose row went in, and those whose msg_id was there."""
    new = set(
        listed(
            ledger.db,
            "SELECT json_group_array(mid) FROM messages WHERE mid BETWEEN ? AND ?",
            (texts[0][0], texts[-1][0]),
        )
    )
    return [each for each in texts if each[0] in new], [each for each in texts if each[0] not in new]


def find_known(ledger: Ledger, msg_id: str) -> int:
    """The mid of a message of ours with this id; 0: there is none."""
    found: int | None = one(ledger.db, "SELECT mid FROM messages WHERE msg_id = ? AND origin = 0", (msg_id,))
    return found or 0


def stored_before(ledger: Ledger, mail: AppendMail, text: bytes) -> Appended:
    """What is answered to a message that is stored already.

    Raises:
        RelayError: ``bad_msg``, it is another message.
    """
    row = ledger.db.execute(
        "SELECT mid, kind, sender_no, sender, reply_to, broadcast_id, size, checksum, box,"
        " coalesce(boxes, json_array(box)) FROM messages WHERE msg_id = ? AND origin = ?",
        (mail.msg_id, mail.origin),
    ).fetchone()
    mid, kind, sender_no, sender, reply_to, broadcast_id, size, check, box, boxes = row
    same = (
        sender_no == mail.sender_no
        and size == len(text)
        and check == checksum(mail.msg_id, kind, sender, reply_to, broadcast_id, text)
        and (boxes == as_json(mail.recipients) or (mail.again and box is not None))
    )
    if not same:
        raise RelayError("bad_msg", "msg_id was used for another message: make a new one for each")
    unread = tuple([ledger.box(no)[2] for no in mail.recipients])
    delivered = box is not None and _was_delivered(ledger, box, mid)
    return Appended(mid, unread, duplicate=True, delivered=delivered)


def find_mail(ledger: Ledger, op: FindMail) -> FoundMail | None:
    """See `FindMail`."""
    row = ledger.db.execute(
        "SELECT mid, kind, sender, reply_to, broadcast_id, size, checksum, coalesce(box, 0)"
        " FROM messages WHERE msg_id = ? AND origin = 0 AND sender_no = ?",
        (op.msg_id, op.no),
    ).fetchone()
    if row is None:
        return None
    mid, kind, sender, reply_to, broadcast_id, size, check, box = row
    text = op.text.encode()
    if size != len(text) or check != checksum(op.msg_id, kind, sender, reply_to, broadcast_id, text):
        return None
    return FoundMail(_was_delivered(ledger, box, mid))


def _was_delivered(ledger: Ledger, no: int, mid: int) -> bool:
    return bool(
        one(
            ledger.db,
            "SELECT 1 FROM pushes WHERE mid = ?2 AND box = ?1"
            f" UNION ALL SELECT 1 FROM ring WHERE box = ?1 AND state = {SEEN} AND mid = ?2"
            " UNION ALL SELECT 1 FROM receipts WHERE mid = ?2 AND box = ?1 AND seen_at",
            (no, mid),
        )
    )


# --- pushed ----------------------------------------------------------------------------------------------


def mark_pushed(ledger: Ledger, op: MarkPushed) -> None:
    """See `MarkPushed`."""
    if op.rows:
        carrier = op.carrier
        times = {(mid, no): at for no, mid, at in op.rows}
        insert_rows(
            ledger.db,
            "pushes (mid, box, at, carrier)",
            [(mid, no, times[mid, no], carrier) for mid, no in sorted(times)],
            "ON CONFLICT (mid, box) DO UPDATE SET at = excluded.at, carrier = excluded.carrier",
        )
