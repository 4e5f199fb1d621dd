"""Groups: persisted membership with one admin, a numbered history, a cursor for each member."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import names, wire
from ecorelay.core import delivery, mailbox, messages, replay, watch
from ecorelay.core.actions import Push, Store
from ecorelay.core.ops import (
    AddMember,
    Appended,
    AppendGroup,
    AppendMail,
    CreateGroup,
    CursorMoved,
    DropGroup,
    GroupMade,
    HistoryRead,
    Line,
    LineAdded,
    MoveCursor,
    Op,
    ReadHistory,
    RemoveMember,
    StoredLine,
)
from ecorelay.core.state import Group, HistoryLease, Peer, Session, State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now


ENDED = "the group or your membership ended"


class GroupCreated(Struct, frozen=True):
    """Note: the group exists."""

    sid: int
    op: CreateGroup
    answer: wire.GroupMembers


class MemberAdded(Struct, frozen=True):
    """Note: the member is in."""

    sid: int
    op: AddMember
    answer: wire.Done


class MemberRemoved(Struct, frozen=True):
    """Note: the member is out; `mail` tells it, when it did not leave by itself."""

    sid: int
    op: RemoveMember
    answer: wire.Done
    mail: AppendMail | None


class GroupDropped(Struct, frozen=True):
    """Note: the group is gone; `mail` tells its members."""

    sid: int
    op: DropGroup
    answer: wire.Done
    mail: AppendMail | None


class LineStored(Struct, frozen=True):
    """Note: push the line to the members, answer its author."""

    sid: int
    req_id: int
    op: AppendGroup


class HistoryReady(Struct, frozen=True):
    """Note: hand the page to the reader."""

    sid: int
    peer_no: int
    op: ReadHistory
    request: wire.GroupHistory


class HistoryLapses(Struct, frozen=True):
    """Timer note: the page that was out until then was not confirmed."""

    peer_no: int
    group_no: int
    until: float


class HistoryConfirmed(Struct, frozen=True):
    """Note: the cursor stands."""

    sid: int
    req_id: int
    op: MoveCursor


# --- look-ups ----------------------------------------------------------------------------------------


def _group(s: State, address: str) -> Group:
    name, _, hub = address.partition("@")
    s.check_hub(hub, address)
    group = s.groups_by_name.get(names.key(name))
    if group is None:
        raise RelayError("group_not_found", f"no group is called {name!r}: relay_group_list has yours")
    return group


def _member(s: State, peer: Peer, address: str) -> Group:
    group = _group(s, address)
    if peer.no not in group.members:
        raise RelayError("not_member", f"you are not in {group.name}: ask {_admin(s, group)} to invite you")
    return group


def _administered(s: State, peer: Peer, address: str) -> Group:
    group = _member(s, peer, address)
    if group.admin_no != peer.no:
        raise RelayError("not_admin", f"only {_admin(s, group)} may do that in {group.name}")
    return group


def _admin(s: State, group: Group) -> str:
    admin = s.peers.get(group.admin_no)
    return admin.name if admin else "its admin"


def _system_line(s: State, author: Peer, text: str, now: Now) -> Line:
    return Line(
        msg_id=s.new_id(now.wall),
        sender_no=author.no,
        sender=author.name,
        text=text,
        at=now.wall,
        system=True,
    )


def _notice(s: State, author: Peer, recipients: tuple[int, ...], text: str, now: Now) -> AppendMail:
    """Mail that tells peers what became of their membership."""
    return AppendMail(
        msg_id=s.new_id(now.wall),
        kind="system",
        sender_no=author.no,
        sender=author.name,
        recipients=recipients,
        text=text,
        at=now.wall,
    )


# --- governance --------------------------------------------------------------------------------------


def create(s: State, session: Session, frame: wire.GroupCreate, now: Now) -> None:
    """A new group; its creator is admin and member."""
    peer = s.speaker(session)
    key = names.key(frame.name)
    if key in s.groups_by_name or "/" + key in s.reserved:
        raise RelayError("name_taken", f"there is a group called {frame.name}: choose another name")
    creating = sum(1 for reserved in s.reserved if reserved[0] == "/")
    if len(s.groups) + creating >= s.limits.groups:
        raise RelayError("limit_reached", f"this hub has its {s.limits.groups} groups: delete one first")
    members = {s.resolve(member, now).no: None for member in frame.members}
    members.pop(peer.no, None)
    if len(members) + 1 > s.limits.group_members:
        raise RelayError("limit_reached", f"a group has at most {s.limits.group_members} members")
    s.reserved.add("/" + key)
    op = CreateGroup(
        group_id=s.new_id(now.wall),
        name=frame.name,
        admin_no=peer.no,
        members=tuple(members),
        line=_system_line(s, peer, f"{peer.name} created the group {frame.name}", now),
    )
    listed = tuple(s.peers[no].name for no in (peer.no, *members))
    answer = wire.GroupMembers(req_id=frame.req_id, group=frame.name, members=listed)
    s.out.append(Store((op, replay.save(peer, frame, answer, now)), GroupCreated(session.sid, op, answer)))


def created(s: State, note: GroupCreated, result: GroupMade, now: Now) -> None:
    """It exists: members hear of it."""
    op = note.op
    s.reserved.discard("/" + names.key(op.name))
    group = Group(no=result.group_no, group_id=op.group_id, name=op.name, admin_no=op.admin_no)
    for no in (op.admin_no, *op.members):
        group.members[no] = None
        s.peers[no].groups.add(group.no)
    s.groups[group.no] = group
    s.groups_by_name[names.key(group.name)] = group
    _announce(s, group, op.line, result.seq, now)
    replay.answer(s, note.sid, note.answer)


def create_failed(s: State, note: GroupCreated) -> None:
    """The name is free again."""
    s.reserved.discard("/" + names.key(note.op.name))


def invite(s: State, session: Session, frame: wire.GroupInvite, now: Now) -> None:
    """A new member sees what is said from its invitation on. Inviting twice is fine."""
    peer = s.speaker(session)
    group = _administered(s, peer, frame.group)
    invited = s.resolve(frame.peer, now)
    members = group.members.keys() | group.coming
    if invited.no not in members and len(members) >= s.limits.group_members:
        raise RelayError("limit_reached", f"{group.name} has its {s.limits.group_members} members")
    group.coming.add(invited.no)
    answer = wire.Done(req_id=frame.req_id)
    op = AddMember(
        group_no=group.no,
        no=invited.no,
        line=_system_line(s, peer, f"{peer.name} invited {invited.name}", now),
    )
    s.out.append(Store((op, replay.save(peer, frame, answer, now)), MemberAdded(session.sid, op, answer)))


def member_added(s: State, note: MemberAdded, result: LineAdded, now: Now) -> None:
    """The member is in."""
    group = s.groups[note.op.group_no]
    group.coming.discard(note.op.no)
    group.members[note.op.no] = None
    s.peers[note.op.no].groups.add(group.no)
    if result.seq:
        _announce(s, group, note.op.line, result.seq, now)
    replay.answer(s, note.sid, note.answer)


def add_failed(s: State, note: MemberAdded) -> None:
    """Nobody new."""
    group = s.groups.get(note.op.group_no)
    if group is not None:
        group.coming.discard(note.op.no)


def remove(s: State, session: Session, frame: wire.GroupRemove, now: Now) -> None:
    """The admin removes a member; history and the removed keep the reason."""
    peer = s.speaker(session)
    group = _administered(s, peer, frame.group)
    gone = s.resolve(frame.peer, now)
    if gone.no == peer.no:
        raise RelayError("bad_args", "an admin cannot remove itself: delete the group instead")
    if gone.no not in group.members:
        raise RelayError("not_member", f"{gone.name} is not in {group.name}")
    text = f"{peer.name} removed {gone.name}: {frame.reason}"
    told = f"{peer.name} removed you from the group {group.name}: {frame.reason}"
    mail = _notice(s, peer, (gone.no,), told, now)
    _take_out(s, session, peer, group, gone.no, frame, text, mail, now)


def leave(s: State, session: Session, frame: wire.GroupLeave, now: Now) -> None:
    """A member leaves; an admin cannot."""
    peer = s.own(session)
    group = _member(s, peer, frame.group)
    if group.admin_no == peer.no:
        raise RelayError("bad_args", f"you are the admin of {group.name}: delete the group instead")
    _take_out(s, session, peer, group, peer.no, frame, f"{peer.name} left", None, now)


def _take_out(
    s: State,
    session: Session,
    peer: Peer,
    group: Group,
    no: int,
    frame: wire.Mutation,
    text: str,
    mail: AppendMail | None,
    now: Now,
) -> None:
    answer = wire.Done(req_id=frame.req_id)
    op = RemoveMember(group_no=group.no, no=no, line=_system_line(s, peer, text, now))
    ops: tuple[Op, ...] = (op, replay.save(peer, frame, answer, now), *([mail] if mail else []))
    s.out.append(Store(ops, MemberRemoved(session.sid, op, answer, mail)))


def member_removed(s: State, note: MemberRemoved, result: LineAdded, told: Appended | None, now: Now) -> None:
    """The member is out."""
    taken_out(s, note.op, result, now)
    if note.mail is not None and told is not None:
        delivery.deliver(s, note.mail, told, now)
    replay.answer(s, note.sid, note.answer)


def taken_out(s: State, op: RemoveMember, result: LineAdded, now: Now) -> None:
    """The member is out: the others hear of it."""
    group = s.groups[op.group_no]
    _forget_member(s, group, op.no)
    _announce(s, group, op.line, result.seq, now)


def _forget_member(s: State, group: Group, no: int) -> None:
    group.members.pop(no, None)
    peer = s.peers[no]
    peer.groups.discard(group.no)
    peer.group_unread.pop(group.no, None)
    peer.told.pop(group.no, None)
    lease = peer.history.pop(group.no, None)
    for sid, frame in lease.queue if lease is not None else ():
        s.fail(sid, frame.req_id, "group_not_found", ENDED)


def delete(s: State, session: Session, frame: wire.GroupDelete, now: Now) -> None:
    """The admin ends the group; members are told by mail, since its history goes."""
    peer = s.own(session)
    group = _administered(s, peer, frame.group)
    answer = wire.Done(req_id=frame.req_id)
    op = DropGroup(group_no=group.no)
    mail = _farewell(s, peer, group, f"{peer.name} deleted the group {group.name}", now)
    ops: tuple[Op, ...] = (op, replay.save(peer, frame, answer, now), *([mail] if mail else []))
    s.out.append(Store(ops, GroupDropped(session.sid, op, answer, mail)))


def dropped(s: State, note: GroupDropped, told: Appended | None, now: Now) -> None:
    """The group is gone."""
    ended(s, note.op.group_no)
    if note.mail is not None and told is not None:
        delivery.deliver(s, note.mail, told, now)
    replay.answer(s, note.sid, note.answer)


def ended(s: State, group_no: int) -> None:
    """The group is gone."""
    group = s.groups.pop(group_no)
    del s.groups_by_name[names.key(group.name)]
    for no in list(group.members):
        _forget_member(s, group, no)


def _farewell(s: State, author: Peer, group: Group, text: str, now: Now) -> AppendMail | None:
    # Not to a member that is about to be removed: the store would refuse the whole.
    others = tuple([no for no in group.members if no != author.no and not s.peers[no].going])
    return _notice(s, author, others, text, now) if others else None


def leave_all(
    s: State, peer: Peer, now: Now
) -> tuple[tuple[RemoveMember, ...], tuple[DropGroup, ...], tuple[AppendMail, ...]]:
    """What comes before a peer can be removed: it leaves its groups, and those it administers end."""
    leaves: list[RemoveMember] = []
    drops: list[DropGroup] = []
    mails: list[AppendMail] = []
    for group in [s.groups[no] for no in sorted(peer.groups)]:
        if group.admin_no != peer.no:
            line = _system_line(s, peer, f"{peer.name} left: a person removed it from this hub", now)
            leaves.append(RemoveMember(group_no=group.no, no=peer.no, line=line))
            continue
        drops.append(DropGroup(group_no=group.no))
        text = f"the group {group.name} ended: a person removed its admin {peer.name} from this hub"
        mail = _farewell(s, peer, group, text, now)
        if mail is not None:
            mails.append(mail)
    return tuple(leaves), tuple(drops), tuple(mails)


# --- talking -----------------------------------------------------------------------------------------


def group_send(s: State, session: Session, frame: wire.GroupSend, now: Now) -> None:
    """Say something to the group: one line, numbered by the store."""
    peer = s.speaker(session)
    s.check_text(frame.text)
    group = _member(s, peer, frame.group)
    messages.guard(
        s,
        peer.no,
        messages.GROUPS - group.no,
        s.limits.sends_per_minute,
        messages.GUARD_S,
        now,
    )
    line = Line(msg_id=frame.op_id, sender_no=peer.no, sender=peer.name, text=frame.text, at=now.wall)
    op = AppendGroup(group_no=group.no, line=line)
    s.out.append(Store((op,), LineStored(session.sid, frame.req_id, op)))


def line_stored(s: State, note: LineStored, result: LineAdded, now: Now) -> None:
    """Committed: members get it, the author its answer."""
    group = s.groups.get(note.op.group_no)
    line = note.op.line
    if group is not None and not result.duplicate:
        _announce(s, group, line, result.seq, now)
    replay.answer(s, note.sid, wire.Sent(req_id=note.req_id, msg_id=line.msg_id))


def _announce(s: State, group: Group, line: Line, seq: int, now: Now) -> None:
    """Count the line for every other member, push it where there is room."""
    if s.watchers:
        watch.group_line(s, group, line, now)
    sids: list[int] = []
    for no in group.members:
        peer = s.peers[no]
        if no == line.sender_no or not peer.loaded:
            continue
        peer.group_unread[group.no] = min(peer.group_unread.get(group.no, 0) + 1, s.limits.mailbox_messages)
        live = peer.session
        if live is not None and live.ready and live.hello.push and delivery.has_room(s, live):
            delivery.track(live, line.msg_id, 0, len(line.text), now)
            sids.append(live.sid)
        mailbox.wake(s, peer, now)
    if sids:
        push = wire.Push(
            msg_id=line.msg_id,
            kind="system" if line.system else "group",
            sender=line.sender,
            text=line.text,
            ts=line.at,
            group=group.name,
            seq=seq,
        )
        s.out.append(Push(tuple(sids), push))


# --- reading -----------------------------------------------------------------------------------------


def history(s: State, session: Session, frame: wire.GroupHistory, now: Now) -> None:
    """A page of what the caller has not seen, leased until confirmed."""
    peer = s.own(session)
    group = _member(s, peer, frame.group)
    lease = peer.history.setdefault(group.no, HistoryLease())
    if lease.reading:
        if len(lease.queue) >= 100:
            raise RelayError("limit_reached", "100 reads of this history are open: let some finish")
        lease.queue.append((session.sid, frame))
        return
    lease.reading = True
    after = lease.upto if lease.until > now.mono else 0
    op = ReadHistory(group_no=group.no, no=peer.no, after=after, limit=frame.limit, budget=frame.budget)
    s.out.append(Store((op,), HistoryReady(session.sid, peer.no, op, frame)))


def history_ready(s: State, note: HistoryReady, page: HistoryRead, now: Now) -> None:
    """The store read a page: lease it to its reader."""
    peer = s.peers[note.peer_no]
    group = s.groups.get(note.op.group_no)
    lease = peer.history.get(note.op.group_no)
    if lease is None or group is None:
        s.fail(note.sid, note.request.req_id, "group_not_found", ENDED)
        return
    session = s.sessions.get(note.sid)
    if session is not None and session.peer is peer:
        if page.lines:
            lease.upto, lease.sid, lease.released = page.upto, note.sid, 0
            lease.until = now.mono + s.limits.lease_s
            s.at(lease.until, HistoryLapses(peer.no, group.no, lease.until))
        lease.hidden += peer.group_unread.get(group.no, 0) - page.remaining
        _set_unread(peer, group.no, page.remaining)
        s.reply(
            note.sid,
            wire.GroupPage(
                req_id=note.request.req_id,
                group=group.name,
                messages=tuple(map(_entry, page.lines)),
                upto=page.upto,
                unread_remaining=page.remaining,
                missed=page.missed,
                unread=unread_of(peer),
            ),
        )
    next_read(s, lease, now)


def _entry(line: StoredLine) -> wire.GroupEntry:
    return wire.GroupEntry(
        seq=line.seq,
        msg_id=line.msg_id,
        sender=line.sender,
        text=line.text,
        ts=line.at,
        kind="system" if line.system else "message",
    )


def _set_unread(peer: Peer, group_no: int, count: int) -> None:
    if peer.told.get(group_no, 0) > count:
        peer.told[group_no] = count  # what comes after it is news again
    if count > 0:
        peer.group_unread[group_no] = count
    else:
        peer.group_unread.pop(group_no, None)


def _give_back(peer: Peer, group_no: int, lease: HistoryLease) -> None:
    """The page was not confirmed: the next reader gets it, and it counts again."""
    lease.until = 0.0
    if lease.hidden:
        _set_unread(peer, group_no, peer.group_unread.get(group_no, 0) + lease.hidden)
        lease.hidden = 0


def history_lapses(s: State, note: HistoryLapses) -> None:
    """The reader never confirmed."""
    peer = s.peers.get(note.peer_no)
    lease = peer.history.get(note.group_no) if peer is not None else None
    if peer is not None and lease is not None and lease.until == note.until:
        s.count("leases_lapsed")
        _give_back(peer, note.group_no, lease)


def next_read(s: State, lease: HistoryLease, now: Now) -> None:
    """One page at a time: the next request in line."""
    lease.reading = False
    while lease.queue and not lease.reading:
        sid, frame = lease.queue.pop(0)
        session = s.sessions.get(sid)
        if session is not None:
            try:
                history(s, session, frame, now)
            except RelayError as error:
                s.fail(sid, frame.req_id, error.code, error.message)


def history_failed(s: State, note: HistoryReady, now: Now) -> None:
    """The store could not read it (the failure itself is answered by the hub)."""
    lease = s.peers[note.peer_no].history.get(note.op.group_no)
    if lease is not None:
        next_read(s, lease, now)


def confirm(s: State, session: Session, frame: wire.GroupConfirm, _now: Now) -> None:
    """The page went out: the cursor moves."""
    peer = s.own(session)
    group = _member(s, peer, frame.group)
    lease = peer.history.get(group.no)
    if lease is not None and frame.upto <= lease.released:
        # The cursor would pass over a page that nobody was shown. Rather both come again.
        s.reply(session.sid, wire.Done(req_id=frame.req_id, unread=unread_of(peer)))
        return
    op = MoveCursor(group_no=group.no, no=peer.no, upto=frame.upto)
    s.out.append(Store((op,), HistoryConfirmed(session.sid, frame.req_id, op)))


def confirmed(s: State, note: HistoryConfirmed, result: CursorMoved) -> None:
    """The cursor stands, on disk."""
    peer = s.peers[note.op.no]
    if note.op.group_no in peer.groups:
        lease = peer.history.get(note.op.group_no)
        if lease is not None and lease.until and lease.upto > note.op.upto:
            # A later page is still out: what of it is unread stays hidden.
            lease.hidden = max(0, result.unread - peer.group_unread.get(note.op.group_no, 0))
        else:
            _set_unread(peer, note.op.group_no, result.unread)
            if lease is not None:
                lease.until, lease.hidden = 0.0, 0
    s.reply(note.sid, wire.Done(req_id=note.req_id, unread=unread_of(peer)))


def release(s: State, session: Session, frame: wire.GroupRelease, _now: Now) -> None:
    """The page was not shown: the next reader gets it."""
    peer = s.own(session)
    group = _member(s, peer, frame.group)
    lease = peer.history.get(group.no)
    if lease is not None:
        lease.released = lease.upto
        _give_back(peer, group.no, lease)
    s.reply(session.sid, wire.Done(req_id=frame.req_id, unread=unread_of(peer)))


def being_read(s: State) -> tuple[int, ...]:
    """Groups of which somebody has a page out: their lines are left alone meanwhile."""
    return tuple(
        {
            no: None
            for peer in s.peers.values()
            if peer.history
            for no, lease in peer.history.items()
            if lease.reading or lease.until or lease.hidden
        }
    )


def recount(s: State, group_no: int, member_no: int, unread: int) -> None:
    """Lines left a group of which no page was out: so many are unread now."""
    peer = s.peers.get(member_no)
    if peer is not None and peer.loaded and group_no in peer.groups:
        _set_unread(peer, group_no, unread)


def session_ended(session: Session, peer: Peer) -> None:
    """Its unconfirmed pages are unread again."""
    for group_no, lease in peer.history.items():
        if lease.sid == session.sid:
            _give_back(peer, group_no, lease)


# --- lists -------------------------------------------------------------------------------------------


def groups(s: State, session: Session, frame: wire.Groups, _now: Now) -> None:
    """The caller's groups and what is unread in each."""
    peer = s.own(session)
    listed = tuple(
        wire.GroupUnread(name=s.groups[no].name, unread_count=peer.group_unread.get(no, 0))
        for no in sorted(peer.groups)
    )
    s.reply(session.sid, wire.GroupList(req_id=frame.req_id, groups=listed, unread=unread_of(peer)))


def info(s: State, session: Session, frame: wire.GroupInfo, _now: Now) -> None:
    """Admin, members, who is online."""
    peer = s.own(session)
    group = _member(s, peer, frame.group)
    members = tuple(wire.Member(name=s.peers[no].name, online=s.peers[no].online) for no in group.members)
    s.reply(
        session.sid,
        wire.GroupDetails(
            req_id=frame.req_id,
            group=group.name,
            admin=_admin(s, group),
            members=members,
            unread_count=peer.group_unread.get(group.no, 0),
            unread=unread_of(peer),
        ),
    )
