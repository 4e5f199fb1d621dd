"""What to say about a setting that is wrong. Imported only when one is."""

from __future__ import annotations

import datetime
import difflib
from typing import TYPE_CHECKING, Any

import msgspec

from ecorelay.config import NUMBER_MAX
from ecorelay.names import NAME_PATTERN, NAME_RULE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_KINDS = (
    (bool, "a truth value"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "a text"),
    (list, "a list"),
    (dict, "a table"),
    (datetime.date | datetime.time, "a date or time"),
)
_SHOWN_MAX = 40


def shown(value: object) -> str:
    """The kind of `value`, with the value itself where it is short."""
    word = next((word for kind, word in _KINDS if isinstance(value, kind)), "something else")
    if isinstance(value, bool):
        return f"{word} ({str(value).lower()})"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN_MAX:  # Python does not even spell a very long one
        return word
    if isinstance(value, str | int | float) and len(repr(value)) <= _SHOWN_MAX:
        return f"{word} ({value!r})"
    return word


def wrong_value(key: str, value: object, kind: Any, origin: str) -> str:
    """One sentence: which setting, what it is, where it was set, what it must be."""
    wanted = _wanted(kind)
    if isinstance(value, int) and value > NUMBER_MAX and wanted.startswith("a whole"):
        wanted = f"at most {NUMBER_MAX:,}"
    return f"{key} is {shown(value)} in {origin}: it must be {wanted}"


def _wanted(kind: Any) -> str:
    match msgspec.inspect.type_info(kind):
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.LiteralType(values=values):
            return "one of " + ", ".join(repr(value) for value in sorted(values, key=str))
        case msgspec.inspect.StrType(pattern=pattern) if pattern == NAME_PATTERN:
            return f"a name: {NAME_RULE}"
        case msgspec.inspect.IntType(ge=low, le=high):
            return "a whole number" + _bounds(low, high)
        case msgspec.inspect.FloatType(gt=float() | int() as above):
            return f"a number above {above:g}"
        case msgspec.inspect.FloatType(ge=low):
            return "a number" + _bounds(low, None)
        case _:
            return "something else"


def _bounds(low: float | None, high: float | None) -> str:
    if high is not None:
        return f" from {low or 0:,} to {high:,}"
    return "" if low is None else f", at least {low:,}"


def unknown_key(key: str, known: Iterable[str], origin: str) -> str:
    """One sentence about a key of config.toml that is none, with the nearest that is."""
    by_tail = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key.rpartition(".")[2].lower(), by_tail, n=1, cutoff=0.6)
    if not near:
        return f"{key} in {origin} is no setting: take it out (the README lists all)"
    name = by_tail[near[0]]
    place = ""
    if name.startswith("limits.") != key.startswith("limits."):
        place = (
            " (it stands under [limits])" if name.startswith("limits.") else " (it stands above all tables)"
        )
    return f"{key} in {origin} is no setting: do you mean {name}{place}?"


def unknown_variable(name: str, known: Mapping[str, str]) -> list[str]:
    """A sentence about a variable that looks like a misspelt setting; none where other parts may own it."""
    tails = {variable.removeprefix("ECORELAY_"): variable for variable in known}
    tail = name.removeprefix("ECORELAY_")
    near = difflib.get_close_matches(tail, tails, n=1, cutoff=0.8)
    if not near and not tail.startswith("LIMITS_"):
        return []
    hint = f"do you mean {tails[near[0]]}?" if near else "unset it (the README lists all)"
    return [f"the variable {name} is no setting: {hint}"]
