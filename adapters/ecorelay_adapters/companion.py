"""Mail into a session through a piece of ours that runs inside the assistant: its *companion*.

That is OpenCode's plugin and Copilot's extension. Adapter and companion tell each other what follows, as
JSON-RPC 2.0 notifications whose ``params`` name the assistant's session; unknown ones are ignored.

To the companion::

    ecorelay/hand_over {session, id, text, urgent, until}   put the text before the model, as a message of
                                                     its own; refuse it after `until` (ms since 1970)
    ecorelay/canary {session, id}                    show that it could be, without a turn
    ecorelay/welcome {session, text}                 what its model should know of ecorelay

From it::

    ecorelay/session {session, directory, handed_over, seen}   it is there; what it was given before
    ecorelay/gone {session}                          it was closed
    ecorelay/status {session, busy}                  whether a turn is running
    ecorelay/handed_over {session, id}               the assistant took it
    ecorelay/refused {session, id, why}              it did not, and will not
    ecorelay/seen {session, id}                      a request to the model was begun with it
    ecorelay/canary_answer {session, id, ok, says}

A hand-over's id holds the ids of its messages, and the companion keeps the ids: whoever speaks to it later,
another process of ours too, learns first what the session was given, and gives it nothing twice.
"""

from __future__ import annotations

import secrets
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import trio

from ecorelay_adapters.batches import Batches, label, labelled, together
from ecorelay_adapters.carriers import Canary, Carrier
from ecorelay_adapters.news import News

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from ecorelay_adapters.carriers import Reports
    from ecorelay_adapters.envelope import Incoming
    from ecorelay_adapters.handover import ToolResult
    from ecorelay_adapters.tool_calls import ToolCall

    Send = Callable[[str, dict[str, Any]], Awaitable[None]]
    """Sends one notification to the companion. Raises trio.ClosedResourceError or BrokenResourceError."""

PREFIX: Final = "ecorelay/"
"""Begins the names of all these notifications."""
ANSWER_S: Final = 10.0
"""How long the companion may take to hand over; a page waits for the assistant's own queue, not its model."""
HOLD_S: Final = 8.0
"""How long mail waits for a companion that was there, before it is left to relay_inbox."""
HOLD_UNKNOWN_S: Final = 3.0
"""The same for one that never was: it may be starting."""
CANARY_S: Final = 3.0
"""How long the companion may take to answer a canary."""
KEPT: Final = 2_000
"""Messages remembered as handed over; the hub's push window and a mailbox's ring hold 500 each."""


