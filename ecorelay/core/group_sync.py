"""Finding and mending what a replica of a group lacks.

Lines of a group are lost to a hub with members in it when a database was lost, a backup restored, or too
much waited. That shows in the numbers and ids of lines; and at the beginning of a link the home says where
its groups are. Then it is asked, for one group after the other, page by page. The home's word counts: where
ours differs, ours goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import link_wire
from ecorelay.core import far_groups, group_names
from ecorelay.core.actions import Store, ToLink
from ecorelay.core.group_ops import (
    FarOp,
    Heads,
    LinesRead,
    ReadHeads,
    ReadLines,
    Replica,
    TakeEnd,
    TakeLine,
    Taken,
    TakePage,
)

if TYPE_CHECKING:
    from ecorelay.core.events import Now, StoreFailed
    from ecorelay.core.ops import LineAdded
    from ecorelay.core.records import Group, Peer, RemoteHub
    from ecorelay.core.state import State

ASK_AGAIN_S = 5.0
RENAMES_S = 1.0
"""So often at most other hubs are told of members with other names, however often those change."""
STATES_MAX = 100
"""Frames of one hub about its groups that wait to be compared with ours."""
WANTED_MAX = 1_000
"""Groups of one hub that are to be asked for."""


class StatesReady(Struct, frozen=True):
    """Note: tell these links where our groups are; `complete`: these are all they have members in."""

    links: tuple[int, ...]
    complete: bool


class StatesCompared(Struct, frozen=True):
    """Note: where our replicas are, for comparing them with what their home said over this link."""

    link: int
    frame: link_wire.GroupStates
    late: bool
    """It came a while ago: its home may have made us members since."""


class StatesDue(Struct, frozen=True):
    """Timer note: the disk refused a while ago; tell where our groups are, or compare with what was told."""

    link: int
    told: link_wire.GroupStates | None


class RenamesDue(Struct, frozen=True):
    """Timer note: other hubs may be told of members with other names again."""


class AskReady(Struct, frozen=True):
    """Note: where our replica is; ask its home for what follows."""

    link: int
    group_id: str


class AskDue(Struct, frozen=True):
    """Timer note: the home could not answer a while ago, or we could not take it."""

    link: int
    group_id: str


class LinesReady(Struct, frozen=True):
    """Note: answer another hub, over this link, with lines of our group."""

    link: int
    group_no: int
    group_id: str


class PageTaken(Struct, frozen=True):
    """Note: a page of the home is stored. `upto`: its last line, after which it is asked for more."""

    link: int
    op: TakePage
    upto: tuple[int, str]


class ReplicaEnded(Struct, frozen=True):
    """Note: a group of another hub is no more, or has no members here."""

    op: TakeEnd


# --- what durable frames brought ---------------------------------------------------------------------------


def took(s: State, op: FarOp, result: LineAdded | Taken, now: Now) -> None:
    """A durable frame about a group is stored, or shows that something is missing."""
    far_groups.took(s, op, result, now)
    if isinstance(op, TakeLine) and isinstance(result, Taken) and result.outcome in ("behind", "unknown"):
        for hub in group_names.hubs_numbered(s, op.replica.hub_no):
            want(s, hub, op.replica.group_id)


def lost(hub: RemoteHub) -> None:
    """The link is gone: what was asked is not answered any more."""
    hub.states_told = hub.answering = False
    hub.asking = ""
    hub.wanted.clear()
    hub.listed = set()
    hub.contradicted = set()
    hub.comparing = False
    hub.states.clear()


# --- the home: where its groups are --------------------------------------------------------------------


def caught_up(s: State, link: int) -> None:
    """What waited for a hub has gone out, perhaps: once it has, tell it where our groups are."""
    hub = s.links.get(link)
    if hub is None or not (hub.up and hub.caught_up) or hub.states_told:
        return
    hub.states_told = True
    s.out.append(Store((ReadHeads(hub_no=hub.no),), StatesReady((link,), complete=True)))


def tell_again(s: State) -> None:
    """Something that these hubs should have heard found no room: they may see from where their groups are."""
    for hub in s.untold.values():
        hub.states_told = False
        caught_up(s, hub.link)
    s.untold.clear()


def _has_members(group: Group, hub: RemoteHub) -> bool:
    return any(each.hub is hub for each in group.far.values())


def states_ready(s: State, note: StatesReady, result: Heads) -> None:
    """Tell each of them of groups in which it has members."""
    for link in note.links:
        hub = s.links.get(link)
        if hub is not None:
            states = [
                link_wire.GroupState(
                    group=group.group_id, last=head.last, last_id=head.last_id or None, members=head.members
                )
                for head in result.heads
                if (group := s.groups.get(head.group_no)) is not None and _has_members(group, hub)
            ]
            _tell_states(s, hub, states, complete=note.complete)


def _tell_states(s: State, hub: RemoteHub, states: list[link_wire.GroupState], *, complete: bool) -> None:
    size = link_wire.GROUPS_PART
    parts = [tuple(states[start : start + size]) for start in range(0, len(states), size)]
    if complete and not parts:
        parts = [()]
    for number, part in enumerate(parts):
        last = complete and number == len(parts) - 1
        s.out.append(ToLink(hub.link, link_wire.GroupStates(groups=part, complete=last)))


def states_failed(s: State, note: StatesReady, now: Now) -> None:
    """The disk refused: tell all of it again in a while."""
    for link in note.links:
        hub = s.links.get(link)
        if hub is not None:
            hub.states_told = False
            s.at(now.mono + ASK_AGAIN_S, StatesDue(link, None))


def states_due(s: State, note: StatesDue) -> None:
    """Time to try again."""
    hub = s.links.get(note.link)
    if hub is not None and note.told is not None:
        _compare(s, hub, note.told, late=True)
    else:
        caught_up(s, note.link)


def renamed_there(s: State, hub: RemoteHub, frame: link_wire.Presence) -> None:
    """Peers of another hub may have another name: hubs with members in their groups hear of it."""
    for each in frame.peers:
        no = s.far_nos.get((hub.no, each.peer_id))
        if no is not None:
            for group in s.groups.values():
                far = group.far.get(no)
                if far is not None and far.name != each.name:
                    far.name = each.name
                    s.renamed[group.no] = None


def renamed_here(s: State, peer: Peer) -> None:
    """A peer of ours has another name."""
    s.renamed.update(dict.fromkeys(sorted(peer.groups)))


def tell_renamed(s: State, now: Now) -> None:
    """Tell where groups are whose members have other names; soon, if it was done just now.

    A hub that calls its peers something else a thousand times a second is no reason to tell a third one so.
    """
    if s.renames_wait:
        return
    s.renames_wait = True
    s.at(now.mono + RENAMES_S, RenamesDue())
    renamed, s.renamed = s.renamed, {}
    groups = [s.groups[no] for no in renamed if no in s.groups]
    links = {far.hub.link for group in groups for far in group.far.values() if far.hub.states_told}
    if links:
        op = ReadHeads(group_nos=tuple([group.no for group in groups]))
        s.out.append(Store((op,), StatesReady(tuple(sorted(links)), complete=False)))


def renames_due(s: State) -> None:
    """What was held back may be told, when the event is handled."""
    s.renames_wait = False


# --- the home: asked for lines -----------------------------------------------------------------------------


def asked(s: State, hub: RemoteHub, frame: link_wire.GroupAsk, now: Now) -> None:
    """Another hub has less of a group than it should."""
    group = s.groups_by_id.get((0, frame.group))
    if group is None or not _has_members(group, hub):
        s.out.append(ToLink(hub.link, link_wire.GroupPage(group=frame.group, gone=True)))
        return
    if hub.answering:
        s.count("link asks at once")
        return
    hub.answering = True
    op = ReadLines(
        group_no=group.no,
        hub_no=hub.no,
        after=frame.after,
        after_id=frame.after_id or "",
        max_count=link_wire.LINES_PART,
        max_bytes=link_wire.LINES_BYTES,
        now=now.wall,
    )
    s.out.append(Store((op,), LinesReady(hub.link, group.no, frame.group)))


def lines_ready(s: State, note: LinesReady, result: LinesRead) -> None:
    """Answer it, if it still has members in the group."""
    hub = s.links.get(note.link)
    if hub is None:
        return
    hub.answering = False
    group = s.groups.get(note.group_no)
    if group is None or not _has_members(group, hub):
        page = link_wire.GroupPage(group=note.group_id, gone=True)
    else:
        page = link_wire.GroupPage(
            group=note.group_id,
            name=group.name,
            last=result.last,
            lines=result.lines,
            members=result.members,
            more=result.more,
        )
    s.out.append(ToLink(note.link, page))


def lines_failed(s: State, note: LinesReady, event: StoreFailed) -> None:
    """It was deleted meanwhile, or the disk refused."""
    hub = s.links.get(note.link)
    if hub is not None:
        hub.answering = False
        gone = event.code == "group_not_found"
        s.out.append(ToLink(note.link, link_wire.GroupPage(group=note.group_id, gone=gone, busy=not gone)))


# --- a replica: compared with its home -----------------------------------------------------------------


def told_states(s: State, hub: RemoteHub, frame: link_wire.GroupStates) -> None:
    """A home says where its groups are. What it sent before that is in the store, or on its way there.

    One frame is compared after the other, so that the store is there for others in between.
    """
    if not frame.groups and not frame.complete:
        return
    if not hub.comparing:
        _compare(s, hub, frame, late=False)
    elif len(hub.states) < STATES_MAX:
        hub.states.append(frame)
    else:
        s.count("link groups beyond the limit")


def _compare(s: State, hub: RemoteHub, frame: link_wire.GroupStates, *, late: bool) -> None:
    hub.comparing = True
    named = [s.groups_by_id.get((hub.no, state.group)) for state in frame.groups]
    nos = dict.fromkeys([group.no for group in named if group is not None])
    op = ReadHeads(group_nos=tuple(nos))
    s.out.append(Store((op,), StatesCompared(hub.link, frame, late)))


def states_compared(s: State, note: StatesCompared, result: Heads, now: Now) -> None:
    """Ask for what is missing; end what the home does not know."""
    hub = s.links.get(note.link)
    if hub is None:
        return
    heads = {head.group_no: head for head in result.heads}
    for state in note.frame.groups:
        group = s.groups_by_id.get((hub.no, state.group))
        head = heads.get(group.no) if group is not None else None
        if group is not None:
            hub.listed.add(state.group)
        if group is None or head is None:
            want(s, hub, state.group)
            continue
        same_line = head.last == state.last and (
            not head.last_id or not state.last_id or head.last_id == state.last_id
        )
        if not same_line or head.members != state.members:
            want(s, hub, state.group)
            continue
        known = {s.peers[no].peer_id for no in group.members}
        strays = far_groups.strays_in(s, group.roster, known)
        far_groups.contradict(s, hub, state.group, strays, now)
    if note.frame.complete:
        listed, hub.listed = hub.listed, set()
        # Those as well that it told of just before, and which were in the store when this came.
        for group in [group for group in s.groups.values() if group.hub is hub]:
            if group.group_id in listed:
                continue
            if note.late:
                want(s, hub, group.group_id)
            else:
                _end(s, hub, group.group_id, now)
    hub.comparing = False
    if hub.states:
        _compare(s, hub, hub.states.pop(0), late=True)


def compare_failed(s: State, note: StatesCompared, now: Now) -> None:
    """The disk refused: try again in a while."""
    s.at(now.mono + ASK_AGAIN_S, StatesDue(note.link, note.frame))


def _end(s: State, hub: RemoteHub, group_id: str, now: Now) -> None:
    group = s.groups_by_id.get((hub.no, group_id))
    if group is not None:
        text = f"the group {group.shown} ended: {hub.hub_id} knows of no such group with you in it"
        op = TakeEnd(
            replica=Replica(
                hub_no=hub.no,
                group_id=group_id,
                name=group.name,
                notice=far_groups.notice(s, group_names.admin(s, group), text, now),
            )
        )
        s.out.append(Store((op,), ReplicaEnded(op)))


def replica_ended(s: State, note: ReplicaEnded, result: Taken, now: Now) -> None:
    """It is gone."""
    far_groups.applied(s, note.op.replica, result, now)


# --- a replica: asking its home ------------------------------------------------------------------------


def want(s: State, hub: RemoteHub, group_id: str) -> None:
    """We have less of this group than we should, or something else."""
    if not hub.introduced:  # the next link begins with where it is
        return
    if len(hub.wanted) >= WANTED_MAX:
        s.count("link groups beyond the limit")
        return
    hub.wanted[group_id] = None
    _ask_next(s, hub)


def _ask_next(s: State, hub: RemoteHub) -> None:
    if not hub.asking and hub.wanted:
        hub.asking = next(iter(hub.wanted))
        del hub.wanted[hub.asking]
        group = s.groups_by_id.get((hub.no, hub.asking))
        nos = () if group is None else (group.no,)
        s.out.append(Store((ReadHeads(group_nos=nos),), AskReady(hub.link, hub.asking)))


def ask_ready(s: State, note: AskReady, result: Heads) -> None:
    """Ask."""
    hub = s.links.get(note.link)
    if hub is not None:
        after, after_id = (result.heads[0].last, result.heads[0].last_id) if result.heads else (0, "")
        s.out.append(
            ToLink(note.link, link_wire.GroupAsk(group=note.group_id, after=after, after_id=after_id or None))
        )


def ask_failed(s: State, note: AskReady | PageTaken, now: Now) -> None:
    """The disk refused: ask again in a while."""
    hub = s.links.get(note.link)
    if hub is not None:
        s.at(now.mono + ASK_AGAIN_S, AskDue(note.link, hub.asking))


def ask_due(s: State, note: AskDue) -> None:
    """Time to ask again."""
    hub = s.links.get(note.link)
    if hub is not None:
        hub.asking = ""
        want(s, hub, note.group_id)


def told_page(s: State, hub: RemoteHub, frame: link_wire.GroupPage, now: Now) -> None:
    """The answer of a home."""
    if not hub.asking or frame.group != hub.asking:
        s.count("link pages nobody asked for")
        return
    if frame.busy:
        s.at(now.mono + ASK_AGAIN_S, AskDue(hub.link, hub.asking))
        return
    if frame.gone:
        _end(s, hub, frame.group, now)
        _asked(s, hub)
        return
    seqs = [line.seq for line in frame.lines]
    if (
        frame.name is None
        or seqs != list(range(seqs[0], seqs[0] + len(seqs)) if seqs else [])
        or (seqs and seqs[-1] > frame.last)
        or (frame.more and not seqs)
    ):
        s.count("link pages that are none")
        _asked(s, hub)
        return
    shown = f"{frame.name}@{hub.hub_id}"
    notice = far_groups.notice(s, shown, f"you are no longer in the group {shown}", now)
    op = TakePage(
        replica=Replica(hub_no=hub.no, group_id=frame.group, name=frame.name, notice=notice),
        lines=tuple([far_groups.copied(s, hub, frame.group, line, now, line.age_ms) for line in frame.lines]),
        roster=far_groups.roster_of(s, frame.members),
        last=frame.last,
        more=frame.more,
    )
    upto = (frame.lines[-1].seq, frame.lines[-1].msg_id) if frame.lines else (0, "")
    s.out.append(Store((op,), PageTaken(hub.link, op, upto)))


def page_taken(s: State, note: PageTaken, result: Taken, now: Now) -> None:
    """Stored: ask for the next page, or for the next group."""
    op = note.op
    far_groups.applied(s, op.replica, result, now)
    if not op.more or result.outcome == "refused":
        far_groups.refuse_strays(s, op.replica, op.roster, result, now)
    hub = s.links.get(note.link)
    if hub is None:
        return
    if op.more and result.outcome == "stored":
        after, after_id = note.upto
        s.out.append(
            ToLink(note.link, link_wire.GroupAsk(group=op.replica.group_id, after=after, after_id=after_id))
        )
    else:
        _asked(s, hub)


def _asked(s: State, hub: RemoteHub) -> None:
    hub.asking = ""
    _ask_next(s, hub)
