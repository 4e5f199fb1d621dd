"""Mail that hooks of an assistant fetch by themselves, and the bell that tells it when there is some.

Some assistants have no door for a message, but run hooks: at a prompt, after a tool, at the end of a turn.
Such a session takes no pushes. It asks for the *bell*: a word that something waits, without any of it. Its
adapter rings so that an idle assistant wakes; the hook that then runs gets a page of mail, prints it, and
says so.

Printed is not seen. That the model was given it is proved by the next hook that can only run after a model's
turn went on: of a tool, or of the turn's end; what a tool's hook printed by the turn's end alone, for tools
run side by side. A prompt proves nothing, for the one before it may have been taken back: what was printed
and not proved by then is shown again, marked. A prompt typed during a turn only waits for its end: nothing is
printed with it, for that turn's hooks would prove what its model never got.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import wire
from ecorelay.core import canary, delivery, mailbox, watch
from ecorelay.core.actions import CheckProcess, Reply, Store
from ecorelay.core.ops import Confirmed, ConfirmMail
from ecorelay.core.state import State, unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Set

    from ecorelay.core.events import Now
    from ecorelay.core.records import Lease, Peer, Session

CARRIER = "hook"
RING_AGAIN_S = (3.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds from each ring to the next while nothing is fetched: an assistant in a long turn does not look up,
one that was interrupted never says so, and the first ring may come before anybody listens. After the last,
silence until the session or its mail gives a new reason."""
WAKE_S = 10.0
"""How long a wake that was granted may take until its prompt; another asked for meanwhile is refused."""


class HookProved(Struct, frozen=True):
    """Note: what hooks printed before is seen."""

    peer_no: int
    msg_ids: tuple[str, ...]
    notices: tuple[str, ...]


class RingDue(Struct, frozen=True):
    """Timer note: ring again, unless a hook ran or another ring was begun (`turn`) since."""

    sid: int
    turn: int


class Beside(Struct, frozen=True):
    """Note: another session of the same assistant process is there; the system says whether it lives."""

    sid: int
    holder: int


# --- whose hook it is --------------------------------------------------------------------------------


def peer_beside(s: State, hello: wire.Hello) -> Peer:
    """The peer whose live session stands beside the assistant's process that a hook's `hello` names.

    Raises:
        RelayError: ``not_registered``, there is none.
    """
    session = _beside(s, hello)
    if session is None or session.peer is None:
        raise RelayError(
            "not_registered", "no session stands beside this process: its `ecorelay mcp` is not connected"
        )
    return session.peer


def _beside(s: State, hello: wire.Hello) -> Session | None:
    return s.sessions.get(s.beside.get((hello.client_pid, hello.client_start), 0))


def check_alone(s: State, session: Session) -> bool:
    """Whether no other adapter serves this session of the assistant; else the system is asked if it lives."""
    hello = session.hello
    holder = _beside(s, hello)
    same = holder is not None and holder.hello.identity == hello.identity
    if holder is None or not same or holder.hello.instance == hello.instance:
        stands_beside(s, session)
        return True
    start = holder.hello.pid_start if holder.pid == holder.hello.pid else 0
    s.out.append(CheckProcess(holder.pid, start, Beside(session.sid, holder.sid)))
    return False


def stands_beside(s: State, session: Session) -> None:
    """Hooks of its assistant's process find this session from now on."""
    hello = session.hello
    if hello.client_pid:
        s.beside[hello.client_pid, hello.client_start] = session.sid


def leaves(s: State, session: Session) -> None:
    """The connection is gone."""
    key = session.hello.client_pid, session.hello.client_start
    if s.beside.get(key) == session.sid:
        del s.beside[key]


def session_ended(peer: Peer) -> None:
    """Without its session, what hooks printed and nothing proved is unread again."""
    peer.printed.clear()
    peer.printed_notices.clear()
    peer.after_tool.clear()
    peer.cut.clear()
    peer.cut_rooms.clear()
    peer.told.clear()


