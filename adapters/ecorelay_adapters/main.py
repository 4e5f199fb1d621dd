"""``ecorelay mcp``: the process an assistant starts beside each of its sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ecorelay import __version__
from ecorelay_adapters import mcp_stdio
from ecorelay_adapters.carriers import ChannelCarrier
from ecorelay_adapters.identity import working_directory
from ecorelay_adapters.session import Session, environment
from ecorelay_adapters.tools import TOOLS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from ecorelay_adapters.carriers import Carrier
    from ecorelay_adapters.mcp_stdio import Server

_NONE = "none"
_HOOK = "hook"


def _codex(server: Server) -> Carrier:
    from ecorelay_adapters.codex_carrier import make_carrier  # the other assistants do not pay for it

    return make_carrier(server, environment(), str(working_directory()))


_CARRIERS: dict[str, Callable[[Server], Carrier] | None] = {
    _NONE: None,
    _HOOK: None,
    "channel": lambda server: ChannelCarrier(server.notify, server.initialized),
    "codex": _codex,
}


def main(argv: Sequence[str]) -> int:
    """Serve one assistant session on stdin and stdout until it ends.

    Args:
        argv: what follows ``ecorelay mcp`` on the command line.

    Returns:
        the exit code.
    """
    match argv:
        case ["--carrier", carrier] if carrier in _CARRIERS:
            pass  # as assistants start us: the import of the parser would cost each session some milliseconds
        case []:
            carrier = _NONE
        case _:
            carrier = _parser().parse_args(argv).carrier
    session = Session(environment(), _CARRIERS[carrier], hooks=carrier == _HOOK)
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
    import argparse

    parser = argparse.ArgumentParser(
        prog="ecorelay mcp",
        description="The MCP server an assistant starts: 19 relay_* tools over stdin and stdout.",
        epilog="`ecorelay install` tells assistants to run it, by its absolute path; example: ecorelay mcp "
        "--carrier hook",
    )
    parser.add_argument(
        "--carrier",
        choices=sorted(_CARRIERS),
        default=_NONE,
        help="how mail gets into the session: 'hook' rings for the hooks of the Claude Code plugin, which "
        "fetch it; 'channel' needs an assistant started with channels allowed; 'codex' asks the daemon of "
        "Codex; 'none' (the default) leaves it to relay_inbox",
    )
    return parser
