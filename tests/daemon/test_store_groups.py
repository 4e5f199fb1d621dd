"""Groups in the store: members, cursors, history."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecorelay.core import ops
from ecorelay.core.ops import ENTRY_ROOM
from ecorelay.errors import RelayError
from tests.daemon.store_kit import DAY, Kit


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path / "data", mailbox_messages=5, mailbox_bytes=1000)
    kit.add("ann", "bob", "cat")
    return kit


def lines(page: ops.HistoryRead) -> list[str]:
    return [line.text for line in page.lines]


def move(kit: Kit, group: int, no: int, upto: int) -> int:
    result: ops.CursorMoved = kit.do(ops.MoveCursor(group_no=group, no=no, upto=upto))
    return result.unread


def unread(kit: Kit, no: int) -> tuple[tuple[int, int], ...]:
    return kit.mailbox(no).groups


def test_a_group_is_made_with_its_members_in_order_and_its_first_line(kit: Kit) -> None:
    made = kit.do(
        ops.CreateGroup(
            group_id="id", name="Team", admin_no=2, members=(3, 1), line=kit.line(2, "made", system=True)
        )
    )
    assert made == ops.GroupMade(group_no=1, seq=1)
    kit.reopen()
    assert kit.store.snapshot().groups == (
        ops.GroupRow(no=1, group_id="id", name="Team", admin_no=2, members=(2, 3, 1)),
    )
    page = kit.history(1, 3)
    assert page.lines == (
        ops.StoredLine(
            seq=1, msg_id=page.lines[0].msg_id, sender="peer 2", text="made", at=kit.now, system=True
        ),
    )
    assert (unread(kit, 2), unread(kit, 3)) == ((), ((1, 1),))


def test_names_of_groups_are_taken_without_regard_to_case(kit: Kit) -> None:
    kit.group(1, name="Team")
    with pytest.raises(RelayError, match="name_taken"):
        kit.group(2, name="tEAM")
    with pytest.raises(RelayError, match="peer_gone"):
        kit.group(1, 99, name="other")
    assert kit.group(2, name="other") > 1


@pytest.mark.guarantee("group-cursor-on-confirmation")
def test_the_cursor_moves_by_confirmation_only(kit: Kit) -> None:
    group = kit.group(1, 2)
    for text in ("a", "b", "c"):
        kit.say(group, 1, text)
    assert lines(kit.history(group, 2)) == lines(kit.history(group, 2)) == ["made", "a", "b", "c"]
    page = kit.history(group, 2, limit=2)
    assert (lines(page), page.upto, page.remaining) == (["made", "a"], 2, 2)
    assert lines(kit.history(group, 2, after=page.upto)) == ["b", "c"]
    assert move(kit, group, 2, page.upto) == 2
    assert move(kit, group, 2, 1) == 2, "forward only"
    assert lines(kit.history(group, 2)) == ["b", "c"]
    assert move(kit, group, 2, 99) == 0
    kit.say(group, 1, "d")
    assert lines(kit.history(group, 2)) == ["d"], "never beyond the newest line"


def test_own_lines_are_shown_and_never_unread(kit: Kit) -> None:
    group = kit.group(1, 2)
    assert kit.say(group, 2, "mine") == ops.LineAdded(2, own_read=False)
    kit.say(group, 1, "yours")
    assert unread(kit, 2) == ((group, 2),)
    page = kit.history(group, 2, limit=1)
    assert (lines(page), page.remaining) == (["made"], 1)
    assert lines(kit.history(group, 2)) == ["made", "mine", "yours"]
    assert move(kit, group, 2, 3) == 0
    assert kit.say(group, 2, "again") == ops.LineAdded(4, own_read=True)
    assert (kit.history(group, 2).lines, unread(kit, 2)) == ((), ())


def test_history_stays_within_its_budget_and_gives_at_least_one_line(kit: Kit) -> None:
    group = kit.group(1, 2)
    for _ in range(3):
        kit.say(group, 1, "x" * 100)
    first = ENTRY_ROOM + len('"made"')
    assert len(kit.history(group, 2, budget=first + ENTRY_ROOM + 102).lines) == 2
    page = kit.history(group, 2, budget=1)
    assert (lines(page), page.remaining) == (["made"], 3)


def test_over_the_ring_the_oldest_lines_go_and_readers_learn_what_they_missed(kit: Kit) -> None:
    group = kit.group(1, 2, 3)
    move(kit, group, 3, 1)
    for number in range(7):
        kit.say(group, 1, f"{number}")
    page = kit.history(group, 2)
    assert (lines(page), page.missed, page.upto) == (["2", "3", "4", "5", "6"], 3, 8)
    assert kit.history(group, 3).missed == 2
    assert kit.history(group, 2, after=4).missed == 0
    assert (unread(kit, 2), unread(kit, 1)) == (((group, 5),), ())
    assert kit.db.execute("SELECT count(*) FROM bodies").fetchone() == (5,)
    assert kit.mailbox(1).notices == 0, "groups send no notices of eviction"


def test_the_ring_counts_bytes_too_and_never_drops_the_newest(kit: Kit) -> None:
    group = kit.group(1, 2)
    for letter in "abc":
        kit.say(group, 1, letter * 300)
    assert lines(kit.history(group, 2)) == ["made", "a" * 300, "b" * 300, "c" * 300]
    kit.say(group, 1, "d" * 300)
    assert lines(kit.history(group, 2)) == ["b" * 300, "c" * 300, "d" * 300]
    kit.say(group, 1, "e" * 2000)
    page = kit.history(group, 2)
    assert (lines(page), page.missed) == (["e" * 2000], 5)
    assert kit.db.execute("SELECT first, last, bytes FROM groups").fetchone() == (6, 6, 2000)


def test_a_line_again_is_stored_once_and_its_id_serves_nothing_else(kit: Kit) -> None:
    group = kit.group(1, 2)
    other = kit.group(1, 2, name="other")
    said = kit.say(group, 1, "hello", msg_id="m" * 26)
    assert kit.say(group, 1, "hello", msg_id="m" * 26) == ops.LineAdded(said.seq, duplicate=True)
    for where, who, text in ((group, 1, "bye"), (group, 2, "hello"), (other, 1, "hello")):
        with pytest.raises(RelayError, match="bad_msg"):
            kit.say(where, who, text, msg_id="m" * 26)
    with pytest.raises(RelayError, match="bad_msg"):
        kit.send(1, 2, text="hello", msg_id="m" * 26)
    for _ in range(6):
        kit.say(group, 1)
    assert kit.say(group, 1, "hello", msg_id="m" * 26) == ops.LineAdded(said.seq, duplicate=True)


def test_a_new_member_sees_from_its_invitation_on_and_a_removed_one_nothing(kit: Kit) -> None:
    group = kit.group(1)
    kit.say(group, 1, "before")
    joined = kit.do(ops.AddMember(group_no=group, no=2, line=kit.line(1, "ann invited bob", system=True)))
    assert joined == ops.LineAdded(3, own_read=True)
    again = ops.AddMember(group_no=group, no=2, line=kit.line(1, "ann invited bob", system=True))
    assert kit.do(again) == ops.LineAdded(0)
    assert lines(kit.history(group, 2)) == ["ann invited bob"]
    assert kit.store.snapshot().groups[0].members == (1, 2)
    out = ops.RemoveMember(group_no=group, no=2, line=kit.line(1, "out", system=True))
    assert kit.do(out) == ops.LineAdded(4, own_read=True)
    for op in (
        ops.RemoveMember(group_no=group, no=2, line=kit.line(1, "out", system=True)),
        ops.ReadHistory(group_no=group, no=2, after=0, limit=5, budget=5000),
        ops.MoveCursor(group_no=group, no=2, upto=1),
        ops.AppendGroup(group_no=group, line=kit.line(2)),
    ):
        with pytest.raises(RelayError, match="not_member"):
            kit.do(op)
    assert unread(kit, 2) == ()
    assert lines(kit.history(group, 1)) == []


def test_a_removed_peer_cannot_be_invited(kit: Kit) -> None:
    group = kit.group(1)
    with pytest.raises(RelayError, match="peer_gone"):
        kit.do(ops.AddMember(group_no=group, no=99, line=kit.line(1, "in", system=True)))
    assert kit.history(group, 1).upto == 1


def test_a_dropped_group_takes_its_history_along(kit: Kit) -> None:
    group = kit.group(1, 2)
    kit.say(group, 1)
    assert kit.do(ops.DropGroup(group_no=group)) is None
    assert kit.db.execute("SELECT count(*) FROM bodies").fetchone() == (0,)
    assert kit.store.snapshot().groups == ()
    for op in (
        ops.DropGroup(group_no=group),
        ops.AppendGroup(group_no=group, line=kit.line(1)),
        ops.ReadHistory(group_no=group, no=1, after=0, limit=5, budget=5000),
        ops.AddMember(group_no=group, no=3, line=kit.line(1)),
    ):
        with pytest.raises(RelayError, match="group_not_found"):
            kit.do(op)
    assert kit.group(1, name="team") == group + 1, "numbers are not given twice"


def test_a_line_that_rotted_counts_as_missed_and_its_author_is_told_once(kit: Kit) -> None:
    group = kit.group(1, 2, 3)
    for text in ("a", "b", "c"):
        kit.say(group, 1, text)
    kit.db.execute("UPDATE bodies SET text = x'62ff' WHERE text = x'62'")
    page = kit.history(group, 2)
    assert (lines(page), page.upto, page.missed) == (["made", "a", "c"], 4, 1)
    assert kit.history(group, 3).missed == 1
    assert [(notice.reason, notice.count) for notice in kit.read(1).notices] == [("damaged", 1)]
    assert move(kit, group, 2, page.upto) == 0


def test_a_peer_in_a_group_is_not_dropped(kit: Kit) -> None:
    group = kit.group(1, 2)
    assert kit.do(ops.DropPeers(nos=(1, 2, 3))) == ops.Dropped((3,))
    kit.do(ops.DropGroup(group_no=group))
    assert kit.do(ops.DropPeers(nos=(1, 2, 3))) == ops.Dropped((1, 2))


def test_a_line_whose_text_went_is_passed_over_even_when_it_is_the_last(kit: Kit) -> None:
    group = kit.group(1, 2)
    mid = kit.db.execute("SELECT max(mid) FROM group_log").fetchone()[0]
    kit.db.execute("DELETE FROM bodies")
    kit.now += 30 * DAY
    kit.do(ops.Housekeep(now=kit.now))
    assert kit.db.execute("SELECT 1 FROM messages WHERE mid = ?", (mid,)).fetchone() == (1,)
    kit.db.execute("DELETE FROM messages")
    page = kit.history(group, 2)
    assert (page.lines, page.upto, page.missed, page.remaining) == ((), 1, 1, 0)
    assert move(kit, group, 2, page.upto) == 0
