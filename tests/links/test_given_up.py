"""What waits for a hub that does not come: it expires, or a person forgets the hub."""

from __future__ import annotations

import pytest

from ecorelay import wire
from ecorelay.core import links
from ecorelay.core.events import SessionOpened
from ecorelay.core.hub import HOUSEKEEPING_S
from tests.core.helpers import DAY_S, Client, hello
from tests.links.land import Land, Machine


@pytest.fixture
def here(land: Land) -> Machine:
    return land.machine("here", outbox_days=3.0)


@pytest.fixture
def there(land: Land) -> Machine:
    return land.machine("there")


def housekeeping(land: Land) -> None:
    """Every hub keeps house."""
    land.forward(HOUSEKEEPING_S)
    land.forward(HOUSEKEEPING_S)


def linked_and_cut(land: Land, here: Machine, there: Machine) -> tuple[Client, Client]:
    """Alice here and bob there know each other; the link is gone."""
    alice, bob = here.open("alice"), there.open("bob")
    land.link(here, there)
    land.cut()
    return alice, bob


def again(client: Client) -> Client:
    """A new session of the peer: the one before was silent for too long."""
    machine = client.world
    if client.sid in machine.clients:
        client.close()
    return machine.open(client.hello.name)


def waiting(machine: Machine) -> list[tuple[int, int]]:
    """What the core believes to wait, by hub: messages and bytes."""
    return [(hub.waiting, hub.bytes) for hub in machine.hub.state.hubs.values()]


def stored(machine: Machine) -> list[tuple[int, int]]:
    """The same by the database."""
    return [(row.waiting, row.bytes) for row in machine.store.snapshot().hubs]


def notices(client: Client) -> list[str]:
    return [mail.text or "" for mail in client.inbox(limit=100).messages if mail.kind == "system"]


# --- forgotten ---------------------------------------------------------------------------------


def test_a_hub_nobody_knows_is_not_forgotten_and_known_ones_are_named(
    land: Land, here: Machine, there: Machine
):
    alice, _ = linked_and_cut(land, here, there)
    failed = alice.call(wire.ForgetHub, hub_id="nowhere")
    assert (failed.code, "known hubs: there" in failed.message) == ("hub_not_found", True)
    failed = alice.call(wire.ForgetHub, hub_id="HERE")
    assert (failed.code, failed.message) == ("bad_args", "HERE is this hub itself: name another one")


def test_what_waits_for_a_forgotten_hub_ends_as_dead_and_its_senders_are_told(
    land: Land, here: Machine, there: Machine
):
    alice, _ = linked_and_cut(land, here, there)
    sent = [alice.send("bob@there", f"number {n}").msg_id for n in range(3)]
    assert alice.call(wire.ForgetHub, hub_id="There").messages == 3
    assert (waiting(here), stored(here)) == ([], [])
    for msg_id in sent:
        [receipt] = alice.call(wire.Trace, msg_id=msg_id).receipts
        assert (receipt.state, receipt.reason) == ("dead", "hub_forgotten")
    [notice] = notices(alice)
    assert "3 messages from you to bob@there" in notice
    assert "hub_forgotten" in notice
    assert alice.send("bob@there", "x").code == "hub_not_found"
    assert alice.call(wire.Peers).peers == ()
    here.restart()
    assert waiting(here) == []


def test_who_wrote_from_a_forgotten_hub_cannot_be_answered_until_it_is_back(
    land: Land, here: Machine, there: Machine
):
    alice, bob = here.open("alice"), there.open("bob")
    land.link(here, there)
    bob.send("alice@here", "are you there?")
    [mail] = alice.inbox().messages
    alice.call(wire.ForgetHub, hub_id="there")
    failed = alice.call(wire.Reply, ask_id=mail.msg_id, text="yes")
    assert (failed.code, "bob@there cannot be answered" in failed.message) == ("peer_gone", True)
    land.link(here, there)
    assert alice.call(wire.Reply, ask_id=mail.msg_id, text="yes").status == "queued"
    assert bob.texts() == ["yes"]


