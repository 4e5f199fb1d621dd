"""Group commit: everything that is pending becomes one transaction.

A run of appends of one kind is done as one bulk; all other units one after the other, in order. If
anything but a refusal goes wrong, the whole is rolled back and each unit tried in a transaction of its own,
so that one bad row does not fail its neighbours.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

from ecorelay.core import ops
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.daemon import store_file, store_mail
from ecorelay.daemon.guard import log_crash
from ecorelay.daemon.log import warn
from ecorelay.daemon.store_failure import Misplaced, code_of, explain, is_damage, is_full
from ecorelay.daemon.store_ledger import Ledger
from ecorelay.daemon.store_ops import APART, DO, READS, REPEATABLE, RUNS
from ecorelay.daemon.store_presence import Presence, write_out
from ecorelay.daemon.store_sql import one
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ecorelay.core.ops import Op, OpResult
    from ecorelay.daemon.store_backup import Copy
    from ecorelay.limits import Limits

Unit = tuple[tuple["Op", ...], Any, int]
"""Ops, the core's note of how to go on, and the bytes they hold."""

HOPELESS_AFTER: Final = 16
"""Units refused by the disk one after the other; the other writes of that batch are not even tried, since
each try may take the disk some time."""


PUT_BACK: Final = "make its directory writable and room on the disk, then try again"
PURGE_INSTEAD: Final = (
    "`ecorelay purge` removes mail, `ecorelay hub stop` first what is to be removed by hand"
)
SCRUB_FAILED: Final = (
    "what was removed may still stand in the log of hub.db, which the disk did not let us empty: "
    "see `ecorelay hub status`, then purge again"
)


def _is_read(unit: Unit) -> bool:
    return all(type(op) in READS for op in unit[0])


def _ends_purge(unit: Unit, event: Stored | StoreFailed) -> bool:
    """Whether it is the last step of a purge. What another one removed is gone: that is no failure."""
    if type(unit[0][0]) is not ops.PurgeMail or isinstance(event, StoreFailed):
        return False
    done: Any = event.results[0]
    return not done.place


def _is_bug(error: Exception) -> bool:
    if is_damage(error):
        return False
    return not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError)


def _passes(kinds: tuple[type[Op], ...], running: tuple[type[Op], ...]) -> bool:
    """Whether a unit of these ops may be done before the run that came before it."""
    return len(kinds) == 1 and kinds[0] in APART and not (kinds[0] is ops.FindOp and ops.SaveOp in running)


def _failed(unit: Unit, error: Exception) -> StoreFailed:
    return StoreFailed(unit[1], "unexpected" if _is_bug(error) else "mailbox_error", explain(error))


