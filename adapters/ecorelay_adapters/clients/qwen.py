"""Qwen Code: one MCP server in its ``settings.json``. Mail goes in by its input file, where it has one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ecorelay_adapters.clients.one_server import OneServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay_adapters.clients.assistant import Machine


class Qwen(OneServer):
    """See `ecorelay_adapters.clients.assistant.Assistant`."""

    name = "qwen"
    title = "Qwen Code"
    programs = ("qwen",)
    variable = "QWEN_BIN"
    arguments = ("mcp", "--carrier", "qwen")
    begins_with: ClassVar[Mapping[str, Any]] = {"timeout": 660_000}
    allows_with: ClassVar[Mapping[str, Any]] = {"trust": True}
    never_reads = ("mark", "comma")

    def config_path(self, machine: Machine) -> Path:
        """Where Qwen Code keeps its settings."""
        home = machine.environ.get("QWEN_HOME", "")
        return (Path(home).expanduser() if home else machine.at_home(".qwen")) / "settings.json"
