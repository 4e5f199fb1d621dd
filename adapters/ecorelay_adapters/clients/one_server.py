"""What most assistants are to us: a program, and one MCP server of ours in one settings file of theirs."""

from __future__ import annotations

import os
import shlex
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ecorelay.errors import RelayError
from ecorelay.home import HOME_VARIABLE
from ecorelay.paths import find_paths
from ecorelay_adapters.clients import entry_file, json_entry, program
from ecorelay_adapters.clients.assistant import Client, Command, Configured, Finding, Plan
from ecorelay_adapters.clients.entry_file import Table
from ecorelay_adapters.clients.json_text import beyond_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ecorelay_adapters.clients.assistant import Machine
    from ecorelay_adapters.clients.entry_file import Format
    from ecorelay_adapters.clients.json_text import Extra

UNPROVED: Final = "from public documentation, not run on the real program"
_AT_A_URL: Final = ("url", "httpUrl", "serverUrl")


class OneServer:
    """See `ecorelay_adapters.clients.assistant.Assistant`. A row says what is peculiar to it."""

    name: ClassVar[str]
    title: ClassVar[str]
    short: ClassVar[str] = ""
    """What people call it in a sentence; default: `title`."""
    part: ClassVar[str] = "MCP server"
    """What of ours is set up in it."""
    programs: ClassVar[tuple[str, ...]]
    """What its program is called; the first that is there is it."""
    variable: ClassVar[str]
    """The environment variable that names its program."""
    format: ClassVar[Format] = json_entry
    place: ClassVar[tuple[str, str]] = ("mcpServers", "ecorelay")
    """Where our entry stands in its file."""
    arguments: ClassVar[tuple[str, ...]] = ("mcp",)
    """Of our program."""
    begins_with: ClassVar[Mapping[str, Any]] = {}
    """What else the entry begins with; a person may change it."""
    allows_with: ClassVar[Mapping[str, Any]] = {}
    """What in the entry lets it use our tools without asking. Empty: nothing there does."""
    homes: ClassVar[tuple[str, ...]] = ()
    """Variables that a server must be given where a person has set them, besides ours."""
    never_reads: ClassVar[tuple[Extra, ...]] = ()
    """What in its settings makes it read none of them, though we would."""
    proved: ClassVar[bool] = True
    """Whether all this was seen on the real program."""

    def config_path(self, machine: Machine) -> Path:
        """The settings file that our entry stands in."""
        raise NotImplementedError

    def disabled_by(self, entry: Mapping[str, Any]) -> str:
        """What in our entry switches it off, as it is written there; empty: nothing."""
        return '"disabled": true' if entry.get("disabled") is True else ""

    def notes(self, machine: Machine) -> Sequence[str]:
        """What else a person should know when it is set up."""
        return ()

    @property
    def called(self) -> str:
        """What people call it in a sentence."""
        return self.short or self.title

    # --- the program ------------------------------------------------------------------------------------

    def find(self, machine: Machine) -> Client | None:
        """The program named by the person, by `variable`, or on the PATH."""
        environ = machine.environ
        named = machine.clients.get(self.name) or environ.get(self.variable, "")
        paths = (
            shutil.which(each, path=environ.get("PATH", os.defpath))
            for each in ((named,) if named else self.programs)
        )
        path = next((each for each in paths if each is not None and (named or self.is_it(each))), None)
        if path is None:
            return Client(path=named, problem=f"{named} is no program that can be run") if named else None
        path = os.path.abspath(path)
        return program.look_at(path, environ)

    def is_it(self, path: str) -> bool:
        """Whether a program of this name is the one meant."""
        return True

    # --- what is changed --------------------------------------------------------------------------------

    def plan_install(self, machine: Machine) -> Plan:
        """Put the entry into the settings, or bring it up to date."""
        client = self.find(machine)  # first: some bring their settings up to date when they are started
        path = self.config_path(machine)
        ours = self.ours(machine)
        try:
            steps = entry_file.installing(path, ours, f"set up the {self.part} ecorelay in {path}")
            # As it is going to be, but for what --allow-tools adds.
            entry = entry_file.find(path, ours) or {}
        except RelayError as error:
            return Plan(problem=error.message, code=error.code)
        notes = [self._restart] if steps else []
        if self.allows_with and not machine.allow_tools and not self._is_allowed(entry):
            notes.append(
                f"{self.called} may ask before it uses a relay_* tool; --allow-tools says that it need not"
            )
        if by := self.disabled_by(entry):
            notes.append(f"the entry is disabled there ({by} in {path}), and stays so")
        notes += self.notes(machine)
        if not self.proved:
            notes.append(f"how {self.called} is set up is known {UNPROVED}")
        if client is None or client.problem:
            notes.append(client.problem if client else f"the program {self._program} is not on the PATH")
        why = self._unreadable(path)
        problem = f"{why}, and so has no {self.part} of ecorelay either until that is gone" if why else ""
        return Plan(steps=tuple(steps), notes=tuple(notes), problem=problem, code="bad_args")

    def plan_removal(self, machine: Machine) -> Plan:
        """Take the entry out; where nothing else changed, the file is as it was."""
        path = self.config_path(machine)
        ours = self.ours(machine)
        try:
            entry = entry_file.find(path, ours)
            if entry is None:
                return Plan()
            if not _is_ours(entry):
                where = ".".join(self.place)
                return Plan(notes=(f"{where} in {path} does not start ecorelay, and stays",))
            steps = entry_file.removing(path, ours, f"take the {self.part} ecorelay out of {path}")
        except RelayError as error:
            return Plan(problem=error.message, code=error.code)
        notes = [self._restart]
        if (home := _home_of(machine, entry)) not in (None, machine.paths.home):
            notes.append(
                f"its sessions used the data directory {home}, not {machine.paths.home}; what is in it stays"
            )
        return Plan(steps=tuple(steps), notes=tuple(notes))

    def ours(self, machine: Machine) -> Table:
        """Our entry in the settings."""
        # Where a person chose a data directory before, and no more does, that would lead somewhere else.
        gone = () if HOME_VARIABLE in machine.variables else (("env", HOME_VARIABLE),)
        return Table(format=self.format, path=self.place, values=partial(self.values, machine), gone=gone)

    def values(self, machine: Machine, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What our entry must hold, given what it holds.

        Raises:
            RelayError: ``bad_args``, another server has our name.
        """
        if any(each in entry for each in _AT_A_URL):
            where = f"{'.'.join(self.place)} in {self.config_path(machine)}"
            raise RelayError("bad_args", f"{where} is a server at a URL: rename it first")
        values: dict[str, Any] = {
            "command": machine.program[0],
            "args": [*machine.program[1:], *self.arguments],
            **{key: value for key, value in self.begins_with.items() if key not in entry},
        }
        if machine.allow_tools:
            values |= self.allows_with
        homes = {name: machine.environ[name] for name in self.homes if machine.environ.get(name)}
        if variables := machine.variables | homes:
            values["env"] = variables
        return values

    # --- what is there ----------------------------------------------------------------------------------

    def configured(self, machine: Machine) -> Configured | None:
        """The server as it stands in the settings."""
        try:
            entry = entry_file.find(self.config_path(machine), self.ours(machine))
        except RelayError:
            return None
        if entry is None or not _is_ours(entry):
            return None
        variables = {str(name): str(value) for name, value in _env(entry).items()}
        words = (entry["command"], *map(str, entry["args"]))
        return Configured(server=Command(words=words, variables=variables))

    def check(self, machine: Machine) -> Sequence[Finding]:
        """Program and entry, and whether both fit this ecorelay."""
        client = self.find(machine)
        if client is None or client.problem:
            says = f"its program {self._program} is not found" if client is None else client.problem
            remedy = f"install or update {self.called}, or name its program in {self.variable}"
            found = Finding(check=self.title, level="fail", says=says, remedy=remedy)
        else:
            found = self.check_program(client)
        return [found, *self.check_entry(machine)]

    def check_program(self, client: Client) -> Finding:
        """Whether the program is one that we can work with."""
        says = f"{client.version} ({client.path})" + ("" if self.proved else f"; {UNPROVED}")
        return Finding(check=self.title, level="ok", says=says)

    def check_entry(self, machine: Machine) -> Sequence[Finding]:
        """Whether the entry is there, starts this program, and leads to this data directory."""
        check, remedy = f"{self.title} entry", f"ecorelay install {self.name}"
        path, ours = self.config_path(machine), self.ours(machine)
        try:
            entry = entry_file.find(path, ours)
            current = entry_file.is_current(path, ours)
        except RelayError as error:
            return [Finding(check=check, level="fail", says=error.message, remedy=self.mend_first)]
        if entry is None:
            return [Finding(check=check, level="warn", says=f"none in {path}", remedy=remedy)]
        if by := self.disabled_by(entry):
            return [
                Finding(check=check, level="warn", says=f"disabled in {path}", remedy=f"remove {by} there")
            ]
        if _is_ours(entry) and (home := _home_of(machine, entry)) != machine.paths.home:
            says = f"its sessions use the data directory {home}, this one is {machine.paths.home}"
            return [Finding(check=check, level="fail", says=says, remedy=remedy)]
        if not current:
            says = f"{path} does not start this program ({shlex.join(machine.program)}) in its data directory"
            return [Finding(check=check, level="warn", says=says, remedy=remedy)]
        if why := self._unreadable(path):
            return [Finding(check=check, level="fail", says=why, remedy="write it without")]
        return [Finding(check=check, level="ok", says=str(path))]

    def _unreadable(self, path: Path) -> str:
        """Why the program cannot read its own settings, if we know it; they are no worse for our entry."""
        extras = beyond_json(entry_file.read(path) or "", str(path)) if self.never_reads else {}
        found = [words for kind, words in extras.items() if kind in self.never_reads]
        return f"{self.called} cannot read {path}: it has {found[0]}" if found else ""

    def _is_allowed(self, entry: Mapping[str, Any]) -> bool:
        return all(
            key in entry and bool(entry[key]) == bool(value) for key, value in self.allows_with.items()
        )

    @property
    def mend_first(self) -> str:
        """What to do about a file of its own that cannot be read: as it is, `install` refuses it too."""
        return f"mend it, then `ecorelay install {self.name}`"

    @property
    def _restart(self) -> str:
        return f"sessions of {self.called} that are open see the change when they are started again"

    @property
    def _program(self) -> str:
        return " or ".join(f"`{each}`" for each in self.programs)


def _is_ours(entry: Mapping[str, Any]) -> bool:
    args = entry.get("args")
    return isinstance(entry.get("command"), str) and isinstance(args, list) and "mcp" in args


def _env(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    env = entry.get("env")
    return env if isinstance(env, dict) else {}


def _home_of(machine: Machine, entry: Mapping[str, Any]) -> Path | None:
    """The data directory that a session uses, where its server gets no more environment than this."""
    bare = {name: value for name, value in machine.environ.items() if name == "HOME"}
    try:
        return find_paths({**bare, **_env(entry)}).home
    except RelayError:
        return None
