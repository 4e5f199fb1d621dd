"""Is at each configured relay server, and opens streams there to the hubs that are sought.

Of two hubs at a relay the one with the smaller hub_id dials; the other waits a little and dials itself if no
link came, for it may be the only one that noticed that another road broke. A hub that is at several relays is
dialed at one of them; the next one is taken when that fails.
"""

from __future__ import annotations

import os
import random
from collections import OrderedDict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from ecorelay import relay_wire
from ecorelay.names import key
from ecorelay_bridge.backoff import STABLE_S, Backoff
from ecorelay_bridge.dialer import Dialer, connect
from ecorelay_bridge.identity import digest_of_fingerprint, fingerprint_of_digest
from ecorelay_bridge.known import judge
from ecorelay_bridge.listener import failed
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_connection import attend, news_pace
from ecorelay_bridge.relay_road import Where, connect_relay, shown_name
from ecorelay_bridge.roads import RelayState, RoadReport
from ecorelay_bridge.workers import Pace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ecorelay.relay_wire import HubHere
    from ecorelay_bridge.dialer import Connect
    from ecorelay_bridge.door import Door
    from ecorelay_bridge.identity import Identity
    from ecorelay_bridge.introduction import Introducer, Proven
    from ecorelay_bridge.known import Trust
    from ecorelay_bridge.listener import Listener, Report
    from ecorelay_bridge.relay_connection import Connection
    from ecorelay_bridge.relay_stream import RelayStream
    from ecorelay_bridge.roads import Roads
    from ecorelay_bridge.settings import RelayServer, Settings

