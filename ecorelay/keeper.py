"""Keeps one connection to the hub: makes it, greets, and makes it again when it is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from ecorelay import wire
from ecorelay.connection import Connection, Lost
from ecorelay.errors import Code, RelayError, WireError
from ecorelay.spawn import NoHub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Connect = Callable[[], Awaitable[trio.abc.Stream]]
    """Makes a connected stream, proved to belong to our hub. Raises NoHub where no hub runs,
    RelayError where trying again changes nothing; OSError, WireError and trio.BrokenResourceError
    mean: try again."""

OPEN_S: Final = 15.0
OPEN_SESSION_S: Final = 30.0
"""How long the first connection may take: a session may have to wait for the verdict on a held name."""
BACKOFF_FIRST_S: Final = 0.02
BACKOFF_S: Final = 1.0
BACKOFF_IDLE_S: Final = 10.0
"""Longest pause between two tries: to begin with, soon after, and when nobody has asked for long."""
BACKOFF_COSTLY_S: Final = 300.0
"""The same where a hub is started in vain each time, until somebody asks."""
STABLE_S: Final = 5.0
"""A connection that held for so long ends the growing of pauses."""
LONG_GONE: Final = 30
"""Tries (about a quarter of a minute) after which a hub that nobody asks for is tried at leisure."""

TRANSIENT: Final[frozenset[Code]] = frozenset(
    {"timeout", "unexpected", "mailbox_error", "limit_reached", "hub_unreachable", "bad_msg", "too_large"}
)
"""Refused or dismissed with one of these, a client that was welcomed before tries again; any other code
ends it."""
_UNREACHABLE: Final = (OSError, WireError, trio.BrokenResourceError, trio.ClosedResourceError)


def idle_pause(refusals: int, chance: float) -> float:
    """Seconds until a hub that was had in vain is tried again, though nobody asks.

    Args:
        refusals: how often in a row it could not even be started.
        chance: 0 to 1; the last tenth of the pause is left to it, so that not all try in one moment.
    """
    longest = min(BACKOFF_COSTLY_S, BACKOFF_IDLE_S * 2.0 ** min(refusals, 8))
    return longest * (0.9 + 0.1 * chance)


class Owner(Protocol):
    """Whom a keeper tells what happens. Nothing here may wait."""

    def went_up(self, connection: Connection, welcome: wire.Welcome, before: wire.Welcome | None) -> None:
        """Welcomed; `before`: who we were until now. None: for the first time."""

    def went_down(self) -> None:
        """The connection is lost."""

    def on_frame(self, frame: wire.ToSession) -> None:
        """A frame after the welcome."""

    def on_bad_line(self, error: WireError) -> None:
        """A line that is no frame."""

    def cannot(self, error: RelayError) -> None:
        """No hub can be had, and trying again at once changes nothing."""

    def asks(self) -> bool:
        """Whether somebody waits for an answer."""


class Keeper:
    """See the module.

    Args:
        connect: see `Connect`.
        hello: what to greet with; later greetings name the peer of the first welcome.
        owner: is told what happens.
        stay: whether a lost connection is made again; else it ends the keeping.
        random_bits: gives that many random bits, for pauses.
    """

    def __init__(
        self,
        connect: Connect,
        hello: wire.Hello,
        owner: Owner,
        stay: bool,
        random_bits: Callable[[int], int],
    ) -> None:
        self._connect = connect
        self._hello = hello
        self._owner = owner
        self._stay = stay
        self._random_bits = random_bits
        self._wanted = trio.Event()
        self._leaving = False
        self.opened = trio.Event()
        """Set by the first welcome, or the end."""
        self.welcome: wire.Welcome | None = None
        """The latest; whoever learns of a rename replaces it."""
        self.connection: Connection | None = None
        """The present one."""
        self.trouble = "not connected yet"
        """Why the last connection ended or could not be made."""
        self.over: RelayError | None = None
        """Why there will be no further connection."""
        self.over_event = trio.Event()

    async def first_welcome(self) -> None:
        """Wait for the first connection.

        Raises:
            RelayError: there is none, because.
        """
        seconds = OPEN_SESSION_S if self._hello.role == "session" else OPEN_S
        with trio.move_on_after(seconds):
            await self.opened.wait()
        if self.over is not None:
            raise RelayError(self.over.code, self.over.message)
        if self.welcome is None:
            raise RelayError("hub_unreachable", f"no hub for {seconds:.0f} s: {self.trouble}")

    async def run(self) -> None:
        """Connect, and again whenever the connection is lost, until it is over."""
        failures = refusals = 0
        while self._going():
            began = trio.current_time()
            refusals += 1
            try:
                await self._connect_once()
            except RelayError as error:
                self.trouble = error.message
                if not self.opened.is_set():
                    self.end(error)
                self._owner.cannot(error)
            except (NoHub, Lost, *_UNREACHABLE) as error:
                refusals = 0
                self.trouble = str(error) or "the connection broke"
                if isinstance(error, NoHub) and not self.opened.is_set():
                    self.end(RelayError("hub_unreachable", self.trouble))
            if self.opened.is_set() and not self._stay:
                self.end(RelayError("hub_unreachable", self.trouble))
            if trio.current_time() - began > STABLE_S:
                failures = 0
            failures += 1
            if self._going():
                await self._pause(failures, refusals)

    def _going(self) -> bool:
        return self.over is None and not self._leaving

    async def leave(self) -> None:
        """Say goodbye, and wait until the hub has read all before it and closed the connection.

        It is not made again. Cancel this to stop waiting.
        """
        self._leaving = True
        if (connection := self.connection) is not None:
            connection.queue(wire.encode(wire.Bye(reason="closed")))
            await connection.over.wait()

    def want(self) -> None:
        """Somebody asks: a pause at leisure ends."""
        self._wanted.set()

    def end(self, error: RelayError) -> None:
        """No further connection, because; the present one ends."""
        if self.over is None:
            self.over = error
            self.opened.set()
            self.over_event.set()
            if self.connection is not None:
                self.connection.end(error.message)
            self._owner.cannot(error)

    def identified(self, identity: str) -> None:
        """The assistant's session has this id now: later greetings say so."""
        self._hello = msgspec.structs.replace(self._hello, identity=identity)

    def dismissed(self, bye: wire.Bye) -> None:
        """The hub ends the connection: for good when another has our name, else try again."""
        if self.connection is not None:
            self.connection.end(bye.reason)
        if bye.code is not None and bye.code not in TRANSIENT:
            self.end(RelayError(bye.code, bye.reason))

    async def _connect_once(self) -> None:
        """Raises Lost in the end, if nothing else."""
        stream = await self._connect()
        try:
            connection = Connection(stream)
            match await connection.greet(self._greeting()):
                case wire.Welcome() as welcome:
                    before, self.welcome, self.connection = self.welcome, welcome, connection
                    self.opened.set()
                    self._owner.went_up(connection, welcome, before)
                    raise Lost(await connection.run(self._owner.on_frame, self._owner.on_bad_line))
                case wire.Refused(code=code, message=message):
                    if not self.opened.is_set() or code not in TRANSIENT:
                        self.end(RelayError(code, message))
                    raise Lost(message)
                case wire.Bye() as bye:
                    self.dismissed(bye)
                    raise Lost(bye.reason)
        finally:
            if self.connection is not None:
                self.connection = None
                self._owner.went_down()
            await trio.aclose_forcefully(stream)

    def _greeting(self) -> wire.Hello:
        if self.welcome is None or not self.welcome.peer_id:
            return self._hello
        # The name too: should the hub have lost its memory, others still find us under it.
        return msgspec.structs.replace(self._hello, peer_id=self.welcome.peer_id, name=self.welcome.name)

    async def _pause(self, failures: int, refusals: int) -> None:
        """Full jitter, so that all sessions of a machine do not come back in one moment."""
        longest = min(BACKOFF_S, BACKOFF_FIRST_S * 2 ** min(failures, 16))
        await trio.sleep(longest * self._random_bits(32) / 2**32)
        if (refusals or failures > LONG_GONE) and not self._owner.asks():
            self._wanted = trio.Event()
            with trio.move_on_after(idle_pause(refusals, self._random_bits(32) / 2**32)):
                await self._wanted.wait()
