"""Peers, names, what leads back to them, op ids and upkeep in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecorelay.core import ops
from ecorelay.daemon import store_peers, store_upkeep
from ecorelay.errors import RelayError
from tests.daemon.store_kit import DAY, HOUR, T0, Kit


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path / "data", mailbox_messages=5)


def remember(kit: Kit, no: int, identity: str = "", cwd: str = "", client: str = "claude") -> None:
    kit.do(ops.RememberPeer(no=no, client=client, identity=identity, cwd=cwd, at=kit.now))


def rename(kit: Kit, no: int, name: str, until: int = T0 + 30 * DAY) -> None:
    kit.do(ops.RenamePeer(no=no, name=name, forward_until=until))


def housekeep(kit: Kit) -> ops.HousekeepingDone:
    result: ops.HousekeepingDone = kit.do(ops.Housekeep(now=kit.now))
    return result


def count(kit: Kit, table: str) -> int:
    number: int = kit.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return number


# --- peers and names -------------------------------------------------------------------------------------


@pytest.mark.guarantee("identity-kept")
def test_all_that_is_known_of_peers_is_there_after_a_restart(kit: Kit) -> None:
    ann, bob = kit.add("Ann", "bob")
    kit.do(ops.NotePeer(no=ann, last_seen=kit.now + 5, client="claude", cwd="/src", git_branch="main"))
    kit.do(ops.NotePeer(no=ann, last_seen=kit.now + 9))
    remember(kit, ann, "session-1", "/src")
    remember(kit, bob, "session-2", "/src")
    remember(kit, bob)
    kit.reopen(crash=True)
    snapshot = kit.store.snapshot()
    assert snapshot.peers[0] == ops.PeerRow(
        no=ann,
        peer_id="id 1",
        name="Ann",
        auto=True,
        client="claude",
        cwd="/src",
        git_branch="main",
        last_seen=kit.now + 9,
    )
    assert sorted(snapshot.identities) == [("claude", "session-1", ann), ("claude", "session-2", bob)]
    assert snapshot.places == (("claude", "/src", ann), ("claude", "/src", bob))


def test_an_identity_leads_to_its_latest_peer(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    remember(kit, ann, "s")
    remember(kit, bob, "s")
    assert kit.store.snapshot().identities == (("claude", "s", bob),)


def test_of_the_identities_of_a_peer_the_latest_are_kept(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_peers, "IDENTITIES_PER_PEER", 3)
    ann, bob = kit.add("ann", "bob")
    for number in range(5):
        kit.now += 1
        remember(kit, ann, f"s{number}")
    remember(kit, bob, "t")
    kept = {identity for _, identity, _ in kit.store.snapshot().identities}
    assert kept == {"s2", "s3", "s4", "t"}


def test_a_current_name_is_taken_without_regard_to_case(kit: Kit) -> None:
    ann, bob = kit.add("Ann", "bob")
    with pytest.raises(RelayError, match="name_taken"):
        kit.add("aNN")
    with pytest.raises(RelayError, match="name_taken"):
        rename(kit, bob, "ANN")
    rename(kit, ann, "ANN")
    assert [peer.name for peer in kit.store.snapshot().peers] == ["ANN", "bob"]
    assert kit.store.snapshot().forwards == ()


@pytest.mark.guarantee("rename-keeps-mailbox")
def test_a_renamed_peer_keeps_its_number_and_mail_and_its_old_name_forwards(kit: Kit) -> None:
    ann, bob = kit.add("Ann", "bob")
    kit.send(bob, ann)
    rename(kit, ann, "Eve")
    kit.reopen()
    snapshot = kit.store.snapshot()
    assert [(peer.no, peer.name, peer.auto) for peer in snapshot.peers] == [
        (ann, "Eve", False),
        (bob, "bob", True),
    ]
    assert snapshot.forwards == (("Ann", ann, T0 + 30 * DAY),)
    assert kit.mailbox(ann).unread == 1
    rename(kit, ann, "ann")
    assert kit.store.snapshot().forwards == (("Eve", ann, T0 + 30 * DAY),)


def test_a_name_that_only_forwards_goes_to_whoever_claims_it(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    rename(kit, ann, "eve")
    [new] = kit.add("ann")
    assert kit.store.snapshot().forwards == ()
    rename(kit, bob, "bobby")
    rename(kit, new, "bob")
    assert [old for old, _, _ in kit.store.snapshot().forwards] == ["ann"]


def test_a_removed_peer_can_do_nothing(kit: Kit) -> None:
    for op in (
        ops.RenamePeer(no=9, name="x", forward_until=0),
        ops.NotePeer(no=9, last_seen=1),
        ops.RememberPeer(no=9, client="c", identity="i", cwd="/", at=1),
    ):
        with pytest.raises(RelayError, match="peer_gone"):
            kit.do(op)


def test_only_peers_without_mail_are_dropped_with_all_that_led_to_them(kit: Kit) -> None:
    ann, bob, cat = kit.add("ann", "bob", "cat")
    kit.send(ann, bob)
    for no in (ann, bob, cat):
        remember(kit, no, f"s{no}", "/src")
        kit.do(ops.SaveOp(no=no, op_id="o" * 26, request=1, reply=b"{}", at=kit.now))
    rename(kit, cat, "kitty")
    assert kit.do(ops.DropPeers(nos=(ann, bob, cat, 99))) == ops.Dropped((ann, cat))
    kit.reopen()
    snapshot = kit.store.snapshot()
    assert [peer.no for peer in snapshot.peers] == [bob]
    assert snapshot.forwards == ()
    assert [no for _, _, no in (*snapshot.identities, *snapshot.places)] == [bob, bob]
    assert kit.add("ann", "cat", "kitty") == [4, 5, 6], "numbers are not given twice"
    assert [mail.sender for mail in kit.read(bob).mails] == ["peer 1"]


def test_a_sender_that_was_removed_is_told_nothing(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    first = kit.send(ann, bob)
    kit.do(ops.DropPeers(nos=(ann,)))
    for _ in range(4):
        kit.send(bob, bob)
    assert kit.send(bob, bob).evictions == (ops.Eviction(ann, bob, 1, False, first.mid),)
    assert count(kit, "notices") == 0


def test_a_notice_about_a_removed_peer_is_still_told(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    for _ in range(6):
        kit.send(ann, bob)
    kit.db.execute("DELETE FROM peers WHERE no = ?", (bob,))
    assert [notice.about for notice in kit.read(ann).notices] == ["a removed peer"]


# --- op ids ----------------------------------------------------------------------------------------------


@pytest.mark.guarantee("stored-once")
def test_an_op_id_is_found_again_with_its_answer_and_cannot_be_used_twice(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    find = ops.FindOp(no=ann, op_id="o" * 26)
    assert kit.do(find) is None
    save = ops.SaveOp(no=ann, op_id="o" * 26, request=7, reply=b"{}\n", at=kit.now)
    kit.do(save)
    with pytest.raises(RelayError, match="bad_msg"):
        kit.do(save)
    kit.do(ops.SaveOp(no=bob, op_id="o" * 26, request=8, reply=b"[]", at=kit.now))
    kit.reopen(crash=True)
    assert kit.do(find) == ops.FoundOp(7, b"{}\n")


# --- upkeep ----------------------------------------------------------------------------------------------


def test_op_ids_go_after_a_day_and_forwarding_names_when_their_time_is_over(kit: Kit) -> None:
    ann, _ = kit.add("ann", "bob")
    kit.do(ops.SaveOp(no=ann, op_id="a" * 26, request=7, reply=b"{}", at=kit.now))
    rename(kit, ann, "eve", until=kit.now + 30 * DAY)
    kit.now += 24 * HOUR
    assert housekeep(kit) == ops.HousekeepingDone(rows=0, more=False)
    kit.now += 1
    assert housekeep(kit) == ops.HousekeepingDone(rows=1, more=False)
    assert len(kit.store.snapshot().forwards) == 1
    kit.now += 29 * DAY
    assert housekeep(kit).rows == 1
    assert kit.store.snapshot().forwards == ()


def test_receipts_go_a_week_after_mail_left_the_ring_and_mail_in_a_ring_stays(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    old = kit.mail(ann, bob)
    kit.do(old)
    kit.do(ops.MarkPushed(rows=((bob, 1, kit.now),), carrier="channel"))
    kit.now += 30 * DAY
    assert housekeep(kit).rows == 0
    for _ in range(5):
        kit.send(ann, bob)
    kit.now += 6 * DAY
    housekeep(kit)
    assert kit.do(old).duplicate, "it left the ring six days ago, however old it is"
    kit.now += 2 * DAY
    assert housekeep(kit).rows == 2
    assert (count(kit, "messages"), count(kit, "receipts"), count(kit, "pushes")) == (5, 0, 0)
    assert kit.mailbox(bob).unread == 5


def test_upkeep_does_a_bounded_part_and_says_when_there_is_more(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_upkeep, "ROWS_PER_CALL", 4)
    ann, bob = kit.add("ann", "bob")
    for _ in range(15):
        kit.send(ann, bob)
    for number in range(6):
        kit.do(ops.SaveOp(no=ann, op_id=f"{number:026}", request=7, reply=b"{}", at=kit.now))
    kit.now += 8 * DAY
    calls = 1
    while housekeep(kit).more:
        calls += 1
        assert calls < 20
    assert calls > 2
    assert (count(kit, "messages"), count(kit, "receipts"), count(kit, "ops")) == (5, 0, 0)


def test_mail_dated_by_a_wrong_clock_does_not_stop_the_sweep(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    kit.now += 3650 * DAY
    kit.send(ann, bob)
    kit.now = T0
    for _ in range(8):
        kit.send(ann, bob)
    kit.now += 8 * DAY
    housekeep(kit)
    assert kit.db.execute("SELECT count(*) FROM messages WHERE mid > 1").fetchone() == (5,)


@pytest.mark.parametrize("crash", [False, True])
def test_the_number_of_a_message_is_never_given_again(kit: Kit, crash: bool) -> None:
    ann, bob = kit.add("ann", "bob")
    group = kit.group(ann, bob)
    mids = [kit.send(ann, bob).mid for _ in range(3)]
    kit.say(group, ann)
    kit.do(ops.DropGroup(group_no=group))
    kit.confirm(bob, kit.read(bob))
    kit.db.execute("DELETE FROM ring")
    kit.db.execute("DELETE FROM bodies")
    kit.now += 8 * DAY
    housekeep(kit)
    assert count(kit, "messages") == 0
    kit.reopen(crash=crash)
    assert kit.send(ann, bob).mid > max(mids)


def test_a_nearly_full_database_gives_receipts_up_early(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    for _ in range(9):
        kit.send(ann, bob)
    kit.now += 2 * HOUR
    assert housekeep(kit).rows == 0
    pages = kit.db.execute("PRAGMA page_count").fetchone()[0]
    kit.db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    kit.now += DAY
    assert housekeep(kit).rows == 8
    assert count(kit, "messages") == 5


def test_free_pages_are_given_back_bit_by_bit(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    for _ in range(5):
        kit.send(ann, bob, text="x" * 500_000)
    for _ in range(5):
        kit.send(ann, bob)
    kit.reopen()
    before = kit.store.size_bytes()
    calls: list[Any] = []
    while not calls or calls[-1].more:
        calls.append(housekeep(kit))
        assert len(calls) < 20
    kit.reopen()
    assert kit.store.size_bytes() < before - 1_500_000
    assert len(calls) > 1
