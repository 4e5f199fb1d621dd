"""The stage of `ecorelay demo`: a data directory of its own, its hub, its assistants, and the narrator.

Whatever happens, leaving the stage ends every process that was started on it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from ecorelay.cli import screen, session
from ecorelay.cli.demo_mcp import Assistant, run_assistant
from ecorelay.endpoint import Endpoint, read_endpoint
from ecorelay.errors import RelayError
from ecorelay.paths import Paths
from ecorelay.process import is_alive

HUB_ENDS_S = 10.0
KILL = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL
"""What gives a process no chance to tidy up."""
# An assistant may be running the demo: its session is not that of the ones on stage.
_OTHERS = (
    "ECORELAY_",
    "RELAY_",
    "CLAUDE",
    "CODEX_",
    "COPILOT_",
    "OPENCODE",
    "GEMINI_",
    "ANTIGRAVITY_",
    "CURSOR_",
)


class CheckFailed(Exception):
    """Something the demo shows is not so."""


class Narrator:
    """Tells a person what happens, on stdout."""

    def __init__(self) -> None:
        self.checks = 0
        self._scene = 0
        self._arrow = screen.symbol("→", "->")
        self._good = screen.symbol("✓", "ok")
        self._bad = screen.symbol("✗", "FAILED")

    def title(self, text: str) -> None:
        """The first line."""
        screen.out(screen.styled(text, "bold") + "\n")

    def scene(self, text: str) -> None:
        """The next scene begins."""
        self._scene += 1
        screen.out("\n" + screen.styled(f"{self._scene}  {text}", "bold") + "\n")

    def act(self, who: str, text: str) -> None:
        """Somebody does something."""
        screen.out(f"   {screen.styled(f'{who:<9}', 'cyan')} {screen.line(text)}\n")

    def back(self, text: str) -> None:
        """What came back."""
        screen.out(f"   {'':<9} {screen.styled(self._arrow, 'dim')} {screen.line(text)}\n")

    def check(self, holds: bool, proves: str, instead: str = "") -> None:
        """Say what was proved.

        Raises:
            CheckFailed: it was not; `instead` says what was found.
        """
        if not holds:
            screen.out(f"   {screen.styled(self._bad, 'red', 'bold')} {proves}\n")
            raise CheckFailed(f"{proves} (found: {instead})" if instead else proves)
        self.checks += 1
        screen.out(f"   {screen.styled(self._good, 'green', 'bold')} {proves}\n")

    def plain(self, text: str = "") -> None:
        """A line as it is."""
        screen.out(text + "\n")


class Stage:
    """One demo's world. Made by :func:`open_stage`."""

    def __init__(self, home: Path, narrator: Narrator, nursery: trio.Nursery, *, keep: bool) -> None:
        self.home = home
        self.keep = keep
        self.narrator = narrator
        self.paths = Paths(home / "hub")
        self._nursery = nursery
        self._hubs: dict[int, Endpoint] = {}
        self.told_to_end = 0
        """The signal that ended the demo, if one did."""

    async def start(self, name: str, *options: str) -> Assistant:
        """An assistant enters: its adapter starts, under that name, in a project directory of that name."""
        project = self.home / "projects" / name
        project.mkdir(parents=True, exist_ok=True)
        environ = {key: value for key, value in os.environ.items() if not key.startswith(_OTHERS)}
        environ |= {
            "ECORELAY_HOME": str(self.paths.home),
            "RELAY_PEER_ID": name,
            # What is shown must not depend on how busy the machine is.
            "ECORELAY_LIMITS_DELIVERED_WITHIN_S": "5",
        }
        log = self.home / f"{name}.log"
        assistant: Assistant = await self._nursery.start(run_assistant, name, project, environ, log, *options)
        self.hub()
        return assistant

    def hub(self) -> Endpoint:
        """The hub that listens now.

        Raises:
            CheckFailed: none does.
        """
        endpoint = read_endpoint(self.paths.endpoint)
        if endpoint is None:
            raise CheckFailed("a hub is running")
        self._hubs[endpoint.pid] = endpoint
        return endpoint

    def kill_hub(self) -> Endpoint:
        """End the hub at once, by a signal that no process can catch."""
        endpoint = self.hub()
        os.kill(endpoint.pid, KILL)
        return endpoint

    async def hub_after(self, last: Endpoint) -> Endpoint:
        """Wait for the hub that follows `last`, and give it."""
        while True:
            endpoint = read_endpoint(self.paths.endpoint)
            if endpoint is not None and (endpoint.pid, endpoint.started_at) != (last.pid, last.started_at):
                return self.hub()
            await trio.sleep(0.01)

    async def end_hubs(self) -> None:
        """End what listens here, politely first. The assistants must be gone: they would start another."""
        with suppress(CheckFailed, OSError, RelayError):
            self.hub()
        living = [hub for hub in self._hubs.values() if is_alive(hub.pid, hub.pid_start)]
        for number in (signal.SIGTERM, KILL):
            for hub in living:
                with suppress(OSError):
                    os.kill(hub.pid, number)
            with trio.move_on_after(HUB_ENDS_S):
                for hub in living:
                    await session.until_gone(hub.pid, hub.pid_start)
                return


@asynccontextmanager
async def open_stage(narrator: Narrator, *, keep: bool) -> AsyncIterator[Stage]:
    """A stage for the block. Afterwards nothing of it runs.

    Nor is anything left of it, unless `keep`, or something went wrong: then there are logs to look into.
    """
    home = Path(tempfile.mkdtemp(prefix="ecorelay-demo-"))
    stage = None
    try:
        async with trio.open_nursery() as nursery:
            stage = Stage(home, narrator, nursery, keep=keep)
            nursery.start_soon(_end_at_signals, stage, nursery.cancel_scope)
            yield stage
            nursery.cancel_scope.cancel()
    except Exception as error:
        keep = keep or not session.holds(error, BrokenPipeError)
        raise
    finally:
        with trio.CancelScope(shield=True):
            if stage is not None:
                await stage.end_hubs()
        if keep:
            narrator.plain(f"\nkept: {home} (hub/hub.log, and a log of each assistant)")
        else:
            shutil.rmtree(home, ignore_errors=True)
    if stage.told_to_end:
        raise SystemExit(128 + stage.told_to_end)


async def _end_at_signals(stage: Stage, scope: trio.CancelScope) -> None:
    """A demo that is told to end takes its processes along."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    with trio.open_signal_receiver(*numbers) as received:
        async for number in received:
            stage.told_to_end = number
            scope.cancel()
