"""Standard input and output as a wire: what belongs to the process rather than to the protocol.

Importing this starts nothing. :func:`take` gives the two descriptors to the wire for good: file
descriptor 1 then means stderr and 0 means nothing, so that neither a stray ``print`` nor a child
process can write into the protocol or eat its input. (Where stderr leads: `ecorelay_adapters.log`.)
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CHUNK: Final = 64 * 1024
ORPHAN_CHECK: Final = 2.0
"""Seconds between two looks at whether the parent process still lives."""
ENDING_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)


class Wire:
    """Two byte streams, and what may be known about them; a plain pair knows nothing.

    Args:
        stdin: what the client writes.
        stdout: what the client reads.
    """

    def __init__(self, stdin: trio.abc.ReceiveStream, stdout: trio.abc.SendStream) -> None:
        self.stdin = stdin
        self.stdout = stdout

    def pending(self) -> bool:
        """Whether input lies unread (or ended) that a read would return at once."""
        return False

    def untaken(self) -> int:
        """Bytes of our output the client has not read yet; 0 where the system does not tell."""
        return 0

    def orphaned(self) -> bool:
        """Whether the process that started this one is gone."""
        return False


class ProcessWire(Wire):
    """The wire of this process; `private` descriptors, owned by it."""

    def __init__(self, stdin_fd: int, stdout_fd: int) -> None:
        super().__init__(_reader(stdin_fd), _writer(stdout_fd))
        self._parent = os.getppid()
        self._stdin_fd = stdin_fd
        self._count_untaken = _untaken_counter(stdout_fd)

    def pending(self) -> bool:
        """As above; Windows does not tell."""
        if not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self._stdin_fd, select.POLLIN)
        return bool(poll.poll(0))

    def untaken(self) -> int:
        """As above; Linux tells."""
        return self._count_untaken()

    def orphaned(self) -> bool:
        """As above: a dead parent is replaced by init or another. Windows keeps the dead one's number."""
        return sys.platform != "win32" and os.getppid() != self._parent


def take() -> ProcessWire:
    """Make stdin and stdout of this process the wire. Call it once, before anything may print."""
    if sys.__stdin__ is None or sys.__stdout__ is None:
        # Started with a closed descriptor, whose number something else may have taken by now: this
        # client can never talk to us. Reading nothing ends the server at once.
        nowhere = os.open(os.devnull, os.O_RDWR)
        return ProcessWire(nowhere, os.dup(nowhere))
    stdin_fd, stdout_fd = _duplicate(0), _duplicate(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing if sys.__stderr__ is None else 2, 1)
    os.close(nothing)
    return ProcessWire(stdin_fd, stdout_fd)


@asynccontextmanager
async def until_told_to_end(wire: Wire) -> AsyncIterator[None]:
    """Run the body until it is done, a signal asks this process to end, or its parent is gone.

    The body is then cancelled and may clean up: further signals meanwhile change nothing, so that a
    client that sends two in a row gets a clean exit. Main thread only.
    """
    with trio.open_signal_receiver(*ENDING_SIGNALS) as signals:
        async with trio.open_nursery() as watchers:
            with trio.CancelScope() as body:
                watchers.start_soon(_end_at_signals, signals, body)
                watchers.start_soon(_end_when_orphaned, wire, body)
                yield
            watchers.cancel_scope.cancel()


async def _end_at_signals(signals: AsyncIterator[int], body: trio.CancelScope) -> None:
    async for _ in signals:
        body.cancel()


async def _end_when_orphaned(wire: Wire, body: trio.CancelScope) -> None:
    # Somebody else, a child of the parent perhaps, may hold our stdin open for ever.
    while True:
        await trio.sleep(ORPHAN_CHECK)
        if wire.orphaned():
            body.cancel()


def _duplicate(fd: int) -> int:
    if sys.platform == "win32":
        return os.dup(fd)
    import fcntl

    # Above the standard descriptors even where one of them is closed, and not for children.
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _pollable(fd: int) -> bool:
    # Only what is ours alone may be made non-blocking. A terminal is not: its one open file is also
    # stderr's, and the shell's. A regular file cannot be waited for at all.
    mode = os.fstat(fd).st_mode
    return sys.platform != "win32" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))


def _reader(fd: int) -> trio.abc.ReceiveStream:
    return trio.lowlevel.FdStream(fd) if _pollable(fd) else _ThreadReader(fd)


def _writer(fd: int) -> trio.abc.SendStream:
    return trio.lowlevel.FdStream(fd) if _pollable(fd) else _ThreadWriter(fd)


def _untaken_counter(fd: int) -> Callable[[], int]:
    mode = os.fstat(fd).st_mode
    if sys.platform != "linux" or not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return lambda: 0
    import fcntl
    import termios

    # Of a pipe Linux tells the exact number, of a socket the memory its unread messages take: more
    # than the bytes, and 0 when all is read.
    request = termios.FIONREAD if stat.S_ISFIFO(mode) else termios.TIOCOUTQ

    def count() -> int:
        try:
            return int.from_bytes(fcntl.ioctl(fd, request, bytes(4)), sys.byteorder)
        except OSError:
            return 0

    return count


class _ThreadReader(trio.abc.ReceiveStream):
    """Reads what cannot be waited for. A read that blocks is left behind with its thread at the end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await trio.to_thread.run_sync(
                os.read, self._fd, max_bytes or CHUNK, abandon_on_cancel=True
            )
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        # Never closed: a thread may still be waiting on this number, which must not mean another file.
        await trio.lowlevel.checkpoint()


class _ThreadWriter(trio.abc.SendStream):
    """Writes to what cannot be waited for."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        try:
            while rest:
                sent = await trio.to_thread.run_sync(os.write, self._fd, rest, abandon_on_cancel=True)
                rest = rest[sent:]
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
