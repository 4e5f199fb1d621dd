"""``ecorelay install`` for assistants that need no more than one MCP server in one JSON file."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ecorelay.cli.doctor_assistant import look
from ecorelay.errors import RelayError
from ecorelay.paths import find_paths
from ecorelay_adapters.clients import ASSISTANTS, json_entry, program
from ecorelay_adapters.clients.assistant import Machine, Plan
from ecorelay_adapters.clients.entry_file import backup_path
from ecorelay_adapters.clients.hooked import Hooked
from ecorelay_adapters.clients.one_server import OneServer

PROGRAM = ("/opt/ecorelay/bin/ecorelay",)
ENTRIES: dict[str, dict[str, Any]] = {
    "antigravity": {"command": PROGRAM[0], "args": ["mcp", "--carrier", "antigravity"]},
    "cursor": {"command": PROGRAM[0], "args": ["mcp", "--carrier", "cursor"]},
    "gemini": {"command": PROGRAM[0], "args": ["mcp"], "timeout": 660_000},
    "qwen": {"command": PROGRAM[0], "args": ["mcp", "--carrier", "qwen"], "timeout": 660_000},
    "cline": {"command": PROGRAM[0], "args": ["mcp"], "timeout": 660},
}
PATHS = {
    "antigravity": ".gemini/config/mcp_config.json",
    "cursor": ".cursor/mcp.json",
    "gemini": ".gemini/settings.json",
    "qwen": ".qwen/settings.json",
    "cline": ".cline/data/settings/cline_mcp_settings.json",
}
PROGRAMS = {
    "antigravity": "agy",
    "cursor": "cursor-agent",
    "gemini": "gemini",
    "qwen": "qwen",
    "cline": "cline",
}
SETTINGS = '{\n  "theme": "dark",\n  "mcpServers": {\n    "other": { "command": "x" }\n  }\n}\n'


@dataclasses.dataclass
class Home:
    """A person's home with one assistant in it."""

    root: Path
    assistant: OneServer
    environ: dict[str, str]

    def machine(self, **more: Any) -> Machine:
        given = {"program": PROGRAM, **more}
        return Machine(environ=self.environ, paths=find_paths(self.environ), version="1.0", **given)

    @property
    def config(self) -> Path:
        return self.assistant.config_path(self.machine())

    def write(self, text: str) -> None:
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)

    def install(self, **more: Any) -> Plan:
        return self._do(self.assistant.plan_install(self.machine(**more)))

    def uninstall(self) -> Plan:
        return self._do(self.assistant.plan_removal(self.machine()))

    def _do(self, plan: Plan) -> Plan:
        for step in plan.steps:
            step.do()
        return plan

    def entry(self) -> dict[str, Any]:
        text = self.config.read_text("utf-8-sig")
        return json_entry.parse(text, "x")["mcpServers"]["ecorelay"]

    def checks(self, **more: Any) -> dict[str, tuple[str, str]]:
        return {each.check: (each.level, each.says) for each in self.assistant.check(self.machine(**more))}

    def has(self, name: str, script: str = "#!/bin/sh\necho version 1.2.3-beta\n") -> Path:
        path = self.root / "bin" / name
        path.write_text(script)
        path.chmod(0o755)
        return path


def make_home(root: Path, name: str) -> Home:
    (root / "bin").mkdir()
    [assistant] = [each for each in ASSISTANTS if each.name == name]
    assert isinstance(assistant, OneServer)
    home = Home(root, assistant, {"HOME": str(root), "PATH": f"{root / 'bin'}:/usr/bin:/bin"})
    home.has(PROGRAMS[name])
    return home


@pytest.fixture(params=ENTRIES)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return make_home(tmp_path, request.param)


