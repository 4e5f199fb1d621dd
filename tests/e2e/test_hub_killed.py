"""The hub dies by SIGKILL under load: what it acknowledged is there, once."""

from __future__ import annotations

import os
import random
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio

from ecorelay import wire
from ecorelay.client import HubClient, open_hub_client
from ecorelay.endpoint import read_endpoint
from ecorelay.errors import RelayError
from ecorelay.spawn import hub_connector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay.paths import Paths

SENDERS = 20
RECIPIENTS = ("ann", "ben", "cal", "dee")
KILLS = 4


def hello(name: str, *, role: wire.Role = "session", push: bool = False) -> wire.Hello:
    return wire.Hello(versions=(1, 1), role=role, name=name, pinned=True, create=True, push=push)


async def read_all(client: HubClient) -> list[wire.Mail]:
    """Everything unread, confirmed page by page."""
    found: list[wire.Mail] = []
    while True:
        page = await client.request(wire.Inbox(req_id=0, limit=100, budget=400_000))
        if not page.messages:
            return found
        found += page.messages
        ids = tuple(mail.msg_id for mail in page.messages)
        await client.request(wire.Confirm(req_id=0, lease=page.lease, msg_ids=ids))


@pytest.mark.guarantee("hub-kill-9")
@pytest.mark.guarantee("durable-before-ack")
@pytest.mark.guarantee("stored-once")
async def test_nothing_acknowledged_is_lost_or_doubled_when_the_hub_is_killed_under_load(
    hub_home: tuple[Paths, Mapping[str, str]],
) -> None:
    paths, environ = hub_home
    connect = hub_connector(paths, environ)
    acknowledged: dict[str, tuple[str, int, int]] = {}
    stop = trio.Event()
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)

    async def send(client: HubClient, number: int) -> None:
        count = 0
        while not stop.is_set():
            to = RECIPIENTS[(number + count) % len(RECIPIENTS)]
            text = f"{number} {count}"
            got = await client.request(wire.Send(req_id=0, op_id="", to=to, text=text))
            assert got.msg_id not in acknowledged
            acknowledged[got.msg_id] = (to, number, count)
            count += 1

    async def kill() -> None:
        for _ in range(KILLS):
            await trio.sleep(0.2 + rng.random() * 0.4)
            endpoint = read_endpoint(paths.endpoint)
            assert endpoint is not None
            before = len(acknowledged)
            os.kill(endpoint.pid, signal.SIGKILL)
            # Everybody is back and going on within 2 s.
            with trio.fail_after(2 + 3):  # the machine of a test may be slow
                while len(acknowledged) < before + SENDERS:  # noqa: ASYNC110 - counts what others do
                    await trio.sleep(0.01)
        stop.set()

    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            for name in RECIPIENTS:
                async with open_hub_client(hello(name, role="attach"), connect=connect):
                    pass
            clients = [
                await stack.enter_async_context(open_hub_client(hello(f"s{number}"), connect=connect))
                for number in range(SENDERS)
            ]
            async with trio.open_nursery() as nursery:
                for number, client in enumerate(clients):
                    nursery.start_soon(send, client, number)
                nursery.start_soon(kill)
        for name in RECIPIENTS:
            async with open_hub_client(hello(name), connect=connect) as reader:
                found = await read_all(reader)
            ids = [mail.msg_id for mail in found]
            assert len(ids) == len(set(ids)), "a message came twice"
            missing = {i for i, (to, _, _) in acknowledged.items() if to == name} - set(ids)
            assert not missing, f"{len(missing)} acknowledged messages are gone"
            for number in range(SENDERS):
                counts = [
                    int(text.split()[1])
                    for text in (mail.text or "" for mail in found)
                    if text.startswith(f"{number} ")
                ]
                assert counts == sorted(counts), "one sender's messages came out of order"
    assert len(acknowledged) > SENDERS * KILLS


async def test_a_killed_hub_is_back_within_two_seconds_for_a_waiting_client(
    hub_home: tuple[Paths, Mapping[str, str]],
) -> None:
    paths, environ = hub_home
    connect = hub_connector(paths, environ)
    with trio.fail_after(30):
        async with open_hub_client(hello("ann"), connect=connect) as ann:
            endpoint = read_endpoint(paths.endpoint)
            assert endpoint is not None
            os.kill(endpoint.pid, signal.SIGKILL)
            got = await ann.request(wire.Peers(req_id=0))
            assert got.me == "ann"
            after = read_endpoint(paths.endpoint)
            assert after is not None
            assert after.pid != endpoint.pid
            with pytest.raises(RelayError, match="peer_not_found"):
                await ann.request(wire.Send(req_id=0, op_id="", to="nobody", text="x"))
