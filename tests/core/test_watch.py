"""What an observer that watches is told of everything that happens, and what nobody else is."""

from __future__ import annotations

from typing import Any

import pytest

from ecorelay import wire
from ecorelay.core.actions import Push, Reply
from tests.core.helpers import WALL, Client, World, mid


def watching(world: World, **fields: Any) -> Client:
    observer = world.open(role="observer")
    assert isinstance(observer.call(wire.Watch, **fields), wire.Done)
    return observer


def told(observer: Client, *what: str) -> list[dict[str, Any]]:
    """What it was told of these kinds (of all, if none are named) since the last look, without the time."""
    seen = [frame for frame in observer.got if isinstance(frame, wire.Activity)]
    observer.got.clear()
    facts = []
    for frame in seen:
        assert frame.ts == observer.world.clock.wall
        plain = {field: getattr(frame, field) for field in frame.__struct_fields__ if getattr(frame, field)}
        del plain["ts"]
        if not what or frame.what in what:
            facts.append(plain)
    return facts


# --- peers -------------------------------------------------------------------------------------------


def test_an_observer_is_told_who_comes_and_goes_and_is_called_otherwise():
    world = World()
    observer = watching(world)
    ann = world.open("ann")
    world.open("ann", role="attach").close()
    ann.call(wire.Rename, new_name="zoe")
    ann.close()
    assert told(observer) == [
        {"what": "online", "peer": "ann"},
        {"what": "renamed", "peer": "ann", "to": "zoe"},
        {"what": "offline", "peer": "zoe"},
    ]


def test_a_session_that_was_never_welcome_did_not_come_and_does_not_go():
    world = World()
    world.open("ann").close()
    observer = watching(world)
    with world.broken_disk():
        world.open("ann", pinned=True)
    assert told(observer) == []


def test_who_takes_a_peer_over_comes_after_the_other_went():
    world = World()
    observer = watching(world)
    world.open("ann", instance=mid(1))
    world.open("ann", instance=mid(1), pinned=True)
    assert [each["what"] for each in told(observer)] == ["online", "offline", "online"]


# --- mail --------------------------------------------------------------------------------------------


def test_an_observer_follows_a_message_from_the_disk_to_its_reader():
    world = World()
    ann, bob, cat = world.open("ann"), world.open("bob", push=True), world.open("cat")
    observer = watching(world)
    msg_id = ann.send("cat", "hü").msg_id
    assert told(observer) == [
        {"what": "stored", "peer": "ann", "to": "cat", "msg_id": msg_id, "kind": "message", "size": 3}
    ]
    cat.texts()
    assert told(observer) == [{"what": "seen", "peer": "cat", "msg_id": msg_id}]
    req_id = ann.ask(wire.Broadcast, question="?")
    ask = ann.answers[req_id].broadcast_id
    assert [(each["to"], each["kind"]) for each in told(observer)] == [("bob", "ask"), ("cat", "ask")]
    bob.ack(carrier="channel")
    assert told(observer) == [{"what": "pushed", "peer": "bob", "msg_id": ask, "carrier": "channel"}]
    reply = bob.call(wire.Reply, ask_id=ask, text="!").msg_id
    assert told(observer) == [
        {"what": "seen", "peer": "bob", "to": "ann", "msg_id": ask},
        {"what": "stored", "peer": "bob", "to": "ann", "msg_id": reply, "kind": "reply", "size": 1},
    ]


def test_what_is_sent_again_is_told_once():
    world = World()
    ann, _ = world.open("ann"), world.open("bob")
    observer = watching(world)
    ann.send("bob", "hi", op_id=mid(900))
    ann.send("bob", "hi", op_id=mid(900), resend=True)
    assert len(told(observer)) == 1


def test_of_many_recipients_twenty_are_named_and_the_rest_counted():
    world = World()
    ann = world.open("ann")
    for number in range(23):
        world.open(f"p{number}")
    observer = watching(world, texts=True)
    ann.call(wire.Broadcast, question="?")
    facts = told(observer)
    assert [each["to"] for each in facts[:-1]] == [f"p{number}" for number in range(20)]
    assert facts[-1].get("to") is None
    assert (facts[-1]["count"], facts[-1]["text"], facts[-1]["kind"]) == (3, "?", "ask")


