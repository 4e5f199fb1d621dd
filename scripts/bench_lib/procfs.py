"""What the kernel says about a process: memory and processor time. Linux only."""

from __future__ import annotations

import os
import time
from pathlib import Path


def available() -> bool:
    """Whether this system has what is read here."""
    return Path("/proc/self/smaps_rollup").exists()


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Processor time so far, of the main thread and of all others, in seconds; of ended ones as well.

    Exact to nanoseconds where the kernel counts so, else to its clock tick; zero without /proc.
    """
    try:
        main = _main_seconds(Path(f"/proc/{pid}/task/{pid}"))
        # The clock of a process, as clock_getcpuclockid(3) numbers it on Linux.
        return main, max(0.0, time.clock_gettime((~pid << 3) | 2) - main)
    except OSError:  # it ended, or this is no Linux
        return 0.0, 0.0


def _main_seconds(task: Path) -> float:
    if (exact := task / "schedstat").exists():
        return int(exact.read_text().split()[0]) / 1e9
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional set size, in MB of 1,000,000 bytes."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, _, value = line.partition(":")
        found[key] = int(value.split()[0]) * 1024 / 1e6
    return found["Rss"], found["Pss"]


def forget_peak(pid: int) -> None:
    """Let `peak_mb` begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pid: int) -> float:
    """The most that was resident since `forget_peak`, in MB of 1,000,000 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
