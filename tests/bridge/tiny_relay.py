"""A relay server as small as can be, for tests of the hub's side: it switches, and misbehaves when told."""

from __future__ import annotations

import contextlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from ecorelay import relay_wire
from ecorelay.relay_wire import Here, HubHere, Joined, Left, NoSuchHub, RelayNonce

TOKEN = "the-token-of-the-relay-0123456789abcdef"


class TinyRelay:
    """One relay server in this process."""

    def __init__(self) -> None:
        self.port = 0
        self.hubs: dict[bytes, tuple[HubHere, WebSocketConnection]] = {}
        self.hellos: list[relay_wire.RelayHello] = []
        self.versions = (1, 1)
        self.app = ""
        """The version of its program, as it says."""
        self.close_with = 0
        """Every hello is answered with this close code."""
        self.rejects = 0
        """Every request is answered with this HTTP status."""
        self.tamper: Callable[[int, bytes], list[bytes]] = lambda number, message: [message]
        """Makes of a data message, and its number, what goes on to the other hub."""
        self._switched = 0
        self.frozen = False
        """Nothing is passed on or said."""
        self.scope = trio.CancelScope()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    async def serve(self, *, port: int = 0, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                server = await nursery.start(
                    lambda task_status: serve_websocket(
                        self._take, "127.0.0.1", port, None, task_status=task_status
                    )
                )
                self.port = server.port
                task_status.started()

    async def _take(self, request: WebSocketRequest) -> None:
        if self.rejects:
            await request.reject(self.rejects)
            return
        socket = await request.accept(subprotocol=relay_wire.SUBPROTOCOL)
        with contextlib.suppress(ConnectionClosed):
            await self._serve(socket)

    async def _serve(self, socket: WebSocketConnection) -> None:
        nonce = secrets.token_hex(32)
        await socket.send_message(
            relay_wire.encode(RelayNonce(versions=self.versions, nonce=nonce, app_version=self.app))
        )
        hello = relay_wire.decode_hello(str(await socket.get_message()))
        self.hellos.append(hello)
        proof = relay_wire.proof_of(TOKEN, relay_wire.statement(nonce, hello))
        if self.close_with or not hmac.compare_digest(proof, hello.proof):
            await socket.aclose(self.close_with or relay_wire.CLOSE_TOKEN)
            return
        address = relay_wire.address_of(bytes.fromhex(hello.public))
        me = HubHere(hub_id=hello.hub_id, address=address.hex(), app_version=hello.app_version)
        if (old := self.hubs.pop(address, None)) is not None:
            await old[1].aclose(relay_wire.CLOSE_REPLACED)
        others = dict(self.hubs)
        self.hubs[address] = me, socket
        try:
            here = tuple(hub for hub, _ in others.values())
            await socket.send_message(relay_wire.encode(Here(hubs=here, complete=True)))
            await self.tell(Joined(hub=me), others)
            while True:
                await self._switch(address, socket, await socket.get_message())
        finally:
            if self.hubs.get(address, (None, None))[1] is socket:
                del self.hubs[address]
                with trio.CancelScope(shield=True):
                    await self.tell(Left(address=address.hex(), reason="closed"), self.hubs)

    async def _switch(self, address: bytes, socket: WebSocketConnection, message: Any) -> None:
        while self.frozen:  # noqa: ASYNC110
            await trio.sleep(0.01)
        came = relay_wire.take_apart(message)
        to = self.hubs.get(came.address)
        if to is None:
            gone = NoSuchHub(address=came.address.hex(), stream=came.stream.hex())
            await socket.send_message(relay_wire.encode(gone))
            return
        passed = [relay_wire.piece(came.kind, address, came.stream, came.payload)]
        if came.kind == relay_wire.DATA:
            self._switched += 1
            passed = self.tamper(self._switched, passed[0])
        with contextlib.suppress(ConnectionClosed):
            for each in passed:
                await to[1].send_message(each)

    async def tell(
        self,
        message: relay_wire.RelayMessage,
        hubs: Mapping[bytes, tuple[HubHere, WebSocketConnection]] | None = None,
    ) -> None:
        for _, socket in list((self.hubs if hubs is None else hubs).values()):
            with contextlib.suppress(ConnectionClosed):
                await socket.send_message(relay_wire.encode(message))

    async def close_all(self, code: int) -> None:
        for _, socket in list(self.hubs.values()):
            await socket.aclose(code)


@contextlib.asynccontextmanager
async def tiny_relay(port: int = 0) -> AsyncIterator[TinyRelay]:
    """One that runs until the end of the block."""
    relay = TinyRelay()
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: relay.serve(port=port, task_status=task_status))
        try:
            yield relay
        finally:
            nursery.cancel_scope.cancel()
