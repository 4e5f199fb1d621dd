"""What was promised and what was seen, one line an event, on disk: independent of everything it judges.

Every text that is sent begins with the number of its message, so whoever reads it says which message it was,
whatever ids and names the hubs gave it. `scripts.soak_lib.judge` reads the lines, as they come or afterwards.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Kind = Literal["mail", "reply", "ask", "room", "group"]
How = Literal["page", "push", "again", "line"]
"""A page of the inbox, a push, a page read by since_id, a line of a group's history."""

_NUMBER = re.compile(r"#(\d+):")


class Event(Struct, frozen=True, tag=True, tag_field="e", omit_defaults=True):
    """Base of every line. `at`: seconds of the wall clock."""

    at: float


class Lives(Event, frozen=True):
    """A peer, and its hub."""

    peer: int
    hub: str


class Begun(Event, frozen=True):
    """Peer `by` is about to send message `n`: to peer `to`, a group or room (`where`), else to everybody."""

    n: int
    kind: Kind
    by: int
    to: int = -1
    where: str = ""
    size: int = 0


class Acked(Event, frozen=True):
    """It was acknowledged. `count`: of a broadcast, how many were asked."""

    n: int
    msg_id: str
    status: str = ""
    count: int = 0


class Refused(Event, frozen=True):
    """It was answered with an error: nothing was stored, the answer says."""

    n: int
    code: str


class Unknown(Event, frozen=True):
    """No answer came, or one that says it is not known whether it was done."""

    n: int
    code: str


class Shown(Event, frozen=True):
    """Peer `to` was given the text of message `n`.

    `turn` counts its pages (for a line: of that group) or connections (for a push); `seq`: the line's number.
    """

    n: int
    msg_id: str
    to: int
    how: How
    turn: int = 0
    marked: bool = False
    seq: int = 0
    where: str = ""


class Declined(Event, frozen=True):
    """Peer `to` was pushed message `n`, and said that it could not take it: it comes later."""

    n: int
    to: int


class Confirmed(Event, frozen=True):
    """The hub acknowledged that peer `to` has seen these."""

    to: int
    ns: tuple[int, ...]


class Members(Event, frozen=True):
    """From now on exactly these peers are members of a group, and its membership does not change."""

    where: str
    peers: tuple[int, ...]


class Missed(Event, frozen=True):
    """A page said that lines of a group or messages of rooms went out of the ring unread."""

    to: int
    where: str
    count: int


class Steps(Event, frozen=True):
    """What `trace` said of a message at one hub: which steps it has taken."""

    n: int
    hub: str
    steps: tuple[str, ...]


class Ended(Event, frozen=True):
    """Message `n` has a receipt that says why it ended, for peer `to` (-1: any): it is told, so not lost."""

    n: int
    reason: str
    to: int = -1


class Fault(Event, frozen=True):
    """Something was broken (`on`) or is whole again."""

    number: int
    kind: str
    target: str
    on: bool
    hubs: tuple[str, ...] = ()


class Linked(Event, frozen=True):
    """All links were up again, so many seconds after that fault was over."""

    number: int
    kind: str
    seconds: float


class Trouble(Event, frozen=True):
    """A peer noticed something that must not be: a text that is not what was sent, a name that was lost."""

    what: str
    detail: str
    n: int = -1


class Quiet(Event, frozen=True):
    """All is whole, all mailboxes were read to their end: what was acknowledged before `since` is due."""

    since: float


Line = (
    Lives
    | Begun
    | Acked
    | Refused
    | Unknown
    | Shown
    | Declined
    | Confirmed
    | Members
    | Missed
    | Steps
    | Ended
    | Fault
    | Linked
    | Trouble
    | Quiet
)

_decoder = msgspec.json.Decoder(Line)
_encoder = msgspec.json.Encoder()


def text_of(n: int, size: int) -> str:
    """The text of message `n`: nobody else could have written it."""
    head = f"#{n}:"
    if size <= len(head):
        return head
    word = f" {n * 2654435761 % 2**32:08x} ü→{n % 7}"
    return (head + word * (1 + size // len(word)))[:size]


def number_of(text: str) -> int:
    """Which message this is the text of; -1: no text of ours."""
    found = _NUMBER.match(text)
    return int(found[1]) if found else -1


class Ledger:
    """The file, open for writing; each line is with the operating system when `write` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._last = 0

    def number(self) -> int:
        """A number no message has had."""
        self._last += 1
        return self._last

    def write(self, event: Event) -> None:
        """Keep an event."""
        self._file.write(_encoder.encode(event) + b"\n")

    def close(self) -> None:
        """Nothing follows."""
        self._file.close()


def read(path: Path) -> Iterator[Line]:
    """All events of a file."""
    with open(path, "rb") as file:
        for line in file:
            yield _decoder.decode(line)


def now() -> float:
    """The time of an event."""
    return time.time()
