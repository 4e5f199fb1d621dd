"""How stored mail reaches a live session, and what its acknowledgement proves.

A session is *caught up* when nothing unread lies beyond its cursor: then mail is pushed straight from
memory as it is stored. Otherwise (just connected, window full, a page being read) mail stays in the
store and `load_backlog` pushes it in order once there is room. Because the store answers in the
order of its units, no message can fall between the two.

What is pushed and not acknowledged fills a window; a session that does not read gets nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import link_wire, wire
from ecorelay.core import mailbox, watch
from ecorelay.core.actions import Push, Reply, Store, ToLink
from ecorelay.core.ops import Appended, AppendMail, Backlog, Eviction, LoadBacklog, MarkPushed
from ecorelay.core.records import InFlight, Peer, Session
from ecorelay.core.state import State, unread_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ecorelay.core.events import Now

PUSHED_FLUSH_S = 0.2
PUSHED_FLUSH_ROWS = 2_000
"""Receipts `pushed` are written together: losing them in a crash only makes the mail unread again."""


BACKLOG_RETRY_S = 5.0


class BacklogLoaded(Struct, frozen=True):
    """Note: push what was loaded to `sid`."""

    sid: int


class BacklogDue(Struct, frozen=True):
    """Timer note: loading failed a while ago."""

    sid: int


def has_room(s: State, session: Session) -> bool:
    """Whether the window takes another push (one may overshoot the bytes)."""
    return (
        len(session.inflight) < s.limits.push_window_messages
        and session.inflight_bytes < s.limits.push_window_bytes
    )


def track(session: Session, msg_id: str, mid: int, size: int, now: Now) -> InFlight:
    """Note a push as sent and unacknowledged."""
    before = session.inflight.pop(msg_id, None)  # not replaced in its place: mail stands there in its order
    if before is not None:  # the id was used for something else
        untrack(session, before)
    flight = InFlight(msg_id, mid, size, now.mono)
    session.inflight[msg_id] = flight
    session.inflight_bytes += size
    if mid:
        session.inflight_mail += 1
    return flight


def untrack(session: Session, flight: InFlight) -> None:
    """The push was acknowledged, failed, or its session ended."""
    session.inflight_bytes -= flight.size
    if flight.mid:
        session.inflight_mail -= 1


def deliver(s: State, op: AppendMail, stored: Appended, now: Now, *, quiet: bool = False) -> InFlight | None:
    """Mail is stored: push it where a session is caught up, wake those who wait for it.

    `quiet`: only who waits for mail this moment gets it; others find it when they look.

    Returns:
        The push to the last recipient that got one, for a sender that waits for `delivered`.
    """
    if s.watchers:
        watch.stored(s, op, now)
    flight = None
    sids: list[int] = []
    for no, unread in zip(op.recipients, stored.unread, strict=True):
        peer = s.peers.get(no)
        if peer is None or not peer.loaded:
            continue
        peer.unread = unread
        session = peer.session
        if quiet:
            if session is not None and session.caught_up:
                session.cursor = stored.mid
            mailbox.hear(s, peer, now)
            continue
        if session is not None and session.caught_up:
            if peer.reads or peer.waiters or not has_room(s, session):
                # One who waits reads it; otherwise the backlog goes on from here, in order.
                session.caught_up = False
            else:
                session.cursor = stored.mid
                flight = track(session, op.msg_id, stored.mid, len(op.text), now)
                sids.append(session.sid)
                continue
        mailbox.wake(s, peer, now)
    if sids:
        frame = wire.Push(
            msg_id=op.msg_id,
            kind=op.kind,
            sender=op.sender,
            text=op.text,
            ts=op.at,
            reply_to=op.reply_to,
            broadcast_id=op.broadcast_id,
            urgent=op.urgent,
        )
        s.out.append(Push(tuple(sids), frame))
    if stored.evictions:
        note_evictions(s, stored.evictions, now)
    return flight


def note_evictions(s: State, evictions: tuple[Eviction, ...], now: Now) -> None:
    """Unread mail left a full ring: its senders find a notice, and those who wait are woken."""
    if s.watchers:
        watch.evicted(s, evictions, now)
    for eviction in evictions:
        s.count("evicted_unread", eviction.count)
        recipient = s.peers.get(eviction.recipient_no)
        if recipient is not None:
            _forget_evicted(s, recipient, eviction)
    mailbox.tell_senders(s, evictions, now)


def _forget_evicted(s: State, peer: Peer, eviction: Eviction) -> None:
    """Mail up to `upto` is in the ring no more: a mark without its mail would hide that other mail waits."""
    upto = eviction.upto
    gone = []
    for msg_id, mid in peer.pushed.items():
        if mid > upto:
            break
        gone.append(msg_id)
    if len(gone) < eviction.count:  # carriers do not take everything in order
        gone = [msg_id for msg_id, mid in peer.pushed.items() if mid <= upto]
    if peer.cut:
        gone += [msg_id for msg_id, mid in peer.cut.items() if mid <= upto]
    for msg_id in gone:
        unmark(peer, msg_id)
    session = peer.session
    if session is not None and session.inflight_mail:
        for flight in session.inflight.values():  # mail in its order
            if flight.mid > upto:
                break
            if flight.mid:
                _no_mail(session, flight)
    if peer.leased:
        mailbox.evicted(s, peer, upto)


def unmark(peer: Peer, msg_id: str) -> None:
    """It is no longer known to have been pushed, or shown in part."""
    peer.pushed.pop(msg_id, None)
    peer.stubs.discard(msg_id)
    peer.printed.pop(msg_id, None)
    peer.after_tool.discard(msg_id)
    peer.cut.pop(msg_id, None)


def await_delivered(s: State, flight: InFlight, sid: int, req_id: int, now: Now) -> None:
    """The sender's answer waits for this push to be acknowledged, at most `delivered_within_s`."""
    flight.sender_sid = sid
    flight.req_id = req_id
    s.delivery_waits.append((now.mono + s.limits.delivered_within_s, flight))


