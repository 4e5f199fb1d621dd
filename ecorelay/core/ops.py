"""What the core asks of the store, and what comes back.

A *unit* is the tuple of ops of one :class:`~ecorelay.core.actions.Store` action: it happens wholly,
in one transaction, or not at all. Units take effect in the order they were submitted, reads
included, so that a page can neither miss nor double what a pending commit adds. Numbers (`no` of
a peer or group, `mid` of a message, `seq` in a group) are assigned inside the transaction and come
back in the results, one result per op.

A store refuses an op by raising :class:`~ecorelay.errors.RelayError`; the unit then leaves no trace.

A peer, local or remote, is a row with a number; rows of mail carry numbers, never names. `mid` rises
with every message of this hub, so it orders every mailbox. One row per (message, recipient) is
ring entry and receipt in one: it is `unread`, then `seen`, and stays as a bare receipt when it left
the ring. The text is stored once per message and goes when the last ring lets go of it.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from ecorelay.wire import Kind

Ending = Literal["", "evicted", "dead", "expired"]
"""How mail ended that left its mailbox unseen."""

ENTRY_ROOM = 300
"""Characters a page counts for each entry beside its text: ids, names, times."""


class Op(Struct, frozen=True, kw_only=True, gc=False):
    """Base of every op."""


# --- peers ------------------------------------------------------------------------------------------


class AddPeer(Op, frozen=True, kw_only=True):
    """→ `Numbered`. A new peer under a new name; `name_taken` when the name is anybody's current one.

    A name that only forwards (of a renamed peer) is taken over by this claim.
    """

    peer_id: str
    name: str
    auto: bool
    at: int


class NotePeer(Op, frozen=True, kw_only=True):
    """→ None. What is known of a peer's last session. None leaves a field as it is. `peer_gone`."""

    no: int
    last_seen: int
    client: str | None = None
    cwd: str | None = None
    git_branch: str | None = None


class RememberPeer(Op, frozen=True, kw_only=True):
    """→ None. (client, identity) and (client, cwd) lead back to this peer; empty ones are not kept.

    An identity leads to one peer (the latest), a directory to several.
    """

    no: int
    client: str
    identity: str
    cwd: str
    at: int


class RenamePeer(Op, frozen=True, kw_only=True):
    """→ None. `name_taken` when `name` is another peer's current one; the old name forwards until then."""

    no: int
    name: str
    forward_until: int


class DropPeers(Op, frozen=True, kw_only=True):
    """→ `Dropped`. Remove those of these peers that have no mail in their ring and are in no group."""

    nos: tuple[int, ...]


class ForgetPeer(Op, frozen=True, kw_only=True):
    """→ `Forgotten`. Remove a peer with its mailbox, names, and all that leads to it or is kept for it.

    What it was sent and had not seen ends as dead (`forgotten`), with a notice to each sender; its receipts
    and those of what it sent stay their time. `bad_args` while it is in a group; `peer_gone`. The last op of
    its unit.
    """

    no: int
    at: int


class SetBlock(Op, frozen=True, kw_only=True):
    """→ None. A peer of ours (`no`), or of another hub (`address`, `no` 0), may not send; or may again.

    That of our own stays with the peer whatever its name becomes, and goes with it. `peer_gone`. So does that
    of another hub's, where its hub told of it: `far` is that hub's id in lower case and the peer_id.
    """

    no: int = 0
    address: str = ""
    far: tuple[str, str] | None = None
    blocked: bool
    at: int


class OpenMailbox(Op, frozen=True, kw_only=True):
    """→ `MailboxState`."""

    no: int


# --- mail -------------------------------------------------------------------------------------------


class AppendMail(Op, frozen=True, kw_only=True):
    """→ `Appended`. One message to one or more mailboxes of this hub, trimming each ring.

    A msg_id stored before by the same sender with the same text and recipients is a duplicate:
    nothing is stored. With other content or from another sender it is refused as `bad_msg`.
    `peer_gone` when a recipient was removed meanwhile. `origin`: the number of the hub it came from, 0 for
    our own: ids of different hubs are different. `again`: it is said again after a reconnect; a name may lead
    to another peer by then, so that the recipient need not be the same.
    """

    msg_id: str
    kind: Kind
    sender_no: int
    sender: str
    recipients: tuple[int, ...]
    text: str
    at: int
    reply_to: str | None = None
    broadcast_id: str | None = None
    urgent: bool = False
    origin: int = 0
    again: bool = False


