"""OpenCode: one plugin, a single file in its folder of plugins. Its settings are not touched.

The plugin starts our program itself (see ``adapters/opencode/ecorelay.js``); how, and the tools, are written
into it here, so that they are there whatever happens to the program.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ecorelay.errors import RelayError
from ecorelay_adapters.clients import files
from ecorelay_adapters.clients.assistant import Finding, Plan
from ecorelay_adapters.clients.one_server import OneServer
from ecorelay_adapters.tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay_adapters.clients.assistant import Client, Machine

MARK: Final = "// ecorelay's plugin for OpenCode."
"""Begins the file; what does not begin so is not ours."""
OLDEST: Final = (1, 15)
"""In older ones every turn fails with a plugin whose tools need no library."""


class OpenCode(OneServer):
    """See `ecorelay_adapters.clients.assistant.Assistant`."""

    name = "opencode"
    title = "OpenCode"
    programs = ("opencode",)
    variable = "OPENCODE_BIN"
    part = "plugin"
    arguments = ("mcp", "--carrier", "opencode")

    def config_path(self, machine: Machine) -> Path:
        """The plugin. ``OPENCODE_CONFIG_DIR`` adds a folder to this one, which is always read."""
        home = machine.environ.get("XDG_CONFIG_HOME", "")
        config = Path(home) if home else machine.at_home(".config")
        return config / "opencode" / "plugins" / "ecorelay.js"

    def ours(self, machine: Machine) -> _Plugin:  # type: ignore[override]
        """All of the file."""
        words = [*machine.program, *self.arguments]
        return _Plugin(partial(render, words, machine.variables, machine.version))

    def plan_install(self, machine: Machine) -> Plan:
        """Write the plugin, or bring it up to date; not for an OpenCode that it would break."""
        client = self.find(machine)
        if client is not None and client.version and _is_old(client):
            return Plan(problem=_says_old(client))
        return super().plan_install(machine)

    def check_program(self, client: Client) -> Finding:
        """Whether it is new enough."""
        if not _is_old(client):
            return super().check_program(client)
        return Finding(check=self.title, level="fail", says=_says_old(client), remedy="opencode upgrade")


def _is_old(client: Client) -> bool:
    return tuple(map(int, client.version.split("."))) < OLDEST


def _says_old(client: Client) -> str:
    oldest = ".".join(map(str, OLDEST))
    return f"OpenCode {client.version} ({client.path}) cannot load the plugin: update it to {oldest} or newer"


def render(words: list[str], variables: dict[str, str], version: str) -> str:
    """The plugin that starts our server by these words, with these variables.

    Raises:
        RelayError: ``unexpected``, this installation is incomplete.
    """
    template = (files.shipped("opencode") / "ecorelay.js").read_text(encoding="utf-8")
    tools = [
        {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
        for tool in TOOLS
    ]
    constants = {"WORDS": words, "VARIABLES": variables, "VERSION": version, "TOOLS": tools}

    def rendered(match: re.Match[str]) -> str:
        return f"const {match[1]} = {json.dumps(constants[match[1]])}"

    return re.sub(rf"^const ({'|'.join(constants)}) = .*$", rendered, template, flags=re.M)


@dataclass(frozen=True)
class _Plugin:
    """See `ecorelay_adapters.clients.entry_file.Ours`: the whole text is ours, or none of it."""

    wanted: Callable[[], str]

    def find(self, text: str, name: str) -> dict[str, Any] | None:
        """The server as it stands in the text."""
        if not text.startswith(MARK):
            return None
        words, variables = _constant(text, "WORDS"), _constant(text, "VARIABLES")
        if not isinstance(words, list) or not words:
            words = ["ecorelay", "mcp"]  # somebody broke it: ours all the same
        env = variables if isinstance(variables, dict) else {}
        return {"command": str(words[0]), "args": [str(word) for word in words[1:]], "env": env}

    def put(self, text: str, name: str) -> str:
        """The plugin."""
        if text.strip() and not text.startswith(MARK):
            raise RelayError("bad_args", f"{name} is not ecorelay's: rename it first")
        return self.wanted()

    def put_back(self, text: str, found: Any, name: str) -> str:
        """The plugin."""
        return self.wanted()

    def take_out(self, text: str, name: str) -> str:
        """Nothing is left."""
        return ""


def _constant(text: str, name: str) -> object:
    match = re.search(rf"^const {name} = (.*)$", text, re.M)
    with suppress(ValueError, RecursionError):
        return json.loads(match[1]) if match else None
    return None
