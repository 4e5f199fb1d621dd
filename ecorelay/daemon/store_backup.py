"""A copy of hub.db, made while the hub goes on working.

SQLite's backup copies pages in slices, on the store's one connection. Between two slices other units are
committed: what the same connection writes, SQLite writes to the copy as well, so that in the end the copy
is the database of that moment, and it never begins anew. (`VACUUM INTO` would leave a smaller file, but
holds the connection for as long as it takes. Measured with 300 MB on a fast disk, while somebody sends:
`VACUUM INTO` 0.6 to 0.9 s, in which every sender waits for all of it; here 0.6 to 0.9 s, and a sender waits
1 ms instead of 0.4 ms, 7 ms at most. Syncing the copy only once, at its end, made the commits of that moment
wait 140 ms, whatever the size of a slice.)

`Connection.backup` of Python returns only at the end, so it runs in a thread of its own, which has the
connection only while `Copy.step` waits for it. Syncing the copy needs no connection.
"""

from __future__ import annotations

import errno
import functools
import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ecorelay import paths
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.core.ops import BackupWritten
from ecorelay.daemon.guard import log_crash
from ecorelay.daemon.store_failure import code_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.core.ops import WriteBackup
    from ecorelay.daemon.store_ledger import Ledger

SLICE_PAGES: Final = 256
"""512 KiB: what a commit waits for at most."""
SLICES_SYNCED: Final = 8
"""After so many slices the copy is synced: a commit that syncs at the same time may have to wait until all
that is written lately is on disk, of both files."""
LEAVE_S: Final = 1.0
"""How long the end of the hub waits for a copy that is being synced."""
_FULL: Final = 13
_DONE: Final = 101
"""Codes of SQLite."""
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_PLACE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOENT, errno.EISDIR)


def want(ledger: Ledger, op: WriteBackup) -> None:
    """See `WriteBackup`. The transaction only notes it: the copy is begun after the commit."""
    ledger.backups.append(op)


class _Aborted(Exception):
    """The copy is not wanted any more."""


