"""What must hold: at every moment, and once everything has come to rest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ecorelay import names, wire
from ecorelay.core.group_history import HistoryConfirmed
from ecorelay.daemon import links, store_groups
from ecorelay.daemon.schema import DEAD, EVICTED, SYSTEM, UNREAD
from tests.sim import bounds
from tests.sim.ledger import Asked, holds

if TYPE_CHECKING:
    from tests.sim.disk import Events
    from tests.sim.machine import Machine
    from tests.sim.world import World

FRAME_BYTES = 8 * 1024


# --- at every moment -----------------------------------------------------------------------------------


def look(world: World, machine: Machine) -> None:
    """Bounds, and receipts that only go forward."""
    running: Any = machine.running
    state = machine.core
    where = machine.hub_id
    for out in running.shell.sessions.values():
        holds(out.size <= bounds.OUT_MAX, f"{where}: {out.size} bytes wait for a session")
    for roads in running.links.roads.values():
        holds(len(roads) <= links.STANDBY_MAX + 3, f"{where} keeps {len(roads)} streams to one hub")
        for road in roads:
            holds(road.out.size <= bounds.OUT_MAX, f"{where}: {road.out.size} bytes wait for a hub")
    for session in state.sessions.values():
        most = machine.limits.push_window_messages
        holds(len(session.inflight) <= most, f"{where}: {len(session.inflight)} pushes without an answer")
    for hub in state.hubs.values():
        about = f"{where} about {hub.hub_id}"
        holds(len(hub.inflight) <= bounds.WINDOW_FRAMES, f"{about}: more on its way than the window holds")
        holds(hub.inflight_bytes <= bounds.WINDOW_BYTES + FRAME_BYTES, f"{about}: the window overflows")
        holds(
            hub.inflight_bytes == sum(size for _, size in hub.inflight), f"{about}: the window is miscounted"
        )
        holds(hub.settled <= hub.sent <= hub.last or not hub.up, f"{about}: settled before it was sent")
        holds(hub.received <= hub.receiving, f"{about}: received before it came")
        holds(not hub.link or state.links.get(hub.link) is hub, f"{about}: a link that nobody has")
    up = sum(1 for hub in state.hubs.values() if hub.link)
    holds(len(state.links) == up, f"{where}: links of hubs that have none")
    _look_at_receipts(world, machine)


def _look_at_receipts(world: World, machine: Machine) -> None:
    running: Any = machine.running
    hub = machine.hub_id
    rows = running.store.db.execute(
        "SELECT mid, box, seen_at > 0, replied_at > 0, 0, 0 FROM ring"
        " UNION ALL SELECT mid, box, seen_at > 0, replied_at > 0, forwarded_at > 0, outcome FROM receipts"
    )
    for mid, box, *now in rows.fetchall():
        world.ledger.marked(hub, mid, box, tuple(now))


# --- whether it is at rest -----------------------------------------------------------------------------


def busy(world: World) -> str:
    """What is still to be done; empty: nothing."""
    for adapter in world.adapters:
        if adapter.live and adapter.open_requests:
            return f"{adapter.host} waits for {adapter.open_requests} answers"
        if not adapter.live and not adapter.gone.is_set():
            return f"{adapter.host} is not welcomed"
        if adapter.live and adapter.client is not None and not adapter.client.connected:
            return f"{adapter.host} is not connected"
    for machine in world.machines.values():
        if machine.running is None:
            return f"{machine.hub_id} does not run"
        running, state = machine.running, machine.core
        there = sum(1 for adapter in world.adapters if adapter.live and adapter.machine is machine)
        if running.sessions.open != there:
            return f"{machine.hub_id} has {running.sessions.open} connections, and {there} adapters"
        if running.store.backlog_bytes:
            return f"{machine.hub_id} has units in its store"
        for other in machine.others:
            hub = state.hubs.get(other)
            where = f"{machine.hub_id} about {other}"
            if hub is None or not (hub.link and hub.up and hub.introduced):
                return f"{where}: no link"
            if hub.waiting or hub.inflight or hub.loading or not hub.caught_up:
                return f"{where}: {hub.waiting} messages wait"
            if hub.asking or hub.wanted or hub.answering or hub.stale or not hub.complete:
                return f"{where}: something is asked and not answered"
            if hub.rooms_lost:
                return f"{where}: nothing is known of its rooms"
            streams = running.links.roads.get(names.key(other), [])
            if len(streams) != 1:
                return f"{where}: {len(streams)} streams"
        for session in state.sessions.values():
            if session.inflight:
                return f"{machine.hub_id} waits for a carrier"
    return ""


# --- at rest -------------------------------------------------------------------------------------------


def final(world: World) -> None:
    """Everything acknowledged is somewhere, and all agree."""
    for machine in world.machines.values():
        _accounts(machine)
        for other in machine.others:
            _knows(machine, world.machines[other])
        _mail(world, machine)
        _evicted(machine)
        _order(world, machine)
        _groups(world, machine)
        _rooms(world, machine)
    _lines(world)


def rows(machine: Machine, sql: str, *values: Any) -> list[Any]:
    return _db(machine).execute(sql, values).fetchall()


def _db(machine: Machine) -> Any:
    running: Any = machine.running
    return running.store.db


def _accounts(machine: Machine) -> None:
    """What is counted is what is there."""
    running: Any = machine.running
    where = machine.hub_id
    holds(not running.tally.counts.get("crash"), f"{where} crashed")
    running.store._committer.ledger.write_counters()
    kept = {
        box: (entries, unread)
        for box, entries, unread in rows(
            machine, "SELECT box, entries, unread FROM mailboxes WHERE entries > 0"
        )
    }
    there = {
        box: (entries, unread)
        for box, entries, unread in rows(machine, "SELECT box, count(*), total(state) FROM ring GROUP BY box")
    }
    holds(kept == there, f"{where}: mailboxes are miscounted: {kept}, and there are {there}")
    bound = machine.limits.mailbox_messages
    full = [box for box, (entries, _) in there.items() if entries > bound]
    holds(not full, f"{where}: mailboxes {full} hold more than {bound}")
    for peer in machine.core.peers.values():
        if peer.loaded:
            unread = there.get(peer.no, (0, 0))[1]
            holds(peer.unread == unread, f"{where}: {peer.name} has {unread} unread, believed {peer.unread}")
            _marks(machine, peer)
    for hub in machine.core.hubs.values():
        [(count, size)] = rows(
            machine, "SELECT count(*), coalesce(sum(size), 0) FROM outbox WHERE hub_no = ?", hub.no
        )
        [(bytes_, last)] = rows(machine, "SELECT outbox_bytes, last_seq FROM hubs WHERE no = ?", hub.no)
        holds(
            (hub.waiting, hub.bytes, bytes_) == (count, size, size),
            f"{where} about {hub.hub_id}: the outbox is miscounted",
        )
        holds(hub.last == last, f"{where} about {hub.hub_id}: last {hub.last}, stored {last}")


def _marks(machine: Machine, peer: Any) -> None:
    """What keeps mail off the unread count is unread mail."""
    about = f"{machine.hub_id}: of {peer.name}"
    unread = dict(
        rows(
            machine,
            "SELECT r.mid, m.msg_id FROM ring AS r JOIN messages AS m USING (mid)"
            " WHERE r.box = ? AND r.state = ?",
            peer.no,
            UNREAD,
        )
    )
    for kind, marked in (("pushed", peer.pushed), ("cut", peer.cut)):
        holds(marked.items() <= {(msg_id, mid) for mid, msg_id in unread.items()}, f"{about} {kind} {marked}")
    out = {each for each in peer.leased if names.is_id(each)}
    holds(out <= set(unread.values()), f"{about} on pages that are out: {out}")
    room = sum(len(mail.text or "") for mail in peer.room_mail)
    holds(room <= peer.room_bytes <= machine.limits.room_backlog_bytes, f"{about} {peer.room_bytes} of rooms")
    there = dict(store_groups.unread_by_group(_db(machine), peer.no))
    for no in peer.groups:
        [(held,)] = rows(machine, "SELECT last - first + 1 FROM groups WHERE no = ?", no)
        hidden = peer.history[no].hidden if no in peer.history else 0
        believed = peer.group_unread.get(no, 0) + hidden
        if held < machine.limits.mailbox_messages:  # else lines went that were counted
            unread_lines = there.get(no, 0)
            holds(believed == unread_lines, f"{about} {believed} lines unread, there are {unread_lines}")


def cursors(world: World, machine: Machine, events: Events) -> None:
    """A member's place in a group's history passes over nothing that it was not shown."""
    moved = [event.then.op for event in events if isinstance(event.then, HistoryConfirmed)]
    for op in moved if machine.running is not None else ():
        joined = world.ledger.joined.get((machine.hub_id, op.group_no, op.no))
        if joined is None:  # a group of another hub
            continue
        passed = rows(
            machine,
            "SELECT p.peer_id, m.msg_id FROM group_members AS g JOIN peers AS p USING (no)"
            " JOIN group_log AS l ON l.group_no = g.group_no AND l.seq > ? AND l.seq <= g.cursor"
            " JOIN messages AS m USING (mid) WHERE g.group_no = ? AND g.no = ? AND l.sender_no <> g.no",
            joined,
            op.group_no,
            op.no,
        )
        skipped = [each for each in passed if (machine.hub_id, *each) not in world.ledger.read_lines]
        holds(not skipped, f"{machine.hub_id}: lines that nobody was shown were passed over: {skipped}")


def _pushes(peer: Any) -> bool:
    return bool(peer.online and peer.session.hello.push)


def _knows(machine: Machine, other: Machine) -> None:
    """Presence: what one hub believes of another's peers is so."""
    hub = machine.core.hubs[other.hub_id]
    where = f"{machine.hub_id} about {other.hub_id}"
    truth = {p.peer_id: (p.name, p.online, _pushes(p), p.cwd) for p in other.core.peers.values()}
    told = {p.peer_id: (p.name, p.online, p.push, p.cwd) for p in hub.peers.values()}
    holds(told == truth, f"{where}: presence {told}, and it is {truth}")
    leads = {key: p.peer_id for key, p in hub.names.items()}
    holds(
        leads == {names.key(p.name): p.peer_id for p in hub.peers.values()},
        f"{where}: names lead elsewhere",
    )


