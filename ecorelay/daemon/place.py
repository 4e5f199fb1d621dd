"""Where this hub can be found: its listening socket, and hub.json which leads to it."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from ecorelay import __version__, wire
from ecorelay.daemon.listen import HAS_UNIX, LOOPBACK, listen_loopback, listen_unix
from ecorelay.daemon.log import log
from ecorelay.endpoint import Endpoint, read_endpoint, remove_endpoint, write_endpoint
from ecorelay.errors import RelayError
from ecorelay.paths import choose_socket_path
from ecorelay.process import start_time

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import Path

    from ecorelay.config import Config
    from ecorelay.daemon.lock import HubLock
    from ecorelay.paths import Paths


class Place:
    """Listening from the moment it is made, found once it is announced.

    Resource handling: call :meth:`withdraw` while the lock is still held.

    Args:
        paths: of the data directory.
        config: `transport`, `hub_id` and `keep_alive` count.
        environ: may move the socket, see `ecorelay.paths.choose_socket_path`.
        lock: held. Without it nothing is ever removed here.

    Raises:
        RelayError: there is nowhere to listen.
    """

    def __init__(self, paths: Paths, config: Config, environ: Mapping[str, str], lock: HubLock) -> None:
        self._paths = paths
        self._environ = environ
        self._lock = lock
        self._socket_path: Path | None = None
        self._socket_stat: os.stat_result | None = None
        path, port, token = "", 0, ""
        if _wants_unix(config):
            self.sock: socket.socket = self._listen_unix()
            path = str(self._socket_path)
        else:
            self.sock = listen_loopback()
            port = self.sock.getsockname()[1]
            token = secrets.token_hex(32)
        self.endpoint = Endpoint(
            pid=os.getpid(),
            pid_start=start_time(os.getpid()),
            version=__version__,
            protocol=(wire.OLDEST_PROTOCOL_VERSION, wire.PROTOCOL_VERSION),
            hub_id=config.hub_id,
            transport="tcp" if token else "unix",
            path=path,
            host=LOOPBACK if token else "",
            port=port,
            token=token,
            kept=config.keep_alive,
            started_at=time.time_ns() // 1_000_000,
        )

    def __str__(self) -> str:
        """For a person."""
        where = self.endpoint.path or f"{self.endpoint.host}:{self.endpoint.port}"
        return f"{self.endpoint.hub_id} listens at {where} (pid {self.endpoint.pid})"

    def announce(self) -> None:
        """Write hub.json.

        Raises:
            RelayError: ``mailbox_error``, it cannot be written.
        """
        try:
            write_endpoint(self._paths.endpoint, self.endpoint)
        except OSError as error:
            raise RelayError(
                "mailbox_error", f"cannot write {self._paths.endpoint}: {error.strerror or error}"
            ) from error

    def lost(self) -> str:
        """Look whether clients still find us; put back hub.json, and listen again, if only these are gone.

        What cleans temporary directories removes sockets too. `sock` is then another one, and the one before,
        still open, the caller's to close.

        Returns:
            Why this hub cannot be found any more and has to make room for another; empty: all is well.
        """
        if not self._lock.still_ours():
            return f"{self._lock.path} was removed"
        if not self._socket_is_ours():
            gone = self._socket_path
            try:
                self.sock = self._listen_unix()
            except RelayError:
                return f"{gone} was removed"
            log("listening again", path=str(self._socket_path))
            self.endpoint = msgspec.structs.replace(self.endpoint, path=str(self._socket_path))
        if not self._is_announced():
            log("hub.json put back")
            with suppress(RelayError):
                self.announce()
        return ""

    def _is_announced(self) -> bool:
        try:
            return read_endpoint(self._paths.endpoint) == self.endpoint
        except (OSError, RelayError):
            return False

    def _listen_unix(self) -> socket.socket:
        self._socket_path = choose_socket_path(self._paths, self._environ)
        sock = listen_unix(self._socket_path)
        self._socket_stat = self._socket_path.stat()
        return sock

    def withdraw(self) -> None:
        """Listen no more; remove hub.json and the socket, unless they are another hub's by now."""
        # While the socket is open its inode is not given to another file, so this tells it apart.
        socket_is_ours = self._socket_is_ours()
        self.sock.close()
        if not self._lock.still_ours():
            return
        with suppress(OSError, RelayError):
            remove_endpoint(self._paths.endpoint, self.endpoint.pid)
        path = self._socket_path
        if path is not None and socket_is_ours:
            with suppress(OSError):
                path.unlink()
                if path.parent != self._paths.home:
                    path.parent.rmdir()  # made for this socket alone, see choose_socket_path

    def _socket_is_ours(self) -> bool:
        if self._socket_path is None or self._socket_stat is None:
            return True
        try:
            return os.path.samestat(self._socket_stat, self._socket_path.lstat())
        except OSError:
            return False


def _wants_unix(config: Config) -> bool:
    if config.transport == "unix" and not HAS_UNIX:
        raise RelayError("bad_args", "there are no Unix sockets here: set transport to auto or tcp")
    return config.transport == "unix" or (config.transport == "auto" and HAS_UNIX)
