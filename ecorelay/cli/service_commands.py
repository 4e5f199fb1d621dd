"""``ecorelay hub service``: the hub from login on, looked after by the system."""

from __future__ import annotations

from typing import Annotated

import typer

from ecorelay.cli import exits, screen, service, words

app = typer.Typer(
    **words.TYPER, **words.with_example("ecorelay hub service install --dry-run"), no_args_is_help=True
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be changed, and change nothing.")]


@app.callback()
def _service() -> None:
    """Let the system keep the hub running: systemd, on macOS launchd. Nothing needs that."""


@app.command("install", **words.with_example("ecorelay hub service install"))
def install(dry_run: DryRun = False) -> None:
    """Make the hub a service of yours. It takes over from a hub that runs; no mail is lost."""
    from ecorelay.cli import install_commands

    machine = install_commands.machine_of()
    if dry_run:
        manager = service.manager_of(machine)
        screen.out(f"{manager.file}:\n\n{screen.lines(manager.text.decode(), '')}\n")
    plan = service.plan_install(machine)
    code = install_commands.carry_out([("Service of the hub", plan)], dry_run=dry_run)
    raise typer.Exit(exits.REFUSED if plan.problem else code)


@app.command("uninstall", **words.with_example("ecorelay hub service uninstall"))
def uninstall(dry_run: DryRun = False) -> None:
    """End the service. The hub starts again by itself when something needs it."""
    from ecorelay.cli import install_commands

    plan = service.plan_removal(install_commands.machine_of())
    raise typer.Exit(install_commands.carry_out([("Service of the hub", plan)], dry_run=dry_run))


@app.command("status", **words.with_example("ecorelay hub service status"))
def status(as_json: words.Json = False) -> None:
    """Show whether the hub is a service.

    Exits with 3 when there is none, or it does not run.

    """
    from ecorelay.cli import install_commands

    machine = install_commands.machine_of()
    manager = service.manager_of(machine)
    installed = manager.file.is_file()
    active = installed and service.is_active(manager, machine.environ)
    current = installed and manager.file.read_bytes() == manager.text
    lingers = service.lingers(machine.environ) if manager.kind == "systemd" else None
    if as_json:
        screen.out_json(
            kind=manager.kind,
            file=str(manager.file),
            installed=installed,
            active=active,
            current=current,
            lingers=lingers,
            problem=manager.problem,
        )
    else:
        screen.out(
            screen.table(
                [
                    ("service", f"{'installed' if installed else 'not installed'} ({manager.file})"),
                    ("runs", "yes" if active else "no"),
                    *(
                        [("problem", "it is of another making: ecorelay hub service install")]
                        if installed and not current
                        else []
                    ),
                    *([("problem", screen.line(manager.problem))] if manager.problem else []),
                    *([("logout", "ends it: loginctl enable-linger")] if lingers is False else []),
                ]
            )
        )
    raise typer.Exit(exits.OK if active else exits.NO_HUB)
