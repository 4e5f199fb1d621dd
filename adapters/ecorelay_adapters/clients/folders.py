"""Folders that had to be made for a file of ours, and go with it: those that were there before stay.

The topmost of those that were missing gets a small file that names what of ours is below. As long as that
file is there, folders below it hold nothing that was there before us.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ecorelay.errors import RelayError
from ecorelay.paths import write_private
from ecorelay_adapters.clients.files import FILE_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

MARK: Final = ".made-by-ecorelay"


def make(path: Path) -> None:
    """Make the folders that `path`, of a file, needs.

    Raises:
        RelayError: ``mailbox_error``, they cannot be made.
    """
    real = Path(os.path.realpath(path))
    try:
        missing = [folder for folder in real.parents if not folder.exists()]
        real.parent.mkdir(parents=True, exist_ok=True)
        if missing:
            _write(missing[-1], [])
        for folder in real.parents:
            names = _names(folder)
            name = real.relative_to(folder).as_posix()
            if names is not None and name not in names:
                _write(folder, [*names, name])
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot write {path}: {error.strerror or error}") from error


def leave(path: Path) -> Sequence[Path]:
    """Before the file at `path` is taken away: note that; the folders that may go after it, see `remove`."""
    real = Path(os.path.realpath(path))
    between: list[Path] = []
    ours: list[Path] = []
    for folder in real.parents:
        between.append(folder)
        names, name = _names(folder), real.relative_to(folder).as_posix()
        if names is None or name not in names:
            continue
        ours = list(between)
        with suppress(OSError):  # then an empty folder stays
            if names == [name]:
                (folder / MARK).unlink()
            else:
                _write(folder, [each for each in names if each != name])
    return ours


def remove(folders: Sequence[Path]) -> None:
    """Remove them, the innermost first, as far as they are empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _names(folder: Path) -> list[str] | None:
    """Files of ours below a folder that was made for one; None: it was there before us."""
    mark = folder / MARK
    with suppress(OSError, ValueError, RecursionError):
        if mark.is_file() and mark.stat().st_size <= FILE_MAX:
            names = json.loads(mark.read_bytes())
            return [each for each in names if isinstance(each, str)] if isinstance(names, list) else None
    return None


def _write(folder: Path, names: Sequence[str]) -> None:
    write_private(folder / MARK, json.dumps(names).encode() + b"\n", durable=True)
