"""Clients and the real hub, as processes and sockets are."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from ecorelay import wire
from ecorelay.client import HubClient, open_hub_client
from ecorelay.endpoint import read_endpoint
from ecorelay.errors import RelayError
from ecorelay.names import new_id
from ecorelay.paths import Paths
from ecorelay.process import is_alive
from ecorelay.requests import RequestError
from ecorelay.spawn import hub_connector
from tests.helpers.fake_hub import send

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(params=["unix", "tcp"])
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    home = tmp_path / "data"
    yield {
        **os.environ,
        "ECORELAY_HOME": str(home),
        "ECORELAY_TRANSPORT": request.param,
        "ECORELAY_HUB_ID": "test",
    }
    hub = read_endpoint(Paths(home).endpoint)
    if hub is not None:
        stop(hub.pid, signal.SIGTERM)


def stop(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@asynccontextmanager
async def client(environ: dict[str, str], name: str, **options: Any) -> AsyncIterator[HubClient]:
    hello = wire.Hello(versions=(1, 1), name=name, client="test", push="on_push" in options)
    connect = hub_connector(Paths(Path(environ["ECORELAY_HOME"])), environ)
    async with open_hub_client(hello, connect=connect, **options) as found:
        yield found


async def hub_pid(client: HubClient) -> int:
    return (await client.request(wire.HubStatus(req_id=0))).pid


async def unread(client: HubClient, wait: float = 0) -> list[str | None]:
    page = await client.request(wire.Inbox(req_id=0, wait=wait))
    await client.request(
        wire.Confirm(req_id=0, lease=page.lease, msg_ids=tuple(mail.msg_id for mail in page.messages))
    )
    return [mail.text for mail in page.messages]


async def test_mail_goes_from_one_client_to_another(environ: dict[str, str]):
    with trio.fail_after(30):
        async with client(environ, "alice") as alice, client(environ, "bob") as bob:
            assert (alice.welcome.name, alice.welcome.hub_id) == ("alice", "test")
            sent = await alice.request(send("größer als 日本 😀"))
            assert sent.status == "queued"
            assert await unread(bob) == ["größer als 日本 😀"]
            with pytest.raises(RequestError, match="peer_not_found"):
                await alice.request(send("x", to="nobody"))


async def test_pushed_mail_is_acknowledged_and_delivered(environ: dict[str, str]):
    taken: list[str] = []

    def take(push: wire.Push) -> None:
        taken.append(push.text)
        bob.send_nowait(wire.Pushed(msg_ids=(push.msg_id,), carrier="test"))

    with trio.fail_after(30):
        async with client(environ, "alice") as alice, client(environ, "bob", on_push=take) as bob:
            assert (await alice.request(send("hi"))).status == "delivered"
            assert taken == ["hi"]


@pytest.mark.guarantee("cancel-never-confirms")
async def test_what_a_cancelled_wait_was_given_stays_unread(environ: dict[str, str]):
    async def wait_for_mail() -> None:
        page = await bob.request(wire.Inbox(req_id=0, wait=60))
        with trio.CancelScope(shield=True):
            await bob.request(wire.Release(req_id=0, lease=page.lease))

    with trio.fail_after(30):
        async with client(environ, "alice") as alice, client(environ, "bob") as bob:
            for number in range(30):
                async with trio.open_nursery() as nursery:
                    reading = await nursery.start(cancellable, wait_for_mail)
                    nursery.start_soon(alice.request, send(str(number)))
                    # Before, while and after the page is made and sent.
                    await trio.sleep(0.0005 * (number % 10))
                    reading.cancel()
            texts: list[str | None] = []
            while page := await unread(bob):
                texts += page
    assert texts == [str(number) for number in range(30)]


async def cancellable(
    function: Callable[[], Awaitable[None]], task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await function()


@pytest.mark.guarantee("hub-kill-9")
@pytest.mark.guarantee("stored-once")
@pytest.mark.guarantee("reconnect-restores")
async def test_a_hub_killed_under_load_loses_and_doubles_nothing(environ: dict[str, str]):
    asked: list[str] = []
    answered: list[str] = []

    async def talk(alice: HubClient, worker: int) -> None:
        for number in range(25):
            text = f"{worker}-{number}"
            asked.append(text)
            await alice.request(send(text))
            answered.append(text)

    async def kill(alice: HubClient) -> None:
        for _ in range(3):
            pid = await hub_pid(alice)
            await trio.sleep(0.05)
            os.kill(pid, signal.SIGKILL)

    with trio.fail_after(60):
        async with client(environ, "alice") as alice, client(environ, "bob") as bob:
            alice_was, bob_was = alice.welcome.peer_id, bob.welcome.peer_id
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill, alice)
                for worker in range(8):
                    nursery.start_soon(talk, alice, worker)
            texts: list[str | None] = []
            while page := await unread(bob):
                texts += page
            assert (alice.welcome.peer_id, bob.welcome.peer_id) == (alice_was, bob_was)
            assert (alice.welcome.name, bob.welcome.name) == ("alice", "bob")
    assert sorted(answered) == sorted(asked)
    assert sorted(map(str, texts)) == sorted(asked)
    for worker in range(8):
        mine = [text for text in texts if str(text).startswith(f"{worker}-")]
        assert mine == [f"{worker}-{number}" for number in range(25)]


async def test_rooms_are_rejoined_after_a_killed_hub(environ: dict[str, str]):
    with trio.fail_after(30):
        async with client(environ, "alice") as alice, client(environ, "bob") as bob:
            for each in (alice, bob):
                await each.request(wire.Join(req_id=0, room="kitchen"))
            os.kill(await hub_pid(alice), signal.SIGKILL)
            while True:
                rooms = (await alice.request(wire.Rooms(req_id=0))).rooms
                if {(room.name, *sorted(room.members)) for room in rooms} == {("kitchen", "alice", "bob")}:
                    break
                await trio.sleep(0.01)


async def test_a_second_session_of_a_named_peer_is_refused_and_the_first_stays(environ: dict[str, str]):
    with trio.fail_after(30):
        async with client(environ, "alice") as alice:
            hello = wire.Hello(versions=(1, 1), name="alice", pinned=True, client="other")
            connect = hub_connector(Paths(Path(environ["ECORELAY_HOME"])), environ)
            with pytest.raises(RelayError, match="name_taken: alice is held by a living session"):
                async with open_hub_client(hello, connect=connect):
                    pytest.fail("not reached")
            assert (await alice.request(wire.Peers(req_id=0))).me == "alice"


async def test_a_request_with_a_lone_surrogate_is_answered(environ: dict[str, str]):
    """No client of ours can make one; an extension written in JavaScript does."""
    connect = hub_connector(Paths(Path(environ["ECORELAY_HOME"])), environ)
    with trio.fail_after(30):
        async with await connect() as stream:
            await stream.send_all(wire.encode(wire.Hello(versions=(1, 1), role="observer")))
            assert b'"welcome"' in await stream.receive_some()
            op_id = new_id(1, lambda bits: 1).encode()
            await stream.send_all(
                b'{"type":"send","req_id":7,"op_id":"' + op_id + b'","to":"bob","text":"\\ud83d"}\n'
            )
            answer = wire.decode_to_session((await stream.receive_some()).rstrip())
            assert isinstance(answer, wire.Failed)
            assert (answer.req_id, answer.code) == (7, "bad_msg")


async def test_a_hub_with_settings_that_cannot_be_used_says_so_to_whoever_needed_it(environ: dict[str, str]):
    home = Path(environ["ECORELAY_HOME"])
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("keep_alive = 1\n")
    with trio.fail_after(30):
        with pytest.raises(
            RelayError, match=r"bad_args: keep_alive is a whole number \(1\) in .*config\.toml"
        ):
            async with client(environ, "alice"):
                pytest.fail("not reached")
