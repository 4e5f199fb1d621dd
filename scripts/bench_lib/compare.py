"""The product beside other programs that carry messages: same machine, same load, in turn.

A ratio is the median of the ratios of neighbouring runs, so what slows the machine for a while slows both.
It says by how much ecorelay is better: above 1 it is quicker, or smaller, than the other.
"""

from __future__ import annotations

import gc
import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from scripts.bench_lib import footprint, loads
from scripts.bench_lib.driver import BenchError
from scripts.bench_lib.figures import Figure
from scripts.bench_lib.hubs import EcorelayKind, Hub
from scripts.bench_lib.rivals import NatsKind, RivalRelayKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scripts.bench_lib.hubs import Durability, Kind, Place
    from scripts.bench_lib.loads import Load
    from scripts.bench_lib.rivals import Found

SESSIONS = (0, 50, 200)

POWER, PROCESS = "ecorelay", "ecorelay, process-safe"
RELAY, NATS, NATS_SYNC, NATS_LIVE = "EcoRelay", "NATS", "NATS, sync always", "NATS, nothing kept"

ON_DISK = {
    POWER: "the message is in SQLite's write-ahead log, and the log was synced: survives a power failure",
    PROCESS: "the message is in the log, not synced: survives the end of any process, not a power failure",
    RELAY: "the recipient's mailbox file was written anew and renamed, not synced: survives the end of any "
    "process, not a power failure; a broadcast is kept nowhere",
    NATS: "the message was written to the stream's file, synced every 2 minutes: survives the end of "
    "any process; a power failure takes up to 2 minutes of acknowledged messages",
    NATS_SYNC: "the message was written to the stream's file, and the file synced: survives a power failure",
    NATS_LIVE: "nothing; who is not connected misses it",
}
"""What each has on disk when it acknowledges."""


@dataclass(frozen=True)
class Side:
    """One of those that are compared."""

    name: str
    kind: Kind | None
    """None: it cannot be had."""
    note: str
    """Its version, or why it cannot be had."""
    durability: Durability = "power"


@dataclass
class Row:
    """One figure, of all sides: the values of their runs."""

    figure: Figure
    values: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a side has no value."""

    def median(self, side: str) -> float | None:
        """Of a side's runs."""
        values = self.values.get(side)
        return statistics.median(values) if values else None

    def better(self, side: str, than: str) -> float | None:
        """By what factor `side` is better `than` the other."""
        pairs = zip(self.values.get(side, []), self.values.get(than, []), strict=False)
        more = self.figure.better == "more"
        factors = [a / b if more else b / a for a, b in pairs if a and b]
        return statistics.median(factors) if factors else None


@dataclass(frozen=True)
class Comparison:
    """One load and what it tells."""

    key: str
    figures: tuple[Figure, ...]
    load: Load
    longer: float = 1.0
    """Times the length of a load."""
    sides: tuple[str, ...] = (POWER, PROCESS, RELAY, NATS, NATS_SYNC)


def _rate(title: str) -> tuple[Figure, ...]:
    return Figure("rate", title, "/s", "more"), Figure("cpu_us", f"{title}: CPU each", "µs", "less")


COMPARISONS = (
    Comparison(
        "latency",
        (
            Figure("p50", "send → push, 200 B, p50", "ms", "less"),
            Figure("p99", "send → push, 200 B, p99", "ms", "less"),
        ),
        loads.latency(full=False),
    ),
    Comparison("one", _rate("1 → 1, 200 B, 200 in flight"), loads.pipelined()),
    Comparison(
        "sixteen", _rate("16 → 16, 200 B, 50 in flight each"), loads.pipelined(pairs=16, window=50), 2.5
    ),
    Comparison(
        "fan-50",
        _rate("broadcast to 50"),
        loads.fan_out(50),
        sides=(POWER, PROCESS, RELAY, NATS, NATS_SYNC, NATS_LIVE),
    ),
    Comparison(
        "fan-200",
        _rate("broadcast to 200"),
        loads.fan_out(200),
        sides=(POWER, PROCESS, RELAY, NATS, NATS_SYNC, NATS_LIVE),
    ),
)


