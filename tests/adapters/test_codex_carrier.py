"""The carrier of Codex and a daemon that comes late, refuses, closes half-way, is slow, or is another's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from wsproto.events import CloseConnection, Ping, TextMessage

from ecorelay import wire
from ecorelay_adapters import codex_carrier, codex_daemon
from ecorelay_adapters.batches import BATCH_CHARACTERS, BATCH_MAX, GATHER_S, label, labelled
from ecorelay_adapters.codex_carrier import (
    BIND,
    HOLD_S,
    HOLD_UNKNOWN_S,
    LOSSES_MAX,
    NUDGE_S,
    RETRY_MAX_S,
    CodexCarrier,
    make_carrier,
)
from ecorelay_adapters.codex_daemon import ANSWER_S
from ecorelay_adapters.codex_queue import point
from ecorelay_adapters.envelope import Incoming
from ecorelay_adapters.tool_calls import ToolCall
from tests.adapters.test_session import FakeServer, desk
from tests.helpers.carrying import IDS, Heard, mail
from tests.helpers.fake_codex import FakeConnection, FakeDaemon, FakeThread

THREAD = "01a217be-7ea3-75d3-858c-af29062ea413"
OTHER = "01a217be-7ea3-75d3-858c-af29062ea414"
SHOP = "/srv/shop"


class Bench:
    """A carrier that runs, its daemon, and what it reports."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.daemon = FakeDaemon(nursery)
        self.heard = Heard()
        self.pointed: list[tuple[str, str]] = []
        self.ready = trio.Event()
        words = count()
        self.carrier = CodexCarrier(
            self.daemon.connect,
            self.ready,
            directory=SHOP,
            point=self._point,
            now_ms=lambda: 0,
            word=lambda: f"word{next(words)}",
        )

    async def _point(self, thread: str, line: str) -> None:
        await trio.lowlevel.checkpoint()
        self.pointed.append((thread, line))

    def call(self, tool: str = "relay_peers", thread: str = THREAD, **meta: Any) -> Any:
        return self.carrier.heard(ToolCall(tool, b"{}", {"threadId": thread, **meta}))

    async def push(self, *mails: Incoming) -> None:
        for each in mails:
            await self.carrier.push(each)

    async def connected(self) -> FakeThread:
        """The usual beginning: a thread that is ours, and known."""
        thread = self.daemon.thread(THREAD)
        self.call()
        await trio.sleep(1)
        return thread


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery:
        made = Bench(nursery)
        nursery.start_soon(made.carrier.run, made.heard)
        with trio.fail_after(100_000):
            yield made
        nursery.cancel_scope.cancel()


# --- no daemon -------------------------------------------------------------------------------------------


async def test_without_a_daemon_mail_is_left_to_the_inbox_and_one_line_points_at_it(
    autojump_clock: MockClock,
):
    async with bench() as b:
        b.daemon.down = FileNotFoundError("no socket")
        b.call()
        await b.push(mail(0, "secret"), mail(1))
        await trio.sleep(HOLD_UNKNOWN_S + 0.1)
        assert b.heard.refused == IDS[:2]
        [(thread, line)] = b.pointed
        assert thread == THREAD
        assert IDS[0] in line
        assert "secret" not in line
        await b.push(mail(2))
        await trio.sleep(5)
        assert len(b.pointed) == 1  # it was told, and did not look yet
        b.call("relay_inbox")
        await b.push(mail(3))
        await trio.sleep(5)
        assert len(b.pointed) == 2
        assert b.heard.refused == IDS[:4]
        assert b.heard.accepted == b.heard.read == []


async def test_without_a_daemon_and_a_thread_nobody_can_be_pointed_at(autojump_clock: MockClock):
    async with bench() as b:
        b.daemon.down = ConnectionRefusedError("nobody listens")
        await b.push(mail(0))
        await trio.sleep(20)
        assert (b.heard.refused, b.pointed) == ([IDS[0]], [])


async def test_tries_to_connect_become_rare_and_never_end(autojump_clock: MockClock):
    async with bench() as b:
        b.daemon.down = FileNotFoundError("no socket")
        await trio.sleep(600)
        pauses = [late - early for early, late in zip(b.daemon.attempts, b.daemon.attempts[1:], strict=False)]
        assert pauses[0] < 0.2
        assert max(pauses) <= RETRY_MAX_S * 1.5
        assert len(set(pauses[-10:])) == 10  # varied
        assert 30 < len(pauses) < 100


