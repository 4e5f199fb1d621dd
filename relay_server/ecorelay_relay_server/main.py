"""The process of a relay server: its settings, its signals, its end."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

import trio

from ecorelay import __version__
from ecorelay.errors import RelayError
from ecorelay_relay_server.bounds import HALF_OPEN_MAX, HALF_OPEN_PER_SOURCE
from ecorelay_relay_server.journal import FromLibraries, Journal
from ecorelay_relay_server.server import Server
from ecorelay_relay_server.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ecorelay_relay_server.settings import Settings

FILES_BESIDE: Final = 128
"""Open files beside connections: listening ports, libraries, readers of the metrics."""


def run(path: Path, environ: Mapping[str, str]) -> int:
    """Be the relay server of a configuration until SIGTERM or SIGINT; SIGHUP reads it again.

    Args:
        path: of relay-config.json.
        environ: may have the secret, see `ecorelay_relay_server.settings`.

    Returns:
        The exit code, 0.

    Raises:
        RelayError: ``bad_args``: the settings cannot be used, or the port is not to be had.
    """
    settings = read_settings(path, environ)
    journal = Journal()
    logging.getLogger().addHandler(FromLibraries(journal))
    files = _allow_files(settings.max_hubs + HALF_OPEN_MAX + FILES_BESIDE)
    # Whatever is there now stays until the end: no collection has to look at it again.
    gc.collect()
    gc.freeze()
    try:
        trio.run(_serve, settings, path, environ, journal, files)
    except BaseExceptionGroup as group:
        refused = _refusal(group)
        if refused is None:
            raise
        raise refused from None
    return 0


def _refusal(error: BaseException) -> RelayError | None:
    """What a person can do something about, in a group that holds nothing else."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, RelayError) else None


async def _serve(
    settings: Settings, path: Path, environ: Mapping[str, str], journal: Journal, files: int
) -> None:
    # One more than there are files for could not even be accepted to make room for it.
    spare = files - settings.max_hubs - FILES_BESIDE
    server = Server(settings, journal, max(HALF_OPEN_PER_SOURCE, min(HALF_OPEN_MAX, spare)))
    for warning in settings.warnings:
        journal.warn("settings", note=warning)
    if files < settings.max_hubs + FILES_BESIDE:
        journal.warn(
            "few files", note=f"this process may open {files:,} files: too few for max_hubs, see ulimit -n"
        )
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey, server, path, environ, journal)
        where = await nursery.start(server.run)
        journal.say(
            "listening",
            at=[f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in where],
            tls=bool(settings.tls_cert),
            realms=[realm.name for realm in settings.realms],
            max_hubs=settings.max_hubs,
            version=__version__,
            pid=os.getpid(),
        )
    journal.say("ended")


async def _obey(
    server: Server,
    path: Path,
    environ: Mapping[str, str],
    journal: Journal,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    numbers = [signal.SIGTERM, signal.SIGINT]
    if sys.platform != "win32":
        numbers.append(signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        task_status.started()
        async for number in signals:
            if number in (signal.SIGTERM, signal.SIGINT):
                journal.say("signal", signal=signal.Signals(number).name)
                server.stop()
                return
            # As it was if it fails, however it fails, so that a slip in the file throws nobody out.
            try:
                server.use(read_settings(path, environ))
            except RelayError as error:
                journal.say("not reloaded", "error", mistakes=error.message.split("\n"))
            except Exception as error:
                journal.crash("reload", error)


def _allow_files(wanted: int) -> int:
    """Raise this process's bound on open files as far as it may; the bound then."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    if soft == infinite or soft >= wanted:
        return wanted
    better = wanted if hard == infinite else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (better, hard))
    except (OSError, ValueError):
        return soft  # a sandbox forbids it
    return better
