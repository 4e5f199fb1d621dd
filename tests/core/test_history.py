"""Reading a group's history: pages in turn, leased until the cursor moves."""

import pytest

from ecorelay import wire
from ecorelay.core.actions import Reply, Store
from ecorelay.core.group_history import HistoryConfirmed, HistoryReady
from ecorelay.core.ops import (
    CursorMoved,
    HistoryRead,
    LineAdded,
    MoveCursor,
    ReadHistory,
    Snapshot,
    StoredLine,
)
from tests.core.helpers import WALL, Client, Script, World, group_row, mid, peer_row

KNOWN = Snapshot(peers=(peer_row(1, "ann"), peer_row(2, "bob")), groups=(group_row(9, "red", 1, 2),))
ENDED = "the group or your membership ended"


def line(seq: int, *, system: bool = False) -> StoredLine:
    return StoredLine(seq=seq, msg_id=mid(seq), sender="ann", text=f"line {seq}", at=WALL, system=system)


def read(*seqs: int, upto: int = 0, remaining: int = 0, missed: int = 0) -> HistoryRead:
    lines = tuple(line(seq) for seq in seqs)
    return HistoryRead(lines=lines, upto=seqs[-1] if seqs else upto, remaining=remaining, missed=missed)


def entry(seq: int) -> wire.GroupEntry:
    return wire.GroupEntry(seq=seq, msg_id=mid(seq), sender="ann", text=f"line {seq}", ts=WALL)


def asked(req_id: int, after: int = 0) -> Store:
    op = ReadHistory(group_no=9, no=2, after=after, limit=50, budget=20_000)
    return Store((op,), HistoryReady(2, 2, op, wire.GroupHistory(req_id=req_id, group="red")))


def ask(script: Script, req_id: int) -> list:
    return script.frame(2, wire.GroupHistory(req_id=req_id, group="red"))


def script_with_bob(unread: int = 3) -> Script:
    script = Script(KNOWN)
    script.online(2, "bob", groups=((9, unread),))
    return script


def world_with_group(lines: int = 3) -> tuple[World, Client, Client]:
    """ann has said so much in red, of which bob is a member; the group's first line was read."""
    world = World()
    ann, bob = world.open("ann", pinned=True), world.open("bob", pinned=True)
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    bob.call(wire.GroupConfirm, group="red", upto=1)
    for number in range(lines):
        ann.call(wire.GroupSend, group="red", text=str(number))
    return world, ann, bob


def texts(page) -> list[str]:
    return [entry.text for entry in page.messages]


# --- one page ----------------------------------------------------------------------------------------


@pytest.mark.guarantee("group-cursor-on-confirmation")
def test_a_page_is_read_after_the_cursor_which_moves_when_it_is_confirmed():
    script = script_with_bob()
    assert ask(script, 7) == [asked(7)]
    page = wire.GroupPage(
        req_id=7, group="red", messages=(entry(4), entry(5)), upto=5, unread_remaining=1, missed=2, unread=1
    )
    assert script.stored(read(4, 5, remaining=1, missed=2)) == [Reply(2, page)]
    confirm = MoveCursor(group_no=9, no=2, upto=5)
    assert script.frame(2, wire.GroupConfirm(req_id=8, group="red", upto=5)) == [
        Store((confirm,), HistoryConfirmed(2, 8, confirm))
    ]
    assert script.stored(CursorMoved(1)) == [Reply(2, wire.Done(req_id=8, unread=1))]
    assert script.tick(30) == []
    assert script.hub.counters == {}


def test_changes_of_membership_are_marked():
    script = script_with_bob()
    ask(script, 7)
    [answer] = script.stored(HistoryRead(lines=(line(4, system=True),), upto=4, remaining=0, missed=0))
    assert answer.frame.messages[0].kind == "system"


def test_a_history_that_is_read_is_empty_and_leased_to_nobody():
    script = script_with_bob(0)
    ask(script, 7)
    assert script.stored(read(upto=5)) == [Reply(2, wire.GroupPage(req_id=7, group="red", upto=5))]
    assert ask(script, 8) == [asked(8)]


