"""A real hub under attack: connections that keep to no rule, neighbours that must notice nothing, and the
hub's process seen from outside.

Every wait in here is bounded, so a test that uses nothing else needs no time-out of its own.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import pytest
import trio

from ecorelay import wire
from ecorelay.framing import LineSplitter
from ecorelay.loopback import prove_to_hub
from ecorelay.names import new_id
from tests.e2e.stage import PATIENCE_S, POLL_S, Machine, alone

CANARY = "canary-5d41402abc4b"
"""In every text that is sent here: no log may hold it."""
GROWTH_MAX = 32 * 1024 * 1024
"""Bytes a hub under attack may grow by."""
PAUSE_S = 0.002
"""Between two messages of the bystanders, who share two cores with hub and attacker."""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the memory and files of a process"
)

_numbers = itertools.count(1)


def op_id() -> str:
    """An id that nobody used before."""
    return new_id(next(_numbers), secrets.randbits)


def hello(name: str | None = None, **fields: Any) -> wire.Hello:
    """The hello of a session called `name`; an observer's without one."""
    role = "session" if name else "observer"
    return wire.Hello(
        **{"versions": (1, 1), "role": role, "name": name, "pinned": True, "client": "t", **fields}
    )


def send(to: str, text: str = CANARY, req_id: int = 1) -> wire.Send:
    return wire.Send(req_id=req_id, op_id=op_id(), to=to, text=text)


