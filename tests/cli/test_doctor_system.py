"""What the doctor sees of the system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ecorelay.cli import doctor_system as checks
from tests.helpers.shell_script import shell_script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and shells of POSIX")


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
        shell_script(tmp_path / "bin" / "loginctl", "echo no")
        found = list(checks.check_logout({"PATH": str(tmp_path / "bin"), "USER": "ada"}, tmp_path))
        assert [finding.level for finding in found] == ["warn"] * kills
        shell_script(tmp_path / "bin" / "loginctl", "echo yes")
        assert list(checks.check_logout({"PATH": f"{tmp_path / 'bin'}:/bin", "USER": "ada"}, tmp_path)) == []
