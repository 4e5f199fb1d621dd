"""``ecorelay block``: peers whose mail is refused."""

from __future__ import annotations

from typing import Annotated

import typer

from ecorelay import wire
from ecorelay.cli import complete, screen, session, words
from ecorelay.errors import RelayError

commands = typer.Typer(**words.TYPER)


@commands.command(
    "block",
    **words.with_example(
        "ecorelay block chatty",
        "ecorelay block chatty@desk",
        "ecorelay block chatty --off",
        "ecorelay block               # who is blocked",
    ),
)
def block(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The peer.", show_default=False, autocompletion=complete.peers),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Take the block away again.")] = False,
    as_json: words.Json = False,
) -> None:
    """Refuse what a peer sends, or list who is blocked.

    Nobody on this hub gets mail of it any more, and its assistant is told so with the code `blocked`.
    What it sent before stays. A whole hub is refused with `ecorelay distrust`.

    """
    if name is None:
        if off:
            raise RelayError("bad_args", "--off needs NAME: whose block is to be taken away?")
        session.run(lambda: _blocks(as_json))
    else:
        frame = wire.Block(req_id=0, name=words.address(name, "NAME"), blocked=not off)
        session.run(lambda: _block(frame, as_json))


async def _block(frame: wire.Block, as_json: bool) -> None:
    async with session.looking_on() as hub:
        await hub.request(frame)
    if as_json:
        screen.out_json(name=frame.name, blocked=frame.blocked)
    elif frame.blocked:
        screen.say(f"{frame.name} is blocked; to undo it: ecorelay block {frame.name} --off")
    else:
        screen.say(f"{frame.name} is not blocked any more")


async def _blocks(as_json: bool) -> None:
    async with session.looking_on() as hub:
        found = await hub.request(wire.Blocks(req_id=0))
    if as_json:
        screen.out_json(names=found.names)
    elif found.names:
        screen.out("".join([f"{screen.line(name)}\n" for name in found.names]))
    else:
        screen.say("nobody is blocked")
