"""What tests of faults share: limits on a hub that runs, a clock that can be set, a disk of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from tests.e2e.stage import Machine, until

CLOCKED_HUB = """
import sys, time
real = time.time_ns
def shifted():
    try:
        with open(sys.argv[1]) as file:
            return real() + int(file.read() or 0) * 1_000_000_000
    except FileNotFoundError:
        return real()
time.time_ns = shifted
time.time = lambda: shifted() / 1e9
from ecorelay.daemon.main import main
sys.exit(main([]))
"""


@contextmanager
def limited(pid: int, name: str, soft: int) -> Iterator[None]:
    """A limit of resources on a process that runs, by the name of the resource."""
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("no limit can be set on another process here")
    number = getattr(resource, name)
    before = resource.prlimit(pid, number)
    resource.prlimit(pid, number, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, number, before)


def cpu_ticks(pid: int) -> int:
    """Processor time it has used, in the system's ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@asynccontextmanager
async def clocked_hub(machine: Machine, clock: Path) -> AsyncIterator[None]:
    """A hub whose wall clock is as many seconds off as `clock` says."""
    machine.home.mkdir(mode=0o700, exist_ok=True)
    with open(machine.root / "clocked-hub", "wb") as said:
        hub = await trio.lowlevel.open_process(
            [sys.executable, "-c", CLOCKED_HUB, str(clock)], env=machine.environ, stdout=said, stderr=said
        )
    try:
        await until(lambda: machine.endpoint is not None, "the hub listens")
        assert machine.hub_pid == hub.pid
        yield
    finally:
        hub.terminate()
        with trio.CancelScope(shield=True), trio.fail_after(30):
            await hub.wait()


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[None]:
    """A file system of its own at `directory`."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a file system, and this one is Linux's")
    directory.mkdir(mode=0o700, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", directory],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def resize(directory: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", directory], check=True)
