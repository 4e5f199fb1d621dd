"""What `ecorelay bridge-check` tries at relay servers: the way there, and the proof with each hub there.

It goes under a key made for the occasion, so that the running hub keeps its place, and says that it only
looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from msgspec import Struct

from ecorelay import relay_wire
from ecorelay.names import key
from ecorelay_bridge.check import Step, any_secret, failed_steps, proved_steps
from ecorelay_bridge.federation import introduce_as
from ecorelay_bridge.known import Reading
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_probe import looking
from ecorelay_bridge.relay_road import shown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay.relay_wire import HubHere
    from ecorelay_bridge.check import StepName
    from ecorelay_bridge.identity import Identity
    from ecorelay_bridge.introduction import Introducer
    from ecorelay_bridge.known import Known
    from ecorelay_bridge.relay_probe import Look
    from ecorelay_bridge.settings import RelayServer, Settings

HUBS_MAX: Final = 50
"""Hubs tried at one relay."""
AT_ONCE: Final = 2
"""Each of them computes proofs for us, and no more than a few a second for strangers."""

_STEP_OF: Final[dict[Reason, StepName]] = {
    Reason.NOT_RESOLVED: "resolve",
    Reason.CONNECTION_REFUSED: "connect",
    Reason.FILTERED: "connect",
    Reason.UNREACHABLE: "connect",
    Reason.PROXY: "proxy",
    Reason.TLS: "tls",
    Reason.CERTIFICATE: "tls",
    Reason.NO_RELAY: "websocket",
    Reason.RELAY_AWAY: "websocket",
    Reason.RELAY_LOST: "websocket",
    Reason.VERSION: "version",
}
"""Where a refusal belongs; any other is about the token."""


class RelayFound(Struct, frozen=True, kw_only=True):
    """How one relay is."""

    name: str
    steps: list[Step]
    hubs: dict[str, list[Step]]
    """hub_id → the proof with it, end to end."""

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return all(step.ok for steps in (self.steps, *self.hubs.values()) for step in steps)


async def check_relays(
    settings: Settings,
    identity: Identity,
    known: Mapping[str, Known],
    *,
    environ: Mapping[str, str] | None = None,
) -> list[RelayFound]:
    """Try every relay server, all at once.

    Args:
        settings: see `federate`.
        identity: of this hub.
        known: see `Trust.known`. Nothing is remembered.
        environ: has the proxies; default: this process's variables.
    """
    if not settings.relays:
        return []
    introducer = await introduce_as(settings, identity, Reading(known))
    found = [
        RelayFound(name=shown_name(each, settings.relays), steps=[], hubs={}) for each in settings.relays
    ]

    async def check(relay: RelayServer, to: RelayFound) -> None:
        own = relay_wire.address_of(identity.public)
        try:
            async with looking(
                relay,
                settings.hub_id,
                environ=environ,
                on_step=lambda step, detail: to.steps.extend(_reached(step, detail)),
            ) as look:
                to.steps.append(Step(step="websocket", ok=True))
                to.steps.append(Step(step="token", ok=True, detail="it is right"))
                others = _others(look, own, settings)
                to.steps.append(_who(look, own, others))
                limiter = trio.CapacityLimiter(AT_ONCE)
                async with trio.open_nursery() as nursery:
                    for address, hub in others[:HUBS_MAX]:
                        nursery.start_soon(_prove, look, address, hub, introducer, known, to, limiter)
        except Refused as refused:
            to.steps.extend(_ended(refused, to.steps))

    async with trio.open_nursery() as nursery:
        for relay, to in zip(settings.relays, found, strict=True):
            nursery.start_soon(check, relay, to)
    return found


def _reached(step: str, detail: str) -> list[Step]:
    if step == "connect":
        return [Step(step="resolve", ok=True), Step(step="connect", ok=True, detail=detail)]
    if step == "proxy":
        return [Step(step="proxy", ok=True, detail=detail)]
    return [Step(step="tls", ok=True, detail=detail)]


def _ended(refused: Refused, before: list[Step]) -> list[Step]:
    name = _STEP_OF.get(refused.reason, "token")
    done = {step.step for step in before}
    between = []
    connected = not {"connect", "proxy"}.isdisjoint(done)
    if name in ("token", "version") and connected and "websocket" not in done:
        between.append(Step(step="websocket", ok=True))
    if name == "connect" and "resolve" not in done:
        between.append(Step(step="resolve", ok=True))
    return [
        *between,
        Step(step=name, ok=False, cause=refused.sentence, reason=str(refused.reason), remedy=refused.remedy),
    ]


def _others(look: Look, own: bytes, settings: Settings) -> list[tuple[bytes, HubHere]]:
    """The hubs there, those we have to do with first."""
    peers = {key(peer.hub_id) for peer in settings.peers}
    others = [
        (address, hub)
        for address, hub in look.connection.hubs.items()
        if address != own and hub.app_version != relay_wire.PROBE_APP
    ]
    return sorted(others, key=lambda each: (key(each[1].hub_id) not in peers, key(each[1].hub_id)))


def _who(look: Look, own: bytes, others: list[tuple[bytes, HubHere]]) -> Step:
    names = ", ".join(hub.hub_id for _, hub in others[:10]) + (" and more" if len(others) > 10 else "")
    ours = "this hub is there" if own in look.connection.hubs else "this hub is not there now"
    count = f"{len(others)} other hub{'' if len(others) == 1 else 's'}"
    return Step(step="hubs", ok=True, detail=f"{ours}; {count}{': ' if names else ''}{names}")


async def _prove(
    look: Look,
    address: bytes,
    hub: HubHere,
    introducer: Introducer,
    known: Mapping[str, Known],
    to: RelayFound,
    limiter: trio.CapacityLimiter,
) -> None:
    async def connect() -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return look.connection.open(address)

    # Two may call themselves the same.
    name = hub.hub_id if hub.hub_id not in to.hubs else f"{hub.hub_id} ({address.hex()[:8]})"
    to.hubs[name] = []
    async with limiter:
        try:
            tls, proof = await any_secret(hub.hub_id, introducer, connect)
        except Refused as refused:
            to.hubs[name] = failed_steps(refused, [Step(step="connect", ok=True)])
            return
        await trio.aclose_forcefully(tls)
    to.hubs[name] = proved_steps(proof, introducer, known=hub.hub_id in known)
