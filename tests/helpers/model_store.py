"""The store as a model: everything `ecorelay.core.ops` says, in memory, slowly and plainly.

Units wait in a queue as they would before a commit. `commit` does them one after the other, wholly or
not at all, and gives the events that the core would get back; `lose_pending` is the crash that takes
what was not committed. All values are immutable and every change is journaled, so a refused unit leaves
no trace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ecorelay import names
from ecorelay.core import ops
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.core.ops import Op, OpResult
from ecorelay.errors import RelayError
from ecorelay.limits import Limits

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Journal = list[tuple["Table[Any, Any]", Any, Any]]
ABSENT: Any = object()
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Table(Generic[K, V]):
    """A dict of immutable values that notes in `journal` what each change replaced."""

    def __init__(self, journal: Journal) -> None:
        self._rows: dict[K, V] = {}
        self._journal = journal

    def put(self, key: K, value: V) -> None:
        self._journal.append((self, key, self._rows.get(key, ABSENT)))
        self._rows[key] = value

    def drop(self, key: K) -> None:
        if key in self._rows:
            self._journal.append((self, key, self._rows.pop(key)))

    def restore(self, key: K, before: Any) -> None:
        if before is ABSENT:
            del self._rows[key]
        else:
            self._rows[key] = before

    def get(self, key: K) -> V | None:
        return self._rows.get(key)

    def __getitem__(self, key: K) -> V:
        return self._rows[key]

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._rows))

    def items(self) -> list[tuple[K, V]]:
        return list(self._rows.items())

    def values(self) -> list[V]:
        return list(self._rows.values())


class Message(Struct, frozen=True):
    """A message, whoever has it. Its text stays here after the last ring let go, for comparing."""

    mid: int
    op: ops.AppendMail


class Row(Struct, frozen=True):
    """One message in one mailbox: `unread`, `seen`, or out of the ring as `evicted`, `dead` or `expired`."""

    mid: int
    state: str = "unread"
    in_ring: bool = True
    lease: int = 0
    handed: bool = False
    at: int = 0
    seen_at: int = 0
    replied_at: int = 0
    ended_at: int = 0
    reason: str = ""

    @property
    def replied(self) -> bool:
        return self.replied_at > 0


class NoticeRow(Struct, frozen=True):
    """`total` messages ended so; the sender confirmed that it was told of `told` of them."""

    number: int
    total: int
    told: int
    at: int


class Line(Struct, frozen=True):
    """A line of a group with its number."""

    seq: int
    line: ops.Line


class ModelStore:
    """See the module. `limits` bound the rings and say how long things are kept."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.refuse: Callable[[tuple[Op, ...]], RelayError | None] = lambda ops: None
        """Asked before each unit: an error makes the unit fail with it."""
        self.pending: deque[tuple[tuple[Op, ...], Any]] = deque()
        self.journal: Journal = []
        self.numbers: Table[str, int] = Table(self.journal)
        self.peers: Table[int, ops.PeerRow] = Table(self.journal)
        self.forwards: Table[str, tuple[str, int, int]] = Table(self.journal)
        self.identities: Table[tuple[str, str], int] = Table(self.journal)
        self.places: Table[tuple[str, str], tuple[int, ...]] = Table(self.journal)
        self.messages: Table[int, Message] = Table(self.journal)
        self.mids: Table[str, int] = Table(self.journal)
        """msg_id → mid."""
        self.rows: Table[tuple[int, int], Row] = Table(self.journal)
        """(peer no, mid)."""
        self.marks: Table[tuple[int, int], tuple[int, str]] = Table(self.journal)
        """(peer no, mid) → when a carrier took it, and which."""
        self.mailboxes: Table[int, tuple[int, ...]] = Table(self.journal)
        """Peer no → mids in its ring, in order."""
        self.unseen: Table[tuple[int, int], int] = Table(self.journal)
        """(sender no, recipient no) → how many messages left the mailbox unread; no receipt outlives it."""
        self.leases: Table[int, tuple[tuple[int, int], ...]] = Table(self.journal)
        self.notices: Table[tuple[int, int, str], NoticeRow] = Table(self.journal)
        """(sender no, recipient no, reason)."""
        self.groups: Table[int, ops.GroupRow] = Table(self.journal)
        self.lines: Table[int, tuple[Line, ...]] = Table(self.journal)
        self.line_ids: Table[str, tuple[int, int]] = Table(self.journal)
        """msg_id → (group no, seq)."""
        self.said: Table[str, tuple[int, str]] = Table(self.journal)
        """Who said what in a group; outlives it."""
        self.cursors: Table[tuple[int, int], int] = Table(self.journal)
        self.all_lines: Table[str, tuple[int, ops.Line]] = Table(self.journal)
        """Every line that was ever said: msg_id → group no, line."""
        self.op_ids: Table[tuple[int, str], ops.SaveOp] = Table(self.journal)
        self.backups: Table[str, ops.Snapshot] = Table(self.journal)
        self.removed: Table[int, str] = Table(self.journal)
        """Peer no → its last name, of those that are gone."""
        self.blocked: Table[int, bool] = Table(self.journal)
        self.blocked_far: Table[str, str] = Table(self.journal)

    # --- units ---------------------------------------------------------------------------------------

    def submit(self, unit: tuple[Op, ...], then: Any) -> None:
        """Take a unit in; nothing happens before :meth:`commit`."""
        self.pending.append((unit, then))

    def commit(self, count: int | None = None) -> list[Stored | StoreFailed]:
        """Do the next `count` units (all, if None), and give what the core is to hear of them."""
        done: list[Stored | StoreFailed] = []
        while self.pending and (count is None or len(done) < count):
            unit, then = self.pending.popleft()
            try:
                done.append(Stored(then, self.do(*unit)))
            except RelayError as error:
                done.append(StoreFailed(then, error.code, error.message))
        return done

    def do(self, *unit: Op) -> tuple[OpResult, ...]:
        """Do one unit now.

        Raises:
            RelayError: it was refused and left no trace.
        """
        refused = self.refuse(unit)
        if refused is not None:
            raise refused
        self.journal.clear()
        try:
            return tuple([self._do(op) for op in unit])
        except RelayError:
            for table, key, before in reversed(self.journal):
                table.restore(key, before)
            raise

    def lose_pending(self) -> None:
        """The hub died: what was not committed never happened, and no lease outlives it."""
        self.pending.clear()
        for lease in self.leases:
            self._end_lease(ops.EndLease(lease=lease))

    def snapshot(self) -> ops.Snapshot:
        """What a hub that starts finds."""
        return ops.Snapshot(
            peers=tuple(self.peers.values()),
            forwards=tuple(self.forwards.values()),
            identities=tuple((*key, no) for key, no in self.identities.items()),
            places=tuple((*key, no) for key, nos in self.places.items() for no in sorted(nos)),
            groups=tuple(self.groups.values()),
            blocks=tuple(
                sorted(
                    [(self.peers[no].name, no) for no in self.blocked]
                    + [(address, 0) for address in self.blocked_far.values()],
                    key=lambda block: block[0].lower(),
                )
            ),
        )

    def _do(self, op: Op) -> OpResult:
        result: OpResult = _DO[type(op)](self, op)
        return result

    def _next(self, what: str) -> int:
        number = (self.numbers.get(what) or 0) + 1
        self.numbers.put(what, number)
        return number

    # --- peers ---------------------------------------------------------------------------------------

    def peer_named(self, name: str) -> ops.PeerRow | None:
        """Whose current name this is."""
        key = names.key(name)
        return next((row for row in self.peers.values() if names.key(row.name) == key), None)

    def _peer(self, no: int) -> ops.PeerRow:
        row = self.peers.get(no)
        if row is None:
            raise RelayError("peer_gone", f"there is no peer {no}")
        return row

    def _add_peer(self, op: ops.AddPeer) -> ops.Numbered:
        if self.peer_named(op.name) is not None:
            raise RelayError("name_taken", f"{op.name} is taken")
        self.forwards.drop(names.key(op.name))
        no = self._next("peer")
        row = ops.PeerRow(
            no=no,
            peer_id=op.peer_id,
            name=op.name,
            auto=op.auto,
            client="",
            cwd="",
            git_branch="",
            last_seen=op.at,
        )
        self.peers.put(no, row)
        return ops.Numbered(no)

    def _note_peer(self, op: ops.NotePeer) -> None:
        row = self._peer(op.no)
        told = {field: getattr(op, field) for field in ("client", "cwd", "git_branch")}
        known = {field: value for field, value in told.items() if value is not None}
        self.peers.put(op.no, replace(row, last_seen=op.last_seen, **known))

    def _remember_peer(self, op: ops.RememberPeer) -> None:
        self._peer(op.no)
        if op.identity:
            self.identities.put((op.client, op.identity), op.no)
        if op.cwd:
            place = op.client, op.cwd
            nos = self.places.get(place) or ()
            self.places.put(place, (*(no for no in nos if no != op.no), op.no))

    def _rename_peer(self, op: ops.RenamePeer) -> None:
        row = self._peer(op.no)
        holder = self.peer_named(op.name)
        if holder is not None and holder.no != op.no:
            raise RelayError("name_taken", f"{op.name} is taken")
        if names.key(op.name) != names.key(row.name):
            self.forwards.drop(names.key(op.name))
            self.forwards.put(names.key(row.name), (row.name, op.no, op.forward_until))
        self.peers.put(op.no, replace(row, name=op.name, auto=False))

    def _drop_peers(self, op: ops.DropPeers) -> ops.Dropped:
        gone = tuple(
            no
            for no in op.nos
            if no in self.peers
            and not self.ring(no)
            and not any(no in group.members for group in self.groups.values())
        )
        self._erase(gone)
        return ops.Dropped(gone)

    def _erase(self, gone: tuple[int, ...]) -> None:
        for no in gone:
            self.removed.put(no, self.peers[no].name)
            self.peers.drop(no)
            self.mailboxes.drop(no)
            self.blocked.drop(no)
        for old, forward in self.forwards.items():
            if forward[1] in gone:
                self.forwards.drop(old)
        for identity, no in self.identities.items():
            if no in gone:
                self.identities.drop(identity)
        for place, nos in self.places.items():
            left = tuple(no for no in nos if no not in gone)
            self.places.put(place, left) if left else self.places.drop(place)
        for pair in self.notices:
            if pair[0] in gone:
                self.notices.drop(pair)
        for op_id in self.op_ids:
            if op_id[0] in gone:
                self.op_ids.drop(op_id)

    def _forget_peer(self, op: ops.ForgetPeer) -> ops.Forgotten:
        self._peer(op.no)
        if any(op.no in group.members for group in self.groups.values()):
            raise RelayError("bad_args", f"{op.no} is in a group")
        lost: dict[int, ops.Eviction] = {}
        for row in self.ring(op.no):
            self._change(op.no, row.mid, in_ring=False, lease=0, ended_at=op.at)
            if row.state == "seen":
                continue
            self._change(op.no, row.mid, state="dead", reason="forgotten")
            message = self.message(row.mid)
            sender = 0 if message.kind == "system" else message.sender_no
            first = sender != op.no and self._tell(sender, op.no, "forgotten", op.at)
            before = lost.get(sender, ops.Eviction(sender, op.no, 0, first=False))
            lost[sender] = replace(before, count=before.count + 1, first=before.first or first)
        self._erase((op.no,))
        return ops.Forgotten(tuple(lost.values()))

    def _set_block(self, op: ops.SetBlock) -> None:
        if op.no:
            self._peer(op.no)
        if op.no and op.blocked:
            self.blocked.put(op.no, True)
        elif op.no:
            self.blocked.drop(op.no)
        elif not op.blocked:
            self.blocked_far.drop(op.address.lower())
        elif op.address.lower() not in self.blocked_far:
            self.blocked_far.put(op.address.lower(), op.address)

    def _open_mailbox(self, op: ops.OpenMailbox) -> ops.MailboxState:
        self._peer(op.no)
        counts = [(no, self.group_unread(no, op.no)) for no in self.groups if self._is_member(no, op.no)]
        return ops.MailboxState(
            len(self.unread(op.no)),
            len(self.notices_for(op.no)),
            tuple((no, count) for no, count in counts if count),
        )

    # --- mail: what is where ---------------------------------------------------------------------------

    def ring(self, no: int) -> list[Row]:
        """What lies in a mailbox, oldest first."""
        return [self.rows[no, mid] for mid in self.mailboxes.get(no) or ()]

    def unread(self, no: int) -> list[Row]:
        """What of it is unread, whether leased or not."""
        return [row for row in self.ring(no) if row.state == "unread"]

    def message(self, mid: int) -> ops.AppendMail:
        """The message of a row."""
        return self.messages[mid].op

    def notices_for(self, no: int) -> list[ops.Notice]:
        """What the sender `no` is to be told."""
        return [
            ops.Notice(
                notice_id=f"n{row.number}-{row.total}",
                about=self.peers[recipient].name if recipient in self.peers else self.removed[recipient],
                reason=reason,
                count=row.total - row.told,
                at=row.at,
            )
            for (sender, recipient, reason), row in self.notices.items()
            if sender == no
        ]

    def _change(self, no: int, mid: int, **fields: Any) -> None:
        before = self.rows[no, mid]
        if before.state == "unread" and fields.get("state") in ("evicted", "dead", "expired"):
            pair = self.message(mid).sender_no, no
            if self.message(mid).kind != "system":
                self.unseen.put(pair, (self.unseen.get(pair) or 0) + 1)
        self.rows.put((no, mid), replace(before, **fields))

    # --- mail: writing ---------------------------------------------------------------------------------

    def _append_mail(self, op: ops.AppendMail) -> ops.Appended:
        for no in op.recipients:
            self._peer(no)
        if op.msg_id in self.line_ids:
            raise RelayError("bad_msg", "the id is that of a group message")
        if op.msg_id in self.mids:
            return self._duplicate(op)
        mid = self._next("mid")
        self.messages.put(mid, Message(mid, op))
        self.mids.put(op.msg_id, mid)
        evictions: list[ops.Eviction] = []
        for no in op.recipients:
            self.rows.put((no, mid), Row(mid, at=op.at))
            self.mailboxes.put(no, (*(self.mailboxes.get(no) or ()), mid))
            evictions += self._trim(no, op.at)
        unread = tuple(len(self.unread(no)) for no in op.recipients)
        return ops.Appended(mid, unread, tuple(evictions))

    def _duplicate(self, op: ops.AppendMail) -> ops.Appended:
        mid = self.mids[op.msg_id]
        before = self.message(mid)
        led_elsewhere = op.again and len(before.recipients) == 1
        if (before.sender_no, before.text) != (op.sender_no, op.text) or not (
            led_elsewhere or before.recipients == op.recipients
        ):
            raise RelayError("bad_msg", "the id was used for another message")
        delivered = False
        if len(before.recipients) == 1:
            row = self.rows.get((before.recipients[0], mid))
            was_seen = row is not None and (row.seen_at > 0 or row.state == "seen")
            delivered = was_seen or (before.recipients[0], mid) in self.marks
        unread = tuple(len(self.unread(no)) for no in op.recipients)
        return ops.Appended(mid, unread, duplicate=True, delivered=delivered)

    def _trim(self, no: int, at: int) -> list[ops.Eviction]:
        """Read mail goes first, then the oldest; never what came last."""
        evicted: dict[int, ops.Eviction] = {}
        upto = 0
        while self._over(ring := self.ring(no)):
            row = next((row for row in ring[:-1] if row.state == "seen"), ring[0])
            self.mailboxes.put(no, tuple(each.mid for each in ring if each.mid != row.mid))
            self._change(no, row.mid, in_ring=False, lease=0, ended_at=at)
            if row.state == "seen":
                continue
            self._change(no, row.mid, state="evicted")
            upto = row.mid
            message = self.message(row.mid)
            sender = 0 if message.kind == "system" else message.sender_no  # nobody is told of lost notices
            first = self._tell(sender, no, "evicted", at)
            before = evicted.get(sender)
            evicted[sender] = (
                replace(before, count=before.count + 1, first=before.first or first)
                if before
                else ops.Eviction(sender, no, 1, first)
            )
        return [replace(each, upto=upto) for each in evicted.values()]

    def _over(self, ring: list[Row]) -> bool:
        size = sum(len(self.message(row.mid).text.encode()) for row in ring)
        limits = self.limits
        return len(ring) > 1 and (len(ring) > limits.mailbox_messages or size > limits.mailbox_bytes)

    def _tell(self, sender: int, recipient: int, reason: str, at: int) -> bool:
        """One more for the notice; whether it is a new one."""
        if sender not in self.peers:
            return False
        before = self.notices.get((sender, recipient, reason))
        row = replace(before, at=at) if before else NoticeRow(self._next("notice"), 0, 0, at)
        self.notices.put((sender, recipient, reason), replace(row, total=row.total + 1))
        return before is None

    def _append_reply(self, op: ops.AppendReply) -> ops.Replied:
        to, broadcast_id, target_mid = self._target(op)
        self._peer(to)
        mail = ops.AppendMail(
            msg_id=op.msg_id,
            kind="reply",
            sender_no=op.sender_no,
            sender=op.sender,
            recipients=(to,),
            text=op.text,
            at=op.at,
            reply_to=op.target_id,
            broadcast_id=broadcast_id,
        )
        if target_mid:
            target = self.rows[op.sender_no, target_mid]
            state = "seen" if target.state == "unread" else target.state
            seen_at = target.seen_at or op.at if target.in_ring else target.seen_at
            self._change(op.sender_no, target_mid, state=state, lease=0, replied_at=op.at, seen_at=seen_at)
        appended = self._append_mail(mail)
        return ops.Replied(appended, to, broadcast_id, len(self.unread(op.sender_no)), target_mid)

    def _target(self, op: ops.AppendReply) -> tuple[int, str | None, int]:
        mid = self.mids.get(op.target_id)
        if mid is not None and (op.sender_no, mid) in self.rows:
            message = self.message(mid)
            return message.sender_no, message.broadcast_id, mid
        place = self.line_ids.get(op.target_id)
        if place is not None and self._is_member(place[0], op.sender_no):
            line = next((line for line in self.lines[place[0]] if line.seq == place[1]), None)
            if line is not None:
                return line.line.sender_no, None, 0
        raise RelayError("unknown_ask", f"you were sent no message {op.target_id}")

    def _mark_pushed(self, op: ops.MarkPushed) -> None:
        for no, mid, at in op.rows:
            self.marks.put((no, mid), (at, op.carrier))

    # --- mail: reading -----------------------------------------------------------------------------------

    def _stored_mail(self, no: int, row: Row, *, stub: bool = False) -> ops.StoredMail:
        op = self.message(row.mid)
        return ops.StoredMail(
            mid=row.mid,
            msg_id=op.msg_id,
            kind=op.kind,
            sender=op.sender,
            at=op.at,
            text=None if stub else op.text,
            reply_to=op.reply_to,
            broadcast_id=op.broadcast_id,
            urgent=op.urgent,
            handed=row.handed,
            seen=row.state == "seen",
            pushed_at=(self.marks.get((no, row.mid)) or (0, ""))[0],
        )

    def _load_backlog(self, op: ops.LoadBacklog) -> ops.Backlog:
        self._peer(op.no)
        rows = [row for row in self.unread(op.no) if row.mid > op.after and not row.lease]
        taken: list[Row] = []
        size = 0
        for row in rows:
            size += len(self.message(row.mid).text.encode())
            if taken and (len(taken) >= op.max_count or size > op.max_bytes):
                break
            taken.append(row)
        mails = tuple([self._stored_mail(op.no, row) for row in taken])
        return ops.Backlog(mails, len(taken) < len(rows), len(self.unread(op.no)))

    def _read_page(self, op: ops.ReadPage) -> ops.PageRead:
        self._peer(op.no)
        free = [row for row in self.unread(op.no) if not row.lease and row.mid not in op.hidden]
        wanted = free
        if op.since_id is not None:
            ring = self.ring(op.no)
            start = self.mids.get(op.since_id)
            if start is None or not any(row.mid == start for row in ring):
                raise RelayError("bad_args", f"there is no message {op.since_id} in your mailbox")
            wanted = [row for row in ring if row.mid >= start]
        mails: list[ops.StoredMail] = []
        used = 0
        for row in wanted:
            stub = op.since_id is None and row.mid in op.pushed
            text = "" if stub else self.message(row.mid).text
            used += len(msgspec.json.encode(text).decode()) + ops.ENTRY_ROOM
            if mails and (len(mails) >= op.limit or used > op.budget):
                break
            mails.append(self._stored_mail(op.no, row, stub=stub))
            if not stub and row.state == "unread" and not row.lease:
                self._change(op.no, row.mid, lease=op.lease, handed=True)
                self.leases.put(op.lease, (*(self.leases.get(op.lease) or ()), (op.no, row.mid)))
        given = {mail.mid for mail in mails}
        return ops.PageRead(
            mails=tuple(mails),
            notices=tuple(self.notices_for(op.no)),
            unread=len(self.unread(op.no)),
            remaining=len([row for row in free if row.mid not in given]),
        )

    def _confirm_mail(self, op: ops.ConfirmMail) -> ops.Confirmed:
        self._peer(op.no)
        for msg_id in op.msg_ids:
            mid = self.mids.get(msg_id)
            row = self.rows.get((op.no, mid)) if mid is not None else None
            if row is not None and row.state == "unread":
                self._change(op.no, row.mid, state="seen", lease=0, seen_at=op.at)
            elif row is not None and not row.in_ring and not row.seen_at:
                self._change(op.no, row.mid, seen_at=op.at)  # left while it was read
        self._end_lease(ops.EndLease(lease=op.lease))
        for pair, notice in self.notices.items():
            for shown in op.notices:
                number, total = shown[1:].split("-")
                if pair[0] == op.no and notice.number == int(number):
                    self.notices.put(pair, replace(notice, told=max(notice.told, int(total))))
            if self.notices[pair].told >= self.notices[pair].total:
                self.notices.drop(pair)
        return ops.Confirmed(len(self.unread(op.no)), len(self.notices_for(op.no)))

    def _end_lease(self, op: ops.EndLease) -> None:
        for key in self.leases.get(op.lease) or ():
            row = self.rows.get(key)  # None: it was read, and purged
            if row is not None and row.lease == op.lease:
                self._change(*key, lease=0)
        self.leases.drop(op.lease)

    # --- groups ------------------------------------------------------------------------------------------

    def _group(self, no: int) -> ops.GroupRow:
        group = self.groups.get(no)
        if group is None:
            raise RelayError("group_not_found", f"there is no group {no}")
        return group

    def _is_member(self, group_no: int, no: int) -> bool:
        group = self.groups.get(group_no)
        return group is not None and no in group.members

    def group_unread(self, group_no: int, no: int) -> int:
        """Lines of others beyond the member's cursor."""
        cursor = self.cursors.get((group_no, no)) or 0
        return len([1 for line in self.lines[group_no] if line.seq > cursor and line.line.sender_no != no])

    def _create_group(self, op: ops.CreateGroup) -> ops.GroupMade:
        key = names.key(op.name)
        if any(names.key(group.name) == key for group in self.groups.values()):
            raise RelayError("name_taken", f"there is a group {op.name}")
        members = (op.admin_no, *op.members)
        for no in members:
            self._peer(no)
        group_no = self._next("group")
        group = ops.GroupRow(
            no=group_no, group_id=op.group_id, name=op.name, admin_no=op.admin_no, members=members
        )
        self.groups.put(group_no, group)
        self.lines.put(group_no, ())
        for no in members:
            self.cursors.put((group_no, no), 0)
        return ops.GroupMade(group_no, self._add_line(group_no, op.line).seq)

    def _add_line(self, group_no: int, line: ops.Line) -> ops.LineAdded:
        if line.msg_id in self.mids or line.msg_id in self.line_ids:
            raise RelayError("bad_msg", "the id was used for another message")
        seq = self._next(f"seq of {group_no}")
        lines = [*self.lines[group_no], Line(seq, line)]
        while len(lines) > 1 and (
            len(lines) > self.limits.mailbox_messages
            or sum(len(each.line.text.encode()) for each in lines) > self.limits.mailbox_bytes
        ):
            del lines[0]
        self.lines.put(group_no, tuple(lines))
        self.line_ids.put(line.msg_id, (group_no, seq))
        self.said.put(line.msg_id, (line.sender_no, line.text))
        self.all_lines.put(line.msg_id, (group_no, line))
        own_read = self.cursors.get((group_no, line.sender_no)) == seq - 1
        if own_read:
            self.cursors.put((group_no, line.sender_no), seq)
        return ops.LineAdded(seq, own_read=own_read)

    def _add_member(self, op: ops.AddMember) -> ops.LineAdded:
        group = self._group(op.group_no)
        if op.no in group.members:
            return ops.LineAdded(0)
        self._peer(op.no)
        added = self._add_line(op.group_no, op.line)
        self.groups.put(op.group_no, replace(group, members=(*group.members, op.no)))
        self.cursors.put((op.group_no, op.no), added.seq - 1)
        return added

    def _remove_member(self, op: ops.RemoveMember) -> ops.LineAdded:
        group = self._group(op.group_no)
        if op.no not in group.members:
            raise RelayError("not_member", f"{op.no} is not in {group.name}")
        self.groups.put(op.group_no, replace(group, members=tuple(n for n in group.members if n != op.no)))
        self.cursors.drop((op.group_no, op.no))
        return self._add_line(op.group_no, op.line)

    def _drop_group(self, op: ops.DropGroup) -> None:
        group = self._group(op.group_no)
        for no in group.members:
            self.cursors.drop((op.group_no, no))
        for msg_id, place in self.line_ids.items():
            if place[0] == op.group_no:
                self.line_ids.drop(msg_id)
        self.lines.drop(op.group_no)
        self.groups.drop(op.group_no)

    def _append_group(self, op: ops.AppendGroup) -> ops.LineAdded:
        group = self._group(op.group_no)
        if op.line.sender_no not in group.members:
            raise RelayError("not_member", f"{op.line.sender} is not in {group.name}")
        place = self.line_ids.get(op.line.msg_id)
        if place is not None:
            before = next((line.line for line in self.lines[place[0]] if line.seq == place[1]), None)
            same = before is None or (before.sender_no, before.text) == (op.line.sender_no, op.line.text)
            if place[0] == op.group_no and same:
                return ops.LineAdded(place[1], duplicate=True)
        return self._add_line(op.group_no, op.line)

    def _read_history(self, op: ops.ReadHistory) -> ops.HistoryRead:
        group = self._group(op.group_no)
        if op.no not in group.members:
            raise RelayError("not_member", f"{op.no} is not in {group.name}")
        start = max(self.cursors.get((op.group_no, op.no)) or 0, op.after)
        lines = [line for line in self.lines[op.group_no] if line.seq > start]
        taken: list[Line] = []
        used = 0
        for line in lines:
            used += len(msgspec.json.encode(line.line.text).decode()) + ops.ENTRY_ROOM
            if taken and (len(taken) >= op.limit or used > op.budget):
                break
            taken.append(line)
        upto = taken[-1].seq if taken else start
        return ops.HistoryRead(
            lines=tuple(
                ops.StoredLine(
                    seq=each.seq,
                    msg_id=each.line.msg_id,
                    sender=each.line.sender,
                    text=each.line.text,
                    at=each.line.at,
                    system=each.line.system,
                )
                for each in taken
            ),
            upto=upto,
            remaining=len([1 for line in lines if line.seq > upto and line.line.sender_no != op.no]),
            missed=max(0, taken[0].seq - start - 1) if taken else 0,
        )

    def _move_cursor(self, op: ops.MoveCursor) -> ops.CursorMoved:
        group = self._group(op.group_no)
        if op.no not in group.members:
            raise RelayError("not_member", f"{op.no} is not in {group.name}")
        newest = self.numbers.get(f"seq of {op.group_no}") or 0
        cursor = self.cursors.get((op.group_no, op.no)) or 0
        self.cursors.put((op.group_no, op.no), max(cursor, min(op.upto, newest)))
        return ops.CursorMoved(self.group_unread(op.group_no, op.no))

    # --- idempotent requests, upkeep ---------------------------------------------------------------------

    def _save_op(self, op: ops.SaveOp) -> None:
        if (op.no, op.op_id) in self.op_ids:
            raise RelayError("bad_msg", "op_id was used before")
        self.op_ids.put((op.no, op.op_id), op)

    def _find_op(self, op: ops.FindOp) -> ops.FoundOp | None:
        kept = self.op_ids.get((op.no, op.op_id))
        return ops.FoundOp(kept.request, kept.reply) if kept else None

    def _find_mail(self, op: ops.FindMail) -> ops.FoundMail | None:
        if self.said.get(op.msg_id) == (op.no, op.text):
            return ops.FoundMail(False)
        if op.msg_id not in self.mids:
            return None
        mail = self.message(self.mids[op.msg_id])
        if (mail.sender_no, mail.text) != (op.no, op.text):
            return None
        return ops.FoundMail(len(mail.recipients) == 1 and self._duplicate(mail).delivered)

    def _housekeep(self, op: ops.Housekeep) -> ops.HousekeepingDone:
        rows = 0
        for key, kept in self.op_ids.items():
            if kept.at <= op.now - int(self.limits.op_ids_hours * HOUR_MS):
                self.op_ids.drop(key)
                rows += 1
        for (no, mid), row in self.rows.items():
            if not row.in_ring and row.at <= op.now - int(self.limits.receipts_days * DAY_MS):
                self.rows.drop((no, mid))
                rows += 1
        for old, forward in self.forwards.items():
            if forward[2] <= op.now:
                self.forwards.drop(old)
                rows += 1
        return ops.HousekeepingDone(rows, more=False)

    # --- what a person asks of the hub --------------------------------------------------------------------

    def _trace_message(self, op: ops.TraceMessage) -> ops.MessageTraced:
        said = self.all_lines.get(op.msg_id)
        mid = self.mids.get(op.msg_id)
        if said is not None:
            line = said[1]
            group = self.groups.get(said[0])
            return ops.MessageTraced(
                msg_id=op.msg_id,
                kind="system" if line.system else "group",
                sender=line.sender,
                at=line.at,
                size=len(line.text.encode()),
                group=group.name if group else "(deleted)",
            )
        unknown = RelayError("unknown_ask", f"nothing is known of a message {op.msg_id}")
        if mid is None:
            raise unknown
        message = self.message(mid)
        receipts = [self._receipt(no, mid) for no in message.recipients if (no, mid) in self.rows]
        if not receipts:
            raise unknown
        return ops.MessageTraced(
            msg_id=op.msg_id,
            kind=message.kind,
            sender=message.sender,
            at=message.at,
            size=len(message.text.encode()),
            reply_to=message.reply_to,
            broadcast_id=message.broadcast_id,
            receipts=tuple(receipts),
        )

    def _receipt(self, no: int, mid: int) -> ops.MailReceipt:
        row = self.rows[no, mid]
        pushed_at, carrier = self.marks.get((no, mid)) or (0, "")
        ended: Any = row.state if row.state not in ("unread", "seen") else ""
        return ops.MailReceipt(
            recipient=self.peers[no].name if no in self.peers else "(removed)",
            stored_at=self.message(mid).at,
            pushed_at=pushed_at,
            carrier=carrier,
            seen_at=row.seen_at,
            replied_at=row.replied_at,
            ended_at=row.ended_at if ended else 0,
            ended=ended,
            reason=row.reason,
        )

    def _measure_mail(self, op: ops.MeasureMail) -> ops.MailMeasured:
        sizes = []
        for no in self.peers:
            ring = self.ring(no)
            size = sum(len(self.message(row.mid).text.encode()) for row in ring)
            if ring:
                sizes.append((no, len(ring), len(self.unread(no)), size))
        sizes.sort(key=lambda each: (-each[3], -each[1], each[0]))
        messages, unread, size = (sum(each[field] for each in sizes) for field in (1, 2, 3))
        return ops.MailMeasured(len(sizes), messages, unread, size, tuple(sizes[: op.largest]))

    def _purge_mail(self, op: ops.PurgeMail) -> ops.MailPurged:
        """All at once: there is no second step."""
        unread: dict[int, list[str]] = {}
        lost: dict[tuple[int, int], ops.Eviction] = {}
        messages = 0
        for no in self.peers:
            for row in self.ring(no):
                message = self.message(row.mid)
                if message.at >= op.before or (row.state == "unread" and (row.lease or not op.unread)):
                    continue
                messages += 1
                self.mailboxes.put(no, tuple(mid for mid in self.mailboxes[no] if mid != row.mid))
                if row.state == "seen":
                    self.rows.drop((no, row.mid))
                    self.marks.drop((no, row.mid))
                    continue
                self._change(no, row.mid, in_ring=False, state="expired", reason="purged", ended_at=op.now)
                unread.setdefault(no, []).append(message.msg_id)
                sender = 0 if message.kind == "system" else message.sender_no
                first = self._tell(sender, no, "purged", op.now)
                before = lost.get((sender, no), ops.Eviction(sender, no, 0, first=False))
                lost[sender, no] = replace(before, count=before.count + 1, first=before.first or first)
        lines = 0
        counts: list[tuple[int, int, int]] = []
        for group_no, said in self.lines.items():
            left = list(said)
            while group_no not in op.spared and left and left[0].line.at < op.before:
                del left[0]
            if len(left) < len(said):
                lines += len(said) - len(left)
                self.lines.put(group_no, tuple(left))
                members = self.groups[group_no].members
                counts += [(group_no, no, self.group_unread(group_no, no)) for no in members]
        for key, receipt in self.rows.items():
            if not receipt.in_ring and receipt.ended_at < op.before:
                self.rows.drop(key)
        for op_id, kept in self.op_ids.items():
            if kept.at < min(op.before, op.now - HOUR_MS):
                self.op_ids.drop(op_id)
        return ops.MailPurged(
            messages=messages,
            lines=lines,
            unread=tuple((no, len(self.unread(no)), tuple(ids)) for no, ids in unread.items()),
            evictions=tuple(lost.values()),
            groups=tuple(counts),
        )

    def _write_backup(self, op: ops.WriteBackup) -> ops.BackupWritten:
        if not op.path.startswith("/") or op.path in self.backups:
            raise RelayError("bad_args", f"{op.path} cannot be there")
        self.backups.put(op.path, self.snapshot())
        return ops.BackupWritten(4096)


