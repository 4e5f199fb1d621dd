"""Arguments of ``scripts/soak.py``, its report, and what is kept when it found something."""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from scripts.soak_lib import report
from scripts.soak_lib.judge import judged
from scripts.soak_lib.ledger import read
from scripts.soak_lib.planting import PLANTS
from scripts.soak_lib.run import Settings, Soak

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.soak_lib.judge import Finding

HISTORIES: Final = 12
"""So many messages get a file with all that is known of them; the ledger has the rest."""


def main(words: Sequence[str]) -> int:
    """Run a soak: 0 if every promise held, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="soak.py",
        description="Hubs, a relay server and many peers, all of them processes, under load and faults; "
        "an independent ledger judges what they promised.",
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="of what is said and what breaks; chosen if left out")
    parser.add_argument("--peers", type=int, default=50, help="at least 6; a quarter of them are adapters")
    parser.add_argument("--faults-every", type=float, default=4.0, metavar="S", help="in the mean")
    parser.add_argument("--check-every", type=float, default=5.0, metavar="MIN", help="all must be there")
    parser.add_argument("--phase", type=float, default=10.0, metavar="MIN", help="without kills, with kills")
    parser.add_argument("--cpu", type=float, default=0.5, help="processors to use; the pace follows")
    parser.add_argument("--settle", type=float, default=60.0, metavar="S", help="after which it is lost")
    parser.add_argument("--report", type=Path, metavar="FILE", help="Markdown; a .json is written beside it")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="where everything goes if something was found"
    )
    parser.add_argument(
        "--plant", choices=PLANTS, default="", help="break a promise, to see that it is noticed"
    )
    parser.add_argument("--judge", type=Path, metavar="LEDGER", help="run nothing, judge that file once more")
    given = parser.parse_args(words)
    if given.judge:
        return _judge_again(given.judge)
    if given.peers < 6:
        parser.error("--peers must be 6 or more")
    settings = Settings(
        minutes=given.minutes,
        seed=random.randrange(10**6) if given.seed is None else given.seed,
        peers=given.peers,
        every_s=given.faults_every,
        check_min=given.check_every,
        phase_min=given.phase,
        cpu=given.cpu,
        settle_s=given.settle,
        plant=given.plant,
    )
    print(f"seed {settings.seed}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(settings, root)
    whole = False
    try:
        trio.run(soak.run)
        whole = True
    finally:
        found = report.table(soak)
        if given.report:
            given.report.write_text(report.markdown(found))
            given.report.with_suffix(".json").write_text(report.as_json(found))
        bad = soak.judge.findings
        if bad or not whole:
            kept = _keep(soak, given.keep)
            print(f"all of it is in {kept}", flush=True)
        shutil.rmtree(root, ignore_errors=True)
    print(report.markdown(found))
    return 1 if bad else 0


def _judge_again(path: Path) -> int:
    judge = judged(read(path))
    for finding in judge.findings:
        print(f"{finding.what}, message {finding.n}: {finding.detail}")
    print(
        f"{judge.counts['Acked']} acknowledged, {judge.counts['Shown']} shown, {len(judge.findings)} findings"
    )
    return 1 if judge.findings else 0


def _keep(soak: Soak, to: Path | None) -> Path:
    """Everything there is, and for each message something is wrong with what is known of it."""
    to = to or Path(tempfile.mkdtemp(prefix="soak-found-"))
    shutil.copytree(soak.root, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "start.lock"))
    for hub in soak.place.hubs.values():
        # `trace` starts a hub, which is to look at its file, and go: a link would keep it.
        (hub.home / "bridge.json").unlink(missing_ok=True)
    for finding in soak.judge.findings[:HISTORIES]:
        if finding.n >= 0:
            _history(soak, finding, to / "messages")
    return to


def _history(soak: Soak, finding: Finding, directory: Path) -> None:
    """A file about a message: what is wrong, its events, what `trace` says, every line of a log about it."""
    directory.mkdir(exist_ok=True)
    message = soak.judge.messages.get(finding.n)
    msg_id = message.msg_id if message else ""
    lines = [f"{finding.what}: {finding.detail}", f"message {finding.n}, id {msg_id}", "", "## ledger", ""]
    for event in read(soak.ledger.path):
        if getattr(event, "n", None) == finding.n or finding.n in getattr(event, "ns", ()):
            lines.append(repr(event))
    lines += ["", "## said while it ran", "", *soak.quiet.traces.get(finding.n, [])]
    if msg_id:
        for hub in soak.place.hubs.values():
            lines += ["", f"## ecorelay trace, at {hub.hub_id}", "", _trace(hub.environ, msg_id)]
        lines += ["", "## logs", ""]
        for log in sorted(soak.root.glob("*/home/*.log*")):
            text = log.read_text(errors="replace")
            lines += [f"{log.relative_to(soak.root)}: {line}" for line in text.splitlines() if msg_id in line]
    (directory / f"{finding.n}.txt").write_text("\n".join(lines) + "\n")


def _trace(environ: dict[str, str], msg_id: str) -> str:
    """The command line's word: it starts a hub for that, which leaves by itself."""
    command = [sys.executable, "-P", "-m", "ecorelay", "trace", msg_id]
    ended = subprocess.run(
        command, env=environ | {"ECORELAY_IDLE_EXIT_S": "0.5"}, capture_output=True, timeout=60, check=False
    )
    return (ended.stdout + ended.stderr).decode(errors="replace")
