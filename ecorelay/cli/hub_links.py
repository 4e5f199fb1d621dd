"""``ecorelay hub reload`` and ``forget``, and what ``hub status`` says of links to other hubs."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import trio
import typer

from ecorelay import names, wire
from ecorelay.cli import bridge, complete, exits, screen, session, words
from ecorelay.errors import RelayError

SETTLED_WITHIN_S: Final = 3.0
"""How long links get until it is said how they are."""
LOOK_S: Final = 0.1


# --- in words -------------------------------------------------------------------------------------------


def rows(found: wire.HubDetails) -> list[tuple[str, str]]:
    """What `hub status` shows of other hubs."""
    now = int(time.time() * 1000)
    shown = [("link" if n == 0 else "", in_words(each, now)) for n, each in enumerate(found.links)]
    if found.listening:
        shown.append(("listens", f"for other hubs at {', '.join(map(screen.line, found.listening))}"))
    return shown + [
        ("relay" if n == 0 else "", relay_in_words(each, now)) for n, each in enumerate(found.relays)
    ]


def in_words(each: wire.LinkDetails, now: int) -> str:
    """One other hub, in one line."""
    name = screen.line(each.hub_id)
    waits = f"; {screen.many(each.waiting, 'message')} ({screen.size(each.waiting_bytes)}) wait for it"
    if each.up:
        # Over a relay, the address says so itself.
        where = f"tcp {each.address}" if each.road == "tcp" else each.address
        facts = ["up", screen.line(where), f"{each.round_trip_ms:g} ms" if each.round_trip_ms else ""]
        facts.append(f"ecorelay {screen.line(each.version)}" if each.version else "")
        facts.append(f"{each.online} of {screen.many(each.peers, 'peer')} online")
        said = f"{name}: {', '.join(filter(None, facts))}"
    else:
        said = f"{name}: down, " + (f"seen {screen.age(each.since, now)}" if each.since else "never seen yet")
    return said + (waits if each.waiting else "") + (f"; {screen.line(each.trouble)}" if each.trouble else "")


def relay_in_words(each: wire.RelayDetails, now: int) -> str:
    """One relay server, in one line."""
    name = screen.line(each.name)
    if each.up:
        but = f"; {screen.line(each.trouble)}" if each.trouble else ""
        return f"{name}: connected, {screen.many(each.hubs, 'other hub')} there{but}"
    if not each.trouble:
        return f"{name}: connecting"
    return f"{name}: down for {screen.duration((now - each.since) / 1000)}; {screen.line(each.trouble)}"


def relay_fields(each: wire.RelayDetails) -> dict[str, Any]:
    """One relay server, for a script."""
    return {
        "name": each.name,
        "up": each.up,
        "since": screen.timestamp(each.since) if each.since else "",
        "hubs": each.hubs,
        "trouble": each.trouble,
    }


def fields(each: wire.LinkDetails) -> dict[str, Any]:
    """One other hub, for a script."""
    return {
        "hub_id": each.hub_id,
        "up": each.up,
        "since": screen.timestamp(each.since) if each.since else "",
        "road": each.road,
        "address": each.address,
        "version": each.version,
        "round_trip_ms": each.round_trip_ms,
        "waiting": each.waiting,
        "waiting_bytes": each.waiting_bytes,
        "in_flight": each.in_flight,
        "peers": each.peers,
        "online": each.online,
        "trouble": each.trouble,
    }


# --- reload ---------------------------------------------------------------------------------------------


def reload(as_json: words.Json = False) -> None:
    """Have the running hub read bridge.json again.

    Its links are made anew; no session, and no mail, is lost. A file with mistakes is refused, and all
    stays as it is. Sending the hub SIGHUP does the same, without a word. Exits with 3 when none is running.

    """
    session.run(lambda: _reload(as_json))


async def _reload(as_json: bool) -> int:
    async with session.at_running_hub() as hub:
        settings = await trio.to_thread.run_sync(bridge.read, session.paths())
        found = await hub.request(wire.HubStatus(req_id=0))
        wanted = set()
        if settings is not None:
            bridge.refuse_renamed(settings, found)
            wanted = {names.key(peer.hub_id) for peer in settings.peers}
            # Those that dial this hub come again, if they still may.
            wanted |= {names.key(each.hub_id) for each in found.links if each.up}
        await hub.request(wire.HubReload(req_id=0))
        found = await hub.request(wire.HubStatus(req_id=0))
        with trio.move_on_after(SETTLED_WITHIN_S):
            while not _settled(found, wanted, settings is not None and bool(settings.listen)):
                await trio.sleep(LOOK_S)
                found = await hub.request(wire.HubStatus(req_id=0))
    if as_json:
        screen.out_json(
            hub_id=found.hub_id,
            listening=list(found.listening),
            links=[fields(each) for each in found.links],
            relays=[relay_fields(each) for each in found.relays],
            problems=list(found.problems),
        )
        return exits.OK
    screen.out(screen.table([*rows(found), *[("problem", screen.line(each)) for each in found.problems]]))
    if settings is None:
        screen.say("there is no bridge.json: this hub links to no other (`ecorelay bridge-init`)")
    else:
        for warning in settings.warnings:
            screen.say(f"note: {warning}")
    return exits.OK


def _settled(found: wire.HubDetails, wanted: set[str], listens: bool) -> bool:
    """Whether it is known how each link is that was asked for."""
    told = {names.key(each.hub_id) for each in found.links if each.up or each.trouble}
    relays = all(each.up or each.trouble for each in found.relays)
    return wanted <= told and relays and bool(found.listening) >= listens


# --- forget ---------------------------------------------------------------------------------------------


def forget(
    hub_id: Annotated[
        str,
        typer.Argument(
            metavar="HUB_ID", help="The other hub.", show_default=False, autocompletion=complete.hubs
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: words.Json = False,
) -> None:
    """Forget another hub, and what waits for it.

    For one that is gone for good, with all that is known of its peers and its identity. Mail that waits
    for it ends as dead (hub_forgotten), and its senders find a notice. Says how much waits and asks
    first. Should it come again, it is a new hub; to keep one out, `ecorelay distrust`.

    """
    words.name(hub_id, "HUB_ID")
    paths = session.paths()
    settings = bridge.read(paths)
    if settings is not None and names.key(hub_id) in {names.key(peer.hub_id) for peer in settings.peers}:
        raise RelayError(
            "bad_args",
            f"{paths.bridge} has {hub_id} among its peers, so it would come again: take it out first",
        )
    if not yes:
        screen.refuse_unasked("forgetting a hub", "--yes")
        session.run(lambda: _say_what_waits(hub_id))
        if not screen.agreed(f"Forget {hub_id}?"):
            screen.say("nothing was changed")
            raise SystemExit(exits.REFUSED)
    session.run(lambda: _forget(hub_id, as_json))


async def _say_what_waits(hub_id: str) -> None:
    async with session.looking_on() as hub:
        link = bridge.link(await hub.request(wire.HubStatus(req_id=0)), hub_id)
    if link is not None:
        waits = f"{screen.many(link.waiting, 'message')} ({screen.size(link.waiting_bytes)}) waiting for it"
        screen.say(f"{link.hub_id} is {'linked' if link.up else 'away'}, with {waits}")


async def _forget(hub_id: str, as_json: bool) -> None:
    paths = session.paths()
    kept = False
    knew = (paths.home / "known-hubs.json").exists() and _forget_identity(hub_id)
    async with session.looking_on() as hub:
        try:
            gone = await hub.request(wire.ForgetHub(req_id=0, hub_id=hub_id))
        except RelayError as error:
            if error.code != "hub_not_found" or not knew:
                raise
            gone = wire.HubForgotten(req_id=0)
        if knew:
            await hub.request(wire.HubReload(req_id=0))
        kept = knew and _is_distrusted(hub_id)
    if as_json:
        screen.out_json(hub_id=hub_id, messages=gone.messages, distrusted=kept)
        return
    told = (
        f"; {screen.many(gone.messages, 'message')} ended as dead, senders find a notice"
        if gone.messages
        else ""
    )
    screen.say(f"forgotten: {hub_id}{told}")
    if kept:
        screen.say("it stays distrusted, and refused")


def _forget_identity(hub_id: str) -> bool:
    """Forget who it was, unless it is distrusted; whether it was known."""
    known = bridge.trust(session.paths())
    name = bridge.spelled(known, hub_id)
    if name not in known.known():
        return False
    if not known.known()[name].distrusted:
        known.forget(name)
    return True


def _is_distrusted(hub_id: str) -> bool:
    known = bridge.trust(session.paths())
    found = known.known().get(bridge.spelled(known, hub_id))
    return found is not None and found.distrusted
