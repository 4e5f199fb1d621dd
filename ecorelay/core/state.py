"""What the core remembers, and the few look-ups all modules share.

What it consists of is in `records`; functions that decide live beside this file, one noun a file.
"""

from __future__ import annotations

import difflib
import heapq
from collections import deque
from typing import TYPE_CHECKING, Any

from ecorelay import names, wire
from ecorelay.core.actions import Action, Reply
from ecorelay.core.records import (
    Asking,
    Canary,
    FarMember,
    Group,
    InFlight,
    Lease,
    Opening,
    Peer,
    RemoteHub,
    RemotePeer,
    Room,
    RoomAsk,
    Session,
)
from ecorelay.errors import Code, RelayError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ecorelay.core.events import Now
    from ecorelay.core.far_trace import Tracing
    from ecorelay.core.ops import Snapshot
    from ecorelay.limits import Limits

CLOSE_NAMES_SEARCHED = 2_000
"""Names compared for "did you mean": an unknown name must stay cheap to answer."""


class State:
    """Everything, with the actions of the event being handled in `out`."""

    def __init__(
        self,
        *,
        hub_id: str,
        version: str,
        new_id: Callable[[int], str],
        limits: Limits,
        snapshot: Snapshot,
    ) -> None:
        self.hub_id = hub_id
        self.version = version
        self.new_id = new_id
        self.limits = limits
        self.out: list[Action] = []
        self.counters: dict[str, int] = {}
        self.outstanding = 0
        """Units in the store."""
        # durable, loaded at the start
        self.peers: dict[int, Peer] = {}
        self.by_peer_id: dict[str, Peer] = {}
        self.names: dict[str, Peer] = {}
        self.forwards: dict[str, tuple[Peer, int]] = {}
        """Old name → (peer, wall ms until which it forwards)."""
        self.identities: dict[tuple[str, str], Peer] = {}
        self.places: dict[tuple[str, str], list[Peer]] = {}
        self.groups: dict[int, Group] = {}
        self.groups_by_name: dict[str, Group] = {}
        """Key of the name; of one that lives on another hub, of its address."""
        self.groups_by_id: dict[tuple[int, str], Group] = {}
        """Number of the hub where it lives (0: here) and group_id."""
        self.untold: dict[int, RemoteHub] = {}
        """Hubs, by number, whose outbox had no room for news of our groups. Owned by groups.py."""
        self.renamed: dict[int, None] = {}
        """Numbers of our groups whose members have other names, and of which nobody was told yet. Owned by
        group_sync.py."""
        self.renames_wait = False
        """Just now somebody was: not again until a timer says so."""
        self.far_nos: dict[tuple[int, str], int] = {}
        """Hub number and peer_id of members of our groups that are peers of other hubs → number."""
        self.blocked: set[int] = set()
        """Numbers of our own peers that a person stopped from sending."""
        self.blocked_far: dict[str, str] = {}
        """The same of other hubs: address in lower case → address."""
        self.blocked_ids: dict[tuple[str, str], str] = {}
        """Those of them whose peer_id was known: (hub_id in lower case, peer_id) → that address."""
        self.hubs: dict[str, RemoteHub] = {}
        """Other hubs, by hub_id in lower case."""
        # of this process
        self.restricted: Mapping[str, frozenset[str]] = {}
        """See `HubsConfigured`."""
        self.waking: frozenset[str] = frozenset()
        """See `HubsConfigured`."""
        self.links: dict[int, RemoteHub] = {}
        self.opening: dict[int, Opening] = {}
        """Links whose hub the store is asked about. Owned by links.py."""
        self.tracing: dict[int, Tracing] = {}
        """Traces that wait for other hubs. Owned by far_trace.py."""
        self.last_trace = 0
        self.asking: dict[str, Asking] = {}
        """By broadcast_id. Owned by messages.py."""
        self.changed: dict[int, Peer] = {}
        self.gone: list[str] = []
        """What linked hubs are to be told when the event is handled. Owned by directory.py."""
        self.sessions: dict[int, Session] = {}
        self.beside: dict[tuple[int, int], int] = {}
        """An assistant's process (id, start) → sid of the session beside it."""
        self.watchers: dict[int, bool] = {}
        """Observers that are told what happens → whether with the beginning of texts. Owned by watch.py."""
        self.canaries: dict[int, Canary] = {}
        """Those that are out, by number. Owned by canary.py."""
        self.last_canary = 0
        self.probing = 0
        """Probes not answered yet."""
        self.reserved: set[str] = set()
        """Keys of names whose creation is in the store; those of groups begin with a slash."""
        self.adding = 0
        """Peers whose creation is in the store: they count for the limit."""
        self.offered_no = 0
        """The last peer offered to the store for removal; the next round begins after it."""
        self.rooms: dict[str, Room] = {}
        """By key of the name; of one on another hub, of its address."""
        self.room_asks: dict[int, RoomAsk] = {}
        """What other hubs were asked about their rooms. Owned by far_rooms.py."""
        self.next_ask = 1
        self.rooms_changed: dict[str, None] = {}
        """Keys of our rooms of which other hubs are to be told who is in them. Owned by far_rooms.py."""
        self.lists_left = 0
        """So many lists may be told until a timer says that there may be more."""
        self.lists_wait = False
        """That timer is set."""
        self.said: dict[str, bytes] = {}
        """What peers of ours said on other hubs, by msg_id. Owned by said.py."""
        self.room_backlog_bytes = 0
        self.leases: dict[int, Lease] = {}
        self.next_lease = 1
        self.delivery_waits: deque[tuple[float, InFlight]] = deque()
        self.pushed_rows: dict[str, list[tuple[int, int, int]]] = {}
        self.pushed_due = 0.0
        self.guards: dict[tuple[int, int | str], tuple[float, int]] = {}
        self.jumped_at = -1e9
        self._timers: list[tuple[float, int, Any]] = []
        self._timer_no = 0
        self._load(snapshot)

    def _load(self, snapshot: Snapshot) -> None:
        for row in snapshot.peers:
            if row.hub:  # of mail that went to or came from another hub
                continue
            peer = Peer(no=row.no, peer_id=row.peer_id, name=row.name, auto=row.auto, last_seen=row.last_seen)
            peer.client, peer.cwd, peer.git_branch = row.client, row.cwd, row.git_branch
            self.add_peer(peer)
        for old, no, until in snapshot.forwards:
            if no in self.peers:
                self.forwards[names.key(old)] = (self.peers[no], until)
        for client, identity, no in snapshot.identities:
            if no in self.peers:
                self.identities[client, identity] = self.peers[no]
        for client, cwd, no in snapshot.places:
            if no in self.peers:
                self.places.setdefault((client, cwd), []).append(self.peers[no])
        for far in snapshot.hubs:
            hub = self.hubs[names.key(far.hub_id)] = RemoteHub(far.no, far.hub_id)
            hub.complete, hub.waiting, hub.bytes = far.complete, far.waiting, far.bytes
            hub.lost_at = far.seen_at
            for each in far.peers:
                hub.peers[each.peer_id] = RemotePeer(each.peer_id, each.name)
                hub.names[names.key(each.name)] = hub.peers[each.peer_id]
        elsewhere = {row.no: row for row in snapshot.peers if row.hub in self.hubs}
        for made in snapshot.groups:
            if made.hub and made.hub not in self.hubs:  # a hub must start whatever is on its disk
                continue
            group = Group(
                no=made.no,
                group_id=made.group_id,
                name=made.name,
                admin_no=made.admin_no,
                hub=self.hubs[made.hub] if made.hub else None,
            )
            group.roster = made.roster
            group.leaving.update(made.leaving)
            for no in made.members:
                if no in self.peers:
                    group.members[no] = None
                    self.peers[no].groups.add(made.no)
                elif no in elsewhere:
                    row = elsewhere[no]
                    self.add_far(group, FarMember(no, self.hubs[row.hub], row.peer_id, row.name))
            self.add_group(group)
        far_rows = {row.no: row for row in snapshot.peers if row.hub}
        for address, no in snapshot.blocks:
            if no in self.peers:
                self.blocked.add(no)
            elif not no or no in far_rows:
                self.blocked_far[address.lower()] = address
                if no:
                    self.blocked_ids[far_rows[no].hub, far_rows[no].peer_id] = address

    def add_group(self, group: Group) -> None:
        """Enter a group that the store knows."""
        self.groups[group.no] = group
        self.groups_by_name[names.key(group.shown)] = group
        self.groups_by_id[group.hub.no if group.hub is not None else 0, group.group_id] = group

    def add_far(self, group: Group, member: FarMember) -> None:
        """Enter a member of a group of ours that is a peer of another hub."""
        group.far[member.no] = member
        self.far_nos[member.hub.no, member.peer_id] = member.no

    def add_peer(self, peer: Peer) -> None:
        """Enter a peer that the store knows."""
        self.peers[peer.no] = peer
        self.by_peer_id[peer.peer_id] = peer
        self.names[names.key(peer.name)] = peer
        self.forwards.pop(names.key(peer.name), None)

    # --- answers -------------------------------------------------------------------------------------

    def count(self, what: str, by: int = 1) -> None:
        """Add to a counter of `hub status`."""
        self.counters[what] = self.counters.get(what, 0) + by

    def reply(self, sid: int, frame: wire.Frame) -> None:
        """An answer to a session, unless it is gone."""
        if sid in self.sessions:
            self.out.append(Reply(sid, frame))

    def fail(self, sid: int, req_id: int, code: Code, message: str) -> None:
        """Answer that the request was not done."""
        session = self.sessions.get(sid)
        if session is not None:
            unread = unread_of(session.peer) if session.peer else 0
            self.out.append(Reply(sid, wire.Failed(req_id=req_id, code=code, message=message, unread=unread)))

    # --- look-ups -------------------------------------------------------------------------------------

    def own(self, session: Session) -> Peer:
        """The peer a session acts for.

        Raises:
            RelayError: ``not_registered`` for an observer, or before welcome.
        """
        peer = session.peer
        if peer is None or not session.ready or peer.going:
            raise RelayError(
                "not_registered",
                "this connection acts for no peer: say hello with a name (ecorelay … --as NAME) first",
            )
        return peer

    def speaker(self, session: Session) -> Peer:
        """The peer a session acts for, to have words of it put before others.

        Raises:
            RelayError: ``not_registered`` as from `own`; ``blocked``, a person stopped it.
        """
        peer = self.own(session)
        if peer.no in self.blocked:
            self.count("blocked_refused")
            raise RelayError(
                "blocked",
                f"a person blocked {peer.name}: nothing it sends goes out. Reading still works (relay_inbox, "
                "relay_peers, relay_group_history); trying again does not help: only a person ends it, "
                f"with `ecorelay block {peer.name} --off`",
            )
        return peer

    def blocks(self, hub_id: str, name: str, peer_id: str) -> bool:
        """Whether a person stopped who is said, by whomever, to be this peer of another hub.

        Whatever it is called by now, and whether or not that hub is known any more.
        """
        if not (self.blocked_far or self.blocked_ids):
            return False
        return (
            names.key(f"{name}@{hub_id}") in self.blocked_far
            or (names.key(hub_id), peer_id) in self.blocked_ids
        )

    def find(self, name: str, now: Now) -> Peer | None:
        """The peer of a name on this hub, through the forwarding of old names."""
        found = self.names.get(names.key(name))
        if found is None:
            forward = self.forwards.get(names.key(name))
            if forward is not None and forward[1] > now.wall and not forward[0].going:
                return forward[0]
        return found

    def resolve(self, address: str, now: Now) -> Peer:
        """The peer an address means.

        Raises:
            RelayError: ``peer_not_found`` with close names, ``hub_not_found`` with the known hubs.
        """
        peer = self.names.get(address.lower())  # the common case in one look-up: "@" is in no name
        if peer is not None:
            return peer
        name, _, hub = address.partition("@")
        self.check_hub(hub, address)
        peer = self.find(name, now)
        if peer is None:
            raise RelayError("peer_not_found", f"no peer is called {name!r}{self._did_you_mean(name)}")
        return peer

    def check_hub(self, hub: str, address: str) -> None:
        """Refuse an address on a hub that this one has no link to: ``hub_not_found``."""
        if hub and names.key(hub) != names.key(self.hub_id):
            raise RelayError(
                "hub_not_found",
                f"{address}: this hub ({self.hub_id}) has no link to a hub called {hub!r}; "
                f"known hubs: {', '.join(hub.hub_id for hub in self.hubs.values()) or 'none'}. "
                "Pick an address from relay_peers",
            )

    def _did_you_mean(self, name: str) -> str:
        known = [peer.name for peer in list(self.names.values())[-CLOSE_NAMES_SEARCHED:]]
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        if close:
            return f"; did you mean {', '.join(close)}? relay_peers lists all"
        return "; relay_peers lists who can be reached, `ecorelay peers add NAME` makes an address"

    def check_text(self, text: str, field: str = "text") -> int:
        """Bytes of UTF-8 in a text.

        Raises:
            RelayError: ``too_large`` over the limit; ``bad_args`` where it is empty.
        """
        limit = self.limits.text_bytes
        size = len(text)
        if size * 4 > limit:
            size = len(text.encode())
            if size > limit:
                raise RelayError(
                    "too_large",
                    f"{field} is {size} bytes of UTF-8, the limit is {limit}: "
                    "send it in parts, or write it to a file and send the path",
                )
        if not text:
            raise RelayError("bad_args", f"{field} is empty: say something")
        return size

    # --- timers ---------------------------------------------------------------------------------------

    def at(self, when: float, what: Any) -> None:
        """Have `what` handled at mono time `when`. No cancelling: notes check whether they still apply."""
        self._timer_no += 1
        heapq.heappush(self._timers, (when, self._timer_no, what))

    def due(self, mono: float) -> Any:
        """Take the next note whose time has come, or None."""
        if self._timers and self._timers[0][0] <= mono:
            return heapq.heappop(self._timers)[2]
        return None

    def next_timer(self) -> float | None:
        """When the earliest note is due."""
        return self._timers[0][0] if self._timers else None


def unread_of(peer: Peer) -> int:
    """What `unread` says on every result: mail neither pushed nor leased, notices, rooms, groups."""
    session = peer.session
    mail = peer.unread + peer.notices - len(peer.pushed)
    if session is not None:
        mail -= session.inflight_mail
    if peer.leased:
        inflight = session.inflight if session is not None else {}
        mail -= sum(1 for each in peer.leased if each not in peer.pushed and each not in inflight)
    total = (mail if mail > 0 else 0) + len(peer.room_mail)
    if peer.group_unread:
        total += sum(peer.group_unread.values())
    return total
