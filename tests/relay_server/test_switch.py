"""The switch by lists: what hubs say in, the whole of what is done and written out."""

import pytest

from ecorelay import relay_wire
from ecorelay.relay_wire import (
    CLOSE,
    CREDIT,
    CREDIT_MORE,
    DATA,
    OPEN,
    PIECE_MAX,
    STREAMS_MAX,
    Congested,
    Here,
    Joined,
    Left,
    NoSuchHub,
)
from ecorelay_relay_server import bounds, outbox
from ecorelay_relay_server.bounds import LANE_MAX, NOTES_MAX, RECORD_MAX
from ecorelay_relay_server.switch import End, News, Wake
from tests.relay_server.switches import (
    EVERYTHING,
    NUMBER,
    OTHER,
    address,
    card,
    closing,
    credit,
    data,
    join,
    opened,
    opening,
    shown,
    switch,
    take,
)

BIG = bytes(PIECE_MAX)


# --- messages that break the rules -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x02" + bytes(39),
        b"\x05" + bytes(40),
        b"\x00" + bytes(40),
        b"\x02" + bytes(40),
        b"\x02" + bytes(40 + PIECE_MAX + 1),
        b"\x03" + bytes(40 + 3),
        b"\x01" + bytes(40) + b"x",
        b"\x04" + bytes(40) + b"x",
    ],
    ids=[
        "empty",
        "half a header",
        "unknown kind",
        "kind 0",
        "no data",
        "too much",
        "credit",
        "open",
        "close",
    ],
)
def test_a_message_that_breaks_the_rules_ends_its_hub_alone(message):
    at = switch()
    bad, good = join(at, "bad"), join(at, "good")
    news, end = at.data(bad, message)
    assert news == News()
    assert end[:2] == (bad, relay_wire.CLOSE_FRAME)
    assert end.reason
    assert at.hubs == 1
    assert at.spread() == (Wake(good),)
    assert take(at, good) == [Left(address=address("bad").hex(), reason="refused")]


@pytest.mark.parametrize("kind", [OPEN, DATA, CREDIT_MORE, CLOSE])
def test_a_message_to_oneself_is_refused(kind):
    at = switch()
    hub = join(at, "a")
    payload = {DATA: b"x", CREDIT_MORE: bytes(4)}.get(kind, b"")
    actions = at.data(hub, relay_wire.piece(kind, hub.address, NUMBER, payload))
    assert actions[-1] == End(hub, relay_wire.CLOSE_FRAME, "a message to itself")


@pytest.mark.parametrize("kind", [OPEN, DATA])
def test_an_unknown_destination_is_answered(kind):
    at = switch()
    hub = join(at, "a")
    gone = address("nobody")
    message = relay_wire.piece(kind, gone, NUMBER, b"x" if kind == DATA else b"")
    assert at.data(hub, message) == (Wake(hub),)
    assert take(at, hub) == [NoSuchHub(address=gone.hex(), stream=NUMBER.hex())]


@pytest.mark.parametrize("kind", [CREDIT_MORE, CLOSE])
def test_credit_and_close_for_nobody_are_dropped_without_an_answer(kind):
    at = switch()
    hub = join(at, "a")
    message = relay_wire.piece(kind, address("nobody"), NUMBER, bytes(4) if kind == CREDIT_MORE else b"")
    assert at.data(hub, message) == ()
    assert take(at, hub) == []


@pytest.mark.parametrize("make", [lambda to: data(to, b"late"), lambda to: credit(to, 9), closing])
def test_a_piece_of_an_unknown_stream_is_dropped_not_reset(make):
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    take(at, one)
    assert at.data(one, make(other)) == ()
    assert take(at, one) == take(at, other) == []
    assert at.counts["dropped_stream"] == 1


def test_an_open_of_a_stream_that_is_open_changes_nothing():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    take(at, one)
    opened(at, one, other)
    assert at.data(one, opening(other)) == ()
    assert at.data(other, opening(one)) == ()
    assert at.streams == 1


def test_a_text_after_the_hello_is_ignored():
    at = switch()
    hub = join(at, "a")
    at.text(hub)
    assert at.here(hub)
    assert take(at, hub) == []


# --- streams ---------------------------------------------------------------------------------------------


