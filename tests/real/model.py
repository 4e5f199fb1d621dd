"""The Messages API on loopback, with a script in the place of the model; it keeps every request.

One server plays the models of all sessions: each has an address of its own, `Model.address`, and a script of
its own. A script that is at its end says "ok".
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

POLL_S = 0.02
PATIENCE_S = 30.0
HELD_S = 60.0
"""An answer is held back no longer than this, whatever a test forgot."""


class Reply(NamedTuple):
    """What the model says: a text, or calls of tools (name and input)."""

    text: str = "ok"
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    after: threading.Event | None = None
    """Held back until this is set."""


def call(name: str, /, **given: Any) -> Reply:
    """Call one tool."""
    return Reply(text="", calls=((name, given),))


class Request:
    """What the model of session `who` was shown, at the time `at` (as `time.time`)."""

    def __init__(self, who: str, body: dict[str, Any]) -> None:
        self.who = who
        self.at = time.time()
        self.body = body
        messages = body.get("messages") or []
        self.text = "\n".join(_text(message.get("content")) for message in messages)
        """All of it."""
        last = max((n for n, each in enumerate(messages) if each.get("role") == "assistant"), default=-1)
        self.new = "\n".join(_text(message.get("content")) for message in messages[last + 1 :])
        """What came since the model spoke last."""
        self.results = [
            _text(block.get("content"))
            for message in messages[last + 1 :]
            for block in _blocks(message.get("content"))
            if block.get("type") == "tool_result"
        ]
        """Of these, what the tools answered that it called last."""

    @property
    def begins_turn(self) -> bool:
        """Whether nobody's tools are answered, and no end of a turn was put off."""
        return not self.results and "Stop hook additional context:" not in self.new

    @property
    def result(self) -> dict[str, Any]:
        """The answer to the one relay_* tool that was called."""
        [found] = self.results
        fields: dict[str, Any] = json.loads(found)
        return fields


class Model:
    """The server. Use it as a context manager."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._scripts: dict[str, deque[Reply | Callable[[Request], Reply]]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"model": self}))
        self._server.daemon_threads = True

    def __enter__(self) -> Model:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def address(self, who: str) -> str:
        """Where the client of session `who` finds its model."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{who}"

    def will(self, who: str, *replies: Reply | Callable[[Request], Reply]) -> None:
        """Continue the script of `who`; a function makes the reply when it is its turn."""
        with self._lock:
            self._scripts.setdefault(who, deque()).extend(replies)

    def requests(self, who: str, since: int = 0) -> list[Request]:
        """What it was asked so far, from number `since` on."""
        with self._lock:
            return [request for request in self._requests if request.who == who][since:]

    def count(self, who: str) -> int:
        """How often it was asked."""
        return len(self.requests(who))

    def wait(
        self,
        who: str,
        holds: str | Callable[[Request], object] = "",
        *,
        since: int = 0,
        within: float = PATIENCE_S,
    ) -> Request:
        """The first request that shows the text `holds`, or of which that is true, within so many seconds."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            for request in self.requests(who, since):
                if holds in request.text if isinstance(holds, str) else holds(request):
                    return request
            time.sleep(POLL_S)
        seen = "\n---\n".join(request.new[-800:] for request in self.requests(who, since))
        raise AssertionError(f"the model of {who} was not shown it within {within} s, but:\n{seen}")

    @contextmanager
    def held(self, who: str, reply: Reply | None = None) -> Iterator[threading.Event]:
        """In the block, the next answer of `who` is held back; set the event, or leave, to let it go."""
        gate = threading.Event()
        self.will(who, (reply or Reply())._replace(after=gate))
        try:
            yield gate
        finally:
            gate.set()

    def answer(self, who: str, body: dict[str, Any]) -> Reply:
        """Keep the request and find the reply. The handlers' alone."""
        request = Request(who, body)
        with self._lock:
            self._requests.append(request)
            script = self._scripts.get(who)
            reply = script.popleft() if script else Reply()
        if callable(reply) and not isinstance(reply, Reply):
            reply = reply(request)
        if reply.after is not None:
            reply.after.wait(HELD_S)
        return reply


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Model

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._send(200, b"", "text/plain")

    def do_GET(self) -> None:
        self._send(404, b"{}", "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        who, _, path = self.path.split("?")[0].strip("/").partition("/")
        with suppress(BrokenPipeError, ConnectionResetError):  # the client gave it up
            if path.endswith("/count_tokens"):
                self._send(200, b'{"input_tokens": 100}', "application/json")
            elif not path.endswith("/messages"):
                self._send(404, b"{}", "application/json")
            else:
                self._say(body, Reply("{}") if _is_aside(body) else self.model.answer(who, body))

    def _say(self, body: dict[str, Any], reply: Reply) -> None:
        blocks: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text else []
        for name, given in reply.calls:
            id = "toolu_" + uuid.uuid4().hex[:24]
            blocks.append({"type": "tool_use", "id": id, "name": name, "input": dict(given)})
        message: dict[str, Any] = {
            "id": "msg_" + uuid.uuid4().hex[:24],
            "type": "message",
            "role": "assistant",
            "model": body.get("model", "scripted"),
            "content": blocks,
            "stop_reason": "tool_use" if reply.calls else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 100, "output_tokens": 10},
        }
        if body.get("stream"):
            self._send(200, b"".join(map(_event, _stream(message))), "text/event-stream")
        else:
            self._send(200, json.dumps(message).encode(), "application/json")

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _is_aside(body: dict[str, Any]) -> bool:
    """Whether the client asks on its own account: for a title, or what the user may type next."""
    return not body.get("tools") or "[SUGGESTION MODE" in json.dumps(body.get("messages", [])[-1:])


def _stream(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}
    for index, block in enumerate(message["content"]):
        start: dict[str, Any]
        if block["type"] == "text":
            start = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": block["text"]}
        else:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield {"type": "content_block_start", "index": index, "content_block": start}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 10}}
    yield {"type": "message_stop"}


def _event(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def _blocks(content: Any) -> list[dict[str, Any]]:
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    found = []
    for block in _blocks(content):
        if block.get("type") == "text":
            found.append(block.get("text", ""))
        elif block.get("type") == "tool_result":
            found.append(_text(block.get("content")))
        elif block.get("type") == "tool_use":
            found.append(json.dumps(block.get("input"), ensure_ascii=False))
    return "\n".join(found)
