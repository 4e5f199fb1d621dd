"""The hub as a service of the user's own: a systemd user unit, on macOS a launchd agent.

A service keeps the hub running from login to logout (or from boot on, see ``loginctl enable-linger``).
Without one the hub still starts when something needs it.
"""

from __future__ import annotations

import os
import plistlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal

import trio
from msgspec import Struct

from ecorelay import spawn, upgrade
from ecorelay.cli import session
from ecorelay.endpoint import read_endpoint
from ecorelay.errors import RelayError
from ecorelay.paths import Paths, write_private
from ecorelay_adapters.clients import program
from ecorelay_adapters.clients.assistant import ClientFailed, Machine, Plan, Step
from ecorelay_adapters.clients.files import difference, remove_tree

UNIT: Final = "ecorelay.service"
LABEL: Final = "org.ecorelay.hub"
LISTENS_S: Final = 15.0
"""How long a hub started by the service may take."""

Kind = Literal["systemd", "launchd"]


class Manager(Struct, frozen=True, kw_only=True):
    """Who runs services here, and what it is told."""

    kind: Kind
    file: Path
    """Where the service is written down."""
    text: bytes
    """What belongs there."""
    start: tuple[tuple[str, ...], ...]
    stop: tuple[tuple[str, ...], ...]
    after_removal: tuple[tuple[str, ...], ...] = ()
    problem: str = ""
    """Why it cannot be told anything."""


def manager_of(machine: Machine, platform: str = sys.platform) -> Manager:
    """Of this system.

    Raises:
        RelayError: ``bad_args``, there is none that we know.
    """
    variables = {session.KEEP_ALIVE: "true", **machine.variables}
    if platform == "darwin":
        return _launchd(machine, variables)
    if platform == "linux":
        return _systemd(machine, variables)
    raise RelayError("bad_args", "there is no service manager here that ecorelay knows; `ecorelay hub start`")


def plan_install(machine: Machine, platform: str = sys.platform) -> Plan:
    """What makes the hub a service, and lets it take over from one that runs."""
    manager = manager_of(machine, platform)
    steps = []
    if (there := _read(manager.file)) != manager.text:
        before = {str(manager.file): there} if there is not None else {}
        steps.append(
            Step(
                title=f"write {manager.file}",
                diff=difference(before, {str(manager.file): manager.text}),
                do=partial(_write, manager.file, manager.text),
            )
        )
    words = " ; ".join(" ".join(line) for line in manager.start)
    if not manager.problem and (steps or not is_active(manager, machine.environ)):
        steps.append(
            Step(
                title=f"let it start the hub: {words}",
                do=partial(trio.run, _take_over, manager, machine.paths, machine.environ),
            )
        )
    if manager.problem:
        steps = []
    notes = [*_linger_note(manager, machine.environ)]
    return Plan(steps=tuple(steps), notes=tuple(notes), problem=manager.problem)


def plan_removal(machine: Machine, platform: str = sys.platform) -> Plan:
    """What ends the service. Nothing where there is none."""
    try:
        manager = manager_of(machine, platform)
    except RelayError:
        return Plan()
    if not manager.file.exists() and not manager.file.is_symlink():
        return Plan()
    steps = [] if manager.problem else [_running(line, machine.environ) for line in manager.stop]
    steps.append(Step(title=f"remove {manager.file}", do=partial(remove_tree, manager.file)))
    steps += [] if manager.problem else [_running(line, machine.environ) for line in manager.after_removal]
    return Plan(steps=tuple(steps))


async def restart(machine: Machine) -> bool:
    """Have the service start its hub anew; False where the hub is no service that runs."""
    try:
        manager = manager_of(machine)
    except RelayError:
        return False
    if not manager.file.is_file() or not is_active(manager, machine.environ):
        return False
    await _take_over(manager, machine.paths, machine.environ)
    return True


def is_active(manager: Manager, environ: Mapping[str, str]) -> bool:
    """Whether the service runs now."""
    words = (
        ["systemctl", "--user", "is-active", "--quiet", UNIT]
        if manager.kind == "systemd"
        else ["launchctl", "print", manager.stop[0][-1]]
    )
    return not manager.problem and program.run(words, environ).code == 0


def lingers(environ: Mapping[str, str]) -> bool | None:
    """Whether the user's processes outlive the last logout; None where that is not to be found out."""
    if shutil.which("loginctl", path=environ.get("PATH", os.defpath)) is None:
        return None
    user = environ.get("USER") or str(os.getuid())
    ran = program.run(["loginctl", "show-user", user, "--property=Linger", "--value"], environ)
    answer = ran.out.strip().lower()
    return {"yes": True, "no": False}.get(answer) if ran.code == 0 else None


# --- systemd --------------------------------------------------------------------------------------------


