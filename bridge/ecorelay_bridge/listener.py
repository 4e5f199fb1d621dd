"""Takes connections of other hubs, as many as the door lets in; hands those that prove themselves over."""

from __future__ import annotations

import contextlib
import errno
import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

import trio

from ecorelay_bridge.door import Door, source_of
from ecorelay_bridge.introduction import ALERT_BLOCKED, ALERT_FULL, hand_over
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_stream import below
from ecorelay_bridge.roads import RoadReport
from ecorelay_bridge.workers import Pace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ecorelay_bridge.introduction import Introducer, Proven

    Report = Callable[[RoadReport], None]

BACKLOG: Final = 256
LISTEN_AGAIN_S: Final = (1.0, 30.0)
"""Pause before a port that could not be had is tried again: it doubles from the one to the other."""
REPORTS_PER_SECOND: Final = 1.0
"""Failures of strangers that are reported, of each kind; the rest is counted in the next report of it."""
REPORTS_BURST: Final = 20
PARTING_MAX: Final = 32
"""Connections at once that are told why they are turned away; beyond, they are only closed."""
PARTINGS_PER_SECOND: Final = 20.0
"""The same in a second, after as many at once as PARTING_MAX: a flood is to cost as little as can be."""
PARTING_S: Final = 0.5
PARTING_BYTES: Final = 16 * 1024

FULL_AGAIN_S: Final = 0.2
"""Pause after the system had no room for another connection."""
FULL_TOLD_S: Final = 60.0
"""How often that is told."""

