"""Rooms across hubs: a room is on one hub, its host; other hubs tell it which of their peers are in it.

Nothing of this is stored. What a hub says of its peers is all of them, so that nothing has to be undone: it
says it at every change, and of all rooms when a link begins. The host waits a while for a hub whose link was
lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from msgspec import Struct

from ecorelay import link_wire, names, wire
from ecorelay.core import group_names, messages, rooms, watch
from ecorelay.core.actions import ToLink
from ecorelay.core.state import Room, RoomAsk, unread_of
from ecorelay.errors import Code, RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now
    from ecorelay.core.state import Peer, RemoteHub, Session, State

GUESTS_STAY_S = 60.0
"""After the loss of its link, for so long a hub's peers are still in our rooms."""
ANSWER_WITHIN_S = 10.0
ASKS_MAX = 1_000
"""Questions that may be open, to all hubs."""
CODES: frozenset[str] = frozenset(get_args(Code))


class RoomAskEnds(Struct, frozen=True):
    """Timer note: the host has not answered by now."""

    ask: int


class GuestsLapse(Struct, frozen=True):
    """Timer note: the hub, with its key, has not come back since then, perhaps."""

    hub: str
    since: float


# --- a hub with members in a room of another one -------------------------------------------------------


def check_link(hub: RemoteHub) -> None:
    """Refuse what cannot be done while the link is down: ``hub_unreachable``."""
    if not hub.introduced:
        raise RelayError(
            "hub_unreachable",
            f"the link to {hub.hub_id} is down, and rooms there with it: try again when it is back "
            "(relay_peers shows its peers), or use a group, which waits",
        )


def ask_to_join(
    s: State, session: Session, frame: wire.Join, room: Room, peer: Peer, now: Now, *, new: bool
) -> None:
    """Have the host take the peer in. `new`: it was not in the room before."""
    asked = RoomAsk(session.sid, frame.req_id, room, peer, _link(room))
    asked.new = new
    try:
        number = _ask(s, asked, now)
    except RelayError:
        if new:
            rooms.drop(s, peer, names.key(room.shown))
        raise
    tell_who(s, room, number)


def ask_to_say(s: State, session: Session, frame: wire.RoomSend, room: Room, peer: Peer, now: Now) -> None:
    """Have the host say it to all."""
    asked = RoomAsk(session.sid, frame.req_id, room, peer, _link(room))
    asked.said, asked.op_id = True, frame.op_id
    try:
        number = _ask(s, asked, now)
    except RelayError:
        del peer.recent_ops[frame.op_id]
        raise
    post = link_wire.RoomPost(
        room=room.name, peer_id=peer.peer_id, msg_id=frame.op_id, text=frame.text, ask=number
    )
    s.out.append(ToLink(asked.link, post))


def _link(room: Room) -> int:
    return room.hub.link if room.hub is not None else 0


def _ask(s: State, asked: RoomAsk, now: Now) -> int:
    if len(s.room_asks) >= ASKS_MAX:
        raise RelayError("limit_reached", f"{ASKS_MAX} questions about rooms elsewhere are open: wait 10 s")
    number, s.next_ask = s.next_ask, s.next_ask + 1
    s.room_asks[number] = asked
    s.at(now.mono + ANSWER_WITHIN_S, RoomAskEnds(number))
    return number


def tell_who(s: State, room: Room, ask: int = 0) -> None:
    """Tell the host which of our peers are in its room."""
    link = _link(room)
    if link and room.hub is not None and room.hub.introduced:
        peers = tuple([s.peers[no].peer_id for no in room.members])
        s.out.append(ToLink(link, link_wire.RoomHere(room=room.name, peers=peers, ask=ask)))


def announce(s: State, hub: RemoteHub) -> None:
    """A link began: tell the host of all its rooms in which peers of ours are."""
    for room in s.rooms.values():
        if room.hub is hub:
            tell_who(s, room)
    s.out.append(ToLink(hub.link, link_wire.RoomsHere()))


def answered(s: State, hub: RemoteHub, frame: link_wire.RoomAnswer) -> None:
    """The host says what came of it."""
    room = s.rooms.get(names.key(f"{frame.room}@{hub.hub_id}"))
    asked = s.room_asks.get(frame.ask)
    if asked is not None and asked.link != hub.link:
        s.count("link answers nobody asked for")
        return
    s.room_asks.pop(frame.ask, None)
    if asked is not None:
        code: Code | None = None
        if asked.peer.peer_id in frame.refused or (frame.code and not frame.refused):
            code = frame.code if frame.code in CODES else "unexpected"  # type: ignore[assignment]
        _finish(s, asked, code, frame.message, frame.count)
    for no in list(room.members) if room is not None else ():
        if s.peers[no].peer_id in frame.refused:
            rooms.drop(s, s.peers[no], names.key(f"{frame.room}@{hub.hub_id}"))


