"""The same things done with few and with many: peers, messages, mailboxes, links, hubs at a relay server.

Each gives its figures once for each of its sizes, in their order.
"""

from __future__ import annotations

import itertools
import secrets
import selectors
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from scripts.bench_lib import loads, procfs, relay_attack
from scripts.bench_lib.driver import BenchError
from scripts.bench_lib.footprint import SETTLE_S
from scripts.bench_lib.hubs import EcorelayKind, Hub
from scripts.bench_lib.links import UP_S, LinkedKind, await_known, free_ports
from scripts.bench_lib.loads import Meter, Pair
from scripts.bench_lib.relay_server import RelayHub, RelayServer, switch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripts.bench_lib.dialects import Ecorelay
    from scripts.bench_lib.driver import Driver
    from scripts.bench_lib.hubs import Place

IDLE_S = 8.0
PEERS = (10, 100, 1_000)
MESSAGES = (1, 50, 499)
MAILBOXES = (1, 1_000, 10_000)
LINKS = (1, 10, 50)
HUBS = (2, 100, 1_000)
RUNS = 3
"""Times each load is repeated at each size; its median counts."""


def _median(run: Callable[[], dict[str, float]]) -> dict[str, float]:
    found = [run() for _ in range(RUNS)]
    return {key: statistics.median([each[key] for each in found]) for key in found[0]}


def _cpu_each(found: dict[str, float]) -> float:
    return found["loop_us"] + found["store_us"]


def _mail(hub: Hub, seconds: float) -> dict[str, float]:
    """Latency, and throughput, of two more peers."""
    one = _median(lambda: loads.latency(full=False)(hub, seconds))
    many = _median(lambda: loads.pipelined()(hub, seconds))
    return {"p50": one["p50"], "rate": many["rate"], "cpu": _cpu_each(many)}


def peers(place: Place, seconds: float) -> Iterator[dict[str, float]]:
    """Sessions that are connected and quiet, and a broadcast to all of them."""
    with Hub(EcorelayKind(), place) as hub, hub.driver() as driver:
        for count in PEERS:
            while len(driver.connections) < count:
                driver.connect(next(hub.names()))
            time.sleep(SETTLE_S)
            found = {"rss": procfs.memory_mb(hub.pid)[0], **_mail(hub, seconds)}
            said = _median(lambda: loads.speak(driver, hub, seconds))
            yield found | {"fan": said["rate"], "fan_cpu": _cpu_each(said)}


def messages(place: Place, seconds: float) -> Iterator[dict[str, float]]:
    """Unread messages in a mailbox: one more into it, and the newest twenty out of it."""
    with Hub(EcorelayKind(), place) as hub:
        for count in MESSAGES:
            yield _median(lambda: _mailbox(hub, count, seconds))  # noqa: B023


def _mailbox(hub: Hub, count: int, seconds: float) -> dict[str, float]:
    with hub.driver() as driver:
        sender = driver.connect(next(hub.names()))
        name = next(hub.names())
        driver.disconnect(driver.connect(name, push=False))
        loads.fill(driver, sender, name, count)
        encode = driver.dialect.sender(name, loads.SMALL)
        times: list[float] = []
        for _ in range(50):
            began = time.perf_counter()
            sender.write(encode(sender.sent))
            sender.sent += 1
            driver.pump_until(lambda: sender.acked >= sender.sent)
            times.append(time.perf_counter() - began)
        reader = driver.connect(name, push=False)
        reads: list[float] = []
        for number in range(0, 60, 2):
            began = time.perf_counter()
            reader.write(driver.dialect.page(number, 20))
            page = driver.answer("inbox_page")
            reads.append(time.perf_counter() - began)
            reader.write(driver.dialect.page_not_shown(number + 1, page))
            driver.answer("done")
        driver.disconnect(sender, reader)
    return {"send": statistics.median(times) * 1e3, "page": statistics.median(reads) * 1e3}


def mailboxes(place: Place, seconds: float) -> Iterator[dict[str, float]]:
    """Addresses with a message each."""
    for count in MAILBOXES:
        kind = EcorelayKind(limits={"peers": 20_000})
        with Hub(kind, place) as hub, hub.driver() as driver:
            names = list(itertools.islice(hub.names(), count))
            sender = driver.connect("sender")
            add = _dialect(driver).adder()
            for start in range(0, count, 200):
                part = names[start : start + 200]
                sender.write(b"".join([add(name) for name in part]))
                for _ in part:
                    driver.answer("renamed")
            for name in names:
                sender.write(driver.dialect.sender(name, loads.SMALL)(sender.sent))
                sender.sent += 1
                if sender.sent - sender.acked > 200:
                    driver.pump()
            driver.pump_until(lambda: sender.acked >= sender.sent)  # noqa: B023
            driver.disconnect(sender)
            found = {"rss": procfs.memory_mb(hub.pid)[0], **_mail(hub, seconds)}
            home = hub.home
        with Hub(kind, place, home=home) as again, again.driver() as driver:
            driver.connect("first")
            found["start"] = (time.perf_counter() - again.began) * 1e3
        yield found


