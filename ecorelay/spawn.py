"""How a process reaches the hub of a data directory, and starts one where there is none.

Many may find none in the same moment. Whoever gets ``start.lock`` looks again, starts the hub and waits for
its word; the others wait and connect. The hub's own lock stands behind this one, so at worst a hub that was
started beside another says so and ends.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ecorelay import __version__
from ecorelay.endpoint import Endpoint, read_endpoint
from ecorelay.errors import RelayError, WireError
from ecorelay.file_lock import locked
from ecorelay.framing import LineSplitter
from ecorelay.launch import start_hub
from ecorelay.names import new_id
from ecorelay.paths import make_private_dir
from ecorelay.peercred import peer_cred
from ecorelay.upgrade import Upgrade, drain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ecorelay.paths import Paths

PROOF_S: Final = 5.0
"""How long the proof over loopback TCP may take."""
ENSURE_S: Final = 13.0
"""How long reaching a hub may take, the start of one included."""
LOOK_AGAIN_S: Final = 0.1
"""Longest pause of those who wait for another process's start."""
VANISHED_MAX: Final = 3
"""Hubs that got ready and were gone at once, after which no other one is started."""
HELD: Final = "already_registered"
"""The code of a hub that refuses because another holds the lock: that one comes, or is just leaving."""

_upgrade: Final = Upgrade()
"""This process's."""


class NoHub(Exception):
    """No hub listens; `reason` says how that was seen, and what to do."""


async def connect_hub(paths: Paths) -> trio.abc.Stream:
    """A stream to the running hub, which has proved to be ours.

    Raises:
        NoHub: none runs, or none that can be reached.
        RelayError: ``bad_args``, what listens there is somebody else's.
    """
    try:
        endpoint = read_endpoint(paths.endpoint)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot read {paths.endpoint}: {error.strerror}") from error
    if endpoint is None:
        raise NoHub(f"no hub runs for {paths.home}: start one with `ecorelay hub start`")
    try:
        if endpoint.transport == "unix":
            return await _connect_unix(endpoint)
        return await _connect_tcp(endpoint)
    except (OSError, WireError, trio.BrokenResourceError, trio.TooSlowError) as error:
        raise NoHub(
            f"the hub of {paths.home} does not answer ({error}): start one with `ecorelay hub start`"
        ) from error


async def _connect_unix(endpoint: Endpoint) -> trio.abc.Stream:
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await sock.connect(endpoint.path)
        # A full queue of connections looks like success to a non-blocking connect.
        sock.getpeername()
        _refuse_other_user(sock, endpoint)
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


def _refuse_other_user(sock: trio.socket.SocketType, endpoint: Endpoint) -> None:
    # After a restart of the machine a path in the temporary directory may be another user's.
    if sys.platform != "win32":
        cred = peer_cred(sock)
        if cred is not None and cred.uid != os.geteuid():
            raise RelayError(
                "bad_args", f"user id {cred.uid} listens at {endpoint.path}: remove hub.json, then try again"
            )


async def _connect_tcp(endpoint: Endpoint) -> trio.abc.Stream:
    from ecorelay.loopback import prove_to_hub

    if endpoint.host not in ("127.0.0.1", "::1"):
        raise RelayError("bad_args", f"hub.json names {endpoint.host}, which is not this machine: remove it")
    family = trio.socket.AF_INET6 if ":" in endpoint.host else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await sock.connect((endpoint.host, endpoint.port))
        stream = trio.SocketStream(sock)
        with trio.fail_after(PROOF_S):
            await prove_to_hub(
                _line_receiver(stream),
                stream.send_all,
                token=endpoint.token,
                nonce=new_id(time.time_ns() // 1_000_000, secrets.randbits),
            )
        return stream
    except BaseException:
        sock.close()
        raise


def _line_receiver(stream: trio.abc.Stream) -> Callable[[], Awaitable[bytes]]:
    """Lines of a hub that says one and then waits: nothing can come after it that would be lost."""
    splitter = LineSplitter()

    async def receive_line() -> bytes:
        while data := await stream.receive_some():
            for line in splitter.feed(data):
                return line
        raise trio.BrokenResourceError("closed during the proof")

    return receive_line


async def ensure_hub(paths: Paths, environ: Mapping[str, str]) -> trio.abc.Stream:
    """A stream to the hub of this data directory, which is started if there is none.

    Args:
        paths: of the data directory; it is made if it does not exist.
        environ: of this process; the hub gets what it needs of it.

    Raises:
        RelayError: the hub refused to start, with its reason, or did not get ready in time.
    """
    refusal = None
    vanished = 0
    with trio.move_on_after(ENSURE_S):
        while True:
            if not _replaces(paths):
                try:
                    return await connect_hub(paths)
                except NoHub:
                    make_private_dir(paths.home)
            with locked(paths.start_lock) as ours:
                if ours:
                    await _make_room(paths)
                    try:
                        return await connect_hub(paths)  # started while we came here
                    except NoHub:
                        refusal = await start(paths, environ)
            if ours:
                try:
                    return await connect_hub(paths)
                except NoHub as error:
                    if refusal is None:  # it was ready and is gone: killed, or it cannot live here
                        vanished += 1
                        refusal = RelayError("hub_unreachable", str(error))
                if refusal.code != HELD and not 0 < vanished < VANISHED_MAX:
                    raise refusal
            await trio.sleep(LOOK_AGAIN_S * random.random())
    raise refusal or RelayError(
        "hub_unreachable", f"no hub got ready within {ENSURE_S:.0f} s: look into {paths.log}, or try again"
    )


def _replaces(paths: Paths) -> bool:
    """Whether the hub that runs is an older one, which has to go (see `ecorelay.upgrade`)."""
    try:
        return _upgrade.is_due(paths.home, read_endpoint(paths.endpoint))
    except (OSError, RelayError):
        return False  # whoever connects says what is wrong


async def _make_room(paths: Paths) -> None:
    """Let an older hub end, if one runs, so that ours can begin. The start lock is held."""
    if _replaces(paths) and (endpoint := read_endpoint(paths.endpoint)) is not None:
        _upgrade.note(paths.home)
        await drain(endpoint, partial(connect_hub, paths), f"upgrade to {__version__}")


async def start(paths: Paths, environ: Mapping[str, str]) -> RelayError | None:
    """Start a hub, and wait until it is ready, has refused (the reason is returned), or is not needed.

    The caller holds ``start.lock``.
    """
    before = read_endpoint(paths.endpoint)
    refusal = None
    async with trio.open_nursery() as nursery:

        async def look_around() -> None:
            # Another hub may be just coming: somebody ran one by hand, or whoever started it was killed.
            found = before
            while found in (None, before):
                await trio.sleep(LOOK_AGAIN_S)
                with suppress(OSError, RelayError):  # the start says what is wrong, or whoever connects then
                    found = read_endpoint(paths.endpoint)
            nursery.cancel_scope.cancel()

        nursery.start_soon(look_around)
        try:
            await start_hub(paths, environ)
        except RelayError as error:
            refusal = error
        nursery.cancel_scope.cancel()
    return refusal


def hub_connector(
    paths: Paths, environ: Mapping[str, str], *, spawn: bool = True
) -> Callable[[], Awaitable[trio.abc.Stream]]:
    """What `open_hub_client` takes as `connect`: the hub of `paths`, started if `spawn` and need be."""

    async def connect() -> trio.abc.Stream:
        if spawn:
            return await ensure_hub(paths, environ)
        return await connect_hub(paths)

    return connect
