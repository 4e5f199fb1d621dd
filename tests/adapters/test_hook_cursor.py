"""What the hook answers to Cursor's `stop`, and that nothing it meets gets in the way of its user."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from ecorelay_adapters import hook, hook_cursor
from ecorelay_adapters.beside import Process
from tests.helpers.hooking import EMPTY, ID, MAIL, PAGE, PRINTED, Hooks, Line


def stop(**fields: object) -> dict[str, object]:
    """The event as it is documented."""
    return {
        "conversation_id": "cdefee2d-2727-4b73-bf77-d9d830f31d2a",
        "generation_id": "26b45fb6-bdea-439c-b2dc-5e97ee00ecea",
        "hook_event_name": "stop",
        "cursor_version": "2026.09.10",
        "workspace_roots": ["/home/ada/shop"],
        "status": "completed",
        "loop_count": 0,
        **fields,
    }


CONVERSATION = stop()["conversation_id"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a hook beside process 70."""
    monkeypatch.setenv("ECORELAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hook_cursor, "find_client", lambda: Process(70, 7))
    return Hooks("cursor", monkeypatch, capsys)


def test_mail_becomes_the_next_message_of_the_user(run):
    ran, line = run(stop(), PAGE)
    assert list(ran.answer) == ["followup_message"]
    assert "message from ann" in ran.answer["followup_message"]
    assert "\nhi\n" in ran.answer["followup_message"]
    hello, asked, printed = line.asked
    assert (hello["client_pid"], hello["client_start"], hello["role"]) == (70, 7, "attach")
    assert hello["client"] == "cursor-hook"
    assert (asked["type"], asked["event"], asked["turn"]) == ("hook", "prompt", "")
    assert printed == PRINTED
    assert (ran.code, ran.err) == (0, "")


def test_a_prolonged_conversation_proves_what_was_printed_before(run):
    _, line = run(stop(loop_count=1), EMPTY)
    assert (line.asked[1]["event"], line.asked[1]["turn"]) == ("stop", CONVERSATION)


@pytest.mark.parametrize("loop_count", [0, 3])
def test_where_nothing_waits_the_answer_is_empty(run, loop_count):
    ran, line = run(stop(loop_count=loop_count), EMPTY)
    assert (ran.code, ran.answer, ran.err) == (0, {}, "")
    assert len(line.asked) == 2


@pytest.mark.parametrize("status", ["aborted", "error", "something new", None])
def test_a_turn_that_did_not_end_by_itself_is_prolonged_by_nobody_and_proves_nothing(run, status):
    ran, line = run(stop(status=status, loop_count=1), PAGE)
    assert ran.answer == {}
    assert [each.get("event") for each in line.asked[1:]] == ["start"]


def test_beyond_the_limit_mail_waits_but_the_last_follow_up_is_proved(run):
    ran, line = run(stop(loop_count=10), PAGE)
    assert ran.answer == {}
    assert [(each["type"], each["event"]) for each in line.asked[1:]] == [("hook", "stop")]


@pytest.mark.parametrize(
    "text", ["x" * 102_400, "say \"hi\"\n$(id) `id` 'id' \\ <system-reminder> 🎉 שלום\n" * 1_700]
)
def test_a_message_of_100_kib_is_followed_up_verbatim(run, text):
    ran, line = run(stop(), {**PAGE, "messages": [{**MAIL, "text": text}]})
    assert f" ---\n{text}\n--- " in ran.answer["followup_message"]
    assert line.asked[-1]["msg_ids"] == [ID]


@pytest.mark.parametrize("text", ["x" * 500_000, '"\\\n' * 160_000, "日本" * 150_000])
def test_a_longer_one_is_cut_and_the_rest_is_in_the_inbox(run, text):
    ran, line = run(stop(), {**PAGE, "messages": [{**MAIL, "text": text}]})
    assert len(ran.out.decode()) <= 200_100
    assert "read the rest with relay_inbox" in ran.answer["followup_message"]
    assert (line.asked[-1]["msg_ids"], line.asked[-1]["cut"]) == ([], [ID])


def test_an_event_with_a_byte_order_mark_as_on_windows_is_read(run):
    ran, _ = run(b"\xef\xbb\xbf" + json.dumps(stop()).encode(), PAGE)
    assert "followup_message" in ran.answer


def test_one_answer_is_printed_though_the_hub_goes_away_before_it_hears_so(run):
    run.forgets = True
    ran, _ = run(stop(), PAGE)
    assert ran.out.count(b"\n") == 1
    assert "followup_message" in ran.answer


@pytest.mark.guarantee("hook-never-in-the-way")
@pytest.mark.parametrize(
    "event",
    [
        stop(),
        stop(conversation_id=None),
        stop(loop_count="1"),
        stop(loop_count=None),
        {"hook_event_name": "stop"},
        {"hook_event_name": "sessionStart"},
        {"hook_event_name": ["stop"]},
        {},
        [],
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_without_a_hub_and_with_strange_events_the_answer_is_empty(run, event):
    ran, _ = run(event)
    assert (ran.code, ran.answer, ran.err) == (0, {}, "")


@pytest.mark.parametrize(
    "event", [{"hook_event_name": "sessionStart"}, stop(conversation_id=None), stop(loop_count=None)]
)
def test_of_other_events_the_hub_hears_nothing(run, event):
    _, line = run(event, PAGE)
    assert line.asked == []


@pytest.mark.parametrize("page", [{"messages": 3}, {"messages": [{}]}, {"groups": [1]}])
def test_a_page_that_makes_no_sense_is_not_printed(run, page):
    ran, _ = run(stop(), page)
    assert (ran.code, ran.answer) == (0, {})


def test_without_a_data_directory_the_answer_is_empty(run, monkeypatch):
    monkeypatch.setenv("ECORELAY_HOME", "relative")
    ran, line = run(stop(), PAGE)
    assert (ran.code, ran.answer, line.asked) == (0, {}, [])


def test_an_answer_nobody_takes_is_not_said_to_be_printed(run, monkeypatch):
    class Gone(io.BytesIO):
        def write(self, data: Any) -> int:
            raise BrokenPipeError

    line = Line(PAGE)
    monkeypatch.setattr(hook, "HubLine", line.open)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(stop()).encode())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Gone()))
    assert hook.main(["cursor"]) == 0
    assert [each.get("type") for each in line.asked] == [None, "hook"]
