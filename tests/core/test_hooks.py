"""Hooks of an assistant: whose they are, what they are shown, what they prove; and the bell."""

from typing import Any

import pytest

from ecorelay import wire
from ecorelay.core import hooks
from ecorelay.core.actions import CheckProcess
from ecorelay.core.events import ProcessChecked, SessionClosed, SessionOpened
from ecorelay.core.hooks import Beside
from ecorelay.core.ops import Confirmed
from tests.core.helpers import Client, World, mid

BESIDE: dict[str, Any] = {"client_pid": 70, "client_start": 7, "client": "claude-code"}


class Desk:
    """bob works in an assistant whose hooks fetch his mail; ann writes to him."""

    def __init__(self, **limits: Any) -> None:
        self.world = World(**limits)
        self.ann = self.world.open("ann", pinned=True)
        self.bob = self.sit_down()

    def sit_down(self) -> Client:
        return self.world.open("bob", pinned=True, bell=True, **BESIDE)

    def hook(self, event: str, **fields: Any) -> Any:
        """A hook of bob's assistant runs and has its answer; it prints nothing."""
        line = self.world.open(role="attach", client_pid=70, client_start=7)
        page = line.call(wire.Hook, event=event, **fields)
        line.close()
        return page

    def show(self, event: str, *, cut: tuple[str, ...] = (), **fields: Any) -> list[str]:
        """A hook of bob's assistant runs, prints what it got, and says so."""
        line = self.world.open(role="attach", client_pid=70, client_start=7)
        page = line.call(wire.Hook, event=event, **fields)
        ids = [mail.msg_id for mail in page.messages]
        if page.lease:
            line.call(
                wire.Printed,
                lease=page.lease,
                msg_ids=tuple(i for i in ids if not i.startswith("n") and i not in cut),
                cut=cut,
                notices=tuple(i for i in ids if i.startswith("n")),
            )
        line.close()
        return [f"{mail.text}{' (again)' if mail.redelivered else ''}" for mail in page.messages]

    def show_groups(self, event: str) -> dict[str, int]:
        """The same; gives the groups it named."""
        line = self.world.open(role="attach", client_pid=70, client_start=7)
        page = line.call(wire.Hook, event=event)
        if page.lease:
            line.call(wire.Printed, lease=page.lease)
        line.close()
        return {group.name: group.unread_count for group in page.groups}

    @property
    def rings(self) -> int:
        return sum(isinstance(frame, wire.Bell) for frame in self.bob.got)


def refusal(client: Client) -> wire.Refused:
    """What a connection heard instead of a welcome."""
    [refused] = client.got
    assert isinstance(refused, wire.Refused)
    return refused


# --- whose hook ------------------------------------------------------------------------------------------


def test_a_hook_acts_for_the_peer_whose_session_stands_beside_its_assistants_process():
    desk = Desk()
    line = desk.world.open(role="attach", client_pid=70, client_start=7)
    assert line.name == "bob"
    assert desk.world.peer("bob").session is not None


@pytest.mark.parametrize("process", [(71, 7), (70, 8)])
def test_a_hook_of_another_process_is_refused(process):
    desk = Desk()
    line = desk.world.open(role="attach", client_pid=process[0], client_start=process[1])
    assert refusal(line).code == "not_registered"
    assert line.closed


def test_a_hook_is_welcomed_without_the_store():
    desk = Desk()
    with desk.world.hold():
        line = desk.world.open(role="attach", client_pid=70, client_start=7)
        assert line.name == "bob"
        page = line.call(wire.Hook, event="tool")
        assert page == wire.HookPage(req_id=1, name="bob")


def test_a_hook_that_comes_while_its_session_is_being_bound_waits_for_the_store():
    world = World()
    with world.hold():
        world.open("bob", pinned=True, bell=True, **BESIDE)
        world.commit()  # the peer is made; its mailbox is still to be opened
        line = world.open(role="attach", client_pid=70, client_start=7)
        assert line.welcome is None
    assert line.name == "bob"


