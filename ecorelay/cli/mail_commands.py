"""``ecorelay send``, ``inbox`` and ``reply``: a person is a peer like any other."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ecorelay import wire
from ecorelay.cli import exits, screen, session, texts, words
from ecorelay.errors import RelayError
from ecorelay.names import is_id

commands = typer.Typer(**words.TYPER)

BUDGET = wire.LINE_MAX // 8
"""Characters of one page: a terminal takes more than a model."""
LIMIT = 20


# --- send -----------------------------------------------------------------------------------------------


@commands.command(
    "send",
    **words.with_example(
        'ecorelay send api "Is the schema of orders final?"', "git diff | ecorelay send reviewer - --urgent"
    ),
)
def send(
    to: words.To,
    text: words.Text,
    urgent: Annotated[bool, typer.Option("--urgent", help="Mark it as urgent.")] = False,
    reply_to: Annotated[
        str | None,
        typer.Option("--reply-to", metavar="ID", help="The msg_id it refers to.", show_default=False),
    ] = None,
    as_name: words.As = None,
    as_json: words.Json = False,
) -> None:
    """Send a message to a peer, online or not. Prints its msg_id and its status.

    delivered: put into the peer's live session. queued: stored, and waiting in its mailbox, or here until
    the link to its hub is back. Either way it is on disk before this command ends.

    """
    words.address(to, "TO")
    words.message_id(reply_to, "--reply-to")
    me = session.person(as_name)
    frame = wire.Send(req_id=0, op_id="", to=to, text=texts.said(text), urgent=urgent, reply_to=reply_to)
    session.run(lambda: _send(me, frame, as_json))


async def _send(me: str, frame: wire.Send, as_json: bool) -> None:
    async with session.as_peer(me) as hub:
        sent = await hub.request(frame)
        name = hub.welcome.name
    if as_json:
        more = {"unverified": True} if sent.unverified else {}
        screen.out_json(msg_id=sent.msg_id, status=sent.status, **more, **{"from": name, "to": frame.to})
    else:
        screen.out(f"{screen.line(sent.msg_id)} {sent.status}\n")
        if screen.is_terminal(sys.stderr):
            screen.say(f"{_where(sent, frame.to)}; answers come to {name}: ecorelay inbox --as {name}")
    if sent.unverified:
        screen.say(f"whether there is a {frame.to} is not known: its hub has never told of one")
    say_unread(sent.unread, name)


def _where(sent: wire.Sent, to: str) -> str:
    if sent.status == "delivered":
        return f"in the live session of {to}"
    return f"stored, on its way to {to}" if "@" in to else f"stored, in the mailbox of {to}"


@commands.command(
    "reply",
    **words.with_example(
        'ecorelay reply 01j5zk3m8v9w2x4y6z7abcdefg "Yes, since Monday."', "ecorelay reply ID - < answer.txt"
    ),
)
def reply(
    ask_id: Annotated[
        str,
        typer.Argument(metavar="ID", help="The msg_id `ecorelay inbox` showed.", show_default=False),
    ],
    text: words.Text,
    as_name: words.As = None,
    as_json: words.Json = False,
) -> None:
    """Answer a question, or any message you were sent, by its id.

    It goes to whoever sent that, marked as the answer to it, and what you answered counts as seen.

    """
    words.message_id(ask_id, "ID")
    me = session.person(as_name)
    frame = wire.Reply(req_id=0, op_id="", ask_id=ask_id, text=texts.said(text))
    session.run(lambda: _reply(me, frame, as_json))


async def _reply(me: str, frame: wire.Reply, as_json: bool) -> None:
    async with session.as_peer(me) as hub:
        sent = await hub.request(frame)
        name = hub.welcome.name
    if as_json:
        screen.out_json(msg_id=sent.msg_id, status=sent.status, ask_id=frame.ask_id, **{"from": name})
    else:
        screen.out(f"{screen.line(sent.msg_id)} {sent.status}\n")
        if screen.is_terminal(sys.stderr):
            screen.say(f"whether it was read: ecorelay trace {sent.msg_id}")
    say_unread(sent.unread, name)


def say_unread(unread: int, name: str) -> None:
    """Tell the person `name` that mail waits, if some does."""
    if unread:
        screen.say(f"{name} has {unread} unread: ecorelay inbox --as {name}")


# --- inbox ----------------------------------------------------------------------------------------------


@commands.command(
    "inbox",
    **words.with_example("ecorelay inbox", "ecorelay inbox --wait 60 --json", "ecorelay inbox --as reviewer"),
)
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
    asks = [mail.msg_id for mail in page.messages if mail.kind == "ask"]
    if asks and screen.is_terminal(sys.stderr):
        screen.say(f"to answer an ask: ecorelay reply {asks[0]} TEXT")
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
            messages=[fields(mail) for mail in page.messages],
            remaining=page.remaining,
            groups=groups,
            missed=page.missed,
        )
        return
    now = int(time.time() * 1000)
    text = "\n".join([shown(mail, now) for mail in page.messages])
    for group in page.groups:
        text += f"group {screen.line(group.name)}: {group.unread_count} unread\n"
    if page.missed:
        text += f"{page.missed} room messages were dropped: nobody read them in time\n"
    if text:
        screen.out(text)


def shown(mail: wire.Mail, now: int) -> str:
    """One message for a person, at the time `now`."""
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
        return head + f"    (was put into the live session; its text: --since {screen.line(mail.msg_id)})\n"
    return head + screen.lines(mail.text) + "\n"


def fields(mail: wire.Mail) -> dict[str, Any]:
    """One message for a script, under the names of the tool relay_inbox."""
    found: dict[str, Any] = {"msg_id": mail.msg_id, "kind": mail.kind, "from": mail.sender}
    if mail.kind == "ask":
        found["ask_id"] = mail.msg_id
    for optional in ("broadcast_id", "reply_to", "room"):
        if (value := getattr(mail, optional)) is not None:
            found[optional] = value
    found["ts"] = screen.timestamp(mail.ts)
    for mark in ("urgent", "redelivered", "seen"):
        if getattr(mail, mark):
            found[mark] = True
    if mail.pushed_at:
        found["pushed"] = screen.timestamp(mail.pushed_at)
    if mail.text is not None:
        found["text"] = mail.text
    return found
