import json

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ecorelay_adapters.mcp_stdio import ToolCall, ToolResult
from ecorelay_adapters.tool_calls import CALLS_MAX, CALLS_WAITING
from tests.adapters.mcp_client import call, cancel, code, connected, echo, notification, request, text_of


async def test_a_call_reaches_the_handler_with_arguments_and_meta_and_its_result_comes_back():
    calls: list[ToolCall] = []

    async def handler(call: ToolCall) -> ToolResult:
        calls.append(call)
        return ToolResult("fine")

    async with connected(handler) as client:
        answer = await client.ask(call(1, "relay_send", {"threadId": "t-1"}, to="a", text="hé"))
        assert answer["result"] == {"content": [{"type": "text", "text": "fine"}]}
    [seen] = calls
    assert (seen.name, json.loads(seen.arguments)) == ("relay_send", {"to": "a", "text": "hé"})
    assert (seen.meta, seen.progress) == ({"threadId": "t-1"}, None)


@pytest.mark.parametrize("params", [{"name": "relay_rooms"}, {"name": "relay_rooms", "arguments": None}])
async def test_missing_arguments_are_an_empty_object(params: dict):
    async with connected() as client:
        assert text_of(await client.ask(request("tools/call", 1, **params))) == "relay_rooms {}"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"name": 5},
        {"name": "rm_rf"},
        {"name": "relay_send", "arguments": [1]},
        {"name": "relay_send", "_meta": 1},
    ],
)
async def test_a_call_of_no_tool_or_without_an_object_is_refused(params: dict):
    async with connected() as client:
        assert code(await client.ask(request("tools/call", 1, **params))) == (-32602, 1)


async def test_an_error_of_a_tool_is_a_result_marked_as_error():
    async def handler(call: ToolCall) -> ToolResult:
        return ToolResult('{"ok":false}', is_error=True)

    async with connected(handler) as client:
        assert (await client.ask(call(1)))["result"]["isError"] is True


async def test_a_handler_that_crashes_fails_its_own_call_only(capsys):
    async def handler(call: ToolCall) -> ToolResult:
        if call.name == "relay_send":
            raise KeyError("oops")
        return await echo(call)

    async with connected(handler) as client:
        answer = await client.ask(call(1))
        assert answer["result"]["isError"] is True
        assert json.loads(text_of(answer))["code"] == "unexpected"
        assert text_of(await client.ask(call(2, "relay_rooms"))) == "relay_rooms {}"
    assert "oops" in capsys.readouterr().err


async def test_a_lone_surrogate_in_an_argument_or_a_result_is_replaced_and_the_call_goes_on():
    async def handler(call: ToolCall) -> ToolResult:
        return ToolResult(json.loads(call.arguments)["text"] + "\udcff😀")

    async with connected(handler) as client:
        assert text_of(await client.ask(call(1, text="x\ud800"))) == "x��😀"


async def test_calls_run_side_by_side_and_begin_in_the_order_they_came():
    begun: list[str] = []
    gate = trio.Event()

    async def handler(call: ToolCall) -> ToolResult:
        begun.append(call.arguments.decode())
        await gate.wait()
        return ToolResult("done")

    async with connected(handler) as client:
        await client.write(*(call(n, n=n) for n in range(30)), [call(n, n=n) for n in range(30, 50)])
        await wait_all_tasks_blocked()
        assert begun == [f'{{"n": {n}}}' for n in range(50)]
        gate.set()
        for _ in range(31):
            await client.read()


async def test_calls_beyond_the_bound_wait_for_a_place_and_far_beyond_it_are_refused():
    running = 0
    gate = trio.Event()

    async def handler(call: ToolCall) -> ToolResult:
        nonlocal running
        running += 1
        await gate.wait()
        return ToolResult("done")

    async with connected(handler) as client:
        accepted = CALLS_MAX + CALLS_WAITING
        await client.write(*(call(n) for n in range(accepted + 1)))
        refused = await client.read()
        assert (refused["id"], refused["result"]["isError"]) == (accepted, True)
        assert json.loads(text_of(refused))["code"] == "limit_reached"
        await wait_all_tasks_blocked()
        assert running == CALLS_MAX
        gate.set()
        assert {(await client.read())["id"] for _ in range(accepted)} == set(range(accepted))


async def test_an_id_still_in_use_is_refused_and_one_that_was_answered_is_free_again():
    gate = trio.Event()

    async def handler(call: ToolCall) -> ToolResult:
        await gate.wait()
        return ToolResult("done")

    async with connected(handler) as client:
        await client.write(call(1), call("1"))
        assert code(await client.ask(call(1))) == (-32600, 1)
        gate.set()
        assert {(await client.read())["id"], (await client.read())["id"]} == {1, "1"}
        assert text_of(await client.ask(call(1))) == "done"


async def test_a_cancelled_call_is_cancelled_in_the_handler_and_gets_no_response():
    ended = trio.Event()

    async def handler(call: ToolCall) -> ToolResult:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with connected(handler) as client:
        await client.write(call(7))
        await wait_all_tasks_blocked()
        await client.write(cancel(7))
        await ended.wait()
        await client.nothing_more()


async def test_a_call_cancelled_before_it_began_never_reaches_the_handler():
    begun: list[str] = []

    async def handler(call: ToolCall) -> ToolResult:
        begun.append(call.name)
        return ToolResult("done")

    async with connected(handler) as client:
        await client.write(call(1), cancel(1))
        await client.nothing_more()
    assert begun == []


async def test_progress_goes_to_the_token_of_its_call_and_only_when_asked_for():
    async def handler(call: ToolCall) -> ToolResult:
        assert call.progress is not None
        await call.progress(1, None, "waiting")
        await call.progress(2, 3, "still")
        return ToolResult("done")

    async with connected(handler) as client:
        first = await client.ask(call(1, "relay_inbox", {"progressToken": "tok"}))
        told = {"progressToken": "tok", "progress": 1, "message": "waiting"}
        assert first == notification("notifications/progress", **told)
        assert (await client.read())["params"] == {**told, "progress": 2, "total": 3, "message": "still"}
        assert text_of(await client.read()) == "done"
