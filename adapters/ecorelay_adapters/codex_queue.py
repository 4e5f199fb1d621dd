"""``codex queue``: the door for a thread whose Codex runs without a daemon.

It takes the message as a program's argument, which every user of the machine can read. So it is given one
line that names the message, never a word of it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

QUEUE_S: Final = 30.0
"""How long the program may take."""


async def point(environ: Mapping[str, str], thread: str, line: str) -> None:
    """Have Codex show `line` in the thread when it can. That it was taken proves nothing."""
    program = environ.get("CODEX_BIN") or shutil.which("codex", path=environ.get("PATH"))
    if program is None:
        return
    words = [program, "queue", "--thread", thread, "--message", line]
    code: int | str = f"not done within {QUEUE_S:.0f} s"
    try:
        with trio.move_on_after(QUEUE_S):
            ended = await trio.run_process(
                words,
                stdin=b"",
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
                env=dict(environ),
            )
            code = ended.returncode
    except OSError as error:
        code = str(error)
    if code != 0:
        print(f"ecorelay: `codex queue` failed ({code}): the mail waits for relay_inbox", file=sys.stderr)
