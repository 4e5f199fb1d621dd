"""Groups: members with a cursor each, and a numbered history that is a ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ecorelay import link_wire, names
from ecorelay.core.link_ops import FarPeer
from ecorelay.core.ops import (
    ENTRY_ROOM,
    AddMember,
    AppendGroup,
    CreateGroup,
    CursorMoved,
    DropGroup,
    GroupMade,
    HistoryRead,
    Line,
    LineAdded,
    MoveCursor,
    OutRow,
    ReadHistory,
    RemoveMember,
    StoredLine,
)
from ecorelay.daemon import store_group_out, store_links, store_ring
from ecorelay.daemon.schema import KIND_NUMBERS, SYSTEM
from ecorelay.daemon.store_mail import find_known
from ecorelay.daemon.store_sql import as_json, insert_rows, listed, one
from ecorelay.daemon.store_text import checksum, json_length, readable
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    import sqlite3

    from ecorelay.core.ops import FarMember
    from ecorelay.daemon.store_ledger import Ledger

_GROUP: Final = KIND_NUMBERS["group"]

# Lines beyond the cursor, less its own among them. Only a member that spoke without having read
# everything has any, so the log is hardly ever read for it.
_UNREAD: Final = (
    "g.last - max(m.cursor, g.first - 1) - iif(m.own_last > m.cursor, (SELECT count(*) FROM group_log AS l"
    " WHERE l.group_no = m.group_no AND l.seq > m.cursor AND l.sender_no = m.no), 0)"
)


class History(NamedTuple):
    """A group's ring: lines `first` to `last`. `far`: members that are peers of other hubs."""

    first: int
    last: int
    bytes: int
    far: int = 0


def find(db: sqlite3.Connection, no: int) -> History:
    """The ring of a group.

    Raises:
        RelayError: ``group_not_found``.
    """
    row = db.execute("SELECT first, last, bytes, far FROM groups WHERE no = ?", (no,)).fetchone()
    if row is None:
        raise RelayError("group_not_found", "that group was deleted: relay_group_list has yours")
    return History(*row)


def _cursor(db: sqlite3.Connection, group_no: int, no: int) -> int:
    found: int | None = one(
        db, "SELECT cursor FROM group_members WHERE group_no = ? AND no = ? AND NOT leaving", (group_no, no)
    )
    if found is None:
        raise RelayError("not_member", "you are not in that group: ask its admin to invite you")
    return found


def unread_by_group(db: sqlite3.Connection, no: int) -> tuple[tuple[int, int], ...]:
    """(group no, unread lines) of every group in which this peer has any."""
    found = listed(
        db,
        "SELECT json_group_array(json_array(no, unread)) FROM"
        f" (SELECT g.no AS no, {_UNREAD} AS unread FROM group_members AS m"
        " CROSS JOIN groups AS g ON g.no = m.group_no WHERE m.no = ? AND NOT m.leaving)"
        " WHERE unread > 0",
        (no,),
    )
    return tuple([(group_no, unread) for group_no, unread in found])


# --- members ---------------------------------------------------------------------------------------------


def create_group(ledger: Ledger, op: CreateGroup) -> GroupMade:
    """See `CreateGroup`."""
    db = ledger.db
    key = names.key(op.name)
    if one(db, "SELECT 1 FROM groups WHERE hub = '' AND key = ?", (key,)):
        raise RelayError("name_taken", f"there is a group called {op.name}: choose another name")
    members = (op.admin_no, *[no for no in op.members if no != op.admin_no])
    for no in members:
        ledger.box(no)
    _refuse_known(ledger, op.line)
    far = [_far_no(ledger, each, op.line) for each in op.far]
    group_no = db.execute(
        "INSERT INTO groups (group_id, key, name, admin_no, far) VALUES (?, ?, ?, ?, ?)",
        (op.group_id, key, op.name, op.admin_no, len(far)),
    ).lastrowid
    if group_no is None:  # pragma: no cover
        raise AssertionError("SQLite gives a row number to every new row")
    insert_rows(
        db,
        "group_members (group_no, no, place, cursor)",
        [(group_no, no, place, 0) for place, no in enumerate((*members, *far))],
    )
    seq = add_line(ledger, group_no, History(1, 0, 0), op.line).seq
    outs: tuple[OutRow, ...] = ()
    if far:
        hubs = store_group_out.hubs_of(db, group_no)
        outs = store_group_out.tell(ledger, group_no, op.line, seq, hubs, changed=True)
    return GroupMade(group_no, seq, tuple(far), outs)


