"""A lost connection is made again, and nothing that was asked is lost or done twice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ecorelay import wire
from ecorelay.client import HubClient, open_hub_client
from ecorelay.errors import RelayError, WireError
from ecorelay.spawn import NoHub
from tests.helpers.fake_hub import HELLO, PEER_ID, WELCOME, Asked, FakeHub, answer, connected, send, sent
from tests.wire.examples import ID, ID2


@pytest.fixture
def hub(nursery: trio.Nursery) -> FakeHub:
    return FakeHub(nursery)


# --- who we are -----------------------------------------------------------------------------------------


@pytest.mark.guarantee("reconnect-restores")
async def test_the_same_peer_and_instance_return(autojump_clock: MockClock, hub: FakeHub):
    hub.answers = [msgspec.structs.replace(WELCOME, name="alice-2")]
    async with hub.client() as (client, session):
        assert client.welcome.name == "alice-2"
        assert session.hello is not None
        assert session.hello.peer_id is None
        assert session.hello.name == "alice"
        hub.answers = [msgspec.structs.replace(WELCOME, name="alice-2", unread=5)]
        await session.close()
        again = await hub.session()
        assert again.hello == msgspec.structs.replace(session.hello, peer_id=PEER_ID, name="alice-2")
        assert again.hello.instance
        await trio.testing.wait_all_tasks_blocked()
        assert client.welcome.unread == 5


async def test_an_instance_and_a_process_that_were_given_stay(autojump_clock: MockClock, hub: FakeHub):
    hello = msgspec.structs.replace(HELLO, instance=ID, pid=42, pid_start=7)
    async with hub.client(hello) as (_, session):
        assert session.hello == hello


async def test_without_a_process_it_is_ours(autojump_clock: MockClock, hub: FakeHub):
    import os

    async with hub.client(wire.Hello(versions=(1, 1), role="observer")) as (_, session):
        assert session.hello is not None
        assert session.hello.pid == os.getpid()


async def test_an_observer_has_no_name_to_return_under(autojump_clock: MockClock, hub: FakeHub):
    hub.answers = [wire.Welcome(version=1, hub_id="hub", app_version="0.1.0")] * 2
    async with hub.client(wire.Hello(versions=(1, 1), role="observer", pid=1)) as (_, session):
        await session.close()
        assert (await hub.session()).hello == session.hello


async def test_an_assistants_session_returns_under_the_id_it_has_now(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client(msgspec.structs.replace(HELLO, identity="one")) as (client, session):
        asked = Asked(nursery, client, wire.Identify(req_id=0, identity="two"))
        frame = await session.receive()
        await session.send(wire.Renamed(req_id=frame.req_id, name=client.welcome.name))
        await asked.wait()
        asked = Asked(nursery, client, wire.Identify(req_id=0, identity="bobs"))
        frame = await session.receive()
        await session.send(wire.Renamed(req_id=frame.req_id, name="bob"))
        await asked.wait()
        await session.close()
        hello = (await hub.session()).hello
        assert hello is not None
        assert hello.identity == "two"


async def test_a_renamed_peer_returns_under_its_new_name(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    changes: list[wire.NameChanged] = []
    async with hub.client(on_name_changed=changes.append) as (client, session):
        asked = Asked(nursery, client, wire.Rename(req_id=0, op_id="", new_name="carol"))
        frame = await session.receive()
        await session.send(wire.Renamed(req_id=frame.req_id, name="carol"))
        await asked.wait()
        assert client.welcome.name == "carol"
        asked = Asked(nursery, client, wire.AddPeer(req_id=0, op_id="", name="eve"))
        frame = await session.receive()
        await session.send(wire.Renamed(req_id=frame.req_id, name="eve"))
        await asked.wait()
        assert client.welcome.name == "carol"
        await session.send(wire.NameChanged(name="dave"))
        await trio.testing.wait_all_tasks_blocked()
        assert client.welcome.name == "dave"
        assert changes == [wire.NameChanged(name="dave")]
        await session.close()
        hello = (await hub.session()).hello
        assert hello is not None
        assert hello.name == "dave"


# --- open requests --------------------------------------------------------------------------------------


@pytest.mark.guarantee("stored-once")
async def test_open_requests_are_sent_again_in_their_order_under_their_ids(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        requests = [
            send("1"),
            wire.Peers(req_id=0),
            wire.Rename(req_id=0, op_id="", new_name="x"),
            wire.Inbox(req_id=0),
            wire.GroupConfirm(req_id=0, group="g", upto=3),
            send("2"),
        ]
        asked = []
        for request in requests:
            asked.append(Asked(nursery, client, request))
            await trio.testing.wait_all_tasks_blocked()
        frames = [await session.receive() for _ in requests]
        await session.send(answer(frames[1], wire.PeerList(req_id=0, hub_id="hub")))
        await asked[1].wait()
        await session.close()
        again = await hub.session()
        expected = [
            msgspec.structs.replace(frame, resend=True) if isinstance(frame, wire.Mutation) else frame
            for frame in frames
            if frame is not frames[1]
        ]
        assert [await again.receive() for _ in expected] == expected
        await again.send(sent(frames[0]))
        assert (await asked[0].wait()).msg_id == frames[0].op_id
        for each in asked:
            each.scope.cancel()


async def test_what_one_peer_asked_is_not_asked_again_by_another(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    """Another session took our name while the hub was away. It may all have been done, for that peer."""
    async with hub.client() as (client, session):
        requests = [
            send("1"),
            wire.Peers(req_id=0),
            wire.Rename(req_id=0, op_id="", new_name="x"),
            wire.GroupConfirm(req_id=0, group="g", upto=3),
            wire.Confirm(req_id=0, msg_ids=(ID,)),
        ]
        asked = [Asked(nursery, client, request) for request in requests]
        frames = [await session.receive() for _ in requests]
        name = client.welcome.name
        hub.answers.append(msgspec.structs.replace(WELCOME, name=f"{name}-2", peer_id="p2"))
        await session.close()
        again = await hub.session()
        [peers] = [frame for frame in frames if isinstance(frame, wire.Peers)]
        assert await again.receive() == peers
        await again.send(answer(peers, wire.PeerList(req_id=0, hub_id="hub")))
        await asked[1].wait()
        for each in (asked[0], *asked[2:]):
            await each.ended.wait()
            assert isinstance(each.error, RelayError)
            assert each.error.code == "timeout"
            assert f"{name}-2" in each.error.message
        [mail] = [frame for frame in frames if isinstance(frame, wire.Send)]
        assert isinstance(asked[0].error, RelayError)
        assert mail.op_id in asked[0].error.message
        # What was not said yet is said by whom we are now.
        asked[0] = Asked(nursery, client, send("2"))
        await again.send(sent(await again.receive()))
        await asked[0].wait()


async def test_a_hub_that_lost_its_memory_is_asked_again(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send("1"))
        await session.receive()
        hub.answers.append(msgspec.structs.replace(WELCOME, peer_id="p2"))
        await session.close()
        again = await hub.session()
        await again.send(sent(await again.receive()))
        await asked.wait()


async def test_what_was_never_sent_is_no_resend(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        hub.down = OSError("nobody there")
        await session.close()
        await trio.sleep(5)
        asked = Asked(nursery, client, send("1"), patience=60)
        await trio.sleep(5)
        hub.down = None
        again = await hub.session()
        frame = await again.receive()
        assert frame.resend is False
        await again.close()
        frame = await (third := await hub.session()).receive()
        assert frame.resend is True
        await third.send(sent(frame))
        await asked.wait()


async def test_a_confirmation_goes_again_by_its_ids_alone(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    """The number of its lease may be another page's at a hub that started anew."""
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, wire.Confirm(req_id=0, lease=7, msg_ids=(ID,), notices=("n1-1",)))
        frame = await session.receive()
        await session.close()
        again = await hub.session()
        assert await again.receive() == msgspec.structs.replace(frame, lease=0)
        await again.send(wire.Done(req_id=frame.req_id))
        await asked.wait()


