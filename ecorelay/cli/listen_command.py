"""``ecorelay listen``: a line for each message that arrives, for a shell that an assistant keeps open."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import trio
import typer

from ecorelay import __version__, wire
from ecorelay.cli import complete, screen, session, words
from ecorelay.client import HubClient, open_hub_client
from ecorelay.errors import RelayError
from ecorelay.process import is_alive, start_time
from ecorelay.spawn import hub_connector
from ecorelay_adapters.antigravity_carrier import send, why_not
from ecorelay_adapters.beside import SHELLS, Process, ancestors, find_client
from ecorelay_adapters.envelope import MARK as OURS, Incoming, pointer

commands = typer.Typer(**words.TYPER)

MARK: Final = "ECORELAY_MSG"
"""Begins each line, so that an assistant can watch for ``^ECORELAY_MSG``."""
AGAIN_S: Final = 0.25
"""Between two looks for a hub, and for a session beside us."""
BESIDE_S: Final = 15.0
"""How long the session's adapter may take to be there at first."""
NAMED_S: Final = 5.0
"""How long a peer that was named may take to be there, at a hub that was not there before."""
LOOK_S: Final = 1.0
"""How often it is looked whether anybody still wants to hear."""
GATHER_S: Final = 0.3
"""Messages that come within this time are one line for Antigravity."""
KNOWN_MAX: Final = 2_000
"""Messages remembered, so that none is printed twice, and those known to be unread."""
_GONE: Final = ("hub_unreachable", "timeout", "unexpected", "mailbox_error")
"""What a hub that stops, or starts, may be refused with; anything else ends the command."""


@commands.command(
    "listen",
    **words.with_example("ecorelay listen", "ecorelay listen --once", "ecorelay listen --name backend"),
)
def listen(
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="For this peer. Default: the session of the assistant this is started by.",
            show_default=False,
            autocompletion=complete.peers,
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End after the first line.")] = False,
    antigravity: Annotated[
        bool,
        typer.Option(
            "--antigravity", help="Tell the conversation of Antigravity CLI too, in whose shell this runs."
        ),
    ] = False,
) -> None:
    """Print a line for each message that comes, without its text.

    For an assistant that keeps it running in the background and looks for lines that begin with
    ECORELAY_MSG; then it calls relay_inbox. What waits already is one line with how much. Nothing counts
    as read, or as pushed. Goes on when the hub is restarted, and ends with the assistant. Where no hub runs
    it waits for one; with --once it starts one.
    """
    if name is not None:
        words.name(name, "--name")
    if antigravity and (why := why_not(os.environ)):
        raise RelayError("bad_args", f"--antigravity: {why}: start this from the shell of its session")
    listener = Listener(name, once=once, antigravity=antigravity)
    session.run(listener.run)


