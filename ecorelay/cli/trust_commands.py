"""``ecorelay trust`` and ``distrust``: which identity is which hub, where a person has to say so."""

from __future__ import annotations

from typing import Annotated

import typer

from ecorelay.cli import bridge, complete, screen, session, words
from ecorelay.errors import RelayError
from ecorelay.names import key

commands = typer.Typer(**words.TYPER)

HubId = Annotated[
    str,
    typer.Argument(metavar="HUB_ID", help="The other hub.", show_default=False, autocompletion=complete.hubs),
]


@commands.command(
    "trust",
    **words.with_example("ecorelay trust desk SHA256:Qm9uam91ci1kZS1sYS1tYWNoaW5lLWRlLWRyb2l0ZS4u"),
)
def trust(
    hub_id: HubId,
    fingerprint: Annotated[
        str,
        typer.Argument(
            metavar="FINGERPRINT", help="As `ecorelay identity show` prints it there.", show_default=False
        ),
    ],
    as_json: words.Json = False,
) -> None:
    """Say that from now on this hub is whoever has this identity.

    For a machine that was set up anew, or that you distrusted by mistake. Read the fingerprint on that
    machine, not from an error message: whoever answers in its place shows one too. What waits for the hub
    goes to whoever has that identity.

    """
    words.name(hub_id, "HUB_ID")
    paths = session.paths()
    from ecorelay_bridge.identity import is_fingerprint

    if not is_fingerprint(fingerprint):
        raise RelayError(
            "bad_args",
            f"FINGERPRINT is {fingerprint!r}: it looks like SHA256: and 43 characters, see `ecorelay "
            "identity show` on that machine",
        )
    settings = bridge.read(paths)
    if settings is not None and key(hub_id) == key(settings.hub_id):
        raise RelayError("bad_args", f"{hub_id} is this hub itself")
    if (paths.home / "identity.pem").exists() and bridge.identity(
        paths, make=False
    ).fingerprint == fingerprint:
        raise RelayError(
            "bad_args", "that is this hub's own identity: call `ecorelay identity show` over there"
        )
    known = bridge.trust(paths)
    name = bridge.spelled(known, hub_id)
    before = known.known().get(name)
    others = known.trust(name, fingerprint)
    session.run(lambda: _trusted(name, fingerprint, before is not None, as_json))
    for other in others:
        screen.say(f"{other}, which was distrusted, has the same identity: it is trusted again too")
    if settings is not None and settings.pinned(name) not in ("", fingerprint):
        screen.say(f"{paths.bridge} pins another identity for {name}: correct it there too, it counts first")


async def _trusted(name: str, fingerprint: str, again: bool, as_json: bool) -> None:
    link = bridge.link(await bridge.status(), name)
    reloaded = await _heeded()
    waiting = 0 if link is None else link.waiting
    if as_json:
        screen.out_json(hub_id=name, identity=fingerprint, waiting=waiting, reloaded=reloaded)
        return
    screen.say(f"{name} is {'now ' if again else ''}whoever has {fingerprint}")
    if reloaded:
        screen.say(
            "if it is the other side that dials, it tries again within a minute, or after its `hub reload`"
        )
    if link is not None and waiting:
        screen.say(
            f"{screen.many(waiting, 'message')} ({screen.size(link.waiting_bytes)}) that wait for it go there"
        )


async def _heeded() -> bool:
    """Have the running hub heed whom we trust, as it does whatever is in bridge.json; whether one runs."""
    try:
        return await bridge.reload()
    except RelayError as error:
        if error.code != "bad_args":
            raise
        screen.say(f"note: bridge.json has mistakes, which wait to be mended: {error.message}")
        return True


@commands.command("distrust", **words.with_example("ecorelay distrust desk"))
def distrust(hub_id: HubId, as_json: words.Json = False) -> None:
    """Refuse a hub from now on, and end its link at once.

    It is refused under its name, and its identity under any name. It still knows the secret, with which it
    could come as a new hub: give the others a new one (docs/federation.md).

    """
    words.name(hub_id, "HUB_ID")
    known = bridge.trust(session.paths())
    name = bridge.spelled(known, hub_id)
    known.distrust(name)
    session.run(lambda: _distrusted(name, as_json))


async def _distrusted(name: str, as_json: bool) -> None:
    reloaded = await _heeded()
    if as_json:
        screen.out_json(hub_id=name, distrusted=True, reloaded=reloaded)
        return
    screen.say(f"{name} is refused{', its link has ended' if reloaded else ''}")
    screen.say(
        "it still knows the secret: change it on the other machines (docs/federation.md, Changing the secret)"
    )
