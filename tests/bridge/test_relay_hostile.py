"""A relay server that lies, floods or falls silent: what it can do is to be of no use."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import trio

from ecorelay import relay_wire
from ecorelay.relay_wire import CLOSE, DATA, OPEN, Here, Joined, Left, RelayNonce
from ecorelay_bridge import relay_connection, relay_dialer, relay_streams, websocket
from ecorelay_bridge.door import Door
from ecorelay_bridge.known import FileTrust
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_connection import Connection, attend, news_pace
from ecorelay_bridge.relay_dialer import INTRODUCING_MAX, RelayDialer
from ecorelay_bridge.relay_streams import FLOWS_MAX, Streams
from ecorelay_bridge.roads import RelayState
from ecorelay_bridge.settings import RelayServer, Secret
from tests.bridge.hubs import Hub, identity, peer, running
from tests.bridge.liar import BINARY, PING, TEXT, Liar, card, frame, liar, piece, say
from tests.bridge.test_relay_dialer import at, until
from tests.bridge.test_relay_road import Nobody
from tests.bridge.tiny_relay import TOKEN, TinyRelay, tiny_relay
from tests.helpers.turns import Turns


def there(url: str) -> tuple[RelayServer, ...]:
    return (RelayServer(url=url, token=Secret(TOKEN)),)


def state(hub: Hub) -> RelayState:
    return next(iter(hub.roads.relays.values()), RelayState())


FROM = 40
"""Handshakes are over by then, and there is enough to say."""

# --- silence, and nonsense ---------------------------------------------------------------------------------


async def test_a_server_that_never_says_who_is_there_is_given_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(relay_connection, "ARRIVAL_S", 0.3)

    async def script(it: Liar) -> None:
        await it.greet()
        await it.stream.receive_some()
        while True:  # it is alive, and tells of hubs without end
            await it.send(frame(PING), say(Here(hubs=(card(1),))))
            await trio.sleep(0.05)

    async with liar(script) as url, running(tmp_path, "alpha", listen=False, relays=there(url)) as alpha:
        report = await alpha.refused(Reason.RELAY_AWAY)
        assert "did not say who is there" in report.sentence
        assert "did not say who is there" in state(alpha).trouble


async def test_a_list_in_time_is_no_reason_to_leave(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(relay_connection, "ARRIVAL_S", 0.3)

    async with (
        liar(Liar.welcome) as url,
        running(tmp_path, "alpha", listen=False, relays=there(url)) as alpha,
    ):
        await until(lambda: state(alpha).up)
        await trio.sleep(0.6)
        assert state(alpha).up


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ((0, 0), "gives no versions"),
        ((9, 1), "gives no versions"),
        ((-1, 1), "no relay server of ecorelay"),
        ((1, 2**60), "no relay server of ecorelay"),
    ],
)
async def test_a_server_without_versions_is_none(tmp_path, versions, words) -> None:
    async def script(it: Liar) -> None:
        await it.greet(RelayNonce(versions=versions, nonce="ab" * 32))

    async with liar(script) as url, running(tmp_path, "alpha", listen=False, relays=there(url)) as alpha:
        assert words in (await alpha.refused(Reason.NO_RELAY)).sentence


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (frame(PING) * 5_000, "floods this hub"),
        (frame(BINARY, last=False) + frame(0, last=False) * 5_000, "floods this hub"),
        (frame(0x0A) * 5_000, "floods this hub"),
        (frame(0x0B), "does not understand"),
        (frame(TEXT, b"\xff\xfe"), "does not understand"),
        (frame(BINARY, b"x" * 40_000, last=False) * 2 + frame(0, b"x" * 40_000), "does not understand"),
    ],
    ids=["pings", "empty pieces", "pongs", "no such frame", "not UTF-8", "two messages at once"],
)
async def test_what_is_no_websocket_is_left_alone_for_a_minute(tmp_path, what, words) -> None:
    async def script(it: Liar) -> None:
        await it.welcome()
        await it.send(what)

    async with liar(script) as url, running(tmp_path, "alpha", listen=False, relays=there(url)) as alpha:
        report = await alpha.refused(Reason.RELAY_RULES)
        assert words in report.sentence
        assert not report.told, "it is our verdict"
        assert report.retry_in_s is not None
        assert report.retry_in_s >= 60


async def test_where_only_our_half_of_the_connection_breaks_that_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(relay_connection, "BROKEN_S", 0.05)

    class Half(trio.abc.Stream):
        """After the hello, what is sent fails, and what comes goes on coming."""

        def __init__(self, stream: trio.abc.Stream) -> None:
            self.stream = stream
            self.broken = False

        async def send_all(self, data) -> None:
            if self.broken:
                raise trio.BrokenResourceError
            await self.stream.send_all(data)

        async def wait_send_all_might_not_block(self) -> None: ...

        async def receive_some(self, max_bytes=None) -> bytes:
            return bytes(await self.stream.receive_some(max_bytes))

        async def aclose(self) -> None:
            await self.stream.aclose()

    async def script(it: Liar) -> None:
        await it.welcome(card(1))
        while True:
            await it.send(frame(PING))
            await trio.sleep(0.01)

    class Guest(Nobody):
        def arrived(self, connection: Connection) -> None:
            half.broken = True
            connection.open((1).to_bytes(32, "big"))

    async with liar(script) as url:
        half = Half(await trio.open_tcp_stream("127.0.0.1", int(url.split(":")[2][:-1])))
        with trio.fail_after(10):
            refused = await attend(there(url)[0], half, "alpha", identity("alpha"), Guest(), app="1")
        assert (refused.reason, "broke" in refused.sentence) == (Reason.RELAY_LOST, True)


# --- floods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opens", [True, False])
async def test_a_flood_of_frames_leaves_others_their_turn(tmp_path, monkeypatch, opens) -> None:
    """However much one read brings, only so much is heeded between two turns of another task."""
    monkeypatch.setattr(relay_connection, "NEWS_PER_S", 1e6)
    turns = Turns()
    count = 5_000
    take = Streams.take

    def counted(self, message):
        turns.count()
        return take(self, message)

    monkeypatch.setattr(Streams, "take", counted)

    async def script(it: Liar) -> None:
        await it.welcome()
        if opens:
            await it.send(*[piece(OPEN, n.to_bytes(32, "big"), b"12345678") for n in range(count)])
            return
        # Byte by byte the beginning of one long record of TLS: that is no stray, and nothing to be refused.
        record = b"\x16\x03\x03\x40\x00" + bytes(count)
        one = (1).to_bytes(32, "big"), b"12345678"
        await it.send(piece(OPEN, *one), *[piece(DATA, *one, record[n : n + 1]) for n in range(count - 1)])

    async with trio.open_nursery() as nursery, liar(script) as url:
        nursery.start_soon(turns.run)
        async with running(tmp_path, "alpha", listen=False, relays=there(url)):
            await until(lambda: turns.counted == count)
        nursery.cancel_scope.cancel()
    # Who of two has its turn first is chance: so twice.
    assert turns.most <= 2 * (relay_connection.NEWS_AT_ONCE if opens else websocket.SLICE)


def test_streams_in_the_name_of_everybody_are_bounded_though_the_server_reads_nothing() -> None:
    """Even a closed stream stays until that is said, and nothing is taken from us here."""
    streams = Streams(lambda: 1.0, lambda: None)
    for number in range(3 * FLOWS_MAX):
        flow = streams.take(relay_wire.piece(OPEN, number.to_bytes(32, "big"), b"12345678"))
        if flow is not None:
            flow.drop()
    assert len(streams) == FLOWS_MAX
    assert streams.stray == 2 * FLOWS_MAX
    assert streams.open(b"b" * 32) is None
    while streams.next() is not None:
        pass
    assert len(streams) == 0
    assert streams.open(b"b" * 32) is not None


async def test_what_a_server_opens_in_the_name_of_hubs_we_know_leaves_room_at_the_door(tmp_path) -> None:
    known = [identity(f"known-{n}") for n in range(16)]
    (tmp_path / "alpha").mkdir()
    trust = FileTrust(tmp_path / "alpha" / "known-hubs.json")
    for number, each in enumerate(known):
        trust.trust(f"known-{number}", each.fingerprint)
    addresses = [relay_wire.address_of(each.public) for each in known]
    door = Door(trio.current_time)

    async def script(it: Liar) -> None:
        await it.welcome()
        for number, address in itertools.product(range(5), addresses):
            await it.send(piece(OPEN, address, number.to_bytes(8, "big")))

    async with (
        liar(script) as url,
        running(tmp_path, "alpha", relays=there(url), door=door) as alpha,
    ):
        await until(lambda: door.half_open >= INTRODUCING_MAX)
        async with running(tmp_path, "beta", peer(alpha), listen=False) as beta:
            with trio.fail_after(3):  # before the first of those is given up
                assert not (await beta.linked()).relayed
        assert door.half_open <= INTRODUCING_MAX


async def test_hubs_that_do_not_exist_are_few_and_give_way_to_those_we_know(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(relay_dialer, "PAIRS_MAX", 5)
    pairs: list[int] = []
    (tmp_path / "alpha").mkdir()
    FileTrust(tmp_path / "alpha" / "known-hubs.json").trust("beta", identity("beta").fingerprint)
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        await until(lambda: relay.hubs)
        seen = RelayDialer.seen

        def noted(self: RelayDialer, *args) -> None:
            seen(self, *args)
            pairs.append(sum(map(len, self._pairs.values())))
            assert pairs[-1] == self._count

        monkeypatch.setattr(RelayDialer, "seen", noted)
        for number in range(40):
            await relay.tell(Joined(hub=card(number)))
        await until(lambda: len(pairs) == 40)
        assert max(pairs) == 5
        async with running(tmp_path, "beta", listen=False, relays=at(relay)) as beta:
            beta.roads.rest("alpha")
            await alpha.linked()
        await until(lambda: not relay.hubs or len(relay.hubs) == 1)
        for number in range(40):
            await relay.tell(Left(address=card(number).address))
        await until(lambda: pairs[-1] == 0)


async def test_who_tells_without_end_is_heard_slowly_and_hub_status_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(relay_connection, "NEWS_BURST", 20)
    monkeypatch.setattr(relay_connection, "NEWS_PER_S", 50.0)
    heeded: list[float] = []
    seen = RelayDialer.seen

    def noted(self: RelayDialer, *args) -> None:
        seen(self, *args)
        heeded.append(trio.current_time())

    monkeypatch.setattr(RelayDialer, "seen", noted)

    async def script(it: Liar) -> None:
        await it.welcome()
        while True:
            await it.send(*[say(Joined(hub=card(n))) + say(Left(address=card(n).address)) for n in range(50)])

    async with liar(script) as url, running(tmp_path, "alpha", listen=False, relays=there(url)) as alpha:
        await until(lambda: len(heeded) > 60)
        assert heeded[60] - heeded[0] > 0.5, "what is beyond the burst waits for its turn"
        assert state(alpha).up
        assert "is heard slowly" in state(alpha).trouble
        assert [each.reason for each in alpha.reports if "is heard slowly" in each.sentence] == [
            Reason.RELAY_RULES
        ]


async def test_a_server_that_closes_and_comes_again_has_no_more_to_say(monkeypatch) -> None:
    monkeypatch.setattr(relay_connection, "NEWS_BURST", 20)
    monkeypatch.setattr(relay_connection, "NEWS_PER_S", 0.001)
    heard = 0

    class Guest(Nobody):
        def seen(self, connection, address, hub) -> None:
            nonlocal heard
            heard += 1

    async def script(it: Liar) -> None:
        await it.greet()
        await it.stream.receive_some()
        await it.send(say(Here(complete=True)), *[say(Joined(hub=card(n))) for n in range(15)])
        await it.stream.send_eof()

    news = news_pace()
    async with liar(script) as url:
        for _ in range(3):
            stream = await trio.open_tcp_stream("127.0.0.1", int(url.split(":")[2][:-1]))
            with trio.move_on_after(0.3):
                await attend(there(url)[0], stream, "alpha", identity("alpha"), Guest(), app="1", news=news)
    assert heard <= 20


def test_resets_of_many_hubs_are_forgotten() -> None:
    streams = Streams(lambda: 1.0, lambda: None)
    for number in range(3_000):
        address = number.to_bytes(32, "big")
        streams.take(relay_wire.piece(OPEN, address, b"12345678"))
        streams.congested(address, b"12345678")
        while streams.next() is not None:
            pass
    assert len(streams._resets) <= relay_streams.RESETS_HUBS_MAX


# --- what hubs say to each other, tampered with ---------------------------------------------------------


def _tampering(how: str) -> Callable[[int, bytes], list[bytes]]:
    """What becomes of the data messages between two hubs, from number `FROM` on."""
    kept: list[bytes] = []

    def tamper(number: int, message: bytes) -> list[bytes]:
        kept.append(message)
        if number != FROM:
            return [message]
        return {
            "doubled": [message, message],
            "lost": [],
            "changed": [message[:-1] + bytes([message[-1] ^ 1])],
            "cut short": [message[:-5]],
            "replayed": [*kept[-6:-1], message],
            "closed": [relay_wire.piece(CLOSE, message[1:33], message[33:41])],
            "injected": [
                message,
                relay_wire.piece(DATA, message[1:33], message[33:41], b"\x17\x03\x03hello"),
            ],
            "opened again": [message, relay_wire.piece(OPEN, message[1:33], message[33:41])],
        }[how]

    return tamper


@pytest.mark.parametrize(
    "how",
    ["doubled", "lost", "changed", "cut short", "replayed", "closed", "injected", "opened again", "swapped"],
)
async def test_bytes_that_a_server_tampers_with_end_the_stream_and_are_never_heard(tmp_path, how) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "beta", listen=False, relays=at(relay)) as beta,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        here, heard_by = await alpha.linked(), await beta.linked()
        _tamper(relay, how)
        heard = bytearray()
        said = b"".join([n.to_bytes(4, "big") for n in range(20_000)])
        broke = False
        with trio.move_on_after(3 if how == "lost" else 8):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def talk() -> None:
                    for first in range(0, len(said), 400):
                        try:
                            await here.stream.send_all(said[first : first + 400])
                        except trio.BrokenResourceError:
                            return
                        await trio.sleep(0.001)

                while len(heard) < len(said):
                    try:
                        more = await heard_by.stream.receive_some(65_536)
                    except trio.BrokenResourceError:
                        more = b""
                    if not more:
                        broke = True
                        break
                    heard += more
                nursery.cancel_scope.cancel()
        assert said.startswith(heard), "what is heard was said, in this order"
        assert broke != (how == "opened again")


def _tamper(relay: TinyRelay, how: str) -> None:
    if how != "swapped":
        relay.tamper = _tampering(how)
        return
    held: list[bytes] = []

    def swap(number: int, message: bytes) -> list[bytes]:
        if number == FROM:
            held.append(message)
            return []
        return [message, held.pop()] if held else [message]

    relay.tamper = swap


# --- a hub that goes while we reach for it -----------------------------------------------------------------


async def test_a_hub_that_goes_in_that_moment_is_not_at_the_relay() -> None:
    class Owner:
        hub_id, direct = "alpha", frozenset[str]()

        def __init__(self) -> None:
            self.later: dict = {}

        def jitter(self) -> float:
            return 0.0

        def is_known(self, address: bytes, hub_id: str) -> bool:
            return True

    pair = relay_dialer._Pair(Owner(), b"b" * 32, "beta")  # type: ignore[arg-type]
    with pytest.raises(Refused) as refused:
        await pair.open()
    assert refused.value.reason is Reason.NOT_AT_RELAY
