"""Which process is the assistant's, through shells and at the edges, and who a session beside it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecorelay.process import start_time
from ecorelay_adapters import beside
from ecorelay_adapters.beside import GENERATIONS, Process, ancestors, find_client
from ecorelay_adapters.identity import find_beside

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads procfs")
CODE = (
    "from ecorelay_adapters.beside import find_client; found = find_client(); print(found.pid, found.start)"
)


@LINUX
def test_the_assistant_is_the_nearest_ancestor_that_is_no_shell():
    command = f'"{sys.executable}" -c "{CODE}"; true'
    said = subprocess.run(
        ["env", "sh", "-c", "bash -c '" + command.replace("'", "'\\''") + "'; true"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert said.stdout.split() == [str(os.getpid()), str(start_time(os.getpid()))]


def test_where_all_are_shells_it_is_our_parent(monkeypatch):
    monkeypatch.setattr(beside, "parent_and_name", lambda pid: (pid - 1, "bash"))
    assert find_client(900).pid == os.getppid()
    assert len(list(ancestors(900))) == GENERATIONS


def test_where_the_system_tells_no_names_it_is_the_parent(monkeypatch):
    monkeypatch.setattr(beside, "parent_and_name", lambda pid: (0, ""))
    assert find_client().pid == os.getppid()
    assert list(ancestors()) == [(os.getppid(), "")]


def test_the_first_process_is_nobodys_assistant(monkeypatch):
    monkeypatch.setattr(beside, "parent_and_name", lambda pid: (1, "init"))
    assert list(ancestors(900)) == []


def test_two_processes_have_two_bells():
    assert Process(70, 7).bell("/data") == os.path.join("/data", "bells", "70-7")


def test_a_session_beside_an_assistant_is_named_as_any_other_and_is_not_that_of_an_outer_one(tmp_path: Path):
    environ = {"CLAUDE_CODE_SESSION_ID": "outer", "COPILOT_AGENT_SESSION_ID": "outer"}
    found = find_beside(environ, tmp_path / "shop", "cursor")
    assert (found.name, found.client, found.session, found.pinned) == ("shop", "cursor", "", False)
    assert found.beside is not None
    assert found.beside.pid == find_client().pid
    assert find_beside({"RELAY_PEER_ID": "bob"}, tmp_path, "antigravity").name == "bob"
