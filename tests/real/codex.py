"""The real Codex CLI on a machine of a test's own; its model is a script on loopback.

The program is ``CODEX_BIN``, else the one below ``CLIENTS_DIR`` (~/.cache/assistant-clients)/codex::

    mkdir -p ~/.cache/assistant-clients/codex
    npm install --prefix ~/.cache/assistant-clients/codex @openai/codex@0.169.0
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ecorelay.paths import Paths, find_paths
from ecorelay.process import start_time
from ecorelay_adapters.clients.program import own_program
from tests.real.claude import PROJECTS, SYSTEM, Terminal, World, until
from tests.real.model import PATIENCE_S
from tests.real.responses import ResponsesModel

CONFIG = """\
# a person's own
model = "fake-model"
model_provider = "fake"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.fake]
name = "fake"
base_url = "{address}/v1"
wire_api = "responses"
env_key = "FAKE_KEY"
request_max_retries = 0
stream_max_retries = 0
"""


def find_codex() -> str | None:
    """The real program, if it is installed."""
    if named := os.environ.get("CODEX_BIN"):
        return named
    clients = Path(os.environ.get("CLIENTS_DIR") or Path.home() / ".cache" / "assistant-clients")
    program = clients / "codex" / "node_modules" / ".bin" / "codex"
    return str(program) if program.exists() else None


def why_not() -> str:
    """Why no test of the real program can run here; empty: they can."""
    if find_codex() is None:
        return "Codex is not installed, see tests/real/codex.py"
    missing = [name for name in ("tmux", "node") if shutil.which(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


class CodexWorld(World):
    """One user's machine with Codex, set up by ``ecorelay install codex``.

    Args:
        root: a directory of its own. Not below the temporary directory's very top: Codex minds.
        model: plays the model of all sessions, as "bob".
        installs: whether ecorelay is installed.
    """

    def __init__(self, root: Path, model: ResponsesModel, *, installs: bool = True) -> None:
        codex, node = find_codex(), shutil.which("node")
        assert codex is not None
        assert node is not None
        self.codex = codex
        self.root = root
        self.model = model
        self.home = root / "home"
        path = f"{Path(codex).parent}:{Path(node).parent}:{SYSTEM['PATH']}"
        self.environ = {**SYSTEM, "PATH": path, "HOME": str(self.home)}
        self.paths: Paths = find_paths(self.environ)
        self.terminals: list[Terminal] = []
        self.config = self.home / ".codex" / "config.toml"
        self.config.parent.mkdir(parents=True)
        trusted = [f'[projects."{self.project(name)}"]\ntrust_level = "trusted"\n' for name in PROJECTS]
        self.config.write_text("\n".join([CONFIG.format(address=model.address("bob")), *trusted]))
        self.paths.home.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.paths.config.write_text("keep_alive = true\n")
        if installs:
            self.install()

    def install(self) -> None:
        """Set it up as a person does."""
        self.run(*own_program(), "install", "codex", "--allow-tools")

    def variables(self, who: str) -> dict[str, str]:
        """The whole environment of Codex."""
        return {**self.environ, "FAKE_KEY": "dummy"}

    def words(self, *arguments: str) -> list[str]:
        """The command line of Codex."""
        return [self.codex, *arguments]

    def open(
        self,
        who: str = "bob",
        *arguments: str,
        project: str | None = None,
        peer: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> CodexTerminal:
        """Start Codex in the directory `who`, and wait until the peer is there."""
        terminal = CodexTerminal(self, who, self.project(project or who), arguments)
        self.terminals.append(terminal)
        terminal.wait_ready()
        peer = who if peer is None else peer
        if peer:
            until(lambda: self.peers().get(peer), f"{peer} is there", 20)
        return terminal

    def end_daemon(self) -> None:
        """End the daemon that all terminals share."""
        subprocess.run(
            [self.codex, "app-server", "daemon", "stop"],
            env=self.variables(""),
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def close(self) -> None:
        """End all: the daemon's updater loop too, which knows no other end."""
        for terminal in self.terminals:
            terminal.close()
        self.end_daemon()
        for pid, line in self.processes().items():
            if "codex" in line and "ecorelay" not in line:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        super().close()


class CodexTerminal(Terminal):
    """Codex in a tmux of its own."""

    def __init__(self, world: World, who: str, directory: Path, arguments: Sequence[str]) -> None:
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
        self.shows("Ask Codex", 30)

    def type(self, text: str, *, enter: bool = True) -> None:
        """Type into the prompt box."""
        self._tmux("send-keys", "-l", "--", text)
        if enter:
            until(lambda: text[:40] in self.screen, f"{text!r} is typed", 10)
            time.sleep(0.8)  # what comes fast is taken for pasted, Enter too
            self.press("Enter")

    def quit(self) -> None:
        """Leave as a person does."""
        self.type("/quit")
        until(lambda: not self.alive, "Codex is gone", 15)
