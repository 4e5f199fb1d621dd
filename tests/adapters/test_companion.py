"""The carrier of a companion that comes late, goes, refuses, says nothing, or was given mail before us."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from trio.testing import MockClock

from ecorelay_adapters import companion
from ecorelay_adapters.batches import BATCH_CHARACTERS, BATCH_MAX, GATHER_S, label, labelled
from ecorelay_adapters.companion import ANSWER_S, HOLD_S, HOLD_UNKNOWN_S, CompanionCarrier
from ecorelay_adapters.tool_calls import ToolCall
from tests.helpers.carrying import IDS, Heard, mail


class FakeCompanion:
    """Keeps what it is told; hands over at once unless it `refuses` or `sleeps`."""

    def __init__(self, carrier: CompanionCarrier) -> None:
        self.carrier = carrier
        self.given: list[dict[str, Any]] = []
        self.others: list[tuple[str, dict[str, Any]]] = []
        self.refuses = ""
        self.sleeps = False
        self.broken = False
        self.at: list[float] = []

    async def send(self, method: str, params: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise trio.BrokenResourceError
        assert params["session"] == "s-1"
        if method != "ecorelay/hand_over":
            self.others.append((method, params))
            if method == "ecorelay/canary" and not self.sleeps:
                self.says("canary_answer", id=params["id"], ok=not self.refuses, says=self.refuses or "idle")
            return
        self.given.append(params)
        self.at.append(trio.current_time())
        if self.refuses:
            self.says("refused", id=params["id"], why=self.refuses)
        elif not self.sleeps:
            self.says("handed_over", id=params["id"])

    def says(self, what: str, **params: Any) -> None:
        self.carrier.told(what, {"session": "s-1", **params})

    async def comes(self, **params: Any) -> None:
        await self.carrier.connected(self.send, {"session": "s-1", **params})

    def goes(self) -> None:
        self.carrier.disconnected(self.send)

    @property
    def batches(self) -> list[list[str]]:
        return [list(labelled(given["id"])) for given in self.given]


class Bench:
    """A carrier that runs, and its companion."""

    def __init__(self) -> None:
        self.carrier = CompanionCarrier("plugin", "s-1", now_ms=lambda: 0, word=lambda: "kestrel")
        self.companion = FakeCompanion(self.carrier)
        self.heard = Heard()

    async def push(self, *numbers: int, urgent: bool = False) -> None:
        for n in numbers:
            await self.carrier.push(mail(n, urgent=urgent))


@asynccontextmanager
async def bench(*, comes: bool = True) -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery:
        made = Bench()
        nursery.start_soon(made.carrier.run, made.heard)
        await trio.testing.wait_all_tasks_blocked()
        if comes:
            await made.companion.comes()
        with trio.fail_after(100_000):
            yield made
        nursery.cancel_scope.cancel()


# --- nobody there ----------------------------------------------------------------------------------------


async def test_mail_for_a_companion_that_never_comes_is_left_to_the_inbox(autojump_clock: MockClock):
    async with bench(comes=False) as b:
        assert await b.carrier.probe()
        await b.push(0, 1)
        await trio.sleep(HOLD_UNKNOWN_S - 0.1)
        assert b.heard.refused == []
        await trio.sleep(0.2)
        assert b.heard.refused == IDS[:2]
        await b.companion.comes()
        await trio.sleep(1)
        assert b.companion.given == []


async def test_mail_that_waits_a_moment_is_given_to_the_companion_that_comes(autojump_clock: MockClock):
    async with bench(comes=False) as b:
        await b.push(0, 1)
        await trio.sleep(HOLD_UNKNOWN_S - 0.5)
        await b.companion.comes()
        await trio.sleep(0.1)
        assert b.heard.accepted == IDS[:2]
        assert b.companion.batches == [IDS[:2]]


async def test_one_that_was_there_is_waited_for_longer(autojump_clock: MockClock):
    async with bench() as b:
        b.companion.goes()
        await b.push(0)
        await trio.sleep(HOLD_S - 0.5)
        assert b.heard.refused == []
        await b.push(1)
        await trio.sleep(1)
        assert b.heard.refused == [IDS[0]]
        await b.companion.comes()
        await trio.sleep(1)
        assert b.heard.accepted == [IDS[1]]


async def test_who_reads_the_inbox_meanwhile_is_shown_there_what_waits(autojump_clock: MockClock):
    async with bench(comes=False) as b:
        await b.push(0)
        assert b.carrier.heard(ToolCall("relay_peers", b"{}", {})) is None
        assert b.heard.refused == []
        assert b.carrier.heard(ToolCall("relay_inbox", b"{}", {})) is None
        assert b.heard.refused == [IDS[0]]


# --- handing over ----------------------------------------------------------------------------------------


async def test_the_first_goes_at_once_and_what_comes_within_a_moment_goes_together(
    autojump_clock: MockClock,
):
    async with bench() as b:
        began = trio.current_time()
        await b.push(0)
        await trio.sleep(0.05)
        await b.push(1)
        await trio.sleep(0.1)
        await b.push(2, 2)
        await trio.sleep(1)
        await b.push(3)
        await trio.sleep(1)
        assert b.companion.batches == [[IDS[0]], [IDS[1], IDS[2]], [IDS[3]]]
        assert [round(at - began, 2) for at in b.companion.at] == [0, GATHER_S, 1.15]
        assert b.heard.accepted == IDS[:4]
        text = b.companion.given[1]["text"]
        assert text.index("words 1") < text.index("words 2")
        assert text.count("not of your user ---") == 2
        assert [given["urgent"] for given in b.companion.given] == [False] * 3


async def test_batches_are_bounded(autojump_clock: MockClock):
    async with bench(comes=False) as b:
        await b.push(*range(BATCH_MAX + 3))
        await b.carrier.push(mail(50, "x" * BATCH_CHARACTERS))
        await b.companion.comes()
        await trio.sleep(2)
        assert [len(batch) for batch in b.companion.batches] == [BATCH_MAX, 3, 1]


async def test_what_is_urgent_goes_at_once_and_alone_while_a_turn_runs(autojump_clock: MockClock):
    async with bench() as b:
        b.companion.says("status", busy=True)
        await b.push(0)
        await trio.sleep(0.1)
        await b.push(1)
        await b.push(2, urgent=True)
        await trio.sleep(0.05)
        assert b.companion.batches == [[IDS[0]], [IDS[2]]]
        assert [given["urgent"] for given in b.companion.given] == [False, True]
        await trio.sleep(1)
        assert b.companion.batches[2:] == [[IDS[1]]]
        b.companion.says("status", busy=False)
        await b.push(3)
        await trio.sleep(0.1)
        await b.push(4)
        await b.push(5, urgent=True)
        await trio.sleep(1)
        assert b.companion.batches[3:] == [[IDS[3]], [IDS[4], IDS[5]]]
        assert b.companion.given[-1]["urgent"]


async def test_what_the_assistant_refuses_is_left_to_the_inbox(autojump_clock: MockClock, capfd):
    async with bench() as b:
        b.companion.refuses = "the session is locked"
        await b.push(0)
        await trio.sleep(0.1)
        b.companion.refuses = ""
        await b.push(1)
        await trio.sleep(1)
        assert (b.heard.refused, b.heard.accepted) == ([IDS[0]], [IDS[1]])
    assert "plugin does not take mail: the session is locked" in capfd.readouterr().err


async def test_a_companion_that_never_answers_is_not_waited_for_for_ever(autojump_clock: MockClock):
    async with bench() as b:
        b.companion.sleeps = True
        await b.push(0)
        await trio.sleep(ANSWER_S + 0.1)
        assert b.heard.refused == [IDS[0]]


# --- lost links ------------------------------------------------------------------------------------------


async def test_a_link_cut_before_the_answer_gives_nothing_twice(autojump_clock: MockClock):
    async with bench() as b:
        b.companion.sleeps = True
        await b.push(0, 1)
        await trio.sleep(0.1)
        [given] = b.companion.given
        b.companion.goes()
        await b.push(2)
        await trio.sleep(0.1)
        b.companion.sleeps = False
        await b.companion.comes(handed_over=[given["id"]], seen=[given["id"]])
        await trio.sleep(1)
        assert [each for batch in b.companion.batches for each in batch] == IDS[:3]
        assert b.heard.accepted == IDS[:3]
        assert b.heard.read == IDS[:2]
        assert b.heard.refused == []


async def test_a_link_cut_before_anything_arrived_gives_it_again(autojump_clock: MockClock):
    async with bench() as b:
        b.companion.broken = True
        await b.push(0)
        await trio.sleep(1)
        assert b.companion.given == []
        b.companion.broken = False
        await b.companion.comes()
        await trio.sleep(1)
        assert b.companion.batches == [[IDS[0]]]
        assert b.heard.accepted == [IDS[0]]


async def test_what_a_process_before_us_gave_is_not_given_again(autojump_clock: MockClock):
    async with bench(comes=False) as b:
        await b.companion.comes(
            handed_over=[label(IDS[:2]), label(IDS[2:4]), "another's", 7], seen=[label(IDS[:2])]
        )
        await trio.sleep(1)
        assert b.heard.read == []  # the hub did not ask
        await b.push(0, 1, 2, 9)
        await trio.sleep(1)
        assert b.companion.batches == [[IDS[9]]]
        assert b.heard.accepted == [*IDS[:3], IDS[9]]
        assert b.heard.read == IDS[:2]
        b.companion.says("seen", id=label(IDS[2:4]))
        await trio.sleep(1)
        assert b.heard.read == IDS[:4]


async def test_what_was_seen_while_the_link_was_cut_is_told_when_it_is_back(autojump_clock: MockClock):
    async with bench() as b:
        await b.push(0)
        await trio.sleep(0.1)
        b.companion.goes()
        await trio.sleep(1)
        await b.companion.comes(handed_over=[label(IDS[:1])], seen=[label(IDS[:1])])
        await trio.sleep(0.1)
        assert b.heard.read == [IDS[0]]
        await b.companion.comes(handed_over=[label(IDS[:1])], seen=[label(IDS[:1])])
        await trio.sleep(0.1)
        assert b.heard.read == [IDS[0]]


async def test_the_end_of_an_older_link_changes_nothing(autojump_clock: MockClock):
    async with bench() as b:
        newer = FakeCompanion(b.carrier)
        await newer.comes()
        b.companion.goes()
        await b.push(0)
        await trio.sleep(0.1)
        assert (newer.batches, b.companion.batches) == ([[IDS[0]]], [])


async def test_memory_of_what_was_given_is_bounded(autojump_clock: MockClock, monkeypatch):
    monkeypatch.setattr(companion, "KEPT", 5)
    async with bench() as b:
        for n in range(9):
            await b.push(n)
            await trio.sleep(1)
            b.companion.says("seen", id=label([IDS[n]]))
        await trio.sleep(1)
        assert b.heard.read == IDS[:9]
        await b.push(0, 8)
        await trio.sleep(1)
        assert b.companion.batches[9:] == [[IDS[0]]]


# --- evidence, and the rest ------------------------------------------------------------------------------


async def test_seen_is_told_once_and_counts_as_handed_over(autojump_clock: MockClock):
    async with bench() as b:
        b.companion.sleeps = True
        await b.push(0, 1)
        await trio.sleep(0.1)
        b.companion.says("seen", id=b.companion.given[0]["id"])
        b.companion.says("seen", id=b.companion.given[0]["id"])
        await trio.sleep(0.1)
        assert b.heard.accepted == IDS[:2]
        assert b.heard.read == IDS[:2]


async def test_nonsense_is_ignored(autojump_clock: MockClock):
    async with bench() as b:
        for what, params in (
            ("seen", {"id": 7}),
            ("seen", {"id": "another's"}),
            ("handed_over", {}),
            ("refused", {"id": None}),
            ("status", {"busy": "yes"}),
            ("canary_answer", {"id": "nobody asked"}),
            ("something else", {"id": "x"}),
        ):
            b.companion.says(what, **params)
        await b.companion.comes(handed_over="x", seen={"a": 1})
        await b.push(0)
        await trio.sleep(0.1)
        assert b.heard.accepted == [IDS[0]]


async def test_the_welcome_is_said_again_to_a_companion_that_comes_back():
    async with bench(comes=False) as b:
        await b.carrier.welcomed("You are shop")
        await b.companion.comes()
        await b.carrier.welcomed("You are desk")
        b.companion.goes()
        await b.companion.comes()
        assert [params["text"] for _, params in b.companion.others] == [
            "You are shop",
            "You are desk",
            "You are desk",
        ]


async def test_a_canary_says_how_far_it_got(autojump_clock: MockClock):
    async with bench(comes=False) as b:
        assert await b.carrier.canary() == (
            False,
            "carrier",
            "the plugin in the assistant is not connected",
        )
        await b.companion.comes()
        assert await b.carrier.canary() == (True, "session", "idle")
        b.companion.refuses = "the session is gone"
        assert await b.carrier.canary() == (False, "session", "the session is gone")
        b.companion.sleeps = True
        began = trio.current_time()
        assert await b.carrier.canary() == (
            False,
            "carrier",
            "the plugin in the assistant does not answer",
        )
        assert trio.current_time() - began <= companion.CANARY_S


async def test_what_is_taken_after_we_gave_up_is_not_given_again(autojump_clock: MockClock):
    async with bench() as b:
        b.companion.sleeps = True
        await b.push(0)
        await trio.sleep(ANSWER_S + 0.1)
        assert b.heard.refused == [IDS[0]]
        [given] = b.companion.given
        assert given["until"] == ANSWER_S * 1000  # the companion refuses it from then on
        b.companion.says("handed_over", id=given["id"])
        b.companion.sleeps = False
        await b.push(0, 1)
        await trio.sleep(1)
        assert b.companion.batches[1:] == [[IDS[1]]]
        assert b.heard.accepted == IDS[:2]


async def test_what_the_companion_says_of_no_message_is_not_told_to_the_hub(autojump_clock: MockClock):
    async with bench() as b:
        for words in (["x", "", "\0"], ["y" * 300], [IDS[0]] * 1_000):
            b.companion.says("seen", id=label(words))
            b.companion.says("handed_over", id=label(words))
        await trio.sleep(1)
        assert b.heard.read == []
