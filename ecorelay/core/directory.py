"""Who is there on other hubs, and telling them who is here.

What a hub tells of its peers is kept, so that an address stays one while its hub is away. Its names and ids
are stored; who is online, where and since when is known only as long as the link is up.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from ecorelay import link_wire, names, wire
from ecorelay.core.actions import Store, ToLink
from ecorelay.core.link_ops import FarPeer, SaveDirectory
from ecorelay.core.records import RemotePeer
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ecorelay.core.events import Now
    from ecorelay.core.records import Peer, RemoteHub
    from ecorelay.core.state import State

CLOSE_NAMES_SEARCHED = 1_000
SAVE_AGAIN_S = 5.0
FORMER_KEPT = 1_000
"""Names that peers of one hub have given up since we run: mail to them goes to who had them."""
PART_BYTES = 64 * 1024
"""Bytes of peers in one frame."""
DETAIL_CHARS = 500
"""Characters of a directory or branch that other hubs are told; of a longer one its end."""
DETAILS_BYTES = 4 * 1024 * 1024
"""Bytes of peers, told of as a link begins, after which the rest is told by name only: all of it waits in
memory for the link, which is given up where too much does."""
T = TypeVar("T")


class DirectorySaved(Struct, frozen=True):
    """Note: what a hub told is on disk."""

    hub: str


class DirectoryDue(Struct, frozen=True):
    """Timer note: the disk refused it."""

    hub: str


# --- addresses -------------------------------------------------------------------------------------------


def hub_of(s: State, address: str) -> tuple[RemoteHub, str] | None:
    """The other hub that an address names, and the name on it; None: it is an address of this hub.

    Raises:
        RelayError: ``hub_not_found`` with the known hubs.
    """
    name, at, hub_id = address.partition("@")
    key = names.key(hub_id)
    if not at or key == names.key(s.hub_id):
        return None
    hub = s.hubs.get(key)
    if hub is None:
        s.check_hub(hub_id, address)
        raise AssertionError("that hub is not known")  # pragma: no cover
    return hub, name


def find(hub: RemoteHub, name: str) -> FarPeer | None:
    """The peer of this name on another hub; None: that hub, which is away, never told us of it.

    Raises:
        RelayError: ``peer_not_found`` with close names, where all are known.
    """
    key = names.key(name)
    found = hub.names.get(key) or hub.former.get(key)
    if found is not None and hub.peers.get(found.peer_id) is found:  # one that is gone may have had that name
        return FarPeer(name=found.name, peer_id=found.peer_id)
    if not hub.complete:
        return None
    known = [peer.name for peer in list(hub.peers.values())[:CLOSE_NAMES_SEARCHED]]
    close = [f"{each}@{hub.hub_id}" for each in difflib.get_close_matches(name, known, n=3, cutoff=0.5)]
    meant = f"; did you mean {', '.join(close)}? relay_peers lists all" if close else ""
    raise RelayError(
        "peer_not_found", f"no peer of {hub.hub_id} is called {name!r}{meant or '; relay_peers lists all'}"
    )


def pushes(hub: RemoteHub, peer_id: str) -> bool:
    """Whether mail is put in front of the peer's model by itself, as far as its hub told."""
    peer = hub.peers.get(peer_id)
    return hub.introduced and peer is not None and peer.online and peer.push


def is_online(hub: RemoteHub, peer_id: str) -> bool:
    """Whether a session of the peer is live, as far as its hub told; nobody is while the link is down."""
    peer = hub.peers.get(peer_id)
    return hub.introduced and peer is not None and peer.online


def rows(s: State, match: str, now: Now, shown_for_ms: int) -> Iterator[wire.Peer]:
    """Peers of other hubs, for a list of peers; see `peers.peers`."""
    for hub in s.hubs.values():
        for peer in hub.peers.values():
            online = hub.introduced and peer.online
            seen = now.wall if online else peer.last_seen
            if (peer.online and not online) or not seen:  # or from before this run: it was there with its hub
                seen = max(seen, hub.lost_at)
            address = f"{peer.name}@{hub.hub_id}"
            if match:
                if not any(match in text.lower() for text in (address, peer.cwd, peer.git_branch)):
                    continue
            elif not online and now.wall - seen > shown_for_ms:
                continue
            yield wire.Peer(
                name=address,
                online=online,
                cwd=peer.cwd,
                git_branch=peer.git_branch,
                client=peer.client,
                last_seen=seen,
                push=online and peer.push,
                unreachable_since=0 if hub.introduced else hub.lost_at,
            )


# --- what another hub tells ----------------------------------------------------------------------------


def told(s: State, hub: RemoteHub, frame: link_wire.Presence, now: Now) -> None:
    """Peers of another hub came, changed or went."""
    if frame.reset:
        hub.stale = set(hub.peers)
    for peer_id in frame.gone:
        _remove(hub, peer_id)
    changed: list[FarPeer] = []
    gone = list(frame.gone)
    for each in frame.peers:
        hub.stale.discard(each.peer_id)
        known = hub.peers.get(each.peer_id)
        if known is None:
            if len(hub.peers) >= link_wire.PEERS_MAX and hub.stale:
                # Of a hub whose database was lost: those before take no place of those there are now.
                gone.append(hub.stale.pop())
                _remove(hub, gone[-1])
            if len(hub.peers) >= link_wire.PEERS_MAX:
                s.count("link peers beyond the limit")
                continue
            known = hub.peers[each.peer_id] = RemotePeer(each.peer_id)
        if known.name != each.name:
            changed.append(FarPeer(name=each.name, peer_id=each.peer_id))
            _carry_block(s, hub, each)
        _name(hub, known, each.name)
        known.online, known.push, known.client = each.online, each.push, _told(each.client)
        known.cwd, known.git_branch = _told(each.cwd), _told(each.git_branch)
        known.last_seen = now.wall - min(each.away_ms, now.wall)
    if frame.complete:
        gone += hub.stale
        for peer_id in hub.stale:
            _remove(hub, peer_id)
        hub.stale = set()
        hub.complete = True
    if changed or gone or frame.complete:
        op = SaveDirectory(
            hub_no=hub.no, peers=tuple(changed), gone=tuple(gone), complete=frame.complete, at=now.wall
        )
        s.out.append(Store((op,), DirectorySaved(names.key(hub.hub_id))))


