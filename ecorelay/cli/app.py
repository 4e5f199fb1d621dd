"""All commands, put together with typer. What each of them does is in the module of its noun."""

from __future__ import annotations

from typing import Annotated

import typer

from ecorelay import __version__
from ecorelay.cli import demo_command, hub_commands, mail_commands, peer_commands, screen
from ecorelay.cli.words import TYPER, with_example

app = typer.Typer(
    name="ecorelay",
    no_args_is_help=True,
    add_completion=False,
    **TYPER,
    **with_example(
        "ecorelay demo",
        "ecorelay peers",
        'ecorelay send api "Is the schema of orders final?"',
        "ecorelay inbox --wait 60",
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
    """Durable messaging between the AI coding assistants of one machine."""


def _mcp() -> None:
    """Serve MCP on stdin and stdout, for an assistant."""
    raise AssertionError("served by ecorelay.cli.main")  # pragma: no cover


app.command("demo", **with_example("ecorelay demo", "ecorelay demo --keep"))(demo_command.demo)
app.command("mcp", **with_example("claude mcp add ecorelay -- ecorelay mcp"))(_mcp)
app.add_typer(hub_commands.app, name="hub")
app.add_typer(peer_commands.app, name="peers")
app.command(
    "send",
    **with_example(
        'ecorelay send api "Is the schema of orders final?"', "git diff | ecorelay send reviewer - --urgent"
    ),
)(mail_commands.send)
app.command(
    "inbox",
    **with_example("ecorelay inbox", "ecorelay inbox --wait 60 --json", "ecorelay inbox --as reviewer"),
)(mail_commands.inbox)