class Copy:
    """One copy under way: call :meth:`step` while it has not `ended`, then ask for the :meth:`outcome`.

    Args:
        source: the store's connection; in use by this only within :meth:`step` and :meth:`abort`.
        data_dir: the copy may not lie beside the database.
        target: where to; see `Backup` of the wire.
        then: the core's note of how to go on.
    """

    def __init__(self, source: sqlite3.Connection, data_dir: Path, target: str, then: object) -> None:
        self._then = then
        self.busy = False
        """Whether the copy is being synced, and a step would only wait for that."""
        self._source = source
        self._data_dir = data_dir
        self._target = target
        self._size = 0
        self._error: RelayError | None = None
        self._copied = False
        """Whether the connection is not needed any more."""
        self._aborted = ""
        self._slices = 0
        self._turn = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="ecorelay-backup", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether the copy is complete and on disk, or has failed."""
        return not self._thread.is_alive()

    def step(self) -> None:
        """Copy one more slice."""
        if not self._copied:
            self._turn.release()
            self._back.acquire()

    def abort(self, why: str) -> None:
        """Let go of the connection, for good; the copy fails."""
        self._aborted = why
        self.step()

    def join(self, seconds: float) -> None:
        """Wait for the end of what needs no connection."""
        self._thread.join(seconds)

    def outcome(self) -> Stored | StoreFailed:
        """What the core is to hear. Not complete by now is failed."""
        if self.ended and self._error is None:
            return Stored(self._then, (BackupWritten(self._size),))
        error = self._error or self._explained(_Aborted())
        return StoreFailed(self._then, error.code, error.message)

    # --- in the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        partial: Path | None = None
        try:
            try:
                self._turn.acquire()
                self._look_aborted()
                path = self._checked()
                partial = path.with_name(path.name + ".partial")
                _make(partial)
                self._copy(partial)
            finally:
                self._copied = self.busy = True
                self._back.release()
            self._keep(partial, path)
        except Exception as error:
            self._error = self._explained(error)
            if partial is not None:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)

    def _checked(self) -> Path:
        """The path of the copy.

        Raises:
            RelayError: ``bad_args``, it cannot be there.
        """
        path = Path(self._target)
        remedy = "name a new file in a directory that is there, by its absolute path"
        if "\0" in self._target or not path.is_absolute():
            raise RelayError("bad_args", f"{self._target!r} is no absolute path: {remedy}")
        if not path.parent.is_dir():
            raise RelayError("bad_args", f"there is no directory {path.parent}: make it, or {remedy}")
        if path.parent.samefile(self._data_dir):
            raise RelayError(
                "bad_args", f"{path} lies beside the database and would be lost with it: {remedy}"
            )
        if os.path.lexists(path):
            raise RelayError("bad_args", f"{path} is there already and is not overwritten: {remedy}")
        return path

    def _copy(self, partial: Path) -> None:
        # Nobody else knows the file, so it needs no locks, which not every file system has; and should
        # the machine crash before it is complete, nobody needs what there is of it.
        uri = partial.as_uri() + "?mode=rw&nolock=1"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as copy:
            for pragma in ("journal_mode = OFF", "synchronous = OFF"):
                copy.execute("PRAGMA " + pragma).fetchall()
            with partial.open("rb+") as file:
                self._source.backup(
                    copy, pages=SLICE_PAGES, progress=functools.partial(self._between, file.fileno())
                )

    @staticmethod
    def _mark_complete(partial: Path) -> None:
        """It is all there, without a log: put in place of a database, it is not taken for half of one."""
        # Where the file system has no locks it stays unmarked: a hub that begins with it says a word more.
        with suppress(sqlite3.Error), closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            for pragma in ("locking_mode = EXCLUSIVE", "synchronous = OFF"):
                copy.execute("PRAGMA " + pragma).fetchall()
            copy.execute("INSERT OR REPLACE INTO meta VALUES ('clean', 1)")

    def _between(self, handle: int, status: int, _remaining: int, _total: int) -> None:
        """After each slice: give the connection back, wait for the next turn."""
        if status == _DONE:
            return
        self._slices += 1
        self.busy = self._slices % SLICES_SYNCED == 0
        self._back.release()
        failed: OSError | None = None
        if self.busy:
            try:
                os.fsync(handle)
            except OSError as error:
                failed = error  # to end the copy takes the connection
            self.busy = False
        self._turn.acquire()
        self._look_aborted()
        if failed is not None:
            raise failed

    def _keep(self, partial: Path, path: Path) -> None:
        """The copy is complete: make it last, and give it its name."""
        self._mark_complete(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
            self._size = os.fstat(file.fileno()).st_size
        self._look_aborted()
        if os.path.lexists(path):
            raise RelayError("bad_args", f"{path} was made by another program meanwhile: name a new file")
        partial.rename(path)
        paths.sync_dir(path.parent)

    def _look_aborted(self) -> None:
        if self._aborted:
            raise _Aborted

    def _explained(self, error: Exception) -> RelayError:
        where = f"the backup {self._target}"
        code = error.errno if isinstance(error, OSError) else 0
        match error:
            case RelayError():
                return error
            case _Aborted():
                return RelayError("mailbox_error", f"{where} was given up: {self._aborted}")
            case OSError() if code in _NO_PLACE:
                why = f"cannot be written ({error.strerror}): name a place where you may write"
                return RelayError("bad_args", f"{where} {why}")
            case OSError() | sqlite3.Error() if code in _NO_SPACE or code_of(error) == _FULL:
                why = "the disk is full: free space, or name a place on another disk"
            case OSError() | sqlite3.Error():
                name = getattr(error, "sqlite_errorname", "") or errno.errorcode.get(code or 0, "unknown")
                why = f"the disk failed ({name}): check it, or name a place on another one"
            case _:
                log_crash("backup", error)
                return RelayError(
                    "unexpected", f"{where} failed by a bug of ours: see hub.log, and report it"
                )
        return RelayError("mailbox_error", f"{where} was not made, {why}")


def _make(partial: Path) -> None:
    """An empty file that is only ours, in place of what a hub that died here left."""
    partial.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    os.close(os.open(partial, flags, 0o600))
