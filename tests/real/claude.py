"""The real Claude Code on a machine of a test's own: its HOME is private, its environment made from nothing,
its model a script on loopback. A person at its terminal is tmux.

The program is ``CLAUDE_BIN``, else the newest below ``CLIENTS_DIR`` (~/.cache/assistant-clients)/claude*::

    mkdir -p ~/.cache/assistant-clients/claude && cd ~/.cache/assistant-clients/claude
    echo '{"private":true}' > package.json && npm install @anthropic-ai/claude-code@2.1.329

Every wait in here is bounded.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import trio

from ecorelay import __version__, wire
from ecorelay.client import HubClient, open_hub_client
from ecorelay.endpoint import Endpoint, read_endpoint
from ecorelay.paths import Paths, find_paths
from ecorelay.process import is_alive, start_time
from ecorelay.spawn import hub_connector
from ecorelay_adapters.clients.assistant import Machine
from ecorelay_adapters.clients.claude_code import HOOKS, RULE, render
from ecorelay_adapters.clients.files import write_tree
from ecorelay_adapters.clients.program import own_program
from tests.real.model import PATIENCE_S, POLL_S, Model

TOOL = RULE + "__"
"""Begins the names of our tools, as the plugin's server offers them."""
KEY = "dummy"
SPY = Path(__file__).with_name("spy.py")
SYSTEM = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TERM": "xterm-256color"}
PROMPT = "\u276f"
HINTS = ("shortcuts", "mode on", "for agents", "/effort")
"""One of these stands below the prompt."""
NOWHERE = "http://127.0.0.1:9"
"""A proxy that is not there: what the client wants of the world outside fails at once."""

PROJECTS = ("alice", "bob", "carol", "dave")
"""Directories in which assistants may start without asking."""

T = TypeVar("T")


def find_claude() -> str | None:
    """The real client's program, if it is installed."""
    if named := os.environ.get("CLAUDE_BIN"):
        return named
    clients = Path(os.environ.get("CLIENTS_DIR") or Path.home() / ".cache" / "assistant-clients")
    found = []
    for folder in clients.glob("claude*"):
        manifest = folder / "node_modules/@anthropic-ai/claude-code/package.json"
        program = folder / "node_modules/.bin/claude"
        if manifest.is_file() and program.exists():
            version = json.loads(manifest.read_text())["version"]
            found.append((tuple(int(part) for part in version.split(".")), str(program)))
    return max(found)[1] if found else None


def why_not() -> str:
    """Why no test of the real client can run here; empty: they can."""
    if find_claude() is None:
        return "Claude Code is not installed, see tests/real/claude.py"
    return "" if shutil.which("tmux") else "tmux is not installed"


def until(holds: Callable[[], T], what: str = "", within: float = PATIENCE_S) -> T:
    """Wait for what another process does and tells nobody; gives what `holds` gave."""
    deadline = time.monotonic() + within
    while not (found := holds()):
        assert time.monotonic() < deadline, f"never happened: {what or holds}"
        time.sleep(POLL_S)
    return found


