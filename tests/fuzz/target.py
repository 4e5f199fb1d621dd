"""What a fuzzer is pointed at: a function that takes any bytes, and what to begin with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

CORPUS = Path(__file__).parent / "corpus"
"""A folder for each target, with inputs that once showed something new."""


class Target(NamedTuple):
    """One door for foreign bytes.

    Attributes:
        name: what it is called on the command line, and its folder of the corpus.
        run: takes any bytes and returns. Whatever it raises is a bug: AssertionError, a promise that was
            broken; anything else, an error nobody expects at that door.
        seeds: inputs to begin with, whole and right ones.
        words: what such inputs are made of.
        longest: bytes worth trying.
        share: of the default run's tries: less where one takes long.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    longest: int = 2_000
    share: float = 1.0

    def kept(self) -> list[bytes]:
        """The inputs of the corpus, in an order that is the same everywhere."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for files that are read at once: in memory, where the system has such a place."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="ecorelay-fuzz-", dir=memory)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing: no event loop is needed for it."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        found: T = ended.value
        return found
    coroutine.close()
    raise AssertionError("it waits")


def chunks(data: bytes) -> list[bytes]:
    """The bytes as a network might cut them: the first of them says into pieces of how many."""
    size = data[0] + 1 if data else 1
    return [data[at : at + size] for at in range(1, len(data), size)]


def text_of(data: bytes) -> str:
    """Any text, halves of surrogate pairs too."""
    return data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("utf-8", "replace")


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
