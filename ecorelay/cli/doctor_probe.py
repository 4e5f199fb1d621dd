"""``ecorelay doctor --probe``: a canary to each live session, and how far it got."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import trio

from ecorelay import wire
from ecorelay.cli import screen, session
from ecorelay.cli.doctor_checks import Examined
from ecorelay.cli.doctor_table import OTHERS, Sessions, by_assistant, carrier_of
from ecorelay.client import HubClient
from ecorelay.errors import RelayError
from ecorelay.requests import RequestError

AT_ONCE: Final = 100
"""Probes open at once: as many as the hub lets one connection have."""
PATIENCE_S: Final = 10.0
"""How long the hub may take: twice its own limit."""
HEAD: Final = ("PEER", "ASSISTANT", "MAIL BY", "CANARY")

Results = Mapping[str, wire.Probed]
"""By the name the peer had in the list."""


async def probe(live: Sequence[wire.Peer]) -> Results:
    """Send them all, and wait for what becomes of them.

    Raises:
        RelayError: no hub can be asked, or it does not know of canaries.
    """
    if not live:
        return {}
    found: dict[str, wire.Probed] = {}
    unknown: list[RequestError] = []
    limit = trio.CapacityLimiter(AT_ONCE)
    async with session.at_running_hub() as hub:
        async with trio.open_nursery() as nursery:

            async def one(peer: str) -> None:
                async with limit:
                    try:
                        found[peer] = await _ask(hub, peer)
                    except RequestError as error:
                        unknown.append(error)
                        nursery.cancel_scope.cancel()

            for peer in live:
                nursery.start_soon(one, peer.name)
        if unknown:
            raise unknown[0]
    return found


async def _ask(hub: HubClient, peer: str) -> wire.Probed:
    """What became of one.

    Raises:
        RequestError: ``bad_msg``, the hub is of another version.
    """
    try:
        return await hub.request(wire.Probe(req_id=0, peer=peer), PATIENCE_S)
    except RelayError as error:
        if isinstance(error, RequestError) and error.code == "bad_msg":
            raise
        # Who left meanwhile did not fail.
        ok = None if error.code in ("peer_gone", "peer_not_found") else False
        return wire.Probed(req_id=0, peer=peer, ok=ok, stage="hub", says=error.message)


def failed(results: Results) -> int:
    """How many could have answered, and did not."""
    return sum(each.ok is False for each in results.values())


def summary(results: Results) -> str:
    """All of it in a line."""
    if not results:
        return "no session was probed: none is live"
    well, stopped = sum(each.ok is True for each in results.values()), failed(results)
    of = screen.many(len(results), "live session")
    return f"{of} probed: {well} well, {stopped} stopped, {len(results) - well - stopped} not told"


def shown(examined: Examined, results: Results, now_ms: int) -> str:
    """A line for each live session."""
    rows = [
        (
            *map(screen.line, (peer.name, _title(sessions), carrier_of(peer))),
            _outcome(results[peer.name], now_ms),
        )
        for sessions, peer in _probed(examined, results)
    ]
    return screen.table([HEAD, *rows]) if rows else ""


def fields(examined: Examined, results: Results) -> Iterator[dict[str, Any]]:
    """All live sessions for ``--json``, in the order in which they are shown."""
    for sessions, peer in _live(examined):
        yield {
            "peer": peer.name,
            "assistant": sessions.assistant.name if sessions.assistant else "",
            "client": peer.client,
            "carrier": peer.carrier,
            "push": peer.push,
            "evidence_at": screen.timestamp(peer.evidence_at),
            "probe": _result(results[peer.name]) if peer.name in results else None,
        }


def _live(examined: Examined) -> Iterator[tuple[Sessions, wire.Peer]]:
    assistants = [each.assistant for each in examined.assistants]
    for sessions in by_assistant(assistants, examined.live or ()):
        for peer in sessions.peers:
            yield sessions, peer


def _probed(examined: Examined, results: Results) -> Iterator[tuple[Sessions, wire.Peer]]:
    return ((sessions, peer) for sessions, peer in _live(examined) if peer.name in results)


def _title(sessions: Sessions) -> str:
    return sessions.assistant.title if sessions.assistant else OTHERS


def _outcome(result: wire.Probed, now_ms: int) -> str:
    says = screen.line(result.says)
    if result.ok:
        return f"{screen.styled('ok', 'green')} after {result.took_ms} ms: {says}"
    if result.ok is None:
        hook = f" (its last hook ran {screen.age(result.hook_at, now_ms)})" if result.hook_at else ""
        return f"{screen.styled('not told', 'yellow')}: {says}{hook}"
    return f"{screen.styled('stopped', 'red')} behind the {result.stage} after {result.took_ms} ms: {says}"


def _result(result: wire.Probed) -> dict[str, Any]:
    return {
        "ok": result.ok,
        "stage": result.stage,
        "says": result.says,
        "took_ms": result.took_ms,
        "adapter_ms": result.adapter_ms,
        "hook_at": screen.timestamp(result.hook_at),
    }
