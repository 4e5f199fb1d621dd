"""The table of all commands. What each of them does is in the module of its noun."""

from __future__ import annotations

from typing import Annotated

import typer

from ecorelay import __version__
from ecorelay.cli import screen
from ecorelay.cli.lazy import LazyGroup
from ecorelay.cli.words import TYPER, with_example

LazyGroup.table = {
    # Command: the module it is in, imported when somebody asks for it. The help has this order.
    "demo": "demo_command",
    "peers": "peer_commands",
    "send": "mail_commands",
    "inbox": "mail_commands",
    "reply": "mail_commands",
    "broadcast": "broadcast_command",
    "rooms": "room_commands",
    "groups": "group_commands",
    "watch": "watch_command",
    "listen": "listen_command",
    "trace": "trace_command",
    "hub": "hub_commands",
    "bridge-init": "bridge_commands",
    "bridge-invite": "bridge_commands",
    "bridge-check": "bridge_commands",
    "relay-probe": "relay_probe_command",
    "relay-server": "relay_server_command",
    "identity": "identity_commands",
    "trust": "trust_commands",
    "distrust": "trust_commands",
    "install": "install_commands",
    "uninstall": "install_commands",
    "doctor": "doctor_command",
    "logs": "log_command",
    "config": "config_commands",
    "block": "block_command",
    "purge": "data_commands",
    "backup": "data_commands",
}

app = typer.Typer(
    name="ecorelay",
    cls=LazyGroup,
    no_args_is_help=True,
    **TYPER,
    **with_example(
        "ecorelay demo",
        "ecorelay peers",
        'ecorelay send api "Is the schema of orders final?"',
        "ecorelay inbox --wait 60",
        "ecorelay --install-completion",
    ),
)


def _version(asked: bool) -> None:
    if asked:
        screen.out(f"ecorelay {__version__}\n")
        raise typer.Exit


@app.callback()
def ecorelay(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Durable messaging between AI coding assistants, on one machine and across your machines."""


@app.command("mcp", **with_example("ecorelay mcp --help"))
def _mcp() -> None:
    """Serve MCP on stdin and stdout, for an assistant."""
    raise AssertionError("served by ecorelay.cli.main")  # pragma: no cover
