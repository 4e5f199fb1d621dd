"""One entry of ours in a JSON file of somebody else's: put in, found, taken out. Text to text, no I/O.

The JSON may hold ``//`` and ``/* */`` comments and commas before a closing bracket, as the settings of
assistants do. Of two members of one name the last counts, as everywhere. A change touches the characters
that it is about and no others: comments, order, indentation and line ends stay. Before a changed text is
given out, it is read again and compared with what it must mean.

What is new is written as these programs write it themselves (``JSON.stringify`` with an indent), in one line
where what is around it stands in one line.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ecorelay.errors import RelayError
from ecorelay_adapters.clients.json_text import BOM, Text, Value, read

if TYPE_CHECKING:
    from ecorelay_adapters.clients.json_text import Slot

Edit = tuple[int, int, str]
"""Characters from, up to, and what they become."""


def parse(text: str, name: str) -> dict[str, Any]:
    """What a file holds; nothing but blanks and comments is an empty object.

    Args:
        text: with or without a byte order mark.
        name: of the file, for people.

    Raises:
        RelayError: ``bad_args``, it is no JSON object; says where.
    """
    root = read(text, name).root
    return {} if root is None else root.data


def find(data: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any] | None:
    """The object at `path`, if there is one."""
    found: Any = data
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else None


def put(text: str, path: Sequence[str], values: Mapping[str, Any], name: str) -> str:
    """The text with `values` in the object at `path` (empty: the whole file); its other members stay.

    An object among the values (``env``) is merged likewise.

    Raises:
        RelayError: ``bad_args``, the text is no JSON, or something else stands in our place.
    """
    wanted = parse(text, name)
    _merge(_made(wanted, path, {}, name), values)
    return _edited(text, wanted, (), name, lambda t: _putting(t, path, values))


def take_out(text: str, path: Sequence[str], name: str) -> str:
    """The text without what is at `path`, and without the objects around it that are empty then.

    Raises:
        RelayError: ``bad_args``, the text is no JSON.
    """
    wanted = parse(text, name)
    around: Any = wanted
    for key in path[:-1]:
        around = around.get(key) if isinstance(around, dict) else None
    if not isinstance(around, dict) or path[-1] not in around:
        return text
    del around[(key := path[-1])]
    return _edited(
        text, wanted, path[:-1], name, lambda t: _taking(t, path[:-1], lambda s: s.key == path[-1])
    )


def items(data: Mapping[str, Any], path: Sequence[str]) -> list[Any]:
    """The list at `path`; empty where there is none."""
    around = find(data, path[:-1]) or {}
    found = around.get(path[-1])
    return found if isinstance(found, list) else []


def put_item(
    text: str, path: Sequence[str], item: Mapping[str, Any], is_ours: Callable[[Any], bool], name: str
) -> str:
    """The text with `item` in the list at `path`: in place of the first that is ours, else at the end.

    One that is ours keeps members that `item` has not.

    Raises:
        RelayError: ``bad_args``, the text is no JSON, or something else stands in place of the list.
    """
    wanted = parse(text, name)
    found = _made(wanted, path, [], name)
    mine = next((each for each in found if is_ours(each)), None)
    if isinstance(mine, dict):
        _merge(mine, item)
    else:
        found.append(copy.deepcopy(dict(item)))
    return _edited(text, wanted, (), name, lambda t: _putting_item(t, path, item, is_ours))


def take_item(text: str, path: Sequence[str], is_ours: Callable[[Any], bool], name: str) -> str:
    """The text without the items of the list at `path` that are ours; what is empty then goes too.

    Raises:
        RelayError: ``bad_args``, the text is no JSON.
    """
    wanted = parse(text, name)
    found = items(wanted, path)
    left = [each for each in found if not is_ours(each)]
    if len(left) == len(found):
        return text
    found[:] = left
    return _edited(text, wanted, path, name, lambda t: _taking(t, path, lambda s: is_ours(s.value.data)))


# --- what it must mean ----------------------------------------------------------------------------------


def _made(data: dict[str, Any], path: Sequence[str], empty: Any, name: str) -> Any:
    """What stands at `path`, of the kind of `empty`; made there if nothing does."""
    around: Any = data
    for number, key in enumerate(path, 1):
        kind = empty if number == len(path) else {}
        around = around.setdefault(key, copy.copy(kind))
        if type(around) is not type(kind):
            what = "object" if isinstance(kind, dict) else "list"
            raise RelayError("bad_args", f"{'.'.join(path[:number])} in {name} is no {what}: mend it first")
    return around


def _merge(data: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(data.get(key), dict):
            _merge(data[key], value)
        else:
            data[key] = copy.deepcopy(value)


def _pruned(data: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """`data` without the containers along `path` that are empty."""
    for length in range(len(path), 0, -1):
        around = find(data, path[: length - 1])
        if around is not None and around.get(path[length - 1]) in ({}, []):
            del around[path[length - 1]]
    return data


def _edited(
    text: str,
    wanted: dict[str, Any],
    path: Sequence[str],
    name: str,
    edits: Callable[[Text], Iterable[Edit]],
) -> str:
    parts: list[str] = []
    at = 0
    for start, end, new in sorted(edits(read(text, name)), key=lambda edit: edit[:2]):
        parts += text[at : max(at, start)], new
        at = max(at, end)
    changed = "".join(parts) + text[at:]
    try:
        changed.encode()
    except UnicodeEncodeError:
        raise RelayError("bad_args", f"{name} cannot hold a path that is no UTF-8") from None
    if not _same(_pruned(parse(changed, name), path), _pruned(wanted, path)):
        raise RelayError("bad_args", f"{name} is written in a way that ecorelay cannot change: do it by hand")
    return changed


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


# --- how it is written ----------------------------------------------------------------------------------


def _putting(text: Text, path: Sequence[str], values: Mapping[str, Any]) -> Iterable[Edit]:
    place = _deepest(text, path)
    if place is None:
        yield _new_file(text, _nested(path, values))
        return
    value, left = place
    if left:
        yield from _append(text, value, [(left[0], _nested(left[1:], values))])
    else:
        yield from _merging(text, value, values)


def _putting_item(
    text: Text, path: Sequence[str], item: Mapping[str, Any], is_ours: Callable[[Any], bool]
) -> Iterable[Edit]:
    place = _deepest(text, path)
    if place is None:
        yield _new_file(text, _nested(path, [item]))
        return
    value, left = place
    if left:
        yield from _append(text, value, [(left[0], _nested(left[1:], [item]))])
        return
    mine = next((slot.value for slot in value.slots if is_ours(slot.value.data)), None)
    if mine is not None and isinstance(mine.data, dict):
        yield from _merging(text, mine, item)
    else:
        yield from _append(text, value, [(None, item)])


def _deepest(text: Text, path: Sequence[str]) -> tuple[Value, Sequence[str]] | None:
    """The container farthest along `path`, and what is left of the path; None: there is no value at all."""
    value = text.root
    if value is None:
        return None
    for number, key in enumerate(path):
        slot = value.member(key)
        if slot is None:
            return value, path[number:]
        value = slot.value
    return value, ()


def _nested(path: Sequence[str], values: Any) -> Any:
    for key in reversed(path):
        values = {key: values}
    return values


def _new_file(text: Text, data: Any) -> Edit:
    body = text.text
    gap = text.eol if body.removeprefix(BOM) and not body.endswith("\n") else ""
    return len(body), len(body), gap + _rendered(text, data, "") + text.eol


def _merging(text: Text, value: Value, values: Mapping[str, Any]) -> Iterable[Edit]:
    new: list[tuple[str | None, Any]] = []
    for key, wanted in values.items():
        slot = value.member(key)
        if slot is None:
            new.append((key, wanted))
        elif isinstance(wanted, Mapping) and isinstance(slot.value.data, dict):
            yield from _merging(text, slot.value, wanted)
        elif not _same(slot.value.data, wanted):
            indent = text.indent_at(slot.start) if value.spread else None
            yield slot.value.start, slot.value.end, _rendered(text, wanted, indent)
    if new:
        yield from _append(text, value, new)


def _append(text: Text, value: Value, new: Sequence[tuple[str | None, Any]]) -> Iterable[Edit]:
    """Put these at the end of a container, after its last comment; a comma at its end stays one."""
    spread = value.spread
    inside = value.end - 1
    at = text.blanks_before(inside)
    last = value.slots[-1] if value.slots else None
    if last is not None and text.starts_line(last.start):
        indent = text.indent_at(last.start)
    else:
        indent = text.indent_at(value.start) + text.unit
    written = [
        ("" if key is None else json.dumps(key, ensure_ascii=False) + ": ")
        + _rendered(text, data, indent if spread else None)
        for key, data in new
    ]
    gap = text.eol + indent if spread else " "
    if last is None:
        end = text.eol + text.indent_at(value.start) if spread and "\n" not in text.text[at:inside] else ""
        first = gap if spread or at > value.start + 1 else ""
        yield at, at, first + f",{gap}".join(written) + end
    elif last.comma is None:
        yield last.value.end, last.value.end, ","
        yield at, at, gap + f",{gap}".join(written)
    else:
        yield at, at, gap + f",{gap}".join(written) + ","


def _rendered(text: Text, data: Any, indent: str | None) -> str:
    """`data` as text; in one line where `indent`, of the line that it begins in, is None."""
    if indent is None:
        return json.dumps(data, ensure_ascii=False)
    lines = json.dumps(data, ensure_ascii=False, indent=text.unit).split("\n")
    return (text.eol + indent).join(lines)


def _taking(text: Text, path: Sequence[str], goes: Callable[[Slot], bool]) -> Iterable[Edit]:
    """Remove what `goes` from the container at `path`, and what is around it as far as it is empty then."""
    around = text.root
    chain: list[tuple[Value, Slot]] = []
    for key in path:
        slot = around.member(key) if around is not None else None
        if around is None or slot is None:
            return
        chain.append((around, slot))
        around = slot.value
    if around is None:
        return
    while chain and all(goes(slot) for slot in around.slots):
        around, gone = chain.pop()
        if len(around.members(gone.key)) > 1:
            # One of the same name before it would count then.
            around = gone.value
            break
        goes = _being(gone)
    yield from _remove(text, around, [slot for slot in around.slots if goes(slot)])


def _being(gone: Slot) -> Callable[[Slot], bool]:
    return lambda slot: slot is gone


def _remove(text: Text, value: Value, gone: Sequence[Slot]) -> Iterable[Edit]:
    goes = frozenset(gone)
    kept = [slot for slot in value.slots if slot not in goes]
    inside = value.start + 1, value.end - 1
    if not kept and not any(inside[0] <= each < inside[1] for each in _outside(text.comments, gone)):
        yield *inside, ""
        return
    line_ends = {end for start, end in text.comments.items() if text.text.startswith("//", start)}
    breaks = _breaks_after(text, value.slots, goes)
    for slot in gone:
        start = text.blanks_before(slot.start)
        end = slot.value.end if slot.comma is None else slot.comma + 1
        if start in line_ends and slot not in breaks:
            start = text.text.index("\n", start) + 1  # that comment's own end
        yield start, slot.value.end, ""
        if slot.comma is not None:
            # In one line, the first that stays moves up to the bracket.
            first = bool(kept) and slot.start < kept[0].start and not value.spread
            yield slot.comma, text.blanks_after(end) if first else end, ""
    last, before = value.slots[-1], kept[-1] if kept else None
    if last in goes and last.comma is None and before is not None and before.comma is not None:
        yield before.comma, before.comma + 1, ""


def _breaks_after(text: Text, slots: Sequence[Slot], goes: frozenset[Slot]) -> set[Slot]:
    """Slots that go after which a line break stays: what goes takes the blanks before it along."""
    found: set[Slot] = set()
    following: Slot | None = None
    for slot in reversed(slots):
        if slot in goes:
            end = slot.value.end if slot.comma is None else slot.comma + 1
            blanks_end = text.blanks_after(end)
            if following is not None and following in goes and following.start == blanks_end:
                stays = following in found
            else:
                stays = "\n" in text.text[end:blanks_end]
            if stays:
                found.add(slot)
        following = slot
    return found


def _outside(comments: Iterable[int], slots: Sequence[Slot]) -> Iterator[int]:
    """Those of these places that are in none of these slots; both stand in their order."""
    number = 0
    for at in comments:
        while number < len(slots) and slots[number].value.end <= at:
            number += 1
        if number == len(slots) or at < slots[number].start:
            yield at