def test_the_next_page_goes_on_where_the_last_one_ended():
    script = script_with_bob()
    ask(script, 7)
    script.stored(read(4, 5, remaining=1))
    assert ask(script, 8) == [asked(8, after=5)]
    [answer] = script.stored(read(6))
    assert (answer.frame.messages, answer.frame.unread) == ((entry(6),), 0)


@pytest.mark.guarantee("group-cursor-on-confirmation")
def test_a_page_nobody_confirmed_is_unread_again_after_thirty_seconds():
    script = script_with_bob()
    ask(script, 7)
    script.stored(read(4, 5, 6))
    assert script.peer("bob").group_unread == {}
    assert script.tick(30) == []
    assert script.peer("bob").group_unread == {9: 3}
    assert script.hub.counters == {"leases_lapsed": 1}
    assert ask(script, 8) == [asked(8)]


@pytest.mark.guarantee("group-cursor-on-confirmation")
def test_pages_of_a_session_that_ends_are_unread_again_at_once():
    script = script_with_bob()
    script.online(3, "bob", role="attach", groups=((9, 3),))
    ask(script, 7)
    script.stored(read(4, 5, 6))
    script.closed(2)
    assert script.peer("bob").group_unread == {9: 3}
    script.stored(None)
    [store] = script.frame(3, wire.GroupHistory(req_id=8, group="red"))
    assert store.ops[0].after == 0


def test_the_end_of_another_connection_leaves_a_page_out():
    script = script_with_bob()
    script.online(3, "bob", role="attach", groups=((9, 3),))
    ask(script, 7)
    script.stored(read(4, 5, 6))
    script.closed(3)
    assert script.peer("bob").group_unread == {}


@pytest.mark.guarantee("cancel-never-confirms")
def test_a_later_page_is_not_confirmed_over_one_that_was_given_back():
    script = script_with_bob()
    ask(script, 7)
    script.stored(read(4, 5, remaining=1))
    ask(script, 8)
    script.stored(read(6))
    script.frame(2, wire.GroupRelease(req_id=9, group="red"))
    assert script.frame(2, wire.GroupConfirm(req_id=10, group="red", upto=6)) == [
        Reply(2, wire.Done(req_id=10, unread=3))
    ]
    assert ask(script, 11) == [asked(11)]
    script.stored(read(4, 5, 6))
    [store] = script.frame(2, wire.GroupConfirm(req_id=12, group="red", upto=6))
    assert store.ops[0].upto == 6


@pytest.mark.guarantee("cancel-never-confirms")
def test_a_page_that_is_released_is_unread_again_at_once():
    script = script_with_bob()
    assert script.frame(2, wire.GroupRelease(req_id=6, group="red")) == [
        Reply(2, wire.Done(req_id=6, unread=3))
    ]
    ask(script, 7)
    script.stored(read(4, 5, 6))
    assert script.frame(2, wire.GroupRelease(req_id=8, group="red")) == [
        Reply(2, wire.Done(req_id=8, unread=3))
    ]
    assert ask(script, 9) == [asked(9)]
    # The page that is out now does not end with the time of the one before.
    script.clock.forward(20)
    script.stored(read(4, 5, 6))
    assert script.tick(10) == []
    assert script.peer("bob").group_unread == {}


def test_a_page_read_for_who_left_is_leased_to_nobody():
    script = script_with_bob()
    ask(script, 7)
    script.closed(2)
    assert script.stored(read(4, 5, 6)) == []
    assert script.peer("bob").group_unread == {9: 3}


def test_a_page_read_for_who_was_taken_over_is_not_leased_to_it():
    world, _, bob = world_with_group()
    world.lingering = True
    bob.close()
    bob = world.open("bob", pinned=True, instance=mid(1))
    with world.hold():
        bob.ask(wire.GroupHistory, group="red")
        successor = world.open("bob", pinned=True, instance=mid(1))
        later = successor.ask(wire.GroupInfo, group="red")
    assert bob.close_reason == "taken over"
    assert successor.answers[later].code == "not_registered"
    assert texts(successor.call(wire.GroupHistory, group="red")) == ["0", "1", "2"]