class Committer:
    """Owns the connection. Used by one thread at a time.

    Args:
        path: of the database.
        db: open and checked.
        limits: of rings, sizes and times.
        durability: see `store_file`.
        now_ms: wall time.
        problems: what opening it found.
    """

    def __init__(
        self,
        path: Path,
        db: sqlite3.Connection,
        limits: Limits,
        durability: store_file.Durability,
        now_ms: int,
        problems: Sequence[str],
    ) -> None:
        self.path = path
        self.limits = limits
        self.durability = durability
        self.ledger = Ledger(db, limits, now_ms)
        self.lasting: tuple[str, ...] = tuple(problems)
        """Problems that stay until the hub is restarted."""
        self.trouble = ""
        """Why the last write failed; empty once one went through."""
        self.dirty = False
        """Whether anything was written since the last checkpoint."""
        self.copy: Copy | None = None
        """The copy under way. Owned by the store."""
        self._log = path.with_name(path.name + "-wal")
        self._presence = Presence(path)
        self._open = True
        self._damaged = False
        self._commits = one(db, "SELECT value FROM meta WHERE key = 'commits'") or 0

    @property
    def problems(self) -> tuple[str, ...]:
        """What a person should know, one sentence each."""
        return (*self.lasting, self.trouble) if self.trouble else self.lasting

    # --- units ---------------------------------------------------------------------------------------

    def commit(self, batch: Sequence[Unit]) -> list[Stored | StoreFailed]:
        """Do these units and commit. Never raises.

        Returns:
            One event per unit, in order. Whatever is `Stored` is committed.
        """
        try:
            return self._attempt(batch)
        except Exception as error:  # whose it is shows when each is tried alone
            warn("store batch failed", error=type(error).__name__, code=code_of(error), units=len(batch))
        done: list[Stored | StoreFailed] = []
        refusals: list[Exception] = []
        for unit in batch:
            if len(refusals) >= HOPELESS_AFTER and not _is_read(unit):
                done.append(_failed(unit, refusals[-1]))
                continue
            try:
                done += self._attempt((unit,))
                refusals.clear()
            except Exception as error:
                done.append(self._again(unit, error))
                if not _is_bug(error):
                    refusals.append(error)
        return done

    def _again(self, unit: Unit, error: Exception) -> Stored | StoreFailed:
        """A unit failed alone: a read may do without its marks, anything else has failed."""
        self._note(error)
        if (isinstance(error, sqlite3.Error) or is_damage(error)) and _is_read(unit):
            self.ledger.writable = False
            try:
                return self._attempt((unit,))[0]
            except Exception as second:
                self._note(second)
                error = second
            finally:
                self.ledger.writable = True
        return _failed(unit, error)

    def _note(self, error: Exception) -> None:
        """Remember what went wrong, for `hub status` and the log."""
        if _is_bug(error):
            log_crash("store", error)
            return
        sentence = explain(error)
        if is_damage(error):
            self._damaged = True
            if sentence not in self.lasting:
                self.lasting = (*self.lasting, sentence)
        elif sentence != self.trouble:
            warn("store failed", error=getattr(error, "sqlite_errorname", type(error).__name__))
            self.trouble = sentence

    def _attempt(self, batch: Sequence[Unit]) -> list[Stored | StoreFailed]:
        """All units in one transaction; whatever is raised, it left no trace."""
        self._ensure_open()
        self._ensure_there()
        ledger = self.ledger
        db = ledger.db
        ledger.begin()
        written = db.total_changes
        try:
            db.execute("BEGIN IMMEDIATE" if ledger.writable else "BEGIN")
            done = self._do(batch)
            ledger.finish()
            changed = db.total_changes != written
            proof = self._proof(batch) if changed else None
        except BaseException:
            self._roll_back()
            raise
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if is_full(error):
                self._roll_back()
                raise
            # It may have happened all the same: only the file knows.
            if not self._happened(proof):
                raise
        if changed:
            self.dirty = True
            self.trouble = ""
        if ledger.give_back:
            self._give_back(ledger.give_back)
        if ledger.scrub_before >= 0 and not self._scrub(ledger.scrub_before):
            return [
                StoreFailed(event.then, "mailbox_error", SCRUB_FAILED) if _ends_purge(unit, event) else event
                for unit, event in zip(batch, done, strict=True)
            ]
        return done

    def _do(self, batch: Sequence[Unit]) -> list[Stored | StoreFailed]:
        done: list[Any] = [None] * len(batch)
        run: list[int] = []
        """Units of the same ops, `running`."""
        running: tuple[type[Op], ...] = ()
        for index, (unit, _, _) in enumerate(batch):
            kinds = tuple([type(op) for op in unit])
            runs = kinds in RUNS
            if run and (kinds != running if runs else not _passes(kinds, running)):
                self._do_run(batch, run, done)
                run = []
            if runs:
                running = kinds
                run.append(index)
            else:
                done[index] = self._do_unit(batch[index])
        if run:
            self._do_run(batch, run, done)
        return done

    def _do_unit(self, whole: Unit) -> Stored | StoreFailed:
        unit, then, _ = whole
        ledger = self.ledger
        mark, stored_mid = ledger.mark(), ledger.stored_mid
        several = len(unit) != 1
        event: Stored | StoreFailed
        if several:
            ledger.db.execute("SAVEPOINT unit")
        try:
            event = Stored(then, tuple([self._do_op(op) for op in unit]))
        except RelayError as error:
            if several:
                ledger.db.execute("ROLLBACK TO unit")
            ledger.undo(mark)
            ledger.stored_mid = stored_mid
            event = StoreFailed(then, error.code, error.message)
        if several:
            ledger.db.execute("RELEASE unit")
        return event

    def _do_op(self, op: Op) -> OpResult:
        if type(op) is ops.AppendMail:
            [result] = store_mail.append(self.ledger, (op,))
            if isinstance(result, RelayError):
                raise result
            return result
        return DO[type(op)](self.ledger, op)

    def _do_run(self, batch: Sequence[Unit], run: Sequence[int], done: list[Any]) -> None:
        units = [batch[index][0] for index in run]
        outcomes = RUNS[tuple([type(op) for op in units[0]])](self.ledger, units)
        if outcomes is None:  # not so plain that they can be done together
            for index in run:
                done[index] = self._do_unit(batch[index])
            return
        for index, outcome in zip(run, outcomes, strict=True):
            then = batch[index][1]
            if isinstance(outcome, RelayError):
                done[index] = StoreFailed(then, outcome.code, outcome.message)
            else:
                done[index] = Stored(then, outcome)

    # --- when the disk fails -----------------------------------------------------------------------------

    def _proof(self, batch: Sequence[Unit]) -> tuple[str, int] | None:
        """What will be in the database if this commits, and only then; None where it does not matter."""
        if self.ledger.stored_mid:
            return "SELECT mid FROM messages WHERE mid = ?", self.ledger.stored_mid
        if all(type(op) in REPEATABLE for unit in batch for op in unit[0]):
            return None
        self._commits += 1
        self.ledger.db.execute("INSERT OR REPLACE INTO meta VALUES ('commits', ?)", (self._commits,))
        return "SELECT value FROM meta WHERE key = 'commits' AND value = ?", self._commits

    def _happened(self, proof: tuple[str, int] | None) -> bool:
        """Whether a commit that reported an error took place: opens the file again and looks."""
        happened = False
        self._close_connection()
        try:
            self._ensure_open()
            happened = proof is not None and one(self.ledger.db, proof[0], (proof[1],)) is not None
        finally:
            if not happened:
                self.ledger.undo()
            self.ledger.forget()
        return happened

    def _roll_back(self) -> None:
        db = self.ledger.db
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error:
            self._close_connection()
        self.ledger.undo()
        self.ledger.forget()

    def _ensure_open(self) -> None:
        if not self._open:
            self.ledger.db = store_file.connect(self.path, self.limits.data_bytes, self.durability)
            self._open = True
            self._presence.note()

    def _ensure_there(self) -> None:
        """Put back what somebody removed under us: else mail would be acknowledged and never be found.

        Raises:
            sqlite3.Error: it cannot be put back, `Misplaced` among others.
        """
        missing = self._presence.missing()
        if not missing:
            return
        if self.copy is not None:
            self.copy.abort("hub.db was removed meanwhile: try again")
        if missing == "log":
            self.ledger.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._close_connection()
        else:
            try:
                new = store_file.begin_file(self.path)
                write_out(self.ledger.db, new)
                self._close_connection()
                store_file.name_file(new, self.path)
            except OSError as error:
                raise Misplaced(
                    f"hub.db was removed and cannot be put back ({error.strerror}): {PUT_BACK}"
                ) from error
        self.ledger.forget()
        self._ensure_open()
        warn("put back", what=missing)
        name = self._log.name if missing == "log" else self.path.name
        sentence = (
            f"{name} was removed while the hub ran, and was put back with all mail in it: {PURGE_INSTEAD}"
        )
        if sentence not in self.lasting:
            self.lasting = (*self.lasting, sentence)

    def _close_connection(self) -> None:
        self._open = False
        if self.copy is not None:  # it would keep the file locked against who opens it again
            self.copy.abort("the disk failed meanwhile: try again")
        try:
            self.ledger.db.close()
        except sqlite3.Error as error:
            warn("store failed", error=getattr(error, "sqlite_errorname", type(error).__name__))

    # --- upkeep ------------------------------------------------------------------------------------------

    def log_is_long(self) -> bool:
        """Whether a checkpoint is due even without a pause."""
        try:
            return self._log.stat().st_size > store_file.WAL_BYTES
        except OSError:
            return False

    def _give_back(self, pages: int) -> None:
        try:
            # By script, which Python runs to its end; a single statement it would step once, for one page.
            self.ledger.db.executescript(f"PRAGMA incremental_vacuum({pages})")
        except sqlite3.Error as error:
            self._note(error)

    def _scrub(self, before: int) -> bool:
        """After a purge: empty the log, which holds what was written before it was overwritten.

        Args:
            before: files of texts that were made earlier (ms) go too.
        """
        store_file.remove_old_texts(self.path.parent, before)
        try:
            busy: int = self.ledger.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error as error:
            self._note(error)
            return False
        return not busy

    def checkpoint(self) -> None:
        """Move what is in the log into the file, while nobody waits."""
        self.dirty = False
        try:
            self._ensure_open()
            self.ledger.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            self._note(error)

    def close(self) -> None:
        """Leave one complete file, marked as such."""
        try:
            self._ensure_open()
            self._ensure_there()
            db = self.ledger.db
            if self._damaged:  # the next start looks at every page
                db.execute("INSERT OR REPLACE INTO meta VALUES ('suspect', 1)")
            else:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('clean', 1)")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            self._note(error)
        self._close_connection()

    def abandon(self) -> None:
        """Let go of the file as it is, unmarked: the next start checks it as after a crash."""
        self._close_connection()
