"""Rooms: live membership and messages that nobody stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ecorelay import names, wire
from ecorelay.core import delivery, far_rooms, group_names, mailbox, messages, replay, watch
from ecorelay.core.actions import Push
from ecorelay.core.records import Peer, Room, Session
from ecorelay.core.state import State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now
    from ecorelay.core.records import RemoteHub

RECENT_OPS = 64


def _split(s: State, address: str) -> tuple[str, RemoteHub | None]:
    """Name and hub of a room; None: it is here.

    Raises:
        RelayError: ``hub_not_found``.
    """
    name, _, hub_id = address.partition("@")
    hub = s.hubs.get(names.key(hub_id))
    if hub is None or names.key(hub_id) == names.key(s.hub_id):
        s.check_hub(hub_id, address)
        return name, None
    return name, hub


def _key(s: State, address: str) -> str:
    name, hub = _split(s, address)
    return names.key(name if hub is None else address)


def _live(s: State, session: Session) -> Peer:
    peer = s.own(session)
    if peer.session is not session:
        raise RelayError(
            "not_registered", "a room holds live sessions only: join from the assistant's own session"
        )
    return peer


def join(s: State, session: Session, frame: wire.Join, now: Now) -> None:
    """Enter a room, making it on first join. Joining twice is fine."""
    peer = _live(s, session)
    name, hub = _split(s, frame.room)
    key = _key(s, frame.room)
    room = s.rooms.get(key)
    if hub is not None:
        far_rooms.check_link(hub)
    if room is None:
        if len(s.rooms) >= s.limits.rooms:
            raise RelayError("limit_reached", f"there are {s.limits.rooms} rooms: leave one first")
        room = s.rooms[key] = Room(name, hub)
    if peer.no not in room.members and len(room.members) + len(room.far) >= s.limits.room_members:
        raise RelayError("limit_reached", f"{room.name} has its {s.limits.room_members} members")
    new = peer.no not in room.members
    room.members[peer.no] = None
    peer.rooms.add(key)
    if hub is not None:
        far_rooms.ask_to_join(s, session, frame, room, peer, now, new=new)
        return
    far_rooms.publish(s, room)
    joined(s, session.sid, frame.req_id, peer, room)


def joined(s: State, sid: int, req_id: int, peer: Peer, room: Room) -> None:
    """The peer is in: answer it."""
    s.reply(
        sid,
        wire.RoomMembers(req_id=req_id, room=room.shown, members=_members(s, room), unread=unread_of(peer)),
    )


def leave(s: State, session: Session, frame: wire.Leave, _now: Now) -> None:
    """Leave a room; the last one takes it along. Leaving twice is fine."""
    peer = s.own(session)
    drop(s, peer, _key(s, frame.room))
    s.reply(session.sid, wire.Done(req_id=frame.req_id, unread=unread_of(peer)))


def leave_all(s: State, peer: Peer) -> None:
    """The session is over."""
    for key in list(peer.rooms):
        drop(s, peer, key)


def drop(s: State, peer: Peer, key: str) -> None:
    """A peer of ours is not in a room any more."""
    peer.rooms.discard(key)
    room = s.rooms.get(key)
    if room is not None and peer.no in room.members:
        del room.members[peer.no]
        end_if_empty(s, room)
        if room.hub is not None:
            far_rooms.tell_who(s, room)
        else:
            far_rooms.publish(s, room)


def end_if_empty(s: State, room: Room) -> None:
    """The last member takes it along."""
    if not room.members and not room.far:
        s.rooms.pop(names.key(room.shown), None)


def room_send(s: State, session: Session, frame: wire.RoomSend, now: Now) -> None:
    """Say something to the other members: pushed where there is room, else kept in memory."""
    s.speaker(session)
    peer = _live(s, session)
    s.check_text(frame.text)
    checksum = replay.checksum(frame)
    before = peer.recent_ops.get(frame.op_id)
    if before is not None:  # repeated after a reconnect
        if before[0] != checksum:
            raise RelayError("bad_msg", replay.USED)
        replay.answer(s, session.sid, msgspec.structs.replace(before[1], req_id=frame.req_id))
        return
    room = s.rooms.get(_key(s, frame.room))
    if room is None or peer.no not in room.members:
        raise RelayError("not_member", f"you are not in the room {frame.room}: relay_join it first")
    if room.hub is not None:
        far_rooms.check_link(room.hub)
    messages.guard(s, peer.no, messages.ROOMS, s.limits.sends_per_minute, messages.GUARD_S, now)
    if room.hub is not None:
        count = max(0, len(room.listed) - 1)
    else:
        mail = wire.Mail(
            msg_id=frame.op_id, kind="room", sender=peer.name, ts=now.wall, text=frame.text, room=room.name
        )
        count = hand_out(s, room, mail, peer.no, now)
        count += far_rooms.spread(s, room, mail, far_rooms.described(peer), peer.peer_id)
        if s.watchers:
            watch.room_message(s, mail, count, now)
    answer = wire.RoomSent(
        req_id=frame.req_id, room=room.shown, delivered_count=count, unread=unread_of(peer)
    )
    peer.recent_ops[frame.op_id] = (checksum, answer)
    if len(peer.recent_ops) > RECENT_OPS:
        del peer.recent_ops[next(iter(peer.recent_ops))]
    if room.hub is not None:
        far_rooms.ask_to_say(s, session, frame, room, peer, now)
        return
    s.reply(session.sid, answer)


def hand_out(s: State, room: Room, mail: wire.Mail, author: int, now: Now) -> int:
    """Give a message to members that are peers of ours, but for its author; to how many."""
    text = mail.text or ""
    size = len(text.encode())
    sids: list[int] = []
    others = 0
    for no in room.members:
        other = s.peers[no]
        live = other.session
        if no == author or live is None:
            continue
        others += 1
        if live.hello.push and delivery.has_room(s, live):
            delivery.track(live, mail.msg_id, 0, size, now).mail = mail
            sids.append(live.sid)
        else:
            mailbox.keep_room_mail(s, other, mail)
            mailbox.wake(s, other, now)
    if sids:
        push = wire.Push(
            msg_id=mail.msg_id, kind="room", sender=mail.sender, text=text, ts=mail.ts, room=mail.room
        )
        s.out.append(Push(tuple(sids), push))
    return others


def rooms(s: State, session: Session, frame: wire.Rooms, _now: Now) -> None:
    """All rooms here, those elsewhere in which peers of ours are, and who is in them."""
    found = tuple(wire.Room(name=room.shown, members=_members(s, room)) for room in s.rooms.values())
    unread = unread_of(session.peer) if session.peer else 0
    s.reply(session.sid, wire.RoomList(req_id=frame.req_id, rooms=found, unread=unread))


def _members(s: State, room: Room) -> tuple[str, ...]:
    if room.hub is not None:
        return tuple([group_names.called(s, room.hub, each)[0] for each in room.listed])
    ours = [s.peers[no].name for no in room.members]
    return (*ours, *[f"{each.name}@{each.hub}" for each in far_rooms.guests(s, room)])
