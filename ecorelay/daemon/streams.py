"""A socket as a Trio stream, with one door more: sending at once, without a task and without waiting."""

from __future__ import annotations

import operator
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_SIZE = 64 * 1024
"""Bytes asked of a socket at once."""


@runtime_checkable
class SendsNow(Protocol):
    """What a stream may offer beside `trio.abc.Stream`; the out queue uses it where it is there."""

    def send_now(self, data: bytes | memoryview) -> int:
        """Hand over what fits without waiting.

        Returns:
            How many bytes were taken, perhaps 0.

        Raises:
            OSError: the connection is broken.
        """
        ...


class SocketStream(trio.abc.HalfCloseableStream):
    """A connected stream socket, Unix or TCP.

    `trio.SocketStream` tries, then waits, then tries again, and passes through the scheduler in each
    case. Here a read waits first (a hub nearly always has to), which saves a system call.

    Args:
        sock: connected; this object owns it from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.lingers = sock.family in (socket.AF_INET, socket.AF_INET6)
        """Whether closing may destroy what was sent and not yet read by the other side."""
        self._sending = False
        self._ended = False

    def send_now(self, data: bytes | memoryview) -> int:
        """See `SendsNow`."""
        try:
            return self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; see `trio.abc.SendStream`."""
        with self._as_only_sender(), memoryview(data) as view:
            await trio.lowlevel.checkpoint()
            self._check_open(sending=True)
            sent = 0
            while sent < len(view):
                try:
                    sent += self.send_now(view[sent:])
                except OSError as error:
                    raise self._broken(error) from error
                if sent < len(view):
                    await trio.lowlevel.wait_writable(self.socket)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        with self._as_only_sender():
            await trio.lowlevel.checkpoint()
            self._check_open(sending=True)
            await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """Close the sending half; see `trio.abc.HalfCloseableStream`."""
        with self._as_only_sender():
            await trio.lowlevel.checkpoint()
            self._check_open()
            self._ended = True
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise self._broken(error) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes; see `trio.abc.ReceiveStream`."""
        max_bytes = READ_SIZE if max_bytes is None else operator.index(max_bytes)
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        self._check_open()
        while True:
            await trio.lowlevel.wait_readable(self.socket)
            try:
                return self.socket.recv(max_bytes)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                raise self._broken(error) from error

    async def aclose(self) -> None:
        """Close both halves; see `trio.abc.AsyncResource`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The same, without a checkpoint."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    @contextmanager
    def _as_only_sender(self) -> Iterator[None]:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            yield
        finally:
            self._sending = False

    def _check_open(self, *, sending: bool = False) -> None:
        if self.socket.fileno() < 0 or (sending and self._ended):
            raise trio.ClosedResourceError("this stream was closed")

    def _broken(self, error: OSError) -> Exception:
        if self.socket.fileno() < 0:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError(f"socket connection broken: {error}")
