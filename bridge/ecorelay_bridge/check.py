"""What `ecorelay bridge-check` tries: the road to each configured hub, step by step, and why it ends there.

It goes the dialer's own way, with the hub's own handshake, and says in it that it only asks: the other hub
answers, makes no link and remembers nothing. So no running link is disturbed.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Literal

import trio
from msgspec import Struct

from ecorelay_bridge.dialer import CONNECT_S, connect
from ecorelay_bridge.federation import introduce_as
from ecorelay_bridge.introduction import FINISH_S
from ecorelay_bridge.known import Reading
from ecorelay_bridge.listener import listen_remedy, why_not_listening
from ecorelay_bridge.refusals import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ecorelay_bridge.handshake import Proof
    from ecorelay_bridge.identity import Identity
    from ecorelay_bridge.introduction import Introducer
    from ecorelay_bridge.known import Known
    from ecorelay_bridge.settings import Peer, Settings

StepName = Literal[
    "port",
    "resolve",
    "connect",
    "proxy",
    "tls",
    "websocket",
    "version",
    "token",
    "hubs",
    "proof",
    "hub_id",
    "identity",
    "clock",
]

SKEW_MAX_MS: Final = 5 * 60 * 1000
"""A clock further off than this makes the times of messages misleading. Nothing else depends on it."""


class Step(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step. Those after a failed one are not tried, and not listed."""

    step: StepName
    ok: bool
    detail: str = ""
    """What was found, where it went well."""
    cause: str = ""
    """What is most likely wrong, where it did not."""
    reason: str = ""
    """The same as one of the words of `ecorelay_bridge.refusals.Reason`."""
    remedy: str = ""
    """What to do about it; also where it went well and something should still be looked at."""


_STEP_OF: Final[dict[Reason, StepName]] = {
    Reason.NOT_RESOLVED: "resolve",
    Reason.CONNECTION_REFUSED: "connect",
    Reason.FILTERED: "connect",
    Reason.UNREACHABLE: "connect",
    Reason.NOT_ECORELAY: "tls",
    Reason.TLS: "tls",
    Reason.SOURCE_BLOCKED: "tls",
    Reason.BUSY: "tls",
    Reason.SAME_HUB: "hub_id",
    Reason.OWN_HUB_ID: "hub_id",
    Reason.NOT_ME: "hub_id",
    Reason.NOT_WHOM_I_DIALED: "hub_id",
    Reason.OTHER_CASE: "hub_id",
    Reason.OWN_IDENTITY: "identity",
    Reason.IDENTITY_CHANGED: "identity",
    Reason.DISTRUSTED: "identity",
    Reason.TWINS: "identity",
}
"""Where a refusal belongs; any other is one of the proof."""


async def check_peers(
    settings: Settings,
    identity: Identity,
    known: Mapping[str, Known],
    *,
    connect_s: float = CONNECT_S,
    finish_s: float = FINISH_S,
) -> dict[str, list[Step]]:
    """Try every configured hub, all at once.

    Args:
        settings: see `federate`.
        identity: of this hub.
        known: see `Trust.known`. Nothing is remembered.
        connect_s: seconds for names and TCP.
        finish_s: seconds for TLS and the proof.

    Returns:
        hub_id → its steps. All is well if each of them is `ok`.
    """
    introducer = await introduce_as(settings, identity, Reading(known), finish_s=finish_s)
    found: dict[str, list[Step]] = {peer.hub_id: [] for peer in settings.peers}

    async def check(peer: Peer) -> None:
        pinned_or_known = bool(peer.identity) or peer.hub_id in known
        try:
            found[peer.hub_id] = await _check(peer, introducer, connect_s, known=pinned_or_known)
        except Exception as error:  # the others are to be told of all the same
            found[peer.hub_id] = [_crashed(error)]

    async with trio.open_nursery() as nursery:
        for peer in settings.peers:
            nursery.start_soon(check, peer)
    return found


async def check_listening(settings: Settings, *, held_by_our_hub: bool) -> Step:
    """Whether our own port is free, or taken by our hub, as it should be.

    Args:
        settings: name the port; 0 is fine too.
        held_by_our_hub: whether our hub says that it listens there.
    """
    if not settings.listen:
        return Step(step="port", ok=True, detail="this hub dials only, it listens at no port")
    where = f"{settings.bind}, port {settings.listen}"
    if held_by_our_hub:
        return Step(step="port", ok=True, detail=f"our hub listens at {where}")
    try:
        host = None if settings.bind == "::" else settings.bind
        for listener in await trio.open_tcp_listeners(settings.listen, host=host):
            await listener.aclose()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        return Step(
            step="port",
            ok=False,
            cause=why_not_listening(error, settings.bind, settings.listen),
            reason=str(Reason.PORT_TAKEN if taken else Reason.UNREACHABLE),
            remedy=listen_remedy(error),
        )
    return Step(step="port", ok=True, detail=f"{where} is free; our hub does not listen there now")