def save_failed(s: State, note: DirectorySaved, now: Now) -> None:
    """The disk refused: until it is told of all again, it has gaps."""
    s.count("directory_save_failed")
    s.at(now.mono + SAVE_AGAIN_S, DirectoryDue(note.hub))


def due(s: State, note: DirectoryDue, now: Now) -> None:
    """Try again, with all there is."""
    hub = s.hubs.get(note.hub)
    if hub is not None:
        peers = tuple([FarPeer(name=peer.name, peer_id=peer.peer_id) for peer in hub.peers.values()])
        op = SaveDirectory(hub_no=hub.no, peers=peers, reset=True, complete=hub.complete, at=now.wall)
        s.out.append(Store((op,), DirectorySaved(note.hub)))


def _name(hub: RemoteHub, peer: RemotePeer, name: str) -> None:
    """Names move between peers: the latest word counts. One that was given up leads to who had it."""
    before = names.key(peer.name)
    if before != names.key(name) and hub.names.get(before) is peer:
        del hub.names[before]
        hub.former[before] = peer
        if len(hub.former) > FORMER_KEPT:
            del hub.former[next(iter(hub.former))]
    peer.name = name
    hub.names[names.key(name)] = peer


def _carry_block(s: State, hub: RemoteHub, peer: link_wire.PeerState) -> None:
    """Whom a person blocked stays blocked under its new name; the store does the same."""
    of = names.key(hub.hub_id), peer.peer_id
    before = s.blocked_ids.get(of)
    if before is not None:
        s.blocked_far.pop(before.lower(), None)
        address = f"{peer.name}@{hub.hub_id}"
        s.blocked_far[address.lower()] = s.blocked_ids[of] = address


def _remove(hub: RemoteHub, peer_id: str) -> None:
    peer = hub.peers.pop(peer_id, None)
    if peer is not None and hub.names.get(names.key(peer.name)) is peer:
        del hub.names[names.key(peer.name)]


# --- what we tell ----------------------------------------------------------------------------------------


def introduce(s: State, hub: RemoteHub, now: Now) -> None:
    """All our peers, in parts."""
    peers = sorted([peer for peer in s.peers.values() if not peer.going], key=lambda peer: not peer.online)
    rows, size = [], 0
    for peer in peers:
        row = _state(peer, now)
        size += _size(row)
        if size > DETAILS_BYTES:
            row = msgspec.structs.replace(row, client="", cwd="", git_branch="")
        rows.append(row)
    parts = list(_parts(rows, _size)) or [()]
    for number, part in enumerate(parts):
        frame = link_wire.Presence(peers=part, reset=number == 0, complete=number == len(parts) - 1)
        s.out.append(ToLink(hub.link, frame))


def changed(s: State, peer: Peer) -> None:
    """Something of the peer that others see is new."""
    s.changed[peer.no] = peer


def gone(s: State, peers: Iterable[Peer]) -> None:
    """These are no more."""
    for peer in peers:
        s.changed.pop(peer.no, None)
        s.gone.append(peer.peer_id)


def flush(s: State, now: Now) -> None:
    """Tell every linked hub, once per event."""
    hubs = [hub for hub in s.links.values() if hub.introduced]
    if hubs:
        rows = [_state(peer, now) for peer in s.changed.values() if not peer.going]
        frames = [link_wire.Presence(peers=part) for part in _parts(rows, _size)]
        lost = s.gone + [peer.peer_id for peer in s.changed.values() if peer.going]
        frames += [link_wire.Presence(gone=part) for part in _parts(lost, len)]
        s.out += [ToLink(hub.link, frame) for hub in hubs for frame in frames]
    s.changed, s.gone = {}, []


def _parts(rows: Sequence[T], size_of: Callable[[T], int]) -> Iterator[tuple[T, ...]]:
    """In order, in parts of which each makes one frame."""
    part: list[T] = []
    size = 0
    for row in rows:
        more = size_of(row)
        if part and (len(part) == link_wire.PRESENCE_PART or size + more > PART_BYTES):
            yield tuple(part)
            part, size = [], 0
        part.append(row)
        size += more
    if part:
        yield tuple(part)


def _size(state: link_wire.PeerState) -> int:
    return len(link_wire.encode_body(state))


def _told(text: str) -> str:
    """What hubs are told, and take, of a directory or branch: it is shown, and there are many."""
    return link_wire.plain(text[-DETAIL_CHARS:])


def _state(peer: Peer, now: Now) -> link_wire.PeerState:
    hello = peer.session.hello if peer.session is not None and peer.online else None
    return link_wire.PeerState(
        peer_id=peer.peer_id,
        name=peer.name,
        online=peer.online,
        push=hello is not None and (hello.push or hello.bell),
        client=_told(peer.client),
        cwd=_told(peer.cwd),
        git_branch=_told(peer.git_branch),
        away_ms=0 if peer.online else max(0, now.wall - peer.last_seen),
    )
