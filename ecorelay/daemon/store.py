"""The store: owns hub.db, does the core's units in the order of submission, commits them in groups.

`Store` works in a thread of its own; `InlineStore` does the same when it is told to, for tests and for the
simulator. Both answer every unit with exactly one event, after its commit.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from functools import cache
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol

from ecorelay.core.events import Stored, StoreFailed
from ecorelay.core.ops import WriteBackup
from ecorelay.daemon import store_file, store_peers
from ecorelay.daemon.guard import log_crash
from ecorelay.daemon.store_backup import LEAVE_S, Copy
from ecorelay.daemon.store_commit import Committer, Unit
from ecorelay.daemon.store_failure import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

    from ecorelay.core.ops import Op, Snapshot
    from ecorelay.daemon.store_file import Durability
    from ecorelay.limits import Limits

    Deliver = Callable[[list[Stored | StoreFailed]], object]

__all__ = ["InlineStore", "Storage", "Store", "StoreUnusable"]

UNITS_MAX: Final = 4_096
BYTES_MAX: Final = 16 * 1024 * 1024
"""One transaction takes no more than this, so that its first unit does not wait long for its last."""
COPY_LOOK_S: Final = 0.002
"""How often it is looked whether a copy has been synced, so that it can go on."""
IDLE_S: Final = 0.25
"""Without work for so long, the log is moved into the file."""
UNIT_BYTES: Final = 200
"""Reckoned for a unit besides its texts."""
SWITCH_S: Final = 0.0001
"""`sys.setswitchinterval` while the thread runs: a commit takes the interpreter's lock some ten times,
and each time waits this long at most for a loop in the middle of long work."""
ONE_COPY: Final = "a backup is being made: wait until it is done, then ask again"
NO_COPY: Final = (
    "no backup could be begun, for want of memory or of threads: end some programs, then try again"
)
CLOSED: Final = "the hub is stopping: send again once it is back"


class Storage(Protocol):
    """What the daemon needs of a store."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What a person should know, one sentence each."""
        ...

    @property
    def backlog_bytes(self) -> int:
        """Reckoned bytes of units submitted and not yet delivered."""
        ...

    def snapshot(self) -> Snapshot:
        """What the core starts from. Before :meth:`start`."""
        ...

    def start(self, deliver: Deliver) -> None:
        """Begin to work. `deliver` gets one event per unit, in order, a list for each commit."""
        ...

    def submit(self, unit: tuple[Op, ...], then: Any) -> None:
        """Have a unit done: wholly, or not at all. Never waits."""
        ...

    def size_bytes(self) -> int:
        """Bytes on disk."""
        ...

    def close(self) -> None:
        """Finish what was submitted, deliver it, leave one complete file."""
        ...


def _bytes_of(unit: tuple[Op, ...]) -> int:
    """What a unit holds in memory, roughly; exact for texts of ASCII."""
    return UNIT_BYTES + sum([_bytes_of_op(op) for op in unit])


def _bytes_of_op(op: Any) -> int:
    size = 0
    kind: Any = type(op)
    for name in _large(kind):
        part = getattr(op, name)
        if type(part) is str:
            size += len(part) if part.isascii() else 4 * len(part)
        elif type(part) is tuple:
            size += sum([_bytes_of_op(each) for each in part])
        elif part is not None:
            size += _bytes_of_op(part)
    return size


@cache
def _large(kind: Any) -> tuple[str, ...]:
    """Fields that are a text, or hold some."""
    fields: tuple[str, ...] = getattr(kind, "__struct_fields__", ())
    return tuple([name for name in fields if name in ("text", "line", "mail", "far", "lines")])


