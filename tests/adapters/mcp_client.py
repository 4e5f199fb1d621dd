"""A client of the MCP server for tests: it speaks JSON on two streams and forgives nothing."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_one_way_pair

from ecorelay_adapters.mcp_stdio import ClientInfo, Server, ToolCall, ToolResult, Wire
from ecorelay_adapters.tools import TOOLS

Handler = Callable[[ToolCall], Awaitable[ToolResult]]


class FakeWire(Wire):
    """A wire that knows what the test tells it."""

    lies_unread = False
    not_taken = 0
    parent_gone = False

    def pending(self) -> bool:
        return self.lies_unread

    def untaken(self) -> int:
        return self.not_taken

    def orphaned(self) -> bool:
        return self.parent_gone


class McpClient:
    """Both client ends of one connection; `wire` is the server's side of it."""

    def __init__(self) -> None:
        self.stdin: MemorySendStream
        self.stdout: MemoryReceiveStream
        self.stdin, server_stdin = memory_stream_one_way_pair()
        self.server_stdout, self.stdout = memory_stream_one_way_pair()
        self.wire = FakeWire(server_stdin, self.server_stdout)
        self.server: Server
        self.ended = trio.Event()
        self._received = b""

    async def write(self, *lines: bytes | dict | list) -> None:
        """Send these lines in one write; what is not bytes goes as JSON."""
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        await self.stdin.send_all(b"".join(line + b"\n" for line in raw))

    async def read(self) -> Any:
        """The next line, as JSON."""
        while b"\n" not in self._received:
            chunk = await self.stdout.receive_some()
            assert chunk, f"stdout ended with {self._received!r}"
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    async def ask(self, line: bytes | dict | list) -> Any:
        """Send a line and read one."""
        await self.write(line)
        return await self.read()

    def hold_writes(self) -> trio.Event:
        """Let every write of the server hang until the event returned is set."""
        release = trio.Event()
        pump = self.server_stdout.send_all_hook
        assert pump is not None

        async def wait_and_pump() -> None:
            await release.wait()
            await pump()

        self.server_stdout.send_all_hook = wait_and_pump
        return release

    async def nothing_more(self) -> None:
        """All that was sent so far is answered: the next answer is the one to this ping."""
        assert await self.ask(request("ping", "end")) == {"jsonrpc": "2.0", "id": "end", "result": {}}


def request(method: str, id: Any, **params: Any) -> dict:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def notification(method: str, **params: Any) -> dict:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def call(id: Any, tool: str = "relay_send", meta: dict | None = None, **arguments: Any) -> dict:
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    return request("tools/call", id, **params, **({"_meta": meta} if meta else {}))


def cancel(id: Any) -> dict:
    return notification("notifications/cancelled", requestId=id, reason="given up")


def text_of(response: dict) -> str:
    [content] = response["result"]["content"]
    text: str = content["text"]
    return text


def code(response: dict) -> tuple[int, object]:
    """The error a response carries, and for whom."""
    return response["error"]["code"], response["id"]


async def echo(call: ToolCall) -> ToolResult:
    return ToolResult(f"{call.name} {call.arguments.decode()}")


async def greeting(client: ClientInfo) -> str:
    return f"hello {client.name}"


@asynccontextmanager
async def connected(handler: Handler = echo) -> AsyncIterator[McpClient]:
    """A server with this handler and its client; both end with the block, within 10 seconds."""
    client = McpClient()
    client.server = Server(client.wire, handler, tools=TOOLS, version="1.2.3", instructions=greeting)

    async def serve() -> None:
        await client.server.run()
        client.ended.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield client
            nursery.cancel_scope.cancel()


class Outcomes:
    """Results that tell what became of them, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._news = trio.Event()

    def result(self, text: str = "page") -> ToolResult:
        return ToolResult(
            text,
            on_written=lambda: self.add(f"{text} written"),
            on_cancelled=lambda: self.add(f"{text} cancelled"),
            on_lost=lambda: self.add(f"{text} lost"),
        )

    def add(self, outcome: str) -> None:
        self.seen.append(outcome)
        self._news.set()
        self._news = trio.Event()

    async def first(self) -> str:
        """Wait for the first outcome of all."""
        while not self.seen:
            await self._news.wait()
        return self.seen[0]


class Desk:
    """A handler that answers with `page`, at once or when `gate` opens."""

    def __init__(self, *, waits: bool = False) -> None:
        self.outcomes = Outcomes()
        self.gate = trio.Event()
        if not waits:
            self.gate.set()

    async def __call__(self, call: ToolCall) -> ToolResult:
        await self.gate.wait()
        return self.outcomes.result(call.meta.get("page", "page"))

    @property
    def seen(self) -> list[str]:
        return self.outcomes.seen
