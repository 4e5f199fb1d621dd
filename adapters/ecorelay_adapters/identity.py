"""Who this session is, from what its assistant's process was given: environment and directory.

An adapter must not count on the environment (some clients pass HOME, PATH, TERM and LANG alone), so
everything here has an answer without it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ecorelay.names import is_name, slug
from ecorelay_adapters.beside import Process, find_client
from ecorelay_adapters.claude_session import find_process, read_session

if TYPE_CHECKING:
    from collections.abc import Mapping

CLAUDE = "claude-code"
_CLIENT_NAMES = {
    CLAUDE: CLAUDE,
    "@cline/core": "cline",
    "codex-mcp-client": "codex",
    "gemini-cli-mcp-client": "gemini",
    "cursor-vscode": "cursor",
    "antigravity-client": "antigravity",
    "qwen-code-mcp-client": "qwen",
    "qwen-cli-mcp-client-ecorelay": "qwen",
}
"""What people call an assistant that calls itself otherwise in ``initialize``."""
_SESSION_VARIABLES = {
    "CLAUDE_CODE_SESSION_ID": CLAUDE,
    "COPILOT_AGENT_SESSION_ID": "copilot",
}
"""Variables that hold the assistant's own session id, and which assistant sets them."""
_BRANCH_MAX = 256


class Identity(Struct, frozen=True, kw_only=True):
    """What hello says of this session.

    `name` is pinned when a person chose it (``RELAY_PEER_ID``, or the name they gave the assistant's
    session), else the directory's base name. `session` is the assistant's session id, empty where it gives
    none. `beside` is the assistant's process, where that is one process a session.
    """

    name: str
    pinned: bool
    client: str
    session: str
    cwd: str
    git_branch: str
    beside: Process | None = None
    problem: str = ""
    """What is wrong with what we were given, to be told to the model."""


def find(environ: Mapping[str, str], cwd: Path, client_name: str, assistant: str = "") -> Identity:
    """Look at the environment and the directory.

    An assistant's variables are there too in what its model starts in a shell, other assistants among them:
    such a variable is believed of the assistant that sets it alone.

    Args:
        environ: of this process.
        cwd: the project directory: assistants start their servers there.
        client_name: what the client called itself in ``initialize``; empty if it did not.
        assistant: whom this adapter was set up for; empty: nobody said.
    """
    known = assistant or _CLIENT_NAMES.get(client_name)
    client, session = known or slug(client_name, "mcp"), ""
    for variable, sets_it in _SESSION_VARIABLES.items():
        if environ.get(variable) and known in (None, sets_it):
            client, session = sets_it, environ[variable][:256]
            break
    beside, given = None, ""
    if client == CLAUDE:
        beside = find_process(environ)
        found = read_session(beside.file, msgspec.json.decode)
        session, given = found.id or session, found.name
    wanted = environ.get("RELAY_PEER_ID", "").strip()
    problem = ""
    if wanted and not is_name(wanted):
        problem = f"RELAY_PEER_ID={wanted[:64]!r} is no valid name, so it was spelled {slug(wanted)!r}"
    wanted = wanted or given
    name = slug(wanted or cwd.name or client)
    return Identity(
        name=name,
        pinned=bool(wanted),
        client=client,
        session=session,
        cwd=str(cwd)[:4096],
        git_branch=git_branch(cwd),
        beside=beside,
        problem=problem,
    )


def find_beside(environ: Mapping[str, str], cwd: Path, assistant: str) -> Identity:
    """As `find`, for an assistant that is one process a session, and whose hooks find us by that process.

    Args:
        environ: of this process.
        cwd: the project directory.
        assistant: what people call it.
    """
    return msgspec.structs.replace(find(environ, cwd, "", assistant), beside=find_client())


def working_directory() -> Path:
    """The current directory, also where it was removed meanwhile."""
    try:
        return Path.cwd()
    except OSError:
        return Path(os.environ.get("PWD") or "/")


def git_branch(directory: Path) -> str:
    """The checked-out branch (or a short commit) of the repository around `directory`, or nothing.

    Reads ``.git/HEAD`` itself: starting git takes longer than starting us.
    """
    for folder in (directory, *directory.parents):
        git = folder / ".git"
        try:
            if git.is_file():  # a worktree or submodule points elsewhere
                target = git.read_text(encoding="utf-8", errors="replace").partition("gitdir:")[2]
                git = folder / target.strip()
            elif not git.is_dir():
                continue
            head = (git / "HEAD").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""
        ref = head.removeprefix("ref: refs/heads/")
        return (ref if ref != head else head[:12])[:_BRANCH_MAX]
    return ""
