"""Hubs on several machines: real cores on real databases, with a network and a disk in the test's hand.

Nothing here has a clock, threads or sockets. What one hub says to another is encoded and decoded: only
what is on the wire crosses. Links are made and cut by the test; frames cross at once, unless it holds them.
"""

from __future__ import annotations

import itertools
from collections import deque
from pathlib import Path
from typing import Any

from ecorelay import link_wire, names, wire
from ecorelay.core.actions import CheckProcess, CloseLink, CloseSession, Describe, Push, Reply, Store, ToLink
from ecorelay.core.events import (
    Event,
    HubsConfigured,
    LinkFrame,
    LinkLost,
    LinkUp,
    ProcessChecked,
    SessionClosed,
    SessionOpened,
    StoreFailed,
    Tick,
)
from ecorelay.core.hub import Hub
from ecorelay.daemon.store import InlineStore
from ecorelay.limits import Limits
from tests.core.helpers import VERSION, Client, Clock, hello

_numbers = itertools.count(1)
_ids = itertools.count(1)


def new_id(wall: int) -> str:
    """An id nobody else has."""
    return names.new_id(wall, lambda _: next(_ids))


class Machine:
    """One hub with its database, and the sessions on it.

    Args:
        land: that it is in.
        hub_id: its name.
        home: where its database lies.
        limits: fields of `Limits` that differ from the defaults.
    """

    def __init__(self, land: Land, hub_id: str, home: Path, **limits: Any) -> None:
        self.land = land
        self.hub_id = hub_id
        self.home = home
        self.limits = Limits(**limits)
        self.clock = land.clock
        self.clients: dict[int, Client] = {}
        self.links: dict[int, Wire] = {}
        self.refuses: str = ""
        """Why the disk takes nothing; empty: it does."""
        self.held = False
        """Units stay in the store until the test commits them."""
        self._sids = itertools.count(1)
        self.start()

    # --- running -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin from what is on disk."""
        self.events: deque[Event] = deque()
        self.home.mkdir(exist_ok=True)
        self.store = InlineStore.open(self.home, self.limits, "process", self.clock.wall)
        self.store.start(self.events.extend)
        self.hub = Hub(
            hub_id=self.hub_id,
            version=VERSION,
            new_id=new_id,
            limits=self.limits,
            snapshot=self.store.snapshot(),
        )
        self.running = True

    def kill(self) -> None:
        """As by SIGKILL: what is not committed is gone, connections are cut."""
        self.store.crash()
        self._end()

    def stop(self) -> None:
        """In good order."""
        self.land.settle()
        self.store.close()
        self._end()

    def _end(self) -> None:
        self.running = False
        self.clients.clear()
        for each in list(self.links.values()):
            each.cut("its hub ended")

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    # --- sessions --------------------------------------------------------------------------------------

    def new_op(self) -> str:
        return new_id(self.clock.wall)

    def open(self, name: str, **fields: Any) -> Client:
        """A session of the peer `name`."""
        sid = next(self._sids)
        greeting = hello(**{"name": name, "pinned": True, **fields})
        client = Client(self, sid, greeting)  # type: ignore[arg-type]
        self.clients[sid] = client
        self.feed(SessionOpened(sid, greeting, 0))
        return client

    def close(self, client: Client, reason: str) -> None:
        client.closed = True
        del self.clients[client.sid]
        self.feed(SessionClosed(client.sid, reason))

    # --- events ------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Something happened here; everything it leads to happens, on all machines."""
        self.events.append(event)
        self.land.settle()

    def step(self) -> bool:
        """Handle what is waiting; whether there was anything."""
        if not self.running:
            self.events.clear()
            return False
        did = False
        while self.events:
            did = True
            for action in self.hub.handle(self.events.popleft(), self.clock.now):
                self._perform(action)
        if not self.held and self.commit():
            did = True
        return did

    def once(self) -> bool:
        """Handle one event, or else commit what is in the store; whether there was anything."""
        if not self.running or not self.events:
            return self.running and self.commit()
        for action in self.hub.handle(self.events.popleft(), self.clock.now):
            self._perform(action)
        return True

    def commit(self) -> bool:
        """What is in the store is done; whether there was anything."""
        before = len(self.events)
        self.store.run_pending()
        return len(self.events) > before

    def _perform(self, action: Any) -> None:
        match action:
            case Store():
                if self.refuses:
                    self.events.append(StoreFailed(action.then, "mailbox_error", self.refuses))
                else:
                    self.store.submit(action.ops, action.then)
            case Reply():
                if (client := self.clients.get(action.sid)) is not None:
                    client.take(wire.decode_to_session(wire.encode(action.frame)))
            case Push():
                for sid in action.sids:
                    if (client := self.clients.get(sid)) is not None:
                        client.take(action.frame)
            case ToLink():
                if (link := self.links.get(action.link)) is not None:
                    link.send(self, action.frame)
            case CloseLink():
                if (link := self.links.get(action.link)) is not None:
                    link.cut(action.reason)
            case CloseSession():
                self.clients.pop(action.sid, None)
                self.events.append(SessionClosed(action.sid, action.reason))
            case CheckProcess():
                self.events.append(ProcessChecked(action.then, True))
            case Describe():
                pass
            case _:
                raise NotImplementedError(type(action).__name__)

    def knows(self, *hub_ids: str) -> None:
        """These hubs stand in its configuration."""
        self.feed(HubsConfigured(hub_ids, waking=frozenset({"*"})))


