"""ecorelay's own store under the yardstick's hub: what the hub costs, apart from what the store does.

The rows are those of the product: a message with its checksum and id, its text, a place in a mailbox of 500,
receipts and notices of what leaves that. Only that a push was taken is not written, since this hub does not
care.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from ecorelay.core import ops
from ecorelay.core.events import Stored
from ecorelay.daemon.store import Store
from ecorelay.limits import Limits
from scripts.bench_lib.yardstick_store import Page, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ecorelay.core.events import StoreFailed
    from ecorelay.daemon.store_file import Durability

BUDGET = 1 << 40
"""Characters of a page: no bound."""


class OwnStore:
    """The same as `yardstick_store.Store`, done by `ecorelay.daemon.store.Store`.

    Args:
        path: beside it the store gets a directory.
        synchronous: ``FULL`` survives a power failure, ``NORMAL`` the end of the process.
        hand_back: gets each list of work that is on disk, called in the store's thread.
        peers: how many there are; their numbers begin with 1.
    """

    def __init__(
        self,
        path: str,
        synchronous: str,
        hand_back: Callable[[list[Write | Page]], None],
        peers: Callable[[], int],
    ) -> None:
        self._hand_back = hand_back
        self._peers = peers
        self._known = 0
        durability: Durability = "power" if synchronous == "FULL" else "process"
        self._store = Store.open(Path(path + ".own"), Limits(), durability, _now())
        self._store.start(self._done)

    def submit(self, work: Iterable[Write | Page]) -> None:
        """Add work of one read of one connection. Called in the event loop's thread only."""
        now = _now()
        while self._known < self._peers():
            self._known += 1
            name = f"peer-{self._known}"
            self._store.submit((ops.AddPeer(peer_id=name, name=name, auto=False, at=now),), self._known)
        for each in work:
            self._store.submit(self._unit(each, now), each)

    def _unit(self, work: Write | Page, now: int) -> tuple[ops.Op, ...]:
        if isinstance(work, Page):
            page = ops.ReadPage(no=work.peer, lease=1, limit=work.limit, budget=BUDGET)
            return page, ops.EndLease(lease=1)
        sender = work.note[0].number
        everybody = tuple([no for no in range(1, self._known + 1) if no != sender]) if not work.peer else ()
        mail = ops.AppendMail(
            msg_id=work.msg_id,
            kind="message" if work.peer else "ask",
            sender_no=sender,
            sender=work.sender,
            recipients=everybody or (work.peer,),
            text=work.text,
            at=now,
        )
        return (mail,)

    def _done(self, events: Sequence[Stored | StoreFailed]) -> None:
        batch: list[Write | Page] = []
        for event in events:
            if not isinstance(event, Stored):
                raise TypeError(event.message)
            work = event.then
            result = event.results[0]
            if isinstance(result, ops.Numbered):
                if result.no != work:
                    raise ValueError("the store numbers peers from 1 on, in their order")
                continue
            if isinstance(result, ops.PageRead):
                work.rows = [(mail.msg_id, mail.sender, mail.text or "") for mail in result.mails]
            batch.append(work)
        if batch:
            self._hand_back(batch)


def _now() -> int:
    return time.time_ns() // 1_000_000
