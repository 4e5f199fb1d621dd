"""Codex CLI: one MCP server in its ``config.toml``. Mail goes through Codex's own daemon: no more is set up.

Codex gives its servers hardly any environment, so what they need of ours stands in the entry.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ecorelay_adapters.clients import toml_entry
from ecorelay_adapters.clients.assistant import Finding
from ecorelay_adapters.clients.one_server import OneServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay_adapters.clients.assistant import Client, Machine
    from ecorelay_adapters.clients.entry_file import Format

OLDEST_QUEUE: Final = (0, 150)
"""From it on a thread takes what others put into its queue."""


class Codex(OneServer):
    """See `ecorelay_adapters.clients.assistant.Assistant`."""

    name = "codex"
    title = "Codex CLI"
    short = "Codex"
    programs = ("codex",)
    variable = "CODEX_BIN"
    format: ClassVar[Format] = toml_entry
    place = ("mcp_servers", "ecorelay")
    arguments = ("mcp", "--carrier", "codex")
    begins_with: ClassVar[Mapping[str, Any]] = {
        "required": True,
        "startup_timeout_sec": 30,
        "tool_timeout_sec": 660,
    }
    allows_with: ClassVar[Mapping[str, Any]] = {"default_tools_approval_mode": "approve"}
    homes = ("CODEX_HOME",)

    def config_path(self, machine: Machine) -> Path:
        """Where Codex keeps its settings."""
        home = machine.environ.get("CODEX_HOME", "")
        return (Path(home) if home else machine.at_home(".codex")) / "config.toml"

    def disabled_by(self, entry: Mapping[str, Any]) -> str:
        """See `OneServer`."""
        return "enabled = false" if entry.get("enabled") is False else ""

    def check_program(self, client: Client) -> Finding:
        """An old one works too, but that mail does not come by itself."""
        if tuple(map(int, client.version.split("."))) >= OLDEST_QUEUE:
            return super().check_program(client)
        oldest = ".".join(map(str, OLDEST_QUEUE))
        says = f"{client.version} ({client.path}); before {oldest} nothing reaches a session but through "
        return Finding(check=self.title, level="warn", says=f"{says}relay_inbox", remedy="update Codex")
