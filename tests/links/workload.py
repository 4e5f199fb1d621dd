"""A seeded random load on several hubs with links between them, and what must hold whatever goes wrong.

Frames, commits and events are handled one by one in any order (each machine's and each wire's own order is
kept); links are made, replaced, cut and half-open; hubs are killed, their disks refuse, their clocks jump,
their databases are put back from older copies. A history is a list of steps, each with a number from which
everything about it is decided, so any part of a history is a history too: a failing one is cut down.
"""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ecorelay import link_wire, names, wire
from ecorelay.core import links, messages, moderation, outbox
from ecorelay.core.actions import CloseLink, Store
from ecorelay.core.events import ClockJumped, HubsConfigured, LinkFrame, Stored, StoreFailed, Tick
from ecorelay.core.records import RemoteHub
from ecorelay.daemon.schema import DEAD
from tests.core.helpers import Client, Clock
from tests.links.land import Land, Machine, Wire

NAMES = ("ann", "bob", "cat")
WINDOW = 6
WINDOW_BYTES = 900
SLACK_BYTES = 600
"""One frame may overshoot the window."""
DISK = "the disk is full"
EXPECTED_ENDS = frozenset(
    {"cut", "another link took its place", "its hub ended", "this hub was forgotten", DISK}
    | {"it did not say within 10 s what it has", "no result for 60 s"}
)
"""A link that is held, or a disk that refuses, leads to the last two."""
Step = tuple[str, int]
"""What is done, and the number that decides the rest of it."""


class Node(Machine):
    """A machine whose units are committed one by one, whose disk may refuse some, with a clock of its own."""

    load: Workload
    fails = 0.0
    """How likely its disk refuses a unit."""

    def start(self) -> None:
        if self.clock is self.land.clock:
            self.clock = Clock()
        self.load = self.land.load  # type: ignore[attr-defined]
        self.units: deque[Store] = deque()
        super().start()
        self.store.start(self._heard)
        self.progress: dict[tuple[int, str], tuple[int, ...]] = {}

    def _heard(self, events: Sequence[Stored | StoreFailed]) -> None:
        for event in events:
            self.load.committed(self, event)
        self.events.extend(events)

    def _perform(self, action: Any) -> None:
        if isinstance(action, Store):
            self.units.append(action)
            return
        if isinstance(action, CloseLink) and action.link in self.links:
            expected = action.reason in EXPECTED_ENDS or action.reason.endswith(f": {DISK}")
            assert expected, f"{self.hub_id} closes a link: {action.reason}"
        super()._perform(action)

    def handle(self) -> None:
        """One event."""
        event = self.events.popleft()
        for action in self.hub.handle(event, self.clock.now):
            self._perform(action)
        self.load.look_at_hub(self)

    def commit(self, count: int = 1_000) -> bool:
        did = bool(self.units)
        for _ in range(min(count, len(self.units))):
            unit = self.units.popleft()
            if self.fails and self.load.random.random() < self.fails:
                self.store.run_pending()
                self.events.append(StoreFailed(unit.then, "mailbox_error", DISK))
            else:
                self.store.submit(unit.ops, unit.then)
        self.store.run_pending()
        return did

    @property
    def db(self) -> sqlite3.Connection:
        return self.store._committer.ledger.db

    def rows(self, sql: str, *values: Any) -> list[Any]:
        return self.db.execute(sql, values).fetchall()


class Seat:
    """A connection as its adapter sees it."""

    def __init__(self, node: Node, client: Client) -> None:
        self.node = node
        self.client = client
        self.looked = 0
        self.unacked: deque[wire.Push] = deque()
        self.pages: list[wire.InboxPage] = []
        self.confirms: dict[int, tuple[str, ...]] = {}

    @property
    def live(self) -> bool:
        return self.node.clients.get(self.client.sid) is self.client and self.client.welcome is not None

    @property
    def key(self) -> tuple[str, str]:
        return self.node.hub_id, self.client.peer_id


class Attempt:
    """A send or reply of a client, to be repeated until it is answered."""

    def __init__(self, node: Node, peer_id: str, kind: type[wire.Mutation], fields: dict[str, Any]) -> None:
        self.node = node
        self.peer_id = peer_id
        self.kind = kind
        self.fields = fields
        self.acked_at = -1
        """The step in which it was answered as sent."""


