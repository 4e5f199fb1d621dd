"""Links to other hubs: how one begins and ends, and what comes over it.

A link is up once each side knows what the other has of its stream. What comes in is decided here and stored
in one transaction with the word that it was taken, so that a result never says more than the disk holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from msgspec import Struct

from ecorelay import link_wire, names
from ecorelay.core import (
    delivery,
    directory,
    far_groups,
    far_rooms,
    far_trace,
    group_sync,
    messages,
    outbox,
)
from ecorelay.core.actions import CloseLink, Store, ToLink
from ecorelay.core.group_ops import FarOp
from ecorelay.core.link_ops import FarPeer, HubKnown, KnowHub, Receive, Received
from ecorelay.core.ops import AppendMail
from ecorelay.core.records import Opening, RemoteHub
from ecorelay.errors import Code, RelayError, WireError

if TYPE_CHECKING:
    from ecorelay.core.events import HubsConfigured, LinkFrame, LinkLost, LinkUp, Now, StoreFailed
    from ecorelay.core.records import Peer
    from ecorelay.core.state import State

_ABOUT: dict[type[link_wire.LinkFrame], str] = {
    link_wire.GroupStates: "groups",
    link_wire.GroupAsk: "groups",
    link_wire.GroupPage: "groups",
    link_wire.RoomHere: "rooms",
    link_wire.RoomsHere: "rooms",
    link_wire.RoomPost: "rooms",
    link_wire.RoomList: "rooms",
    link_wire.RoomLine: "rooms",
}
"""What a hub has to be allowed for us to hear it; an answer is heard in any case."""
BEGINS_WITHIN_S = 10.0
"""How long the other side has for its hello and for what it has of our stream."""
CLOSES_AFTER_S = 5.0
RESULTS_EVERY = 64
LARGE = 64 * 1024
"""While more is in the store, results wait for that: for so many frames, and none of so many characters."""
UNTOLD_MAX = 2 * link_wire.WINDOW_FRAMES
"""Frames without a result beyond which the other side does not keep to its window."""
RETRY_MS = 5_000
"""When what our disk did not take is to come again."""
KINDS = frozenset({"message", "ask", "reply"})
"""What one hub's peers may send to another's; the rest is a hub's own word."""


class LinkKnown(Struct, frozen=True):
    """Note: the hub at the other end has its number."""

    link: int
    hub_id: str


class HubAdded(Struct, frozen=True):
    """Note: a hub of the configuration has its number."""

    hub_id: str


class FrameTaken(Struct, frozen=True):
    """Note: a frame that came over this link is stored, or rejected.

    `refusals`: of our disk, before it. `quiet`: it wakes nobody.
    """

    link: int
    stream: str
    number: int
    refusals: int
    mail: AppendMail | None
    far: FarOp | None = None
    quiet: bool = False


class Closes(Struct, frozen=True):
    """Timer note: this link could not begin, for our disk's sake.

    Closed at once, it would be made again at once.
    """

    link: int
    reason: str


class Begins(Struct, frozen=True):
    """Timer note: this link should be up by now."""

    link: int


# --- hubs --------------------------------------------------------------------------------------------------


def configured(s: State, event: HubsConfigured) -> None:
    """These hubs may be written to, whether or not they were ever there."""
    s.restricted, s.waking = event.restricted, event.waking
    for hub_id in event.hub_ids:
        if names.key(hub_id) not in s.hubs:
            # It was not there: that it is known says nothing of when it was seen.
            s.out.append(Store((KnowHub(hub_id=hub_id, at=0),), HubAdded(hub_id)))


def added(s: State, note: HubAdded, result: HubKnown) -> None:
    """It has a number."""
    _hub(s, note.hub_id, result)


def _hub(s: State, hub_id: str, known: HubKnown) -> RemoteHub:
    key = names.key(hub_id)
    hub = s.hubs.get(key)
    if hub is None:
        hub = s.hubs[key] = RemoteHub(known.hub_no, hub_id)
    return hub


