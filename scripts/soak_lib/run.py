"""One soak, from the start of its processes to its last look at them."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from msgspec import Struct

from ecorelay.errors import RelayError
from scripts.soak_lib import ledger as log
from scripts.soak_lib.cables import laid
from scripts.soak_lib.faults import Faults
from scripts.soak_lib.judge import Judge
from scripts.soak_lib.logs import Logs
from scripts.soak_lib.look import LOOK_S, Look, looking
from scripts.soak_lib.peers import Peer
from scripts.soak_lib.place import HUBS, Place
from scripts.soak_lib.planting import plant
from scripts.soak_lib.quiet import LINKED_S, Quiet, until
from scripts.soak_lib.talk import Talk
from scripts.soak_lib.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE_S: Final = 10.0
TOLD: Final = 5
"""Findings that are said at once; the report has more."""
PACES: Final = (0.2, 20.0)
IN_A_GROUP: Final = 12
MANNERS: Final = ("pull", "push", "pull", "adapter", "pull", "push", "pull", "channel")
"""Of the peers of one hub, in turn. A second adapter for channels beside one assistant process would stay
passive, and all of ours have this process as their assistant: so one a hub."""


class Settings(Struct):
    """What to do."""

    minutes: float = 60.0
    seed: int = 0
    peers: int = 50
    ring: int = 300
    """Messages in a mailbox."""
    every_s: float = 4.0
    """Between two faults, in the mean."""
    cpu: float = 0.5
    """Processors all of it may use; the pace of the talk follows."""
    check_min: float = 5.0
    """Minutes between two times of quiet, in which everything acknowledged has to be there."""
    phase_min: float = 10.0
    """Minutes during which hubs and relay live; and then as many in which they are killed as well."""
    settle_s: float = 60.0
    """What does not come nearer for so long while all is whole is lost."""
    plant: str = ""
    """Break a promise on purpose: `loss`."""
    say: bool = True


class Soak:
    """One run.

    Args:
        settings: what to do.
        root: an empty directory; everything is in it.
    """

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings = settings
        self.root = root
        self.judge = Judge()
        self.ledger = log.Ledger(root / "ledger.jsonl")
        self.talk = Talk(self.ledger, self.judge, settings.seed)
        self.place = Place(root, settings.ring)
        self.watch = Watch(root / "processes.jsonl")
        self.logs = Logs(root)
        self.chance = random.Random(settings.seed + 1)
        self.look = Look(self.place)
        self.faults = Faults(self.place, self.talk, self.chance, self.look.reload)
        self.quiet = Quiet(self.talk, self.judge, self.look, self.logs, self.place, settings.settle_s)
        self.began = inf
        self.seconds = 0.0
        self.load = 0.0
        self._looking: list[tuple[int, str, float]] = []
        """Faults that are over: which, of what kind, since when."""
        self._running_faults = 0

    def say(self, text: str) -> None:
        """Tell whoever watches."""
        if self.settings.say:
            print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    # --- the whole ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do it all, or until SIGINT or SIGTERM; the findings are in `judge` afterwards."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._heed_signals, nursery.cancel_scope)
            await self._run()
            nursery.cancel_scope.cancel()

    async def _heed_signals(
        self, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """End in order: no process is left behind."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self.say("ended before its time")
                scope.cancel()

    async def _run(self) -> None:
        async with laid(*self.place.cables):
            self.place.configure()
            try:
                await self.place.start()
                await self._with_peers()
            finally:
                self.seconds = max(0.0, trio.current_time() - self.began)
                with trio.CancelScope(shield=True):
                    await self.place.end()
                    await self._nothing_left()
                    for line in self.logs.crashes():
                        self.talk.trouble("crash", line)
                self.ledger.close()
                self.watch.close()

    def _make_peers(self) -> Iterator[Peer]:
        hubs = [*self.place.hubs.values()]
        for key in range(self.settings.peers):
            manner = MANNERS[key // len(hubs) % len(MANNERS)]
            if manner == "channel" and key >= len(hubs) * len(MANNERS):
                manner = "adapter"
            hub = hubs[key % len(hubs)]
            self.talk.note(log.Lives(log.now(), key, hub.hub_id))
            yield Peer(key, hub, manner, self.talk)

    async def _with_peers(self) -> None:
        peers = self.talk.peers = list(self._make_peers())
        async with trio.open_nursery() as living:
            self.talk.hushed = True
            for peer in peers:
                living.start_soon(peer.live)
            await until(lambda: all(peer.dry_at for peer in peers), "all peers are there")
            async with looking(self.look):
                if links := await self.look.until_linked(LINKED_S):
                    raise SystemExit(f"no links within {LINKED_S:.0f} s: {links}")
                await self._until_known()
                await self._make_groups()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._sample)
                    nursery.start_soon(self._look_at_links)
                    nursery.start_soon(self._trace_some)
                    await self._do()
                    nursery.cancel_scope.cancel()
            living.cancel_scope.cancel()

    async def _do(self) -> None:
        settings = self.settings
        self.say(f"{settings.peers} peers on {len(HUBS)} hubs, for {settings.minutes:g} minutes")
        self.began = began = trio.current_time()
        end = began + settings.minutes * 60
        next_check = began + settings.check_min * 60
        self.talk.hushed = False
        async with trio.open_nursery() as nursery:
            if settings.plant:
                await plant(settings.plant, self.talk, self.chance)
            while (now := trio.current_time()) < end:
                await trio.sleep(min(self.chance.expovariate(1 / settings.every_s), end - now))
                phase = (trio.current_time() - began) / 60 // settings.phase_min
                killing = phase % 2 == 1 or settings.minutes < 2 * settings.phase_min
                nursery.start_soon(self._one_fault, killing)
                if trio.current_time() > next_check:
                    await self._check()
                    next_check = trio.current_time() + settings.check_min * 60
        await self._check()

    async def _one_fault(self, killing: bool) -> None:
        self._running_faults += 1
        try:
            await self.faults.one(killing=killing)
        except Exception as error:
            self.talk.trouble("the soak's own fault", repr(error))
        finally:
            self._running_faults -= 1

    async def _check(self) -> None:
        await until(lambda: not self._running_faults, "no fault is on")
        took = await self.quiet.check()
        counts, findings = self.judge.counts, self.judge.findings
        self.say(
            f"check: {counts['Acked']} acknowledged, {counts['Shown']} shown, "
            f"{sum(self.judge.faults.values())} faults, {len(findings)} findings; "
            f"all there after {took:.1f} s, pace {self.talk.pace:.2f}, {self.load:.2f} processors"
        )
        for finding in findings[-TOLD:]:
            self.say(f"  {finding.what}, message {finding.n}: {finding.detail}")

    # --- before it begins --------------------------------------------------------------------------------

    async def _until_known(self) -> None:
        """Every hub has heard of every peer."""
        with trio.fail_after(LINKED_S):
            for hub_id, hub in self.place.hubs.items():
                everybody = [peer.address(hub) for peer in self.talk.peers]
                while not await self.look.knows(hub_id, everybody):  # noqa: ASYNC110 - other processes
                    await trio.sleep(LOOK_S)

    async def _make_groups(self) -> None:
        peers = self.talk.peers
        for number, hub_id in enumerate(HUBS):
            here = [peer for peer in peers if peer.hub.hub_id == hub_id]
            admin = here[0]
            others = [peer for peer in peers if peer is not admin]
            members = self.chance.sample(others, min(IN_A_GROUP, len(others)))
            await self.talk.make_stable(f"stable{number}", admin, members)
        with trio.fail_after(LINKED_S):
            for name in self.talk.stable:
                while not await self.talk.all_are_in(name):  # noqa: ASYNC110 - other processes
                    await trio.sleep(LOOK_S)

    # --- what runs beside --------------------------------------------------------------------------------

    def links_after(self, number: int, kind: str) -> None:
        """A fault is over: note when all links are up."""
        self._looking.append((number, kind, log.now()))

    async def _look_at_links(self) -> None:
        self.talk.links_after = self.links_after
        while True:
            await trio.sleep(LOOK_S)
            if self._looking and await self.look.linked():
                for number, kind, since in self._looking:
                    self.talk.note(log.Linked(log.now(), number, kind, log.now() - since))
                self._looking.clear()

    async def _trace_some(self) -> None:
        """Ask for receipts of messages, again and again: they only ever get further."""
        chosen: list[tuple[int, str]] = []
        while True:
            await trio.sleep(1.0)
            if self.talk.recent and (len(chosen) < 40 or self.chance.random() < 0.3):
                chosen = [*chosen[-200:], self.chance.choice(self.talk.recent)]
            if not chosen:
                continue
            n, msg_id = self.chance.choice(chosen)
            begun = self.judge.messages[n].begun
            ours, theirs = self.talk.peers[begun.by].hub, self.talk.peers[begun.to].hub
            # What lies beyond the way is asked for at the other hub: without a link it is not known here.
            steps_of = {ours: ("forwarded_at", "ended_at"), theirs: ("seen_at", "replied_at", "ended_at")}
            for hub, known in steps_of.items():
                with suppress(RelayError):
                    got = await self.look.trace(hub.hub_id, msg_id)
                    steps = {step for each in got.receipts for step in known if getattr(each, step)}
                    if got.receipts:
                        self.talk.note(log.Steps(log.now(), n, hub.hub_id, tuple(sorted(steps))))

    async def _sample(self) -> None:
        while True:
            for pid in self.watch.sample(self.processes()):
                self.talk.trouble("zombie", f"process {pid} ended and nobody took notice")
            self.load = self.watch.load()
            pace = self.talk.pace * min(2.0, max(0.5, self.load / self.settings.cpu))
            self.talk.pace = min(PACES[1], max(PACES[0], pace))
            await trio.sleep(SAMPLE_S)

    def processes(self) -> list[tuple[str, int]]:
        """All that run: role and pid."""
        found = [("soak", os.getpid())]
        found += [(f"hub {hub.name}", hub.pid) for hub in self.place.hubs.values() if hub.runs()]
        if self.place.relay.runs():
            found.append(("relay", self.place.relay.pid))
        found += [
            (f"adapter p{peer.key:02}", process.pid)
            for peer in self.talk.peers
            if (process := peer.adapter) is not None
        ]
        return found

    # --- the end -----------------------------------------------------------------------------------------

    async def _nothing_left(self) -> None:
        """All processes of this soak have ended; one that has not is a finding, and is ended."""
        with trio.move_on_after(30):
            while self._left():  # noqa: ASYNC110 - other processes
                await trio.sleep(0.2)
        for pid, words in self._left().items():
            self.talk.trouble("left behind", f"process {pid} still runs: {words}")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left(self) -> dict[int, str]:
        mark = f"ECORELAY_HOME={self.root}".encode()
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if int(path.name) != os.getpid() and mark in (path / "environ").read_bytes():
                    words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(path.name)] = words
            except OSError:
                continue
        return found
