import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ecorelay_adapters.handover import PATIENCE
from ecorelay_adapters.mcp_stdio import ToolCall, ToolResult
from tests.adapters.mcp_client import (
    Desk,
    Outcomes,
    call,
    cancel,
    connected,
    notification,
    request,
)

# --- confirmed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        request("ping", 2),
        notification("notifications/initialized"),
        cancel("another"),
        [request("ping", 2)],
        {"jsonrpc": "2.0", "id": 99, "result": {}},
    ],
)
async def test_a_result_is_confirmed_by_the_clients_next_line(line: dict | list):
    desk = Desk()
    async with connected(desk) as client:
        await client.ask(call(1))
        await wait_all_tasks_blocked()
        assert desk.seen == []
        await client.write(line)
        await wait_all_tasks_blocked()
        assert desk.seen == ["page written"]
        await client.write(cancel(1), request("ping", 3))
        await client.stdin.aclose()
        await client.ended.wait()
    assert desk.seen == ["page written"]


async def test_a_result_is_confirmed_by_two_seconds_of_silence(autojump_clock):
    desk = Desk()
    async with connected(desk) as client:
        await client.ask(call(1))
        await trio.sleep(PATIENCE - 0.1)
        assert desk.seen == []
        await trio.sleep(0.2)
        assert desk.seen == ["page written"]
        await client.stdin.aclose()
        await client.ended.wait()
    assert desk.seen == ["page written"]


async def test_the_confirmation_comes_before_the_call_whose_line_gave_it():
    order: list[str] = []

    async def told() -> None:
        order.append("first confirmed")

    async def handler(call: ToolCall) -> ToolResult:
        order.append("call")
        return ToolResult("page", on_written=told)

    for _ in range(20):
        order.clear()
        async with connected(handler) as client:
            await client.ask(call(1))
            await client.ask(call(2))
        assert order[:3] == ["call", "first confirmed", "call"]


async def test_a_broken_line_confirms_nothing():
    desk = Desk()
    async with connected(desk) as client:
        await client.ask(call(1))
        await client.ask(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}')
        assert desk.seen == []


# --- cancelled -----------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [cancel(1), [cancel(1)], [request("ping", 2), cancel(1)]])
async def test_a_cancellation_as_next_line_means_not_confirmed(line: dict | list, autojump_clock):
    desk = Desk()
    async with connected(desk) as client:
        await client.ask(call(1))
        await client.write(line)
        await wait_all_tasks_blocked()
        assert desk.seen == ["page cancelled"]
        await client.write(request("ping", 3))
        await trio.sleep(3 * PATIENCE)
        await client.stdin.aclose()
        await client.ended.wait()
    assert desk.seen == ["page cancelled"]


async def test_a_handler_that_returns_although_it_was_cancelled_is_told_and_nothing_is_sent():
    outcomes = Outcomes()

    async def handler(call: ToolCall) -> ToolResult:
        with trio.CancelScope(shield=True):
            await gate.wait()
        return outcomes.result()

    gate = trio.Event()
    async with connected(handler) as client:
        await client.write(call(1))
        await wait_all_tasks_blocked()
        await client.write(cancel(1))
        await wait_all_tasks_blocked()
        gate.set()
        assert await outcomes.first() == "page cancelled"
        await client.nothing_more()
    assert outcomes.seen == ["page cancelled"]


async def test_a_result_cancelled_while_it_waits_to_be_written_is_not_written():
    desk = Desk()
    async with connected(desk) as client:
        release = client.hold_writes()
        await client.write(request("ping", "occupies the writer"))
        await wait_all_tasks_blocked()
        await client.write(call(1), call(2, meta={"page": "other"}))
        await wait_all_tasks_blocked()
        await client.write(cancel(1))
        await wait_all_tasks_blocked()
        assert desk.seen == ["page cancelled"]
        release.set()
        assert (await client.read())["id"] == "occupies the writer"
        assert (await client.read())["id"] == 2
        await client.nothing_more()