class CompanionCarrier(Carrier):
    """See the module.

    Args:
        name: of the carrier, in receipts.
        session: the assistant's id of the session.
        now_ms: the clock, as `Incoming.ts`.
        word: makes a random word.
    """

    evidence = "a request to the model that holds it"

    def __init__(
        self,
        name: str,
        session: str,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        word: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        self.name = name
        self.session = session
        self._now_ms = now_ms
        self._word = word
        self._news = News()
        """Set, and replaced, whenever anything below changed."""
        self._send: Send | None = None
        self._met = False
        self._busy = False
        self._mail = Batches()
        self._awaited = ""
        """The hand-over that is not answered yet."""
        self._refused = ""
        """Why that was refused."""
        self._there: dict[str, str] = {}
        """Message → the hand-over it was in, the latest last."""
        self._seen: dict[str, None] = {}
        """Messages the model was given, the latest last."""
        self._untold: list[tuple[str, ...]] = []
        """Of these, what the hub is still to hear."""
        self._welcome = ""
        self._canaries: dict[str, Canary | None] = {}
        """Those that fly, and what came back."""

    # --- what the session asks ---------------------------------------------------------------------------

    async def probe(self) -> bool:
        """The companion may come later."""
        return True

    async def push(self, mail: Incoming) -> None:
        """Take one message; what became of it is reported."""
        if self._mail.add(mail):
            self._news.tell()

    def heard(self, call: ToolCall) -> ToolResult | None:
        """Who reads the inbox now is shown there what nobody takes."""
        if call.name == "relay_inbox" and self._send is None and self._mail:
            self._fail(self._mail.clear())  # or the hub would keep it out of the page
        return None

    async def run(self, reports: Reports) -> None:
        """Carry, until cancelled."""
        self._reports = reports
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry)
            nursery.start_soon(self._hold)
            nursery.start_soon(self._tell_seen)

    async def welcomed(self, text: str) -> None:
        """Tell the companion what its model should know; again when it comes back."""
        self._welcome = text
        await self._say("welcome", text=text)

    async def canary(self) -> Canary:
        """Ask the companion whether its session could be handed something."""
        id = self._word()
        self._canaries[id] = None
        try:
            if not await self._say("canary", id=id):
                return Canary(False, "carrier", f"the {self.name} in the assistant is not connected")
            with trio.move_on_after(CANARY_S):
                await self._news.until(lambda: self._canaries[id])
            silent = f"the {self.name} in the assistant does not answer"
            return self._canaries[id] or Canary(False, "carrier", silent)
        finally:
            del self._canaries[id]

    # --- the companion -----------------------------------------------------------------------------------

    async def connected(self, send: Send, params: dict[str, Any]) -> None:
        """It is there, and says what the session was given: ``ecorelay/session``."""
        ours = set(self._there)
        for id in _strings(params.get("handed_over")):
            self._note_there(id)
        for id in _strings(params.get("seen")):
            self._note_seen(id, ours)
        self._send = send
        self._met = True
        self._news.tell()
        if self._welcome:
            await self._say("welcome", text=self._welcome)

    def disconnected(self, send: Send) -> None:
        """The link over which `send` sent is gone."""
        if self._send == send:
            self._lose()

    def told(self, what: str, params: dict[str, Any]) -> None:
        """A notification of the companion's about this session; `what` is its name without the prefix."""
        id = params.get("id")
        match what:
            case "status":
                self._busy = params.get("busy") is True
            case "handed_over" if isinstance(id, str):
                self._note_there(id)  # perhaps too late to be told, but not to be given again
            case "refused" if isinstance(id, str):
                if id == self._awaited:
                    self._refused = str(params.get("why") or "the assistant refused it")[:300]
            case "seen" if isinstance(id, str):
                self._note_seen(id)
            case "canary_answer" if isinstance(id, str) and id in self._canaries:
                says = str(params.get("says") or "")[:200]
                self._canaries[id] = Canary(params.get("ok") is True, "session", says)
            case _:
                return
        self._news.tell()

    async def _say(self, what: str, **params: Any) -> bool:
        send = self._send
        if send is None:
            return False
        try:
            await send(PREFIX + what, {"session": self.session, **params})
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            self.disconnected(send)
            return False
        return True

    def _lose(self) -> None:
        self._send = None
        self._busy = False
        self._news.tell()

    # --- carrying ----------------------------------------------------------------------------------------

    async def _carry(self) -> None:
        while True:
            await self._news.until(lambda: self._mail and self._send is not None)
            if not self._is_urgent():
                with trio.move_on_at(self._mail.not_before):
                    await self._news.until(lambda: self._send is None or self._is_urgent())
            if self._send is None or not (batch := self._mail.take(urgent=self._is_urgent())):
                continue
            new = [mail for mail in batch if mail.msg_id not in self._there]
            # Of what a process before us handed over, the hub has not heard yet that it was seen.
            seen = tuple(mail.msg_id for mail in batch if mail.msg_id in self._seen)
            refused = await self._hand_over(new) if new else ""
            if refused is None:
                self._mail.put_back()  # whether it has them is learned when it is back
                continue
            known = [mail for mail in batch if mail.msg_id in self._there]
            if known:
                self._reports.pushed([mail.msg_id for mail in known])
                self._untold.append(seen)
                self._news.tell()
            if len(known) < len(batch):
                print(f"ecorelay: {self.name} does not take mail: {refused}", file=sys.stderr)
                self._fail([mail for mail in batch if mail.msg_id not in self._there])
            self._mail.done(handed_over=bool(known))

    def _is_urgent(self) -> bool:
        return self._busy and self._mail.urgent

    async def _hand_over(self, batch: Sequence[Incoming]) -> str | None:
        """Why the companion refuses; empty: it handed over. None: the link was lost before it said so."""
        id = label([mail.msg_id for mail in batch])
        self._awaited, self._refused = id, ""
        now = self._now_ms()
        given = {
            "id": id,
            "text": together(batch, now_ms=now, word=self._word),
            "urgent": any(mail.urgent for mail in batch),
            "until": now + int(ANSWER_S * 1000),
        }
        send = self._send
        said = await self._say("hand_over", **given)
        with trio.move_on_after(ANSWER_S):
            await self._news.until(lambda: self._is_there(id) or self._refused or self._send != send)
        self._awaited = ""
        if self._is_there(id):
            return ""
        if not said or self._send != send:
            return None
        return self._refused or f"no answer within {ANSWER_S:.0f} s"

    def _is_there(self, id: str) -> bool:
        return all(self._there.get(msg_id) == id for msg_id in labelled(id))

    async def _hold(self) -> None:
        """Leave to relay_inbox what nobody takes."""
        while True:
            await self._news.until(lambda: self._mail and self._send is None)
            limit = HOLD_S if self._met else HOLD_UNKNOWN_S
            with trio.move_on_at(self._mail.oldest + limit):
                await self._news.until(lambda: self._send is not None or not self._mail)
            if self._send is None and self._mail:  # both may have changed in the last moment
                self._fail(self._mail.give_up(trio.current_time() - limit))

    def _fail(self, mail: Iterable[Incoming]) -> None:
        self._reports.failed([each.msg_id for each in mail])

    # --- evidence ----------------------------------------------------------------------------------------

    def _note_there(self, id: str) -> None:
        for msg_id in labelled(id):
            self._there[msg_id] = id
        while len(self._there) > KEPT:
            del self._there[next(iter(self._there))]

    def _note_seen(self, id: str, ours: Iterable[str] | None = None) -> None:
        """The model was given these; the hub hears it of `ours`: those we handed over ourselves."""
        self._note_there(id)
        new = [msg_id for msg_id in labelled(id) if msg_id not in self._seen]
        self._seen.update(dict.fromkeys(new))
        self._untold.append(tuple(msg_id for msg_id in new if ours is None or msg_id in ours))
        while len(self._seen) > KEPT:
            del self._seen[next(iter(self._seen))]

    async def _tell_seen(self) -> None:
        while True:
            await self._news.until(lambda: self._untold)
            msg_ids = self._untold.pop(0)
            if msg_ids:
                await self._reports.seen(msg_ids)


def _strings(found: object) -> list[str]:
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
