"""Rooms: live membership and messages that nobody stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ecorelay import names, wire
from ecorelay.core import delivery, mailbox, messages, replay, watch
from ecorelay.core.actions import Push
from ecorelay.core.state import Peer, Room, Session, State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now

RECENT_OPS = 64


def _split(s: State, address: str) -> str:
    name, _, hub = address.partition("@")
    s.check_hub(hub, address)
    return name


def _live(s: State, session: Session) -> Peer:
    peer = s.own(session)
    if peer.session is not session:
        raise RelayError(
            "not_registered", "a room holds live sessions only: join from the assistant's own session"
        )
    return peer


def join(s: State, session: Session, frame: wire.Join, _now: Now) -> None:
    """Enter a room, making it on first join. Joining twice is fine."""
    peer = _live(s, session)
    name = _split(s, frame.room)
    room = s.rooms.get(names.key(name))
    if room is None:
        if len(s.rooms) >= s.limits.rooms:
            raise RelayError("limit_reached", f"there are {s.limits.rooms} rooms: leave one first")
        room = s.rooms[names.key(name)] = Room(name)
    if peer.no not in room.members and len(room.members) >= s.limits.room_members:
        raise RelayError("limit_reached", f"{room.name} has its {s.limits.room_members} members")
    room.members[peer.no] = None
    peer.rooms.add(names.key(name))
    s.reply(
        session.sid,
        wire.RoomMembers(
            req_id=frame.req_id, room=room.name, members=_members(s, room), unread=unread_of(peer)
        ),
    )


def leave(s: State, session: Session, frame: wire.Leave, _now: Now) -> None:
    """Leave a room; the last one takes it along. Leaving twice is fine."""
    peer = s.own(session)
    _drop(s, peer, names.key(_split(s, frame.room)))
    s.reply(session.sid, wire.Done(req_id=frame.req_id, unread=unread_of(peer)))


def leave_all(s: State, peer: Peer) -> None:
    """The session is over."""
    for key in list(peer.rooms):
        _drop(s, peer, key)


def _drop(s: State, peer: Peer, key: str) -> None:
    peer.rooms.discard(key)
    room = s.rooms.get(key)
    if room is not None:
        room.members.pop(peer.no, None)
        if not room.members:
            del s.rooms[key]


def room_send(s: State, session: Session, frame: wire.RoomSend, now: Now) -> None:
    """Say something to the other members: pushed where there is room, else kept in memory."""
    s.speaker(session)
    peer = _live(s, session)
    size = s.check_text(frame.text)
    checksum = replay.checksum(frame)
    before = peer.recent_ops.get(frame.op_id)
    if before is not None:  # repeated after a reconnect
        if before[0] != checksum:
            raise RelayError("bad_msg", replay.USED)
        replay.answer(s, session.sid, msgspec.structs.replace(before[1], req_id=frame.req_id))
        return
    room = s.rooms.get(names.key(_split(s, frame.room)))
    if room is None or peer.no not in room.members:
        raise RelayError("not_member", f"you are not in the room {frame.room}: relay_join it first")
    messages.guard(s, peer.no, messages.ROOMS, s.limits.sends_per_minute, messages.GUARD_S, now)
    mail = wire.Mail(
        msg_id=frame.op_id, kind="room", sender=peer.name, ts=now.wall, text=frame.text, room=room.name
    )
    sids: list[int] = []
    others = 0
    for no in room.members:
        other = s.peers[no]
        live = other.session
        if no == peer.no or live is None:
            continue
        others += 1
        if live.hello.push and delivery.has_room(s, live):
            delivery.track(live, frame.op_id, 0, size, now).mail = mail
            sids.append(live.sid)
        else:
            mailbox.keep_room_mail(s, other, mail)
            mailbox.wake(s, other, now)
    if s.watchers:
        watch.room_message(s, mail, others, now)
    if sids:
        push = wire.Push(
            msg_id=frame.op_id,
            kind="room",
            sender=peer.name,
            text=frame.text,
            ts=now.wall,
            room=room.name,
        )
        s.out.append(Push(tuple(sids), push))
    answer = wire.RoomSent(
        req_id=frame.req_id, room=room.name, delivered_count=others, unread=unread_of(peer)
    )
    peer.recent_ops[frame.op_id] = (checksum, answer)
    if len(peer.recent_ops) > RECENT_OPS:
        del peer.recent_ops[next(iter(peer.recent_ops))]
    s.reply(session.sid, answer)


def rooms(s: State, session: Session, frame: wire.Rooms, _now: Now) -> None:
    """All rooms and who is in them."""
    found = tuple(wire.Room(name=room.name, members=_members(s, room)) for room in s.rooms.values())
    unread = unread_of(session.peer) if session.peer else 0
    s.reply(session.sid, wire.RoomList(req_id=frame.req_id, rooms=found, unread=unread))


def _members(s: State, room: Room) -> tuple[str, ...]:
    return tuple(s.peers[no].name for no in room.members)