def test_forgetting_ends_the_link_and_a_hub_that_comes_again_is_new(
    land: Land, here: Machine, there: Machine
):
    alice, bob = here.open("alice"), there.open("bob")
    link = land.link(here, there)
    alice.send("bob@there", "before")
    alice.call(wire.ForgetHub, hub_id="there")
    assert link.reasons == ["this hub was forgotten"]
    land.link(here, there)
    alice.send("bob@there", "after")
    assert bob.texts(limit=100) == ["before", "after"]
    assert bob.send("alice@here", "heard").status == "queued"
    assert alice.texts() == ["heard"]


def test_a_link_that_begins_while_its_hub_is_forgotten_is_ended(land: Land, here: Machine, there: Machine):
    alice, bob = linked_and_cut(land, here, there)
    alice.send("bob@there", "lost with it")
    here.held = True
    link = land.link(here, there)
    asked = alice.ask(wire.ForgetHub, hub_id="there")
    here.held = False
    land.settle()
    assert alice.answers[asked].messages == 1
    assert not link.whole
    assert waiting(here) == []
    land.link(here, there)
    alice.send("bob@there", "new")
    assert bob.texts() == ["new"]


def test_mail_that_is_sent_while_its_hub_is_forgotten_is_refused_or_told(
    land: Land, here: Machine, there: Machine
):
    alice, _ = linked_and_cut(land, here, there)
    here.held = True
    first = alice.ask(wire.Send, to="bob@there", text="just before")
    asked = alice.ask(wire.ForgetHub, hub_id="there")
    second = alice.ask(wire.Send, to="bob@there", text="just after")
    here.held = False
    land.settle()
    assert alice.answers[first].status == "queued"
    assert alice.answers[asked].messages == 1
    assert alice.answers[second].code == "hub_not_found"
    assert waiting(here) == []
    assert len(notices(alice)) == 1


def test_a_disk_that_refuses_forgets_nothing(land: Land, here: Machine, there: Machine):
    alice, bob = linked_and_cut(land, here, there)
    alice.send("bob@there", "still there")
    here.refuses = "disk full"
    assert alice.call(wire.ForgetHub, hub_id="there").code == "mailbox_error"
    here.refuses = ""
    land.link(here, there)
    assert bob.texts() == ["still there"]


# --- expired ---------------------------------------------------------------------------------


def test_what_waited_too_long_expires_and_what_did_not_arrives_over_the_same_run(
    land: Land, here: Machine, there: Machine
):
    alice, bob = linked_and_cut(land, here, there)
    old = [alice.send("bob@there", f"old {n}").msg_id for n in range(3)]
    land.forward(2 * DAY_S)
    alice = again(alice)
    alice.send("bob@there", "young")
    land.forward(1.5 * DAY_S)
    housekeeping(land)
    alice, bob = again(alice), again(bob)
    assert waiting(here) == stored(here)
    assert waiting(here)[0][0] == 1
    for msg_id in old:
        [receipt] = alice.call(wire.Trace, msg_id=msg_id).receipts
        assert (receipt.state, receipt.reason) == ("dead", "expired")
    [notice] = notices(alice)
    assert "3 messages from you to bob@there" in notice
    link = land.link(here, there)
    assert bob.texts(limit=100) == ["young"]
    alice.send("bob@there", "newest")
    assert bob.texts(limit=100) == ["newest"]
    assert link.whole
    assert waiting(here) == [(0, 0)]


@pytest.mark.parametrize("restarted", ["here", "there", "both", "none"])
def test_after_an_expiry_numbers_fit_whoever_was_restarted(
    land: Land, here: Machine, there: Machine, restarted: str
):
    alice, bob = here.open("alice"), there.open("bob")
    link = land.link(here, there)
    alice.send("bob@there", "first")
    link.held.add(there)  # some of it is on its way when the link is lost
    alice.send("bob@there", "on its way")
    land.cut()
    alice.send("bob@there", "stays behind")
    land.forward(4 * DAY_S)
    housekeeping(land)
    assert waiting(here) == [(0, 0)]
    if restarted in ("here", "both"):
        here.restart()
        alice = here.open("alice")
    if restarted in ("there", "both"):
        there.restart()
        bob = there.open("bob")
    link = land.link(here, there)
    alice.send("bob@there", "last")
    assert link.whole
    assert bob.texts(limit=100) == ["first", "last"]


