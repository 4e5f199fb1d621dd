"""Two machines that are one hub: noticed by the starts that come back, unlike one that was started again."""

from __future__ import annotations

import pytest

from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.twins import INSTANCES_MAX, KEPT_S, TOGETHER_S, Twins


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def twins(clock):
    return Twins(clock)


def refused(twins, instance: str) -> bool:
    try:
        twins.meet("desk", instance)
    except Refused as error:
        return error.reason is Reason.TWINS and error.settled
    return False


def test_a_hub_that_starts_again_and_again_is_one(twins, clock) -> None:
    for number in range(3 * INSTANCES_MAX):
        for _ in range(3):
            assert not refused(twins, f"start {number}")
            clock.now += 0.1


def test_one_that_does_not_say_is_let_be(twins) -> None:
    with twins.up("desk", ""):
        assert not refused(twins, "")
        assert not refused(twins, "a")
        assert not refused(twins, "")


def test_who_comes_back_after_another_waits_half_a_minute(twins, clock) -> None:
    assert not refused(twins, "a")
    clock.now += 5
    assert not refused(twins, "b")
    clock.now += 1
    assert refused(twins, "a")
    assert not refused(twins, "b")
    clock.now += KEPT_S
    assert not refused(twins, "a")
    assert refused(twins, "b")


def test_the_links_of_two_go_to_and_fro_at_most_twice_a_minute(twins, clock) -> None:
    taken: list[str] = []
    for step in range(600):
        clock.now += 1
        who = "ab"[step % 2]
        if not refused(twins, who) and taken[-1:] != [who]:
            taken.append(who)
    assert len(taken) <= 600 / KEPT_S + 2


def test_two_that_stay_side_by_side_are_noticed_and_one_that_hung_is_not(twins, clock) -> None:
    with twins.up("desk", "a"):
        assert not refused(twins, "b")
        clock.now += TOGETHER_S - 1
        assert not refused(twins, "b")
        clock.now += 2
        assert refused(twins, "b")
    assert not refused(twins, "b")


def test_each_hub_is_its_own_whatever_its_spelling(twins) -> None:
    twins.meet("desk", "a")
    twins.meet("Desk", "b")
    twins.meet("laptop", "a")
    with pytest.raises(Refused):
        twins.meet("DESK", "a")


def test_what_is_not_proved_changes_nothing(twins, clock) -> None:
    """Else somebody with a stolen key, but without the secret, could keep the hub itself out."""
    twins.meet("desk", "a")
    twins.expect("desk", "b")
    assert not refused(twins, "a")
    twins.meet("desk", "b")
    clock.now += 1
    for _ in range(2):
        with pytest.raises(Refused):
            twins.expect("desk", "a")
    assert not refused(twins, "b")
