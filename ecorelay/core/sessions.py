"""Who a connection is: choosing its peer, taking over from the dead, keepalive, and the end.

In order: the peer a returning connection had (`peer_id`), the peer a person named (`pinned`), the peer
of the same assistant session (`identity`), an absent peer last seen in the same directory with the
same assistant, else a new peer under the wanted name, with ``-2``, ``-3`` where that is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ecorelay import names, wire
from ecorelay.core import canary, delivery, directory, group_history, hooks, mailbox, rooms, watch
from ecorelay.core.actions import CheckProcess, CloseSession, Reply, Store
from ecorelay.core.ops import AddPeer, MailboxState, NotePeer, Numbered, Op, OpenMailbox, RememberPeer
from ecorelay.core.records import Peer, Session
from ecorelay.core.state import State, unread_of
from ecorelay.errors import Code, RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now, ProcessChecked

PINGS_TO_DEAD = 3
CLAIM_S = 5.0
"""How long a holder has to answer when another session of the same identity claims its name."""
CLAIM_PINGS = 3
ATTACH_NOTED_MS = 3_600_000
"""How often an attached connection counts as having seen its peer."""
UNDECIDED_S = 0.05
"""How long to wait for what becomes of a name that is being registered, given up or taken this moment."""
AFTER_JUMP_S = 10.0
"""Nobody is declared dead so soon after the machine slept or its clock was set."""


class PeerAdded(Struct, frozen=True):
    """Note: bind the session to its new peer."""

    sid: int
    op: AddPeer


class SessionBound(Struct, frozen=True):
    """Note: welcome the session."""

    sid: int


class Claim(Struct, frozen=True):
    """Note: `sid` wants the peer that session `holder` holds; pings and frames decide. 0: look again."""

    sid: int
    holder: int
    peer_no: int
    asked_at: float = 0.0
    pings: int = 0
    tried: tuple[int, ...] = ()
    """Peers whose sessions were found alive before this one."""


class Identified(Struct, frozen=True):
    """Note: the assistant's session id leads to the peer now."""

    sid: int
    answer: wire.Renamed


class PingDue(Struct, frozen=True):
    """Timer note."""

    sid: int


# --- hello -------------------------------------------------------------------------------------------


def opened(s: State, sid: int, hello: wire.Hello, pid: int, now: Now) -> None:
    """A connection said hello."""
    session = Session(sid, hello, pid, now.mono)
    s.sessions[sid] = session
    s.at(now.mono + s.limits.ping_s, PingDue(sid))
    if hello.role == "observer":
        session.ready = True
        s.reply(sid, wire.Welcome(version=_version(hello), hub_id=s.hub_id, app_version=s.version))
        return
    if hello.role == "session" and not hooks.check_alone(s, session):
        return
    _retry(s, session, now)


def _retry(s: State, session: Session, now: Now) -> None:
    try:
        _choose(s, session, now)
    except RelayError as error:
        refuse(s, session.sid, error.code, error.message)


def refuse(s: State, sid: int, code: Code, message: str) -> None:
    """No session: say why, and close."""
    s.out.append(Reply(sid, wire.Refused(code=code, message=message)))
    s.out.append(CloseSession(sid, f"refused {code}"))


def _version(hello: wire.Hello) -> int:
    return min(hello.versions[1], wire.PROTOCOL_VERSION)