# --- begin and end -----------------------------------------------------------------------------------------


def up(s: State, event: LinkUp, now: Now) -> None:
    """A hub proved itself, and this is the way to it from now on.

    Another link of the same hub is given up before the store is asked: what would still come over that one
    could not be in the answer.
    """
    key, why = names.key(event.hub_id), "another link took its place"
    hub = s.hubs.get(key)
    if hub is None:
        _give_up_opening(s, key, why)
    else:
        give_up(s, hub, why, now)
    s.opening[event.link] = Opening(key)
    s.at(now.mono + BEGINS_WITHIN_S, Begins(event.link))
    op = KnowHub(hub_id=event.hub_id, at=now.wall)
    s.out.append(Store((op,), LinkKnown(event.link, event.hub_id)))


def known(s: State, note: LinkKnown, result: HubKnown, now: Now) -> None:
    """Say hello."""
    hub = _hub(s, note.hub_id, result)  # it is stored, whatever became of the link
    opening = s.opening.pop(note.link, None)
    if opening is None:  # lost or given up meanwhile
        return
    hub.link = note.link
    hub.known = result
    s.links[note.link] = hub
    hub.ours = hub.ours or s.new_id(now.wall)
    first = result.next_seq - hub.base if hub.began else 1
    hello = link_wire.LinkHello(stream=hub.ours, first=first, app_version=s.version)
    s.out.append(ToLink(hub.link, hello))
    if opening.early is not None:
        frame(s, opening.early, now)


def begins(s: State, note: Begins, now: Now) -> None:
    """It is up, or the other side has had its time. Our own disk is waited for."""
    hub = s.links.get(note.link)
    if note.link in s.opening or (hub is not None and hub.resuming and not hub.up):
        s.at(now.mono + BEGINS_WITHIN_S, note)
    elif hub is not None and not (hub.up and hub.known is None):
        s.out.append(CloseLink(note.link, f"it did not say within {int(BEGINS_WITHIN_S)} s what it has"))


def known_failed(s: State, note: LinkKnown, message: str, now: Now) -> None:
    """The disk refused: without it nothing can be taken."""
    if note.link in s.opening:
        s.at(now.mono + CLOSES_AFTER_S, Closes(note.link, message))


def closes(s: State, note: Closes) -> None:
    """Our disk has had its time; another link may find it well."""
    s.opening.pop(note.link, None)
    s.out.append(CloseLink(note.link, note.reason))


def resume_failed(s: State, note: outbox.OutResumed, message: str, now: Now) -> None:
    """The disk refused: from where on to send is not known."""
    s.at(now.mono + CLOSES_AFTER_S, Closes(note.link, f"cannot read the outbox: {message}"))


def lost(s: State, event: LinkLost, now: Now) -> None:
    """The link is gone, for whatever reason."""
    s.opening.pop(event.link, None)
    hub = s.links.get(event.link)
    if hub is not None:
        _detach(s, hub, now)
    s.count("link lost")


def _detach(s: State, hub: RemoteHub, now: Now) -> None:
    link = hub.link
    del s.links[link]
    hub.link = 0
    hub.lost_at = now.wall
    hub.known = None
    hub.introduced = False
    hub.stale = set()
    hub.traces = 0
    group_sync.lost(hub)
    far_rooms.lost(s, hub, link, now)
    outbox.lost(s, hub)


def give_up(s: State, hub: RemoteHub, why: str, now: Now) -> None:
    """End the links to a hub, if there are any."""
    _give_up_opening(s, names.key(hub.hub_id), why)
    if hub.link:
        s.out.append(CloseLink(hub.link, why))
        _detach(s, hub, now)


def _give_up_opening(s: State, key: str, why: str) -> None:
    for link in [link for link, opening in s.opening.items() if opening.hub == key]:
        del s.opening[link]
        s.out.append(CloseLink(link, why))


