"""A canary in Codex, and a daemon that is away, has another thread, refuses, hangs or calls somebody else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ecorelay_adapters import codex_daemon
from ecorelay_adapters.canaries import PATIENCE_S as ALL_S
from ecorelay_adapters.carriers import Canary
from ecorelay_adapters.codex_canary import MARK, PATIENCE_S, CodexCanary
from ecorelay_adapters.codex_daemon import Daemon
from ecorelay_adapters.tool_calls import ToolCall
from tests.helpers.fake_codex import FakeDaemon

THREAD = "01a217be-7ea3-75d3-858c-af29062ea413"
OTHER = "01a217be-7ea3-75d3-858c-af29062ea414"


def make() -> CodexCanary:
    words = count()
    return CodexCanary("ecorelay", lambda: f"word{next(words)}")


def call(meta: dict[str, Any]) -> ToolCall:
    return ToolCall("relay_peers", b"{}", meta)


async def fly(
    canary: CodexCanary,
    prepare: Callable[[FakeDaemon], object] = lambda fake: None,
    lose_after: float = 100.0,
) -> Canary:
    """One flight of a carrier whose thread is `THREAD`, at a daemon that a test has prepared."""
    found: list[Canary] = []
    async with trio.open_nursery() as nursery:
        fake = FakeDaemon(nursery)
        fake.thread(THREAD)
        fake.call_tool = lambda thread, params: called(canary, thread, params)
        prepare(fake)

        async def fly(daemon: Daemon) -> None:
            found.append(await canary.fly(daemon, THREAD, met=True))
            nursery.cancel_scope.cancel()

        async def stay(daemon: Daemon) -> None:
            nursery.start_soon(fly, daemon)  # as a carrier does: apart from the connection
            await trio.sleep_forever()

        nursery.start_soon(codex_daemon.visit, fake.connect, lambda method, params: None, stay)
        await trio.sleep(lose_after)
        await fake.lose()
        await trio.sleep_forever()
    [canary_found] = found
    return canary_found


def called(canary: CodexCanary, thread: str, params: dict[str, Any]) -> None:
    """As Codex calls a tool: the thread stands in `_meta`."""
    assert (params["server"], params["tool"]) == ("ecorelay", "relay_peers")
    assert canary.heard(call({"threadId": thread, **params["_meta"]}))


async def test_the_whole_way_is_shown_by_the_word_that_came_back(autojump_clock: MockClock):
    canary = make()
    assert await fly(canary) == Canary(
        True, "session", "through Codex's daemon to the thread (idle) and back"
    )
    assert not canary._heard


async def test_before_the_thread_is_known_nothing_can_be_told(autojump_clock: MockClock):
    found = await make().fly(None, "", met=False)
    assert (found.ok, found.stage) == (None, "adapter")


async def test_a_thread_without_a_daemon_shows_nothing_and_one_that_lost_it_failed(
    autojump_clock: MockClock,
):
    alone = await make().fly(None, THREAD, met=False)
    assert (alone.ok, "relay_inbox" in alone.says) == (None, True)
    lost = await make().fly(None, THREAD, met=True)
    assert (lost.ok, lost.stage, "away" in lost.says) == (False, "adapter", True)


async def test_a_thread_that_is_not_loaded_any_more_is_told(autojump_clock: MockClock):
    def unload(fake: FakeDaemon) -> None:
        fake.threads[THREAD].loaded = False

    assert await fly(make(), unload) == Canary(
        False, "carrier", "Codex's daemon does not have the thread loaded"
    )


async def test_a_thread_the_daemon_does_not_know_is_told_in_its_words(autojump_clock: MockClock):
    found = await fly(make(), lambda fake: fake.threads.clear())
    assert found == Canary(False, "carrier", "Codex: thread/read: no such thread")


async def test_a_daemon_that_calls_another_server_is_found_out(autojump_clock: MockClock):
    def elsewhere(fake: FakeDaemon) -> None:
        fake.call_tool = lambda thread, params: None

    found = await fly(make(), elsewhere)
    assert (found.ok, found.stage, "another server" in found.says) == (False, "carrier", True)


async def test_a_call_for_another_thread_or_with_another_word_is_no_evidence(autojump_clock: MockClock):
    canary = make()

    def mixed(fake: FakeDaemon) -> None:
        def wrong(thread: str, params: dict[str, Any]) -> None:
            assert canary.heard(call({"threadId": OTHER, **params["_meta"]}))
            assert canary.heard(call({"threadId": THREAD, MARK: "guessed"}))
            assert canary.heard(call({"threadId": THREAD, MARK: ["word0"]}))

        fake.call_tool = wrong

    assert (await fly(canary, mixed)).ok is False


def test_calls_of_the_model_are_no_canaries():
    assert not make().heard(call({"threadId": THREAD}))


async def test_a_tool_call_that_hangs_stops_at_the_carrier(autojump_clock: MockClock):
    def hang(fake: FakeDaemon) -> None:
        fake.answers["mcpServer/tool/call"] = lambda params: None

    began = trio.current_time()
    found = await fly(make(), hang)
    assert found == Canary(False, "carrier", "Codex's daemon has the thread, and did not call us for it")
    assert trio.current_time() - began == PATIENCE_S < ALL_S


async def test_a_daemon_that_hangs_stops_at_the_adapter(autojump_clock: MockClock):
    def hang(fake: FakeDaemon) -> None:
        fake.answers["thread/read"] = lambda params: None

    assert await fly(make(), hang) == Canary(False, "adapter", "Codex's daemon does not answer")


@pytest.mark.parametrize(
    ("method", "stage"), [("thread/read", "adapter"), ("mcpServer/tool/call", "carrier")]
)
async def test_a_daemon_that_goes_away_meanwhile_is_told(autojump_clock: MockClock, method: str, stage: Any):
    def hang(fake: FakeDaemon) -> None:
        fake.answers[method] = lambda params: None

    canary = make()
    found = await fly(canary, hang, lose_after=1)
    assert found == Canary(False, stage, f"Codex: the daemon does not answer {method}")
    assert not canary._heard
