"""What an adapter answers to a canary: carriers that hang, raise or talk too much, bells that cannot ring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ecorelay import wire
from ecorelay_adapters import canaries
from ecorelay_adapters.bell import Bell
from ecorelay_adapters.canaries import PATIENCE_S
from ecorelay_adapters.carriers import Canary, ChannelCarrier
from tests.adapters.test_session import PUSH, FakeCarrier, FakeServer, desk

ASKED = wire.Canary(id=4)
RING = wire.Canary(id=4, ring=True)


class Scripted(FakeCarrier):
    """Does with a canary what a test wants."""

    def __init__(self, found: Canary | Exception | float) -> None:
        super().__init__()
        self.found = found

    async def canary(self) -> Canary:
        if isinstance(self.found, Exception):
            raise self.found
        if isinstance(self.found, Canary):
            await trio.lowlevel.checkpoint()
            return self.found
        await trio.sleep(self.found)
        return Canary(True, "session", "late and well")


async def test_a_carrier_that_hangs_is_given_up_in_time(autojump_clock: MockClock):
    answer = await canaries.answer(ASKED, Scripted(1000.0), None)
    assert answer == wire.CanaryAnswer(
        id=4,
        ok=False,
        stage="adapter",
        says="its carrier fake did not answer within 4 s",
        took_ms=round(PATIENCE_S * 1000),
    )


async def test_a_carrier_that_raises_is_said_to_have_failed_and_no_more():
    answer = await canaries.answer(ASKED, Scripted(ValueError("secret")), None)
    assert (answer.ok, answer.stage, answer.says) == (
        False,
        "adapter",
        "its carrier fake failed: ValueError",
    )


async def test_what_a_carrier_says_fits_into_the_frame():
    answer = await canaries.answer(ASKED, Scripted(Canary(False, "carrier", "x" * 10_000)), None)
    assert wire.decode_from_session(wire.encode(answer)) == answer
    assert len(answer.says) == 256


async def test_a_carrier_that_answers_is_passed_on_with_its_time(autojump_clock: MockClock):
    answer = await canaries.answer(ASKED, Scripted(1.5), None)
    assert answer == wire.CanaryAnswer(id=4, ok=True, stage="session", says="late and well", took_ms=1500)


async def test_a_carrier_that_can_show_nothing_says_so():
    server: Any = FakeServer()
    answer = await canaries.answer(ASKED, ChannelCarrier(server.notify, server.initialized), None)
    assert (answer.ok, answer.stage) == (None, "adapter")
    assert answer.says == "the carrier channel shows nothing without a turn of the model"
    assert server.told == []


async def test_a_session_without_a_carrier_says_so():
    answer = await canaries.answer(RING, None, None)
    assert (answer.ok, answer.stage, "relay_inbox" in answer.says) == (None, "adapter", True)


async def test_the_bell_is_rung_only_when_it_wakes_nobody(tmp_path: Path):
    bell = Bell(tmp_path / "bells" / "70-7")
    bell.hang()
    answer = await canaries.answer(ASKED, None, bell)
    assert (answer.ok, "mail waits" in answer.says) == (None, True)
    assert not (tmp_path / "bells" / "70-7").exists()
    answer = await canaries.answer(RING, None, bell)
    assert (answer.ok, "the bell was rung" in answer.says) == (None, True)
    assert (tmp_path / "bells" / "70-7").exists()


async def test_a_bell_that_cannot_be_rung_is_said(tmp_path: Path):
    (tmp_path / "bells").write_text("in the way")
    answer = await canaries.answer(RING, None, Bell(tmp_path / "bells" / "70-7"))
    assert (answer.ok, answer.stage) == (False, "adapter")
    assert answer.says.startswith("the bell cannot be rung")


# --- a session -------------------------------------------------------------------------------------------


async def test_a_session_answers_canaries_and_its_hello_says_so(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with desk(tmp_path, monkeypatch, carrier=Scripted(0.5)) as d:
        there = await d.opened()
        assert there.hello is not None
        assert there.hello.canary
        await there.send(wire.Canary(id=1))
        await there.send(wire.Canary(id=2))
        answers = [await there.receive(), await there.receive()]
        assert [(each.id, each.ok, each.took_ms) for each in answers] == [(1, True, 500), (2, True, 500)]


async def test_mail_that_the_carrier_hangs_on_does_not_keep_a_canary_from_telling_so(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Stuck(Scripted):
        async def push(self, mail: Any) -> bool:
            await trio.sleep_forever()
            raise AssertionError

    async with desk(tmp_path, monkeypatch, carrier=Stuck(1000.0)) as d:
        there = await d.opened()
        await there.send(PUSH)
        await there.send(wire.Canary(id=1))
        answer = await there.receive()
        assert (answer.ok, answer.stage, answer.took_ms) == (False, "adapter", PATIENCE_S * 1000)


async def test_a_canary_of_a_connection_that_is_lost_is_answered_on_no_other(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with desk(tmp_path, monkeypatch, carrier=Scripted(2.0)) as d:
        there = await d.opened()
        await there.send(wire.Canary(id=1))
        await there.send(wire.Canary(id=2))  # waits behind the first, and is dropped
        await trio.sleep(0.1)
        await there.stream.aclose()
        again = await d.hub.session()
        # The first was under way: what it found is of no interest there, but does no harm.
        assert (await again.receive()).id == 1
        assert await again.quiet(5)
