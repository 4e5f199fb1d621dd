"""hub.db as a file: made whole or not at all, recognised, and set aside when it is damaged.

Two rules hold everywhere here. No descriptor of hub.db is opened while SQLite has it open: closing any
one would drop SQLite's locks. And a file we do not understand is renamed or left alone, never written to.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final, Literal

from ecorelay import paths
from ecorelay.core.hub import Hub
from ecorelay.daemon import schema, store_peers
from ecorelay.daemon.log import stack_of, warn
from ecorelay.daemon.store_failure import StoreUnusable, code_of, explain, is_damage
from ecorelay.daemon.store_place import refuse_remote_place
from ecorelay.errors import RelayError
from ecorelay.home import HOME_VARIABLE
from ecorelay.limits import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from ecorelay.daemon.store_salvage import Saved

Durability = Literal["power", "process"]

NAME: Final = "hub.db"
OLDEST_SQLITE: Final = (3, 37, 0)
"""STRICT tables."""
QUICK_CHECK_MAX: Final = 64 * 1024 * 1024
"""Bytes. A larger file is not read through after a crash: it would take seconds."""
WAL_BYTES: Final = 16 * 1024 * 1024
"""The log keeps so much of its file, which makes writing to it cheap; longer, it is moved into hub.db
after the next commit. (SQLite does so by itself, within a commit, only if that should not happen.)"""
PAGE_BYTES: Final = 2048
"""A commit writes the pages it touched, mostly for some bytes in each: half of SQLite's usual size halves
that, and smaller ones gain nothing more."""
LOG_GONE: Final = (
    f"{NAME}-wal was removed after the last hub was killed: what was only in it, mail of its last moments, "
    f"is gone (where {NAME} is a copy that was put here, nothing is)"
)
LOST: Final = "nothing in it could be read; a new one was begun"
UPGRADE_PAGES: Final = 64
"""Pages beyond its limit that a file may take to be brought up to date: full, it is to stay readable."""
BUSY_S: Final = 2.0
"""How long another program that has the file open is waited for."""
STATEMENTS_KEPT: Final = 96
CACHE_KIB: Final = 8 * 1024
_EFFECTIVE: Final = os.access in os.supports_effective_ids
_MAGIC: Final = b"SQLite format 3\0"
_NOT_OURS: Final = 1
"""SQLite's code for a table or column that is not there: then its schema is not the one written."""
_PARTS: Final = ("-wal", "-shm", "-journal")


def open_database(
    data_dir: Path, data_bytes: int, durability: Durability, now_ms: int
) -> tuple[sqlite3.Connection, list[str]]:
    """Open the database of `data_dir`, or make one.

    Args:
        data_dir: made if it is missing.
        data_bytes: limit of the file's size.
        durability: what an acknowledgement outlives, a power failure or a crash of the hub.
        now_ms: goes into the name of a damaged file set aside.

    Returns:
        The connection, and what a person should know.

    Raises:
        StoreUnusable: nothing was changed, and the message says what to do.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreUnusable(
            f"this Python has SQLite {sqlite3.sqlite_version}, ecorelay needs 3.37: use a newer Python"
        )
    try:
        paths.make_private_dir(data_dir)
    except RelayError as error:
        raise StoreUnusable(error.message) from error
    refuse_remote_place(data_dir)
    path = data_dir / NAME
    problems: list[str] = []
    try:
        reason = _damage_before_opening(path)
        if not reason and path.exists():
            try:
                return _open_checked(path, data_bytes, durability, problems), problems
            except _Damaged as damage:
                reason = str(damage)
        new = _create(path, now_ms)
        saved = None
        if reason:
            warn("hub.db is damaged", reason=reason, then="what can be read of it is saved: 10 s for 100 MB")
            # Before anything is moved: killed meanwhile, the next start finds what this one found.
            saved = _saved(path, new)
            if saved is None:
                new = _create(path, now_ms)
            aside = _set_aside(path, now_ms)
            problems.append(f"{NAME} was damaged ({reason}) and set aside as {aside}: {saved or LOST}")
        name_file(new, path)
        return _open_checked(path, data_bytes, durability, problems), problems
    except _Damaged as damage:  # of a file made a moment ago
        raise StoreUnusable(f"{path} cannot be kept on this disk ({damage}): check the disk") from damage
    except sqlite3.Error as error:
        raise StoreUnusable(f"{path}: {explain(error)}") from error
    except OSError as error:
        raise StoreUnusable(
            f"{path} cannot be used ({error.strerror or error}): make {data_dir} writable for you and all in "
            f"it yours, or name another directory with {HOME_VARIABLE}"
        ) from error


class _Damaged(Exception):
    """The file is not what was written; the message says how."""


# --- looking, before and after SQLite does -------------------------------------------------------------


def _damage_before_opening(path: Path) -> str:
    """Why the file (or what was left of it) must be set aside; empty if nothing speaks against it.

    Raises:
        StoreUnusable: it is a newer program's, or not writable.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        # A log without its database would be applied to a new one.
        return "only its log is left" if path.with_name(NAME + "-wal").exists() else ""
    if not header:
        return "it is empty"
    if not header.strip(b"\0"):
        return "it is filled with zeros"
    if len(header) < 100 or not header.startswith(_MAGIC):
        return "it is no database"
    if int.from_bytes(header[68:72], "big") != schema.APPLICATION_ID:
        return "it is no database of ecorelay"
    if not all(os.access(each, os.W_OK, effective_ids=_EFFECTIVE) for each in (path, path.parent)):
        raise StoreUnusable(f"{path} or its directory is read-only: make both writable for you")
    _refuse_newer(path, int.from_bytes(header[60:64], "big"))
    log = path.with_name(NAME + "-wal")
    if log.exists() and log.stat().st_size:
        # A newer program may have left its version in the log alone. Read-only: nothing is moved from
        # the log into the file.
        index = path.with_name(NAME + "-shm")
        there_before = index.exists()
        try:
            with suppress(sqlite3.Error):
                uri = path.as_uri() + "?mode=ro"
                with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S)) as db:
                    _refuse_newer(path, db.execute("PRAGMA user_version").fetchone()[0])
        finally:
            if not there_before:
                index.unlink(missing_ok=True)
    return ""


