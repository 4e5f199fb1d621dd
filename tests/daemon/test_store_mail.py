"""Mail in the store: appending, rings, notices, replies, receipts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ecorelay.core import ops
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.errors import RelayError
from tests.daemon.store_kit import Kit, texts


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path / "data", mailbox_messages=5, mailbox_bytes=1000)
    assert kit.add("ann", "bob", "cat", "dan") == [1, 2, 3, 4]
    return kit


def reply(kit: Kit, target: str, sender: int = 2, **more: Any) -> ops.Replied:
    msg_id = more.pop("msg_id", None) or kit.new_id()
    op = ops.AppendReply(
        msg_id=msg_id,
        target_id=target,
        sender_no=sender,
        sender=f"peer {sender}",
        text=more.pop("text", "answer"),
        at=kit.now,
    )
    result: ops.Replied = kit.do(op)
    return result


def receipt(kit: Kit, mid: int, no: int) -> Any:
    return kit.db.execute(
        "SELECT outcome, reason, seen_at, replied_at FROM receipts WHERE mid = ? AND box = ?", (mid, no)
    ).fetchone()


def count(kit: Kit, table: str) -> int:
    number: int = kit.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return number


# --- append --------------------------------------------------------------------------------------------


def test_what_is_sent_is_read_back_whole(kit: Kit) -> None:
    mail = kit.mail(
        1,
        2,
        text="grüß dich \x00 \N{PILE OF POO} \u2028",
        kind="ask",
        reply_to="r" * 26,
        broadcast_id="b" * 26,
        urgent=True,
    )
    appended = kit.do(mail)
    assert appended == ops.Appended(mid=appended.mid, unread=(1,))
    assert kit.read(2).mails == (
        ops.StoredMail(
            mid=appended.mid,
            msg_id=mail.msg_id,
            kind="ask",
            sender="peer 1",
            at=kit.now,
            text=mail.text,
            reply_to="r" * 26,
            broadcast_id="b" * 26,
            urgent=True,
        ),
    )


@pytest.mark.guarantee("fifo")
def test_mail_is_read_in_the_order_in_which_it_was_stored(kit: Kit) -> None:
    events = kit.run(*[(kit.mail(1 + number % 2, 3, text=f"{number}"),) for number in range(5)])
    mids = [event.results[0].mid for event in events if isinstance(event, Stored)]  # type: ignore[union-attr]
    assert mids == sorted(mids)
    assert [event.results[0].unread for event in events] == [(n,) for n in range(1, 6)]  # type: ignore[union-attr]
    assert texts(kit.read(3)) == ["0", "1", "2", "3", "4"]


@pytest.mark.guarantee("one-body-many-recipients")
def test_one_text_serves_all_recipients_until_the_last_ring_lets_go(kit: Kit) -> None:
    appended = kit.send(1, 2, 3, 4, text="for all")
    assert appended.unread == (1, 1, 1)
    assert (count(kit, "bodies"), count(kit, "ring")) == (1, 3)
    for no in (2, 3):
        for _ in range(5):
            kit.send(1, no)
    assert texts(kit.read(4)) == ["for all"]
    for _ in range(5):
        kit.send(1, 4)
    assert kit.db.execute("SELECT 1 FROM bodies WHERE mid = ?", (appended.mid,)).fetchone() is None


def test_mail_to_a_removed_peer_is_refused_and_its_neighbours_are_not(kit: Kit) -> None:
    events = kit.run((kit.mail(1, 2),), (kit.mail(1, 99),), (kit.mail(1, 2, 99),), (kit.mail(1, 3),))
    assert [event.code if isinstance(event, StoreFailed) else "" for event in events] == [
        "",
        "peer_gone",
        "peer_gone",
        "",
    ]
    assert count(kit, "messages") == count(kit, "ring") == 2


# --- the same id again -----------------------------------------------------------------------------------


@pytest.mark.guarantee("stored-once")
def test_the_same_mail_again_is_stored_once_and_told_whether_it_was_delivered(kit: Kit) -> None:
    mail = kit.mail(1, 2, text="once")
    first = kit.do(mail)
    assert kit.do(mail) == ops.Appended(first.mid, (1,), duplicate=True, delivered=False)
    kit.do(ops.MarkPushed(rows=((2, first.mid, kit.now),), carrier="channel"))
    assert kit.do(mail).delivered
    page = kit.read(2)
    assert texts(page) == ["once"]
    kit.confirm(2, page)
    assert kit.do(mail) == ops.Appended(first.mid, (0,), duplicate=True, delivered=True)


def test_the_same_mail_twice_in_one_commit_is_stored_once(kit: Kit) -> None:
    mail = kit.mail(1, 2)
    urgent = kit.mail(1, 2, msg_id=mail.msg_id, urgent=True)
    events = kit.run((mail,), (mail,), (urgent,))
    results: list[Any] = [event.results[0] for event in events if isinstance(event, Stored)]
    assert [result.duplicate for result in results] == [False, True, True]
    assert len({result.mid for result in results}) == 1
    assert kit.mailbox(2).unread == 1


def test_mail_stored_before_is_recognised_after_its_text_is_gone(kit: Kit) -> None:
    mail = kit.mail(1, 2, text="old")
    mid = kit.do(mail).mid
    for _ in range(5):
        kit.send(3, 2)
    assert count(kit, "bodies") == 5
    assert kit.do(mail) == ops.Appended(mid, (5,), duplicate=True)
    with pytest.raises(RelayError, match="bad_msg"):
        kit.do(kit.mail(1, 2, text="new", msg_id=mail.msg_id))


@pytest.mark.guarantee("same-id-other-content")
@pytest.mark.parametrize(
    "other", [{"sender": 3}, {"to": (3,)}, {"to": (2, 3)}, {"text": "b"}, {"text": "aa"}]
)
def test_an_id_used_for_something_else_is_refused_without_a_trace(kit: Kit, other: dict[str, Any]) -> None:
    kit.send(1, 2, text="a", msg_id="i" * 26)
    again = {"sender": 1, "to": (2,), "text": "a", **other}
    with pytest.raises(RelayError, match="bad_msg"):
        kit.send(again["sender"], *again["to"], text=again["text"], msg_id="i" * 26)
    assert [kit.mailbox(no).unread for no in (1, 2, 3)] == [0, 1, 0]
    assert count(kit, "messages") == 1


def test_mail_said_again_is_known_whoever_its_name_leads_to_by_then(kit: Kit) -> None:
    mail = kit.mail(1, 2)
    kit.do(mail)
    again = msgspec.structs.replace(mail, recipients=(3,), again=True)
    assert kit.do(again).duplicate
    with pytest.raises(RelayError, match="bad_msg"):
        kit.do(msgspec.structs.replace(again, text="another"))
    assert [kit.mailbox(no).unread for no in (1, 2, 3)] == [0, 1, 0]


def test_a_sender_renamed_meanwhile_still_repeats_the_same_mail(kit: Kit) -> None:
    mail = kit.mail(1, 2)
    kit.do(mail)
    renamed = ops.AppendMail(
        msg_id=mail.msg_id,
        kind="message",
        sender_no=1,
        sender="new name",
        recipients=(2,),
        text=mail.text,
        at=kit.now + 5,
    )
    assert kit.do(renamed).duplicate


def test_mail_is_found_by_who_sent_it_and_what_it_said(kit: Kit) -> None:
    mail = kit.mail(1, 2, text="hi")
    kit.do(mail)
    find = ops.FindMail(no=1, msg_id=mail.msg_id, text="hi")
    assert kit.do(find) == ops.FoundMail(delivered=False)
    assert kit.do(replace(find, no=2)) is None
    assert kit.do(replace(find, text="ho")) is None
    assert kit.do(replace(find, text="hi!")) is None
    assert kit.do(replace(find, msg_id=kit.mail(1, 2).msg_id)) is None
    kit.confirm(2, kit.read(2))
    assert kit.do(find) == ops.FoundMail(delivered=True)


# --- the ring --------------------------------------------------------------------------------------------


@pytest.mark.guarantee("eviction-notice")
def test_over_the_number_of_entries_the_oldest_unread_leaves_and_its_sender_is_told(kit: Kit) -> None:
    first = kit.send(1, 2, text="0")
    for number in range(1, 5):
        kit.send(1, 2, text=f"{number}")
    sixth = kit.send(3, 2, text="5")
    assert sixth.unread == (5,)
    assert sixth.evictions == (ops.Eviction(1, 2, 1, True, first.mid),)
    assert kit.send(3, 2, text="6").evictions == (ops.Eviction(1, 2, 1, False, first.mid + 1),)
    assert texts(kit.read(2)) == ["2", "3", "4", "5", "6"]
    assert receipt(kit, first.mid, 2) == (1, None, 0, 0)
    [notice] = kit.read(1).notices
    assert (notice.about, notice.reason, notice.count, notice.at) == ("bob", "evicted", 2, kit.now)
    assert count(kit, "bodies") == 5


def test_over_the_number_of_bytes_as_many_leave_as_it_takes(kit: Kit) -> None:
    sent = [kit.send(1, 2, text=letter * 250) for letter in "abcd"]
    result = kit.send(1, 2, text="e" * 600)
    assert result.unread == (2,)
    assert result.evictions == (ops.Eviction(1, 2, 3, True, sent[2].mid),)
    assert texts(kit.read(2)) == ["d" * 250, "e" * 600]


def test_a_text_as_large_as_the_ring_is_kept_alone_and_never_evicts_itself(kit: Kit) -> None:
    kit.send(1, 2, text="small")
    assert kit.send(1, 2, text="x" * 2000).unread == (1,)
    assert kit.send(1, 2, text="y" * 2000).unread == (1,)
    assert texts(kit.read(2)) == ["y" * 2000]


def test_what_was_seen_leaves_first_and_nobody_is_told(kit: Kit) -> None:
    for number in range(5):
        kit.send(1, 2, text=f"{number}")
    page = kit.read(2)
    third = ops.ConfirmMail(
        no=2, lease=1, msg_ids=tuple(mail.msg_id for mail in page.mails[2:4]), notices=(), at=kit.now
    )
    assert kit.do(third) == ops.Confirmed(unread=3, notices=0)
    assert kit.send(1, 2, text="5").evictions == ()
    assert kit.send(1, 2, text="6").evictions == ()
    assert kit.send(1, 2, text="7").evictions == (ops.Eviction(1, 2, 1, True, page.mails[0].mid),)
    assert texts(kit.read(2)) == ["1", "4", "5", "6", "7"]
    assert receipt(kit, page.mails[2].mid, 2) == (0, None, kit.now, 0)


def test_one_commit_may_push_out_more_than_a_ring_holds(kit: Kit) -> None:
    kit.send(3, 2, text="before")
    events = kit.run(*[(kit.mail(1, 2, text=f"{number}"),) for number in range(12)])
    results: list[Any] = [event.results[0] for event in events if isinstance(event, Stored)]
    assert [result.unread[0] for result in results] == [2, 3, 4, 5] + [5] * 8
    assert [sum(each.count for each in result.evictions) for result in results] == [0] * 4 + [1] * 8
    assert [each.first for result in results for each in result.evictions] == [True, True] + [False] * 6
    assert texts(kit.read(2)) == ["7", "8", "9", "10", "11"]
    assert count(kit, "bodies") == 5
    assert [notice.count for notice in kit.read(1).notices] == [7]
    assert [notice.count for notice in kit.read(3).notices] == [1]


def test_the_number_of_statements_depends_neither_on_messages_nor_on_mailboxes(kit: Kit) -> None:
    def statements(*units: Any) -> int:
        seen: list[str] = []
        kit.db.set_trace_callback(seen.append)
        kit.run(*units)
        kit.db.set_trace_callback(None)
        return len(seen)

    everybody = kit.add(*[f"p{number}" for number in range(60)])
    for _ in range(5):
        kit.run(*[(kit.mail(1, no),) for no in everybody])
    assert statements((kit.mail(1, everybody[0]),)) <= 14
    assert statements(*[(kit.mail(1, no),) for no in everybody]) <= 14
    assert statements(*[(kit.mail(1, no),) for no in everybody * 2]) <= 14
    assert statements((kit.mail(1, *everybody),)) <= 14
    assert statements((kit.mail(1, *everybody),), *[(kit.mail(2, no),) for no in everybody]) <= 17


@pytest.mark.guarantee("notices-cause-no-notices")
def test_lost_system_mail_tells_nobody(kit: Kit) -> None:
    kit.send(1, 2, text="you were removed", kind="system")
    first, *_ = [kit.send(2, 2) for _ in range(5)]
    last = kit.send(2, 2)
    assert last.evictions == (ops.Eviction(2, 2, 1, True, first.mid),)
    assert kit.mailbox(1).notices == 0
    # And what a sender is told takes no room in a mailbox.
    assert (kit.mailbox(2).notices, kit.mailbox(2).unread) == (1, 5)


def test_notices_are_merged_and_what_grew_since_it_was_shown_stays_with_the_difference(kit: Kit) -> None:
    sent = [kit.send(1, 2) for _ in range(7)]
    shown = kit.read(1)
    assert [notice.count for notice in shown.notices] == [2]
    kit.send(1, 2)
    assert kit.confirm(1, shown) == ops.Confirmed(unread=0, notices=1)
    assert kit.confirm(1, shown) == ops.Confirmed(unread=0, notices=1)  # sent again after a lost answer
    rest = kit.read(1)
    assert [notice.count for notice in rest.notices] == [1]
    assert kit.confirm(1, rest) == ops.Confirmed(unread=0, notices=0)
    assert kit.send(1, 2).evictions == (ops.Eviction(1, 2, 1, True, sent[3].mid),)
    assert kit.confirm(1, rest).notices == 1, "an old confirmation drops no new notice"


def test_nobody_can_drop_the_notices_of_another(kit: Kit) -> None:
    for _ in range(6):
        kit.send(1, 2)
    shown = kit.read(1)
    assert kit.confirm(3, shown).notices == 0
    assert kit.mailbox(1).notices == 1


# --- reply -----------------------------------------------------------------------------------------------


def test_a_reply_goes_to_the_asker_and_its_target_becomes_seen_and_replied(kit: Kit) -> None:
    asked = kit.send(1, 2, 3, kind="ask", broadcast_id="b" * 26, msg_id="q" * 26)
    kit.send(1, 2)
    done = reply(kit, "q" * 26)
    assert (done.recipient_no, done.broadcast_id, done.own_unread) == (1, "b" * 26, 1)
    assert (done.target_mid, done.appended.unread) == (asked.mid, (1,))
    [answer] = kit.read(1).mails
    assert (answer.kind, answer.reply_to, answer.broadcast_id) == ("reply", "q" * 26, "b" * 26)
    assert kit.mailbox(3).unread == 1, "the ask of the other recipient is still open"
    assert kit.db.execute(
        "SELECT state, replied_at FROM ring WHERE box = 2 AND mid = ?", (asked.mid,)
    ).fetchone() == (
        0,
        kit.now,
    )


def test_a_reply_again_is_stored_once(kit: Kit) -> None:
    kit.send(1, 2, msg_id="q" * 26)
    first = reply(kit, "q" * 26, msg_id="a" * 26)
    again = reply(kit, "q" * 26, msg_id="a" * 26)
    assert again.appended == ops.Appended(first.appended.mid, (1,), duplicate=True)
    with pytest.raises(RelayError, match="bad_msg"):
        reply(kit, "q" * 26, msg_id="a" * 26, text="something else")
    assert kit.mailbox(1).unread == 1


def test_a_reply_needs_a_message_that_was_sent_to_its_author(kit: Kit) -> None:
    kit.send(1, 2, msg_id="q" * 26)
    for target, sender in (("q" * 26, 3), ("q" * 26, 1), ("x" * 26, 2)):
        with pytest.raises(RelayError, match="unknown_ask"):
            reply(kit, target, sender=sender)


def test_what_left_the_ring_can_still_be_answered(kit: Kit) -> None:
    asked = kit.send(1, 2, msg_id="q" * 26)
    for _ in range(5):
        kit.send(3, 2)
    done = reply(kit, "q" * 26)
    assert (done.recipient_no, done.own_unread, done.target_mid) == (1, 5, asked.mid)
    assert receipt(kit, asked.mid, 2) == (1, None, 0, kit.now)


def test_a_line_of_ones_group_can_be_answered(kit: Kit) -> None:
    group = kit.group(1, 2)
    kit.say(group, 1, msg_id="g" * 26)
    done = reply(kit, "g" * 26)
    assert (done.recipient_no, done.target_mid) == (1, 0)
    with pytest.raises(RelayError, match="unknown_ask"):
        reply(kit, "g" * 26, sender=3)


def test_an_asker_that_was_removed_cannot_be_answered(kit: Kit) -> None:
    kit.send(4, 2, msg_id="q" * 26)
    assert kit.do(ops.DropPeers(nos=(4,))) == ops.Dropped((4,))
    with pytest.raises(RelayError, match="peer_gone"):
        reply(kit, "q" * 26)
    assert kit.mailbox(2).unread == 1


# --- pushed ----------------------------------------------------------------------------------------------


def test_pushed_is_a_receipt_and_nothing_more(kit: Kit) -> None:
    mids = [kit.send(1, 2, text=f"{number}").mid for number in range(6)]
    kit.now += 7
    rows = ((2, mids[2], 1), *[(2, mid, kit.now) for mid in mids])
    kit.do(ops.MarkPushed(rows=rows, carrier="channel"))
    kit.do(ops.MarkPushed(rows=(), carrier="channel"))
    page = kit.read(2)
    assert texts(page) == ["1", "2", "3", "4", "5"]
    assert {mail.pushed_at for mail in page.mails} == {kit.now}
    assert not any(mail.seen or mail.handed for mail in page.mails)
    assert page.unread == 5
