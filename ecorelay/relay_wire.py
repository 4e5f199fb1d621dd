"""What a hub and a relay server say to each other in the messages of one WebSocket.

Text messages are JSON objects with a `type`: who is here, and the server's own words. Unknown keys are
ignored, and so is a message of a type that this version does not know. Binary messages are *data*: pieces of
byte streams from hub to hub, of which the server reads only the header::

    1 byte   kind: 1 open, 2 data, 3 credit, 4 close
    32 bytes the other hub's address: SHA-256 of its public key. To the server: for whom; from it: of whom
    8 bytes  the stream's number, drawn at random by the hub that opened it
    …        data: 1 to 65,536 bytes; credit: 4 bytes, big-endian, how many more may come; open, close: none

A stream begins with `CREDIT` bytes each way. Who receives grants as many again as it has consumed, so a slow
reader slows its sender and fills nothing in between. A piece of a stream that is unknown (of an earlier
connection, or closed) is dropped without an answer.

Proof of the hub, each part with its length in 4 bytes, big-endian, before it::

    T         = LABEL, server's nonce, hub's nonce, hub_id, url as dialed, public key
    proof     = HMAC-SHA256(token in UTF-8, T)
    signature = Ed25519(identity, SIGN_LABEL ‖ SHA-256(T))

The token itself is never sent. SIGN_LABEL differs from what links sign, so neither can pass for the other.

Two machines may meet apart, so that one can be invited that has no token yet: the hello names an invitation,
32 hexadecimal digits drawn by the hub that invites, and both prove a *pass* in the token's place::

    pass      = base64url, without padding, of
                HMAC-SHA256(token in UTF-8, PASS_LABEL ‖ "inviting" or "invited" ‖ 0 ‖ invitation's 16 bytes)

The two see each other and nobody else. The invited one is let in only while the inviting one is there, so a
pass is worth nothing afterwards, and the token cannot be computed from it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from ecorelay import tagged
from ecorelay.errors import WireError
from ecorelay.names import Name
from ecorelay.wire import Short

RELAY_VERSION: Final = 1
OLDEST_RELAY_VERSION: Final = 1
"""The server offers a range; the hub takes the highest that both speak."""
PATH: Final = "/"
"""Where the server takes WebSockets when the URL names no path; any path is taken, for proxies."""
SUBPROTOCOL: Final = "ecorelay-relay-1"
TEXT_MAX: Final = 64 * 1024
PIECE_MAX: Final = 64 * 1024
"""Payload of one data message."""
CREDIT: Final = 512 * 1024
"""Bytes of one stream, one way, that may be on their way unread."""
STREAMS_MAX: Final = 8
"""Streams open at a time between two hubs."""
HERE_PART: Final = 200
"""Hubs in one `here`."""
HELLO_S: Final = 5.0
"""Seconds from the connection until the hub has proved itself."""
PING_S: Final = 20.0
"""The server pings so often (WebSocket ping); a hub that hears nothing for twice that gives up."""

LABEL: Final = b"ecorelay-relay-v1 token"
SIGN_LABEL: Final = b"ecorelay-relay-v1 hello\0"
PASS_LABEL: Final = b"ecorelay-relay-v1 pass\0"

PROBE_APP: Final = "probe"
"""The `app_version` of what only looks: it answers nobody, and hubs do not dial it."""

HEADER: Final = 41
OPEN: Final = 1
DATA: Final = 2
CREDIT_MORE: Final = 3
CLOSE: Final = 4
_KINDS: Final = {kind: bytes([kind]) for kind in (OPEN, DATA, CREDIT_MORE, CLOSE)}

CLOSE_GOING: Final = 1012
"""The server restarts or ends: come again, with jitter."""
CLOSE_FRAME: Final = 4000
"""A message that breaks the rules."""
CLOSE_SLOW: Final = 4001
"""No proof within `HELLO_S`, silent for too long, or what waits for it is not read."""
CLOSE_VERSION: Final = 4002
CLOSE_TOKEN: Final = 4003
"""None of its tokens, not that identity's signature, or dialed by a URL that is not this server's."""
CLOSE_REPLACED: Final = 4004
"""The same identity connected again."""
CLOSE_HUB_ID: Final = 4005
"""What it calls itself is no name."""
CLOSE_FULL: Final = 4006
CLOSE_INVITATION: Final = 4007
"""Nobody invites by that pass now: it was used, withdrawn or has expired; or somebody is just using it."""
CLOSE_RATE: Final = 4008
"""Too many failed proofs, or one identity or address comes too often: come again after a minute."""

Hex = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""32 bytes."""
Version = Annotated[int, Meta(ge=0, le=65_535)]
StreamHex = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
InvitationHex = Annotated[str, Meta(pattern=r"\A([0-9a-f]{32})?\Z")]


class RelayMessage(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag_field="type",
    tag=tagged.snake,
):
    """Base of every text message."""


class RelayNonce(RelayMessage, frozen=True, kw_only=True):
    """First, by the server."""

    versions: tuple[Version, Version]
    """Lowest and highest."""
    nonce: Hex
    app_version: Short = ""


