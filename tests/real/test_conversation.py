"""Claude Code, Codex CLI, OpenCode and GitHub Copilot CLI themselves, on one hub, talking round in a ring.

``scripts/conversation.sh`` runs it. An assistant that is not installed is left out, with the reason; two must
be there.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ecorelay_adapters.clients.program import own_program
from tests.real import claude, codex, copilot, opencode
from tests.real.chat import ChatModel
from tests.real.claude import TOOL, World, until
from tests.real.codex import CodexWorld
from tests.real.copilot import CopilotWorld
from tests.real.model import Model, Reply, call
from tests.real.opencode import OpenCodeWorld
from tests.real.responses import ResponsesModel

pytestmark = pytest.mark.real

WITHIN_S = 20.0
M = TypeVar("M", bound=Model)


class Member:
    """One assistant of the ring: a peer, its world and its model."""

    def __init__(self, who: str, client: str, world: World, prefix: str = "") -> None:
        self.who = who
        self.client = client
        self.world = world
        self.model = world.model
        self.prefix = prefix
        """Of our tools' names."""
        self.terminal: Any = None

    def open(self) -> None:
        """Start it, as a person does, and make it a peer."""
        if isinstance(self.world, OpenCodeWorld):  # its session begins with the first prompt
            self.terminal = self.world.talk(self.who)
        else:
            self.terminal = self.world.open(self.who)

    def says(self, tool: str, **given: Any) -> Reply:
        """What its model does."""
        return call(self.prefix + tool, **given)


def _entered(stack: ExitStack, model: M) -> M:
    stack.enter_context(model)
    return model


def _claude(root: Path, stack: ExitStack) -> Member:
    world = World(root, _entered(stack, Model()), installs=True)
    world.run(*own_program(), "install", "claude-code", "--allow-tools", "--claude", world.claude)
    return Member("alice", "claude-code", world, TOOL)


def _codex(root: Path, stack: ExitStack) -> Member:
    return Member("bob", "codex", CodexWorld(root, _entered(stack, ResponsesModel())))


def _opencode(root: Path, stack: ExitStack) -> Member:
    return Member("carol", "opencode", OpenCodeWorld(root, _entered(stack, ChatModel())))


def _copilot(root: Path, stack: ExitStack) -> Member:
    return Member("dave", "copilot", CopilotWorld(root, _entered(stack, ChatModel())))


MAKERS = ((claude, _claude), (codex, _codex), (opencode, _opencode), (copilot, _copilot))


@pytest.fixture
def ring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[list[Member]]:
    """Those that are installed, in one home directory, each in a project of its own, all online."""
    with ExitStack() as stack:
        members: list[Member] = []
        try:
            for module, make in MAKERS:
                if reason := module.why_not():
                    with capsys.disabled():
                        print(f"\nleft out: {reason}")
                else:
                    members.append(make(tmp_path, stack))
            if len(members) < 2:
                pytest.skip("fewer than two assistants are installed")
            for member in members:
                member.open()
            yield members
        finally:
            _close([member.world for member in members])


def _close(worlds: list[World]) -> None:
    for world in worlds:
        for terminal in world.terminals:
            terminal.close()
        if isinstance(world, CodexWorld):
            world.end_daemon()
    # The last thing a world does is to see that no process of this home directory is left.
    for world in sorted(worlds, key=lambda world: isinstance(world, CodexWorld))[-1:]:
        world.close()


def test_a_message_goes_round_by_sends_and_back_by_replies_and_the_hub_may_die(
    ring: list[Member], capsys: pytest.CaptureFixture[str]
):
    world = ring[0].world
    told = {peer.name: peer.client for peer in world.peer_list() if peer.online}
    assert {member.who: member.client for member in ring}.items() <= told.items()
    for turn, kill in enumerate((False, True)):
        _round(ring, turn)
        _back(ring, turn)
        if not kill:
            world.end_hub(signal.SIGKILL)
            until(lambda: all(world.peers().get(member.who) for member in ring), "all are back", WITHIN_S)
    with capsys.disabled():
        names = " → ".join(f"{member.client} ({member.who})" for member in [*ring, ring[0]])
        print(f"\n{names}: twice round and back, with the hub killed in between; nothing lost, nothing twice")


def _words(turn: int, sender: Member, to: Member) -> str:
    return f'round {turn}: {sender.who} to {to.who} <b>"it\'s" 👋</b>'


def _pairs(ring: list[Member]) -> Iterator[tuple[Member, Member]]:
    return zip(ring, [*ring[1:], ring[0]], strict=True)


def _round(ring: list[Member], turn: int) -> None:
    """Each sends to the next one when it was sent something; a person begins."""
    for member, to in _pairs(ring):
        send = member.says("relay_send", to=to.who, text=_words(turn, member, to))
        member.model.will(member.who, send, Reply("sent"))
    ring[0].terminal.type(f"begin round {turn}")
    for member, to in _pairs(ring):
        shown = to.model.wait(to.who, _words(turn, member, to), within=WITHIN_S)
        assert f"message from {member.who}" in shown.text
    _settle(ring)
    for member, to in _pairs(ring):
        assert _times_shown(to, f"not of your user ---\n{_words(turn, member, to)}") == 1


def _back(ring: list[Member], turn: int) -> None:
    """Each answers what it was sent, all at once: so that most are busy when their answer comes."""
    for member, to in _pairs(ring):

        def reply(shown: Any, member: Member = member, to: Member = to) -> Reply:
            sent = rf"message from {member.who}, id (\w+)[^\n]*\n[^\n]*\nround {turn}:"
            [ask_id] = re.findall(sent, shown.text)
            return to.says("relay_reply", ask_id=ask_id, text=f"answer {turn} of {to.who}")

        to.model.will(to.who, reply, Reply("answered"))
    for member in ring:
        member.terminal.type(f"answer in round {turn}")
    for member, to in _pairs(ring):
        member.model.wait(member.who, f"not of your user ---\nanswer {turn} of {to.who}", within=WITHIN_S)
    _settle(ring)
    for member, to in _pairs(ring):
        assert _times_shown(member, f"not of your user ---\nanswer {turn} of {to.who}") == 1


def _times_shown(member: Member, text: str) -> int:
    """How often the text stands in what its model was asked last."""
    return int(member.model.requests(member.who)[-1].text.count(text))


def _settle(ring: list[Member]) -> None:
    """Until nobody's model is asked anything any more."""
    counts: list[int] = []
    while counts != (counts := [member.model.count(member.who) for member in ring]):
        time.sleep(2)