def away(s: State) -> tuple[int, ...]:
    """Numbers of the hubs for which something waits and cannot go; not where a link begins."""
    begin = {opening.hub for opening in s.opening.values()}
    return tuple(
        [
            hub.no
            for key, hub in s.hubs.items()
            if hub.waiting and (not hub.link or hub.paused) and key not in begin
        ]
    )


# --- frames ------------------------------------------------------------------------------------------------


def frame(s: State, event: LinkFrame, now: Now) -> None:
    """Something came over a link."""
    hub = s.links.get(event.link)
    if hub is None:
        if event.link in s.opening:
            _early(s, event)
        return  # or it was just given up
    what = _ABOUT.get(type(event.frame))
    if what is not None and not _is_allowed(s, hub, what):
        if isinstance(event.frame, link_wire.RoomHere | link_wire.RoomPost) and event.frame.ask:
            far_rooms.refuse(s, hub, event.frame)
        return
    match event.frame:
        case link_wire.Durable():
            _durable(s, hub, event.frame, now)
        case link_wire.Results():
            outbox.results(s, hub, event.frame, now)
        case link_wire.Busy():
            outbox.busy(s, hub, event.frame, now)
        case link_wire.Delivered():
            outbox.delivered(s, hub, event.frame)
        case link_wire.Asked():
            messages.asked(s, hub, event.frame)
        case link_wire.Presence():
            directory.told(s, hub, event.frame, now)
            group_sync.renamed_there(s, hub, event.frame)
        case link_wire.GroupStates():
            group_sync.told_states(s, hub, event.frame)
        case link_wire.GroupAsk():
            group_sync.asked(s, hub, event.frame, now)
        case link_wire.GroupPage():
            group_sync.told_page(s, hub, event.frame, now)
        case link_wire.RoomHere():
            far_rooms.here(s, hub, event.frame, now)
        case link_wire.RoomsHere():
            far_rooms.all_here(s, hub)
        case link_wire.RoomPost():
            far_rooms.post(s, hub, event.frame, now)
        case link_wire.RoomAnswer():
            far_rooms.answered(s, hub, event.frame)
        case link_wire.RoomList():
            far_rooms.listed(s, hub, event.frame)
        case link_wire.RoomLine():
            far_rooms.line(s, hub, event.frame, now)
        case link_wire.TraceAsk():
            far_trace.asked(s, hub, event.frame)
        case link_wire.TraceAnswer():
            far_trace.told(s, hub, event.frame, now)
        case link_wire.LinkHello():
            _hello(s, hub, event.frame, now)
        case link_wire.Resume():
            outbox.resume(s, hub, event.frame, now)
        case link_wire.Activate() | link_wire.Moved() | link_wire.LinkPing() | link_wire.LinkPong():
            pass  # of the shell's concern
        case _:  # pragma: no cover
            assert_never(event.frame)


def _early(s: State, event: LinkFrame) -> None:
    """The other side was quicker than our disk. It says hello, and then waits for ours."""
    if s.opening[event.link].early is not None or not isinstance(event.frame, link_wire.LinkHello):
        del s.opening[event.link]
        s.out.append(CloseLink(event.link, "more than a hello before ours"))
        return
    s.opening[event.link].early = event


def _hello(s: State, hub: RemoteHub, frame: link_wire.LinkHello, now: Now) -> None:
    """Say what we have of its stream, and who is here."""
    have = hub.known
    if have is None:
        s.out.append(CloseLink(hub.link, "a second hello"))
        return
    hub.known = None
    hub.stream, hub.first, hub.version = frame.stream, frame.first, link_wire.plain(frame.app_version)
    hub.received = max(have.received if have.stream == frame.stream else 0, frame.first - 1)
    hub.receiving = hub.told = hub.received
    hub.owed, hub.refusing = [], False
    if have.stream == frame.stream and hub.received > have.received:
        s.count("link frames that the other hub gave up", hub.received - have.received)
    rejected = tuple(
        [
            link_wire.Rejection(seq=each.number, code=each.code, message=each.message)
            for each in have.rejected
            if have.stream != frame.stream or each.number >= frame.first
        ]
    )
    resume = link_wire.Resume(stream=have.stream or None, received=have.received, rejected=rejected)
    s.out.append(ToLink(hub.link, resume))
    hub.introduced = True
    directory.introduce(s, hub, now)
    far_rooms.announce(s, hub)


