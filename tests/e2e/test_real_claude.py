"""The real Claude Code takes the plugin that `ecorelay install` renders. Nothing leaves this machine.

Its home is a directory of the test's own and its key the word "dummy"; it runs in a network of its own, in
which there is nothing. Run with ``-m real``; CLAUDE_BIN names the program, else one under
``~/.cache/assistant-clients`` is taken.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecorelay import __version__
from tests.helpers.command_line import CommandLine

pytestmark = [pytest.mark.real, pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")]

QUIET = {
    "ANTHROPIC_API_KEY": "dummy",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}
PATIENCE_S = 120


def real_program() -> str:
    """The client that is installed for tests."""
    named = os.environ.get("CLAUDE_BIN")
    found = sorted((Path.home() / ".cache" / "assistant-clients").glob("claude*/node_modules/.bin/claude"))
    path = named or (str(found[-1]) if found else "")
    if not path or shutil.which(path) is None:
        pytest.skip("Claude Code is not installed here: CLAUDE_BIN names its program")
    return path


def off_the_network() -> list[str]:
    """Words before a command that let it run in a network of its own."""
    for words in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which("unshare") and subprocess.run([*words, "true"], check=False).returncode == 0:
            return words
    pytest.skip("Claude Code cannot be kept off the network here (unshare -n)")


class Person(CommandLine):
    """A person with the real client, in a place whose name needs quoting everywhere."""

    def __init__(self, root: Path) -> None:
        self.home = root / 'it\'s "me"'
        self.home.mkdir()
        self.claude = root / "claude"
        words = [
            *off_the_network(),
            "env",
            *[f"{key}={value}" for key, value in QUIET.items()],
            real_program(),
        ]
        self.claude.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        self.claude.chmod(0o755)
        super().__init__(root / "unused", HOME=str(self.home), CLAUDE_BIN=str(self.claude))
        # As most people: no ECORELAY_HOME. Nor anything of a session in which the tests may run.
        self.environ = {
            name: value
            for name, value in self.environ.items()
            if not name.startswith(("CLAUDECODE", "CLAUDE_CODE", "ANTHROPIC_")) and name != "ECORELAY_HOME"
        }
        self.environ.pop("CLAUDE_CONFIG_DIR", None)
        self.folder = self.home / ".local" / "share" / "ecorelay" / "claude-code"

    def run_claude(self, *words: str, code: int = 0) -> str:
        ended = subprocess.run(
            [str(self.claude), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.environ,
            cwd=self.home,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.returncode == code, ended
        return ended.stdout.decode()

    def plugins(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run_claude("plugin", "list", "--json"))
        return found


@pytest.fixture
def ecorelay(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path)
    yield person
    person("hub", "stop", code=None)


def test_the_committed_folder_is_valid(ecorelay: Person):
    root = Path(__file__).parents[2] / "adapters" / "claude_code"
    ecorelay.run_claude("plugin", "validate", "--strict", str(root))
    ecorelay.run_claude("plugin", "validate", "--strict", str(root / "plugins" / "ecorelay"))


def test_what_install_renders_is_valid_loaded_and_connected(ecorelay: Person):
    ecorelay("install", "claude-code")
    ecorelay.run_claude("plugin", "validate", "--strict", str(ecorelay.folder))
    ecorelay.run_claude("plugin", "validate", "--strict", str(ecorelay.folder / "plugins" / "ecorelay"))
    (plugin,) = ecorelay.plugins()
    assert (plugin["id"], plugin["version"], plugin["enabled"]) == ("ecorelay@ecorelay", __version__, True)
    listed = ecorelay.run_claude("mcp", "list")
    (line,) = [line for line in listed.splitlines() if line.startswith("plugin:ecorelay:ecorelay")]
    assert "✔ Connected" in line
    assert ecorelay("install").out.startswith("Claude Code: nothing to change")
    said = ecorelay("doctor")
    assert "warn" not in said.out + said.err, said


def test_uninstall_leaves_nothing_and_install_brings_it_back(ecorelay: Person):
    settings = ecorelay.home / ".claude" / "settings.json"
    settings.parent.mkdir()
    settings.write_text('{"theme": "dark", "permissions": {"allow": ["Bash(ls)"]}}')
    ecorelay("install", "--allow-tools")
    assert "mcp__plugin_ecorelay_ecorelay" in settings.read_text()
    ecorelay("uninstall")
    assert ecorelay.plugins() == []
    assert json.loads(ecorelay.run_claude("plugin", "marketplace", "list", "--json")) == []
    left = {key: value for key, value in json.loads(settings.read_text()).items() if value}
    assert left == {"theme": "dark", "permissions": {"allow": ["Bash(ls)"]}}
    assert not ecorelay.folder.exists()
    assert ecorelay("uninstall").out.startswith("Claude Code: nothing to change\n")
    ecorelay("install")
    assert len(ecorelay.plugins()) == 1


def test_a_plugin_that_is_disabled_or_lost_its_folder_is_mended(ecorelay: Person):
    ecorelay("install")
    ecorelay.run_claude("plugin", "disable", "ecorelay@ecorelay")
    assert "disabled" in ecorelay("doctor").out
    ecorelay("install")
    assert ecorelay.plugins()[0]["enabled"]
    shutil.rmtree(ecorelay.folder)
    assert ecorelay.plugins()[0].get("errors")
    assert "cache-miss" in ecorelay("doctor", code=1).out
    ecorelay("install")
    assert not ecorelay.plugins()[0].get("errors")


def test_a_server_added_by_hand_is_noticed(ecorelay: Person):
    ecorelay.run_claude("mcp", "add", "--scope", "user", "relay", "--", "/opt/ecorelay", "mcp")
    assert "claude mcp remove relay -s user" in ecorelay("install").out
    ecorelay.run_claude("mcp", "remove", "relay", "-s", "user")
    assert "claude mcp remove" not in ecorelay("install").out
