"""Whole hubs, core and database, to whom a session or another hub says anything that is a frame."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ecorelay import link_wire, wire
from ecorelay.core.events import LinkFrame, LinkLost, LinkUp
from ecorelay.errors import WireError
from tests.fuzz.links import LINK_FRAMES
from tests.fuzz.local import FRAMES
from tests.fuzz.target import Target, scratch
from tests.links import land as lands
from tests.links.land import Land, Machine
from tests.wire.examples import ID

_STREAM = "01j5zk3m8v9w2x4y6z7abcdefg"
_FAR_PEER = "01j5zk3m8v9w2x4y6z7abcdefh"
_FAR_GROUP = "01j5zk3m8v9w2x4y6z7abcdefj"
_LINK = 1
_NOT_HERE = (wire.Backup, wire.HubStatus, wire.HubStop, wire.HubReload, wire.Hello)
"""What the shell does, with files and processes."""


class _Link:
    """Our end of the link to the hub that says anything; what it is told is dropped."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.whole = True
        machine.links[_LINK] = self  # type: ignore[assignment]
        machine.feed(LinkUp(_LINK, "evil"))

    def send(self, _: Machine, frame: link_wire.LinkFrame) -> None:
        assert link_wire.encode(frame)

    def cut(self, reason: str = "") -> None:
        if self.whole:
            self.whole = False
            del self.machine.links[_LINK]
            self.machine.events.append(LinkLost(_LINK, reason))

    def says(self, frame: link_wire.OnLink) -> None:
        if self.whole:
            self.machine.feed(LinkFrame(_LINK, frame))


def _hub(folder: str) -> tuple[Machine, Any, Any, _Link]:
    """A hub with two peers, a group and a room, and a link to another one that has told of a peer."""
    lands._ids = itertools.count(1)  # the same ids each time
    me = Land(Path(folder)).machine("me")
    me.knows("evil")
    alice, bob = (me.open(name, push=True) for name in ("alice", "bob"))
    link = _Link(me)
    link.says(link_wire.LinkHello(stream=_STREAM, first=1))
    link.says(link_wire.Resume())
    peer = link_wire.PeerState(peer_id=_FAR_PEER, name="m", online=True)
    link.says(link_wire.Presence(peers=(peer,), reset=True, complete=True))
    link.says(link_wire.GroupStates(complete=True))
    link.says(link_wire.RoomsHere())
    alice.call(wire.GroupCreate, name="team", members=("bob", "m@evil"))
    alice.call(wire.Send, to="m@evil", text="hello")
    alice.call(wire.Join, room="hall")
    for client in (alice, bob):
        client.got.clear()
    return me, alice, bob, link


def _goes_on(alice: Any, bob: Any) -> None:
    """Mail still gets from one peer to the other."""
    number = alice.ask(wire.Send, to="bob", text="still there?")
    pushed = bob.pushes[-1]
    assert pushed.text == "still there?"
    bob.say(wire.Pushed(msg_ids=(pushed.msg_id,)))
    assert alice.answers[number].status == "delivered"


def hub_by_link(data: bytes) -> None:
    """Frames of another hub, one a line: nothing breaks, and no word of it passes for one of our peers'."""
    with scratch() as folder:
        me, alice, bob, link = _hub(folder)
        try:
            for line in data.split(b"\n"):
                with suppress(WireError):
                    frame = link_wire.decode(line)
                    if frame is not None:
                        link.says(frame)
            for client in (alice, bob):
                for push in client.pushes:
                    assert push.sender.partition("@")[2] or push.sender not in ("alice", "bob"), push
            link.cut()
            _goes_on(alice, bob)
        finally:
            me.land.close()


def hub_by_session(data: bytes) -> None:
    """Frames of a session, one a line: nothing breaks, and each request has one answer, or waits for one."""
    with scratch() as folder:
        me, alice, bob, link = _hub(folder)
        mallory = me.open("mallory", push=True, bell=True)
        try:
            for line in data.split(b"\n"):
                with suppress(WireError):
                    frame = wire.decode_from_session(line)
                    if isinstance(frame, _NOT_HERE) or mallory.closed:
                        continue
                    if isinstance(frame, wire.Request):
                        frame = msgspec.structs.replace(frame, req_id=mallory.next_req)
                        mallory.next_req += 1
                        mallory.asked[frame.req_id] = frame
                    mallory.say(frame)
            waiting = [mallory.asked[number] for number in mallory.asked.keys() - mallory.answers.keys()]
            assert mallory.sid not in me.clients or all(_may_wait(frame) for frame in waiting), waiting
            if link.whole and not {type(each) for each in mallory.asked.values()} & {
                wire.Block,
                wire.ForgetPeer,
            }:
                _goes_on(alice, bob)
        finally:
            me.land.close()


