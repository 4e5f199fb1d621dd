"""GitHub Copilot CLI: an MCP server in its ``mcp-config.json``, and an extension through which mail comes in.

Copilot loads extensions only where ``"experimental": true`` stands in its ``settings.json``. That is set
where a person has said nothing about it, and noted in the extension, so that it is taken back with it.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ecorelay.errors import RelayError
from ecorelay.home import HOME_VARIABLE
from ecorelay_adapters.clients import entry_file, files, folders, json_entry
from ecorelay_adapters.clients.assistant import Finding, Plan, Step
from ecorelay_adapters.clients.one_server import OneServer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecorelay_adapters.clients.assistant import Machine

EXTENSION: Final = "extension.mjs"
_BEGINS: Final = b"// ecorelay's extension for GitHub Copilot CLI"
_SWITCH: Final = "experimental"
_CONSTANT: Final = re.compile(r"^const ([A-Z_]+) = (?:\"\"|false);$", re.MULTILINE)
"""A constant of the extension that is filled in: one that holds nothing yet."""
ID: Final = "user:ecorelay"
"""What Copilot calls our extension in its settings."""


class Copilot(OneServer):
    """See `ecorelay_adapters.clients.assistant.Assistant`."""

    name = "copilot"
    title = "GitHub Copilot CLI"
    short = "Copilot"
    programs = ("copilot",)
    variable = "COPILOT_BIN"
    arguments = ("mcp", "--carrier", "copilot")
    begins_with: ClassVar[Mapping[str, Any]] = {"type": "local", "tools": ["*"], "timeout": 660_000}

    def config_path(self, machine: Machine) -> Path:
        """Where Copilot keeps its MCP servers."""
        return _folder(machine) / "mcp-config.json"

    def notes(self, machine: Machine) -> Sequence[str]:
        """How it is told to use our tools, and what keeps our extension from being loaded."""
        asks = "Copilot asks before it uses a relay_* tool; `copilot --allow-tool=ecorelay` says it need not"
        hindered = _hindered(_settings(machine))
        left = f"{hindered} in {settings_path(machine)}, and stays so: mail then comes by relay_inbox only"
        return [asks, left] if hindered else [asks]

    # --- what is changed --------------------------------------------------------------------------------

    def plan_install(self, machine: Machine) -> Plan:
        """The server, the extension, and what lets Copilot load it."""
        try:
            data = rendered(machine)
            path = extension_path(machine)
            found = _read(path)
            if found is not None and not found.startswith(_BEGINS):
                raise RelayError("bad_args", f"{path} is not ours: rename its folder first")
            switch = entry_file.installing(
                settings_path(machine), _Switch(), f"let Copilot load extensions, in {settings_path(machine)}"
            )
            plan = super().plan_install(machine)
        except RelayError as error:
            return Plan(problem=error.message, code=error.code)
        if plan.problem:
            return plan
        more: list[Step] = []
        if found != data:
            diff = files.difference({EXTENSION: found} if found is not None else {}, {EXTENSION: data})
            more.append(Step(title=f"write the extension {path}", diff=diff, do=partial(_write, path, data)))
        more += switch
        notes = plan.notes if plan.steps or not more else (self._restart, *plan.notes)
        return Plan(steps=(*plan.steps, *more), notes=notes)

    def plan_removal(self, machine: Machine) -> Plan:
        """Take all of it back; what set ``experimental`` last knows whether it was us."""
        plan = super().plan_removal(machine)
        if plan.problem:
            return plan
        path = extension_path(machine)
        more: list[Step] = []
        try:
            found = _read(path)
            if found is not None and found.startswith(_BEGINS):
                if _switched_by_us(found):
                    title = f"take back what let Copilot load extensions, in {settings_path(machine)}"
                    more += entry_file.removing(settings_path(machine), _Switch(), title)
                diff = files.difference({EXTENSION: found}, {})
                more.append(Step(title=f"remove the extension {path}", diff=diff, do=partial(_remove, path)))
        except RelayError as error:
            return Plan(problem=error.message, code=error.code)
        notes = plan.notes if plan.steps or not more else (self._restart, *plan.notes)
        return Plan(steps=(*plan.steps, *more), notes=notes)

    # --- what is there ----------------------------------------------------------------------------------

    def check_entry(self, machine: Machine) -> Sequence[Finding]:
        """The server's entry, and the extension."""
        return [*super().check_entry(machine), self._check_extension(machine)]

    def _check_extension(self, machine: Machine) -> Finding:
        check, remedy = f"{self.title} extension", f"ecorelay install {self.name}"
        path = extension_path(machine)
        try:
            found, wanted = _read(path), rendered(machine)
            settings = _settings(machine)
        except RelayError as error:
            return Finding(check=check, level="fail", says=error.message, remedy=self.mend_first)
        if found is None:
            return Finding(check=check, level="warn", says=f"none at {path}", remedy=remedy)
        if found != wanted:
            says = f"{path} is not the one of this ecorelay, or leads to another data directory"
            return Finding(check=check, level="warn", says=says, remedy=remedy)
        if settings.get(_SWITCH) is not True or _hindered(settings):
            hindered = _hindered(settings) or f'no "{_SWITCH}": true'
            says = f"not loaded: {hindered} in {settings_path(machine)}; mail comes by relay_inbox only"
            return Finding(check=check, level="warn", says=says, remedy="change it there, if you wish")
        return Finding(check=check, level="ok", says=str(path))


