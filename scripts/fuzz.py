"""Point the coverage-guided fuzzer atheris at the doors where foreign bytes come in.

    python scripts/fuzz.py list
    python scripts/fuzz.py TARGET... | all  [--seconds N] [--keep]

Each target runs in a process of its own for N seconds, from its seeds and its corpus in tests/fuzz/corpus.
What breaks a promise is printed, with the input in a file. `--keep` puts inputs that reach new code into the
corpus, as few and as small as do. Needs Linux or macOS, and atheris: pip install 'ecorelay[fuzz]'.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = ("ecorelay", "ecorelay_bridge", "ecorelay_relay_server", "ecorelay_adapters")
LIBRARIES: Final = ("wsproto", "h11", "tomllib", "tomlkit")
"""What stands between the bytes and us, and is Python: the fuzzer sees where they lead in it too."""
FILE_MAX: Final = 2_048
"""Bytes of one input that is kept."""
KEPT_MAX: Final = 24
"""Inputs kept for one target."""
MEMORY_MB: Final = 1_500


def main() -> int:
    """Run it; 1 if something was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="+", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each target; default 60")
    parser.add_argument("--keep", action="store_true", help="put what reaches new code into the corpus")
    parser.add_argument("--in", dest="inside", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if given.inside is not None:
        _fuzz(given.targets[0], Path(given.inside[0]), Path(given.inside[1]), given.inside[2].split())
        return 0
    try:
        import atheris  # noqa: F401 - only whether it is there
    except ImportError:
        print(
            "atheris is missing: pip install 'ecorelay[fuzz]', here: .venv/bin/pip install atheris",
            file=sys.stderr,
        )
        return 2
    from tests.fuzz.table import TARGETS

    if given.targets == ["list"]:
        print("\n".join(TARGETS))
        return 0
    names = list(TARGETS) if given.targets == ["all"] else given.targets
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target {unknown[0]}: `list` names them")
    found = [name for name in names if not _run(name, given.seconds, keep=given.keep)]
    if found:
        print(f"something was found in, or kept from running: {', '.join(found)}")
    return 1 if found else 0


# --- the process that runs the others ----------------------------------------------------------------------


def _run(name: str, seconds: int, *, keep: bool) -> bool:
    """Fuzz one target; whether it ran to its end and nothing was found."""
    with tempfile.TemporaryDirectory(prefix="ecorelay-fuzz-") as folder:
        work, found = Path(folder, "work"), Path(folder, "found")
        for each in (work, found):
            each.mkdir()
        said = _child(name, work, found, f"-max_total_time={seconds} -print_final_stats=1")
        crashes = sorted(found.iterdir())
        print(f"{name}: {_numbers(said, seconds)}", flush=True)
        for crash in crashes:
            kept = Path(tempfile.gettempdir()) / f"ecorelay-fuzz-{name}-{crash.name[:18]}"
            shutil.copyfile(crash, kept)
            print(f"  {kept}\n{_why(said)}", flush=True)
        if keep:
            _keep(name, work)
        return not crashes and _RAN in said


_RAN: Final = "stat::number_of_executed_units"


def _child(name: str, work: Path, found: Path, flags: str) -> str:
    words = [sys.executable, __file__, name, "--in", str(work), str(found), flags]
    ended = subprocess.run(words, capture_output=True, cwd=ROOT, check=False)
    return (ended.stdout + ended.stderr).decode("utf-8", "replace")


def _numbers(said: str, seconds: int) -> str:
    """Executions and coverage at the beginning and the end, from what libFuzzer said."""
    covered = [int(each) for each in re.findall(r"cov: (\d+)", said)]
    features = [int(each) for each in re.findall(r" ft: (\d+)", said)]
    executed = (
        re.findall(r"stat::number_of_executed_units:\s+(\d+)", said) or re.findall(r"#(\d+)\s", said) or ["0"]
    )
    if not covered:
        return f"did not run\n{said[-2_000:]}"
    first = re.search(r"INITED cov: (\d+) ft: (\d+)", said)
    began = (int(first[1]), int(first[2])) if first else (covered[0], features[0])
    count = int(executed[-1])
    return (
        f"{count:,} runs, {count / seconds:,.0f} a second, coverage {began[0]} -> {covered[-1]}, "
        f"features {began[1]} -> {features[-1]}"
    )


def _why(said: str) -> str:
    """The exception, as Python showed it."""
    start = said.find("=== Uncaught Python exception: ===")
    return (
        "\n".join(["    " + line for line in said[start:].splitlines()[1:40]])
        if start >= 0
        else said[-1_500:]
    )


def _keep(name: str, work: Path) -> None:
    """The fewest inputs, of the small ones, that reach what all reach: they are the corpus now."""
    from tests.fuzz.table import TARGETS
    from tests.fuzz.target import CORPUS

    target, corpus = TARGETS[name], CORPUS / name
    found = {*target.kept(), *[path.read_bytes() for path in work.iterdir()]} - set(target.seeds)
    small = sorted([data for data in found if len(data) <= FILE_MAX], key=lambda data: (len(data), data))
    left = {data: _reached(target.run, data) for data in small}
    known = frozenset[object]().union(*[_reached(target.run, data) for data in target.seeds])
    chosen: list[bytes] = []
    while left and len(chosen) < KEPT_MAX:
        best = max(left, key=lambda data: len(left[data] - known))
        if not left[best] - known:
            break
        known |= left.pop(best)
        chosen.append(best)
    shutil.rmtree(corpus, ignore_errors=True)
    for data in chosen:
        corpus.mkdir(parents=True, exist_ok=True)
        (corpus / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    print(f"  {len(chosen)} inputs kept, of {len(small)}", flush=True)


def _reached(run: Callable[[bytes], None], data: bytes) -> frozenset[object]:
    """The steps from line to line of our packages that an input leads through."""
    steps: set[object] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in PACKAGES:
            return None
        code, last = frame.f_code, 0

        def line(frame: FrameType, event: str, _: object) -> Any:
            nonlocal last
            steps.add((code, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run(data)
    except Exception:
        return frozenset()  # a failure has a test of its own, or is to be mended
    finally:
        sys.settrace(before)
    return frozenset(steps)


# --- the process of one target -----------------------------------------------------------------------------


def _fuzz(name: str, work: Path, found: Path, flags: Sequence[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=[*PACKAGES, *LIBRARIES]):
        for library in LIBRARIES:
            importlib.import_module(library)
        from tests.fuzz.table import TARGETS
    from tests.fuzz.bending import bend

    target = TARGETS[name]
    begin = (*target.seeds, *target.kept())
    for number, seed in enumerate(begin):
        (work / f"seed-{number}").write_bytes(seed)
    words = found.parent / "words"
    words.write_text("".join([f'"{_escaped(word)}"\n' for word in target.words if 0 < len(word) <= 64]))

    def mutate(data: bytes, size: int, seed: int) -> Any:
        random = Random(seed)
        if random.random() < 0.5:
            return atheris.Mutate(data, size)
        return bend(data, random, target.words, begin)[:size]

    arguments = [
        sys.argv[0],
        str(work),
        *flags,
        f"-max_len={target.longest}",
        f"-rss_limit_mb={MEMORY_MB}",
        "-timeout=20",
        f"-artifact_prefix={found}/",
        *([f"-dict={words}"] if words.stat().st_size else []),  # it does not take an empty one
    ]
    atheris.Setup(arguments, target.run, custom_mutator=mutate)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join([f"\\x{byte:02x}" for byte in word])


if __name__ == "__main__":
    sys.exit(main())