def _choose(s: State, session: Session, now: Now) -> None:
    hello = session.hello
    peer = s.by_peer_id.get(hello.peer_id or "")
    if peer is None and hello.name and (hello.pinned or hello.role == "attach"):
        # An old name forwards mail, but naming oneself so is a claim to the name itself.
        peer = s.names.get(names.key(hello.name))
        if peer is None and names.key(hello.name) in s.reserved:
            s.at(now.mono + UNDECIDED_S, Claim(session.sid, 0, 0))
            return
    if hello.role == "attach":
        if hello.client_pid and not hello.name and not hello.peer_id:
            peer = hooks.peer_beside(s, hello)
        elif peer is None and hello.name:
            peer = s.find(hello.name, now)
        if peer is not None:
            _bind(s, session, peer, now)
        elif hello.create and hello.name:
            _add(s, session, hello.name, now, auto=False)
        else:
            raise RelayError(
                "not_registered",
                f"no peer is called {hello.name or '(no name given)'}: `ecorelay peers` lists them",
            )
        return
    if peer is not None:
        _claim(s, session, peer, now)
    elif hello.pinned and hello.name:
        _add(s, session, hello.name, now, auto=False)
    else:
        known = s.identities.get((hello.client, hello.identity)) if hello.identity else None
        if known is not None and known.going:
            s.at(now.mono + UNDECIDED_S, Claim(session.sid, 0, 0))
        elif known is not None:
            _claim(s, session, known, now)
        else:
            _choose_free(s, session, now)


def _choose_free(s: State, session: Session, now: Now, tried: tuple[int, ...] = ()) -> None:
    """A peer nobody holds: that of the directory, else a new one with a name of its own."""
    hello = session.hello
    wanted = hello.name or names.slug(hello.client)
    if hello.cwd:
        for peer in s.places.get((hello.client, hello.cwd), ()):
            # Who asked for a name by hand gets that or one made from it, never another chosen one.
            if peer.going or peer.no in tried or (hello.pinned and not peer.auto):
                continue
            if peer.session is None:
                session.wanted_taken = hello.pinned
                _bind(s, session, peer, now)
                return
            if peer.session.pid:
                # Who was killed and comes back may be here before the end of its old connection is heard.
                _check(s, session, peer.session, peer, tried)
                return
    name, number = wanted, 1
    while names.key(name) in s.names or names.key(name) in s.reserved or s.find(name, now) is not None:
        number += 1
        name = names.suffixed(wanted, number)
    session.wanted_taken = name != wanted
    _add(s, session, name, now, auto=True)


# --- a new peer, and binding -------------------------------------------------------------------------


def _add(s: State, session: Session, name: str, now: Now, *, auto: bool) -> None:
    if len(s.peers) + s.adding >= s.limits.peers:
        raise RelayError(
            "limit_reached",
            f"this hub has its {s.limits.peers} peers: raise limits.peers, or take one that exists",
        )
    op = reserve(s, name, now, auto=auto)
    s.out.append(Store((op,), PeerAdded(session.sid, op)))


def reserve(s: State, name: str, now: Now, *, auto: bool) -> AddPeer:
    """The op that makes a peer; until `enter` or `give_up` the name is nobody else's."""
    s.reserved.add(names.key(name))
    s.adding += 1
    return AddPeer(peer_id=s.new_id(now.wall), name=name, auto=auto, at=now.wall)


def give_up(s: State, op: AddPeer) -> None:
    """The store has no new peer: the name is free again."""
    s.reserved.discard(names.key(op.name))
    s.adding -= 1


def enter(s: State, op: AddPeer, result: Numbered) -> Peer:
    """The store has a new peer: so have we."""
    give_up(s, op)
    peer = Peer(no=result.no, peer_id=op.peer_id, name=op.name, auto=op.auto, last_seen=op.at)
    s.add_peer(peer)
    directory.changed(s, peer)
    return peer


def peer_added(s: State, note: PeerAdded, result: Numbered, now: Now) -> None:
    """The new peer's session, if it is still there, becomes live."""
    peer = enter(s, note.op, result)
    session = s.sessions.get(note.sid)
    if session is not None:
        _bind(s, session, peer, now)


def peer_add_failed(s: State, note: PeerAdded, code: Code, message: str) -> None:
    """No peer, no session."""
    give_up(s, note.op)
    if note.sid in s.sessions:
        refuse(s, note.sid, code, message)


