"""Who may come in: decided by counts alone."""

from __future__ import annotations

import pytest

from ecorelay_bridge.door import (
    FAILED_PROOFS_MAX,
    FRUITLESS_MAX,
    HALF_OPEN_MAX,
    HALF_OPEN_PER_SOURCE,
    HALF_OPEN_RESERVE,
    SOURCES_MAX,
    WINDOW_S,
    Door,
    source_of,
)
from ecorelay_bridge.refusals import Reason


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def door(clock):
    return Door(clock)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.168.1.20", "192.168.1.20"),
        ("::ffff:192.168.1.20", "192.168.1.20"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("desk.local", "desk.local"),
    ],
)
def test_one_machine_is_one_source(address, source) -> None:
    assert source_of(address) == source


def test_a_source_has_room_for_a_few_until_they_leave(door) -> None:
    for _ in range(HALF_OPEN_PER_SOURCE):
        assert door.admit("a") is None
    assert door.admit("a") is Reason.SOURCE_FULL
    assert door.admit("b") is None
    door.leave("a")
    assert door.admit("a") is None
    assert door.half_open == HALF_OPEN_PER_SOURCE + 1


def test_strangers_leave_a_reserve_for_familiar_sources(door) -> None:
    door.proved("desk")
    inside = 0
    while door.admit(f"stranger-{inside}") is None:
        inside += 1
    assert inside == HALF_OPEN_MAX - HALF_OPEN_RESERVE
    assert door.admit("another") is Reason.DOOR_FULL
    assert door.admit("desk") is None


def test_familiar_sources_have_a_bound_too(door) -> None:
    for number in range(HALF_OPEN_MAX + 1):
        door.proved(f"desk-{number}")
    admitted = [door.admit(f"desk-{number}") for number in range(HALF_OPEN_MAX + 1)]
    assert admitted[:-1] == [None] * HALF_OPEN_MAX
    assert admitted[-1] is Reason.DOOR_FULL


def test_five_failed_proofs_in_a_minute_close_the_door_for_a_minute(door, clock) -> None:
    for _ in range(FAILED_PROOFS_MAX):
        assert door.admit("a") is None
        door.leave("a")
        door.failed("a")
        clock.now += 1
    assert door.admit("a") is Reason.SOURCE_BLOCKED
    assert door.admit("b") is None
    clock.now += WINDOW_S - 1.5
    assert door.admit("a") is Reason.SOURCE_BLOCKED
    clock.now += 1
    assert door.admit("a") is None


def test_failed_proofs_far_apart_close_nothing(door, clock) -> None:
    for _ in range(5 * FAILED_PROOFS_MAX):
        door.failed("a")
        clock.now += WINDOW_S / (FAILED_PROOFS_MAX - 1)
    assert door.admit("a") is None


def test_a_monitor_that_connects_now_and_then_does_not_lock_its_machine_out(door, clock) -> None:
    for _ in range(200):
        door.fruitless("a")
        clock.now += 2
    assert door.admit("a") is None


def test_a_flood_of_garbage_closes_the_door_for_its_source(door) -> None:
    for _ in range(FRUITLESS_MAX):
        door.fruitless("a")
    assert door.admit("a") is Reason.SOURCE_BLOCKED


def test_what_is_remembered_of_sources_is_bounded(door) -> None:
    for number in range(3 * SOURCES_MAX):
        door.failed(f"source-{number}")
        door.proved(f"source-{number}")
        assert door.admit(f"source-{number}") is None
        door.leave(f"source-{number}")
    assert len(door._sources) == len(door._familiar) == SOURCES_MAX
    assert door.half_open == 0
    assert not door._half_open
