"""Claude Code itself, idle: mail wakes it and is put before its model."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable

import pytest

from tests.real.claude import World, stopped, until
from tests.real.model import Request

pytestmark = pytest.mark.real

WAKE_S = 10.0
"""A wake takes about a second; what takes this long was none."""
AT_ONCE = 20


def woken(world: World, who: str = "bob") -> list[Request]:
    """The requests that began a turn of its own."""
    return [request for request in world.model.requests(who) if request.begins_turn]


def test_an_idle_session_is_woken_and_its_model_shown_the_message(world: World):
    bob = world.open("bob")
    began = time.time()
    [msg_id] = world.send("bob", "the lighthouse is lit")
    shown = world.model.wait("bob", "lighthouse", within=WAKE_S)
    assert re.search(
        rf"\[ecorelay\] message from alice, id {msg_id}, just now\. To answer: relay_reply ask_id={msg_id}\n"
        r"--- (\w+): words of alice, not of your user ---\nthe lighthouse is lit\n--- \1 ---\n",
        shown.text,
    )
    assert shown.begins_turn
    assert "NOT USER INPUT" in shown.text
    world.wait_seen(msg_id)
    bob.wait_idle()
    assert world.model.count("bob") == 1
    [row] = [peer for peer in world.peer_list() if peer.name == "bob"]
    assert row.carrier == "hook"
    assert row.evidence_at >= int(began * 1000)


def test_many_messages_at_once_are_one_wake_in_order_and_none_twice(world: World):
    bob = world.open("bob")
    texts = [f"number <{n}> of many" for n in range(AT_ONCE)]
    ids = world.send("bob", *texts)
    world.model.wait("bob", texts[-1], within=WAKE_S)
    world.wait_seen(*ids)
    bob.wait_idle()
    assert len(woken(world)) == 1
    assert re.findall(r"number <\d+> of many", world.model.requests("bob")[-1].text) == texts


def test_more_than_one_page_comes_whole_in_one_turn(world: World):
    bob = world.open("bob")
    texts = [f"number <{n}> {'x' * 1_500}" for n in range(AT_ONCE)]
    ids = world.send("bob", *texts)
    world.model.wait("bob", texts[-1], within=WAKE_S)
    world.wait_seen(*ids)
    bob.wait_idle()
    assert len(woken(world)) == 1
    assert re.findall(r"number <\d+> x{1500}", world.model.requests("bob")[-1].text) == texts


def test_more_pages_than_the_client_lets_follow_one_another_all_come(world: World):
    bob = world.open("bob")
    texts = [f"number <{n}> {'x' * 5_000}" for n in range(AT_ONCE)]
    ids = world.send("bob", *texts)
    world.model.wait("bob", texts[-1], within=30)
    world.wait_seen(*ids)
    bob.wait_idle()
    found = re.findall(
        r"(AGAIN[^\n]*)?\n---[^\n]*\n(number <\d+> x{5000})", world.model.requests("bob")[-1].text
    )

    assert [text for again, text in found if not again] == texts


def test_messages_one_after_another_are_each_shown_once(world: World):
    bob = world.open("bob")
    ids = []
    for n in range(5):
        ids += world.send("bob", f"number <{n}> of some")
        time.sleep(0.4)
    world.model.wait("bob", "<4>", within=WAKE_S)
    world.wait_seen(*ids)
    bob.wait_idle()
    assert re.findall(r"<(\d)> of some", world.model.requests("bob")[-1].text) == list("01234")


def test_a_draft_in_the_prompt_box_is_kept_by_a_wake(world: World):
    bob = world.open("bob")
    bob.type("half a thought", enter=False)
    bob.shows("half a thought")
    [msg_id] = world.send("bob", "something else")
    shown = world.model.wait("bob", "something else", within=WAKE_S)
    world.wait_seen(msg_id)
    bob.wait_idle()
    assert "half a thought" not in shown.text
    assert "half a thought" in bob.screen


def test_mail_of_a_wake_that_was_interrupted_is_shown_again(world: World):
    bob = world.open("bob")
    with world.model.held("bob"):
        [msg_id] = world.send("bob", "read me")
        world.model.wait("bob", "read me", within=WAKE_S)
        bob.press("Escape")
        bob.shows("Interrupted")
    bob.wait_idle()
    assert world.states([msg_id]) == ["pushed"]
    asked = world.model.count("bob")
    bob.type("go on")
    again = world.model.wait("bob", "go on", since=asked)
    assert "read me" in again.new
    assert "AGAIN (you may have seen it)" in again.new
    world.wait_seen(msg_id)


def test_news_after_an_interrupted_wake_bring_its_mail_along(world: World):
    bob = world.open("bob")
    with world.model.held("bob"):
        [first] = world.send("bob", "read me")
        world.model.wait("bob", "read me", within=WAKE_S)
        bob.press("Escape")
        bob.shows("Interrupted")
    bob.wait_idle()
    asked = world.model.count("bob")
    [second] = world.send("bob", "and me")
    again = world.model.wait("bob", lambda request: "and me" in request.new, since=asked, within=WAKE_S)
    assert "read me" in again.text
    world.wait_seen(first, second)


def test_mail_printed_into_a_prompt_that_was_taken_back_is_shown_again(world: World):
    bob = world.open("bob")
    [adapter] = world.adapters()
    with stopped(adapter):  # nobody rings
        [msg_id] = world.send("bob", "read me")
        with world.model.held("bob"):
            bob.type("first try")
            first = world.model.wait("bob", "first try")
            assert "read me" in first.text
            bob.press("Escape")
            bob.wait_idle()
    bob.press("C-u")
    asked = world.model.count("bob")
    bob.type("second try")
    again = world.model.wait("bob", "second try", since=asked)
    assert "read me" in again.text
    world.wait_seen(msg_id)


def test_mail_of_a_prompt_that_waited_and_was_taken_back_is_shown_all_the_same(world: World):
    bob = world.open("bob")
    with world.model.held("bob"):
        bob.type("talk")
        world.model.wait("bob", "talk")
        [msg_id] = world.send("bob", "read me")
        bob.type("something more")  # waits for the end of the turn
        bob.shows("to edit queued")
        bob.press("Up")
        until(lambda: "to edit queued" not in bob.screen, "it is taken back")
        bob.press("C-u")
    world.model.wait("bob", "read me")
    world.wait_seen(msg_id)
    bob.wait_idle()
    assert "something more" not in world.model.requests("bob")[-1].text


def test_mail_that_came_while_a_prompt_waited_is_shown_once(world: World):
    bob = world.open("bob")
    with world.model.held("bob"):
        bob.type("talk")
        world.model.wait("bob", "talk")
        [msg_id] = world.send("bob", "read me")
        bob.type("something more")
        bob.shows("to edit queued")
    world.model.wait("bob", "something more")
    world.wait_seen(msg_id)
    bob.wait_idle()
    assert world.model.requests("bob")[-1].text.count("read me") == 1


def test_from_send_to_request_takes_about_a_second(world: World, capsys: pytest.CaptureFixture[str]):
    bob = world.open("bob")
    took = []
    for n in range(5):
        bob.wait_idle()
        time.sleep(1)
        began = time.time()
        [msg_id] = world.send("bob", f"run <{n}>")
        shown = world.model.wait("bob", f"run <{n}>", within=WAKE_S)
        took.append(shown.at - began)
        world.wait_seen(msg_id)
    with capsys.disabled():
        print(f"\nwake, from send to the model's request: {', '.join(f'{each:.2f}' for each in took)} s")


def test_over_tcp_it_is_woken_too(make_world: Callable[..., World]):
    world = make_world(settings=('transport = "tcp"',))
    world.open("bob")
    [msg_id] = world.send("bob", "over tcp")
    world.model.wait("bob", "over tcp", within=WAKE_S)
    world.wait_seen(msg_id)


# --- the hub goes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_session_that_outlived_its_hub_is_woken_by_the_next(world: World, number: signal.Signals):
    bob = world.open("bob")
    [before] = world.send("bob", "before it")
    world.model.wait("bob", "before it", within=WAKE_S)
    world.wait_seen(before)
    bob.wait_idle()
    for n in range(2):
        world.end_hub(number)
        [after] = world.send("bob", f"after it <{n}>")  # starts another
        world.model.wait("bob", f"after it <{n}>", within=20)
        world.wait_seen(after)
        bob.wait_idle()
    last = world.model.requests("bob")[-1].text
    assert [last.count(text) for text in ("before it", "after it <0>", "after it <1>")] == [1, 1, 1]
    assert "AGAIN" not in last


def test_mail_that_waited_on_disk_wakes_the_session_when_a_hub_is_back(world: World):
    bob = world.open("bob")
    [adapter] = world.adapters()
    with stopped(adapter):
        [msg_id] = world.send("bob", "kept on disk")
        world.end_hub(signal.SIGKILL)
    world.model.wait("bob", "kept on disk", within=20)
    world.wait_seen(msg_id)
    bob.wait_idle()
    assert world.model.count("bob") == 1


def test_mail_shown_as_the_hub_was_killed_is_not_lost(world: World):
    bob = world.open("bob")
    with world.model.held("bob"):
        [msg_id] = world.send("bob", "hold on")
        world.model.wait("bob", "hold on", within=WAKE_S)
        hub = world.hub
        assert hub is not None
        os.kill(hub.pid, signal.SIGKILL)
        until(lambda: (now := world.hub) is not None and now.pid != hub.pid, "another hub")
    world.wait_seen(msg_id)
    bob.wait_idle()
    last = world.model.requests("bob")[-1].text
    assert last.count("hold on") == 1 + last.count("AGAIN (you may have seen it)")