@pytest.fixture(params=["antigravity", "cursor"])
def hooked(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return make_home(tmp_path, request.param)


def test_the_order_of_the_table():
    names = [each.name for each in ASSISTANTS]
    order = [
        "claude-code",
        "codex",
        "opencode",
        "copilot",
        "antigravity",
        "cursor",
        "gemini",
        "qwen",
        "cline",
    ]
    assert names == [name for name in order if name in names]
    assert {*ENTRIES, "claude-code", "codex"} <= {*names}


# --- what cannot be changed ----------------------------------------------------------------------------


def test_broken_settings_are_refused_with_the_place_and_not_touched(home: Home):
    home.write('{\n  "a": 1,,\n}')
    for plan in (home.install(), home.uninstall()):
        assert plan.steps == () or isinstance(home.assistant, Hooked)
        assert f"{home.config} is no valid JSON" in plan.problem
        assert "line 2, column 10" in plan.problem
        assert plan.code == "bad_args"
    assert home.config.read_text() == '{\n  "a": 1,,\n}'
    assert home.checks()[f"{home.assistant.title} entry"][0] == "fail"
    remedies = [each.remedy for each in home.assistant.check(home.machine()) if each.level == "fail"]
    assert remedies == [f"mend it, then `ecorelay install {home.assistant.name}`"]
    configured = home.assistant.configured(home.machine())
    assert configured is None or configured.server is None


@pytest.mark.parametrize("text", ['{\n  "a": 1,,\n}', '{"mcpServers": {"ecorelay": {"url": "https://x"}}}'])
def test_where_the_server_is_refused_no_hooks_are_put_in(hooked: Home, text: str):
    assert isinstance(hooked.assistant, Hooked)
    hooked.write(text)
    plan = hooked.install()
    assert (plan.problem != "", plan.steps) == (True, ())
    assert not hooked.assistant.hooks_path(hooked.machine()).exists()
    assert look(hooked.assistant, hooked.machine()).set_up == "no"


def test_hooks_that_are_left_without_the_server_are_no_set_up(hooked: Home):
    hooked.install()
    hooked.write("[]")
    found = look(hooked.assistant, hooked.machine())
    assert found.configured is not None
    assert found.set_up == "no"
    hooked.write("{}")
    assert look(hooked.assistant, hooked.machine()).set_up == "outdated"


@pytest.mark.parametrize("key", ["url", "httpUrl", "serverUrl"])
def test_a_server_of_our_name_at_a_url_is_refused(home: Home, key: str):
    text = json.dumps({"mcpServers": {"ecorelay": {key: "https://example.org/mcp"}}})
    home.write(text)
    assert "is a server at a URL" in home.install().problem
    assert any("stays" in note for note in home.uninstall().notes)
    assert home.config.read_text() == text


def test_read_only_settings_are_refused(home: Home):
    home.write(SETTINGS)
    home.config.chmod(0o444)
    with pytest.raises(RelayError, match="read-only"):
        home.install()
    assert home.config.read_text() == SETTINGS


# --- put in and taken out ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", "{}", SETTINGS])
def test_the_entry_is_written_once_and_taken_out_without_a_trace(home: Home, text: str | None):
    if text is not None:
        home.write(text)
    assert home.config == home.root / PATHS[home.assistant.name]
    plan = home.install()
    assert plan.problem == ""
    assert str(home.config) in plan.steps[0].title
    assert home.entry() == ENTRIES[home.assistant.name]
    assert backup_path(home.config).exists() == (text is not None)
    assert home.install().steps == ()
    assert all(level == "ok" for level, _ in home.checks().values()), home.checks()
    home.uninstall()
    assert (home.config.read_text() if home.config.exists() else None) == text
    assert not backup_path(home.config).exists()
    assert home.uninstall() == Plan()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_folders_that_were_made_go_and_those_that_were_there_stay(home: Home, depth: int):
    there = [*reversed(home.config.relative_to(home.root).parents)][: depth + 1]
    (home.root / there[-1]).mkdir(parents=True, exist_ok=True)
    before = sorted(home.root.rglob("*"))
    home.install()
    home.install(program=("/new/ecorelay",))
    home.uninstall()
    assert sorted(home.root.rglob("*")) == before


def test_folders_that_two_assistants_need_go_with_the_last(tmp_path: Path):
    for order in (("gemini", "antigravity"), ("antigravity", "gemini")):
        root = tmp_path / order[0]
        root.mkdir()
        one = make_home(root, order[0])
        other = Home(root, next(each for each in ASSISTANTS if each.name == order[1]), one.environ)  # type: ignore[arg-type]
        before = sorted(root.rglob("*"))
        one.install()
        other.install()
        one.uninstall()
        assert other.entry() == ENTRIES[order[1]]
        other.uninstall()
        assert sorted(root.rglob("*")) == before


def test_a_new_file_is_shown_whole(home: Home):
    plan = home.assistant.plan_install(home.machine())
    assert plan.steps[0].title == f"set up the MCP server ecorelay in {home.config}"
    first, *lines = plan.steps[0].diff
    assert first == f"+ {home.config.name}"
    text = "".join(line.removeprefix("  +") + "\n" for line in lines)
    plan.steps[0].do()
    assert home.config.read_text() == text


def test_tools_are_allowed_only_when_asked_and_where_that_can_be_said(home: Home):
    plan = home.install()
    asks = any("--allow-tools says that it need not" in note for note in plan.notes)
    assert asks == (home.assistant.name in ("gemini", "qwen"))
    home.install(allow_tools=True)
    allowed = {"trust": True} if asks else {}
    assert home.entry() == {**ENTRIES[home.assistant.name], **allowed}
    again = home.install()
    assert again.steps == ()
    assert not any("--allow-tools says" in note for note in again.notes)
    assert home.entry() == {**ENTRIES[home.assistant.name], **allowed}


def test_the_data_directory_stands_in_the_entry_where_a_person_chose_it(home: Home):
    home.environ["ECORELAY_HOME"] = str(home.root / "data")
    home.write('{"mcpServers": {"ecorelay": {"command": "old", "args": ["mcp"], "env": {"X": "1"}}}}')
    home.install()
    assert home.entry()["env"] == {"X": "1", "ECORELAY_HOME": str(home.root / "data")}
    told = home.assistant.configured(home.machine())
    assert told is not None
    assert told.server is not None
    assert told.server.words == (*PROGRAM, *ENTRIES[home.assistant.name]["args"])
    assert told.server.variables == {"X": "1", "ECORELAY_HOME": str(home.root / "data")}
    check = f"{home.assistant.title} entry"
    assert home.checks()[check][0] == "ok"
    del home.environ["ECORELAY_HOME"]
    assert home.checks()[check][0] == "fail"
    assert str(home.root / "data") in home.checks()[check][1]
    assert home.install().problem == ""  # what the doctor says to do
    assert home.entry()["env"] == {"X": "1"}
    assert home.checks()[check][0] == "ok"


@pytest.mark.parametrize("text", [None, "{}", SETTINGS])
def test_an_install_without_a_data_directory_takes_all_of_the_assistant_to_the_usual_one(
    home: Home, text: str | None
):
    if text is not None:
        home.write(text)
    home.environ["ECORELAY_HOME"] = str(home.root / "data")
    home.install()
    del home.environ["ECORELAY_HOME"]
    assert home.install().steps
    assert home.entry() == ENTRIES[home.assistant.name]
    assert home.install().steps == ()
    assert all(level == "ok" for level, _ in home.checks().values()), home.checks()
    assert "ECORELAY_HOME" not in "".join(path.read_text() for path in home.config.parent.glob("*.json"))
    home.uninstall()
    assert (home.config.read_text() if home.config.exists() else None) == text


def test_taken_out_for_another_data_directory_that_one_is_named(home: Home):
    home.environ["ECORELAY_HOME"] = str(home.root / "data")
    home.install()
    home.environ["ECORELAY_HOME"] = str(home.root / "other")
    notes = " ".join(home.assistant.plan_removal(home.machine()).notes)
    assert f"used the data directory {home.root / 'data'}, not {home.root / 'other'}" in notes
    del home.environ["ECORELAY_HOME"]
    assert f"used the data directory {home.root / 'data'}" in " ".join(home.uninstall().notes)
    assert not home.config.exists()
    home.install()
    assert "used the data directory" not in " ".join(home.uninstall().notes)


def test_a_program_that_moved_is_followed_and_what_a_person_changed_stays(home: Home):
    home.write(SETTINGS)
    home.install()
    home.write(json_entry.put(home.config.read_text(), ("mcpServers", "ecorelay"), {"timeout": 5}, "x"))
    moved = ("/new/python", "-P", "-m", "ecorelay")
    check = f"{home.assistant.title} entry"
    assert home.checks(program=moved)[check][0] == "warn"
    home.install(program=moved)
    entry = home.entry()
    assert (entry["command"], entry["args"][:4]) == ("/new/python", ["-P", "-m", "ecorelay", "mcp"])
    assert entry["timeout"] == 5
    home.uninstall()
    assert home.config.read_text() == SETTINGS


def test_a_server_of_our_name_that_is_not_ours_stays(home: Home):
    text = '{"mcpServers": {"ecorelay": {"command": "else", "args": []}}}'
    home.write(text)
    assert any("stays" in note for note in home.uninstall().notes)
    assert home.config.read_text() == text
    assert home.assistant.configured(home.machine()) is None


def test_a_disabled_entry_is_told_and_left(home: Home):
    home.install()
    home.write(json_entry.put(home.config.read_text(), ("mcpServers", "ecorelay"), {"disabled": True}, "x"))
    assert any("disabled" in note for note in home.install().notes)
    assert home.checks()[f"{home.assistant.title} entry"][0] == "warn"


def test_what_the_program_itself_cannot_read_is_told(home: Home):
    name, title = home.assistant.name, home.assistant.title
    for text, kind in (
        ('{ /* mine */ "a": 1 }', "a comment at line 1, column 3"),
        ('{\n  "a": [1,]\n}', "a comma before a closing bracket at line 2, column 10"),
        ('\ufeff{"a": 1}', "a byte order mark at line 1, column 1"),
    ):
        home.write(text)
        plan = home.install()
        reads = name in ("cursor", "antigravity") or (name != "cline" and "comment" in kind)
        told = (
            f"{title} cannot read {home.config}: it has {kind}, and so has no MCP server of ecorelay either"
        )
        assert plan.problem.removesuffix(" until that is gone") == ("" if reads else told)
        assert plan.steps
        assert home.checks()[f"{title} entry"][0] == ("ok" if reads else "fail")
        home.uninstall()
        assert home.config.read_text() == text


# --- the program ---------------------------------------------------------------------------------------


def test_the_program_is_found_named_or_missed(home: Home):
    name, program = home.assistant.name, PROGRAMS[home.assistant.name]
    found = home.assistant.find(home.machine())
    assert found is not None
    assert (found.version, found.path, found.problem) == ("1.2.3", str(home.root / "bin" / program), "")
    (home.root / "bin" / program).unlink()
    home.environ["PATH"] = str(home.root / "bin")
    assert home.assistant.find(home.machine()) is None
    assert any(f"`{program}`" in note and "PATH" in note for note in home.install().notes)
    assert home.checks()[home.assistant.title][0] == "fail"
    variable = home.assistant.variable
    home.environ[variable] = "/nowhere/at/all"
    assert home.checks()[home.assistant.title][1] == "/nowhere/at/all is no program that can be run"
    home.environ[variable] = str(home.has("other-name"))
    assert home.checks()[home.assistant.title][0] == "ok"
    named = home.assistant.find(home.machine(clients={name: str(home.has("named"))}))
    assert named is not None
    assert named.path == str(home.root / "bin" / "named")


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho hello\n", "#!/nowhere/sh\n"])
def test_a_program_that_does_not_work_is_told_and_the_entry_written(home: Home, script: str):
    home.has(PROGRAMS[home.assistant.name], script)
    assert home.checks()[home.assistant.title][0] == "fail"
    assert home.install().problem == ""
    assert home.entry() == ENTRIES[home.assistant.name]


def test_a_program_that_does_not_tell_its_version_is_waited_for_once_and_not_long(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(program, "VERSION_S", 0.3)
    ran = home.root / "ran"
    path = home.has(PROGRAMS[home.assistant.name], f"#!/bin/sh\necho x >> '{ran}'\nexec sleep 600\n")
    os.utime(path, (1, 1))
    assert "did not end within 0 s" in " ".join(home.install().notes)
    assert home.checks()[home.assistant.title][0] == "fail"
    assert look(home.assistant, home.machine()).set_up == "no"
    assert ran.read_text() == "x\n"
    path = home.has(PROGRAMS[home.assistant.name])
    os.utime(path, (2, 2))
    assert home.checks()[home.assistant.title][0] == "ok"


def test_what_a_program_says_of_a_failure_is_shown_without_its_colours(home: Home):
    words = r"\033[31mUnexpected token\033[0m\n\033]0;title\007\033[0m\n\033[0m"
    home.has(PROGRAMS[home.assistant.name], f"#!/bin/sh\nprintf '{words}'\nexit 1\n")
    found = home.assistant.find(home.machine())
    assert found is not None
    assert found.problem.endswith("does not tell its version: Unexpected token")


def test_what_was_never_run_on_the_real_program_says_so(home: Home):
    words = "from public documentation, not run on the real program"
    unproved = home.assistant.name in ("cursor", "antigravity")
    assert any(words in note for note in home.install().notes) == unproved
    assert (words in home.checks()[home.assistant.title][1]) == unproved


def test_importing_the_table_imports_no_library():
    code = "import sys, ecorelay_adapters.clients; assert not {'tomlkit', 'trio', 'typer'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what is peculiar to one ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variables", "path"),
    [
        ("gemini", {"GEMINI_CLI_HOME": "/g"}, "/g/.gemini/settings.json"),
        ("qwen", {"QWEN_HOME": "/q"}, "/q/settings.json"),
        ("cline", {"CLINE_DIR": "/c"}, "/c/data/settings/cline_mcp_settings.json"),
        ("cline", {"CLINE_DIR": "/c", "CLINE_DATA_DIR": "/d"}, "/d/settings/cline_mcp_settings.json"),
        ("cline", {"CLINE_DATA_DIR": "/d", "CLINE_MCP_SETTINGS_PATH": "/m.json"}, "/m.json"),
    ],
)
def test_variables_of_the_programs_own_move_its_settings(
    tmp_path: Path, name: str, variables: dict[str, str], path: str
):
    home = make_home(tmp_path, name)
    home.environ |= variables
    assert home.config == Path(path)


