"""Every request when the disk refuses, when its session ends, and when the hub dies on the way."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, get_args

import pytest

from ecorelay import wire
from tests.core.helpers import Client, World

REQUESTS: dict[type[wire.Request], dict[str, Any]] = {
    wire.Send: {"to": "bob", "text": "hi"},
    wire.Reply: {"ask_id": "", "text": "hi"},
    wire.Broadcast: {"question": "hi"},
    wire.Inbox: {"wait": 5},
    wire.Confirm: {"lease": 0, "msg_ids": ()},
    wire.Release: {"lease": 0},
    wire.Peers: {},
    wire.AddPeer: {"name": "new"},
    wire.Rename: {"new_name": "zoe"},
    wire.Join: {"room": "hall"},
    wire.Leave: {"room": "hall"},
    wire.RoomSend: {"room": "hall", "text": "hi"},
    wire.Rooms: {},
    wire.GroupCreate: {"name": "blue", "members": ("bob",)},
    wire.GroupInvite: {"group": "red", "peer": "cat"},
    wire.GroupRemove: {"group": "red", "peer": "bob", "reason": ""},
    wire.GroupLeave: {"group": "grey"},
    wire.GroupDelete: {"group": "red"},
    wire.GroupSend: {"group": "red", "text": "hi"},
    wire.GroupHistory: {"group": "grey"},
    wire.GroupConfirm: {"group": "grey", "upto": 1},
    wire.GroupRelease: {"group": "grey"},
    wire.Groups: {},
    wire.GroupInfo: {"group": "red"},
    wire.Hook: {"event": "prompt"},
    wire.Printed: {"lease": 0},
    wire.Identify: {"identity": "another"},
    wire.ForgetPeer: {"name": "cat"},
    wire.Block: {"name": "bob"},
    wire.Blocks: {},
    wire.Watch: {},
    wire.Trace: {},
    wire.Purge: {"before": 2**62, "unread": True},
    wire.Backup: {"path": "/backups/hub.db"},
    wire.Probe: {"peer": "bob"},
    wire.HubStatus: {},
    wire.HubStop: {},
}
IN_MEMORY = {
    wire.Release,
    wire.Peers,
    wire.Join,
    wire.Leave,
    wire.RoomSend,
    wire.Rooms,
    wire.GroupRelease,
    wire.Groups,
    wire.GroupInfo,
    wire.Blocks,
    wire.Watch,
    wire.Printed,
    wire.Probe,
    wire.HubStatus,
    wire.HubStop,
}
STORED = [kind for kind in REQUESTS if kind not in IN_MEMORY]


def prepared(*, mail: bool = True) -> tuple[World, Client, Client]:
    """ann, bob and cat, groups and a room; in ann's mailbox a message, half of a page leased."""
    world = World(ping_s=10_000)
    ann = world.open("ann", pinned=True)
    bob = world.open("bob", pinned=True, push=True)
    world.open("cat", pinned=True).close()
    for client in (ann, bob):
        client.call(wire.Join, room="hall")
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    bob.call(wire.GroupCreate, name="grey", members=("ann",))
    if mail:
        bob.send("ann", "one")
        bob.send("ann", "two")
    return world, ann, bob


def fields_of(kind: type[wire.Request], world: World, ann: Client) -> dict[str, Any]:
    """The arguments of a request that can be done."""
    fields = dict(REQUESTS[kind])
    if kind in (wire.Confirm, wire.Release):
        page = ann.inbox(limit=1)
        fields["lease"] = page.lease
        if kind is wire.Confirm:
            fields["msg_ids"] = (page.messages[0].msg_id,)
    if kind is wire.Reply:
        fields["ask_id"] = world.store.message(1).msg_id
    if kind is wire.Trace:
        fields["msg_id"] = world.store.message(1).msg_id
    return fields


def asking(kind: type[wire.Request], world: World, ann: Client) -> Client:
    """Who may ask for it."""
    return world.open(role="observer") if kind is wire.Watch else ann


def leave_and_check(world: World) -> None:
    for client in list(world.clients.values()):
        client.close()
    world.commit()
    world.tick(31)
    world.idle()


def name_of(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) else ""


def test_every_kind_of_request_is_tried():
    kinds = {kind for kind in get_args(wire.FromSession) if issubclass(kind, wire.Request)}
    # What is about other hubs is in tests/links.
    assert kinds - {wire.GroupForget, wire.ForgetHub, wire.HubReload} == REQUESTS.keys()


