"""How a peer speaks and hears, and how it does so over a connection of the client library.

The other way is an assistant with an adapter (`scripts.soak_lib.assistant`). Both are asked by the tools'
names and answer with the tools' fields. What they are given to read goes to a `Hearer` the moment it is here,
before anything else can happen.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from ecorelay import wire
from ecorelay.client import open_hub_client
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ecorelay.client import HubClient
    from scripts.soak_lib.place import Hub

BUDGET = 60_000
"""Characters of a page."""


class Refusal(Exception):
    """The hub said no: nothing was done."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class NoAnswer(Exception):
    """It is not known whether it was done."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Ended(Exception):
    """There is nobody to speak through any more."""


NOTHING: Final = (Refusal, NoAnswer, Ended)
"""A peer that was asked has nothing to say."""


class Item:
    """One message as it was given to a peer. Without `text`: a stub."""

    __slots__ = ("group", "kind", "marked", "msg_id", "notice", "reply_to", "sender", "seq", "text", "whole")

    def __init__(
        self,
        msg_id: str,
        kind: str,
        sender: str,
        text: str | None,
        *,
        reply_to: str | None = None,
        marked: bool = False,
        seq: int = 0,
        group: str = "",
        whole: Path | None = None,
    ) -> None:
        self.msg_id = msg_id
        self.kind = kind
        self.sender = sender
        self.text = text
        self.reply_to = reply_to
        self.marked = marked
        self.seq = seq
        self.group = group
        self.whole = whole
        self.notice = kind == "system"


class Page:
    """What one read gave."""

    def __init__(self, items: list[Item], more: int, groups: tuple[str, ...] = (), missed: int = 0) -> None:
        self.items = items
        self.more = more
        self.groups = groups
        self.missed = missed


class Hearer(Protocol):
    """Who is given what a voice hears."""

    def saw_page(self, page: Page, *, again: bool) -> None:
        """A page of the inbox."""

    def saw_lines(self, group: str, page: Page) -> None:
        """A page of a group's history."""

    def saw_push(self, item: Item, turn: int) -> bool:
        """A push, on its connection number `turn`; whether it was taken."""

    def confirmed(self, page: Page) -> None:
        """The hub has acknowledged that this page was seen."""


