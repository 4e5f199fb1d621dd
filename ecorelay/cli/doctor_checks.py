"""The checks of ``ecorelay doctor``, one function each. What is special to an assistant is in its own module.

A check says what it saw and, unless all is well, what to do. None changes anything, but that a hub is started
where none runs: whether that works is what most people want to know.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

import trio

from ecorelay import __version__, wire
from ecorelay.cli import screen, service, session
from ecorelay.cli.demo_mcp import Assistant as McpClient, AssistantError
from ecorelay.client import HubClient
from ecorelay.config import load
from ecorelay.daemon.store_failure import StoreUnusable
from ecorelay.daemon.store_place import refuse_remote_place
from ecorelay.endpoint import read_endpoint
from ecorelay.errors import RelayError
from ecorelay.home import HOME_VARIABLE
from ecorelay.paths import Paths, refuse_unsafe_dir
from ecorelay.upgrade import is_older
from ecorelay_adapters.clients import ASSISTANTS, program
from ecorelay_adapters.clients.assistant import Assistant, Command, Finding, Hook, Level, Machine
from ecorelay_adapters.tools import TOOLS

SPACE_LOW: Final = 512 * 1024 * 1024
SPACE_OUT: Final = 32 * 1024 * 1024
"""Bytes of free disk below which something is said."""
SERVER_S: Final = 20.0
"""How long a server may take until it has told its tools."""
HOOK_S: Final = 10.0
"""How long a hook may take: longer, and the assistant ends it."""
HOOK_SLOW_S: Final = 0.5
HOOK_RUNS: Final = 3
SESSIONS_SHOWN: Final = 20
_BARE: Final = ("HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "SYSTEMROOT")
"""What an assistant that was started from a desktop has for sure. Nothing that a terminal has set up."""

Tell = Callable[[Finding], None]


async def examine(machine: Machine, tell: Tell) -> None:
    """Make all checks, in the order in which one trouble causes the next.

    Args:
        machine: this one.
        tell: called with each finding as soon as it is known.
    """
    for each in (*check_settings(machine), *check_directory(machine.paths), *check_space(machine.paths)):
        tell(each)
    for each in (*check_damaged(machine.paths), *check_program(machine)):
        tell(each)
    async for each in check_hub(machine):
        tell(each)
    for each in check_logout(machine.environ):
        tell(each)
    for each in check_service(machine):
        tell(each)
    known = 0
    for assistant in ASSISTANTS:
        async for each in check_assistant(assistant, machine):
            known += 1
            tell(each)
    if not known:
        tell(
            Finding(
                check="assistants",
                level="warn",
                says="none that ecorelay can set up is found here",
                remedy="any MCP client can start `ecorelay mcp`; ecorelay install --help",
            )
        )


# --- this installation ----------------------------------------------------------------------------------


def check_settings(machine: Machine) -> Iterator[Finding]:
    """Whether config.toml and the environment can be used."""
    try:
        config = load(machine.paths, machine.environ)
    except RelayError as error:
        yield Finding(
            check="settings", level="fail", says=error.message, remedy="mend them; nothing starts like this"
        )
        return
    own = sum(origin != "default" for origin in config.origins.values())
    yield Finding(check="settings", level="ok", says=f"{own} set, the others as they come")


def check_directory(paths: Paths) -> Iterator[Finding]:
    """Whether the data directory is ours alone, and on a disk that keeps what it promises."""
    check = "data directory"
    home = paths.home
    try:
        refuse_unsafe_dir(home, home.stat())
        refuse_remote_place(home)
        if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
            raise RelayError("bad_args", f"{home} cannot be written: chmod 700 it")
    except FileNotFoundError:
        yield Finding(check=check, level="ok", says=f"{home}, made when it is needed")
        return
    except (RelayError, StoreUnusable) as error:
        says, _, remedy = str(getattr(error, "message", error)).partition(": ")
        yield Finding(check=check, level="fail", says=says, remedy=remedy)
        return
    except OSError as error:
        yield Finding(check=check, level="fail", says=f"{home}: {error.strerror or error}")
        return
    open_ones = [] if sys.platform == "win32" else _readable_by_others(paths)
    if open_ones:
        names = ", ".join(path.name for path in open_ones)
        yield Finding(
            check=check,
            level="warn",
            says=f"others may read {names} in {home}",
            remedy=f"chmod go= {' '.join(str(path) for path in open_ones)}",
        )
    else:
        yield Finding(check=check, level="ok", says=str(home))


def _readable_by_others(paths: Paths) -> list[Path]:
    if not paths.home.stat().st_mode & 0o011:  # nobody gets in anyhow
        return []
    found = [paths.endpoint, paths.log, paths.bridge, *sorted(paths.home.glob("hub.db*"))]
    return [path for path in found if path.is_file() and path.stat().st_mode & 0o077]


def check_space(paths: Paths) -> Iterator[Finding]:
    """Whether the disk has room."""
    place = paths.home
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        yield Finding(check="disk", level="warn", says=f"cannot be asked: {error.strerror or error}")
        return
    level: Level = "fail" if free < SPACE_OUT else "warn" if free < SPACE_LOW else "ok"
    remedy = (
        ""
        if level == "ok"
        else "make room: what cannot be stored is refused. `ecorelay purge` removes old mail"
    )
    yield Finding(check="disk", level=level, says=f"{screen.size(free)} free", remedy=remedy)


def check_damaged(paths: Paths) -> Iterator[Finding]:
    """Databases that were found damaged and set aside."""
    aside = sorted(paths.home.glob("hub.db.damaged-*"))
    if aside:
        yield Finding(
            check="database",
            level="warn",
            says=f"a damaged one was set aside: {', '.join(path.name for path in aside)}",
            remedy=f"its mail is not shown; keep it for a rescue, or delete it from {paths.home}",
        )


def check_program(machine: Machine) -> Iterator[Finding]:
    """Whether a terminal, and assistants, start this very ecorelay."""
    yield Finding(check="program", level="ok", says=f"ecorelay {__version__} ({' '.join(machine.program)})")
    first = shutil.which("ecorelay", path=machine.environ.get("PATH", os.defpath))
    if first is None or os.path.realpath(first) == os.path.realpath(machine.program[0]):
        return
    try:
        said = program.run([first, "--version"], machine.environ).out.strip()
    except RelayError as error:
        said = error.message
    if said != f"ecorelay {__version__}":
        yield Finding(
            check="program",
            level="warn",
            says=f"`ecorelay` in a terminal is another: {first} ({said or 'tells no version'})",
            remedy="upgrade or remove one of the two; `ecorelay install` with the one that shall stay",
        )


# --- the hub --------------------------------------------------------------------------------------------


async def check_hub(machine: Machine) -> AsyncIterator[Finding]:
    """Whether a hub runs or can be started, answers, is of our version, and what it has to complain of."""
    paths = machine.paths
    try:
        ran = read_endpoint(paths.endpoint) is not None
        began = time.perf_counter()
        async with _hub() as (hub, started):
            up_s = time.perf_counter() - began
            began = time.perf_counter()
            found = await hub.request(wire.HubStatus(req_id=0))
            answer_ms = (time.perf_counter() - began) * 1000
            listed = await hub.request(wire.Peers(req_id=0))
    except RelayError as error:
        says, _, remedy = error.message.partition(": ")
        yield Finding(
            check="hub",
            level="fail",
            says=f"cannot be reached or started: {says}",
            remedy=remedy or "ecorelay logs",
        )
        return
    how = f"started in {up_s:.1f} s" if started else f"up for {screen.duration(found.uptime_s)}"
    if started and ran:
        how += " (the one before had ended without a word)"
    who = f"{found.hub_id} (pid {found.pid}, ecorelay {found.version})"
    yield Finding(check="hub", level="ok", says=f"{who}, {how}, answers in {answer_ms:.1f} ms")
    for each in (*check_version(found), *check_problems(found), *check_sessions(listed)):
        yield each


@asynccontextmanager
async def _hub() -> AsyncIterator[tuple[HubClient, bool]]:
    """A look at the hub, which is started if none answers; and whether it was."""
    try:
        async with session.at_running_hub() as hub:
            yield hub, False
            return
    except RelayError as error:
        if error.code != "hub_unreachable" or not session.config().spawn:
            raise
    async with session.looking_on() as hub:
        yield hub, True


def check_version(found: wire.HubDetails) -> Iterator[Finding]:
    """Whether hub and program are of one version."""
    if is_older(found.version):
        yield Finding(
            check="hub",
            level="warn",
            says=f"it is older ({found.version}) than this ecorelay ({__version__})",
            remedy="ecorelay hub restart",
        )
    elif is_older(__version__, found.version):
        yield Finding(
            check="hub",
            level="warn",
            says=f"it is newer ({found.version}) than this ecorelay ({__version__})",
            remedy="upgrade this one, or call the newer one",
        )


def check_problems(found: wire.HubDetails) -> Iterator[Finding]:
    """What the hub itself complains of."""
    for problem in found.problems:
        yield Finding(check="hub", level="warn", says=problem, remedy="ecorelay logs")


def check_sessions(listed: wire.PeerList) -> Iterator[Finding]:
    """What mail reaches each live session by, and what last proved it."""
    live = [peer for peer in listed.peers if peer.online]
    now = time.time_ns() // 1_000_000
    for peer in live[:SESSIONS_SHOWN]:
        if not peer.carrier and not peer.push:
            says = "live; mail waits until it calls relay_inbox (no carrier)"
        elif not peer.evidence_at:
            says = f"live; mail comes by {peer.carrier or 'push'}, which nothing has proved yet"
        else:
            says = f"live; mail comes by {peer.carrier}, proved {screen.age(peer.evidence_at, now)}"
        yield Finding(check=f"session {peer.name}", level="ok", says=says)
    if len(live) > SESSIONS_SHOWN:
        yield Finding(check="sessions", level="ok", says=f"{len(live) - SESSIONS_SHOWN} more are live")


# --- the system -----------------------------------------------------------------------------------------


def check_logout(environ: Mapping[str, str], folder: Path = Path("/etc/systemd")) -> Iterator[Finding]:
    """Whether this system ends a user's processes at logout, and so the hub."""
    if sys.platform != "linux" or not kills_at_logout(folder) or service.lingers(environ) is True:
        return
    yield Finding(
        check="logout",
        level="warn",
        says="this system ends all your processes when you log out, the hub too (KillUserProcesses)",
        remedy="`loginctl enable-linger`; no mail is lost either way",
    )


