"""What hubs say of themselves, to somebody who starts none and is nobody's peer."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from ecorelay import wire
from ecorelay.client import open_hub_client
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from ecorelay.client import HubClient
    from scripts.soak_lib.place import Hub, Place

LOOK_S: Final = 0.25
ANSWER_S: Final = 4.0
"""A hub that has not answered by then is stopped, or gone."""


class Look:
    """Observers of all hubs; made by `looking`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._clients: dict[str, HubClient] = {}

    async def _open(self, stack: AsyncExitStack) -> None:
        hello = wire.Hello(versions=(1, 1), role="observer", client="soak")
        for hub_id, hub in self._place.hubs.items():
            self._clients[hub_id] = await stack.enter_async_context(
                open_hub_client(hello, connect=hub.observer())
            )

    async def details(self, hub_id: str) -> wire.HubDetails | None:
        """What `hub status` shows; None: it does not answer."""
        with suppress(RelayError), trio.move_on_after(ANSWER_S + 1):
            return await self._clients[hub_id].request(wire.HubStatus(req_id=0), ANSWER_S)
        return None

    async def linked(self) -> bool:
        """Whether each hub has a link to each other one."""
        for hub_id in self._place.hubs:
            details = await self.details(hub_id)
            up = {link.hub_id for link in details.links if link.up} if details else set()
            if up != set(self._place.hubs) - {hub_id}:
                return False
        return True

    async def until_linked(self, within_s: float) -> str:
        """Wait until all are; what they say of their links if they are not."""
        with trio.move_on_after(within_s):
            while not await self.linked():  # noqa: ASYNC110 - other processes
                await trio.sleep(LOOK_S)
            return ""
        return str({hub_id: (d := await self.details(hub_id)) and d.links for hub_id in self._place.hubs})

    async def nothing_waits(self) -> bool:
        """Whether every outbox is empty."""
        for hub_id in self._place.hubs:
            details = await self.details(hub_id)
            if details is None or any(link.waiting for link in details.links):
                return False
        return True

    async def knows(self, hub_id: str, addresses: Collection[str]) -> bool:
        """Whether a hub has heard of all of these."""
        got = await self._clients[hub_id].request(wire.Peers(req_id=0, limit=1000))
        return set(addresses) <= {peer.name for peer in got.peers}

    async def trace(self, hub_id: str, msg_id: str) -> wire.Traced:
        """What a hub knows of a message.

        Raises:
            RelayError: nothing, or it does not answer.
        """
        return await self._clients[hub_id].request(wire.Trace(req_id=0, msg_id=msg_id), ANSWER_S)

    async def reload(self, hub: Hub) -> None:
        """Have it read its bridge.json; raises as `trace`."""
        await self._clients[hub.hub_id].request(wire.HubReload(req_id=0))


@asynccontextmanager
async def looking(look: Look) -> AsyncIterator[None]:
    """The observers are connected, until the end of the block."""
    async with AsyncExitStack() as stack:
        await look._open(stack)
        yield
