"""What goes wrong in a soak. Each fault breaks one thing, waits, and makes it whole again."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from ecorelay.errors import RelayError
from scripts.soak_lib import ledger as log
from scripts.soak_lib.judge import DISK_FULL

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from scripts.soak_lib.cables import Cable
    from scripts.soak_lib.peers import Peer
    from scripts.soak_lib.place import Hub, Place
    from scripts.soak_lib.talk import Talk

BYTES_PER_S: Final = 8_000.0
"""Of a slow cable."""


class Faults:
    """Breaks things.

    Args:
        place: what can be broken.
        talk: whose peers' adapters can be, and where it is written down.
        chance: decides.
        reload: has a hub read its bridge.json again.
    """

    def __init__(
        self, place: Place, talk: Talk, chance: random.Random, reload: Callable[[Hub], Awaitable[None]]
    ) -> None:
        self._place = place
        self._talk = talk
        self._chance = chance
        self._reload = reload
        self._count = 0
        self._busy: set[str] = set()
        """What is broken now, or being mended."""

    async def one(self, *, killing: bool) -> None:
        """One fault, from its beginning to its end; with `killing` hubs and the relay server may end."""
        table = [*_LASTING, *(_ENDING if killing else [])]
        [(do, _)] = self._chance.choices(table, [weight for _, weight in table])
        await do(self)

    def _s(self, least: float, most: float) -> float:
        return self._chance.uniform(least, most)

    async def _broken(
        self,
        kind: str,
        target: str,
        hubs: tuple[str, ...],
        hurt: Callable[[], object],
        heal: Callable[[], Awaitable[object] | None],
        seconds: float,
        *,
        links: bool = True,
    ) -> None:
        """`hurt`, wait, `heal`; nothing if that target is broken already."""
        if target in self._busy:
            return
        self._busy.add(target)
        self._count += 1
        number = self._count
        try:
            hurt()
            self._talk.note(log.Fault(log.now(), number, kind, target, True, hubs))
            await trio.sleep(seconds)
        finally:
            with trio.CancelScope(shield=True):
                healing = heal()
                if healing is not None:
                    await healing
            self._busy.discard(target)
        self._talk.note(log.Fault(log.now(), number, kind, target, False, hubs))
        if links:
            self._talk.links_after(number, kind)

    # --- hubs --------------------------------------------------------------------------------------------

    def _hub(self) -> Hub:
        return self._chance.choice([*self._place.hubs.values()])

    async def _started(self, hub: Hub) -> None:
        if not hub.on_demand and not hub.runs():
            hub.launch()
        await hub.ready()

    async def _kill_hub(self, number: signal.Signals = signal.SIGKILL, kind: str = "hub killed") -> None:
        hub = self._hub()
        if hub.on_demand:
            kind += ", started on demand"

        def hurt() -> None:
            hub.signal(number)

        async def heal() -> None:
            with trio.move_on_after(20):
                pid = hub.pid
                while number == signal.SIGTERM and hub.runs() and hub.pid == pid:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            await self._started(hub)

        # One that is asked to leave may take its time; one that is killed is away for a moment.
        await self._broken(kind, hub.name, (hub.hub_id,), hurt, heal, self._s(0, 2))

    async def _end_hub(self) -> None:
        await self._kill_hub(signal.SIGTERM, "hub ended in order")

    async def _kill_all(self) -> None:
        hubs = [*self._place.hubs.values()]
        if self._busy & {hub.name for hub in hubs}:
            return

        def hurt() -> None:
            for hub in hubs:
                hub.signal(signal.SIGKILL)

        async def heal() -> None:
            for hub in hubs:
                await self._started(hub)

        self._busy |= {hub.name for hub in hubs}
        try:
            await self._broken("all hubs killed", "all", tuple(self._place.hubs), hurt, heal, self._s(0, 2))
        finally:
            self._busy -= {hub.name for hub in hubs}

    async def _stop_hub(self) -> None:
        hub = self._hub()
        pid = hub.pid

        def heal() -> None:
            _signal(pid, signal.SIGCONT)

        long = self._s(8, 14) if self._chance.random() < 0.2 else self._s(0.3, 5)
        await self._broken(
            "hub stopped", hub.name, (hub.hub_id,), lambda: hub.signal(signal.SIGSTOP), heal, long
        )

    async def _disk_full(self) -> None:
        hub = self._hub()
        await self._limited(DISK_FULL, hub, resource.RLIMIT_FSIZE, 1, self._s(0.5, 4))

    async def _no_descriptors(self) -> None:
        hub = self._hub()
        with suppress(OSError, ValueError):  # it ends just now
            used = max(map(int, os.listdir(f"/proc/{hub.pid}/fd"))) + 1
            await self._limited("no descriptors left", hub, resource.RLIMIT_NOFILE, used, self._s(0.5, 4))

    async def _limited(self, kind: str, hub: Hub, what: int, limit: int, seconds: float) -> None:
        pid = hub.pid
        if not pid:
            return
        try:
            before = resource.prlimit(pid, what)
        except ProcessLookupError:  # it ends just now
            return

        def hurt() -> None:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, what, (limit, before[1]))

        def heal() -> None:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, what, before)

        await self._broken(kind, hub.name, (hub.hub_id,), hurt, heal, seconds, links=False)

    async def _reload_hub(self) -> None:
        hub = self._hub()

        async def heal() -> None:
            peers = list(hub.config["peers"])
            self._chance.shuffle(peers)
            hub.write(peers=peers)
            if self._chance.random() < 0.5:
                hub.signal(signal.SIGHUP)
            else:
                with suppress(RelayError):
                    await self._reload(hub)

        await self._broken("hub reload", hub.name, (hub.hub_id,), lambda: None, heal, 0)

    # --- the relay server --------------------------------------------------------------------------------

    async def _kill_relay(self) -> None:
        relay = self._place.relay
        number = self._chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))

        async def heal() -> None:
            with trio.move_on_after(10):
                await relay.gone()
            if not relay.runs():
                relay.launch()
            await relay.ready()

        await self._broken(
            "relay killed",
            relay.name,
            tuple(self._place.hubs),
            lambda: relay.signal(number),
            heal,
            self._s(0, 3),
        )

    async def _stop_relay(self) -> None:
        relay = self._place.relay

        def heal() -> None:
            relay.signal(signal.SIGCONT)

        await self._broken(
            "relay stopped", relay.name, tuple(self._place.hubs),
            lambda: relay.signal(signal.SIGSTOP), heal, self._s(0.5, 9),
        )  # fmt: skip

    # --- cables ------------------------------------------------------------------------------------------

    async def _cable(self, kind: str, hurt: Callable[[Cable], object], seconds: float) -> None:
        cable = self._chance.choice(self._place.cables)
        await self._broken(kind, cable.name, cable.hubs, lambda: hurt(cable), lambda: cable.heal(), seconds)

    async def _cut(self) -> None:
        await self._cable("cable cut", lambda cable: cable.cut(), self._s(0, 4))

    async def _half_open(self) -> None:
        await self._cable("half-open both ways", lambda cable: cable.freeze(), self._s(1, 14))

    async def _one_way(self) -> None:
        way = self._chance.choice((0, 1))
        await self._cable("half-open one way", lambda cable: cable.freeze(way), self._s(1, 14))

    async def _slow(self) -> None:
        await self._cable("slow cable", lambda cable: cable.slow(BYTES_PER_S), self._s(3, 10))

    # --- adapters and sessions ---------------------------------------------------------------------------

    def _adapter(self) -> Peer | None:
        running = [peer for peer in self._talk.peers if peer.adapter is not None]
        return self._chance.choice(running) if running else None

    async def _hit_adapter(self, kind: str, number: signal.Signals, seconds: float) -> None:
        peer = self._adapter()
        if peer is None or (process := peer.adapter) is None:
            return

        def heal() -> None:
            _signal(process.pid, signal.SIGCONT)

        await self._broken(
            kind, f"p{peer.key:02}", (), lambda: _signal(process.pid, number), heal, seconds, links=False
        )

    async def _kill_adapter(self) -> None:
        await self._hit_adapter("adapter killed", signal.SIGKILL, 0)

    async def _stop_adapter(self) -> None:
        await self._hit_adapter("adapter stopped", signal.SIGSTOP, self._s(0.5, 8))


def _signal(pid: int, number: signal.Signals) -> None:
    if pid:  # 0 would be all of us
        with suppress(ProcessLookupError):
            os.kill(pid, number)


_LASTING: Final = (
    (Faults._stop_hub, 2.0),
    (Faults._disk_full, 1.5),
    (Faults._no_descriptors, 0.5),
    (Faults._reload_hub, 1.0),
    (Faults._stop_relay, 1.0),
    (Faults._cut, 2.0),
    (Faults._half_open, 1.5),
    (Faults._one_way, 1.5),
    (Faults._slow, 1.0),
    (Faults._kill_adapter, 2.0),
    (Faults._stop_adapter, 1.0),
)
_ENDING: Final = (
    (Faults._kill_hub, 4.0),
    (Faults._end_hub, 1.0),
    (Faults._kill_all, 0.5),
    (Faults._kill_relay, 1.5),
)
