"""A settings file with secrets, as a file and as JSON: whose it is, who may read it, where its JSON breaks.

Two programs read such files: a hub its bridge.json, a relay server its relay-config.json. What the fields
mean is theirs to know.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from pathlib import Path

FILE_MAX: Final = 1024 * 1024
"""Bytes."""


class Twice(ValueError):
    """One object of a JSON text has a key two times."""


def read_private(path: Path, *, foreign: bool = False) -> tuple[bytes, list[str]] | None:
    """The bytes of a file that holds secrets, made 0600 where others could read it.

    Args:
        path: of the file.
        foreign: whether a file that is somebody else's, or cannot be made private, is taken as it is, with a
            note if others can read it: containers and service managers hand out secrets so.

    Returns:
        The bytes and what a person should hear about the file; None where there is no file.

    Raises:
        RelayError: ``bad_args``, it cannot be read, is no file, is not ours, or cannot be made private.
    """
    # Not blocking: somebody may have put a pipe there.
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise RelayError(
                "bad_args", f"{path} is a symbolic link to a file that is not there: mend or remove it"
            ) from None
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise RelayError("bad_args", f"{path} is in the way and is no file: move it away")
        notes = _make_private(path, handle, found, foreign=foreign)
        with open(handle, "rb", closefd=False) as file:
            data = file.read(FILE_MAX + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(handle)
    if len(data) > FILE_MAX:
        raise RelayError(
            "bad_args", f"{path} is longer than {FILE_MAX:,} bytes: is it really a settings file?"
        )
    return data, notes


def _unreadable(path: Path, error: OSError) -> RelayError:
    return RelayError("bad_args", f"{path} cannot be read: {error.strerror or error}")


def _make_private(path: Path, handle: int, found: os.stat_result, *, foreign: bool) -> list[str]:
    if sys.platform == "win32":
        return []  # modes mean nothing there; the user's data directory is private by its access list
    if foreign and found.st_uid != os.geteuid():
        return _readable_by_all(path) if found.st_mode & 0o007 else []
    if found.st_uid != os.geteuid():
        raise RelayError(
            "bad_args",
            f"{path} belongs to user id {found.st_uid}, not to you (user id {os.geteuid()}): make it yours "
            "(chown), or run as its owner",
        )
    if not found.st_mode & 0o077:
        return []
    try:
        os.fchmod(handle, 0o600)
    except OSError as error:
        if foreign:
            return _readable_by_all(path) if found.st_mode & 0o007 else []
        raise RelayError(
            "bad_args",
            f"others can read the secret in {path}, and it cannot be made private "
            f"({error.strerror or error}): move it to a disk where chmod 600 works",
        ) from None
    could = "change" if found.st_mode & 0o022 else "read"
    return [
        f"others could {could} {path} (mode {stat.S_IMODE(found.st_mode):04o}): it is 0600 now; if others "
        "use this machine, change the secret"
    ]


def _readable_by_all(path: Path) -> list[str]:
    return [f"every user of this machine can read the secret in {path}: chmod o= it, where it comes from"]


def parse_json(data: bytes, path: Path, *, maker: str = "ecorelay bridge-init") -> dict[str, Any]:
    """The one JSON object in a settings file. A byte order mark before it is fine.

    Args:
        data: the file.
        path: of it, for the sentences.
        maker: the command that writes such a file.

    Raises:
        RelayError: ``bad_args``, it is none; says the line, the column and what is there.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RelayError("bad_args", f"{path} is UTF-16: save it again as UTF-8")
    try:
        # Editors on Windows put a byte order mark first.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RelayError("bad_args", f"{path} is not UTF-8 (line {line}): save it again as UTF-8") from None
    if not text.strip():
        raise RelayError("bad_args", f"{path} is empty: `{maker}` writes one, or remove it")
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise RelayError("bad_args", _where(path, text, error)) from None
    except Twice as error:
        raise RelayError("bad_args", f"{path}: {error}") from None
    except RecursionError:
        raise RelayError("bad_args", f"{path} is no valid JSON: nested too deeply") from None
    except ValueError:
        # Python's own bound on the digits of one number, and NaN.
        raise RelayError("bad_args", f"{path} is no valid JSON: it holds a number that is none") from None
    if not isinstance(value, dict):
        raise RelayError("bad_args", f"{path} must be one JSON object: it begins with {{ and ends with }}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            # The field's name, never its value: it may be the secret.
            raise Twice(f"{key[:40]!r} stands there twice in one object: take one out")
        found[key] = value
    return found


def _no_constant(_: str) -> NoReturn:
    raise ValueError("a number that JSON does not know")


def _where(path: Path, text: str, error: json.JSONDecodeError) -> str:
    """One sentence with line and column. Quotes at most one character of the file: it holds secrets."""
    at = error.pos
    comma = at
    if text[at : at + 1] != ",":
        comma = len(text[:at].rstrip()) - 1
    closing = text[comma + 1 :].lstrip()[:1]
    if text[comma : comma + 1] == "," and closing in ("}", "]"):
        return f"{path} is no valid JSON: {_place(text, comma)} is a comma before {closing}: take it out"
    here = f"{path} is no valid JSON at {_place(text, at)}"
    found = text[at : at + 1]
    if not found:
        return f"{here}: the file ends in the middle (a }} or a quote is missing)"
    if text.startswith(("//", "/*", "#"), at):
        return f"{here}: JSON knows no comments: take it out"
    if found == "'":
        return f"{here}: texts stand between double quotes, not single ones"
    if found in "\u201c\u201d\u201e\u2018\u2019":
        return f"{here}: these are typographic quotes; JSON needs the plain double quote"
    if "delimiter: ':'" in error.msg or error.msg.startswith("Expecting ':'"):
        return f"{here}: a colon is missing after the field's name"
    if error.msg.startswith("Expecting ','"):
        return f"{here}: a comma is missing before it"
    if error.msg.startswith("Extra data"):
        return f"{here}: the object has ended, but something follows"
    if error.msg.startswith("Invalid control"):
        return f"{here}: a text goes over the end of its line (a closing quote is missing, or write \\n)"
    if error.msg.startswith("Invalid \\"):
        return f"{here}: a backslash in a text must be written twice"
    if error.msg.startswith("Unterminated"):
        return f"{here}: a text that begins there has no closing quote"
    if error.msg.startswith("Expecting property"):
        return f"{here}: a field's name in double quotes must stand there"
    return f"{here}: a value is missing or is none (texts need double quotes)"


def _place(text: str, at: int) -> str:
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    return f"line {line}, column {column}"


# --- words about values: their kind, never themselves, for any may be a secret in the wrong place ----------


def kind_of(value: object) -> str:
    """The kind of a JSON value, in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"


def shown(text: str) -> str:
    """A text that is no secret, short, without what could disturb a terminal."""
    # ascii() also keeps control characters and half characters off it.
    return ascii(text if len(text) <= 40 else text[:37] + "...")


def encodable(text: str) -> bool:
    """Whether a text is one: JSON can write halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
