"""One connection of the local hop, from its first byte to its last."""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import msgspec
import trio

from ecorelay import __version__, wire
from ecorelay.core.events import SessionClosed, SessionFrame, SessionOpened
from ecorelay.daemon.greet import HELLO_S, Turned, prove, read_hello
from ecorelay.daemon.guard import guard
from ecorelay.daemon.lines import Lines
from ecorelay.daemon.outqueue import OUT_PAUSE, OutQueue
from ecorelay.daemon.reasons import Ended, Reason
from ecorelay.daemon.streams import SocketStream
from ecorelay.errors import WireError
from ecorelay.process import start_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ecorelay.daemon.sessions import Sessions
    from ecorelay.errors import Code

BAD_LINES_MAX = 100
"""Lines that are no frames, less the frames between them, after which nothing sensible is to be expected."""
BAD_LINE_S = 0.001
"""Seconds for which nobody who sent such a line is read, for each of them."""
SLICE_S = 0.0005
"""Seconds for which one connection keeps the loop to itself, then others get their turn."""
SLICE_FRAMES = 64
"""Frames handed to the core at once, at most; fewer while they take it longer than that."""
SLICE_BYTES = 64 * 1024
"""Bytes of frames handed over at once; one may overshoot it."""
IN_STORE_UNITS = 512
"""Units of one connection in the store, beyond which it is not read: others wait behind them."""
IN_STORE_BYTES = 1024 * 1024
"""The same for the bytes of its lines that led to them."""
COMMITS_AHEAD = 3
"""Commits after which a unit is done: one may be delivered, one be under way, and it is in the next."""
DRAIN_S = 2.0
"""Seconds for what is queued to leave when a connection ends."""
LAST_WORDS_S = 2.0
"""Seconds to read what the other side wrote before it stopped to read."""
READS = frozenset({wire.Inbox, wire.GroupHistory})
"""Requests for pages: a short line that may bring much."""
_ENDS = READS | {wire.Bye}
"""What ends a slice."""
LINGER_S = 0.5
"""Seconds a TCP connection stays half open at its end: closed at once, it may lose what was sent last."""


class InStore:
    """How much of what somebody said is in the store, as far as can be told without following every unit.

    With more than fits in one commit waiting, this forgets some of it too early; the next commits catch up.

    Args:
        commits: how many there were so far.
        empty: whether nothing is in the store that anybody waits behind.
    """

    def __init__(self, commits: Callable[[], int], empty: Callable[[], bool]) -> None:
        self._commits = commits
        self._empty = empty
        self._parts: deque[tuple[int, int, int]] = deque()
        self.units = 0
        self.bytes = 0

    def add(self, units: int, size: int) -> None:
        """So many units were submitted just now."""
        self._parts.append((self._commits() + COMMITS_AHEAD, units, size))
        self.units += units
        self.bytes += size

    def settle(self) -> None:
        """Forget what is done by now."""
        parts = self._parts
        while parts and (self._empty() or parts[0][0] <= self._commits()):
            _, units, size = parts.popleft()
            self.units -= units
            self.bytes -= size


