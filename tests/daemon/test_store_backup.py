"""A copy of hub.db, made by the store while it works."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ecorelay.core import ops
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.daemon import store as store_module, store_backup
from ecorelay.daemon.store import Store
from ecorelay.limits import Limits
from tests.daemon.store_kit import T0, Kit, make_id, texts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path / "data", mailbox_messages=60)
    kit.add("ann", "bob")
    for number in range(60):
        kit.send(1, 2, text=f"{number} " + "x" * 3000)
    return kit


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_backup, "SLICE_PAGES", 4)
    monkeypatch.setattr(store_backup, "SLICES_SYNCED", 3)


def back_up(kit: Kit, path: Path | str) -> Any:
    """The event that answers a backup."""
    [event] = kit.run((ops.WriteBackup(path=str(path)),))
    return event


def begin(kit: Kit, path: Path) -> None:
    """Let a copy do its first slices, and leave it there."""
    kit.events.clear()
    kit.store._commit([((ops.WriteBackup(path=str(path)),), "copy", 0)])
    copy = kit.store._committer.copy
    assert copy is not None
    copy.step()
    copy.step()
    assert path.with_name(path.name + ".partial").exists()


def opened(path: Path, tmp_path: Path) -> Kit:
    """A hub's store on the copy."""
    home = tmp_path / "restored"
    home.mkdir(mode=0o700)
    path.rename(home / "hub.db")
    return Kit(home)