def test_a_history_the_disk_refuses_is_answered_so_and_can_be_asked_for_again():
    script = script_with_bob()
    ask(script, 7)
    answer = wire.Failed(req_id=7, code="mailbox_error", message="the disk is full", unread=3)
    assert script.failed() == [Reply(2, answer)]
    assert ask(script, 8) == [asked(8)]


def test_a_confirmation_the_disk_refuses_is_answered_so():
    script = script_with_bob()
    script.frame(2, wire.GroupConfirm(req_id=8, group="red", upto=5))
    answer = wire.Failed(req_id=8, code="mailbox_error", message="the disk is full", unread=3)
    assert script.failed() == [Reply(2, answer)]


# --- several pages -----------------------------------------------------------------------------------


def test_pages_asked_for_at_once_are_read_in_turn_and_no_line_is_shown_twice():
    world, _, bob = world_with_group()
    with world.hold():
        asked_for = [bob.ask(wire.GroupHistory, group="red", limit=1) for _ in range(4)]
    assert [texts(bob.answers[req_id]) for req_id in asked_for] == [["0"], ["1"], ["2"], []]


def test_of_pages_asked_for_at_once_each_is_answered_when_the_disk_refuses_one():
    script = script_with_bob()
    ask(script, 7)
    assert ask(script, 8) == []
    assert script.failed() == [
        Reply(2, wire.Failed(req_id=7, code="mailbox_error", message="the disk is full", unread=3)),
        asked(8),
    ]


def test_who_left_is_passed_over_in_the_line_of_readers():
    script = script_with_bob()
    script.online(3, "bob", role="attach", groups=((9, 3),))
    ask(script, 7)
    script.frame(3, wire.GroupHistory(req_id=1, group="red"))
    ask(script, 8)
    script.closed(3)
    assert script.stored(read(4, remaining=2))[1] == asked(8, after=4)


def test_a_reader_in_line_that_was_taken_over_is_passed_over():
    script = script_with_bob()
    script.session(2).hello = wire.Hello(versions=(1, 1), instance=mid(1))
    ask(script, 7)
    ask(script, 8)
    script.opened(3, peer_id="id-bob", instance=mid(1))
    [answer] = script.stored(read(4, 5, 6))
    assert (answer.sid, answer.frame.req_id, answer.frame.code) == (2, 8, "not_registered")


def test_too_many_open_reads_of_one_history_are_refused():
    script = script_with_bob()
    for number in range(101):
        ask(script, number)
    answer = wire.Failed(
        req_id=101,
        code="limit_reached",
        message="100 reads of this history are open: let some finish",
        unread=3,
    )
    assert ask(script, 101) == [Reply(2, answer)]


def test_all_who_read_a_history_are_answered_when_the_membership_ends_meanwhile():
    world, ann, bob = world_with_group()
    with world.hold():
        ann.ask(wire.GroupRemove, group="red", peer="bob", reason="")
        reads = [bob.ask(wire.GroupHistory, group="red") for _ in range(3)]
        confirmed = bob.ask(wire.GroupConfirm, group="red", upto=2)
    answers = [bob.answers[req_id] for req_id in reads]
    assert sorted((answer.code, answer.message) for answer in answers) == [
        ("group_not_found", ENDED),
        ("group_not_found", ENDED),
        ("not_member", "2 is not in red"),
    ]
    assert bob.answers[confirmed].code == "not_member"


def test_a_page_that_was_read_before_the_membership_ended_is_not_shown_after():
    script = script_with_bob()
    script.online(1, "ann")
    ask(script, 7)
    script.frame(1, wire.GroupDelete(req_id=1, op_id=mid(1), group="red"))
    page = script.units.popleft()
    script.stored(None, None, None)
    script.units.appendleft(page)
    answer = wire.Failed(req_id=7, code="group_not_found", message=ENDED)
    assert script.stored(read(4)) == [Reply(2, answer)]