def settle(s: State, flight: InFlight, status: wire.Status) -> None:
    """Give the sender its answer, if it is a peer of this hub and still waits."""
    if flight.asked is not None:
        flight.asked.pop(flight.msg_id, None)
        flight.asked = None
    if flight.req_id >= 0:
        session = s.sessions.get(flight.sender_sid)
        if session is not None and session.peer is not None:
            s.out.append(
                Reply(
                    session.sid,
                    wire.Sent(
                        req_id=flight.req_id,
                        msg_id=flight.msg_id,
                        status=status,
                        unread=unread_of(session.peer),
                    ),
                )
            )
        flight.req_id = -1


def expire_waits(s: State, now: Now) -> None:
    """Answer `queued` where the acknowledgement did not come in time."""
    waits = s.delivery_waits
    while waits and (waits[0][1].req_id < 0 or waits[0][0] <= now.mono):
        settle(s, waits.popleft()[1], "queued")


def sender_forgotten(s: State, peer: Peer) -> None:
    """Connections of the peer act for nobody from now on: what they sent is answered as it is known now."""
    for _, flight in s.delivery_waits:
        if flight.sender_sid in peer.attached:
            settle(s, flight, "queued")


def pushed(s: State, session: Session, frame: wire.Pushed, now: Now) -> None:
    """The session's carrier accepted pushes."""
    peer = session.peer
    if peer is None:
        return
    inflight = session.inflight
    marked: list[tuple[int, int, int]] = []
    elsewhere: dict[int, list[str]] = {}
    for msg_id in frame.msg_ids:
        flight = inflight.pop(msg_id, None)
        if flight is None:
            continue
        untrack(session, flight)
        if flight.mid:
            peer.pushed[msg_id] = flight.mid
            peer.stubs.add(msg_id)
            marked.append((peer.no, flight.mid, now.wall))
            if s.watchers:
                watch.pushed(s, peer, msg_id, frame.carrier, now)
        if flight.link:
            elsewhere.setdefault(flight.link, []).append(msg_id)
        elif flight.req_id >= 0:
            settle(s, flight, "delivered")
    for link, msg_ids in elsewhere.items():
        for start in range(0, len(msg_ids), link_wire.WINDOW_FRAMES):
            some = tuple(msg_ids[start : start + link_wire.WINDOW_FRAMES])
            s.out.append(ToLink(link, link_wire.Delivered(msg_ids=some)))
    session.carrier = frame.carrier
    if marked:
        rows = s.pushed_rows.setdefault(frame.carrier, [])
        rows += marked
        if not s.pushed_due:
            s.pushed_due = now.mono + PUSHED_FLUSH_S
        if len(rows) >= PUSHED_FLUSH_ROWS:
            flush_pushed(s)
    waits = s.delivery_waits
    while waits and waits[0][1].req_id < 0:
        waits.popleft()
    continue_backlog(s, session)


