"""The line with which another machine joins this one, made to travel through a pipe or a clipboard.

There are two kinds. For a machine that reaches this one: where this hub is, who it is, and the secret itself;
whoever has it can join, at any time. Over a relay server: the way to a meeting there with this machine, which
hands over the secret then; good for one machine, as long as this one waits. A checksum tells a line that was
cut from one that was copied whole.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import socket
from ipaddress import ip_address
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from ecorelay.errors import RelayError
from ecorelay.names import Name
from ecorelay.relay_wire import InvitationHex

BOTH: Final = "ecorelay-join-"
PREFIX: Final = f"{BOTH}1-"
AT_RELAY: Final = f"{BOTH}2-"
LINE_MAX: Final = 8 * 1024
"""Characters. A secret has 1,024 at most."""
_CHECK: Final = 4
"""Bytes of the checksum."""


class RelayEntry(Struct, frozen=True, kw_only=True):
    """A relay server in bridge.json."""

    url: Annotated[str, Meta(max_length=2_048)]
    token: Annotated[str, Meta(max_length=1024)]

    def __repr__(self) -> str:
        return "RelayEntry(...)"


class Invitation(Struct, frozen=True, kw_only=True):
    """What is in the line. Never shown otherwise: it has no repr of its own, so none is to be made."""

    hub_id: Name
    host: Annotated[str, Meta(max_length=253)]
    port: Annotated[int, Meta(ge=1, le=65535)]
    identity: Annotated[str, Meta(max_length=64)]
    secret: Annotated[str, Meta(max_length=1024)]
    relays: Annotated[tuple[RelayEntry, ...], Meta(max_length=10)] = ()
    """Relay servers this hub is at."""

    def __repr__(self) -> str:
        return f"Invitation({self.hub_id})"


class Meeting(Struct, frozen=True, kw_only=True):
    """What is in the other kind of line, see `ecorelay_bridge.relay_invitation.Pass`."""

    url: Annotated[str, Meta(max_length=2_048)]
    hub_id: Name
    invitation: InvitationHex
    token: Annotated[str, Meta(max_length=64)]
    code: Annotated[str, Meta(max_length=64)]

    def __repr__(self) -> str:
        return f"Meeting({self.hub_id})"


def written(invitation: Invitation | Meeting) -> str:
    """The line, without its end."""
    data = msgspec.json.encode(invitation)
    whole = data + _checksum(data)
    prefix = PREFIX if isinstance(invitation, Invitation) else AT_RELAY
    return prefix + base64.urlsafe_b64encode(whole).decode().rstrip("=")


def is_one(text: str) -> bool:
    """Whether `text` is meant as an invitation."""
    return text.lstrip().startswith(BOTH)


def taken(text: str) -> Invitation | Meeting:
    """What is in the line `text`; white space in it, as a terminal's line break leaves it, is no harm.

    Raises:
        RelayError: ``bad_args``; says nothing of what is in it.
    """
    bare = "".join(text.split())
    if not bare.startswith(BOTH):
        raise RelayError(
            "bad_args",
            f"this is no invitation: it is one line that begins with {BOTH}, as `ecorelay bridge-invite` "
            "prints it on the other machine",
        )
    kind = AT_RELAY if bare.startswith(AT_RELAY) else PREFIX
    if not bare.startswith(kind):
        raise _of_another_version()
    coded = bare.removeprefix(kind)
    try:
        whole = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _damaged() from None
    data, check = whole[:-_CHECK], whole[-_CHECK:]
    if not data or _checksum(data) != check:
        raise _damaged()
    try:
        if kind == AT_RELAY:
            return msgspec.json.decode(data, type=Meeting)
        return msgspec.json.decode(data, type=Invitation)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _of_another_version() from None


def _of_another_version() -> RelayError:
    return RelayError(
        "bad_args", "this invitation was made by another version of ecorelay: upgrade the older one"
    )


def _damaged() -> RelayError:
    return RelayError("bad_args", "the invitation is damaged or was cut: copy the whole line once more")


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(b"ecorelay invitation\0" + data).digest()[:_CHECK]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches itself there."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def own_address(bind: str) -> str:
    """How other machines most likely reach this one: the address of the network it is in. Sends nothing."""
    if bind not in ("0.0.0.0", "::"):
        return bind
    # Connecting a datagram socket only picks a way; these addresses are reserved for documents.
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((far, 9))
                found: str = sock.getsockname()[0]
                return found
        except OSError:
            continue
    return socket.gethostname()
