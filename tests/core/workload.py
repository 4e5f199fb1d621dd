"""A seeded random load on the core, with everything that can go wrong on the way, and what must hold.

Units are committed late, results come later still, sessions close and come back, the disk refuses, the
hub dies and starts again from what was committed. A failing seed replays.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from ecorelay import names, wire
from ecorelay.core.events import ClockJumped, Stored, StoreFailed, Tick
from ecorelay.core.ops import Op
from ecorelay.core.records import Peer
from ecorelay.core.state import unread_of
from ecorelay.errors import RelayError
from tests.core.helpers import Client, World

NAMES = ("ann", "bob", "cat", "dan", "eve")
GROUPS = ("red", "blue")
ROOMS = ("hall", "yard")
LEASE_S = 30.0


class Watched:
    """One connection as its adapter sees it, and what must not happen to it."""

    def __init__(self, client: Client, carrier_fails: bool) -> None:
        self.client = client
        self.carrier_fails = carrier_fails
        self.seen = 0
        """How many of `client.got` were looked at."""
        self.unacked: deque[wire.Push] = deque()
        self.pushed: dict[str, float] = {}
        """Mail that was pushed here and did not fail, and when."""
        self.accepted: dict[str, int] = {}
        """Mail that the carrier accepted, and what the next req_id was then."""
        self.ever_pushed: set[str] = set()
        self.last_mid = 0
        self.pages: dict[int, wire.InboxPage] = {}
        """Open leases: not confirmed, released or lapsed."""
        self.until: dict[int, float] = {}
        self.rereads: set[int] = set()
        """Leases of pages by since_id."""
        self.histories: dict[str, wire.GroupPage] = {}


class Workload:
    """See the module.

    Args:
        seed: of all decisions.
        evicting: small rings, so that mail is evicted; then counts of unread mail are only bounded.
    """

    def __init__(self, seed: int, *, evicting: bool) -> None:
        self.random = random.Random(seed)
        self.evicting = evicting
        self.world = World(
            mailbox_messages=8 if evicting else 10_000,
            push_window_messages=6,
            push_window_bytes=400,
            ping_s=50.0,
            room_members=4,
            group_members=4,
            groups=2,
            rooms=2,
            room_backlog_bytes=300,
            sends_per_minute=0,
            broadcasts_per_hour=0,
        )
        self.world.held = True
        self.world.lingering = True
        self.world.store.refuse = self._refuse
        self.results: deque[Stored | StoreFailed] = deque()
        """Committed, and the core has not heard of it."""
        self.failing = 0.0
        self.open: list[Watched] = []
        self.zombies: list[Client] = []
        """The hub wants them closed; they are not yet."""
        self.acknowledged: dict[str, int] = {}
        """msg_id → recipient no, of what was answered `sent`."""
        self.accepted: set[str] = set()
        """By some carrier."""
        self.confirmed: set[tuple[int, str]] = set()
        self.notices: dict[str, tuple[int, int]] = {}
        """Number of a notice → sender and recipient."""
        self.told: Counter[str] = Counter()
        """Number of a notice → of how many messages its sender has confirmed to know."""
        self.mutations: list[tuple[str, wire.Mutation]] = []
        self.numbers = 0
        self.purges = 0

    # --- the load --------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Do so many random things, then come to rest and check that nothing is left over."""
        for _ in range(steps):
            self.step()
            self.look()
        self.failing = 0.0
        self.come_to_rest()
        self.world.tick(30.0)  # the longest wait, and every lease
        self.come_to_rest()
        self.check_answered()
        for watched in list(self.open):
            self.close(watched)
        self.come_to_rest()
        self.world.idle()

    def step(self) -> None:
        weights: list[tuple[Callable[[], None], float]] = [
            (self.request, 12),
            (self.commit, 8),
            (self.deliver, 8),
            (self.acknowledge, 6),
            (self.settle_page, 5),
            (self.connect, 1.5),
            (self.disconnect, 0.4),
            (self.bury, 1),
            (self.time_passes, 2),
            (self.trouble, 0.15),
            (self.come_to_rest, 0.25),
            (self.crash, 0.05),
        ]
        choices, odds = zip(*weights, strict=True)
        self.random.choices(choices, odds)[0]()

    def commit(self) -> None:
        self.results.extend(self.world.store.commit(self.random.randint(1, 4)))

    def deliver(self) -> None:
        for _ in range(min(len(self.results), self.random.randint(1, 4))):
            self.world.feed(self.results.popleft())

    def trouble(self) -> None:
        self.failing = self.random.choice((0.0, 0.0, 0.0, 0.2, 0.7))
        if self.random.random() < 0.2:
            self.world.feed(ClockJumped(40.0))

    def _refuse(self, unit: tuple[Op, ...]) -> RelayError | None:
        if self.failing and self.random.random() < self.failing:
            return RelayError("mailbox_error", "the disk is full")
        return None

    def time_passes(self) -> None:
        # Not from deadline to deadline: a hub may be late.
        seconds = self.random.choice((0.01, 0.1, 0.25, 0.4, 2.0, 31.0, 61.0))
        if seconds < 1:
            self.world.clock.forward(seconds)
            self.world.feed(Tick())
        else:
            self.world.tick(seconds)

    def connect(self) -> None:
        if len(self.open) >= 9:
            return
        name = self.random.choice(NAMES)
        number = self.random.randint(1, 3)
        role = self.random.choice(("session", "session", "session", "session", "attach", "observer"))
        fields: dict[str, Any] = {"role": role, "client": "claude", "cwd": f"/src/{name}"}
        fields["push"] = role == "session" and self.random.random() < 0.7
        if role == "attach":
            fields["create"] = self.random.random() < 0.5
        else:
            fields["pinned"] = self.random.random() < 0.5
            fields["fallback"] = self.random.random() < 0.7
            if self.random.random() < 0.7:
                fields["identity"] = f"{name}-{number}"
            if self.random.random() < 0.5:
                fields["instance"] = names.new_id(1, lambda _: number)
            known = self.world.state.names.get(name)
            if known is not None and self.random.random() < 0.4:
                fields["peer_id"] = known.peer_id
        client = self.world.open(name, pid=self.random.choice((0, 7, 8)), **fields)
        if role == "observer":
            client.ask(wire.Watch, texts=self.random.random() < 0.5)
        self.world.dead_pids = {8} if self.random.random() < 0.5 else set()
        self.open.append(Watched(client, self.random.random() < 0.15))

    def disconnect(self) -> None:
        if self.open:
            self.close(self.random.choice(self.open))

    def close(self, watched: Watched) -> None:
        self.open.remove(watched)
        self._let_go(watched)
        watched.client.close()

    def _let_go(self, watched: Watched) -> None:
        watched.pages.clear()
        watched.histories.clear()

    def bury(self) -> None:
        """The shell closes what the core wanted closed."""
        for watched in list(self.open):
            if watched.client.close_reason:
                self.close(watched)

    def crash(self) -> None:
        self.results.clear()
        self.open.clear()
        self.world.restart()

    def request(self) -> None:
        live = [watched.client for watched in self.open if not watched.client.close_reason]
        if not live:
            return
        client = self.random.choice(live)
        acts = client.welcome is not None and client.hello.role != "observer"
        if not acts and self.random.random() < 0.9:
            return
        self.numbers += 1
        text = f"{self.numbers} " + "x" * self.random.choice((1, 1, 5, 90))
        pick = self.random.random()
        if pick < 0.3:
            self._mutate(client, wire.Send, to=self._address(), text=text, urgent=pick < 0.1)
        elif pick < 0.36:
            self._mutate(client, wire.Broadcast, question=text, exclude_self=self.random.random() < 0.8)
        elif pick < 0.42 and (client.pushes or self.acknowledged):
            sent = [push.msg_id for push in client.pushes] or list(self.acknowledged)
            self._mutate(client, wire.Reply, ask_id=self.random.choice(sent), text=text)
        elif pick < 0.6:
            self._read(client)
        elif pick < 0.65:
            self._mutate(client, wire.RoomSend, room=self._room(client), text=text)
        elif pick < 0.69:
            going = wire.Leave if self.random.random() < 0.25 else wire.Join
            client.ask(going, room=self.random.choice(ROOMS))
        elif pick < 0.78:
            self._mutate(client, wire.GroupSend, group=self._group(client), text=text)
        elif pick < 0.84:
            self._govern(client)
        elif pick < 0.9:
            client.ask(wire.GroupHistory, group=self._group(client), limit=self.random.choice((1, 2, 50)))
        elif pick < 0.915:
            self._mutate(client, wire.Rename, new_name=self.random.choice((*NAMES, "fay", "gus")))
        elif pick < 0.92:
            self._mutate(client, wire.AddPeer, name=self.random.choice((*NAMES, "hal")))
        elif pick < 0.93:
            client.ask(wire.ForgetPeer, name=self.random.choice((*NAMES, "fay", "gus")))
        elif pick < 0.935:
            client.ask(wire.Block, name=self._address(), blocked=self.random.random() < 0.3)
        elif pick < 0.938:
            self.purges += 1
            past = self.random.choice((0, 500, 5_000, 60_000))
            client.ask(wire.Purge, before=self.world.clock.wall - past, unread=self.random.random() < 0.5)
        elif pick < 0.943 and self.acknowledged:
            client.ask(wire.Trace, msg_id=self.random.choice(list(self.acknowledged)))
        elif pick < 0.975:
            self._say_again(client)
        else:
            kind = self.random.choice((wire.Peers, wire.Rooms, wire.Groups, wire.HubStatus))
            client.ask(kind)

    def _address(self) -> str:
        known = [peer.name for peer in self.world.state.peers.values()]
        if known and self.random.random() < 0.9:
            return self.random.choice(known)
        return self.random.choice((*NAMES, "fay", "bob@here", "bob@there", "nobody"))

    def _room(self, client: Client) -> str:
        peer = self.world.state.by_peer_id.get(client.peer_id) if client.welcome else None
        mine = sorted(peer.rooms) if peer is not None else []
        return self.random.choice(mine or ROOMS)

    def _group(self, client: Client) -> str:
        peer = self.world.state.by_peer_id.get(client.peer_id) if client.welcome else None
        mine = [self.world.state.groups[no].name for no in sorted(peer.groups)] if peer is not None else []
        return self.random.choice(mine if mine and self.random.random() < 0.9 else GROUPS)

    def _mutate(self, client: Client, kind: Callable[..., Any], **fields: Any) -> None:
        req_id = client.ask(kind, **fields)
        request = client.asked[req_id]
        assert isinstance(request, wire.Mutation)
        if client.welcome is not None:
            self.mutations.append((client.peer_id, request))

    def _govern(self, client: Client) -> None:
        group = self.random.choice(GROUPS)
        other = self.random.choice(NAMES)
        kind = self.random.choice(
            (
                *[wire.GroupCreate] * 3,
                *[wire.GroupInvite] * 3,
                wire.GroupRemove,
                wire.GroupLeave,
                wire.GroupDelete,
            )
        )
        if kind is wire.GroupCreate:
            self._mutate(client, kind, name=group, members=(other,))
        elif kind is wire.GroupInvite:
            self._mutate(client, kind, group=group, peer=other)
        elif kind is wire.GroupRemove:
            self._mutate(client, kind, group=group, peer=other, reason="because")
        elif kind is wire.GroupLeave or self.random.random() < 0.3:
            self._mutate(client, kind, group=group)

    def _read(self, client: Client) -> None:
        pick = self.random.random()
        if pick < 0.15:
            waiting = [req for req in client.asked if req not in client.answers]
            if waiting:
                client.say(wire.Cancel(req_id=self.random.choice(waiting)))
        elif pick < 0.25 and self.acknowledged:
            client.ask(wire.Inbox, since_id=self.random.choice(list(self.acknowledged)))
        elif pick < 0.5:
            client.ask(wire.Inbox, wait=self.random.choice((0.2, 1.0, 20.0)), limit=2)
        else:
            client.ask(wire.Inbox, limit=self.random.choice((1, 3, 100)), budget=1000)

    def _say_again(self, client: Client) -> None:
        """A request of this peer, repeated after who knows what."""
        mine = [
            request for peer_id, request in self.mutations if client.welcome and peer_id == client.peer_id
        ]
        if mine:
            request = self.random.choice(mine[-10:])
            fields = {field: getattr(request, field) for field in request.__struct_fields__}
            if self.random.random() < 0.1 and "text" in fields:
                fields["text"] += " but other"
            client.ask(type(request), **{**fields, "resend": True, "req_id": None})

    def acknowledge(self) -> None:
        """A carrier accepts what was pushed, in order; or cannot."""
        busy = [watched for watched in self.open if watched.unacked]
        if not busy:
            return
        watched = self.random.choice(busy)
        count = self.random.randint(1, len(watched.unacked))
        pushes = [watched.unacked.popleft() for _ in range(count)]
        ids = tuple(push.msg_id for push in pushes)
        if watched.carrier_fails and self.random.random() < 0.5:
            for msg_id in ids:
                watched.pushed.pop(msg_id, None)
            watched.client.say(wire.PushFailed(msg_ids=ids))
        else:
            self.accepted.update(ids)
            for msg_id in ids:
                watched.accepted[msg_id] = watched.client.next_req
            watched.client.say(wire.Pushed(msg_ids=ids, carrier=self.random.choice(("inbox", "hook"))))

    def settle_page(self) -> None:
        """The adapter learns what became of a page: it went out, or was cancelled."""
        watched = self.random.choice(self.open) if self.open else None
        if watched is None or watched.client.close_reason:
            return
        client = watched.client
        if watched.pages and self.random.random() < 0.7:
            lease = self.random.choice(list(watched.pages))
            page = watched.pages.pop(lease)
            if self.random.random() < 0.75:
                peer = self._peer_of(client)
                for mail in page.messages:
                    number, _, total = mail.msg_id.partition("-")
                    if total:
                        self.told[number] = max(self.told[number], int(total))
                    elif mail.text is not None and mail.kind != "room" and peer is not None:
                        self.confirmed.add((peer.no, mail.msg_id))
                self._confirm(client, page)
            else:
                client.ask(wire.Release, lease=lease)
        elif watched.histories:
            group = self.random.choice(list(watched.histories))
            shown = watched.histories.pop(group)
            if self.random.random() < 0.75:
                client.ask(wire.GroupConfirm, group=group, upto=shown.upto)
            else:
                client.ask(wire.GroupRelease, group=group)

    def _confirm(self, client: Client, page: wire.InboxPage) -> None:
        shown = [mail for mail in page.messages if mail.text is not None]
        client.ask(
            wire.Confirm,
            lease=page.lease,
            msg_ids=tuple(m.msg_id for m in shown if m.kind != "room" and names.is_id(m.msg_id)),
            notices=tuple(m.msg_id for m in shown if not names.is_id(m.msg_id)),
        )

    def _peer_of(self, client: Client) -> Peer | None:
        """None: it was forgotten, or is being forgotten."""
        return self.world.state.by_peer_id.get(client.peer_id)

    # --- what must hold --------------------------------------------------------------------------------

    def look(self) -> None:
        """What each connection got since the last look."""
        for watched in self.open:
            client = watched.client
            for frame in client.got[watched.seen :]:
                if isinstance(frame, wire.Ping) and self.random.random() < 0.8:
                    client.say(wire.Pong())
                elif isinstance(frame, wire.Push):
                    self._look_at_push(watched, frame)
                elif isinstance(frame, wire.InboxPage):
                    self._look_at_page(watched, frame)
                elif isinstance(frame, wire.GroupPage) and frame.messages:
                    watched.histories[frame.group] = frame
                elif isinstance(frame, wire.Sent):
                    self._look_at_sent(client, frame)
            watched.seen = len(client.got)
        for session in self.world.state.sessions.values():
            limits = self.world.state.limits
            assert len(session.inflight) <= limits.push_window_messages
            assert session.inflight_bytes <= limits.push_window_bytes + 100, "more than one over the window"
            assert session.inflight_bytes == sum(flight.size for flight in session.inflight.values())
            assert session.inflight_mail == sum(1 for flight in session.inflight.values() if flight.mid)

    def _leased(self, peer_id: str) -> set[str]:
        """What is out in pages of this peer; a page by since_id locks nothing that another has."""
        now = self.world.clock.mono
        return {
            mail.msg_id
            for watched in self.open
            if watched.client.welcome is not None
            and watched.client.peer_id == peer_id
            and not watched.client.close_reason
            for lease, page in watched.pages.items()
            if now < watched.until[lease] and lease not in watched.rereads
            for mail in page.messages
            if mail.text is not None and not mail.seen
        }

    def _look_at_push(self, watched: Watched, push: wire.Push) -> None:
        watched.unacked.append(push)
        if push.room is not None or push.group is not None:
            return
        assert push.msg_id not in watched.ever_pushed, f"pushed twice in one session: {push}"
        assert push.msg_id not in self._leased(watched.client.peer_id), f"pushed what is being read: {push}"
        mid = self.world.store.mids[push.msg_id]
        assert mid > watched.last_mid, f"out of order: {push}"
        watched.last_mid = mid
        watched.ever_pushed.add(push.msg_id)
        watched.pushed[push.msg_id] = self.world.clock.mono

    def _look_at_page(self, watched: Watched, page: wire.InboxPage) -> None:
        request = watched.client.asked[page.req_id]
        assert isinstance(request, wire.Inbox)
        for (sender, recipient, _), row in self.world.store.notices.items():
            self.notices[f"n{row.number}"] = (sender, recipient)
        mids = [self.world.store.mids[m.msg_id] for m in page.messages if m.msg_id in self.world.store.mids]
        assert mids == sorted(mids), "a page out of order"
        if request.since_id is None:
            assert len([m for m in page.messages if names.is_id(m.msg_id)]) <= request.limit
            for mail in page.messages:
                if mail.text is None or mail.kind == "room" or not names.is_id(mail.msg_id):
                    continue
                assert mail.msg_id not in self._leased(watched.client.peer_id), f"read twice at once: {mail}"
                at = watched.pushed.get(mail.msg_id)
                # An adapter that is silent for so long loses the privilege, until it speaks.
                fresh = at is not None and (
                    self.world.clock.mono - at < LEASE_S
                    or watched.accepted.get(mail.msg_id, page.req_id + 1) <= page.req_id
                )
                assert not fresh, f"pushed, and read with its text as well: {mail}"
        else:
            watched.rereads.add(page.lease)
        if page.lease:
            watched.pages[page.lease] = page
            # The hub counted from when it answered, a moment before.
            watched.until[page.lease] = self.world.clock.mono + LEASE_S - 0.001

    def _look_at_sent(self, client: Client, sent: wire.Sent) -> None:
        store = self.world.store
        request = client.asked[sent.req_id]
        if isinstance(request, wire.GroupSend):
            assert sent.status == "queued"
            assert sent.msg_id in store.line_ids or request.group not in {
                g.name for g in store.groups.values()
            }
            return
        mid = store.mids[sent.msg_id]
        (recipient,) = store.message(mid).recipients
        self.acknowledged[sent.msg_id] = recipient
        if sent.status == "delivered":
            row = store.rows.get((recipient, mid))  # None: it was seen, and purged
            had = row is None or row.seen_at > 0 or sent.msg_id in self.accepted
            assert had, f"nobody had it: {sent}"

    def come_to_rest(self) -> None:
        """Everything in the store is done and heard of; nobody is kept waiting any longer than allowed."""
        self.rest()
        self.check_notices()
        self.check_counts()
        self.check_durable()
        for msg_id, no in self.acknowledged.items():
            row = self.world.store.rows.get((no, self.world.store.mids[msg_id]))
            if row is None:
                assert self.purges, f"lost: {msg_id}"
            elif row.state == "seen":
                assert (no, msg_id) in self.confirmed or row.replied, f"nobody confirmed {msg_id}"
            else:
                assert row.in_ring or row.state in ("evicted", "dead", "expired"), f"lost: {msg_id}"

    def rest(self) -> None:
        while self.results or self.world.store.pending:
            self.results.extend(self.world.store.commit())
            while self.results:
                self.world.feed(self.results.popleft())
        self.look()

    def check_notices(self) -> None:
        """Of every message that left a ring unread its sender was told, or will be, if it is still there."""
        store = self.world.store
        open_notices: Counter[str] = Counter()
        for (sender, recipient, _), row in store.notices.items():
            self.notices[f"n{row.number}"] = (sender, recipient)
            open_notices[f"n{row.number}"] = row.total
        evicted = Counter(dict(store.unseen.items()))
        known: Counter[tuple[int, int]] = Counter()
        for number, pair in self.notices.items():
            known[pair] += open_notices[number] or self.told[number]
        for pair in {*known, *evicted}:
            if pair[0] in store.peers:
                assert known[pair] == evicted[pair], pair

    def check_answered(self) -> None:
        for watched in self.open:
            if watched.client.close_reason:
                continue
            waits = [
                request
                for req_id, request in watched.client.asked.items()
                if req_id not in watched.client.answers
            ]
            assert not waits, f"never answered: {waits}"

    def check_counts(self) -> None:
        """What the core believes is unread is what is unread."""
        state, store = self.world.state, self.world.store
        for peer in state.peers.values():
            if not peer.loaded:
                continue
            rows = store.unread(peer.no)
            assert peer.unread == len(rows), peer.name
            assert peer.notices == len(store.notices_for(peer.no)), peer.name
            if self.evicting:
                assert len(peer.pushed) <= 24, "marks outgrow the ring"
                continue
            taken = set(peer.pushed.values())
            if peer.session is not None:
                taken |= {flight.mid for flight in peer.session.inflight.values()}
            out = {lease.lease: lease.unread for lease in state.leases.values() if lease.peer is peer}
            taken |= {store.mids[each] for ids in out.values() for each in ids if names.is_id(each)}
            # Nobody reads what is leased (but a lease that the disk refused to end is over all the same).
            assert all(row.mid in taken for row in rows if row.lease in out)
            free = [row for row in rows if row.mid not in taken]
            groups = {no: store.group_unread(no, peer.no) for no in peer.groups}
            known = dict(peer.group_unread)
            for no, lease in peer.history.items():
                known[no] = known.get(no, 0) + lease.hidden
            assert {no: count for no, count in known.items() if count} == {
                no: count for no, count in groups.items() if count
            }, peer.name
            shown = sum(1 for ids in out.values() for each in ids if not names.is_id(each))
            # Of a notice that grew two pages may be out, of which one confirms it all.
            mail = max(0, len(free) + peer.notices - shown)
            truth = mail + len(peer.room_mail) + sum(peer.group_unread.values())
            assert unread_of(peer) == truth, (peer.name, unread_of(peer), truth)

    def check_durable(self) -> None:
        """A hub that starts now knows what this one knows."""
        known, found = self.world.state, self.world.store.snapshot()
        assert {(p.no, p.peer_id, p.name, p.auto) for p in known.peers.values()} == {
            (row.no, row.peer_id, row.name, row.auto) for row in found.peers
        }
        assert {key: peer.no for key, peer in known.names.items()} == {
            names.key(row.name): row.no for row in found.peers
        }
        assert {key: (peer.no, until) for key, (peer, until) in known.forwards.items()} == {
            names.key(old): (no, until) for old, no, until in found.forwards
        }
        assert {(g.no, g.group_id, g.name, g.admin_no, tuple(g.members)) for g in known.groups.values()} == {
            (row.no, row.group_id, row.name, row.admin_no, row.members) for row in found.groups
        }
        assert sorted(
            [(known.peers[no].name, no) for no in known.blocked]
            + [(address, 0) for address in known.blocked_far.values()],
            key=lambda block: block[0].lower(),
        ) == [*found.blocks]
        assert not known.reserved
