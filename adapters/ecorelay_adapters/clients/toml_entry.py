"""One entry of ours in a TOML file of somebody else's: put in, found, taken out. Text to text, no I/O.

Comments, order and keys we do not know stay. Before a changed text is given out, it is read by the standard
library and compared with what it must mean.
"""

from __future__ import annotations

import copy
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Mapping

BOM: Final = "\ufeff"
DEPTH_MAX: Final = 100
"""Of tables and lists within each other."""


def parse(text: str, name: str) -> dict[str, Any]:
    """What a file holds.

    Args:
        text: with or without a byte order mark.
        name: of the file, for people.

    Raises:
        RelayError: ``bad_args``, it is no TOML; says where.
    """
    text = text.removeprefix(BOM).replace("\r\n", "\n")
    try:
        found = tomllib.loads(text)
        _refuse_deep(found)
        return found
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        lines = text.split("\n")
        end = f"at line {len(lines)}, column {len(lines[-1]) + 1}"
        why = str(error).replace("at end of document", end)
        raise RelayError("bad_args", f"{name} is no valid TOML ({why}): mend it first") from None
    except ValueError:  # Python's own bound on the digits of one number
        why = "a number that is far too long"
        raise RelayError("bad_args", f"{name} is no valid TOML ({why}): mend it first") from None


def _refuse_deep(data: Any) -> None:
    """Raises RecursionError: dotted keys nest without nesting the parser, and what comes after would fall."""
    level = [data]
    for _ in range(DEPTH_MAX):
        members = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for inner in members for each in inner if isinstance(each, dict | list)]
        if not level:
            return
    raise RecursionError("nested too deeply")


def find(data: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """The table at `path`, if there is one."""
    outer = data.get(path[0])
    inner = outer.get(path[1]) if isinstance(outer, dict) else None
    return inner if isinstance(inner, dict) else None


def put(text: str, path: tuple[str, ...], values: Mapping[str, Any], name: str) -> str:
    """The text with `values` in the table at `path`; other members of that table stay.

    A table among the values (``env``) is merged likewise.

    Raises:
        RelayError: ``bad_args``, the text is no TOML, or something else stands in our place.
    """
    wanted = parse(text, name)
    outer = wanted.setdefault(path[0], {})
    inner = outer.setdefault(path[1], {}) if isinstance(outer, dict) else None
    if not isinstance(inner, dict):
        raise RelayError("bad_args", f"{'.'.join(path)} in {name} is no table: mend it first")
    _merge(inner, values)
    if _same(parse(text, name), wanted):
        return text
    return _edited(text, wanted, path, values, name)


def take_out(text: str, path: tuple[str, ...], name: str) -> str:
    """The text without what is at `path`, and without the tables around it that are empty then.

    Raises:
        RelayError: ``bad_args``, the text is no TOML.
    """
    wanted = parse(text, name)
    try:
        _take(wanted, path)
    except (KeyError, TypeError):
        return text
    return _edited(text, wanted, path, None, name)


def _merge(table: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            inner = table.setdefault(key, {})
            if isinstance(inner, dict):
                inner.update(value)
                continue
        table[key] = copy.deepcopy(value)


def _take(data: Any, path: tuple[str, ...]) -> None:
    """Raises KeyError or TypeError where there is nothing at `path`."""
    if len(path) == 1:
        del data[path[0]]
        return
    _take(data[path[0]], path[1:])
    if not data[path[0]]:
        del data[path[0]]


def _edited(
    text: str, wanted: dict[str, Any], path: tuple[str, ...], values: Mapping[str, Any] | None, name: str
) -> str:
    bom = BOM if text.startswith(BOM) else ""
    body = text.removeprefix(bom)
    crlf = "\r\n" in body and not re.search(r"(?<!\r)\n", body)
    plain = body.replace("\r\n", "\n") if crlf else body
    for edit in (_append, _edit):
        changed = edit(plain, path, values)
        try:
            if changed is not None and _same(parse(changed, name), wanted):
                return bom + (changed.replace("\n", "\r\n") if crlf else changed)
        except RelayError:
            continue
    raise RelayError(
        "bad_args",
        f"{'.'.join(path)} in {name} is written in a way that ecorelay cannot change: do it by hand",
    )


def _same(one: Any, other: Any) -> bool:
    """Equal as TOML: true is not 1, and nan is nan."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one != one and other != other)


def _append(text: str, path: tuple[str, ...], values: Mapping[str, Any] | None) -> str | None:
    """A table of our own at the end: nothing else moves. Not where one is there already."""
    if values is None:
        return None
    import tomlkit

    table = tomlkit.table()
    _fill(table, values)
    block = tomlkit.document()
    outer = tomlkit.table(is_super_table=True)
    outer.append(path[1], table)
    block.append(path[0], outer)
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return text + gap + tomlkit.dumps(block)


def _edit(text: str, path: tuple[str, ...], values: Mapping[str, Any] | None) -> str | None:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        if values is None:
            _take(document, path)
        else:
            outer: Any = document.get(path[0])
            if outer is None:
                document[path[0]] = outer = tomlkit.table(is_super_table=True)
            if path[1] not in outer:
                inline = isinstance(outer, tomlkit.items.InlineTable)
                outer[path[1]] = tomlkit.inline_table() if inline else tomlkit.table()
            _fill(outer[path[1]], values)
        return tomlkit.dumps(document)
    except (TOMLKitError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _fill(table: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _fill(table[key], value)
        elif table.get(key) != value:
            table[key] = value