@pytest.mark.parametrize("kind", REQUESTS, ids=name_of)
def test_every_request_is_answered_once_and_leaves_nothing_behind(kind):
    world, ann, bob = prepared()
    asker = asking(kind, world, ann)
    answer = asker.ask(kind, **fields_of(kind, world, ann))
    bob.ack()
    world.tick(6)
    assert not isinstance(asker.answers[answer], wire.Failed)
    leave_and_check(world)


@pytest.mark.parametrize("kind", STORED, ids=name_of)
def test_what_the_disk_refuses_is_answered_mailbox_error_and_can_be_asked_again(kind):
    world, ann, bob = prepared()
    fields = fields_of(kind, world, ann)
    with world.broken_disk():
        refused = ann.call(kind, **fields)
    assert (refused.code, refused.message) == ("mailbox_error", "the disk is full")
    again = ann.ask(kind, **fields)
    bob.ack()
    world.tick(6)
    assert not isinstance(ann.answers[again], wire.Failed)
    leave_and_check(world)


@pytest.mark.parametrize("kind", sorted(IN_MEMORY, key=name_of), ids=name_of)
def test_what_needs_no_disk_is_answered_without_one(kind):
    world, ann, _ = prepared()
    fields = fields_of(kind, world, ann)
    with world.broken_disk():
        assert not isinstance(asking(kind, world, ann).call(kind, **fields), wire.Failed)
    world.tick(1.5)
    leave_and_check(world)


def closed_while_in_the_store(world: World, ann: Client) -> None:
    ann.close()


def closed_between_commit_and_result(world: World, ann: Client) -> None:
    results = world.store.commit()
    ann.close()
    world.feed(*results)


def closed_after_the_first_result(world: World, ann: Client) -> None:
    world.commit(1)
    ann.close()


def taken_over_meanwhile(world: World, ann: Client) -> None:
    world.lingering = True
    world.state.sessions[ann.sid].pid = 7
    world.dead_pids.add(7)
    world.open("ann", pinned=True)
    assert ann.close_reason == "taken over"


def refused_and_closed(world: World, ann: Client) -> None:
    with world.broken_disk():
        results = world.store.commit()
    ann.close()
    world.feed(*results)


@pytest.mark.parametrize("kind", STORED, ids=name_of)
@pytest.mark.parametrize(
    "ending",
    [
        closed_while_in_the_store,
        closed_between_commit_and_result,
        closed_after_the_first_result,
        taken_over_meanwhile,
        refused_and_closed,
    ],
    ids=lambda ending: ending.__name__,
)
def test_a_session_may_end_at_any_step_of_a_request(kind, ending: Callable[[World, Client], None]):
    world, ann, _ = prepared()
    fields = fields_of(kind, world, ann)
    with world.hold():
        ann.ask(kind, **fields)
        ending(world, ann)
    world.tick(1.5)  # a lease the disk would not let go of
    leave_and_check(world)


@pytest.mark.guarantee("durable-before-ack")
@pytest.mark.parametrize("kind", STORED, ids=name_of)
def test_a_hub_that_dies_before_the_commit_has_answered_nothing_and_knows_nothing_of_it(kind):
    world, ann, _ = prepared()
    fields = fields_of(kind, world, ann)
    before = world.store.snapshot()
    rows = [(key, row.state) for key, row in world.store.rows.items()]
    world.held = True
    asked = ann.ask(kind, **fields)
    assert asked not in ann.answers
    world.restart()
    world.held = False
    assert world.store.snapshot() == before
    assert [(key, row.state) for key, row in world.store.rows.items()] == rows


@pytest.mark.parametrize("broken", [False, True], ids=["the disk works", "the disk is broken"])
def test_a_session_may_end_while_it_waits_or_has_a_page_open(broken):
    world, ann, bob = prepared(mail=False)
    ann.ask(wire.GroupHistory, group="red")
    ann.call(wire.GroupConfirm, group="grey", upto=9)
    waits = ann.ask(wire.Inbox, wait=60)
    assert waits not in ann.answers
    dan = world.open("dan")
    dan.send("dan", "a page")
    assert len(dan.inbox().messages) == 1
    with world.broken_disk() if broken else nullcontext():
        for client in (ann, bob, dan):
            client.close()
    world.tick(1.5)
    leave_and_check(world)
