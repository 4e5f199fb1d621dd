"""Who a session is, from its environment and directory, whatever is missing there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ecorelay_adapters.identity import find, git_branch, working_directory

HOME = Path("/home/ada/src/backend")


def test_without_any_variable_the_directory_names_the_session():
    who = find({}, HOME, "Some Client/1.0")
    assert (who.name, who.pinned, who.client, who.session) == ("backend", False, "Some-Client-1.0", "")
    assert (who.cwd, who.git_branch, who.problem) == (str(HOME), "", "")


def test_a_client_that_does_not_introduce_itself_is_some_mcp_client():
    assert find({}, HOME, "").client == "mcp"
    assert find({}, HOME, "鍵").client == "mcp"


def test_an_assistant_is_called_what_people_call_it():
    assert find({}, HOME, "codex-mcp-client").client == "codex"


@pytest.mark.parametrize(
    ("variable", "client"),
    [("CLAUDE_CODE_SESSION_ID", "claude-code"), ("COPILOT_AGENT_SESSION_ID", "copilot")],
)
def test_an_assistants_own_session_id_tells_the_session_and_the_assistant(variable: str, client: str):
    who = find({variable: "s-" + "1" * 300}, HOME, "something else")
    assert who.client == client
    assert who.session == ("s-" + "1" * 300)[:256]
    assert find({variable: ""}, HOME, "mine").client == "mine"


def test_a_pinned_name_is_taken_as_it_is():
    who = find({"RELAY_PEER_ID": " Reviewer.2 "}, HOME, "")
    assert (who.name, who.pinned, who.problem) == ("Reviewer.2", True, "")
    assert find({"RELAY_PEER_ID": "  "}, HOME, "").pinned is False


def test_a_pinned_name_that_is_none_is_spelled_as_one_and_told():
    who = find({"RELAY_PEER_ID": "mein Name/鍵" + "x" * 100}, HOME, "")
    assert who.pinned
    assert who.name == ("mein-Name-" + "x" * 100)[:64]
    assert "is no valid name" in who.problem
    assert "mein-Name-" in who.problem
    assert len(who.problem) < 250


def test_a_directory_whose_name_is_no_name_gives_the_nearest():
    assert find({}, Path("/home/ada/Mein Projekt (2)"), "").name == "Mein-Projekt-2"
    assert find({}, Path("/srv/鍵"), "codex").name == "peer"
    assert find({}, Path("/"), "codex").name == "codex"


# --- the directory ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="a directory in use cannot be removed there")
def test_a_directory_that_was_removed_is_still_known_by_the_shells_word(tmp_path: Path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert working_directory() == gone
    monkeypatch.setenv("PWD", str(gone))
    gone.rmdir()
    assert working_directory() == gone
    monkeypatch.delenv("PWD")
    assert working_directory() == Path("/")
    assert git_branch(gone) == ""
    os.chdir(tmp_path)


# --- the branch ------------------------------------------------------------------------------------------


def repository(path: Path, head: str) -> Path:
    git = path / ".git"
    git.mkdir(parents=True)
    (git / "HEAD").write_text(head, encoding="utf-8")
    return path


def test_the_branch_is_that_of_the_nearest_repository_above(tmp_path: Path):
    outer = repository(tmp_path / "outer", "ref: refs/heads/main\n")
    inner = repository(outer / "vendor" / "inner", "ref: refs/heads/fix/läuft\n")
    below = inner / "src" / "deep"
    below.mkdir(parents=True)
    assert git_branch(below) == "fix/läuft"
    assert git_branch(outer / "vendor") == "main"
    assert find({}, below, "").git_branch == "fix/läuft"


def test_without_a_branch_the_commit_is_told_in_short(tmp_path: Path):
    assert git_branch(repository(tmp_path, "0123456789abcdef0123456789abcdef01234567\n")) == "0123456789ab"


def test_a_worktree_and_a_submodule_point_elsewhere(tmp_path: Path):
    repository(tmp_path / "main", "ref: refs/heads/main\n")
    there = tmp_path / "main" / ".git" / "worktrees" / "side"
    there.mkdir(parents=True)
    (there / "HEAD").write_text("ref: refs/heads/side\n")
    for pointer in (str(there), os.path.relpath(there, tmp_path / "side")):
        side = tmp_path / "side"
        side.mkdir(exist_ok=True)
        (side / ".git").write_text(f"gitdir: {pointer}\n")
        assert git_branch(side) == "side"


@pytest.mark.parametrize("left", ["no HEAD", "HEAD is a directory", "a pointer to nowhere", "garbage"])
def test_a_repository_that_is_broken_has_no_branch_and_stops_nobody(tmp_path: Path, left: str):
    git = tmp_path / ".git"
    if left == "a pointer to nowhere":
        git.write_text("gitdir: /nowhere/at/all\n")
    else:
        git.mkdir()
    if left == "HEAD is a directory":
        (git / "HEAD").mkdir()
    if left == "garbage":
        (git / "HEAD").write_bytes(b"ref: refs/heads/\xff" + b"x" * 1_000)
        assert len(git_branch(tmp_path)) == 256
    else:
        assert git_branch(tmp_path) == ""


OUTER = {"COPILOT_AGENT_SESSION_ID": "c-1", "CLAUDE_CODE_SESSION_ID": "k-1"}


@pytest.mark.parametrize(
    ("client_name", "assistant", "client", "session"),
    [
        ("qwen-code-mcp-client", "", "qwen", ""),
        ("gemini-cli-mcp-client", "", "gemini", ""),
        ("codex-mcp-client", "codex", "codex", ""),
        ("whatever Copilot calls itself", "copilot", "copilot", "c-1"),
        ("claude-code", "claude-code", "claude-code", "k-1"),
        ("claude-code", "", "claude-code", "k-1"),
        ("", "qwen", "qwen", ""),
    ],
)
def test_an_assistant_in_the_shell_of_another_is_itself(
    tmp_path: Path, client_name: str, assistant: str, client: str, session: str
):
    environ = {**OUTER, "CLAUDE_CONFIG_DIR": str(tmp_path)}
    found = find(environ, tmp_path, client_name, assistant)
    assert (found.client, found.session) == (client, session)
    assert (found.beside is None) == (client != "claude-code")
