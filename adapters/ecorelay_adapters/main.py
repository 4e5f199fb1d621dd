"""``ecorelay mcp``: the process an assistant starts beside each of its sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ecorelay import __version__
from ecorelay_adapters import log, mcp_stdio
from ecorelay_adapters.carriers import ChannelCarrier
from ecorelay_adapters.identity import CLAUDE, find, find_beside, working_directory
from ecorelay_adapters.session import Session, environment
from ecorelay_adapters.tools import TOOLS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from ecorelay_adapters.carriers import Carrier
    from ecorelay_adapters.mcp_stdio import Server
    from ecorelay_adapters.sessions import Sessions

_NONE = "none"
_HOOK = "hook"
_OPENCODE = "opencode"


def _codex(server: Server) -> Carrier:
    from ecorelay_adapters.codex_carrier import make_carrier  # the other assistants do not pay for it

    return make_carrier(server, environment(), str(working_directory()))


def _copilot(server: Server) -> Carrier:
    from ecorelay_adapters.link import LinkedCarrier

    environ = environment()
    return LinkedCarrier("extension", environ.get("COPILOT_AGENT_SESSION_ID", "")[:256], environ)


def _antigravity(server: Server) -> Carrier:
    from ecorelay_adapters.antigravity_carrier import make_carrier

    return make_carrier(environment())


def _qwen(server: Server) -> Carrier:
    from ecorelay_adapters.qwen_carrier import make_carrier

    return make_carrier()


_CARRIERS: dict[str, Callable[[Server], Carrier] | None] = {
    _NONE: None,
    _HOOK: None,
    "channel": lambda server: ChannelCarrier(server.notify, server.initialized),
    "codex": _codex,
    "copilot": _copilot,
    _OPENCODE: None,
    "cursor": None,
    "antigravity": _antigravity,
    "qwen": _qwen,
}
_WHOSE = {_HOOK: CLAUDE, "channel": CLAUDE}
"""Assistants whose carrier has another name than they."""
_BESIDE = ("cursor", "antigravity")
"""Assistants whose hooks fetch mail for the session beside their process."""


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
    log.begin(environment())
    trio.run(_serve, _make(carrier))
    return 0


def _make(carrier: str) -> Session | Sessions:
    if carrier == _OPENCODE:
        from ecorelay_adapters.sessions import Sessions

        return Sessions(environment(), client="opencode", carrier="plugin")
    environ, make = environment(), _CARRIERS[carrier]
    if carrier in _BESIDE:
        return Session(environ, make, identify=lambda _: find_beside(environ, working_directory(), carrier))
    whose = "" if carrier == _NONE else _WHOSE.get(carrier, carrier)
    return Session(
        environ,
        make,
        hooks=carrier == _HOOK,
        identify=lambda name: find(environ, working_directory(), name, whose),
    )


async def _serve(session: Session | Sessions) -> None:
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(_serve_mcp, session, nursery.cancel_scope)
        await session.run(server)


async def _serve_mcp(
    session: Session | Sessions,
    everything: trio.CancelScope,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    await mcp_stdio.serve(
        session.handle,
        tools=TOOLS,
        version=__version__,
        instructions=session.instructions,
        noted=getattr(session, "noted", None),
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
        "Codex; 'opencode' and 'copilot' our plugin and extension in them; 'cursor' and 'antigravity' leave "
        "it to their hooks; 'antigravity' and 'qwen' tell the session when there is some; 'none' (the "
        "default) leaves it to relay_inbox",
    )
    return parser