class AppendReply(Op, frozen=True, kw_only=True):
    """→ `Replied`. Mail to whoever sent `target_id`, which the caller must have been sent.

    `unknown_ask` when there is no such message for this caller (direct mail, an ask, or a message
    of a group it is a member of), `peer_gone` when its sender was removed. The target becomes seen
    and replied. Duplicates as in `AppendMail`. To a peer of another hub it goes into the outbox, as by
    `link_ops.AppendOut`.
    """

    msg_id: str
    target_id: str
    sender_no: int
    sender: str
    text: str
    at: int


class LoadBacklog(Op, frozen=True, kw_only=True):
    """→ `Backlog`. Unread mail with mid > `after`, not leased, oldest first, for pushing.

    At least one message when there is any, then while count and bytes of text stay within the limits.
    """

    no: int
    after: int
    max_count: int
    max_bytes: int


class MarkPushed(Op, frozen=True, kw_only=True):
    """→ None. A carrier accepted these, (peer no, mid, wall ms); of one twice, the last time counts.

    Only the receipt changes.
    """

    rows: tuple[tuple[int, int, int], ...]
    carrier: str


class ReadPage(Op, frozen=True, kw_only=True):
    """→ `PageRead`. Unread mail oldest first, leased to `lease`; what another lease holds is passed over.

    At least one message when there is any, then up to `limit` and while the JSON of the texts, and
    `ENTRY_ROOM` for each entry, stay within `budget` characters. Mail in `pushed` (mids) comes as a
    stub, without text and lease; mail in `hidden` not at all. With `since_id`: from that message on,
    inclusive, all with text, whether seen, pushed, hidden or under another lease (which it stays under);
    `bad_args` when it is not in this peer's ring. Handed-over rows are marked as such in the same
    transaction, so that even a killed hub shows them as `redelivered` (on a disk that takes no writes the
    page comes all the same, without the mark).
    """

    no: int
    lease: int
    limit: int
    budget: int
    since_id: str | None = None
    pushed: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()


class ConfirmMail(Op, frozen=True, kw_only=True):
    """→ `Confirmed`. These are seen (those still unread), the lease ends, shown notices are dropped.

    A notice whose count grew since it was shown stays with the difference.
    """

    no: int
    lease: int
    msg_ids: tuple[str, ...]
    notices: tuple[str, ...]
    at: int


class EndLease(Op, frozen=True, kw_only=True):
    """→ None. What `lease` still holds is free for the next reader."""

    lease: int


# --- groups -----------------------------------------------------------------------------------------


class Line(Struct, frozen=True, kw_only=True, gc=False):
    """One line of a group's history before it has its number. `sender_no` 0: the hub itself."""

    msg_id: str
    sender_no: int
    sender: str
    text: str
    at: int
    system: bool = False


class FarMember(Struct, frozen=True, kw_only=True, gc=False):
    """A peer of another hub that is to be a member of a group of ours."""

    hub_no: int
    peer_id: str
    name: str


class CreateGroup(Op, frozen=True, kw_only=True):
    """→ `GroupMade`. `name_taken` when there is one of that name. `members` without the admin."""

    group_id: str
    name: str
    admin_no: int
    members: tuple[int, ...]
    line: Line
    far: tuple[FarMember, ...] = ()


class AddMember(Op, frozen=True, kw_only=True):
    """→ `LineAdded`. The new member's cursor stands just before `line`. Twice is fine (seq 0 then).

    It is `no` of our own peers, or else `far`.
    """

    group_no: int
    no: int
    line: Line
    far: FarMember | None = None


class RemoveMember(Op, frozen=True, kw_only=True):
    """→ `LineAdded`. `not_member` when it is none. `reason`: of a peer of another hub that did not leave."""

    group_no: int
    no: int
    line: Line
    reason: str | None = None


class DropGroup(Op, frozen=True, kw_only=True):
    """→ `LineAdded`, without a number, where other hubs are told; else None. The group with all it has.

    `farewell` tells members that are peers of other hubs; its author is `sender`.
    """

    group_no: int
    farewell: Line | None = None


class AppendGroup(Op, frozen=True, kw_only=True):
    """→ `LineAdded`. Number and store the line, trim the group's ring.

    `group_not_found` or `not_member` when group or membership went meanwhile. The author's own
    cursor moves along when it had read everything before. Duplicates as in `AppendMail`.
    """

    group_no: int
    line: Line