def _bind(s: State, session: Session, peer: Peer, now: Now) -> None:
    """The session is this peer's from here on; it is welcome once the store has noted it."""
    hello = session.hello
    session.peer = peer
    if hello.role == "attach":
        peer.attached.add(session.sid)
        if peer.loaded and hello.client_pid:
            # A hook: it holds up a person's turn, and all it may want to know is here.
            session.ready = True
            _welcome(s, session, peer)
            return
        ops: tuple[Op, ...] = (OpenMailbox(no=peer.no),)
        if now.wall - peer.last_seen > ATTACH_NOTED_MS:
            # Hooks attach at every prompt: not each of them is worth a write.
            peer.last_seen = now.wall
            ops = (NotePeer(no=peer.no, last_seen=now.wall), *ops)
        s.out.append(Store(ops, SessionBound(session.sid)))
        return
    peer.session = session
    peer.client, peer.cwd, peer.git_branch = hello.client, hello.cwd, hello.git_branch
    peer.last_seen = now.wall
    identity = hello.identity or ""
    if identity and _leads_here(s, session, peer):
        s.identities[hello.client, identity] = peer
    else:
        identity = ""
    if hello.cwd:
        place = s.places.setdefault((hello.client, hello.cwd), [])
        if peer not in place:
            place.append(peer)
            place.sort(key=lambda other: other.no)
    ops = (
        NotePeer(
            no=peer.no,
            last_seen=now.wall,
            client=hello.client,
            cwd=hello.cwd,
            git_branch=hello.git_branch,
        ),
        RememberPeer(
            no=peer.no,
            client=hello.client,
            identity=identity,
            cwd=hello.cwd,
            at=now.wall,
        ),
        OpenMailbox(no=peer.no),
    )
    s.out.append(Store(ops, SessionBound(session.sid)))


def _leads_here(s: State, session: Session, peer: Peer) -> bool:
    """Whether the assistant's session id leads to `peer` from now on.

    A second window of one conversation is a peer of its own, with the same id. It must not take along what
    leads back to the first, or the conversation would be another peer when it is opened again.
    """
    hello = session.hello
    known = s.identities.get((hello.client, hello.identity or ""), peer)
    if known is peer or known.going:
        return True
    if known.session is not None and known.session.hello.identity != hello.identity:
        return True  # that peer goes on with another conversation
    returns = s.by_peer_id.get(hello.peer_id or "") is peer
    return hello.pinned and not session.wanted_taken and not returns


def bound(s: State, note: SessionBound, state: MailboxState, now: Now) -> None:
    """Welcome; what waits is pushed, or rung for."""
    session = s.sessions.get(note.sid)
    if session is None or session.peer is None:
        return
    peer = session.peer
    peer.loaded = True
    peer.unread = state.unread
    peer.notices = state.notices
    out = {no: lease.hidden for no, lease in peer.history.items()}
    peer.group_unread = {no: left for no, count in state.groups if (left := count - out.get(no, 0)) > 0}
    session.ready = True
    if peer.session is session:
        directory.changed(s, peer)
        if s.watchers:
            watch.online(s, peer, now)
    _welcome(s, session, peer)
    delivery.continue_backlog(s, session)
    hooks.news(s, peer, now)


def _welcome(s: State, session: Session, peer: Peer) -> None:
    hello = session.hello
    s.reply(
        session.sid,
        wire.Welcome(
            version=_version(hello),
            hub_id=s.hub_id,
            app_version=s.version,
            name=peer.name,
            peer_id=peer.peer_id,
            wanted_taken=session.wanted_taken,
            unread=unread_of(peer),
        ),
    )


def bind_failed(s: State, note: SessionBound, code: Code, message: str, now: Now) -> None:
    """The disk refused: no session, the peer is free for the next try."""
    session = s.sessions.get(note.sid)
    if session is not None and session.peer is not None:
        _leave(s, session, now)
        refuse(s, note.sid, code, message)


# --- take-over ---------------------------------------------------------------------------------------


def _claim(s: State, session: Session, peer: Peer, now: Now) -> None:
    holder = peer.session
    if holder is None:
        _bind(s, session, peer, now)
    elif holder.hello.instance is not None and holder.hello.instance == session.hello.instance:
        _replace(s, session, holder, peer, now, "the same process connected again")
    elif holder.pid:
        _check(s, session, holder, peer)
    else:
        _contest(s, Claim(session.sid, holder.sid, peer.no), session, holder, now)


