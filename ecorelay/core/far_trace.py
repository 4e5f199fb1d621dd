"""What became of a message on other hubs: asked of them when a person traces it, and answered to them.

Receipts stay where they come about; only that a hub has a frame crosses by itself. Times cross as ages, so
that all a person is shown is by the clock of their own machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ecorelay import link_wire, names, wire
from ecorelay.core.actions import Store, ToLink
from ecorelay.core.ops import TraceMessage

if TYPE_CHECKING:
    from ecorelay.core.events import Now
    from ecorelay.core.ops import MailReceipt, MessageTraced
    from ecorelay.core.records import RemoteHub
    from ecorelay.core.state import State

ANSWERED_WITHIN_S = 2.0
TRACES_MAX = 100
"""Questions to other hubs that are open at once; beyond them a trace tells what is known here."""
ASKED_MAX = 20
"""Questions of one hub that are in the store at once; further ones are not answered."""


class FarTraced(Struct, frozen=True):
    """Note: another hub asked what became of a message of its."""

    link: int
    number: int


class TraceEnds(Struct, frozen=True):
    """Timer note: who has not answered by now is not waited for."""

    number: int


class Tracing:
    """A trace that waits for other hubs."""

    __slots__ = ("answer", "sid", "waits")

    def __init__(self, sid: int, answer: wire.Traced, waits: set[int]) -> None:
        self.sid = sid
        self.answer = answer
        self.waits = waits
        """Numbers of the hubs."""


# --- asking --------------------------------------------------------------------------------------------


def ask(s: State, sid: int, answer: wire.Traced, now: Now) -> bool:
    """Ask the hubs that have it what became of it; whether the answer waits for them."""
    hubs: dict[int, RemoteHub] = {}
    for receipt in answer.receipts:
        hub = s.hubs.get(names.key(receipt.recipient.partition("@")[2]))
        if receipt.forwarded_at and hub is not None and hub.up:
            hubs[hub.no] = hub
    if not hubs or len(s.tracing) >= TRACES_MAX:
        return False
    s.last_trace += 1
    s.tracing[s.last_trace] = Tracing(sid, answer, set(hubs))
    s.at(now.mono + ANSWERED_WITHIN_S, TraceEnds(s.last_trace))
    for hub in hubs.values():
        s.out.append(ToLink(hub.link, link_wire.TraceAsk(number=s.last_trace, msg_id=answer.msg_id)))
    return True


def told(s: State, hub: RemoteHub, frame: link_wire.TraceAnswer, now: Now) -> None:
    """A hub says what it knows."""
    tracing = s.tracing.get(frame.number)
    if tracing is None or hub.no not in tracing.waits:
        return
    tracing.waits.discard(hub.no)
    by_name = {names.key(f"{each.recipient}@{hub.hub_id}"): each for each in frame.receipts}
    everybody = names.key(f"*@{hub.hub_id}")
    removed = by_name.get(names.key(f"{link_wire.NOBODY}@{hub.hub_id}"))
    merged: list[wire.Receipt] = []
    for receipt in tracing.answer.receipts:
        key = names.key(receipt.recipient)
        if key == everybody and by_name:
            for each in frame.receipts:
                one = msgspec.structs.replace(receipt, recipient=f"{each.recipient}@{hub.hub_id}")
                merged.append(_merged(one, each, now))
        else:
            ours = key.partition("@")[2] == names.key(hub.hub_id)
            far = by_name.get(key, removed if ours else None)  # who is not there by name, is not there
            merged.append(receipt if far is None else _merged(receipt, far, now))
    tracing.answer = msgspec.structs.replace(tracing.answer, receipts=tuple(merged))
    if not tracing.waits:
        ends(s, TraceEnds(frame.number))


def _merged(receipt: wire.Receipt, far: link_wire.FarReceipt, now: Now) -> wire.Receipt:
    """Our own word that its hub has it, and that hub's word on what came after."""
    pushed, seen, replied, ended = (
        0 if ago is None else max(1, now.wall - ago) for ago in (far.pushed, far.seen, far.replied, far.ended)
    )
    state: wire.ReceiptState = "forwarded"
    if replied:
        state = "replied"
    elif seen:
        state = "seen"
    elif ended:
        state = far.reason if far.reason in ("evicted", "expired") else "dead"  # type: ignore[assignment]
    elif pushed:
        state = "pushed"
    return msgspec.structs.replace(
        receipt,
        state=state,
        pushed_at=pushed,
        carrier=link_wire.plain(far.carrier),
        seen_at=seen,
        replied_at=replied,
        ended_at=ended,
        reason=link_wire.plain(far.reason),
    )


def ends(s: State, note: TraceEnds) -> None:
    """All have answered, or it took too long."""
    tracing = s.tracing.pop(note.number, None)
    if tracing is not None:
        s.reply(tracing.sid, tracing.answer)


# --- answering -----------------------------------------------------------------------------------------


def asked(s: State, hub: RemoteHub, frame: link_wire.TraceAsk) -> None:
    """Another hub asks about a message; only one that came from there is looked for."""
    if hub.traces >= ASKED_MAX:
        s.count("traces of other hubs left out")
        return
    hub.traces += 1
    op = TraceMessage(msg_id=frame.msg_id, origin=hub.no)
    s.out.append(Store((op,), FarTraced(hub.link, frame.number)))


def found(s: State, note: FarTraced, result: MessageTraced, now: Now) -> None:
    """This is known here."""
    _answer(s, note, tuple([_receipt(each, now) for each in result.receipts[:1_000]]))


def not_found(s: State, note: FarTraced) -> None:
    """Nothing is, or the disk does not say."""
    _answer(s, note, ())


def _answer(s: State, note: FarTraced, receipts: tuple[link_wire.FarReceipt, ...]) -> None:
    hub = s.links.get(note.link)
    if hub is not None:
        hub.traces -= 1
        s.out.append(ToLink(hub.link, link_wire.TraceAnswer(number=note.number, receipts=receipts)))


def _receipt(known: MailReceipt, now: Now) -> link_wire.FarReceipt:
    def ago(at: int) -> int | None:
        return max(0, now.wall - at) if at else None

    return link_wire.FarReceipt(
        recipient=known.recipient,
        pushed=ago(known.pushed_at),
        carrier=known.carrier,
        seen=ago(known.seen_at),
        replied=ago(known.replied_at),
        ended=ago(known.ended_at),
        reason=(known.reason or known.ended) if known.ended_at else "",
    )
