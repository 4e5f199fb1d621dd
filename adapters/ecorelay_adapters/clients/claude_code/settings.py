"""Settings of Claude Code's own: the rule that allows our tools, and servers that the person added."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from ecorelay.errors import RelayError
from ecorelay_adapters.clients import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecorelay_adapters.clients.assistant import Machine

RULE: Final = "mcp__plugin_ecorelay_ecorelay"
"""What a rule of permission calls all tools of the plugin's server."""


def _config_dir(machine: Machine) -> Path | None:
    """Where it keeps its settings, if the person chose another place than usual."""
    given = machine.environ.get("CLAUDE_CONFIG_DIR", "")
    return Path(given) if given else None


def settings_path(machine: Machine) -> Path:
    """The file with its rules of permission."""
    return (_config_dir(machine) or machine.at_home(".claude")) / "settings.json"


def _rules(settings: Mapping[str, Any]) -> list[Any]:
    permissions = settings.get("permissions")
    rules = permissions.get("allow") if isinstance(permissions, dict) else None
    return rules if isinstance(rules, list) else []


def is_allowed(machine: Machine) -> bool:
    """Whether our tools are used without asking. Raises only where that is to be changed."""
    try:
        return RULE in _rules(files.read_settings(settings_path(machine)))
    except RelayError:
        if machine.allow_tools:
            raise
        return False


def allow(path: Path) -> None:
    """Add the rule to the settings at `path`."""
    settings = files.read_settings(path)
    permissions = settings.setdefault("permissions", {})
    rules = permissions.setdefault("allow", []) if isinstance(permissions, dict) else None
    if not isinstance(rules, list):
        raise RelayError("bad_args", f"permissions.allow in {path} is no list: mend it first")
    rules.append(RULE)
    files.write_settings(path, settings)


def disallow(path: Path) -> None:
    """Take the rule out of them."""
    settings = files.read_settings(path)
    rules = _rules(settings)
    rules[:] = [rule for rule in rules if rule != RULE]
    if not rules:
        del settings["permissions"]["allow"]
        if not settings["permissions"]:
            del settings["permissions"]
    files.write_settings(path, settings)


class ServerByHand(Struct, frozen=True, kw_only=True):
    """An MCP server that starts us beside the plugin's: each session would get two adapters."""

    name: str
    scope: str
    removal: str
    """The command that removes it."""


def servers_by_hand(machine: Machine) -> Iterator[ServerByHand]:
    """Those the person added before there was the plugin."""
    config = _config_dir(machine)
    state_path = config / ".claude.json" if config else machine.at_home(".claude.json")
    try:
        state = files.read_settings(state_path)
    except RelayError:
        state = {}
    places: list[tuple[str, str, object]] = [("user", "", state.get("mcpServers"))]
    projects = state.get("projects")
    for directory, project in projects.items() if isinstance(projects, dict) else ():
        if isinstance(project, dict):
            places.append(("local", str(directory), project.get("mcpServers")))
    for scope, directory, servers in places:
        for name, entry in servers.items() if isinstance(servers, dict) else ():
            if _starts_us(entry):
                where = f"cd {shlex.quote(directory)} && " if directory else ""
                removal = f"{where}claude mcp remove {shlex.quote(str(name))} -s {scope}"
                yield ServerByHand(name=str(name), scope=scope, removal=removal)


def _starts_us(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    args = entry.get("args")
    words = [str(entry.get("command", "")), *map(str, args if isinstance(args, list) else ())]
    return any(Path(word).stem == "ecorelay" and after == "mcp" for word, after in pairwise(words))
