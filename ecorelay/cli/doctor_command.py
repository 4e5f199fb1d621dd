"""``ecorelay doctor``: look for the usual troubles, and say what to do about each."""

from __future__ import annotations

from typing import Final

import trio
import typer

from ecorelay.cli import doctor_checks, exits, install_commands, screen, session, words
from ecorelay_adapters.clients.assistant import Finding, Level

commands = typer.Typer(**words.TYPER)

_STYLES: Final[dict[Level, str]] = {"ok": "green", "warn": "yellow", "fail": "red"}


@commands.command("doctor", **words.with_example("ecorelay doctor", "ecorelay doctor --json"))
def doctor(as_json: words.Json = False) -> None:
    """Find out what is wrong, and what to do about it. Exits with 0 when nothing failed.

    It starts the hub if none runs, and runs exactly what your assistants were told to run.
    """
    session.run(lambda: _doctor(as_json))


async def _doctor(as_json: bool) -> int:
    machine = await trio.to_thread.run_sync(install_commands.machine_of)
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            screen.out(_shown(finding))

    await doctor_checks.examine(machine, tell)
    failed = sum(finding.level == "fail" for finding in found)
    warned = sum(finding.level == "warn" for finding in found)
    if as_json:
        screen.out_json(
            ok=not failed,
            checks=[
                {"check": each.check, "level": each.level, "says": each.says, "remedy": each.remedy}
                for each in found
            ],
        )
    elif failed or warned:
        screen.say(f"{failed} failed, {warned} to look at, of {len(found)} checks")
    else:
        screen.say(f"all {len(found)} checks are well")
    return exits.REFUSED if failed else exits.OK


def _shown(finding: Finding) -> str:
    level = screen.styled(finding.level.ljust(4), _STYLES[finding.level])
    first, *more = finding.says.splitlines() or [""]
    lines = [f"{level}  {screen.line(finding.check)}: {screen.line(first)}"]
    lines += [f"        {screen.line(line)}" for line in more]
    arrow = screen.symbol("→", "->")
    if finding.remedy and finding.level != "ok":
        lines.append(f"      {arrow} {screen.line(finding.remedy)}")
    return "".join(f"{line}\n" for line in lines)
