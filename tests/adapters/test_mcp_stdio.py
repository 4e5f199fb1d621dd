import json
import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ecorelay_adapters.jsonrpc import LINE_MAX
from ecorelay_adapters.mcp_stdio import VERSIONS, ToolCall, ToolResult, serve
from ecorelay_adapters.output import QUEUE_MAX
from ecorelay_adapters.tools import TOOLS
from tests.adapters.mcp_client import (
    McpClient,
    call,
    cancel,
    code,
    connected,
    echo,
    greeting,
    notification,
    request,
    text_of,
)

# --- getting to know each other ------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_initialize_agrees_to_every_version_spoken(version: str):
    async with connected() as client:
        info = {"name": "claude-code", "version": "2.1"}
        params = {"protocolVersion": version, "capabilities": {"roots": {}}, "clientInfo": info}
        assert await client.ask(request("initialize", 0, **params)) == {
            "jsonrpc": "2.0",
            "id": 0,
            "result": {
                "protocolVersion": version,
                "capabilities": {"tools": {}, "experimental": {"claude/channel": {}}},
                "serverInfo": {"name": "ecorelay", "title": "ecorelay", "version": "1.2.3"},
                "instructions": "hello claude-code",
            },
        }
        assert (client.server.client.name, client.server.client.version) == ("claude-code", "2.1")
        assert not client.server.initialized.is_set()
        await client.write(notification("notifications/initialized"))
        await client.server.initialized.wait()


@pytest.mark.parametrize("version", ["2026-07-28", "1.0", ""])
async def test_an_unknown_version_is_answered_with_the_newest_one(version: str):
    async with connected() as client:
        answer = await client.ask(request("initialize", 0, protocolVersion=version))
        assert answer["result"]["protocolVersion"] == "2025-11-25"


@pytest.mark.guarantee("discover-refused")
async def test_unknown_requests_before_initialize_are_refused_and_the_server_keeps_running():
    async with connected() as client:
        discover = request("server/discover", 0, _meta={"protocolVersion": "2026-07-28"})
        assert code(await client.ask(discover)) == (-32601, 0)
        assert code(await client.ask(request("resources/list", "r"))) == (-32601, "r")
        assert "result" in await client.ask(request("initialize", 1, protocolVersion="2025-11-25"))


async def test_initialize_without_a_version_is_refused_and_the_next_try_succeeds():
    async with connected() as client:
        assert code(await client.ask(request("initialize", 0))) == (-32602, 0)
        assert "result" in await client.ask(request("initialize", 1, protocolVersion="2024-11-05"))


async def test_instructions_that_fail_leave_a_session_without_instructions(capsys):
    async def fail(client):
        raise OSError("no hub")

    async with connected() as client:
        client.server._instructions = fail
        answer = await client.ask(request("initialize", 0, protocolVersion="2025-11-25"))
        assert "instructions" not in answer["result"]
    assert "no hub" in capsys.readouterr().err


async def test_slow_instructions_hold_up_nothing_else():
    async def forever(client):
        await trio.sleep_forever()

    async with connected() as client:
        client.server._instructions = forever
        await client.write(request("initialize", 0, protocolVersion="2025-11-25"))
        await client.nothing_more()


async def test_the_tools_are_listed_as_they_are():
    async with connected() as client:
        answer = await client.ask(request("tools/list", 1, cursor=None))
        names = [tool["name"] for tool in answer["result"]["tools"]]
        assert names == [tool.name for tool in TOOLS]


async def test_ping_and_set_level_are_answered_and_notifications_are_not():
    async with connected() as client:
        assert (await client.ask(request("ping", "p")))["result"] == {}
        assert (await client.ask(request("logging/setLevel", None, level="debug")))["id"] is None
        await client.write(
            notification("notifications/roots/list_changed"),
            notification("tools/call", name="relay_send"),
            notification("notifications/cancelled"),
            cancel("unknown"),
            {"jsonrpc": "2.0", "id": 3, "result": {}},
        )
        await client.nothing_more()


# --- batches and hostile lines -------------------------------------------------------------------


async def test_a_batch_is_answered_as_one_array_when_all_its_calls_are_done():
    gates = {"relay_rooms": trio.Event(), "relay_peers": trio.Event()}

    async def handler(call: ToolCall) -> ToolResult:
        await gates[call.name].wait()
        return ToolResult(call.name)

    async with connected(handler) as client:
        batch = [call(1, "relay_rooms"), request("ping", 2), notification("x"), 5, call(3, "relay_peers")]
        await client.write(batch)
        gates["relay_peers"].set()
        await client.nothing_more()
        gates["relay_rooms"].set()
        answers = await client.read()
        assert sorted((a["id"] or 0, "error" in a) for a in answers) == [
            (0, True),
            (1, False),
            (2, False),
            (3, False),
        ]


async def test_a_batch_of_notifications_gets_no_answer_and_an_empty_one_an_error():
    async with connected() as client:
        await client.write([notification("a"), notification("b")])
        await client.nothing_more()
        assert code(await client.ask([])) == (-32600, None)


