"""Groups across hubs: what members elsewhere say in ours, and our replicas of those that live elsewhere.

A replica holds lines that the home numbered, in that order and without gaps, so that everything that reads a
group reads it like one of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from ecorelay import link_wire, names
from ecorelay.core import group_events
from ecorelay.core.group_ops import (
    CopiedLine,
    FarOp,
    Head,
    Heads,
    Left,
    LinesRead,
    TakeEnd,
    TakeLeave,
    TakeLine,
    Taken,
    TakePost,
)
from ecorelay.core.link_ops import FarPeer
from ecorelay.core.ops import Line, LineAdded, RemoveMember
from ecorelay.daemon import store_group_out, store_groups, store_links, store_mail
from ecorelay.daemon.schema import SYSTEM
from ecorelay.daemon.store_group_out import id_of
from ecorelay.daemon.store_groups import History
from ecorelay.daemon.store_sql import as_json, insert_rows, one
from ecorelay.daemon.store_text import checksum, readable
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from ecorelay.core.group_ops import (
        Leave,
        ReadHeads,
        ReadLines,
        Replica,
        Roster,
        SendLeaves,
        TakePage,
    )
    from ecorelay.core.link_ops import ForgetHub, OutSettled, Receive, Received
    from ecorelay.core.ops import Appended, AppendMail, OutRow
    from ecorelay.daemon.store_ledger import Ledger

_members: Final = msgspec.json.Decoder(tuple[link_wire.GroupMember, ...])
_NOBODY: Final = "removed"
"""Stands for the author of a line of which nothing is left."""


# --- at the home -----------------------------------------------------------------------------------------


def take_post(ledger: Ledger, op: TakePost) -> LineAdded:
    """See `TakePost`."""
    db, line = ledger.db, op.line
    known = db.execute(
        "SELECT origin, group_no, coalesce(seq, 0), sender_no FROM messages WHERE msg_id = ?", (line.msg_id,)
    ).fetchall()
    if known:
        origin, group_no, seq, sender_no = known[0]
        if len(known) > 1 or (origin, group_no, sender_no) != (op.hub_no, op.group_no, line.sender_no):
            raise RelayError("bad_msg", "msg_id was used for another message: make a new one for each")
        return LineAdded(seq, duplicate=True)
    history = store_groups.find(db, op.group_no)
    if not one(
        db, "SELECT 1 FROM group_members WHERE group_no = ? AND no = ?", (op.group_no, line.sender_no)
    ):
        raise RelayError("not_member", f"{line.sender} is not in that group any more")
    added = store_groups.add_line(ledger, op.group_no, history, line, origin=op.hub_no, moves=False)
    hubs = store_group_out.hubs_of(db, op.group_no)
    return LineAdded(added.seq, outs=store_group_out.tell(ledger, op.group_no, line, added.seq, hubs))


def take_leave(ledger: Ledger, op: TakeLeave) -> LineAdded:
    """See `TakeLeave`."""
    since = one(
        ledger.db, "SELECT cursor FROM group_members WHERE group_no = ? AND no = ?", (op.group_no, op.no)
    )
    if since is not None and since > op.since:
        raise RelayError("not_member", "it was invited again since then")
    return store_groups.remove_member(ledger, RemoveMember(group_no=op.group_no, no=op.no, line=op.line))


def read_heads(ledger: Ledger, op: ReadHeads) -> Heads:
    """See `ReadHeads`."""
    db = ledger.db
    heads: list[Head] = []
    for no in store_group_out.groups_of(db, op.hub_no) if op.hub_no else op.group_nos:
        row = db.execute("SELECT hub, last, roster FROM groups WHERE no = ?", (no,)).fetchone()
        if row is not None:
            hub, last, told = row
            members = _members.decode(told) if hub else store_group_out.roster(db, no)
            heads.append(Head(no, last, id_of(db, no, last), store_group_out.checksum(members)))
    return Heads(tuple(heads))


def read_lines(ledger: Ledger, op: ReadLines) -> LinesRead:
    """See `ReadLines`."""
    db = ledger.db
    history = store_groups.find(db, op.group_no)
    start = op.after
    have = id_of(db, op.group_no, start)
    astray = have and op.after_id and have != op.after_id
    if astray or not history.first - 1 <= start <= history.last:
        start = history.first - 1
    since = store_group_out.since(db, op.group_no, op.hub_no)
    lines: list[link_wire.GroupLine] = []
    size, more = 0, False
    cursor = db.execute(
        "SELECT l.seq, m.msg_id, m.kind, m.sender, m.at, m.checksum, b.text, p.peer_id, h.hub_id"
        " FROM group_log AS l LEFT JOIN messages AS m ON m.mid = l.mid LEFT JOIN bodies AS b ON b.mid = l.mid"
        " LEFT JOIN peers AS p ON p.no = l.sender_no LEFT JOIN hubs AS h ON h.key = p.hub"
        " WHERE l.group_no = ? AND l.seq > ? ORDER BY l.seq LIMIT ?",
        (op.group_no, start, op.max_count + 1),
    )
    for seq, msg_id, kind, sender, at, check, data, peer_id, hub_id in cursor:
        size += len(data or b"")
        if len(lines) >= op.max_count or (lines and size > op.max_bytes):
            more = True
            break
        if msg_id is None or since is None or seq <= since:
            lines.append(link_wire.GroupLine(seq=seq, msg_id=msg_id or _id_of_nothing(seq), author=_NOBODY))
            continue
        text = readable(data, check, (msg_id, kind, sender, None, None))
        lines.append(
            link_wire.GroupLine(
                seq=seq,
                msg_id=msg_id,
                author=sender.partition("@")[0],
                author_id=peer_id,
                author_hub=hub_id,
                age_ms=max(0, op.now - at),
                **group_events.told_as(sender, text, event=kind == SYSTEM),
            )
        )
    cursor.close()
    members = store_group_out.roster(db, op.group_no)
    return LinesRead(tuple(lines), history.last, members, more)


def _id_of_nothing(seq: int) -> str:
    return names.new_id(0, lambda _: seq)


# --- durable frames ----------------------------------------------------------------------------------------


def receive(ledger: Ledger, op: Receive) -> Received:
    """See `Receive`."""
    return store_links.receive(ledger, op, _take)


def _take(ledger: Ledger, op: FarOp) -> tuple[Any, str, str]:
    """What a frame about groups asks for. Refused, it leaves no trace, though the frame is taken."""
    mark, stored_mid = ledger.mark(), ledger.stored_mid
    ledger.db.execute("SAVEPOINT far")
    try:
        return _TAKES[type(op)](ledger, op), "", ""
    except RelayError as error:
        ledger.db.execute("ROLLBACK TO far")
        ledger.undo(mark)
        ledger.stored_mid = stored_mid
        return None, error.code, error.message
    finally:
        ledger.db.execute("RELEASE far")


# --- replicas: lines ---------------------------------------------------------------------------------------


def _find(db: sqlite3.Connection, hub: str, group_id: str) -> tuple[int, History] | None:
    row = db.execute(
        "SELECT no, first, last, bytes FROM groups WHERE hub = ? AND group_id = ?", (hub, group_id)
    ).fetchone()
    return None if row is None else (row[0], History(*row[1:]))


def _has_room(ledger: Ledger, hub: str) -> bool:
    """Whether there may be one more replica of a group of that hub."""
    return bool(one(ledger.db, "SELECT count(*) FROM groups WHERE hub = ?", (hub,)) < ledger.limits.groups)


def _make(ledger: Ledger, replica: Replica, hub: str, first: int) -> tuple[int, int]:
    """A new replica that begins with line `first`.

    Returns:
        Its number, and that of another one of that name, which is gone: a home has one group of a name.
    """
    db = ledger.db
    key = names.key(replica.name)
    before: int = one(db, "SELECT no FROM groups WHERE hub = ? AND key = ?", (hub, key)) or 0
    if before:
        store_groups.drop(db, before)
    no = db.execute(
        "INSERT INTO groups (group_id, hub, key, name, admin_no, first, last) VALUES (?, ?, ?, ?, 0, ?, ?)",
        (replica.group_id, hub, key, replica.name, first, first - 1),
    ).lastrowid
    assert no is not None, "SQLite gives a row number to every new row"
    return no, before


def _authored(ledger: Ledger, line: CopiedLine, replica: Replica, home: str) -> tuple[CopiedLine, int]:
    """A line as its author may be shown, and the number of that author.

    0: a peer of a hub that we do not know of, or that never told of it; one of ours that did not send this.
    """
    db, author = ledger.db, line.author
    if author.no:
        sent_as = _sent_here(db, line, replica.group_id)
        if sent_as is not None:
            return msgspec.structs.replace(line, sender=sent_as), author.no
        return msgspec.structs.replace(line, author=msgspec.structs.replace(author, no=0)), 0
    if not author.peer_id:
        return line, 0
    if author.hub == home:
        far = FarPeer(name=author.name, peer_id=author.peer_id)
        return line, store_links.far_no(ledger, replica.hub_no, far, line.at)
    # The home speaks for its own peers only: who others are called is their hubs' word.
    row = db.execute(
        "SELECT h.no, d.name, h.hub_id FROM hubs AS h JOIN directory AS d ON d.hub_no = h.no"
        " WHERE h.key = ? AND d.peer_id = ?",
        (author.hub, author.peer_id),
    ).fetchone()
    if row is None:
        return line, 0
    hub_no, name, hub_id = row
    no = store_links.far_no(ledger, hub_no, FarPeer(name=name, peer_id=author.peer_id), line.at)
    return msgspec.structs.replace(line, sender=f"{name}@{hub_id}"), no


def _sent_here(db: sqlite3.Connection, line: CopiedLine, group_id: str) -> str | None:
    """Under what name the peer of ours that is said to be the author sent this there; None: it did not.

    The checksum is against mistakes; what was said since the start is compared by `ecorelay.core.said`.
    """
    row = db.execute(
        "SELECT m.sender, m.kind, m.reply_to, m.broadcast_id, m.checksum FROM messages AS m"
        " JOIN peers AS p ON p.no = m.box WHERE m.msg_id = ? AND m.origin = 0 AND m.sender_no = ?"
        " AND p.peer_id = ?",
        (line.msg_id, line.author.no, f"#{group_id}"),
    ).fetchone()
    if row is None:
        return None
    sender, kind, reply_to, broadcast_id, check = row
    text = None if line.text is None else line.text.encode()
    if text is not None and check != checksum(line.msg_id, kind, sender, reply_to, broadcast_id, text):
        return None
    return str(sender)


def _append(
    ledger: Ledger, group_no: int, history: History, line: CopiedLine, author_no: int
) -> tuple[History, CopiedLine]:
    """Store the next line of a replica. One whose id stands for another line already loses its text."""
    db = ledger.db
    origin = -group_no
    known = one(db, "SELECT 1 FROM messages WHERE msg_id = ? AND origin = ?", (line.msg_id, origin))
    if known:
        return _skip_to(ledger, group_no, history, line.seq), msgspec.structs.replace(line, text=None)
    stored = Line(
        msg_id=line.msg_id,
        sender_no=author_no,
        sender=line.sender,
        text=line.text or "",
        at=line.at,
        system=line.system,
    )
    store_groups.add_line(
        ledger,
        group_no,
        history,
        stored,
        origin=origin,
        kept=line.text is not None,
        moves=bool(line.author.no),
    )
    return store_groups.find(db, group_no), line


def _skip_to(ledger: Ledger, group_no: int, history: History, upto: int) -> History:
    """Lines up to `upto` are lost: their places are kept, so that readers are told that they missed them."""
    db = ledger.db
    if upto - history.last >= ledger.limits.mailbox_messages:
        _cut(ledger, group_no, history, history.first)
        db.execute("UPDATE groups SET first = ?, last = ? WHERE no = ?", (upto + 1, upto, group_no))
        return History(upto + 1, upto, 0)
    insert_rows(
        db,
        "group_log (group_no, seq, mid, sender_no, size)",
        [(group_no, seq, ledger.take_mids(1), 0, 0) for seq in range(history.last + 1, upto + 1)],
    )
    first, size = store_groups.trim(ledger, group_no, History(history.first, upto, history.bytes))
    db.execute("UPDATE groups SET first = ?, last = ?, bytes = ? WHERE no = ?", (first, upto, size, group_no))
    return History(first, upto, size)


def _cut(ledger: Ledger, group_no: int, history: History, start: int) -> History:
    """Lines from `start` on go: the home has others in their place, or none."""
    db = ledger.db
    found = db.execute(
        "SELECT json_group_array(mid), coalesce(sum(size), 0) FROM group_log WHERE group_no = ? AND seq >= ?",
        (group_no, start),
    ).fetchone()
    for table in ("bodies", "messages"):
        db.execute(f"DELETE FROM {table} WHERE mid IN (SELECT value FROM json_each(?))", (found[0],))
    db.execute("DELETE FROM group_log WHERE group_no = ? AND seq >= ?", (group_no, start))
    left = History(min(history.first, start), start - 1, history.bytes - found[1])
    db.execute(
        "UPDATE groups SET first = ?, last = ?, bytes = ? WHERE no = ?",
        (left.first, left.last, left.bytes, group_no),
    )
    db.execute(
        "UPDATE group_members SET cursor = min(cursor, ?1), own_last = iif(own_last > ?1, 0, own_last)"
        " WHERE group_no = ?2",
        (left.last, group_no),
    )
    return left


def _begin_anew(ledger: Ledger, group_no: int, history: History, first: int, roster: Roster) -> History:
    """All we have is beyond what the home has: nothing of it is left."""
    db = ledger.db
    _cut(ledger, group_no, history, history.first)
    db.execute("UPDATE groups SET first = ?1, last = ?1 - 1 WHERE no = ?2", (first, group_no))
    since = dict(roster.ours)
    for (no,) in db.execute("SELECT no FROM group_members WHERE group_no = ?", (group_no,)).fetchall():
        db.execute(
            "UPDATE group_members SET cursor = min(cursor, ?) WHERE group_no = ? AND no = ?",
            (max(since.get(no, 0), first - 1), group_no, no),
        )
    return History(first, first - 1, 0)


# --- replicas: members -------------------------------------------------------------------------------------


def _enter(ledger: Ledger, group_no: int, replica: Replica, roster: Roster, last: int) -> dict[str, Any]:
    """The members are these. What `Taken` says of it."""
    db = ledger.db
    ours = dict(roster.ours)
    ledger.load(ours)
    rows: dict[int, int] = dict(
        db.execute("SELECT no, leaving FROM group_members WHERE group_no = ?", (group_no,)).fetchall()
    )
    # `leaving` is one more than the `since` of the membership that was left: a later one is a new one.
    again = [no for no, leaving in rows.items() if leaving and ours.get(no, -1) >= leaving]
    joined = [no for no in ours if (no not in rows or no in again) and no in ledger.boxes]
    left = [no for no in rows if no not in ours or no in again]
    db.execute(
        "DELETE FROM group_members WHERE group_no = ? AND no IN (SELECT value FROM json_each(?))",
        (group_no, as_json(left)),
    )
    place = one(db, "SELECT coalesce(max(place), 0) FROM group_members WHERE group_no = ?", (group_no,)) + 1
    if joined:
        insert_rows(
            db,
            "group_members (group_no, no, place, cursor)",
            [(group_no, no, place + n, min(ours[no], last)) for n, no in enumerate(joined)],
        )
        # Of a copy that is new its own lines may be there already.
        db.execute(
            "UPDATE group_members SET own_last = coalesce((SELECT max(l.seq) FROM group_log AS l"
            " WHERE l.group_no = ?1 AND l.sender_no = group_members.no), 0)"
            " WHERE group_no = ?1 AND no IN (SELECT value FROM json_each(?2))",
            (group_no, as_json(joined)),
        )
    db.execute(
        "UPDATE groups SET roster = ? WHERE no = ?",
        (msgspec.json.encode(roster.members).decode(), group_no),
    )
    mail, told = _notify(ledger, replica.notice, [no for no in left if not rows[no]])
    facts: dict[str, Any] = {
        "joined": tuple(joined),
        "left": tuple(left),
        "roster": roster.members,
        "mail": mail,
        "told": told,
    }
    if not joined and len(left) == len(rows):
        store_groups.drop(db, group_no)
        facts["outcome"] = "ended"
        facts["ended_no"] = group_no
    return facts


def _notify(ledger: Ledger, notice: AppendMail, nos: list[int]) -> tuple[AppendMail | None, Appended | None]:
    if not nos:
        return None, None
    mail = msgspec.structs.replace(notice, recipients=tuple(nos))
    [told] = store_mail.append(ledger, (mail,))
    if isinstance(told, RelayError):  # pragma: no cover
        raise AssertionError("a member has a mailbox")
    return mail, told


# --- replicas: what the home told --------------------------------------------------------------------------


def take_line(ledger: Ledger, op: TakeLine) -> Taken:
    """See `TakeLine`."""
    db, line, roster = ledger.db, op.line, op.roster
    hub = store_links.check_hub(db, op.replica.hub_no)
    found = _find(db, hub, op.replica.group_id)
    facts: dict[str, Any] = {"outcome": "stored"}
    if found is None:
        if roster is None or not roster.ours or any(since < line.seq - 1 for _, since in roster.ours):
            return Taken(outcome="unknown")
        ledger.load([no for no, _ in roster.ours])
        if not _has_room(ledger, hub) or not any(no in ledger.boxes for no, _ in roster.ours):
            return Taken(outcome="refused")
        group_no, ended_no = _make(ledger, op.replica, hub, line.seq)
        history = History(line.seq, line.seq - 1, 0)
        facts.update(created=True, ended_no=ended_no)
    else:
        group_no, history = found
        follows = line.seq == history.last + 1 and _same(id_of(db, group_no, history.last), op.after)
        if not follows:
            known = line.seq <= history.last and _same(id_of(db, group_no, line.seq), line.msg_id)
            return Taken(outcome="known" if known else "behind", group_no=group_no)
    line, author_no = _authored(ledger, line, op.replica, hub)
    history, line = _append(ledger, group_no, history, line, author_no)
    facts["lines"] = ((author_no, line),)
    if roster is not None:
        facts.update(_enter(ledger, group_no, op.replica, roster, line.seq - 1))
    return Taken(group_no=group_no, **facts)


def _same(one_id: str, other_id: str) -> bool:
    return not one_id or not other_id or one_id == other_id


def take_page(ledger: Ledger, op: TakePage) -> Taken:
    """See `TakePage`."""
    db, lines = ledger.db, op.lines
    hub = store_links.check_hub(db, op.replica.hub_no)
    found = _find(db, hub, op.replica.group_id)
    facts: dict[str, Any] = {"outcome": "stored"}
    if found is None:
        ledger.load([no for no, _ in op.roster.ours])
        sees = [since for no, since in op.roster.ours if no in ledger.boxes]
        if not sees or not _has_room(ledger, hub):
            return Taken(outcome="refused")
        first = max(min(*sees, op.last) + 1, lines[0].seq if lines else op.last + 1)
        group_no, facts["ended_no"] = _make(ledger, op.replica, hub, first)
        history = History(first, first - 1, 0)
        facts["created"] = True
    else:
        group_no, history = found
    new: list[tuple[int, CopiedLine]] = []
    broken = False
    if lines and op.last < history.first <= history.last:
        history, broken = _begin_anew(ledger, group_no, history, lines[0].seq, op.roster), True
    for line in lines:
        if line.seq < history.first:
            continue
        if line.seq <= history.last:
            if _same(id_of(db, group_no, line.seq), line.msg_id):
                continue
            history, broken = _cut(ledger, group_no, history, line.seq), True
        if line.seq > history.last + 1:
            history, broken = _skip_to(ledger, group_no, history, line.seq - 1), True
        shown, author_no = _authored(ledger, line, op.replica, hub)
        history, stored = _append(ledger, group_no, history, shown, author_no)
        new.append((author_no, stored))
    facts["lines"] = tuple(new)
    if not op.more:
        if history.last > op.last:
            history, broken = _cut(ledger, group_no, history, max(op.last + 1, 1)), True
        elif history.last < op.last:
            history, broken = _skip_to(ledger, group_no, history, op.last), True
    if not op.more or facts.get("created"):
        facts.update(_enter(ledger, group_no, op.replica, op.roster, history.last))
    if broken:
        facts["recount"] = tuple(store_groups.unread_of_members(db, group_no))
    return Taken(group_no=group_no, **facts)


def take_end(ledger: Ledger, op: TakeEnd) -> Taken:
    """See `TakeEnd`."""
    db = ledger.db
    found = _find(db, store_links.check_hub(db, op.replica.hub_no), op.replica.group_id)
    if found is None:
        return Taken(outcome="known")
    group_no = found[0]
    rows = db.execute("SELECT no, leaving FROM group_members WHERE group_no = ?", (group_no,)).fetchall()
    mail, told = _notify(ledger, op.replica.notice, [no for no, leaving in rows if not leaving])
    store_groups.drop(db, group_no)
    return Taken(
        outcome="ended",
        group_no=group_no,
        ended_no=group_no,
        left=tuple([no for no, _ in rows]),
        mail=mail,
        told=told,
    )


# --- replicas: leaving -------------------------------------------------------------------------------------


def leave(ledger: Ledger, op: Leave) -> Left:
    """See `Leave`."""
    db, key = ledger.db, (op.group_no, op.no)
    leaving = one(db, "SELECT leaving FROM group_members WHERE group_no = ? AND no = ?", key)
    if leaving is None or (leaving and not op.gone):
        if op.gone:
            return Left(())
        raise RelayError("not_member", "you are not in that group any more")
    hub_no: int = one(
        db, "SELECT h.no FROM groups AS g JOIN hubs AS h ON h.key = g.hub WHERE g.no = ?", key[:1]
    )
    out = store_group_out.put(ledger, hub_no, op.msg_id, 0, op.body, op.at)
    outs: tuple[OutRow, ...] = () if out is None else (out,)
    if op.gone:
        db.execute("DELETE FROM group_members WHERE group_no = ? AND no = ?", key)
        ended = not one(db, "SELECT 1 FROM group_members WHERE group_no = ?", key[:1])
        if ended:
            store_groups.drop(db, op.group_no)
        return Left(outs, ended)
    if out is None:
        raise RelayError(
            "limit_reached",
            "too much waits for the group's hub to be told of it: leave when its link is back "
            "(`ecorelay hub status`)",
        )
    db.execute("UPDATE group_members SET leaving = ? WHERE group_no = ? AND no = ?", (op.since + 1, *key))
    if not one(db, "SELECT 1 FROM group_members WHERE group_no = ? AND NOT leaving", key[:1]):
        # Nobody is left to read it. Should somebody come, it is as if there had been no line.
        history = store_groups.find(db, op.group_no)
        _cut(ledger, op.group_no, history, history.first)
        db.execute("UPDATE groups SET first = 1, last = 0 WHERE no = ?", (op.group_no,))
    return Left(outs)


def forget_hub(ledger: Ledger, op: ForgetHub) -> OutSettled:
    """See `ForgetHub`. Copies of its groups that the core had not heard of yet go as well.

    Raises:
        RelayError: ``bad_args``, peers of it are members of our groups and the core had not heard of that:
            others have to be told that they are out.
    """
    db = ledger.db
    key = store_links.check_hub(db, op.hub_no)
    if one(
        db,
        "SELECT 1 FROM group_members AS m JOIN peers AS p ON p.no = m.no"
        " JOIN groups AS g ON g.no = m.group_no WHERE p.hub = ? AND g.hub = '' LIMIT 1",
        (key,),
    ):
        raise RelayError("bad_args", "its peers were let into groups of this hub this moment: try again")
    for (no,) in db.execute("SELECT no FROM groups WHERE hub = ?", (key,)).fetchall():
        store_groups.drop(db, no)
    return store_links.forget_hub(ledger, op)


def send_leaves(ledger: Ledger, op: SendLeaves) -> Left:
    """See `SendLeaves`."""
    store_links.check_hub(ledger.db, op.hub_no)
    rows = [store_group_out.put(ledger, op.hub_no, msg_id, 0, body, op.at) for msg_id, body in op.leaves]
    return Left(tuple([row for row in rows if row is not None]))


_TAKES: Final[dict[type[FarOp], Callable[[Ledger, Any], Any]]] = {
    TakePost: take_post,
    TakeLeave: take_leave,
    TakeLine: take_line,
    TakeEnd: take_end,
}
