"""Mail for peers of other hubs: stored in the outbox, sent while the link is up, kept until its hub has it.

An outbox is to a link what a mailbox is to a session: what is new goes at once from memory as long as all
before it has gone, and else waits in the store until the window has room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Raw, Struct

from ecorelay import link_wire, names, wire
from ecorelay.core import delivery, directory, mailbox, watch
from ecorelay.core.actions import CloseLink, Store, ToLink
from ecorelay.core.link_ops import (
    AppendOut,
    FarPeer,
    LoadOut,
    OutAppended,
    OutLoaded,
    OutSettled,
    Resumed,
    ResumeOut,
    SettleOut,
)
from ecorelay.core.records import InFlight
from ecorelay.core.state import unread_of
from ecorelay.errors import CODES, RelayError
from ecorelay.link_wire import WINDOW_BYTES, WINDOW_FRAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay.core.events import Now
    from ecorelay.core.ops import AppendReply, OutExpired, OutRow, Replied
    from ecorelay.core.records import Peer, RemoteHub, Session
    from ecorelay.core.state import State

LOAD_AGAIN_S = 5.0
ANSWERED_WITHIN_S = 60.0
"""How long what was sent may be without any result: then the link is given up, or a hub that says nothing
would keep for ever what waits for it."""
BUSY_S = (1.0, 60.0)
"""How long a hub whose disk takes nothing is left alone at least and at most, until it is tried again."""
DELIVERED_KEPT = 1_000
"""Ids of what a session took at once, for each hub: a send that is repeated is answered like the first."""
REFUSED = "refused"
"""Reason of what was rejected for one that this version does not know."""
EVERYBODY = "*"
"""Stands for the peers of another hub in the receipt of a broadcast; no peer is called so."""


class OutStored(Struct, frozen=True):
    """Note: it lies in the outbox; send it, and answer the sender."""

    sid: int
    req_id: int
    hub: str
    op: AppendOut
    unverified: bool
    again: bool = False
    """It was said again after a reconnect, see `replay`."""


class OutLoading(Struct, frozen=True):
    """Note: send what was loaded over this link, if nothing after `after` was sent meanwhile."""

    link: int
    after: int


class OutDue(Struct, frozen=True):
    """Timer note: loading failed a while ago, or the disk of the other hub did."""

    link: int


class OutResumed(Struct, frozen=True):
    """Note: what the other hub has is settled; the rest goes over this link."""

    link: int
    hub: str


class OutGone(Struct, frozen=True):
    """Note: all up to this seq left the outbox of a hub."""

    hub: str
    upto: int


class GoneDue(Struct, frozen=True):
    """Timer note: the disk refused to settle what a hub has."""

    hub: str


class Unanswered(Struct, frozen=True):
    """Timer note: what was sent over this link may have been without a result for too long."""

    link: int


# --- sending -----------------------------------------------------------------------------------------------


def send(
    s: State, session: Session, peer: Peer, frame: wire.Send, hub: RemoteHub, name: str, now: Now
) -> None:
    """Mail to a peer of another hub."""
    far, missing = None, ""
    try:
        far = directory.find(hub, name)
    except RelayError as error:
        if not frame.resend:
            raise
        missing = error.message  # but it may have been stored when there was one
    to = far or FarPeer(name=name)
    body = link_wire.MailBody(
        to=to.name,
        to_id=to.peer_id or None,
        sender=peer.name,
        sender_id=peer.peer_id,
        kind="message",
        text=frame.text,
        reply_to=frame.reply_to,
        urgent=frame.urgent,
    )
    op = AppendOut(
        hub_no=hub.no,
        to=to,
        msg_id=frame.op_id,
        kind="message",
        sender_no=peer.no,
        sender=peer.name,
        text=frame.text,
        body=link_wire.encode_body(body),
        at=now.wall,
        reply_to=frame.reply_to,
        missing=missing,
    )
    key = names.key(hub.hub_id)
    s.out.append(
        Store(
            (op,), OutStored(session.sid, frame.req_id, key, op, unverified=far is None, again=frame.resend)
        )
    )


def stored(s: State, note: OutStored, result: OutAppended, now: Now) -> None:
    """Committed: it goes over the link, if that is up and nothing waits before it."""
    hub = s.hubs.get(note.hub)
    op = note.op
    if hub is not None and not result.duplicate:
        _count_in(hub, len(op.body))
        if s.watchers:
            watch.sent_away(s, op, f"{op.to.name}@{hub.hub_id}", now)
        gone = goes_at_once(s, hub, result.seq, op.msg_id, op.at, op.body, now)
        if gone and _awaits(s, hub, op.to.peer_id, op.msg_id, note.sid, note.req_id, now):
            return
    _answer(s, hub, note.sid, note.req_id, op.msg_id, unverified=note.unverified)


def _awaits(s: State, hub: RemoteHub, peer_id: str, msg_id: str, sid: int, req_id: int, now: Now) -> bool:
    """Whether the sender's answer waits for the other hub to say `delivered`."""
    if not directory.pushes(hub, peer_id):
        return False
    flight = InFlight(msg_id, 0, 0, now.mono)
    flight.asked = hub.asked
    hub.asked[msg_id] = flight
    delivery.await_delivered(s, flight, sid, req_id, now)
    return True


