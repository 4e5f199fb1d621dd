"""Rooms with members on several hubs: nothing of them is stored, all of it is told anew with each link."""

from __future__ import annotations

import msgspec
import pytest

from ecorelay import link_wire, wire
from ecorelay.core.events import HubsConfigured
from ecorelay.limits import Limits
from tests.core.helpers import Client
from tests.links.land import Land, Machine, new_id, tell


@pytest.fixture
def host(land: Land) -> Machine:
    return land.machine("host")


@pytest.fixture
def near(land: Land) -> Machine:
    return land.machine("near")


@pytest.fixture
def away(land: Land) -> Machine:
    return land.machine("away")


@pytest.fixture
def hall(land: Land, host: Machine, near: Machine, away: Machine) -> tuple[Client, Client, Client]:
    """ann of host, bob of near and cat of away are in the hall."""
    ann, bob, cat = host.open("ann", push=True), near.open("bob", push=True), away.open("cat", push=True)
    land.link(host, near)
    land.link(host, away)
    assert ann.call(wire.Join, room="Hall").members == ("ann",)
    assert bob.call(wire.Join, room="hall@host").members == ("ann@host", "bob")
    assert cat.call(wire.Join, room="hall@HOST").members == ("ann@host", "bob@near", "cat")
    return ann, bob, cat


def say(client: Client, text: str, room: str = "hall@host", **fields) -> wire.RoomSent:
    sent = client.call(wire.RoomSend, room=room, text=text, **fields)
    assert isinstance(sent, wire.RoomSent), sent
    return sent


def heard(client: Client) -> list[tuple[str, str, str | None]]:
    """What came since this was asked last."""
    found = [(p.sender, p.text, p.room) for p in client.pushes]
    client.got.clear()
    return found


def in_room(client: Client, name: str) -> tuple[str, ...]:
    """Who is in a room, as its own hub lists it."""
    return next((room.members for room in client.call(wire.Rooms).rooms if room.name == name), ())


def link_of(machine: Machine, other: Machine):
    return machine.links[machine.hub.state.hubs[other.hub_id].link]


def test_members_on_all_hubs_hear_each_other(land: Land, hall, host: Machine, near: Machine, away: Machine):
    ann, bob, cat = hall
    dan = near.open("dan")
    dan.call(wire.Join, room="hall@host")
    assert say(ann, "from here", "hall") == wire.RoomSent(req_id=2, room="Hall", delivered_count=3)
    assert say(bob, "from there").delivered_count == 3
    assert say(cat, "from far").room == "Hall@host"
    assert heard(ann) == [("bob@near", "from there", "Hall"), ("cat@away", "from far", "Hall")]
    assert heard(bob) == [("ann@host", "from here", "Hall@host"), ("cat@away", "from far", "Hall@host")]
    assert heard(cat) == [("ann@host", "from here", "Hall@host"), ("bob@near", "from there", "Hall@host")]
    assert [mail.text for mail in dan.inbox().messages] == ["from here", "from there", "from far"]
    members = ("ann", "bob@near", "cat@away", "dan@near")
    assert in_room(ann, "Hall") == members
    assert in_room(bob, "Hall@host") == ("ann@host", "bob", "cat@away", "dan")
    bob.call(wire.Rename, new_name="robert")
    assert in_room(ann, "Hall") == ("ann", "robert@near", "cat@away", "dan@near")
    say(bob, "renamed")
    assert heard(cat) == [("robert@near", "renamed", "Hall@host")]


def test_who_leaves_before_the_host_has_answered_is_not_told_to_be_in(
    land: Land, hall, host: Machine, near: Machine
):
    dan = near.open("dan")
    link = link_of(near, host)
    link.held.add(host)
    asked = dan.ask(wire.Join, room="hall@host")
    assert isinstance(dan.call(wire.Leave, room="hall@host"), wire.Done)
    link.held.clear()
    land.settle()
    assert dan.answers[asked].code == "not_member"
    assert in_room(hall[0], "Hall") == ("ann", "bob@near", "cat@away")


def test_one_frame_goes_to_a_hub_however_many_members_it_has(land: Land, hall, host: Machine, near: Machine):
    ann, _bob, _ = hall
    for n in range(5):
        near.open(f"peer-{n}").call(wire.Join, room="hall@host")
    link = link_of(host, near)
    link.held.add(near)
    assert say(ann, "to all", "hall").delivered_count == 7
    assert len(link.lines[near]) == 1


