"""What was said in a group: pages of what a member has not seen, leased until they are confirmed."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import wire
from ecorelay.core import group_names
from ecorelay.core.actions import Store
from ecorelay.core.ops import CursorMoved, HistoryRead, MoveCursor, ReadHistory, StoredLine
from ecorelay.core.records import Group, HistoryLease, Peer, Session
from ecorelay.core.state import State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now

ENDED = "the group or your membership ended"


class HistoryReady(Struct, frozen=True):
    """Note: hand the page to the reader."""

    sid: int
    peer_no: int
    op: ReadHistory
    request: wire.GroupHistory


class HistoryLapses(Struct, frozen=True):
    """Timer note: the page that was out until then was not confirmed."""

    peer_no: int
    group_no: int
    until: float


class HistoryConfirmed(Struct, frozen=True):
    """Note: the cursor stands."""

    sid: int
    req_id: int
    op: MoveCursor


def history(s: State, session: Session, frame: wire.GroupHistory, now: Now) -> None:
    """A page of what the caller has not seen, leased until confirmed."""
    peer = s.own(session)
    group = group_names.member(s, peer, frame.group)
    lease = peer.history.setdefault(group.no, HistoryLease())
    if lease.reading:
        if len(lease.queue) >= 100:
            raise RelayError("limit_reached", "100 reads of this history are open: let some finish")
        lease.queue.append((session.sid, frame))
        return
    after = lease.upto if lease.until > now.mono else 0
    _read(s, session.sid, peer, group.no, lease, frame, after)


def _read(
    s: State, sid: int, peer: Peer, group_no: int, lease: HistoryLease, frame: wire.GroupHistory, after: int
) -> None:
    lease.reading, lease.overtaken = True, False
    op = ReadHistory(group_no=group_no, no=peer.no, after=after, limit=frame.limit, budget=frame.budget)
    s.out.append(Store((op,), HistoryReady(sid, peer.no, op, frame)))


def history_ready(s: State, note: HistoryReady, page: HistoryRead, now: Now) -> None:
    """The store read a page: lease it to its reader."""
    peer = s.peers[note.peer_no]
    group = s.groups.get(note.op.group_no)
    lease = peer.history.get(note.op.group_no)
    if lease is None or group is None:
        s.fail(note.sid, note.request.req_id, "group_not_found", ENDED)
        return
    session = s.sessions.get(note.sid)
    if session is not None and session.peer is peer:
        if note.op.after and lease.overtaken:
            # Confirmed, it would pass over what it begins behind, which perhaps nobody was shown.
            _read(s, note.sid, peer, group.no, lease, note.request, 0)
            return
        if page.lines:
            lease.upto, lease.sid, lease.released = page.upto, note.sid, 0
            lease.until = now.mono + s.limits.lease_s
            if not note.op.after:
                lease.pages.clear()  # whatever is out elsewhere, it is in this page too
            lease.pages[note.sid, page.upto] = lease.until
            s.at(lease.until, HistoryLapses(peer.no, group.no, lease.until))
        lease.hidden += peer.group_unread.get(group.no, 0) - page.remaining
        _set_unread(peer, group.no, page.remaining)
        s.reply(
            note.sid,
            wire.GroupPage(
                req_id=note.request.req_id,
                group=group.shown,
                messages=tuple(map(_entry, page.lines)),
                upto=page.upto,
                unread_remaining=page.remaining,
                missed=page.missed,
                unread=unread_of(peer),
            ),
        )
    next_read(s, lease, now)


def _entry(line: StoredLine) -> wire.GroupEntry:
    return wire.GroupEntry(
        seq=line.seq,
        msg_id=line.msg_id,
        sender=line.sender,
        text=line.text,
        ts=line.at,
        kind="system" if line.system else "message",
    )


def _set_unread(peer: Peer, group_no: int, count: int) -> None:
    if peer.told.get(group_no, 0) > count:
        peer.told[group_no] = count  # what comes after it is news again
    if count > 0:
        peer.group_unread[group_no] = count
    else:
        peer.group_unread.pop(group_no, None)


def _give_back(peer: Peer, group_no: int, lease: HistoryLease) -> None:
    """The page was not confirmed: the next reader gets it, and it counts again."""
    lease.until, lease.overtaken = 0.0, True
    if lease.hidden:
        _set_unread(peer, group_no, peer.group_unread.get(group_no, 0) + lease.hidden)
        lease.hidden = 0


def _give_all_back(peer: Peer, group_no: int, lease: HistoryLease) -> None:
    """One page was not shown, and later ones may be out: none of them may be confirmed over it."""
    lease.released = lease.upto
    lease.pages.clear()
    _give_back(peer, group_no, lease)


def history_lapses(s: State, note: HistoryLapses) -> None:
    """The reader never confirmed."""
    peer = s.peers.get(note.peer_no)
    lease = peer.history.get(note.group_no) if peer is not None else None
    if peer is None or lease is None:
        return
    late = [page for page, until in lease.pages.items() if until == note.until]
    for page in late:
        del lease.pages[page]
    if lease.until == note.until:
        s.count("leases_lapsed")
        _give_back(peer, note.group_no, lease)
    elif late:
        s.count("leases_lapsed")
        _give_all_back(peer, note.group_no, lease)


def next_read(s: State, lease: HistoryLease, now: Now) -> None:
    """One page at a time: the next request in line."""
    lease.reading = False
    while lease.queue and not lease.reading:
        sid, frame = lease.queue.pop(0)
        session = s.sessions.get(sid)
        if session is not None:
            try:
                history(s, session, frame, now)
            except RelayError as error:
                s.fail(sid, frame.req_id, error.code, error.message)


def history_failed(s: State, note: HistoryReady, now: Now) -> None:
    """The store could not read it (the failure itself is answered by the hub)."""
    lease = s.peers[note.peer_no].history.get(note.op.group_no)
    if lease is not None:
        next_read(s, lease, now)


def confirm(s: State, session: Session, frame: wire.GroupConfirm, _now: Now) -> None:
    """The page went out: the cursor moves."""
    peer = s.own(session)
    group = group_names.member(s, peer, frame.group)
    lease = peer.history.get(group.no)
    if lease is not None and (frame.upto <= lease.released or _passes(lease, session.sid, frame.upto)):
        # The cursor would pass over a page that perhaps nobody was shown. Rather both come again.
        s.reply(session.sid, wire.Done(req_id=frame.req_id, unread=unread_of(peer)))
        return
    op = MoveCursor(group_no=group.no, no=peer.no, upto=frame.upto)
    s.out.append(Store((op,), HistoryConfirmed(session.sid, frame.req_id, op)))


def _passes(lease: HistoryLease, sid: int, upto: int) -> bool:
    """Whether there is a page before that, out with another session, which may end without showing it."""
    return any(other != sid and last < upto for other, last in lease.pages)


def confirmed(s: State, note: HistoryConfirmed, result: CursorMoved) -> None:
    """The cursor stands, on disk."""
    peer = s.peers[note.op.no]
    if note.op.group_no in peer.groups:
        lease = peer.history.get(note.op.group_no)
        if lease is not None:
            for page in [each for each in lease.pages if each[0] == note.sid and each[1] <= note.op.upto]:
                del lease.pages[page]
        if lease is not None and lease.until and lease.upto > note.op.upto:
            # A later page is still out: what of it is unread stays hidden.
            lease.hidden = max(0, result.unread - peer.group_unread.get(note.op.group_no, 0))
        else:
            _set_unread(peer, note.op.group_no, result.unread)
            if lease is not None:
                lease.until, lease.hidden = 0.0, 0
    s.reply(note.sid, wire.Done(req_id=note.req_id, unread=unread_of(peer)))


def release(s: State, session: Session, frame: wire.GroupRelease, _now: Now) -> None:
    """The page was not shown: the next reader gets it."""
    peer = s.own(session)
    group = group_names.member(s, peer, frame.group)
    lease = peer.history.get(group.no)
    if lease is not None:
        _give_all_back(peer, group.no, lease)
    s.reply(session.sid, wire.Done(req_id=frame.req_id, unread=unread_of(peer)))


def being_read(s: State) -> tuple[int, ...]:
    """Groups of which somebody has a page out: their lines are left alone meanwhile."""
    return tuple(
        {
            no: None
            for peer in s.peers.values()
            if peer.history
            for no, lease in peer.history.items()
            if lease.reading or lease.until or lease.hidden
        }
    )


def recount(s: State, group_no: int, member_no: int, unread: int) -> None:
    """Lines left a group of which no page was out: so many are unread now."""
    peer = s.peers.get(member_no)
    if peer is not None and peer.loaded and group_no in peer.groups:
        _set_unread(peer, group_no, unread)


def lines_went(s: State, group: Group) -> None:
    """Lines of it were replaced: pages that are out may not be confirmed, for others stand in their place."""
    for no in group.members:
        lease = s.peers[no].history.get(group.no)
        if lease is not None:
            lease.released, lease.until, lease.hidden = lease.upto, 0.0, 0
            lease.overtaken = True
            lease.pages.clear()


def session_ended(session: Session, peer: Peer) -> None:
    """Its unconfirmed pages are unread again."""
    for group_no, lease in peer.history.items():
        own = [page for page in lease.pages if page[0] == session.sid]
        for page in own:
            del lease.pages[page]
        first = min([upto for _, upto in own], default=inf)
        if any(upto > first for _, upto in lease.pages):
            _give_all_back(peer, group_no, lease)
        elif lease.sid == session.sid:
            _give_back(peer, group_no, lease)
