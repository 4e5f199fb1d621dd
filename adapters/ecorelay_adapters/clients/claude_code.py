"""Claude Code: a plugin with the tools and the hooks, in a marketplace that is a folder of our data.

The folder holds a copy of ``adapters/claude_code`` that names the program absolutely. Claude Code reads the
plugin from there (older ones copied it), and notes in its own settings that marketplace and plugin exist:
that is done by its own commands, never by us.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from ecorelay.errors import RelayError
from ecorelay.paths import find_paths
from ecorelay_adapters.clients import files, program
from ecorelay_adapters.clients.assistant import (
    Client,
    ClientFailed,
    Command,
    Configured,
    Finding,
    Hook,
    Plan,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ecorelay_adapters.clients.assistant import Level, Machine

OLDEST: Final = (2, 1)
"""Versions before it know too little of plugins and hooks."""
MARKETPLACE: Final = "ecorelay"
PLUGIN: Final = "ecorelay@ecorelay"
RULE: Final = "mcp__plugin_ecorelay_ecorelay"
"""What a rule of permission calls all tools of the plugin's server."""
MANIFEST: Final = "plugins/ecorelay/.claude-plugin/plugin.json"
HOOKS: Final = "plugins/ecorelay/hooks/hooks.json"
MARKET: Final = ".claude-plugin/marketplace.json"
RESTART: Final = "open sessions of Claude Code see the change after a restart, or /reload-plugins"


class ClaudeCode:
    """See `ecorelay_adapters.clients.assistant.Assistant`."""

    name = "claude-code"
    title = "Claude Code"

    def find(self, machine: Machine) -> Client | None:
        """The program named by the person, by ``CLAUDE_BIN``, on the PATH, or where its installer puts it."""
        environ = machine.environ
        named = machine.clients.get(self.name) or environ.get("CLAUDE_BIN", "")
        path = shutil.which(named or "claude", path=environ.get("PATH", os.defpath))
        if path is None and named:
            return Client(path=named, problem=f"{named} is no program that can be run")
        if path is None:
            usual = [
                machine.at_home(".local", "bin", "claude"),
                machine.at_home(".claude", "local", "claude"),
            ]
            path = next((str(each) for each in usual if os.access(each, os.X_OK) and each.is_file()), None)
        return None if path is None else _look_at(os.path.abspath(path), environ)

    def plan_install(self, machine: Machine) -> Plan:
        """Render the plugin; then have Claude Code add the marketplace and install the plugin."""
        folder, wanted = folder_of(machine), render(machine)
        steps = []
        if (there := files.read_tree(folder)) != wanted:
            steps.append(
                Step(
                    title=f"write the plugin into {folder}",
                    diff=files.difference(there, wanted),
                    do=partial(files.write_tree, folder, wanted),
                )
            )
        client = self.find(machine)
        if client is None or client.problem:
            return Plan(
                steps=tuple(steps),
                problem=_why_not(client),
                by_hand=tuple(f"claude {shlex.join(words)}" for words in _words_to_install(folder)),
            )
        installed = _Installed.of(client, machine)
        steps += [
            _step(client, machine, words) for words in _words_missing(installed, folder, machine, wanted)
        ]
        if machine.allow_tools and not _is_allowed(machine):
            path = _settings_path(machine)
            steps.append(
                Step(
                    title=f"let the tools of ecorelay be used without asking, in {path}",
                    diff=(f'+ permissions.allow: "{RULE}"',),
                    do=partial(_allow, path),
                )
            )
        notes = [RESTART] if steps else []
        if not machine.allow_tools and not _is_allowed(machine):
            notes.append(
                "Claude Code asks before it uses a relay_* tool; --allow-tools says that it need not"
            )
        notes += [finding.remedy for finding in _second_adapters(machine)]
        return Plan(steps=tuple(steps), notes=tuple(notes))

    def plan_removal(self, machine: Machine) -> Plan:
        """Take plugin, marketplace, permission and folder away again."""
        folder = folder_of(machine)
        client = self.find(machine)
        steps, by_hand = [], []
        installed = _Installed() if client is None or client.problem else _Installed.of(client, machine)
        removal = [
            ("plugin", "uninstall", PLUGIN, "--scope", scope) for scope in sorted(installed.scopes)
        ] + [("plugin", "marketplace", "remove", MARKETPLACE)] * installed.has_marketplace
        if client is not None and not client.problem:
            steps += [_step(client, machine, words) for words in removal]
        elif folder.is_dir():
            by_hand = [f"claude plugin uninstall {PLUGIN}", f"claude plugin marketplace remove {MARKETPLACE}"]
        path = _settings_path(machine)
        if _is_allowed(machine):
            steps.append(
                Step(
                    title=f"take the permission out of {path}",
                    diff=(f'- permissions.allow: "{RULE}"',),
                    do=partial(_disallow, path),
                )
            )
        if folder.is_dir() or folder.is_symlink():
            steps.append(
                Step(
                    title=f"remove {folder}",
                    diff=files.difference(files.read_tree(folder), {}),
                    do=partial(files.remove_tree, folder),
                )
            )
        notes = [RESTART] if steps else []
        if installed.has_marketplace and not _same(installed.marketplace, folder):
            notes.append(f"its plugin was in {installed.marketplace}, which stays as it is")
        notes += [finding.remedy for finding in _second_adapters(machine)]
        return Plan(
            steps=tuple(steps),
            notes=tuple(notes),
            problem=_why_not(client) if by_hand else "",
            by_hand=tuple(by_hand),
        )

    def configured(self, machine: Machine) -> Configured | None:
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
            Hook(command=Command(shell=line), event=_bell_event(), exits=(0, 2))
            for line in dict.fromkeys(lines)
        ]
        return Configured(server=server, hooks=tuple(hooks))

    def check(self, machine: Machine) -> Sequence[Finding]:
        """Program, plugin, whether both fit this ecorelay, and what stands beside it."""
        client = self.find(machine)
        if client is None or client.problem:
            level: Level = "fail" if client is not None or folder_of(machine).is_dir() else "warn"
            why = "its program `claude` is not found" if client is None else client.problem
            remedy = "install or update Claude Code, or name its program in CLAUDE_BIN"
            return [Finding(check=self.title, level=level, says=why, remedy=remedy)]
        found = [Finding(check=self.title, level="ok", says=f"{client.version} ({client.path})")]
        return [*found, *_check_plugin(machine, client), *_second_adapters(machine)]


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