def _answer(
    s: State, hub: RemoteHub | None, sid: int, req_id: int, msg_id: str, *, unverified: bool = False
) -> None:
    session = s.sessions.get(sid)
    if session is not None and session.peer is not None:
        answer = wire.Sent(
            req_id=req_id,
            msg_id=msg_id,
            status="delivered" if hub is not None and msg_id in hub.delivered else "queued",
            unverified=unverified,
            unread=unread_of(session.peer),
        )
        s.reply(sid, answer)


def ask_all(hub: RemoteHub, peer: Peer, frame: wire.Broadcast, now: Now) -> AppendOut:
    """A broadcast, as it goes to one other hub."""
    body = link_wire.AskAllBody(sender=peer.name, sender_id=peer.peer_id, text=frame.question)
    return AppendOut(
        hub_no=hub.no,
        to=FarPeer(name=EVERYBODY),
        msg_id=frame.op_id,
        kind="ask",
        sender_no=peer.no,
        sender=peer.name,
        text=frame.question,
        body=link_wire.encode_body(body),
        at=now.wall,
        broadcast_id=frame.op_id,
        also=True,
    )


def asked_all(s: State, ops: Sequence[AppendOut], results: Sequence[OutAppended], now: Now) -> set[int]:
    """A broadcast lies in these outboxes; numbers of the hubs to which it went at once."""
    hubs = {hub.no: hub for hub in s.hubs.values()}
    went = set()
    for op, result in zip(ops, results, strict=True):
        hub = hubs[op.hub_no]  # one that is forgotten is so after what was stored for it before
        if not result.seq:  # no room: it is not asked
            s.count("outbox full")
            continue
        _count_in(hub, len(op.body))
        if goes_at_once(s, hub, result.seq, op.msg_id, op.at, op.body, now):
            went.add(hub.no)
    return went


def _count_in(hub: RemoteHub, size: int) -> None:
    hub.waiting += 1
    hub.bytes += size


def goes_at_once(s: State, hub: RemoteHub, seq: int, msg_id: str, at: int, body: bytes, now: Now) -> bool:
    """Send what was just stored, unless it has to wait: for the link, for others, for room."""
    hub.last = max(hub.last, seq)
    if not hub.up or not hub.caught_up or hub.loading or hub.paused or not _has_room(hub):
        hub.caught_up = False
        load(s, hub)
        return False
    _transmit(s, hub, seq, msg_id, at, body, now)
    return True


def replied(s: State, sid: int, req_id: int, op: AppendReply, result: Replied, now: Now) -> None:
    """A reply lies in the outbox: the store knew where it goes."""
    hub = next((hub for hub in s.hubs.values() if hub.no == result.hub_no), None)
    if hub is not None and not result.appended.duplicate:
        _count_in(hub, len(result.out_body))
        if s.watchers:
            watch.sent_away(s, op, f"@{hub.hub_id}", now)  # to whom is known to the store alone
        gone = goes_at_once(s, hub, result.out_seq, op.msg_id, op.at, result.out_body, now)
        if gone and _awaits(s, hub, result.out_to, op.msg_id, sid, req_id, now):
            return
    _answer(s, hub, sid, req_id, op.msg_id)


def placed(s: State, rows: Sequence[OutRow], now: Now) -> None:
    """Frames that nobody waits for were put into outboxes."""
    for row in rows:
        for hub in [hub for hub in s.hubs.values() if hub.no == row.hub_no]:
            _count_in(hub, len(row.body))
            goes_at_once(s, hub, row.seq, row.msg_id, row.at, row.body, now)


def _has_room(hub: RemoteHub) -> bool:
    return len(hub.inflight) < WINDOW_FRAMES and hub.inflight_bytes < WINDOW_BYTES