def _mail(world: World, machine: Machine) -> None:
    """Everything acknowledged here ended somewhere, or waits."""
    far = dict(rows(machine, "SELECT no, hub FROM peers WHERE hub <> ''"))
    ended: Counter[tuple[int, int, str]] = Counter()
    for msg_id, asked in world.ledger.letters.items():
        if asked.hub != machine.hub_id or not isinstance(asked.frame, wire.Send | wire.Reply):
            continue
        ledger = world.ledger
        stored = (asked.hub, msg_id) in ledger.arrived or msg_id in ledger.put_out
        holds(not (asked.refused and stored), f"stored, and refused as {asked.code}: {msg_id[-6:]}")
        found = rows(
            machine, "SELECT mid, box, sender_no FROM messages WHERE msg_id = ? AND origin = 0", msg_id
        )
        lost = world.ledger.may_be_lost(asked, machine.hub_id)
        if not found:
            holds(lost or not asked.acked, f"lost at its sender's hub: {msg_id[-6:]}")
            continue
        [(mid, box, sender_no)] = found
        ring = rows(machine, "SELECT 1 FROM ring WHERE mid = ? AND box = ?", mid, box)
        receipts = rows(
            machine,
            "SELECT forwarded_at, outcome, reason FROM receipts WHERE mid = ? AND box = ?",
            mid,
            box,
        )
        if box not in far:
            holds(len(ring) + len(receipts) == 1, f"lost: {msg_id[-6:]}")
            continue
        holds(receipts, f"neither waiting nor ended: {msg_id[-6:]}")
        [(forwarded, outcome, reason)] = receipts
        other = world.machines[far[box]]
        lost = lost or world.ledger.may_be_lost(asked, other.hub_id)
        if outcome == DEAD:
            ended[sender_no, box, reason] += 1
            given_up = reason == "hub_forgotten" and (machine.hub_id, other.hub_id) in world.ledger.forgotten
            if reason == "expired" or given_up:  # whether it arrived was not known when it was given up
                continue
            came = (other.hub_id, msg_id) in world.ledger.arrived
            holds(lost or not came, f"arrived, and told as {reason}: {msg_id[-6:]}")
            # A peer that the copy of its hub does not have is gone.
            gone = reason == "peer_gone" and other.hub_id in world.ledger.since
            holds(gone or reason == "peer_not_found", f"{msg_id[-6:]} ended as {reason}")
            continue
        holds(forwarded, f"at rest, and not forwarded: {msg_id[-6:]}")
        if lost:
            continue
        _arrived(machine, other, msg_id)
    for (sender_no, box, reason), count in ended.items():
        told = rows(
            machine,
            "SELECT total FROM notices WHERE sender_no = ? AND about_no = ? AND reason = ?",
            sender_no,
            box,
            reason,
        )
        holds(told == [(count,)], f"{count} ended as {reason}, told of {told}")


