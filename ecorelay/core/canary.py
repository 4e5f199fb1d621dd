"""Canaries: whether mail would get through to a live session, found out without a turn of its model.

Whoever asks (`probe`) has a canary sent to the session. Its adapter takes it as far along the way of mail as
it can see, and says how far that was. Those who ask for the same session meanwhile share the one that is out.

Where hooks fetch the mail, the adapter can only ring the bell. It does so while nothing waits, for then the
hook that hears it wakes nobody; and that the hook came is the evidence. It stays away from a busy assistant:
then nothing is known, and nothing is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ecorelay import wire
from ecorelay.core.records import Canary
from ecorelay.core.state import unread_of
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay.core.events import Now
    from ecorelay.core.records import Session
    from ecorelay.core.state import State

CANARY_S = 5.0
"""How long a canary may be out."""
PROBES_MAX = 1_000
"""Probes the hub has open at once, and so canaries that are out."""
PROBES_OF_ONE = 100
"""Of these, from one connection."""


class CanaryLost(Struct, frozen=True):
    """Timer note."""

    no: int


def probe(s: State, session: Session, frame: wire.Probe, now: Now) -> None:
    """Somebody wants to know how far mail would get."""
    peer = s.resolve(frame.peer, now)
    live = peer.session
    if live is None or not live.ready:
        raise RelayError("peer_gone", f"{peer.name} is not online: there is no session to probe")
    if not live.hello.canary:
        version = live.hello.app_version or "of some version"
        says = f"its adapter ({version}) is older than this check: restart the session"
        unread = unread_of(session.peer) if session.peer is not None else 0
        answer = wire.Probed(req_id=frame.req_id, peer=peer.name, stage="hub", says=says, unread=unread)
        s.reply(session.sid, answer)
        return
    if session.probes >= PROBES_OF_ONE or s.probing >= PROBES_MAX:
        raise RelayError("limit_reached", f"too many probes are open: wait {CANARY_S:.0f} s, then try again")
    if live.canary is None:
        s.last_canary += 1
        live.canary = Canary(s.last_canary, peer, live, now.mono, live.hello.bell and not unread_of(peer))
        s.canaries[s.last_canary] = live.canary
        s.reply(live.sid, wire.Canary(id=s.last_canary, ring=live.canary.ring))
        s.at(now.mono + CANARY_S, CanaryLost(s.last_canary))
    live.canary.askers.append((session.sid, frame.req_id))
    session.probes += 1
    s.probing += 1


def answered(s: State, session: Session, frame: wire.CanaryAnswer, now: Now) -> None:
    """The adapter says how far it got. Too late, twice, or for another's: of no interest."""
    canary = session.canary
    if canary is None or canary.no != frame.id or canary.answer is not None:
        return
    canary.answer = frame
    if frame.ok is None and canary.event:
        _came_by_hook(s, canary, frame, now)
    elif frame.ok is not None or not canary.ring:
        _say(s, canary, frame, now)


def hooked(s: State, live: Session, event: wire.HookEvent, now: Now) -> None:
    """A hook of the session's assistant runs."""
    live.hook_at = now.wall
    canary = live.canary
    if canary is not None:
        canary.event = event
        if canary.answer is not None:
            _came_by_hook(s, canary, canary.answer, now)


def _came_by_hook(s: State, canary: Canary, answer: wire.CanaryAnswer, now: Now) -> None:
    why = "heard the bell" if canary.event == "bell" else f"ran at its event {canary.event!r}"
    says = f"a hook of the assistant {why}"
    came = wire.CanaryAnswer(id=answer.id, ok=True, stage="session", says=says, took_ms=answer.took_ms)
    _say(s, canary, came, now)


def lost(s: State, note: CanaryLost, now: Now) -> None:
    """Its time is over."""
    canary = s.canaries.get(note.no)
    if canary is None:
        return
    says = f"its adapter was given it and did not answer within {CANARY_S:.0f} s"
    silence = wire.CanaryAnswer(id=canary.no, ok=False, stage="hub", says=says)
    _say(s, canary, canary.answer or silence, now)


def session_ended(s: State, session: Session) -> None:
    """Nobody will answer."""
    if session.canary is not None:
        message = f"the session of {session.canary.peer.name} ended before it answered"
        for sid, req_id in _come_home(s, session.canary):
            s.fail(sid, req_id, "peer_gone", message)


def _say(s: State, canary: Canary, answer: wire.CanaryAnswer, now: Now) -> None:
    for sid, req_id in _come_home(s, canary):
        asker = s.sessions.get(sid)
        probed = wire.Probed(
            req_id=req_id,
            peer=canary.peer.name,
            ok=answer.ok,
            stage=answer.stage,
            says=answer.says,
            took_ms=round((now.mono - canary.at) * 1000),
            adapter_ms=answer.took_ms,
            hook_at=canary.session.hook_at,
            unread=unread_of(asker.peer) if asker is not None and asker.peer is not None else 0,
        )
        s.reply(sid, probed)


def _come_home(s: State, canary: Canary) -> list[tuple[int, int]]:
    """It is out no longer. Gives those who wait for it."""
    del s.canaries[canary.no]
    canary.session.canary = None
    s.probing -= len(canary.askers)
    for sid, _ in canary.askers:
        if (asker := s.sessions.get(sid)) is not None:
            asker.probes -= 1
    return canary.askers
