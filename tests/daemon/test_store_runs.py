"""Runs of units of one kind, done at once: the same as if they had come one by one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ecorelay.core import link_ops, ops
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.core.link_ops import FarPeer, OutAppended
from ecorelay.core.ops import Op
from ecorelay.daemon import store_link_runs
from tests.daemon.store_kit import DAY, Kit, make_id

OURS = (1, 2, 3)
THERE, ELSEWHERE = 1, 2
FAR = [FarPeer(name=name, peer_id=f"id {name}") for name in ("cat", "dog", "eel")]
LIMITS: dict[str, Any] = {"mailbox_messages": 12, "outbox_messages": 30, "outbox_bytes": 400}


@pytest.fixture
def twins(tmp_path: Path) -> list[Kit]:
    """Two stores with the same in them."""
    kits = [Kit(tmp_path / name, **LIMITS) for name in ("one", "all")]
    for kit in kits:
        kit.add("ann", "bob", "cid")
        for hub_id in ("There", "Elsewhere"):
            kit.do(link_ops.KnowHub(hub_id=hub_id, at=kit.now))
    return kits


def contents(kit: Kit) -> dict[str, list[Any]]:
    """Every row of every table, but for what counts transactions; notices without their numbers."""
    tables = [name for (name,) in kit.db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {
        name: sorted([row[name == "notices" :] for row in kit.db.execute(f"SELECT * FROM {name}")], key=repr)
        for name in tables
        if name not in ("meta", "sqlite_sequence")
    }


class Life:
    """Makes units as two hubs that talk would, and now and then as they should not."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ids = 0
        self.number = {THERE: 0, ELSEWHERE: 0}

    def new_id(self) -> str:
        self.ids += 1
        odd = self.random.random() < 0.03 and self.ids > 5
        return make_id(self.random.randrange(1, self.ids) if odd else self.ids)

    def out(self, at: int) -> link_ops.AppendOut:
        text = "x" * self.random.choice((1, 5, 30))
        to = self.random.choice(FAR)
        if self.random.random() < 0.05:
            to = FarPeer(name=to.name.upper(), peer_id=self.random.choice((to.peer_id, "")))
        return link_ops.AppendOut(
            hub_no=self.random.choice((THERE,) * 12 + (ELSEWHERE, 9)),
            to=to,
            msg_id=self.new_id(),
            kind=self.random.choice(("message", "reply")),
            sender_no=1,
            sender="ann",
            text=text,
            body=text.encode(),
            at=at,
            reply_to=self.random.choice((None, None, "some id")),
            also=self.random.random() < 0.02,
            missing="nobody is called so" if self.random.random() < 0.02 else "",
        )

    def taken(self, kit: Kit, at: int) -> link_ops.Receive:
        hub = self.random.choice((THERE,) * 12 + (ELSEWHERE,))
        odd = self.random.random()
        if odd > 0.04:
            self.number[hub] += 1
        number = self.number[hub] + (odd < 0.02)  # else it comes again, or one is missing
        msg_id = self.new_id()
        to = () if odd > 0.98 else (self.random.choice((*OURS, *OURS, 77)),)
        mail = kit.mail(0, *to, text="y" * self.random.choice((1, 9)), msg_id=msg_id, origin=hub)
        refused = 0.95 < odd < 0.97
        return link_ops.Receive(
            hub_no=hub,
            stream=f"stream of {hub}",
            first=1,
            number=max(1, number),
            msg_id=msg_id,
            sender=self.random.choice(FAR),
            mail=None if refused else mail,
            code="blocked" if refused else "",
            message="not today" if refused else "",
            at=at,
        )

    def saved(self, kit: Kit, at: int) -> tuple[Op, ...]:
        """As a broadcast is stored: with the answer to who asked for it."""
        op_id = self.new_id()
        to = (77,) if self.random.random() < 0.05 else OURS[: self.random.randrange(1, 4)]
        mail = kit.mail(1, *to, text="ask", msg_id=op_id, kind="ask", broadcast_id=op_id)
        if self.random.random() < 0.03:
            op_id = make_id(1 + self.random.randrange(self.ids))
        return mail, ops.SaveOp(no=1, op_id=op_id, request=len(to), reply=b"{}", at=at)

    def units(self, kit: Kit) -> list[tuple[Op, ...]]:
        at = kit.now
        units: list[tuple[Op, ...]] = []
        for _ in range(self.random.randrange(1, 6)):
            length = self.random.randrange(1, 7)
            match self.random.randrange(7):
                case 0 | 1:
                    units += [(self.out(at),) for _ in range(length)]
                case 2 | 3:
                    units += [(self.taken(kit, at),) for _ in range(length)]
                case 4 | 5:
                    units += [self.saved(kit, at) for _ in range(length)]
                    if self.random.random() < 0.5:
                        units.append((ops.FindOp(no=1, op_id=make_id(self.ids)),))
                case _:
                    units.append((kit.mail(1, 2, text="local", msg_id=self.new_id()),))
        if self.random.random() < 0.5:
            upto = self.random.randrange(1, 60)
            units.append((link_ops.SettleOut(hub_no=THERE, upto=upto, rejected=((upto, "gone"),), at=at),))
        return units


