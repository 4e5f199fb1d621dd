"""What the core remembers: the records, who owns which field, and the few look-ups all modules share.

Durable facts (peers, names, groups) change only when the store has committed them; the rest lives as
long as the process. Functions that decide live beside this file, one noun a file.
"""

from __future__ import annotations

import difflib
import heapq
from collections import deque
from typing import TYPE_CHECKING, Any

from ecorelay import names, wire
from ecorelay.core.actions import Action, Reply
from ecorelay.errors import Code, RelayError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ecorelay.core.events import LinkFrame, Now
    from ecorelay.core.far_trace import Tracing
    from ecorelay.core.link_ops import HubKnown
    from ecorelay.core.ops import Snapshot
    from ecorelay.limits import Limits
    from ecorelay.link_wire import GroupMember, GroupStates, Rejection, RoomMember

CLOSE_NAMES_SEARCHED = 2_000
"""Names compared for "did you mean": an unknown name must stay cheap to answer."""


class Peer:
    """A registered name with a mailbox. Durable: the first block; the rest is of this process."""

    __slots__ = (
        "after_tool",
        "attached",
        "auto",
        "client",
        "cut",
        "cut_rooms",
        "cwd",
        "git_branch",
        "going",
        "group_unread",
        "groups",
        "history",
        "last_seen",
        "leased",
        "loaded",
        "missed",
        "name",
        "news",
        "no",
        "notices",
        "peer_id",
        "printed",
        "printed_notices",
        "pushed",
        "reads",
        "recent_ops",
        "room_bytes",
        "room_mail",
        "rooms",
        "session",
        "stubs",
        "told",
        "unread",
        "waiters",
    )

    def __init__(self, *, no: int, peer_id: str, name: str, auto: bool, last_seen: int) -> None:
        self.no = no
        self.peer_id = peer_id
        self.name = name
        self.auto = auto
        self.client = ""
        self.cwd = ""
        self.git_branch = ""
        self.last_seen = last_seen
        self.groups: set[int] = set()
        # owned by sessions.py
        self.session: Session | None = None
        self.attached: set[int] = set()
        self.going = False
        """Offered to the store for removal: nobody may come to it any more until that is decided."""
        # owned by mailbox.py; meaningful once `loaded`, which any connection of the peer brings about
        self.loaded = False
        self.unread = 0
        """Rows unread in the store, those pushed or leased included."""
        self.notices = 0
        self.leased: dict[str, int] = {}
        """Ids of unread mail and notices in pages that are out (unconfirmed, or their confirmation in the
        store) → in how many."""
        self.reads = 0
        """Pages being read in the store at this moment."""
        self.news = 0
        """A page with a smaller lease number was asked for before the latest news: it may not show them."""
        self.waiters: list[Waiter] = []
        # owned by delivery.py: pushed in the live session, without evidence of reading; msg_id → mid
        self.pushed: dict[str, int] = {}
        self.stubs: set[str] = set()
        """Those of `pushed` that no page has listed yet, or none that was shown."""
        # owned by hooks.py; of the live session
        self.printed: dict[str, None] = {}
        """Mail that a hook printed, wholly (then it is `pushed`) or in part, and nothing proves yet that the
        model was given it."""
        self.printed_notices: set[str] = set()
        self.after_tool: set[str] = set()
        """Those of both that the hook of a tool printed."""
        self.cut: dict[str, int] = {}
        """Unread mail of which a hook printed the beginning: no hook shows it again; msg_id → mid."""
        self.cut_rooms: set[str] = set()
        """The same of `room_mail`."""
        self.told: dict[int, int] = {}
        """Group → unread lines of it that a hook spoke of."""
        # owned by groups.py
        self.group_unread: dict[int, int] = {}
        self.history: dict[int, HistoryLease] = {}
        # owned by rooms.py
        self.rooms: set[str] = set()
        self.room_mail: deque[wire.Mail] = deque()
        self.room_bytes = 0
        self.missed = 0
        self.recent_ops: dict[str, tuple[int, wire.RoomSent]] = {}
        """op_id → checksum of the request, its answer. Outlives the session: it is for the next one."""

    @property
    def online(self) -> bool:
        """Whether a session of this peer is live and welcome."""
        return self.session is not None and self.session.ready


