"""Dials one hub for as long as it is sought, and hands over what proves itself."""

from __future__ import annotations

import errno
import math
import socket
from ipaddress import ip_address
from itertools import cycle
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from ecorelay_bridge.listener import crashed, failed, run_link
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.roads import RoadReport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ecorelay_bridge.backoff import Backoff
    from ecorelay_bridge.handshake import Proof
    from ecorelay_bridge.introduction import Introducer, Proven
    from ecorelay_bridge.listener import Report
    from ecorelay_bridge.password import Password
    from ecorelay_bridge.roads import Roads
    from ecorelay_bridge.settings import Peer

    Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]
    """Raises Refused."""

_T = TypeVar("_T")

CONNECT_S: Final = 10.0
"""Seconds for names and TCP together."""
AGAIN_S: Final = 1.5
"""Seconds without an answer after which another connection is tried beside the first: the kernel asks again
after 1, 3 and 7 s, and a network that comes back in between is to be seen."""
NEXT_ADDRESS_S: Final = 0.25
"""The same from one address of a name to the next."""
SHORT_S: Final = 2.0
"""A link that ends sooner is not made again at once: something may be wrong with it."""
BESIDE_MAX: Final = 3
"""Streams to one hub at a time: one that works, one that is suspect, one that is being closed."""


async def connect(host: str, port: int, *, within_s: float = CONNECT_S) -> trio.SocketStream:
    """A TCP connection to whichever address of `host` answers first. Names are looked up anew each time.

    Raises:
        Refused: none of them does, and why.
    """
    try:
        with trio.fail_after(within_s):
            return await _any_of(await _addresses(host, port), port)
    except trio.TooSlowError:
        raise Refused(
            Reason.FILTERED,
            f"nothing answers at {host}, port {port}: the machine is off, or a firewall drops the connection",
            f"let TCP port {port} through the firewall of that machine; is it on, and in this network?",
        ) from None
    except (socket.gaierror, UnicodeError) as error:
        # UnicodeError: no name of a machine can look like that.
        raise Refused(
            Reason.NOT_RESOLVED,
            f"the name {host} has no address ({_resolver_word(error)})",
            "correct host in bridge.json, or write its IP address there",
        ) from None
    except OSError as error:
        raise _not_connected(host, port, error) from None


async def _addresses(host: str, port: int) -> list[str]:
    try:
        ip_address(host)
    except ValueError:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys([str(each[4][0]) for each in found]))
    return [host]  # as it is written: a zone at its end would get lost


async def _any_of(addresses: list[str], port: int) -> trio.SocketStream:
    """The first connection that comes about, of attempts begun one after another for as long as one is on.

    Raises:
        OSError: all of them failed.
    """
    won: list[trio.SocketStream] = []
    causes: list[OSError] = []
    running = 0
    changed = trio.Event()

    async def attempt(address: str) -> None:
        nonlocal running
        try:
            won.append(await trio.open_tcp_stream(address, port))
        except OSError as error:
            causes.append(error)
        running -= 1
        changed.set()

    try:
        async with trio.open_nursery() as nursery:
            for number, address in enumerate(cycle(addresses), start=1):
                running += 1
                changed = trio.Event()
                nursery.start_soon(attempt, address)
                failed_before, untried = len(causes), number < len(addresses)
                with trio.move_on_after(AGAIN_S if number % len(addresses) == 0 else NEXT_ADDRESS_S):
                    while not won and running and not (untried and len(causes) > failed_before):
                        await changed.wait()
                        changed = trio.Event()
                if won or not (running or untried):
                    break
            nursery.cancel_scope.cancel()
        if not won:
            raise OSError("no address answers") from ExceptionGroup("attempts", causes)
        return won.pop(0)
    finally:
        for stream in won:  # more than one, or nobody waits for it any more
            await trio.aclose_forcefully(stream)