class Workload:
    """One run. See the module.

    Args:
        root: for the databases.
        seed: of how many hubs there are and their limits.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.random = choice = random.Random(seed)
        self.land = Land(root)
        self.land.load = self  # type: ignore[attr-defined]
        self.land.settling = True  # nothing happens by itself
        self.now = 0
        """Number of the step."""
        self.log: list[str] = []
        self.seats: list[Seat] = []
        self.attempts: dict[str, Attempt] = {}
        self.orders: dict[str, list[tuple[int, int]]] = {}
        """msg_id → (place among all that were put into outboxes, step)."""
        self.accepted: set[str] = set()
        """Some carrier took it."""
        self.arrived: dict[str, set[str]] = {}
        self.backups: dict[str, tuple[Path, set[str], set[tuple[str, str, str]]]] = {}
        self.confirmed: set[tuple[str, str, str]] = set()
        """(hub, peer, message): its reader confirmed it."""
        self.again_from: set[tuple[str, str]] = set()
        """(hub, message) of hubs that were forgotten there: nothing is known of what they sent."""
        self.shown_to: dict[str, tuple[str, str]] = {}
        self.restored: dict[str, int] = {}
        """Hub → step in which its database was put back."""
        self.blocked = False
        self.places = 0
        small = choice.random() < 0.2
        limits: dict[str, Any] = {"mailbox_messages": 6, "outbox_messages": 12} if small else {}
        if choice.random() < 0.2:
            limits["outbox_days"] = 0.03
        self.nodes: list[Node] = []
        for number in range(choice.choice((2, 2, 2, 3, 4))):
            node = Node(
                self.land,
                f"h{number}",
                root / f"h{number}",
                sends_per_minute=0,
                push_window_messages=5,
                receipts_days=1e4,
                op_ids_hours=1e5,
                **limits,
            )
            self.land.machines[node.hub_id] = node
            self.nodes.append(node)
            self.arrived[node.hub_id] = set()

    # --- histories -----------------------------------------------------------------------------------

    def run(self, steps: Sequence[Step]) -> None:
        """Do these steps, then let everything come to rest and look at what is left."""
        for self.now, (what, number) in enumerate(steps):
            self.random = random.Random(number)
            self.log.append(f"{self.now}: {what}")
            getattr(self, what)()
            self.look()
        self.now += 1
        self.random = random.Random(0)
        self.finish()

    def say(self, text: str) -> None:
        """For who reads the history."""
        self.log[-1] += f" {text};"

    # --- time and chance -----------------------------------------------------------------------------

    def go(self) -> None:
        """Some things happen that can, in any order."""
        for _ in range(self.random.choice((1, 2, 5, 20, 60))):
            if not self.one():
                return

    def one(self) -> bool:
        can: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        for node in self.nodes:
            if node.running and node.events:
                can.append((node.handle, ()))
            if node.running and node.units:
                can.append((node.commit, (self.random.choice((1, 1, 3, 100)),)))
        for each in self.land.wires:
            can += [
                (self.deliver, (each, node))
                for node in each.ends
                if each.lines[node] and node not in each.held
            ]
        if not can:
            return False
        act, args = self.random.choice(can)
        act(*args)
        return True

    def deliver(self, link: Wire, node: Machine) -> None:
        frame = link_wire.decode(link.lines[node].popleft())
        assert frame is not None
        node.events.append(LinkFrame(link.ends[node], frame))

    def rest(self) -> None:
        for _ in range(100_000):
            if not self.one():
                self.look()
                if not self.one():
                    return
        raise AssertionError("it never comes to rest")

    def time(self) -> None:
        seconds = self.random.choice((0.05, 0.4, 6.0, 31.0, 3_000.0))
        for node in self.nodes:
            node.clock.forward(seconds)
            if node.running:
                node.events.append(Tick())

    def jump(self) -> None:
        node = self.pick_node()
        seconds = self.random.choice((-7_200.0, -100.0, 100.0, 7_200.0))
        node.clock.wall += round(seconds * 1000)
        node.events.append(ClockJumped(seconds))
        self.say(f"the clock of {node.hub_id} by {seconds}")

    # --- hubs ----------------------------------------------------------------------------------------

    def pick_node(self) -> Node:
        up = [node for node in self.nodes if node.running]
        if not up:
            self.start_all()
            up = self.nodes
        return self.random.choice(up)

    def start_all(self) -> None:
        for node in self.nodes:
            if not node.running:
                node.start()

    def kill(self) -> None:
        node = self.pick_node()
        self.say(node.hub_id)
        self.end(node)
        if self.random.random() < 0.8:
            node.start()

    def end(self, node: Node) -> None:
        self.look()
        node.kill()
        node.events.clear()

    def stop(self) -> None:
        node = self.pick_node()
        self.say(node.hub_id)
        self.look()
        node.commit()
        node.store.close()
        node._end()
        node.events.clear()
        if self.random.random() < 0.8:
            node.start()

    def begin(self) -> None:
        self.start_all()

    def disk(self) -> None:
        node = self.pick_node()
        node.fails = self.random.choice((0.0, 0.0, 0.3, 1.0))
        self.say(f"{node.hub_id} refuses {node.fails}")

    def backup(self) -> None:
        node = self.pick_node()
        path = node.home.with_suffix(f".{self.now}")
        with closing(sqlite3.connect(path)) as copy:
            node.db.backup(copy)
        mine = {each for each in self.confirmed if each[0] == node.hub_id}
        self.backups[node.hub_id] = path, set(self.arrived[node.hub_id]), mine
        self.say(node.hub_id)

    def restore(self) -> None:
        node = self.pick_node()
        if node.hub_id not in self.backups:
            return
        self.say(node.hub_id)
        self.end(node)
        path, arrived, confirmed = self.backups[node.hub_id]
        for file in node.home.glob("hub.db*"):
            file.unlink()
        shutil.copy(path, node.home / "hub.db")
        self.arrived[node.hub_id] = set(arrived)
        self.confirmed = {each for each in self.confirmed if each[0] != node.hub_id} | confirmed
        self.restored[node.hub_id] = self.now
        node.start()

    def forget_hub(self) -> None:
        """A person has a hub know nothing of another one any more: it may get again what it had."""
        seat = self.pick_seat()
        hubs = list(seat.node.hub.state.hubs) if seat is not None else []
        if seat is not None and hubs:
            name = self.random.choice(hubs)
            seat.client.ask(wire.ForgetHub, hub_id=name)
            self.say(f"{name} at {seat.node.hub_id}")

    def _forgot(self, node: Node, hub: str) -> None:
        self.restored[node.hub_id] = self.now
        sent = {op for op, attempt in self.attempts.items() if attempt.node.hub_id == hub}
        self.arrived[node.hub_id] -= sent
        self.again_from |= {(node.hub_id, each) for each in sent}

    def configure(self) -> None:
        node = self.pick_node()
        others = tuple(each.hub_id for each in self.nodes if each is not node)
        node.events.append(HubsConfigured(others))
        self.say(node.hub_id)

    # --- links ---------------------------------------------------------------------------------------

    def link(self) -> None:
        for _ in range(self.random.choice((1, 1, 1, 2))):
            one, other = self.pick_node(), self.pick_node()
            if one is not other:
                self.land.begin_link(one, other)
                self.say(f"{one.hub_id}-{other.hub_id}")

    def cut(self) -> None:
        if self.land.wires:
            each = self.random.choice(self.land.wires)
            self.say("-".join(node.hub_id for node in each.ends))
            each.cut()

    def hold(self) -> None:
        """Half-open: nothing arrives any more, at one end or at both; until it does again, or it is cut."""
        if self.land.wires:
            each = self.random.choice(self.land.wires)
            ends = list(each.ends)
            each.held = set(self.random.choice((ends[:1], ends[1:], ends, [])))
            self.say(
                "-".join(node.hub_id for node in each.ends) + f" at {[node.hub_id for node in each.held]}"
            )

    # --- sessions ------------------------------------------------------------------------------------

    def open(self) -> None:
        node = self.pick_node()
        name = self.random.choice(NAMES)
        self.open_as(node, name, push=self.random.random() < 0.6)

    def open_as(self, node: Node, name: str, *, push: bool) -> None:
        peer = node.hub.state.names.get(name)
        fields = {"peer_id": peer.peer_id} if peer is not None else {}
        self.seats.append(
            Seat(node, node.open(name, push=push, client="codex", cwd=f"/src/{name}", **fields))
        )
        self.say(f"{name}@{node.hub_id} push={push}")

    def close(self) -> None:
        seat = self.pick_seat()
        if seat is not None:
            self.say(f"{seat.client.name}@{seat.node.hub_id}")
            seat.node.close(seat.client, "eof")

    def pick_seat(self) -> Seat | None:
        live = [seat for seat in self.seats if seat.live]
        return self.random.choice(live) if live else None

    def address(self, node: Node, known: Sequence[RemoteHub]) -> str:
        if known and self.random.random() < 0.9:
            hub = self.random.choice(known)
            there = [peer.name for peer in hub.peers.values()]
            if there and self.random.random() < 0.9:
                return f"{self.random.choice(there)}@{hub.hub_id}"
            return f"{self.random.choice(NAMES)}@{hub.hub_id}"
        return self.random.choice((*NAMES, f"ann@{self.nodes[-1].hub_id}"))

    def send(self) -> None:
        seat = self.pick_seat()
        if seat is None:
            return
        for _ in range(self.random.choice((1, 1, 2, 8))):
            to = self.address(seat.node, list(seat.node.hub.state.hubs.values()))
            text = "x" * self.random.choice((1, 30, 400))
            urgent = self.random.random() < 0.2
            about = {"reply_to": next(iter(self.attempts), None)} if self.random.random() < 0.1 else {}
            self._ask(seat, wire.Send, {"to": to, "text": text, "urgent": urgent, **about})

    def reply(self) -> None:
        seat = self.pick_seat()
        if seat is None:
            return
        got = [push.msg_id for push in seat.client.pushes] + [
            mail.msg_id for page in seat.pages for mail in page.messages if names.is_id(mail.msg_id)
        ]
        if got:
            self._ask(seat, wire.Reply, {"ask_id": self.random.choice(got), "text": "an answer"})

    def _ask(self, seat: Seat, kind: type[wire.Mutation], fields: dict[str, Any]) -> None:
        op = seat.node.new_op()
        fields = {**fields, "op_id": op}
        self.attempts[op] = Attempt(seat.node, seat.client.peer_id, kind, fields)
        seat.client.ask(kind, **fields)
        self.say(f"{seat.client.name}@{seat.node.hub_id} to {fields.get('to', 'whom it answers')} {op[-4:]}")

    def broadcast(self) -> None:
        seat = self.pick_seat()
        if seat is not None:
            self._ask(seat, wire.Broadcast, {"question": "anybody?"})

    def again(self) -> None:
        """Clients repeat what they think was not answered."""
        seat = self.pick_seat()
        if seat is None:
            return
        mine = [
            each
            for each in self.attempts.values()
            if each.node is seat.node and each.peer_id == seat.client.peer_id
        ]
        for each in mine[-3:]:
            if self.random.random() < 0.7:
                seat.client.ask(each.kind, **{**each.fields, "resend": True})
                self.say(f"{each.fields['op_id'][-4:]}")

    def read(self) -> None:
        seat = self.pick_seat()
        if seat is not None:
            seat.client.ask(wire.Inbox, limit=self.random.choice((1, 3, 50)))

    def page(self) -> None:
        """What a page showed is confirmed, or it is given back."""
        with_pages = [seat for seat in self.seats if seat.live and seat.pages]
        if not with_pages:
            return
        seat = self.random.choice(with_pages)
        page = seat.pages.pop(0)
        if self.random.random() < 0.3:
            seat.client.ask(wire.Release, lease=page.lease)
            return
        ids = tuple(m.msg_id for m in page.messages if m.text is not None and names.is_id(m.msg_id))
        # Notices are left, so that they can be counted in the end.
        seat.confirms[seat.client.ask(wire.Confirm, lease=page.lease, msg_ids=ids)] = ids

    def ack(self) -> None:
        """A carrier takes what was pushed, or cannot."""
        busy = [seat for seat in self.seats if seat.live and seat.unacked]
        if not busy:
            return
        seat = self.random.choice(busy)
        pushes = [seat.unacked.popleft() for _ in range(self.random.randint(1, len(seat.unacked)))]
        ids = tuple(push.msg_id for push in pushes)
        if self.random.random() < 0.2:
            seat.client.say(wire.PushFailed(msg_ids=ids))
            self.say("failed")
        else:
            self.accepted.update(ids)
            seat.client.say(wire.Pushed(msg_ids=ids, carrier="inbox"))

    def rename(self) -> None:
        seat = self.pick_seat()
        if seat is not None:
            name = self.random.choice((*NAMES, "dan", "eve"))
            seat.client.ask(wire.Rename, new_name=name)
            self.say(f"{seat.client.name}@{seat.node.hub_id} → {name}")

    def add(self) -> None:
        seat = self.pick_seat()
        if seat is not None:
            seat.client.ask(wire.AddPeer, name=self.random.choice((*NAMES, "dan")))

    def forget(self) -> None:
        seat = self.pick_seat()
        if seat is not None:
            name = self.random.choice((*NAMES, "dan"))
            seat.client.ask(wire.ForgetPeer, name=name)
            self.say(f"{name}@{seat.node.hub_id}")

    def block(self) -> None:
        seat = self.pick_seat()
        if seat is not None:
            self.blocked = True
            hub = self.random.choice(self.nodes)
            address = f"{self.random.choice(NAMES)}@{hub.hub_id}"
            if seat.node.hub.state.find(address.partition("@")[0], seat.node.clock.now) or "@" in address:
                seat.client.ask(wire.Block, name=address, blocked=self.random.random() < 0.5)

    def list(self) -> None:
        seat = self.pick_seat()
        if seat is not None:
            seat.client.ask(wire.Peers)

    # --- what must hold at every moment ----------------------------------------------------------------

    def committed(self, node: Node, event: Stored | StoreFailed) -> None:
        """The store did something."""
        if isinstance(event, StoreFailed):
            assert event.code != "unexpected", event
            return
        then: Any = event.then
        first: Any = event.results[0] if event.results else None
        if isinstance(then, outbox.OutStored):
            if not first.duplicate:
                self._put_out(then.op.msg_id)
        elif isinstance(then, messages.ReplyStored):
            if first.hub_no and not first.appended.duplicate:
                self._put_out(then.op.msg_id)
        elif isinstance(then, moderation.HubForgot):
            self._forgot(node, then.key)
        elif isinstance(then, messages.BroadcastStored):
            for _ in then.out:
                self._put_out(then.op.msg_id)
        elif (
            isinstance(then, links.FrameTaken) and first.appended is not None and not first.appended.duplicate
        ):
            assert then.mail is not None
            msg_id = then.mail.msg_id
            assert msg_id not in self.arrived[node.hub_id], f"doubled at {node.hub_id}: {msg_id[-4:]}"
            self.arrived[node.hub_id].add(msg_id)

    def _put_out(self, msg_id: str) -> None:
        self.places += 1
        self.orders.setdefault(msg_id, []).append((self.places, self.now))

    def look_at_hub(self, node: Node) -> None:
        """After every event."""
        state = node.hub.state
        for hub in state.hubs.values():
            assert len(hub.inflight) <= WINDOW, "more on its way than the window holds"
            assert hub.inflight_bytes <= WINDOW_BYTES + SLACK_BYTES
            assert hub.inflight_bytes == sum(size for _, size in hub.inflight)
            assert len(hub.asked) <= 60, "senders that nobody waits for any more"
            assert len(hub.stale) <= len(hub.peers)
            assert hub.settled <= hub.sent <= hub.last or not hub.up
            assert hub.received <= hub.receiving
            assert not hub.link or state.links[hub.link] is hub
            before = node.progress.get((hub.no, hub.stream), (0,) * 3)
            now = (hub.received, hub.last, hub.first)
            assert all(b <= n for b, n in zip(before, now, strict=True)), (
                f"{hub.hub_id} goes back: {before} {now}"
            )
            node.progress[hub.no, hub.stream] = now
        assert len(state.links) == sum(1 for hub in state.hubs.values() if hub.link)

    def look(self) -> None:
        """What each connection got since the last look."""
        self.seats = [seat for seat in self.seats if seat.node.clients.get(seat.client.sid) is seat.client]
        for seat in self.seats:
            got = seat.client.got
            for frame in got[seat.looked :]:
                if isinstance(frame, wire.Ping):
                    seat.client.say(wire.Pong())
                elif isinstance(frame, wire.Push):
                    seat.unacked.append(frame)
                    self._shown(seat, frame.msg_id)
                elif isinstance(frame, wire.InboxPage):
                    for mail in frame.messages:
                        if mail.text is not None and names.is_id(mail.msg_id):
                            self._shown(seat, mail.msg_id)
                    if frame.lease:
                        seat.pages.append(frame)
                elif isinstance(frame, wire.Sent):
                    self._sent(frame)
                elif isinstance(frame, wire.Failed):
                    self._failed(seat, frame)
                elif isinstance(frame, wire.Done) and frame.req_id in seat.confirms:
                    self.confirmed |= {(*seat.key, each) for each in seat.confirms[frame.req_id]}
            seat.looked = len(got)

    def _shown(self, seat: Seat, msg_id: str) -> None:
        if (seat.node.hub_id, msg_id) in self.again_from:
            return
        assert (*seat.key, msg_id) not in self.confirmed, f"shown again after it was seen: {msg_id[-4:]}"
        if self.attempts[msg_id].kind is wire.Broadcast:
            return
        assert self.shown_to.setdefault(msg_id, seat.key) == seat.key or self.restored, "two peers got it"

    def _sent(self, frame: wire.Sent) -> None:
        attempt = self.attempts[frame.msg_id]
        if attempt.acked_at < 0:
            attempt.acked_at = self.now
        if frame.status == "delivered" and frame.msg_id in self.orders:
            assert frame.msg_id in self.accepted, f"nobody took it: {frame}"

    def _failed(self, seat: Seat, frame: wire.Failed) -> None:
        request = seat.client.asked[frame.req_id]
        if not isinstance(request, (wire.Send, wire.Reply)):
            return
        assert frame.code != "unexpected", frame
        attempt = self.attempts[request.op_id]
        far = request.op_id in self.orders  # what is local has tests of its own
        if far and attempt.acked_at > self.restored.get(seat.node.hub_id, -1):
            # It was sent: that may not be known only because the disk says nothing.
            assert frame.code == "timeout", f"acknowledged, and refused when it is repeated: {frame}"

    # --- what must hold in the end ---------------------------------------------------------------------

    def finish(self) -> None:
        """Disks work, all run, all are linked: what is left?"""
        self.log.append("the end")
        for node in self.nodes:
            node.fails = 0.0
        self.start_all()
        for each in list(self.land.wires):
            if each.held:
                each.cut()
        self.rest()
        # Who waits for `delivered`; every lease, and links that began in vain.
        for seconds in (1.0, 40.0, 0.0):
            self.link_all()
            self.rest()
            for node in self.nodes:
                node.clock.forward(seconds)
                node.events.append(Tick())
            self.rest()
        for node in self.nodes:
            self.check_requests(node)
            self.check_hubs(node)
            self.check_mail(node)
            self.check_order(node)

    def link_all(self) -> None:
        """Every two hubs that have no link get one."""
        for number, one in enumerate(self.nodes):
            for other in self.nodes[number + 1 :]:
                if not any(set(each.ends) == {one, other} for each in self.land.wires):
                    self.land.begin_link(one, other)

    def check_requests(self, node: Node) -> None:
        for seat in self.seats:
            if seat.live:
                open_ = [r for n, r in seat.client.asked.items() if n not in seat.client.answers]
                assert not open_, f"never answered: {open_}"

    def check_hubs(self, node: Node) -> None:
        state = node.hub.state
        stored = {row.no: row for row in node.store.snapshot().hubs}
        for other in self.nodes:
            if other is node:
                continue
            hub = state.hubs[other.hub_id]
            where = f"{node.hub_id} about {other.hub_id}"
            assert (hub.link > 0, hub.up, hub.introduced) == (True, True, True), f"{where}: no link"
            assert not hub.asked, f"{where}: senders still wait"
            assert (hub.stale, hub.complete) == (set(), True), where
            assert (len(hub.inflight), hub.caught_up, hub.loading) == (0, True, False), (
                f"{where}: mail is stuck"
            )
            [(count, size)] = node.rows(
                "SELECT count(*), coalesce(sum(size), 0) FROM outbox WHERE hub_no = ?", hub.no
            )
            [(kept, last)] = node.rows("SELECT outbox_bytes, last_seq FROM hubs WHERE no = ?", hub.no)
            assert (hub.waiting, hub.bytes) == (count, size) == (0, 0), (
                f"{where}: counts {hub.waiting} {count}"
            )
            assert (kept, last) == (size, last), f"{where}: {kept} bytes noted, {size} there"
            assert hub.last == last, f"{where}: last {hub.last}, stored {last}"
            truth = {p.peer_id: (p.name, p.online, _pushes(p), p.cwd) for p in other.hub.state.peers.values()}
            told = {p.peer_id: (p.name, p.online, p.push, p.cwd) for p in hub.peers.values()}
            assert told == truth, f"{where}: presence"
            assert {key: p.peer_id for key, p in hub.names.items()} == {
                names.key(p.name): p.peer_id for p in hub.peers.values()
            }, f"{where}: names"
            assert {p.peer_id: p.name for p in stored[hub.no].peers} == {
                p.peer_id: p.name for p in hub.peers.values()
            }, f"{where}: the directory on disk"
            assert stored[hub.no].complete, where

    def check_mail(self, node: Node) -> None:
        """Everything acknowledged here ended somewhere."""
        far = {
            no: (hub, peer_id)
            for no, hub, peer_id in node.rows("SELECT no, hub, peer_id FROM peers WHERE hub <> ''")
        }
        dead: Counter[tuple[int, int, str]] = Counter()
        for msg_id, attempt in self.attempts.items():
            if attempt.node is not node or attempt.kind is wire.Broadcast:
                continue
            row = node.rows(
                "SELECT mid, box, sender_no FROM messages WHERE msg_id = ? AND origin = 0", msg_id
            )
            acked = attempt.acked_at > self.restored.get(node.hub_id, -1)
            if not row:
                assert not acked, f"lost at its sender's hub: {msg_id[-4:]}"
                continue
            [(mid, box, sender_no)] = row
            if box not in far:
                [(there,)] = node.rows(
                    "SELECT (SELECT count(*) FROM ring WHERE mid = ?1) + (SELECT count(*) FROM receipts WHERE"
                    " mid = ?1)",
                    mid,
                )
                assert there == 1, f"lost: {msg_id[-4:]}"
                continue
            receipts = node.rows(
                "SELECT forwarded_at, outcome, reason FROM receipts WHERE mid = ? AND box = ?", mid, box
            )
            assert receipts, f"neither waiting nor ended: {msg_id[-4:]}"
            [(forwarded, outcome, reason)] = receipts
            other: Any = self.land.machines[far[box][0]]
            if outcome == DEAD:
                dead[sender_no, box, reason] += 1
                self.check_dead(other, far[box][1], reason, msg_id)
                continue
            assert forwarded, msg_id
            self.check_arrived(node, other, msg_id)
        for (sender_no, box, reason), count in dead.items():
            if sender_no in node.hub.state.peers:
                told = node.rows(
                    "SELECT total FROM notices WHERE sender_no = ? AND about_no = ? AND reason = ?",
                    sender_no,
                    box,
                    reason,
                )
                assert told == [(count,)], f"{count} ended as {reason}, told of {told}"

    def check_dead(self, other: Node, peer_id: str, reason: str, msg_id: str) -> None:
        if reason in ("expired", "hub_forgotten"):  # whether it arrived was not known when it was given up
            return
        assert msg_id not in self.arrived[other.hub_id], f"arrived, and told as {reason}: {msg_id[-4:]}"
        if reason == "peer_gone":
            there = other.hub.state.by_peer_id.get(peer_id)
            assert there is None or self.restored, f"told as gone, and is there: {there and there.name}"
        else:
            assert reason == "peer_not_found" or (reason == "blocked" and self.blocked), reason

    def check_arrived(self, node: Node, other: Node, msg_id: str) -> None:
        found = other.rows(
            "SELECT m.mid, m.box FROM messages AS m JOIN hubs AS h ON h.no = m.origin"
            " WHERE m.msg_id = ? AND h.key = ?",
            msg_id,
            node.hub_id,
        )
        if not found:
            last = max(step for _, step in self.orders[msg_id])
            assert last <= self.restored.get(other.hub_id, -1), f"lost on the way: {msg_id[-4:]}"
            return
        [(mid, box)] = found
        ring = other.rows("SELECT 1 FROM ring WHERE mid = ? AND box = ?", mid, box)
        ended = other.rows("SELECT 1 FROM receipts WHERE mid = ? AND box = ?", mid, box)
        assert len(ring) + len(ended) == 1, f"lost in the mailbox: {msg_id[-4:]}"

    def check_order(self, node: Node) -> None:
        """From each sender to each recipient in the order of sending."""
        latest: dict[tuple[int, int, int], int] = {}
        for origin, sender, box, msg_id in node.rows(
            "SELECT origin, sender_no, box, msg_id FROM messages WHERE origin > 0 ORDER BY mid"
        ):
            orders = self.orders[msg_id]
            attempt = self.attempts[msg_id]
            if len(orders) > 1 or orders[0][1] <= self.restored.get(attempt.node.hub_id, -1):
                continue
            key = origin, sender, box
            assert latest.get(key, 0) < orders[0][0], f"out of order at {node.hub_id}: {msg_id[-4:]}"
            latest[key] = orders[0][0]


def _pushes(peer: Any) -> bool:
    return bool(peer.online and (peer.session.hello.push or peer.session.hello.bell))


WEIGHTS: dict[str, float] = {
    "go": 40,
    "rest": 2,
    "send": 14,
    "again": 3,
    "reply": 4,
    "broadcast": 0.7,
    "read": 5,
    "page": 5,
    "ack": 6,
    "open": 5,
    "close": 1,
    "rename": 1.5,
    "add": 0.5,
    "forget": 1,
    "block": 0.7,
    "list": 0.5,
    "link": 4,
    "cut": 2.5,
    "hold": 1.5,
    "kill": 1,
    "stop": 0.3,
    "begin": 1,
    "disk": 1,
    "time": 1.5,
    "jump": 0.4,
    "backup": 0.6,
    "restore": 0.3,
    "configure": 0.5,
    "forget_hub": 0.1,
}


def make_history(seed: int, length: int) -> list[Step]:
    """All decisions of a run."""
    choice = random.Random(seed)
    first = [("open", choice.getrandbits(32)) for _ in range(4)]
    first += [("link", choice.getrandbits(32)), ("rest", choice.getrandbits(32))]
    kinds = choice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=length)
    return first + [(kind, choice.getrandbits(32)) for kind in kinds]


def shared_memory() -> str | None:
    """Where files cost no disk, if there is such a place."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() else None


