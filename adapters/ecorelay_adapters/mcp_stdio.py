"""An MCP server over standard input and output, small enough to start with every assistant session.

It speaks newline-delimited JSON-RPC 2.0 (`jsonrpc`) over the process's descriptors (`stdio`), runs
tool calls side by side, writes their results (`output`) and finds out whether they arrived
(`handover`). What the tools do is the handler's business; nothing here knows a hub.

See https://modelcontextprotocol.io/specification/2025-11-25/basic. A client that opens with a later
version's ``server/discover`` gets "method not found" like for any unknown method, and falls back to
``initialize``.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec import Struct

from ecorelay_adapters import jsonrpc
from ecorelay_adapters.handover import ToolResult
from ecorelay_adapters.jsonrpc import Fault, Id, Message, Response
from ecorelay_adapters.output import Line, Output, print_traceback
from ecorelay_adapters.stdio import CHUNK, Wire, take, until_told_to_end
from ecorelay_adapters.tool_calls import ToolCall, ToolCalls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ecorelay_adapters.tool_calls import Handler
    from ecorelay_adapters.tools import Tool

    Instructions = Callable[["ClientInfo"], Awaitable[str]]
    Noted = Callable[[str, dict[str, Any]], Awaitable[None]]
    """Takes a notification that is none of MCP's: its method and parameters."""

__all__ = ["ClientInfo", "Server", "ToolCall", "ToolResult", "Wire", "serve"]

VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Protocol versions spoken, newest first; any other request is answered with the newest."""

_CAPABILITIES: Final[dict[str, Any]] = {"tools": {}, "experimental": {"claude/channel": {}}}


class ClientInfo(Struct, frozen=True):
    """Who the client says it is; empty before ``initialize``."""

    name: str = ""
    version: str = ""


class _InitializeParams(Struct, rename="camel"):
    protocol_version: str
    client_info: ClientInfo = ClientInfo()


class Server:
    """One connection to one client.

    Args:
        handler: carries out a tool call. It is cancelled when the client gives the call up or goes
            away. What it raises is answered as ``unexpected`` and printed on stderr.
        tools: what ``tools/list`` shows; a call of any other name never reaches the handler.
        version: of this program, for ``serverInfo``.
        instructions: gives the text of ``initialize``; asked each time a client initializes.
        title: name shown to people.
        noted: takes other notifications than MCP's; default: they are ignored.
    """

    def __init__(
        self,
        wire: Wire,
        handler: Handler,
        *,
        tools: Sequence[Tool],
        version: str,
        instructions: Instructions,
        title: str = "ecorelay",
        noted: Noted | None = None,
    ) -> None:
        self.client = ClientInfo()
        self.initialized = trio.Event()
        """Set when the client has said that it is ready."""
        self._wire = wire
        self._output = Output(wire)
        self._tool_calls = ToolCalls(self._output, handler, [tool.name for tool in tools])
        self._tools = {"tools": tuple(tools)}
        self._instructions = instructions
        self._noted = noted
        self._info = {"name": "ecorelay", "title": title, "version": version}

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification; waits while `output.QUEUE_MAX` lines are unwritten.

        That it was written says nothing about whether the client did anything with it.

        Raises:
            trio.ClosedResourceError: the client is gone.
        """
        await self._output.notify(method, params)

    async def run(self) -> None:
        """Serve until stdin ends, nobody reads stdout, or the caller cancels; then close both.

        Running calls are cancelled then. Never raises for anything the client does. Call it once.
        """
        async with self._wire.stdin, self._wire.stdout, self._output.open():
            async with trio.open_nursery() as self._nursery:
                await self._read()
                self._nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        lines = jsonrpc.Lines()
        while True:
            self._output.quiet(not lines.partial)
            try:
                chunk = await self._wire.stdin.receive_some(CHUNK)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            self._output.quiet(False)
            if not chunk:
                return
            for line in lines.feed(chunk):
                await self._take(line)

    async def _take(self, raw: bytes | jsonrpc.TooLong) -> None:
        try:
            batch = jsonrpc.parse(raw)
        except Fault as fault:
            await self._output.finish(Line(), jsonrpc.refusal(fault))
            return
        # Cancellations first: the line that gives a request up must not confirm its result.
        for message in batch.messages:
            if isinstance(message, Message) and message.method == "notifications/cancelled":
                self._tool_calls.cancel(message)
        self._output.heard()
        line = Line(len(batch.messages), batch.array)
        for message in batch.messages:
            # Lets what was started before run first, so that calls begin in the order they came in.
            await trio.lowlevel.checkpoint()
            await self._handle(message, line)

    async def _handle(self, message: Message | Response | Fault, line: Line) -> None:
        part: bytes | None = None
        try:
            if isinstance(message, Fault):
                raise message
            if isinstance(message, Message) and message.is_request:
                part = self._request(message, line)
                if part is None:
                    return  # a task of its own answers
            if isinstance(message, Message):
                await self._notified(message)
        except Fault as fault:
            part = jsonrpc.refusal(fault)
        except Exception:
            # A mistake of ours: this request fails, not the session, which nobody would restart.
            print_traceback()
            id = message.id if isinstance(message, Message) and message.is_request else None
            part = jsonrpc.refusal(Fault(jsonrpc.INTERNAL_ERROR, "internal error", id))
        await self._output.finish(line, part)

    def _request(self, message: Message, line: Line) -> bytes | None:
        match message.method:
            case "tools/call":
                return self._tool_calls.start(message, line, self._nursery)
            case "tools/list":
                return jsonrpc.answer(message.id, self._tools)
            case "initialize":
                params = jsonrpc.decode_params(message, _InitializeParams)
                self._nursery.start_soon(self._initialize, message.id, params, line)
                return None
            case "ping" | "logging/setLevel":
                return jsonrpc.answer(message.id, {})
            case _:
                raise Fault(jsonrpc.METHOD_NOT_FOUND, "method not found", message.id)

    async def _notified(self, message: Message) -> None:
        match message.method:
            case "notifications/initialized":
                self.initialized.set()
            case "notifications/cancelled":
                self._tool_calls.cancel(message)  # again: the call may stand in the same batch
            case method if self._noted is not None:
                await self._noted(method, jsonrpc.decode_params(message, dict))

    async def _initialize(self, id: Id, params: _InitializeParams, line: Line) -> None:
        self.client = params.client_info
        version = params.protocol_version
        result: dict[str, Any] = {
            "protocolVersion": version if version in VERSIONS else VERSIONS[0],
            "capabilities": _CAPABILITIES,
            "serverInfo": self._info,
        }
        try:
            result["instructions"] = jsonrpc.clean(await self._instructions(self.client))
        except Exception:
            print_traceback()
        await self._output.finish(line, jsonrpc.answer(id, result))


async def serve(
    handler: Handler,
    *,
    tools: Sequence[Tool],
    version: str,
    instructions: Instructions,
    title: str = "ecorelay",
    noted: Noted | None = None,
    stdin: trio.abc.ReceiveStream | None = None,
    stdout: trio.abc.SendStream | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve one client; see `Server` for the arguments. ``nursery.start`` returns the `Server`.

    Without streams the process itself is served: its stdin and stdout become the wire for good
    (prints go to stderr), and it ends at once on SIGTERM, SIGINT or SIGHUP, at the end of stdin, and
    when the process that started it is gone. That needs the main thread. Give both streams or none.
    """
    wire = Wire(stdin, stdout) if stdin is not None and stdout is not None else take()
    server = Server(
        wire, handler, tools=tools, version=version, instructions=instructions, title=title, noted=noted
    )
    ends = until_told_to_end(wire) if stdin is None else nullcontext()
    async with ends:
        task_status.started(server)
        await server.run()
