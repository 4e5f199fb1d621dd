"""``ecorelay send`` and ``ecorelay inbox``: a person is a peer like any other."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ecorelay import wire
from ecorelay.cli import exits, screen, session, words
from ecorelay.errors import RelayError
from ecorelay.names import is_id

STDIN = "-"
BUDGET = wire.LINE_MAX // 8
"""Characters of one page: a terminal takes more than a model."""
LIMIT = 20


# --- send -----------------------------------------------------------------------------------------------


def send(
    to: Annotated[str, typer.Argument(metavar="TO", help="A peer's name.", show_default=False)],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to say; - reads it from stdin.", show_default=False)
    ],
    urgent: Annotated[bool, typer.Option("--urgent", help="Mark it as urgent.")] = False,
    reply_to: Annotated[
        str | None,
        typer.Option("--reply-to", metavar="ID", help="The msg_id it refers to.", show_default=False),
    ] = None,
    as_name: words.As = None,
    as_json: words.Json = False,
) -> None:
    """Send a message to a peer, online or not. Prints its msg_id and its status.

    delivered: put into the peer's live session. queued: stored, and waiting in its mailbox.
    Either way it is on disk before this command ends.

    """
    words.address(to, "TO")
    words.message_id(reply_to, "--reply-to")
    me = session.person(as_name)
    body = _checked(_from_stdin() if text == STDIN else _from_argument(text))
    frame = wire.Send(req_id=0, op_id="", to=to, text=body, urgent=urgent, reply_to=reply_to)
    session.run(lambda: _send(me, frame, as_json))


async def _send(me: str, frame: wire.Send, as_json: bool) -> None:
    async with session.as_peer(me) as hub:
        sent = await hub.request(frame)
        name = hub.welcome.name
    if as_json:
        more = {"unverified": True} if sent.unverified else {}
        screen.out_json(msg_id=sent.msg_id, status=sent.status, **more, **{"from": name, "to": frame.to})
    else:
        screen.out(f"{sent.msg_id} {sent.status}\n")
        if screen.is_terminal(sys.stderr):
            where = "in the live session of" if sent.status == "delivered" else "stored, in the mailbox of"
            screen.say(f"{where} {frame.to}; answers come to {name}: ecorelay inbox --as {name}")
    if sent.unread:
        screen.say(f"{name} has {sent.unread} unread: ecorelay inbox --as {name}")


def _from_stdin() -> str:
    if screen.is_terminal(sys.stdin):
        screen.say("type the message, then Ctrl-D (Ctrl-Z and Enter on Windows):")
    data = sys.stdin.buffer.read(wire.TEXT_MAX + 1)
    if len(data) > wire.TEXT_MAX:
        raise RelayError("too_large", f"stdin holds more than {wire.TEXT_MAX:,} bytes: send it in parts")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RelayError("bad_args", f"stdin is not UTF-8 at byte {error.start}: send text") from None


def _from_argument(text: str) -> str:
    try:
        # The bytes as they were typed: a locale may have made something else of them.
        return os.fsencode(text).decode()
    except UnicodeError:
        raise RelayError("bad_args", "TEXT is not UTF-8: send text, or pass it by stdin with -") from None


def _checked(text: str) -> str:
    size = len(text.encode())
    if size > wire.TEXT_MAX:
        raise RelayError("too_large", f"TEXT has {size:,} bytes, the limit is {wire.TEXT_MAX:,}")
    if not text:
        raise RelayError("bad_args", "TEXT is empty: say something")
    return text


# --- inbox ----------------------------------------------------------------------------------------------


def inbox(
    wait: Annotated[
        float, typer.Option("--wait", "-w", min=0, max=600, metavar="S", help="Seconds to wait for news.")
    ] = 0,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=100, metavar="N", help="At most so many messages.")
    ] = LIMIT,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="ID", help="Show again from this msg_id on, read or not.", show_default=False
        ),
    ] = None,
    as_name: words.As = None,
    as_json: words.Json = False,
) -> None:
    """Print your unread messages, oldest first. Once they are printed they count as seen.

    With --wait and nothing there, exits with 5 when the time is over.

    """
    words.message_id(since, "--since")
    if since is not None and wait:
        raise RelayError("bad_args", "--since and --wait do not go together: re-read, or wait for news")
    me = session.person(as_name)
    frame = wire.Inbox(req_id=0, limit=limit, since_id=since, wait=wait, budget=BUDGET)
    session.run(lambda: _inbox(me, frame, as_json))


async def _inbox(me: str, frame: wire.Inbox, as_json: bool) -> int:
    async with session.as_peer(me) as hub:
        page = await hub.request(frame)
        name = hub.welcome.name
        try:
            _print(page, name, as_json)
        except BaseException:
            if page.lease:
                await hub.request(wire.Release(req_id=0, lease=page.lease))
            raise
        if page.lease:
            await hub.request(_confirmation(page))
    if page.remaining:
        screen.say(f"{page.remaining} more unread: ecorelay inbox again")
    if page.messages or page.groups or page.missed:
        return exits.OK
    screen.say(f"nothing unread for {name}" + (f" within {frame.wait:g} s" if frame.wait else ""))
    return exits.LIMIT if frame.wait else exits.OK


def _confirmation(page: wire.InboxPage) -> wire.Confirm:
    shown = [mail for mail in page.messages if mail.text is not None and mail.room is None]
    return wire.Confirm(
        req_id=0,
        lease=page.lease,
        msg_ids=tuple([mail.msg_id for mail in shown if is_id(mail.msg_id)]),
        notices=tuple([mail.msg_id for mail in shown if not is_id(mail.msg_id)]),
    )


def _print(page: wire.InboxPage, name: str, as_json: bool) -> None:
    """Write the page to stdout. On return its reader has it."""
    if as_json:
        groups = [{"name": group.name, "unread_count": group.unread_count} for group in page.groups]
        screen.out_json(
            me=name,
            messages=[_fields(mail) for mail in page.messages],
            remaining=page.remaining,
            groups=groups,
            missed=page.missed,
        )
        return
    now = int(time.time() * 1000)
    text = "\n".join([_shown(mail, now) for mail in page.messages])
    for group in page.groups:
        text += f"group {screen.line(group.name)}: {group.unread_count} unread\n"
    if page.missed:
        text += f"{page.missed} room messages were dropped: nobody read them in time\n"
    if text:
        screen.out(text)


def _shown(mail: wire.Mail, now: int) -> str:
    facts: Sequence[str] = (
        "urgent" if mail.urgent else "",
        mail.kind if mail.room is None else f"in room {screen.line(mail.room)}",
        screen.age(mail.ts, now),
        "shown before" if mail.redelivered or mail.seen else "",
        f"answers {screen.line(mail.reply_to)}" if mail.reply_to else "",
    )
    head = f"{screen.styled(screen.line(mail.sender), 'bold', 'cyan')}  {', '.join(filter(None, facts))}"
    head += f"  {screen.styled(screen.line(mail.msg_id), 'dim')}\n"
    if mail.text is None:
        return head + f"    (was put into the live session; its text: --since {mail.msg_id})\n"
    return head + screen.lines(mail.text) + "\n"


def _fields(mail: wire.Mail) -> dict[str, Any]:
    """The names are those of the tool relay_inbox."""
    fields: dict[str, Any] = {"msg_id": mail.msg_id, "kind": mail.kind, "from": mail.sender}
    if mail.kind == "ask":
        fields["ask_id"] = mail.msg_id
    for optional in ("broadcast_id", "reply_to", "room"):
        if (value := getattr(mail, optional)) is not None:
            fields[optional] = value
    fields["ts"] = screen.timestamp(mail.ts)
    for mark in ("urgent", "redelivered", "seen"):
        if getattr(mail, mark):
            fields[mark] = True
    if mail.pushed_at:
        fields["pushed"] = screen.timestamp(mail.pushed_at)
    if mail.text is not None:
        fields["text"] = mail.text
    return fields
