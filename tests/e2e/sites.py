"""Several machines, each with a hub of its own, linked by the real bridge.

Hubs are processes that a test starts, kills and stops; nobody else starts one. Every wait is bounded.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import trio

from ecorelay import wire
from ecorelay.client import HubClient, open_hub_client
from ecorelay.errors import RelayError
from ecorelay.spawn import hub_connector
from tests.e2e.stage import PATIENCE_S, POLL_S, Machine

SECRET = "five-words-that-nobody-guesses-0123456789abcdef"
UNLIMITED = {
    "ECORELAY_LIMITS_SENDS_PER_MINUTE": "0",
    "ECORELAY_LIMITS_BROADCASTS_PER_HOUR": "0",
    "ECORELAY_LIMITS_MAILBOX_MESSAGES": "20000",
}
LATER_S = 0.05
"""Pause of a sender that was refused because too much waits."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free just now."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


class Site(Machine):
    """One machine among others.

    Args:
        root: a directory of its own.
        hub_id: of its hub.
        host: the address other hubs reach it at.
        port: where it listens; None: a free one, 0: nowhere.
        inside: command words before the hub's, to run it somewhere else (``ip netns exec …``).
        settings: variables for its environment.
    """

    def __init__(
        self,
        root: Path,
        hub_id: str,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        inside: Sequence[str] = (),
        **settings: str,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(root, ECORELAY_HUB_ID=hub_id, **(UNLIMITED | settings))
        self.hub_id = hub_id
        self.host = host
        self.port = free_port(host) if port is None else port
        self.inside = tuple(inside)
        self.process: subprocess.Popen[bytes] | None = None
        self.config: dict[str, Any] = {}

    # --- bridge.json ---------------------------------------------------------------------------------

    def configure(self, *peers: Site, **changes: Any) -> None:
        """Write bridge.json: listen, and dial these. `changes` replace or add fields; None takes one out."""
        table: dict[str, Any] = {
            "hub_id": self.hub_id,
            "bind": self.host,
            "listen": self.port,
            "secret": SECRET,
            "peers": [peer.as_peer() for peer in peers],
        }
        self.config = {name: value for name, value in (table | changes).items() if value is not None}
        self.write(json.dumps(self.config, indent=2))

    def change(self, **changes: Any) -> None:
        """Write bridge.json as before but for these."""
        self.config = {name: value for name, value in (self.config | changes).items() if value is not None}
        self.write(json.dumps(self.config, indent=2))

    def write(self, text: str) -> None:
        """Write bridge.json, whatever is in it."""
        self.home.mkdir(mode=0o700, exist_ok=True)
        # Whole or not at all: the hub may read it at any time.
        beside = self.home / "bridge.json.new"
        beside.write_text(text)
        beside.chmod(0o600)
        beside.replace(self.home / "bridge.json")

    def as_peer(self, **changes: Any) -> dict[str, Any]:
        """This hub in another one's bridge.json."""
        return {"hub_id": self.hub_id, "host": self.host, "port": self.port, **changes}

    # --- its process ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the hub, and wait until it takes sessions."""
        self.launch()
        await self.ready()

    def launch(self) -> None:
        """Start the hub; it may not be ready yet."""
        self.home.mkdir(mode=0o700, exist_ok=True)
        with open(self.root / "hub.out", "ab") as out:
            self.process = subprocess.Popen(
                [*self.inside, sys.executable, "-m", "ecorelay", "hub", "run"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environ,
            )

    async def ready(self) -> None:
        """Wait until the hub takes sessions."""
        assert self.process is not None
        with trio.fail_after(PATIENCE_S):
            while (endpoint := self.endpoint) is None or endpoint.pid != self.process.pid:
                assert self.process.poll() is None, (self.root / "hub.out").read_text()
                await trio.sleep(POLL_S)

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the hub, without a word by default."""
        assert self.process is not None
        self.process.send_signal(number)
        with trio.fail_after(PATIENCE_S):
            while self.process.poll() is None:  # noqa: ASYNC110
                await trio.sleep(POLL_S / 4)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def close(self) -> None:
        """End the hub; it met no bug of ours."""
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        for log in self.home.glob("hub.log*"):
            assert '"event":"crash"' not in log.read_text(), log.read_text()

    def cpu_s(self) -> float:
        """Processor time the hub has used."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # --- sessions, and what it shows ---------------------------------------------------------------------

    @asynccontextmanager
    async def session(self, name: str, *, push: bool = False, **more: Any) -> AsyncIterator[HubClient]:
        """A live session of the peer `name`; it waits for its hub, and starts none.

        With `push` it takes what it is pushed, into ``client.pushed`` by `Pushes`.
        """
        hello = wire.Hello(versions=(1, 1), role="session", name=name, pinned=True, create=True, push=push)
        async with open_hub_client(
            hello, connect=hub_connector(self.paths, self.environ, spawn=False), **more
        ) as client:
            yield client

    @asynccontextmanager
    async def taker(self, name: str, heard: list[wire.Push]) -> AsyncIterator[HubClient]:
        """A live session that is pushed to, and takes it: into `heard`."""
        opened: list[HubClient] = []

        def take(push: wire.Push) -> None:
            heard.append(push)
            opened[0].send_nowait(wire.Pushed(msg_ids=(push.msg_id,)))

        async with self.session(name, push=True, on_push=take) as client:
            opened.append(client)
            yield client

    async def details(self) -> wire.HubDetails:
        """What `hub status` shows, without a process for it."""
        hello = wire.Hello(versions=(1, 1), role="observer")
        connect = hub_connector(self.paths, self.environ, spawn=False)
        async with open_hub_client(hello, connect=connect, stay=False) as client:
            return await client.request(wire.HubStatus(req_id=0))

    async def link(self, other: Site | str) -> wire.LinkDetails:
        """How the link to another hub is."""
        hub_id = other if isinstance(other, str) else other.hub_id
        links = (await self.details()).links
        return next((each for each in links if each.hub_id == hub_id), wire.LinkDetails(hub_id=hub_id))

    async def nothing_waits(self) -> bool:
        """Whether every outbox is empty."""
        return not any(each.waiting for each in (await self.details()).links)

    async def knows(self, address: str, **facts: object) -> bool:
        """Whether its list of peers has one at this address, with these fields."""
        async with self.session("looker") as client:
            found = (await client.request(wire.Peers(req_id=0, limit=1000))).peers
        return any(
            peer.name == address and all(getattr(peer, name) == is_ for name, is_ in facts.items())
            for peer in found
        )

    async def trouble(self, other: Site | str, *words: str, within_s: float = PATIENCE_S) -> str:
        """Wait until `hub status` says these words of another hub; all it says of it."""
        return await self._says(lambda found: _trouble(found, other), words, within_s)

    async def problem(self, *words: str, within_s: float = PATIENCE_S) -> str:
        """Wait until `hub status` has a problem with these words; all problems."""
        return await self._says(lambda found: "\n".join(found.problems), words, within_s)

    async def _says(
        self, what: Callable[[wire.HubDetails], str], words: Collection[str], within_s: float
    ) -> str:
        said = ""
        with trio.move_on_after(within_s):
            while True:
                said = what(await self.details())
                if said and all(word in said for word in words):
                    return said
                await trio.sleep(POLL_S)
        raise AssertionError(f"{self.hub_id} does not say {words} but: {said!r}\n{await self.details()}")

    async def until_link(self, other: Site | str, up: bool = True, within_s: float = PATIENCE_S) -> float:
        """Wait until the link to another hub is up, or down; seconds it took."""

        async def holds() -> bool:
            return (await self.link(other)).up is up

        return await eventually(holds, within_s)

    async def read(self, name: str) -> list[wire.Mail]:
        """Everything unread in the mailbox of `name`, confirmed page by page."""
        found: list[wire.Mail] = []
        async with self.session(name) as client:
            while True:
                page = await client.request(wire.Inbox(req_id=0, limit=100, budget=400_000))
                if not page.messages:
                    return found
                found += page.messages
                ids = tuple(mail.msg_id for mail in page.messages)
                await client.request(wire.Confirm(req_id=0, lease=page.lease, msg_ids=ids))


def _trouble(found: wire.HubDetails, other: Site | str) -> str:
    hub_id = other if isinstance(other, str) else other.hub_id
    return next((each.trouble for each in found.links if each.hub_id == hub_id), "")


async def eventually(holds: Callable[[], Awaitable[object]], within_s: float = PATIENCE_S) -> float:
    """Ask until it is so; seconds it took."""
    began = trio.current_time()
    with trio.move_on_after(within_s):
        while not await holds():  # noqa: ASYNC110 - it is another process
            await trio.sleep(POLL_S / 2)
        return trio.current_time() - began
    raise AssertionError(f"not within {within_s:g} s: {getattr(holds, '__qualname__', holds)}")


async def linked(*sites: Site, within_s: float = PATIENCE_S) -> float:
    """Wait until each of these is linked to each other; seconds it took."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for one, other in combinations(sites, 2):
            nursery.start_soon(one.until_link, other, True, within_s)
            nursery.start_soon(other.until_link, one, True, within_s)
    return trio.current_time() - began


async def start(*sites: Site) -> None:
    """Start these at once."""
    for site in sites:
        site.launch()
    for site in sites:
        await site.ready()


def all_list_all(sites: Iterable[Site], **changes: Any) -> None:
    """Each hub lists each other one."""
    everybody = list(sites)
    for site in everybody:
        site.configure(*[each for each in everybody if each is not site], **changes)


class Load:
    """Peers that send to peers of other hubs, and what they were told; then: what became of it.

    Args:
        sites: each has `senders` that write to the recipients of every other.
        senders: of each site.
        pause_s: between two messages of one sender.
    """

    def __init__(self, *sites: Site, senders: int = 3, pause_s: float = 0.0) -> None:
        self.sites = sites
        self.senders = senders
        self.pause_s = pause_s
        self.acknowledged: dict[str, tuple[str, str, int]] = {}
        """msg_id: recipient's address, sender's, the sender's count."""
        self.refused: Counter[str] = Counter()
        self._stop = trio.Event()

    def recipient(self, site: Site) -> str:
        return f"inbox-{site.hub_id}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while the block runs; no acknowledged message may be missing after that."""
        for site in self.sites:
            async with site.session(self.recipient(site)):
                pass
        await linked(*self.sites)
        for site, other in permutations(self.sites, 2):
            await eventually(partial(site.knows, f"{self.recipient(other)}@{other.hub_id}"))
        async with AsyncExitStack() as stack:
            clients = [
                (site, f"s{number}", await stack.enter_async_context(site.session(f"s{number}")))
                for site in self.sites
                for number in range(self.senders)
            ]
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(self._send, *client)
                yield
                self._stop.set()

    async def _send(self, site: Site, name: str, client: HubClient) -> None:
        others = [each for each in self.sites if each is not site]
        counts = Counter[str]()
        turn = 0
        while not self._stop.is_set():
            other = others[turn % len(others)]
            turn += 1
            to = f"{self.recipient(other)}@{other.hub_id}"
            text = f"{name}@{site.hub_id} {counts[to]}"
            try:
                sent = await client.request(wire.Send(req_id=0, op_id="", to=to, text=text), 30)
            except RelayError as error:
                if error.code != "limit_reached":
                    raise
                self.refused[error.code] += 1
                await trio.sleep(LATER_S)
                continue
            assert sent.msg_id not in self.acknowledged
            self.acknowledged[sent.msg_id] = to, f"{name}@{site.hub_id}", counts[to]
            counts[to] += 1
            if self.pause_s:
                await trio.sleep(self.pause_s)

    async def all_there(self) -> int:
        """Wait until no outbox holds anything; then each message must be there once, in order. How many."""
        await linked(*self.sites)
        for site in self.sites:
            await eventually(site.nothing_waits)
        for site in self.sites:
            found = await site.read(self.recipient(site))
            address = f"{self.recipient(site)}@{site.hub_id}"
            ids = [mail.msg_id for mail in found]
            assert len(ids) == len(set(ids)), "a message came twice"
            missing = {i for i, (to, _, _) in self.acknowledged.items() if to == address} - set(ids)
            assert not missing, f"{len(missing)} acknowledged messages are gone"
            orders: defaultdict[str, list[int]] = defaultdict(list)
            for mail in found:
                assert mail.kind == "message", mail
                sender, count = (mail.text or "").split()
                assert mail.sender == sender
                orders[sender].append(int(count))
            for sender, counts in orders.items():
                assert counts == sorted(counts), f"messages of {sender} came out of order"
        return len(self.acknowledged)
