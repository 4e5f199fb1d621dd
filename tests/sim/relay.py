"""The real relay server, but for its sockets."""

from __future__ import annotations

from typing import Any

import trio

from ecorelay.secret import Secret
from ecorelay_relay_server.journal import Journal
from ecorelay_relay_server.server import Server
from ecorelay_relay_server.settings import RealmSettings, Settings
from tests.sim.bridge import RELAY, TOKEN
from tests.sim.net import Network, SimStream


class _Socket:
    """All the server asks a socket for."""

    def getpeername(self) -> tuple[str, int]:
        return "10.0.0.1", 1


class SimRelay:
    """A relay server on a host of its own, which may be restarted.

    Args:
        network: where it is.
        crashed: called with what it says of a bug.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._scope = trio.CancelScope()
        self.crashes: list[str] = []

    async def run(self) -> None:
        """Until cancelled; after :meth:`restart` anew."""
        while True:
            with trio.CancelScope() as self._scope:
                await self._serve()
            await trio.sleep(1.0)

    def restart(self) -> None:
        """Every hub loses it, for a second or so."""
        self._network.doors.pop(RELAY, None)
        for stream in self._network.of(RELAY):
            stream.close()
        self._scope.cancel()

    async def _serve(self) -> None:
        realm = RealmSettings(name="default", tokens=(Secret(TOKEN),), max_hubs=100)
        settings = Settings(port=0, bind="127.0.0.1", realms=(realm,))
        server = Server(settings, Journal(self._say, trio.current_time))

        async def serve(stream: SimStream) -> None:
            asked: Any = stream
            asked.socket = _Socket()
            await server._serve(asked)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(server._tick)
            nursery.start_soon(server._spread)
            door = self._network.doors[RELAY] = serve, nursery
            try:
                await trio.sleep_forever()
            finally:
                if self._network.doors.get(RELAY) is door:
                    del self._network.doors[RELAY]

    def _say(self, line: bytes) -> None:
        if b"crash" in line:
            self.crashes.append(line.decode())
