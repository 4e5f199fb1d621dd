"""``ecorelay doctor``: look for the usual troubles, and say what to do about each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Final

import trio
import typer

from ecorelay.cli import (
    doctor_checks,
    doctor_probe,
    doctor_table,
    exits,
    install_commands,
    screen,
    session,
    words,
)
from ecorelay.errors import RelayError
from ecorelay_adapters.clients.assistant import Finding, Level

commands = typer.Typer(**words.TYPER)

_STYLES: Final[dict[Level, str]] = {"ok": "green", "warn": "yellow", "fail": "red"}


@commands.command(
    "doctor", **words.with_example("ecorelay doctor", "ecorelay doctor --probe", "ecorelay doctor --json")
)
def doctor(
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Also try the way of mail into each live session, without a turn of its model."
        ),
    ] = False,
    as_json: words.Json = False,
) -> None:
    """Find out what is wrong, and what to do about it. Exits with 0 when nothing failed.

    It starts the hub if none runs, and runs exactly what your assistants were told to run. At the end stands
    what it knows of each assistant: MAIL BY is how a message gets into its live sessions (pull: they have to
    look by themselves), PROVED when one was last seen to reach a model.
    """
    session.run(lambda: _doctor(probe, as_json))


async def _doctor(wants_probe: bool, as_json: bool) -> int:
    machine = await trio.to_thread.run_sync(install_commands.machine_of)
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            screen.out(_shown(finding))

    examined = await doctor_checks.examine(machine, tell)
    results: doctor_probe.Results = {}
    if wants_probe:
        try:
            results = await doctor_probe.probe(examined.live or ())
        except RelayError as error:
            remedy = "ecorelay hub status; then try again"
            tell(Finding(check="probe", level="fail", says=error.message, remedy=remedy))
    failed = sum(finding.level == "fail" for finding in found)
    stopped = doctor_probe.failed(results)
    if as_json:
        screen.out_json(
            ok=not failed and not stopped,
            checks=[
                {"check": each.check, "level": each.level, "says": each.says, "remedy": each.remedy}
                for each in found
            ],
            assistants=list(doctor_table.fields(examined)),
            sessions=list(doctor_probe.fields(examined, results)),
        )
    else:
        _conclude(examined, results, found, probed=wants_probe)
    return exits.REFUSED if failed or stopped else exits.OK


def _conclude(
    examined: doctor_checks.Examined,
    results: doctor_probe.Results,
    found: Sequence[Finding],
    *,
    probed: bool,
) -> None:
    now_ms = time.time_ns() // 1_000_000
    for part in (doctor_table.shown(examined, now_ms), doctor_probe.shown(examined, results, now_ms)):
        if part:
            screen.out(f"\n{part}")
    failed = sum(finding.level == "fail" for finding in found)
    warned = sum(finding.level == "warn" for finding in found)
    if failed or warned:
        screen.say(f"{failed} failed, {warned} to look at, of {len(found)} checks")
    else:
        screen.say(f"all {len(found)} checks are well")
    if probed:
        screen.say(doctor_probe.summary(results))


def _shown(finding: Finding) -> str:
    level = screen.styled(finding.level.ljust(4), _STYLES[finding.level])
    first, *more = finding.says.splitlines() or [""]
    lines = [f"{level}  {screen.line(finding.check)}: {screen.line(first)}"]
    lines += [f"        {screen.line(line)}" for line in more]
    arrow = screen.symbol("→", "->")
    if finding.remedy and finding.level != "ok":
        lines.append(f"      {arrow} {screen.line(finding.remedy)}")
    return "".join(f"{line}\n" for line in lines)