def second_adapter(s: State, holder: Session, other: Session | None = None) -> RelayError:
    """Why one of two adapters beside an assistant process has no peer: `holder` serves it (`other` did)."""
    s.count("second_adapter_refused")
    peer = (other or holder).peer
    name = peer.name if peer is not None else "another"
    return RelayError(
        "already_registered",
        f"this assistant's session is {name} already, through another `ecorelay mcp` beside it (pid "
        f"{holder.pid}): use its tools, and remove one of the two entries from the assistant's configuration "
        "(`ecorelay doctor` names them)",
    )


# --- the bell ----------------------------------------------------------------------------------------


def news(s: State, peer: Peer, now: Now) -> None:
    """Something came, or is free again: ring, unless that was done and nobody has looked since."""
    live = peer.session
    if live is None or not live.hello.bell or not live.ready:
        return
    if live.rings > len(RING_AGAIN_S):
        live.rings = 0  # nobody looked, and no timer will ring again
    if not live.rings and waiting(peer):
        _ring(s, live, now)


def _ring(s: State, session: Session, now: Now) -> None:
    s.out.append(Reply(session.sid, wire.Bell()))
    session.bell_turn += 1
    if session.rings < len(RING_AGAIN_S):
        s.at(now.mono + RING_AGAIN_S[session.rings], RingDue(session.sid, session.bell_turn))
    session.rings += 1


def ring_due(s: State, note: RingDue, now: Now) -> None:
    """A while after a ring."""
    session = s.sessions.get(note.sid)
    if session is None or session.peer is None or session.bell_turn != note.turn:
        return
    if waiting(session.peer):
        _ring(s, session, now)
    else:
        session.rings = 0


def waiting(peer: Peer) -> int:
    """How much waits that no hook has shown, not even the beginning of."""
    told = sum(min(count, peer.told.get(no, 0)) for no, count in peer.group_unread.items())
    # Of these what a page holds that is out is not counted as unread in the first place.
    shown = (peer.cut.keys() | peer.printed_notices) - peer.leased.keys()
    return max(unread_of(peer) - len(shown) - cut_in_rooms(peer) - told, 0)


def cut_in_rooms(peer: Peer) -> int:
    """Messages to rooms that wait, and of which a hook printed the beginning."""
    return sum(1 for mail in peer.room_mail if mail.msg_id in peer.cut_rooms) if peer.cut_rooms else 0


# --- hooks -------------------------------------------------------------------------------------------


def hook(s: State, session: Session, frame: wire.Hook, now: Now) -> None:
    """A hook of the assistant runs: show it what waits, and learn what it proves."""
    peer = s.own(session)
    live = peer.session
    if live is None:
        raise RelayError("not_registered", "no adapter serves this assistant's session: nothing can be shown")
    canary.hooked(s, live, frame.event, now)
    match frame.event:
        case "bell":
            due = now.mono - live.woken_at >= WAKE_S
            wake = due and waiting(peer) > 0
            if wake:
                live.woken_at = now.mono
            _answer(s, session, peer, frame, wake=wake)
            return
        case "start":
            _unproved(peer)
            _answer(s, session, peer, frame)
            # Whoever is to hear the bell only begins to listen now; after this ring it comes again soon.
            live.rings = 0
            news(s, peer, now)
            return
        case "prompt" if frame.turn and frame.turn == live.turn:
            # Typed while that turn goes on: it waits, and may be taken back. The turn's own hooks show mail.
            _answer(s, session, peer, frame)
            return
        case "prompt":
            _unproved(peer)
            live.turn = ""
        case _ if frame.turn and live.turn and frame.turn != live.turn:
            _unproved(peer)  # of a prompt that waited, whose hook ran long ago
        case _:  # "tool", "stop"
            _prove(s, peer, live, frame.event, now)
    live.turn = frame.turn or live.turn
    # From here on it is shown: by this hook, or the next.
    live.woken_at = -WAKE_S
    live.rings = 0
    live.bell_turn += 1
    if waiting(peer):
        mailbox.read_for_hook(s, session, peer, frame, now)
    else:
        _answer(s, session, peer, frame)


def _answer(s: State, session: Session, peer: Peer, frame: wire.Hook, *, wake: bool = False) -> None:
    unread = unread_of(peer)
    s.reply(session.sid, wire.HookPage(req_id=frame.req_id, name=peer.name, wake=wake, unread=unread))


