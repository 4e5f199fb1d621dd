"""What the doctor says of this installation, check by check."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from ecorelay import __version__
from ecorelay.cli import doctor_setup as checks
from ecorelay.paths import Paths
from ecorelay_adapters.clients.assistant import Finding, Machine
from tests.helpers.shell_script import shell_script

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


def test_another_ecorelay_on_the_path_is_noticed(paths: Paths, tmp_path: Path):
    other = shell_script(tmp_path / "bin" / "ecorelay", "echo ecorelay 0.0.1")
    found = list(checks.check_program(machine(paths, PATH=f"{other.parent}:/usr/bin:/bin")))
    assert [finding.level for finding in found] == ["ok", "warn"]
    assert str(other) in found[1].says
    shell_script(other, f"echo ecorelay {__version__}")
    assert len(list(checks.check_program(machine(paths, PATH=f"{other.parent}:/usr/bin:/bin")))) == 1


def test_a_directory_that_cannot_be_made_fails_before_anything_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    finding = only(checks.check_directory(Paths(tmp_path / "a" / "b")))
    assert (finding.level, f"{tmp_path} is not writable" in finding.says) == ("fail", True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_what_a_command_under_sudo_left_is_named_with_what_mends_it(paths: Paths):
    for path in (paths.database, paths.log):
        path.touch()
    os.chown(paths.database, 65534, 65534)
    finding = only(checks.check_directory(paths))
    assert (finding.level, "hub.db in" in finding.says, "hub.log" in finding.says) == ("fail", True, False)
    assert finding.remedy == f"sudo chown -R {os.geteuid()}:{os.getegid()} {paths.home}"


def test_a_directory_we_may_not_look_into_does_not_end_the_doctor(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
):
    def refused(*_: object) -> Any:  # as pathlib does before Python 3.13
        raise PermissionError(errno.EACCES, "Permission denied", str(paths.home))

    monkeypatch.setattr(Path, "glob", refused)
    assert list(checks.check_damaged(paths)) == []
    monkeypatch.setattr(Path, "stat", refused)
    finding = only(checks.check_directory(paths))
    assert (finding.level, "ECORELAY_HOME" in finding.remedy) == ("fail", True)
