"""Codex's daemon as a test wants it: connections over memory streams, threads with turns and queues."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, RejectConnection, Request, TextMessage

Answer = dict[str, Any]


class FakeThread:
    """One thread: an idle one takes what it is given at once; `busy` holds it in the queue."""

    def __init__(self, id: str, cwd: str) -> None:
        self.id = id
        self.cwd = cwd
        self.busy = False
        self.stopped = False
        """Its queue is: a turn was interrupted."""
        self.loaded = True
        self.ephemeral = False
        self.source = "user"
        self.queue: list[Answer] = []
        self.turns: list[Answer] = []
        """Newest first."""

    @property
    def row(self) -> Answer:
        kind = "notLoaded" if not self.loaded else "active" if self.busy else "idle"
        return {
            "id": self.id,
            "cwd": self.cwd,
            "ephemeral": self.ephemeral,
            "threadSource": self.source,
            "status": {"type": kind},
        }

    def take(self, submission: Answer) -> None:
        item = {
            "type": "userMessage",
            "clientId": submission["clientUserMessageId"],
            "content": submission["input"],
        }
        self.turns.insert(0, {"id": f"turn-{len(self.turns)}", "status": "completed", "items": [item]})

    def texts(self) -> list[str]:
        """What its model was given, a turn each."""
        return [
            item["content"][0]["text"]
            for turn in reversed(self.turns)
            for item in turn["items"]
            if item["type"] == "userMessage"
        ]


class FakeDaemon:
    """See the module. `connect` is what a carrier connects with."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.threads: dict[str, FakeThread] = {}
        self.down: Exception | None = None
        """Raised by every connect while it is set."""
        self.rejects = False
        self.attempts: list[float] = []
        self.asked: list[tuple[str, Answer]] = []
        self.answers: dict[str, Callable[[Answer], Any]] = {}
        """Instead of the usual answer to a method; None from it: no answer."""
        self.call_tool: Callable[[str, Answer], None] = lambda thread, params: None
        """Calls a thread's own server."""
        self.connections: list[FakeConnection] = []

    def thread(self, id: str, cwd: str = "/srv/shop") -> FakeThread:
        self.threads[id] = FakeThread(id, cwd)
        return self.threads[id]

    async def connect(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.attempts.append(trio.current_time())
        if self.down is not None:
            raise self.down
        ours, theirs = trio.testing.memory_stream_pair()
        connection = FakeConnection(self, ours)
        self.connections.append(connection)
        self.nursery.start_soon(connection.run)
        return theirs

    def methods(self, but: tuple[str, ...] = ("thread/turns/list", "thread/items/list")) -> list[str]:
        return [method for method, _ in self.asked if method not in but]

    def count(self, method: str) -> int:
        return self.methods(()).count(method)

    async def lose(self) -> None:
        """Close all connections without a word."""
        connections, self.connections = self.connections, []
        for connection in connections:
            await connection.stream.aclose()

    async def idle(self, thread: FakeThread) -> None:
        """The running turn ends; what waits begins turns."""
        thread.busy = False
        for submission in thread.queue:
            thread.take(submission)
        thread.queue = []
        await self.tell(thread)

    async def begin(self, thread: FakeThread) -> None:
        """A turn of the person's begins."""
        thread.busy = True
        thread.turns.insert(0, {"id": f"turn-{len(thread.turns)}", "status": "inProgress", "items": []})
        await self.tell(thread)

    async def tell(self, thread: FakeThread) -> None:
        status = thread.row["status"]
        for connection in self.connections:
            await connection.send(
                {"method": "thread/status/changed", "params": {"threadId": thread.id, "status": status}}
            )

    def answer(self, method: str, params: Answer) -> Any:
        if method in self.answers:
            return self.answers[method](params)
        if method == "initialize":
            return {"userAgent": "fake"}
        if method == "thread/loaded/list":
            loaded = [thread.id for thread in self.threads.values() if thread.loaded]
            page = int(params.get("cursor", 0))
            return {"data": loaded[page : page + 1], "nextCursor": page + 1 if loaded[page + 1 :] else None}
        thread = self.threads.get(params.get("threadId", ""))
        if thread is None:
            raise ValueError("no such thread")
        match method:
            case "thread/read":
                return {"thread": thread.row}
            case "mcpServer/tool/call":
                self.call_tool(thread.id, params)
                return {"content": []}
            case "thread/turns/list":
                return {"data": thread.turns[: params["limit"]]}
            case "thread/items/list":
                turns = [turn for turn in thread.turns if turn["id"] == params["turnId"]]
                return {"data": [{"item": item} for turn in turns for item in turn["items"]]}
            case "thread/queue/list":
                return {"data": thread.queue, "nextCursor": None}
            case "thread/queue/add":
                thread.queue.append(params) if thread.busy or thread.stopped else thread.take(params)
                return {"queuedSubmission": {"id": "q"}}
            case "thread/queue/start":
                if thread.busy or not thread.queue:
                    raise ValueError("queue is empty")
                thread.stopped = False
                for submission in thread.queue:
                    thread.take(submission)
                thread.queue = []
                return {"turn": {}}
            case "turn/steer":
                if not thread.busy or params["expectedTurnId"] != thread.turns[0]["id"]:
                    raise ValueError("no active turn to steer")
                item = {"type": "userMessage", "clientId": params["clientUserMessageId"]}
                thread.turns[0]["items"].append({**item, "content": params["input"]})
                return {"turnId": thread.turns[0]["id"]}
        raise ValueError(f"unknown method {method}")


class FakeConnection:
    """The daemon's end of one connection."""

    def __init__(self, daemon: FakeDaemon, stream: trio.abc.Stream) -> None:
        self.daemon = daemon
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.SERVER)
        self.text = ""
        self.heard: list[Answer] = []
        """What is no request."""

    async def run(self) -> None:
        try:
            while data := await self.stream.receive_some():
                self.protocol.receive_data(bytes(data))
                for event in self.protocol.events():
                    await self._take(event)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass

    async def _take(self, event: Any) -> None:
        match event:
            case Request():
                await self.write(
                    RejectConnection(status_code=503) if self.daemon.rejects else AcceptConnection()
                )
            case TextMessage(data=data, message_finished=finished):
                self.text += data
                if finished:
                    text, self.text = self.text, ""
                    await self._handle(json.loads(text))
            case CloseConnection() | Ping():
                pass

    async def _handle(self, message: Answer) -> None:
        assert "jsonrpc" not in message
        if "method" not in message or "id" not in message:
            self.heard.append(message)
            return
        method, params = message["method"], message.get("params") or {}
        self.daemon.asked.append((method, params))
        try:
            result = self.daemon.answer(method, params)
        except ValueError as error:
            await self.send({"id": message["id"], "error": {"code": -32600, "message": str(error)}})
            return
        if result is not None:
            await self.send({"id": message["id"], "result": result})

    async def send(self, message: Any) -> None:
        await self.write(TextMessage(data=message if isinstance(message, str) else json.dumps(message)))

    async def write(self, event: Any) -> None:
        await self.stream.send_all(self.protocol.send(event))
