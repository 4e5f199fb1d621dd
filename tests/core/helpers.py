"""How tests of the core talk to it.

`Script` is for single steps: an event in, the whole list of actions out, results written by hand. `World`
joins the core to the model store and to clients that only collect what they get: for stories in which
what was stored matters. Neither has a clock, randomness or I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ecorelay import names, wire
from ecorelay.core.actions import Action, CheckProcess, CloseSession, Describe, Push, Reply, Stop, Store
from ecorelay.core.events import (
    ClockJumped,
    Event,
    Now,
    ProcessChecked,
    SessionClosed,
    SessionFrame,
    SessionOpened,
    Stored,
    StoreFailed,
    Tick,
)
from ecorelay.core.hub import Hub
from ecorelay.core.ops import (
    Backlog,
    GroupRow,
    MailboxState,
    NotePeer,
    OpenMailbox,
    PeerRow,
    RememberPeer,
    Snapshot,
)
from ecorelay.core.records import Peer, Session
from ecorelay.core.state import State
from ecorelay.errors import Code, RelayError
from ecorelay.limits import Limits
from tests.helpers.model_store import ModelStore

WALL = 1_700_000_000_000
"""Where the wall clock begins, in ms."""
MONO = 1_000.0
HUB_ID = "here"
VERSION = "1.2.3"
DAY_MS = 86_400_000
DAY_S = 86_400.0


def mid(number: int) -> str:
    """A client's id: op_id or msg_id."""
    return names.new_id(0, lambda _: number)


def made(number: int, wall: int = WALL) -> str:
    """The `number`-th id that the hub made, counted from 1."""
    return names.new_id(wall, lambda _: number)


def peer_row(no: int, name: str, **fields: Any) -> PeerRow:
    """A peer that the store was found with; its peer_id is ``id-<name>``."""
    known: dict[str, Any] = {
        "peer_id": f"id-{name}",
        "auto": False,
        "client": "",
        "cwd": "",
        "git_branch": "",
        "last_seen": WALL,
        **fields,
    }
    return PeerRow(no=no, name=name, **known)


