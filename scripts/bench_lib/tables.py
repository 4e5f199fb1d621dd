"""All tables of docs/performance.md: measured, written as Markdown, put into the page."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from scripts.bench_lib import compare, growth, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from scripts.bench_lib.catalogue import Scope
    from scripts.bench_lib.compare import Side
    from scripts.bench_lib.figures import Measured

    Measure = Callable[[str, int], Sequence[Measured]]
    """What is called so in the catalogue, so many times."""

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
RUNS = 3

LOCAL = (
    "latency",
    "latency-process",
    "one",
    "one-own",
    "one-full",
    "sixteen",
    "sixteen-own",
    "big",
    "offline",
    "fan-50",
    "fan-200",
    "page",
)
FAR = ("link-latency", "link", "link-drain", "relay-latency", "relay-link", "relay-big", "relay-small")
STARTS = ("adapter", "start", "hook", "peers", "relay-start")
IDLE = ("idle",)
PARTS: Sequence[tuple[str, Sequence[str], int]] = (
    ("One hub, beside the thinnest hub that keeps its word", LOCAL, RUNS),
    ("Between hubs, beside the same within one hub", FAR, RUNS),
    ("Starting, beside what cannot be done without", STARTS, RUNS),
    ("Doing nothing", IDLE, 1),
)


def write(
    facts: Mapping[str, object],
    measure: Measure,
    scope: Scope,
    everybody: list[Side],
    say: Callable[[str], None],
) -> str:
    """Measure everything, and give the tables."""
    began = time.perf_counter()
    parts = []
    for title, keys, runs in PARTS:
        rows = [row for key in keys for row in measure(key, runs)]
        parts.append(f"### {title}\n\n{markdown.measured(rows)}")
    compared = compare.compare(scope.place, everybody, RUNS, scope.seconds, say)
    parts.append(f"### Beside other programs\n\n{markdown.comparison(compared, everybody)}")
    grown = growth.measure(scope.place, scope.seconds / 2, say)
    parts.append(f"### What grows with what\n\n{markdown.growth(grown)}")
    machine = "\n".join(f"* {key.replace('_', ' ')}: {value}" for key, value in facts.items())
    minutes = (time.perf_counter() - began) / 60
    head = f"Measured on {time.strftime('%Y-%m-%d')}, in {minutes:.1f} minutes, on this machine:\n\n{machine}"
    return "\n\n".join([head, *parts])


def read_page(path: Path) -> Callable[[str], None]:
    """What replaces that which stands between the marks of a page. To be called before minutes of measuring.

    Raises:
        SystemExit: there is no such page, or it has no marks.
    """
    try:
        before, begin, rest = path.read_text().partition(BEGIN)
    except OSError as error:
        raise SystemExit(f"--tables: {path} cannot be read: {error.strerror}") from None
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"--tables: {path} has no place for them: write {BEGIN} and {END} in it")

    def put(tables: str) -> None:
        path.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")

    return put
