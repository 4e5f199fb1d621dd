"""Looks at processes from outside: memory, descriptors, processor time, unreaped children. Linux only."""

from __future__ import annotations

import json
import os
import resource
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts.bench_lib import procfs
from scripts.soak_lib import ledger as log

if TYPE_CHECKING:
    from collections.abc import Iterable

WARM_UP_S: Final = 60.0
"""Memory of a process grows while it gets going; a slope begins after that."""
SLOPE_S: Final = 240.0
"""A slope over less says nothing."""
ZOMBIE_S: Final = 15.0
"""A child that ended is to be reaped by then."""


class Life:
    """One process as it was seen: samples of (seconds since the soak began, MB resident, descriptors)."""

    def __init__(self, role: str, pid: int) -> None:
        self.role = role
        self.pid = pid
        self.samples: list[tuple[float, float, int]] = []

    @property
    def seconds(self) -> float:
        """From the first sample to the last."""
        return self.samples[-1][0] - self.samples[0][0] if self.samples else 0.0

    def settled(self) -> list[tuple[float, float, int]]:
        """Samples after it got going; none if too few are left for a slope."""
        late = [each for each in self.samples if each[0] >= self.samples[0][0] + WARM_UP_S]
        return late if late and late[-1][0] - late[0][0] >= SLOPE_S else []


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line nearest to these, per minute."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 60 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


class Watch:
    """Samples of all processes, also kept in a file.

    Args:
        path: where; a line of JSON for each sample.
    """

    def __init__(self, path: Path) -> None:
        self.lives: dict[tuple[str, int], Life] = {}
        self.zombies: dict[int, float] = {}
        """Pid: when it was first seen so."""
        self.reported: set[int] = set()
        self.began = log.now()
        self._file = open(path, "a")  # noqa: SIM115
        self._cpu: dict[int, float] = defaultdict(float)
        self._last_cpu = 0.0
        self._last_at = self.began

    def sample(self, processes: Iterable[tuple[str, int]]) -> list[int]:
        """Look at these, (role, pid); zombies among their children, found just now."""
        at = log.now() - self.began
        pids = {os.getpid()}
        for role, pid in processes:
            try:
                memory = procfs.memory_mb(pid)[0]
                handles = len(os.listdir(f"/proc/{pid}/fd"))
            except (OSError, KeyError):  # it ended just now
                continue
            pids.add(pid)
            life = self.lives.setdefault((role, pid), Life(role, pid))
            life.samples.append((at, memory, handles))
            self._cpu[pid] = sum(procfs.cpu_seconds(pid))
            row = {"at": round(at, 1), "role": role, "pid": pid, "mb": round(memory, 2), "fds": handles}
            self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        return self._find_zombies(pids)

    def load(self) -> float:
        """Processors used by all that was sampled and this process, since the last call."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = sum(self._cpu.values()) + used.ru_utime + used.ru_stime
        now = log.now()
        rate = (cpu - self._last_cpu) / max(now - self._last_at, 0.1)
        self._last_cpu, self._last_at = cpu, now
        return rate

    def _find_zombies(self, parents: set[int]) -> list[int]:
        now = log.now()
        seen = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and int(fields[1]) in parents:
                seen.add(int(path.parent.name))
        for pid in [*self.zombies]:
            if pid not in seen:
                del self.zombies[pid]
        new = []
        for pid in seen:
            since = self.zombies.setdefault(pid, now)
            if now - since > ZOMBIE_S and pid not in self.reported:
                self.reported.add(pid)
                new.append(pid)
        return new

    def close(self) -> None:
        """No more samples."""
        self._file.close()
