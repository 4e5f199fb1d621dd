"""Requests of a client on a connection that holds."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from ecorelay import wire
from ecorelay.client import OPEN_BYTES_MAX
from ecorelay.errors import RelayError
from ecorelay.names import is_id
from ecorelay.requests import ANSWERS, RequestError
from tests.helpers.fake_hub import WELCOME, Asked, FakeHub, answer, send, sent
from tests.wire.examples import EXAMPLES, ID, ID2
from tests.wire.test_frames import all_frame_types


@pytest.fixture
def hub(nursery: trio.Nursery) -> FakeHub:
    return FakeHub(nursery)


async def test_a_request_gets_its_answer(autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send("hi"))
        frame = await session.receive()
        assert (frame.to, frame.text, frame.resend) == ("bob", "hi", False)
        await session.send(sent(frame))
        assert await asked.wait() == sent(frame)


def test_every_request_has_a_type_of_answer():
    kinds = {kind for kind in all_frame_types(wire.Request) if not kind.__subclasses__()}
    assert set(ANSWERS) == kinds
    assert set(ANSWERS.values()) == set(all_frame_types(wire.Result)) - {wire.Failed}


async def test_every_request_may_be_answered_by_its_kind_of_answer(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    examples = {type(example): example for example in EXAMPLES}
    async with hub.client() as (client, session):
        for kind, result in ANSWERS.items():
            request, reply = examples[kind], examples[result]
            assert isinstance(request, wire.Request)
            assert isinstance(reply, wire.Result)
            asked = Asked(nursery, client, request)
            frame = await session.receive()
            assert isinstance(frame, kind)
            await session.send(answer(frame, reply))
            assert await asked.wait() == answer(frame, reply)


async def test_many_requests_are_open_at_once_and_answered_in_any_order(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = {str(number): Asked(nursery, client, send(str(number))) for number in range(100)}
        frames = [await session.receive() for _ in asked]
        assert len({frame.req_id for frame in frames}) == 100
        assert len({frame.op_id for frame in frames}) == 100
        for frame in sorted(frames, key=lambda frame: hash(frame.op_id)):
            await session.send(sent(frame))
        for frame in frames:
            assert (await asked[frame.text].wait()).msg_id == frame.op_id


async def test_requests_of_one_moment_leave_in_one_send(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        for number in range(20):
            Asked(nursery, client, send(str(number)), patience=1)
        assert len(await session.read()) == 20
        await trio.sleep(2)


async def test_an_op_id_is_made_where_none_is_given_and_kept_where_one_is(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        Asked(nursery, client, send("hi"), patience=1)
        assert is_id((await session.receive()).op_id)
        Asked(nursery, client, send("hi", op_id=ID), patience=1)
        assert (await session.receive()).op_id == ID
        await trio.sleep(2)


async def test_ids_come_from_the_clock_and_randomness_that_were_given(
    autojump_clock: MockClock, hub: FakeHub
):
    async with hub.client(now_ms=lambda: 1, random_bits=lambda bits: 2) as (client, _):
        assert client.new_id() == "00000000010000000000000002"


async def test_a_failed_request_raises_with_code_message_and_unread(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send("hi"))
        frame = await session.receive()
        await session.send(wire.Failed(req_id=frame.req_id, code="peer_not_found", message="who?", unread=3))
        with pytest.raises(RequestError) as caught:
            await asked.wait()
        assert (caught.value.code, caught.value.message, caught.value.unread) == ("peer_not_found", "who?", 3)


async def test_an_answer_of_another_kind_is_unexpected(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send("hi"))
        frame = await session.receive()
        await session.send(wire.Done(req_id=frame.req_id))
        with pytest.raises(RelayError, match="unexpected: the hub answered with Done"):
            await asked.wait()


async def test_an_answer_that_makes_no_sense_reaches_its_caller_and_others_go_on(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked, other = Asked(nursery, client, send("a")), Asked(nursery, client, send("b"))
        frames = {(frame := await session.receive()).text: frame for _ in "ab"}
        await session.stream.send_all(b'{"type":"sent","req_id":%d,"msg_id":5}\n' % frames["a"].req_id)
        await session.stream.send_all(b'garbage\n{"type":"later"}\n{"type":"sent","req_id":999}\n')
        with pytest.raises(RelayError, match="unexpected: the hub's answer makes no sense: Expected `str`"):
            await asked.wait()
        await session.send(sent(frames["b"]))
        assert await other.wait() == sent(frames["b"])


async def test_a_request_no_frame_can_hold_is_refused_here_and_hurts_nobody(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        with pytest.raises(
            RelayError, match=r"too_large: .* 4,194,304 bytes: send the text in several messages"
        ):
            await client.request(send("\x00" * 700_000))
        asked = Asked(nursery, client, send("hi"))
        frame = await session.receive()
        await session.send(sent(frame))
        await asked.wait()


async def test_answers_nobody_waits_for_are_passed_over(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        await session.send(wire.Done(req_id=77), wire.Sent(req_id=78, msg_id=ID), WELCOME)
        asked = Asked(nursery, client, send("hi"))
        frame = await session.receive()
        await session.send(sent(frame), sent(frame))
        assert await asked.wait() == sent(frame)


# --- patience ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "patience", "seconds", "words"),
    [
        (
            send("hi", op_id=ID),
            None,
            30,
            f"did not answer within 30 s; it may have been stored, as {ID}: ask the recipient before",
        ),
        (
            wire.Rename(req_id=0, op_id=ID, new_name="x"),
            5,
            5,
            "within 5 s; it may have been done: look before",
        ),
        (wire.Peers(req_id=0), 5, 5, "the request changed nothing: try again"),
        (wire.Inbox(req_id=0), None, 30, "nothing was marked as read: try again"),
        (wire.Inbox(req_id=0, wait=100), None, 130, "within 130 s; nothing was marked as read"),
        (wire.Inbox(req_id=0, wait=600), 9_999, 1_200, "nothing was marked as read"),
        (wire.GroupHistory(req_id=0, group="g"), 1, 1, "nothing was marked as read"),
        (send("hi", op_id=ID), 9_999, 600, "it may have been stored"),
    ],
)
async def test_a_request_without_an_answer_is_given_up_with_what_is_known(
    autojump_clock: MockClock,
    hub: FakeHub,
    frame: wire.Request,
    patience: float | None,
    seconds: float,
    words: str,
):
    async with hub.client() as (client, _):
        began = trio.current_time()
        with pytest.raises(RelayError) as caught:
            await client.request(frame, patience)
        assert trio.current_time() - began == pytest.approx(seconds)
        assert caught.value.code == "timeout"
        assert words in caught.value.message


async def test_a_late_answer_is_passed_over(autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send("hi"), patience=1)
        frame = await session.receive()
        with pytest.raises(RelayError):
            await asked.wait()
        await session.send(sent(frame))
        assert await session.quiet()


# --- cancelled requests: no mail stays leased to nobody -----------------------------------------------------


PAGE = wire.InboxPage(
    req_id=0, lease=7, messages=(wire.Mail(msg_id=ID, kind="message", sender="b", ts=1, text="t"),)
)
HISTORY = wire.GroupPage(
    req_id=0, group="g", messages=(wire.GroupEntry(seq=1, msg_id=ID, sender="b", text="t", ts=1),), upto=1
)


@pytest.mark.guarantee("cancel-never-confirms")
@pytest.mark.parametrize("way", ["cancelled", "out of patience"])
async def test_a_read_that_is_given_up_is_ended_at_the_hub_and_its_page_given_back(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery, way: str
):
    async with hub.client() as (client, session):
        patience = 5 if way == "out of patience" else None
        asked = Asked(nursery, client, wire.Inbox(req_id=0, wait=60), patience=patience)
        frame = await session.receive()
        if way == "cancelled":
            asked.scope.cancel()
        assert await session.receive() == wire.Cancel(req_id=frame.req_id)
        # The page had left the hub already.
        await session.send(answer(frame, PAGE))
        release = await session.receive()
        assert release == wire.Release(req_id=release.req_id, lease=7)
        assert release.req_id != frame.req_id
        await session.send(wire.Done(req_id=release.req_id))
        assert await session.quiet()


@pytest.mark.parametrize(
    "reply", [wire.InboxPage(req_id=0), wire.Failed(req_id=0, code="timeout", message="")]
)
async def test_a_cancelled_read_answered_without_a_lease_needs_nothing_more(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery, reply: wire.Result
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, wire.Inbox(req_id=0, wait=60))
        frame = await session.receive()
        asked.scope.cancel()
        assert await session.receive() == wire.Cancel(req_id=frame.req_id)
        await session.send(answer(frame, reply))
        assert await session.quiet()


@pytest.mark.guarantee("cancel-never-confirms")
async def test_a_cancelled_read_of_a_group_gives_its_page_back(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, wire.GroupHistory(req_id=0, group="g@hub"))
        frame = await session.receive()
        asked.scope.cancel()
        await asked.ended.wait()
        await session.send(answer(frame, HISTORY))
        release = await session.receive()
        assert release == wire.GroupRelease(req_id=release.req_id, group="g@hub")


@pytest.mark.guarantee("cancel-never-confirms")
@pytest.mark.parametrize(
    ("request_", "page"), [(wire.Inbox(req_id=0), PAGE), (wire.GroupHistory(req_id=0, group="g"), HISTORY)]
)
async def test_a_page_that_comes_in_the_moment_of_the_cancellation_is_given_back(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery, request_: wire.Request, page: wire.Result
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, request_)
        frame = await session.receive()
        # Cancelled, and before its task runs again the answer is read.
        asked.scope.cancel()
        client.on_frame(answer(frame, page))  # type: ignore[arg-type]
        await asked.ended.wait()
        assert asked.result is None
        release = await session.receive()
        assert isinstance(release, wire.Release | wire.GroupRelease)


@pytest.mark.parametrize("end", ["answer", "lost connection"])
async def test_the_next_read_waits_for_the_page_of_one_that_was_given_up(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery, end: str
):
    """Else it would skip that page's mail, and show it out of order afterwards."""
    async with hub.client() as (client, session):
        first = Asked(nursery, client, wire.Inbox(req_id=0, wait=60))
        frame = await session.receive()
        first.scope.cancel()
        await session.receive()
        second = Asked(nursery, client, wire.Inbox(req_id=0))
        third = Asked(nursery, client, wire.Peers(req_id=0))
        assert isinstance(await session.receive(), wire.Peers)
        assert await session.quiet()
        if end == "answer":
            await session.send(answer(frame, PAGE))
            assert isinstance(await session.receive(), wire.Release)
            assert isinstance(await session.receive(), wire.Inbox)
        else:
            await session.close()
            again = await hub.session()
            assert {type(await again.receive()) for _ in range(2)} == {wire.Inbox, wire.Peers}
        for each in (second, third):
            each.scope.cancel()