def _check(s: State, session: Session, holder: Session, peer: Peer, tried: tuple[int, ...] = ()) -> None:
    """Ask whether the process of who holds a peer lives; `process_checked` goes on."""
    start = holder.hello.pid_start if holder.pid == holder.hello.pid else 0
    claim = Claim(session.sid, holder.sid, peer.no, tried=tried)
    s.out.append(CheckProcess(holder.pid, start, claim))


def process_checked(s: State, event: ProcessChecked, now: Now) -> None:
    """Whether the process behind the holder of a claimed peer lives."""
    claim = event.then
    if isinstance(claim, hooks.Beside):
        _beside_checked(s, claim, event.alive, now)
    elif isinstance(claim, Claim):
        session, holder, peer = _parties(s, claim)
        if session is None:
            return
        if holder is None:  # it left by itself meanwhile
            _retry(s, session, now)
        elif not event.alive and peer is not None:
            _replace(s, session, holder, peer, now, "its process is gone")
        else:
            _contest(s, claim, session, holder, now)


def _beside_checked(s: State, note: hooks.Beside, alive: bool, now: Now) -> None:
    session, holder = s.sessions.get(note.sid), s.sessions.get(note.holder)
    if session is None:
        return
    # One with hooks takes the place of one without, or nothing would wake the assistant.
    better = holder is not None and session.hello.bell and not holder.hello.bell
    if holder is not None and alive and not better:
        error = hooks.second_adapter(s, holder)
        refuse(s, session.sid, error.code, error.message)
        return
    if holder is not None:
        if alive:
            error = hooks.second_adapter(s, session, holder)
            s.reply(holder.sid, wire.Bye(reason=error.message, code=error.code))
        why = "another adapter has the hooks" if alive else "its process is gone"
        s.out.append(CloseSession(holder.sid, why))
        _leave(s, holder, now)
    hooks.stands_beside(s, session)
    _retry(s, session, now)


def _parties(s: State, claim: Claim) -> tuple[Session | None, Session | None, Peer | None]:
    holder = s.sessions.get(claim.holder)
    peer = s.peers.get(claim.peer_no)
    if holder is not None and (peer is None or peer.session is not holder):
        holder = None
    return s.sessions.get(claim.sid), holder, peer


def _contest(s: State, claim: Claim, session: Session, holder: Session, now: Now) -> None:
    """The holder's process lives. Only the same assistant session may ask whether it still answers."""
    mine, theirs = session.hello, holder.hello
    if mine.identity and (mine.client, mine.identity) == (theirs.client, theirs.identity):
        s.at(now.mono, Claim(claim.sid, claim.holder, claim.peer_no, now.mono, tried=claim.tried))
    else:
        _lose(s, session, claim, now)


def _lose(s: State, session: Session, claim: Claim, now: Now) -> None:
    hello = session.hello
    holder = s.peers[claim.peer_no]
    if hello.pinned and not hello.fallback:
        refuse(
            s,
            session.sid,
            "name_taken",
            f"{holder.name} is held by a living session in {holder.cwd or 'an unknown directory'}: "
            "choose another name, or end that session first",
        )
        return
    try:
        _choose_free(s, session, now, (*claim.tried, claim.peer_no))
    except RelayError as error:
        refuse(s, session.sid, error.code, error.message)


def claim_step(s: State, claim: Claim, now: Now) -> None:
    """One step of asking the holder: three pings over five seconds, any frame of it is an answer."""
    session, holder, peer = _parties(s, claim)
    if session is None:
        return
    if holder is None or peer is None:
        _retry(s, session, now)
    elif holder.heard > claim.asked_at:
        _lose(s, session, claim, now)
    elif now.mono < s.jumped_at + AFTER_JUMP_S:
        asked = Claim(claim.sid, claim.holder, claim.peer_no, now.mono, tried=claim.tried)
        s.at(s.jumped_at + AFTER_JUMP_S, asked)
    elif claim.pings >= CLAIM_PINGS:
        _replace(s, session, holder, peer, now, "it did not answer for 5 s")
    else:
        s.reply(holder.sid, wire.Ping())
        asked_at = claim.asked_at or now.mono
        s.at(
            now.mono + CLAIM_S / CLAIM_PINGS,
            Claim(claim.sid, claim.holder, claim.peer_no, asked_at, claim.pings + 1, claim.tried),
        )