def test_antigravity_has_the_folder_that_is_there(tmp_path: Path):
    home = make_home(tmp_path, "antigravity")
    (tmp_path / ".gemini" / "antigravity-cli").mkdir(parents=True)
    assert home.config == tmp_path / ".gemini" / "antigravity-cli" / "mcp_config.json"
    (tmp_path / ".gemini" / "config").mkdir()
    assert home.config == tmp_path / ".gemini" / "config" / "mcp_config.json"


# --- Cursor's hook -------------------------------------------------------------------------------------

HOOKS = """\
{
  "version": 1,
  // the team's
  "hooks": {
    "stop": [
      { "command": "./audit.sh" } // first
    ],
    "beforeShellExecution": [{ "command": "./ask.sh" }]
  }
}
"""


@pytest.fixture
def cursor(tmp_path: Path) -> Home:
    return make_home(tmp_path, "cursor")


def hooks_of(cursor: Home) -> Path:
    return cursor.root / ".cursor" / "hooks.json"


def our_hook(command: str = "/opt/ecorelay/bin/ecorelay hook cursor") -> dict[str, Any]:
    return {"command": command, "loop_limit": 10}


@pytest.mark.parametrize("text", [None, "", "{}\n", '{"version": 1}', HOOKS, '{"version": 1, "hooks": {}}'])
def test_cursors_hook_stands_among_others_and_goes_without_a_trace(cursor: Home, text: str | None):
    path = hooks_of(cursor)
    path.parent.mkdir()
    if text is not None:
        path.write_text(text)
    before = json_entry.parse(text or "", "x")
    plan = cursor.install()
    assert len(plan.steps) == 2
    assert any("agent mcp enable ecorelay" in note for note in plan.notes)
    after = json_entry.parse(path.read_text(), "x")
    stop = before.get("hooks", {}).get("stop", [])
    assert after["hooks"].pop("stop") == [*stop, our_hook()]
    assert after["version"] == 1
    before.get("hooks", {}).pop("stop", None)
    assert after["hooks"] == before.get("hooks", {})
    assert cursor.install().steps == ()
    told = cursor.assistant.configured(cursor.machine())
    assert told is not None
    [hook] = told.hooks
    assert hook.command.shell == "/opt/ecorelay/bin/ecorelay hook cursor"
    assert cursor.checks()["Cursor CLI hooks"] == ("ok", str(path))
    assert len(cursor.uninstall().steps) == 2
    assert (path.read_text() if path.exists() else None) == text
    assert cursor.uninstall() == Plan()
    assert cursor.checks()["Cursor CLI hooks"][0] == "warn"


