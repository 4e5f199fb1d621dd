"""Claude Code's own program: what it says it has of ours, and the commands that change that."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from ecorelay_adapters.clients import files, program
from ecorelay_adapters.clients.assistant import Client, ClientFailed, Step
from ecorelay_adapters.clients.claude_code.plugin import MARKET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecorelay_adapters.clients.assistant import Machine

OLDEST: Final = (2, 1, 163)
"""From it on a hook at the end of a turn may add context; before, what it printed would be thrown away."""
MARKETPLACE: Final = "ecorelay"
PLUGIN: Final = "ecorelay@ecorelay"


def look_at(path: str, environ: Mapping[str, str]) -> Client:
    """Which version the program at `path` is, or why it cannot be used."""
    found = program.look_at(path, environ)
    if found.version and tuple(map(int, found.version.split("."))) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        problem = f"{path} is {found.version}, and {oldest} or newer is needed: `claude update`"
        return Client(path=path, version=found.version, problem=problem)
    return found


def why_not(client: Client | None) -> str:
    """Why nothing can be done through `client`, and what helps."""
    if client is None:
        return "Claude Code is not found: its program `claude` is not on the PATH (--claude PATH names it)"
    return client.problem


def step(client: Client, machine: Machine, words: Sequence[str]) -> Step:
    """One of its own commands, as a step of a plan."""
    line = f"claude {shlex.join(words)}"

    def do() -> None:
        ran = program.run([client.path, *words], machine.environ)
        if ran.code != 0:
            raise ClientFailed("unexpected", f"`{line}` failed: {ran.last_words}")

    return Step(title=f"run `{line}`", do=do)


def words_to_install(folder: Path) -> list[tuple[str, ...]]:
    """What makes it know the marketplace in `folder` and have the plugin, from nothing."""
    return [("plugin", "marketplace", "add", str(folder)), ("plugin", "install", PLUGIN)]


def words_missing(
    installed: Installed, folder: Path, machine: Machine, wanted: Mapping[str, bytes]
) -> list[tuple[str, ...]]:
    """What is left of that, and what brings an older plugin up to date."""
    add, install = words_to_install(folder)
    words = [] if same(installed.marketplace, folder) else [add]
    plugin = installed.plugin
    if plugin is None:
        return [*words, install]
    if not plugin.get("enabled", True):
        words.append(("plugin", "enable", PLUGIN))
    if plugin.get("version") != machine.version:
        words.append(("plugin", "update", PLUGIN))
    elif words[:1] != [add] and not plugin.get("readFromFolder") and is_stale_copy(plugin, wanted):
        # It was copied, and the same version is not copied again.
        words += [("plugin", "uninstall", PLUGIN), install]
    return words


def is_stale_copy(plugin: Mapping[str, Any], wanted: Mapping[str, bytes]) -> bool:
    """Whether the files it copied of the plugin differ from the `wanted` ones."""
    copy = files.read_tree(Path(str(plugin.get("installPath", ""))))
    ours = {name.removeprefix("plugins/ecorelay/"): data for name, data in wanted.items() if name != MARKET}
    return any(copy.get(name) != data for name, data in ours.items())


class Installed(Struct, frozen=True, kw_only=True):
    """What Claude Code says it has of ours."""

    marketplace: str = ""
    """Its folder."""
    has_marketplace: bool = False
    plugin: dict[str, Any] | None = None
    """As installed for the user."""
    scopes: frozenset[str] = frozenset()
    """All in which the plugin is installed."""

    @staticmethod
    def of(client: Client, machine: Machine) -> Installed:
        """What its lists say now. Raises ClientFailed when it does not tell."""
        markets = _listed(client, machine, "plugin", "marketplace", "list", "--json")
        plugins = _listed(client, machine, "plugin", "list", "--json")
        ours = [each for each in plugins if each.get("id") == PLUGIN]
        market = [each for each in markets if each.get("name") == MARKETPLACE]
        return Installed(
            marketplace=str(market[0].get("path") or "") if market else "",
            has_marketplace=bool(market),
            plugin=next((each for each in ours if each.get("scope", "user") == "user"), None),
            scopes=frozenset(str(each.get("scope", "user")) for each in ours),
        )


def _listed(client: Client, machine: Machine, *words: str) -> list[dict[str, Any]]:
    ran = program.run([client.path, *words], machine.environ)
    try:
        found = json.loads(ran.out)
    except ValueError:
        found = None
    if ran.code != 0 or not isinstance(found, list):
        raise ClientFailed("unexpected", f"`claude {shlex.join(words)}` failed: {ran.last_words}")
    return [each for each in found if isinstance(each, dict)]


def same(path: str, folder: Path) -> bool:
    """Whether `path` leads to `folder`."""
    return bool(path) and os.path.realpath(path) == os.path.realpath(folder)
