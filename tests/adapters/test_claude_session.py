"""Which process of Claude Code we belong to, and what its session file says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ecorelay.process import parent_and_name, start_time
from ecorelay_adapters.claude_session import ClaudeProcess, find_process, read_session

READERS = pytest.mark.parametrize("decode", [json.loads, msgspec.json.decode], ids=["hook", "adapter"])
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads procfs")


def session_file(home: Path, pid: int, **fields: object) -> Path:
    file = home / ".claude" / "sessions" / f"{pid}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(fields))
    return file


@LINUX
def test_the_parent_and_name_of_a_process_are_found_and_of_none_nothing():
    assert parent_and_name(os.getpid())[0] == os.getppid()
    assert parent_and_name(os.getpid())[1]
    assert parent_and_name(0) == (0, "")
    assert parent_and_name(2**22 + 5) == (0, "")


@LINUX
def test_the_client_is_the_nearest_ancestor_with_a_session_file(tmp_path):
    file = session_file(tmp_path, os.getppid())
    found = find_process({"CLAUDE_CONFIG_DIR": str(tmp_path / ".claude")}, os.getpid())
    assert (found.pid, found.start, found.file) == (os.getppid(), start_time(os.getppid()), str(file))


@LINUX
def test_an_ancestor_further_up_is_found_through_a_shell(tmp_path):
    session_file(tmp_path, os.getpid())
    code = (
        "import sys; from ecorelay_adapters.claude_session import find_process;"
        f"print(find_process({{'CLAUDE_CONFIG_DIR': {str(tmp_path / '.claude')!r}}}).pid)"
    )
    shell = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, code]
    said = subprocess.run(shell, capture_output=True, text=True, timeout=30, check=True)
    assert int(said.stdout) == os.getpid()


@LINUX
def test_without_session_files_it_is_the_nearest_that_is_no_shell(tmp_path):
    code = (
        "from ecorelay_adapters.claude_session import find_process;"
        f"print(find_process({{'CLAUDE_CONFIG_DIR': {str(tmp_path)!r}}}).pid)"
    )
    shell = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, code]
    said = subprocess.run(shell, capture_output=True, text=True, timeout=30, check=True)
    assert int(said.stdout) == os.getpid()


def test_the_adapter_and_the_hook_know_one_bell():
    assert ClaudeProcess(70, 7, "").bell("/data") == os.path.join("/data", "bells", "70-7")


@READERS
def test_a_name_its_user_chose_is_a_name_and_a_derived_one_is_none(tmp_path, decode):
    chosen = session_file(tmp_path, 1, name="bob", nameSource="user", sessionId="s1", status="busy")
    derived = session_file(tmp_path, 2, name="proj-3f", nameSource="derived", sessionId="s2", status="idle")
    found = read_session(str(chosen), decode)
    assert (found.name, found.id, found.busy) == ("bob", "s1", True)
    found = read_session(str(derived), decode)
    assert (found.name, found.id, found.busy) == ("", "s2", False)


@READERS
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 5_000, b'{"name":3,"sessionId":4}'])
def test_a_session_file_that_makes_no_sense_says_nothing(tmp_path, content, decode):
    file = tmp_path / "1.json"
    file.write_bytes(content)
    found = read_session(str(file), decode)
    assert (found.name, found.id, found.busy) == ("", "", False)
    assert read_session(str(tmp_path / "none"), decode).id == ""
