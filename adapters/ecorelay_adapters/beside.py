"""The assistant's process that ours belongs to.

An adapter and the hooks of one session know nothing of each other: what they share is the process they stand
beside. An id of the session would not do, for it goes stale when the session is cleared.

Standard library alone: hooks run at every prompt and tool call.
"""

from __future__ import annotations

import os

from ecorelay.process import parent_and_name, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the import
    from collections.abc import Iterator

GENERATIONS = 12
"""Ancestors looked at."""
SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "env"})
"""What may stand between the assistant and us."""


class Process:
    """A process: its id, and when it began (see `ecorelay.process`)."""

    __slots__ = ("pid", "start")

    def __init__(self, pid: int, start: int) -> None:
        self.pid = pid
        self.start = start

    def bell(self, home: str) -> str:
        """The file in the data directory `home` by which this process is woken."""
        return os.path.join(home, "bells", f"{self.pid}-{self.start}")


def ancestors(pid: int | None = None) -> Iterator[tuple[int, str]]:
    """The ancestors of process `pid` (default: our own), the nearest first: their ids and programs' names.

    A name that cannot be found out is empty, and ends it.
    """
    ancestor = os.getppid() if pid is None else parent_and_name(pid)[0]
    for _ in range(GENERATIONS):
        if ancestor <= 1:
            break
        parent, name = parent_and_name(ancestor)
        yield ancestor, name
        ancestor = parent


def find_client(pid: int | None = None) -> Process:
    """The assistant of process `pid` (default: our own): its nearest ancestor that is no shell."""
    for ancestor, name in ancestors(pid):
        if name not in SHELLS:
            return Process(ancestor, start_time(ancestor))
    parent = os.getppid()
    return Process(parent, start_time(parent))
