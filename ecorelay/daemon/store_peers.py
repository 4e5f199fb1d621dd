"""Peers, their names, and what leads back to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from ecorelay import names
from ecorelay.core.ops import (
    AddPeer,
    Dropped,
    DropPeers,
    GroupRow,
    NotePeer,
    Numbered,
    PeerRow,
    RememberPeer,
    RenamePeer,
    Snapshot,
)
from ecorelay.daemon import store_links
from ecorelay.daemon.store_sql import as_json, listed
from ecorelay.errors import RelayError
from ecorelay.link_wire import GroupMember

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from ecorelay.daemon.store_ledger import Ledger

_roster: Final = msgspec.json.Decoder(tuple[GroupMember, ...])
IDENTITIES_PER_PEER: Final = 100
"""Each session of an assistant has another one; the latest lead back."""


def add_peer(ledger: Ledger, op: AddPeer) -> Numbered:
    """See `AddPeer`."""
    db = ledger.db
    key = names.key(op.name)
    _refuse_taken(db, key, op.name, 0)
    no = db.execute(
        "INSERT INTO peers (peer_id, name, auto, created, last_seen) VALUES (?, ?, ?, ?4, ?4)",
        (op.peer_id, op.name, op.auto, op.at),
    ).lastrowid
    if no is None:  # pragma: no cover
        raise AssertionError("SQLite gives a row number to every new row")
    db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?, 0)", (key, op.name, no))
    db.execute("INSERT INTO mailboxes VALUES (?, 0, 0, 0)", (no,))
    ledger.note_time(op.at)
    return Numbered(no)


def _refuse_taken(db: sqlite3.Connection, key: str, name: str, own: int) -> None:
    row = db.execute("SELECT no FROM names WHERE key = ? AND until = 0", (key,)).fetchone()
    if row is not None and row[0] != own:
        raise RelayError("name_taken", f"{name} is another peer's name: choose one not in relay_peers")


def note_peer(ledger: Ledger, op: NotePeer) -> None:
    """See `NotePeer`."""
    ledger.box(op.no)
    if ledger.writable:
        ledger.db.execute(
            "UPDATE peers SET last_seen = ?, client = coalesce(?, client), cwd = coalesce(?, cwd),"
            " git_branch = coalesce(?, git_branch) WHERE no = ?",
            (op.last_seen, op.client, op.cwd, op.git_branch, op.no),
        )


def remember_peer(ledger: Ledger, op: RememberPeer) -> None:
    """See `RememberPeer`."""
    ledger.box(op.no)
    if not ledger.writable:
        return
    db = ledger.db
    if op.identity:
        db.execute(
            "INSERT OR REPLACE INTO identities VALUES (?, ?, ?, ?)", (op.client, op.identity, op.no, op.at)
        )
        db.execute(
            "DELETE FROM identities WHERE (client, identity) IN (SELECT client, identity FROM identities"
            " WHERE no = ? ORDER BY at DESC LIMIT -1 OFFSET ?)",
            (op.no, IDENTITIES_PER_PEER),
        )
    if op.cwd:
        db.execute("INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?)", (op.client, op.cwd, op.no, op.at))


def rename_peer(ledger: Ledger, op: RenamePeer) -> None:
    """See `RenamePeer`. Who was named by a person is no longer automatically named."""
    db = ledger.db
    row = db.execute("SELECT name FROM peers WHERE no = ?", (op.no,)).fetchone()
    if row is None:
        raise RelayError("peer_gone", "that peer was removed: register again")
    old, new = names.key(row[0]), names.key(op.name)
    _refuse_taken(db, new, op.name, op.no)
    if old != new:
        db.execute("UPDATE names SET until = ? WHERE key = ?", (op.forward_until, old))
    db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?, 0)", (new, op.name, op.no))
    db.execute("UPDATE peers SET name = ?, auto = 0 WHERE no = ?", (op.name, op.no))
    db.execute("UPDATE blocks SET key = ?, address = ? WHERE no = ?", (new, op.name, op.no))


def drop_peers(ledger: Ledger, op: DropPeers) -> Dropped:
    """See `DropPeers`. Receipts of what they were sent stay their time."""
    db = ledger.db
    there = listed(
        db,
        "SELECT json_group_array(no) FROM peers WHERE hub = '' AND no IN (SELECT value FROM json_each(?))"
        " AND no NOT IN (SELECT no FROM group_members)",
        (as_json(op.nos),),
    )
    ledger.load(there)
    gone = tuple([no for no in there if not ledger.box(no)[0]])
    if gone:
        remove_rows(ledger, gone)
    return Dropped(gone)


def remove_rows(ledger: Ledger, nos: Sequence[int]) -> None:
    """Peers without mail go, with all that leads to them or is kept for them."""
    db = ledger.db
    keys = (as_json(nos),)
    db.execute(
        "UPDATE notices SET about ="
        " (SELECT name || iif(hub = '', '', '@' || hub) FROM peers WHERE no = about_no)"
        " WHERE about_no IN (SELECT value FROM json_each(?))",
        keys,
    )
    for table, column in (
        ("peers", "no"),
        ("names", "no"),
        ("identities", "no"),
        ("places", "no"),
        ("mailboxes", "box"),
        ("notices", "sender_no"),
        ("blocks", "no"),
        ("ops", "no"),
    ):
        db.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))", keys)
    for no in nos:
        ledger.drop_box(no)


def sweep_far(ledger: Ledger, before: int, most: int) -> int:
    """Peers of other hubs go that were not used since `before` (ms) and that nothing needs.

    That is: mail and lines of theirs that are here, mail that waits for them, a group, a block. A notice that
    names one keeps its name; a number is never given again. `most` at once; how many went.
    """
    db = ledger.db
    nos = listed(
        db,
        "SELECT json_group_array(no) FROM (SELECT p.no FROM peers AS p WHERE p.hub <> '' AND p.last_seen < ?"
        " AND NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.sender_no = p.no AND m.origin > 0)"
        " AND NOT EXISTS (SELECT 1 FROM outbox AS o JOIN hubs AS h ON h.no = o.hub_no"
        " WHERE h.key = p.hub AND o.box = p.no)"
        " AND NOT EXISTS (SELECT 1 FROM group_members AS g WHERE g.no = p.no)"
        " AND NOT EXISTS (SELECT 1 FROM blocks AS b WHERE b.no = p.no)"
        " AND p.no NOT IN (SELECT sender_no FROM group_log) LIMIT ?)",
        (before, most),
    )
    if nos:
        remove_rows(ledger, nos)
    return len(nos)


def snapshot(db: sqlite3.Connection) -> Snapshot:
    """See `Snapshot`."""
    members: dict[int, list[int]] = {}
    leaving: dict[int, list[int]] = {}
    for group_no, no, leaves in db.execute(
        "SELECT group_no, no, leaving FROM group_members ORDER BY group_no, place"
    ):
        (leaving if leaves else members).setdefault(group_no, []).append(no)
    return Snapshot(
        peers=tuple(
            PeerRow(
                no=no,
                peer_id=peer_id,
                name=name,
                auto=bool(auto),
                client=client,
                cwd=cwd,
                git_branch=git_branch,
                last_seen=last_seen,
                hub=hub,
            )
            for no, peer_id, name, auto, client, cwd, git_branch, last_seen, hub in db.execute(
                "SELECT no, peer_id, name, auto, client, cwd, git_branch, last_seen, hub"
                " FROM peers ORDER BY no"
            )
        ),
        forwards=tuple(db.execute("SELECT name, no, until FROM names WHERE until > 0 ORDER BY key")),
        identities=tuple(db.execute("SELECT client, identity, no FROM identities ORDER BY at")),
        places=tuple(db.execute("SELECT client, cwd, no FROM places ORDER BY client, cwd, no")),
        groups=tuple(
            GroupRow(
                no=no,
                group_id=group_id,
                name=name,
                admin_no=admin_no,
                members=tuple(members.get(no, ())),
                hub=hub,
                roster=_roster.decode(roster),
                leaving=tuple(leaving.get(no, ())),
            )
            for no, group_id, name, admin_no, hub, roster in db.execute(
                "SELECT no, group_id, name, admin_no, hub, roster FROM groups ORDER BY no"
            )
        ),
        hubs=store_links.snapshot(db),
        blocks=tuple(db.execute("SELECT address, coalesce(no, 0) FROM blocks ORDER BY key")),
    )
