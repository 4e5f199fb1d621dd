"""JSON with comments, read so that it can be changed in place: each value knows where it stands.

Besides JSON: ``//`` and ``/* */`` comments, a comma before a closing bracket, a byte order mark.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterator

BOM: Final = "\ufeff"
DEPTH_MAX: Final = 100
"""Of containers within containers."""
INDENT: Final = "  "
"""Where a file shows none of its own."""

Extra = Literal["mark", "comment", "comma"]
"""What there may be besides JSON: a byte order mark, comments, a comma before a closing bracket."""

_BLANKS: Final = re.compile(r"[ \t\r\n]*+")
_COMMENT: Final = re.compile(r"//[^\n]*+|/\*.*?\*/", re.DOTALL)
# The outer repetition is not possessive: Python before 3.11.5 gets that wrong around a choice.
_PLAIN: Final = r'[^"\\\x00-\x1f]*+'
_STRING: Final = re.compile(rf'"{_PLAIN}(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{{4}}){_PLAIN})*')
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?(?![0-9A-Za-z_.])")
_WORD: Final = re.compile(r"(true|false|null)(?![0-9A-Za-z_])")
_WORDS: Final[dict[str, object]] = {"true": True, "false": False, "null": None}


@dataclass(eq=False, slots=True)
class Value:
    """A value: characters `start` up to `end`, and what they mean."""

    start: int
    end: int
    data: Any
    slots: list[Slot] = field(default_factory=list)
    """Of an object or a list."""
    spread: bool = False
    """Of an object or a list: what is in it stands, or would stand, in lines of its own."""

    def members(self, key: str | None) -> list[Slot]:
        """All members of an object that have this name."""
        return [slot for slot in self.slots if slot.key == key]

    def member(self, key: str) -> Slot | None:
        """The member of an object that counts under this name."""
        found = self.members(key)
        return found[-1] if found else None


@dataclass(eq=False, slots=True)
class Slot:
    """A place in an object or list. `start`: of its key or value; `comma`: where the one after it stands."""

    start: int
    key: str | None
    value: Value
    comma: int | None = None


@dataclass(eq=False, slots=True)
class Text:
    """A text that has been read. `root` is None where it holds nothing but blanks and comments."""

    text: str
    root: Value | None
    comments: dict[int, int]
    """Where each begins → where it ends: before the line's end, if it is a ``//`` comment."""
    eol: str
    unit: str
    """By how much it indents."""

    def blanks_before(self, at: int) -> int:
        """Where the blanks that end at `at` begin."""
        while at and self.text[at - 1] in " \t\r\n":
            at -= 1
        return at

    def blanks_after(self, at: int) -> int:
        """Where the blanks that begin at `at` end."""
        return _end(_BLANKS, self.text, at)

    def indent_at(self, at: int) -> str:
        """The blanks that the line of `at` begins with."""
        line = self.text.rfind("\n", 0, at) + 1
        found = self.text[line:at]
        return found[: len(found) - len(found.lstrip(" \t"))]

    def starts_line(self, at: int) -> bool:
        """Whether nothing but blanks stands before `at` in its line."""
        return not self.text[self.text.rfind("\n", 0, at) + 1 : at].strip(" \t")


def read(text: str, name: str) -> Text:
    """Read all of it.

    Args:
        text: with or without a byte order mark.
        name: of the file, for people.

    Raises:
        RelayError: ``bad_args``, it is no JSON, or no object; says where.
    """
    scanner = _Scanner(text, name)
    at = scanner.skip(len(BOM) if text.startswith(BOM) else 0)
    root = None
    if at < len(text):
        if text[at] != "{":
            scanner.fail("an object is expected", at)
        root = scanner.value(at, 0)
        end = scanner.skip(root.end)
        if end < len(text):
            scanner.fail("nothing more is expected", end)
    line = text.find("\n")
    found = Text(
        text, root, scanner.comments, "\r\n" if line > 0 and text[line - 1] == "\r" else "\n", INDENT
    )
    if root is not None:
        _spread(found, root, True)
        if root.slots and found.starts_line(root.slots[0].start):
            indent = found.indent_at(root.slots[0].start).removeprefix(found.indent_at(root.start))
            found.unit = indent or INDENT
    return found


