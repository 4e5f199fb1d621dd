"""Pages, leases, confirmation, backlog and damaged texts in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecorelay.core import ops
from ecorelay.core.ops import ENTRY_ROOM
from ecorelay.errors import RelayError
from tests.daemon.store_kit import Kit, texts


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path / "data", mailbox_messages=50)
    kit.add("ann", "bob", "cat")
    return kit


def fill(kit: Kit, count: int, to: int = 2) -> list[int]:
    return [kit.send(1, to, text=f"{number}").mid for number in range(count)]


def backlog(kit: Kit, after: int = 0, max_count: int = 100, max_bytes: int = 10_000) -> ops.Backlog:
    result: ops.Backlog = kit.do(ops.LoadBacklog(no=2, after=after, max_count=max_count, max_bytes=max_bytes))
    return result


def rot(kit: Kit, mid: int, data: bytes) -> None:
    """Change what lies on the disk, as a bad sector would."""
    kit.db.execute("UPDATE bodies SET text = ? WHERE mid = ?", (data, mid))


# --- leases ----------------------------------------------------------------------------------------------


@pytest.mark.guarantee("leased-until-confirmed")
def test_two_readers_never_get_the_same_mail(kit: Kit) -> None:
    fill(kit, 5)
    one = kit.read(2, lease=1, limit=2)
    two = kit.read(2, lease=2, limit=2)
    assert (texts(one), texts(two)) == (["0", "1"], ["2", "3"])
    assert (one.unread, one.remaining, two.unread, two.remaining) == (5, 3, 5, 1)
    assert kit.confirm(2, one, lease=1) == ops.Confirmed(unread=3, notices=0)
    third = kit.read(2, lease=3)
    assert (texts(third), third.unread, third.remaining) == (["4"], 3, 0)


@pytest.mark.guarantee("cancel-never-confirms")
@pytest.mark.guarantee("redelivered-is-marked")
def test_a_lease_that_ends_without_confirmation_gives_its_mail_back_marked(kit: Kit) -> None:
    fill(kit, 2)
    kit.read(2, lease=1, limit=1)
    kit.do(ops.EndLease(lease=1))
    kit.do(ops.EndLease(lease=1))
    kit.do(ops.EndLease(lease=77))
    page = kit.read(2, lease=2)
    assert [(mail.text, mail.handed) for mail in page.mails] == [("0", True), ("1", False)]


@pytest.mark.parametrize("crash", [False, True])
def test_no_lease_outlives_the_hub_but_what_was_handed_out_stays_marked(kit: Kit, crash: bool) -> None:
    fill(kit, 3)
    kit.read(2, lease=1, limit=2)
    kit.reopen(crash=crash)
    # Leases are numbered from 1 again: the same number, another lease.
    page = kit.read(2, lease=1, limit=1)
    assert [(mail.text, mail.handed) for mail in page.mails] == [("0", True)]
    rest = kit.read(2, lease=2)
    assert [(mail.text, mail.handed) for mail in rest.mails] == [("1", True), ("2", False)]


def test_a_confirmation_works_by_ids_after_its_lease_ended_and_after_a_restart(kit: Kit) -> None:
    fill(kit, 3)
    page = kit.read(2, lease=1, limit=1)
    kit.do(ops.EndLease(lease=1))
    assert kit.confirm(2, page).unread == 2
    page = kit.read(2, lease=2, limit=1)
    kit.reopen(crash=True)
    assert kit.confirm(2, page, lease=2).unread == 1
    assert texts(kit.read(2, lease=3)) == ["2"]


def test_what_a_lease_held_and_was_not_confirmed_is_free_again(kit: Kit) -> None:
    fill(kit, 3)
    page = kit.read(2, lease=1)
    only = ops.ConfirmMail(no=2, lease=1, msg_ids=(page.mails[1].msg_id,), notices=(), at=kit.now)
    assert kit.do(only).unread == 2
    assert texts(kit.read(2, lease=2)) == ["0", "2"]


def test_ids_of_others_mail_and_of_none_are_passed_over(kit: Kit) -> None:
    fill(kit, 1, to=2)
    page = kit.read(2)
    assert kit.confirm(3, page).unread == 0
    assert kit.mailbox(2).unread == 1
    stray = ops.ConfirmMail(no=2, lease=0, msg_ids=("z" * 26,), notices=(), at=kit.now)
    assert kit.do(stray).unread == 1


def test_mail_that_left_the_ring_while_it_was_read_has_a_receipt_that_says_seen(kit: Kit) -> None:
    [mid] = fill(kit, 1)
    page = kit.read(2)
    fill(kit, 50)
    kit.now += 1
    assert kit.confirm(2, page).unread == 50
    seen = kit.db.execute("SELECT seen_at FROM receipts WHERE mid = ? AND box = 2", (mid,)).fetchone()
    assert seen == (kit.now,)


# --- pages -----------------------------------------------------------------------------------------------


@pytest.mark.guarantee("page-fits")
def test_a_page_fits_its_budget_and_the_rest_comes_next(kit: Kit) -> None:
    for letter in "abcdef":
        kit.send(1, 2, text=letter * 100)
    budget = 3 * (ENTRY_ROOM + 102)
    page = kit.read(2, lease=1, budget=budget)
    assert (len(page.mails), page.remaining) == (3, 3)
    assert len(kit.read(2, lease=2, budget=budget - 1).mails) == 2
    assert texts(kit.read(2, lease=3, budget=1)) == ["f" * 100]


def test_the_budget_counts_characters_of_json(kit: Kit) -> None:
    kit.send(1, 2, text="ü€\N{PILE OF POO}")  # 3 characters, 9 bytes
    kit.send(1, 2, text='"\n\x01')  # 3 characters, 10 in JSON
    budget = (ENTRY_ROOM + 5) + (ENTRY_ROOM + 12)
    assert len(kit.read(2, lease=1, budget=budget - 1).mails) == 1
    kit.do(ops.EndLease(lease=1))
    assert len(kit.read(2, lease=2, budget=budget).mails) == 2


def test_a_message_over_the_budget_comes_alone(kit: Kit) -> None:
    kit.send(1, 2, text="x" * 100_000)
    kit.send(1, 2, text="short")
    page = kit.read(2)
    assert [len(mail.text or "") for mail in page.mails] == [100_000]
    assert (page.unread, page.remaining) == (2, 1)


def test_pushed_mail_comes_as_a_stub_without_lease_and_hidden_mail_not_at_all(kit: Kit) -> None:
    mids = fill(kit, 4)
    page = kit.read(2, lease=1, pushed=frozenset(mids[:1]), hidden=frozenset(mids[1:2]))
    assert texts(page) == [None, "2", "3"]
    assert (page.unread, page.remaining) == (4, 0)
    kit.do(ops.EndLease(lease=1))
    again = kit.read(2, lease=2)
    assert [(mail.text, mail.handed) for mail in again.mails] == [
        ("0", False),
        ("1", False),
        ("2", True),
        ("3", True),
    ]


def test_since_id_reads_on_from_that_message_seen_or_pushed_or_not(kit: Kit) -> None:
    mids = fill(kit, 5)
    first = kit.read(2, lease=1, limit=3)
    kit.confirm(2, first, lease=1)
    start = first.mails[1].msg_id
    page = kit.read(2, lease=2, since_id=start, pushed=frozenset(mids[3:4]), hidden=frozenset(mids[4:]))
    assert [(mail.text, mail.seen, mail.handed) for mail in page.mails] == [
        ("1", True, False),
        ("2", True, False),
        ("3", False, False),
        ("4", False, False),
    ]
    assert (page.unread, page.remaining) == (2, 0)
    assert kit.confirm(2, page, lease=2).unread == 0
    assert texts(kit.read(2, lease=3, since_id=start, limit=1)) == ["1"]


def test_since_id_of_nobodys_or_anothers_mail_is_refused(kit: Kit) -> None:
    other = kit.mail(1, 3)
    kit.do(other)
    for msg_id in (other.msg_id, "z" * 26):
        with pytest.raises(RelayError, match="bad_args"):
            kit.read(2, since_id=msg_id)


def test_an_empty_mailbox_gives_an_empty_page_and_a_removed_one_is_an_error(kit: Kit) -> None:
    assert kit.read(2) == ops.PageRead(mails=(), notices=(), unread=0, remaining=0)
    with pytest.raises(RelayError, match="peer_gone"):
        kit.read(99)


def test_a_page_has_the_oldest_notices_and_later_ones_follow(tmp_path: Path) -> None:
    kit = Kit(tmp_path / "more", mailbox_messages=1)
    nos = kit.add(*[f"p{number}" for number in range(61)])
    for _ in range(2):
        kit.send(nos[0], *nos[1:])
    page = kit.read(nos[0])
    assert (len(page.notices), kit.mailbox(nos[0]).notices) == (50, 60)
    assert kit.confirm(nos[0], page).notices == 10
    assert [notice.about for notice in kit.read(nos[0]).notices] == [f"p{n}" for n in range(51, 61)]


# --- backlog ---------------------------------------------------------------------------------------------


def test_the_backlog_is_unread_mail_beyond_the_cursor_that_nobody_reads(kit: Kit) -> None:
    mids = fill(kit, 5)
    kit.read(2, lease=1, limit=1, hidden=frozenset(mids[:1]))  # the second is being read
    loaded = backlog(kit)
    assert (texts(loaded), loaded.more, loaded.unread) == (["0", "2", "3", "4"], False, 5)
    loaded = backlog(kit, after=mids[2], max_count=1)
    assert (texts(loaded), loaded.more) == (["3"], True)
    assert backlog(kit, after=mids[4]) == ops.Backlog((), False, 5)


def test_the_backlog_stays_within_bytes_but_has_at_least_one(kit: Kit) -> None:
    for _ in range(3):
        kit.send(1, 2, text="x" * 100)
    assert len(backlog(kit, max_bytes=200).mails) == 2
    assert len(backlog(kit, max_bytes=199).mails) == 1
    loaded = backlog(kit, max_bytes=1)
    assert (len(loaded.mails), loaded.more) == (1, True)


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.guarantee("damaged-mail-is-told")
@pytest.mark.parametrize("found", [b"Hello two", b"\xffello two", b""])
def test_a_text_that_rotted_is_never_shown_and_its_sender_is_told(kit: Kit, found: bytes) -> None:
    mids = [kit.send(1, 2, text=text).mid for text in ("hello one", "hello two", "hello three")]
    rot(kit, mids[1], found)
    page = kit.read(2)
    assert (texts(page), page.damaged) == (["hello one", "hello three"], 1)
    assert (page.unread, page.remaining) == (2, 0)
    [notice] = kit.read(1).notices
    assert (notice.about, notice.reason, notice.count) == ("bob", "damaged", 1)
    ended = kit.db.execute("SELECT outcome, reason FROM receipts WHERE mid = ?", (mids[1],)).fetchone()
    assert ended == (2, "damaged")
    assert kit.db.execute("SELECT entries, bytes, unread FROM mailboxes WHERE box = 2").fetchone() == (
        2,
        20,
        2,
    )
    assert kit.read(2, lease=2).damaged == 0


def test_a_text_that_is_missing_is_damaged_too(kit: Kit) -> None:
    mid = kit.send(1, 2, 3, text="for two").mid
    kit.db.execute("DELETE FROM bodies WHERE mid = ?", (mid,))
    assert kit.read(2).damaged == 1
    assert backlog(kit).mails == ()
    assert kit.read(3).damaged == 1
    assert [notice.count for notice in kit.read(1).notices] == [1, 1]


@pytest.mark.parametrize("column", ["sender", "reply_to", "kind", "msg_id"])
def test_what_stands_around_a_text_is_checked_with_it(kit: Kit, column: str) -> None:
    mid = kit.send(1, 2, reply_to="r" * 26).mid
    value: Any = {"kind": 2, "sender": "somebody else"}.get(column, "x" * 26)
    kit.db.execute(f"UPDATE messages SET {column} = ? WHERE mid = ?", (value, mid))
    assert backlog(kit) == ops.Backlog((), False, 0, 1)


def test_a_kind_that_does_not_exist_is_damage(kit: Kit) -> None:
    mid = kit.send(1, 2).mid
    kit.db.execute("UPDATE messages SET kind = 200 WHERE mid = ?", (mid,))
    assert kit.read(2).damaged == 1


def test_a_name_that_is_no_text_any_more_is_damage(kit: Kit) -> None:
    mid = kit.send(1, 2).mid
    kit.db.execute("UPDATE messages SET sender = CAST(x'ff41' AS TEXT) WHERE mid = ?", (mid,))
    assert kit.read(2).damaged == 1


@pytest.mark.guarantee("long-message-whole")
def test_the_longest_text_is_kept_and_given_whole(kit: Kit) -> None:
    text = '\N{PILE OF POO}ab\\"\n' * (512 * 1024 // 9)
    kit.send(1, 2, text=text)
    kit.reopen()
    assert texts(kit.read(2)) == [text]


# --- opening a mailbox -----------------------------------------------------------------------------------


@pytest.mark.guarantee("mailbox-outlives-session")
def test_a_mailbox_says_what_waits_in_it_after_a_restart(kit: Kit) -> None:
    fill(kit, 3)
    group = kit.group(1, 2)
    kit.say(group, 1)
    kit.reopen(crash=True)
    assert kit.mailbox(2) == ops.MailboxState(3, 0, ((group, 2),))
    assert kit.mailbox(1) == ops.MailboxState(0, 0, ())
    with pytest.raises(RelayError, match="peer_gone"):
        kit.mailbox(99)


def test_a_message_that_is_missing_altogether_does_not_stay_unread_for_ever(kit: Kit) -> None:
    mids = fill(kit, 4)
    for mid in (mids[1], mids[3]):
        kit.db.execute("DELETE FROM messages WHERE mid = ?", (mid,))
    page = kit.read(2)
    assert (texts(page), page.damaged, page.unread) == (["0", "2"], 2, 2)
    assert kit.mailbox(2).unread == 2