def test_a_message_to_a_peer_that_is_gone_by_now_is_told_without_its_name():
    world = World()
    ann = world.open("ann")
    world.open("bob").close()
    observer = watching(world)
    with world.hold():
        ann.ask(wire.Send, to="bob", text="hi")
        results = world.store.commit()
        del world.state.peers[2]
        world.feed(*results)
    assert [(each["peer"], each.get("to")) for each in told(observer)] == [("ann", None)]


def test_only_who_asked_for_texts_gets_their_beginning():
    world = World()
    ann, _ = world.open("ann"), world.open("bob")
    curious, discreet = watching(world, texts=True), watching(world)
    ann.send("bob", "ü" * 501)
    [full] = told(curious)
    [bare] = told(discreet)
    assert full == {**bare, "text": "ü" * 500}
    assert bare["size"] == 1002
    assert isinstance(curious.call(wire.Watch), wire.Done)
    ann.send("bob", "hi")
    assert told(curious) == told(discreet)


def test_all_observers_of_one_mind_are_told_by_one_action():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    first, second = watching(world), watching(world)
    with world.hold():
        ann.ask(wire.Send, op_id=mid(900), to="bob", text="hi")
        [event] = world.store.commit()
        activity = wire.Activity(
            what="stored", ts=WALL, peer="ann", to="bob", msg_id=mid(900), kind="message", size=2
        )
        assert world.hub.handle(event, world.clock.now) == [
            Push((first.sid, second.sid), activity),
            Reply(ann.sid, wire.Sent(req_id=1, msg_id=mid(900))),
        ]
    assert bob.pushes == []


def test_mail_that_is_evicted_is_told_by_sender_and_recipient():
    world = World(mailbox_messages=2)
    ann = world.open("ann")
    world.open("bob").close()
    observer = watching(world)
    for text in "abc":
        ann.send("bob", text)
    assert told(observer, "evicted") == [{"what": "evicted", "peer": "ann", "to": "bob", "count": 1}]


def test_what_a_hook_shows_is_told_as_pushed_and_once_it_is_proved_as_seen():
    world = World()
    ann, _ = world.open("ann"), world.open("bob", bell=True)
    hand = world.open("bob", role="attach")
    msg_id = ann.send("bob", "hi").msg_id
    observer = watching(world)
    page = hand.call(wire.Hook, event="prompt")
    hand.call(wire.Printed, lease=page.lease, msg_ids=(msg_id,))
    hand.call(wire.Hook, event="tool")
    assert told(observer) == [
        {"what": "pushed", "peer": "bob", "msg_id": msg_id, "carrier": "hook"},
        {"what": "seen", "peer": "bob", "msg_id": msg_id},
    ]


# --- rooms and groups --------------------------------------------------------------------------------


def test_what_is_said_in_rooms_and_groups_is_told():
    world = World()
    ann, bob = world.open("ann"), world.open("bob")
    observer = watching(world, texts=True)
    for client in (ann, bob):
        client.call(wire.Join, room="hall")
    ann.call(wire.RoomSend, op_id=mid(901), room="hall", text="psst")
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    ann.call(wire.GroupSend, op_id=mid(902), group="red", text="hello")
    ann.call(wire.GroupDelete, group="red")
    room, made, line, mail = told(observer)
    assert room == {
        "what": "room",
        "peer": "ann",
        "to": "hall",
        "msg_id": mid(901),
        "kind": "room",
        "text": "psst",
        "size": 4,
        "count": 1,
    }
    assert (made["what"], made["kind"], made["text"]) == ("group", "system", "ann created the group red")
    assert line == {
        "what": "group",
        "peer": "ann",
        "to": "red",
        "msg_id": mid(902),
        "kind": "group",
        "text": "hello",
        "size": 5,
    }
    assert (mail["what"], mail["kind"], mail["to"]) == ("stored", "system", "bob")


# --- who watches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["session", "attach"])
def test_who_acts_for_a_peer_cannot_watch(role):
    world = World()
    world.open("ann").close()
    client = world.open("ann", role=role, pinned=True)
    refused = client.call(wire.Watch)
    assert refused.code == "bad_args"
    assert "`ecorelay watch`" in refused.message
    assert world.state.watchers == {}


def test_an_observer_that_does_not_ask_is_told_nothing_and_one_that_left_is_forgotten():
    world = World()
    silent = world.open(role="observer")
    observer = watching(world)
    observer.close()
    world.open("ann")
    assert told(silent) == told(observer) == []
    assert world.state.watchers == {}
