"""One connection of the local hop, from its first byte to its last."""

from __future__ import annotations

from functools import partial
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
    from collections.abc import Iterable

    from ecorelay.daemon.sessions import Sessions
    from ecorelay.errors import Code

BAD_LINES_MAX = 100
"""Lines in a row that are no frames, after which nothing sensible is to be expected."""
DRAIN_S = 2.0
"""Seconds for what is queued to leave when a connection ends."""
LAST_WORDS_S = 2.0
"""Seconds to read what the other side wrote before it stopped to read."""
LINGER_S = 0.5
"""Seconds a TCP connection stays half open at its end: closed at once, it may lose what was sent last."""


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
            self._take(batch, out)
            await self._pace(out)
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

    def _take(self, batch: Iterable[bytes], out: OutQueue) -> None:
        """Handle all lines of one read together.

        Raises:
            Ended: the connection is to end; what came before that was handled.
        """
        if self._sessions.closing:
            return
        events: list[SessionFrame] = []
        ended = None
        try:
            for line in batch:
                try:
                    frame = wire.decode_from_session(line)
                except WireError as error:
                    self._complain(out, error)
                else:
                    self._bad_lines = 0
                    events.append(SessionFrame(self.sid, frame))
        except WireError as error:
            # From the iteration: the line is too long, and where the next one begins is unknown.
            ended = Ended(Reason.LINE_TOO_LONG)
            self._say(out, error.req_id, "too_large", error.message, last=True)
        except Ended as error:
            ended = error
        self._shell.feed(events)
        if ended is not None:
            raise ended
        if events and type(events[-1].frame) is wire.Bye:
            raise Ended(Reason.BYE)

    def _complain(self, out: OutQueue, error: WireError) -> None:
        self._bad_lines += 1
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
