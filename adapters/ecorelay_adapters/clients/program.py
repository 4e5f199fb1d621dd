"""The words that start this very ecorelay from anywhere, and other people's programs run to their end.

An assistant started from a desktop has another ``PATH`` than a terminal, so all it is configured with names
the program absolutely.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RUN_S: Final = 120.0
"""How long an assistant's own command may take."""


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
        lines = [line.strip() for line in f"{self.out}\n{self.err}".splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"it ended with {self.code} and said nothing"


def run(words: Sequence[str], environ: Mapping[str, str]) -> Ran:
    """Run a program to its end, without a terminal.

    Raises:
        RelayError: it cannot be started (``unexpected``) or does not end (``timeout``).
    """
    try:
        ended = subprocess.run(
            words,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=RUN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RelayError("timeout", f"`{shlex.join(words)}` did not end within {RUN_S:.0f} s") from None
    except OSError as error:
        raise RelayError("unexpected", f"cannot run {words[0]}: {error.strerror or error}") from error
    return Ran(
        code=ended.returncode,
        out=ended.stdout.decode("utf-8", "replace"),
        err=ended.stderr.decode("utf-8", "replace"),
    )