def _systemd(machine: Machine, variables: Mapping[str, str]) -> Manager:
    config = machine.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(config) if os.path.isabs(config) else machine.at_home(".config")
    systemctl = ("systemctl", "--user")
    return Manager(
        kind="systemd",
        file=folder / "systemd" / "user" / UNIT,
        text=_unit(machine.program, variables).encode(),
        start=((*systemctl, "daemon-reload"), (*systemctl, "enable", UNIT), (*systemctl, "restart", UNIT)),
        stop=((*systemctl, "disable", "--now", UNIT),),
        after_removal=((*systemctl, "daemon-reload"),),
        problem=_no_systemd(machine.environ),
    )


def _no_systemd(environ: Mapping[str, str]) -> str:
    instead = "the hub starts by itself when something needs it, and `ecorelay hub start` keeps one running"
    if shutil.which("systemctl", path=environ.get("PATH", os.defpath)) is None:
        return f"there is no systemd here: {instead}"
    ran = program.run(["systemctl", "--user", "show-environment"], environ)
    if ran.code != 0:
        return f"systemd does not serve you here ({ran.last_words}): {instead}"
    return ""


def _unit(words: Sequence[str], variables: Mapping[str, str]) -> str:
    executable, *rest = words
    command = " ".join([_quoted(executable, "%"), *[_quoted(word, "%$") for word in (*rest, "hub", "run")]])
    settings = "".join(
        f"Environment={_quoted(f'{name}={value}', '%')}\n" for name, value in sorted(variables.items())
    )
    return f"""\
# Written by `ecorelay hub service install`; `ecorelay hub service uninstall` removes it.
[Unit]
Description=ecorelay hub (messaging between AI coding assistants)
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command}
{settings}Restart=on-failure
RestartSec=2
TimeoutStopSec=15
KillMode=mixed
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=default.target
"""


def _quoted(word: str, doubled: str) -> str:
    """For systemd: in double quotes, with what it would expand spelled twice."""
    for mark in doubled:
        word = word.replace(mark, mark * 2)
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _linger_note(manager: Manager, environ: Mapping[str, str]) -> list[str]:
    if manager.kind == "systemd" and not manager.problem and lingers(environ) is False:
        return ["it ends when you log out: `loginctl enable-linger` lets it stay"]
    return []


# --- launchd --------------------------------------------------------------------------------------------


def _launchd(machine: Machine, variables: Mapping[str, str]) -> Manager:
    path = machine.at_home("Library", "LaunchAgents", f"{LABEL}.plist")
    job = {
        "Label": LABEL,
        "ProgramArguments": [*machine.program, "hub", "run"],
        "EnvironmentVariables": dict(variables),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 5,
        "ProcessType": "Background",
        "Umask": 0o077,
    }
    domain = f"gui/{os.getuid()}"
    missing = shutil.which("launchctl", path=machine.environ.get("PATH", os.defpath)) is None
    return Manager(
        kind="launchd",
        file=path,
        text=plistlib.dumps(job),
        start=(
            ("launchctl", "bootstrap", domain, str(path)),
            ("launchctl", "kickstart", f"{domain}/{LABEL}"),
        ),
        stop=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
        problem="there is no launchd here" if missing else "",
    )


# --- doing it -------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _write(path: Path, text: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text, durable=True)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot write {path}: {error.strerror or error}") from error


def _running(words: tuple[str, ...], environ: Mapping[str, str]) -> Step:
    return Step(title=f"run `{' '.join(words)}`", do=partial(_tell, words, environ))


def _tell(words: Sequence[str], environ: Mapping[str, str]) -> None:
    ran = program.run(words, environ)
    if ran.code != 0:
        raise ClientFailed("unexpected", f"`{' '.join(words)}` failed: {ran.last_words}")


async def _take_over(manager: Manager, paths: Paths, environ: Mapping[str, str]) -> None:
    """Let the service's hub follow the one that runs; adapters wait meanwhile and start none of their own."""
    with trio.move_on_after(LISTENS_S):
        async with session.no_other_start(paths):
            await _replace(manager, paths, environ)
            return
    raise RelayError(
        "timeout", f"the hub of the service did not get ready within {LISTENS_S:.0f} s: {paths.log}"
    )


async def _replace(manager: Manager, paths: Paths, environ: Mapping[str, str]) -> None:
    if manager.kind == "launchd":  # it starts nothing that it has loaded already
        await trio.to_thread.run_sync(partial(program.run, manager.stop[0], environ))
    before = read_endpoint(paths.endpoint)
    if before is not None:
        await upgrade.drain(before, partial(spawn.connect_hub, paths), "a service takes over")
    for line in manager.start:
        await trio.to_thread.run_sync(partial(_tell, line, environ))
    await _until(lambda: read_endpoint(paths.endpoint) not in (None, before))


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - the hub is nobody's child here
        await trio.sleep(spawn.LOOK_AGAIN_S)
