"""Groups under a random load: in the end all hubs agree, and nothing that was said is lost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ecorelay import wire
from tests.core.helpers import Client
from tests.links.land import Land, Machine

HUBS = ("h0", "h1", "h2")
PEERS = 2
GROUPS = ("red", "blue")


class Story:
    """One random history.

    Args:
        root: where the databases lie.
        seed: of what happens.
        backups: databases are restored from copies too; then what was said after the copy may be lost.
    """

    def __init__(self, root: Path, seed: int, *, backups: bool) -> None:
        self.random = random.Random(seed)
        self.backups = backups
        self.land = Land(root)
        outbox = 12 if seed % 3 == 0 else 10_000
        self.machines = [
            self.land.machine(name, mailbox_messages=60, outbox_messages=outbox) for name in HUBS
        ]
        self.saved: dict[Machine, bytes] = {}
        self.said: dict[str, tuple[Machine, str]] = {}
        """Ids of what was said: where, and by whom."""
        for machine in self.machines:
            self.open_all(machine)
        self.link_all()
        for number, name in enumerate(GROUPS):
            everybody = [f"{peer}@{m.hub_id}" for m in self.machines for peer in self.peers_of(m)]
            home = self.machines[number]
            admin = self.client(home, self.peers_of(home)[0])
            admin.call(wire.GroupCreate, name=name, members=tuple(everybody))

    @staticmethod
    def peers_of(machine: Machine) -> list[str]:
        return [f"p{n}-{machine.hub_id}" for n in range(PEERS)]

    def open_all(self, machine: Machine) -> None:
        for name in self.peers_of(machine):
            machine.open(name)

    def client(self, machine: Machine, name: str) -> Client:
        return next(each for each in machine.clients.values() if each.hello.name == name)

    def link_all(self) -> None:
        self.land.cut()
        for place, one in enumerate(self.machines):
            for other in self.machines[place + 1 :]:
                self.land.link(one, other)

    # --- what happens --------------------------------------------------------------------------------

    def step(self) -> None:
        machine = self.random.choice(self.machines)
        getattr(self, self.random.choice(self.STEPS))(machine)

    def say(self, machine: Machine) -> None:
        number = self.random.randrange(len(GROUPS))
        name = self.random.choice(self.peers_of(machine))
        home = self.machines[number]
        group = GROUPS[number] + ("" if machine is home else f"@{home.hub_id}")
        op_id = machine.new_op()
        asked = self.client(machine, name).ask(wire.GroupSend, group=group, text=op_id, op_id=op_id)
        answer = self.client(machine, name).answers.get(asked)
        if isinstance(answer, wire.Sent):
            self.said[op_id] = (machine, name)

    def govern(self, _: Machine) -> None:
        number = self.random.randrange(len(GROUPS))
        home = self.machines[number]
        admin = self.client(home, self.peers_of(home)[0])
        other = self.random.choice([m for m in self.machines for _ in self.peers_of(m)])
        peer = f"{self.random.choice(self.peers_of(other))}@{other.hub_id}"
        if self.random.random() < 0.5:
            admin.ask(wire.GroupInvite, group=GROUPS[number], peer=peer)
        else:
            admin.ask(wire.GroupRemove, group=GROUPS[number], peer=peer, reason="chance")

    def leave(self, machine: Machine) -> None:
        number = self.random.randrange(len(GROUPS))
        home = self.machines[number]
        if machine is not home and self.random.random() < 0.5:
            client = self.client(machine, self.random.choice(self.peers_of(machine)))
            client.ask(wire.GroupLeave, group=f"{GROUPS[number]}@{home.hub_id}")

    def cut(self, _: Machine) -> None:
        if self.land.wires:
            self.random.choice(self.land.wires).cut()
            self.land.settle()

    def link(self, machine: Machine) -> None:
        other = self.random.choice([each for each in self.machines if each is not machine])
        self.land.link(machine, other)

    def kill(self, machine: Machine) -> None:
        """Between any two steps of what is going on."""
        self.land.settling = True
        self.say(self.random.choice(self.machines))
        self.link(machine)
        for _ in range(self.random.randrange(25)):
            self.land.once()
        self.land.settling = False
        machine.restart()
        self.land.settle()
        self.open_all(machine)

    def disk(self, machine: Machine) -> None:
        machine.refuses = "the disk is full"
        self.say(self.random.choice(self.machines))
        self.govern(machine)
        machine.refuses = ""
        self.land.forward(6)

    def rename(self, machine: Machine) -> None:
        """Forth and back: names lead nowhere else."""
        client = self.client(machine, self.peers_of(machine)[1])
        client.ask(wire.Rename, new_name="somebody")
        self.say(machine)
        client.ask(wire.Rename, new_name=self.peers_of(machine)[1])

    def backup(self, machine: Machine) -> None:
        if not self.backups:
            return
        machine.stop()
        self.saved[machine] = (machine.home / "hub.db").read_bytes()
        machine.start()
        self.open_all(machine)

    def restore(self, machine: Machine) -> None:
        saved = self.saved.get(machine)
        if saved is None:
            return
        machine.kill()
        for file in machine.home.glob("hub.db*"):
            file.unlink()
        (machine.home / "hub.db").write_bytes(saved)
        machine.start()
        self.land.settle()
        self.open_all(machine)

    STEPS = (
        *["say"] * 8,
        *["link"] * 3,
        *["cut", "govern"] * 2,
        "leave",
        "kill",
        "disk",
        "rename",
        "backup",
        "restore",
    )

    # --- what has to be so in the end ------------------------------------------------------------------

    def finish(self) -> None:
        for _ in range(3):
            self.link_all()
            self.land.forward(6)
        for number, name in enumerate(GROUPS):
            self.check(self.machines[number], name)
        for machine in self.machines:
            for hub in machine.hub.state.hubs.values():
                assert (hub.waiting, hub.asking, hub.wanted, hub.answering) == (0, "", {}, False)
        if not self.backups:
            self.check_said()

    def check(self, home: Machine, name: str) -> None:
        group = home.hub.state.groups_by_name[name]
        kept = lines(home, name)
        for machine in self.machines:
            if machine is home:
                continue
            members = {far.peer_id for far in group.far.values() if far.hub.hub_id == machine.hub_id}
            copy = machine.hub.state.groups_by_name.get(f"{name}@{home.hub_id}")
            if copy is None:
                assert not members, (name, machine.hub_id)
                continue
            assert {machine.hub.state.peers[no].peer_id for no in copy.members} == members
            assert not copy.leaving
            there = lines(machine, name)
            assert there, (name, machine.hub_id)
            assert there == kept[-len(there) :], (name, machine.hub_id)
            assert len(copy.roster) == len(group.members) + len(group.far)

    def check_said(self) -> None:
        """What was said is a line, or left the ring; or its author was told that it ended."""
        ids = {
            msg_id
            for machine in self.machines
            for (msg_id,) in machine.store._committer.ledger.db.execute(
                "SELECT msg_id FROM messages WHERE group_no NOTNULL"
            )
        }
        for op_id, (machine, name) in self.said.items():
            if op_id not in ids:
                receipts = self.client(machine, name).call(wire.Trace, msg_id=op_id).receipts
                assert [each.state for each in receipts] == ["dead"], op_id
        for machine in self.machines:
            (doubled,) = machine.store._committer.ledger.db.execute(
                "SELECT count(*) FROM (SELECT 1 FROM messages WHERE group_no NOTNULL"
                " GROUP BY msg_id, group_no HAVING count(*) > 1)"
            ).fetchone()
            assert doubled == 0


def lines(machine: Machine, name: str) -> list[tuple[int, str]]:
    db = machine.store._committer.ledger.db
    return db.execute(
        "SELECT l.seq, coalesce(m.msg_id, '') FROM group_log AS l JOIN groups AS g ON g.no = l.group_no"
        " LEFT JOIN messages AS m ON m.mid = l.mid WHERE g.name = ? ORDER BY l.seq",
        (name,),
    ).fetchall()


def run(root: Path, seed: int, steps: int, *, backups: bool) -> None:
    story = Story(root, seed, backups=backups)
    try:
        for _ in range(steps):
            story.step()
        story.finish()
    finally:
        story.land.close()


@pytest.mark.parametrize("backups", [False, True], ids=["", "backups"])
@pytest.mark.parametrize("seed", range(6))
def test_under_a_random_load_all_hubs_agree_in_the_end(tmp_path: Path, seed: int, backups: bool):
    run(tmp_path, seed, 80, backups=backups)


@pytest.mark.soak
@pytest.mark.parametrize("backups", [False, True], ids=["", "backups"])
@pytest.mark.parametrize("seed", range(100, 200))
def test_under_a_long_random_load_all_hubs_agree_in_the_end(tmp_path: Path, seed: int, backups: bool):
    run(tmp_path, seed, 200, backups=backups)
