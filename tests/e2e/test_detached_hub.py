"""A hub that a command started stands on its own: it keeps no terminal, key, file or folder of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecorelay.endpoint import Endpoint, read_endpoint
from ecorelay.process import is_alive
from tests.helpers.command_line import CommandLine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals and sessions of POSIX")

PROC = os.path.isdir("/proc/self/fd")


@pytest.fixture
def ecorelay(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(
        tmp_path / "home", ECORELAY_KEEP_ALIVE="yes", ANTHROPIC_API_KEY="sk-of-somebody"
    )
    yield command_line
    command_line.end_hub()


def hub_of(ecorelay: CommandLine) -> Endpoint:
    endpoint = read_endpoint(ecorelay.paths.endpoint)
    assert endpoint is not None
    return endpoint


def in_a_terminal(ecorelay: CommandLine, *words: str) -> tuple[int, int, str]:
    """A shell in a terminal runs the command, then sits there: its pid, our end, the terminal's name."""
    import pty

    pid, ours = pty.fork()
    if pid == 0:  # pragma: no cover - another process
        # As the shell of a terminal has it, also where these tests run under nohup.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        command = [sys.executable, "-m", "ecorelay", *words]
        os.execve(
            "/bin/sh", ["sh", "-c", '"$@"; echo done; exec sleep 600', "sh", *command], ecorelay.environ
        )
    said = b""
    while b"done" not in said:
        said += os.read(ours, 4096)
    return pid, ours, os.readlink(f"/proc/{pid}/fd/0") if PROC else ""


def test_it_outlives_the_terminal_it_was_started_in(ecorelay: CommandLine):
    shell, ours, terminal = in_a_terminal(ecorelay, "send", "ada", "precious")
    try:
        hub = hub_of(ecorelay)
        assert os.getsid(hub.pid) not in (os.getsid(shell), os.getsid(0))
        if PROC:
            descriptors = [os.readlink(path) for path in Path(f"/proc/{hub.pid}/fd").iterdir()]
            assert terminal not in descriptors
            controlling = Path(f"/proc/{hub.pid}/stat").read_text().rpartition(")")[2].split()[4]
            assert controlling == "0"
    finally:
        os.close(ours)  # the terminal hangs up: its session gets SIGHUP
    _, status = os.waitpid(shell, 0)
    assert os.WTERMSIG(status) == signal.SIGHUP
    time.sleep(0.2)
    assert is_alive(hub.pid, hub.pid_start)
    assert ecorelay("inbox", "--json").json["messages"][0]["text"] == "precious"
    assert hub_of(ecorelay).pid == hub.pid


@pytest.mark.skipif(not PROC, reason="procfs tells")
def test_it_holds_nothing_of_who_started_it(ecorelay: CommandLine, tmp_path: Path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "open").touch()
    with open(tmp_path / "project" / "open") as kept:
        os.set_inheritable(kept.fileno(), True)
        subprocess.run(
            [sys.executable, "-m", "ecorelay", "hub", "start"],
            env=ecorelay.environ,
            cwd=tmp_path / "project",
            pass_fds=(kept.fileno(),),
            capture_output=True,
            timeout=60,
            check=True,
        )
    hub = Path(f"/proc/{hub_of(ecorelay).pid}")
    assert (hub / "cwd").readlink() == ecorelay.paths.home
    assert b"sk-of-somebody" not in (hub / "environ").read_bytes()
    targets = [os.readlink(path) for path in (hub / "fd").iterdir()]
    assert [target for target in targets if "project" in target] == []
    assert {os.readlink(hub / "fd" / str(number)) for number in (0, 1)} == {"/dev/null"}


@pytest.mark.guarantee("secrets-and-modes-0600")
def test_what_it_writes_is_its_owners_alone(ecorelay: CommandLine):
    before = os.umask(0)
    try:
        ecorelay("send", "ada", "precious")
    finally:
        os.umask(before)
    assert ecorelay.paths.home.stat().st_mode & 0o777 == 0o700
    for path in ecorelay.paths.home.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
