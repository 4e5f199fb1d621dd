"""The peers of a soak: each does something at random, one thing after another, as an assistant would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from ecorelay import wire
from ecorelay.errors import RelayError
from scripts.soak_lib import ledger as log
from scripts.soak_lib.assistant import AdapterVoice, adapter_voice
from scripts.soak_lib.voices import Ended, Item, NoAnswer, Page, Refusal, library_voice

if TYPE_CHECKING:
    from scripts.soak_lib.place import Hub
    from scripts.soak_lib.talk import Talk
    from scripts.soak_lib.voices import Voice

RELEASE: Final = 0.05
"""Share of pages that a reader gives back."""
PUSH_FAILS: Final = 0.02
OFFLINE_S: Final = 3.0
"""The longest a peer stays away."""
BUGS: Final = frozenset(
    {"unexpected", "bad_msg", "bad_args", "protocol_mismatch", "not_registered", "already_registered"}
)
"""Refusals that nothing a peer does here deserves."""
CUT: Final = 16_000


class Peer:
    """One peer and its session, which comes and goes.

    Args:
        key: its number.
        hub: where it lives.
        manner: ``pull`` and ``push`` are the client library, ``adapter`` and ``channel`` are adapters.
        talk: what is said in this soak.
    """

    def __init__(self, key: int, hub: Hub, manner: str, talk: Talk) -> None:
        self.key = key
        self.hub = hub
        self.manner = manner
        self.name = f"p{key:02}"
        self.names = {self.name}
        """All it ever may have had."""
        self.peer_id: str | None = None
        self.voice: Voice | None = None
        self.groups: dict[str, int] = {}
        """Groups it reads, and the pages of each."""
        self.rooms: set[str] = set()
        self.pages = 0
        self.dry_at = 0.0
        """When it last had read everything there was."""
        self.held = False
        """It is to do nothing, though its session lives; and it `rests` when it has ended what it did."""
        self.rests = False
        self._talk = talk
        self._to_answer: list[str] = []
        self._sessions = 0
        self._pushes = 0

    @property
    def adapter(self) -> trio.Process | None:
        """Its adapter's process, if one runs."""
        return self.voice.process if isinstance(self.voice, AdapterVoice) else None

    def address(self, seen_from: Hub) -> str:
        """How peers of that hub write to it."""
        return self.name if seen_from is self.hub else f"{self.name}@{self.hub.hub_id}"

    # --- its sessions ------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Come, do things, go, and come again, until cancelled."""
        while True:
            try:
                await self._session()
            except (Ended, NoAnswer):
                pass
            except Refusal as refusal:
                self.refused(refusal)
                await trio.sleep(0.5)
            except RelayError as error:
                self._talk.refused_hello(self, error)
                await trio.sleep(0.5)
            finally:
                self.voice = None
            if not self._talk.hushed:
                await trio.sleep(self._talk.random.random() * OFFLINE_S)

    async def _session(self) -> None:
        self._sessions += 1
        if self.manner in ("adapter", "channel"):
            words = ("--carrier", "channel") if self.manner == "channel" else ()
            # Nobody pins its name: the hub knows it again by its directory and client.
            async with adapter_voice(
                self.hub, self.hub.home.parent / f"p{self.key:02}", self, *words
            ) as voice:
                me = (await voice.call("peers"))["me"]
                self._is_me(me)
                self.voice = voice
                await self._do_things(voice)
        else:
            hello = wire.Hello(
                versions=(1, 1), role="session", name=self.name, pinned=True, create=True,
                peer_id=self.peer_id, push=self.manner == "push", client="soak",
            )  # fmt: skip
            async with library_voice(
                self.hub, hello, self, release=RELEASE, chance=self._talk.random
            ) as voice:
                if self.peer_id not in (None, voice.client.welcome.peer_id):
                    self._talk.trouble("identity lost", f"peer {self.key} became another peer")
                self.peer_id = voice.client.welcome.peer_id
                self._is_me(voice.client.welcome.name)
                self.voice = voice
                await self._do_things(voice)

    def _is_me(self, name: str) -> None:
        if name not in self.names:
            self._talk.trouble("identity lost", f"peer {self.key} is {name}, was {sorted(self.names)}")
            self.names.add(name)
        self.name = name

    async def _do_things(self, voice: Voice) -> None:
        self.rooms.clear()
        while True:
            await self._talk.pause(self)
            try:
                if self._talk.hushed:
                    await self.drain(voice)
                elif not await self._talk.act(self, voice):
                    return
            except Refusal as refusal:
                self.refused(refusal)
            except NoAnswer as error:
                self._talk.unanswered[error.code] += 1
                if error.code.startswith("adapter"):
                    raise

    def refused(self, refusal: Refusal) -> None:
        """Some refusals are a bug, whatever was asked."""
        self._talk.refusals[refusal.code] += 1
        if refusal.code in BUGS:
            self._talk.trouble("strange refusal", f"peer {self.key}: {refusal}")

    async def drain(self, voice: Voice) -> None:
        """Read everything there is."""
        began = log.now()
        while True:
            page = await voice.inbox(limit=100)
            if not page.items and not page.more:
                break
        for group in [*self.groups]:
            try:
                while (page := await voice.history(group, 500)).items or page.more:
                    pass
            except Refusal as refusal:
                self.refused(refusal)
                if refusal.code in ("group_not_found", "not_member"):
                    self._talk.left(self, group)
        self.dry_at = began

    # --- what it says ------------------------------------------------------------------------------------

    async def say(
        self, voice: Voice, kind: log.Kind, tool: str, whom: int = -1, *, where: str = "", **arguments: Any
    ) -> str:
        """Send something, with its lines in the ledger; its msg_id, empty if that is not known."""
        talk = self._talk
        n, size = talk.ledger.number(), talk.size()
        text = {"question" if kind == "ask" else "text": log.text_of(n, size)}
        talk.note(log.Begun(log.now(), n, kind, self.key, whom, where, size))
        if kind == "reply":
            talk.answers[n] = arguments["ask_id"]
        try:
            got = await voice.call(tool, **arguments, **text)
        except Refusal as refusal:
            talk.note(log.Refused(log.now(), n, refusal.code))
            raise
        except NoAnswer as error:
            talk.note(log.Unknown(log.now(), n, error.code))
            raise
        except BaseException:
            talk.note(log.Unknown(log.now(), n, "ended"))
            raise
        msg_id: str = got.get("msg_id") or got.get("broadcast_id") or ""
        count = got.get("peer_count", 0)
        talk.note(log.Acked(log.now(), n, msg_id, got.get("status", ""), count))
        return msg_id

    async def answer_one(self, voice: Voice) -> None:
        """Reply to something it read."""
        if self._to_answer:
            msg_id = self._to_answer.pop()
            to = self._talk.by_id.get(msg_id)
            if to is not None:
                await self.say(voice, "reply", "reply", to, ask_id=msg_id)

    # --- what it hears -----------------------------------------------------------------------------------

    def saw_page(self, page: Page, *, again: bool) -> None:
        self.pages += 1
        for item in page.items:
            if item.text is not None and not item.notice:
                self._saw(item, "again" if again else "page", self.pages)
            elif item.notice:
                self._talk.noticed(self, item)
        for group in page.groups:
            self._talk.may_read(self, group)

    def saw_lines(self, group: str, page: Page) -> None:
        key = self._talk.group_key(self, group)
        turn = self.groups[key] = self.groups.get(key, 0) + bool(page.items)
        if page.missed:
            self._talk.note(log.Missed(log.now(), self.key, key, page.missed))
        for item in page.items:
            if not item.notice:
                self._saw(item, "line", turn, key)

    def saw_push(self, item: Item, turn: int) -> bool:
        if self._talk.random.random() < PUSH_FAILS and self.manner == "push":
            if (n := log.number_of(item.text or "")) in self._talk.kinds:
                self._talk.note(log.Declined(log.now(), n, self.key))
            return False
        if item.kind not in ("group", "system"):
            # Reconnects count on from the connections of former sessions.
            self._saw(item, "push", self._sessions * 1_000_000 + turn)
        return True

    def confirmed(self, page: Page) -> None:
        ns = [log.number_of(item.text) for item in page.items if item.text and not item.notice]
        if ns := [n for n in ns if n >= 0 and self._talk.kinds.get(n) != "room"]:
            self._talk.note(log.Confirmed(log.now(), self.key, tuple(ns)))

    def _saw(self, item: Item, how: log.How, turn: int, where: str = "") -> None:
        assert item.text is not None
        n = log.number_of(item.text)
        if n < 0:
            self._talk.trouble("garbled", f"peer {self.key} was shown {item.text[:80]!r} as {item.msg_id}")
            return
        self._talk.note(
            log.Shown(log.now(), n, item.msg_id, self.key, how, turn, item.marked, item.seq, where)
        )
        self._talk.check(self, n, item)
        if how != "line" and item.kind in ("message", "ask"):
            self._to_answer = [*self._to_answer[-20:], item.msg_id]