def test_a_stream_carries_data_both_ways_under_each_others_address():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    take(at, one)
    assert at.data(one, opening(other)) == (Wake(other),)
    assert at.data(one, data(other, b"to b")) == ()  # awake already
    assert take(at, other) == [(OPEN, one.address, NUMBER, b""), (DATA, one.address, NUMBER, b"to b")]
    assert at.data(other, data(one, b"to a")) == (Wake(one),)
    at.data(other, credit(one, 4))
    assert take(at, one) == [
        (DATA, other.address, NUMBER, b"to a"),
        (CREDIT_MORE, other.address, NUMBER, (4).to_bytes(4, "big")),
    ]
    at.data(one, closing(other))
    assert take(at, other) == [(CLOSE, one.address, NUMBER, b"")]
    assert at.streams == 0
    assert at.data(other, data(one, b"late")) == ()


def test_what_was_sent_before_a_close_arrives_and_what_waits_for_the_closer_does_not():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    take(at, one)
    opened(at, one, other)
    at.data(other, data(one, b"too late"))
    at.data(one, data(other, b"last words"))
    at.data(one, closing(other))
    assert take(at, one) == []
    assert take(at, other) == [
        (DATA, one.address, NUMBER, b"last words"),
        (CLOSE, one.address, NUMBER, b""),
    ]
    assert at.queued == 0


def test_two_hubs_may_give_their_streams_the_same_number():
    at = switch()
    a, b, c = join(at, "a"), join(at, "b"), join(at, "c")
    opened(at, a, c)
    opened(at, b, c)
    at.data(a, data(c, b"of a"))
    at.data(b, data(c, b"of b"))
    at.data(a, closing(c))
    assert {(each[1], each[3]) for each in take(at, c) if each[0] == DATA} == {
        (a.address, b"of a"),
        (b.address, b"of b"),
    }
    at.data(b, data(c, b"still open"))
    assert take(at, c) == [(DATA, b.address, NUMBER, b"still open")]


def test_only_so_many_streams_are_open_between_two_hubs_whoever_opens_them():
    at = switch()
    one, other, third = join(at, "a"), join(at, "b"), join(at, "c")
    for hub in (one, other, third):
        take(at, hub)
    for number in range(STREAMS_MAX):
        from_, to = (one, other) if number % 2 else (other, one)
        at.data(from_, opening(to, number.to_bytes(8, "big")))
    at.data(one, opening(other, b"too many"))
    assert take(at, one)[-1] != take(at, other)[-1]
    assert at.streams == STREAMS_MAX
    assert at.counts["dropped_over_streams"] == 1
    at.data(one, opening(third, b"too many"))
    assert at.streams == STREAMS_MAX + 1
    at.data(one, closing(other, (0).to_bytes(8, "big")))
    at.data(one, opening(other, b"too many"))
    assert at.streams == STREAMS_MAX + 1


# --- credit ----------------------------------------------------------------------------------------------


