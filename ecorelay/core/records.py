"""The records of what the core remembers, and who owns which field.

Durable facts (peers, names, groups) change only when the store has committed them; the rest lives as long as
the process.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecorelay import wire
    from ecorelay.core.events import LinkFrame
    from ecorelay.core.link_ops import HubKnown
    from ecorelay.link_wire import GroupMember, GroupStates, Rejection, RoomMember


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

    __slots__ = ("again", "link", "new", "op_id", "peer", "req_id", "room", "said", "sid")

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
        self.again = False
        """It says that again after a reconnect."""


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
