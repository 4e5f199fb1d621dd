"""Mail for Antigravity CLI through ``agy agentapi send-message``.

From public documentation and reports, not run on the real program.

Antigravity gives some of its children three variables: ``ANTIGRAVITY_LS_ADDRESS`` and
``ANTIGRAVITY_CSRF_TOKEN``, by which `agy` reaches the session, and ``ANTIGRAVITY_CONVERSATION_ID``, the
session's id. Only where our own process was given all of them is there a door; nothing is looked for in other
processes, and the token is handed on to `agy` alone, in its environment. (Version 1.2.7 was reported to give
them to the shell of its model, but not to servers like ours. There the hooks, `hook_antigravity`, and
`ecorelay listen` bring mail.)

The text is a program's argument, which every user of the machine can read: so it only points at the mail,
see `pointing`. Taken by `agy` it is shown for certain: at once in an idle session, in a busy one after its
answer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import trio

from ecorelay_adapters.carriers import Canary
from ecorelay_adapters.pointing import PointingCarrier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ADDRESS: Final = "ANTIGRAVITY_LS_ADDRESS"
TOKEN: Final = "ANTIGRAVITY_CSRF_TOKEN"
CONVERSATION: Final = "ANTIGRAVITY_CONVERSATION_ID"
SEND_S: Final = 10.0
"""How long `agy` may take."""
_ID: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
"""What a conversation's id may look like: never like an option."""


class AntigravityCarrier(PointingCarrier):
    """See the module.

    Args:
        environ: of this process.
        now_ms: the clock, as `Incoming.ts`.
    """

    name = "agentapi"

    def __init__(self, environ: Mapping[str, str], now_ms: Callable[[], int]) -> None:
        super().__init__(now_ms)
        self._environ = environ

    async def probe(self) -> bool:
        """Whether we were given what it takes, and there is an `agy`."""
        await trio.lowlevel.checkpoint()
        return not why_not(self._environ)

    async def point(self, line: str) -> bool:
        """Have it sent; True once `agy` has taken it."""
        if why := await send(self._environ, line):
            print(f"ecorelay: {why}: mail waits for relay_inbox", file=sys.stderr)
        return not why

    async def canary(self) -> Canary:
        """Whether there is still an `agy`. To send is to begin a turn."""
        await trio.lowlevel.checkpoint()
        if why := why_not(self._environ):
            return Canary(False, "carrier", why)
        return Canary(None, "carrier", "there is an agy to send with; what it is given begins a turn")


def find_agy(environ: Mapping[str, str]) -> str | None:
    """The program: ``AGY_BIN``, else on the path, else where its installer puts it."""
    if named := environ.get("AGY_BIN"):
        return shutil.which(named)
    place = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local", "bin")
    return shutil.which("agy", path=environ.get("PATH")) or shutil.which("agy", path=place)


def why_not(environ: Mapping[str, str]) -> str:
    """Why nothing can be sent from here; empty: it can. Says names of variables, never what is in them."""
    missing = [name for name in (ADDRESS, TOKEN, CONVERSATION) if not environ.get(name)]
    if missing:
        return f"Antigravity did not give us {' and '.join(missing)}"
    if not _ID.fullmatch(environ[CONVERSATION]):
        return f"{CONVERSATION} is no id of a conversation"
    if find_agy(environ) is None:
        return "there is no program agy on the path"
    return ""


async def send(environ: Mapping[str, str], line: str) -> str:
    """Have Antigravity show `line` in the conversation of this environment.

    Returns:
        empty: it was taken; else why not.
    """
    program = find_agy(environ)
    if why := why_not(environ):
        return why
    assert program is not None
    words = [program, "agentapi", "send-message", environ[CONVERSATION], line]
    code: int | str = f"not done within {SEND_S:.0f} s"
    try:
        with trio.move_on_after(SEND_S):
            ended = await trio.run_process(
                words,
                stdin=b"",
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # it may quote the token
                check=False,
                env=dict(environ),
            )
            code = ended.returncode
    except OSError as error:
        code = error.strerror or type(error).__name__
    return "" if code == 0 else f"`agy agentapi send-message` failed ({code})"


def make_carrier(environ: Mapping[str, str]) -> AntigravityCarrier:
    """The carrier of this process."""
    return AntigravityCarrier(environ, lambda: time.time_ns() // 1_000_000)