def sides(found: Found) -> list[Side]:
    """Everything that is compared, and what cannot be."""
    relay = RivalRelayKind(found.relay, found.bun) if found.relay else None
    nats = [
        NatsKind(found.nats, always=always, kept=kept) if found.nats else None
        for always, kept in ((False, True), (True, True), (False, False))
    ]
    return [
        Side(POWER, EcorelayKind(), "this checkout, durability = power (the default)"),
        Side(PROCESS, EcorelayKind(), "this checkout, durability = process", "process"),
        Side(RELAY, relay, found.relay_version),
        *[
            Side(name, kind, found.nats_version)
            for name, kind in zip((NATS, NATS_SYNC, NATS_LIVE), nats, strict=True)
        ],
    ]


def compare(
    place: Place, everybody: list[Side], runs: int, seconds: float, say: Callable[[str], None]
) -> list[Row]:
    """Measure all; what a side cannot do or fails at is a reason in the row."""
    rows: list[Row] = []
    for each in COMPARISONS:
        say(f"{each.key} ")
        taking_part = [side for side in everybody if side.name in each.sides]
        with ExitStack() as stack:
            jobs: dict[str, Callable[[], dict[str, float]]] = {}
            reasons = _absent(taking_part)
            for side in taking_part:
                if side.kind is None:
                    continue
                try:
                    hub = stack.enter_context(Hub(side.kind, place, side.durability))
                except (BenchError, OSError) as error:
                    reasons[side.name] = str(error)
                    continue
                length = seconds * each.longer
                jobs[side.name] = partial(_run, each.load, hub, length)
            rows += _alternate(each.figures, jobs, reasons, runs, say)
    say("idle ")
    memory = [Figure(f"rss_{count}", f"RSS, {count} idle sessions", "MB", "less") for count in SESSIONS]
    rows += _alternate(
        memory,
        {
            side.name: lambda kind=side.kind: footprint.hub_idle(kind, place, SESSIONS, -1, 0.0)  # type: ignore[misc]
            for side in everybody
            if side.kind is not None and side.name not in (PROCESS, NATS_SYNC, NATS_LIVE)
        },
        _absent(everybody),
        runs,
        say,
    )
    say("start ")
    rows += _alternate(
        [Figure("ms", "start in an empty directory → first session", "ms", "less")],
        {
            side.name: lambda kind=side.kind: footprint.hub_start(kind, place)  # type: ignore[misc]
            for side in everybody
            if side.kind is not None and side.name not in (PROCESS, NATS_SYNC, NATS_LIVE)
        },
        _absent(everybody),
        runs,
        say,
    )
    say("adapter ")
    rows += _adapters(place, everybody, runs, say)
    return rows


def _adapters(place: Place, everybody: list[Side], runs: int, say: Callable[[str], None]) -> list[Row]:
    reasons = _absent(everybody) | dict.fromkeys((NATS, NATS_SYNC, NATS_LIVE), "has none")
    with ExitStack() as stack:
        jobs: dict[str, Callable[[], dict[str, float]]] = {}
        for side in everybody:
            if side.name not in (POWER, RELAY) or side.kind is None:
                continue
            hub = stack.enter_context(Hub(side.kind, place))
            jobs[side.name] = lambda hub=hub: footprint.adapter_of(place, hub)  # type: ignore[misc]
        figures = (
            Figure("ms", "adapter: spawn → tools/list", "ms", "less"),
            Figure("rss", "adapter: RSS", "MB", "less"),
        )
        return _alternate(figures, jobs, reasons, runs + 1, say, skip=1)


def _absent(everybody: Iterable[Side]) -> dict[str, str]:
    return {side.name: side.note for side in everybody if side.kind is None}


def _run(load: Load, hub: Hub, seconds: float) -> dict[str, float]:
    found = load(hub, seconds)
    if "loop_us" in found:
        found["cpu_us"] = found["loop_us"] + found["store_us"]
    return found


def _alternate(
    figures: Iterable[Figure],
    jobs: dict[str, Callable[[], dict[str, float]]],
    reasons: dict[str, str],
    runs: int,
    say: Callable[[str], None],
    skip: int = 0,
) -> list[Row]:
    """Run all in turn; the first `skip` rounds only fill caches."""
    rows = [Row(figure, reasons=dict(reasons)) for figure in figures]
    for number in range(runs):
        for name in list(jobs):
            gc.collect()
            gc.disable()
            try:
                found = jobs[name]()
            except (BenchError, OSError) as error:
                del jobs[name]
                for row in rows:
                    row.reasons[name] = str(error)
                say(f"[{name}: {error}]")
                continue
            finally:
                gc.enable()
            for row in rows:
                if number >= skip and row.figure.key in found:
                    row.values.setdefault(name, []).append(found[row.figure.key])
            say(".")
    say("\n")
    return rows
