"""What the store knows of one message, and of all mailboxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecorelay.core import ops
from ecorelay.errors import RelayError
from tests.daemon.store_kit import DAY, Kit


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path / "data", mailbox_messages=3)
    kit.add("ann", "bob", "cat")
    return kit


def trace(kit: Kit, msg_id: str) -> ops.MessageTraced:
    result: ops.MessageTraced = kit.do(ops.TraceMessage(msg_id=msg_id))
    return result


def test_every_recipient_has_its_receipt_in_the_order_they_were_named(kit: Kit) -> None:
    mail = kit.mail(1, 3, 2, text="füf", kind="ask", broadcast_id="b", reply_to="r")
    mid = kit.do(mail).mid
    stored_at = kit.now
    kit.now += 5
    kit.do(ops.MarkPushed(rows=((2, mid, kit.now),), carrier="hook"))
    kit.now += 5
    kit.confirm(3, kit.read(3))
    assert trace(kit, mail.msg_id) == ops.MessageTraced(
        msg_id=mail.msg_id,
        kind="ask",
        sender="peer 1",
        at=stored_at,
        size=4,
        reply_to="r",
        broadcast_id="b",
        receipts=(
            ops.MailReceipt(recipient="cat", stored_at=stored_at, seen_at=kit.now),
            ops.MailReceipt(recipient="bob", stored_at=stored_at, pushed_at=kit.now - 5, carrier="hook"),
        ),
    )


def test_a_receipt_outlives_the_mailbox_and_the_name_and_follows_a_rename(kit: Kit) -> None:
    mail = kit.mail(1, 2)
    kit.do(mail)
    kit.do(ops.RenamePeer(no=2, name="bea", forward_until=kit.now))
    [receipt] = trace(kit, mail.msg_id).receipts
    assert receipt.recipient == "bea"
    for _ in range(3):
        kit.now += 1
        kit.send(1, 2)
    [receipt] = trace(kit, mail.msg_id).receipts
    assert (receipt.ended, receipt.ended_at, receipt.reason) == ("evicted", kit.now, "")
    kit.do(ops.ForgetPeer(no=2, at=kit.now))
    [receipt] = trace(kit, mail.msg_id).receipts
    assert receipt.recipient == "(removed)"


def test_damaged_mail_ended_as_dead(kit: Kit) -> None:
    mail = kit.mail(1, 2, text="hi")
    kit.do(mail)
    kit.db.execute("UPDATE bodies SET text = x'41'")
    kit.read(2)
    [receipt] = trace(kit, mail.msg_id).receipts
    assert (receipt.ended, receipt.reason) == ("dead", "damaged")


def test_a_recipient_on_another_hub_is_named_with_it(kit: Kit) -> None:
    mail = kit.mail(1, 2)
    mid = kit.do(mail).mid
    kit.db.execute("UPDATE peers SET hub = 'there' WHERE no = 2")
    kit.db.execute("DELETE FROM ring")
    kit.db.execute("INSERT INTO receipts (mid, box, forwarded_at, ended_at) VALUES (?, 2, 7, 7)", (mid,))
    [receipt] = trace(kit, mail.msg_id).receipts
    assert (receipt.recipient, receipt.forwarded_at, receipt.ended) == ("bob@there", 7, "")


def test_a_line_of_a_group_has_no_receipts(kit: Kit) -> None:
    group = kit.group(1, 2, name="Team")
    line = kit.line(1, "hi")
    kit.do(ops.AppendGroup(group_no=group, line=line))
    found = trace(kit, line.msg_id)
    assert (found.group, found.kind, found.size, found.receipts) == ("Team", "group", 2, ())
    kit.do(ops.DropGroup(group_no=group))
    assert trace(kit, line.msg_id).group == "(deleted)"


def test_what_passed_long_ago_or_never_is_unknown(kit: Kit) -> None:
    mail = kit.mail(1, 2, 3)
    kit.do(mail)
    kit.confirm(2, kit.read(2))
    with pytest.raises(RelayError, match=r"nothing is known of a message nope: receipts are kept 7 days"):
        trace(kit, "nope")
    for _ in range(3):
        kit.send(1, 2)
    kit.now += 8 * DAY
    kit.do(ops.Housekeep(now=kit.now))
    # The other recipient has it still.
    assert [receipt.recipient for receipt in trace(kit, mail.msg_id).receipts] == ["cat"]


def test_a_trace_is_answered_on_a_disk_that_takes_no_writes(kit: Kit) -> None:
    mail = kit.mail(1, 2)
    kit.do(mail)
    kit.db.execute("PRAGMA query_only = ON")
    assert trace(kit, mail.msg_id).receipts
    assert kit.do(ops.MeasureMail(largest=1)).messages == 1
    kit.db.execute("PRAGMA query_only = OFF")


def test_all_mailboxes_are_measured_what_waits_in_the_same_commit_included(kit: Kit) -> None:
    assert kit.do(ops.MeasureMail(largest=5)) == ops.MailMeasured(0, 0, 0, 0, ())
    *_, measured = kit.run(
        (kit.mail(1, 2, text="x" * 10),),
        (kit.mail(1, 2, 3, text="x" * 5),),
        (ops.MeasureMail(largest=1),),
    )
    assert getattr(measured, "results", None) == (ops.MailMeasured(2, 3, 3, 20, ((2, 2, 2, 15),)),)
    kit.confirm(2, kit.read(2))
    assert kit.do(ops.MeasureMail(largest=5)) == ops.MailMeasured(2, 3, 1, 20, ((2, 2, 0, 15), (3, 1, 1, 5)))