def test_a_room_ends_with_its_last_member_wherever_that_is(land: Land, hall, host: Machine, near: Machine):
    ann, bob, cat = hall
    ann.call(wire.Leave, room="hall")
    assert in_room(bob, "Hall@host") == ("bob", "cat@away")
    for _ in range(2):
        assert isinstance(bob.call(wire.Leave, room="hall@host"), wire.Done)
    assert near.hub.state.rooms == {}
    cat.close()
    assert host.hub.state.rooms == {}


def test_who_is_in_a_room_is_told_again_where_it_was_lost_with_a_link(
    land: Land, hall, host: Machine, near: Machine
):
    ann, bob, _ = hall
    link = link_of(host, near)
    link.held.add(near)
    host.open("eve").call(wire.Join, room="hall")
    link.cut()
    land.settle()
    host.open("fay").call(wire.Join, room="hall")  # and what happens meanwhile
    land.link(host, near)
    members = ("ann", "eve", "fay", "bob@near", "cat@away")
    assert in_room(ann, "Hall") == members
    assert in_room(bob, "Hall@host") == ("ann@host", "eve@host", "fay@host", "bob", "cat@away")


def test_who_says_the_same_again_after_a_reconnect_says_it_once(land: Land, hall, near: Machine):
    ann, bob, _ = hall
    op_id = near.new_op()
    first = say(bob, "once", op_id=op_id)
    again = say(bob, "once", op_id=op_id, resend=True)
    assert again.delivered_count == first.delivered_count == 2
    assert heard(ann) == [("bob@near", "once", "Hall")]


def test_what_is_said_again_and_refused_by_the_other_hub_may_have_been_said(land: Land, hall, host: Machine):
    _, bob, _ = hall
    host.feed(HubsConfigured((), {"near": frozenset({"rooms"})}))
    answers = [bob.call(wire.RoomSend, room="Hall@host", text="x", resend=again) for again in (False, True)]
    assert [each.code for each in answers] == ["blocked", "timeout"]


def test_watchers_are_told_on_every_hub(land: Land, hall, host: Machine, near: Machine):
    ann, bob, _ = hall
    watching = [machine.open("x", role="observer") for machine in (host, near)]
    for each in watching:
        each.call(wire.Watch, texts=True)
    say(bob, "look")
    say(ann, "here", "hall")
    found = [
        [
            (a.peer, a.to, a.text, a.count)
            for a in each.got
            if isinstance(a, wire.Activity) and a.what == "room"
        ]
        for each in watching
    ]
    assert found == [
        [("bob@near", "Hall", "look", 2), ("ann", "Hall", "here", 2)],
        [("ann@host", "Hall@host", "here", 1)],
    ]


# --- links that are lost -----------------------------------------------------------------------------------


def test_while_the_link_is_down_nothing_is_said_and_nobody_comes_in(
    land: Land, hall, host: Machine, near: Machine
):
    ann, bob, _ = hall
    link_of(host, near).cut()
    land.settle()
    for kind, fields in ((wire.RoomSend, {"text": "x"}), (wire.Join, {})):
        failed = bob.call(kind, room="hall@host", **fields)
        assert (failed.code, "the link to host is down" in failed.message) == ("hub_unreachable", True)
    assert bob.call(wire.Join, room="other@host").code == "hub_unreachable"
    assert bob.call(wire.Join, room="other@nowhere").code == "hub_not_found"
    assert say(ann, "still here", "hall").delivered_count == 1
    assert "bob@near" in in_room(ann, "Hall")
    land.forward(59)
    land.link(host, near)
    assert say(ann, "welcome back", "hall").delivered_count == 2
    assert heard(bob) == [("ann@host", "welcome back", "Hall@host")]
    land.forward(10)
    assert in_room(ann, "Hall") == ("ann", "bob@near", "cat@away")


def test_a_hub_that_stays_away_is_no_longer_in_the_room(land: Land, hall, host: Machine, near: Machine):
    ann, _bob, cat = hall
    link_of(host, near).cut()
    land.settle()
    land.forward(30)
    land.link(host, near)
    link_of(host, near).cut()
    land.settle()
    land.forward(45)
    assert "bob@near" in in_room(ann, "Hall")
    land.forward(16)
    assert in_room(ann, "Hall") == ("ann", "cat@away")
    assert in_room(cat, "Hall@host") == ("ann@host", "cat")
    land.link(host, near)
    assert in_room(ann, "Hall") == ("ann", "cat@away", "bob@near")


