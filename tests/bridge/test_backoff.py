"""The pauses of a dialer."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ecorelay_bridge.backoff import (
    AWAY_LAST_S,
    FIRST_S,
    LAST_S,
    PROOF_FIRST_S,
    PROOF_LAST_S,
    STABLE_S,
    Backoff,
)
from ecorelay_bridge.refusals import Reason, Refused, wrong_secret

AWAY = Refused(Reason.CONNECTION_REFUSED, "")
ODD = Refused(Reason.NOT_ECORELAY, "")


def test_the_bound_for_a_hub_that_is_away_stays_short() -> None:
    backoff = Backoff(lambda: 1.0)
    assert [backoff.after_failure(AWAY) for _ in range(5)] == [0.5, 1, 1.5, 1.5, 1.5]


@pytest.mark.parametrize("reason", [Reason.NOT_RESOLVED, Reason.FILTERED, Reason.UNREACHABLE])
def test_every_way_to_be_away_counts(reason) -> None:
    backoff = Backoff(lambda: 1.0)
    assert {backoff.after_failure(Refused(reason, "")) for _ in range(50)} == {0.5, 1, AWAY_LAST_S}


def test_the_bound_for_what_did_not_become_a_link_doubles_to_thirty() -> None:
    backoff = Backoff(lambda: 1.0)
    assert [backoff.after_failure(ODD) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=50))
def test_a_pause_is_anywhere_below_its_bound(numbers) -> None:
    for refused, last in ((AWAY, AWAY_LAST_S), (ODD, LAST_S)):
        drawn = iter(numbers)
        backoff = Backoff(lambda drawn=drawn: next(drawn))  # type: ignore[misc]
        bound = FIRST_S
        for number in numbers:
            assert backoff.after_failure(refused) == number * bound
            bound = min(bound * 2, last)


def test_only_a_link_that_held_makes_pauses_short_again() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in range(4):
        backoff.after_failure(AWAY)
        backoff.after_failure(ODD)
    assert backoff.after_link(STABLE_S - 1) == AWAY_LAST_S
    assert backoff.after_link(STABLE_S) == FIRST_S
    assert backoff.after_failure(ODD) == FIRST_S, "it became a link: what was odd is over"


def test_a_failed_proof_waits_a_minute_doubling_to_an_hour() -> None:
    backoff = Backoff(lambda: 0.0)
    waits = [backoff.after_failure(wrong_secret()) for _ in range(9)]
    assert waits[0] == PROOF_FIRST_S
    assert waits == [min(PROOF_FIRST_S * 2**n, PROOF_LAST_S) for n in range(9)]
    backoff.after_link(0)
    assert backoff.after_failure(wrong_secret()) == PROOF_FIRST_S


def test_other_failures_between_do_not_shorten_the_pause_after_a_failed_proof() -> None:
    backoff = Backoff(lambda: 0.0)
    backoff.after_failure(wrong_secret())
    backoff.after_failure(AWAY)
    backoff.hurry()
    assert backoff.after_failure(wrong_secret()) == 2 * PROOF_FIRST_S


@pytest.mark.parametrize(
    "reason", [Reason.VERSION, Reason.IDENTITY_CHANGED, Reason.NOT_ME, Reason.DISTRUSTED]
)
def test_what_a_person_must_mend_is_tried_at_leisure(reason) -> None:
    backoff = Backoff(lambda: 0.0)
    assert backoff.after_failure(Refused(reason, "")) == LAST_S / 2


def test_hurry_makes_the_next_pause_short() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in range(6):
        backoff.after_failure(AWAY)
        backoff.after_failure(ODD)
    backoff.hurry()
    assert backoff.after_failure(AWAY) == backoff.after_failure(ODD) == FIRST_S
