"""The real Gemini CLI, Qwen Code and Cline, each on a machine of a test's own.

Their models are scripts on loopback. A program is ``GEMINI_BIN``, ``QWEN_BIN``, ``CLINE_BIN``, else the one
below ``CLIENTS_DIR`` (~/.cache/assistant-clients)::

    cd ~/.cache/assistant-clients && mkdir -p gemini qwen cline
    npm install --prefix gemini @google/gemini-cli@0.61.0
    npm install --prefix qwen @qwen-code/qwen-code@0.15.10    # 0.24.4 wants node 22
    npm install --prefix cline cline@3.0.65
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from ecorelay.paths import Paths, find_paths
from ecorelay_adapters.clients.program import own_program
from tests.real import chat
from tests.real.chat import ChatModel
from tests.real.claude import SYSTEM, Terminal, World
from tests.real.gemini_model import GeminiModel
from tests.real.model import PATIENCE_S, Model, Reply

GEMINI = """\
{
  // a person's own
  "general": { "enableAutoUpdate": false },
  "privacy": { "usageStatisticsEnabled": false }, /* and */
  "telemetry": { "enabled": false },
  "security": {
    "auth": { "selectedType": "%s" },
    "folderTrust": { "enabled": false } // all of it
  }%s
}
"""


class Other(NamedTuple):
    """One of them."""

    name: str
    settings: str
    """Its file, from the home directory on."""
    content: str
    """Of that file, before ecorelay is installed."""
    model: Callable[[], Model]
    variables: Callable[[str], dict[str, str]]
    """Its environment, for the address of its model."""
    words: tuple[str, ...]
    """What of its command line precedes the prompt of one turn."""
    auth: Callable[[str], Sequence[str]] | None = None
    """What it must be told once, for the address of its model."""


class QwenModel(ChatModel):
    """Qwen Code hides our tools: its model has to search for them, and here does so of its own accord."""

    def __init__(self) -> None:
        super().__init__()
        self._server.server_close()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Qwen,), {"model": self}))
        self._server.daemon_threads = True


class _Qwen(chat._Chat):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        who = self.path.strip("/").partition("/")[0]
        tools = list(chat._tools(body))
        hidden = "tool_search" in tools and not any("relay_" in name for name in tools)
        if hidden and not ("tool_call" in tools and "<function>" in json.dumps(body)):
            select = ",".join(
                f"mcp__ecorelay__{name}" for name in ("relay_peers", "relay_send", "relay_inbox")
            )
            reply = Reply(text="", calls=(("tool_search", {"query": f"select:{select}"}),))
        else:
            reply = self.model.answer(who, body) if tools else Reply("aside")
        if body.get("stream"):
            self._send(200, b"".join(chat._stream(body, reply)), "text/event-stream")
        else:
            self._send(200, json.dumps(chat._whole(body, reply)).encode(), "application/json")


OTHERS = {
    "gemini": Other(
        name="gemini",
        settings=".gemini/settings.json",
        content=GEMINI % ("gemini-api-key", ""),
        model=GeminiModel,
        variables=lambda address: {
            "GEMINI_API_KEY": "dummy",
            "GOOGLE_GEMINI_BASE_URL": address,
            "GEMINI_MODEL": "gemini-2.5-flash",
        },
        words=("-p",),
    ),
    "qwen": Other(
        name="qwen",
        settings=".qwen/settings.json",
        content=GEMINI % ("openai", ',\n  "model": { "name": "fake-model" },\n  "$version": 4'),
        model=QwenModel,
        variables=lambda address: {
            "OPENAI_API_KEY": "dummy",
            "OPENAI_BASE_URL": address + "/v1",
            "OPENAI_MODEL": "fake-model",
        },
        words=("-p",),
    ),
    "cline": Other(
        name="cline",
        settings=".cline/data/settings/cline_mcp_settings.json",
        content='{\n  "mcpServers": {\n    "broken": { "command": "false", "disabled": true }\n  }\n}\n',
        model=ChatModel,
        variables=lambda address: {},
        words=("--json", "-P", "openai", "-m", "fake-model"),
        auth=lambda address: ("auth", "openai", "-k", "dummy", "-m", "fake-model", "-b", address + "/v1"),
    ),
}


def find_program(name: str) -> str | None:
    """The real program, if it is installed."""
    if named := os.environ.get(f"{name.upper()}_BIN"):
        return named
    clients = Path(os.environ.get("CLIENTS_DIR") or Path.home() / ".cache" / "assistant-clients")
    program = clients / name / "node_modules" / ".bin" / name
    return str(program) if program.exists() else None


def why_not(name: str) -> str:
    """Why no test of this program can run here; empty: they can."""
    if find_program(name) is None:
        return f"{name} is not installed, see tests/real/others.py"
    return "" if shutil.which("node") else "node is not installed"


class OtherWorld(World):
    """One user's machine with one of them, and the settings of a person in place.

    Args:
        root: a directory of its own.
        other: which.
        model: plays the models.
    """

    def __init__(self, root: Path, other: Other, model: Model) -> None:
        found, node = find_program(other.name), shutil.which("node")
        assert found is not None
        assert node is not None
        self.program = found
        self.other = other
        self.root = root
        self.model = model
        self.home = root / "home"
        path = f"{Path(found).parent}:{Path(node).parent}:{SYSTEM['PATH']}"
        self.environ = {**SYSTEM, "PATH": path, "HOME": str(self.home)}
        self.paths: Paths = find_paths(self.environ)
        self.terminals: list[Terminal] = []
        self.settings = self.home / other.settings
        self.settings.parent.mkdir(parents=True)
        self.keep_hub()
        if other.auth is not None:
            self.run(self.program, *other.auth(model.address("bob")))
        self.settings.write_text(other.content)

    def keep_hub(self) -> None:
        """A hub stays, with nobody connected."""
        self.paths.home.mkdir(parents=True, mode=0o700)
        self.paths.config.write_text("keep_alive = true\n")

    def variables(self, who: str) -> dict[str, str]:
        """The whole environment of the program whose model is `who`."""
        return {**self.environ, **self.other.variables(self.model.address("bob"))}

    def install(self, *options: str) -> None:
        """Set it up as a person does."""
        self.run(*own_program(), "install", self.other.name, *options)

    def turn(self, prompt: str) -> subprocess.CompletedProcess[str]:
        """One turn without a terminal, in the project bob."""
        return subprocess.run(
            [self.program, *self.other.words, prompt],
            cwd=self.project("bob"),
            env=self.variables("bob"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )

    def close(self) -> None:
        """End all: what Cline leaves in the background too."""
        for pid, line in self.processes().items():
            if "cline" in line and "ecorelay" not in line:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        super().close()


def answers(world: OtherWorld) -> list[dict[str, Any]]:
    """What our tools have answered so far, one after the other."""
    found = [result for request in world.model.requests("bob") for result in request.results]
    return [_fields(result) for result in found if "{" in result and "<function>" not in result]


def _fields(result: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(result[result.index("{") : result.rindex("}") + 1])
    if isinstance(content := fields.get("content"), list):  # as Cline gives it on
        fields = json.loads(content[0]["text"])
    return fields
