"""Canaries over connections: silent sessions, readers that do not read, no answers, a hub that stops."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ecorelay import wire
from ecorelay.core.canary import CANARY_S
from tests.daemon.house import House, op_id, tcp_pair, unix_pair
from tests.daemon.test_run import start

__all__ = ["start"]

SOUND = wire.CanaryAnswer(id=1, ok=True, stage="session", says="there and back", took_ms=1)


@pytest.fixture(params=["memory", "unix", "tcp"])
def place(request: pytest.FixtureRequest, lived_in: House) -> House:
    match request.param:
        case "unix":
            lived_in.pair = unix_pair
        case "tcp":
            lived_in.pair = tcp_pair
    return lived_in


async def test_a_canary_flies_over_any_kind_of_connection(place: House):
    bob, asker = await place.enter("bob", canary=True), await place.enter("ann", role="observer")
    await asker.send(wire.Probe(req_id=1, peer="bob"))
    assert await bob.receive() == wire.Canary(id=1)
    await bob.send(SOUND)
    answer = await asker.receive()
    assert (answer.req_id, answer.ok, answer.stage, answer.peer) == (1, True, "session", "bob")


async def test_a_session_that_reads_and_says_nothing_is_told_of_in_time(
    lived_in: House, autojump_clock: MockClock
):
    bob, asker = await lived_in.enter("bob", canary=True), await lived_in.enter("ann", role="observer")
    began = trio.current_time()
    answer = await asker.request(wire.Probe(req_id=1, peer="bob"))
    assert (answer.ok, answer.stage, answer.took_ms) == (False, "hub", pytest.approx(5000, abs=50))
    assert trio.current_time() - began == pytest.approx(CANARY_S, abs=0.1)
    assert await bob.receive() == wire.Canary(id=1)


async def test_a_session_that_reads_nothing_at_all_is_told_of_in_time(
    lived_in: House, autojump_clock: MockClock
):
    lived_in.pair = unix_pair
    await lived_in.enter("bob", canary=True, push=True)
    asker = await lived_in.enter("ann")
    for number in range(10):  # its socket is full, and the canary waits behind them
        text = "x" * 50_000
        await asker.request(wire.Send(req_id=number, op_id=op_id(number), to="bob", text=text))
    answer = await asker.request(wire.Probe(req_id=99, peer="bob"))
    assert (answer.ok, answer.stage) == (False, "hub")


async def test_an_answer_that_is_no_frame_is_no_answer(lived_in: House, autojump_clock: MockClock):
    bob, asker = await lived_in.enter("bob", canary=True), await lived_in.enter("ann", role="observer")
    await asker.send(wire.Probe(req_id=1, peer="bob"))
    await bob.receive()
    for stage in (b'"moon"', b"7", b"null"):
        await bob.send_bytes(b'{"type":"canary_answer","id":1,"says":"","stage":%s}\n' % stage)
    await bob.send_bytes(b'{"type":"canary_answer","id":1,"stage":"hub","says":"%s"}\n' % (b"x" * 257))
    assert (await asker.receive()).says.endswith("did not answer within 5 s")


async def test_a_hub_that_stops_says_goodbye_to_who_waits_for_a_canary(start: Any):
    async with start() as hub:
        bob = await hub.enter("bob", canary=True)
        asker = await hub.enter("ann", role="observer")
        await asker.send(wire.Probe(req_id=1, peer="bob"))
        assert await bob.receive() == wire.Canary(id=1)
        os.kill(os.getpid(), signal.SIGTERM)
        bye, *more = await asker.receive_all()
        assert bye == wire.Bye(reason="the hub stops: SIGTERM")
        # Whose connection is closed first is not said.
        assert all((each.req_id, each.code) == (1, "peer_gone") for each in more)
        with trio.fail_after(10):
            await hub.ended.wait()
