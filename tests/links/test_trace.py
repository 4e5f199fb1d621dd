"""What became of a message is told across hubs: by who has it, to whose message it is, and to nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from ecorelay import link_wire, wire
from ecorelay.core import far_trace
from ecorelay.core.events import LinkFrame
from tests.links.land import Land, Machine


@pytest.fixture
def here(land: Land) -> Machine:
    return land.machine("here")


@pytest.fixture
def there(land: Land) -> Machine:
    return land.machine("there")


def receipts(client: Any, msg_id: str) -> dict[str, wire.Receipt]:
    return {each.recipient: each for each in client.call(wire.Trace, msg_id=msg_id).receipts}


def test_a_message_is_followed_to_its_end_by_our_own_clock(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob", push=True), here.open("alice")
    land.link(here, there)
    asked = alice.ask(wire.Send, to="bob@there", text="a")
    bob.ack(carrier="plugin")
    msg_id = alice.answers[asked].msg_id
    pushed = land.clock.wall
    land.forward(5)
    receipt = receipts(alice, msg_id)["bob@there"]
    assert (receipt.state, receipt.carrier, receipt.pushed_at) == ("pushed", "plugin", pushed)
    bob.call(wire.Confirm, msg_ids=(msg_id,))
    assert receipts(alice, msg_id)["bob@there"].state == "seen"
    land.forward(5)
    bob.call(wire.Reply, ask_id=msg_id, text="b")
    receipt = receipts(alice, msg_id)["bob@there"]
    assert (receipt.state, receipt.seen_at, receipt.replied_at) == (
        "replied",
        pushed + 5_000,
        pushed + 10_000,
    )
    land.cut()
    assert receipts(alice, msg_id)["bob@there"].state == "forwarded"


def test_what_left_a_full_mailbox_there_is_told(land: Land, here: Machine):
    there = land.machine("there", mailbox_messages=2)
    there.open("bob")
    alice = here.open("alice")
    land.link(here, there)
    first, *_ = [alice.send("bob@there", str(n)).msg_id for n in range(3)]
    receipt = receipts(alice, first)["bob@there"]
    assert (receipt.state, receipt.reason) == ("evicted", "evicted")


def test_of_a_broadcast_each_of_those_asked_is_told(land: Land, here: Machine, there: Machine):
    bob, carol = there.open("bob"), there.open("carol")
    alice, near = here.open("alice"), here.open("near")
    land.link(here, there)
    asked = alice.call(wire.Broadcast, question="who?")
    bob.texts()
    found = receipts(alice, asked.broadcast_id)
    assert {name: each.state for name, each in found.items()} == {
        "near": "unread",
        "bob@there": "seen",
        "carol@there": "forwarded",
    }
    assert carol.texts() == near.texts() == ["who?"]


def test_all_hubs_that_were_asked_are_waited_for(land: Land, here: Machine, there: Machine):
    far = land.machine("far")
    there.open("bob"), far.open("carol")
    alice = here.open("alice")
    slow = land.link(here, far)
    land.link(here, there)
    asked = alice.call(wire.Broadcast, question="who?")
    slow.held.add(far)
    trace = alice.ask(wire.Trace, msg_id=asked.broadcast_id)
    assert trace not in alice.answers
    slow.held.clear()
    land.settle()
    assert {each.recipient for each in alice.answers[trace].receipts} == {"bob@there", "carol@far"}


def test_of_others_messages_nothing_is_told(land: Land, here: Machine, there: Machine):
    evil = land.machine("evil")
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    wire_to = land.link(evil, there)
    msg_id = alice.send("bob@there", "private").msg_id
    own = bob.send("bob", "mine").msg_id
    for number, id in enumerate((msg_id, own, there.new_op())):
        wire_to.held.add(evil)
        evil.hub.state.last_trace = number
        wire_to.send(evil, link_wire.TraceAsk(number=number, msg_id=id))
        land.settle()
        [line] = wire_to.lines[evil]
        wire_to.lines[evil].clear()
        assert link_wire.decode(line) == link_wire.TraceAnswer(number=number)


def test_a_hub_that_does_not_answer_is_not_waited_for(land: Land, here: Machine, there: Machine):
    there.open("bob")
    alice = here.open("alice")
    link = land.link(here, there)
    msg_id = alice.send("bob@there", "a").msg_id
    link.held.add(there)
    asked = alice.ask(wire.Trace, msg_id=msg_id)
    assert asked not in alice.answers
    land.forward(far_trace.ANSWERED_WITHIN_S + 0.1)
    assert alice.answers[asked].receipts[0].state == "forwarded"
    assert here.hub.state.tracing == {}


def test_answers_that_nobody_asked_for_are_ignored(land: Land, here: Machine, there: Machine):
    there.open("bob")
    here.open("alice")
    land.link(here, there)
    [link] = here.hub.state.links
    for number in (0, 7):
        here.feed(LinkFrame(link, link_wire.TraceAnswer(number=number)))


def test_questions_are_bounded_on_both_sides(land: Land, here: Machine, there: Machine, monkeypatch):
    there.open("bob")
    alice = here.open("alice")
    link = land.link(here, there)
    msg_id = alice.send("bob@there", "a").msg_id
    monkeypatch.setattr(far_trace, "TRACES_MAX", 1)
    link.held.add(here)
    alice.ask(wire.Trace, msg_id=msg_id)
    assert receipts(alice, msg_id)["bob@there"].state == "forwarded"
    monkeypatch.setattr(far_trace, "ASKED_MAX", 2)
    there.held = True
    for number in range(5):
        link.send(here, link_wire.TraceAsk(number=number, msg_id=msg_id))
    land.settle()
    there.held = False
    assert there.hub.counters["traces of other hubs left out"] == 3
    land.cut()
    land.settle()
    assert there.hub.state.hubs["here"].traces == 0
