"""Cursor CLI: one MCP server in its ``mcp.json``, and a hook among others in its ``hooks.json``.

From public documentation alone. The hook, at the end of a turn, prints what is to be the next message. One
unknown event would void all of that file, so there is none but ``stop``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ecorelay.errors import RelayError
from ecorelay_adapters.clients import json_entry
from ecorelay_adapters.clients.hooked import Hooked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay_adapters.clients.assistant import Machine

VERSION: Final = 1
"""Of the form of ``hooks.json`` that we know."""
STOP: Final = ("hooks", "stop")
LOOP_LIMIT: Final = 10
"""How often in a row the hook may go on with the session, at most."""
ENABLE: Final = "run `agent mcp enable ecorelay` once: Cursor starts no server before"


@dataclass(frozen=True)
class StopHook:
    """Our element of the list of ``stop`` hooks. `command` is a line for a shell. See `entry_file.Ours`."""

    command: str = ""

    def find(self, text: str, name: str) -> dict[str, Any] | None:
        """See `entry_file.Ours`."""
        found = json_entry.items(json_entry.parse(text, name), STOP)
        return next((each for each in found if _is_ours(each)), None)

    def put(self, text: str, name: str) -> str:
        """See `entry_file.Ours`."""
        found = self.find(text, name)
        item: dict[str, Any] = {"command": self.command}
        if found is None or "loop_limit" not in found:
            item["loop_limit"] = LOOP_LIMIT
        return self.put_back(text, item, name)

    def put_back(self, text: str, found: Any, name: str) -> str:
        """See `entry_file.Ours`."""
        version = json_entry.parse(text, name).get("version")
        if version is None:
            text = json_entry.put(text, (), {"version": VERSION}, name)
        elif version != VERSION:
            raise RelayError("bad_args", f"{name} is of a version that ecorelay does not know: {version!r}")
        return json_entry.put_item(text, STOP, found, _is_ours, name)

    def take_out(self, text: str, name: str) -> str:
        """See `entry_file.Ours`."""
        return json_entry.take_item(text, STOP, _is_ours, name)


class Cursor(Hooked):
    """See `ecorelay_adapters.clients.assistant.Assistant`."""

    name = "cursor"
    title = "Cursor CLI"
    programs = ("cursor-agent", "agent")
    variable = "CURSOR_BIN"
    arguments = ("mcp", "--carrier", "cursor")
    proved = False

    def config_path(self, machine: Machine) -> Path:
        """Where Cursor keeps its MCP servers."""
        return machine.at_home(".cursor", "mcp.json")

    def hooks_path(self, machine: Machine) -> Path:
        """Where Cursor keeps its hooks."""
        return machine.at_home(".cursor", "hooks.json")

    def is_it(self, path: str) -> bool:
        """Others are called ``agent`` too; Cursor's is a link into a folder of its own."""
        return Path(path).name != "agent" or "cursor" in os.path.realpath(path).lower()

    def notes(self, machine: Machine) -> Sequence[str]:
        """See `OneServer`."""
        return (ENABLE,)

    def hooks(self, machine: Machine | None) -> StopHook:
        """See `Hooked`."""
        return StopHook(self.command(machine))

    def commands(self, found: Any) -> Sequence[str]:
        """See `Hooked`."""
        return (found["command"],)


def _is_ours(item: Any) -> bool:
    command = item.get("command") if isinstance(item, dict) else None
    return isinstance(command, str) and "ecorelay" in command and command.endswith(" hook cursor")
