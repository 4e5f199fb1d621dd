"""What the doctor sees of the hub: whether one can be had, what it says of itself, who is at it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

from ecorelay import __version__, wire
from ecorelay.cli import doctor_bridge, screen, session
from ecorelay.client import HubClient
from ecorelay.endpoint import read_endpoint
from ecorelay.errors import RelayError
from ecorelay.upgrade import is_older
from ecorelay_adapters.clients.assistant import Finding, Machine

SESSIONS_SHOWN: Final = 20
LISTED: Final = 1_000
"""Peers asked for; those online come first."""


async def check_hub(machine: Machine, heard: Callable[[wire.PeerList], None]) -> AsyncIterator[Finding]:
    """Whether a hub runs or can be started, answers, is of our version, and what it has to complain of.

    Args:
        machine: this one.
        heard: called with the peers the hub knows.
    """
    paths = machine.paths
    try:
        ran = read_endpoint(paths.endpoint) is not None
        began = time.perf_counter()
        async with _hub() as (hub, started):
            up_s = time.perf_counter() - began
            began = time.perf_counter()
            found = await hub.request(wire.HubStatus(req_id=0))
            answer_ms = (time.perf_counter() - began) * 1000
            listed = await hub.request(wire.Peers(req_id=0, limit=LISTED))
            heard(listed)
    except (RelayError, OSError) as error:
        yield Finding(
            check="hub",
            level="fail",
            says=f"cannot be reached or started: {screen.trouble(error)}",
            remedy="mend that, then call the doctor again; `ecorelay hub run` shows how it starts",
        )
        return
    how = f"started in {up_s:.1f} s" if started else f"up for {screen.duration(found.uptime_s)}"
    if started and ran:
        how += " (the one before had ended without a word)"
    who = f"{found.hub_id} (pid {found.pid}, ecorelay {found.version})"
    yield Finding(check="hub", level="ok", says=f"{who}, {how}, answers in {answer_ms:.1f} ms")
    for each in (
        *check_version(found),
        *check_problems(found),
        *doctor_bridge.check_links(found),
        *check_sessions(listed),
    ):
        yield each


@asynccontextmanager
async def _hub() -> AsyncIterator[tuple[HubClient, bool]]:
    """A look at the hub, which is started if none answers; and whether it was."""
    try:
        async with session.at_running_hub() as hub:
            yield hub, False
            return
    except RelayError as error:
        if error.code != "hub_unreachable" or not session.config().spawn:
            raise
    async with session.looking_on() as hub:
        yield hub, True


def check_version(found: wire.HubDetails) -> Iterator[Finding]:
    """Whether hub and program are of one version."""
    if is_older(found.version):
        yield Finding(
            check="hub",
            level="warn",
            says=f"it is older ({found.version}) than this ecorelay ({__version__})",
            remedy="ecorelay hub restart",
        )
    elif is_older(__version__, found.version):
        yield Finding(
            check="hub",
            level="warn",
            says=f"it is newer ({found.version}) than this ecorelay ({__version__})",
            remedy="upgrade this one, or call the newer one",
        )


def check_problems(found: wire.HubDetails) -> Iterator[Finding]:
    """What the hub itself complains of."""
    for problem in found.problems:
        yield Finding(check="hub", level="warn", says=problem, remedy="ecorelay logs")


def check_sessions(listed: wire.PeerList) -> Iterator[Finding]:
    """What mail reaches each live session by, and what last proved it."""
    live = [peer for peer in listed.peers if peer.online]
    now = time.time_ns() // 1_000_000
    for peer in live[:SESSIONS_SHOWN]:
        if not peer.carrier and not peer.push:
            says = "live; mail waits until it calls relay_inbox (no carrier)"
        elif not peer.evidence_at:
            says = f"live; mail comes by {peer.carrier or 'push'}, which nothing has proved yet"
        else:
            says = f"live; mail comes by {peer.carrier}, proved {screen.age(peer.evidence_at, now)}"
        yield Finding(check=f"session {peer.name}", level="ok", says=says)
    if len(live) > SESSIONS_SHOWN:
        yield Finding(check="sessions", level="ok", says=f"{len(live) - SESSIONS_SHOWN} more are live")
