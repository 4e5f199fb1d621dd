"""Other hubs in the store: outboxes, streams, what came from there, and their peers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ecorelay.core import link_ops, ops
from ecorelay.core.link_ops import (
    FarPeer,
    HubKnown,
    HubRow,
    OutAppended,
    OutSettled,
    Received,
    Refusal,
    Resumed,
)
from ecorelay.core.ops import Eviction
from ecorelay.daemon import schema, store, store_file, store_links, store_upkeep
from ecorelay.daemon.store_failure import StoreUnusable
from ecorelay.errors import RelayError
from tests.daemon.store_kit import DAY, T0, Kit, make_id, texts

ANN, BOB = 1, 2
THERE = 1
"""Numbers of two peers of ours, and of the other hub."""
CAT = FarPeer(name="cat", peer_id="id cat")
DOG = FarPeer(name="dog", peer_id="id dog")


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    made = Kit(tmp_path / "data", mailbox_messages=4, outbox_messages=6, outbox_bytes=1_000)
    made.add("ann", "bob")
    assert know(made).hub_no == THERE
    return made


def know(kit: Kit, hub_id: str = "There") -> HubKnown:
    known: HubKnown = kit.do(link_ops.KnowHub(hub_id=hub_id, at=kit.now))
    return known


def out(kit: Kit, to: FarPeer = CAT, **fields: Any) -> link_ops.AppendOut:
    text = fields.pop("text", "hello")
    known: dict[str, Any] = {
        "hub_no": THERE,
        "msg_id": kit.new_id(),
        "kind": "message",
        "sender_no": ANN,
        "sender": "ann",
        "body": text.encode(),
        "at": kit.now,
        **fields,
    }
    return link_ops.AppendOut(to=to, text=text, **known)


def put(kit: Kit, *to: FarPeer, **fields: Any) -> list[int]:
    """Seqs of new mail to each of these."""
    return [kit.do(out(kit, each, **fields)).seq for each in to]


def resume(kit: Kit, stream: str = "run 1", known: str = "", received: int = 0, **fields: Any) -> Resumed:
    rejected = fields.pop("rejected", ())
    result: Resumed = kit.do(
        link_ops.ResumeOut(
            hub_no=THERE, stream=stream, known=known, received=received, rejected=rejected, at=kit.now
        )
    )
    return result


def settle(kit: Kit, upto: int, *rejected: tuple[int, str]) -> OutSettled:
    result: OutSettled = kit.do(link_ops.SettleOut(hub_no=THERE, upto=upto, rejected=rejected, at=kit.now))
    return result


def load(kit: Kit, after: int = 0, most: int = 100, size: int = 10_000) -> tuple[list[int], bool]:
    loaded = kit.do(link_ops.LoadOut(hub_no=THERE, after=after, max_count=most, max_bytes=size))
    return [frame.seq for frame in loaded.frames], loaded.more


def frame(kit: Kit, number: int, *to: int, stream: str = "theirs", **fields: Any) -> link_ops.Receive:
    msg_id = fields.pop("msg_id", "") or kit.new_id()
    sender = fields.pop("sender", CAT)
    mail = kit.mail(0, *to, text=fields.pop("text", "hi"), msg_id=msg_id, origin=THERE)
    return link_ops.Receive(
        hub_no=fields.pop("hub_no", THERE),
        stream=stream,
        first=fields.pop("first", 1),
        number=number,
        msg_id=msg_id,
        sender=sender,
        mail=None if "code" in fields else mail,
        at=kit.now,
        **fields,
    )


def receive(kit: Kit, number: int, *to: int, **fields: Any) -> Received:
    result: Received = kit.do(frame(kit, number, *to, **fields))
    return result


def row(kit: Kit) -> HubRow:
    [found] = kit.store.snapshot().hubs
    assert isinstance(found, HubRow)
    [(kept, rows)] = kit.db.execute(
        "SELECT outbox_bytes, (SELECT coalesce(sum(size), 0) FROM outbox WHERE hub_no = no) FROM hubs"
    ).fetchall()
    assert kept == rows == found.bytes
    return found


def receipt(kit: Kit, msg_id: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = kit.db.execute(
        "SELECT forwarded_at, outcome, reason FROM receipts JOIN messages USING (mid) WHERE msg_id = ?",
        (msg_id,),
    ).fetchall()
    return found


# --- hubs and their peers --------------------------------------------------------------------------------


def test_a_hub_is_known_once_without_regard_to_case_and_after_a_crash(kit: Kit) -> None:
    assert know(kit, "tHERE") == HubKnown(hub_no=THERE, next_seq=1)
    other = know(kit, "other").hub_no
    assert other != THERE
    kit.reopen(crash=True)
    assert [(hub.no, hub.hub_id, hub.seen_at) for hub in kit.store.snapshot().hubs] == [
        (THERE, "There", T0),
        (other, "other", T0),
    ]


def test_the_time_a_hub_was_seen_only_rises(kit: Kit) -> None:
    kit.now = T0 - DAY
    know(kit)
    assert row(kit).seen_at == T0
    kit.now = T0 + DAY
    know(kit)
    assert row(kit).seen_at == T0 + DAY


def directory(kit: Kit, *peers: FarPeer, **fields: Any) -> tuple[FarPeer, ...]:
    kit.do(link_ops.SaveDirectory(hub_no=THERE, peers=peers, at=kit.now, **fields))
    return tuple(sorted(row(kit).peers, key=lambda peer: peer.peer_id))


def test_a_directory_is_added_to_changed_and_begun_anew(kit: Kit) -> None:
    assert directory(kit, CAT, DOG) == (CAT, DOG)
    assert not row(kit).complete
    assert directory(kit, gone=(CAT.peer_id, "nobody"), complete=True) == (DOG,)
    assert row(kit).complete
    renamed = FarPeer(name="hound", peer_id=DOG.peer_id)
    assert directory(kit, renamed) == (renamed,)
    assert row(kit).complete, "what was complete stays so"
    assert directory(kit, CAT, reset=True) == (CAT,)
    assert not row(kit).complete
    kit.reopen(crash=True)
    assert row(kit).peers == (CAT,)


def test_a_new_name_is_that_of_the_peer_in_notices_and_receipts(kit: Kit) -> None:
    put(kit, CAT, FarPeer(name="unknown"))
    directory(kit, FarPeer(name="kitty", peer_id=CAT.peer_id))
    settle(kit, 2, (1, "no"), (2, "no"))
    page = kit.read(ANN)
    assert [(notice.about, notice.reason) for notice in page.notices] == [
        ("kitty@There", "no"),
        ("unknown@There", "no"),
    ]


def test_whoever_writes_under_a_new_name_is_the_same_peer(kit: Kit) -> None:
    receive(kit, 1, BOB)
    receive(kit, 2, BOB, sender=FarPeer(name="kitty", peer_id=CAT.peer_id))
    receive(kit, 3, BOB, sender=FarPeer(name="kitty", peer_id="another"))
    [(first,), (second,), (third,)] = kit.db.execute("SELECT sender_no FROM messages ORDER BY mid")
    assert first == second != third
    assert [peer.name for peer in kit.store.snapshot().peers if peer.hub] == ["kitty", "kitty"]


# --- what goes there -------------------------------------------------------------------------------------


def test_mail_gets_numbers_that_are_never_given_twice(kit: Kit) -> None:
    assert put(kit, CAT, DOG, CAT) == [1, 2, 3]
    assert settle(kit, 3) == OutSettled(3, 15)
    kit.reopen(crash=True)
    assert know(kit).next_seq == 4
    assert put(kit, CAT) == [4]
    assert know(kit).next_seq == 4
    assert (row(kit).waiting, row(kit).bytes) == (1, 5)


def test_the_same_mail_again_is_known_and_other_mail_under_its_id_refused(kit: Kit) -> None:
    op = out(kit)
    assert kit.do(op) == OutAppended(1, 1)
    again: dict[str, Any] = {"msg_id": op.msg_id}
    assert kit.do(op) == OutAppended(1, 1, duplicate=True)
    assert kit.do(out(kit, sender="annie", **again)).duplicate, "its sender has another name by now"
    assert kit.do(out(kit, DOG, **again)).duplicate, "the name leads to another peer by now"
    assert kit.do(out(kit, FarPeer(name="cat"), missing="there is no cat", **again)).duplicate
    know(kit, "other")
    changes: list[dict[str, Any]] = [{"text": "jello"}, {"text": "longer"}, {"sender_no": BOB}, {"hub_no": 2}]
    for fields in changes:
        with pytest.raises(RelayError, match="bad_msg"):
            kit.do(out(kit, **again, **fields))
    settle(kit, 1)
    assert kit.do(op) == OutAppended(0, 1, duplicate=True)
    assert [hub.waiting for hub in kit.store.snapshot().hubs] == [0, 0]


def test_an_id_of_mail_that_stayed_here_is_not_one_of_mail_that_goes_there(kit: Kit) -> None:
    kit.send(ANN, BOB, text="hello", msg_id=make_id(900))
    with pytest.raises(RelayError, match="bad_msg"):
        kit.do(out(kit, msg_id=make_id(900), sender="peer 1"))
    kit.do(out(kit, msg_id=make_id(901), sender="peer 1"))
    with pytest.raises(RelayError, match="bad_msg"):
        kit.send(ANN, BOB, text="hello", msg_id=make_id(901))


def test_mail_to_a_peer_that_is_missing_is_refused_and_leaves_no_trace(kit: Kit) -> None:
    with pytest.raises(RelayError, match="there is no cat"):
        kit.do(out(kit, missing="there is no cat"))
    assert row(kit).waiting == 0
    assert [peer.name for peer in kit.store.snapshot().peers] == ["ann", "bob"]


def test_an_outbox_has_room_for_so_many_messages_and_bytes(kit: Kit) -> None:
    put(kit, *[CAT] * 4)
    with pytest.raises(RelayError, match="4 messages wait for cat"):
        put(kit, CAT)
    put(kit, DOG, DOG)
    before = kit.store.snapshot().peers
    with pytest.raises(RelayError, match=r"6 messages .30 bytes. wait for that hub"):
        put(kit, FarPeer(name="eel", peer_id="id eel"))
    assert kit.store.snapshot().peers == before, "a refusal leaves no peer behind"
    settle(kit, 5)
    put(kit, CAT, text="x" * 990)
    with pytest.raises(RelayError, match=r"limit_reached"):
        put(kit, CAT, text="x" * 6)
    assert (row(kit).waiting, row(kit).bytes) == (2, 995)


def test_one_message_over_the_bytes_goes_into_an_empty_outbox(kit: Kit) -> None:
    assert put(kit, CAT, text="x" * 2_000) == [1]


def test_a_broadcast_is_one_message_for_all_its_hubs(kit: Kit) -> None:
    know(kit, "other")
    everybody = FarPeer(name="*")
    mail = kit.mail(ANN, BOB, text="who?", broadcast_id=make_id(500), msg_id=make_id(500))
    ask = [out(kit, everybody, hub_no=no, msg_id=make_id(500), text="who?", also=True) for no in (1, 2)]
    local, first, second = kit.unit(mail, *ask)
    assert first.mid == second.mid == local.mid
    assert (first.seq, second.seq) == (1, 1)
    [(box, boxes)] = kit.db.execute(
        "SELECT box, boxes FROM messages WHERE msg_id = ?", (make_id(500),)
    ).fetchall()
    assert (box, boxes) == (None, "[2,3,4]")
    only = kit.unit(*[out(kit, everybody, msg_id=make_id(501), also=True)])
    assert only[0].seq == 2


def test_what_waits_is_loaded_in_order_within_the_limits(kit: Kit) -> None:
    assert load(kit) == ([], False)
    put(kit, CAT, DOG, CAT, DOG)
    assert load(kit) == ([1, 2, 3, 4], False)
    assert load(kit, 2) == ([3, 4], False)
    assert load(kit, 4) == ([], False)
    assert load(kit, most=4) == ([1, 2, 3, 4], False)
    assert load(kit, most=3) == ([1, 2, 3], True)
    assert load(kit, size=10) == ([1, 2], True)
    assert load(kit, size=1) == ([1], True), "one at least"


def test_a_frame_is_loaded_as_it_was_put_in(kit: Kit) -> None:
    op = out(kit)
    kit.do(op)
    loaded = kit.do(link_ops.LoadOut(hub_no=THERE, after=0, max_count=1, max_bytes=1))
    assert loaded.frames == (link_ops.OutFrame(1, op.msg_id, T0, b"hello"),)


def test_what_is_settled_ends_as_forwarded_or_as_it_was_rejected(kit: Kit) -> None:
    ops_ = [out(kit, each) for each in (CAT, DOG, CAT)]
    for op in ops_:
        kit.do(op)
    kit.now += 1_000
    settled = settle(kit, 2, (2, "peer_gone"), (3, "early"), (99, "never"))
    assert (settled.count, settled.bytes) == (2, 10)
    [told] = settled.told
    assert (told.sender_no, told.count, told.first) == (ANN, 1, True)
    assert receipt(kit, ops_[0].msg_id) == [(T0 + 1_000, 0, None)]
    assert receipt(kit, ops_[1].msg_id) == [(0, schema.DEAD, "peer_gone")]
    assert receipt(kit, ops_[2].msg_id) == []
    assert settle(kit, 2, (1, "late")) == OutSettled(0, 0)
    assert settle(kit, 3).count == 1
    page = kit.read(ANN)
    assert [(notice.about, notice.reason, notice.count) for notice in page.notices] == [
        ("dog@There", "peer_gone", 1)
    ]


def test_rejections_of_one_kind_are_one_notice(kit: Kit) -> None:
    put(kit, CAT, CAT, DOG, CAT)
    settled = settle(kit, 4, (1, "blocked"), (2, "blocked"), (3, "blocked"), (4, "too_large"))
    assert sorted((each.count, each.first) for each in settled.told) == [(1, True), (1, True), (2, True)]
    put(kit, CAT)
    [told] = settle(kit, 5, (5, "blocked")).told
    assert not told.first


def test_a_sender_that_is_gone_is_not_told(kit: Kit) -> None:
    put(kit, CAT, sender_no=BOB)
    kit.do(ops.ForgetPeer(no=BOB, at=kit.now))
    [told] = settle(kit, 1, (1, "peer_gone")).told
    assert not told.first
    assert kit.db.execute("SELECT count(*) FROM notices").fetchone() == (0,)


# --- streams ---------------------------------------------------------------------------------------------


def test_a_stream_begins_after_what_is_settled(kit: Kit) -> None:
    nothing = OutSettled(0, 0)
    assert resume(kit) == Resumed(base=0, settled=0, last=0, out=nothing)
    put(kit, CAT, DOG)
    assert resume(kit, known="run 1", received=1) == Resumed(base=0, settled=1, last=2, out=OutSettled(1, 5))
    kit.reopen(crash=True)
    assert resume(kit, "run 2", "run 1", 1) == Resumed(base=1, settled=1, last=2, out=nothing)
    assert resume(kit, "run 2", "run 2", 1) == Resumed(base=1, settled=2, last=2, out=OutSettled(1, 5))
    assert resume(kit, "run 2", "run 2", 1) == Resumed(base=1, settled=2, last=2, out=nothing)


def test_what_an_earlier_run_sent_is_settled_by_what_is_known_of_its_stream(kit: Kit) -> None:
    put(kit, DOG)
    settle(kit, 1)
    resume(kit, "run 1")
    put(kit, CAT, CAT, DOG)
    kit.reopen(crash=True)
    resumed = resume(kit, "run 2", "run 1", 2, rejected=((2, "peer_gone"), (3, "early")))
    assert (resumed.base, resumed.settled, resumed.last) == (3, 3, 4)
    assert (resumed.out.count, len(resumed.out.told)) == (2, 1)


@pytest.mark.parametrize("known", ["", "never heard of"])
def test_a_stream_that_is_not_known_settles_nothing(kit: Kit, known: str) -> None:
    put(kit, CAT, DOG)
    assert resume(kit, "run 1", known, 2**63 - 1) == Resumed(base=0, settled=0, last=2, out=OutSettled(0, 0))


def test_more_than_was_ever_sent_settles_what_there_is(kit: Kit) -> None:
    resume(kit)
    put(kit, CAT)
    resumed = resume(kit, "run 1", "run 1", 2**63 - 1, rejected=((2**63 - 1, "no"),))
    assert resumed == Resumed(base=0, settled=1, last=1, out=OutSettled(1, 5))
    assert put(kit, CAT) == [2]


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("linked", [False, True])
def test_a_stream_of_an_earlier_run_covers_nothing_of_this_one(kit: Kit, runs: int, linked: bool) -> None:
    """A copy of the database was put back: the other hub has more of run 1 than this one knows of."""
    resume(kit, "run 1")
    put(kit, CAT)
    for run in range(runs):
        kit.reopen(crash=True)
        if linked:
            resume(kit, f"a later run {run}", "")
        put(kit, DOG)
    resumed = resume(kit, "run 9", "run 1", 50)
    assert (resumed.settled, resumed.out.count) == (1, 1)
    assert load(kit) == (list(range(2, runs + 2)), False)


def test_whether_streams_ended_is_decided_again_after_a_unit_that_failed(kit: Kit) -> None:
    resume(kit, "run 1")
    put(kit, CAT)
    kit.reopen(crash=True)
    with pytest.raises(RelayError, match="bad_msg"):
        kit.unit(out(kit), frame(kit, 7, ANN))
    put(kit, CAT)
    assert resume(kit, "run 2", "run 1", 50).settled == 1


def test_the_latest_streams_are_kept(kit: Kit) -> None:
    for run in range(store_links.STREAMS_KEPT + 5):
        resume(kit, f"run {run}")
        receive(kit, 1, BOB, stream=f"theirs {run}")
    put(kit, CAT)
    assert resume(kit, "last", "run 4", 1).out.count == 0
    assert kit.db.execute("SELECT direction, count(*) FROM streams GROUP BY direction").fetchall() == [
        (store_links.OURS, store_links.STREAMS_KEPT),
        (store_links.THEIRS, store_links.STREAMS_KEPT),
    ]
    assert know(kit).stream == f"theirs {store_links.STREAMS_KEPT + 4}"


# --- what came from there --------------------------------------------------------------------------------


def test_frames_are_taken_in_order_and_known_after_a_crash(kit: Kit) -> None:
    first = receive(kit, 1, BOB, text="one")
    assert first.appended is not None
    assert first.code == ""
    receive(kit, 2, BOB, text="two")
    kit.reopen(crash=True)
    assert know(kit) == HubKnown(hub_no=THERE, next_seq=1, stream="theirs", received=2)
    assert texts(kit.read(BOB)) == ["one", "two"]


@pytest.mark.parametrize("number", [4, 2**63 - 1])
def test_a_number_that_is_not_the_next_leaves_no_trace(kit: Kit, number: int) -> None:
    receive(kit, 1, BOB)
    receive(kit, 2, BOB)
    with pytest.raises(RelayError, match="does not follow 2"):
        receive(kit, number, BOB, sender=FarPeer(name="new", peer_id="new"))
    assert know(kit).received == 2
    assert len(kit.read(BOB).mails) == 2
    assert [peer.name for peer in kit.store.snapshot().peers if peer.hub] == ["cat"]


def test_numbers_go_on_from_the_first_that_the_other_hub_can_still_send(kit: Kit) -> None:
    receive(kit, 1, BOB)
    receive(kit, 7, BOB, first=7)
    receive(kit, 8, BOB, first=7)
    assert know(kit).received == 8
    with pytest.raises(RelayError, match="does not follow 8"):
        receive(kit, 2, BOB, first=7)


def test_the_latest_stream_is_the_one_that_began_last_whatever_the_clock_says(kit: Kit) -> None:
    receive(kit, 1, BOB, stream="old")
    kit.now -= DAY
    receive(kit, 1, BOB, stream="new")
    assert (know(kit).stream, know(kit).received) == ("new", 1)


def test_what_comes_again_is_taken_once_and_not_refused(kit: Kit) -> None:
    first = receive(kit, 1, BOB, msg_id=make_id(700))
    assert first.appended is not None
    mid = first.appended.mid
    again = receive(kit, 1, BOB, msg_id=make_id(700), stream="next run")
    assert again.appended == ops.Appended(mid, (), duplicate=True)
    refused = receive(kit, 2, msg_id=make_id(700), stream="next run", code="blocked")
    assert (refused.code, refused.appended) == ("", ops.Appended(mid, (), duplicate=True))
    assert len(kit.read(BOB).mails) == 1


def test_the_same_id_of_another_hub_is_another_message(kit: Kit) -> None:
    know(kit, "other")
    kit.send(ANN, BOB, text="ours", msg_id=make_id(700))
    receive(kit, 1, BOB, msg_id=make_id(700), text="theirs")
    other = frame(kit, 1, BOB, msg_id=make_id(700), text="of the other")
    kit.do(
        link_ops.Receive(
            hub_no=2, stream="s", first=1, number=1, msg_id=other.msg_id, sender=CAT, mail=other.mail, at=T0
        )
    )
    assert texts(kit.read(BOB)) == ["ours", "theirs", "of the other"]


def test_refusals_are_remembered_with_the_stream(kit: Kit) -> None:
    assert receive(kit, 1, code="blocked", message="by a person").code == "blocked"
    assert receive(kit, 2, 99).code == "peer_gone"
    receive(kit, 3, BOB)
    kit.reopen(crash=True)
    known = know(kit)
    assert known.received == 3
    assert [(each.number, each.code) for each in known.rejected] == [(1, "blocked"), (2, "peer_gone")]
    assert known.rejected[0] == Refusal(1, "blocked", "by a person")
    assert texts(kit.read(BOB)) == ["hi"]


def test_only_so_many_refusals_are_remembered(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_links, "REJECTED_KEPT", 3)
    for number in range(1, 6):
        receive(kit, number, code="blocked")
    assert [each.number for each in know(kit).rejected] == [3, 4, 5]


def test_a_broadcast_that_finds_nobody_is_taken_all_the_same(kit: Kit) -> None:
    assert receive(kit, 1) == Received(None)
    assert know(kit).received == 1


def test_mail_that_came_from_there_evicts_and_nobody_there_is_told(kit: Kit) -> None:
    for number in range(1, 7):
        receive(kit, number, BOB, text=str(number))
    assert texts(kit.read(BOB)) == ["3", "4", "5", "6"]
    assert kit.db.execute("SELECT count(*) FROM notices").fetchone() == (0,)


# --- replies ---------------------------------------------------------------------------------------------


def reply(kit: Kit, target: str, **fields: Any) -> ops.Replied:
    known = {
        "msg_id": kit.new_id(),
        "sender_no": BOB,
        "sender": "bob",
        "text": "yes",
        "at": kit.now,
        **fields,
    }
    result: ops.Replied = kit.do(ops.AppendReply(target_id=target, **known))
    return result


def test_a_reply_to_another_hub_lies_in_its_outbox_and_its_target_is_seen(kit: Kit) -> None:
    receive(kit, 1, BOB, msg_id=make_id(700))
    done = reply(kit, make_id(700))
    assert (done.hub_no, done.out_seq, done.own_unread, done.out_to) == (THERE, 1, 0, CAT.peer_id)
    assert len(done.out_body) == row(kit).bytes
    assert kit.mailbox(BOB).unread == 0
    again = reply(kit, make_id(700), text="and more")
    assert again.out_seq == 2


def test_a_reply_that_finds_no_room_leaves_its_target_unread(kit: Kit) -> None:
    receive(kit, 1, BOB, msg_id=make_id(700))
    put(kit, *[CAT] * 4)
    with pytest.raises(RelayError, match="limit_reached"):
        reply(kit, make_id(700))
    assert kit.mailbox(BOB).unread == 1


def test_a_reply_said_again_is_known_though_its_target_left_the_mailbox(kit: Kit) -> None:
    receive(kit, 1, BOB, msg_id=make_id(700))
    reply(kit, make_id(700), msg_id=make_id(800))
    for number in range(2, 7):
        receive(kit, number, BOB)
    again = reply(kit, make_id(700), msg_id=make_id(800), sender="robert")
    assert again.appended.duplicate
    assert row(kit).waiting == 1


def test_a_reply_to_a_hub_that_was_forgotten_is_refused(kit: Kit) -> None:
    receive(kit, 1, BOB, msg_id=make_id(700))
    kit.do(link_ops.ForgetHub(hub_no=THERE, at=kit.now))
    with pytest.raises(RelayError, match="its hub was forgotten"):
        reply(kit, make_id(700))


def test_a_reply_to_what_nobody_sent_is_refused_and_one_on_this_hub_stays_here(kit: Kit) -> None:
    with pytest.raises(RelayError, match="unknown_ask"):
        reply(kit, make_id(900))
    kit.send(ANN, BOB, msg_id=make_id(900))
    done = reply(kit, make_id(900), msg_id=make_id(901))
    assert (done.hub_no, done.recipient_no) == (0, ANN)
    assert reply(kit, make_id(900), msg_id=make_id(901)).appended.duplicate
    kit.do(ops.ForgetPeer(no=ANN, at=kit.now))
    with pytest.raises(RelayError, match="peer_gone"):
        reply(kit, make_id(900))


# --- the end of it ---------------------------------------------------------------------------------------


def test_a_hub_is_forgotten_with_all_that_is_known_of_it(kit: Kit) -> None:
    op = out(kit)
    kit.do(op)
    directory(kit, CAT, complete=True)
    resume(kit)
    receive(kit, 1, BOB)
    ended = kit.do(link_ops.ForgetHub(hub_no=THERE, at=kit.now))
    assert ended == OutSettled(1, 5, (Eviction(ANN, 3, 1, True),))
    assert receipt(kit, op.msg_id) == [(0, schema.DEAD, store_links.FORGOTTEN)]
    for table in ("hubs", "directory", "outbox", "streams"):
        assert kit.db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    assert texts(kit.read(BOB)) == ["hi"], "what came from there stays"
    assert know(kit) == HubKnown(hub_no=2, next_seq=1)


@pytest.mark.parametrize(
    "what",
    [
        lambda kit: out(kit),
        lambda kit: frame(kit, 1, BOB),
        lambda kit: frame(kit, 1, code="blocked"),
        lambda kit: link_ops.SaveDirectory(hub_no=THERE, peers=(CAT,), at=kit.now),
        lambda kit: link_ops.ResumeOut(
            hub_no=THERE, stream="s", known="", received=0, rejected=(), at=kit.now
        ),
    ],
)
def test_nothing_is_stored_for_a_hub_that_was_forgotten_meanwhile(kit: Kit, what: Any) -> None:
    kit.do(link_ops.ForgetHub(hub_no=THERE, at=kit.now))
    with pytest.raises(RelayError, match="hub_not_found"):
        kit.do(what(kit))
    for table in ("hubs", "directory", "outbox", "streams"):
        assert kit.db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    assert settle(kit, 5) == OutSettled(0, 0)
    assert load(kit) == ([], False)


def expire(kit: Kit, before: int, most: int = 100) -> tuple[int, int] | None:
    ended = store_links.expire_out(kit.store._committer.ledger, THERE, before, kit.now, most)
    return None if ended is None else (ended.count, ended.upto)


def test_what_is_too_old_ends_from_the_beginning_only_so_that_numbers_have_no_gap(kit: Kit) -> None:
    for days in (10, 9, 1, 8):  # the clock was set back before the last
        put(kit, CAT, at=T0 - days * DAY)
    assert expire(kit, T0 - 20 * DAY) is None
    assert expire(kit, T0 - 5 * DAY, most=1) == (1, 1)
    assert expire(kit, T0 - 5 * DAY) == (1, 2)
    assert expire(kit, T0 - 5 * DAY) is None
    assert load(kit) == ([3, 4], False)
    assert know(kit).next_seq == 3
    assert expire(kit, T0) == (2, 4)
    assert row(kit).waiting == 0


# --- upgrades --------------------------------------------------------------------------------------------


def made_by_version_2(tmp_path: Path) -> Path:
    """A data directory as the program with version 2 of the tables left it."""
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    dump = Path(__file__).with_name("golden").joinpath("hub-v2.sql").read_text()
    with closing(sqlite3.connect(data_dir / store_file.NAME, isolation_level=None)) as db:
        db.executescript(
            f"""
            PRAGMA page_size = {store_file.PAGE_BYTES};
            PRAGMA auto_vacuum = INCREMENTAL;
            PRAGMA journal_mode = WAL;
            BEGIN;
            {dump}
            PRAGMA application_id = {schema.APPLICATION_ID};
            PRAGMA user_version = 2;
            COMMIT;
            """
        )
    return data_dir


def shape(kit: Kit) -> dict[str, Any]:
    """Every table, its columns in order, its indexes."""
    found = kit.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {
        name: [
            kit.db.execute(f"PRAGMA table_xinfo({name})").fetchall(),
            sorted(each[1:] for each in kit.db.execute(f"PRAGMA index_list({name})").fetchall()),
        ]
        for (name,) in found
        if name != "sqlite_sequence"
    }


def test_a_database_of_version_2_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path) -> None:
    kit = Kit(made_by_version_2(tmp_path), mailbox_messages=4)
    assert kit.store.problems == ()
    assert kit.db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    assert shape(kit) == shape(Kit(tmp_path / "new"))
    snapshot = kit.store.snapshot()
    assert [(peer.no, peer.name) for peer in snapshot.peers] == [(1, "Ann"), (2, "bob"), (3, "kitty")]
    assert [(group.name, group.members) for group in snapshot.groups] == [("team", (1, 2))]
    assert [address for address, _ in snapshot.blocks] == ["Eve@far", "kitty"]
    assert snapshot.hubs == ()
    assert texts(kit.read(BOB)) == ["kept"]
    page = kit.read(ANN)
    assert texts(page) == ["to both"]
    assert [(notice.about, notice.reason) for notice in page.notices] == [("dan", "forgotten")]
    assert [line.text for line in kit.history(1, BOB).lines] == ["made", "a line"]


def test_a_database_of_version_2_knows_other_hubs_from_then_on(tmp_path: Path) -> None:
    kit = Kit(made_by_version_2(tmp_path))
    assert know(kit).hub_no == THERE
    assert put(kit, CAT, sender="Ann", msg_id=make_id(600)) == [1]
    assert receive(kit, 1, BOB, text="from there", msg_id=make_id(700)).code == ""
    kit.reopen(crash=True)
    assert (row(kit).waiting, know(kit).next_seq, know(kit).received) == (1, 1, 1)
    assert texts(kit.read(BOB)) == ["kept", "from there"]


def test_an_upgrade_from_version_2_that_fails_half_way_leaves_it_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = made_by_version_2(tmp_path)
    monkeypatch.setitem(schema.UPGRADES, 2, schema.UPGRADES[2] + "; INSERT INTO hubs VALUES (1)")
    with pytest.raises(StoreUnusable):
        Kit(data_dir)
    monkeypatch.undo()
    with closing(sqlite3.connect(data_dir / store_file.NAME)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    assert texts(Kit(data_dir).read(BOB)) == ["kept"]


def test_texts_of_other_hubs_count_for_what_waits_for_the_disk():
    text = "x" * 1_000
    mail = ops.AppendMail(
        msg_id="m", kind="message", sender_no=0, sender="a@b", recipients=(1,), text=text, at=0
    )
    received = link_ops.Receive(
        hub_no=1,
        stream="s",
        first=1,
        number=1,
        msg_id="m",
        sender=link_ops.FarPeer(name="a"),
        mail=mail,
        at=0,
    )
    bare = link_ops.Receive(
        hub_no=1,
        stream="s",
        first=1,
        number=1,
        msg_id="m",
        sender=link_ops.FarPeer(name="a"),
        mail=None,
        at=0,
    )
    assert store._bytes_of((received,)) - store._bytes_of((bare,)) == 1_000
    assert store._bytes_of((mail,)) - store._bytes_of(()) == 1_000


# --- what is kept of them -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pressed", "days", "again"), [(False, 44, True), (False, 46, False), (True, 1, False)]
)
def test_ids_of_mail_that_came_from_there_are_known_for_long_where_there_is_room(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, pressed: bool, days: int, again: bool
) -> None:
    for number in range(1, 6):  # the first leaves the mailbox
        receive(kit, number, BOB, msg_id=make_id(700 + number))
    monkeypatch.setattr(store_upkeep, "_is_pressed", lambda db: pressed)
    kit.now += days * DAY
    kit.do(ops.Housekeep(now=kit.now))
    known = kit.db.execute("SELECT count(*) FROM messages WHERE msg_id = ?", (make_id(701),)).fetchone()
    assert known == (int(again),)