def check(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_copy_is_a_working_hub_db_that_only_its_owner_can_read(kit: Kit, tmp_path: Path) -> None:
    path = tmp_path / "copy with ünusual ?#% name.db"
    event = back_up(kit, path)
    assert event.results == (ops.BackupWritten(path.stat().st_size),)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([path.name, "data"])
    kit.send(1, 2, text="after it")
    restored = opened(path, tmp_path)
    assert restored.store.problems == ()
    assert len(texts(restored.read(2, limit=100, budget=10**9))) == 60
    assert restored.send(1, 2, text="new", msg_id=make_id(9_999)).unread == (61,)
    restored.store.close()


def test_what_is_committed_between_the_slices_is_in_the_copy_wholly(
    kit: Kit, tmp_path: Path, small_slices: None
) -> None:
    path = tmp_path / "copy.db"
    begin(kit, path)
    copy = kit.store._committer.copy
    assert copy is not None
    number = 0
    while not copy._copied:
        number += 1
        kit.now += 1000
        text = f"during {number} " + "y" * (number % 40 * 97)
        kit.store._commit([((kit.mail(1, 2, text=text),), number, 0)])
        if number % 8 == 0:  # pages move, and the file becomes shorter
            kit.db.executescript("PRAGMA incremental_vacuum(50)")
            kit.store._committer.checkpoint()
        kit.store._copy_on()
    here = kit.db.execute("SELECT mid, text FROM bodies ORDER BY mid").fetchall()
    kit.store.run_pending()
    assert number > 20
    assert isinstance(kit.events[-1], Stored)
    assert kit.events[-1].then == "copy"
    check(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT mid, text FROM bodies ORDER BY mid").fetchall() == here


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("copy.db", "no absolute path"),
        ("/dev/nul\0l", "no absolute path"),
        ("{tmp}/missing/copy.db", "there is no directory {tmp}/missing"),
        ("{tmp}/file/copy.db", "there is no directory {tmp}/file"),
        ("{tmp}/file", "is there already"),
        ("{tmp}/link", "is there already"),
        ("{tmp}/data", "is there already"),
        ("{tmp}/data/hub.db-journal", "lies beside the database"),
        ("{tmp}/" + "x" * 250, "cannot be written (File name too long)"),
        pytest.param(
            "/sys/kernel/copy.db",
            "cannot be written",
            marks=pytest.mark.skipif(
                not os.path.isdir("/sys/kernel"), reason="nobody may write there on Linux"
            ),
        ),
    ],
)
def test_a_copy_is_refused_where_it_cannot_be(kit: Kit, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    event = back_up(kit, name.format(tmp=tmp_path))
    assert isinstance(event, StoreFailed)
    assert event.code == "bad_args"
    assert said.format(tmp=tmp_path) in event.message
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"
    kit.send(1, 2)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_copy_into_a_directory_that_is_read_only_is_refused(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    event = back_up(kit, tmp_path / "locked" / "copy.db")
    assert (event.code, "Permission denied" in event.message) == ("bad_args", True)


def test_of_several_copies_asked_for_at_once_one_is_made(kit: Kit, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.db" for number in range(3)]
    kit.events.clear()
    for number, path in enumerate(paths):
        kit.store.submit((ops.WriteBackup(path=str(path)),), number)
    kit.store.run_pending()
    answers = {event.then: event for event in kit.events}
    assert isinstance(answers[0], Stored)
    codes = [getattr(answers[number], "code", "") for number in (1, 2)]
    assert codes == ["limit_reached", "limit_reached"]
    assert [path.exists() for path in paths] == [True, False, False]
    assert isinstance(back_up(kit, paths[1]), Stored)


# --- when the disk fails -------------------------------------------------------------------------------


def full_at_ten_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def limited(*args: Any, **options: Any) -> sqlite3.Connection:
        db = connect(*args, **options)
        db.execute("PRAGMA max_page_count = 10")
        return db

    monkeypatch.setattr(sqlite3, "connect", limited)


def refusal(event: Stored | StoreFailed) -> StoreFailed:
    assert isinstance(event, StoreFailed)
    return event


def unsynced(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize(
    ("trouble", "code", "said"),
    [
        (full_at_ten_pages, "mailbox_error", "the disk is full: free space"),
        (lambda patch: unsynced(errno.ENOSPC, patch), "mailbox_error", "the disk is full: free space"),
        (lambda patch: unsynced(errno.EIO, patch), "mailbox_error", "the disk failed"),
    ],
    ids=["full", "full when synced", "failing"],
)
def test_a_copy_the_disk_does_not_take_is_removed_and_the_store_goes_on(
    kit: Kit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_slices: None,
    trouble: Any,
    code: str,
    said: str,
) -> None:
    with monkeypatch.context() as patch:
        trouble(patch)
        event = back_up(kit, tmp_path / "copy.db")
    assert (event.code, said in event.message) == (code, True), event
    assert [each.name for each in tmp_path.iterdir()] == ["data"]
    kit.send(1, 2)
    assert isinstance(back_up(kit, tmp_path / "copy.db"), Stored)
    assert kit.store.problems == ()


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_copy_longer_than_files_may_be_is_removed(kit: Kit, tmp_path: Path) -> None:
    import resource

    kit.store._committer.checkpoint()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        event = back_up(kit, tmp_path / "copy.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (event.code, "the disk failed" in event.message) == ("mailbox_error", True), event
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


def test_a_copy_ends_when_the_database_has_to_be_opened_again(
    kit: Kit, tmp_path: Path, small_slices: None
) -> None:
    begin(kit, tmp_path / "copy.db")
    kit.store._committer._close_connection()
    kit.store.submit((kit.mail(1, 2),), "mail")
    kit.store.run_pending()
    answers = {event.then: event for event in kit.events}
    assert isinstance(answers["mail"], Stored)
    assert refusal(answers["copy"]).code == "mailbox_error"
    assert "the disk failed meanwhile" in refusal(answers["copy"]).message
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


def test_a_file_that_appears_under_the_name_meanwhile_is_not_overwritten(
    kit: Kit, tmp_path: Path, small_slices: None
) -> None:
    path = tmp_path / "copy.db"
    begin(kit, path)
    path.write_text("mine")
    kit.store.run_pending()
    assert refusal(kit.events[-1]).code == "bad_args"
    assert path.read_text() == "mine"
    assert not path.with_name("copy.db.partial").exists()


def test_a_bug_while_copying_is_answered_as_one(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_backup, "_make", lambda partial: 1 / 0)
    assert back_up(kit, tmp_path / "copy.db").code == "unexpected"
    kit.send(1, 2)

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert back_up(kit, tmp_path / "copy.db").code == "unexpected"
    assert kit.store._committer.copy is None


# --- with a thread, and the end --------------------------------------------------------------------------


def test_a_hub_that_stops_gives_its_copy_up(kit: Kit, tmp_path: Path, small_slices: None) -> None:
    begin(kit, tmp_path / "copy.db")
    kit.store._end_copy()
    assert refusal(kit.events[-1]).code == "mailbox_error"
    assert "the hub is stopping" in refusal(kit.events[-1]).message
    assert [each.name for each in tmp_path.iterdir()] == ["data"]
    kit.store.close()


def test_a_hub_that_stops_does_not_wait_for_a_slow_disk(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LEAVE_S", 0.01)
    slow = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda handle: slow.wait(20) and None)
    kit.store._commit([((ops.WriteBackup(path=str(tmp_path / "copy.db")),), "copy", 0)])
    copy = kit.store._committer.copy
    assert copy is not None
    while not copy._copied:
        copy.step()
    kit.store._end_copy()
    assert refusal(kit.events[-1]).code == "mailbox_error"
    slow.set()
    copy.join(20)
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


def test_other_work_goes_on_while_the_store_thread_copies(tmp_path: Path, small_slices: None) -> None:
    kit = Kit(tmp_path / "data")
    kit.add("ann", "bob")
    for _ in range(50):
        kit.send(1, 2, text="x" * 3000)
    kit.store.close()
    store = Store.open(tmp_path / "data", Limits(), "process", T0)
    answered = threading.Semaphore(0)
    order: list[Any] = []

    def deliver(events: list[Stored | StoreFailed]) -> None:
        for event in events:
            assert isinstance(event, Stored), event
            order.append(event.then)
            answered.release()

    store.start(deliver)
    store.submit((ops.WriteBackup(path=str(tmp_path / "copy.db")),), "copy")
    for number in range(10):
        mail = kit.mail(1, 2, text="during", msg_id=make_id(1000 + number))
        store.submit((mail,), number)
        assert answered.acquire(timeout=20)
    while len(order) < 11:
        assert answered.acquire(timeout=20)
    store.close()
    assert order[0] != "copy"
    check(tmp_path / "copy.db")


KILLED = """
import sys, time
from pathlib import Path
from ecorelay.core import ops
from ecorelay.daemon import store_backup
from ecorelay.daemon.store import Store
from ecorelay.limits import Limits

store_backup.SLICE_PAGES = 1
between = store_backup.Copy._between
def slowly(self, *args):
    if self._slices == 20:
        print("under way", flush=True)
    time.sleep(0.01)
    between(self, *args)
store_backup.Copy._between = slowly
store = Store.open(Path(sys.argv[1]), Limits(), "process", 1)
store.start(print)
store.submit((ops.WriteBackup(path=sys.argv[2]),), None)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_hub_killed_while_it_copies_leaves_only_a_part_that_the_next_copy_replaces(
    kit: Kit, tmp_path: Path
) -> None:
    kit.store.close()
    path = tmp_path / "copy.db"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(kit.data_dir), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "under way\n"
        child.send_signal(signal.SIGKILL)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy.db.partial", "data"]
    kit = Kit(kit.data_dir)
    assert kit.store.problems == ()
    assert isinstance(back_up(kit, path), Stored)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy.db", "data"]
    check(path)