class RemotePeer:
    """A peer of another hub, as that hub told of it last."""

    __slots__ = ("client", "cwd", "git_branch", "last_seen", "name", "online", "peer_id", "push")

    def __init__(self, peer_id: str, name: str = "") -> None:
        self.peer_id = peer_id
        self.name = name
        self.online = False
        self.push = False
        self.client = ""
        self.cwd = ""
        self.git_branch = ""
        self.last_seen = 0


class RemoteHub:
    """Another hub: its peers, what waits for it, and how far both streams have come."""

    __slots__ = (
        "answering",
        "asked",
        "asking",
        "base",
        "began",
        "bytes",
        "caught_up",
        "comparing",
        "complete",
        "contradicted",
        "delivered",
        "first",
        "former",
        "guest_rooms",
        "hub_id",
        "inflight",
        "inflight_bytes",
        "introduced",
        "known",
        "last",
        "link",
        "listed",
        "loading",
        "lost_at",
        "names",
        "no",
        "ours",
        "owed",
        "paused",
        "peers",
        "progress_at",
        "received",
        "receiving",
        "refusals",
        "refused",
        "refusing",
        "resuming",
        "rooms_all",
        "rooms_lost",
        "rooms_told",
        "sent",
        "settled",
        "settling",
        "stale",
        "states",
        "states_told",
        "stream",
        "told",
        "traces",
        "up",
        "up_at",
        "version",
        "waiting",
        "wanted",
        "watched",
    )

    def __init__(self, no: int, hub_id: str) -> None:
        self.no = no
        self.hub_id = hub_id
        self.link = 0
        """0: there is none."""
        self.lost_at = 0
        """Wall ms of the loss of the last link, or when it was seen last before this run; 0: never."""
        self.up_at = 0
        self.version = ""
        """Of its program."""
        # owned by directory.py
        self.peers: dict[str, RemotePeer] = {}
        self.names: dict[str, RemotePeer] = {}
        self.former: dict[str, RemotePeer] = {}
        """By key of a name that it has given up: whom it led to."""
        self.complete = False
        """`peers` are all it has, or had when its link was lost."""
        self.stale: set[str] = set()
        """Those it has not told of again since it began to tell of all."""
        self.introduced = False
        """It was told who is here."""
        # owned by outbox.py
        self.waiting = 0
        self.bytes = 0
        self.ours = ""
        """Our stream to it: one for each run, and anew once it was forgotten."""
        self.began = False
        """That stream has a `base`."""
        self.base = 0
        self.settled = 0
        self.sent = 0
        self.last = 0
        self.resuming = False
        """It has said what it has of our stream."""
        self.up = False
        """The store knows that too: mail may be sent."""
        self.caught_up = False
        self.loading = False
        self.inflight: deque[tuple[int, int]] = deque()
        """Sent without a result: seq and bytes."""
        self.inflight_bytes = 0
        self.progress_at = 0.0
        """Mono time of the last result, or since when there is something without one."""
        self.watched = False
        """A timer looks after that."""
        self.paused = False
        """Its disk took nothing: a while nothing is sent."""
        self.settling = False
        """The store is asked to settle what it has."""
        self.delivered: dict[str, None] = {}
        """The latest mail that a session there took at once."""
        self.asked: dict[str, InFlight] = {}
        """Senders that wait for `delivered`, by msg_id."""
        self.refused: list[tuple[int, str]] = []
        """Seqs it rejected, and why, until the store has settled them."""
        # owned by links.py
        self.known: HubKnown | None = None
        """What the store says of its stream, until its hello."""
        self.stream = ""
        self.first = 1
        self.received = 0
        """Committed, contiguously."""
        self.receiving = 0
        """Given to the store."""
        self.told = 0
        """Of this it was told the result."""
        self.owed: list[Rejection] = []
        """Rejections that it was not told of yet."""
        self.refusals = 0
        """How often our disk refused; what was given to the store before the latest leads to nothing."""
        self.refusing = False
        """It refused, and what has to come again has not come yet."""
        # owned by far_trace.py
        self.traces = 0
        """Questions of it about its messages that our disk is at."""
        # owned by far_groups.py
        self.states_told = False
        """Over this link it was told where our groups are."""
        self.wanted: dict[str, None] = {}
        """Ids of its groups of which we have less than we should: it is asked for one after the other."""
        self.asking = ""
        """The one it was asked for."""
        self.answering = False
        """It asked us, and our disk is at it."""
        self.listed: set[str] = set()
        """Ids of our replicas of its groups that it told of, since it began to tell of all."""
        self.comparing = False
        """The store is asked where our replicas are, for comparing them with what it said."""
        self.states: list[GroupStates] = []
        """What it said meanwhile."""
        self.contradicted: set[bytes] = set()
        """What it was told over this link of peers of ours that are no members: the bodies of the frames."""
        # owned by far_rooms.py
        self.guest_rooms: set[str] = set()
        """Keys of our rooms with peers of it."""
        self.rooms_told: set[str] = set()
        """Those of them that it told over this link, until all are told."""
        self.rooms_all = False
        """They are."""
        self.rooms_lost = 0.0
        """Mono time since which it has not told which of its peers are in our rooms; 0: it has."""


