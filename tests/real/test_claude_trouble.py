"""Claude Code itself, with a hub that is gone, stopped or on a bad disk: the user's turn goes on."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.e2e.test_upgrade import NEWER, of_version
from tests.real.claude import TOOL, World, stopped, until
from tests.real.model import call

pytestmark = pytest.mark.real

EVENTS = ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop")
NO_HUB = ("spawn = false",)


@contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """No file grows under this process any more."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def take_a_turn(world: World, who: str = "bob") -> None:
    """A prompt, a tool and an end."""
    asked = world.model.count(who)
    world.model.will(who, call("Bash", command="true", description="Nothing"))
    [terminal] = world.terminals
    terminal.type("do it")
    first = world.model.wait(who, lambda request: "do it" in request.new, since=asked)
    last = world.model.wait(who, lambda request: request.results, since=asked)
    terminal.wait_idle()
    assert world.model.count(who) == asked + 2
    for request in (first, last):
        assert "hook additional context" not in request.new
        assert "hook error" not in request.new


def report(world: World, what: str, capsys: pytest.CaptureFixture[str], since: int = 0) -> None:
    """Check that all hooks were quiet, and print how long they took."""
    took: dict[str, list[float]] = {}
    for hook in world.hooks(since=since):
        event = hook["input"]["hook_event_name"]
        assert hook["code"] == 0, hook
        assert hook["errors"] == "", hook
        assert hook["output"] == "" or event == "SessionStart", hook
        took.setdefault(event, []).append(hook["seconds"] * 1000)
    assert set(took) >= {"UserPromptSubmit", "PostToolUse", "Stop"}
    with capsys.disabled():
        shown = ", ".join(f"{event} {'/'.join(f'{each:.0f}' for each in ms)}" for event, ms in took.items())
        print(f"\nhooks {what}: {shown} ms")


def test_hooks_with_nothing_to_show_are_quick(
    make_world: Callable[..., World], capsys: pytest.CaptureFixture[str]
):
    world = make_world(spy=True)
    world.open("bob")
    for _ in range(3):
        take_a_turn(world)
    report(world, "with nothing to show", capsys)


def test_without_a_hub_the_turn_works_and_hooks_are_quiet(
    make_world: Callable[..., World], capsys: pytest.CaptureFixture[str]
):
    world = make_world(spy=True, settings=NO_HUB)
    world.open("bob", peer="")
    take_a_turn(world)
    report(world, "without a hub", capsys)
    assert world.hub is None


def test_with_a_hub_that_was_killed_the_turn_works_and_hooks_are_quiet(
    make_world: Callable[..., World], capsys: pytest.CaptureFixture[str]
):
    world = make_world(spy=True)
    world.open("bob")
    [adapter] = world.adapters()
    with stopped(adapter):  # it starts no other
        world.end_hub(signal.SIGKILL)
        since = len(world.hooks())
        take_a_turn(world)
        report(world, "with a hub.json of a dead hub", capsys, since)


def test_with_a_hub_that_is_stopped_the_turn_works_and_hooks_are_quiet(
    make_world: Callable[..., World], capsys: pytest.CaptureFixture[str]
):
    world = make_world(spy=True)
    bob = world.open("bob")
    [msg_id] = world.send("bob", "before the stop")
    world.model.wait("bob", "before the stop")
    world.wait_seen(msg_id)
    bob.wait_idle()
    since = len(world.hooks())
    assert world.hub is not None
    with stopped(world.hub.pid):
        take_a_turn(world)
        report(world, "with a hub that is stopped", capsys, since)
    [msg_id] = world.send("bob", "after the stop")
    world.model.wait("bob", "after the stop", within=20)
    world.wait_seen(msg_id)


def test_a_hub_upgraded_under_an_idle_session_wakes_it_for_the_next_mail(make_world: Callable[..., World]):
    world = make_world()
    world.paths.config.write_text("idle_exit_s = 60\n")  # one that was told to stay is left alone
    bob = world.open("bob")
    [before] = world.send("bob", "before the upgrade")
    world.model.wait("bob", "before the upgrade")
    world.wait_seen(before)
    bob.wait_idle()
    variables = [f"{name}={value}" for name, value in of_version(world.root, NEWER).items()]
    world.run("env", *variables, sys.executable, "-m", "ecorelay", "peers")
    until(lambda: world.hub is not None and world.hub.version == NEWER, "the newer hub is there")
    until(lambda: world.peers().get("bob"), "bob is there again")
    [after] = world.send("bob", "after the upgrade")
    request = world.model.wait("bob", "after the upgrade", within=20)
    assert "before the upgrade" not in request.new
    world.wait_seen(before, after)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process's files")
def test_on_a_full_disk_the_turn_works_and_afterwards_mail_comes(
    make_world: Callable[..., World], capsys: pytest.CaptureFixture[str]
):
    world = make_world(spy=True)
    bob = world.open("bob")
    assert world.hub is not None
    since = len(world.hooks())
    with ExitStack() as stack:
        for pid in (world.hub.pid, *world.adapters()):
            stack.enter_context(full_disk(pid))
        take_a_turn(world)
        report(world, "on a full disk", capsys, since)
        with pytest.raises(Exception, match=r"mailbox_error|disk"):
            world.send("bob", "cannot be stored")
    [msg_id] = world.send("bob", "there is room again")
    world.model.wait("bob", "there is room again", within=20)
    world.wait_seen(msg_id)
    bob.wait_idle()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process's files")
def test_the_bell_rings_on_a_full_disk(world: World):
    bob = world.open("bob")
    [adapter] = world.adapters()
    [msg_id] = world.send("bob", "first")
    world.model.wait("bob", "first")
    world.wait_seen(msg_id)
    bob.wait_idle()
    with full_disk(adapter):
        [msg_id] = world.send("bob", "second")
        world.model.wait("bob", "second", within=20)
        world.wait_seen(msg_id)
    bob.wait_idle()


def test_where_the_data_directory_is_no_directory_the_turn_works(
    make_world: Callable[..., World], capsys: pytest.CaptureFixture[str]
):
    world = make_world(spy=True)
    world.paths.config.unlink()
    world.paths.home.rmdir()
    world.paths.home.write_text("a file stands here")
    world.open("bob", peer="")
    take_a_turn(world)
    report(world, "where the data directory is a file", capsys)


def test_a_tool_call_without_a_hub_says_what_is_wrong(make_world: Callable[..., World]):
    world = make_world(settings=NO_HUB)
    bob = world.open("bob", peer="")
    world.model.will("bob", call(TOOL + "relay_peers"))
    bob.type("who is there?")
    asked = world.model.wait("bob", lambda request: request.results)
    assert "hub_unreachable" in asked.results[0]
    until(lambda: bob.status == "idle", "the turn ends")


def test_tools_work_through_a_restart_of_the_hub(world: World):
    bob = world.open("bob")
    for n in range(2):
        asked = world.model.count("bob")
        world.model.will("bob", call(TOOL + "relay_peers"))
        bob.type(f"who is there <{n}>?")
        found = world.model.wait("bob", lambda request: request.results, since=asked)
        assert found.result["me"] == "bob"
        bob.wait_idle()
        world.end_hub(signal.SIGKILL)
