"""The hub as a process of its own: `ecorelay hub run`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from ecorelay import wire
from ecorelay.client import open_hub_client
from ecorelay.endpoint import Endpoint, read_endpoint
from ecorelay.launch import Ready
from ecorelay.paths import Paths
from ecorelay.process import is_alive
from ecorelay.spawn import connect_hub
from tests.helpers.children import unmeasured

PATIENCE_S = 60


class Process:
    """One `ecorelay hub run` with a pipe for its first word."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.paths = Paths(home)
        reading, writing = os.pipe()
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("ECORELAY_", "RELAY_"))
        }
        self.child = subprocess.Popen(
            [sys.executable, "-P", "-m", "ecorelay", "hub", "run", "--ready-fd", str(writing)],
            env={**environ, "ECORELAY_HOME": str(home), **settings},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(writing,),
            text=True,
        )
        os.close(writing)
        self._reading = reading

    def ready(self) -> Ready:
        """Its first word; waits for it."""
        with open(self._reading, "rb") as pipe:
            return msgspec.json.decode(pipe.read(), type=Ready)

    @property
    def endpoint(self) -> Endpoint:
        endpoint = read_endpoint(self.paths.endpoint)
        assert endpoint is not None
        return endpoint

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and stderr after a signal; 0 sends none."""
        if number:
            self.child.send_signal(number)
        _, stderr = self.child.communicate(timeout=PATIENCE_S)
        return self.child.returncode, stderr


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def start(home: Path) -> Iterator[Any]:
    started: list[Process] = []

    def start(**settings: str) -> Process:
        started.append(Process(home, **settings))
        return started[-1]

    yield start
    for process in started:
        process.child.kill()
        process.child.communicate()


@pytest.fixture(params=["unix", "tcp"])
def transport(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"ECORELAY_TRANSPORT": request.param}


async def exchange(paths: Paths, text: str, req_id: int = 0) -> list[str]:
    """Put one message into alice's own mailbox; everything unread in it, unconfirmed."""
    hello = wire.Hello(versions=(1, 1), role="attach", name="alice", create=True)
    with trio.fail_after(PATIENCE_S):
        async with open_hub_client(hello, connect=lambda: connect_hub(paths), stay=False) as client:
            if text:
                await client.request(wire.Send(req_id=0, op_id="", to="alice", text=text))
            page = await client.request(wire.Inbox(req_id=0))
            assert isinstance(page, wire.InboxPage)
            return [message.text or "" for message in page.messages]


def test_it_says_when_it_listens_serves_and_leaves_nothing_open(start: Any, transport: dict[str, str]):
    hub = start(**transport)
    assert hub.ready() == Ready(ok=True)
    assert hub.endpoint.transport == transport["ECORELAY_TRANSPORT"]
    assert hub.endpoint.pid == hub.child.pid
    assert trio.run(exchange, hub.paths, "hello") == ["hello"]
    assert hub.end() == (0, "")
    left = sorted(path.name for path in hub.paths.home.iterdir())
    assert left == ["hub.db", "hub.lock", "hub.log"]
    again = start(**transport)
    assert again.ready() == Ready(ok=True)
    assert trio.run(exchange, again.paths, "") == ["hello"]


@pytest.mark.guarantee("hub-kill-9")
def test_after_a_kill_the_next_hub_takes_over_whatever_lies_around(start: Any, transport: dict[str, str]):
    hub = start(**transport)
    assert hub.ready().ok
    assert trio.run(exchange, hub.paths, "acknowledged") == ["acknowledged"]
    before = hub.endpoint
    assert hub.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert read_endpoint(hub.paths.endpoint) == before
    after = start(**transport)
    assert after.ready().ok
    assert after.endpoint.pid == after.child.pid
    assert trio.run(exchange, after.paths, "") == ["acknowledged"]


