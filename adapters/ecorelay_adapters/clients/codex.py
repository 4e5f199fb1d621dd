"""Codex CLI: one MCP server in its ``config.toml``. Mail goes through Codex's own daemon: no more is set up.

Codex gives its servers hardly any environment, so what they need of ours stands in the entry.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ecorelay.errors import RelayError
from ecorelay.paths import find_paths
from ecorelay_adapters.clients import files, program, toml_entry
from ecorelay_adapters.clients.assistant import Client, Command, Configured, Finding, Plan, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay_adapters.clients.assistant import Machine

OLDEST_QUEUE: Final = (0, 150)
"""From it on a thread takes what others put into its queue."""
PATH: Final = ("mcp_servers", "ecorelay")
RESTART: Final = "sessions of Codex that are open see the change when they are started again"
_UNCHANGED: Final = {"required": True, "startup_timeout_sec": 30, "tool_timeout_sec": 660}
"""What the entry begins with; a person may change it."""
_FILE_MAX: Final = files.FILE_MAX


class Codex:
    """See `ecorelay_adapters.clients.assistant.Assistant`."""

    name = "codex"
    title = "Codex CLI"

    def find(self, machine: Machine) -> Client | None:
        """The program named by the person, by ``CODEX_BIN``, or on the PATH."""
        environ = machine.environ
        named = machine.clients.get(self.name) or environ.get("CODEX_BIN", "")
        path = shutil.which(named or "codex", path=environ.get("PATH", os.defpath))
        if path is None:
            return Client(path=named, problem=f"{named} is no program that can be run") if named else None
        path = os.path.abspath(path)
        try:
            ran = program.run([path, "--version"], environ)
        except RelayError as error:
            return Client(path=path, problem=error.message)
        match = re.search(r"\d+(\.\d+)+", ran.out)
        if ran.code != 0 or match is None:
            return Client(path=path, problem=f"{path} does not tell its version: {ran.last_words}")
        return Client(path=path, version=match[0])

    def plan_install(self, machine: Machine) -> Plan:
        """Put the entry into ``config.toml``, or bring it up to date."""
        path = config_path(machine)
        try:
            before = _read(path)
            after = with_entry(machine, path, before)
        except RelayError as error:
            return Plan(problem=error.message)
        steps = []
        if after != before:
            steps.append(_step(f"set up the MCP server ecorelay in {path}", path, before, after, machine))
        notes = [RESTART] if steps else []
        entry = toml_entry.find(toml_entry.parse(after or "", str(path)), PATH) or {}
        if "default_tools_approval_mode" not in entry:
            notes.append("Codex may ask before it uses a relay_* tool; --allow-tools says that it need not")
        if entry.get("enabled") is False:
            notes.append(f"the entry is disabled there (enabled = false in {path}), and stays so")
        if (client := self.find(machine)) is None or client.problem:
            notes.append(client.problem if client else "the program `codex` is not on the PATH")
        return Plan(steps=tuple(steps), notes=tuple(notes))

    def plan_removal(self, machine: Machine) -> Plan:
        """Take the entry out; where nothing else changed, the file is as it was."""
        path = config_path(machine)
        try:
            before = _read(path)
            entry = toml_entry.find(toml_entry.parse(before or "", str(path)), PATH)
            if before is None or entry is None:
                return Plan()
            if not _is_ours(entry):
                return Plan(notes=(f"mcp_servers.ecorelay in {path} does not start ecorelay, and stays",))
            after = without_entry(path, before, entry)
        except RelayError as error:
            return Plan(problem=error.message)
        step = _step(f"take the MCP server ecorelay out of {path}", path, before, after, None)
        return Plan(steps=(step,), notes=(RESTART,))

    def configured(self, machine: Machine) -> Configured | None:
        """The server as it stands in ``config.toml``."""
        try:
            entry = _entry(machine)
        except RelayError:
            return None
        if entry is None or not _is_ours(entry):
            return None
        env = entry.get("env")
        variables = {str(k): str(v) for k, v in env.items()} if isinstance(env, dict) else {}
        words = (entry["command"], *map(str, entry["args"]))
        return Configured(server=Command(words=words, variables=variables))

    def check(self, machine: Machine) -> Sequence[Finding]:
        """Program and entry, and whether both fit this ecorelay."""
        client = self.find(machine)
        if client is None or client.problem:
            says = "its program `codex` is not found" if client is None else client.problem
            remedy = "install or update Codex, or name its program in CODEX_BIN"
            return [
                Finding(check=self.title, level="fail", says=says, remedy=remedy),
                *self._check_entry(machine),
            ]
        says = f"{client.version} ({client.path})"
        if tuple(map(int, client.version.split("."))) < OLDEST_QUEUE:
            oldest = ".".join(map(str, OLDEST_QUEUE))
            says += f"; before {oldest} nothing reaches a session but through relay_inbox"
            found = Finding(check=self.title, level="warn", says=says, remedy="update Codex")
        else:
            found = Finding(check=self.title, level="ok", says=says)
        return [found, *self._check_entry(machine)]

    def _check_entry(self, machine: Machine) -> Sequence[Finding]:
        check, remedy = f"{self.title} entry", "ecorelay install codex"
        path = config_path(machine)
        try:
            entry = _entry(machine)
            wanted = with_entry(machine, path, _read(path))
            changes = wanted != _read(path)
        except RelayError as error:
            return [Finding(check=check, level="fail", says=error.message, remedy=remedy)]
        if entry is None:
            return [Finding(check=check, level="warn", says=f"none in {path}", remedy=remedy)]
        if entry.get("enabled") is False:
            says = f"disabled in {path}"
            return [Finding(check=check, level="warn", says=says, remedy="remove enabled = false there")]
        if changes:
            says = f"{path} does not start this program ({shlex.join(machine.program)}) in its data directory"
            return [Finding(check=check, level="warn", says=says, remedy=remedy)]
        if (home := _home_of(machine)) != machine.paths.home:
            says = f"its sessions use the data directory {home}, this one is {machine.paths.home}"
            return [Finding(check=check, level="fail", says=says, remedy=remedy)]
        return [Finding(check=check, level="ok", says=str(path))]


def config_path(machine: Machine) -> Path:
    """Where Codex keeps its settings."""
    home = machine.environ.get("CODEX_HOME", "")
    return (Path(home) if home else machine.at_home(".codex")) / "config.toml"


def backup_path(path: Path) -> Path:
    """The file as it was before we first changed it; none: there was no file."""
    return path.with_name(path.name + ".before-ecorelay")


def with_entry(machine: Machine, path: Path, before: str | None) -> str:
    """The settings with our entry.

    Raises:
        RelayError: ``bad_args``, they are no TOML, or another server has our name.
    """
    text = before or ""
    entry = toml_entry.find(toml_entry.parse(text, str(path)), PATH) or {}
    if "url" in entry:
        raise RelayError("bad_args", f"mcp_servers.ecorelay in {path} is a server at a URL: rename it first")
    values: dict[str, Any] = {
        "command": machine.program[0],
        "args": [*machine.program[1:], "mcp", "--carrier", "codex"],
        **{key: value for key, value in _UNCHANGED.items() if key not in entry},
    }
    if machine.allow_tools:
        values["default_tools_approval_mode"] = "approve"
    variables = dict(machine.variables)
    if machine.environ.get("CODEX_HOME"):
        variables["CODEX_HOME"] = machine.environ["CODEX_HOME"]
    if variables:
        values["env"] = variables
    return toml_entry.put(text, PATH, values, str(path))


def without_entry(path: Path, before: str, entry: dict[str, Any]) -> str | None:
    """The settings as we found them, if nothing but our entry was changed since; None: there were none.

    Else as they are, without our entry.
    """
    found, left = _read(backup_path(path)), toml_entry.take_out(before, PATH, str(path))
    same = left.rstrip() == (found or "").rstrip()  # the gap above our entry is ours too
    return found if same or toml_entry.put(found or "", PATH, entry, str(path)) == before else left


def _entry(machine: Machine) -> dict[str, Any] | None:
    path = config_path(machine)
    return toml_entry.find(toml_entry.parse(_read(path) or "", str(path)), PATH)


def _is_ours(entry: dict[str, Any]) -> bool:
    args = entry.get("args")
    return isinstance(entry.get("command"), str) and isinstance(args, list) and "mcp" in args


def _home_of(machine: Machine) -> Path | None:
    """The data directory that a session uses, which gets no more environment than this."""
    entry = _entry(machine) or {}
    bare = {name: value for name, value in machine.environ.items() if name == "HOME"}
    env = entry.get("env")
    try:
        return find_paths({**bare, **(env if isinstance(env, dict) else {})}).home
    except RelayError:
        return None


def _read(path: Path) -> str | None:
    """The text of a file; None where there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RelayError("bad_args", f"cannot read {path}: {error.strerror or error}") from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise RelayError(
            "bad_args", f"{path} is no UTF-8 (at line {line}, column {column}): mend it first"
        ) from None


def _step(title: str, path: Path, before: str | None, after: str | None, machine: Machine | None) -> Step:
    shown = [{path.name: text.encode()} if text is not None else {} for text in (before, after)]
    return Step(title=title, diff=files.difference(*shown), do=partial(_change, path, machine))


def _change(path: Path, machine: Machine | None) -> None:
    """Make the change to the file as it is now: put our entry in for `machine`, or take it out."""
    before = _read(path)
    _refuse_read_only(path)
    entry = toml_entry.find(toml_entry.parse(before or "", str(path)), PATH)
    if machine is not None:
        after = with_entry(machine, path, before)
        if entry is None and before is not None:
            files.replace(backup_path(path), before.encode(), like=path)
        elif entry is None:
            _remove(backup_path(path))
        files.replace(path, after.encode(), like=path)
    elif entry is not None and before is not None:
        left = without_entry(path, before, entry)
        if left is None:
            _remove(path)
        else:
            files.replace(path, left.encode(), like=path)
        if left == _read(backup_path(path)):
            _remove(backup_path(path))


def _refuse_read_only(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(path, os.W_OK):
        raise RelayError(
            "bad_args", f"{path} is read-only: make it writable, or change it where it comes from"
        )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot remove {path}: {error.strerror or error}") from error
