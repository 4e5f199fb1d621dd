"""Streams between two hubs that run: both dial, one hangs, one talks nonsense, one is slow, all are cut."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ecorelay import link_wire, names, wire
from ecorelay.core import rooms as core_rooms
from ecorelay.core.events import SessionFrame, SessionOpened
from ecorelay.core.hub import Hub
from ecorelay.daemon import guard as guard_module, links as links_module
from ecorelay.daemon.clock import SystemClock
from ecorelay.daemon.links import Links, Road
from ecorelay.daemon.perform import Facts, Shell
from ecorelay.daemon.reasons import Tally
from ecorelay.daemon.run import _deliver
from ecorelay.daemon.store import Store
from ecorelay.limits import Limits

SOON = 0.05
"""What takes a second or more in earnest."""


class Cut(trio.abc.Stream):
    """A stream that a test may hang, both ways: nobody is told."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.hangs = False
        self.breaks = False
        self._sending = trio.Lock()

    async def send_all(self, data: Any) -> None:
        if self.hangs:
            await trio.lowlevel.checkpoint()
            return
        await self.slip_in(data)

    async def slip_in(self, data: Any) -> None:
        """Send this, whatever the hub is sending."""
        async with self._sending:
            await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            data = await self.stream.receive_some(max_bytes)
            if self.breaks:
                raise trio.BrokenResourceError
            if not self.hangs:
                return bytes(data)
            if not data:
                await trio.sleep_forever()

    async def aclose(self) -> None:
        if not self.hangs:
            await self.stream.aclose()


class Lagging(Cut):
    """One on which everything takes its time, and nothing overtakes anything."""

    lag_s = 0.05

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(max_bytes)
        await trio.sleep(self.lag_s)
        return data


class Slow(Cut):
    """One over which only so much comes in a second."""

    per_s = 30_000.0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(min(max_bytes or 1_000, 1_000))
        await trio.sleep(len(data) / self.per_s)
        return data


class Proven:
    """What the bridge hands over."""

    def __init__(self, stream: trio.abc.Stream, hub_id: str, relayed: bool = False) -> None:
        self.stream = stream
        self.hub_id = hub_id
        self.address = f"{hub_id}:9700"
        self.relayed = relayed


class Out:
    """A session's outward half."""

    dirty = False

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def put(self, data: bytes) -> None:
        self.frames += [wire.decode_to_session(line) for line in data.splitlines()]

    def offer(self, data: bytes, excuse: object) -> bool:
        return True

    def flush(self) -> None:
        pass

    def end(self, reason: str) -> None:
        pass


