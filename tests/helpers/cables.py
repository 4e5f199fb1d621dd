"""Networks of a test's own: a recording, delaying TCP proxy; and separate hosts, whose cable can be cut.

A host is a network namespace. What connects hosts is either a pair of virtual Ethernet devices or a `Switch`
in this process, which drops, delays and loses frames as it is told. Both need root and Linux; `why_not` says
what is missing.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache

import trio

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
FRAME_MAX = 65536
READ_SIZE = 64 * 1024


class Proxy:
    """A TCP proxy that keeps every byte, and may hold everything back; made by `proxied`.

    Args:
        host: where it forwards to.
        port: there.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.forwards_to = port
        self.port = 0
        self.seen = bytearray()
        """All bytes of all connections, both ways."""
        self.connections = 0
        self.hangs = False
        """What comes is kept back, and nobody is told."""
        self._moved = trio.Event()

    def hang(self, hangs: bool = True) -> None:
        self.hangs = hangs
        self._moved.set()
        self._moved = trio.Event()

    async def _serve(self, near: trio.SocketStream) -> None:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with near, await trio.open_tcp_stream(self.host, self.forwards_to) as far:
                self.connections += 1
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far, nursery.cancel_scope)
                    nursery.start_soon(self._pump, far, near, nursery.cancel_scope)

    async def _pump(self, from_: trio.SocketStream, to: trio.SocketStream, both: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await from_.receive_some(READ_SIZE):
                self.seen += data
                while self.hangs:
                    await self._moved.wait()
                await to.send_all(data)
        both.cancel()


@asynccontextmanager
async def proxied(port: int, host: str = "127.0.0.1") -> AsyncIterator[Proxy]:
    """A proxy in front of a port."""
    proxy = Proxy(host, port)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host)
        proxy.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, proxy._serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()


# --- separate hosts ---------------------------------------------------------------------------------------


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@cache
def why_not() -> str:
    """Why there can be no separate hosts here; empty: there can."""
    if sys.platform != "linux":
        return "separate hosts need Linux's network namespaces"
    if os.geteuid() != 0:
        return "separate hosts need root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "separate hosts need /dev/net/tun"
    name = f"er-try-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "del", name)
    except FileNotFoundError:
        return "separate hosts need the program ip"
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode(errors='replace').strip()}"
    return ""


class Host:
    """One network namespace with a device `eth0`.

    Args:
        number: among the hosts of this process; its address comes from it.
    """

    def __init__(self, number: int) -> None:
        self.name = f"er-{os.getpid()}-{number}"
        self.address = f"10.97.0.{number}"
        self.inside = ("ip", "netns", "exec", self.name)
        """Words before a command to run it there."""

    def plug(self) -> None:
        """The device is there: bring it up."""
        self.ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        self.up()

    def ip(self, *words: str) -> None:
        run("ip", "-n", self.name, *words)

    def down(self) -> None:
        """Pull the cable out of this host."""
        self.ip("link", "set", "eth0", "down")

    def up(self) -> None:
        self.ip("link", "set", "eth0", "up")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """That many hosts without a network; gone with whatever runs in them no later than the block."""
    made = [Host(number) for number in range(1, count + 1)]
    try:
        for host in made:
            run("ip", "netns", "add", host.name)
            host.ip("link", "set", "lo", "up")
        yield made
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)


def cable(one: Host, other: Host) -> None:
    """Connect two hosts directly."""
    run(
        *("ip", "link", "add", "eth0", "netns", one.name, "type", "veth"),
        *("peer", "name", "eth0", "netns", other.name),
    )
    one.plug()
    other.plug()


class Switch:
    """Connects hosts; what it does to frames is set here. Made by `switched`."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        """Of each frame."""
        self.loss = 0.0
        """Share of frames that get lost."""
        self.cut: set[str] = set()
        """Names of hosts from and to which nothing goes; they are not told."""
        self.frames = 0
        self.lost = 0
        self.random = random.Random(97)
        self._ports: dict[str, int] = {}

    def _open(self, host: Host) -> None:
        handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._ports[host.name] = handle
        name = f"er{os.getpid()}t{len(self._ports)}"
        fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP | IFF_NO_PI))
        run("ip", "link", "set", name, "netns", host.name, "name", "eth0")
        host.plug()

    async def _serve(self, host: str, nursery: trio.Nursery) -> None:
        handle = self._ports[host]
        while True:
            await trio.lowlevel.wait_readable(handle)
            with suppress(BlockingIOError):
                while True:
                    self._take(host, os.read(handle, FRAME_MAX), nursery)

    def _take(self, host: str, frame: bytes, nursery: trio.Nursery) -> None:
        self.frames += 1
        if self.loss and self.random.random() < self.loss:
            self.lost += 1
        elif self.delay_s:
            nursery.start_soon(self._later, host, frame, self.delay_s)
        else:
            self._forward(host, frame)

    async def _later(self, host: str, frame: bytes, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self._forward(host, frame)

    def _forward(self, host: str, frame: bytes) -> None:
        for name, handle in self._ports.items():
            if name != host and not {name, host} & self.cut:
                with suppress(OSError):  # its end is down
                    os.write(handle, frame)


@asynccontextmanager
async def switched(members: Sequence[Host]) -> AsyncIterator[Switch]:
    """Hosts on one switch."""
    switch = Switch()
    try:
        for host in members:
            switch._open(host)
        async with trio.open_nursery() as nursery:
            for host in members:
                nursery.start_soon(switch._serve, host.name, nursery)
            yield switch
            nursery.cancel_scope.cancel()
    finally:
        for handle in switch._ports.values():
            os.close(handle)
