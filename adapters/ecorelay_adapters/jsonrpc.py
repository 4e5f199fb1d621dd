"""JSON-RPC 2.0 on lines: the one door through which a client's bytes become messages.

A line is split off as bytes and decoded only when it is whole, so a character cut by a read is never
damaged. Whatever arrives is either a message or a :class:`Fault` that says how to answer it; nothing
else is raised.

See https://www.jsonrpc.org/specification; batches are part of MCP 2025-03-26 only, and are answered
whatever version was agreed upon.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_MAX: Final = 16 * 1024 * 1024
"""Bytes of one line, its newline not counted."""
BATCH_MAX: Final = 100
"""Messages of one batch."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

Id: TypeAlias = str | int | float | None
"""A request's id, sent back as it came. null is no id in MCP; JSON-RPC allows it, so it is answered."""

_EDGE: Final = 512
"""Bytes kept of each end of a line that is too long: its id stands at one of them."""


class Fault(Exception):
    """What a client sent that cannot be served, with the error it is answered.

    Args:
        code: JSON-RPC error code.
        message: what is wrong and what would be right, without quoting the client's bytes.
        id: the request's id, as far as it could be found.
    """

    def __init__(self, code: int, message: str, id: Id = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id


class Message(Struct, frozen=True):
    """One request or notification (`is_request` false), its parameters still undecoded."""

    method: str
    id: Id = None
    is_request: bool = False
    params: bytes = b"{}"


class Response(Struct, frozen=True):
    """A client's answer to a request of ours."""

    id: Id


class Batch(Struct, frozen=True):
    """The messages of one line. `array` says whether they came, and are answered, as an array."""

    messages: tuple[Message | Response | Fault, ...]
    array: bool = False


class TooLong(Struct, frozen=True):
    """Stands for a line over the limit: its first and last bytes."""

    head: bytes
    tail: bytes


class Lines:
    """Splits a byte stream into lines without their newline; blank ones are left out.

    Memory stays within `limit` bytes and one chunk: of a longer line only both ends are kept.
    """

    def __init__(self, limit: int = LINE_MAX) -> None:
        self._limit = limit
        self._start = bytearray()
        self._end: bytes | None = None  # set while a line over the limit passes by

    @property
    def partial(self) -> bool:
        """Whether a line has begun that is not whole yet."""
        return bool(self._start)

    def feed(self, chunk: bytes | bytearray) -> Iterator[bytes | TooLong]:
        """Take what a read returned; yield the lines it completes."""
        *pieces, rest = bytes(chunk).split(b"\n")
        for piece in pieces:
            self._take(piece)
            line, end = self._start, self._end
            self._start, self._end = bytearray(), None
            if end is not None:
                yield TooLong(bytes(line), end)
            elif line.strip():
                yield bytes(line)
        self._take(rest)

    def _take(self, piece: bytes) -> None:
        if self._end is not None:
            self._end = (self._end + piece[-_EDGE:])[-_EDGE:]
        elif len(self._start) + len(piece) <= self._limit:
            self._start += piece
        else:
            edge = (self._start[-_EDGE:] + piece[-_EDGE:])[-_EDGE:]
            self._start = (self._start[:_EDGE] + piece[:_EDGE])[:_EDGE]
            self._end = bytes(edge)


class _Members(Struct):
    """What a JSON-RPC object may have; judged in `_message`, where the right error code is known."""

    jsonrpc: Any = None
    id: Any = UNSET
    method: Any = UNSET
    params: Raw = Raw(b"")
    result: Raw = Raw(b"")
    error: Raw = Raw(b"")


_members = msgspec.json.Decoder(_Members)
_array = msgspec.json.Decoder(list[Raw])

# An id that is certainly the outermost object's: the first member, or the last one before the final
# brace. Clients write it in one of these places.
_ID: Final = rb'"id"\s*:\s*(-?\d{1,18}|"[^"\\\x00-\x1f]{0,200}")'
_FIRST_ID = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID + rb"\s*[,}]")
_LAST_ID = re.compile(rb",\s*" + _ID + rb"\s*\}\s*\Z")

