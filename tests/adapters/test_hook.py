"""What a hook answers to each event of Claude Code, and that nothing it meets breaks its user's turn."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest

from ecorelay_adapters import hook, hook_claude
from ecorelay_adapters.claude_session import ClaudeProcess
from tests.helpers.hooking import EMPTY, ID, MAIL, PAGE, PRINTED, Hooks, Line


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a hook beside process 70."""
    client = ClaudeProcess(70, 7, str(tmp_path / "70.json"))
    monkeypatch.setenv("ECORELAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hook_claude, "find_process", lambda environ: client)
    umask = os.umask(0o022)
    yield Hooks("claude-code", monkeypatch, capsys)
    os.umask(umask)


def bell_of(tmp_path) -> str:
    return str(tmp_path / "home" / "bells" / "70-7")


# --- mail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "kind"), [("UserPromptSubmit", "prompt"), ("PostToolUse", "tool"), ("Stop", "stop")]
)
def test_mail_is_printed_as_additional_context_and_then_said_to_be(run, event, kind):
    ran, line = run({"hook_event_name": event}, PAGE)
    found = ran.answer["hookSpecificOutput"]
    assert found["hookEventName"] == event
    assert "\nhi\n" in found["additionalContext"]
    assert "message from ann" in found["additionalContext"]
    hello, asked, printed = line.asked
    assert (hello["client_pid"], hello["client_start"], hello["role"]) == (70, 7, "attach")
    assert (asked["type"], asked["event"]) == ("hook", kind)
    assert printed == PRINTED
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("event", ["UserPromptSubmit", "PostToolUse", "Stop"])
def test_where_nothing_waits_nothing_is_said(run, event):
    ran, line = run({"hook_event_name": event}, EMPTY)
    assert (ran.code, ran.out, ran.err) == (0, b"", "")
    assert len(line.asked) == 2


def test_groups_alone_are_told_of_and_the_hub_hears_of_it(run):
    page = {**EMPTY, "lease": 5, "groups": [{"name": "team", "unread_count": 2}]}
    ran, line = run({"hook_event_name": "UserPromptSubmit"}, page)
    assert "group team: 2 unread" in ran.answer["hookSpecificOutput"]["additionalContext"]
    assert line.asked[-1]["type"] == "printed"


def test_what_only_remains_elsewhere_is_told_without_a_lease(run):
    ran, line = run({"hook_event_name": "UserPromptSubmit"}, {**EMPTY, "remaining": 3})
    assert "3 more" in ran.answer["hookSpecificOutput"]["additionalContext"]
    assert len(line.asked) == 2


@pytest.mark.guarantee("hook-output-bounded")
@pytest.mark.parametrize("text", ["x" * 600_000, '"\\\n' * 60_000, "日本" * 90_000, "\ud800" * 9])
def test_the_output_is_at_most_8000_characters_and_readable(run, text):
    page = {**PAGE, "messages": [{**MAIL, "text": text}]}
    ran, line = run({"hook_event_name": "UserPromptSubmit"}, page)
    assert len(ran.out.decode()) <= 8_001  # and the newline
    printed = line.asked[-1]
    assert (printed["msg_ids"] == [ID]) != (printed["cut"] == [ID])
    assert ran.code == 0


def test_a_page_whose_output_nobody_takes_is_not_said_to_be_printed(run, monkeypatch):
    class Gone(io.BytesIO):
        def write(self, data: Any) -> int:
            raise BrokenPipeError

    line = Line(PAGE)
    monkeypatch.setattr(hook, "HubLine", line.open)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"hook_event_name":"Stop"}')))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Gone()))
    assert hook.main(["claude-code"]) == 0
    assert [each.get("type") for each in line.asked] == [None, "hook"]


def test_mail_is_printed_once_though_the_hub_goes_away_before_it_hears_so(run):
    run.forgets = True
    ran, line = run({"hook_event_name": "Stop"}, PAGE)
    assert ran.out.count(b"\n") == 1
    assert "message from ann" in ran.answer["hookSpecificOutput"]["additionalContext"]
    assert (ran.code, line.asked[-1]) == (0, PRINTED)


