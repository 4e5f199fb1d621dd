"""Every frame of a link: what two hubs say to each other once each has proved itself to the other.

One JSON object on one line, as on the local hop (`ecorelay.wire`), inside the encryption of the link. What a
frame is about is the hub at the other end, whatever it says: no frame names its origin. Unknown keys are
ignored, and so is a frame of a type that this version does not know, but for a `durable` one.

*Durable* frames (mail) are numbered, per stream, from 1 and without gaps; each ends in the receiver's store
as committed or rejected, and `results` says so. A stream is one run of the sending hub; `link_hello` and
`resume` find out, at each new link, from where on to send. Everything else is lost with the link and made
anew by the next one.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ecorelay import tagged
from ecorelay.names import NAME_PATTERN, AddressText, Id, Name
from ecorelay.wire import Kind, Number, Path, Reason, Short

LINK_VERSION: Final = 1
OLDEST_LINK_VERSION: Final = 1
"""The handshake carries the range; both sides take the highest that both speak."""
LINE_MAX: Final = 4 * 1024 * 1024
WINDOW_FRAMES: Final = 1_000
WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Durable frames that may be on their way without a result."""
PRESENCE_PART: Final = 200
"""Peers in one frame."""
PEERS_MAX: Final = 10_000
"""Peers of one hub that another remembers; a hub has no more (`limits.peers`)."""
MEMBERS_MAX: Final = 100
"""Members of a group, and of a room; no hub may have more (`limits.group_members`)."""
GROUPS_PART: Final = 200
"""Groups in one frame."""
LINES_PART: Final = 100
LINES_BYTES: Final = 512 * 1024
"""Lines of a group in one frame, and the bytes of their texts: JSON may need six times as many."""

Code = Annotated[str, Meta(max_length=64)]
"""Of a rejection; a later version may have more than `ecorelay.errors` knows."""
Line = Annotated[int, Meta(ge=0, le=2**62)]
"""The number of a line in a group; 0: before all of them. There is room to count on."""


class LinkFrame(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag_field="type",
    tag=tagged.snake,
):
    """Base of every frame of a link."""


class LinkHello(LinkFrame, frozen=True, kw_only=True):
    """First each way. `stream` is the sender's, of this run; all before `first` in it is settled."""

    stream: Id
    first: Number
    app_version: Short = ""


