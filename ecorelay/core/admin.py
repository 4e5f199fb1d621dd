"""What a person asks of the hub as a whole: what became of a message, sizes, a purge, a backup, its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import wire
from ecorelay.core import delivery, far_trace, group_history, mailbox
from ecorelay.core.actions import Describe, Reload, Stop, Store
from ecorelay.core.ops import (
    BackupWritten,
    MailMeasured,
    MailPurged,
    MailReceipt,
    MeasureMail,
    MessageTraced,
    PurgeMail,
    TraceMessage,
    WriteBackup,
)
from ecorelay.core.state import State, unread_of

if TYPE_CHECKING:
    from ecorelay.core.events import Now
    from ecorelay.core.records import RemoteHub, Session
    from ecorelay.errors import Code

LARGEST = 20
"""Mailboxes that `hub status` names."""
BUSY = "its disk takes nothing: what waits is sent again and again, until it does"


class MessageFound(Struct, frozen=True):
    """Note: tell what is known of the message."""

    sid: int
    req_id: int


class MailSized(Struct, frozen=True):
    """Note: tell about the hub, with what lies in its mailboxes."""

    sid: int
    req_id: int


class BackupMade(Struct, frozen=True):
    """Note: the copy is complete."""

    sid: int
    req_id: int
    path: str


class Purging(Struct, frozen=True):
    """Note: one more step of a purge is done; so much was removed before it."""

    sid: int
    req_id: int
    before: int
    unread: bool
    messages: int = 0
    lines: int = 0


def _unread(s: State, sid: int) -> int:
    session = s.sessions.get(sid)
    return unread_of(session.peer) if session is not None and session.peer is not None else 0


# --- one message ---------------------------------------------------------------------------------------


def trace(s: State, session: Session, frame: wire.Trace, now: Now) -> None:
    """What became of a message. What carriers took a moment ago is written first, so that it counts."""
    delivery.flush_pushed(s)
    op = TraceMessage(msg_id=frame.msg_id)
    s.out.append(Store((op,), MessageFound(session.sid, frame.req_id)))


def traced(s: State, note: MessageFound, found: MessageTraced, now: Now) -> None:
    """This is known of it here; hubs that have it are asked for the rest."""
    answer = wire.Traced(
        req_id=note.req_id,
        msg_id=found.msg_id,
        kind=found.kind,
        sender=found.sender,
        ts=found.at,
        size=found.size,
        reply_to=found.reply_to,
        broadcast_id=found.broadcast_id,
        group=found.group,
        receipts=tuple(map(_receipt, found.receipts)),
        unread=_unread(s, note.sid),
    )
    if not far_trace.ask(s, note.sid, answer, now):
        s.reply(note.sid, answer)


def _receipt(known: MailReceipt) -> wire.Receipt:
    state = _state(known)
    # What was seen after all did not end unseen.
    ended = state == known.ended
    return wire.Receipt(
        recipient=known.recipient,
        state=state,
        stored_at=known.stored_at,
        forwarded_at=known.forwarded_at,
        pushed_at=known.pushed_at,
        carrier=known.carrier,
        seen_at=known.seen_at,
        replied_at=known.replied_at,
        ended_at=known.ended_at if ended else 0,
        reason=(known.reason or known.ended) if ended else "",
    )


def _state(known: MailReceipt) -> wire.ReceiptState:
    """The last rung of the ladder for which there is proof."""
    if known.replied_at:
        return "replied"
    if known.seen_at:
        return "seen"
    if known.ended:
        return known.ended
    if known.pushed_at:
        return "pushed"
    return "forwarded" if known.forwarded_at else "unread"


# --- the hub -------------------------------------------------------------------------------------------


def status(s: State, session: Session, frame: wire.HubStatus, _now: Now) -> None:
    """`hub status`: the store says what lies in the mailboxes, if it can."""
    s.out.append(Store((MeasureMail(largest=LARGEST),), MailSized(session.sid, frame.req_id)))


def sized(s: State, note: MailSized, mail: MailMeasured) -> None:
    """Tell, with sizes."""
    _describe(s, note, mail, ())


def not_sized(s: State, note: MailSized, message: str) -> None:
    """The store could not say: tell all the same, and why that is missing."""
    nothing = MailMeasured(0, 0, 0, 0, ())
    _describe(s, note, nothing, (f"what lies in the mailboxes is not known: {message}",))


def _link(hub: RemoteHub) -> wire.LinkDetails:
    return wire.LinkDetails(
        hub_id=hub.hub_id,
        up=hub.up,
        since=hub.up_at if hub.up else hub.lost_at,
        version=hub.version,
        waiting=hub.waiting,
        waiting_bytes=hub.bytes,
        in_flight=len(hub.inflight),
        peers=len(hub.peers),
        online=sum(1 for peer in hub.peers.values() if peer.online) if hub.introduced else 0,
        trouble=BUSY if hub.paused else "",
    )


def _describe(s: State, note: MailSized, mail: MailMeasured, problems: tuple[str, ...]) -> None:
    if note.sid not in s.sessions:
        return
    s.out.append(
        Describe(
            note.sid,
            wire.HubDetails(
                req_id=note.req_id,
                hub_id=s.hub_id,
                version=s.version,
                sessions=sum(1 for each in s.sessions.values() if each.hello.role == "session"),
                connections=len(s.sessions),
                peers=len(s.peers),
                groups=len(s.groups),
                rooms=len(s.rooms),
                mailboxes=mail.mailboxes,
                mail_messages=mail.messages,
                mail_unread=mail.unread,
                mail_bytes=mail.bytes,
                largest=tuple(
                    wire.MailboxSize(name=s.peers[no].name, messages=count, unread=unread, bytes=size)
                    for no, count, unread, size in mail.largest
                    if no in s.peers
                ),
                links=tuple(map(_link, s.hubs.values())),
                problems=problems,
                counters=dict(s.counters),
                unread=_unread(s, note.sid),
            ),
        )
    )


def reload(s: State, session: Session, frame: wire.HubReload, _now: Now) -> None:
    """A person changed bridge.json, or whom this hub trusts."""
    s.out.append(Reload(session.sid, frame.req_id, _unread(s, session.sid)))


def stop(s: State, session: Session, frame: wire.HubStop, _now: Now) -> None:
    """A client wants the hub to end."""
    s.reply(session.sid, wire.Done(req_id=frame.req_id))
    s.out.append(Stop(frame.reason or "asked to by a client"))


def backup(s: State, session: Session, frame: wire.Backup, _now: Now) -> None:
    """A copy of everything, as a new file."""
    op = WriteBackup(path=frame.path)
    s.out.append(Store((op,), BackupMade(session.sid, frame.req_id, frame.path)))


def backed_up(s: State, note: BackupMade, written: BackupWritten) -> None:
    """It is complete and on disk."""
    s.count("backups")
    s.reply(
        note.sid,
        wire.BackedUp(req_id=note.req_id, path=note.path, size=written.size, unread=_unread(s, note.sid)),
    )


# --- purge ---------------------------------------------------------------------------------------------


def purge(s: State, session: Session, frame: wire.Purge, now: Now) -> None:
    """Remove what is old, step by step, so that all else goes on meanwhile."""
    delivery.flush_pushed(s)
    # Nothing is older than what has not happened yet: the receipts of this purge stay.
    before = min(frame.before, now.wall)
    op = _step(s, before, frame.unread, (), now)
    s.out.append(Store((op,), Purging(session.sid, frame.req_id, before, frame.unread)))


def _step(s: State, before: int, unread: bool, place: tuple[int, ...], now: Now) -> PurgeMail:
    spared = group_history.being_read(s)
    return PurgeMail(before=before, unread=unread, now=now.wall, spared=spared, place=place)


def purged(s: State, note: Purging, done: MailPurged, now: Now) -> None:
    """A step is done: what we know of mailboxes and groups follows, and the next step."""
    s.count("purged", done.messages + done.lines)
    for no, unread, msg_ids in done.unread:
        peer = s.peers.get(no)
        if peer is not None and peer.loaded:
            peer.unread = unread
            delivery.seen(peer, msg_ids)
    for no, member_no, unread in done.groups:
        group_history.recount(s, no, member_no, unread)
    for each in done.evictions:
        s.count("purged_unread", each.count)
    mailbox.tell_senders(s, done.evictions, now)
    messages, lines = note.messages + done.messages, note.lines + done.lines
    if done.place:
        op = _step(s, note.before, note.unread, done.place, now)
        goes_on = Purging(note.sid, note.req_id, note.before, note.unread, messages, lines)
        s.out.append(Store((op,), goes_on))
        return
    s.reply(
        note.sid,
        wire.Purged(req_id=note.req_id, messages=messages, lines=lines, unread=_unread(s, note.sid)),
    )


def purge_failed(s: State, note: Purging, code: Code, message: str) -> None:
    """The disk refused a step; those before it are done."""
    if note.messages or note.lines:
        message = f"{message} ({note.messages} messages and {note.lines} lines were removed before that)"
    s.fail(note.sid, note.req_id, code, message)
