"""Whole hubs under random loads and faults, on a clock that jumps: for people.

python -m tests.sim --seeds 300 --from 0        many runs
python -m tests.sim --from 4711 --verbose       one, with what was done
"""

from __future__ import annotations

import argparse
import os
import sys
import time

LENGTH = 40


def main() -> int:
    """Run the seeds; 1 if one fails, with the shortest history that does."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many (default: %(default)s)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--length", type=int, default=LENGTH, help="steps of a history (%(default)s)")
    parser.add_argument("--verbose", action="store_true", help="tell the history of each run")
    parser.add_argument("--traces", action="store_true", help="tell a hash of all that was said in each run")
    parser.add_argument("--whole", action="store_true", help="do not look for the shortest history")
    parser.add_argument("--keep-going", action="store_true", help="do not end with the first that fails")
    options = parser.parse_args()
    from tests.sim.outcome import outcome
    from tests.sim.shrink import shrink
    from tests.sim.steps import make_history

    began, failed = time.process_time(), 0
    for seed in range(options.first, options.first + options.seeds):
        steps = make_history(seed, options.length)
        result = outcome(seed, steps)
        if options.traces:
            print(seed, result.trace)
        if result.error is not None:
            failed += 1
            print(f"seed {seed} fails: {type(result.error).__name__}: {result.error}", flush=True)
            if not options.whole:
                steps = shrink(seed, steps)
                result = outcome(seed, steps)
                print(f"with these steps, of {options.length}: {result.error}\n{steps}")
        if options.verbose or (result.error is not None and not options.whole):
            print("\n".join(result.log), flush=True)
        if result.error is not None and not options.keep_going:
            print(f"replay: python -m tests.sim --from {seed} --length {options.length} --verbose --whole")
            break
    if not options.traces:
        seconds = time.process_time() - began
        print(f"{options.seeds} seeds from {options.first}: {failed} failed, {seconds:.1f} s of CPU")
    return 1 if failed else 0


if __name__ == "__main__":
    # Some order in the product hangs on the hashes of strings: they are to be the same in every process.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.sim", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