def _finish(s: State, asked: RoomAsk, code: Code | None, message: str, count: int = 0) -> None:
    room, peer = asked.room, asked.peer
    if asked.said:
        kept = peer.recent_ops.get(asked.op_id)
        if code is not None:
            peer.recent_ops.pop(asked.op_id, None)
            s.fail(asked.sid, asked.req_id, code, message)
            return
        answer = wire.RoomSent(
            req_id=asked.req_id, room=room.shown, delivered_count=count, unread=unread_of(peer)
        )
        if kept is not None:
            peer.recent_ops[asked.op_id] = (kept[0], answer)
        s.reply(asked.sid, answer)
        return
    if code is not None:
        if asked.new:
            rooms.drop(s, peer, names.key(room.shown))
        s.fail(asked.sid, asked.req_id, code, message)
    else:
        rooms.joined(s, asked.sid, asked.req_id, peer, room)


def ask_ends(s: State, note: RoomAskEnds) -> None:
    """The host did not answer in time."""
    asked = s.room_asks.pop(note.ask, None)
    if asked is not None:
        what = "whether it was said is not known" if asked.said else "join again"
        _finish(s, asked, "timeout", f"{asked.room.shown} did not answer within 10 s: {what}")


def listed(s: State, hub: RemoteHub, frame: link_wire.RoomList) -> None:
    """The host says who is in its room."""
    room = s.rooms.get(names.key(f"{frame.room}@{hub.hub_id}"))
    if room is not None:
        room.name = frame.room
        room.listed = frame.members


def line(s: State, hub: RemoteHub, frame: link_wire.RoomLine, now: Now) -> None:
    """Something was said in a room of another hub."""
    room = s.rooms.get(names.key(f"{frame.room}@{hub.hub_id}"))
    if room is None:
        s.count("link room messages to nobody")
        return
    sender, _ = group_names.called(s, hub, frame.author)
    own = s.by_peer_id.get(frame.author.peer_id) if group_names.is_ours(s, frame.author) else None
    if names.key(sender) in s.blocked_far:
        s.count("blocked_refused")
        return
    try:
        s.check_text(frame.text)
    except RelayError as error:
        s.count(f"link room messages {error.code}")
        return
    mail = wire.Mail(
        msg_id=frame.msg_id, kind="room", sender=sender, ts=now.wall, text=frame.text, room=room.shown
    )
    others = rooms.hand_out(s, room, mail, own.no if own is not None else 0, now)
    if s.watchers:
        watch.room_message(s, mail, others, now)


# --- the host --------------------------------------------------------------------------------------------


def here(s: State, hub: RemoteHub, frame: link_wire.RoomHere) -> None:
    """Another hub says which of its peers are in a room of ours."""
    hub_key, key = names.key(hub.hub_id), names.key(frame.room)
    wanted = dict.fromkeys(frame.peers)
    room = s.rooms.get(key)
    code, message = "", ""
    refused = [each for each in wanted if each not in hub.peers]
    if refused:
        s.count("link guests that are no peers", len(refused))
        code, message = "peer_not_found", f"{s.hub_id} was not told of that peer"
    if room is None and len(wanted) > len(refused):
        if len(s.rooms) >= s.limits.rooms:
            refused = list(wanted)
            code, message = "limit_reached", f"{s.hub_id} has its {s.limits.rooms} rooms"
        else:
            room = s.rooms[key] = Room(frame.room)
    if room is not None:
        before = {peer_id for each, peer_id in room.far if each == hub_key}
        for peer_id in before - wanted.keys():
            del room.far[hub_key, peer_id]
        for peer_id in wanted:
            if peer_id in before or peer_id in refused:
                continue
            if len(room.members) + len(room.far) >= s.limits.room_members:
                refused.append(peer_id)
                code, message = "limit_reached", f"{room.name} has its {s.limits.room_members} members"
            else:
                room.far[hub_key, peer_id] = None
        rooms.end_if_empty(s, room)
        hub.rooms_told.add(key)
        publish(s, room)
    if frame.ask or refused:
        answer = link_wire.RoomAnswer(
            ask=frame.ask,
            room=frame.room if room is None else room.name,
            refused=tuple(refused),
            code=code,
            message=message,
        )
        s.out.append(ToLink(hub.link, answer))


def all_here(s: State, hub: RemoteHub) -> None:
    """It has said it of all rooms: where it did not, none of its peers are."""
    hub.rooms_lost = 0.0
    told, hub.rooms_told = hub.rooms_told, set()
    _part(s, hub, told)


def _part(s: State, hub: RemoteHub, spared: set[str]) -> None:
    key = names.key(hub.hub_id)
    for room_key, room in list(s.rooms.items()):
        gone = [guest for guest in room.far if guest[0] == key]
        if gone and room_key not in spared:
            for guest in gone:
                del room.far[guest]
            rooms.end_if_empty(s, room)
            publish(s, room)


def post(s: State, hub: RemoteHub, frame: link_wire.RoomPost, now: Now) -> None:
    """A peer of another hub says something in a room of ours."""
    count, code, message = 0, "", ""
    try:
        count = _say(s, hub, frame, now)
    except RelayError as error:
        code, message = error.code, error.message[:200]
        s.count(f"link room messages {code}")
    answer = link_wire.RoomAnswer(ask=frame.ask, room=frame.room, count=count, code=code, message=message)
    s.out.append(ToLink(hub.link, answer))


