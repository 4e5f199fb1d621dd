"""``ecorelay install`` and ``uninstall``: assistants are told of ecorelay, and all of it is taken back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from ecorelay import __version__
from ecorelay.cli import exits, removal, screen, session, words
from ecorelay.cli.doctor_assistant import say_looking
from ecorelay.errors import RelayError
from ecorelay_adapters.clients import ASSISTANTS
from ecorelay_adapters.clients.assistant import Assistant, ClientFailed, Machine, Plan
from ecorelay_adapters.clients.program import own_program
from ecorelay_adapters.clients.together import side_by_side

commands = typer.Typer(**words.TYPER)

_NAMES = ", ".join(assistant.name for assistant in ASSISTANTS)
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ASSISTANT",
        help=f"Which: {_NAMES}. Default: all that are found.",
        show_default=False,
        autocompletion=lambda: [assistant.name for assistant in ASSISTANTS],
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be changed, and change nothing.")]
Claude = Annotated[
    str,
    typer.Option(
        "--claude",
        metavar="PATH",
        help="The program of Claude Code. Default: CLAUDE_BIN, else `claude` on the PATH.",
        show_default=False,
    ),
]


@commands.command(
    "install",
    **words.with_example(
        "ecorelay install", "ecorelay install claude-code --dry-run", "ecorelay install --allow-tools"
    ),
)
def install(
    names: Names = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All assistants that are found, as without names.")
    ] = False,
    dry_run: DryRun = False,
    allow_tools: Annotated[
        bool,
        typer.Option(
            "--allow-tools", help="Let the assistant use the relay_* tools without asking each time."
        ),
    ] = False,
    takes_out: Annotated[
        bool, typer.Option("--uninstall", help="The reverse: the same as `ecorelay uninstall`.")
    ] = False,
    claude: Claude = "",
) -> None:
    """Set up your assistants so that they talk through ecorelay.

    Shows what it changes. Doing it again changes only what is missing or out of date, so it also repairs, and
    follows an upgrade or a move of ecorelay. Trouble with one of them does not keep it from the others.
    """
    if everything and names:
        raise RelayError("bad_args", "--all takes no names: it is all assistants that are found")
    if takes_out and allow_tools:
        raise RelayError("bad_args", "--allow-tools is for setting up: it makes no sense with --uninstall")
    machine = machine_of(claude=claude, allow_tools=allow_tools)
    if takes_out:
        raise typer.Exit(carry_out(_removals(names, machine), dry_run=dry_run))
    chosen = _named(names) or _found_here(machine)
    if not chosen:
        raise RelayError(
            "peer_not_found",
            f"none of the assistants that ecorelay can set up is found here ({_NAMES}): name one to see what "
            "to do by hand; any other MCP client starts `ecorelay mcp`",
        )
    code = carry_out(_plans(chosen, _installation, machine), dry_run=dry_run)
    if not dry_run and code == exits.OK:
        screen.say("whether it works: `ecorelay doctor`")
    raise typer.Exit(code)


@commands.command(
    "uninstall",
    **words.with_example(
        "ecorelay uninstall", "ecorelay uninstall claude-code --dry-run", "ecorelay uninstall --all --purge"
    ),
)
def uninstall(
    names: Names = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also the hub's service and the shell's completion, and stop the hub."),
    ] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="With --all: also delete all mail, settings and logs.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before mail is deleted.")] = False,
    dry_run: DryRun = False,
    claude: Claude = "",
) -> None:
    """Take ecorelay out of your assistants again. Mail stays where it is, unless you purge it."""
    if purge and not everything:
        raise RelayError("bad_args", "--purge deletes all mail: it needs --all too")
    if everything and names:
        raise RelayError("bad_args", "--all takes no names: it removes ecorelay from all assistants")
    machine = machine_of(claude=claude)
    plans = _removals(names, machine)
    if everything:
        plans += removal.plans(machine, purge=purge)
    ask = purge and not yes and any(plan.steps for _, plan in plans)
    code = carry_out(plans, dry_run=dry_run, ask=removal.QUESTION if ask else "")
    if everything and not dry_run and code == exits.OK:
        screen.say(
            "the program itself, as it was installed: `uv tool uninstall ecorelay`, `pipx uninstall "
            "ecorelay` or `pip uninstall ecorelay`"
        )
    raise typer.Exit(code)


def machine_of(*, claude: str = "", allow_tools: bool = False) -> Machine:
    """This machine, for the table of assistants."""
    return Machine(
        environ=dict(os.environ),
        paths=session.paths(),
        program=own_program(),
        version=__version__,
        clients={"claude-code": claude} if claude else {},
        allow_tools=allow_tools,
    )


def _named(names: Sequence[str] | None) -> list[Assistant]:
    known = {assistant.name: assistant for assistant in ASSISTANTS}
    for name in names or ():
        if name not in known:
            raise RelayError("bad_args", f"{name!r} is no assistant that ecorelay can set up: {_NAMES}")
    return [known[name] for name in dict.fromkeys(names or ())]


def _found_here(machine: Machine) -> list[Assistant]:
    found = side_by_side(lambda each: each.find(machine), ASSISTANTS, say_looking)
    return [each for each, client in zip(ASSISTANTS, found, strict=True) if client is not None]


def _installation(assistant: Assistant, machine: Machine) -> Plan:
    return assistant.plan_install(machine)


def _removal(assistant: Assistant, machine: Machine) -> Plan:
    return assistant.plan_removal(machine)


def _removals(names: Sequence[str] | None, machine: Machine) -> list[tuple[str, Plan]]:
    """Of those named; else of all that have anything of ours."""
    if names:
        return _plans(_named(names), _removal, machine)
    plans = [each for each in _plans(ASSISTANTS, _removal, machine) if each[1] != Plan()]
    return plans or [("assistants", Plan())]


def _plans(
    assistants: Sequence[Assistant], make: Callable[[Assistant, Machine], Plan], machine: Machine
) -> list[tuple[str, Plan]]:
    """A plan for each: one that cannot even be made is a plan that says so."""

    def planned(assistant: Assistant) -> tuple[str, Plan]:
        try:
            return assistant.title, make(assistant, machine)
        except ClientFailed as error:
            return assistant.title, Plan(problem=error.message, code="")
        except RelayError as error:
            return assistant.title, Plan(problem=error.message, code=error.code)

    return side_by_side(planned, assistants, say_looking)


def carry_out(plans: Sequence[tuple[str, Plan]], *, dry_run: bool, ask: str = "") -> int:
    """Show all plans, then do them, each to its end or its first trouble. The first trouble's exit code."""
    for title, plan in plans:
        screen.out(_shown(title, plan))
    if not dry_run and ask:
        _confirm(ask)
    code = exits.OK
    for title, plan in plans:
        done = exits.OK if dry_run else _do(title, plan)
        code = code or done
        if plan.problem:
            screen.fail(f"{title}: {plan.problem}")
            if plan.by_hand:
                screen.say("by hand, " + ("then:" if plan.steps else "this does it:"))
                screen.out("".join(f"  {screen.line(line)}\n" for line in plan.by_hand))
            code = code or exits.exit_code(plan.code)
    if dry_run:
        screen.say("nothing was changed (--dry-run)")
    return code


