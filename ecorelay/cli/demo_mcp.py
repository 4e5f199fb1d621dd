"""A client of MCP over stdio, as small as `ecorelay demo` needs it: what an assistant does with an adapter.

It starts ``ecorelay mcp`` as a process of its own, in a directory of its own, and speaks newline-delimited
JSON-RPC to it, any number of calls at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from ecorelay.framing import LineSplitter
from ecorelay.wire import LINE_MAX

PROTOCOL: Final = "2025-11-25"
CALL_S: Final = 30.0
"""How long a call may take, unless it waits by itself."""
PAGE: Final = 100
MISSING_S: Final = 5
"""How long to wait for mail that should be there."""
END_S: Final = 5.0
"""How long an adapter may take to end once its stdin is closed."""


class AssistantError(Exception):
    """The adapter ended, said something that is no answer, or did not answer in time."""


class ToolFailed(Exception):
    """A tool answered with an error; `code` and `message` are its own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Assistant:
    """One MCP client with its adapter. Made by :func:`run_assistant`."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.process = process
        self.instructions = ""
        self.tools: tuple[str, ...] = ()
        self.ended = ""
        """Why there is nothing more to be heard; empty as long as there is."""
        self._notified: list[tuple[str, dict[str, Any]]] = []
        self._notification_came = trio.Event()
        self._open: dict[int, trio.Event] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._next_id = 1
        self._writing = trio.Lock()

    @property
    def pid(self) -> int:
        """Of the adapter."""
        return self.process.pid

    async def call(self, tool: str, *, patience: float = CALL_S, **arguments: Any) -> dict[str, Any]:
        """Call a tool and give its result, decoded.

        Raises:
            ToolFailed: the tool says no.
            AssistantError: there is no answer.
        """
        answer = await self._request("tools/call", {"name": tool, "arguments": arguments}, patience)
        try:
            result = json.loads(answer["content"][0]["text"])
            failed = bool(answer.get("isError"))
        except (LookupError, TypeError, ValueError) as error:
            raise AssistantError(f"{tool} of {self.name} gave no result that makes sense: {error}") from error
        if failed:
            raise ToolFailed(str(result.get("code")), str(result.get("message")))
        if not isinstance(result, dict):
            raise AssistantError(f"{tool} of {self.name} gave no object")
        return result

    async def read_all(self, expected: int) -> list[dict[str, Any]]:
        """Read the inbox page by page until it is empty; what is `expected` has some time to come."""
        found: list[dict[str, Any]] = []
        while True:
            wait = MISSING_S if len(found) < expected else 0
            page = await self.call("relay_inbox", limit=PAGE, wait=wait)
            if not page["messages"]:
                return found
            found += page["messages"]

    async def notification(self, method: str) -> dict[str, Any]:
        """Wait for the next notification of this kind and give its parameters.

        Raises:
            AssistantError: none came.
        """
        with trio.move_on_after(CALL_S):
            while True:
                for number, (name, params) in enumerate(self._notified):
                    if name == method:
                        del self._notified[number]
                        return params
                self._notification_came = trio.Event()
                await self._notification_came.wait()
        raise AssistantError(f"no {method} came to {self.name} within {CALL_S:.0f} s")

    async def introduce(self) -> None:
        """Initialize, and ask which tools there are."""
        params = {
            "protocolVersion": PROTOCOL,
            "capabilities": {},
            "clientInfo": {"name": "ecorelay-demo", "version": "1"},
        }
        welcome = await self._request("initialize", params, CALL_S)
        self.instructions = str(welcome.get("instructions", ""))
        await self._send({"method": "notifications/initialized"})
        listed = await self._request("tools/list", {}, CALL_S)
        self.tools = tuple(str(tool["name"]) for tool in listed["tools"])

    async def leave(self) -> float:
        """Close the adapter's stdin, as an assistant that ends does, and wait until it is gone.

        Returns:
            The seconds it took.

        Raises:
            AssistantError: it did not end.
        """
        began = trio.current_time()
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with trio.move_on_after(END_S):
            await self.process.wait()
            return trio.current_time() - began
        raise AssistantError(f"the adapter of {self.name} did not end within {END_S:.0f} s after its stdin")

    # --- the wire --------------------------------------------------------------------------------------

    async def _request(self, method: str, params: dict[str, Any], patience: float) -> dict[str, Any]:
        number, self._next_id = self._next_id, self._next_id + 1
        answered = self._open[number] = trio.Event()
        with trio.move_on_after(patience):
            await self._send({"id": number, "method": method, "params": params})
            await answered.wait()
        del self._open[number]
        answer = self._answers.pop(number, None)
        if answer is None:
            why = self.ended or f"no answer within {patience:.0f} s"
            raise AssistantError(f"{method} of {self.name}: {why}")
        if "error" in answer:
            raise AssistantError(f"{method} of {self.name}: {answer['error'].get('message')}")
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    async def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode() + b"\n"
        assert self.process.stdin is not None
        async with self._writing:
            try:
                await self.process.stdin.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._end("the adapter ended")

    async def read(self) -> None:
        """Take in what the adapter says, until it ends."""
        splitter = LineSplitter(LINE_MAX)
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            for line in splitter.feed(data):
                try:
                    message = json.loads(line)
                except ValueError:
                    self._end(f"the adapter wrote a line that is no JSON: {line[:80]!r}")
                    return
                self._take(message)
        self._end("the adapter ended")

    def _take(self, message: dict[str, Any]) -> None:
        if "method" in message:
            self._notified.append((message["method"], message.get("params", {})))
            self._notification_came.set()
        elif message.get("id") in self._open:
            self._answers[message["id"]] = message
            self._open[message["id"]].set()

    def _end(self, why: str) -> None:
        self.ended = self.ended or why
        for answered in self._open.values():
            answered.set()


async def run_assistant(
    name: str,
    directory: Path,
    environ: Mapping[str, str],
    log: Path,
    *options: str,
    task_status: trio.TaskStatus[Assistant] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Start an adapter and introduce ourselves to it; run until it ends. Cancelled, it is killed.

    ``nursery.start`` returns the `Assistant` once it may be used.

    Args:
        name: for people; the peer's own name is what `environ` says.
        directory: the project it works in.
        environ: of the adapter, the whole of it.
        log: file that takes what it says on stderr.
        options: of ``ecorelay mcp``.
        task_status: of ``nursery.start``.
    """
    with log.open("ab") as stderr:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", "ecorelay", "mcp", *options],
            cwd=directory,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assistant = Assistant(name, process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(assistant.read)
            await assistant.introduce()
            task_status.started(assistant)
            await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await trio.aclose_forcefully(stream)
