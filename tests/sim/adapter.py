"""A simulated adapter: the real client of `ecorelay.client`, and whims in the place of an assistant."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import trio

from ecorelay import wire
from ecorelay.client import HubClient, open_hub_client
from ecorelay.errors import RelayError
from ecorelay.names import new_id
from tests.sim.ledger import Ledger, holds
from tests.sim.machine import Machine
from tests.sim.net import Network, SimStream

ROOM = 4 * 1024
"""Bytes that wait in a socket of one machine: few, so that not all is taken at once."""
AGAIN_S = 5.0
"""After so long an adapter that could not be welcomed tries again."""


class Adapter:
    """One assistant's session on a machine.

    Args:
        network: it is in.
        machine: with its hub.
        name: it wants.
        number: of this process, for all time.
        push: whether it has a carrier.
        ledger: is told what is asked, and what is shown.
        seed: of its whims.
        beside: whether it is one more connection of a peer that has its session elsewhere, as commands and
            hooks are.
    """

    def __init__(
        self,
        network: Network,
        machine: Machine,
        name: str,
        number: int,
        push: bool,
        ledger: Ledger,
        seed: int,
        beside: bool = False,
    ) -> None:
        self.network = network
        self.machine = machine
        self.name = name
        self.number = number
        self.push = push
        self.beside = beside
        self.ledger = ledger
        self.chance = Random(seed)
        self.host = f"{machine.hub_id}/{name}-{number}"
        self.identity = f"session-{number}"
        self.client: HubClient | None = None
        self.leaving = trio.Event()
        self.gone = trio.Event()
        self.carrier_s = self.chance.choice((0.0, 0.01, 0.2, 1.0))
        """How long its carrier takes at most."""
        self.fails = self.chance.choice((0.0, 0.0, 0.2))
        """How often it cannot take what is pushed."""
        self.scope = trio.CancelScope()
        self.nursery: trio.Nursery | None = None
        self.open_requests = 0
        self.listens_since = 0.0
        """Since when it has been connected and has read what came, and the disk was quick, at least."""
        self._called = ""

    @property
    def called(self) -> str:
        """Its name, as it was last; empty until it was welcomed."""
        if self.client is not None:
            self._called = self.client.welcome.name
        return self._called

    @property
    def peer_id(self) -> str:
        """Who it is; empty until it was welcomed."""
        return self.client.welcome.peer_id if self.client is not None else ""

    @property
    def live(self) -> bool:
        """Whether it can be asked to do something."""
        return self.client is not None and not self.leaving.is_set()

    async def run(self) -> None:
        """Until it is told to leave, or is killed."""
        hello = wire.Hello(
            versions=(1, 1),
            name=self.name,
            pinned=True,
            fallback=True,
            identity=self.identity,
            client="sim",
            cwd=f"/src/{self.name}",
            pid=self.number,
            pid_start=1,
            push=self.push,
        )
        if self.beside:
            hello = wire.Hello(versions=(1, 1), name=self.name, role="attach", pid=self.number, pid_start=1)
        try:
            with self.scope:
                while not self.leaving.is_set():
                    try:
                        await self._live(hello)
                    except RelayError as error:
                        if self.beside and error.code == "not_registered":
                            return  # its database was lost; a command says so, and ends
                        # Nobody to be had for half a minute, or somebody else has the name: again, later.
                        with trio.move_on_after(AGAIN_S):
                            await self.leaving.wait()
        finally:
            self.machine.gone_pids.add(self.number)
            for stream in self.network.of(self.host):
                stream.close()
            self.gone.set()

    async def _live(self, hello: wire.Hello) -> None:
        async with open_hub_client(
            hello,
            connect=self._connect,
            on_push=self._pushed,
            on_reconnect=self._welcomed,
            now_ms=self.machine.clock.wall,
            random_bits=self.chance.getrandbits,
        ) as client:
            self.client = client
            self._welcomed(client.welcome)
            try:
                async with trio.open_nursery() as nursery:
                    self.nursery = nursery
                    nursery.start_soon(self._fall, client)
                    await self.leaving.wait()
                    nursery.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                if len(group.exceptions) == 1:
                    raise group.exceptions[0] from None
                raise
            finally:
                self.client = self.nursery = None

    async def _fall(self, client: HubClient) -> None:
        error = await client.wait_over()
        # No other process is the same session of an assistant while this one lives.
        holds(error.code != "name_taken", f"{self.host} lives, and lost its name: {error.message}")
        raise error

    def _welcomed(self, welcome: wire.Welcome) -> None:
        self.listens_since = trio.current_time()
        self.ledger.welcomed(self)

    async def _connect(self) -> SimStream:
        return await self.network.connect(self.host, self.machine.door, ROOM)

    def leave(self) -> None:
        """In good order."""
        self.leaving.set()

    def kill(self) -> None:
        """As by SIGKILL."""
        for stream in self.network.of(self.host):
            stream.close()
        self.client = self.nursery = None
        self.leaving.set()
        self.scope.cancel()

    def read(self, stopped: bool) -> None:
        """Whether it reads what its hub says."""
        for stream in self.network.of(self.host):
            stream.inward.stopped = stopped
            stream.inward.wake()
        self.listens_since = math.inf if stopped else trio.current_time()

    # --- what it does ----------------------------------------------------------------------------------

    def new_id(self) -> str:
        return new_id(self.machine.clock.wall(), self.chance.getrandbits)

    def ask(self, frame: wire.Request, then: Callable[[Any], object] | None = None, **how: Any) -> None:
        """Begin a request; `then` gets its answer."""
        if self.client is not None and self.nursery is not None:
            self.nursery.start_soon(partial(self._ask, self.client, frame, then, **how))

    async def _ask(
        self,
        client: HubClient,
        frame: wire.Request,
        then: Callable[[Any], object] | None,
        patience: float | None = None,
        cancel_after: float | None = None,
    ) -> None:
        self.open_requests += 1
        asked = self.ledger.asked(self, frame)
        try:
            with trio.move_on_after(1e9 if cancel_after is None else cancel_after):
                answer = await client.request(frame, patience)
                self.ledger.answered(asked, answer)
                if then is not None:
                    then(answer)
        except RelayError as error:
            self.ledger.failed(asked, error)
        except trio.ClosedResourceError:
            pass  # it is just ending
        finally:
            self.open_requests -= 1

    async def _pushed(self, push: wire.Push) -> None:
        self.ledger.pushed(self, push)
        await trio.sleep(self.chance.random() * self.carrier_s)
        if self.client is None:  # it is just ending
            return
        if self.chance.random() < self.fails:
            self.client.send_nowait(wire.PushFailed(msg_ids=(push.msg_id,)))
        else:
            self.ledger.accepted(push)
            self.client.send_nowait(wire.Pushed(msg_ids=(push.msg_id,), carrier="sim"))

    # --- reading ---------------------------------------------------------------------------------------

    def inbox(self, frame: wire.Inbox, **how: Any) -> None:
        """Read a page, and do with it what assistants do."""
        self.ask(frame, self._page, **how)

    def _page(self, page: wire.InboxPage) -> None:
        self.ledger.page(self, page)
        if not page.lease:
            return
        whim = self.chance.random()
        if whim < 0.15:
            self.ask(wire.Release(req_id=0, lease=page.lease))
        elif whim < 0.85 and self.nursery is not None:
            self.nursery.start_soon(self._confirm, page)

    async def _confirm(self, page: wire.InboxPage) -> None:
        await trio.sleep(self.chance.choice((0.0, 0.1, 2.0)))
        shown = [mail for mail in page.messages if mail.text is not None and mail.kind != "room"]
        ids = tuple(mail.msg_id for mail in shown if mail.kind != "system")
        # Notices are left, so that they can be counted in the end.
        self.ledger.confirming(ids)
        frame = wire.Confirm(req_id=0, lease=page.lease, msg_ids=ids)
        self.ask(frame, lambda _: self.ledger.confirmed(self, ids))

    def history(self, group: str, limit: int, **how: Any) -> None:
        """Read on in a group."""
        self.ask(wire.GroupHistory(req_id=0, group=group, limit=limit), self._lines, **how)

    def _lines(self, page: wire.GroupPage) -> None:
        self.ledger.lines(self, page)
        if not page.messages:
            return
        if self.chance.random() < 0.2:
            self.ledger.lines_released(self, page)
            self.ask(wire.GroupRelease(req_id=0, group=page.group))
        else:
            self.ledger.lines_confirming(self, page)
            frame = wire.GroupConfirm(req_id=0, group=page.group, upto=page.upto)
            self.ask(frame, lambda _: self.ledger.lines_confirmed(self, page))