class Opening:
    """A link whose hub the store is asked about, and the hello that came over it meanwhile."""

    __slots__ = ("early", "hub")

    def __init__(self, hub: str) -> None:
        self.hub = hub
        """Its id in lower case."""
        self.early: LinkFrame | None = None


class Asking:
    """A broadcast whose answer waits for other hubs to say how many they asked."""

    __slots__ = ("behind", "count", "frame", "sid", "waits")

    def __init__(self, sid: int, frame: wire.Broadcasted, waits: set[int], behind: int) -> None:
        self.sid = sid
        self.frame = frame
        self.waits = waits
        """Numbers of the hubs."""
        self.count = 0
        self.behind = behind
        """So many hubs have not got it yet and are not waited for."""


class InFlight:
    """A push not yet acknowledged. `req_id` of the sender's request while it waits for `delivered`."""

    __slots__ = ("asked", "at", "link", "mail", "mid", "msg_id", "req_id", "sender_sid", "size")

    def __init__(self, msg_id: str, mid: int, size: int, at: float) -> None:
        self.msg_id = msg_id
        self.mid = mid
        """0 for what is no mail: room and group messages."""
        self.size = size
        self.at = at
        self.sender_sid = 0
        self.req_id = -1
        self.link = 0
        """The link it came over: its sender's hub is told that it was taken at once."""
        self.asked: dict[str, InFlight] | None = None
        """It went to another hub: of those that wait, which it leaves when it is settled."""
        self.mail: wire.Mail | None = None
        """A room message, kept in case the carrier cannot take it."""


class Session:
    """One connection that said hello. `peer` is None for observers, and until it is chosen."""

    __slots__ = (
        "bell_turn",
        "canary",
        "cancelled",
        "carrier",
        "caught_up",
        "cursor",
        "evidence_at",
        "heard",
        "hello",
        "hook_at",
        "inflight",
        "inflight_bytes",
        "inflight_mail",
        "loading",
        "open_reads",
        "page",
        "peer",
        "pid",
        "pings",
        "probes",
        "ready",
        "rings",
        "sid",
        "turn",
        "wanted_taken",
        "woken_at",
    )

    def __init__(self, sid: int, hello: wire.Hello, pid: int, now: float) -> None:
        self.sid = sid
        self.hello = hello
        self.pid = pid
        self.peer: Peer | None = None
        self.ready = False
        self.wanted_taken = False
        # keepalive, owned by sessions.py
        self.heard = now
        self.pings = 0
        # pushing, owned by delivery.py
        self.cursor = 0
        """Mail up to this mid was pushed to this session or left to `relay_inbox`."""
        self.caught_up = False
        """Nothing unread lies beyond `cursor`: new mail is pushed straight from memory."""
        self.loading = False
        self.inflight: dict[str, InFlight] = {}
        self.inflight_bytes = 0
        self.inflight_mail = 0
        """Those of `inflight` that are mail."""
        self.carrier = ""
        """Which carrier took a push last."""
        self.evidence_at = 0
        """Wall ms of the last proof that its model was given mail, or read it."""
        # the bell, owned by hooks.py
        self.rings = 0
        """Rings since a hook ran."""
        self.bell_turn = 0
        """Counts rings and hooks: a timer of an earlier turn is void."""
        self.woken_at = -1e9
        self.turn = ""
        """The assistant's id of the turn that is going on, or was last."""
        self.hook_at = 0
        """Wall ms of the last hook that ran."""
        # owned by canary.py
        self.canary: Canary | None = None
        """The one that is out to it."""
        self.probes = 0
        """Of its own, not answered yet."""
        # reading, owned by mailbox.py
        self.page = 0
        """Number of the last page for a hook: who asks for another gives that one back."""
        self.open_reads: set[int] = set()
        """req_ids of pages being read or waited for."""
        self.cancelled: set[int] = set()


