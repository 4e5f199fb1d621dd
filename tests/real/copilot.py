"""The real GitHub Copilot CLI on a machine of a test's own, with no login; its model is a script on loopback.

The program is ``COPILOT_BIN``, else the one below ``CLIENTS_DIR`` (~/.cache/assistant-clients)/copilot::

    mkdir -p ~/.cache/assistant-clients/copilot
    npm install --prefix ~/.cache/assistant-clients/copilot @github/copilot@1.0.102
"""

from __future__ import annotations

import json
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
from tests.real.chat import ChatModel
from tests.real.claude import NOWHERE, PROJECTS, PROMPT, SYSTEM, Terminal, World, until

EXTENSION = "extensions/ecorelay/extension.mjs"
"""Below Copilot's folder; its path stands in no command line, but in the process's environment."""


def find_copilot() -> str | None:
    """The real program, if it is installed."""
    if named := os.environ.get("COPILOT_BIN"):
        return named
    program = _clients() / "copilot" / "node_modules" / ".bin" / "copilot"
    return str(program) if program.exists() else None


def _clients() -> Path:
    return Path(os.environ.get("CLIENTS_DIR") or Path.home() / ".cache" / "assistant-clients")


def why_not() -> str:
    """Why no test of the real program can run here; empty: they can."""
    if find_copilot() is None:
        return "GitHub Copilot CLI is not installed, see tests/real/copilot.py"
    missing = [name for name in ("tmux", "node") if shutil.which(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


class CopilotWorld(World):
    """One user's machine with Copilot, set up by ``ecorelay install copilot``.

    Args:
        root: a directory of its own.
        model: plays the model of all sessions, each by the name it was opened with.
        installs: whether ecorelay is installed.
    """

    def __init__(self, root: Path, model: ChatModel, *, installs: bool = True) -> None:
        copilot, node = find_copilot(), shutil.which("node")
        assert copilot is not None
        assert node is not None
        self.copilot = copilot
        self.root = root
        self.model = model
        self.home = root / "home"
        path = f"{Path(copilot).parent}:{Path(node).parent}:{SYSTEM['PATH']}"
        self.environ = {**SYSTEM, "PATH": path, "HOME": str(self.home)}
        self.paths: Paths = find_paths(self.environ)
        self.terminals: list[Terminal] = []
        self.folder = self.home / ".copilot"
        self.folder.mkdir(parents=True)
        projects = [str(self.project(name)) for name in PROJECTS]
        (self.folder / "config.json").write_text(json.dumps({"trustedFolders": projects}))
        (self.folder / "settings.json").write_text('{\n  // a person\'s own\n  "banner": "never"\n}\n')
        # Where Copilot unpacks itself at its first start: 235 MB, once for all tests.
        self.cache = _clients() / "copilot" / "unpacked"
        self.cache.mkdir(parents=True, exist_ok=True)
        self.paths.home.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.paths.config.write_text("keep_alive = true\n")
        if installs:
            self.install()

    def install(self, *arguments: str) -> None:
        """Set it up as a person does."""
        self.run(*own_program(), "install", "copilot", *arguments)

    def variables(self, who: str) -> dict[str, str]:
        """The whole environment of Copilot; without a login it takes any model it is pointed at."""
        return {
            **self.environ,
            "XDG_CACHE_HOME": str(self.cache),
            "COPILOT_OFFLINE": "true",
            "COPILOT_AUTO_UPDATE": "false",
            "COPILOT_PROVIDER_BASE_URL": self.model.address(who) + "/v1",
            "COPILOT_PROVIDER_API_KEY": "dummy",
            "COPILOT_MODEL": "fake-model",
            "HTTPS_PROXY": NOWHERE,
            "NO_PROXY": "127.0.0.1",
        }

    def words(self, *arguments: str) -> list[str]:
        """The command line of Copilot, which need not ask before it uses our tools."""
        return [self.copilot, "--allow-tool=ecorelay", *arguments]

    def open(
        self,
        who: str = "bob",
        *arguments: str,
        project: str | None = None,
        peer: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> CopilotTerminal:
        """Start Copilot in the directory `who`; wait until the peer is there and can be pushed to."""
        terminal = CopilotTerminal(self, who, self.project(project or who), arguments, environ or {})
        self.terminals.append(terminal)
        terminal.wait_ready()
        peer = who if peer is None else peer
        if peer:
            until(lambda: self.peers().get(peer), f"{peer} is there", 20)
        return terminal

    def say(self, who: str, prompt: str, *arguments: str, project: str | None = None) -> dict[str, str]:
        """Run ``copilot -p`` to its good end; what it wrote."""
        ended = subprocess.run(
            self.words("-p", prompt, *arguments),
            cwd=self.project(project or who),
            env=self.variables(who),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended
        return {"out": ended.stdout, "err": ended.stderr}

    def extensions(self) -> list[int]:
        """Our extension's processes that live."""
        mark = f"EXTENSION_PATH={self.folder / EXTENSION}\0".encode()
        found = []
        for pid in self.processes():
            with suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(pid)
        return found

    def close(self) -> None:
        """End all."""
        for terminal in self.terminals:
            terminal.close()
        for pid, line in self.processes().items():
            if "ecorelay mcp" not in line and "ecorelay hub" not in line:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        super().close()
        for log in self.paths.home.glob("adapter.log*"):
            assert "Traceback" not in log.read_text(), log.read_text()[:5_000]


class CopilotTerminal(Terminal):
    """Copilot in a tmux of its own."""

    def __init__(
        self,
        world: World,
        who: str,
        directory: Path,
        arguments: Sequence[str],
        environ: Mapping[str, str],
    ) -> None:
        self.world = world
        self.who = who
        self._folder = tempfile.mkdtemp(prefix="tmux-")
        variables = [f"{name}={value}" for name, value in {**world.variables(who), **environ}.items()]
        line = shlex.join(["exec", "env", "-i", *variables, *world.words(*arguments)])
        self._tmux("new-session", "-d", "-x", "140", "-y", "50", "-c", str(directory), line)
        self.pid = int(self._tmux("display-message", "-p", "#{pane_pid}"))
        self.start = until(lambda: start_time(self.pid), "it starts")

    def wait_ready(self) -> None:
        """Wait for the prompt."""
        until(lambda: PROMPT in self.screen, f"the prompt, but\n{self.screen}", 40)

    def type(self, text: str, *, enter: bool = True) -> None:
        """Type into the prompt box."""
        self._tmux("send-keys", "-l", "--", text)
        if enter:
            until(lambda: text[:40] in self.screen, f"{text!r} is typed, but\n{self.screen}", 10)
            time.sleep(0.5)  # what comes fast is taken for pasted
            self.press("Enter")

    def programs(self) -> list[int]:
        """The processes of Copilot itself: what was typed starts the program that does the work."""
        others = ("ecorelay mcp", "ecorelay hub", "extension_bootstrap")
        lines = self.world.processes()
        return [
            pid
            for pid, line in lines.items()
            if "copilot" in line and not any(other in line for other in others)
        ]

    def close_window(self) -> None:
        """Close the terminal, as a person closes its window."""
        self._tmux("kill-server")

    def reload_extensions(self) -> None:
        """Switch our extension off and on again, in Copilot's own list."""
        self.type("/extensions")
        self.shows("Manage extensions")
        self.press("Enter")
        self.shows("Manage Extensions (")
        self.press("Space")
        self.shows("disabled")
        self.press("Space")
        self.shows("running")
        self.press("Escape")
        time.sleep(0.3)
        self.press("Escape")

    def quit(self) -> None:
        """Leave as a person does."""
        self.type("/exit")
        until(lambda: not self.alive, "Copilot is gone", 15)