async def test_a_daemon_that_comes_later_gets_the_mail_that_waits(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        b.daemon.down = FileNotFoundError("restarting")
        await b.daemon.lose()
        await trio.sleep(0.1)
        await b.push(mail(0))
        await trio.sleep(2)
        assert b.heard.refused == []
        b.daemon.down = None
        await trio.sleep(HOLD_S)
        assert b.heard.accepted == b.heard.read == [IDS[0]]
        assert len(thread.texts()) == 1


async def test_what_was_seen_long_ago_is_forgotten(autojump_clock: MockClock, monkeypatch):
    monkeypatch.setattr(codex_carrier, "PROVED_KEPT", 40)
    async with bench() as b:
        await b.connected()
        for number in range(50):
            await b.push(mail(number))
            await trio.sleep(30)
        assert b.heard.read == IDS[:50]
        assert list(b.carrier._there) == IDS[10:50]
        assert len(b.carrier._proved) == 40


async def test_a_daemon_that_stays_away_too_long_gets_nothing(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        b.daemon.down = FileNotFoundError("gone")
        await b.daemon.lose()
        await b.push(mail(0))
        await trio.sleep(HOLD_S + 1)
        assert b.heard.refused == [IDS[0]]
        b.daemon.down = None
        await trio.sleep(100)
        assert thread.texts() == []


async def test_who_asks_for_the_inbox_gets_what_waits_there(autojump_clock: MockClock):
    async with bench() as b:
        await b.connected()
        b.daemon.down = FileNotFoundError("gone")
        await b.daemon.lose()
        await trio.sleep(0.1)
        await b.push(mail(0))
        assert b.call("relay_inbox") is None
        assert b.heard.refused == [IDS[0]]
        await trio.sleep(20)
        assert b.pointed == []


# --- a daemon that fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [True, False])
async def test_a_connection_lost_while_handing_over_shows_nothing_twice(
    autojump_clock: MockClock, takes: bool
):
    async with bench() as b:
        thread = await b.connected()

        def dies(params: dict[str, Any]) -> None:
            if takes:
                thread.take(params)
            del b.daemon.answers["thread/queue/add"]
            b.daemon.nursery.start_soon(b.daemon.lose)

        b.daemon.answers["thread/queue/add"] = dies
        await b.push(mail(0), mail(1))
        await trio.sleep(30)
        assert sorted(b.heard.accepted) == sorted(b.heard.read) == IDS[:2]
        shown = "".join(thread.texts())
        assert shown.count("words 0") == shown.count("words 1") == 1
        assert b.daemon.count("thread/queue/add") == (1 if takes else 2)


async def test_what_waits_in_the_queue_when_the_connection_is_lost_is_not_added_again(
    autojump_clock: MockClock,
):
    async with bench() as b:
        thread = await b.connected()
        await b.daemon.begin(thread)

        def dies(params: dict[str, Any]) -> None:
            thread.queue.append(params)
            b.daemon.nursery.start_soon(b.daemon.lose)

        b.daemon.answers["thread/queue/add"] = dies
        await b.push(mail(0))
        await trio.sleep(30)
        assert b.heard.accepted == [IDS[0]]
        assert b.heard.read == []
        await b.daemon.idle(thread)
        await trio.sleep(1)
        assert b.heard.read == [IDS[0]]
        assert len(thread.texts()) == 1


async def test_a_daemon_that_dies_of_each_message_is_not_asked_for_ever(autojump_clock: MockClock, capsys):
    async with bench() as b:
        await b.connected()

        def dies(params: dict[str, Any]) -> None:
            b.daemon.nursery.start_soon(b.daemon.lose)

        b.daemon.answers["thread/queue/add"] = dies
        await b.push(mail(0))
        await trio.sleep(300)
        assert b.heard.refused == [IDS[0]]
        assert b.daemon.count("thread/queue/add") == LOSSES_MAX
        assert "does not take mail" in capsys.readouterr().err


async def test_a_refusal_leaves_the_mail_to_the_inbox_and_the_next_is_tried(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()

        def refuse(params: dict[str, Any]) -> None:
            raise ValueError("Input exceeds the maximum length")

        b.daemon.answers["thread/queue/add"] = refuse
        await b.push(mail(0))
        await trio.sleep(1)
        assert b.heard.refused == [IDS[0]]
        del b.daemon.answers["thread/queue/add"]
        await b.push(mail(1))
        await trio.sleep(1)
        assert b.heard.accepted == b.heard.read == [IDS[1]]
        assert len(thread.texts()) == 1
        assert len(b.daemon.attempts) == 1


async def test_a_daemon_that_does_not_answer_is_left_for_a_new_connection(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        b.daemon.answers["thread/queue/add"] = lambda params: None
        await b.push(mail(0))
        await trio.sleep(ANSWER_S / 2)
        del b.daemon.answers["thread/queue/add"]
        assert (b.heard.accepted, b.heard.refused) == ([], [])
        await trio.sleep(ANSWER_S + HOLD_S)
        assert b.heard.accepted == b.heard.read == [IDS[0]]
        assert len(thread.texts()) == 1
        assert len(b.daemon.attempts) == 2


@pytest.mark.parametrize("method", ["initialize", "thread/loaded/list", "thread/read", "thread/queue/list"])
async def test_silence_at_any_step_is_survived(autojump_clock: MockClock, method: str):
    async with bench() as b:
        thread = b.daemon.thread(THREAD)
        b.ready.set()
        b.daemon.answers[method] = lambda params: None
        await trio.sleep(3)
        b.call()
        await trio.sleep(60)
        del b.daemon.answers[method]
        await trio.sleep(60)
        await b.push(mail(0))
        await trio.sleep(1)
        assert b.heard.read == [IDS[0]]
        assert len(thread.texts()) == 1


@pytest.mark.parametrize(
    "method",
    ["initialize", "thread/read", "thread/turns/list", "thread/items/list", "thread/queue/list"],
)
async def test_refusals_at_any_step_are_survived(autojump_clock: MockClock, method: str):
    def refuse(params: dict[str, Any]) -> None:
        raise ValueError("failed to read thread: its file is empty")

    async with bench() as b:
        thread = b.daemon.thread(THREAD)
        await b.daemon.begin(thread)
        b.daemon.answers[method] = refuse
        b.ready.set()
        b.call()
        await trio.sleep(5)
        await b.push(mail(0, urgent=True))
        await trio.sleep(5)
        del b.daemon.answers[method]
        await trio.sleep(60)
        await b.push(mail(1, urgent=True))
        await trio.sleep(60)
        assert IDS[1] in b.heard.read
        assert len(thread.texts()) + len(thread.queue) == len(b.heard.accepted)


async def test_a_message_in_pieces_and_a_ping_are_understood(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        await b.daemon.begin(thread)
        await b.push(mail(0))
        await trio.sleep(1)
        [connection] = b.daemon.connections
        thread.busy = False
        thread.take(thread.queue.pop())
        told = json.dumps({"method": "thread/status/changed", "params": thread.row | {"threadId": THREAD}})
        await connection.write(TextMessage(data=told[:30], message_finished=False))
        await connection.write(Ping(payload=b"there?"))
        await connection.write(TextMessage(data=told[30:]))
        await trio.sleep(0.1)
        assert b.heard.read == [IDS[0]]


async def test_a_message_without_end_ends_the_connection(autojump_clock: MockClock, monkeypatch):
    monkeypatch.setattr(codex_daemon, "MESSAGE_MAX", 10_000)
    async with bench() as b:
        await b.connected()
        [connection] = b.daemon.connections
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(20):
                await connection.write(TextMessage(data="x" * 1_000, message_finished=False))
                await trio.sleep(0.1)
        await trio.sleep(1)
        assert len(b.daemon.attempts) == 2


async def test_a_daemon_that_says_goodbye_is_left_and_found_again(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        await b.daemon.connections.pop().write(CloseConnection(code=1001))
        await trio.sleep(5)
        await b.push(mail(0))
        await trio.sleep(1)
        assert b.heard.read == [IDS[0]]
        assert len(thread.texts()) == 1


async def test_who_refuses_the_connection_is_asked_again(autojump_clock: MockClock, monkeypatch):
    async with bench() as b:
        b.daemon.rejects = True
        await trio.sleep(10)
        b.daemon.rejects = False
        await trio.sleep(RETRY_MAX_S * 2)
        await b.connected()
        await b.push(mail(0))
        await trio.sleep(1)
        assert b.heard.read == [IDS[0]]


async def test_one_who_is_no_daemon_is_survived(autojump_clock: MockClock, monkeypatch):
    async with bench() as b:
        monkeypatch.setattr(
            FakeConnection, "run", lambda self: self.stream.send_all(b"220 mail ready\r\n\r\n")
        )
        await trio.sleep(100)
        assert len(b.daemon.attempts) > 3
        monkeypatch.undo()
        await trio.sleep(RETRY_MAX_S * 2)
        await b.connected()
        await b.push(mail(0))
        await trio.sleep(1)
        assert b.heard.read == [IDS[0]]


@pytest.mark.parametrize(
    "words",
    [
        "no JSON",
        "[]",
        "{}",
        '{"id": 999, "result": {}}',
        '{"id": "x"}',
        '{"method": 3}',
        '{"method": "thread/status/changed"}',
        '{"method": "thread/status/changed", "params": []}',
        '{"method": "thread/status/changed", "params": {"threadId": 3, "status": 4}}',
        '{"method": "thread/started", "params": {"thread": null}}',
        "[" * 50_000,
    ],
)
async def test_words_that_mean_nothing_are_passed_over(autojump_clock: MockClock, words: str):
    async with bench() as b:
        await b.connected()
        await b.daemon.connections[0].send(words)
        await b.push(mail(0))
        await trio.sleep(1)
        assert b.heard.read == [IDS[0]]
        assert len(b.daemon.attempts) == 1


async def test_a_request_of_the_daemon_is_declined(autojump_clock: MockClock):
    async with bench() as b:
        await b.connected()
        [connection] = b.daemon.connections
        await connection.send({"id": 7, "method": "item/commandExecution/requestApproval", "params": {}})
        await trio.sleep(1)
        [said] = [message for message in connection.heard if message.get("id") == 7]
        assert said["error"]["code"] == codex_daemon.METHOD_NOT_FOUND


@pytest.mark.parametrize(
    "answer", [{}, {"data": 3}, {"data": [1, {"items": 2}, {"items": [None, {"clientId": 3}]}]}]
)
async def test_answers_of_another_shape_prove_nothing(autojump_clock: MockClock, answer: dict[str, Any]):
    async with bench() as b:
        await b.connected()
        b.daemon.answers["thread/turns/list"] = lambda params: answer
        await b.push(mail(0))
        await trio.sleep(60)
        assert b.heard.accepted == [IDS[0]]
        assert b.heard.read == []


async def test_cancelled_it_ends_at_once_in_the_middle_of_anything(autojump_clock: MockClock):
    for seconds in (0, 0.01, 0.05, 0.2, 1, 1.001, 1.2):
        async with trio.open_nursery() as nursery:
            b = Bench(nursery)
            b.daemon.answers["thread/queue/add"] = lambda params: None
            b.daemon.thread(THREAD)
            nursery.start_soon(b.carrier.run, b.heard)
            b.call()
            await b.push(mail(0))
            await trio.sleep(seconds)
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() == began


# --- which thread ----------------------------------------------------------------------------------------


def server_of(b: Bench, ours: str) -> Callable[[str, dict[str, Any]], None]:
    """The daemon calls each thread's own server; that of `ours` is we."""

    def call(thread: str, params: dict[str, Any]) -> None:
        if thread == ours:
            b.call(params["tool"], thread, **params["_meta"])

    return call


async def test_before_any_call_the_thread_whose_server_we_are_is_found(autojump_clock: MockClock):
    async with bench() as b:
        b.daemon.thread(OTHER)
        thread = b.daemon.thread(THREAD)
        b.daemon.thread("01a217be-0000", "/elsewhere")
        b.daemon.thread("01a217be-1111").ephemeral = True
        b.daemon.thread("01a217be-2222").source = "subAgent"
        b.daemon.call_tool = server_of(b, THREAD)
        await trio.sleep(1)
        assert b.daemon.count("mcpServer/tool/call") == 0  # Codex is not ready for it
        b.ready.set()
        await b.push(mail(0))
        await trio.sleep(1)
        assert b.heard.sessions == [THREAD]
        assert b.heard.read == [IDS[0]]
        assert len(thread.texts()) == 1
        called = [params["threadId"] for method, params in b.daemon.asked if method == "mcpServer/tool/call"]
        assert sorted(called) == sorted({OTHER, THREAD})


async def test_a_directory_is_the_same_by_whatever_way_one_came(autojump_clock: MockClock, tmp_path: Path):
    (tmp_path / "way").symlink_to(tmp_path)
    async with bench() as b:
        b.carrier._directory = str(tmp_path)
        b.daemon.thread(THREAD, str(tmp_path / "way"))
        b.daemon.call_tool = server_of(b, THREAD)
        b.ready.set()
        await trio.sleep(1)
        assert b.heard.sessions == [THREAD]


async def test_a_thread_that_is_not_ours_is_never_given_our_mail(autojump_clock: MockClock):
    async with bench() as b:
        other = b.daemon.thread(OTHER)
        b.ready.set()
        await b.push(mail(0))
        await trio.sleep(100)
        assert b.daemon.count("mcpServer/tool/call") == 1
        assert other.texts() == []
        assert b.heard.refused == [IDS[0]]
        assert b.heard.sessions == []


async def test_a_thread_that_comes_later_is_found(autojump_clock: MockClock):
    async with bench() as b:
        b.daemon.call_tool = server_of(b, THREAD)
        b.ready.set()
        await trio.sleep(100)
        b.daemon.thread(THREAD)
        await b.daemon.connections[0].send({"method": "thread/started", "params": {"thread": {}}})
        await trio.sleep(0.1)
        assert b.heard.sessions == [THREAD]


async def test_a_thread_that_cannot_be_called_yet_is_tried_again(autojump_clock: MockClock):
    async with bench() as b:
        b.daemon.thread(THREAD)
        tries: list[float] = []

        def not_yet(params: dict[str, Any]) -> dict[str, Any]:
            tries.append(trio.current_time())
            if len(tries) < 3:
                raise ValueError("the server is starting")
            b.call("relay_peers", THREAD, **params["_meta"])
            return {}

        b.daemon.answers["mcpServer/tool/call"] = not_yet
        b.ready.set()
        await trio.sleep(3)
        assert b.heard.sessions == [THREAD]


async def test_calls_that_only_find_us_are_answered_at_once_and_others_are_not():
    async with bench() as b:
        found = b.call("relay_peers", THREAD, **{BIND: "word"})
        assert json.loads(found.text) == {"ok": True}
        assert b.call() is None


@pytest.mark.parametrize("thread", ["", 3, None, "../x", "--message=x", "x" * 100])
async def test_what_is_no_thread_is_passed_over(autojump_clock: MockClock, thread: Any):
    async with bench() as b:
        assert b.call("relay_peers", thread) is None
        await trio.sleep(1)
        assert b.heard.sessions == []


async def test_mail_of_the_peer_we_were_is_not_shown_in_the_thread_of_another(autojump_clock: MockClock):
    async with bench() as b:
        thread = b.daemon.thread(THREAD)
        b.heard.another = True
        await b.push(mail(0))
        b.call()
        await trio.sleep(5)
        await b.push(mail(1))
        await trio.sleep(5)
        assert b.heard.accepted == [IDS[1]]
        assert len(thread.texts()) == 1


async def test_another_thread_that_calls_us_does_not_get_the_mail(autojump_clock: MockClock):
    async with bench() as b:
        ours = await b.connected()
        helper = b.daemon.thread(OTHER)
        b.call(thread=OTHER)
        await trio.sleep(1)
        await b.push(mail(0))
        await trio.sleep(1)
        assert b.heard.sessions == [THREAD]
        assert (len(ours.texts()), len(helper.texts())) == (1, 0)


async def test_a_thread_that_runs_outside_of_the_daemon_is_only_pointed_at(autojump_clock: MockClock):
    async with bench() as b:
        thread = b.daemon.thread(THREAD)
        thread.loaded = False
        b.call()
        await b.push(mail(0))
        await trio.sleep(10)
        assert b.heard.refused == [IDS[0]]
        assert len(b.pointed) == 1
        assert b.daemon.count("thread/queue/add") == 0
        thread.loaded = True
        await trio.sleep(10)
        await b.push(mail(1))
        await trio.sleep(1)
        assert b.heard.read == [IDS[1]]


# --- turns -----------------------------------------------------------------------------------------------


async def test_the_first_goes_at_once_and_those_after_it_together(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        await b.push(mail(0))
        await trio.sleep(0.01)
        assert len(thread.texts()) == 1
        await b.push(mail(1))
        await trio.sleep(0.1)
        await b.push(mail(2))
        await trio.sleep(GATHER_S - 0.15)
        assert len(thread.texts()) == 1
        await trio.sleep(0.1)
        [one, two] = thread.texts()
        assert "words 0" in one
        assert two.index("words 1") < two.index("words 2")
        assert two.count("[ecorelay] message from ben") == 2
        await trio.sleep(1)
        assert b.heard.accepted == b.heard.read == IDS[:3]


async def test_a_turn_has_a_bound(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        await b.push(*[mail(n) for n in range(BATCH_MAX + 5)], mail(50, "x" * BATCH_CHARACTERS), mail(51))
        await trio.sleep(5)
        sizes = [text.count("[ecorelay] message") for text in thread.texts()]
        assert sizes == [BATCH_MAX, 5, 1, 1]
        assert sorted(b.heard.read) == sorted([*IDS[: BATCH_MAX + 5], IDS[50], IDS[51]])


async def test_mail_repeated_while_it_waits_is_handed_over_once(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        await b.push(mail(0), mail(0))
        await trio.sleep(0.01)
        await b.push(mail(0))
        await trio.sleep(5)
        assert "".join(thread.texts()).count("words 0") == 1
        assert b.heard.read[0] == IDS[0]


async def test_a_busy_thread_proves_nothing_before_its_turn_is_over(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        await b.daemon.begin(thread)
        await b.push(mail(0))
        await trio.sleep(100)
        assert (b.heard.accepted, b.heard.read) == ([IDS[0]], [])
        await b.daemon.idle(thread)
        await trio.sleep(0.2)
        assert b.heard.read == [IDS[0]]


async def test_what_is_urgent_goes_into_the_running_turn_before_the_rest(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        await b.daemon.begin(thread)
        await b.push(mail(0))
        await trio.sleep(0.01)
        await b.push(mail(1), mail(2, urgent=True))
        await trio.sleep(0.01)
        assert b.daemon.count("turn/steer") == 1
        assert ["words 2" in text for text in thread.texts()] == [True]
        await trio.sleep(10)
        assert b.heard.read == [IDS[2]]
        await b.daemon.idle(thread)
        await trio.sleep(1)
        assert sorted(b.heard.read) == IDS[:3]


async def test_a_turn_that_takes_nothing_leaves_the_urgent_to_the_queue(autojump_clock: MockClock):
    async with bench() as b:
        thread = await b.connected()
        await b.daemon.begin(thread)
        thread.turns[0]["id"] = "review"

        def refuse(params: dict[str, Any]) -> None:
            raise ValueError("active turn cannot be steered")

        b.daemon.answers["turn/steer"] = refuse
        await b.push(mail(0, urgent=True))
        await trio.sleep(1)
        assert b.heard.accepted == [IDS[0]]
        assert len(thread.queue) == 1
        await b.daemon.idle(thread)
        await trio.sleep(1)
        assert b.heard.read == [IDS[0]]


async def test_a_queue_that_an_interruption_stopped_is_started_when_the_thread_stays_idle(
    autojump_clock: MockClock,
):
    async with bench() as b:
        thread = await b.connected()
        await b.daemon.begin(thread)
        await b.push(mail(0))
        await trio.sleep(20)
        assert b.daemon.count("thread/queue/start") == 0
        thread.busy, thread.stopped = False, True
        await b.daemon.tell(thread)
        await trio.sleep(NUDGE_S - 0.1)  # time for who interrupted it
        assert thread.texts() == []
        await trio.sleep(0.2)
        assert b.heard.read == [IDS[0]]
        thread.stopped = True
        await b.push(mail(1))
        await trio.sleep(NUDGE_S + 0.1)
        assert b.heard.read == IDS[:2]
        await trio.sleep(100)
        assert b.daemon.count("thread/queue/start") == 2


async def test_what_an_earlier_process_handed_over_is_not_handed_over_again(autojump_clock: MockClock):
    async with bench() as b:
        thread = b.daemon.thread(THREAD)
        content = [{"type": "text", "text": "both"}]
        thread.take({"clientUserMessageId": label(IDS[:2]), "input": content})
        thread.busy = True
        thread.queue.append({"clientUserMessageId": label([IDS[2]]), "input": content})
        b.call()
        await trio.sleep(1)
        await b.push(mail(0), mail(1), mail(2))
        await trio.sleep(1)
        assert b.daemon.count("thread/queue/add") == 0
        assert b.heard.accepted == IDS[:3]
        assert set(b.heard.read) == set(IDS[:2])
        await b.daemon.idle(thread)
        await trio.sleep(1)
        assert set(b.heard.read) == set(IDS[:3])


def test_the_other_assistants_do_not_pay_for_it():
    code = (
        "import sys, ecorelay_adapters.main; "
        "assert not {'wsproto', 'ecorelay_adapters.codex_carrier', 'tomlkit'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_what_we_labelled_is_taken_for_ours():
    assert labelled(label(IDS[:3])) == tuple(IDS[:3])
    for foreign in ("", None, 3, "a278b209-1231", "ecorelay"):
        assert labelled(foreign) == ()


# --- the session around it -------------------------------------------------------------------------------


async def test_the_hub_hears_of_the_thread_and_of_what_was_seen(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with trio.open_nursery() as nursery:
        b = Bench(nursery)
        thread = b.daemon.thread(THREAD)
        b.daemon.call_tool = server_of(b, THREAD)
        b.ready.set()
        async with desk(tmp_path, monkeypatch, carrier=b.carrier) as d:
            there = await d.opened()
            asked = await there.receive()
            assert asked == wire.Identify(req_id=asked.req_id, identity=THREAD)
            await there.send(wire.Push(msg_id=IDS[0], kind="message", sender="ben", text="hello", ts=0))
            assert await there.quiet(5)  # not before it is known who we are
            await there.send(wire.Renamed(req_id=asked.req_id, name="alice"))
            assert await there.receive() == wire.Pushed(msg_ids=(IDS[0],), carrier="codex")
            confirm = await there.receive()
            assert confirm == wire.Confirm(req_id=confirm.req_id, msg_ids=(IDS[0],))
            await there.close()  # before it is answered
            again = await d.hub.session()
            assert await again.receive() == confirm
            await again.send(wire.Done(req_id=confirm.req_id))
            assert len(thread.texts()) == 1
        nursery.cancel_scope.cancel()


async def test_a_resumed_thread_goes_on_as_the_peer_it_was(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with trio.open_nursery() as nursery:
        b = Bench(nursery)
        thread = b.daemon.thread(THREAD)
        b.daemon.call_tool = server_of(b, THREAD)
        b.ready.set()
        async with desk(tmp_path, monkeypatch, carrier=b.carrier) as d:
            there = await d.opened()
            asked = await there.receive()
            await there.send(wire.Push(msg_id=IDS[0], kind="message", sender="ben", text="not ours", ts=0))
            await trio.sleep(0.1)
            await there.send(wire.Renamed(req_id=asked.req_id, name="who-it-was"))
            again = await d.hub.session()
            assert again.hello is not None
            assert again.hello.identity == THREAD
            await again.send(wire.Push(msg_id=IDS[1], kind="message", sender="ben", text="ours", ts=0))
            assert await again.receive() == wire.Pushed(msg_ids=(IDS[1],), carrier="codex")
            assert ["not ours" in text for text in thread.texts()] == [False]
        nursery.cancel_scope.cancel()


# --- programs and sockets --------------------------------------------------------------------------------


async def test_the_line_is_all_that_codex_queue_is_given(tmp_path: Path):
    program = tmp_path / "codex"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$0.args"\n')
    program.chmod(0o755)
    with trio.fail_after(10):
        await point({"CODEX_BIN": str(program), "PATH": "/usr/bin:/bin"}, THREAD, "one line")
    assert (tmp_path / "codex.args").read_text().split("\n")[:-1] == [
        "queue",
        "--thread",
        THREAD,
        "--message",
        "one line",
    ]


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 3\n", "#!/nowhere/sh\n"])
async def test_a_codex_queue_that_fails_is_only_told(tmp_path: Path, script: str, capsys):
    program = tmp_path / "codex"
    program.write_text(script)
    program.chmod(0o755)
    with trio.fail_after(10):
        await point({"PATH": str(tmp_path)}, THREAD, "one line")
        await point({"PATH": "/nowhere"}, THREAD, "one line")
    assert capsys.readouterr().err.count("waits for relay_inbox") == 1


async def test_it_connects_through_the_link_to_a_socket_of_ours(tmp_path: Path):
    home = tmp_path / ("long" * 20) / ".codex"
    (home / "app-server-control").mkdir(parents=True)
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(tmp_path / "s"))
    listener.listen()
    (home / "app-server-control" / "app-server-control.sock").symlink_to(tmp_path / "s")
    server: Any = FakeServer()
    carrier = make_carrier(server, {"CODEX_HOME": str(home)}, SHOP)
    with trio.fail_after(10):
        stream = await carrier._connect()
        await stream.aclose()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            await carrier._connect()
    assert await carrier.probe()
