"""Random cancellations, answers and cuts, by seed: no lease is forgotten and nothing is done twice."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from ecorelay import wire
from ecorelay.client import HubClient
from ecorelay.errors import RelayError
from tests.helpers.fake_hub import FakeHub, FakeSession, sent
from tests.wire.examples import ID

SECONDS = 15.0
MAIL = wire.Mail(msg_id=ID, kind="message", sender="bob", ts=1, text="x")
LINE = wire.GroupEntry(seq=1, msg_id=ID, sender="bob", text="x", ts=1)


class Scene:
    """A hub that answers late or never, on connections that are cut, and callers that lose patience."""

    def __init__(self, seed: int, nursery: trio.Nursery) -> None:
        self.random = random.Random(seed)
        self.hub = FakeHub(nursery)
        self.next_lease = 1
        self.groups = 0
        self.leased: set[object] = set()
        """Open on the present connection: numbers of pages, names of groups."""
        self.shown: set[object] = set()
        """What a caller got to see."""
        self.done: Counter[str] = Counter()
        self.first_sent: list[str] = []

    # --- the hub's side ----------------------------------------------------------------------------------

    async def serve(self) -> None:
        while True:
            session = await self.hub.session()
            self.leased.clear()
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(self.random.choice([0.05, 1, 5, 100])):
                    await self.listen(session, nursery)
                nursery.cancel_scope.cancel()
            await session.close()

    async def listen(self, session: FakeSession, nursery: trio.Nursery) -> None:
        while (frame := await session.receive()) is not None:
            match frame:
                case wire.Send():
                    if not frame.resend:
                        self.first_sent.append(frame.op_id)
                    nursery.start_soon(self.answer, session, frame)
                case wire.Inbox() | wire.GroupHistory():
                    nursery.start_soon(self.answer, session, frame)
                case wire.Release():
                    self.leased.remove(frame.lease)
                case wire.GroupRelease():
                    self.leased.remove(frame.group)

    async def answer(self, session: FakeSession, frame: wire.Request) -> None:
        await trio.sleep(self.random.choice([0, 0.001, 0.1, 1]))
        match frame:
            case wire.Send():
                self.done[frame.op_id] += 1
                answer: wire.Result = sent(frame)
            case wire.GroupHistory():
                self.leased.add(frame.group)
                answer = wire.GroupPage(req_id=frame.req_id, group=frame.group, messages=(LINE,), upto=1)
            case _:
                self.leased.add(self.next_lease)
                answer = wire.InboxPage(req_id=frame.req_id, lease=self.next_lease, messages=(MAIL,))
                self.next_lease += 1
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await session.send(answer)

    # --- the client's side ---------------------------------------------------------------------------------

    async def read(self, client: HubClient, number: int) -> None:
        while True:
            with trio.move_on_after(self.random.choice([0.001, 0.1, 0.5, 10])):
                try:
                    if number % 2:
                        self.groups += 1
                        group = f"g{self.groups}"
                        await client.request(wire.GroupHistory(req_id=0, group=group), 5)
                        self.shown.add(group)
                    else:
                        page = await client.request(wire.Inbox(req_id=0, wait=1), 5)
                        self.shown.add(page.lease)
                except RelayError:
                    pass
            await trio.sleep(self.random.random() * 0.1)

    async def write(self, client: HubClient) -> None:
        while True:
            await client.request(wire.Send(req_id=0, op_id="", to="bob", text="x"), 600)
            await trio.sleep(self.random.random())

    async def play(self) -> None:
        self.hub.nursery.start_soon(self.serve)
        async with self.hub.client() as (client, session):
            self.hub._put.send_nowait(session)  # for serve()
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(self.read, client, number)
                for _ in range(3):
                    nursery.start_soon(self.write, client)
                await trio.sleep(SECONDS)
                nursery.cancel_scope.cancel()
            await trio.sleep(10)
            # What the hub still holds for this connection was shown to somebody.
            assert self.leased <= self.shown
            assert sum(self.done.values()) >= len(self.done) > 5
            assert len(self.first_sent) == len(set(self.first_sent))
            self.hub.nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(20))
async def test_no_page_stays_leased_to_nobody(autojump_clock: MockClock, seed: int):
    async with trio.open_nursery() as nursery:
        await Scene(seed, nursery).play()
