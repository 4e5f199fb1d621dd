"""What an assistant was told to run is run exactly so, and what comes of it is said."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import time
from pathlib import Path
from typing import cast

import pytest
import trio

from ecorelay.cli import doctor_assistant as checks
from ecorelay.paths import Paths
from ecorelay_adapters.clients.assistant import Assistant, Command, Hook, Machine
from ecorelay_adapters.tools import TOOLS
from tests.helpers.shell_script import shell_script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and shells of POSIX")


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
    dies = shell_script(tmp_path / "dies", "echo 'no module named ecorelay' >&2; exit 1")
    finding = await checks.check_server("tools", server(str(dies)), os.environ)
    assert finding.level == "fail"
    assert "no module named ecorelay" in finding.says


async def test_a_server_that_is_silent_is_ended_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "SERVER_S", 0.5)
    silent = shell_script(tmp_path / "silent", f"echo $$ > {shlex.quote(str(tmp_path))}/pid; exec sleep 600")
    finding = await checks.check_server("tools", server(str(silent)), os.environ)
    assert finding.level == "fail"
    assert "within" in finding.says
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_server_that_talks_something_else_fails(tmp_path: Path):
    babble = shell_script(tmp_path / "babble", "echo hello; sleep 5")
    assert (await checks.check_server("tools", server(str(babble)), os.environ)).level == "fail"


async def test_a_server_with_other_tools_than_ours_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "TOOLS", TOOLS[:-1])
    finding = await checks.check_server("tools", server(*OURS), os.environ)
    assert (finding.level, "19 tools, not 18" in finding.says) == ("fail", True)


async def test_a_server_gets_nothing_of_what_a_terminal_has_set_up(tmp_path: Path):
    spy = shell_script(tmp_path / "spy", f"env > {shlex.quote(str(tmp_path))}/env; exit 1")
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


def test_files_of_an_assistant_that_we_may_not_read_are_a_finding(tmp_path: Path):
    class Closed:
        name, title = "closed", "Closed CLI"

        def find(self, machine: Machine) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", "/x/settings.json")

    machine = Machine(environ={}, paths=Paths(tmp_path), program=("ecorelay",), version="1")
    (finding,) = checks.look(cast("Assistant", Closed()), machine).findings
    assert (finding.level, finding.says) == ("fail", "/x/settings.json: Permission denied")
    assert "ecorelay install closed" in finding.remedy