class World:
    """One user's machine, with a model for each session.

    Args:
        root: a directory of its own.
        model: plays the models.
        spy: whether the hooks' events and answers are kept, see `World.hooks`.
        installs: whether the plugin is left to be installed; else each session is given its folder.
        settings: lines of config.toml.
    """

    def __init__(
        self,
        root: Path,
        model: Model,
        *,
        spy: bool = False,
        installs: bool = False,
        settings: Sequence[str] = (),
    ) -> None:
        claude = find_claude()
        assert claude is not None
        self.claude = claude
        self.root = root
        self.model = model
        self.home = root / "home"
        self.environ = {**SYSTEM, "HOME": str(self.home)}
        self.paths: Paths = find_paths(self.environ)
        self.plugin: Path | None = None
        self._hook_log = root / "hooks.jsonl"
        self.terminals: list[Terminal] = []
        self._make_home(settings)
        if not installs:
            self.plugin = root / "market" / "plugins" / "ecorelay"
            self._render(root / "market", spy=spy)

    def _make_home(self, settings: Sequence[str]) -> None:
        (self.home / ".claude").mkdir(parents=True)
        projects = {str(self.root / "projects" / name) for name in PROJECTS}
        state = {
            "hasCompletedOnboarding": True,
            "lastOnboardingVersion": "99.0.0",
            "theme": "dark",
            "customApiKeyResponses": {"approved": [KEY], "rejected": []},
            "projects": {each: {"hasTrustDialogAccepted": True, "allowedTools": []} for each in projects},
        }
        (self.home / ".claude.json").write_text(json.dumps(state))
        # Not the automatic mode, which asks the real service whether a tool is safe.
        allowed = {"disableAutoMode": "disable", "allow": [RULE, "mcp__ecorelay", "Bash", "Agent"]}
        (self.home / ".claude" / "settings.json").write_text(json.dumps({"permissions": allowed}))
        self.paths.home.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.paths.config.write_text("\n".join(["keep_alive = true", *settings, ""]))

    def _render(self, market: Path, *, spy: bool) -> None:
        machine = Machine(environ=self.environ, paths=self.paths, program=own_program(), version=__version__)
        tree = render(machine)
        if spy:
            hooks = json.loads(tree[HOOKS])
            for groups in hooks["hooks"].values():
                for hook in (hook for group in groups for hook in group["hooks"]):
                    words = [sys.executable, "-S", "-E", str(SPY), str(self._hook_log), hook["command"]]
                    hook["command"] = shlex.join(words)
            tree = {**tree, HOOKS: json.dumps(hooks).encode()}
        write_tree(market, tree)

    def project(self, name: str) -> Path:
        """A project's directory. An unnamed session there is a peer of this name."""
        folder = self.root / "projects" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def variables(self, who: str) -> dict[str, str]:
        """The whole environment of a client whose model is `who`."""
        return {
            **self.environ,
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": self.model.address(who),
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "HTTPS_PROXY": NOWHERE,
            "HTTP_PROXY": NOWHERE,
            "NO_PROXY": "127.0.0.1",
        }

    # --- sessions ------------------------------------------------------------------------------------

    def words(self, *arguments: str) -> list[str]:
        """The command line of a client with the plugin."""
        plugin = ("--plugin-dir", str(self.plugin)) if self.plugin is not None else ()
        return [self.claude, *plugin, *arguments]

    def open(
        self,
        who: str = "bob",
        *arguments: str,
        project: str | None = None,
        peer: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Terminal:
        """Start an interactive session, and wait until its prompt is there and its adapter is connected.

        Args:
            who: its model's name.
            arguments: further words of its command line.
            project: the name of its directory; default: `who`.
            peer: who it must be in ecorelay; default: `who`. Empty: it need not be anybody.
            environ: further variables.
        """
        terminal = Terminal(self, who, self.project(project or who), arguments, environ or {})
        self.terminals.append(terminal)
        terminal.wait_ready()
        peer = who if peer is None else peer
        if peer:
            until(lambda: self.peers().get(peer), f"{peer} is there", 20)
        return terminal

    def say(self, who: str, prompt: str, *arguments: str, project: str | None = None) -> dict[str, Any]:
        """Run ``claude -p`` to its good end; what it says of it."""
        process = self.begin(who, prompt, *arguments, project=project)
        return self.end(process)

    def begin(
        self, who: str, prompt: str, *arguments: str, project: str | None = None
    ) -> subprocess.Popen[str]:
        """Start ``claude -p``."""
        return subprocess.Popen(
            self.words("-p", prompt, "--output-format", "json", *arguments),
            cwd=self.project(project or who),
            env=self.variables(who),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for a ``claude -p``; its result."""
        try:
            out, err = process.communicate(timeout=PATIENCE_S * 2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"claude -p did not end: {out}{err}") from None
        assert process.returncode == 0, out + err
        found = json.loads(out)
        result: dict[str, Any] = found[-1] if isinstance(found, list) else found
        assert not result.get("is_error"), result
        return result

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program to its good end, as the person would."""
        ended = subprocess.run(
            words,
            cwd=cwd or self.home,
            env=self.variables("nobody"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )
        assert ended.returncode == 0, ended
        return ended

    # --- the hub, as others see it ---------------------------------------------------------------------

    def at_hub(self, talk: Callable[[HubClient], Any], **hello: Any) -> Any:
        """Run one conversation with the hub (``async def talk(client)``); by default as an observer."""

        async def main() -> Any:
            said = wire.Hello(**{"versions": (1, 1), "role": "observer", **hello})
            with trio.fail_after(PATIENCE_S):
                connect = hub_connector(self.paths, self.environ)
                async with open_hub_client(said, connect=connect) as client:
                    return await talk(client)

        return trio.run(main)

    def send(self, to: str, *texts: str, sender: str = "alice", **fields: Any) -> list[str]:
        """Send these at once, in this order; their ids."""
        ids: list[str] = []

        async def talk(client: HubClient) -> None:
            for text in texts:
                sent = await client.request(wire.Send(req_id=0, op_id="", to=to, text=text, **fields))
                ids.append(sent.msg_id)

        self.at_hub(talk, role="attach", name=sender, create=True)
        return ids

    def peer_list(self) -> Sequence[wire.Peer]:
        """Who is known."""
        found = self.at_hub(lambda client: client.request(wire.Peers(req_id=0)))
        rows: Sequence[wire.Peer] = found.peers
        return rows

    def peers(self) -> dict[str, bool]:
        """Their names, and whether they are online."""
        return {peer.name: peer.online for peer in self.peer_list()}

    def states(self, ids: Sequence[str]) -> list[str]:
        """What became of messages, in a word each: unread, pushed or seen."""

        async def talk(client: HubClient) -> list[str]:
            found = [await client.request(wire.Trace(req_id=0, msg_id=msg_id)) for msg_id in ids]
            return [receipt.state for traced in found for receipt in traced.receipts]

        states: list[str] = self.at_hub(talk)
        return states

    def wait_seen(self, *ids: str) -> None:
        """Wait until there is proof that these were seen."""
        until(lambda: set(self.states(ids)) == {"seen"}, f"all are seen, but {self.states(ids)}")

    @property
    def hub(self) -> Endpoint | None:
        """Where the hub is, if one runs."""
        found = read_endpoint(self.paths.endpoint)
        return found if found is not None and is_alive(found.pid, found.pid_start) else None

    def end_hub(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal the hub and wait for its end."""
        if (hub := self.hub) is not None:
            with suppress(ProcessLookupError):
                os.kill(hub.pid, number)
            until(lambda: not is_alive(hub.pid, hub.pid_start), "the hub is gone")

    # --- what is left behind ---------------------------------------------------------------------------

    def hooks(self, event: str = "", since: int = 0) -> list[dict[str, Any]]:
        """What hooks were told (`input`) and answered (`output`, `errors`, `code`), and how long they took.

        Only of a world with a spy.
        """
        lines = self._hook_log.read_text().splitlines()[since:] if self._hook_log.exists() else []
        found = [json.loads(line) for line in lines]
        return [each for each in found if event in ("", each["input"].get("hook_event_name"))]

    def session_file(self, terminal: Terminal) -> dict[str, Any]:
        """What the client says of its session."""
        path = self.home / ".claude" / "sessions" / f"{terminal.pid}.json"
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(path.read_text())
            return found
        return {}

    def processes(self) -> dict[int, str]:
        """Processes that were started on this machine and live."""
        mark, found = f"HOME={self.home}\0".encode(), {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
        return found

    def adapters(self) -> list[int]:
        """Adapters that live."""
        return [pid for pid, line in self.processes().items() if "ecorelay mcp" in line]

    def close(self) -> None:
        """End all sessions and the hub. Nothing may stay behind, and no hub may have met a bug."""
        for terminal in self.terminals:
            terminal.close()

        def nothing_is_left() -> bool:
            self.end_hub()  # the last thing an adapter did may have been to start one
            return not self.processes()

        try:
            until(nothing_is_left, "all processes are gone", 10)
        finally:
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.paths.home.is_dir():
            for log in self.paths.home.glob("hub.log*"):
                assert '"event":"crash"' not in log.read_text(), log.read_text()[:5_000]


class Terminal:
    """An interactive session in a tmux of its own; made by `World.open`."""

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
        # A socket's path must be short.
        self._folder = tempfile.mkdtemp(prefix="tmux-")
        self.log = world.root / f"debug-{who}-{time.time_ns()}.log"
        variables = world.variables(who) | dict(environ)
        line = shlex.join(
            [
                "exec",
                "env",
                "-i",
                *[f"{name}={value}" for name, value in variables.items()],
                *world.words(*arguments, "--debug-file", str(self.log)),
            ]
        )
        self._tmux("new-session", "-d", "-x", "180", "-y", "50", "-c", str(directory), line)
        self.pid = int(self._tmux("display-message", "-p", "#{pane_pid}"))
        self.start = until(lambda: start_time(self.pid), "it starts")

    def _tmux(self, *words: str) -> str:
        ended = subprocess.run(
            ["tmux", "-S", f"{self._folder}/s", "-f", "/dev/null", *words],
            capture_output=True,
            text=True,
            env={**SYSTEM, "HOME": self._folder},
            timeout=PATIENCE_S,
            check=False,
        )
        return ended.stdout

    @property
    def screen(self) -> str:
        """What stands there now."""
        return self._tmux("capture-pane", "-p")

    def shows(self, text: str, within: float = PATIENCE_S) -> None:
        """Wait until `text` stands on the screen."""
        until(lambda: text in self.screen, f"{text!r} on the screen:\n{self.screen}", within)

    def wait_ready(self) -> None:
        """Wait for the prompt."""

        def ready() -> bool:
            screen = self.screen
            return PROMPT in screen and any(hint in screen for hint in HINTS)

        try:
            until(ready, "the prompt", 30)
        except AssertionError:
            raise AssertionError(f"no prompt, but:\n{self.screen}") from None

    def type(self, text: str, *, enter: bool = True) -> None:
        """Type into the prompt box."""
        self._tmux("send-keys", "-l", "--", text)
        if enter:
            # The client takes what comes in one piece for pasted.
            until(lambda: text[:40] in self.screen, f"{text!r} is typed", 10)
            time.sleep(0.2)
            self.press("Enter")

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names."""
        self._tmux("send-keys", *keys)

    @property
    def alive(self) -> bool:
        """Whether the client runs."""
        return is_alive(self.pid, self.start)

    def wait_idle(self) -> None:
        """Wait until no turn is going on."""
        until(lambda: self.status == "idle", f"it is idle, but {self.status}")

    @property
    def status(self) -> str:
        """What the client says it does."""
        return str(self.world.session_file(self).get("status", ""))

    @property
    def session_id(self) -> str:
        """The client's id of its session."""
        return str(self.world.session_file(self).get("sessionId", ""))

    def quit(self) -> None:
        """Leave as a person does."""
        self.press("C-u")
        self.type("/exit")
        until(lambda: not self.alive, "the client is gone", 15)

    def kill(self) -> None:
        """End the client without a word."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        until(lambda: not self.alive, "the client is gone", 10)

    def close(self) -> None:
        """End whatever is left."""
        with suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, signal.SIGTERM)
        with suppress(AssertionError):
            until(lambda: not self.alive, "the client is gone", 5)
        self._tmux("kill-server")
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """In the block the process lives and does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