def kills_at_logout(folder: Path) -> bool:
    """The setting ``KillUserProcesses`` of logind, as far as its files under `folder` tell."""
    answer = False
    files = [folder / "logind.conf", *sorted((folder / "logind.conf.d").glob("*.conf"))]
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for match in re.finditer(r"^\s*KillUserProcesses\s*=\s*(\w+)", text, re.MULTILINE):
            answer = match[1].lower() in ("yes", "true", "on", "1")
    return answer


def check_service(machine: Machine) -> Iterator[Finding]:
    """Where the hub is a service: whether it is this program's, and runs."""
    try:
        manager = service.manager_of(machine)
        if not manager.file.is_file():
            return
        remedy = "ecorelay hub service install"
        if manager.file.read_bytes() != manager.text:
            says = f"{manager.file} is of another making than this ecorelay's"
            yield Finding(check="service", level="warn", says=says, remedy=remedy)
        elif not service.is_active(manager, machine.environ):
            says = manager.problem or "installed, and does not run"
            yield Finding(check="service", level="warn", says=says, remedy=remedy)
        else:
            yield Finding(check="service", level="ok", says="runs")
    except (RelayError, OSError) as error:
        yield Finding(check="service", level="warn", says=str(error))


# --- assistants -----------------------------------------------------------------------------------------


