"""What the doctor sees of the system: what it ends at logout, and the hub as its service."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ecorelay.cli import service
from ecorelay.errors import RelayError
from ecorelay_adapters.clients.assistant import Finding, Machine


def check_all(machine: Machine) -> Iterator[Finding]:
    """Both of them."""
    yield from check_logout(machine.environ)
    yield from check_service(machine)


def check_logout(environ: Mapping[str, str], folder: Path = Path("/etc/systemd")) -> Iterator[Finding]:
    """Whether this system ends a user's processes at logout, and so the hub."""
    if sys.platform != "linux" or not kills_at_logout(folder) or service.lingers(environ) is True:
        return
    yield Finding(
        check="logout",
        level="warn",
        says="this system ends all your processes when you log out, the hub too (KillUserProcesses)",
        remedy="`loginctl enable-linger`; no mail is lost either way",
    )


def kills_at_logout(folder: Path) -> bool:
    """The setting ``KillUserProcesses`` of logind, as far as its files under `folder` tell."""
    answer = False
    files = [folder / "logind.conf", *sorted((folder / "logind.conf.d").glob("*.conf"))]
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for match in re.finditer(r"^\s*KillUserProcesses\s*=\s*(\w+)", text, re.MULTILINE):
            answer = match[1].lower() in ("yes", "true", "on", "1")
    return answer


def check_service(machine: Machine) -> Iterator[Finding]:
    """Where the hub is a service: whether it is this program's, and runs."""
    try:
        manager = service.manager_of(machine)
        if not manager.file.is_file():
            return
        remedy = "ecorelay hub service install"
        if manager.file.read_bytes() != manager.text:
            says = f"{manager.file} is of another making than this ecorelay's"
            yield Finding(check="service", level="warn", says=says, remedy=remedy)
        elif not service.is_active(manager, machine.environ):
            says = manager.problem or "installed, and does not run"
            yield Finding(check="service", level="warn", says=says, remedy=remedy)
        else:
            yield Finding(check="service", level="ok", says="runs")
    except (RelayError, OSError) as error:
        yield Finding(check="service", level="warn", says=str(error))
