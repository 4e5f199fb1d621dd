"""hub.json: where the running hub listens, written by the hub and read by whoever wants to reach it.

The file says where to try, not that a hub lives: only an answered connection proves that. A hub that
was killed leaves it behind, and the next hub replaces it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ecorelay.errors import RelayError
from ecorelay.paths import write_private

if TYPE_CHECKING:
    from pathlib import Path

SIZE_MAX = 64 * 1024
"""Bytes read of a hub.json; a true one has a few hundred."""


class Endpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One running hub. Keys unknown to this version are ignored."""

    pid: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    pid_start: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """When that process began, in the unit of `ecorelay.process`; 0: unknown."""
    version: str
    """The hub's ecorelay version."""
    protocol: tuple[int, int]
    """Oldest and newest protocol version it speaks."""
    hub_id: str
    transport: Literal["unix", "tcp"]
    path: Annotated[str, Meta(pattern=r"\A[^\x00]*\Z")] = ""
    """Of the socket, for ``unix``."""
    host: str = ""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """A loopback address, for ``tcp``."""
    token: str = ""
    """What both sides prove to know before hello, for ``tcp``: 64 hexadecimal digits."""
    kept: bool = False
    """Whether it was told to stay (`hub start`, a service, ``keep_alive``): then only a person ends it."""
    started_at: int
    """Milliseconds since 1970 UTC."""


_decoder = msgspec.json.Decoder(Endpoint)


def write_endpoint(path: Path, endpoint: Endpoint) -> None:
    """Put `endpoint` at `path` (`Paths.endpoint`), mode 0600, whole or not at all.

    Not synced to disk: after a power failure no hub runs, and a half-written file reads as none.

    Raises:
        OSError: it could not be written.
    """
    write_private(path, msgspec.json.encode(endpoint) + b"\n")


def read_endpoint(path: Path) -> Endpoint | None:
    """What is at `path`; None where there is nothing, or nothing that makes sense.

    Raises:
        RelayError: ``bad_args``, somebody else's file lies there; following it would hand our mail over.
        OSError: it is there and cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if sys.platform != "win32" and os.fstat(handle).st_uid != os.geteuid():
            raise RelayError("bad_args", f"{path} belongs to another user: run as its owner, or remove it")
        data = os.read(handle, SIZE_MAX)
    except IsADirectoryError:
        return None
    finally:
        os.close(handle)
    try:
        endpoint = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    complete = endpoint.path if endpoint.transport == "unix" else (endpoint.port and endpoint.token)
    return endpoint if complete else None


def remove_endpoint(path: Path, pid: int) -> None:
    """Take hub.json away if it is the one process `pid` wrote; another hub's stays.

    Raises:
        OSError: it cannot be removed.
    """
    endpoint = read_endpoint(path)
    if endpoint is not None and endpoint.pid == pid:
        path.unlink(missing_ok=True)
