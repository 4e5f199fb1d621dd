"""Claude Code itself, set up by ``ecorelay install claude-code``: no flag, no folder named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ecorelay_adapters.clients.program import own_program
from tests.real.claude import TOOL, World
from tests.real.model import call

pytestmark = pytest.mark.real


def test_installed_it_wakes_and_its_tools_are_allowed(make_world: Callable[..., World]):
    world = make_world(installs=True)
    world.run(*own_program(), "install", "claude-code", "--allow-tools", "--claude", world.claude)
    listed = world.run(world.claude, "plugin", "list", "--json")
    assert '"ecorelay@ecorelay"' in listed.stdout

    bob = world.open("bob")
    assert world.words() == [world.claude]
    world.model.will("bob", call(TOOL + "relay_peers"))
    [msg_id] = world.send("bob", "you are set up")
    shown = world.model.wait("bob", "you are set up", within=20)
    assert shown.begins_turn
    found = world.model.wait("bob", lambda request: request.results)
    assert found.result["me"] == "bob"
    world.wait_seen(msg_id)
    bob.quit()

    world.run(*own_program(), "uninstall", "claude-code", "--claude", world.claude)
    again = world.open("bob", peer="")
    again.type("hello")
    asked = world.model.wait("bob", "hello")
    assert "relay_" not in asked.text
    assert world.adapters() == []
