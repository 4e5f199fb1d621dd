"""The store beside the model of its contract: whatever is asked, both answer the same."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from ecorelay.core import ops
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.core.ops import Op
from ecorelay.limits import Limits
from tests.daemon.store_kit import Kit, make_id, purge
from tests.helpers.model_store import ModelStore

PEERS = 3
LIMITS: dict[str, Any] = {"mailbox_messages": 4, "mailbox_bytes": 60}
TEXTS = st.sampled_from(["", "a", "bcd", "ü\n", '"' * 7, "x" * 19, "y" * 30, "z" * 59, "w" * 70])
NOS = st.integers(1, PEERS)


class Twins(RuleBasedStateMachine):
    """Every unit goes to both. Numbers of messages and notices differ; what they stand for must not."""

    def __init__(self) -> None:
        super().__init__()
        self.dir = Path(tempfile.mkdtemp())
        self.kit = Kit(self.dir / "data", **LIMITS)
        self.model = ModelStore(Limits(**LIMITS))
        self.mids: dict[int, int] = {}
        """Of the model → of the store."""
        self.ids = 0
        self.sent: list[str] = []
        self.lines: list[str] = []
        self.groups = 0
        self.leases = 0
        self.pending: list[tuple[Op, ...]] = []
        self.open_pages: list[tuple[int, int, ops.PageRead, ops.PageRead]] = []
        self.forgotten: set[int] = set()
        self.moments = [0]
        """At which nothing happened."""

    def teardown(self) -> None:
        self.kit.store.close()
        shutil.rmtree(self.dir)

    @initialize()
    def peers(self) -> None:
        for number in range(1, PEERS + 1):
            assert self.both(self.kit.peer(f"p{number}")) == [(ops.Numbered(number),) * 2]

    # --- asking both -----------------------------------------------------------------------------------

    def both(self, *unit: Op, twin: tuple[Op, ...] = ()) -> list[tuple[Any, Any]]:
        """The results of a unit (and what waited before it) in the store and in the model."""
        units = [*self.pending, unit]
        twins = [*self.pending, twin or unit]
        self.pending = []
        events = self.kit.run(*units)
        for number, each in enumerate(twins):
            self.model.submit(each, number)
        expected = self.model.commit()
        pairs: list[tuple[Any, Any]] = []
        for ours, theirs in zip(events, expected, strict=True):
            if isinstance(ours, StoreFailed):
                assert isinstance(theirs, StoreFailed), (ours, theirs)
                assert ours.code == theirs.code
                pairs = []
                continue
            assert isinstance(theirs, Stored), (ours, theirs)
            pairs = list(zip(ours.results, theirs.results, strict=True))
            for one, other in pairs:
                self.compare(one, other)
        return pairs

    def compare(self, one: Any, other: Any) -> None:
        match one, other:
            case ops.Appended(), ops.Appended():
                if not one.duplicate:
                    self.mids[other.mid] = one.mid
                gone = tuple(replace(each, upto=self.mids[each.upto]) for each in other.evictions)
                expected = replace(other, mid=self.mids[other.mid], evictions=gone)
                assert self.plain(one) == self.plain(expected)
            case ops.Replied(), ops.Replied():
                self.compare(one.appended, other.appended)
                assert one.target_mid == (self.mids[other.target_mid] if other.target_mid else 0)
                assert (one.recipient_no, one.broadcast_id, one.own_unread) == (
                    other.recipient_no,
                    other.broadcast_id,
                    other.own_unread,
                )
            case ops.PageRead(), ops.PageRead():
                self.compare_mails(one.mails, other.mails)
                self.compare_notices(one.notices, other.notices)
                assert (one.unread, one.remaining, one.damaged) == (other.unread, other.remaining, 0)
            case ops.Backlog(), ops.Backlog():
                self.compare_mails(one.mails, other.mails)
                assert (one.more, one.unread, one.damaged) == (other.more, other.unread, 0)
            case ops.HousekeepingDone(), _:
                pass
            case ops.MailboxState(), ops.MailboxState():
                assert (one.unread, one.notices, sorted(one.groups)) == (
                    other.unread,
                    other.notices,
                    sorted(other.groups),
                )
            case ops.MessageTraced(), ops.MessageTraced():
                assert self.undated(one) == self.undated(other)
            case ops.MailPurged(), ops.MailPurged():
                assert self.removed(one) == self.removed(other)
            case _:
                assert one == other

    def undated(self, traced: ops.MessageTraced) -> Any:
        """When an eviction was, in a commit of several messages, is known to within the commit."""
        return replace(
            traced, receipts=tuple(replace(each, ended_at=each.ended_at > 0) for each in traced.receipts)
        )

    def removed(self, purged: ops.MailPurged) -> Any:
        return (
            purged.messages,
            purged.lines,
            sorted((no, unread, sorted(ids)) for no, unread, ids in purged.unread),
            sorted(map(str, purged.evictions)),
            sorted(purged.groups),
        )

    def plain(self, appended: ops.Appended) -> Any:
        return (
            appended.mid,
            appended.unread,
            appended.duplicate,
            appended.delivered,
            sorted(map(str, appended.evictions)),
        )

    def compare_mails(self, ours: Any, theirs: Any) -> None:
        def shown(mail: Any, mid: int) -> Any:
            return (
                mid,
                mail.msg_id,
                mail.kind,
                mail.sender,
                mail.text,
                mail.reply_to,
                mail.seen,
                mail.handed and not mail.seen,
                mail.pushed_at,
            )

        assert [shown(mail, mail.mid) for mail in ours] == [
            shown(mail, self.mids[mail.mid]) for mail in theirs
        ]

    def compare_notices(self, ours: Any, theirs: Any) -> None:
        def told(notice: Any) -> Any:
            return notice.about, notice.reason, notice.count, notice.at

        assert sorted(map(told, ours)) == sorted(map(told, theirs))

    # --- what may be asked -----------------------------------------------------------------------------

    def fresh(self) -> str:
        self.ids += 1
        return make_id(self.ids)

    def answer(self, target: str, sender: int, text: str) -> None:
        if sender in self.forgotten:
            return  # nobody acts for it
        op = ops.AppendReply(
            msg_id=self.fresh(),
            target_id=target,
            sender_no=sender,
            sender=f"peer {sender}",
            text=text,
            at=self.kit.now,
        )
        if self.both(op):
            self.sent.append(op.msg_id)

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        self.both()
        self.kit.reopen(crash=crash)
        self.model.lose_pending()
        self.open_pages.clear()

    @precondition(lambda self: len(self.forgotten) < 2)
    @rule(no=NOS, leaves=st.booleans(), again=st.booleans())
    def forget(self, no: int, leaves: bool, again: bool) -> None:
        self.both()
        unit: list[Op] = []
        for group in self.model.groups.values() if leaves else ():
            if group.admin_no == no:
                unit.append(ops.DropGroup(group_no=group.no))
            elif no in group.members:
                line = self.kit.line(no, "left", system=True, msg_id=self.fresh())
                unit.append(ops.RemoveMember(group_no=group.no, no=no, line=line))
        unit.append(ops.ForgetPeer(no=no, at=self.kit.now))
        if self.both(*unit):
            self.forgotten.add(no)
            if again:  # its name is free
                self.both(self.kit.peer(f"p{no}"))

    @rule(no=NOS, far=st.sampled_from(["", "a@b", "A@B"]), blocked=st.booleans())
    def block(self, no: int, far: str, blocked: bool) -> None:
        self.both(ops.SetBlock(no=0 if far else no, address=far, blocked=blocked, at=self.kit.now))

    @rule()
    def time_passes(self) -> None:
        self.both()
        self.moments.append(self.kit.now + 5_000)
        self.kit.now += 10_000

    @rule(data=st.data(), unread=st.booleans(), spared=st.sets(st.integers(1, 2)))
    def purge(self, data: Any, unread: bool, spared: set[int]) -> None:
        self.both()
        before = data.draw(st.sampled_from(self.moments))
        asked: dict[str, Any] = {"before": before, "unread": unread, "now": self.kit.now}
        op = ops.PurgeMail(**asked, spared=tuple(sorted(spared)))
        self.compare(purge(self.kit, op), self.model.do(op)[0])
        self.no_file_holds_what_is_gone()

    def no_file_holds_what_is_gone(self) -> None:
        assert (self.dir / "data" / "hub.db-wal").stat().st_size == 0
        assert self.kit.db.execute("PRAGMA freelist_count").fetchone() == (0,)

    @rule(data=st.data())
    def trace(self, data: Any) -> None:
        if ids := [*self.sent, *self.lines]:
            self.both(ops.TraceMessage(msg_id=data.draw(st.sampled_from(ids))))

    @rule(largest=st.integers(0, 3))
    def measure(self, largest: int) -> None:
        self.both(ops.MeasureMail(largest=largest))

    @rule(no=NOS, name=st.sampled_from(["p1", "P2", "x"]))
    def rename(self, no: int, name: str) -> None:
        self.both(ops.RenamePeer(no=no, name=name, forward_until=self.kit.now + 1))

    @invariant()
    def same_state(self) -> None:
        if self.pending or not self.model.numbers.get("peer"):
            return
        ours, theirs = self.kit.store.snapshot(), self.model.snapshot()
        assert [(peer.no, peer.name) for peer in ours.peers] == [
            (peer.no, peer.name) for peer in theirs.peers
        ]
        assert sorted(ours.forwards) == sorted(theirs.forwards)
        assert (ours.groups, ours.blocks) == (theirs.groups, theirs.blocks)
        dead = self.kit.db.execute("SELECT box, mid FROM receipts WHERE outcome = 2").fetchall()
        assert set(dead) == {
            (no, self.mids[mid]) for (no, mid), row in self.model.rows.items() if row.state == "dead"
        }
        for no in range(1, PEERS + 1):
            self.both(ops.OpenMailbox(no=no))
            if no in self.forgotten:
                continue
            rows = self.kit.db.execute(
                "SELECT m.entries, m.bytes, m.unread, count(r.mid), total(r.size), total(r.state)"
                " FROM mailboxes AS m LEFT JOIN ring AS r ON r.box = m.box WHERE m.box = ?",
                (no,),
            ).fetchone()
            assert rows[:3] == rows[3:]
        bodies = self.kit.db.execute(
            "SELECT count(*) FROM bodies WHERE mid NOT IN (SELECT mid FROM ring)"
            " AND mid NOT IN (SELECT mid FROM group_log)"
        ).fetchone()
        missing = self.kit.db.execute(
            "SELECT count(*) FROM ring WHERE mid NOT IN (SELECT mid FROM bodies)"
        ).fetchone()
        assert (bodies, missing) == ((0,), (0,))


class MailTwins(Twins):
    """Mail: rings, leases, receipts, notices."""

    @rule(
        sender=NOS,
        to=st.lists(NOS, min_size=1, max_size=3, unique=True),
        text=TEXTS,
        urgent=st.booleans(),
        wait=st.booleans(),
    )
    def append(self, sender: int, to: list[int], text: str, urgent: bool, wait: bool) -> None:
        self.kit.now += 1
        mail = self.kit.mail(sender, *to, text=text, msg_id=self.fresh(), urgent=urgent)
        self.sent.append(mail.msg_id)
        if wait:
            self.pending.append((mail,))
        else:
            self.both(mail)

    @rule(data=st.data(), sender=NOS, to=NOS, text=TEXTS)
    def append_again(self, data: Any, sender: int, to: int, text: str) -> None:
        if self.sent:
            msg_id = data.draw(st.sampled_from(self.sent))
            self.both(self.kit.mail(sender, to, text=text, msg_id=msg_id))

    @rule(sender=NOS, to=NOS, text=TEXTS, no=NOS)
    def several_ops_one_refused(self, sender: int, to: int, text: str, no: int) -> None:
        mail = self.kit.mail(sender, to, text=text, msg_id=self.fresh())
        taken = self.kit.peer(f"P{no}")
        self.pending.append((self.kit.mail(to, sender, text="neighbour", msg_id=self.fresh()),))
        self.pending.append((mail, taken))
        self.both(self.kit.mail(sender, to, text="after", msg_id=self.fresh()))

    @rule(data=st.data(), sender=NOS, text=TEXTS)
    def reply(self, data: Any, sender: int, text: str) -> None:
        if self.sent:
            self.both()
            self.answer(data.draw(st.sampled_from(self.sent)), sender, text)

    @rule(
        no=NOS,
        limit=st.integers(1, 4),
        budget=st.sampled_from([1, 320, 650, 5000]),
        data=st.data(),
    )
    def read(self, no: int, limit: int, budget: int, data: Any) -> None:
        self.both()
        self.leases += 1
        ring = [row.mid for row in self.model.ring(no)]
        some = st.sets(st.sampled_from(ring), max_size=2) if ring else st.just(set())
        pushed, hidden, since = set(), set(), None
        match data.draw(st.integers(0, 5)):
            case 0:
                pushed, hidden = data.draw(some), data.draw(some)
            case 1 if self.sent:
                since = data.draw(st.sampled_from(self.sent))

        def page(mids: dict[int, int] | None) -> ops.ReadPage:
            return ops.ReadPage(
                no=no,
                lease=self.leases,
                limit=limit,
                budget=budget,
                since_id=since,
                pushed=frozenset(mids[mid] if mids else mid for mid in pushed),
                hidden=frozenset(mids[mid] if mids else mid for mid in hidden),
            )

        pairs = self.both(page(self.mids), twin=(page(None),))
        if pairs:
            self.open_pages.append((no, self.leases, *pairs[0]))

    @rule(data=st.data(), some=st.booleans(), release=st.booleans())
    def finish_page(self, data: Any, some: bool, release: bool) -> None:
        if not self.open_pages:
            return
        index = data.draw(st.integers(0, len(self.open_pages) - 1))
        no, lease, page, twin = self.open_pages[index]
        if release:
            self.both(ops.EndLease(lease=lease))
            return

        def confirm(page: ops.PageRead) -> ops.ConfirmMail:
            mails = [mail.msg_id for mail in page.mails if mail.text is not None]
            notices = sorted(page.notices, key=lambda notice: notice.about)
            return ops.ConfirmMail(
                no=no,
                lease=lease,
                msg_ids=tuple(mails[:1] if some else mails),
                notices=tuple(notice.notice_id for notice in notices[: 1 if some else None]),
                at=self.kit.now,
            )

        self.both(confirm(page), twin=(confirm(twin),))

    @rule(no=NOS, after=st.integers(0, 30), count=st.integers(1, 4), size=st.sampled_from([1, 25, 1000]))
    def backlog(self, no: int, after: int, count: int, size: int) -> None:
        self.both()
        after = min(after, max(self.mids, default=0))
        op = ops.LoadBacklog(no=no, after=self.mids.get(after, 0), max_count=count, max_bytes=size)
        twin = ops.LoadBacklog(
            no=no, after=after if after in self.mids else 0, max_count=count, max_bytes=size
        )
        self.both(op, twin=(twin,))

    @rule(no=NOS, data=st.data())
    def pushed(self, no: int, data: Any) -> None:
        self.both()
        if self.mids:
            mids = data.draw(st.lists(st.sampled_from(sorted(self.mids)), max_size=3))
            twin = ops.MarkPushed(rows=tuple((no, mid, self.kit.now) for mid in mids), carrier="c")
            rows = tuple((no, self.mids[mid], self.kit.now) for mid in mids)
            self.both(ops.MarkPushed(rows=rows, carrier="c"), twin=(twin,))


class GroupTwins(Twins):
    """Groups: members, cursors, histories."""

    @rule(admin=NOS, members=st.sets(NOS, max_size=3))
    def make_group(self, admin: int, members: set[int]) -> None:
        name = f"g{self.groups}"
        if self.groups < 2:
            self.groups += 1
            op = ops.CreateGroup(
                group_id=self.fresh(),
                name=name,
                admin_no=admin,
                members=tuple(sorted(members - {admin})),
                line=self.kit.line(admin, "made", system=True, msg_id=self.fresh()),
            )
            self.both(op)

    @rule(group=st.integers(1, 2), no=NOS, text=TEXTS)
    def say(self, group: int, no: int, text: str) -> None:
        line = self.kit.line(no, text, msg_id=self.fresh())
        self.lines.append(line.msg_id)
        self.both(ops.AppendGroup(group_no=group, line=line))

    @rule(group=st.integers(1, 2), no=NOS, by=NOS, join=st.booleans())
    def membership(self, group: int, no: int, by: int, join: bool) -> None:
        line = self.kit.line(by, "in or out", system=True, msg_id=self.fresh())
        op: Op = ops.AddMember(group_no=group, no=no, line=line)
        if not join:
            op = ops.RemoveMember(group_no=group, no=no, line=line)
        self.both(op)

    @rule(
        group=st.integers(1, 2),
        no=NOS,
        after=st.integers(0, 12),
        limit=st.integers(1, 4),
        budget=st.sampled_from([1, 650, 5000]),
        move=st.booleans(),
    )
    def history(self, group: int, no: int, after: int, limit: int, budget: int, move: bool) -> None:
        pairs = self.both(ops.ReadHistory(group_no=group, no=no, after=after, limit=limit, budget=budget))
        if pairs and move:
            self.both(ops.MoveCursor(group_no=group, no=no, upto=pairs[0][0].upto))

    @rule(group=st.integers(1, 2), no=NOS, upto=st.integers(0, 15))
    def cursor(self, group: int, no: int, upto: int) -> None:
        self.both(ops.MoveCursor(group_no=group, no=no, upto=upto))

    @rule(data=st.data(), sender=NOS, text=TEXTS)
    def answer_a_line(self, data: Any, sender: int, text: str) -> None:
        lines = [each.line.msg_id for no in self.model.lines for each in self.model.lines[no]]
        if lines:
            self.answer(data.draw(st.sampled_from(lines)), sender, text)


MailTwins.TestCase.settings = GroupTwins.TestCase.settings = settings(
    max_examples=25, stateful_step_count=50, deadline=None
)
test_mail_is_what_the_model_of_the_contract_says = MailTwins.TestCase
test_groups_are_what_the_model_of_the_contract_says = GroupTwins.TestCase
