"""An assistant, as far as ecorelay can tell: it speaks MCP to an `ecorelay mcp` of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from scripts.soak_lib.voices import Ended, Item, NoAnswer, Page, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scripts.soak_lib.place import Hub
    from scripts.soak_lib.voices import Hearer

ANSWER_S: Final = 120.0
"""An adapter that has not answered by then hangs; its own patience is shorter."""
WRITE_S: Final = 20.0
METHOD: Final = "notifications/claude/channel"


class AdapterVoice:
    """An assistant: it speaks MCP to an `ecorelay mcp` of its own. Made by `adapter_voice`."""

    def __init__(self, process: trio.Process, hearer: Hearer) -> None:
        self.process = process
        self.pushes = 0
        self._hearer = hearer
        self._last_id = 0
        self._asked: dict[int, tuple[str, dict[str, Any]]] = {}
        self._answers: dict[int, Any] = {}
        self._news: dict[int, trio.Event] = {}
        self._over = False
        self._writing = trio.Lock()
        """One line at a time: several tasks may ask, and one gives up."""

    async def listen(self) -> None:
        """Take in what the adapter writes, until it ends; also what it wrote just before it was killed."""
        assert self.process.stdout is not None
        received = bytearray()
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            async for chunk in self.process.stdout:
                *lines, rest = (bytes(received) + chunk).split(b"\n")
                received = bytearray(rest)
                for line in lines:
                    self._take(json.loads(line))
        self._over = True
        for event in self._news.values():
            event.set()
        await self.process.wait()  # whoever pauses now notices much later that it ended

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("method") == METHOD:
            meta = message["params"]["meta"]
            self.pushes += 1
            msg_id = meta.get("msg_id") or meta["ask_id"]
            item = Item(
                msg_id, meta["kind"], meta["from"], message["params"]["content"],
                reply_to=meta.get("reply_to"), group=meta.get("group", ""),
            )  # fmt: skip
            self._hearer.saw_push(item, self.pushes)
        if "method" in message:
            return
        id = message["id"]
        tool, arguments = self._asked.pop(id, ("", {}))
        answer: Any = message.get("result")
        if tool and answer and not answer.get("isError"):
            answer = json.loads(answer["content"][0]["text"])
            if tool == "inbox":
                answer = _page(answer)
                self._hearer.saw_page(answer, again="since_id" in arguments)
            elif tool == "group_history":
                answer = _lines(arguments["group"], answer)
                self._hearer.saw_lines(arguments["group"], answer)
        self._answers[id] = answer
        if id in self._news:
            self._news[id].set()

    async def _write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            async with self._writing:
                with trio.move_on_after(WRITE_S, shield=True):  # half a line would spoil the next one
                    line = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
                    await self.process.stdin.send_all(line)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Ended from error

    async def ask(self, method: str, params: dict[str, Any], tool: str = "") -> Any:
        """A request's answer."""
        self._last_id += 1
        id = self._last_id
        self._asked[id] = tool, params.get("arguments", {})
        self._news[id] = trio.Event()
        try:
            await self._write({"id": id, "method": method, "params": params})
            with trio.move_on_after(ANSWER_S):
                if not self._over:
                    await self._until(id)
            if id in self._answers:
                return self._answers.pop(id)
            raise NoAnswer("adapter killed" if self._over else "adapter hangs")
        finally:
            del self._news[id]

    async def _until(self, id: int) -> None:
        try:
            await self._news[id].wait()
        except trio.Cancelled:
            # The user pressed a key. What was on its way all the same is still heard.
            with trio.move_on_after(1, shield=True), suppress(Ended):
                said = {"requestId": id, "reason": "given up"}
                await self._write({"method": "notifications/cancelled", "params": said})
            raise

    async def initialize(self) -> None:
        """Introduce the assistant."""
        info = {"name": "soak", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        await self.ask("initialize", params)
        await self._write({"method": "notifications/initialized"})

    async def _tool(self, tool: str, arguments: dict[str, Any]) -> Any:
        answer = await self.ask("tools/call", {"name": f"relay_{tool}", "arguments": arguments}, tool)
        if answer is None:
            raise Refusal("unexpected", "the adapter answered with an error of the protocol")
        if isinstance(answer, dict) and answer.get("isError"):
            fields = json.loads(answer["content"][0]["text"])
            if fields["code"] == "timeout":
                raise NoAnswer("timeout")
            raise Refusal(fields["code"], fields["message"])
        return answer

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        got: dict[str, Any] = await self._tool(tool, arguments)
        return got

    async def inbox(self, *, limit: int, wait: float = 0.0, since: str | None = None) -> Page:
        arguments = {"limit": limit, "wait": wait} | ({"since_id": since} if since else {})
        page: Page = await self._tool("inbox", arguments)
        return page

    async def history(self, group: str, limit: int) -> Page:
        page: Page = await self._tool("group_history", {"group": group, "limit": limit})
        return page


def _item(fields: dict[str, Any], group: str = "") -> Item:
    return Item(
        fields.get("msg_id") or fields["id"],
        fields.get("kind") or fields["type"],
        fields["from"],
        fields.get("text"),
        reply_to=fields.get("reply_to"),
        marked=fields.get("redelivered", False),
        group=group,
        whole=Path(fields["file"]) if "file" in fields else None,
    )


def _page(fields: dict[str, Any]) -> Page:
    groups = tuple(group["name"] for group in fields.get("groups", ()))
    items = [_item(each) for each in fields["messages"]]
    return Page(items, fields["remaining"], groups, fields.get("missed", 0))


def _lines(group: str, fields: dict[str, Any]) -> Page:
    items = [_item(each, group) for each in fields["messages"]]
    return Page(items, fields["unread_remaining"], missed=fields.get("missed", 0))


@asynccontextmanager
async def adapter_voice(
    hub: Hub, directory: Path, hearer: Hearer, *words: str
) -> AsyncIterator[AdapterVoice]:
    """An adapter and its assistant, until the end of the block; it is ended as assistants end theirs."""
    directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - one small call
    with open(directory / "stderr", "ab") as stderr:  # noqa: ASYNC230
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", "ecorelay", "mcp", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=directory,
            env=hub.environ | ({} if hub.on_demand else {"ECORELAY_SPAWN": "no"}),
        )
    voice = AdapterVoice(process, hearer)
    raised: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(voice.listen)
            try:
                await voice.initialize()
                yield voice
            except Exception as error:
                raised = error
            assert process.stdin is not None
            await process.stdin.aclose()
            with trio.move_on_after(10):
                await process.wait()
            if process.returncode is None:
                process.kill()
            # What it wrote before it was killed is still read: `listen` ends by itself.
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    if raised is not None:
        raise raised