def push_failed(s: State, session: Session, frame: wire.PushFailed, now: Now) -> None:
    """The session's carrier could not take pushes: they wait in the inbox."""
    peer = session.peer
    if peer is None:
        return
    for msg_id in frame.msg_ids:
        flight = session.inflight.pop(msg_id, None)
        if flight is None:
            continue
        s.count("push_failed")
        untrack(session, flight)
        settle(s, flight, "queued")
        if flight.mail is not None:
            mailbox.keep_room_mail(s, peer, flight.mail)
    mailbox.wake(s, peer, now)
    continue_backlog(s, session)


def flush_pushed(s: State) -> None:
    """Write the receipts that have gathered."""
    s.pushed_due = 0.0
    for carrier, rows in s.pushed_rows.items():
        s.out.append(Store((MarkPushed(rows=tuple(rows), carrier=carrier),)))
    s.pushed_rows = {}


def seen(peer: Peer, msg_ids: Iterable[str]) -> None:
    """These were read: no longer merely pushed or leased, whether or not the carrier has spoken yet."""
    session = peer.session
    for msg_id in msg_ids:
        unmark(peer, msg_id)
        peer.leased.pop(msg_id, None)
        flight = session.inflight.get(msg_id) if session is not None else None
        if session is not None and flight is not None and flight.mid:
            _no_mail(session, flight)


def _no_mail(session: Session, flight: InFlight) -> None:
    """What is on its way is not unread any more."""
    session.inflight_mail -= 1
    flight.mid = 0


def continue_backlog(s: State, session: Session) -> None:
    """Load more for a session that fell behind, once half its window is free."""
    if (
        session.hello.push
        and not session.caught_up
        and not session.loading
        and session.ready
        and session.peer is not None
        and session.peer.session is session
        and not session.peer.reads
        and len(session.inflight) * 2 <= s.limits.push_window_messages
        and session.inflight_bytes * 2 <= s.limits.push_window_bytes
    ):
        session.loading = True
        op = LoadBacklog(
            no=session.peer.no,
            after=session.cursor,
            max_count=s.limits.push_window_messages - len(session.inflight),
            max_bytes=s.limits.push_window_bytes - session.inflight_bytes,
        )
        s.out.append(Store((op,), BacklogLoaded(session.sid)))


def backlog_loaded(s: State, note: BacklogLoaded, result: Backlog, now: Now) -> None:
    """Push what waited, in order."""
    session = s.sessions.get(note.sid)
    if session is None or session.peer is None:
        return
    session.loading = False
    session.peer.unread = result.unread
    if result.damaged:
        s.count("damaged", result.damaged)
    if session.peer.reads:
        return  # a page asked for meanwhile may hold the same mail; after it, loading goes on
    more = result.more
    for mail in result.mails:
        if not has_room(s, session):  # room and group messages took it meanwhile
            more = True
            break
        session.cursor = mail.mid
        text = mail.text or ""  # a backlog has no stubs
        track(session, mail.msg_id, mail.mid, len(text), now)
        s.out.append(
            Push(
                (session.sid,),
                wire.Push(
                    msg_id=mail.msg_id,
                    kind=mail.kind,
                    sender=mail.sender,
                    text=text,
                    ts=mail.at,
                    reply_to=mail.reply_to,
                    broadcast_id=mail.broadcast_id,
                    urgent=mail.urgent,
                ),
            )
        )
    session.caught_up = not more
    if more:
        continue_backlog(s, session)


def backlog_failed(s: State, note: BacklogLoaded, now: Now) -> None:
    """The disk refused: the mail is still there; try again in a while."""
    session = s.sessions.get(note.sid)
    if session is not None:
        session.loading = False
        s.count("backlog_failed")
        s.at(now.mono + BACKLOG_RETRY_S, BacklogDue(note.sid))


def backlog_due(s: State, note: BacklogDue) -> None:
    """Time to try again."""
    session = s.sessions.get(note.sid)
    if session is not None:
        continue_backlog(s, session)


def session_ended(s: State, session: Session, peer: Peer) -> None:
    """Without its session, what was pushed and not seen is unread again, and its next reader is told."""
    if s.pushed_rows:
        flush_pushed(s)
    for flight in session.inflight.values():
        settle(s, flight, "queued")
    session.inflight.clear()
    session.inflight_bytes = session.inflight_mail = 0
    peer.pushed.clear()
    peer.stubs.clear()