class _Base:
    """What both kinds share: the file, and the count of what is under way."""

    def __init__(self, path: Path, committer: Committer) -> None:
        self._path = path
        self._committer = committer
        self._deliver: Deliver = lambda events: None
        # Each counts up in one thread only, so the difference needs no lock.
        self._taken_in = 0
        self._handed_on = 0

    @classmethod
    def open(cls, data_dir: Path, limits: Limits, durability: Durability, now_ms: int) -> Self:
        """Open the database of `data_dir`, or make one.

        Args:
            data_dir: absolute; made with mode 0700 if it is missing.
            limits: of rings, sizes and times.
            durability: whether an acknowledgement outlives a power failure, or a crash of the hub only.
            now_ms: wall time.

        Raises:
            StoreUnusable: with the remedy; nothing was changed.
        """
        db, problems = store_file.open_database(data_dir, limits.data_bytes, durability, now_ms)
        path = data_dir / store_file.NAME
        return cls(path, Committer(path, db, limits, durability, now_ms, problems))

    @property
    def problems(self) -> tuple[str, ...]:
        """See `Storage`."""
        return self._committer.problems

    @property
    def backlog_bytes(self) -> int:
        """See `Storage`."""
        return self._taken_in - self._handed_on

    def snapshot(self) -> Snapshot:
        """See `Storage`."""
        return store_peers.snapshot(self._committer.ledger.db)

    def size_bytes(self) -> int:
        """See `Storage`. The log included."""
        size = 0
        for path in (self._path, self._path.with_name(store_file.NAME + "-wal")):
            with suppress(OSError):
                size += path.stat().st_size  # no descriptor: see `store_file`
        return size

    def _commit(self, batch: Sequence[Unit]) -> None:
        events = self._committer.commit(batch)
        self._handed_on += sum([unit[2] for unit in batch])
        if self._committer.ledger.backups:
            events = self._begin_copy(batch, events)
        if events:
            self._hand_over(events)
        if self._committer.log_is_long():
            self._committer.checkpoint()

    # --- copies --------------------------------------------------------------------------------------

    def _begin_copy(
        self, batch: Sequence[Unit], events: list[Stored | StoreFailed]
    ) -> list[Stored | StoreFailed]:
        """Begin the copy that is wanted. Its unit is answered when it has ended, all others now."""
        committer = self._committer
        committer.ledger.backups.clear()
        now: list[Stored | StoreFailed] = []
        for (unit, then, _), event in zip(batch, events, strict=True):
            op = unit[0]
            if type(op) is not WriteBackup or isinstance(event, StoreFailed):
                now.append(event)
            elif committer.copy is not None:
                now.append(StoreFailed(then, "limit_reached", ONE_COPY))
            else:
                try:
                    committer.copy = Copy(committer.ledger.db, self._path.parent, op.path, then)
                except RuntimeError as error:  # no thread can be started; nothing else needs one
                    log_crash("backup", error)
                    now.append(StoreFailed(then, "unexpected", NO_COPY))
        return now

    def _copy_on(self) -> None:
        """Go on with the copy under way, if there is one, for as long as a commit may have to wait for it."""
        copy = self._committer.copy
        if copy is None:
            return
        if not copy.busy:
            copy.step()
        if copy.ended:
            self._committer.copy = None
            self._hand_over([copy.outcome()])

    def _end_copy(self) -> None:
        """No more of it: the store is closed."""
        copy, self._committer.copy = self._committer.copy, None
        if copy is not None:
            copy.abort("the hub is stopping: ask again once it is back")
            copy.join(LEAVE_S)
            self._hand_over([copy.outcome()])

    def _refuse(self, batch: Sequence[Unit], code: Any, message: str) -> None:
        self._handed_on += sum([unit[2] for unit in batch])
        if batch:
            self._hand_over([StoreFailed(then, code, message) for _, then, _ in batch])

    def _hand_over(self, events: list[Stored | StoreFailed]) -> None:
        try:
            self._deliver(events)
        except Exception as error:
            # Nobody is left to hear it; what is pending is committed all the same.
            log_crash("store delivery", error)


