"""Claude Code: a plugin with the tools and the hooks, in a marketplace that is a folder of our data.

The folder holds a copy of ``adapters/claude_code`` that names the program absolutely. Claude Code reads the
plugin from there (older ones copied it), and notes in its own settings that marketplace and plugin exist:
that is done by its own commands, never by us.
"""

from __future__ import annotations

import os
import shlex
import shutil
from functools import partial
from typing import TYPE_CHECKING, Final

from ecorelay_adapters.clients import files
from ecorelay_adapters.clients.assistant import Client, Finding, Plan, Step
from ecorelay_adapters.clients.claude_code.checks import check_plugin
from ecorelay_adapters.clients.claude_code.plugin import (
    HOOKS,
    MANIFEST,
    MARKET,
    configured,
    folder_of,
    render,
)
from ecorelay_adapters.clients.claude_code.program import (
    MARKETPLACE,
    PLUGIN,
    Installed,
    look_at,
    same,
    step,
    why_not,
    words_missing,
    words_to_install,
)
from ecorelay_adapters.clients.claude_code.settings import (
    RULE,
    allow,
    disallow,
    is_allowed,
    servers_by_hand,
    settings_path,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay_adapters.clients.assistant import Configured, Level, Machine

__all__ = ["HOOKS", "MANIFEST", "MARKET", "RULE", "ClaudeCode", "folder_of", "render"]

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
        return None if path is None else look_at(os.path.abspath(path), environ)

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
                problem=why_not(client),
                by_hand=tuple(f"claude {shlex.join(words)}" for words in words_to_install(folder)),
            )
        installed = Installed.of(client, machine)
        steps += [step(client, machine, words) for words in words_missing(installed, folder, machine, wanted)]
        if machine.allow_tools and not is_allowed(machine):
            path = settings_path(machine)
            steps.append(
                Step(
                    title=f"let the tools of ecorelay be used without asking, in {path}",
                    diff=(f'+ permissions.allow: "{RULE}"',),
                    do=partial(allow, path),
                )
            )
        notes = [RESTART] if steps else []
        if not machine.allow_tools and not is_allowed(machine):
            notes.append(
                "Claude Code asks before it uses a relay_* tool; --allow-tools says that it need not"
            )
        notes += [
            f"{each.name}, added by hand, would be a second adapter of each session: `{each.removal}`"
            for each in servers_by_hand(machine)
        ]
        return Plan(steps=tuple(steps), notes=tuple(notes))

    def plan_removal(self, machine: Machine) -> Plan:
        """Take plugin, marketplace, permission and folder away again."""
        folder = folder_of(machine)
        client = self.find(machine)
        steps, by_hand = [], []
        installed = Installed() if client is None or client.problem else Installed.of(client, machine)
        removal = [
            ("plugin", "uninstall", PLUGIN, "--scope", scope) for scope in sorted(installed.scopes)
        ] + [("plugin", "marketplace", "remove", MARKETPLACE)] * installed.has_marketplace
        if client is not None and not client.problem:
            steps += [step(client, machine, words) for words in removal]
        elif folder.is_dir():
            by_hand = [f"claude plugin uninstall {PLUGIN}", f"claude plugin marketplace remove {MARKETPLACE}"]
        path = settings_path(machine)
        if is_allowed(machine):
            steps.append(
                Step(
                    title=f"take the permission out of {path}",
                    diff=(f'- permissions.allow: "{RULE}"',),
                    do=partial(disallow, path),
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
        if installed.has_marketplace and not same(installed.marketplace, folder):
            notes.append(f"its plugin was in {installed.marketplace}, which stays as it is")
        notes += [
            f"the MCP server {each.name} was added by hand, and stays: `{each.removal}` removes it"
            for each in servers_by_hand(machine)
        ]
        return Plan(
            steps=tuple(steps),
            notes=tuple(notes),
            problem=why_not(client) if by_hand else "",
            by_hand=tuple(by_hand),
        )

    def configured(self, machine: Machine) -> Configured | None:
        """The server and the hooks as they stand in the rendered folder."""
        return configured(machine)

    def check(self, machine: Machine) -> Sequence[Finding]:
        """Program, plugin, whether both fit this ecorelay, and what stands beside it."""
        client = self.find(machine)
        if client is None or client.problem:
            level: Level = "fail" if client is not None or folder_of(machine).is_dir() else "warn"
            why = "its program `claude` is not found" if client is None else client.problem
            remedy = "install or update Claude Code, or name its program in CLAUDE_BIN"
            return [Finding(check=self.title, level=level, says=why, remedy=remedy)]
        found = [Finding(check=self.title, level="ok", says=f"{client.version} ({client.path})")]
        return [*found, *check_plugin(machine, client)]