def _evicted(machine: Machine) -> None:
    """Of all that had to go unread its sender is told, if it is one of ours; read afterwards or not."""
    lost = rows(
        machine,
        "SELECT m.sender_no, r.box, count(*) FROM receipts AS r JOIN messages AS m USING (mid)"
        " WHERE r.outcome = ? AND m.origin = 0 AND m.kind <> ? GROUP BY 1, 2 ORDER BY 1, 2",
        EVICTED,
        SYSTEM,
    )
    told = rows(
        machine,
        "SELECT sender_no, about_no, total FROM notices WHERE reason = 'evicted' ORDER BY 1, 2",
    )
    holds(lost == told, f"{machine.hub_id}: evicted unread {lost}, told {told}")


def _arrived(machine: Machine, other: Machine, msg_id: str) -> None:
    found = rows(
        other,
        "SELECT m.mid, m.box FROM messages AS m JOIN peers AS p ON p.no = m.sender_no"
        " WHERE m.msg_id = ? AND p.hub = ?",
        msg_id,
        machine.hub_id,
    )
    holds(found, f"lost on the way: {msg_id[-6:]}")
    [(mid, box)] = found
    ring = rows(other, "SELECT 1 FROM ring WHERE mid = ? AND box = ?", mid, box)
    ended = rows(other, "SELECT 1 FROM receipts WHERE mid = ? AND box = ?", mid, box)
    holds(len(ring) + len(ended) == 1, f"lost in the mailbox: {msg_id[-6:]}")


