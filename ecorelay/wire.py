"""Every frame of the local hop, and the one door through which foreign bytes become types.

A frame is one JSON object on one line, tagged by ``type``. ``FromSession`` is what a session may
send to the hub, ``ToSession`` what the hub may send to a session. Unknown keys are ignored, an
unknown type is a :class:`~ecorelay.errors.WireError`. Times are integer milliseconds since 1970 UTC,
texts are UTF-8, sizes are bytes. ``docs/protocol.md`` describes every frame with its direction.

A *request* carries ``req_id``, chosen by the session and unique among its open requests; it is
answered by exactly one frame with the same ``req_id``: the result named beside it below, or
``failed``. A *mutating* request also carries ``op_id``, made by the client once and repeated
unchanged when it is sent again after a reconnect (then with ``resend``): it takes effect once. For
mail the op_id is the msg_id.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ecorelay import tagged
from ecorelay.errors import Code, WireError
from ecorelay.names import AddressText, Id, Name

PROTOCOL_VERSION = 1
OLDEST_PROTOCOL_VERSION = 1
"""hello carries the range [oldest, newest]; the hub takes the highest version both speak."""

LINE_MAX_BEFORE_HELLO = 64 * 1024
LINE_MAX = 4 * 1024 * 1024
TEXT_MAX = 512 * 1024
"""Bytes of UTF-8 in one text. JSON escapes may double it and more: LINE_MAX leaves room for that."""
PAGE_BUDGET = 20_000
"""Default number of characters a page of mail or history may fill, so that one result stays small."""

REQ_ID_MAX = 2**53 - 1
"""The largest integer every JSON implementation keeps exact."""

ReqId = Annotated[int, Meta(ge=0, le=REQ_ID_MAX)]
# JSON knows no largest integer; the store and the operating system do.
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Short = Annotated[str, Meta(max_length=256)]
Path = Annotated[str, Meta(max_length=4096)]
Reason = Annotated[str, Meta(max_length=256)]
NoticeId = Annotated[str, Meta(pattern=r"\An[0-9]{1,18}-[0-9]{1,18}\Z")]

Kind = Literal["message", "ask", "reply", "room", "group", "system"]
Role = Literal["session", "attach", "observer"]
Status = Literal["delivered", "queued"]
HookEvent = Literal["start", "bell", "prompt", "tool", "stop"]
Stage = Literal["hub", "adapter", "carrier", "session"]
"""How far a canary got, for all that is known: what answered last."""
ReceiptState = Literal["unread", "pushed", "seen", "replied", "forwarded", "evicted", "expired", "dead"]
ActivityKind = Literal[
    "online", "offline", "renamed", "stored", "pushed", "seen", "evicted", "room", "group", "missed"
]


class Frame(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag_field="type",
    tag=tagged.snake,
):
    """Base of every frame; its tag is the class name in snake_case."""


# --- before hello, loopback TCP only: mutual proof of the endpoint file's token -----------------


class AuthStart(Frame, frozen=True, kw_only=True):
    """Client → hub: begin the proof. The hub answers `auth_challenge`."""

    nonce: Id


class AuthChallenge(Frame, frozen=True, kw_only=True):
    """Hub → client: the hub's own proof (HMAC-SHA256, hex) over both nonces, and its nonce."""

    nonce: Id
    proof: Annotated[str, Meta(max_length=64)]


class AuthProof(Frame, frozen=True, kw_only=True):
    """Client → hub: the client's proof; hello follows at once."""

    proof: Annotated[str, Meta(max_length=64)]


# --- hello ---------------------------------------------------------------------------------------