async def check_assistant(assistant: Assistant, machine: Machine) -> AsyncIterator[Finding]:
    """What the assistant's own module sees, then what it was told to run, run exactly so.

    Nothing where neither the assistant nor anything of ours for it is here.
    """
    client = await trio.to_thread.run_sync(assistant.find, machine)
    configured = assistant.configured(machine)
    if client is None and configured is None:
        return
    for each in await trio.to_thread.run_sync(assistant.check, machine):
        yield each
    if configured is None:
        return
    if configured.server is not None:
        yield await check_server(f"{assistant.title} tools", configured.server, machine.environ)
    for hook in configured.hooks:
        yield await check_hook(f"{assistant.title} hook", hook, machine.environ)


async def check_server(check: str, command: Command, environ: Mapping[str, str]) -> Finding:
    """Run the server's command line as the assistant does, and ask it for its tools.

    It has a data directory of its own for that time: no hub hears of a session that is none.
    """
    remedy = "ecorelay install, or reinstall ecorelay"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ecorelay-doctor-") as folder:
        alone = {HOME_VARIABLE: os.path.join(folder, "home"), "ECORELAY_SPAWN": "no"}
        client, why = None, f"it did not tell its tools within {SERVER_S:.0f} s"
        try:
            with trio.move_on_after(SERVER_S):
                client = await _introduced(command, {**_bare(environ), **command.variables, **alone}, folder)
        except (AssistantError, OSError) as error:
            why = str(error)
    seconds = time.perf_counter() - began
    if client is None:
        return Finding(check=check, level="fail", says=f"`{command}` fails: {why}", remedy=remedy)
    if len(client.tools) != len(TOOLS):
        says = f"`{command}` has {len(client.tools)} tools, not {len(TOOLS)}"
        return Finding(check=check, level="fail", says=says, remedy=remedy)
    return Finding(
        check=check, level="ok", says=f"{len(client.tools)} tools after {seconds:.1f} s ({command})"
    )


