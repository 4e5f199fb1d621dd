"""What the doctor sees of other machines: bridge.json, and the links of the running hub."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ecorelay import wire
from ecorelay.cli import bridge, hub_links, screen
from ecorelay.errors import RelayError
from ecorelay.paths import Paths
from ecorelay_adapters.clients.assistant import Finding


def check_settings(paths: Paths) -> Iterator[Finding]:
    """Whether bridge.json, where there is one, can be used, and what in it should be looked at."""
    check = "bridge.json"
    try:
        settings = bridge.read(paths)
    except RelayError as error:
        yield Finding(
            check=check,
            level="fail",
            says=error.message,
            remedy="mend it, then `ecorelay hub reload`; messages on this machine go on meanwhile",
        )
        return
    if settings is None:
        return
    listens = f"port {settings.listen}" if settings.listen else "no port"
    dials = screen.many(len(settings.peers), "hub")
    relays = f", meets others at {screen.many(len(settings.relays), 'relay')}" if settings.relays else ""
    says = f"{settings.hub_id}, listens at {listens}, dials {dials}{relays}"
    yield Finding(check=check, level="ok", says=says)
    for warning in settings.warnings:
        yield Finding(check=check, level="warn", says=warning, remedy="see docs/federation.md")


def check_links(found: wire.HubDetails) -> Iterator[Finding]:
    """How each link is, and why one is not there."""
    now = time.time_ns() // 1_000_000
    for each in found.links:
        says = hub_links.in_words(each, now)
        yield Finding(
            check="link",
            level="ok" if each.up else "warn",
            says=says,
            remedy="ecorelay bridge-check",
        )
    for relay in found.relays:
        yield Finding(
            check="relay",
            level="warn" if relay.trouble else "ok",
            says=hub_links.relay_in_words(relay, now),
            remedy="ecorelay bridge-check",
        )
