"""Where there are no Unix sockets: loopback TCP, and a token that both sides prove to know."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import trio

from ecorelay import wire
from ecorelay.endpoint import Endpoint, write_endpoint
from ecorelay.loopback import prove_to_hub
from ecorelay.names import new_id
from tests.e2e.stage import PATIENCE_S, Machine, mode_of, texts


@pytest.fixture
def over_tcp(tmp_path: Path):
    machine = Machine(tmp_path, ECORELAY_TRANSPORT="tcp")
    yield machine
    machine.close()


class Line:
    """A bare connection to the hub, line by line."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def receive(self) -> bytes:
        """The next line; empty at the end."""
        with trio.fail_after(PATIENCE_S):
            while b"\n" not in self._received:
                data = await self.stream.receive_some()
                if not data:
                    return b""
                self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)


NO_SPAWN = {"ECORELAY_SPAWN": "no"}
HELLO = wire.encode(wire.Hello(versions=(1, 1), role="observer"))
STATUS = wire.encode(wire.HubStatus(req_id=1))


def nonce() -> str:
    return new_id(1, secrets.randbits)


async def test_a_hub_on_loopback_listens_to_this_machine_alone_and_hides_its_token(over_tcp: Machine):
    async with over_tcp.assistants("ann"):
        endpoint = over_tcp.endpoint
        assert endpoint is not None
        assert (endpoint.transport, endpoint.host, endpoint.path) == ("tcp", "127.0.0.1", "")
        assert len(endpoint.token) == 64
        assert mode_of(over_tcp.paths.endpoint) == 0o600
        assert not over_tcp.paths.socket.exists()
        assert endpoint.token not in over_tcp.paths.log.read_text()
        first = endpoint.token
    await over_tcp.end_hub()
    async with over_tcp.assistants("ann"):
        again = over_tcp.endpoint
        assert again is not None
        assert again.token != first


async def test_who_does_not_know_the_token_is_refused_without_a_word(over_tcp: Machine):
    async with over_tcp.assistants("ann") as (ann,), AsyncExitStack() as stack:
        endpoint = over_tcp.endpoint
        assert endpoint is not None

        async def opened() -> Line:
            stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
            return Line(await stack.enter_async_context(stream))

        # Straight to business.
        line = await opened()
        await line.send(HELLO + STATUS)
        assert b"hub_id" not in await line.receive()
        # A proof made with another token.
        line = await opened()
        mine = nonce()
        await line.send(wire.encode(wire.AuthStart(nonce=mine)))
        challenge = wire.decode_challenge(await line.receive())
        assert endpoint.token not in challenge.proof
        await line.send(wire.encode(wire.AuthProof(proof="0" * 64)) + HELLO + STATUS)
        assert await line.receive() == b""
        # A proof of one connection, said again on another.
        line = await opened()
        said: list[bytes] = []

        async def send(data: bytes) -> None:
            said.append(data)
            await line.send(data)

        await prove_to_hub(line.receive, send, token=endpoint.token, nonce=mine)
        line = await opened()
        await line.send(b"".join(said) + HELLO + STATUS)
        assert b"hub_id" not in await line.receive() + await line.receive()
        # The true one.
        line = await opened()
        await prove_to_hub(line.receive, line.send, token=endpoint.token, nonce=nonce())
        await line.send(HELLO + STATUS)
        assert b'"hub_id":"here"' in await line.receive()
        assert await ann.me() == ann.name
    # Each was counted, once its connection had ended.
    with trio.fail_after(PATIENCE_S):
        while True:
            if (await over_tcp.status())["counters"].get("closed auth_failed") == 3:
                return


async def test_an_adapter_with_a_wrong_token_reaches_nobody_until_it_has_the_right_one(over_tcp: Machine):
    async with over_tcp.assistants("ann"):
        endpoint = over_tcp.endpoint
        assert endpoint is not None
        write_endpoint(over_tcp.paths.endpoint, msgspec.structs.replace(endpoint, token="0" * 64))
        async with over_tcp.assistant("ben", environ=NO_SPAWN) as ben:
            assert "the hub cannot be reached" in ben.instructions
            said = await ben.refused("peers")
            assert said["code"] == "hub_unreachable"
            write_endpoint(over_tcp.paths.endpoint, endpoint)
            assert await ben.me() == "ben"
    assert over_tcp.hubs_started() == 1


async def test_an_impostor_at_the_hubs_port_learns_neither_token_nor_mail(over_tcp: Machine):
    heard = bytearray()

    async def listen(stream: trio.SocketStream) -> None:
        async for data in stream:
            heard.extend(data)
            await stream.send_all(wire.encode(wire.AuthChallenge(nonce=nonce(), proof="0" * 64)))

    async with over_tcp.assistants("ann") as (ann,):
        endpoint = over_tcp.endpoint
        assert endpoint is not None
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, listen, [listener])
            port: int = listener.socket.getsockname()[1]
            moved: Endpoint = msgspec.structs.replace(endpoint, port=port)
            write_endpoint(over_tcp.paths.endpoint, moved)
            async with over_tcp.assistant("ben", environ=NO_SPAWN) as ben:
                await ben.refused("send", to="ann", text="precious")
            nursery.cancel_scope.cancel()
        write_endpoint(over_tcp.paths.endpoint, endpoint)
        assert heard
        assert endpoint.token.encode() not in heard
        assert b"precious" not in heard
        assert b"hello" not in heard
        await ann.call("send", to=ann.name, text="all is well")
        assert texts(await ann.read_all()) == ["all is well"]
