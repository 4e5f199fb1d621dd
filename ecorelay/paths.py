"""Where a hub keeps its things, and the rules for directories and files that are only ours."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ecorelay.errors import RelayError
from ecorelay.home import HOME_VARIABLE, data_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET_PATH_MAX: Final = 100
"""Bytes. The kernel's own limit is 108 on Linux and 104 on macOS, its closing zero included."""


class Paths:
    """The files of one data directory. Making this object touches no disk.

    Args:
        home: the data directory, absolute.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.endpoint = home / "hub.json"
        self.socket = home / "hub.sock"
        self.hub_lock = home / "hub.lock"
        self.start_lock = home / "start.lock"
        self.database = home / "hub.db"
        self.log = home / "hub.log"
        self.adapter_log = home / "adapter.log"
        self.config = home / "config.toml"
        self.bridge = home / "bridge.json"
        self.texts = home / "texts"
        self.bells = home / "bells"
        self.links = home / "links"

    def __repr__(self) -> str:
        return f"Paths({str(self.home)!r})"


def find_paths(environ: Mapping[str, str]) -> Paths:
    """The data directory this environment asks for, see `ecorelay.home`. It may not exist yet.

    Raises:
        RelayError: ``bad_args``, there is none.
    """
    try:
        return Paths(Path(data_directory(environ)))
    except ValueError as error:
        raise RelayError("bad_args", str(error)) from None


def make_private_dir(path: Path, *, follow: bool = True) -> None:
    """Make `path` with mode 0700 (and its missing parents), durably; or check one that is there.

    Args:
        path: absolute.
        follow: whether `path` may be a symbolic link to a directory. Not where others can make
            links, as in the temporary directory.

    Raises:
        RelayError: ``bad_args``, it belongs to somebody else, others can write to it, or it is no
            directory; ``mailbox_error``, it cannot be made.
    """
    try:
        _make_missing(path)
        found = path.stat() if follow else path.lstat()
    except OSError as error:
        raise RelayError(
            "mailbox_error", f"cannot make the directory {path}: {error.strerror or error}"
        ) from error
    refuse_unsafe_dir(path, found)


def _make_missing(path: Path) -> None:
    missing = []
    while not path.is_dir():
        missing.append(path)
        if path.parent == path:
            break
        path = path.parent
    for each in reversed(missing):
        try:
            each.mkdir(mode=0o700)
        except FileExistsError:
            continue  # another process made it, or it is no directory: the check afterwards says so
        sync_dir(each.parent)


def refuse_unsafe_dir(path: Path, found: os.stat_result) -> None:
    """Raise unless `found` describes a directory of ours that nobody else can write to.

    Raises:
        RelayError: ``bad_args``, saying what is wrong and what to do.
    """
    other = f"or name another directory with {HOME_VARIABLE}"
    if not stat.S_ISDIR(found.st_mode):
        raise RelayError("bad_args", f"{path} is in the way and is no directory: move it away, {other}")
    if sys.platform == "win32":
        return  # modes mean nothing there; the user's data directory is private by its access list
    if found.st_uid != os.geteuid():
        raise RelayError(
            "bad_args",
            f"{path} belongs to user id {found.st_uid}, not to you (user id {os.geteuid()}): "
            f"run as its owner, {other}",
        )
    if found.st_mode & 0o022:
        raise RelayError("bad_args", f"{path} can be written by others: chmod 700 it, {other}")


def sync_dir(path: Path) -> None:
    """Make names just created, renamed or removed in directory `path` survive a power failure."""
    if sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot sync a directory, and then do not need to.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_private(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Replace the file `path` by `data`, mode 0600; a reader sees the old or the new, never half.

    Args:
        path: in a directory that exists.
        data: the whole content.
        durable: whether it must survive a power failure right after this call.

    Raises:
        OSError: it could not be written; the old file is as it was.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)  # of a process that died here, with the same id as ours
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(handle)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if durable:
        sync_dir(path.parent)


def short_folders(paths: Paths, environ: Mapping[str, str], *also: str) -> list[Path]:
    """Where sockets of the data directory may be if its own path is too long, the best first; none is made.

    Args:
        paths: of the data directory.
        environ: may name directories for such folders.
        also: more of them, where a hub with another environment may have made one.
    """
    # The hash keeps two data directories of one user apart.
    from hashlib import sha256

    name = f"ecorelay-{_user_number()}-{sha256(os.fsencode(paths.home)).hexdigest()[:12]}"
    bases = (environ.get("XDG_RUNTIME_DIR"), environ.get("TMPDIR"), *also, "/tmp")
    return [Path(base) / name for base in dict.fromkeys(bases) if base and os.path.isabs(base)]


def choose_socket_path(paths: Paths, environ: Mapping[str, str], socket: Path | None = None) -> Path:
    """Where a socket goes: in the data directory, else, too long for the kernel, a short path.

    The short one is in a directory of ours, made here, under XDG_RUNTIME_DIR or the temporary
    directory. Clients learn it from a file in the data directory: the hub's from hub.json.

    Args:
        paths: of the data directory.
        environ: may name the short directory.
        socket: in the data directory, where it would be best; default: the hub's.

    Raises:
        RelayError: that directory is not ours alone.
    """
    socket = paths.socket if socket is None else socket
    if _fits(socket):
        return socket
    for folder in short_folders(paths, environ):
        short = folder / socket.name
        if os.path.isdir(folder.parent) and _fits(short):
            make_private_dir(folder, follow=False)
            return short
    raise RelayError("bad_args", f"{paths.home} is too long for a socket: name a shorter {HOME_VARIABLE}")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_MAX


def _user_number() -> int:
    if sys.platform == "win32":
        return 0
    return os.geteuid()
