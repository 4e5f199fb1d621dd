"""The hub as a service: what is written, and what the system is told. A stand-in plays systemctl."""

from __future__ import annotations

import os
import plistlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ecorelay import __version__
from ecorelay.cli import service
from ecorelay.endpoint import read_endpoint
from ecorelay.errors import RelayError
from ecorelay.paths import Paths
from ecorelay.process import is_alive
from ecorelay_adapters.clients.assistant import ClientFailed, Machine
from tests.helpers.command_line import CommandLine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="neither systemd nor launchd")

ODD = "a 'b\" $c %d \\e"
SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$STANDIN/calls"
case "$*" in
  *show-environment*) [ ! -e "$STANDIN/no-bus" ] || { echo "Failed to connect to bus" >&2; exit 1; } ;;
  *restart*) [ ! -e "$STANDIN/fails" ] || { echo "Unit is masked." >&2; exit 1; }
    touch "$STANDIN/active"; [ ! -e "$STANDIN/start" ] || . "$STANDIN/start" ;;
  *disable*) rm -f "$STANDIN/active" ;;
  *is-active*) [ -e "$STANDIN/active" ] || exit 3 ;;
esac
"""


@pytest.fixture
def standin(tmp_path: Path) -> Path:
    folder = tmp_path / "standin"
    folder.mkdir()
    (folder / "calls").touch()
    for name, text in (("systemctl", SYSTEMCTL), ("loginctl", "#!/bin/sh\necho no\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def machine(tmp_path: Path, standin: Path) -> Machine:
    environ = {"PATH": f"{standin}:/usr/bin:/bin", "HOME": str(tmp_path / "me"), "STANDIN": str(standin)}
    home = tmp_path / ODD
    return Machine(
        environ={**environ, "ECORELAY_HOME": str(home), "USER": "ada"},
        paths=Paths(home),
        program=(f"/opt/{ODD}/ecorelay",),
        version=__version__,
    )


def calls(standin: Path) -> list[str]:
    lines = (standin / "calls").read_text().splitlines()
    return [line for line in lines if "show-environment" not in line and "is-active" not in line]


def unit_of(machine: Machine) -> str:
    return service.manager_of(machine, "linux").text.decode()


def test_the_unit_names_the_program_absolutely_and_lets_the_hub_stay(machine: Machine):
    plain = msgspec.structs.replace(machine, program=("/opt/ecorelay",), paths=Paths(Path("/data")))
    plain = msgspec.structs.replace(plain, environ={**plain.environ, "ECORELAY_HOME": "/data"})
    unit = unit_of(plain)
    assert 'ExecStart="/opt/ecorelay" "hub" "run"\n' in unit
    assert 'Environment="ECORELAY_HOME=/data"\n' in unit
    assert 'Environment="ECORELAY_KEEP_ALIVE=true"\n' in unit
    assert "Restart=on-failure\n" in unit
    assert "NoNewPrivileges=yes\n" in unit
    assert "WantedBy=default.target\n" in unit


def test_odd_characters_in_paths_are_spelled_for_systemd(machine: Machine):
    unit = unit_of(machine)
    # Specifiers (%) are doubled; no variable is expanded in the program's own path.
    assert r"""ExecStart="/opt/a 'b\" $c %%d \\e/ecorelay" "hub" "run""" in unit
    module = msgspec.structs.replace(machine, program=("/opt/python", "-P", "-m", "$x"))
    assert 'ExecStart="/opt/python" "-P" "-m" "$$x" "hub" "run"' in unit_of(module)