def _transmit(s: State, hub: RemoteHub, seq: int, msg_id: str, at: int, body: bytes, now: Now) -> None:
    hub.sent = seq
    if not hub.inflight:
        hub.progress_at = now.mono
    if not hub.watched:
        hub.watched = True
        s.at(now.mono + ANSWERED_WITHIN_S, Unanswered(hub.link))
    hub.inflight.append((seq, len(body)))
    hub.inflight_bytes += len(body)
    frame = link_wire.Durable(seq=seq - hub.base, msg_id=msg_id, age_ms=max(0, now.wall - at), body=Raw(body))
    s.out.append(ToLink(hub.link, frame))


# --- what waits --------------------------------------------------------------------------------------------


def load(s: State, hub: RemoteHub) -> None:
    """Load more for a link that fell behind, once half its window is free."""
    if (
        hub.up
        and not hub.caught_up
        and not hub.loading
        and not hub.paused
        and len(hub.inflight) * 2 <= WINDOW_FRAMES
        and hub.inflight_bytes * 2 <= WINDOW_BYTES
    ):
        hub.loading = True
        op = LoadOut(
            hub_no=hub.no,
            after=hub.sent,
            max_count=WINDOW_FRAMES - len(hub.inflight),
            max_bytes=WINDOW_BYTES - hub.inflight_bytes,
        )
        s.out.append(Store((op,), OutLoading(hub.link, hub.sent)))


def loaded(s: State, note: OutLoading, result: OutLoaded, now: Now) -> None:
    """Send it, in order."""
    hub = s.links.get(note.link)
    if hub is None or not hub.up or not hub.loading or note.after != hub.sent:
        return  # or it has to be sent anew from an earlier one
    hub.loading = False
    for frame in result.frames:
        _transmit(s, hub, frame.seq, frame.msg_id, frame.at, frame.body, now)
        hub.last = max(hub.last, frame.seq)
    hub.caught_up = not result.more  # what was stored after these is heard of after them
    load(s, hub)


def load_failed(s: State, note: OutLoading, now: Now) -> None:
    """The disk refused: it is still there; try again in a while."""
    hub = s.links.get(note.link)
    if hub is not None:
        s.count("outbox_load_failed")
        s.at(now.mono + LOAD_AGAIN_S, OutDue(note.link))


def due(s: State, note: OutDue) -> None:
    """Time to try again."""
    hub = s.links.get(note.link)
    if hub is not None:
        hub.loading = hub.paused = False
        load(s, hub)


def unanswered(s: State, note: Unanswered, now: Now) -> None:
    """Time to look whether the other hub still says what it has."""
    hub = s.links.get(note.link)
    if hub is None:
        return
    due = hub.progress_at + ANSWERED_WITHIN_S
    hub.watched = bool(hub.inflight)
    if hub.inflight and due <= now.mono:
        s.out.append(CloseLink(hub.link, f"no result for {int(ANSWERED_WITHIN_S)} s"))
    elif hub.inflight:
        s.at(due, note)


# --- what became of it -------------------------------------------------------------------------------------


def _known(code: str) -> str:
    """Why something was rejected.

    A code that is none of ours is not kept: it would be shown, and there is a notice for each.
    """
    return code if code in CODES else REFUSED


def resume(s: State, hub: RemoteHub, frame: link_wire.Resume, now: Now) -> None:
    """The other hub says what it has."""
    if hub.resuming:
        s.out.append(CloseLink(hub.link, "a second resume"))
        return
    hub.resuming = True
    rejected = {each.seq: _known(each.code) for each in frame.rejected}
    if hub.began and frame.stream == hub.ours:
        rejected |= {seq - hub.base: code for seq, code in hub.refused}
    op = ResumeOut(
        hub_no=hub.no,
        stream=hub.ours,
        known=frame.stream or "",
        received=frame.received,
        rejected=tuple(rejected.items()),
        at=now.wall,
    )
    s.out.append(Store((op,), OutResumed(hub.link, names.key(hub.hub_id))))


def resumed(s: State, note: OutResumed, result: Resumed, now: Now) -> None:
    """From here on everything goes over this link."""
    hub = s.hubs.get(note.hub)
    if hub is None:
        return
    gone(s, hub, result.out, now)
    hub.began = True
    hub.base, hub.settled, hub.sent = result.base, result.settled, result.settled
    hub.refused = []
    if hub.link != note.link:  # lost meanwhile
        return
    hub.last = max(hub.last, result.last)
    hub.up, hub.up_at, hub.loading = True, now.wall, False
    hub.caught_up = hub.sent >= hub.last
    load(s, hub)