def _bell_event() -> bytes:
    # Hooks show nothing at this event: no mail is taken by it.
    event = {"session_id": "ecorelay-doctor", "hook_event_name": "FileChanged", "cwd": "/", "event": "change"}
    return json.dumps({**event, "transcript_path": "", "file_path": ""}).encode() + b"\n"


# --- its program ----------------------------------------------------------------------------------------


def _look_at(path: str, environ: Mapping[str, str]) -> Client:
    try:
        ran = program.run([path, "--version"], environ)
    except RelayError as error:
        return Client(path=path, problem=error.message)
    match = re.search(r"\d+(\.\d+)+", ran.out)
    if ran.code != 0 or match is None:
        return Client(path=path, problem=f"{path} does not tell its version: {ran.last_words}")
    version = match[0]
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Client(
            path=path,
            version=version,
            problem=f"{path} is {version}, and {oldest} or newer is needed: `claude update`",
        )
    return Client(path=path, version=version)


def _why_not(client: Client | None) -> str:
    if client is None:
        return "Claude Code is not found: its program `claude` is not on the PATH (--claude PATH names it)"
    return client.problem


def _step(client: Client, machine: Machine, words: Sequence[str]) -> Step:
    line = f"claude {shlex.join(words)}"

    def do() -> None:
        ran = program.run([client.path, *words], machine.environ)
        if ran.code != 0:
            raise ClientFailed("unexpected", f"`{line}` failed: {ran.last_words}")

    return Step(title=f"run `{line}`", do=do)


def _words_to_install(folder: Path) -> list[tuple[str, ...]]:
    return [("plugin", "marketplace", "add", str(folder)), ("plugin", "install", PLUGIN)]


def _words_missing(
    installed: _Installed, folder: Path, machine: Machine, wanted: Mapping[str, bytes]
) -> list[tuple[str, ...]]:
    add, install = _words_to_install(folder)
    words = [] if _same(installed.marketplace, folder) else [add]
    plugin = installed.plugin
    if plugin is None:
        return [*words, install]
    if not plugin.get("enabled", True):
        words.append(("plugin", "enable", PLUGIN))
    if plugin.get("version") != machine.version:
        words.append(("plugin", "update", PLUGIN))
    elif words[:1] != [add] and not plugin.get("readFromFolder") and _is_stale_copy(plugin, wanted):
        # It was copied, and the same version is not copied again.
        words += [("plugin", "uninstall", PLUGIN), install]
    return words


def _is_stale_copy(plugin: Mapping[str, Any], wanted: Mapping[str, bytes]) -> bool:
    copy = files.read_tree(Path(str(plugin.get("installPath", ""))))
    ours = {name.removeprefix("plugins/ecorelay/"): data for name, data in wanted.items() if name != MARKET}
    return any(copy.get(name) != data for name, data in ours.items())


