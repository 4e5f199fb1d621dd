"""Who stops in the middle is not waited for, and keeps no place that others need."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel

from ecorelay import wire
from ecorelay.daemon.lines import LINE_S, LONG_LINES
from tests.e2e.stage import Machine
from tests.hostile.siege import CANARY, send, siege

LONG = wire.encode(send("nobody", CANARY + "x" * 300_000))


@pytest.mark.slow
@pytest.mark.guarantee("queues-bounded")
async def test_half_a_frame_and_silence_is_closed_as_stalled_long_or_short(shared: Machine):
    """Takes as long as the hub's patience; all kinds of it at once."""
    async with siege(shared) as attack, trio.open_nursery() as nursery:

        async def stop(data: bytes) -> None:
            async with attack.session(attack.name("mallory")) as mallory:
                await mallory.say(data)
                await mallory.gone()

        async def trickle() -> None:
            async with attack.session(attack.name("mallory")) as mallory:
                await mallory.say(LONG[:-1000])
                with trio.fail_after(4 * LINE_S), pytest.raises(trio.BrokenResourceError):
                    while True:
                        await mallory.stream.send_all(b"x")
                        await trio.sleep(LINE_S / 10)

        async def wait_for_them() -> None:
            # All places for long lines are taken; who has a whole one gets through in the end.
            await trio.sleep(LINE_S / 10)
            async with attack.session(attack.name("patient")) as patient:
                answer = await patient.ask(send("nobody", "x" * 300_000))
                assert (type(answer), answer.code) == (wire.Failed, "peer_not_found")

        await trio.lowlevel.checkpoint()
        nursery.start_soon(stop, LONG[:30])
        nursery.start_soon(trickle)
        for _ in range(LONG_LINES - 1):
            nursery.start_soon(stop, LONG[:-1])
        nursery.start_soon(wait_for_them)
    async with siege(shared) as attack:
        assert (await attack.counters())["closed stalled"] == LONG_LINES + 1