def test_who_left_while_the_link_was_down_is_out_when_it_is_back(
    land: Land, hall, host: Machine, near: Machine
):
    ann, bob, _ = hall
    dan = near.open("dan")
    dan.call(wire.Join, room="hall@host")
    bob.call(wire.Join, room="yard@host")
    link_of(host, near).cut()
    land.settle()
    bob.call(wire.Leave, room="hall@host")
    bob.call(wire.Leave, room="yard@host")
    land.link(host, near)
    assert in_room(ann, "Hall") == ("ann", "cat@away", "dan@near")
    assert in_room(ann, "yard") == ()


def test_a_host_that_starts_anew_is_told_who_is_there(
    land: Land, hall, host: Machine, near: Machine, away: Machine
):
    _, bob, cat = hall
    host.restart()
    land.settle()
    land.link(host, near)
    land.link(host, away)
    assert say(bob, "anybody?").delivered_count == 1
    assert heard(cat) == [("bob@near", "anybody?", "Hall@host")]


def test_a_hub_that_starts_anew_has_nobody_in_rooms(land: Land, hall, host: Machine, near: Machine):
    ann, _, _ = hall
    near.restart()
    land.settle()
    land.link(host, near)
    assert in_room(ann, "Hall") == ("ann", "cat@away")


@pytest.mark.parametrize("what", ["join", "say"])
def test_an_answer_that_is_lost_with_the_link_is_an_error(
    land: Land, hall, host: Machine, near: Machine, what: str
):
    ann, bob, _ = hall
    link = link_of(host, near)
    link.held.update((host, near))
    if what == "join":
        asked = bob.ask(wire.Join, room="yard@host")
        again = bob.ask(wire.Join, room="hall@host")
    else:
        asked = again = bob.ask(wire.RoomSend, room="hall@host", text="x")
    link.cut()
    land.settle()
    # What was asked to be said may have been: nobody knows, and nobody is told to say it again.
    code = "hub_unreachable" if what == "join" else "timeout"
    assert bob.answers[asked].code == bob.answers[again].code == code
    assert near.hub.state.rooms.keys() == {"hall@host"}
    land.link(host, near)
    assert in_room(ann, "Hall") == ("ann", "bob@near", "cat@away")


@pytest.mark.parametrize("what", ["join", "say"])
def test_an_answer_that_does_not_come_is_an_error(land: Land, hall, host: Machine, near: Machine, what: str):
    ann, bob, _ = hall
    link = link_of(host, near)
    link.held.add(near)
    op_id = near.new_op()
    if what == "join":
        asked = bob.ask(wire.Join, room="yard@host")
    else:
        asked = bob.ask(wire.RoomSend, room="hall@host", text="x", op_id=op_id)
    land.forward(11)
    assert bob.answers[asked].code == "timeout"
    link.held.clear()
    land.settle()
    assert in_room(ann, "yard") == ()
    assert near.hub.state.room_asks == {}


def test_who_leaves_before_it_is_answered_is_not_in_the_room(land: Land, hall, host: Machine, near: Machine):
    ann, bob, _ = hall
    link = link_of(host, near)
    link.held.add(near)
    bob.ask(wire.Join, room="yard@host")
    bob.ask(wire.RoomSend, room="hall@host", text="and gone")
    bob.close()
    link.held.clear()
    land.settle()
    assert near.hub.state.rooms == {}
    assert (in_room(ann, "Hall"), in_room(ann, "yard")) == (("ann", "cat@away"), ())


def test_who_leaves_before_it_is_answered_is_not_told_that_it_is_in_the_room(
    land: Land, hall, host: Machine, near: Machine
):
    ann, bob, _ = hall
    link = link_of(host, near)
    link.held.add(near)
    first = bob.ask(wire.Join, room="yard@host")
    left = bob.ask(wire.Leave, room="yard@host")
    link.held.clear()
    land.settle()
    assert isinstance(bob.answers[left], wire.Done)
    assert bob.answers[first].code == "not_member"
    assert in_room(ann, "yard") == ()
    assert bob.call(wire.Join, room="yard@host").members == ("bob",)


def test_a_forgotten_hub_takes_its_rooms_and_guests_along(land: Land, hall, host: Machine, near: Machine):
    ann, _bob, _ = hall
    near.open("person").call(wire.ForgetHub, hub_id="host")
    assert near.hub.state.rooms == {}
    assert near.hub.state.names["bob"].rooms == set()
    host.open("person").call(wire.ForgetHub, hub_id="near")
    assert in_room(ann, "Hall") == ("ann", "cat@away")
    land.forward(120)
    assert host.hub.state.hubs.keys() == {"away"}


