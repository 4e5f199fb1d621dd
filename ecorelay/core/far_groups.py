"""Groups across hubs: what one hub tells another of them by mail, both ways.

The home of a group numbers its lines; elsewhere they are entered in that order. What is missing
there is found and mended by `ecorelay.core.group_sync`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import link_wire, names, wire
from ecorelay.core import (
    delivery,
    group_events,
    group_history,
    group_names,
    groups,
    messages,
    outbox,
    replay,
    said,
)
from ecorelay.core.actions import Store
from ecorelay.core.group_ops import (
    Author,
    CopiedLine,
    FarOp,
    Replica,
    Roster,
    SendLeaves,
    TakeEnd,
    TakeLeave,
    TakeLine,
    Taken,
    TakePost,
)
from ecorelay.core.ops import AppendMail, Line, LineAdded, OpResult, OutRow, RemoveMember
from ecorelay.core.records import Group
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from ecorelay.core.events import Now
    from ecorelay.core.group_ops import Leave, Left
    from ecorelay.core.group_posts import MembersLeft, PostQueued
    from ecorelay.core.link_ops import OutAppended
    from ecorelay.core.records import FarMember, RemoteHub
    from ecorelay.core.state import State


CONTRADICTED_MAX = 10_000
"""Peers that are no members, of which one hub is told over one link."""


class LeavesSent(Struct, frozen=True):
    """Note: the home will hear that these are no members."""


# --- what durable frames ask for ---------------------------------------------------------------------------


def asked_for(
    s: State, hub: RemoteHub, frame: link_wire.Durable, body: link_wire.GroupBodies, now: Now
) -> FarOp:
    """What a durable frame about a group asks to be stored.

    Raises:
        RelayError: it is refused, for good.
    """
    if isinstance(body, link_wire.GroupPostBody):
        return _post(s, hub, frame, body, now)
    if isinstance(body, link_wire.GroupLeaveBody):
        group, far = _ours(s, hub, body.group, body.peer_id)
        line = _line_of(s, far, f"{far.address} left", now)
        return TakeLeave(group_no=group.no, no=far.no, since=body.since, line=line)
    if isinstance(body, link_wire.GroupLineBody):
        return _line(s, hub, frame, body, now)
    by = f"{body.by}@{hub.hub_id}"
    text = f"the group {body.name}@{hub.hub_id} ended: {by} deleted it, or is no more"
    mail = notice(s, by, text, now)
    return TakeEnd(replica=Replica(hub_no=hub.no, group_id=body.group, name=body.name, notice=mail))


def _ours(s: State, hub: RemoteHub, group_id: str, peer_id: str) -> tuple[Group, FarMember]:
    group = s.groups_by_id.get((0, group_id))
    if group is None:
        raise RelayError("group_not_found", f"{s.hub_id} has no such group: it was deleted, or is lost")
    far = group.far.get(s.far_nos.get((hub.no, peer_id), 0))
    if far is None:
        raise RelayError("not_member", f"that peer of {hub.hub_id} is not in {group.name}")
    return group, far


def _line_of(s: State, far: FarMember, text: str, now: Now) -> Line:
    return Line(
        msg_id=s.new_id(now.wall),
        sender_no=far.no,
        sender=far.address,
        text=text,
        at=now.wall,
        system=True,
    )


def _post(
    s: State, hub: RemoteHub, frame: link_wire.Durable, body: link_wire.GroupPostBody, now: Now
) -> TakePost:
    group, far = _ours(s, hub, body.group, body.sender_id)
    if s.blocks(hub.hub_id, far.name, far.peer_id):
        s.count("blocked_refused")
        raise RelayError("blocked", f"a person there blocked {far.address}")
    s.check_text(body.text)
    messages.guard_hub(s, hub, body.sender_id, messages.GROUPS - group.no, frame.age_ms, now)
    line = Line(
        msg_id=frame.msg_id,
        sender_no=far.no,
        sender=far.address,
        text=body.text,
        at=now.wall - min(frame.age_ms, now.wall),
    )
    return TakePost(group_no=group.no, hub_no=hub.no, line=line)


def _line(
    s: State, hub: RemoteHub, frame: link_wire.Durable, body: link_wire.GroupLineBody, now: Now
) -> TakeLine:
    line = copied(s, hub, body.group, body.line, now, frame.age_ms)
    shown = f"{body.name}@{hub.hub_id}"
    text = f"you are no longer in the group {shown}"
    if body.removed is not None:
        text = f"{line.sender} removed you from the group {shown}: {group_events.plain(body.reason)}"
    return TakeLine(
        replica=Replica(
            hub_no=hub.no, group_id=body.group, name=body.name, notice=notice(s, line.sender, text, now)
        ),
        after=body.after or "",
        line=line,
        roster=None if body.members is None else roster_of(s, body.members),
    )


def copied(
    s: State, hub: RemoteHub, group_id: str, line: link_wire.GroupLine, now: Now, age_ms: int
) -> CopiedLine:
    """A line as it is stored here. Its author is who the home says it is, but for peers of ours.

    Of one of ours the store knows what it sent. All else that is said in its name is the home's own word, and
    shown as that of ``name@home``; only a departure, of which we make the sentence, is nobody's word.
    """
    own = line.author_hub is not None and names.key(line.author_hub) == names.key(s.hub_id)
    if own:
        peer = s.by_peer_id.get(line.author_id or "") if line.event is None else None
        if peer is not None and said.is_so(s, peer, group_id, line.msg_id, line.text or "") is False:
            peer = None
        author = Author(name=line.author, no=0 if peer is None else peer.no)
        sender = line.author if line.event == "left" else f"{line.author}@{hub.hub_id}"
    else:
        hub_id = line.author_hub or hub.hub_id
        author = Author(name=line.author, peer_id=line.author_id or "", hub=names.key(hub_id))
        sender = f"{line.author}@{hub_id}"
    text = line.text if line.event is None else group_events.sentence(line)
    if text is not None and (not text or len(text.encode()) > s.limits.text_bytes):
        s.count("link lines of a wrong size")
        text = None
    if not own and s.blocks(line.author_hub or hub.hub_id, line.author, line.author_id or ""):
        s.count("blocked_refused")
        text = None
    return CopiedLine(
        seq=line.seq,
        msg_id=line.msg_id,
        author=author,
        sender=sender,
        text=text,
        at=now.wall - min(age_ms, now.wall),
        system=line.event is not None,
    )


def roster_of(s: State, members: tuple[link_wire.GroupMember, ...]) -> Roster:
    """Members as a home told them, and our own peers among them."""
    ours = [
        (peer.no, each.since)
        for each in members
        if group_names.is_ours(s, each) and (peer := s.by_peer_id.get(each.peer_id)) is not None
    ]
    return Roster(members=members, ours=tuple(ours))


def notice(s: State, sender: str, text: str, now: Now) -> AppendMail:
    """Mail that tells our peers what became of their membership; the store finds whom."""
    return AppendMail(
        msg_id=s.new_id(now.wall),
        kind="system",
        sender_no=0,
        sender=sender,
        recipients=(),
        text=text,
        at=now.wall,
    )


# --- what came of it -----------------------------------------------------------------------------------


def took(s: State, op: FarOp, result: LineAdded | Taken, now: Now) -> None:
    """A durable frame is stored."""
    if isinstance(result, Taken):
        assert isinstance(op, TakeLine | TakeEnd)
        applied(s, op.replica, result, now)
        if isinstance(op, TakeLine) and op.roster is not None:
            refuse_strays(s, op.replica, op.roster, result, now)
    elif isinstance(op, TakePost):
        group = s.groups.get(op.group_no)
        if group is not None and not result.duplicate:
            groups.announce(s, group, op.line, result.seq, now)
            groups.spread(s, group_names.hubs_in(group), result.outs, now)
    else:
        assert isinstance(op, TakeLeave)
        groups.taken_out(s, op, result, now)


def applied(s: State, replica: Replica, taken: Taken, now: Now) -> None:
    """A replica changed: so does what we remember of it, and our peers hear of it."""
    if taken.ended_no and taken.outcome != "ended":
        groups.ended(s, taken.ended_no)  # another one had its name
    if taken.created:
        for hub in group_names.hubs_numbered(s, replica.hub_no):
            made = Group(no=taken.group_no, group_id=replica.group_id, name=replica.name, admin_no=0, hub=hub)
            s.add_group(made)
    group = s.groups.get(taken.group_no)
    if group is not None:
        for no in taken.left:
            groups.forget_member(s, group, no)
            group.leaving.discard(no)
        for no in taken.joined:
            group.members[no] = None
            s.peers[no].groups.add(group.no)
        if taken.roster is not None:
            group.roster = taken.roster
        for author_no, line in taken.lines:
            said = Line(
                msg_id=line.msg_id,
                sender_no=author_no,
                sender=line.sender,
                text=line.text or "",
                at=line.at,
                system=line.system,
            )
            groups.announce(s, group, said, line.seq, now, quiet=line.text is None)
        if taken.recount:
            group_history.lines_went(s, group)
            for row in taken.recount:
                group_history.recount(s, *row)
    if taken.mail is not None and taken.told is not None:
        delivery.deliver(s, taken.mail, taken.told, now)
    if taken.outcome == "ended":
        groups.ended(s, taken.ended_no)


def refuse_strays(s: State, replica: Replica, roster: Roster, taken: Taken, now: Now) -> None:
    """The home takes peers of ours for members that are none, or are no more: tell it so."""
    group = s.groups.get(taken.group_no)
    known = {s.peers[no].peer_id for no in (*group.members, *group.leaving)} if group is not None else set()
    if taken.outcome in ("stored", "ended", "refused"):
        strays = strays_in(s, roster.members, known)
        for hub in group_names.hubs_numbered(s, replica.hub_no):
            contradict(s, hub, replica.group_id, strays, now)


def strays_in(
    s: State, members: Iterable[link_wire.GroupMember], known: set[str]
) -> list[link_wire.GroupMember]:
    """Who is said to be a peer of ours and a member, and is not among the known ones (peer_ids)."""
    return [each for each in members if group_names.is_ours(s, each) and each.peer_id not in known]


def contradict(
    s: State, hub: RemoteHub, group_id: str, strays: Iterable[link_wire.GroupMember], now: Now
) -> None:
    """Tell a home that these peers of ours are no members: once for each link, whatever it says again."""
    bodies = [
        link_wire.GroupLeaveBody(group=group_id, peer_id=each.peer_id, since=each.since) for each in strays
    ]
    fresh = [
        each for each in dict.fromkeys(map(link_wire.encode_body, bodies)) if each not in hub.contradicted
    ]
    del fresh[max(0, CONTRADICTED_MAX - len(hub.contradicted)) :]
    if hub.link:
        hub.contradicted.update(fresh)
    leaves = tuple([(s.new_id(now.wall), each) for each in fresh])
    if leaves:
        s.out.append(Store((SendLeaves(hub_no=hub.no, leaves=leaves, at=now.wall),), LeavesSent()))


def leaves_sent(s: State, result: Left, now: Now) -> None:
    """They lie in the outbox."""
    outbox.placed(s, result.outs, now)


# --- what our peers did ----------------------------------------------------------------------------------


def post_queued(s: State, note: PostQueued, result: OutAppended, now: Now) -> None:
    """It lies in the outbox."""
    op = note.op
    if not result.duplicate:
        outbox.placed(s, (OutRow(op.hub_no, result.seq, op.msg_id, op.at, op.body),), now)
    replay.answer(s, note.sid, wire.Sent(req_id=note.req_id, msg_id=op.msg_id))


def members_left(s: State, note: MembersLeft, results: Sequence[Any], now: Now) -> None:
    """They are out, as far as this hub is concerned."""
    for op, result in zip(note.ops, results, strict=False):
        group = s.groups[op.group_no]
        groups.forget_member(s, group, op.no)
        group.leaving.add(op.no)
        outbox.placed(s, result.outs, now)
    replay.answer(s, note.sid, note.answer)


def removed(s: State, ops: Sequence[Leave], results: Sequence[Any], now: Now) -> None:
    """A peer that is removed is in no group of another hub any more."""
    for op, result in zip(ops, results, strict=False):
        group = s.groups.get(op.group_no)
        if group is not None:
            groups.forget_member(s, group, op.no)
            group.leaving.discard(op.no)
            if result.ended:
                groups.ended(s, group.no)
        outbox.placed(s, result.outs, now)


# --- the end of a hub ------------------------------------------------------------------------------------


def before_forgetting(s: State, hub: RemoteHub, now: Now) -> tuple[RemoveMember | TakeEnd, ...]:
    """What comes before a hub can be forgotten: its peers leave our groups, and ours its groups."""
    ops: list[RemoveMember | TakeEnd] = []
    for group in s.groups.values():
        if group.hub is hub:
            text = f"the group {group.shown} is gone: a person had this hub forget {hub.hub_id}"
            mail = notice(s, group_names.admin(s, group), text, now)
            replica = Replica(hub_no=hub.no, group_id=group.group_id, name=group.name, notice=mail)
            ops.append(TakeEnd(replica=replica))
        for far in group.far.values():
            if far.hub is hub:
                line = _line_of(s, far, f"{far.address} left: a person had this hub forget {hub.hub_id}", now)
                ops.append(RemoveMember(group_no=group.no, no=far.no, line=line))
    return tuple(ops)


def after_forgetting(
    s: State, hub: RemoteHub, ops: Sequence[RemoveMember | TakeEnd], results: Sequence[OpResult], now: Now
) -> None:
    """They have; so has what was on its way to the store when that was decided."""
    result: Any
    for op, result in zip(ops, results, strict=False):
        if isinstance(op, TakeEnd):
            applied(s, op.replica, result, now)
        else:
            groups.taken_out(s, op, result, now)
    for group in list(s.groups.values()):
        if group.hub is hub:
            groups.ended(s, group.no)