class Connection:
    """One connection. Made and run by `Sessions.serve`."""

    def __init__(self, sessions: Sessions, stream: trio.abc.Stream, pid: int | None) -> None:
        self.sid = 0
        """Its number from hello on."""
        self._sessions = sessions
        self._shell = sessions.shell
        self._stream = stream
        self._pid = pid
        self._reading = trio.CancelScope()
        self._reason = ""
        self._bad_lines = 0
        self._penance = 0
        """Bad lines it has not waited for yet."""
        self._in_store = sessions.new_in_store()
        self._frames_at_once = SLICE_FRAMES
        self._ahead = b""
        """A line that was taken from its read and is the next slice's."""
        self._said = 0
        """Bytes of the frames of the last slice."""
        self._busy = False
        """Its last read was more than one slice."""

    def end(self, reason: str) -> None:
        """End the connection: nothing more is read, what is queued is flushed. The first reason counts."""
        self._reason = self._reason or reason
        if reason is Reason.BROKEN:
            self._reading.deadline = min(self._reading.deadline, trio.current_time() + LAST_WORDS_S)
        else:
            self._reading.cancel()

    async def run(self) -> str:
        """Serve it.

        Returns:
            Why it ended.
        """
        lines = Lines(self._stream, self._sessions.places)
        async with trio.open_nursery() as nursery:
            out = OutQueue(self._stream, nursery, self.end)
            try:
                with self._reading:
                    ended = await guard(partial(self._converse, lines, out))
                    self._reason = self._reason or ended
            finally:
                lines.close()
                self._left()
            await self._drain(out)
            out.close()
            nursery.cancel_scope.cancel()
        return self._reason

    async def _converse(self, lines: Lines, out: OutQueue) -> str:
        try:
            hello = await self._greet(lines)
            self._enter(hello, lines, out)
        except Turned as turned:
            out.put(wire.encode(turned.frame))
            raise
        batch = lines.rest()
        while True:
            more = await self._take(batch, out)
            self._busy = more
            while more:
                more = await self._take(batch, out)
            batch = await lines.read()

    async def _greet(self, lines: Lines) -> wire.Hello:
        sessions = self._sessions
        with trio.move_on_after(HELLO_S):
            if sessions.token:
                await prove(lines, self._stream, sessions.token, sessions.new_nonce)
            return await read_hello(lines, __version__)
        raise Ended(Reason.HELLO_TIMEOUT)

    def _enter(self, hello: wire.Hello, lines: Lines, out: OutQueue) -> None:
        self.sid = self._sessions.admit(self)
        lines.allow(wire.LINE_MAX)
        pid = hello.pid if self._pid is None else self._pid
        if pid and (pid != hello.pid or not hello.pid_start):
            hello = msgspec.structs.replace(hello, pid=pid, pid_start=start_time(pid))
        self._shell.sessions[self.sid] = out
        self._shell.feed((SessionOpened(self.sid, hello, pid),))

    def _left(self) -> None:
        if not self._reason:
            self._reason = Reason.STOPPED if self._sessions.closing else Reason.CRASH
        if self._shell.sessions.pop(self.sid, None) is not None:
            self._shell.feed((SessionClosed(self.sid, self._reason),))

    # --- what it says ------------------------------------------------------------------------------------

    async def _take(self, batch: Iterator[bytes], out: OutQueue) -> bool:
        """Handle a slice of the lines of one read together, then wait while more would be too much.

        Returns:
            Whether more of them are left.

        Raises:
            Ended: the connection is to end; what came before that was handled.
        """
        # Who says much takes turns with all others that do: together they keep the loop for one slice.
        async with self._sessions.busy if self._busy else nullcontext():
            events, more, ended = self._decode(batch, out)
            asks = bool(events) and type(events[-1].frame) in READS
            if not asks:
                self._feed(events)
        if asks:
            await self._sessions.wait_reads()
            self._feed(events)
        if ended is not None:
            raise ended
        if self._penance:
            seconds, self._penance = self._penance * BAD_LINE_S, 0
            await trio.sleep(seconds)
        await self._pace(out)
        return more

    def _decode(self, batch: Iterator[bytes], out: OutQueue) -> tuple[list[SessionFrame], bool, Ended | None]:
        """A slice of frames, whether more lines are left, and why the connection ends behind these."""
        events: list[SessionFrame] = []
        if self._sessions.closing:
            return events, False, None
        if self._ahead:
            batch = chain((self._ahead,), batch)
            self._ahead = b""
        began = trio.current_time()
        at_once = self._frames_at_once
        said = 0
        full = False
        try:
            for line in batch:
                if full:
                    self._ahead = line
                    return events, True, None
                try:
                    frame = wire.decode_from_session(line)
                except WireError as error:
                    self._complain(out, error)
                    full = trio.current_time() - began > SLICE_S
                    continue
                if self._bad_lines:
                    self._bad_lines -= 1
                events.append(SessionFrame(self.sid, frame))
                said += len(line)
                full = len(events) >= at_once or said > SLICE_BYTES
                if (kind := type(frame)) in _ENDS:
                    if kind is wire.Bye:
                        return events, False, Ended(Reason.BYE)
                    full = True
        except WireError as error:
            # From the iteration: the line is too long, and where the next one begins is unknown.
            self._say(out, error.req_id, "too_large", error.message, last=True)
            return events, False, Ended(Reason.LINE_TOO_LONG)
        except Ended as error:
            return events, False, error
        finally:
            self._said = said
        return events, False, None

    def _feed(self, events: list[SessionFrame]) -> None:
        """Hand them to the core, and learn what they cost."""
        shell = self._shell
        if self._sessions.closing:
            return
        before = shell.outstanding
        if len(events) == 1 and self._frames_at_once == SLICE_FRAMES:
            shell.feed(events)
        else:
            began = trio.current_time()
            shell.feed(events)
            if trio.current_time() - began > SLICE_S:
                self._frames_at_once = max(1, len(events) // 2)
            elif self._frames_at_once < SLICE_FRAMES:
                self._frames_at_once += 1
        if events and (units := shell.outstanding - before):
            self._in_store.add(units, self._said)
            if type(events[-1].frame) in READS:
                self._sessions.reads.add(1, 0)

    def _complain(self, out: OutQueue, error: WireError) -> None:
        self._bad_lines += 1
        self._penance += 1
        self._shell.tally.count("bad_msg")
        last = self._bad_lines >= BAD_LINES_MAX
        self._say(out, error.req_id, "bad_msg", error.message, last=last)
        if last:
            raise Ended(Reason.GARBAGE)

    def _say(self, out: OutQueue, req_id: int | None, code: Code, message: str, *, last: bool) -> None:
        if req_id is not None:
            self._shell.send(out, wire.encode(wire.Failed(req_id=req_id, code=code, message=message)))
        if last:
            self._shell.send(out, wire.encode(wire.Bye(reason=message, code=code)))

    async def _pace(self, out: OutQueue) -> None:
        """Wait while reading more would only make more wait elsewhere."""
        if self._sessions.closing:
            await trio.sleep_forever()
        if out.size > OUT_PAUSE:
            await out.wait_below(OUT_PAUSE)
        in_store = self._in_store
        if in_store.units:
            in_store.settle()
        while in_store.units > IN_STORE_UNITS or in_store.bytes > IN_STORE_BYTES:
            await self._sessions.wait_commit()
            in_store.settle()
        if self._shell.full:
            await self._sessions.wait_room()

    async def _drain(self, out: OutQueue) -> None:
        out.flush()
        with trio.move_on_after(DRAIN_S):
            await out.wait_below(0)
        stream = self._stream
        if out.broken or not isinstance(stream, SocketStream) or not stream.lingers:
            return
        try:
            with trio.move_on_after(LINGER_S):
                await stream.send_eof()
                while await stream.receive_some():
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