class RelayHello(RelayMessage, frozen=True, kw_only=True):
    """The hub's answer, see the proof above."""

    version: Version
    hub_id: Name
    public: Hex
    """The hub's Ed25519 key."""
    nonce: Hex
    url: Annotated[str, Meta(max_length=2_048)]
    """As it stands in the hub's bridge.json."""
    proof: Hex
    signature: Annotated[str, Meta(pattern=r"\A[0-9a-f]{128}\Z")]
    app_version: Short = ""
    invitation: InvitationHex = ""
    """It wants to meet one other apart, see above."""
    invited: bool = False
    """Whether it is the one that was invited."""


class HubHere(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A hub of the same realm. `hub_id` is what it calls itself; only a link proves it."""

    hub_id: Name
    address: Hex
    app_version: Short = ""


class Here(RelayMessage, frozen=True, kw_only=True):
    """After the proof, in parts: the other hubs of the realm. The last part is `complete`."""

    hubs: Annotated[tuple[HubHere, ...], Meta(max_length=HERE_PART)] = ()
    complete: bool = False


class Joined(RelayMessage, frozen=True, kw_only=True):
    """A hub came, or came again: streams with its earlier connection are closed."""

    hub: HubHere


class Left(RelayMessage, frozen=True, kw_only=True):
    """A hub went; its streams are closed."""

    address: Hex
    reason: Short = ""
    """Code: ``closed`` by itself, ``lost`` (silent or broken), ``refused`` (broke the rules)."""


class NoSuchHub(RelayMessage, frozen=True, kw_only=True):
    """Nobody here has the address of that stream's `open` or data."""

    address: Hex
    stream: StreamHex


class Congested(RelayMessage, frozen=True, kw_only=True):
    """That stream was closed both ways, for its sender went beyond its credit.

    Or too much waits for its reader, or the two hubs had `STREAMS_MAX` open already.
    """

    address: Hex
    stream: StreamHex


ToHub = RelayNonce | Here | Joined | Left | NoSuchHub | Congested
FromHub = RelayHello

_encoder = msgspec.json.Encoder()
_to_hub: msgspec.json.Decoder[ToHub] = msgspec.json.Decoder(ToHub)
_from_hub: msgspec.json.Decoder[FromHub] = msgspec.json.Decoder(FromHub)
_TO_HUB = tagged.tags(ToHub)


def encode(message: RelayMessage) -> str:
    """A text message."""
    return _encoder.encode(message).decode()


def decode_to_hub(text: str) -> ToHub | None:
    """What the server says; None: of a type that this version does not know.

    Raises:
        WireError: no message.
    """
    return tagged.decode(_to_hub, _TO_HUB, text)


def decode_hello(text: str) -> RelayHello:
    """What a hub says first, and all that it says in text.

    Raises:
        WireError: something else.
    """
    return tagged.decode_strictly(_from_hub, text)


class Piece(NamedTuple):
    """A data message, taken apart."""

    kind: int
    address: bytes
    """32 bytes."""
    stream: bytes
    """8 bytes."""
    payload: memoryview


def piece(kind: int, address: bytes, stream: bytes, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """A data message."""
    return b"".join((_KINDS[kind], address, stream, payload))


def take_apart(message: bytes) -> Piece:
    """Reads a data message.

    Raises:
        WireError: it breaks the rules above; the sentence says which.
    """
    kind, size = (message[0] if message else 0), len(message) - HEADER
    if kind not in _KINDS or size < 0:
        raise WireError("no data message of this version")
    if kind == DATA and not 0 < size <= PIECE_MAX:
        raise WireError(f"data of {size:,} bytes, of 1 to {PIECE_MAX:,}")
    if size != 4 and kind == CREDIT_MORE:
        raise WireError("credit without a number")
    if size and kind in (OPEN, CLOSE):
        raise WireError("an open or close with a payload")
    view = memoryview(message)
    return Piece(kind, bytes(view[1:33]), bytes(view[33:HEADER]), view[HEADER:])


def statement(server_nonce: str, hello: RelayHello) -> bytes:
    """T: what a hub's proof and signature are made over."""
    parts = (
        LABEL,
        bytes.fromhex(server_nonce),
        bytes.fromhex(hello.nonce),
        hello.hub_id.encode(),
        hello.url.encode(),
        bytes.fromhex(hello.public),
    )
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])


def proof_of(token: str, said: bytes) -> str:
    """What shows that somebody has the token. Compare with `hmac.compare_digest`."""
    return hmac.digest(token.encode(), said, "sha256").hex()


def pass_of(token: str, invitation: str, *, invited: bool) -> str:
    """What takes the token's place where two meet apart, 43 characters.

    Args:
        token: of the relay.
        invitation: 32 hexadecimal digits.
        invited: for the one that was invited, else for the one that invites: who has one has not the other.
    """
    said = PASS_LABEL + (b"invited\0" if invited else b"inviting\0") + bytes.fromhex(invitation)
    return base64.urlsafe_b64encode(hmac.digest(token.encode(), said, "sha256")).decode().rstrip("=")


def to_sign(said: bytes) -> bytes:
    """What the hub signs with its identity."""
    return SIGN_LABEL + hashlib.sha256(said).digest()


def address_of(public: bytes) -> bytes:
    """The 32 bytes by which a hub with this public key is reached."""
    return hashlib.sha256(public).digest()