def test_a_hook_without_its_session_is_told_so():
    desk = Desk()
    line = desk.world.open(role="attach", client_pid=70, client_start=7)
    desk.bob.close()
    answer = line.call(wire.Hook, event="prompt")
    assert answer.code == "not_registered"


def test_a_page_printed_after_its_session_ended_leaves_its_mail_unread():
    desk = Desk()
    desk.ann.send("bob", "hi")
    line = desk.world.open(role="attach", client_pid=70, client_start=7)
    page = line.call(wire.Hook, event="prompt")
    desk.bob.close()
    line.call(wire.Printed, lease=page.lease, msg_ids=(page.messages[0].msg_id,))
    line.close()
    assert desk.world.open("bob", role="attach").texts() == ["hi"]


# --- a second adapter beside one assistant ---------------------------------------------------------------


def test_a_second_session_beside_the_same_process_is_refused_while_the_first_lives():
    desk = Desk()
    second = desk.world.open("bob", instance=mid(9), **BESIDE)
    refused = refusal(second)
    assert refused.code == "already_registered"
    assert "bob" in refused.message
    assert desk.bob.closed is False
    assert desk.world.state.counters["second_adapter_refused"] == 1
    desk.bob.close()
    assert desk.world.open("bob", pinned=True, instance=mid(9), **BESIDE).name == "bob"


def test_a_second_session_with_hooks_takes_the_place_of_a_first_without():
    desk = Desk()
    desk.bob.close()
    plain = desk.world.open("bob", pinned=True, instance=mid(8), **BESIDE)
    hooked = desk.world.open("bob", pinned=True, instance=mid(9), bell=True, **BESIDE)
    assert hooked.name == "bob"
    bye = plain.got[-1]
    assert isinstance(bye, wire.Bye)
    assert bye.code == "already_registered"
    assert plain.closed
    assert refusal(desk.world.open("bob", instance=mid(8), **BESIDE)).code == "already_registered"


def test_a_second_adapter_that_comes_before_the_first_has_its_peer_is_refused_too():
    world = World()
    with world.hold():
        world.open("bob", instance=mid(8), **BESIDE)
        second = world.open("bob", instance=mid(9), **BESIDE)
    refused = refusal(second)
    assert refused.code == "already_registered"
    assert "another" in refused.message


def test_the_same_process_that_connects_again_replaces_its_connection():
    desk = Desk()
    desk.bob.close()
    desk.bob = desk.world.open("bob", pinned=True, instance=mid(9), bell=True, **BESIDE)
    again = desk.world.open("bob", pinned=True, instance=mid(9), bell=True, **BESIDE)
    assert again.name == "bob"
    assert desk.bob.closed
    assert desk.world.open(role="attach", client_pid=70, client_start=7).name == "bob"


def test_a_session_whose_process_is_dead_makes_room_beside_its_assistant():
    desk = Desk()
    desk.bob.close()
    dead = desk.world.open("bob", pinned=True, pid=99, instance=mid(8), **BESIDE)
    desk.world.dead_pids.add(99)
    again = desk.world.open("bob", pinned=True, pid=98, instance=mid(9), **BESIDE)
    assert again.name == "bob"
    assert dead.close_reason == "its process is gone"


def test_when_the_first_left_meanwhile_the_second_goes_on():
    world = World()
    first = world.open("bob", pinned=True, instance=mid(8), **BESIDE)
    session = world.state.sessions[first.sid]
    sid = first.sid + 50
    hello = wire.Hello(versions=(1, 1), name="bob", instance=mid(9), **BESIDE)
    check = CheckProcess(session.pid, 0, Beside(sid, first.sid))
    assert world.hub.handle(SessionOpened(sid, hello, 0), world.clock.now) == [check]
    first.close()
    answer = ProcessChecked(check.then, alive=True)
    assert world.hub.handle(answer, world.clock.now)
    world.hub.handle(SessionClosed(sid, "eof"), world.clock.now)
    assert world.hub.handle(answer, world.clock.now) == []


