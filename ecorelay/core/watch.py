"""Observers that are told what happens, one `activity` for each thing, as it happens.

Whoever does something calls the function of that thing, after asking `if s.watchers`: nobody watches most of
the time, and then it costs nothing. What an observer does not read in time is dropped by the daemon, which
says how much: see `ecorelay.daemon.outqueue`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecorelay import wire
from ecorelay.core.actions import Push
from ecorelay.core.ops import AppendReply
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ecorelay.core.events import Now
    from ecorelay.core.link_ops import AppendOut
    from ecorelay.core.ops import AppendMail, Eviction, Line
    from ecorelay.core.records import Group, Peer, Session
    from ecorelay.core.state import State

TEXT_BEGINNING = 500
"""Characters of a text that are told."""
RECIPIENTS_TOLD = 20
"""Recipients of one message that are named one by one."""


def watch(s: State, session: Session, frame: wire.Watch, _now: Now) -> None:
    """From now on the observer is told. Asked again, what it wants of texts may change."""
    if session.hello.role != "observer":
        raise RelayError(
            "bad_args",
            "only an observer may watch, since it must not miss mail of its own over it: "
            "use `ecorelay watch`, or say hello with role observer",
        )
    s.watchers[session.sid] = frame.texts
    s.reply(session.sid, wire.Done(req_id=frame.req_id))


def closed(s: State, sid: int) -> None:
    """The connection is gone."""
    s.watchers.pop(sid, None)


def _tell(s: State, what: wire.ActivityKind, now: Now, *, text: str | None = None, **facts: Any) -> None:
    """The same to all, but for the text."""
    size = 0 if text is None else len(text.encode())
    for with_text in (False, True):
        sids = tuple([sid for sid, texts in s.watchers.items() if texts == with_text])
        if sids:
            shown = text[:TEXT_BEGINNING] if with_text and text is not None else ""
            s.out.append(Push(sids, wire.Activity(what=what, ts=now.wall, text=shown, size=size, **facts)))


def _name(s: State, no: int) -> str:
    peer = s.peers.get(no)
    return peer.name if peer is not None else ""


# --- peers -------------------------------------------------------------------------------------------


def online(s: State, peer: Peer, now: Now) -> None:
    """A session of the peer is welcome."""
    _tell(s, "online", now, peer=peer.name)


def offline(s: State, peer: Peer, now: Now) -> None:
    """Its session ended."""
    _tell(s, "offline", now, peer=peer.name)


def renamed(s: State, peer: Peer, name: str, now: Now) -> None:
    """It is called `name` from now on."""
    _tell(s, "renamed", now, peer=peer.name, to=name)


# --- mail --------------------------------------------------------------------------------------------


def stored(s: State, mail: AppendMail, now: Now) -> None:
    """Mail is on disk, for each of its recipients."""
    for no in mail.recipients[:RECIPIENTS_TOLD]:
        _tell(
            s,
            "stored",
            now,
            text=mail.text,
            peer=mail.sender,
            to=_name(s, no),
            msg_id=mail.msg_id,
            kind=mail.kind,
        )
    more = len(mail.recipients) - RECIPIENTS_TOLD
    if more > 0:
        _tell(
            s,
            "stored",
            now,
            text=mail.text,
            peer=mail.sender,
            msg_id=mail.msg_id,
            kind=mail.kind,
            count=more,
        )


def sent_away(s: State, mail: AppendOut | AppendReply, to: str, now: Now) -> None:
    """Mail for a peer of another hub is on disk here."""
    kind = "reply" if isinstance(mail, AppendReply) else mail.kind
    _tell(s, "stored", now, text=mail.text, peer=mail.sender, to=to, msg_id=mail.msg_id, kind=kind)


def pushed(s: State, peer: Peer, msg_id: str, carrier: str, now: Now) -> None:
    """A carrier of the peer's session accepted it."""
    _tell(s, "pushed", now, peer=peer.name, msg_id=msg_id, carrier=carrier)


def seen(s: State, no: int, msg_ids: Iterable[str], now: Now, *, to: int = 0) -> None:
    """The peer with this number has seen these; `to` sent them, where that is known."""
    for msg_id in msg_ids:
        _tell(s, "seen", now, peer=_name(s, no), to=_name(s, to), msg_id=msg_id)


def evicted(s: State, evictions: Iterable[Eviction], now: Now) -> None:
    """Mail of `peer` left the mailbox of `to` unread."""
    for lost in evictions:
        _tell(
            s,
            "evicted",
            now,
            peer=_name(s, lost.sender_no),
            to=_name(s, lost.recipient_no),
            count=lost.count,
        )


# --- rooms and groups --------------------------------------------------------------------------------


def room_message(s: State, mail: wire.Mail, others: int, now: Now) -> None:
    """Something was said in a room, to so many others."""
    _tell(
        s,
        "room",
        now,
        text=mail.text,
        peer=mail.sender,
        to=mail.room,
        msg_id=mail.msg_id,
        kind=mail.kind,
        count=others,
    )


def group_line(s: State, group: Group, line: Line, now: Now) -> None:
    """A line of a group is on disk."""
    kind = "system" if line.system else "group"
    _tell(s, "group", now, text=line.text, peer=line.sender, to=group.shown, msg_id=line.msg_id, kind=kind)
