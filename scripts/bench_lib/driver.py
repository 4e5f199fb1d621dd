"""The driver's side of many connections: one thread, no event loop of anybody's, batches throughout.

It shares the machine's cores with the hub it measures, so it does as little as it can for a message.
"""

from __future__ import annotations

import selectors
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.bench_lib.dialects import Dialect, Incoming

READ_SIZE = 256 * 1024
PATIENCE_S = 20.0
"""Seconds without what is waited for, after which a measurement is given up."""


class BenchError(Exception):
    """A measurement did not work out."""


class Connection:
    """One connection to a hub, after hello."""

    __slots__ = ("_driver", "_frames", "_out", "acked", "dialect", "got", "name", "sent", "sock")

    def __init__(self, driver: Driver, sock: socket.socket, name: str) -> None:
        self._driver = driver
        self.sock = sock
        self.name = name
        self.dialect = driver.dialect
        self._frames = self.dialect.reader()
        self._out = b""
        self.sent = 0
        """Requests written."""
        self.acked = 0
        """Of them, answered as stored."""
        self.got = 0
        """Pushes received."""

    def write(self, data: bytes) -> None:
        """Send now what the socket takes, and the rest when it does."""
        if self._out:
            self._out += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._out = data[sent:]
            self._driver.watch(self, writing=True)

    def write_more(self) -> None:
        """The socket takes more."""
        data, self._out = self._out, b""
        self.write(data)
        if not self._out:
            self._driver.watch(self, writing=False)

    def read(self) -> list[Incoming]:
        """The frames of one read."""
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return []
        if not data:
            raise BenchError(f"the hub closed the connection of {self.name}")
        return self._frames(data)

    def heard(self, frame: Incoming) -> None:
        """Neither an acceptance nor a push came."""
        if frame.type in self.dialect.refused:
            raise BenchError(f"{self.dialect.name} said {frame.type} to {self.name}: {frame.message}")
        if frame.type == "ping":
            self.write(self.dialect.pong(frame))
        else:
            self._driver.answers.append(frame)


class Driver:
    """Many connections to one hub.

    Resource handling: `close` closes all of them; use it as a context manager.

    Args:
        path: of the hub's socket, or a port of this machine.
        dialect: of that hub.
        beside: a driver of another hub: whichever of both pumps, pumps for both.
    """

    def __init__(self, path: str, dialect: Dialect, beside: Driver | None = None) -> None:
        self.path = path
        self.dialect = dialect
        self.answers: list[Incoming] = []
        """Frames that are neither an acceptance nor a push, of all connections."""
        self._owns_selector = beside is None
        self._selector: selectors.BaseSelector = (
            selectors.DefaultSelector() if beside is None else beside._selector
        )
        self.connections: list[Connection] = []
        """Those that are open."""

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self, name: str, *, push: bool = True) -> Connection:
        """Connect, say hello, and wait until welcome."""
        if self.path.isdecimal():
            sock = socket.create_connection(("127.0.0.1", int(self.path)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(self.path)
        sock.setblocking(False)
        connection = Connection(self, sock, name)
        self._selector.register(sock, selectors.EVENT_READ, connection)
        self.connections.append(connection)
        connection.write(self.dialect.hello(name, push=push))
        self.answer(self.dialect.welcome)
        return connection

    def watch(self, connection: Connection, *, writing: bool) -> None:
        """Whether to wait until the socket takes more."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        self._selector.modify(connection.sock, events, connection)

    def ignore(self, connection: Connection) -> None:
        """Read nothing more from it."""
        self._selector.unregister(connection.sock)

    def pump(self, timeout: float = PATIENCE_S) -> None:
        """Wait for something, and take all in that is there: count it, acknowledge pushes."""
        for key, events in self._selector.select(timeout):
            connection: Connection = key.data
            dialect = connection.dialect
            accepted, pushes = dialect.accepted, dialect.pushes
            if events & selectors.EVENT_WRITE:
                connection.write_more()
            if not events & selectors.EVENT_READ:
                continue
            pushed: list[str] = []
            for frame in connection.read():
                if frame.type in pushes:
                    pushed.append(frame.msg_id)
                elif frame.type in accepted:
                    connection.acked += 1
                else:
                    connection.heard(frame)
            if pushed:
                connection.got += len(pushed)
                if took := dialect.took(pushed):
                    connection.write(took)

    def pump_until(self, done: Callable[[], bool]) -> None:
        """Pump until `done`."""
        give_up = time.perf_counter() + PATIENCE_S
        while not done():
            self.pump(1.0)
            if time.perf_counter() > give_up:
                raise BenchError(f"{self.dialect.name}: nothing came for {PATIENCE_S:.0f} s")

    def answer(self, kind: str) -> Incoming:
        """The next answer, which must be of this type."""
        self.pump_until(lambda: bool(self.answers))
        frame = self.answers.pop(0)
        if frame.type != kind:
            raise BenchError(f"{self.dialect.name} answered {frame.type} instead of {kind}")
        return frame

    def disconnect(self, *connections: Connection) -> None:
        """Close these, and wait until the hub did so too."""
        for connection in connections:
            connection.sock.shutdown(socket.SHUT_WR)
        for connection in connections:
            connection.sock.settimeout(PATIENCE_S)
            while connection.sock.recv(READ_SIZE):
                pass
            self._selector.unregister(connection.sock)
            connection.sock.close()
            self.connections.remove(connection)

    def close(self) -> None:
        """Close everything without much ado."""
        for connection in self.connections:
            if not self._owns_selector:
                self._selector.unregister(connection.sock)
            connection.sock.close()
        self.connections.clear()
        if self._owns_selector:
            self._selector.close()
