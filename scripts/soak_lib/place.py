"""Where a soak lives: its hubs, the relay server between them, and the cables they are reached by."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from ecorelay.endpoint import read_endpoint
from ecorelay.paths import find_paths
from ecorelay.process import is_alive
from ecorelay.spawn import hub_connector
from scripts.soak_lib.cables import Cable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ecorelay.endpoint import Endpoint

ROOT = Path(__file__).resolve().parents[2]
READY_S = 60.0
POLL_S = 0.02
HUBS = ("ash", "birch", "cedar")
ON_DEMAND = "cedar"
"""This hub is started by whoever needs it, and leaves; the others are started by us, and stay."""
_DIRECT = {"ash": ("birch", "cedar"), "birch": ("ash",), "cedar": ()}
"""Whom a hub dials over TCP. All meet at the relay server too; birch and cedar nowhere else."""
_CONFIG = """\
keep_alive = {keep_alive}
[limits]
sends_per_minute = 0
broadcasts_per_hour = 0
mailbox_messages = {ring}
"""
_FOREIGN = ("ECORELAY_", "RELAY_", "CLAUDE", "COPILOT_AGENT")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment(home: Path) -> dict[str, str]:
    """For our processes: nothing of the user's settings, and this checkout's packages."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    rooms = [ROOT, ROOT / "bridge", ROOT / "relay_server", ROOT / "adapters"]
    return kept | {"ECORELAY_HOME": str(home), "PYTHONPATH": os.pathsep.join(map(str, rooms)), "USER": "soak"}


class Started:
    """A process of ours that faults may hit."""

    def __init__(self, name: str, out: Path, command: list[str], environ: dict[str, str]) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self._out = out
        self._command = command
        self._environ = environ

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last; 0: none was seen yet."""
        return self.process.pid if self.process else 0

    def runs(self) -> bool:
        """Whether it does."""
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Start it."""
        with open(self._out, "ab") as out:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self._environ
            )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.runs():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def gone(self) -> None:
        """Wait until the process has ended."""
        with trio.fail_after(READY_S):
            while self.runs():  # noqa: ASYNC110 - another process
                await trio.sleep(POLL_S)

    async def end(self) -> None:
        """End it in order."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with trio.move_on_after(10):
            await self.gone()
        if self.runs():
            self.signal(signal.SIGKILL)
            await self.gone()


class Hub(Started):
    """One hub and its data directory."""

    def __init__(self, hub_id: str, root: Path, ring: int) -> None:
        self.hub_id = hub_id
        self.home = root / "home"
        self.home.mkdir(parents=True, mode=0o700)
        self.on_demand = hub_id == ON_DEMAND
        self.environ = environment(self.home)
        self.paths = find_paths(self.environ)
        self.port = _free_port()
        self.config: dict[str, Any] = {}
        super().__init__(
            hub_id, root / "hub.out", [sys.executable, "-P", "-m", "ecorelay", "hub", "run"], self.environ
        )
        keep = "false" if self.on_demand else "true"
        (self.home / "config.toml").write_text(_CONFIG.format(keep_alive=keep, ring=ring))

    def connector(self) -> Callable[[], Awaitable[trio.abc.Stream]]:
        """How its peers reach it."""
        return hub_connector(self.paths, self.environ, spawn=self.on_demand)

    def observer(self) -> Callable[[], Awaitable[trio.abc.Stream]]:
        """How we look at it: without starting it."""
        return hub_connector(self.paths, self.environ, spawn=False)

    @property
    def endpoint(self) -> Endpoint | None:
        """Of the hub that says it runs."""
        with suppress(OSError, ValueError):
            return read_endpoint(self.paths.endpoint)
        return None

    @property
    def pid(self) -> int:
        """Of the process that says it is the hub; 0: none does."""
        endpoint = self.endpoint
        return endpoint.pid if endpoint else 0

    def runs(self) -> bool:
        """Whether a hub listens here."""
        if self.process is not None:
            self.process.poll()  # a child that ended would stay a zombie
        endpoint = self.endpoint
        return endpoint is not None and is_alive(endpoint.pid, endpoint.pid_start)

    async def ready(self) -> None:
        """Wait until it takes sessions; one on demand starts when it is needed."""
        with trio.fail_after(READY_S):
            while not self.on_demand and not self.runs():
                if self.process is not None and self.process.poll() is not None:
                    raise SystemExit(f"the hub {self.hub_id} did not start: {self._out.read_text()[-2000:]}")
                await trio.sleep(POLL_S)

    def write(self, **changes: Any) -> None:
        """Write bridge.json, whole or not at all, for it may be read at any time."""
        self.config |= changes
        beside = self.home / "bridge.json.new"
        beside.write_text(json.dumps(self.config, indent=2))
        beside.chmod(0o600)
        beside.replace(self.home / "bridge.json")


class Relay(Started):
    """The relay server."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True)
        self.port = _free_port()
        self.token = secrets.token_hex(16)
        path = root / "relay-config.json"
        path.write_text(json.dumps({"port": self.port, "secret": self.token, "bind": "127.0.0.1"}))
        path.chmod(0o600)
        command = [sys.executable, "-P", "-m", "ecorelay", "relay-server", str(path)]
        super().__init__("relay", root / "relay.out", command, environment(root))

    async def ready(self) -> None:
        """Wait until it takes connections."""
        with trio.fail_after(READY_S):
            while self.runs():
                with suppress(OSError):
                    await (await trio.open_tcp_stream("127.0.0.1", self.port)).aclose()
                    return
                await trio.sleep(POLL_S)


class Place:
    """All of them; the cables have to be laid before `configure`.

    Args:
        root: an empty directory, short enough for sockets.
        ring: messages in a mailbox, and lines in a group.
    """

    def __init__(self, root: Path, ring: int) -> None:
        self.root = root
        self.relay = Relay(root / "relay")
        self.hubs = {hub_id: Hub(hub_id, root / hub_id, ring) for hub_id in HUBS}
        self.direct = {
            (one, other): Cable(f"{one}-{other}", self.hubs[other].port, (one, other))
            for one, others in _DIRECT.items()
            for other in others
        }
        self.outward = {hub_id: Cable(f"{hub_id}-relay", self.relay.port, (hub_id,)) for hub_id in HUBS}

    @property
    def cables(self) -> list[Cable]:
        """All of them."""
        return [*self.direct.values(), *self.outward.values()]

    def configure(self) -> None:
        """Write every bridge.json."""
        secret = secrets.token_hex(16)
        for hub_id, hub in self.hubs.items():
            peers = [
                {"hub_id": other, "host": "127.0.0.1", "port": cable.port}
                for (one, other), cable in self.direct.items()
                if one == hub_id
            ]
            relay = {"url": f"ws://127.0.0.1:{self.outward[hub_id].port}", "token": self.relay.token}
            hub.write(
                hub_id=hub_id, bind="127.0.0.1", listen=hub.port, secret=secret, peers=peers, relay=relay
            )

    async def start(self) -> None:
        """Start the relay server and the hubs, but for the one that starts on demand."""
        started = [self.relay, *[hub for hub in self.hubs.values() if not hub.on_demand]]
        for each in started:
            each.launch()
        await self.relay.ready()
        for hub in self.hubs.values():
            await hub.ready()

    async def end(self) -> None:
        """End them all."""
        async with trio.open_nursery() as nursery:
            for each in (self.relay, *self.hubs.values()):
                nursery.start_soon(each.end)
