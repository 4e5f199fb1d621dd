"""A mutating request takes effect once, however often it is sent.

Mail and group messages are recognised by their msg_id in the store. For everything else the answer is
kept under (peer, op id) in the same transaction; a request that says `resend` is first looked up there.
Mail is looked up only if it is refused when it is said again (looking for it first would let what was said
after it pass it): who sent it may have been blocked since, its recipient forgotten, the disk may be full.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from ecorelay import wire
from ecorelay.core.actions import Store
from ecorelay.core.ops import FindMail, FoundMail, FoundOp, SaveOp
from ecorelay.core.state import State, unread_of
from ecorelay.errors import WireError

if TYPE_CHECKING:
    from ecorelay.core.events import Now, StoreFailed
    from ecorelay.core.records import Peer, Session
    from ecorelay.errors import Code, RelayError

Letter = wire.Send | wire.Reply | wire.GroupSend

NEVER_SAID: frozenset[Code] = frozenset({"too_large", "bad_args", "bad_msg", "timeout"})
"""Refusals that it met the first time, too; or that say themselves that nothing is known."""
USED = "op_id was used for another request: make a new one for each"


class Resume(Struct, frozen=True):
    """Note: the look-up of a resent request is done; answer it, or go on with it."""

    sid: int
    frame: wire.Mutation


class Refused(Struct, frozen=True):
    """Note: mail that is said again was refused; unless it is stored, that is the answer."""

    sid: int
    answer: wire.Failed
    msg_id: str


def by_msg_id(frame: wire.Mutation) -> bool:
    """Whether the store recognises a repetition by itself."""
    return isinstance(frame, Letter)


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


# --- mail that is refused when it is said again ----------------------------------------------------------


def refuse(s: State, session: Session, frame: Letter, error: RelayError) -> None:
    """An error would say that nothing was stored: that is looked up first."""
    answer = wire.Failed(req_id=frame.req_id, code=error.code, message=error.message)
    peer = session.peer
    if peer is None or not session.ready:
        s.reply(session.sid, answer)
        return
    op = FindMail(no=peer.no, msg_id=frame.op_id, text=frame.text)
    s.out.append(Store((op,), Refused(session.sid, answer, frame.op_id)))


def store_refused(s: State, note: Any, event: StoreFailed) -> None:
    """The store did not take it this time."""
    if not note.again or note.sid not in s.sessions:
        s.fail(note.sid, note.req_id, event.code, event.message)
        return
    mail = getattr(note.op, "line", note.op)
    answer = wire.Failed(req_id=note.req_id, code=event.code, message=event.message)
    op = FindMail(no=mail.sender_no, msg_id=mail.msg_id, text=mail.text)
    s.out.append(Store((op,), Refused(note.sid, answer, mail.msg_id)))


def refused(s: State, note: Refused, found: FoundMail | None) -> None:
    """It was stored before, or it is refused."""
    if found is None:
        answer(s, note.sid, note.answer)
        return
    status: wire.Status = "delivered" if found.delivered else "queued"
    answer(s, note.sid, wire.Sent(req_id=note.answer.req_id, msg_id=note.msg_id, status=status))


def not_found(s: State, note: Refused, event: StoreFailed) -> None:
    """The disk refused: neither is known."""
    message = f"whether it was stored before is not known ({event.message}): ask the recipient"
    s.fail(note.sid, note.answer.req_id, "timeout", message)


# --- what is said in rooms, and stored nowhere -------------------------------------------------------------


def perhaps_said(code: Code, message: str) -> tuple[Code, str]:
    """What is answered to a post to a room that is said again and refused: it may have been said before.

    A hub that was killed in between remembers neither that, nor who was in which room.
    """
    if code in NEVER_SAID:
        return code, message
    return "timeout", f"whether it was said is not known, and now it is refused: {message}"
