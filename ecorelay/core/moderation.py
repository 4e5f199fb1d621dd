"""What a person does about a peer: forget it, with all it has; stop it from sending. Or about a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ecorelay import names, wire
from ecorelay.core import delivery, far_groups, far_rooms, group_names, groups, links, mailbox, outbox, peers
from ecorelay.core.actions import Store
from ecorelay.core.group_ops import Leave, TakeEnd
from ecorelay.core.link_ops import ForgetHub
from ecorelay.core.ops import (
    AppendMail,
    DropGroup,
    ForgetPeer,
    OpResult,
    RemoveMember,
    SetBlock,
)
from ecorelay.core.state import State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now, StoreFailed
    from ecorelay.core.records import Peer, RemoteHub, Session

FORGET_TRIES = 3
"""What was on its way to the store may have changed its groups: it is asked again, with what is so then."""
BLOCKS_MAX = 10_000
"""Blocked peers: the list of them goes out as one frame."""


class PeerForgotten(Struct, frozen=True):
    """Note: the peer is gone, and what had to be done for that is done."""

    sid: int
    req_id: int
    peer_no: int
    leaves: tuple[RemoveMember, ...]
    drops: tuple[DropGroup, ...]
    mails: tuple[AppendMail, ...]
    tries: int
    far: tuple[Leave, ...] = ()


class BlockSet(Struct, frozen=True):
    """Note: it is blocked, or no longer, on disk."""

    sid: int
    req_id: int
    op: SetBlock


class HubForgot(Struct, frozen=True):
    """Note: nothing of that hub is stored any more."""

    sid: int
    req_id: int
    key: str
    before: tuple[RemoveMember | TakeEnd, ...]
    tries: int


def _done(s: State, sid: int, req_id: int) -> None:
    session = s.sessions.get(sid)
    if session is not None:
        unread = unread_of(session.peer) if session.peer is not None else 0
        s.reply(sid, wire.Done(req_id=req_id, unread=unread))


# --- forgetting --------------------------------------------------------------------------------------


def forget(s: State, session: Session, frame: wire.ForgetPeer, now: Now) -> None:
    """Remove a peer that is not online. Until the store has done so nobody comes to it, or from it."""
    peer = s.resolve(frame.name, now)
    if names.key(peer.name) != names.key(frame.name):
        raise RelayError(
            "peer_not_found", f"{frame.name} is called {peer.name} now: forget it under that name"
        )
    if peer.session is not None:
        raise RelayError("bad_args", f"{peer.name} is online: end its session first")
    peers.hold_back(s, peer)
    mailbox.end_waits(s, peer)
    _ask(s, session.sid, frame.req_id, peer, 1, now)


def _ask(s: State, sid: int, req_id: int, peer: Peer, tries: int, now: Now) -> None:
    out = groups.leave_all(s, peer, now)
    ops = (*out.leaves, *out.drops, *out.mails, *out.far, ForgetPeer(no=peer.no, at=now.wall))
    note = (out.leaves, out.drops, out.mails, tries, out.far)
    s.out.append(Store(ops, PeerForgotten(sid, req_id, peer.no, *note)))


def forgotten(s: State, note: PeerForgotten, results: tuple[OpResult, ...], now: Now) -> None:
    """It is gone."""
    told = iter(results)
    done: Any
    for leave, done in zip(note.leaves, told, strict=False):
        groups.taken_out(s, leave, done, now)
    for drop, done in zip(note.drops, told, strict=False):
        group = s.groups[drop.group_no]
        groups.ended(s, group.no)
        groups.spread(s, group_names.hubs_in(group), done.outs if done is not None else (), now)
    for mail, done in zip(note.mails, told, strict=False):
        delivery.deliver(s, mail, done, now)
    far_groups.removed(s, note.far, list(told), now)
    peer = s.peers[note.peer_no]
    mailbox.end_leases(s, peer)
    delivery.sender_forgotten(s, peer)
    for sid in peer.attached:
        s.sessions[sid].peer = None
    peers.erase(s, {peer.no})
    last: Any = results[-1]
    for lost in last.lost:
        s.count("forgotten_unread", lost.count)
    mailbox.tell_senders(s, last.lost, now)
    _done(s, note.sid, note.req_id)


def forget_failed(s: State, note: PeerForgotten, event: StoreFailed, now: Now) -> None:
    """It stays; or what it was in has changed meanwhile, and it is tried again."""
    peer = s.peers[note.peer_no]
    if event.code not in ("mailbox_error", "unexpected") and note.tries < FORGET_TRIES:
        _ask(s, note.sid, note.req_id, peer, note.tries + 1, now)
        return
    peers.put_back(s, peer)
    s.fail(note.sid, note.req_id, event.code, event.message)


# --- blocking ----------------------------------------------------------------------------------------


def block(s: State, session: Session, frame: wire.Block, now: Now) -> None:
    """Stop a peer from sending, or let it send again. Either twice is fine."""
    name, _, hub = frame.name.partition("@")
    if hub and names.key(hub) != names.key(s.hub_id):
        op = _far_block(s, frame, now)
    else:
        op = SetBlock(no=s.resolve(name, now).no, blocked=frame.blocked, at=now.wall)
    if frame.blocked and len(s.blocked) + len(s.blocked_far) >= BLOCKS_MAX:
        raise RelayError(
            "limit_reached", f"{BLOCKS_MAX} peers are blocked: end some, `ecorelay block` lists them"
        )
    s.out.append(Store((op,), BlockSet(session.sid, frame.req_id, op)))


def _far_block(s: State, frame: wire.Block, now: Now) -> SetBlock:
    """A peer of another hub, by address and, where its hub told of it, by peer_id: names change."""
    name, _, hub_id = frame.name.partition("@")
    hub = s.hubs.get(names.key(hub_id))
    peer = hub.names.get(names.key(name)) if hub is not None else None
    far = None if peer is None else (names.key(hub_id), peer.peer_id)
    return SetBlock(address=frame.name, far=far, blocked=frame.blocked, at=now.wall)


def block_set(s: State, note: BlockSet) -> None:
    """It counts from now on."""
    op = note.op
    if op.no and op.blocked:
        s.blocked.add(op.no)
    elif op.no:
        s.blocked.discard(op.no)
    elif op.blocked:
        s.blocked_far.setdefault(op.address.lower(), op.address)
        if op.far is not None:
            s.blocked_ids[op.far] = s.blocked_far[op.address.lower()]
    else:
        s.blocked_far.pop(op.address.lower(), None)
        key = op.address.lower()
        s.blocked_ids = {far: each for far, each in s.blocked_ids.items() if each.lower() != key}
    _done(s, note.sid, note.req_id)


def blocks(s: State, session: Session, frame: wire.Blocks, _now: Now) -> None:
    """Who may not send."""
    found = [*[s.peers[no].name for no in s.blocked], *s.blocked_far.values()]
    s.reply(
        session.sid,
        wire.BlockList(
            req_id=frame.req_id,
            names=tuple(sorted(found, key=names.key)),
            unread=unread_of(session.peer) if session.peer is not None else 0,
        ),
    )


# --- other hubs --------------------------------------------------------------------------------------


def forget_hub(s: State, session: Session, frame: wire.ForgetHub, now: Now) -> None:
    """Know nothing of another hub any more. What waits for it does so no longer."""
    key = names.key(frame.hub_id)
    if key == names.key(s.hub_id):
        raise RelayError("bad_args", f"{frame.hub_id} is this hub itself: name another one")
    hub = s.hubs.get(key)
    if hub is None:
        s.check_hub(frame.hub_id, frame.hub_id)
        raise AssertionError("that hub is known")  # pragma: no cover
    _ask_hub(s, session.sid, frame.req_id, hub, 1, now)


def _ask_hub(s: State, sid: int, req_id: int, hub: RemoteHub, tries: int, now: Now) -> None:
    links.give_up(s, hub, "this hub was forgotten", now)
    before = far_groups.before_forgetting(s, hub, now)
    ops = (*before, ForgetHub(hub_no=hub.no, at=now.wall))
    s.out.append(Store(ops, HubForgot(sid, req_id, names.key(hub.hub_id), before, tries)))


def forget_hub_failed(s: State, note: HubForgot, event: StoreFailed, now: Now) -> None:
    """It stays; or its members changed meanwhile, and it is tried again."""
    hub = s.hubs.get(note.key)
    if hub is not None and event.code not in ("mailbox_error", "unexpected") and note.tries < FORGET_TRIES:
        _ask_hub(s, note.sid, note.req_id, hub, note.tries + 1, now)
        return
    s.fail(note.sid, note.req_id, event.code, event.message)


def hub_forgotten(s: State, note: HubForgot, results: tuple[OpResult, ...], now: Now) -> None:
    """It is. Should it come again, it is a new one."""
    result: Any = results[-1]
    hub = s.hubs[note.key]  # twice is refused by the store
    far_groups.after_forgetting(s, hub, note.before, results, now)
    del s.hubs[note.key]
    links.give_up(s, hub, "this hub was forgotten", now)  # one that began meanwhile
    far_rooms.forgotten(s, hub)
    outbox.gone(s, hub, result, now)
    s.count("hubs forgotten")
    session = s.sessions.get(note.sid)
    unread = unread_of(session.peer) if session is not None and session.peer is not None else 0
    s.reply(note.sid, wire.HubForgotten(req_id=note.req_id, messages=result.count, unread=unread))
