"""A newer program lets an older hub end and starts its own; never the other way round.

Only a hub that somebody started on demand is replaced: one that was told to stay (`hub start`, a service,
``keep_alive``) is a person's, who is told instead (`hub status`, `doctor`).
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from ecorelay import __version__, wire
from ecorelay.connection import Connection, Lost
from ecorelay.errors import WireError
from ecorelay.process import is_alive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ecorelay.endpoint import Endpoint

DRAIN_S: Final = 6.0
"""How long an older hub may take to end: it says goodbye and writes down what it has."""
_LOOK_S: Final = 0.02
_BROKEN: Final = (OSError, WireError, trio.BrokenResourceError, trio.ClosedResourceError)

_VERSION: Final = re.compile(
    r"\A(?P<release>[0-9]{1,9}(?:\.[0-9]{1,9}){0,5})"
    r"(?:(?P<stage>a|b|rc)(?P<number>[0-9]{1,9}))?"
    r"(?:\.post(?P<post>[0-9]{1,9}))?"
    r"(?:\.dev(?P<dev>[0-9]{1,9}))?"
    r"(?:\+[a-z0-9.]{1,64})?\Z"
)
_STAGES: Final = {"a": 0, "b": 1, "rc": 2, None: 3}
_NEVER: Final = 10**10
"""Above every number that a version can have."""


def order(version: str) -> tuple[object, ...] | None:
    """A key by which versions can be compared, as PEP 440 has it; None: it is none that we can read."""
    match = _VERSION.match(version)
    if match is None:
        return None
    release = [int(part) for part in match["release"].split(".")]
    while release and release[-1] == 0:
        release.pop()
    stage = _STAGES[match["stage"]]
    if match["dev"] is not None and match["stage"] is None and match["post"] is None:
        stage = -1  # before every alpha of the same release
    return (
        tuple(release),
        stage,
        int(match["number"] or 0),
        int(match["post"] or -1) if match["post"] is not None else -1,
        int(match["dev"]) if match["dev"] is not None else _NEVER,
    )


def is_older(version: str, than: str = __version__) -> bool:
    """Whether `version` is surely the older one."""
    theirs, ours = order(version), order(than)
    return theirs is not None and ours is not None and theirs < ours


class Upgrade:
    """Whether this process replaces the hub it finds: at most once for each data directory.

    Two programs that disagree which of them is newer must not replace each other's hubs for ever.
    """

    def __init__(self) -> None:
        self._tried: set[Path] = set()

    def is_due(self, home: Path, endpoint: Endpoint | None) -> bool:
        """Whether the hub that says it runs is to be replaced by ours."""
        return (
            endpoint is not None
            and endpoint.version != __version__
            and not endpoint.kept
            and home not in self._tried
            and is_older(endpoint.version)
        )

    def note(self, home: Path) -> None:
        """It is tried now."""
        self._tried.add(home)


async def drain(endpoint: Endpoint, connect: Callable[[], Awaitable[trio.abc.Stream]], reason: str) -> bool:
    """Ask a hub to end, and wait until it has.

    The caller holds ``start.lock``, so that nobody starts another in the meantime.

    Args:
        endpoint: of the hub.
        connect: to that hub.
        reason: goes into its log and its goodbyes.

    Returns:
        Whether it is gone.
    """
    from ecorelay.spawn import NoHub

    with trio.move_on_after(DRAIN_S):
        with suppress(NoHub, Lost, *_BROKEN):  # it may be just leaving
            await _say_stop(await connect(), reason)
        while is_alive(endpoint.pid, endpoint.pid_start):  # noqa: ASYNC110 - it is no child of ours
            await trio.sleep(_LOOK_S)
        return True
    return False


async def _say_stop(stream: trio.abc.Stream, reason: str) -> None:
    async with stream:
        hello = wire.Hello(
            versions=(wire.OLDEST_PROTOCOL_VERSION, wire.PROTOCOL_VERSION),
            role="observer",
            client="ecorelay-upgrade",
            app_version=__version__,
        )
        connection = Connection(stream)
        if not isinstance(await connection.greet(hello), wire.Welcome):
            raise Lost("it does not understand us")
        connection.queue(wire.encode(wire.HubStop(req_id=1, reason=reason)))

        def on_frame(frame: wire.ToSession) -> None:
            if isinstance(frame, wire.Bye):
                connection.end(frame.reason)

        await connection.run(on_frame, lambda error: None)
