"""The list of peers, names, and forgetting those that never mattered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import names, wire
from ecorelay.core import directory, group_sync, hooks, replay, sessions, watch
from ecorelay.core.actions import Reply, Store
from ecorelay.core.ops import AddPeer, Dropped, DropPeers, Numbered, RenamePeer
from ecorelay.core.state import State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Set

    from ecorelay.core.events import Now
    from ecorelay.core.records import Peer, Session

DAY_MS = 86_400_000
SHOWN_FOR_MS = 7 * DAY_MS
DROPPED_AT_ONCE = 500


class PeerRenamed(Struct, frozen=True):
    """Note: the name is changed on disk."""

    sid: int
    peer_no: int
    name: str
    forward_until: int
    answer: wire.Renamed


class AddressAdded(Struct, frozen=True):
    """Note: the address exists."""

    sid: int
    op: AddPeer
    answer: wire.Renamed


class PeersDropped(Struct, frozen=True):
    """Note: these were offered for removal and held back meanwhile."""

    nos: tuple[int, ...]


def peers(s: State, session: Session, frame: wire.Peers, now: Now) -> None:
    """Everybody else: online first, then those seen within 7 days, latest first."""
    me = session.peer
    match = frame.match.lower()
    found: list[Peer] = []
    for peer in s.peers.values():
        if peer is me:
            continue
        if match:
            if not any(match in text.lower() for text in (peer.name, peer.cwd, peer.git_branch)):
                continue
        elif not peer.online and now.wall - peer.last_seen > SHOWN_FOR_MS:
            continue
        found.append(peer)
    rows = [_row(peer, now) for peer in found] + [*directory.rows(s, match, now, SHOWN_FOR_MS)]
    rows.sort(key=lambda row: (not row.online, -row.last_seen, row.name))
    listed = tuple(rows[: frame.limit])
    s.reply(
        session.sid,
        wire.PeerList(
            req_id=frame.req_id,
            me=me.name if me else "",
            hub_id=s.hub_id,
            peers=listed,
            more=len(rows) - len(listed),
            unread=unread_of(me) if me else 0,
        ),
    )


def _row(peer: Peer, now: Now) -> wire.Peer:
    online = peer.online
    live = peer.session if online else None
    hello = live.hello if live is not None else None
    return wire.Peer(
        name=peer.name,
        online=online,
        cwd=peer.cwd,
        git_branch=peer.git_branch,
        client=peer.client,
        last_seen=now.wall if online else peer.last_seen,
        push=hello is not None and (hello.push or hello.bell),
        carrier=_carrier(live),
        evidence_at=live.evidence_at if live is not None else 0,
    )


def _carrier(live: Session | None) -> str:
    """What last put mail in front of the session's model, or is expected to; empty: it pulls."""
    if live is None:
        return ""
    return hooks.CARRIER if live.hello.bell else live.carrier


# --- names -------------------------------------------------------------------------------------------


def _check_free(s: State, name: str, own: Peer | None) -> None:
    key = names.key(name)
    holder = s.names.get(key)
    if (holder is not None and holder is not own) or key in s.reserved:
        raise RelayError("name_taken", f"{name} is another peer's name: choose one not in relay_peers")


def rename(s: State, session: Session, frame: wire.Rename, now: Now) -> None:
    """Another name for the same peer. First wins; the old one forwards for a while."""
    peer = s.own(session)
    _check_free(s, frame.new_name, peer)
    s.reserved.add(names.key(frame.new_name))
    peer.last_seen = now.wall  # somebody uses it: it must not be forgotten meanwhile
    until = now.wall + int(s.limits.forward_old_name_days * DAY_MS)
    answer = wire.Renamed(req_id=frame.req_id, name=frame.new_name)
    ops = (
        RenamePeer(no=peer.no, name=frame.new_name, forward_until=until),
        replay.save(peer, frame, answer, now),
    )
    s.out.append(Store(ops, PeerRenamed(session.sid, peer.no, frame.new_name, until, answer)))


