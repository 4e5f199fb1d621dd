"""The soak itself, for some seconds: it runs, and it can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the soak looks into /proc")


def soak(directory: Path, *words: str) -> tuple[int, dict, str]:
    """Run it: its exit code, its report, and what it said."""
    report = directory / "report.md"
    program = [sys.executable, str(ROOT / "scripts" / "soak.py")]
    where = ["--report", str(report), "--keep", str(directory / "kept")]
    ended = subprocess.run(
        [*program, "--seed", "7", *where, *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, json.loads(report.with_suffix(".json").read_text()), ended.stdout


def test_an_acknowledged_message_that_is_taken_away_is_found_and_its_history_kept(tmp_path: Path) -> None:
    code, found, said = soak(
        tmp_path, "--minutes", "0.15", "--peers", "6", "--settle", "4", "--plant", "loss"
    )
    print(said)
    assert [what for what, _, _ in found["findings"]] == ["lost"]
    assert (code, found["losses"], found["duplicates"], found["reorderings"]) == (1, 1, 0, 0)
    assert sum(found["acknowledged"].values()) > 5
    again = subprocess.run(
        [sys.executable, ROOT / "scripts" / "soak.py", "--judge", tmp_path / "kept" / "ledger.jsonl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.returncode, again.stdout.splitlines()[0].split(",")[0]) == (1, "lost"), again
    [history] = (tmp_path / "kept" / "messages").iterdir()
    told = history.read_text()
    assert f"lost: acknowledged as {told.split('id ')[1].split()[0]}" in told
    assert "Acked(" in told
    assert "Shown(" not in told
    for hub in ("ash", "birch", "cedar"):
        assert f"## ecorelay trace, at {hub}\n\nerror: nothing is known" in told


@pytest.mark.soak
def test_half_a_minute_with_every_kind_of_peer_breaks_no_promise(tmp_path: Path) -> None:
    code, found, said = soak(tmp_path, "--minutes", "0.6", "--peers", "24", "--faults-every", "2")
    print(said)
    assert (code, found["findings"]) == (0, [])
    assert sum(found["faults"].values()) > 5
