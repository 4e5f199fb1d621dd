"""A client that answers canaries, and one that asks for them, at a hub in the test's hand."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from ecorelay import wire
from ecorelay.client import HubClient
from ecorelay.requests import RequestError
from tests.helpers.fake_hub import Asked, FakeHub

PUSH = wire.Push(msg_id="01j5zk3m8v9w2x4y6z7abcdefg", kind="message", sender="ben", text="hi", ts=0)
PROBED = wire.Probed(req_id=1, peer="bob", ok=True, stage="session", says="well")


@pytest.fixture
def hub(nursery: trio.Nursery) -> FakeHub:
    return FakeHub(nursery)


async def test_only_who_answers_canaries_says_so(autojump_clock: MockClock, hub: FakeHub):
    async with hub.client() as (_, session):
        assert session.hello is not None
        assert not session.hello.canary
        await session.send(wire.Canary(id=1))
        assert await session.quiet()
    async with hub.client(on_canary=lambda canary: None) as (_, session):
        assert session.hello is not None
        assert session.hello.canary


async def test_a_canary_does_not_wait_behind_a_push_that_hangs(autojump_clock: MockClock, hub: FakeHub):
    clients: list[HubClient] = []

    async def hang(push: wire.Push) -> None:
        await trio.sleep_forever()

    def answer(canary: wire.Canary) -> None:
        clients[0].send_nowait(wire.CanaryAnswer(id=canary.id, stage="adapter", says="here"))

    async with hub.client(on_push=hang, on_canary=answer) as (client, session):
        clients.append(client)
        await session.send(PUSH)
        await session.send(wire.Canary(id=7))
        assert await session.receive() == wire.CanaryAnswer(id=7, stage="adapter", says="here")


async def test_canaries_of_a_connection_that_is_lost_are_dropped(autojump_clock: MockClock, hub: FakeHub):
    flown: list[int] = []

    async def slow(canary: wire.Canary) -> None:
        flown.append(canary.id)
        await trio.sleep(5)

    async with hub.client(on_canary=slow) as (_, session):
        for number in (1, 2, 3):
            await session.send(wire.Canary(id=number))
        await trio.sleep(1)
        await session.stream.aclose()
        again = await hub.session()
        await again.send(wire.Canary(id=4))
        await trio.sleep(20)
        assert flown == [1, 4]


async def test_a_probe_is_asked_again_of_the_hub_of_the_next_connection(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, wire.Probe(req_id=0, peer="bob"))
        first = await session.receive()
        await session.stream.aclose()
        again = await hub.session()
        assert await again.receive() == first
        await again.send(wire.Probed(req_id=first.req_id, peer="bob", ok=True, stage="session", says="well"))
        probed = await asked.wait()
        assert isinstance(probed, wire.Probed)
        assert probed.ok


async def test_a_hub_that_knows_no_canaries_refuses_the_frame(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, wire.Probe(req_id=0, peer="bob"))
        frame = await session.receive()
        await session.send(
            wire.Failed(req_id=frame.req_id, code="bad_msg", message="Invalid value - at `$.type`")
        )
        with pytest.raises(RequestError, match="bad_msg"):
            await asked.wait()