def renamed(s: State, note: PeerRenamed, now: Now) -> None:
    """On disk: mail, groups and rooms need no change, they know the peer by number."""
    peer = s.peers[note.peer_no]
    old, new = names.key(peer.name), names.key(note.name)
    if s.watchers:
        watch.renamed(s, peer, note.name, now)
    if old != new:
        s.forwards[old] = (peer, note.forward_until)
        s.forwards.pop(new, None)
    peer.name = note.name
    if peer.going:  # offered for removal meanwhile: it stays out of reach
        s.reserved.discard(old)
    else:
        s.reserved.discard(new)
        s.names.pop(old, None)
        s.names[new] = peer
    peer.auto = False
    directory.changed(s, peer)
    group_sync.renamed_here(s, peer)
    replay.answer(s, note.sid, note.answer)
    sids = {*peer.attached, *([peer.session.sid] if peer.session else [])}
    for sid in sorted(sids - {note.sid}):
        s.out.append(Reply(sid, wire.NameChanged(name=peer.name)))


def rename_failed(s: State, note: PeerRenamed) -> None:
    """The name stays what it was."""
    s.reserved.discard(names.key(note.name))


def add_peer(s: State, session: Session, frame: wire.AddPeer, now: Now) -> None:
    """An address for somebody who has not come yet."""
    if frame.resend and names.key(frame.name) in s.names:  # the first attempt made it
        s.reply(session.sid, wire.Renamed(req_id=frame.req_id, name=frame.name))
        return
    _check_free(s, frame.name, None)
    if len(s.peers) + s.adding >= s.limits.peers:
        raise RelayError(
            "limit_reached",
            f"this hub has its {s.limits.peers} peers: raise limits.peers, or take one that exists",
        )
    op = sessions.reserve(s, frame.name, now, auto=False)
    answer = wire.Renamed(req_id=frame.req_id, name=frame.name)
    peer = session.peer
    ops = (op,) if peer is None else (op, replay.save(peer, frame, answer, now))
    s.out.append(Store(ops, AddressAdded(session.sid, op, answer)))


def address_added(s: State, note: AddressAdded, result: Numbered) -> None:
    """It exists."""
    sessions.enter(s, note.op, result)
    replay.answer(s, note.sid, note.answer)


def add_failed(s: State, note: AddressAdded) -> None:
    """No address."""
    sessions.give_up(s, note.op)


# --- forgetting --------------------------------------------------------------------------------------


def forget_unused(s: State, now: Now) -> None:
    """Offer automatically named peers, long unseen, to the store; it keeps those with mail."""
    before = now.wall - int(s.limits.forget_auto_peer_days * DAY_MS)
    unused = [
        peer
        for peer in s.peers.values()
        if peer.auto
        and not peer.going
        and not peer.groups
        and peer.no not in s.blocked  # or it would come back unblocked
        and peer.session is None
        and not peer.attached
        and peer.last_seen < before
    ]
    # In turns: those that the store keeps must not stand before the others for ever.
    unused.sort(key=lambda peer: (peer.no <= s.offered_no, peer.no))
    del unused[DROPPED_AT_ONCE:]
    if unused:
        s.offered_no = unused[-1].no
        for peer in unused:
            hold_back(s, peer)
        nos = tuple([peer.no for peer in unused])
        s.out.append(Store((DropPeers(nos=nos),), PeersDropped(nos)))


def hold_back(s: State, peer: Peer) -> None:
    """Out of reach until the store has decided: no mail may be sent to a row about to go."""
    peer.going = True
    s.names.pop(names.key(peer.name), None)
    s.by_peer_id.pop(peer.peer_id, None)
    s.reserved.add(names.key(peer.name))


def put_back(s: State, peer: Peer) -> None:
    """It stays, as if nothing had been."""
    peer.going = False
    s.reserved.discard(names.key(peer.name))
    s.names[names.key(peer.name)] = peer
    s.by_peer_id[peer.peer_id] = peer
    directory.changed(s, peer)  # who was told of all meanwhile does not know it


def peers_dropped(s: State, note: PeersDropped, result: Dropped | None) -> None:
    """Those without mail are gone; the others (or, after a failure, all) are back."""
    gone = set(result.nos) if result else set()
    for no in note.nos:
        if no not in gone:
            put_back(s, s.peers[no])
    if gone:
        erase(s, gone)


def erase(s: State, gone: Set[int]) -> None:
    """The store has removed these, which were held back: nothing leads to them, and their names are free."""
    directory.gone(s, [s.peers[no] for no in gone])
    for no in gone:
        s.reserved.discard(names.key(s.peers.pop(no).name))
    s.blocked -= gone
    s.forwards = {key: kept for key, kept in s.forwards.items() if kept[0].no not in gone}
    s.identities = {key: peer for key, peer in s.identities.items() if peer.no not in gone}
    for place in s.places.values():
        place[:] = [peer for peer in place if peer.no not in gone]
    s.places = {key: place for key, place in s.places.items() if place}
