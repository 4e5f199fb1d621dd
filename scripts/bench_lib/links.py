"""Two linked hubs on this machine, directly or over a relay server: mail from one to the other, compared with
mail inside one of them.
"""

from __future__ import annotations

import json
import secrets
import signal
import socket
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from scripts.bench_lib import loads
from scripts.bench_lib.driver import BenchError, Driver
from scripts.bench_lib.hubs import EcorelayKind, Hub
from scripts.bench_lib.loads import Meter, Pair
from scripts.bench_lib.relay_server import RelayServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.bench_lib.driver import Connection
    from scripts.bench_lib.hubs import Durability, Place

ROOM = "bench"
UP_S = 30.0
"""How long a link may take to be there."""
LATER_S = 0.1
DRAINED = 10_000
"""Messages that wait, in the measurement of how quickly they leave."""
DRAIN_PEERS = 40
"""To whom: an outbox keeps 500 for each peer."""


class LinkedKind(EcorelayKind):
    """The product with a bridge.json: `name` listens at `port` and dials the others, or is at a relay."""

    def __init__(
        self, name: str, port: int, secret: str, others: dict[str, int], relay: RelayServer | None
    ) -> None:
        super().__init__(limits={"mailbox_messages": 20_000, "mailbox_bytes": 512 * 1024 * 1024})
        self.linked = True
        """Whether the file is there when it starts."""
        self._file: dict[str, object] = {"hub_id": name, "secret": secret}
        if relay is None:
            peers = [{"hub_id": other, "host": "127.0.0.1", "port": at} for other, at in others.items()]
            self._file |= {"listen": port, "bind": "127.0.0.1", "peers": peers}
        else:
            self._file["relay"] = {"url": f"ws://127.0.0.1:{relay.port}", "token": relay.token}

    def command(self, home: Path, durability: Durability) -> list[str]:
        (home / "bridge.json").unlink(missing_ok=True)
        path = home / ("bridge.json" if self.linked else "bridge.off")
        path.write_text(json.dumps(self._file))
        path.chmod(0o600)
        words = super().command(home, durability)
        config = home / "config.toml"
        config.write_text(f'hub_id = "{self._file["hub_id"]}"\n' + config.read_text())
        return words