def beyond_json(text: str, name: str) -> dict[Extra, str]:
    """What of a text not every program reads: the first of each kind, in words that say where.

    Raises:
        RelayError: as for `read`.
    """
    found = read(text, name)
    places: dict[Extra, tuple[str, int]] = {}
    if text.startswith(BOM):
        places["mark"] = ("a byte order mark", 0)
    if found.comments:
        places["comment"] = ("a comment", min(found.comments))
    if found.root is not None and (commas := list(_last_commas(found.root))):
        places["comma"] = ("a comma before a closing bracket", min(commas))
    return {kind: f"{what} at {_where(text, at)}" for kind, (what, at) in places.items()}


def _last_commas(value: Value) -> Iterator[int]:
    if value.slots and value.slots[-1].comma is not None:
        yield value.slots[-1].comma
    for slot in value.slots:
        yield from _last_commas(slot.value)


def _spread(text: Text, value: Value, empty: bool) -> None:
    """Say of all containers whether they are spread; `empty`: whether this one is, if nothing is in it."""
    at = value.start + 1
    value.spread = empty and not value.slots
    for slot in value.slots:
        value.spread = value.spread or "\n" in text.text[at : slot.start]
        at = slot.value.end
    if isinstance(value.data, (dict, list)):
        value.spread = value.spread or "\n" in text.text[at : value.end]
    for slot in value.slots:
        _spread(text, slot.value, value.spread)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _where(text: str, at: int) -> str:
    start = text.rfind("\n", 0, at) + 1
    if start == 0 and at > 0 and text.startswith(BOM):
        start = len(BOM)
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - start + 1}"


class _Scanner:
    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.comments: dict[int, int] = {}

    def fail(self, why: str, at: int) -> NoReturn:
        """Refuse the text for what stands at `at`."""
        where = f"{why} at {_where(self.text, at)}"
        raise RelayError("bad_args", f"{self.name} is no valid JSON ({where}): mend it first")

    def skip(self, at: int) -> int:
        """Where blanks and comments end."""
        while True:
            at = _end(_BLANKS, self.text, at)
            if self.text[at : at + 1] != "/":
                return at
            end = _end(_COMMENT, self.text, at)
            if end == at:
                self.fail(
                    "a comment that does not end" if self.text.startswith("/*", at) else "a stray /", at
                )
            if self.text[end - 1] == "\r" and self.text.startswith("//", at):
                end -= 1
            self.comments[at] = end
            at = end

    def value(self, at: int, depth: int) -> Value:
        """The value that begins at `at`."""
        first = self.text[at : at + 1]
        if first in ("{", "["):
            return self.container(at, depth)
        if first == '"':
            end = self.string(at)
            return Value(at, end, json.loads(self.text[at:end]))
        if number := _NUMBER.match(self.text, at):
            return Value(at, number.end(), _number(number[0]))
        if word := _WORD.match(self.text, at):
            return Value(at, word.end(), _WORDS[word[1]])
        self.fail("a value is expected", at)

    def string(self, at: int) -> int:
        """Where the string that begins at `at` ends."""
        end = _end(_STRING, self.text, at)
        if end == at:
            self.fail('a name in " is expected', at)
        if self.text[end : end + 1] == '"':
            return end + 1
        self.fail("a bad escape" if self.text[end : end + 1] == "\\" else "a string that does not end", end)

    def container(self, at: int, depth: int) -> Value:
        """The object or list that begins at `at`."""
        if depth >= DEPTH_MAX:
            self.fail("nested too deeply", at)
        is_object = self.text[at] == "{"
        close = "}" if is_object else "]"
        slots: list[Slot] = []
        here = self.skip(at + 1)
        while self.text[here : here + 1] != close:
            if slots and slots[-1].comma is None:
                self.fail(f", or {close} is expected", here)
            start, key = here, None
            if is_object:
                end = self.string(here)
                key = json.loads(self.text[here:end])
                here = self.skip(end)
                if self.text[here : here + 1] != ":":
                    self.fail(": is expected", here)
                here = self.skip(here + 1)
            value = self.value(here, depth + 1)
            slots.append(Slot(start, key, value))
            here = self.skip(value.end)
            if self.text[here : here + 1] == ",":
                slots[-1].comma = here
                here = self.skip(here + 1)
        data: Any = {s.key: s.value.data for s in slots} if is_object else [s.value.data for s in slots]
        return Value(at, here + 1, data, slots)


def _number(word: str) -> int | float:
    try:
        found: int | float = json.loads(word)
    except ValueError:  # more digits than Python takes for an integer
        return float(word)
    return found
