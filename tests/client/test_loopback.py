"""The mutual proof over loopback TCP: nothing is said to a hub, or heard of a client, without it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
import trio.testing

from ecorelay import wire
from ecorelay.errors import WireError
from ecorelay.framing import LineSplitter
from ecorelay.loopback import prove_to_client, prove_to_hub
from tests.wire.examples import ID, ID2

TOKEN = "ab" * 32


class Side:
    """One end of a stream, as the proof wants it, keeping what it read."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.splitter = LineSplitter()
        self.lines: list[bytes] = []
        self.heard: list[bytes] = []

    async def receive_line(self) -> bytes:
        while not self.lines:
            data = await self.stream.receive_some()
            if not data:
                raise trio.BrokenResourceError("end of stream")
            self.lines += self.splitter.feed(data)
        self.heard.append(self.lines.pop(0))
        return self.heard[-1]

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)


Proof = Callable[[Side], Awaitable[None]]


async def prove(client: Proof, hub: Proof) -> tuple[BaseException | None, BaseException | None, Side, Side]:
    """Run both sides; what each raised, and what each heard."""
    ours, theirs = map(Side, trio.testing.memory_stream_pair())
    errors: dict[Side, BaseException] = {}

    async def run(side: Side, proof: Proof) -> None:
        try:
            await proof(side)
        except (WireError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            errors[side] = error
            await side.stream.aclose()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, ours, client)
            nursery.start_soon(run, theirs, hub)
    return errors.get(ours), errors.get(theirs), ours, theirs


def client_with(token: str, nonce: str = ID) -> Proof:
    return lambda side: prove_to_hub(side.receive_line, side.send, token=token, nonce=nonce)


def hub_with(token: str, nonce: str = ID2) -> Proof:
    return lambda side: prove_to_client(side.receive_line, side.send, token=token, nonce=nonce)


async def test_who_shares_the_token_is_proved_to_each_other():
    assert (await prove(client_with(TOKEN), hub_with(TOKEN)))[:2] == (None, None)


async def test_what_follows_the_proof_is_left_for_its_reader():
    async def client(side: Side) -> None:
        await prove_to_hub(side.receive_line, side.send, token=TOKEN, nonce=ID)
        await side.send(b"hello\n")

    async def hub(side: Side) -> None:
        await prove_to_client(side.receive_line, side.send, token=TOKEN, nonce=ID2)
        assert await side.receive_line() == b"hello"

    assert (await prove(client, hub))[:2] == (None, None)


async def test_a_client_says_nothing_but_a_nonce_to_a_listener_that_does_not_know_the_token():
    error, _, _, hub = await prove(client_with(TOKEN), hub_with("cd" * 32))
    assert isinstance(error, WireError)
    assert "not our hub" in error.message
    assert hub.heard == [wire.encode(wire.AuthStart(nonce=ID)).rstrip()]


async def test_a_hub_does_not_hear_a_client_that_does_not_know_the_token():
    async def client(side: Side) -> None:
        await side.send(wire.encode(wire.AuthStart(nonce=ID)))
        await side.receive_line()
        await side.send(wire.encode(wire.AuthProof(proof="00" * 32)))

    _, error, _, _ = await prove(client, hub_with(TOKEN))
    assert isinstance(error, WireError)
    assert "does not know the token" in error.message


async def test_the_hubs_own_proof_sent_back_proves_nothing():
    async def client(side: Side) -> None:
        await side.send(wire.encode(wire.AuthStart(nonce=ID)))
        challenge = wire.decode_challenge(await side.receive_line())
        await side.send(wire.encode(wire.AuthProof(proof=challenge.proof)))

    _, error, _, _ = await prove(client, hub_with(TOKEN))
    assert isinstance(error, WireError)


async def test_the_clients_nonce_sent_back_proves_nothing():
    async def hub(side: Side) -> None:
        start = wire.decode_auth(await side.receive_line())
        assert isinstance(start, wire.AuthStart)
        await side.send(wire.encode(wire.AuthChallenge(nonce=start.nonce, proof="00" * 32)))

    error, _, _, _ = await prove(client_with(TOKEN), hub)
    assert isinstance(error, WireError)


async def test_a_proof_of_an_earlier_connection_proves_nothing():
    _, _, _, hub = await prove(client_with(TOKEN), hub_with(TOKEN))
    old = hub.heard

    async def replay(side: Side) -> None:
        await side.send(old[0] + b"\n")
        await side.receive_line()
        await side.send(old[1] + b"\n")

    assert (await prove(replay, hub_with(TOKEN, ID2)))[1] is None  # the same nonce: it would hold
    assert isinstance((await prove(replay, hub_with(TOKEN, ID)))[1], WireError)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b'{"type":"hello","versions":[1,1]}\n',
        b'{"type":"auth_proof","proof":""}\n',
        b'{"type":"auth_start","nonce":""}\n',
        b'{"type":"auth_start","nonce":"' + b"0" * 70_000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"x" * 70_000,
    ],
)
async def test_a_hub_ends_whatever_begins_otherwise(line: bytes):
    async def client(side: Side) -> None:
        await side.send(line)

    _, error, _, _ = await prove(client, hub_with(TOKEN))
    assert isinstance(error, WireError)


@pytest.mark.parametrize(
    "proof",
    [
        wire.AuthStart(nonce=ID),
        wire.AuthProof(proof=""),
        wire.AuthProof(proof="0" * 63),
        wire.AuthProof(proof="é" * 32),
        wire.Ping(),
    ],
)
async def test_a_hub_ends_whatever_goes_on_otherwise(proof: wire.Frame):
    async def client(side: Side) -> None:
        await side.send(wire.encode(wire.AuthStart(nonce=ID)))
        await side.receive_line()
        await side.send(wire.encode(proof))

    _, error, _, _ = await prove(client, hub_with(TOKEN))
    assert isinstance(error, WireError)


async def test_a_proof_cut_short_is_none():
    async def cut(side: Side) -> None:
        start = wire.AuthStart(nonce=ID)
        await side.send(wire.encode(start))
        challenge = wire.decode_challenge(await side.receive_line())
        await side.send(wire.encode(wire.AuthProof(proof=challenge.proof[:32])))

    assert isinstance((await prove(cut, hub_with(TOKEN)))[1], WireError)

    async def silent(side: Side) -> None:
        await side.send(wire.encode(wire.AuthStart(nonce=ID))[:20])
        await side.stream.aclose()

    assert isinstance((await prove(silent, hub_with(TOKEN)))[1], trio.BrokenResourceError)


@pytest.mark.parametrize(
    "answer", [b"garbage\n", b'{"type":"welcome"}\n', b'{"type":"auth_challenge"}\n', b"x" * 70_000]
)
async def test_a_client_leaves_a_listener_that_answers_otherwise(answer: bytes):
    async def hub(side: Side) -> None:
        await side.receive_line()
        await side.send(answer)

    assert isinstance((await prove(client_with(TOKEN), hub))[0], WireError)


async def test_a_token_cut_short_proves_nothing():
    error, _, _, _ = await prove(client_with("ab"), hub_with("ab"))
    assert isinstance(error, trio.BrokenResourceError)


def test_a_challenge_is_as_the_golden_file_says():
    assert (
        msgspec.json.encode(wire.AuthStart(nonce=ID)) == b'{"type":"auth_start","nonce":"%s"}' % ID.encode()
    )
