"""Mail between hubs: links that come and go, hubs that are killed, disks that refuse."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from ecorelay import wire
from ecorelay.core import admin, links, outbox
from ecorelay.core.events import SessionFrame
from tests.core.helpers import Client
from tests.links.land import Land, Machine


@pytest.fixture
def here(land: Land) -> Machine:
    return land.machine("here")


@pytest.fixture
def there(land: Land) -> Machine:
    return land.machine("there")


def test_mail_crosses_and_its_sender_is_told_that_it_was_taken(land: Land, here: Machine, there: Machine):
    bob = there.open("bob", push=True)
    land.link(here, there)
    alice = here.open("alice")
    asked = alice.ask(wire.Send, to="bob@there", text="hello 👋")
    [push] = bob.pushes
    assert (push.sender, push.text, push.kind) == ("alice@here", "hello 👋", "message")
    assert asked not in alice.answers
    bob.ack()
    assert alice.answers[asked].status == "delivered"


def test_peers_of_linked_hubs_are_listed_and_go_out_of_reach_with_the_link(
    land: Land, here: Machine, there: Machine
):
    there.open("bob", push=True, cwd="/srv/shop", git_branch="main", client="codex")
    alice = here.open("alice")
    land.link(here, there)
    [row] = alice.call(wire.Peers).peers
    assert (row.name, row.online, row.cwd, row.git_branch, row.client, row.push) == (
        "bob@there",
        True,
        "/srv/shop",
        "main",
        "codex",
        True,
    )
    carol = there.open("carol")
    assert [each.name for each in alice.call(wire.Peers).peers if each.online] == ["bob@there", "carol@there"]
    carol.call(wire.Rename, new_name="dave")
    carol.close()
    assert {(p.name, p.online) for p in alice.call(wire.Peers).peers} == {
        ("bob@there", True),
        ("dave@there", False),
    }
    land.cut()
    rows = alice.call(wire.Peers).peers
    assert {row.name: row.online for row in rows} == {"bob@there": False, "dave@there": False}
    assert all(row.unreachable_since == land.clock.wall for row in rows)


def test_mail_for_a_hub_that_is_away_waits_and_arrives_in_order(land: Land, here: Machine, there: Machine):
    bob = there.open("bob")
    alice = here.open("alice")
    land.link(here, there)
    land.cut()
    assert {alice.send("bob@there", f"number {n}").status for n in range(20)} == {"queued"}
    here.restart()
    land.forward(5 * 86_400)
    land.link(here, there)
    assert bob.texts(limit=100) == [f"number {n}" for n in range(20)]


def test_a_reply_finds_its_way_back(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice", push=True)
    land.link(here, there)
    alice.send("bob@there", "where is the fix?")
    [mail] = bob.inbox().messages
    land.cut()
    bob.call(wire.Reply, ask_id=mail.msg_id, text="on main")
    land.link(here, there)
    [push] = alice.pushes
    assert (push.kind, push.sender, push.text, push.reply_to) == (
        "reply",
        "bob@there",
        "on main",
        mail.msg_id,
    )


# --- addresses ---------------------------------------------------------------------------------------------


def test_an_unknown_hub_and_an_unknown_name_are_told_with_what_is_known(
    land: Land, here: Machine, there: Machine
):
    there.open("backend")
    alice = here.open("alice")
    failed = alice.send("bob@nowhere", "x")
    assert (failed.code, "known hubs: none" in failed.message) == ("hub_not_found", True)
    land.link(here, there)
    failed = alice.send("bob@nowhere", "x")
    assert "known hubs: there" in failed.message
    failed = alice.send("backnd@there", "x")
    assert (failed.code, "did you mean backend@there" in failed.message) == ("peer_not_found", True)
    land.cut()
    assert alice.send("bob@there", "x").code == "peer_not_found"


def test_a_configured_hub_that_was_never_there_is_written_to_unverified(
    land: Land, here: Machine, there: Machine
):
    here.knows("there")
    alice = here.open("alice")
    for to in ("bob@there", "nobody@THERE"):
        sent = alice.send(to, "are you there?")
        assert (sent.status, sent.unverified) == ("queued", True)
    here.restart()
    assert admin._link(here.hub.state.hubs["there"]).since == 0, "it was never seen"
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    assert bob.texts() == ["are you there?"]
    [notice] = alice.inbox().messages
    assert (notice.kind, notice.text) == (
        "system",
        "1 message from you to nobody@there ended unseen (peer_not_found)",
    )


def test_ones_own_hub_in_an_address_is_here(land: Land, here: Machine):
    bob, alice = here.open("bob"), here.open("alice")
    alice.send("bob@HERE", "near")
    assert bob.texts() == ["near"]


def test_a_renamed_peer_gets_what_was_sent_to_its_old_name(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    land.cut()
    alice.send("bob@there", "for bob")
    bob.call(wire.Rename, new_name="robert")
    there.open("bob")
    land.link(here, there)
    assert bob.texts() == ["for bob"]


# --- a hub is killed, a link is cut ----------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["here", "there", "both"])
@pytest.mark.parametrize("after", range(0, 14))
def test_killed_at_any_moment_nothing_is_lost_or_doubled(
    land: Land, here: Machine, there: Machine, victim: str, after: int
):
    """The hub dies after so many steps of a send; the sender repeats what was not answered, as clients do."""
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    ops = [here.new_op() for _ in range(4)]
    for op in ops[:2]:
        alice.ask(wire.Send, to="bob@there", text=op, op_id=op)
    land.settling = True
    for op in ops[2:]:
        here.events.append(_send(alice, op))
    for _ in range(after):
        land.once()
    land.settling = False
    for name in ("here", "there"):
        if victim in (name, "both"):
            land.machines[name].restart()
    land.settle()
    land.cut()
    alice = here.open("alice") if not here.clients else alice
    for op in ops:
        assert alice.call(wire.Send, to="bob@there", text=op, op_id=op, resend=True).status
    land.link(here, there)
    bob = there.open("bob") if not there.clients else bob
    assert bob.texts(limit=100) == ops
    assert here.hub.state.hubs["there"].waiting == 0


def _send(client: Client, op: str) -> SessionFrame:
    req_id, client.next_req = client.next_req, client.next_req + 1
    frame = wire.Send(req_id=req_id, to="bob@there", text=op, op_id=op)
    client.asked[req_id] = frame
    return SessionFrame(client.sid, frame)


def test_results_that_were_lost_with_the_link_are_learned_with_the_next(
    land: Land, here: Machine, there: Machine
):
    bob, alice = there.open("bob"), here.open("alice")
    link = land.link(here, there)
    link.held.add(here)
    for n in range(5):
        alice.send("bob@there", f"number {n}")
    assert here.hub.state.hubs["there"].waiting == 5
    land.cut()
    land.link(here, there)
    assert here.hub.state.hubs["there"].waiting == 0
    assert bob.texts() == [f"number {n}" for n in range(5)]


def test_a_newer_link_takes_the_place_of_one_that_is_half_open(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    old = land.link(here, there)
    old.held.update((here, there))
    alice.send("bob@there", "into the dark")
    land.link(here, there)
    assert bob.texts() == ["into the dark"]
    assert old.reasons == ["another link took its place"]


def test_a_restored_backup_neither_loses_new_mail_nor_stops_the_link(
    land: Land, here: Machine, there: Machine
):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    alice.send("bob@there", "before")
    here.stop()
    saved = (here.home / "hub.db").read_bytes()
    here.start()
    alice = here.open("alice")
    land.link(here, there)
    alice.send("bob@there", "after the backup")
    here.kill()
    for file in here.home.glob("hub.db*"):
        file.unlink()
    (here.home / "hub.db").write_bytes(saved)
    here.start()
    alice = here.open("alice")
    alice.send("bob@there", "after the restore")
    land.link(here, there)
    assert bob.texts() == ["before", "after the backup", "after the restore"]
    assert there.home.exists()


def test_a_lost_database_begins_anew(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    alice.send("bob@there", "one")
    land.cut()
    bob.call(wire.Send, to="alice@here", text="to a lost one")
    here.kill()
    for file in here.home.glob("hub.db*"):
        file.unlink()
    here.start()
    alice = here.open("alice")
    land.link(here, there)
    alice.send("bob@there", "two")
    # That alice is no more: the new one is somebody else.
    assert bob.texts() == ["one", "two", "1 message from you to alice@here ended unseen (peer_gone)"]


def test_a_disk_that_takes_nothing_there_keeps_the_mail_here(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    there.refuses = "the disk is full"
    assert alice.send("bob@there", "patience").status == "queued"
    assert alice.send("bob@there", "and more").status == "queued"
    [link] = land.wires
    assert link.reasons == [], "the link stays"
    land.forward(6)
    assert here.hub.state.hubs["there"].waiting == 2
    there.refuses = ""
    land.forward(6)
    assert bob.texts() == ["patience", "and more"]
    assert land.wires == [link]


def test_more_than_the_window_holds_drains_in_order(land: Land, here: Machine, there: Machine):
    land.cut()
    here.knows("there")
    count = 1_300
    alice = here.open("alice")
    peers = [there.open(f"bob-{n}") for n in range(3)]
    for n in range(count):
        assert alice.send(f"bob-{n % 3}@there", f"{n}").status == "queued", n
    land.link(here, there)
    for n, peer in enumerate(peers):
        texts = [text for _ in range(5) for text in peer.texts(limit=100)]
        assert texts == [str(each) for each in range(count) if each % 3 == n][: len(texts)]
    assert here.hub.state.hubs["there"].waiting == 0


# --- limits and refusals ---------------------------------------------------------------------------------


def test_an_outbox_is_bounded_for_each_peer_and_hub(land: Land, tmp_path):
    here = land.machine("here", mailbox_messages=3, outbox_messages=5)
    here.knows("there")
    alice = here.open("alice")
    assert [alice.send("bob@there", str(n)).status for n in range(3)] == ["queued"] * 3
    assert alice.send("bob@there", "x").code == "limit_reached"
    assert [alice.send("carol@there", str(n)).status for n in range(2)] == ["queued"] * 2
    failed = alice.send("dave@there", "x")
    assert (failed.code, "5 messages" in failed.message) == ("limit_reached", True)


def test_what_is_blocked_there_is_refused_and_its_sender_told(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    there.open("person").call(wire.Block, name="alice@here")
    land.link(here, there)
    alice.send("bob@there", "let me in")
    assert bob.texts() == []
    assert alice.texts() == ["1 message from you to bob@there ended unseen (blocked)"]


def test_trace_tells_what_is_known_here(land: Land, here: Machine, there: Machine):
    there.open("bob")
    alice = here.open("alice")
    land.link(here, there)
    land.cut()
    msg_id = alice.send("bob@there", "where are you?").msg_id
    [receipt] = alice.call(wire.Trace, msg_id=msg_id).receipts
    assert (receipt.recipient, receipt.state) == ("bob@there", "unread")
    land.link(here, there)
    [receipt] = alice.call(wire.Trace, msg_id=msg_id).receipts
    assert (receipt.recipient, receipt.state) == ("bob@there", "forwarded")
    assert receipt.forwarded_at == land.clock.wall


# --- what is said again ----------------------------------------------------------------------------------


def again(client: Client, op: str, to: str, text: str) -> Any:
    return client.call(wire.Send, to=to, text=text, op_id=op, resend=True)


def test_mail_is_known_when_it_is_sent_again_whoever_has_another_name_by_then(
    land: Land, here: Machine, there: Machine
):
    """Its sender, its recipient, and one who took the recipient's name."""
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    op = here.new_op()
    alice.call(wire.Send, to="bob@there", text="once", op_id=op)
    alice.call(wire.Rename, new_name="alicia")
    assert again(alice, op, "bob@there", "once").status == "queued"
    bob.call(wire.Rename, new_name="robert")
    assert again(alice, op, "bob@there", "once").status == "queued"
    there.open("bob")
    assert again(alice, op, "bob@there", "once").status == "queued"
    assert again(alice, op, "bob@there", "other words").code == "bad_msg"
    assert bob.texts() == ["once"]