def test_cursors_hook_follows_the_program_and_keeps_a_persons_limit(cursor: Home):
    hooks_of(cursor).parent.mkdir()
    hooks_of(cursor).write_text(HOOKS)
    cursor.install()
    hooks_of(cursor).write_text(hooks_of(cursor).read_text().replace("10", "3"))
    moved = ("/new path/python", "-P", "-m", "ecorelay")
    cursor.environ["ECORELAY_HOME"] = "/data"
    assert cursor.checks(program=moved)["Cursor CLI hooks"][0] == "warn"
    cursor.install(program=moved)
    stop = json_entry.parse(hooks_of(cursor).read_text(), "x")["hooks"]["stop"]
    command = "ECORELAY_HOME=/data '/new path/python' -P -m ecorelay hook cursor"
    assert stop[1] == {"command": command, "loop_limit": 3}
    assert stop[0] == {"command": "./audit.sh"}
    assert cursor.checks(program=moved)["Cursor CLI hooks"][0] == "ok"
    cursor.uninstall()
    assert hooks_of(cursor).read_text() == HOOKS


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"version": 1,\n "hooks"}', "line 2, column 9"),
        ('{"version": 2, "hooks": {}}', "of a version that ecorelay does not know: 2"),
        ('{"hooks": {"stop": {}}}', "hooks.stop in .* is no list"),
        ('{"hooks": []}', "hooks in .* is no object"),
    ],
)
def test_hooks_that_cannot_be_changed_are_refused_and_the_server_is_set_up(
    cursor: Home, text: str, what: str
):
    hooks_of(cursor).parent.mkdir()
    hooks_of(cursor).write_text(text)
    plan = cursor.install()
    assert re.search(what, plan.problem)
    assert plan.code == "bad_args"
    assert cursor.entry() == ENTRIES["cursor"]
    assert hooks_of(cursor).read_text() == text
    assert cursor.checks()["Cursor CLI hooks"][0] == "fail"
    cursor.uninstall()
    assert hooks_of(cursor).read_text() == text


