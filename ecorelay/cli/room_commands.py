"""``ecorelay rooms``: what is going on right now. Rooms hold live sessions, so a person only looks."""

from __future__ import annotations

import sys

import typer

from ecorelay import wire
from ecorelay.cli import screen, session, words

commands = typer.Typer(**words.TYPER)


@commands.command("rooms", **words.with_example("ecorelay rooms", "ecorelay rooms --json"))
def rooms(as_json: words.Json = False) -> None:
    """List the rooms and who is in them.

    A room lives as long as somebody is in it, and assistants join by themselves (relay_join). For what
    should last, and what you can write into, see `ecorelay groups`.

    """
    session.run(lambda: _rooms(as_json))


async def _rooms(as_json: bool) -> None:
    async with session.looking_on() as hub:
        found = await hub.request(wire.Rooms(req_id=0))
    if as_json:
        screen.out_json(rooms=[{"name": room.name, "members": room.members} for room in found.rooms])
        return
    if not found.rooms:
        screen.say("no rooms now: an assistant makes one with relay_join")
        return
    rows = [
        (screen.line(room.name), str(len(room.members)), screen.line(", ".join(room.members)))
        for room in found.rooms
    ]
    if screen.is_terminal(sys.stdout):
        rows.insert(0, ("ROOM", "IN", "MEMBERS"))
    screen.out(screen.table(rows))
