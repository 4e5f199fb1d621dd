"""Which user and process is at the other end of a Unix socket, by the kernel's word."""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple, Protocol

# Names the socket module lacks: <sys/un.h> of macOS, <sys/socket.h> of FreeBSD has the same shape.
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1
_LOCAL_PEERPID = 2


class PeerCred(NamedTuple):
    """`pid` 0: the kernel does not tell."""

    uid: int
    pid: int


class HasOptions(Protocol):
    """A socket, Trio's or Python's."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """See socket(7)."""


def peer_cred(sock: HasOptions) -> PeerCred | None:
    """The process that connected (or listens) at the other end; None where the system cannot tell.

    Raises:
        OSError: the socket is not connected.
    """
    if sys.platform == "linux":
        import socket

        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("3i", data)
        return PeerCred(uid, pid)
    if sys.platform == "darwin":
        # struct xucred: version, uid, then groups.
        data = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)
        _, uid = struct.unpack_from("2I", data)
        (pid,) = struct.unpack("i", sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4))
        return PeerCred(uid, pid)
    return None
