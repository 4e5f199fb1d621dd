"""Claude Code's own process and session, as its adapter and its hooks both find them: see `beside`.

The client keeps one small file for each of its processes, ``sessions/<pid>.json`` in its configuration
directory, which is there before it starts us; the other files in that folder are none of our business.

Standard library alone: a hook runs at every prompt and tool call.
"""

from __future__ import annotations

import os

from ecorelay.process import start_time
from ecorelay_adapters.beside import SHELLS, Process, ancestors

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the import
    from collections.abc import Callable, Mapping
    from typing import Any

FILE_MAX = 64 * 1024


class ClaudeProcess(Process):
    """The client's process, and its session file's path."""

    __slots__ = ("file",)

    def __init__(self, pid: int, start: int, file: str) -> None:
        super().__init__(pid, start)
        self.file = file


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
    nearest = 0
    for ancestor, name in ancestors(pid):
        file = os.path.join(folder, f"{ancestor}.json")
        if os.path.exists(file):
            return ClaudeProcess(ancestor, start_time(ancestor), file)
        if not nearest and name not in SHELLS:
            nearest = ancestor
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
