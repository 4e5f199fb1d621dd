"""What reaches a terminal of what peers wrote."""

from __future__ import annotations

import contextlib
import io
import json
import unicodedata
from collections.abc import Iterator

from ecorelay import wire
from ecorelay.cli import screen, watch_command
from ecorelay.link_wire import plain
from tests.fuzz.target import Target, text_of

_TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def moves(character: str) -> bool:
    """Whether a terminal does more with it than show it: controls, breaks of lines, marks that turn text."""
    return (
        unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")
        or unicodedata.bidirectional(character) in _TURNS
        or character in "\u200e\u200f\u061c\ufeff"
    )


@contextlib.contextmanager
def printed() -> Iterator[io.StringIO]:
    """Both streams of the terminal."""
    both = io.StringIO()
    with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
        yield both


def terminal(data: bytes) -> None:
    """No word of a peer's does more than be seen, wherever it stands; scripts get all of it, harmless too."""
    text = text_of(data)
    assert not any(map(moves, screen.line(text)))
    shown = screen.lines(text)
    assert not any(moves(each) for each in shown if each not in "\n\t")
    assert all(line.startswith("    ") or not line for line in shown.split("\n"))
    assert not any(map(moves, plain(text)))
    with printed() as both:
        screen.say(text)
        screen.fail(text)
        screen.fail(f"x\n{text}")
        screen.out(screen.table([(screen.line(text), "b"), ("c", screen.line(text))]))
        screen.out(watch_command._shown(_activity(jsonable(text)), jsonable(text), "b", own=True))
    assert not any(moves(each) for each in both.getvalue() if each != "\n")
    with printed() as both:
        screen.out_json(text=jsonable(text), **{"a\x1b": 1})
    assert not any(map(moves, both.getvalue().rstrip("\n")))
    assert json.loads(both.getvalue())["text"] == jsonable(text)


def _activity(text: str) -> wire.Activity:
    return wire.Activity(
        what="stored",
        ts=len(text),
        peer=text,
        to=text,
        msg_id=text,
        kind=text,
        text=text,
        size=len(text),
        carrier=text,
    )


def jsonable(text: str) -> str:
    """A text that can have come from a hub: without halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode()


TARGETS = (
    Target(
        "terminal",
        terminal,
        (
            "\x1b]0;owned\x07\x1b[2J \u202egnp\u2066 \x9b31m\r\nover\u200b\ufeff\U000e0041".encode(),
            "Ключ 鍵 مفتاح 👩‍💻 é\n\tb\r\nc".encode(),
            b"error: x\n       y\r\r\n",
        ),
        (
            "\u2028".encode(),
            "\u2029".encode(),
            "\x85".encode(),
            b"\x0b",
            b"\x0c",
            b"\x1c",
            "\u2067".encode(),
            b"\r",
        ),
    ),
)
