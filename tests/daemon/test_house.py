"""The real core behind real sessions, with the store in memory: stories a user would tell."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ecorelay import wire
from ecorelay.errors import RelayError
from ecorelay.loopback import prove_to_hub
from tests.daemon.house import HUB_ID, Client, House, hello, op_id, tcp_pair, unix_pair

TOKEN = "ab" * 32


@pytest.fixture(params=["memory", "unix", "tcp"])
def house(request: pytest.FixtureRequest, lived_in: House) -> House:
    match request.param:
        case "unix":
            lived_in.pair = unix_pair
        case "tcp":
            lived_in.pair = tcp_pair
    return lived_in


def mail(number: int, to: str, text: str) -> wire.Send:
    return wire.Send(req_id=number, op_id=op_id(number), to=to, text=text)


async def test_mail_goes_from_one_to_the_other_and_is_acknowledged_when_it_was_pushed(house: House):
    alice, bob = await house.enter("alice"), await house.enter("bob", push=True)
    await alice.send(mail(1, "bob", "hello"))
    push = await bob.receive()
    assert (push.sender, push.text, push.msg_id) == ("alice", "hello", op_id(1))
    await bob.send(wire.Pushed(msg_ids=(op_id(1),), carrier="test"))
    sent = await alice.receive()
    assert (sent.req_id, sent.status) == (1, "delivered")


async def test_nothing_is_said_before_the_store_has_it(house: House):
    alice, bob = await house.enter("alice"), await house.enter("bob", push=True)
    house.store.held = True
    await alice.send(mail(1, "bob", "hello"))
    for client in (alice, bob):
        with trio.move_on_after(0.05) as waiting:
            await client.receive()
        assert waiting.cancelled_caught
    house.store.held = False
    house.store.commit_all()
    assert (await bob.receive()).text == "hello"


async def test_a_send_without_an_acknowledgement_is_answered_queued_in_time(
    house: House, autojump_clock: MockClock
):
    alice, bob = await house.enter("alice"), await house.enter("bob", push=True)
    began = trio.current_time()
    sent = await alice.request(mail(1, "bob", "hello"))
    assert sent.status == "queued"
    assert trio.current_time() - began == pytest.approx(0.3, abs=0.02)
    assert (await bob.receive()).text == "hello"


async def test_a_full_disk_is_an_answer_not_an_end(house: House):
    alice = await house.enter("alice")
    await house.enter("bob")
    house.store.refuse = lambda unit: RelayError("mailbox_error", "the disk is full")
    failed = await alice.request(mail(1, "bob", "hello"))
    assert (failed.code, failed.message) == ("mailbox_error", "the disk is full")
    house.store.refuse = lambda unit: None
    assert (await alice.request(mail(2, "bob", "hello"))).status == "queued"


async def test_a_broadcast_reaches_everybody_and_each_gets_it_once(house: House):
    alice = await house.enter("alice")
    others = [await house.enter(f"peer-{number}", push=True) for number in range(20)]
    answer = await alice.request(wire.Broadcast(req_id=1, op_id=op_id(1), question="who is there?"))
    assert answer.peer_count == 20
    for other in others:
        assert (await other.receive()).text == "who is there?"
        assert other.reads == [1, 1]  # welcome, question


async def test_a_name_of_a_living_session_is_refused_and_of_a_dead_one_taken_over(house: House):
    first = await house.enter("alice", pid=4242)
    claimant = house.connect()
    await claimant.send(hello("alice", pid=4343))
    (refused,) = await claimant.receive_all()
    assert refused.code == "name_taken"
    house.dead_processes.add(4242)
    second = await house.enter("alice", pid=4444)
    (bye,) = await first.receive_all()
    assert (type(bye), bye.code) == (wire.Bye, "name_taken")
    assert (await second.request(wire.Peers(req_id=1))).me == "alice"


async def test_hub_status_is_answered_to_an_observer(house: House):
    await house.enter("alice")
    watcher = house.connect()
    await watcher.send(wire.Hello(versions=(1, 1), role="observer"), wire.HubStatus(req_id=1))
    assert isinstance(await watcher.receive(), wire.Welcome)
    details = await watcher.receive()
    assert (details.hub_id, details.pid, details.sessions, details.peers) == (HUB_ID, 4711, 1, 1)
    assert (details.data_dir, details.durability) == ("/data", "power")


async def test_who_asks_the_hub_to_stop_gets_an_answer_first(house: House):
    alice = await house.enter("alice")
    assert await alice.request(wire.HubStop(req_id=1)) == wire.Done(req_id=1)
    assert house.stops == ["asked to by a client"]


async def test_a_second_hello_is_an_error_and_nothing_more(house: House):
    alice = await house.enter("alice")
    await alice.send(hello("bob"))
    assert (await alice.receive()).code == "already_registered"
    assert (await alice.request(wire.Peers(req_id=1))).me == "alice"


@pytest.mark.guarantee("stalled-reader-bounded")
async def test_a_session_that_never_reads_keeps_all_its_mail(lived_in: House, autojump_clock: MockClock):
    lived_in.pair = unix_pair
    alice = await lived_in.enter("alice")
    stalled = await lived_in.enter("bob", push=True)
    text = "x" * 40_000
    for number in range(1, 101):
        sent = await alice.request(mail(number, "bob", text))
        assert sent.status == "queued"
    out = lived_in.shell.sessions[2]
    assert out.size < 2 * 1024 * 1024  # type: ignore[attr-defined]
    await stalled.close()
    await wait_all_tasks_blocked()
    bob = await lived_in.enter("bob")
    seen: list[str] = []
    while len(seen) < 100:
        page = await bob.request(wire.Inbox(req_id=1, limit=100, budget=400_000))
        assert page.messages
        seen += [message.msg_id for message in page.messages]
        ids = tuple(message.msg_id for message in page.messages)
        await bob.request(wire.Confirm(req_id=2, lease=page.lease, msg_ids=ids))
    assert seen == [op_id(number) for number in range(1, 101)]


# --- TCP ---------------------------------------------------------------------------------------------------


def guarded(nursery: trio.Nursery) -> House:
    return House(nursery, pair=tcp_pair, token=TOKEN)


def line_receiver(client: Client):
    async def receive_line() -> bytes:
        data = b""
        while not data.endswith(b"\n"):
            more = await client.stream.receive_some()
            if not more:
                raise trio.BrokenResourceError
            data += more
        return data

    return receive_line


async def test_over_tcp_whoever_knows_the_token_gets_in(nursery: trio.Nursery):
    house = guarded(nursery)
    client = house.connect()
    await prove_to_hub(line_receiver(client), client.send_bytes, token=TOKEN, nonce=op_id(1))
    await client.send(hello("alice", pid=17))
    welcome = await client.receive()
    assert (type(welcome), welcome.name) == (wire.Welcome, "alice")
    await house.close()


async def test_over_tcp_proof_and_hello_may_come_in_one_piece(nursery: trio.Nursery):
    house = guarded(nursery)
    client = house.connect()
    held: list[bytes] = []

    async def send(data: bytes) -> None:
        if held or b"auth_proof" in data:
            held.append(data)
        else:
            await client.send_bytes(data)

    await prove_to_hub(line_receiver(client), send, token=TOKEN, nonce=op_id(1))
    await client.send_bytes(b"".join(held) + wire.encode(hello("alice")))
    assert isinstance(await client.receive(), wire.Welcome)
    await house.close()


@pytest.mark.parametrize(
    "first",
    [
        wire.encode(hello("alice")),
        wire.encode(wire.AuthProof(proof="00" * 32)),
        wire.encode(wire.AuthStart(nonce=op_id(1))) + wire.encode(wire.AuthProof(proof="00" * 32)),
        b"nonsense\n",
    ],
)
async def test_over_tcp_whoever_does_not_know_the_token_hears_nothing_of_use(
    nursery: trio.Nursery, first: bytes
):
    house = guarded(nursery)
    client = house.connect()
    await client.send_bytes(first + wire.encode(hello("alice")))
    received = b""
    while data := await client.stream.receive_some():
        received += data
    assert b"welcome" not in received
    assert b"refused" not in received
    assert await house.counted() == {"closed auth_failed": 1}
    await house.close()


async def test_over_tcp_the_time_for_hello_includes_the_proof(
    nursery: trio.Nursery, autojump_clock: MockClock
):
    house = guarded(nursery)
    client = house.connect()
    await client.send(wire.AuthStart(nonce=op_id(1)))
    assert b"auth_challenge" in await client.stream.receive_some()
    began = trio.current_time()
    assert await client.stream.receive_some() == b""
    assert trio.current_time() - began == pytest.approx(5, abs=0.2)
    await house.close()
