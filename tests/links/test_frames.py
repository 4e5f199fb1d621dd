"""A hub at the other end of a link that says whatever it likes: nothing breaks, and nothing is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Raw

from ecorelay import link_wire, names, wire
from ecorelay.core import links, outbox
from ecorelay.core.events import HubsConfigured, LinkFrame, LinkLost, LinkUp, StoreFailed, Tick
from ecorelay.core.link_ops import OutSettled, Resumed
from ecorelay.core.ops import Eviction, OutExpired, OutRow
from ecorelay.core.outbox import OutGone, OutResumed
from ecorelay.link_wire import (
    AskAllBody,
    Busy,
    Delivered,
    Durable,
    LinkHello,
    LinkPing,
    LinkPong,
    MailBody,
    PeerState,
    Presence,
    Rejection,
    Results,
    Resume,
    encode_body,
)
from tests.links.land import Land, Machine, Wire

BIG = 2**63 - 1


def an_id(number: int) -> str:
    return names.new_id(1_700_000_000_000, lambda _: number)


class Stranger:
    """The other end of a link, in the hands of the test."""

    def __init__(self, land: Land, host: Machine, hub_id: str = "there") -> None:
        self.land = land
        self.host = host
        self.hub_id = hub_id
        self.links: dict[int, Wire] = {}
        self.events: deque[Any] = deque()
        self.running = True
        self.got: list[Any] = []
        self.lost: list[str] = []
        self.stream = an_id(1)
        land.machines[hub_id] = self  # type: ignore[assignment]

    def step(self) -> bool:
        """What happened at this end."""
        did = bool(self.events)
        while self.events:
            event = self.events.popleft()
            if isinstance(event, LinkFrame):
                self.got.append(event.frame)
            elif isinstance(event, LinkLost):
                self.lost.append(event.reason)
            else:
                assert isinstance(event, (LinkUp, Tick))
        return did

    def link(self) -> None:
        self.got.clear()
        self.wire = self.land.link(self.host, self)  # type: ignore[arg-type]

    def say(self, *frames: link_wire.LinkFrame) -> None:
        for each in frames:
            self.wire.send(self, each)  # type: ignore[arg-type]
        self.land.settle()

    def greet(self, **fields: Any) -> None:
        """As a well-behaved hub begins."""
        self.link()
        self.say(LinkHello(stream=self.stream, first=1), Resume(**fields))

    def told(self, kind: type) -> list[Any]:
        return [frame for frame in self.got if isinstance(frame, kind)]

    @property
    def hub(self) -> Any:
        return self.host.hub.state.hubs["there"]


@pytest.fixture
def here(land: Land) -> Machine:
    return land.machine("here")


@pytest.fixture
def there(land: Land, here: Machine) -> Iterator[Stranger]:
    yield Stranger(land, here)
    del land.machines["there"]


def mail(seq: int, text: str = "hello", **fields: Any) -> Durable:
    body = MailBody(
        **{"to": "ann", "sender": "bob", "sender_id": an_id(7), "kind": "message", "text": text, **fields}
    )
    return Durable(seq=seq, msg_id=an_id(100 + seq), body=Raw(encode_body(body)))


def raw(seq: int, body: bytes) -> Durable:
    return Durable(seq=seq, msg_id=an_id(100 + seq), body=Raw(body))


# --- the beginning -----------------------------------------------------------------------------------------


def test_mail_before_hello_ends_the_link_at_the_first_and_at_every_later_one(here: Machine, there: Stranger):
    ann = here.open("ann")
    there.link()
    there.say(mail(1))
    assert there.lost == ["mail before hello"]
    there.greet()
    there.say(mail(1))
    there.land.cut()
    there.link()
    there.say(mail(2, "of the stream before"))
    assert there.lost[-1] == "mail before hello"
    assert ann.texts() == ["hello"]


def test_a_second_hello_or_resume_ends_the_link(here: Machine, there: Stranger):
    there.greet()
    there.say(LinkHello(stream=an_id(2), first=1))
    there.greet()
    there.say(Resume())
    assert there.lost == ["a second hello", "a second resume"]


@pytest.mark.parametrize("second", [LinkHello(stream=an_id(3), first=1), mail(1), Resume()])
def test_before_our_hello_only_one_hello_is_taken(land: Land, here: Machine, there: Stranger, second: Any):
    here.held = True
    there.link()
    there.say(LinkHello(stream=there.stream, first=1))
    assert there.lost == []
    there.say(second)
    assert there.lost == ["more than a hello before ours"]
    here.held = False
    land.settle()
    assert here.hub.state.links == {}


def test_a_hello_that_comes_before_ours_is_answered_after_it(land: Land, here: Machine, there: Stranger):
    here.held = True
    there.link()
    there.say(LinkHello(stream=there.stream, first=1))
    here.held = False
    land.settle()
    kinds = [type(each) for each in there.got if isinstance(each, (LinkHello, Resume, Presence))]
    assert kinds == [LinkHello, Resume, Presence]


def test_a_link_whose_hub_the_disk_does_not_know_ends(land: Land, here: Machine, there: Stranger):
    here.refuses = "the disk is full"
    there.link()
    land.forward(4)
    assert there.lost == [], "or it would be made anew again and again"
    land.forward(1)
    assert there.lost == ["the disk is full"]
    assert here.hub.state.opening == {}


def test_a_link_that_is_lost_while_its_hub_is_looked_up_is_forgotten(
    land: Land, here: Machine, there: Stranger
):
    here.held = True
    there.link()
    land.cut()
    here.held = False
    land.settle()
    assert here.hub.state.links == {}
    assert there.got == []
    here.held = True
    there.link()
    land.cut()
    here.refuses = "the disk is full"
    here.held = False
    land.settle()
    assert there.lost == ["cut", "cut"]


def test_frames_that_are_the_shells_concern_lead_to_nothing(here: Machine, there: Stranger):
    there.greet()
    there.got.clear()
    there.say(LinkPing(number=1), LinkPong(number=2))
    assert (there.got, there.lost) == ([], [])


def test_frames_of_a_link_that_is_not_known_any_more_lead_to_nothing(here: Machine, there: Stranger):
    there.greet()
    here.feed(LinkFrame(999_999, Results(received=5)))
    assert there.lost == []


def test_a_disk_that_does_not_know_a_hub_of_a_link_that_is_gone_ends_nothing(
    land: Land, here: Machine, there: Stranger
):
    here.refuses = "the disk is full"
    land.settling = True
    there.link()
    here.once()
    there.wire.cut()
    here.events.reverse()  # the end of the link is heard of before the answer of the store
    land.settling = False
    land.settle()
    assert (here.hub.state.opening, there.lost) == ({}, ["cut"])


def test_hubs_that_are_known_are_not_asked_for_again(here: Machine, there: Stranger):
    here.knows("there")
    here.held = True
    here.knows("There", "other")
    asked: list[Any] = [op for unit in here.store._pending for op in unit[0]]
    assert [op.hub_id for op in asked] == ["other"]


def test_nothing_is_given_up_while_a_link_begins(land: Land, here: Machine, there: Stranger):
    here.knows("there")
    here.open("ann").send("bob@there", "hello")
    assert links.away(here.hub.state) == (1,)
    here.held = True
    there.link()
    assert links.away(here.hub.state) == ()
    here.held = False
    land.settle()
    assert links.away(here.hub.state) == ()


def test_what_the_store_says_of_a_hub_that_is_not_known_leads_to_nothing(here: Machine):
    state, now = here.hub.state, here.clock.now
    ends = Eviction(1, 2, 1, True)
    outbox.resumed(
        state, OutResumed(1, "gone"), Resumed(base=0, settled=0, last=0, out=OutSettled(0, 0)), now
    )
    outbox.settled(state, OutGone("gone", 5), OutSettled(1, 10, (ends,)), now)
    outbox.expired(state, OutExpired(9, 5, 1, 10, (ends,)), now)
    outbox.placed(state, (OutRow(hub_no=9, seq=1, msg_id=an_id(1), at=0, body=b"{}"),), now)
    assert (state.hubs, state.links, state.counters) == ({}, {}, {})
    outbox.settle_failed(state, OutGone("gone", 5), now)
    assert (state.hubs, state.counters) == ({}, {"outbox_settle_failed": 1})


# --- mail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [2, 3, BIG])
def test_a_gap_ends_the_link_and_nothing_after_it_is_taken(here: Machine, there: Stranger, seq: int):
    ann = here.open("ann")
    there.greet()
    there.say(mail(seq))
    assert there.lost == [f"frame {seq} does not follow 0"]
    assert there.told(Results) == []
    assert ann.texts() == []


def test_the_same_number_again_ends_the_link(here: Machine, there: Stranger):
    ann = here.open("ann")
    there.greet()
    there.say(mail(1), mail(1))
    assert there.lost == ["frame 1 does not follow 1"]
    assert ann.texts() == ["hello"]


def test_numbers_may_go_up_to_the_highest_there_is(here: Machine, there: Stranger):
    ann = here.open("ann")
    there.link()
    there.say(LinkHello(stream=there.stream, first=BIG), Resume(), mail(BIG))
    assert there.told(Results) == [Results(received=BIG)]
    assert ann.texts() == ["hello"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"type":"mail"}', "bad_msg"),
        (b'{"type":"from the future"}', "bad_msg"),
        (b"[]", "bad_msg"),
        (encode_body(MailBody(to="ann", sender="b", sender_id=an_id(7), kind="system", text="x")), "bad_msg"),
        (encode_body(MailBody(to="ann", sender="b", sender_id=an_id(7), kind="room", text="x")), "bad_msg"),
        (
            encode_body(MailBody(to="eve", sender="b", sender_id=an_id(7), kind="ask", text="x")),
            "peer_not_found",
        ),
        (
            encode_body(
                MailBody(to="ann", to_id=an_id(8), sender="b", sender_id=an_id(7), kind="ask", text="x")
            ),
            "peer_gone",
        ),
        (
            encode_body(MailBody(to="ann", sender="b", sender_id=an_id(7), kind="ask", text="x" * 524_289)),
            "too_large",
        ),
        (encode_body(MailBody(to="ann", sender="b", sender_id=an_id(7), kind="ask", text="")), "bad_args"),
    ],
)
def test_what_cannot_be_used_is_rejected_and_no_gap(here: Machine, there: Stranger, body: bytes, code: str):
    ann = here.open("ann")
    there.greet()
    there.say(raw(1, body))
    there.say(mail(2, "and on"))
    first, second = there.told(Results)
    assert (first.received, [(each.seq, each.code) for each in first.rejected]) == (1, [(1, code)])
    assert second == Results(received=2)
    assert all(len(each.message) <= 200 for each in first.rejected)
    assert ann.texts() == ["and on"]
    assert there.lost == []


@pytest.mark.parametrize("whom", ["there", "*"])
def test_what_a_person_does_not_let_a_hub_do_is_rejected(here: Machine, there: Stranger, whom: str):
    ann = here.open("ann")
    here.feed(HubsConfigured((), {whom: frozenset({"mail", "broadcast"}), "other": frozenset()}))
    there.greet()
    ask = encode_body(AskAllBody(sender="bob", sender_id=an_id(7), text="who?"))
    there.say(mail(1), raw(2, ask))
    assert [(each.seq, each.code) for frame in there.told(Results) for each in frame.rejected] == [
        (1, "blocked"),
        (2, "blocked"),
    ]
    assert here.hub.state.counters["denied_refused"] == 2
    here.feed(HubsConfigured((), {"there": frozenset({"rooms"})}))
    there.say(mail(3), raw(4, ask))
    assert ann.texts() == ["hello", "who?"]


def test_which_hubs_are_known(here: Machine, there: Stranger):
    assert not here.hub.knows_hub("there")
    there.greet()
    assert here.hub.knows_hub("There")
    here.feed(HubsConfigured(("desk",), {}))
    assert here.hub.knows_hub("desk")


def test_a_broadcast_that_does_not_go_at_once_is_pending(here: Machine, there: Stranger):
    here.knows("there")
    ann = here.open("ann")
    there.greet()
    here.hub.state.hubs["there"].inflight_bytes = link_wire.WINDOW_BYTES
    asked = ann.call(wire.Broadcast, question="who?")
    assert (asked.peer_count, asked.pending_hubs) == (0, 1)
    assert there.told(Durable) == []


def test_an_id_that_was_used_for_other_mail_is_taken_once(here: Machine, there: Stranger):
    ann = here.open("ann")
    there.greet()
    again = mail(2, "other words")
    there.say(mail(1), Durable(seq=2, msg_id=an_id(101), body=again.body))
    assert there.told(Results) == [Results(received=2)]
    assert ann.texts() == ["hello"]


def test_rejections_are_told_again_with_the_next_link_from_the_first_that_matters(
    land: Land, here: Machine, there: Stranger
):
    here.open("ann")
    there.greet()
    there.say(mail(1, to="eve"), mail(2), mail(3, to="eve"))
    here.restart()
    there.link()
    there.say(LinkHello(stream=there.stream, first=3))
    [resume] = there.told(Resume)
    assert (resume.stream, resume.received) == (there.stream, 3)
    assert [(each.seq, each.code) for each in resume.rejected] == [(3, "peer_not_found")]
    land.cut()
    there.link()
    there.say(LinkHello(stream=an_id(2), first=1))  # another run: all of the one before
    [resume] = there.told(Resume)
    assert [each.seq for each in resume.rejected] == [1, 3]


def test_mail_that_claims_to_be_older_than_time_is_taken(here: Machine, there: Stranger):
    ann = here.open("ann")
    there.greet()
    there.say(Durable(seq=1, msg_id=an_id(101), age_ms=BIG, body=mail(1).body))
    [got] = ann.inbox().messages
    assert got.ts == 0


def test_a_disk_that_refuses_says_so_once_and_takes_what_comes_again_from_there(
    land: Land, here: Machine, there: Stranger
):
    ann = here.open("ann")
    there.greet()
    there.say(mail(1))
    here.held = True
    there.say(mail(2), mail(3))
    here.refuses = "the disk is full"
    there.say(mail(4), mail(5))
    here.held = False
    land.settle()
    [busy] = there.told(Busy)
    there.say(mail(6))
    here.refuses = ""
    there.say(mail(busy.received + 1), mail(busy.received + 2))
    assert there.told(Busy) == [busy]
    assert there.told(Results)[-1].received == busy.received + 2 == len(ann.texts(limit=10))
    assert there.lost == []
    there.say(mail(busy.received + 4))
    assert there.lost == [f"frame {busy.received + 4} does not follow {busy.received + 2}"]


def test_a_store_that_gave_up_ends_the_link(land: Land, here: Machine, there: Stranger):
    here.open("ann")
    there.greet()
    here.held = True
    there.say(mail(1), mail(2))
    units, here.store._pending = here.store._pending, []
    for _, then, _ in units:
        here.events.append(StoreFailed(then, "unexpected", "the store stopped"))
    here.held = False
    land.settle()
    assert there.lost == ["cannot store: the store stopped"]
    assert there.told(Busy) == []


# --- results ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("received", [2, BIG])
def test_results_of_what_was_never_sent_end_the_link_and_settle_nothing(
    here: Machine, there: Stranger, received: int
):
    here.knows("there")
    ann = here.open("ann")
    there.greet()
    ann.send("bob@there", "one")
    there.say(Results(received=received))
    assert there.lost == ["results of what was never sent"]
    assert there.hub.waiting == 1
    there.link()
    there.say(Results(received=1))
    assert there.lost[-1] == "results of what was never sent"


def test_results_that_say_less_or_the_same_lead_to_nothing(here: Machine, there: Stranger):
    here.knows("there")
    ann = here.open("ann")
    there.greet()
    for text in ("one", "two"):
        ann.send("bob@there", text)
    there.say(Results(received=2), Results(received=1), Results(received=2), Results(received=0))
    assert (there.lost, there.hub.waiting) == ([], 0)


def test_a_rejection_of_what_is_settled_or_not_sent_counts_for_nothing(here: Machine, there: Stranger):
    here.knows("there")
    ann = here.open("ann")
    there.greet()
    for text in ("one", "two", "three"):
        ann.send("bob@there", text)
    there.say(
        Results(received=1),
        Results(
            received=2,
            rejected=(
                Rejection(seq=1, code="late"),
                Rejection(seq=2, code="blocked"),
                Rejection(seq=3, code="early"),
                Rejection(seq=BIG, code="never"),
            ),
        ),
        Results(received=3),
    )
    assert ann.texts() == ["1 message from you to bob@there ended unseen (blocked)"]
    assert there.hub.refused == []


@pytest.mark.parametrize("stream", ["known", "unknown", None])
def test_a_resume_that_claims_more_than_there_is_breaks_nothing(
    land: Land, here: Machine, there: Stranger, stream: str | None
):
    here.knows("there")
    ann = here.open("ann")
    there.greet()
    ann.send("bob@there", "one")
    ours = there.told(LinkHello)[0].stream
    land.cut()
    said = ours if stream == "known" else an_id(9) if stream == "unknown" else None
    there.greet(stream=said, received=BIG, rejected=(Rejection(seq=BIG, code="no"),))
    assert there.lost == ["cut"]
    assert [each.seq for each in there.told(Durable)] == ([] if stream == "known" else [1])
    ann.send("bob@there", "two")
    assert there.told(Durable)[-1].seq == 2


def test_delivered_of_what_nobody_waits_for_leads_to_nothing(here: Machine, there: Stranger):
    there.greet()
    there.say(Delivered(msg_ids=(an_id(5),)))
    assert there.lost == []


def test_what_a_carrier_takes_at_once_is_told_in_one_frame(
    here: Machine, there: Stranger, monkeypatch: pytest.MonkeyPatch
):
    """One for each would count against what a hub may say besides mail, and hold up a busy link."""
    ann = here.open("ann", push=True)
    there.greet()
    there.say(*[mail(seq, f"text {seq}") for seq in range(1, 6)])
    ids = tuple([push.msg_id for push in ann.pushes])
    assert len(ids) == 5
    monkeypatch.setattr(link_wire, "WINDOW_FRAMES", 4)
    ann.say(wire.Pushed(msg_ids=ids, carrier="channel"))
    assert [frame.msg_ids for frame in there.told(Delivered)] == [ids[:4], ids[4:]]


# --- presence ---------------------------------------------------------------------------------------------


def peers_of(here: Machine) -> dict[str, bool]:
    return {each.name: each.online for each in here.open("me").call(wire.Peers, limit=100).peers}


def test_a_hub_may_have_only_so_many_peers(here: Machine, there: Stranger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link_wire, "PEERS_MAX", 3)
    there.greet()
    peers = tuple(PeerState(peer_id=an_id(n), name=f"p{n}", online=True) for n in range(5))
    there.say(Presence(peers=peers, reset=True, complete=True))
    assert len(there.hub.peers) == 3
    assert here.hub.state.counters["link peers beyond the limit"] == 2
    there.say(Presence(gone=(an_id(0), an_id(99))), Presence(peers=peers[3:]))
    assert sorted(there.hub.names) == ["p1", "p2", "p3"]
    assert there.lost == []


def test_peers_of_a_database_that_was_lost_take_no_place_of_those_there_are_now(
    land: Land, here: Machine, there: Stranger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(link_wire, "PEERS_MAX", 3)
    there.greet()
    peers = tuple(PeerState(peer_id=an_id(n), name=f"p{n}", online=True) for n in range(6))
    there.say(Presence(peers=peers[:3], reset=True, complete=True))
    land.cut()
    there.greet()
    # The number of one before comes late, and has to be let go and taken in again.
    now = (*peers[3:5], peers[0])
    there.say(Presence(peers=now[:2], reset=True), Presence(peers=now[2:], complete=True))
    assert sorted(there.hub.peers) == sorted([each.peer_id for each in now])
    assert sorted(there.hub.names) == ["p0", "p3", "p4"]
    here.restart()
    assert sorted(here.hub.state.hubs[there.hub.hub_id].names) == ["p0", "p3", "p4"]


def test_names_that_move_and_clash_lead_to_whom_was_told_of_last(here: Machine, there: Stranger):
    one, two = an_id(1), an_id(2)
    there.greet()
    there.say(
        Presence(
            peers=(PeerState(peer_id=one, name="bob"), PeerState(peer_id=two, name="BOB")), complete=True
        )
    )
    assert there.hub.names["bob"].peer_id == two
    there.say(Presence(peers=(PeerState(peer_id=one, name="rob"),)))
    assert {key: peer.peer_id for key, peer in there.hub.names.items()} == {"bob": two, "rob": one}
    there.say(Presence(peers=(PeerState(peer_id=one, name="bob"),), gone=(two,)))
    assert {key: peer.peer_id for key, peer in there.hub.names.items()} == {"bob": one}
    there.say(Presence(peers=(PeerState(peer_id=two, name="bob"),)), Presence(gone=(one,)))
    assert {key: peer.peer_id for key, peer in there.hub.names.items()} == {"bob": two}
    assert list(there.hub.peers) == [two]


def test_of_two_that_were_stored_under_one_name_the_one_that_is_there_has_it(
    land: Land, here: Machine, there: Stranger
):
    """The hub was stopped after it was told of the new one and before it was told that the old one went."""
    one, two = an_id(1), an_id(2)
    there.greet()
    both = tuple(PeerState(peer_id=each, name="bob") for each in (one, two))
    there.say(Presence(peers=both, complete=True))
    here.restart()
    there.greet()
    there.say(Presence(peers=both[:1], reset=True, complete=True))
    assert {key: peer.peer_id for key, peer in there.hub.names.items()} == {"bob": one}


def test_presence_before_hello_and_without_an_end_changes_only_what_it_says(
    land: Land, here: Machine, there: Stranger
):
    there.link()
    there.say(
        Presence(peers=(PeerState(peer_id=an_id(1), name="bob", online=True, away_ms=BIG),), reset=True)
    )
    assert not there.hub.complete
    there.say(LinkHello(stream=there.stream, first=1), Resume())
    assert peers_of(here) == {"bob@there": True}
    there.say(Presence(reset=True))
    land.cut()
    assert there.hub.stale == set()
    assert list(there.hub.peers) == [an_id(1)]


def test_an_empty_hub_introduces_itself_too(here: Machine, there: Stranger):
    there.greet()
    assert there.told(Presence) == [Presence(reset=True, complete=True)]


def test_many_peers_are_told_in_parts_that_begin_and_end(
    here: Machine, there: Stranger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(link_wire, "PRESENCE_PART", 2)
    for n in range(5):
        here.open(f"p{n}")
    there.greet()
    parts = there.told(Presence)
    assert [(len(each.peers), each.reset, each.complete) for each in parts] == [
        (2, True, False),
        (2, False, False),
        (1, False, True),
    ]
