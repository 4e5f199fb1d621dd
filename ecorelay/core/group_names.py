"""Which group an address means, and what its members are called here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecorelay import names, wire
from ecorelay.core import directory
from ecorelay.core.ops import FarMember
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now
    from ecorelay.core.records import Group, Peer, RemoteHub
    from ecorelay.core.state import State
    from ecorelay.link_wire import GroupMember, RoomMember


def find(s: State, peer: Peer, address: str) -> Group:
    """The group of an address: here, or at the hub it names.

    A bare name that no group here has is that of the one group elsewhere of which `peer` is a member.

    Raises:
        RelayError: ``group_not_found``; ``hub_not_found`` with the known hubs.
    """
    name, at, hub_id = address.partition("@")
    key = names.key(name)
    if at and names.key(hub_id) != names.key(s.hub_id):
        group = s.groups_by_name.get(names.key(address))
        if group is not None:
            return group
        if names.key(hub_id) not in s.hubs:
            s.check_hub(hub_id, address)
        raise RelayError(
            "group_not_found",
            f"nobody here is in a group {address}: relay_group_list has yours, its admin can invite you",
        )
    group = s.groups_by_name.get(key)
    if group is not None:
        return group
    mine = [] if at else [s.groups[no] for no in sorted(peer.groups)]
    found = [group for group in mine if names.key(group.name) == key]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(group.shown for group in found)
        raise RelayError("group_not_found", f"{name} is several groups: say which, {several}")
    raise RelayError("group_not_found", f"no group is called {name!r}: relay_group_list has yours")


def member(s: State, peer: Peer, address: str) -> Group:
    """The group of an address, of which the peer is a member.

    Raises:
        RelayError: as from `find`; ``not_member``.
    """
    group = find(s, peer, address)
    if peer.no not in group.members:
        raise RelayError("not_member", f"you are not in {group.shown}: ask {admin(s, group)} to invite you")
    return group


def administered(s: State, peer: Peer, address: str) -> Group:
    """The group of an address, of which the peer is the admin. The admin of a group is a peer of its hub.

    Raises:
        RelayError: as from `member`; ``not_admin``.
    """
    group = member(s, peer, address)
    if group.hub is not None or group.admin_no != peer.no:
        raise RelayError("not_admin", f"only {admin(s, group)} may do that in {group.shown}")
    return group


def admin(s: State, group: Group) -> str:
    """What the admin is called here."""
    if group.hub is not None:
        return called(s, group.hub, group.roster[0])[0] if group.roster else "its admin"
    found = s.peers.get(group.admin_no)
    return found.name if found is not None else "its admin"


def members(s: State, group: Group) -> tuple[wire.Member, ...]:
    """All members and who of them is online, as far as it is known here."""
    if group.hub is not None:
        told = [called(s, group.hub, each) for each in group.roster]
        return tuple([wire.Member(name=name, online=online) for name, online in told])
    ours = [wire.Member(name=s.peers[no].name, online=s.peers[no].online) for no in group.members]
    far = [
        wire.Member(name=each.address, online=directory.is_online(each.hub, each.peer_id))
        for each in group.far.values()
    ]
    return (*ours, *far)


def called(s: State, home: RemoteHub, each: GroupMember | RoomMember) -> tuple[str, bool]:
    """Of a member that another hub told us of: its name here, and whether it is online.

    Its own hub's word of its name counts more, where there is one.
    """
    hub_id = each.hub or home.hub_id
    key = names.key(hub_id)
    if key == names.key(s.hub_id):
        peer = s.by_peer_id.get(each.peer_id)
        return (each.name, False) if peer is None else (peer.name, peer.online)
    hub = s.hubs.get(key)
    known = hub.peers.get(each.peer_id) if hub is not None else None
    if hub is None or known is None:
        return f"{each.name}@{hub_id}", False
    return f"{known.name}@{hub_id}", directory.is_online(hub, each.peer_id)


def is_ours(s: State, each: GroupMember | RoomMember) -> bool:
    """Whether a member that another hub told us of is said to be a peer of this one."""
    return each.hub is not None and names.key(each.hub) == names.key(s.hub_id)


def invited(s: State, address: str, now: Now) -> Peer | FarMember:
    """Who is to be a member.

    Raises:
        RelayError: as from `State.resolve`; ``hub_unreachable``: that hub never told us who it is.
    """
    far = directory.hub_of(s, address) if "@" in address else None
    if far is None:
        return s.resolve(address, now)
    hub, name = far
    known = directory.find(hub, name)
    if known is None:
        raise RelayError(
            "hub_unreachable",
            f"{hub.hub_id} has not told yet who is there: invite {address} once its link is up",
        )
    return FarMember(hub_no=hub.no, peer_id=known.peer_id, name=known.name)


def hubs_in(group: Group) -> dict[int, RemoteHub]:
    """Other hubs with members in a group of ours, by number."""
    return {far.hub.no: far.hub for far in group.far.values()}


def hubs_numbered(s: State, no: int) -> list[RemoteHub]:
    """The other hub with this number; none, if it was forgotten meanwhile."""
    return [hub for hub in s.hubs.values() if hub.no == no]
