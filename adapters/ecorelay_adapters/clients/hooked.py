"""An assistant that is told of a server in one file, and of hooks of ours in another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from ecorelay.errors import RelayError
from ecorelay_adapters.clients import entry_file, program
from ecorelay_adapters.clients.assistant import Command, Configured, Finding, Hook, Plan
from ecorelay_adapters.clients.one_server import OneServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ecorelay_adapters.clients.assistant import Machine, Step
    from ecorelay_adapters.clients.entry_file import Ours

IDLE_EVENT: Final = b'{"hook_event_name": "none"}'
"""One that no hook of ours does anything about."""


class Hooked(OneServer):
    """See `ecorelay_adapters.clients.assistant.Assistant`. A row says what is peculiar to it."""

    def hooks_path(self, machine: Machine) -> Path:
        """The file that our hooks stand in."""
        raise NotImplementedError

    def hooks(self, machine: Machine | None) -> Ours:
        """Our hooks as they should stand; None: only to find them and take them out."""
        raise NotImplementedError

    def commands(self, found: Any) -> Sequence[str]:
        """The command lines of what was found of ours."""
        raise NotImplementedError

    def command(self, machine: Machine | None) -> str:
        """The line for a shell that runs our hook."""
        if machine is None:
            return ""
        return program.shell_command([*machine.program, "hook", self.name], machine.variables)

    def plan_install(self, machine: Machine) -> Plan:
        """The server first: without it a hook has no session to ask for."""
        path = self.hooks_path(machine)
        plan = super().plan_install(machine)
        try:
            steps = entry_file.installing(path, self.hooks(machine), f"add the hooks of ecorelay to {path}")
        except RelayError as error:
            return _with(plan, error=error)
        return plan if plan.problem else _with(plan, steps)

    def plan_removal(self, machine: Machine) -> Plan:
        """Both are taken out; what else is in the two files stays."""
        path = self.hooks_path(machine)
        plan = super().plan_removal(machine)
        try:
            steps = entry_file.removing(path, self.hooks(None), f"take the hooks of ecorelay out of {path}")
        except RelayError as error:
            return _with(plan, error=error)
        return _with(plan, steps)

    def configured(self, machine: Machine) -> Configured | None:
        """The server and the hooks as they stand in the two files."""
        server = super().configured(machine)
        try:
            found = entry_file.find(self.hooks_path(machine), self.hooks(None))
        except RelayError:
            return server
        if found is None:
            return server
        hooks = tuple(
            [
                Hook(command=Command(shell=each), event=IDLE_EVENT)
                for each in dict.fromkeys(self.commands(found))
            ]
        )
        return Configured(server=server.server if server else None, hooks=hooks)

    def check_entry(self, machine: Machine) -> Sequence[Finding]:
        """Also whether the hooks are there and start this program."""
        check, remedy, path = f"{self.title} hooks", f"ecorelay install {self.name}", self.hooks_path(machine)
        try:
            found = entry_file.find(path, self.hooks(None))
            current = entry_file.is_current(path, self.hooks(machine))
        except RelayError as error:
            hooks = Finding(check=check, level="fail", says=error.message, remedy=self.mend_first)
        else:
            if found is None:
                hooks = Finding(check=check, level="warn", says=f"none in {path}", remedy=remedy)
            elif not current:
                says = f"those in {path} do not start this program in its data directory"
                hooks = Finding(check=check, level="warn", says=says, remedy=remedy)
            else:
                hooks = Finding(check=check, level="ok", says=str(path))
        return [*super().check_entry(machine), hooks]


def _with(plan: Plan, steps: Sequence[Step] = (), error: RelayError | None = None) -> Plan:
    """A plan with more. Of two problems both are told."""
    if error is not None:
        both = "; ".join(each for each in (plan.problem, error.message) if each)
        return structs.replace(plan, problem=both, code=error.code)
    return structs.replace(plan, steps=(*plan.steps, *steps))
