"""Hubs as the bridge's tests need them: identities, secrets, both sides of a handshake, whole federations."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ecorelay_bridge.door import Door
from ecorelay_bridge.federation import federate
from ecorelay_bridge.handshake import Accepting, Check, Dialing, Party, Proof
from ecorelay_bridge.identity import Identity, open_identity
from ecorelay_bridge.introduction import Introducer, Proven
from ecorelay_bridge.known import FileTrust
from ecorelay_bridge.password import Password
from ecorelay_bridge.refusals import Reason
from ecorelay_bridge.roads import RoadReport, Roads
from ecorelay_bridge.settings import Peer, RelayServer, Secret, Settings
from ecorelay_bridge.twins import Twins
from ecorelay_bridge.workers import Workers

RIGHT = "the right secret of these hubs"
OLD = "the secret of last year, still known"
WRONG = "quite another secret than theirs"
CLOCK = 1_800_000_000_000
BINDING = b"what TLS gives both ends of one connection"
_FOLDER = tempfile.TemporaryDirectory(prefix="ecorelay-identities-")


@functools.cache
def identity(name: str) -> Identity:
    """The identity of the hub `name`, the same in all tests of a run."""
    return open_identity(Path(_FOLDER.name) / f"{name}.pem", "")


@functools.cache
def password(text: str = RIGHT) -> Password:
    """Derived once: it takes a tenth of a second."""
    return Password(Secret(text))


def anybody(hub_id: str, fingerprint: str) -> bool:
    """A check that knows nobody and refuses nobody."""
    return False


def party(name: str, *, versions: tuple[int, ...] = (1,), who: str = "", instance: str = "") -> Party:
    """The hub `name`, with the identity of `who`."""
    return Party(
        hub_id=name,
        identity=identity(who or name),
        app="0.1.0",
        now_ms=lambda: CLOCK,
        versions=versions,
        instance=instance,
    )


def dialing(
    name: str = "alpha",
    to: str = "beta",
    *,
    secret: str = RIGHT,
    check: Check = anybody,
    certificate: bytes = b"",
    versions: tuple[int, ...] = (1,),
    who: str = "",
    checking: bool = False,
    binding: bytes = BINDING,
) -> Dialing:
    """`name`'s side of dialing `to`, which shows its own certificate unless one is given."""
    return Dialing(
        party(name, versions=versions, who=who),
        to,
        certificate or identity(to).certificate,
        binding,
        password(secret),
        check,
        checking=checking,
    )


def accepting(
    name: str = "beta",
    *,
    secrets: tuple[str, ...] = (RIGHT,),
    check: Check = anybody,
    versions: tuple[int, ...] = (1,),
    who: str = "",
    binding: bytes = BINDING,
) -> Accepting:
    """`name`'s side of being dialed."""
    me = party(name, versions=versions, who=who)
    return Accepting(me, tuple(password(s) for s in secrets), check, binding)


def introducer(
    name: str,
    *,
    secrets: tuple[str, ...] = (RIGHT,),
    check: Check = anybody,
    versions: tuple[int, ...] = (1,),
    finish_s: float = 5.0,
    remember: Callable[[Proof], Awaitable[None]] | None = None,
    twins: Twins | None = None,
    instance: str = "",
) -> Introducer:
    """The hub `name`, introducing itself."""
    return Introducer(
        party(name, versions=versions, instance=instance),
        tuple(password(s) for s in secrets),
        check,
        remember or nothing_to_keep,
        Workers(),
        finish_s=finish_s,
        twins=twins,
    )


async def nothing_to_keep(proof: Proof) -> None:
    await trio.lowlevel.checkpoint()


@dataclass
class Hub:
    """A whole federation of one hub: what its hub's part would see."""

    name: str
    folder: Path
    roads: Roads = field(default_factory=Roads)
    reports: list[RoadReport] = field(default_factory=list)
    links: list[Proven] = field(default_factory=list)
    port: int = 0
    _changed: trio.Event = field(default_factory=trio.Event)
    _released: trio.Event = field(default_factory=trio.Event)

    @property
    def trust(self) -> FileTrust:
        return FileTrust(self.folder / "known-hubs.json")

    def report(self, report: RoadReport) -> None:
        self.reports.append(report)
        self._wake()

    async def on_link(self, proven: Proven) -> None:
        self.links.append(proven)
        self._wake()
        await self._released.wait()

    def release(self) -> None:
        """End all links of now."""
        self._released.set()
        self._released = trio.Event()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, happened: Callable[[], object]) -> None:
        with trio.fail_after(20):
            while not happened():
                await self._changed.wait()

    async def refused(self, reason: Reason) -> RoadReport:
        """Wait for a report of that reason."""
        await self.until(lambda: any(each.reason is reason for each in self.reports))
        return next(each for each in self.reports if each.reason is reason)

    async def linked(self, count: int = 1) -> Proven:
        await self.until(lambda: len(self.links) >= count)
        return self.links[count - 1]


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens at."""
    import socket

    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    name: str,
    *peers: Peer,
    secret: str = RIGHT,
    previous: str = "",
    listen: bool = True,
    who: str = "",
    port: int = 0,
    bind: str = "127.0.0.1",
    relays: tuple[RelayServer, ...] = (),
    environ: Mapping[str, str] | None = None,
    door: Door | None = None,
) -> AsyncIterator[Hub]:
    """A hub on loopback, really listening and dialing, until the end of the block."""
    place = folder / name
    place.mkdir(exist_ok=True)
    hub = Hub(name, place)
    hub.port = port or (free_port() if listen else 0)
    settings = Settings(
        hub_id=name,
        listen=hub.port,
        bind=bind,
        secret=Secret(secret),
        previous_secret=Secret(previous) if previous else None,
        peers=peers,
        relays=relays,
    )
    async with trio.open_nursery() as nursery:
        with trio.fail_after(20):
            await nursery.start(
                functools.partial(
                    federate,
                    settings,
                    identity(who or name),
                    hub.trust,
                    on_link=hub.on_link,
                    report=hub.report,
                    roads=hub.roads,
                    jitter=lambda: 0.1,
                    environ={} if environ is None else environ,
                    door=door,
                )
            )
        try:
            yield hub
        finally:
            nursery.cancel_scope.cancel()


def peer(hub: Hub, *, hub_id: str = "", pin: str = "") -> Peer:
    """An entry of bridge.json for a running hub."""
    return Peer(hub_id=hub_id or hub.name, host="127.0.0.1", port=hub.port, identity=pin)