class Hello(Frame, frozen=True, kw_only=True):
    """Client → hub, first frame, within 5 s. Answered by `welcome` or `refused`.

    `role` is ``session`` (a peer's one live connection), ``attach`` (acts for a peer, never takes
    over, has no presence: hooks, the command line) or ``observer`` (no peer at all).

    `name` is the wanted name. With `pinned` it was chosen by a person and names the peer itself;
    otherwise it is a suggestion (a directory's base name) and the hub prefers what it remembers of
    `identity` (the assistant's session id) and of (`cwd`, `client`), and adds ``-2``, ``-3`` where
    a name is taken. `fallback` allows such a suffix for a pinned name too; without it a pinned name
    held by a living session is refused as ``name_taken``.

    `peer_id` is what an earlier `welcome` gave: the same peer again, whatever its name is now.
    `instance` is random per process: a second connection of the same instance replaces the first.
    `push` says whether this session has a carrier for pushed mail; `bell` that hooks of its assistant
    fetch mail themselves, and it only wants to hear (`bell`) when there is some; `canary` that it answers
    those. `create` (attach only) makes the peer when its name was never seen.

    `client_pid` and `client_start` name the assistant's own process where it is one process a session:
    a second session beside the same one is refused as ``already_registered``, and a hook (role
    ``attach``, no name) acts for the peer whose live session stands beside that process.
    """

    versions: tuple[int, int]
    role: Role = "session"
    name: Name | None = None
    pinned: bool = False
    fallback: bool = False
    create: bool = False
    peer_id: Short | None = None
    instance: Id | None = None
    identity: Short | None = None
    client: Short = ""
    cwd: Path = ""
    git_branch: Short = ""
    pid: Number = 0
    pid_start: Number = 0
    client_pid: Number = 0
    client_start: Number = 0
    push: bool = False
    bell: bool = False
    canary: bool = False
    app_version: Short = ""


class Welcome(Frame, frozen=True, kw_only=True):
    """Hub → client: who you are now. `name_taken` is set when the wanted name went to `name` instead."""

    version: int
    hub_id: Name
    app_version: str
    name: str = ""
    peer_id: str = ""
    wanted_taken: bool = False
    renamed_from: str = ""
    unread: int = 0


class Refused(Frame, frozen=True, kw_only=True):
    """Hub → client: no session, because; the connection closes after it."""

    code: Code
    message: str


# --- requests: session → hub -----------------------------------------------------------------------


class Request(Frame, frozen=True, kw_only=True):
    """Base of every request."""

    req_id: ReqId


class Mutation(Request, frozen=True, kw_only=True):
    """Base of every request with a lasting effect: at most once per (peer, `op_id`)."""

    op_id: Id
    resend: bool = False


class Send(Mutation, frozen=True, kw_only=True):
    """→ `sent`. Mail to `to`; `op_id` is its msg_id."""

    to: AddressText
    text: str
    reply_to: Id | None = None
    urgent: bool = False


class Reply(Mutation, frozen=True, kw_only=True):
    """→ `sent`. Answer the ask or message `ask_id`; `op_id` is the msg_id of the answer."""

    ask_id: Id
    text: str


class Broadcast(Mutation, frozen=True, kw_only=True):
    """→ `broadcasted`. An ask to every online peer; `op_id` is broadcast_id and ask_id."""

    question: str
    exclude_self: bool = True