class Wire:
    """One link between two machines."""

    def __init__(self, land: Land, one: Machine, other: Machine) -> None:
        self.land = land
        self.ends = {one: next(_numbers), other: next(_numbers)}
        self.lines: dict[Machine, deque[bytes]] = {one: deque(), other: deque()}
        """On the way to each machine."""
        self.held: set[Machine] = set()
        """Nothing arrives at these."""
        self.whole = True
        self.reasons: list[str] = []
        for machine, number in self.ends.items():
            machine.links[number] = self
        for machine, number in self.ends.items():
            machine.events.append(LinkUp(number, self.other(machine).hub_id))

    def other(self, machine: Machine) -> Machine:
        return next(each for each in self.ends if each is not machine)

    def send(self, machine: Machine, frame: link_wire.LinkFrame) -> None:
        self.lines[self.other(machine)].append(link_wire.encode(frame))

    def deliver(self, limit: int = 1_000_000) -> bool:
        """What is on its way arrives; whether there was anything."""
        did = False
        for machine, number in self.ends.items():
            if machine in self.held:
                continue
            lines = self.lines[machine]
            for _ in range(min(limit, len(lines))):
                did = True
                frame = link_wire.decode(lines.popleft())
                assert frame is not None
                machine.events.append(LinkFrame(number, frame))
        return did

    def cut(self, reason: str = "cut") -> None:
        """What is on its way is lost."""
        if not self.whole:
            return
        self.whole = False
        self.reasons.append(reason)
        for machine, number in self.ends.items():
            del machine.links[number]
            if machine.running:
                machine.events.append(LinkLost(number, reason))
        self.land.wires.remove(self)


class Land:
    """All machines, and the wires between them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.machines: dict[str, Machine] = {}
        self.wires: list[Wire] = []
        self.settling = False

    def machine(self, hub_id: str, **limits: Any) -> Machine:
        """A new machine."""
        made = self.machines[hub_id] = Machine(self, hub_id, self.root / hub_id, **limits)
        return made

    def link(self, one: Machine, other: Machine) -> Wire:
        """Make a link, and let everything settle."""
        made = self.begin_link(one, other)
        self.settle()
        return made

    def begin_link(self, one: Machine, other: Machine) -> Wire:
        """Make a link."""
        made = Wire(self, one, other)
        self.wires.append(made)
        return made

    def cut(self) -> None:
        """Every link is lost."""
        for each in list(self.wires):
            each.cut()
        self.settle()

    def settle(self) -> None:
        """Until nothing happens any more."""
        if self.settling:
            return
        self.settling = True
        try:
            while self.step():
                pass
        finally:
            self.settling = False

    def step(self) -> bool:
        """Everything that can happen happens, once; whether there was anything."""
        did = False
        for machine in self.machines.values():
            did = machine.step() or did
        for each in list(self.wires):
            did = each.deliver() or did
        return did

    def once(self) -> None:
        """One thing happens: an event is handled, a batch committed or a line delivered."""
        for machine in self.machines.values():
            if machine.once():
                return
        for each in list(self.wires):
            if each.deliver(1):
                return

    def forward(self, seconds: float) -> None:
        """Time passes, and every hub looks at it."""
        self.clock.forward(seconds)
        for machine in self.machines.values():
            if machine.running:
                machine.events.append(Tick())
        self.settle()

    def close(self) -> None:
        """End everything."""
        for machine in self.machines.values():
            if machine.running:
                machine.store.close()
                machine.running = False


def tell(to: Machine, of: Machine, frame: link_wire.LinkFrame) -> None:
    """A hub says something that our own would not."""
    number = to.hub.state.hubs[of.hub_id].link
    read = link_wire.decode(link_wire.encode(frame))
    assert read is not None
    to.feed(LinkFrame(number, read))
