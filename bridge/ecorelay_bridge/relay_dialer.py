"""Is at each configured relay server, and opens streams there to the hubs that are sought.

Of two hubs at a relay the one with the smaller hub_id dials; the other waits a little and dials itself if no
link came, for it may be the only one that noticed that another road broke. A hub that is at several relays is
dialed at one of them; the next one is taken when that fails.
"""

from __future__ import annotations

import os
import random
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

from ecorelay import relay_wire
from ecorelay.names import key
from ecorelay_bridge.backoff import STABLE_S, Backoff
from ecorelay_bridge.dialer import Dialer, connect
from ecorelay_bridge.identity import digest_of_fingerprint, fingerprint_of_digest
from ecorelay_bridge.known import judge
from ecorelay_bridge.listener import failed
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_connection import attend
from ecorelay_bridge.relay_road import Where, connect_relay
from ecorelay_bridge.roads import RelayState, RoadReport
from ecorelay_bridge.settings import Peer
from ecorelay_bridge.workers import Pace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ecorelay.relay_wire import HubHere
    from ecorelay_bridge.dialer import Connect
    from ecorelay_bridge.door import Door
    from ecorelay_bridge.handshake import Proof
    from ecorelay_bridge.identity import Identity
    from ecorelay_bridge.introduction import Introducer, Proven
    from ecorelay_bridge.known import Trust
    from ecorelay_bridge.listener import Listener, Report
    from ecorelay_bridge.relay_connection import Connection
    from ecorelay_bridge.relay_stream import RelayStream
    from ecorelay_bridge.roads import Roads
    from ecorelay_bridge.settings import RelayServer, Settings

GRACE_S: Final = 2.0
"""How long the hub with the greater hub_id waits for the other one to dial."""
DIRECT_S: Final = 0.5
"""How long a hub that can be dialed directly gets for that: it is the better road."""
PAIRS_MAX: Final = 1_000
"""Hubs dialed at relays."""
GUESSES_BURST: Final = 10
GUESSES_PER_S: Final = 0.2
"""Proofs that may fail with hubs we do not know, whoever they are: whoever has a relay's token can come again
and again under new names, to be dialed and to try a guess at the secret each time."""
STRANGERS_AT_ONCE: Final = 4
INCOMING_MAX: Final = 256
"""Streams of others being introduced or linked at a time, at all relays together."""