class Voice(Protocol):
    """A session of a peer."""

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool by its name without ``relay_``.

        Raises:
            Refusal: the hub said no.
            NoAnswer: it is not known whether it was done.
            Ended: the session is over.
        """

    async def inbox(self, *, limit: int, wait: float = 0.0, since: str | None = None) -> Page:
        """Read mail; raises as `call`."""

    async def history(self, group: str, limit: int) -> Page:
        """Read a group; raises as `call`."""


def raised(error: RelayError) -> Refusal | NoAnswer:
    """What an error of the hub means."""
    return NoAnswer(error.code) if error.code == "timeout" else Refusal(error.code, error.message)


class LibraryVoice:
    """A session of the client library; made by `library_voice`."""

    def __init__(self, hearer: Hearer, release: float, chance: Any) -> None:
        self.client: HubClient
        self.connections = 1
        self._hearer = hearer
        self._release = release
        self._chance = chance

    async def _ask(self, frame: wire.Request) -> Any:
        try:
            return await self.client.request(frame)
        except RelayError as error:
            raise raised(error) from error

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        got = await self._ask(_FRAMES[tool](arguments))
        match got:
            case wire.Sent():
                return {"msg_id": got.msg_id, "status": got.status}
            case wire.Broadcasted():
                return {"broadcast_id": got.broadcast_id, "peer_count": got.peer_count}
            case wire.PeerList():
                return {"me": got.me, "peers": [{"name": peer.name} for peer in got.peers]}
            case wire.Renamed():
                return {"name": got.name}
            case wire.RoomSent():
                return {"delivered_count": got.delivered_count}
            case wire.GroupMembers():
                return {"group": got.group, "members": list(got.members)}
            case wire.GroupDetails():
                return {"admin": got.admin, "members": [{"name": each.name} for each in got.members]}
            case wire.GroupList():
                return {"groups": [{"name": group.name} for group in got.groups]}
            case wire.RoomList():
                return {"rooms": [{"name": room.name} for room in got.rooms]}
        return {}

    async def inbox(self, *, limit: int, wait: float = 0.0, since: str | None = None) -> Page:
        got: wire.InboxPage = await self._ask(
            wire.Inbox(req_id=0, limit=limit, wait=wait, since_id=since, budget=BUDGET)
        )
        page = Page(
            [
                Item(m.msg_id, m.kind, m.sender, m.text, reply_to=m.reply_to, marked=m.redelivered)
                for m in got.messages
            ],
            got.remaining,
            tuple(group.name for group in got.groups),
            got.missed,
        )
        self._hearer.saw_page(page, again=since is not None)
        if not got.lease:
            return page
        if self._chance.random() < self._release:
            await self._ask(wire.Release(req_id=0, lease=got.lease))
            return page
        texts = [m for m in got.messages if m.text is not None]
        confirm = wire.Confirm(
            req_id=0,
            lease=got.lease,
            msg_ids=tuple(m.msg_id for m in texts if m.kind != "room" and "-" not in m.msg_id),
            notices=tuple(m.msg_id for m in texts if "-" in m.msg_id),
        )
        await self._ask(confirm)
        self._hearer.confirmed(page)
        return page

    async def history(self, group: str, limit: int) -> Page:
        got: wire.GroupPage = await self._ask(
            wire.GroupHistory(req_id=0, group=group, limit=limit, budget=BUDGET)
        )
        page = Page(
            [Item(e.msg_id, e.kind, e.sender, e.text, seq=e.seq, group=group) for e in got.messages],
            got.unread_remaining,
            missed=got.missed,
        )
        self._hearer.saw_lines(group, page)
        if not page.items:
            return page
        if self._chance.random() < self._release:
            await self._ask(wire.GroupRelease(req_id=0, group=group))
            return page
        await self._ask(wire.GroupConfirm(req_id=0, group=group, upto=got.upto))
        self._hearer.confirmed(page)
        return page

    def push(self, push: wire.Push) -> None:
        """Take what the hub pushes."""
        item = Item(
            push.msg_id, push.kind, push.sender, push.text, reply_to=push.reply_to, group=push.group or ""
        )
        if self._hearer.saw_push(item, self.connections):
            self.client.send_nowait(wire.Pushed(msg_ids=(push.msg_id,), carrier="soak"))
        else:
            self.client.send_nowait(wire.PushFailed(msg_ids=(push.msg_id,)))

    def again(self, _welcome: wire.Welcome) -> None:
        """The connection was made anew."""
        self.connections += 1


_FRAMES: dict[str, Any] = {
    "send": lambda a: wire.Send(req_id=0, op_id="", **a),
    "reply": lambda a: wire.Reply(req_id=0, op_id="", **a),
    "broadcast": lambda a: wire.Broadcast(req_id=0, op_id="", **a),
    "peers": lambda a: wire.Peers(req_id=0, **a),
    "rename": lambda a: wire.Rename(req_id=0, op_id="", **a),
    "join": lambda a: wire.Join(req_id=0, **a),
    "leave": lambda a: wire.Leave(req_id=0, **a),
    "room": lambda a: wire.RoomSend(req_id=0, op_id="", **a),
    "rooms": lambda a: wire.Rooms(req_id=0),
    "group_create": lambda a: wire.GroupCreate(
        req_id=0, op_id="", name=a["name"], members=tuple(a["members"])
    ),
    "group_invite": lambda a: wire.GroupInvite(req_id=0, op_id="", **a),
    "group_remove": lambda a: wire.GroupRemove(req_id=0, op_id="", **a),
    "group_leave": lambda a: wire.GroupLeave(req_id=0, op_id="", **a),
    "group_send": lambda a: wire.GroupSend(req_id=0, op_id="", **a),
    "group_list": lambda a: wire.Groups(req_id=0),
    "group_info": lambda a: wire.GroupInfo(req_id=0, **a),
    "group_delete": lambda a: wire.GroupDelete(req_id=0, op_id="", **a),
}


@asynccontextmanager
async def library_voice(
    hub: Hub, hello: wire.Hello, hearer: Hearer, *, release: float, chance: Any
) -> AsyncIterator[LibraryVoice]:
    """A session, until the end of the block.

    Raises:
        RelayError: there is none to be had.
    """
    voice = LibraryVoice(hearer, release, chance)
    on_push = voice.push if hello.push else None
    async with open_hub_client(
        hello, connect=hub.connector(), on_push=on_push, on_reconnect=voice.again
    ) as client:
        voice.client = client
        yield voice
