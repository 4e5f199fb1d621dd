"""What the Tab key offers: names the running hub knows. Without a hub, or a quick one, nothing.

A shell waits for this at every Tab, so it never starts a hub, asks for one page, and says nothing of what
goes wrong.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

PATIENCE_S: Final = 0.4
LISTED: Final = 1000
_WHATEVER: Final = (Exception, BaseExceptionGroup, SystemExit)


def peers(incomplete: str) -> list[str]:
    """Names of peers that begin so."""

    async def ask() -> list[str]:
        from ecorelay import wire
        from ecorelay.cli import session

        async with session.at_running_hub() as hub:
            found = await hub.request(wire.Peers(req_id=0, match=incomplete[:256], limit=LISTED))
        return [peer.name for peer in found.peers]

    return _offered(ask, incomplete)


def groups(incomplete: str) -> list[str]:
    """Names of the groups of the person at this command line that begin so."""

    async def ask() -> list[str]:
        from ecorelay import wire
        from ecorelay.cli import session

        async with session.at_running_hub(session.config().me) as hub:
            found = await hub.request(wire.Groups(req_id=0))
        return [group.name for group in found.groups]

    return _offered(ask, incomplete)


def hubs(incomplete: str) -> list[str]:
    """Names of other hubs that begin so."""

    async def ask() -> list[str]:
        from ecorelay import wire
        from ecorelay.cli import session

        async with session.at_running_hub() as hub:
            found = await hub.request(wire.HubStatus(req_id=0))
        return [link.hub_id for link in found.links]

    return _offered(ask, incomplete)


def _offered(ask: Callable[[], Awaitable[list[str]]], incomplete: str) -> list[str]:
    try:
        found = _asked(ask)
    except _WHATEVER:
        return []
    from ecorelay.names import split_address

    # Some shells evaluate what they are offered: nothing but addresses gets there, whatever the hub says.
    return [name for name in found if name.startswith(incomplete) and split_address(name, "") is not None]


def _asked(ask: Callable[[], Awaitable[list[str]]]) -> list[str]:
    import trio

    async def asked() -> list[str]:
        with trio.move_on_after(PATIENCE_S):
            return await ask()
        return []

    return trio.run(asked)
