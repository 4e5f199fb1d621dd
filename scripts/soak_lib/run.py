"""One soak, from the start of its processes to its last look at them."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import AsyncExitStack, suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from msgspec import Struct

from ecorelay import wire
from ecorelay.client import open_hub_client
from ecorelay.errors import RelayError
from scripts.soak_lib import ledger as log
from scripts.soak_lib.cables import laid
from scripts.soak_lib.faults import Faults
from scripts.soak_lib.judge import DIVERGED, Judge
from scripts.soak_lib.logs import Logs
from scripts.soak_lib.peers import Peer
from scripts.soak_lib.place import HUBS, Place
from scripts.soak_lib.planting import plant
from scripts.soak_lib.talk import Talk
from scripts.soak_lib.voices import Ended, NoAnswer, Refusal
from scripts.soak_lib.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay.client import HubClient
    from scripts.soak_lib.place import Hub

SETTLE_S: Final = 120.0
"""When all is whole, everything must be where it belongs by then."""
LINKED_S: Final = 90.0
SAMPLE_S: Final = 10.0
LOOK_S: Final = 0.25
PACES: Final = (0.2, 20.0)
NOTHING: Final = (Refusal, NoAnswer, Ended)
"""A peer that was asked has nothing to say."""
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
        self.faults = Faults(self.place, self.talk, self.chance, self._reload)
        self.began = inf
        self.seconds = 0.0
        self.load = 0.0
        self.cut_short = False
        """It was told to end."""
        self.checks: list[float] = []
        """Seconds each time of quiet took until all was there."""
        self.leftovers: list[str] = []
        self.traces: dict[int, list[str]] = {}
        """Lost messages: what the hubs say of them."""
        self._observers: dict[str, HubClient] = {}
        self._looking: list[tuple[int, str, float]] = []
        self._nursery: trio.Nursery
        self._fault_scope: trio.CancelScope | None = None
        self._calm = trio.Event()
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
                self.cut_short = True
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

    async def _with_peers(self) -> None:
        hubs = [*self.place.hubs.values()]
        for key in range(self.settings.peers):
            manner = MANNERS[key // len(hubs) % len(MANNERS)]
            if manner == "channel" and key >= len(hubs) * len(MANNERS):
                manner = "adapter"
            hub = hubs[key % len(hubs)]
            peer = Peer(key, hub, manner, self.talk)
            self.talk.peers.append(peer)
            self.talk.note(log.Lives(log.now(), key, hub.hub_id))
        async with trio.open_nursery() as peers:
            self.talk.hushed = True
            for peer in self.talk.peers:
                peers.start_soon(peer.live)
            await self._until(lambda: all(peer.dry_at for peer in self.talk.peers), "all peers are there")
            async with AsyncExitStack() as stack:
                for hub in hubs:
                    await self._observe(stack, hub)
                await self._until_linked(LINKED_S)
                await self._until_known()
                await self._make_groups()
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._sample)
                    nursery.start_soon(self._look_at_links)
                    nursery.start_soon(self._trace_some)
                    await self._do()
                    nursery.cancel_scope.cancel()
            peers.cancel_scope.cancel()

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
        finally:
            self._running_faults -= 1

    # --- quiet -------------------------------------------------------------------------------------------

    async def _check(self) -> None:
        """Let all become whole and everybody read to the end; then everything acknowledged must be there."""
        talk = self.talk
        await self._until(lambda: not self._running_faults, "no fault is on")
        talk.hushed = True
        began = trio.current_time()
        await self._until_linked(LINKED_S)
        hushed = log.now()
        await self._until(lambda: self._all_dry(hushed), "all have ended what they were doing")
        since = log.now()
        waiting, patience = None, trio.current_time() + self.settings.settle_s
        while trio.current_time() < patience:
            missing = self.judge.missing(since)
            if not missing and await self._nothing_waits() and self._all_dry(since):
                break
            if missing != waiting:  # it gets on
                waiting, patience = missing, trio.current_time() + self.settings.settle_s
            await trio.sleep(0.3)
        # What has a receipt that says why it ended is told, and no loss.
        for n, to in self.judge.missing(since):
            await self._trace_missing(n, to)
        await self._groups_agree()
        took = trio.current_time() - began
        self.checks.append(took)
        for line in self.logs.crashes():
            talk.trouble("crash", line)
        talk.note(log.Quiet(log.now(), since))
        counts = self.judge.counts
        self.say(
            f"check: {counts['Acked']} acknowledged, {counts['Shown']} shown, "
            f"{sum(self.judge.faults.values())} faults, {len(self.judge.findings)} findings; "
            f"all there after {took:.1f} s, pace {talk.pace:.2f}, {self.load:.2f} processors"
        )
        for finding in self.judge.findings[-5:]:
            self.say(f"  {finding.what}, message {finding.n}: {finding.detail}")
        talk.hushed = False

    def _all_dry(self, since: float) -> bool:
        return all(peer.dry_at > since for peer in self.talk.peers)

    async def _nothing_waits(self) -> bool:
        for hub_id in self.place.hubs:
            details = await self._details(hub_id)
            if details is None or any(link.waiting for link in details.links):
                return False
        return True

    async def _trace_missing(self, n: int, to: int) -> None:
        message = self.judge.messages[n]
        said: list[str] = []
        for hub_id in self.place.hubs:
            try:
                traced = await self._observers[hub_id].request(wire.Trace(req_id=0, msg_id=message.msg_id))
            except RelayError as error:
                said.append(f"{hub_id}: {error.code}: {error.message}")
                continue
            said.append(f"{hub_id}: {traced}")
            for receipt in traced.receipts:
                if receipt.ended_at:
                    reason = f"{receipt.state} ({receipt.reason})" if receipt.reason else receipt.state
                    self.talk.note(log.Ended(log.now(), n, reason, to))
        self.traces[n] = said

    async def _groups_agree(self) -> None:
        """Every hub with a member says the same of a group's members."""
        for name in [*self.talk.stable, *self.talk.churning]:
            with trio.move_on_after(SETTLE_S):
                while len(await self._views(name)) > 1:  # noqa: ASYNC110 - other processes
                    await trio.sleep(0.5)
                continue
            self.talk.trouble(DIVERGED, f"{name}: {await self._views(name)}")

    async def _views(self, name: str) -> set[tuple[str, ...]]:
        views: set[tuple[str, ...]] = set()
        hubs = set()
        for peer in self.talk.peers:
            if name not in peer.groups or peer.hub.hub_id in hubs or peer.voice is None:
                continue
            with suppress(*NOTHING):
                got = await peer.voice.call("group_info", group=self.talk.group_address(peer, name))
                hubs.add(peer.hub.hub_id)
                members = [member["name"] for member in got["members"]]
                views.add(
                    tuple(sorted(each if "@" in each else f"{each}@{peer.hub.hub_id}" for each in members))
                )
        return views

    # --- what runs beside --------------------------------------------------------------------------------

    async def _observe(self, stack: AsyncExitStack, hub: Hub) -> None:
        hello = wire.Hello(versions=(1, 1), role="observer", client="soak")
        client = await stack.enter_async_context(open_hub_client(hello, connect=hub.observer()))
        self._observers[hub.hub_id] = client

    async def _reload(self, hub: Hub) -> None:
        await self._observers[hub.hub_id].request(wire.HubReload(req_id=0))

    async def _details(self, hub_id: str) -> wire.HubDetails | None:
        with suppress(RelayError), trio.move_on_after(5):
            return await self._observers[hub_id].request(wire.HubStatus(req_id=0), 4.0)
        return None

    async def _linked(self) -> bool:
        for hub_id in self.place.hubs:
            details = await self._details(hub_id)
            up = {link.hub_id for link in details.links if link.up} if details else set()
            if up != set(self.place.hubs) - {hub_id}:
                return False
        return True

    async def _until_linked(self, within_s: float) -> None:
        with trio.move_on_after(within_s):
            while not await self._linked():  # noqa: ASYNC110 - other processes
                await trio.sleep(LOOK_S)
            return
        states = {hub_id: (d := await self._details(hub_id)) and d.links for hub_id in self.place.hubs}
        self.talk.trouble("not linked", f"{within_s:.0f} s after all was whole: {states}")

    async def _until_known(self) -> None:
        """Every hub has heard of every peer."""

        async def known(hub_id: str) -> bool:
            got = await self._observers[hub_id].request(wire.Peers(req_id=0, limit=1000))
            return {each.address(self.place.hubs[hub_id]) for each in self.talk.peers} <= {
                peer.name for peer in got.peers
            }

        with trio.fail_after(LINKED_S):
            for hub_id in self.place.hubs:
                while not await known(hub_id):  # noqa: ASYNC110 - other processes
                    await trio.sleep(LOOK_S)

    async def _make_groups(self) -> None:
        peers = self.talk.peers
        for number, hub_id in enumerate(HUBS):
            here = [peer for peer in peers if peer.hub.hub_id == hub_id]
            admin = here[0]
            others = [peer for peer in peers if peer is not admin]
            members = self.chance.sample(others, min(12, len(others)))
            await self.talk.make_stable(f"stable{number}", admin, members)
        with trio.fail_after(LINKED_S):
            for name in self.talk.stable:
                while not await self._all_are_in(name):  # noqa: ASYNC110
                    await trio.sleep(LOOK_S)
        for name, keys in self.talk.stable.items():
            for key in keys:
                peers[key].groups.setdefault(name, 0)

    async def _all_are_in(self, name: str) -> bool:
        """Whether all members of a group have heard of it."""
        for key in self.talk.stable[name]:
            peer = self.talk.peers[key]
            if peer.voice is None:
                return False
            try:
                await peer.voice.call("group_info", group=self.talk.group_address(peer, name))
            except NOTHING:
                return False
        return True

    def links_after(self, number: int, kind: str) -> None:
        """A fault is over: note when all links are up."""
        self._looking.append((number, kind, log.now()))

    async def _look_at_links(self) -> None:
        self.talk.links_after = self.links_after
        while True:
            await trio.sleep(LOOK_S)
            if self._looking and await self._linked():
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
                with suppress(RelayError), trio.move_on_after(5):
                    got = await self._observers[hub.hub_id].request(wire.Trace(req_id=0, msg_id=msg_id), 4.0)
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
            self.leftovers.append(words)
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

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        with trio.move_on_after(SETTLE_S):
            while not holds():  # noqa: ASYNC110 - many processes
                await trio.sleep(LOOK_S)
            return
        raise SystemExit(f"not within {SETTLE_S:.0f} s: {what}")
