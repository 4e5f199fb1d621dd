"""A store without a thread, and short ways to say what tests ask of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from ecorelay.core import ops
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.core.ops import Op
from ecorelay.daemon.store import InlineStore
from ecorelay.errors import RelayError
from ecorelay.limits import Limits

T0 = 1_795_000_000_000
"""Now, in tests: 2026-11-18."""
HOUR = 3_600_000
DAY = 24 * HOUR


def make_id(number: int) -> str:
    """The id with this number; they sort by it."""
    return f"01k{number:023d}"


class Kit:
    """See the module.

    Args:
        data_dir: of the database.
        limits: fields of `Limits` that differ from the defaults.
    """

    def __init__(self, data_dir: Path, **limits: Any) -> None:
        self.data_dir = data_dir
        self.limits = Limits(**limits)
        self.now = T0
        self.events: list[Stored | StoreFailed] = []
        self.batches: list[int] = []
        self._ids = 0
        self._peers = 0
        self.store = self._open()

    def _open(self) -> InlineStore:
        store = InlineStore.open(self.data_dir, self.limits, "process", self.now)
        store.start(self._deliver)
        return store

    def _deliver(self, events: list[Stored | StoreFailed]) -> None:
        self.batches.append(len(events))
        self.events += events

    @property
    def db(self) -> Any:
        """The store's own connection."""
        return self.store._committer.ledger.db

    def reopen(self, *, crash: bool = False) -> None:
        """Stop in good order, or not, and start again."""
        if crash:
            self.store.crash()
        else:
            self.store.close()
        self.store = self._open()

    def new_id(self) -> str:
        self._ids += 1
        return make_id(self._ids)

    # --- units ---------------------------------------------------------------------------------------

    def run(self, *units: tuple[Op, ...]) -> list[Stored | StoreFailed]:
        """Do these in one commit."""
        self.events.clear()
        for number, unit in enumerate(units):
            self.store.submit(unit, number)
        self.store.run_pending()
        events = list(self.events)
        assert [event.then for event in events] == list(range(len(units)))
        return events

    def unit(self, *unit: Op) -> tuple[Any, ...]:
        """Do one unit; its results, or what it was refused with."""
        [event] = self.run(unit)
        if isinstance(event, StoreFailed):
            raise RelayError(event.code, event.message)
        return event.results

    def do(self, op: Op) -> Any:
        """Do one op; its result, or what it was refused with."""
        return self.unit(op)[0]

    # --- ops -----------------------------------------------------------------------------------------

    def add(self, *names: str) -> list[int]:
        """New peers."""
        return [self.do(self.peer(name)).no for name in names]

    def peer(self, name: str, *, auto: bool = True) -> ops.AddPeer:
        self._peers += 1
        return ops.AddPeer(peer_id=f"id {self._peers}", name=name, auto=auto, at=self.now)

    def mail(self, sender: int, *to: int, text: str = "hi", msg_id: str = "", **more: Any) -> ops.AppendMail:
        return ops.AppendMail(
            msg_id=msg_id or self.new_id(),
            kind=more.pop("kind", "message"),
            sender_no=sender,
            sender=f"peer {sender}",
            recipients=to,
            text=text,
            at=self.now,
            **more,
        )

    def send(self, sender: int, *to: int, text: str = "hi", **more: Any) -> ops.Appended:
        result: ops.Appended = self.do(self.mail(sender, *to, text=text, **more))
        return result

    def read(self, no: int, lease: int = 1, **more: Any) -> ops.PageRead:
        asked = {"limit": 20, "budget": 20_000, **more}
        result: ops.PageRead = self.do(ops.ReadPage(no=no, lease=lease, **asked))
        return result

    def confirm(self, no: int, page: ops.PageRead, lease: int = 1) -> ops.Confirmed:
        result: ops.Confirmed = self.do(
            ops.ConfirmMail(
                no=no,
                lease=lease,
                msg_ids=tuple(mail.msg_id for mail in page.mails if mail.text is not None),
                notices=tuple(notice.notice_id for notice in page.notices),
                at=self.now,
            )
        )
        return result

    def line(self, sender: int, text: str = "hi", *, system: bool = False, msg_id: str = "") -> ops.Line:
        return ops.Line(
            msg_id=msg_id or self.new_id(),
            sender_no=sender,
            sender=f"peer {sender}",
            text=text,
            at=self.now,
            system=system,
        )

    def group(self, admin: int, *members: int, name: str = "team") -> int:
        made: ops.GroupMade = self.do(
            ops.CreateGroup(
                group_id=self.new_id(),
                name=name,
                admin_no=admin,
                members=members,
                line=self.line(admin, "made", system=True),
            )
        )
        return made.group_no

    def say(self, group: int, sender: int, text: str = "hi", msg_id: str = "") -> ops.LineAdded:
        line = self.line(sender, text, msg_id=msg_id)
        result: ops.LineAdded = self.do(ops.AppendGroup(group_no=group, line=line))
        return result

    def history(self, group: int, no: int, after: int = 0, **more: Any) -> ops.HistoryRead:
        asked = {"limit": 50, "budget": 20_000, **more}
        result: ops.HistoryRead = self.do(ops.ReadHistory(group_no=group, no=no, after=after, **asked))
        return result

    def mailbox(self, no: int) -> ops.MailboxState:
        result: ops.MailboxState = self.do(ops.OpenMailbox(no=no))
        return result


def purge(kit: Kit, op: ops.PurgeMail) -> ops.MailPurged:
    """All steps of a purge; what they removed together."""
    steps: list[ops.MailPurged] = []
    while not steps or steps[-1].place:
        steps.append(kit.do(replace(op, place=steps[-1].place if steps else ())))
    unread: dict[int, tuple[int, tuple[str, ...]]] = {}
    for no, count, ids in [each for step in steps for each in step.unread]:
        unread[no] = (count, (*unread.get(no, (0, ()))[1], *ids))
    return ops.MailPurged(
        messages=sum(step.messages for step in steps),
        lines=sum(step.lines for step in steps),
        unread=tuple((no, *each) for no, each in unread.items()),
        evictions=tuple(each for step in steps for each in step.evictions),
        groups=tuple(each for step in steps for each in step.groups),
    )


def texts(page: ops.PageRead | ops.Backlog) -> list[str | None]:
    return [mail.text for mail in page.mails]
