"""What the peers of a soak talk about: who says what to whom, how often, and what of it must be so."""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final

import trio

from scripts.soak_lib import ledger as log
from scripts.soak_lib.peers import CUT, Peer
from scripts.soak_lib.voices import NOTHING, NoAnswer, Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ecorelay.errors import RelayError
    from scripts.soak_lib.judge import Judge
    from scripts.soak_lib.voices import Item, Voice

LONG: Final = 30_000
"""Characters of a text that is longer than a result of a tool may be."""
ROOMS: Final = ("hall@ash", "yard@birch", "attic@cedar")
RENAMES: Final = 0.004
PAUSE_S: Final = 2.0
"""Between two actions of one peer, in the mean; the pace is set by `Talk.pace`."""


class Talk:
    """State of the conversation.

    Args:
        ledger: where it is written down.
        judge: who reads it at once.
        seed: of everything that is random.
    """

    def __init__(self, ledger: log.Ledger, judge: Judge, seed: int) -> None:
        self.ledger = ledger
        self.judge = judge
        self.random = random.Random(seed)
        self.peers: list[Peer] = []
        self.hushed = False
        """Nobody says anything new; all read what there is."""
        self.pace = 1.0
        """Pauses are so many times as long."""
        self.by_id: dict[str, int] = {}
        """msg_id: its author."""
        self.kinds: dict[int, str] = {}
        self.sizes: dict[int, int] = {}
        self.authors: dict[int, int] = {}
        self.answers: dict[int, str] = {}
        """Replies, and the id of what they answer."""
        self.recent: deque[tuple[int, str]] = deque(maxlen=300)
        """Mail that was acknowledged: number and id."""
        self.stable: dict[str, tuple[int, ...]] = {}
        """Groups whose members stay."""
        self.churning: dict[str, set[int]] = {}
        """Groups that are made, changed and deleted, and who may be in them; the first made it."""
        self.admins: dict[str, int] = {}
        self.tools: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.notices: Counter[str] = Counter()
        self.links_after: Callable[[int, str], None] = lambda _number, _kind: None
        """Called when a fault is over: somebody notes when the links are up."""
        self._made = 0

    # --- the ledger --------------------------------------------------------------------------------------

    def note(self, event: log.Event) -> None:
        """Write it down, and let it be judged."""
        match event:
            case log.Begun():
                self.kinds[event.n], self.sizes[event.n] = event.kind, event.size
                self.authors[event.n] = event.by
            case log.Acked() if self.kinds[event.n] in ("mail", "reply"):
                self.recent.append((event.n, event.msg_id))
            case log.Shown():
                self.by_id[event.msg_id] = self.authors.get(event.n, -1)
        self.ledger.write(event)
        self.judge.take(event)

    def trouble(self, what: str, detail: str, n: int = -1) -> None:
        """Something that must not be."""
        self.note(log.Trouble(log.now(), what, detail, n))

    def check(self, reader: Peer, n: int, item: Item) -> None:
        """Whether what was read is what was sent, from whom it was sent."""
        if n not in self.sizes:
            return  # the judge says so
        expected = log.text_of(n, self.sizes[n])
        text = item.whole.read_text() if item.whole is not None else item.text
        if text != expected or (item.whole is not None and item.text != expected[:CUT]):
            self.trouble("garbled", f"peer {reader.key} was shown another text as {item.msg_id}", n)
        author = self.peers[self.authors[n]]
        name, _, hub_id = item.sender.partition(" (via")[0].partition("@")
        home = hub_id or reader.hub.hub_id
        if name not in author.names or home != author.hub.hub_id:
            self.trouble("false sender", f"{item.msg_id} of peer {author.key} came from {item.sender}", n)
        if n in self.answers and item.reply_to != self.answers[n]:
            self.trouble("false reply_to", f"{item.msg_id}: {item.reply_to}, not {self.answers[n]}", n)

    def noticed(self, reader: Peer, item: Item) -> None:
        """A notice or a line about a group came."""
        self.notices["notices" if "-" in item.msg_id else "of groups"] += 1

    def refused_hello(self, peer: Peer, error: RelayError) -> None:
        """A session was refused."""
        self.refusals[f"hello {error.code}"] += 1
        if error.code not in ("hub_unreachable", "mailbox_error", "timeout", "limit_reached"):
            self.trouble("session refused", f"peer {peer.key}: {error.code}: {error.message}")

    # --- groups ------------------------------------------------------------------------------------------

    def group_key(self, reader: Peer, group: str) -> str:
        """A group's whole address."""
        return group if "@" in group else f"{group}@{reader.hub.hub_id}"

    def group_address(self, peer: Peer, key: str) -> str:
        """How a peer writes it."""
        return key.removesuffix(f"@{peer.hub.hub_id}")

    def may_read(self, reader: Peer, group: str) -> None:
        """A page named a group: it is one of the reader's."""
        reader.groups.setdefault(self.group_key(reader, group), 0)

    def left(self, peer: Peer, group: str) -> None:
        """It is no longer in that group."""
        peer.groups.pop(group, None)
        if group in self.stable:
            self.trouble("group lost", f"peer {peer.key} is not in {group} any more")

    async def make_stable(self, name: str, admin: Peer, members: list[Peer]) -> None:
        """A group whose members stay to the end."""
        key = f"{name}@{admin.hub.hub_id}"
        assert admin.voice is not None
        addresses = [each.address(admin.hub) for each in members]
        await admin.voice.call("group_create", name=name, members=addresses)
        keys = (admin.key, *[each.key for each in members])
        self.stable[key] = keys
        self.note(log.Members(log.now(), key, keys))

    async def all_are_in(self, group: str) -> bool:
        """Whether all members of a group that stays have heard of it; then they begin to read it."""
        for key in self.stable[group]:
            peer = self.peers[key]
            if peer.voice is None:
                return False
            try:
                await peer.voice.call("group_info", group=self.group_address(peer, group))
            except NOTHING:
                return False
        for key in self.stable[group]:
            self.peers[key].groups.setdefault(group, 0)
        return True

    # --- what a peer does --------------------------------------------------------------------------------

    def size(self) -> int:
        """Of the next text, characters."""
        chance = self.random.random()
        return LONG if chance < 0.002 else 4_000 if chance < 0.05 else 200

    async def pause(self, peer: Peer) -> None:
        """Until a peer does the next thing."""
        if self.hushed:
            await trio.sleep(0.3)
        else:
            with trio.move_on_after(self.random.expovariate(1.0) * PAUSE_S * self.pace):
                while not self.hushed:  # noqa: ASYNC110 - a hush ends it
                    await trio.sleep(0.5)
        while peer.held:
            peer.rests = True
            await trio.sleep(0.1)
        peer.rests = False

    async def act(self, peer: Peer, voice: Voice) -> bool:
        """One thing at random; False: it leaves now."""
        if self.random.random() < 0.01:
            return False
        [(tool, do, _)] = self.random.choices(_DEEDS, [weight for _, _, weight in _DEEDS])
        self.tools[tool] += 1
        await do(self, peer, voice)
        return True

    def _other(self, peer: Peer) -> Peer:
        while (other := self.random.choice(self.peers)) is peer:
            pass
        return other

    async def _send(self, peer: Peer, voice: Voice) -> None:
        other = self._other(peer)
        more: dict[str, Any] = {"urgent": True} if self.random.random() < 0.05 else {}
        await peer.say(voice, "mail", "send", other.key, to=other.address(peer.hub), **more)

    async def _inbox(self, peer: Peer, voice: Voice) -> None:
        wait = self.random.choice((0.0, 0.0, 1.0, 3.0))
        page = await voice.inbox(limit=self.random.choice((1, 5, 20, 100)), wait=wait)
        stubs = [item.msg_id for item in page.items if item.text is None]
        if stubs and self.random.random() < 0.3:
            await voice.inbox(limit=20, since=stubs[0])

    async def _inbox_cancelled(self, peer: Peer, voice: Voice) -> None:
        """Wait for mail, and give up: what was read without anybody seeing it stays unread."""
        with trio.move_on_after(self.random.uniform(0, 1.5)):
            await voice.inbox(limit=20, wait=5)

    async def _reply(self, peer: Peer, voice: Voice) -> None:
        await peer.answer_one(voice)

    async def _broadcast(self, peer: Peer, voice: Voice) -> None:
        await peer.say(voice, "ask", "broadcast")

    async def _rename(self, peer: Peer, voice: Voice) -> None:
        self._made += 1
        name = f"p{peer.key:02}.{self._made}"
        peer.names.add(name)
        try:
            got = await voice.call("rename", new_name=name)
        except NoAnswer:
            peer.name = (await voice.call("peers"))["me"]
        else:
            peer.name = got["name"]

    async def _peers(self, peer: Peer, voice: Voice) -> None:
        got = await voice.call("peers")
        if got["me"] not in peer.names:
            self.trouble("identity lost", f"peer {peer.key} is told that it is {got['me']}")

    async def _join(self, peer: Peer, voice: Voice) -> None:
        room = self.random.choice(ROOMS)
        await voice.call("join", room=self.group_address(peer, room))
        peer.rooms.add(room)

    async def _leave(self, peer: Peer, voice: Voice) -> None:
        if peer.rooms:
            room = peer.rooms.pop()
            await voice.call("leave", room=self.group_address(peer, room))

    async def _room(self, peer: Peer, voice: Voice) -> None:
        if peer.rooms:
            room = self.random.choice(sorted(peer.rooms))
            await peer.say(voice, "room", "room", where=room, room=self.group_address(peer, room))

    async def _rooms(self, peer: Peer, voice: Voice) -> None:
        await voice.call("rooms")

    async def _group_send(self, peer: Peer, voice: Voice) -> None:
        if peer.groups:
            group = self.random.choice(sorted(peer.groups))
            await self._in_group(
                peer,
                group,
                peer.say(voice, "group", "group_send", where=group, group=self.group_address(peer, group)),
            )

    async def _group_history(self, peer: Peer, voice: Voice) -> None:
        if peer.groups:
            group = self.random.choice(sorted(peer.groups))
            limit = self.random.choice((5, 50, 500))
            await self._in_group(peer, group, voice.history(self.group_address(peer, group), limit))

    async def _in_group(self, peer: Peer, group: str, doing: Awaitable[object]) -> None:
        try:
            await doing
        except Refusal as refusal:
            if refusal.code in ("group_not_found", "not_member"):
                self.left(peer, group)
            peer.refused(refusal)

    async def _group_list(self, peer: Peer, voice: Voice) -> None:
        for group in (await voice.call("group_list"))["groups"]:
            self.may_read(peer, group["name"])

    async def _group_info(self, peer: Peer, voice: Voice) -> None:
        if peer.groups:
            group = self.random.choice(sorted(peer.groups))
            await self._in_group(peer, group, voice.call("group_info", group=self.group_address(peer, group)))

    async def _group_change(self, peer: Peer, voice: Voice) -> None:
        """Make, change, leave or delete one of the groups that come and go."""
        own = [group for group, admin in self.admins.items() if admin == peer.key]
        if not own:
            if len(self.churning) < 12:
                self._made += 1
                name = f"g{self._made}"
                members = {self._other(peer) for _ in range(self.random.randint(1, 6))}
                await voice.call(
                    "group_create", name=name, members=[each.address(peer.hub) for each in members]
                )
                key = self.group_key(peer, name)
                self.admins[key] = peer.key
                self.churning[key] = {peer.key, *[each.key for each in members]}
                peer.groups.setdefault(key, 0)
            elif going := [g for g in peer.groups if g in self.churning]:
                group = self.random.choice(going)
                await self._in_group(
                    peer, group, voice.call("group_leave", group=self.group_address(peer, group))
                )
                peer.groups.pop(group, None)
            return
        group = self.random.choice(own)
        address = self.group_address(peer, group)
        chance = self.random.random()
        other = self._other(peer)
        if chance < 0.1:
            await voice.call("group_delete", group=address)
            del self.churning[group], self.admins[group]
            peer.groups.pop(group, None)
        elif chance < 0.6:
            await voice.call("group_invite", group=address, peer=other.address(peer.hub))
            self.churning[group].add(other.key)
        else:
            await voice.call(
                "group_remove", group=address, peer=other.address(peer.hub), reason="it is a soak"
            )


_DEEDS: Final[tuple[tuple[str, Callable[[Talk, Peer, Voice], Awaitable[None]], float], ...]] = (
    ("send", Talk._send, 38),
    ("inbox", Talk._inbox, 24),
    ("inbox, cancelled", Talk._inbox_cancelled, 3),
    ("reply", Talk._reply, 8),
    ("broadcast", Talk._broadcast, 0.4),
    ("rename", Talk._rename, 0.4),
    ("peers", Talk._peers, 1),
    ("join", Talk._join, 2),
    ("leave", Talk._leave, 0.7),
    ("room", Talk._room, 5),
    ("rooms", Talk._rooms, 0.5),
    ("group_send", Talk._group_send, 6),
    ("group_history", Talk._group_history, 10),
    ("group_list", Talk._group_list, 1),
    ("group_info", Talk._group_info, 1),
    ("group_create, _invite, _remove, _leave, _delete", Talk._group_change, 2),
)
