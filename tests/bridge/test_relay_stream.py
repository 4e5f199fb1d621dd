"""A stream over a relay keeps Trio's word for streams, and TLS and the handshake run over it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ecorelay.relay_wire import CREDIT
from ecorelay_bridge.relay_stream import WAITING_MAX, RelayStream, below
from ecorelay_bridge.relay_streams import End, Streams
from tests.bridge.hubs import introducer, password

THERE = b"t" * 32


class Both:
    """Two ends of one relay, with what is on its way carried by a task."""

    def __init__(self) -> None:
        self._wakes = [trio.Event(), trio.Event()]
        self.held = False
        self.ends = [
            Streams(trio.current_time, lambda: self._wakes[0].set()),
            Streams(trio.current_time, lambda: self._wakes[1].set()),
        ]

    async def carry(self, end: int) -> None:
        while True:
            while not self.held and (message := self.ends[end].next()) is not None:
                await trio.lowlevel.checkpoint()
                flow = self.ends[1 - end].take(message)
                if flow is not None:
                    self.opened = RelayStream(flow)
                    self.opened.trust()
            self._wakes[end] = trio.Event()
            await self._wakes[end].wait()

    async def pair(self) -> tuple[RelayStream, RelayStream]:
        flow = self.ends[0].open(THERE)
        assert flow is not None
        near = RelayStream(flow)
        await trio.testing.wait_all_tasks_blocked()
        return near, self.opened


@asynccontextmanager
async def both() -> AsyncIterator[Both]:
    ends = Both()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.carry, 0)
        nursery.start_soon(ends.carry, 1)
        yield ends
        nursery.cancel_scope.cancel()


async def clogged(ends: Both) -> tuple[RelayStream, RelayStream]:
    near, far = await ends.pair()
    with trio.move_on_after(0.1):
        await near.send_all(b"x" * (CREDIT + WAITING_MAX + 1))
    return near, far


async def test_it_is_a_stream_as_trio_defines_them() -> None:
    async with both() as ends:
        await trio.testing.check_two_way_stream(ends.pair, None)


async def test_a_sender_waits_for_a_reader_that_does_not_read() -> None:
    async with both() as ends:
        near, far = await clogged(ends)
        waits = trio.Event()

        async def wait() -> None:
            await near.wait_send_all_might_not_block()
            waits.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not waits.is_set()
            got = 0
            while got <= CREDIT:
                got += len(await far.receive_some(65536))
            with trio.fail_after(2):
                await waits.wait()


async def test_closing_says_the_last_words_and_a_reader_that_does_not_read_delays_it_by_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with both() as ends:
        near, far = await ends.pair()
        await near.send_all(b"last words")
        await near.aclose()
        assert await far.receive_some() == b"last words"
        assert await far.receive_some() == b""
        near, far = await clogged(ends)
        began = trio.current_time()
        await near.aclose()
        assert trio.current_time() - began == pytest.approx(1.0)
        got = 0
        while data := await far.receive_some():
            got += len(data)
        assert got == CREDIT
        near, far = await clogged(ends)
        began = trio.current_time()
        await trio.aclose_forcefully(near)
        assert trio.current_time() == began
        assert near.end is None
        await trio.testing.wait_all_tasks_blocked()
        assert near.end is End.DONE


async def test_what_the_relay_says_of_the_end_breaks_both_directions() -> None:
    async with both() as ends:
        near, far = await ends.pair()
        await far.send_all(b"before")
        await trio.testing.wait_all_tasks_blocked()
        ends.ends[0].left(THERE)
        assert near.why() == "the other hub left the relay"
        assert await near.receive_some() == b"before"
        for what in (near.receive_some, lambda: near.send_all(b"x"), near.wait_send_all_might_not_block):
            with pytest.raises(trio.BrokenResourceError):
                await what()
        await near.aclose()
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()


async def test_somebody_who_waits_is_told_that_it_ended() -> None:
    async with both() as ends:
        near, _ = await ends.pair()
        full, _ = await clogged(ends)

        async def breaks(what) -> None:
            with pytest.raises(trio.BrokenResourceError):
                await what()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks, near.receive_some)
            nursery.start_soon(breaks, full.wait_send_all_might_not_block)
            await trio.testing.wait_all_tasks_blocked()
            ends.ends[0].lost()


async def test_the_handshake_and_a_megabyte_each_way_run_over_it() -> None:
    async with both() as ends:
        near, far = await ends.pair()
        found = {}

        async def dial() -> None:
            found["near"] = await introducer("alpha").dial(near, "beta", password())

        async def accept() -> None:
            found["far"] = await introducer("beta").accept(far)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            nursery.start_soon(accept)
        one, other = found["near"][0], found["far"][0]
        assert below(one) is near
        assert below(near) is None
        data = random.Random(7).randbytes(1_000_000)

        async def pour(to: trio.SSLStream) -> None:
            at = 0
            while at < len(data):
                size = random.choice([1, 200, 70_000])
                await to.send_all(data[at : at + size])
                at += size

        async def drink(of: trio.SSLStream) -> None:
            got = bytearray()
            while len(got) < len(data):
                got += await of.receive_some(65536)
            assert got == data

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for end in (one, other):
                    nursery.start_soon(pour, end)
                    nursery.start_soon(drink, end)