def _far_no(ledger: Ledger, member: FarMember, line: Line) -> int:
    return store_links.far_no(
        ledger, member.hub_no, FarPeer(name=member.name, peer_id=member.peer_id), line.at
    )


def add_member(ledger: Ledger, op: AddMember) -> LineAdded:
    """See `AddMember`."""
    db = ledger.db
    history = find(db, op.group_no)
    no = op.no if op.far is None else _far_no(ledger, op.far, op.line)
    if one(db, "SELECT 1 FROM group_members WHERE group_no = ? AND no = ?", (op.group_no, no)):
        return LineAdded(0, no=no if op.far is not None else 0)
    if op.far is None:
        ledger.box(no)
    _refuse_known(ledger, op.line)
    added = add_line(ledger, op.group_no, history, op.line)
    own_last = added.seq if op.line.sender_no == no else 0
    db.execute(
        "INSERT INTO group_members (group_no, no, place, cursor, own_last)"
        " SELECT ?1, ?2, coalesce(max(place), 0) + 1, ?3, ?4 FROM group_members WHERE group_no = ?1",
        (op.group_no, no, added.seq - 1, own_last),
    )
    if op.far is not None:
        db.execute("UPDATE groups SET far = far + 1 WHERE no = ?", (op.group_no,))
    elif not history.far:
        return added
    hubs = store_group_out.hubs_of(db, op.group_no)
    outs = store_group_out.tell(ledger, op.group_no, op.line, added.seq, hubs, changed=True)
    return LineAdded(added.seq, own_read=added.own_read, outs=outs, no=no if op.far is not None else 0)


def remove_member(ledger: Ledger, op: RemoveMember) -> LineAdded:
    """See `RemoveMember`."""
    db = ledger.db
    history = find(db, op.group_no)
    if not one(db, "SELECT 1 FROM group_members WHERE group_no = ? AND no = ?", (op.group_no, op.no)):
        raise RelayError("not_member", "that peer is not in the group: relay_group_info lists who is")
    _refuse_known(ledger, op.line)
    hubs = store_group_out.hubs_of(db, op.group_no) if history.far else []
    db.execute("DELETE FROM group_members WHERE group_no = ? AND no = ?", (op.group_no, op.no))
    added = add_line(ledger, op.group_no, history, op.line)
    if not history.far:
        return added
    far_id = one(db, "SELECT peer_id FROM peers WHERE no = ? AND hub <> ''", (op.no,))
    if far_id is not None:
        db.execute("UPDATE groups SET far = far - 1 WHERE no = ?", (op.group_no,))
    removed = {} if op.reason is None else {"removed": far_id, "reason": op.reason}
    outs = store_group_out.tell(ledger, op.group_no, op.line, added.seq, hubs, changed=True, **removed)
    return LineAdded(added.seq, own_read=added.own_read, outs=outs)


def drop_group(ledger: Ledger, op: DropGroup) -> LineAdded | None:
    """See `DropGroup`."""
    db = ledger.db
    history = find(db, op.group_no)
    outs: tuple[OutRow, ...] = ()
    if history.far and op.farewell is not None:
        line = op.farewell
        group_id, name = db.execute(
            "SELECT group_id, name FROM groups WHERE no = ?", (op.group_no,)
        ).fetchone()
        body = link_wire.GroupEndBody(group=group_id, name=name, by=line.sender)
        hubs = store_group_out.hubs_of(db, op.group_no)
        outs = store_group_out.put_all(ledger, hubs, line.msg_id, 0, body, line.at)
    drop(db, op.group_no)
    return LineAdded(0, outs=outs) if outs else None


