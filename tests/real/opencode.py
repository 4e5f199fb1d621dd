"""The real OpenCode on a machine of a test's own; its model is a script on loopback.

The program is ``OPENCODE_BIN``, else the one below ``CLIENTS_DIR`` (~/.cache/assistant-clients)/opencode::

    mkdir -p ~/.cache/assistant-clients/opencode
    npm install --prefix ~/.cache/assistant-clients/opencode opencode-ai@1.18.33
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ecorelay.paths import Paths, find_paths
from ecorelay.process import start_time
from ecorelay_adapters.clients.program import own_program
from tests.real.chat import ChatModel
from tests.real.claude import SYSTEM, Terminal, World, until
from tests.real.model import PATIENCE_S

CONFIG = {
    "$schema": "https://opencode.ai/config.json",
    "autoupdate": False,
    "share": "disabled",
    "model": "fake/fake-model",
    "small_model": "fake/fake-model",
    "provider": {
        "fake": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "Fake",
            "options": {"baseURL": "{env:FAKE_URL}", "apiKey": "dummy"},
            "models": {
                "fake-model": {
                    "name": "Fake",
                    "tool_call": True,
                    "limit": {"context": 1_000_000, "output": 8_000},
                }
            },
        }
    },
}


READY = "Ask anything|ctrl\\+p commands"
"""Stands below the prompt, or in it."""


def find_opencode() -> str | None:
    """The real program, if it is installed."""
    if named := os.environ.get("OPENCODE_BIN"):
        return named
    clients = Path(os.environ.get("CLIENTS_DIR") or Path.home() / ".cache" / "assistant-clients")
    program = clients / "opencode" / "node_modules" / ".bin" / "opencode"
    return str(program) if program.exists() else None


def why_not() -> str:
    """Why no test of the real program can run here; empty: they can."""
    if find_opencode() is None:
        return "OpenCode is not installed, see tests/real/opencode.py"
    return "" if shutil.which("tmux") else "tmux is not installed"


class OpenCodeWorld(World):
    """One user's machine with OpenCode, set up by ``ecorelay install opencode``.

    Args:
        root: a directory of its own.
        model: plays the models; a session's is named by the directory it was started in.
        installs: whether ecorelay is installed.
    """

    def __init__(self, root: Path, model: ChatModel, *, installs: bool = True) -> None:
        opencode = find_opencode()
        assert opencode is not None
        self.opencode = opencode
        self.root = root
        self.model = model
        self.home = root / "home"
        path = f"{Path(opencode).parent}:{SYSTEM['PATH']}"
        self.environ = {**SYSTEM, "PATH": path, "HOME": str(self.home)}
        self.paths: Paths = find_paths(self.environ)
        self.terminals: list[Terminal] = []
        self.config = self.home / ".config" / "opencode"
        self.config.mkdir(parents=True)
        (self.config / "opencode.json").write_text(json.dumps(CONFIG))
        self.paths.home.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.paths.config.write_text("keep_alive = true\n")
        if installs:
            self.install()

    def install(self) -> None:
        """Set it up as a person does."""
        self.run(*own_program(), "install", "opencode")

    def variables(self, who: str) -> dict[str, str]:
        """The whole environment of OpenCode: nothing is fetched, and npm fails at once."""
        return {
            **self.environ,
            "FAKE_URL": self.model.address(who) + "/v1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "npm_config_registry": "http://127.0.0.1:9/",
            "npm_config_fetch_retries": "0",
        }

    def words(self, *arguments: str) -> list[str]:
        """The command line of OpenCode."""
        return [self.opencode, *arguments]

    def open(
        self,
        who: str = "bob",
        *arguments: str,
        project: str | None = None,
        peer: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> OpenCodeTerminal:
        """Start OpenCode in a terminal, and wait for its prompt.

        Args:
            who: its model's name.
            arguments: further words of its command line.
            project: the name of its directory; default: `who`.
            peer: who must be there then. Default: nobody need be, for a session begins with its first prompt.
            environ: further variables.
        """
        terminal = OpenCodeTerminal(self, who, self.project(project or who), arguments, environ or {})
        self.terminals.append(terminal)
        terminal.wait_ready()
        if peer:
            until(lambda: self.peers().get(peer), f"{peer} is there", 20)
        return terminal

    def talk(self, who: str = "bob", prompt: str = "be there", **options: Any) -> OpenCodeTerminal:
        """Open a session, and give it its first prompt: then it is a peer, and idle."""
        terminal = self.open(who, **options)
        terminal.type(prompt)
        self.model.wait(who, prompt)
        until(lambda: self.peers().get(options.get("peer") or who), f"{who} is there", 20)
        terminal.wait_idle()
        return terminal

    def begin(self, who: str, *arguments: str, project: str | None = None) -> subprocess.Popen[str]:
        """Start OpenCode without a terminal."""
        return subprocess.Popen(
            self.words(*arguments),
            cwd=self.project(project or who),
            env=self.variables(who),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @contextmanager
    def serve(self, who: str = "bob", project: str | None = None) -> Iterator[Http]:
        """``opencode serve`` in the block."""
        process = self.begin(who, "serve", "--port", "0", project=project)
        try:
            assert process.stdout is not None
            line = ""
            while not (found := re.search(r"listening on (http://\S+)", line)):
                line = process.stdout.readline()
                assert line, process.communicate(timeout=5)
            yield Http(found[1], process)
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)

    def adapters(self) -> list[int]:
        """Adapters that live."""
        return [pid for pid, line in self.processes().items() if " mcp --carrier" in line]


class Http:
    """The API of an ``opencode serve``."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.url = url
        self.process = process

    def __call__(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            data = answer.read()
        return json.loads(data) if data else None

    def session(self, **more: object) -> str:
        """Make a session; its id."""
        return str(self("POST", "/session", more)["id"])

    def prompt(self, session: str, text: str) -> None:
        """Give it a prompt, and do not wait for the answer."""
        self("POST", f"/session/{session}/prompt_async", {"parts": [{"type": "text", "text": text}]})

    def messages(self, session: str) -> list[Any]:
        """All its messages."""
        found: list[Any] = self("GET", f"/session/{session}/message")
        return found

    def wait_idle(self, session: str) -> None:
        """Wait until no turn runs."""
        until(lambda: session not in self("GET", "/session/status"), f"{session} is idle")


class OpenCodeTerminal(Terminal):
    """OpenCode in a tmux of its own."""

    def __init__(
        self, world: World, who: str, directory: Path, arguments: Sequence[str], environ: Mapping[str, str]
    ) -> None:
        self.world = world
        self.who = who
        self._folder = tempfile.mkdtemp(prefix="tmux-")
        variables = [f"{name}={value}" for name, value in (world.variables(who) | dict(environ)).items()]
        line = shlex.join(["exec", "env", "-i", *variables, *world.words(*arguments)])
        self._tmux("new-session", "-d", "-x", "140", "-y", "50", "-c", str(directory), line)
        self.pid = int(self._tmux("display-message", "-p", "#{pane_pid}"))
        self.start = until(lambda: start_time(self.pid), "it starts")

    def wait_ready(self) -> None:
        """Wait for the prompt."""
        try:
            until(lambda: re.search(READY, self.screen), "the prompt", 60)
        except AssertionError:
            raise AssertionError(f"no prompt, but:\n{self.screen}") from None

    def wait_idle(self) -> None:
        """Wait until no turn runs."""
        until(lambda: not re.search("esc (again to )?interrupt", self.screen), "it is idle")

    def type(self, text: str, *, enter: bool = True) -> None:
        """Type into the prompt box."""
        self._tmux("send-keys", "-l", "--", text)
        if enter:
            until(lambda: text[:40] in self.screen, f"{text!r} is typed", 10)
            time.sleep(0.3)
            self.press("Enter")

    def interrupt(self) -> None:
        """Stop the turn that runs."""
        self.press("Escape")
        self.shows("again to interrupt")
        self.press("Escape")
        self.wait_idle()

    def quit(self) -> None:
        """Leave as a person does."""
        self.type("/exit")
        with suppress(AssertionError):
            until(lambda: not self.alive, "OpenCode is gone", 3)
        if self.alive:
            self.press("Enter")  # the first one chose the command from the list
        until(lambda: not self.alive, "OpenCode is gone", 15)

    def hang_up(self) -> None:
        """The terminal is closed."""
        self._tmux("kill-server")
        until(lambda: not self.alive, "OpenCode is gone", 15)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        os.kill(self.pid, number)
        until(lambda: not self.alive, "OpenCode is gone", 15)