def _order(world: World, machine: Machine) -> None:
    """From each adapter to each recipient in the order of sending."""
    latest: dict[tuple[str, int, int], Asked] = {}
    for box, msg_id in rows(
        machine, "SELECT box, msg_id FROM messages WHERE box NOTNULL AND group_no IS NULL ORDER BY mid"
    ):
        asked = world.ledger.letters.get(msg_id)
        # What the disk refused and the hub did not live to tell is said again, after what came behind it.
        if asked is None or asked.hub in world.ledger.faulty or not isinstance(asked.frame, wire.Send):
            continue
        key = asked.hub, asked.adapter.number, box
        before = latest.get(key)
        holds(
            before is None or before.place < asked.place,
            f"out of order at {machine.hub_id}: {msg_id[-6:]}",
        )
        latest[key] = asked


def _groups(world: World, machine: Machine) -> None:
    """Every hub with members of a group has the same group."""
    for group in machine.core.groups.values():
        if group.hub is not None:
            home = world.machines[group.hub.hub_id]
            there = home.core.groups_by_name.get(names.key(group.name))
            holds(
                there is not None and there.group_id == group.group_id,
                f"{machine.hub_id} keeps {group.shown}, which is no more",
            )
            continue
        kept = _log(machine, group.name)
        for other in (world.machines[each] for each in machine.others):
            members = {far.peer_id for far in group.far.values() if far.hub.hub_id == other.hub_id}
            copy = other.core.groups_by_name.get(names.key(f"{group.name}@{machine.hub_id}"))
            where = f"{group.name}@{machine.hub_id} at {other.hub_id}"
            if copy is None:
                holds(not members, f"{where}: it has members, and no copy")
                continue
            mine = {other.core.peers[no].peer_id for no in copy.members}
            holds(mine == members, f"{where}: members {mine}, at home {members}")
            holds(not copy.leaving, f"{where}: somebody is still leaving")
            lines = _log(other, group.name, machine.hub_id)
            holds(not lines or lines == kept[-len(lines) :], f"{where}: lines {lines}, at home {kept}")
            holds(bool(lines) or not members, f"{where}: members, and no lines")
            holds(
                len(copy.roster) == len(group.members) + len(group.far),
                f"{where}: {len(copy.roster)} are told, there are {len(group.members) + len(group.far)}",
            )


