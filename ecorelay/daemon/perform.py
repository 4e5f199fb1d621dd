"""The core's actions, done: frames to sessions, units to the store, and what happened back to the core.

The hub is one loop of plain calls: whoever has something that happened (a reader, the store's
delivery, the ticker) calls `Shell.feed`, and when that returns everything it led to is done, queued or
sent. Nothing waits in between.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from ecorelay import link_wire, wire
from ecorelay.core.actions import (
    Action,
    CheckProcess,
    CloseLink,
    CloseSession,
    Describe,
    Push,
    Reload,
    Reply,
    Stop,
    Store,
    ToLink,
)
from ecorelay.core.events import (
    ClockJumped,
    Event,
    ProcessChecked,
    SessionFrame,
    SessionOpened,
    Stored,
    StoreFailed,
)
from ecorelay.core.ops import WriteBackup
from ecorelay.daemon.clock import JumpDetector
from ecorelay.daemon.guard import log_crash
from ecorelay.daemon.log import log
from ecorelay.daemon.reasons import Reason, Tally
from ecorelay.process import is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ecorelay.daemon.clock import Clock
    from ecorelay.daemon.links import Links
    from ecorelay.daemon.ports import Core, Outward
    from ecorelay.daemon.store import Storage
    from ecorelay.errors import RelayError

INPUT_MAX = 16 * 1024 * 1024
"""Bytes that may wait for the store before sessions are no longer read."""


class Facts:
    """What `hub status` says and only the shell knows.

    Args:
        pid: of this process.
        data_dir: as a person would write it.
        durability: see `ecorelay.config`.
        started: mono time.
    """

    def __init__(self, *, pid: int, data_dir: str, durability: str, started: float) -> None:
        self.pid = pid
        self.data_dir = data_dir
        self.durability = durability
        self.started = started


class Shell:
    """The core, the store and the sessions, joined.

    Args:
        core: decides.
        store: keeps; hand what it delivers to :meth:`feed`.
        clock: read once per call of :meth:`feed`.
        facts: see `Facts`.
        tally: its counts go into `hub status`.
        stop: called with a reason when the core wants the hub to end.
        rearm: called after every :meth:`feed`: the core's next deadline may have changed.
    """

    def __init__(
        self,
        *,
        core: Core,
        store: Storage,
        clock: Clock,
        facts: Facts,
        tally: Tally,
        stop: Callable[[str], object],
        rearm: Callable[[], object] = lambda: None,
        alive: Callable[[int, int], bool] = is_alive,
    ) -> None:
        self.core = core
        self.store = store
        self.clock = clock
        self.tally = tally
        self.rearm = rearm
        self.sessions: dict[int, Outward] = {}
        """Those that said hello, by sid. Owned by `sessions`."""
        self.outstanding = 0
        """Units in the store."""
        self.notes: Callable[[], Sequence[str]] = lambda: ()
        """What else a person should know, for `hub status`."""
        self.listening: Callable[[], Sequence[str]] = lambda: ()
        self.relays: Callable[[], Sequence[wire.RelayDetails]] = lambda: ()
        """Where other hubs reach this one, for `hub status`."""
        self.reload: Callable[[Callable[[RelayError | None], object]], object] = lambda then: then(None)
        """Reads bridge.json again, then calls what it was given, with what was wrong."""
        self.on_room: Callable[[], object] = lambda: None
        """Called when the store took something off its backlog."""
        self.links: Links | None = None
        """Streams to other hubs, where there may be any; puts itself here."""
        self._facts = facts
        self._stop = stop
        self._alive = alive
        self._jumps = JumpDetector(clock.now())
        self._events: deque[Event] = deque()
        self._dirty: list[Outward] = []
        self._busy = False
        self._settled = trio.lowlevel.ParkingLot()
        self._copies: list[object] = []
        """Notes of the units in the store that make a copy of the database: answered when it is complete."""

    @property
    def ahead(self) -> int:
        """Units in the store that others wait behind: all but copies, which may take minutes."""
        return self.outstanding - len(self._copies)

    @property
    def full(self) -> bool:
        """Whether so much waits for the store that sessions should not be read."""
        return self.store.backlog_bytes > INPUT_MAX

    def feed(self, events: Iterable[Event]) -> None:
        """Handle what happened, in order, do everything it leads to, then send what is queued.

        Never raises for a bug in handling one event: that is logged, and closes the session the event
        came from.
        """
        self._events.extend(events)
        if self._busy:
            return  # from within an action: the loop below comes to it
        self._busy = True
        now = self.clock.now()
        if seconds := self._jumps.jumped(now):
            log("clock jumped", seconds=round(seconds))
            self._events.appendleft(ClockJumped(seconds))
            if self.links is not None:
                self.links.probe()
        handle = self.core.handle
        queue = self._events
        try:
            while queue:
                event = queue.popleft()
                try:
                    for action in handle(event, now):
                        self._perform(action)
                except Exception as error:
                    self._contain(event, error)
        finally:
            self._busy = False
        self.flush()
        self.rearm()

    def deliver(self, events: Sequence[Stored | StoreFailed]) -> None:
        """What the store has done, once per commit."""
        self.outstanding -= len(events)
        if self._copies:
            answered = {id(event.then) for event in events}
            self._copies = [note for note in self._copies if id(note) not in answered]
        self.feed(events)
        self.on_room()
        if not self.outstanding:
            self._settled.unpark_all()

    async def settled(self) -> None:
        """Wait until the store has answered everything."""
        while self.outstanding:
            await self._settled.park()

    def send(self, out: Outward, data: bytes) -> None:
        """Queue a line for a session; it leaves with the next :meth:`flush`."""
        out.put(data)
        self.queue(out)

    def queue(self, out: Outward) -> None:
        """Something was put there; it leaves with the next :meth:`flush`."""
        if not out.dirty:
            out.dirty = True
            self._dirty.append(out)

    def flush(self) -> None:
        """Send what is queued, one call for each session."""
        for out in self._dirty:
            out.dirty = False
            out.flush()
        self._dirty.clear()

    def _perform(self, action: Action) -> None:
        match action:
            case Reply():
                if (out := self.sessions.get(action.sid)) is not None:
                    self.send(out, wire.encode(action.frame))
            case Push():
                self._push(action)
            case Store():
                self.store.submit(action.ops, action.then)
                self.outstanding += 1
                if action.ops and type(action.ops[0]) is WriteBackup:
                    self._copies.append(action.then)
            case ToLink():
                if self.links is not None:
                    spare = isinstance(action.frame, link_wire.LIVE)
                    self.links.send(action.link, link_wire.encode(action.frame), spare=spare)
            case CloseLink():
                if self.links is not None:
                    self.links.close(action.link, action.reason)
            case CloseSession():
                if (out := self.sessions.get(action.sid)) is not None:
                    out.end(action.reason)
            case CheckProcess():
                alive = self._alive(action.pid, action.start)
                self._events.append(ProcessChecked(action.then, alive))
            case Describe():
                if (out := self.sessions.get(action.sid)) is not None:
                    self.send(out, wire.encode(self._described(action.details)))
            case Reload():
                self.reload(partial(self._reloaded, action))
            case Stop():
                self._stop(action.reason)
            case _:
                raise NotImplementedError(type(action).__name__)

    def _reloaded(self, action: Reload, error: RelayError | None) -> None:
        if (out := self.sessions.get(action.sid)) is None:
            return
        answer: wire.Result = wire.Done(req_id=action.req_id, unread=action.unread)
        if error is not None:
            answer = wire.Failed(
                req_id=action.req_id, code=error.code, message=error.message, unread=action.unread
            )
        self.send(out, wire.encode(answer))
        if not self._busy:
            self.flush()

    def _push(self, action: Push) -> None:
        line = wire.encode(action.frame)
        sessions = self.sessions
        spare = isinstance(action.frame, wire.Activity)
        for sid in action.sids:
            if (out := sessions.get(sid)) is not None:
                if spare:
                    self._offer(out, line)
                else:
                    self.send(out, line)

    def _offer(self, out: Outward, line: bytes) -> None:
        """What an observer watches: it may miss some, and is told how much."""
        if not out.offer(line, self._missed):
            self.tally.count("activity_missed")
        elif not out.dirty:
            out.dirty = True
            self._dirty.append(out)

    def _missed(self, count: int) -> bytes:
        return wire.encode(wire.Activity(what="missed", ts=self.clock.now().wall, count=count))

    def _described(self, details: wire.HubDetails) -> wire.HubDetails:
        facts = self._facts
        counters = dict(details.counters)
        for name, number in self.tally.counts.items():
            counters[name] = counters.get(name, 0) + number
        return msgspec.structs.replace(
            details,
            pid=facts.pid,
            uptime_s=self.clock.now().mono - facts.started,
            durability=facts.durability,
            data_dir=facts.data_dir,
            db_bytes=self.store.size_bytes(),
            links=tuple([self._link(each) for each in details.links]),
            relays=tuple(self.relays()),
            listening=tuple(self.listening()),
            problems=(*details.problems, *self.store.problems, *self.notes()),
            counters=counters,
        )

    def _link(self, details: wire.LinkDetails) -> wire.LinkDetails:
        return details if self.links is None else self.links.describe(details)

    def _contain(self, event: Event, error: Exception) -> None:
        log_crash(type(event).__name__, error)
        self.tally.count("crash")
        sid = event.sid if isinstance(event, SessionOpened | SessionFrame) else 0
        if (out := self.sessions.get(sid)) is not None:
            out.end(Reason.CRASH)
