"""What an adapter says for people goes into a log of their own, never to the assistant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecorelay_adapters import log
from ecorelay_adapters.log import FILES, LINE_MAX, Log
from ecorelay_adapters.output import print_traceback

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "x", "version": "1"},
    },
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def stream(home: Path) -> Log:
    return Log({"ECORELAY_HOME": str(home)})


def entries(home: Path, name: str = "adapter.log") -> list[dict[str, Any]]:
    path = home / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def said(home: Path, name: str = "adapter.log") -> list[str]:
    return [entry["event"] for entry in entries(home, name)]


def test_lines_are_written_with_time_and_process(stream: Log, home: Path):
    before = time.time()
    print("ecorelay: the bell cannot be rung", file=stream)
    [entry] = entries(home)
    assert entry["event"] == "ecorelay: the bell cannot be rung"
    assert entry["pid"] == os.getpid()
    at = time.strptime(entry["ts"][:19], "%Y-%m-%dT%H:%M:%S")
    assert abs(time.mktime(at) - time.timezone - before) < 3 or time.daylight
    assert entry["ts"].endswith("Z")
    assert (home / "adapter.log").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700


def test_nothing_is_made_before_there_is_something_to_say(stream: Log, home: Path):
    stream.write("")
    stream.write("no end yet")
    stream.flush()
    stream.write("\n\n \n"[:0])
    assert not home.exists()


def test_a_line_in_pieces_is_one_and_blank_ones_are_none(stream: Log, home: Path):
    for piece in ("a ", "line", "\n", "\n", "  \n", "next\nlast"):
        assert stream.write(piece) == len(piece)
    assert said(home) == ["a line", "next"]
    stream.write("\n")
    assert said(home) == ["a line", "next", "last"]


def test_what_is_long_or_no_text_is_kept_as_far_as_it_can_be(stream: Log, home: Path):
    print("x" * 10 * LINE_MAX, file=stream)
    print("lone \udc80 half", file=stream)  # cannot be spelled in UTF-8: dropped, and nothing raised
    print('"quotes" \x1b[31m \u202e', file=stream)
    assert said(home)[0] == "x" * LINE_MAX
    assert said(home)[-1] == '"quotes" \x1b[31m \u202e'
    endless = Log({"ECORELAY_HOME": str(home)})
    for _ in range(1000):
        endless.write("y" * 1000)
    endless.write("\n")
    assert said(home)[-1] == "y" * LINE_MAX


def test_a_traceback_is_written_in_one_piece(home: Path, monkeypatch: pytest.MonkeyPatch, stream: Log):
    monkeypatch.setattr(sys, "stderr", stream)
    written: list[bytes] = []
    real = os.write

    def write(fd: int, data: bytes) -> int:
        written.append(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    try:
        raise ValueError("told")
    except ValueError:
        print_traceback()
    assert said(home)[0] == "Traceback (most recent call last):"
    assert said(home)[-1] == "ValueError: told"
    assert len(written) == 1


# --- rotated -------------------------------------------------------------------------------------------


def test_it_is_rotated_and_only_so_many_are_kept(stream: Log, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "FILE_BYTES", 2_000)
    for number in range(200):
        print(f"number {number}", file=stream)
    assert sorted(path.name for path in home.iterdir()) == ["adapter.log", "adapter.log.1", "adapter.log.2"]
    assert FILES == 3
    kept = [name for age in (".2", ".1", "") for name in said(home, f"adapter.log{age}")]
    assert kept == [f"number {number}" for number in range(200 - len(kept), 200)]
    assert all(path.stat().st_size < 2_200 for path in home.iterdir())
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in home.iterdir())


def test_several_processes_lose_no_line_while_they_rotate(home: Path):
    code = (
        "import os, sys\n"
        "from ecorelay_adapters import log\n"
        "log.FILE_BYTES, log.FILES = 20_000, 100\n"
        "stream = log.Log(dict(os.environ))\n"
        "for n in range(300): print(sys.argv[1], n, 'x' * 50, file=stream)\n"
    )
    environ = {**os.environ, "ECORELAY_HOME": str(home)}
    children = [subprocess.Popen([sys.executable, "-c", code, name], env=environ) for name in "abcd"]
    assert [child.wait(60) for child in children] == [0] * 4
    found = [line for path in home.iterdir() for line in said(home, path.name)]
    assert sorted(found) == sorted(f"{name} {n} {'x' * 50}" for name in "abcd" for n in range(300))
    assert len(list(home.iterdir())) > 4


def test_a_rotation_that_fails_costs_no_line(stream: Log, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "FILE_BYTES", 100)
    (home / "adapter.log.1" / "in the way").mkdir(parents=True)
    home.chmod(0o700)
    (home / "adapter.log.2" / "in the way").mkdir(parents=True)
    for number in range(20):
        print(f"number {number}", file=stream)
    assert said(home) == [f"number {number}" for number in range(20)]


# --- where nothing can be written ----------------------------------------------------------------------


def _a_file_in_the_way(home: Path) -> None:
    home.write_text("")


def _a_folder_in_the_way(home: Path) -> None:
    (home / "adapter.log").mkdir(parents=True)
    home.chmod(0o700)


def _others_can_write(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)


def _a_link_to_somewhere(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home.parent / "victim").write_text("")
    (home / "adapter.log").symlink_to(home.parent / "victim")


@pytest.mark.parametrize(
    "trouble", [_a_file_in_the_way, _a_folder_in_the_way, _others_can_write, _a_link_to_somewhere]
)
def test_where_it_cannot_be_written_nothing_is_said(
    home: Path, stream: Log, trouble: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
):
    trouble(home)
    print("anything", file=stream)
    assert capfd.readouterr() == ("", "")
    assert not (home / "adapter.log").is_file() or (home / "adapter.log").read_text() == ""


@pytest.mark.parametrize("environ", [{"ECORELAY_HOME": "relative"}, {"HOME": "relative"}])
def test_without_a_data_directory_nothing_is_said(environ: dict[str, str]):
    print("anything", file=Log(environ))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_on_a_full_disk_lines_are_dropped(stream: Log, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "_open", lambda path: os.open("/dev/full", os.O_WRONLY))
    print("anything", file=stream)
    monkeypatch.undo()
    print("there is room", file=stream)
    assert said(home) == ["there is room"]


def test_threads_may_write_at_once(stream: Log, home: Path):
    threads = [threading.Thread(target=lambda n=n: stream.write(f"thread {n}\n" * 20)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said(home)) == 160


# --- the whole process ---------------------------------------------------------------------------------


def run(home: Path, code: str) -> subprocess.CompletedProcess[bytes]:
    """Run Python code as an adapter is run, to its end."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ECORELAY_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


