"""A mutating request takes effect once, however often it is sent.

Mail and group messages are recognised by their msg_id in the store. For everything else the answer is
kept under (peer, op id) in the same transaction; a request that says `resend` is first looked up there.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ecorelay import wire
from ecorelay.core.ops import FoundOp, SaveOp
from ecorelay.core.state import Peer, Session, State, unread_of
from ecorelay.errors import WireError

if TYPE_CHECKING:
    from ecorelay.core.events import Now


USED = "op_id was used for another request: make a new one for each"


class Resume(Struct, frozen=True):
    """Note: the look-up of a resent request is done; answer it, or go on with it."""

    sid: int
    frame: wire.Mutation


def by_msg_id(frame: wire.Mutation) -> bool:
    """Whether the store recognises a repetition by itself."""
    return isinstance(frame, wire.Send | wire.Reply | wire.GroupSend)


def checksum(frame: wire.Mutation) -> int:
    """Of what was asked, whichever attempt it is."""
    return zlib.crc32(wire.encode(msgspec.structs.replace(frame, req_id=0, resend=False)))


def save(peer: Peer, frame: wire.Mutation, answer: wire.Result, now: Now) -> SaveOp:
    """The op that makes a repetition find `answer`."""
    return SaveOp(
        no=peer.no, op_id=frame.op_id, request=checksum(frame), reply=wire.encode(answer), at=now.wall
    )


def answer(s: State, sid: int, frame: wire.Result) -> None:
    """Answer with what was decided before the commit, and what is unread now."""
    session = s.sessions.get(sid)
    if session is not None:
        unread = unread_of(session.peer) if session.peer is not None else 0
        s.reply(sid, msgspec.structs.replace(frame, unread=unread))


def found(s: State, session: Session, frame: wire.Mutation, kept: FoundOp) -> None:
    """The request was done before: the same answer again."""
    if kept.request != checksum(frame):
        s.fail(session.sid, frame.req_id, "bad_msg", USED)
        return
    try:
        first = wire.decode_to_session(kept.reply)
    except WireError:
        first = None
    if isinstance(first, wire.Result):
        answer(s, session.sid, msgspec.structs.replace(first, req_id=frame.req_id))
    else:
        s.fail(session.sid, frame.req_id, "unexpected", "it was done before, but what was answered is lost")
