"""Every benchmark with its figures and gates: the table in the order in which it is printed."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from scripts.bench_lib import footprint, hostile, links, loads, relay_attack, relay_server
from scripts.bench_lib.figures import Figure
from scripts.bench_lib.hubs import Durability, EcorelayKind, Hub, YardstickKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from scripts.bench_lib.hubs import Kind, Place
    from scripts.bench_lib.loads import Load

    Run = Callable[[], dict[str, float]]
    Sides = tuple[Run | None, Run | None]
    """How to measure once: the product, and what it is compared with."""


@dataclass(frozen=True)
class Scope:
    """What a run of the benchmarks covers.

    Args:
        place: where the hubs live.
        ours: whether to measure the product.
        theirs: whether to measure the yardstick.
        seconds: length of one load.
        wrapper: see `EcorelayKind`.
    """

    place: Place
    ours: bool = True
    theirs: bool = True
    seconds: float = 1.5
    wrapper: tuple[str, ...] = ()

    def ours_kind(self) -> Kind:
        """The product."""
        return EcorelayKind(self.wrapper)

    def kinds(self, *, own_store: bool = False) -> tuple[Kind | None, Kind | None]:
        """The product and the yardstick, as far as they are measured. `own_store`: see `YardstickKind`."""
        yardstick = YardstickKind(own_store=own_store) if self.theirs else None
        return self.ours_kind() if self.ours else None, yardstick


@dataclass(frozen=True)
class Benchmark:
    """One thing that is done, and the figures it gives."""

    key: str
    figures: tuple[Figure, ...]
    load: Load | None = None
    """Done to running hubs; None: `special` is done instead."""
    durability: Durability = "power"
    special: Callable[[Scope], AbstractContextManager[Sides]] | None = None
    own_store: bool = False
    """Whether the yardstick has ecorelay's own store under it."""

    @contextmanager
    def open(self, scope: Scope) -> Iterator[Sides]:
        """Start what is needed; in the block it can be measured again and again."""
        if self.load is None:
            if self.special is None:
                raise AssertionError(f"{self.key} does nothing")
            with self.special(scope) as sides:
                yield sides
            return
        load = self.load
        with ExitStack() as hubs:

            def side(kind: Kind | None) -> Run | None:
                if kind is None:
                    return None
                hub = hubs.enter_context(Hub(kind, scope.place, self.durability))
                return lambda: load(hub, scope.seconds)

            ours, theirs = scope.kinds(own_store=self.own_store)
            yield side(ours), side(theirs)


@contextmanager
def _adapter(scope: Scope) -> Iterator[Sides]:
    place = scope.place
    if scope.ours:
        with Hub(EcorelayKind(), place) as hub:
            footprint.adapter(place, hub.home)  # writes the bytecode cache
            footprint.bare_imports(place, hub.home)
            yield lambda: footprint.adapter(place, hub.home), lambda: footprint.bare_imports(place, hub.home)
    else:
        home = place.new_home()
        footprint.bare_imports(place, home)
        yield None, lambda: footprint.bare_imports(place, home)


@contextmanager
def _start(scope: Scope) -> Iterator[Sides]:
    place = scope.place
    home = place.new_home()
    footprint.bare_imports(place, home)
    if scope.ours:
        kind = EcorelayKind()
        footprint.hub_start(kind, place)
        yield lambda: footprint.hub_start(kind, place), lambda: footprint.bare_imports(place, home)
    else:
        yield None, lambda: footprint.bare_imports(place, home)


@contextmanager
def _hook(scope: Scope, *, stuck: bool = False) -> Iterator[Sides]:
    place = scope.place
    with Hub(EcorelayKind(), place) as hub, footprint.adapter_beside(place, hub.home):
        pid = hub.pid if stuck else 0
        footprint.hook(place, hub.home)
        yield (
            (lambda: footprint.hook(place, hub.home, stuck=pid)) if scope.ours else None,
            lambda: footprint.bare_python(place, hub.home),
        )


@contextmanager
def _peers(scope: Scope) -> Iterator[Sides]:
    place = scope.place
    with Hub(EcorelayKind(), place) as hub:
        footprint.peers(place, hub.home)
        yield (lambda: footprint.peers(place, hub.home)) if scope.ours else None, None


