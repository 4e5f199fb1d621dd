"""Mail between hubs: links that come and go, hubs that are killed, disks that refuse."""

from __future__ import annotations

import pytest

from ecorelay import wire
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
    assert land.wires == []
    there.refuses = ""
    land.link(here, there)
    assert bob.texts() == ["patience"]


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


# --- broadcasts ----------------------------------------------------------------------------------------------


def test_a_broadcast_asks_those_who_are_online_on_every_linked_hub(land: Land, here: Machine, there: Machine):
    far = land.machine("far")
    bob, carol, dave = there.open("bob", push=True), there.open("carol"), far.open("dave", push=True)
    gone = there.open("gone")
    gone.close()
    land.link(here, there)
    alice, near = here.open("alice", push=True), here.open("near", push=True)
    land.link(here, far)
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
    bob.call(wire.Reply, ask_id=asked.broadcast_id, text="I")
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
