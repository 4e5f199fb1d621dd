"""The tool calls of one connection: each in a task of its own, bounded, cancelled when given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec import Raw, Struct, field

from ecorelay_adapters import jsonrpc
from ecorelay_adapters.handover import Handover, ToolResult
from ecorelay_adapters.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, Fault, Id, Message
from ecorelay_adapters.output import print_traceback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ecorelay_adapters.output import Line, Output

    Handler = Callable[["ToolCall"], Awaitable[ToolResult]]
    Progress = Callable[[float, float | None, str], Awaitable[None]]

CALLS_MAX: Final = 64
"""Calls running at once; further ones wait for a place."""
CALLS_WAITING: Final = 1_000
"""Calls that may wait; further ones are refused."""
CALL_BYTES_MAX: Final = 64 * 1024 * 1024
"""Arguments of all calls without an answer; a call beyond it is refused."""

_BUSY: Final = (
    '{"ok":false,"code":"limit_reached","message":"too many tool calls are waiting for their answers: '
    'call again when some have come"}'
)
_FAILED: Final = (
    '{"ok":false,"code":"unexpected","message":"this call failed inside ecorelay: try it once more, then '
    'tell your user to look at `ecorelay hub status`"}'
)


class ToolCall(Struct, frozen=True):
    """One ``tools/call`` of a tool that exists.

    `arguments` is a JSON object in UTF-8 without lone surrogates, at most `jsonrpc.LINE_MAX` bytes;
    what it must hold is for the handler to check. `meta` is ``_meta`` as it came (clients put their
    session's id there). `progress(n, total, message)` tells the client that the call is alive; it is
    None when the client did not ask to be told.
    """

    name: str
    arguments: bytes
    meta: dict[str, Any]
    progress: Progress | None = None


class _Params(Struct):
    name: str
    arguments: Raw = Raw(b"{}")
    meta: dict[str, Any] | None = field(name="_meta", default=None)


class _CancelledParams(Struct, rename="camel"):
    request_id: str | int | float


class ToolCalls:
    """Starts calls, answers them through `output`, and cancels those the client gives up.

    Args:
        output: where results go; it finds out what became of them.
        handler: carries out a call. What it raises is answered as ``unexpected``.
        names: of the tools there are.
    """

    def __init__(self, output: Output, handler: Handler, names: Iterable[str]) -> None:
        self._output = output
        self._handler = handler
        self._names = frozenset(names)
        self._places = trio.Semaphore(CALLS_MAX)
        self._open: dict[object, trio.CancelScope] = {}  # by request id
        self._held = 0  # bytes of their arguments
        self._begun = trio.Event()  # the call that came last has begun, or was given up before
        self._begun.set()

    def start(self, message: Message, line: Line, nursery: trio.Nursery) -> bytes | None:
        """Start a call in `nursery`; its answer joins `line` later. Or answer it now: too many.

        Raises:
            Fault: no call of a known tool.
        """
        params = jsonrpc.decode_params(message, _Params)
        arguments = bytes(params.arguments)
        if arguments == b"null":
            arguments = b"{}"
        if not arguments.startswith(b"{"):
            raise Fault(INVALID_PARAMS, "arguments is an object", message.id)
        if params.name not in self._names:
            raise Fault(INVALID_PARAMS, "unknown tool: tools/list names all there are", message.id)
        key = object() if message.id is None else message.id
        if key in self._open:
            raise Fault(INVALID_REQUEST, "this id belongs to a request still open", message.id)
        waiting = len(self._open) - CALLS_MAX
        if waiting >= CALLS_WAITING or self._held + len(arguments) > CALL_BYTES_MAX:
            return jsonrpc.answer(message.id, _content(ToolResult(_BUSY, is_error=True)))
        meta = params.meta or {}
        call = ToolCall(params.name, arguments, meta, self._progress(meta.get("progressToken")))
        self._held += len(arguments)
        self._open[key] = scope = trio.CancelScope()
        before, self._begun = self._begun, trio.Event()
        nursery.start_soon(self._run, message.id, key, scope, call, line, before, self._begun)
        return None

    def cancel(self, message: Message) -> None:
        """Serve ``notifications/cancelled``: end the call, or drop the result it has returned.

        Of an id that is unknown or confirmed nothing happens, as the specification wants it.
        """
        try:
            request_id: Id = jsonrpc.decode_params(message, _CancelledParams).request_id
        except Fault:
            return
        scope = self._open.get(request_id)
        if scope is not None:
            scope.cancel()
        else:
            self._output.cancelled(request_id)

    async def _run(
        self,
        id: Id,
        key: object,
        scope: trio.CancelScope,
        call: ToolCall,
        line: Line,
        before: trio.Event,
        begun: trio.Event,
    ) -> None:
        result: ToolResult | None = None
        try:
            with scope:
                result = await self._run_in_place(scope, call, before, begun)
        finally:
            begun.set()
            del self._open[key]
            self._held -= len(call.arguments)
        part: bytes | None = None
        handover: Handover | None = None
        if result is not None and not scope.cancel_called:
            part = jsonrpc.answer(id, _content(result))
            handover = self._output.returned(id, result)
        elif result is not None and result.on_cancelled is not None:
            self._output.tell(result.on_cancelled)
        await self._output.finish(line, part, handover)

    async def _run_in_place(
        self, scope: trio.CancelScope, call: ToolCall, before: trio.Event, begun: trio.Event
    ) -> ToolResult | None:
        try:
            self._places.acquire_nowait()  # no waiting where none is needed: keeps calls in order
        except trio.WouldBlock:
            await self._places.acquire()
        try:
            if not before.is_set():
                await before.wait()  # those that got a place in one moment wake in any order
            begun.set()
            return None if scope.cancel_called else await self._handler(call)
        except Exception:
            print_traceback()
            return ToolResult(_FAILED, is_error=True)
        finally:
            self._places.release()

    def _progress(self, token: object) -> Progress | None:
        if not isinstance(token, str | int):
            return None

        async def progress(n: float, total: float | None, message: str) -> None:
            told = {"progressToken": token, "progress": n, "message": message}
            if total is not None:
                told["total"] = total
            await self._output.notify("notifications/progress", told)

        return progress


def _content(result: ToolResult) -> dict[str, Any]:
    content: dict[str, Any] = {"content": [{"type": "text", "text": jsonrpc.clean(result.text)}]}
    if result.is_error:
        content["isError"] = True
    return content