def _durable(s: State, hub: RemoteHub, frame: link_wire.Durable, now: Now) -> None:
    if hub.known is not None:
        s.out.append(CloseLink(hub.link, "mail before hello"))
        return
    if frame.seq != hub.receiving + 1:
        if hub.refusing and frame.seq > hub.receiving:
            return  # it was on its way when our disk refused what comes before it
        s.out.append(CloseLink(hub.link, f"frame {frame.seq} does not follow {hub.receiving}"))
        return
    if frame.seq - hub.told > UNTOLD_MAX:
        s.out.append(CloseLink(hub.link, "more than the window takes"))
        return
    hub.refusing = False
    hub.receiving = frame.seq
    mail, far, sender = None, None, FarPeer(name="")
    code, message, quiet = "", "", False
    try:
        body = link_wire.decode_body(frame.body)
        if isinstance(body, link_wire.GroupBodies):
            check_allowed(s, hub, "groups")
            far = far_groups.asked_for(s, hub, frame, body, now)
        else:
            sender, mail = _mail(s, hub, frame, body, now)
            quiet = isinstance(body, link_wire.AskAllBody) and not _wakes(s, hub)
    except WireError as error:
        code, message = "bad_msg", error.message
    except RelayError as error:
        code, message = error.code, error.message
    op = Receive(
        hub_no=hub.no,
        stream=hub.stream,
        first=hub.first,
        number=frame.seq,
        msg_id=frame.msg_id,
        sender=sender,
        mail=mail,
        far=far,
        code=code,
        message=message[:200],
        at=now.wall,
    )
    at = (hub.link, hub.stream, frame.seq, hub.refusals)
    s.out.append(Store((op,), FrameTaken(*at, mail, far, quiet)))


def _mail(
    s: State, hub: RemoteHub, frame: link_wire.Durable, body: link_wire.MailBodies, now: Now
) -> tuple[FarPeer, AppendMail]:
    """What a durable frame asks to be stored.

    Raises:
        RelayError: it is refused, for good.
    """
    what = "broadcast" if isinstance(body, link_wire.AskAllBody) else "mail"
    check_allowed(s, hub, what)
    address = f"{body.sender}@{hub.hub_id}"
    if s.blocks(hub.hub_id, body.sender, body.sender_id):
        s.count("blocked_refused")
        raise RelayError("blocked", f"a person there blocked {address}")
    s.check_text(body.text)
    sender = FarPeer(name=body.sender, peer_id=body.sender_id)
    at = now.wall - min(frame.age_ms, now.wall)
    if isinstance(body, link_wire.AskAllBody):
        messages.guard_hub(s, hub, body.sender_id, messages.BROADCAST, frame.age_ms, now)
        online = [peer.no for peer in s.peers.values() if peer.online and not peer.going]
        mail = AppendMail(
            msg_id=frame.msg_id,
            kind="ask",
            sender_no=0,
            sender=address,
            recipients=tuple(online[: s.limits.broadcast_peers]),
            text=body.text,
            at=at,
            broadcast_id=frame.msg_id,
            origin=hub.no,
        )
        return sender, mail
    if body.kind not in KINDS:
        raise RelayError("bad_msg", f"mail of kind {body.kind} comes from no peer of another hub")
    peer = s.by_peer_id.get(body.to_id) if body.to_id else s.find(body.to, now)
    if peer is None and s.reserved:
        peer = _held_back(s, body)
    if peer is None:
        code: Code = "peer_gone" if body.to_id else "peer_not_found"
        raise RelayError(code, f"no peer of {s.hub_id} is called {body.to!r}")
    messages.guard_hub(s, hub, body.sender_id, peer.no, frame.age_ms, now)
    mail = AppendMail(
        msg_id=frame.msg_id,
        kind=body.kind,
        sender_no=0,
        sender=address,
        recipients=(peer.no,),
        text=body.text,
        at=at,
        reply_to=body.reply_to,
        broadcast_id=body.broadcast_id,
        urgent=body.urgent,
        origin=hub.no,
    )
    return sender, mail