def test_a_confirmation_after_the_membership_ended_leaves_no_count_behind():
    script = script_with_bob()
    script.frame(2, wire.GroupConfirm(req_id=8, group="red", upto=4))
    script.frame(2, wire.GroupLeave(req_id=9, op_id=mid(1), group="red"))
    confirm = script.units.popleft()
    script.stored(LineAdded(7), None)
    script.units.appendleft(confirm)
    assert script.stored(CursorMoved(2)) == [Reply(2, wire.Done(req_id=8))]
    assert script.peer("bob").group_unread == {}


@pytest.mark.guarantee("unread-on-every-result")
def test_lines_that_are_out_are_not_unread_until_they_lapse():
    world, ann, bob = world_with_group(5)
    assert bob.call(wire.Peers).unread == 5
    first = bob.call(wire.GroupHistory, group="red", limit=2)
    second = bob.call(wire.GroupHistory, group="red", limit=2)
    assert (first.unread, second.unread) == (3, 1)
    ann.call(wire.GroupSend, group="red", text="new")
    assert bob.call(wire.Peers).unread == 2
    # The first page is confirmed, the second still out.
    assert bob.call(wire.GroupConfirm, group="red", upto=first.upto).unread == 2
    world.tick(31)
    assert bob.call(wire.Peers).unread == 4
    page = bob.call(wire.GroupHistory, group="red")
    assert texts(page) == ["2", "3", "4", "new"]
    assert bob.call(wire.GroupConfirm, group="red", upto=page.upto).unread == 0


def two_readers() -> tuple[World, Client, Client, int]:
    """bob's own session has lines 2-4 out, another connection of it 5-7; up to where that is."""
    world, _, bob = world_with_group(6)
    other = world.open("bob", role="attach")
    assert texts(bob.call(wire.GroupHistory, group="red", limit=3)) == ["0", "1", "2"]
    later = other.call(wire.GroupHistory, group="red", limit=3)
    assert texts(later) == ["3", "4", "5"]
    return world, bob, other, later.upto


def all_comes_again(reader: Client) -> None:
    page = reader.call(wire.GroupHistory, group="red")
    assert texts(page) == ["0", "1", "2", "3", "4", "5"]
    assert reader.call(wire.GroupConfirm, group="red", upto=page.upto).unread == 0
    assert texts(reader.call(wire.GroupHistory, group="red")) == []


@pytest.mark.guarantee("group-cursor-on-confirmation")
@pytest.mark.parametrize("confirmed", ["before", "after"])
def test_a_later_page_is_not_confirmed_over_one_whose_reader_dies(confirmed: str):
    world, bob, other, upto = two_readers()
    if confirmed == "before":
        other.call(wire.GroupConfirm, group="red", upto=upto)
    bob.close()
    if confirmed == "after":
        other.call(wire.GroupConfirm, group="red", upto=upto)
    all_comes_again(world.open("bob", pinned=True))


@pytest.mark.guarantee("group-cursor-on-confirmation")
def test_a_later_page_is_not_confirmed_over_one_whose_reader_never_says_so():
    world, _, other, upto = two_readers()
    world.tick(20)
    assert texts(other.call(wire.GroupHistory, group="red")) == []
    other.call(wire.GroupConfirm, group="red", upto=upto)
    world.tick(11)
    all_comes_again(other)


def test_the_earlier_page_is_confirmed_while_a_later_one_is_out_elsewhere():
    world, bob, other, upto = two_readers()
    bob.call(wire.GroupConfirm, group="red", upto=upto - 3)
    assert other.call(wire.GroupConfirm, group="red", upto=upto).unread == 0
    world.tick(31)
    assert texts(bob.call(wire.GroupHistory, group="red")) == []


def test_of_pages_out_elsewhere_the_earlier_one_alone_lapses_and_takes_the_later_along():
    world, bob, other, _ = two_readers()
    bob.call(wire.GroupRelease, group="red")
    page = bob.call(wire.GroupHistory, group="red", limit=3)
    world.tick(20)
    later = other.call(wire.GroupHistory, group="red", limit=3)
    world.tick(11)
    assert page.upto < later.upto
    other.call(wire.GroupConfirm, group="red", upto=later.upto)
    all_comes_again(bob)


