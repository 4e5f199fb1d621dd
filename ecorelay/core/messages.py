"""Mail: send, reply, broadcast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from ecorelay import names, wire
from ecorelay.core import delivery, directory, outbox, replay, watch
from ecorelay.core.actions import Store
from ecorelay.core.link_ops import AppendOut
from ecorelay.core.ops import Appended, AppendMail, AppendReply, Replied
from ecorelay.core.records import Asking, InFlight, Session
from ecorelay.core.state import State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay import link_wire
    from ecorelay.core.events import Now
    from ecorelay.core.records import RemoteHub

GUARD_S = 60.0
BROADCAST_GUARD_S = 3600.0
GUARDS_KEPT = 20_000
ASKED_WITHIN_S = 1.0
"""How long the answer to a broadcast waits for other hubs to say how many they asked."""
ASKED_MAX = 1_000
"""More peers no hub asks, whatever it says (`limits.broadcast_peers`)."""
HUB_FACTOR = 10
SENDER_FACTOR = 2
"""So many times what one peer of ours may say, a whole hub may to the same recipient, and one peer of it."""
BACKLOG_MS = 10_000
"""What was sent longer ago than that, waited for the link."""
BROADCAST = -1
REPLIES = -2
ROOMS = -3
GROUPS = -10
"""Stand for the recipient in a guard: broadcasts, replies, rooms, and (GROUPS - group no) a group."""
_ALL = " *"
"""After the peer_id of another hub's peer: its broadcasts."""
_GUARDED: dict[int | str, str] = {BROADCAST: "broadcasts", REPLIES: "replies", ROOMS: "room messages"}


class MailStored(Struct, frozen=True):
    """Note: push it, and answer the sender."""

    sid: int
    req_id: int
    op: AppendMail
    again: bool = False
    """It was said again after a reconnect, see `replay`."""


class ReplyStored(Struct, frozen=True):
    """Note: push the answer, and answer the replier."""

    sid: int
    req_id: int
    op: AppendReply
    again: bool = False
    """It was said again after a reconnect, see `replay`."""


class BroadcastStored(Struct, frozen=True):
    """Note: push the ask to all, and answer the asker."""

    sid: int
    frame: wire.Broadcasted
    op: AppendMail
    out: tuple[AppendOut, ...] = ()


class AskingEnds(Struct, frozen=True):
    """Timer note: who has not said by now how many it asked is not waited for."""

    broadcast_id: str


# --- send --------------------------------------------------------------------------------------------


def send(s: State, session: Session, frame: wire.Send, now: Now) -> None:
    """Mail to one peer: stored, then pushed, then answered."""
    peer = s.speaker(session)
    s.check_text(frame.text)
    if "@" in frame.to and (far := directory.hub_of(s, frame.to)) is not None:
        guard(s, peer.no, names.key(frame.to), s.limits.sends_per_minute, GUARD_S, now)
        outbox.send(s, session, peer, frame, *far, now)
        return
    to = s.resolve(frame.to, now)
    guard(s, peer.no, to.no, s.limits.sends_per_minute, GUARD_S, now)
    op = AppendMail(
        msg_id=frame.op_id,
        kind="message",
        sender_no=peer.no,
        sender=peer.name,
        recipients=(to.no,),
        text=frame.text,
        at=now.wall,
        reply_to=frame.reply_to,
        urgent=frame.urgent,
        again=frame.resend,
    )
    s.out.append(Store((op,), MailStored(session.sid, frame.req_id, op, frame.resend)))


def mail_stored(s: State, note: MailStored, result: Appended, now: Now) -> None:
    """Committed: the recipient's session gets it, the sender its answer."""
    if result.duplicate:
        _answer(s, note.sid, note.req_id, note.op.msg_id, "delivered" if result.delivered else "queued")
        return
    flight = delivery.deliver(s, note.op, result, now)
    _answer_after_push(s, note.sid, note.req_id, note.op.msg_id, flight, now)


