"""Groups with members on several hubs: links that are cut, hubs that are killed, databases that are lost."""

from __future__ import annotations

import pytest

from ecorelay import link_wire, wire
from ecorelay.core.events import HubsConfigured, StoreFailed, Tick
from ecorelay.core.far_groups import LeavesSent
from ecorelay.core.group_ops import ReadHeads, ReadLines, SendLeaves, TakeEnd, TakePage
from ecorelay.core.ops import Op
from ecorelay.core.records import Group
from tests.core.helpers import Client
from tests.links.land import Land, Machine, new_id, tell


@pytest.fixture
def home(land: Land) -> Machine:
    return land.machine("home")


@pytest.fixture
def near(land: Land) -> Machine:
    return land.machine("near")


@pytest.fixture
def away(land: Land) -> Machine:
    return land.machine("away")


def read(client: Client, group: str, limit: int = 500) -> list[tuple[str, str]]:
    """What is unread in a group, (author, text), which is then confirmed."""
    page = client.call(wire.GroupHistory, group=group, limit=limit)
    assert isinstance(page, wire.GroupPage), page
    if page.messages:
        client.call(wire.GroupConfirm, group=group, upto=page.upto)
    return [(entry.sender, entry.text) for entry in page.messages]


def lines(machine: Machine) -> dict[str, list[tuple[int, str, str]]]:
    """The lines of each group that lie on a machine: number, id, and author as its home calls it."""
    db = machine.store._committer.ledger.db
    found: dict[str, list[tuple[int, str, str]]] = {}
    for name, seq, msg_id, text in db.execute(
        "SELECT g.name, l.seq, coalesce(m.msg_id, ''), coalesce(b.text, '') FROM group_log AS l"
        " JOIN groups AS g ON g.no = l.group_no LEFT JOIN messages AS m ON m.mid = l.mid"
        " LEFT JOIN bodies AS b ON b.mid = l.mid ORDER BY l.group_no, l.seq"
    ):
        found.setdefault(name, []).append((seq, msg_id, text.decode() if text else ""))
    return found


def agree(*machines: Machine) -> None:
    """All have the same lines, as far as they go back."""
    kept = [lines(machine) for machine in machines]
    for other in kept[1:]:
        for name, there in other.items():
            assert there == kept[0][name][-len(there) :]


def test_what_is_said_reaches_members_on_other_hubs_and_comes_back_attributed(
    land: Land, home: Machine, near: Machine
):
    ann, bob = home.open("ann", push=True), near.open("bob", push=True)
    land.link(home, near)
    made = ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    assert made.members == ("ann", "bob@near")
    assert bob.call(wire.Groups).groups == (wire.GroupUnread(name="red@home", unread_count=1),)
    assert ann.call(wire.GroupSend, group="red", text="hello").msg_id
    assert bob.call(wire.GroupSend, group="red@home", text="hi").status == "queued"
    assert [(p.sender, p.text, p.group) for p in bob.pushes] == [
        ("ann@home", "ann created the group red", "red@home"),
        ("ann@home", "hello", "red@home"),
    ]
    assert [(p.sender, p.text, p.group) for p in ann.pushes] == [("bob@near", "hi", "red")]
    assert read(bob, "red") == [
        ("ann@home", "ann created the group red"),
        ("ann@home", "hello"),
        ("bob", "hi"),
    ]
    details = bob.call(wire.GroupInfo, group="red")
    assert (details.group, details.admin) == ("red@home", "ann@home")
    assert details.members == (
        wire.Member(name="ann@home", online=True),
        wire.Member(name="bob", online=True),
    )
    details = ann.call(wire.GroupInfo, group="red")
    assert details.members == (
        wire.Member(name="ann", online=True),
        wire.Member(name="bob@near", online=True),
    )
    agree(home, near)


@pytest.fixture
def red(land: Land, home: Machine, near: Machine, away: Machine) -> tuple[Client, Client, Client]:
    """ann of home is the admin of red, bob of near and cat of away are in it; all has been read."""
    ann, bob, cat = home.open("ann"), near.open("bob"), away.open("cat")
    land.link(home, near)
    land.link(home, away)
    ann.call(wire.GroupCreate, name="red", members=("bob@near", "cat@away"))
    read(bob, "red")
    read(cat, "red")
    return ann, bob, cat


def texts(client: Client, group: str = "red") -> list[str]:
    return [text for _, text in read(client, group)]


def say(client: Client, text: str, **fields) -> wire.Sent:
    sent = client.call(wire.GroupSend, group="red", text=text, **fields)
    assert isinstance(sent, wire.Sent), sent
    return sent


# --- links that come and go ------------------------------------------------------------------------------


def test_all_member_hubs_have_the_same_lines_in_the_same_order(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, bob, cat = red
    land.cut()
    for n in range(5):
        say(bob, f"bob {n}")
        say(ann, f"ann {n}")
        say(cat, f"cat {n}")
    assert texts(bob) == texts(cat) == []
    land.link(home, away)
    land.link(home, near)
    expected = [
        *[f"ann {n}" for n in range(5)],
        *[f"cat {n}" for n in range(5)],
        *[f"bob {n}" for n in range(5)],
    ]
    for client in (bob, cat):
        assert texts(client) == expected
    agree(home, near, away)
    assert near.hub.state.hubs["home"].waiting == home.hub.state.hubs["near"].waiting == 0


def test_one_frame_goes_to_a_hub_however_many_members_it_has(land: Land, home: Machine, near: Machine):
    ann = home.open("ann")
    peers = [near.open(f"bob-{n}") for n in range(20)]
    link = land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=tuple(f"bob-{n}@near" for n in range(20)))
    link.held.add(near)
    say(ann, "to all")
    assert len(link.lines[near]) == 1
    link.held.clear()
    land.settle()
    assert [texts(peer) for peer in peers] == [["ann created the group red", "to all"]] * 20


def test_reading_goes_on_while_the_home_is_away_and_members_are_listed(land: Land, red, near: Machine):
    ann, bob, _ = red
    say(ann, "before")
    land.cut()
    near.restart()
    bob = near.open("bob")
    assert texts(bob) == ["before"]
    details = bob.call(wire.GroupInfo, group="red@home")
    assert [(m.name, m.online) for m in details.members] == [
        ("ann@home", False),
        ("bob", True),
        ("cat@away", False),
    ]


@pytest.mark.parametrize("victim", ["home", "near", "away", "all"])
@pytest.mark.parametrize("after", range(0, 36, 2))
def test_killed_at_any_moment_no_line_is_lost_or_doubled(
    land: Land, red, home: Machine, near: Machine, away: Machine, victim: str, after: int
):
    ann, bob, cat = red
    ops = [near.new_op() for _ in range(6)]
    speakers = {"home": ann, "near": bob, "away": cat}
    land.settling = True
    for n, op in enumerate(ops):
        client = list(speakers.values())[n % 3]
        client.ask(wire.GroupSend, group="red", text=op, op_id=op)
    for _ in range(after):
        land.once()
    land.settling = False
    for name in ("home", "near", "away"):
        if victim in (name, "all"):
            land.machines[name].restart()
    land.settle()
    land.cut()
    names = {"home": "ann", "near": "bob", "away": "cat"}
    for n, op in enumerate(ops):
        machine = land.machines[list(names)[n % 3]]
        client = next(iter(machine.clients.values()), None) or machine.open(names[machine.hub_id])
        assert client.call(wire.GroupSend, group="red", text=op, op_id=op, resend=True).msg_id == op
    land.link(home, near)
    land.link(home, away)
    agree(home, near, away)
    said = [text for _, _, text in lines(home)["red"] if text in ops]
    assert sorted(said) == sorted(ops)
    assert near.hub.state.hubs["home"].waiting == away.hub.state.hubs["home"].waiting == 0
    assert home.hub.state.hubs["near"].waiting == home.hub.state.hubs["away"].waiting == 0


