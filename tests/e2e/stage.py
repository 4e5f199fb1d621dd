"""A user's machine for tests: a data directory, its hub, and assistants that speak MCP to real adapters.

Every wait in here is bounded, so a test that uses nothing else needs no time-out of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from ecorelay import wire
from ecorelay.client import HubClient, open_hub_client
from ecorelay.endpoint import Endpoint, read_endpoint
from ecorelay.errors import CODES
from ecorelay.paths import find_paths
from ecorelay.process import is_alive
from ecorelay.spawn import hub_connector

PATIENCE_S = 40.0
"""For one answer: long enough for a machine that starts twenty programs at once."""
POLL_S = 0.02
IDENTITY = ("CLAUDE_CODE_SESSION_ID", "COPILOT_AGENT_SESSION_ID", "CLAUDE_PROJECT_DIR", "NO_COLOR")


async def until(holds: Callable[[], object], what: str = "") -> None:
    """Wait for something another process does and tells nobody."""
    with trio.move_on_after(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - the other process is not ours to change
            await trio.sleep(POLL_S)
        return
    raise AssertionError(f"never happened: {what or holds}")


@asynccontextmanager
async def alone(task: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run `task` beside the block; what the block raises leaves it as it was raised."""
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        try:
            yield
        except Exception as error:
            raised = error
        nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised


