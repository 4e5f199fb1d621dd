"""How a process talks to the hub: one connection that heals itself, and requests that survive it.

    async with open_hub_client(hello, connect=hub_connector(paths, environ)) as client:
        sent = await client.request(wire.Send(req_id=0, op_id="", to="alice", text="hello"))

A lost connection is made again (starting a hub if `connect` does that), the same peer is greeted, rooms
are rejoined, and the requests still open are sent again in their order; each mutation keeps its op_id,
so it happens once. What ends a client for good is a hub that refuses it, or another session that took
its name: it does not fight for it.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import trio

from ecorelay import wire
from ecorelay.bytegate import ByteGate
from ecorelay.callbacks import Callbacks
from ecorelay.errors import RelayError, WireError
from ecorelay.keeper import Keeper, idle_pause
from ecorelay.names import key, new_id
from ecorelay.open_requests import OpenRequest, OpenRequests
from ecorelay.process import start_time
from ecorelay.requests import ANSWERS, Asking, RequestError, no_answer, seconds_to_wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ecorelay.callbacks import Handler
    from ecorelay.connection import Connection
    from ecorelay.keeper import Connect

__all__ = ["Handlers", "HubClient", "idle_pause", "open_hub_client"]

OPEN_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of requests without an answer; then `request` waits."""
LEAVE_S: Final = 0.5
"""How long leaving the block may take: what is queued is sent, and the hub reads it."""


class Handlers(NamedTuple):
    """Who takes what the hub says unasked; see :func:`open_hub_client`."""

    push: Handler[wire.Push] | None
    reconnect: Handler[wire.Welcome] | None
    name_changed: Handler[wire.NameChanged] | None
    bell: Handler[wire.Bell] | None
    canary: Handler[wire.Canary] | None
    activity: Handler[wire.Activity] | None


