"""``ecorelay groups``: stored conversations of several peers, with an admin and a history."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from ecorelay import wire
from ecorelay.cli import complete, screen, session, texts, words
from ecorelay.cli.mail_commands import BUDGET, say_unread

app = typer.Typer(
    **words.TYPER,
    **words.with_example(
        "ecorelay groups", "ecorelay groups create release api web", "ecorelay groups history release"
    ),
    invoke_without_command=True,
)

LIMIT = 50

Group = Annotated[
    str,
    typer.Argument(
        metavar="GROUP", help="The group's name.", show_default=False, autocompletion=complete.groups
    ),
]
Peer = Annotated[
    str,
    typer.Argument(metavar="PEER", help="A peer's name.", show_default=False, autocompletion=complete.peers),
]


# --- looking --------------------------------------------------------------------------------------------


@app.callback()
def groups(context: typer.Context, as_name: words.As = None, as_json: words.Json = False) -> None:
    """List your groups, with how much of each you have not seen."""
    if words.only_alone(context, **{"as": as_name}, json=as_json):
        me = session.person(as_name)
        session.run(lambda: _groups(me, as_json))


async def _groups(me: str, as_json: bool) -> None:
    async with session.as_peer(me) as hub:
        found = await hub.request(wire.Groups(req_id=0))
        name = hub.welcome.name
    if as_json:
        listed = [{"name": group.name, "unread_count": group.unread_count} for group in found.groups]
        screen.out_json(me=name, groups=listed)
        return
    if not found.groups:
        screen.say(f"{name} is in no group: ecorelay groups create NAME MEMBER...")
        return
    rows = [(screen.line(group.name), f"{group.unread_count} unread") for group in found.groups]
    screen.out(screen.table(rows))


@app.command("info", **words.with_example("ecorelay groups info release"))
def info(group: Group, as_name: words.As = None, as_json: words.Json = False) -> None:
    """Show who is in a group, and who is its admin."""
    frame = wire.GroupInfo(req_id=0, group=words.address(group, "GROUP"))
    me = session.person(as_name)
    session.run(lambda: _info(me, frame, as_json))


async def _info(me: str, frame: wire.GroupInfo, as_json: bool) -> None:
    async with session.as_peer(me) as hub:
        found = await hub.request(frame)
    if as_json:
        members = [{"name": member.name, "online": member.online} for member in found.members]
        screen.out_json(
            group=found.group, admin=found.admin, members=members, unread_count=found.unread_count
        )
        return
    rows = [
        (
            screen.line(member.name),
            "online" if member.online else "offline",
            "admin" if member.name == found.admin else "",
        )
        for member in found.members
    ]
    screen.out(screen.table(rows))
    if found.unread_count:
        screen.say(f"{found.unread_count} unread: ecorelay groups history {found.group}")


@app.command(
    "history",
    **words.with_example("ecorelay groups history release", "ecorelay groups history release -n 500 --json"),
)
def history(
    group: Group,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=500, metavar="N", help="At most so many lines.")
    ] = LIMIT,
    as_name: words.As = None,
    as_json: words.Json = False,
) -> None:
    """Print what you have not seen of a group, oldest first. Once it is printed it counts as seen."""
    frame = wire.GroupHistory(req_id=0, group=words.address(group, "GROUP"), limit=limit, budget=BUDGET)
    me = session.person(as_name)
    session.run(lambda: _history(me, frame, as_json))


async def _history(me: str, frame: wire.GroupHistory, as_json: bool) -> None:
    async with session.as_peer(me) as hub:
        page = await hub.request(frame)
        try:
            _print(page, hub.welcome.name, as_json)
        except BaseException:
            if page.messages:
                await hub.request(wire.GroupRelease(req_id=0, group=frame.group))
            raise
        if page.messages:
            await hub.request(wire.GroupConfirm(req_id=0, group=frame.group, upto=page.upto))
    if page.unread_remaining:
        screen.say(f"{page.unread_remaining} more unread: ecorelay groups history {page.group} again")
    elif not page.messages:
        screen.say(f"nothing unread in {page.group}")


def _print(page: wire.GroupPage, name: str, as_json: bool) -> None:
    """Write the page to stdout. On return its reader has it."""
    if as_json:
        screen.out_json(
            me=name,
            group=page.group,
            messages=[_fields(entry) for entry in page.messages],
            unread_remaining=page.unread_remaining,
            missed=page.missed,
        )
        return
    now = int(time.time() * 1000)
    text = "\n".join([_shown(entry, now) for entry in page.messages])
    if page.missed:
        text = f"{page.missed} older lines left the history before you read them\n" + text
    if text:
        screen.out(text)


def _shown(entry: wire.GroupEntry, now: int) -> str:
    style = ("dim",) if entry.kind == "system" else ("bold", "cyan")
    head = f"{screen.styled(screen.line(entry.sender), *style)}  {screen.age(entry.ts, now)}"
    head += f"  {screen.styled(screen.line(entry.msg_id), 'dim')}\n"
    return head + screen.lines(entry.text) + "\n"


def _fields(entry: wire.GroupEntry) -> dict[str, Any]:
    """The names are those of the tool relay_group_history."""
    return {
        "id": entry.msg_id,
        "from": entry.sender,
        "text": entry.text,
        "ts": screen.timestamp(entry.ts),
        "type": entry.kind,
    }


# --- writing --------------------------------------------------------------------------------------------


@app.command("create", **words.with_example("ecorelay groups create release api web"))
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new group's name.", show_default=False)],
    members: Annotated[
        list[str],
        typer.Argument(
            metavar="MEMBER", help="Who else is in it.", show_default=False, autocompletion=complete.peers
        ),
    ],
    as_name: words.As = None,
    as_json: words.Json = False,
) -> None:
    """Make a group of these peers and you; you are its admin."""
    words.name(name, "NAME")
    for member in members:
        words.address(member, "MEMBER")
    frame = wire.GroupCreate(req_id=0, op_id="", name=name, members=tuple(members))
    me = session.person(as_name)
    session.run(lambda: _create(me, frame, as_json))


async def _create(me: str, frame: wire.GroupCreate, as_json: bool) -> None:
    async with session.as_peer(me) as hub:
        made = await hub.request(frame)
    if as_json:
        screen.out_json(group=made.group, members=made.members)
        return
    screen.out(f"{screen.line(made.group)}\n")
    screen.say(f"in it: {', '.join(made.members)}; write to it with ecorelay groups send {made.group} TEXT")


@app.command(
    "send",
    **words.with_example('ecorelay groups send release "Freeze at noon."', "ecorelay groups send release -"),
)
def send(group: Group, text: words.Text, as_name: words.As = None, as_json: words.Json = False) -> None:
    """Write to a group; it is kept for every member. Prints the msg_id."""
    words.address(group, "GROUP")
    me = session.person(as_name)
    frame = wire.GroupSend(req_id=0, op_id="", group=group, text=texts.said(text))
    session.run(lambda: _send(me, frame, as_json))


async def _send(me: str, frame: wire.GroupSend, as_json: bool) -> None:
    async with session.as_peer(me) as hub:
        sent = await hub.request(frame)
        name = hub.welcome.name
    if as_json:
        screen.out_json(msg_id=sent.msg_id, group=frame.group, **{"from": name})
    else:
        screen.out(f"{screen.line(sent.msg_id)}\n")
    say_unread(sent.unread, name)


# --- membership -----------------------------------------------------------------------------------------


@app.command("invite", **words.with_example("ecorelay groups invite release reviewer"))
def invite(group: Group, peer: Peer, as_name: words.As = None, as_json: words.Json = False) -> None:
    """Take a peer into a group you are the admin of."""
    frame = wire.GroupInvite(
        req_id=0, op_id="", group=words.address(group, "GROUP"), peer=words.address(peer, "PEER")
    )
    _do(frame, as_name, as_json, f"{peer} is in {group} now", peer=peer)


@app.command(
    "remove", **words.with_example('ecorelay groups remove release reviewer --reason "The review is done."')
)
def remove(
    group: Group,
    peer: Peer,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; the members and the removed see it.")
    ] = "no reason given",
    as_name: words.As = None,
    as_json: words.Json = False,
) -> None:
    """Remove a peer from a group you are the admin of."""
    words.address(group, "GROUP")
    words.address(peer, "PEER")
    frame = wire.GroupRemove(
        req_id=0, op_id="", group=group, peer=peer, reason=words.short(reason, "--reason")
    )
    _do(frame, as_name, as_json, f"{peer} is no longer in {group}", peer=peer)


@app.command("leave", **words.with_example("ecorelay groups leave release"))
def leave(group: Group, as_name: words.As = None, as_json: words.Json = False) -> None:
    """Leave a group. Its admin cannot: delete it instead."""
    frame = wire.GroupLeave(req_id=0, op_id="", group=words.address(group, "GROUP"))
    _do(frame, as_name, as_json, f"you left {group}")


@app.command("delete", **words.with_example("ecorelay groups delete release"))
def delete(group: Group, as_name: words.As = None, as_json: words.Json = False) -> None:
    """Delete a group you are the admin of, with its history. Cannot be undone; its members are told."""
    frame = wire.GroupDelete(req_id=0, op_id="", group=words.address(group, "GROUP"))
    _do(frame, as_name, as_json, f"{group} is deleted")


@app.command("forget", **words.with_example("ecorelay groups forget release@old-laptop"))
def forget(group: Group, as_name: words.As = None, as_json: words.Json = False) -> None:
    """Leave a group whose hub is gone for good.

    All peers of this hub leave it, and that hub need not hear of it.

    """
    frame = wire.GroupForget(req_id=0, op_id="", group=words.address(group, "GROUP"))
    _do(frame, as_name, as_json, f"no peer of this hub is in {group} any more")


def _do(
    frame: wire.GroupInvite | wire.GroupRemove | wire.GroupLeave | wire.GroupDelete | wire.GroupForget,
    as_name: str | None,
    as_json: bool,
    said: str,
    **fields: str,
) -> None:
    me = session.person(as_name)

    async def ask() -> None:
        async with session.as_peer(me) as hub:
            await hub.request(frame)
        if as_json:
            screen.out_json(group=frame.group, **fields)
        else:
            screen.say(said)

    session.run(ask)
