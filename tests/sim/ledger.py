"""What the world outside knows: what was asked, answered, shown and confirmed; and what must not happen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ecorelay import names, wire
from ecorelay.core import groups, links, messages, outbox
from ecorelay.core.events import StoreFailed
from ecorelay.errors import RelayError
from ecorelay.requests import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.sim.adapter import Adapter
    from tests.sim.disk import Events

Letter = wire.Send | wire.Reply | wire.Broadcast | wire.GroupSend | wire.RoomSend
FATELESS = frozenset({"timeout", "hub_unreachable"})
"""With these codes it is not known whether it was done."""


ANSWERED_S = 25.0
"""Within so long a hub that one is connected to has answered whatever is asked."""


class Wrong(AssertionError):
    """The product broke a promise."""


def holds(condition: object, what: str) -> None:
    """Raise Wrong unless it holds."""
    if not condition:
        raise Wrong(what)


class Asked:
    """One request of one adapter, and in time what became of it."""

    def __init__(self, place: int, adapter: Adapter, frame: wire.Request) -> None:
        self.place = place
        """In the order of all requests."""
        self.adapter = adapter
        self.hub = adapter.machine.hub_id
        self.peer_id = adapter.peer_id
        self.frame = frame
        self.acked = False
        self.status = ""
        self.code = ""
        self.refused = False
        """The hub said so, and that it knows what became of it."""

    @property
    def text(self) -> str:
        """What is to be shown of it."""
        frame: Any = self.frame
        return str(frame.question if isinstance(frame, wire.Broadcast) else frame.text)


class Ledger:
    """See the module. Raises `Wrong`, at once."""

    def __init__(self) -> None:
        self.places = 0
        self.letters: dict[str, Asked] = {}
        """By msg_id."""
        self.requests: list[Asked] = []
        self.arrived: dict[tuple[str, str], int] = {}
        """(hub, msg_id) of mail that lies, or lay, in a mailbox there → its place among all that came."""
        self.put_out: dict[str, int] = {}
        """msg_id of what went into an outbox → its place among those."""
        self.accepted_ids: set[str] = set()
        """Some carrier took it."""
        self.confirmed_ids: set[tuple[str, str, str]] = set()
        """(hub, peer_id, msg_id): the hub answered that it counts as seen."""
        self.on_pages: set[tuple[str, str, str]] = set()
        """(hub, peer_id, msg_id) of what came on a page."""
        self.read_ids: set[str] = set()
        """A confirmation was begun."""
        self.shown_to: dict[str, tuple[str, str]] = {}
        self.pushed_now: dict[int, set[str]] = {}
        """Adapter → what was pushed over its present connection."""
        self.shown_lines: dict[tuple[str, str, str], int] = {}
        """(hub, peer_id, group) → the last line that counts as read."""
        self.released: set[tuple[str, str, str]] = set()
        """Those that gave a page of such lines back."""
        self.shared: set[tuple[str, str]] = set()
        """(hub, peer_id) of peers that had several connections: what one confirms may not count yet."""
        self.read_lines: set[tuple[str, str, str]] = set()
        """(hub, peer_id, msg_id) of lines on pages whose confirmation was begun."""
        self.joined: dict[tuple[str, int, int], int] = {}
        """(hub, number of a group of it, number of a peer of it) → the line before its invitation."""
        self.groups: set[tuple[str, str]] = set()
        """(hub, name) of groups that were made."""
        self.deleted = False
        """Somebody may have deleted a group."""
        self.marks: dict[tuple[str, int, int], tuple[int, ...]] = {}
        """(hub, mid, box) → what its receipt said last."""
        self.stages: dict[tuple[str, str], tuple[int, ...]] = {}
        """(msg_id, recipient) → what a trace told last, of mail on one machine."""
        self.faulty: set[str] = set()
        """Hubs whose disk refused something: what was handed out may lack its mark."""
        self.since: dict[str, int] = {}
        """Hubs whose database was put back from a copy → the place of the last request before that."""
        self.forgotten: set[tuple[str, str]] = set()
        """(hub, another one that a person had it forget)."""
        self._came = 0

    def restored(self, hub: str) -> None:
        """What its database held is gone, but for what is in the copy: nothing is known of it any more."""
        self.since[hub] = self.places
        self.faulty.add(hub)
        self.arrived = {each: place for each, place in self.arrived.items() if each[0] != hub}
        self.put_out = {each: no for each, no in self.put_out.items() if self.letters[each].hub != hub}
        self.shown_to = {each: key for each, key in self.shown_to.items() if key[0] != hub}
        self.marks = {each: mark for each, mark in self.marks.items() if each[0] != hub}
        self.confirmed_ids = {each for each in self.confirmed_ids if each[0] != hub}
        self.stages.clear()
        self.shown_lines.clear()  # its groups number their lines anew, everywhere

    def may_be_lost(self, asked: Asked, *hubs: str) -> bool:
        """Whether it was asked before one of these hubs was put back."""
        return any(asked.place <= self.since.get(hub, 0) for hub in hubs)

    # --- requests --------------------------------------------------------------------------------------

    def welcomed(self, adapter: Adapter) -> None:
        """It has a new connection."""
        self.pushed_now[adapter.number] = set()
        if adapter.beside:
            self.shared.add((adapter.machine.hub_id, adapter.peer_id))

    def asked(self, adapter: Adapter, frame: wire.Request) -> Asked:
        """It is about to be said, after all that were before."""
        self.places += 1
        asked = Asked(self.places, adapter, frame)
        self.requests.append(asked)
        if isinstance(frame, Letter):
            self.letters[frame.op_id] = asked
        self.deleted = self.deleted or isinstance(frame, wire.GroupDelete)
        if isinstance(frame, wire.Reply):
            self.read_ids.add(frame.ask_id)  # who answers has read it
        return asked

    def answered(self, asked: Asked, answer: wire.Result) -> None:
        asked.acked = True
        frame = asked.frame
        if isinstance(answer, wire.Sent):
            asked.status = answer.status
            holds(answer.msg_id == asked.frame.op_id, "the answer is about another message")  # type: ignore[attr-defined]
            if answer.status == "delivered":
                taken = answer.msg_id in self.accepted_ids or answer.msg_id in self.read_ids
                holds(taken, f"told as delivered, and nobody took it: {answer.msg_id[-6:]}")
        elif isinstance(frame, wire.GroupCreate):
            self.groups.add((asked.hub, frame.name))
        elif isinstance(answer, wire.Traced):
            self._traced(asked, answer)
        elif isinstance(answer, wire.PeerList):
            told = [peer.name.lower() for peer in answer.peers]
            holds(len(told) == len(set(told)), f"a peer is listed twice: {sorted(told)}")

    def failed(self, asked: Asked, error: RelayError) -> None:
        asked.code = error.code
        asked.refused = isinstance(error, RequestError) and error.code not in FATELESS
        client, given_up = asked.adapter.client, "another session took the name" in error.message
        own = error.code == "timeout" and not isinstance(error, RequestError)  # the hub has said nothing
        if own and client is not None and client.connected and not given_up:
            listens_s = trio.current_time() - asked.adapter.listens_since
            slow = asked.adapter.machine.disk.slow_s > 0
            what = f"{type(asked.frame).__name__} without an answer for {listens_s:.0f} s"
            holds(slow or listens_s < ANSWERED_S, f"{what}: {asked.frame}")
        holds(error.code != "unexpected", f"{type(asked.frame).__name__}: {error.code} {error.message}")
        holds(error.code != "bad_msg", f"{type(asked.frame).__name__}: {error.code} {error.message}")

    def _traced(self, asked: Asked, answer: wire.Traced) -> None:
        for receipt in answer.receipts:
            if "@" in receipt.recipient:
                continue  # what is known of it depends on whether its hub can be asked
            key = (answer.msg_id, receipt.recipient)
            times = (receipt.stored_at, receipt.seen_at, receipt.replied_at, receipt.ended_at)
            self._never_back(f"the receipt of {answer.msg_id[-6:]}", self.stages.get(key), times)
            self.stages[key] = times

    @staticmethod
    def _never_back(what: str, before: tuple[int, ...] | None, now: tuple[int, ...]) -> None:
        for old, new in zip(before or (), now, strict=bool(before)):
            holds(new or not old, f"{what} goes back: {before}, then {now}")

    def marked(self, hub: str, mid: int, box: int, now: tuple[int, ...]) -> None:
        """What is stored of the receipt of a message."""
        self._never_back(f"the receipt of {mid} at {hub}", self.marks.get((hub, mid, box)), now)
        self.marks[hub, mid, box] = now

    # --- the store -------------------------------------------------------------------------------------

    def stored(self, hub: str, events: Events) -> None:
        """A store did something; whether or not its hub lives to hear of it."""
        for event in events:
            if isinstance(event, StoreFailed):
                holds(event.code != "unexpected", f"{hub}: {event}")
                self.faulty.add(hub)
                continue
            then: Any = event.then
            first: Any = event.results[0] if event.results else None
            match then:
                case links.FrameTaken() if first.appended is not None and then.mail is not None:
                    if not first.appended.duplicate:
                        self._arrives(hub, then.mail.msg_id)
                case messages.MailStored() if not first.duplicate:
                    self._arrives(hub, then.op.msg_id)
                case messages.ReplyStored() if not first.appended.duplicate:
                    if first.hub_no:
                        self._goes_out(then.op.msg_id)
                    else:
                        self._arrives(hub, then.op.msg_id)
                case outbox.OutStored() if not first.duplicate:
                    self._goes_out(then.op.msg_id)
                case groups.GroupCreated():
                    for no in (then.op.admin_no, *then.op.members):
                        self.joined[hub, first.group_no, no] = 0
                case groups.MemberAdded() if then.op.far is None and first.seq:
                    self.joined[hub, then.op.group_no, then.op.no] = first.seq - 1

    def _arrives(self, hub: str, msg_id: str) -> None:
        holds((hub, msg_id) not in self.arrived, f"stored twice at {hub}: {msg_id[-6:]}")
        self._came += 1
        self.arrived[hub, msg_id] = self._came

    def _goes_out(self, msg_id: str) -> None:
        holds(msg_id not in self.put_out, f"put twice into an outbox: {msg_id[-6:]}")
        self.put_out[msg_id] = len(self.put_out)

    # --- what is shown ---------------------------------------------------------------------------------

    def pushed(self, adapter: Adapter, push: wire.Push) -> None:
        if push.room is None and push.group is None:
            now = self.pushed_now.setdefault(adapter.number, set())
            holds(push.msg_id not in now, f"pushed twice over one connection: {push.msg_id[-6:]}")
            now.add(push.msg_id)
        if push.kind == "system":
            return
        self._shown(adapter, push.msg_id, push.sender, push.text, room=bool(push.room or push.group))

    def showing(self, hub: str, peer_id: str, msg_id: str) -> None:
        """A hub is about to push it, or to put it on a page. (On its way that may meet a confirmation.)"""
        asked = self.letters.get(msg_id)
        seen = (hub, peer_id, msg_id) in self.confirmed_ids
        seen = seen and not (asked is not None and self.may_be_lost(asked, hub))
        holds(not seen, f"shown again after it was seen: {msg_id[-6:]}")

    def showing_in_order(self, hub: str, msg_ids: Sequence[str]) -> None:
        """One peer is shown these one after the other: as they came."""
        places = [self.arrived[hub, each] for each in msg_ids if (hub, each) in self.arrived]
        holds(places == sorted(places), f"shown out of order at {hub}: {[each[-6:] for each in msg_ids]}")

    def accepted(self, push: wire.Push) -> None:
        """A carrier takes it."""
        self.accepted_ids.add(push.msg_id)

    def page(self, adapter: Adapter, page: wire.InboxPage) -> None:
        for mail in page.messages:
            if mail.text is None or mail.kind == "system" or not names.is_id(mail.msg_id):
                continue
            self._shown(adapter, mail.msg_id, mail.sender, mail.text, room=mail.room is not None)
            key = adapter.machine.hub_id, adapter.peer_id, mail.msg_id
            again = key in self.on_pages and not mail.redelivered and key[0] not in self.faulty
            holds(not again, f"on a page again, and not marked: {mail.msg_id[-6:]}")
            self.on_pages.add(key)

    def _shown(self, adapter: Adapter, msg_id: str, sender: str, text: str, *, room: bool) -> None:
        key = adapter.machine.hub_id, adapter.peer_id
        short = msg_id[-6:]
        asked = self.letters.get(msg_id)
        holds(asked is not None, f"nobody said what was shown: {short}")
        assert asked is not None
        holds(text == asked.text, f"{short} was changed on its way")
        _, _, hub = sender.partition("@")
        origin = hub or adapter.machine.hub_id
        # A hub that was put back may know nothing of what its peers said elsewhere: that is the host's word.
        unknown = room and self.may_be_lost(asked, key[0])
        holds(
            unknown or origin == asked.hub,
            f"{short} comes from {asked.hub}, and is shown as from {sender} at {key[0]}",
        )
        if room or self.may_be_lost(asked, key[0]):  # names lead to others where peers are new
            return
        if not isinstance(asked.frame, wire.Broadcast):
            holds(self.shown_to.setdefault(msg_id, key) == key, f"two peers were shown {short}")

    def confirming(self, ids: tuple[str, ...]) -> None:
        self.read_ids |= set(ids)

    def confirmed(self, adapter: Adapter, ids: tuple[str, ...]) -> None:
        key = adapter.machine.hub_id, adapter.peer_id
        self.confirmed_ids |= {(*key, each) for each in ids}

    # --- lines of groups -------------------------------------------------------------------------------

    def lines(self, adapter: Adapter, page: wire.GroupPage) -> None:
        numbers = [line.seq for line in page.messages]
        holds(numbers == sorted(set(numbers)), f"lines of {page.group} out of order: {numbers}")
        for line in page.messages:
            if line.kind == "message":
                self._shown(adapter, line.msg_id, line.sender, line.text, room=True)

    def showing_lines(self, hub: str, peer_id: str, page: wire.GroupPage) -> None:
        """A hub is about to show them."""
        read = self.shown_lines.get((hub, peer_id, page.group), 0)
        # A new group of that name begins anew; so do one that was put back, and one that was forgotten.
        again = page.messages[0].seq <= read and not (self.deleted or self.since or self.forgotten)
        holds(not again, f"{page.group}: lines up to {read} were read, and come again")

    def lines_confirming(self, adapter: Adapter, page: wire.GroupPage) -> None:
        """These were shown."""
        key = adapter.machine.hub_id, adapter.peer_id
        self.read_lines |= {(*key, line.msg_id) for line in page.messages}

    def lines_released(self, adapter: Adapter, page: wire.GroupPage) -> None:
        """From now on what is confirmed may come again: the hub cannot tell which of the two came first."""
        self.released.add((adapter.machine.hub_id, adapter.peer_id, page.group))

    def lines_confirmed(self, adapter: Adapter, page: wire.GroupPage) -> None:
        key = adapter.machine.hub_id, adapter.peer_id, page.group
        if key in self.released or key[:2] in self.shared:
            return
        self.shown_lines[key] = max(self.shown_lines.get(key, 0), page.upto)
