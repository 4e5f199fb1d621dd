"""Who may come in: decided by counts alone."""

from __future__ import annotations

import pytest

from ecorelay_bridge.door import (
    FAILED_PROOFS_MAX,
    FAILED_PROOFS_PER_NETWORK,
    FRUITLESS_FAMILIAR,
    FRUITLESS_MAX,
    HALF_OPEN_EXTRA,
    HALF_OPEN_MAX,
    HALF_OPEN_PER_NETWORK,
    HALF_OPEN_PER_SOURCE,
    HALF_OPEN_RESERVE,
    SILENT_WEIGHT,
    SOURCES_MAX,
    WINDOW_S,
    Door,
    network_of,
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
        ("2001:DB8:1:2:0:0:0:6", "2001:db8:1:2::6"),
        ("2001:db8:1:2::1%eth0", "2001:db8:1:2::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("desk.local", "desk.local"),
    ],
)
def test_one_address_is_one_source(address, source) -> None:
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


# --- strangers beside a hub ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "network"),
    [
        ("192.168.1.20", ""),
        ("desk.local", ""),
        ("relay: desk", ""),
        ("2001:db8:1:2:3::6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64%eth0"),
    ],
)
def test_strangers_of_one_64_belong_together(source, network) -> None:
    assert network_of(source) == network


HUB, STRANGER = "2001:db8:1:2::10", "2001:db8:1:2::666"


@pytest.mark.parametrize(("hub", "stranger"), [(HUB, STRANGER), ("fe80::1%eth0", "fe80::2%eth0")])
def test_a_stranger_of_the_same_network_locks_no_familiar_hub_out(door, clock, hub, stranger) -> None:
    door.proved(hub)
    for _ in range(600):
        clock.now += 1
        if door.admit(stranger) is None:
            door.leave(stranger)
            door.failed(stranger)
        assert door.admit(hub) is None
        door.leave(hub)


def test_a_hub_nobody_knows_yet_is_not_locked_out_by_one_stranger_of_its_network(door) -> None:
    for _ in range(FAILED_PROOFS_MAX):
        door.failed(STRANGER)
    for _ in range(HALF_OPEN_PER_SOURCE):
        assert door.admit("2001:db8:1:2::5") is None
    assert door.admit(STRANGER) is Reason.SOURCE_BLOCKED
    assert door.admit(HUB) is None


def test_who_has_a_64_of_addresses_gets_not_that_many_guesses(door) -> None:
    guesses = 0
    for number in range(1000):
        source = f"2001:db8:1:2::{number:x}"
        if door.admit(source) is None:
            door.leave(source)
            door.failed(source)
            guesses += 1
    assert guesses == FAILED_PROOFS_PER_NETWORK
    inside = 0
    while door.admit(f"2001:db8:9:9::{inside:x}") is None:
        inside += 1
    assert inside == HALF_OPEN_PER_NETWORK


def test_a_familiar_address_has_one_place_more_and_keeps_it_whatever_was_done_there(door) -> None:
    door.proved("hub")
    for _ in range(HALF_OPEN_PER_SOURCE):
        assert door.admit("hub") is None
    assert door.admit("hub") is None
    assert door.admit("hub") is Reason.SOURCE_FULL
    for _ in range(HALF_OPEN_PER_SOURCE + HALF_OPEN_EXTRA):
        door.leave("hub")
    for _ in range(FAILED_PROOFS_MAX):
        door.failed("hub")
    assert door.is_blocked("hub")
    assert door.admit("hub") is None
    assert door.admit("hub") is Reason.SOURCE_BLOCKED
    door.leave("hub")
    assert door.admit("hub") is None


def test_a_hub_that_stood_still_and_finds_abandoned_connections_of_its_peer_lets_it_in(door) -> None:
    door.proved("hub")
    for _ in range(256):
        if door.admit("hub") is None:
            door.leave("hub")
            door.fruitless("hub")
    assert door.admit("hub") is None
    assert not door.is_blocked("hub")
    for _ in range(FRUITLESS_FAMILIAR):
        door.fruitless("hub")
    assert door.is_blocked("hub")
    door.proved("hub")
    assert not door.is_blocked("hub")


def test_a_proof_from_an_address_forgives_no_guesses_from_it(door) -> None:
    for _ in range(FAILED_PROOFS_MAX):
        door.failed("hub")
    door.proved("hub")
    assert door.is_blocked("hub")


def test_silence_counts_more_than_a_connection_that_ends(door) -> None:
    for _ in range(FRUITLESS_MAX // SILENT_WEIGHT - 1):
        door.fruitless("a", silent=True)
    assert door.admit("a") is None
    door.fruitless("a", silent=True)
    assert door.admit("a") is Reason.SOURCE_BLOCKED