@pytest.mark.guarantee("single-hub")
def test_of_many_started_at_once_one_serves_and_the_others_say_so(start: Any):
    hubs = [start() for _ in range(5)]
    words = [hub.ready() for hub in hubs]
    (serving,) = [hub for hub, word in zip(hubs, words, strict=True) if word.ok]
    assert serving.endpoint.pid == serving.child.pid
    for hub, word in zip(hubs, words, strict=True):
        if hub is not serving:
            assert word.code == "already_registered"
            assert f"process {serving.child.pid} holds hub.lock" in word.message
            code, stderr = hub.end(0)
            assert code == 1
            assert word.message in stderr
    assert trio.run(exchange, serving.paths, "hello") == ["hello"]


def test_a_hub_that_is_just_leaving_is_waited_for(start: Any):
    leaving = start()
    assert leaving.ready().ok
    following = start()
    time.sleep(0.3)  # so that it finds the lock held; without, the test still holds
    assert leaving.end()[0] == 0
    assert following.ready().ok


def test_it_outlives_its_terminal(start: Any):
    hub = start()
    assert hub.ready().ok
    hub.child.send_signal(signal.SIGHUP)
    assert trio.run(exchange, hub.paths, "hello") == ["hello"]


def test_it_leaves_when_nobody_needs_it(start: Any):
    hub = start(ECORELAY_IDLE_EXIT_S="0.1")
    assert hub.ready().ok
    assert hub.end(0) == (0, "")
    assert read_endpoint(hub.paths.endpoint) is None


@pytest.mark.guarantee("secrets-and-modes-0600")
def test_all_its_files_are_its_owners_alone(start: Any, transport: dict[str, str]):
    hub = start(**transport)
    assert hub.ready().ok
    trio.run(exchange, hub.paths, "hello")
    assert hub.paths.home.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.lstat().st_mode & 0o777 for path in hub.paths.home.iterdir()}
    assert {"hub.db", "hub.json", "hub.log", "hub.lock"} <= set(modes)
    assert set(modes.values()) == {0o600}