def test_a_page_from_the_beginning_holds_what_is_out_elsewhere_and_is_confirmed():
    _, bob, other, upto = two_readers()
    other.close()
    page = bob.call(wire.GroupHistory, group="red")
    assert page.upto == upto
    assert bob.call(wire.GroupConfirm, group="red", upto=upto).unread == 0


def six_lines() -> tuple[World, Client, Client]:
    """bob's own session and another connection of it; in red are six lines to be read."""
    world, _, bob = world_with_group(6)
    return world, bob, world.open("bob", role="attach")


@pytest.mark.guarantee("group-cursor-on-confirmation")
@pytest.mark.parametrize("how", ["dies", "gives it back", "never says so"])
def test_a_page_that_is_being_read_behind_one_that_comes_back_is_read_anew(how: str):
    world, bob, other = six_lines()
    assert texts(bob.call(wire.GroupHistory, group="red", limit=3)) == ["0", "1", "2"]
    with world.hold():
        asked_for = other.ask(wire.GroupHistory, group="red")
        match how:
            case "dies":
                bob.close()
            case "gives it back":
                bob.ask(wire.GroupRelease, group="red")
            case _:
                world.tick(31)
    page = other.answers[asked_for]
    assert texts(page) == ["0", "1", "2", "3", "4", "5"]
    assert other.call(wire.GroupConfirm, group="red", upto=page.upto).unread == 0


def test_a_page_that_is_being_read_behind_one_that_is_confirmed_is_shown():
    world, bob, other = six_lines()
    first = bob.call(wire.GroupHistory, group="red", limit=3)
    with world.hold():
        bob.ask(wire.GroupConfirm, group="red", upto=first.upto)
        asked_for = other.ask(wire.GroupHistory, group="red")
    assert texts(other.answers[asked_for]) == ["3", "4", "5"]


@pytest.mark.guarantee("group-cursor-on-confirmation")
@pytest.mark.parametrize("how", ["dies", "gives it back"])
def test_a_page_between_two_of_another_reader_is_not_confirmed_over_the_first(how: str):
    _, bob, other = six_lines()
    pages = [each.call(wire.GroupHistory, group="red", limit=2) for each in (bob, other, bob)]
    if how == "dies":
        bob.close()
    else:
        bob.call(wire.GroupRelease, group="red")
    other.call(wire.GroupConfirm, group="red", upto=pages[1].upto)
    all_comes_again(other)


def test_a_page_that_is_out_is_not_unread_for_who_connects_meanwhile():
    world, _, bob = world_with_group()
    bob.call(wire.GroupHistory, group="red", limit=2)
    reader = world.open("bob", role="attach")
    assert reader.welcome is not None
    assert reader.welcome.unread == 1
    assert bob.call(wire.Peers).unread == 1


def test_confirming_more_than_there_is_moves_the_cursor_to_the_newest_line():
    _, ann, bob = world_with_group()
    assert bob.call(wire.GroupConfirm, group="red", upto=999).unread == 0
    ann.call(wire.GroupSend, group="red", text="new")
    assert texts(bob.call(wire.GroupHistory, group="red")) == ["new"]


def test_lines_the_ring_dropped_unread_are_counted_as_missed():
    world = World(mailbox_messages=3)
    ann, bob = world.open("ann"), world.open("bob")
    ann.call(wire.GroupCreate, name="red", members=("bob",))
    for number in range(4):
        ann.call(wire.GroupSend, group="red", text=str(number))
    page = bob.call(wire.GroupHistory, group="red")
    assert (texts(page), page.missed) == (["1", "2", "3"], 2)


def test_a_lapse_noted_for_a_membership_that_ended_changes_nothing():
    script = script_with_bob()
    script.online(1, "ann")
    ask(script, 7)
    script.stored(read(4, 5, 6))
    script.frame(1, wire.GroupDelete(req_id=1, op_id=mid(1), group="red"))
    script.stored(None, None, None)
    assert script.tick(31) == []
    assert script.hub.counters == {}
