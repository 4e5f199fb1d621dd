"""What an assistant's module offers to `ecorelay install`, `uninstall` and `doctor`.

Each asks the same four things of it: is the assistant here (`find`), what has to be changed so that it talks
through ecorelay (`plan_install`) or no longer does (`plan_removal`), and what it has been told to run
(`configured`), which the doctor then runs exactly so. A plan is made by looking at what is there, and holds
only what differs: making it twice changes nothing the second time, and an interrupted one is continued by the
next. Nothing is changed before a step is done, so a plan can be shown first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from ecorelay.errors import RelayError
from ecorelay.home import HOME_VARIABLE
from ecorelay.paths import Paths


class Machine(Struct, frozen=True, kw_only=True):
    """Where all this happens, and what the person wishes."""

    environ: Mapping[str, str]
    paths: Paths
    program: tuple[str, ...]
    """The absolute words that start ``ecorelay``, see `ecorelay_adapters.clients.program`."""
    version: str
    """Of this ecorelay."""
    clients: Mapping[str, str] = {}
    """Name of an assistant → its own program, where the person named that."""
    allow_tools: bool = False
    """Whether the assistant may call our tools without asking the person each time."""

    def at_home(self, *parts: str) -> Path:
        """A path below the person's home directory."""
        return Path(self.environ.get("HOME") or os.path.expanduser("~"), *parts)

    @property
    def variables(self) -> dict[str, str]:
        """What programs that the assistant starts need in their environment to meet at our data directory."""
        return {HOME_VARIABLE: str(self.paths.home)} if self.environ.get(HOME_VARIABLE) else {}


class Client(Struct, frozen=True, kw_only=True):
    """An assistant's program."""

    path: str
    version: str = ""
    problem: str = ""
    """Why it cannot be used; with what to do about it."""


class ClientFailed(RelayError):
    """A command of the assistant's own did not do what it was told to."""


class Step(Struct, frozen=True, kw_only=True):
    """One change. `do` makes it; `title` says it in a line, `diff` in detail (lines with ``+``, ``-`` first).

    `do` raises RelayError when it cannot, in words that say what to do.
    """

    title: str
    do: Callable[[], None]
    diff: tuple[str, ...] = ()


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be changed, in this order.

    `problem`: why it cannot be made whole by us, and `code`, of `ecorelay.errors`, of what kind that is
    (empty: a command of the assistant's own failed); `by_hand` then has the commands that do the rest, and
    exit code and message say so. `notes` are for the person, whether anything changes or not.
    """

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""
    code: str = "peer_not_found"
    by_hand: tuple[str, ...] = ()


class Command(Struct, frozen=True, kw_only=True):
    """A command line that an assistant was told to run. `words` are run as they are, `shell` by a shell."""

    words: tuple[str, ...] = ()
    shell: str = ""
    variables: Mapping[str, str] = {}
    """Set for it, besides what the assistant's environment holds."""

    def __str__(self) -> str:
        import shlex

        return self.shell or shlex.join(self.words)


class Hook(Struct, frozen=True, kw_only=True):
    """A hook as configured, and an event that does nothing but exercise it."""

    command: Command
    event: bytes
    """Written to its stdin."""
    exits: tuple[int, ...] = (0,)
    """Exit codes that are as they should be."""


class Configured(Struct, frozen=True, kw_only=True):
    """What an assistant has been told to run; read from where the assistant reads it."""

    server: Command | None = None
    hooks: tuple[Hook, ...] = ()


Level = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True, kw_only=True):
    """The outcome of one check: `says` what was seen, `remedy` what to do about it."""

    check: str
    level: Level
    says: str
    remedy: str = ""


class Assistant(Protocol):
    """One assistant. Nothing here may raise for what a machine can be like but RelayError."""

    @property
    def name(self) -> str:
        """The word for it on the command line."""

    @property
    def title(self) -> str:
        """What people call it."""

    def find(self, machine: Machine) -> Client | None:
        """The assistant's program, if it is installed here."""

    def plan_install(self, machine: Machine) -> Plan:
        """What to change so that its sessions talk through ecorelay."""

    def plan_removal(self, machine: Machine) -> Plan:
        """What to change so that nothing of ours is left in it."""

    def configured(self, machine: Machine) -> Configured | None:
        """What it has been told to run; None: it was not told anything by us."""

    def check(self, machine: Machine) -> Sequence[Finding]:
        """What proves that it is set up, and still fits this ecorelay. No program of ours is run for it."""