def _dialect(driver: Driver) -> Ecorelay:
    dialect: Ecorelay = driver.dialect  # type: ignore[assignment]
    return dialect


def links(place: Place, seconds: float) -> Iterator[dict[str, float]]:
    """A hub with links to so many others, each of them a whole one in a process of its own."""
    secret = secrets.token_hex(16)
    port, *ports = free_ports(1 + max(LINKS))
    with ExitStack() as stack:
        middle = stack.enter_context(Hub(LinkedKind("middle", port, secret, {}, None), place))
        near = stack.enter_context(middle.driver())
        others: list[Hub] = []
        for count in LINKS:
            while len(others) < count:
                name = f"hub-{len(others) + 1}"
                kind = LinkedKind(name, ports[len(others)], secret, {"middle": port}, None)
                others.append(stack.enter_context(Hub(kind, place)))
            with others[-1].driver(near) as far, others[0].driver(near) as first:
                _await_links(near, far, f"@hub-{count}", middle, others[-1])
                time.sleep(SETTLE_S * 4)
                found = {"rss": procfs.memory_mb(middle.pid)[0]}
                before, began = sum(middle.cpu_s()), time.perf_counter()
                time.sleep(IDLE_S)
                found["idle"] = (sum(middle.cpu_s()) - before) / (time.perf_counter() - began) * 100
                across = _median(lambda: _across(near, first, middle, others[0], seconds))
            yield found | across


def _await_links(near: Driver, far: Driver, at: str, middle: Hub, other: Hub) -> None:
    sender = far.connect(next(other.names()))
    to = near.connect(next(middle.names()))
    give_up = time.perf_counter() + UP_S
    while not to.got:
        if time.perf_counter() > give_up:
            raise BenchError(f"no link{at} within {UP_S:.0f} s")
        encode = far.dialect.sender(f"{to.name}@middle", loads.SMALL)
        try:
            if sender.sent == sender.acked:
                sender.write(encode(sender.sent))
                sender.sent += 1
            near.pump(0.05)
        except BenchError:  # it does not know of the other before the first link
            sender.sent = sender.acked
            time.sleep(SETTLE_S)
    far.disconnect(sender)
    near.disconnect(to)


def _across(near: Driver, far: Driver, middle: Hub, other: Hub, seconds: float) -> dict[str, float]:
    """From the hub in the middle to one of the others: one message in flight, then 200."""
    sender = near.connect(next(middle.names()))
    to = far.connect(next(other.names()))
    await_known(near, far, sender, to, "hub-1")
    encode = near.dialect.sender(f"{to.name}@hub-1", loads.SMALL)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        goal = to.got + 1
        sender.write(encode(sender.sent))
        sender.sent += 1
        near.pump_until(lambda: to.got >= goal)  # noqa: B023
        times.append(time.perf_counter() - began)
        near.pump_until(lambda: sender.acked >= sender.sent)
    sender.sent = sender.acked = to.got = 0
    pair = Pair(sender, to, encode, 200)
    meter = Meter(middle, seconds, lambda: to.got)
    while meter.running():
        pair.refill()
        near.pump()
    result = meter.result()
    near.pump_until(lambda: sender.acked >= sender.sent and to.got >= sender.sent)
    near.disconnect(sender)
    far.disconnect(to)
    return {"p50": statistics.median(times) * 1e3, "rate": result["rate"], "cpu": _cpu_each(result)}


def hubs(place: Place, seconds: float) -> Iterator[dict[str, float]]:
    """Hubs at a relay server that are nothing but sockets, and two of them that talk."""
    with RelayServer(place) as server, ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        there: list[RelayHub] = []
        pid = server.process.pid
        for count in HUBS:
            while len(there) < count:
                there.append(RelayHub(server, f"hub-{len(there)}"))
                stack.callback(there[-1].sock.close)
                selector.register(there[-1].sock, selectors.EVENT_READ, there[-1])
                if len(there) % 20 == 0:
                    _take_in(selector, 0.0)  # each hears of those that come after it
            _take_in(selector, SETTLE_S * 2)
            found = {"rss": procfs.memory_mb(pid)[0]}
            before, began = sum(procfs.cpu_seconds(pid)), time.perf_counter()
            _take_in(selector, IDLE_S)
            found["idle"] = (sum(procfs.cpu_seconds(pid)) - before) / (time.perf_counter() - began) * 100
            one, other = RelayHub(server, "one"), RelayHub(server, "other")
            stream = relay_attack.connect(one, other)
            _take_in(selector, SETTLE_S)
            found["p50"] = _median(lambda: relay_attack.to_and_fro(one, other, stream, seconds))["p50"]  # noqa: B023
            one.sock.close()
            other.sock.close()
            many = _median(lambda: switch(server, seconds, 300, lambda: _take_in(selector, SETTLE_S)))
            yield found | {"rate": many["rate"], "cpu": many["cpu_us"]}
            _take_in(selector, 0.0)


def _take_in(selector: selectors.BaseSelector, seconds: float) -> None:
    end = time.perf_counter() + seconds
    while True:
        for key, _ in selector.select(max(0.0, end - time.perf_counter())):
            key.data.read()
            while key.data.next() is not None:
                pass
        if time.perf_counter() >= end:
            return
