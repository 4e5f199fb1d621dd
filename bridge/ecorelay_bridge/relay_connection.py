"""One connection to a relay server: the proof of who we are, who else is there, and streams to them."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from ecorelay import __version__, relay_wire
from ecorelay.errors import WireError
from ecorelay.relay_wire import Congested, Here, HubHere, Joined, Left, NoSuchHub, RelayHello, RelayNonce
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_road import Where
from ecorelay_bridge.relay_stream import RelayStream
from ecorelay_bridge.relay_streams import Streams
from ecorelay_bridge.websocket import ABNORMAL, TOO_MUCH, Closed, WebSocket, open_websocket
from ecorelay_bridge.workers import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay_bridge.settings import RelayServer

HUBS_MAX: Final = 10_000
"""Hubs at one relay that are remembered."""
SILENT_S: Final = 2 * relay_wire.PING_S
"""Silence after which the server is given up: it pings twice as often."""
ASK_S: Final = 2.0
"""Silence after something was said, until the server is asked whether it is there."""
DEAD_S: Final = 6.0
"""Silence after something was said, after which it is given up, though it may only be stopped: another
connection costs little, and takes this one's place there."""
WRITE_SIZE: Final = 256 * 1024
"""Bytes of messages that leave in one write, about."""
OPENING_S: Final = 10.0
"""Seconds for HTTP, until there is a WebSocket."""
ARRIVAL_S: Final = 30.0
"""Seconds from our proof until the server has said who is there: a thousand hubs on the slowest of lines."""
NEWS_PER_S: Final = 1_000.0
NEWS_BURST: Final = 2 * HUBS_MAX
"""Hubs that come and go, and streams of which we knew nothing, which are heeded. Beyond that nothing is read
for a while. Data on its way in streams that are known is not counted: credit bounds it."""
STRAY_COSTS: Final = 0.1
"""So much of that is a piece of a stream that is unknown here: a few are on their way whenever one ends."""
NEWS_AT_ONCE: Final = 64
"""So many, then others on this machine get a turn."""
BROKEN_S: Final = 1.0
"""After a write that failed, seconds in which the server's reason may still be read."""
VERSIONS_MAX: Final = 1_000_000
"""A version beyond is none."""


class Signer(Protocol):
    """What is needed of an identity."""

    public: bytes
    """Its Ed25519 key, 32 bytes."""

    def sign(self, data: bytes) -> bytes:
        """A signature."""


class Guest(Protocol):
    """Who uses a connection. Nothing here may wait or raise."""

    def arrived(self, connection: Connection) -> None:
        """The server took us, and has said who is there."""

    def seen(self, connection: Connection, address: bytes, hub: HubHere | None) -> None:
        """A hub came, or came again; None: it went. After :meth:`arrived` of those there already, too."""

    def called(self, connection: Connection, stream: RelayStream, address: bytes) -> None:
        """The hub at this address opened a stream to us. It is ours now."""

    def flooded(self, connection: Connection) -> None:
        """The server tells of so much that from now on it is read slowly; said once."""

    def left(self, connection: Connection) -> None:
        """The connection ended. Also where it never came to :meth:`arrived`."""


