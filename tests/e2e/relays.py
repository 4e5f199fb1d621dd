"""A relay server as a process that a test starts, kills and stops."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
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


class Tunnel:
    """What tunnels of the internet do to bytes: they take their time, and now and then stop for a while.

    Args:
        port: where it leads to.
        delay_s: how long everything is on its way, each way.
        stall_s: how long a stall takes.
        stalls: how likely a piece meets one.
    """

    def __init__(self, port: int, *, delay_s: float, stall_s: float, stalls: float) -> None:
        self.port = 0
        self.stalled = 0
        self._to = port
        self._delay_s = delay_s
        self._stall_s = stall_s
        self._stalls = stalls
        self._random = random.Random(6)

    async def serve(self, near: trio.SocketStream) -> None:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with near, await trio.open_tcp_stream("127.0.0.1", self._to) as far:
                async with trio.open_nursery() as nursery:
                    for one, other in ((near, far), (far, near)):
                        send, receive = trio.open_memory_channel[tuple[float, bytes]](256)
                        nursery.start_soon(self._take, one, send)
                        nursery.start_soon(self._give, other, receive, nursery.cancel_scope)

    async def _take(self, from_: trio.SocketStream, to: trio.MemorySendChannel[tuple[float, bytes]]) -> None:
        async with to:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await from_.receive_some(16 * 1024):
                    await to.send((trio.current_time() + self._delay_s, bytes(data)))

    async def _give(
        self,
        to: trio.SocketStream,
        from_: trio.MemoryReceiveChannel[tuple[float, bytes]],
        both: trio.CancelScope,
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for when, data in from_:
                await trio.sleep_until(when)
                if self._random.random() < self._stalls:
                    self.stalled += 1
                    await trio.sleep(self._stall_s)
                await to.send_all(data)
        both.cancel()


@asynccontextmanager
async def tunnel(
    port: int, *, delay_s: float = 0.1, stall_s: float = 1.0, stalls: float = 0.01
) -> AsyncIterator[Tunnel]:
    """A tunnel to a port, until the end of the block."""
    made = Tunnel(port, delay_s=delay_s, stall_s=stall_s, stalls=stalls)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, made.serve, 0)
        made.port = listeners[0].socket.getsockname()[1]
        yield made
        nursery.cancel_scope.cancel()


class Line(Tunnel):
    """A line on which only so much comes down in a second; what goes up is as quick as ever."""

    def __init__(self, port: int, bytes_per_s: float) -> None:
        super().__init__(port, delay_s=0.0, stall_s=0.0, stalls=0.0)
        self._bytes_per_s = bytes_per_s

    async def serve(self, near: trio.SocketStream) -> None:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            # Small buffers: what waits is to wait at the server, as it does before a real line.
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
            async with near, await trio.open_tcp_stream("127.0.0.1", self._to) as far:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass, near, far, 0.0, nursery.cancel_scope)
                    nursery.start_soon(self._pass, far, near, self._bytes_per_s, nursery.cancel_scope)

    async def _pass(
        self, one: trio.SocketStream, other: trio.SocketStream, rate: float, both: trio.CancelScope
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await one.receive_some(16 * 1024):
                await other.send_all(data)
                if rate:
                    await trio.sleep(len(data) / rate)
        both.cancel()


@asynccontextmanager
async def throttled(port: int, *, bytes_per_s: float) -> AsyncIterator[Line]:
    """A slow line to a port, until the end of the block."""
    made = Line(port, bytes_per_s)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, made.serve, 0)
        made.port = listeners[0].socket.getsockname()[1]
        yield made
        nursery.cancel_scope.cancel()