async def _introduced(command: Command, environ: Mapping[str, str], folder: str) -> McpClient:
    with _file_in(folder) as talk:
        process = await trio.lowlevel.open_process(
            command.words,
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=talk,
        )
        client = McpClient("the server", process)
        failed: AssistantError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.read)
                try:
                    await client.introduce()
                    await client.leave()
                except AssistantError as error:
                    failed = error
                nursery.cancel_scope.cancel()
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        if failed is not None:
            talk.seek(0)
            raise AssistantError(_with_last_words(str(failed), talk.read()))
    return client


def _file_in(folder: str) -> BinaryIO:
    return open(os.path.join(folder, "stderr"), "w+b")


async def check_hook(check: str, hook: Hook, environ: Mapping[str, str]) -> Finding:
    """Run a hook's command line with an event that does nothing, and see how long it takes."""
    words = ["/bin/sh", "-c", hook.command.shell] if hook.command.shell else list(hook.command.words)
    times = []
    for _ in range(HOOK_RUNS):
        began = time.perf_counter()
        ended = None
        with trio.move_on_after(HOOK_S):
            ended = await trio.run_process(
                words,
                stdin=hook.event,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={**_bare(environ), **hook.command.variables},
            )
        times.append(time.perf_counter() - began)
        if ended is None or ended.returncode not in hook.exits:
            why = f"not done within {HOOK_S:.0f} s"
            if ended is not None:
                why = _with_last_words(f"it ended with {ended.returncode}", ended.stderr)
            return Finding(
                check=check,
                level="fail",
                says=f"`{hook.command}` fails: {why}",
                remedy="ecorelay install, or reinstall ecorelay",
            )
    best = min(times)
    says = f"{best * 1000:.0f} ms ({hook.command})"
    if best > HOOK_SLOW_S:
        remedy = "it runs at every prompt and tool: is the machine busy, the disk slow, a virus scanner on?"
        return Finding(check=check, level="warn", says=says, remedy=remedy)
    return Finding(check=check, level="ok", says=says)


def _bare(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if name in _BARE or name.startswith("COVERAGE_")}
    return {**kept, "PATH": os.defpath}


def _with_last_words(why: str, stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return f"{why} ({lines[-1][:300]})" if lines else why