class ReadHistory(Op, frozen=True, kw_only=True):
    """→ `HistoryRead`. Lines after max(cursor, `after`), oldest first; limits as in `ReadPage`."""

    group_no: int
    no: int
    after: int
    limit: int
    budget: int


class MoveCursor(Op, frozen=True, kw_only=True):
    """→ `CursorMoved`. Forward only, never beyond the newest line."""

    group_no: int
    no: int
    upto: int


# --- idempotent requests, upkeep ---------------------------------------------------------------------


class SaveOp(Op, frozen=True, kw_only=True):
    """→ None. The encoded answer to a mutating request; `bad_msg` when the op id was used before.

    `reply` is the answer's frame, encoded; `request` a checksum of what was asked.
    """

    no: int
    op_id: str
    request: int
    reply: bytes
    at: int


class FindOp(Op, frozen=True, kw_only=True):
    """→ `FoundOp` or None. What `SaveOp` kept under the same peer and op id."""

    no: int
    op_id: str


class FindMail(Op, frozen=True, kw_only=True):
    """→ `FoundMail` or None. Whether the peer `no` sent this text under this id before, to whomever."""

    no: int
    msg_id: str
    text: str


class Housekeep(Op, frozen=True, kw_only=True):
    """→ `HousekeepingDone`. Remove what outlived its time, a bounded number of rows per call.

    Op ids after 24 h, receipts after 7 days, expired forwarding names; gives free pages back. `away`: hubs
    without a link, by number: what has waited for them too long ends as dead.
    """

    now: int
    away: tuple[int, ...] = ()


# --- what a person asks of the hub -----------------------------------------------------------------------


class TraceMessage(Op, frozen=True, kw_only=True):
    """→ `MessageTraced`. What is known of a message; ``unknown_ask`` when nothing is.

    `origin`: only of one that came from the hub of this number; None: of ours, else of any.
    """

    msg_id: str
    origin: int | None = None


class MeasureMail(Op, frozen=True, kw_only=True):
    """→ `MailMeasured`. What lies in all mailboxes; the `largest` by bytes of text one by one."""

    largest: int


class PurgeMail(Op, frozen=True, kw_only=True):
    """→ `MailPurged`. One step, of bounded work, of removing what is older than `before`.

    Seen mail and, with `unread`, unread mail: its receipt ends as expired, by reason ``purged``, and its
    senders find a notice. Lines of groups, but for the groups in `spared` (numbers). Receipts, op ids. What
    is leased stays; ids of the last hour stay as well, so that what is sent again is not stored twice. After
    the last step no file holds any of it, nor of what left earlier.

    `place` is where the step before ended; empty for the first one.
    """

    before: int
    unread: bool
    now: int
    spared: tuple[int, ...] = ()
    place: tuple[int, ...] = ()


class WriteBackup(Op, frozen=True, kw_only=True):
    """→ `BackupWritten`. A copy of everything committed, as a new file; the only op of its unit.

    Other units are done meanwhile, so that it may be answered after units that were submitted later.
    ``bad_args`` when the file cannot be there, ``mailbox_error`` when it could not be written,
    ``limit_reached`` while another copy is being made.
    """

    path: str


# --- results ------------------------------------------------------------------------------------------


class Numbered(Struct, frozen=True, gc=False):
    """The row number of a new peer."""

    no: int


class Dropped(Struct, frozen=True, gc=False):
    """Which peers were removed."""

    nos: tuple[int, ...]


class Forgotten(Struct, frozen=True, gc=False):
    """Of whose mail how much was in the removed mailbox unseen."""

    lost: tuple[Eviction, ...]


class MailboxState(Struct, frozen=True, gc=False):
    """Unread rows, notices waiting, and (group no, unread) of every group with unread lines."""

    unread: int
    notices: int
    groups: tuple[tuple[int, int], ...]


class Eviction(Struct, frozen=True, gc=False):
    """Mail that left a ring unread. `first`: this opened a new notice for its sender.

    `sender_no` 0: system mail, of which nobody is told. `upto`: of a full ring, from which by now all is gone
    up to this mid, whoever sent it.
    """

    sender_no: int
    recipient_no: int
    count: int
    first: bool
    upto: int = 0