def test_two_broken_files_are_both_told(cursor: Home):
    cursor.write("[]")
    hooks_of(cursor).write_text("[]")
    assert all(name in cursor.install().problem for name in ("mcp.json", "hooks.json"))


def test_another_agent_is_not_taken_for_cursors(cursor: Home):
    (cursor.root / "bin" / "cursor-agent").unlink()
    cursor.environ["PATH"] = str(cursor.root / "bin")
    cursor.has("agent")
    assert cursor.assistant.find(cursor.machine()) is None
    real = cursor.root / "share" / "cursor-agent" / "versions" / "1" / "cursor-agent"
    real.parent.mkdir(parents=True)
    (cursor.root / "bin" / "agent").rename(real)
    (cursor.root / "bin" / "agent").symlink_to(real)
    found = cursor.assistant.find(cursor.machine())
    assert found is not None
    assert found.version == "1.2.3"


# --- Antigravity's hooks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", "{}\n", '{\n  // a person\'s\n  "audit": {"Stop": []},\n}\n'])
def test_antigravitys_hooks_are_a_group_of_their_own_and_go_without_a_trace(tmp_path: Path, text: str | None):
    home = make_home(tmp_path, "antigravity")
    path = home.root / ".gemini" / "config" / "hooks.json"
    path.parent.mkdir(parents=True)
    if text is not None:
        path.write_text(text)
    before = json_entry.parse(text or "", "x")
    assert len(home.install().steps) == 2
    hook = {"type": "command", "command": "/opt/ecorelay/bin/ecorelay hook antigravity"}
    after = json_entry.parse(path.read_text(), "x")
    assert after == {**before, "ecorelay": {"PreInvocation": [hook], "Stop": [hook]}}
    assert home.install().steps == ()
    told = home.assistant.configured(home.machine())
    assert told is not None
    assert [each.command.shell for each in told.hooks] == [hook["command"]]
    assert home.checks()["Antigravity CLI hooks"] == ("ok", str(path))
    assert home.checks(program=("/elsewhere/ecorelay",))["Antigravity CLI hooks"][0] == "warn"
    home.uninstall()
    assert (path.read_text() if path.exists() else None) == text
    assert home.checks()["Antigravity CLI hooks"][0] == "warn"
