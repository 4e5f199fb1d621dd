"""The nursery tree of a hub: what ends it, and in which order it is taken down."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ecorelay import names, wire
from ecorelay.config import Config
from ecorelay.core.hub import Hub
from ecorelay.daemon import run
from ecorelay.daemon.lock import HubLock
from ecorelay.daemon.perform import Facts
from ecorelay.daemon.place import Place
from ecorelay.daemon.run import BYE_S, FILES_EVERY_S, SETTLE_S, run_hub
from ecorelay.errors import RelayError
from ecorelay.paths import Paths
from tests.daemon.house import Client, InlineStore, hello, op_id


class Running:
    """A hub in this process, on a real socket, with its store in memory."""

    def __init__(self, paths: Paths, place: Place, store: InlineStore) -> None:
        self.paths = paths
        self.place = place
        self.store = store
        self.clients: list[Client] = []
        self.reason = ""
        self.ended = trio.Event()
        self.ended_at = 0.0

    async def connect(self) -> Client:
        client = Client(await trio.open_unix_socket(self.place.endpoint.path))
        self.clients.append(client)
        return client

    async def enter(self, name: str, **fields: Any) -> Client:
        client = await self.connect()
        await client.send(hello(name, **fields))
        assert isinstance(await client.receive(), wire.Welcome)
        return client

    async def serve(self, config: Config, task_status: Any) -> None:
        hub = Hub(
            hub_id="here",
            version="1",
            new_id=partial(names.new_id, random_bits=lambda bits: int.from_bytes(os.urandom(bits // 8))),
            limits=config.limits,
            snapshot=self.store.snapshot(),
        )
        self.reason = await run_hub(
            core=hub,
            store=self.store,
            place=self.place,
            paths=self.paths,
            config=config,
            facts=partial(Facts, pid=1, data_dir="/data", durability="power"),
            listening=task_status.started,
        )
        self.ended_at = trio.current_time()
        self.ended.set()


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Running]:
        config = Config(**{"hub_id": "here", "me": "me", "keep_alive": True, **settings})
        paths = Paths(tmp_path)
        with HubLock(paths.hub_lock) as lock:
            place = Place(paths, config, {}, lock)
            running = Running(paths, place, InlineStore())
            async with trio.open_nursery() as nursery:
                await nursery.start(running.serve, config)
                yield running
                for client in running.clients:
                    await client.close()
                nursery.cancel_scope.cancel()
            place.withdraw()

    return start


async def test_it_serves_and_a_signal_ends_it_after_goodbyes(start: Any):
    async with start() as hub:
        alice = await hub.enter("alice")
        assert (await alice.request(wire.Peers(req_id=1))).me == "alice"
        os.kill(os.getpid(), signal.SIGTERM)
        assert await alice.receive_all() == [wire.Bye(reason="the hub stops: SIGTERM")]
        with trio.fail_after(10):
            await hub.ended.wait()
        assert hub.reason == "SIGTERM"
        with pytest.raises(OSError, match="refused"):
            await hub.connect()


async def test_a_signal_in_the_moment_it_listens_ends_it_in_good_order_too(tmp_path: Path):
    paths, config = Paths(tmp_path), Config(hub_id="here", me="me", keep_alive=True)

    class Started:
        def started(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with HubLock(paths.hub_lock) as lock:
        running = Running(paths, Place(paths, config, {}, lock), InlineStore())
        await running.serve(config, Started())
        assert running.reason == "SIGTERM"


async def test_what_was_asked_before_the_end_is_answered_before_the_goodbye(start: Any):
    async with start() as hub:
        alice, stopper = await hub.enter("alice"), await hub.enter("bob")
        hub.store.held = True
        send = wire.Send(req_id=1, op_id=op_id(1), to="bob", text="hello")
        await alice.send(send)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await stopper.send(wire.HubStop(req_id=2))
        assert await stopper.receive() == wire.Done(req_id=2)
        # Heard after the end began: not done, the client says it again to the next hub.
        await alice.send(wire.Send(req_id=3, op_id=op_id(3), to="bob", text="too late"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        hub.store.held = False
        hub.store.commit_all()
        sent, bye = await alice.receive_all()
        assert (sent.req_id, type(bye)) == (1, wire.Bye)
        await hub.ended.wait()
        assert [op_id(1)] == [message.op.msg_id for message in hub.store.messages.values()]


async def test_neither_a_stuck_store_nor_a_stuck_reader_keeps_it_for_long(
    start: Any, autojump_clock: MockClock
):
    async with start() as hub:
        alice = await hub.enter("alice", push=True)
        bob = await hub.enter("bob")
        for number in range(40):
            text = "x" * 100_000
            await bob.request(wire.Send(req_id=number, op_id=op_id(number), to="alice", text=text))
        hub.store.held = True
        await bob.send(wire.Send(req_id=50, op_id=op_id(50), to="alice", text="hello"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        began = trio.current_time()
        os.kill(os.getpid(), signal.SIGTERM)
        await hub.ended.wait()
        assert hub.ended_at - began <= SETTLE_S + BYE_S + 0.1
        assert alice.reads == [1]


async def test_a_second_signal_is_a_hurry(start: Any, autojump_clock: MockClock):
    async with start() as hub:
        bob = await hub.enter("bob")
        hub.store.held = True
        await bob.send(wire.AddPeer(req_id=1, op_id=op_id(1), name="carol"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        began = trio.current_time()
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.testing.wait_all_tasks_blocked(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        await hub.ended.wait()
        assert hub.ended_at - began < 0.5


async def test_it_leaves_when_nobody_needs_it(start: Any, autojump_clock: MockClock):
    async with start(keep_alive=False, idle_exit_s=10) as hub:
        alice = await hub.enter("alice")
        await trio.sleep(60)
        assert not hub.ended.is_set()
        await alice.close()
        closed_at = trio.current_time()
        await hub.ended.wait()
        assert hub.reason == "nobody needs it"
        assert hub.ended_at - closed_at == pytest.approx(10, abs=1)


async def test_a_hub_nobody_comes_to_leaves_too(start: Any, autojump_clock: MockClock):
    async with start(keep_alive=False, idle_exit_s=10) as hub:
        began = trio.current_time()
        await hub.ended.wait()
        assert hub.ended_at - began == pytest.approx(10, abs=1)


async def test_keep_alive_keeps_it(start: Any, autojump_clock: MockClock):
    async with start(keep_alive=True, idle_exit_s=10) as hub:
        await trio.sleep(5_000)
        assert not hub.ended.is_set()


async def test_a_hub_whose_socket_was_removed_listens_again_and_nobody_is_cut_off(
    start: Any, autojump_clock: MockClock
):
    async with start() as hub:
        alice = await hub.enter("alice")
        hub.paths.socket.unlink()
        await trio.sleep(FILES_EVERY_S + 0.1)
        bob = await hub.enter("bob")
        for peer in (alice, bob):
            assert isinstance(await peer.request(wire.Rooms(req_id=1)), wire.RoomList)
        assert not hub.ended.is_set()


async def test_a_hub_whose_lock_was_removed_makes_room_for_another(start: Any, autojump_clock: MockClock):
    async with start() as hub:
        alice = await hub.enter("alice")
        hub.paths.hub_lock.unlink()
        began = trio.current_time()
        await hub.ended.wait()
        assert hub.ended_at - began <= FILES_EVERY_S + 0.1
        assert hub.reason == f"{hub.paths.hub_lock} was removed"
        assert isinstance(await alice.receive(), wire.Bye)


async def test_where_hub_json_cannot_be_written_it_does_not_start(
    tmp_path: Path,
):
    paths = Paths(tmp_path)
    config = Config(hub_id="here", me="me")
    with HubLock(paths.hub_lock) as lock:
        place = Place(paths, config, {}, lock)
        paths.endpoint.mkdir()
        with pytest.raises(RelayError, match="cannot write"):
            await Running(paths, place, InlineStore()).serve(config, trio.TASK_STATUS_IGNORED)
        place.withdraw()


def test_what_the_store_delivers_after_the_end_is_dropped():
    async def token() -> trio.lowlevel.TrioToken:
        return trio.lowlevel.current_trio_token()

    delivered: list[Any] = []
    shell = SimpleNamespace(deliver=delivered.append)
    run._deliver(trio.run(token), shell, [])  # type: ignore[arg-type]
    assert delivered == []
