"""A bound on bytes, in the order in which room was asked for."""

from __future__ import annotations

import trio
import trio.testing

from ecorelay.bytegate import ByteGate


async def test_room_is_given_in_order_and_something_too_large_passes_alone():
    gate = ByteGate(10)
    order: list[str] = []

    async def take(name: str, size: int) -> None:
        await gate.take(size)
        order.append(name)

    async with trio.open_nursery() as nursery:
        await gate.take(6)
        for name, size in [("too large", 50), ("small", 1), ("fits", 9)]:
            nursery.start_soon(take, name, size)
            await trio.testing.wait_all_tasks_blocked()
        assert order == []
        gate.give(6)
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["too large"]
        gate.give(50)
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["too large", "small", "fits"]
        assert gate.taken == 10


async def test_who_is_cancelled_while_waiting_takes_nothing_and_lets_the_next_one_pass():
    gate = ByteGate(10)
    await gate.take(10)
    scope = trio.CancelScope()

    async def wait() -> None:
        with scope:
            await gate.take(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(gate.take, 3)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert gate.taken == 10
        gate.give(10)
    assert gate.taken == 3


async def test_room_that_is_there_is_taken_without_a_checkpoint():
    gate = ByteGate(10)
    with trio.testing.assert_no_checkpoints():
        await gate.take(5)
