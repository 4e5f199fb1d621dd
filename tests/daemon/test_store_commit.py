"""Group commit: order, refusals, and a disk that fails at any point."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ecorelay.core import ops
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.daemon import store_file, store_mail, store_ops, store_text
from ecorelay.errors import RelayError
from tests.daemon.store_kit import Kit, texts

IOERR, FULL, CORRUPT = 10, 13, 11


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path / "data")
    kit.add("ann", "bob", "cat")
    return kit


def failure(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk trouble")
    error.sqlite_errorcode = code
    return error


class Faulty:
    """A connection that fails where it is told to.

    Args:
        db: the real one.
        where: the statement's beginning.
        code: of the error.
        times: how often.
        late: do it first, then fail.
    """

    def __init__(self, db: Any, where: str, code: int, times: int = 1, *, late: bool = False) -> None:
        self.db = db
        self.where = where
        self.code = code
        self.times = times
        self.late = late

    def execute(self, sql: str, parameters: Any = ()) -> Any:
        if self.times and sql.startswith(self.where):
            self.times -= 1
            if self.late:
                self.db.execute(sql, parameters)
            raise failure(self.code)
        return self.db.execute(sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


def fail(kit: Kit, where: str, code: int, times: int = 1, *, late: bool = False) -> None:
    ledger = kit.store._committer.ledger
    ledger.db = Faulty(ledger.db, where, code, times, late=late)  # type: ignore[assignment]


def codes(events: list[Stored | StoreFailed]) -> list[str]:
    return [event.code if isinstance(event, StoreFailed) else "" for event in events]


def first(events: list[Stored | StoreFailed]) -> list[Any]:
    return [event.results[0] for event in events if isinstance(event, Stored)]


# --- order -----------------------------------------------------------------------------------------------


def test_units_of_one_commit_take_effect_in_their_order_reads_included(kit: Kit) -> None:
    page = ops.ReadPage(no=2, lease=1, limit=20, budget=20_000)
    events = kit.run(
        (kit.mail(1, 2, text="a"),),
        (kit.mail(1, 2, text="b"),),
        (page,),
        (kit.mail(1, 2, text="c"),),
        (ops.EndLease(lease=1),),
        (ops.OpenMailbox(no=2),),
        (kit.peer("dan"),),
        (ops.ReadPage(no=2, lease=2, limit=20, budget=20_000),),
    )
    results = first(events)
    assert texts(results[2]) == ["a", "b"]
    assert results[5].unread == 3
    assert texts(results[7]) == ["a", "b", "c"]
    assert kit.batches[-1] == 8


def test_a_unit_happens_wholly_or_not_at_all(kit: Kit) -> None:
    group = kit.group(1, 2)
    before = kit.mailbox(3)
    refused = (
        ops.RemoveMember(group_no=group, no=2, line=kit.line(1, "out", system=True)),
        kit.mail(1, 3, text="part of it"),
        ops.SaveOp(no=1, op_id="o" * 26, request=1, reply=b"{}", at=kit.now),
        ops.RemoveMember(group_no=group, no=2, line=kit.line(1, "out", system=True)),
    )
    events = kit.run((kit.mail(1, 2),), refused, (kit.mail(1, 2),))
    assert codes(events) == ["", "not_member", ""]
    assert kit.mailbox(3) == before
    assert kit.do(ops.FindOp(no=1, op_id="o" * 26)) is None
    assert kit.store.snapshot().groups[0].members == (1, 2)
    assert kit.mailbox(2).unread == 2
    kit.reopen()
    assert kit.mailbox(2).unread == 2


def test_a_refused_unit_gives_its_leases_back(kit: Kit) -> None:
    kit.send(1, 2, text="x")
    with pytest.raises(RelayError, match="name_taken"):
        kit.unit(ops.ReadPage(no=2, lease=1, limit=5, budget=5000), kit.peer("ann"))
    assert texts(kit.read(2, lease=2)) == ["x"]


def test_an_empty_unit_is_done(kit: Kit) -> None:
    assert kit.unit() == ()


# --- a disk that fails -----------------------------------------------------------------------------------


@pytest.mark.guarantee("one-bad-write-alone")
def test_a_write_that_fails_does_not_fail_its_neighbours(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store_text.checksum

    def cursed(msg_id: str, *rest: Any) -> int:
        if msg_id == "x" * 26:
            raise failure(IOERR)
        return real(msg_id, *rest)

    monkeypatch.setattr(store_mail, "checksum", cursed)
    units = [(kit.mail(1, 2, text=f"{number}"),) for number in range(4)]
    units.insert(2, (kit.mail(1, 2, msg_id="x" * 26),))
    events = kit.run(*units)
    assert codes(events) == ["", "", "mailbox_error", "", ""]
    assert [result.unread for result in first(events)] == [(1,), (2,), (3,), (4,)]
    assert texts(kit.read(2)) == ["0", "1", "2", "3"]


def test_a_bug_in_one_unit_is_told_to_it_alone(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    runs: dict[Any, Any] = store_ops.RUNS
    monkeypatch.setitem(runs, (ops.AppendMail, ops.SaveOp), broken)
    save = ops.SaveOp(no=1, op_id="o" * 26, request=1, reply=b"{}", at=kit.now)
    events = kit.run((kit.mail(1, 2),), (kit.mail(1, 2), save), (kit.mail(1, 2),))
    assert codes(events) == ["", "unexpected", ""]
    assert kit.mailbox(2).unread == 2
    assert kit.store.problems == ()


@pytest.mark.parametrize("code", [IOERR, FULL])
def test_a_commit_that_failed_once_is_tried_again(kit: Kit, code: int) -> None:
    fail(kit, "COMMIT", code)
    events = kit.run((kit.mail(1, 2),), (kit.mail(1, 2),), (kit.mail(1, 3),))
    assert [result.unread for result in first(events)] == [(1,), (2,), (1,)]
    assert (kit.mailbox(2).unread, kit.mailbox(3).unread) == (2, 1)
    assert kit.store.problems == ()


@pytest.mark.guarantee("durable-before-ack")
def test_a_commit_that_happened_though_it_reported_an_error_counts_as_done(kit: Kit) -> None:
    group = kit.group(1, 2)
    fail(kit, "COMMIT", IOERR, late=True)
    units: list[tuple[ops.Op, ...]] = [
        (kit.mail(1, 2, text="a"),),
        (kit.peer("dan"),),
        (ops.ReadPage(no=2, lease=1, limit=5, budget=5000),),
        (ops.AppendGroup(group_no=group, line=kit.line(1)),),
    ]
    results = first(kit.run(*units))
    assert results[0] == ops.Appended(results[0].mid, (1,))
    assert results[1] == ops.Numbered(4)
    assert texts(results[2]) == ["a"]
    assert results[3].seq == 2
    assert kit.mailbox(2) == ops.MailboxState(1, 0, ((group, 2),))
    assert texts(kit.read(2, lease=2)) == [], "the lease given in that commit stands"
    assert [peer.name for peer in kit.store.snapshot().peers] == ["ann", "bob", "cat", "dan"]


@pytest.mark.parametrize(
    ("op", "result"),
    [
        (ops.SaveOp(no=1, op_id="o" * 26, request=1, reply=b"{}", at=1), None),
        (ops.AddPeer(peer_id="d", name="dan", auto=False, at=1), ops.Numbered(4)),
        (ops.RenamePeer(no=1, name="eve", forward_until=5), None),
        (ops.DropPeers(nos=(1,)), ops.Dropped((1,))),
    ],
)
def test_what_cannot_be_done_twice_is_not(kit: Kit, op: ops.Op, result: Any) -> None:
    fail(kit, "COMMIT", IOERR, late=True)
    assert kit.do(op) == result
    kit.reopen()
    fail(kit, "COMMIT", IOERR)
    assert kit.send(2, 3).unread == (1,)


@pytest.mark.guarantee("full-disk")
def test_on_a_full_disk_sends_fail_with_a_remedy_and_stored_mail_stays_readable(kit: Kit) -> None:
    kit.send(1, 2, text="kept")
    pages = kit.db.execute("PRAGMA page_count").fetchone()[0]
    kit.db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    kit.store._committer.limits = kit.limits
    events = kit.run((kit.mail(1, 2, text="x" * 100_000),), (kit.mail(1, 3, text="y" * 100_000),))
    assert codes(events) == ["mailbox_error", "mailbox_error"]
    assert "free space or raise the limit" in events[0].message  # type: ignore[union-attr]
    assert any("free space" in problem for problem in kit.store.problems)
    page = kit.read(2)
    assert texts(page) == ["kept"]
    assert kit.mailbox(2).unread == 1
    kit.db.execute("PRAGMA max_page_count = 100000").fetchall()
    assert kit.send(1, 2, text="x" * 100_000).unread == (2,)
    assert kit.store.problems == ()
    assert kit.confirm(2, page).unread == 1


def test_where_nothing_can_be_written_a_reader_still_gets_its_page_under_a_lease(kit: Kit) -> None:
    kit.send(1, 2, text="kept")
    fail(kit, "UPDATE ring SET handed", FULL, times=99)
    assert texts(kit.read(2, lease=1)) == ["kept"]
    assert texts(kit.read(2, lease=2)) == []
    kit.do(ops.EndLease(lease=1))
    assert texts(kit.read(2, lease=3)) == ["kept"]


def test_a_session_can_begin_where_nothing_can_be_written(kit: Kit) -> None:
    kit.send(1, 2)
    fail(kit, "UPDATE peers", FULL, times=99)
    results = kit.unit(
        ops.NotePeer(no=2, last_seen=5),
        ops.RememberPeer(no=2, client="c", identity="i", cwd="/", at=5),
        ops.OpenMailbox(no=2),
    )
    assert results == (None, None, ops.MailboxState(1, 0, ()))


def test_damage_found_while_running_is_told_and_the_file_left_alone(kit: Kit) -> None:
    kit.send(1, 2)
    fail(kit, "SELECT m.mid", CORRUPT, times=9)
    with pytest.raises(RelayError, match="is damaged: restart the hub"):
        kit.read(2)
    fail(kit, "SELECT m.mid", CORRUPT, times=9)
    with pytest.raises(RelayError):
        kit.read(2)
    problems: Any = list(kit.store.problems)
    assert len(problems) == 1, "told once"
    kit.reopen()  # looks at every page, and finds nothing wrong
    assert list(kit.store.problems) == []
    assert kit.mailbox(2).unread == 1


@contextmanager
def no_connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any) -> None:
        raise failure(14)

    with monkeypatch.context() as patch:
        patch.setattr(store_file, "connect", refuse)
        yield


def test_while_the_file_cannot_be_opened_again_everything_fails_and_then_works_on(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.send(1, 2)
    fail(kit, "COMMIT", IOERR)
    with no_connection(monkeypatch):
        events = kit.run((kit.mail(1, 2),), (ops.OpenMailbox(no=2),))
        assert codes(events) == ["mailbox_error", "mailbox_error"]
        kit.store._committer.checkpoint()
    assert kit.mailbox(2).unread == 1
    assert kit.send(1, 2).unread == (2,)


def test_a_rollback_that_fails_opens_the_file_again(kit: Kit) -> None:
    kit.send(1, 2)
    db = kit.db
    fail(kit, "INSERT INTO messages", IOERR)
    fail(kit, "ROLLBACK", IOERR)
    assert kit.send(1, 2).unread == (2,)
    assert kit.db is not db


def test_trouble_with_checkpoints_is_told_and_harmless(kit: Kit) -> None:
    fail(kit, "PRAGMA wal_checkpoint", IOERR)
    kit.store._committer.checkpoint()
    assert "disk" in kit.store.problems[0]
    kit.send(1, 2)
    assert list(kit.store.problems) == []
    kit.db.executescript = lambda script: (_ for _ in ()).throw(failure(IOERR))
    kit.store._committer._give_back(5)
    assert len(kit.store.problems) == 1


def test_a_long_log_is_moved_into_the_file_between_commits(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_file, "WAL_BYTES", 100_000)
    for _ in range(5):
        kit.send(1, 2, text="x" * 50_000)
    assert (kit.data_dir / "hub.db").stat().st_size > 200_000


# --- beginning and end -----------------------------------------------------------------------------------


def test_what_waits_is_counted_until_it_is_delivered(kit: Kit) -> None:
    assert kit.store.backlog_bytes == 0
    kit.store.submit((kit.mail(1, 2, text="x" * 1000),), None)
    assert 1000 < kit.store.backlog_bytes < 1500
    kit.store.submit((kit.mail(1, 2, text="€" * 1000),), None)
    kit.store.submit((ops.AppendGroup(group_no=1, line=kit.line(1, "y" * 1000)),), None)
    assert kit.store.backlog_bytes > 5000
    kit.store.run_pending()
    assert kit.store.backlog_bytes == 0


def test_what_is_submitted_before_the_end_is_done_and_what_comes_after_is_told(kit: Kit) -> None:
    kit.events.clear()
    kit.store.submit((kit.mail(1, 2),), "before")
    kit.store.close()
    kit.store.close()
    kit.store.submit((kit.mail(1, 2),), "after")
    done, refused = kit.events
    assert isinstance(done, Stored)
    assert isinstance(refused, StoreFailed)
    assert (refused.then, refused.code) == ("after", "mailbox_error")
    assert kit.store.backlog_bytes == 0
    kit.store = kit._open()
    assert kit.mailbox(2).unread == 1


def test_a_crash_loses_what_was_not_committed_and_nothing_else(kit: Kit) -> None:
    kit.send(1, 2, text="kept")
    kit.store.submit((kit.mail(1, 2, text="lost"),), None)
    assert kit.store.pending == 1
    kit.reopen(crash=True)
    assert texts(kit.read(2)) == ["kept"]


def test_a_delivery_that_fails_stops_nothing(kit: Kit) -> None:
    def broken(events: Any) -> None:
        raise RuntimeError("the loop is gone")

    kit.store.start(broken)
    kit.store.submit((kit.mail(1, 2),), None)
    kit.store.run_pending()
    kit.reopen()
    assert kit.mailbox(2).unread == 1


def test_a_disk_that_refuses_everything_is_not_asked_for_every_unit(kit: Kit) -> None:
    kit.send(1, 2, text="kept")
    fail(kit, "INSERT INTO messages", FULL, times=10_000)
    faulty = kit.db
    units: list[tuple[ops.Op, ...]] = [(kit.mail(1, 2),) for _ in range(200)]
    units.insert(100, (ops.ReadPage(no=2, lease=1, limit=5, budget=5000),))
    events = kit.run(*units)
    assert codes(events) == ["mailbox_error"] * 100 + [""] + ["mailbox_error"] * 100
    assert faulty.times > 9_900
    assert texts(first(events)[0]) == ["kept"]