def _unproved(peer: Peer) -> None:
    """Nothing says that the model was given these: they are shown again."""
    for msg_id in list(peer.printed):
        delivery.unmark(peer, msg_id)
        peer.cut_rooms.discard(msg_id)
    peer.printed_notices.clear()
    peer.after_tool.clear()


def _prove(s: State, peer: Peer, live: Session, event: wire.HookEvent, now: Now) -> None:
    # Tools run side by side: the next one's hook may come before the model was asked again.
    unsure = peer.after_tool if event == "tool" else frozenset()
    proved = [msg_id for msg_id in peer.printed if msg_id not in unsure]
    notices = tuple([notice for notice in peer.printed_notices if notice not in unsure])
    if not proved and not notices:
        return
    live.evidence_at = now.wall
    msg_ids = tuple([msg_id for msg_id in proved if msg_id in peer.pushed])
    if msg_ids or notices:  # nobody has seen what was only begun
        op = ConfirmMail(no=peer.no, lease=0, msg_ids=msg_ids, notices=notices, at=now.wall)
        s.out.append(Store((op,), HookProved(peer.no, msg_ids, notices)))
    for msg_id in proved:
        del peer.printed[msg_id]
    peer.after_tool.difference_update(proved, notices)


def proved(s: State, note: HookProved, result: Confirmed, now: Now) -> None:
    """Seen, on disk."""
    peer = s.peers.get(note.peer_no)
    if peer is not None:
        peer.unread = result.unread
        peer.notices = result.notices
        peer.printed_notices.difference_update(note.notices)
        delivery.seen(peer, note.msg_ids)
        if s.watchers:
            watch.seen(s, peer.no, note.msg_ids, now)
        if not peer.reads:  # else the page being read shows it
            news(s, peer, now)  # more of what a notice tells may have come on top


def prove_failed(s: State, note: HookProved) -> None:
    """The disk refused: they stay printed, for the next hook to prove."""
    peer = s.peers.get(note.peer_no)
    if peer is not None:
        peer.printed.update((msg_id, None) for msg_id in note.msg_ids if msg_id in peer.pushed)


def printed(s: State, session: Session, frame: wire.Printed, now: Now) -> None:
    """The hook wrote its page out."""
    peer = s.own(session)
    lease = mailbox.own_lease(s, peer, frame.lease)
    live = peer.session
    # Read for a session that ended meanwhile, it is shown again: no hook of another proves it.
    if lease is not None and live is not None and lease.live == live.sid:
        # What was read elsewhere meanwhile, or left a full ring, must not be marked: see `_forget_evicted`.
        unread = lease.mids.keys() & peer.leased.keys()
        mailbox.close_lease(s, lease, frame.msg_ids)
        rows = s.pushed_rows.setdefault(frame.carrier, [])
        for msg_id in frame.msg_ids:
            if msg_id in unread:
                peer.pushed[msg_id] = lease.mids[msg_id]
                peer.stubs.add(msg_id)
                peer.printed[msg_id] = None
                rows.append((peer.no, lease.mids[msg_id], now.wall))
                if s.watchers:
                    watch.pushed(s, peer, msg_id, frame.carrier, now)
        _printed_in_part(peer, lease, frame.cut, unread)
        peer.printed_notices.update(each for each in frame.notices if each in lease.notices)
        if lease.after_tool:
            said = (*frame.msg_ids, *frame.cut, *frame.notices)
            peer.after_tool.update(
                each for each in said if each in peer.printed or each in peer.printed_notices
            )
        peer.told.update((no, min(count, peer.group_unread.get(no, 0))) for no, count in lease.groups.items())
        delivery.flush_pushed(s)
        news(s, peer, now)
    s.reply(session.sid, wire.Done(req_id=frame.req_id, unread=unread_of(peer)))


def _printed_in_part(peer: Peer, lease: Lease, msg_ids: tuple[str, ...], unread: Set[str]) -> None:
    rooms = {mail.msg_id for mail in lease.rooms}
    for msg_id in msg_ids:
        if msg_id in unread:
            peer.cut[msg_id] = lease.mids[msg_id]
        elif msg_id in rooms:
            peer.cut_rooms.add(msg_id)
        else:
            continue
        peer.printed[msg_id] = None
