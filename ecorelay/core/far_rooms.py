"""Rooms across hubs: a room is on one hub, its host; other hubs tell it which of their peers are in it.

Nothing of this is stored. What a hub says of its peers is all of them, so that nothing has to be undone: it
says it at every change, and of all rooms when a link begins. The host waits a while for a hub whose link was
lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from msgspec import Struct

from ecorelay import link_wire, names, wire
from ecorelay.core import group_names, messages, replay, rooms, said, watch
from ecorelay.core.actions import ToLink
from ecorelay.core.records import Room, RoomAsk
from ecorelay.core.state import unread_of
from ecorelay.errors import Code, RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now
    from ecorelay.core.records import Peer, RemoteHub, Session
    from ecorelay.core.state import State

GUESTS_STAY_S = 60.0
"""After the loss of its link, for so long a hub's peers are still in our rooms."""
ANSWER_WITHIN_S = 10.0
ASKS_MAX = 1_000
"""Questions that may be open, to all hubs."""
LISTS_S = 0.1
LISTS_MAX = 10
"""So many lists of members other hubs are told in so many seconds, however often rooms change."""
CODES: frozenset[str] = frozenset(get_args(Code))
_REFUSALS: Final[dict[str, str]] = {
    "not_member": "you are not in the room {room}: relay_join it first",
    "limit_reached": "{hub} says that a limit is reached in {room}, of rooms, members or messages a minute: "
    "try again later",
    "blocked": "{hub} takes nothing from you, or from this hub, in its rooms: a person there decides that",
    "peer_not_found": "{hub} was not told of you yet: join {room} again in a moment",
    "too_large": "the text is longer than {hub} takes: send it in parts, or write it to a file",
}
"""What a host's refusal means; it tells us the code only."""


class RoomAskEnds(Struct, frozen=True):
    """Timer note: the host has not answered by now."""

    ask: int


class ListsDue(Struct, frozen=True):
    """Timer note: other hubs may be told of more rooms."""


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
    asked.said, asked.op_id, asked.again = True, frame.op_id, frame.resend
    try:
        number = _ask(s, asked, now)
    except RelayError:
        del peer.recent_ops[frame.op_id]
        raise
    said.remember(s, peer, names.key(room.shown), frame.op_id, frame.text)
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
        why = _REFUSALS.get(frame.code, "{hub} refuses that in {room}, and does not say why")
        _finish(s, asked, code, why.format(hub=hub.hub_id, room=asked.room.shown), frame.count)
    for no in list(room.members) if room is not None else ():
        if s.peers[no].peer_id in frame.refused:
            rooms.drop(s, s.peers[no], names.key(f"{frame.room}@{hub.hub_id}"))


def _finish(s: State, asked: RoomAsk, code: Code | None, message: str, count: int = 0) -> None:
    room, peer = asked.room, asked.peer
    if asked.said:
        kept = peer.recent_ops.get(asked.op_id)
        if code is not None:
            peer.recent_ops.pop(asked.op_id, None)
            if asked.again:
                code, message = replay.perhaps_said(code, message)
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
    elif names.key(room.shown) not in peer.rooms:
        s.fail(asked.sid, asked.req_id, "not_member", f"{room.shown} was left before its hub had answered")
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
    author = frame.author
    own = s.by_peer_id.get(author.peer_id) if group_names.is_ours(s, author) else None
    if own is not None and not said.is_so(s, own, names.key(room.shown), frame.msg_id, frame.text):
        own = None
    sender, _ = group_names.called(s, hub, author)
    if own is None and group_names.is_ours(s, author):  # the host's own word, in the name of one of ours
        sender = f"{author.name}@{hub.hub_id}"
    elif own is None and s.blocks(author.hub or hub.hub_id, author.name, author.peer_id):
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


def here(s: State, hub: RemoteHub, frame: link_wire.RoomHere, now: Now) -> None:
    """Another hub says which of its peers are in a room of ours."""
    wanted = dict.fromkeys(frame.peers)
    key = names.key(frame.room)
    room = s.rooms.get(key)
    code = ""
    refused = [each for each in wanted if each not in hub.peers]
    if refused:
        s.count("link guests that are no peers", len(refused))
        code = "peer_not_found"
    if room is None and len(wanted) > len(refused):
        if _may_begin(s, hub):
            room = s.rooms[key] = Room(frame.room)
        else:
            refused, code = list(wanted), "limit_reached"
    if room is not None:
        full = _enter(
            s, hub, room, [each for each in wanted if each not in refused], now, asked=frame.ask > 0
        )
        if full:
            refused, code = [*refused, *full], "limit_reached"
    if frame.ask or refused:
        answer = link_wire.RoomAnswer(
            ask=frame.ask,
            room=frame.room if room is None else room.name,
            refused=tuple(refused),
            code=code,
        )
        s.out.append(ToLink(hub.link, answer))


def _may_begin(s: State, hub: RemoteHub) -> bool:
    """Whether a hub may begin one more room here: one has a quarter of them, the last quarter is our own."""
    quarter = s.limits.rooms // 4
    return len(hub.guest_rooms) < max(1, quarter) and len(s.rooms) < s.limits.rooms - quarter


