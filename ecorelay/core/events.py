"""What happened: past tense, plain data, the only input of the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from ecorelay import link_wire, wire
from ecorelay.core.ops import OpResult
from ecorelay.errors import Code


class Now(NamedTuple):
    """One reading of both clocks. `mono` seconds never jump and time intervals; `wall` ms are shown."""

    mono: float
    wall: int


class SessionOpened(Struct, frozen=True, gc=False):
    """A connection said hello. `pid` is the kernel's word where it has one, else the hello's."""

    sid: int
    hello: wire.Hello
    pid: int


class SessionFrame(Struct, frozen=True, gc=False):
    """A decoded frame of a session that said hello."""

    sid: int
    frame: wire.FromSession


class SessionClosed(Struct, frozen=True, gc=False):
    """The connection is gone, for whatever reason; nothing reaches it any more."""

    sid: int
    reason: str


class Stored(Struct, frozen=True, gc=False):
    """The unit is committed; one result per op."""

    then: Any
    results: tuple[OpResult, ...]


class StoreFailed(Struct, frozen=True, gc=False):
    """The unit left no trace, because."""

    then: Any
    code: Code
    message: str


class ProcessChecked(Struct, frozen=True, gc=False):
    """Answer to `CheckProcess`; `alive` is True where it could not be found out."""

    then: Any
    alive: bool


class HubsConfigured(Struct, frozen=True, gc=False):
    """The hubs that a person named, and what hubs may not do here.

    `restricted`: hub_id in lower case, or ``*`` for those not named → what of mail, groups, rooms and
    broadcast it may not. `waking`: those whose broadcasts may wake sessions, in the same words; those of
    others wait in the inbox.
    """

    hub_ids: tuple[str, ...]
    restricted: Mapping[str, frozenset[str]] = {}
    waking: frozenset[str] = frozenset()


class LinkUp(Struct, frozen=True, gc=False):
    """A hub proved itself, and both sides chose this way to it. `link` is a number never used before."""

    link: int
    hub_id: str


class LinkFrame(Struct, frozen=True, gc=False):
    """A decoded frame of a link."""

    link: int
    frame: link_wire.OnLink


class LinkLost(Struct, frozen=True, gc=False):
    """The link is gone; nothing reaches its hub over it any more."""

    link: int
    reason: str


class ClockJumped(Struct, frozen=True, gc=False):
    """The wall clock moved by more than 30 s against the other: the machine slept, or was set."""

    seconds: float


class Tick(Struct, frozen=True, gc=False):
    """A deadline of `Hub.next_deadline` has come."""


Event = (
    SessionOpened
    | SessionFrame
    | SessionClosed
    | HubsConfigured
    | LinkUp
    | LinkFrame
    | LinkLost
    | Stored
    | StoreFailed
    | ProcessChecked
    | ClockJumped
    | Tick
)
