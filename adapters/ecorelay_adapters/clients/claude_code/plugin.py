"""The plugin as files: a copy of ``adapters/claude_code`` that names the program absolutely."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Final

from ecorelay.errors import RelayError
from ecorelay_adapters.clients import files, program
from ecorelay_adapters.clients.assistant import Command, Configured, Hook

if TYPE_CHECKING:
    from pathlib import Path

    from ecorelay_adapters.clients.assistant import Machine

MANIFEST: Final = "plugins/ecorelay/.claude-plugin/plugin.json"
HOOKS: Final = "plugins/ecorelay/hooks/hooks.json"
MARKET: Final = ".claude-plugin/marketplace.json"


def folder_of(machine: Machine) -> Path:
    """Where the rendered plugin goes."""
    return machine.paths.home / "claude-code"


def render(machine: Machine) -> dict[str, bytes]:
    """The marketplace folder for this machine: path to content, what leads to the others last.

    Raises:
        RelayError: ``bad_args``, the program's path is one that cannot be written into a plugin.
    """
    words = machine.program
    if any("${" in word for word in (*words, *machine.variables.values())):
        raise RelayError(
            "bad_args", "Claude Code expands ${…} in commands: move ecorelay to another directory"
        )
    tree = files.read_tree(files.shipped("claude_code"))
    manifest = json.loads(tree.pop(MANIFEST))
    market = json.loads(tree.pop(MARKET))
    manifest["version"] = market["plugins"][0]["version"] = machine.version
    server = manifest["mcpServers"]["ecorelay"]
    server.update(command=words[0], args=[*words[1:], *server["args"]], env=machine.variables)
    hooks = json.loads(tree[HOOKS])
    for groups in hooks["hooks"].values():
        for hook in (hook for group in groups for hook in group["hooks"]):
            _, *rest = shlex.split(hook["command"])
            hook["command"] = program.shell_command([*words, *rest], machine.variables)
    return {**tree, HOOKS: _json(hooks), MANIFEST: _json(manifest), MARKET: _json(market)}


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def configured(machine: Machine) -> Configured | None:
    """The server and the hooks as they stand in the rendered folder."""
    tree = files.read_tree(folder_of(machine))
    try:
        entry = json.loads(tree[MANIFEST])["mcpServers"]["ecorelay"]
        server = Command(words=(entry["command"], *entry["args"]), variables=entry.get("env", {}))
        groups = [group for each in json.loads(tree[HOOKS])["hooks"].values() for group in each]
        lines = [hook["command"] for group in groups for hook in group["hooks"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    hooks = [
        Hook(command=Command(shell=line), event=_bell_event(), exits=(0, 2)) for line in dict.fromkeys(lines)
    ]
    return Configured(server=server, hooks=tuple(hooks))


def _bell_event() -> bytes:
    # Hooks show nothing at this event: no mail is taken by it.
    event = {"session_id": "ecorelay-doctor", "hook_event_name": "FileChanged", "cwd": "/", "event": "change"}
    return json.dumps({**event, "transcript_path": "", "file_path": ""}).encode() + b"\n"
