"""A hub while it runs: the nursery tree, and the order in which it is taken down.

The outer nursery holds what the hub needs to the last (signals, the ticker, deliveries of the store);
the inner one, cancelled first, everything with a socket.
"""

from __future__ import annotations

import math
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from ecorelay.daemon.clock import SystemClock
from ecorelay.daemon.federation import Federation
from ecorelay.daemon.guard import contain
from ecorelay.daemon.listen import Door
from ecorelay.daemon.log import log
from ecorelay.daemon.perform import Facts, Shell
from ecorelay.daemon.reasons import Tally
from ecorelay.daemon.sessions import Sessions
from ecorelay.daemon.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from ecorelay.config import Config
    from ecorelay.core.events import Stored, StoreFailed
    from ecorelay.daemon.place import Place
    from ecorelay.daemon.ports import Core
    from ecorelay.daemon.store import Storage
    from ecorelay.paths import Paths

SETTLE_S = 1.0
"""Seconds for the store to answer what was asked before the end."""
BYE_S = 2.0
"""Seconds for goodbyes to leave."""
ENDING_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
]
SIGNALS = [*ENDING_SIGNALS, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
"""SIGHUP: bridge.json is to be read again."""
FILES_EVERY_S = 5.0
"""How often it is checked that clients still find us."""


class Stopper:
    """The wish that the hub ends; the first reason counts, a second wish is a hurry."""

    def __init__(self) -> None:
        self.reason = ""
        self.wanted = trio.Event()
        self.hurry = trio.CancelScope()
        """Around goodbyes."""

    def stop(self, reason: str) -> None:
        """End the hub. Again: without waiting for anybody."""
        if self.reason:
            self.hurry.cancel()
            return
        self.reason = reason
        self.wanted.set()


async def run_hub(
    *,
    core: Core,
    store: Storage,
    place: Place,
    paths: Paths,
    config: Config,
    facts: Callable[..., Facts],
    listening: Callable[[], object],
) -> str:
    """Serve until something ends the hub.

    Resource handling: closes the listening socket of `place`; the store is left to the caller.

    Args:
        core: decides.
        store: opened, not started.
        place: where to take connections.
        paths: of the data directory, which may hold a bridge.json.
        config: limits, idle exit.
        facts: makes them, given `started`.
        listening: called once connections are taken.

    Returns:
        Why it ended.
    """
    stopper = Stopper()
    tally = Tally()
    shell = Shell(
        core=core,
        store=store,
        clock=SystemClock(),
        facts=facts(started=trio.current_time()),
        tally=tally,
        stop=stopper.stop,
    )
    sessions = Sessions(shell, config.limits, token=place.endpoint.token)
    federation = Federation(paths, place.endpoint.hub_id, shell, room=sessions.wait_room)
    ticker = Ticker(
        shell,
        idle_exit_s=math.inf if config.keep_alive else config.idle_exit_s,
        busy=lambda: sessions.silent > 0 or federation.active,
        leave=lambda: stopper.stop("nobody needs it"),
    )
    door = Door(place.sock, sessions.serve, tally)
    store.start(partial(_deliver, trio.lowlevel.current_trio_token(), shell))
    with trio.open_signal_receiver(*SIGNALS) as signals:
        # The kernel keeps who connects from here on until connections are taken.
        place.announce()
        listening()
        async with trio.open_nursery() as hub:
            hub.start_soon(_watch_signals, signals, stopper, federation)
            hub.start_soon(ticker.run)
            hub.start_soon(_watch_place, place, door, stopper)
            async with trio.open_nursery() as edge:
                edge.start_soon(door.run, edge)
                edge.start_soon(federation.run)
                await stopper.wanted.wait()
                log("stopping", reason=stopper.reason)
                door.close()
                with stopper.hurry:
                    await _say_goodbye(shell, sessions, stopper.reason)
                edge.cancel_scope.cancel()
            hub.cancel_scope.cancel()
    return stopper.reason


def _deliver(token: trio.lowlevel.TrioToken, shell: Shell, events: Sequence[Stored | StoreFailed]) -> None:
    """On the store's thread, once per commit. A raise inside Trio's queue would end the whole run."""
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(contain, partial(shell.deliver, events), "store")


async def _say_goodbye(shell: Shell, sessions: Sessions, reason: str) -> None:
    sessions.closing = True
    with trio.move_on_after(SETTLE_S):
        await shell.settled()
    with trio.move_on_after(BYE_S):
        await sessions.say_bye(f"the hub stops: {reason}")


async def _watch_signals(signals: AsyncIterator[int], stopper: Stopper, federation: Federation) -> None:
    async for number in signals:
        if number not in ENDING_SIGNALS:
            federation.reload()
            continue
        stopper.stop(signal.Signals(number).name)


async def _watch_place(place: Place, door: Door, stopper: Stopper) -> None:
    while True:
        await trio.sleep(FILES_EVERY_S)
        if reason := place.lost():
            stopper.stop(reason)
            return
        door.move(place.sock)