class Connection:
    """What a guest may do while it is connected; made by :func:`attend`.

    Attributes:
        name: of the relay, for a person.
        address: our own there, 32 bytes.
        hubs: those there, by address.
    """

    def __init__(self, relay: RelayServer, address: bytes, news: Pace) -> None:
        self.relay = relay
        self.name = Where(relay.url).name
        self.address = address
        self.hubs: dict[bytes, HubHere] = {}
        self.complete = False
        self.app = ""
        """The version of the server's program, as it says."""
        self._arrived = trio.Event()
        self._news = news
        self._heeded = 0
        self._flooded = False
        self._something = trio.Event()
        self._streams = Streams(trio.current_time, self._wake)
        self._control = False
        """The WebSocket itself has something to say."""
        self._said = 0.0
        """Since when something was said and nothing heard; 0: that is not so."""
        self._spoke = trio.Event()
        """Set when that begins."""

    def open(self, address: bytes) -> RelayStream:
        """A stream to the hub at this address; it opens with the first bytes.

        Raises:
            Refused: nobody is there, or not now.
        """
        if address not in self.hubs:
            raise Refused(Reason.NOT_AT_RELAY, f"it is not at the relay {self.name} any more")
        if self._streams.backs_off_s(address):
            raise Refused(
                Reason.CONGESTED,
                f"the relay {self.name} cut the streams to it three times within a minute",
                "one of the two hubs sends more than it may: upgrade the older one",
            )
        flow = self._streams.open(address)
        if flow is None:
            raise Refused(Reason.BUSY, f"too many streams to it are open at the relay {self.name}")
        return RelayStream(flow)

    def _wake(self) -> None:
        self._something.set()

    # --- running -----------------------------------------------------------------------------------------

    async def _write(self, socket: WebSocket) -> Refused:
        while True:
            self._something = trio.Event()
            messages, size = [], 0
            while size < WRITE_SIZE and (message := self._streams.next()) is not None:
                messages.append(message)
                size += len(message)
            if messages or self._control:
                if messages and (not self._said or self._said < socket.heard):
                    self._said = trio.current_time()
                    self._spoke.set()
                self._control = False
                try:
                    await socket.send(messages)
                except Closed:
                    # The reader knows why, but where only our half broke: then nothing comes to an end there.
                    await trio.sleep(BROKEN_S)
                    return Refused(Reason.RELAY_LOST, f"the connection to the relay {self.name} broke")
            else:
                await self._something.wait()

    def _answer(self) -> None:
        self._control = True
        self._something.set()

    async def _watch(self, socket: WebSocket) -> Refused:
        """Notice that nobody is there any more."""
        asked = 0.0
        while True:
            now, heard = trio.current_time(), socket.heard
            waited = now - self._said if self._said > heard else 0.0
            if waited >= DEAD_S or now - heard >= SILENT_S:
                return Refused(
                    Reason.RELAY_LOST,
                    f"the relay {self.name} says nothing any more ({max(waited, now - heard):.0f} s)",
                )
            if waited >= ASK_S and asked < self._said:
                asked = now
                socket.ping()
            if self._said > heard:
                marks = [self._said + seconds for seconds in (ASK_S, DEAD_S)]
                await trio.sleep_until(min([mark for mark in marks if mark > now], default=now))
            else:
                self._spoke = trio.Event()
                with trio.move_on_at(heard + SILENT_S):
                    await self._spoke.wait()

    async def _arrives(self) -> Refused:
        """Notice that we are never told who is there."""
        with trio.move_on_after(ARRIVAL_S) as waited:
            await self._arrived.wait()
        if not waited.cancelled_caught:
            await trio.sleep_forever()
        return Refused(
            Reason.RELAY_AWAY, f"the relay {self.name} took our proof and then did not say who is there"
        )

    async def _read(self, socket: WebSocket, guest: Guest) -> Refused:
        while True:
            try:
                for message in await socket.receive():
                    if isinstance(message, str):
                        await self._told(message, guest)
                    else:
                        await self._came(message, guest)
            except Closed as closed:
                return self._closed(closed)
            except WireError:
                return self._nonsense()

    def _closed(self, closed: Closed) -> Refused:
        """Why the connection ended."""
        if closed.ours and closed.code == TOO_MUCH:
            return Refused(
                Reason.RELAY_RULES,
                f"the relay {self.name} floods this hub with what carries nothing",
                "is it a relay server of ecorelay? See its log",
            )
        if closed.ours:
            return self._nonsense()
        return _closed(closed.code, self.name, older=self._older())

    def _nonsense(self) -> Refused:
        return Refused(
            Reason.RELAY_RULES,
            f"the relay {self.name} says what this version does not understand",
            _upgrade(self._older()),
        )

    def _older(self) -> str:
        """Which of the two is the older program, in words; empty: they do not differ, or it does not say."""
        here, there = _numbers(__version__), _numbers(self.app)
        if not here or not there or here == there:
            return ""
        of_hub = f"this hub (ecorelay {__version__})"
        return of_hub if here < there else f"the relay server {self.name} (ecorelay {self.app})"

    async def _heed(self, guest: Guest, cost: float = 1.0) -> None:
        """Wait until something more may be said here that costs us something."""
        self._heeded += 1
        now = trio.current_time()
        wait = self._news.wait(now)
        if wait > 0 and not self._flooded:
            self._flooded = True
            guest.flooded(self)
        if wait > 0 or self._heeded % NEWS_AT_ONCE == 0:
            await trio.sleep(wait)
        self._news.take(now, cost)

    async def _came(self, message: bytes, guest: Guest) -> None:
        """A data message.

        Raises:
            WireError: it breaks the rules.
        """
        strays = self._streams.stray
        flow = self._streams.take(message)
        if flow is not None:
            guest.called(self, RelayStream(flow), flow.address)
            await self._heed(guest)
        elif self._streams.stray > strays:
            await self._heed(guest, STRAY_COSTS)

    async def _told(self, text: str, guest: Guest) -> None:
        """The server's own words.

        Raises:
            WireError: that it should not say.
        """
        message = relay_wire.decode_to_hub(text)
        match message:
            case Here():
                await self._heed(guest)
                for hub in message.hubs:
                    await self._heed(guest)
                    self._here(hub, guest)
                if message.complete and not self.complete:
                    self.complete = True
                    self._arrived.set()
                    guest.arrived(self)
                    for number, (address, hub) in enumerate(list(self.hubs.items()), 1):
                        if number % NEWS_AT_ONCE == 0:
                            await trio.lowlevel.checkpoint()
                        guest.seen(self, address, hub)
            case Joined():
                await self._heed(guest)
                self._streams.left(bytes.fromhex(message.hub.address))
                self._here(message.hub, guest)
            case Left():
                await self._heed(guest)
                address = bytes.fromhex(message.address)
                self._streams.left(address)
                if self.hubs.pop(address, None) is not None and self.complete:
                    guest.seen(self, address, None)
            case NoSuchHub():
                await self._heed(guest, STRAY_COSTS)
                self._streams.no_such_hub(bytes.fromhex(message.address), bytes.fromhex(message.stream))
            case Congested():
                await self._heed(guest, STRAY_COSTS)
                self._streams.congested(bytes.fromhex(message.address), bytes.fromhex(message.stream))
            case RelayNonce():
                raise WireError("a second nonce")
            case None:
                await self._heed(guest)  # of a later version

    def _here(self, hub: HubHere, guest: Guest) -> None:
        address = bytes.fromhex(hub.address)
        if address == self.address or (len(self.hubs) >= HUBS_MAX and address not in self.hubs):
            return
        self.hubs[address] = hub
        if self.complete:
            guest.seen(self, address, hub)

    def lost(self) -> None:
        """It ended: so do its streams."""
        self._streams.lost()