class RelayDialer:
    """Meets other hubs at relay servers.

    Args:
        settings: of this hub.
        identity: of this hub.
        trust: who is known.
        introducer: of this hub.
        roads: says who is sought, and is told how it stands with each relay.
        door: knows who proved itself.
        listener: takes what others dial.
        on_link: the hub's part of a link.
        report: told what happens.
        app: the version to show.
        jitter: gives a number from 0 up to 1.
        dial: makes the stream to a host and port.
        environ: has the proxies.
    """

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        trust: Trust,
        introducer: Introducer,
        roads: Roads,
        door: Door,
        listener: Listener,
        on_link: Callable[[Proven], Awaitable[None]],
        report: Report,
        *,
        app: str,
        jitter: Callable[[], float] = random.random,
        dial: Connect = connect,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.introducer = introducer
        self.roads = roads
        self.on_link = on_link
        self.report = report
        self.jitter = jitter
        self.door = door
        self.direct = frozenset(key(peer.hub_id) for peer in settings.peers)
        """Hubs that are dialed directly as well."""
        self.hub_id = settings.hub_id
        self._settings = settings
        self._identity = identity
        self._trust = trust
        self._listener = listener
        self._app = app
        self._dial = dial
        self._environ = os.environ if environ is None else environ
        self._pairs: dict[tuple[bytes, str], _Pair] = {}
        """By address and hub_id."""
        self.guesses = Pace(GUESSES_PER_S, GUESSES_BURST)
        self.strangers = trio.CapacityLimiter(STRANGERS_AT_ONCE)
        self.later: OrderedDict[tuple[bytes, str], tuple[Backoff, float]] = OrderedDict()
        """Hubs that must not be dialed before a time, also if they leave and come again."""
        self._said: set[tuple[bytes, str]] = set()
        """Hubs with a wrong identity that were reported."""
        self._incoming = 0
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Until cancelled; the streams end with it."""
        if not self._settings.relays:
            return
        for known in self._trust.known().values():
            self.door.proved(_source(digest_of_fingerprint(known.identity)))
        async with trio.open_nursery() as self._nursery:
            for relay in self._settings.relays:
                self._nursery.start_soon(self._keep, relay)

    # --- relay servers -----------------------------------------------------------------------------------

    async def _keep(self, relay: RelayServer) -> None:
        """Be at one relay."""
        where, backoff = Where(relay.url), Backoff(self.jitter)
        state = self.roads.relays[where.name] = RelayState()
        while True:
            began = trio.current_time()
            try:
                stream = await connect_relay(relay, environ=self._environ, dial=self._dial)
                refused = await attend(
                    relay, stream, self.hub_id, self._identity, _Visit(self, state), app=self._app
                )
            except Refused as why:
                refused = why
            except Exception as error:
                self.report(RoadReport(event="relay_failed", side="dialer", address=where.name, error=error))
                refused = Refused(Reason.CRASH, "a bug of this hub ended the attempt; see its log")
            now = trio.current_time()
            held, wait = now - state.since if state.up else 0.0, 0.0
            if state.up and (held >= STABLE_S or not refused.slow):
                wait = backoff.after_link(held)
            if not state.up or refused.slow:
                wait = backoff.after_failure(refused)
            state.up, state.hubs, state.since = False, 0, now
            state.trouble = f"{refused.sentence}; {refused.remedy}" if refused.remedy else refused.sentence
            self.report(
                RoadReport(
                    event="relay_failed",
                    side="dialer",
                    address=where.name,
                    reason=refused.reason,
                    sentence=refused.sentence,
                    remedy=refused.remedy,
                    told=refused.told,
                    retry_in_s=wait,
                )
            )
            # An attempt that failed at once must not be followed by the next one at once.
            wait = max(wait, 0.05 - (now - began))
            if refused.slow:
                await trio.sleep(wait)
            elif await self.roads.pause_any(wait):
                backoff.hurry()
                await trio.sleep(0.5 * self.jitter())

    # --- who is there --------------------------------------------------------------------------------------

    def seen(self, connection: Connection, address: bytes, hub: HubHere | None) -> None:
        """A hub is there now, or not any more."""
        for (there, hub_id), each in list(self._pairs.items()):
            if there == address and connection in each.at and (hub is None or hub.hub_id != hub_id):
                self._forget(each, connection)
        if hub is None or not self._is_wanted(connection, address, hub):
            return
        pair = self._pairs.get((address, hub.hub_id))
        if pair is None:
            if len(self._pairs) >= PAIRS_MAX:
                return
            pair = self._pairs[address, hub.hub_id] = _Pair(self, address, hub.hub_id)
            self._nursery.start_soon(pair.run_until_gone, self._nursery)
        if connection not in pair.at:
            pair.at.append(connection)

    def gone(self, connection: Connection) -> None:
        """A connection ended."""
        for pair in list(self._pairs.values()):
            if connection in pair.at:
                self._forget(pair, connection)

    def _forget(self, pair: _Pair, connection: Connection) -> None:
        pair.at.remove(connection)
        if not pair.at:
            del self._pairs[pair.address, pair.hub_id]
            pair.gone.set()

    def _is_wanted(self, connection: Connection, address: bytes, hub: HubHere) -> bool:
        """Whether it may be who it says; a wrong one is told of once."""
        if hub.app_version == relay_wire.PROBE_APP:
            return False
        shown = fingerprint_of_digest(address)
        try:
            if key(hub.hub_id) == key(self.hub_id):
                raise Refused(
                    Reason.OWN_HUB_ID,
                    f"another hub there calls itself {hub.hub_id}, as this one does",
                    "give each machine a hub_id of its own in bridge.json",
                )
            named = [peer.hub_id for peer in self._settings.peers]
            judge(self._trust.known(), hub.hub_id, shown, self._settings.pinned(hub.hub_id), named)
        except Refused as refused:
            if (address, hub.hub_id) not in self._said and len(self._said) < PAIRS_MAX:
                self._said.add((address, hub.hub_id))
                own = refused.reason is Reason.OWN_HUB_ID
                name = road_name(connection.name) if not own else stranger_name(connection.name, hub.hub_id)
                self.report(failed("dialer", refused, hub_id="" if own else hub.hub_id, address=name))
            return False
        return True

    def is_known(self, address: bytes, hub_id: str) -> bool:
        """Whether it is one whose identity we know: TLS shows that it is, before it gets our proof."""
        shown = fingerprint_of_digest(address)
        known = self._trust.known().get(hub_id)
        return shown == self._settings.pinned(hub_id) or (known is not None and known.identity == shown)

    # --- what they open ------------------------------------------------------------------------------------

    def called(self, connection: Connection, stream: RelayStream, address: bytes) -> None:
        """A hub dials us."""
        self._nursery.start_soon(self._receive, connection, stream, address)

    async def _receive(self, connection: Connection, stream: RelayStream, address: bytes) -> None:
        if self._incoming >= INCOMING_MAX:
            await trio.aclose_forcefully(stream)
            return
        hub = connection.hubs.get(address)
        self._incoming += 1
        try:
            await self._listener.receive(
                stream,
                _source(address),
                road_name(connection.name),
                stranger=stranger_name(connection.name, "unknown" if hub is None else hub.hub_id),
            )
        finally:
            self._incoming -= 1
            await trio.aclose_forcefully(stream)  # whatever was cancelled


def road_name(relay: str) -> str:
    """A road over a relay, for a person."""
    return f"relay {relay}"


def stranger_name(relay: str, hub_id: str) -> str:
    """A hub at a relay that has not proved itself."""
    return f"{road_name(relay)} ({hub_id})"


def _source(address: bytes) -> str:
    """A hub at a relay, for the door."""
    return address.hex()


class _Visit:
    """Our stay at one relay, once."""

    def __init__(self, owner: RelayDialer, state: RelayState) -> None:
        self._owner = owner
        self._state = state

    def arrived(self, connection: Connection) -> None:
        self._state.up, self._state.since, self._state.trouble = True, trio.current_time(), ""
        self._state.hubs = len(connection.hubs)
        self._owner.report(RoadReport(event="at_relay", side="dialer", address=connection.name))

    def seen(self, connection: Connection, address: bytes, hub: HubHere | None) -> None:
        self._state.hubs = len(connection.hubs)
        self._owner.seen(connection, address, hub)

    def called(self, connection: Connection, stream: RelayStream, address: bytes) -> None:
        self._owner.called(connection, stream, address)

    def left(self, connection: Connection) -> None:
        self._owner.gone(connection)


class _Pair(Dialer):
    """Keeps one hub linked that is at one relay or more."""

    def __init__(self, owner: RelayDialer, address: bytes, hub_id: str) -> None:
        super().__init__(
            Peer(hub_id=hub_id, host="", port=0),
            owner.introducer,
            owner.roads,
            owner.later.get((address, hub_id), (Backoff(owner.jitter), 0.0))[0],
            owner.on_link,
            owner.report,
            on_proved=lambda source: owner.door.proved(source),
        )
        self._owner = owner
        self.address = address
        self.hub_id = hub_id
        self.at: list[Connection] = []
        """Where it is; dialed is the first, and one over which that failed becomes the last."""
        self.gone = trio.Event()
        """It is at no relay any more. Streams that are up end by themselves."""
        smaller = key(owner.hub_id) < key(hub_id)
        self._grace = (DIRECT_S if key(hub_id) in owner.direct else 0.0) if smaller else GRACE_S

    async def run_until_gone(self, links: trio.Nursery) -> None:
        """Dial until it is gone; the streams run in `links`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.keep, links)
            await self.gone.wait()
            nursery.cancel_scope.cancel()

    async def _sought(self) -> None:
        while True:
            await self._roads.sought(self.hub_id, relayed=True, for_s=self._grace)
            pause = self._owner.later.get((self.address, self.hub_id), (None, 0.0))[1] - trio.current_time()
            if pause <= 0:
                return
            await trio.sleep(pause)

    async def _once(self, links: trio.Nursery) -> tuple[float, bool]:
        wait, may_hurry = await super()._once(links)
        later = self._owner.later
        later.pop((self.address, self.hub_id), None)
        if not may_hurry:
            later[self.address, self.hub_id] = self._backoff, trio.current_time() + wait
            if len(later) > PAIRS_MAX:
                later.popitem(last=False)
        return wait, may_hurry

    async def _introduced(self) -> tuple[trio.SSLStream[trio.abc.Stream], Proof]:
        if self._owner.is_known(self.address, self.hub_id):
            return await super()._introduced()
        guesses = self._owner.guesses
        async with self._owner.strangers:
            # Others may use up what was waited for.
            while (wait := guesses.wait(trio.current_time())) > 0:  # noqa: ASYNC110
                await trio.sleep(wait)
            try:
                return await super()._introduced()
            except Refused as refused:
                if refused.failed_proof:
                    guesses.take(trio.current_time())
                raise

    async def _open(self) -> tuple[trio.abc.Stream, str]:
        await trio.lowlevel.checkpoint()
        connection = self.at[0]
        self._address = road_name(connection.name)
        # Should it fail, another one is next; should it not, that is as good.
        self.at.append(self.at.pop(0))
        return connection.open(self.address), _source(self.address)
