"""The switch against a model, whatever hubs do: bounds, order, credit, and nothing crosses realms."""

import itertools
from collections import defaultdict, deque
from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ecorelay import relay_wire
from ecorelay.relay_wire import CLOSE, CREDIT, CREDIT_MORE, DATA, OPEN, STREAMS_MAX
from ecorelay_relay_server.bounds import LANE_MAX, NOTES_MAX
from ecorelay_relay_server.switch import End, Switch, Wake
from tests.relay_server.switches import address, card

NAMES = "abcd"
REALMS = {"red": 3, "blue": 3}
STREAMS = [number.to_bytes(8, "big") for number in range(STREAMS_MAX + 2)]
hub_names = st.sampled_from(NAMES)
realm_names = st.sampled_from(sorted(REALMS))


class AnySwitch(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.at = Switch(dict(REALMS), 5)
        self.hubs = {}
        self.sent = defaultdict(deque)
        """(source hub, destination hub, stream) → payloads that may still arrive, in order."""
        self.sleeping = set()
        self.numbers = itertools.count()

    # --- what happens ---

    @rule(name=hub_names, realm=realm_names)
    def join(self, name, realm):
        if self.at.full(realm, address(name)):
            assert (realm, name) not in self.hubs
            return
        hub, actions = self.at.join(realm, card(name))
        self.perform(actions)
        self.hubs[realm, name] = hub

    @rule(name=hub_names, realm=realm_names)
    def leave(self, name, realm):
        hub = self.hubs.pop((realm, name), None)
        if hub is not None:
            self.perform(self.at.leave(hub, "closed"))

    @rule(realm=realm_names, name=hub_names, to=hub_names, stream=st.sampled_from(STREAMS))
    def opens(self, realm, name, to, stream):
        if name != to:
            self.say(realm, name, OPEN, to, stream)

    @rule(
        realm=realm_names,
        name=hub_names,
        to=hub_names,
        stream=st.sampled_from(STREAMS[:3]),
        count=st.integers(1, 12),
        size=st.sampled_from([1, 100, 5_000, relay_wire.PIECE_MAX]),
    )
    def sends(self, realm, name, to, stream, count, size):
        for _ in range(count):
            hub: Any = self.hubs.get((realm, name))
            other: Any = self.hubs.get((realm, to))
            payload = next(self.numbers).to_bytes(4, "big").ljust(size, b".")[:size]
            open_ = hub is not None and other is not None and other.address + stream in hub.routes
            self.say(realm, name, DATA, to, stream, payload)
            if open_ and other.address + stream in hub.routes:
                self.sent[hub, other, stream].append(payload)

    @rule(
        realm=realm_names,
        name=hub_names,
        to=hub_names,
        stream=st.sampled_from(STREAMS[:3]),
        count=st.sampled_from([0, 1, 5_000, CREDIT, 2**32 - 1]),
    )
    def grants(self, realm, name, to, stream, count):
        self.say(realm, name, CREDIT_MORE, to, stream, count.to_bytes(4, "big"))

    @rule(realm=realm_names, name=hub_names, to=hub_names, stream=st.sampled_from(STREAMS))
    def closes(self, realm, name, to, stream):
        self.say(realm, name, CLOSE, to, stream)

    @rule(realm=realm_names, name=hub_names, message=st.binary(max_size=80))
    def talks_nonsense(self, realm, name, message):
        hub = self.hubs.get((realm, name))
        if hub is not None:
            self.perform(self.at.data(hub, message))

    @rule()
    def spread(self):
        self.perform(self.at.spread())

    @rule(realm=realm_names, name=hub_names, limit=st.sampled_from([1, 70_000, 1 << 30]))
    def take(self, realm, name, limit):
        hub = self.hubs.get((realm, name))
        if hub is None:
            return
        taken, actions = self.at.take(hub, limit)
        self.perform(actions)
        for each in taken:
            if not isinstance(each, str):
                self.arrived(hub, realm, relay_wire.take_apart(each.head + bytes(each.payload)))
        if taken:
            self.sleeping.discard(hub)
        else:
            self.sleeping.add(hub)

    # --- what is checked ---

    def say(self, realm, name, kind, to, stream, payload=b""):
        hub = self.hubs.get((realm, name))
        if hub is not None and name != to:
            self.perform(self.at.data(hub, relay_wire.piece(kind, address(to), stream, payload)))

    def perform(self, actions):
        for action in actions:
            match action:
                case Wake(hub=hub):
                    assert hub in self.sleeping, "woken twice, or never asleep"
                    self.sleeping.discard(hub)
                case End(hub=hub):
                    assert not self.at.here(hub)
                    self.hubs = {key: each for key, each in self.hubs.items() if each is not hub}

    def arrived(self, hub, realm, piece):
        source = next(each for each in self.at.realms[realm].hubs.values() if each.address == piece.address)
        assert source.realm is hub.realm
        assert source is not hub
        if piece.kind == DATA:
            waiting = self.sent[source, hub, piece.stream]
            payload = bytes(piece.payload)
            # What was sent before a stream of that number was closed may be missing, but nothing is
            # out of order, twice, or of somebody else.
            assert payload in waiting
            while waiting.popleft() != payload:
                pass

    @invariant()
    def nothing_grows_beyond_its_bound(self):
        at = self.at
        everyone = [hub for realm in at.realms.values() for hub in realm.hubs.values()]
        assert {*everyone} == {*self.hubs.values()}
        assert at.queued == sum(hub.outbox.queued + hub.flying for hub in everyone)
        assert 2 * at.streams == sum(len(hub.routes) for hub in everyone)
        assert at.streams == sum(hub.opened for hub in everyone)
        for hub in everyone:
            lanes = hub.outbox._lanes.values()
            assert hub.outbox.queued == sum(lane.size for lane in lanes)
            assert all(lane.size for lane in lanes)
            for lane in lanes:
                waiting = [item for item in lane._items if item.queued]
                assert lane.size == sum(item.cost for item in waiting)
                assert lane._gone == len(lane._items) - len(waiting)
                assert sum(len(each) for each in lane._streams.values()) == len(waiting)
            assert all(lane.size <= LANE_MAX + 100_000 for lane in lanes)
            assert len(hub.outbox._notes) <= NOTES_MAX
            assert all(0 < count <= STREAMS_MAX for count in hub.pairs.values())

    @invariant()
    def every_stream_has_two_ends_of_one_realm_and_its_credit(self):
        for realm in self.at.realms.values():
            for hub in realm.hubs.values():
                counts: dict[bytes, int] = defaultdict(int)
                for key, route in hub.routes.items():
                    assert realm.hubs[key[:32]] is route.to
                    assert route.to.routes[hub.address + key[32:]] is route.back
                    assert route.back.back is route
                    assert 0 <= route.left <= CREDIT
                    counts[key[:32]] += 1
                assert counts == hub.pairs

    @invariant()
    def who_sleeps_has_nothing_to_read_but_news(self):
        for hub in self.hubs.values():
            if hub in self.sleeping:
                assert hub.outbox.queued == 0
                assert not hub.outbox._notes


AnySwitch.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
test_any_switch = AnySwitch.TestCase
