"""`ecorelay demo` is the first thing a newcomer runs: it works, it tidies up, and it tells the truth."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ecorelay.cli.demo_mcp import Assistant
from ecorelay.cli.demo_stage import CheckFailed, Narrator
from ecorelay.process import is_alive
from tests.helpers.command_line import CommandLine


@pytest.fixture
def ecorelay(tmp_path):
    (tmp_path / "tmp").mkdir()
    return CommandLine(tmp_path / "home", TMPDIR=str(tmp_path / "tmp"))


def pids(narration):
    return [int(number) for number in re.findall(r"pid (\d+)", narration)]


def test_the_demo_holds_and_leaves_nothing_behind(ecorelay, tmp_path):
    said = ecorelay("demo")
    assert said.err == ""
    assert "All 13 checks hold" in said.out
    for word in (
        "SIGKILL",
        "nothing is lost",
        "ecorelay install",
        "ecorelay peers",
        "relay_reply",
    ):
        assert word in said.out
    assert "\x1b" not in said.out
    assert len(set(pids(said.out))) == 2
    assert not [pid for pid in pids(said.out) if is_alive(pid)]
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not ecorelay.paths.home.exists()


def test_the_recording_in_the_readme_is_what_the_demo_says(ecorelay):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (recording,) = re.findall(r"^```\n(ecorelay demo: .*?)^```", readme, re.MULTILINE | re.DOTALL)
    said = without_numbers(ecorelay("demo").out)
    for line in recording.splitlines():
        assert line.strip() == "[…]" or without_numbers(line) in said


def without_numbers(text):
    return re.sub(r"\d+(\.\d+)?", "N", text)


def test_the_demo_does_not_touch_the_hub_or_the_session_it_is_run_from(ecorelay):
    ecorelay("hub", "start", ECORELAY_KEEP_ALIVE="yes")
    try:
        before = ecorelay("hub", "status", "--json").json
        ecorelay("demo", CLAUDE_CODE_SESSION_ID="mine", RELAY_PEER_ID="me", ECORELAY_LIMITS_PEERS="1")
        after = ecorelay("hub", "status", "--json").json
        assert after["pid"] == before["pid"]
        assert ecorelay("peers", "--json").json["peers"] == []
    finally:
        ecorelay.end_hub()


def test_what_was_shown_can_be_kept_for_a_closer_look(ecorelay):
    said = ecorelay("demo", "--keep")
    (place,) = re.findall(r"^kept: (.*) \(", said.out, re.MULTILINE)
    kept = Path(place)
    assert (kept / "hub" / "hub.db").stat().st_mode & 0o077 == 0
    assert (kept / "frontend.log").exists()
    assert not [pid for pid in pids(said.out) if is_alive(pid)]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_told_to_end_takes_its_processes_along(ecorelay, tmp_path, number):
    with ecorelay.start("demo") as running:
        seen = ""
        while "2  One asks" not in seen:
            seen += os.read(running.stdout.fileno(), 65536).decode()
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert b"Traceback" not in err
    assert not [pid for pid in pids(seen + out.decode()) if is_alive(pid)]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="pipes work differently")
def test_a_demo_nobody_reads_any_more_ends_quietly_and_leaves_nothing(ecorelay, tmp_path):
    reading, writing = os.pipe()
    with ecorelay.start("demo", stdout=writing) as torn:
        os.close(writing)
        seen = ""
        while "hub was running" not in seen:
            seen += os.read(reading, 65536).decode()
        os.close(reading)
        _, err = torn.communicate(timeout=30)
    assert (torn.returncode, err) == (141, b"")
    assert not [pid for pid in pids(seen) if is_alive(pid)]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_demo_that_fails_says_why_keeps_its_logs_and_exits_with_1(ecorelay, tmp_path):
    # What the adapters import is not there for them.
    (tmp_path / "broken" / "ecorelay_adapters").mkdir(parents=True)
    (tmp_path / "broken" / "ecorelay_adapters" / "__init__.py").write_text("raise SystemExit('broken')\n")
    said = ecorelay("demo", code=1, PYTHONPATH=str(tmp_path / "broken"))
    assert "the demo failed: initialize of" in said.err
    assert "kept: " in said.out
    (kept,) = (tmp_path / "tmp").iterdir()
    assert "broken" in "".join([log.read_text() for log in kept.glob("*.log")])


def test_a_check_that_does_not_hold_is_shown_and_raised(capsys):
    narrator = Narrator()
    narrator.check(True, "one thing")
    with pytest.raises(CheckFailed, match=r"another thing .*found: 3"):
        narrator.check(False, "another thing", "3")
    assert narrator.checks == 1
    assert "another thing" in capsys.readouterr().out


async def test_an_answer_that_makes_no_sense_ends_the_conversation():
    process: Any = _Process([b'{"jsonrpc":"2.0","method":"n","params":{"a":1}}\nno json\n'])
    assistant = Assistant("x", process)
    await assistant.read()
    assert await assistant.notification("n") == {"a": 1}
    assert "no JSON" in assistant.ended


class _Process:
    """As much of a process as reading needs."""

    def __init__(self, chunks):
        self.stdout = self._read(chunks)
        self.stdin = None
        self.returncode = None

    async def _read(self, chunks):
        for chunk in chunks:
            yield chunk


def test_the_demo_runs_in_a_terminal_without_unicode(ecorelay):
    said = subprocess.run(
        [sys.executable, "-m", "ecorelay", "demo"],
        env=ecorelay.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert said.stdout.isascii()
    assert b"-> " in said.stdout
