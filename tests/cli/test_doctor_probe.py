"""``doctor --probe``: hubs that are away, of before, or stop; sessions that leave; two hundred of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ecorelay import wire
from ecorelay.cli import doctor_probe, session
from ecorelay.cli.doctor_checks import Examined
from ecorelay.cli.doctor_probe import AT_ONCE
from ecorelay.core.canary import PROBES_OF_ONE
from ecorelay.errors import RelayError
from ecorelay.requests import RequestError
from tests.cli.test_doctor_table import NOW, Module, looked, peer


class Hub:
    """Answers probes as a test wants: a `Probed`, an error, or seconds to wait before all is well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
        self.answers = answers
        self.open = self.most = 0
        monkeypatch.setattr(session, "at_running_hub", self.at)

    @asynccontextmanager
    async def at(self) -> AsyncIterator[Hub]:
        yield self

    async def request(self, frame: wire.Probe, patience: float) -> wire.Probed:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            found = self.answers.get(frame.peer, 0.01)
            if isinstance(found, Exception):
                raise found
            if isinstance(found, float):
                await trio.sleep(found)
                return result(peer=frame.peer)
            assert isinstance(found, wire.Probed)
            return found
        finally:
            self.open -= 1


def result(**fields: Any) -> wire.Probed:
    known = {"req_id": 1, "peer": "a", "ok": True, "stage": "session", "says": "well", "took_ms": 12}
    return wire.Probed(**{**known, **fields})


async def test_with_nobody_live_no_hub_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session, "at_running_hub", None)
    assert await doctor_probe.probe([]) == {}


async def test_a_hub_of_before_is_one_trouble_and_not_one_for_each(monkeypatch: pytest.MonkeyPatch):
    Hub(monkeypatch, a=RequestError("bad_msg", "at `$.type`"))
    with pytest.raises(RequestError, match="bad_msg"):
        await doctor_probe.probe([peer("a"), peer("b")])


async def test_who_left_meanwhile_did_not_fail_and_who_was_not_answered_for_did(
    monkeypatch: pytest.MonkeyPatch,
):
    Hub(
        monkeypatch,
        left=RequestError("peer_gone", "the session ended"),
        forgotten=RequestError("peer_not_found", "no peer is called so"),
        stopped=RelayError("hub_unreachable", "the hub closed the connection"),
        slow=RelayError("timeout", "the hub did not answer within 10 s"),
        crowd=RequestError("limit_reached", "too many probes"),
    )
    names = ("left", "forgotten", "stopped", "slow", "crowd")
    found = await doctor_probe.probe([peer(name) for name in names])
    assert [found[name].ok for name in names] == [None, None, False, False, False]
    assert {found[name].stage for name in names} == {"hub"}
    assert doctor_probe.failed(found) == 3


async def test_two_hundred_are_asked_at_once_but_not_more_than_the_hub_likes(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
):
    hub = Hub(monkeypatch, **{f"p{number}": 5.0 for number in range(200)})
    began = trio.current_time()
    found = await doctor_probe.probe([peer(f"p{number}") for number in range(200)])
    assert len(found) == 200
    assert hub.most == AT_ONCE <= PROBES_OF_ONE
    assert trio.current_time() - began == pytest.approx(10, abs=0.1)


def lines(results: dict[str, wire.Probed]) -> list[str]:
    live = [peer("b", carrier="hook"), peer("A", client="elsewhere"), peer("c", push=True)]
    examined = Examined(assistants=[looked(Module())], live=live)
    return doctor_probe.shown(examined, results, NOW).splitlines()


def test_each_session_has_its_line_assistants_in_their_order():
    results = {
        "c": result(ok=False, stage="carrier", says="the daemon is away", took_ms=40),
        "b": result(ok=None, stage="adapter", says="the bell was rung", hook_at=NOW - 180_000),
        "A": result(),
    }
    assert lines(results) == [
        "PEER  ASSISTANT          MAIL BY  CANARY",
        "b     Emacs              hook     not told: the bell was rung (its last hook ran 3 min ago)",
        "c     Emacs              push     stopped behind the carrier after 40 ms: the daemon is away",
        "A     other MCP clients  pull     ok after 12 ms: well",
    ]


def test_all_of_it_is_summed_up():
    assert doctor_probe.summary({}) == "no session was probed: none is live"
    results = {"a": result(), "b": result(ok=False), "c": result(ok=None), "d": result()}
    assert doctor_probe.summary(results) == "4 live sessions probed: 2 well, 1 stopped, 1 not told"


def test_what_was_not_probed_is_not_shown():
    assert lines({}) == []
    assert doctor_probe.shown(Examined(), {}, NOW) == ""


def test_words_of_a_session_are_made_harmless():
    [_, line] = lines({"b": result(says="\x1b[2J\nok after 1 ms")})
    assert "\\x1b[2J\\nok" in line


def test_as_json_each_live_session_is_there_probed_or_not():
    examined = Examined(assistants=[looked(Module())], live=[peer("b", push=True), peer("a", client="x")])
    rows = list(doctor_probe.fields(examined, {"b": result(adapter_ms=3, hook_at=NOW)}))
    assert rows == [
        {
            "peer": "b",
            "assistant": "emacs",
            "client": "emacs",
            "carrier": "",
            "push": True,
            "evidence_at": "",
            "probe": {
                "ok": True,
                "stage": "session",
                "says": "well",
                "took_ms": 12,
                "adapter_ms": 3,
                "hook_at": "2023-11-14T22:13:20.000Z",
            },
        },
        {
            "peer": "a",
            "assistant": "",
            "client": "x",
            "carrier": "",
            "push": False,
            "evidence_at": "",
            "probe": None,
        },
    ]