class HubClient(Asking):
    """See the module; made by :func:`open_hub_client`."""

    def __init__(
        self,
        connect: Connect,
        hello: wire.Hello,
        handlers: Handlers,
        stay: bool,
        now_ms: Callable[[], int],
        random_bits: Callable[[int], int],
    ) -> None:
        self._now_ms = now_ms
        self._random_bits = random_bits
        self._on = handlers
        self._callbacks = Callbacks()
        self._canaries = Callbacks()
        """Apart from the others: a handler that hangs must not keep a canary from telling so."""
        if not hello.instance:
            hello = msgspec.structs.replace(hello, instance=self.new_id())
        self._keeper = Keeper(connect, hello, self, stay, random_bits)
        self._requests = OpenRequests(self.new_id)
        self._gate = ByteGate(OPEN_BYTES_MAX)
        self._closed = False

    # --- what a caller may look at and do -------------------------------------------------------------

    @property
    def welcome(self) -> wire.Welcome:
        """The hub's latest word on who we are, a rename since then included."""
        assert self._keeper.welcome is not None, "open_hub_client gives a client out after its first welcome"
        return self._keeper.welcome

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._keeper.connection is not None

    @property
    def trouble(self) -> str:
        """Why there is no connection; empty while there is one."""
        return "" if self.connected else self._keeper.trouble

    @property
    def rooms(self) -> tuple[str, ...]:
        """The rooms joined through this client, as they were named; they are rejoined after a reconnect."""
        return tuple(self._requests.rooms)

    def new_id(self) -> str:
        """A fresh id, for an `op_id` the caller wants to know beforehand."""
        return new_id(self._now_ms(), self._random_bits)

    def send_nowait(self, frame: wire.Pushed | wire.PushFailed | wire.CanaryAnswer | wire.Pong) -> bool:
        """Send what has no answer; False, and nothing is sent, while there is no connection."""
        if self._keeper.connection is None:
            return False
        self._keeper.connection.queue(wire.encode(frame))
        return True

    async def wait_over(self) -> RelayError:
        """Wait until this client has ended for good, and give the reason."""
        await self._keeper.over_event.wait()
        assert self._keeper.over is not None
        return self._keeper.over

    # --- requests ----------------------------------------------------------------------------------------

    async def _ask(self, frame: wire.Request, patience: float | None) -> wire.Result:
        await trio.lowlevel.checkpoint_if_cancelled()
        began = trio.current_time()
        entry = OpenRequest(self._requests.numbered(frame), began + seconds_to_wait(frame, patience))
        line = wire.encode(entry.frame)
        if len(line) > wire.LINE_MAX:
            raise RelayError(
                "too_large", f"a request may have {wire.LINE_MAX:,} bytes: send the text in several messages"
            )
        with trio.CancelScope(deadline=entry.deadline):
            self._refuse_when_over()
            await self._gate.take(len(line))
            try:
                self._refuse_when_over()  # it may have ended while we waited for room
                self._keeper.want()
                await self._requests.ask(entry, line)
            finally:
                self._gate.give(len(line))
        answer = entry.answer
        if type(answer) is ANSWERS[type(frame)]:
            return answer
        match answer:
            case None:
                seconds = trio.current_time() - began
                raise no_answer(entry.frame, entry.sent, seconds, self.trouble)
            case RelayError(code=code, message=message):
                raise RelayError(code, message)
            case wire.Failed(code=code, message=message, unread=unread):
                raise RequestError(code, message, unread)
            case _:
                raise RelayError("unexpected", f"the hub answered with {type(answer).__name__}")

    def _refuse_when_over(self) -> None:
        if self._keeper.over is not None:
            raise RelayError(self._keeper.over.code, self._keeper.over.message)
        if self._closed:
            raise trio.ClosedResourceError("this hub client is closed")

    # --- what the keeper tells ------------------------------------------------------------------------------

    def went_up(self, connection: Connection, welcome: wire.Welcome, before: wire.Welcome | None) -> None:
        """Take up where the last connection ended."""
        if before is not None:
            self._callbacks.put(self._on.reconnect, welcome)
            if welcome.peer_id != before.peer_id and key(welcome.name) != key(before.name):
                self._requests.another_asks(before.name, welcome.name)
        self._requests.resume(connection)

    def went_down(self) -> None:
        """Forget what belonged to the connection."""
        self._requests.lost()
        # The hub pushes again what was not acknowledged: handing it over from here too would double it.
        self._callbacks.lost()
        self._canaries.lost()

    def cannot(self, error: RelayError) -> None:
        """Whoever waits learns it now."""
        self._requests.fail(error)

    def asks(self) -> bool:
        """Whether a request is open."""
        return self._requests.any_open

    def on_frame(self, frame: wire.ToSession) -> None:
        """Hand a frame to whom it concerns."""
        match frame:
            case wire.Result():
                asked = self._requests.answered(frame)
                match asked, frame:
                    case wire.Rename(), wire.Renamed(name=name):
                        self._rename(name)
                    case wire.Identify(identity=identity), wire.Renamed(name=self.welcome.name):
                        self._keeper.identified(identity)  # of any other name, it is another peer's
            case wire.Push():
                self._callbacks.put(self._on.push, frame, until_lost=True)
            case wire.NameChanged(name=name):
                self._rename(name)
                self._callbacks.put(self._on.name_changed, frame)
            case wire.Bell():
                self._callbacks.put(self._on.bell, frame)
            case wire.Canary():
                self._canaries.put(self._on.canary, frame, until_lost=True)
            case wire.Activity():
                self._callbacks.put(self._on.activity, frame)
            case wire.Ping():
                self.send_nowait(wire.Pong())
            case wire.Bye():
                self._keeper.dismissed(frame)
            case _:  # Welcome or Refused once more: nothing a hub of ours sends
                pass

    def on_bad_line(self, error: WireError) -> None:
        """Let a caller know that its answer could not be read; other lines are passed over."""
        self._requests.unreadable(error)

    def _rename(self, name: str) -> None:
        if self._keeper.welcome is not None:
            self._keeper.welcome = msgspec.structs.replace(self._keeper.welcome, name=name)

    # --- the block -----------------------------------------------------------------------------------------

    async def begin(self, nursery: trio.Nursery) -> None:
        """Start what keeps this client going, and wait for the first welcome.

        Raises:
            RelayError: see :func:`open_hub_client`.
        """
        nursery.start_soon(self._keeper.run)
        await self._keeper.first_welcome()
        # Only now: a handler that is called has a client to acknowledge with.
        nursery.start_soon(self._callbacks.run)
        nursery.start_soon(self._canaries.run)

    async def close(self) -> None:
        """Leave in good order; takes at most half a second."""
        self._callbacks.stop()
        self._canaries.stop()
        self._closed = True
        with trio.move_on_after(LEAVE_S, shield=True):
            await self._keeper.leave()
        self._requests.fail(RelayError("hub_unreachable", "this hub client is closed"))


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def open_hub_client(
    hello: wire.Hello,
    *,
    connect: Connect,
    on_push: Handler[wire.Push] | None = None,
    on_reconnect: Handler[wire.Welcome] | None = None,
    on_name_changed: Handler[wire.NameChanged] | None = None,
    on_bell: Handler[wire.Bell] | None = None,
    on_canary: Handler[wire.Canary] | None = None,
    on_activity: Handler[wire.Activity] | None = None,
    stay: bool = True,
    now_ms: Callable[[], int] = _wall_ms,
    random_bits: Callable[[int], int] = secrets.randbits,
) -> AsyncIterator[HubClient]:
    """Connect to the hub; the block runs with a client that was welcomed.

    Handlers may be plain or async functions. They run one after another, in the order of their frames;
    a slow one delays the next, not the answers to requests, nor canaries. One that raises ends the block
    with it.

    Args:
        hello: who we are. Without an `instance` it gets one, without a `pid` this process's; `peer_id` is
            filled in on later connections.
        connect: makes a connection; see :func:`ecorelay.spawn.hub_connector`.
        on_push: takes pushed mail. It is acknowledged by ``client.send_nowait(wire.Pushed(...))`` once
            a carrier took it; after a reconnect the same msg_id may come again.
        on_reconnect: called after each welcome but the first.
        on_name_changed: called when another connection renamed our peer.
        on_bell: called when something waits for the hooks of our assistant; see `wire.Hello.bell`.
        on_canary: answers a canary by ``client.send_nowait(wire.CanaryAnswer(...))``. With it, hello says
            that we answer them.
        on_activity: takes what happens, on a connection that asked to `wire.Watch`.
        stay: whether a lost connection is made again; else it ends the client.
        now_ms: the wall clock, milliseconds since 1970 UTC, for ids.
        random_bits: gives that many random bits, for ids and pauses.

    Raises:
        RelayError: the first connection was refused, or could not be had in time.
    """
    if not hello.pid:
        hello = msgspec.structs.replace(hello, pid=os.getpid(), pid_start=start_time(os.getpid()))
    if on_canary is not None:
        hello = msgspec.structs.replace(hello, canary=True)
    handlers = Handlers(on_push, on_reconnect, on_name_changed, on_bell, on_canary, on_activity)
    client = HubClient(connect, hello, handlers, stay, now_ms, random_bits)
    try:
        async with trio.open_nursery() as nursery:
            try:
                await client.begin(nursery)
                yield client
            finally:
                await client.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery is our own business: what the block raised leaves it as it was raised.
        if len(group.exceptions) != 1:
            raise
        error = group.exceptions[0]
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context
            del error, context