class Pairing:
    """Two hubs; the second may be stopped and started again.

    Args:
        place: where they live.
        relayed: they meet at a relay server, and nowhere else.
    """

    def __init__(self, place: Place, *, relayed: bool = False) -> None:
        self._place = place
        self.relay = RelayServer(place) if relayed else None
        secret = secrets.token_hex(16)
        ports = free_ports(2)
        self._kinds = [
            LinkedKind(name, ports[n], secret, {other: ports[1 - n]}, self.relay)
            for n, (name, other) in enumerate((("near", "far"), ("far", "near")))
        ]
        self.near = Hub(self._kinds[0], place)
        self.far = Hub(self._kinds[1], place)

    def stop(self) -> None:
        """End both, and the relay server."""
        self.near.stop()
        self.far.stop()
        if self.relay is not None:
            self.relay.stop()

    @contextmanager
    def driver(self) -> Iterator[tuple[Driver, Driver]]:
        """A driver for each hub; either pumps both."""
        with self.near.driver() as near, self.far.driver(near) as far:
            yield near, far

    def await_link(self, near: Driver, far: Driver) -> None:
        """Wait until mail crosses."""
        to = far.connect(next(self.far.names()))
        sender = near.connect(next(self.near.names()))
        encode = near.dialect.sender(f"{to.name}@far", loads.SMALL)
        give_up = time.perf_counter() + UP_S
        known = False
        while not to.got:
            if not known:
                sender.write(encode(0))
                known = True
            try:
                near.pump(0.02)
            except BenchError:  # a hub at a relay is not known before the first link
                known = False
                time.sleep(LATER_S)
            if time.perf_counter() > give_up:
                raise BenchError(f"no link within {UP_S:.0f} s")
        near.disconnect(sender)
        far.disconnect(to)

    def latency(self, seconds: float) -> dict[str, float]:
        """One message in flight: from its send here to its push there."""
        with self.driver() as (near, far):
            self.await_link(near, far)
            to = far.connect(next(self.far.names()))
            sender = near.connect(next(self.near.names()))
            await_known(near, far, sender, to)
            encode = near.dialect.sender(f"{to.name}@far", loads.SMALL)
            times: list[float] = []
            began = time.perf_counter()
            while (sent := time.perf_counter()) < began + seconds:
                goal = to.got + 1
                acked = sender.acked + 1
                sender.write(encode(sender.sent))
                sender.sent += 1
                while to.got < goal:
                    far.pump(1.0)
                if sent > began + seconds * loads.WARM_UP:
                    times.append(time.perf_counter() - sent)
                near.pump_until(lambda acked=acked: sender.acked >= acked)  # type: ignore[misc]
            near.disconnect(sender)
            far.disconnect(to)
        times.sort()
        return {"p50": times[len(times) // 2] * 1e3, "p99": times[len(times) * 99 // 100] * 1e3}

    def pipelined(self, seconds: float, size: int, window: int) -> dict[str, float]:
        """Many messages in flight."""
        with self.driver() as (near, far):
            self.await_link(near, far)
            to = far.connect(next(self.far.names()))
            sender = near.connect(next(self.near.names()))
            await_known(near, far, sender, to)
            pair = Pair(sender, to, near.dialect.sender(f"{to.name}@far", size), window)
            meter = Meter(self.near, seconds, lambda: to.got)
            while meter.running():
                pair.refill()
                near.pump()
            result = meter.result()
            near.pump_until(lambda: sender.acked >= sender.sent)
            far.pump_until(lambda: to.got >= sender.sent)
            near.disconnect(sender)
            far.disconnect(to)
        return {"rate": result["rate"]}

    def rooms(self, seconds: float, window: int) -> dict[str, float]:
        """What is said in a room of one hub, at the one member there is: a peer of the other."""
        with self.driver() as (near, far):
            self.await_link(near, far)
            to = far.connect(next(self.far.names()))
            sender = near.connect(next(self.near.names()))
            for driver, connection, room in ((near, sender, ROOM), (far, to, f"{ROOM}@near")):
                connection.write(driver.dialect.join(room))
                driver.answer("room_members")
            pair = Pair(sender, to, near.dialect.poster(ROOM, loads.SMALL), window)
            meter = Meter(self.near, seconds, lambda: to.got)
            while meter.running():
                pair.refill()
                near.pump()
            result = meter.result()
            near.pump_until(lambda: sender.acked >= sender.sent)
            near.disconnect(sender)
            far.disconnect(to)
        return {"rate": result["rate"]}

    def drain(self) -> dict[str, float]:
        """Messages wait while the other hub is away: from the start of its bridge to the last push."""
        with self.near.driver() as near:
            with self.far.driver(near) as far:
                self.await_link(near, far)
                names = [next(self.far.names()) for _ in range(DRAIN_PEERS)]
                far.disconnect(*[far.connect(name) for name in names])
            time.sleep(0.5)  # its names are known here
            home = self.far.home
            self.far.stop()
            sender = near.connect(next(self.near.names()))
            for name in names:
                loads.fill(near, sender, f"{name}@far", DRAINED // DRAIN_PEERS)
            self._kinds[1].linked = False
            named = self.far.named
            self.far = Hub(self._kinds[1], self._place, home=home)
            self.far.named = named
            self._kinds[1].linked = True
            with self.far.driver(near) as far:
                receivers = [far.connect(name) for name in names]
                (home / "bridge.off").rename(home / "bridge.json")
                began = time.perf_counter()
                self.far.process.send_signal(signal.SIGHUP)
                far.pump_until(lambda: _count(receivers) >= DRAINED)
                seconds = time.perf_counter() - began
                far.disconnect(*receivers)
            near.disconnect(sender)
        return {"s": seconds}


def await_known(near: Driver, far: Driver, sender: Connection, to: Connection, hub_id: str = "far") -> None:
    """Wait until the sender's hub knows of a peer of the other one."""
    encode = near.dialect.sender(f"{to.name}@{hub_id}", loads.SMALL)
    time.sleep(0.5)
    sender.write(encode(0))
    near.pump_until(lambda: sender.acked >= 1)
    far.pump_until(lambda: to.got >= 1)
    sender.sent = sender.acked = to.got = 0


def _count(connections: list[Connection]) -> int:
    return sum([each.got for each in connections])


def free_ports(count: int) -> list[int]:
    """Different ones of this machine."""
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]