# --- what is shown, and what proves it -------------------------------------------------------------------


@pytest.mark.guarantee("hook-evidence")
def test_mail_that_a_hook_printed_is_pushed_and_seen_once_the_turn_went_on():
    desk = Desk()
    sent = desk.ann.send("bob", "hi")
    assert sent.status == "queued"
    assert desk.show("prompt") == ["hi"]
    peer = desk.world.peer("bob")
    assert list(peer.printed) == [sent.msg_id]
    page = desk.bob.inbox()
    assert [(mail.msg_id, mail.text) for mail in page.messages] == [(sent.msg_id, None)]
    assert desk.show("tool") == []
    assert (peer.printed, peer.pushed, peer.unread) == ({}, {}, 0)
    assert desk.world.state.sessions[desk.bob.sid].evidence_at == desk.world.clock.wall
    assert desk.bob.inbox().messages == ()


@pytest.mark.guarantee("hook-evidence")
def test_what_was_printed_into_a_prompt_that_was_taken_back_is_shown_again_marked():
    desk = Desk()
    desk.ann.send("bob", "hi")
    assert desk.show("prompt") == ["hi"]
    desk.ann.send("bob", "you")
    assert desk.show("prompt") == ["hi (again)", "you"]
    assert desk.show("stop") == []
    assert desk.show("prompt") == []


def test_a_cleared_context_is_shown_again_what_was_not_proved():
    desk = Desk()
    desk.ann.send("bob", "hi")
    assert desk.show("tool") == ["hi"]
    assert desk.hook("start").messages == ()
    assert desk.show("prompt") == ["hi (again)"]


def test_a_hook_that_dies_before_it_printed_leaves_its_page_unread():
    desk = Desk()
    desk.ann.send("bob", "hi")
    assert len(desk.hook("prompt").messages) == 1
    assert desk.show("tool") == ["hi (again)"]


def test_a_message_shown_only_in_part_is_not_shown_by_another_hook_and_whole_in_the_inbox():
    desk = Desk()
    long = desk.ann.send("bob", "long").msg_id
    assert desk.show("prompt", cut=(long,)) == ["long"]
    assert desk.show("tool") == []
    assert desk.show("prompt") == []
    desk.ann.send("bob", "short")
    assert desk.show("stop") == ["short"]
    assert desk.bob.texts() == ["long", None]
    assert desk.world.peer("bob").cut == {}


def test_what_was_shown_in_part_to_a_prompt_that_was_taken_back_is_shown_again():
    desk = Desk()
    long = desk.ann.send("bob", "long").msg_id
    assert desk.show("prompt", cut=(long,)) == ["long"]
    assert desk.show("prompt", cut=(long,)) == ["long (again)"]
    assert desk.show("tool") == []
    assert desk.world.peer("bob").unread == 1
    assert desk.show("prompt") == []


def test_what_was_shown_in_part_and_left_a_full_mailbox_hides_nothing():
    desk = Desk(mailbox_messages=1)
    long = desk.ann.send("bob", "long").msg_id
    assert desk.show("prompt", cut=(long,)) == ["long"]
    desk.ann.send("bob", "short")
    assert desk.world.peer("bob").cut == {}
    assert desk.show("stop") == ["short"]


def test_ids_that_were_not_in_the_page_change_nothing():
    desk = Desk()
    desk.ann.send("bob", "hi")
    line = desk.world.open(role="attach", client_pid=70, client_start=7)
    page = line.call(wire.Hook, event="prompt")
    line.call(wire.Printed, lease=page.lease, msg_ids=(mid(77),), cut=(mid(78),), notices=("n9-9",))
    line.call(wire.Printed, lease=page.lease, msg_ids=(page.messages[0].msg_id,))
    peer = desk.world.peer("bob")
    assert (peer.printed, peer.cut, peer.printed_notices) == ({}, {}, set())
    assert desk.bob.texts() == ["hi"]