@pytest.mark.system
def test_systemd_itself_finds_nothing_wrong_with_the_unit(machine: Machine, tmp_path: Path):
    import shutil

    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    path = tmp_path / "ecorelay.service"
    path.write_bytes(service.manager_of(msgspec.structs.replace(machine, program=("/bin/sh",)), "linux").text)
    command = ["systemd-analyze", "verify", "--user", "--man=no", str(path)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    ran = subprocess.run(command, capture_output=True, check=False, timeout=60, env=environ)
    if b"Failed to initialize manager" in ran.stderr or b"Failed to connect" in ran.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {ran.stderr.decode().strip()}")
    assert (ran.returncode, b"ecorelay.service" in ran.stderr) == (0, False), ran


def test_a_plan_is_made_twice_and_done_once(machine: Machine, standin: Path, monkeypatch: pytest.MonkeyPatch):
    listens(monkeypatch)
    plan = service.plan_install(machine, "linux")
    assert [step.title.split(" ")[0] for step in plan.steps] == ["write", "let"]
    assert any("enable-linger" in note for note in plan.notes)
    assert calls(standin) == []
    for step in plan.steps:
        step.do()
    assert calls(standin) == [
        "--user daemon-reload",
        "--user enable ecorelay.service",
        "--user restart ecorelay.service",
    ]
    manager = service.manager_of(machine, "linux")
    assert manager.file == machine.at_home(".config", "systemd", "user", "ecorelay.service")
    assert manager.file.read_bytes() == manager.text
    assert service.plan_install(machine, "linux").steps == ()
    for step in service.plan_removal(machine, "linux").steps:
        step.do()
    assert calls(standin)[3:] == ["--user disable --now ecorelay.service", "--user daemon-reload"]
    assert not manager.file.exists()
    assert service.plan_removal(machine, "linux").steps == ()


def listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the hub listened as soon as the service was started."""

    async def at_once(holds: object) -> None:
        return

    monkeypatch.setattr(service, "_until", at_once)


def test_a_service_that_fails_to_start_is_a_clear_refusal(machine: Machine, standin: Path):
    (standin / "fails").touch()
    plan = service.plan_install(machine, "linux")
    plan.steps[0].do()
    with pytest.raises(ClientFailed, match="Unit is masked"):
        plan.steps[1].do()
    assert len(service.plan_install(machine, "linux").steps) == 1


@pytest.mark.parametrize("how", ["no systemctl", "no bus"])
def test_without_systemd_nothing_is_written_and_the_reason_said(machine: Machine, standin: Path, how: str):
    if how == "no bus":
        (standin / "no-bus").touch()
    else:
        machine = msgspec.structs.replace(machine, environ={**machine.environ, "PATH": "/nowhere"})
    plan = service.plan_install(machine, "linux")
    assert plan.steps == ()
    assert "ecorelay hub start" in plan.problem
    assert ("Failed to connect to bus" in plan.problem) == (how == "no bus")


def test_a_leftover_unit_is_removed_without_systemd_too(machine: Machine, standin: Path):
    (standin / "no-bus").touch()
    file = service.manager_of(machine, "linux").file
    file.parent.mkdir(parents=True)
    file.write_text("old")
    for step in service.plan_removal(machine, "linux").steps:
        step.do()
    assert not file.exists()


def test_on_macos_it_is_a_launch_agent(machine: Machine):
    manager = service.manager_of(machine, "darwin")
    job = plistlib.loads(manager.text)
    assert job["ProgramArguments"] == [*machine.program, "hub", "run"]
    assert job["EnvironmentVariables"] == {
        "ECORELAY_HOME": str(machine.paths.home),
        "ECORELAY_KEEP_ALIVE": "true",
    }
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert manager.file == machine.at_home("Library", "LaunchAgents", "org.ecorelay.hub.plist")
    assert manager.start[0][:3] == ("launchctl", "bootstrap", f"gui/{os.getuid()}")


def test_elsewhere_there_is_no_service(machine: Machine):
    with pytest.raises(RelayError, match="no service manager"):
        service.plan_install(machine, "plan9")
    assert service.plan_removal(machine, "plan9").steps == ()


# --- in whole processes -----------------------------------------------------------------------------------


@pytest.fixture
def ecorelay(tmp_path: Path, standin: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(
        tmp_path / "data",
        HOME=str(tmp_path / "me"),
        PATH=f"{standin}:/usr/bin:/bin",
        STANDIN=str(standin),
        XDG_CONFIG_HOME="",
        ECORELAY_IDLE_EXIT_S="60",
    )
    yield command_line
    command_line.end_hub()


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in plays systemd")
def test_the_service_takes_over_from_a_hub_that_runs(ecorelay: CommandLine, standin: Path):
    ecorelay("send", "ada", "precious")
    before = read_endpoint(ecorelay.paths.endpoint)
    assert before is not None
    # What systemd would do: the unit's variables and its command line.
    line = shlex.join([sys.executable, "-m", "ecorelay", "hub", "run"])
    (standin / "start").write_text(f"ECORELAY_KEEP_ALIVE=true {line} >/dev/null 2>&1 </dev/null &\n")
    said = ecorelay("hub", "service", "install")
    assert "write " in said.out
    after = read_endpoint(ecorelay.paths.endpoint)
    assert after is not None
    assert after.kept
    assert after.pid != before.pid
    assert not is_alive(before.pid, before.pid_start)
    assert ecorelay("hub", "service", "status", "--json").json["active"]
    assert "nothing to change" in ecorelay("hub", "service", "install").out
    assert "started: " in ecorelay("hub", "restart").err
    before, after = after, read_endpoint(ecorelay.paths.endpoint)
    assert after is not None
    assert after.pid != before.pid
    assert calls(standin)[-1] == "--user restart ecorelay.service"
    assert ecorelay("inbox", "--json").json["messages"][0]["text"] == "precious"
    os.kill(after.pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while is_alive(after.pid, after.pid_start):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ecorelay("hub", "service", "uninstall")
    assert "nothing to change" in ecorelay("hub", "service", "uninstall").out
    assert not ecorelay("hub", "service", "status", "--json", code=3).json["installed"]


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in plays systemd")
def test_a_dry_run_prints_the_unit_and_changes_nothing(ecorelay: CommandLine, standin: Path):
    said = ecorelay("hub", "service", "install", "--dry-run")
    assert "ExecStart=" in said.out
    assert calls(standin) == []
    (standin / "no-bus").touch()
    refused = ecorelay("hub", "service", "install", code=1)
    assert "systemd does not serve you here" in refused.err
    assert "ExecStart=" in ecorelay("hub", "service", "install", "--dry-run", code=1).out
    shown = ecorelay("hub", "service", "status", code=3).out
    assert "not installed" in shown