@contextmanager
def small_windows() -> Iterator[None]:
    """Windows and parts small enough to be full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "WINDOW_FRAMES", WINDOW)
        patch.setattr(outbox, "WINDOW_BYTES", WINDOW_BYTES)
        patch.setattr(link_wire, "PRESENCE_PART", 2)
        yield


def outcome(seed: int, steps: Sequence[Step]) -> tuple[Exception | None, list[str]]:
    """What went wrong in a history, if anything, and what was done in it."""
    with tempfile.TemporaryDirectory(dir=shared_memory()) as root, small_windows():
        load = Workload(Path(root), seed)
        try:
            load.run(steps)
        except Exception as error:
            return error, load.log
        finally:
            load.land.close()
        return None, load.log


def _kind(error: Exception | None) -> str:
    """What it is about, without what is told in numbers."""
    return re.sub(r"\w*\d\w*", "", f"{type(error).__name__} {error}")[:60]


def shrink(seed: int, steps: list[Step], tries: int = 400) -> list[Step]:
    """A short history that fails too: parts are left out as long as it does."""
    kind = _kind(outcome(seed, steps)[0])
    size = len(steps) // 2
    while size and tries > 0:
        start = 0
        while start < len(steps) and tries > 0:
            fewer = steps[:start] + steps[start + size :]
            tries -= 1
            if _kind(outcome(seed, fewer)[0]) == kind:
                steps = fewer
            else:
                start += size
        size //= 2
    return steps


def check(seed: int, length: int) -> None:
    """Run the history of a seed.

    Raises:
        AssertionError: with the shortest history that fails as well.
    """
    steps = make_history(seed, length)
    if outcome(seed, steps)[0] is None:
        return
    steps = shrink(seed, steps)
    error, log = outcome(seed, steps)
    told = "\n".join(log)
    raise AssertionError(f"seed {seed}: {error}\nreplay: outcome({seed}, {steps})\n{told}") from error
