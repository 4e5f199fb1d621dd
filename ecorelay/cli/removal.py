"""What ``ecorelay uninstall --all`` takes back besides the assistants: service, completion, hub, data."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from ecorelay import wire
from ecorelay.cli import hub_commands, screen, service, session
from ecorelay.daemon.lock import HubLock
from ecorelay.endpoint import read_endpoint
from ecorelay.errors import RelayError
from ecorelay.paths import Paths, short_folders
from ecorelay_adapters.clients import ASSISTANTS
from ecorelay_adapters.clients.assistant import Machine, Plan, Step
from ecorelay_adapters.clients.files import remove_tree

QUESTION: Final = "All mail, groups, settings and logs of ecorelay are deleted, for good."

_OURS: Final = (
    *("hub.*", "start.lock", "config.toml*", "texts", "bells", "links", "adapter.log*", "*.new"),
    *("bridge.json*", "identity.pem*", "known-hubs.json*"),
)
"""What may lie in a data directory of ours. Anything else there is left alone: it may be a directory with
other things in it."""
_COMPLETIONS: Final = (
    (".bash_completions/ecorelay.sh", ".bashrc"),
    (".zfunc/_ecorelay", ""),
    (".config/fish/completions/ecorelay.fish", ""),
)
"""Where ``--install-completion`` puts things: a file, and the file that has a line with its name."""


def plans(machine: Machine, *, purge: bool) -> list[tuple[str, Plan]]:
    """What to remove, in this order."""
    found = [
        ("Service of the hub", service.plan_removal(machine)),
        ("Completion in the shell", _completion(machine)),
        ("Hub", _hub(machine.paths)),
    ]
    if purge:
        data = _data(machine.paths)
        sockets = _socket_folders(machine.paths, machine.environ)
        found.append(("Data directory", Plan(steps=(*data.steps, *sockets), notes=data.notes)))
    return found


# --- completion -----------------------------------------------------------------------------------------


def _completion(machine: Machine) -> Plan:
    steps = []
    for name, sourced_by in _COMPLETIONS:
        script = machine.at_home(name)
        if script.is_file():
            steps.append(Step(title=f"remove {script}", do=partial(remove_tree, script)))
        if sourced_by and (lines := _lines_about(machine.at_home(sourced_by), script)):
            steps.append(
                Step(
                    title=f"take its line out of {machine.at_home(sourced_by)}",
                    diff=tuple(f"- {line}" for line in lines),
                    do=partial(_take_out, machine.at_home(sourced_by), lines),
                )
            )
    return Plan(steps=tuple(steps))


def _lines_about(path: Path, script: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in lines if line.strip() in (f"source {script}", f"source '{script}'")]


def _take_out(path: Path, lines: list[str]) -> None:
    real = Path(os.path.realpath(path))
    new = real.with_name(f"{real.name}.ecorelay-new")
    try:
        kept = [
            line
            for line in real.read_text(encoding="utf-8").splitlines(True)
            if line.strip("\r\n") not in lines
        ]
        new.write_text("".join(kept), encoding="utf-8")
        new.chmod(real.stat().st_mode & 0o7777)
        new.replace(real)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot write {path}: {error.strerror or error}") from error


# --- hub and data ---------------------------------------------------------------------------------------


def _hub(paths: Paths) -> Plan:
    try:
        endpoint = read_endpoint(paths.endpoint)
        found = None if endpoint is None else trio.run(_status)
    except (RelayError, OSError):
        found = None
    if found is None:
        return Plan()
    notes = []
    if found.sessions:
        notes.append(
            f"{screen.many(found.sessions, 'live session')} would start it again when it is needed: end "
            "them first"
        )
    return Plan(steps=(Step(title=f"stop the hub (pid {found.pid})", do=_stop),), notes=tuple(notes))


async def _status() -> wire.HubDetails:
    async with session.at_running_hub() as hub:
        return await hub.request(wire.HubStatus(req_id=0))


def _stop() -> None:
    try:
        trio.run(hub_commands.stop_hub)
    except RelayError as error:
        if error.code != "hub_unreachable":
            raise


def _data(paths: Paths) -> Plan:
    home = paths.home
    if not home.is_dir():
        return Plan()
    ours = _ours(home)
    others = sorted(path.name for path in home.iterdir() if path not in ours)
    notes = [f"not of ecorelay, and left alone: {', '.join(others)}"] if others else []
    sizes = tuple(f"- {path.name} ({screen.size(_bytes_of(path))})" for path in ours)
    title = f"delete {'what is ours in ' if others else ''}{home}"
    return Plan(
        steps=(Step(title=title, diff=sizes, do=partial(_delete, paths)),) if ours or not others else (),
        notes=tuple(notes),
    )


def _socket_folders(paths: Paths, environ: Mapping[str, str]) -> list[Step]:
    """Remove what killed processes left where sockets go if the data directory's path is too long for them.

    Any of the folders that `ecorelay.paths.choose_socket_path` may have chosen, if it is ours alone.
    """
    if sys.platform == "win32":
        return []
    places = short_folders(paths, environ, f"/run/user/{os.geteuid()}")
    return [
        Step(
            title=f"delete {place}",
            diff=tuple(f"- {each.name}" for each in sorted(place.glob("*"))),
            do=partial(remove_tree, place),
        )
        for place in places
        if _is_ours_alone(place)
    ]


def _is_ours_alone(place: Path) -> bool:
    try:
        found = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _ours(home: Path) -> list[Path]:
    folders = tuple(assistant.name for assistant in ASSISTANTS)
    return sorted({path for pattern in (*_OURS, *folders) for path in home.glob(pattern)})


def _bytes_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(each.lstat().st_size for each in files if each.is_symlink() or not each.is_dir())


def _delete(paths: Paths) -> None:
    # While the lock is held no hub comes in between; its file goes last.
    with HubLock(paths.hub_lock):
        for path in _ours(paths.home):
            if path != paths.hub_lock:
                remove_tree(path)
        remove_tree(paths.hub_lock)
    if not any(paths.home.iterdir()):
        try:
            paths.home.rmdir()
        except OSError as error:
            raise RelayError("mailbox_error", f"cannot remove {paths.home}: {error.strerror}") from error
