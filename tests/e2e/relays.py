"""A relay server as a process that a test starts, kills and stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

from tests.e2e.sites import free_port
from tests.e2e.stage import PATIENCE_S, POLL_S

TOKEN = "token-of-the-relay-that-nobody-guesses-0123456789"


class Relay:
    """One relay server.

    Args:
        root: a directory of its own.
        settings: fields of its configuration, besides port and secret.
    """

    def __init__(self, root: Path, **settings: Any) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._config = root / "relay-config.json"
        self._config.write_text(
            json.dumps({"port": self.port, "secret": TOKEN, "bind": "127.0.0.1", **settings})
        )
        self._config.chmod(0o600)

    def entry(self, port: int = 0, **more: Any) -> dict[str, Any]:
        """It in a bridge.json; `port`: of something in front of it."""
        return {"url": f"ws://127.0.0.1:{port or self.port}", "token": TOKEN, **more}

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._launch()
        assert self.process is not None
        with trio.fail_after(PATIENCE_S):
            while not await self._answers():
                assert self.process.poll() is None, (self.root / "relay.out").read_text()
                await trio.sleep(POLL_S)

    def _launch(self) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ECORELAY_")}
        with open(self.root / "relay.out", "ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ecorelay", "relay-server", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environ,
            )

    async def _answers(self) -> bool:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            return False
        await stream.aclose()
        return True

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it, without a word by default."""
        assert self.process is not None
        self.process.send_signal(number)
        with trio.fail_after(PATIENCE_S):
            while self.process.poll() is None:  # noqa: ASYNC110 - it is another process
                await trio.sleep(POLL_S)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
