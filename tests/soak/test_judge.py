"""The judge of the soak: each promise that is broken is found, and what is allowed is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.soak_lib import ledger as log
from scripts.soak_lib.judge import (
    ASTRAY,
    BACKWARDS,
    DISK_FULL,
    DISORDER,
    DIVERGED,
    DOUBLE,
    FALSE_REFUSAL,
    LOSS,
    Judge,
    judged,
)

Events = list[log.Event]


def mail(n: int, by: int = 1, to: int = 2, at: float = 0.0) -> Events:
    """One message, sent and acknowledged."""
    return [log.Begun(at, n, "mail", by, to), log.Acked(at, n, f"id{n}")]


def page(n: int, turn: int = 1, *, marked: bool = False, to: int = 2) -> log.Shown:
    return log.Shown(1.0, n, f"id{n}", to, "page", turn, marked)


def push(n: int, turn: int = 1) -> log.Shown:
    return log.Shown(1.0, n, f"id{n}", 2, "push", turn)


def said(n: int, by: int = 1) -> Events:
    return [log.Begun(0.0, n, "group", by, where="g@a"), log.Acked(0.0, n, f"id{n}")]


def line(n: int, to: int, turn: int = 1, seq: int = 0) -> log.Shown:
    return log.Shown(1.0, n, f"id{n}", to, "line", turn, False, seq, "g@a")


QUIET = log.Quiet(9.0, 8.0)
ASK: Events = [log.Begun(0.0, 1, "ask", 1), log.Acked(0.0, 1, "id1", count=2)]
GROUP: Events = [log.Members(0.0, "g@a", (1, 2, 3))]


@pytest.mark.parametrize(
    ("events", "what"),
    [
        ([*mail(1), QUIET], LOSS),
        ([*ASK, page(1), QUIET], LOSS),
        ([*GROUP, *said(1), line(1, 2), QUIET], LOSS),
        ([*mail(1), page(1), page(1, 2)], DOUBLE),
        ([*mail(1), page(1), log.Confirmed(2.0, 2, (1,)), page(1, 2, marked=True)], DOUBLE),
        ([*mail(1), push(1), push(1)], DOUBLE),
        ([*mail(1), log.Shown(1.0, 1, "other", 2, "page", 1)], DOUBLE),
        ([*said(1), line(1, 2, 1), *said(2), line(2, 2, 2), *said(3), line(3, 2, 3), line(1, 2, 3)], DOUBLE),
        ([*said(1), line(1, 2), log.Confirmed(2.0, 2, (1,)), line(1, 2, 2)], DOUBLE),
        ([*mail(1), *mail(2), page(2), page(1)], DISORDER),
        ([*mail(1), *mail(2), push(2), push(1)], DISORDER),
        ([*ASK, *mail(2), page(2), page(1)], DISORDER),
        ([*said(1), *said(2), line(2, 2, seq=1), line(1, 2, seq=2), QUIET], DISORDER),
        ([*said(1), *said(2, by=3), line(1, 2, seq=1), line(2, 4, seq=1)], DIVERGED),
        (
            [*said(1), *said(2, by=3), line(1, 2, seq=1), line(2, 2, seq=2), line(2, 4), line(1, 4), QUIET],
            DIVERGED,
        ),
        (
            [
                *mail(1),
                log.Steps(1.0, 1, "a", ("forwarded_at", "seen_at")),
                log.Steps(2.0, 1, "a", ("forwarded_at",)),
            ],
            BACKWARDS,
        ),
        ([log.Begun(0.0, 1, "mail", 1, 2), log.Refused(0.0, 1, "mailbox_error"), page(1)], FALSE_REFUSAL),
        ([*mail(1), page(1, to=3)], ASTRAY),
        ([page(1)], ASTRAY),
        ([log.Trouble(0.0, "garbled", "another text", 1)], "garbled"),
    ],
)
def test_a_broken_promise_is_found(events: Events, what: str) -> None:
    assert {each.what for each in judged(events).findings} == {what}


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([*mail(1), *mail(2), page(1), page(2), QUIET], id="read in order"),
        pytest.param([*mail(1), page(1), page(1, 2, marked=True), QUIET], id="again, and marked"),
        pytest.param(
            [*mail(1), push(1), push(1, 2), page(1), QUIET], id="pushed again on another connection"
        ),
        pytest.param(
            [*mail(1), *mail(2), page(2, marked=True), page(1), page(2, 2, marked=True)], id="leased"
        ),
        pytest.param(
            [*mail(1), *mail(2), log.Declined(1.0, 1, 2), push(2), push(1)], id="declined at its turn"
        ),
        pytest.param([*ASK, *mail(2), push(2), push(1)], id="an ask is pushed later"),
        pytest.param([*mail(1), *mail(2, by=3), page(2), page(1), QUIET], id="two senders"),
        pytest.param([*mail(1), log.Ended(2.0, 1, "dead (expired)"), QUIET], id="its end is told"),
        pytest.param([*mail(1, at=8.5), QUIET], id="not due yet"),
        pytest.param(
            [log.Begun(0.0, 1, "mail", 1, 2), log.Unknown(0.0, 1, "timeout"), QUIET], id="may be lost"
        ),
        pytest.param(
            [log.Begun(0.0, 1, "mail", 1, 2), log.Unknown(0.0, 1, "timeout"), page(1)], id="may arrive"
        ),
        pytest.param([*ASK, page(1), page(1, to=3), QUIET], id="an ask of two"),
        pytest.param([*GROUP, *said(1), line(1, 2), line(1, 3), QUIET], id="a line"),
        pytest.param(
            [*GROUP, *said(1), line(1, 2), log.Missed(1.0, 3, "g@a", 1), QUIET], id="missed, and told"
        ),
        pytest.param(
            [*said(1), *said(2), line(1, 2, 1), line(2, 2, 1), line(1, 2, 2), line(2, 2, 3), QUIET],
            id="a page of history given back, and a shorter one",
        ),
        pytest.param([log.Begun(0.0, 1, "room", 1, where="r@a"), log.Acked(0.0, 1, ""), QUIET], id="a room"),
    ],
)
def test_what_is_allowed_is_no_finding(events: Events) -> None:
    assert judged(events).findings == []


def test_a_loss_is_found_once() -> None:
    judge = judged([*mail(1), QUIET, log.Quiet(19.0, 18.0)])
    assert [(each.what, each.n) for each in judge.findings] == [(LOSS, 1)]


def test_the_file_says_what_the_events_said(tmp_path: Path) -> None:
    ledger = log.Ledger(tmp_path / "ledger.jsonl")
    assert (ledger.number(), ledger.number()) == (1, 2)
    events = [*GROUP, *mail(1), page(1), log.Fault(1.0, 1, "cut", "a-b", True, ("a", "b")), QUIET]
    for event in events:
        ledger.write(event)
    ledger.close()
    assert list(log.read(ledger.path)) == events


@pytest.mark.parametrize("size", [0, 5, 200, 30_000])
def test_a_text_says_which_message_it_is_and_whether_it_is_whole(size: int) -> None:
    text = log.text_of(7, size)
    assert log.number_of(text) == 7
    assert len(text) == max(size, 3)
    assert text == log.text_of(7, size) != log.text_of(8, size)
    assert log.number_of("what somebody else wrote") == -1


def test_a_page_on_a_full_disk_may_come_again_without_a_mark() -> None:
    full = [log.Fault(at, 1, DISK_FULL, "a", on, ("a",)) for at, on in ((-5.0, True), (-4.0, False))]
    hubs = [log.Lives(0.0, peer, "a") for peer in (1, 2)]
    assert judged([*hubs, *mail(1), full[0], page(1), full[1], page(1, 2)]).findings == []
    assert judged([*hubs, *mail(1), *full, page(1), page(1, 2)]).of_kind(DOUBLE)


def test_a_page_of_history_that_was_out_when_the_disk_filled_may_come_again() -> None:
    full = [log.Fault(at, 1, DISK_FULL, "a", on, ("a",)) for at, on in ((-5.0, True), (-4.0, False))]
    begins: Events = [log.Lives(0.0, 2, "a"), *said(1), *said(2), line(1, 2, 1)]
    assert judged([*begins, full[0], line(2, 2, 2), full[1], line(1, 2, 3), line(2, 2, 3)]).findings == []
    assert judged([*begins, line(2, 2, 2), *full, line(1, 2, 3)]).of_kind(DOUBLE)


def test_times_are_told_apart_by_what_was_broken() -> None:
    judge = Judge()
    judge.hub_of = {1: "a", 2: "b"}
    cut = log.Fault(10.0, 1, "cable cut", "a-b", True, ("a",))
    healed = log.Fault(11.0, 1, "cable cut", "a-b", False, ("a",))
    for event in (*mail(1, at=1.0), cut, *mail(2, at=10.5), healed, *mail(3, at=12.0), *mail(4, at=40.0)):
        judge.take(event)
    assert {kind: len(each) for kind, each in judge.acks.items()} == {"": 2, "cable cut": 2}
