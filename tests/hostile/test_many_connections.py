"""Connections by the hundred: they cost little, are closed in time, and leave nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from ecorelay import wire
from tests.e2e.stage import POLL_S, Machine
from tests.hostile.siege import Raw, Siege, hello, needs_proc, siege

MANY = 500
HALF_A_HELLO = wire.encode(hello("eve"))[:30]


@asynccontextmanager
async def connections(attack: Siege, count: int = MANY) -> AsyncIterator[list[Raw]]:
    """So many connections that said nothing yet."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(attack.connection()) for _ in range(count)]


async def settled(attack: Siege, files: int) -> None:
    """Wait until the hub has no more descriptors open than before."""
    with trio.fail_after(20):
        while attack.files() > files:  # noqa: ASYNC110 - the hub is another process
            await trio.sleep(POLL_S)


@needs_proc
@pytest.mark.guarantee("hello-in-5s")
async def test_500_connections_that_never_finish_their_hello_are_closed_and_counted(shared: Machine):
    async with siege(shared) as attack:
        files = attack.files()
        async with attack.bounded(), connections(attack) as silent, connections(attack, 50) as stammering:
            for raw in stammering:
                await raw.say(HALF_A_HELLO)
            async with trio.open_nursery() as nursery:
                for raw in (*silent, *stammering):
                    nursery.start_soon(raw.gone)
        await attack.counted("closed hello_timeout", MANY + 50)
        await settled(attack, files)


@needs_proc
async def test_500_sessions_that_say_nothing_after_hello_stay_and_cost_little(shared: Machine):
    async with siege(shared) as attack:
        files = attack.files()
        async with attack.bounded(), connections(attack) as raws:
            for raw in raws:
                await raw.say(hello(attack.name("quiet")))
            for raw in raws:
                assert isinstance(await raw.hear(), wire.Welcome)
            # All of them are live sessions.
            for raw in raws:
                assert isinstance(await raw.ask(wire.Rooms(req_id=1)), wire.RoomList)
        await attack.counted("closed eof", MANY)
        await settled(attack, files)


@needs_proc
async def test_500_sessions_that_come_at_once_are_all_served(shared: Machine):
    async with siege(shared) as attack:
        async with attack.bounded(), trio.open_nursery() as nursery:

            async def work() -> None:
                name = attack.name("busy")
                async with attack.session(name) as raw:
                    sent = await raw.ask(wire.Join(req_id=2, room=name))
                    assert sent.members == (name,)

            for _ in range(MANY):
                nursery.start_soon(work)
        await attack.counted("closed eof", MANY)


@needs_proc
async def test_2_000_connections_opened_and_closed_at_once_leave_no_descriptor(either: Machine):
    async with siege(either) as attack:
        files = attack.files()
        async with attack.bounded():
            for number in range(2_000):
                async with attack.connection() as raw:
                    if number % 4 == 1:
                        await raw.say(HALF_A_HELLO)
                    elif number % 4 == 2:
                        await raw.say(b"\xff\n")
                    elif number % 4 == 3:
                        await raw.say(hello(attack.name("brief") if number % 8 == 3 else None))
        await settled(attack, files)
        # Over TCP nobody gets as far as hello.
        await attack.counted("closed auth_failed" if attack.over_tcp else "closed bad_hello")


async def test_a_newcomer_is_welcomed_while_more_connections_are_silent_than_may_be(shared: Machine):
    async with siege(shared) as attack, connections(attack, 1_100):
        async with attack.session(attack.name("late")) as late:
            assert isinstance(await late.ask(wire.Rooms(req_id=1)), wire.RoomList)
        await attack.counted("closed crowded_out")
