"""Streams to other hubs that proved themselves, and which of each hub's streams is the link.

Two hubs may reach each other over several streams at once: both dialed, or one hangs and nobody has noticed
yet. The hub with the smaller hub_id chooses: it keeps the stream that answers, and tells the other side with
`activate`. A stream that is not chosen waits, in case it is needed. A direct one that proved to live takes
the place of one over a relay, never the reverse while it answers.

Where both streams live the link moves from one to the other and goes on: each side says `moved` as its last
word on the old one, and reads that one to its end first, so that nothing is lost, room messages included.
Where the old one broke, or does not come to its end soon, the link begins anew.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from ecorelay import link_wire, names, wire
from ecorelay.core.events import LinkFrame, LinkLost, LinkUp
from ecorelay.daemon.guard import guard
from ecorelay.daemon.log import log
from ecorelay.daemon.outqueue import OutQueue
from ecorelay.daemon.reasons import Ended, Reason
from ecorelay.framing import LineSplitter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ecorelay.core.events import Event
    from ecorelay.daemon.perform import Shell

READ_SIZE: Final = 256 * 1024
SLICE_FRAMES: Final = 64
"""Frames handed to the core at once, at most."""
LOOK_S: Final = 1.0
"""How often it is looked whether a stream that hung is well again."""
PROBE_S: Final = 1.0
"""Silence after something was said, until it is asked whether anybody is there; and for the answer."""
ANSWER_S: Final = 0.5
"""How long the link has to answer when there is another stream; a wrong guess costs little."""
SUSPECT_S: Final = 2.0
"""Silence after which another way is looked for."""
HUNG_S: Final = 10.0
"""Silence, after something was said, after which the stream is given up."""
IDLE_PING_S: Final = 5.0
IDLE_DEAD_S: Final = 45.0
"""The same where nothing was said. Often, for a hub that cannot dial depends on the other one to notice."""
LIVE_PER_S: Final = 1_000.0
LIVE_BURST: Final = 3_000.0
"""Frames besides mail that are taken of one hub: 50 of them tell of 10,000 peers. Beyond that nothing is read
for a while, and what can be spared is left out at the other end. Mail has its window."""
ANSWER_COSTS: Final = 0.1
"""So much of that is an answer to what was sent there: it leads to little."""
DRAIN_S: Final = 1.0
"""Silence after which the old stream is not read to its end any more when the link moves to another one."""
DRAIN_MAX_S: Final = 5.0
"""The same, however much still comes over it."""
STANDBY_S: Final = 5.0
"""How long a stream waits beside a link that answers; then it is not needed, or is better and takes over."""
STANDBY_MAX: Final = 3
"""Streams of one hub that wait beside its link; a further one takes the place of the oldest."""


class ProvenStream(Protocol):
    """What is needed of `ecorelay_bridge.Proven`."""

    @property
    def stream(self) -> trio.abc.Stream:
        """To the other hub, encrypted."""

    @property
    def hub_id(self) -> str:
        """Of the other hub, proved."""

    @property
    def address(self) -> str:
        """Where it is, for a person."""

    @property
    def relayed(self) -> bool:
        """Whether a relay server is in between."""


class Road:
    """One stream to another hub.

    Args:
        hub_id: of that hub.
        about: what the bridge told of it, for `hub status`.
    """

    def __init__(self, hub_id: str, about: ProvenStream) -> None:
        self.hub_id = hub_id
        self.about = about
        self.link = 0
        """Its number while it is the link."""
        self.inward = 0
        """Number of the link under which the core is told what comes; 0: nothing may come."""
        self.before: Road | None = None
        """The one that the link moves from: that one is read to its end first."""
        self.left = False
        """The link moved away from it."""
        self.read = trio.Event()
        """All that was said of the link here is read, or never will be."""
        self.free = trio.Event()
        """What comes may be taken."""
        self.free.set()
        self.gone = trio.Event()
        """It was closed."""
        self.scope = trio.CancelScope()
        self.reason = ""
        self.since = trio.current_time()
        self.heard = trio.current_time()
        self.unanswered = 0.0
        """Since when something was said and nothing heard; 0: that is not so."""
        self.asked = 0.0
        """When the last ping was sent; 0: it was answered."""
        self.round_trip = 0.0
        """Seconds, of the last ping."""
        self.pings = 0
        self._live = LIVE_BURST
        self._live_at = trio.current_time()
        """What it may say besides mail, and when that was reckoned."""
        self._alarm = trio.CancelScope()
        self.out: OutQueue
        self.nursery: trio.Nursery

    async def may_be_taken(self) -> None:
        """Wait until what comes may be taken; most often that is now, and no checkpoint."""
        if not self.free.is_set():
            await self.free.wait()

    def say(self, data: bytes) -> None:
        """Queue lines."""
        if not self.unanswered:
            self.unanswered = trio.current_time()
            # Seldom moved: while lines come and go it stays in front of what comes later.
            if self._alarm.deadline > self.unanswered + PROBE_S:
                self._alarm.deadline = self.unanswered + PROBE_S
        self.out.put(data)

    def spend(self, cost: float) -> None:
        """It said something besides mail."""
        self._live -= cost

    async def earn(self) -> None:
        """Wait until it may say something more; most often that is now, and no checkpoint."""
        now = trio.current_time()
        self._live = min(LIVE_BURST, self._live + (now - self._live_at) * LIVE_PER_S)
        self._live_at = now
        if self._live < 0:
            await trio.sleep(-self._live / LIVE_PER_S)

    async def rest_until(self, when: float) -> None:
        """Wait until then, or until something that was said has been without an answer for `PROBE_S`."""
        with trio.CancelScope(deadline=when) as self._alarm:
            await trio.sleep_forever()

    def ping(self) -> None:
        """Ask whether anybody is there."""
        if not self.asked:
            self.asked = trio.current_time()
            self.pings += 1
            self.say(link_wire.encode(link_wire.LinkPing(number=self.pings)))
            self.out.flush()

    def end(self, reason: str) -> None:
        """Close it; the first reason counts."""
        self.reason = self.reason or str(reason)
        self.scope.cancel()


class Links:
    """All streams to other hubs.

    Args:
        shell: takes what hubs say; its actions come back to :meth:`send` and :meth:`close`.
        hub_id: our own.
        seek: another way to this hub is wanted.
        rest: none is; or, if the link is over a relay, only a direct one.
        room: waits while too much waits for the store.
    """

    def __init__(
        self,
        shell: Shell,
        hub_id: str,
        *,
        seek: Callable[[str], object],
        rest: Callable[[str, bool], object],
        room: Callable[[], Awaitable[None]],
    ) -> None:
        self._shell = shell
        self._hub_id = hub_id
        self._seek = seek
        self._rest = rest
        self._room = room
        self.roads: dict[str, list[Road]] = {}
        """By hub_id in lower case, the oldest first."""
        self.troubles: dict[str, str] = {}
        """Why a hub was not reached last, by hub_id in lower case; set by who knows."""
        self._links: dict[int, Road] = {}
        self._last_link = 0
        self._generations: dict[str, int] = {}
        shell.links = self

    # --- what the core wants -------------------------------------------------------------------------

    def send(self, link: int, data: bytes, *, spare: bool = False) -> None:
        """Queue a line for another hub; `spare`: it may be left out where too much waits."""
        road = self._links.get(link)
        if road is None:
            return
        if not spare:
            road.say(data)
        elif not road.out.offer(data, lambda _: b""):
            self._shell.tally.count("live frames dropped")
        self._shell.queue(road.out)

    def describe(self, details: wire.LinkDetails) -> wire.LinkDetails:
        """What the core says of a link, with what only its stream shows."""
        road = self._link_of(details.hub_id)
        if road is None:
            return msgspec.structs.replace(details, trouble=self.troubles.get(names.key(details.hub_id), ""))
        return msgspec.structs.replace(
            details,
            address=road.about.address,
            road="relay" if road.about.relayed else "tcp",
            round_trip_ms=round(road.round_trip * 1000, 2),
        )

    def close(self, link: int, reason: str) -> None:
        """End a link."""
        if (road := self._links.get(link)) is not None:
            road.end(reason)

    def probe(self) -> None:
        """The machine slept, perhaps: see who is still there."""
        for road in [road for roads in self.roads.values() for road in roads]:
            road.ping()

    def end_all(self, reason: str) -> None:
        """The hub stops."""
        for road in [road for roads in self.roads.values() for road in roads]:
            road.end(reason)

    # --- streams ---------------------------------------------------------------------------------------

    async def serve(self, proven: ProvenStream) -> None:
        """Use a stream until it ends. Raises nothing but Cancelled; the caller closes it."""
        road = Road(proven.hub_id, proven)
        try:
            with road.scope:
                road.end(await guard(partial(self._run, road)))
        finally:
            self._gone(road)

    async def _run(self, road: Road) -> str:
        roads = self.roads.setdefault(names.key(road.hub_id), [])
        standby = [each for each in roads if not (each.link or each.left)]
        if len(standby) >= STANDBY_MAX:
            standby[0].end("a newer stream took its place")
        async with trio.open_nursery() as nursery:
            road.nursery = nursery
            road.out = OutQueue(road.about.stream, nursery, road.end)
            roads.append(road)
            nursery.start_soon(self._watch, road)
            if self._chooses(road.hub_id):
                nursery.start_soon(self._choose, road)
            try:
                # In here, where what it raises is not yet one of a group.
                reason = await guard(partial(self._read, road))
            finally:
                road.out.close()
                nursery.cancel_scope.cancel()
        return reason

    def _gone(self, road: Road) -> None:
        key = names.key(road.hub_id)
        roads = self.roads.get(key, [])
        if road in roads:
            roads.remove(road)
        road.read.set()
        road.gone.set()
        if road.before is not None:
            road.before.end(road.reason)
        if road.link:
            del self._links[road.link]
            log("link ended", hub=road.hub_id, reason=road.reason, address=road.about.address)
            self._shell.feed((LinkLost(road.link, road.reason),))
            if not any(each.link for each in roads):  # or another has taken its place
                others = [each for each in roads if not (each.scope.cancel_called or each.left)]
                if others and self._chooses(road.hub_id):
                    self._activate(max(others, key=lambda each: not each.about.relayed))
                else:
                    self._seek(road.hub_id)
        if not roads:
            self.roads.pop(key, None)
            # Nothing old can come any more, and after a restart its clock may be behind.
            self._generations.pop(key, None)

    async def _read(self, road: Road) -> str:
        lines = LineSplitter(link_wire.LINE_MAX)
        stream = road.about.stream
        began = trio.current_time()
        while data := await stream.receive_some(READ_SIZE):
            road.heard = trio.current_time()
            road.unanswered = 0.0
            whole = lines.feed(data)
            await road.may_be_taken()
            while self._take(road, whole):
                await trio.lowlevel.checkpoint()  # others come in between
                await road.earn()
                await road.may_be_taken()
            await road.earn()
            began = self._tell_of_a_long_line(road, began, lines.pending > len(data))
            self._shell.flush()
            await self._room()
        return Reason.EOF

    def _tell_of_a_long_line(self, road: Road, began: float, goes_on: bool) -> float:
        """Say that we are there while a line takes its time; gives when it began, or that was said last.

        On a slow way a large text takes a minute, and a ping is behind it.
        """
        now = trio.current_time()
        if not goes_on:
            return now
        if now - began < PROBE_S:
            return began
        road.out.put(link_wire.encode(link_wire.LinkPong(number=0)))
        self._shell.queue(road.out)
        return now

    def _take(self, road: Road, lines: Iterator[bytes]) -> bool:
        """Hand a slice of lines to the core; whether there are more."""
        events: list[Event] = []
        for taken, line in enumerate(lines, 1):
            frame = link_wire.decode(line)
            if not isinstance(frame, link_wire.Durable):
                road.spend(ANSWER_COSTS if isinstance(frame, link_wire.ANSWERS) else 1.0)
            match frame:
                case None:
                    self._shell.tally.count("link frames of a later version")
                case link_wire.LinkPing():
                    road.out.put(link_wire.encode(link_wire.LinkPong(number=frame.number)))
                    self._shell.queue(road.out)
                case link_wire.LinkPong():
                    if frame.number == road.pings and road.asked:
                        road.round_trip = trio.current_time() - road.asked
                        road.asked = 0.0
                case link_wire.Activate():
                    self._told_to_activate(road, frame)
                    if road.before is not None:
                        break  # the rest when that one is read
                case link_wire.Moved():
                    road.inward = 0
                    road.read.set()
                case _ if road.inward:
                    events.append(LinkFrame(road.inward, frame))
                case _:
                    raise Ended(Reason.GARBAGE)
            if taken >= SLICE_FRAMES:
                break
        else:
            self._shell.feed(events)
            return False
        self._shell.feed(events)
        return True

    # --- which of them is the link ---------------------------------------------------------------------

    def _chooses(self, hub_id: str) -> bool:
        return names.key(self._hub_id) < names.key(hub_id)

    async def _choose(self, road: Road) -> None:
        """A new stream: it becomes the link unless the one there is answers."""
        link = self._link_of(road.hub_id)
        if link is not None and await self._answers(link):
            road.ping()
            await trio.sleep(STANDBY_S)
            link = self._link_of(road.hub_id)
            if link is not None and not road.link:
                better = link.about.relayed and not road.about.relayed
                if better and await self._answers(road) and not road.link:
                    if await self._answers(link) and link is self._link_of(road.hub_id) and not road.link:
                        self._move(link, road)
                    elif not road.link:
                        self._activate(road)
                else:
                    road.end(Reason.SPARE)
            return
        # Meanwhile the old one may have ended, and this one or another have taken its place.
        if road.link:
            return
        if self._link_of(road.hub_id) in (None, link):
            self._activate(road)
        else:
            await self._choose(road)

    def _link_of(self, hub_id: str) -> Road | None:
        """The stream that is the link; the one before it may still be closing."""
        linked = [road for road in self.roads.get(names.key(hub_id), ()) if road.link]
        return max(linked, key=lambda road: road.link, default=None)

    async def _answers(self, link: Road) -> bool:
        """Whether anybody is there. One that was asked a while ago and is silent is not asked again."""
        began = trio.current_time()
        if link.unanswered and began - link.unanswered >= ANSWER_S:
            return False
        link.ping()
        with trio.move_on_after(ANSWER_S):
            while link.heard < began and not link.scope.cancel_called:  # noqa: ASYNC110 - nobody is told
                await trio.sleep(ANSWER_S / 20)
        return link.heard >= began and not link.scope.cancel_called

    def _activate(self, road: Road) -> None:
        self._say_activate(road, moves=False)
        self._become_link(road)

    def _say_activate(self, road: Road, *, moves: bool) -> None:
        key = names.key(road.hub_id)
        wall = self._shell.clock.now().wall
        self._generations[key] = max(self._generations.get(key, 0) + 1, wall)
        road.say(link_wire.encode(link_wire.Activate(generation=self._generations[key], moves=moves)))
        self._shell.queue(road.out)

    def _told_to_activate(self, road: Road, frame: link_wire.Activate) -> None:
        key = names.key(road.hub_id)
        if self._chooses(road.hub_id) or frame.generation <= self._generations.get(key, 0):
            return
        self._generations[key] = frame.generation
        link = self._link_of(road.hub_id)
        if frame.moves and not road.link and link is not None and link.before is None:
            self._move(link, road)
        elif not road.link:
            self._become_link(road)

    def _become_link(self, road: Road) -> None:
        self._last_link += 1
        road.link = road.inward = self._last_link
        self._links[road.link] = road
        self._rest(road.hub_id, road.about.relayed)
        self._shell.feed((LinkUp(road.link, road.hub_id),))

    def _move(self, old: Road, road: Road) -> None:
        """The link goes on over another stream; the core need not know."""
        old.say(link_wire.encode(link_wire.Moved()))
        old.out.flush()
        if self._chooses(road.hub_id):
            self._say_activate(road, moves=True)
            road.out.flush()
        old.left, old.link, road.link = True, 0, old.link
        self._links[road.link] = road
        road.before, road.free = old, trio.Event()
        self._rest(road.hub_id, road.about.relayed)
        road.nursery.start_soon(self._follow, old, road)

    async def _follow(self, old: Road, road: Road) -> None:
        """Wait for the end of the old stream; then what comes over the new one counts."""
        began = trio.current_time()
        while not old.read.is_set():
            until = min(began + DRAIN_MAX_S, max(began, old.heard) + DRAIN_S)
            if until <= trio.current_time():
                break
            with trio.move_on_at(until):
                await old.read.wait()
        if old.inward:
            road.end("the stream before it did not come to its end")
            return
        road.inward, road.before = road.link, None
        road.free.set()
        log("link moved", hub=road.hub_id, address=road.about.address, before=old.about.address)
        with trio.move_on_after(DRAIN_S):
            await old.out.wait_below(0)
            if self._chooses(road.hub_id):
                await old.gone.wait()  # the other side has read our last word then
        old.end(Reason.SPARE)

    # --- silence -----------------------------------------------------------------------------------------

    async def _watch(self, road: Road) -> None:
        """Notice that nobody is there any more."""
        suspect = False
        while True:
            await road.rest_until(trio.current_time() + LOOK_S if suspect else self._next_look(road))
            now = trio.current_time()
            waited = now - road.unanswered if road.unanswered else 0.0
            if waited >= HUNG_S or now - road.heard >= IDLE_DEAD_S:
                road.end(Reason.STALLED)
                return
            if waited >= PROBE_S or now >= self._idle_until(road):
                road.ping()
            if road is not self._link_of(road.hub_id):
                continue
            if waited >= SUSPECT_S and not suspect:
                self._seek(road.hub_id)
            elif suspect and waited < SUSPECT_S:
                self._rest(road.hub_id, road.about.relayed)  # it only hung
            suspect = waited >= SUSPECT_S

    def _next_look(self, road: Road) -> float:
        """When something is to be done about the silence of a stream, if it lasts."""
        now = trio.current_time()
        marks = [self._idle_until(road), road.heard + IDLE_DEAD_S]
        if road.unanswered:
            marks += [road.unanswered + seconds for seconds in (PROBE_S, SUSPECT_S, HUNG_S)]
        return min([mark for mark in marks if mark > now], default=now + LOOK_S)

    def _idle_until(self, road: Road) -> float:
        """When a stream on which nothing is said is asked next.

        At full multiples of `IDLE_PING_S` of the clock on the wall, so that a hub with many links wakes for
        all of them at once, its own questions and those of others. The one that chooses asks; the other
        side, which hears that, need not.
        """
        ahead = self._shell.clock.now().wall / 1000 - trio.current_time()
        earliest = road.heard + ahead + IDLE_PING_S * 0.4
        mark = math.ceil(earliest / IDLE_PING_S) * IDLE_PING_S - ahead
        return mark if self._chooses(road.hub_id) else mark + ANSWER_S
