"""The Chat Completions API on loopback, with a script in the place of the model; see `tests.real.model`.

A script names our tools as we do (``relay_send``); the client may have given them another beginning
(``ecorelay_relay_send``, ``mcp__ecorelay__relay_send``). What a client asks without offering any of them (a
title, a summary) is answered "aside" and is no part of a script.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any

from tests.real.model import Model, Reply, Request, _Handler


class Refusal(Reply):
    """The server fails: its `text` is the HTTP status, ``Refusal("500")``."""


class Shown(Request):
    """What a model was shown; `text` and `new` are without the system prompt, which is `system`."""

    def __init__(self, who: str, body: dict[str, Any]) -> None:
        super().__init__(who, {**body, "messages": []})
        messages = body.get("messages") or []
        spoken = max((n for n, each in enumerate(messages) if each.get("role") == "assistant"), default=-1)
        new = messages[spoken + 1 :]
        self.body = body
        self.system = _texts(messages, "system", "developer")
        self.text = _texts(messages, "user", "tool")
        self.new = _texts(new, "user", "tool")
        self.results = [_text(message.get("content")) for message in new if message.get("role") == "tool"]
        self.tools = list(_tools(body))
        """The names of the tools it may call."""

    @property
    def begins_turn(self) -> bool:
        """Whether nobody's tools are answered."""
        return not self.results

    @property
    def result(self) -> dict[str, Any]:
        """The answer to the one relay_* tool that was called."""
        [found] = self.results
        fields: dict[str, Any] = json.loads(found[found.index("{") :])
        return fields


class ChatModel(Model):
    """The server. Use it as a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._server.server_close()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Chat,), {"model": self}))
        self._server.daemon_threads = True

    def answer(self, who: str, body: dict[str, Any]) -> Reply:
        """As in `Model`."""
        shown = Shown(who, body)
        with self._lock:
            self._requests.append(shown)
            script = self._scripts.get(who)
            reply = script.popleft() if script else Reply()
        if callable(reply) and not isinstance(reply, Reply):
            reply = reply(shown)
        if reply.after is not None:
            reply.after.wait(60)
        return reply


class _Chat(_Handler):
    def do_GET(self) -> None:
        if not self.path.split("?")[0].rstrip("/").endswith("/models"):
            super().do_GET()
            return
        listed = {"object": "list", "data": [{"id": "fake-model", "object": "model", "owned_by": "fake"}]}
        self._send(200, json.dumps(listed).encode(), "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        who, _, path = self.path.split("?")[0].strip("/").partition("/")
        with suppress(BrokenPipeError, ConnectionResetError):  # the client gave it up
            if not path.endswith("/chat/completions"):
                self._send(404, b"{}", "application/json")
                return
            aside = not any("relay_" in name for name in _tools(body))
            reply = Reply("aside") if aside else self.model.answer(who, body)
            if isinstance(reply, Refusal):
                # Clients try again what is the server's fault.
                kind = "server_error" if reply.text.startswith("5") else "invalid_request_error"
                error = {"error": {"message": "refused", "type": kind, "code": None}}
                self._send(int(reply.text), json.dumps(error).encode(), "application/json")
            elif body.get("stream"):
                self._send(200, b"".join(_stream(body, reply)), "text/event-stream")
            else:
                self._send(200, json.dumps(_whole(body, reply)).encode(), "application/json")


def _tools(body: Mapping[str, Any]) -> Iterator[str]:
    for tool in body.get("tools") or ():
        if tool.get("type") == "function":
            yield tool["function"]["name"]


def _declared(body: Mapping[str, Any], name: str) -> str:
    """What the client calls the tool that a script calls `name`."""
    names = list(_tools(body))
    if name in names:
        return name
    return next((each for each in names if each.endswith((f"_{name}", f"-{name}"))), name)


def _function(body: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> dict[str, str]:
    """A script's call as the client takes it: Qwen Code 0.24 wants what it hides called through another."""
    declared, names = _declared(body, name), list(_tools(body))
    if name.startswith("relay_") and declared not in names and "tool_call" in names:
        declared, given = "tool_call", {"name": f"mcp__ecorelay__{name}", "arguments": given}
    return {"name": declared, "arguments": json.dumps(given)}


def _whole(body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{uuid.uuid4().hex[:12]}",
                "type": "function",
                "function": _function(body, name, given),
            }
            for name, given in reply.calls
        ]
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex[:12]}",
        "object": "chat.completion",
        "created": 0,
        "model": body.get("model"),
        "choices": [
            {"index": 0, "message": message, "finish_reason": "tool_calls" if reply.calls else "stop"}
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def _stream(body: Mapping[str, Any], reply: Reply) -> Iterator[bytes]:
    whole = _whole(body, reply)
    [choice] = whole["choices"]
    delta = dict(choice["message"])
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": n, **each} for n, each in enumerate(calls)]
    chunk = {**whole, "object": "chat.completion.chunk"}
    del chunk["usage"]
    yield _event({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    ended = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    yield _event({**chunk, "choices": [ended]})
    yield _event({**chunk, "choices": [], "usage": whole["usage"]})
    yield b"data: [DONE]\n\n"


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _texts(messages: list[dict[str, Any]], *roles: str) -> str:
    return "\n".join(_text(message.get("content")) for message in messages if message.get("role") in roles)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(map(_text, content))
    if isinstance(content, dict):
        return _text(content.get("text") or content.get("content") or "")
    return ""
