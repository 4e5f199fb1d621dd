"""The requests of one client that have no answer yet, and those whose answer nobody wants any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from ecorelay import wire
from ecorelay.errors import RelayError, WireError
from ecorelay.requests import asked_by_another, said_again

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay.connection import Connection


class OpenRequest:
    """A request and, in time, its answer.

    Args:
        frame: numbered.
        deadline: when its caller gives up, on Trio's clock.
    """

    __slots__ = ("answer", "answered", "deadline", "frame", "sent")

    def __init__(self, frame: wire.Request, deadline: float) -> None:
        self.frame = frame
        self.deadline = deadline
        self.sent = False
        self.answer: wire.Result | RelayError | None = None
        self.answered = trio.Event()

    def settle(self, answer: wire.Result | RelayError) -> None:
        """Let the caller have `answer`; the first one counts."""
        if self.answer is None:
            self.answer = answer
            self.answered.set()


class OpenRequests:
    """Asks, on whatever connection there is, and says everything again on the next one.

    Args:
        new_id: makes a fresh op_id.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._next_req_id = 1
        # A dict keeps the order in which they were asked.
        self._open: dict[int, OpenRequest] = {}
        # Owned by the present connection, and forgotten with it:
        self._connection: Connection | None = None
        self._unwanted: dict[int, wire.Request] = {}
        self._unwanted_changed = trio.Event()
        self.rooms: dict[str, None] = {}
        """Joined here, in that order."""

    @property
    def any_open(self) -> bool:
        """Whether somebody waits."""
        return bool(self._open)

    def numbered(self, frame: wire.Request) -> wire.Request:
        """`frame` with a req_id of ours, and with an op_id if it needs one and has none."""
        req_id, self._next_req_id = self._next_req_id, self._next_req_id + 1
        if isinstance(frame, wire.Mutation) and not frame.op_id:
            return msgspec.structs.replace(frame, req_id=req_id, op_id=self._new_id())
        return msgspec.structs.replace(frame, req_id=req_id)

    async def ask(self, entry: OpenRequest, line: bytes) -> None:
        """Send `line`, the encoded `entry.frame`, now or when there is a connection; wait for the answer.

        Cancelled, it sees to it that no mail stays leased to nobody; `entry.answer` may be there then
        all the same, if it is no page.
        """
        if isinstance(entry.frame, wire.Inbox | wire.GroupHistory):
            await self._pages_given_back()
        self._open[entry.frame.req_id] = entry
        if self._connection is not None:
            entry.sent = True
            self._connection.queue(line)
        try:
            await entry.answered.wait()
        except BaseException:
            self._abandon(entry)
            raise
        finally:
            del self._open[entry.frame.req_id]

    async def _pages_given_back(self) -> None:
        """Wait until no page that was given up is still on its way: the next one would skip its mail."""
        while any(isinstance(frame, wire.Inbox | wire.GroupHistory) for frame in self._unwanted.values()):
            await self._unwanted_changed.wait()

    def _abandon(self, entry: OpenRequest) -> None:
        frame = entry.frame
        if isinstance(entry.answer, wire.InboxPage | wire.GroupPage):
            # It came in the moment of the cancellation.
            self._give_back(frame, entry.answer)
            entry.answer = None
        elif self._connection is not None and entry.answer is None:
            if isinstance(frame, wire.Inbox | wire.GroupHistory):
                self._unwanted[frame.req_id] = frame
            if isinstance(frame, wire.Inbox):
                self._connection.queue(wire.encode(wire.Cancel(req_id=frame.req_id)))

    def _give_back(self, frame: wire.Request, page: wire.Result) -> None:
        match page:
            case wire.InboxPage(lease=lease) if lease:
                self._tell(wire.Release(req_id=0, lease=lease))
            case wire.GroupPage(messages=messages) if messages:
                assert isinstance(frame, wire.GroupHistory)
                self._tell(wire.GroupRelease(req_id=0, group=frame.group))

    def _tell(self, frame: wire.Request) -> None:
        """Send a request of our own; `_unwanted_answered` sees its answer."""
        if self._connection is not None:
            frame = self.numbered(frame)
            self._unwanted[frame.req_id] = frame
            self._connection.queue(wire.encode(frame))

    def resume(self, connection: Connection) -> None:
        """Go on with a new connection: rejoin rooms, then say again what is open, in its order."""
        self._connection = connection
        # Rooms first: what is said in them is among the open requests.
        for room in self.rooms:
            self._tell(wire.Join(req_id=0, room=room))
        now = trio.current_time()
        for entry in self._open.values():
            if entry.answer is not None:
                continue
            # A read that waits has waited already, whether or not a hub knew of it.
            again = entry.sent or isinstance(entry.frame, wire.Inbox)
            frame = said_again(entry.frame, entry.deadline - now) if again else entry.frame
            if isinstance(frame, wire.Request):
                entry.sent = True
                connection.queue(wire.encode(frame))
            else:
                entry.settle(frame)

    def another_asks(self, before: str, now: str) -> None:
        """We are another peer from now on: what that one was about to do is not done again in its place.

        Args:
            before: its name.
            now: ours.
        """
        for entry in self._open.values():
            if entry.sent and (error := asked_by_another(entry.frame, before, now)) is not None:
                entry.settle(error)

    def lost(self) -> None:
        """The connection is gone, and its leases with it."""
        self._connection = None
        self._unwanted.clear()
        self._say_unwanted_changed()

    def fail(self, error: RelayError) -> None:
        """Answer all that is open with `error`, and what is known besides."""
        for entry in self._open.values():
            known = "; what was asked of the last hub may have been done" if entry.sent else ""
            entry.settle(RelayError(error.code, error.message + known))

    def unreadable(self, error: WireError) -> None:
        """A line came that is no frame; if it seems to answer a request, its caller learns of it."""
        entry = self._open.get(error.req_id) if error.req_id is not None else None
        if entry is not None:
            entry.settle(RelayError("unexpected", f"the hub's answer makes no sense: {error.message}"))

    def answered(self, answer: wire.Result) -> wire.Request | None:
        """An answer came. Gives the request it was awaited for, or None."""
        entry = self._open.get(answer.req_id)
        if entry is None:
            self._unwanted_answered(answer)
            return None
        match entry.frame, answer:
            case wire.Join(room=room), wire.RoomMembers():
                self.rooms[room] = None
            case wire.Leave(room=room), wire.Done():
                self.rooms.pop(room, None)
        entry.settle(answer)
        return entry.frame

    def _say_unwanted_changed(self) -> None:
        self._unwanted_changed.set()
        self._unwanted_changed = trio.Event()

    def _unwanted_answered(self, answer: wire.Result) -> None:
        match self._unwanted.pop(answer.req_id, None):
            case wire.Inbox() | wire.GroupHistory() as frame:
                self._give_back(frame, answer)
            case wire.Join(room=room) if isinstance(answer, wire.Failed):
                self.rooms.pop(room, None)
        self._say_unwanted_changed()