def news_pace() -> Pace:
    """How much one relay server may tell; keep it from one stay to the next."""
    return Pace(NEWS_PER_S, NEWS_BURST)


async def attend(
    relay: RelayServer,
    stream: trio.abc.Stream,
    hub_id: str,
    identity: Signer,
    guest: Guest,
    *,
    app: str,
    news: Pace | None = None,
) -> Refused:
    """Be at a relay until that ends, for the reason that is returned; or until cancelled.

    Resource handling: takes `stream` over and closes it. Streams over the relay end before this returns.

    Args:
        relay: which.
        stream: to it, see `connect_relay`.
        hub_id: what we call ourselves.
        identity: of this hub: its key is our address there.
        guest: uses it.
        app: the version to show.
        news: see :func:`news_pace`; of the stays before this one.
    """
    where = Where(relay.url)
    connection = Connection(relay, relay_wire.address_of(identity.public), news or news_pace())
    ended: list[Refused] = []

    async def until(what: Callable[..., object], *args: object) -> None:
        ended.append(await what(*args))  # type: ignore[misc]
        nursery.cancel_scope.cancel()

    try:
        with trio.fail_after(OPENING_S):
            socket = await open_websocket(stream, where.header, where.path)
        with trio.fail_after(relay_wire.HELLO_S):
            connection.app = await _introduce(socket, relay, hub_id, identity, app, where.name)
        socket.on_control = connection._answer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until, connection._read, socket, guest)
            nursery.start_soon(until, connection._watch, socket)
            nursery.start_soon(until, connection._write, socket)
            nursery.start_soon(until, connection._arrives)
    except Refused as refused:
        return refused
    except Closed as closed:
        return _closed(closed.code, where.name, greeted=False)
    except trio.TooSlowError:
        return Refused(
            Reason.RELAY_AWAY,
            f"the relay {where.name} takes the connection and then says nothing: it hangs, is overloaded, or "
            "is no relay server",
        )
    finally:
        connection.lost()
        guest.left(connection)
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
    return ended[0]


