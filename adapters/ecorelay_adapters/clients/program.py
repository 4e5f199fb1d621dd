"""The words that start this very ecorelay from anywhere, and other people's programs run to their end.

An assistant started from a desktop has another ``PATH`` than a terminal, so all it is configured with names
the program absolutely.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ecorelay.errors import RelayError
from ecorelay_adapters.clients.assistant import Client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RUN_S: Final = 120.0
"""How long an assistant's own command may take."""
VERSION_S: Final = 10.0
"""How long a program may take to tell its version."""
SETTLED_S: Final = 2.0
"""For so long its file must have been left alone, or what it said is not kept: file times are coarse."""
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?")
"""What moves a terminal's cursor, colours or names things there."""


def own_program(executable: str = sys.executable) -> tuple[str, ...]:
    """The absolute words that start this installation.

    Args:
        executable: of the Python that runs it. Links are not followed: what they lead to is another Python,
            without us.

    Raises:
        RelayError: this Python does not know its own path.
    """
    if not os.path.isabs(executable):
        raise RelayError("unexpected", "this Python does not know its own path: run `ecorelay` by its path")
    beside = os.path.join(os.path.dirname(executable), "ecorelay.exe" if os.name == "nt" else "ecorelay")
    if os.path.isfile(beside) and os.access(beside, os.X_OK):
        return (beside,)
    # -P: nothing in the working directory may stand in for a module.
    return (executable, "-P", "-m", "ecorelay")


def shell_command(words: Sequence[str], variables: Mapping[str, str]) -> str:
    """`words` as one line for a shell, with `variables` set for them."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    return " ".join([*settings, shlex.join(words)])


class Ran(Struct, frozen=True, kw_only=True):
    """What a program left behind."""

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """What it said of a failure, in one line."""
        plain = _ESCAPES.sub("", f"{self.out}\n{self.err}")
        lines = [line.strip() for line in plain.splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"it ended with {self.code} and said nothing"


_versions: Final[dict[tuple[object, ...], Ran | RelayError]] = {}


def ask_version(path: str, environ: Mapping[str, str]) -> Ran:
    """What the program at `path` says to ``--version``. Asked again it is not run again, unless it changed.

    Raises:
        RelayError: as for `run`.
    """
    key: tuple[object, ...] | None = None
    with suppress(OSError):
        found = os.stat(path)
        if abs(time.time() - found.st_mtime) > SETTLED_S:
            key = (path, found.st_ino, found.st_size, found.st_mtime_ns, frozenset(environ.items()))
    said = _versions.get(key) if key is not None else None
    if said is None:
        try:
            said = run([path, "--version"], environ, within_s=VERSION_S)
        except RelayError as error:
            said = error
        if key is not None:
            _versions[key] = said
    if isinstance(said, RelayError):
        raise RelayError(said.code, said.message)
    return said


def look_at(path: str, environ: Mapping[str, str]) -> Client:
    """Which version the program at `path` is, or why it cannot be used."""
    try:
        ran = ask_version(path, environ)
    except RelayError as error:
        return Client(path=path, problem=error.message)
    match = re.search(r"\d+(\.\d+)+", ran.out)
    if ran.code != 0 or match is None:
        return Client(path=path, problem=f"{path} does not tell its version: {ran.last_words}")
    return Client(path=path, version=match[0])


def run(words: Sequence[str], environ: Mapping[str, str], *, within_s: float = RUN_S) -> Ran:
    """Run a program to its end, without a terminal.

    Args:
        words: the program and its arguments.
        environ: all of its environment.
        within_s: seconds after which it is killed.

    Raises:
        RelayError: it cannot be started (``unexpected``) or does not end (``timeout``).
    """
    try:
        ended = subprocess.run(
            words,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RelayError("timeout", f"`{shlex.join(words)}` did not end within {within_s:.0f} s") from None
    except OSError as error:
        raise RelayError("unexpected", f"cannot run {words[0]}: {error.strerror or error}") from error
    return Ran(
        code=ended.returncode,
        out=ended.stdout.decode("utf-8", "replace"),
        err=ended.stderr.decode("utf-8", "replace"),
    )
