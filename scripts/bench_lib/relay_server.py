"""The relay server by itself: what idle hubs cost it, what it moves between two, how soon it takes hubs.

Hubs here are the least that is one: a plain socket, a hello, frames made by hand. They take little time of
the processor, so that what is measured is the server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ecorelay import relay_wire
from scripts.bench_lib import procfs
from scripts.bench_lib.driver import BenchError
from scripts.bench_lib.footprint import SETTLE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.bench_lib.hubs import Place

READY_S = 30.0
STOP_S = 10.0
MASK = bytes(4)
"""A mask of zeros is one, and costs us nothing; the server cannot know, and works as for any."""
IMPORTS = (
    "import hmac, json, ssl, trio, msgspec, wsproto.handshake;"
    "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey"
)
"""What it cannot do without."""


class RelayServer:
    """A running relay server.

    Resource handling: `stop` ends the process; use it as a context manager.
    """

    def __init__(self, place: Place) -> None:
        home = place.new_home()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.token = secrets.token_hex(16)
        path = home / "relay-config.json"
        path.write_text(json.dumps({"port": self.port, "secret": self.token, "max_hubs": 2_000}))
        path.chmod(0o600)
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ecorelay", "relay-server", str(path)],
            cwd=home,
            env=place.environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._await_port()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> RelayServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _await_port(self) -> None:
        while time.perf_counter() < self.began + READY_S and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(0.002)
            else:
                return
        raise BenchError("the relay server did not start")


class Reachable(Protocol):
    """A relay server that runs."""

    @property
    def port(self) -> int:
        """Where, on this machine."""
        ...

    @property
    def token(self) -> str:
        """What lets hubs in."""
        ...


class RelayHub:
    """The least that is a hub at a relay server."""

    def __init__(self, server: Reachable, hub_id: str) -> None:
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        self.address = hashlib.sha256(public).digest()
        self.sock = socket.create_connection(("127.0.0.1", server.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox = bytearray()
        wanted = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall(
            f"GET / HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {wanted}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.inbox:
            self.read()
        del self.inbox[: self.inbox.index(b"\r\n\r\n") + 4]
        nonce = json.loads(self.message())["nonce"]
        fields = {
            "version": 1,
            "hub_id": hub_id,
            "public": public.hex(),
            "nonce": secrets.token_hex(32),
            "url": "ws://relay",
            "proof": "0" * 64,
            "signature": "0" * 128,
        }
        said = relay_wire.statement(nonce, relay_wire.RelayHello(**fields))  # type: ignore[arg-type]
        fields["proof"] = relay_wire.proof_of(server.token, said)
        fields["signature"] = key.sign(relay_wire.to_sign(said)).hex()
        hello = relay_wire.RelayHello(**fields)  # type: ignore[arg-type]
        self.sock.sendall(frame(relay_wire.encode(hello).encode(), text=True))
        while not json.loads(self.message()).get("complete"):
            pass

    def read(self) -> None:
        """Wait for bytes."""
        data = self.sock.recv(256 * 1024)
        if not data:
            raise BenchError("the relay server closed a connection")
        self.inbox += data

    def message(self) -> bytes:
        """The next one."""
        while True:
            found = self.next()
            if found is not None:
                return found
            self.read()

    def next(self) -> bytes | None:
        """The next message that is there in whole; pings are answered."""
        while len(self.inbox) >= 2:
            size, at = self.inbox[1], 2
            if size >= 126:
                wide = 2 if size == 126 else 8
                size, at = int.from_bytes(self.inbox[2 : 2 + wide], "big"), 2 + wide
            if len(self.inbox) < at + size:
                return None
            kind, payload = self.inbox[0] & 15, bytes(self.inbox[at : at + size])
            del self.inbox[: at + size]
            if kind in (1, 2):
                return payload
            if kind == 9:
                self.sock.sendall(bytes((0x8A, 0x80 | size)) + MASK + payload)
        return None


def frame(payload: bytes, *, text: bool = False) -> bytes:
    """A client's frame."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 1 << 16:
        length = bytes((0xFE,)) + size.to_bytes(2, "big")
    else:
        length = bytes((0xFF,)) + size.to_bytes(8, "big")
    return bytes((0x81 if text else 0x82,)) + length + MASK + payload