def _answer_after_push(
    s: State, sid: int, req_id: int, msg_id: str, flight: InFlight | None, now: Now
) -> None:
    if flight is None:
        _answer(s, sid, req_id, msg_id, "queued")
    else:
        delivery.await_delivered(s, flight, sid, req_id, now)


def _answer(s: State, sid: int, req_id: int, msg_id: str, status: wire.Status) -> None:
    session = s.sessions.get(sid)
    if session is not None and session.peer is not None:
        s.reply(sid, wire.Sent(req_id=req_id, msg_id=msg_id, status=status, unread=unread_of(session.peer)))


# --- reply -------------------------------------------------------------------------------------------


def reply(s: State, session: Session, frame: wire.Reply, now: Now) -> None:
    """Answer an ask or a message by its id; the store knows who sent it."""
    peer = s.speaker(session)
    s.check_text(frame.text)
    guard(s, peer.no, REPLIES, s.limits.sends_per_minute, GUARD_S, now)
    op = AppendReply(
        msg_id=frame.op_id,
        target_id=frame.ask_id,
        sender_no=peer.no,
        sender=peer.name,
        text=frame.text,
        at=now.wall,
    )
    s.out.append(Store((op,), ReplyStored(session.sid, frame.req_id, op, frame.resend)))


def reply_stored(s: State, note: ReplyStored, result: Replied, now: Now) -> None:
    """Committed, and what was answered is seen."""
    op = note.op
    peer = s.peers.get(op.sender_no)
    if peer is not None and peer.loaded:
        peer.unread = result.own_unread
        delivery.seen(peer, (op.target_id,))
    if s.watchers:
        watch.seen(s, op.sender_no, (op.target_id,), now, to=result.recipient_no)
    if result.hub_no:
        outbox.replied(s, note.sid, note.req_id, op, result, now)
        return
    if result.appended.duplicate:
        status: wire.Status = "delivered" if result.appended.delivered else "queued"
        _answer(s, note.sid, note.req_id, op.msg_id, status)
        return
    mail = AppendMail(
        msg_id=op.msg_id,
        kind="reply",
        sender_no=op.sender_no,
        sender=op.sender,
        recipients=(result.recipient_no,),
        text=op.text,
        at=op.at,
        reply_to=op.target_id,
        broadcast_id=result.broadcast_id,
    )
    flight = delivery.deliver(s, mail, result.appended, now)
    _answer_after_push(s, note.sid, note.req_id, op.msg_id, flight, now)


# --- broadcast ---------------------------------------------------------------------------------------


def broadcast(s: State, session: Session, frame: wire.Broadcast, now: Now) -> None:
    """One ask to every online peer: one text, a row for each."""
    peer = s.speaker(session)
    s.check_text(frame.question, "question")
    guard(s, peer.no, BROADCAST, s.limits.broadcasts_per_hour, BROADCAST_GUARD_S, now)
    online = [
        other.peer.no
        for other in s.sessions.values()
        if other.ready and other.peer is not None and other.peer.session is other
    ]
    recipients = tuple([no for no in online if no != peer.no or not frame.exclude_self])
    if len(recipients) > s.limits.broadcast_peers:
        raise RelayError(
            "limit_reached",
            f"{len(recipients)} peers are online, a broadcast asks at most {s.limits.broadcast_peers}: "
            "pick some by relay_peers, or use a group",
        )
    hubs = [hub for hub in s.hubs.values() if hub.up]
    answer = wire.Broadcasted(
        req_id=frame.req_id,
        broadcast_id=frame.op_id,
        peer_count=len(recipients),
        pending_hubs=len(hubs),
    )
    op = AppendMail(
        msg_id=frame.op_id,
        kind="ask",
        sender_no=peer.no,
        sender=peer.name,
        recipients=recipients,
        text=frame.question,
        at=now.wall,
        broadcast_id=frame.op_id,
    )
    saved = replay.save(peer, frame, answer, now)
    out = tuple([outbox.ask_all(hub, peer, frame, now) for hub in hubs])
    ops = (*((op,) if recipients else ()), *out, saved)
    s.out.append(Store(ops, BroadcastStored(session.sid, answer, op, out)))


