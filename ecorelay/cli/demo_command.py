"""``ecorelay demo``: see it work before trusting it with anything."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Annotated

import trio
import typer

from ecorelay.cli import exits, screen, session, words
from ecorelay.cli.demo_mcp import AssistantError, ToolFailed
from ecorelay.cli.demo_stage import CheckFailed, Narrator, open_stage
from ecorelay.cli.demo_story import farewell, play

commands = typer.Typer(**words.TYPER)


@commands.command("demo", **words.with_example("ecorelay demo", "ecorelay demo --keep"))
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep its directory with database and logs.")] = False,
) -> None:
    """Watch two assistants talk, one leave, the hub be killed.

    Everything is real (a hub, two adapters, MCP between them) and in a temporary directory of its own:
    your own hub, if you have one, is not touched. It takes some seconds, and exits with 1 when something is
    not as it should be.
    """
    session.run(lambda: _demo(keep))


async def _demo(keep: bool) -> int:
    tell = Narrator()
    tell.title("ecorelay demo: two assistants, one hub, nothing simulated")
    try:
        began = trio.current_time()
        async with open_stage(tell, keep=keep) as stage:
            await play(stage)
            farewell(stage, trio.current_time() - began, program())
    except BaseException as error:
        told = _expected(error)
        if told is None:
            raise
        screen.fail(f"the demo failed: {told}")
        return exits.REFUSED
    return exits.OK


def _expected(error: BaseException) -> str | None:
    """What a failed check or a broken conversation has to say; None for anything else."""
    while isinstance(error, BaseExceptionGroup):
        known = [each for each in error.exceptions if not isinstance(each, trio.Cancelled)]
        if len(known) != 1:
            known = [each for each in known if _expected(each) is not None] or known
        error = known[0]
    if isinstance(error, CheckFailed | AssistantError | ToolFailed):
        return str(error)
    return None


def program() -> str:
    """The absolute path that starts this installation: an assistant may have another PATH."""
    here = shutil.which(sys.argv[0]) or ""
    beside = os.path.join(os.path.dirname(sys.executable), "ecorelay")
    for path in (here, beside, shutil.which("ecorelay") or ""):
        if path and os.path.basename(path).startswith("ecorelay") and os.access(path, os.X_OK):
            return os.path.abspath(path)
    return f"{sys.executable} -m ecorelay"
