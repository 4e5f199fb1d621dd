"""Hub processes to measure: the product and the yardstick, each with a data directory of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from scripts.bench_lib import dialects, procfs
from scripts.bench_lib.driver import BenchError, Driver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
READY_S = 20.0
STOP_S = 10.0
POLL_S = 0.001

Durability = Literal["power", "process"]
_SYNCHRONOUS = {"power": "FULL", "process": "NORMAL"}

# The guards are against agents that talk too much; a load is one.
_CONFIG = """\
durability = "{durability}"
keep_alive = true
[limits]
sends_per_minute = 0
broadcasts_per_hour = 0
"""


class Place:
    """Where a run of the benchmark keeps its things.

    Args:
        directory: on the disk to measure.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pycache = directory / "pycache"

    def new_home(self) -> Path:
        """A new, empty directory, short enough for a socket."""
        return Path(tempfile.mkdtemp(dir=self.directory, prefix="h"))

    def environment(self, home: Path) -> dict[str, str]:
        """For children: nothing of the user's settings, this checkout's packages, and a bytecode cache."""
        foreign = ("ECORELAY_", "RELAY_", "PYTHONDONTWRITEBYTECODE")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        rooms = [ROOT, ROOT / "bridge", ROOT / "relay_server", ROOT / "adapters"]
        return kept | {
            "ECORELAY_HOME": str(home),
            "PYTHONPATH": os.pathsep.join(map(str, rooms)),
            "PYTHONPYCACHEPREFIX": str(self.pycache),
        }


class Kind(Protocol):
    """A program that is a hub."""

    dialect: dialects.Dialect

    def command(self, home: Path, durability: Durability) -> list[str]:
        """Prepare `home`, and say what to start."""
        ...

    def environment(self, home: Path) -> dict[str, str]:
        """What it wants besides."""
        ...

    def adapter(self) -> list[str]:
        """What an assistant starts to speak MCP with; empty where there is no such thing."""
        ...

    def socket(self, home: Path) -> str | None:
        """Where the hub of that directory listens, once it does: a path, or a port."""
        ...


class YardstickKind:
    """See `scripts.bench_lib.yardstick`.

    Args:
        own_store: with ecorelay's own store under it.
    """

    def __init__(self, *, own_store: bool = False) -> None:
        self._own_store = own_store
        self.dialect: dialects.Dialect = dialects.Yardstick()

    def command(self, home: Path, durability: Durability) -> list[str]:
        script = str(ROOT / "scripts" / "bench.py")
        files = ["--socket", str(home / "hub.sock"), "--db", str(home / "hub.db")]
        safety = ["--synchronous", _SYNCHRONOUS[durability]]
        store = ["--own-store"] if self._own_store else []
        return [sys.executable, "-P", script, "yardstick", *files, *safety, *store]

    def environment(self, home: Path) -> dict[str, str]:
        return {}

    def adapter(self) -> list[str]:
        return []

    def socket(self, home: Path) -> str | None:
        path = home / "hub.sock"
        return str(path) if path.exists() else None


class EcorelayKind:
    """The product, started in the foreground.

    Args:
        wrapper: words between the interpreter and the module, for a profiler.
        limits: settings of `ecorelay.limits` besides the guards, which are off.
    """

    def __init__(self, wrapper: tuple[str, ...] = (), limits: Mapping[str, int] | None = None) -> None:
        self.dialect: dialects.Dialect = dialects.Ecorelay()
        self._wrapper = wrapper
        self._limits = limits or {}

    def command(self, home: Path, durability: Durability) -> list[str]:
        lines = [f"{name} = {value}\n" for name, value in self._limits.items()]
        (home / "config.toml").write_text(_CONFIG.format(durability=durability) + "".join(lines))
        return [sys.executable, "-P", *self._wrapper, "-m", "ecorelay", "hub", "run"]

    def environment(self, home: Path) -> dict[str, str]:
        return {}

    def adapter(self) -> list[str]:
        return [sys.executable, "-P", "-m", "ecorelay", "mcp"]

    def socket(self, home: Path) -> str | None:
        try:
            endpoint = json.loads((home / "hub.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return str(endpoint["path"])


class Hub:
    """A running hub.

    Resource handling: `stop` ends the process; use it as a context manager.
    """

    def __init__(
        self, kind: Kind, place: Place, durability: Durability = "power", home: Path | None = None
    ) -> None:
        self.kind = kind
        self.home = place.new_home() if home is None else home
        self.named = 0
        """How many names were given out. Of one that is started again: to be set on."""
        command = kind.command(self.home, durability)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            cwd=self.home,
            env=place.environment(self.home) | kind.environment(self.home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        try:
            self.path = self._await_socket()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def driver(self, beside: Driver | None = None) -> Driver:
        """A new driver for this hub; `beside`: see `Driver`."""
        return Driver(self.path, self.kind.dialect, beside)

    def names(self) -> Iterator[str]:
        """Names never used before at this hub."""
        while True:
            self.named += 1
            yield f"peer-{self.named}"

    def cpu_s(self) -> tuple[float, float]:
        """Seconds of processor time used so far, by the event loop and by all other threads."""
        return procfs.cpu_seconds(self.pid)

    def stop(self) -> None:
        """End the process, gently if it listens to that."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._errors.close()

    def _await_socket(self) -> str:
        while time.perf_counter() < self.began + READY_S:
            path = self.kind.socket(self.home)
            if path is not None:
                return path
            if self.process.poll() is not None:
                break
            time.sleep(POLL_S)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        raise BenchError(f"the {self.kind.dialect.name} hub did not start: {said[-2000:]}")