# --- members -----------------------------------------------------------------------------------------------


def test_who_is_invited_sees_what_comes_from_then_on(land: Land, home: Machine, near: Machine):
    ann, bob = home.open("ann"), near.open("bob")
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=())
    say(ann, "secret")
    assert bob.call(wire.GroupHistory, group="red@home").code == "group_not_found"
    for _ in range(2):
        assert isinstance(ann.call(wire.GroupInvite, group="red", peer="bob@near"), wire.Done)
    say(ann, "welcome")
    assert texts(bob) == ["ann invited bob@near", "welcome"]
    dan = near.open("dan")
    ann.call(wire.GroupInvite, group="red", peer="dan@near")
    assert texts(dan) == ["ann invited dan@near"]
    assert texts(bob) == ["ann invited dan@near"]
    assert lines(near)["red"] == lines(home)["red"][2:]


def test_who_is_removed_is_told_why_and_hears_no_more(land: Land, red, home: Machine, near: Machine):
    ann, bob, cat = red
    assert isinstance(ann.call(wire.GroupRemove, group="red", peer="bob@near", reason="done"), wire.Done)
    say(ann, "without bob")
    [mail] = bob.inbox().messages
    assert (mail.kind, mail.sender, mail.text) == (
        "system",
        "ann@home",
        "ann@home removed you from the group red@home: done",
    )
    assert bob.call(wire.Groups).groups == ()
    assert "red" not in lines(near)
    assert texts(cat) == ["ann removed bob@near: done", "without bob"]
    failed = ann.call(wire.GroupRemove, group="red", peer="bob@near", reason="again")
    assert (failed.code, failed.message) == ("not_member", "bob@near is not in red")
    land.machines["home"].restart()
    assert [m.name for m in home.open("ann").call(wire.GroupInfo, group="red").members] == ["ann", "cat@away"]


def test_what_is_said_after_the_removal_is_dead_and_its_author_told(
    land: Land, red, home: Machine, near: Machine
):
    ann, bob, _ = red
    land.cut()
    ann.call(wire.GroupRemove, group="red", peer="bob@near", reason="done")
    sent = say(bob, "am I still here?")
    land.link(home, near)
    found = {mail.text for mail in bob.inbox().messages}
    assert found == {
        "ann@home removed you from the group red@home: done",
        "1 message from you to red@home ended unseen (not_member)",
    }
    [receipt] = bob.call(wire.Trace, msg_id=sent.msg_id).receipts
    assert (receipt.recipient, receipt.state, receipt.reason) == ("red@home", "dead", "not_member")
    assert "am I still here?" not in [text for _, _, text in lines(home)["red"]]


