"""A machine with a hub that may be killed at any moment and started again from what was committed.

Everything a hub runs is the real thing: core, shell, sessions, links, ticker, store. Its process, its
sockets, its threads and its clocks are simulated.
"""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol

import trio

from ecorelay import names, wire
from ecorelay.core.actions import Action, Push, Reply
from ecorelay.core.events import HubsConfigured, Now
from ecorelay.core.hub import Hub
from ecorelay.daemon.links import Links
from ecorelay.daemon.perform import Facts, Shell
from ecorelay.daemon.reasons import Tally
from ecorelay.daemon.run import _say_goodbye
from ecorelay.daemon.sessions import Sessions
from ecorelay.daemon.ticker import Ticker
from ecorelay.limits import Limits
from ecorelay_bridge.roads import Roads
from tests.sim.bridge import Proven, SimBridge
from tests.sim.disk import Disk, Events, SimStore
from tests.sim.net import Network, SimStream

WALL = 1_700_000_000_000
"""Where every wall clock begins, in ms."""


class Hearing(Protocol):
    """Who is told what happens in hubs."""

    def stored(self, hub: str, events: Events) -> None:
        """A store did something; whether or not its hub lives to hear of it."""

    def showing(self, hub: str, peer_id: str, msg_id: str) -> None:
        """A hub is about to show a message to this peer."""

    def showing_in_order(self, hub: str, msg_ids: Sequence[str]) -> None:
        """A hub is about to show these to one peer, one after the other."""

    def showing_lines(self, hub: str, peer_id: str, page: wire.GroupPage) -> None:
        """A hub is about to show lines of a group to this peer."""


class SimClock:
    """Trio's clock, and one on the wall that may jump."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> Now:
        mono = trio.current_time()
        return Now(mono, self.wall_at(mono))

    def wall_at(self, mono: float) -> int:
        return WALL + round((mono + self.ahead_s) * 1000)

    def wall(self) -> int:
        """In ms."""
        return self.wall_at(trio.current_time())


class SimShell(Shell):
    """The real one, overheard."""

    overheard: Callable[[str, str], object]
    """Called with what is shown to whom: (peer_id, msg_id)."""
    overheard_lines: Callable[[str, wire.GroupPage], object]
    """The same of lines of groups."""
    overheard_order: Callable[[Sequence[str]], object]
    """Called with messages that one peer is shown one after the other."""
    pushed_to: dict[int, list[str]]

    def _perform(self, action: Action) -> None:
        match action:
            case Push(sids=sids, frame=wire.Push(msg_id=msg_id, room=None, group=None)):
                for sid in sids:
                    self._overhear(sid, (msg_id,))
                    self.pushed_to.setdefault(sid, []).append(msg_id)
                    self.overheard_order(self.pushed_to[sid][-2:])
            case Reply(sid=sid, frame=wire.InboxPage(messages=mails)):
                texts = [mail.msg_id for mail in mails if mail.text is not None and mail.kind != "room"]
                self._overhear(sid, texts)
                self.overheard_order(texts)
            case Reply(sid=sid, frame=wire.GroupPage(messages=lines) as page) if lines:
                if (peer_id := self._peer_id(sid)) is not None:
                    self.overheard_lines(peer_id, page)
        super()._perform(action)

    def _overhear(self, sid: int, msg_ids: Sequence[str]) -> None:
        if (peer_id := self._peer_id(sid)) is not None:
            for msg_id in msg_ids:
                self.overheard(peer_id, msg_id)

    def _peer_id(self, sid: int) -> str | None:
        core: Any = self.core
        session = core.state.sessions.get(sid)
        return session.peer.peer_id if session is not None and session.peer is not None else None


class Running:
    """One life of a hub.

    Args:
        machine: it runs on.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.scope = trio.CancelScope()
        self.bridging = trio.CancelScope()
        """All of the bridge: cancelled, it begins anew."""
        self.over = trio.Event()
        self.alive = True
        self.tally = Tally()
        chance, clock = machine.chance, machine.clock
        self.store = SimStore.open(machine.home, machine.limits, "process", clock.wall())
        self.store.disk, self.store.point = machine.disk, self._point
        self.store.heard = partial(machine.world.stored, machine.hub_id)
        self.core = Hub(
            hub_id=machine.hub_id,
            version="sim",
            new_id=lambda wall: names.new_id(wall, chance.getrandbits),
            limits=machine.limits,
            snapshot=self.store.snapshot(),
        )
        self.shell = SimShell(
            core=self.core,
            store=self.store,
            clock=clock,
            facts=Facts(pid=1, data_dir="/sim", durability="process", started=trio.current_time()),
            tally=self.tally,
            stop=lambda reason: None,
            alive=lambda pid, start: pid not in machine.gone_pids,
        )
        self.shell.pushed_to = {}
        self.shell.overheard_order = partial(machine.world.showing_in_order, machine.hub_id)
        self.shell.overheard = partial(machine.world.showing, machine.hub_id)
        self.shell.overheard_lines = partial(machine.world.showing_lines, machine.hub_id)
        self.sessions = Sessions(self.shell, machine.limits, random_bits=chance.getrandbits)
        self.roads = Roads()
        self.links = Links(
            self.shell,
            machine.hub_id,
            seek=self.roads.seek,
            rest=lambda hub_id, relayed: self.roads.rest(hub_id, relayed=relayed),
            room=self.sessions.wait_room,
        )
        self.bridge = SimBridge(
            machine.network,
            machine.hub_id,
            machine.others,
            chance,
            machine.relayed,
            self._serve_link,
            self.roads,
        )
        self.ticker = Ticker(self.shell, idle_exit_s=math.inf, busy=lambda: False, leave=lambda: None)

    async def run(self) -> None:
        """Until it is stopped or killed."""
        machine = self.machine
        try:
            with self.scope:
                self.store.start(self.shell.deliver)
                async with trio.open_nursery() as hub:
                    hub.start_soon(self.store.run)
                    hub.start_soon(self.ticker.run)
                    async with trio.open_nursery() as self.edge:
                        door = machine.network.doors[machine.door] = self._serve_session, self.edge
                        self.shell.feed((HubsConfigured(machine.others, waking=frozenset({"*"})),))
                        self.edge.start_soon(self._bridge)
                        try:
                            await trio.sleep_forever()
                        finally:
                            if machine.network.doors.get(machine.door) is door:
                                del machine.network.doors[machine.door]
        except* Exception:
            if self.alive:
                raise
            # It was killed: what its tasks make of that is nothing a process could say any more.
        finally:
            if self.alive:
                self.kill()
            self.over.set()

    async def _bridge(self) -> None:
        """As `ecorelay.daemon.federation` does, which begins anew when bridge.json is read again."""
        while True:
            with self.bridging:
                await self.bridge.run()
            self.bridging = trio.CancelScope()
            self.shell.feed((HubsConfigured(self.machine.others, waking=frozenset({"*"})),))

    async def _serve_session(self, stream: SimStream) -> None:
        await self.sessions.serve(stream, None)

    async def _serve_link(self, proven: Proven) -> None:
        await self.links.serve(proven)

    def _point(self, where: str) -> None:
        self.machine.point(where)

    def kill(self, *, power: bool = False) -> None:
        """As by SIGKILL: what is not committed is gone.

        Args:
            power: its machine lost it, so that other machines hear nothing of that.
        """
        self.alive = False
        machine, network = self.machine, self.machine.network
        self.store.crash()
        for name in (machine.door, machine.hub_id):
            network.doors.pop(name, None)
        for stream in network.of(machine.hub_id):
            if power:
                stream.vanish()
            else:
                stream.close()
        for stream in network.of(machine.door):
            stream.close()
        self.scope.cancel()

    async def stop(self) -> None:
        """In good order, as `ecorelay.daemon.run` does."""
        self.machine.network.doors.pop(self.machine.door, None)
        await _say_goodbye(self.shell, self.sessions, "the simulator wants it")
        if not self.alive:
            return
        self.edge.cancel_scope.cancel()
        self.store.close()
        self.kill()


