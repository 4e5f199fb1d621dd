"""``ecorelay purge`` and ``ecorelay backup``: what lies on the disk, less of it or twice."""

from __future__ import annotations

import os
import time
from typing import Annotated, Final

import typer

from ecorelay import wire
from ecorelay.cli import exits, screen, session, words
from ecorelay.errors import RelayError
from ecorelay.upgrade import is_older

commands = typer.Typer(**words.TYPER)

PATIENCE_S: Final = 600.0
"""A database of 2 GiB on a slow disk takes its time."""


# --- purge ----------------------------------------------------------------------------------------------


@commands.command(
    "purge", **words.with_example("ecorelay purge --older 30d", "ecorelay purge --older 2w --unread --yes")
)
def purge(
    older: Annotated[
        str,
        typer.Option(
            "--older",
            metavar="PERIOD",
            help=f"What is older than this goes: {words.PERIOD_RULE}.",
            show_default=False,
        ),
    ],
    unread: Annotated[
        bool, typer.Option("--unread", help="Also mail nobody has seen; its senders find a notice.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: words.Json = False,
) -> None:
    """Remove what is old, for good.

    That is: mail that was seen, lines of groups, and receipts. Says what will go and asks first; where
    stdin is no terminal it needs --yes.

    """
    period = words.period(older, "--older")
    if not yes:
        screen.refuse_unasked("a purge", "--yes")
        session.run(lambda: _say_what_goes(older, unread))
        if not screen.agreed("Remove it for good?"):
            screen.say("nothing was removed")
            raise SystemExit(exits.REFUSED)
    frame = wire.Purge(req_id=0, before=max(0, int((time.time() - period) * 1000)), unread=unread)
    session.run(lambda: _purge(frame, as_json))


async def _say_what_goes(older: str, unread: bool) -> None:
    async with session.looking_on() as hub:
        found = await hub.request(wire.HubStatus(req_id=0))
    if not is_older(found.version):
        screen.say(
            f"this hub holds {screen.many(found.mail_messages, 'message')}, {found.mail_unread} of them "
            f"unread, in {screen.many(found.mailboxes, 'mailbox')} ({screen.size(found.mail_bytes)}), "
            f"and {screen.many(found.groups, 'group')}"
        )
    what = "mail, read or not," if unread else "mail that was read,"
    screen.say(f"what goes: {what} lines of groups, and receipts, all that is older than {older}")


async def _purge(frame: wire.Purge, as_json: bool) -> None:
    async with session.looking_on() as hub:
        gone = await hub.request(frame, PATIENCE_S)
    if as_json:
        screen.out_json(messages=gone.messages, lines=gone.lines, before=screen.timestamp(frame.before))
    else:
        screen.out(
            f"removed: {screen.many(gone.messages, 'message')}, {screen.many(gone.lines, 'line')} of groups\n"
        )


# --- backup ---------------------------------------------------------------------------------------------


@commands.command("backup", **words.with_example("ecorelay backup ~/ecorelay-monday.db"))
def backup(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The new file; must not exist yet.", show_default=False)
    ],
    as_json: words.Json = False,
) -> None:
    """Copy all mail, peers and groups to a new file.

    Only you can read it, and the hub makes it while it goes on. To use it: end the assistants, stop the
    hub, and put the copy in place of hub.db in the data directory (`ecorelay config path` shows where
    that is), with no hub.db-wal and hub.db-shm beside it.

    """
    path = _new_file(file)
    session.run(lambda: _backup(path, as_json))


def _new_file(given: str) -> str:
    path = os.path.abspath(given)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise RelayError("bad_args", f"FILE is {given!r}: its path must be UTF-8") from None
    if not given:
        raise RelayError("bad_args", "FILE is empty: name a new file")
    if os.path.isdir(path):
        raise RelayError("bad_args", f"FILE is {given!r}, a directory: name a new file in it")
    if os.path.lexists(path):
        raise RelayError("bad_args", f"FILE is {given!r}, which is there already: name a new one")
    return path


async def _backup(path: str, as_json: bool) -> None:
    async with session.looking_on() as hub:
        made = await hub.request(wire.Backup(req_id=0, path=path), PATIENCE_S)
    if as_json:
        screen.out_json(path=made.path, size=made.size)
        return
    screen.out(f"{screen.line(made.path)}\n")
    screen.say(
        f"{screen.size(made.size)}, complete and on disk; it holds texts in plain: keep it to yourself"
    )
