"""What may happen in a run: the 19 tools, sessions that come and go, and faults."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio

from ecorelay import wire
from tests.sim.adapter import Adapter
from tests.sim.machine import Machine

if TYPE_CHECKING:
    from tests.sim.world import World

Step = tuple[str, int]
"""What is done, and the number that decides the rest of it."""
NAMES = ("ann", "bob", "cat", "dan")
NEW_NAMES = (*NAMES, "eve", "fay")
ROOMS = ("hall", "yard")
GROUPS = ("red", "blue")

WEIGHTS: dict[str, float] = {
    # the tools
    "send": 22,
    "reply": 5,
    "broadcast": 1,
    "inbox": 12,
    "peers": 1.5,
    "rename": 1,
    "join": 2,
    "leave_room": 0.7,
    "room": 2,
    "rooms": 0.5,
    "group_create": 2,
    "group_invite": 1.5,
    "group_remove": 0.7,
    "group_leave": 0.5,
    "group_send": 5,
    "group_history": 4,
    "group_list": 0.5,
    "group_info": 0.7,
    "group_delete": 0.3,
    "block": 0.5,
    # and what a person asks
    "trace": 2,
    "status": 0.7,
    # sessions
    "open": 4,
    "beside": 3,
    "leave": 1,
    "kill_adapter": 1,
    "stall": 1.3,
    # time
    "wait": 8,
    # faults
    "cut": 2,
    "hold": 3,
    "free": 2,
    "dial": 1.5,
    "kill": 1.5,
    "crash_at": 2.5,
    "power": 0.5,
    "stop": 0.5,
    "start": 2,
    "jump": 0.7,
    "disk": 1.2,
    "relay": 0.5,
}


FAULTS = ("relay", "jump", "disk", "power", "stop", "stall", "dial", "hold", "cut", "kill", "crash_at")
"""Those of them that need not be."""


RARE_EVERY = 4
"""One run of so many meets what happens once in a year."""
RARE = (
    ("backup", "restore"),
    ("backup", "restore", "restore"),
    ("backup", "forget", "restore"),
    ("forget", "forget"),
    ("lose",),
    ("reload", "forget", "reload", "reload"),
)
"""A database that is put back from a copy, or lost; a hub that is forgotten and comes again; a bridge.json
that is read again."""


def make_history(seed: int, length: int) -> list[Step]:
    """All decisions of a run."""
    choice = random.Random(seed)
    first = ["open"] * choice.choice((2, 3, 4, 5)) + ["wait"] + choice.choice(([], ["group_create", "join"]))
    kinds = first + choice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=length)
    steps = [(kind, choice.getrandbits(32)) for kind in kinds]
    if seed % RARE_EVERY == 0:
        _strew(random.Random(~seed), steps, len(first))
    return steps


def _strew(choice: random.Random, steps: list[Step], start: int) -> None:
    """Rare things among the others, so that those stay what they were."""
    for what in choice.choice(RARE):
        start = choice.randint(start, len(steps))
        after = ("start", "send", "send", "send") if what == "restore" else ()
        for each in (what, *after):
            steps.insert(start, (each, choice.getrandbits(32)))
            start += 1


class Steps:
    """Does steps in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = random.Random(0)
        self._rest_s = 0.0

    async def do(self, step: Step) -> None:
        """One step, and a moment."""
        what, number = step
        self.random = random.Random(number)
        getattr(self, what)()
        await trio.sleep(self.random.choice((0.0, 0.0, 0.0005, 0.01, 0.3)))
        rest_s, self._rest_s = self._rest_s, 0.0
        await trio.sleep(rest_s)

    def say(self, text: str) -> None:
        self.world.say(text)

    def pick(self, what: Sequence[str]) -> str:
        return self.random.choice(what)

    # --- who and where ---------------------------------------------------------------------------------

    def machine(self) -> Machine:
        return self.random.choice(list(self.world.machines.values()))

    def up(self) -> Machine | None:
        up = [each for each in self.world.machines.values() if each.running is not None]
        return self.random.choice(up) if up else None

    def adapter(self) -> Adapter | None:
        live = [each for each in self.world.adapters if each.live]
        if not live:
            return None
        found = self.random.choice(live)
        self.say(f"{found.host}")
        return found

    def member(self) -> Adapter | None:
        """Mostly one that is in a group."""
        live = [each for each in self.world.adapters if each.live and self._groups_of(each)]
        if not live or self.random.random() < 0.1:
            return self.adapter()
        found = self.random.choice(live)
        self.say(f"{found.host}")
        return found

    def _groups_of(self, one: Adapter) -> list[Any]:
        running = one.machine.running
        peer = running.core.state.by_peer_id.get(one.peer_id) if running is not None else None
        if peer is None or running is None:
            return []
        return [running.core.state.groups[no] for no in sorted(peer.groups)]

    def address(self, here: Machine) -> str:
        """Of a peer: mostly one that is there."""
        whim = self.random.random()
        if whim < 0.05:
            return self.pick((*NEW_NAMES, "ann@h9", f"zoe@{self.machine().hub_id}"))
        known = [each for each in self.world.adapters if each.called]
        if not known:
            return self.pick(NAMES)
        found = self.random.choice(known)
        hub = found.machine.hub_id
        local = hub == here.hub_id and self.random.random() < 0.8
        return found.called if local else f"{found.called}@{hub}"

    def text(self) -> str:
        # Never the same twice: who gets it can be told from it.
        return f"{self.random.getrandbits(40):x}" + "x" * self.random.choice((0, 20, 300, 3000))

    def group(self, one: Adapter, *, admin: bool = False) -> str:
        """Mostly one that it is in, or the admin of; empty: there is none, and it makes one."""
        mine = self._groups_of(one)
        mine = [each for each in mine if not admin or each.admin_no] or mine
        if mine and self.random.random() < 0.95:
            return self.random.choice(mine).shown
        made = sorted(self.world.ledger.groups)
        if not made:
            self._create(one)
            return ""
        hub, name = self.random.choice(made)
        return name if hub == one.machine.hub_id else f"{name}@{hub}"

    def room_name(self, here: Machine) -> str:
        hub = self.machine().hub_id
        name = self.pick(ROOMS)
        return name if hub == here.hub_id or self.random.random() < 0.5 else f"{name}@{hub}"

    # --- the tools -------------------------------------------------------------------------------------

    def send(self) -> None:
        if (one := self.adapter()) is None:
            return
        to = self.address(one.machine)
        for _ in range(self.random.choice((1, 1, 1, 2, 6))):
            if self.random.random() < 0.2:
                to = self.address(one.machine)
            op_id = one.new_id()
            self.say(f"to {to} {op_id[-6:]}")
            urgent = self.random.random() < 0.2
            one.ask(wire.Send(req_id=0, op_id=op_id, to=to, text=self.text(), urgent=urgent))

    def reply(self) -> None:
        if (one := self.adapter()) is None:
            return
        key = one.machine.hub_id, one.peer_id
        got = [msg_id for msg_id, who in self.world.ledger.shown_to.items() if who == key]
        if got:
            op_id = one.new_id()
            to = self.random.choice(got)
            self.say(f"to {to[-6:]} {op_id[-6:]}")
            one.ask(wire.Reply(req_id=0, op_id=op_id, ask_id=to, text=self.text()))

    def broadcast(self) -> None:
        if (one := self.adapter()) is not None:
            one.ask(wire.Broadcast(req_id=0, op_id=one.new_id(), question=self.text()))

    def inbox(self) -> None:
        if (one := self.adapter()) is None:
            return
        wait = self.random.choice((0.0, 0.0, 0.0, 1.0, 30.0))
        limit = self.random.choice((1, 3, 20))
        cancel = self.random.choice((None, None, None, None, 0.0, 0.01, 2.0))
        budget = self.random.choice((1_000, 20_000))
        one.inbox(wire.Inbox(req_id=0, limit=limit, wait=wait, budget=budget), cancel_after=cancel)

    def peers(self) -> None:
        if (one := self.adapter()) is not None:
            one.ask(wire.Peers(req_id=0))

    def rename(self) -> None:
        if (one := self.adapter()) is not None:
            name = self.pick(NEW_NAMES)
            self.say(name)
            one.ask(wire.Rename(req_id=0, op_id=one.new_id(), new_name=name))

    def join(self) -> None:
        if (one := self.adapter()) is not None:
            one.ask(wire.Join(req_id=0, room=self.room_name(one.machine)))

    def leave_room(self) -> None:
        if (one := self.adapter()) is not None:
            one.ask(wire.Leave(req_id=0, room=self.room_name(one.machine)))

    def room(self) -> None:
        if (one := self.adapter()) is not None:
            rooms = one.client.rooms if one.client is not None else ()
            if not rooms:
                one.ask(wire.Join(req_id=0, room=self.room_name(one.machine)))
                return
            room = self.pick(rooms)
            self.say(room)
            one.ask(wire.RoomSend(req_id=0, op_id=one.new_id(), room=room, text=self.text()))

    def rooms(self) -> None:
        if (one := self.adapter()) is not None:
            one.ask(wire.Rooms(req_id=0))

    def group_create(self) -> None:
        if (one := self.adapter()) is not None:
            self._create(one)

    def _create(self, one: Adapter) -> None:
        members = tuple({self.address(one.machine): None for _ in range(3)})
        name = self.pick(GROUPS)
        self.say(f"{name} of {members}")
        one.ask(wire.GroupCreate(req_id=0, op_id=one.new_id(), name=name, members=members))

    def group_invite(self) -> None:
        if (one := self.member()) is not None and (group := self.group(one, admin=True)):
            peer = self.address(one.machine)
            self.say(f"{peer} to {group}")
            one.ask(wire.GroupInvite(req_id=0, op_id=one.new_id(), group=group, peer=peer))

    def group_remove(self) -> None:
        if (one := self.member()) is not None and (group := self.group(one, admin=True)):
            peer = self.address(one.machine)
            self.say(f"{peer} from {group}")
            one.ask(wire.GroupRemove(req_id=0, op_id=one.new_id(), group=group, peer=peer, reason="why"))

    def group_leave(self) -> None:
        if (one := self.member()) is not None and (group := self.group(one)):
            self.say(group)
            one.ask(wire.GroupLeave(req_id=0, op_id=one.new_id(), group=group))

    def group_send(self) -> None:
        if (one := self.member()) is not None and (group := self.group(one)):
            for _ in range(self.random.choice((1, 1, 4))):
                op_id = one.new_id()
                self.say(f"{group} {op_id[-6:]}")
                one.ask(wire.GroupSend(req_id=0, op_id=op_id, group=group, text=self.text()))

    def group_history(self) -> None:
        if (one := self.member()) is not None and (group := self.group(one)):
            limit = self.random.choice((1, 5, 50))
            cancel = self.random.choice((None, None, None, None, 0.0, 0.01))
            self.say(f"{group} {limit} cancel={cancel}")
            if cancel is not None:
                self.world.ledger.released.add((one.machine.hub_id, one.peer_id, group))
            one.history(group, limit, cancel_after=cancel)
            for each in self.world.adapters:  # and whoever else reads for it
                if each.live and each.peer_id == one.peer_id:
                    each.history(group, limit)

    def group_list(self) -> None:
        if (one := self.adapter()) is not None:
            one.ask(wire.Groups(req_id=0))

    def group_info(self) -> None:
        if (one := self.member()) is not None and (group := self.group(one)):
            one.ask(wire.GroupInfo(req_id=0, group=group))

    def group_delete(self) -> None:
        if (one := self.member()) is not None and (group := self.group(one, admin=True)):
            self.say(group)
            one.ask(wire.GroupDelete(req_id=0, op_id=one.new_id(), group=group))

    def block(self) -> None:
        """A person stops a peer from sending, or lets it send again."""
        if (one := self.adapter()) is not None:
            name, blocked = self.pick(NAMES), self.random.random() < 0.4
            self.say(f"{name} {blocked}")
            one.ask(wire.Block(req_id=0, name=name, blocked=blocked))

    def trace(self) -> None:
        if (one := self.adapter()) is not None and self.world.ledger.letters:
            msg_id = self.random.choice(list(self.world.ledger.letters))
            one.ask(wire.Trace(req_id=0, msg_id=msg_id))

    def status(self) -> None:
        if (one := self.adapter()) is not None:
            one.ask(wire.HubStatus(req_id=0))

    # --- sessions --------------------------------------------------------------------------------------

    def open(self) -> None:
        machine = self.machine()
        name = self.pick(NAMES)
        live = [each for each in self.world.adapters if not each.gone.is_set()]
        if len(live) >= 8:
            return
        # Mostly a session that was there before: it gets its mail.
        here = [each for each in self.world.adapters if each.machine is machine and not each.beside]
        gone = [each for each in here if each.gone.is_set()]
        old = self.random.choice(gone) if gone and self.random.random() < 0.7 else None
        if old is not None:
            name = old.name
        push = self.random.random() < 0.6
        opened = self.world.open(machine, name, push=push, old=old)
        self.say(f"{opened.host} push={push} again={old is not None}")

    def beside(self) -> None:
        """One more connection of a peer that has its session."""
        live = [each for each in self.world.adapters if not each.gone.is_set()]
        owners = [each for each in live if each.live and not each.beside]
        if not owners or len(live) >= 8:
            return
        owner = self.random.choice(owners)
        opened = self.world.open(owner.machine, owner.called, push=False, beside=True)
        self.say(f"{opened.host} beside {owner.host}")

    def leave(self) -> None:
        if (one := self.adapter()) is not None:
            one.leave()

    def kill_adapter(self) -> None:
        if (one := self.adapter()) is not None:
            one.kill()

    def stall(self) -> None:
        """It reads nothing for a while, or reads on."""
        if (one := self.adapter()) is not None:
            stopped = self.random.random() < 0.5
            self.say(f"stopped={stopped}")
            one.read(stopped)

    # --- time ------------------------------------------------------------------------------------------

    def wait(self) -> None:
        seconds = self.random.choice((0.05, 0.4, 2.0, 5.0, 5.0, 12.0, 40.0))
        self.say(f"{seconds}")
        self._rest_s = seconds

    def jump(self) -> None:
        machine = self.machine()
        seconds = self.random.choice((-3_600.0, -60.0, 60.0, 3_600.0))
        self.say(f"the clock of {machine.hub_id} by {seconds}")
        machine.clock.ahead_s += seconds

    # --- faults ----------------------------------------------------------------------------------------

    def _two(self) -> tuple[str, str] | None:
        hosts = list(self.world.machines)
        if self.world.relay is not None and self.random.random() < 0.4:
            hosts.append("relay")
        if len(hosts) < 2:
            return None
        one, other = self.random.sample(hosts, 2)
        return one, other

    def cut(self) -> None:
        """Connections are reset."""
        if (two := self._two()) is not None:
            self.say(f"{two}")
            for stream in self.world.network.between(*two):
                stream.cut()

    def hold(self) -> None:
        """Nothing arrives from one to the other any more, or in neither direction."""
        if (two := self._two()) is not None:
            one, other = two
            both = self.random.random() < 0.5
            self.say(f"{one}>{other} both={both}")
            self.world.network.way(one, other).hold(True)
            if both:
                self.world.network.way(other, one).hold(True)

    def free(self) -> None:
        """The network is well again; what had been on its way arrives, or was cut."""
        lost = self.random.random() < 0.3
        self.world.network.free(lost=lost)
        self.say(f"lost={lost}")

    def dial(self) -> None:
        """A connection that nobody needs."""
        machine = self.up()
        if machine is not None and machine.others and machine.running is not None:
            other = self.pick(machine.others)
            self.say(f"{machine.hub_id} to {other}")
            machine.running.bridge.dial_once_more(other)

    def kill(self) -> None:
        if (machine := self.up()) is not None:
            self.say(machine.hub_id)
            machine.kill()
            self._maybe_start(machine)

    def crash_at(self) -> None:
        """It is killed at some point of what it is about to do."""
        if (machine := self.up()) is not None:
            machine.fuse = self.random.choice((1, 2, 3, 5, 8, 13))
            self.say(f"{machine.hub_id} after {machine.fuse} points")

    def power(self) -> None:
        if (machine := self.up()) is not None:
            self.say(machine.hub_id)
            machine.kill(power=True)
            self._maybe_start(machine)

    def backup(self) -> None:
        """A copy of what one hub has committed."""
        if (machine := self.up()) is not None:
            self.say(machine.hub_id)
            machine.back_up()

    def restore(self) -> None:
        """Its hub is killed, and goes on from the copy that was made last."""
        copied = [each for each in self.world.machines.values() if each.copy.exists()]
        if copied:
            machine = self.random.choice(copied)
            self.say(machine.hub_id)
            machine.restore()
            self.world.ledger.restored(machine.hub_id)
            if self.random.random() < 0.5:  # it is used before it is plugged in
                for other in (*machine.others, "relay"):
                    self.world.network.way(machine.hub_id, other).hold(True)
                    self.world.network.way(other, machine.hub_id).hold(True)

    def lose(self) -> None:
        """Its database is gone, and it begins anew."""
        machine = self.machine()
        self.say(machine.hub_id)
        machine.lose()
        self.world.ledger.restored(machine.hub_id)
        self._maybe_start(machine)

    def reload(self) -> None:
        """All links of a hub end, and are made anew."""
        if (machine := self.up()) is not None and machine.running is not None:
            self.say(machine.hub_id)
            machine.running.bridging.cancel()

    def forget(self) -> None:
        """A person has one hub forget another, which is not gone at all."""
        if (one := self.adapter()) is not None and one.machine.others:
            other = self.pick(one.machine.others)
            self.say(other)
            self.world.ledger.forgotten.add((one.machine.hub_id, other))
            one.ask(wire.ForgetHub(req_id=0, hub_id=other))

    def stop(self) -> None:
        if (machine := self.up()) is not None:
            self.say(machine.hub_id)
            self.world.nursery.start_soon(machine.stop)

    def start(self) -> None:
        for machine in self.world.machines.values():
            machine.start(self.world.nursery)

    def _maybe_start(self, machine: Machine) -> None:
        if self.random.random() < 0.7:
            machine.start(self.world.nursery)

    def disk(self) -> None:
        disk = (machine := self.machine()).disk
        disk.refuses = self.random.choice((0.0, 0.0, 0.3, 1.0))
        disk.full = self.random.random() < 0.3
        disk.slow_s = self.random.choice((0.0, 0.0, 0.02, 1.0))
        for adapter in self.world.adapters:
            adapter.listens_since = max(adapter.listens_since, trio.current_time())
        self.say(f"{machine.hub_id} refuses {disk.refuses}, full={disk.full}, slow {disk.slow_s} s")

    def relay(self) -> None:
        if self.world.relay is not None:
            self.world.relay.restart()