async def _check(peer: Peer, introducer: Introducer, connect_s: float, *, known: bool) -> list[Step]:
    steps: list[Step] = []
    try:
        began = trio.current_time()
        stream = await connect(peer.host, peer.port, within_s=connect_s)
        connected_ms = (trio.current_time() - began) * 1000
        host, port = stream.socket.getpeername()[:2]
        steps.append(Step(step="resolve", ok=True, detail=f"{peer.host} is {host}"))
        steps.append(Step(step="connect", ok=True, detail=f"port {port} answers in {connected_ms:.0f} ms"))
        ready: list[trio.abc.Stream] = [stream]

        async def connected() -> trio.abc.Stream:
            return ready.pop() if ready else await connect(peer.host, peer.port, within_s=connect_s)

        tls, proof = await any_secret(peer.hub_id, introducer, connected)
    except Refused as refused:
        return [*steps, *failed_steps(refused, steps)]
    await trio.aclose_forcefully(tls)
    return [*steps, *proved_steps(proof, introducer, known=known)]


def proved_steps(proof: Proof, introducer: Introducer, *, known: bool) -> list[Step]:
    """The steps of a hub that proved itself.

    Args:
        proof: of it.
        introducer: of ours.
        known: whether we knew its identity.
    """
    old = proof.secret != introducer.passwords[0].secret
    new = (
        ""
        if known
        else "is it that machine's? Compare `ecorelay identity show` there, then pin it in bridge.json"
    )
    return [
        Step(step="tls", ok=True, detail="TLS 1.3"),
        Step(
            step="proof",
            ok=True,
            detail=f"knows {'previous_secret' if old else 'the secret'}; ecorelay {proof.app}",
            remedy="give that machine the new secret too" if old else "",
        ),
        Step(step="hub_id", ok=True, detail=proof.hub_id),
        Step(
            step="identity",
            ok=True,
            detail=f"{proof.identity}, {'as known' if known else 'not known yet'}",
            remedy=new,
        ),
        _clock(proof.clock_ms - introducer.me.now_ms()),
    ]


async def any_secret(
    hub_id: str, introducer: Introducer, connected: Callable[[], Awaitable[trio.abc.Stream]]
) -> tuple[trio.SSLStream[trio.abc.Stream], Proof]:
    """Introduce ourselves, without wanting a link, with the new secret and then with the old one.

    Raises:
        Refused: neither is right, or something else is in the way.
    """
    first, *others = introducer.passwords
    try:
        return await introducer.dial(await connected(), hub_id, first, checking=True)
    except Refused as refused:
        if refused.reason is not Reason.WRONG_SECRET or not others:
            raise
    return await introducer.dial(await connected(), hub_id, others[0], checking=True)


def failed_steps(refused: Refused, done: list[Step]) -> list[Step]:
    """The step that failed, and those that went well before it."""
    name = _STEP_OF.get(refused.reason, "proof")
    if refused.reason is Reason.TOO_SLOW and not refused.encrypted:
        name = "tls"
    before: list[Step] = []
    if name == "connect" and not done:
        before.append(Step(step="resolve", ok=True))
    if name in ("proof", "hub_id", "identity"):
        before.append(Step(step="tls", ok=True, detail="TLS 1.3"))
    return [
        *before,
        Step(
            step=name,
            ok=False,
            cause=refused.sentence,
            reason=str(refused.reason),
            remedy=refused.remedy,
        ),
    ]


def _crashed(error: Exception) -> Step:
    # Its kind only: what a bug says may quote anything.
    return Step(
        step="connect",
        ok=False,
        cause=f"a bug of ecorelay ended this check ({type(error).__name__})",
        reason=str(Reason.CRASH),
        remedy="please report it; `ecorelay hub status` says how the link is",
    )


def _clock(ahead_ms: int) -> Step:
    if abs(ahead_ms) <= SKEW_MAX_MS:
        return Step(step="clock", ok=True, detail=f"differs by {abs(ahead_ms) / 1000:.1f} s")
    way = "ahead of" if ahead_ms > 0 else "behind"
    return Step(
        step="clock",
        ok=False,
        cause=f"its clock is {abs(ahead_ms) // 60_000:,} minutes {way} this machine's",
        reason="clock",
        remedy="set the clock of the machine that is wrong; mail arrives all the same, with misleading times",
    )