def _refuse_newer(path: Path, version: int) -> None:
    if version > schema.VERSION:
        raise StoreUnusable(
            f"{path} was written by a newer ecorelay (version {version} of the database, this program knows "
            f"{schema.VERSION}): upgrade ecorelay; the file was left as it is"
        )


def _open_checked(
    path: Path, data_bytes: int, durability: Durability, problems: list[str]
) -> sqlite3.Connection:
    """Raises `_Damaged`, or sqlite3.Error for what is not the file's fault."""
    with suppress(OSError):
        path.chmod(0o600)
    ours = True
    has_log = path.with_name(NAME + "-wal").exists()
    try:
        db = connect(path, data_bytes, durability)
        try:
            meta = _check(db, path)
            if not (
                has_log or meta.get("clean") or meta.get("suspect")
            ):  # a hub that was killed leaves its log
                problems.append(LOG_GONE)
            ours = False  # what fails from here on is the upgrade's own fault
            _upgrade(db)
            ours = True
            # What every start reads. Met later, damage there would end each hub that begins.
            store_peers.snapshot(db)
            db.execute("SELECT max(mid) FROM messages").fetchone()
            db.execute("INSERT OR REPLACE INTO meta VALUES ('clean', 0)")
            if meta.get("suspect"):  # looked through, and found whole
                db.execute("DELETE FROM meta WHERE key = 'suspect'")
        except BaseException:
            db.close()
            raise
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if is_damage(error) or (ours and code_of(error) == _NOT_OURS):
            raise _Damaged("it is malformed") from error
        raise
    return db


