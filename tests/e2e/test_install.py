"""``ecorelay install`` and ``uninstall`` as a person types them. A stand-in plays Claude Code's program."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecorelay.cli import removal
from ecorelay.endpoint import read_endpoint
from ecorelay.paths import Paths, choose_socket_path
from ecorelay.process import is_alive
from ecorelay_adapters.clients.assistant import Machine
from tests.helpers import standin_claude
from tests.helpers.command_line import CommandLine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")


class Person(CommandLine):
    """A command line with a home directory of its own, and `claude` on the PATH."""

    def __init__(self, root: Path, data: str = "a 'data' directory") -> None:
        self.home = root / "me"
        self.home.mkdir()
        super().__init__(
            root / data,
            HOME=str(self.home),
            PATH=f"{root / 'bin'}:/usr/bin:/bin",
            ECORELAY_IDLE_EXIT_S="60",
            CLAUDE_BIN="",
            CLAUDE_CONFIG_DIR="",
            XDG_CONFIG_HOME="",
        )
        standin_claude.make(root / "bin")
        # No service manager of whoever runs the tests.
        (root / "bin" / "systemctl").write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
        (root / "bin" / "systemctl").chmod(0o755)
        self.folder = self.paths.home / "claude-code"


@pytest.fixture
def ecorelay(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path)
    yield person
    person.end_hub()


def test_installing_shows_what_it_changes_and_does_it(ecorelay: Person):
    dry = ecorelay("install", "--dry-run")
    assert "+ .claude-plugin/marketplace.json" in dry.out
    assert "run `claude plugin install ecorelay@ecorelay`" in dry.out
    assert "nothing was changed" in dry.err
    assert not ecorelay.paths.home.exists()
    assert standin_claude.calls(ecorelay.home) == []
    done = ecorelay("install")
    assert done.out == dry.out
    assert "restart" in done.out
    assert "ecorelay doctor" in done.err
    assert len(standin_claude.calls(ecorelay.home)) == 2
    assert "Claude Code: nothing to change" in ecorelay("install", "claude-code").out


def test_a_failing_claude_is_told_and_the_same_command_goes_on(ecorelay: Person):
    said = ecorelay("install", code=1, STANDIN_FAILS="plugin install")
    assert "the sky is falling" in said.err
    assert "2 of 3 changes were made" in said.err
    again = ecorelay("install")
    assert "run `claude plugin install" in again.out
    assert "marketplace add" not in again.out
    said = ecorelay("install", code=1, STANDIN_FAILS="plugin marketplace list")
    assert "`claude plugin marketplace list" in said.err


def test_an_interrupted_install_ends_with_130_and_is_finished_by_the_next(ecorelay: Person):
    ecorelay.environ["STANDIN_SLEEPS"] = "plugin install"
    with ecorelay.start("install") as child:
        deadline = time.monotonic() + 60
        while not any("plugin install" in line for line in standin_claude.calls(ecorelay.home)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert b"interrupted after 2 of 3 changes" in err
    assert "plugins" not in standin_claude.state_of(ecorelay.home)
    del ecorelay.environ["STANDIN_SLEEPS"]
    ecorelay("install")
    assert "nothing to change" in ecorelay("install").out


def test_without_claude_the_commands_are_shown(ecorelay: Person):
    said = ecorelay("install", "claude-code", code=4, PATH="/usr/bin:/bin")
    assert "not found" in said.err
    assert said.out.splitlines()[-1] == "  claude plugin install ecorelay@ecorelay"
    assert ecorelay.folder.is_dir()
    nobody = ecorelay("install", code=4, PATH="/usr/bin:/bin")
    assert "none of the assistants" in nobody.err
    assert nobody.out == ""


def test_names_and_options_that_make_no_sense_are_refused(ecorelay: Person):
    assert "takes no names" in ecorelay("install", "--all", "codex", code=2).err
    assert "makes no sense" in ecorelay("install", "--uninstall", "--allow-tools", code=2).err
    assert "claude-code" in ecorelay("install", "emacs", code=2).err
    assert "needs --all" in ecorelay("uninstall", "--purge", code=2).err
    assert "takes no names" in ecorelay("uninstall", "--all", "claude-code", code=2).err


JSON_FILES = {
    "gemini": ".gemini/settings.json",
    "qwen": ".qwen/settings.json",
    "cline": ".cline/data/settings/cline_mcp_settings.json",
}
SETTINGS = """\
{
  "theme": "dark",
  "mcpServers": {
    "other": { "command": "other" }
  }
}
"""


def others(ecorelay: Person) -> dict[str, Path]:
    """Have the assistants here that are set up by one JSON file; those files, by name."""
    paths = {}
    for name, file in JSON_FILES.items():
        program = ecorelay.home.parent / "bin" / name
        program.write_text("#!/bin/sh\necho 1.2.3\n")
        program.chmod(0o755)
        paths[name] = ecorelay.home / file
        paths[name].parent.mkdir(parents=True)
        paths[name].write_text(SETTINGS)
    return paths


@pytest.mark.parametrize("words", [[], ["--all"]])
def test_all_that_are_found_are_set_up_and_set_back(ecorelay: Person, words: list[str]):
    paths = others(ecorelay)
    said = ecorelay("install", *words)
    assert "Cursor" not in said.out
    assert "Codex" not in said.out
    for path in paths.values():
        assert f"set up the MCP server ecorelay in {path}" in said.out
        assert '"ecorelay": {' in path.read_text()
        assert path.with_name(path.name + ".before-ecorelay").read_text() == SETTINGS
    assert ecorelay("install", *words).out.count(": nothing to change") == 4
    dry = ecorelay("install", "--uninstall", *words, "--dry-run")
    assert all('"ecorelay": {' in path.read_text() for path in paths.values())
    assert ecorelay("install", "--uninstall", *words).out == dry.out
    for path in paths.values():
        assert path.read_text() == SETTINGS
        assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert standin_claude.state_of(ecorelay.home)["plugins"] == {}


def test_one_that_cannot_be_set_up_does_not_keep_the_others_from_it(ecorelay: Person):
    paths = others(ecorelay)
    paths["gemini"].write_text('{\n  "a": 1\n  "b": 2\n}\n')
    paths["qwen"].chmod(0o444)
    said = ecorelay("install", code=2)
    place = f"{paths['gemini']} is no valid JSON (, or }} is expected at line 3, column 3): mend it first"
    assert f"Gemini CLI: {place}" in " ".join(said.err.split())
    assert "Qwen Code:" in said.err
    assert "read-only" in said.err
    assert paths["gemini"].read_text() == '{\n  "a": 1\n  "b": 2\n}\n'
    assert paths["qwen"].read_text() == SETTINGS
    assert '"ecorelay": {' in paths["cline"].read_text()
    assert "ecorelay@ecorelay" in standin_claude.state_of(ecorelay.home)["plugins"]
    undone = ecorelay("uninstall", code=2)
    assert "Gemini CLI:" in undone.err
    assert paths["cline"].read_text() == SETTINGS
    assert standin_claude.state_of(ecorelay.home)["plugins"] == {}


def test_settings_that_the_assistant_itself_cannot_read_are_no_success(ecorelay: Person):
    paths = others(ecorelay)
    paths["gemini"].write_text("\ufeff" + SETTINGS)
    said = ecorelay("install", "gemini", "qwen", code=2)
    assert "Gemini CLI cannot read" in said.err
    assert "byte order mark at line 1, column 1" in said.err
    assert "Qwen" not in said.err
    assert "ecorelay doctor" not in said.err
    assert '"ecorelay": {' in paths["gemini"].read_text("utf-8-sig")
    paths["gemini"].write_text(paths["gemini"].read_text("utf-8-sig"))
    assert ecorelay("install", "gemini", "qwen").out.count("nothing to change") == 2


def hang(ecorelay: Person, name: str) -> Path:
    """Have an assistant here that never tells its version. What notes each time it is asked."""
    program, asked = ecorelay.home.parent / "bin" / name, ecorelay.home / f"{name}-asked"
    program.write_text(f"#!/bin/sh\necho x >> '{asked}'\nexec sleep 60\n")
    program.chmod(0o755)
    os.utime(program, (1, 1))
    return asked


def test_assistants_that_hang_are_waited_for_once_and_side_by_side(ecorelay: Person):
    paths = others(ecorelay)
    asked = [hang(ecorelay, name) for name in JSON_FILES]
    began = time.monotonic()
    ours, theirs = pty.openpty()
    try:
        with ecorelay.start("install", stderr=theirs) as child:
            os.close(theirs)
            out, _ = child.communicate(timeout=60)
        said = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
    assert time.monotonic() - began < 25  # one after another they are 30
    assert child.returncode == 0
    assert said.count("looking for assistants") == 1
    assert out.count(b"--version` did not end within 10 s") == 3
    assert [each.read_text() for each in asked] == ["x\n"] * 3
    assert all('"ecorelay": {' in path.read_text() for path in paths.values())


def test_what_another_data_directory_set_up_is_taken_out_and_that_is_said(ecorelay: Person):
    paths = others(ecorelay)
    ecorelay("install", "gemini")
    elsewhere = str(ecorelay.home / "other data")
    said = ecorelay("uninstall", "gemini", ECORELAY_HOME=elsewhere).out
    assert f"used the data directory {ecorelay.paths.home}, not {elsewhere}" in said
    assert paths["gemini"].read_text() == SETTINGS


def test_a_data_directory_that_cannot_be_used_is_refused(ecorelay: Person):
    ecorelay.paths.home.write_text("in the way")
    said = ecorelay("install", code=2)
    assert "is no directory" in said.err
    assert standin_claude.calls(ecorelay.home) == []
    assert "must be an absolute path" in ecorelay("install", code=2, ECORELAY_HOME="data").err


def test_uninstalling_sets_back_what_installing_did_and_keeps_the_mail(ecorelay: Person):
    ecorelay("install")
    ecorelay("send", "ada", "precious")
    assert "run `claude plugin uninstall" in ecorelay("uninstall", "--dry-run").out
    assert ecorelay.folder.is_dir()
    ecorelay("uninstall")
    assert not ecorelay.folder.exists()
    assert standin_claude.state_of(ecorelay.home)["plugins"] == {}
    assert "Claude Code: nothing to change" in ecorelay("uninstall", "claude-code").out
    assert ecorelay("inbox", "--json").json["messages"][0]["text"] == "precious"


def test_nothing_is_uninstalled_where_nothing_was_installed(ecorelay: Person):
    assert ecorelay("uninstall").out == "assistants: nothing to change\n"
    both = ecorelay("uninstall", "claude-code", "gemini").out
    assert both == "Claude Code: nothing to change\nGemini CLI: nothing to change\n"
    said = ecorelay("uninstall", "--all", "--purge")
    assert said.out.count(": nothing to change") == 5
    assert not ecorelay.paths.home.exists()


def completion(home: Path) -> None:
    (home / ".bash_completions").mkdir()
    (home / ".bash_completions" / "ecorelay.sh").write_text("complete …")
    script = home / ".bash_completions" / "ecorelay.sh"
    (home / ".bashrc").write_text(f"alias ll='ls -l'\n\nsource '{script}'\nexport X=1\n")


def test_everything_goes_with_all_and_purge(ecorelay: Person):
    ecorelay("install")
    ecorelay("send", "ada", "precious")
    pid = ecorelay("hub", "status", "--json").json["pid"]
    completion(ecorelay.home)
    ecorelay("bridge-init")
    ecorelay("trust", "desk", "SHA256:" + "A" * 43)
    unasked = ecorelay("uninstall", "--all", "--purge", code=2)
    assert "--yes" in unasked.err
    assert is_alive(pid)
    said = ecorelay("uninstall", "--all", "--purge", "--yes")
    assert f"stop the hub (pid {pid})" in said.out
    assert "- hub.db (" in said.out
    assert not is_alive(pid)
    assert not ecorelay.paths.home.exists()
    assert not (ecorelay.home / ".bash_completions" / "ecorelay.sh").exists()
    assert (ecorelay.home / ".bashrc").read_text() == "alias ll='ls -l'\n\nexport X=1\n"
    assert "uv tool uninstall ecorelay" in said.err
    assert standin_claude.state_of(ecorelay.home)["plugins"] == {}


def test_without_purge_all_keeps_the_mail(ecorelay: Person):
    ecorelay("send", "ada", "precious")
    ecorelay("uninstall", "--all")
    assert ecorelay.paths.database.exists()
    assert ecorelay("inbox", "--json").json["messages"][0]["text"] == "precious"


def test_sockets_of_killed_processes_go_wherever_they_are(tmp_path: Path):
    with tempfile.TemporaryDirectory(prefix="er-") as short:  # that of pytest is too long for a socket
        person = Person(tmp_path, "deep" * 30)
        person.environ |= {"TMPDIR": short, "XDG_RUNTIME_DIR": ""}
        try:
            person("send", "ada", "precious")
            endpoint = read_endpoint(person.paths.endpoint)
            assert endpoint is not None
            assert Path(endpoint.path).parent.parent == Path(short)
            os.kill(endpoint.pid, signal.SIGKILL)
            other = Path(endpoint.path).with_name("123.sock")
            other.touch()
            dry = person("uninstall", "--all", "--purge", "--dry-run")
            assert "- hub.sock" in dry.out
            assert other.exists()
            person("uninstall", "--all", "--purge", "--yes")
            assert os.listdir(short) == []
            assert not person.paths.home.exists()
        finally:
            person.end_hub()


@pytest.mark.parametrize("kind", ["link", "file", "open to others"])
def test_a_folder_for_sockets_that_is_not_ours_alone_stays(tmp_path: Path, kind: str):
    paths = Paths(tmp_path / ("deep" * 30))
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    place = choose_socket_path(paths, environ).parent
    machine = Machine(environ=environ, paths=paths, program=("/bin/ecorelay",), version="1")
    [(_, *_), (_, *_), (_, *_), (_, plan)] = removal.plans(machine, purge=True)
    assert [step.title for step in plan.steps] == [f"delete {place}"]
    place.rmdir()
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    (mine / "precious").touch()
    if kind == "link":
        place.symlink_to(mine)
    elif kind == "file":
        place.write_text("x")
    else:
        mine.rename(place)
        place.chmod(0o770)
    [(_, *_), (_, *_), (_, *_), (_, plan)] = removal.plans(machine, purge=True)
    assert plan.steps == ()


def test_what_is_not_ours_in_the_data_directory_stays(ecorelay: Person):
    ecorelay("send", "ada", "x")
    (ecorelay.paths.home / "thesis.tex").write_text("years of work")
    said = ecorelay("uninstall", "--all", "--purge", "--yes")
    assert "left alone: thesis.tex" in said.out
    assert [path.name for path in ecorelay.paths.home.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("answer", "code"), [(b"yes\n", 0), (b"y\n", 1), (b"\n", 1)])
def test_a_person_is_asked_before_mail_is_deleted(ecorelay: Person, answer: bytes, code: int):
    ecorelay("send", "ada", "precious")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        ended = subprocess.run(
            [sys.executable, "-m", "ecorelay", "uninstall", "--all", "--purge"],
            env=ecorelay.environ,
            stdin=theirs,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert ended.returncode == code, ended
    assert b"for good" in ended.stderr
    assert ecorelay.paths.database.exists() == (code != 0)