class Machine:
    """One user's machine.

    Args:
        root: a directory of its own.
        settings: variables for the environment of every program.
    """

    def __init__(self, root: Path, **settings: str) -> None:
        self.root = root
        self.home = root / "home"
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ECORELAY_", "RELAY_")) and name not in IDENTITY
        }
        self.environ |= {
            "ECORELAY_HOME": str(self.home),
            "ECORELAY_HUB_ID": "here",
            "ECORELAY_KEEP_ALIVE": "yes",
            "USER": "ada",
            **settings,
        }
        self.paths = find_paths(self.environ)
        self._names = 0
        self._talk = 0

    def name(self, stem: str) -> str:
        """A name nobody on this machine has had."""
        self._names += 1
        return f"{stem}.{self._names}"

    def directory(self, name: str) -> Path:
        """A project directory."""
        path = self.root / "projects" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    # --- assistants ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def assistant(
        self,
        name: str | None = None,
        *,
        directory: str | None = None,
        arguments: Sequence[str] = (),
        initialize: bool = True,
        client: str = "test-client",
        leave: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Assistant]:
        """An adapter and its client; it ends with the block, as a client ends it.

        Args:
            name: pinned by RELAY_PEER_ID; None: nobody pinned one.
            directory: of the project; by default one that is named as the peer.
            arguments: after ``ecorelay mcp``.
            initialize: whether the client has introduced itself when the block begins.
            client: what it calls itself.
            leave: whether the block ends with stdin closed and a clean exit; else it is killed.
            environ: further variables.
        """
        pinned = {"RELAY_PEER_ID": name} if name is not None else {}
        self._talk += 1
        talk = self.root / f"stderr-{self._talk}"
        with open(talk, "wb") as stderr:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "ecorelay", "mcp", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self.directory(directory or name or "project"),
                env=self.environ | pinned | dict(environ or {}),
            )
        assistant = Assistant(name or directory or "", process, talk, self.home / "adapter.log")
        try:
            async with alone(assistant.listen):
                if initialize:
                    await assistant.initialize(client)
                yield assistant
                if leave and process.returncode is None and not assistant.stopped:
                    assert await assistant.leave() == 0, assistant.stderr
            assert "Traceback" not in assistant.stderr, assistant.stderr
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    @asynccontextmanager
    async def assistants(self, *stems: str, **options: Any) -> AsyncIterator[tuple[Assistant, ...]]:
        """Several, started together, each under a pinned name of its own made from its stem."""
        async with AsyncExitStack() as stack:
            started = [
                await stack.enter_async_context(self.assistant(self.name(stem), initialize=False, **options))
                for stem in stems
            ]
            async with trio.open_nursery() as nursery:
                for assistant in started:
                    nursery.start_soon(assistant.initialize)
            yield tuple(started)

    # --- the hub -------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> Endpoint | None:
        return read_endpoint(self.paths.endpoint)

    @property
    def hub_pid(self) -> int:
        """The process of the hub that says it runs; it must."""
        endpoint = self.endpoint
        assert endpoint is not None, "no hub runs"
        return endpoint.pid

    def hub_runs(self) -> bool:
        endpoint = self.endpoint
        return endpoint is not None and is_alive(endpoint.pid, endpoint.pid_start)

    async def end_hub(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the hub; returns its pid when it is gone."""
        endpoint = self.endpoint
        assert endpoint is not None, "no hub runs"
        os.kill(endpoint.pid, number)
        await until(lambda: not is_alive(endpoint.pid, endpoint.pid_start), "the hub is gone")
        return endpoint.pid

    def hubs_started(self) -> int:
        """Hubs that got as far as listening, by the log."""
        return self.paths.log.read_text().count('"event":"started"')

    def close(self) -> None:
        """End the hub, if one runs; none may have met a bug of ours."""
        deadline = time.monotonic() + 10
        while (endpoint := self.endpoint) is not None and is_alive(endpoint.pid, endpoint.pid_start):
            with suppress(ProcessLookupError):
                os.kill(endpoint.pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
            time.sleep(POLL_S)
        self._end_latecomers()
        for log in self.home.glob("hub.log*"):
            assert '"event":"crash"' not in log.read_text(), log.read_text()

    def _end_latecomers(self) -> None:
        """A hub that was started beside another one waits for its lock, and takes over when that ends."""
        mark = f"ECORELAY_HOME={self.home}\0".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)

    # --- other ways in -------------------------------------------------------------------------------

    async def cli(self, *words: str, code: int = 0, **settings: str) -> subprocess.CompletedProcess[bytes]:
        """Run one command line to its end, which must be `code`."""
        with trio.fail_after(PATIENCE_S):
            ended = await trio.run_process(
                [sys.executable, "-m", "ecorelay", *words],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=self.environ | settings,
            )
        assert ended.returncode == code, ended
        return ended

    async def status(self) -> dict[str, Any]:
        """What ``ecorelay hub status`` shows."""
        found: dict[str, Any] = json.loads((await self.cli("hub", "status", "--json")).stdout)
        return found

    @asynccontextmanager
    async def client(self, name: str | None, **fields: Any) -> AsyncIterator[HubClient]:
        """A connection to the hub without an adapter; by default it attaches and makes the address."""
        hello = wire.Hello(**{"versions": (1, 1), "role": "attach", "name": name, "create": True, **fields})
        async with open_hub_client(hello, connect=hub_connector(self.paths, self.environ)) as client:
            yield client

    async def seen(self, name: str, msg_id: str) -> None:
        """Wait until a message in the mailbox of `name` counts as seen: its page was confirmed."""
        async with self.client(name) as looking:
            with trio.fail_after(PATIENCE_S):
                while True:
                    page = await looking.request(wire.Inbox(req_id=0, since_id=msg_id))
                    await looking.request(wire.Release(req_id=0, lease=page.lease))
                    if any(mail.seen for mail in page.messages if mail.msg_id == msg_id):
                        return
                    await trio.sleep(POLL_S)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[sqlite3.Connection]:
        """hub.db in a test's own hands; no hub may run."""
        assert not self.hub_runs()
        db = sqlite3.connect(self.paths.database)
        try:
            yield db
            db.commit()
        finally:
            db.close()


class Refusal(Exception):
    """The call was answered as an error; `fields` is what the model reads."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(json.dumps(fields))
        self.fields = fields


class Assistant:
    """The client's side of one adapter; made by `Machine.assistant`."""

    def __init__(self, name: str, process: trio.Process, talk: Path, log: Path) -> None:
        self.name = name
        """The one it was started for."""
        self.process = process
        self.initialized: dict[str, Any] = {}
        """The result of ``initialize``."""
        self.notifications: list[dict[str, Any]] = []
        self.stopped = False
        self.longest = 0
        """Characters of the longest text any result had."""
        self._talk = talk
        self._log = log
        self._last_id = 0
        self._answers: dict[Any, dict[str, Any]] = {}
        self._news = trio.Condition()
        self._ended = False

    @property
    def stderr(self) -> str:
        """What it said there, which is little, and in the log of all adapters."""
        said = self._talk.read_text(errors="replace")
        logs = [path.read_text() for path in sorted(self._log.parent.glob(f"{self._log.name}*"))]
        ours = [line for log in logs for line in log.splitlines() if f'"pid":{self.process.pid}}}' in line]
        return "\n".join([said, *ours])

    @property
    def instructions(self) -> str:
        text: str = self.initialized["result"]["instructions"]
        return text

    # --- lines ---------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Take in what the adapter writes, until it ends."""
        assert self.process.stdout is not None
        received = bytearray()
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            async for chunk in self.process.stdout:
                *lines, rest = (bytes(received) + chunk).split(b"\n")
                received = bytearray(rest)
                for line in lines:
                    self._take(json.loads(line))
                if lines:
                    async with self._news:
                        self._news.notify_all()
        assert not received, f"half a line at the end: {received[:200]!r}"
        self._ended = True
        async with self._news:
            self._news.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        assert message["jsonrpc"] == "2.0"
        if "method" in message:
            self.notifications.append(message)
        else:
            assert message["id"] not in self._answers, f"answered twice: {message}"
            self._answers[message["id"]] = message

    async def write(self, *messages: Mapping[str, Any]) -> None:
        """Send these in one write."""
        await self.write_bytes(
            b"".join(
                json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode() + b"\n"
                for message in messages
            )
        )

    async def write_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with trio.fail_after(PATIENCE_S):
            await self.process.stdin.send_all(data)

    def make(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A request with the next id, not sent."""
        self._last_id += 1
        return {"id": self._last_id, "method": method, "params": params or {}}

    def make_call(
        self, tool: str, /, meta: Mapping[str, Any] | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """A tool call with the next id, not sent."""
        params = {"name": tool, "arguments": arguments}
        return self.make("tools/call", params | ({"_meta": meta} if meta else {}))

    async def answer(self, id: Any) -> dict[str, Any]:
        """The whole response to a request."""
        await self.hear(lambda: id in self._answers)
        return self._answers.pop(id)

    async def hear(self, holds: Callable[[], object]) -> None:
        """Wait until the adapter's lines have made `holds` true."""
        with trio.fail_after(PATIENCE_S):
            async with self._news:
                while not holds():
                    assert not self._ended, f"the adapter ended: {self.stderr}"
                    await self._news.wait()

    def answered(self, id: Any) -> bool:
        return id in self._answers

    # --- requests ------------------------------------------------------------------------------------

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """A request's result."""
        request = self.make(method, params)
        await self.write(request)
        answer = await self.answer(request["id"])
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def initialize(self, client: str = "test-client", version: str = "2025-11-25") -> None:
        request = self.make(
            "initialize",
            {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": client, "version": "1"}},
        )
        await self.write(request)
        answer = await self.answer(request["id"])
        await self.write({"method": "notifications/initialized"})
        self.initialized = answer

    async def begin(self, tool: str, /, meta: Mapping[str, Any] | None = None, **arguments: Any) -> int:
        """Send a tool call and give its id."""
        request = self.make_call(tool, meta, **arguments)
        await self.write(request)
        id: int = request["id"]
        return id

    async def finish(self, id: int) -> dict[str, Any]:
        """The fields of a tool call's result.

        Raises:
            Refusal: it is an error.
        """
        answer = await self.answer(id)
        assert "result" in answer, answer
        [content] = answer["result"]["content"]
        assert content["type"] == "text"
        self.longest = max(self.longest, len(content["text"]))
        fields: dict[str, Any] = json.loads(content["text"])
        if answer["result"].get("isError"):
            assert fields["ok"] is False
            assert fields["code"] in CODES
            assert fields["message"]
            raise Refusal(fields)
        return fields

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool; it must not fail."""
        return await self.finish(await self.begin("relay_" + tool, **arguments))

    async def refused(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must fail; the fields of the error."""
        try:
            fields = await self.call(tool, **arguments)
        except Refusal as refusal:
            return refusal.fields
        raise AssertionError(f"not refused: {fields}")

    async def cancel(self, id: int) -> None:
        await self.write(giving_up(id))

    async def me(self) -> str:
        """The name the hub knows it by."""
        name: str = (await self.call("peers"))["me"]
        return name

    async def read_all(self, **arguments: Any) -> list[dict[str, Any]]:
        """All that is unread, page by page."""
        found: list[dict[str, Any]] = []
        while True:
            page = await self.call("inbox", **{"limit": 100, **arguments})
            found += page["messages"]
            if not page["messages"]:
                assert page["remaining"] == 0
                return found

    # --- its end -------------------------------------------------------------------------------------

    async def leave(self) -> int:
        """Close its stdin, as clients do; the exit code."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        return await self.gone()

    async def gone(self) -> int:
        with trio.fail_after(PATIENCE_S):
            return await self.process.wait()

    async def kill(self) -> None:
        self.process.kill()
        await self.gone()

    def stop(self) -> None:
        """SIGSTOP: it lives and does nothing any more."""
        self.stopped = True
        self.process.send_signal(signal.SIGSTOP)


def giving_up(id: int) -> dict[str, Any]:
    """The notification that a request's answer is not wanted any more."""
    return {"method": "notifications/cancelled", "params": {"requestId": id, "reason": "given up"}}


def texts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    return [message["text"] for message in messages]


def mode_of(path: Path) -> int:
    """The mode bits of a file."""
    return path.stat().st_mode & 0o777