def test_who_leaves_is_out_at_once_even_while_the_home_is_away(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, bob, _cat = red
    dan = near.open("dan")
    ann.call(wire.GroupInvite, group="red", peer="dan@near")
    land.cut()
    assert isinstance(bob.call(wire.GroupLeave, group="red"), wire.Done)
    assert bob.call(wire.GroupSend, group="red@home", text="x").code == "not_member"
    assert bob.call(wire.Groups).groups == ()
    say(ann, "meanwhile")
    near.restart()
    bob, dan = near.open("bob"), near.open("dan")
    assert bob.call(wire.Groups).groups == ()
    assert bob.call(wire.Groups).unread == 0
    land.link(home, near)
    land.link(home, away)
    assert texts(dan)[-2:] == ["meanwhile", "bob@near left"]
    assert bob.inbox().messages == ()
    members = [m.name for m in ann.call(wire.GroupInfo, group="red").members]
    assert members == ["ann", "cat@away", "dan@near"]
    dan.call(wire.GroupLeave, group="red")
    assert "red" not in lines(near)
    assert near.hub.state.groups == {}
    agree(home, away)


def test_the_admin_ends_the_group_for_everybody(land: Land, red, near: Machine, away: Machine, home: Machine):
    ann, bob, cat = red
    land.wires[-1].cut()
    land.settle()
    ann.call(wire.GroupDelete, group="red")
    ended = "the group red@home ended: ann@home deleted it, or is no more"
    assert bob.texts() == [ended]
    assert cat.texts() == []
    say(cat, "too late")
    land.link(home, away)
    assert set(cat.texts()) == {
        ended,
        "1 message from you to red@home ended unseen (group_not_found)",
    }
    assert near.hub.state.groups == away.hub.state.groups == home.hub.state.groups == {}
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    assert texts(bob, "red@home") == ["ann created the group red"]


def test_only_the_admin_at_home_governs(land: Land, red):
    _, bob, _ = red
    for kind, fields in (
        (wire.GroupInvite, {"peer": "cat@away"}),
        (wire.GroupRemove, {"peer": "ann@home", "reason": "because"}),
        (wire.GroupDelete, {}),
    ):
        failed = bob.call(kind, group="red", **fields)
        assert (failed.code, failed.message) == ("not_admin", "only ann@home may do that in red@home")


def test_members_with_new_names_are_shown_under_them(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, bob, cat = red
    bob.call(wire.Rename, new_name="robert")
    ann.call(wire.Rename, new_name="anna")
    names = [m.name for m in cat.call(wire.GroupInfo, group="red").members]
    assert names == ["anna@home", "robert@near", "cat"]
    say(bob, "it is me")
    assert read(cat, "red")[-1] == ("robert@near", "it is me")
    land.cut()
    bob.call(wire.Rename, new_name="bob")
    land.link(home, near)
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == ["anna", "bob@near", "cat@away"]
    land.link(home, away)
    assert [m.name for m in cat.call(wire.GroupInfo, group="red").members] == ["anna@home", "bob@near", "cat"]
    away.restart()
    cat = away.open("cat")
    assert [m.name for m in cat.call(wire.GroupInfo, group="red").members] == ["anna@home", "bob@near", "cat"]


def test_a_reply_to_a_line_goes_to_its_author_where_there_is_a_link(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, bob, cat = red
    said = say(ann, "who knows?")
    assert bob.call(wire.Reply, ask_id=said.msg_id, text="I do").msg_id
    assert ann.texts() == ["I do"]
    said = say(cat, "and who else?")
    failed = bob.call(wire.Reply, ask_id=said.msg_id, text="me")
    assert (failed.code, "no link" in failed.message) == ("hub_not_found", True)
    land.link(near, away)
    said = say(cat, "and now?")
    assert bob.call(wire.Reply, ask_id=said.msg_id, text="me too").msg_id
    assert cat.texts() == ["me too"]


# --- databases that are lost, backups that are restored, gaps ------------------------------------------


def save(machine: Machine) -> bytes:
    """Stop it, copy its database, start it again."""
    machine.stop()
    saved = (machine.home / "hub.db").read_bytes()
    machine.start()
    return saved


def restore(machine: Machine, saved: bytes | None) -> None:
    """Kill it and start it from a copy of its database, or from none."""
    machine.kill()
    for file in machine.home.glob("hub.db*"):
        file.unlink()
    if saved is not None:
        (machine.home / "hub.db").write_bytes(saved)
    machine.start()


def relink(land: Land, home: Machine, *others: Machine) -> None:
    land.cut()
    for other in others:
        land.link(home, other)


def test_a_member_hub_with_a_restored_backup_asks_for_what_it_lost(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, _, _cat = red
    saved = save(near)
    relink(land, home, near, away)
    for n in range(250):  # more than a page
        say(ann, f"line {n}")
    restore(near, saved)
    bob = near.open("bob")
    relink(land, home, near, away)
    agree(home, near, away)
    assert len(lines(near)["red"]) == 251
    found = [text for _ in range(6) for text in texts(bob)]
    assert found == [f"line {n}" for n in range(250)]
    say(ann, "and on")
    assert texts(bob) == ["and on"]


def test_what_left_the_ring_of_the_home_is_missed(land: Land, tmp_path):
    home = land.machine("home", mailbox_messages=5)
    near = land.machine("near", mailbox_messages=5)
    ann, bob = home.open("ann"), near.open("bob")
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    saved = save(near)
    relink(land, home, near)
    for n in range(4):
        say(ann, f"early {n}")
    restore(near, saved)
    for n in range(3):
        say(ann, f"late {n}")
    bob = near.open("bob")
    relink(land, home, near)
    page = bob.call(wire.GroupHistory, group="red")
    assert [entry.text for entry in page.messages] == ["early 2", "early 3", "late 0", "late 1", "late 2"]
    assert page.missed == 3
    agree(home, near)


def test_an_outbox_that_holds_no_more_lines_leaves_a_gap_that_is_mended(land: Land, tmp_path):
    home = land.machine("home", outbox_messages=4)
    near = land.machine("near")
    ann, bob = home.open("ann"), near.open("bob")
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    land.cut()
    for n in range(20):
        say(ann, f"line {n}")
    assert home.hub.state.hubs["near"].waiting == 4
    land.link(home, near)
    assert texts(bob)[1:] == [f"line {n}" for n in range(20)]
    agree(home, near)


def test_a_gap_in_the_middle_shows_with_the_next_line(land: Land, red, home: Machine, near: Machine):
    ann, bob, _ = red
    link = next(each for each in land.wires if near in each.ends)
    link.held.add(near)
    say(ann, "lost on the way")
    frame = link.lines[near].pop()
    assert b"lost on the way" in frame
    # A line that the home's outbox had no room for: the number of the frame is used by the next.
    hub = home.hub.state.hubs["near"]
    hub.sent -= 1
    hub.inflight.pop()
    home.store._committer.ledger.db.execute("DELETE FROM outbox")
    home.store._committer.ledger.db.execute("UPDATE hubs SET last_seq = last_seq - 1 WHERE key = 'near'")
    link.held.clear()
    say(ann, "after it")
    assert texts(bob) == ["lost on the way", "after it"]
    agree(home, near)


def test_a_home_with_a_restored_backup_has_its_way(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, bob, cat = red
    say(ann, "kept")
    saved = save(home)
    relink(land, home, near, away)
    ann = home.open("ann")
    for n in range(3):
        say(ann, f"forgotten {n}")
    assert texts(bob) == ["kept", "forgotten 0", "forgotten 1", "forgotten 2"]
    restore(home, saved)
    ann = home.open("ann")
    say(ann, "another future")
    say(bob, "mine")
    relink(land, home, near, away)
    agree(home, near, away)
    assert texts(bob) == ["another future", "mine"]
    assert texts(cat)[-3:] == ["kept", "another future", "mine"]
    say(cat, "and on")
    assert texts(bob) == ["and on"]
    agree(home, near, away)


def test_a_home_that_forgot_an_invitation_ends_the_group_there(
    land: Land, home: Machine, near: Machine, away
):
    ann, bob = home.open("ann"), near.open("bob")
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=())
    saved = save(home)
    land.link(home, near)
    home.open("ann").call(wire.GroupInvite, group="red", peer="bob@near")
    assert texts(bob) == ["ann invited bob@near"]
    restore(home, saved)
    land.link(home, near)
    assert bob.texts() == ["the group red@home ended: home knows of no such group with you in it"]
    assert near.hub.state.groups == {}


def test_a_home_that_lost_its_database_has_no_groups_any_more(land: Land, red, home: Machine, near: Machine):
    _, bob, _ = red
    restore(home, None)
    land.link(home, near)
    assert bob.texts() == ["the group red@home ended: home knows of no such group with you in it"]
    ann = home.open("ann")
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    assert texts(bob) == ["ann created the group red"]


def test_a_member_hub_that_lost_its_database_has_no_members_any_more(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, _, cat = red
    restore(near, None)
    bob = near.open("bob")
    relink(land, home, near, away)
    assert bob.call(wire.Groups).groups == ()
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == ["ann", "cat@away"]
    assert texts(cat)[-1] == "bob@near left"
    ann.call(wire.GroupInvite, group="red", peer="bob@near")
    assert texts(bob) == ["ann invited bob@near"]


def test_a_member_hub_restored_to_before_the_group_gets_it_again(
    land: Land, home: Machine, near: Machine, away: Machine
):
    ann, bob = home.open("ann"), near.open("bob")
    saved = save(near)
    bob = near.open("bob")
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=())
    say(ann, "before bob")
    ann.call(wire.GroupInvite, group="red", peer="bob@near")
    say(ann, "after bob")
    restore(near, saved)
    bob = near.open("bob")
    land.link(home, near)
    assert texts(bob) == ["ann invited bob@near", "after bob"]
    assert lines(near)["red"] == lines(home)["red"][2:]


def test_a_removal_that_was_lost_is_found_out(land: Land, red, home: Machine, near: Machine, away: Machine):
    ann, bob, _ = red
    dan = near.open("dan")
    ann.call(wire.GroupInvite, group="red", peer="dan@near")
    saved = save(near)
    relink(land, home, near, away)
    ann.call(wire.GroupRemove, group="red", peer="bob@near", reason="done")
    restore(near, saved)
    bob, dan = near.open("bob"), near.open("dan")
    relink(land, home, near, away)
    assert bob.texts() == ["you are no longer in the group red@home"]
    assert texts(dan)[-1] == "ann removed bob@near: done"
    agree(home, near, away)


def test_a_page_that_is_out_while_lines_are_replaced_is_not_confirmed(
    land: Land, red, home: Machine, near: Machine
):
    ann, bob, _ = red
    saved = save(home)
    land.link(home, near)
    ann = home.open("ann")
    say(ann, "forgotten")
    page = bob.call(wire.GroupHistory, group="red")
    restore(home, saved)
    ann = home.open("ann")
    say(ann, "instead")
    land.link(home, near)
    bob.call(wire.GroupConfirm, group="red", upto=page.upto)
    assert texts(bob) == ["instead"]


def test_lines_of_which_nothing_is_left_are_missed_everywhere(
    land: Land, red, home: Machine, near: Machine, away
):
    ann, bob, _ = red
    saved = save(near)
    relink(land, home, near, away)
    for n in range(3):
        say(ann, f"line {n}")
    db = home.store._committer.ledger.db
    db.execute("DELETE FROM bodies WHERE text = CAST('line 1' AS BLOB)")
    db.execute("DELETE FROM messages WHERE mid = (SELECT max(mid) FROM group_log)")
    restore(near, saved)
    bob = near.open("bob")
    relink(land, home, near, away)
    page = bob.call(wire.GroupHistory, group="red")
    assert ([entry.text for entry in page.messages], page.missed) == (["line 0"], 2)


# --- forgetting ------------------------------------------------------------------------------------------


def test_a_group_whose_hub_is_gone_for_good_can_be_forgotten(land: Land, red, near: Machine, home: Machine):
    ann, bob, _ = red
    dan = near.open("dan")
    ann.call(wire.GroupInvite, group="red", peer="dan@near")
    land.cut()
    assert isinstance(dan.call(wire.GroupForget, group="red@home"), wire.Done)
    assert bob.call(wire.Groups).groups == dan.call(wire.Groups).groups == ()
    assert "red" not in lines(near)
    failed = bob.call(wire.GroupSend, group="red@home", text="x")
    assert (failed.code, failed.message) == (
        "not_member",
        "you are not in red@home: ask ann@home to invite you",
    )
    assert isinstance(dan.call(wire.GroupForget, group="red@home"), wire.Done)
    # Should it come back after all, it hears of it.
    land.link(home, near)
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == ["ann", "cat@away"]
    assert near.hub.state.groups == {}


def test_a_group_of_this_hub_is_not_forgotten_but_deleted(land: Land, red, home: Machine):
    ann = red[0]
    assert ann.call(wire.GroupForget, group="red").code == "bad_args"


def test_a_forgotten_hub_takes_its_groups_and_members_along(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, _bob, cat = red
    near.open("dan").call(wire.GroupCreate, name="blue", members=("ann@home",))
    assert texts(ann, "blue@near") == ["dan created the group blue"]
    home.open("person").call(wire.ForgetHub, hub_id="near")
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == ["ann", "cat@away"]
    assert [each.name for each in ann.call(wire.Groups).groups] == ["red"]
    assert "the group blue@near is gone: a person had this hub forget near" in ann.texts()
    assert texts(ann)[-1] == "bob@near left: a person had this hub forget near"
    assert texts(cat)[-1] == "bob@near left"
    land.link(home, near)
    assert near.hub.state.groups_by_name.keys() == {"blue"}


def test_a_copy_that_is_made_while_its_hub_is_being_forgotten_goes_too(
    land: Land, home: Machine, near: Machine
):
    ann, bob, person = home.open("ann"), near.open("bob"), near.open("person")
    land.link(home, near)
    near.held = True
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    forgets = person.ask(wire.ForgetHub, hub_id="home")
    near.held = False
    land.settle()
    assert isinstance(person.answers[forgets], wire.HubForgotten)
    assert bob.call(wire.Groups).groups == ()
    assert lines(near) == {}


def test_in_a_copy_that_is_made_anew_ones_own_lines_are_not_unread(land: Land, home: Machine, near: Machine):
    ann, bob = home.open("ann"), near.open("bob")
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    say(bob, "mine")
    near.open("person").call(wire.ForgetHub, hub_id="home")
    land.link(home, near)
    for _ in range(2):
        assert [(each.name, each.unread_count) for each in bob.call(wire.Groups).groups] == [("red@home", 1)]
        near.restart()
        bob = near.open("bob")


def test_a_peer_that_is_forgotten_leaves_groups_on_other_hubs(land: Land, red, home: Machine, near: Machine):
    ann, bob, _ = red
    dan = near.open("dan")
    ann.call(wire.GroupInvite, group="red", peer="dan@near")
    bob.close()
    person = near.open("person")
    person.call(wire.ForgetPeer, name="bob")
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == ["ann", "cat@away", "dan@near"]
    land.cut()
    dan.call(wire.GroupLeave, group="red")
    dan.close()
    person.call(wire.ForgetPeer, name="dan")
    assert near.hub.state.groups == {}
    land.link(home, near)
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == ["ann", "cat@away"]


def test_an_admin_that_is_forgotten_ends_its_groups_elsewhere_too(land: Land, red, home: Machine):
    ann, bob, cat = red
    ann.close()
    home.open("person").call(wire.ForgetPeer, name="ann")
    assert bob.texts() == cat.texts() == ["the group red@home ended: ann@home deleted it, or is no more"]


# --- addresses and limits ------------------------------------------------------------------------------


def test_a_bare_name_is_that_of_a_group_here_or_else_of_the_one_elsewhere(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, bob, cat = red
    for address in ("red", "RED", "red@home", "Red@HOME"):
        assert bob.call(wire.GroupInfo, group=address).group == "red@home"
    assert ann.call(wire.GroupInfo, group="red@HOME").group == "red"
    land.link(near, away)
    cat.call(wire.GroupCreate, name="red", members=("bob@near",))
    failed = bob.call(wire.GroupInfo, group="red")
    assert (failed.code, failed.message) == (
        "group_not_found",
        "red is several groups: say which, red@home, red@away",
    )
    bob.call(wire.GroupCreate, name="red", members=())
    assert bob.call(wire.GroupInfo, group="red").group == "red"
    assert bob.call(wire.GroupInfo, group="red@near").group == "red"
    assert bob.call(wire.GroupInfo, group="red@away").group == "red@away"
    failed = bob.call(wire.GroupInfo, group="blue@home")
    assert (failed.code, "nobody here is in a group blue@home" in failed.message) == ("group_not_found", True)
    assert bob.call(wire.GroupInfo, group="red@nowhere").code == "hub_not_found"
    dan = near.open("dan")
    assert dan.call(wire.GroupInfo, group="blue").code == "group_not_found"
    assert dan.call(wire.GroupInfo, group="red@home").code == "not_member"


def test_who_was_never_told_of_cannot_be_invited(land: Land, home: Machine, near: Machine):
    home.knows("near")
    ann = home.open("ann")
    ann.call(wire.GroupCreate, name="red", members=())
    failed = ann.call(wire.GroupInvite, group="red", peer="bob@near")
    assert (failed.code, "once its link is up" in failed.message) == ("hub_unreachable", True)
    assert ann.call(wire.GroupCreate, name="blue", members=("bob@near",)).code == "hub_unreachable"
    land.link(home, near)
    assert ann.call(wire.GroupInvite, group="red", peer="bob@near").code == "peer_not_found"


def test_members_elsewhere_count_for_the_limit(land: Land, tmp_path):
    home, near = land.machine("home", group_members=3), land.machine("near")
    ann = home.open("ann")
    for name in ("bob", "cat", "dan"):
        near.open(name)
    land.link(home, near)
    everybody = ("bob@near", "cat@near", "dan@near")
    assert ann.call(wire.GroupCreate, name="red", members=everybody).code == "limit_reached"
    ann.call(wire.GroupCreate, name="red", members=everybody[:1])
    home.held = True
    first = ann.ask(wire.GroupInvite, group="red", peer="cat@near")
    again = ann.ask(wire.GroupInvite, group="red", peer="cat@near")
    failed = ann.call(wire.GroupInvite, group="red", peer="dan@near")
    assert (failed.code, failed.message) == ("limit_reached", "red has its 3 members")
    home.held = False
    land.settle()
    assert isinstance(ann.answers[first], wire.Done)
    assert isinstance(ann.answers[again], wire.Done)
    home.refuses = "the disk is full"
    ann.call(wire.GroupRemove, group="red", peer="cat@near", reason="")
    home.refuses = ""
    ann.call(wire.GroupRemove, group="red", peer="cat@near", reason="")
    home.refuses = "the disk is full"
    assert ann.call(wire.GroupInvite, group="red", peer="dan@near").code == "mailbox_error"
    home.refuses = ""
    assert isinstance(ann.call(wire.GroupInvite, group="red", peer="dan@near"), wire.Done)


def test_groups_of_other_hubs_do_not_count_among_ours_but_have_a_limit_of_their_own(land: Land, tmp_path):
    home, near = land.machine("home"), land.machine("near", groups=1)
    ann, bob = home.open("ann"), near.open("bob")
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    assert bob.call(wire.GroupCreate, name="own", members=()).group == "own"
    ann.call(wire.GroupCreate, name="blue", members=("bob@near",))
    assert {each.name for each in bob.call(wire.Groups).groups} == {"red@home", "own"}
    assert [m.name for m in ann.call(wire.GroupInfo, group="blue").members] == ["ann"]


def test_a_post_waits_within_the_limits_of_the_outbox(land: Land, tmp_path):
    home, near = land.machine("home"), land.machine("near", mailbox_messages=3)
    ann, bob = home.open("ann"), near.open("bob")
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    land.cut()
    for n in range(3):
        say(bob, f"line {n}")
    failed = bob.call(wire.GroupSend, group="red", text="x")
    assert (failed.code, "3 messages wait for red" in failed.message) == ("limit_reached", True)


def test_a_disk_that_takes_nothing_is_an_answer_and_changes_nothing(land: Land, red, near: Machine):
    bob = red[1]
    near.refuses = "the disk is full"
    assert bob.call(wire.GroupSend, group="red", text="x").code == "mailbox_error"
    assert bob.call(wire.GroupLeave, group="red").code == "mailbox_error"
    near.refuses = ""
    assert bob.call(wire.GroupInfo, group="red").group == "red@home"


def test_two_departures_at_once_are_one(land: Land, red, near: Machine):
    bob = red[1]
    near.held = True
    asked = [bob.ask(wire.GroupLeave, group="red") for _ in range(2)]
    near.held = False
    land.settle()
    assert [type(bob.answers[each]).__name__ for each in asked] == ["Done", "Failed"]
    assert bob.answers[asked[1]].code == "not_member"


def test_what_is_waiting_too_long_expires_and_the_group_goes_on(
    land: Land, red, home: Machine, near: Machine, away
):
    ann, bob, _ = red
    land.cut()
    say(ann, "old")
    say(bob, "my old")
    for machine in land.machines.values():
        machine.feed(Tick())
    land.forward(31 * 86_400)
    for _ in range(3):
        land.forward(700)
    assert home.hub.state.hubs["near"].waiting == near.hub.state.hubs["home"].waiting == 0
    bob = near.open("bob")
    assert bob.texts() == ["1 message from you to red@home ended unseen (expired)"]
    land.link(home, near)
    assert texts(bob) == ["old"]


def test_whom_a_person_blocked_is_not_heard(land: Land, red, home: Machine, near: Machine, away: Machine):
    ann, bob, cat = red
    person = near.open("person")
    person.call(wire.Block, name="cat@away")
    say(cat, "psst")
    say(ann, "hello")
    page = bob.call(wire.GroupHistory, group="red")
    assert ([entry.text for entry in page.messages], page.missed) == (["hello"], 1)
    home.open("person").call(wire.Block, name="cat@away")
    say(cat, "anybody?")
    assert cat.texts() == ["1 message from you to red@home ended unseen (blocked)"]


@pytest.mark.guarantee("blocked-sends-nothing")
@pytest.mark.parametrize("what", ["known", "forgotten", "restarted"])
def test_whom_a_person_blocked_is_not_heard_under_another_name_either(
    land: Land, red, home: Machine, near: Machine, away: Machine, what: str
):
    _, bob, cat = red
    land.link(near, away)
    person = near.open("person")
    person.call(wire.Block, name="cat@away")
    land.cut()
    if what != "known":
        assert isinstance(person.call(wire.ForgetHub, hub_id="away"), wire.HubForgotten)
    if what == "restarted":
        near.restart()
        bob, person = near.open("bob"), near.open("person")
    land.link(home, near)
    land.link(home, away)
    cat.call(wire.Rename, new_name="tom")
    say(cat, "it is me, tom")
    page = bob.call(wire.GroupHistory, group="red")
    assert ([entry.text for entry in page.messages], page.missed) == ([], 1)
    person.call(wire.Block, name="cat@away", blocked=False)
    say(cat, "and now?")
    assert texts(bob) == ["and now?"]


def test_a_hub_may_be_kept_out_of_groups(land: Land, home: Machine, near: Machine):
    ann = home.open("ann")
    near.open("bob")
    near.feed(HubsConfigured(("home",), {"home": frozenset({"groups"})}))
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    assert near.hub.state.groups == {}
    relink(land, home, near)
    assert near.hub.state.groups == {}


# --- hubs that misbehave ---------------------------------------------------------------------------------


def mail(to: Machine, of: Machine, body: link_wire.LinkFrame, msg_id: str = "") -> str:
    """The same out of its outbox; the code with which it is rejected."""
    before = dict(to.hub.counters)
    leaves = ((msg_id or to.new_op(), link_wire.encode_body(body)),)
    op = SendLeaves(hub_no=of.hub.state.hubs[to.hub_id].no, leaves=leaves, at=of.clock.wall)
    of.hub.state.outstanding += 1
    of.store.submit((op,), LeavesSent())
    of.land.settle()
    codes = [what for what, n in to.hub.counters.items() if n > before.get(what, 0) and "rejected" in what]
    return codes[0].removeprefix("link rejected ") if codes else ""


def group_of(machine: Machine, name: str = "red") -> Group:
    return machine.hub.state.groups_by_name[name]


def test_a_hub_speaks_only_for_members_that_are_its_own(land: Land, red, home: Machine, near: Machine, away):
    ann, bob, cat = red
    group = group_of(home).group_id
    dan = near.open("dan")

    def post(peer_id: str, **fields) -> link_wire.GroupPostBody:
        return link_wire.GroupPostBody(**{"group": group, "sender_id": peer_id, "text": "x", **fields})

    assert mail(home, near, post(cat.peer_id)) == "not_member"
    assert mail(home, near, post(ann.peer_id)) == "not_member"
    assert mail(home, near, post(dan.peer_id)) == "not_member"
    assert mail(home, near, post(bob.peer_id, group=home.new_op())) == "group_not_found"
    assert mail(home, near, post(bob.peer_id, text="")) == "bad_args"
    assert mail(home, near, post(bob.peer_id, text="x" * 600_000)) == "too_large"
    assert mail(home, near, link_wire.GroupLeaveBody(group=group, peer_id=cat.peer_id)) == "not_member"
    assert mail(home, near, link_wire.GroupLeaveBody(group=home.new_op(), peer_id=cat.peer_id)) == (
        "group_not_found"
    )
    said = say(ann, "an id that is taken")
    assert mail(home, near, post(bob.peer_id), said.msg_id) == "bad_msg"
    before = lines(home)
    sent = say(bob, "once")
    assert mail(home, near, post(bob.peer_id, text="once"), sent.msg_id) == ""
    assert len(lines(home)["red"]) == len(before["red"]) + 1
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == ["ann", "bob@near", "cat@away"]


def line(seq: int, **fields) -> link_wire.GroupLine:
    return link_wire.GroupLine(**{"seq": seq, "msg_id": new_id(0), "author": "ann", "text": "x", **fields})


def test_lines_of_groups_that_are_not_there_are_asked_for_and_refused(
    land: Land, red, home: Machine, near, away
):
    _, bob, _ = red
    group = near.new_op()
    body = link_wire.GroupLineBody(group=group, name="red", line=line(7))
    assert mail(near, home, body) == ""
    assert mail(near, home, link_wire.GroupEndBody(group=group, name="red", by="ann")) == ""
    # Somebody else's group, or a member's: near is no home of it.
    known = group_of(home).group_id
    body = link_wire.GroupLineBody(group=known, name="red", line=line(7, text="forged"))
    assert mail(home, near, body) == ""
    assert "forged" not in str(lines(home))
    assert bob.texts() == []
    members = [link_wire.GroupMember(peer_id=new_id(0), name="x") for _ in range(101)]
    broken = link_wire.GroupLineBody(group=known, name="red", line=line(7), members=tuple(members))
    assert mail(near, home, broken) == "bad_msg"
    assert (
        mail(near, home, link_wire.GroupLineBody(group=known, name="red", line=line(2**62 + 1))) == "bad_msg"
    )


def test_a_line_with_a_wrong_number_or_text_does_no_harm(land: Land, red, home: Machine, near: Machine):
    _ann, bob, _ = red
    group, kept = group_of(home).group_id, lines(near)
    for seq in (2**62, 99, 1):
        assert mail(near, home, link_wire.GroupLineBody(group=group, name="red", line=line(seq))) == ""
    assert lines(near) == kept
    long = link_wire.GroupLineBody(group=group, name="red", line=line(2, text="x" * 600_000))
    assert mail(near, home, long) == ""
    assert mail(near, home, link_wire.GroupLineBody(group=group, name="red", line=line(3, text=""))) == ""
    # An id that stands for another line.
    first = lines(near)["red"][0][1]
    assert (
        mail(near, home, link_wire.GroupLineBody(group=group, name="red", line=line(4, msg_id=first))) == ""
    )
    page = bob.call(wire.GroupHistory, group="red")
    assert (page.messages, page.missed, page.unread_remaining) == ((), 3, 0)


def test_pages_that_nobody_asked_for_or_that_are_none_are_left_alone(
    land: Land, red, home: Machine, near: Machine
):
    _ann, _bob, _ = red
    group, kept = group_of(home).group_id, lines(near)
    page = link_wire.GroupPage(group=group, name="red", last=9, lines=(line(9),))
    tell(near, home, page)
    assert near.hub.counters["link pages nobody asked for"] == 1
    link = near.links[near.hub.state.hubs["home"].link]
    for number, broken in enumerate(
        (
            link_wire.GroupPage(group=group, last=9, lines=(line(9),)),
            link_wire.GroupPage(group=group, name="red", last=9, lines=(line(7), line(9))),
            link_wire.GroupPage(group=group, name="red", last=8, lines=(line(9),)),
            link_wire.GroupPage(group=group, name="red", last=8, more=True),
        ),
        1,
    ):
        link.held.add(home)
        mail(near, home, link_wire.GroupLineBody(group=group, name="red", line=line(99)))
        tell(near, home, broken)
        assert near.hub.counters["link pages that are none"] == number
        link.lines[home].clear()
    assert lines(near) == kept


def test_a_hub_that_asks_without_end_is_answered_one_question_at_a_time(
    land: Land, red, home: Machine, near, away
):
    group = group_of(home).group_id
    home.held = True
    for _ in range(5):
        tell(home, near, link_wire.GroupAsk(group=group))
    assert home.hub.counters["link asks at once"] == 4
    home.held = False
    land.settle()
    tell(home, near, link_wire.GroupAsk(group=home.new_op()))
    # blue has no members there
    red[0].call(wire.GroupCreate, name="blue", members=("cat@away",))
    link = near.links[near.hub.state.hubs["home"].link]
    link.held.add(near)
    tell(home, near, link_wire.GroupAsk(group=group_of(home, "blue").group_id))
    assert b'"gone":true' in link.lines[near][-1]


def test_a_hub_that_names_groups_without_end_is_not_asked_for_them_all(
    land: Land, home: Machine, near: Machine
):
    link = land.link(home, near)
    link.held.add(home)
    for _ in range(6):
        states = [link_wire.GroupState(group=near.new_op(), last=1, members=0) for _ in range(200)]
        tell(near, home, link_wire.GroupStates(groups=tuple(states)))
    assert near.hub.counters["link groups beyond the limit"] == 199
    assert len(near.hub.state.hubs["home"].wanted) == 1_000
    link.held.clear()
    land.settle()
    assert near.hub.state.groups == {}


def test_a_line_that_adds_peers_that_are_not_there_is_contradicted(
    land: Land, red, home: Machine, near, away
):
    ann, bob, _ = red
    home.store._committer.ledger.db.execute(
        "UPDATE peers SET peer_id = ? WHERE hub = 'near'", (home.new_op(),)
    )
    home.restart()
    relink(land, home, near, away)
    ann = home.open("ann")
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == ["ann", "cat@away"]
    assert bob.texts() == ["you are no longer in the group red@home"]
    assert near.hub.state.groups == {}


# --- mending that is disturbed -----------------------------------------------------------------------------


@pytest.fixture
def torn(land: Land, red, home: Machine, near: Machine, away: Machine) -> Client:
    """near was restored from a backup: it lacks lines and a removal, and takes a stray for a member."""
    ann, _bob, _cat = red
    near.open("dan")
    ann.call(wire.GroupInvite, group="red", peer="dan@near")
    saved = save(near)
    relink(land, home, near, away)
    near.open("eve")
    ann.call(wire.GroupInvite, group="red", peer="eve@near")
    for n in range(105):  # more than a page
        say(ann, f"line {n}")
    ann.call(wire.GroupRemove, group="red", peer="dan@near", reason="done")
    land.cut()
    restore(near, saved)
    return ann


def mended(land: Land, ann: Client, home: Machine, near: Machine, away: Machine) -> None:
    """All agree, and who is no member is none anywhere."""
    agree(home, near, away)
    assert len(lines(near)["red"]) >= 105
    expected = ["ann", "bob@near", "cat@away"]
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == expected
    assert [m.peer_id for m in near.hub.state.groups_by_name["red@home"].roster] == [
        m.peer_id for m in away.hub.state.groups_by_name["red@home"].roster
    ]
    assert list(near.hub.state.groups_by_name["red@home"].members) == [near.hub.state.names["bob"].no]


@pytest.mark.parametrize("victim", ["home", "near"])
@pytest.mark.parametrize("after", range(0, 40, 3))
def test_a_disk_that_refuses_in_the_middle_of_mending_delays_it(
    land: Land, torn, home: Machine, near: Machine, away: Machine, victim: str, after: int
):
    land.link(home, away)
    land.settling = True
    land.begin_link(home, near)
    for _ in range(after):
        land.once()
    land.machines[victim].refuses = "the disk is full"
    for _ in range(3):
        land.once()
    land.settling = False
    land.settle()
    land.machines[victim].refuses = ""
    land.forward(6)
    if not any(near in wire_.ends for wire_ in land.wires):
        land.link(home, near)
    land.forward(6)
    ann = torn if home.clients else home.open("ann")
    relink(land, home, near, away)
    mended(land, ann, home, near, away)


@pytest.mark.parametrize("how", ["cut", "home", "near"])
@pytest.mark.parametrize("after", range(0, 44, 3))
def test_a_link_that_is_cut_in_the_middle_of_mending_delays_it(
    land: Land, torn, home: Machine, near: Machine, away: Machine, how: str, after: int
):
    land.link(home, away)
    land.settling = True
    link = land.begin_link(home, near)
    for _ in range(after):
        land.once()
    if how == "cut":
        link.cut()
    else:
        land.machines[how].restart()
    land.settling = False
    land.settle()
    relink(land, home, near, away)
    relink(land, home, near, away)  # what is contradicted shows with the next link
    ann = torn if how != "home" else home.open("ann")
    mended(land, ann, home, near, away)


@pytest.mark.parametrize("what", ["delete", "remove", "cut"])
def test_what_changes_while_a_question_is_at_the_disk(
    land: Land, red, home: Machine, near: Machine, away: Machine, what: str
):
    ann, bob, _ = red
    group = group_of(home).group_id
    home.held = True
    if what == "delete":
        ann.ask(wire.GroupDelete, group="red")
    elif what == "remove":
        ann.ask(wire.GroupRemove, group="red", peer="bob@near", reason="")
    tell(home, near, link_wire.GroupAsk(group=group))
    if what == "cut":
        link_ = next(each for each in land.wires if near in each.ends)
        link_.cut()
    home.held = False
    land.settle()
    if what == "cut":
        land.link(home, near)
        assert bob.call(wire.GroupInfo, group="red").group == "red@home"
    else:
        assert near.hub.state.groups == {}
    assert not home.hub.state.hubs["near"].answering


def test_a_disk_that_refuses_while_a_question_is_answered_is_asked_again(
    land: Land, red, home: Machine, near, away
):
    ann, bob, _ = red
    saved = save(near)
    relink(land, home, near, away)
    say(ann, "lost")
    restore(near, saved)
    bob = near.open("bob")
    land.cut()
    link_ = land.begin_link(home, near)
    land.settling = True
    while not any(b"group_ask" in each for each in link_.lines[home]):
        land.once()
    land.settling = False
    home.refuses = "the disk is full"
    land.settle()
    home.refuses = ""
    land.forward(6)
    assert texts(bob) == ["lost"]


@pytest.mark.parametrize("step", ["states", "compare", "ask", "page"])
def test_each_step_of_mending_is_tried_again_when_the_disk_refused(
    land: Land, red, home: Machine, near: Machine, away: Machine, step: str
):
    ann, bob, _ = red
    saved = save(near)
    relink(land, home, near, away)
    say(ann, "lost")
    restore(near, saved)
    bob = near.open("bob")
    land.cut()
    refused = {"states": ReadHeads, "compare": ReadHeads, "ask": ReadHeads, "page": TakePage}[step]
    skip = 1 if step == "ask" else 0
    victim = home if step == "states" else near
    submit = victim.store.submit

    def refuse(unit, then) -> None:
        nonlocal skip
        if isinstance(unit[0], refused):
            skip -= 1
            if skip < 0:
                victim.events.append(StoreFailed(then, "mailbox_error", "the disk is full"))
                return
        submit(unit, then)

    victim.store.submit = refuse  # type: ignore[method-assign]
    land.link(home, near)
    assert texts(bob) == []
    victim.store.submit = submit  # type: ignore[method-assign]
    land.forward(6)
    assert texts(bob) == ["lost"]
    # The same, and the link is gone before it is tried again.
    restore(near, saved)
    bob = near.open("bob")
    land.cut()
    skip = 1 if step == "ask" else 0
    submit = victim.store.submit
    victim.store.submit = refuse  # type: ignore[method-assign]
    land.link(home, near)
    victim.store.submit = submit  # type: ignore[method-assign]
    land.cut()
    land.forward(6)
    assert texts(bob) == []
    land.link(home, near)
    assert texts(bob) == ["lost"]


def test_a_group_of_the_same_name_takes_the_place_of_one_that_its_home_forgot(
    land: Land, home: Machine, near: Machine
):
    ann, bob = home.open("ann"), near.open("bob")
    land.link(home, near)
    saved = save(home)
    land.link(home, near)
    home.open("ann").call(wire.GroupCreate, name="red", members=("bob@near",))
    assert texts(bob) == ["ann created the group red"]
    restore(home, saved)
    ann = home.open("ann")
    ann.call(wire.GroupCreate, name="RED", members=("bob@near",))
    land.link(home, near)
    assert [each.name for each in bob.call(wire.Groups).groups] == ["RED@home"]
    assert texts(bob, "red") == ["ann created the group RED"]
    agree(home, near)


def test_lines_that_are_lost_for_good_are_missed_and_the_ring_goes_on(land: Land, tmp_path):
    home, near = land.machine("home", mailbox_messages=5), land.machine("near", mailbox_messages=50)
    ann, bob = home.open("ann"), near.open("bob")
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    saved = save(near)
    relink(land, home, near)
    for n in range(12):
        say(ann, f"line {n}")
    restore(near, saved)
    bob = near.open("bob")
    relink(land, home, near)
    page = bob.call(wire.GroupHistory, group="red")
    assert [entry.text for entry in page.messages] == [
        "ann created the group red",
        *[f"line {n}" for n in range(7, 12)],
    ]
    assert page.missed == 7
    # So is what a person removed at the home.
    relink(land, home, near)
    land.cut()
    db = home.store._committer.ledger.db
    say(ann, "removed")
    db.execute("DELETE FROM group_log")
    db.execute("UPDATE groups SET first = last + 1, bytes = 0")
    db.execute("DELETE FROM outbox")
    db.execute("UPDATE hubs SET outbox_bytes = 0")
    land.link(home, near)
    assert near.hub.state.groups_by_name["red@home"]
    page = bob.call(wire.GroupHistory, group="red")
    assert (page.messages[-1].text, page.missed) == ("line 11", 8)
    say(ann, "and on")
    page = bob.call(wire.GroupHistory, group="red")
    assert ([entry.text for entry in page.messages], page.missed) == (["and on"], 0)


def test_a_peer_is_forgotten_while_its_group_ends(land: Land, red, home: Machine, near: Machine):
    ann, bob, _ = red
    bob.close()
    person = near.open("person")
    near.held = True
    ann.call(wire.GroupDelete, group="red")
    asked = person.ask(wire.ForgetPeer, name="bob")
    near.held = False
    land.settle()
    assert isinstance(person.answers[asked], wire.Done)
    assert near.hub.state.groups == {}


def test_a_hub_is_forgotten_while_groups_are_being_made(land: Land, red, home: Machine, near: Machine, away):
    ann, _bob, _ = red
    person = near.open("person")
    eve = near.open("eve", push=True)
    near.held = True
    ann.call(wire.GroupCreate, name="blue", members=("bob@near",))
    made = eve.ask(wire.GroupCreate, name="own", members=("ann@home",))
    gone = person.ask(wire.ForgetHub, hub_id="home")
    late = eve.ask(wire.GroupCreate, name="later", members=())
    near.held = False
    land.settle()
    assert {type(eve.answers[each]) for each in (made, late)} == {wire.GroupMembers}
    assert isinstance(person.answers[gone], wire.HubForgotten)
    assert near.hub.state.groups_by_name.keys() == {"own", "later"}
    assert [m.name for m in eve.call(wire.GroupInfo, group="own").members] == ["eve"]
    near.restart()
    assert near.hub.state.groups_by_name.keys() == {"own", "later"}
    eve = near.open("eve")
    assert [m.name for m in eve.call(wire.GroupInfo, group="own").members] == ["eve"]
    assert eve.call(wire.GroupSend, group="own", text="alone").msg_id


class Refusing:
    """A machine's disk refuses units that begin with such an op; the core hears of it as the test says."""

    def __init__(self, machine: Machine, kind: type[Op], after: int = 0) -> None:
        self.machine = machine
        self.kind = kind
        self.after = after
        self.refused: list[StoreFailed] = []
        self.submit = machine.store.submit
        machine.store.submit = self._submit  # type: ignore[method-assign]

    def _submit(self, unit: tuple[Op, ...], then: object) -> None:
        if isinstance(unit[0], self.kind):
            self.after -= 1
            if self.after < 0:
                self.refused.append(StoreFailed(then, "mailbox_error", "the disk is full"))
                return
        self.submit(unit, then)

    def tell(self) -> None:
        """The disk is well again, and what it refused is told."""
        self.machine.store.submit = self.submit  # type: ignore[method-assign]
        assert self.refused
        self.machine.events.extend(self.refused)
        self.machine.land.settle()


@pytest.mark.parametrize("step", ["states", "compare", "ask", "answer", "page"])
def test_a_refusal_that_is_heard_of_after_the_link_was_lost_is_passed_over(
    land: Land, red, home: Machine, near: Machine, away: Machine, step: str
):
    ann, bob, _ = red
    saved = save(near)
    relink(land, home, near, away)
    say(ann, "lost")
    restore(near, saved)
    bob = near.open("bob")
    land.cut()
    refusing = {
        "states": lambda: Refusing(home, ReadHeads),
        "compare": lambda: Refusing(near, ReadHeads),
        "ask": lambda: Refusing(near, ReadHeads, after=1),
        "answer": lambda: Refusing(home, ReadLines),
        "page": lambda: Refusing(near, TakePage),
    }[step]()
    land.link(home, near)
    land.cut()
    refusing.tell()
    land.forward(6)
    assert texts(bob) == []
    land.link(home, near)
    assert texts(bob) == ["lost"]


def test_a_page_that_is_stored_after_the_link_was_lost_is_kept(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, _, _ = red
    saved = save(near)
    relink(land, home, near, away)
    say(ann, "late")
    restore(near, saved)
    bob = near.open("bob")
    land.cut()
    submit = near.store.submit

    def slowly(unit: tuple[Op, ...], then: object) -> None:
        submit(unit, then)
        near.held |= isinstance(unit[0], TakePage)

    near.store.submit = slowly  # type: ignore[method-assign]
    land.link(home, near)
    assert near.held
    land.cut()
    near.held = False
    land.settle()
    assert texts(bob) == ["late"]
    land.link(home, near)
    agree(home, near)


def test_a_gap_that_is_found_after_the_link_was_lost_is_mended_by_the_next(
    land: Land, red, home: Machine, near: Machine
):
    ann, bob, _ = red
    near.held = True
    group = group_of(home).group_id
    mail(near, home, link_wire.GroupLineBody(group=group, name="red", line=line(99)))
    land.cut()
    near.held = False
    land.settle()
    say(ann, "and on")
    land.link(home, near)
    assert texts(bob) == ["and on"]
    agree(home, near)


def test_who_was_invited_since_the_disk_refused_to_compare_stays_a_member(
    land: Land, red, home: Machine, near: Machine
):
    """What the home said then, that near has no members, is not so any more when it is compared at last."""
    ann, bob, _ = red
    ann.call(wire.GroupRemove, group="red", peer="bob@near", reason="for now")
    refusing = Refusing(near, ReadHeads)
    relink(land, home, near)
    ann.call(wire.GroupInvite, group="red", peer="bob@near")
    refusing.tell()
    land.forward(6)
    assert bob.call(wire.GroupInfo, group="red@home").group == "red@home"
    assert bob.call(wire.GroupSend, group="red@home", text="still here").msg_id
    agree(home, near)


def test_an_end_that_the_disk_refused_comes_with_the_next_link(land: Land, red, home: Machine, near: Machine):
    bob = red[1]
    restore(home, None)
    refusing = Refusing(near, TakeEnd)
    land.link(home, near)
    refusing.tell()
    assert bob.call(wire.GroupInfo, group="red@home").group == "red@home"
    relink(land, home, near)
    assert bob.call(wire.Groups).groups == ()


def test_a_contradiction_that_the_disk_refused_comes_with_the_next_link(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, _bob, _ = red
    near.open("dan")
    saved = save(near)
    relink(land, home, near, away)
    near.open("eve")
    ann.call(wire.GroupInvite, group="red", peer="eve@near")
    restore(near, saved)
    refusing = Refusing(near, SendLeaves)
    land.cut()
    land.link(home, near)
    refusing.tell()
    members = ("ann", "bob@near", "cat@away")
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == [*members, "eve@near"]
    relink(land, home, near)
    assert [m.name for m in ann.call(wire.GroupInfo, group="red").members] == list(members)


def test_a_hole_longer_than_a_ring_begins_the_ring_anew(land: Land, tmp_path):
    home, near = land.machine("home", mailbox_messages=5), land.machine("near", mailbox_messages=5)
    ann, bob = home.open("ann"), near.open("bob")
    land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    saved = save(near)
    relink(land, home, near)
    for n in range(20):
        say(ann, f"line {n}")
    restore(near, saved)
    bob = near.open("bob")
    relink(land, home, near)
    page = bob.call(wire.GroupHistory, group="red")
    assert ([entry.text for entry in page.messages], page.missed) == (
        [f"line {n}" for n in range(15, 20)],
        16,
    )
    agree(home, near)


def test_pages_of_the_longest_lines_fit_the_wire(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, _, _ = red
    saved = save(near)
    relink(land, home, near, away)
    for _n in range(4):
        say(ann, "\x01" * 512 * 1024)
    for _n in range(40):
        say(ann, "\x01" * 100_000)
    restore(near, saved)
    near.open("bob")
    sizes: list[int] = []
    land.cut()
    link_ = land.begin_link(home, near)
    land.settling = True
    for _ in range(3_000):
        land.once()
        sizes += [len(each) for each in link_.lines[near] if b'"group_page"' in each[:40]]
    land.settling = False
    land.settle()
    assert 3 * 1024 * 1024 < max(sizes) < link_wire.LINE_MAX
    agree(home, near)


def test_lines_for_which_a_slow_link_had_no_room_are_asked_for_at_once(land: Land, tmp_path):
    home, near = land.machine("home", outbox_messages=4), land.machine("near")
    ann, bob = home.open("ann"), near.open("bob")
    link_ = land.link(home, near)
    ann.call(wire.GroupCreate, name="red", members=("bob@near",))
    ann.call(wire.GroupCreate, name="blue", members=("bob@near",))
    link_.held.add(near)
    for n in range(20):
        say(ann, f"line {n}")
    ann.call(wire.GroupDelete, group="blue")
    assert home.hub.state.hubs["near"].waiting == 4
    link_.held.clear()
    land.settle()
    assert texts(bob)[1:] == [f"line {n}" for n in range(20)]
    assert [each.name for each in bob.call(wire.Groups).groups] == ["red@home"]
    assert bob.texts() == ["the group blue@home ended: home knows of no such group with you in it"]
    agree(home, near)


def test_a_hub_that_is_forgotten_twice_at_once_is_forgotten_once(
    land: Land, red, home: Machine, near: Machine
):
    person = near.open("person")
    near.held = True
    asked = [person.ask(wire.ForgetHub, hub_id="home") for _ in range(2)]
    near.held = False
    land.settle()
    first, second = [person.answers[each] for each in asked]
    assert isinstance(first, wire.HubForgotten)
    assert second.code == "hub_not_found"


def test_a_home_that_went_back_to_before_all_we_have_is_followed(
    land: Land, red, home: Machine, near: Machine, away: Machine
):
    ann, bob, _ = red
    saved = save(home)
    relink(land, home, near, away)
    ann = home.open("ann")
    dan = near.open("dan")
    ann.call(wire.GroupRemove, group="red", peer="bob@near", reason="done")
    for n in range(5):
        say(ann, f"forgotten {n}")
    ann.call(wire.GroupInvite, group="red", peer="dan@near")
    assert texts(dan) == ["ann invited dan@near"]
    restore(home, saved)
    ann = home.open("ann")
    say(ann, "another future")
    relink(land, home, near, away)
    agree(home, near, away)
    assert [text for _, _, text in lines(near)["red"]] == ["ann created the group red", "another future"]
    assert dan.texts() == ["you are no longer in the group red@home"]
    ann.call(wire.GroupInvite, group="red", peer="dan@near")
    assert texts(bob)[-1] == texts(dan)[-1] == "ann invited dan@near"
    say(ann, "and on")
    assert texts(bob) == texts(dan) == ["and on"]
    agree(home, near, away)
