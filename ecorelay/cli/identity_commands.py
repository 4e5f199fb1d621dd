"""``ecorelay identity``: by what other hubs know this one; kept safe, and moved."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ecorelay.cli import bridge, screen, session, words
from ecorelay.errors import RelayError
from ecorelay.paths import make_private_dir, write_private

app = typer.Typer(
    **words.TYPER,
    **words.with_example("ecorelay identity show", "ecorelay identity export ~/desk-identity.pem"),
    no_args_is_help=True,
)


@app.callback()
def identity() -> None:
    """Look after the key by which other hubs know this one."""


@app.command("show", **words.with_example("ecorelay identity show"))
def show(as_json: words.Json = False) -> None:
    """Print the fingerprint that people compare. Nothing of it is secret."""
    paths = session.paths()
    me = bridge.identity(paths, make=False)
    if as_json:
        screen.out_json(identity=me.fingerprint, path=str(me.path))
    else:
        screen.out(f"{me.fingerprint}\n")


@app.command("export", **words.with_example("ecorelay identity export ~/desk-identity.pem"))
def export(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The new file; must not exist yet.", show_default=False)
    ],
    as_json: words.Json = False,
) -> None:
    """Copy the identity to a new file.

    For a backup, or a move to another machine. Whoever has that file and the secret can pass for this
    hub. Without a copy, a lost identity means that every other hub has to be told of the new one with
    `ecorelay trust`.

    """
    me = bridge.identity(session.paths(), make=False)
    path = Path(os.path.abspath(file))
    if not file or file == "-" or path.is_dir():
        raise RelayError("bad_args", f"FILE is {file!r}: name a new file; an identity is never printed")
    if os.path.lexists(path):
        raise RelayError("bad_args", f"FILE is {file!r}, which is there already: name a new one")
    try:
        write_private(path, me.path.read_bytes(), durable=True)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot write {path}: {error.strerror or error}") from None
    if as_json:
        screen.out_json(path=str(path), identity=me.fingerprint)
        return
    screen.out(f"{screen.line(str(path))}\n")
    screen.say("whoever has that file and the secret can pass for this hub: keep it to yourself")


@app.command("import", **words.with_example("ecorelay identity import ~/desk-identity.pem"))
def import_(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="As `ecorelay identity export` wrote it.", show_default=False),
    ],
    as_json: words.Json = False,
) -> None:
    """Make an exported identity this hub's.

    This machine takes the place of the other for good. What this hub had before is kept beside it as
    identity.pem.old. Two machines that use one identity at the same time cannot both be linked.

    """
    paths = session.paths()
    source = Path(os.path.abspath(file))
    if not file or not source.is_file():
        raise RelayError("bad_args", f"FILE is {file!r}: there is no such file")
    from ecorelay_bridge import import_identity, machine_mark

    make_private_dir(paths.home)
    place = paths.home / "identity.pem"
    before = ""
    with suppress(RelayError):  # none, or one that is damaged: it is to be replaced
        before = bridge.identity(paths, make=False).fingerprint
    me = import_identity(source, place, machine_mark())
    session.run(lambda: _imported(me.fingerprint, before, str(place), as_json))


async def _imported(fingerprint: str, before: str, place: str, as_json: bool) -> None:
    reloaded = await bridge.reload()
    if as_json:
        screen.out_json(identity=fingerprint, before=before, path=place, reloaded=reloaded)
        return
    screen.out(f"{fingerprint}\n")
    if before and before != fingerprint:
        screen.say(
            f"it was {before}: hubs that know this one by that refuse it, until `ecorelay trust` there"
        )
    screen.say("the machine it came from must not use it any more")
