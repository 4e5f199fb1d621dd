"""The Gemini API on loopback, with a script in the place of the model; see `tests.real.model`.

A script names our tools as we do (``relay_send``), the client ``mcp_ecorelay_relay_send``. What the client
asks without offering any of them (who speaks next, a summary) is answered "aside" and is no part of a script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any

from tests.real.model import Model, Reply, Request, _Handler


class Shown(Request):
    """What a model was shown."""

    def __init__(self, who: str, body: dict[str, Any]) -> None:
        super().__init__(who, {**body, "messages": []})
        contents = body.get("contents") or []
        spoken = max((n for n, each in enumerate(contents) if each.get("role") == "model"), default=-1)
        new = [part for each in contents[spoken + 1 :] for part in each.get("parts") or ()]
        self.body = body
        self.text = "\n".join(_text(part) for each in contents for part in each.get("parts") or ())
        self.new = "\n".join(map(_text, new))
        self.results = [_text(part) for part in new if "functionResponse" in part]
        self.tools = list(_tools(body))
        """The names of the tools it may call."""

    @property
    def result(self) -> dict[str, Any]:
        """The answer to the one relay_* tool that was called."""
        [found] = self.results
        fields: dict[str, Any] = json.loads(found[found.index("{") :])
        return fields


class GeminiModel(Model):
    """The server. Use it as a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._server.server_close()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Gemini,), {"model": self}))
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


class _Gemini(_Handler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        who, _, path = self.path.split("?")[0].strip("/").partition("/")
        with suppress(BrokenPipeError, ConnectionResetError):  # the client gave it up
            if path.endswith(":countTokens"):
                self._send(200, b'{"totalTokens": 10}', "application/json")
            elif not path.endswith("enerateContent"):
                self._send(404, b"{}", "application/json")
            else:
                aside = not any("relay_" in name for name in _tools(body))
                said = json.dumps(_said(body, Reply("aside") if aside else self.model.answer(who, body)))
                if path.endswith(":streamGenerateContent"):
                    self._send(200, f"data: {said}\r\n\r\n".encode(), "text/event-stream")
                else:
                    self._send(200, said.encode(), "application/json")


def _tools(body: Mapping[str, Any]) -> Iterator[str]:
    for tool in body.get("tools") or ():
        for each in tool.get("functionDeclarations") or ():
            yield each["name"]


def _said(body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": reply.text}] if reply.text else []
    for name, given in reply.calls:
        declared = next((each for each in _tools(body) if each.endswith(name)), name)
        parts.append({"functionCall": {"name": declared, "args": dict(given)}})
    ended = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
    return {"candidates": [ended], "usageMetadata": usage}


def _text(part: Any) -> str:
    if isinstance(part, dict) and "functionResponse" in part:
        answer = part["functionResponse"].get("response") or {}
        return _text(answer.get("output") or answer.get("content") or json.dumps(answer))
    if isinstance(part, dict):
        return _text(part.get("text") or part.get("content") or "")
    if isinstance(part, list):
        return "\n".join(map(_text, part))
    return part if isinstance(part, str) else ""
