"""A hub that answers each request with what the test wrote down: in a thread, on a real socket.

For commands run in the test's own process: what they print of any answer, without the cost of a process.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ecorelay import __version__, wire
from ecorelay.endpoint import Endpoint, write_endpoint
from ecorelay.names import new_id

Answer = wire.Frame | Sequence[wire.Frame] | None
"""One frame, or several (the first answers the request); None: silence."""


class ScriptedHub:
    """Listens while it is a context manager.

    Args:
        home: the data directory; it is made.
        answers: tag of a request → what it is answered with. A tag that is missing is answered as a hub does
            that has never heard of it.
        version: which the hub says it is.
        name: what the peer is called that a connection acts for.
    """

    def __init__(
        self, home: Path, answers: Mapping[str, Answer], version: str = __version__, name: str = "ada"
    ) -> None:
        self.home = home
        self.answers = dict(answers)
        self.version = version
        self.name = name
        self.asked: list[dict[str, Any]] = []
        """The requests, in the order in which they came."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._open: list[socket.socket] = []

    def __enter__(self) -> ScriptedHub:
        self.home.mkdir(mode=0o700, exist_ok=True)
        path = self.home / "hub.sock"
        self._listener.bind(str(path))
        self._listener.listen(16)
        endpoint = Endpoint(
            pid=os.getpid(),
            version=self.version,
            protocol=(1, 1),
            hub_id="scripted",
            transport="unix",
            path=str(path),
            kept=True,  # a newer program does not replace it
            started_at=0,
        )
        write_endpoint(self.home / "hub.json", endpoint)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        (self.home / "hub.json").unlink(missing_ok=True)
        self._listener.close()
        (self.home / "hub.sock").unlink(missing_ok=True)
        self.hang_up()

    def hang_up(self) -> None:
        """End every connection, as a hub does that ends."""
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def requests(self, tag: str) -> list[dict[str, Any]]:
        """What was asked under this tag."""
        return [frame for frame in self.asked if frame["type"] == tag]

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection.makefile("rwb") as lines:
            for line in lines:
                asked = json.loads(line)
                if asked["type"] == "bye":
                    break
                if asked["type"] != "hello":
                    self.asked.append(asked)
                for frame in self._answer(asked):
                    lines.write(wire.encode(frame))
                lines.flush()
        connection.close()

    def _answer(self, asked: dict[str, Any]) -> Sequence[wire.Frame]:
        if asked["type"] == "hello":
            name = asked.get("name") or ""
            return [
                wire.Welcome(
                    version=1, hub_id="scripted", app_version=self.version, name=self.name if name else ""
                )
            ]
        if "req_id" not in asked:
            return []
        if asked["type"] not in self.answers:
            message = "Invalid value - at `$.type`"
            return [wire.Failed(req_id=asked["req_id"], code="bad_msg", message=message)]
        answer = self.answers[asked["type"]]
        if answer is None:
            return []
        first, *more = [answer] if isinstance(answer, wire.Frame) else answer
        return [msgspec.structs.replace(first, req_id=asked["req_id"]), *more]


def some_id() -> str:
    """An id as real ones look."""
    return new_id(time.time_ns() // 1_000_000, lambda bits: int.from_bytes(os.urandom(bits // 8), "big"))
