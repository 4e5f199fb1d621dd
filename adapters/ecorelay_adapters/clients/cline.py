"""Cline: one MCP server in its ``cline_mcp_settings.json``. Mail waits for ``relay_inbox``.

Cline gives its servers hardly any environment. It uses all tools without asking unless it is told otherwise
as a whole: nothing in an entry says so of one server.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ecorelay_adapters.clients.one_server import OneServer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecorelay_adapters.clients.assistant import Machine


class Cline(OneServer):
    """See `ecorelay_adapters.clients.assistant.Assistant`."""

    name = "cline"
    title = "Cline"
    programs = ("cline",)
    variable = "CLINE_BIN"
    begins_with: ClassVar[Mapping[str, Any]] = {"timeout": 660}
    never_reads = ("mark", "comment", "comma")

    def config_path(self, machine: Machine) -> Path:
        """Where Cline keeps its MCP servers: each of these variables moves it, the first the most."""
        environ = machine.environ
        if file := environ.get("CLINE_MCP_SETTINGS_PATH", "").strip():
            return Path(file)
        data = environ.get("CLINE_DATA_DIR", "").strip()
        home = environ.get("CLINE_DIR", "").strip()
        folder = Path(data) if data else (Path(home) if home else machine.at_home(".cline")) / "data"
        return folder / "settings" / "cline_mcp_settings.json"

    def notes(self, machine: Machine) -> Sequence[str]:
        """See `OneServer`."""
        return ("whether Cline asks before it uses a tool is one setting for all (--auto-approve)",)
