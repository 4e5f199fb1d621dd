"""What the core wants done: imperative, plain data, performed in order by `ecorelay.daemon.perform`."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ecorelay import link_wire, wire
from ecorelay.core.ops import Op


class Action(Struct, frozen=True, gc=False):
    """Base of every action."""


class Store(Action, frozen=True, gc=False):
    """Commit the unit `ops`; then `Stored(then, results)` or `StoreFailed(then, ...)` comes back.

    `then` is the core's own note of how to go on; nobody else looks into it. None: nothing to go on
    with, and a failure is only counted.
    """

    ops: tuple[Op, ...]
    then: Any = None


class Reply(Action, frozen=True, gc=False):
    """A frame to one session: an answer, or news about itself."""

    sid: int
    frame: wire.Frame


class Push(Action, frozen=True, gc=False):
    """The same frame to several sessions; encoded once."""

    sids: tuple[int, ...]
    frame: wire.Frame


class CloseSession(Action, frozen=True, gc=False):
    """Flush what is queued for the session, then close. `reason` is counted under its first word."""

    sid: int
    reason: str


class ToLink(Action, frozen=True, gc=False):
    """A frame to another hub."""

    link: int
    frame: link_wire.LinkFrame


class CloseLink(Action, frozen=True, gc=False):
    """End a link; `reason` is for a person."""

    link: int
    reason: str


class CheckProcess(Action, frozen=True, gc=False):
    """Find out whether process `pid`, started at `start` (0: unknown), lives: `ProcessChecked` comes back."""

    pid: int
    start: int
    then: Any


class Describe(Action, frozen=True, gc=False):
    """Answer `hub status`: the performer adds what only the shell knows (pid, sizes, problems)."""

    sid: int
    details: wire.HubDetails


class Reload(Action, frozen=True, gc=False):
    """Read bridge.json again and make all links anew, then answer the request."""

    sid: int
    req_id: int
    unread: int = 0


class Stop(Action, frozen=True, gc=False):
    """End the hub in good order."""

    reason: str
