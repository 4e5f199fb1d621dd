"""Runs a hook of an assistant in this process, at a hub that gives one page."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ecorelay_adapters import hook
from ecorelay_adapters.hub_line import NoAnswer

ID = "01j5zk3m8v9w2x4y6z7abcdefg"
MAIL = {"msg_id": ID, "kind": "message", "sender": "ann", "ts": 1, "text": "hi"}
PAGE = {"type": "hook_page", "name": "bob", "lease": 5, "messages": [MAIL]}
EMPTY = {"type": "hook_page", "name": "bob"}
PRINTED = {"type": "printed", "lease": 5, "msg_ids": [ID], "cut": [], "notices": []}


class Line:
    """A hub that gives one page; None: no hub runs."""

    def __init__(self, page: dict[str, Any] | None) -> None:
        self.page = page
        self.asked: list[dict[str, Any]] = []
        """First the hello, then each request."""
        self.forgets = False
        """It goes away before it hears what was printed."""

    @contextmanager
    def open(self, home: str, patience: float | None, **hello: Any) -> Iterator[Line]:
        if self.page is None:
            raise NoAnswer("no hub runs")
        self.asked.append(hello)
        yield self

    def ask(self, answer: str, patience: float = 0, **request: Any) -> dict[str, Any]:
        self.asked.append(request)
        if answer == "done":
            if self.forgets:
                raise NoAnswer("the hub went away")
            return {"type": "done"}
        assert self.page is not None
        return self.page


class Ran:
    """How a hook ended."""

    def __init__(self, code: int, out: bytes, err: str) -> None:
        self.code = code
        self.out = out
        self.answer = json.loads(out) if out else None
        self.err = err


class Hooks:
    """Hooks of one assistant.

    Args:
        assistant: its name.
        monkeypatch: puts stand-ins into the module.
        capsys: takes what is said on stderr.
    """

    def __init__(
        self, assistant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.assistant = assistant
        self.monkeypatch = monkeypatch
        self.capsys = capsys
        self.forgets = False

    def __call__(self, event: object, page: dict[str, Any] | None = None) -> tuple[Ran, Line]:
        """Run a hook with an event (bytes: as they are), at a hub that gives `page` (None: no hub runs)."""
        line = Line(page)
        line.forgets = self.forgets
        self.monkeypatch.setattr(hook, "HubLine", line.open)
        text = event if isinstance(event, bytes) else json.dumps(event).encode()
        out = io.BytesIO()
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        self.monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
        code = hook.main([self.assistant])
        return Ran(code, out.getvalue(), self.capsys.readouterr().err), line
