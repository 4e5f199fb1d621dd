"""Doors between hubs: frames of a link, the handshake, what is remembered of hubs."""

from __future__ import annotations

import base64
import copy
import functools
from contextlib import suppress
from pathlib import Path

import msgspec

from ecorelay import link_wire
from ecorelay.cli import invitation
from ecorelay.errors import RelayError, WireError
from ecorelay_bridge.handshake import MESSAGE_MAX, Accepting, Dialing, refusal_bytes
from ecorelay_bridge.identity import public_of_certificate, read_identity
from ecorelay_bridge.introduction import _Way
from ecorelay_bridge.known import FileTrust, judge
from ecorelay_bridge.refusals import Refused
from ecorelay_bridge.twins import Twins
from tests.bridge.hubs import accepting, dialing, identity
from tests.fuzz.target import Target, chunks, finish, scratch

_ID = "01j5zk3m8v9w2x4y6z7abcdefg"
_GROUP = "01j5zk3m8v9w2x4y6z7abcdefh"
_MEMBER = link_wire.GroupMember(peer_id=_ID, name="ann", hub="far", since=3)
_LINE = link_wire.GroupLine(seq=4, msg_id=_ID, author="ann", author_id=_ID, text="hé", event="invited")
_BODIES: tuple[link_wire.LinkFrame, ...] = (
    link_wire.MailBody(
        to="bob", sender="ann", sender_id=_ID, kind="ask", text="hé\n", reply_to=_GROUP, hops=1
    ),
    link_wire.AskAllBody(sender="ann", sender_id=_ID, text="who?"),
    link_wire.GroupPostBody(group=_GROUP, sender_id=_ID, text="x"),
    link_wire.GroupLeaveBody(group=_GROUP, peer_id=_ID, since=3),
    link_wire.GroupLineBody(
        group=_GROUP, name="team", after=_ID, line=_LINE, members=(_MEMBER,), removed=_ID
    ),
    link_wire.GroupEndBody(group=_GROUP, name="team", by="ann"),
)
_REJECTED = (link_wire.Rejection(seq=2, code="blocked", message="no"),)
_ON_LINK: tuple[link_wire.LinkFrame, ...] = (
    link_wire.LinkHello(stream=_ID, first=1, app_version="0.1.0"),
    link_wire.Resume(stream=_ID, received=3, rejected=_REJECTED),
    link_wire.Results(received=3, rejected=_REJECTED),
    link_wire.Busy(received=3, retry_ms=500),
    link_wire.Delivered(msg_ids=(_ID, _GROUP)),
    link_wire.Asked(msg_id=_ID, count=3),
    link_wire.Presence(
        peers=(link_wire.PeerState(peer_id=_ID, name="ann", online=True, cwd="/home/ä", away_ms=5),),
        gone=(_GROUP,),
        reset=True,
    ),
    link_wire.GroupStates(
        groups=(link_wire.GroupState(group=_GROUP, last=4, last_id=_ID, members=77),), complete=True
    ),
    link_wire.GroupAsk(group=_GROUP, after=3, after_id=_ID),
    link_wire.GroupPage(group=_GROUP, name="team", last=4, lines=(_LINE,), members=(_MEMBER,), more=True),
    link_wire.RoomHere(room="hall", peers=(_ID,), ask=2),
    link_wire.RoomsHere(),
    link_wire.RoomPost(room="hall", peer_id=_ID, msg_id=_GROUP, text="hi", ask=3),
    link_wire.RoomAnswer(ask=3, room="hall", count=2, refused=(_ID,), code="not_member"),
    link_wire.RoomList(room="hall", members=(link_wire.RoomMember(peer_id=_ID, name="ann"),)),
    link_wire.RoomLine(
        room="hall", msg_id=_ID, author=link_wire.RoomMember(peer_id=_ID, name="ann", hub="far"), text="hi"
    ),
    link_wire.TraceAsk(number=5, msg_id=_ID),
    link_wire.TraceAnswer(number=5, receipts=(link_wire.FarReceipt(recipient="(removed)", pushed=3),)),
    link_wire.Activate(generation=7),
    link_wire.LinkPing(number=1),
    link_wire.LinkPong(number=1),
    *[
        link_wire.Durable(seq=n, msg_id=_ID, age_ms=9, body=msgspec.Raw(link_wire.encode_body(body)))
        for n, body in enumerate(_BODIES, 1)
    ],
)
LINK_FRAMES = tuple([link_wire.encode(frame).rstrip() for frame in _ON_LINK])


def link_frame(data: bytes) -> None:
    """A line of a link, and the body of what it carries: frames that survive the way there and back."""
    try:
        frame = link_wire.decode(data)
    except WireError as error:
        assert len(error.message) < 300
        return
    if frame is None:
        return
    line = link_wire.encode(frame)
    assert line.count(b"\n") == 1
    again = link_wire.decode(line.rstrip(b"\n"))
    if isinstance(frame, link_wire.Durable):
        assert isinstance(again, link_wire.Durable)
        assert bytes(again.body) == bytes(frame.body)
        with suppress(WireError):
            body = link_wire.decode_body(frame.body)
            assert link_wire.decode_body(link_wire.encode_body(body)) == body
            _ = link_wire.plain(getattr(body, "text", "")).encode()
    else:
        assert again == frame


# --- the handshake ---------------------------------------------------------------------------------------


