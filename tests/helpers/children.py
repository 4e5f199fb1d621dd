"""Programs run as a person or an assistant runs them, with nothing of the test run inside."""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 120
HELLO: Sequence[dict[str, Any]] = (
    {"method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}}},
    {"method": "tools/list"},
)
"""What an assistant asks first."""


@dataclass(frozen=True)
class Ended:
    """What a child left behind."""

    stdout: str
    stderr: str
    answers: Sequence[dict[str, Any]] = ()


def unmeasured(**settings: str) -> dict[str, str]:
    """The environment for a child without coverage in it: that would import half of the library.

    Nor does the child get settings of the person who runs the tests.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COVERAGE_", "ECORELAY_", "RELAY_"))
    }
    return kept | settings


def run(*command: str | Path, cwd: Path, asking: Sequence[dict[str, Any]] = (), **settings: str) -> Ended:
    """Run `command` to its end, which must be a good one.

    Args:
        command: the program and its arguments.
        cwd: its working directory.
        asking: MCP requests written to its stdin, without `jsonrpc` and `id`. Once each has its
            answer, stdin is closed.
        settings: variables for its environment; see `unmeasured`.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as talk:
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=talk,
            text=True,
            encoding="utf-8",
            cwd=cwd,
            env=unmeasured(**settings),
        )
        # Also where a readline waits for an answer that never comes.
        too_late = threading.Timer(PATIENCE_S, child.kill)
        too_late.start()
        with child:
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                for number, message in enumerate(asking):
                    child.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, **message}) + "\n")
                child.stdin.flush()
                lines = [child.stdout.readline() for _ in asking]
                stdout, _ = child.communicate()
            finally:
                too_late.cancel()
                child.kill()
        talk.seek(0)
        stderr = talk.read()
    assert child.returncode == 0, stdout + stderr
    answers = sorted((json.loads(line) for line in lines), key=lambda answer: answer["id"])
    return Ended("".join(lines) + stdout, stderr, answers)