def group_row(no: int, name: str, *members: int) -> GroupRow:
    """A group that the store was found with; the first member is its admin."""
    return GroupRow(no=no, group_id=f"group-{name}", name=name, admin_no=members[0], members=members)


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.mono = MONO
        self.wall = WALL

    @property
    def now(self) -> Now:
        return Now(self.mono, self.wall)

    def forward(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += round(seconds * 1000)


def make_hub(snapshot: Snapshot | None = None, **limits: Any) -> Hub:
    """A hub whose ids are `made(1)`, `made(2)`, ..."""
    count = iter(range(1, 1_000_000))

    def new_id(wall: int) -> str:
        return names.new_id(wall, lambda _: next(count))

    return Hub(
        hub_id=HUB_ID,
        version=VERSION,
        new_id=new_id,
        limits=Limits(**limits),
        snapshot=snapshot or Snapshot(),
    )


def hello(**fields: Any) -> wire.Hello:
    """A hello in the only version there is."""
    return wire.Hello(**{"versions": (1, 1), **fields})


# --- single steps ------------------------------------------------------------------------------------


class Script:
    """A hub that is told event by event. Units it wants stored are answered by `stored` or `failed`."""

    def __init__(self, snapshot: Snapshot | None = None, **limits: Any) -> None:
        self.clock = Clock()
        self.hub = make_hub(snapshot, **limits)
        self.units: deque[Store] = deque()
        """Not answered yet, in the order of their submission."""

    @property
    def state(self) -> State:
        return self.hub.state

    def peer(self, name: str) -> Peer:
        return self.state.names[name]

    def session(self, sid: int) -> Session:
        return self.state.sessions[sid]

    def handle(self, event: Event) -> list[Any]:
        actions = self.hub.handle(event, self.clock.now)
        self.units.extend(action for action in actions if isinstance(action, Store))
        return actions

    def opened(self, sid: int, *, pid: int = 0, **fields: Any) -> list[Any]:
        """A connection says hello."""
        return self.handle(SessionOpened(sid, hello(**fields), pid))

    def frame(self, sid: int, frame: wire.FromSession) -> list[Any]:
        """A session says something."""
        return self.handle(SessionFrame(sid, frame))

    def closed(self, sid: int, reason: str = "eof") -> list[Any]:
        """A connection is gone."""
        return self.handle(SessionClosed(sid, reason))

    def stored(self, *results: Any) -> list[Any]:
        """The oldest unit is committed."""
        unit = self.units.popleft()
        assert len(results) == len(unit.ops), unit
        return self.handle(Stored(unit.then, results))

    def failed(self, code: Code = "mailbox_error", message: str = "the disk is full") -> list[Any]:
        """The oldest unit is refused."""
        return self.handle(StoreFailed(self.units.popleft().then, code, message))

    def tick(self, after: float = 0.0) -> list[Any]:
        """Time passes, and the hub looks at it."""
        self.clock.forward(after)
        return self.handle(Tick())

    def jumped(self, seconds: float = 3600.0) -> list[Any]:
        self.clock.wall += round(seconds * 1000)
        return self.handle(ClockJumped(seconds))

    def checked(self, check: Action, alive: bool) -> list[Any]:
        """The answer to a `CheckProcess`."""
        assert isinstance(check, CheckProcess)
        return self.handle(ProcessChecked(check.then, alive))

    # Shorter ways to where a test begins; what they leave out is compared elsewhere.

    def online(self, sid: int, name: str, *, unread: int = 0, notices: int = 0, **fields: Any) -> Peer:
        """Session `sid` of the known peer `name` is welcome, and its backlog, if it wants one, is loaded."""
        groups = fields.pop("groups", ())
        peer = self.peer(name)
        self.opened(sid, **{"peer_id": peer.peer_id, **fields})
        before = [None] * (len(self.units[0].ops) - 1)
        self.stored(*before, MailboxState(unread, notices, groups))
        if fields.get("push"):
            self.stored(Backlog((), False, unread))
        return peer


def bind_ops(no: int, *, identity: str = "", client: str = "", cwd: str = "", branch: str = "") -> Any:
    """The unit that binds a session to its peer."""
    return (
        NotePeer(no=no, last_seen=WALL, client=client, cwd=cwd, git_branch=branch),
        RememberPeer(no=no, client=client, identity=identity, cwd=cwd, at=WALL),
        OpenMailbox(no=no),
    )


def left(no: int, wall: int = WALL) -> Store:
    """What is stored when the session of a peer ends."""
    return Store((NotePeer(no=no, last_seen=wall),))


def welcome(name: str, **fields: Any) -> wire.Welcome:
    """The welcome of a peer of a snapshot."""
    known = {"peer_id": f"id-{name}", **fields}
    return wire.Welcome(version=1, hub_id=HUB_ID, app_version=VERSION, name=name, **known)


# --- stories -----------------------------------------------------------------------------------------


class Client:
    """What one connection got, and what it still waits for."""

    def __init__(self, world: World, sid: int, greeting: wire.Hello) -> None:
        self.world = world
        self.sid = sid
        self.hello = greeting
        self.got: list[wire.Frame] = []
        self.welcome: wire.Welcome | None = None
        self.answers: dict[int, Any] = {}
        self.asked: dict[int, wire.Request] = {}
        self.next_req = 1
        self.closed = False
        """The hub, or the test, has closed the connection."""
        self.close_reason = ""

    def take(self, frame: wire.Frame) -> None:
        """The hub said something."""
        self.got.append(frame)
        if isinstance(frame, wire.Welcome):
            assert self.welcome is None, "welcomed twice"
            self.welcome = frame
        elif isinstance(frame, wire.Result):
            assert frame.req_id in self.asked, f"an answer that nobody waits for: {frame}"
            assert frame.req_id not in self.answers, f"a second answer: {frame}"
            assert frame.unread >= 0, frame
            self.answers[frame.req_id] = frame

    @property
    def name(self) -> str:
        assert self.welcome is not None, f"not welcomed: {self.got}"
        return self.welcome.name

    @property
    def peer_id(self) -> str:
        assert self.welcome is not None, f"not welcomed: {self.got}"
        return self.welcome.peer_id

    @property
    def pushes(self) -> list[wire.Push]:
        return [frame for frame in self.got if isinstance(frame, wire.Push)]

    @property
    def pushed_texts(self) -> list[str]:
        return [push.text for push in self.pushes]

    def say(self, frame: wire.FromSession) -> None:
        """Say something that has no answer."""
        self.world.feed(SessionFrame(self.sid, frame))

    def ask(self, kind: Callable[..., Any], **fields: Any) -> int:
        """Make a request and do not wait; gives its req_id."""
        req_id, self.next_req = self.next_req, self.next_req + 1
        if issubclass(kind, wire.Mutation) and "op_id" not in fields:  # type: ignore[arg-type]
            fields["op_id"] = self.world.new_op()
        frame = kind(**{**fields, "req_id": req_id})
        self.asked[req_id] = frame
        self.say(frame)
        return req_id

    def call(self, kind: Callable[..., Any], **fields: Any) -> Any:
        """Make a request and give its answer, which must have come."""
        req_id = self.ask(kind, **fields)
        assert req_id in self.answers, f"not answered: {self.asked[req_id]}"
        return self.answers[req_id]

    def ack(self, *msg_ids: str, carrier: str = "inbox") -> None:
        """The carrier accepted these pushes; all, if none are named."""
        self.say(wire.Pushed(msg_ids=msg_ids or tuple(p.msg_id for p in self.pushes), carrier=carrier))

    def send(self, to: str, text: str, **fields: Any) -> Any:
        return self.call(wire.Send, to=to, text=text, **fields)

    def inbox(self, **fields: Any) -> Any:
        return self.call(wire.Inbox, **fields)

    def texts(self, **fields: Any) -> list[str | None]:
        """The texts of the next page, which is then confirmed."""
        page = self.inbox(**fields)
        self.confirm(page)
        return [mail.text for mail in page.messages]

    def confirm(self, page: Any) -> Any:
        """Confirm what a page showed, as the adapter does."""
        shown = [mail for mail in page.messages if mail.text is not None]
        return self.call(
            wire.Confirm,
            lease=page.lease,
            msg_ids=tuple(m.msg_id for m in shown if m.kind != "room" and names.is_id(m.msg_id)),
            notices=tuple(m.msg_id for m in shown if not names.is_id(m.msg_id)),
        )

    def close(self, reason: str = "eof") -> None:
        """The connection ends."""
        self.world.close(self, reason)


class World:
    """A hub, a model store and clients. Everything happens at once, unless a test holds it."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.limits = limits
        self.store = ModelStore(Limits(**limits))
        self.hub = make_hub(**limits)
        self.clients: dict[int, Client] = {}
        self.dead_pids: set[int] = set()
        self.lingering = False
        """Connections that the hub closes stay open until the test closes them."""
        self.held = False
        """Units stay in the store until the test commits them."""
        self.stopped = ""
        self.details: list[wire.HubDetails] = []
        self._events: deque[Event] = deque()
        self._busy = False
        self._next_sid = 1
        self._next_op = 1
        self._restarts = 0

    @property
    def state(self) -> State:
        return self.hub.state

    def peer(self, name: str) -> Peer:
        return self.state.names[name]

    def new_op(self) -> str:
        self._next_op += 1
        return mid(self._next_op)

    # --- what happens ------------------------------------------------------------------------------

    def feed(self, *events: Event) -> None:
        """Things happen, and all that follows from them; the store's part only if it is not held."""
        self._events.extend(events)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                for action in self.hub.handle(self._events.popleft(), self.clock.now):
                    self._perform(action)
                if not self._events and not self.held:
                    self._events.extend(self.store.commit())
        finally:
            self._busy = False

    def _perform(self, action: Action) -> None:
        match action:
            case Store():
                self.store.submit(action.ops, action.then)
            case Reply():
                self._to(action.sid, action.frame)
            case Push():
                for sid in action.sids:
                    self._to(sid, action.frame)
            case Describe():
                self._to(action.sid, action.details)
            case CloseSession():
                client = self.clients[action.sid]
                client.close_reason = action.reason
                if not self.lingering:
                    client.close(action.reason)
            case CheckProcess():
                self._events.append(ProcessChecked(action.then, action.pid not in self.dead_pids))
            case Stop():
                self.stopped = action.reason
            case _:
                raise AssertionError(action)

    def _to(self, sid: int, frame: wire.Frame) -> None:
        client = self.clients[sid]
        if not client.closed:
            client.take(frame)

    def commit(self, count: int | None = None) -> None:
        """The store does `count` units (all there are, if None), and the core hears of them."""
        self.feed(*self.store.commit(count))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Units wait in the store meanwhile; afterwards all are done."""
        self.held = True
        yield
        self.held = False
        self.commit()

    @contextmanager
    def broken_disk(self) -> Iterator[None]:
        """Every unit fails meanwhile."""
        self.store.refuse = lambda ops: RelayError("mailbox_error", "the disk is full")
        yield
        self.store.refuse = lambda ops: None

    def open(self, name: str | None = None, *, pid: int = 0, **fields: Any) -> Client:
        """A connection says hello."""
        sid, self._next_sid = self._next_sid, self._next_sid + 1
        client = self.clients[sid] = Client(self, sid, hello(name=name, **fields))
        self.feed(SessionOpened(sid, client.hello, pid))
        return client

    def close(self, client: Client, reason: str = "eof") -> None:
        """A connection is gone; nothing reaches it any more."""
        if not client.closed:
            client.closed = True
            client.close_reason = client.close_reason or reason
            self.feed(SessionClosed(client.sid, reason))

    def tick(self, after: float) -> None:
        """Time passes; the hub looks at it at each of its deadlines, and at the end."""
        end = self.clock.mono + after
        for _ in range(10_000):
            due = self.hub.next_deadline()
            if due is None or due > end:
                break
            self.clock.forward(max(0.0, due - self.clock.mono))
            self.feed(Tick())
        else:
            raise AssertionError("a deadline that does not go away")
        self.clock.forward(max(0.0, end - self.clock.mono))
        self.feed(Tick())

    def restart(self) -> None:
        """The hub dies and starts again: connections and what was not committed are gone."""
        self._restarts += 1
        self.store.lose_pending()
        self._events.clear()
        for client in self.clients.values():
            client.closed = True
        self.hub = make_hub(self.store.snapshot(), **self.limits)
        base = self._restarts * 1_000_000
        count = iter(range(base, base + 1_000_000))
        self.hub.state.new_id = lambda wall: names.new_id(wall, lambda _: next(count))

    def idle(self) -> None:
        """Nothing may be left over once everybody is gone."""
        s = self.state
        assert s.outstanding == 0
        assert not s.sessions
        assert not s.leases
        assert not s.rooms
        assert not s.beside
        assert not s.watchers
        assert not s.canaries
        assert s.probing == 0
        assert not s.reserved
        assert s.room_backlog_bytes == 0
        for peer in s.peers.values():
            assert peer.session is None
            assert not peer.attached
            assert not peer.going
            assert not peer.loaded
            assert not peer.waiters, peer.name
            assert peer.reads == 0
            assert not peer.leased
            assert not peer.pushed
            assert not peer.stubs
            assert not peer.printed
            assert not peer.printed_notices
            assert not peer.after_tool
            assert not peer.cut
            assert not peer.cut_rooms
            assert not peer.told
            assert not peer.room_mail
            assert peer.room_bytes == 0
            assert all(not lease.reading and not lease.queue for lease in peer.history.values())
        assert all(row.lease == 0 for row in self.store.rows.values())