# --- limits and refusals -----------------------------------------------------------------------------------


def test_rooms_and_members_are_limited_by_the_host(land: Land, tmp_path):
    host, near = land.machine("host", rooms=1, room_members=2), land.machine("near")
    ann, bob, dan = host.open("ann"), near.open("bob"), near.open("dan")
    land.link(host, near)
    ann.call(wire.Join, room="hall")
    failed = bob.call(wire.Join, room="yard@host")
    assert failed.code == "limit_reached"
    assert failed.message.startswith("host says that a limit is reached in yard@host, of rooms, members")
    assert bob.call(wire.Join, room="hall@host").members == ("ann@host", "bob")
    failed = dan.call(wire.Join, room="hall@host")
    assert failed.code == "limit_reached"
    assert host.open("eve").call(wire.Join, room="hall").code == "limit_reached"
    assert in_room(bob, "hall@host") == ("ann@host", "bob")
    assert near.hub.state.rooms.keys() == {"hall@host"}


def test_a_room_that_filled_up_while_the_link_was_down_refuses_those_who_come_back(land: Land, tmp_path):
    host, near = land.machine("host", room_members=2), land.machine("near")
    ann, bob, eve = host.open("ann"), near.open("bob"), host.open("eve")
    land.link(host, near)
    ann.call(wire.Join, room="hall")
    bob.call(wire.Join, room="hall@host")
    land.cut()
    land.forward(61)
    eve.call(wire.Join, room="hall")
    land.link(host, near)
    assert near.hub.state.rooms == {}
    assert bob.call(wire.RoomSend, room="hall@host", text="x").code == "not_member"


def test_a_room_has_no_more_members_than_a_frame_can_list():
    with pytest.raises(msgspec.ValidationError, match="room_members"):
        msgspec.convert({"room_members": link_wire.MEMBERS_MAX + 1}, Limits)


def test_questions_that_are_open_are_limited(land: Land, hall, near: Machine, monkeypatch):
    monkeypatch.setattr("ecorelay.core.far_rooms.ASKS_MAX", 0)
    _, bob, _ = hall
    for kind, fields in (
        (wire.Join, {"room": "yard@host"}),
        (wire.Join, {"room": "hall@host"}),
        (wire.RoomSend, {"room": "hall@host", "text": "x"}),
    ):
        assert bob.call(kind, **fields).code == "limit_reached"
    assert near.hub.state.rooms.keys() == {"hall@host"}


def test_whom_a_person_blocked_is_not_heard(land: Land, hall, host: Machine, near: Machine, away: Machine):
    ann, bob, cat = hall
    near.open("person").call(wire.Block, name="cat@away")
    say(cat, "psst")
    assert (heard(bob), heard(ann)) == ([], [("cat@away", "psst", "Hall")])
    host.open("person").call(wire.Block, name="cat@away")
    assert cat.call(wire.RoomSend, room="hall@host", text="x").code == "blocked"


@pytest.mark.guarantee("blocked-sends-nothing")
@pytest.mark.parametrize("forgotten", [False, True])
def test_whom_a_person_blocked_is_not_heard_under_another_name_either(
    land: Land, hall, host: Machine, near: Machine, away: Machine, forgotten: bool
):
    ann, bob, cat = hall
    wire_between = land.link(near, away)
    person = near.open("person")
    person.call(wire.Block, name="cat@away")
    wire_between.cut()
    land.settle()
    if forgotten:
        assert isinstance(person.call(wire.ForgetHub, hub_id="away"), wire.HubForgotten)
    cat.call(wire.Rename, new_name="tom")
    say(cat, "it is me, tom")
    assert (heard(bob), heard(ann)) == ([], [("tom@away", "it is me, tom", "Hall")])


def test_a_hub_may_be_kept_out_of_rooms(land: Land, host: Machine, near: Machine):
    bob = near.open("bob")
    host.feed(HubsConfigured((), {"*": frozenset({"rooms"})}))
    land.link(host, near)
    failed = bob.call(wire.Join, room="hall@host")
    assert failed.code == "blocked"
    assert failed.message.startswith("host takes nothing from you, or from this hub, in its rooms")
    assert host.hub.counters["denied_refused"] == 3
    assert host.hub.state.rooms == near.hub.state.rooms == {}


