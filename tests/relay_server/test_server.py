"""The relay server over real sockets, with hubs that say by hand what they like."""

import json
import secrets
import ssl
import time
import tracemalloc
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket
import wsproto

from ecorelay import relay_wire
from ecorelay.relay_wire import (
    CLOSE,
    CLOSE_FRAME,
    CLOSE_FULL,
    CLOSE_GOING,
    CLOSE_HUB_ID,
    CLOSE_INVITATION,
    CLOSE_RATE,
    CLOSE_REPLACED,
    CLOSE_SLOW,
    CLOSE_TOKEN,
    CLOSE_VERSION,
    CREDIT,
    CREDIT_MORE,
    DATA,
    OPEN,
    PIECE_MAX,
    STREAMS_MAX,
    Congested,
    Joined,
    Left,
    NoSuchHub,
)
from ecorelay.secret import Secret
from ecorelay_relay_server.bounds import FAILED_MAX, HALF_OPEN_MAX, HALF_OPEN_PER_SOURCE, LANE_MAX
from ecorelay_relay_server.door import HalfOpen
from ecorelay_relay_server.server import tls_context
from ecorelay_relay_server.settings import RealmSettings
from ecorelay_relay_server.switch import Wake
from tests.relay_server.clients import (
    TOKEN,
    Identity,
    connect,
    how,
    hub,
    join,
    nonce_of,
    over_tls,
    running,
    settings,
    stream_number,
)
from tests.relay_server.files import allow_files

BIG = bytes(PIECE_MAX)
PATIENCE_S = 30


async def refused(server, make_hello, **options):
    """The close that answers a hello; `make_hello` gets the server's nonce."""
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            socket = await connect(nursery, server.port, **options)
            await socket.send_message(make_hello(await nonce_of(socket)))
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                while True:
                    await socket.get_message()
            nursery.cancel_scope.cancel()
            return how(closed.value)
    raise AssertionError


async def asks(port, request):
    """What a plain HTTP client is answered."""
    with trio.fail_after(PATIENCE_S):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request)
            said = b""
            while data := await stream.receive_some():
                said += data
            return said
    raise AssertionError


