"""Small changes to an input that keep most of its shape: what a bit flip never gets to.

JSON is changed as JSON (another value in one place, a key twice, deeper, longer), any input also as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

_RAW = {
    # Put in as text: Python's JSON would not write them so, or at all.
    "\ue000": "1e400",
    "\ue001": "9" * 4_000,
    "\ue002": "9" * 5_000,
    "\ue003": "-0",
    "\ue004": "NaN",
    "\ue005": "[" * 300 + "]" * 300,
    "\ue006": '{"x":' * 300 + "1" + "}" * 300,
    "\ue007": "0x" + "f" * 5_000,
    "\ue008": "[" * 3_000,
    "\ue009": "1.5",
}
_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    "",
    "x",
    "a" * 300,
    "\ud800",
    "\udfff\ud800",
    "\x00",
    "\x1b]0;x\x07\x1b[2J",
    "\u202e\u2066",
    "\r\n",
    "é" * 70,
    "²",
    "../..",
    "a@b@c",
    "%s{}",
    [],
    {},
    [None],
    {"": ""},
    *_RAW,
)


def bend(data: bytes, random: Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """One to four changes, of JSON where it is some."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        changed = _bent_json(data, random) if random.random() < 0.7 else None
        data = _bent_bytes(data, random, words, others) if changed is None else changed
    return data


def _bent_json(data: bytes, random: Random) -> bytes | None:
    """None: there is no line of JSON in it."""
    lines = data.split(b"\n")
    number = random.randrange(len(lines))
    start = min((at for at in (lines[number].find(b"{"), lines[number].find(b"[")) if at >= 0), default=-1)
    if start < 0:
        return None
    try:
        tree = json.loads(lines[number][start:])
    except (ValueError, RecursionError):
        return None
    tree = _changed(tree, random)
    text = json.dumps(tree, ensure_ascii=random.random() < 0.5)
    for mark, raw in _RAW.items():
        text = text.replace(json.dumps(mark), raw).replace(f'"{mark}"', raw)
    lines[number] = lines[number][:start] + text.encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _changed(tree: Any, random: Random) -> Any:
    places = list(_places(tree))
    if not places or random.random() < 0.03:
        return random.choice(_ODD)
    around, key = random.choice(places)
    match random.randrange(7):
        case 0 | 1 | 2:
            around[key] = random.choice(_ODD)
        case 3:
            around[key] = random.choice(places)[0] if random.random() < 0.2 else [around[key]]
        case 4 if isinstance(around, dict):
            around[random.choice(("", "type", "req_id", "ecorelay", "x", "\ud800"))] = around.pop(key)
        case 5 if isinstance(around, list):
            around.extend([around[key]] * random.choice((1, 2, 200)))
        case _:
            other, place = random.choice(places)
            around[key], other[place] = other[place], around[key]
    try:
        json.dumps(tree)
    except (ValueError, RecursionError):  # it holds itself
        return random.choice(_ODD)
    return tree


def _places(tree: Any, depth: int = 0) -> Any:
    if depth > 20:
        return
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items)[:50]:
        yield tree, key
        yield from _places(value, depth + 1)


def _bent_bytes(data: bytes, random: Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.choice((0, 1, 1, 2, 4, 16, 64)))
    match random.randrange(7):
        case 0:
            new = bytes([random.randrange(256)])
        case 1:
            new = b""
        case 2:
            new = data[start:end] * random.choice((2, 3, 50))
        case 3 if words:
            new = random.choice(words)
        case 4 if others:
            other = random.choice(others)
            at = random.randrange(len(other) + 1)
            new = other[at : at + 64]
        case 5:
            new = random.choice(
                (
                    b"\r\n",
                    b"\0",
                    b"\xff",
                    b"\xed\xa0\x80",
                    b"\\ud800",
                    b"\xe2\x80\xae",
                    b"\x1b[2J",
                    b'"',
                    b"\\",
                )
            )
        case _:
            new = bytes([(data[start] if start < len(data) else 0) ^ (1 << random.randrange(8))])
            end = min(len(data), start + 1)
    return data[:start] + new + data[end:]
