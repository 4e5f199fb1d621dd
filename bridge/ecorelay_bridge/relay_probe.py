"""Looks at a relay server without being a hub: under a key made for the occasion, and dialed by nobody."""

from __future__ import annotations

from contextlib import asynccontextmanager
from statistics import median
from typing import TYPE_CHECKING, Final

import trio
from msgspec import Struct

from ecorelay import relay_wire
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_connection import attend
from ecorelay_bridge.relay_road import Where, connect_relay
from ecorelay_bridge.relay_stream import RelayStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from ecorelay.relay_wire import HubHere
    from ecorelay_bridge.relay_connection import Connection
    from ecorelay_bridge.settings import RelayServer

PINGS: Final = 30
PING_BYTES: Final = 64
PIECE: Final = 64 * 1024
SECONDS: Final = 1.0
"""How long as much is sent as goes."""
MEET_S: Final = 5.0
"""How long the two ends may take to see each other."""
PROBE_ID: Final = "probe"
"""What we call ourselves where it does not matter."""


class Throwaway:
    """An identity that is nowhere written down."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, data: bytes) -> bytes:
        """See `Signer`."""
        return self._key.sign(data)


class Look:
    """A guest that only looks; made by :func:`looking`.

    Attributes:
        connection: to the relay.
    """

    def __init__(self) -> None:
        self.connection: Connection
        self._arrived = trio.Event()
        self._changed = trio.Event()
        self._send, self._receive = trio.open_memory_channel[RelayStream](1)

    def arrived(self, connection: Connection) -> None:
        """See `Guest`."""
        self.connection = connection
        self._arrived.set()

    def seen(self, connection: Connection, address: bytes, hub: HubHere | None) -> None:
        """See `Guest`."""
        self._changed.set()
        self._changed = trio.Event()

    def called(self, connection: Connection, stream: RelayStream, address: bytes) -> None:
        """See `Guest`. The first one may be had with :meth:`stream`; it is closed if nobody wants it."""
        try:
            self._send.send_nowait(stream)
        except trio.WouldBlock:
            stream.refuse()

    def flooded(self, connection: Connection) -> None:
        """See `Guest`."""

    def left(self, connection: Connection) -> None:
        """See `Guest`."""

    async def stream(self) -> RelayStream:
        """A stream that somebody opened to us."""
        return await self._receive.receive()

    async def met(self, address: bytes) -> None:
        """Wait until somebody is there."""
        while address not in self.connection.hubs:
            await self._changed.wait()

    async def met_any(self) -> None:
        """Wait until anybody is there."""
        while not self.connection.hubs:
            await self._changed.wait()


@asynccontextmanager
async def looking(
    relay: RelayServer,
    hub_id: str = PROBE_ID,
    *,
    environ: Mapping[str, str] | None = None,
    on_step: Callable[[str, str], None] = lambda step, detail: None,
) -> AsyncIterator[Look]:
    """Be at a relay for a while.

    Args:
        relay: which.
        hub_id: what to call ourselves there.
        environ: see `connect_relay`.
        on_step: see there; also told of ``websocket``, which includes the proof of the token.

    Raises:
        Refused: we do not get there.
    """
    stream = await connect_relay(relay, environ=environ, on_step=on_step)
    look, ended = Look(), list[Refused]()

    async def attending() -> None:
        ended.append(await attend(relay, stream, hub_id, Throwaway(), look, app=relay_wire.PROBE_APP))
        nursery.cancel_scope.cancel()

    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attending)
        await look._arrived.wait()
        try:
            yield look
        except Exception as error:
            raised = error
        nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised
    if ended:
        raise ended[0]


class Probe(Struct, frozen=True, kw_only=True):
    """What was measured."""

    relay: str
    round_trip_ms: float
    """From one end over the server to the other and back, the median of `PINGS`."""
    best_ms: float
    bytes_per_s: int
    """From one end to the other."""
    hubs: int
    """There beside us."""


async def probe(
    relay: RelayServer, *, environ: Mapping[str, str] | None = None, seconds: float = SECONDS
) -> Probe:
    """Send from ourselves over the relay to ourselves.

    Args:
        relay: which.
        environ: see `connect_relay`.
        seconds: how long as much is sent as goes.

    Raises:
        Refused: it is not to be used, and why.
    """
    async with looking(relay, environ=environ) as one, looking(relay, environ=environ) as other:
        to = other.connection.address
        with trio.move_on_after(MEET_S) as waiting:
            await one.met(to)
            near = one.connection.open(to)
            await near.send_all(b"\0" * PING_BYTES)
            far = await other.stream()
            await _exactly(far, PING_BYTES)
        if waiting.cancelled_caught:
            raise Refused(
                Reason.NO_RELAY,
                f"two connections to {Where(relay.url).name} do not reach each other: are there several "
                "servers behind that address?",
                "let one relay server serve all hubs of a federation",
            )
        times = [await _ping(near, far) for _ in range(PINGS)]
        rate = await _rate(near, far, seconds)
        hubs = sum(hub.app_version != relay_wire.PROBE_APP for hub in one.connection.hubs.values())
    return Probe(
        relay=Where(relay.url).name,
        round_trip_ms=round(median(times) * 1000, 3),
        best_ms=round(min(times) * 1000, 3),
        bytes_per_s=rate,
        hubs=hubs,
    )


async def _ping(near: RelayStream, far: RelayStream) -> float:
    began = trio.current_time()
    for one, other in ((near, far), (far, near)):
        await one.send_all(b"\0" * PING_BYTES)
        await _exactly(other, PING_BYTES)
    return trio.current_time() - began


async def _rate(near: RelayStream, far: RelayStream, seconds: float) -> int:
    async def pump() -> None:
        while True:
            await near.send_all(b"\0" * PIECE)

    count = 0
    far.trust()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump)
        with trio.move_on_after(seconds):
            while True:
                count += len(await far.receive_some())
        nursery.cancel_scope.cancel()
    return round(count / max(trio.current_time() - began, 1e-6))


async def _exactly(stream: RelayStream, size: int) -> None:
    while size > 0:
        size -= len(await stream.receive_some(size)) or size