def test_nothing_expires_while_a_link_is_up_or_begins(
    land: Land, here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
):
    alice, bob = linked_and_cut(land, here, there)
    alice.send("bob@there", "old")
    monkeypatch.setattr(links, "BEGINS_WITHIN_S", 1e9)
    link = land.begin_link(here, there)
    link.held.update((here, there))
    land.settle()
    land.forward(4 * DAY_S)
    housekeeping(land)
    assert waiting(here)[0][0] == 1
    link.held.clear()
    land.settle()
    assert bob.texts() == ["old"]


def test_a_clock_that_was_wrong_neither_tears_a_gap_nor_keeps_mail_for_ever(
    land: Land, here: Machine, there: Machine
):
    alice, bob = linked_and_cut(land, here, there)
    alice.send("bob@there", "one")
    right = land.clock.wall
    land.clock.wall = right + int(400 * DAY_S * 1000)  # for a moment
    alice.send("bob@there", "of the future")
    land.clock.wall = right
    alice.send("bob@there", "two")
    land.forward(2 * DAY_S)
    alice = again(alice)
    alice.send("bob@there", "young")
    land.forward(1.5 * DAY_S)
    housekeeping(land)
    alice, bob = again(alice), again(bob)
    assert waiting(here)[0][0] == 1
    link = land.link(here, there)
    assert (bob.texts(limit=100), link.whole) == (["young"], True)
    assert "3 messages from you" in notices(alice)[0]


def test_more_than_one_round_clears_expires_in_several(
    land: Land, here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ecorelay.daemon.store_upkeep.ROWS_PER_CALL", 4)
    alice, _ = linked_and_cut(land, here, there)
    for number in range(10):
        alice.send("bob@there", f"number {number}")
    land.forward(4 * DAY_S)
    land.forward(HOUSEKEEPING_S)
    for _ in range(20):
        land.forward(1)
    assert waiting(here) == stored(here) == [(0, 0)]
    assert "10 messages from you" in notices(alice)[0]


def test_a_sender_that_is_gone_is_told_nothing_and_nothing_breaks(land: Land, here: Machine, there: Machine):
    alice, _ = linked_and_cut(land, here, there)
    alice.send("bob@there", "old")
    alice.close()
    eve = here.open("eve")
    assert isinstance(eve.call(wire.ForgetPeer, name="alice"), wire.Done)
    land.forward(4 * DAY_S)
    housekeeping(land)
    assert waiting(here) == stored(here) == [(0, 0)]


# --- watched -------------------------------------------------------------------------------------------


def test_who_watches_sees_what_goes_to_other_hubs_and_what_comes_from_them(
    land: Land, here: Machine, there: Machine
):
    alice, bob = here.open("alice"), there.open("bob")
    land.link(here, there)
    eyes = Client(here, 99, hello(role="observer", name=None))  # type: ignore[arg-type]
    here.clients[99] = eyes
    here.feed(SessionOpened(99, eyes.hello, 0))
    eyes.call(wire.Watch, texts=True)
    sent = alice.send("bob@there", "where is it?").msg_id
    [mail] = bob.inbox().messages
    bob.call(wire.Reply, ask_id=mail.msg_id, text="here")
    [answer] = alice.inbox().messages
    alice.call(wire.Reply, ask_id=answer.msg_id, text="thanks")
    told = [each for each in eyes.got if isinstance(each, wire.Activity) and each.what == "stored"]
    assert [(each.peer, each.to, each.kind, each.text) for each in told] == [
        ("alice", "bob@there", "message", "where is it?"),
        ("bob@there", "alice", "reply", "here"),
        ("alice", "@there", "reply", "thanks"),
    ]
    assert told[0].msg_id == sent
