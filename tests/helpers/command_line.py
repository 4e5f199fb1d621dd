"""The command line as a person types it: a process for each command, against a hub of the test's own."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecorelay.endpoint import read_endpoint
from ecorelay.paths import Paths

PATIENCE_S = 60
ID = "01j5zk3m8v9w2x4y6z7abcdefg"
AT_A_HUB = [
    "peers",
    "peers add bob",
    "peers forget bob",
    "send bob hello",
    "inbox",
    f"reply {ID} hello",
    "broadcast hello",
    "rooms",
    "groups",
    "groups create team bob",
    "groups info team",
    "groups history team",
    "groups send team hello",
    "groups invite team bob",
    "groups remove team bob",
    "groups leave team",
    "groups delete team",
    "groups forget team@desk",
    f"trace {ID}",
    "block",
    "block bob",
    "purge --older 30d --yes",
    "backup copy.db",
    "hub forget desk --yes",
]
"""Every command that asks a hub, and starts one where none runs."""


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its stdout, which must be one JSON object on one line."""
        assert self.out.count("\n") == 1, self.out
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


class CommandLine:
    """Call it with the words after ``ecorelay``.

    Args:
        home: the data directory.
        settings: variables for the environment of every command.
    """

    def __init__(self, home: Path, **settings: str) -> None:
        self.paths = Paths(home)
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ECORELAY_", "RELAY_")) and name != "NO_COLOR"
        }
        self.environ |= {"ECORELAY_HOME": str(home), "USER": "ada", **settings}

    def __call__(
        self, *words: str | bytes, stdin: bytes = b"", code: int | None = 0, **settings: str
    ) -> Said:
        """Run one command to its end; its exit code must be `code`, unless that is None."""
        ended = subprocess.run(
            self._command(words),
            input=stdin,
            capture_output=True,
            env=self.environ | settings,
            timeout=PATIENCE_S,
            check=False,
        )
        said = Said(ended.returncode, ended.stdout.decode(), ended.stderr.decode())
        assert "Traceback" not in said.err, said.err
        assert code is None or said.code == code, said
        return said

    def start(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start one command; `more` goes to Popen. The caller ends it."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self._command(words), env=self.environ, **{**pipes, **more})

    def _command(self, words: tuple[str | bytes, ...]) -> list[str | bytes]:
        return [sys.executable, "-m", "ecorelay", *words]

    def end_hub(self) -> None:
        """End the hub of this data directory, if one runs."""
        endpoint = read_endpoint(self.paths.endpoint)
        if endpoint is not None:
            with suppress(ProcessLookupError):
                os.kill(endpoint.pid, signal.SIGTERM)


def run_here(home: Path, monkeypatch: Any, capsys: Any, *words: str, **settings: str) -> Said:
    """Run one command in this process, through the same door; for what needs no process of its own.

    Whatever `settings` there are go into the environment, besides those of :class:`CommandLine`.
    """
    from ecorelay.cli.main import main

    environ = CommandLine(home, **settings).environ
    for name in os.environ.keys() - environ.keys():
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["ecorelay", *words])
    capsys.readouterr()
    try:
        code = main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    printed = capsys.readouterr()
    return Said(code, printed.out, printed.err)