def _log(machine: Machine, name: str, hub: str = "") -> list[tuple[int, str]]:
    return rows(
        machine,
        "SELECT l.seq, coalesce(m.msg_id, '') FROM group_log AS l JOIN groups AS g ON g.no = l.group_no"
        " LEFT JOIN messages AS m ON m.mid = l.mid WHERE g.name = ? AND g.hub = ? ORDER BY l.seq",
        name,
        hub,
    )


def _rooms(world: World, machine: Machine) -> None:
    """Who is in a room is in it on both sides, and those who joined are in it."""
    for room in machine.core.rooms.values():
        if room.hub is not None:
            continue
        there: set[tuple[str, str]] = set()
        for other in (world.machines[each] for each in machine.others):
            copy = other.core.rooms.get(names.key(f"{room.name}@{machine.hub_id}"))
            if copy is not None:
                there |= {(other.hub_id, other.core.peers[no].peer_id) for no in copy.members}
                told, are = len(copy.listed), len(room.members) + len(room.far)
                holds(told == are, f"{copy.shown} at {other.hub_id}: {told} are told, there are {are}")
        holds(set(room.far) == there, f"{room.name}@{machine.hub_id}: {set(room.far)} are in it, and {there}")
    for adapter in world.adapters:
        if adapter.live and adapter.machine is machine and adapter.client is not None:
            peer = machine.core.by_peer_id[adapter.peer_id]
            joined = {_room_key(machine, each) for each in adapter.client.rooms}
            joined = {
                each
                for each in joined
                if (machine.hub_id, each.partition("@")[2]) not in world.ledger.forgotten
            }
            holds(joined <= peer.rooms, f"{adapter.host} joined {joined}, and is in {peer.rooms}")


def _room_key(machine: Machine, room: str) -> str:
    name, _, hub = names.key(room).partition("@")
    return f"{name}@{hub}" if hub and hub != machine.hub_id else name


def _lines(world: World) -> None:
    """What was said in a group is a line of it, or its author was told that it ended."""
    there = set()
    for machine in world.machines.values():
        doubled = rows(
            machine,
            "SELECT msg_id FROM messages WHERE group_no NOTNULL GROUP BY msg_id, group_no"
            " HAVING count(*) > 1",
        )
        holds(not doubled, f"lines stored twice at {machine.hub_id}: {doubled}")
        there |= {each for (each,) in rows(machine, "SELECT msg_id FROM messages WHERE group_no NOTNULL")}
    for msg_id, asked in world.ledger.letters.items():
        if not (asked.acked and isinstance(asked.frame, wire.GroupSend)) or msg_id in there:
            continue
        if world.ledger.deleted:  # with all its lines
            continue
        if world.ledger.may_be_lost(asked, *world.machines):
            continue
        ended = rows(
            world.machines[asked.hub],
            "SELECT r.outcome FROM messages AS m JOIN receipts AS r USING (mid) WHERE m.msg_id = ?",
            msg_id,
        )
        holds(ended == [(DEAD,)], f"a line is lost: {msg_id[-6:]} {ended}")
