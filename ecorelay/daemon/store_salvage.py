"""What can be read of a damaged hub.db goes into the new one: one bad page does not cost all mail.

The damaged file is not touched: a copy of it is read. Tables are read from both ends towards the damage, and
what lies between two damaged places row by row. Texts carry a checksum, so rows that rotted come along and
are found when they are read: then their senders are told.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ecorelay import names
from ecorelay.daemon import schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIX: Final = ".salvage"
"""Of the copy that is read."""
PARTS: Final = ("", "-wal")
LOOKED_UP_MAX: Final = 2_000_000
"""Rows of a table tried one by one, at most: some seconds."""
NUMBERS_SKIPPED: Final = 100_000
"""Numbers left out after the highest seen: those of what was lost are not given again."""
LOOKED_BEYOND: Final = 1_000
"""Rows tried after the highest number that is seen anywhere."""
_NUMBERED: Final = {
    "messages": ("mid", "messages.mid bodies.mid ring.mid"),
    "bodies": ("mid", "messages.mid bodies.mid ring.mid"),
    "peers": ("no", "peers.no names.no mailboxes.box"),
    "groups": ("no", "groups.no group_members.group_no"),
    "hubs": ("no", "hubs.no outbox.hub_no streams.hub_no"),
}
"""Tables with a number as their key: what lies between two damaged places can be asked for. And where such
numbers are seen."""


class Saved(NamedTuple):
    """How much of a damaged database is in the new one."""

    peers: int
    """Of this hub."""
    mails: int
    """Entries of mailboxes, with their texts."""
    lost: int
    """Entries of mailboxes without: whoever reads them makes that their senders are told."""

    def __str__(self) -> str:
        """For a person."""
        told = (
            f"; {self.lost} more could not (their senders are told when they are read)" if self.lost else ""
        )
        return f"{self.mails} messages and {self.peers} peers could be read and are in a new one{told}"


def salvage(damaged: Path, new: sqlite3.Connection) -> Saved:
    """Fill `new`, which has its tables and nothing in them, with what `damaged` still has.

    Args:
        damaged: the database, with its log beside it; not changed.
        new: in no transaction. Whatever is raised, it is as before.

    Raises:
        sqlite3.Error: nothing can be read.
        OSError: there is no room for the copy.
    """
    copies = [damaged.with_name(damaged.name + SUFFIX + part) for part in PARTS]
    try:
        for part, copy in zip(PARTS, copies, strict=True):
            copy.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                shutil.copyfile(damaged.with_name(damaged.name + part), copy)
        _mend_schema(copies[0], new)
        with closing(_open(copies[0])) as old:
            new.execute("BEGIN")
            try:
                _copy_tables(old, new)
                new.execute("CREATE INDEX ring_mid ON ring (mid)")
                _find_again(old, new)
                _make_consistent(new)
                new.execute("DROP INDEX ring_mid")
            except BaseException:
                new.execute("ROLLBACK")
                raise
            new.execute("COMMIT")
        return _counted(new)
    finally:
        for copy in copies:
            copy.unlink(missing_ok=True)


def _open(copy: Path) -> sqlite3.Connection:
    db = sqlite3.connect(copy.as_uri() + "?mode=rw", uri=True, isolation_level=None)
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    # Alone with it: no shared memory is made beside it.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    # Tables whose description cannot be understood are passed over, not all of them.
    db.execute("PRAGMA writable_schema = ON")
    return db


def _mend_schema(copy: Path, new: sqlite3.Connection) -> None:
    """What the tables are is known: a description that rotted is replaced by the true one."""
    with closing(_open(copy)) as old, suppress(sqlite3.Error):
        version = new.execute("PRAGMA user_version").fetchone()
        if old.execute("PRAGMA user_version").fetchone() != version:
            return
        for name, sql in new.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall():
            old.execute("UPDATE sqlite_master SET sql = ? WHERE name = ? AND sql <> ?", (sql, name, sql))


# --- reading -------------------------------------------------------------------------------------------


def _copy_tables(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    there = {row[0] for row in old.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    tables = new.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    for (table,) in tables.fetchall():
        if table not in there:
            continue  # an older version's
        known = [row[1] for row in old.execute(f"PRAGMA table_info({table})")]
        described = new.execute(f"PRAGMA table_info({table})").fetchall()
        columns = [row[1] for row in described if row[1] in known]
        key = [row[1] for row in sorted(described, key=lambda row: row[5]) if row[5]]
        if not set(key) <= set(columns):
            continue
        _copy_table(old, new, table, columns, key)


def _copy_table(
    old: sqlite3.Connection, new: sqlite3.Connection, table: str, columns: list[str], key: list[str]
) -> None:
    listed = ", ".join(columns)
    query = f"SELECT {listed} FROM {table} NOT INDEXED ORDER BY "
    put = f"INSERT OR IGNORE INTO {table} ({listed}) VALUES ({', '.join('?' * len(columns))})"
    if _put_all(new, put, _until_damage(old, query + ", ".join(key))):
        return
    _put_all(new, put, _until_damage(old, query + ", ".join(f"{each} DESC" for each in key)))
    if table in _NUMBERED:
        number, seen = _NUMBERED[table]
        one = f"SELECT {listed} FROM {table} NOT INDEXED WHERE {number} = ?"
        for each in range(1, min(_highest(old, seen.split()) + LOOKED_BEYOND, LOOKED_UP_MAX)):
            if not _has(new, table, number, each):
                _put_all(new, put, _until_damage(old, one, each))


def _highest(old: sqlite3.Connection, seen: list[str]) -> int:
    """The highest of these numbers; of a table whose end cannot be read, of what comes before that."""
    highest = 0
    for each in seen:
        table, _, column = each.partition(".")
        with suppress(sqlite3.Error):
            for (value,) in old.execute(f"SELECT {column} FROM {table} NOT INDEXED"):
                if isinstance(value, int) and value < 1 << 60:
                    highest = max(highest, value)
    return highest


def _has(db: sqlite3.Connection, table: str, number: str, value: int) -> bool:
    return db.execute(f"SELECT 1 FROM {table} WHERE {number} = ?", (value,)).fetchone() is not None


class _Damage(Exception):
    """Here the table cannot be read."""


def _until_damage(old: sqlite3.Connection, query: str, *parameters: int) -> Iterator[tuple[Any, ...]]:
    try:
        yield from old.execute(query, parameters)
    except (sqlite3.Error, OverflowError) as error:
        raise _Damage from error


def _put_all(new: sqlite3.Connection, put: str, rows: Iterator[tuple[Any, ...]]) -> bool:
    """Whether there was no damage. A row that the new table does not take is passed over."""
    try:
        for row in rows:
            with suppress(sqlite3.IntegrityError):
                new.execute(put, row)
    except _Damage:
        return False
    return True


def _find_again(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Entries of mailboxes that lie between two damaged places: messages tell where they belong."""
    missing = new.execute(
        "SELECT coalesce(m.box, j.value), m.mid FROM messages AS m JOIN bodies AS b USING (mid)"
        " LEFT JOIN json_each(iif(json_valid(m.boxes), m.boxes, '[]')) AS j"
        " WHERE coalesce(m.box, j.value) NOTNULL AND NOT EXISTS (SELECT 1 FROM ring AS r"
        " WHERE r.box = coalesce(m.box, j.value) AND r.state IN (0, 1) AND r.mid = m.mid)"
    ).fetchall()
    columns = ", ".join(row[1] for row in new.execute("PRAGMA table_info(ring)"))
    put = f"INSERT OR IGNORE INTO ring ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    for box, mid in missing[:LOOKED_UP_MAX]:
        for state in (schema.UNREAD, schema.SEEN):
            one = f"SELECT {columns} FROM ring WHERE box = ? AND state = {state} AND mid = ?"
            _put_all(new, put, _until_damage(old, one, box, mid))
    # A text stays only as long as a mailbox has it. Whether it was read is not known any more: it is shown
    # again, marked as handed out before.
    new.execute(
        "INSERT OR IGNORE INTO ring (box, state, mid, size, sender, shared, handed)"
        f" SELECT m.box, {schema.UNREAD}, m.mid, m.size, iif(m.origin, 0, m.sender_no), 0, 1"
        " FROM messages AS m JOIN bodies AS b USING (mid) WHERE m.box NOTNULL AND NOT EXISTS"
        " (SELECT 1 FROM ring AS r WHERE r.box = m.box AND r.state IN (0, 1) AND r.mid = m.mid)"
    )
    new.execute(
        "INSERT OR IGNORE INTO ring (box, state, mid, size, sender, shared, handed)"
        f" SELECT j.value, {schema.UNREAD}, m.mid, m.size, iif(m.origin, 0, m.sender_no), 1, 1"
        " FROM messages AS m JOIN bodies AS b USING (mid)"
        " CROSS JOIN json_each(iif(json_valid(m.boxes), m.boxes, '[]')) AS j"
        " WHERE m.boxes NOTNULL AND m.refs > (SELECT count(*) FROM ring AS r WHERE r.mid = m.mid)"
        " AND NOT EXISTS (SELECT 1 FROM ring AS r WHERE r.box = j.value AND r.mid = m.mid)"
        " AND NOT EXISTS (SELECT 1 FROM receipts AS d WHERE d.mid = m.mid AND d.box = j.value)"
    )


