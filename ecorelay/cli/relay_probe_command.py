"""``ecorelay relay-probe``: how quick a relay server is, and whether it can be used at all."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ecorelay.cli import bridge, exits, screen, session, words
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from ecorelay_bridge.settings import RelayServer

commands = typer.Typer(**words.TYPER)

TOKEN: Final = "ECORELAY_RELAY_TOKEN"
"""A variable with the token; an argument would be seen by every user of the machine."""


@commands.command(
    "relay-probe",
    **words.with_example(
        "ecorelay relay-probe                            # those of bridge.json",
        "ecorelay relay-probe wss://relay.example.org    # asks for the token, unless bridge.json has it",
    ),
)
def relay_probe(
    url: Annotated[
        str,
        typer.Argument(
            metavar="[URL]",
            help="wss://HOST or ws://HOST:PORT. Default: those of bridge.json.",
            show_default=False,
        ),
    ] = "",
    as_json: words.Json = False,
) -> None:
    """Measure a relay server: from here to it and back to here.

    Connects twice, under keys made for the occasion, and sends from one to the other: there and back again,
    then for a second as much as goes. Disturbs no hub. The token is that of bridge.json for this URL, else
    of the variable ECORELAY_RELAY_TOKEN, else it is asked for. Exits with 1 if the server cannot be used.

    """
    relays = _relays(url)
    session.run(lambda: _probe(relays, as_json))


def _relays(url: str) -> tuple[RelayServer, ...]:
    """What to probe.

    Raises:
        RelayError: ``bad_args``, nothing or not this.
    """
    paths = session.paths()
    configured = settings.relays if (settings := bridge.read(paths)) is not None else ()
    if not url:
        if not configured:
            raise RelayError("bad_args", f"there is no relay in {paths.bridge}: name its URL")
        return configured
    from ecorelay_bridge.settings import RelayServer, Secret, is_relay_url

    if not is_relay_url(url):
        raise RelayError("bad_args", f"URL is {url!r}: it must begin with wss:// (or ws://) and name a host")
    found = next((each for each in configured if each.url.rstrip("/") == url.rstrip("/")), None)
    if found is not None:
        return (found,)
    return (RelayServer(url=url, token=Secret(_token(url))),)


def _token(url: str) -> str:
    if token := os.environ.get(TOKEN, ""):
        return token
    if not screen.is_terminal(sys.stdin):
        raise RelayError(
            "bad_args", f"the relay's token is missing: put it into the variable {TOKEN}, or into bridge.json"
        )
    import getpass

    screen.say(f"the token of {screen.line(url)}, then Enter; it is not shown")
    try:
        token = getpass.getpass("", stream=sys.stderr)
    except EOFError:
        token = ""
    if not token:
        raise RelayError("bad_args", "nothing was typed")
    return token


async def _probe(relays: tuple[RelayServer, ...], as_json: bool) -> int:
    from ecorelay_bridge import Refused, probe
    from ecorelay_bridge.relay_road import Where

    results, well = [], True
    for relay in relays:
        name = Where(relay.url).name
        try:
            found = await probe(relay)
        except Refused as refused:
            well = False
            results.append(
                {
                    "relay": name,
                    "ok": False,
                    "reason": str(refused.reason),
                    "cause": refused.sentence,
                    "remedy": refused.remedy,
                }
            )
            if not as_json:
                screen.fail(screen.line(f"{name}: {refused.sentence}"))
                if refused.remedy:
                    screen.say(screen.line(refused.remedy))
            continue
        results.append(
            {
                "relay": name,
                "ok": True,
                "round_trip_ms": found.round_trip_ms,
                "best_ms": found.best_ms,
                "bytes_per_s": found.bytes_per_s,
                "hubs": found.hubs,
            }
        )
        if not as_json:
            rows = [
                ("relay", screen.line(name)),
                ("round trip", f"{found.round_trip_ms:g} ms (best {found.best_ms:g} ms), over it and back"),
                ("throughput", f"{screen.size(found.bytes_per_s)}/s"),
                ("hubs there", str(found.hubs)),
            ]
            screen.out(screen.table(rows))
    if as_json:
        screen.out_json(ok=well, relays=results)
    return exits.OK if well else exits.REFUSED
