"""Runs of the simulator in a process of their own: what takes part in a run is not slowed down by being
measured, and a seed is the same there as it is for who replays it by hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PER_FILE = 100
"""Seeds of one test file: pytest's workers take whole files."""


def simulate(*options: str, seconds: float = 170.0) -> str:
    """What ``python -m tests.sim`` says.

    Raises:
        AssertionError: a seed failed; with the shortest history.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def seeds(first: int, count: int = PER_FILE) -> None:
    """These seeds hold."""
    assert f"{count} seeds from {first}: 0 failed" in simulate("--seeds", str(count), "--from", str(first))