def _may_wait(frame: wire.Request) -> bool:
    """For time to pass, or another hub or session to say something."""
    return isinstance(
        frame,
        wire.Inbox
        | wire.Send
        | wire.Reply
        | wire.Broadcast
        | wire.Probe
        | wire.Trace
        | wire.Join
        | wire.RoomSend,
    )


def _durable(seq: int, body: link_wire.LinkFrame) -> bytes:
    raw = msgspec.Raw(link_wire.encode_body(body))
    return link_wire.encode(
        link_wire.Durable(seq=seq, msg_id=f"{_STREAM[:-1]}{seq % 8}", age_ms=5, body=raw)
    ).rstrip()


def _line(seq: int, **fields: Any) -> link_wire.GroupLine:
    return link_wire.GroupLine(seq=seq, msg_id=f"{_FAR_GROUP[:-1]}{seq % 8}", author="m", **fields)


def _told_by_link() -> tuple[bytes, ...]:
    with scratch() as folder:
        me, alice, bob, _ = _hub(folder)
        here = {each.name: each.peer_id for each in (alice, bob)}
        group = next(iter(me.hub.state.groups.values())).group_id
        me.land.close()
    ours = tuple([link_wire.GroupMember(peer_id=id, name=name, hub="me") for name, id in here.items()])
    far = link_wire.GroupMember(peer_id=_FAR_PEER, name="m")
    mail = link_wire.MailBody(
        to="bob", to_id=here["bob"], sender="m", sender_id=_FAR_PEER, kind="ask", text="hi"
    )
    stories = (
        (
            _durable(1, mail),
            _durable(2, link_wire.AskAllBody(sender="m", sender_id=_FAR_PEER, text="who?")),
            _durable(3, link_wire.GroupPostBody(group=group, sender_id=_FAR_PEER, text="in yours")),
            _durable(4, link_wire.GroupLeaveBody(group=group, peer_id=_FAR_PEER, since=0)),
        ),
        (
            _durable(
                1,
                link_wire.GroupLineBody(
                    group=_FAR_GROUP, name="theirs", line=_line(1, text="a"), members=(far, *ours)
                ),
            ),
            _durable(
                2,
                link_wire.GroupLineBody(
                    group=_FAR_GROUP,
                    name="theirs",
                    after=_line(1).msg_id,
                    line=_line(2, event="removed", whom="bob@me"),
                    members=(far, ours[0]),
                    removed=here["bob"],
                ),
            ),
            _durable(3, link_wire.GroupEndBody(group=_FAR_GROUP, name="theirs", by="m")),
        ),
        (
            link_wire.encode(link_wire.RoomHere(room="hall", peers=(_FAR_PEER,), ask=1)).rstrip(),
            link_wire.encode(
                link_wire.RoomPost(room="hall", peer_id=_FAR_PEER, msg_id=ID, text="hi", ask=2)
            ).rstrip(),
            link_wire.encode(
                link_wire.GroupPage(
                    group=_FAR_GROUP, name="x", last=2, lines=(_line(1),), members=(far, *ours)
                )
            ).rstrip(),
            link_wire.encode(link_wire.GroupAsk(group=group, after=0)).rstrip(),
        ),
        LINK_FRAMES[:20],
    )
    return tuple([b"\n".join(story) for story in stories])


def _told_by_session() -> tuple[bytes, ...]:
    known = []
    for line in FRAMES:
        with suppress(WireError):
            if not isinstance(wire.decode_from_session(line), _NOT_HERE):
                known.append(line.replace(b'"to":"bob@server"', b'"to":"m@evil"'))
    return (b"\n".join(known[: len(known) // 2]), b"\n".join(known[len(known) // 2 :]))


TARGETS = (
    Target(
        "hub-by-link",
        hub_by_link,
        _told_by_link(),
        (b"\n", _FAR_PEER.encode(), _FAR_GROUP.encode(), b'"seq":', b'"after":"', b'"hub":"me"', b'"ask":'),
        longest=6_000,
        share=0.1,
    ),
    Target(
        "hub-by-session",
        hub_by_session,
        _told_by_session(),
        (b"\n", b'"to":"', b'"room":"hall"', b'"group":"team"', b'"lease":1', b"@evil"),
        longest=8_000,
        share=0.1,
    ),
)