def settings_path(machine: Machine) -> Path:
    """Where Copilot keeps its settings."""
    return _folder(machine) / "settings.json"


def extension_path(machine: Machine) -> Path:
    """Where our extension is loaded from."""
    return _folder(machine) / "extensions" / "ecorelay" / EXTENSION


def rendered(machine: Machine) -> bytes:
    """The extension for this machine.

    Raises:
        RelayError: Copilot's settings cannot be read or are broken, or this installation is incomplete.
    """
    found = _read(extension_path(machine))
    ours = _switched_by_us(found) if found is not None else False
    constants = {
        "VERSION": machine.version,
        "DATA_DIRECTORY": str(machine.paths.home),
        "DATA_DIRECTORY_IS_FIXED": HOME_VARIABLE in machine.variables,  # as for the server, by its entry
        "EXPERIMENTAL_IS_OURS": ours or _SWITCH not in _settings(machine),
    }
    text = (files.shipped("copilot") / EXTENSION).read_text(encoding="utf-8")
    return _CONSTANT.sub(
        lambda found: f"const {found[1]} = {json.dumps(constants[found[1]])};", text
    ).encode()


class _Switch:
    """``"experimental": true`` in Copilot's settings; see `ecorelay_adapters.clients.entry_file.Ours`."""

    def find(self, text: str, name: str) -> Any:
        """True; or None, where it is not set or set to something else."""
        return True if json_entry.parse(text, name).get(_SWITCH) is True else None

    def put(self, text: str, name: str) -> str:
        """The text with it, unless a person has said something else."""
        said = _SWITCH in json_entry.parse(text, name)
        return text if said else json_entry.put(text, (), {_SWITCH: True}, name)

    def put_back(self, text: str, found: Any, name: str) -> str:
        """The same."""
        return self.put(text, name)

    def take_out(self, text: str, name: str) -> str:
        """The text without it."""
        return json_entry.take_out(text, (_SWITCH,), name) if self.find(text, name) else text


def _folder(machine: Machine) -> Path:
    home = machine.environ.get("COPILOT_HOME", "")
    return Path(home) if home else machine.at_home(".copilot")


def _settings(machine: Machine) -> Mapping[str, Any]:
    path = settings_path(machine)
    return json_entry.parse(entry_file.read(path) or "", str(path))


def _hindered(settings: Mapping[str, Any]) -> str:
    """What a person has set that keeps our extension from being loaded; empty: nothing."""
    if _SWITCH in settings and settings[_SWITCH] is not True:
        return f'"{_SWITCH}" is {json.dumps(settings[_SWITCH])}'
    extensions = settings.get("extensions")
    if not isinstance(extensions, dict):
        return ""
    if extensions.get("mode") == "disabled":
        return "extensions are disabled"
    disabled = extensions.get("disabledExtensions")
    return f"{ID} is disabled" if isinstance(disabled, list) and ID in disabled else ""


def _switched_by_us(extension: bytes) -> bool:
    return b"\nconst EXPERIMENTAL_IS_OURS = true;\n" in extension


def _read(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(files.FILE_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RelayError("bad_args", f"cannot read {path}: {error.strerror or error}") from error


def _write(path: Path, data: bytes) -> None:
    folders.make(path)
    files.replace(path, data)


def _remove(path: Path) -> None:
    """Remove it, and the folders around it that were made for it."""
    left = folders.leave(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot remove {path}: {error.strerror or error}") from error
    folders.remove(left)