def test_notices_are_printed_once_and_go_when_the_turn_went_on():
    desk = Desk(mailbox_messages=1)
    desk.world.open("carol", pinned=True)
    desk.bob.send("carol", "one")
    desk.bob.send("carol", "two")
    [text] = desk.show("prompt")
    assert "carol" in text
    assert desk.rings == 1
    desk.ann.send("bob", "hi")
    assert desk.world.peer("bob").notices == 1
    assert desk.show("stop") == ["hi"]
    assert desk.world.peer("bob").notices == 0
    assert desk.show("prompt") == ["hi (again)"]


def test_a_notice_that_is_printed_and_not_proved_is_shown_again():
    desk = Desk(mailbox_messages=1)
    desk.world.open("carol", pinned=True)
    desk.bob.send("carol", "one")
    desk.bob.send("carol", "two")
    assert len(desk.show("prompt")) == 1
    assert len(desk.show("prompt")) == 1


def test_a_proof_the_disk_refused_is_taken_up_by_the_next_hook():
    desk = Desk()
    desk.ann.send("bob", "hi")
    desk.show("prompt")
    with desk.world.broken_disk():
        desk.hook("tool")
    assert list(desk.world.peer("bob").printed)
    desk.hook("tool")
    assert desk.world.peer("bob").unread == 0


def test_a_proof_that_fails_after_its_session_ended_is_nobodys():
    desk = Desk()
    desk.ann.send("bob", "hi")
    desk.show("prompt")
    line = desk.world.open(role="attach", client_pid=70, client_start=7)
    with desk.world.broken_disk(), desk.world.hold():
        line.ask(wire.Hook, event="stop")
        desk.bob.close()
    line.close()
    assert desk.world.peer("bob").printed == {}
    assert desk.sit_down().texts() == ["hi"]


def test_a_proof_for_a_peer_that_is_gone_is_passed_over():
    desk = Desk()
    note = hooks.HookProved(99, (mid(1),), ())
    hooks.prove_failed(desk.world.state, note)
    hooks.proved(desk.world.state, note, Confirmed(0, 0), desk.world.clock.now)


def test_mail_that_leaves_a_full_ring_unread_is_no_longer_printed():
    desk = Desk(mailbox_messages=1)
    desk.ann.send("bob", "one")
    desk.show("prompt")
    desk.ann.send("bob", "two")
    assert desk.world.peer("bob").printed == {}
    assert desk.show("stop") == ["two"]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("how", ["left", "read"])
def test_what_was_not_unread_any_more_when_it_was_printed_hides_nothing_that_comes(how: str, cut: bool):
    desk = Desk(mailbox_messages=2)
    desk.ann.send("bob", "one")
    line = desk.world.open(role="attach", client_pid=70, client_start=7)
    page = line.call(wire.Hook, event="prompt")
    if how == "read":
        desk.bob.confirm(desk.bob.inbox(since_id=page.messages[0].msg_id))
    desk.ann.send("bob", "two")
    desk.ann.send("bob", "three")
    shown = (page.messages[0].msg_id,)
    line.call(wire.Printed, lease=page.lease, **{"cut" if cut else "msg_ids": shown})
    line.close()
    assert desk.rings == 2
    assert desk.bob.call(wire.Peers).unread == 2
    assert desk.show("stop") == ["two", "three"]
    desk.show("stop")
    desk.bob.close()
    desk.ann.close()
    desk.world.idle()


def test_groups_with_unread_lines_are_named_once_until_more_come():
    desk = Desk()
    desk.ann.call(wire.GroupCreate, name="team", members=("bob",))
    named = desk.show_groups("prompt")
    assert named == {"team": 1}
    assert desk.show_groups("prompt") == {}
    desk.ann.call(wire.GroupSend, group="team", text="hello")
    assert desk.show_groups("tool") == {"team": 2}
    history = desk.bob.call(wire.GroupHistory, group="team")
    desk.bob.call(wire.GroupConfirm, group="team", upto=history.upto)
    desk.ann.call(wire.GroupSend, group="team", text="again")
    assert desk.show_groups("stop") == {"team": 1}


