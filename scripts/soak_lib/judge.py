"""Holds what was seen against what was promised: events go in, findings come out. Knows nothing of hubs."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from scripts.soak_lib import ledger as log

if TYPE_CHECKING:
    from collections.abc import Iterable

LOSS: Final = "lost"
DOUBLE: Final = "doubled"
DISORDER: Final = "out of order"
BACKWARDS: Final = "receipt went backwards"
DIVERGED: Final = "group diverged"
FALSE_REFUSAL: Final = "refused, and arrived"
ASTRAY: Final = "went astray"
DISK_FULL: Final = "disk full"
"""The kind of that fault."""
LEASE_S: Final = 40.0
"""No page is out for longer."""
SEEN_S: Final = 2.0
"""What was read from a full disk may be seen so long after it was full."""
AFTER_S: Final = 10.0
"""So long after a fault is over a message counts as sent after it."""


class Finding(Struct, frozen=True):
    """A broken promise: what, of which message (-1: none), and how it was seen."""

    what: str
    n: int
    detail: str


class Message(Struct):
    """One message and what became of it."""

    begun: log.Begun
    acked: log.Acked | None = None
    refused: str = ""
    unknown: bool = False
    msg_id: str = ""
    shown: dict[int, int] = field(default_factory=dict)
    """recipient: the turn it was shown last."""
    paged: set[int] = field(default_factory=set)
    """Recipients who saw it in a page; what was only pushed may come again: its answer may be lost."""
    declined: set[int] = field(default_factory=set)
    """Recipients whose carrier could not take it when it was its turn."""
    confirmed: set[int] = field(default_factory=set)
    ended: dict[int, str] = field(default_factory=dict)
    found_lost: bool = False


class Group(Struct):
    """The lines of one group as its readers saw them."""

    members: tuple[int, ...] = ()
    seqs: dict[int, int] = field(default_factory=dict)
    """number of the line: message."""
    orders: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """reader: messages in the order of first sight."""
    places: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """reader: message: its place in that order."""
    unnoted: set[tuple[int, int]] = field(default_factory=set)
    """(reader, message) of pages on a full disk: they cannot be confirmed, and stay out of the next ones."""
    pages: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """reader: its latest page, the place where that begins, and where the one before it began."""
    excused: set[int] = field(default_factory=set)
    """Readers that were told of lines they missed."""


class Judge:
    """Takes events in their order."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.messages: dict[int, Message] = {}
        self.groups: dict[str, Group] = defaultdict(Group)
        self.counts: Counter[str] = Counter()
        """Of events, by what they were."""
        self.refusals: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.acks: dict[str, list[float]] = defaultdict(list)
        """Seconds from a send to its answer: in calm, and by the kind of fault before or around it."""
        self.arrivals: dict[str, list[float]] = defaultdict(list)
        """The same to the push at the recipient, of those that are pushed to."""
        self.linked: dict[str, list[float]] = defaultdict(list)
        self.hub_of: dict[int, str] = {}
        """Peer: its hub."""
        self._order: dict[tuple[int, int, str], int] = {}
        self._steps: dict[tuple[int, str], set[str]] = {}
        self._faulty: dict[str, dict[int, str]] = defaultdict(dict)
        """Hub: faults that are on."""
        self._healed: dict[str, tuple[float, str]] = {}
        """Hub: when its latest fault was over, and what it was."""
        self._full: dict[str, float] = {}
        """Hub: when its disk was no longer full."""
        self._weather: dict[int, str] = {}
        """Message: the fault it was begun in."""

    def take(self, event: log.Event) -> None:
        """One more event."""
        self.counts[type(event).__name__] += 1
        match event:
            case log.Lives():
                self.hub_of[event.peer] = event.hub
            case log.Begun():
                self.messages[event.n] = Message(event)
                self._weather[event.n] = self._now_at(event)
            case log.Acked():
                self._acked(event)
            case log.Refused():
                self.messages[event.n].refused = event.code
                self.refusals[event.code] += 1
            case log.Unknown():
                self.messages[event.n].unknown = True
                self.refusals[f"{event.code} (not known whether done)"] += 1
            case log.Shown():
                self._shown(event)
            case log.Declined():
                self.messages[event.n].declined.add(event.to)
            case log.Confirmed():
                for n in event.ns:
                    self.messages[n].confirmed.add(event.to)
            case log.Members():
                self.groups[event.where].members = event.peers
            case log.Missed():
                self.groups[event.where].excused.add(event.to)
            case log.Steps():
                self._stepped(event)
            case log.Ended():
                self.ended[event.reason] += 1
                self.messages[event.n].ended[event.to] = event.reason
            case log.Fault():
                self._fault(event)
            case log.Linked():
                self.linked[event.kind].append(event.seconds)
            case log.Trouble():
                self._find(event.what, event.n, event.detail)
            case log.Quiet():
                self._quiet(event)

    def of_kind(self, what: str) -> list[Finding]:
        """Findings of one kind."""
        return [each for each in self.findings if each.what == what]

    def missing(self, before: float) -> list[tuple[int, int]]:
        """Messages acknowledged before then that a recipient neither saw nor has a receipt for, and whom.

        Of a broadcast, where the recipients are not known, -1 stands for each that is missing.
        """
        found: list[tuple[int, int]] = []
        for n, message in self.messages.items():
            if message.acked is None or message.acked.at >= before or message.found_lost:
                continue
            begun = message.begun
            match begun.kind:
                case "mail" | "reply":
                    if begun.to not in message.shown and not message.ended:
                        found.append((n, begun.to))
                case "ask":
                    short = message.acked.count - len(message.shown) - len(message.ended)
                    found += [(n, -1)] * max(0, short)
                case "group":
                    group = self.groups[begun.where]
                    found += [
                        (n, to)
                        for to in group.members
                        if to != begun.by
                        and to not in message.shown
                        and to not in group.excused
                        and not message.ended
                    ]
                case _:  # what is said in a room is not kept
                    pass
        return found

    # --- one event ---------------------------------------------------------------------------------------

    def _find(self, what: str, n: int, detail: str) -> None:
        self.findings.append(Finding(what, n, detail))

    def _acked(self, event: log.Acked) -> None:
        message = self.messages[event.n]
        message.acked = event
        self._same_id(message, event.n, event.msg_id)
        self.acks[self._weather.get(event.n, "")].append(event.at - message.begun.at)

    def _same_id(self, message: Message, n: int, msg_id: str) -> None:
        if message.msg_id and msg_id and message.msg_id != msg_id:
            self._find(DOUBLE, n, f"stored as {message.msg_id} and as {msg_id}")
        message.msg_id = message.msg_id or msg_id

    def _shown(self, event: log.Shown) -> None:
        message = self.messages.get(event.n)
        if message is None:
            self._find(ASTRAY, event.n, f"peer {event.to} was shown a message nobody sent")
            return
        begun, to = message.begun, event.to
        self._same_id(message, event.n, event.msg_id)
        if message.refused:
            self._find(FALSE_REFUSAL, event.n, f"as {message.refused}; peer {to} was shown it")
        if begun.to not in (-1, to):
            self._find(ASTRAY, event.n, f"it is for peer {begun.to}, and {to} was shown it")
        first = to not in message.shown
        if event.how == "line":
            self._line(event, message, first)
        elif event.how != "again":
            self._mail(event, message, first)
        if first and event.how == "push":
            self.arrivals[self._weather.get(event.n, "")].append(event.at - begun.at)
        if event.how == "page" and not self._disk_was_full(to, event.at, SEEN_S):
            message.paged.add(to)
        if event.how != "again" or first:
            message.shown[to] = event.turn

    def _disk_is_full(self, to: int) -> bool:
        """Then a page that was handed out cannot be noted, and nobody says that it can."""
        return DISK_FULL in self._faulty[self.hub_of.get(to, "")].values()

    def _disk_was_full(self, to: int, at: float, within_s: float = LEASE_S) -> bool:
        """What was given back since then has no mark, and comes after what was read meanwhile."""
        return self._disk_is_full(to) or at - self._full.get(self.hub_of.get(to, ""), -inf) < within_s

    def _mail(self, event: log.Shown, message: Message, first: bool) -> None:
        n, to, by = event.n, event.to, message.begun.by
        if to in message.confirmed:
            self._find(DOUBLE, n, f"peer {to} was shown it by {event.how} after it was confirmed as seen")
        elif to in message.paged and event.how == "page" and not event.marked:
            self._find(DOUBLE, n, f"peer {to} was shown it again, without a mark")
        elif not first and event.how == "push" and message.shown[to] == event.turn:
            self._find(DOUBLE, n, f"peer {to} was pushed it twice on one connection")
        kept = message.begun.kind != "room" and to not in message.declined
        if first and kept and not event.marked and not self._disk_was_full(to, event.at):
            # An ask of another hub is not pushed as it comes: it waits in the inbox, or for the next session.
            lane = (by, to, f"{event.how} of asks" if message.begun.kind == "ask" else event.how)
            if event.how == "page":
                lane = (by, to, "page")
            if n < self._order.get(lane, -1):
                self._find(DISORDER, n, f"peer {to} was shown {self._order[lane]} of peer {by} before")
            self._order[lane] = max(n, self._order.get(lane, -1))

    def _line(self, event: log.Shown, message: Message, first: bool) -> None:
        n, to, group = event.n, event.to, self.groups[event.where]
        if event.where != message.begun.where:
            self._find(ASTRAY, n, f"said in {message.begun.where}, shown in {event.where}")
        if to in message.confirmed:
            self._find(DOUBLE, n, f"peer {to} was shown the line after it was confirmed as seen")
        order, places = group.orders[to], group.places[to]
        if first:
            places[n] = len(order)
            order.append(n)
        turn, begins, began = group.pages.get(to, (0, 0, 0))
        if event.turn != turn:
            begins, began = places[n], begins
            group.pages[to] = event.turn, begins, began
        # A page begins at the reader's place, which never goes back: what one leaves out was confirmed.
        if self._disk_is_full(to):
            group.unnoted.add((to, n))
        if places[n] < began and (to, n) not in group.unnoted:
            self._find(DOUBLE, n, f"peer {to} was shown the line again, which a page had left behind")
        if event.seq and (known := group.seqs.setdefault(event.seq, n)) != n:
            self._find(DIVERGED, n, f"line {event.seq} of {event.where} is {known} elsewhere")

    def _stepped(self, event: log.Steps) -> None:
        had = self._steps.setdefault((event.n, event.hub), set())
        if gone := had - set(event.steps):
            self._find(BACKWARDS, event.n, f"at {event.hub} it was {sorted(gone)}, and is not any more")
        had.update(event.steps)

    # --- faults ------------------------------------------------------------------------------------------

    def _fault(self, event: log.Fault) -> None:
        if event.on:
            self.faults[event.kind] += 1
        for hub in event.hubs:
            if event.on:
                self._faulty[hub][event.number] = event.kind
                if event.kind == DISK_FULL:
                    self._cannot_note(hub)
            else:
                self._faulty[hub].pop(event.number, None)
                self._healed[hub] = (event.at, event.kind)
                if event.kind == DISK_FULL:
                    self._full[hub] = event.at

    def _cannot_note(self, hub: str) -> None:
        """A page that is out may be read on from, but that it was read cannot be kept, should the hub end."""
        for group in self.groups.values():
            for to, (_, begins, _) in group.pages.items():
                if self.hub_of.get(to) == hub:
                    group.unnoted.update((to, n) for n in group.orders[to][begins:])

    def _now_at(self, event: log.Begun) -> str:
        """The fault around or shortly before a send, at its sender's or recipient's hub; empty: calm."""
        hubs = {self.hub_of.get(event.by, ""), self.hub_of.get(event.to, "")}
        for hub in hubs:
            if self._faulty[hub]:
                return next(iter(self._faulty[hub].values()))
            healed = self._healed.get(hub)
            if healed and event.at - healed[0] < AFTER_S:
                return healed[1]
        return ""

    # --- when all is quiet -------------------------------------------------------------------------------

    def _quiet(self, event: log.Quiet) -> None:
        for n, to in self.missing(event.since):
            message = self.messages[n]
            message.found_lost = True
            whom = f"peer {to}" if to >= 0 else "one of those asked"
            self._find(LOSS, n, f"acknowledged as {message.msg_id}; {whom} never saw it")
        for name, group in self.groups.items():
            self._converged(name, group)

    def _converged(self, name: str, group: Group) -> None:
        """All readers of a group saw its lines in one order, each author's in that author's."""
        place = {n: seq for seq, n in group.seqs.items()}
        for to, order in group.orders.items():
            known = [(place[n], n) for n in order if n in place]
            if known != sorted(known):
                n = next(n for (seq, n), (after, _) in pairwise(known) if seq > after)
                self._find(DIVERGED, n, f"peer {to} read {name} in another order than that of its numbers")
        latest: dict[int, int] = {}
        for _, n in sorted(group.seqs.items()):
            by = self.messages[n].begun.by
            if n < latest.get(by, -1):
                self._find(DISORDER, n, f"in {name}, after {latest[by]} of the same author")
            latest[by] = n


def judged(events: Iterable[log.Event]) -> Judge:
    """What a whole file says."""
    judge = Judge()
    for event in events:
        judge.take(event)
    return judge
