"""The model of the store keeps what the tests of the core rely on: all or nothing, in order, or lost."""

import pytest

from ecorelay.core import ops
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.errors import RelayError
from tests.core.helpers import WALL, mid
from tests.helpers.model_store import ModelStore


def add(name: str) -> ops.AddPeer:
    return ops.AddPeer(peer_id=f"id-{name}", name=name, auto=False, at=WALL)


def mail(number: int, to: int = 2) -> ops.AppendMail:
    return ops.AppendMail(
        msg_id=mid(number),
        kind="message",
        sender_no=1,
        sender="ann",
        recipients=(to,),
        text="hi",
        at=WALL,
    )


def store_with_two() -> ModelStore:
    store = ModelStore()
    store.do(add("ann"), add("bob"))
    return store


def test_a_unit_of_which_one_op_is_refused_leaves_no_trace():
    store = store_with_two()
    store.do(mail(1))
    before = store.snapshot()
    numbers = dict(store.numbers.items())
    with pytest.raises(RelayError, match="name_taken"):
        store.do(mail(2), ops.NotePeer(no=1, last_seen=5, cwd="/x"), add("cat"), add("BOB"))
    assert store.snapshot() == before
    assert dict(store.numbers.items()) == numbers
    assert [store.message(row.mid).msg_id for row in store.ring(2)] == [mid(1)]


def test_units_are_done_in_the_order_of_their_submission_and_no_sooner_than_committed():
    store = store_with_two()
    store.submit((mail(1),), "first")
    store.submit((mail(1, to=1),), "other recipient")
    store.submit((mail(2),), "second")
    assert store.ring(2) == []
    [first, refused] = store.commit(2)
    assert first == Stored("first", (ops.Appended(1, (1,)),))
    assert isinstance(refused, StoreFailed)
    assert (refused.then, refused.code) == ("other recipient", "bad_msg")
    assert store.commit() == [Stored("second", (ops.Appended(2, (2,)),))]
    assert store.commit() == []


def test_a_failure_that_is_asked_for_comes_before_anything_is_done():
    store = store_with_two()
    store.refuse = lambda unit: RelayError("mailbox_error", "full")
    store.submit((mail(1),), "note")
    assert store.commit() == [StoreFailed("note", "mailbox_error", "full")]
    assert store.ring(2) == []


def test_a_crash_takes_what_was_not_committed_and_every_lease():
    store = store_with_two()
    store.do(mail(1))
    store.do(ops.ReadPage(no=2, lease=7, limit=9, budget=1_000))
    store.submit((mail(2),), None)
    assert store.ring(2)[0].lease == 7
    store.lose_pending()
    assert store.commit() == []
    [row] = store.ring(2)
    assert (row.lease, row.handed) == (0, True)
