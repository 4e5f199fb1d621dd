"""Gemini CLI: one MCP server in its ``settings.json``. Mail waits for ``relay_inbox``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ecorelay_adapters.clients.one_server import OneServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay_adapters.clients.assistant import Machine


class Gemini(OneServer):
    """See `ecorelay_adapters.clients.assistant.Assistant`."""

    name = "gemini"
    title = "Gemini CLI"
    programs = ("gemini",)
    variable = "GEMINI_BIN"
    begins_with: ClassVar[Mapping[str, Any]] = {"timeout": 660_000}
    allows_with: ClassVar[Mapping[str, Any]] = {"trust": True}
    never_reads = ("mark", "comma")

    def config_path(self, machine: Machine) -> Path:
        """Where Gemini CLI keeps its settings. ``GEMINI_CLI_HOME`` stands in for the home directory."""
        home = machine.environ.get("GEMINI_CLI_HOME", "")
        return (Path(home) if home else machine.at_home()) / ".gemini" / "settings.json"
