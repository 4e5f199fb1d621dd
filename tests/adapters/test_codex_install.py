"""``ecorelay install codex``: one entry in a file of Codex's that people write by hand."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ecorelay.errors import RelayError
from ecorelay.paths import find_paths
from ecorelay_adapters.clients import toml_entry
from ecorelay_adapters.clients.assistant import Machine, Plan
from ecorelay_adapters.clients.codex import Codex
from ecorelay_adapters.clients.entry_file import backup_path

PROGRAM = ("/opt/ecorelay/bin/ecorelay",)
ENTRY = {
    "command": PROGRAM[0],
    "args": ["mcp", "--carrier", "codex"],
    "required": True,
    "startup_timeout_sec": 30,
    "tool_timeout_sec": 660,
}
CODEX = '#!/bin/sh\necho "codex-cli {version}"\n'


@dataclasses.dataclass
class Home:
    """A person's home with Codex in it."""

    root: Path
    environ: dict[str, str]
    codex: Codex = dataclasses.field(default_factory=Codex)

    def machine(self, **more: Any) -> Machine:
        given = {"program": PROGRAM, **more}
        return Machine(environ=self.environ, paths=find_paths(self.environ), version="1.0", **given)

    @property
    def config(self) -> Path:
        return self.codex.config_path(self.machine())

    def write(self, content: str | bytes) -> bytes:
        data = content if isinstance(content, bytes) else content.encode()
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_bytes(data)
        return data

    def install(self, **more: Any) -> Plan:
        return self._do(self.codex.plan_install(self.machine(**more)))

    def uninstall(self) -> Plan:
        return self._do(self.codex.plan_removal(self.machine()))

    def _do(self, plan: Plan) -> Plan:
        for step in plan.steps:
            step.do()
        return plan

    def entry(self) -> dict[str, Any]:
        found: dict[str, Any] = tomllib.loads(self.config.read_text("utf-8-sig"))["mcp_servers"]["ecorelay"]
        return found

    def files(self) -> list[str]:
        return sorted(path.name for path in self.config.parent.iterdir())

    def checks(self, **more: Any) -> dict[str, tuple[str, str]]:
        return {each.check: (each.level, each.says) for each in self.codex.check(self.machine(**more))}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "codex").write_text(CODEX.format(version="0.169.0"))
    (bin / "codex").chmod(0o755)
    (tmp_path / ".codex").mkdir()
    return Home(tmp_path, {"HOME": str(tmp_path), "PATH": f"{bin}:/usr/bin:/bin"})


# --- a file that cannot be changed ---------------------------------------------------------------------