class Machine:
    """A place where a hub runs, now and then.

    Args:
        hub_id: of the hub, and the host's name.
        home: where its database lies.
        network: it is in.
        others: hubs it is to be linked with.
        relayed: there is a relay server as well.
        seed: of whatever is random here.
        limits: of the hub.
        world: is told what happens here.
    """

    def __init__(
        self,
        hub_id: str,
        home: Path,
        network: Network,
        others: tuple[str, ...],
        relayed: bool,
        seed: int,
        limits: Limits,
        world: Hearing,
    ) -> None:
        self.hub_id = hub_id
        self.home = home
        self.network = network
        self.others = others
        self.relayed = relayed
        self.chance = Random(seed)
        self.limits = limits
        self.world = world
        self.clock = SimClock()
        self.disk = Disk(self.chance)
        self.door = f"{hub_id}/door"
        """Where its sessions knock."""
        self.running: Running | None = None
        self.gone_pids: set[int] = set()
        self.fuse = 0
        """So many more points, and it is killed; 0: it is not."""
        self.kills = 0
        self.copy = home.with_suffix(".copy")
        """Of its database, once one was made."""
        home.mkdir(exist_ok=True)

    def start(self, nursery: trio.Nursery) -> None:
        """Begin from what is on disk, unless it runs."""
        if self.running is None:
            self.network.off.discard(self.hub_id)
            self.running = Running(self)
            nursery.start_soon(self.running.run)

    def kill(self, *, power: bool = False) -> None:
        """See `Running.kill`."""
        if (running := self.running) is not None:
            self.running, self.fuse = None, 0
            self.kills += 1
            if power:
                self.network.off.add(self.hub_id)
            running.kill(power=power)

    def back_up(self) -> None:
        """Make a copy of what is committed."""
        assert self.running is not None
        self.copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(self.copy)) as copy:
            self.running.store.db.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()

    def restore(self) -> None:
        """Kill it, and put the copy in the place of its database."""
        self.lose()
        shutil.copyfile(self.copy, self.home / "hub.db")

    def lose(self) -> None:
        """Kill it, and remove its database."""
        self.kill()
        for file in self.home.glob("hub.db*"):
            file.unlink()

    async def stop(self) -> None:
        """See `Running.stop`."""
        if (running := self.running) is not None:
            await running.stop()
            if self.running is running:
                self.running, self.fuse = None, 0
            await running.over.wait()

    def point(self, where: str) -> None:
        """Here a crash would make a difference."""
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                self.kill()

    @property
    def core(self) -> Any:
        """The state of the core."""
        assert self.running is not None
        return self.running.core.state
