"""Who does not read costs the hub little, however much waits for it; the mail is safe on disk."""

from __future__ import annotations

import pytest
import trio

from ecorelay import wire
from ecorelay.wire import TEXT_MAX
from tests.e2e.stage import Machine
from tests.hostile.conftest import UNGUARDED
from tests.hostile.siege import CANARY, Raw, Siege, needs_proc, send, siege

pytestmark = needs_proc
TEXT = (CANARY + " ").ljust(TEXT_MAX, "x")
WAITING = 100 * 1024 * 1024
COUNT = WAITING // TEXT_MAX
ROOM = {"ECORELAY_LIMITS_MAILBOX_BYTES": str(2 * WAITING)}


@pytest.fixture
def roomy(tmp_path):
    """A machine whose mailboxes hold what waits here."""
    machine = Machine(tmp_path, **UNGUARDED, **ROOM)
    yield machine
    machine.close()


async def pour(sender: Raw, to: str) -> list[str]:
    """Send what is to wait, as fast as the hub takes it; the ids, all of them acknowledged."""
    frames = [send(to, TEXT, number) for number in range(COUNT)]

    async def say() -> None:
        for frame in frames:
            await sender.say(frame)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        answers = [await sender.hear() for _ in frames]
    assert all(isinstance(answer, wire.Sent) for answer in answers)
    assert {answer.msg_id for answer in answers} == {frame.op_id for frame in frames}
    return [frame.op_id for frame in frames]


async def read_everything(attack: Siege, name: str) -> list[str]:
    """The ids of all that waits, page by page, as a session that came back reads it."""
    found: list[str] = []
    async with attack.session(name) as reader:
        while True:
            page = await reader.ask(wire.Inbox(req_id=1, limit=100))
            if not page.messages:
                return found
            assert all(mail.text == TEXT for mail in page.messages)
            found += [mail.msg_id for mail in page.messages]
            await reader.ask(wire.Confirm(req_id=2, lease=page.lease, msg_ids=tuple(found[-100:])))


@pytest.mark.guarantee("stalled-reader-bounded")
async def test_100_mb_for_a_session_that_reads_nothing_wait_on_disk(roomy: Machine):
    async with siege(roomy) as attack:
        victim = attack.name("victim")
        async with attack.session(victim, push=True) as stalled, attack.session(attack.name("eve")) as eve:
            async with attack.bounded():
                sent = await pour(eve, victim)
            # It is still a session: what was pushed and fits its queue is there for it to read.
            push = await stalled.hear()
            assert (type(push), push.msg_id) == (wire.Push, sent[0])
        async with attack.bounded():
            assert await read_everything(attack, victim) == sent


@pytest.mark.guarantee("stalled-reader-bounded")
async def test_huge_pages_asked_for_by_the_hundred_are_made_as_they_are_read(roomy: Machine):
    wide = CANARY + "漢" * ((TEXT_MAX - 100) // 3)
    async with siege(roomy) as attack:
        victim = attack.name("victim")
        async with attack.session(victim) as greedy:
            frames = [send(victim, wide, number) for number in range(10)]
            for frame in frames:
                assert isinstance(await greedy.ask(frame), wire.Sent)
            again = wire.Inbox(req_id=1, since_id=frames[0].op_id, limit=100, budget=wire.LINE_MAX // 8)
            async with attack.bounded():
                await greedy.say(*[again] * 100)
                # All answers together would be more than 100 MB.
                await trio.sleep(1)
                for _ in range(100):
                    page = await greedy.hear()
                    assert isinstance(page, wire.InboxPage)
                    assert page.messages[0].text == wide


async def test_who_asks_by_the_thousand_and_reads_no_answer_is_not_read_either(roomy: Machine):
    async with siege(roomy) as attack, attack.session(attack.name("greedy")) as greedy:
        asked = b"".join(wire.encode(wire.Peers(req_id=number)) for number in range(60_000))
        async with attack.bounded():
            with trio.move_on_after(1.0) as gave_up:
                await greedy.stream.send_all(asked)
            assert gave_up.cancelled_caught
        # When it begins to read, it is served.
        assert isinstance(await greedy.hear(), wire.PeerList)
