"""The hub's door: a Unix socket of ours, or a loopback port, and taking connections from it."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING

import trio

from ecorelay.daemon.log import log, warn
from ecorelay.daemon.reasons import Reason
from ecorelay.daemon.streams import SocketStream
from ecorelay.errors import RelayError
from ecorelay.home import HOME_VARIABLE
from ecorelay.peercred import peer_cred

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ecorelay.daemon.reasons import Tally

BACKLOG = 1024
"""Connections the kernel keeps until they are taken: all sessions of a machine may return in one moment."""
FULL_SLEEP_S = 0.1
"""Pause when the system has no room for another connection, as in `trio.serve_listeners`."""
WARN_EVERY_S = 60.0
LOOPBACK = "127.0.0.1"

HAS_UNIX = hasattr(socket, "AF_UNIX") and sys.platform != "win32"


def listen_unix(path: Path) -> socket.socket:
    """Listen at `path`, mode 0600. What lies there is removed: call it only under the hub's lock.

    Raises:
        RelayError: ``mailbox_error``, it cannot be done there (some file systems know no sockets);
            ``bad_args``, something that is no socket lies there.
    """
    try:
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(os.fspath(path))
            # Between bind and here the umask of the hub and the mode of the directory keep others out.
            path.chmod(0o600)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise RelayError(
            "mailbox_error",
            f"cannot listen at {path}: {error.strerror or error}; make that directory writable, or "
            f"name another with {HOME_VARIABLE}",
        ) from error
    return sock


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise RelayError("bad_args", f"{path} is in the way and is no socket: move it away")
    path.unlink()


def listen_loopback() -> socket.socket:
    """Listen at a free port of this machine's loopback address.

    Raises:
        RelayError: ``mailbox_error``, it cannot be done.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if sys.platform == "win32":
            # There another process could otherwise listen at the same port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        sock.bind((LOOPBACK, 0))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise RelayError("mailbox_error", f"cannot listen on loopback: {error.strerror or error}") from error
    return sock


class Door:
    """Takes connections from a listening socket.

    Resource handling: call :meth:`close`.

    Args:
        sock: listening and non-blocking; owned by this object.
        serve: serves one connection, see `Sessions.serve`; closes its stream.
        tally: counts who was turned away here.
    """

    def __init__(
        self,
        sock: socket.socket,
        serve: Callable[[trio.abc.Stream, int | None], Awaitable[None]],
        tally: Tally,
    ) -> None:
        self._socket = sock
        self._serve = serve
        self._tally = tally
        self._warned = -WARN_EVERY_S

    async def run(self, nursery: trio.Nursery) -> None:
        """Take connections until closed; each is served by a task in `nursery`."""
        while self._socket.fileno() >= 0:
            try:
                # One for each turn of the loop: to serve it, and to see it go, costs others far more than
                # to take it.
                await trio.lowlevel.wait_readable(self._socket)
                self._take_one(nursery)
            except (BlockingIOError, trio.ClosedResourceError):
                pass
            except ConnectionAbortedError:
                pass  # gone before it was taken
            except OSError as error:
                # Out of descriptors or memory, above all: nothing is lost, the kernel keeps who waits.
                self._warn(error)
                await trio.sleep(FULL_SLEEP_S)

    def move(self, sock: socket.socket) -> None:
        """Take connections from `sock` from now on, which becomes this object's."""
        if sock is not self._socket:
            old, self._socket = self._socket, sock
            trio.lowlevel.notify_closing(old)
            old.close()

    def close(self) -> None:
        """Listen no more; who waited to be taken is cut off."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _take_one(self, nursery: trio.Nursery) -> None:
        sock, _ = self._socket.accept()
        try:
            pid = self._check(sock)
        except PermissionError:
            self._tally.count(f"closed {Reason.FOREIGN_USER}")
            sock.close()
            return
        except OSError:
            sock.close()  # gone already
            return
        nursery.start_soon(self._serve, SocketStream(sock), pid)

    def _check(self, sock: socket.socket) -> int | None:
        """The process at the other end, see `Sessions.serve`.

        Raises:
            PermissionError: it belongs to another user.
        """
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return None
        cred = peer_cred(sock)
        if cred is None:
            return None
        if cred.uid != os.geteuid():
            log("connection of another user refused", uid=cred.uid)
            raise PermissionError
        return cred.pid

    def _warn(self, error: OSError) -> None:
        now = trio.current_time()
        if now - self._warned >= WARN_EVERY_S:
            self._warned = now
            warn("cannot take a connection", error=errno.errorcode.get(error.errno or 0, ""))
        self._tally.count("accept_failed")
