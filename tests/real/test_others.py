"""Gemini CLI, Qwen Code and Cline themselves, set up by ``ecorelay install``: their models use our tools."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ecorelay.paths import find_paths
from ecorelay_adapters.clients.program import own_program
from tests.real.model import call
from tests.real.others import OTHERS, OtherWorld, answers, why_not

pytestmark = pytest.mark.real


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., OtherWorld]]:
    with ExitStack() as stack:

        def make(name: str, content: str | None = None) -> OtherWorld:
            if reason := why_not(name):
                pytest.skip(reason)
            other = OTHERS[name]
            if content is not None:
                other = other._replace(content=content)
            world = OtherWorld(tmp_path, other, stack.enter_context(other.model()))
            stack.callback(world.close)
            return world

        yield make


@pytest.mark.parametrize("name", OTHERS)
def test_the_model_uses_our_tools_and_uninstalled_nothing_is_left(
    make_world: Callable[..., OtherWorld], name: str
):
    world = make_world(name)
    world.install("--allow-tools")
    assert world.settings.read_text() != world.other.content
    world.model.will("bob", call("relay_peers"))
    ended = world.turn("who is there")
    assert ended.returncode == 0, ended
    [peers] = answers(world)
    assert peers["me"] == "bob"
    # So that `ecorelay doctor` counts its sessions as those of this assistant.
    assert [peer.client for peer in world.peer_list()] == [name]
    [msg_id] = world.send("bob", "the secret word", sender="alice")
    world.model.will(
        "bob",
        call("relay_send", to="alice", text="hi alice"),
        call("relay_inbox"),
        call("relay_peers"),  # whoever asks for more has read what came before
    )
    ended = world.turn("use the tools")
    assert ended.returncode == 0, ended
    _, sent, inbox, _ = answers(world)
    assert sent["status"] == "queued"
    assert [each["text"] for each in inbox["messages"]] == ["the secret word"]
    world.wait_seen(msg_id)
    assert world.states([sent["msg_id"]]) == ["unread"]

    said = world.run(*own_program(), "doctor").stdout
    assert "19 tools after" in said
    world.run(*own_program(), "uninstall", name)
    assert world.settings.read_text() == world.other.content
    assert not list(world.settings.parent.glob("*before-ecorelay*"))


@pytest.mark.parametrize("name", OTHERS)
def test_without_being_allowed_only_what_asks_nobody_uses_them_unattended(
    make_world: Callable[..., OtherWorld], name: str
):
    world = make_world(name)
    world.install()
    world.model.will("bob", call("relay_send", to="nobody", text="hi"))
    world.turn("use the tools")
    said = "".join(result for request in world.model.requests("bob") for result in request.results)
    assert ("no peer is called 'nobody'" in said) == (name == "cline")


@pytest.mark.parametrize("name", OTHERS)
def test_sessions_meet_at_the_data_directory_that_was_chosen(
    make_world: Callable[..., OtherWorld], name: str
):
    world = make_world(name)
    world.environ["ECORELAY_HOME"] = str(world.root / "elsewhere")
    world.paths = find_paths(world.environ)
    world.keep_hub()
    world.install("--allow-tools")
    variable = world.environ.pop("ECORELAY_HOME")  # an assistant that is started from a desktop
    world.model.will("bob", call("relay_peers"))
    world.turn("who is there")
    world.environ["ECORELAY_HOME"] = variable
    [peers] = answers(world)
    assert peers["me"] == "bob"
    assert world.peers() == {"bob": False}
    assert not find_paths({"HOME": str(world.home)}).database.exists()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("gemini", "  }\n}", "  },\n}"),
        ("gemini", "{\n  //", "\ufeff{\n  //"),
        ("cline", "}\n  }\n}", "} // mine\n  }\n}"),
        ("cline", "}\n  }\n}", "},\n  }\n}"),
        ("cline", "{\n", "\ufeff{\n"),
    ],
    ids=["gemini, a comma", "gemini, a mark", "cline, a comment", "cline, a comma", "cline, a mark"],
)
def test_what_a_program_cannot_read_in_its_own_settings_is_told(
    make_world: Callable[..., OtherWorld], name: str, old: str, new: str
):
    content = OTHERS[name].content.replace(old, new, 1)
    assert content != OTHERS[name].content
    world = make_world(name, content)
    ended = subprocess.run(
        [*own_program(), "install", name, "--allow-tools"],
        cwd=world.home,
        env=world.variables("nobody"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert f"cannot read {world.settings}: it has a" in ended.stdout + ended.stderr
    world.model.will("bob", call("relay_peers"))
    world.turn("use the tools")
    assert answers(world) == []
    world.run(*own_program(), "uninstall", name)
    assert world.settings.read_text() == content