@functools.cache
def _both() -> tuple[Dialing, Accepting, dict[str, bytes]]:
    """Two sides in the middle of a handshake, and what they would say; used as they are, never changed."""
    dialer, acceptor = dialing(), accepting()
    said = {"open": dialer.open()}
    acceptor.read_open(said["open"])
    said["offer"] = acceptor.offer()
    finishing = copy.copy(dialer)
    said["prove"] = finishing.prove(said["offer"])
    said["proved"], _ = copy.copy(acceptor).finish(said["prove"])
    return dialer, acceptor, said


def handshake(data: bytes) -> None:
    """Whoever says anything but what a hub with the secret says is refused, in words that quote none of it.

    The first byte says which of the four messages the rest is in the place of.
    """
    step, raw = (data[0] % 4 if data else 0), data[1:]
    dialer, acceptor, said = _both()
    try:
        if step == 0:
            fresh = accepting()
            fresh.read_open(raw)
            fresh.offer()
            return
        if step == 1:
            copy.copy(dialer).prove(raw)
            return
        if step == 2:
            copy.copy(acceptor).finish(raw)
        else:
            finishing = copy.copy(dialer)
            finishing.prove(said["offer"])
            finishing.finish(raw)
    except Refused as refused:
        told = refusal_bytes(refused)
        assert told is None or len(told) <= MESSAGE_MAX
        assert len(refused.sentence) < 500
        assert refused.sentence.isprintable()
        return
    assert raw == said["prove" if step == 2 else "proved"], "it was let in"


class _Fed:
    """A stream that says what it was told to, and ends."""

    def __init__(self, data: bytes) -> None:
        self._chunks = chunks(data)

    async def receive_some(self, size: int) -> bytes:
        if not self._chunks:
            return b""
        data = self._chunks.pop(0)
        if len(data) > size:
            self._chunks.insert(0, data[size:])
        return data[:size]


async def _never(_: object) -> None:
    raise AssertionError("nobody proved anything")


def handshake_stream(data: bytes) -> None:
    """Messages of a handshake on a stream: none beyond its length, or a refusal."""
    way = _Way(_Fed(data), _never, Twins(lambda: 0.0))  # type: ignore[arg-type]
    with suppress(Refused):
        while True:
            assert 0 < len(finish(way._receive())) <= MESSAGE_MAX


# --- files and lines a person brings from another machine --------------------------------------------------

_FOLDER = scratch()
_KNOWN = (
    b'{"v":1,"hubs":{"desk":{"identity":"SHA256:' + b"A" * 43 + b'"},"far":{"identity":"SHA256:'
    b"" + b"B" * 43 + b'","distrusted":true}}}'
)


def known_hubs(data: bytes) -> None:
    """Who is known: read as it is, or nobody is forgotten and a person told."""
    path = Path(_FOLDER.name, "known-hubs.json")
    path.write_bytes(data)
    path.chmod(0o600)
    try:
        known = FileTrust(path).known()
    except RelayError:
        return
    for name in (*known, "Desk"):
        with suppress(Refused):
            judge(known, name, "SHA256:" + "A" * 43)


def identity_file(data: bytes) -> None:
    """An identity or a refusal; what is in the file is never quoted."""
    path = Path(_FOLDER.name, "identity.pem")
    path.write_bytes(data)
    path.chmod(0o600)
    try:
        read_identity(path).sign(b"")
    except RelayError as error:
        assert len(error.message) < 500 + len(str(path))
    with suppress(ValueError):
        public_of_certificate(data)


def invited(data: bytes) -> None:
    """An invitation, with a right checksum or without one, is one or is refused."""
    with suppress(RelayError):
        invitation.taken(data.decode("utf-8", "surrogateescape"))
    coded = base64.urlsafe_b64encode(data + invitation._checksum(data)).decode()
    with suppress(RelayError):
        found = invitation.taken(invitation.PREFIX + coded)
        assert invitation.taken(invitation.written(found)) == found


_INVITATION = msgspec.json.encode(
    invitation.Invitation(hub_id="desk", host="10.0.0.7", port=9788, identity="SHA256:x", secret="s" * 24)
)


_STEPS = tuple([bytes([number]) + raw for number, raw in enumerate(_both()[2].values())])

TARGETS = (
    Target(
        "link-frame",
        link_frame,
        LINK_FRAMES,
        (b'"type":"', _ID.encode(), b'"body":{', b'"seq":', b'"age_ms":'),
    ),
    Target(
        "handshake",
        handshake,
        (*_STEPS, b'\x01{"type":"refuse","reason":"wrong_secret","versions":[1,2]}'),
        (b'"versions":[', b'"instance":"', b"0" * 64, b"01" + b"0" * 62, b'"checking":true', b'"clock":'),
        longest=5_000,
    ),
    Target(
        "handshake-stream",
        handshake_stream,
        tuple([b"\x20" + len(raw[1:]).to_bytes(2, "big") + raw[1:] for raw in _STEPS]),
        (b"\x00\x00", b"\x10\x00", b"\xff\xff"),
    ),
    Target("known-hubs", known_hubs, (_KNOWN,), (b'"v":', b'"distrusted":', b"SHA256:")),
    Target(
        "identity-file", identity_file, (identity("alpha").path.read_bytes(), identity("alpha").certificate)
    ),
    Target(
        "invitation",
        invited,
        (_INVITATION, invitation.PREFIX.encode() + b"eyJo", b'{"x":' + b"[" * 1_500),
        (b'"port":',),
    ),
)
