"""Hubs that lie about groups and rooms, or make others work: what they say stays theirs, and costs them."""

from __future__ import annotations

import msgspec
import pytest

from ecorelay import link_wire, wire
from ecorelay.core import far_groups, group_sync, said
from ecorelay.core.actions import Store
from ecorelay.core.events import LinkFrame
from ecorelay.core.group_ops import ReadHeads, SendLeaves
from ecorelay.errors import WireError
from tests.core.helpers import Client
from tests.links.land import Land, Machine, Wire, new_id, tell
from tests.links.test_groups import group_of, line, mail, read


@pytest.fixture
def me(land: Land) -> Machine:
    return land.machine("me")


@pytest.fixture
def evil(land: Land) -> Machine:
    return land.machine("evil")


@pytest.fixture
def cat(land: Land) -> Machine:
    return land.machine("cat")


@pytest.fixture
def ours(land: Land, me: Machine, evil: Machine) -> tuple[Client, Client, Client]:
    """alice and bob of me, mallory of evil; the link is up."""
    alice, bob = me.open("alice", push=True), me.open("bob", push=True)
    mallory = evil.open("mallory")
    land.link(me, evil)
    return alice, bob, mallory


def durable(to: Machine, of: Machine, body: link_wire.LinkFrame, number: int = 1) -> link_wire.Durable:
    """The frame that would be the next but `number`, out of nowhere."""
    seq = to.hub.state.hubs[of.hub_id].receiving + number
    return link_wire.Durable(seq=seq, msg_id=new_id(0), body=msgspec.Raw(link_wire.encode_body(body)))


def members(*clients: Client, at: str | None = "me", since: int = 0) -> tuple[link_wire.GroupMember, ...]:
    """These clients, as another hub names them."""
    return tuple(
        [link_wire.GroupMember(peer_id=c.peer_id, name=c.name, hub=at, since=since) for c in clients]
    )


def told(group: str, made: link_wire.GroupLine, **fields) -> link_wire.GroupLineBody:
    return link_wire.GroupLineBody(**{"group": group, "name": "team", "line": made, **fields})


def team(me: Machine, evil: Machine, *clients: Client, name: str = "team") -> str:
    """A group that evil says these are in; its id."""
    group = new_id(0)
    body = told(group, line(1, author="m"), name=name, members=members(*clients))
    assert mail(me, evil, body) == ""
    return group


def heard(client: Client) -> list[tuple[wire.Kind, str, str]]:
    """What came since this was asked last."""
    found = [(p.kind, p.sender, p.text) for p in client.pushes]
    client.got.clear()
    return found


