"""Names, addresses and ids: their alphabet, and the one place where an address is split and joined.

A *name* (peer, room, group) and a *hub_id* are 1-64 characters of ``[A-Za-z0-9._-]`` that begin with
a letter or digit. They are unique without regard to case and shown as they were given. An *address*
is ``name`` on this hub or ``name@hub_id`` anywhere. An *id* is a ULID: 48 bits of milliseconds and
80 random bits in 26 characters of Crockford's base 32, here in lower case. It sorts by time, so the
store's index grows at its right edge.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, NamedTuple

from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Callable

# ``\Z``, never ``$``: the latter lets a trailing newline pass.
NAME_PATTERN = r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
ADDRESS_PATTERN = r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[A-Za-z0-9][A-Za-z0-9._-]{0,63})?\Z"
ID_PATTERN = r"\A[0-7][0-9a-hjkmnp-tv-z]{25}\Z"
NAME_MAX = 64

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
AddressText = Annotated[str, Meta(pattern=ADDRESS_PATTERN)]
Id = Annotated[str, Meta(pattern=ID_PATTERN)]

NAME_RULE = "1-64 characters of A-Z a-z 0-9 . _ -, beginning with a letter or digit"

_NAME = re.compile(NAME_PATTERN)
_ID = re.compile(ID_PATTERN)
_NOT_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(a + b for a in _CROCKFORD for b in _CROCKFORD)


class Address(NamedTuple):
    """A split address; ``hub`` is empty for a peer, room or group of this hub."""

    name: str
    hub: str

    def __str__(self) -> str:
        return f"{self.name}@{self.hub}" if self.hub else self.name


def is_name(text: str) -> bool:
    """Whether `text` is a valid name or hub_id."""
    return _NAME.match(text) is not None


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id made by :func:`new_id`."""
    return _ID.match(text) is not None


def key(name: str) -> str:
    """The form under which names are compared: without regard to case."""
    return name.lower()


def split_address(text: str, own_hub: str) -> Address | None:
    """Split ``name`` or ``name@hub_id``; ``name@own_hub`` is ``name``. None where it is no address."""
    name, at, hub = text.partition("@")
    if not _NAME.match(name) or (at and not _NAME.match(hub)):
        return None
    return Address(name, "" if key(hub) == key(own_hub) else hub)


def slug(text: str, fallback: str = "peer") -> str:
    """The nearest valid name to any text (a directory's or host's name), or `fallback`."""
    cleaned = _NOT_NAME.sub("-", text).strip("-._")[:NAME_MAX].rstrip("-._")
    return cleaned or fallback


def suffixed(name: str, number: int) -> str:
    """``name-2``, ``name-3``, ... kept within the longest allowed name."""
    tail = f"-{number}"
    return name[: NAME_MAX - len(tail)] + tail


def new_id(now_ms: int, random_bits: Callable[[int], int]) -> str:
    """A fresh id. `random_bits(80)` gives 80 random bits (``secrets.randbits``)."""
    value = (now_ms & 0xFFFF_FFFF_FFFF) << 80 | random_bits(80)
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)])
