"""Each check of the doctor by itself: what it sees, and what it says to do."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import trio

from ecorelay import __version__, wire
from ecorelay.cli import doctor_checks as checks
from ecorelay.paths import Paths
from ecorelay_adapters.clients.assistant import Command, Finding, Hook, Machine
from ecorelay_adapters.tools import TOOLS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and shells of POSIX")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    home = tmp_path / "data"
    home.mkdir(mode=0o700)
    return Paths(home)


def machine(paths: Paths, **environ: str) -> Machine:
    return Machine(
        environ={"PATH": "/usr/bin:/bin", "HOME": str(paths.home.parent), **environ},
        paths=paths,
        program=(sys.executable, "-P", "-m", "ecorelay"),
        version=__version__,
    )


def only(findings: Any) -> Finding:
    (finding,) = findings
    assert isinstance(finding, Finding)
    return finding


# --- directory and disk -----------------------------------------------------------------------------------


def test_a_directory_of_ours_alone_is_well_and_so_is_none_yet(paths: Paths):
    assert only(checks.check_directory(paths)).level == "ok"
    paths.home.rmdir()
    assert only(checks.check_directory(paths)).level == "ok"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_directory_that_others_can_write_fails(paths: Paths, mode: int):
    paths.home.chmod(mode)
    finding = only(checks.check_directory(paths))
    assert (finding.level, "chmod 700" in finding.remedy) == ("fail", True)


def test_a_directory_of_somebody_else_fails(paths: Paths, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    finding = only(checks.check_directory(paths))
    assert finding.level == "fail"
    assert "belongs to user id" in finding.says
    assert "run as its owner" in finding.remedy


def test_a_file_in_its_place_fails(paths: Paths):
    paths.home.rmdir()
    paths.home.touch()
    assert only(checks.check_directory(paths)).level == "fail"


def test_a_directory_that_we_cannot_write_fails(paths: Paths, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written" in only(checks.check_directory(paths)).says


def test_files_that_others_can_read_are_named_with_the_command_that_mends_it(paths: Paths):
    paths.home.chmod(0o755)
    for path, mode in ((paths.database, 0o644), (paths.log, 0o600)):
        path.touch()
        path.chmod(mode)
    finding = only(checks.check_directory(paths))
    assert finding.level == "warn"
    assert finding.remedy == f"chmod go= {paths.database}"
    paths.home.chmod(0o700)
    assert only(checks.check_directory(paths)).level == "ok"


@pytest.mark.parametrize(("free", "level"), [(10**6, "fail"), (10**8, "warn"), (10**12, "ok")])
def test_a_disk_that_is_nearly_full_is_noticed(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, free: int, level: str
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**13, 0, free))
    finding = only(checks.check_space(paths))
    assert (finding.level, bool(finding.remedy)) == (level, level != "ok")


def test_the_disk_is_asked_before_there_is_a_directory(tmp_path: Path):
    assert "free" in only(checks.check_space(Paths(tmp_path / "a" / "b"))).says


def test_damaged_databases_are_named(paths: Paths):
    assert list(checks.check_damaged(paths)) == []
    (paths.home / "hub.db.damaged-20260101T000000").touch()
    finding = only(checks.check_damaged(paths))
    assert finding.level == "warn"
    assert "hub.db.damaged-20260101T000000" in finding.says


def test_settings_are_checked_and_all_mistakes_told(paths: Paths):
    assert only(checks.check_settings(machine(paths))).level == "ok"
    bad = only(checks.check_settings(machine(paths, ECORELAY_SPAWN="perhaps", ECORELAY_IDLE_EXIT_S="x")))
    assert bad.level == "fail"
    assert "ECORELAY_SPAWN" in bad.says
    assert "ECORELAY_IDLE_EXIT_S" in bad.says


# --- programs ---------------------------------------------------------------------------------------------


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_another_ecorelay_on_the_path_is_noticed(paths: Paths, tmp_path: Path):
    other = script(tmp_path / "bin" / "ecorelay", "echo ecorelay 0.0.1")
    found = list(checks.check_program(machine(paths, PATH=f"{other.parent}:/usr/bin:/bin")))
    assert [finding.level for finding in found] == ["ok", "warn"]
    assert str(other) in found[1].says
    script(other, f"echo ecorelay {__version__}")
    assert len(list(checks.check_program(machine(paths, PATH=f"{other.parent}:/usr/bin:/bin")))) == 1


def server(*words: str, **variables: str) -> Command:
    return Command(words=words, variables=variables)


OURS = (sys.executable, "-P", "-m", "ecorelay", "mcp")


async def test_a_server_is_run_as_configured_and_counted(tmp_path: Path):
    finding = await checks.check_server("tools", server(*OURS), os.environ)
    assert finding.level == "ok", finding
    assert "19 tools" in finding.says


async def test_a_server_that_is_not_there_fails():
    finding = await checks.check_server("tools", server("/nowhere/ecorelay", "mcp"), os.environ)
    assert finding.level == "fail"
    assert "/nowhere/ecorelay" in finding.says


async def test_a_server_that_ends_is_quoted(tmp_path: Path):
    dies = script(tmp_path / "dies", "echo 'no module named ecorelay' >&2; exit 1")
    finding = await checks.check_server("tools", server(str(dies)), os.environ)
    assert finding.level == "fail"
    assert "no module named ecorelay" in finding.says


async def test_a_server_that_is_silent_is_ended_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "SERVER_S", 0.5)
    silent = script(tmp_path / "silent", f"echo $$ > {shlex.quote(str(tmp_path))}/pid; exec sleep 600")
    finding = await checks.check_server("tools", server(str(silent)), os.environ)
    assert finding.level == "fail"
    assert "within" in finding.says
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_server_that_talks_something_else_fails(tmp_path: Path):
    babble = script(tmp_path / "babble", "echo hello; sleep 5")
    assert (await checks.check_server("tools", server(str(babble)), os.environ)).level == "fail"


async def test_a_server_with_other_tools_than_ours_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "TOOLS", TOOLS[:-1])
    finding = await checks.check_server("tools", server(*OURS), os.environ)
    assert (finding.level, "19 tools, not 18" in finding.says) == ("fail", True)


async def test_a_server_gets_nothing_of_what_a_terminal_has_set_up(tmp_path: Path):
    spy = script(tmp_path / "spy", f"env > {shlex.quote(str(tmp_path))}/env; exit 1")
    await checks.check_server("tools", server(str(spy), MINE="x"), {**os.environ, "API_KEY": "secret"})
    seen = (tmp_path / "env").read_text()
    assert "API_KEY" not in seen
    assert "MINE=x\n" in seen
    assert "ECORELAY_SPAWN=no\n" in seen
    assert f"PATH={os.defpath}\n" in seen


def hook(line: str, *exits: int) -> Hook:
    return Hook(command=Command(shell=line), event=b'{"x":1}\n', exits=exits or (0,))


async def test_a_hook_is_run_by_a_shell_and_timed(tmp_path: Path):
    finding = await checks.check_hook("hook", hook(f"cat > {shlex.quote(str(tmp_path))}/in"), os.environ)
    assert finding.level == "ok", finding
    assert " ms " in finding.says
    assert (tmp_path / "in").read_bytes() == b'{"x":1}\n'


async def test_a_hook_that_fails_is_quoted():
    finding = await checks.check_hook("hook", hook("echo it is gone >&2; exit 7"), os.environ)
    assert finding.level == "fail"
    assert "ended with 7 (it is gone)" in finding.says
    assert (await checks.check_hook("hook", hook("exit 2", 0, 2), os.environ)).level == "ok"


async def test_a_hook_that_takes_long_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "HOOK_SLOW_S", 0.0)
    assert (await checks.check_hook("hook", hook("true"), os.environ)).level == "warn"
    monkeypatch.setattr(checks, "HOOK_S", 0.2)
    began = time.monotonic()
    with trio.fail_after(20):
        finding = await checks.check_hook("hook", hook("exec sleep 600"), os.environ)
    assert (finding.level, time.monotonic() - began < 20) == ("fail", True)


# --- the hub ----------------------------------------------------------------------------------------------


def details(**fields: Any) -> wire.HubDetails:
    known: dict[str, Any] = {
        **{"req_id": 1, "pid": 1, "hub_id": "h", "version": __version__, "uptime_s": 1.0},
        **{"durability": "power", "data_dir": "/x", "db_bytes": 0, "sessions": 0, "connections": 0},
        **{"peers": 0, "groups": 0, "rooms": 0},
    }
    return wire.HubDetails(**{**known, **fields})


@pytest.mark.parametrize(
    ("version", "remedy"),
    [(__version__, None), ("0.0.1", "ecorelay hub restart"), ("99.0", "upgrade this one"), ("?", None)],
)
def test_a_hub_of_another_version_is_noticed(version: str, remedy: str | None):
    found = list(checks.check_version(details(version=version)))
    assert [finding.level for finding in found] == ([] if remedy is None else ["warn"])
    assert remedy is None or remedy in found[0].remedy


def test_what_the_hub_complains_of_is_told():
    found = checks.check_problems(details(problems=("hub.db was damaged",)))
    assert only(found).says == "hub.db was damaged"


def test_each_live_session_is_told_with_its_carrier_and_what_proved_it():
    now = time.time_ns() // 1_000_000
    listed = wire.PeerList(
        req_id=1,
        me="",
        hub_id="h",
        peers=(
            wire.Peer(name="pulls", online=True),
            wire.Peer(name="hooked", online=True, carrier="hook", evidence_at=now - 120_000),
            wire.Peer(name="unproved", online=True, carrier="channel"),
            wire.Peer(name="away", carrier="hook"),
        ),
    )
    says = {finding.check: finding.says for finding in checks.check_sessions(listed)}
    assert says.keys() == {"session pulls", "session hooked", "session unproved"}
    assert "relay_inbox" in says["session pulls"]
    assert "by hook, proved 2 min ago" in says["session hooked"]
    assert "nothing has proved" in says["session unproved"]


def test_a_list_of_many_sessions_is_cut():
    peers = tuple(wire.Peer(name=f"p{number}", online=True) for number in range(30))
    found = list(checks.check_sessions(wire.PeerList(req_id=1, me="", hub_id="h", peers=peers)))
    assert len(found) == 21
    assert "10 more" in found[-1].says


@pytest.mark.parametrize(
    ("text", "more", "kills"),
    [
        (None, None, False),
        ("[Login]\n#KillUserProcesses=yes\n", None, False),
        ("[Login]\nKillUserProcesses=yes\n", None, True),
        ("[Login]\nKillUserProcesses=yes\n", "[Login]\nKillUserProcesses = no\n", False),
        (None, "[Login]\nKillUserProcesses=1\n", True),
    ],
)
def test_whether_the_system_ends_everything_at_logout(
    tmp_path: Path, text: str | None, more: str | None, kills: bool
):
    if text is not None:
        (tmp_path / "logind.conf").write_text(text)
    if more is not None:
        (tmp_path / "logind.conf.d").mkdir()
        (tmp_path / "logind.conf.d" / "50-site.conf").write_text(more)
    assert checks.kills_at_logout(tmp_path) == kills
    if sys.platform == "linux":
        script(tmp_path / "bin" / "loginctl", "echo no")
        found = list(checks.check_logout({"PATH": str(tmp_path / "bin"), "USER": "ada"}, tmp_path))
        assert [finding.level for finding in found] == ["warn"] * kills
        script(tmp_path / "bin" / "loginctl", "echo yes")
        assert list(checks.check_logout({"PATH": f"{tmp_path / 'bin'}:/bin", "USER": "ada"}, tmp_path)) == []