def drop(db: sqlite3.Connection, group_no: int) -> None:
    """A group goes, with its history and cursors."""
    key = (group_no,)
    db.execute("DELETE FROM bodies WHERE mid IN (SELECT mid FROM group_log WHERE group_no = ?)", key)
    db.execute("DELETE FROM group_log WHERE group_no = ?", key)
    db.execute("DELETE FROM group_members WHERE group_no = ?", key)
    db.execute("DELETE FROM groups WHERE no = ?", key)


# --- lines -----------------------------------------------------------------------------------------------


def append_group(ledger: Ledger, op: AppendGroup) -> LineAdded:
    """See `AppendGroup`."""
    line = op.line
    history = find(ledger.db, op.group_no)
    _cursor(ledger.db, op.group_no, line.sender_no)
    if find_known(ledger, line.msg_id):
        return _known_line(ledger, op)
    added = add_line(ledger, op.group_no, history, line)
    if not history.far:
        return added
    hubs = store_group_out.hubs_of(ledger.db, op.group_no)
    outs = store_group_out.tell(ledger, op.group_no, line, added.seq, hubs)
    return LineAdded(added.seq, own_read=added.own_read, outs=outs)


def _refuse_known(ledger: Ledger, line: Line) -> None:
    if find_known(ledger, line.msg_id):
        raise RelayError("bad_msg", "msg_id was used for another message: make a new one for each")


def _known_line(ledger: Ledger, op: AppendGroup) -> LineAdded:
    line = op.line
    text = line.text.encode()
    group_no, seq, kind, sender_no, sender, size, check = ledger.db.execute(
        "SELECT group_no, seq, kind, sender_no, sender, size, checksum FROM messages"
        " WHERE msg_id = ? AND origin = 0",
        (line.msg_id,),
    ).fetchone()
    same = (group_no, sender_no, size) == (op.group_no, line.sender_no, len(text))
    if not same or check != checksum(line.msg_id, kind, sender, None, None, text):
        raise RelayError("bad_msg", "msg_id was used for another message: make a new one for each")
    return LineAdded(seq, duplicate=True)


def add_line(
    ledger: Ledger,
    group_no: int,
    history: History,
    line: Line,
    *,
    origin: int = 0,
    kept: bool = True,
    moves: bool = True,
) -> LineAdded:
    """Number and store a line, move its author's cursor, trim the ring.

    Args:
        ledger: the open transaction.
        group_no: of the group.
        history: its ring.
        line: its id is new for this origin.
        origin: see `messages.origin`.
        kept: False: only that there was such a line, not its text.
        moves: False: the author is a peer of another hub, and has no cursor.
    """
    db = ledger.db
    text = line.text.encode() if kept else b""
    kind = SYSTEM if line.system else _GROUP
    mid = ledger.take_mids(1)
    seq = history.last + 1
    db.execute(
        "INSERT INTO messages (mid, msg_id, origin, kind, sender_no, sender, at, size, checksum, refs,"
        " group_no, seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?)",
        (
            mid,
            line.msg_id,
            origin,
            kind,
            line.sender_no,
            line.sender,
            line.at,
            len(text),
            checksum(line.msg_id, kind, line.sender, None, None, text),
            group_no,
            seq,
        ),
    )
    ledger.stored_mid = mid
    ledger.note_time(line.at)
    if kept:
        db.execute("INSERT INTO bodies VALUES (?, ?)", (mid, text))
    db.execute(
        "INSERT INTO group_log (group_no, seq, mid, sender_no, size) VALUES (?, ?, ?, ?, ?)",
        (group_no, seq, mid, line.sender_no, len(text)),
    )
    first, size = trim(ledger, group_no, History(history.first, seq, history.bytes + len(text)))
    db.execute("UPDATE groups SET first = ?, last = ?, bytes = ? WHERE no = ?", (first, seq, size, group_no))
    if not moves:
        return LineAdded(seq)
    moved = db.execute(
        "UPDATE group_members SET cursor = iif(cursor = ?1 - 1, ?1, cursor), own_last = ?1"
        " WHERE group_no = ?2 AND no = ?3 RETURNING cursor",
        (seq, group_no, line.sender_no),
    ).fetchall()
    return LineAdded(seq, own_read=bool(moved) and moved[0][0] == seq)