class Canary:
    """A canary that a session was sent, and who waits for what comes of it."""

    __slots__ = ("answer", "askers", "at", "event", "no", "peer", "ring", "session")

    def __init__(self, no: int, peer: Peer, session: Session, at: float, ring: bool) -> None:
        self.no = no
        self.peer = peer
        self.session = session
        self.at = at
        """Mono time."""
        self.ring = ring
        """The adapter was told to ring the bell for it."""
        self.askers: list[tuple[int, int]] = []
        """sid and req_id."""
        self.event = ""
        """Of a hook that ran since."""
        self.answer: wire.CanaryAnswer | None = None
        """The adapter's, while a hook is waited for."""


class Lease:
    """A page handed to a reader and not yet confirmed."""

    __slots__ = (
        "after_tool",
        "groups",
        "lease",
        "live",
        "mids",
        "notices",
        "peer",
        "rooms",
        "sid",
        "stubs",
        "unread",
    )

    def __init__(self, lease: int, peer: Peer, sid: int) -> None:
        self.lease = lease
        self.peer = peer
        self.sid = sid
        self.unread: tuple[str, ...] = ()
        """Ids of the unread mail and the notices in it."""
        self.notices: tuple[str, ...] = ()
        self.stubs: tuple[str, ...] = ()
        self.mids: dict[str, int] = {}
        """msg_id → mid of the mail in it."""
        self.rooms: list[wire.Mail] = []
        self.live = 0
        """The sid of the session that the peer had when it was handed out."""
        # for hooks.py
        self.after_tool = False
        """It is the hook of a tool that prints it."""
        self.groups: dict[int, int] = {}
        """Group → unread lines the page speaks of."""


class HistoryLease:
    """A member's page of one group: lines up to `upto` are out, unconfirmed, until `until`."""

    __slots__ = ("hidden", "overtaken", "pages", "queue", "reading", "released", "sid", "until", "upto")

    def __init__(self) -> None:
        self.upto = 0
        self.sid = 0
        self.until = 0.0
        self.hidden = 0
        """Lines of it taken off the group's unread count as long as the page is out."""
        self.released = 0
        """Lines up to here were given back: until they are read anew, no later page may be confirmed."""
        self.pages: dict[tuple[int, int], float] = {}
        """Those that are out, by session and up to where: until when. None is confirmed over one that another
        session has."""
        self.reading = False
        self.overtaken = False
        """Since the page that is being read was asked for, one was given back: it may begin behind that."""
        self.queue: list[tuple[int, wire.GroupHistory]] = []
        """Requests that came while a page was being read: one page at a time, so none is shown twice."""


class Waiter:
    """A relay_inbox(wait) with nothing to show yet."""

    __slots__ = ("request", "session", "until")

    def __init__(self, session: Session, request: wire.Inbox, until: float) -> None:
        self.session = session
        self.request = request
        self.until = until


class Room:
    """Live membership: peer numbers in order of joining.

    Args:
        name: at its hub.
        hub: the one where it is, if that is another one.
    """

    __slots__ = ("far", "hub", "listed", "members", "name")

    def __init__(self, name: str, hub: RemoteHub | None = None) -> None:
        self.name = name
        self.hub = hub
        self.members: dict[int, None] = {}
        self.far: dict[tuple[str, str], None] = {}
        """Members that are peers of other hubs, in a room of ours: key of the hub and peer_id."""
        self.listed: tuple[RoomMember, ...] = ()
        """All members of a room of another hub, as that hub told them last."""

    @property
    def shown(self) -> str:
        """Its address here."""
        return self.name if self.hub is None else f"{self.name}@{self.hub.hub_id}"


