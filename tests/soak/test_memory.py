"""What a hub keeps in memory does not grow with what went through it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import pytest
import trio

from ecorelay import wire
from ecorelay.client import HubClient
from scripts.bench_lib import procfs
from tests.e2e.sites import UNLIMITED, Site

PEERS = 10
RING = 300
MESSAGES = 120_000
FILLED = 70_000
"""By then mailboxes are full, and so is SQLite's cache of pages, 8 MiB."""
GROWTH_MB = 1.0
TEXT = "x" * 200

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


async def mail(client: HubClient, number: int) -> None:
    """Send one, and read all there is at every tenth."""
    await client.request(wire.Send(req_id=0, op_id="", to=f"p{number % PEERS}", text=TEXT))
    if number % PEERS == 0:
        page = await client.request(wire.Inbox(req_id=0, limit=100, budget=400_000))
        ids = tuple(each.msg_id for each in page.messages if each.kind != "system")
        await client.request(wire.Confirm(req_id=0, lease=page.lease, msg_ids=ids))


async def group(client: HubClient, number: int) -> None:
    """Say one line, and read all there is at every tenth."""
    await client.request(wire.GroupSend(req_id=0, op_id="", group="team", text=TEXT))
    if number % PEERS == 0:
        page = await client.request(wire.GroupHistory(req_id=0, group="team", limit=500, budget=400_000))
        if page.messages:
            await client.request(wire.GroupConfirm(req_id=0, group="team", upto=page.upto))


@pytest.mark.parametrize("say", [mail, group])
async def test_memory_stands_still_once_mailboxes_and_cache_are_full(
    tmp_path: Path, say: Callable[[HubClient, int], Awaitable[None]]
) -> None:
    settings = UNLIMITED | {"ECORELAY_LIMITS_MAILBOX_MESSAGES": str(RING)}
    hub = Site(tmp_path, "hub", port=0, **settings)
    seen: list[tuple[int, float]] = []
    with trio.fail_after(1200):
        await hub.start()
        assert hub.process is not None
        try:
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(hub.session(f"p{n}")) for n in range(PEERS)]
                await clients[0].request(
                    wire.GroupCreate(
                        req_id=0, op_id="", name="team", members=tuple(f"p{n}" for n in range(1, PEERS))
                    )
                )
                numbers = count()

                async def talk(client: HubClient) -> None:
                    assert hub.process is not None
                    while (number := next(numbers)) < MESSAGES:
                        await say(client, number)
                        if number % (MESSAGES // 24) == 0:
                            seen.append((number, procfs.memory_mb(hub.process.pid)[0]))

                async with trio.open_nursery() as nursery:
                    for client in clients:
                        nursery.start_soon(talk, client)
        finally:
            hub.close()
    print(seen)
    late = [mb for number, mb in seen if number >= FILLED]
    assert max(late) - min(late) < GROWTH_MB, seen
