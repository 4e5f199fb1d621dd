"""Antigravity CLI: one MCP server in its ``mcp_config.json``, and a group of hooks in its ``hooks.json``.

From public documentation alone. The hooks run before each request to the model and at the end of a turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ecorelay_adapters.clients import json_entry
from ecorelay_adapters.clients.entry_file import Table
from ecorelay_adapters.clients.hooked import Hooked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ecorelay_adapters.clients.assistant import Machine

EVENTS: Final = ("PreInvocation", "Stop")


class Antigravity(Hooked):
    """See `ecorelay_adapters.clients.assistant.Assistant`."""

    name = "antigravity"
    title = "Antigravity CLI"
    programs = ("agy",)
    variable = "AGY_BIN"
    arguments = ("mcp", "--carrier", "antigravity")
    proved = False

    def config_path(self, machine: Machine) -> Path:
        """Where it keeps its MCP servers. The sources name two folders: the first that is there."""
        folders = [machine.at_home(".gemini", each) for each in ("config", "antigravity-cli")]
        return next((each for each in folders if each.is_dir()), folders[0]) / "mcp_config.json"

    def hooks_path(self, machine: Machine) -> Path:
        """Where it keeps its hooks, in groups by name."""
        return machine.at_home(".gemini", "config", "hooks.json")

    def hooks(self, machine: Machine | None) -> Table:
        """See `Hooked`: the group that has our name."""
        hook = [{"type": "command", "command": self.command(machine)}]
        return Table(format=json_entry, path=("ecorelay",), values=lambda _: dict.fromkeys(EVENTS, hook))

    def commands(self, found: Any) -> Sequence[str]:
        """See `Hooked`."""
        told = [each for event in EVENTS for each in found.get(event) or () if isinstance(each, dict)]
        return [each["command"] for each in told if isinstance(each.get("command"), str)]