class Rejection(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A durable frame that was not taken, and will not be; `message` is for a person."""

    seq: Number
    code: Code
    message: Short = ""


class Resume(LinkFrame, frozen=True, kw_only=True):
    """Answer to `link_hello`: of which stream of yours I have how much (contiguously committed).

    `stream` is the latest I know, which may be of an earlier run of yours; none: I know of none.
    """

    stream: Id | None = None
    received: Number = 0
    rejected: Annotated[tuple[Rejection, ...], Meta(max_length=WINDOW_FRAMES)] = ()


class Durable(LinkFrame, frozen=True, kw_only=True):
    """One numbered frame. `body` is decoded by itself: one that cannot be used is rejected, and no gap.

    `age_ms`: how long ago it was sent, by the sender's clock; clocks of two machines are not compared.
    """

    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    msg_id: Id
    age_ms: Number = 0
    body: Raw


class Results(LinkFrame, frozen=True, kw_only=True):
    """All up to `received` is settled: committed, but for what is `rejected`, here or before."""

    received: Number
    rejected: Annotated[tuple[Rejection, ...], Meta(max_length=WINDOW_FRAMES)] = ()


class Busy(LinkFrame, frozen=True, kw_only=True):
    """As `results`, and: my disk takes nothing more.

    What comes after `received` is not kept: send it again in `retry_ms`.
    """

    received: Number
    rejected: Annotated[tuple[Rejection, ...], Meta(max_length=WINDOW_FRAMES)] = ()
    retry_ms: Number


class Delivered(LinkFrame, frozen=True, kw_only=True):
    """A session's carrier took these at once. Told only while their sender may wait for it."""

    msg_ids: Annotated[tuple[Id, ...], Meta(max_length=WINDOW_FRAMES)]


class Asked(LinkFrame, frozen=True, kw_only=True):
    """So many peers here were asked by the broadcast `msg_id`."""

    msg_id: Id
    count: Number


class PeerState(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One peer of the hub that says it. `away_ms`: how long ago it was seen, 0 while online."""

    peer_id: Id
    name: Name
    online: bool = False
    push: bool = False
    client: Short = ""
    cwd: Path = ""
    git_branch: Short = ""
    away_ms: Number = 0


class Presence(LinkFrame, frozen=True, kw_only=True):
    """Peers that came, changed or are `gone`. After hello all of them: `reset` begins, `complete` ends it."""

    peers: Annotated[tuple[PeerState, ...], Meta(max_length=PRESENCE_PART)] = ()
    gone: Annotated[tuple[Id, ...], Meta(max_length=PRESENCE_PART)] = ()
    reset: bool = False
    complete: bool = False


class Activate(LinkFrame, frozen=True, kw_only=True):
    """From the hub with the smaller hub_id: of all our streams this is the link from now on.

    The highest `generation` counts: an older one may arrive late, out of a connection that hung. `moves`: the
    link that there is goes on here; what was said over the stream before it comes first, up to `moved`.
    """

    generation: Number
    moves: bool = False


class Moved(LinkFrame, frozen=True, kw_only=True):
    """The last of the link on this stream: it goes on over the one that was activated with `moves`."""


# --- groups: the frames that are not stored --------------------------------------------------------------


class GroupMember(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A member as the group's hub knows it. `hub` None: of that hub itself. It sees what comes after `since`.

    The first of a list of members is the admin.
    """

    peer_id: Id
    name: Name
    hub: Name | None = None
    since: Line = 0


Members = Annotated[tuple[GroupMember, ...], Meta(max_length=MEMBERS_MAX)]


class GroupLine(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One line of a group. `author_hub` None: of the group's own hub. `text` None: nothing is left of it.

    `event`: nobody's words, but what became of the group: ``created`` (`whom` is its name), ``invited``,
    ``removed`` (`text` is why) or ``left``. Each hub makes its own sentence of it; one that does not know an
    event takes it for a line of which nothing is left.
    """

    seq: Annotated[int, Meta(ge=1, le=2**62)]
    msg_id: Id
    author: Name
    author_id: Id | None = None
    author_hub: Name | None = None
    text: str | None = None
    event: Annotated[str, Meta(max_length=32)] | None = None
    whom: AddressText | None = None
    age_ms: Number = 0


class GroupState(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where a group is: its last line, and a checksum of its members."""

    group: Id
    last: Line
    last_id: Id | None = None
    members: Number


class GroupStates(LinkFrame, frozen=True, kw_only=True):
    """By a group's hub, once what waited has gone out: groups in which the other hub has members.

    `complete`: with those told since the link began they are all; without it they are groups that changed.
    """

    groups: Annotated[tuple[GroupState, ...], Meta(max_length=GROUPS_PART)] = ()
    complete: bool = False


class GroupAsk(LinkFrame, frozen=True, kw_only=True):
    """To a group's hub: what comes after line `after`, which I know as `after_id`. → `group_page`."""

    group: Id
    after: Line = 0
    after_id: Id | None = None


class GroupPage(LinkFrame, frozen=True, kw_only=True):
    """Lines in order and without a gap: those asked for, or all there are where the other hub went astray.

    Of lines that no member there may see, for they were said before it was invited, only number and id are
    told.

    `last` is the group's last line, `members` are those of that moment. `more`: ask again. `gone`: you have
    no members in such a group. `busy`: the disk refused; ask later.
    """

    group: Id
    name: Name | None = None
    last: Line = 0
    lines: Annotated[tuple[GroupLine, ...], Meta(max_length=LINES_PART)] = ()
    members: Members = ()
    more: bool = False
    gone: bool = False
    busy: bool = False


# --- rooms -----------------------------------------------------------------------------------------------


class RoomMember(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A member as the room's hub knows it. `hub` None: of that hub itself."""

    peer_id: Id
    name: Name
    hub: Name | None = None


RoomMembers = Annotated[tuple[RoomMember, ...], Meta(max_length=MEMBERS_MAX)]


class RoomHere(LinkFrame, frozen=True, kw_only=True):
    """To a room's hub: these of my peers are in it, and no others. `ask` > 0: → `room_answer`."""

    room: Name
    peers: Annotated[tuple[Id, ...], Meta(max_length=MEMBERS_MAX)] = ()
    ask: Number = 0


class RoomsHere(LinkFrame, frozen=True, kw_only=True):
    """After the link began: my peers are in the rooms told so far, and in no other."""


class RoomPost(LinkFrame, frozen=True, kw_only=True):
    """To a room's hub: one of my peers says something. → `room_answer`."""

    room: Name
    peer_id: Id
    msg_id: Id
    text: str
    ask: Number


class RoomAnswer(LinkFrame, frozen=True, kw_only=True):
    """`refused`: these are not in the room. `code`: it was not done. `count`: to so many it went."""

    ask: Number
    room: Name
    count: Annotated[int, Meta(ge=0, le=MEMBERS_MAX)] = 0
    refused: Annotated[tuple[Id, ...], Meta(max_length=MEMBERS_MAX)] = ()
    code: Code = ""


class RoomList(LinkFrame, frozen=True, kw_only=True):
    """By a room's hub to those with members in it: who is in it now."""

    room: Name
    members: RoomMembers = ()


class RoomLine(LinkFrame, frozen=True, kw_only=True):
    """By a room's hub to those with members in it: something was said."""

    room: Name
    msg_id: Id
    author: RoomMember
    text: str


class TraceAsk(LinkFrame, frozen=True, kw_only=True):
    """What became of a message of mine? → `trace_answer` of the same number. Of others nothing is told."""

    number: Number
    msg_id: Id


NOBODY: Final = "(removed)"
"""Stands for the name of a recipient that was removed."""


class FarReceipt(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is known of it for one recipient here. Times are milliseconds ago, None: it has not happened."""

    recipient: Annotated[str, Meta(pattern=rf"{NAME_PATTERN}|\A\(removed\)\Z")]
    pushed: Number | None = None
    carrier: Short = ""
    seen: Number | None = None
    replied: Number | None = None
    ended: Number | None = None
    reason: Short = ""


class TraceAnswer(LinkFrame, frozen=True, kw_only=True):
    """See `trace_ask`."""

    number: Number
    receipts: Annotated[tuple[FarReceipt, ...], Meta(max_length=1_000)] = ()


class LinkPing(LinkFrame, frozen=True, kw_only=True):
    """Answer with a `link_pong` of the same number."""

    number: Number


class LinkPong(LinkFrame, frozen=True, kw_only=True):
    """See `link_ping`."""

    number: Number


LIVE: tuple[type[LinkFrame], ...] = (Delivered, Asked, RoomPost, RoomLine)
"""Frames that may be left out where too much waits for the link."""


ANSWERS: tuple[type[LinkFrame], ...] = (Results, Busy, Delivered, Asked, LinkPong)
"""Frames of which there are no more than of those that they answer, from a hub that does as it should."""


OnLink = (
    LinkHello
    | Resume
    | Durable
    | Results
    | Busy
    | Delivered
    | Asked
    | Presence
    | GroupStates
    | GroupAsk
    | GroupPage
    | RoomHere
    | RoomsHere
    | RoomPost
    | RoomAnswer
    | RoomList
    | RoomLine
    | TraceAsk
    | TraceAnswer
    | Activate
    | Moved
    | LinkPing
    | LinkPong
)


# --- bodies of durable frames ------------------------------------------------------------------------


class MailBody(LinkFrame, frozen=True, kw_only=True, tag="mail"):
    """Mail to one peer. `to_id` finds it under whatever name it has now; without it `to` does."""

    to: Name
    to_id: Id | None = None
    sender: Name
    sender_id: Id
    kind: Kind
    text: str
    reply_to: Id | None = None
    broadcast_id: Id | None = None
    urgent: bool = False
    hops: Number = 0


class AskAllBody(LinkFrame, frozen=True, kw_only=True, tag="ask_all"):
    """A broadcast: an ask to every peer that is online."""

    sender: Name
    sender_id: Id
    text: str


class GroupPostBody(LinkFrame, frozen=True, kw_only=True, tag="group_post"):
    """To a group's hub: one of my peers says something in it."""

    group: Id
    sender_id: Id
    text: str


class GroupLeaveBody(LinkFrame, frozen=True, kw_only=True, tag="group_leave"):
    """To a group's hub: this peer of mine is not in it any more; a later invitation than `since` stands."""

    group: Id
    peer_id: Id
    since: Line = 0


class GroupLineBody(LinkFrame, frozen=True, kw_only=True, tag="group_line"):
    """By a group's hub: a line of it, which follows the line `after`.

    `members`: all of them from this line on, where it changed them. `removed` was put out, for `reason`.
    """

    group: Id
    name: Name
    after: Id | None = None
    line: GroupLine
    members: Members | None = None
    removed: Id | None = None
    reason: Reason = ""


class GroupEndBody(LinkFrame, frozen=True, kw_only=True, tag="group_end"):
    """By a group's hub: it is no more; its admin was `by`."""

    group: Id
    name: Name
    by: Name


MailBodies = MailBody | AskAllBody
GroupBodies = GroupPostBody | GroupLeaveBody | GroupLineBody | GroupEndBody
Body = MailBodies | GroupBodies

_on_link: msgspec.json.Decoder[OnLink] = msgspec.json.Decoder(OnLink)
_body: msgspec.json.Decoder[Body] = msgspec.json.Decoder(Body)
_encoder = msgspec.json.Encoder()
_TYPES = tagged.tags(OnLink)


def plain(text: str) -> str:
    """Words of another hub as they may be shown: whatever else is in them, they move no cursor."""
    return text if text.isprintable() else "".join([char if char.isprintable() else "?" for char in text])


def encode(frame: LinkFrame) -> bytes:
    """One frame as one line, newline included."""
    return _encoder.encode(frame) + b"\n"


def encode_body(body: Struct) -> bytes:
    """The body of a durable frame, as it lies in the outbox; or any part of a frame."""
    return _encoder.encode(body)


def decode(line: bytes | bytearray) -> OnLink | None:
    """One line of a link; None: a frame of a type this version does not know.

    Raises:
        WireError: no frame.
    """
    return tagged.decode(_on_link, _TYPES, line)


def decode_body(body: bytes | Raw) -> Body:
    """What a durable frame is about.

    Raises:
        WireError: nothing that this version can use.
    """
    return tagged.decode_strictly(_body, body)
