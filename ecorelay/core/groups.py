"""Groups: persisted membership with one admin, a numbered history, a cursor for each member."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import names, wire
from ecorelay.core import (
    delivery,
    directory,
    group_history,
    group_names,
    group_posts,
    mailbox,
    messages,
    outbox,
    replay,
    watch,
)
from ecorelay.core.actions import Push, Store
from ecorelay.core.group_ops import Leave
from ecorelay.core.ops import (
    AddMember,
    Appended,
    AppendGroup,
    AppendMail,
    CreateGroup,
    DropGroup,
    FarMember,
    GroupMade,
    Line,
    LineAdded,
    Op,
    OutRow,
    RemoveMember,
)
from ecorelay.core.records import FarMember as Far, Group, Peer, Session
from ecorelay.core.state import State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay.core.events import Now
    from ecorelay.core.group_ops import TakeLeave
    from ecorelay.core.records import RemoteHub


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


class LeftAll(Struct, frozen=True):
    """What is stored, in this order, before a peer is removed."""

    leaves: tuple[RemoveMember, ...]
    drops: tuple[DropGroup, ...]
    mails: tuple[AppendMail, ...]
    far: tuple[Leave, ...]


class LineStored(Struct, frozen=True):
    """Note: push the line to the members, answer its author."""

    sid: int
    req_id: int
    op: AppendGroup
    again: bool = False
    """It was said again after a reconnect, see `replay`."""


# --- words ---------------------------------------------------------------------------------------------


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
    if sum(1 for group in s.groups.values() if group.hub is None) + creating >= s.limits.groups:
        raise RelayError("limit_reached", f"this hub has its {s.limits.groups} groups: delete one first")
    invited = [group_names.invited(s, member, now) for member in frame.members]
    members = {each.no: None for each in invited if isinstance(each, Peer)}
    members.pop(peer.no, None)
    far = {(each.hub_no, each.peer_id): each for each in invited if isinstance(each, FarMember)}
    if len(members) + len(far) + 1 > s.limits.group_members:
        raise RelayError("limit_reached", f"a group has at most {s.limits.group_members} members")
    s.reserved.add("/" + key)
    op = CreateGroup(
        group_id=s.new_id(now.wall),
        name=frame.name,
        admin_no=peer.no,
        members=tuple(members),
        line=_system_line(s, peer, f"{peer.name} created the group {frame.name}", now),
        far=tuple(far.values()),
    )
    listed = (
        *[s.peers[no].name for no in (peer.no, *members)],
        *[_address(s, each) for each in far.values()],
    )
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
    for no, each in zip(result.far, op.far, strict=True):
        _enter_far(s, group, no, each)
    s.add_group(group)
    announce(s, group, op.line, result.seq, now)
    spread(s, group_names.hubs_in(group), result.outs, now)
    replay.answer(s, note.sid, note.answer)


def _address(s: State, member: FarMember) -> str:
    [hub] = group_names.hubs_numbered(s, member.hub_no)
    return f"{member.name}@{hub.hub_id}"


def _enter_far(s: State, group: Group, no: int, member: FarMember) -> None:
    for hub in group_names.hubs_numbered(s, member.hub_no):
        s.add_far(group, Far(no, hub, member.peer_id, member.name))


def spread(s: State, hubs: Mapping[int, RemoteHub], outs: tuple[OutRow, ...], now: Now) -> None:
    """What was just stored goes to these hubs; one that was left out is told where its groups are."""
    outbox.placed(s, outs, now)
    reached = {row.hub_no for row in outs}
    s.untold.update((no, hub) for no, hub in hubs.items() if no not in reached)


def create_failed(s: State, note: GroupCreated) -> None:
    """The name is free again."""
    s.reserved.discard("/" + names.key(note.op.name))


def invite(s: State, session: Session, frame: wire.GroupInvite, now: Now) -> None:
    """A new member sees what is said from its invitation on. Inviting twice is fine."""
    peer = s.speaker(session)
    group = group_names.administered(s, peer, frame.group)
    invited = group_names.invited(s, frame.peer, now)
    far = invited if isinstance(invited, FarMember) else None
    name = invited.name if isinstance(invited, Peer) else _address(s, invited)
    members = {*group.members, *[(each.hub.no, each.peer_id) for each in group.far.values()], *group.coming}
    if _coming(invited) not in members and len(members) >= s.limits.group_members:
        raise RelayError("limit_reached", f"{group.name} has its {s.limits.group_members} members")
    group.coming.add(_coming(invited))
    answer = wire.Done(req_id=frame.req_id)
    op = AddMember(
        group_no=group.no,
        no=invited.no if isinstance(invited, Peer) else 0,
        line=_system_line(s, peer, f"{peer.name} invited {name}", now),
        far=far,
    )
    s.out.append(Store((op, replay.save(peer, frame, answer, now)), MemberAdded(session.sid, op, answer)))


def member_added(s: State, note: MemberAdded, result: LineAdded, now: Now) -> None:
    """The member is in."""
    op = note.op
    group = s.groups[op.group_no]
    if op.far is not None:
        group.coming.discard(_coming(op.far))
        _enter_far(s, group, result.no, op.far)
    else:
        group.coming.discard(op.no)
        group.members[op.no] = None
        s.peers[op.no].groups.add(group.no)
    if result.seq:
        announce(s, group, op.line, result.seq, now)
        spread(s, group_names.hubs_in(group), result.outs, now)
    replay.answer(s, note.sid, note.answer)


def _coming(invited: Peer | FarMember) -> int | tuple[int, str]:
    return invited.no if isinstance(invited, Peer) else (invited.hub_no, invited.peer_id)


def add_failed(s: State, note: MemberAdded) -> None:
    """Nobody new."""
    op = note.op
    group = s.groups.get(op.group_no)
    if group is not None:
        group.coming.discard(op.no if op.far is None else _coming(op.far))


def remove(s: State, session: Session, frame: wire.GroupRemove, now: Now) -> None:
    """The admin removes a member; history and the removed keep the reason."""
    peer = s.speaker(session)
    group = group_names.administered(s, peer, frame.group)
    if "@" in frame.peer and (there := directory.hub_of(s, frame.peer)) is not None:
        far = _far_member(group, *there)
        text = f"{peer.name} removed {far.address}: {frame.reason}"
        _take_out(s, session, peer, group, far.no, frame, text, None, now, reason=frame.reason)
        return
    gone = s.resolve(frame.peer, now)
    if gone.no == peer.no:
        raise RelayError("bad_args", "an admin cannot remove itself: delete the group instead")
    if gone.no not in group.members:
        raise RelayError("not_member", f"{gone.name} is not in {group.name}")
    text = f"{peer.name} removed {gone.name}: {frame.reason}"
    told = f"{peer.name} removed you from the group {group.name}: {frame.reason}"
    mail = _notice(s, peer, (gone.no,), told, now)
    _take_out(s, session, peer, group, gone.no, frame, text, mail, now)


def _far_member(group: Group, hub: RemoteHub, name: str) -> Far:
    key = names.key(name)
    for each in group.far.values():
        if each.hub is hub and names.key(each.name) == key:
            return each
    raise RelayError("not_member", f"{name}@{hub.hub_id} is not in {group.name}")


def leave(s: State, session: Session, frame: wire.GroupLeave, now: Now) -> None:
    """A member leaves; an admin cannot."""
    peer = s.own(session)
    group = group_names.member(s, peer, frame.group)
    if group.hub is not None:
        group_posts.leave(s, session, group, (peer,), frame, now)
        return
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
    *,
    reason: str | None = None,
) -> None:
    answer = wire.Done(req_id=frame.req_id)
    op = RemoveMember(group_no=group.no, no=no, line=_system_line(s, peer, text, now), reason=reason)
    ops: tuple[Op, ...] = (op, replay.save(peer, frame, answer, now), *([mail] if mail else []))
    s.out.append(Store(ops, MemberRemoved(session.sid, op, answer, mail)))


def member_removed(s: State, note: MemberRemoved, result: LineAdded, told: Appended | None, now: Now) -> None:
    """The member is out."""
    taken_out(s, note.op, result, now)
    if note.mail is not None and told is not None:
        delivery.deliver(s, note.mail, told, now)
    replay.answer(s, note.sid, note.answer)


def taken_out(s: State, op: RemoveMember | TakeLeave, result: LineAdded, now: Now) -> None:
    """The member is out: the others hear of it."""
    group = s.groups[op.group_no]
    hubs = group_names.hubs_in(group)
    if group.far.pop(op.no, None) is None:
        forget_member(s, group, op.no)
    announce(s, group, op.line, result.seq, now)
    spread(s, hubs, result.outs, now)


def forget_member(s: State, group: Group, no: int) -> None:
    """A peer of ours is not in it any more."""
    group.members.pop(no, None)
    peer = s.peers[no]
    peer.groups.discard(group.no)
    peer.group_unread.pop(group.no, None)
    peer.told.pop(group.no, None)
    lease = peer.history.pop(group.no, None)
    for sid, frame in lease.queue if lease is not None else ():
        s.fail(sid, frame.req_id, "group_not_found", group_history.ENDED)


def delete(s: State, session: Session, frame: wire.GroupDelete, now: Now) -> None:
    """The admin ends the group; members are told by mail, since its history goes."""
    peer = s.own(session)
    group = group_names.administered(s, peer, frame.group)
    answer = wire.Done(req_id=frame.req_id)
    text = f"{peer.name} deleted the group {group.name}"
    op = _drop(s, peer, group, f"{peer.name} deleted the group", now)
    mail = _farewell(s, peer, group, text, now)
    ops: tuple[Op, ...] = (op, replay.save(peer, frame, answer, now), *([mail] if mail else []))
    s.out.append(Store(ops, GroupDropped(session.sid, op, answer, mail)))


def _drop(s: State, author: Peer, group: Group, text: str, now: Now) -> DropGroup:
    """The end of a group; `text` is completed with its address, for members on other hubs."""
    if not group.far:
        return DropGroup(group_no=group.no)
    return DropGroup(
        group_no=group.no, farewell=_system_line(s, author, f"{text} {group.name}@{s.hub_id}", now)
    )


def dropped(s: State, note: GroupDropped, result: LineAdded | None, told: Appended | None, now: Now) -> None:
    """The group is gone."""
    group = s.groups[note.op.group_no]
    ended(s, group.no)
    spread(s, group_names.hubs_in(group), result.outs if result is not None else (), now)
    if note.mail is not None and told is not None:
        delivery.deliver(s, note.mail, told, now)
    replay.answer(s, note.sid, note.answer)


def ended(s: State, group_no: int) -> None:
    """The group is gone."""
    group = s.groups.pop(group_no)
    del s.groups_by_name[names.key(group.shown)]
    del s.groups_by_id[group.hub.no if group.hub is not None else 0, group.group_id]
    for no in list(group.members):
        forget_member(s, group, no)


def _farewell(s: State, author: Peer, group: Group, text: str, now: Now) -> AppendMail | None:
    # Not to a member that is about to be removed: the store would refuse the whole.
    others = tuple([no for no in group.members if no != author.no and not s.peers[no].going])
    return _notice(s, author, others, text, now) if others else None


def leave_all(s: State, peer: Peer, now: Now) -> LeftAll:
    """What comes before a peer can be removed: it leaves its groups, and those it administers end."""
    leaves: list[RemoveMember] = []
    drops: list[DropGroup] = []
    mails: list[AppendMail] = []
    far = [group_posts.out_of(s, group, peer, now, gone=True) for group in replicas_of(s, peer)]
    for group in [s.groups[no] for no in sorted(peer.groups) if s.groups[no].hub is None]:
        if group.admin_no != peer.no:
            line = _system_line(s, peer, f"{peer.name} left: a person removed it from this hub", now)
            leaves.append(RemoveMember(group_no=group.no, no=peer.no, line=line))
            continue
        drops.append(_drop(s, peer, group, f"a person removed {peer.name}, the admin of", now))
        text = f"the group {group.name} ended: a person removed its admin {peer.name} from this hub"
        mail = _farewell(s, peer, group, text, now)
        if mail is not None:
            mails.append(mail)
    return LeftAll(tuple(leaves), tuple(drops), tuple(mails), tuple(far))


def replicas_of(s: State, peer: Peer) -> list[Group]:
    """Groups of other hubs in which the peer is, or which have not heard yet that it left."""
    return [
        group
        for group in s.groups.values()
        if group.hub is not None and (peer.no in group.members or peer.no in group.leaving)
    ]


# --- talking -----------------------------------------------------------------------------------------


def group_send(s: State, session: Session, frame: wire.GroupSend, now: Now) -> None:
    """Say something to the group: one line, numbered by the store."""
    peer = s.speaker(session)
    s.check_text(frame.text)
    group = group_names.member(s, peer, frame.group)
    messages.guard(
        s,
        peer.no,
        messages.GROUPS - group.no,
        s.limits.sends_per_minute,
        messages.GUARD_S,
        now,
    )
    if group.hub is not None:
        group_posts.post(s, session, peer, group, frame, now)
        return
    line = Line(msg_id=frame.op_id, sender_no=peer.no, sender=peer.name, text=frame.text, at=now.wall)
    op = AppendGroup(group_no=group.no, line=line)
    s.out.append(Store((op,), LineStored(session.sid, frame.req_id, op, frame.resend)))


def line_stored(s: State, note: LineStored, result: LineAdded, now: Now) -> None:
    """Committed: members get it, the author its answer."""
    group = s.groups.get(note.op.group_no)
    line = note.op.line
    if group is not None and not result.duplicate:
        announce(s, group, line, result.seq, now)
        spread(s, group_names.hubs_in(group), result.outs, now)
    replay.answer(s, note.sid, wire.Sent(req_id=note.req_id, msg_id=line.msg_id))


def announce(s: State, group: Group, line: Line, seq: int, now: Now, *, quiet: bool = False) -> None:
    """Count the line for every other member of ours, push it where there is room (not when `quiet`)."""
    if s.watchers:
        watch.group_line(s, group, line, now)
    sids: list[int] = []
    for no in group.members:
        peer = s.peers[no]
        if no == line.sender_no or not peer.loaded:
            continue
        peer.group_unread[group.no] = min(peer.group_unread.get(group.no, 0) + 1, s.limits.mailbox_messages)
        if quiet:
            continue
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
            group=group.shown,
            seq=seq,
        )
        s.out.append(Push(tuple(sids), push))


# --- lists -------------------------------------------------------------------------------------------


def groups(s: State, session: Session, frame: wire.Groups, _now: Now) -> None:
    """The caller's groups and what is unread in each."""
    peer = s.own(session)
    listed = tuple(
        wire.GroupUnread(name=s.groups[no].shown, unread_count=peer.group_unread.get(no, 0))
        for no in sorted(peer.groups)
    )
    s.reply(session.sid, wire.GroupList(req_id=frame.req_id, groups=listed, unread=unread_of(peer)))


def info(s: State, session: Session, frame: wire.GroupInfo, _now: Now) -> None:
    """Admin, members, who is online."""
    peer = s.own(session)
    group = group_names.member(s, peer, frame.group)
    s.reply(
        session.sid,
        wire.GroupDetails(
            req_id=frame.req_id,
            group=group.shown,
            admin=group_names.admin(s, group),
            members=group_names.members(s, group),
            unread_count=peer.group_unread.get(group.no, 0),
            unread=unread_of(peer),
        ),
    )
