"""``ecorelay doctor`` finds what is wrong and says what to do, in whole processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_cli_golden import compare
from tests.e2e.test_install import Person, pytestmark  # noqa: F401 - the same holds here


@pytest.fixture
def ecorelay(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path)
    yield person
    person.end_hub()


def findings(ecorelay: Person, code: int = 0, **settings: str) -> dict[str, dict[str, Any]]:
    """The findings that are not well, by check; of two of a check the worse or later one."""
    found = ecorelay("doctor", "--json", code=code, stdin=b"", **settings).json
    assert found["ok"] == (code == 0)
    assert all(each["remedy"] for each in found["checks"] if each["level"] != "ok")
    return {each["check"]: each for each in found["checks"] if each["level"] != "ok"}


def test_all_is_well_after_installing(ecorelay: Person):
    ecorelay("install")
    said = ecorelay("doctor")
    assert "fail" not in said.out
    assert "19 tools" in said.out
    assert "Claude Code hook" in said.out
    assert "checks are well" in said.err
    assert ecorelay("peers", "--json").json["peers"] == []


def test_a_fresh_machine_has_nothing_to_fail(ecorelay: Person):
    assert findings(ecorelay, PATH="/usr/bin:/bin").keys() == {"assistants"}
    assert findings(ecorelay).keys() == {"Claude Code plugin"}


def test_a_hub_that_cannot_start_is_shown_with_its_refusal(ecorelay: Person):
    ecorelay.paths.home.mkdir(mode=0o700)
    ecorelay.paths.database.mkdir()
    found = findings(ecorelay, code=1)
    assert "hub.db" in json.dumps(found["hub"])


def test_settings_that_cannot_be_used_are_named(ecorelay: Person):
    ecorelay.paths.home.mkdir(mode=0o700)
    ecorelay.paths.config.write_text('transport = "pigeon"\n')
    assert "transport" in findings(ecorelay, code=1)["settings"]["says"]


def test_a_data_directory_that_others_can_write_is_named(ecorelay: Person):
    ecorelay.paths.home.mkdir()
    ecorelay.paths.home.chmod(0o777)
    found = findings(ecorelay, code=1)
    assert "can be written by others" in found["data directory"]["says"]
    assert "chmod 700" in found["data directory"]["remedy"]


def test_a_plugin_that_starts_a_program_that_is_gone_is_named(ecorelay: Person):
    ecorelay("install")
    for path in ecorelay.folder.rglob("*.json"):
        if "marketplace" not in path.name:
            path.write_text(path.read_text().replace("/bin/ecorelay", "/bin/gone"))
    found = findings(ecorelay, code=1)
    assert found["Claude Code plugin"]["remedy"] == "ecorelay install claude-code"
    assert "gone" in found["Claude Code tools"]["says"]
    assert "gone" in found["Claude Code hook"]["says"]
    ecorelay("install")
    assert findings(ecorelay) == {}


def test_without_a_hub_that_may_be_started_that_is_said(ecorelay: Person):
    assert "hub" in findings(ecorelay, code=1, ECORELAY_SPAWN="no")


def row(said: str, title: str) -> list[str]:
    """The cells of an assistant's row in the table."""
    [line] = [line for line in said.splitlines() if re.match(rf"{title} {{2,}}", line)]
    return re.split(" {2,}", line)


def test_the_table_says_what_is_found_and_set_up(ecorelay: Person):
    said = ecorelay("doctor").out
    assert row(said, "Claude Code")[2:] == ["no", "0", "-", "-"]
    assert "not found here: " in said
    ecorelay("install")
    assert row(ecorelay("doctor").out, "Claude Code")[2:] == ["yes", "0", "-", "-"]
    for path in ecorelay.folder.rglob("plugin.json"):
        path.write_text(path.read_text() + " ")
    assert row(ecorelay("doctor", code=None).out, "Claude Code")[2:] == ["outdated", "0", "-", "-"]
    away = ecorelay("doctor", code=None, PATH="/usr/bin:/bin").out
    assert row(away, "Claude Code")[1] == "not found"