class RoomAsk:
    """Another hub was asked about a room of it: a peer of ours joins, or (`said`) says something."""

    __slots__ = ("link", "new", "op_id", "peer", "req_id", "room", "said", "sid")

    def __init__(self, sid: int, req_id: int, room: Room, peer: Peer, link: int) -> None:
        self.sid = sid
        self.req_id = req_id
        self.room = room
        self.peer = peer
        self.link = link
        self.new = False
        """It was not in the room before it asked."""
        self.op_id = ""
        self.said = False


class FarMember:
    """A member of a group of ours that is a peer of another hub."""

    __slots__ = ("hub", "name", "no", "peer_id")

    def __init__(self, no: int, hub: RemoteHub, peer_id: str, name: str) -> None:
        self.no = no
        self.hub = hub
        self.peer_id = peer_id
        self.name = name

    @property
    def address(self) -> str:
        """How it is called here."""
        return f"{self.name}@{self.hub.hub_id}"


class Group:
    """A persisted group. Members are numbers of our own peers, in order of joining.

    Args:
        no: its number.
        group_id: the same on all hubs.
        name: at its hub.
        admin_no: 0 where it lives on another hub.
        hub: the one where it lives, if that is another one: then this is a replica.
    """

    __slots__ = (
        "admin_no",
        "coming",
        "far",
        "group_id",
        "hub",
        "leaving",
        "members",
        "name",
        "no",
        "roster",
    )

    def __init__(
        self, *, no: int, group_id: str, name: str, admin_no: int, hub: RemoteHub | None = None
    ) -> None:
        self.no = no
        self.group_id = group_id
        self.name = name
        self.admin_no = admin_no
        self.hub = hub
        self.members: dict[int, None] = {}
        self.coming: set[int | tuple[int, str]] = set()
        """Peers whose invitation is in the store (of other hubs: hub number and peer_id): they count for the
        limit."""
        self.far: dict[int, FarMember] = {}
        """Of a group of ours: members that are peers of other hubs, by number."""
        self.roster: tuple[GroupMember, ...] = ()
        """Of a replica: all members, as its hub told them."""
        self.leaving: set[int] = set()
        """Of a replica: our own peers that left, though its hub has not said so yet."""

    @property
    def shown(self) -> str:
        """Its address here."""
        return self.name if self.hub is None else f"{self.name}@{self.hub.hub_id}"