class _Installed(Struct, frozen=True, kw_only=True):
    """What Claude Code says it has of ours."""

    marketplace: str = ""
    """Its folder."""
    has_marketplace: bool = False
    plugin: dict[str, Any] | None = None
    """As installed for the user."""
    scopes: frozenset[str] = frozenset()
    """All in which the plugin is installed."""

    @staticmethod
    def of(client: Client, machine: Machine) -> _Installed:
        markets = _listed(client, machine, "plugin", "marketplace", "list", "--json")
        plugins = _listed(client, machine, "plugin", "list", "--json")
        ours = [each for each in plugins if each.get("id") == PLUGIN]
        market = [each for each in markets if each.get("name") == MARKETPLACE]
        return _Installed(
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


def _same(path: str, folder: Path) -> bool:
    return bool(path) and os.path.realpath(path) == os.path.realpath(folder)


# --- its settings -----------------------------------------------------------------------------------------


def _config_dir(machine: Machine) -> Path | None:
    """Where it keeps its settings, if the person chose another place than usual."""
    given = machine.environ.get("CLAUDE_CONFIG_DIR", "")
    return Path(given) if given else None


def _settings_path(machine: Machine) -> Path:
    return (_config_dir(machine) or machine.at_home(".claude")) / "settings.json"


def _rules(settings: Mapping[str, Any]) -> list[Any]:
    permissions = settings.get("permissions")
    rules = permissions.get("allow") if isinstance(permissions, dict) else None
    return rules if isinstance(rules, list) else []


def _is_allowed(machine: Machine) -> bool:
    try:
        return RULE in _rules(files.read_settings(_settings_path(machine)))
    except RelayError:
        if machine.allow_tools:
            raise
        return False


def _allow(path: Path) -> None:
    settings = files.read_settings(path)
    permissions = settings.setdefault("permissions", {})
    rules = permissions.setdefault("allow", []) if isinstance(permissions, dict) else None
    if not isinstance(rules, list):
        raise RelayError("bad_args", f"permissions.allow in {path} is no list: mend it first")
    rules.append(RULE)
    files.write_settings(path, settings)


def _disallow(path: Path) -> None:
    settings = files.read_settings(path)
    rules = _rules(settings)
    rules[:] = [rule for rule in rules if rule != RULE]
    if not rules:
        del settings["permissions"]["allow"]
        if not settings["permissions"]:
            del settings["permissions"]
    files.write_settings(path, settings)


# --- checks -----------------------------------------------------------------------------------------------


def _check_plugin(machine: Machine, client: Client) -> Iterator[Finding]:
    check = "Claude Code plugin"
    remedy = "ecorelay install claude-code"
    try:
        installed = _Installed.of(client, machine)
        wanted = render(machine)
    except RelayError as error:
        yield Finding(check=check, level="fail", says=error.message, remedy="ecorelay install claude-code")
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
    elif not _same(installed.marketplace, folder):
        says = f"it comes from {installed.marketplace}, not from {folder}: another data directory"
        yield Finding(check=check, level="fail", says=says, remedy=remedy)
    elif (version := plugin.get("version")) != machine.version:
        says = f"version {version}, and this ecorelay is {machine.version}"
        yield Finding(check=check, level="warn", says=says, remedy=remedy)
    elif _stale_commands(machine, wanted) or (
        not plugin.get("readFromFolder") and _is_stale_copy(plugin, wanted)
    ):
        says = f"it does not start this program ({shlex.join(machine.program)}), or is of another making"
        yield Finding(check=check, level="warn", says=says, remedy=remedy)
    elif (home := _home_of(machine)) != machine.paths.home:
        says = f"its sessions use the data directory {home}, this one is {machine.paths.home}"
        yield Finding(check=check, level="fail", says=says, remedy=remedy)
    else:
        yield Finding(check=check, level="ok", says=f"{machine.version}, enabled")


def _stale_commands(machine: Machine, wanted: Mapping[str, bytes]) -> bool:
    return files.read_tree(folder_of(machine)) != wanted


def _home_of(machine: Machine) -> Path | None:
    """The data directory that a session started from a desktop uses."""
    configured = ClaudeCode().configured(machine)
    if configured is None or configured.server is None:
        return None
    bare = {name: value for name, value in machine.environ.items() if name == "HOME"}
    try:
        return find_paths({**bare, **configured.server.variables}).home
    except RelayError:
        return None


def _second_adapters(machine: Machine) -> Iterator[Finding]:
    """Servers of ours that the person added before there was the plugin: each session would get two."""
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
                command = f"{where}claude mcp remove {shlex.quote(str(name))} -s {scope}"
                yield Finding(
                    check="two adapters",
                    level="warn",
                    says=f"the MCP server {name} ({scope}) starts ecorelay beside the plugin",
                    remedy=f"a session would have two adapters, by the plugin and by {name}: `{command}`",
                )


def _starts_us(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    args = entry.get("args")
    words = [str(entry.get("command", "")), *map(str, args if isinstance(args, list) else ())]
    return any(Path(word).stem == "ecorelay" and after == "mcp" for word, after in pairwise(words))
