"""What the hook answers to the events of Antigravity CLI, and that it never gets in the way of its user."""

from __future__ import annotations

import pytest

from ecorelay_adapters import hook_antigravity
from ecorelay_adapters.beside import Process
from tests.helpers.hooking import EMPTY, ID, MAIL, PAGE, PRINTED, Hooks

CONVERSATION = "ec33ebf9-0cba-4100-8142-c61503f6c587"
COMMON = {
    "conversationId": CONVERSATION,
    "modelName": "gemini-3.5-flash",
    "transcriptPath": "/home/ada/.gemini/antigravity-cli/brain/x/transcript.jsonl",
    "artifactDirectoryPath": "/home/ada/.gemini/antigravity-cli/brain/x",
    "workspacePaths": ["/home/ada/shop"],
}


def before_the_model(**fields: object) -> dict[str, object]:
    """PreInvocation as it was reported."""
    return {**COMMON, "invocationNum": 0, "initialNumSteps": 0, **fields}


def end(**fields: object) -> dict[str, object]:
    """Stop as it was reported."""
    return {
        **COMMON,
        "executionNum": 0,
        "terminationReason": "NO_TOOL_CALL",
        "error": "",
        "fullyIdle": True,
        **fields,
    }


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a hook beside process 70."""
    monkeypatch.setenv("ECORELAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hook_antigravity, "find_client", lambda: Process(70, 7))
    return Hooks("antigravity", monkeypatch, capsys)


@pytest.mark.parametrize(("number", "kind", "turn"), [(0, "prompt", ""), (2, "stop", CONVERSATION)])
def test_mail_is_put_before_the_model_and_a_later_request_proves_the_earlier(run, number, kind, turn):
    ran, line = run(before_the_model(invocationNum=number), PAGE)
    [step] = ran.answer["injectSteps"]
    assert list(ran.answer) == ["injectSteps"]
    assert list(step) == ["ephemeralMessage"]
    assert "\nhi\n" in step["ephemeralMessage"]
    hello, asked, printed = line.asked
    assert (hello["client_pid"], hello["client_start"], hello["client"]) == (70, 7, "antigravity-hook")
    assert (asked["event"], asked["turn"]) == (kind, turn)
    assert printed == PRINTED
    assert (ran.code, ran.err) == (0, "")


def test_what_waits_at_the_end_of_a_turn_prolongs_it(run):
    ran, line = run(end(), PAGE)
    assert ran.answer["decision"] == "continue"
    assert "message from ann" in ran.answer["reason"]
    assert (line.asked[1]["event"], line.asked[1]["turn"]) == ("stop", CONVERSATION)


def test_a_turn_is_prolonged_five_times_in_a_row_then_mail_waits_and_the_last_is_proved(run):
    assert run(end(executionNum=4), PAGE)[0].answer["decision"] == "continue"
    ran, line = run(end(executionNum=5), PAGE)
    assert ran.answer == {}
    assert [each.get("type") for each in line.asked] == [None, "hook"]


@pytest.mark.parametrize(
    "fields",
    [
        {"terminationReason": "USER_CANCELED"},
        {"terminationReason": None},
        {"error": "the model is overloaded"},
    ],
)
def test_a_turn_that_did_not_end_by_itself_is_prolonged_by_nobody_and_proves_nothing(run, fields):
    ran, line = run(end(**fields), PAGE)
    assert ran.answer == {}
    assert [each.get("event") for each in line.asked[1:]] == ["start"]


@pytest.mark.parametrize("event", [before_the_model(), before_the_model(invocationNum=1), end()])
def test_where_nothing_waits_the_answer_is_empty(run, event):
    ran, _ = run(event, EMPTY)
    assert (ran.code, ran.answer) == (0, {})


def test_a_long_message_is_cut_and_whole_in_the_inbox(run):
    ran, line = run(before_the_model(), {**PAGE, "messages": [{**MAIL, "text": "x" * 100_000}]})
    [step] = ran.answer["injectSteps"]
    assert len(step["ephemeralMessage"]) <= 20_000
    assert line.asked[-1]["cut"] == [ID]


@pytest.mark.guarantee("hook-never-in-the-way")
@pytest.mark.parametrize(
    "event",
    [
        before_the_model(),
        end(),
        COMMON,  # SessionStart
        before_the_model(conversationId=None),
        before_the_model(invocationNum="0"),
        {},
        [],
        b"",
        b"{",
        b"\xff\xfe",
    ],
)
def test_without_a_hub_and_with_strange_events_the_answer_is_empty(run, event):
    ran, _ = run(event)
    assert (ran.code, ran.answer, ran.err) == (0, {}, "")


@pytest.mark.parametrize(
    "event", [COMMON, before_the_model(conversationId=""), before_the_model(invocationNum=None)]
)
def test_of_other_events_the_hub_hears_nothing(run, event):
    _, line = run(event, PAGE)
    assert line.asked == []