class Site:
    """One hub that runs, and what it asked for."""

    def __init__(self, hub_id: str, home: Path) -> None:
        home.mkdir(mode=0o700)
        self.hub_id = hub_id
        limits = Limits(sends_per_minute=0)
        self.store = Store.open(home, limits, "process", time.time_ns() // 1_000_000)
        self.core = Hub(
            hub_id=hub_id,
            version="1",
            new_id=lambda now: names.new_id(now, secrets.randbits),
            limits=limits,
            snapshot=self.store.snapshot(),
        )
        self.shell = Shell(
            core=self.core,
            store=self.store,
            clock=SystemClock(),
            facts=Facts(pid=1, data_dir="", durability="", started=0),
            tally=Tally(),
            stop=lambda _: None,
        )
        self.wanted: list[str] = []
        self.links = Links(
            self.shell,
            hub_id,
            seek=lambda hub: self.wanted.append(f"seek {hub}"),
            rest=lambda hub, relayed: self.wanted.append(f"rest {hub}{' but directly' * relayed}"),
            room=trio.lowlevel.checkpoint,
        )
        self.store.start(partial(_deliver, trio.lowlevel.current_trio_token(), self.shell))
        self._sid = 0

    def open(self, name: str) -> tuple[int, Out]:
        self._sid += 1
        out = self.shell.sessions[self._sid] = Out()
        hello = wire.Hello(versions=(1, 1), name=name, pinned=True)
        self.shell.feed((SessionOpened(self._sid, hello, 0),))
        return self._sid, out

    def ask(self, sid: int, request: Any) -> None:
        self.shell.feed((SessionFrame(sid, request),))

    def say(self, sid: int, room: str, text: str) -> None:
        op = names.new_id(time.time_ns() // 1_000_000, secrets.randbits)
        self.ask(sid, wire.RoomSend(req_id=2, op_id=op, room=room, text=text))

    def send(self, sid: int, to: str, text: str) -> None:
        op = names.new_id(time.time_ns() // 1_000_000, secrets.randbits)
        self.shell.feed((SessionFrame(sid, wire.Send(req_id=1, op_id=op, to=to, text=text)),))

    @property
    def link(self) -> Road | None:
        """The stream that is the link; the one before it may still be closing."""
        found = [road for roads in self.links.roads.values() for road in roads if road.link]
        return max(found, key=lambda road: road.link, default=None)

    def up(self) -> bool:
        return any(hub.up for hub in self.core.state.hubs.values())


async def until(holds: Callable[[], object], *, within_s: float = 10) -> None:
    with trio.fail_after(within_s):
        while not holds():  # noqa: ASYNC110
            await trio.sleep(0.005)


class Pair:
    """Two sites and the streams between them."""

    def __init__(self, one: Site, other: Site, nursery: trio.Nursery) -> None:
        self.one, self.other = one, other
        self.nursery = nursery

    def stream(self, relayed: bool = False, kind: type[Cut] = Cut) -> tuple[Cut, Cut]:
        """Another stream between them; the end of `one` first."""
        here, there = map(kind, trio.testing.memory_stream_pair())
        self.nursery.start_soon(self._serve, self.one, Proven(here, self.other.hub_id, relayed))
        self.nursery.start_soon(self._serve, self.other, Proven(there, self.one.hub_id, relayed))
        return here, there

    async def _serve(self, site: Site, proven: Proven) -> None:
        await site.links.serve(proven)
        await proven.stream.aclose()

    async def both_up(self) -> None:
        await until(lambda: self.one.up() and self.other.up())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LOOK_S", SOON), ("PROBE_S", 0.5), ("SUSPECT_S", 0.8), ("HUNG_S", 1.5)):
        monkeypatch.setattr(links_module, name, seconds)


@asynccontextmanager
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    one, other = Site("a", tmp_path / "a"), Site("B", tmp_path / "b")
    async with trio.open_nursery() as nursery:
        try:
            yield Pair(one, other, nursery)
        finally:
            nursery.cancel_scope.cancel()
    for site in (one, other):
        site.store.close()


async def test_one_stream_becomes_the_link_and_mail_crosses(tmp_path: Path):
    async with pair(tmp_path) as p:
        sid, _ = p.one.open("alice")
        p.other.open("bob")
        p.stream()
        await p.both_up()
        assert (p.one.wanted, p.other.wanted) == (["rest B"], ["rest a"])
        await until(lambda: p.one.core.state.hubs["b"].complete)
        p.one.send(sid, "bob@b", "hello")
        await until(lambda: p.other.core.state.names["bob"].unread)


async def test_of_two_streams_one_is_the_link_and_the_other_takes_its_place(tmp_path: Path):
    async with pair(tmp_path) as p:
        p.stream()
        await p.both_up()
        assert p.one.link is not None
        first: Any = p.one.link.about.stream
        p.stream()
        await trio.sleep(0.7)
        assert p.one.link is not None
        assert p.one.link.about.stream is first
        assert [len(site.links.roads[key]) for site, key in ((p.one, "b"), (p.other, "a"))] == [2, 2]
        await first.aclose()
        await until(lambda: p.one.link is not None and p.one.link.about.stream is not first)
        await p.both_up()
        assert p.one.wanted.count("rest B") == 2


@pytest.mark.parametrize("notices", ["both", "the chooser", "the other"])
async def test_a_stream_that_hangs_is_replaced_by_a_new_one(tmp_path: Path, notices: str):
    async with pair(tmp_path) as p:
        here, there = p.stream()
        await p.both_up()
        if notices != "the other":
            here.hangs = True
        if notices != "the chooser":
            there.hangs = True
        p.stream()
        await until(lambda: p.one.link is not None and p.one.link.about.stream is not here)
        await until(lambda: p.other.link is not None and p.other.link.about.stream is not there)
        await p.both_up()


async def test_who_hears_nothing_looks_for_another_way_and_then_gives_up(tmp_path: Path):
    async with pair(tmp_path) as p:
        here, there = p.stream()
        await p.both_up()
        here.hangs = there.hangs = True
        for site in (p.one, p.other):
            site.links.probe()
        await until(lambda: "seek B" in p.one.wanted and "seek a" in p.other.wanted)
        assert p.one.up()
        await until(lambda: not p.one.up() and not p.other.up())
        assert p.one.links.roads == p.other.links.roads == {}


async def test_a_text_that_takes_longer_than_patience_arrives_by_one_link(tmp_path: Path, monkeypatch):
    """Each part of it is a sign of life, and the other side must hear so: or it began again for ever."""
    async with pair(tmp_path) as p:
        monkeypatch.setattr(links_module, "HUNG_S", 3.0)  # a busy machine may say nothing for a second
        monkeypatch.setattr(links_module, "SUSPECT_S", 2.5)
        p.stream(kind=Slow)
        await p.both_up()
        sid, _ = p.one.open("alice")
        p.other.open("bob")
        await until(lambda: p.one.core.state.hubs["b"].peers)
        p.one.wanted.clear()
        took = 190_000 / Slow.per_s
        assert took > links_module.HUNG_S * 2
        p.one.send(sid, "bob@b", "x" * 190_000)
        await until(lambda: p.other.core.state.names["bob"].unread, within_s=60)
        assert p.one.wanted == [], "no other way was looked for"
        assert p.one.links._links.keys() == {1}


async def test_idle_streams_are_asked_and_kept(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links_module, "IDLE_PING_S", 2 * SOON)
    monkeypatch.setattr(links_module, "IDLE_DEAD_S", 12 * SOON)
    async with pair(tmp_path) as p:
        here, there = p.stream()
        await p.both_up()
        await trio.sleep(20 * SOON)
        assert p.one.link is not None
        assert p.one.link.pings >= 2
        assert p.other.link is not None
        assert p.other.link.pings == 0, "it hears the other one ask"
        assert 0 < p.one.link.round_trip < 1
        details = p.one.links.describe(wire.LinkDetails(hub_id="B"))
        assert (details.address, details.round_trip_ms > 0) == ("B:9700", True)
        here.hangs = there.hangs = True
        await until(lambda: p.one.link is None and p.other.link is None)


@pytest.mark.parametrize(
    "line",
    [
        b"no frame\n",
        b"\xff\n",
        b"x" * (link_wire.LINE_MAX + 1),
        b'{"type":"durable","seq":7,"msg_id":"01j5zk3m8v9w2x4y6z7abcdefg","body":{}}\n',
        link_wire.encode(link_wire.Results(received=99)),
    ],
    ids=["text", "bytes", "long", "gap", "results of nothing"],
)
async def test_nonsense_ends_the_link_and_nothing_else(tmp_path: Path, line: bytes):
    async with pair(tmp_path) as p:
        here, _ = p.stream()
        await p.both_up()
        await here.slip_in(line)
        await until(lambda: p.other.link is None)
        assert "seek a" in p.other.wanted
        p.stream()
        await p.both_up()


async def test_a_frame_of_a_later_version_is_counted_and_ignored(tmp_path: Path):
    async with pair(tmp_path) as p:
        here, _ = p.stream()
        await p.both_up()
        await here.slip_in(b'{"type":"dance","steps":3}\n')
        await until(lambda: p.other.shell.tally.counts.get("link frames of a later version"))
        assert p.other.link is not None


async def test_before_it_is_the_link_a_stream_may_only_be_asked(tmp_path: Path):
    async with pair(tmp_path) as p:
        p.stream()
        await p.both_up()
        here, _ = p.stream()
        await here.slip_in(link_wire.encode(link_wire.Presence()))
        await until(lambda: len(p.other.links.roads["a"]) == 1)
        assert p.other.up()


async def test_an_old_word_that_comes_late_does_not_count(tmp_path: Path):
    async with pair(tmp_path) as p:
        p.stream()
        await p.both_up()
        link = p.other.link
        here, _ = p.stream()
        await here.slip_in(link_wire.encode(link_wire.Activate(generation=1)))
        await trio.sleep(2 * SOON)
        assert p.other.link is link


async def test_streams_that_wait_are_few(tmp_path: Path):
    async with pair(tmp_path) as p:
        for _ in range(links_module.STANDBY_MAX + 3):
            p.stream()
            await trio.sleep(2 * SOON)
        assert len(p.one.links.roads["b"]) <= links_module.STANDBY_MAX + 1
        assert p.one.up()


async def test_ended_all_at_once(tmp_path: Path):
    async with pair(tmp_path) as p:
        p.stream()
        p.stream()
        await p.both_up()
        p.one.links.end_all("the hub stops")
        await until(lambda: not p.one.links.roads and not p.other.links.roads)
        assert not p.one.up()
        p.one.links.send(99, b"nobody\n")
        p.one.links.close(99, "nobody")
        assert p.one.links.describe(wire.LinkDetails(hub_id="B")).address == ""


@pytest.fixture
def crashes(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What was taken for a bug of ours."""
    found: list[BaseException] = []
    monkeypatch.setattr(guard_module, "log_crash", lambda where, error: found.append(error))
    return found


@pytest.mark.parametrize("how", ["closed", "broken", "silent", "spare"])
async def test_no_usual_end_is_taken_for_a_bug(tmp_path: Path, monkeypatch, crashes, how: str):
    monkeypatch.setattr(links_module, "STANDBY_S", 2 * SOON)
    async with pair(tmp_path) as p:
        here, there = p.stream()
        await p.both_up()
        road = p.one.link
        assert road is not None
        if how == "closed":
            await there.aclose()
        elif how == "broken":
            here.breaks = True
            with suppress(trio.ClosedResourceError):  # it may have noticed already
                await there.send_all(b"\n")
        elif how == "silent":
            here.hangs = there.hangs = True
            road.ping()
        else:
            p.stream()
            await until(lambda: len(p.one.links.roads["b"]) == 2)
            road = p.one.links.roads["b"][1]
        await until(lambda: road not in p.one.links.roads.get("b", ()))
        reasons = {"closed": "eof", "broken": "broken", "silent": "stalled", "spare": "spare"}
        assert road.reason == reasons[how]
    assert crashes == []


async def test_a_second_stream_goes_when_the_link_works(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links_module, "STANDBY_S", 2 * SOON)
    async with pair(tmp_path) as p:
        p.stream()
        await p.both_up()
        link = p.one.link
        p.stream()
        await until(lambda: len(p.one.links.roads["b"]) == len(p.other.links.roads["a"]) == 2)
        await until(lambda: len(p.one.links.roads["b"]) == len(p.other.links.roads["a"]) == 1)
        assert p.one.link is link
        assert p.one.up()
        assert p.other.up()


async def test_of_two_streams_that_come_when_the_link_hangs_one_takes_its_place_and_the_other_goes(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(links_module, "STANDBY_S", 2 * SOON)
    monkeypatch.setattr(links_module, "ANSWER_S", 4 * SOON)
    async with pair(tmp_path) as p:
        here, there = p.stream()
        await p.both_up()
        here.hangs = there.hangs = True
        p.stream()
        p.stream()
        await until(lambda: len(p.one.links.roads["b"]) == len(p.other.links.roads["a"]) == 3)
        await until(lambda: len(p.one.links.roads["b"]) == len(p.other.links.roads["a"]) == 1)
        await p.both_up()
        assert p.one.link is not None


async def test_a_link_that_ends_while_it_is_asked_is_replaced_once(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links_module, "ANSWER_S", 0.4)
    async with pair(tmp_path) as p:
        here, there = p.stream()
        await p.both_up()
        here.hangs = there.hangs = True
        p.stream()
        await until(lambda: len(p.one.links.roads["b"]) == 2)
        await trio.sleep(0.1)
        assert p.one.link is not None
        p.one.link.end("the network says so")
        await until(lambda: p.one.link is not None and p.one.link.about.stream is not here)
        await p.both_up()
        number = p.one.link.link
        await trio.sleep(0.6)
        assert p.one.link is not None
        assert p.one.link.link == number
        assert p.one.up()


async def test_a_link_that_was_asked_a_while_ago_is_not_waited_for(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links_module, "HUNG_S", 60)
    monkeypatch.setattr(links_module, "ANSWER_S", 30)
    async with pair(tmp_path) as p:
        here, there = p.stream()
        await p.both_up()
        here.hangs = there.hangs = True
        assert p.one.link is not None
        p.one.link.ping()
        p.one.link.unanswered -= 31
        p.stream()
        await until(lambda: p.one.link is not None and p.one.link.about.stream is not here)
        await p.both_up()


async def test_a_hub_whose_clock_went_back_is_followed_again(tmp_path: Path):
    async with pair(tmp_path) as p:
        here, _ = p.stream()
        await p.both_up()
        p.other.links._generations["a"] += 3_600_000  # as if its clock had been ahead by an hour
        await here.aclose()
        await until(lambda: not p.other.links.roads)
        p.stream()
        await p.both_up()


async def test_a_link_that_only_hung_is_left_alone_again(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links_module, "HUNG_S", 60)
    async with pair(tmp_path) as p:
        here, there = p.stream()
        await p.both_up()
        assert p.one.link is not None
        here.hangs = True
        p.one.link.ping()
        await until(lambda: p.one.wanted[-1] == "seek B")
        here.hangs = False
        await there.send_all(link_wire.encode(link_wire.LinkPong(number=1)))
        await until(lambda: p.one.wanted[-1] == "rest B")
        assert p.one.link.about.stream is here


async def test_a_direct_stream_takes_over_from_a_relay_once_it_has_proved_to_live(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(links_module, "STANDBY_S", 0.4)
    monkeypatch.setattr(links_module, "DRAIN_S", 0.4)  # what moves it leaves at once
    async with pair(tmp_path) as p:
        sid, _ = p.one.open("alice")
        p.other.open("bob")
        p.stream(relayed=True)
        await p.both_up()
        assert (p.one.wanted, p.other.wanted) == (["rest B but directly"], ["rest a but directly"])
        details = p.one.links.describe(wire.LinkDetails(hub_id="B"))
        assert details.road == "relay"
        began = trio.current_time()
        p.stream()
        await until(lambda: p.one.link and not p.one.link.about.relayed)
        assert trio.current_time() - began >= 0.4
        await until(lambda: p.other.link and not p.other.link.about.relayed)
        await p.both_up()
        assert (p.one.wanted[-1], p.other.wanted[-1]) == ("rest B", "rest a")
        await until(lambda: [*map(len, p.one.links.roads.values())] == [1])
        assert [site.links._links.keys() for site in (p.one, p.other)] == [{1}, {1}], "nothing began anew"
        await until(lambda: p.one.core.state.hubs["b"].complete)
        p.one.send(sid, "bob@b", "hello")
        await until(lambda: p.other.core.state.names["bob"].unread)


class Moving:
    """Two linked hubs, with a room in which somebody on each of them says something all the time."""

    def __init__(self, p: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        self.p = p
        self.heard: dict[str, list[str]] = {"a": [], "B": []}
        self.refused: list[Any] = []
        hand_out = core_rooms.hand_out

        def note(s: Any, room: Any, mail: Any, *more: Any) -> int:
            # The host hands out what was said on both; what one's own said is not news there.
            if not (mail.text or "").startswith(s.hub_id):
                self.heard[s.hub_id].append(mail.text or "")
            return hand_out(s, room, mail, *more)

        monkeypatch.setattr(core_rooms, "hand_out", note)

    async def begin(self) -> None:
        p = self.p
        self.alice, self.out = p.one.open("alice")
        self.bob, _ = p.other.open("bob")
        await until(
            lambda: p.one.core.state.hubs["b"].peers and p.other.core.state.hubs["a"].peers  # both are known
        )
        p.other.ask(self.bob, wire.Join(req_id=1, room="hall"))
        p.one.ask(self.alice, wire.Join(req_id=1, room="hall@B"))
        await until(lambda: any(isinstance(each, wire.RoomMembers) for each in self.out.frames))

    async def talk(self, moved: Callable[[], object]) -> int:
        """Say things until a while after the link moved; how many on each side."""
        count, after = 0, 0
        with trio.fail_after(15):
            while after < 30:
                self.p.one.say(self.alice, "hall@B", f"a {count}")
                self.p.other.say(self.bob, "hall", f"B {count}")
                count += 1
                after += bool(moved())
                await trio.sleep(0.005)
        return count


@pytest.mark.guarantee("relay-roads")
async def test_no_room_message_is_lost_when_the_link_moves_to_the_better_road(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links_module, "STANDBY_S", 0.2)
    async with pair(tmp_path) as p:
        p.stream(relayed=True, kind=Lagging)
        await p.both_up()
        moving = Moving(p, monkeypatch)
        await moving.begin()
        link = p.one.link
        p.stream()
        count = await moving.talk(
            lambda: all(site.link and not site.link.about.relayed for site in (p.one, p.other))
        )
        await until(lambda: len(moving.heard["a"]) >= count and len(moving.heard["B"]) >= count)
        assert moving.heard == {
            "a": [f"B {n}" for n in range(count)],
            "B": [f"a {n}" for n in range(count)],
        }
        failed = [each for each in moving.out.frames if isinstance(each, wire.Failed)]
        assert not failed, "and nobody was told that it cannot be said"
        await until(lambda: not any(road is link for road in p.one.links.roads["b"]))
        assert [len(site.links.roads[key]) for site, key in ((p.one, "b"), (p.other, "a"))] == [1, 1]
        assert p.one.links._links.keys() == {1}, "it is the same link"


@pytest.mark.parametrize("how", ["hangs", "breaks"])
async def test_where_the_old_stream_fails_as_the_link_moves_it_begins_anew(
    tmp_path: Path, monkeypatch, how: str
):
    monkeypatch.setattr(links_module, "STANDBY_S", 0.2)
    async with pair(tmp_path) as p:
        here, there = p.stream(relayed=True)
        await p.both_up()
        sid, _ = p.one.open("alice")
        p.other.open("bob")
        await until(lambda: p.one.core.state.hubs["b"].complete)
        move = Links._move

        def fails(links: Links, old: Road, road: Road) -> None:
            move(links, old, road)
            setattr(here, how, True)
            setattr(there, how, True)

        monkeypatch.setattr(Links, "_move", fails)
        p.stream()
        await until(lambda: p.one.wanted.count("seek B") and p.other.wanted.count("seek a"))
        await until(lambda: not any(p.one.links.roads.values()))
        p.stream()
        p.one.send(sid, "bob@b", "hello")
        await p.both_up()
        await until(lambda: p.other.core.state.names["bob"].unread == 1)


async def test_who_moves_the_link_again_before_it_has_arrived_gets_a_new_one(tmp_path: Path):
    """No hub does that, but one may say so."""
    async with pair(tmp_path) as p:
        p.stream(relayed=True)
        await p.both_up()
        assert p.other.link is not None
        first = p.other.link
        for generation in (2**50, 2**50 + 1):
            here, _ = p.stream()
            await here.slip_in(link_wire.encode(link_wire.Activate(generation=generation, moves=True)))
            await until(lambda: p.other.link is not first)
        await until(lambda: p.other.links._last_link == 2)
        await until(lambda: first.gone.is_set())


async def test_an_old_stream_that_hangs_before_the_move_is_left_at_once(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links_module, "STANDBY_S", 1.0)
    async with pair(tmp_path) as p:
        here, there = p.stream(relayed=True)
        await p.both_up()
        p.stream()
        await until(lambda: len(p.one.links.roads["b"]) == 2)
        await trio.sleep(0.1)
        here.hangs = there.hangs = True
        await until(lambda: p.one.link and not p.one.link.about.relayed)
        await p.both_up()
        assert "seek B" not in p.one.wanted


async def test_a_last_word_that_nobody_expects_ends_nothing_but_its_stream(tmp_path: Path):
    async with pair(tmp_path) as p:
        here, _ = p.stream()
        await p.both_up()
        await here.slip_in(link_wire.encode(link_wire.Moved()) + link_wire.encode(link_wire.RoomsHere()))
        await until(lambda: "seek a" in p.other.wanted)
        p.stream()
        await until(lambda: p.one.link and p.one.link.about.stream is not here)
        await p.both_up()


async def test_a_relay_does_not_take_over_from_a_direct_stream_that_answers(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links_module, "STANDBY_S", 0.2)
    async with pair(tmp_path) as p:
        here, _ = p.stream()
        await p.both_up()
        p.stream(relayed=True)
        await until(lambda: len(p.one.links.roads["b"]) == 2)
        await until(lambda: len(p.one.links.roads["b"]) == 1)
        assert p.one.link is not None
        assert not p.one.link.about.relayed
        here.hangs = True
        p.one.links.probe()
        await until(lambda: "seek B" in p.one.wanted)
        p.stream(relayed=True)
        await until(lambda: p.one.link and p.one.link.about.relayed)
        await until(lambda: p.other.link and p.other.link.about.relayed)


async def test_a_direct_stream_that_dies_while_it_waits_leaves_the_relay_alone(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links_module, "STANDBY_S", 0.3)
    async with pair(tmp_path) as p:
        p.stream(relayed=True)
        await p.both_up()
        here, there = p.stream()
        await until(lambda: len(p.one.links.roads["b"]) == 2)
        here.hangs = there.hangs = True
        await trio.sleep(1.2)
        assert p.one.link is not None
        assert p.one.link.about.relayed
        assert p.one.up()


@pytest.mark.parametrize(
    "frame", [link_wire.Presence(), link_wire.LinkPing(number=1), link_wire.RoomsHere()], ids=type
)
async def test_a_hub_that_floods_is_read_slowly_and_local_mail_goes_on(tmp_path: Path, monkeypatch, frame):
    monkeypatch.setattr(links_module, "LIVE_BURST", 200.0)
    monkeypatch.setattr(links_module, "LIVE_PER_S", 500.0)
    async with pair(tmp_path) as p:
        here, _ = p.stream()
        await p.both_up()
        sid, out = p.other.open("alice")
        p.other.open("bob")
        await until(lambda: "bob" in p.other.core.state.names)
        taken = 0
        handle = p.other.links._take

        def counted(road: Road, lines: Any) -> bool:
            nonlocal taken
            taken += 1
            return handle(road, lines)

        monkeypatch.setattr(p.other.links, "_take", counted)
        began = trio.current_time()
        await here.slip_in(link_wire.encode(frame) * 700)
        await until(lambda: taken >= 2)
        answers = len(out.frames)
        p.other.send(sid, "bob", "hello")
        await until(lambda: len(out.frames) > answers)
        assert trio.current_time() - began < 0.5
        await until(lambda: taken >= 11)
        assert trio.current_time() - began > 0.7
        assert p.other.link is not None


async def test_answers_cost_little(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links_module, "LIVE_BURST", 200.0)
    monkeypatch.setattr(links_module, "LIVE_PER_S", 1.0)
    async with pair(tmp_path) as p:
        here, _ = p.stream()
        await p.both_up()
        await here.slip_in(link_wire.encode(link_wire.LinkPong(number=0)) * 1_000)
        await here.slip_in(link_wire.encode(link_wire.LinkPing(number=77)))
        assert p.one.link is not None
        heard = p.one.link.heard
        await until(lambda: p.one.link is not None and p.one.link.heard > heard)
