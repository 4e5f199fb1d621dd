"""The real Qwen Code on a machine of a test's own; its model is a script on loopback.

The program is ``QWEN_BIN``, else the one below ``CLIENTS_DIR`` (~/.cache/assistant-clients)/qwen::

    mkdir -p ~/.cache/assistant-clients/qwen
    npm install --prefix ~/.cache/assistant-clients/qwen @qwen-code/qwen-code@0.15.10

Newer ones (0.24.4 was driven) need a newer Node, which a script of that name may put on the path.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path

from ecorelay.paths import Paths, find_paths
from ecorelay.process import start_time
from ecorelay_adapters.clients.program import own_program
from tests.real.chat import ChatModel, _Chat, _stream, _tools
from tests.real.claude import SYSTEM, Terminal, World, until
from tests.real.model import PATIENCE_S, Reply, call

SETTINGS = {
    "general": {"disableAutoUpdate": True},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "security": {"auth": {"selectedType": "openai"}, "folderTrust": {"enabled": False}},
    "model": {"name": "fake-model"},
    "ui": {"enableFollowupSuggestions": False},  # from 0.24 on: it asks the model between turns
}
READY = "Type your message"
READS = (
    call("tool_search", query="select:mcp__ecorelay__relay_inbox"),
    call("relay_inbox"),
    Reply("read"),
)
"""What a model does that is told of mail: Qwen Code gives it our tools only when it looks for them."""


class QwenModel(ChatModel):
    """The server; what is asked without our tools and without ``tool_search`` is no part of a script."""

    def __init__(self) -> None:
        super().__init__()
        self._server.server_close()
        handler = type("Handler", (_QwenChat,), {"model": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True


class _QwenChat(_Chat):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        who = self.path.strip("/").partition("/")[0]
        ours = any("relay_" in name or name == "tool_search" for name in _tools(body))
        reply = self.model.answer(who, body) if ours else Reply("aside")
        with suppress(BrokenPipeError, ConnectionResetError):  # the client gave it up
            self._send(200, b"".join(_stream(body, reply)), "text/event-stream")


def find_qwen() -> str | None:
    """The real program, if it is installed."""
    if named := os.environ.get("QWEN_BIN"):
        return named
    clients = Path(os.environ.get("CLIENTS_DIR") or Path.home() / ".cache" / "assistant-clients")
    program = clients / "qwen" / "node_modules" / ".bin" / "qwen"
    return str(program) if program.exists() else None


def why_not() -> str:
    """Why no test of the real program can run here; empty: they can."""
    if find_qwen() is None:
        return "Qwen Code is not installed, see tests/real/qwen.py"
    missing = [name for name in ("tmux", "node") if shutil.which(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


class QwenWorld(World):
    """One user's machine with Qwen Code and our entry in its settings.

    Args:
        root: a directory of its own.
        model: plays the models; a session's is named by the directory it was started in.
    """

    def __init__(self, root: Path, model: QwenModel) -> None:
        qwen, node = find_qwen(), shutil.which("node")
        assert qwen is not None
        assert node is not None
        self.qwen = qwen
        self.root = root
        self.model = model
        self.home = root / "home"
        path = f"{Path(qwen).parent}:{Path(node).parent}:{SYSTEM['PATH']}"
        self.environ = {**SYSTEM, "PATH": path, "HOME": str(self.home)}
        self.paths: Paths = find_paths(self.environ)
        self.terminals: list[Terminal] = []
        program, *words = own_program()
        entry = {"command": program, "args": [*words, "mcp", "--carrier", "qwen"], "trust": True}
        settings = self.home / ".qwen" / "settings.json"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps({**SETTINGS, "mcpServers": {"ecorelay": entry}}))
        self.paths.home.mkdir(parents=True, mode=0o700)
        self.paths.config.write_text("keep_alive = true\n")

    def variables(self, who: str) -> dict[str, str]:
        """The whole environment of Qwen Code."""
        return {
            **self.environ,
            "OPENAI_API_KEY": "dummy",
            "OPENAI_BASE_URL": self.model.address(who) + "/v1",
            "OPENAI_MODEL": "fake-model",
        }

    def words(self, *arguments: str) -> list[str]:
        """The command line of Qwen Code."""
        return [self.qwen, *arguments]

    def input_file(self, who: str = "bob") -> Path:
        """A new input file in the project."""
        file = self.project(who) / "in.jsonl"
        file.touch(mode=0o600)
        return file

    def open(
        self,
        who: str = "bob",
        *arguments: str,
        project: str | None = None,
        peer: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> QwenTerminal:
        """Start Qwen Code in a terminal, and wait until the peer is there."""
        terminal = QwenTerminal(self, who, self.project(project or who), *arguments)
        self.terminals.append(terminal)
        terminal.wait_ready()
        until(lambda: self.peers().get(peer or who), f"{peer or who} is there", 30)
        return terminal


class QwenTerminal(Terminal):
    """Qwen Code in a tmux of its own."""

    def __init__(self, world: World, who: str, directory: Path, *arguments: str) -> None:
        self.world = world
        self.who = who
        self._folder = tempfile.mkdtemp(prefix="tmux-")
        variables = [f"{name}={value}" for name, value in world.variables(who).items()]
        line = shlex.join(["exec", "env", "-i", *variables, *world.words(*arguments)])
        self._tmux("new-session", "-d", "-x", "140", "-y", "50", "-c", str(directory), line)
        self.pid = int(self._tmux("display-message", "-p", "#{pane_pid}"))
        self.start = until(lambda: start_time(self.pid), "it starts")

    def wait_ready(self) -> None:
        """Wait for the prompt."""
        try:
            until(lambda: READY in self.screen, "the prompt", 60)
        except AssertionError:
            raise AssertionError(f"no prompt, but:\n{self.screen}") from None

    def wait_idle(self) -> None:
        """Wait until no turn runs."""
        until(lambda: "esc to cancel" not in self.screen, f"it is idle:\n{self.screen}")

    def type(self, text: str, *, enter: bool = True) -> None:
        """Type into the prompt box."""
        self._tmux("send-keys", "-l", "--", text)
        if enter:
            until(lambda: text[:40] in self.screen, f"{text!r} is typed", 10)
            time.sleep(0.5)
            self.press("Enter")

    def quit(self) -> None:
        """Leave as a person does."""
        for _ in range(3):
            if self.alive:
                self.press("C-c")
                time.sleep(0.4)
        with suppress(AssertionError):
            until(lambda: not self.alive, "Qwen Code is gone", PATIENCE_S)
