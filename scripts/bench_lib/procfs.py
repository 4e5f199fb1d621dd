"""What the kernel says about a process: memory and processor time. Linux only."""

from __future__ import annotations

import os
from pathlib import Path


def available() -> bool:
    """Whether this system has what is read here."""
    return Path("/proc/self/smaps_rollup").exists()


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads so far, in seconds; nanoseconds exact where the kernel counts so."""
    try:
        tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        if tasks:
            return sum(int(task.split()[0]) for task in tasks) / 1e9
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional set size, in MB of 1,000,000 bytes."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, _, value = line.partition(":")
        found[key] = int(value.split()[0]) * 1024 / 1e6
    return found["Rss"], found["Pss"]