NOISY = """
import os, sys, subprocess, threading, warnings
import ecorelay_adapters.main as adapter

async def serve(session):
    from ecorelay_adapters.stdio import take
    take()
    print("stray print", flush=True)
    print("for people", file=sys.stderr)
    warnings.warn("a warning")
    os.system("echo stray child; echo on stderr >&2")
    os.write(2, b"written to the descriptor\\n")
    threading.Thread(target=lambda: 1 / 0).start()
    raise RuntimeError("crash")

adapter._serve = serve
sys.exit(adapter.main([]))
"""


def test_once_it_serves_nothing_reaches_the_assistant_and_what_it_says_is_in_the_log(home: Path):
    ended = run(home, NOISY)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, b"", b"")
    found = "\n".join(said(home))
    for words in ("for people", "a warning", "ZeroDivisionError", "RuntimeError: crash", "Traceback"):
        assert words in found
    assert "stray" not in found
    assert "descriptor" not in found


def test_wrong_arguments_are_told_on_stderr_as_ever(home: Path):
    ended = run(home, "import sys; from ecorelay_adapters.main import main; main(['--carrier', 'pigeon'])")
    assert ended.returncode == 2
    assert b"pigeon" in ended.stderr
    assert not home.exists()


def test_a_real_one_says_nothing_to_the_assistant_when_its_data_cannot_be_used(home: Path):
    home.write_text("in the way")
    child = subprocess.Popen(
        [sys.executable, "-m", "ecorelay", "mcp"],
        env={**os.environ, "ECORELAY_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        child.stdin.flush()
        answer = json.loads(child.stdout.readline())
        child.stdin.close()
        assert (child.wait(30), child.stderr.read(), child.stdout.read()) == (0, b"", b"")
    assert str(home) in answer["result"]["instructions"]


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors of POSIX")
def test_started_without_stderr_it_closes_nobody_elses_file(home: Path):
    code = (
        "import os, sys; other = os.open(os.devnull, os.O_RDONLY); assert other == 2, other\n"
        "from ecorelay_adapters import log; log.begin(dict(os.environ)); print('said', file=sys.stderr)\n"
        "assert os.fstat(other) == os.stat(os.devnull); os.write(1, b'ok')\n"
    )
    line = 'exec "$0" -c "$1" 2>&-'
    ended = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable, code],
        env={**os.environ, "ECORELAY_HOME": str(home)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == b"ok"
    assert said(home) == ["said"]


def test_it_imports_nothing_heavy():
    code = (
        "import sys; import ecorelay.paths, msgspec, threading; before = set(sys.modules)\n"
        "import ecorelay_adapters.log; print(sorted(set(sys.modules) - before))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "['ecorelay_adapters', 'ecorelay_adapters.log']"


def logs(home: Path, *arguments: str) -> tuple[str, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "ecorelay", "logs", *arguments],
        env={**os.environ, "ECORELAY_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ended.stdout, ended.stderr


def test_the_log_is_shown_by_the_command_line(stream: Log, home: Path):
    assert "no adapter had anything to say" in logs(home, "--adapter")[1]
    for number in range(3):
        print(f"number {number}", file=stream)
    (home / "hub.log").write_text('{"ts":"2026","level":"info","event":"the hub\'s"}\n')
    shown, _ = logs(home, "--adapter", "-n", "2")
    assert [line.split("  ")[2] for line in shown.splitlines()] == ["number 1", "number 2"]
    assert f"pid={os.getpid()}" in shown
    assert "the hub" not in shown
    rows = [json.loads(line) for line in logs(home, "--adapter", "--json")[0].splitlines()]
    assert [row["event"] for row in rows] == ["number 0", "number 1", "number 2"]