# --- putting in order ----------------------------------------------------------------------------------


def _make_consistent(new: sqlite3.Connection) -> None:
    """Nothing names what is not there; counters count what is there; no number is given twice."""
    for number, peer_id, hub, name in new.execute("SELECT no, peer_id, hub, name FROM peers").fetchall():
        if not names.is_name(name) or "\ufffd" in peer_id + hub:
            new.execute("DELETE FROM peers WHERE no = ?", (number,))
    for name_key, name in new.execute("SELECT key, name FROM names").fetchall():
        if not names.is_name(name) or names.key(name) != name_key:
            new.execute("DELETE FROM names WHERE key = ?", (name_key,))
    for statement in _IN_ORDER.split(";"):
        new.execute(statement)
    _number_again(new)
    for statement in _COUNTED.split(";"):
        new.execute(statement)


def _number_again(new: sqlite3.Connection) -> None:
    """A link sends what has consecutive numbers: those are new, so that none is given twice."""
    for no, last_seq in new.execute("SELECT no, last_seq FROM hubs").fetchall():
        rows = new.execute("SELECT seq FROM outbox WHERE hub_no = ? ORDER BY seq", (no,)).fetchall()
        last = max([last_seq, *[seq for (seq,) in rows]])
        for place, (seq,) in enumerate(rows, last + 1):
            new.execute("UPDATE outbox SET seq = ? WHERE hub_no = ? AND seq = ?", (place, no, seq))
        new.execute("UPDATE hubs SET last_seq = ? WHERE no = ?", (last + len(rows), no))