class Raw:
    """A bare connection: says any bytes, reads only when told to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._splitter = LineSplitter(wire.LINE_MAX)
        self._lines: list[bytes] = []

    async def say(self, *parts: wire.Frame | bytes) -> None:
        """Send frames and bytes in one write; a hub that closed meanwhile is no error."""
        data = b"".join(part if isinstance(part, bytes) else wire.encode(part) for part in parts)
        with trio.fail_after(PATIENCE_S), suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def line(self) -> bytes:
        """The next line; empty at the end of the stream."""
        with trio.fail_after(PATIENCE_S):
            while not self._lines:
                try:
                    data = await self.stream.receive_some()
                except trio.BrokenResourceError:
                    return b""
                if not data:
                    return b""
                self._lines += self._splitter.feed(data)
        return self._lines.pop(0)

    async def hear(self) -> Any:
        """The next frame; None at the end of the stream."""
        line = await self.line()
        return wire.decode_to_session(line) if line else None

    async def hear_all(self) -> list[Any]:
        """All frames up to the end, which must come."""
        heard = []
        while (frame := await self.hear()) is not None:
            heard.append(frame)
        return heard

    async def ask(self, frame: wire.Request) -> Any:
        """Send a request and take frames until its answer; pings and pushes are passed over."""
        await self.say(frame)
        while (answer := await self.hear()) is not None:
            if isinstance(answer, wire.Result) and answer.req_id == frame.req_id:
                return answer
        raise AssertionError(f"closed without an answer to {frame}")

    async def enter(self, name: str | None = None, **fields: Any) -> wire.Welcome:
        """Say hello and be welcomed."""
        await self.say(hello(name, **fields))
        welcome = await self.hear()
        assert isinstance(welcome, wire.Welcome), welcome
        return welcome

    async def gone(self) -> bool:
        """Whether the hub has closed, once nothing more comes from it."""
        with trio.fail_after(PATIENCE_S):
            try:
                while await self.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
        return True


class Neighbours:
    """Two sessions that keep sending each other mail, one message at a time, while somebody attacks.

    Args:
        sender: welcomed.
        reader: welcomed, with push.
        to: the reader's name.
    """

    def __init__(self, sender: Raw, reader: Raw, to: str) -> None:
        self._sender = sender
        self._reader = reader
        self._to = to
        self.sent: list[str] = []
        self.arrived: list[str] = []

    async def talk(self) -> None:
        """Until cancelled. A message that is not stored, or does not arrive, is an error."""
        while True:
            await self.exchange()
            await trio.sleep(PAUSE_S)

    async def exchange(self) -> None:
        """One message: stored, pushed, and answered as delivered or queued."""
        with trio.CancelScope(shield=True):  # not half of it, else the next answer is this one's
            frame = send(self._to, f"{CANARY} {len(self.sent)}", len(self.sent))
            self.sent.append(frame.text)
            await self._sender.say(frame)
            push = await self._next(self._reader)
            assert isinstance(push, wire.Push), push
            self.arrived.append(push.text)
            await self._reader.say(wire.Pushed(msg_ids=(push.msg_id,)))
            answer = await self._next(self._sender)
            assert isinstance(answer, wire.Sent), answer
            assert answer.req_id == frame.req_id

    async def _next(self, end: Raw) -> Any:
        while isinstance(frame := await end.hear(), wire.Ping):
            await end.say(wire.Pong())
        return frame


class Siege:
    """One hub and what is seen of it; made by :func:`siege`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.neighbours: Neighbours
        self.observer: Raw
        self.pid = machine.hub_pid
        self._counters: dict[str, int] = {}

    def name(self, stem: str) -> str:
        """A name nobody on this machine has had."""
        return self.machine.name(stem)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Raw]:
        """A connection that has said nothing."""
        endpoint = self.machine.endpoint
        assert endpoint is not None
        with trio.fail_after(PATIENCE_S):
            if endpoint.transport == "unix":
                raw = Raw(await trio.open_unix_socket(endpoint.path))
            else:
                raw = Raw(await trio.open_tcp_stream(endpoint.host, endpoint.port))
        try:
            yield raw
        finally:
            await trio.aclose_forcefully(raw.stream)

    @asynccontextmanager
    async def session(self, name: str | None = None, **fields: Any) -> AsyncIterator[Raw]:
        """A connection that was welcomed; an observer's without a name. Over TCP it proves itself first."""
        async with self.connection() as raw:
            endpoint = self.machine.endpoint
            assert endpoint is not None
            if endpoint.token:
                await prove_to_hub(raw.line, raw.stream.send_all, token=endpoint.token, nonce=op_id())
            await raw.enter(name, **fields)
            yield raw

    @property
    def over_tcp(self) -> bool:
        """Whether its connections prove that they know a token, before hello."""
        return self.machine.endpoint is not None and bool(self.machine.endpoint.token)

    # --- its counters ----------------------------------------------------------------------------------

    async def counters(self) -> dict[str, int]:
        """What `ecorelay hub status` shows of them, without starting a program for it."""
        details: wire.HubDetails = await self.observer.ask(wire.HubStatus(req_id=1))
        return details.counters

    async def look(self) -> None:
        """Count from here on."""
        self._counters = await self.counters()

    async def counted(self, name: str, times: int | None = None) -> None:
        """Wait until `name` is counted (exactly so many `times`) since the last look."""
        counters: dict[str, int] = {}
        grown = 0
        with trio.move_on_after(PATIENCE_S):
            while grown < (times or 1):
                await trio.sleep(POLL_S)
                counters = await self.counters()
                grown = counters.get(name, 0) - self._counters.get(name, 0)
        assert grown == (times or max(grown, 1)), (name, grown, counters)

    # --- its process -----------------------------------------------------------------------------------

    def memory(self, key: str = "VmRSS") -> int:
        """Bytes resident now, or with VmHWM the most since :meth:`forget_peak`."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {key} of {self.pid}")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @asynccontextmanager
    async def bounded(self, growth: int = GROWTH_MAX) -> AsyncIterator[None]:
        """In this block the hub's memory never grows by more than `growth` bytes."""
        self.forget_peak()
        before = self.memory()
        yield
        peak = self.memory("VmHWM")
        assert peak - before <= growth, f"grew from {before:,} to {peak:,} bytes"

    def files(self) -> int:
        """Open descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@asynccontextmanager
async def siege(machine: Machine) -> AsyncIterator[Siege]:
    """A running hub with two neighbours who talk all the while. When the block ends, what must hold after
    any attack is checked: the same process lives, all mail of the neighbours arrived, no text was logged.
    """
    async with machine.client(None, role="observer", create=False):
        pass  # whoever comes first starts the hub
    attack = Siege(machine)
    ben = attack.name("ben")
    async with (
        attack.session() as attack.observer,
        attack.session(attack.name("ann")) as sender,
        attack.session(ben, push=True) as reader,
    ):
        pair = attack.neighbours = Neighbours(sender, reader, ben)
        await pair.exchange()
        await attack.look()
        async with alone(pair.talk):
            yield attack
        await pair.exchange()
        assert pair.arrived == pair.sent
    assert machine.hub_pid == attack.pid
    for log in machine.home.glob("hub.log*"):
        assert CANARY not in log.read_text()


PRELUDE = """
import os, socket, sys, threading, time
"".encode("idna")  # loaded while there is the right to read it
os.nice(19)
if user := int(sys.argv.pop(1)):
    os.setgroups([]), os.setgid(user), os.setuid(user)
"""
"""Leaves hub and neighbours the processor where that is scarce: what is tested is the hub."""


@contextmanager
def attacker(machine: Machine, script: str, *arguments: str | bytes, user: int = 0) -> Iterator[Popen[bytes]]:
    """A process of its own that runs `script`; killed at the end of the block.

    Args:
        machine: what it writes goes there.
        script: Python; `PRELUDE` comes before it.
        arguments: those of bytes go into a file, whose path the script gets.
        user: id of the user it becomes; 0: it stays who we are.
    """
    words = [str(user)]
    for number, argument in enumerate(arguments):
        if isinstance(argument, bytes):
            path = machine.root / f"argument-{number}"
            path.write_bytes(argument)
            words.append(str(path))
        else:
            words.append(argument)
    command = [sys.executable, "-I", "-S", "-c", PRELUDE + script, *words]
    process = Popen(command, stdout=PIPE, stderr=STDOUT, env={})
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def ended(process: Popen[bytes]) -> str:
    """What an attacker printed, once it ended well."""
    with trio.fail_after(PATIENCE_S):
        out, _ = await trio.to_thread.run_sync(process.communicate)
    text = out.decode()
    assert process.returncode == 0, text
    return text