def _do(title: str, plan: Plan) -> int:
    for number, step in enumerate(plan.steps):
        left = len(plan.steps) - number
        try:
            step.do()
        except KeyboardInterrupt:
            screen.say(
                f"interrupted after {number} of {number + left} changes; the same command goes on from there"
            )
            raise SystemExit(exits.INTERRUPTED) from None
        except RelayError as error:
            screen.fail(f"{title}: {error.message}")
            screen.say(
                f"{number} of {number + left} changes were made; the same command again goes on from there"
            )
            return exits.REFUSED if isinstance(error, ClientFailed) else exits.exit_code(error.code)
    return exits.OK


def _shown(title: str, plan: Plan) -> str:
    lines = [screen.styled(title, "bold") + ("" if plan.steps or plan.problem else ": nothing to change")]
    for step in plan.steps:
        lines.append(f"  {screen.line(step.title)}")
        lines += [f"    {_coloured(screen.line(line))}" for line in step.diff]
    lines += [f"  note: {screen.line(note)}" for note in plan.notes]
    return "".join(f"{line}\n" for line in lines)


def _coloured(line: str) -> str:
    mark = line.lstrip()[:1]
    return screen.styled(line, {"+": "green", "-": "red"}[mark]) if mark in ("+", "-") else line


def _confirm(question: str) -> None:
    screen.refuse_unasked("deleting all mail", "--yes")
    screen.say(f"{question} Type yes to go on:")
    if sys.stdin.readline().strip().lower() != "yes":
        screen.say("nothing was changed")
        raise SystemExit(exits.REFUSED)