BROKEN: dict[str, tuple[str | bytes, str]] = {
    "no value": ('model = "x"\nname =\n', "line 2, column 7"),
    "open string": ('model = "x\n', "line 1, column 11"),
    "open table": ("a = 1\n[mcp_servers", "line 2, column 13"),
    "twice": ("a = 1\na = 2\n", "line 2, column 6"),
    "table twice": ("[a]\n[a]\n", "line 2, column 3"),
    "json": ('{"model": "x"}\n', "line 1, column 1"),
    "merge mark": ("a = 1\n<<<<<<< HEAD\n", "line 2, column 1"),
    "windows lines": ("a = 1\r\nb = \r\n", "line 2, column 5"),
    "byte order mark": ("\ufeffa = \n", "line 1, column 5"),
    "cut off": ('a = """never', "line 1, column 13"),
    "a number without end": ("a = " + "9" * 5_000, "a number that is far too long"),
    "no UTF-8": (b'a = 1\nb = "\xff"\n', "line 2, column 6"),
    "UTF-16": ("a = 1\n".encode("utf-16"), "line 1, column 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_with_the_place_and_not_touched(home: Home, case: str):
    content, place = BROKEN[case]
    data = home.write(content)
    for plan in (home.install(), home.uninstall()):
        assert plan.steps == ()
        assert str(home.config) in plan.problem
        assert place in plan.problem
    assert home.config.read_bytes() == data
    assert home.files() == ["config.toml"]
    assert home.checks()["Codex CLI entry"][0] == "fail"
    assert home.codex.configured(home.machine()) is None


@pytest.mark.parametrize(
    "content",
    [
        "mcp_servers = 3\n",
        "mcp_servers = []\n",
        "[mcp_servers]\necorelay = true\n",
        "[[mcp_servers]]\ncommand = 'x'\n",
        "[mcp_servers.ecorelay]\nurl = 'https://example.org/mcp'\n",
    ],
)
def test_something_else_in_our_place_is_refused(home: Home, content: str):
    data = home.write(content)
    assert home.install().problem
    assert not home.uninstall().steps
    assert home.config.read_bytes() == data
    assert home.files() == ["config.toml"]


def test_a_read_only_file_is_refused(home: Home):
    data = home.write("a = 1\n")
    home.config.chmod(0o444)
    with pytest.raises(RelayError, match="read-only"):
        home.install()
    assert home.config.read_bytes() == data
    assert home.files() == ["config.toml"]


def test_a_file_that_is_a_folder_is_refused(home: Home):
    home.config.mkdir()
    assert "cannot read" in home.install().problem


# --- put in and taken out ------------------------------------------------------------------------------

FILES = {
    "empty": "",
    "a comment": "# mine\n",
    "blank lines": "\n\n",
    "settings": '# mine\nmodel = "x" # the best\n\n[tui]\ntheme = "dark"\n',
    "no newline at the end": 'model = "x"',
    "a comment at the end": "[tui]\na = 1\n# the end",
    "other servers": '[mcp_servers.a]\ncommand = "a" # one\n\n[mcp_servers.b]\ncommand = "b"\n\n[tui]\na=1\n',
    "servers apart": '[mcp_servers.a]\ncommand = "a"\n[tui]\na=1\n[mcp_servers.b]\ncommand = "b"\n',
    "an empty table": "[mcp_servers]\n",
    "an inline table": 'mcp_servers = { a = { command = "a" } } # all\nz = 1\n[tui]\n',
    "dotted": 'mcp_servers.a.command = "a"\nmcp_servers.a.args = []\n[tui]\n',
    "a table around": '[mcp_servers]\na = { command = "a" }\n\n[tui]\n',
    "windows": '# mine\r\nmodel = "x"\r\n[tui]\r\na = 1\r\n',
    "byte order mark": '\ufeffmodel = "x"\n',
    "mixed lines": 'model = "x"\r\nb = 2\n',
    "tabs and arrays": "a = [\n\t1, # one\n\t2,\n]\n[[b]]\nc\t=\t1\n[[b]]\nc = 2\n",
    "not ASCII": 'name = "Ærøskøbing 🏝"\n["quoted key".x]\ny = 1\n',
    "multi-line strings": 'a = """\n[mcp_servers.ecorelay]\ncommand = 1\n"""\n',
}


@pytest.mark.parametrize("case", FILES)
def test_installed_all_else_stays_and_uninstalled_every_byte_is_as_it_was(home: Home, case: str):
    data = home.write(FILES[case])
    home.config.chmod(0o640)
    before = tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))
    assert len(home.install().steps) == 1
    after = tomllib.loads(home.config.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    assert after.pop("mcp_servers") == {**before.pop("mcp_servers", {}), "ecorelay": ENTRY}
    assert after == before
    assert home.config.stat().st_mode & 0o777 == 0o640
    assert backup_path(home.config).read_bytes() == data
    for line in data.splitlines():
        assert line.partition(b"#")[2] in home.config.read_bytes()
    changed = home.config.read_bytes()
    assert home.install().steps == ()
    assert home.config.read_bytes() == changed

    assert len(home.uninstall().steps) == 1
    assert home.config.read_bytes() == data
    assert home.config.stat().st_mode & 0o777 == 0o640
    assert home.files() == ["config.toml"]
    assert home.uninstall() == Plan()


@pytest.mark.parametrize("case", FILES)
def test_what_changed_since_is_kept_when_ours_is_taken_out(home: Home, case: str):
    data = home.write(FILES[case])
    home.install()
    marked = home.config.read_bytes() + b"[later]\nx = 1\n"
    home.config.write_bytes(marked)
    assert len(home.uninstall().steps) == 1
    left = tomllib.loads(home.config.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    before = tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))
    if not before.get("mcp_servers", True):
        del before["mcp_servers"]
    assert left == {**before, "later": {"x": 1}}


def test_a_number_that_is_not_even_itself_is_no_hindrance(home: Home):
    data = home.write("a = nan\nb = [-inf, {c = nan}]\n")
    assert len(home.install().steps) == 1
    assert home.entry() == ENTRY
    assert home.install().steps == ()
    home.uninstall()
    assert home.config.read_bytes() == data


