"""The switch: which hubs are here, which streams are open, what waits for whom. Decides; no I/O, no clock.

Whoever runs it tells it what happened, with the time, and does what it answers: :class:`Wake` a hub's writer,
which then calls :meth:`Switch.take` until nothing is left, :class:`End` its connection, or see :class:`News`.

What bounds it, whatever anyone does: a stream is open only between two hubs that are here, `STREAMS_MAX` for
each two of them; what its sender may send is counted here, so that it cannot be talked into more by either
side; see `ecorelay_relay_server.bounds` for the rest.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal, NamedTuple

from ecorelay import relay_wire
from ecorelay.errors import WireError
from ecorelay.relay_wire import CLOSE, CREDIT, CREDIT_MORE, OPEN, STREAMS_MAX, HubHere
from ecorelay_relay_server.bounds import (
    DESTINATION_MAX,
    LANE_MAX,
    STREAMS_TOTAL,
    TOTAL_MAX,
    UNITS_BURST,
    UNITS_CONGESTED,
    UNITS_DROPPED,
    UNITS_MESSAGE,
    UNITS_OPEN,
    UNITS_PER_S,
    UNITS_TEXT,
)
from ecorelay_relay_server.outbox import Item, Outbox, Outgoing
from ecorelay_relay_server.pace import Pace
from ecorelay_relay_server.record import Record

LeftReason = Literal["closed", "lost", "refused"]

MEETING_HUBS: Final = 2
_CREDIT_BYTES: Final = 4
_SMALL: Final = 4_096


class Wake(NamedTuple):
    """Something waits for a hub that had nothing to write."""

    hub: Hub


class News(NamedTuple):
    """Somebody came or went: call :meth:`Switch.spread` soon, once for many of these."""


class End(NamedTuple):
    """Close a hub's connection; to the switch it is gone already."""

    hub: Hub
    code: int
    reason: str


Action = Wake | News | End
Actions = tuple[Action, ...]


class Route:
    """One direction of an open stream."""

    __slots__ = ("back", "by", "left", "owed", "to")

    def __init__(self, to: Hub, by: Hub) -> None:
        self.to = to
        self.by = by
        """Who opened it."""
        self.left = CREDIT
        """Bytes its sender may still send."""
        self.owed: Item | None = None
        """Credit on its way in this direction: more of it goes into the same message."""
        self.back: Route = self


class Hub:
    """A hub that proved itself, as the switch sees it."""

    __slots__ = ("address", "awake", "card", "flying", "opened", "outbox", "pace", "pairs", "realm", "routes")

    def __init__(self, realm: Realm, card: HubHere, outbox: Outbox) -> None:
        self.realm = realm
        self.card = card
        self.address = bytes.fromhex(card.address)
        self.outbox = outbox
        self.flying = 0
        """Cost of what its writer took last, texts too, and may be writing still."""
        self.awake = True
        """Whether its writer will take on its own; it begins so."""
        self.routes: dict[bytes, Route] = {}
        """The other hub's address and the stream's number → the direction from here to there."""
        self.pairs: dict[bytes, int] = {}
        """The other hub's address → open streams."""
        self.opened = 0
        """Open streams that it opened itself."""
        self.pace = Pace(UNITS_PER_S, UNITS_BURST)

    def __repr__(self) -> str:
        return f"Hub({self.card.hub_id!r}, {self.card.address[:8]})"


class Realm:
    """Hubs that see each other.

    Args:
        name: of the realm.
        max_hubs: at a time.
        invitation: by which two meet apart from the realm's other hubs; "": it is the realm itself.
    """

    def __init__(self, name: str, max_hubs: int, invitation: str = "") -> None:
        self.name = name
        self.max_hubs = max_hubs
        self.invitation = invitation
        self.host = b""
        """Of a meeting: the address of the hub that invites."""
        self.hubs: dict[bytes, Hub] = {}
        self.record = Record()


def _congested(address: bytes, stream: bytes) -> str:
    return relay_wire.encode(relay_wire.Congested(address=address.hex(), stream=stream.hex()))


