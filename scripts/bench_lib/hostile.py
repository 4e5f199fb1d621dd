"""Bystanders: how two well-behaved sessions fare, and how the hub grows, while others attack it.

Compared is not with the yardstick but with the same hub left alone, measured in turn: the ratio of both is
what an attack costs those who have nothing to do with it. An attacker is a process of its own and runs
with the lowest priority, so that what is measured is the hub's fairness, not the scheduler's.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from scripts.bench_lib import loads, procfs
from scripts.bench_lib.hubs import EcorelayKind, Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from scripts.bench_lib.catalogue import Scope, Sides

    Attack = Callable[[Hub], AbstractContextManager[None]]

TEXT = 500_000
WAITING = 200
"""Texts of that size that wait for one reader: 100 MB."""
SILENT = 500
FLOOD = """
import os, socket, sys, threading
os.nice(19)
where, hello, data = sys.argv[1], *(open(path, "rb").read() for path in sys.argv[2:])
data = memoryview(data)
def read(sock):
    try:
        while sock.recv(1 << 20): pass
    except OSError: pass
print("begins", flush=True)
while True:
    sock, said = socket.socket(socket.AF_UNIX), 0
    try:
        sock.connect(where)
        sock.sendall(hello)
        if data:
            threading.Thread(target=read, args=(sock,), daemon=True).start()
        while data:
            said += sock.send(data[said % len(data):])
    except OSError: pass
    sock.close()
"""
_PONG = b'{"type":"pong"}\n'
_NESTED = b'{"a":' + b"{}," * 1_500 + b"\n"
GARBAGE = (
    b"nonsense\n" * 5_000
    + (b"nonsense\n" * 50 + _PONG) * 500
    + (_NESTED * 12 + _PONG) * 20
    + random.Random(1).randbytes(500_000)
)
REQUESTS = b"".join(
    b'{"type":"%s","req_id":%d}\n' % (kind, number)
    for number in range(2_500)
    for kind in (b"peers", b"rooms", b"inbox", b"hub_status")
)


@contextmanager
def slow_reader(hub: Hub) -> Iterator[None]:
    """One session has 100 MB waiting, asks for all of it in huge pages, and reads nothing."""
    name = next(hub.names())
    with hub.driver() as driver:
        stalled = driver.connect(name)
        driver.ignore(stalled)
        sender = driver.connect(next(hub.names()))
        encode = driver.dialect.sender(name, TEXT)
        for number in range(WAITING):
            sender.write(encode(number))
            sender.sent += 1
            driver.pump_until(lambda: sender.sent - sender.acked < 8)
        driver.pump_until(lambda: sender.acked == sender.sent)
        stalled.write(b"".join([driver.dialect.page(number, 100) for number in range(100)]))
        yield


@contextmanager
def silent_connections(hub: Hub) -> Iterator[None]:
    """Many connections that say nothing; those of them that the hub closes are not replaced."""
    with ExitStack() as stack:
        for _ in range(SILENT):
            stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)).connect(hub.path)
        yield


def flood(data: bytes) -> Attack:
    """One process says `data` again and again as fast as it can, and comes back where it is closed.

    Without data it says hello and goes, again and again.
    """

    @contextmanager
    def attack(hub: Hub) -> Iterator[None]:
        files = {"hello": hub.kind.dialect.hello(next(hub.names()), push=False), "data": data}
        for name, content in files.items():
            (hub.home / name).write_bytes(content)
        command = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            FLOOD,
            hub.path,
            *[str(hub.home / name) for name in files],
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                if process.stdout is not None:
                    process.stdout.readline()
                yield
            finally:
                process.kill()

    return attack


def bystanders(attack: Attack) -> Callable[[Scope], AbstractContextManager[Sides]]:
    """How long their messages take under `attack`, and alone."""

    @contextmanager
    def special(scope: Scope) -> Iterator[Sides]:
        if not scope.ours:
            yield None, None
            return
        alone = loads.latency(full=False)
        kind = EcorelayKind(scope.wrapper, limits={"mailbox_bytes": 2 * TEXT * WAITING})
        with Hub(kind, scope.place) as hub:
            alone(hub, scope.seconds)  # the first messages are slower
            before = procfs.memory_mb(hub.pid)[0]

            def attacked() -> dict[str, float]:
                procfs.forget_peak(hub.pid)
                with attack(hub):
                    found = alone(hub, scope.seconds)
                return found | {"grown": procfs.peak_mb(hub.pid) - before}

            yield attacked, lambda: alone(hub, scope.seconds)

    return special