_AFTER_PROOF: Final = frozenset({Reason.NOT_REMEMBERED, Reason.TWINS})
"""The proof was right, and there is no link all the same."""
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """One listening port.

    Args:
        bind: an IP address of this machine; ``::`` is every address of both families.
        port: 0: any that is free.
        door: says who may come in.
        introducer: of this hub.
        on_link: the hub's part of a link.
        report: told what happens.
    """

    def __init__(
        self,
        bind: str,
        port: int,
        door: Door,
        introducer: Introducer,
        on_link: Callable[[Proven], Awaitable[None]],
        report: Report,
    ) -> None:
        self._bind = bind
        self._port = port
        self._door = door
        self._introducer = introducer
        self._on_link = on_link
        self._report = report
        self._paces: defaultdict[Reason, Pace] = defaultdict(lambda: Pace(REPORTS_PER_SECOND, REPORTS_BURST))
        self._suppressed: Counter[Reason] = Counter()
        self._full_told = -math.inf
        self._parting = 0
        self._partings = Pace(PARTINGS_PER_SECOND, PARTING_MAX)

    async def run(
        self, *, task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen until cancelled; links that came in end with it.

        Started with the addresses, or with none while the port is not to be had: it is tried again and again.
        """
        pause, last = LISTEN_AGAIN_S
        async with trio.open_nursery() as links:
            while True:
                try:
                    # Trio's default host is every address, of both families.
                    host = None if self._bind == "::" else self._bind
                    listeners = await trio.open_tcp_listeners(self._port, host=host, backlog=BACKLOG)
                    where = [listener.socket.getsockname()[:2] for listener in listeners]
                    self._report(RoadReport(event="listening", side="acceptor", address=_address(where[0])))
                    task_status.started(where)
                    task_status = trio.TASK_STATUS_IGNORED
                    pause = LISTEN_AGAIN_S[0]
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept, listener, links)
                except* OSError as errors:
                    self._not_listening(_first(errors), pause)
                task_status.started([])
                task_status = trio.TASK_STATUS_IGNORED
                await trio.sleep(pause)
                pause = min(pause * 2, last)

    async def _accept(self, listener: trio.SocketListener, links: trio.Nursery) -> None:
        """Take connections.

        Raises:
            OSError: the listening socket is of no use any more; it is closed.
        """
        # Not Trio's own loop: it logs a traceback ten times a second while the system has no room.
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _NO_ROOM:
                        raise
                    self._no_room(error)
                    await trio.sleep(FULL_AGAIN_S)
                else:
                    links.start_soon(self._serve, stream)

    def _no_room(self, error: OSError) -> None:
        now = trio.current_time()
        if now - self._full_told < FULL_TOLD_S:
            return
        self._full_told = now
        says = f"this machine has no room for another connection ({error.strerror or error}): others wait"
        address = _address((self._bind, self._port))
        self._report(failed("acceptor", Refused(Reason.BUSY, says), address=address))

    def _not_listening(self, error: OSError, pause: float) -> None:
        self._report(
            RoadReport(
                event="not_listening",
                side="acceptor",
                address=_address((self._bind, self._port)),
                reason=Reason.PORT_TAKEN if error.errno == errno.EADDRINUSE else Reason.UNREACHABLE,
                sentence=why_not_listening(error, self._bind, self._port),
                remedy=listen_remedy(error),
                retry_in_s=pause,
            )
        )

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            await self._let_in(stream)
        finally:
            await trio.aclose_forcefully(stream)  # whatever was cancelled

    async def _let_in(self, stream: trio.SocketStream) -> None:
        try:
            host, port = stream.socket.getpeername()[:2]
        except OSError:
            await trio.aclose_forcefully(stream)
            return  # gone already
        await self.receive(stream, source_of(host), _address((host, port)))

    async def receive(
        self,
        stream: trio.abc.Stream,
        source: str,
        address: str,
        *,
        stranger: str = "",
        on_proved: Callable[[], None] = lambda: None,
    ) -> None:
        """Let whoever is at the other end prove itself, if the door lets it in, and be its link.

        Resource handling: takes `stream` over.

        Args:
            stream: connected.
            source: whose, for the door.
            address: of it, for a person.
            stranger: the same while it has not proved itself.
            on_proved: called when it has.
        """
        stranger = stranger or address
        refused = self._door.admit(source)
        if refused is not None:
            await self._turn_away(stream, refused, stranger)
            return
        introduced = await self._introduce(stream, source, stranger)
        if introduced is None:
            return
        on_proved()
        proof = introduced[1]
        if proof.checking:
            # Asked only whether a link would come about. It would.
            with trio.move_on_after(PARTING_S):
                await introduced[0].aclose()
            await trio.aclose_forcefully(introduced[0])
            return
        await run_link(introduced, self._introducer, address, self._on_link, self._report)

    async def _introduce(self, stream: trio.abc.Stream, source: str, address: str) -> Any:
        """What `Introducer.accept` gives; None where it came to nothing, which is counted and reported."""
        computed = False

        def on_offer() -> None:
            nonlocal computed
            computed = True

        try:
            introduced = await self._introducer.accept(
                stream,
                on_offer=on_offer,
                familiar=self._door.is_familiar(source),
                only_known=self._door.is_blocked(source),
            )
        except Refused as refused:
            if not computed:
                # Whatever the reason: each costs a TLS handshake, and some tell a little about this hub.
                self._door.fruitless(source, silent=refused.reason is Reason.TOO_SLOW)
            elif refused.reason not in _AFTER_PROOF:
                self._door.failed(source)
            self._fail(refused, address)
            return None
        except Exception as error:
            self._report(crashed("acceptor", address, error))
            return None
        finally:
            self._door.leave(source)
        self._door.proved(source)
        return introduced

    def _fail(self, refused: Refused, address: str) -> None:
        now = trio.current_time()
        pace = self._paces[refused.reason]
        if pace.wait(now) > 0:
            self._suppressed[refused.reason] += 1
            return
        pace.take(now)
        suppressed = self._suppressed.pop(refused.reason, 0)
        self._report(failed("acceptor", refused, address=address, suppressed=suppressed))

    async def _turn_away(self, stream: trio.abc.Stream, reason: Reason, address: str) -> None:
        """Close, and where there is time say why in the one way a TLS client understands: an alert."""
        self._fail(Refused(reason, _AT_THE_DOOR[reason]), address)
        now = trio.current_time()
        if self._parting < PARTING_MAX and self._partings.wait(now) <= 0:
            self._partings.take(now)
            self._parting += 1
            try:
                with trio.move_on_after(PARTING_S):
                    await self._part(stream, ALERT_BLOCKED if reason is Reason.SOURCE_BLOCKED else ALERT_FULL)
            finally:
                self._parting -= 1
        await trio.aclose_forcefully(stream)

    async def _part(self, stream: trio.abc.Stream, alert: int) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            # RFC 8446, 6: alert(21), legacy version 1.2, two bytes: fatal(2) and which.
            await stream.send_all(bytes([21, 3, 3, 0, 2, 2, alert]))
            if not isinstance(stream, trio.SocketStream):
                await stream.aclose()
                return
            await stream.send_eof()
            # Closing with its first words unread would make the kernel reset the connection, alert and all.
            read = 0
            while read < PARTING_BYTES:
                data = await stream.receive_some(4096)
                if not data:
                    return
                read += len(data)


async def run_link(
    introduced: Any,
    introducer: Introducer,
    address: str,
    on_link: Callable[[Proven], Awaitable[None]],
    report: Report,
) -> None:
    """Report a link, hand it to the hub, report its end. A crash of the hub's part ends this link only."""
    proof = introduced[1]
    report(RoadReport(event="up", side=proof.role, hub_id=proof.hub_id, address=address))
    crash: Exception | None = None
    over_relay = below(introduced[0])
    try:
        await hand_over(introduced, introducer.me, address, on_link)
    except Exception as error:
        crash = error
    report(
        RoadReport(
            event="down",
            side=proof.role,
            hub_id=proof.hub_id,
            address=address,
            reason=None if crash is None else Reason.CRASH,
            sentence="" if over_relay is None else over_relay.why(),
            error=crash,
        )
    )


def failed(
    side: Any,
    refused: Refused,
    *,
    hub_id: str = "",
    address: str = "",
    retry_in_s: float | None = None,
    suppressed: int = 0,
) -> RoadReport:
    """The report of a refusal."""
    return RoadReport(
        event="failed",
        side=side,
        hub_id=hub_id,
        address=address,
        reason=refused.reason,
        sentence=refused.sentence,
        remedy=refused.remedy,
        told=refused.told,
        retry_in_s=retry_in_s,
        suppressed=suppressed,
    )


def crashed(side: Any, address: str, error: Exception, hub_id: str = "") -> RoadReport:
    """The report of a bug."""
    return RoadReport(
        event="failed",
        side=side,
        hub_id=hub_id,
        address=address,
        reason=Reason.CRASH,
        sentence="a bug of this hub ended the attempt; see its log",
        error=error,
    )


_AT_THE_DOOR: Final = {
    Reason.SOURCE_BLOCKED: "its address is refused for a minute, after too many attempts without a proof",
    Reason.SOURCE_FULL: "too many connections from its address at once have not proved themselves",
    Reason.DOOR_FULL: "too many connections at once have not proved themselves",
}


def _first(errors: BaseExceptionGroup[OSError]) -> OSError:
    """One of them: they are of one listening port."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OSError)
    return error


def why_not_listening(error: OSError, bind: str, port: int) -> str:
    """The sentence for a port that cannot be had."""
    words = {
        errno.EADDRINUSE: f"another program listens at port {port}",
        errno.EADDRNOTAVAIL: f"this machine does not have the address {bind}",
        errno.EACCES: f"port {port} is not for ordinary users",
    }
    return words.get(error.errno or 0, f"cannot listen at {bind}, port {port}: {error.strerror or error}")


def listen_remedy(error: OSError) -> str:
    """What to do about it."""
    if error.errno == errno.EADDRNOTAVAIL:
        return "it is tried again and again; if the address is not to come, correct bind in bridge.json"
    return "set listen in bridge.json to a free port, and tell the other hubs"


def _address(pair: tuple[str, int]) -> str:
    host, port = pair
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
