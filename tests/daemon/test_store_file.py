"""hub.db as a file: made whole, found damaged, newer, read-only, on the wrong disk."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ecorelay.core import ops
from ecorelay.daemon import schema, store_file, store_place
from ecorelay.daemon.store import InlineStore, StoreUnusable
from ecorelay.errors import RelayError
from ecorelay.limits import Limits
from tests.daemon.store_kit import T0, Kit, texts

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes mean nothing on Windows")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def written(tmp_path: Path, *, crash: bool = False) -> Path:
    """A data directory with a message in it, its hub stopped."""
    kit = Kit(tmp_path / "data")
    kit.add("ann", "bob")
    kit.send(1, 2, text="kept")
    for _ in range(50):
        kit.send(1, 2, text="x" * 3000)
    kit.store.crash() if crash else kit.store.close()
    return kit.data_dir


def files(data_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data_dir.iterdir()}


def open_store(data_dir: Path) -> InlineStore:
    return InlineStore.open(data_dir, Limits(), "power", T0)


# --- making one ------------------------------------------------------------------------------------------


@posix
@pytest.mark.guarantee("secrets-and-modes-0600")
def test_directory_and_files_are_for_their_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kit = Kit(tmp_path / "a" / "data")
        kit.add("ann")
        assert mode(kit.data_dir) == 0o700
        assert {path.name for path in kit.data_dir.iterdir()} == {"hub.db", "hub.db-wal"}
        assert {mode(path) for path in kit.data_dir.iterdir()} == {0o600}
        kit.store.close()
    finally:
        os.umask(before)
    kit.data_dir.joinpath("hub.db").chmod(0o644)
    kit.store = kit._open()
    assert mode(kit.data_dir / "hub.db") == 0o600


def test_a_stopped_hub_leaves_one_complete_file(tmp_path: Path) -> None:
    data_dir = written(tmp_path)
    assert [path.name for path in data_dir.iterdir()] == ["hub.db"]
    with closing(sqlite3.connect(data_dir / "hub.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)
        assert db.execute("SELECT value FROM meta WHERE key = 'clean'").fetchone() == (1,)


def test_what_a_crash_left_of_a_database_in_the_making_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "hub.db.new").write_bytes(b"half")
    (tmp_path / "data" / "hub.db.new-journal").write_bytes(b"half")
    kit = Kit(tmp_path / "data")
    assert kit.store.problems == ()
    assert {path.name for path in kit.data_dir.iterdir()} == {"hub.db", "hub.db-wal"}


@pytest.mark.parametrize(("durability", "level"), [("power", 2), ("process", 1)])
def test_durability_decides_whether_every_commit_is_synced(
    tmp_path: Path, durability: Any, level: int
) -> None:
    store = InlineStore.open(tmp_path / "data", Limits(), durability, T0)
    db = store._committer.ledger.db
    assert db.execute("PRAGMA synchronous").fetchone() == (level,)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    store.close()


def test_the_size_of_the_database_is_limited(tmp_path: Path) -> None:
    kit = Kit(tmp_path / "data", data_bytes=16 * 1024 * 1024)
    assert kit.db.execute("PRAGMA max_page_count").fetchone()[0] * store_file.PAGE_BYTES == 16 * 1024 * 1024
    assert 0 < kit.store.size_bytes() < 1024 * 1024


# --- damage ----------------------------------------------------------------------------------------------


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def short(path: Path) -> None:
    os.truncate(path, 60)


def cut_by_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - store_file.PAGE_BYTES)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def garbage_after_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100] + os.urandom(path.stat().st_size - 100))


def another_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (x)")


def without_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE meta")
        db.commit()


@pytest.mark.guarantee("damaged-db-set-aside")
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        empty,
        zeroed,
        truncated,
        short,
        cut_by_a_page,
        garbage,
        garbage_after_the_header,
        another_program,
        without_tables,
    ],
)
def test_a_damaged_database_is_set_aside_reported_and_not_overwritten(
    tmp_path: Path, damage: Any, crash: bool
) -> None:
    data_dir = written(tmp_path, crash=crash)
    damage(data_dir / "hub.db")
    found = (data_dir / "hub.db").read_bytes()
    kit = Kit(data_dir)
    [problem] = kit.store.problems
    assert "hub.db.damaged-20261118-" in problem
    assert "set aside" in problem
    [aside] = [path for path in data_dir.iterdir() if ".damaged-" in path.name and path.name[-4:] != "-wal"]
    assert aside.read_bytes() == found
    assert len(list(data_dir.iterdir())) <= 4, "two databases with their logs"
    kit._peers = 100  # those before it may be there again
    kit.add("zoe")
    kit.store.close()
    kit.now += 1000
    kit.store = kit._open()
    assert kit.store.problems == ()
    assert kit.store.snapshot().peers[-1].name == "zoe"


def test_damage_in_the_middle_is_found_after_a_crash(tmp_path: Path) -> None:
    path = written(tmp_path, crash=True) / "hub.db"
    with path.open("r+b") as file:
        file.seek(10 * store_file.PAGE_BYTES)
        file.write(os.urandom(20 * store_file.PAGE_BYTES))
    store = open_store(path.parent)
    assert "its check failed" in store.problems[0] or "malformed" in store.problems[0]
    store.close()


def test_damage_met_while_running_makes_the_next_start_look_at_every_page(tmp_path: Path) -> None:
    path = written(tmp_path) / "hub.db"
    with closing(sqlite3.connect(path)) as db:
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ring'").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((root - 1) * store_file.PAGE_BYTES)
        file.write(os.urandom(store_file.PAGE_BYTES))
    kit = Kit(path.parent)
    assert not kit.store.problems
    with pytest.raises(RelayError, match=r"hub\.db is damaged"):
        kit.read(2)
    kit.reopen()
    assert "set aside" in str(kit.store.problems)


def test_a_file_that_was_suspected_and_found_whole_is_not_looked_through_again(tmp_path: Path) -> None:
    kit = Kit(tmp_path / "data")
    kit.store._committer._damaged = True
    kit.reopen()
    assert kit.store.problems == ()
    assert kit.db.execute("SELECT count(*) FROM meta WHERE key = 'suspect'").fetchone() == (0,)


def test_two_damaged_databases_of_one_second_are_both_kept(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    for _ in range(3):
        Kit(data_dir).store.close()
        (data_dir / "hub.db").write_bytes(b"no database")
    open_store(data_dir).close()
    assert len([name for name in files(data_dir) if ".damaged-" in name]) == 3


def test_a_log_without_its_database_is_set_aside_and_not_applied_to_a_new_one(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    Kit(data_dir).store.close()
    (data_dir / "hub.db").unlink()
    (data_dir / "hub.db-wal").write_bytes(b"a log")
    store = open_store(data_dir)
    assert "only its log is left" in store.problems[0]
    store.close()
    assert b"a log" in files(data_dir).values()


def test_a_log_goes_along_with_the_database_that_is_set_aside(tmp_path: Path) -> None:
    data_dir = written(tmp_path)
    (data_dir / "hub.db").write_bytes(b"x" * 5000)
    (data_dir / "hub.db-wal").write_bytes(b"a log")
    open_store(data_dir).close()
    [log] = [path for path in data_dir.iterdir() if path.name.endswith("-wal")]
    assert log.read_bytes() == b"a log"
    assert log.with_name(log.name[:-4]).read_bytes() == b"x" * 5000


# --- left alone ------------------------------------------------------------------------------------------


@pytest.mark.guarantee("newer-db-refused")
def test_a_newer_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    data_dir = written(tmp_path)
    with closing(sqlite3.connect(data_dir / "hub.db")) as db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = files(data_dir)
    with pytest.raises(StoreUnusable, match=r"newer ecorelay .*: upgrade"):
        open_store(data_dir)
    assert files(data_dir) == before


@pytest.mark.guarantee("newer-db-refused")
def test_a_newer_version_that_is_in_the_log_alone_is_refused_too(tmp_path: Path) -> None:
    data_dir = written(tmp_path)
    # A newer hub that is killed: its log is there, and its version is only in it.
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1])\n"
        f"db.execute('PRAGMA user_version = {schema.VERSION + 1}')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(data_dir / "hub.db")], check=False)
    (data_dir / "hub.db-shm").unlink(missing_ok=True)
    before = files(data_dir)
    assert before["hub.db-wal"]
    with pytest.raises(StoreUnusable, match="upgrade"):
        open_store(data_dir)
    assert files(data_dir) == before


def made_by_version_1(tmp_path: Path) -> Path:
    """A data directory as the program with version 1 of the tables left it."""
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    dump = Path(__file__).with_name("golden").joinpath("hub-v1.sql").read_text()
    with closing(sqlite3.connect(data_dir / "hub.db", isolation_level=None)) as db:
        db.executescript(
            f"""
            PRAGMA page_size = {store_file.PAGE_BYTES};
            PRAGMA auto_vacuum = INCREMENTAL;
            PRAGMA journal_mode = WAL;
            BEGIN;
            {dump}
            PRAGMA application_id = {schema.APPLICATION_ID};
            PRAGMA user_version = 1;
            COMMIT;
            """
        )
    return data_dir


def tables(db: Any) -> dict[str, Any]:
    """Every table, its columns in order, its indexes."""
    names = [
        row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    ]
    return {
        name: [
            db.execute(f"PRAGMA table_xinfo({name})").fetchall(),
            sorted(row[1:] for row in db.execute(f"PRAGMA index_list({name})").fetchall()),
        ]
        for name in names
        if name != "sqlite_sequence"
    }


def test_a_database_of_version_1_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path) -> None:
    kit = Kit(made_by_version_1(tmp_path), mailbox_messages=3)
    assert kit.store.problems == ()
    assert kit.db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    assert tables(kit.db) == tables(Kit(tmp_path / "new").db)
    snapshot = kit.store.snapshot()
    assert [(peer.no, peer.name) for peer in snapshot.peers] == [(1, "Ann"), (2, "bob"), (3, "kitty")]
    assert [old for old, _, _ in snapshot.forwards] == ["cat"]
    assert snapshot.identities == (("claude", "s1", 1),)
    assert [group.name for group in snapshot.groups] == ["team"]
    assert snapshot.blocks == ()
    ann, bob, cat = 1, 2, 3
    assert texts(kit.read(bob)) == ["kept", "pushed"]
    page = kit.read(ann)
    assert texts(page) == ["to both"]
    assert [(notice.about, notice.reason, notice.count) for notice in page.notices] == [("bob", "evicted", 1)]
    assert [line.text for line in kit.history(1, bob).lines] == ["made", "a line"]
    kit.do(ops.SetBlock(no=cat, blocked=True, at=T0))
    assert kit.do(ops.ForgetPeer(no=cat, at=T0)).lost == (ops.Eviction(bob, cat, 1, True),)
    kit.reopen()
    assert [notice.about for notice in kit.read(bob, lease=2).notices] == ["kitty"]
    assert kit.do(ops.AddPeer(peer_id="new", name="cat", auto=True, at=T0)) == ops.Numbered(4)


def test_an_upgrade_that_fails_half_way_leaves_the_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = made_by_version_1(tmp_path)
    monkeypatch.setitem(schema.UPGRADES, 1, schema.UPGRADES[1] + "; INSERT INTO blocks VALUES (1)")
    with pytest.raises(StoreUnusable):
        open_store(data_dir)
    monkeypatch.undo()
    with closing(sqlite3.connect(data_dir / "hub.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    kit = Kit(data_dir)
    assert kit.store.problems == ()
    assert texts(kit.read(2)) == ["kept", "pushed"]


def test_a_full_database_of_version_1_is_brought_up_to_date_and_stays_full(tmp_path: Path) -> None:
    data_dir = made_by_version_1(tmp_path)
    kit = Kit(data_dir, data_bytes=(data_dir / "hub.db").stat().st_size)
    assert kit.db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    assert texts(kit.read(2)) == ["kept", "pushed"]
    [most], [pages] = (
        kit.db.execute(f"PRAGMA {name}").fetchone() for name in ("max_page_count", "page_count")
    )
    assert most == pages


def test_an_older_database_is_brought_up_to_date_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = written(tmp_path)
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    monkeypatch.setitem(schema.UPGRADES, schema.VERSION - 1, "CREATE TABLE later (x INTEGER) STRICT")
    kit = Kit(data_dir)
    assert kit.store.problems == ()
    assert kit.db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    assert kit.db.execute("SELECT count(*) FROM later").fetchone() == (0,)
    assert texts(kit.read(2, limit=1)) == ["kept"]


def test_a_database_that_another_program_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_file, "BUSY_S", 0.01)
    data_dir = written(tmp_path)
    with closing(sqlite3.connect(data_dir / "hub.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnusable, match="locked by another program"):
            open_store(data_dir)


NOBODY = 65534


@pytest.fixture
def without_rights() -> Iterator[Path]:
    """A directory, and no more rights than its owner has: root may write everywhere."""
    with tempfile.TemporaryDirectory() as name:
        root = os.geteuid() == 0
        if root:
            os.chown(name, NOBODY, NOBODY)
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)
                os.setegid(0)


@posix
@pytest.mark.parametrize("what", ["file", "directory", "empty directory"])
def test_a_read_only_place_is_refused_with_a_remedy(without_rights: Path, what: str) -> None:
    data_dir = written(without_rights)
    path = data_dir / "hub.db"
    if what == "empty directory":
        path.unlink()
    before = files(data_dir)
    if what == "file":
        path.chmod(0o400)
    else:
        data_dir.chmod(0o500)
    try:
        with pytest.raises(StoreUnusable, match=r"read-only|writable"):
            open_store(data_dir)
        assert files(data_dir) == before
    finally:
        data_dir.chmod(0o700)


def test_an_sqlite_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(StoreUnusable, match=r"needs 3\.37"):
        open_store(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file is in the way")
    with pytest.raises(StoreUnusable, match="data"):
        open_store(tmp_path / "data")


MOUNTS = r"""22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/me/local\040disk rw,nosuid shared:7 - xfs /dev/sdb1 rw
32 22 0:41 / /mnt/c rw - 9p drvfs rw
33 22 0:42 / /over rw - ext4 /dev/sdc1 rw
34 33 0:43 / /over rw - cifs //server/share rw
broken line
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/var/lib", ""),
        ("/home/me", "nfs4"),
        ("/home/me/local disk/ecorelay", ""),
        ("/homestead", ""),
        ("/mnt/c/Users/me", "9p"),
        ("/over/there", "cifs"),
    ],
)
def test_network_and_guest_file_systems_are_refused(tmp_path: Path, directory: str, kind: str) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    if not kind:
        store_place.refuse_remote_place(Path(directory), str(tmp_path / "mountinfo"))
        return
    with pytest.raises(StoreUnusable, match=f"{kind} file system.*ECORELAY_HOME"):
        store_place.refuse_remote_place(Path(directory), str(tmp_path / "mountinfo"))


def test_where_mounts_are_not_listed_nothing_is_refused(tmp_path: Path) -> None:
    store_place.refuse_remote_place(tmp_path, str(tmp_path / "missing"))
