"""Files that are rendered for an assistant, and settings of an assistant in which one entry is ours."""

from __future__ import annotations

import difflib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ecorelay.errors import RelayError
from ecorelay.paths import make_private_dir, write_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DIFF_MAX: Final = 40
"""Lines of difference shown of one file."""
FILE_MAX: Final = 8 * 1024 * 1024


def shipped(name: str) -> Path:
    """The folder of this name that comes with us: in an installed wheel, or beside it in a checkout.

    Raises:
        RelayError: this installation is incomplete.
    """
    package = Path(__file__).parent.parent
    for folder in (package / "files" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise RelayError("unexpected", f"this installation of ecorelay lacks its folder {name}: install it again")


def read_tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`: path relative to it, with ``/``, to content. Empty where there is none."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def difference(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[str, ...]:
    """What changes from `before` to `after`, for a person."""
    lines = []
    for name in sorted({*before, *after}):
        if name not in before:
            lines.append(f"+ {name}")
        elif name not in after:
            lines.append(f"- {name}")
        elif before[name] != after[name]:
            lines.append(f"~ {name}")
            lines += [f"  {line}" for line in changed_lines(before[name], after[name])]
    return tuple(lines)


def changed_lines(before: bytes, after: bytes) -> Iterator[str]:
    """The lines that go, after ``-``, and those that come, after ``+``; not more than `DIFF_MAX`."""
    old, new = (data.decode("utf-8", "replace").splitlines() for data in (before, after))
    # The first two lines name the files.
    shown = [line for line in list(difflib.unified_diff(old, new, lineterm="", n=0))[2:] if line[0] in "+-"]
    yield from shown[:DIFF_MAX]
    if len(shown) > DIFF_MAX:
        yield "…"


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make `folder` hold exactly `files`, private; each of them whole or not at all.

    They are written in the given order, and only those that differ: put last what leads to the others.

    Raises:
        RelayError: the folder is not ours alone (``bad_args``), or cannot be written (``mailbox_error``).
    """
    make_private_dir(folder.parent)
    make_private_dir(folder, follow=False)
    try:
        for name, data in files.items():
            path = folder / name
            for parent in reversed(path.relative_to(folder).parents[:-1]):
                (folder / parent).mkdir(mode=0o700, exist_ok=True)
            if not _holds(path, data):
                write_private(path, data, durable=True)
        _remove_others(folder, files)
    except OSError as error:
        raise RelayError(
            "mailbox_error", f"cannot write {error.filename or folder}: {error.strerror or error}"
        ) from error


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes() == data


def _remove_others(folder: Path, files: Mapping[str, bytes]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in files:
            path.unlink()


def remove_tree(folder: Path) -> None:
    """Remove `folder` with all that is in it; a link to one is removed as a link.

    Raises:
        RelayError: ``mailbox_error``, it cannot be removed.
    """
    import shutil

    try:
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.is_dir():
            shutil.rmtree(folder)
    except OSError as error:
        raise RelayError(
            "mailbox_error", f"cannot remove {error.filename or folder}: {error.strerror or error}"
        ) from error


# --- settings of an assistant ---------------------------------------------------------------------------


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object in a file of the assistant's; empty where there is none.

    Raises:
        RelayError: ``bad_args``, it is no such object.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise RelayError("bad_args", f"cannot read {path}: {error.strerror or error}") from error
    if not data.strip():
        return {}
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RelayError("bad_args", f"{path} is no valid JSON ({error}): mend it first") from None
    if not isinstance(found, dict):
        raise RelayError("bad_args", f"{path} holds no JSON object: mend it first")
    return found


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Put `settings` at `path`, whole or not at all, with the mode of the file that was there.

    A link stays one: what it leads to is replaced.

    Raises:
        RelayError: ``mailbox_error``, it cannot be written.
    """
    replace(path, json.dumps(settings, indent=2, ensure_ascii=False).encode() + b"\n")


def replace(path: Path, data: bytes, *, like: Path | None = None) -> None:
    """Put `data` at `path`, whole or not at all; a link stays one.

    Args:
        path: of the file.
        data: all of it.
        like: the file whose mode it gets; default: the one that was there.

    Raises:
        RelayError: ``mailbox_error``, it cannot be written.
    """
    real = Path(os.path.realpath(path))
    model = Path(os.path.realpath(like)) if like is not None else real
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(model.stat().st_mode) if model.exists() else 0o600
        write_private(real, data, durable=True)
        real.chmod(mode)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot write {path}: {error.strerror or error}") from error