@pytest.mark.guarantee("error-names-request")
async def test_hostile_lines_are_answered_and_the_server_keeps_running():
    async with connected() as client:
        hostile = [
            (b"\x00\xff\xfe", (-32700, None)),
            (b"[" * 5000, (-32700, None)),
            (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\xff"}}', (-32700, 1)),
            (b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":"x"}', (-32600, 2)),
            (b'{"jsonrpc":"2.0","id":3,"method":7}', (-32600, 3)),
            (b'{"id":4,"method":"' + b"x" * LINE_MAX + b'"}', (-32600, 4)),
        ]
        for line, expected in hostile:
            assert code(await client.ask(line)) == expected
        await client.nothing_more()


async def test_characters_cut_by_a_write_arrive_whole():
    async with connected() as client:
        line = json.dumps(call(1, text="→😀é" * 40), ensure_ascii=False).encode() + b"\n"
        for byte in line:
            await client.stdin.send_all(bytes([byte]))
        assert json.loads(text_of(await client.read()).partition(" ")[2]) == {"text": "→😀é" * 40}


async def test_a_mistake_of_ours_fails_one_request_and_not_the_session(capsys):
    async with connected() as client:
        client.server._tools = {"tools": (object(),)}  # type: ignore[dict-item]
        assert code(await client.ask(request("tools/list", 1))) == (-32603, 1)
        await client.nothing_more()
    assert "TypeError" in capsys.readouterr().err


# --- notifications, back-pressure and the end ----------------------------------------------------


async def test_a_notification_goes_out_as_one_line_and_fails_when_the_client_is_gone():
    async with connected() as client:
        params = {"content": "line\nline", "meta": {"from": "a"}}
        await client.server.notify("notifications/claude/channel", params)
        assert await client.read() == notification("notifications/claude/channel", **params)
        await client.stdin.aclose()
        await client.ended.wait()
        with pytest.raises(trio.ClosedResourceError):
            await client.server.notify("notifications/claude/channel", params)


async def test_a_client_that_does_not_read_holds_the_writers_up():
    async with connected() as client:
        release = client.hold_writes()
        sent = 0

        async def keep_sending() -> None:
            nonlocal sent
            for n in range(10 * QUEUE_MAX):
                await client.server.notify("n", {"n": n})
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_sending)
            await wait_all_tasks_blocked()
            assert 0 < sent <= 2 * QUEUE_MAX
            release.set()
            for n in range(10 * QUEUE_MAX):
                assert (await client.read())["params"] == {"n": n}


async def test_long_lines_and_many_go_out_whole_and_in_order():
    async with connected() as client:
        release = client.hold_writes()

        async def send_all() -> None:
            for n in range(20):
                await client.server.notify("n", {"n": n, "long": "x" * 30_000})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            await wait_all_tasks_blocked()
            release.set()
            assert [(await client.read())["params"]["n"] for _ in range(20)] == list(range(20))


async def test_stdin_that_ends_cancels_the_calls_and_ends_the_server():
    cancelled = trio.Event()

    async def handler(call: ToolCall) -> ToolResult:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with connected(handler) as client:
        await client.write(call(1))
        await wait_all_tasks_blocked()
        await client.stdin.aclose()
        await client.ended.wait()
        assert cancelled.is_set()


async def test_what_was_answered_before_stdin_ended_still_goes_out(mock_clock):
    async with connected() as client:
        release = client.hold_writes()
        await client.write(request("ping", 1), request("tools/list", 2), request("ping", 3))
        await client.stdin.aclose()
        await wait_all_tasks_blocked()
        release.set()
        assert [(await client.read())["id"] for _ in range(3)] == [1, 2, 3]
        await client.ended.wait()


async def test_a_client_that_closed_stdout_ends_the_server_quietly():
    async with connected() as client:
        await client.stdout.aclose()
        await client.write(request("ping", 1))
        await client.ended.wait()
        with pytest.raises(trio.ClosedResourceError):
            await client.server.notify("n", {})


async def test_a_stream_that_breaks_ends_the_server_quietly():
    async with connected() as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.wire.stdin.aclose()
        await client.ended.wait()


async def test_serve_reports_its_server_and_ends_with_the_streams_it_was_given():
    client = McpClient()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            client.server = await nursery.start(
                lambda task_status: serve(
                    echo,
                    tools=TOOLS,
                    version="0",
                    instructions=greeting,
                    stdin=client.wire.stdin,
                    stdout=client.wire.stdout,
                    task_status=task_status,
                )
            )
            await client.nothing_more()
            await client.stdin.aclose()


async def test_no_soup_of_protocol_words_ends_the_server():
    chance = random.Random(7)
    words = (
        b'"jsonrpc":"2.0" "id":1 "id":null "method":"tools/call" "method":"initialize" { } [ ] , "params": '
        b'"name":"relay_send" "arguments":{} "method":"notifications/cancelled" "requestId":1 "\\ud800"'
        b"\xff \x00"
    ).split(b" ")
    async with connected() as client:
        for _ in range(300):
            soup = b"".join(chance.choices(words, k=chance.randrange(1, 12)))
            await client.write(soup, b"{" + soup.replace(b"\n", b"") + b"}")
        await client.write(request("ping", "still here"))
        answer: dict | list = {}
        while not (isinstance(answer, dict) and answer.get("id") == "still here"):
            answer = await client.read()