def test_room_messages_are_shown_by_a_hook():
    desk = Desk()
    desk.bob.call(wire.Join, room="kitchen")
    desk.ann.call(wire.Join, room="kitchen")
    desk.ann.call(wire.RoomSend, room="kitchen", text="tea?")
    assert desk.rings == 1
    assert desk.show("prompt") == ["tea?"]
    assert desk.show("prompt") == []
    assert desk.world.state.room_backlog_bytes == 0


def test_room_messages_for_which_a_hook_had_no_room_are_shown_by_the_next():
    desk = Desk()
    desk.bob.call(wire.Join, room="kitchen")
    desk.ann.call(wire.Join, room="kitchen")
    for text in ("tea?", "milk?"):
        desk.ann.call(wire.RoomSend, room="kitchen", text=text)
    line = desk.world.open(role="attach", client_pid=70, client_start=7)
    page = line.call(wire.Hook, event="prompt")
    line.call(wire.Printed, lease=page.lease, msg_ids=(page.messages[0].msg_id,))
    line.close()
    assert desk.show("tool") == ["milk? (again)"]
    assert desk.world.state.room_backlog_bytes == 0


def test_a_room_message_shown_in_part_waits_whole_in_the_inbox_and_hides_nothing_else():
    desk = Desk()
    desk.bob.call(wire.Join, room="kitchen")
    desk.ann.call(wire.Join, room="kitchen")
    long = mid(500)
    desk.ann.call(wire.RoomSend, room="kitchen", text="long", op_id=long)
    assert desk.show("prompt", cut=(long,)) == ["long"]
    assert desk.show("prompt", cut=(long,)) == ["long (again)"]
    desk.ann.call(wire.RoomSend, room="kitchen", text="tea?")
    rings = desk.rings
    assert desk.show("tool") == ["tea?"]
    assert desk.hook("tool").remaining == 0
    desk.world.tick(50)
    assert desk.rings == rings
    assert desk.bob.texts() == ["long"]
    assert desk.world.peer("bob").cut_rooms == set()
    assert desk.world.peer("bob").printed == {}
    assert desk.world.state.room_backlog_bytes == 0
    desk.ann.send("bob", "hi")
    assert desk.hook("bell").wake


def test_mail_that_comes_while_a_page_with_what_was_shown_in_part_is_out_rings():
    desk = Desk()
    long = desk.ann.send("bob", "long").msg_id
    desk.show("prompt", cut=(long,))
    desk.hook("stop")
    page = desk.bob.inbox()
    assert [mail.text for mail in page.messages] == ["long"]
    rings = desk.rings
    desk.ann.send("bob", "hi")
    assert desk.rings == rings + 1


def test_a_page_read_for_a_session_that_another_followed_is_shown_again():
    desk = Desk()
    desk.ann.send("bob", "hi")
    line = desk.world.open(role="attach", client_pid=70, client_start=7)
    page = line.call(wire.Hook, event="prompt")
    desk.bob.close()
    desk.bob = desk.sit_down()
    line.call(wire.Printed, lease=page.lease, msg_ids=(page.messages[0].msg_id,))
    assert desk.world.peer("bob").printed == {}
    line.close()
    assert desk.show("prompt") == ["hi (again)"]


def test_lines_of_a_group_left_and_joined_again_are_told_anew():
    desk = Desk()
    desk.ann.call(wire.GroupCreate, name="team", members=("bob",))
    desk.ann.call(wire.GroupSend, group="team", text="hello")
    assert desk.show_groups("prompt") == {"team": 2}
    desk.ann.call(wire.GroupRemove, group="team", peer="bob", reason="")
    desk.show("stop")
    desk.ann.call(wire.GroupInvite, group="team", peer="bob")
    desk.ann.call(wire.GroupSend, group="team", text="again")
    assert desk.show_groups("prompt") == {"team": 2}