@pytest.mark.guarantee("no-text-in-logs")
def test_its_log_tells_what_it_did_and_nothing_of_what_was_said(start: Any, transport: dict[str, str]):
    hub = start(**transport)
    assert hub.ready().ok
    token = hub.endpoint.token or "no token"
    trio.run(exchange, hub.paths, "between you and me")
    hub.end()
    text = hub.paths.log.read_text()
    lines = [msgspec.json.decode(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == ["started", "stopping", "ended"]
    assert "between you and me" not in text
    assert token not in text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads procfs")
def test_it_keeps_nothing_of_whoever_started_it(start: Any, tmp_path: Path):
    hub = start(ANTHROPIC_API_KEY="sk-secret")
    assert hub.ready().ok
    root = Path("/proc") / str(hub.child.pid)
    assert root.joinpath("cwd").readlink() == hub.paths.home
    open_files = [str(path.readlink()) for path in root.joinpath("fd").iterdir()]
    assert [path for path in open_files if path.startswith(str(tmp_path)) and "home" not in path] == []
    # stdin, stdout and stderr of this test; everything else is the hub's own.
    assert len([path for path in open_files if path.startswith("pipe:")]) == 1


def test_what_it_starts_gets_no_keys_from_it(home: Path):
    script = (
        "import os, sys; from pathlib import Path; from ecorelay.daemon.process import settle\n"
        "home = Path(sys.argv[1]); home.mkdir(); settle(home, 100)\n"
        "print(Path.cwd() == home, 'ANTHROPIC_API_KEY' in os.environ, 'PATH' in os.environ, oct(os.umask(0)))"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(home)],
        env=unmeasured(ANTHROPIC_API_KEY="sk-secret"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert child.stdout.split() == ["True", "False", "True", "0o77"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_it_asks_for_as_many_descriptors_as_it_may_need(home: Path):
    script = (
        "import resource, sys; from pathlib import Path; from ecorelay.daemon.process import settle\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "home = Path(sys.argv[1]); home.mkdir(); settle(home, 300)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(1580, hard))"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(home)],
        env=unmeasured(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert child.stdout == "True\n"


# --- refusals ---------------------------------------------------------------------------------------------


def refused(hub: Process) -> tuple[Ready, int, str]:
    word = hub.ready()
    code, stderr = hub.end(0)
    assert not word.ok
    assert word.message in stderr
    return word, code, stderr


def test_wrong_settings_are_named(start: Any):
    word, code, _ = refused(start(ECORELAY_IDLE_EXIT_S="soon"))
    assert word.code == "bad_args"
    assert "ECORELAY_IDLE_EXIT_S" in word.message
    assert code == 2


def test_a_directory_others_can_write_to_is_refused(start: Any, home: Path):
    home.mkdir()
    home.chmod(0o777)
    word, _, _ = refused(start())
    assert (word.code, "chmod 700" in word.message) == ("bad_args", True)


@pytest.mark.guarantee("newer-db-refused")
def test_a_database_of_a_newer_version_is_refused_and_nothing_is_left_behind(start: Any, home: Path):
    import sqlite3

    hub = start()
    assert hub.ready().ok
    hub.end()
    with sqlite3.connect(hub.paths.database) as db:
        db.execute("PRAGMA user_version = 9999")
    db.close()
    content = hub.paths.database.read_bytes()
    word, code, _ = refused(start())
    assert word.code == "mailbox_error"
    assert "newer" in word.message
    assert code == 6
    assert hub.paths.database.read_bytes() == content
    assert not hub.paths.socket.exists()
    assert read_endpoint(hub.paths.endpoint) is None
    (last,) = [line for line in hub.paths.log.read_text().splitlines() if "refused to start" in line]
    assert "newer" in last


def test_unknown_arguments_are_refused(home: Path):
    child = subprocess.run(
        [sys.executable, "-P", "-m", "ecorelay", "hub", "run", "--now"],
        env=unmeasured(ECORELAY_HOME=str(home)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert child.returncode == 2
    assert "hub run takes no arguments" in child.stderr


def test_a_bug_at_the_start_is_told_without_its_words_and_logged_with_its_stack(home: Path):
    script = (
        "import sys; from ecorelay.daemon import main as module; from ecorelay.errors import RelayError\n"
        "def broken(**_): raise ValueError('somebody said this')\n"
        "module.Hub = broken\n"
        "try: module.main([])\n"
        "except RelayError as error: print(error.code, error.message)"
    )
    child = subprocess.run(
        [sys.executable, "-c", script],
        env=unmeasured(ECORELAY_HOME=str(home)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert child.stdout.startswith("unexpected the hub ended by a bug of ours (ValueError)")
    log = Paths(home).log.read_text()
    assert "crash" in log
    assert "broken" in log
    assert "somebody said this" not in log + child.stdout + child.stderr


# --- trouble -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_out_of_descriptors_it_goes_on_and_takes_who_waited(start: Any):
    """The limit is lowered from outside once the hub runs, so that its own raising of it does not help."""
    import resource

    hub = start()
    assert hub.ready().ok
    if not hasattr(resource, "prlimit"):
        pytest.skip("needs prlimit")
    used = len(list(Path(f"/proc/{hub.child.pid}/fd").iterdir()))
    _, hard = resource.prlimit(hub.child.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(hub.child.pid, resource.RLIMIT_NOFILE, (used + 5, hard))
    silent = []
    for _ in range(20):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(hub.endpoint.path)
        silent.append(sock)
    until = time.monotonic() + PATIENCE_S
    while "cannot take a connection" not in hub.paths.log.read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    assert is_alive(hub.child.pid)
    for sock in silent:
        sock.close()
    assert trio.run(exchange, hub.paths, "hello") == ["hello"]
    assert hub.end()[0] == 0
