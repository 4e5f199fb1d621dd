"""Where the product's hub spends its time under a load: py-spy if it is there, else cProfile."""

from __future__ import annotations

import pstats
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from scripts.bench_lib.hubs import Hub

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from scripts.bench_lib.catalogue import Benchmark, Scope
    from scripts.bench_lib.loads import Load

LINES = 45
RATE = 500
"""Samples a second."""


def profile(chosen: Iterable[Benchmark], scope: Scope) -> int:
    """Run each load of `chosen` once at the product's hub, and print what its functions cost."""
    sampler = shutil.which("py-spy")
    with Hub(scope.ours_kind(), scope.place):
        pass  # writes the bytecode cache
    for benchmark in chosen:
        load = benchmark.load
        if load is None:
            print(f"{benchmark.key}: no load, nothing to profile\n")
            continue
        out = scope.place.directory / f"{benchmark.key}.profile"
        print(f"=== {benchmark.key}")
        if sampler:
            with Hub(scope.ours_kind(), scope.place, benchmark.durability) as hub:
                _sample(sampler, hub, out, load, scope.seconds)
            _print_samples(out)
        else:
            traced = replace(scope, wrapper=("-m", "cProfile", "-o", str(out)))
            with Hub(traced.ours_kind(), scope.place, benchmark.durability) as hub:
                load(hub, scope.seconds)
            # The event loop's thread only; every call costs extra, small functions look worse than they are.
            pstats.Stats(str(out), stream=sys.stdout).sort_stats("tottime").print_stats(LINES)
    return 0


def _sample(program: str, hub: Hub, out: Path, load: Load, seconds: float) -> None:
    options = ["--rate", str(RATE), "--format", "raw", "--output", str(out), "--threads", "--function"]
    # It ends with the hub.
    command = [program, "record", "--pid", str(hub.pid), "--duration", "unlimited", *options]
    sampling = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    load(hub, seconds)
    hub.stop()
    sampling.wait(30)


def _print_samples(path: Path) -> None:
    """Per thread: share of samples in each function itself, and in it or what it calls."""
    threads: dict[str, Counter[str]] = {}
    own: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if not frames:
            continue
        threads.setdefault(thread, Counter())["samples"] += int(count)
        own[thread, frames[-1]] += int(count)
        for frame in set(frames):
            total[thread, frame] += int(count)
    for thread, counted in threads.items():
        samples = counted["samples"]
        print(f"--- {thread}: {samples} samples\n  self %  total %")
        mine = [(hits, name) for (of, name), hits in own.items() if of == thread]
        for hits, name in sorted(mine, reverse=True)[:LINES]:
            print(f"  {hits / samples:6.1%}   {total[thread, name] / samples:6.1%}  {name}")
    print()