class Store(_Base):
    """The store of a hub: one thread, one connection. Make it by :meth:`open`."""

    def __init__(self, path: Path, committer: Committer) -> None:
        super().__init__(path, committer)
        self._queue: SimpleQueue[Unit | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._gate = threading.Lock()
        """Held while a unit is let in, and while it is decided that no more are."""
        self._refused: tuple[Any, str] | None = None
        """Why no more units are let in."""
        self._switch_s = sys.getswitchinterval()

    def start(self, deliver: Deliver) -> None:
        """See `Storage`. `deliver` is called in the store's thread and must not wait."""
        self._deliver = deliver
        sys.setswitchinterval(min(SWITCH_S, self._switch_s))
        self._thread = threading.Thread(target=self._run, name="ecorelay-store", daemon=True)
        self._thread.start()

    def submit(self, unit: tuple[Op, ...], then: Any) -> None:
        """See `Storage`."""
        size = _bytes_of(unit)
        with self._gate:
            self._taken_in += size
            if self._refused is None:
                self._queue.put((unit, then, size))
                return
        self._refuse(((unit, then, size),), *self._refused)

    def close(self) -> None:
        """See `Storage`. Waits for the last commit. Twice is fine."""
        with self._gate:
            if self._refused is None:
                self._refused = ("mailbox_error", CLOSED)
            self._queue.put(None)
        if self._thread is None:
            self._run()
        elif self._thread is not threading.current_thread():
            self._thread.join()
        sys.setswitchinterval(self._switch_s)

    def _run(self) -> None:
        batch: list[Unit] = []
        try:
            while self._collect(batch):
                if batch:
                    self._commit(batch)
                    batch = []
                self._copy_on()
        except BaseException as error:
            # A bug: the hub goes on without a store, and everybody who asks it for something hears why.
            log_crash("store thread", error)
            message = "the store stopped unexpectedly: restart the hub, see hub.log, and please report it"
            with self._gate:
                self._refused = ("unexpected", message)
            self._committer.lasting = (*self._committer.lasting, message)
            self._refuse([*batch, *self._drain()], "unexpected", message)
        finally:
            self._end_copy()
            self._committer.close()

    def _collect(self, batch: list[Unit]) -> bool:
        """Wait for work and take what there is; False when there will be no more.

        While a copy is being made nobody is waited for: then there may be nothing.
        """
        queue = self._queue
        copy = self._committer.copy
        try:
            if copy is not None:
                unit = queue.get(timeout=COPY_LOOK_S) if copy.busy else queue.get_nowait()
            else:
                unit = queue.get(timeout=IDLE_S if self._committer.dirty else None)
        except Empty:
            if copy is not None:
                return True
            self._committer.checkpoint()
            unit = queue.get()
        size = 0
        while unit is not None:
            batch.append(unit)
            size += unit[2]
            if len(batch) >= UNITS_MAX or size >= BYTES_MAX:
                return True
            try:
                unit = queue.get_nowait()
            except Empty:
                return True
        if batch:
            queue.put(None)  # the end stays for the next time
        return bool(batch)

    def _drain(self) -> list[Unit]:
        left: list[Unit] = []
        with suppress(Empty):
            while True:
                unit = self._queue.get_nowait()
                if unit is not None:
                    left.append(unit)
        return left


class InlineStore(_Base):
    """The same without a thread: units wait until `run_pending`. Make it by :meth:`open`."""

    def __init__(self, path: Path, committer: Committer) -> None:
        super().__init__(path, committer)
        self._pending: list[Unit] = []
        self._closed = False

    @property
    def pending(self) -> int:
        """Units submitted and not done."""
        return len(self._pending)

    def start(self, deliver: Deliver) -> None:
        """See `Storage`."""
        self._deliver = deliver

    def submit(self, unit: tuple[Op, ...], then: Any) -> None:
        """See `Storage`."""
        size = _bytes_of(unit)
        self._taken_in += size
        if self._closed:
            self._refuse(((unit, then, size),), "mailbox_error", CLOSED)
        else:
            self._pending.append((unit, then, size))

    def run_pending(self) -> bool:
        """Do and deliver what is pending, and what that leads to; whether there was anything."""
        worked = False
        while self._pending or self._committer.copy is not None:
            worked = True
            batch = self._pending[:UNITS_MAX]
            del self._pending[:UNITS_MAX]
            if batch:
                self._commit(batch)
            if (copy := self._committer.copy) is not None and copy.busy:
                copy.join(COPY_LOOK_S)
            self._copy_on()
        return worked

    def close(self) -> None:
        """See `Storage`."""
        if not self._closed:
            self.run_pending()
            self._closed = True
            self._committer.close()

    def crash(self) -> None:
        """Lose what is not committed, as a killed process does."""
        if not self._closed:
            self._closed = True
            self._pending.clear()
            self._end_copy()
            self._committer.abandon()
