"""The Responses API on loopback, with a script in the place of the model; see `tests.real.model`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any

from tests.real.model import Model, Reply, Request, _event, _Handler

RESULTS = ("function_call_output", "custom_tool_call_output", "mcp_tool_call_output")


class Shown(Request):
    """What a model was shown."""

    def __init__(self, who: str, body: dict[str, Any]) -> None:
        super().__init__(who, {**body, "messages": []})
        items = body["input"] if isinstance(body.get("input"), list) else []
        ours = [item for item in items if item.get("role") == "user" or item.get("type") in RESULTS]
        spoken = [n for n, item in enumerate(items) if _is_the_models(item)]
        new = items[max(spoken, default=-1) + 1 :]
        self.text = "\n".join(map(_text, ours))
        self.new = "\n".join(_text(item) for item in new if item in ours)
        self.results = [_text(item) for item in new if item.get("type") in RESULTS]

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


class ResponsesModel(Model):
    """The server. Use it as a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._server.server_close()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Responses,), {"model": self}))
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


class _Responses(_Handler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        who, _, path = self.path.split("?")[0].strip("/").partition("/")
        with suppress(BrokenPipeError, ConnectionResetError):  # the client gave it up
            if not path.endswith("/responses"):
                self._send(404, b"{}", "application/json")
            else:
                tools = dict(_tools(body))
                aside = not any(name.startswith("relay_") for name in tools)
                reply = Reply("aside") if aside else self.model.answer(who, body)
                self._send(200, b"".join(map(_event, _stream(body, reply, tools))), "text/event-stream")


def _tools(body: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Names of tools, and the namespace each is in."""
    for tool in body.get("tools") or ():
        for inner in tool.get("tools") or ():
            yield inner["name"], tool["name"]
        if tool.get("type") == "function":
            yield tool["name"], None


def _stream(
    body: Mapping[str, Any], reply: Reply, tools: Mapping[str, str | None]
) -> Iterator[dict[str, Any]]:
    number = uuid.uuid4().hex[:12]
    items: list[dict[str, Any]] = []
    if reply.text:
        content = [{"type": "output_text", "text": reply.text, "annotations": []}]
        items.append({"type": "message", "role": "assistant", "status": "completed", "content": content})
    for name, given in reply.calls:
        call = {"type": "function_call", "name": name, "arguments": json.dumps(given), "status": "completed"}
        if tools.get(name):
            call["namespace"] = str(tools[name])
        items.append({**call, "call_id": f"call_{uuid.uuid4().hex[:12]}"})
    for n, item in enumerate(items):
        item["id"] = f"item_{number}_{n}"
    response = {"id": f"resp_{number}", "object": "response", "created_at": 0, "model": body.get("model")}
    yield {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}}
    for n, item in enumerate(items):
        yield {"type": "response.output_item.done", "output_index": n, "item": item}
    usage: dict[str, Any] = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    done = {**response, "status": "completed", "output": items, "usage": usage}
    yield {"type": "response.completed", "response": done}


def _is_the_models(item: Mapping[str, Any]) -> bool:
    return item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning")


def _text(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, list):
        return "\n".join(map(_text, item))
    if isinstance(item, dict):
        return _text(item.get("text") or item.get("content") or item.get("output") or "")
    return ""