def _check(db: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """What `meta` says. Raises `_Damaged`."""
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    pages: int = db.execute("PRAGMA page_count").fetchone()[0]
    size: int = db.execute("PRAGMA page_size").fetchone()[0]
    found = path.stat().st_size
    if found < pages * size:
        raise _Damaged(f"{pages * size - found} bytes are missing at its end")
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    if meta.get("suspect") or (not meta.get("clean") and found <= QUICK_CHECK_MAX):
        # Where something was seen to be wrong, the indexes are compared with their tables as well.
        check = "integrity_check" if meta.get("suspect") else "quick_check"
        said = db.execute(f"PRAGMA {check}(1)").fetchone()
        if said is None or said[0] != "ok":
            raise _Damaged("its check failed")
    return meta


def _upgrade(db: sqlite3.Connection) -> None:
    """Each version in a transaction of its own. A full file may grow by what the new tables need."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version == schema.VERSION:
        return
    most: int = db.execute("PRAGMA max_page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {most + UPGRADE_PAGES}").fetchall()
    for older in range(version, schema.VERSION):
        db.executescript(
            f"BEGIN IMMEDIATE; {schema.UPGRADES[older]}; PRAGMA user_version = {older + 1}; COMMIT;"
        )
    db.execute(f"PRAGMA max_page_count = {most}").fetchall()


def connect(path: Path, data_bytes: int, durability: Durability) -> sqlite3.Connection:
    """The one connection, set up. It may be used by any thread, by one at a time."""
    uri = path.as_uri() + "?mode=rw"  # never makes a file
    db = sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_KEPT,
    )
    try:
        # Alone with the file, SQLite needs no shared memory; and a second connection beside a writer
        # could meet the log's reset bug of SQLite before 3.51.
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "synchronous = " + ("FULL" if durability == "power" else "NORMAL"),
            "fullfsync = ON",
            "checkpoint_fullfsync = ON",
            f"journal_size_limit = {WAL_BYTES}",
            f"wal_autocheckpoint = {4 * WAL_BYTES // PAGE_BYTES}",
            f"cache_size = -{CACHE_KIB}",
            "temp_store = MEMORY",
            "trusted_schema = OFF",
            "secure_delete = FAST",
            f"max_page_count = {max(1, data_bytes // PAGE_BYTES)}",
            "journal_mode = WAL",
        ):
            db.execute("PRAGMA " + pragma).fetchall()
        # Text that rotted is found by its checksum; it must not stop the reading of a page.
        db.text_factory = _decode
    except BaseException:
        db.close()
        raise
    return db


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def remove_old_texts(data_dir: Path, before_ms: int) -> None:
    """Remove the files in which adapters keep whole long messages, if they are older than `before_ms`."""
    with suppress(OSError), os.scandir(paths.Paths(data_dir).texts) as found:
        for entry in found:
            with suppress(OSError):
                if (
                    entry.is_file(follow_symlinks=False)
                    and entry.stat(follow_symlinks=False).st_mtime * 1000 < before_ms
                ):
                    os.unlink(entry.path)


# --- making one, and setting one aside -------------------------------------------------------------------


def begin_file(path: Path) -> Path:
    """An empty file beside `path`: a complete database appears under its name, or none. See `name_file`."""
    new = path.with_name(NAME + ".new")
    for part in ("", *_PARTS):
        new.with_name(new.name + part).unlink(missing_ok=True)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite's own mode would be 0644
    return new


def _create(path: Path, now_ms: int) -> Path:
    """An empty database in such a file."""
    new = begin_file(path)
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.executescript(
            f"""
            PRAGMA page_size = {PAGE_BYTES};
            PRAGMA auto_vacuum = INCREMENTAL;
            PRAGMA journal_mode = MEMORY;
            PRAGMA synchronous = OFF;
            BEGIN;
            {schema.TABLES}
            INSERT INTO meta VALUES ('created', {now_ms}), ('clean', 1), ('last_mid', 0);
            PRAGMA application_id = {schema.APPLICATION_ID};
            PRAGMA user_version = {schema.VERSION};
            COMMIT;
            PRAGMA journal_mode = WAL;
            """
        )
    return new


def _saved(path: Path, new: Path) -> Saved | None:
    """What is left of the database at `path` goes into `new`; None: nothing can be read of it."""
    from ecorelay.daemon.store_salvage import salvage  # most hubs never need it

    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as db:
            for pragma in ("locking_mode = EXCLUSIVE", "synchronous = OFF", "journal_mode = MEMORY"):
                db.execute("PRAGMA " + pragma).fetchall()
            saved = salvage(path, db)
            _try_out(db)
            db.execute("PRAGMA journal_mode = WAL").fetchall()
    except Exception as error:  # whatever rotted bytes lead to: the file set aside still has all of it
        warn("nothing was saved", stack=stack_of(error))
        return None
    return saved if saved.peers else None


def _try_out(db: sqlite3.Connection) -> None:
    """Raises if a hub could not begin with this."""
    if db.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
        raise _Damaged("what was saved does not hold together")
    Hub(hub_id="here", version="", new_id=str, limits=Limits(), snapshot=store_peers.snapshot(db))


def name_file(new: Path, path: Path) -> None:
    """Let the new database appear.

    Raises:
        OSError: there is one already, or the disk failed.
    """
    handle = os.open(new, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    if path.exists():
        raise FileExistsError(17, "another program made it meanwhile", str(path))
    new.rename(path)
    paths.sync_dir(path.parent)


def _set_aside(path: Path, now_ms: int) -> str:
    """Rename the database with its log, so that `sqlite3` can still open the pair. Nothing is overwritten."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_ms / 1000))
    for number in range(1, 1000):
        name = f"{NAME}.damaged-{stamp}" + (f"-{number}" if number > 1 else "")
        if not any(path.with_name(name + part).exists() for part in ("", *_PARTS)):
            break
    else:
        raise FileExistsError(17, "too many damaged databases", str(path))
    # The database first: were we interrupted, a log alone is noticed, a database without its log is not.
    for part in ("", *_PARTS):
        with suppress(FileNotFoundError):
            path.with_name(NAME + part).rename(path.with_name(name + part))
    paths.sync_dir(path.parent)
    return name
