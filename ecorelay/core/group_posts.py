"""What members do in groups that live on another hub: it is stored here, and goes there by mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import link_wire, wire
from ecorelay.core import group_names, replay, said
from ecorelay.core.actions import Store
from ecorelay.core.group_ops import Leave
from ecorelay.core.link_ops import AppendOut, FarPeer
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay.core.events import Now
    from ecorelay.core.records import Group, Peer, Session
    from ecorelay.core.state import State


class PostQueued(Struct, frozen=True):
    """Note: what a member said waits for the group's hub; answer it."""

    sid: int
    req_id: int
    op: AppendOut
    again: bool = False
    """It was said again after a reconnect, see `replay`."""


class MembersLeft(Struct, frozen=True):
    """Note: these are out, as far as this hub is concerned."""

    sid: int
    ops: tuple[Leave, ...]
    answer: wire.Done


def post(s: State, session: Session, peer: Peer, group: Group, frame: wire.GroupSend, now: Now) -> None:
    """Say something: it is a line once the group's hub has numbered it, and told us."""
    assert group.hub is not None
    said.remember(s, peer, group.group_id, frame.op_id, frame.text)
    body = link_wire.GroupPostBody(group=group.group_id, sender_id=peer.peer_id, text=frame.text)
    op = AppendOut(
        hub_no=group.hub.no,
        to=FarPeer(name=group.name, peer_id="#" + group.group_id),  # stands for the group in receipts
        msg_id=frame.op_id,
        kind="group",
        sender_no=peer.no,
        sender=peer.name,
        text=frame.text,
        body=link_wire.encode_body(body),
        at=now.wall,
    )
    s.out.append(Store((op,), PostQueued(session.sid, frame.req_id, op, frame.resend)))


def leave(
    s: State, session: Session, group: Group, peers: Sequence[Peer], frame: wire.Mutation, now: Now
) -> None:
    """These peers are not in it any more: here at once, there when its hub has heard of it."""
    answer = wire.Done(req_id=frame.req_id)
    ops = tuple([out_of(s, group, peer, now) for peer in peers])
    speaker = s.own(session)
    saved = replay.save(speaker, frame, answer, now)
    s.out.append(Store((*ops, saved), MembersLeft(session.sid, ops, answer)))


def out_of(s: State, group: Group, peer: Peer, now: Now, *, gone: bool = False) -> Leave:
    """The op that takes a peer of ours out of a replica. `gone`: because the peer itself is removed."""
    since = max([each.since for each in group.roster if each.peer_id == peer.peer_id], default=0)
    body = link_wire.GroupLeaveBody(group=group.group_id, peer_id=peer.peer_id, since=since)
    return Leave(
        group_no=group.no,
        no=peer.no,
        since=since,
        msg_id=s.new_id(now.wall),
        body=link_wire.encode_body(body),
        at=now.wall,
        gone=gone,
    )


def forget(s: State, session: Session, frame: wire.GroupForget, now: Now) -> None:
    """All our peers leave a group of another hub, as when that is gone for good: it need not hear of it."""
    peer = s.own(session)
    group = group_names.find(s, peer, frame.group)
    if group.hub is None:
        raise RelayError(
            "bad_args",
            f"{group.name} lives here: {group_names.admin(s, group)} can end it (relay_group_delete)",
        )
    leave(s, session, group, [s.peers[no] for no in group.members], frame, now)
