"""Start-up times, memory, and what a hub uses while nothing happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scripts.bench_lib import procfs
from scripts.bench_lib.driver import BenchError
from scripts.bench_lib.hubs import EcorelayKind, Hub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import IO

    from scripts.bench_lib.hubs import Kind, Place

SETTLE_S = 0.3
_BARE = "import sys, trio, msgspec; print('ready', flush=True); sys.stdin.read()"
_INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}
TOOLS = 19


def bare_imports(place: Place, home: Path) -> dict[str, float]:
    """The interpreter with nothing but Trio and msgspec: no program of ours can be smaller."""
    return _spawn([sys.executable, "-P", "-c", _BARE], place, home, talk=_first_line)


def adapter(place: Place, home: Path) -> dict[str, float]:
    """``ecorelay mcp`` from its start to the list of tools; the hub of `home` is running."""
    return _spawn(EcorelayKind().adapter(), place, home, talk=_list_tools)


def adapter_of(place: Place, hub: Hub) -> dict[str, float]:
    """The same for whatever program `hub` is; its hub runs."""
    command = hub.kind.adapter()
    return _spawn(command, place, hub.home, talk=_list_tools, more=hub.kind.environment(hub.home))


def _spawn(
    command: list[str], place: Place, home: Path, talk: Talk, more: Mapping[str, str] | None = None
) -> dict[str, float]:
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=home,
        env=place.environment(home) | dict(more or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("pipes were asked for")
        try:
            talk(process.stdin, process.stdout)
        except (OSError, ValueError) as error:
            process.kill()
            said = process.communicate()[1].decode(errors="replace").strip()
            raise BenchError(f"{' '.join(command[2:])}: {error}; {said[-1000:]}") from error
        seconds = time.perf_counter() - began
        memory = _memory(process.pid)
    finally:
        if process.poll() is None:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return {"ms": seconds * 1e3, **memory}


def _first_line(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    if stdout.readline() != b"ready\n":
        raise ValueError("it did not start")


def _list_tools(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    _say(stdin, id=1, method="initialize", params=_INITIALIZE)
    _answer(stdout, 1)
    _say(stdin, method="notifications/initialized")
    _say(stdin, id=2, method="tools/list", params={})
    tools = _answer(stdout, 2)["tools"]
    if len(tools) != TOOLS:
        raise ValueError(f"{len(tools)} tools, not {TOOLS}")


def _say(stdin: IO[bytes], **message: object) -> None:
    stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    stdin.flush()


def _answer(stdout: IO[bytes], number: int) -> dict[str, list[object]]:
    while line := stdout.readline():
        message = json.loads(line)
        if message.get("id") == number and "method" not in message:
            result: dict[str, list[object]] = message["result"]
            return result
    raise ValueError("it closed its output")


# --- what is started for a moment ----------------------------------------------------------------------

_CLAUDE = {"CLAUDE_CODE_SESSION_ID": "bench", "CLAUDE_CONFIG_DIR": "/nonexistent"}
"""Makes an adapter and a hook think that this process is their assistant."""


def bare_python(place: Place, home: Path) -> dict[str, float]:
    """The interpreter with nothing to do: no hook can be quicker."""
    return _run([sys.executable, "-c", "pass"], place, home)


def hook(place: Place, home: Path, *, stuck: int = 0) -> dict[str, float]:
    """A hook after a tool, when nothing waits; `stuck`: pid of the hub, which is stopped meanwhile."""
    if stuck:
        os.kill(stuck, signal.SIGSTOP)
    try:
        return _run([sys.executable, "-P", "-m", "ecorelay", "hook", "claude-code"], place, home)
    finally:
        if stuck:
            os.kill(stuck, signal.SIGCONT)


def peers(place: Place, home: Path) -> dict[str, float]:
    """``ecorelay peers``, as a person types it."""
    return _run([sys.executable, "-P", "-m", "ecorelay", "peers"], place, home)


def _run(command: list[str], place: Place, home: Path) -> dict[str, float]:
    began = time.perf_counter()
    ended = subprocess.run(
        command,
        env=place.environment(home) | _CLAUDE,
        input=b'{"hook_event_name":"PostToolUse","tool_name":"Bash"}',
        capture_output=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if ended.returncode:
        raise BenchError(f"{' '.join(command[2:])}: {ended.stderr.decode(errors='replace')[-1000:]}")
    return {"ms": seconds * 1e3}


@contextmanager
def adapter_beside(place: Place, home: Path) -> Iterator[None]:
    """A session of this process as an assistant, for hooks to act for."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "ecorelay", "mcp", "--carrier", "hook"],
        cwd=home,
        env=place.environment(home) | _CLAUDE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("pipes were asked for")
        _list_tools(process.stdin, process.stdout)
        yield
        process.stdin.close()


def hub_start(kind: Kind, place: Place) -> dict[str, float]:
    """A hub with an empty data directory, from its start until it welcomes the first session."""
    with Hub(kind, place) as hub, hub.driver() as driver:
        driver.connect("first")
        return {"ms": (time.perf_counter() - hub.began) * 1e3}


def hub_idle(kind: Kind, place: Place, counts: tuple[int, ...], idle: int, idle_s: float) -> dict[str, float]:
    """Memory of a hub with so many quiet sessions, and its processor use with `idle` of them."""
    found: dict[str, float] = {}
    with Hub(kind, place) as hub, hub.driver() as driver:
        names = hub.names()
        sessions = 0
        for count in counts:
            while sessions < count:
                driver.connect(next(names))
                sessions += 1
            time.sleep(SETTLE_S)
            found |= {f"{key}_{count}": value for key, value in _memory(hub.pid).items()}
            if count == idle:
                time.sleep(1.0)
                before, began = sum(hub.cpu_s()), time.perf_counter()
                end = began + idle_s
                while (left := end - time.perf_counter()) > 0:
                    driver.pump(left)
                found["cpu"] = (sum(hub.cpu_s()) - before) / (time.perf_counter() - began) * 100
    return found


def _memory(pid: int) -> dict[str, float]:
    if not procfs.available():
        return {}
    rss, pss = procfs.memory_mb(pid)
    return {"rss": rss, "pss": pss}


if TYPE_CHECKING:
    from collections.abc import Callable

    Talk = Callable[[IO[bytes], IO[bytes]], None]
