"""The roads of a simulated hub: real dialers with their real pauses, over simulated streams, up to where a
hub has proved itself. The proof costs too much for thousands of runs, so here each side only says its name.

Over the relay everything but the proof between the hubs is real as well: the relay server's own code at the
one end, the hub's connection to it with its many streams at the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, NamedTuple, TypeVar

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ecorelay import names
from ecorelay.relay_wire import HubHere
from ecorelay.secret import Secret
from ecorelay_bridge.backoff import Backoff
from ecorelay_bridge.dialer import Dialer
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_connection import Connection, attend
from ecorelay_bridge.relay_stream import RelayStream
from ecorelay_bridge.roads import Roads
from ecorelay_bridge.settings import RelayServer
from tests.sim.net import Network, NoAnswer, Refusing, SimStream

HELLO_S = 5.0
NAME_MAX = 64
GRACE_S = 2.0
"""How long the hub that does not choose leaves it to the other one to dial over the relay."""
TOKEN = "the token of the simulated relay, long enough"
RELAY = "relay"
SERVER = RelayServer(url="ws://relay.sim/", token=Secret(TOKEN))


class Proven(NamedTuple):
    """See `ecorelay.daemon.links.ProvenStream`."""

    stream: trio.abc.Stream
    hub_id: str
    address: str
    relayed: bool


T = TypeVar("T")
OnLink = Callable[[Proven], Awaitable[None]]


async def _say_name(stream: trio.abc.Stream, hub_id: str) -> None:
    await stream.send_all(hub_id.ljust(NAME_MAX).encode())


async def _hear_name(stream: trio.abc.Stream) -> str:
    said = b""
    while len(said) < NAME_MAX:
        more = await stream.receive_some(NAME_MAX - len(said))
        if not more:
            raise trio.BrokenResourceError("closed before it said its name")
        said += more
    return said.decode().strip()


class Signer:
    """An identity that is the same in every run."""

    def __init__(self, hub_id: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(hub_id.encode()).digest())
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


class OnNetwork:
    """The way straight to a hub; see `ecorelay_bridge.dialer.Way`."""

    relayed = False

    def __init__(self, bridge: SimBridge, hub_id: str) -> None:
        self._bridge = bridge
        self.address = hub_id

    async def sought(self) -> None:
        await self._bridge.roads.sought(self.address)

    async def open(self) -> tuple[trio.abc.Stream, str]:
        try:
            return await self._bridge.network.connect(self._bridge.hub_id, self.address), ""
        except Refusing:
            raise Refused(Reason.CONNECTION_REFUSED, "") from None
        except NoAnswer:
            raise Refused(Reason.FILTERED, "") from None

    async def prove(self, attempt: Callable[[], Awaitable[T]]) -> T:
        return await attempt()

    def pauses(self, wait: float, *, may_hurry: bool) -> None:
        pass


class OverRelay(OnNetwork):
    """The way to a hub that is at the relay."""

    relayed = True

    def __init__(self, bridge: SimBridge, hub_id: str, connection: Connection, address: bytes) -> None:
        super().__init__(bridge, hub_id)
        self._at = connection
        self._relay_address = address

    async def sought(self) -> None:
        smaller = names.key(self._bridge.hub_id) < names.key(self.address)
        await self._bridge.roads.sought(self.address, relayed=True, for_s=0.0 if smaller else GRACE_S)

    async def open(self) -> tuple[trio.abc.Stream, str]:
        return self._at.open(self._relay_address), ""


class SimDialer(Dialer):
    """The real one, but for how it is introduced."""

    def __init__(self, bridge: SimBridge, hub_id: str, way: OnNetwork) -> None:
        nobody: Any = None
        on_link: Any = bridge.on_link
        super().__init__(hub_id, way, nobody, bridge.roads, Backoff(bridge.chance.random), on_link, _unheard)
        self._bridge = bridge
        self._relayed = way.relayed
        self.scope = trio.CancelScope()

    async def _introduced(self) -> Any:
        stream, _ = await self._way.open()
        try:
            with trio.fail_after(HELLO_S):
                await _say_name(stream, self._bridge.hub_id)
                found = await _hear_name(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            await trio.aclose_forcefully(stream)
            raise Refused(Reason.CLOSED, "") from None
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        assert found == self._hub_id
        if isinstance(stream, RelayStream):
            stream.trust()
        return Proven(stream, found, self._hub_id, self._relayed)

    async def _link(self, introduced: Any, address: str) -> None:
        try:
            await self._on_link(introduced)
        finally:
            await trio.aclose_forcefully(introduced.stream)
            self._up -= 1
            self._ended.set()
            self._ended = trio.Event()


class SimBridge:
    """All roads of one hub.

    Args:
        network: where it is.
        hub_id: its name, and its host's.
        hubs: the others, dialed directly where that is possible.
        chance: of pauses.
        relayed: there is a relay server.
        on_link: gets each stream to a hub that said its name; it is closed when that returns.
        roads: see there.
    """

    def __init__(
        self,
        network: Network,
        hub_id: str,
        hubs: tuple[str, ...],
        chance: Random,
        relayed: bool,
        on_link: OnLink,
        roads: Roads,
    ) -> None:
        self.network = network
        self.hub_id = hub_id
        self.hubs = hubs
        self.chance = chance
        self.on_link = on_link
        self.roads = roads
        self._relayed = relayed
        self._over_relay: dict[bytes, SimDialer] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            door = self.network.doors[self.hub_id] = self._receive, nursery
            try:
                for hub_id in self.hubs:
                    nursery.start_soon(SimDialer(self, hub_id, OnNetwork(self, hub_id)).run)
                if self._relayed:
                    nursery.start_soon(self._keep_at_relay)
                await trio.sleep_forever()
            finally:
                self._nursery = None
                if self.network.doors.get(self.hub_id) is door:
                    del self.network.doors[self.hub_id]

    async def _receive(self, stream: SimStream | RelayStream, relayed: bool = False) -> None:
        try:
            with trio.fail_after(HELLO_S):
                hub_id = await _hear_name(stream)
                await _say_name(stream, self.hub_id)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return
        if isinstance(stream, RelayStream):
            stream.trust()
        await self.on_link(Proven(stream, hub_id, hub_id, relayed))

    def _begin(self, what: Callable[..., Awaitable[None]], *args: object) -> None:
        if self._nursery is not None:  # else it is just ending
            self._nursery.start_soon(what, *args)

    def dial_once_more(self, hub_id: str) -> None:
        """Another connection, that nobody needs."""
        self._begin(self._dial_once_more, hub_id)

    async def _dial_once_more(self, hub_id: str) -> None:
        dialer = SimDialer(self, hub_id, OnNetwork(self, hub_id))
        try:
            proven = await dialer._introduced()
        except Refused:
            return
        dialer._up += 1
        await dialer._link(proven, "")

    # --- the relay -------------------------------------------------------------------------------------

    async def _keep_at_relay(self) -> None:
        backoff = Backoff(self.chance.random)
        while True:
            try:
                stream = await self.network.connect(self.hub_id, RELAY)
                await attend(SERVER, stream, self.hub_id, Signer(self.hub_id), self, app="sim")
            except OSError:
                pass
            await trio.sleep(0.05 + backoff.after_failure(Refused(Reason.RELAY_AWAY, "")))

    def arrived(self, connection: Connection) -> None:
        """See `ecorelay_bridge.relay_connection.Guest`."""

    def seen(self, connection: Connection, address: bytes, hub: HubHere | None) -> None:
        """See `Guest`."""
        if (old := self._over_relay.pop(address, None)) is not None:
            old.scope.cancel()
        if hub is not None:
            way = OverRelay(self, hub.hub_id, connection, address)
            self._over_relay[address] = SimDialer(self, hub.hub_id, way)
            self._begin(self._dial_over_relay, self._over_relay[address])

    async def _dial_over_relay(self, dialer: SimDialer) -> None:
        if self._nursery is not None:
            with dialer.scope:
                await dialer.keep(self._nursery)

    def called(self, connection: Connection, stream: RelayStream, address: bytes) -> None:
        """See `Guest`."""
        self._begin(self._called, stream)

    async def _called(self, stream: RelayStream) -> None:
        try:
            await self._receive(stream, relayed=True)
        finally:
            await trio.aclose_forcefully(stream)

    def flooded(self, connection: Connection) -> None:
        """See `Guest`."""
        raise AssertionError("the relay server tells of so much that it is read slowly")

    def left(self, connection: Connection) -> None:
        """See `Guest`."""
        for address in list(self._over_relay):
            self.seen(connection, address, None)


def _unheard(report: object) -> None:
    pass