class Appended(Struct, frozen=True, gc=False):
    """`unread` per recipient, in the order of the op (its mailbox's count of unread rows).

    For a duplicate: `delivered` says whether the one recipient's row was ever pushed or seen.
    """

    mid: int
    unread: tuple[int, ...]
    evictions: tuple[Eviction, ...] = ()
    duplicate: bool = False
    delivered: bool = False


class Replied(Struct, frozen=True, gc=False):
    """`recipient_no` got it under `mid`. `own_unread`: the replier's unread, its target now seen.

    `hub_no`: it lies in the outbox of that hub, as `out_seq` with `out_body`, for its peer `out_to`.
    """

    appended: Appended
    recipient_no: int
    broadcast_id: str | None
    own_unread: int
    target_mid: int
    hub_no: int = 0
    out_seq: int = 0
    out_body: bytes = b""
    out_to: str = ""


class StoredMail(Struct, frozen=True, kw_only=True, gc=False):
    """One message as it lies in a mailbox. `text` None: a stub. `handed`: given out before, unconfirmed."""

    mid: int
    msg_id: str
    kind: Kind
    sender: str
    at: int
    text: str | None
    reply_to: str | None = None
    broadcast_id: str | None = None
    urgent: bool = False
    handed: bool = False
    seen: bool = False
    pushed_at: int = 0


class Backlog(Struct, frozen=True, gc=False):
    """`more`: there is more unread mail after the last of these. `damaged` as in `PageRead`."""

    mails: tuple[StoredMail, ...]
    more: bool
    unread: int
    damaged: int = 0


class Notice(Struct, frozen=True, kw_only=True, gc=False):
    """To a sender: `count` messages to `about` ended as `reason` without being seen."""

    notice_id: str
    about: str
    reason: str
    count: int
    at: int


class PageRead(Struct, frozen=True, kw_only=True, gc=False):
    """A page. `unread`: rows unread in the mailbox, the leased ones of this page included.

    `remaining`: unread, neither in this page nor under another lease, nor hidden. `damaged`: rows
    whose checksum did not hold; they ended as dead(damaged) with a notice to their sender. `notices`:
    the oldest, 50 at most; the others come once these are confirmed.
    """

    mails: tuple[StoredMail, ...]
    notices: tuple[Notice, ...]
    unread: int
    remaining: int
    damaged: int = 0


class Confirmed(Struct, frozen=True, gc=False):
    """What is unread now."""

    unread: int
    notices: int


class OutRow(Struct, frozen=True, gc=False):
    """It lies in the outbox of a hub as `seq`."""

    hub_no: int
    seq: int
    msg_id: str
    at: int
    body: bytes


class GroupMade(Struct, frozen=True, gc=False):
    """The group's number and the first line's; the numbers of `far`; what goes to their hubs."""

    group_no: int
    seq: int
    far: tuple[int, ...] = ()
    outs: tuple[OutRow, ...] = ()


class LineAdded(Struct, frozen=True, gc=False):
    """The line's number; `own_read`: the author's cursor moved along. `outs`: what goes to other hubs.

    `no`: the number of the member that is a peer of another hub.
    """

    seq: int
    duplicate: bool = False
    own_read: bool = False
    outs: tuple[OutRow, ...] = ()
    no: int = 0


class StoredLine(Struct, frozen=True, kw_only=True, gc=False):
    """One line of a history."""

    seq: int
    msg_id: str
    sender: str
    text: str
    at: int
    system: bool


class HistoryRead(Struct, frozen=True, kw_only=True, gc=False):
    """Lines; `remaining` after the last of them (own lines do not count).

    `missed`: lines between the reader's place and `upto` that are not among them: the ring dropped them,
    or they were damaged.
    """

    lines: tuple[StoredLine, ...]
    upto: int
    remaining: int
    missed: int


class CursorMoved(Struct, frozen=True, gc=False):
    """What is unread in that group now."""

    unread: int


class FoundOp(Struct, frozen=True, gc=False):
    """`request`: checksum of the request it answered."""

    request: int
    reply: bytes


class FoundMail(Struct, frozen=True, gc=False):
    """`delivered`: its sole recipient, a peer of ours, has taken it."""

    delivered: bool


class OutExpired(Struct, frozen=True, gc=False):
    """What waited too long for a hub: all up to the number `upto` left its outbox; see `OutSettled`."""

    hub_no: int
    upto: int
    count: int
    bytes: int
    told: tuple[Eviction, ...] = ()


