"""What proves that the plugin is set up, and still fits this ecorelay. Nothing of ours is run for it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ecorelay.errors import RelayError
from ecorelay.paths import find_paths
from ecorelay_adapters.clients import files
from ecorelay_adapters.clients.assistant import Finding
from ecorelay_adapters.clients.claude_code.plugin import configured, folder_of, render
from ecorelay_adapters.clients.claude_code.program import Installed, is_stale_copy, same
from ecorelay_adapters.clients.claude_code.settings import servers_by_hand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ecorelay_adapters.clients.assistant import Client, Machine


def check_plugin(machine: Machine, client: Client) -> Iterator[Finding]:
    """Whether the plugin is there, enabled and ours, and alone."""
    check = "Claude Code plugin"
    remedy = "ecorelay install claude-code"
    try:
        installed = Installed.of(client, machine)
        wanted = render(machine)
    except RelayError as error:
        yield Finding(check=check, level="fail", says=error.message, remedy=remedy)
        return
    folder, plugin = folder_of(machine), installed.plugin
    if plugin is None:
        says = "not installed for you" + (
            f" (but in the scope {', '.join(sorted(installed.scopes))})" if installed.scopes else ""
        )
        yield Finding(check=check, level="warn", says=says, remedy=remedy)
    elif not plugin.get("enabled", True):
        yield Finding(check=check, level="warn", says="installed, and disabled", remedy=remedy)
    elif plugin.get("errors"):
        yield Finding(check=check, level="fail", says=str(plugin["errors"][0])[:300], remedy=remedy)
    elif not same(installed.marketplace, folder):
        says = f"it comes from {installed.marketplace}, not from {folder}: another data directory"
        yield Finding(check=check, level="fail", says=says, remedy=remedy)
    elif (version := plugin.get("version")) != machine.version:
        says = f"version {version}, and this ecorelay is {machine.version}"
        yield Finding(check=check, level="warn", says=says, remedy=remedy)
    elif _stale_commands(machine, wanted) or (
        not plugin.get("readFromFolder") and is_stale_copy(plugin, wanted)
    ):
        says = f"it does not start this program ({shlex.join(machine.program)}), or is of another making"
        yield Finding(check=check, level="warn", says=says, remedy=remedy)
    elif (home := _home_of(machine)) != machine.paths.home:
        says = f"its sessions use the data directory {home}, this one is {machine.paths.home}"
        yield Finding(check=check, level="fail", says=says, remedy=remedy)
    else:
        yield Finding(check=check, level="ok", says=f"{machine.version}, enabled")
    for each in servers_by_hand(machine) if plugin is not None else ():
        yield Finding(
            check="two adapters",
            level="warn",
            says=f"the MCP server {each.name} ({each.scope}) starts ecorelay beside the plugin",
            remedy=f"a session would have two adapters, by the plugin and by {each.name}: `{each.removal}`",
        )


def _stale_commands(machine: Machine, wanted: Mapping[str, bytes]) -> bool:
    return files.read_tree(folder_of(machine)) != wanted


def _home_of(machine: Machine) -> Path | None:
    """The data directory that a session started from a desktop uses."""
    told = configured(machine)
    if told is None or told.server is None:
        return None
    bare = {name: value for name, value in machine.environ.items() if name == "HOME"}
    try:
        return find_paths({**bare, **told.server.variables}).home
    except RelayError:
        return None