class State:
    """Everything, with the actions of the event being handled in `out`."""

    def __init__(
        self,
        *,
        hub_id: str,
        version: str,
        new_id: Callable[[int], str],
        limits: Limits,
        snapshot: Snapshot,
    ) -> None:
        self.hub_id = hub_id
        self.version = version
        self.new_id = new_id
        self.limits = limits
        self.out: list[Action] = []
        self.counters: dict[str, int] = {}
        self.outstanding = 0
        """Units in the store."""
        # durable, loaded at the start
        self.peers: dict[int, Peer] = {}
        self.by_peer_id: dict[str, Peer] = {}
        self.names: dict[str, Peer] = {}
        self.forwards: dict[str, tuple[Peer, int]] = {}
        """Old name → (peer, wall ms until which it forwards)."""
        self.identities: dict[tuple[str, str], Peer] = {}
        self.places: dict[tuple[str, str], list[Peer]] = {}
        self.groups: dict[int, Group] = {}
        self.groups_by_name: dict[str, Group] = {}
        """Key of the name; of one that lives on another hub, of its address."""
        self.groups_by_id: dict[tuple[int, str], Group] = {}
        """Number of the hub where it lives (0: here) and group_id."""
        self.untold: dict[int, RemoteHub] = {}
        """Hubs, by number, whose outbox had no room for news of our groups. Owned by groups.py."""
        self.renamed: dict[int, None] = {}
        """Numbers of our groups whose members have other names, and of which nobody was told yet. Owned by
        group_sync.py."""
        self.renames_wait = False
        """Just now somebody was: not again until a timer says so."""
        self.far_nos: dict[tuple[int, str], int] = {}
        """Hub number and peer_id of members of our groups that are peers of other hubs → number."""
        self.blocked: set[int] = set()
        """Numbers of our own peers that a person stopped from sending."""
        self.blocked_far: dict[str, str] = {}
        """The same of other hubs: address in lower case → address."""
        self.blocked_ids: dict[tuple[str, str], str] = {}
        """Those of them whose peer_id was known: (hub_id in lower case, peer_id) → that address."""
        self.hubs: dict[str, RemoteHub] = {}
        """Other hubs, by hub_id in lower case."""
        # of this process
        self.restricted: Mapping[str, frozenset[str]] = {}
        """See `HubsConfigured`."""
        self.waking: frozenset[str] = frozenset()
        """See `HubsConfigured`."""
        self.links: dict[int, RemoteHub] = {}
        self.opening: dict[int, Opening] = {}
        """Links whose hub the store is asked about. Owned by links.py."""
        self.tracing: dict[int, Tracing] = {}
        """Traces that wait for other hubs. Owned by far_trace.py."""
        self.last_trace = 0
        self.asking: dict[str, Asking] = {}
        """By broadcast_id. Owned by messages.py."""
        self.changed: dict[int, Peer] = {}
        self.gone: list[str] = []
        """What linked hubs are to be told when the event is handled. Owned by directory.py."""
        self.sessions: dict[int, Session] = {}
        self.beside: dict[tuple[int, int], int] = {}
        """An assistant's process (id, start) → sid of the session beside it."""
        self.watchers: dict[int, bool] = {}
        """Observers that are told what happens → whether with the beginning of texts. Owned by watch.py."""
        self.canaries: dict[int, Canary] = {}
        """Those that are out, by number. Owned by canary.py."""
        self.last_canary = 0
        self.probing = 0
        """Probes not answered yet."""
        self.reserved: set[str] = set()
        """Keys of names whose creation is in the store; those of groups begin with a slash."""
        self.adding = 0
        """Peers whose creation is in the store: they count for the limit."""
        self.offered_no = 0
        """The last peer offered to the store for removal; the next round begins after it."""
        self.rooms: dict[str, Room] = {}
        """By key of the name; of one on another hub, of its address."""
        self.room_asks: dict[int, RoomAsk] = {}
        """What other hubs were asked about their rooms. Owned by far_rooms.py."""
        self.next_ask = 1
        self.rooms_changed: dict[str, None] = {}
        """Keys of our rooms of which other hubs are to be told who is in them. Owned by far_rooms.py."""
        self.lists_left = 0
        """So many lists may be told until a timer says that there may be more."""
        self.lists_wait = False
        """That timer is set."""
        self.said: dict[str, bytes] = {}
        """What peers of ours said on other hubs, by msg_id. Owned by said.py."""
        self.room_backlog_bytes = 0
        self.leases: dict[int, Lease] = {}
        self.next_lease = 1
        self.delivery_waits: deque[tuple[float, InFlight]] = deque()
        self.pushed_rows: dict[str, list[tuple[int, int, int]]] = {}
        self.pushed_due = 0.0
        self.guards: dict[tuple[int, int | str], tuple[float, int]] = {}
        self.jumped_at = -1e9
        self._timers: list[tuple[float, int, Any]] = []
        self._timer_no = 0
        self._load(snapshot)

    def _load(self, snapshot: Snapshot) -> None:
        for row in snapshot.peers:
            if row.hub:  # of mail that went to or came from another hub
                continue
            peer = Peer(no=row.no, peer_id=row.peer_id, name=row.name, auto=row.auto, last_seen=row.last_seen)
            peer.client, peer.cwd, peer.git_branch = row.client, row.cwd, row.git_branch
            self.add_peer(peer)
        for old, no, until in snapshot.forwards:
            if no in self.peers:
                self.forwards[names.key(old)] = (self.peers[no], until)
        for client, identity, no in snapshot.identities:
            if no in self.peers:
                self.identities[client, identity] = self.peers[no]
        for client, cwd, no in snapshot.places:
            if no in self.peers:
                self.places.setdefault((client, cwd), []).append(self.peers[no])
        for far in snapshot.hubs:
            hub = self.hubs[names.key(far.hub_id)] = RemoteHub(far.no, far.hub_id)
            hub.complete, hub.waiting, hub.bytes = far.complete, far.waiting, far.bytes
            hub.lost_at = far.seen_at
            for each in far.peers:
                hub.peers[each.peer_id] = RemotePeer(each.peer_id, each.name)
                hub.names[names.key(each.name)] = hub.peers[each.peer_id]
        elsewhere = {row.no: row for row in snapshot.peers if row.hub in self.hubs}
        for made in snapshot.groups:
            if made.hub and made.hub not in self.hubs:  # a hub must start whatever is on its disk
                continue
            group = Group(
                no=made.no,
                group_id=made.group_id,
                name=made.name,
                admin_no=made.admin_no,
                hub=self.hubs[made.hub] if made.hub else None,
            )
            group.roster = made.roster
            group.leaving.update(made.leaving)
            for no in made.members:
                if no in self.peers:
                    group.members[no] = None
                    self.peers[no].groups.add(made.no)
                elif no in elsewhere:
                    row = elsewhere[no]
                    self.add_far(group, FarMember(no, self.hubs[row.hub], row.peer_id, row.name))
            self.add_group(group)
        far_rows = {row.no: row for row in snapshot.peers if row.hub}
        for address, no in snapshot.blocks:
            if no in self.peers:
                self.blocked.add(no)
            elif not no or no in far_rows:
                self.blocked_far[address.lower()] = address
                if no:
                    self.blocked_ids[far_rows[no].hub, far_rows[no].peer_id] = address

    def add_group(self, group: Group) -> None:
        """Enter a group that the store knows."""
        self.groups[group.no] = group
        self.groups_by_name[names.key(group.shown)] = group
        self.groups_by_id[group.hub.no if group.hub is not None else 0, group.group_id] = group

    def add_far(self, group: Group, member: FarMember) -> None:
        """Enter a member of a group of ours that is a peer of another hub."""
        group.far[member.no] = member
        self.far_nos[member.hub.no, member.peer_id] = member.no

    def add_peer(self, peer: Peer) -> None:
        """Enter a peer that the store knows."""
        self.peers[peer.no] = peer
        self.by_peer_id[peer.peer_id] = peer
        self.names[names.key(peer.name)] = peer
        self.forwards.pop(names.key(peer.name), None)

    # --- answers -------------------------------------------------------------------------------------

    def count(self, what: str, by: int = 1) -> None:
        """Add to a counter of `hub status`."""
        self.counters[what] = self.counters.get(what, 0) + by

    def reply(self, sid: int, frame: wire.Frame) -> None:
        """An answer to a session, unless it is gone."""
        if sid in self.sessions:
            self.out.append(Reply(sid, frame))

    def fail(self, sid: int, req_id: int, code: Code, message: str) -> None:
        """Answer that the request was not done."""
        session = self.sessions.get(sid)
        if session is not None:
            unread = unread_of(session.peer) if session.peer else 0
            self.out.append(Reply(sid, wire.Failed(req_id=req_id, code=code, message=message, unread=unread)))

    # --- look-ups -------------------------------------------------------------------------------------

    def own(self, session: Session) -> Peer:
        """The peer a session acts for.

        Raises:
            RelayError: ``not_registered`` for an observer, or before welcome.
        """
        peer = session.peer
        if peer is None or not session.ready or peer.going:
            raise RelayError(
                "not_registered",
                "this connection acts for no peer: say hello with a name (ecorelay … --as NAME) first",
            )
        return peer

    def speaker(self, session: Session) -> Peer:
        """The peer a session acts for, to have words of it put before others.

        Raises:
            RelayError: ``not_registered`` as from `own`; ``blocked``, a person stopped it.
        """
        peer = self.own(session)
        if peer.no in self.blocked:
            self.count("blocked_refused")
            raise RelayError(
                "blocked",
                f"a person blocked {peer.name}: nothing it sends goes out. Reading still works (relay_inbox, "
                "relay_peers, relay_group_history); trying again does not help: only a person ends it, "
                f"with `ecorelay block {peer.name} --off`",
            )
        return peer

    def blocks(self, hub_id: str, name: str, peer_id: str) -> bool:
        """Whether a person stopped who is said, by whomever, to be this peer of another hub.

        Whatever it is called by now, and whether or not that hub is known any more.
        """
        if not (self.blocked_far or self.blocked_ids):
            return False
        return (
            names.key(f"{name}@{hub_id}") in self.blocked_far
            or (names.key(hub_id), peer_id) in self.blocked_ids
        )

    def find(self, name: str, now: Now) -> Peer | None:
        """The peer of a name on this hub, through the forwarding of old names."""
        found = self.names.get(names.key(name))
        if found is None:
            forward = self.forwards.get(names.key(name))
            if forward is not None and forward[1] > now.wall and not forward[0].going:
                return forward[0]
        return found

    def resolve(self, address: str, now: Now) -> Peer:
        """The peer an address means.

        Raises:
            RelayError: ``peer_not_found`` with close names, ``hub_not_found`` with the known hubs.
        """
        peer = self.names.get(address.lower())  # the common case in one look-up: "@" is in no name
        if peer is not None:
            return peer
        name, _, hub = address.partition("@")
        self.check_hub(hub, address)
        peer = self.find(name, now)
        if peer is None:
            raise RelayError("peer_not_found", f"no peer is called {name!r}{self._did_you_mean(name)}")
        return peer

    def check_hub(self, hub: str, address: str) -> None:
        """Refuse an address on a hub that this one has no link to: ``hub_not_found``."""
        if hub and names.key(hub) != names.key(self.hub_id):
            raise RelayError(
                "hub_not_found",
                f"{address}: this hub ({self.hub_id}) has no link to a hub called {hub!r}; "
                f"known hubs: {', '.join(hub.hub_id for hub in self.hubs.values()) or 'none'}. "
                "Pick an address from relay_peers",
            )

    def _did_you_mean(self, name: str) -> str:
        known = [peer.name for peer in list(self.names.values())[-CLOSE_NAMES_SEARCHED:]]
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        if close:
            return f"; did you mean {', '.join(close)}? relay_peers lists all"
        return "; relay_peers lists who can be reached, `ecorelay peers add NAME` makes an address"

    def check_text(self, text: str, field: str = "text") -> int:
        """Bytes of UTF-8 in a text.

        Raises:
            RelayError: ``too_large`` over the limit; ``bad_args`` where it is empty.
        """
        limit = self.limits.text_bytes
        size = len(text)
        if size * 4 > limit:
            size = len(text.encode())
            if size > limit:
                raise RelayError(
                    "too_large",
                    f"{field} is {size} bytes of UTF-8, the limit is {limit}: "
                    "send it in parts, or write it to a file and send the path",
                )
        if not text:
            raise RelayError("bad_args", f"{field} is empty: say something")
        return size

    # --- timers ---------------------------------------------------------------------------------------

    def at(self, when: float, what: Any) -> None:
        """Have `what` handled at mono time `when`. No cancelling: notes check whether they still apply."""
        self._timer_no += 1
        heapq.heappush(self._timers, (when, self._timer_no, what))

    def due(self, mono: float) -> Any:
        """Take the next note whose time has come, or None."""
        if self._timers and self._timers[0][0] <= mono:
            return heapq.heappop(self._timers)[2]
        return None

    def next_timer(self) -> float | None:
        """When the earliest note is due."""
        return self._timers[0][0] if self._timers else None


def unread_of(peer: Peer) -> int:
    """What `unread` says on every result: mail neither pushed nor leased, notices, rooms, groups."""
    session = peer.session
    mail = peer.unread + peer.notices - len(peer.pushed)
    if session is not None:
        mail -= session.inflight_mail
    if peer.leased:
        inflight = session.inflight if session is not None else {}
        mail -= sum(1 for each in peer.leased if each not in peer.pushed and each not in inflight)
    total = (mail if mail > 0 else 0) + len(peer.room_mail)
    if peer.group_unread:
        total += sum(peer.group_unread.values())
    return total