def start(place: Place) -> dict[str, float]:
    """From the start of the process until it takes connections."""
    with RelayServer(place) as server:
        return {"ms": (time.perf_counter() - server.began) * 1e3}


def bare_imports(place: Place) -> dict[str, float]:
    """An interpreter that imports what the server cannot do without."""
    home = place.new_home()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", IMPORTS], cwd=home, env=place.environment(home), check=True)
    return {"ms": (time.perf_counter() - began) * 1e3}


def idle(place: Place, hubs: int, seconds: float) -> dict[str, float]:
    """So many hubs that say nothing: memory, and processor time over `seconds` (pings included)."""
    with RelayServer(place) as server:
        pid = server.process.pid
        found = {"rss_0": procfs.memory_mb(pid)[0]}
        began = time.perf_counter()
        with selectors.DefaultSelector() as selector:
            connected = []
            for number in range(hubs):
                connected.append(RelayHub(server, f"hub-{number}"))
                selector.register(connected[-1].sock, selectors.EVENT_READ, connected[-1])
                if number % 50 == 49:
                    _pump(selector, 0.0)
            found["joined_s"] = time.perf_counter() - began
            _pump(selector, SETTLE_S * 4)
            found["rss"] = procfs.memory_mb(pid)[0]
            before, began = sum(procfs.cpu_seconds(pid)), time.perf_counter()
            _pump(selector, seconds)
            found["cpu"] = (sum(procfs.cpu_seconds(pid)) - before) / (time.perf_counter() - began) * 100
            for each in connected:
                each.sock.close()
    return found


def _pump(selector: selectors.BaseSelector, seconds: float) -> None:
    end = time.perf_counter() + seconds
    while True:
        for key, _ in selector.select(max(0.0, end - time.perf_counter())):
            key.data.read()
            while key.data.next() is not None:
                pass
        if time.perf_counter() >= end:
            return


def switched(place: Place, seconds: float, size: int) -> dict[str, float]:
    """One hub sends pieces of `size` bytes to another, within its credit: MB and messages a second."""
    with RelayServer(place) as server:
        return switch(server, seconds, size)


def switch(
    server: RelayServer, seconds: float, size: int, settle: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """The same at a server that runs. `settle` is called once both are there: others hear of them."""
    sender, to = RelayHub(server, "sender"), RelayHub(server, "to")
    settle()
    stream = os.urandom(8)
    sender.sock.sendall(frame(relay_wire.piece(relay_wire.OPEN, to.address, stream)))
    piece = frame(relay_wire.piece(relay_wire.DATA, to.address, stream, os.urandom(size)))
    window = relay_wire.CREDIT // size
    granted = got = sent = 0
    pid = server.process.pid
    sender.sock.setblocking(False)
    out = b""
    before, began = sum(procfs.cpu_seconds(pid)), time.perf_counter()
    with selectors.DefaultSelector() as selector:
        selector.register(sender.sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        selector.register(to.sock, selectors.EVENT_READ)
        while time.perf_counter() < began + seconds:
            if not out:
                count = min(window, max(1, 65_536 // size), window + granted - sent)
                out, sent = piece * count, sent + count
            writing = selectors.EVENT_WRITE if out else 0
            selector.modify(sender.sock, selectors.EVENT_READ | writing)
            for key, events in selector.select(1.0):
                if key.fileobj is to.sock:
                    to.read()
                    new = 0
                    while (message := to.next()) is not None:
                        new += message[0] == relay_wire.DATA
                    got += new
                    if new:
                        more = (new * size).to_bytes(4, "big")
                        credit = relay_wire.piece(relay_wire.CREDIT_MORE, sender.address, stream, more)
                        to.sock.sendall(frame(credit))
                    continue
                if events & selectors.EVENT_READ:
                    sender.read()
                    while (message := sender.next()) is not None:
                        if message[0] == relay_wire.CREDIT_MORE:
                            granted += int.from_bytes(message[relay_wire.HEADER :], "big") // size
                if events & selectors.EVENT_WRITE and out:
                    out = out[sender.sock.send(out) :]
    elapsed = time.perf_counter() - began
    cpu = sum(procfs.cpu_seconds(pid)) - before
    sender.sock.close()
    to.sock.close()
    return {
        "mb": got * size / elapsed / 1e6,
        "rate": got / elapsed,
        "cpu_us": cpu / max(got, 1) * 1e6,
    }