class Listener:
    """Hears for one peer.

    Args:
        name: its name; None: that of the session beside which we stand.
        once: whether the first line is the last.
        antigravity: whether Antigravity is told too.
    """

    def __init__(self, name: str | None, *, once: bool, antigravity: bool) -> None:
        self._wanted = name
        self._once = once
        self._antigravity = antigravity
        self._me: HubClient | None = None
        self._found: Process | None = None
        """The assistant's process, once a session beside it was found."""
        self._early: list[wire.Activity] = []
        """What happened before it was known who we are."""
        self._printed: dict[str, None] = {}
        self._unread: dict[str, None] = {}
        """Those printed that nobody has read yet."""
        self._others = 0
        """What waits besides: it was there before us."""
        self._doubtful: list[wire.Activity] = []
        """Told to a room or a group, and perhaps to us."""
        self._miscounted = False
        """More may have come than was told."""
        self._moved = False
        """The session is over, or goes on as another peer."""
        self._lines: list[str] = []
        """For Antigravity."""
        self._news = trio.Event()
        """Set, and replaced, with each of these."""
        self._said = ""
        self._over = trio.Event()
        self._refused: RelayError | None = None

    async def run(self) -> None:
        """Listen until nobody wants to hear any more.

        Raises:
            RelayError: the hub does not let us, or there is nobody to listen for.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_for_the_end)
            nursery.start_soon(self._listen_or_say_why)
            if self._antigravity and not self._once:
                nursery.start_soon(self._tell_antigravity)
            await self._over.wait()
            nursery.cancel_scope.cancel()
        if self._refused is not None:
            raise self._refused
        if self._lines and self._once:
            await self._send_lines()

    # --- until when --------------------------------------------------------------------------------------

    async def _look_for_the_end(self) -> None:
        parent = find_client()
        # Nobody tells of either.
        while not _reader_left() and self._lives(parent) and self._lives(self._found):  # noqa: ASYNC110
            await trio.sleep(LOOK_S)
        self._over.set()

    @staticmethod
    def _lives(process: Process | None) -> bool:
        return process is None or is_alive(process.pid, process.start)

    # --- at hub after hub --------------------------------------------------------------------------------

    async def _listen_or_say_why(self) -> None:
        try:
            await self._listen()
        except RelayError as error:
            self._refused = error
            self._over.set()

    async def _listen(self) -> None:
        if self._once:  # a script waits for its end
            async with session.looking_on():
                pass
        began = trio.current_time()
        patience_s = BESIDE_S if self._wanted is None else 0.0
        known = False
        while True:
            try:
                await self._hear()
            except RelayError as error:
                known = known or self._me is not None
                self._me = None
                if error.code == "not_registered":
                    if not known and trio.current_time() - began > patience_s:
                        raise
                elif error.code in _GONE:
                    began = trio.current_time()
                    patience_s = BESIDE_S if self._wanted is None else NAMED_S
                    if self._said != error.message:
                        screen.say(f"{error.message}; waiting for one")
                        self._said = error.message
                else:
                    raise
            await trio.sleep(AGAIN_S)

    async def _hear(self) -> None:
        """Listen at the hub that runs, until it ends or the session does.

        Raises:
            RelayError: why it is over.
        """
        self._early = []
        async with session.at_running_hub(on_activity=self._noted) as hub:
            await hub.request(wire.Watch(req_id=0))
            async with self._attached() as me:
                self._moved = False
                await self._take_stock(hub, me)
                if not self._said.startswith("listening"):
                    self._said = f"listening for {me.welcome.name}"
                    screen.say(self._said)
                why = RelayError("not_registered", "the session has ended")
                async with trio.open_nursery() as nursery:

                    async def until_over() -> None:
                        nonlocal why
                        over = await hub.wait_over()
                        why = RelayError(over.code, f"the hub is gone ({over.message})")
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(until_over)
                    await self._work(me)
                    nursery.cancel_scope.cancel()
                raise why

    @asynccontextmanager
    async def _attached(self) -> AsyncIterator[HubClient]:
        """Act for the peer: beside the nearest of our ancestors that a session stands beside."""
        if self._wanted is not None:
            async with session.at_running_hub(self._wanted) as me:
                yield me
            return
        places = [Process(pid, start_time(pid)) for pid, name in ancestors() if name not in SHELLS]
        for place in [self._found] if self._found is not None else places:
            try:
                async with self._beside(place) as me:
                    self._found = place
                    yield me
                    return
            except RelayError as error:
                if error.code != "not_registered" or self._found is place:
                    raise
        raise RelayError(
            "not_registered",
            "no session of an assistant that this was started by is connected: start it from the assistant's "
            "own shell, or say for whom with --name (`ecorelay peers` lists them)",
        )

    @asynccontextmanager
    async def _beside(self, place: Process) -> AsyncIterator[HubClient]:
        hello = wire.Hello(
            versions=(wire.OLDEST_PROTOCOL_VERSION, wire.PROTOCOL_VERSION),
            role="attach",
            client=session.CLIENT,
            pid=os.getpid(),
            client_pid=place.pid,
            client_start=place.start,
            app_version=__version__,
        )
        connect = hub_connector(session.paths(), os.environ, spawn=False)
        async with open_hub_client(hello, connect=connect, stay=False) as me:
            yield me

    # --- what happens ------------------------------------------------------------------------------------

    def _noted(self, activity: wire.Activity) -> None:
        if self._me is None:
            self._early.append(activity)
            return
        name = self._me.welcome.name.lower()
        match activity.what:
            case "stored" if activity.to.lower() == name:
                self._unread[activity.msg_id] = None
                if len(self._unread) > KNOWN_MAX:
                    del self._unread[next(iter(self._unread))]
                self._arrived(activity)
            case "stored" if activity.to:
                return
            case "stored" | "missed":
                self._miscounted = True
            case "room" | "group" if activity.peer.lower() != name:
                self._doubtful.append(activity)
            case "pushed" | "seen" if activity.peer.lower() == name:
                if activity.msg_id in self._unread:
                    del self._unread[activity.msg_id]
                else:
                    self._others = max(self._others - 1, 0)
            case "offline" if activity.peer.lower() == name and self._wanted is None:
                self._moved = True
            case _:
                return
        self._wake()

    async def _take_stock(self, hub: HubClient, me: HubClient) -> None:
        """We know who we are: what waits that was not printed is one line."""
        for msg_id in list(self._unread):  # of those printed before this hub
            if not await _is_unread(hub, msg_id, me.welcome.name):
                del self._unread[msg_id]
        self._me = me
        early, self._early = self._early, []
        for activity in early:
            self._noted(activity)
        await self._count(me)

    async def _count(self, me: HubClient) -> None:
        unread = (await me.request(wire.Groups(req_id=0))).unread
        others = unread - len(self._unread)
        if others > self._others:
            self._print(f"{OURS} {unread} unread. Read it with relay_inbox.", kind="waiting", unread=unread)
        self._others = max(others, 0)

    async def _work(self, me: HubClient) -> None:
        """Find out what is not certain, until the session ends."""
        while not self._moved:
            if self._doubtful:
                await self._look_for_us(me, self._doubtful.pop(0))
            elif self._miscounted:
                self._miscounted = False
                await self._count(me)
            else:
                await self._news.wait()

    async def _look_for_us(self, me: HubClient, activity: wire.Activity) -> None:
        """Whether what was told to a room or a group was told to us."""
        name = me.welcome.name
        if activity.what == "group":
            groups = (await me.request(wire.Groups(req_id=0))).groups
            ours = any(group.name.lower() == activity.to.lower() for group in groups)
        else:
            rooms = (await me.request(wire.Rooms(req_id=0))).rooms
            ours = any(room.name.lower() == activity.to.lower() and name in room.members for room in rooms)
        if ours:
            self._arrived(activity, **{activity.what: activity.to})

    def _arrived(self, activity: wire.Activity, **where: str) -> None:
        if activity.msg_id in self._printed:
            return
        self._printed[activity.msg_id] = None
        if len(self._printed) > KNOWN_MAX:
            del self._printed[next(iter(self._printed))]
        kind = activity.what if where else activity.kind
        mail = Incoming(kind, activity.peer, activity.msg_id, "", activity.ts, **where)  # type: ignore[arg-type]
        line = pointer(mail, now_ms=activity.ts)
        self._print(line, **{"from": activity.peer}, kind=kind, msg_id=activity.msg_id, **where)

    def _print(self, line: str, **fields: Any) -> None:
        if self._once and self._over.is_set():
            return
        screen.out(f"{MARK} {json.dumps(fields)}\n")
        if self._antigravity:
            self._lines.append(line)
        if self._once:
            self._over.set()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # --- Antigravity -------------------------------------------------------------------------------------

    async def _tell_antigravity(self) -> None:
        while True:
            while not self._lines:
                await self._news.wait()
            await self._send_lines()
            await trio.sleep(GATHER_S)

    async def _send_lines(self) -> None:
        """Tell it of the first, and how many more there are: see `ecorelay_adapters.pointing`."""
        lines, self._lines = self._lines, []
        more = f" {len(lines) - 1} more there." if len(lines) > 1 else ""
        if why := await send(os.environ, lines[0] + more):
            screen.say(f"{why}: the mail waits for relay_inbox")


async def _is_unread(hub: HubClient, msg_id: str, name: str) -> bool:
    try:
        traced = await hub.request(wire.Trace(req_id=0, msg_id=msg_id))
    except RelayError as error:
        if error.code != "unknown_ask":
            raise
        return False
    return any(
        receipt.recipient.lower() == name.lower() and receipt.state == "unread" for receipt in traced.receipts
    )


def _reader_left() -> bool:
    """Whether nobody reads our stdout any more; False where that cannot be told without writing."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # errors are told unasked
        return bool(poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False
