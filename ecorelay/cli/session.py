"""How a command reaches the hub, and how it ends: settings, connections, interruption."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from ecorelay import __version__, wire
from ecorelay.callbacks import Handler
from ecorelay.cli import exits, screen, words
from ecorelay.client import HubClient, open_hub_client
from ecorelay.config import Config, load
from ecorelay.daemon.lock import holder_pid
from ecorelay.endpoint import Endpoint, read_endpoint
from ecorelay.errors import RelayError
from ecorelay.file_lock import locked
from ecorelay.paths import Paths, find_paths, make_private_dir
from ecorelay.process import is_alive, is_stopped
from ecorelay.requests import RequestError
from ecorelay.spawn import LOOK_AGAIN_S, hub_connector
from ecorelay.upgrade import is_older

if TYPE_CHECKING:
    from ecorelay.keeper import Connect

CLIENT = "ecorelay-cli"
KEEP_ALIVE = "ECORELAY_KEEP_ALIVE"
LOCK_S = 15.0
"""How long another process may take to start a hub."""


def run(command: Callable[[], Awaitable[int | None]]) -> None:
    """Run a command to its end; what it returns, if anything, is the exit code.

    Ctrl-C ends it quietly, and so does a reader of stdout that left.
    """
    try:
        code = trio.run(command)
    except BaseException as error:
        # Nurseries wrap what passes through them, be it once or several times.
        if holds(error, KeyboardInterrupt):
            raise SystemExit(exits.INTERRUPTED) from None
        if holds(error, BrokenPipeError):
            raise screen.pipe_closed() from None
        raise
    if code:
        raise SystemExit(code)


def holds(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether `error` is of this kind, or a group in which one is."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kind) is not None
    return isinstance(error, kind)


async def until_gone(pid: int, began: int) -> None:
    """Wait until the process `pid` that began at `began` (see `ecorelay.process`) has ended."""
    while is_alive(pid, began):  # noqa: ASYNC110 - nobody tells when a process that is no child of ours ends
        await trio.sleep(0.02)


def paths() -> Paths:
    """The data directory of this environment."""
    return find_paths(os.environ)


def config() -> Config:
    """The settings that hold here.

    Raises:
        RelayError: ``bad_args``, they cannot be used.
    """
    return load(paths(), os.environ)


def person(as_name: str | None) -> str:
    """The name of the person at this command line."""
    return config().me if as_name is None else words.name(as_name, "--as")


# --- connections ----------------------------------------------------------------------------------------


@asynccontextmanager
async def as_peer(name: str) -> AsyncIterator[HubClient]:
    """Act for the peer `name`, which is made if it never was. Starts a hub where none runs."""
    connect = hub_connector(paths(), os.environ, spawn=config().spawn)
    async with _opened(_hello("attach", name=name, create=True), connect) as client:
        yield client


@asynccontextmanager
async def looking_on() -> AsyncIterator[HubClient]:
    """Observe, without being a peer. Starts a hub where none runs."""
    connect = hub_connector(paths(), os.environ, spawn=config().spawn)
    async with _opened(_hello("observer"), connect) as client:
        yield client


@asynccontextmanager
async def at_running_hub(
    name: str | None = None, on_activity: Handler[wire.Activity] | None = None
) -> AsyncIterator[HubClient]:
    """Observe the hub that runs, or act there for the peer `name` if there is one. Ends with the hub.

    Args:
        name: None: look on.
        on_activity: see `open_hub_client`.

    Raises:
        RelayError: ``hub_unreachable``, none does.
    """
    found = paths()
    if read_endpoint(found.endpoint) is None:
        raise RelayError(
            "hub_unreachable",
            f"no hub is running for {found.home} (one starts by itself when something needs it, "
            "or with `ecorelay hub start`)",
        )
    connect = hub_connector(found, os.environ, spawn=False)
    hello = _hello("observer") if name is None else _hello("attach", name=name)
    async with _opened(hello, connect, stay=False, on_activity=on_activity) as client:
        yield client


@asynccontextmanager
async def no_other_start(paths: Paths) -> AsyncIterator[None]:
    """Hold the lock under which hubs are started: adapters wait meanwhile, and start none of their own.

    Raises:
        RelayError: ``timeout``, another process holds it and does not get done.
    """
    make_private_dir(paths.home)
    deadline = trio.current_time() + LOCK_S
    while trio.current_time() < deadline:
        with locked(paths.start_lock) as ours:
            if ours:
                yield
                return
        await trio.sleep(LOOK_AGAIN_S)
    raise RelayError("timeout", f"another process has been starting a hub for {LOCK_S:.0f} s: try again")


@asynccontextmanager
async def _opened(
    hello: wire.Hello,
    connect: Connect,
    *,
    stay: bool = True,
    on_activity: Handler[wire.Activity] | None = None,
) -> AsyncIterator[HubClient]:
    opened = False
    try:
        async with open_hub_client(hello, connect=connect, stay=stay, on_activity=on_activity) as client:
            opened = True
            try:
                yield client
            except RequestError as error:
                raise _of_another_version(error, client.welcome.app_version) from None
    except RelayError as error:
        if opened or error.code != "hub_unreachable" or (hung := unanswering()) is None:
            raise
        raise RelayError(error.code, f"{error.message}; {_what_to_do(hung.pid)}") from None


def unanswering() -> Endpoint | None:
    """The hub that should run here, if its process lives: to be asked where it does not answer."""
    found = paths()
    try:
        endpoint = read_endpoint(found.endpoint)
    except (OSError, RelayError):
        return None
    # The start of a process tells it apart from a later one; that it holds the lock, that it is our hub.
    if endpoint is None or not endpoint.pid_start or holder_pid(found.hub_lock) != endpoint.pid:
        return None
    return endpoint if is_alive(endpoint.pid, endpoint.pid_start) else None


def _what_to_do(pid: int) -> str:
    ends = "`ecorelay hub stop` ends it, and nothing that was acknowledged is lost"
    if is_stopped(pid):
        return (
            f"its process {pid} was stopped (SIGSTOP, a debugger): `kill -CONT {pid}` lets it go on; {ends}"
        )
    return f"its process {pid} lives, see `ecorelay logs`: {ends}"


def _of_another_version(error: RequestError, hub: str) -> RelayError:
    """What to say where a hub refused a frame because it is of another version than this command."""
    if error.code != "bad_msg":
        return error
    if is_older(__version__, hub):
        advice = f"is newer than this command ({__version__}): upgrade ecorelay here"
    elif is_older(hub):
        advice = f"is older than this command ({__version__}): `ecorelay hub restart`"
    elif _UNKNOWN_TYPE in error.message:
        advice = "does not know this command; it was started before an upgrade: `ecorelay hub restart`"
    else:
        return error
    return RelayError("protocol_mismatch", f"the running hub, ecorelay {hub or 'of some version'}, {advice}")


_UNKNOWN_TYPE = "`$.type`"
"""Where the hub's words point when it does not know a frame."""


def _hello(role: wire.Role, *, name: str | None = None, create: bool = False) -> wire.Hello:
    return wire.Hello(
        versions=(wire.OLDEST_PROTOCOL_VERSION, wire.PROTOCOL_VERSION),
        role=role,
        name=name,
        create=create,
        client=CLIENT,
        pid=os.getpid(),
        app_version=__version__,
    )
