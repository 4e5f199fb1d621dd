"""How to say the same things to the yardstick and to the product.

A load knows only this interface, and both hubs are driven by the same code. Encoders are made once
for a load and called with a number, so that what a message costs the driver does not depend on the
hub either.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_numbers = itertools.count()


class Incoming(msgspec.Struct, gc=False):
    """What a load wants to know of any frame from a hub; both give these the same names."""

    type: str
    req_id: int | str = -1
    msg_id: str = ""
    lease: int = 0
    messages: list[msgspec.Raw] = []
    """Of a page."""
    message: str = ""
    """Of a refusal."""


class Dialect(Protocol):
    """The words of one hub."""

    name: str
    accepted: frozenset[str]
    """Types that answer a send or a broadcast."""
    refused: frozenset[str]
    """Types that mean that something went wrong."""
    pushes: frozenset[str]
    """Types that bring a message."""
    welcome: str
    """Type that answers `hello`."""
    pushes_backlog: bool
    """Whether mail that waited is pushed when its peer connects."""

    def reader(self) -> Callable[[bytes], list[Incoming]]:
        """Turns the bytes of one connection, as they come, into frames."""
        ...

    def hello(self, name: str, *, push: bool) -> bytes:
        """The first frame, answered by `welcome`."""
        ...

    def sender(self, to: str, size: int, me: str = "") -> Callable[[int], bytes]:
        """Encodes a message of `size` bytes, sent by `me`, as the request of a given number."""
        ...

    def broadcaster(self, size: int, me: str = "") -> Callable[[int], bytes]:
        """Encodes a broadcast."""
        ...

    def join(self, room: str) -> bytes:
        """Joins a room, answered by ``room_members``."""
        ...

    def poster(self, room: str, size: int) -> Callable[[int], bytes]:
        """Encodes what is said in a room."""
        ...

    def took(self, msg_ids: Iterable[str]) -> bytes:
        """Acknowledges pushes."""
        ...

    def page(self, req_id: int, limit: int) -> bytes:
        """Asks for a page of mail, answered by ``inbox_page``."""
        ...

    def page_not_shown(self, req_id: int, page: Incoming) -> bytes:
        """Puts a page back, answered by ``done``; empty when there is nothing to put back."""
        ...

    def pong(self, ping: Incoming) -> bytes:
        """Answers ``ping``."""
        ...


_decode = msgspec.json.Decoder(Incoming).decode_lines


class LineReader:
    """JSON, one frame a line."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, data: bytes) -> list[Incoming]:
        """The frames that are complete."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._rest += data
            return []
        lines = self._rest + data[:end]
        self._rest = data[end:]
        return _decode(lines)


def _id_maker() -> Callable[[], str]:
    """Ids with the form and the order of the product's own (ULID), at next to no cost."""
    number = time.time_ns() // 1_000_000
    stamp = ""
    for _ in range(10):
        number, digit = divmod(number, 32)
        stamp = _CROCKFORD[digit] + stamp
    tail = "".join(secrets.choice(_CROCKFORD) for _ in range(4))
    return lambda: f"{stamp}{next(_numbers):012d}{tail}"


def _line(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _template(text_key: str, size: int, **fields: object) -> Callable[[int], bytes]:
    new_id = _id_maker()
    line = _line(req_id="@req", op_id="@op", **fields, **{text_key: "x" * size}).decode()
    before, _, rest = line.partition('"@req"')
    between, _, after = rest.partition("@op")
    return lambda req_id: f"{before}{req_id}{between}{new_id()}{after}".encode()


class Yardstick:
    """The words of `scripts.bench_lib.yardstick`."""

    name = "yardstick"
    accepted = frozenset({"sent", "broadcasted"})
    refused: frozenset[str] = frozenset()
    pushes = frozenset({"push"})
    welcome = "welcome"
    pushes_backlog = False

    def reader(self) -> Callable[[bytes], list[Incoming]]:
        return LineReader()

    def hello(self, name: str, *, push: bool) -> bytes:
        return _line(type="hello", name=name)

    def sender(self, to: str, size: int, me: str = "") -> Callable[[int], bytes]:
        return _template("text", size, type="send", to=to)

    def broadcaster(self, size: int, me: str = "") -> Callable[[int], bytes]:
        return _template("question", size, type="broadcast")

    def join(self, room: str) -> bytes:
        return _line(type="join", req_id=0, room=room)

    def poster(self, room: str, size: int) -> Callable[[int], bytes]:
        return _template("text", size, type="room_send", room=room)

    def took(self, msg_ids: Iterable[str]) -> bytes:
        return b'{"type":"pushed","msg_ids":["%s"]}\n' % '","'.join(msg_ids).encode()

    def page(self, req_id: int, limit: int) -> bytes:
        return _line(type="inbox", req_id=req_id, limit=limit)

    def page_not_shown(self, req_id: int, page: Incoming) -> bytes:
        return b""

    def pong(self, ping: Incoming) -> bytes:
        return b""


class Ecorelay(Yardstick):
    """The words of `ecorelay.wire`; what is not said here is the same for the yardstick."""

    name = "ecorelay"
    accepted = Yardstick.accepted | {"room_sent"}
    refused = frozenset({"failed", "refused", "bye"})
    pushes_backlog = True
    page_budget = 400_000
    """Characters: a page is to be cut by its number of entries."""

    def hello(self, name: str, *, push: bool) -> bytes:
        return _line(type="hello", versions=[1, 1], name=name, pinned=True, push=push, client="bench")

    def page(self, req_id: int, limit: int) -> bytes:
        return _line(type="inbox", req_id=req_id, limit=limit, budget=self.page_budget)

    def page_not_shown(self, req_id: int, page: Incoming) -> bytes:
        return _line(type="release", req_id=req_id, lease=page.lease)

    def pong(self, ping: Incoming) -> bytes:
        return b'{"type":"pong"}\n'

    def adder(self) -> Callable[[str], bytes]:
        """Encodes that there be an address of a name, answered by ``renamed``."""
        new_id = _id_maker()
        return lambda name: _line(type="add_peer", req_id=0, op_id=new_id(), name=name)