def _enter(s: State, hub: RemoteHub, room: Room, wanted: list[str], now: Now, *, asked: bool) -> list[str]:
    """These peers of another hub are in a room of ours, and no others; those for whom there is no room.

    Other hubs are told of it only if that is news; a hub that asked hears at once who is there, and so does
    one whose link begins: what it was told last may have been lost with the link before.
    """
    hub_key, key = names.key(hub.hub_id), names.key(room.name)
    begins = not hub.rooms_all and key not in hub.rooms_told
    before = {peer_id for each, peer_id in room.far if each == hub_key}
    for peer_id in before.difference(wanted):
        del room.far[hub_key, peer_id]
    full: list[str] = []
    for peer_id in wanted:
        if len(room.members) + len(room.far) < s.limits.room_members or peer_id in before:
            room.far[hub_key, peer_id] = None
        else:
            full.append(peer_id)
    after = {peer_id for each, peer_id in room.far if each == hub_key}
    if after:
        hub.guest_rooms.add(key)
        if not hub.rooms_all:
            hub.rooms_told.add(key)
    else:
        hub.guest_rooms.discard(key)
        hub.rooms_told.discard(key)
    rooms.end_if_empty(s, room)
    if after != before:
        publish(s, room)
        tell_changed(s, now)
    if after and ((asked and key in s.rooms_changed) or ((asked or begins) and after == before)):
        s.out.append(ToLink(hub.link, _list(s, room)))
    return full


def all_here(s: State, hub: RemoteHub) -> None:
    """It has said it of all rooms, which it does once: where it did not, none of its peers are."""
    hub.rooms_lost = 0.0
    if not hub.rooms_all:
        hub.rooms_all = True
        told, hub.rooms_told = hub.rooms_told, set()
        _part(s, hub, told)


def _part(s: State, hub: RemoteHub, spared: set[str]) -> None:
    hub_key = names.key(hub.hub_id)
    for key in sorted(hub.guest_rooms - spared):
        room = s.rooms[key]
        for guest in [guest for guest in room.far if guest[0] == hub_key]:
            del room.far[guest]
        rooms.end_if_empty(s, room)
        publish(s, room)
    hub.guest_rooms &= spared


def post(s: State, hub: RemoteHub, frame: link_wire.RoomPost, now: Now) -> None:
    """A peer of another hub says something in a room of ours."""
    count, code = 0, ""
    try:
        count = _say(s, hub, frame, now)
    except RelayError as error:
        code = error.code
        s.count(f"link room messages {code}")
    answer = link_wire.RoomAnswer(ask=frame.ask, room=frame.room, count=count, code=code)
    s.out.append(ToLink(hub.link, answer))


def refuse(s: State, hub: RemoteHub, frame: link_wire.RoomHere | link_wire.RoomPost) -> None:
    """A person does not let this hub into rooms."""
    answer = link_wire.RoomAnswer(ask=frame.ask, room=frame.room, code="blocked")
    s.out.append(ToLink(hub.link, answer))


def _say(s: State, hub: RemoteHub, frame: link_wire.RoomPost, now: Now) -> int:
    room = s.rooms.get(names.key(frame.room))
    peer = hub.peers.get(frame.peer_id)
    if room is None or peer is None or (names.key(hub.hub_id), frame.peer_id) not in room.far:
        raise RelayError(
            "not_member", f"you are not in the room {frame.room}@{s.hub_id}: relay_join it first"
        )
    sender = f"{peer.name}@{hub.hub_id}"
    if s.blocks(hub.hub_id, peer.name, frame.peer_id):
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
    """Who is in a room of ours is news to other hubs with members in it; they are told by `tell_changed`."""
    if room.far:
        s.rooms_changed[names.key(room.name)] = None


def tell_changed(s: State, now: Now) -> None:
    """Tell of rooms that changed, in that order and only so many at a time.

    A hub whose peers come and go without end costs others no more than that.
    """
    if not s.lists_wait:
        s.lists_wait, s.lists_left = True, LISTS_MAX
        s.at(now.mono + LISTS_S, ListsDue())
    while s.rooms_changed and s.lists_left:
        key = next(iter(s.rooms_changed))
        del s.rooms_changed[key]
        room = s.rooms.get(key)
        hubs = _hubs_in(s, room) if room is not None else []
        if room is not None and hubs:
            s.lists_left -= 1
            frame = _list(s, room)
            s.out += [ToLink(hub.link, frame) for hub in hubs]


def _list(s: State, room: Room) -> link_wire.RoomList:
    members = (*[described(s.peers[no]) for no in room.members], *guests(s, room))
    return link_wire.RoomList(room=room.name, members=members)


def lists_due(s: State) -> None:
    """More may be told, when the event is handled."""
    s.lists_wait = False


# --- the end of a link, and of a hub -------------------------------------------------------------------


def lost(s: State, hub: RemoteHub, link: int, now: Now) -> None:
    """The link is gone: what was asked over it is answered; the hub's peers stay in our rooms for a while."""
    for number, asked in list(s.room_asks.items()):
        if asked.link == link:
            del s.room_asks[number]
            gone = f"the link to {hub.hub_id} was lost"
            if asked.said:
                # It may have arrived: who is told that it has not says it twice.
                _finish(s, asked, "timeout", f"{gone} before it answered: whether it was said is not known")
            else:
                _finish(s, asked, "hub_unreachable", f"{gone}: try again when it is back")
    hub.rooms_told, hub.rooms_all = set(), False
    if hub.guest_rooms:
        hub.rooms_lost = now.mono
        s.at(now.mono + GUESTS_STAY_S, GuestsLapse(names.key(hub.hub_id), now.mono))


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