@pytest.mark.parametrize("frame", [wire.Release(req_id=0, lease=7), wire.GroupRelease(req_id=0, group="g")])
async def test_a_page_need_not_be_given_back_twice(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery, frame: wire.Request
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, frame)
        assert isinstance(await session.receive(), type(frame))
        await session.close()
        assert await (await hub.session()).quiet()
        assert isinstance(await asked.wait(), wire.Done)


async def test_a_waiting_read_goes_on_for_the_rest_of_its_time(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, wire.Inbox(req_id=0, wait=100))
        await session.receive()
        await trio.sleep(60)
        await session.close()
        again = await hub.session()
        frame = await again.receive()
        assert frame.wait == pytest.approx(40, abs=1)
        await again.close()
        hub.down = OSError("x")
        await trio.sleep(50)
        hub.down = None
        assert (await (await hub.session()).receive()).wait == 0
        with pytest.raises(RelayError, match="timeout"):
            await asked.wait()


async def test_a_waiting_read_that_found_no_hub_waits_for_the_rest_of_its_time(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    """Else its caller would hear that the hub does not answer, instead of that nothing came."""
    async with hub.client() as (client, session):
        hub.down = OSError("nobody there")
        await session.close()
        await trio.sleep(5)
        asked = Asked(nursery, client, wire.Inbox(req_id=0, wait=30))
        await trio.sleep(20)
        hub.down = None
        again = await hub.session()
        frame = await again.receive()
        assert 0 < frame.wait < 11
        await trio.sleep(frame.wait)
        await again.send(wire.InboxPage(req_id=frame.req_id))
        assert (await asked.wait()).messages == ()


async def test_a_stop_is_never_said_to_the_next_hub(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, wire.HubStop(req_id=0))
        await session.receive()
        await session.close()
        assert await (await hub.session()).quiet()
        with pytest.raises(RelayError, match="hub_unreachable: the hub closed the connection; it may have"):
            await asked.wait()


async def test_an_answered_request_is_not_sent_again(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send("1"))
        frame = await session.receive()
        await session.send(sent(frame))
        await session.close()
        await asked.wait()
        assert await (await hub.session()).quiet()


async def test_a_cancelled_request_is_not_sent_again(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        mail, read = Asked(nursery, client, send("1")), Asked(nursery, client, wire.Inbox(req_id=0))
        await session.receive()
        await session.receive()
        hub.down = OSError("x")
        await session.close()
        await trio.sleep(0.1)
        mail.scope.cancel()
        read.scope.cancel()
        await trio.sleep(0.1)
        hub.down = None
        assert await (await hub.session()).quiet()


async def test_a_request_given_up_while_there_is_no_hub_says_what_is_known(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send("1", op_id=ID), patience=20)
        await session.receive()
        hub.down = OSError("nobody there")
        await session.close()
        with pytest.raises(
            RelayError, match=rf"timeout: .* 20 s \(nobody there\); it may .* stored, as {ID}: ask"
        ):
            await asked.wait()
        with pytest.raises(
            RelayError,
            match=r"hub_unreachable: no connection to the hub for 30 s \(nobody there\); nothing was sent",
        ):
            await client.request(send("2"))


# --- rooms ----------------------------------------------------------------------------------------------


async def joined(nursery: trio.Nursery, client: Any, session: Any, frame: wire.Join | wire.Leave) -> None:
    asked = Asked(nursery, client, frame)
    received = await session.receive()
    result = (
        wire.RoomMembers(req_id=0, room="r", members=())
        if isinstance(frame, wire.Join)
        else wire.Done(req_id=0)
    )
    await session.send(answer(received, result))
    await asked.wait()


@pytest.mark.guarantee("reconnect-restores")
async def test_rooms_are_rejoined_before_anything_is_said_in_them(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        for room in ("kitchen", "hall", "attic@server"):
            await joined(nursery, client, session, wire.Join(req_id=0, room=room))
        await joined(nursery, client, session, wire.Leave(req_id=0, room="hall"))
        assert client.rooms == ("kitchen", "attic@server")
        asked = Asked(nursery, client, wire.RoomSend(req_id=0, op_id="", room="kitchen", text="tea?"))
        await session.receive()
        await session.close()
        again = await hub.session()
        frames = [await again.receive() for _ in range(3)]
        assert [type(frame) for frame in frames] == [wire.Join, wire.Join, wire.RoomSend]
        assert [frame.room for frame in frames] == ["kitchen", "attic@server", "kitchen"]
        # A room that is not to be had any more is not asked for for ever.
        await again.send(wire.RoomMembers(req_id=frames[0].req_id, room="kitchen", members=()))
        await again.send(wire.Failed(req_id=frames[1].req_id, code="hub_not_found", message=""))
        await trio.testing.wait_all_tasks_blocked()
        assert "attic@server" not in client.rooms
        asked.scope.cancel()


# --- pushes and callbacks -------------------------------------------------------------------------------


def push(number: int) -> wire.Push:
    return wire.Push(msg_id=ID, kind="message", sender="bob", text=str(number), ts=number)


async def test_pushes_are_handed_over_in_order_to_a_plain_or_an_async_function(
    autojump_clock: MockClock, hub: FakeHub
):
    taken: list[str] = []

    async def slowly(frame: wire.Push) -> None:
        await trio.sleep(10 - frame.ts)
        taken.append(frame.text)

    for handler in (slowly, lambda frame: taken.append(frame.text)):
        taken.clear()
        async with hub.client(on_push=handler) as (_, session):
            await session.send(*map(push, range(10)))
            await trio.sleep(60)
        assert taken == [str(number) for number in range(10)]


async def test_pushes_without_a_handler_are_passed_over(autojump_clock: MockClock, hub: FakeHub):
    async with hub.client() as (_, session):
        await session.send(push(1))
        assert await session.quiet()


async def test_a_handler_may_ask_the_hub_and_acknowledge(autojump_clock: MockClock, hub: FakeHub):
    async def handle(frame: wire.Push) -> None:
        await client.request(wire.Peers(req_id=0))
        client.send_nowait(wire.Pushed(msg_ids=(frame.msg_id,), carrier="channel"))

    async with hub.client(on_push=handle) as (client, session):
        await session.send(push(1))
        frame = await session.receive()
        await session.send(answer(frame, wire.PeerList(req_id=0, hub_id="hub")))
        assert await session.receive() == wire.Pushed(msg_ids=(ID,), carrier="channel")


async def test_a_push_that_comes_with_the_welcome_finds_the_block_entered(
    autojump_clock: MockClock, hub: FakeHub
):
    clients: list[HubClient] = []

    def handle(frame: wire.Push) -> None:
        clients[0].send_nowait(wire.Pushed(msg_ids=(frame.msg_id,)))

    hub.after_welcome = [push(1)]
    async with open_hub_client(HELLO, connect=hub.connect, on_push=handle) as client:
        clients.append(client)
        session = await hub.session()
        assert await session.receive() == wire.Pushed(msg_ids=(ID,))


async def test_pushes_of_a_lost_connection_are_left_to_the_hub_to_push_again(
    autojump_clock: MockClock, hub: FakeHub
):
    taken: list[str] = []

    async def slowly(frame: wire.Push) -> None:
        await trio.sleep(1)
        taken.append(frame.text)

    async with hub.client(on_push=slowly) as (_, session):
        await session.send(push(1), push(2), push(3))
        await trio.sleep(0.5)
        await session.close()
        again = await hub.session()
        await again.send(push(2), push(3))
        await trio.sleep(10)
    assert taken == ["1", "2", "3"]


async def test_who_wants_to_know_of_a_reconnect_is_told_before_the_next_push(
    autojump_clock: MockClock, hub: FakeHub
):
    told: list[Any] = []
    hub.answers = [WELCOME, msgspec.structs.replace(WELCOME, unread=2)]
    async with hub.client(on_push=told.append, on_reconnect=told.append) as (_, session):
        await session.close()
        await (await hub.session()).send(push(1))
        await trio.sleep(1)
        assert told == [msgspec.structs.replace(WELCOME, unread=2), push(1)]


async def test_what_a_handler_raises_ends_the_block(autojump_clock: MockClock, hub: FakeHub):
    def broken(_frame: wire.Push) -> None:
        raise ValueError("broken handler")

    with pytest.raises(ValueError, match="broken handler"):
        async with hub.client(on_push=broken) as (_, session):
            await session.send(push(1))
            await trio.sleep_forever()


async def test_nothing_is_sent_without_an_answer_while_there_is_no_connection(
    autojump_clock: MockClock, hub: FakeHub
):
    async with hub.client() as (client, session):
        assert client.connected
        assert client.trouble == ""
        assert client.send_nowait(wire.Pushed(msg_ids=(ID,)))
        hub.down = OSError("nobody there")
        await session.close()
        await trio.sleep(0.1)
        assert not client.connected
        assert client.trouble == "nobody there"
        assert not client.send_nowait(wire.Pushed(msg_ids=(ID2,)))
        hub.down = None
        assert await (await hub.session()).quiet()


# --- the way a connection ends --------------------------------------------------------------------------


async def test_a_ping_is_answered_also_before_the_welcome(autojump_clock: MockClock, hub: FakeHub):
    async with hub.client() as (_, session):
        await session.send(wire.Ping())
        assert await session.receive() == wire.Pong()
        hub.answers = [None]
        await session.close()
        again = await hub.session()
        await again.send(wire.Ping())
        assert await again.receive() == wire.Pong()
        await again.send(WELCOME)


@pytest.mark.parametrize(
    "frames",
    [
        [wire.Bye(reason="the hub stops")],
        [wire.Bye(reason="three pings were not answered", code="timeout")],
        [wire.Bye(reason="a line was too long", code="too_large")],
    ],
)
async def test_a_bye_that_names_no_other_session_is_followed_by_a_new_connection(
    autojump_clock: MockClock, hub: FakeHub, frames: list[wire.Frame]
):
    async with hub.client() as (client, session):
        await session.send(*frames)
        assert await session.receive() is None
        await hub.session()
        await trio.testing.wait_all_tasks_blocked()
        assert client.connected


async def test_a_line_without_an_end_loses_the_connection_and_no_more(
    autojump_clock: MockClock, hub: FakeHub
):
    async with hub.client() as (client, session):
        await session.stream.send_all(b"x" * (wire.LINE_MAX + 1))
        await hub.session()
        await trio.testing.wait_all_tasks_blocked()
        assert client.connected


@pytest.mark.guarantee("zombie-take-over")
async def test_who_lost_its_name_does_not_fight_for_it(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send("1"))
        await session.receive()
        await session.send(wire.Bye(reason="another session took over alice", code="name_taken"))
        with pytest.raises(
            RelayError, match=r"name_taken: another session took over alice; .* may have been done"
        ):
            await asked.wait()
        over = await client.wait_over()
        assert (over.code, over.message) == ("name_taken", "another session took over alice")
        with pytest.raises(RelayError, match="name_taken"):
            await client.request(send("2"))
        await trio.sleep(1_000)
        assert len(hub.attempts) == 1


@pytest.mark.parametrize("code", ["name_taken", "protocol_mismatch", "not_registered", "bad_args"])
async def test_a_return_that_is_refused_for_good_ends_the_client(
    autojump_clock: MockClock, hub: FakeHub, code: Any
):
    async with hub.client() as (client, session):
        hub.answers = [wire.Refused(code=code, message="no")]
        await session.close()
        assert (await client.wait_over()).code == code
        await trio.sleep(1_000)
        assert len(hub.attempts) == 2


@pytest.mark.parametrize("code", ["limit_reached", "mailbox_error", "timeout", "unexpected"])
async def test_a_return_that_is_refused_for_now_is_tried_again(
    autojump_clock: MockClock, hub: FakeHub, code: Any
):
    async with hub.client() as (client, session):
        hub.answers = [
            wire.Refused(code=code, message="no"),
            wire.Bye(reason="stopping"),
            wire.Done(req_id=1),
        ]
        await session.close()
        await trio.testing.wait_all_tasks_blocked()
        await connected(client)
        assert len(hub.attempts) == 5


async def test_with_stay_false_a_lost_connection_ends_the_client(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client(stay=False) as (client, session):
        asked = Asked(nursery, client, wire.HubStop(req_id=0))
        await session.receive()
        await session.close()
        with pytest.raises(RelayError, match="hub_unreachable: the hub closed the connection"):
            await asked.wait()
        await trio.sleep(100)
        assert len(hub.attempts) == 1


# --- the first connection -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["name_taken", "limit_reached"])
async def test_a_first_hello_that_is_refused_raises_its_reason(
    autojump_clock: MockClock, hub: FakeHub, code: Any
):
    hub.answers = [wire.Refused(code=code, message="no")]
    with pytest.raises(RelayError, match=f"^{code}: no$"):
        async with hub.client():
            pytest.fail("not reached")
    assert len(hub.attempts) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NoHub("no hub runs here"), "hub_unreachable: no hub runs here"),
        (RelayError("bad_args", "transport is a text"), "bad_args: transport is a text"),
    ],
)
async def test_where_trying_again_is_of_no_use_the_first_connection_fails_at_once(
    autojump_clock: MockClock, hub: FakeHub, error: Exception, words: str
):
    hub.down = error
    with pytest.raises(RelayError, match=words):
        async with hub.client():
            pytest.fail("not reached")
    assert trio.current_time() == 0


@pytest.mark.parametrize(
    "error",
    [OSError("broken"), trio.BrokenResourceError("broken"), WireError("broken"), trio.ClosedResourceError],
)
async def test_the_first_connection_may_need_several_tries(
    autojump_clock: MockClock, hub: FakeHub, error: Any
):
    hub.errors = [error, error, error]
    async with hub.client() as (client, _):
        assert client.connected
    assert len(hub.attempts) == 4


@pytest.mark.parametrize(("role", "seconds"), [("session", 30), ("attach", 15)])
async def test_the_first_connection_fails_in_the_end_with_the_last_trouble(
    autojump_clock: MockClock, hub: FakeHub, role: Any, seconds: float
):
    hub.down = OSError("broken")
    with pytest.raises(RelayError, match=f"hub_unreachable: no hub for {seconds} s: broken"):
        async with hub.client(msgspec.structs.replace(HELLO, role=role)):
            pytest.fail("not reached")
    assert trio.current_time() == pytest.approx(seconds)


@pytest.mark.parametrize(("role", "seconds"), [("session", 20), ("attach", 5), ("observer", 5)])
async def test_a_hub_that_does_not_answer_hello_is_left(
    autojump_clock: MockClock, hub: FakeHub, role: Any, seconds: float
):
    hub.answers = [None]
    async with hub.client(msgspec.structs.replace(HELLO, role=role)):
        assert hub.attempts[1] == pytest.approx(seconds, abs=0.1)


# --- pauses ---------------------------------------------------------------------------------------------


async def test_pauses_grow_to_a_second_with_jitter(autojump_clock: MockClock, hub: FakeHub):
    async with hub.client(random_bits=lambda bits: 2**bits - 1) as (_, session):
        hub.down = OSError("x")
        await session.close()
        await trio.sleep(10)
    pauses = [later - earlier for earlier, later in zip(hub.attempts[1:], hub.attempts[2:], strict=False)]
    assert pauses[:7] == pytest.approx([0.08, 0.16, 0.32, 0.64, 1, 1, 1])
    assert hub.attempts[1] <= 0.04


async def test_a_killed_hub_that_is_back_has_its_clients_back_within_two_seconds(
    autojump_clock: MockClock, hub: FakeHub
):
    for outage in (0.0, 0.1, 0.5, 1.0, 5.0):
        async with hub.client() as (client, session):
            hub.down = OSError("x")
            await session.close()
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(outage)
            hub.down = None
            await connected(client, within=2)
            await hub.session()


async def test_a_hub_that_drops_every_connection_is_not_hammered(autojump_clock: MockClock, hub: FakeHub):
    async with hub.client() as (_, session):
        with trio.move_on_after(60):
            while True:
                await session.close()
                session = await hub.session()
        assert len(hub.attempts) < 200
        # Nor are old failures held against a connection that lasted.
        await trio.sleep(10)
        began = trio.current_time()
        await session.close()
        await hub.session()
        assert trio.current_time() - began < 0.05


async def test_a_hub_that_is_long_gone_is_tried_at_leisure_until_somebody_asks(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        hub.down = OSError("x")
        await session.close()
        await trio.sleep(3_600)
        assert len(hub.attempts) < 420
        hub.down = None
        asked = Asked(nursery, client, send("1"))
        with trio.fail_after(2):
            again = await hub.session()
        await again.send(sent(await again.receive()))
        await asked.wait()


async def test_a_hub_that_refuses_to_start_is_started_rarely_and_whoever_asks_learns_why(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send("0", op_id=ID))
        await session.receive()
        hub.down = RelayError("bad_args", "spawn is a text")
        await session.close()
        with pytest.raises(
            RelayError, match="bad_args: spawn is a text; what was asked of the last hub may have"
        ):
            await asked.wait()
        await trio.sleep(86_400)
        assert len(hub.attempts) < 320
        attempts = len(hub.attempts)
        with pytest.raises(RelayError, match=r"^bad_args: spawn is a text$"):
            await client.request(send("1"))
        assert len(hub.attempts) == attempts + 1
        hub.down = None
        asked = Asked(nursery, client, send("2"))
        with trio.fail_after(2):
            again = await hub.session()
        await again.send(sent(await again.receive()))
        await asked.wait()


async def test_an_idle_client_costs_nothing(autojump_clock: MockClock, hub: FakeHub):
    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += "ecorelay" in task.name

    async with hub.client():
        await trio.testing.wait_all_tasks_blocked()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await trio.sleep(86_400)
        trio.lowlevel.remove_instrument(steps)
        assert steps.count == 0


# --- leaving --------------------------------------------------------------------------------------------


async def test_what_is_queued_is_sent_before_leaving_and_then_goodbye(
    autojump_clock: MockClock, hub: FakeHub
):
    async with hub.client() as (client, session):
        client.send_nowait(wire.Pushed(msg_ids=(ID,)))
    assert await session.receive_all() == [wire.Pushed(msg_ids=(ID,)), wire.Bye(reason="closed")]
    with pytest.raises(trio.ClosedResourceError):
        await client.request(send("1"))


async def test_leaving_takes_no_longer_than_the_hub_needs(autojump_clock: MockClock, hub: FakeHub):
    async with hub.client() as (client, session):

        async def be_slow() -> None:
            while not isinstance(await session.receive(), wire.Bye):
                pass
            await trio.sleep(0.2)
            await session.close()

        hub.nursery.start_soon(be_slow)
        client.send_nowait(wire.Pushed(msg_ids=(ID,)))
    assert trio.current_time() == pytest.approx(0.2)
    await trio.sleep(100)
    assert len(hub.attempts) == 1


async def test_a_hub_that_does_not_read_delays_leaving_by_half_a_second_only(
    autojump_clock: MockClock, hub: FakeHub
):
    hub.pair = trio.testing.lockstep_stream_pair
    async with hub.client():
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(0.5)


async def test_a_cancelled_block_is_left_at_once(autojump_clock: MockClock, hub: FakeHub):
    hub.pair = trio.testing.lockstep_stream_pair
    with trio.CancelScope() as scope:
        async with hub.client() as (client, _):
            client.send_nowait(wire.Pushed(msg_ids=(ID,)))
            scope.cancel()
            await trio.sleep_forever()
    assert trio.current_time() == 0


async def test_a_handler_that_runs_while_the_block_is_left_is_cancelled(
    autojump_clock: MockClock, hub: FakeHub
):
    async def ask(_frame: wire.Push) -> None:
        await client.request(wire.Peers(req_id=0))

    async with hub.client(on_push=ask) as (client, session):
        await session.send(push(1))
        await trio.sleep(1)
        await session.send(push(2))
    assert trio.current_time() == 1.5


async def test_leaving_while_there_is_no_connection_is_quick(autojump_clock: MockClock, hub: FakeHub):
    async with hub.client() as (_, session):
        hub.down = OSError("x")
        await session.close()
        await trio.sleep(20)
        began = trio.current_time()
    assert trio.current_time() == began


async def test_what_the_block_raises_leaves_it_as_it_was_raised(autojump_clock: MockClock, hub: FakeHub):
    cause = KeyError("cause")
    with pytest.raises(ValueError, match="mine") as caught:
        async with hub.client():
            raise ValueError("mine") from cause
    assert caught.value.__cause__ is cause
    with pytest.raises(ExceptionGroup, match="mine") as group:
        async with hub.client():
            raise ExceptionGroup("mine", [ValueError(), KeyError()])
    assert len(group.value.exceptions) == 2


async def test_a_hub_that_reads_nothing_for_long_is_left(autojump_clock: MockClock, hub: FakeHub):
    hub.pair = trio.testing.lockstep_stream_pair
    async with open_hub_client(HELLO, connect=hub.connect) as client:
        await hub.session()
        hub.pair = trio.testing.memory_stream_pair
        for _ in range(40):
            client.send_nowait(wire.Pushed(msg_ids=(ID,) * 32_000))
        await hub.session()
        assert len(hub.attempts) == 2
