"""Times of quiet: nothing is broken, nobody says anything new, and what was acknowledged has to be there."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from ecorelay.errors import RelayError
from scripts.soak_lib import ledger as log
from scripts.soak_lib.judge import DIVERGED
from scripts.soak_lib.voices import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.soak_lib.judge import Judge
    from scripts.soak_lib.logs import Logs
    from scripts.soak_lib.look import Look
    from scripts.soak_lib.place import Place
    from scripts.soak_lib.talk import Talk

LINKED_S: Final = 90.0
"""When all is whole, all links are up by then."""
SETTLE_S: Final = 120.0
"""And groups have settled."""
LOOK_S: Final = 0.3


class Quiet:
    """Looks whether everything is where it belongs.

    Args:
        talk: what is hushed meanwhile.
        judge: what is asked for whatever is missing.
        look: at the hubs.
        logs: of all processes.
        place: the hubs.
        settle_s: what does not come nearer for so long is lost.
    """

    def __init__(
        self, talk: Talk, judge: Judge, look: Look, logs: Logs, place: Place, settle_s: float
    ) -> None:
        self.checks: list[float] = []
        """Seconds each time took until all was there."""
        self.traces: dict[int, list[str]] = {}
        """Messages that were missing: what the hubs said of them."""
        self._talk = talk
        self._judge = judge
        self._look = look
        self._logs = logs
        self._place = place
        self._settle_s = settle_s

    async def check(self) -> float:
        """Let everybody read to the end, and judge; seconds it took until all was there."""
        talk = self._talk
        talk.hushed = True
        began = trio.current_time()
        if links := await self._look.until_linked(LINKED_S):
            talk.trouble("not linked", f"{LINKED_S:.0f} s after all was whole: {links}")
        hushed = log.now()
        await until(lambda: self._all_dry(hushed), "all have ended what they were doing")
        since = log.now()
        await self._settle(since)
        for n, to in self._judge.missing(since):
            await self._trace(n, to)
        await self._groups_agree()
        self.checks.append(trio.current_time() - began)
        for line in self._logs.crashes():
            talk.trouble("crash", line)
        talk.note(log.Quiet(log.now(), since))
        talk.hushed = False
        return self.checks[-1]

    def _all_dry(self, since: float) -> bool:
        return all(peer.dry_at > since for peer in self._talk.peers)

    async def _settle(self, since: float) -> None:
        """Wait until nothing is missing, as long as it gets on."""
        before, patience = None, trio.current_time() + self._settle_s
        while trio.current_time() < patience:
            missing = self._judge.missing(since)
            if not missing and self._all_dry(since) and await self._look.nothing_waits():
                return
            if missing != before:
                before, patience = missing, trio.current_time() + self._settle_s
            await trio.sleep(LOOK_S)

    async def _trace(self, n: int, to: int) -> None:
        """What became of it? What has a receipt that says why it ended is told, and no loss."""
        msg_id = self._judge.messages[n].msg_id
        said = self.traces[n] = []
        for hub_id in self._place.hubs:
            try:
                traced = await self._look.trace(hub_id, msg_id)
            except RelayError as error:
                said.append(f"{hub_id}: {error.code}: {error.message}")
                continue
            said.append(f"{hub_id}: {traced}")
            for receipt in traced.receipts:
                if receipt.ended_at:
                    reason = f"{receipt.state} ({receipt.reason})" if receipt.reason else receipt.state
                    self._talk.note(log.Ended(log.now(), n, reason, to))

    async def _groups_agree(self) -> None:
        """Every hub with a member says the same of a group's members."""
        for name in [*self._talk.stable, *self._talk.churning]:
            with trio.move_on_after(SETTLE_S):
                while len(await self._views(name)) > 1:  # noqa: ASYNC110 - other processes
                    await trio.sleep(LOOK_S)
                continue
            self._talk.trouble(DIVERGED, f"{name}: {await self._views(name)}")

    async def _views(self, name: str) -> set[tuple[str, ...]]:
        """The members of a group, as one member of each hub is told."""
        views: set[tuple[str, ...]] = set()
        hubs = set()
        for peer in self._talk.peers:
            if name not in peer.groups or peer.hub.hub_id in hubs or peer.voice is None:
                continue
            with suppress(*NOTHING):
                got = await peer.voice.call("group_info", group=self._talk.group_address(peer, name))
                hubs.add(peer.hub.hub_id)
                members = [member["name"] for member in got["members"]]
                views.add(tuple(sorted(self._talk.group_key(peer, each) for each in members)))
        return views


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for what many processes do; it is the end of the soak if they do not."""
    with trio.move_on_after(SETTLE_S):
        while not holds():  # noqa: ASYNC110
            await trio.sleep(LOOK_S)
        return
    raise SystemExit(f"not within {SETTLE_S:.0f} s: {what}")
