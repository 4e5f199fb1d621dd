"""What the doctor sees of this installation: settings, data directory, disk, databases, program."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ecorelay import __version__
from ecorelay.cli import screen
from ecorelay.config import load
from ecorelay.daemon.store_failure import StoreUnusable
from ecorelay.daemon.store_place import refuse_remote_place
from ecorelay.errors import RelayError
from ecorelay.paths import Paths, refuse_unsafe_dir
from ecorelay_adapters.clients import program
from ecorelay_adapters.clients.assistant import Finding, Level, Machine

SPACE_LOW: Final = 512 * 1024 * 1024
SPACE_OUT: Final = 32 * 1024 * 1024
"""Bytes of free disk below which something is said."""


def check_all(machine: Machine) -> Iterator[Finding]:
    """All of them, in the order in which one trouble causes the next."""
    yield from check_settings(machine)
    yield from check_directory(machine.paths)
    yield from check_space(machine.paths)
    yield from check_damaged(machine.paths)
    yield from check_program(machine)


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
    says = f"{own} set, the others at their defaults" if own else "all at their defaults"
    yield Finding(check="settings", level="ok", says=says)


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
        if os.access(place := _nearest(home), os.W_OK | os.X_OK):
            yield Finding(check=check, level="ok", says=f"{home}, made when it is needed")
        else:
            says = f"{home} cannot be made: {place} is not writable for you"
            remedy = "make it writable, or name another directory with ECORELAY_HOME"
            yield Finding(check=check, level="fail", says=says, remedy=remedy)
        return
    except (RelayError, StoreUnusable) as error:
        says, _, remedy = str(getattr(error, "message", error)).partition(": ")
        yield Finding(check=check, level="fail", says=says, remedy=remedy)
        return
    except OSError as error:
        remedy = "make it readable for you, or name another directory with ECORELAY_HOME"
        yield Finding(check=check, level="fail", says=f"{home}: {error.strerror or error}", remedy=remedy)
        return
    if sys.platform != "win32" and (foreign := _of_others(home, os.geteuid())):
        says = f"not yours, but another user's: {', '.join(foreign)} in {home}; did ecorelay run under sudo?"
        remedy = f"sudo chown -R {os.geteuid()}:{os.getegid()} {shlex.quote(str(home))}"
        yield Finding(check=check, level="fail", says=says, remedy=remedy)
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


def _of_others(home: Path, me: int) -> list[str]:
    """Names of what lies in `home` and is not the user's `me`: one command under sudo leaves such."""
    return sorted([each.name for each in os.scandir(home) if each.stat(follow_symlinks=False).st_uid != me])


def _readable_by_others(paths: Paths) -> list[Path]:
    if not paths.home.stat().st_mode & 0o011:  # nobody gets in anyhow
        return []
    found = [paths.endpoint, paths.log, paths.bridge, *sorted(paths.home.glob("hub.db*"))]
    return [path for path in found if path.is_file() and path.stat().st_mode & 0o077]


def _nearest(place: Path) -> Path:
    """`place`, or the first directory above it that is there."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def check_space(paths: Paths) -> Iterator[Finding]:
    """Whether the disk has room."""
    try:
        free = shutil.disk_usage(_nearest(paths.home)).free
    except OSError as error:
        yield Finding(check="disk", level="warn", says=f"cannot be asked: {error.strerror or error}")
        return
    level: Level = "fail" if free < SPACE_OUT else "warn" if free < SPACE_LOW else "ok"
    remedy = (
        ""
        if level == "ok"
        else "make room: what cannot be stored is refused (`ecorelay purge` helps as long as there is some)"
    )
    yield Finding(check="disk", level=level, says=f"{screen.size(free)} free", remedy=remedy)


def check_damaged(paths: Paths) -> Iterator[Finding]:
    """Databases that were found damaged and set aside."""
    try:
        aside = sorted(paths.home.glob("hub.db.damaged-*"))
    except OSError:  # where we may not look: what is wrong with the directory was said before
        return
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
        said = program.ask_version(first, machine.environ).out.strip()
    except RelayError as error:
        said = error.message
    if said != f"ecorelay {__version__}":
        yield Finding(
            check="program",
            level="warn",
            says=f"`ecorelay` in a terminal is another: {first} ({said or 'tells no version'})",
            remedy="upgrade or remove one of the two; `ecorelay install` with the one that shall stay",
        )