def _held_back(s: State, body: link_wire.MailBody) -> Peer | None:
    """The recipient, if the store is asked to remove it: it knows whether it did, by the time of the mail."""
    for peer in s.peers.values():
        if peer.going and (
            peer.peer_id == body.to_id if body.to_id else names.key(peer.name) == names.key(body.to)
        ):
            return peer
    return None


def check_allowed(s: State, hub: RemoteHub, what: str) -> None:
    """Refuse what a person does not let this hub do: ``blocked``."""
    if not _is_allowed(s, hub, what):
        raise RelayError("blocked", f"{s.hub_id} takes no {what} from {hub.hub_id}")


def _is_allowed(s: State, hub: RemoteHub, what: str) -> bool:
    if not s.restricted:
        return True
    key = names.key(hub.hub_id)
    if what in s.restricted.get(key, s.restricted.get("*", ())):
        s.count("denied_refused")
        return False
    return True


def _wakes(s: State, hub: RemoteHub) -> bool:
    """Whether a broadcast of this hub may wake sessions: only where a person said so in words."""
    key = names.key(hub.hub_id)
    return (key if key in s.restricted else "*") in s.waking


def taken(s: State, note: FrameTaken, result: Received, now: Now) -> None:
    """Stored: push it, and say so."""
    hub = s.links.get(note.link)
    flight = None
    if note.mail is not None and result.appended is not None and not result.appended.duplicate:
        flight = delivery.deliver(s, note.mail, result.appended, now, quiet=note.quiet)
    if note.far is not None and result.far is not None:
        group_sync.took(s, note.far, result.far, now)
    if hub is None or hub.stream != note.stream:
        return
    hub.received = note.number
    if note.mail is not None and note.mail.broadcast_id == note.mail.msg_id:
        count = len(note.mail.recipients) if result.appended is not None else 0
        s.out.append(ToLink(hub.link, link_wire.Asked(msg_id=note.mail.msg_id, count=count)))
    if flight is not None:
        flight.link = hub.link
    if result.code:
        s.count(f"link rejected {result.code}")
        hub.owed.append(link_wire.Rejection(seq=note.number, code=result.code, message=result.message))
    large = note.mail is not None and len(note.mail.text) >= LARGE
    if hub.received == hub.receiving or hub.received - hub.told >= RESULTS_EVERY or large:
        s.out.append(ToLink(hub.link, link_wire.Results(received=hub.received, rejected=_owed(hub))))


def _owed(hub: RemoteHub) -> tuple[link_wire.Rejection, ...]:
    """The rejections of a result that is told now."""
    owed = tuple(hub.owed)
    hub.owed = []
    hub.told = hub.received
    return owed


def take_failed(s: State, note: FrameTaken, event: StoreFailed) -> None:
    """The disk refused: what comes after cannot be taken either, and has to come again."""
    hub = s.links.get(note.link)
    if hub is None or hub.refusals != note.refusals:
        return  # it came after what was refused
    hub.refusals += 1
    hub.refusing = True
    hub.receiving = hub.received
    if event.code != "mailbox_error":  # it would be so again: the next link begins from what is stored
        s.out.append(CloseLink(hub.link, f"cannot store: {event.message}"))
        return
    s.count("link frames our disk did not take")
    frame = link_wire.Busy(received=hub.received, rejected=_owed(hub), retry_ms=RETRY_MS)
    s.out.append(ToLink(hub.link, frame))
