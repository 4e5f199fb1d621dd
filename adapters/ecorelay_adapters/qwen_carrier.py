"""Mail for Qwen Code that was started with ``--input-file F``: a line there is a prompt, as if it was typed.

Seen on Qwen Code 0.15.10 and 0.24.4: it looks at the file twice a second, and submits ``{"type": "submit",
"text": …}`` when it is idle. What it finds while a turn runs it drops, up to 0.21; from 0.23 on it keeps it,
and each line is a turn of its own afterwards. An ``@path`` in the text has it read that file, and while its
prompt is in shell mode (``!``) the text is run by a shell. So the line only points at the mail, in
our own words, and is given again until the session reads: see `pointing`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import trio

from ecorelay_adapters.beside import find_client
from ecorelay_adapters.carriers import Canary
from ecorelay_adapters.pointing import PointingCarrier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OPTIONS: Final = ("--input-file", "--inputFile")
PACKAGE: Final = "@qwen-code/qwen-code"
KEEPS_SINCE: Final = (0, 23)
AGAIN_KEPT_S: Final = (20.0, 80.0, 320.0)
"""Pauses before a line is given again that is not dropped: its user may have taken it back."""
COMMAND_MAX: Final = 1024 * 1024
WORDS_MAX: Final = 8
"""Of a command line, in which the program's file stands: Node's own options come before it."""
PS_S: Final = 2.0
"""How long ``ps`` may take."""


class QwenCarrier(PointingCarrier):
    """See the module.

    Args:
        file: the path of the input file; empty: there is none.
        now_ms: the clock, as `Incoming.ts`.
        keeps: whether this Qwen Code keeps what it finds while a turn runs.
    """

    name = "input-file"
    spacing = 0.7
    """Longer than the pause between two looks of Qwen: a line written while it reads would be read twice."""

    def __init__(self, file: str, now_ms: Callable[[], int], *, keeps: bool = False) -> None:
        super().__init__(now_ms)
        self._file = file
        if keeps:
            self.again = AGAIN_KEPT_S

    async def probe(self) -> bool:
        """Whether there is an input file, and it is ours."""
        await trio.lowlevel.checkpoint()
        return not self._why_not()

    async def point(self, line: str) -> bool:
        """Append it as one line. Nothing says whether it was not dropped."""
        text = json.dumps({"type": "submit", "text": line})
        try:
            append_line(self._file, text.encode())
        except OSError as error:
            print(
                f"ecorelay: no line into {self._file}: {error}: mail waits for relay_inbox", file=sys.stderr
            )
        await trio.lowlevel.checkpoint()
        return False

    async def canary(self) -> Canary:
        """Whether the file could be written now. To write is to begin a turn."""
        await trio.lowlevel.checkpoint()
        if why := self._why_not():
            return Canary(False, "carrier", f"the input file cannot be written: {why}")
        return Canary(None, "carrier", "the input file can be written; a line in it would begin a turn")

    def _why_not(self) -> str:
        if not self._file:
            return "Qwen Code was started without --input-file"
        try:
            os.close(_open(self._file))
        except OSError as error:
            return error.strerror or type(error).__name__
        return ""


def append_line(file: str, line: bytes) -> None:
    """Append a line in one write. Never makes a file, and follows no link to one.

    Raises:
        OSError: it is not there, not ours, no plain file, or has no room.
    """
    handle = _open(file)
    try:
        size = os.fstat(handle).st_size
        # Another writer's half line must not become the beginning of ours.
        whole = size == 0 or os.pread(handle, 1, size - 1) == b"\n"
        data = (b"" if whole else b"\n") + line + b"\n"
        if os.write(handle, data) != len(data):
            raise OSError("only a part of the line was written")
    finally:
        os.close(handle)


def _open(file: str) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    handle = os.open(file, flags)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(handle)
        raise PermissionError(1, "it is no plain file of yours", file)
    return handle


# --- the file -------------------------------------------------------------------------------------------


def find_file(pid: int) -> str:
    """The absolute path of the input file process `pid` was started with; empty: none, or unknown."""
    if sys.platform == "linux":
        words, directory = _linux(pid)
        file = named_in(words)
    elif sys.platform == "darwin":
        directory = os.getcwd()  # assistants start their servers in their own
        file = named_in_text(_darwin(pid))
    else:
        return ""
    return os.path.join(directory, file) if file and directory else ""


def named_in(words: Sequence[str]) -> str:
    """What ``--input-file`` names in a command line; the last one counts."""
    named = ""
    for word, following in pairwise((*words, "")):
        if word == "--":
            break
        option, equals, value = word.partition("=")
        if option in OPTIONS:
            named = value if equals else following
    return named


def named_in_text(command: str) -> str:
    """The same where the words stand in one text: a path ends where an option begins."""
    found = re.findall(r"(?<!\S)--input-?[fF]ile[= ](.+?)(?=\s+-|\s*$)", command.partition(" -- ")[0])
    return str(found[-1]) if found else ""


def keeps_lines(pid: int) -> bool:
    """Whether process `pid` is a Qwen Code that keeps what it finds in the file while a turn runs.

    Its program's file lies beside the package's manifest. False where that is not found: a line too many is
    better than none.
    """
    words = _linux(pid)[0] if sys.platform == "linux" else _darwin(pid).split()
    for word in words[:WORDS_MAX]:
        manifest = os.path.join(os.path.dirname(os.path.realpath(word)), "package.json")
        try:
            with open(manifest, "rb") as file:
                found = json.loads(file.read(COMMAND_MAX))
            if found["name"] == PACKAGE:
                return tuple(int(part) for part in found["version"].split(".")[:2]) >= KEEPS_SINCE
        except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
            continue
    return False


def _linux(pid: int) -> tuple[list[str], str]:
    """The words of a process's command line, and its directory."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(COMMAND_MAX).split(b"\0")
        return [os.fsdecode(word) for word in words], os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return [], ""


def _darwin(pid: int) -> str:
    words = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    try:
        ended = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=PS_S, check=False, env={}
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ended.stdout.decode("utf-8", "replace").strip()


def make_carrier() -> QwenCarrier:
    """The carrier of this process."""
    pid = find_client().pid
    return QwenCarrier(find_file(pid), lambda: time.time_ns() // 1_000_000, keeps=keeps_lines(pid))
