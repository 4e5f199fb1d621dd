"""A settings file of an assistant's in which one thing is ours: put in and taken out, all else untouched.

The file as it was before we first changed it is kept beside it. Where nothing but ours was changed since,
taking ours out brings back every byte; else all that others changed stays. Folders that had to be made go too
when they are empty. Each change is made to the file as it is at that moment, whole or not at all; links stay
links, and modes stay.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ecorelay.errors import RelayError
from ecorelay_adapters.clients import files, folders
from ecorelay_adapters.clients.assistant import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SETTINGS: Final = (".json", ".toml")
"""What a person wants to see all of, where it is new; a script is not."""


class Format(Protocol):
    """What a file is written in: the modules `toml_entry` and `json_entry`. All raise for a broken text."""

    def parse(self, text: str, name: str) -> dict[str, Any]:
        """What a text holds."""

    def find(self, data: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
        """The table at `path`."""

    def put(self, text: str, path: tuple[str, ...], values: Mapping[str, Any], name: str) -> str:
        """The text with `values` in the table at `path`."""

    def take_out(self, text: str, path: tuple[str, ...], name: str) -> str:
        """The text without what is at `path`, and the tables around it that are empty then."""


class Ours(Protocol):
    """What is ours in a file. Text to text; `name` is the file's, for people.

    All raise RelayError ``bad_args`` for a text that is broken or has something else in our place.
    """

    def find(self, text: str, name: str) -> Any:
        """What of ours stands in a text; None: nothing."""

    def put(self, text: str, name: str) -> str:
        """The text with ours in it, up to date."""

    def put_back(self, text: str, found: Any, name: str) -> str:
        """A text that has nothing of ours, with what `find` told of another."""

    def take_out(self, text: str, name: str) -> str:
        """The text without ours."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table (TOML) or object (JSON) in one other.

    Attributes:
        format: `toml_entry` or `json_entry`.
        path: where it stands.
        values: what it must hold, given what it holds; may refuse. Not asked for to take it out.
        gone: members of it that must not be there, by their paths in it.
    """

    format: Format
    path: tuple[str, ...]
    values: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    gone: Sequence[tuple[str, ...]] = ()

    def find(self, text: str, name: str) -> dict[str, Any] | None:
        """See `Ours`."""
        return self.format.find(self.format.parse(text, name), self.path)

    def put(self, text: str, name: str) -> str:
        """See `Ours`."""
        values = self.values(self.find(text, name) or {})
        for each in self.gone:
            text = self.format.take_out(text, (*self.path, *each), name)
        return self.format.put(text, self.path, values, name)

    def put_back(self, text: str, found: Any, name: str) -> str:
        """See `Ours`."""
        return self.format.put(text, self.path, found, name)

    def take_out(self, text: str, name: str) -> str:
        """See `Ours`."""
        return self.format.take_out(text, self.path, name)


def find(path: Path, ours: Ours) -> Any:
    """What of ours stands in a file; None: nothing, or there is no file.

    Raises:
        RelayError: ``bad_args``, it cannot be read or is broken.
    """
    return ours.find(read(path) or "", str(path))


def is_current(path: Path, ours: Ours) -> bool:
    """Whether ours stands in a file, and as it should.

    Raises:
        RelayError: as for `find`; or something else stands in our place.
    """
    before = read(path)
    return before is not None and ours.put(before, str(path)) == before


def installing(path: Path, ours: Ours, title: str) -> Sequence[Step]:
    """The step that puts ours in, or brings it up to date; none where it is.

    Raises:
        RelayError: as for `is_current`.
    """
    before = read(path)
    after = ours.put(before or "", str(path))
    return () if after == before else (_step(title, path, before, after, partial(_put, path, ours)),)


def removing(path: Path, ours: Ours, title: str) -> Sequence[Step]:
    """The step that takes ours out; none where it is not.

    Raises:
        RelayError: as for `find`.
    """
    before = read(path)
    if before is None or ours.find(before, str(path)) is None:
        return ()
    return (_step(title, path, before, _without(path, ours, before), partial(_take_out, path, ours)),)


def backup_path(path: Path) -> Path:
    """The file as it was before we first changed it; none: there was no file."""
    return path.with_name(path.name + ".before-ecorelay")


def read(path: Path) -> str | None:
    """The text of a file; None where there is none.

    Raises:
        RelayError: ``bad_args``, it cannot be read, is no UTF-8 (says where), or is far too large.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(files.FILE_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RelayError("bad_args", f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > files.FILE_MAX:
        raise RelayError("bad_args", f"{path} is larger than {files.FILE_MAX // 1024 // 1024} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise RelayError(
            "bad_args", f"{path} is no UTF-8 (at line {line}, column {column}): mend it first"
        ) from None


def _step(title: str, path: Path, before: str | None, after: str | None, do: Callable[[], None]) -> Step:
    shown = [{path.name: text.encode()} if text is not None else {} for text in (before, after)]
    diff = files.difference(*shown)
    if before is None and after is not None and path.suffix in _SETTINGS:
        diff += tuple(f"  {line}" for line in files.changed_lines(b"", after.encode()))
    return Step(title=title, diff=diff, do=do)


def _put(path: Path, ours: Ours) -> None:
    before = read(path)
    _refuse_read_only(path)
    found = ours.find(before or "", str(path))
    after = ours.put(before or "", str(path))
    folders.make(path)
    if found is None and before is not None:
        files.replace(backup_path(path), before.encode(), like=path)
    elif found is None:
        _remove(backup_path(path))
    files.replace(path, after.encode(), like=path)


def _take_out(path: Path, ours: Ours) -> None:
    before = read(path)
    _refuse_read_only(path)
    if before is None or ours.find(before, str(path)) is None:
        return
    left = _without(path, ours, before)
    emptied = folders.leave(path)
    if left is None:
        _remove(Path(os.path.realpath(path)))  # a link that led nowhere does so again
    else:
        files.replace(path, left.encode(), like=path)
    if left == read(backup_path(path)):
        _remove(backup_path(path))
    folders.remove(emptied)


def _without(path: Path, ours: Ours, before: str) -> str | None:
    """The text as we found it, if nothing but ours was changed since; None: there was none.

    Else as it is, without ours.
    """
    name = str(path)
    found, left = read(backup_path(path)), ours.take_out(before, name)
    if found is None and left.strip("\ufeff \t\r\n") in ("", "{}"):
        return None
    # The gap above ours, and below, is ours too.
    if left.rstrip() == (found or "").rstrip():
        return found
    again = ours.put_back(found or "", ours.find(before, name), name)
    return found if again.rstrip() == before.rstrip() else left


def _refuse_read_only(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(path, os.W_OK):
        raise RelayError(
            "bad_args", f"{path} is read-only: make it writable, or change it where it comes from"
        )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot remove {path}: {error.strerror or error}") from error
