"""Where proofs are computed: how many, how fast, and when their answers leave."""

from __future__ import annotations

import threading

import pytest
import trio

from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.workers import (
    ANSWER_S,
    BURST,
    PER_SECOND,
    STRANGERS_BURST,
    WAIT_MAX_S,
    Workers,
    leave_at_fixed_time,
)


async def test_ten_a_second_in_all_after_a_burst(autojump_clock) -> None:
    workers = Workers()
    began = trio.current_time()
    for _ in range(BURST + int(PER_SECOND)):
        await workers.take_turn(known=True)
    assert trio.current_time() - began == pytest.approx(1.0)


async def test_strangers_leave_turns_for_hubs_that_are_known(autojump_clock) -> None:
    workers = Workers()
    refused = 0
    async with trio.open_nursery() as nursery:

        async def stranger() -> None:
            nonlocal refused
            try:
                await workers.take_turn(known=False)
            except Refused:
                refused += 1

        for _ in range(500):
            nursery.start_soon(stranger)
        await trio.testing.wait_all_tasks_blocked()
        # However many strangers wait, a known hub gets its turn at once.
        with trio.fail_after(0.01):
            await workers.take_turn(known=True)
    assert refused > 400
    assert 500 - refused <= STRANGERS_BURST + WAIT_MAX_S * 6 + 1


async def test_who_would_wait_too_long_is_told_to_come_back(autojump_clock) -> None:
    workers = Workers()
    told = []

    async def known() -> None:
        try:
            await workers.take_turn(known=True)
        except Refused as refused:
            told.append((refused.reason, trio.current_time() - began))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(known)
    # At once: whoever waits in vain holds a place for nothing.
    assert set(told) == {(Reason.BUSY, 0.0)}
    assert abs(100 - len(told) - BURST - PER_SECOND * WAIT_MAX_S) <= 1


async def test_at_most_two_are_computed_at_once() -> None:
    workers = Workers()
    lock, now, most = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=10)

    def compute() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        both.wait()  # goes on only when two are there
        with lock:
            now -= 1

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(workers.run, compute)
    assert most == 2


async def test_what_computing_raises_comes_out() -> None:
    def refuse() -> None:
        raise Refused(Reason.GARBAGE, "no")

    with pytest.raises(Refused):
        await Workers().run(refuse)


@pytest.mark.parametrize(("took", "leaves"), [(0.0, 1), (0.001, 1), (0.0249, 1), (0.026, 2), (0.3, 12)])
async def test_an_answer_leaves_at_a_multiple_of_25_ms(autojump_clock, took, leaves) -> None:
    began = trio.current_time()
    await trio.sleep(took)
    await leave_at_fixed_time(began)
    assert trio.current_time() - began == pytest.approx(leaves * ANSWER_S)