def trim(ledger: Ledger, group_no: int, history: History) -> tuple[int, int]:
    """Take out the oldest lines that no longer fit, never the newest.

    Returns:
        The first line left, and the bytes of all that are.
    """
    db, limits = ledger.db, ledger.limits
    first, last, size, _ = history
    cut = last + 1 - limits.mailbox_messages
    if cut > first:
        size -= _drop_lines(db, group_no, cut)
        first = cut
    if size > limits.mailbox_bytes and first < last:
        found: int | None = one(
            db,
            "SELECT seq + 1 FROM (SELECT seq, sum(size) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS size"
            " FROM group_log WHERE group_no = ? AND seq < ?) WHERE size >= ? LIMIT 1",
            (group_no, last, size - limits.mailbox_bytes),
        )
        first = found or last
        size -= _drop_lines(db, group_no, first)
    return first, size


def _drop_lines(db: sqlite3.Connection, group_no: int, before: int) -> int:
    """Take out the lines below `before`; their bytes."""
    mids, size = db.execute(
        "SELECT json_group_array(mid), total(size) FROM group_log WHERE group_no = ? AND seq < ?",
        (group_no, before),
    ).fetchone()
    db.execute("DELETE FROM bodies WHERE mid IN (SELECT value FROM json_each(?))", (mids,))
    db.execute("DELETE FROM group_log WHERE group_no = ? AND seq < ?", (group_no, before))
    return int(size)


class Cut(NamedTuple):
    """What `cut_old` did: lines looked at, lines removed with their bytes; whether it has to come again."""

    looked: int
    lines: int
    bytes: int
    more: bool


def cut_old(ledger: Ledger, group_no: int, before: int, rows: int, size: int) -> Cut:
    """Remove lines older than `before` (ms) from a group's history.

    A line that stands after a younger one (a clock was set wrong) loses its text and keeps its place, since
    the lines of a history have no gaps between their numbers.

    Args:
        ledger: the open transaction.
        group_no: of the group.
        before: ms.
        rows: look at so many lines at most, but at one.
        size: remove no more than so many bytes of text, but one line.
    """
    db = ledger.db
    found = listed(
        db,
        "SELECT json_group_array(json_array(l.seq, l.mid, l.size, coalesce(m.at < ?, 1), b.mid NOTNULL)) FROM"
        " (SELECT seq, mid, size FROM group_log WHERE group_no = ? ORDER BY seq LIMIT ?) AS l"
        " LEFT JOIN messages AS m ON m.mid = l.mid LEFT JOIN bodies AS b ON b.mid = l.mid",
        (before, group_no, rows),
    )
    found.sort()
    leading, later, cut_bytes, more = 0, [], 0, len(found) >= rows
    for place, (_, mid, length, old, has_text) in enumerate(found):
        if not old:
            continue
        if leading == place:
            leading += 1
        elif has_text:
            later.append(mid)
        else:
            continue
        cut_bytes += length
        if cut_bytes >= size:
            more = True
            break
    if leading:
        first = found[leading - 1][0] + 1
        dropped = _drop_lines(db, group_no, first)
        db.execute("UPDATE groups SET first = ?, bytes = bytes - ? WHERE no = ?", (first, dropped, group_no))
    if later:
        db.execute("DELETE FROM bodies WHERE mid IN (SELECT value FROM json_each(?))", (as_json(later),))
    return Cut(len(found), leading + len(later), cut_bytes, more and bool(leading or later))