@contextmanager
def _link(scope: Scope, what: str, *, relayed: bool = False) -> Iterator[Sides]:
    """Across a link, and the same inside one hub."""
    pair = links.Pairing(scope.place, relayed=relayed)
    try:
        with Hub(EcorelayKind(), scope.place) as hub:
            seconds = scope.seconds
            local = {
                "latency": lambda: loads.latency(full=False)(hub, seconds),
                "rate": lambda: loads.pipelined()(hub, seconds),
                "big": lambda: loads.pipelined(size=loads.BIG, window=32)(hub, seconds),
                "rooms": None,
                "drain": None,
            }[what]
            across: dict[str, Run] = {
                "latency": lambda: pair.latency(seconds),
                "rate": lambda: pair.pipelined(seconds, loads.SMALL, 200),
                "big": lambda: pair.pipelined(seconds, loads.BIG, 64),
                "rooms": lambda: pair.rooms(seconds, 400),
                "drain": pair.drain,
            }
            yield across[what] if scope.ours else None, local if scope.theirs else None
    finally:
        pair.stop()


RELAY_HUBS = 1_000


@contextmanager
def _relay_server(scope: Scope, what: str) -> Iterator[Sides]:
    """The relay server alone, between hubs that are nothing but sockets."""
    place = scope.place
    if what == "start":
        relay_server.start(place)  # writes the bytecode cache
    runs: dict[str, Run] = {
        "start": lambda: relay_server.start(place),
        "idle": lambda: relay_server.idle(place, RELAY_HUBS, max(20.0, scope.seconds * 4)),
        "big": lambda: relay_server.switched(place, scope.seconds * 2, 65_536),
        "small": lambda: relay_server.switched(place, scope.seconds * 2, 300),
    }
    imports = (lambda: relay_server.bare_imports(place)) if what == "start" and scope.theirs else None
    yield runs[what] if scope.ours else None, imports


@contextmanager
def _relay_bystanders(scope: Scope, kind: str) -> Iterator[Sides]:
    """Two hubs at a relay server that others attack, and at one that is left alone."""

    def run(kind: str) -> dict[str, float]:
        return relay_attack.bystanders(scope.place, scope.seconds * 2, kind)

    yield (lambda: run(kind)) if scope.ours else None, (lambda: run("")) if scope.theirs else None


SESSIONS = (0, 50, 200, 1000)


@contextmanager
def _idle(scope: Scope) -> Iterator[Sides]:
    def run(kind: Kind) -> dict[str, float]:
        return footprint.hub_idle(kind, scope.place, SESSIONS, 200, max(2.0, scope.seconds * 4))

    ours, theirs = scope.kinds()
    yield (lambda: run(ours)) if ours else None, (lambda: run(theirs)) if theirs else None


def _rates(title: str, *, ratio: float | None, bound: float | None) -> tuple[Figure, ...]:
    return (
        Figure("rate", title, "/s", "more", ratio, bound),
        Figure("loop_us", f"{title}: CPU each, loop", "µs", "less"),
        Figure("store_us", f"{title}: CPU each, store", "µs", "less"),
    )


def _latency(title: str, ratio: float | None) -> tuple[Figure, ...]:
    return (
        Figure("p50", f"{title} p50", "ms", "less", ratio),
        Figure("p99", f"{title} p99", "ms", "less"),
        Figure("answer_p50", f"{title}: send → answer p50", "ms", "less"),
    )


def _bystanders(attack: str, ratio: float | None = 3.0) -> tuple[Figure, ...]:
    title = f"send → push, {attack} (vs. alone)"
    return (
        Figure("p50", f"{title} p50", "ms", "less"),
        Figure("p99", f"{title} p99", "ms", "less", ratio),
        Figure("grown", f"hub, {attack}: grows by", "MB", "less", None, 32.0),
    )


def _memory() -> tuple[Figure, ...]:
    bounds = {0: 40.0, 200: 50.0}
    return tuple(
        Figure(f"{kind}_{count}", f"hub, {count} sessions: {kind.upper()}", "MB", "less", None, bound)
        for count in SESSIONS
        for kind, bound in (("rss", bounds.get(count)), ("pss", None))
    )