# --- the bell --------------------------------------------------------------------------------------------


def test_the_start_has_the_bell_watched_also_without_a_hub(run, tmp_path):
    ran, _ = run({"hook_event_name": "SessionStart", "source": "startup"})
    assert ran.answer == {
        "hookSpecificOutput": {"hookEventName": "SessionStart", "watchPaths": [bell_of(tmp_path)]}
    }
    folder = tmp_path / "home" / "bells"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("source", ["clear", "compact"])
def test_a_context_that_was_lost_is_told_its_name_again(run, source):
    ran, _ = run({"hook_event_name": "SessionStart", "source": source}, EMPTY)
    assert 'You are still "bob"' in ran.answer["hookSpecificOutput"]["additionalContext"]


def test_a_start_where_the_folder_cannot_be_made_says_what_it_can(run, tmp_path):
    (tmp_path / "home").touch()
    ran, _ = run({"hook_event_name": "SessionStart"}, EMPTY)
    assert ran.answer["hookSpecificOutput"]["watchPaths"] == [bell_of(tmp_path)]


def test_the_bell_wakes_when_the_hub_grants_it(run, tmp_path):
    event = {"hook_event_name": "FileChanged", "file_path": bell_of(tmp_path), "event": "change"}
    ran, line = run(event, {**EMPTY, "wake": True})
    assert ran.code == hook_claude.WAKE
    assert ran.out == b""
    assert "Messages for bob have arrived" in ran.err
    assert line.asked[-1]["event"] == "bell"
    ran, _ = run(event, EMPTY)
    assert (ran.code, ran.out, ran.err) == (0, b"", "")


def test_the_bell_does_not_wake_a_busy_session(run, tmp_path):
    (tmp_path / "70.json").write_text('{"status":"busy"}')
    event = {"hook_event_name": "FileChanged", "file_path": bell_of(tmp_path), "event": "change"}
    ran, line = run(event, {**EMPTY, "wake": True})
    assert (ran.code, line.asked) == (0, [])


@pytest.mark.parametrize(
    "fields", [{"event": "unlink"}, {"file_path": "/somewhere/else"}, {"file_path": None}]
)
def test_other_changes_of_files_are_none_of_its_business(run, tmp_path, fields):
    event = {"hook_event_name": "FileChanged", "file_path": bell_of(tmp_path), "event": "change", **fields}
    ran, line = run(event, {**EMPTY, "wake": True})
    assert (ran.code, line.asked) == (0, [])


# --- what must not disturb anybody -----------------------------------------------------------------------


@pytest.mark.guarantee("hook-never-in-the-way")
@pytest.mark.parametrize(
    "event",
    [
        {"hook_event_name": "UserPromptSubmit"},
        {"hook_event_name": "PostToolUse"},
        {"hook_event_name": "Stop"},
        {"hook_event_name": "PreCompact"},
        {"hook_event_name": "PostToolUse", "agent_id": "sub-1"},
        {"hook_event_name": 7},
        {},
        [],
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_without_a_hub_and_with_strange_events_a_hook_is_silent_and_succeeds(run, event):
    ran, _ = run(event)
    assert (ran.code, ran.out, ran.err) == (0, b"", "")


def test_a_subagents_tools_show_it_nothing(run):
    ran, line = run({"hook_event_name": "PostToolUse", "agent_id": "sub-1"}, PAGE)
    assert (ran.out, line.asked) == (b"", [])


@pytest.mark.parametrize("page", [{"messages": 3}, {"messages": [{}]}, {"groups": [1]}])
def test_a_page_that_makes_no_sense_is_not_printed(run, page):
    ran, _ = run({"hook_event_name": "Stop"}, page)
    assert (ran.code, ran.out) == (0, b"")


def test_help_has_an_example_and_other_words_are_refused_without_waking(capsys):
    assert hook.main(["--help"]) == 0
    assert "example:" in capsys.readouterr().out
    for words in ([], ["codex"], ["claude-code", "more"]):
        assert hook.main(words) == 64
        assert "usage:" in capsys.readouterr().err
