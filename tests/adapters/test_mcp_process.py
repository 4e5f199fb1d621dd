"""The server as a real process: its descriptors, its signals and its parent."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

SERVER = """
import os, sys
import trio
from ecorelay_adapters.mcp_stdio import ToolResult, serve
from ecorelay_adapters.tools import TOOLS

async def handler(call):
    if call.name == "relay_room":
        print("stray print")
        os.system("echo stray child")
        sys.stdout.flush()
    if call.name == "relay_inbox":
        await trio.sleep_forever()
    if call.name == "relay_leave":
        return ToolResult("read by: " + repr(os.read(0, 10)))
    lost = lambda: print("page lost", file=sys.stderr)
    return ToolResult(call.arguments.decode(), on_lost=lost)

async def instructions(client):
    return "hello"

trio.run(lambda: serve(handler, tools=TOOLS, version="0", instructions=instructions))
"""

INITIALIZE = {"id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}


def tool(name: str, id: int = 1, **arguments: object) -> dict:
    return {"id": id, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


class Child:
    """A server process and lines to and from it."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._received = b""

    async def send(self, message: dict) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def ask(self, message: dict) -> dict:
        await self.send(message)
        assert self.process.stdout is not None
        while b"\n" not in self._received:
            chunk = await self.process.stdout.receive_some()
            assert chunk, f"stdout ended with {self._received!r}"
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        answer: dict = json.loads(line)
        return answer

    async def close(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def rest(self) -> tuple[int, bytes, str]:
        """Exit code, what was left on stdout, and stderr."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        left = self._received
        async for chunk in self.process.stdout:
            left += chunk
        said = b""
        async for chunk in self.process.stderr:
            said += chunk
        return await self.process.wait(), left, said.decode()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "server.py"
    path.write_text(textwrap.dedent(SERVER))
    return path


@asynccontextmanager
async def started(script: Path, *arguments: str) -> AsyncIterator[Child]:
    """A server process; killed at the end if it still runs."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(
                    trio.run_process,
                    [sys.executable, str(script), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    check=False,
                )
            )
            yield Child(process)
            nursery.cancel_scope.cancel()


@pytest.mark.guarantee("stray-prints-harmless")
async def test_stray_prints_of_the_server_and_its_children_go_to_stderr(script: Path):
    async with started(script) as child:
        assert (await child.ask(INITIALIZE))["result"]["instructions"] == "hello"
        answer = await child.ask(tool("relay_room", text="hé😀"))
        assert json.loads(answer["result"]["content"][0]["text"]) == {"text": "hé😀"}
        await child.close()
        code, left, said = await child.rest()
        assert (code, left) == (0, b"")
        assert "stray print\n" in said
        assert "stray child\n" in said


async def test_a_handler_and_its_children_read_nothing_of_the_protocol(script: Path):
    async with started(script) as child:
        answer = await child.ask(tool("relay_leave"))
        assert answer["result"]["content"][0]["text"] == "read by: b''"


async def test_the_end_of_stdin_ends_it_at_once_although_a_call_waits(script: Path):
    async with started(script) as child:
        await child.ask(INITIALIZE)
        await child.send(tool("relay_inbox"))
        await child.ask({"id": 2, "method": "ping"})
        await child.close()
        with trio.fail_after(5):
            assert (await child.rest())[:2] == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
async def test_a_signal_or_several_end_it_at_once_and_it_tells_what_was_lost(script: Path, name: str):
    async with started(script) as child:
        await child.ask(tool("relay_send"))
        child.process.send_signal(signal.SIGSTOP)  # so that it finds both at once
        child.process.send_signal(getattr(signal, name))
        child.process.send_signal(signal.SIGTERM)
        child.process.send_signal(signal.SIGCONT)
        with trio.fail_after(5):
            assert await child.rest() == (0, b"", "page lost\n")


async def test_a_client_that_was_killed_leaves_no_server_behind(script: Path):
    async with started(script) as child:
        await child.ask(INITIALIZE)
        assert child.process.stdout is not None
        await child.process.stdout.aclose()
        await child.send({"id": 2, "method": "ping"})
        with trio.fail_after(5):
            assert await child.process.wait() == 0


# A client that starts the server, hands its own stdin on to it and dies.
PARENT = """
import subprocess, sys
server = subprocess.Popen([sys.executable, sys.argv[1]])
print(server.pid, file=sys.stderr, flush=True)
server.wait()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a dead parent is seen on POSIX only")
async def test_it_ends_when_its_parent_dies_although_stdin_stays_open(script: Path, tmp_path: Path):
    parent = tmp_path / "parent.py"
    parent.write_text(PARENT)
    async with started(parent, str(script)) as child:
        await child.ask(INITIALIZE)  # answered by the grandchild: the descriptors are the same
        child.process.kill()
        await child.process.wait()
        # Both ends of the pipes are still open here, in this test; only the parent is gone.
        with trio.fail_after(10):
            _, left, _ = await child.rest()
        assert left == b""


async def test_regular_files_and_closed_descriptors_serve_too(script: Path, tmp_path: Path):
    lines = [{"jsonrpc": "2.0", **message} for message in (INITIALIZE, {"id": 5, "method": "ping"})]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with trio.fail_after(30):
        with source.open() as stdin, target.open("w") as stdout:
            await trio.run_process([sys.executable, str(script)], stdin=stdin, stdout=stdout)
        assert {json.loads(line)["id"] for line in target.read_text().splitlines()} == {0, 5}
        if sys.platform != "win32":
            command = f'exec "{sys.executable}" "{script}" <&- >&-'
            assert (await trio.run_process(["sh", "-c", command])).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals of POSIX")
async def test_a_terminal_serves_too_and_stays_in_blocking_mode(script: Path):
    import pty

    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(trio.run_process, [sys.executable, str(script)], stdin=theirs, stdout=theirs)
            )
            os.write(ours, b'{"jsonrpc":"2.0","id":41,"method":"ping"}\n')
            shown = b""
            while b'"result"' not in shown:
                await trio.lowlevel.wait_readable(ours)
                shown += os.read(ours, 10_000)
            assert os.get_blocking(theirs)
            process.terminate()
    assert process.returncode == 0
    os.close(ours)
    os.close(theirs)
