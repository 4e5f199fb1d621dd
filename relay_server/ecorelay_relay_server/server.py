"""The relay server as a process sees it: takes connections, and does what judge, door and switch decide."""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ecorelay import relay_wire
from ecorelay.errors import RelayError
from ecorelay.relay_wire import CLOSE_FULL, CLOSE_GOING, CLOSE_INVITATION, CLOSE_TOKEN, HELLO_S, HubHere
from ecorelay_relay_server import guest
from ecorelay_relay_server.bounds import CLOSING_MAX, DRAIN_S, HALF_OPEN_MAX
from ecorelay_relay_server.connection import Connection
from ecorelay_relay_server.door import HalfOpen, behind, is_in, source_of
from ecorelay_relay_server.guest import Turned
from ecorelay_relay_server.judge import Judge, Proven, Refused
from ecorelay_relay_server.metrics import CONTENT_TYPE, Counts, render
from ecorelay_relay_server.switch import Actions, Hub, News, Switch, Wake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecorelay_relay_server.guest import Asked
    from ecorelay_relay_server.journal import Journal
    from ecorelay_relay_server.settings import Settings

BACKLOG: Final = 1_024
TICK_S: Final = 1.0
FROZEN_S: Final = 3.0
"""So late is no tick of a process that runs."""
NEWS_S: Final = 0.1
"""Seconds in which hubs are told at most once who came and went,"""
NEWS_HUB_S: Final = 0.0005
"""and so many for each hub where there are many."""
NEWS_AT_ONCE: Final = 32
VERSION_MAX: Final = 40
"""Characters of a hub's version that others are told."""
SCRAPES_MAX: Final = 16
"""Readers of the metrics at once."""
RESTARTS: Final = "the relay server ends or restarts: come again"

_SHOWN: Final = 16
"""Hex digits of an identity in the log."""


