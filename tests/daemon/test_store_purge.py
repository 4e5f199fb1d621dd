"""A purge: what it removes, what it leaves, and that no file holds any of it afterwards."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ecorelay.core import ops
from ecorelay.core.events import StoreFailed
from ecorelay.daemon import store_purge, store_upkeep
from ecorelay.errors import RelayError
from tests.daemon.store_kit import DAY, HOUR, T0, Kit, purge, texts


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path / "data")
    kit.add("ann", "bob", "cat")
    return kit


def purged(kit: Kit, before: int, *, unread: bool = False, spared: tuple[int, ...] = ()) -> ops.MailPurged:
    return purge(kit, ops.PurgeMail(before=before, unread=unread, now=kit.now, spared=spared))


def count(kit: Kit, table: str) -> int:
    [number] = kit.db.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(number)


def on_disk(kit: Kit) -> bytes:
    return b"".join(
        path.read_bytes() for path in sorted(kit.data_dir.iterdir()) if path.name.startswith("hub.db")
    )


# --- mail ------------------------------------------------------------------------------------------------


def test_seen_mail_that_is_old_goes_and_nothing_else(kit: Kit) -> None:
    kit.send(1, 2, text="old and seen")
    kit.confirm(2, kit.read(2))
    kit.send(1, 2, text="old and unread")
    kit.now += DAY
    kit.send(1, 3, text="new and seen")
    kit.confirm(3, kit.read(3))
    assert purged(kit, kit.now - HOUR) == ops.MailPurged(messages=1)
    assert purged(kit, kit.now - HOUR) == ops.MailPurged()
    assert kit.db.execute("SELECT CAST(text AS TEXT) FROM bodies").fetchall() == [
        ("old and unread",),
        ("new and seen",),
    ]
    assert kit.do(ops.MeasureMail(largest=5)).largest == ((2, 1, 1, 14), (3, 1, 0, 12))


@pytest.mark.guarantee("eviction-notice")
def test_unread_mail_goes_when_asked_for_with_a_receipt_and_a_notice(kit: Kit) -> None:
    mail = kit.mail(1, 2, 3, text="to two")
    kit.do(mail)
    kit.confirm(3, kit.read(3))
    kit.send(2, 2, text="system", kind="system")
    kit.now += DAY
    result = purged(kit, kit.now, unread=True)
    assert (result.messages, result.unread) == (3, ((2, 0, (mail.msg_id, mail.msg_id[:-1] + "2")),))
    assert sorted(result.evictions, key=str) == [
        ops.Eviction(0, 2, 1, first=False),
        ops.Eviction(1, 2, 1, first=True),
    ]
    [notice] = kit.read(1).notices
    assert (notice.about, notice.reason, notice.count) == ("bob", "purged", 1)
    [receipt] = kit.do(ops.TraceMessage(msg_id=mail.msg_id)).receipts
    assert (receipt.recipient, receipt.ended, receipt.reason, receipt.ended_at) == (
        "bob",
        "expired",
        "purged",
        kit.now,
    )
    assert count(kit, "bodies") == 0


def test_a_text_goes_with_the_last_mailbox_that_holds_it(kit: Kit) -> None:
    kit.send(1, 2, 3, text="to two")
    kit.confirm(2, kit.read(2))
    kit.now += DAY
    assert purged(kit, kit.now).messages == 1
    assert texts(kit.read(3)) == ["to two"]


def test_what_a_page_holds_is_left_alone_until_it_is_given_back(kit: Kit) -> None:
    kit.send(1, 2, text="held")
    kit.send(1, 2, text="free")
    page = kit.read(2, lease=7, limit=1)
    kit.now += DAY
    assert purged(kit, kit.now, unread=True).messages == 1
    assert kit.mailbox(2).unread == 1
    assert kit.confirm(2, page, lease=7).unread == 0
    assert purged(kit, kit.now).messages == 1


def test_a_message_sent_again_within_the_hour_is_known_though_its_text_is_gone(kit: Kit) -> None:
    mail = kit.mail(1, 2, text="once")
    kit.do(mail)
    kit.confirm(2, kit.read(2))
    kit.do(ops.SaveOp(no=1, op_id="op", request=5, reply=b"{}", at=kit.now))
    kit.now += HOUR - 1
    assert purged(kit, kit.now).messages == 1
    assert kit.do(mail).duplicate
    assert kit.do(ops.FindOp(no=1, op_id="op")) is not None
    with pytest.raises(RelayError, match="nothing is known"):
        kit.do(ops.TraceMessage(msg_id=mail.msg_id))
    kit.now += 2
    purged(kit, kit.now)
    assert (count(kit, "messages"), count(kit, "pushes")) == (0, 0)
    assert kit.do(ops.FindOp(no=1, op_id="op")) is None


def test_receipts_go_when_they_are_old_and_numbers_are_not_given_again(kit: Kit) -> None:
    kit.send(1, 2)
    first = kit.send(1, 2).mid
    kit.do(ops.MarkPushed(rows=((2, first, kit.now),), carrier="c"))
    kit.now += HOUR
    purged(kit, kit.now, unread=True)
    assert count(kit, "receipts") == 2
    kit.now += 2 * HOUR
    purged(kit, kit.now)
    assert [count(kit, table) for table in ("receipts", "messages", "pushes", "ring")] == [0, 0, 0, 0]
    kit.reopen()
    assert kit.send(1, 2).mid > first


def test_a_full_database_can_be_purged(tmp_path: Path) -> None:
    kit = Kit(tmp_path / "data", data_bytes=16 * 1024 * 1024, mailbox_bytes=2**40, mailbox_messages=10**6)
    kit.add("ann", "bob")
    with pytest.raises(RelayError, match="data_bytes"):
        while True:
            kit.send(1, 2, text="x" * 100_000)
    kit.now += DAY
    assert purged(kit, kit.now, unread=True).messages > 100
    assert kit.send(1, 2).unread == (1,)


# --- groups ----------------------------------------------------------------------------------------------


def test_old_lines_go_and_members_have_the_rest_unread(kit: Kit) -> None:
    group = kit.group(1, 2, 3)
    kit.say(group, 1, "old")
    kit.history(group, 3)
    kit.do(ops.MoveCursor(group_no=group, no=3, upto=1))
    kit.now += DAY
    kit.say(group, 2, "new")
    result = purged(kit, kit.now)
    assert result == ops.MailPurged(lines=2, groups=((group, 1, 1), (group, 2, 0), (group, 3, 1)))
    read = kit.history(group, 3)
    assert [(line.seq, line.text) for line in read.lines] == [(3, "new")]
    assert (read.missed, read.remaining) == (1, 0)
    assert purged(kit, kit.now) == ops.MailPurged()
    assert count(kit, "bodies") == 1


def test_a_group_may_lose_all_its_lines_and_goes_on(kit: Kit) -> None:
    group = kit.group(1, 2)
    kit.say(group, 1, "old")
    kit.now += DAY
    assert purged(kit, kit.now).lines == 2
    assert kit.mailbox(2).groups == ()
    assert kit.history(group, 2).lines == ()
    assert kit.say(group, 1, "new").seq == 3
    assert [line.text for line in kit.history(group, 2).lines] == ["new"]
    assert kit.db.execute("SELECT first, last, bytes FROM groups").fetchall() == [(3, 3, 3)]


def test_a_group_that_is_being_read_is_left_alone(kit: Kit) -> None:
    groups = [kit.group(1, 2, name=f"g{number}") for number in range(3)]
    kit.now += DAY
    assert purged(kit, kit.now, spared=(groups[1],)).lines == 2
    assert [len(kit.history(group, 2).lines) for group in groups] == [0, 1, 0]


def test_an_old_line_after_a_younger_one_loses_its_text_and_keeps_its_place(kit: Kit) -> None:
    group = kit.group(1, 2)
    kit.now += 2 * DAY
    kit.say(group, 1, "young")
    kit.now -= 2 * DAY  # a clock set back
    kit.say(group, 1, "old again")
    kit.say(group, 1, "old once more")
    kit.now += 2 * DAY
    kit.say(group, 1, "young again")
    assert purged(kit, kit.now - DAY).lines == 3
    read = kit.history(group, 2)
    assert [(line.seq, line.text) for line in read.lines] == [(2, "young"), (5, "young again")]
    assert purged(kit, kit.now - DAY).lines == 0
    assert b"old again" not in on_disk(kit)


# --- step by step ------------------------------------------------------------------------------------------


def test_it_goes_in_steps_of_bounded_work_with_the_same_end(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_purge, "ROWS_PER_STEP", 4)
    monkeypatch.setattr(store_purge, "BYTES_PER_STEP", 500)
    monkeypatch.setattr(store_purge, "TEXTS_PER_STEP", 3)
    monkeypatch.setattr(store_purge, "FREE_PAGES_PER_STEP", 5)
    monkeypatch.setattr(store_upkeep, "ROWS_PER_CALL", 3)
    group = kit.group(1, 2, 3)
    for number in range(30):
        kit.send(1, 2, 3, text=f"{number} " + "x" * (number * 40))
        kit.say(group, 1, f"{number} " + "y" * (number * 40))
        kit.do(ops.SaveOp(no=1, op_id=f"op {number}", request=5, reply=b"{}", at=kit.now))
        if number % 3 == 0:
            kit.confirm(2, kit.read(2, limit=2))
    kit.now += DAY
    for number in range(10):
        kit.send(1, 2, text=f"new {number}")
    op = ops.PurgeMail(before=kit.now, unread=True, now=kit.now)
    steps = [kit.do(op)]
    while steps[-1].place:
        assert len(steps) < 300
        kit.send(1, 3, text="meanwhile")
        again = ops.PurgeMail(before=kit.now, unread=True, now=kit.now, place=steps[-1].place)
        steps.append(kit.do(again))
        assert steps[-1].messages <= 4
        assert steps[-1].lines <= 8
    assert sum(step.messages for step in steps) == 60
    assert sum(step.lines for step in steps) == 31
    assert count(kit, "ops") == 0
    assert count(kit, "group_log") == 0
    left = texts(kit.read(2, limit=100, budget=10**6))
    assert left == [f"new {number}" for number in range(10)]
    assert kit.mailbox(3).unread == len(steps) - 1
    kit.reopen(crash=True)
    assert kit.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- the files ---------------------------------------------------------------------------------------------


@pytest.mark.guarantee("purged-is-gone")
def test_no_file_holds_what_is_purged_nor_what_was_evicted_before(tmp_path: Path) -> None:
    kit = Kit(tmp_path / "data", mailbox_messages=3)
    kit.add("ann", "bob")
    for number in range(6):
        kit.send(1, 2, text=f"canary {number} " + "x" * 5000 + f" feather {number}")
        kit.store._committer.checkpoint()
    found = on_disk(kit)
    assert b"canary 0" in found or b"feather 0" in found  # evicted; else this would prove nothing
    assert b"canary 5" in found
    kit.confirm(2, kit.read(2, limit=2))
    kit.now += DAY
    assert purged(kit, kit.now).messages == 2
    found = on_disk(kit)
    assert sorted(set(re.findall(rb"(?:canary|feather) \d", found))) == [b"canary 5", b"feather 5"]
    assert (kit.data_dir / "hub.db-wal").stat().st_size == 0
    purged(kit, kit.now, unread=True)
    assert not re.search(rb"canary|feather", on_disk(kit))
    assert (kit.data_dir / "hub.db").stat().st_size < 100_000


@pytest.mark.parametrize("seed", [0, 7, 21])  # seeds with which copies had stayed between the rows
def test_no_copy_stays_where_rows_were_moved_between_pages(tmp_path: Path, seed: int) -> None:
    rnd = random.Random(seed)
    kit = Kit(tmp_path / "data", mailbox_messages=40)
    nos = kit.add(*[f"p{number}" for number in range(6)])
    group = kit.group(*nos)
    made = 0

    def canary() -> str:
        nonlocal made
        made += 1
        return f"<canary{made:06d}>" + "q" * rnd.choice((0, 0, 5, 50, 200, 900, 3000, 9000))

    for step in range(rnd.randint(100, 500)):
        kit.now += 1000
        what = rnd.random()
        if what < 0.75:
            for _ in range(rnd.randint(1, 6)):
                kit.send(rnd.choice(nos), *rnd.sample(nos, rnd.choice((1, 1, 3))), text=canary())
        elif what < 0.85:
            kit.say(group, rnd.choice(nos), canary())
        else:
            no = rnd.choice(nos)
            kit.confirm(no, kit.read(no, lease=step + 1), lease=step + 1)
        if rnd.random() < 0.05:
            kit.store._committer.checkpoint()
    purged(kit, kit.now - rnd.randint(0, 400) * 1000, unread=rnd.random() < 0.5)
    bodies = [text for (text,) in kit.db.execute("SELECT text FROM bodies")]
    there = {text[:13] for text in bodies if text.startswith(b"<canary")}
    assert set(re.findall(rb"<canary\d{6}", on_disk(kit))) == there


def test_a_log_that_cannot_be_emptied_is_no_purge(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy:
        def __init__(self, db: Any) -> None:
            self._db = db
            self.says: Any = (1, 0, 0)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._db, name)

        def execute(self, sql: str, *parameters: Any) -> Any:
            if "wal_checkpoint(TRUNCATE)" not in sql:
                return self._db.execute(sql, *parameters)
            if self.says is None:
                return self._db.execute("SELECT no_such_column")
            return self._db.execute("SELECT ?, ?, ?", self.says)

    db = kit.db
    busy: Any = Busy(db)
    last = ops.PurgeMail(before=kit.now, unread=True, now=kit.now, place=(len(store_purge._STEPS) - 1,))
    kit.store._committer.ledger.db = busy
    for says in ((1, 0, 0), None):
        busy.says = says
        refused, mail, other = kit.run((last,), (kit.mail(1, 2),), (replace(last, place=()),))
        assert isinstance(refused, StoreFailed)
        assert not isinstance(other, StoreFailed), "another purge, whose mail is gone"
        assert (refused.code, "purge again" in refused.message) == ("mailbox_error", True)
        assert not isinstance(mail, StoreFailed)
    kit.store._committer.ledger.db = db
    assert kit.do(last) == ops.MailPurged()


def test_files_of_long_texts_go_when_they_are_old(kit: Kit, tmp_path: Path) -> None:
    folder = kit.data_dir / "texts"
    purged(kit, T0)  # it need not be there
    (folder / "a folder").mkdir(parents=True)
    (tmp_path / "mine.txt").write_text("mine")
    for name, age in (("old.txt", 20), ("old.txt.1.new", 20), ("new.txt", -20)):
        (folder / name).write_text("canary")
        os.utime(folder / name, (T0 / 1000 - age, T0 / 1000 - age))
    (folder / "link").symlink_to(tmp_path / "mine.txt")
    os.utime(tmp_path / "mine.txt", (5, 5))
    purged(kit, T0)
    assert sorted(path.name for path in folder.iterdir()) == ["a folder", "link", "new.txt"]
    assert (tmp_path / "mine.txt").exists()


def test_who_has_no_mailbox_loses_nothing(kit: Kit) -> None:
    kit.send(1, 2)
    kit.db.execute("INSERT INTO ring (box, state, mid, size, sender, shared) VALUES (9, 0, 77, 5, 1, 0)")
    kit.now += DAY
    assert purged(kit, kit.now, unread=True).messages == 1