async def _introduce(
    socket: WebSocket, relay: RelayServer, hub_id: str, identity: Signer, app: str, name: str
) -> str:
    """Prove to the server that we have its token, and whose key we have. Gives its program's version.

    Raises:
        Refused: it is no relay server, or too old or new.
        Closed: see `_closed`.
    """
    text = (await socket.receive())[0]
    try:
        nonce = relay_wire.decode_to_hub(text) if isinstance(text, str) else None
    except WireError:
        nonce = None
    if not isinstance(nonce, RelayNonce):
        raise Refused(
            Reason.NO_RELAY, f"a WebSocket server answers at {name}, but no relay server of ecorelay"
        )
    lowest, highest = nonce.versions
    if not 0 < lowest <= highest < VERSIONS_MAX:
        raise Refused(
            Reason.NO_RELAY, f"what answers at {name} gives no versions of the protocol of a relay server"
        )
    version = min(highest, relay_wire.RELAY_VERSION)
    if version < max(lowest, relay_wire.OLDEST_RELAY_VERSION):
        older = "this hub" if lowest > relay_wire.RELAY_VERSION else f"the relay server {name}"
        raise Refused(
            Reason.VERSION,
            f"no protocol version in common with the relay {name}: it speaks {lowest} to {highest}, this hub "
            f"{relay_wire.OLDEST_RELAY_VERSION} to {relay_wire.RELAY_VERSION}",
            f"upgrade ecorelay: {older} is the older one",
            versions=nonce.versions,
        )
    hello = RelayHello(
        version=version,
        hub_id=hub_id,
        public=identity.public.hex(),
        nonce=secrets.token_hex(32),
        url=relay.url,
        proof="",
        signature="",
        app_version=app,
        invitation=relay.invitation,
        invited=relay.invited,
    )
    said = relay_wire.statement(nonce.nonce, hello)
    hello = msgspec.structs.replace(
        hello,
        proof=relay_wire.proof_of(relay.token.reveal(), said),
        signature=identity.sign(relay_wire.to_sign(said)).hex(),
    )
    await socket.send([relay_wire.encode(hello)])
    return nonce.app_version


def _closed(code: int, name: str, *, greeted: bool = True, older: str = "") -> Refused:
    """Why the server ended the connection."""
    if code in _CLOSES:
        reason, sentence, remedy = _CLOSES[code]
        if older and code in (relay_wire.CLOSE_FRAME, relay_wire.CLOSE_VERSION):
            remedy = _upgrade(older)
        return Refused(reason, sentence.format(name), remedy.format(name), told=True)
    if code == ABNORMAL and greeted:
        return Refused(Reason.RELAY_LOST, f"the connection to the relay {name} broke")
    if greeted:
        return Refused(Reason.RELAY_LOST, f"the relay {name} closed the connection (code {code})")
    return Refused(Reason.RELAY_AWAY, f"the relay {name} ended the connection before it took us ({code})")


def _upgrade(older: str) -> str:
    return f"upgrade ecorelay: {older} is the older one" if older else "upgrade the older of the two"


def _numbers(version: str) -> tuple[int, ...]:
    """A version to compare; empty: it cannot be."""
    found = _VERSION.match(version)
    return tuple([int(number) for number in found[0].split(".")]) if found else ()


_VERSION: Final = re.compile(r"\A[0-9]{1,6}(?:\.[0-9]{1,6}){1,3}")

_CLOSES: Final[dict[int, tuple[Reason, str, str]]] = {
    relay_wire.CLOSE_GOING: (Reason.RELAY_AWAY, "the relay {} is being restarted or stopped", ""),
    relay_wire.CLOSE_FRAME: (
        Reason.RELAY_RULES,
        "the relay {} says that this hub broke its rules",
        "upgrade the older of the two; the log of the relay server says which rule",
    ),
    relay_wire.CLOSE_SLOW: (Reason.RELAY_LOST, "the relay {} heard nothing of us for too long", ""),
    relay_wire.CLOSE_VERSION: (
        Reason.VERSION,
        "no protocol version in common with the relay {}",
        "upgrade ecorelay here or there, whichever is older",
    ),
    relay_wire.CLOSE_TOKEN: (
        Reason.RELAY_TOKEN,
        "the relay {} refuses our token",
        "let token of this relay in bridge.json be the secret in the relay server's relay-config.json, then "
        "`ecorelay hub reload`",
    ),
    relay_wire.CLOSE_REPLACED: (
        Reason.RELAY_REPLACED,
        "another machine with this hub's identity took our place at the relay {}: one of the two is a copy",
        "on the copy move identity.pem away and restart its hub: it makes its own",
    ),
    relay_wire.CLOSE_HUB_ID: (
        Reason.RELAY_HUB_ID,
        "the relay {} refuses the hub_id of this hub",
        "choose another hub_id in bridge.json; the log of the relay server says what is wrong with it",
    ),
    relay_wire.CLOSE_FULL: (
        Reason.RELAY_FULL,
        "the relay {} takes no more hubs",
        "raise max_hubs in its relay-config.json",
    ),
    relay_wire.CLOSE_INVITATION: (
        Reason.INVITATION,
        "nobody invites by this line at the relay {} now: it was used, has expired, or was withdrawn",
        "let the other machine make a new one, and keep `ecorelay bridge-invite` running there until this "
        "one has joined",
    ),
    relay_wire.CLOSE_RATE: (
        Reason.RELAY_RATE,
        "the relay {} refuses this machine for a minute: too many failed proofs, or too much sent",
        "see whether another hub on this network uses a wrong token",
    ),
}