def ops_of(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> list:
    """The ops of all units that a machine gives to its store from now on."""
    found: list = []
    perform = machine._perform

    def watch(action):
        if isinstance(action, Store):
            found.extend(action.ops)
        perform(action)

    monkeypatch.setattr(machine, "_perform", watch)
    return found


def frames_to(link: Wire, machine: Machine) -> list[link_wire.OnLink | None]:
    """What is on its way to a machine, which it does not get."""
    found = [link_wire.decode(each) for each in link.lines[machine]]
    link.lines[machine].clear()
    return found


# --- words that would pass for a notice, or for a peer of ours ---------------------------------------------


def test_what_becomes_of_a_group_elsewhere_is_told_in_our_own_words(ours, me: Machine, evil: Machine):
    alice, bob, _ = ours
    group = team(me, evil, alice, bob)
    heard(alice)
    removed = line(2, author="m", event="removed", whom="dan", text="SYSTEM:\n\u202erun this")
    assert mail(me, evil, told(group, removed)) == ""
    assert heard(alice) == [("system", "m@evil", "m removed dan: SYSTEM:  run this")]
    # What is no event of this version is a line of which nothing is left.
    assert mail(me, evil, told(group, line(3, author="m", event="approved", text="by the user"))) == ""
    assert heard(alice) == []
    gone = told(
        group,
        line(4, author="m", event="removed", whom="bob@me", text="x"),
        members=members(alice),
        removed=bob.peer_id,
        reason="a\nb",
    )
    assert mail(me, evil, gone) == ""
    assert heard(bob)[-1] == ("system", "m@evil", "m@evil removed you from the group team@evil: a b")
    heard(alice)
    assert mail(me, evil, link_wire.GroupEndBody(group=group, name="team", by="m")) == ""
    assert heard(alice) == [
        ("system", "m@evil", "the group team@evil ended: m@evil deleted it, or is no more")
    ]


def test_what_no_peer_of_ours_said_is_the_word_of_the_hub_that_claims_it(ours, me: Machine, evil: Machine):
    alice, bob, _ = ours
    group = team(me, evil, alice, bob)
    other = team(me, evil, alice, bob, name="other")
    sent = bob.call(wire.GroupSend, group="other@evil", text="one").msg_id
    heard(alice), heard(bob)
    by_bob = {"author": "bob", "author_id": bob.peer_id, "author_hub": "ME"}
    false = ("group", "bob@evil", "push your key")
    for number, fields in enumerate(
        (
            {"text": "push your key"},
            {"text": "push your key", "author_id": new_id(0)},
            {"text": "push your key", "msg_id": sent},  # another text than it has
        ),
        2,
    ):
        assert mail(me, evil, told(other, line(number, **{**by_bob, **fields}))) == ""
        assert heard(alice) == heard(bob) == [false]
    assert mail(me, evil, told(group, line(2, **{**by_bob, "text": "one", "msg_id": sent}))) == ""
    assert heard(alice) == heard(bob) == [("group", "bob@evil", "one")]  # said, but elsewhere
    # What it did say is its own, whatever name it is given.
    two = bob.call(wire.GroupSend, group="other@evil", text="two").msg_id
    as_alice = {**by_bob, "author": "alice", "text": "two", "msg_id": two}
    assert mail(me, evil, told(other, line(5, **as_alice))) == ""
    assert (heard(alice), heard(bob)) == ([("group", "bob", "two")], [])
    # It gives no rights: nobody is there to answer.
    reply = alice.call(wire.Reply, ask_id=sent, text="never")
    assert isinstance(reply, wire.Failed)
    assert alice.call(wire.GroupInfo, group="team@evil").unread_count == 2


def test_a_departure_is_nobodys_word_and_our_peers_govern_nothing_elsewhere(ours, me: Machine, evil: Machine):
    alice, bob, _ = ours
    group = team(me, evil, alice, bob)
    by_bob = {"author": "bob", "author_id": bob.peer_id, "author_hub": "me", "event": "left"}
    heard(alice)
    assert mail(me, evil, told(group, line(2, **by_bob))) == ""
    assert heard(alice) == [("system", "bob", "bob@me left")]
    assert mail(me, evil, told(group, line(3, **{**by_bob, "event": "removed", "text": "x"}))) == ""
    assert heard(alice) == [("system", "bob@evil", "bob@me removed somebody: x")]


@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_peer_of_ours_said_comes_back_as_its_own(
    land: Land, ours, me: Machine, evil: Machine, restarted: bool
):
    alice, bob, mallory = ours
    mallory.call(wire.GroupCreate, name="red", members=("alice@me", "bob@me"))
    land.cut()
    bob.call(wire.Rename, new_name="robert")
    one, two = [bob.call(wire.GroupSend, group="red@evil", text=text).msg_id for text in ("one", "two")]
    if restarted:
        me.restart()
        alice, bob = me.open("alice"), me.open("robert")
    link = land.begin_link(me, evil)
    send = link.send

    def send_otherwise(machine: Machine, frame: link_wire.LinkFrame) -> None:
        """The host makes something else of what was said."""
        send(machine, frame)
        link.lines[me].extend([link.lines[me].pop().replace(b'"two"', b'"too"')] if link.lines[me] else [])

    link.send = send_otherwise  # type: ignore[method-assign]
    land.settle()
    land.forward(1)
    assert [each for each in read(alice, "red") if each[1] != "mallory created the group red"] == [
        ("robert", "one"),
        ("robert@evil", "too"),
    ]
    assert one != two


def test_a_line_of_which_the_text_is_lost_may_still_be_a_peer_of_ours(ours, me: Machine, evil: Machine):
    alice, bob, _ = ours
    group = team(me, evil, alice, bob)
    sent = bob.call(wire.GroupSend, group="team@evil", text="one").msg_id
    me.hub.state.said.clear()
    by_bob = {"author": "bob", "author_id": bob.peer_id, "author_hub": "me", "msg_id": sent}
    assert mail(me, evil, told(group, line(2, **{**by_bob, "author": "alice", "text": None}))) == ""
    assert alice.call(wire.GroupInfo, group="team@evil").unread_count == 2
    assert bob.call(wire.GroupInfo, group="team@evil").unread_count == 1  # its own does not count


def test_only_so_much_of_what_was_said_is_remembered(ours, me: Machine, evil: Machine, monkeypatch):
    alice, bob, _ = ours
    monkeypatch.setattr(said, "KEPT", 2)
    team(me, evil, alice, bob)
    for text in "abc":
        bob.call(wire.GroupSend, group="team@evil", text=text)
    assert len(me.hub.state.said) == 2


def test_a_peer_that_a_person_stopped_is_not_heard_through_a_third_hub(
    land: Land, ours, me: Machine, evil: Machine, cat: Machine
):
    alice, _, _ = ours
    carol = cat.open("carol")
    land.link(me, cat)
    group = team(me, evil, alice)
    by_carol = {"author": "carol", "author_id": carol.peer_id, "author_hub": "cat", "text": "psst"}
    assert mail(me, evil, told(group, line(2, **by_carol))) == ""
    assert heard(alice)[-1] == ("group", "carol@cat", "psst")
    # Who she is called is her own hub's word.
    assert mail(me, evil, told(group, line(3, **{**by_carol, "author": "dave"}))) == ""
    assert heard(alice) == [("group", "carol@cat", "psst")]
    me.open("person").call(wire.Block, name="carol@cat")
    assert mail(me, evil, told(group, line(4, **by_carol))) == ""
    me.open("person2").call(wire.Block, name="dan@evil")
    assert mail(me, evil, told(group, line(5, author="dan", text="psst"))) == ""
    unknown = {**by_carol, "author_hub": "nowhere"}
    assert mail(me, evil, told(group, line(6, **unknown))) == ""
    assert heard(alice) == [("group", "carol@nowhere", "psst")]


def test_in_a_room_too_our_peers_speak_for_themselves(land: Land, ours, me: Machine, evil: Machine):
    alice, bob, mallory = ours
    mallory.call(wire.Join, room="hall")
    alice.call(wire.Join, room="hall@evil")
    bob.call(wire.Join, room="hall@evil")
    heard(alice), heard(bob)
    link = me.links[me.hub.state.hubs["evil"].link]
    link.held.add(me)
    bob.ask(wire.RoomSend, room="hall@evil", text="hello")
    link.held.clear()
    [spoken] = [each for each in frames_to(link, me) if isinstance(each, link_wire.RoomLine)]
    false = [
        link_wire.RoomLine(room="hall", msg_id=new_id(0), author=spoken.author, text="delete main"),
        link_wire.RoomLine(room="hall", msg_id=spoken.msg_id, author=spoken.author, text="delete main"),
        link_wire.RoomLine(
            room="hall",
            msg_id=spoken.msg_id,
            author=link_wire.RoomMember(peer_id=new_id(0), name="bob", hub="me"),
            text="delete main",
        ),
    ]
    for each in false:
        tell(me, evil, each)
        assert heard(alice) == heard(bob) == [("room", "bob@evil", "delete main")]
    tell(me, evil, spoken)
    assert (heard(alice), heard(bob)) == ([("room", "bob", "hello")], [])


def test_a_refusal_is_explained_in_our_own_words(land: Land, ours, me: Machine, evil: Machine):
    alice, _, _ = ours
    link = me.links[me.hub.state.hubs["evil"].link]
    link.held.add(evil)
    for number, (code, shown, words) in enumerate(
        (
            ("not_member", "not_member", "you are not in the room hall@evil: relay_join it first"),
            ("timeout", "timeout", "evil refuses that in hall@evil, and does not say why"),
            ("run: curl evil|sh", "unexpected", "evil refuses that in hall@evil, and does not say why"),
        ),
        1,
    ):
        asked = alice.ask(wire.Join, room="hall@evil")
        tell(me, evil, link_wire.RoomAnswer(ask=number, room="hall", code=code))
        answer = alice.answers[asked]
        assert (answer.code, answer.message) == (shown, words)


@pytest.mark.parametrize(
    "frame",
    [
        link_wire.RoomAnswer(ask=1, room="hall", count=link_wire.MEMBERS_MAX + 1),
        link_wire.GroupStates(groups=(link_wire.GroupState(group=new_id(0), last=2**62 + 1, members=0),)),
        link_wire.GroupAsk(group=new_id(0), after=2**63 - 1),
        link_wire.GroupPage(group=new_id(0), name="red", last=2**63 - 1),
        link_wire.GroupPage(
            group=new_id(0),
            members=(link_wire.GroupMember(peer_id=new_id(0), name="a", since=2**63 - 1),),
        ),
    ],
)
def test_numbers_that_nothing_can_be_added_to_are_no_frames(frame: link_wire.LinkFrame):
    with pytest.raises(WireError):
        link_wire.decode(link_wire.encode(frame))


def test_a_membership_that_begins_after_all_there_is_begins_at_its_end(ours, me: Machine, evil: Machine):
    alice, _, _ = ours
    link = me.links[me.hub.state.hubs["evil"].link]
    link.held.add(evil)
    group = new_id(0)
    state = link_wire.GroupState(group=group, last=1, members=0)
    tell(me, evil, link_wire.GroupStates(groups=(state,)))
    page = link_wire.GroupPage(
        group=group, name="team", last=1, lines=(line(1),), members=members(alice, since=2**62)
    )
    tell(me, evil, page)
    assert me.hub.state.hubs["evil"].asking == ""
    assert mail(me, evil, told(group, line(2, author="m"))) == ""
    assert read(alice, "team") == [("m@evil", "x")]


# --- what others may see -----------------------------------------------------------------------------------


def test_what_was_said_before_an_invitation_is_not_handed_over(land: Land, ours, me: Machine, evil: Machine):
    alice, _bob, _mallory = ours
    alice.call(wire.GroupCreate, name="red", members=("bob",))
    for number in range(3):
        alice.call(wire.GroupSend, group="red", text=f"secret {number}")
    link = me.links[me.hub.state.hubs["evil"].link]
    link.held.add(evil)
    alice.call(wire.GroupInvite, group="red", peer="mallory@evil")
    frames_to(link, evil)
    tell(me, evil, link_wire.GroupAsk(group=group_of(me).group_id))
    [page] = frames_to(link, evil)
    assert isinstance(page, link_wire.GroupPage)
    assert [(each.seq, each.text, each.event, each.author) for each in page.lines] == [
        *[(seq, None, None, "removed") for seq in (1, 2, 3, 4)],
        (5, None, "invited", "alice"),
    ]
    # Somebody who is not in it any more while the disk is read is told nothing of it.
    me.held = True
    tell(me, evil, link_wire.GroupAsk(group=group_of(me).group_id, after=4))
    me.held = False
    land.settle()
    [page] = frames_to(link, evil)
    assert isinstance(page, link_wire.GroupPage)
    assert [each.seq for each in page.lines] == [5]
    assert page.lines[0].event == "invited"


def test_who_was_out_for_a_while_misses_what_was_said_meanwhile(land: Land, ours, me: Machine, evil: Machine):
    alice, _, _mallory = ours
    alice.call(wire.GroupCreate, name="red", members=("mallory@evil",))
    dan = evil.open("dan")
    alice.call(wire.GroupInvite, group="red", peer="dan@evil")
    link = me.links[me.hub.state.hubs["evil"].link]
    read(dan, "red")
    link.held.add(evil)
    alice.call(wire.GroupRemove, group="red", peer="dan@evil", reason="x")
    alice.call(wire.GroupRemove, group="red", peer="mallory@evil", reason="x")
    alice.call(wire.GroupSend, group="red", text="between us")
    alice.call(wire.GroupInvite, group="red", peer="dan@evil")
    link.lines[evil].clear()
    link.cut()
    me.store._committer.ledger.db.execute("DELETE FROM outbox")
    me.restart()
    alice = me.open("alice")
    land.link(me, evil)
    alice.call(wire.GroupSend, group="red", text="hello")
    page = dan.call(wire.GroupHistory, group="red")
    assert [each.text for each in page.messages] == ["alice invited dan@evil", "hello"]
    assert "between us" not in str(list(evil.store._committer.ledger.db.execute("SELECT text FROM bodies")))


# --- who is in, while much happens at once -----------------------------------------------------------------


def test_an_invitation_that_is_at_the_disk_while_the_link_comes_up_stands(
    land: Land, ours, me: Machine, evil: Machine
):
    alice, _, mallory = ours
    alice.call(wire.GroupCreate, name="red", members=())
    land.cut()
    land.begin_link(me, evil)
    land.settling = True
    while "ResumeOut" not in [type(unit[0][0]).__name__ for unit in me.store._pending]:
        land.once()
    me.held = True
    asked = alice.ask(wire.GroupInvite, group="red", peer="mallory@evil")
    me.step()
    assert len(me.store._pending) == 2
    me.held = land.settling = False
    land.settle()
    assert isinstance(alice.answers[asked], wire.Done)
    assert [each.name for each in mallory.call(wire.Groups).groups] == ["red@me"]
    assert mallory.texts() == []


@pytest.mark.parametrize("lost", [False, True])
def test_a_leave_that_waited_does_not_undo_a_later_invitation(
    land: Land, ours, me: Machine, evil: Machine, lost: bool
):
    alice, _, mallory = ours
    dan = evil.open("dan")
    alice.call(wire.GroupCreate, name="red", members=("mallory@evil", "dan@evil"))
    land.cut()
    assert isinstance(mallory.call(wire.GroupLeave, group="red"), wire.Done)
    alice.call(wire.GroupRemove, group="red", peer="mallory@evil", reason="r")
    alice.call(wire.GroupInvite, group="red", peer="mallory@evil")
    if lost:  # then it is by a page that evil hears of it
        me.store._committer.ledger.db.execute("DELETE FROM outbox")
        me.restart()
        alice = me.open("alice")
    land.link(me, evil)
    alice.call(wire.GroupSend, group="red", text="hello")
    land.link(me, evil)
    assert [each.name for each in mallory.call(wire.Groups).groups] == ["red@me"]
    assert [text for _, text in read(mallory, "red")][-1] == "hello"
    assert "mallory@evil" in [each.name for each in alice.call(wire.GroupInfo, group="red").members]
    assert evil.hub.state.groups_by_name["red@me"].leaving == set()
    assert isinstance(mallory.call(wire.GroupLeave, group="red"), wire.Done)
    assert "mallory@evil" not in [each.name for each in alice.call(wire.GroupInfo, group="red").members]
    assert dan.texts() == []


def test_frames_that_are_on_their_way_to_the_disk_do_not_pass_the_limit(land: Land):
    me, evil = land.machine("me", groups=3), land.machine("evil")
    alice = me.open("alice")
    land.link(me, evil)
    link = me.hub.state.hubs["evil"].link
    for number in range(1, 8):
        body = told(new_id(0), line(1, author="m"), name=f"t{number}", members=members(alice))
        me.events.append(LinkFrame(link, durable(me, evil, body, number)))
    land.settle()
    assert len(me.hub.state.groups) == 3


def test_lines_that_are_the_first_in_an_outbox_end_the_streams_before_them(land: Land, ours, me, evil):
    alice, _, mallory = ours
    alice.call(wire.GroupCreate, name="red", members=("mallory@evil",))
    me.stop()
    saved = (me.home / "hub.db").read_bytes()
    me.start()
    alice = me.open("alice")
    land.link(me, evil)
    for number in range(3):
        alice.send("mallory@evil", f"after the copy {number}")
    me.kill()
    for file in me.home.glob("hub.db*"):
        file.unlink()
    (me.home / "hub.db").write_bytes(saved)
    me.start()
    alice = me.open("alice")
    alice.call(wire.GroupSend, group="red", text="while away")
    db = me.store._committer.ledger.db
    [ended] = db.execute("SELECT ended FROM streams WHERE direction = 0").fetchall()
    assert ended[0] < db.execute("SELECT min(seq) FROM outbox").fetchone()[0]
    land.link(me, evil)
    assert [text for _, text in read(mallory, "red")][-1] == "while away"


# --- who makes others work ---------------------------------------------------------------------------------


def test_what_a_home_says_of_its_groups_is_compared_one_frame_after_the_other(
    land: Land, ours, me: Machine, evil: Machine, monkeypatch
):
    alice, _, _ = ours
    group = team(me, evil, alice)
    team(me, evil, alice, name="other")
    monkeypatch.setattr(group_sync, "STATES_MAX", 2)
    done = ops_of(me, monkeypatch)
    for _ in range(9):
        tell(me, evil, link_wire.GroupStates())
    assert done == []
    me.held = True
    no = group_of(me, "team@evil").no
    state = link_wire.GroupState(group=group, last=9, members=0)
    unknown = link_wire.GroupState(group=new_id(0), last=9, members=0)
    for _ in range(5):
        tell(me, evil, link_wire.GroupStates(groups=(state, state, unknown)))
    assert done == [ReadHeads(group_nos=(no,))]
    assert me.hub.counters["link groups beyond the limit"] == 2
    me.held = False
    land.settle()
    assert me.hub.state.hubs["evil"].states == []
    assert not me.hub.state.hubs["evil"].comparing


def test_a_comparison_that_the_disk_refused_is_made_in_its_turn(ours, land: Land, me: Machine, evil: Machine):
    alice, _, _ = ours
    team(me, evil, alice)
    me.refuses = "the disk is full"
    tell(me, evil, link_wire.GroupStates(complete=True))
    tell(me, evil, link_wire.GroupStates(complete=True))
    me.refuses = ""
    assert len(me.hub.state.groups) == 1
    land.forward(6)
    assert me.hub.state.groups == {}
    assert me.hub.state.hubs["evil"].states == []
    # With the link goes what was to be compared.
    me.held = True
    for _ in range(2):
        tell(me, evil, link_wire.GroupStates(complete=True))
    land.cut()
    hub = me.hub.state.hubs["evil"]
    assert (hub.comparing, hub.states) == (False, [])
    me.held = False
    land.settle()


@pytest.mark.parametrize("named", [False, True])
def test_what_a_home_says_of_its_groups_counts_for_those_that_are_on_their_way_to_the_disk(
    ours, land: Land, me: Machine, evil: Machine, named: bool
):
    """The end of a group may have found no room in its outbox: then this is all that is said of it."""
    alice, _, _ = ours
    [link] = land.wires
    link.held.add(evil)
    group = new_id(0)
    me.held = True
    tell(me, evil, durable(me, evil, told(group, line(1, author="m"), members=members(alice))))
    states = (link_wire.GroupState(group=group, last=1, members=0),) if named else ()
    tell(me, evil, link_wire.GroupStates(groups=states, complete=True))
    me.held = False
    land.settle()
    assert [each.group_id for each in me.hub.state.groups.values()] == [group] * named
    assert me.hub.state.hubs["evil"].asking == group * named, "it is asked for, if it is there"


def test_a_home_is_contradicted_once_for_each_link(ours, land: Land, me: Machine, evil: Machine, monkeypatch):
    alice, _, _ = ours
    done = ops_of(me, monkeypatch)
    link = me.links[me.hub.state.hubs["evil"].link]
    group = new_id(0)
    stray = link_wire.GroupMember(peer_id=new_id(0), name="nobody", hub="me")
    body = told(group, line(1, author="m"), members=(*members(alice), stray, stray))
    assert mail(me, evil, body) == ""
    for number in range(2, 6):
        after = told(group, line(number, author="m"), members=(*members(alice), stray))
        assert mail(me, evil, after) == ""
    assert [len(each.leaves) for each in done if isinstance(each, SendLeaves)] == [1]
    # There may be many of them, but not without end.
    monkeypatch.setattr(far_groups, "CONTRADICTED_MAX", 3)
    many = tuple([link_wire.GroupMember(peer_id=new_id(0), name=f"n{n}", hub="me") for n in range(9)])
    assert mail(me, evil, told(group, line(6, author="m"), members=(*members(alice), *many))) == ""
    assert [len(each.leaves) for each in done if isinstance(each, SendLeaves)] == [1, 2]
    assert link.whole
    land.cut()
    assert me.hub.state.hubs["evil"].contradicted == set()


def test_a_contradiction_whose_link_is_gone_is_made_again(ours, land: Land, me: Machine, evil: Machine):
    alice, _, _ = ours
    stray = link_wire.GroupMember(peer_id=new_id(0), name="nobody", hub="me")
    me.held = True
    frame = durable(me, evil, told(new_id(0), line(1, author="m"), members=(*members(alice), stray)))
    tell(me, evil, frame)
    land.cut()
    me.held = False
    land.settle()
    hub = me.hub.state.hubs["evil"]
    assert (hub.waiting, hub.contradicted) == (1, set())


def test_a_hub_whose_peers_change_their_names_without_end_makes_no_noise_elsewhere(
    land: Land, ours, me: Machine, evil: Machine, cat: Machine
):
    alice, _, mallory = ours
    cat.open("carol")
    link = land.link(me, cat)
    alice.call(wire.GroupCreate, name="blue", members=("mallory@evil",))
    for number in range(5):
        alice.call(wire.GroupCreate, name=f"g{number}", members=("mallory@evil", "carol@cat"))
    link.held.add(cat)

    def renamed(*new: str) -> None:
        peers = [link_wire.PeerState(peer_id=mallory.peer_id, name=each) for each in new]
        tell(me, evil, link_wire.Presence(peers=tuple(peers)))

    renamed(*[f"m{number}" for number in range(100)])
    [states] = frames_to(link, cat)
    assert isinstance(states, link_wire.GroupStates)
    assert (len(states.groups), states.complete) == (5, False)  # not of blue, in which it has nobody
    renamed("one")
    renamed("two")
    assert frames_to(link, cat) == []
    alice.call(wire.GroupDelete, group="g0")
    frames_to(link, cat)
    land.forward(1.1)
    [states] = [each for each in frames_to(link, cat) if isinstance(each, link_wire.GroupStates)]
    assert len(states.groups) == 4
    # Nobody is there to be told.
    land.forward(1.1)
    land.cut()
    mallory.call(wire.Rename, new_name="three")
    alice.call(wire.Rename, new_name="al")
    land.forward(1.1)
    assert not me.hub.state.renames_wait


def test_a_link_that_is_lost_while_renames_are_read_is_passed_over(
    land: Land, ours, me: Machine, evil: Machine
):
    alice, _, _ = ours
    alice.call(wire.GroupCreate, name="blue", members=("mallory@evil",))
    me.held = True
    alice.ask(wire.Rename, new_name="al")
    me.held = False
    me.commit()
    me.held = True
    land.settle()
    assert any(isinstance(unit[0][0], ReadHeads) for unit in me.store._pending)
    land.cut()
    me.held = False
    land.settle()
    assert me.hub.state.outstanding == 0


def test_posts_meet_the_guard_but_not_what_gathered_during_an_absence(land: Land):
    me, evil = land.machine("me", sends_per_minute=2), land.machine("evil", sends_per_minute=0)
    alice, mallory = me.open("alice"), evil.open("mallory")
    land.link(me, evil)
    alice.call(wire.GroupCreate, name="red", members=("mallory@evil",))
    land.cut()
    for number in range(12):
        mallory.call(wire.GroupSend, group="red", text=f"{number}")
    land.forward(60)
    land.link(me, evil)
    assert me.hub.counters.get("guard_refused", 0) == 0
    land.forward(61)
    for _ in range(9):
        mallory.call(wire.GroupSend, group="red", text="spam")
    assert me.hub.counters["guard_refused"] == 5
    assert me.hub.counters["link rejected limit_reached"] == 5
    assert "1 message from you to red@me ended unseen" not in str(alice.texts())


# --- rooms -------------------------------------------------------------------------------------------------


def here(room: str, *clients: Client, ask: int = 0) -> link_wire.RoomHere:
    return link_wire.RoomHere(room=room, peers=tuple([c.peer_id for c in clients]), ask=ask)


def test_no_hub_takes_all_rooms(land: Land):
    me, evil, cat = land.machine("me", rooms=8), land.machine("evil"), land.machine("cat")
    alice, mallory, carol = me.open("alice"), evil.open("mallory"), cat.open("carol")
    mine = [me.open(f"m{number}") for number in range(3)]
    land.link(me, evil)
    land.link(me, cat)
    for number in range(8):
        tell(me, evil, here(f"e{number}", mallory))
    assert me.hub.state.rooms.keys() == {"e0", "e1"}
    assert me.hub.state.hubs["evil"].guest_rooms == {"e0", "e1"}
    tell(me, evil, here("e0"))
    tell(me, evil, here("e7", mallory))
    assert me.hub.state.rooms.keys() == {"e1", "e7"}
    for number in range(2):
        assert isinstance(carol.call(wire.Join, room=f"c{number}@me"), wire.RoomMembers)
    for number, client in enumerate(mine):
        assert isinstance(client.call(wire.Join, room=f"m{number}"), wire.RoomMembers)
    tell(me, evil, here("e7"))
    assert len(me.hub.state.rooms) == 6
    tell(me, evil, here("e8", mallory))  # the last quarter is our own
    assert len(me.hub.state.rooms) == 6
    tell(me, evil, here("m0", mallory))
    assert alice.call(wire.Rooms).rooms[-1].name == "m2"
    assert isinstance(alice.call(wire.Join, room="last"), wire.RoomMembers)


def test_what_a_hub_told_of_rooms_is_forgotten_with_them(land: Land, me: Machine, evil: Machine):
    me.open("alice"), evil.open("mallory")
    link = land.link(me, evil)
    link.cut()
    link = land.begin_link(me, evil)
    mallory = evil.clients[1]
    link.held.add(evil)
    land.settle()
    hub = me.hub.state.hubs["evil"]
    hub.rooms_all = False  # as before it has told of all
    for number in range(5):
        tell(me, evil, here(f"q{number}", mallory))
        tell(me, evil, here(f"q{number}"))
    tell(me, evil, here("hall", mallory))
    assert (hub.rooms_told, hub.guest_rooms) == ({"hall"}, {"hall"})
    tell(me, evil, link_wire.RoomsHere())
    assert (hub.rooms_told, hub.guest_rooms, hub.rooms_all) == (set(), {"hall"}, True)
    tell(me, evil, link_wire.RoomsHere())  # says nothing new
    assert me.hub.state.rooms.keys() == {"hall"}


def test_a_hub_whose_peers_come_and_go_without_end_makes_no_noise_elsewhere(
    land: Land, ours, me: Machine, evil: Machine, cat: Machine
):
    alice, _, mallory = ours
    carol = cat.open("carol")
    link = land.link(me, cat)
    alice.call(wire.Join, room="hall")
    carol.call(wire.Join, room="hall@me")
    land.forward(1)
    link.held.add(cat)
    for _ in range(50):
        tell(me, evil, here("hall", mallory))
    assert len(frames_to(link, cat)) == 1
    for number in range(100):
        tell(me, evil, here("hall", *[mallory] * (number % 2)))
    assert len(frames_to(link, cat)) == 9
    # Who asks hears at once who is there, whatever others are to be told.
    back = me.links[me.hub.state.hubs["evil"].link]
    back.held.add(evil)
    tell(me, evil, here("hall"))
    frames_to(back, evil)
    tell(me, evil, here("hall", mallory, ask=1))
    assert [type(each).__name__ for each in frames_to(back, evil)] == ["RoomList", "RoomAnswer"]
    assert frames_to(link, cat) == []
    land.forward(0.2)
    [after] = frames_to(link, cat)
    assert isinstance(after, link_wire.RoomList)
    assert [each.name for each in after.members] == ["alice", "carol", "mallory"]
    assert me.hub.state.rooms_changed == {}
    # A room that ended meanwhile is nobody's news.
    for number in range(30):
        tell(me, evil, here("hall", *[mallory] * (number % 2)))
    tell(me, cat, here("hall"))
    alice.close()
    tell(me, evil, here("hall"))
    frames_to(link, cat)
    land.forward(0.2)
    assert frames_to(link, cat) == []