async def test_a_result_cancelled_while_it_is_being_written_is_never_confirmed(autojump_clock):
    desk = Desk()
    async with connected(desk) as client:
        release = client.hold_writes()
        await client.write(call(1))
        await wait_all_tasks_blocked()
        await client.write(cancel(1))
        await wait_all_tasks_blocked()
        release.set()
        assert (await client.read())["id"] == 1  # the line was begun, so it is whole
        await client.nothing_more()
        await trio.sleep(3 * PATIENCE)
    assert desk.seen == ["page cancelled"]


async def test_a_cancelled_member_of_a_batch_is_left_out_of_its_answer():
    desk, slow = Desk(), Desk(waits=True)

    async def handler(call: ToolCall) -> ToolResult:
        return await (slow if call.meta else desk)(call)

    async with connected(handler) as client:
        await client.write([call(1), call(2, meta={"page": "slow"})])
        await wait_all_tasks_blocked()
        await client.write(cancel(1))
        await wait_all_tasks_blocked()
        assert desk.seen == ["page cancelled"]
        slow.gate.set()
        assert [part["id"] for part in await client.read()] == [2]
        await client.nothing_more()
    assert slow.seen == ["slow written"]


# --- lost ----------------------------------------------------------------------------------------


async def test_a_result_is_lost_when_stdin_ends_before_anything_else():
    desk = Desk()
    async with connected(desk) as client:
        await client.ask(call(1))
        await client.stdin.aclose()
        await client.ended.wait()
        assert desk.seen == ["page lost"]


async def test_a_last_line_before_the_end_of_stdin_still_confirms():
    desk = Desk()
    async with connected(desk) as client:
        await client.ask(call(1))
        await client.write(notification("bye"))
        await client.stdin.aclose()
        await client.ended.wait()
        assert desk.seen == ["page written"]


async def test_a_result_that_could_not_be_written_is_lost():
    desk = Desk(waits=True)
    async with connected(desk) as client:
        await client.write(call(1))
        await client.stdout.aclose()
        desk.gate.set()
        await client.ended.wait()
        assert desk.seen == ["page lost"]


async def test_a_result_stuck_behind_a_client_that_does_not_read_is_lost_at_the_end(autojump_clock):
    desk = Desk()
    async with connected(desk) as client:
        client.hold_writes()
        await client.write(call(1))
        await trio.sleep(3 * PATIENCE)
        assert desk.seen == []
        await client.stdin.aclose()
        await client.ended.wait()
        assert desk.seen == ["page lost"]


async def test_a_result_is_lost_when_the_server_is_cancelled():
    desk = Desk()
    async with connected(desk) as client:
        await client.ask(call(1))
    assert desk.seen == ["page lost"]


async def test_callbacks_that_wait_get_a_moment_at_the_end_and_no_more(autojump_clock):
    told: list[str] = []

    async def quick() -> None:
        await trio.sleep(0.05)
        told.append("quick")

    async def endless() -> None:
        await trio.sleep_forever()
        told.append("never")

    async def handler(call: ToolCall) -> ToolResult:
        return ToolResult("page", on_lost=endless if call.meta else quick)

    async with connected(handler) as client:
        await client.write(call(1), call(2, meta={"endless": True}))
        await client.read()
        await client.read()
        start = trio.current_time()
        await client.stdin.aclose()
        await client.ended.wait()
        assert trio.current_time() - start < 0.5
    assert told == ["quick"]


async def test_a_callback_that_fails_harms_nobody(capsys):
    def fail() -> None:
        raise OSError("hub gone")

    async def handler(call: ToolCall) -> ToolResult:
        return ToolResult("page", on_written=fail)

    async with connected(handler) as client:
        await client.ask(call(1))
        await client.nothing_more()
    assert "hub gone" in capsys.readouterr().err