def unread_of_members(db: sqlite3.Connection, group_no: int) -> list[tuple[int, int, int]]:
    """(group no, member no, unread lines) of every member."""
    found = listed(
        db,
        f"SELECT json_group_array(json_array(m.group_no, m.no, {_UNREAD})) FROM group_members AS m"
        " CROSS JOIN groups AS g ON g.no = m.group_no WHERE m.group_no = ?",
        (group_no,),
    )
    return [(group, no, max(0, unread)) for group, no, unread in found]


# --- reading ---------------------------------------------------------------------------------------------


def read_history(ledger: Ledger, op: ReadHistory) -> HistoryRead:
    """See `ReadHistory`. Damaged lines count as missed."""
    db = ledger.db
    history = find(db, op.group_no)
    start = max(_cursor(db, op.group_no, op.no), op.after)
    lines: list[StoredLine] = []
    damaged: list[tuple[int, int]] = []
    upto, used = start, 0
    cursor = db.execute(
        "SELECT l.seq, l.mid, l.sender_no, m.msg_id, m.kind, m.sender, m.at, m.checksum, b.text"
        " FROM group_log AS l LEFT JOIN messages AS m ON m.mid = l.mid LEFT JOIN bodies AS b ON b.mid = l.mid"
        " WHERE l.group_no = ? AND l.seq > ? ORDER BY l.seq LIMIT ?",
        (op.group_no, start, op.limit),
    )
    for seq, mid, sender_no, msg_id, kind, sender, at, check, data in cursor:
        text = None if msg_id is None else readable(data, check, (msg_id, kind, sender, None, None))
        if text is None:
            if data is not None:  # else it is known, and its author was told
                damaged.append((mid, sender_no))
            upto = seq
            continue
        used += ENTRY_ROOM + json_length(text, len(data))
        if lines and used > op.budget:
            break
        lines.append(
            StoredLine(seq=seq, msg_id=msg_id, sender=sender, text=text, at=at, system=kind == SYSTEM)
        )
        upto = seq
    cursor.close()
    if damaged and ledger.writable:
        _bury_lines(ledger, op.no, damaged)
    # What lies between the reader's place and the end of the page, and is not in it.
    missed = max(0, upto - start - len(lines)) if upto > start else 0
    return HistoryRead(
        lines=tuple(lines),
        upto=upto,
        remaining=_remaining(db, op.group_no, op.no, upto, history),
        missed=missed,
    )


def _remaining(db: sqlite3.Connection, group_no: int, no: int, upto: int, history: History) -> int:
    """Lines of others after `upto`."""
    if upto >= history.last:
        return 0
    own: int = one(
        db,
        "SELECT count(*) FROM group_log WHERE group_no = ? AND seq > ? AND sender_no = ?",
        (group_no, upto, no),
    )
    return history.last - max(upto, history.first - 1) - own


def _bury_lines(ledger: Ledger, reader: int, damaged: list[tuple[int, int]]) -> None:
    """The texts go, their places stay; each author is told once, about whoever found it."""
    keys = as_json([mid for mid, _ in damaged])
    ledger.db.execute("DELETE FROM bodies WHERE mid IN (SELECT value FROM json_each(?))", (keys,))
    for _, author in damaged:
        store_ring.tell(ledger, {(author, reader): (1, ledger.latest)}, "damaged")


def move_cursor(ledger: Ledger, op: MoveCursor) -> CursorMoved:
    """See `MoveCursor`."""
    db = ledger.db
    history = find(db, op.group_no)
    cursor = _cursor(db, op.group_no, op.no)
    upto = min(op.upto, history.last)
    if upto > cursor:
        db.execute(
            "UPDATE group_members SET cursor = ? WHERE group_no = ? AND no = ?", (upto, op.group_no, op.no)
        )
    return CursorMoved(_remaining(db, op.group_no, op.no, max(upto, cursor), history))