def test_what_leads_to_another_data_directory_is_not_set_up_until_the_remedy_is_done(ecorelay: Person):
    program = ecorelay.home.parent / "bin" / "gemini"
    program.write_text("#!/bin/sh\necho 1.2.3\n")
    program.chmod(0o755)
    ecorelay("install", "gemini")
    assert row(ecorelay("doctor").out, "Gemini CLI")[2] == "yes"
    found = findings(ecorelay, code=1, ECORELAY_HOME="", ECORELAY_IDLE_EXIT_S="1")
    assert "its sessions use the data directory" in found["Gemini CLI entry"]["says"]
    assert found["Gemini CLI entry"]["remedy"] == "ecorelay install gemini"
    said = ecorelay("doctor", code=1, ECORELAY_HOME="", ECORELAY_IDLE_EXIT_S="1")
    assert row(said.out, "Gemini CLI")[2] == "outdated"
    ecorelay("install", "gemini", ECORELAY_HOME="")
    said = ecorelay("doctor", ECORELAY_HOME="", ECORELAY_IDLE_EXIT_S="1")
    assert row(said.out, "Gemini CLI")[2] == "yes"
    ecorelay("uninstall", "--all", ECORELAY_HOME="")


def test_an_assistant_that_is_gone_is_not_set_up(ecorelay: Person):
    ecorelay("install")
    said = ecorelay("doctor", code=1, PATH="/usr/bin:/bin").out
    assert row(said, "Claude Code")[1:3] == ["not found", "no"]


def test_without_a_hub_the_table_does_not_know_who_is_live(ecorelay: Person):
    found = ecorelay("doctor", "--json", "--probe", code=1, ECORELAY_SPAWN="no").json
    assert {each["sessions"] for each in found["assistants"]} == {None}
    assert found["sessions"] == []
    assert row(ecorelay("doctor", code=1, ECORELAY_SPAWN="no").out, "Claude Code")[3] == "?"


def test_with_nobody_live_there_is_nothing_to_probe(ecorelay: Person):
    assert "none is live" in ecorelay("doctor", "--probe").err


@contextmanager
def live(ecorelay: Person, folder: Path, name: str, client: str) -> Iterator[subprocess.Popen[bytes]]:
    """A session's adapter, known to the hub."""
    with subprocess.Popen(
        [sys.executable, "-m", "ecorelay", "mcp"],
        env={**ecorelay.environ, "RELAY_PEER_ID": name},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
    ) as adapter:
        assert adapter.stdin is not None
        assert adapter.stdout is not None
        hello = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": client, "version": "1"},
        }
        request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        adapter.stdin.write(json.dumps(request).encode() + b"\n")
        adapter.stdin.flush()
        adapter.stdout.readline()
        yield adapter
        adapter.stdin.close()


def test_probing_tells_of_each_live_session_and_fails_for_one_that_is_frozen(
    ecorelay: Person, tmp_path: Path
):
    with live(ecorelay, tmp_path, "api", "codex-mcp-client"), live(ecorelay, tmp_path, "web", "t") as web:
        well = ecorelay("doctor", "--probe")
        assert row(well.out, "Codex CLI")[1:] == ["not found", "no", "1", "pull", "nothing yet"]
        assert row(well.out, "other MCP clients")[3] == "1"
        assert "2 live sessions probed: 0 well, 0 stopped, 2 not told" in well.err
        web.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            said = ecorelay("doctor", "--probe", "--json", code=1).json
            seconds = time.monotonic() - began
        finally:
            web.send_signal(signal.SIGCONT)
        assert said["ok"] is False
        assert not [each for each in said["checks"] if each["level"] == "fail"]
        assert seconds < 20
        api, frozen = said["sessions"]
        assert (frozen["peer"], frozen["probe"]["stage"], frozen["probe"]["ok"]) == ("web", "hub", False)
        assert 4_900 < frozen["probe"]["took_ms"] < 6_000
        [codex] = [each for each in said["assistants"] if each["name"] == "codex"]
        for each in (api, frozen):
            each["probe"] |= {"took_ms": "<number>", "adapter_ms": "<number>"}
        compare("doctor", {"assistants": [codex], "sessions": [api, frozen]}, ecorelay.paths.home)


def test_live_sessions_are_listed_with_what_mail_reaches_them_by(ecorelay: Person, tmp_path: Path):
    with live(ecorelay, tmp_path, "api", "t"):
        checks = ecorelay("doctor", "--json").json["checks"]
        (session,) = [each for each in checks if each["check"] == "session api"]
        assert "relay_inbox" in session["says"]
