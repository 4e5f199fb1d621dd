"""The loads: what is done to a hub, and what is counted. One code for both hubs.

Each load takes a running hub and a number of seconds, uses names never used before at that hub, closes
what it opened, and gives its figures by key. ``loop_us`` and ``store_us`` are the processor time that the
hub's event loop, and its other threads, spent on one message: on a busy machine they say more than the
time on the clock.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.bench_lib.driver import BenchError
from scripts.bench_lib.yardstick_store import RING

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.bench_lib.driver import Connection, Driver
    from scripts.bench_lib.hubs import Hub

    Load = Callable[[Hub, float], dict[str, float]]

SMALL = 200
BIG = 16 * 1024
WARM_UP = 0.2
"""Part of the time of a load that is not counted, at its beginning."""


def fill(driver: Driver, sender: Connection, name: str, count: int = RING) -> None:
    """Send `count` messages to a peer that is offline."""
    encode = driver.dialect.sender(name, SMALL, sender.name)
    stop = sender.sent + count
    while sender.acked < stop:
        ready = min(stop - sender.sent, 200 - (sender.sent - sender.acked))
        if ready > 0:
            sender.write(b"".join([encode(sender.sent + i) for i in range(ready)]))
            sender.sent += ready
        driver.pump()


def receiver(hub: Hub, driver: Driver, sender: Connection, *, full: bool) -> Connection:
    """A peer that takes pushes, with a mailbox that is empty, or full of mail it has not read."""
    name = next(hub.names())
    if not full:
        return driver.connect(name)
    driver.disconnect(driver.connect(name, push=False))
    fill(driver, sender, name)
    connection = driver.connect(name)
    if driver.dialect.pushes_backlog:
        driver.pump_until(lambda: connection.got >= RING)
    connection.got = 0
    return connection


def latency(*, full: bool) -> Load:
    """One message in flight: from its send to its push, and to its answer."""

    def load(hub: Hub, seconds: float) -> dict[str, float]:
        with hub.driver() as driver:
            sender = driver.connect(next(hub.names()))
            to = receiver(hub, driver, sender, full=full)
            encode = driver.dialect.sender(to.name, SMALL, sender.name)
            pushes: list[float] = []
            answers: list[float] = []
            began = time.perf_counter()
            while (sent := time.perf_counter()) < began + seconds:
                goal = to.got + 1, sender.acked + 1
                sender.write(encode(sender.sent))
                sender.sent += 1
                pushed = answered = 0.0
                while not (pushed and answered):
                    driver.pump()
                    now = time.perf_counter()
                    if not pushed and to.got >= goal[0]:
                        pushed = now - sent
                    if not answered and sender.acked >= goal[1]:
                        answered = now - sent
                if sent > began + seconds * WARM_UP:
                    pushes.append(pushed)
                    answers.append(answered)
            driver.disconnect(sender, to)
        pushes.sort()
        answers.sort()
        return {
            "p50": pushes[len(pushes) // 2] * 1e3,
            "p99": pushes[len(pushes) * 99 // 100] * 1e3,
            "answer_p50": answers[len(answers) // 2] * 1e3,
        }

    return load


@dataclass
class Pair:
    """A sender, its receiver (None: offline), and how much may be in flight between them."""

    sender: Connection
    to: Connection | None
    encode: Callable[[int], bytes]
    window: int

    def refill(self) -> None:
        """Send as much as the window takes, in one write."""
        sender = self.sender
        done = sender.acked if self.to is None else min(sender.acked, self.to.got)
        ready = self.window - (sender.sent - done)
        if ready > 0:
            encode = self.encode
            first = sender.sent
            sender.write(b"".join([encode(number) for number in range(first, first + ready)]))
            sender.sent += ready


class Meter:
    """Counts from the end of the warm-up on."""

    def __init__(self, hub: Hub, seconds: float, count: Callable[[], int]) -> None:
        self._hub = hub
        self._count = count
        now = time.perf_counter()
        self._warm = now + seconds * WARM_UP
        self._end = now + seconds
        self._start: tuple[float, int, tuple[float, float]] | None = None

    def running(self) -> bool:
        """Whether to go on."""
        now = time.perf_counter()
        if self._start is None and now >= self._warm:
            self._start = now, self._count(), self._hub.cpu_s()
        return now < self._end

    def result(self) -> dict[str, float]:
        """Messages a second, and the hub's processor time for one."""
        if self._start is None:
            raise AssertionError("the load ended before its warm-up")
        began, before, (loop, others) = self._start
        count = self._count() - before
        seconds = time.perf_counter() - began
        loop_now, others_now = self._hub.cpu_s()
        return {
            "rate": count / seconds,
            "loop_us": (loop_now - loop) / max(count, 1) * 1e6,
            "store_us": (others_now - others) / max(count, 1) * 1e6,
        }


