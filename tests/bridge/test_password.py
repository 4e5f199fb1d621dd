"""SPAKE2 with everything that depends on the secret computed beforehand."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
from spake2 import SPAKE2_A, SPAKE2_B
from spake2.parameters.ed25519 import ParamsEd25519

from ecorelay_bridge import password as password_module
from ecorelay_bridge.password import ELEMENT_SIZE, NotAnElement, Password
from ecorelay_bridge.settings import Secret
from tests.bridge.hubs import RIGHT, WRONG, password


def test_both_sides_get_the_same_key() -> None:
    one, other = password().dialing(b"a", b"b"), password().accepting(b"a", b"b")
    x, y = one.start(), other.start()
    assert len(x) == len(y) == ELEMENT_SIZE
    assert one.finish_each([y]) == other.finish_each([x])


def test_it_is_the_exchange_of_the_package_itself() -> None:
    """Our precomputed sides talk to the package's own: the shortcut changes no result."""
    ours, theirs = password().dialing(b"a", b"b"), SPAKE2_B(password()._derived, b"a", b"b")
    x, y = ours.start(), theirs.start()
    assert ours.finish_each([y[1:]]) == [theirs.finish(b"A" + x)]
    ours, theirs = password().accepting(b"a", b"b"), SPAKE2_A(password()._derived, b"a", b"b")
    y, x = ours.start(), theirs.start()
    assert ours.finish_each([x[1:]]) == [theirs.finish(b"B" + y)]


def test_no_exchange_multiplies_by_the_secret(monkeypatch) -> None:
    ready = password()
    secret = ParamsEd25519.group.password_to_scalar(ready._derived)
    factors = []
    for point in (type(ParamsEd25519.M),):
        real = point.scalarmult

        def spy(self, factor, real=real):
            factors.append(factor)
            return real(self, factor)

        monkeypatch.setattr(point, "scalarmult", spy)
    one, other = ready.dialing(b"a", b"b"), ready.accepting(b"a", b"b")
    x, y = one.start(), other.start()
    one.finish_each([y])
    other.finish_each([x])
    order = ParamsEd25519.group.order()
    assert len(factors) >= 4
    assert not {secret, -secret, order - secret} & set(factors)


@pytest.mark.parametrize("names", [(b"a", b"c"), (b"b", b"a")])
def test_other_names_give_another_key(names) -> None:
    one, other = password().dialing(b"a", b"b"), password().accepting(*names)
    x, y = one.start(), other.start()
    assert one.finish_each([y]) != other.finish_each([x])


def test_another_secret_gives_another_key() -> None:
    one, other = password().dialing(b"a", b"b"), password(WRONG).accepting(b"a", b"b")
    x, y = one.start(), other.start()
    assert one.finish_each([y]) != other.finish_each([x])


def test_of_two_offers_the_one_under_our_secret_gives_the_common_key() -> None:
    one = password().dialing(b"a", b"b")
    x = one.start()
    offers = [password(WRONG).accepting(b"a", b"b"), password().accepting(b"a", b"b")]
    ys = [offer.start() for offer in offers]
    theirs = [offer.finish_each([x])[0] for offer in offers]
    ours = one.finish_each(ys)
    assert ours[1] == theirs[1]
    assert ours[0] != theirs[0]
    assert ours[0] != ours[1]


@pytest.mark.parametrize("element", [b"", b"\0" * 32, b"\1" + b"\0" * 31, b"\xff" * 32, b"\2" + b"\0" * 31])
def test_what_is_no_element_is_refused(element) -> None:
    exchange = password().dialing(b"a", b"b")
    exchange.start()
    with pytest.raises(NotAnElement):
        exchange.finish_each([element])


def test_equal_secrets_typed_in_different_ways_are_equal() -> None:
    assert Secret("caf\u00e9 and more") == Secret("cafe\u0301 and more")
    assert Password(Secret("caf\u00e9 and more"))._derived == Password(Secret("cafe\u0301 and more"))._derived


def test_two_threads_that_are_the_first_to_need_the_package_both_get_it(monkeypatch) -> None:
    """A hub proves itself to several others at once, right after its start."""
    password_module._sides.cache_clear()
    others: list[tuple[type, type]] = []
    made = 0

    def another_comes_in_the_middle(*spec: Any) -> type:
        nonlocal made
        made += 1
        if made == 2:
            other = threading.Thread(target=lambda: others.append(password_module._sides()))
            other.start()
            other.join(30)
        return type(*spec)

    monkeypatch.setattr(password_module, "type", another_comes_in_the_middle, raising=False)
    names = ["SPAKE2_A", "SPAKE2_B"]
    assert [side.__name__ for side in password_module._sides()] == names
    assert [[side.__name__ for side in sides] for sides in others] == [names]


@pytest.mark.parametrize("leave", [pickle.dumps, copy.deepcopy])
def test_a_secret_is_not_written_anywhere(leave) -> None:
    with pytest.raises(TypeError, match="secret"):
        leave(Secret(RIGHT))