def results(s: State, hub: RemoteHub, frame: link_wire.Results, now: Now) -> None:
    """The other hub has more of it, or refused it."""
    upto = hub.base + frame.received
    if not hub.up or upto > hub.sent:
        s.out.append(CloseLink(hub.link, "results of what was never sent"))
        return
    if upto <= hub.settled:
        return
    hub.progress_at = now.mono
    for each in frame.rejected:
        if hub.settled < hub.base + each.seq <= upto:
            hub.refused.append((hub.base + each.seq, _known(each.code)))
    hub.settled = upto
    while hub.inflight and hub.inflight[0][0] <= upto:
        hub.inflight_bytes -= hub.inflight.popleft()[1]
    _settle(s, hub, now)
    load(s, hub)


def busy(s: State, hub: RemoteHub, frame: link_wire.Busy, now: Now) -> None:
    """The disk of the other hub took nothing after what it has: that is sent again, in a while."""
    if not hub.up or not hub.settled <= hub.base + frame.received <= hub.sent:
        s.out.append(CloseLink(hub.link, "busy with what was never sent"))
        return
    waits = hub.paused
    hub.paused = True
    results(s, hub, link_wire.Results(received=frame.received, rejected=frame.rejected), now)
    s.count("link busy")
    hub.inflight.clear()
    hub.inflight_bytes = 0
    hub.sent = hub.settled
    hub.caught_up = hub.loading = False
    if waits:  # a hub that says it again and again is no reason to remember more
        return
    shortest, longest = BUSY_S
    s.at(now.mono + min(max(frame.retry_ms / 1000, shortest), longest), OutDue(hub.link))


def _settle(s: State, hub: RemoteHub, now: Now) -> None:
    """Have the store settle what the other hub has: once at a time, the next covers what came meanwhile."""
    if hub.settling:
        return
    hub.settling = True
    op = SettleOut(hub_no=hub.no, upto=hub.settled, rejected=tuple(hub.refused), at=now.wall)
    s.out.append(Store((op,), OutGone(names.key(hub.hub_id), hub.settled)))


def settled(s: State, note: OutGone, result: OutSettled, now: Now) -> None:
    """The rows are gone."""
    hub = s.hubs.get(note.hub)
    if hub is not None:
        hub.settling = False
        hub.refused = [each for each in hub.refused if each[0] > note.upto]
        gone(s, hub, result, now)
        if hub.up and hub.settled > note.upto:
            _settle(s, hub, now)


def settle_failed(s: State, note: OutGone, now: Now) -> None:
    """The disk refused: they are still there; what comes next settles them too, or the next try."""
    s.count("outbox_settle_failed")
    if (hub := s.hubs.get(note.hub)) is not None:
        hub.settling = False
    s.at(now.mono + LOAD_AGAIN_S, GoneDue(note.hub))


def gone_due(s: State, note: GoneDue, now: Now) -> None:
    """Time to try again."""
    hub = s.hubs.get(note.hub)
    if hub is not None and hub.up:  # the next link settles it as well
        _settle(s, hub, now)


def gone(s: State, hub: RemoteHub, result: OutSettled, now: Now) -> None:
    """So much less waits; senders find a notice about what did not arrive."""
    hub.waiting -= result.count
    hub.bytes -= result.bytes
    mailbox.tell_senders(s, result.told, now)


def expired(s: State, result: OutExpired, now: Now) -> None:
    """What waited for a hub for too long has left its outbox."""
    hub = next((hub for hub in s.hubs.values() if hub.no == result.hub_no), None)
    if hub is None:
        return
    s.count("outbox expired", result.count)
    hub.settled = max(hub.settled, result.upto)
    if hub.link:  # it was busy, and waits for numbers that do not come; the next link begins after them
        s.out.append(CloseLink(hub.link, "what waited for it expired"))
    gone(s, hub, OutSettled(result.count, result.bytes, result.told), now)


def delivered(s: State, hub: RemoteHub, frame: link_wire.Delivered) -> None:
    """A session there took these at once."""
    for msg_id in frame.msg_ids:
        flight = hub.asked.get(msg_id)
        if flight is not None:
            hub.delivered[msg_id] = None
            if len(hub.delivered) > DELIVERED_KEPT:
                del hub.delivered[next(iter(hub.delivered))]
            delivery.settle(s, flight, "delivered")


def lost(s: State, hub: RemoteHub) -> None:
    """The link is gone: who waits for more than the outbox is answered."""
    for flight in list(hub.asked.values()):
        delivery.settle(s, flight, "queued")
    hub.inflight.clear()
    hub.inflight_bytes = 0
    hub.up = hub.resuming = hub.loading = hub.caught_up = hub.paused = hub.watched = False
