"""The list of peers, names, and forgetting those that never mattered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import names, wire
from ecorelay.core import replay, sessions
from ecorelay.core.actions import Reply, Store
from ecorelay.core.ops import AddPeer, Dropped, DropPeers, Numbered, RenamePeer
from ecorelay.core.state import Peer, Session, State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now

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
    found.sort(key=lambda peer: (not peer.online, -peer.last_seen, peer.name))
    listed = tuple([_row(peer, now) for peer in found[: frame.limit]])
    s.reply(
        session.sid,
        wire.PeerList(
            req_id=frame.req_id,
            me=me.name if me else "",
            hub_id=s.hub_id,
            peers=listed,
            more=len(found) - len(listed),
            unread=unread_of(me) if me else 0,
        ),
    )


def _row(peer: Peer, now: Now) -> wire.Peer:
    online = peer.online
    return wire.Peer(
        name=peer.name,
        online=online,
        cwd=peer.cwd,
        git_branch=peer.git_branch,
        client=peer.client,
        last_seen=now.wall if online else peer.last_seen,
        push=online and peer.session is not None and peer.session.hello.push,
    )


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


def renamed(s: State, note: PeerRenamed) -> None:
    """On disk: mail, groups and rooms need no change, they know the peer by number."""
    peer = s.peers[note.peer_no]
    old, new = names.key(peer.name), names.key(note.name)
    s.reserved.discard(new)
    if old != new:
        del s.names[old]
        s.forwards[old] = (peer, note.forward_until)
        s.forwards.pop(new, None)
    s.names[new] = peer
    peer.name = note.name
    peer.auto = False
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
        and not peer.groups
        and peer.session is None
        and not peer.attached
        and peer.last_seen < before
    ]
    # In turns: those that the store keeps must not stand before the others for ever.
    unused.sort(key=lambda peer: (peer.no <= s.offered_no, peer.no))
    del unused[DROPPED_AT_ONCE:]
    if unused:
        s.offered_no = unused[-1].no
        # Out of reach until the store has decided: no mail may be sent to a row about to go.
        for peer in unused:
            peer.going = True
            _unlist(s, peer)
            s.reserved.add(names.key(peer.name))
        nos = tuple([peer.no for peer in unused])
        s.out.append(Store((DropPeers(nos=nos),), PeersDropped(nos)))


def _unlist(s: State, peer: Peer) -> None:
    s.names.pop(names.key(peer.name), None)
    s.by_peer_id.pop(peer.peer_id, None)


def peers_dropped(s: State, note: PeersDropped, result: Dropped | None) -> None:
    """Those without mail are gone; the others (or, after a failure, all) are back."""
    gone = set(result.nos) if result else set()
    for no in note.nos:
        peer = s.peers[no]
        peer.going = False
        s.reserved.discard(names.key(peer.name))
        if no in gone:
            del s.peers[no]
        else:
            s.names[names.key(peer.name)] = peer
            s.by_peer_id[peer.peer_id] = peer
    if gone:
        s.forwards = {key: kept for key, kept in s.forwards.items() if kept[0].no not in gone}
        s.identities = {key: peer for key, peer in s.identities.items() if peer.no not in gone}
        for place in s.places.values():
            place[:] = [peer for peer in place if peer.no not in gone]
        s.places = {key: place for key, place in s.places.items() if place}
