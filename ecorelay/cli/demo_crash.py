"""The scene of `ecorelay demo` in which the hub is killed."""

from __future__ import annotations

from typing import Final

import trio

from ecorelay.cli.demo_mcp import Assistant, ToolFailed
from ecorelay.cli.demo_stage import Stage

BURST: Final = 120
"""Messages sent while the hub is killed."""
KILL_AFTER: Final = 30
"""Acknowledged messages after which it is."""
SENDERS: Final = 6


async def crash(stage: Stage, front: Assistant, back: Assistant) -> None:
    """`front` sends to `back` while the hub is killed; everything is counted afterwards.

    Raises:
        CheckFailed: something is lost, doubled or noticed.
    """
    tell = stage.narrator
    tell.scene(f"The hub is killed while {BURST} messages are on their way")
    acknowledged: list[str] = []
    refused: list[str] = []
    waiting = list(range(BURST, 0, -1))
    enough = trio.Event()

    async def send() -> None:
        while waiting:
            number = waiting.pop()
            try:
                sent = await front.call("relay_send", to=back.name, text=f"change {number} of {BURST}")
            except ToolFailed as error:
                refused.append(str(error))
            else:
                acknowledged.append(sent["msg_id"])
            if len(acknowledged) + len(refused) >= KILL_AFTER:
                enough.set()

    tell.act(front.name, f"calls relay_send {BURST} times, {SENDERS} calls at once")
    async with trio.open_nursery() as nursery:
        for _ in range(SENDERS):
            nursery.start_soon(send)
        await enough.wait()
        before = len(acknowledged)
        killed = stage.kill_hub()
        began = trio.current_time()
        tell.act(
            "SIGKILL", f"ends the hub (pid {killed.pid}) after {before} were acknowledged: no time to tidy up"
        )
        hub = await stage.hub_after(killed)
        gap = trio.current_time() - began
        tell.back(f"the adapters started another (pid {hub.pid}), listening {gap:.1f} s later, and went on")
    tell.back(f"acknowledged in the end: {len(acknowledged)} of {BURST}")
    if refused:
        tell.back(f"refused: {refused[0]}")
    tell.act(back.name, "relay_inbox() until it is empty")
    mails = await back.read_all(BURST)
    ids = [mail["msg_id"] for mail in mails]
    texts = {mail["text"] for mail in mails}
    tell.back(f"read: {len(ids)} messages, {len(texts)} of them different")
    tell.check(len(acknowledged) == BURST, "every call was answered with success", f"{len(acknowledged)}")
    lost = len(set(acknowledged) - set(ids))
    tell.check(
        lost == 0, f"nothing is lost: all {len(acknowledged)} acknowledged messages are there", f"{lost} lost"
    )
    tell.check(
        len(ids) == len(texts) == BURST,
        "nothing is there twice, though the adapter repeated what it had no answer to",
        f"{len(ids)} messages, {len(texts)} texts",
    )
    names = ((await front.call("relay_peers"))["me"], (await back.call("relay_peers"))["me"])
    same = front.process.returncode is None and back.process.returncode is None
    tell.check(
        same and names == (front.name, back.name),
        "neither assistant noticed: same processes, same names, no error seen",
        f"{names}",
    )