class Server:
    """A relay server.

    Args:
        settings: may be changed later, see :meth:`use`.
        journal: where it says what happens.
        half_open: connections without a proof at a time.

    Raises:
        RelayError: ``bad_args``, certificate and key cannot be used.
    """

    def __init__(self, settings: Settings, journal: Journal, half_open: int = HALF_OPEN_MAX) -> None:
        self.settings = settings
        self.switch = Switch(_realms(settings), settings.max_hubs)
        self.counts = Counts()
        self.half_open: HalfOpen[trio.CancelScope] = HalfOpen(half_open)
        self.connections: dict[Hub, Connection] = {}
        self._journal = journal
        self._judge = Judge(settings)
        self._tls = tls_context(settings)
        self._stop = trio.Event()
        self._news = trio.Event()
        self._partings = 0
        self._scrapes: set[trio.CancelScope] = set()
        self._began = 0.0

    async def run(
        self, *, task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until :meth:`stop`; started with the addresses, first those for hubs.

        Raises:
            RelayError: ``bad_args``, a port is not to be had.
        """
        self._began = trio.current_time()
        hubs = await _listen(self.settings.bind, self.settings.port, "port")
        async with trio.open_nursery() as handlers:
            async with trio.open_nursery() as listening:
                serve = partial(trio.serve_listeners, handler_nursery=handlers)
                listening.start_soon(serve, self._serve, hubs)
                where = hubs
                if self.settings.metrics_port:
                    at = await _listen(self.settings.metrics_bind, self.settings.metrics_port, "metrics_port")
                    listening.start_soon(serve, self._serve_metrics, at)
                    where = hubs + at
                listening.start_soon(self._tick)
                listening.start_soon(self._spread)
                task_status.started([each.socket.getsockname()[:2] for each in where])
                await self._stop.wait()
                listening.cancel_scope.cancel()
            self._journal.say("ending", hubs=len(self.connections), queued=self.switch.queued)
            for scope in (*self.half_open.all(), *self._scrapes):
                scope.cancel()
            for connection in list(self.connections.values()):
                connection.end(CLOSE_GOING, RESTARTS, "closed", within=DRAIN_S, drain=True)

    def stop(self) -> None:
        """Tell all hubs, write what waits for them, and end :meth:`run`; within `DRAIN_S` and a little."""
        self._stop.set()

    def use(self, settings: Settings) -> None:
        """Other tokens, realms, bounds and certificates from now on.

        Hubs that came in with a token that is no more are closed. Ports and addresses stay as they were.

        Raises:
            RelayError: ``bad_args``, certificate and key cannot be used; nothing has changed.
        """
        self._tls = tls_context(settings)
        fixed = ("port", "bind", "metrics_port", "metrics_bind")
        changed = [name for name in fixed if getattr(settings, name) != getattr(self.settings, name)]
        if changed:
            self._journal.warn("needs a restart", fields=changed)
        self.settings = settings
        self._judge.use(settings)
        self._perform(self.switch.limit(_realms(settings), settings.max_hubs))
        tokens = {realm.name: realm.tokens for realm in settings.realms}
        for connection in list(self.connections.values()):
            if connection.token not in tokens.get(connection.hub.realm.name, ()):
                self._perform(self.switch.leave(connection.hub, "refused"))
                connection.end(CLOSE_TOKEN, "its token is no longer one of this server's", "refused")
        self._journal.say("reloaded", realms=sorted(tokens), hubs=self.switch.hubs)

    async def _tick(self) -> None:
        due = trio.current_time() + TICK_S
        while True:
            await trio.sleep_until(due)
            now = trio.current_time()
            late, due = now - due, now + TICK_S
            for connection in list(self.connections.values()):
                if late > FROZEN_S:
                    # This process stood still: what came meanwhile is not read yet, and nobody was silent.
                    connection.heard += late
                connection.tick(now)

    def _perform(self, actions: Actions) -> None:
        for action in actions:
            if isinstance(action, News):
                self._news.set()
                continue
            connection = self.connections.get(action.hub)
            if connection is None:
                continue  # it is on its way out
            if isinstance(action, Wake):
                connection.wake()
            else:
                connection.end(action.code, action.reason, "closed")

    async def _spread(self) -> None:
        """At once for the first who comes or goes; for all that follow together a moment later."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            # A few at a time: what hubs say to each other does not wait for a thousand that are told.
            for some in batched(self.switch.spread(), NEWS_AT_ONCE):
                self._perform(some)
                await trio.lowlevel.checkpoint()
            await trio.sleep(max(NEWS_S, NEWS_HUB_S * self.switch.hubs))

    # --- one connection ----------------------------------------------------------------------------------

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.counts.connections += 1
        try:
            address = stream.socket.getpeername()[0]
        except OSError:
            await trio.aclose_forcefully(stream)
            return  # gone already
        outer: list[trio.abc.Stream] = [stream]
        try:
            found = await self._introduce(stream, outer, address)
            if found is not None:
                asked, proven, source = found
                await self._serve_hub(outer[-1], asked, proven, source)
        except Exception as error:
            self.counts.refused["crash"] += 1
            self._journal.crash("connection", error)
        finally:
            await trio.aclose_forcefully(outer[-1])

    async def _introduce(
        self, stream: trio.SocketStream, outer: list[trio.abc.Stream], address: str
    ) -> tuple[Asked, Proven, str] | None:
        """Up to the proof; what came of it, or None. The stream to talk over is the last of `outer`."""
        proxy = is_in(address, self.settings.proxies)
        source = source_of(address)
        with trio.CancelScope() as ticket:
            victim = self.half_open.enter(ticket, source, proxy=proxy)
            if victim is not None:
                victim.cancel()
            request = b""
            try:
                with trio.move_on_after(HELLO_S):
                    if self._tls is not None:
                        outer.append(await guest.encrypt(stream, self._tls))
                    head, request = await guest.read_request(outer[-1])
                    if proxy and (named := behind(head.forwarded, self.settings.proxies)):
                        source = source_of(named)
                        if (victim := self._move(ticket, source)) is not None:
                            victim.cancel()
                    asked = await guest.greet(outer[-1], request)
                    now = trio.current_time()
                    verdict = self._judge.judge(asked.hello, asked.nonce, source, now)
                    if isinstance(verdict, Proven):
                        verdict = self._place(verdict, asked)
                    if isinstance(verdict, Refused):
                        raise guest.refused(verdict)
                    return asked, verdict, source
                raise guest.too_slow(asked=bool(request))
            except Turned as turned:
                why = turned
            finally:
                self.half_open.leave(ticket)
            await self._turn_away(outer[-1], source, why)
            return None
        # Somebody else was let in for it, or the server ends.
        self.counts.refused["crowded"] += 1
        self._journal.stranger("refused", "crowded", source=source)
        return None

    def _move(self, ticket: trio.CancelScope, source: str) -> trio.CancelScope | None:
        """The proxy has said who it is for: from now on it counts there."""
        if not self.half_open.leave(ticket):
            return None  # it had to make room already, and does not cost another one his
        return self.half_open.enter(ticket, source)

    def _place(self, proven: Proven, asked: Asked) -> Proven | Refused:
        address = relay_wire.address_of(bytes.fromhex(asked.hello.public))
        if proven.invitation:
            why = self.switch.uninvited(proven.realm, address, proven.invitation, invited=proven.invited)
            if why:
                return Refused(CLOSE_INVITATION, "invitation", why)
        full = self.switch.full(proven.realm, address, proven.invitation)
        return Refused(CLOSE_FULL, "full", full) if full else proven

    async def _turn_away(self, stream: trio.abc.Stream, source: str, turned: Turned) -> None:
        if turned.why:
            self.counts.refused[turned.why] += 1
            detail = {"detail": turned.detail} if turned.detail else {}
            self._journal.stranger("refused", turned.why, source=source, **detail)
        if turned.say and self._partings < CLOSING_MAX:
            self._partings += 1
            try:
                await guest.part(stream, turned.say)
            finally:
                self._partings -= 1

    async def _serve_hub(self, stream: trio.abc.Stream, asked: Asked, proven: Proven, source: str) -> None:
        hello = asked.hello
        identity = relay_wire.address_of(bytes.fromhex(hello.public)).hex()
        version = "".join([c for c in hello.app_version[:VERSION_MAX] if c.isascii() and c.isprintable()])
        card = HubHere(hub_id=hello.hub_id, address=identity, app_version=version)
        hub, actions = self.switch.join(proven.realm, card, proven.invitation)
        connection = Connection(stream, asked.socket, hub, proven.token, self.switch, self._perform)
        self.connections[hub] = connection
        self.counts.proven += 1
        who = {"hub_id": hello.hub_id, "identity": identity[:_SHOWN], "realm": proven.realm}
        if proven.invitation:
            who["invitation"] = "invited" if proven.invited else "invites"
        self._journal.hub("joined", **who, source=source, app_version=version)
        try:
            self._perform(actions)
            await connection.serve()
        finally:
            del self.connections[hub]
            if not self._stop.is_set():  # else nobody is told, and what it sent to others is still written
                self._perform(self.switch.leave(hub, connection.left))
            code, reason = connection.ended or (1006, "the connection was lost")
            self.counts.closed[code] += 1
            self._journal.hub("left", **who, code=code, reason=reason)

    # --- metrics -----------------------------------------------------------------------------------------

    async def _serve_metrics(self, stream: trio.SocketStream) -> None:
        if len(self._scrapes) >= SCRAPES_MAX:
            await trio.aclose_forcefully(stream)
            return
        scope = trio.move_on_after(HELLO_S)
        self._scrapes.add(scope)
        try:
            with scope:
                uptime_s = trio.current_time() - self._began
                await guest.answer_scrape(
                    stream,
                    lambda: render(self.switch, self.counts, len(self.half_open), uptime_s),
                    CONTENT_TYPE,
                )
        except Exception as error:
            self._journal.crash("metrics", error)
        finally:
            self._scrapes.remove(scope)
            await trio.aclose_forcefully(stream)


def batched(actions: Actions, count: int) -> Iterator[Actions]:
    """Some of them at a time."""
    for at in range(0, len(actions), count):
        yield actions[at : at + count]


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What encrypts connections; None: they come plain.

    Raises:
        RelayError: ``bad_args``, certificate and key cannot be used.
    """
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A new handshake within a connection costs much, and whoever asks for it little.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A key with a password would ask for it at a terminal that nobody watches.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (OSError, ssl.SSLError) as error:
        raise RelayError(
            "bad_args",
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} cannot be used "
            f"({getattr(error, 'reason', None) or error.strerror or 'no PEM'}): they must be a certificate "
            "chain and its key without a password, both PEM",
        ) from None
    return context


async def _listen(bind: str, port: int, field: str) -> list[trio.SocketListener]:
    try:
        # Trio's default host is every address, of both families.
        host = None if bind == "::" else bind
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        raise RelayError(
            "bad_args",
            f"cannot listen at {bind}, port {port} ({error.strerror or error}): set {field} to one that is "
            "free and yours",
        ) from None


def _realms(settings: Settings) -> dict[str, int]:
    return {realm.name: realm.max_hubs for realm in settings.realms}