def test_a_hook_that_asks_again_without_having_printed_gives_its_page_back():
    desk = Desk()
    desk.ann.call(wire.GroupCreate, name="team", members=("bob",))
    line = desk.world.open(role="attach", client_pid=70, client_start=7)
    for _ in range(50):
        assert [group.name for group in line.call(wire.Hook, event="tool").groups] == ["team"]
    assert len(desk.world.state.leases) == 1
    desk.ann.send("bob", "hi")
    assert [mail.text for mail in line.call(wire.Hook, event="tool").messages] == ["hi"]
    line.call(wire.Hook, event="tool")
    line.close()
    assert desk.show("tool") == ["hi (again)"]


def test_what_came_on_top_of_a_printed_notice_rings_once_that_is_proved():
    desk = Desk(mailbox_messages=1)
    desk.world.open("carol", pinned=True)
    for text in ("one", "two"):
        desk.bob.send("carol", text)
    assert len(desk.show("prompt")) == 1
    desk.bob.send("carol", "three")
    rings = desk.rings
    desk.hook("stop")
    assert desk.rings == rings + 1


def test_a_hook_that_proves_and_shows_more_rings_for_none_of_it():
    desk = Desk()
    desk.ann.send("bob", "one")
    desk.show("prompt")
    desk.ann.send("bob", "two")
    rings = desk.rings
    assert desk.show("tool") == ["two"]
    assert desk.rings == rings


def test_a_budget_that_holds_less_than_waits_leaves_the_rest_for_the_next_hook():
    desk = Desk()
    for number in range(5):
        desk.ann.send("bob", f"{number}" * 500)
    first = desk.show("prompt", budget=1_700)
    assert len(first) == 2
    assert len(desk.show("stop", budget=8_000)) == 3


# --- the bell --------------------------------------------------------------------------------------------


def test_the_bell_rings_once_for_many_messages_until_a_hook_has_run():
    desk = Desk()
    for number in range(20):
        desk.ann.send("bob", str(number))
    assert desk.rings == 1
    assert len(desk.show("prompt")) == 20
    desk.ann.send("bob", "more")
    assert desk.rings == 2


def test_only_one_wake_is_granted_until_the_prompt_comes_or_a_while_has_passed():
    desk = Desk()
    assert desk.hook("bell").wake is False
    desk.ann.send("bob", "hi")
    assert desk.hook("bell").wake is True
    assert desk.hook("bell").wake is False
    desk.world.tick(hooks.WAKE_S)
    assert desk.hook("bell").wake is True
    assert desk.show("prompt") == ["hi"]
    assert desk.hook("bell").wake is False
    desk.ann.send("bob", "again")
    assert desk.hook("bell").wake is True


def test_the_bell_rings_again_while_nobody_looks_ever_more_seldom_and_then_no_more():
    desk = Desk(ping_s=1e6)
    desk.ann.send("bob", "hi")
    heard = [desk.rings]
    for seconds in hooks.RING_AGAIN_S:
        desk.world.tick(seconds)
        heard.append(desk.rings)
    assert heard == [1, 2, 3, 4, 5, 6, 7]
    desk.world.tick(3_600)
    assert desk.rings == 7
    desk.ann.send("bob", "news")
    assert desk.rings == 8


def test_the_bell_is_silent_once_everything_was_read():
    desk = Desk(ping_s=1e6)
    desk.ann.send("bob", "hi")
    desk.bob.texts()
    desk.world.tick(600)
    assert desk.rings == 1
    desk.ann.send("bob", "more")
    assert desk.rings == 2


def test_the_bell_is_silent_after_the_session_ended():
    desk = Desk()
    desk.ann.send("bob", "hi")
    desk.bob.close()
    desk.world.tick(600)
    assert desk.rings == 1


def test_the_bell_rings_for_a_session_that_comes_back_to_its_mail():
    desk = Desk()
    desk.bob.close()
    desk.ann.send("bob", "hi")
    desk.bob = desk.sit_down()
    assert desk.rings == 1
    assert isinstance(desk.bob.got[0], wire.Welcome)