ALL: tuple[Benchmark, ...] = (
    Benchmark("latency", _latency("send → push, 200 B", 2.0), loads.latency(full=False)),
    Benchmark("latency-full", _latency("send → push, 200 B, full", 2.0), loads.latency(full=True)),
    Benchmark(
        "latency-process",
        _latency("send → push, 200 B, process-safe", 2.0),
        loads.latency(full=False),
        "process",
    ),
    Benchmark("one", _rates("1 → 1, 200 B", ratio=0.7, bound=12_000), loads.pipelined()),
    Benchmark(
        "one-own",
        _rates("1 → 1, 200 B (vs. thin hub, own store)", ratio=0.7, bound=12_000),
        loads.pipelined(),
        own_store=True,
    ),
    Benchmark("one-full", _rates("1 → 1, 200 B, full", ratio=0.5, bound=12_000), loads.pipelined(full=True)),
    Benchmark(
        "one-process",
        _rates("1 → 1, 200 B, process-safe", ratio=0.5, bound=12_000),
        loads.pipelined(),
        "process",
    ),
    Benchmark(
        "sixteen",
        _rates("16 → 16, 200 B", ratio=0.7, bound=15_000),
        loads.pipelined(pairs=16, window=50),
    ),
    Benchmark(
        "sixteen-own",
        _rates("16 → 16, 200 B (vs. thin hub, own store)", ratio=0.7, bound=15_000),
        loads.pipelined(pairs=16, window=50),
        own_store=True,
    ),
    Benchmark(
        "sixteen-full",
        _rates("16 → 16, 200 B, full", ratio=0.5, bound=15_000),
        loads.pipelined(pairs=16, window=50, full=True),
    ),
    Benchmark(
        "big",
        _rates("1 → 1, 16 KiB", ratio=None, bound=2_000),
        loads.pipelined(size=loads.BIG, window=32),
    ),
    Benchmark(
        "offline", _rates("to an offline peer, 200 B", ratio=0.5, bound=12_000), loads.offline(full=False)
    ),
    Benchmark(
        "offline-full",
        _rates("to an offline peer, 200 B, full", ratio=0.5, bound=12_000),
        loads.offline(full=True),
    ),
    Benchmark("fan-50", _rates("broadcast to 50", ratio=None, bound=144_000), loads.fan_out(50)),
    Benchmark("fan-200", _rates("broadcast to 200", ratio=None, bound=214_000), loads.fan_out(200)),
    Benchmark(
        "page",
        (Figure("ms", "page of 100 of a full mailbox", "ms", "less", None, 5.0),),
        loads.read_page(),
    ),
    Benchmark(
        "adapter",
        (
            Figure("ms", "adapter: spawn → tools/list (vs. imports)", "ms", "less", 1.25),
            Figure("rss", "adapter: RSS (vs. imports)", "MB", "less", None, 30.0, 4.0),
            Figure("pss", "adapter: PSS (vs. imports)", "MB", "less"),
        ),
        special=_adapter,
    ),
    Benchmark(
        "start", (Figure("ms", "hub: start → first answer (vs. imports)", "ms", "less", 1.6),), special=_start
    ),
    Benchmark(
        "hook",
        (Figure("ms", "hook, nothing waits (vs. bare python)", "ms", "less", 3.0, 60.0),),
        special=_hook,
    ),
    Benchmark(
        "hook-stuck",
        (Figure("ms", "hook, hub stopped (vs. bare python)", "ms", "less", None, 60.0),),
        special=partial(_hook, stuck=True),
    ),
    Benchmark(
        "link-latency",
        (
            Figure("p50", "send → push on another hub, 200 B p50 (vs. one hub)", "ms", "less", None, 3.0),
            Figure("p99", "send → push on another hub, 200 B p99 (vs. one hub)", "ms", "less"),
        ),
        special=partial(_link, what="latency"),
    ),
    Benchmark(
        "link",
        (Figure("rate", "to another hub, 200 B (vs. one hub)", "/s", "more", 0.5, 6_000),),
        special=partial(_link, what="rate"),
    ),
    Benchmark(
        "link-big",
        (Figure("rate", "to another hub, 16 KiB (vs. one hub)", "/s", "more", None, 800),),
        special=partial(_link, what="big"),
    ),
    Benchmark(
        "link-drain",
        (Figure("s", "10,000 that waited for a hub: link and last push", "s", "less", None, 2.0),),
        special=partial(_link, what="drain"),
    ),
    Benchmark(
        "relay-latency",
        (
            Figure("p50", "send → push over a relay, 200 B p50 (vs. one hub)", "ms", "less", None, 5.0),
            Figure("p99", "send → push over a relay, 200 B p99 (vs. one hub)", "ms", "less"),
        ),
        special=partial(_link, what="latency", relayed=True),
    ),
    Benchmark(
        "relay-link",
        (Figure("rate", "over a relay, 200 B (vs. one hub)", "/s", "more", 0.5),),
        special=partial(_link, what="rate", relayed=True),
    ),
    Benchmark(
        "relay-link-big",
        (Figure("rate", "over a relay, 16 KiB (vs. one hub)", "/s", "more"),),
        special=partial(_link, what="big", relayed=True),
    ),
    Benchmark(
        "link-rooms",
        (Figure("rate", "in a room, to another hub, 200 B", "/s", "more"),),
        special=partial(_link, what="rooms"),
    ),
    Benchmark(
        "relay-rooms",
        (Figure("rate", "in a room, over a relay, 200 B", "/s", "more"),),
        special=partial(_link, what="rooms", relayed=True),
    ),
    Benchmark(
        "relay-start",
        (Figure("ms", "relay server: start → takes hubs (vs. imports)", "ms", "less", 1.6),),
        special=partial(_relay_server, what="start"),
    ),
    Benchmark(
        "relay-idle",
        (
            Figure("rss_0", "relay server, no hub: RSS", "MB", "less"),
            Figure("rss", "relay server, 1,000 hubs: RSS", "MB", "less", None, 80.0),
            Figure("cpu", "relay server, 1,000 hubs: idle CPU", "%", "less", None, 2.0),
            Figure("joined_s", "relay server: 1,000 hubs come, one by one", "s", "less"),
        ),
        special=partial(_relay_server, what="idle"),
    ),
    Benchmark(
        "relay-big",
        (
            Figure("mb", "relay server, one pair, 64 KiB", "MB/s", "more", None, 50.0),
            Figure("cpu_us", "relay server, one pair, 64 KiB: CPU each", "µs", "less"),
        ),
        special=partial(_relay_server, what="big"),
    ),
    Benchmark(
        "relay-small",
        (
            Figure("rate", "relay server, one pair, 300 B", "/s", "more"),
            Figure("cpu_us", "relay server, one pair, 300 B: CPU each", "µs", "less"),
        ),
        special=partial(_relay_server, what="small"),
    ),
    *[
        Benchmark(
            f"relay-{kind}",
            (
                Figure("p50", f"hub → relay server → hub, {attack} (vs. alone) p50", "ms", "less"),
                Figure("p99", f"hub → relay server → hub, {attack} (vs. alone) p99", "ms", "less"),
                Figure("grown", f"relay server, {attack}: grows by", "MB", "less", None, 128.0),
            ),
            special=partial(_relay_bystanders, kind=kind),
        )
        for kind, attack in (
            ("junk", "3 flood dead streams"),
            ("deaf", "3 flood hubs that read nothing"),
            ("silent", "a flood of connections"),
        )
    ],
    Benchmark("peers", (Figure("ms", "ecorelay peers", "ms", "less", None, 500.0),), special=_peers),
    Benchmark(
        "idle",
        (*_memory(), Figure("cpu", "hub, 200 sessions: idle CPU", "%", "less", None, 0.2)),
        special=_idle,
    ),
    Benchmark(
        "hostile-reader",
        _bystanders("100 MB for one that reads nothing"),
        special=hostile.bystanders(hostile.slow_reader),
    ),
    Benchmark(
        "hostile-silent",
        _bystanders("500 silent connections"),
        special=hostile.bystanders(hostile.silent_connections),
    ),
    Benchmark(
        "hostile-garbage",
        _bystanders("flood of garbage"),
        special=hostile.bystanders(hostile.flood(hostile.GARBAGE)),
    ),
    Benchmark(
        "hostile-requests",
        _bystanders("flood of requests"),
        special=hostile.bystanders(hostile.flood(hostile.REQUESTS)),
    ),
    Benchmark(
        "hostile-churn",
        _bystanders("sessions that come and go", ratio=None),
        special=hostile.bystanders(hostile.flood(b"")),
    ),
)
