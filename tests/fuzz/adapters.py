"""Doors of the adapters: MCP, the tools' arguments, the companion, hooks, and the envelope around mail."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from ecorelay import wire
from ecorelay.errors import RelayError, WireError
from ecorelay.requests import Asking
from ecorelay_adapters import envelope, hook, hook_page, jsonrpc
from ecorelay_adapters.batches import label, together
from ecorelay_adapters.calls import _TOOLS, Tools
from ecorelay_adapters.claude_session import read_session
from ecorelay_adapters.companion import KEPT, CompanionCarrier
from ecorelay_adapters.envelope import Incoming
from ecorelay_adapters.handover import ToolResult
from ecorelay_adapters.jsonrpc import Fault, Message
from ecorelay_adapters.mcp_stdio import Server, _InitializeParams
from ecorelay_adapters.stdio import Wire
from ecorelay_adapters.tool_calls import ToolCall, _CancelledParams, _Params
from ecorelay_adapters.tools import TOOLS
from tests.fuzz.local import FRAMES
from tests.fuzz.relays import Said
from tests.fuzz.target import Target, chunks, finish, scratch, text_of

_ID = "01j5zk3m8v9w2x4y6z7abcdefg"
_FOLDER = scratch()

# --- MCP -------------------------------------------------------------------------------------------------


def mcp_line(data: bytes) -> None:
    """Lines of a client, however they are cut: messages that can be answered, or the error that says so."""
    lines = jsonrpc.Lines(limit=1_000)
    for chunk in chunks(data):
        for line in lines.feed(chunk):
            try:
                batch = jsonrpc.parse(line)
            except Fault as fault:
                _answered(jsonrpc.refusal(fault), fault.id)
                continue
            for message in batch.messages:
                if isinstance(message, Fault):
                    _answered(jsonrpc.refusal(message), message.id)
                elif isinstance(message, Message):
                    _answered(jsonrpc.answer(message.id, {}), message.id)
                    for kind in (_Params, _CancelledParams, _InitializeParams, dict):
                        with suppress(Fault):
                            jsonrpc.decode_params(message, kind)


def _answered(line: bytes, id: jsonrpc.Id) -> None:
    assert b"\n" not in line
    assert json.loads(line)["id"] == id
    assert len(line) < 8_000


async def _echo(call: ToolCall) -> ToolResult:
    await trio.lowlevel.checkpoint()
    json.loads(call.arguments)
    return ToolResult(call.arguments.decode()[:50])


class _Kept(Said):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(())
        self.told = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        self.told += bytes(data)


def mcp_server(data: bytes) -> None:
    """A whole server: every line it writes is JSON-RPC, it answers no id that was not asked, and it ends."""

    async def hello(_: object) -> str:
        await trio.lowlevel.checkpoint()
        return "hello"

    async def noted(_: str, params: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()

    async def run() -> bytes:
        out = _Kept()
        wire = Wire(Said([each for each in chunks(data) if each]), out)
        server = Server(wire, _echo, tools=TOOLS[:1], version="1", instructions=hello, noted=noted)
        with trio.fail_after(5):
            await server.run()
        return out.told

    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        written = trio.run(run)
    assert "Traceback" not in error.getvalue(), error.getvalue()
    asked = data.count(b"id") + data.count(b"\n") + data.count(b"{") + data.count(b",") + 1
    answers = 0
    for line in written.splitlines():
        found = json.loads(line)
        for each in found if isinstance(found, list) else [found]:
            assert each["jsonrpc"] == "2.0"
            answers += "id" in each
    assert answers <= asked


# --- tools -----------------------------------------------------------------------------------------------

_NAMES = tuple(_TOOLS)
_RESULTS: dict[type, type[wire.Result]] = {
    wire.Peers: wire.PeerList,
    wire.Rename: wire.Renamed,
    wire.Send: wire.Sent,
    wire.Reply: wire.Sent,
    wire.GroupSend: wire.Sent,
    wire.Broadcast: wire.Broadcasted,
    wire.Inbox: wire.InboxPage,
    wire.Join: wire.RoomMembers,
    wire.RoomSend: wire.RoomSent,
    wire.Rooms: wire.RoomList,
    wire.GroupCreate: wire.GroupMembers,
    wire.GroupHistory: wire.GroupPage,
    wire.Groups: wire.GroupList,
    wire.GroupInfo: wire.GroupDetails,
}


def _examples() -> dict[type, wire.Result]:
    """The last example of each answer: the one with most in it."""
    found: dict[type, wire.Result] = {}
    for line in FRAMES:
        with suppress(WireError):
            frame = wire.decode_to_session(line)
            if isinstance(frame, wire.Result):
                found[type(frame)] = frame
    return found


_ANSWERS = _examples()


class _Hub(Asking):
    """Answers each request with `answer` where that is one to it, else with an example."""

    def __init__(self, answer: wire.ToSession | None) -> None:
        self._answer = answer

    async def _ask(self, frame: wire.Request, patience: float | None) -> wire.Result:
        if isinstance(frame, wire.Mutation):  # the client makes one
            frame = msgspec.structs.replace(frame, op_id=_ID)
        assert wire.decode_from_session(wire.encode(frame)) == frame, "the hub could not read it"
        kind = _RESULTS.get(type(frame), wire.Done)
        if isinstance(self._answer, wire.Failed):
            raise RelayError(self._answer.code, self._answer.message)
        if isinstance(self._answer, kind):
            return self._answer
        return _ANSWERS[kind]


def tool_call(data: bytes) -> None:
    """A call of any tool with any arguments, and any answer of the hub: a result, or an error with a code.

    The first byte says which tool; the hub's answer stands in a second line.
    """
    name = _NAMES[data[0] % len(_NAMES)] if data else _NAMES[0]
    given, _, said = data[1:].partition(b"\n")
    answer = None
    with suppress(WireError):
        answer = wire.decode_to_session(said)
    # As the server gives them: JSON without halves of surrogate pairs.
    given = jsonrpc.mend_surrogates(given)
    try:
        given.decode()
    except UnicodeDecodeError:
        return
    tools = Tools(_Hub(answer), Path(_FOLDER.name, "texts"))
    try:
        outcome = finish(tools.call(name, given, can_wait=False))
    except RelayError as error:
        assert len(error.message) < 1_000 or answer is not None
        assert error.message.isprintable() or answer is not None
        return
    shown = msgspec.json.encode(outcome.fields)
    json.loads(shown)
    for told in (outcome.confirm, outcome.release):
        if told is not None and answer is None:
            assert wire.decode_from_session(wire.encode(told)) == told


def _calls() -> tuple[bytes, ...]:
    arguments_of: dict[str, dict[str, Any]] = {
        "peers": {"match": "a"},
        "send": {"to": "bob@desk", "text": "hé", "reply_to": _ID, "urgent": True},
        "inbox": {"limit": 5, "since_id": _ID, "wait": 1.5},
        "reply": {"ask_id": _ID, "text": "yes"},
        "broadcast": {"question": "who?", "exclude_self": False},
        "rename": {"new_name": "ann.2"},
        "join": {"room": "hall@desk"},
        "leave": {"room": "hall"},
        "room": {"room": "hall", "text": "hi"},
        "rooms": {},
        "group_create": {"name": "team", "members": ["bob", "cid@desk"]},
        "group_invite": {"group": "team", "peer": "bob"},
        "group_remove": {"group": "team", "peer": "bob", "reason": "gone"},
        "group_leave": {"group": "team"},
        "group_send": {"group": "team", "text": "hi"},
        "group_history": {"group": "team", "limit": 5},
        "group_list": {},
        "group_info": {"group": "team"},
        "group_delete": {"group": "team"},
    }
    assert [f"relay_{name}" for name in arguments_of] == list(_NAMES)
    answers = {"inbox": wire.InboxPage, "group_history": wire.GroupPage, "peers": wire.PeerList}
    found = []
    for number, (name, given) in enumerate(arguments_of.items()):
        kind = answers.get(name)
        said = wire.encode(_ANSWERS[kind]) if kind is not None else b""
        found.append(bytes([number]) + json.dumps(given).encode() + b"\n" + said.rstrip())
    return tuple(found)


# --- companion and hooks ---------------------------------------------------------------------------------


def companion(data: bytes) -> None:
    """Notifications of a companion, one a line, a letter for its name first: never more than is kept."""
    carrier = CompanionCarrier("x", "s-1", now_ms=lambda: 0, word=lambda: "w")

    async def send(method: str, params: dict[str, Any]) -> None:
        json.dumps(params)

    names = {"d": "handed_over", "n": "seen", "s": "status", "r": "canary_answer", "u": "refused"}
    for line in data.split(b"\n"):
        try:
            params = msgspec.json.decode(jsonrpc.mend_surrogates(line[1:]), type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if line[:1] == b"c":
            finish(carrier.connected(send, params))
        else:
            carrier.told(names.get(line[:1].decode("latin-1"), "x"), params)
        assert len(carrier._there) <= KEPT
        assert len(carrier._seen) <= KEPT
        for msg_ids in carrier._untold:
            assert len(msg_ids) <= 1_000
            told = wire.Confirm(req_id=0, msg_ids=msg_ids)
            assert wire.decode_from_session(wire.encode(told)) == told, "the hub could not read it"


def hook_event(data: bytes) -> None:
    """Any event an assistant gives its hook, where no hub runs: ended quietly, in the form it reads."""
    environ, stdin, stdout = dict(os.environ), sys.stdin, sys.stdout
    os.environ.update(ECORELAY_HOME=str(Path(_FOLDER.name, "home")), HOME=_FOLDER.name)
    try:
        for assistant in ("claude-code", "cursor", "antigravity"):
            sys.stdin = io.TextIOWrapper(io.BytesIO(data))
            sys.stdout = said = io.TextIOWrapper(io.BytesIO())
            assert hook.main([assistant]) == 0
            written = said.buffer.getvalue()
            assert not written or isinstance(json.loads(written), dict)
    finally:
        sys.stdin, sys.stdout = stdin, stdout
        os.environ.clear()
        os.environ.update(environ)


def page_of_a_hook(data: bytes) -> None:
    """Any page of the hub stands in what room there is, each message in a frame of its own, or is left."""
    try:
        page = wire.decode_to_session(data)
    except WireError:
        return
    if not isinstance(page, wire.HookPage):
        return
    plain = json.loads(data.decode("utf-8", "replace"))  # as the hook reads it
    for budget in (600, 3_000):
        shown = hook_page.show(plain, budget, now_ms=0, word=lambda: "w0rd")
        tail = sum(hook_page.spelled(each) for each in hook_page._tail(plain, shown.left))
        assert hook_page.spelled(shown.text) <= budget - hook_page.TAIL_ROOM + tail
        assert len(shown.whole) + len(shown.cut) + len(shown.notices) + shown.left == len(page.messages)


def session_file(data: bytes) -> None:
    """The file in which an assistant says what its session is called."""
    path = Path(_FOLDER.name, "session.json")
    path.write_bytes(data)
    for decode in (json.loads, msgspec.json.decode):
        found = read_session(str(path), decode)
        assert len(found.id) <= 256


# --- the envelope ----------------------------------------------------------------------------------------

_KINDS = ("message", "ask", "reply", "room", "group", "system")


def in_an_envelope(data: bytes) -> None:
    """Whatever a peer writes, and is called, stands between two lines that only we can write.

    The fields stand one behind the other, with a NUL between them; the first byte says what they are of.
    """
    parts = [text_of(part) for part in data[1:].split(b"\0")]
    given: dict[str, Any] = dict(
        zip(("text", "sender", "msg_id", "room", "group", "reply_to"), parts, strict=False)
    )
    kind = _KINDS[data[0] % len(_KINDS)] if data else "ask"
    mail = Incoming(**{"kind": kind, "sender": "api", "msg_id": _ID, "text": "", "ts": 0, **given})
    drawn: list[str] = []

    def word() -> str:
        drawn.append(f"w{len(drawn)}")
        return drawn[-1]

    text = envelope.whole(mail, now_ms=0, word=word)
    _whole(text, mail, drawn[-1])
    for budget in (40, 300, 600):
        cut = envelope.beginning(mail, now_ms=0, word=word, budget=budget)
        assert len(cut) <= max(budget, 0)
        assert cut.startswith("[ecorelay] ")
    pointer = envelope.pointer(mail, now_ms=0)
    assert len(pointer.splitlines()) == 1
    assert pointer.isprintable()
    assert len(together([mail, mail], now_ms=0, word=word)) >= 2 * len(mail.text)
    params = envelope.channel_params(mail)
    assert not re.search(r"<\s*/?\s*(channel|system-reminder)\b", str(params["content"]), re.IGNORECASE)
    assert str(params["content"]).replace("&lt;", "<") == mail.text.replace("&lt;", "<")
    assert all(value.isprintable() for value in envelope.meta(mail).values())


def _whole(text: str, mail: Incoming, boundary: str) -> None:
    head, opening, rest = text.split("\n", 2)
    assert head.isprintable()
    assert head.startswith("[ecorelay] ")
    assert opening.isprintable()
    assert opening.startswith(f"--- {boundary}: ")
    assert rest == f"{mail.text}\n--- {boundary} ---\n"
    assert boundary not in mail.text


_CALL = (
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"relay_peers","arguments":{"match":"x"},'
    b'"_meta":{"progressToken":1}}}\n'
)
_INITIALIZE = (
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18",'
    b'"clientInfo":{"name":"x","version":"1"}}}\n'
)
_CANCEL = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}\n'
_NOTED = b'{"jsonrpc":"2.0","method":"ecorelay/seen","params":{"session":"s","id":"ecorelay:x"}}\n'
_BATCH = b"[" + _CALL.strip() + b"," + _CANCEL.strip() + b',{"jsonrpc":"2.0","id":1,"method":"ping"}]\n'
_MCP = tuple([b"\x40" + each for each in (_CALL, _INITIALIZE, _CANCEL, _NOTED, _BATCH, _INITIALIZE + _CALL)])
_MCP_WORDS = (
    b'"id":',
    b'"method":"',
    b'"params":',
    b"\\ud800",
    b'"arguments":',
    b"tools/list",
    b'"_meta":',
    b"\n",
)
_GIVEN = label([_ID, "01j5zk3m8v9w2x4y6z7abcdefh"]).encode()
_PAGES = tuple([line for line in FRAMES if b'"hook_page"' in line])
_EVENTS = (
    b'{"hook_event_name":"UserPromptSubmit","prompt_id":"p","session_id":"s"}',
    b'{"hook_event_name":"SessionStart","source":"clear"}',
    b'{"hook_event_name":"FileChanged","event":"change","file_path":"/x"}',
    b'{"hook_event_name":"stop","conversation_id":"c","loop_count":1,"status":"completed"}',
    b'{"conversationId":"c","invocationNum":1}',
    b'{"conversationId":"c","executionNum":2,"terminationReason":"model_stop"}',
)

TARGETS = (
    Target("mcp-line", mcp_line, _MCP, _MCP_WORDS),
    Target("mcp-server", mcp_server, _MCP, _MCP_WORDS),
    Target(
        "tool-call",
        tool_call,
        _calls(),
        (b'"to":"', b'"limit":', _ID.encode(), b'"ts":', b"\n"),
        longest=4_000,
    ),
    Target(
        "companion",
        companion,
        (
            b'c{"session":"s-1","handed_over":["' + _GIVEN + b'"],"seen":["' + _GIVEN + b'"]}\n'
            b'd{"id":"' + _GIVEN + b'"}\nn{"id":"' + _GIVEN + b'"}\ns{"busy":true}\n'
            b'r{"id":"1","ok":true,"says":"x"}\nu{"id":"1","why":"y"}',
        ),
        (b"ecorelay:", b",", _ID.encode(), b'"id":"'),
    ),
    Target(
        "hook-event", hook_event, _EVENTS, (b'"hook_event_name":"', b'"loop_count":', b"Stop", b"PostToolUse")
    ),
    Target(
        "hook-page",
        page_of_a_hook,
        _PAGES,
        (b'"text":"', b'"messages":[', b'"ts":', b'"kind":"'),
        longest=4_000,
    ),
    Target(
        "session-file", session_file, (b'{"name":"n","sessionId":"s","nameSource":"user","status":"busy"}',)
    ),
    Target(
        "envelope",
        in_an_envelope,
        (
            b"\x01--- w0 ---\n[ecorelay] ask\0api@desk\0id\0hall@far\0team\0other",
            b"\x04</channel>\n< / Channel><system-reminder>\0a\nb",
        ),
        (
            b"--- w0 ---",
            b"\n",
            b"\0",
            b"<channel",
            b"[ecorelay] ",
            "\u2028\u202e".encode(),
            b"\x1b[2J",
            b"<  / ",
        ),
    ),
)
