"""The table of ``ecorelay doctor``: each assistant, and how mail gets into its live sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from ecorelay import wire
from ecorelay.cli import screen
from ecorelay.cli.doctor_assistant import Looked
from ecorelay.cli.doctor_checks import Examined
from ecorelay_adapters.clients.assistant import Assistant

HEAD: Final = ("ASSISTANT", "VERSION", "SET UP", "LIVE", "MAIL BY", "PROVED")
OTHERS: Final = "other MCP clients"
PULL: Final = "pull"
"""What is said of a session that has no carrier."""


class Sessions(Struct, frozen=True, kw_only=True):
    """The live sessions of one assistant; of those that are in no row, `assistant` is None."""

    assistant: Assistant | None
    peers: Sequence[wire.Peer]


def clients_of(assistant: Assistant) -> tuple[str, ...]:
    """What its sessions call their client; its module says so where that is not its name."""
    return tuple(getattr(assistant, "clients", ())) or (assistant.name,)


def by_assistant(assistants: Sequence[Assistant], live: Sequence[wire.Peer]) -> list[Sessions]:
    """The live sessions of each assistant, in the order of the assistants, then those of none; by name."""
    owner = {client: each for each in assistants for client in clients_of(each)}
    ordered = sorted(live, key=lambda peer: (peer.name.lower(), peer.name))
    return [
        Sessions(assistant=each, peers=[peer for peer in ordered if owner.get(peer.client) is each])
        for each in (*assistants, None)
    ]


def carrier_of(peer: wire.Peer) -> str:
    """What mail reaches a live session by."""
    return peer.carrier or ("push" if peer.push else PULL)


def carriers_of(peers: Sequence[wire.Peer]) -> list[str]:
    """What mail reaches them by, the most frequent first."""
    return [carrier for carrier, _ in Counter(map(carrier_of, peers)).most_common()]


def shown(examined: Examined, now_ms: int) -> str:
    """The table, and one line for the assistants of which nothing is here; empty: none is known."""
    looked = {each.assistant.name: each for each in examined.assistants}
    assistants = [each.assistant for each in examined.assistants]
    asked = examined.live is not None
    rows, absent = [], []
    for sessions in by_assistant(assistants, examined.live or ()):
        mail = _mail(sessions.peers, asked, now_ms)
        if sessions.assistant is None:
            if sessions.peers:
                rows.append((OTHERS, "-", "-", *mail))
        elif looked[sessions.assistant.name].is_here or sessions.peers:
            rows.append((sessions.assistant.title, *_set_up(looked[sessions.assistant.name]), *mail))
        else:
            absent.append(sessions.assistant.title)
    text = screen.table([HEAD, *[tuple(screen.line(cell) for cell in row) for row in rows]]) if rows else ""
    if absent:
        text += f"not found here: {', '.join(absent)}\n"
    return text


def _set_up(looked: Looked) -> tuple[str, str]:
    if looked.client is None:
        return "not found", looked.set_up
    return looked.client.version or ("cannot be run" if looked.client.problem else "?"), looked.set_up


def _mail(peers: Sequence[wire.Peer], asked: bool, now_ms: int) -> tuple[str, str, str]:
    if not peers:
        return ("0" if asked else "?", "-", "-")
    latest = max(peer.evidence_at for peer in peers)
    proved = screen.age(latest, now_ms) if latest else "nothing yet"
    return (str(len(peers)), ", ".join(carriers_of(peers)), proved)


def fields(examined: Examined) -> Iterator[dict[str, Any]]:
    """All assistants that are known, for ``--json``."""
    assistants = [each.assistant for each in examined.assistants]
    groups = by_assistant(assistants, examined.live or ())
    for looked, sessions in zip(examined.assistants, groups, strict=False):
        client = looked.client
        yield {
            "name": looked.assistant.name,
            "title": looked.assistant.title,
            "found": client is not None,
            "path": client.path if client else "",
            "version": client.version if client else "",
            "problem": client.problem if client else "",
            "configured": looked.set_up,
            "sessions": None if examined.live is None else len(sessions.peers),
            "carriers": carriers_of(sessions.peers),
            "evidence_at": screen.timestamp(max((peer.evidence_at for peer in sessions.peers), default=0)),
        }
