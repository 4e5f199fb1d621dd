"""What a person does about a peer: forget it, with all it has; stop it from sending."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from ecorelay import names
from ecorelay.core.link_ops import FarPeer
from ecorelay.core.ops import Eviction, ForgetPeer, Forgotten, SetBlock
from ecorelay.daemon import store_links, store_peers, store_ring
from ecorelay.daemon.schema import DEAD, UNREAD
from ecorelay.daemon.store_sql import listed, one
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.daemon.store_ledger import Ledger

REASON: Final = "forgotten"


def forget_peer(ledger: Ledger, op: ForgetPeer) -> Forgotten:
    """See `ForgetPeer`. A mailbox is a ring, so all of it is a bounded number of rows."""
    db, no = ledger.db, op.no
    ledger.box(no)
    if one(db, "SELECT 1 FROM group_members WHERE no = ?", (no,)):
        raise RelayError("bad_args", "that peer is in a group that it was to leave first: ask again")
    ledger.note_time(op.at)
    lost = _empty(ledger, no, op.at)
    told = {(sender, no): (count, op.at) for sender, count in lost.items() if sender != no}
    first = store_ring.tell(ledger, told, REASON) if told else set()
    store_peers.remove_rows(ledger, (no,))
    return Forgotten(
        tuple([Eviction(sender, no, count, (sender, no) in first) for sender, count in lost.items()])
    )


def _empty(ledger: Ledger, no: int, at: int) -> Counter[int]:
    """Everything leaves the mailbox, and receipts stay. Of whose mail how much was unread."""
    db = ledger.db
    ledger.end_leases_of(no)
    entries = listed(
        db, "SELECT json_group_array(json_array(state, mid, sender, shared)) FROM ring WHERE box = ?", (no,)
    )
    db.execute(
        "INSERT INTO receipts (mid, box, seen_at, replied_at, outcome, reason, ended_at)"
        f" SELECT mid, box, seen_at, replied_at, iif(state = {UNREAD}, {DEAD}, 0),"
        f" iif(state = {UNREAD}, ?, NULL), ? FROM ring WHERE box = ?",
        (REASON, at, no),
    )
    db.execute("DELETE FROM bodies WHERE mid IN (SELECT mid FROM ring WHERE box = ? AND NOT shared)", (no,))
    db.execute("DELETE FROM ring WHERE box = ?", (no,))
    store_ring.release_texts(db, [mid for _, mid, _, shared in entries if shared])
    return Counter([sender for state, _, sender, _ in entries if state == UNREAD])


def _far_no(ledger: Ledger, op: SetBlock) -> int | None:
    """The number of another hub's peer; None: the hub was forgotten meanwhile."""
    assert op.far is not None, "asked for one that its hub told of"
    hub_no = one(ledger.db, "SELECT no FROM hubs WHERE key = ?", (op.far[0],))
    if hub_no is None:
        return None
    far = FarPeer(name=op.address.partition("@")[0], peer_id=op.far[1])
    return store_links.far_no(ledger, hub_no, far, op.at)


def set_block(ledger: Ledger, op: SetBlock) -> None:
    """See `SetBlock`."""
    db = ledger.db
    address, no = op.address, op.no or None
    if no is not None:
        address = one(db, "SELECT name FROM peers WHERE no = ?", (no,))
        if address is None:
            raise RelayError("peer_gone", "that peer was removed: `ecorelay peers` lists those there are")
    if op.far is not None and op.blocked:
        no = _far_no(ledger, op)
    key = names.key(address)
    if op.blocked:
        db.execute("INSERT INTO blocks VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (key, address, no, op.at))
        db.execute("UPDATE OR IGNORE blocks SET no = ? WHERE key = ? AND no ISNULL", (no, key))
    else:
        db.execute("DELETE FROM blocks WHERE key = ?", (key,))
    ledger.note_time(op.at)
