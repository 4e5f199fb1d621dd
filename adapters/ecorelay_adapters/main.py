"""``ecorelay mcp``: the process an assistant starts beside each of its sessions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import trio

from ecorelay import __version__
from ecorelay_adapters import mcp_stdio
from ecorelay_adapters.carriers import ChannelCarrier
from ecorelay_adapters.session import Session, environment
from ecorelay_adapters.tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ecorelay_adapters.carriers import Carrier
    from ecorelay_adapters.mcp_stdio import Server

_HOOK = "hook"
_CARRIERS: dict[str, Callable[[Server], Carrier] | None] = {
    "none": None,
    _HOOK: None,
    "channel": lambda server: ChannelCarrier(server.notify, server.initialized),
}


def main(argv: Sequence[str]) -> int:
    """Serve one assistant session on stdin and stdout until it ends.

    Args:
        argv: what follows ``ecorelay mcp`` on the command line.

    Returns:
        the exit code.
    """
    given = _parser().parse_args(argv)
    session = Session(environment(), _CARRIERS[given.carrier], hooks=given.carrier == _HOOK)
    trio.run(_serve, session)
    return 0


async def _serve(session: Session) -> None:
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(_serve_mcp, session, nursery.cancel_scope)
        await session.run(server)


async def _serve_mcp(
    session: Session,
    everything: trio.CancelScope,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    await mcp_stdio.serve(
        session.handle,
        tools=TOOLS,
        version=__version__,
        instructions=session.instructions,
        task_status=task_status,
    )
    everything.cancel()  # the assistant is gone, and we with it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecorelay mcp",
        description="The MCP server an assistant starts: 19 relay_* tools over stdin and stdout.",
        epilog="example: claude mcp add ecorelay -- ecorelay mcp",
    )
    parser.add_argument(
        "--carrier",
        choices=sorted(_CARRIERS),
        default="none",
        help="how mail gets into the session: 'hook' rings for the hooks of the Claude Code plugin, which "
        "fetch it; 'channel' needs an assistant started with channels allowed; 'none' (the default) leaves "
        "it to relay_inbox",
    )
    return parser