def _not_connected(host: str, port: int, error: OSError) -> Refused:
    codes = {each.errno for each in _causes(error)}
    if errno.ECONNREFUSED in codes:
        return Refused(
            Reason.CONNECTION_REFUSED,
            f"{host} is there, but nothing listens at port {port}",
            "start ecorelay there (`ecorelay hub start`), and set listen in its bridge.json to this port",
        )
    if errno.ETIMEDOUT in codes:
        return Refused(
            Reason.FILTERED,
            f"nothing answers at {host}, port {port}",
            f"let TCP port {port} through the firewall of that machine; is it on, and in this network?",
        )
    word = next((each.strerror for each in _causes(error) if each.strerror), "") or "no way there"
    return Refused(
        Reason.UNREACHABLE,
        f"{host} cannot be reached ({word.lower()})",
        "is this machine in the same network?",
    )


def _causes(error: BaseException) -> list[OSError]:
    """All errors of single attempts in what Trio raises for the lot."""
    found = [error] if isinstance(error, OSError) and error.errno is not None else []
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            found += _causes(each)
    if error.__cause__ is not None:
        found += _causes(error.__cause__)
    return found


def _resolver_word(error: socket.gaierror | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "it is no name a machine can have"
    return "the name service does not answer" if error.errno == socket.EAI_AGAIN else "it is unknown"


class Way(Protocol):
    """How one hub is reached: what a dialer leaves to the kind of road."""

    @property
    def address(self) -> str:
        """Where the hub is, or was dialed last, for a person."""

    async def sought(self) -> None:
        """Wait until the hub is to be dialed."""

    async def open(self) -> tuple[trio.abc.Stream, str]:
        """A stream to where it is to be, and its address there, if that may be called known from now on.

        Raises:
            Refused: nobody is there.
        """

    async def prove(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Open streams and try the secrets on them, as soon as that may be; gives what `attempt` gives.

        Raises:
            Refused: as `attempt` does.
        """

    def pauses(self, wait: float, *, may_hurry: bool) -> None:
        """It will not be dialed for so many seconds; `may_hurry`: unless it is sought anew."""


class Direct:
    """A hub at a host and port of bridge.json.

    Args:
        peer: whom.
        roads: says when it is sought.
        connect: makes the stream.
    """

    def __init__(self, peer: Peer, roads: Roads, connect: Connect = connect) -> None:
        self._peer = peer
        self._roads = roads
        self._connect = connect
        self.address = f"[{peer.host}]:{peer.port}" if ":" in peer.host else f"{peer.host}:{peer.port}"

    async def sought(self) -> None:
        """See `Way`."""
        await self._roads.sought(self._peer.hub_id)

    async def open(self) -> tuple[trio.abc.Stream, str]:
        """See `Way`."""
        stream = await self._connect(self._peer.host, self._peer.port)
        return stream, _remote_host(stream)

    async def prove(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """See `Way`."""
        return await attempt()

    def pauses(self, wait: float, *, may_hurry: bool) -> None:
        """See `Way`."""


class Dialer:
    """Keeps one hub linked.

    Args:
        hub_id: whom.
        way: how it is reached.
        introducer: of this hub.
        roads: is asked whether it is sought anew.
        backoff: the pauses.
        on_link: the hub's part of a link.
        report: told what happens.
        on_proved: called with the address a hub proved itself at.
    """

    def __init__(
        self,
        hub_id: str,
        way: Way,
        introducer: Introducer,
        roads: Roads,
        backoff: Backoff,
        on_link: Callable[[Proven], Awaitable[None]],
        report: Report,
        *,
        on_proved: Callable[[str], None] = lambda address: None,
    ) -> None:
        self._hub_id = hub_id
        self._way = way
        self._introducer = introducer
        self._roads = roads
        self._backoff = backoff
        self._on_link = on_link
        self._report = report
        self._on_proved = on_proved
        self._first = 0
        """Which secret to try first: the one that was right last time."""
        self._up = 0
        """Streams up."""
        self._ended = trio.Event()
        """Set when one of them ends, and then replaced."""

    async def run(self) -> None:
        """Dial until cancelled; the streams end with it."""
        async with trio.open_nursery() as links:
            await self.keep(links)

    async def keep(self, links: trio.Nursery) -> None:
        """Dial until cancelled; the streams run in `links`."""
        hub_id = self._hub_id
        while True:
            await self._way.sought()
            since = self._roads.calls(hub_id)
            wait, may_hurry = await self._once(links)
            self._way.pauses(wait, may_hurry=may_hurry)
            if self._roads.is_relayed(hub_id):
                wait = self._backoff.calmly(wait)
            if not may_hurry:
                await trio.sleep(wait)
            elif await self._roads.pause(hub_id, wait, since):
                self._backoff.hurry()

    async def _once(self, links: trio.Nursery) -> tuple[float, bool]:
        """One attempt and, if there comes a stream of it, the time until it ends or another one is wanted.

        Returns:
            Seconds to pause, and whether that may be cut short: not after a failed proof, nor after a stream
            that ended at once, for the hub seeks another whenever it loses one.
        """
        way = self._way
        self._report(RoadReport(event="dialing", side="dialer", hub_id=self._hub_id, address=way.address))
        try:
            introduced = await way.prove(self._introduced)
        except Refused as refused:
            wait = self._backoff.after_failure(refused)
            self._report(failed("dialer", refused, hub_id=self._hub_id, address=way.address, retry_in_s=wait))
            return wait, not refused.failed_proof
        except Exception as error:
            self._report(crashed("dialer", way.address, error, self._hub_id))
            return self._backoff.after_failure(Refused(Reason.CRASH, "")), True
        began = trio.current_time()
        self._up += 1
        links.start_soon(self._link, introduced, way.address)
        wanted = await self._until_wanted()
        held = trio.current_time() - began
        if held < SHORT_S:
            return self._backoff.after_link(held), False
        return (0.0 if wanted else self._backoff.after_link(held)), True

    async def _link(self, introduced: tuple[trio.SSLStream[trio.abc.Stream], Proof], address: str) -> None:
        try:
            await run_link(introduced, self._introducer, address, self._on_link, self._report)
        finally:
            self._up -= 1
            self._ended.set()
            self._ended = trio.Event()

    async def _until_wanted(self) -> bool:
        """Wait while streams are up; whether another one is wanted beside them."""
        since = self._roads.calls(self._hub_id)
        wanted = False

        async def hear() -> None:
            nonlocal wanted
            wanted = await self._roads.pause(self._hub_id, math.inf, since)
            race.cancel_scope.cancel()

        while self._up:
            ended = self._ended
            async with trio.open_nursery() as race:
                if self._up < BESIDE_MAX:
                    race.start_soon(hear)
                await ended.wait()
                race.cancel_scope.cancel()
            if wanted:
                return True
        return False

    async def _introduced(self) -> tuple[trio.SSLStream[trio.abc.Stream], Proof]:
        """A proven stream, with the first secret the other side takes.

        Raises:
            Refused: with none, or something else is in the way.
        """
        passwords = self._introducer.passwords
        order = [self._first, *(i for i in range(len(passwords)) if i != self._first)]
        for which in order[:-1]:
            try:
                return await self._introduce(passwords[which], which)
            except Refused as refused:
                # While secrets change, the other side may know only the one or the other.
                if refused.reason is not Reason.WRONG_SECRET:
                    raise
        return await self._introduce(passwords[order[-1]], order[-1])

    async def _introduce(
        self, password: Password, which: int
    ) -> tuple[trio.SSLStream[trio.abc.Stream], Proof]:
        stream, where = await self._way.open()
        introduced = await self._introducer.dial(stream, self._hub_id, password)
        self._first = which
        if where:
            self._on_proved(where)
        return introduced


def _remote_host(stream: trio.abc.Stream) -> str:
    if not isinstance(stream, trio.SocketStream):
        return ""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""