def test_mail_that_was_not_stored_is_not_sent_to_a_peer_that_is_not_there_because_it_is_sent_again(
    land: Land, here: Machine, there: Machine
):
    alice = here.open("alice")
    land.link(here, there)
    failed = again(alice, here.new_op(), "bob@there", "hello")
    assert (failed.code, "no peer of there is called" in failed.message) == ("peer_not_found", True)
    assert here.hub.state.hubs["there"].waiting == 0


def test_what_was_sent_to_an_unverified_name_is_known_when_that_was_verified(
    land: Land, here: Machine, there: Machine
):
    here.knows("there")
    bob, alice = there.open("bob"), here.open("alice")
    op = here.new_op()
    assert alice.call(wire.Send, to="bob@there", text="once", op_id=op).unverified
    land.link(here, there)
    assert again(alice, op, "bob@there", "once").status == "queued"
    assert bob.texts() == ["once"]


def test_a_reply_that_is_said_again_under_another_name_is_known(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    mail = alice.send("bob@there", "where?")
    bob.inbox()
    op = there.new_op()
    bob.call(wire.Reply, ask_id=mail.msg_id, text="here", op_id=op)
    bob.call(wire.Rename, new_name="robert")
    assert bob.call(wire.Reply, ask_id=mail.msg_id, text="here", op_id=op, resend=True).status == "queued"
    assert alice.texts() == ["here"]


# --- links that follow each other ------------------------------------------------------------------------


def test_mail_on_its_way_over_a_link_that_is_replaced_arrives_once_over_the_new_one(
    land: Land, here: Machine, there: Machine
):
    """It comes after the new link is up at its end, and before what is stored there was looked up."""
    bob, alice = there.open("bob"), here.open("alice")
    old = land.link(here, there)
    old.held.add(there)
    alice.send("bob@there", "once")
    there.held = True
    new = land.begin_link(here, there)
    old.held.clear()
    land.settle()
    there.held = False
    land.settle()
    assert (old.reasons, new.reasons) == (["another link took its place"], [])
    alice.send("bob@there", "twice")
    assert bob.texts() == ["once", "twice"]


def test_of_several_links_that_begin_at_once_the_latest_stays(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    here.held = there.held = True
    made = [land.begin_link(here, there) for _ in range(3)]
    land.settle()
    here.held = there.held = False
    land.settle()
    assert [bool(each.reasons) for each in made] == [True, True, False]
    alice.send("bob@there", "hello")
    assert bob.texts() == ["hello"]


def test_what_is_settled_by_a_link_that_is_lost_at_once_is_counted(land: Land, here: Machine, there: Machine):
    there.open("bob")
    alice = here.open("alice")
    link = land.link(here, there)
    link.held.add(here)
    alice.send("bob@there", "hello")
    land.cut()
    here.held = True
    link = land.begin_link(here, there)
    land.settle()
    here.commit()  # who it is
    land.settle()
    link.cut()  # while the store looks at what it has
    land.settle()
    here.held = False
    land.settle()
    assert here.hub.state.hubs["there"].waiting == here.hub.state.hubs["there"].bytes == 0


def test_a_stream_is_told_of_as_the_latest_though_the_clock_was_set_back(
    land: Land, here: Machine, there: Machine
):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    alice.send("bob@there", "before")
    land.clock.wall -= 3_600_000
    here.restart()
    alice = here.open("alice")
    link = land.link(here, there)
    link.held.add(here)
    for text in ("one", "two"):
        alice.send("bob@there", text)
    land.cut()
    link = land.link(here, there)
    alice.send("bob@there", "three")
    assert link.reasons == []
    assert bob.texts() == ["before", "one", "two", "three"]


def test_a_hub_that_was_forgotten_may_come_again(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    alice.send("bob@there", "before")
    alice.call(wire.ForgetHub, hub_id="there")
    assert land.wires == []
    assert alice.send("bob@there", "x").code == "hub_not_found"
    link = land.link(here, there)
    alice.send("bob@there", "after")
    bob.send("alice@here", "and back")
    assert link.reasons == []
    assert bob.texts() == ["before", "after"]
    assert alice.texts() == ["and back"]


def test_mail_of_a_hub_that_was_forgotten_cannot_be_answered(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    mail = bob.send("alice@here", "where?")
    alice.inbox()
    alice.call(wire.ForgetHub, hub_id="there")
    failed = alice.call(wire.Reply, ask_id=mail.msg_id, text="here")
    assert (failed.code, "bob@there cannot be answered" in failed.message) == ("peer_gone", True)


def test_a_hub_that_is_forgotten_while_a_link_to_it_begins_is_forgotten(
    land: Land, here: Machine, there: Machine
):
    there.open("bob")
    alice = here.open("alice")
    land.link(here, there)
    land.cut()
    here.held = True
    link = land.begin_link(here, there)
    land.settle()
    alice.ask(wire.ForgetHub, hub_id="there")
    here.held = False
    land.settle()
    assert link.reasons == ["this hub was forgotten"]
    assert here.hub.state.hubs == {}
    assert here.hub.state.links == {}


def test_a_reply_to_a_hub_that_was_forgotten_and_came_only_for_a_moment_waits_for_it(
    land: Land, here: Machine, there: Machine
):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    mail = bob.send("alice@here", "where?")
    alice.inbox()
    alice.call(wire.ForgetHub, hub_id="there")
    here.held = True
    link = land.begin_link(here, there)
    land.settle()
    link.cut()
    here.held = False
    land.settle()
    alice.call(wire.Reply, ask_id=mail.msg_id, text="here")
    assert here.hub.state.hubs["there"].waiting == 1
    land.link(here, there)
    assert here.hub.state.hubs["there"].waiting == 0
    assert bob.texts() == ["here"]


# --- a disk that refuses ----------------------------------------------------------------------------------


def test_what_was_refused_there_is_told_though_the_disk_did_not_take_it_at_first(
    land: Land, here: Machine, there: Machine
):
    bob, alice = there.open("bob"), here.open("alice", push=True)
    land.link(here, there)
    link = land.wires[0]
    link.held.add(here)
    there.open("person").call(wire.Block, name="alice@here")
    alice.send("bob@there", "let me in")
    there.open("other").call(wire.Block, name="alice@here", blocked=False)
    alice.send("bob@there", "thank you")
    here.refuses = "the disk is full"
    link.held.clear()
    land.settle()
    here.refuses = ""
    assert here.hub.state.hubs["there"].waiting == 2
    land.forward(5)
    assert here.hub.state.hubs["there"].waiting == 0
    assert here.hub.state.hubs["there"].refused == []
    assert bob.texts() == ["thank you"]
    assert alice.texts() == ["1 message from you to bob@there ended unseen (blocked)"]


def test_a_refusal_that_the_disk_did_not_take_is_told_by_what_is_settled_next(
    land: Land, here: Machine, there: Machine
):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    person = there.open("person")
    person.call(wire.Block, name="alice@here")
    link = land.wires[0]
    link.held.add(here)
    alice.send("bob@there", "let me in")
    here.refuses = "the disk is full"
    link.held.clear()
    land.settle()
    here.refuses = ""
    person.call(wire.Block, name="alice@here", blocked=False)
    alice.send("bob@there", "thank you")
    assert here.hub.state.hubs["there"].waiting == 0
    land.cut()
    land.forward(5)  # the next try finds no link, and nothing to do
    assert bob.texts() == ["thank you"]
    assert alice.texts() == ["1 message from you to bob@there ended unseen (blocked)"]


def test_a_refusal_that_the_disk_did_not_take_is_told_by_the_next_link(
    land: Land, here: Machine, there: Machine
):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    there.open("person").call(wire.Block, name="alice@here")
    link = land.wires[0]
    link.held.add(here)
    alice.send("bob@there", "let me in")
    here.refuses = "the disk is full"
    link.held.clear()
    land.settle()
    here.refuses = ""
    land.cut()
    land.link(here, there)
    assert bob.texts() == []
    assert alice.texts() == ["1 message from you to bob@there ended unseen (blocked)"]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames are on their way without a result, and no more."""
    monkeypatch.setattr(outbox, "WINDOW_FRAMES", 2)


def fill_window(land: Land, there: Machine, bob: Client) -> None:
    """Two of three messages of bob are on their way, and their results are held back."""
    land.wires[0].held.add(there)
    for text in ("one", "two", "here"):
        bob.send("alice@here", text)


@pytest.mark.usefixtures("narrow")
def test_an_outbox_that_cannot_be_read_is_read_again_in_a_while(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    fill_window(land, there, bob)
    there.refuses = "the disk is full"
    land.wires[0].held.clear()
    land.settle()
    there.refuses = ""
    assert alice.texts() == ["one", "two"]
    land.forward(5)
    assert alice.texts() == ["here"]


@pytest.mark.usefixtures("narrow")
def test_reading_the_outbox_again_for_a_link_that_is_gone_leads_to_nothing(
    land: Land, here: Machine, there: Machine
):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    fill_window(land, there, bob)
    there.refuses = "the disk is full"
    land.wires[0].held.clear()
    land.settle()
    land.wires[0].cut()
    land.settle()
    there.refuses = ""
    land.forward(5)
    assert alice.texts() == ["one", "two"]
    land.link(here, there)
    assert alice.texts() == ["here"]


def test_a_link_whose_outbox_cannot_be_read_ends_and_the_next_goes_on(
    land: Land, here: Machine, there: Machine
):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    land.cut()
    alice.send("bob@there", "hello")
    here.held = True
    link = land.begin_link(here, there)
    land.settle()
    here.commit()
    here.refuses = "the disk is full"
    land.settle()
    here.held = False
    land.settle()
    assert link.reasons == []
    land.forward(5)
    assert link.reasons == ["cannot read the outbox: the disk is full"]
    here.refuses = ""
    land.link(here, there)
    assert bob.texts() == ["hello"]


@pytest.mark.usefixtures("narrow")
def test_reading_the_outbox_again_later_finds_the_link_gone(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    fill_window(land, there, bob)
    there.refuses = "the disk is full"
    land.wires[0].held.clear()
    land.settle()
    there.refuses = ""
    land.cut()
    land.forward(5)
    assert alice.texts() == ["one", "two"]
    there.held = True
    link = land.begin_link(here, there)
    land.settle()
    for _ in range(2):  # who it is, what it has
        there.commit()
        land.settle()
    link.cut()  # while what waits is being read
    land.settle()
    there.held = False
    land.settle()
    assert alice.texts() == []
    land.link(here, there)
    assert alice.texts() == ["here"]


def test_who_is_there_is_written_once_the_disk_takes_it(land: Land, here: Machine, there: Machine):
    land.link(here, there)
    here.refuses = "the disk is full"
    bob = there.open("bob")
    here.refuses = ""
    land.forward(5)
    land.cut()
    here.restart()
    alice = here.open("alice")
    assert alice.send("bob@there", "hello").status == "queued"
    assert not alice.send("bob@there", "you too").unverified
    land.link(here, there)
    assert bob.texts() == ["hello", "you too"]


def test_who_is_there_is_not_written_again_for_a_hub_that_was_forgotten(
    land: Land, here: Machine, there: Machine
):
    alice = here.open("alice")
    land.link(here, there)
    here.refuses = "the disk is full"
    there.open("bob")
    here.refuses = ""
    alice.call(wire.ForgetHub, hub_id="there")
    land.forward(5)
    assert here.store.snapshot().hubs == ()


# --- backups ----------------------------------------------------------------------------------------------


def copy_of(machine: Machine) -> bytes:
    """Its database as it is now, while it runs."""
    path = machine.home / "copy"
    with closing(sqlite3.connect(path)) as copy:
        machine.store._committer.ledger.db.backup(copy)
    return path.read_bytes()


def put_back(machine: Machine, saved: bytes) -> None:
    machine.kill()
    for file in machine.home.glob("hub.db*"):
        file.unlink()
    (machine.home / "hub.db").write_bytes(saved)
    machine.start()


@pytest.mark.parametrize("restarts", [0, 2])
def test_mail_of_a_copy_that_was_put_back_is_not_taken_for_what_was_sent_after_the_copy_was_made(
    land: Land, here: Machine, there: Machine, restarts: int
):
    """There is known how far the stream went, in which the copy was made."""
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    alice.send("bob@there", "before")
    saved = copy_of(here)
    alice.send("bob@there", "after the copy")
    land.cut()
    put_back(here, saved)
    alice = here.open("alice")
    alice.send("bob@there", "after it was put back")
    for _ in range(restarts):
        here.restart()
        alice = here.open("alice")
    alice.send("bob@there", "and on")
    land.link(here, there)
    assert here.hub.state.hubs["there"].waiting == 0
    assert bob.texts() == ["before", "after the copy", "after it was put back", "and on"]


def test_what_arrived_is_not_refused_when_a_copy_that_was_put_back_sends_it_again(
    land: Land, here: Machine, there: Machine
):
    here.knows("there")
    bob, alice = there.open("bob"), here.open("alice")
    alice.send("bob@there", "once")
    saved = copy_of(here)
    land.link(here, there)
    land.cut()
    there.open("person").call(wire.Block, name="alice@here")
    put_back(here, saved)
    alice = here.open("alice")
    land.link(here, there)
    assert bob.texts() == ["once"]
    assert alice.texts() == []
    assert here.hub.state.hubs["there"].waiting == 0


# --- who waits, and who is there --------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["is silent", "fails", "takes it late", "ends"])
def test_a_sender_that_nobody_told_of_is_answered_and_not_waited_for_any_more(
    land: Land, here: Machine, there: Machine, carrier: str
):
    bob, alice = there.open("bob", push=True), here.open("alice")
    land.link(here, there)
    asked = alice.ask(wire.Send, to="bob@there", text="hello")
    assert list(here.hub.state.hubs["there"].asked)
    if carrier == "fails":
        bob.say(wire.PushFailed(msg_ids=tuple(push.msg_id for push in bob.pushes)))
    elif carrier == "ends":
        bob.close()
    land.forward(0.3)
    assert alice.answers[asked].status == "queued"
    assert here.hub.state.hubs["there"].asked == {}
    if carrier == "takes it late":
        bob.ack()
    assert alice.answers[asked].status == "queued"


def test_a_sender_that_left_before_its_mail_was_stored_is_not_answered(
    land: Land, here: Machine, there: Machine
):
    bob, alice = there.open("bob"), here.open("alice")
    land.link(here, there)
    here.held = True
    asked = alice.ask(wire.Send, to="bob@there", text="goodbye")
    alice.close()
    here.held = False
    land.settle()
    assert asked not in alice.answers
    assert bob.texts() == ["goodbye"]


def test_peers_that_were_not_there_for_long_are_found_by_name_only(land: Land, here: Machine, there: Machine):
    there.open("bob", cwd="/srv/shop").close()
    land.link(here, there)
    alice = here.open("alice")
    land.forward(8 * 86_400)
    land.link(here, there)
    alice = here.open("alice") if alice.sid not in here.clients else alice
    assert alice.call(wire.Peers).peers == ()
    assert [each.name for each in alice.call(wire.Peers, match="shop").peers] == ["bob@there"]
    assert alice.call(wire.Peers, match="office").peers == ()


def test_a_lost_link_answers_those_who_wait(land: Land, here: Machine, there: Machine):
    bob, alice = there.open("bob", push=True), here.open("alice")
    land.link(here, there)
    asked = [alice.ask(wire.Send, to="bob@there", text=text) for text in ("one", "two")]
    land.cut()
    assert [alice.answers[each].status for each in asked] == ["queued", "queued"]
    assert here.hub.state.hubs["there"].asked == {}
    assert len(bob.pushes) == 2


def hold_back_bob(land: Land, there: Machine) -> None:
    """Bob, whom nobody saw for long, is offered to the store for removal; it has mail, so he will stay."""
    there.open("bob", pinned=False).close()
    there.open("dave").send("bob", "keep him")
    land.forward(15 * 86_400)
    there.held = True
    land.forward(120)
    assert there.hub.state.reserved == {"bob"}


def test_a_peer_that_stays_after_all_is_told_to_who_was_linked_meanwhile(
    land: Land, here: Machine, there: Machine, monkeypatch
):
    monkeypatch.setattr(links, "BEGINS_WITHIN_S", 1e9)
    link = land.begin_link(here, there)
    link.held.add(there)
    hold_back_bob(land, there)
    link.held.clear()
    land.settle()
    alice = here.open("alice")
    assert {p.name for p in alice.call(wire.Peers, match="@there").peers} == {"dave@there"}
    there.held = False
    land.settle()
    assert {p.name for p in alice.call(wire.Peers, match="@there").peers} == {"dave@there", "bob@there"}


def test_mail_for_a_peer_that_stays_after_all_arrives(land: Land, here: Machine, there: Machine):
    land.link(here, there)
    hold_back_bob(land, there)
    alice = here.open("alice")
    alice.send("bob@there", "by his id")
    there.held = False
    land.settle()
    assert there.open("bob").texts() == ["keep him", "by his id"]
    assert alice.texts() == []


def test_mail_for_the_name_of_a_peer_that_stays_after_all_arrives(
    land: Land, here: Machine, there: Machine, monkeypatch
):
    monkeypatch.setattr(links, "BEGINS_WITHIN_S", 1e9)
    here.knows("there")
    alice = here.open("alice")
    for name in ("bob", "carol"):
        assert alice.send(f"{name}@there", "by name").unverified
    link = land.begin_link(here, there)
    link.held.add(there)
    hold_back_bob(land, there)
    link.held.clear()
    land.settle()
    there.held = False
    land.settle()
    assert there.open("bob").texts() == ["keep him", "by name"]
    assert alice.texts() == ["1 message from you to carol@there ended unseen (peer_not_found)"]


# --- broadcasts -------------------------------------------------------------------------------------------


def test_a_broadcast_asks_those_who_are_online_on_every_linked_hub(land: Land, here: Machine, there: Machine):
    far = land.machine("far")
    bob, carol, dave = there.open("bob", push=True), there.open("carol"), far.open("dave", push=True)
    gone = there.open("gone")
    gone.close()
    land.link(here, there)
    alice, near = here.open("alice", push=True), here.open("near", push=True)
    land.link(here, far)
    for each in (there, far):
        each.knows()  # where a person lets broadcasts of others wake sessions
    asked = alice.call(wire.Broadcast, question="who has the fix?")
    assert (asked.peer_count, asked.pending_hubs) == (4, 0)
    for client in (bob, dave, near):
        [push] = client.pushes
        assert (push.kind, push.sender.partition("@")[0], push.broadcast_id) == (
            "ask",
            "alice",
            asked.broadcast_id,
        )
    assert carol.texts() == ["who has the fix?"]
    bob.ask(wire.Reply, ask_id=asked.broadcast_id, text="I")
    [push] = alice.pushes
    assert (push.sender, push.text, push.broadcast_id) == ("bob@there", "I", asked.broadcast_id)


def test_a_hub_that_does_not_say_how_many_it_asked_is_not_waited_for(
    land: Land, here: Machine, there: Machine
):
    there.open("bob")
    alice = here.open("alice")
    link = land.link(here, there)
    link.held.add(here)
    req = alice.ask(wire.Broadcast, question="anybody?")
    assert req not in alice.answers
    land.forward(1.1)
    assert (alice.answers[req].peer_count, alice.answers[req].pending_hubs) == (0, 1)
    land.cut()
    asked = alice.call(wire.Broadcast, question="alone?")
    assert (asked.peer_count, asked.pending_hubs) == (0, 0)


def test_peers_of_a_hub_that_is_away_are_still_listed_after_a_restart(
    land: Land, here: Machine, there: Machine
):
    there.open("bob")
    land.link(here, there)
    land.forward(60)
    land.cut()
    here.restart()
    [row] = here.open("alice").call(wire.Peers).peers
    assert (row.name, row.online, row.unreachable_since > 0) == ("bob@there", False, True)


def test_a_hub_cannot_draw_an_answer_to_itself_by_an_id_it_learned(land: Land, here: Machine, there: Machine):
    evil = land.machine("evil")
    bob = there.open("bob")
    alice, mallory = here.open("alice"), evil.open("mallory")
    land.link(here, there)
    land.link(evil, there)
    sent = alice.send("bob@there", "what is the password?")
    mallory.call(wire.Send, to="bob@there", text="hello", op_id=sent.msg_id)
    assert bob.texts() == ["what is the password?", "hello"]
    bob.call(wire.Reply, ask_id=sent.msg_id, text="swordfish")
    assert alice.texts() == ["swordfish"]
    assert mallory.texts() == []