def test_without_a_file_there_is_none_again_afterwards(home: Home):
    home.install()
    assert home.entry() == ENTRY
    assert home.config.stat().st_mode & 0o777 == 0o600
    home.uninstall()
    assert home.files() == []


def test_without_codex_home_the_folder_is_made(home: Home):
    home.environ["CODEX_HOME"] = str(home.root / "elsewhere" / "codex")
    home.install()
    assert home.entry()["env"] == {"CODEX_HOME": home.environ["CODEX_HOME"]}
    assert home.config == home.root / "elsewhere" / "codex" / "config.toml"


def test_a_link_stays_a_link(home: Home):
    (home.root / "dotfiles").mkdir()
    real = home.root / "dotfiles" / "codex.toml"
    real.write_text("a = 1\n")
    home.config.symlink_to(real)
    home.install()
    assert home.config.is_symlink()
    assert "ecorelay" in real.read_text()
    home.uninstall()
    assert home.config.is_symlink()
    assert real.read_text() == "a = 1\n"


def test_what_a_person_changed_in_the_entry_stays_and_the_program_follows(home: Home):
    home.write("[tui]\n")
    home.install()
    text = home.config.read_text().replace("tool_timeout_sec = 660", "tool_timeout_sec = 90 # mine")
    home.config.write_text(text + 'enabled_tools = ["relay_send"]\n')
    moved = ("/new/python", "-P", "-m", "ecorelay")
    assert home.checks(program=moved)["Codex CLI entry"][0] == "warn"
    assert len(home.install(program=moved).steps) == 1
    entry = home.entry()
    assert (entry["command"], entry["args"]) == (
        "/new/python",
        ["-P", "-m", "ecorelay", "mcp", "--carrier", "codex"],
    )
    assert entry["enabled_tools"] == ["relay_send"]
    assert "tool_timeout_sec = 90 # mine" in home.config.read_text()
    home.uninstall()
    assert home.config.read_text() == "[tui]\n"


def test_tools_are_allowed_only_when_asked(home: Home):
    plan = home.install()
    assert "default_tools_approval_mode" not in home.entry()
    assert any("--allow-tools" in note for note in plan.notes)
    home.install(allow_tools=True)
    assert home.entry()["default_tools_approval_mode"] == "approve"
    home.install()
    assert home.entry()["default_tools_approval_mode"] == "approve"
    home.uninstall()
    assert home.files() == []


def test_variables_that_lead_to_the_data_stand_in_the_entry(home: Home):
    home.environ["ECORELAY_HOME"] = str(home.root / "data")
    home.write(
        "[mcp_servers.ecorelay]\ncommand = 'old'\nargs = ['mcp']\n[mcp_servers.ecorelay.env]\nX = '1'\n"
    )
    home.install()
    assert home.entry()["env"] == {"X": "1", "ECORELAY_HOME": str(home.root / "data")}
    told = home.codex.configured(home.machine())
    assert told is not None
    assert told.server is not None
    assert told.server.words == (*PROGRAM, "mcp", "--carrier", "codex")
    assert told.server.variables["ECORELAY_HOME"] == str(home.root / "data")
    assert home.checks()["Codex CLI entry"][0] == "ok"
    del home.environ["ECORELAY_HOME"]
    assert home.checks()["Codex CLI entry"][0] == "fail"
    home.install()  # what the doctor says to do
    assert home.entry()["env"] == {"X": "1"}
    assert home.checks()["Codex CLI entry"][0] == "ok"


@pytest.mark.parametrize("case", FILES)
def test_an_install_without_a_data_directory_leads_to_the_usual_one(home: Home, case: str):
    data = home.write(FILES[case])
    home.environ["ECORELAY_HOME"] = str(home.root / "data")
    home.install()
    del home.environ["ECORELAY_HOME"]
    assert len(home.install().steps) == 1
    assert home.entry() == ENTRY
    assert home.install().steps == ()
    home.uninstall()
    assert home.config.read_bytes() == data
    assert home.files() == ["config.toml"]