async def test_an_answer_read_before_the_cancellation_is_the_callers(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, wire.Inbox(req_id=0))
        frame = await session.receive()
        client.on_frame(answer(frame, PAGE))  # type: ignore[arg-type]
        asked.scope.cancel()
        assert await asked.wait() == answer(frame, PAGE)
        assert await session.quiet()


async def test_a_send_that_is_cancelled_is_not_cancelled_at_the_hub(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send("hi"))
        await session.receive()
        asked.scope.cancel()
        assert await session.quiet()


async def test_a_request_of_a_task_already_cancelled_is_not_sent(autojump_clock: MockClock, hub: FakeHub):
    async with hub.client() as (client, session):
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.request(send("hi"))
        assert await session.quiet()


# --- bounded memory -----------------------------------------------------------------------------------------


async def test_requests_wait_in_order_while_too_much_is_unanswered(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    big = "x" * 3_000_000
    async with hub.client() as (client, session):
        asked = []
        for number in range(8):
            asked.append(Asked(nursery, client, send(f"{number}{big}")))
            await trio.sleep(0.1)
        frames = [await session.receive() for _ in range(OPEN_BYTES_MAX // len(big))]
        assert [frame.text[0] for frame in frames] == list("01234")
        assert await session.quiet()
        # A small one does not overtake them.
        small = Asked(nursery, client, send("small"))
        assert await session.quiet()
        asked[6].scope.cancel()
        await session.send(sent(frames[3]))
        assert (await session.receive()).text[0] == "5"
        assert await session.quiet()
        await session.send(sent(frames[0]))
        assert [(await session.receive()).text[0] for _ in range(2)] == ["7", "s"]
        for each in [*asked, small]:
            each.scope.cancel()


async def test_a_request_that_never_had_room_says_that_nothing_was_sent(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, _):
        for _ in range(5):
            Asked(nursery, client, send("x" * 3_500_000), patience=60)
        await trio.sleep(1)
        with pytest.raises(RelayError, match=r"timeout: the hub was too busy for 5 s; nothing was sent"):
            await client.request(send("x" * 3_500_000), 5)
        await trio.sleep(100)


async def test_the_longest_possible_request_passes(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    async with hub.client() as (client, session):
        asked = Asked(nursery, client, send('"' * wire.TEXT_MAX, op_id=ID2))
        frame = await session.receive()
        assert len(frame.text) == wire.TEXT_MAX
        await session.send(sent(frame))
        await asked.wait()


async def test_what_happens_is_handed_to_who_watches_in_its_order(
    autojump_clock: MockClock, hub: FakeHub, nursery: trio.Nursery
):
    told: list[wire.Activity] = []
    happened = [wire.Activity(what="online", ts=number, peer="bob") for number in (1, 2, 3)]
    async with hub.client(on_activity=told.append) as (client, session):
        asked = Asked(nursery, client, wire.Watch(req_id=0))
        frame = await session.receive()
        await session.send(wire.Done(req_id=frame.req_id), *happened)
        await asked.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert told == happened
