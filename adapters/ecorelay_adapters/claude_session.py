"""Claude Code's own process and session, as its adapter and its hooks both find them.

The two know nothing of each other: what they share is the process they stand beside. Its session id would not
do, for it goes stale when the session is cleared. The client keeps one small file for each of its processes,
``sessions/<pid>.json`` in its configuration directory, which is there before it starts us; the other files in
that folder are none of our business.

Standard library alone: a hook runs at every prompt and tool call.
"""

from __future__ import annotations

import os

from ecorelay.process import parent_and_name, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the import
    from collections.abc import Callable, Mapping
    from typing import Any

GENERATIONS = 12
"""Ancestors looked at."""
SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "env"})
"""What may stand between the client and us."""
FILE_MAX = 64 * 1024


class ClaudeProcess:
    """The client's process: its id, when it began (see `ecorelay.process`), and its session file's path."""

    __slots__ = ("file", "pid", "start")

    def __init__(self, pid: int, start: int, file: str) -> None:
        self.pid = pid
        self.start = start
        self.file = file

    def bell(self, home: str) -> str:
        """The file in the data directory `home` by which this process is woken."""
        return os.path.join(home, "bells", f"{self.pid}-{self.start}")


class ClaudeSession:
    """What the client says of its session.

    `name` is empty unless its user chose it. `id` changes when the session is cleared or another one resumed.
    `busy`: a turn is going on, or a dialog is open: the client would keep a wake until after that, and then
    deliver it into the turn.
    """

    __slots__ = ("busy", "id", "name")

    def __init__(self, name: str = "", id: str = "", busy: bool = False) -> None:
        self.name = name
        self.id = id
        self.busy = busy


def find_process(environ: Mapping[str, str], pid: int | None = None) -> ClaudeProcess:
    """The client that process `pid` (default: our own) belongs to.

    That is the nearest ancestor with a session file; where none has one, the nearest that is no shell.
    """
    folder = os.path.join(environ.get("CLAUDE_CONFIG_DIR") or os.path.expanduser("~/.claude"), "sessions")
    ancestor = os.getppid() if pid is None else parent_and_name(pid)[0]
    nearest = 0
    for _ in range(GENERATIONS):
        if ancestor <= 1:
            break
        file = os.path.join(folder, f"{ancestor}.json")
        if os.path.exists(file):
            return ClaudeProcess(ancestor, start_time(ancestor), file)
        parent, name = parent_and_name(ancestor)
        if not nearest and name not in SHELLS:
            nearest = ancestor
        ancestor = parent
    nearest = nearest or os.getppid()
    return ClaudeProcess(nearest, start_time(nearest), os.path.join(folder, f"{nearest}.json"))


def read_session(file: str, decode: Callable[[bytes], Any]) -> ClaudeSession:
    """What stands in a session file; empty where there is none, or none that makes sense.

    Args:
        file: its path.
        decode: reads JSON, raising ValueError or RecursionError: each process has its own way already.
    """
    try:
        with open(file, "rb") as source:
            found = decode(source.read(FILE_MAX))
    except (OSError, ValueError, RecursionError):
        return ClaudeSession()
    if not isinstance(found, dict):
        return ClaudeSession()
    name, id, source_of_name = found.get("name"), found.get("sessionId"), found.get("nameSource")
    return ClaudeSession(
        name if isinstance(name, str) and source_of_name == "user" else "",
        id[:256] if isinstance(id, str) else "",
        found.get("status") in ("busy", "waiting"),
    )
