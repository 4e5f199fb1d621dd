"""Puts the parts together: a listener, a dialer for each configured hub, the relays, until cancelled."""

from __future__ import annotations

import random
import secrets
import time
from typing import TYPE_CHECKING

import trio

from ecorelay import __version__
from ecorelay_bridge.backoff import Backoff
from ecorelay_bridge.dialer import Dialer, Direct, connect
from ecorelay_bridge.door import Door, source_of
from ecorelay_bridge.handshake import Party, Proof
from ecorelay_bridge.introduction import FINISH_S, Introducer, Proven
from ecorelay_bridge.known import judge
from ecorelay_bridge.listener import Listener
from ecorelay_bridge.password import Password
from ecorelay_bridge.roads import RoadReport, Roads
from ecorelay_bridge.twins import Twins
from ecorelay_bridge.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ecorelay_bridge.dialer import Connect
    from ecorelay_bridge.identity import Identity
    from ecorelay_bridge.known import Trust
    from ecorelay_bridge.settings import Settings


async def federate(
    settings: Settings,
    identity: Identity,
    trust: Trust,
    *,
    on_link: Callable[[Proven], Awaitable[None]],
    report: Callable[[RoadReport], None],
    roads: Roads | None = None,
    app: str = __version__,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    jitter: Callable[[], float] = random.random,
    dial: Connect = connect,
    door: Door | None = None,
    environ: Mapping[str, str] | None = None,
    task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen and dial as `settings` say until cancelled; every hub that proved itself goes to `on_link`.

    Resource handling: a stream is closed when its `on_link` returns. Cancelling closes everything at once;
    each end of TLS is given a second.

    Args:
        settings: with a secret, if they name a port or peers.
        identity: of this hub.
        trust: who is known. A new hub is remembered before its link begins.
        on_link: called in a task of its own for each proven stream, also for two of the same hub at a time.
            An exception it raises ends that stream only, and is reported.
        report: told what happens on each road; must not raise or wait.
        roads: says which hubs are to be dialed; default: all, always.
        app: the version to show.
        now_ms: the wall clock.
        jitter: gives a number from 0 up to 1.
        dial: makes the stream to a host and port.
        door: of the run before this one, so that who is familiar stays so; default: one that has seen nobody.
        environ: has the proxies on the way to relay servers; default: this process's variables.
        task_status: started with the addresses listened at, none if the port is not to be had or none is set.
    """
    twins = Twins(trio.current_time)
    introducer = await introduce_as(settings, identity, trust, app=app, now_ms=now_ms, twins=twins)
    door = door or Door(trio.current_time)

    async def serve(proven: Proven) -> None:
        with twins.up(proven.hub_id, proven.instance):
            await on_link(proven)

    for peer in settings.peers:
        # A host that is no address is itself a source that nothing comes from: harmless.
        door.proved(source_of(peer.host))
    roads = roads or Roads()
    async with trio.open_nursery() as nursery:
        addresses: list[tuple[str, int]] = []
        listener = Listener(settings.bind, settings.listen, door, introducer, serve, report)
        if settings.listen:
            addresses = await nursery.start(listener.run)
        for peer in settings.peers:
            dialer = Dialer(
                peer.hub_id,
                Direct(peer, roads, dial),
                introducer,
                roads,
                Backoff(jitter),
                serve,
                report,
                on_proved=lambda address: door.proved(source_of(address)),
            )
            nursery.start_soon(dialer.run)
        if settings.relays:
            from ecorelay_bridge.relay_dialer import RelayDialer

            relays = RelayDialer(
                settings,
                identity,
                trust,
                introducer,
                roads,
                door,
                listener,
                serve,
                report,
                app=app,
                jitter=jitter,
                dial=dial,
                environ=environ,
            )
            nursery.start_soon(relays.run)
        task_status.started(addresses)
        await trio.sleep_forever()


async def introduce_as(
    settings: Settings,
    identity: Identity,
    trust: Trust,
    *,
    app: str = __version__,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    finish_s: float = FINISH_S,
    twins: Twins | None = None,
) -> Introducer:
    """This hub, ready to introduce itself: derives the secrets, 0.1 s each, in threads.

    Args:
        settings: see :func:`federate`, and so for the rest.
        identity: of this hub.
        trust: who is known.
        app: the version to show.
        now_ms: the wall clock.
        finish_s: seconds for one introduction.
        twins: see `Introducer`.
    """
    passwords = [await trio.to_thread.run_sync(Password, secret) for secret in settings.secrets]

    def check(hub_id: str, fingerprint: str) -> bool:
        named = [peer.hub_id for peer in settings.peers]
        return judge(trust.known(), hub_id, fingerprint, settings.pinned(hub_id), named)

    one_at_a_time = trio.Lock()

    async def remember(proof: Proof) -> None:
        async with one_at_a_time:
            # Again: another hub with this name may have been remembered since this handshake began.
            check(proof.hub_id, proof.identity)
            kept = trust.known().get(proof.hub_id)
            if kept is None or kept.identity != proof.identity:
                await trust.remember(proof.hub_id, proof.identity)

    instance = secrets.token_hex(16)
    me = Party(hub_id=settings.hub_id, identity=identity, app=app, now_ms=now_ms, instance=instance)
    return Introducer(me, tuple(passwords), check, remember, Workers(), finish_s=finish_s, twins=twins)
