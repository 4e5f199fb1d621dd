"""One run: some machines with hubs, a relay, adapters; a history of steps; and what is looked at in between.

A history is a list of steps, each with a number from which everything about it is decided, so that any part
of a history is a history too: a failing one is cut down (`shrink`). All else that is random comes from the
seed of the run. The same seed and steps are the same run, to the byte and the microsecond.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from ecorelay import wire
from ecorelay.daemon import store_upkeep
from ecorelay.daemon.store_upkeep import CALM_MS, DAY_MS
from ecorelay.limits import Limits
from tests.sim import checks, rest
from tests.sim.adapter import Adapter
from tests.sim.disk import Events
from tests.sim.ledger import Ledger, Wrong
from tests.sim.machine import Machine
from tests.sim.net import Network
from tests.sim.relay import SimRelay
from tests.sim.steps import Step, Steps

BEGIN_S = 1_000.0
"""Trio's clock at the beginning: 0 means "never" in places."""
NAMES = ("ann", "bob", "cat", "dan")


class World:
    """See the module.

    Args:
        root: for the databases.
        seed: of all that the steps do not decide.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.seed = seed
        self.chance = random.Random(seed)
        self.log: list[str] = []
        """For who reads the history."""
        self.ledger = Ledger()
        self.machines: dict[str, Machine] = {}
        self.adapters: list[Adapter] = []
        self.wrong: list[BaseException] = []
        self.ended = trio.Event()
        self._hash = hashlib.blake2b(digest_size=12)
        self._numbers = 100
        self.nursery: trio.Nursery
        self.relay: SimRelay | None = None

    @property
    def trace(self) -> str:
        """Of everything that was written anywhere, and when."""
        return self._hash.hexdigest()

    # --- what happens ----------------------------------------------------------------------------------

    async def run(self, steps: Sequence[Step]) -> None:
        """Do these steps, let everything come to rest, look at what is left, and end it all.

        Raises:
            Wrong: something is not as was promised.
        """
        with trio.CancelScope() as scope:
            self._scope = scope
            async with trio.open_nursery() as self.nursery:
                self.build()
                await self._play(steps)
        if self.wrong:
            raise self.wrong[0]

    async def _play(self, steps: Sequence[Step]) -> None:
        act = Steps(self)
        for number, step in enumerate(steps):
            self.log.append(f"{trio.current_time() - BEGIN_S:9.3f} {number}: {step[0]}")
            await act.do(step)
            self.look()
        self.log.append(f"{trio.current_time() - BEGIN_S:9.3f} the end")
        await rest.come_to_rest(self)
        self.look()
        checks.final(self)
        await rest.end_all(self)

    def build(self) -> None:
        """Machines, with nobody at them."""
        choice = self.chance
        self.network = Network(choice, self._note)
        count = choice.choice((1, 2, 2, 2, 3, 3))
        relayed = count > 1 and choice.random() < 0.5
        small = choice.random() < 0.25
        limits = Limits(
            mailbox_messages=choice.choice((6, 12)) if small else 500,
            outbox_messages=choice.choice((5, 12)) if small else 10_000,
            outbox_days=choice.choice((30.0,) * 5 + (0.03,)),
            push_window_messages=5,
            room_backlog_bytes=2_000,
            lease_s=choice.choice((3.0, 30.0)),
            sends_per_minute=0,
            broadcasts_per_hour=0,
            receipts_days=1e4,
            op_ids_hours=1e5,
        )
        # What expires within an hour would never do so where nothing does for an hour after each leap.
        vars(store_upkeep)["CALM_MS"] = CALM_MS if limits.outbox_days > 1 else 0
        # On a disk that is full they would go an hour after, that is with a leap of the clock.
        vars(store_upkeep)["PRESSED_KEEPS_MS"] = int(limits.receipts_days * DAY_MS)
        hub_ids = [f"h{number}" for number in range(count)]
        for hub_id in hub_ids:
            others = tuple(each for each in hub_ids if each != hub_id)
            self.machines[hub_id] = Machine(
                hub_id,
                self.root / hub_id,
                self.network,
                others,
                relayed,
                choice.getrandbits(64),
                limits,
                self,
            )
        if relayed:
            self.relay = SimRelay(self.network)
            self.nursery.start_soon(self.relay.run)
        for number, one in enumerate(hub_ids):
            for other in hub_ids[number + 1 :]:
                # Firewalls: one can be dialed by the other, or they can only meet at the relay.
                walls = choice.choice((0, 0, 1, 2, 3 if relayed else 0))
                self.network.way(one, other).walled = bool(walls & 1)
                self.network.way(other, one).walled = bool(walls & 2)
        for machine in self.machines.values():
            machine.start(self.nursery)

    def say(self, text: str) -> None:
        """For who reads the history."""
        self.log[-1] += f" {text};"

    # --- adapters --------------------------------------------------------------------------------------

    def open(
        self,
        machine: Machine,
        name: str,
        *,
        push: bool,
        old: Adapter | None = None,
        beside: bool = False,
    ) -> Adapter:
        """A new process; `old`: it stands for the same session of an assistant. `beside`: see `Adapter`."""
        self._numbers += 1
        adapter = Adapter(
            self.network,
            machine,
            name,
            self._numbers,
            push,
            self.ledger,
            self.chance.getrandbits(64),
            beside,
        )
        if old is not None:
            adapter.identity = old.identity
        self.adapters.append(adapter)
        self.nursery.start_soon(self._live, adapter)
        return adapter

    async def _live(self, adapter: Adapter) -> None:
        try:
            await adapter.run()
        except Exception as error:
            self.fail(error)
        except BaseExceptionGroup as group:
            found, rest_ = group.split(Exception)
            if found is not None:
                self.fail(_first(found))
            if rest_ is not None:
                raise rest_ from None

    def fail(self, error: BaseException) -> None:
        """Something is wrong: the run ends."""
        self.wrong.append(error)
        self._scope.cancel()

    # --- what is looked at -----------------------------------------------------------------------------

    def _note(self, way: str, data: bytes) -> None:
        now = trio.current_time()
        start, _, end = way.partition(">")
        # What is masked and signed on the way to a relay differs from run to run; its size does not.
        secret = "relay" in (start, end)
        self._hash.update(f"{now:.9f} {way} {len(data)}\n".encode())
        if not secret:
            self._hash.update(data)
        machine = self.machines.get(start.partition("/")[0])
        if machine is not None and machine.fuse and start in (machine.hub_id, machine.door):
            machine.point("after it wrote")

    def stored(self, hub: str, events: Events) -> None:
        """See `tests.sim.machine.Hearing`."""
        self._hash.update(f"{trio.current_time():.9f} {hub} {len(events)}\n".encode())
        with self._minded():
            self.ledger.stored(hub, events)
            checks.cursors(self, self.machines[hub], events)

    def showing(self, hub: str, peer_id: str, msg_id: str) -> None:
        """See `Hearing`."""
        with self._minded():
            self.ledger.showing(hub, peer_id, msg_id)

    def showing_in_order(self, hub: str, msg_ids: Sequence[str]) -> None:
        """See `Hearing`."""
        with self._minded():
            self.ledger.showing_in_order(hub, msg_ids)

    def showing_lines(self, hub: str, peer_id: str, page: wire.GroupPage) -> None:
        """See `Hearing`."""
        with self._minded():
            self.ledger.showing_lines(hub, peer_id, page)

    @contextmanager
    def _minded(self) -> Iterator[None]:
        """What is found to be wrong in here is not for the hub to catch."""
        try:
            yield
        except Wrong as error:
            self.fail(error)

    def look(self) -> None:
        """After every step."""
        for machine in self.machines.values():
            if machine.running is not None:
                checks.look(self, machine)

    def crashed(self, record: logging.LogRecord) -> None:
        """A bug was caught by the guard of the product."""
        fields: Any = getattr(record, "fields", {})
        stack = fields.get("stack", ())
        where = stack[-2:] if stack else record.getMessage()
        self.fail(Wrong(f"a crash in {fields.get('where')}: {where}"))


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
