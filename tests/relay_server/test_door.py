"""Who may be in without a proof, and who failed too often."""

from ipaddress import ip_network

import pytest

from ecorelay_relay_server.bounds import HALF_OPEN_MAX, HALF_OPEN_PER_SOURCE, REMEMBERED_MAX, WINDOW_S
from ecorelay_relay_server.door import Comings, Failures, Familiar, HalfOpen, behind, is_in, source_of

LOCAL = (ip_network("127.0.0.0/8"), ip_network("10.1.0.0/16"), ip_network("::1/128"))


def test_one_source_has_only_so_many_connections_and_the_oldest_goes_for_the_newest():
    at: HalfOpen[object] = HalfOpen()
    for number in range(HALF_OPEN_PER_SOURCE):
        assert at.enter(number, "192.0.2.1") is None
    assert at.enter("other", "192.0.2.2") is None
    assert at.enter("new", "192.0.2.1") == 0
    assert at.enter("newer", "192.0.2.1") == 1
    assert len(at) == HALF_OPEN_PER_SOURCE + 1


def test_many_sources_together_have_only_so_many_and_the_greediest_pays():
    at: HalfOpen[object] = HalfOpen()
    for number in range(HALF_OPEN_PER_SOURCE):
        at.enter(("greedy", number), "192.0.2.1")
    number = 0
    while len(at) < HALF_OPEN_MAX:
        at.enter(("modest", number), f"198.51.100.{number}")
        number += 1
    assert at.enter("new", "203.0.113.9") == ("greedy", 0)
    assert len(at) == HALF_OPEN_MAX


def test_a_trusted_proxy_has_only_the_bound_of_all():
    at: HalfOpen[object] = HalfOpen()
    for number in range(HALF_OPEN_MAX):
        assert at.enter(number, "127.0.0.1", proxy=True) is None
    assert at.enter("new", "127.0.0.1", proxy=True) == 0


def test_who_proved_itself_makes_room_and_leaves_once():
    at: HalfOpen[object] = HalfOpen()
    at.enter("a", "192.0.2.1")
    assert at.leave("a")
    assert not at.leave("a")
    assert len(at) == 0


def test_so_many_failures_in_a_minute_are_a_minute_without_a_try():
    failures = Failures(5)
    for second in range(4):
        failures.count("x", float(second))
    assert not failures.refused("x", 4.0)
    failures.count("x", 4.0)
    assert failures.refused("x", 4.0)
    assert failures.refused("x", 4.0 + WINDOW_S - 1)
    assert not failures.refused("y", 4.0)
    assert not failures.refused("x", 4.0 + WINDOW_S)


def test_failures_far_apart_do_not_add_up():
    failures = Failures(5)
    for number in range(50):
        failures.count("x", number * WINDOW_S / 3)
        assert not failures.refused("x", number * WINDOW_S / 3)


def test_what_is_remembered_of_strangers_is_bounded():
    failures, familiar = Failures(1), Familiar()
    for number in range(REMEMBERED_MAX + 10):
        failures.count(number, 0.0)
        familiar.add(number)
    assert not failures.refused(0, 0.0)
    assert failures.refused(REMEMBERED_MAX + 9, 0.0)
    assert 0 not in familiar
    assert REMEMBERED_MAX + 9 in familiar


def test_what_is_remembered_of_sources_is_bounded():
    comings = Comings()
    for number in range(REMEMBERED_MAX + 10):
        assert not comings.too_many(str(number), 0.0)
    assert len(comings._paces) == REMEMBERED_MAX


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_source_is_what_one_machine_has_to_itself(address, source):
    assert source_of(address) == source


def test_an_address_of_a_trusted_network_is_found_in_any_spelling():
    assert is_in("127.9.9.9", LOCAL)
    assert is_in("::ffff:10.1.2.3", LOCAL)
    assert is_in("::1", LOCAL)
    assert not is_in("192.0.2.1", LOCAL)
    assert not is_in("nonsense", LOCAL)


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1", "192.0.2.1"),  # the first one a client can have made up
        ("6.6.6.6, 192.0.2.1, 10.1.0.9", "192.0.2.1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("", ""),
        ("unknown", ""),
        ("10.1.0.9", ""),
        ("fe80::1%\x1b[2J" + "x" * 9_000, "fe80::1"),
    ],
)
def test_a_proxy_speaks_for_the_last_address_that_is_no_proxy(forwarded, address):
    assert behind(forwarded, LOCAL) == address
