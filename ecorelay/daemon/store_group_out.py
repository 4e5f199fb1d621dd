"""What other hubs with members in our groups are told: one frame for each hub, in its outbox.

The frame lies there in the transaction that numbered the line. Where too much waits already it is left out:
the hub finds the gap, and asks.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import msgspec

from ecorelay import link_wire
from ecorelay.core import group_events
from ecorelay.core.ops import OutRow
from ecorelay.daemon import store_links
from ecorelay.daemon.store_sql import listed, one

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from ecorelay.core.ops import Line
    from ecorelay.daemon.store_ledger import Ledger


def hubs_of(db: sqlite3.Connection, group_no: int) -> list[int]:
    """Numbers of the other hubs with members in a group of ours."""
    found: list[int] = listed(
        db,
        "SELECT json_group_array(no) FROM (SELECT DISTINCT h.no AS no FROM group_members AS m"
        " JOIN peers AS p ON p.no = m.no JOIN hubs AS h ON h.key = p.hub WHERE m.group_no = ? ORDER BY h.no)",
        (group_no,),
    )
    return found


def groups_of(db: sqlite3.Connection, hub_no: int) -> list[int]:
    """Numbers of our groups with members that are peers of another hub."""
    found: list[int] = listed(
        db,
        "SELECT json_group_array(no) FROM (SELECT DISTINCT g.no AS no FROM hubs AS h"
        " JOIN peers AS p ON p.hub = h.key JOIN group_members AS m ON m.no = p.no"
        " JOIN groups AS g ON g.no = m.group_no WHERE h.no = ? AND g.hub = '' ORDER BY g.no)",
        (hub_no,),
    )
    return found


def since(db: sqlite3.Connection, group_no: int, hub_no: int) -> int | None:
    """The line after which members of another hub see those of a group of ours; None: it has none there."""
    found: int | None = one(
        db,
        "SELECT min(m.cursor) FROM group_members AS m CROSS JOIN peers AS p ON p.no = m.no"
        " JOIN hubs AS h ON h.key = p.hub WHERE m.group_no = ? AND h.no = ?",
        (group_no, hub_no),
    )
    return found


def roster(db: sqlite3.Connection, group_no: int) -> tuple[link_wire.GroupMember, ...]:
    """All members of a group of ours, as other hubs are told."""
    return tuple(
        [
            link_wire.GroupMember(peer_id=peer_id, name=name, hub=hub_id, since=since)
            for peer_id, name, hub_id, since in db.execute(
                "SELECT p.peer_id, p.name, h.hub_id, iif(p.hub = '', 0, m.cursor) FROM group_members AS m"
                " JOIN groups AS g ON g.no = m.group_no JOIN peers AS p ON p.no = m.no"
                " LEFT JOIN hubs AS h ON h.key = p.hub WHERE m.group_no = ?"
                " AND (p.hub = '' OR h.no NOTNULL) ORDER BY m.no <> g.admin_no, m.place",
                (group_no,),
            )
        ]
    )


def checksum(members: tuple[link_wire.GroupMember, ...]) -> int:
    """Of a list of members: the same on every hub that has the same list."""
    return zlib.crc32(msgspec.json.encode(members))


def put(ledger: Ledger, hub_no: int, msg_id: str, box: int, body: bytes, at: int) -> OutRow | None:
    """A frame without a receipt, into an outbox; None: too much waits there.

    Args:
        ledger: the open transaction.
        hub_no: of the hub that is to have it.
        msg_id: of the frame.
        box: of frames with the same one no more wait than a mailbox holds; 0: no such limit.
        body: as it is sent.
        at: ms.
    """
    db, limits = ledger.db, ledger.limits
    first, last, size = db.execute(
        "SELECT (SELECT coalesce(min(seq), 0) FROM outbox WHERE hub_no = h.no), last_seq, outbox_bytes"
        " FROM hubs AS h WHERE no = ?",
        (hub_no,),
    ).fetchone()
    if first and (last - first + 1 >= limits.outbox_messages or size + len(body) > limits.outbox_bytes):
        return None
    if box:
        waiting: int = one(db, "SELECT count(*) FROM outbox WHERE hub_no = ? AND box = ?", (hub_no, box))
        if waiting >= limits.mailbox_messages:
            return None
    store_links.end_streams(ledger, hub_no)
    db.execute(
        "UPDATE hubs SET last_seq = last_seq + 1, outbox_bytes = outbox_bytes + ? WHERE no = ?",
        (len(body), hub_no),
    )
    db.execute(
        "INSERT INTO outbox (hub_no, seq, msg_id, mid, box, body, size, at)"
        " VALUES (?, ?, ?, NULL, ?, ?, ?, ?)",
        (hub_no, last + 1, msg_id, box, body, len(body), at),
    )
    ledger.note_time(at)
    return OutRow(hub_no, last + 1, msg_id, at, body)


def put_all(
    ledger: Ledger, hubs: Iterable[int], msg_id: str, box: int, body: link_wire.LinkFrame, at: int
) -> tuple[OutRow, ...]:
    """The same frame for several hubs; what lies in their outboxes now."""
    encoded = link_wire.encode_body(body)
    rows = [put(ledger, hub_no, msg_id, box, encoded, at) for hub_no in hubs]
    return tuple([row for row in rows if row is not None])


def id_of(db: sqlite3.Connection, group_no: int, seq: int) -> str:
    """The id of a line that is in a group's ring; empty: nothing is left of it, or it is not there."""
    return (
        one(
            db,
            "SELECT m.msg_id FROM group_log AS l JOIN messages AS m ON m.mid = l.mid"
            " WHERE l.group_no = ? AND l.seq = ?",
            (group_no, seq),
        )
        or ""
    )


def tell(
    ledger: Ledger,
    group_no: int,
    line: Line,
    seq: int,
    hubs: Iterable[int],
    *,
    changed: bool = False,
    **removed: Any,
) -> tuple[OutRow, ...]:
    """A line that was just added to a group of ours.

    Args:
        ledger: the open transaction.
        group_no: of the group.
        line: what was added.
        seq: its number.
        hubs: that are to have it.
        changed: it changed the members, who are told too.
        removed: see `GroupLineBody`.
    """
    db = ledger.db
    group_id, name = db.execute("SELECT group_id, name FROM groups WHERE no = ?", (group_no,)).fetchone()
    author = db.execute(
        "SELECT p.peer_id, h.hub_id FROM peers AS p LEFT JOIN hubs AS h ON h.key = p.hub WHERE p.no = ?",
        (line.sender_no,),
    ).fetchone()
    body = link_wire.GroupLineBody(
        group=group_id,
        name=name,
        after=id_of(db, group_no, seq - 1) or None,
        line=link_wire.GroupLine(
            seq=seq,
            msg_id=line.msg_id,
            author=line.sender.partition("@")[0],
            author_id=author[0] if author else None,
            author_hub=author[1] if author else None,
            **group_events.told_as(line.sender, line.text, event=line.system),
        ),
        members=roster(db, group_no) if changed else None,
        **removed,
    )
    return put_all(ledger, hubs, line.msg_id, -group_no, body, line.at)
