"""What a person does about a peer, in the store: forgetting it, blocking it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecorelay.core import ops
from ecorelay.errors import RelayError
from tests.daemon.store_kit import DAY, T0, Kit, texts


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path / "data", mailbox_messages=5)


def forget(kit: Kit, no: int) -> ops.Forgotten:
    result: ops.Forgotten = kit.do(ops.ForgetPeer(no=no, at=kit.now))
    return result


def block(kit: Kit, no: int = 0, address: str = "", *, blocked: bool = True) -> None:
    kit.do(ops.SetBlock(no=no, address=address, blocked=blocked, at=kit.now))


def rename(kit: Kit, no: int, name: str) -> None:
    kit.do(ops.RenamePeer(no=no, name=name, forward_until=T0 + 30 * DAY))


def rows(kit: Kit, sql: str, *parameters: Any) -> Any:
    return kit.db.execute(sql, parameters).fetchall()


# --- forgetting --------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_forgotten_peer_but_receipts(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    rename(kit, bob, "bobby")
    kit.do(ops.RememberPeer(no=bob, client="claude", identity="s", cwd="/src", at=kit.now))
    kit.do(ops.SaveOp(no=bob, op_id="o" * 26, request=1, reply=b"{}", at=kit.now))
    block(kit, bob)
    kit.send(ann, bob)
    kit.send(bob, ann)
    forget(kit, bob)
    for table, column in (
        ("peers", "no"),
        ("names", "no"),
        ("identities", "no"),
        ("places", "no"),
        ("mailboxes", "box"),
        ("ring", "box"),
        ("blocks", "no"),
        ("ops", "no"),
    ):
        assert rows(kit, f"SELECT * FROM {table} WHERE {column} = ?", bob) == [], table
    assert rows(kit, "SELECT mid FROM bodies") == [(2,)]
    assert rows(kit, "SELECT msg_id FROM messages ORDER BY mid") == [
        ("01k00000000000000000000001",),
        ("01k00000000000000000000002",),
    ]
    kit.reopen(crash=True)
    snapshot = kit.store.snapshot()
    assert [peer.name for peer in snapshot.peers] == ["ann"]
    assert (snapshot.forwards, snapshot.identities, snapshot.places, snapshot.blocks) == ((), (), (), ())
    assert texts(kit.read(ann)) == ["hi"], "what it sent stays where it is"
    assert kit.add("bob", "bobby") == [3, 4], "its names are free, its number is not given again"


def test_unread_mail_of_a_forgotten_peer_ends_as_dead_and_seen_mail_as_seen(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    kit.send(ann, bob, text="seen")
    kit.confirm(bob, kit.read(bob))
    kit.send(ann, bob, text="answered")
    target = kit.mail(ann, bob, text="?")
    kit.do(target)
    kit.do(
        ops.AppendReply(
            msg_id=kit.new_id(), target_id=target.msg_id, sender_no=bob, sender="bob", text="!", at=kit.now
        )
    )
    kit.do(ops.MarkPushed(rows=((bob, 2, kit.now),), carrier="channel"))
    kit.now += 7
    assert forget(kit, bob) == ops.Forgotten((ops.Eviction(ann, bob, 1, True),))
    assert rows(
        kit,
        "SELECT mid, outcome, reason, ended_at, seen_at > 0, replied_at > 0 FROM receipts"
        " WHERE box = ? ORDER BY mid",
        bob,
    ) == [
        (1, 0, None, kit.now, 1, 0),
        (2, 2, "forgotten", kit.now, 0, 0),
        (3, 0, None, kit.now, 1, 1),
    ]
    assert rows(kit, "SELECT carrier FROM pushes WHERE mid = 2 AND box = ?", bob) == [("channel",)]


def test_each_sender_is_told_once_by_name_how_much_of_its_mail_was_unread(kit: Kit) -> None:
    ann, bob, cat, dan = kit.add("ann", "bob", "cat", "dan")
    kit.send(ann, bob)
    kit.send(ann, bob, cat)
    kit.send(cat, bob)
    kit.send(bob, bob)
    kit.send(dan, bob, kind="system")
    assert forget(kit, bob) == ops.Forgotten(
        (
            ops.Eviction(ann, bob, 2, True),
            ops.Eviction(cat, bob, 1, True),
            ops.Eviction(bob, bob, 1, False),
            ops.Eviction(0, bob, 1, False),
        )
    )
    for no, told in ((ann, [("bob", "forgotten", 2)]), (cat, [("bob", "forgotten", 1)]), (dan, [])):
        assert kit.mailbox(no).notices == len(told)
        assert [(each.about, each.reason, each.count) for each in kit.read(no).notices] == told
    assert rows(kit, "SELECT count(*) FROM notices") == [(2,)]
    assert texts(kit.read(cat, lease=2)) == [], "under another lease"
    kit.reopen()
    assert texts(kit.read(cat)) == ["hi"], "its copy of a text that the forgotten had too"


def test_what_was_evicted_before_names_the_forgotten_as_well(kit: Kit) -> None:
    ann, bob, cat = kit.add("ann", "bob", "cat")
    for _ in range(6):
        kit.send(ann, bob)
        kit.send(bob, cat)
    forget(kit, bob)
    told = sorted((each.about, each.reason, each.count) for each in kit.read(ann).notices)
    assert told == [("bob", "evicted", 1), ("bob", "forgotten", 5)]
    assert rows(kit, "SELECT count(*) FROM notices WHERE sender_no = ?", bob) == [(0,)]
    forget(kit, cat)  # whose mail was from nobody any more
    assert kit.mailbox(ann).notices == 2


def test_a_second_notice_about_the_same_forgotten_peer_cannot_come(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    kit.send(ann, bob)
    forget(kit, bob)
    with pytest.raises(RelayError, match="peer_gone"):
        kit.send(ann, bob)
    with pytest.raises(RelayError, match="peer_gone"):
        forget(kit, bob)


def test_a_peer_in_a_group_is_not_forgotten_unless_it_leaves_in_the_same_unit(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    group, own = kit.group(ann, bob), kit.group(bob, ann, name="own")
    kit.send(ann, bob)
    with pytest.raises(RelayError, match="bad_args"):
        forget(kit, bob)
    assert texts(kit.read(bob)) == ["hi"]
    leave = ops.RemoveMember(group_no=group, no=bob, line=kit.line(bob, "left", system=True))
    added, _, lost = kit.unit(leave, ops.DropGroup(group_no=own), ops.ForgetPeer(no=bob, at=kit.now))
    assert (added.seq, lost) == (2, ops.Forgotten((ops.Eviction(ann, bob, 1, True),)))
    assert [group.members for group in kit.store.snapshot().groups] == [(ann,)]


def test_a_refused_unit_forgets_nothing(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    kit.send(ann, bob)
    kit.read(bob)
    with pytest.raises(RelayError, match="name_taken"):
        kit.unit(ops.ForgetPeer(no=bob, at=kit.now), kit.peer("ann"))
    assert texts(kit.read(bob, lease=2)) == [], "it is leased as before"
    kit.do(ops.EndLease(lease=1))
    assert texts(kit.read(bob, lease=2)) == ["hi"]


def test_leases_of_a_forgotten_mailbox_are_over_and_may_be_ended_again(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    kit.send(ann, bob)
    kit.send(ann, bob)
    kit.read(bob, limit=1)
    kit.read(bob, lease=2)
    forget(kit, bob)
    kit.do(ops.EndLease(lease=1))
    assert kit.store._committer.ledger._leases == {}


def test_mail_and_its_recipients_end_come_in_the_order_they_were_asked_for(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    stored, gone, refused = kit.run(
        (kit.mail(ann, bob),), (ops.ForgetPeer(no=bob, at=kit.now),), (kit.mail(ann, bob),)
    )
    assert stored.results[0].unread == (1,)  # type: ignore[union-attr]
    assert gone.results[0].lost == (ops.Eviction(ann, bob, 1, True),)  # type: ignore[union-attr]
    assert refused.code == "peer_gone"  # type: ignore[union-attr]


def test_receipts_of_the_forgotten_go_when_their_time_is_over(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    kit.send(ann, bob)
    forget(kit, bob)
    kit.now += 6 * DAY
    kit.do(ops.Housekeep(now=kit.now))
    assert rows(kit, "SELECT count(*) FROM receipts") == [(1,)]
    kit.now += 2 * DAY
    kit.do(ops.Housekeep(now=kit.now))
    assert rows(kit, "SELECT (SELECT count(*) FROM receipts), (SELECT count(*) FROM messages)") == [(0, 0)]


# --- blocking ----------------------------------------------------------------------------------------


def test_blocks_are_kept_until_they_are_ended(kit: Kit) -> None:
    ann, bob = kit.add("Ann", "bob")
    block(kit, bob)
    block(kit, ann)
    block(kit, address="Eve@There")
    kit.now += 5
    block(kit, ann)
    block(kit, address="eve@THERE")
    kit.reopen(crash=True)
    assert kit.store.snapshot().blocks == (("Ann", ann), ("bob", bob), ("Eve@There", 0))
    assert rows(kit, "SELECT DISTINCT since FROM blocks") == [(T0,)], "since the first time"
    for _ in range(2):
        block(kit, bob, blocked=False)
        block(kit, address="EVE@there", blocked=False)
    assert kit.store.snapshot().blocks == (("Ann", ann),)


def test_a_block_stays_with_its_peer_and_not_with_the_name(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    block(kit, ann)
    rename(kit, ann, "Zoe")
    rename(kit, bob, "ann")
    assert kit.store.snapshot().blocks == (("Zoe", ann),)
    block(kit, bob)
    assert kit.store.snapshot().blocks == (("ann", bob), ("Zoe", ann))
    rename(kit, ann, "ZOE")
    block(kit, ann, blocked=False)
    assert kit.store.snapshot().blocks == (("ann", bob),)


def test_a_block_goes_with_its_peer(kit: Kit) -> None:
    ann, bob = kit.add("ann", "bob")
    block(kit, ann)
    block(kit, bob)
    forget(kit, ann)
    kit.do(ops.DropPeers(nos=(bob,)))
    assert kit.store.snapshot().blocks == ()
    with pytest.raises(RelayError, match="peer_gone"):
        block(kit, ann)