_LOCAL: Final = "SELECT no FROM peers WHERE hub = ''"
_IN_ORDER: Final = f"""
-- A peer whose row is gone and whose name is there is the same peer to all but its own session.
INSERT OR IGNORE INTO peers (no, peer_id, hub, name, created, last_seen)
    SELECT no, lower(hex(randomblob(13))), '', name, 0, 0 FROM names WHERE until = 0;
INSERT OR IGNORE INTO names (key, name, no) SELECT lower(name), name, no FROM peers WHERE hub = ''
    AND no NOT IN (SELECT no FROM names WHERE until = 0);
DELETE FROM names WHERE no NOT IN ({_LOCAL});
DELETE FROM peers WHERE hub = '' AND no NOT IN (SELECT no FROM names WHERE until = 0);
DELETE FROM identities WHERE no NOT IN ({_LOCAL});
DELETE FROM places WHERE no NOT IN ({_LOCAL});
DELETE FROM blocks WHERE no NOTNULL AND no NOT IN ({_LOCAL});
DELETE FROM ops WHERE no NOT IN ({_LOCAL});
DELETE FROM ring WHERE state NOT IN (0, 1) OR box NOT IN ({_LOCAL});
-- Of one message, one entry: what is unread stays so.
DELETE FROM ring WHERE state = 0 AND EXISTS
    (SELECT 1 FROM ring AS r WHERE r.box = ring.box AND r.state = 1 AND r.mid = ring.mid);
DELETE FROM mailboxes;
INSERT INTO mailboxes SELECT p.no, count(r.mid), coalesce(sum(r.size), 0), coalesce(sum(r.state = 1), 0)
    FROM peers AS p LEFT JOIN ring AS r ON r.box = p.no WHERE p.hub = '' GROUP BY p.no;
UPDATE messages SET refs = (SELECT count(*) FROM ring AS r WHERE r.mid = messages.mid AND r.shared)
    WHERE boxes NOTNULL;
DELETE FROM group_members WHERE group_no NOT IN (SELECT no FROM groups) OR no NOT IN (SELECT no FROM peers);
DELETE FROM groups WHERE hub = '' AND admin_no NOT IN (SELECT no FROM peers);
DELETE FROM group_members WHERE group_no NOT IN (SELECT no FROM groups);
DELETE FROM group_log WHERE group_no NOT IN (SELECT no FROM groups);
UPDATE groups SET last = max(last, coalesce((SELECT max(seq) FROM group_log WHERE group_no = no), 0)),
    first = coalesce((SELECT min(seq) FROM group_log WHERE group_no = no), last + 1),
    bytes = coalesce((SELECT sum(size) FROM group_log WHERE group_no = no), 0);
DELETE FROM directory WHERE hub_no NOT IN (SELECT no FROM hubs);
UPDATE hubs SET complete = 0;
-- Under a new stream all is sent once more, and known by its id.
DELETE FROM outbox WHERE hub_no NOT IN (SELECT no FROM hubs);
DELETE FROM streams WHERE direction = 0 OR hub_no NOT IN (SELECT no FROM hubs)
"""
_COUNTED: Final = f"""
UPDATE hubs SET outbox_bytes = coalesce((SELECT sum(size) FROM outbox WHERE hub_no = no), 0);
DELETE FROM meta WHERE key NOT IN ('created', 'last_mid');
INSERT OR REPLACE INTO meta VALUES ('clean', 1);
INSERT OR REPLACE INTO meta SELECT 'last_mid', {NUMBERS_SKIPPED} + max(
    coalesce((SELECT value FROM meta WHERE key = 'last_mid' AND typeof(value) = 'integer'), 0),
    coalesce((SELECT max(mid) FROM messages), 0), coalesce((SELECT max(mid) FROM bodies), 0),
    coalesce((SELECT max(mid) FROM ring), 0), coalesce((SELECT max(mid) FROM receipts), 0));
UPDATE sqlite_sequence SET seq = seq + {NUMBERS_SKIPPED}
"""


def _counted(new: sqlite3.Connection) -> Saved:
    [peers] = new.execute("SELECT count(*) FROM peers WHERE hub = ''").fetchone()
    entries, whole = new.execute(
        "SELECT count(*), count(b.mid AND m.mid) FROM ring AS r LEFT JOIN bodies AS b ON b.mid = r.mid"
        " LEFT JOIN messages AS m ON m.mid = r.mid"
    ).fetchone()
    return Saved(peers, whole, entries - whole)
