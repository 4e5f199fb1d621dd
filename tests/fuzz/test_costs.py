"""What the worst input costs: time that grows as its size does, and memory within a few times of it.

Time is the processor's, of this thread, for a size and for four times as much: in proportion that is 4, for
an algorithm that goes through the input again for each of its parts 16. Only the ratio of the two is judged,
and the best of some tries, so a busy machine changes nothing.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ecorelay import config, link_wire, relay_wire, wire
from ecorelay.cli import screen
from ecorelay.errors import RelayError, WireError
from ecorelay.framing import LineSplitter
from ecorelay.paths import Paths
from ecorelay.settings_file import parse_json
from ecorelay_adapters import arguments, envelope, hook_page, jsonrpc
from ecorelay_adapters.batches import labelled
from ecorelay_adapters.clients import json_entry, toml_entry
from ecorelay_adapters.clients.json_text import beyond_json
from ecorelay_adapters.envelope import Incoming
from ecorelay_bridge.settings import parse_settings
from ecorelay_relay_server import websocket
from ecorelay_relay_server.door import behind
from ecorelay_relay_server.head import plain_answer, read_head
from ecorelay_relay_server.judge import normal
from tests.fuzz.relays import _at_server
from tests.fuzz.target import scratch

RATIO_MAX = 10.0
"""Between 4, in proportion, and 16, quadratic."""
LEAST_S = 0.002
"""Less than this cannot be told from nothing; the size grows until it is more."""
TRIES = 6
DEFAULT_MAX = 256 * 1024
"""Bytes of an input in the default run."""
KIB = 1024
MIB = 1024 * KIB

_FOLDER = scratch()
ID = "01j5zk3m8v9w2x4y6z7abcdefg"


class Case(NamedTuple):
    """One decoder and one family of inputs.

    Attributes:
        run: does it; raises only what is meant for such input.
        make: an input of about so many bytes.
        times: the memory it may take at most, in sizes of the input.
        most: bytes that it is ever given: its own limit, or what is tried.
        beside: bytes of memory that any input takes.
        least: size to begin with: where what grows with the square outweighs what does not.
    """

    run: Callable[[Any], object]
    make: Callable[[int], Any]
    times: float = 4.0
    most: int = 2 * MIB
    beside: int = 64 * KIB
    least: int = 4 * KIB


def repeated(part: bytes, before: bytes = b"", after: bytes = b"") -> Callable[[int], bytes]:
    """Makes inputs of one part many times."""
    return lambda size: before + part * max(1, (size - len(before) - len(after)) // len(part)) + after


def numbered(part: bytes, before: bytes = b"", after: bytes = b"") -> Callable[[int], bytes]:
    """The same where each part has a number of its own in the place of ``%d``."""

    def make(size: int) -> bytes:
        count = max(1, size // (len(part) + 4))
        return before + b"".join([part % number for number in range(count)]) + after

    return make


def _each(decode: Callable[[Any], Any]) -> Callable[[Any], object]:
    def run(data: Any) -> None:
        with suppress(WireError, RelayError, jsonrpc.Fault, UnicodeDecodeError):
            decode(data)

    return run


def _lines(chunk: int) -> Callable[[bytes], object]:
    def run(data: bytes) -> None:
        splitter = LineSplitter(4 * MIB)
        for at in range(0, len(data), chunk):
            for _ in splitter.feed(data[at : at + chunk]):
                pass

    return run


def _mcp(chunk: int, limit: int = jsonrpc.LINE_MAX) -> Callable[[bytes], object]:
    def run(data: bytes) -> None:
        lines = jsonrpc.Lines(limit)
        for at in range(0, len(data), chunk):
            for line in lines.feed(data[at : at + chunk]):
                with suppress(jsonrpc.Fault):
                    jsonrpc.parse(line)

    return run


def _socket(chunk: int, limit: int = 64 * KIB) -> Callable[[bytes], object]:
    def run(data: bytes) -> None:
        server = _at_server(limit)
        with suppress(WireError):
            for at in range(0, len(data), chunk):
                for _ in server.feed(data[at : at + chunk]):
                    pass

    return run


def _request(data: bytes) -> None:
    head = read_head(data)
    plain_answer(head)
    if head is not None:
        behind(head.forwarded, ())
    with suppress(websocket.Refusal):
        websocket.accept(data)


def _config(data: bytes) -> None:
    paths = Paths(Path(_FOLDER.name))
    paths.config.write_bytes(data)
    config.survey(paths, {})


def _bridge(data: bytes) -> None:
    path = Path("/x/bridge.json")
    parse_settings(parse_json(data, path), path, is_ours=lambda _: False)


def _json_settings(data: bytes) -> None:
    text = data.decode()
    beyond_json(text, "x")
    json_entry.take_out(text, ("mcpServers", "ecorelay"), "x")
    json_entry.put(text, ("mcpServers", "ecorelay"), {"command": "x"}, "x")


def _json_taken(data: bytes) -> None:
    json_entry.take_out(data.decode(), ("mcpServers", "ecorelay"), "x")


def _json_items(data: bytes) -> None:
    text = data.decode()
    json_entry.take_item(text, ("hooks", "stop"), lambda item: item == 1, "x")


def _toml_settings(data: bytes) -> None:
    text = data.decode()
    toml_entry.put(text, ("mcp_servers", "ecorelay"), {"command": "x"}, "x")


def _mail(text: str) -> Incoming:
    return Incoming("message", "api", ID, text, 0)


def _framed(text: str) -> None:
    envelope.channel_params(_mail(text))
    envelope.whole(_mail(text), now_ms=0, word=lambda: "word")
    envelope.beginning(_mail(text), now_ms=0, word=lambda: "word", budget=1_000)


def _hooked(text: str) -> None:
    page = {"messages": [{"msg_id": ID, "kind": "message", "sender": "a", "ts": 0, "text": text}]}
    hook_page.show(page, 8_000, now_ms=0, word=lambda: "word")


def _printed(text: str) -> None:
    screen.line(text)
    screen.lines(text)
    link_wire.plain(text)


def text(part: str) -> Callable[[int], str]:
    return lambda size: part * (size // len(part.encode()))


SEND = b'{"type":"send","req_id":5,"op_id":"%s","to":"b","text":"' % ID.encode()
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"t":"'
FRAME = b"\x82\x80\0\0\0\0"

CASES = {
    # Frames of the local hop.
    "local: a text of escapes": Case(wire.decode_from_session, repeated(b"\\n", SEND, b'"}')),
    "local: a text of escaped letters": Case(wire.decode_from_session, repeated(b"\\u0041", SEND, b'"}')),
    "local: a text that does not end": Case(_each(wire.decode_from_session), repeated(b'\\"', SEND)),
    "local: backslashes": Case(_each(wire.decode_from_session), repeated(b"\\", SEND)),
    "local: quotes": Case(_each(wire.decode_from_session), repeated(b'"')),
    "local: lists in lists": Case(_each(wire.decode_from_session), repeated(b"[", b'{"type":"rooms","x":')),
    "local: objects in objects": Case(_each(wire.decode_from_session), repeated(b'{"x":')),
    "local: keys nobody knows": Case(
        wire.decode_from_session, numbered(b',"k%d":1', b'{"type":"rooms","req_id":5', b"}")
    ),
    "local: one key again and again": Case(
        wire.decode_from_session, repeated(b',"req_id":5', b'{"type":"rooms"', b"}")
    ),
    "local: empty objects": Case(_each(wire.decode_from_session), repeated(b"{},", b'{"type":"send","x":[')),
    "local: a number of many digits": Case(
        _each(wire.decode_from_session), repeated(b"9", b'{"type":"release","req_id":5,"lease":', b"}")
    ),
    "local: a fraction of many digits": Case(
        _each(wire.decode_from_session), repeated(b"9", b'{"type":"inbox","req_id":5,"wait":0.', b"}")
    ),
    "local: a type of many letters": Case(
        _each(wire.decode_from_session), repeated(b"s", b'{"req_id":5,"type":"', b'"}')
    ),
    "local: a name of many letters": Case(
        _each(wire.decode_from_session), repeated(b"a-", b'{"type":"join","req_id":5,"room":"', b'"}')
    ),
    "local: the same for req_id alone": Case(wire.find_req_id, repeated(b'"a":{},', b"{")),
    "local: lines byte by byte": Case(_lines(1), repeated(b"x"), most=64 * KIB),
    "local: empty lines": Case(_lines(64 * KIB), repeated(b"\r\n"), times=6.0),
    # Links.
    "link: members that are none": Case(
        _each(link_wire.decode), repeated(b'{"peer_id":"x"},', b'{"type":"room_list","room":"r","members":[')
    ),
    "link: a type of a later version": Case(link_wire.decode, repeated(b"{},", b'{"type":"x","y":[', b"0]}")),
    "link: a body of lists": Case(
        _each(link_wire.decode),
        repeated(b"[", b'{"type":"durable","seq":1,"msg_id":"%s","body":' % ID.encode()),
    ),
    # MCP.
    "mcp: a text of escapes": Case(_each(jsonrpc.parse), repeated(b"\\n", CALL, b'"}}}')),
    "mcp: escapes, and half a pair": Case(_each(jsonrpc.parse), repeated(b"\\n", CALL, b'\\ud800"}}}')),
    "mcp: halves of pairs": Case(_each(jsonrpc.parse), repeated(b"\\ud800", CALL, b'"}}}')),
    "mcp: backslashes before half a pair": Case(_each(jsonrpc.parse), repeated(b"\\", CALL, b'\\ud800"}}}')),
    "mcp: objects for an id": Case(
        _each(jsonrpc.parse), repeated(b"{},", b'{"jsonrpc":"2.0","id":[', b'0],"method":"x"}'), times=40.0
    ),
    "mcp: blanks before an id": Case(_each(jsonrpc.parse), repeated(b" ", b'{"id"', b":")),
    "mcp: lines byte by byte": Case(_mcp(1), repeated(b"x"), most=64 * KIB),
    "mcp: a line over the limit, byte by byte": Case(_mcp(1, 1_000), repeated(b"x"), most=64 * KIB),
    "mcp: blank lines": Case(_mcp(64 * KIB), repeated(b" \n"), times=12.0),
    "tools: a member of many letters": Case(
        _each(lambda data: arguments.parse("x", arguments.GroupCreateArgs, data)),
        repeated(b"a", b'{"name":"t","members":["', b'"]}'),
    ),
    "tools: many members": Case(
        _each(lambda data: arguments.parse("x", arguments.GroupCreateArgs, data)),
        repeated(b'"a",', b'{"name":"t","members":[', b'"a"]}'),
        times=20.0,
    ),
    "tools: an argument of many letters": Case(
        _each(lambda data: arguments.parse("x", arguments.NoArgs, data)),
        repeated(b"`", b'{"', b'":1}'),
        times=6.0,
    ),
    "companion: a hand-over of many": Case(labelled, text("a,")),
    # Relays.
    "relay: hubs that are none": Case(
        _each(relay_wire.decode_to_hub),
        lambda size: '{"type":"here","hubs":[' + '{"hub_id":"a"},' * (size // 15),
    ),
    "relay: a url of many parts": Case(normal, text("ws://a/b?"), times=12.0, most=256 * KIB),
    "relay: header fields": Case(
        _request, numbered(b"a%d:b\r\n", b"GET / HTTP/1.1\r\n", b"\r\n"), times=32.0, most=16 * KIB
    ),
    "relay: one field of many addresses": Case(
        _request,
        repeated(b"1.2.3.4,", b"GET / HTTP/1.1\r\nX-Forwarded-For: ", b"\r\n\r\n"),
        times=12.0,
        most=16 * KIB,
    ),
    "relay: blanks in fields": Case(
        _request, repeated(b" ", b"GET / HTTP/1.1\r\nUpgrade:", b"x\r\n\r\n"), times=6.0, most=16 * KIB
    ),
    "relay: a frame byte by byte": Case(
        _socket(1), repeated(b"x", b"\x82\xfe\xff\xff\0\0\0\0"), times=60.0, most=8 * KIB
    ),
    "relay: empty frames": Case(_socket(64 * KIB), repeated(FRAME), times=4.0, most=256 * KIB),
    "relay: parts of nothing": Case(
        _socket(64 * KIB), repeated(b"\x00\x80\0\0\0\0", b"\x02\x80\0\0\0\0"), times=4.0, most=256 * KIB
    ),
    "relay: parts of one byte": Case(
        _socket(64 * KIB), repeated(b"\x00\x81\0\0\0\0x", b"\x02\x81\0\0\0\0x"), times=10.0, most=256 * KIB
    ),
    "relay: pings": Case(
        _socket(64 * KIB), repeated(b"\x89\xfd\0\0\0\0" + bytes(125)), times=4.0, most=256 * KIB
    ),
    # Files.
    "config.toml: keys": Case(
        _config, numbered(b"k%d=1\n"), times=48.0, most=32 * KIB, beside=config.FILE_MAX + 64 * KIB
    ),
    "config.toml: a text": Case(
        _config, repeated(b"\\n", b'me="', b'"'), times=48.0, most=64 * KIB, beside=config.FILE_MAX + 64 * KIB
    ),
    "config.toml: lists in lists": Case(
        _config, repeated(b"[", b"a="), times=48.0, most=32 * KIB, beside=config.FILE_MAX + 64 * KIB
    ),
    "bridge.json: keys": Case(
        _each(_bridge), numbered(b'"hub_ix%d":1,', b"{", b'"a":1}'), times=32.0, most=48 * KIB
    ),
    "bridge.json: a secret of marks": Case(
        _each(_bridge),
        lambda size: ('{"hub_id":"a","secret":"a' + "\u0315\u0300" * (size // 4) + '"}').encode(),
        times=6.0,
    ),
    "bridge.json: a url of dots": Case(
        _each(_bridge), repeated(b".", b'{"hub_id":"a","relay":{"url":"ws://', b'"}}'), times=6.0
    ),
    "settings: comments": Case(
        _each(_json_settings), repeated(b"/**/", b"{", b"}"), times=40.0, most=2 * MIB
    ),
    "settings: comments that do not end": Case(_each(_json_settings), repeated(b"/* "), times=6.0),
    "settings: blanks": Case(_each(_json_settings), repeated(b" \n", b"{", b"}"), times=6.0),
    "settings: members": Case(
        _each(_json_settings), numbered(b'"k%d":1,', b"{", b'"a":1}'), times=90.0, most=512 * KIB
    ),
    "settings: our entry again and again": Case(
        _json_taken,
        repeated(b'"ecorelay":1,', b'{"mcpServers":{', b'"a":1}}'),
        times=90.0,
        most=512 * KIB,
        least=32 * KIB,
    ),
    "settings: our item again and again, with comments": Case(
        _json_items,
        repeated(b"1,/**/", b'{"hooks":{"stop":[', b"2]}}"),
        times=120.0,
        most=512 * KIB,
        least=16 * KIB,
    ),
    "settings in TOML: tables": Case(
        _each(_toml_settings), numbered(b"[t%d]\na=1\n"), times=200.0, most=64 * KIB
    ),
    # Words of peers.
    "envelope: blanks after a <": Case(_framed, lambda size: "<" + " " * size),
    "envelope: tags": Case(_framed, text("</channel>"), times=12.0),
    "hook: characters that JSON writes as six": Case(_hooked, text("\x01"), times=10.0),
    "hook: the same at the beginning alone": Case(
        _hooked, lambda size: "\x01" * 1_200 + "x" * size, times=10.0
    ),
    "terminal: characters that are escaped": Case(_printed, text("\U000e0041"), times=28.0),
    "terminal: lines": Case(_printed, text("\n"), times=24.0, most=256 * KIB),
}


def used(run: Callable[[Any], object], data: Any) -> float:
    """Seconds of the processor."""
    began = time.thread_time()
    run(data)
    return time.thread_time() - began


def ratios(case: Case, biggest: int) -> Iterator[float]:
    """How many times as much four times the size takes, try by try."""
    size = min(case.least, biggest // 4)
    while used(case.run, case.make(size)) < LEAST_S and size * 8 <= biggest:
        size *= 2
    small, large = case.make(size), case.make(4 * size)
    fast = slow = float("inf")
    for _ in range(TRIES):
        fast = min(fast, used(case.run, small))
        slow = min(slow, used(case.run, large))
        yield slow / max(fast, LEAST_S / 4)


@pytest.mark.parametrize("name", CASES)
def test_the_time_of_the_worst_input_grows_as_its_size(name: str):
    case = CASES[name]
    seen = []
    for ratio in ratios(case, min(case.most, DEFAULT_MAX)):
        seen.append(ratio)
        if ratio <= RATIO_MAX:
            return
    raise AssertionError(f"{name}: {seen}")


@pytest.mark.parametrize("name", CASES)
def test_the_memory_of_the_worst_input_is_within_a_few_times_its_size(name: str):
    _within_memory(name, 16 * KIB)


@pytest.mark.soak
def test_the_same_at_the_largest_sizes():
    for name, case in CASES.items():
        assert any(ratio <= RATIO_MAX for ratio in ratios(case, case.most)), name
        print(f"{name}: in proportion up to {case.most:,} bytes", flush=True)
        _within_memory(name, case.most)


def _within_memory(name: str, size: int) -> None:
    case = CASES[name]
    case.run(case.make(1_000))  # what is made once is no part of it
    data = case.make(min(size, case.most))
    tracemalloc.start()
    try:
        case.run(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    allowed = case.times * len(data if isinstance(data, bytes) else data.encode()) + case.beside
    assert peak <= allowed, f"{name}: {peak / len(data):.1f} times"