def _replace(s: State, session: Session, holder: Session, peer: Peer, now: Now, why: str) -> None:
    """The newcomer takes the peer; the loser is told why before it is closed."""
    s.count("sessions_taken_over")
    s.reply(
        holder.sid,
        wire.Bye(reason=f"another session took over {peer.name}: {why}", code="name_taken"),
    )
    s.out.append(CloseSession(holder.sid, "taken over"))
    _leave(s, holder, now)
    _bind(s, session, peer, now)


# --- another id of the same assistant session ----------------------------------------------------------


def identify(s: State, session: Session, frame: wire.Identify, now: Now) -> None:
    """The assistant's session was cleared (a new id of the same peer), or went on as another one."""
    peer = s.own(session)
    if session.hello.role != "session":
        raise RelayError("not_registered", "only an assistant's own session has an id: connect as one")
    key = session.hello.client, frame.identity
    known = s.identities.get(key, peer)
    if known is not peer:
        # Another's that is live or on its way out is not to be had: the caller stays who it is.
        to_be_had = known.session is None and not known.going
        s.reply(session.sid, wire.Renamed(req_id=frame.req_id, name=known.name if to_be_had else peer.name))
        return
    s.identities[key] = peer
    session.hello = msgspec.structs.replace(session.hello, identity=frame.identity)
    op = RememberPeer(no=peer.no, client=key[0], identity=key[1], cwd=session.hello.cwd, at=now.wall)
    answer = wire.Renamed(req_id=frame.req_id, name=peer.name)
    s.out.append(Store((op,), Identified(session.sid, answer)))


# --- keepalive and the end ---------------------------------------------------------------------------


def ping_due(s: State, note: PingDue, now: Now) -> None:
    """Ping who was silent; end who left three pings unanswered."""
    session = s.sessions.get(note.sid)
    if session is None:
        return
    # Compared as it is armed: a difference of floats may be a hair smaller, and the note due for ever.
    due = session.heard + s.limits.ping_s
    if now.mono < due:
        session.pings = 0
        s.at(due, note)
    elif session.pings >= PINGS_TO_DEAD and now.mono - s.jumped_at > AFTER_JUMP_S:
        s.out.append(CloseSession(session.sid, "ping unanswered"))
    else:
        session.pings += 1
        s.reply(session.sid, wire.Ping())
        s.at(now.mono + s.limits.ping_s / PINGS_TO_DEAD, note)


def jumped(s: State, now: Now) -> None:
    """The machine slept or its clock was set: ask everybody at once whether they are there."""
    s.jumped_at = now.mono
    for sid in s.sessions:
        s.reply(sid, wire.Ping())


def closed(s: State, sid: int, now: Now) -> None:
    """The connection is gone."""
    session = s.sessions.pop(sid, None)
    watch.closed(s, sid)
    if session is not None:
        hooks.leaves(s, session)
        _leave(s, session, now)


def _leave(s: State, session: Session, now: Now) -> None:
    """Take a session off its peer; it may still be in `s.sessions` until its connection is closed."""
    peer, session.peer = session.peer, None
    if peer is None:
        return
    group_history.session_ended(session, peer)
    peer.attached.discard(session.sid)
    if peer.session is session:
        canary.session_ended(s, session)
        delivery.session_ended(s, session, peer)
        hooks.session_ended(peer)
        rooms.leave_all(s, peer)
        peer.session = None
        peer.last_seen = now.wall
        directory.changed(s, peer)
        if s.watchers and session.ready:
            watch.offline(s, peer, now)
        s.out.append(Store((NotePeer(no=peer.no, last_seen=now.wall),)))
    mailbox.session_ended(s, session, peer, now)
    if peer.session is None and not peer.attached:
        peer.loaded = False
