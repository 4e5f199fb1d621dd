"""What the core asks of the store about other hubs, and what comes back; see `ecorelay.core.ops`.

A hub that we know of has a number, as has each of its peers of which anything is stored. What goes there lies
in its outbox, in the order of `seq`, which rises by one and is never given twice. On the wire the number is
counted from the beginning of a stream: `seq` less the stream's base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ecorelay.core.ops import Appended, Eviction, Op

if TYPE_CHECKING:
    from ecorelay.core.group_ops import FarOp
    from ecorelay.core.ops import AppendMail
    from ecorelay.wire import Kind


class FarPeer(Struct, frozen=True, kw_only=True, gc=False):
    """A peer of another hub, as that hub told of it. `peer_id` is empty where it never did."""

    name: str
    peer_id: str = ""


class KnowHub(Op, frozen=True, kw_only=True):
    """→ `HubKnown`. A hub that is configured, or that proved itself; a known one stays as it is.

    `at`: when it was there; 0: it is only configured.
    """

    hub_id: str
    at: int


class ResumeOut(Op, frozen=True, kw_only=True):
    """→ `Resumed`. A link is there: the other hub has `received` frames of our stream `known`.

    What that covers is settled, as by `SettleOut`; `rejected` are (number, code). A stream of ours that is
    not known any more covers nothing. What is left is numbered under `stream`, unless that has begun.
    """

    hub_no: int
    stream: str
    known: str
    received: int
    rejected: tuple[tuple[int, str], ...]
    at: int


class AppendOut(Op, frozen=True, kw_only=True):
    """→ `OutAppended`. Mail for a peer of another hub: into the outbox, with its receipt.

    ``limit_reached`` where too much waits for that peer or hub. Duplicates as in `AppendMail`. `also`: one of
    several copies of the same message, which an op of the same unit may have stored; never a duplicate, and
    left out where it finds no room.
    Otherwise the same to another peer of that hub is one too: whom a name leads to may have changed.
    `missing`: there is no such peer, says this text; all but a duplicate is ``peer_not_found``.
    """

    hub_no: int
    to: FarPeer
    msg_id: str
    kind: Kind
    sender_no: int
    sender: str
    text: str
    body: bytes
    at: int
    reply_to: str | None = None
    broadcast_id: str | None = None
    also: bool = False
    missing: str = ""


class LoadOut(Op, frozen=True, kw_only=True):
    """→ `OutLoaded`. What lies in the outbox after `after`; at least one, then within the limits."""

    hub_no: int
    after: int
    max_count: int
    max_bytes: int


class SettleOut(Op, frozen=True, kw_only=True):
    """→ `OutSettled`. The other hub has all up to `upto`, but for what it `rejected` (seq, code).

    Receipts say so, senders of what was rejected are told, and the rows go.
    """

    hub_no: int
    upto: int
    rejected: tuple[tuple[int, str], ...]
    at: int


class Receive(Op, frozen=True, kw_only=True):
    """→ `Received`. A numbered frame of another hub: what it says, and that it was taken, as one.

    `mail` has the recipients, and 0 for its sender, who is `sender`; what is about groups asks for `far`.
    Neither: it is rejected as `code`. What the store itself refuses is rejected too. A number that does not
    follow in its stream, or is not `first` of those the other hub can still send, leaves no trace:
    ``bad_msg``; one that was taken before leads to nothing. Duplicates by (hub, msg_id) are taken once.
    """

    hub_no: int
    stream: str
    first: int
    number: int
    msg_id: str
    sender: FarPeer
    mail: AppendMail | None
    far: FarOp | None = None
    code: str = ""
    message: str = ""
    at: int


class SaveDirectory(Op, frozen=True, kw_only=True):
    """→ None. Peers of a hub that came or changed, and `gone` ones (peer_ids).

    With `reset` they are all there are so far, with `complete` all there are.
    """

    hub_no: int
    peers: tuple[FarPeer, ...]
    gone: tuple[str, ...] = ()
    reset: bool = False
    complete: bool = False
    at: int


class ForgetHub(Op, frozen=True, kw_only=True):
    """→ `OutSettled`. A hub with its directory and streams; what waits for it ends as dead."""

    hub_no: int
    at: int


# --- results ------------------------------------------------------------------------------------------


class Refusal(Struct, frozen=True, gc=False):
    """A rejected frame: its number in its stream, why, and that for a person."""

    number: int
    code: str
    message: str = ""


class HubKnown(Struct, frozen=True, kw_only=True, gc=False):
    """The hub's number. `stream`: its latest that we know, of which we have `received`; empty: none.

    `next_seq`: of what lies in its outbox the first, or else what comes into it next.
    """

    hub_no: int
    next_seq: int
    stream: str = ""
    received: int = 0
    rejected: tuple[Refusal, ...] = ()


class OutSettled(Struct, frozen=True, gc=False):
    """How much left the outbox; `told`: senders (and recipients) of what did not arrive."""

    count: int
    bytes: int
    told: tuple[Eviction, ...] = ()


class Resumed(Struct, frozen=True, kw_only=True, gc=False):
    """`base`: the seq before the stream's number 1. `settled`: all up to this seq. `last`: the latest seq."""

    base: int
    settled: int
    last: int
    out: OutSettled


class OutAppended(Struct, frozen=True, gc=False):
    """`seq` 0: a duplicate that is settled already, or one of several copies that found no room."""

    seq: int
    mid: int
    duplicate: bool = False


class OutFrame(Struct, frozen=True, gc=False):
    """One row of an outbox."""

    seq: int
    msg_id: str
    at: int
    body: bytes


class OutLoaded(Struct, frozen=True, gc=False):
    """`more`: there is more after these."""

    frames: tuple[OutFrame, ...]
    more: bool


class Received(Struct, frozen=True, gc=False):
    """What became of a frame. `appended` None: it was rejected as `code`, or taken before.

    `far`: of one about groups, what its op gives.
    """

    appended: Appended | None
    code: str = ""
    message: str = ""
    far: Any = None


# --- what the core starts from --------------------------------------------------------------------------


class HubRow(Struct, frozen=True, kw_only=True, gc=False):
    """Another hub as stored. `waiting`, `bytes`: what lies in its outbox. `complete`: `peers` were all."""

    no: int
    hub_id: str
    complete: bool
    seen_at: int
    waiting: int
    bytes: int
    peers: tuple[FarPeer, ...]
