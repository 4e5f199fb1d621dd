"""Commands whose module is imported only when one of them is asked for, or help lists them all."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import typer.main
from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """A group of commands that knows where each is before it has any of them."""

    table: ClassVar[dict[str, str]] = {}
    """Command → module of this package, in the order of the help.

    The module has the command among those of its `commands`, else its `app` is the command.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, those registered in the ordinary way last."""
        return [*self.table, *[name for name in super().list_commands(ctx) if name not in self.table]]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command called so; None where there is none."""
        if cmd_name in self.table and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(self.table[cmd_name], cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with. For a slip of the pen all are loaded: one of them was meant."""
        if args and args[0] not in self.list_commands(ctx):
            for name in self.table:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _load(where: str, name: str) -> Any:
    module = import_module(f"ecorelay.cli.{where}")
    commands: typer.Typer | None = getattr(module, "commands", None)
    if commands is not None:
        found = typer.main.get_group(commands).commands
        if name in found:
            return found[name]
    group = typer.main.get_group(module.app)
    group.name = name
    return group
