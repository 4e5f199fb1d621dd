"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import trio


def facts(directory: Path) -> dict[str, object]:
    """The machine, the programs, and the disk under `directory`."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "trio": trio.__version__,
        "msgspec": msgspec.__version__,
        "file_system": _file_system(directory),
        "fsync_ms": round(_fsync_ms(directory), 3),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(directory: Path) -> str:
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    parts = directory.resolve().parts
    under = [mount for mount in mounts if Path(mount[1]).parts == parts[: len(Path(mount[1]).parts)]]
    return max(under, key=lambda mount: len(mount[1]))[2]


def _fsync_ms(directory: Path) -> float:
    """What it takes to get 8 KiB appended to a file onto the disk: below 0.1 ms no real disk is asked."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(50):
            file.write(bytes(8192))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3
