"""The door: who gets in, and what happens when there is no room."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ecorelay.daemon import listen
from ecorelay.daemon.listen import FULL_SLEEP_S, Door, listen_loopback, listen_unix
from ecorelay.daemon.reasons import Tally
from ecorelay.errors import RelayError
from ecorelay.peercred import PeerCred


class Taken:
    """Connections that came through a door; keeps them open."""

    def __init__(self) -> None:
        self.streams: list[trio.abc.Stream] = []
        self.pids: list[int | None] = []
        self.first = trio.Event()

    async def serve(self, stream: trio.abc.Stream, pid: int | None) -> None:
        self.streams.append(stream)
        self.pids.append(pid)
        self.first.set()
        async with stream:
            await trio.sleep_forever()


Connect = Callable[[], socket.socket]


@pytest.fixture(params=["unix", "tcp"])
def doorway(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[socket.socket, Connect]:
    """A listening socket, and how to connect to it."""
    if request.param == "tcp":
        listening = listen_loopback()
        return listening, lambda: socket.create_connection(listening.getsockname())
    listening = listen_unix(tmp_path / "s")

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(os.fspath(tmp_path / "s"))
        return sock

    return listening, connect


async def test_connections_are_taken_all_at_once(
    nursery: trio.Nursery, doorway: tuple[socket.socket, Connect]
):
    listening, connect = doorway
    taken = Taken()
    door = Door(listening, taken.serve, Tally())
    clients = [connect() for _ in range(100)]
    nursery.start_soon(door.run, nursery)
    while len(taken.streams) < 100:
        await wait_all_tasks_blocked()
    known = os.getpid() if listening.family == socket.AF_UNIX else None
    assert set(taken.pids) == {known}
    door.close()
    for client in clients:
        client.close()
    nursery.cancel_scope.cancel()


async def test_what_comes_through_the_door_can_talk(
    nursery: trio.Nursery, doorway: tuple[socket.socket, Connect]
):
    listening, connect = doorway

    async def echo(stream: trio.abc.Stream, pid: int | None) -> None:
        async with stream:
            await stream.send_all(await stream.receive_some())

    door = Door(listening, echo, Tally())
    nursery.start_soon(door.run, nursery)
    client = trio.SocketStream(trio.socket.from_stdlib_socket(connect()))
    async with client:
        await client.send_all(b"hello")
        assert await client.receive_some() == b"hello"
    door.close()
    nursery.cancel_scope.cancel()


class Full:
    """A listening socket whose accept fails for a while."""

    def __init__(self, sock: socket.socket, failures: list[OSError]) -> None:
        self.sock = sock
        self.failures = failures

    def accept(self) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        return self.sock.accept()

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


async def test_without_descriptors_it_waits_and_goes_on(
    nursery: trio.Nursery, doorway: tuple[socket.socket, Connect], autojump_clock: MockClock
):
    listening, connect = doorway
    full = Full(listening, [OSError(errno.EMFILE, "Too many open files")] * 5)
    taken, tally = Taken(), Tally()
    door = Door(full, taken.serve, tally)  # type: ignore[arg-type]
    client = connect()
    nursery.start_soon(door.run, nursery)
    began = trio.current_time()
    with trio.fail_after(60):
        await taken.first.wait()
    assert trio.current_time() - began >= 5 * FULL_SLEEP_S
    assert tally.counts == {"accept_failed": 5}
    client.close()
    door.close()
    nursery.cancel_scope.cancel()


async def test_a_connection_gone_before_it_was_taken_costs_no_pause(
    nursery: trio.Nursery, doorway: tuple[socket.socket, Connect], autojump_clock: MockClock
):
    listening, connect = doorway
    full = Full(listening, [ConnectionAbortedError(errno.ECONNABORTED, "gone")])
    taken, tally = Taken(), Tally()
    door = Door(full, taken.serve, tally)  # type: ignore[arg-type]
    client = connect()
    began = trio.current_time()
    nursery.start_soon(door.run, nursery)
    while not taken.streams:
        await wait_all_tasks_blocked()
    assert trio.current_time() == began
    assert tally.counts == {}
    client.close()
    door.close()
    nursery.cancel_scope.cancel()


async def test_a_process_of_another_user_is_turned_away(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listen, "peer_cred", lambda sock: PeerCred(os.geteuid() + 1, 1))
    taken, tally = Taken(), Tally()
    door = Door(listen_unix(tmp_path / "s"), taken.serve, tally)
    nursery.start_soon(door.run, nursery)
    async with await trio.open_unix_socket(tmp_path / "s") as client:
        assert await client.receive_some() == b""
    assert taken.streams == []
    assert tally.counts == {"closed foreign_user": 1}
    door.close()
    nursery.cancel_scope.cancel()


async def test_where_the_kernel_does_not_tell_who_it_is_the_hello_is_believed(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listen, "peer_cred", lambda sock: None)
    taken = Taken()
    door = Door(listen_unix(tmp_path / "s"), taken.serve, Tally())
    nursery.start_soon(door.run, nursery)
    async with await trio.open_unix_socket(tmp_path / "s"):
        while not taken.streams:
            await wait_all_tasks_blocked()
    assert taken.pids == [None]
    door.close()
    nursery.cancel_scope.cancel()


# --- where to listen ---------------------------------------------------------------------------------------


def test_a_socket_left_behind_by_a_killed_hub_is_replaced(tmp_path: Path):
    path = tmp_path / "s"
    listen_unix(path).close()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(os.fspath(path))
    with listen_unix(path):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))


@pytest.mark.guarantee("secrets-and-modes-0600")
def test_the_socket_is_its_owners_alone(tmp_path: Path):
    before = os.umask(0)
    try:
        with listen_unix(tmp_path / "s"):
            assert stat.S_IMODE((tmp_path / "s").lstat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_what_is_no_socket_is_not_removed(tmp_path: Path):
    (tmp_path / "s").write_text("precious")
    with pytest.raises(RelayError, match="is no socket: move it away"):
        listen_unix(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_place_where_no_socket_can_be_is_a_clear_refusal(tmp_path: Path):
    with pytest.raises(RelayError, match=r"cannot listen at .*No such file") as refused:
        listen_unix(tmp_path / "missing" / "s")
    assert refused.value.code == "mailbox_error"


def test_loopback_is_this_machine_only():
    with listen_loopback() as sock:
        host, port = sock.getsockname()
        assert host == "127.0.0.1"
        assert port > 0
