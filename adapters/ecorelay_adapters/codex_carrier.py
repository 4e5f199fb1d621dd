"""Mail into a thread of Codex, through the daemon that all its terminals share.

An idle thread begins a turn with it at once, a busy one right after the running turn; what is urgent is put
into the running turn. It counts as seen when a turn of the thread holds it: the daemon's history says so.

Which thread is ours stands in each tool call. Before the first one, the daemon is asked for threads in our
directory, and to call us on their behalf with a random word: the thread whose server is us is ours.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from ecorelay_adapters import codex_daemon, codex_thread, envelope
from ecorelay_adapters.batches import Batches, label, labelled, together
from ecorelay_adapters.carriers import Carrier
from ecorelay_adapters.codex_canary import CodexCanary
from ecorelay_adapters.codex_daemon import Gone, Refused
from ecorelay_adapters.codex_queue import point
from ecorelay_adapters.handover import ToolResult
from ecorelay_adapters.news import News

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from ecorelay_adapters.carriers import Canary, Reports
    from ecorelay_adapters.codex_daemon import Daemon
    from ecorelay_adapters.envelope import Incoming
    from ecorelay_adapters.mcp_stdio import Server
    from ecorelay_adapters.tool_calls import ToolCall

SERVER: Final = "ecorelay"
"""What `ecorelay install` calls our server in Codex's settings."""
BIND: Final = "ecorelay/bind"
"""Member of ``_meta`` of a call that only finds out whose server we are."""
_BOUND: Final = ToolResult('{"ok":true}')
HOLD_S: Final = 8.0
"""How long mail waits for a daemon that was there, before it is left to relay_inbox; less than the time for
which the hub keeps it out of there."""
HOLD_UNKNOWN_S: Final = 1.0
"""The same for a daemon that never was."""
RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 15.0
"""Pauses between tries to connect: doubled each time, and varied by half."""
STEADY_S: Final = 10.0
"""A connection that lasted so long was a good one."""
PROOF_MIN_S: Final = 0.05
PROOF_MAX_S: Final = 5.0
"""Pauses between looks into the history for what was handed over."""
LOSSES_MAX: Final = 3
"""How often the same mail may cost us the connection."""
NUDGE_S: Final = 3.0
"""How long an idle thread may leave in its queue what we put there. Who interrupts a turn stops the queue,
and only a turn, or who asks for it, starts it again."""
BIND_TRIES: Final = 5
"""How often a thread that does not answer yet is tried."""
PROVED_KEPT: Final = 2_000
"""Submissions remembered after they were seen; the hub pushes none of them again."""
TURNS: Final = 30
"""Turns looked at for what was handed over before we began or lost the connection."""
ITEMS: Final = 100
PAGES: Final = 20