# JavaScript writes half of a surrogate pair where a string was cut, and msgspec refuses it. The first two
# branches step over what is fine: any other escape (also an escaped backslash), a whole pair. (No possessive
# repetition of a choice, which would do it at once: Python before 3.11.5 gets that wrong.)
_HEX: Final = rb"[0-9a-fA-F]{2}"
_ESCAPES: Final = re.compile(
    rb"\\[^u]|\\u[dD][89abAB]" + _HEX + rb"\\u[dD][c-fC-F]" + _HEX
    + rb"|\\u([dD][89a-fA-F]" + _HEX + rb")",
    re.DOTALL,
)  # fmt: skip


def mend_surrogates(line: bytes) -> bytes:
    """The same JSON with U+FFFD in place of every lone surrogate."""
    if b"\\ud" not in line and b"\\uD" not in line:
        return line
    mended, at = bytearray(), 0
    for found in _ESCAPES.finditer(line):
        if found[1]:
            mended += line[at : found.start()] + rb"\ufffd"
            at = found.end()
    return bytes(mended + line[at:]) if at else line


def parse(line: bytes | TooLong) -> Batch:
    """Decode one line.

    Raises:
        Fault: the whole line cannot be used. A bad message of a batch is a `Fault` in its place.
    """
    if isinstance(line, TooLong):
        found = _find_id(line.head, line.tail)
        raise Fault(INVALID_REQUEST, f"a line is at most {LINE_MAX} bytes", found)
    line = mend_surrogates(line)
    try:
        if not line.isascii():
            line.decode()  # msgspec does not look into strings that it skips
        if not line.lstrip().startswith(b"["):
            return Batch((_message(line),))
        elements = _array.decode(line)
        if not 0 < len(elements) <= BATCH_MAX:
            raise Fault(INVALID_REQUEST, f"a batch has 1 to {BATCH_MAX} messages")
        return Batch(tuple(map(_element, elements)), array=True)
    except UnicodeDecodeError:
        raise Fault(PARSE_ERROR, "not UTF-8", _find_id(line, line)) from None
    except RecursionError:
        raise Fault(PARSE_ERROR, "nested too deeply", _find_id(line, line)) from None
    except msgspec.DecodeError as error:
        raise Fault(PARSE_ERROR, f"not JSON: {error}") from None


def _element(raw: Raw) -> Message | Response | Fault:
    try:
        return _message(raw)
    except Fault as fault:
        return fault


def _message(raw: bytes | Raw) -> Message | Response:
    try:
        members = _members.decode(raw)
    except msgspec.ValidationError as error:
        raise Fault(INVALID_REQUEST, f"no JSON-RPC message: {error}") from None
    is_request = members.id is not UNSET
    if isinstance(members.id, bool | list | dict):
        raise Fault(INVALID_REQUEST, "id is a string, a number or null")
    id: Id = members.id if is_request else None
    if members.jsonrpc != "2.0":
        raise Fault(INVALID_REQUEST, 'jsonrpc is "2.0"', id)
    if members.method is UNSET and (bytes(members.result) or bytes(members.error)):
        return Response(id)
    if not isinstance(members.method, str):
        raise Fault(INVALID_REQUEST, "method is a string", id)
    params = bytes(members.params)
    if params in (b"", b"null"):
        params = b"{}"
    elif params[:1] not in b"{[":
        raise Fault(INVALID_REQUEST, "params is an object", id)
    return Message(members.method, id, is_request, params)


def _find_id(head: bytes, tail: bytes) -> Id:
    found = _FIRST_ID.match(head[:_EDGE]) or _LAST_ID.search(tail[-_EDGE:])
    if found is None:
        return None
    try:
        return msgspec.json.decode(found[1], type=str | int)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


_Params = TypeVar("_Params")


def decode_params(message: Message, kind: type[_Params]) -> _Params:
    """The message's parameters as a struct.

    Raises:
        Fault: they are not what the method takes.
    """
    try:
        return msgspec.json.decode(message.params, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Fault(INVALID_PARAMS, str(error), message.id) from None


def clean(text: str) -> str:
    """The text with U+FFFD for lone surrogates (from a file name, say), which JSON has no bytes for."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def answer(id: Id, result: object) -> bytes:
    """A request's result as JSON, without newline."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": id, "result": result})


def refusal(fault: Fault) -> bytes:
    """The error a request is answered, as JSON without newline."""
    error = {"code": fault.code, "message": fault.message}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": fault.id, "error": error})


def notification(method: str, params: object) -> bytes:
    """A notification as JSON, without newline."""
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params})