_DO: dict[type[Op], Callable[[ModelStore, Any], OpResult]] = {
    ops.AddPeer: ModelStore._add_peer,
    ops.NotePeer: ModelStore._note_peer,
    ops.RememberPeer: ModelStore._remember_peer,
    ops.RenamePeer: ModelStore._rename_peer,
    ops.DropPeers: ModelStore._drop_peers,
    ops.ForgetPeer: ModelStore._forget_peer,
    ops.SetBlock: ModelStore._set_block,
    ops.OpenMailbox: ModelStore._open_mailbox,
    ops.AppendMail: ModelStore._append_mail,
    ops.AppendReply: ModelStore._append_reply,
    ops.LoadBacklog: ModelStore._load_backlog,
    ops.MarkPushed: ModelStore._mark_pushed,
    ops.ReadPage: ModelStore._read_page,
    ops.ConfirmMail: ModelStore._confirm_mail,
    ops.EndLease: ModelStore._end_lease,
    ops.CreateGroup: ModelStore._create_group,
    ops.AddMember: ModelStore._add_member,
    ops.RemoveMember: ModelStore._remove_member,
    ops.DropGroup: ModelStore._drop_group,
    ops.AppendGroup: ModelStore._append_group,
    ops.ReadHistory: ModelStore._read_history,
    ops.MoveCursor: ModelStore._move_cursor,
    ops.SaveOp: ModelStore._save_op,
    ops.FindOp: ModelStore._find_op,
    ops.FindMail: ModelStore._find_mail,
    ops.Housekeep: ModelStore._housekeep,
    ops.TraceMessage: ModelStore._trace_message,
    ops.MeasureMail: ModelStore._measure_mail,
    ops.PurgeMail: ModelStore._purge_mail,
    ops.WriteBackup: ModelStore._write_backup,
}