def broadcast_stored(s: State, note: BroadcastStored, results: Sequence[Any], now: Now) -> None:
    """Committed for all of them; the asker is told once the other hubs have said how many they asked."""
    if note.op.recipients and not results[0].duplicate:
        delivery.deliver(s, note.op, results[0], now)
    if not note.out:
        replay.answer(s, note.sid, note.frame)
        return
    placed = results[-1 - len(note.out) : -1]
    waits = outbox.asked_all(s, note.out, placed, now)
    if waits:
        behind = len(note.out) - len(waits)
        s.asking[note.frame.broadcast_id] = Asking(note.sid, note.frame, waits, behind)
        s.at(now.mono + ASKED_WITHIN_S, AskingEnds(note.frame.broadcast_id))
    else:
        replay.answer(s, note.sid, note.frame)


def asked(s: State, hub: RemoteHub, frame: link_wire.Asked) -> None:
    """Another hub says how many it asked."""
    asking = s.asking.get(frame.msg_id)
    if asking is None or hub.no not in asking.waits:
        return
    asking.waits.discard(hub.no)
    asking.count += min(frame.count, ASKED_MAX)
    if not asking.waits:
        asking_ends(s, AskingEnds(frame.msg_id))


def asking_ends(s: State, note: AskingEnds) -> None:
    """All have said it, or it took too long."""
    asking = s.asking.pop(note.broadcast_id, None)
    if asking is not None:
        frame = msgspec.structs.replace(
            asking.frame,
            peer_count=asking.frame.peer_count + asking.count,
            pending_hubs=len(asking.waits) + asking.behind,
        )
        replay.answer(s, asking.sid, frame)


# --- guards ------------------------------------------------------------------------------------------


def guard(s: State, sender: int, recipient: int | str, limit: int, window: float, now: Now) -> None:
    """Count one more of `limit` in `window` seconds.

    Raises:
        RelayError: ``limit_reached`` with the time to wait.
    """
    if not limit:
        return
    start, count = s.guards.get((sender, recipient), (now.mono, 0))
    if now.mono - start >= window:
        start, count = now.mono, 0
    if count >= limit:
        s.count("guard_refused")
        wait = int(window - (now.mono - start)) + 1
        what = _GUARDED.get(recipient, "messages to one address")
        raise RelayError(
            "limit_reached",
            f"{limit} {what} in {int(window)} s is the guard against loops: wait {wait} s, "
            "and do not answer answers",
        )
    s.guards[sender, recipient] = (start, count + 1)
    if len(s.guards) > GUARDS_KEPT:
        kept = {
            pair: each
            for pair, each in s.guards.items()
            if now.mono - each[0] < (BROADCAST_GUARD_S if _is_broadcast(pair[1]) else GUARD_S)
        }
        # Another hub may name senders without end: then the oldest go, so that this is done seldom.
        s.guards = dict(list(kept.items())[-GUARDS_KEPT // 2 :])


def guard_hub(s: State, hub: RemoteHub, sender_id: str, recipient: int, age_ms: int, now: Now) -> None:
    """Count one more that came from another hub, for a recipient (or `BROADCAST`).

    What waited there for a while is what gathered during an absence: that arrives whole, and only the hub's
    own rate counts. What is said now counts for its sender as well, with twice what its own hub lets it say,
    since the minutes of two hubs do not begin together.

    Raises:
        RelayError: ``limit_reached``, as from `guard`.
    """
    if recipient == BROADCAST:
        limit, window = s.limits.broadcasts_per_hour, BROADCAST_GUARD_S
    else:
        limit, window = s.limits.sends_per_minute, GUARD_S
    guard(s, -hub.no, recipient, limit * HUB_FACTOR, window, now)
    if age_ms < BACKLOG_MS:
        of = f"{sender_id}{_ALL}" if recipient == BROADCAST else f"{sender_id} {recipient}"
        guard(s, -hub.no, of, limit * SENDER_FACTOR, window, now)


def _is_broadcast(recipient: int | str) -> bool:
    return recipient == BROADCAST or (isinstance(recipient, str) and recipient.endswith(_ALL))
