"""One line that has all another machine needs to link to this one: where it is, who it is, and the secret.

It is made to travel through a pipe or a clipboard, never through an argument: whoever has it can join. A
checksum tells a line that was cut from one that was copied whole.
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

PREFIX: Final = "ecorelay-join-1-"
LINE_MAX: Final = 8 * 1024
"""Characters. A secret has 1,024 at most."""
_CHECK: Final = 4
"""Bytes of the checksum."""


class Invitation(Struct, frozen=True, kw_only=True):
    """What is in the line. Never shown otherwise: it has no repr of its own, so none is to be made."""

    hub_id: Name
    host: Annotated[str, Meta(max_length=253)]
    port: Annotated[int, Meta(ge=1, le=65535)]
    identity: Annotated[str, Meta(max_length=64)]
    secret: Annotated[str, Meta(max_length=1024)]

    def __repr__(self) -> str:
        return f"Invitation({self.hub_id})"


def written(invitation: Invitation) -> str:
    """The line, without its end."""
    data = msgspec.json.encode(invitation)
    whole = data + _checksum(data)
    return PREFIX + base64.urlsafe_b64encode(whole).decode().rstrip("=")


def is_one(text: str) -> bool:
    """Whether `text` is meant as an invitation."""
    return text.lstrip().startswith(PREFIX)


def taken(text: str) -> Invitation:
    """What is in the line `text`; white space in it, as a terminal's line break leaves it, is no harm.

    Raises:
        RelayError: ``bad_args``; says nothing of what is in it.
    """
    bare = "".join(text.split())
    if not bare.startswith(PREFIX):
        raise RelayError(
            "bad_args",
            f"this is no invitation: it is one line that begins with {PREFIX}, as `ecorelay bridge-invite` "
            "prints it on the other machine",
        )
    coded = bare.removeprefix(PREFIX)
    try:
        whole = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _damaged() from None
    data, check = whole[:-_CHECK], whole[-_CHECK:]
    if not data or _checksum(data) != check:
        raise _damaged()
    try:
        return msgspec.json.decode(data, type=Invitation)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RelayError(
            "bad_args", "this invitation was made by another version of ecorelay: upgrade the older one"
        ) from None


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