def test_the_bell_rings_when_the_assistant_begins_to_listen():
    desk = Desk()
    desk.hook("start")
    assert desk.rings == 0
    desk.ann.send("bob", "hi")
    desk.hook("start")
    assert desk.rings == 2
    desk.world.tick(hooks.RING_AGAIN_S[0])
    assert desk.rings == 3


def test_one_who_waits_gets_the_mail_and_nobody_rings():
    desk = Desk()
    waiting = desk.bob.ask(wire.Inbox, wait=60.0)
    desk.ann.send("bob", "hi")
    assert [mail.text for mail in desk.bob.answers[waiting].messages] == ["hi"]
    assert desk.rings == 0


def test_a_page_that_was_given_back_rings():
    desk = Desk()
    desk.ann.send("bob", "hi")
    desk.show("prompt")
    desk.hook("prompt")
    assert desk.rings == 2
    page = desk.bob.inbox()
    desk.bob.call(wire.Release, lease=page.lease)
    assert desk.show("tool") == ["hi (again)"]


def test_what_is_left_of_a_page_rings():
    desk = Desk()
    for number in range(3):
        desk.ann.send("bob", f"{number}" * 900)
    desk.show("prompt", budget=1_500)
    assert desk.rings == 2


def test_a_timer_of_an_earlier_ring_is_void():
    desk = Desk()
    desk.ann.send("bob", "one")
    desk.world.tick(1.0)
    desk.show("prompt")
    desk.ann.send("bob", "two")
    desk.world.tick(hooks.RING_AGAIN_S[0] - 1.0)
    assert desk.rings == 2
    desk.world.tick(1.0)
    assert desk.rings == 3


def test_a_session_without_a_bell_hears_none():
    world = World()
    ann, bob = world.open("ann", pinned=True), world.open("bob", pinned=True)
    ann.send("bob", "hi")
    assert not any(isinstance(frame, wire.Bell) for frame in bob.got)


# --- the list of peers -----------------------------------------------------------------------------------


def test_the_list_tells_by_what_mail_reaches_a_session_and_when_that_was_proved():
    desk = Desk()
    carol = desk.world.open("carol", pinned=True, push=True)
    desk.world.open("dave", pinned=True).close()
    desk.ann.ask(wire.Send, to="carol", text="hi")
    carol.ack(carrier="channel")
    desk.ann.send("bob", "hi")
    desk.world.tick(1.0)
    desk.show("prompt")
    desk.show("tool")
    rows = {row.name: row for row in desk.ann.call(wire.Peers).peers}
    told = {name: (row.push, row.carrier, row.evidence_at) for name, row in rows.items()}
    assert told == {
        "bob": (True, "hook", desk.world.clock.wall),
        "carol": (True, "channel", 0),
        "dave": (False, "", 0),
    }


def test_a_confirmed_read_is_evidence_too():
    desk = Desk()
    desk.ann.send("bob", "hi")
    desk.bob.texts()
    assert desk.world.state.sessions[desk.bob.sid].evidence_at == desk.world.clock.wall


# --- another id of the assistant's session ---------------------------------------------------------------


def test_a_cleared_session_keeps_its_peer_which_its_new_id_leads_to():
    world = World()
    session = world.open("bob", identity="one", **BESIDE)
    assert session.call(wire.Identify, identity="two").name == "bob"
    session.close()
    world.restart()
    assert world.open("other", identity="two", client="claude-code").name == "bob"


def test_a_session_that_goes_on_as_another_is_told_whose_id_that_is():
    world = World()
    world.open("amy", identity="one", client="claude-code").close()
    session = world.open("bob", identity="two", **BESIDE)
    assert session.call(wire.Identify, identity="one").name == "amy"
    assert world.state.identities["claude-code", "one"] is world.peer("amy")


def test_an_id_of_a_peer_that_is_live_elsewhere_leads_to_the_caller_itself():
    world = World()
    world.open("amy", identity="one", client="claude-code")
    session = world.open("bob", identity="two", **BESIDE)
    assert session.call(wire.Identify, identity="one").name == "bob"