class Switch:
    """All hubs of a relay server.

    Args:
        realms: name → most hubs at a time.
        max_hubs: in all realms.
    """

    def __init__(self, realms: dict[str, int], max_hubs: int) -> None:
        self.max_hubs = max_hubs
        self.realms = {name: Realm(name, most) for name, most in realms.items()}
        self.meetings: dict[tuple[str, str], Realm] = {}
        """Realm's name and invitation → where two meet apart; it lasts while the one that invites is here."""
        self.queued = 0
        """Cost of all data that waits, and of what was taken and may not be written yet."""
        self.streams = 0
        """How many are open."""
        self._news: set[Realm] = set()
        """Realms of which not every hub was woken for the last entry of the record."""
        self.counts: Counter[str] = Counter()
        """``messages``, ``bytes``: data for which there was a stream; ``dropped_…``, ``congested``, …"""

    @property
    def _places(self) -> tuple[Realm, ...]:
        return (*self.realms.values(), *self.meetings.values())

    @property
    def hubs(self) -> int:
        """How many are here."""
        return sum([len(place.hubs) for place in self._places])

    def limit(self, realms: dict[str, int], max_hubs: int) -> Actions:
        """Other realms and bounds from now on. Hubs of a realm that is no more are closed."""
        actions: list[Action] = []
        for place in [place for place in self._places if place.name not in realms]:
            for hub in list(place.hubs.values()):
                actions += self._end(hub, relay_wire.CLOSE_TOKEN, "this realm is no more", "refused")
        for name in [name for name in self.realms if name not in realms]:
            del self.realms[name]
        for name, most in realms.items():
            self.realms.setdefault(name, Realm(name, most)).max_hubs = most
        self.max_hubs = max_hubs
        return tuple(actions)

    # --- coming and going --------------------------------------------------------------------------------

    def full(self, realm: str, address: bytes, invitation: str = "") -> str:
        """Why a hub cannot come in, or to the meeting of that invitation, for a person; "" if it can."""
        found = self.realms[realm]
        there = self.meetings.get((realm, invitation)) if invitation else found
        if there is not None and address in there.hubs:
            return ""  # it takes its own place
        apart = sum([len(place.hubs) for place in self.meetings.values() if place.name == realm])
        if len(found.hubs) + apart >= found.max_hubs:
            return f"this realm has its {found.max_hubs:,} hubs already"
        if self.hubs >= self.max_hubs:
            return f"this server has its {self.max_hubs:,} hubs already"
        return ""

    def uninvited(self, realm: str, address: bytes, invitation: str, *, invited: bool) -> str:
        """Why a hub cannot come to a meeting, for a person; "" if it can, where there is room."""
        meeting = self.meetings.get((realm, invitation))
        if meeting is None:
            return "nobody invites by this pass now: it was used or has expired" if invited else ""
        if invited == (address == meeting.host):
            return "this invitation is another hub's"
        if invited and len(meeting.hubs) >= MEETING_HUBS and address not in meeting.hubs:
            return "somebody is using this invitation just now"
        return ""

    def join(self, realm: str, card: HubHere, invitation: str = "") -> tuple[Hub, Actions]:
        """A hub proved itself, and :meth:`full` said nothing. Its older connection is ended.

        Args:
            realm: its name.
            card: of the hub.
            invitation: it comes to a meeting, and :meth:`uninvited` said nothing; the first one invites.
        """
        found = self.realms[realm]
        address = bytes.fromhex(card.address)
        if invitation:
            new = Realm(realm, MEETING_HUBS, invitation)
            new.host = address
            found = self.meetings.setdefault((realm, invitation), new)
        old = found.hubs.get(address)
        actions: list[Action] = []
        if old is not None:
            self._remove(old)
            sentence = "the same identity connected again"
            actions.append(End(old, relay_wire.CLOSE_REPLACED, sentence))
            self.counts["replaced"] += 1
        others = tuple([hub.card for hub in found.hubs.values()])
        found.record.add(address, relay_wire.encode(relay_wire.Joined(hub=card)))
        hub = Hub(found, card, Outbox(address, others, found.record))
        actions += self._tell(found)
        found.hubs[address] = hub
        self.counts["joined"] += 1
        return hub, tuple(actions)

    def leave(self, hub: Hub, reason: LeftReason) -> Actions:
        """A hub's connection has ended. Nothing happens if the switch had ended it, or it was replaced."""
        if not self.here(hub):
            return ()
        self._remove(hub)
        left = relay_wire.Left(address=hub.card.address, reason=reason)
        hub.realm.record.add(hub.address, relay_wire.encode(left))
        return (*self._tell(hub.realm), *self._adjourn(hub))

    def _adjourn(self, hub: Hub) -> Actions:
        """If it was the one that invited, the meeting ends with it."""
        place = hub.realm
        if not place.invitation or hub.address != place.host:
            return ()
        del self.meetings[place.name, place.invitation]
        left = list(place.hubs.values())
        for each in left:
            self._remove(each)
        sentence = "who invited has left"
        return tuple([End(each, relay_wire.CLOSE_INVITATION, sentence) for each in left])

    def here(self, hub: Hub) -> bool:
        """Whether it is one of those that are here now."""
        return hub.realm.hubs.get(hub.address) is hub

    def _end(self, hub: Hub, code: int, reason: str, left: LeftReason) -> Actions:
        return (*self.leave(hub, left), End(hub, code, reason))

    def _remove(self, hub: Hub) -> None:
        del hub.realm.hubs[hub.address]
        for key, route in hub.routes.items():
            other = route.to
            del other.routes[hub.address + key[32:]]
            other.pairs.pop(hub.address, None)
            route.by.opened -= 1
        self.streams -= len(hub.routes)
        # Also of streams that were closed while their last pieces waited.
        for other in hub.realm.hubs.values():
            self.queued -= other.outbox.drop(hub.address)
        hub.routes.clear()
        hub.pairs.clear()
        self.queued -= hub.outbox.queued + hub.flying
        # At once: its connection may take a while to end, and this is no longer counted.
        hub.outbox.clear()

    def _tell(self, realm: Realm) -> Actions:
        # Not each time: a thousand hubs that come back at once would be a million wake-ups.
        self._news.add(realm)
        return (News(),)

    def spread(self) -> Actions:
        """Wake all hubs that have not read who came and went. Who has data to read has read that before."""
        realms = list(self._news)
        self._news.clear()
        hubs = [hub for realm in realms for hub in realm.hubs.values() if hub.outbox.behind]
        return tuple([action for hub in hubs for action in self._wake(hub)])

    def _wake(self, hub: Hub) -> Actions:
        if hub.awake:
            return ()
        hub.awake = True
        return (Wake(hub),)

    # --- what hubs say -----------------------------------------------------------------------------------

    def small_talk(self, hub: Hub) -> None:
        """A ping, a pong, a part of a message."""
        hub.pace.spend(UNITS_MESSAGE)

    def text(self, hub: Hub) -> None:
        """A text message after the hello: of a newer version perhaps; this one knows none, and ignores it."""
        hub.pace.spend(UNITS_TEXT)
        self.counts["dropped_text"] += 1

    def data(self, hub: Hub, message: bytes) -> Actions:
        """A data message of a hub that is here.

        Args:
            hub: whose.
            message: as it came.
        """
        hub.pace.spend(UNITS_MESSAGE)
        try:
            piece = relay_wire.take_apart(message)
        except WireError as error:
            return self._end(hub, relay_wire.CLOSE_FRAME, error.message, "refused")
        route = hub.routes.get(piece.address + piece.stream)
        if piece.kind == OPEN:
            return self._open(hub, piece.address, piece.stream, known=route is not None)
        if route is None:
            return self._stray(hub, piece)
        if piece.kind == CREDIT_MORE:
            return self._credit(hub, route, piece)
        if piece.kind == CLOSE:
            self._close(hub, route, piece.stream)
            return self._queue(hub, route.to, Item(CLOSE, piece.stream))
        return self._data(hub, route, piece)

    def _data(self, hub: Hub, route: Route, piece: relay_wire.Piece) -> Actions:
        size = len(piece.payload)
        to = route.to
        # A small one is copied: a view of it would be larger than itself.
        payload = piece.payload if size > _SMALL else bytes(piece.payload)
        item = Item(piece.kind, piece.stream, payload)
        if size > route.left:
            return self._congested(hub, route, piece.stream, "over_credit")
        if to.outbox.lane_size(hub.address) + item.cost > LANE_MAX:
            return self._congested(hub, route, piece.stream, "over_lane")
        if to.outbox.queued + item.cost > DESTINATION_MAX:
            return self._congested(hub, route, piece.stream, "over_destination")
        route.left -= size
        self.counts["messages"] += 1
        self.counts["bytes"] += size
        return self._queue(hub, to, item)

    def _open(self, hub: Hub, address: bytes, stream: bytes, *, known: bool) -> Actions:
        hub.pace.spend(UNITS_OPEN)
        if address == hub.address:
            return self._end(hub, relay_wire.CLOSE_FRAME, "a message to itself", "refused")
        other = hub.realm.hubs.get(address)
        if other is None:
            return self._no_such_hub(hub, address, stream)
        if known:
            return self._dropped(hub, "open_twice")
        if hub.pairs.get(address, 0) >= STREAMS_MAX:
            return self._refuse(hub, address, stream, "over_streams")
        item = Item(OPEN, stream)
        if other.outbox.lane_size(hub.address) + item.cost > LANE_MAX:
            return self._refuse(hub, address, stream, "over_lane")
        if other.outbox.queued + item.cost > DESTINATION_MAX:
            return self._refuse(hub, address, stream, "over_destination")
        relief: Actions = ()
        if self.streams >= STREAMS_TOTAL:
            relief = self._relieve_of_streams()
            if not (self.here(hub) and self.here(other)):
                return relief
        there, back = Route(other, hub), Route(hub, hub)
        there.back, back.back = back, there
        hub.routes[address + stream] = there
        other.routes[hub.address + stream] = back
        hub.pairs[address] = other.pairs[hub.address] = hub.pairs.get(address, 0) + 1
        hub.opened += 1
        self.streams += 1
        self.counts["opened"] += 1
        return (*relief, *self._queue(hub, other, item))

    def _credit(self, hub: Hub, route: Route, piece: relay_wire.Piece) -> Actions:
        # Never beyond what was sent: else two hubs could agree to fill the server.
        more = min(int.from_bytes(piece.payload, "big"), CREDIT - route.back.left)
        if more == 0:
            return self._dropped(hub, "credit")
        route.back.left += more
        owed = route.owed
        if owed is not None and owed.queued:
            owed.payload = (int.from_bytes(owed.payload, "big") + more).to_bytes(_CREDIT_BYTES, "big")
            return ()
        route.owed = Item(CREDIT_MORE, piece.stream, more.to_bytes(_CREDIT_BYTES, "big"))
        return self._queue(hub, route.to, route.owed)

    def _close(self, hub: Hub, route: Route, stream: bytes) -> None:
        """The stream is no more; what still waits for `hub` of it is of no use."""
        to = route.to
        route.by.opened -= 1
        self.streams -= 1
        del hub.routes[to.address + stream]
        del to.routes[hub.address + stream]
        for one, other in ((hub, to), (to, hub)):
            one.pairs[other.address] -= 1
            if not one.pairs[other.address]:
                del one.pairs[other.address]
        self.queued -= hub.outbox.purge(to.address, stream)

    def _queue(self, hub: Hub, to: Hub, item: Item) -> Actions:
        self.queued += to.outbox.put(hub.address, item)
        if self.queued <= TOTAL_MAX:
            return self._wake(to)
        return (*self._wake(to), *self._relieve())

    def _everyone(self) -> list[Hub]:
        return [hub for place in self._places for hub in place.hubs.values()]

    def _relieve_of_streams(self) -> Actions:
        """Too many streams are open in all: who opened most of them ends."""
        greediest = max(self._everyone(), key=lambda hub: hub.opened)
        self.counts["relieved"] += 1
        sentence = f"too many streams are open here, and {greediest.opened:,} of them it opened"
        return self._end(greediest, relay_wire.CLOSE_RATE, sentence, "refused")

    def _relieve(self) -> Actions:
        """Too much waits in all: who has most to read ends, for no other could be blamed."""
        slowest = max(self._everyone(), key=lambda hub: hub.outbox.queued + hub.flying)
        self.counts["relieved"] += 1
        waiting = slowest.outbox.queued // 1_000_000
        return self._end(slowest, relay_wire.CLOSE_SLOW, f"{waiting:,} MB wait for it unread", "lost")

    # --- what comes to nothing ---------------------------------------------------------------------------

    def _stray(self, hub: Hub, piece: relay_wire.Piece) -> Actions:
        if piece.address == hub.address:
            return self._end(hub, relay_wire.CLOSE_FRAME, "a message to itself", "refused")
        if piece.kind == relay_wire.DATA and piece.address not in hub.realm.hubs:
            return self._no_such_hub(hub, piece.address, piece.stream)
        return self._dropped(hub, "stream")

    def _no_such_hub(self, hub: Hub, address: bytes, stream: bytes) -> Actions:
        self._dropped(hub, "no_such_hub")
        said = relay_wire.NoSuchHub(address=address.hex(), stream=stream.hex())
        # One that floods without reading is told the first times only.
        return self._wake(hub) if hub.outbox.note(relay_wire.encode(said)) else ()

    def _dropped(self, hub: Hub, why: str) -> Actions:
        hub.pace.spend(UNITS_DROPPED)
        self.counts[f"dropped_{why}"] += 1
        return ()

    def _congested(self, hub: Hub, route: Route, stream: bytes, why: str) -> Actions:
        """Close a stream both ways, and forget what waits of it."""
        to = route.to
        self._close(hub, route, stream)
        self.queued -= to.outbox.purge(hub.address, stream)
        hub.pace.spend(UNITS_CONGESTED)
        if not to.outbox.note(_congested(hub.address, stream)):
            # Not told, it would hold the stream for open. Who goes beyond its credit breaks the rules, and
            # could so have a hub thrown out whose line is slow: that one goes, and the other hears of it.
            if why == "over_credit":
                sentence = "it goes beyond its credit again and again"
                return self._end(hub, relay_wire.CLOSE_FRAME, sentence, "refused")
            return (*self._refuse(hub, to.address, stream, why), *self._end_deaf(to))
        return (*self._refuse(hub, to.address, stream, why), *self._wake(to))

    def _refuse(self, hub: Hub, address: bytes, stream: bytes, why: str) -> Actions:
        self._dropped(hub, why)
        self.counts["congested"] += 1
        told = hub.outbox.note(_congested(address, stream))
        return self._wake(hub) if told else self._end_deaf(hub)

    def _end_deaf(self, hub: Hub) -> Actions:
        return self._end(hub, relay_wire.CLOSE_SLOW, "it does not read what it is told", "lost")

    # --- what goes out -----------------------------------------------------------------------------------

    def take(self, hub: Hub, limit: int) -> tuple[list[Outgoing], Actions]:
        """What a hub's writer writes next, of about `limit` bytes; empty: it sleeps until it is woken.

        What it took before has been written.
        """
        before = hub.outbox.queued
        taken = hub.outbox.take(limit)
        if not self.here(hub):
            return taken or [], ()
        # Texts are counted from here on: a hub that reads nothing holds its `here` and more.
        texts = sum([len(each) for each in taken or () if isinstance(each, str)])
        self.queued += texts - hub.flying
        hub.flying = before - hub.outbox.queued + texts
        if taken is None:
            sentence = "it has not read who came and went"
            return [], self._end(hub, relay_wire.CLOSE_SLOW, sentence, "lost")
        hub.awake = bool(taken)
        return taken, ()

    def pause(self, hub: Hub, now: float) -> float:
        """Seconds to wait before more is read from a hub; `now` in seconds, monotonic."""
        return hub.pace.wait(now)
