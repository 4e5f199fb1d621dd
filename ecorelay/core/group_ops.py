"""What the core asks of the store about groups across hubs, and what comes back; see `ecorelay.core.ops`.

A group lives on one hub, its *home*, which numbers its lines. A hub with members of it keeps a *replica*: the
lines it was told, in the order of their numbers, and the members as the home tells them.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from ecorelay.core.ops import Appended, AppendMail, Line, Op, OutRow
from ecorelay.link_wire import GroupLine, GroupMember


class Author(Struct, frozen=True, kw_only=True, gc=False):
    """Who wrote a line of a replica: `no` of our own peers, or a peer of the hub `hub` (its key)."""

    name: str
    no: int = 0
    peer_id: str = ""
    hub: str = ""


class CopiedLine(Struct, frozen=True, kw_only=True, gc=False):
    """A line with the number that the home gave it. `text` None: nothing is left of it, or may be shown.

    `sender` is what it is shown as unless the store knows better: with an `author` of our own, that this peer
    sent it; with one of a third hub, what that hub calls it.
    """

    seq: int
    msg_id: str
    author: Author
    sender: str
    text: str | None
    at: int
    system: bool = False


class Roster(Struct, frozen=True, kw_only=True, gc=False):
    """All members as the home tells them, and our own peers among them: (number, since)."""

    members: tuple[GroupMember, ...]
    ours: tuple[tuple[int, int], ...]


# --- at the home -----------------------------------------------------------------------------------------


class TakePost(Op, frozen=True, kw_only=True):
    """→ `LineAdded`. A member that is a peer of the hub `hub_no` said this; as `ops.AppendGroup`."""

    group_no: int
    hub_no: int
    line: Line


class TakeLeave(Op, frozen=True, kw_only=True):
    """→ `LineAdded`. A member that is a peer of another hub left; as `ops.RemoveMember`.

    ``not_member`` also where it was invited again since then: it left the membership from `since` on.
    """

    group_no: int
    no: int
    since: int
    line: Line


class ReadHeads(Op, frozen=True, kw_only=True):
    """→ `Heads`. Where these groups are; those that are no more are left out.

    With `hub_no` those of ours in which that hub has members. The store knows which: an invitation that is on
    its way there has gone out before what is told of the groups.
    """

    group_nos: tuple[int, ...] = ()
    hub_no: int = 0


class ReadLines(Op, frozen=True, kw_only=True):
    """→ `LinesRead`. Lines after `after`, if that is `after_id`; else all there are.

    They are for the hub `hub_no`: what none of its members may see, for it was said before they were invited,
    is left blank. At least one when there is any, then up to `max_count` and `max_bytes` of text.
    ``group_not_found``.
    """

    group_no: int
    hub_no: int
    after: int
    after_id: str
    max_count: int
    max_bytes: int
    now: int


# --- at a hub with members -------------------------------------------------------------------------------


class Replica(Struct, frozen=True, kw_only=True, gc=False):
    """Which one: by its home, and the id that it has there. `notice` is mail for who is put out of it."""

    hub_no: int
    group_id: str
    name: str
    notice: AppendMail


class TakeLine(Op, frozen=True, kw_only=True):
    """→ `Taken`. A line that the home told, after the line `after` (empty: not known)."""

    replica: Replica
    after: str
    line: CopiedLine
    roster: Roster | None


class TakePage(Op, frozen=True, kw_only=True):
    """→ `Taken`. Lines without a gap, that the home was asked for; the last of them is `upto`.

    Where ours are others, ours go. With `last` (no more are to come) so do those after it. Without `more` the
    members are as in `roster`.
    """

    replica: Replica
    lines: tuple[CopiedLine, ...]
    roster: Roster
    last: int
    more: bool


class TakeEnd(Op, frozen=True, kw_only=True):
    """→ `Taken`. The home says that the group is no more, or that it has no members here."""

    replica: Replica


class Leave(Op, frozen=True, kw_only=True):
    """→ `Left`. A member of a replica leaves: here at once, there by mail.

    ``not_member``; ``limit_reached`` where too much waits for the home. With `gone` the peer itself is
    removed: then neither is asked, and the replica goes with its last member. `since`: which membership it
    leaves.
    """

    group_no: int
    no: int
    since: int
    msg_id: str
    body: bytes
    at: int
    gone: bool = False


class SendLeaves(Op, frozen=True, kw_only=True):
    """→ `Left`. To groups' homes: these (msg_id, body) are no members; as many as there is room for."""

    hub_no: int
    leaves: tuple[tuple[str, bytes], ...]
    at: int


# --- results ---------------------------------------------------------------------------------------------


class Head(Struct, frozen=True, gc=False):
    """A group's last line, its id (empty: nothing is left of it), and a checksum of its members."""

    group_no: int
    last: int
    last_id: str
    members: int


class Heads(Struct, frozen=True, gc=False):
    """In the order asked for."""

    heads: tuple[Head, ...]


class LinesRead(Struct, frozen=True, gc=False):
    """`last` is the group's last line, `members` are those of this moment."""

    lines: tuple[GroupLine, ...]
    last: int
    members: tuple[GroupMember, ...]
    more: bool


Outcome = Literal["stored", "known", "behind", "unknown", "refused", "ended"]


class Taken(Struct, frozen=True, kw_only=True, gc=False):
    """What became of it.

    ``known``: it was there. ``behind``: it does not follow what is there; ask the home. ``unknown``: there is
    no such replica; ask as well. ``refused``: there is none, and none could be made (`limits.groups` of one
    home). ``ended``: the replica is gone.

    `lines` are new, with the numbers of their authors. `joined`, `left`: our own peers. `ended_no`: a replica
    that is gone, whichever. `recount`: (group no, member no, unread) of all members, where lines went.
    `mail`, `told`: the notice, to those who were put out.
    """

    outcome: Outcome
    group_no: int = 0
    created: bool = False
    lines: tuple[tuple[int, CopiedLine], ...] = ()
    joined: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    roster: tuple[GroupMember, ...] | None = None
    ended_no: int = 0
    recount: tuple[tuple[int, int, int], ...] = ()
    mail: AppendMail | None = None
    told: Appended | None = None


class Left(Struct, frozen=True, gc=False):
    """`ended`: the replica went along."""

    outs: tuple[OutRow, ...]
    ended: bool = False


FarOp = TakePost | TakeLeave | TakeLine | TakeEnd
"""What a durable frame may ask of the store besides mail."""
FarResult = Any
