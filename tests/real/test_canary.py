"""Canaries into the real assistants: they come back, and no model is asked for anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ecorelay import wire
from ecorelay.client import HubClient
from tests.real import codex
from tests.real.claude import World, until
from tests.real.codex import CodexWorld
from tests.real.responses import ResponsesModel

pytestmark = pytest.mark.real

QUIET_S = 3.0
"""A turn begins well within this time after what begins it."""


def probe(world: World) -> wire.Probed:
    """Probe bob."""
    found: list[wire.Probed] = []

    async def talk(client: HubClient) -> None:
        found.append(await client.request(wire.Probe(req_id=0, peer="bob")))

    world.at_hub(talk, role="observer")
    return found[0]


def comes_back(world: World) -> wire.Probed:
    """Probe until the canary comes back; a session that only begins, or draws, may miss the first bell."""
    found: list[wire.Probed] = []

    def came() -> bool | None:
        found.append(probe(world))
        return found[-1].ok

    until(came, "the canary comes back", 30)
    return found[-1]


def test_an_idle_claude_code_hears_the_bell_and_its_model_is_not_asked(
    world: World, capsys: pytest.CaptureFixture[str]
):
    bob = world.open("bob")
    bob.wait_idle()
    took = [comes_back(world) for _ in range(5)]
    assert {(each.stage, each.says) for each in took} == {
        ("session", "a hook of the assistant heard the bell")
    }
    assert all(each.hook_at for each in took)
    time.sleep(QUIET_S)
    assert world.model.count("bob") == 0
    assert "ecorelay" not in bob.screen
    with capsys.disabled():
        print(f"\n  Claude Code: {', '.join(f'{each.took_ms}' for each in took)} ms")
    [msg_id] = world.send("bob", "and mail still wakes it")
    world.wait_seen(msg_id)


def test_a_busy_claude_code_shows_nothing_and_nothing_is_wrong(world: World):
    bob = world.open("bob")
    with world.model.held("bob"):
        bob.type("work long")
        world.model.wait("bob", "work long")
        found = probe(world)
        assert (found.ok is False, found.stage in ("adapter", "session")) == (False, True)
        assert world.model.count("bob") == 1


@pytest.fixture
def codex_world(tmp_path: Path) -> Iterator[Callable[[], CodexWorld]]:
    if reason := codex.why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        model = ResponsesModel()
        stack.enter_context(model)

        def make() -> CodexWorld:
            made = CodexWorld(tmp_path, model)
            stack.callback(made.close)
            return made

        yield make


def test_codex_calls_us_for_the_canary_and_its_model_is_not_asked(
    codex_world: Callable[[], CodexWorld], capsys: pytest.CaptureFixture[str]
):
    world = codex_world()
    bob = world.open("bob")
    took = [comes_back(world) for _ in range(5)]
    assert {(each.stage, each.says) for each in took} == {
        ("session", "through Codex's daemon to the thread (idle) and back")
    }
    time.sleep(QUIET_S)
    assert world.model.count("bob") == 0
    with capsys.disabled():
        print(f"\n  Codex: {', '.join(f'{each.took_ms}' for each in took)} ms")
    with world.model.held("bob"):
        bob.type("work long")
        world.model.wait("bob", "work long")
        assert probe(world).says == "through Codex's daemon to the thread (active) and back"
        assert world.model.count("bob") == 1
