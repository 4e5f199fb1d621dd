"""Reading: pages, leases, confirmation, and waiting for something to read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ecorelay import wire
from ecorelay.core import delivery, hooks, watch
from ecorelay.core.actions import Store
from ecorelay.core.ops import (
    ENTRY_ROOM,
    Confirmed,
    ConfirmMail,
    EndLease,
    Notice,
    PageRead,
    ReadPage,
    StoredMail,
)
from ecorelay.core.records import Lease, Peer, Session, Waiter
from ecorelay.core.state import State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from ecorelay.core.events import Now
    from ecorelay.core.ops import Eviction


NOTICE_SPACE = 500
"""Characters of a page that a notice may fill."""
HOOK_LIMIT = 100
"""Messages of one page for a hook; its budget holds fewer."""
RETRY_S = 1.0
"""After a failure to end a lease: the mail is locked until it is done."""


class PageReady(Struct, frozen=True):
    """Note: hand the page to the reader; an empty one only once mono time `until` has come."""

    sid: int
    peer_no: int
    lease: int
    request: wire.Inbox
    until: float
    hook: str = ""
    """The event of the hook that reads it; empty: none does."""


class MailConfirmed(Struct, frozen=True):
    """Note: answer the confirmation. `leased`: what the page kept off the unread count until now."""

    sid: int
    peer_no: int
    confirm: wire.Confirm
    lease: int
    leased: tuple[str, ...]


class LeaseFreed(Struct, frozen=True):
    """Note, and timer note to try again: the store lets go of a lease."""

    lease: int
    peer_no: int


class LeaseEnds(Struct, frozen=True):
    """Timer note."""

    lease: int


class WaitEnds(Struct, frozen=True):
    """Timer note."""

    sid: int
    req_id: int
    until: float


def tell_senders(s: State, lost: Iterable[Eviction], now: Now) -> None:
    """Of these the store has put a notice before their senders: those who wait for news hear it."""
    for each in lost:
        sender = s.peers.get(each.sender_no)
        if sender is not None and sender.loaded and each.first:
            sender.notices += 1
            wake(s, sender, now)


# --- reading -----------------------------------------------------------------------------------------


def inbox(s: State, session: Session, frame: wire.Inbox, now: Now) -> None:
    """A reader asks for a page."""
    peer = s.own(session)
    if frame.since_id is not None and frame.wait:
        raise RelayError("bad_args", "since_id and wait do not go together: re-read, or wait for news")
    if len(session.open_reads) >= 100:
        raise RelayError("limit_reached", "100 reads of this session are open: let some finish first")
    session.open_reads.add(frame.req_id)
    _read(s, session, peer, frame, now, now.mono + frame.wait)


def read_for_hook(s: State, session: Session, peer: Peer, frame: wire.Hook, now: Now) -> None:
    """A hook asks for a page: of what was neither pushed nor shown by a hook before."""
    request = wire.Inbox(req_id=frame.req_id, limit=HOOK_LIMIT, budget=frame.budget)
    _read(s, session, peer, request, now, now.mono, hook=frame.event)


def _read(
    s: State,
    session: Session,
    peer: Peer,
    frame: wire.Inbox,
    now: Now,
    until: float,
    *,
    hook: str = "",
) -> None:
    # Never a number of an earlier hub: a late confirmation would end somebody else's lease.
    lease = max(s.next_lease, now.wall)
    s.next_lease = lease + 1
    peer.reads += 1
    live = peer.session
    hidden = {mid for msg_id, mid in peer.pushed.items() if hook or msg_id not in peer.stubs}
    if hook:
        hidden.update(peer.cut.values())
    if live is not None:
        # On their way to the model this moment. An adapter that never says so loses the privilege.
        oldest = now.mono - s.limits.lease_s
        hidden.update(flight.mid for flight in live.inflight.values() if flight.at > oldest)
    op = ReadPage(
        no=peer.no,
        lease=lease,
        limit=frame.limit,
        budget=frame.budget,
        since_id=frame.since_id,
        pushed=frozenset() if hook else _stubs(peer),
        hidden=frozenset(hidden),
    )
    s.out.append(Store((op,), PageReady(session.sid, peer.no, lease, frame, until, hook)))


def _stubs(peer: Peer) -> frozenset[int]:
    return frozenset([peer.pushed[msg_id] for msg_id in peer.stubs if msg_id in peer.pushed])


def page_ready(s: State, note: PageReady, page: PageRead, now: Now) -> None:
    """The store read a page: lease it to its reader, or wait on when it is empty."""
    peer = s.peers[note.peer_no]
    peer.reads -= 1
    peer.unread = page.unread
    peer.notices = len(page.notices)
    if page.damaged:
        s.count("damaged", page.damaged)
    session = s.sessions.get(note.sid)
    request = note.request
    if session is None or session.peer is not peer or request.req_id in session.cancelled:
        _free(s, peer, note.lease)
        if session is not None:
            _end_read(session, request.req_id)
            s.fail(session.sid, request.req_id, "timeout", "cancelled by the caller")
        wake(s, peer, now)
        _resume(s, peer)
        return
    told = _to_tell(peer, page, hook=bool(note.hook)) if page.notices else []
    rooms, missed = _take_room_mail(peer, note, page) if request.since_id is None else ([], 0)
    used = [mail.text for mail in page.mails] + [mail.text for mail in rooms]
    left = request.budget - sum(map(_space, used)) if told else 0
    notices = told[: max(left // NOTICE_SPACE, 0 if page.mails or rooms else 1)]
    groups = tuple(
        wire.GroupUnread(name=s.groups[no].shown, unread_count=count)
        for no, count in peer.group_unread.items()
        if no in s.groups and not (note.hook and count <= peer.told.get(no, 0))
    )
    if not (page.mails or notices or rooms or groups or missed or peer.going) and now.mono < note.until:
        if note.lease < peer.news:
            _read(s, session, peer, request, now, note.until)
            return
        peer.waiters.append(Waiter(session, request, note.until))
        s.at(note.until, WaitEnds(session.sid, request.req_id, note.until))
        _resume(s, peer)
        return
    _end_read(session, request.req_id)
    if note.hook:
        if (before := s.leases.get(session.page)) is not None:
            _lapse(s, before, now)
        session.page = note.lease
    leased = [mail for mail in page.mails if mail.text is not None]
    lease = Lease(note.lease, peer, session.sid)
    lease.notices = tuple([notice.notice_id for notice in notices])
    lease.unread = (*lease.notices, *[mail.msg_id for mail in leased if not mail.seen])
    lease.stubs = tuple(mail.msg_id for mail in page.mails if mail.text is None)
    peer.stubs.difference_update(lease.stubs)
    lease.rooms = rooms
    lease.mids = {mail.msg_id: mail.mid for mail in page.mails}
    lease.live = peer.session.sid if peer.session is not None else 0
    if note.hook:
        lease.after_tool = note.hook == "tool"
        lease.groups = dict(peer.group_unread)
    for each in lease.unread:
        peer.leased[each] = peer.leased.get(each, 0) + 1
    held = bool(leased or lease.stubs or rooms or notices or (note.hook and groups))
    if held:
        s.leases[note.lease] = lease
        s.at(now.mono + s.limits.lease_s, LeaseEnds(note.lease))
    mails = [_entry(mail, now) for mail in page.mails]
    messages = (*mails, *rooms, *[_notice(s, notice) for notice in notices])
    number = note.lease if held else 0
    rooms_left = len(peer.room_mail) - (hooks.cut_in_rooms(peer) if note.hook else 0)
    remaining = page.remaining + rooms_left + len(told) - len(notices)
    unread = unread_of(peer)
    answer: wire.Result
    if note.hook:
        answer = wire.HookPage(
            req_id=request.req_id,
            name=peer.name,
            lease=number,
            messages=messages,
            remaining=remaining,
            groups=groups,
            missed=missed,
            unread=unread,
        )
    else:
        answer = wire.InboxPage(
            req_id=request.req_id,
            lease=number,
            messages=messages,
            remaining=remaining,
            groups=groups,
            missed=missed,
            unread=unread,
        )
    s.reply(session.sid, answer)
    if remaining:
        hear(s, peer, now)  # what waits was free again all at once, and woke one reader
    _resume(s, peer)


def _to_tell(peer: Peer, page: PageRead, *, hook: bool) -> list[Notice]:
    """Notices that no page shows already, though more may have come on top of one since."""
    shown = {each.partition("-")[0] for each in (*peer.leased, *(peer.printed_notices if hook else ()))}
    return [notice for notice in page.notices if notice.notice_id.partition("-")[0] not in shown]


def page_failed(s: State, note: PageReady, now: Now) -> None:
    """The store could not read it (the failure itself is answered by the hub)."""
    peer = s.peers[note.peer_no]
    peer.reads -= 1
    session = s.sessions.get(note.sid)
    if session is not None:
        _end_read(session, note.request.req_id)
    wake(s, peer, now)
    _resume(s, peer)


def _end_read(session: Session, req_id: int) -> None:
    session.open_reads.discard(req_id)
    session.cancelled.discard(req_id)


def _resume(s: State, peer: Peer) -> None:
    """A page stands between mail and pushing; when the last is read, pushing goes on."""
    if peer.session is not None:
        delivery.continue_backlog(s, peer.session)


def _entry(mail: StoredMail, now: Now) -> wire.Mail:
    # A stub was pushed, though the receipt that says when may not be written yet.
    pushed_at = mail.pushed_at or (now.wall if mail.text is None else 0)
    return wire.Mail(
        msg_id=mail.msg_id,
        kind=mail.kind,
        sender=mail.sender,
        ts=mail.at,
        text=mail.text,
        reply_to=mail.reply_to,
        broadcast_id=mail.broadcast_id,
        urgent=mail.urgent,
        redelivered=mail.handed,
        seen=mail.seen,
        pushed_at=pushed_at,
    )


_REASON = re.compile(r"\A[a-z_]{1,64}\Z")
_REASONS = {
    "evicted": "left the full mailbox of {about} unread: tell it again when {about} reads its mail",
    "forgotten": "lay unread in the mailbox of {about} when a person removed {about} from this hub: that "
    "address is nobody's now",
    "purged": "lay unread in the mailbox of {about} when a person had old mail removed: send it again if it "
    "still matters",
    "damaged": "could not be read back from the disk of {about}'s hub and was not seen: send it again",
}


def _notice(s: State, notice: Notice) -> wire.Mail:
    # A reason may have come from another hub, and lie on this disk from before it was looked at.
    why = notice.reason if _REASON.match(notice.reason) else "refused"
    text = _REASONS.get(why, f"to {{about}} ended unseen ({why})")
    many = "1 message" if notice.count == 1 else f"{notice.count} messages"
    return wire.Mail(
        msg_id=notice.notice_id,
        kind="system",
        sender=s.hub_id,
        ts=notice.at,
        text=f"{many} from you " + text.replace("{about}", notice.about),
    )


# --- confirming --------------------------------------------------------------------------------------


def confirm(s: State, session: Session, frame: wire.Confirm, now: Now) -> None:
    """The page went out: what it showed is seen."""
    peer = s.own(session)
    if peer.session is not None:
        peer.session.evidence_at = now.wall
    lease = own_lease(s, peer, frame.lease)
    number = 0  # of another's lease nothing is ended
    leased: tuple[str, ...] = ()
    if lease is not None:
        del s.leases[lease.lease]
        number, leased = lease.lease, lease.unread
        _free_rooms(s, peer, lease.rooms)
    op = ConfirmMail(no=peer.no, lease=number, msg_ids=frame.msg_ids, notices=frame.notices, at=now.wall)
    s.out.append(Store((op,), MailConfirmed(session.sid, peer.no, frame, number, leased)))


def mail_confirmed(s: State, note: MailConfirmed, result: Confirmed, now: Now) -> None:
    """Seen, on disk."""
    peer = s.peers[note.peer_no]
    peer.unread = result.unread
    peer.notices = result.notices
    _not_out(peer, note.leased)
    delivery.seen(peer, note.confirm.msg_ids)
    if s.watchers:
        watch.seen(s, peer.no, note.confirm.msg_ids, now)
    s.reply(note.sid, wire.Done(req_id=note.confirm.req_id, unread=unread_of(peer)))
    frame = note.confirm
    if (frame.notices and result.notices) or not set(note.leased) <= {*frame.msg_ids, *frame.notices}:
        wake(s, peer, now)  # more of what a notice tells, or the part of the page that was not shown


def confirm_failed(s: State, note: MailConfirmed, now: Now) -> None:
    """The disk refused: the texts stay unread, and nobody must find them locked."""
    peer = s.peers[note.peer_no]
    _not_out(peer, note.leased)
    if note.lease:
        _free(s, peer, note.lease)
        wake(s, peer, now)


def release(s: State, session: Session, frame: wire.Release, now: Now) -> None:
    """The page was not shown: free at once."""
    peer = s.own(session)
    lease = own_lease(s, peer, frame.lease)
    if lease is not None:
        _lapse(s, lease, now)
    s.reply(session.sid, wire.Done(req_id=frame.req_id, unread=unread_of(peer)))


def own_lease(s: State, peer: Peer, lease_no: int) -> Lease | None:
    """The page that is out to this peer under that number."""
    lease = s.leases.get(lease_no)
    return lease if lease is not None and lease.peer is peer else None


def close_lease(s: State, lease: Lease, shown: Container[str]) -> None:
    """The page is no longer out, and what becomes of its mail is said elsewhere.

    Of its messages to rooms those `shown` are gone; the others wait again, for nobody else keeps them.
    """
    del s.leases[lease.lease]
    _not_out(lease.peer, lease.unread)
    _free_rooms(s, lease.peer, [mail for mail in lease.rooms if mail.msg_id in shown])
    _put_back(s, lease, [mail for mail in lease.rooms if mail.msg_id not in shown])
    _free(s, lease.peer, lease.lease)


def lease_ends(s: State, note: LeaseEnds, now: Now) -> None:
    """The reader never confirmed."""
    lease = s.leases.get(note.lease)
    if lease is not None:
        s.count("leases_lapsed")
        _lapse(s, lease, now)


def _not_out(peer: Peer, leased: tuple[str, ...]) -> None:
    """A page that held these is no longer out."""
    for each in leased:
        pages = peer.leased.pop(each, 0)
        if pages > 1:
            peer.leased[each] = pages - 1


def evicted(s: State, peer: Peer, upto: int) -> None:
    """Mail up to this mid left the ring unread: it keeps nothing off the unread count, page or not."""
    for lease in s.leases.values():
        if lease.peer is peer:
            for msg_id, mid in lease.mids.items():
                if mid <= upto:
                    peer.leased.pop(msg_id, None)


def _lapse(s: State, lease: Lease, now: Now) -> None:
    peer = lease.peer
    del s.leases[lease.lease]
    _not_out(peer, lease.unread)
    _free(s, peer, lease.lease)
    peer.stubs.update(msg_id for msg_id in lease.stubs if msg_id in peer.pushed)
    _put_back(s, lease, lease.rooms)
    wake(s, peer, now)


def _free(s: State, peer: Peer, lease: int) -> None:
    s.out.append(Store((EndLease(lease=lease),), LeaseFreed(lease, peer.no)))


def free_failed(s: State, note: LeaseFreed, now: Now) -> None:
    """The disk refused: try again later, or the mail would be locked for as long as the hub runs."""
    s.at(now.mono + RETRY_S, note)


def free_again(s: State, note: LeaseFreed, now: Now) -> None:
    """Another try; who waits reads after it."""
    peer = s.peers.get(note.peer_no)
    if peer is not None:
        _free(s, peer, note.lease)
        wake(s, peer, now)


def _put_back(s: State, lease: Lease, rooms: Sequence[wire.Mail]) -> None:
    peer = lease.peer
    if peer.session is not None and peer.session.sid == lease.live:
        peer.room_mail.extendleft([_redelivered(mail) for mail in reversed(rooms)])
    else:  # they were for the session that was in the room
        _free_rooms(s, peer, rooms)


def _redelivered(mail: wire.Mail) -> wire.Mail:
    return wire.Mail(
        msg_id=mail.msg_id,
        kind=mail.kind,
        sender=mail.sender,
        ts=mail.ts,
        text=mail.text,
        room=mail.room,
        redelivered=True,
    )


# --- waiting -----------------------------------------------------------------------------------------


def wake(s: State, peer: Peer, now: Now) -> None:
    """Something is there for this peer: let one who waits read it, or ring where hooks do."""
    if not hear(s, peer, now):
        hooks.news(s, peer, now)


def hear(s: State, peer: Peer, now: Now) -> bool:
    """Something is there for this peer: let one who waits read it; whether one does."""
    if peer.waiters:
        waiter = peer.waiters.pop(0)
        _read(s, waiter.session, peer, waiter.request, now, waiter.until)
        return True
    if peer.reads:
        peer.news = s.next_lease
    return False


def wait_ends(s: State, note: WaitEnds) -> None:
    """Nothing came: an empty page."""
    session = s.sessions.get(note.sid)
    if session is not None and session.peer is not None and note.req_id in session.open_reads:
        peer = session.peer
        if _stop_waiting(peer, session, note.req_id, note.until):
            _end_read(session, note.req_id)
            s.reply(note.sid, wire.InboxPage(req_id=note.req_id, unread=unread_of(peer)))


def _stop_waiting(peer: Peer, session: Session, req_id: int, until: float | None = None) -> bool:
    for waiter in peer.waiters:
        # With `until`: an earlier wait may have had the same req_id.
        if waiter.session is session and waiter.request.req_id == req_id and until in (None, waiter.until):
            peer.waiters.remove(waiter)
            return True
    return False


def cancel(s: State, session: Session, frame: wire.Cancel, _now: Now) -> None:
    """The caller gave up a read: it gets an answer, and no lease."""
    peer = session.peer
    if peer is None or frame.req_id not in session.open_reads:
        return
    if _stop_waiting(peer, session, frame.req_id):
        _end_read(session, frame.req_id)
        s.fail(session.sid, frame.req_id, "timeout", "cancelled by the caller")
    else:
        session.cancelled.add(frame.req_id)


def end_waits(s: State, peer: Peer) -> None:
    """The peer is about to be removed: nothing will come for it."""
    for waiter in peer.waiters:
        _end_read(waiter.session, waiter.request.req_id)
        message = f"a person removes {peer.name} from this hub: nothing more comes for it"
        s.fail(waiter.session.sid, waiter.request.req_id, "not_registered", message)
    peer.waiters.clear()


def end_leases(s: State, peer: Peer) -> None:
    """The peer is removed, and its mailbox with it: no page of it is out any more."""
    for lease in [lease for lease in s.leases.values() if lease.peer is peer]:
        del s.leases[lease.lease]
        _free_rooms(s, peer, lease.rooms)
    _free_rooms(s, peer, peer.room_mail)


# --- room messages of sessions without push ------------------------------------------------------------


def keep_room_mail(s: State, peer: Peer, mail: wire.Mail) -> None:
    """Keep a room message in memory until it is read; over the limits the oldest make way, counted."""
    size = len(mail.text or "")
    peer.room_mail.append(mail)
    peer.room_bytes += size
    s.room_backlog_bytes += size
    while peer.room_mail and (
        peer.room_bytes > s.limits.room_backlog_bytes
        or s.room_backlog_bytes > s.limits.room_backlog_total_bytes
    ):
        _free_rooms(s, peer, [peer.room_mail.popleft()])
        peer.missed += 1
        s.count("room_messages_missed")


def _take_room_mail(peer: Peer, note: PageReady, page: PageRead) -> tuple[list[wire.Mail], int]:
    """What limit and budget of the page still allow. Their bytes stay counted until confirmed."""
    taken: list[wire.Mail] = []
    passed: list[wire.Mail] = []
    count = len(page.mails)
    used = sum(_space(mail.text) for mail in page.mails) if peer.room_mail else 0
    while peer.room_mail and count < note.request.limit:
        if note.hook and peer.room_mail[0].msg_id in peer.cut_rooms:
            passed.append(peer.room_mail.popleft())
            continue
        used += _space(peer.room_mail[0].text)
        if count and used > note.request.budget:
            break
        count += 1
        taken.append(peer.room_mail.popleft())
    peer.room_mail.extendleft(reversed(passed))
    missed, peer.missed = peer.missed, 0
    return taken, missed


def _space(text: str | None) -> int:
    """Characters of a page that an entry fills, as `ReadPage` counts them."""
    return len(msgspec.json.encode(text or "").decode()) + ENTRY_ROOM


def _free_rooms(s: State, peer: Peer, mails: Iterable[wire.Mail]) -> None:
    for mail in mails:
        size = len(mail.text or "")
        peer.room_bytes -= size
        s.room_backlog_bytes -= size
        if mail.msg_id in peer.cut_rooms:
            peer.cut_rooms.remove(mail.msg_id)
            peer.printed.pop(mail.msg_id, None)


# --- the end of a connection ---------------------------------------------------------------------------


def session_ended(s: State, session: Session, peer: Peer, now: Now) -> None:
    """Its pages are free again, its waits are over."""
    peer.waiters = [waiter for waiter in peer.waiters if waiter.session is not session]
    for lease in [lease for lease in s.leases.values() if lease.sid == session.sid]:
        _lapse(s, lease, now)
    if peer.session is None:
        # Room messages were for the session that was in the room.
        _free_rooms(s, peer, peer.room_mail)
        peer.room_mail.clear()
        peer.missed = 0
        wake(s, peer, now)  # what was pushed to it is unread again