def send_all_credit(at, one, other):
    for _ in range(CREDIT // PIECE_MAX):
        at.data(one, data(other, BIG))


def test_a_stream_that_exceeds_its_credit_is_closed_both_ways():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    take(at, one)
    opened(at, one, other)
    send_all_credit(at, one, other)
    assert at.streams == 1
    at.data(one, data(other, b"x"))
    assert at.streams == 0
    assert take(at, one) == [Congested(address=other.address.hex(), stream=NUMBER.hex())]
    assert take(at, other) == [Congested(address=one.address.hex(), stream=NUMBER.hex())]
    assert at.queued == 0
    assert at.here(one)
    assert at.here(other)


def test_credit_is_what_the_receiver_gives_back_not_what_has_left_the_server():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    opened(at, one, other)
    send_all_credit(at, one, other)
    take(at, other)
    at.data(other, credit(one, PIECE_MAX))
    at.data(one, data(other, BIG))
    assert at.streams == 1
    at.data(one, data(other, b"x"))
    assert at.streams == 0


def test_more_credit_than_was_used_is_worth_nothing():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    take(at, one)
    opened(at, one, other)
    at.data(one, data(other, b"12345"))
    at.data(other, credit(one, 0xFFFFFFFF))
    assert take(at, one) == [(CREDIT_MORE, other.address, NUMBER, (5).to_bytes(4, "big"))]
    assert at.data(other, credit(one, 0xFFFFFFFF)) == ()
    send_all_credit(at, one, other)
    assert at.streams == 1
    at.data(one, data(other, b"x"))
    assert at.streams == 0


def test_credit_that_waits_becomes_one_message():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    take(at, one)
    opened(at, one, other)
    at.data(one, data(other, bytes(1000)))
    for _ in range(1000):
        at.data(other, credit(one, 1))
    assert take(at, one) == [(CREDIT_MORE, other.address, NUMBER, (1000).to_bytes(4, "big"))]
    at.data(one, data(other, bytes(3)))
    at.data(other, credit(one, 3))
    assert take(at, one) == [(CREDIT_MORE, other.address, NUMBER, (3).to_bytes(4, "big"))]


def test_many_tiny_pieces_are_reckoned_with_what_they_take():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    for number in range(STREAMS_MAX):
        opened(at, one, other, number.to_bytes(8, "big"))
    sent = 0
    while at.streams == STREAMS_MAX:
        for number in range(STREAMS_MAX):
            at.data(one, data(other, b"x", number.to_bytes(8, "big")))
            sent += 1
        assert at.queued <= LANE_MAX
    assert sent < LANE_MAX // bounds.OVERHEAD + 10 * STREAMS_MAX


# --- what waits ------------------------------------------------------------------------------------------


@pytest.mark.guarantee("relay-bounded")
def test_what_waits_for_one_hub_and_for_all_is_bounded(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.switch.DESTINATION_MAX", 3 * CREDIT)
    monkeypatch.setattr("ecorelay_relay_server.switch.TOTAL_MAX", 8 * CREDIT)
    at = switch()
    deaf = [join(at, f"deaf-{n}") for n in range(6)]
    senders = [join(at, f"sender-{n}") for n in range(6)]
    ended = []
    for sender in senders:
        for to in deaf:
            if not at.here(to):
                continue
            at.data(sender, opening(to))
            for _ in range(CREDIT // PIECE_MAX):
                ended += [each for each in at.data(sender, data(to, BIG)) if isinstance(each, End)]
                assert to.outbox.queued <= 3 * CREDIT
                assert at.queued <= 8 * CREDIT
    assert {each.hub for each in ended} <= set(deaf)
    assert ended
    assert all(each.code == relay_wire.CLOSE_SLOW for each in ended)
    assert all(at.here(sender) for sender in senders)


def test_who_overruns_its_credit_all_the_time_is_ended_and_not_the_hub_that_cannot_read_so_fast():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    ended = []
    for number in range(NOTES_MAX + 1):
        take(at, one)  # but the other does not
        stream = number.to_bytes(8, "big")
        actions = at.data(one, opening(other, stream))
        for _ in range(CREDIT // PIECE_MAX + 1):
            actions += at.data(one, data(other, BIG, stream))
        ended += [each for each in actions if isinstance(each, End)]
    assert [(each.hub, each.code) for each in ended] == [(one, relay_wire.CLOSE_FRAME)]
    assert at.here(other)
    # Which tells it of all streams with that one.
    assert take(at, other)[0] == Left(address=one.address.hex(), reason="refused")
    assert at.queued == at.streams == 0


def test_a_hub_that_does_not_read_what_it_is_told_of_its_own_streams_is_ended():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    for number in range(STREAMS_MAX):
        at.data(one, opening(other, number.to_bytes(8, "big")))
    ended = []
    for number in range(NOTES_MAX + 1):
        actions = at.data(one, opening(other, (100 + number).to_bytes(8, "big")))
        ended += [(each.hub, each.code) for each in actions if isinstance(each, End)]
    assert ended == [(one, relay_wire.CLOSE_SLOW)]


def test_what_waits_for_a_hub_that_is_gone_is_let_go_before_its_connection_is():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    opened(at, one, other)
    for _ in range(CREDIT // PIECE_MAX):
        at.data(one, data(other, BIG))
    assert other.outbox.queued > CREDIT
    at.leave(other, "lost")
    assert (other.outbox.queued, other.outbox.take(EVERYTHING)) == (0, [])
    assert at.queued == 0


def test_what_is_being_written_still_counts():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    opened(at, one, other)
    at.data(one, data(other, BIG))
    at.take(other, EVERYTHING)
    assert at.queued > PIECE_MAX
    assert take(at, other) == []
    assert at.queued == 0
    at.data(one, data(other, BIG))
    at.take(other, EVERYTHING)
    at.leave(other, "lost")
    assert at.queued == 0


def test_where_too_many_streams_are_open_the_hub_goes_that_opened_most(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.switch.STREAMS_TOTAL", 6)
    at = switch()
    good, other, greedy = join(at, "good"), join(at, "other"), join(at, "greedy")
    at.data(good, opening(other))
    for number in range(5):
        at.data(greedy, opening(other, bytes(7) + bytes([number])))
    assert (at.streams, greedy.opened, other.opened, len(other.routes)) == (6, 5, 0, 6)
    ended = [each for each in at.data(good, opening(other, OTHER)) if isinstance(each, End)]
    assert [(each.hub, each.code) for each in ended] == [(greedy, relay_wire.CLOSE_RATE)]
    assert (at.streams, good.opened, len(good.routes)) == (2, 2, 2)
    at.data(other, closing(good, OTHER))
    assert (at.streams, good.opened) == (1, 1)


def test_who_opened_most_streams_itself_goes_before_it_opens_another(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.switch.STREAMS_TOTAL", 1)
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    at.data(one, opening(other))
    actions = at.data(one, opening(other, OTHER))
    assert [each.hub for each in actions if isinstance(each, End)] == [one]
    assert (at.streams, other.routes, other.outbox.queued) == (0, {}, 0)


def test_texts_that_are_being_written_count_as_data_does():
    at = switch()
    for number in range(50):
        at.join("default", card(f"h{number}"))
    late, _ = at.join("default", card("late"))
    taken, _ = at.take(late, EVERYTHING)
    assert at.queued == late.flying == sum(len(each) for each in taken) > 50 * 64
    assert at.take(late, EVERYTHING)[0] == []
    assert at.queued == 0
    at.leave(late, "lost")
    assert at.queued == 0


def test_a_flood_to_nobody_is_answered_so_often_and_no_more():
    at = switch()
    hub = join(at, "a")
    for _ in range(NOTES_MAX * 3):
        at.data(hub, relay_wire.piece(OPEN, address("nobody"), NUMBER))
    assert len(take(at, hub)) == NOTES_MAX
    assert at.here(hub)


def test_sources_take_turns_at_a_destination():
    at = switch()
    flood, calm, to = join(at, "flood"), join(at, "calm"), join(at, "to")
    opened(at, flood, to)
    opened(at, calm, to)
    for _ in range(8):
        at.data(flood, data(to, BIG))
    at.data(calm, data(to, b"quick"))
    taken, _ = at.take(to, 2 * PIECE_MAX)
    assert [shown(each)[1] for each in taken] == [flood.address, calm.address, flood.address]


def test_many_small_messages_of_one_source_are_one_turn():
    at = switch()
    flood, calm, to = join(at, "flood"), join(at, "calm"), join(at, "to")
    opened(at, flood, to)
    opened(at, calm, to)
    for _ in range(500):
        at.data(flood, data(to, bytes(1000)))
    at.data(calm, data(to, b"quick"))
    sources = [each[1] for each in take(at, to)]
    before = sources.index(calm.address)
    assert before <= PIECE_MAX // 1000


# --- realms, coming and going ----------------------------------------------------------------------------


def test_a_hub_is_told_who_is_here_in_parts_and_the_others_that_it_came(monkeypatch):
    monkeypatch.setattr(outbox, "HERE_PART", 2)
    at = switch()
    others = [join(at, name) for name in "abc"]
    for each in others:
        take(at, each)
    hub, actions = at.join("default", card("d"))
    assert actions == (News(),)
    assert take(at, hub) == [
        Here(hubs=(card("a"), card("b"))),
        Here(hubs=(card("c"),), complete=True),
    ]
    assert at.spread() == tuple(Wake(each) for each in others)
    assert [take(at, each) for each in others] == [[Joined(hub=card("d"))]] * 3


def test_the_first_hub_of_a_realm_is_told_that_nobody_is_here():
    at = switch()
    hub, _ = at.join("default", card("a"))
    assert take(at, hub) == [Here(complete=True)]


def test_who_came_is_told_before_what_it_sends():
    at = switch()
    one = join(at, "a")
    other = join(at, "b")
    at.data(other, opening(one))
    assert take(at, one) == [Joined(hub=card("b")), (OPEN, other.address, NUMBER, b"")]


@pytest.mark.guarantee("relay-realms")
def test_realms_neither_see_nor_reach_each_other():
    at = switch(realms=("red", "blue"))
    red, blue = join(at, "a", "red"), join(at, "b", "blue")
    third = join(at, "c", "red")
    assert take(at, red) == [Joined(hub=card("c"))]
    assert take(at, blue) == []
    at.data(red, opening(blue))
    assert take(at, red) == [NoSuchHub(address=blue.address.hex(), stream=NUMBER.hex())]
    assert take(at, blue) == []
    at.leave(third, "closed")
    at.spread()
    assert take(at, blue) == []


def test_one_identity_may_be_in_two_realms_at_once():
    at = switch(realms=("red", "blue"))
    red, blue = join(at, "a", "red"), join(at, "a", "blue")
    assert at.here(red)
    assert at.here(blue)


def test_the_same_identity_again_takes_the_place_of_its_old_connection():
    at = switch()
    old, other = join(at, "a"), join(at, "b")
    take(at, old)
    opened(at, old, other)
    at.data(old, data(other, b"of the old one"))
    at.data(other, data(old, b"for the old one"))
    new, actions = at.join("default", card("a"))
    assert actions == (End(old, relay_wire.CLOSE_REPLACED, "the same identity connected again"), News())
    assert at.queued == at.streams == 0
    assert take(at, other) == [Joined(hub=card("a"))]
    assert take(at, new) == [Here(hubs=(card("b"),), complete=True)]
    # The old connection ends a little later, and that is nobody's business any more.
    assert at.leave(old, "lost") == ()
    assert at.here(new)
    assert at.data(other, data(new, b"of a stream that is gone")) == ()
    at.data(other, opening(new, OTHER))
    assert take(at, new) == [(OPEN, other.address, OTHER, b"")]


def test_several_identities_may_give_themselves_one_name():
    at = switch()
    at.join("default", card("a", hub_id="same"))
    hub, _ = at.join("default", card("b", hub_id="same"))
    assert at.hubs == 2
    assert take(at, hub) == [Here(hubs=(card("a", hub_id="same"),), complete=True)]


def test_when_a_hub_goes_its_streams_end_and_nothing_waits_of_it():
    at = switch()
    one, other = join(at, "a"), join(at, "b")
    opened(at, one, other)
    at.data(one, data(other, BIG))
    at.data(one, closing(other))  # what it sent before waits on
    at.data(one, opening(other, OTHER))
    assert at.leave(one, "lost") == (News(),)
    assert at.queued == at.streams == 0
    assert not other.routes
    assert not other.pairs
    assert take(at, other) == [Left(address=one.address.hex(), reason="lost")]


def test_a_hub_that_missed_who_came_and_went_is_ended_and_the_others_are_not():
    at = switch()
    deaf, good = join(at, "deaf"), join(at, "good")
    for number in range(RECORD_MAX // 2 + 1):
        at.leave(join(at, f"hub-{number}"), "closed")
        if number % 100 == 0:
            take(at, good)
    taken, actions = at.take(deaf, EVERYTHING)
    assert taken == []
    assert [each for each in actions if isinstance(each, End)] == [
        End(deaf, relay_wire.CLOSE_SLOW, "it has not read who came and went")
    ]
    assert at.here(good)


def test_a_full_realm_and_a_full_server_say_so_and_a_hub_that_is_in_may_come_again():
    at = switch(realms=("red", "blue"), max_hubs=3, per_realm=2)
    for name in "ab":
        join(at, name, "red")
    assert "realm" in at.full("red", address("c"))
    assert at.full("red", address("a")) == ""
    join(at, "c", "blue")
    assert "server" in at.full("blue", address("d"))
    assert at.full("blue", address("c")) == ""


def test_other_bounds_and_realms_hold_from_then_on():
    at = switch(realms=("red", "blue"))
    red, blue = join(at, "a", "red"), join(at, "b", "blue")
    actions = at.limit({"red": 1, "green": 5}, 2)
    assert End(blue, relay_wire.CLOSE_TOKEN, "this realm is no more") in actions
    assert at.here(red)
    assert at.full("red", address("x"))
    join(at, "c", "green")


# --- pace ------------------------------------------------------------------------------------------------


def test_a_flood_is_read_later_and_opens_to_a_thousand_hubs_are_no_flood():
    at = switch()
    hub = join(at, "a")
    assert at.pause(hub, 0.0) == 0
    for _ in range(1000):
        at.data(hub, relay_wire.piece(OPEN, address("nobody"), NUMBER))
    assert at.pause(hub, 0.0) == 0
    for _ in range(10_000):
        at.data(hub, relay_wire.piece(OPEN, address("nobody"), NUMBER))
    pause = at.pause(hub, 0.0)
    assert 1 < pause < 60
    assert at.pause(hub, pause + 0.001) == 0


def test_a_quiet_time_saves_up_no_more_than_the_burst():
    at = switch()
    hub = join(at, "a")
    at.pause(hub, 0.0)
    assert at.pause(hub, 1e6) == 0
    hub.pace.spend(bounds.UNITS_BURST + bounds.UNITS_PER_S)
    assert at.pause(hub, 1e6) == pytest.approx(1.0)


# --- two that meet apart ---------------------------------------------------------------------------------

MEETING = "0123456789abcdef" * 2


def meet(at, name, *, invited, realm="default"):
    assert not at.uninvited(realm, address(name), MEETING, invited=invited)
    hub, actions = at.join(realm, card(name), MEETING)
    return hub, actions, take(at, hub)


@pytest.mark.guarantee("relay-invitation")
def test_two_that_meet_see_and_reach_each_other_and_nobody_else():
    at = switch()
    member = join(at, "m")
    host, _, seen_by_host = meet(at, "h", invited=False)
    guest, _, seen_by_guest = meet(at, "g", invited=True)
    assert seen_by_host == [Here(complete=True)]
    assert seen_by_guest == [Here(hubs=(card("h"),), complete=True)]
    assert take(at, host) == [Joined(hub=card("g"))]
    assert take(at, member) == []
    for one, other in ((guest, member), (member, guest), (member, host)):
        at.data(one, opening(other))
        assert take(at, one) == [NoSuchHub(address=other.card.address, stream=NUMBER.hex())]
    at.data(guest, opening(host))
    at.data(guest, data(host, b"hello"))
    assert take(at, host) == [(OPEN, guest.address, NUMBER, b""), (DATA, guest.address, NUMBER, b"hello")]
    assert (at.hubs, at.streams) == (3, 1)


@pytest.mark.guarantee("relay-invitation")
def test_nobody_is_let_in_before_the_one_that_invites_nor_after_it():
    at = switch()
    assert "nobody invites" in at.uninvited("default", address("g"), MEETING, invited=True)
    host, _, _ = meet(at, "h", invited=False)
    guest, _, _ = meet(at, "g", invited=True)
    assert at.leave(host, "closed") == (
        News(),
        End(guest, relay_wire.CLOSE_INVITATION, "who invited has left"),
    )
    assert at.leave(guest, "lost") == ()
    assert "nobody invites" in at.uninvited("default", address("g"), MEETING, invited=True)
    assert (at.hubs, at.meetings, at.queued) == (0, {}, 0)
    assert at.spread() == ()


def test_a_meeting_is_of_two_and_goes_on_with_another_guest():
    at = switch()
    meet(at, "h", invited=False)
    guest, _, _ = meet(at, "g", invited=True)
    assert "somebody is using" in at.uninvited("default", address("x"), MEETING, invited=True)
    assert not at.uninvited("default", address("g"), MEETING, invited=True)  # it comes again
    at.leave(guest, "lost")
    meet(at, "x", invited=True)
    assert at.hubs == 2


@pytest.mark.parametrize(("name", "invited"), [("h", True), ("x", False)])
def test_a_meeting_has_one_host_and_that_one_is_no_guest(name, invited):
    at = switch()
    meet(at, "h", invited=False)
    assert (
        at.uninvited("default", address(name), MEETING, invited=invited) == "this invitation is another hub's"
    )


def test_who_invites_comes_again_and_the_meeting_stays():
    at = switch()
    host, _, _ = meet(at, "h", invited=False)
    guest, _, _ = meet(at, "g", invited=True)
    again, actions, _ = meet(at, "h", invited=False)
    assert actions[0] == End(host, relay_wire.CLOSE_REPLACED, "the same identity connected again")
    assert at.leave(host, "lost") == ()
    assert at.here(guest)
    assert at.here(again)


def test_meetings_take_places_of_their_realm_and_end_with_it():
    at = switch(realms=("red", "blue"), per_realm=2)
    host, _, _ = meet(at, "h", invited=False, realm="red")
    join(at, "m", realm="red")
    assert at.full("red", address("x")) == "this realm has its 2 hubs already"
    assert not at.full("blue", address("x"))
    assert End(host, relay_wire.CLOSE_TOKEN, "this realm is no more") in at.limit({"blue": 2}, 1000)
    assert (at.hubs, at.meetings) == (0, {})


def test_a_hub_that_is_here_has_no_more_meetings_than_there_are_places():
    at = switch(per_realm=3)
    join(at, "h")
    for number in range(2):
        invitation = f"{number:032x}"
        assert not at.full("default", address("h"), invitation)
        at.join("default", card("h"), invitation)
        assert not at.full("default", address("h"), invitation), "it takes its own place there"
    assert at.full("default", address("h"), f"{2:032x}") == "this realm has its 3 hubs already"
    assert not at.full("default", address("h")), "it takes its own place here"