class HousekeepingDone(Struct, frozen=True, gc=False):
    """Rows removed; `more`: call again soon."""

    rows: int
    more: bool
    expired: tuple[OutExpired, ...] = ()


class MailReceipt(Struct, frozen=True, kw_only=True, gc=False):
    """What is known of a message and a recipient. A time of 0: that has not happened.

    `recipient` is its name, or ``(removed)``. `ended`, at `ended_at`, for `reason`: it left its mailbox
    unseen.
    """

    recipient: str
    stored_at: int
    forwarded_at: int = 0
    pushed_at: int = 0
    carrier: str = ""
    seen_at: int = 0
    replied_at: int = 0
    ended_at: int = 0
    ended: Ending = ""
    reason: str = ""


class MessageTraced(Struct, frozen=True, kw_only=True, gc=False):
    """A message without its text. `group` names the group of which it is a line: then there are no receipts.

    Recipients of whom nothing is known any more are left out.
    """

    msg_id: str
    kind: Kind
    sender: str
    at: int
    size: int
    reply_to: str | None = None
    broadcast_id: str | None = None
    group: str | None = None
    receipts: tuple[MailReceipt, ...] = ()


class MailMeasured(Struct, frozen=True, gc=False):
    """`mailboxes` counts those that are not empty. `largest`: (peer no, messages, unread, bytes)."""

    mailboxes: int
    messages: int
    unread: int
    bytes: int
    largest: tuple[tuple[int, int, int, int], ...]


class MailPurged(Struct, frozen=True, kw_only=True, gc=False):
    """What one step removed: messages out of mailboxes, lines out of groups.

    `unread`: of each mailbox that lost unread mail its number, what is unread in it now, and the ids it lost.
    `evictions`: who is told of that. `groups`: (group no, member no, unread lines now) of every group that
    lost lines. `place`: where to go on; empty: that was the last step.
    """

    messages: int = 0
    lines: int = 0
    unread: tuple[tuple[int, int, tuple[str, ...]], ...] = ()
    evictions: tuple[Eviction, ...] = ()
    groups: tuple[tuple[int, int, int], ...] = ()
    place: tuple[int, ...] = ()


class BackupWritten(Struct, frozen=True, gc=False):
    """The copy is complete and on disk."""

    size: int


OpResult = (
    Numbered
    | Dropped
    | Forgotten
    | MailboxState
    | Appended
    | Replied
    | Backlog
    | PageRead
    | Confirmed
    | GroupMade
    | LineAdded
    | HistoryRead
    | CursorMoved
    | FoundOp
    | FoundMail
    | HousekeepingDone
    | MessageTraced
    | MailMeasured
    | MailPurged
    | BackupWritten
    | Any  # of `link_ops`, which builds on this module
    | None
)


# --- what the core starts from --------------------------------------------------------------------------


class PeerRow(Struct, frozen=True, kw_only=True, gc=False):
    """A peer as stored. `hub` is empty for this hub's own."""

    no: int
    peer_id: str
    name: str
    auto: bool
    client: str
    cwd: str
    git_branch: str
    last_seen: int
    hub: str = ""


class GroupRow(Struct, frozen=True, kw_only=True, gc=False):
    """A group as stored; members are peer numbers, the admin among them, in order of joining.

    Of a group of another hub: `hub` (its key), `roster` as that hub told it (`link_wire.GroupMember`), only
    our own peers in `members`, and those of ours that are `leaving`.
    """

    no: int
    group_id: str
    name: str
    admin_no: int
    members: tuple[int, ...]
    hub: str = ""
    roster: tuple[Any, ...] = ()
    leaving: tuple[int, ...] = ()


class Snapshot(Struct, frozen=True, kw_only=True):
    """Everything the core keeps in memory of the durable state. It never includes mail."""

    peers: tuple[PeerRow, ...] = ()
    forwards: tuple[tuple[str, int, int], ...] = ()
    """(old name, peer no, until)."""
    identities: tuple[tuple[str, str, int], ...] = ()
    """(client, identity, peer no)."""
    places: tuple[tuple[str, str, int], ...] = ()
    """(client, cwd, peer no), the earliest peer of a place first."""
    groups: tuple[GroupRow, ...] = ()
    hubs: tuple[Any, ...] = ()
    """Other hubs: `link_ops.HubRow`."""
    blocks: tuple[tuple[str, int], ...] = ()
    """(address, number of the peer of ours or 0), by address in lower case."""