@pytest.mark.parametrize(
    ("env", "left"),
    [
        ('env = { ECORELAY_HOME = "/d" }\n', {}),
        ('env = { ECORELAY_HOME = "/d", X = "1" }\n', {"X": "1"}),
        ('env = { X = "1", ECORELAY_HOME = "/d" } # mine\n', {"X": "1"}),
        ('env.ECORELAY_HOME = "/d"\nenv.X = "1"\n', {"X": "1"}),
        ('[mcp_servers.ecorelay.env]\nX = "1" # mine\nECORELAY_HOME = "/d"\n', {"X": "1"}),
        ('[mcp_servers.ecorelay.env]\nECORELAY_HOME = "/d"\n\n[tui]\n', {}),
    ],
)
def test_the_variable_goes_however_it_is_written(home: Home, env: str, left: dict[str, str]):
    home.write(f"a = 1 # one\n[mcp_servers.ecorelay]\ncommand = 'old'\nargs = ['mcp']\n{env}")
    assert home.install().problem == ""
    assert home.entry().get("env", {}) == left
    assert home.config.read_text().startswith("a = 1 # one\n")
    assert ("# mine" in env) == ("# mine" in home.config.read_text())


def test_a_server_of_our_name_that_is_not_ours_stays(home: Home):
    data = home.write("[mcp_servers.ecorelay]\ncommand = 'something'\nargs = ['else']\n")
    plan = home.uninstall()
    assert plan.steps == ()
    assert "stays" in plan.notes[0]
    assert home.config.read_bytes() == data


def test_a_plan_that_is_only_shown_changes_nothing(home: Home):
    data = home.write("a = 1\n")
    plan = home.codex.plan_install(home.machine())
    assert any(line.strip().startswith("+[mcp_servers.ecorelay]") for line in plan.steps[0].diff)
    assert home.config.read_bytes() == data
    assert home.files() == ["config.toml"]


def test_a_file_changed_between_plan_and_step_keeps_the_change(home: Home):
    home.write("a = 1\n")
    plan = home.codex.plan_install(home.machine())
    home.write("a = 2\n")
    plan.steps[0].do()
    assert tomllib.loads(home.config.read_text())["a"] == 2
    home.uninstall()
    assert home.config.read_text() == "a = 2\n"


# --- the program ---------------------------------------------------------------------------------------


def test_the_program_is_found_and_its_version_told(home: Home):
    found = home.codex.find(home.machine())
    assert found is not None
    assert (found.version, found.problem) == ("0.169.0", "")
    assert home.checks()["Codex CLI"] == ("ok", f"0.169.0 ({home.root}/bin/codex)")
    assert home.checks()["Codex CLI entry"][0] == "warn"


def test_an_old_codex_works_and_gets_no_mail_by_itself(home: Home):
    (home.root / "bin" / "codex").write_text(CODEX.format(version="0.98.1"))
    level, says = home.checks()["Codex CLI"]
    assert level == "warn"
    assert "relay_inbox" in says


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho hello\n", "#!/nowhere/sh\n"])
def test_a_program_that_does_not_work_is_told(home: Home, script: str):
    (home.root / "bin" / "codex").write_text(script)
    assert home.checks()["Codex CLI"][0] == "fail"
    assert any("codex" in note for note in home.install().notes)
    assert home.entry() == ENTRY


def test_without_the_program_the_entry_is_written_all_the_same(home: Home):
    (home.root / "bin" / "codex").unlink()
    home.environ["PATH"] = str(home.root / "bin")
    assert home.codex.find(home.machine()) is None
    assert "the program `codex` is not on the PATH" in home.install().notes
    assert home.checks()["Codex CLI"][0] == "fail"
    home.environ["CODEX_BIN"] = "/nowhere/codex"
    assert home.checks()["Codex CLI"][1] == "/nowhere/codex is no program that can be run"


def test_a_disabled_entry_is_told_and_left(home: Home):
    home.install()
    home.config.write_text(home.config.read_text() + "enabled = false\n")
    assert any("disabled" in note for note in home.install().notes)
    assert home.checks()["Codex CLI entry"][0] == "warn"


def test_importing_the_table_imports_no_tomlkit():
    code = "import sys, ecorelay_adapters.clients; assert 'tomlkit' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- text to text --------------------------------------------------------------------------------------


def test_taking_out_what_is_not_there_changes_nothing():
    assert toml_entry.take_out("a = 1\n", Codex.place, "x") == "a = 1\n"
    assert toml_entry.put("[a]\nb = 1\n", ("a", "c"), {"d": 1}, "x").startswith("[a]\nb = 1\n")