def test_only_a_session_has_an_id():
    world = World()
    world.open("bob", pinned=True)
    hook = world.open("bob", role="attach")
    assert hook.call(wire.Identify, identity="one").code == "not_registered"


def test_an_id_the_disk_refused_is_answered_so():
    world = World()
    session = world.open("bob", identity="one", **BESIDE)
    with world.broken_disk():
        assert session.call(wire.Identify, identity="two").code == "mailbox_error"


def test_nothing_is_left_over_once_everybody_is_gone():
    desk = Desk()
    desk.ann.send("bob", "hi")
    desk.show("prompt")
    desk.bob.close()
    desk.ann.close()
    desk.world.idle()


# --- turns that are told apart ---------------------------------------------------------------------------


def test_a_prompt_typed_during_a_turn_is_shown_nothing_and_the_turn_shows_it():
    desk = Desk()
    assert desk.show("prompt", turn="a") == []
    sent = desk.ann.send("bob", "hi")
    assert desk.show("prompt", turn="a") == []
    assert desk.show("stop", turn="a") == ["hi"]
    assert desk.show("stop", turn="a") == []
    [mail] = desk.bob.inbox(since_id=sent.msg_id).messages
    assert mail.seen


def test_a_prompt_typed_during_a_turn_takes_nothing_back():
    desk = Desk()
    desk.ann.send("bob", "hi")
    assert desk.show("prompt", turn="a") == ["hi"]
    assert desk.show("prompt", turn="a") == []
    assert desk.show("stop", turn="a") == []


def test_the_end_of_another_turn_proves_nothing():
    desk = Desk()
    desk.ann.send("bob", "hi")
    assert desk.show("prompt", turn="a") == ["hi"]
    assert desk.show("stop", turn="b") == ["hi (again)"]
    assert desk.show("stop", turn="b") == []


def test_an_assistant_that_names_its_turns_only_at_prompts_or_never_has_its_mail_proved():
    desk = Desk()
    desk.ann.send("bob", "one")
    assert desk.show("prompt", turn="a") == ["one"]
    assert desk.show("tool") == []
    desk.ann.send("bob", "two")
    assert desk.show("prompt") == ["two"]
    assert desk.show("stop", turn="b") == []
    assert desk.world.peer("bob").unread == 0


def test_tools_that_run_side_by_side_prove_nothing_of_each_other():
    desk = Desk(mailbox_messages=2)
    desk.world.open("carol", pinned=True)
    for text in ("one", "two", "three"):
        desk.bob.send("carol", text)
    long = desk.ann.send("bob", "hi").msg_id
    assert len(desk.show("tool", cut=(long,))) == 2  # and a notice
    desk.ann.send("bob", "you")
    assert desk.show("tool") == ["you"]
    assert desk.show("tool") == []
    peer = desk.world.peer("bob")
    assert (peer.unread, peer.notices) == (2, 1)
    assert desk.show("stop") == []
    assert (peer.unread, peer.notices, peer.after_tool) == (1, 0, set())


def test_an_assistant_that_tells_only_whether_a_turn_was_prolonged_has_its_mail_proved_by_that():
    desk = Desk()
    desk.ann.send("bob", "one")
    assert desk.show("prompt") == ["one"]  # at the end of a turn that its user began
    desk.ann.send("bob", "two")
    assert desk.show("stop", turn="talk") == ["two"]  # of the turn that the first made
    assert desk.show("prompt") == ["two (again)"]  # it made none: its user began this one
    assert desk.show("stop", turn="talk") == []
    assert desk.world.peer("bob").unread == 0


def test_what_was_printed_at_the_end_of_a_turn_is_unread_again_when_the_next_is_broken_off():
    desk = Desk()
    desk.ann.send("bob", "one")
    assert desk.show("stop", turn="talk") == ["one"]
    assert desk.hook("start").unread == 1
    assert desk.show("stop", turn="talk") == ["one (again)"]
    assert desk.show("stop", turn="other") == ["one (again)"]
    assert desk.show("stop", turn="other") == []
