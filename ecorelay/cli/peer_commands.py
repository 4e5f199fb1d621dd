"""``ecorelay peers``: who can be reached, addresses for those who have not come yet, and forgetting."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from ecorelay import wire
from ecorelay.cli import complete, screen, session, words

app = typer.Typer(
    **words.TYPER,
    **words.with_example(
        "ecorelay peers",
        "ecorelay peers --match shop --json",
        "ecorelay peers add reviewer",
        "ecorelay peers forget reviewer",
    ),
    invoke_without_command=True,
)

LISTED = 1000
MATCH_MAX = 256


@app.callback()
def peers(
    context: typer.Context,
    match: Annotated[
        str, typer.Option("--match", "-m", metavar="PART", help="Part of a name, directory or branch.")
    ] = "",
    as_json: words.Json = False,
) -> None:
    """List who can be reached, online ones first.

    These are the peers of this hub, and NAME@HUB of other hubs. Without --match only those seen within
    the last 7 days. MAIL BY is how a message gets before the assistant, and when that was last seen to
    work; pull: it has to look by itself. What is sent to an unreachable one waits here until its hub is
    back.

    """
    if words.only_alone(context, match=match, json=as_json):
        session.run(lambda: _peers(match, as_json))


async def _peers(match: str, as_json: bool) -> None:
    request = wire.Peers(req_id=0, match=match[:MATCH_MAX], limit=LISTED)
    async with session.looking_on() as hub:
        found = await hub.request(request)
    if as_json:
        listed = [_fields(peer) for peer in found.peers]
        screen.out_json(hub_id=found.hub_id, peers=listed, more=found.more)
        return
    if not found.peers:
        screen.say(
            f"no peer matches {match!r}: `ecorelay peers` lists those seen lately"
            if match
            else "nobody yet: an assistant becomes a peer by starting `ecorelay mcp` (see `ecorelay install`)"
        )
        return
    rows = [_row(peer) for peer in found.peers]
    if screen.is_terminal(sys.stdout):
        rows.insert(0, ("NAME", "SEEN", "MAIL BY", "CLIENT", "BRANCH", "DIRECTORY"))
    screen.out(screen.table(rows))
    if found.more:
        screen.say(f"and {found.more} more: narrow it with --match")
    for hub_id, since in _unreachable(found).items():
        ago = screen.age(since, int(time.time() * 1000))
        screen.say(f"{hub_id} went out of reach {ago}, mail for its peers waits here: ecorelay hub status")


def _unreachable(found: wire.PeerList) -> dict[str, int]:
    """Hubs without a link, and since when."""
    since = {}
    for peer in found.peers:
        if peer.unreachable_since:
            since[peer.name.partition("@")[2]] = peer.unreachable_since
    return since


def _row(peer: wire.Peer) -> tuple[str, ...]:
    now = int(time.time() * 1000)
    seen = "online" if peer.online else screen.age(peer.last_seen, now)
    if peer.unreachable_since:
        seen = "unreachable"
    known = (_carrier(peer, now), peer.client, peer.git_branch, screen.home_relative(peer.cwd))
    return (screen.line(peer.name), seen, *[screen.line(text) or "-" for text in known])


def _carrier(peer: wire.Peer, now: int) -> str:
    if not peer.online:
        return ""
    carrier = peer.carrier or ("push" if peer.push else "pull")
    return f"{carrier}, {screen.age(peer.evidence_at, now)}" if peer.evidence_at else carrier


def _fields(peer: wire.Peer) -> dict[str, Any]:
    fields = {
        "name": peer.name,
        "online": peer.online,
        "cwd": peer.cwd,
        "git_branch": peer.git_branch,
        "client": peer.client,
        "last_seen": screen.timestamp(peer.last_seen),
        "push": peer.push,
        "carrier": peer.carrier,
        "evidence_at": screen.timestamp(peer.evidence_at),
    }
    if peer.unreachable_since:
        fields["unreachable_since"] = screen.timestamp(peer.unreachable_since)
    return fields


@app.command(
    "add",
    **words.with_example(
        "ecorelay peers add reviewer", 'ecorelay send reviewer "Please look at branch orders first."'
    ),
)
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new peer's name.", show_default=False)],
    as_json: words.Json = False,
) -> None:
    """Make an address for a peer that has not come yet.

    Mail waits there until a session of that name reads it.

    """
    wanted = words.name(name, "NAME")
    session.run(lambda: _add(wanted, as_json))


async def _add(name: str, as_json: bool) -> None:
    async with session.looking_on() as hub:
        added = await hub.request(wire.AddPeer(req_id=0, op_id="", name=name))
    if as_json:
        screen.out_json(name=added.name)
    else:
        screen.out(f"{screen.line(added.name)}\n")
        screen.say(f"mail for {added.name} is kept until a session of that name reads it")


@app.command("forget", **words.with_example("ecorelay peers forget reviewer"))
def forget(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="The peer to forget; it must be offline.",
            show_default=False,
            autocompletion=complete.peers,
        ),
    ],
    as_json: words.Json = False,
) -> None:
    """Remove a peer that is offline, with its mailbox.

    Everything in it goes too, and cannot be brought back. Whoever sent it mail it has not read finds a
    notice. Groups it administers are deleted, others it leaves.

    """
    wanted = words.name(name, "NAME")
    session.run(lambda: _forget(wanted, as_json))


async def _forget(name: str, as_json: bool) -> None:
    async with session.looking_on() as hub:
        await hub.request(wire.ForgetPeer(req_id=0, name=name))
    if as_json:
        screen.out_json(name=name)
    else:
        screen.say(f"forgotten: {name}, and what was in its mailbox")