class Inbox(Request, frozen=True, kw_only=True):
    """→ `inbox_page`. Lease the next page of unread mail.

    `since_id`: from that message on instead (inclusive, seen ones too) while it is in the ring.
    `wait`: seconds to block until something is there. `budget`: characters the page may fill.
    """

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    since_id: Id | None = None
    wait: Annotated[float, Meta(ge=0, le=600)] = 0
    budget: Annotated[int, Meta(ge=1_000, le=LINE_MAX // 8)] = PAGE_BUDGET


class Confirm(Request, frozen=True, kw_only=True):
    """→ `done`. The page with `lease` went out, with these texts in it: they are seen.

    Works by ids too after the lease lapsed or the hub restarted. `notices`: ids of system notices
    shown; they are dropped. Ids no longer in the ring are passed over.
    """

    lease: Number = 0
    msg_ids: Annotated[tuple[Id, ...], Meta(max_length=1000)] = ()
    notices: Annotated[tuple[NoticeId, ...], Meta(max_length=1000)] = ()


class Release(Request, frozen=True, kw_only=True):
    """→ `done`. The page with `lease` was not shown (cancelled): unread again at once, as `redelivered`."""

    lease: Number


class Cancel(Frame, frozen=True, kw_only=True):
    """Give up the open request `req_id` (a waiting inbox): it is answered at once, leased nothing."""

    req_id: ReqId


class Pushed(Frame, frozen=True, kw_only=True):
    """The carrier accepted these pushes, in order. `carrier` names it, for the receipt."""

    msg_ids: tuple[Id, ...]
    carrier: Short = ""


class PushFailed(Frame, frozen=True, kw_only=True):
    """The carrier could not take these: they stay unread, for `inbox`."""

    msg_ids: tuple[Id, ...]


class Peers(Request, frozen=True, kw_only=True):
    """→ `peer_list`. `match`: part of a name, directory or branch, without regard to case."""

    match: Short = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class AddPeer(Mutation, frozen=True, kw_only=True):
    """→ `renamed`. Create an address nobody has registered yet, so that mail can wait for it."""

    name: Name


class Rename(Mutation, frozen=True, kw_only=True):
    """→ `renamed`."""

    new_name: Name


class Join(Request, frozen=True, kw_only=True):
    """→ `room_members`."""

    room: AddressText


class Leave(Request, frozen=True, kw_only=True):
    """→ `done`. Leaving twice is fine."""

    room: AddressText


class RoomSend(Mutation, frozen=True, kw_only=True):
    """→ `room_sent`. Fire and forget to the other members."""

    room: AddressText
    text: str


class Rooms(Request, frozen=True, kw_only=True):
    """→ `room_list`."""


class GroupCreate(Mutation, frozen=True, kw_only=True):
    """→ `group_members`. The creator is admin."""

    name: Name
    members: Annotated[tuple[AddressText, ...], Meta(max_length=100)]


class GroupInvite(Mutation, frozen=True, kw_only=True):
    """→ `done`. Admin only."""

    group: AddressText
    peer: AddressText


class GroupRemove(Mutation, frozen=True, kw_only=True):
    """→ `done`. Admin only; the reason goes into the history and to the removed."""

    group: AddressText
    peer: AddressText
    reason: Reason


class GroupLeave(Mutation, frozen=True, kw_only=True):
    """→ `done`. An admin cannot leave."""

    group: AddressText


class GroupDelete(Mutation, frozen=True, kw_only=True):
    """→ `done`. Admin only; members are told."""

    group: AddressText


class GroupForget(Mutation, frozen=True, kw_only=True):
    """→ `done`. All peers of this hub leave a group of another one, whether or not that can be told."""

    group: AddressText


class GroupSend(Mutation, frozen=True, kw_only=True):
    """→ `sent`. `op_id` is the msg_id."""

    group: AddressText
    text: str


class GroupHistory(Request, frozen=True, kw_only=True):
    """→ `group_page`. Unread since the caller's cursor, oldest first, leased until confirmed."""

    group: AddressText
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    budget: Annotated[int, Meta(ge=1_000, le=LINE_MAX // 8)] = PAGE_BUDGET


class GroupConfirm(Request, frozen=True, kw_only=True):
    """→ `done`. History up to and including number `upto` went out: the cursor moves there."""

    group: AddressText
    upto: Number


class GroupRelease(Request, frozen=True, kw_only=True):
    """→ `done`. A page of history was not shown: it is unread again at once."""

    group: AddressText


class Groups(Request, frozen=True, kw_only=True):
    """→ `group_list`."""


class GroupInfo(Request, frozen=True, kw_only=True):
    """→ `group_details`. Members only."""

    group: AddressText


class Hook(Request, frozen=True, kw_only=True):
    """→ `hook_page`. A hook of the assistant runs, and can show the model what waits.

    `event`: a session began (``start``), the bell was heard (``bell``: nothing is shown, only whether to
    wake), a prompt is about to go to the model (``prompt``), a tool has returned (``tool``), a turn is about
    to end (``stop``). ``tool`` and ``stop`` prove that the model was given what hooks printed before;
    ``prompt`` shows what was not proved so once more. `turn`: the assistant's own id of the turn the event
    belongs to, if it has one; of a prompt typed while a turn is going on, that turn's. `budget`: characters
    the page may fill.
    """

    event: HookEvent
    turn: Short = ""
    budget: Annotated[int, Meta(ge=1_000, le=LINE_MAX // 8)] = PAGE_BUDGET


class Printed(Request, frozen=True, kw_only=True):
    """→ `done`. The hook wrote the page with `lease` out: these wholly, of those in `cut` the beginning.

    Nobody has seen them yet: see `Hook`.
    """

    lease: Number
    msg_ids: Annotated[tuple[Id, ...], Meta(max_length=1000)] = ()
    cut: Annotated[tuple[Id, ...], Meta(max_length=1000)] = ()
    notices: Annotated[tuple[NoticeId, ...], Meta(max_length=1000)] = ()
    carrier: Short = "hook"


class Identify(Request, frozen=True, kw_only=True):
    """→ `renamed`. The assistant's session has another id now (it was cleared, or another was resumed).

    The answer names the peer that id leads to: the caller's own, to which it leads from now on; or
    another, absent one, that had this id before: then greet anew, with this `identity`.
    """

    identity: Annotated[str, Meta(min_length=1, max_length=256)]


class Trace(Request, frozen=True, kw_only=True):
    """→ `traced`. What became of a message. Any role. ``unknown_ask`` when nothing is known of it."""

    msg_id: Id


class ForgetPeer(Request, frozen=True, kw_only=True):
    """→ `done`. Remove a peer that is not online, with its mailbox. Any role.

    Senders of its unread mail find a notice; groups it administers are deleted, others it leaves.
    """

    name: Name


class Purge(Request, frozen=True, kw_only=True):
    """→ `purged`. Remove mail that was seen, lines of groups, and receipts, all older than `before`.

    With `unread` also mail nobody has seen; its senders find a notice. Any role.
    """

    before: Number
    unread: bool = False


class Backup(Request, frozen=True, kw_only=True):
    """→ `backed_up`. Write a copy of the database to the new file `path`, absolute, mode 0600. Any role."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]


class Block(Request, frozen=True, kw_only=True):
    """→ `done`. What the peer `name` sends is refused from now on as ``blocked``; or no longer. Any role."""

    name: AddressText
    blocked: bool = True


class Blocks(Request, frozen=True, kw_only=True):
    """→ `block_list`. Any role."""


class Watch(Request, frozen=True, kw_only=True):
    """→ `done`, then an `activity` for whatever happens, until the connection ends. For observers.

    `texts`: with the beginning of each text.
    """

    texts: bool = False


class Probe(Request, frozen=True, kw_only=True):
    """→ `probed`, within 5 s. Whether mail would get through to the live session of `peer`. Any role.

    ``peer_gone`` when it has no live session, or loses it meanwhile.
    """

    peer: AddressText


class CanaryAnswer(Frame, frozen=True, kw_only=True):
    """Session → hub: what became of the canary `id`.

    `ok`: whether it came back from where mail goes; None: that cannot be seen without a turn of the model.
    `stage`: how far it got. `says`: what was seen, in one line. `took_ms`: how long, at the adapter.
    """

    id: Number
    ok: bool | None = None
    stage: Stage
    says: Short
    took_ms: Number = 0


class HubStatus(Request, frozen=True, kw_only=True):
    """→ `hub_details`. Any role."""


class HubReload(Request, frozen=True, kw_only=True):
    """→ `done`: bridge.json was read again, links are made anew; with mistakes all stays. Any role."""


class ForgetHub(Request, frozen=True, kw_only=True):
    """→ `hub_forgotten`. Know nothing of that hub any more; its link ends. Any role."""

    hub_id: Name


class HubStop(Request, frozen=True, kw_only=True):
    """→ `done`, then the hub drains and ends. `reason` goes into its log and its goodbyes."""

    reason: Short = ""


class Pong(Frame, frozen=True, kw_only=True):
    """Answer to `ping`."""


class Bye(Frame, frozen=True, kw_only=True):
    """Either direction: the connection ends now, because."""

    reason: str
    code: Code | None = None


# --- results and pushes: hub → session --------------------------------------------------------------


class Result(Frame, frozen=True, kw_only=True):
    """Base of every answer. `unread`: what the caller has unread, over mail, notices and groups."""

    req_id: ReqId
    unread: int = 0


class Failed(Result, frozen=True, kw_only=True):
    """The request was not done; `message` says what to do next."""

    code: Code
    message: str


class Done(Result, frozen=True, kw_only=True):
    """Done, nothing more to say."""


class Sent(Result, frozen=True, kw_only=True):
    """Stored, and `delivered` only when the recipient's adapter acknowledged the push in time."""

    msg_id: str
    status: Status = "queued"
    unverified: bool = False


class Broadcasted(Result, frozen=True, kw_only=True):
    """`peer_count` peers were asked. `pending_hubs`: hubs that have not said yet how many they asked."""

    broadcast_id: str
    peer_count: int
    pending_hubs: int = 0


class Mail(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One entry of a page. Without `text` it is a stub: pushed already, its text by `since_id`.

    `kind` ``ask``: answer with Reply(msg_id). ``system``: a notice (`msg_id` is its id for Confirm).
    """

    msg_id: str
    kind: Kind
    sender: str
    ts: int
    text: str | None = None
    reply_to: str | None = None
    broadcast_id: str | None = None
    room: str | None = None
    urgent: bool = False
    redelivered: bool = False
    seen: bool = False
    pushed_at: int = 0


class GroupUnread(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A group and how much of it the caller has not seen."""

    name: str
    unread_count: int = 0


class InboxPage(Result, frozen=True, kw_only=True):
    """A leased page: confirm it by `lease` and ids once it was shown. `missed`: room messages dropped."""

    lease: int = 0
    messages: tuple[Mail, ...] = ()
    remaining: int = 0
    groups: tuple[GroupUnread, ...] = ()
    missed: int = 0


class HookPage(Result, frozen=True, kw_only=True):
    """What a hook may show: as in `inbox_page`, to be answered by `printed` once it was written out.

    `wake`: something waits that was not shown, so an idle assistant is to be woken. `name`: who it is for.
    """

    name: str
    wake: bool = False
    lease: int = 0
    messages: tuple[Mail, ...] = ()
    remaining: int = 0
    groups: tuple[GroupUnread, ...] = ()
    missed: int = 0


class Peer(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One row of the peer list. `carrier`: what mail reaches its session by, shown last at `evidence_at`."""

    name: str
    online: bool = False
    cwd: str = ""
    git_branch: str = ""
    client: str = ""
    last_seen: int = 0
    push: bool = False
    carrier: str = ""
    evidence_at: int = 0
    unreachable_since: int = 0


class PeerList(Result, frozen=True, kw_only=True):
    """Online first, then by last seen; `more` were cut."""

    me: str = ""
    hub_id: str
    peers: tuple[Peer, ...] = ()
    more: int = 0


class Renamed(Result, frozen=True, kw_only=True):
    """The peer's name is now `name`."""

    name: str


class RoomMembers(Result, frozen=True, kw_only=True):
    """Joined; the members, the caller among them."""

    room: str
    members: tuple[str, ...]


class RoomSent(Result, frozen=True, kw_only=True):
    """How many other members it went to."""

    room: str
    delivered_count: int


class Room(Struct, frozen=True, kw_only=True, gc=False):
    """A room and its members."""

    name: str
    members: tuple[str, ...]


class RoomList(Result, frozen=True, kw_only=True):
    """All rooms of this hub."""

    rooms: tuple[Room, ...] = ()


class GroupMembers(Result, frozen=True, kw_only=True):
    """The group and its members, the admin first."""

    group: str
    members: tuple[str, ...]


class GroupEntry(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One line of a group's history: number, id, author, text; `system` for changes of membership."""

    seq: int
    msg_id: str
    sender: str
    text: str
    ts: int
    kind: Literal["message", "system"] = "message"


class GroupPage(Result, frozen=True, kw_only=True):
    """Leased until GroupConfirm(upto). `missed`: entries the ring dropped before they were read."""

    group: str
    messages: tuple[GroupEntry, ...] = ()
    upto: int = 0
    unread_remaining: int = 0
    missed: int = 0


class GroupList(Result, frozen=True, kw_only=True):
    """The caller's groups."""

    groups: tuple[GroupUnread, ...] = ()


class Member(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A member and whether a session of it is live."""

    name: str
    online: bool = False


class GroupDetails(Result, frozen=True, kw_only=True):
    """What a member may know of its group."""

    group: str
    admin: str
    members: tuple[Member, ...]
    unread_count: int = 0


class Receipt(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is known of one message and one recipient; a time of 0: that has not happened.

    `state` is the last of them; `reason` says why it ended unseen (``evicted``, ``dead``, ...).
    """

    recipient: str
    state: ReceiptState
    stored_at: int
    forwarded_at: int = 0
    pushed_at: int = 0
    carrier: str = ""
    seen_at: int = 0
    replied_at: int = 0
    ended_at: int = 0
    reason: str = ""


class Traced(Result, frozen=True, kw_only=True):
    """A message without its text, and its receipts. `group`: it is a line of that group, and has none."""

    msg_id: str
    kind: Kind
    sender: str
    ts: int
    size: int
    reply_to: str | None = None
    broadcast_id: str | None = None
    group: str | None = None
    receipts: tuple[Receipt, ...] = ()


class Purged(Result, frozen=True, kw_only=True):
    """What was removed: messages out of mailboxes, lines out of groups."""

    messages: int = 0
    lines: int = 0


class HubForgotten(Result, frozen=True, kw_only=True):
    """So many messages waited for it: they ended as ``dead``, and their senders find a notice."""

    messages: int = 0


class BackedUp(Result, frozen=True, kw_only=True):
    """The copy is complete and on disk."""

    path: str
    size: int


class BlockList(Result, frozen=True, kw_only=True):
    """The blocked peers."""

    names: tuple[str, ...] = ()


class MailboxSize(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What lies in one mailbox."""

    name: str
    messages: int = 0
    unread: int = 0
    bytes: int = 0


class LinkDetails(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One other hub. `waiting` messages of `waiting_bytes` lie in its outbox, `in_flight` of them were sent.

    `up` or down since `since`, 0 if it never was up. `road` is ``tcp`` or ``relay``, `address` of the stream,
    `round_trip_ms` of the last ping, `peers` it told of and how many of them are `online`. `trouble`: why it
    was not reached last.
    """

    hub_id: str
    up: bool = False
    since: int = 0
    road: str = ""
    address: str = ""
    version: str = ""
    round_trip_ms: float = 0.0
    waiting: int = 0
    waiting_bytes: int = 0
    in_flight: int = 0
    peers: int = 0
    online: int = 0
    trouble: str = ""


class RelayDetails(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One relay server, by its host.

    `up` or down since `since`, 0 if it was never tried; `hubs` others are there. `trouble`: why it is
    down, or what is not as it should be.
    """

    name: str
    up: bool = False
    since: int = 0
    hubs: int = 0
    trouble: str = ""


class Probed(Result, frozen=True, kw_only=True):
    """What the canary to `peer` showed: `ok`, `stage` and `says` as in `canary_answer`.

    `took_ms`: there and back, at the hub; `adapter_ms`: of it, at the adapter. `hook_at`: when a hook of the
    session's assistant ran last.
    """

    peer: str
    ok: bool | None = None
    stage: Stage
    says: str
    took_ms: int = 0
    adapter_ms: int = 0
    hook_at: int = 0


class HubDetails(Result, frozen=True, kw_only=True):
    """`ecorelay hub status`.

    `sessions` of peers; `connections` are all that said hello, the asker's included; `counters`: drops,
    evictions and closes by reason since the start. `mailboxes` counts those with something in them,
    `mail_*` is over all of them, `largest` names the largest by bytes. `links`: the other hubs it knows of;
    `relays`: the servers at which it meets them; `listening`: where they can reach it, as ``host:port``.
    """

    pid: int = 0
    hub_id: str
    version: str
    uptime_s: float = 0.0
    sessions: int
    connections: int = 0
    peers: int = 0
    groups: int = 0
    rooms: int = 0
    durability: str = ""
    data_dir: str = ""
    db_bytes: int = 0
    mailboxes: int = 0
    mail_messages: int = 0
    mail_unread: int = 0
    mail_bytes: int = 0
    largest: tuple[MailboxSize, ...] = ()
    links: tuple[LinkDetails, ...] = ()
    relays: tuple[RelayDetails, ...] = ()
    listening: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    counters: dict[str, int] = {}


class Push(Frame, frozen=True, kw_only=True):
    """Hub → session with `push`: one message, to be acknowledged by `pushed` once a carrier took it.

    `seq` is set for group messages (their number in the group's history); `room`, `group`
    name where it was said.
    """

    msg_id: str
    kind: Kind
    sender: str
    text: str
    ts: int
    reply_to: str | None = None
    broadcast_id: str | None = None
    room: str | None = None
    group: str | None = None
    seq: int = 0
    urgent: bool = False


class NameChanged(Frame, frozen=True, kw_only=True):
    """Hub → session: the peer this session belongs to was renamed by another of its connections."""

    name: str


class Bell(Frame, frozen=True, kw_only=True):
    """Hub → session with `bell`: something waits that no hook has shown yet. May come again."""


class Canary(Frame, frozen=True, kw_only=True):
    """Hub → session with `canary`: answer `canary_answer` at once.

    `ring`: ring the bell for it, if one is hung. Nothing waits, so that wakes nobody.
    """

    id: int
    ring: bool = False


class Activity(Frame, frozen=True, kw_only=True):
    """Hub → observer that asked to `watch`: one thing that happened.

    `peer` did it or it happened to it, `to` is the other side; `text` is the beginning of a text of `size`
    bytes. `missed`: so many (`count`) were not told, because the observer did not read.
    """

    what: ActivityKind
    ts: int
    peer: str = ""
    to: str = ""
    msg_id: str = ""
    kind: str = ""
    text: str = ""
    size: int = 0
    carrier: str = ""
    count: int = 0


class Ping(Frame, frozen=True, kw_only=True):
    """Hub → session: answer `pong`."""


FromSession = (
    Hello
    | Send
    | Reply
    | Broadcast
    | Inbox
    | Confirm
    | Release
    | Cancel
    | Pushed
    | PushFailed
    | Peers
    | AddPeer
    | Rename
    | Join
    | Leave
    | RoomSend
    | Rooms
    | GroupCreate
    | GroupInvite
    | GroupRemove
    | GroupLeave
    | GroupDelete
    | GroupForget
    | GroupSend
    | GroupHistory
    | GroupConfirm
    | GroupRelease
    | Groups
    | GroupInfo
    | Hook
    | Printed
    | Identify
    | Trace
    | ForgetPeer
    | Purge
    | Backup
    | Block
    | Blocks
    | Watch
    | Probe
    | CanaryAnswer
    | HubStatus
    | HubReload
    | ForgetHub
    | HubStop
    | Pong
    | Bye
)

ToSession = (
    Welcome
    | Refused
    | Failed
    | Done
    | Sent
    | Broadcasted
    | InboxPage
    | PeerList
    | Renamed
    | RoomMembers
    | RoomSent
    | RoomList
    | GroupMembers
    | GroupPage
    | GroupList
    | GroupDetails
    | HookPage
    | Traced
    | Purged
    | BackedUp
    | HubForgotten
    | BlockList
    | Probed
    | HubDetails
    | Push
    | NameChanged
    | Bell
    | Canary
    | Activity
    | Ping
    | Bye
)


# Made when first needed: each takes 2 ms, and a process needs one of them.


@cache
def _from_session() -> msgspec.json.Decoder[FromSession]:
    return msgspec.json.Decoder(FromSession)


@cache
def _to_session() -> msgspec.json.Decoder[ToSession]:
    return msgspec.json.Decoder(ToSession)


_from_client = msgspec.json.Decoder(AuthStart | AuthProof)
_challenge = msgspec.json.Decoder(AuthChallenge)
_encoder = msgspec.json.Encoder()
# msgspec quotes what it refuses; it may be long, and private.
_QUOTED_VALUE = re.compile(r" value '.*'", re.DOTALL)
# A string (to the end of the bytes where it is not closed) or a bracket. Possessive: linear time.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[][{}]', re.DOTALL)
_TOKENS_SEARCHED = 1_000
_REQ_ID_VALUE = re.compile(rb"\s*:\s*([0-9]{1,16})(?=\s*[,}])")


def encode(frame: Frame) -> bytes:
    """One frame as one line, newline included."""
    return _encoder.encode(frame) + b"\n"


def _decode(decoder: msgspec.json.Decoder[Frame], line: bytes | bytearray) -> Frame:
    try:
        return decoder.decode(line)
    except msgspec.ValidationError as error:
        message = _QUOTED_VALUE.sub(" value", str(error))
    except msgspec.DecodeError as error:
        message = f"no valid JSON: {error}"
    except (UnicodeDecodeError, RecursionError):
        message = "no valid JSON: bad UTF-8 or nested too deeply"
    raise WireError(message, find_req_id(line))


def find_req_id(line: bytes | bytearray) -> int | None:
    """The req_id of a line that is no frame, or of the beginning of one, where it can be made out.

    A caller whose text held a lone surrogate (JavaScript makes them) then gets an answer instead of
    waiting for its time-out. Only a key of the outermost object counts: neither what stands in a text
    nor a key further inside. Looks at a bounded number of tokens, so hostile lines cost little.
    """
    depth = 0
    for _, token in zip(range(_TOKENS_SEARCHED), _TOKEN.finditer(line), strict=False):
        match line[token.start()]:
            case 0x7B | 0x5B:  # { [
                if depth == 0 and line[token.start()] == 0x5B:
                    return None
                depth += 1
            case 0x7D | 0x5D:  # } ]
                depth -= 1
                if depth <= 0:
                    return None
            case _:
                if depth == 1 and token[0] == b'"req_id"':
                    found = _REQ_ID_VALUE.match(line, token.end())
                    if found and int(found[1]) <= REQ_ID_MAX:
                        return int(found[1])
    return None


def decode_from_session(line: bytes | bytearray) -> FromSession:
    """Bytes of one line from a session, as a frame.

    Raises:
        WireError: no frame a session may send; carries the request's id where one could be found.
    """
    return _decode(_from_session(), line)  # type: ignore[arg-type,return-value]


def decode_to_session(line: bytes | bytearray) -> ToSession:
    """Bytes of one line from the hub, as a frame.

    Raises:
        WireError: no frame a hub may send to a session.
    """
    return _decode(_to_session(), line)  # type: ignore[arg-type,return-value]


def decode_auth(line: bytes | bytearray) -> AuthStart | AuthProof:
    """Bytes of one line of a client's proof.

    Raises:
        WireError: no frame of the proof.
    """
    return _decode(_from_client, line)  # type: ignore[return-value]


def decode_challenge(line: bytes | bytearray) -> AuthChallenge:
    """Bytes of the hub's line of the proof.

    Raises:
        WireError: no challenge.
    """
    return _decode(_challenge, line)  # type: ignore[arg-type,return-value]
