"""Hubs that wear a relay server out, and how two others fare meanwhile.

As in `hostile`, what is compared is the same server left alone, and attackers have the lowest priority.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ecorelay import relay_wire
from scripts.bench_lib import procfs
from scripts.bench_lib.relay_server import RelayHub, RelayServer, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.bench_lib.hubs import Place

FLOODERS = 3
SILENT = 2_000


@dataclass(frozen=True)
class Where:
    """A relay server that runs."""

    port: int
    token: str


def bystanders(place: Place, seconds: float, kind: str) -> dict[str, float]:
    """Two hubs send 200 bytes to and fro: half the time each way takes, and how the server grew.

    Args:
        place: for files.
        seconds: how long.
        kind: ``junk``: frames of a dead stream; ``deaf``: as much as goes for a hub that reads nothing;
            ``silent``: connections without a hello; "" nothing.
    """
    with RelayServer(place) as server, ExitStack() as stack:
        one, other = RelayHub(server, "one"), RelayHub(server, "other")
        stack.callback(one.sock.close)
        stack.callback(other.sock.close)
        stream = connect(one, other)
        before = procfs.memory_mb(server.process.pid)[0]
        procfs.forget_peak(server.process.pid)
        if kind:
            stack.enter_context(_attack(server, kind))
        found = to_and_fro(one, other, stream, seconds)
        found["grown"] = procfs.peak_mb(server.process.pid) - before
    return found


def connect(one: RelayHub, other: RelayHub) -> bytes:
    """A stream from one to the other."""
    stream = os.urandom(8)
    one.sock.sendall(frame(relay_wire.piece(relay_wire.OPEN, other.address, stream)))
    return stream


def to_and_fro(one: RelayHub, other: RelayHub, stream: bytes, seconds: float) -> dict[str, float]:
    """200 bytes there and back, again and again: half the time of each round."""
    there = frame(relay_wire.piece(relay_wire.DATA, other.address, stream, bytes(200)))
    back = frame(relay_wire.piece(relay_wire.DATA, one.address, stream, bytes(200)))
    granted = (200).to_bytes(4, "big")
    credit = frame(relay_wire.piece(relay_wire.CREDIT_MORE, one.address, stream, granted))
    credit_back = frame(relay_wire.piece(relay_wire.CREDIT_MORE, other.address, stream, granted))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        one.sock.sendall(there)
        _await_data(other)
        other.sock.sendall(credit + back)
        _await_data(one)
        one.sock.sendall(credit_back)
        times.append((time.perf_counter() - began) / 2)
    times.sort()
    return {"p50": times[len(times) // 2] * 1e3, "p99": times[len(times) * 99 // 100] * 1e3}


def _await_data(hub: RelayHub) -> None:
    while hub.message()[:1] != bytes((relay_wire.DATA,)):
        pass


@contextmanager
def _attack(server: RelayServer, kind: str) -> Iterator[None]:
    command = [sys.executable, "-m", "scripts.bench_lib.relay_attack", str(server.port), server.token, kind]
    count = 1 if kind == "silent" else FLOODERS
    attackers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for each in attackers:
            if each.stdout is not None:
                each.stdout.readline()
        yield
    finally:
        for each in attackers:
            each.kill()
            each.wait()
            if each.stdout is not None:
                each.stdout.close()


def _junk(where: Where) -> None:
    hub, to = RelayHub(where, "junk"), RelayHub(where, "nobody")
    wire = frame(relay_wire.piece(relay_wire.DATA, to.address, bytes(8), b"x")) * 500
    print("begins", flush=True)
    while True:
        hub.sock.sendall(wire)


def _deaf(where: Where) -> None:
    deaf, hub = RelayHub(where, "deaf"), RelayHub(where, "talker")
    pieces = relay_wire.CREDIT // relay_wire.PIECE_MAX + 1
    payload = bytes(relay_wire.PIECE_MAX)
    print("begins", flush=True)
    hub.sock.setblocking(True)
    while True:
        stream = os.urandom(8)
        wire = frame(relay_wire.piece(relay_wire.OPEN, deaf.address, stream))
        wire += frame(relay_wire.piece(relay_wire.DATA, deaf.address, stream, payload)) * pieces
        hub.sock.sendall(wire)


def _silent(where: Where) -> None:
    import socket

    connections = []
    print("begins", flush=True)
    while True:
        connections.append(socket.create_connection(("127.0.0.1", where.port)))
        if len(connections) > SILENT:
            connections.pop(0).close()


def main(arguments: list[str]) -> None:
    """Attack until killed: port, token, kind."""
    os.nice(19)
    port, token, kind = arguments
    {"junk": _junk, "deaf": _deaf, "silent": _silent}[kind](Where(int(port), token))


if __name__ == "__main__":
    main(sys.argv[1:])
