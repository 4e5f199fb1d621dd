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

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ecorelay.errors import WireError
from ecorelay.names import Id, Name
from ecorelay.wire import Kind, Number, Path, Short

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

Code = Annotated[str, Meta(max_length=64)]
"""Of a rejection; a later version may have more than `ecorelay.errors` knows."""


class LinkFrame(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag_field="type",
    tag=lambda name: re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(),
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

    The highest `generation` counts: an older one may arrive late, out of a connection that hung.
    """

    generation: Number


class LinkPing(LinkFrame, frozen=True, kw_only=True):
    """Answer with a `link_pong` of the same number."""

    number: Number


class LinkPong(LinkFrame, frozen=True, kw_only=True):
    """See `link_ping`."""

    number: Number


LIVE: tuple[type[LinkFrame], ...] = (Delivered, Asked)
"""Frames that may be left out where too much waits for the link."""


class _Typed(Struct):
    type: str


OnLink = (
    LinkHello | Resume | Durable | Results | Delivered | Asked | Presence | Activate | LinkPing | LinkPong
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


Body = MailBody | AskAllBody

_on_link: msgspec.json.Decoder[OnLink] = msgspec.json.Decoder(OnLink)
_body: msgspec.json.Decoder[Body] = msgspec.json.Decoder(Body)
_encoder = msgspec.json.Encoder()
_TYPES = frozenset(kind.__struct_config__.tag for kind in OnLink.__args__)
_QUOTED_VALUE = re.compile(r" value '.*'", re.DOTALL)


def encode(frame: LinkFrame) -> bytes:
    """One frame as one line, newline included."""
    return _encoder.encode(frame) + b"\n"


def encode_body(body: LinkFrame) -> bytes:
    """The body of a durable frame, as it lies in the outbox."""
    return _encoder.encode(body)


def decode(line: bytes | bytearray) -> OnLink | None:
    """One line of a link; None: a frame of a type this version does not know.

    Raises:
        WireError: no frame.
    """
    try:
        return _on_link.decode(line)
    except msgspec.ValidationError as error:
        why = _QUOTED_VALUE.sub(" value", str(error))
    except msgspec.DecodeError as error:
        why = f"no valid JSON: {error}"
    except (UnicodeDecodeError, RecursionError):
        why = "no valid JSON: bad UTF-8 or nested too deeply"
    try:
        kind = msgspec.json.decode(line, type=_Typed).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        kind = ""
    if kind and kind not in _TYPES:
        return None
    raise WireError(why)


def decode_body(body: bytes | Raw) -> Body:
    """What a durable frame is about.

    Raises:
        WireError: nothing that this version can use.
    """
    try:
        return _body.decode(body)
    except msgspec.DecodeError as error:
        raise WireError(_QUOTED_VALUE.sub(" value", str(error))) from None
    except (UnicodeDecodeError, RecursionError):
        raise WireError("no valid JSON: bad UTF-8 or nested too deeply") from None