async def until(condition):
    """Wait until it holds."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def never(*_):
    """What a hub does that reads nothing."""
    await trio.sleep_forever()


def hello(identity, **fields):
    return lambda nonce: relay_wire.encode(identity.hello(nonce, **fields))


# --- who is not let in -----------------------------------------------------------------------------------


async def test_a_wrong_token_is_closed_with_the_reason_and_counted():
    async with running() as server:
        code, reason = await refused(server, hello(Identity(), token="wrong token, quite long"))
        assert (code, reason) == (CLOSE_TOKEN, "the token is none of this server's")
        assert server.counts.refused["token"] == 1
        assert not server.connections


async def test_a_signature_of_somebody_else_is_closed():
    async with running() as server:
        code, _ = await refused(server, hello(Identity(), key=Identity().key))
        assert code == CLOSE_TOKEN


@pytest.mark.guarantee("relay-replay")
async def test_a_hello_of_an_earlier_connection_is_closed():
    async with running() as server:
        heard = []

        def first(nonce):
            heard.append(relay_wire.encode(Identity().hello(nonce, token="wrong")))
            return heard[0]

        identity = Identity()
        async with hub(server, identity):
            replayed = relay_wire.encode(identity.hello(secrets.token_hex(32)))
            code, _ = await refused(server, lambda nonce: replayed)
            assert code == CLOSE_TOKEN
            assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("", CLOSE_FRAME),
        ("not json", CLOSE_FRAME),
        ("[" * 5000, CLOSE_FRAME),
        ("{}", CLOSE_FRAME),
        ('{"type":"relay_nonce"}', CLOSE_FRAME),
        ("x" * 20_000, CLOSE_FRAME),
        (b"\x01" + bytes(40), CLOSE_FRAME),
        (b"", CLOSE_FRAME),
    ],
    ids=["empty", "text", "nested", "no type", "other type", "too long", "data", "no data"],
)
async def test_anything_but_a_hello_is_closed(said, code):
    async with running() as server:
        found, reason = await refused(server, lambda nonce: said)
        assert found == code
        assert reason
        assert "x" * 50 not in reason
        # The next one comes in.
        async with hub(server):
            pass


@pytest.mark.parametrize(
    "frame",
    [b"\x8a\x80\0\0\0\0", b"\x89\x80\0\0\0\0", b"\x01\x80\0\0\0\0"],
    ids=["pongs", "pings", "parts"],
)
async def test_who_floods_before_the_hello_is_closed(frame):
    async with running() as server, trio.open_nursery() as nursery:
        socket = await connect(nursery, server.port)
        await nonce_of(socket)
        more = frame.replace(b"\x01", b"\x00") * 1_000
        with suppress(trio.BrokenResourceError):
            await socket._stream.send_all(frame + more)
        await until(lambda: server.counts.refused["garbage"] == 1)
        nursery.cancel_scope.cancel()


async def test_who_is_turned_away_and_goes_on_sending_is_not_listened_to_for_long(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.guest.CLOSING_S", PATIENCE_S)
    async with running() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        sent = 0
        with trio.fail_after(PATIENCE_S), suppress(trio.BrokenResourceError):
            await stream.send_all(b"POST / HTTP/1.1\r\n\r\n")
            while sent < 40_000_000:  # what the kernel holds comes on top
                await stream.send_all(bytes(PIECE_MAX))
                sent += PIECE_MAX
        assert sent < 40_000_000
        await trio.aclose_forcefully(stream)


async def test_a_hello_that_comes_in_small_pieces_is_one():
    async with running() as server, trio.open_nursery() as nursery:
        socket = await connect(nursery, server.port)
        identity = Identity()
        said = relay_wire.encode(identity.hello(await nonce_of(socket)))
        wire = socket._wsproto.send(wsproto.events.TextMessage(data=said))
        for at in range(0, len(wire), 5):
            await socket._stream.send_all(wire[at : at + 5])
            await trio.lowlevel.checkpoint()
        await until(lambda: server.connections)
        nursery.cancel_scope.cancel()


async def test_a_hub_id_that_is_no_name_has_its_own_code():
    async with running() as server:
        async with trio.open_nursery() as nursery:
            socket = await connect(nursery, server.port)
            nonce = await nonce_of(socket)
            said = json.loads(relay_wire.encode(Identity().hello(nonce))) | {"hub_id": "no name!"}
            await socket.send_message(json.dumps(said))
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await socket.get_message()
            assert how(closed.value)[0] == CLOSE_HUB_ID
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (2, "relay version 2, this server speaks 1: upgrade the server"),
        (0, "relay version 0, this server speaks 1: upgrade the hub"),
        (10**100, "another relay version, this server speaks 1: upgrade the server"),
    ],
    ids=["newer", "older", "absurd"],
)
async def test_another_version_is_told_what_this_one_speaks(version, words):
    async with running() as server:
        assert await refused(server, hello(Identity(), version=version)) == (CLOSE_VERSION, words)
        [line] = server.lines
        assert json.loads(line)["detail"] == words
        # The next one comes in.
        async with hub(server):
            pass


async def test_a_hello_of_another_version_need_not_look_like_ours_to_be_told_so():
    async with running() as server:
        said = json.dumps({"type": "relay_hello", "version": 7, "something": "else"})
        code, reason = await refused(server, lambda nonce: said)
        assert (code, reason[:15]) == (CLOSE_VERSION, "relay version 7")


async def test_failed_proofs_make_an_address_wait_and_hubs_behind_a_proxy_are_told_apart():
    weak = "no strong token"
    async with running(token=weak) as server:
        near = [(b"X-Forwarded-For", b"192.0.2.1")]
        far = [(b"X-Forwarded-For", b"192.0.2.2")]
        wrong = "wrong token, quite long"
        for _ in range(FAILED_MAX):
            assert (await refused(server, hello(Identity(), token=wrong), headers=near))[0] == CLOSE_TOKEN
        assert (await refused(server, hello(Identity(), token=weak), headers=near))[0] == CLOSE_RATE
        async with hub(server, headers=far, token=weak):
            pass
        sources = {json.loads(line).get("source") for line in server.lines}
        assert {"192.0.2.1", "192.0.2.2"} <= sources


async def test_who_is_no_trusted_proxy_is_not_believed():
    async with running(proxies=()) as server:
        headers = [(b"X-Forwarded-For", b"192.0.2.1")]
        async with hub(server, headers=headers):
            pass
        assert json.loads(server.lines[0])["source"] == "127.0.0.1"


async def test_a_full_server_says_so_and_takes_back_who_is_in():
    async with running(max_hubs=1) as server:
        identity = Identity()
        async with hub(server, identity):
            code, reason = await refused(server, hello(Identity()))
            assert (code, reason) == (CLOSE_FULL, "this server has its 1 hubs already")
            async with hub(server, identity):
                pass


async def test_a_url_that_is_not_this_servers_is_closed():
    async with running(urls=("wss://relay.example.org",)) as server:
        code, reason = await refused(server, hello(Identity(), url="wss://elsewhere.example.org"))
        assert code == CLOSE_TOKEN
        assert "urls" in reason
        async with hub(server, url="wss://relay.example.org/"):
            pass


async def test_who_says_nothing_is_closed_in_time(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.server.HELLO_S", 0.3)
    async with running() as server:
        async with trio.open_nursery() as nursery:
            socket = await connect(nursery, server.port)
            await socket.get_message()
            with pytest.raises(trio_websocket.ConnectionClosed) as closed, trio.fail_after(PATIENCE_S):
                await socket.get_message()
            assert how(closed.value)[0] == CLOSE_SLOW
            nursery.cancel_scope.cancel()
        assert await asks(server.port, b"GET / HT") == b""
        assert await asks(server.port, b"") == b""
        await until(lambda: len(server.half_open) == 0)
        assert server.counts.refused["too_slow"] == 1


@pytest.mark.parametrize(
    ("fields", "bound"), [({"proxies": ()}, HALF_OPEN_PER_SOURCE), ({}, HALF_OPEN_MAX)], ids=["source", "all"]
)
@pytest.mark.guarantee("relay-door")
async def test_thousands_of_silent_connections_are_bounded_and_a_hub_gets_in(fields, bound, monkeypatch):
    allow_files(8_000)
    count = bound + 300
    # So many take a busy machine longer than they may be silent: none shall leave by itself here.
    monkeypatch.setattr("ecorelay_relay_server.server.HELLO_S", 600.0)
    async with running(**fields) as server:
        async with AsyncExitStack() as silent:
            for _ in range(count):
                stream = await trio.open_tcp_stream("127.0.0.1", server.port)
                silent.push_async_callback(trio.aclose_forcefully, stream)
                assert len(server.half_open) <= bound
            await until(lambda: server.counts.connections >= count)
            async with hub(server):
                assert len(server.half_open) <= bound
                assert server.counts.refused["crowded"] >= 300
        await until(lambda: len(server.half_open) == 0)
    crowded = [line for line in server.lines if '"crowded"' in line]
    assert 0 < len(crowded) < 60


async def test_who_had_to_make_room_makes_nobody_else_make_room():
    async with running() as server:
        first, other = trio.CancelScope(), trio.CancelScope()
        server.half_open.enter(first, "127.0.0.1", proxy=True)
        assert server.server._move(first, "192.0.2.1") is None
        for _ in range(HALF_OPEN_PER_SOURCE):
            server.half_open.enter(trio.CancelScope(), "192.0.2.1")
        # It is out by now.
        assert server.server._move(first, "192.0.2.1") is None
        assert len(server.half_open) == HALF_OPEN_PER_SOURCE
        server.half_open.enter(other, "127.0.0.1", proxy=True)
        assert server.server._move(other, "192.0.2.1") is not None


async def test_wherever_it_is_interrupted_a_connection_is_in_or_out_and_nothing_is_left(monkeypatch):
    entered: list[trio.CancelScope] = []
    enter = HalfOpen.enter

    def watched(self, ticket, source, **options):
        entered.append(ticket)
        return enter(self, ticket, source, **options)

    monkeypatch.setattr(HalfOpen, "enter", watched)
    came = 0
    async with running() as server:
        for steps in range(0, 60, 2):
            async with trio.open_nursery() as nursery:
                with trio.fail_after(PATIENCE_S):
                    entered.clear()
                    nursery.start_soon(tries_to_join, nursery, server)
                    while not entered:
                        await trio.lowlevel.checkpoint()
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    for ticket in entered:
                        ticket.cancel()
                    await until(lambda: len(server.half_open) == 0)
                    came += len(server.connections)
                nursery.cancel_scope.cancel()
            await until(lambda: not server.connections)
            assert server.switch.hubs == server.switch.queued == 0
    assert not [line for line in server.lines if "crash" in line]
    assert came + server.counts.refused["crowded"] == 30
    assert came
    assert server.counts.refused["crowded"]


async def tries_to_join(nursery, server):
    with suppress(trio_websocket.ConnectionClosed, trio_websocket.HandshakeError, OSError):
        await join(nursery, server)


@pytest.mark.soak
async def test_ten_thousand_silent_connections():
    allow_files(15_000)
    async with running() as server:
        silent = []
        for number in range(10_000):
            silent.append(await trio.open_tcp_stream("127.0.0.1", server.port))
            if number % 1_000 == 999:
                async with hub(server):
                    assert len(server.half_open) <= HALF_OPEN_MAX
        for stream in silent:
            await trio.aclose_forcefully(stream)


# --- messages --------------------------------------------------------------------------------------------


async def test_two_hubs_see_each_other_and_talk():
    async with running() as server, hub(server, hub_id="a") as one, hub(server, hub_id="b") as other:
        assert [(each.hub_id, each.address) for each in other.here] == [("a", one.address.hex())]
        joined = await one.text()
        assert isinstance(joined, Joined)
        assert joined.hub.hub_id == "b"
        stream = stream_number()
        await one.send(OPEN, other.address, stream)
        await one.send(DATA, other.address, stream, b"ping")
        assert (await other.data()).kind == OPEN
        piece = await other.data()
        assert (piece.address, piece.stream, bytes(piece.payload)) == (one.address, stream, b"ping")
        await other.send(DATA, one.address, stream, b"pong")
        assert bytes((await one.data()).payload) == b"pong"


async def test_an_unknown_destination_and_late_frames_of_a_dead_stream():
    async with running() as server, hub(server) as one, hub(server) as other:
        await one.text()
        stream = stream_number()
        await one.send(OPEN, bytes(32), stream)
        assert await one.text() == NoSuchHub(address="0" * 64, stream=stream.hex())
        await one.send(OPEN, other.address, stream)
        await one.send(CLOSE, other.address, stream)
        await one.send(DATA, other.address, stream, b"late")
        await one.send(CREDIT_MORE, other.address, stream, bytes(4))
        await one.send(CLOSE, other.address, stream)
        await one.send(OPEN, other.address, b"the next")
        kinds = [(await other.data())[0] for _ in range(3)]
        assert kinds == [OPEN, CLOSE, OPEN]


@pytest.mark.parametrize(
    "message",
    [b"\x09" + bytes(40), b"", b"\x02" + bytes(40 + PIECE_MAX + 1), "x" * (PIECE_MAX + 100)],
    ids=["kind", "empty", "oversize", "oversize text"],
)
async def test_a_message_that_breaks_the_rules_ends_its_hub_and_the_others_hear_why(message):
    async with running() as server, hub(server) as good, hub(server) as bad:
        await good.text()
        await bad.socket.send_message(message)
        code, reason = await bad.closed()
        assert code == CLOSE_FRAME
        assert reason
        assert await good.text() == Left(address=bad.address.hex(), reason="refused")


async def test_a_message_to_oneself_is_refused():
    async with running() as server, hub(server) as one:
        await one.send(OPEN, one.address, stream_number())
        assert await one.closed() == (CLOSE_FRAME, "a message to itself")


async def test_bytes_that_are_no_websocket_end_it():
    async with running() as server, hub(server) as one:
        await one.socket._stream.send_all(b"\xff" * 100)
        assert (await one.closed())[0] == CLOSE_FRAME


async def test_a_text_of_a_newer_version_is_ignored():
    async with running() as server, hub(server) as one, hub(server) as other:
        await one.socket.send_message('{"type":"from_the_future"}')
        await one.send(OPEN, other.address, stream_number())
        assert (await other.data()).kind == OPEN


async def test_more_than_the_credit_closes_the_stream_for_both():
    async with running() as server, hub(server) as one, hub(server) as other:
        await one.text()
        stream = stream_number()
        await one.send(OPEN, other.address, stream)
        for _ in range(CREDIT // PIECE_MAX + 1):
            await one.send(DATA, other.address, stream, BIG)
        assert await one.text() == Congested(address=other.address.hex(), stream=stream.hex())
        with trio.fail_after(PATIENCE_S):
            while not other.texts:
                found = await other.socket.get_message()
                if isinstance(found, str):
                    other.texts.append(relay_wire.decode_to_hub(found))
        assert other.texts == [Congested(address=one.address.hex(), stream=stream.hex())]
        assert server.connections


async def test_the_same_identity_takes_the_place_of_a_connection_that_hangs():
    async with running() as server, hub(server) as other:
        identity = Identity()
        async with hub(server, identity) as old:
            await other.text()
            async with hub(server, identity, hub_id="again") as new:
                assert await old.closed() == (CLOSE_REPLACED, "the same identity connected again")
                joined = await other.text()
                assert isinstance(joined, Joined)
                assert joined.hub.hub_id == "again"
                await other.send(OPEN, new.address, stream_number())
                assert (await new.data()).kind == OPEN
        left = await other.text()
        assert left == Left(address=identity.address.hex(), reason="closed")


async def test_when_many_must_be_told_who_came_others_have_their_turn_in_between(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.server.NEWS_AT_ONCE", 2)
    async with running() as server, trio.open_nursery() as nursery:
        old = [await join(nursery, server) for _ in range(5)]
        told = []
        perform = server.server._perform

        def watched(actions):
            told.append(actions)
            perform(actions)

        monkeypatch.setattr(server.server, "_perform", watched)
        new = await join(nursery, server)
        for each in old:
            while True:
                found = await each.text()
                assert isinstance(found, Joined)
                if found.hub.address == new.address.hex():
                    break
        wakes = [len([each for each in actions if isinstance(each, Wake)]) for actions in told]
        assert sum(wakes) >= 5
        assert max(wakes) <= 2
        nursery.cancel_scope.cancel()


async def test_another_identity_with_the_same_name_takes_nobodys_place():
    async with running() as server, hub(server, hub_id="same") as one, hub(server, hub_id="same") as other:
        assert [each.hub_id for each in other.here] == ["same"]
        await one.text()
        await other.send(OPEN, one.address, stream_number())
        assert (await one.data()).address == other.address


@pytest.mark.guarantee("relay-realms")
async def test_hubs_of_one_realm_neither_see_nor_reach_those_of_another():
    realms = tuple(
        RealmSettings(name=name, tokens=(Secret(f"the secret of {name}"),), max_hubs=5)
        for name in ("red", "blue")
    )
    async with running(realms=realms) as server:
        async with (
            hub(server, token="the secret of red") as red,
            hub(server, token="the secret of blue") as blue,
        ):
            assert red.here == blue.here == []
            stream = stream_number()
            await red.send(OPEN, blue.address, stream)
            assert await red.text() == NoSuchHub(address=blue.address.hex(), stream=stream.hex())


async def test_a_hub_that_vanishes_without_a_word_is_lost_to_the_others():
    async with running() as server, hub(server) as one:
        async with hub(server) as other:
            await one.text()
            await trio.aclose_forcefully(other.socket._stream)
            assert await one.text() == Left(address=other.address.hex(), reason="lost")


async def test_hubs_are_pinged_and_one_that_is_silent_is_lost(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.connection.PING_S", 0.1)
    monkeypatch.setattr("ecorelay_relay_server.connection.SILENT_S", 1.5)
    monkeypatch.setattr("ecorelay_relay_server.server.TICK_S", 0.05)
    async with running() as server, hub(server) as good, hub(server) as frozen:
        await good.text()
        frozen.socket._stream.receive_some = never
        left = await good.text()
        assert left == Left(address=frozen.address.hex(), reason="lost")
        await until(lambda: server.counts.closed[CLOSE_SLOW] == 1)
        assert len(server.connections) == 1


async def test_a_server_that_stood_still_takes_nobody_for_lost(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.connection.SILENT_S", 1.0)
    monkeypatch.setattr("ecorelay_relay_server.connection.PING_S", 0.1)
    monkeypatch.setattr("ecorelay_relay_server.server.TICK_S", 0.05)
    monkeypatch.setattr("ecorelay_relay_server.server.FROZEN_S", 0.5)
    async with running() as server, hub(server) as one, hub(server) as other:
        time.sleep(1.5)
        await trio.sleep(0.3)
        await one.text()
        await one.send(OPEN, other.address, stream_number())
        assert (await other.data()).kind == OPEN
        assert len(server.connections) == 2


# --- floods ----------------------------------------------------------------------------------------------


async def meant_for_a_deaf_hub(server, megabytes, senders):
    """Hubs send that much to one that reads nothing, while two others talk; their slowest answer, in s."""
    slowest = 0.0
    async with trio.open_nursery() as nursery:
        deaf = await join(nursery, server, hub_id="deaf")
        deaf.socket._stream.receive_some = never
        pair = [await join(nursery, server, hub_id=f"pair-{n}") for n in range(2)]
        rest = [megabytes * 1_000_000 // senders] * senders

        async def read(client):
            with suppress(trio_websocket.ConnectionClosed):
                while True:
                    await client.socket.get_message()

        async def flood(number):
            while rest[number] > 0:
                # Who does it too often is thrown out, and comes again as somebody else.
                with suppress(trio_websocket.ConnectionClosed):
                    client = await join(nursery, server, hub_id=f"flood-{number}")
                    nursery.start_soon(read, client)
                    while rest[number] > 0:
                        stream = stream_number()
                        await client.send(OPEN, deaf.address, stream)
                        for _ in range(CREDIT // PIECE_MAX + 1):
                            await client.send(DATA, deaf.address, stream, BIG)
                            rest[number] -= PIECE_MAX

        async with trio.open_nursery() as floods:
            for number in range(senders):
                floods.start_soon(flood, number)
            one, other = pair
            stream = stream_number()
            await one.send(OPEN, other.address, stream)
            await other.data()
            while any(each > 0 for each in rest):
                began = trio.current_time()
                await one.send(DATA, other.address, stream, b"quick")
                await other.data()
                slowest = max(slowest, trio.current_time() - began)
                await other.send(CREDIT_MORE, one.address, stream, (5).to_bytes(4, "big"))
                await one.data()
                assert server.switch.queued <= senders * LANE_MAX
        nursery.cancel_scope.cancel()
    return slowest


@pytest.mark.guarantee("relay-bounded")
async def test_a_hub_that_reads_nothing_costs_the_server_little_and_the_others_nothing():
    async with running() as server:
        await meant_for_a_deaf_hub(server, 20, senders=4)
        assert server.switch.counts["congested"] > 10


@pytest.mark.soak
async def test_a_gigabyte_for_a_hub_that_reads_nothing():
    async with running() as server:
        print("slowest answer of others:", await meant_for_a_deaf_hub(server, 1_000, senders=16))


@pytest.mark.parametrize(
    "frame",
    [b"\x8a\x80\0\0\0\0", b"\x89\x80\0\0\0\0", b"\x01\x80\0\0\0\0"],
    ids=["pongs", "pings", "parts"],
)
async def test_frames_that_mean_nothing_are_not_free_either(frame, monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.switch.UNITS_PER_S", 100.0)
    monkeypatch.setattr("ecorelay_relay_server.switch.UNITS_BURST", 1_000.0)
    async with running() as server, hub(server) as bad, hub(server) as one, hub(server) as other:
        async with trio.open_nursery() as nursery:
            wire = frame.replace(b"\x01", b"\x00") * 3_000

            async def flood():
                await bad.socket._stream.send_all(frame)
                while True:
                    await bad.socket._stream.send_all(wire)

            nursery.start_soon(flood)
            await one.send(OPEN, other.address, stream_number())
            assert (await other.data()).kind == OPEN
            connection = next(each for each in server.connections.values() if each.hub.address == bad.address)
            await until(lambda: connection.hub.pace.wait(trio.current_time()) > 0)
            nursery.cancel_scope.cancel()


async def test_who_is_not_listened_to_for_a_while_is_not_taken_for_silent(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.switch.UNITS_PER_S", 100.0)
    monkeypatch.setattr("ecorelay_relay_server.switch.UNITS_BURST", 100.0)
    monkeypatch.setattr("ecorelay_relay_server.connection.SILENT_S", 0.5)
    monkeypatch.setattr("ecorelay_relay_server.connection.PING_S", 0.1)
    monkeypatch.setattr("ecorelay_relay_server.server.TICK_S", 0.05)
    async with running() as server, trio.open_nursery() as nursery:
        other, one = await join(nursery, server), await join(nursery, server)
        for _ in range(3):  # each is paid for with a second
            await one.socket.send_message('{"type":"from_the_future"}')
        await one.send(OPEN, other.address, stream_number())
        assert (await other.data()).kind == OPEN
        assert len(server.connections) == 2
        nursery.cancel_scope.cancel()


async def test_a_flood_of_junk_is_read_slowly_and_others_are_not_kept_waiting():
    async with running() as server, hub(server) as bad, hub(server) as one, hub(server) as other:
        junk = relay_wire.piece(DATA, other.address, b"nothing!", b"x")

        async def flood():
            while True:
                await bad.socket.send_message(junk)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            stream = stream_number()
            await one.send(OPEN, other.address, stream)
            for _ in range(50):
                await one.send(DATA, other.address, stream, b"quick")
                while (await other.data()).kind != DATA:
                    pass
            nursery.cancel_scope.cancel()


async def test_a_hub_that_is_silent_holds_nothing_of_what_it_said_last():
    async with running() as server, hub(server) as other, trio.open_nursery() as nursery:
        hubs = [await join(nursery, server) for _ in range(10)]
        tracemalloc.start()
        try:
            for each in hubs:
                await each.send(DATA, other.address, b"no such!", BIG)
            await until(lambda: server.switch.counts["dropped_stream"] == len(hubs))
            await trio.testing.wait_all_tasks_blocked()
            here = tracemalloc.Filter(inclusive=True, filename_pattern="*/ecorelay_relay_server/*")
            found = tracemalloc.take_snapshot().filter_traces([here]).statistics("filename")
        finally:
            tracemalloc.stop()
        assert sum(each.size for each in found) < len(BIG) * len(hubs) / 4
        nursery.cancel_scope.cancel()


# --- HTTP ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 426 Upgrade Required"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 405 Method Not Allowed"),
        (b"\r\n\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 9000, b"HTTP/1.1 431 "),
        (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", b"HTTP/1.1 4"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b""),
    ],
    ids=["health", "browser", "post", "nonsense", "long", "half a handshake", "TLS"],
)
async def test_other_requests_are_answered_and_ended(request_, answer):
    async with running() as server:
        assert (await asks(server.port, request_)).startswith(answer)
        await until(lambda: len(server.half_open) == 0)


async def test_a_health_check_is_not_logged():
    async with running() as server:
        await asks(server.port, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert server.lines == []


# --- TLS -------------------------------------------------------------------------------------------------


async def test_with_a_certificate_of_its_own_it_speaks_tls(certificate):
    cert, key = certificate
    async with running(tls_cert=str(cert), tls_key=str(key)) as server:
        context = ssl.create_default_context(cafile=str(cert))
        with trio.fail_after(PATIENCE_S):
            plain = await trio.open_tcp_stream("127.0.0.1", server.port)
            stream = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
            await stream.send_all(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK")
            await trio.aclose_forcefully(stream)
        assert await asks(server.port, b"GET /healthz HTTP/1.1\r\n\r\n") != b"ok"
        await until(lambda: server.counts.refused["tls"] == 1)


def test_nobody_asks_for_a_second_handshake(certificate):
    cert, key = certificate
    context = tls_context(settings(tls_cert=str(cert), tls_key=str(key)))
    assert context is not None
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_hubs_talk_over_tls_and_are_told_when_it_ends(certificate, monkeypatch):
    cert, key = certificate
    over_tls(monkeypatch, cert)
    async with running(tls_cert=str(cert), tls_key=str(key)) as server, hub(server) as one:
        async with hub(server) as other:
            await one.text()
            stream = stream_number()
            await other.send(OPEN, one.address, stream)
            for _ in range(4):
                await other.send(DATA, one.address, stream, BIG)
            assert (await one.data()).kind == OPEN
            assert [len((await one.data()).payload) for _ in range(4)] == [PIECE_MAX] * 4
            server.stop()
            assert (await other.closed())[0] == CLOSE_GOING
        assert (await one.closed())[0] == CLOSE_GOING


# --- ending and reloading --------------------------------------------------------------------------------


async def test_when_it_ends_all_hubs_are_told_and_what_waits_is_written():
    async with running() as server, hub(server) as one, hub(server) as other:
        stream = stream_number()
        await one.send(OPEN, other.address, stream)
        for _ in range(8):
            await one.send(DATA, other.address, stream, BIG)
        await until(lambda: server.switch.counts["bytes"] == 8 * PIECE_MAX)
        server.stop()
        await other.data()
        for _ in range(8):
            assert len((await other.data()).payload) == PIECE_MAX
        assert await other.closed() == (CLOSE_GOING, "the relay server ends or restarts: come again")
        assert (await one.closed())[0] == CLOSE_GOING


async def test_when_it_ends_what_a_hub_sent_is_written_though_that_hub_is_gone(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.server.DRAIN_S", PATIENCE_S)
    async with running() as server, hub(server) as one, hub(server) as slow:
        streams = [stream_number() for _ in range(STREAMS_MAX)]
        for stream in streams:
            await one.send(OPEN, slow.address, stream)
            for _ in range(CREDIT // PIECE_MAX):
                await one.send(DATA, slow.address, stream, BIG)
        await until(lambda: server.switch.counts["bytes"] == STREAMS_MAX * CREDIT)
        assert server.switch.queued > CREDIT  # the kernel took the rest
        server.stop()
        assert (await one.closed())[0] == CLOSE_GOING
        await trio.aclose_forcefully(one.socket._stream)
        await until(lambda: len(server.connections) == 1)
        got = 0
        while got < STREAMS_MAX * CREDIT:
            got += len((await slow.data()).payload)
        assert (await slow.closed())[0] == CLOSE_GOING


async def test_it_ends_though_a_hub_reads_nothing():
    async with running() as server, hub(server) as one, hub(server) as deaf:
        deaf.socket._stream.receive_some = never
        for _ in range(10):
            stream = stream_number()
            await one.send(OPEN, deaf.address, stream)
            for _ in range(8):
                await one.send(DATA, deaf.address, stream, BIG)
        server.stop()
        await until(lambda: not server.connections)


async def test_new_tokens_hold_at_once_and_hubs_with_an_old_one_are_closed():
    async with running() as server, hub(server) as old:
        server.use(settings(token="the new token of the tests"))
        assert await old.closed() == (CLOSE_TOKEN, "its token is no longer one of this server's")
        assert (await refused(server, hello(Identity())))[0] == CLOSE_TOKEN
        async with hub(server, token="the new token of the tests"):
            pass


async def test_a_token_is_changed_without_losing_a_hub():
    async with running() as server, hub(server) as old:
        tokens = (Secret("the new token of the tests"), Secret(TOKEN))
        realm = RealmSettings(name="default", tokens=tokens, max_hubs=10)
        server.use(settings(realms=(realm,)))
        async with hub(server, token="the new token of the tests") as new:
            assert [each.address for each in new.here] == [old.address.hex()]
            await old.send(OPEN, new.address, stream_number())
            assert (await new.data()).kind == OPEN


async def test_what_needs_a_restart_is_said():
    async with running() as server:
        server.use(settings(port=4711))
        assert json.loads(server.lines[0])["event"] == "needs a restart"
        assert json.loads(server.lines[0])["fields"] == ["port"]


# --- metrics ---------------------------------------------------------------------------------------------


@pytest.mark.guarantee("relay-silent")
async def test_metrics_count_what_happens_and_show_no_secret(free_port):
    async with running(metrics_port=free_port) as server, hub(server) as one, hub(server) as other:
        stream = stream_number()
        await one.send(OPEN, other.address, stream)
        await one.send(DATA, other.address, stream, b"12345")
        await other.data()
        await refused(server, hello(Identity(), token="wrong token, quite long"))
        said = (await asks(free_port, b"GET /metrics HTTP/1.1\r\n\r\n")).decode()
        assert said.startswith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        for line in (
            'ecorelay_relay_hubs{realm="default"} 2',
            "ecorelay_relay_streams 1",
            "ecorelay_relay_bytes_total 5",
            "ecorelay_relay_messages_total 1",
            'ecorelay_relay_refused_total{why="token"} 1',
        ):
            assert f"\n{line}\n" in said
        assert TOKEN not in said
        assert one.address.hex() not in said
        assert (await asks(free_port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404")
        assert (await asks(server.port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 426")


async def test_a_reader_of_the_metrics_that_asks_nothing_does_not_hold_up_the_end(free_port, monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.server.HELLO_S", 10 * PATIENCE_S)
    with trio.fail_after(PATIENCE_S):
        async with running(metrics_port=free_port) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", free_port)
            await until(lambda: server.server._scrapes)
            server.stop()
    await trio.aclose_forcefully(stream)


# --- two that meet apart ---------------------------------------------------------------------------------


@pytest.mark.guarantee("relay-invitation")
async def test_who_is_invited_is_let_in_while_the_other_one_is_there_and_told_when_it_goes():
    number = "0123456789abcdef" * 2
    fields: dict[bool, Any] = {
        invited: {
            "token": relay_wire.pass_of(TOKEN, number, invited=invited),
            "invitation": number,
            "invited": invited,
        }
        for invited in (False, True)
    }
    async with running() as server, hub(server) as member:
        code, reason = await refused(server, hello(Identity(), **fields[True]))
        assert (code, "nobody invites by this pass now" in reason) == (CLOSE_INVITATION, True)
        async with hub(server, **fields[False]) as host:
            async with trio.open_nursery() as nursery:
                guest = await join(nursery, server, hub_id="guest", **fields[True])
                assert [each.address for each in guest.here] == [host.address.hex()]
                assert (await host.text()).hub.hub_id == "guest"
                await host.socket.aclose()
                assert await guest.closed() == (CLOSE_INVITATION, "who invited has left")
                nursery.cancel_scope.cancel()
        async with hub(server) as other:  # the first that the member hears of
            assert (await member.text()).hub.address == other.address.hex()
        assert fields[True]["token"] not in "".join(server.lines)
        assert number not in "".join(server.lines)