def pipelined(*, pairs: int = 1, size: int = SMALL, window: int = 200, full: bool = False) -> Load:
    """Several senders, each to a receiver of its own, each with a window of unanswered messages."""

    def load(hub: Hub, seconds: float) -> dict[str, float]:
        with hub.driver() as driver:
            all_pairs: list[Pair] = []
            for _ in range(pairs):
                sender = driver.connect(next(hub.names()))
                to = receiver(hub, driver, sender, full=full)
                sender.sent = sender.acked = 0
                all_pairs.append(Pair(sender, to, driver.dialect.sender(to.name, size, sender.name), window))
            receivers = [pair.to for pair in all_pairs if pair.to is not None]
            meter = Meter(hub, seconds, lambda: sum([to.got for to in receivers]))
            while meter.running():
                for pair in all_pairs:
                    pair.refill()
                driver.pump()
            result = meter.result()
            driver.pump_until(lambda: all(pair.sender.acked >= pair.sender.sent for pair in all_pairs))
            driver.disconnect(*[pair.sender for pair in all_pairs], *receivers)
        return result

    return load


def offline(*, full: bool, window: int = 200) -> Load:
    """Mail for peers that are not there: in one full ring, or in empty ones one after another."""

    def load(hub: Hub, seconds: float) -> dict[str, float]:
        with hub.driver() as driver:
            sender = driver.connect(next(hub.names()))
            names = list(itertools.islice(hub.names(), 1 if full else max(4, int(20 * seconds))))
            driver.disconnect(*[driver.connect(name, push=False) for name in names])
            if full:
                fill(driver, sender, names[0])
            sender.sent = sender.acked = 0
            encoders = deque(driver.dialect.sender(name, SMALL, sender.name) for name in names)
            if full:
                pair = Pair(sender, None, encoders[0], window)
                meter = Meter(hub, seconds, lambda: sender.acked)
                while meter.running():
                    pair.refill()
                    driver.pump()
                result = meter.result()
            else:
                meter = Meter(hub, 0.0, lambda: sender.acked)
                meter.running()
                while encoders:
                    # All of a ring, then the next: no ring ever overflows.
                    goal = sender.sent + RING
                    encode = encoders.popleft()
                    while sender.sent < goal:
                        room = min(window - (sender.sent - sender.acked), goal - sender.sent)
                        if room > 0:
                            sender.write(b"".join([encode(sender.sent + i) for i in range(room)]))
                            sender.sent += room
                        if sender.sent < goal:
                            driver.pump()
                driver.pump_until(lambda: sender.acked >= sender.sent)
                result = meter.result()
            driver.pump_until(lambda: sender.acked >= sender.sent)
            driver.disconnect(sender)
        return result

    return load


def fan_out(peers: int, window: int = 16) -> Load:
    """Broadcasts to everybody, some in flight; counted are the pushes that arrive."""

    def load(hub: Hub, seconds: float) -> dict[str, float]:
        with hub.driver() as driver:
            receivers = [driver.connect(name) for name in itertools.islice(hub.names(), peers)]
            result = speak(driver, hub, seconds, window)
            driver.disconnect(*receivers)
        return result

    return load


def speak(driver: Driver, hub: Hub, seconds: float, window: int = 16) -> dict[str, float]:
    """Broadcasts to all connections of a driver."""
    receivers = list(driver.connections)
    peers = len(receivers)
    sender = driver.connect(next(hub.names()))
    encode = driver.dialect.broadcaster(SMALL, sender.name)

    def received() -> int:
        return sum([to.got for to in receivers])

    before = received()
    meter = Meter(hub, seconds, received)
    while meter.running():
        done = min(sender.acked, (received() - before) // peers)
        while sender.sent - done < window:
            sender.write(encode(sender.sent))
            sender.sent += 1
        driver.pump()
    result = meter.result()
    driver.pump_until(lambda: received() >= before + sender.sent * peers and sender.acked >= sender.sent)
    driver.disconnect(sender)
    return result


def read_page(limit: int = 100) -> Load:
    """A page of a full mailbox, again and again."""

    def load(hub: Hub, seconds: float) -> dict[str, float]:
        with hub.driver() as driver:
            sender = driver.connect(next(hub.names()))
            name = next(hub.names())
            driver.disconnect(driver.connect(name, push=False))
            fill(driver, sender, name)
            reader = driver.connect(name, push=False)
            times: list[float] = []
            began = time.perf_counter()
            number = 0
            while time.perf_counter() < began + seconds or len(times) < 3:
                number += 2
                asked = time.perf_counter()
                reader.write(driver.dialect.page(number, limit))
                page = driver.answer("inbox_page")
                times.append(time.perf_counter() - asked)
                if len(page.messages) != limit:
                    raise BenchError(f"a page of {len(page.messages)} entries, not {limit}")
                back = driver.dialect.page_not_shown(number + 1, page)
                if back:
                    reader.write(back)
                    driver.answer("done")
            driver.disconnect(sender, reader)
        times.sort()
        return {"ms": times[len(times) // 2] * 1e3}

    return load