def test_a_flood_from_another_hub_meets_the_guard(land: Land, tmp_path):
    host, near = land.machine("host", sends_per_minute=2), land.machine("near")
    bob = near.open("bob")
    land.link(host, near)
    bob.call(wire.Join, room="hall@host")
    assert [say(bob, "x").delivered_count for _ in range(2)] == [0, 0]
    assert bob.call(wire.RoomSend, room="hall@host", text="x").code == "limit_reached"


# --- hubs that misbehave ---------------------------------------------------------------------------------


def test_a_hub_speaks_only_for_peers_that_are_its_own(land: Land, hall, host: Machine, near: Machine):
    ann, bob, cat = hall
    dan = near.open("dan")

    def post(peer_id: str, **fields) -> link_wire.RoomPost:
        return link_wire.RoomPost(
            **{"room": "hall", "peer_id": peer_id, "msg_id": new_id(0), "text": "x", "ask": 77, **fields}
        )

    for frame in (post(cat.peer_id), post(ann.peer_id), post(dan.peer_id), post(bob.peer_id, room="yard")):
        tell(host, near, frame)
    assert host.hub.counters["link room messages not_member"] == 4
    tell(host, near, post(bob.peer_id, text="x" * 600_000))
    assert host.hub.counters["link room messages too_large"] == 1
    assert heard(ann) == heard(cat) == []
    tell(host, near, link_wire.RoomHere(room="hall", peers=(bob.peer_id, cat.peer_id, new_id(0))))
    assert host.hub.counters["link guests that are no peers"] == 2
    tell(host, near, link_wire.RoomHere(room="cellar", peers=(cat.peer_id,)))
    assert in_room(ann, "Hall") == ("ann", "bob@near", "cat@away")
    assert in_room(ann, "cellar") == ()


def test_a_peer_that_its_hub_no_longer_knows_is_not_shown(land: Land, hall, host: Machine, near: Machine):
    ann, bob, _ = hall
    tell(host, near, link_wire.Presence(gone=(bob.peer_id,)))
    assert in_room(ann, "Hall") == ("ann", "cat@away")


def test_what_nobody_asked_for_or_is_about_no_room_is_left_alone(
    land: Land, hall, host: Machine, near: Machine
):
    ann, bob, _ = hall
    author = link_wire.RoomMember(peer_id=ann.peer_id, name="ann")
    tell(near, host, link_wire.RoomLine(room="yard", msg_id=new_id(0), author=author, text="x"))
    assert near.hub.counters["link room messages to nobody"] == 1
    tell(near, host, link_wire.RoomLine(room="hall", msg_id=new_id(0), author=author, text=""))
    assert near.hub.counters["link room messages bad_args"] == 1
    tell(near, host, link_wire.RoomList(room="yard", members=(author,)))
    tell(near, host, link_wire.RoomAnswer(ask=99, room="yard"))
    assert near.hub.state.rooms.keys() == {"hall@host"}
    assert heard(bob) == []
    # Another hub answers what was asked of the host.
    other = land.machine("other")
    land.link(other, near)
    link = link_of(host, near)
    link.held.add(near)
    asked = bob.ask(wire.RoomSend, room="hall@host", text="x")
    tell(near, other, link_wire.RoomAnswer(ask=max(near.hub.state.room_asks), room="hall", count=9))
    assert near.hub.counters["link answers nobody asked for"] == 1
    assert asked not in bob.answers
    # A code that is none of ours.
    tell(near, host, link_wire.RoomAnswer(ask=max(near.hub.state.room_asks), room="hall", code="weird"))
    assert bob.answers[asked].code == "unexpected"


def test_what_was_asked_of_one_hub_goes_on_when_another_is_lost(
    land: Land, hall, host: Machine, near: Machine
):
    _, bob, _ = hall
    other = land.machine("other")
    land.link(other, near)
    link = link_of(host, near)
    link.held.add(near)
    asked = bob.ask(wire.RoomSend, room="hall@host", text="x")
    link_of(other, near).cut()
    land.settle()
    assert asked not in bob.answers
    link.held.clear()
    land.settle()
    assert bob.answers[asked].delivered_count == 2


def test_what_is_answered_late_is_answered_though_its_id_is_remembered_no_more(
    land: Land, hall, host: Machine, near: Machine, monkeypatch
):
    monkeypatch.setattr("ecorelay.core.rooms.RECENT_OPS", 1)
    _, bob, _ = hall
    link = link_of(host, near)
    link.held.add(near)
    asked = [bob.ask(wire.RoomSend, room="hall@host", text=text) for text in ("one", "two")]
    link.held.clear()
    land.settle()
    assert [bob.answers[each].delivered_count for each in asked] == [2, 2]