_T = TypeVar("_T")

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
INTRODUCING_MAX: Final = 32
"""Streams of others that have not proved themselves, at all relays together: half of the room at the door. A
relay server can open as many as it likes, in the name of hubs that we know too, and whoever comes over the
network is not to find the door full for that."""
MET_PAUSE_S: Final = 2.0
"""Longest wait for a relay server that was there before, whatever answers in its place: tunnels have pages of
their own for a server that is not running."""
_IN_ITS_PLACE: Final = frozenset({Reason.NO_RELAY, Reason.TLS})
"""Not a proxy that refuses: it may count wrong passwords."""


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
        self._pairs: dict[bytes, dict[str, _Pair]] = {}
        """By address and then hub_id: at another relay it may call itself otherwise."""
        self._count = 0
        """Of those."""
        self.guesses = Pace(GUESSES_PER_S, GUESSES_BURST)
        self.strangers = trio.CapacityLimiter(STRANGERS_AT_ONCE)
        self.later: OrderedDict[tuple[bytes, str], tuple[Backoff, float]] = OrderedDict()
        """Hubs that must not be dialed before a time, also if they leave and come again."""
        self._said: set[tuple[bytes, str]] = set()
        """Hubs with a wrong identity that were reported."""
        self._introducing = 0
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
        where, backoff, news = Where(relay.url), Backoff(self.jitter), news_pace()
        state = self.roads.relays[shown_name(relay, self._settings.relays)] = RelayState()
        met = False
        while True:
            began = trio.current_time()
            try:
                stream = await connect_relay(relay, environ=self._environ, dial=self._dial)
                refused = await attend(
                    relay, stream, self.hub_id, self._identity, _Visit(self, state), app=self._app, news=news
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
            met = met or state.up
            if met and refused.reason in _IN_ITS_PLACE:
                wait = min(wait, MET_PAUSE_S * self.jitter())
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
        for each in list(self._pairs.get(address, {}).values()):
            if connection in each.at and (hub is None or hub.hub_id != each.hub_id):
                self._forget(each, connection)
        if hub is None or not self._is_wanted(connection, address, hub):
            return
        pair = self._pairs.get(address, {}).get(hub.hub_id)
        if pair is None:
            if self._count >= PAIRS_MAX and not self._make_room(address, hub.hub_id):
                return
            pair = _Pair(self, address, hub.hub_id)
            self._pairs.setdefault(address, {})[hub.hub_id] = pair
            self._count += 1
            self._nursery.start_soon(pair.run, self._nursery)
        if connection not in pair.at:
            pair.at.append(connection)

    def gone(self, connection: Connection) -> None:
        """A connection ended."""
        for pair in [pair for there in self._pairs.values() for pair in there.values()]:
            if connection in pair.at:
                self._forget(pair, connection)

    def _forget(self, pair: _Pair, connection: Connection) -> None:
        pair.at.remove(connection)
        if not pair.at:
            self._drop(pair)

    def _drop(self, pair: _Pair) -> None:
        address, hub_id = pair.key
        del self._pairs[address][hub_id]
        if not self._pairs[address]:
            del self._pairs[address]
        self._count -= 1
        pair.gone.set()

    def _make_room(self, address: bytes, hub_id: str) -> bool:
        """A hub that we know takes the place of a stranger: those may be as many as somebody likes."""
        if not self.is_known(address, hub_id):
            return False
        pairs = [pair for there in self._pairs.values() for pair in there.values()]
        stranger = next((pair for pair in pairs if not pair.known and not self.is_known(*pair.key)), None)
        if stranger is not None:
            self._drop(stranger)
        return stranger is not None

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
        if self._introducing >= INTRODUCING_MAX:
            stream.refuse()
            return
        hub = connection.hubs.get(address)
        with ExitStack() as place:
            self._introducing += 1
            place.callback(self._leave)
            try:
                await self._listener.receive(
                    stream,
                    _source(address),
                    road_name(connection.name),
                    stranger=stranger_name(connection.name, "unknown" if hub is None else hub.hub_id),
                    on_proved=place.close,
                )
            finally:
                await trio.aclose_forcefully(stream)  # whatever was cancelled

    def _leave(self) -> None:
        self._introducing -= 1


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

    def flooded(self, connection: Connection) -> None:
        self._state.trouble = (
            "it tells of more hubs and streams than a hub has use for, and is heard slowly now: see its log"
        )
        self._owner.report(
            RoadReport(
                event="relay_failed",
                side="dialer",
                address=connection.name,
                reason=Reason.RELAY_RULES,
                sentence=self._state.trouble,
            )
        )

    def left(self, connection: Connection) -> None:
        self._owner.gone(connection)


class _Pair:
    """One hub that is at one relay or more: the way to it, see `ecorelay_bridge.dialer.Way`."""

    def __init__(self, owner: RelayDialer, address: bytes, hub_id: str) -> None:
        self._owner = owner
        self.key = address, hub_id
        self.hub_id = hub_id
        self.at: list[Connection] = []
        """Where it is; dialed is the first, and one over which that failed becomes the last."""
        self.address = ""
        """The relay over which it is dialed, for a person."""
        self.gone = trio.Event()
        """It is at no relay any more. Streams that are up end by themselves."""
        self.known = owner.is_known(address, hub_id)
        """Whether it was known when it came."""
        self._backoff = owner.later.get(self.key, (Backoff(owner.jitter), 0.0))[0]
        smaller = key(owner.hub_id) < key(hub_id)
        self._grace = (DIRECT_S if key(hub_id) in owner.direct else 0.0) if smaller else GRACE_S

    async def run(self, links: trio.Nursery) -> None:
        """Dial until it is gone; the streams run in `links`."""
        owner = self._owner
        dialer = Dialer(
            self.hub_id,
            self,
            owner.introducer,
            owner.roads,
            self._backoff,
            owner.on_link,
            owner.report,
            on_proved=owner.door.proved,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialer.keep, links)
            await self.gone.wait()
            nursery.cancel_scope.cancel()

    async def sought(self) -> None:
        """See `Way`."""
        while True:
            await self._owner.roads.sought(self.hub_id, relayed=True, for_s=self._grace)
            pause = self._owner.later.get(self.key, (None, 0.0))[1] - trio.current_time()
            if pause <= 0:
                return
            await trio.sleep(pause)

    async def open(self) -> tuple[trio.abc.Stream, str]:
        """See `Way`."""
        await trio.lowlevel.checkpoint()
        if not self.at:  # it went this moment, and nobody has told us to stop yet
            raise Refused(Reason.NOT_AT_RELAY, "it is not at the relay any more")
        connection = self.at[0]
        self.address = road_name(connection.name)
        # Should it fail, another one is next; should it not, that is as good.
        self.at.append(self.at.pop(0))
        return connection.open(self.key[0]), _source(self.key[0])

    async def prove(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """See `Way`. Strangers wait for each other, and get few guesses together."""
        if self._owner.is_known(*self.key):
            return await attempt()
        guesses = self._owner.guesses
        async with self._owner.strangers:
            # Others may use up what was waited for.
            while (wait := guesses.wait(trio.current_time())) > 0:  # noqa: ASYNC110
                await trio.sleep(wait)
            try:
                return await attempt()
            except Refused as refused:
                if refused.failed_proof:
                    guesses.take(trio.current_time())
                raise

    def pauses(self, wait: float, *, may_hurry: bool) -> None:
        """See `Way`. A pause that must be kept is kept also if it leaves and comes again."""
        later = self._owner.later
        later.pop(self.key, None)
        if not may_hurry:
            later[self.key] = self._backoff, trio.current_time() + wait
            if len(later) > PAIRS_MAX:
                later.popitem(last=False)