def refuse(s: State, hub: RemoteHub, frame: link_wire.RoomHere | link_wire.RoomPost) -> None:
    """A person does not let this hub into rooms."""
    answer = link_wire.RoomAnswer(
        ask=frame.ask, room=frame.room, code="blocked", message=f"{s.hub_id} takes no rooms from {hub.hub_id}"
    )
    s.out.append(ToLink(hub.link, answer))


def _say(s: State, hub: RemoteHub, frame: link_wire.RoomPost, now: Now) -> int:
    room = s.rooms.get(names.key(frame.room))
    peer = hub.peers.get(frame.peer_id)
    if room is None or peer is None or (names.key(hub.hub_id), frame.peer_id) not in room.far:
        raise RelayError(
            "not_member", f"you are not in the room {frame.room}@{s.hub_id}: relay_join it first"
        )
    sender = f"{peer.name}@{hub.hub_id}"
    if names.key(sender) in s.blocked_far:
        raise RelayError("blocked", f"a person there blocked {sender}")
    s.check_text(frame.text)
    messages.guard(s, -hub.no, frame.peer_id, s.limits.sends_per_minute, messages.GUARD_S, now)
    mail = wire.Mail(
        msg_id=frame.msg_id, kind="room", sender=sender, ts=now.wall, text=frame.text, room=room.name
    )
    author = link_wire.RoomMember(peer_id=frame.peer_id, name=peer.name, hub=hub.hub_id)
    count = rooms.hand_out(s, room, mail, 0, now) + spread(s, room, mail, author, frame.peer_id)
    if s.watchers:
        watch.room_message(s, mail, count, now)
    return count


def spread(s: State, room: Room, mail: wire.Mail, author: link_wire.RoomMember, author_id: str) -> int:
    """Send what was said in a room of ours to other hubs with members in it; to how many members."""
    count = 0
    for hub in _hubs_in(s, room):
        key = names.key(hub.hub_id)
        own = author.hub is not None and names.key(author.hub) == key
        members = sum(1 for each, peer_id in room.far if each == key and not (own and peer_id == author_id))
        if members:
            count += members
            frame = link_wire.RoomLine(
                room=room.name, msg_id=mail.msg_id, author=author, text=mail.text or ""
            )
            s.out.append(ToLink(hub.link, frame))
    return count


def _hubs_in(s: State, room: Room) -> list[RemoteHub]:
    """Hubs with members in a room of ours that can be reached."""
    found = [s.hubs[key] for key in dict.fromkeys(key for key, _ in room.far)]
    return [hub for hub in found if hub.introduced]


def described(peer: Peer) -> link_wire.RoomMember:
    """A peer of ours, as other hubs are told."""
    return link_wire.RoomMember(peer_id=peer.peer_id, name=peer.name)


def guests(s: State, room: Room) -> list[link_wire.RoomMember]:
    """Members of a room of ours that are peers of other hubs."""
    found: list[link_wire.RoomMember] = []
    for key, peer_id in room.far:
        peer = s.hubs[key].peers.get(peer_id)
        if peer is not None:
            found.append(link_wire.RoomMember(peer_id=peer_id, name=peer.name, hub=s.hubs[key].hub_id))
    return found


def publish(s: State, room: Room) -> None:
    """Tell other hubs with members in a room of ours who is in it."""
    hubs = _hubs_in(s, room) if room.far else []
    if hubs:
        members = (*[described(s.peers[no]) for no in room.members], *guests(s, room))
        frame = link_wire.RoomList(room=room.name, members=members)
        s.out += [ToLink(hub.link, frame) for hub in hubs]


# --- the end of a link, and of a hub -------------------------------------------------------------------


def lost(s: State, hub: RemoteHub, link: int, now: Now) -> None:
    """The link is gone: what was asked over it is answered; the hub's peers stay in our rooms for a while."""
    for number, asked in list(s.room_asks.items()):
        if asked.link == link:
            del s.room_asks[number]
            _finish(
                s, asked, "hub_unreachable", f"the link to {hub.hub_id} was lost: try again when it is back"
            )
    hub.rooms_told = set()
    key = names.key(hub.hub_id)
    if any(each == key for room in s.rooms.values() for each, _ in room.far):
        hub.rooms_lost = now.mono
        s.at(now.mono + GUESTS_STAY_S, GuestsLapse(key, now.mono))


def guests_lapse(s: State, note: GuestsLapse) -> None:
    """It did not come back."""
    hub = s.hubs.get(note.hub)
    if hub is not None and hub.rooms_lost == note.since:
        _part(s, hub, set())


def forgotten(s: State, hub: RemoteHub) -> None:
    """Nothing is known of that hub any more."""
    _part(s, hub, set())
    for key, room in list(s.rooms.items()):
        if room.hub is hub:
            for no in list(room.members):
                s.peers[no].rooms.discard(key)
            del s.rooms[key]
