"""``ecorelay broadcast``: one question to everybody who is online, and their answers."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Annotated, Any

import trio
import typer

from ecorelay import wire
from ecorelay.cli import exits, screen, session, texts, words
from ecorelay.cli.mail_commands import BUDGET, fields, say_unread, shown
from ecorelay.client import HubClient

commands = typer.Typer(**words.TYPER)


@commands.command(
    "broadcast",
    **words.with_example(
        'ecorelay broadcast "Who is working on orders?"',
        'ecorelay broadcast "May I restart the database?" --wait 60',
    ),
)
def broadcast(
    question: Annotated[
        str,
        typer.Argument(metavar="QUESTION", help="What to ask; - reads it from stdin.", show_default=False),
    ],
    wait: Annotated[
        float, typer.Option("--wait", "-w", min=0, max=600, metavar="S", help="Seconds to wait for answers.")
    ] = 0,
    as_name: words.As = None,
    as_json: words.Json = False,
) -> None:
    """Ask everybody who is online. Prints the broadcast_id and how many were asked.

    With --wait prints each answer as it comes (it counts as seen then), until all have answered; exits
    with 5 when the time is over before. Answers that come later wait in your inbox.

    """
    me = session.person(as_name)
    frame = wire.Broadcast(req_id=0, op_id="", question=texts.said(question, "QUESTION"))
    session.run(lambda: _broadcast(me, frame, wait, as_json))


async def _broadcast(me: str, frame: wire.Broadcast, wait: float, as_json: bool) -> int:
    if not wait:
        async with session.as_peer(me) as hub:
            asked = await hub.request(frame)
            _say_asked(asked, hub.welcome.name, as_json)
            return exits.OK
    async with session.as_peer(me) as hub:
        # What came is told by the hub to whoever watches, so other mail stays where it is, untouched.
        came, replies = trio.open_memory_channel[str](10_000)
        name = hub.welcome.name

        def note(activity: wire.Activity) -> None:
            reply = activity.what == "stored" and activity.kind == "reply"
            if reply and activity.to.lower() == name.lower() and activity.msg_id:
                with suppress(trio.WouldBlock):  # so many answers: the rest waits in the inbox
                    came.send_nowait(activity.msg_id)

        async with session.at_running_hub(on_activity=note) as watching:
            await watching.request(wire.Watch(req_id=0))
            asked = await hub.request(frame)
            if not as_json:
                _say_asked(asked, name, as_json=False)
            answers = _Answers(hub, asked, as_json)
            with trio.move_on_after(wait) as waiting:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_end_with, watching, waiting)
                    while not answers.complete:
                        await answers.take(await replies.receive())
                    nursery.cancel_scope.cancel()
            return await answers.sum_up(name, wait)


async def _end_with(watching: HubClient, waiting: trio.CancelScope) -> None:
    over = await watching.wait_over()
    screen.say(f"the hub is gone ({over.message}): nothing more is shown here")
    waiting.cancel()


def _say_asked(asked: wire.Broadcasted, name: str, as_json: bool) -> None:
    if as_json:
        screen.out_json(broadcast_id=asked.broadcast_id, peer_count=asked.peer_count, **{"from": name})
        return
    pending = f", {asked.pending_hubs} hubs still to say" if asked.pending_hubs else ""
    screen.out(f"{screen.line(asked.broadcast_id)} {asked.peer_count} asked{pending}\n")
    if not asked.peer_count:
        screen.say("nobody else is online: `ecorelay peers` shows who is known, `ecorelay send` leaves mail")
    elif screen.is_terminal(sys.stderr):
        screen.say(f"answers come to {name}: ecorelay inbox --as {name} --wait 60")
    say_unread(asked.unread, name)


class _Answers:
    """What came back so far."""

    def __init__(self, hub: HubClient, asked: wire.Broadcasted, as_json: bool) -> None:
        self._hub = hub
        self._asked = asked
        self._as_json = as_json
        self._who: set[str] = set()
        self._kept: list[wire.Mail] = []

    @property
    def complete(self) -> bool:
        """Everybody asked has answered."""
        return len(self._who) >= self._asked.peer_count

    async def take(self, msg_id: str) -> None:
        """Print the message, if it is an answer to this question, and have it count as seen."""
        with trio.CancelScope(shield=True):  # a page is never left half shown
            page = await self._hub.request(wire.Inbox(req_id=0, limit=1, since_id=msg_id, budget=BUDGET))
            ours = [
                mail
                for mail in page.messages
                if mail.msg_id == msg_id and mail.broadcast_id == self._asked.broadcast_id
            ]
            try:
                if ours and not self._as_json:
                    screen.out(shown(ours[0], int(time.time() * 1000)))
            except BaseException:
                await self._release(page)
                raise
            if not ours or self._as_json or ours[0].text is None:
                await self._release(page)
            else:
                await self._hub.request(wire.Confirm(req_id=0, lease=page.lease, msg_ids=(msg_id,)))
            self._kept += ours
            self._who.update([mail.sender for mail in ours])

    async def _release(self, page: wire.InboxPage) -> None:
        if page.lease:
            await self._hub.request(wire.Release(req_id=0, lease=page.lease))

    async def sum_up(self, name: str, wait: float) -> int:
        """Say how many of how many; the exit code."""
        if self._as_json:
            screen.out_json(**self._fields(name))
            if self._kept:
                shown_ids = tuple([mail.msg_id for mail in self._kept if mail.text is not None])
                await self._hub.request(wire.Confirm(req_id=0, msg_ids=shown_ids))
        elif self._asked.peer_count:
            many = f"{len(self._who)} of {self._asked.peer_count} answered"
            late = f" within {wait:g} s; later answers: ecorelay inbox --as {name}"
            screen.say(many + ("" if self.complete else late))
        return exits.OK if self.complete else exits.LIMIT

    def _fields(self, name: str) -> dict[str, Any]:
        return {
            "broadcast_id": self._asked.broadcast_id,
            "peer_count": self._asked.peer_count,
            "from": name,
            "answered": len(self._who),
            "replies": [fields(mail) for mail in self._kept],
        }
