"""When the client's next line proves nothing: it was on its way already, or nobody reads."""

import os
import socket
import sys
from collections.abc import Callable

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import wait_all_tasks_blocked

from ecorelay_adapters.handover import PATIENCE, Handover, Handovers
from ecorelay_adapters.mcp_stdio import Server, ToolResult
from ecorelay_adapters.stdio import ProcessWire
from ecorelay_adapters.tools import TOOLS
from tests.adapters.mcp_client import Desk, Outcomes, call, connected, greeting, request

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"relay_inbox"}}'
PING = b'{"jsonrpc":"2.0","id":2,"method":"ping"}'


async def test_of_two_pipelined_requests_the_second_does_not_confirm_the_first():
    desk = Desk()
    async with connected(desk) as client:
        await client.write(call(1), request("ping", 2), call(3, meta={"page": "third"}))
        for _ in range(3):
            await client.read()
        await wait_all_tasks_blocked()
        assert desk.seen == []
        await client.nothing_more()
        assert sorted(desk.seen) == ["page written", "third written"]


async def test_a_line_begun_before_the_result_was_written_does_not_confirm_it():
    desk = Desk()
    async with connected(desk) as client:
        await client.stdin.send_all(CALL + b"\n" + PING[:9])
        assert (await client.read())["id"] == 1
        await client.stdin.send_all(PING[9:] + b"\n")
        assert (await client.read())["id"] == 2
        await wait_all_tasks_blocked()
        assert desk.seen == []
        await client.nothing_more()
        assert desk.seen == ["page written"]


async def test_a_line_that_lay_unread_when_the_result_was_written_does_not_confirm_it():
    desk = Desk()
    async with connected(desk) as client:
        client.wire.lies_unread = True
        await client.ask(call(1))
        client.wire.lies_unread = False
        await client.ask(request("ping", 2))
        await wait_all_tasks_blocked()
        assert desk.seen == []
        await client.nothing_more()
        assert desk.seen == ["page written"]


async def test_silence_confirms_nothing_that_the_client_has_not_taken(autojump_clock):
    desk = Desk()
    async with connected(desk) as client:
        client.wire.not_taken = 1
        await client.ask(call(1))
        await trio.sleep(PATIENCE + 0.1)
        await client.ask(request("ping", 2))
        assert desk.seen == []
        client.wire.not_taken = 0
        await trio.sleep(PATIENCE)
        assert desk.seen == ["page written"]


async def test_silence_after_the_parent_died_confirms_nothing(autojump_clock):
    desk = Desk()
    async with connected(desk) as client:
        await client.ask(call(1))
        client.wire.parent_gone = True
        await trio.sleep(3 * PATIENCE)
        assert desk.seen == []


def test_a_result_nobody_asks_about_is_forgotten_once_written():
    ledger = Handovers(lambda callback: None)
    handover = ledger.returned(1, ToolResult("x"))
    assert ledger.written(handover, 10) is False
    assert ledger._open == []


# What may happen to the result of one of three requests, or to the connection.
EVENTS = st.one_of(
    st.tuples(st.sampled_from(["written", "cancelled", "overdue"]), st.integers(0, 2)),
    st.tuples(st.sampled_from(["arm", "heard"]), st.just(0)),
)


@given(st.lists(EVENTS, max_size=30))
def test_whatever_happens_each_result_ends_once_and_only_as_its_events_allow(events: list[tuple[str, int]]):
    outcomes = Outcomes()

    def tell(callback: Callable[[], object]) -> None:
        callback()

    ledger = Handovers(tell)
    handed = [ledger.returned(n, outcomes.result(str(n))) for n in range(3)]
    written: set[int] = set()
    armed: set[int] = set()
    expected: dict[int, str] = {}

    def do(event: str, n: int, handover: Handover) -> None:
        match event:
            case "written" if n not in written:
                written.add(n)
                assert ledger.written(handover, 10) is (n not in expected)
            case "cancelled":
                ledger.cancelled(n)
                expected.setdefault(n, "cancelled")
            case "overdue":
                if n in written:
                    expected.setdefault(n, "written")
                assert ledger.overdue(handover, 10) is (n in expected)
            case "arm":
                ledger.arm()
                armed.update(written)
            case "heard":
                ledger.heard(10)
                for known in armed:
                    expected.setdefault(known, "written")

    for event, n in events:
        do(event, n, handed[n])
    ledger.lose()
    ledger.lose()
    assert sorted(outcomes.seen) == [f"{n} {expected.get(n, 'lost')}" for n in range(3)]
    assert [h.dropped for h in handed] == [expected.get(n) == "cancelled" for n in range(3)]


# --- the same on descriptors of the system -----------------------------------------------------------


class Descriptors:
    """A server on pipes or sockets of the system, in this process, and the client's ends of them."""

    def __init__(self, kind: str, desk: Desk) -> None:
        server_in, self.to_server = self._pair(kind)
        self.from_server, server_out = self._pair(kind)
        self.wire = ProcessWire(server_in, server_out)
        self.server = Server(self.wire, desk, tools=TOOLS, version="0", instructions=greeting)

    @staticmethod
    def _pair(kind: str) -> tuple[int, int]:
        if kind == "pipe":
            return os.pipe()
        one, other = socket.socketpair()  # what Node gives the programs it starts
        return one.detach(), other.detach()

    def write(self, text: bytes) -> None:
        os.write(self.to_server, text + b"\n")

    async def read(self) -> bytes:
        await trio.lowlevel.wait_readable(self.from_server)
        return os.read(self.from_server, 100_000)


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors of POSIX")
@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_a_line_that_crosses_the_result_on_a_descriptor_does_not_confirm_it(kind: str):
    desk = Desk()
    client = Descriptors(kind, desk)
    write = client.wire.stdout.send_all

    async def crossing(data: bytes | bytearray | memoryview) -> None:
        await write(data)
        client.write(PING)  # sent before the client can have seen the result
        client.wire.stdout.send_all = write  # type: ignore[method-assign]

    client.wire.stdout.send_all = crossing  # type: ignore[method-assign]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.server.run)
            client.write(CALL)
            answers = b""
            while b'"id":2' not in answers:
                answers += await client.read()
            assert desk.seen == []
            client.write(PING)
            await client.read()
            assert desk.seen == ["page written"]
            os.close(client.to_server)
    os.close(client.from_server)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a descriptor still holds")
@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_a_stopped_client_confirms_nothing_until_it_has_read(kind: str, mock_clock):
    desk = Desk()
    client = Descriptors(kind, desk)
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.server.run)
            client.write(CALL)
            await trio.lowlevel.wait_readable(client.from_server)
            for _ in range(3):
                await wait_all_tasks_blocked()
                mock_clock.jump(PATIENCE)
            await wait_all_tasks_blocked()
            assert desk.seen == []
            await client.read()
            mock_clock.jump(PATIENCE)
            assert await desk.outcomes.first() == "page written"
            os.close(client.to_server)
    os.close(client.from_server)