@pytest.mark.parametrize("seed", range(12))
def test_many_at_once_leave_what_they_would_leave_one_by_one(twins: list[Kit], seed: int):
    one, everything = twins
    life = Life(seed)
    for turn in range(12):
        if turn == 6:  # in a copy of an earlier time a stream of ours may have gone on
            for kit in twins:
                kit.do(
                    link_ops.ResumeOut(
                        hub_no=THERE, stream="run", known="", received=0, rejected=(), at=kit.now
                    )
                )
                kit.reopen()
        one.now = everything.now = one.now + life.random.choice((1, 1000, DAY + 1))
        units = life.units(one)
        events = [one.run(unit)[0] for unit in units]
        expected = [
            Stored(number, event.results)
            if isinstance(event, Stored)
            else StoreFailed(number, event.code, event.message)
            for number, event in enumerate(events)
        ]
        assert everything.run(*units) == expected
        assert contents(everything) == contents(one)
        assert everything.store._committer.ledger.latest == one.store._committer.ledger.latest


def out(kit: Kit, to: FarPeer, **more: Any) -> link_ops.AppendOut:
    fields: dict[str, Any] = {"text": "hi", "body": b"hi", "msg_id": kit.new_id(), **more}
    return link_ops.AppendOut(
        hub_no=THERE, to=to, kind="message", sender_no=1, sender="ann", at=kit.now, **fields
    )


def frame(kit: Kit, number: int) -> link_ops.Receive:
    msg_id = kit.new_id()
    mail = kit.mail(0, 2, msg_id=msg_id, origin=THERE)
    return link_ops.Receive(
        hub_no=THERE, stream="s", first=1, number=number, msg_id=msg_id, sender=FAR[0], mail=mail, at=kit.now
    )


def saved(kit: Kit) -> tuple[Op, ...]:
    mail = kit.mail(1, 2, 3)
    return mail, ops.SaveOp(no=1, op_id=mail.msg_id, request=1, reply=b"{}", at=kit.now)


@pytest.mark.parametrize("count", [2, 10])
def test_how_much_is_asked_of_the_database_does_not_depend_on_how_many_there_are(
    twins: list[Kit], count: int
):
    kit = twins[0]
    asked: list[str] = []
    kit.unit(out(kit, FAR[0]))  # what is done once in a run
    kit.unit(frame(kit, 1))
    kit.db.set_trace_callback(asked.append)
    kit.run(*[(out(kit, FAR[0]),) for _ in range(count)])
    assert len(asked) <= 18
    asked.clear()
    kit.run(*[(frame(kit, 2 + n),) for n in range(count)])
    assert len(asked) <= 20
    asked.clear()
    kit.run(*[saved(kit) for _ in range(count)])
    assert len(asked) <= 20
    kit.db.set_trace_callback(None)


def test_what_is_no_plain_case_is_left_untouched(twins: list[Kit]):
    kit = twins[0]
    [first] = kit.unit(out(kit, FAR[0], msg_id=make_id(900)))
    assert first == OutAppended(1, 1)
    kit.unit(frame(kit, 1))
    before = contents(kit)
    ledger = kit.store._committer.ledger
    for mails in (
        [out(kit, FAR[0], msg_id=make_id(900))],
        [out(kit, FAR[0], msg_id=make_id(901)), out(kit, FAR[1], msg_id=make_id(901))],
        [out(kit, FAR[0]), out(kit, FarPeer(name="other", peer_id=FAR[0].peer_id))],
        [out(kit, FAR[0]) for _ in range(LIMITS["mailbox_messages"])],
        [out(kit, FAR[0], body=b"x" * 399)],
    ):
        assert store_link_runs.append_outs(ledger, mails) is None
    for frames in ([frame(kit, 3)], [frame(kit, 1)], [frame(kit, 2), frame(kit, 4)]):
        assert store_link_runs.receive_all(ledger, frames) is None
    assert contents(kit) == before


def test_an_answer_that_is_kept_in_the_same_commit_is_found(twins: list[Kit]):
    kit = twins[0]
    unit = saved(kit)
    find = ops.FindOp(no=1, op_id=unit[1].op_id)  # type: ignore[attr-defined]
    _, found, _ = kit.run(unit, (find,), saved(kit))
    assert found == Stored(1, (ops.FoundOp(1, b"{}"),))


def test_an_id_that_was_used_is_found_among_many(twins: list[Kit]):
    kit = twins[0]
    kit.unit(*saved(kit))
    units = [saved(kit) for _ in range(150)]
    units[140] = (units[140][0], ops.SaveOp(no=1, op_id=make_id(1), request=1, reply=b"{}", at=kit.now))
    events = kit.run(*units)
    assert [number for number, event in enumerate(events) if isinstance(event, StoreFailed)] == [140]
    find = [(ops.FindOp(no=1, op_id=unit[1].op_id),) for unit in units]  # type: ignore[attr-defined]
    assert all(event.results[0] is not None for event in kit.run(*find) if isinstance(event, Stored))
