"""What grows with what: the same things done with few and with many peers, messages, mailboxes, links, hubs.

A figure has a line that it must not cross: by what factor it may be worse with the most than with the least,
or, for memory, how much each one more may take.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scripts.bench_lib import growth_loads
from scripts.bench_lib.driver import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripts.bench_lib.hubs import Place


@dataclass(frozen=True)
class Line:
    """One figure.

    Args:
        key: what a measurement calls it.
        title: what a person calls it.
        unit: of its values.
        factor: how many times worse it may be at the largest size than at the smallest.
        each: how much more each one more may take, in thousandths of the unit.
        bound: what it may be at the largest size.
        more: whether more is better.
    """

    key: str
    title: str
    unit: str
    factor: float | None = None
    each: float | None = None
    bound: float | None = None
    more: bool = False


@dataclass
class Growth:
    """One thing there is more and more of, and what that does to figures."""

    what: str
    sizes: tuple[int, ...]
    lines: tuple[Line, ...]
    values: dict[str, list[float]] = field(default_factory=dict)
    """By key of a figure: at each size."""
    failure: str = ""

    def verdict(self, line: Line) -> tuple[str, bool | None]:
        """What it came to, and whether that is on the right side of the line."""
        values = self.values.get(line.key, [])
        if len(values) < len(self.sizes):
            return "", None
        first, last = values[0], values[-1]
        if line.each is not None:
            per = (last - first) / (self.sizes[-1] - self.sizes[0]) * 1e3
            ok = per <= line.each
            said = f"{per:.1f} k{line.unit[1:]} each (≤ {line.each:g})"
        elif line.factor is not None:
            factor = (first / last if line.more else last / first) if first and last else 1.0
            ok = factor <= line.factor
            said = f"{factor:.2f} × worse (≤ {line.factor:g})"
        else:
            ok, said = True, ""
        if line.bound is not None:
            ok = ok and last <= line.bound
            said = ", ".join([*([said] if said else []), f"≤ {line.bound:g} {line.unit}"])
        return said, ok


_MAIL = (
    Line("p50", "send → push, p50", "ms", factor=2.0),
    Line("rate", "1 → 1", "/s", factor=1.5, more=True),
    Line("cpu", "1 → 1: CPU each", "µs", factor=1.5),
)


def _table() -> list[tuple[Growth, Callable[[Place, float], Iterator[dict[str, float]]]]]:
    return [
        (
            Growth(
                "sessions that are connected",
                growth_loads.PEERS,
                (
                    *_MAIL,
                    Line("fan", "broadcast to all of them: deliveries", "/s", factor=1.5, more=True),
                    Line("fan_cpu", "broadcast to all of them: CPU each", "µs", factor=1.5),
                    Line("rss", "hub: RSS", "MB", each=50.0),
                ),
            ),
            growth_loads.peers,
        ),
        (
            Growth(
                "unread messages in a mailbox",
                growth_loads.MESSAGES,
                (
                    Line("send", "send → answer", "ms", factor=2.0),
                    Line("page", "page of the newest 20", "ms", factor=5.0),
                ),
            ),
            growth_loads.messages,
        ),
        (
            Growth(
                "mailboxes with a message each",
                growth_loads.MAILBOXES,
                (
                    *_MAIL,
                    Line("rss", "hub: RSS", "MB", each=5.0),
                    Line("start", "hub: start → first session", "ms", bound=2_000),
                ),
            ),
            growth_loads.mailboxes,
        ),
        (
            Growth(
                "links to other hubs",
                growth_loads.LINKS,
                (
                    Line("p50", "send → push there, p50", "ms", factor=2.0),
                    Line("rate", "to one of them", "/s", factor=1.5, more=True),
                    Line("cpu", "to one of them: CPU each, here", "µs", factor=1.5),
                    Line("rss", "hub: RSS", "MB", each=1_000.0, bound=100),
                    Line("idle", "hub: idle CPU", "%", bound=1.0),
                ),
            ),
            growth_loads.links,
        ),
        (
            Growth(
                "hubs at a relay server",
                growth_loads.HUBS,
                (
                    Line("p50", "hub → relay server → hub, p50", "ms", factor=2.0),
                    Line("rate", "between two of them, 300 B", "/s", factor=1.5, more=True),
                    Line("cpu", "between two of them, 300 B: CPU each", "µs", factor=1.5),
                    Line("rss", "relay server: RSS", "MB", each=60.0),
                    Line("idle", "relay server: idle CPU", "%", bound=2.0),
                ),
            ),
            growth_loads.hubs,
        ),
    ]


def measure(place: Place, seconds: float, say: Callable[[str], None]) -> list[Growth]:
    """Measure all of it."""
    grown = []
    for growth, run in _table():
        say(f"{growth.what} ")
        try:
            for found in run(place, seconds):
                for key, value in found.items():
                    growth.values.setdefault(key, []).append(value)
                say(".")
        except (BenchError, OSError) as error:
            growth.failure = str(error)
            say(f" failed: {error}")
        say("\n")
        grown.append(growth)
    return grown