class CodexCarrier(Carrier):
    """See the module.

    Args:
        connect: gives a stream to the daemon, or raises OSError.
        ready: set when Codex may call us.
        directory: in which we were started.
        point: tells a thread without daemon that there is mail: thread and one line.
        now_ms: the clock, as `Incoming.ts`.
        word: makes a random word.
    """

    name = "codex"
    evidence = "a turn that holds it"

    def __init__(
        self,
        connect: Callable[[], Awaitable[trio.abc.Stream]],
        ready: trio.Event,
        *,
        directory: str,
        point: Callable[[str, str], Awaitable[None]],
        now_ms: Callable[[], int],
        word: Callable[[], str],
    ) -> None:
        self._connect = connect
        self._ready = ready
        self._directory = directory
        self._point = point
        self._now_ms = now_ms
        self._word = word
        self._canary = CodexCanary(SERVER, word)
        self._news = News()
        """Set, and replaced, whenever anything below changed."""
        self._thread = ""
        self._known = trio.Event()
        """The hub knows us by the thread: nothing is handed over before."""
        self._daemon: Daemon | None = None
        """While it may be handed something for our thread."""
        self._met = False
        """There was a daemon that may have our thread."""
        self._active = False
        self._changes = 0
        self._stirred = 0.0
        """When the thread was last seen to do something, or was given something."""
        self._mail = Batches()
        self._there: dict[str, str] = {}
        """Message → the submission it is in, for all that the thread has of ours."""
        self._unproved: dict[str, str] = {}
        """Submission → the turn it was put into, empty: one of its own."""
        self._proved: dict[str, None] = {}
        """Submissions that stand in turns, the latest last."""
        self._pointed = False
        """It was told that there is mail, and did not call us since."""

    # --- what the session asks ---------------------------------------------------------------------------

    async def probe(self) -> bool:
        """The daemon may come later."""
        return True

    def heard(self, call: ToolCall) -> ToolResult | None:
        """Learn from a call whose server we are; answers those that are made for that alone."""
        thread = call.meta.get("threadId")
        if not self._thread and isinstance(thread, str) and codex_thread.THREAD.fullmatch(thread):
            self._thread = thread  # for good: what else calls us works for this one
            self._news.tell()
        if BIND in call.meta or self._canary.heard(call):
            return _BOUND
        self._pointed = False
        if call.name == "relay_inbox" and self._daemon is None and self._mail:
            self._give_up(self._mail.clear(), tell=False)  # or the hub would keep it out of the page
        return None

    async def canary(self) -> Canary:
        """To the daemon, and from it to us on behalf of our thread."""
        return await self._canary.fly(self._daemon, self._thread, met=self._met)

    async def push(self, mail: Incoming) -> None:
        """Take one message; what became of it is reported."""
        if self._mail.add(mail):
            self._news.tell()

    async def run(self, reports: Reports) -> None:
        """Carry, until cancelled."""
        self._reports = reports
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._stay_connected)
            self._nursery.start_soon(self._introduce_thread)
            self._nursery.start_soon(self._carry)
            self._nursery.start_soon(self._hold)
            await self._ready.wait()
            self._news.tell()

    # --- whose server we are -----------------------------------------------------------------------------

    async def _introduce_thread(self) -> None:
        await self._news.until(lambda: self._thread)
        if await self._reports.is_now(self._thread):
            self._mail.clear()  # another peer's
        self._known.set()

    async def _find_thread(self, daemon: Daemon) -> None:
        await self._news.until(lambda: self._thread or self._ready.is_set())
        tries: dict[str, int] = {}
        pause = RETRY_MIN_S
        while not self._thread:
            for thread in await self._all(daemon, "thread/loaded/list", str):
                if tries.get(thread, 0) < BIND_TRIES:
                    tries[thread] = tries.get(thread, 0) + 1
                    await self._try_thread(daemon, thread, tries)
            with trio.move_on_after(pause):
                changes = self._changes
                await self._news.until(lambda: self._thread or self._changes != changes)  # noqa: B023
            pause = min(pause * 2, PROOF_MAX_S)

    async def _try_thread(self, daemon: Daemon, thread: str, tries: dict[str, int]) -> None:
        try:
            found: Any = (await daemon.ask("thread/read", threadId=thread)).get("thread")
            if codex_thread.is_a_persons(found) and _same(found.get("cwd"), self._directory):
                await daemon.ask(
                    "mcpServer/tool/call",
                    threadId=thread,
                    server=SERVER,
                    tool="relay_peers",
                    arguments={},
                    _meta={BIND: self._word()},
                )
            tries[thread] = BIND_TRIES  # not ours, or we would know by now
        except Refused:
            return  # still starting, or gone already: the next look

    # --- the connection ----------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        pause = RETRY_MIN_S
        while True:
            began = trio.current_time()
            await codex_daemon.visit(self._connect, self._noted, self._be_connected)
            self._daemon = None
            self._news.tell()
            if trio.current_time() - began > STEADY_S:
                pause = RETRY_MIN_S
            await trio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, RETRY_MAX_S)

    def _noted(self, method: str, params: Mapping[str, Any]) -> None:
        if method == "thread/started":
            self._changes += 1
            self._news.tell()
        elif method == "thread/status/changed" and params.get("threadId") == self._thread:
            self._active = codex_thread.status(params) == "active"
            self._stirred = trio.current_time()
            self._changes += 1
            self._news.tell()

    async def _be_connected(self, daemon: Daemon) -> None:
        self._met = True
        await self._find_thread(daemon)
        await self._known.wait()
        while not await self._look_at(daemon, self._thread):
            self._met = False  # it runs in a process of its own, or not yet
            await trio.sleep(PROOF_MAX_S)
        self._daemon = daemon
        self._met = True
        self._news.tell()
        await self._prove(daemon, self._thread)

    async def _look_at(self, daemon: Daemon, thread: str) -> bool:
        """Learn what the thread has of ours already; whether it runs in this daemon."""
        try:
            state = codex_thread.status((await daemon.ask("thread/read", threadId=thread)).get("thread"))
        except Refused:
            return False
        if state in ("", "notLoaded"):
            return False
        self._active = state == "active"
        newest, turns = "", []
        try:
            turns = codex_thread.rows(await daemon.ask("thread/turns/list", threadId=thread, limit=TURNS))
            newest = codex_thread.running(turns) or (str(turns[0].get("id")) if turns else "")
        except Refused:  # a thread without a turn has no history yet
            pass
        self._note_proofs(codex_thread.shown(turns))
        if newest:
            self._note_proofs(await self._items(daemon, thread, newest))
        for submission in codex_thread.queued(await self._all(daemon, "thread/queue/list", threadId=thread)):
            self._handed_over(submission, "")
        return True

    async def _all(self, daemon: Daemon, method: str, kind: type = dict, **params: Any) -> list[Any]:
        """The entries of all pages of a list."""
        found: list[Any] = []
        for _ in range(PAGES):
            page = await daemon.ask(method, **params)
            found += codex_thread.rows(page, kind)
            if page.get("nextCursor") is None:
                break
            params["cursor"] = page["nextCursor"]
        return found

    async def _items(self, daemon: Daemon, thread: str, turn: str) -> list[str]:
        """What one turn holds."""
        try:
            page = await daemon.ask(
                "thread/items/list", threadId=thread, turnId=turn, limit=ITEMS, sortDirection="desc"
            )
        except Refused:
            return []
        items = [row.get("item") for row in codex_thread.rows(page)]
        return list(codex_thread.shown([{"items": items}]))

    # --- carrying ----------------------------------------------------------------------------------------

    async def _carry(self) -> None:
        losses = 0
        while True:
            await self._news.until(lambda: self._mail and self._daemon is not None)
            if not self._is_urgent():
                with trio.move_on_at(self._mail.not_before):
                    await self._news.until(lambda: self._daemon is None or self._is_urgent())
            daemon, thread = self._daemon, self._thread
            if daemon is None or not (batch := self._mail.take(urgent=self._is_urgent())):
                continue
            try:
                await self._hand_over(daemon, thread, batch)
            except (Gone, Refused) as error:
                losses = losses + 1 if isinstance(error, Gone) else LOSSES_MAX
                if self._daemon is daemon and isinstance(error, Gone):
                    self._daemon = None
                if losses < LOSSES_MAX:
                    self._mail.put_back()  # whether it has them is looked at first
                    continue
                print(f"ecorelay: Codex does not take mail: {error}", file=sys.stderr)
                self._reports.failed([mail.msg_id for mail in batch])
                self._mail.done(handed_over=False)
            else:
                self._mail.done(handed_over=True)
            losses = 0

    def _is_urgent(self) -> bool:
        return self._active and self._mail.urgent

    async def _hand_over(self, daemon: Daemon, thread: str, batch: Sequence[Incoming]) -> None:
        new = [mail for mail in batch if mail.msg_id not in self._there]
        if new:
            submission = label([mail.msg_id for mail in new])
            text = together(new, now_ms=self._now_ms(), word=self._word)
            content = [{"type": "text", "text": text}]
            turn = ""
            if self._active and new[0].urgent:
                turn = await self._steer(daemon, thread, submission, content)
            if not turn:
                await daemon.ask(
                    "thread/queue/add", threadId=thread, clientUserMessageId=submission, input=content
                )
            self._handed_over(submission, turn)
        self._reports.pushed([mail.msg_id for mail in batch])
        # Of what a process before us handed over, the hub has not heard yet that it was seen.
        self._tell_seen({self._there[mail.msg_id] for mail in batch if mail.msg_id in self._there})

    async def _steer(self, daemon: Daemon, thread: str, submission: str, content: object) -> str:
        """Put it into the running turn; which that is, or empty: none takes it."""
        try:
            turns = codex_thread.rows(await daemon.ask("thread/turns/list", threadId=thread, limit=1))
            if turn := codex_thread.running(turns):
                await daemon.ask(
                    "turn/steer",
                    threadId=thread,
                    expectedTurnId=turn,
                    clientUserMessageId=submission,
                    input=content,
                )
            return turn
        except Refused:  # it ended in this moment, or is of a kind that takes nothing
            return ""

    # --- evidence ----------------------------------------------------------------------------------------

    def _handed_over(self, submission: str, turn: str) -> None:
        msg_ids = labelled(submission)
        for msg_id in msg_ids:
            self._there[msg_id] = submission
        if msg_ids and submission not in self._proved:
            self._unproved[submission] = turn
            self._stirred = trio.current_time()
            self._news.tell()

    def _note_proofs(self, submissions: Iterable[str]) -> bool:
        """These stand in turns. Whether one of them was waited for."""
        found = {each for each in submissions if labelled(each)} - self._proved.keys()
        for submission in found:
            self._there.update(dict.fromkeys(labelled(submission), submission))
            self._proved[submission] = None
        awaited = {each for each in found if self._unproved.pop(each, None) is not None}
        self._tell_seen(awaited)
        self._forget()
        return bool(awaited)

    def _forget(self) -> None:
        """Of what was seen, only the latest has to be known: more than one look into the history shows."""
        while len(self._proved) > PROVED_KEPT:
            oldest = next(iter(self._proved))
            del self._proved[oldest]
            for msg_id in labelled(oldest):
                self._there.pop(msg_id, None)

    def _tell_seen(self, submissions: set[str]) -> None:
        for submission in submissions & self._proved.keys():
            self._nursery.start_soon(self._reports.seen, labelled(submission))

    async def _prove(self, daemon: Daemon, thread: str) -> None:
        """Look for what was handed over, when the thread begins or ends a turn, and now and then."""
        pause = PROOF_MIN_S
        while True:
            await self._news.until(lambda: self._unproved)
            changes = self._changes
            found: list[str] = []
            try:
                page = await daemon.ask("thread/turns/list", threadId=thread, limit=TURNS)
                found += codex_thread.shown(codex_thread.rows(page))
            except Refused:
                pass
            for turn in {turn for turn in self._unproved.values() if turn}:
                found += await self._items(daemon, thread, turn)
            if self._note_proofs(found):
                pause = PROOF_MIN_S
                continue
            until = trio.current_time() + pause
            if not self._active:
                until = min(until, self._stirred + NUDGE_S)
            with trio.move_on_at(until):
                await self._news.until(lambda: self._changes != changes)  # noqa: B023
                pause = PROOF_MIN_S / 2  # the history is written a little later
            pause = min(pause * 2, PROOF_MAX_S)
            if not self._active and trio.current_time() >= self._stirred + NUDGE_S:
                await self._nudge(daemon, thread)

    async def _nudge(self, daemon: Daemon, thread: str) -> None:
        self._stirred = trio.current_time()
        with suppress(Refused):  # it has begun by itself, or there is nothing left
            await daemon.ask("thread/queue/start", threadId=thread)

    # --- no daemon ---------------------------------------------------------------------------------------

    async def _hold(self) -> None:
        """Leave to relay_inbox what nobody takes."""
        while True:
            await self._news.until(lambda: self._mail and self._daemon is None)
            limit = HOLD_S if self._met else HOLD_UNKNOWN_S
            with trio.move_on_at(self._mail.oldest + limit):
                await self._news.until(lambda: self._daemon is not None or not self._mail)
            if self._daemon is None and self._mail:  # both may have changed in the last moment
                self._give_up(self._mail.give_up(trio.current_time() - limit))

    def _give_up(self, given: Sequence[Incoming], *, tell: bool = True) -> None:
        self._reports.failed([mail.msg_id for mail in given])
        if tell and self._thread and not self._pointed:
            self._pointed = True
            line = envelope.pointer(given[0], now_ms=self._now_ms())
            self._nursery.start_soon(self._point, self._thread, line)


def _same(directory: object, other: str) -> bool:
    return isinstance(directory, str) and os.path.realpath(directory) == os.path.realpath(other)


def make_carrier(server: Server, environ: Mapping[str, str], directory: str) -> CodexCarrier:
    """The carrier of this process."""
    home = environ.get("CODEX_HOME") or os.path.join(os.path.expanduser("~"), ".codex")

    async def connect() -> trio.abc.Stream:
        return await codex_daemon.connect(home)

    async def tell(thread: str, line: str) -> None:
        await point(environ, thread, line)

    return CodexCarrier(
        connect,
        server.initialized,
        directory=directory,
        point=tell,
        now_ms=lambda: time.time_ns() // 1_000_000,
        word=lambda: secrets.token_hex(4),
    )
