"""Claude Code is set up, kept up to date and set back. A stand-in plays its program."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ecorelay import __version__
from ecorelay.errors import RelayError
from ecorelay.paths import Paths, find_paths
from ecorelay_adapters.clients import ASSISTANTS, files
from ecorelay_adapters.clients.assistant import ClientFailed, Machine, Plan
from ecorelay_adapters.clients.claude_code import HOOKS, MANIFEST, MARKET, RULE, ClaudeCode, folder_of, render
from ecorelay_adapters.clients.program import own_program, shell_command
from tests.helpers import standin_claude

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")

CLAUDE = ClaudeCode()
ODD = 'it\'s a "place" & $more'
ADDED = ["plugin marketplace add {folder}", "plugin install ecorelay@ecorelay"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ODD).mkdir()
    return tmp_path / ODD


@pytest.fixture
def machine(tmp_path: Path, home: Path) -> Machine:
    """A machine with the stand-in on its PATH, and names that need quoting everywhere."""
    standin_claude.make(tmp_path / "bin")
    environ = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": str(home)}
    return Machine(
        environ=environ,
        paths=find_paths(environ),
        program=(f"/opt/{ODD}/ecorelay",),
        version=__version__,
    )


def but(machine: Machine, *, paths: Paths | None = None, **environ: str) -> Machine:
    """The same machine with other variables (empty: none)."""
    merged = {name: value for name, value in {**machine.environ, **environ}.items() if value}
    return msgspec.structs.replace(machine, environ=merged, paths=paths or machine.paths)


def do(plan: Plan) -> Plan:
    for step in plan.steps:
        step.do()
    return plan


def install(machine: Machine) -> Plan:
    return do(CLAUDE.plan_install(machine))


def changes(home: Path, since: int = 0) -> list[str]:
    return standin_claude.calls(home)[since:]


# --- installing -----------------------------------------------------------------------------------------


def test_installing_renders_the_plugin_and_has_claude_code_load_it(machine: Machine, home: Path):
    plan = install(machine)
    folder = folder_of(machine)
    assert files.read_tree(folder) == render(machine)
    assert changes(home) == [line.format(folder=folder) for line in ADDED]
    assert len(plan.steps) == 3
    assert any("restart" in note for note in plan.notes)
    assert not plan.problem


def test_what_is_rendered_is_ours_alone(machine: Machine):
    before = os.umask(0)
    try:
        install(machine)
    finally:
        os.umask(before)
    for path in [folder_of(machine), *folder_of(machine).rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_second_install_changes_nothing(machine: Machine, home: Path):
    install(machine)
    seen = {path: path.stat().st_mtime_ns for path in folder_of(machine).rglob("*")}
    again = install(machine)
    assert again.steps == ()
    assert changes(home, since=2) == []
    assert seen == {path: path.stat().st_mtime_ns for path in folder_of(machine).rglob("*")}


def test_a_plan_changes_nothing(machine: Machine, home: Path):
    plan = CLAUDE.plan_install(machine)
    assert plan.steps[0].diff[0].startswith("+ ")
    assert not machine.paths.home.exists()
    assert changes(home) == []


@pytest.mark.parametrize("fails", ["plugin marketplace add", "plugin install"])
def test_an_interrupted_install_is_finished_by_the_next(machine: Machine, home: Path, fails: str):
    with pytest.raises(ClientFailed, match=r"`claude plugin .*` failed: ✘ Failed: the sky is falling"):
        install(but(machine, STANDIN_FAILS=fails))
    do(CLAUDE.plan_install(machine))
    assert standin_claude.state_of(home)["plugins"].keys() == {"ecorelay@ecorelay"}
    assert CLAUDE.plan_install(machine).steps == ()


def test_half_a_folder_is_made_whole_and_strangers_in_it_go(machine: Machine):
    install(machine)
    folder = folder_of(machine)
    (folder / MANIFEST).unlink()
    (folder / HOOKS).write_text("{")
    (folder / "plugins/ecorelay/old").mkdir()
    (folder / "plugins/ecorelay/old/x.md.77.new").write_text("x")
    plan = install(machine)
    assert {line for line in plan.steps[0].diff if line[0] in "+-~"} == {
        f"+ {MANIFEST}",
        f"~ {HOOKS}",
        "- plugins/ecorelay/old/x.md.77.new",
    }
    assert files.read_tree(folder) == render(machine)
    assert not (folder / "plugins/ecorelay/old").exists()


def test_the_files_that_lead_to_the_others_are_written_last(machine: Machine):
    assert list(render(machine))[-2:] == [MANIFEST, MARKET]


def test_a_link_in_the_place_of_the_folder_is_not_followed(machine: Machine, tmp_path: Path):
    machine.paths.home.mkdir(parents=True, mode=0o700)
    (tmp_path / "elsewhere").mkdir()
    folder_of(machine).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RelayError) as refused:
        install(machine)
    assert refused.value.code == "bad_args"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_data_directory_is_a_clear_refusal(machine: Machine):
    machine.paths.home.mkdir(parents=True)
    machine.paths.home.chmod(0o500)
    with pytest.raises(RelayError, match="cannot make the directory"):
        install(machine)


def test_a_data_directory_that_cannot_be_written_is_a_clear_refusal(machine: Machine):
    machine.paths.home.parent.mkdir(parents=True)
    machine.paths.home.write_text("in the way")
    with pytest.raises(RelayError, match=r"cannot make the directory|in the way"):
        install(machine)


def test_a_disk_that_takes_nothing_is_a_clear_refusal(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, data: bytes, *, durable: bool = False) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_private", full)
    with pytest.raises(RelayError, match=r"cannot write .*: No space left on device") as refused:
        install(machine)
    assert refused.value.code == "mailbox_error"


def test_a_data_directory_that_others_can_write_is_refused(machine: Machine, home: Path):
    machine.paths.home.mkdir(parents=True)
    machine.paths.home.chmod(0o777)
    with pytest.raises(RelayError, match="can be written by others"):
        install(machine)
    assert changes(home) == []


# --- what is already there ------------------------------------------------------------------------------


def test_an_upgrade_renders_anew_and_updates_the_plugin(machine: Machine, home: Path):
    install(msgspec.structs.replace(machine, version="0.0.1"))
    plan = install(machine)
    assert any('"version": "0.0.1"' in line and line.strip().startswith("-") for line in plan.steps[0].diff)
    assert changes(home, since=2) == ["plugin update ecorelay@ecorelay"]
    assert CLAUDE.plan_install(machine).steps == ()


def test_a_disabled_plugin_is_enabled(machine: Machine, home: Path):
    install(machine)
    subprocess.run(
        ["claude", "plugin", "disable", "ecorelay@ecorelay"], env=dict(machine.environ), check=True
    )
    install(machine)
    assert changes(home, since=3) == ["plugin enable ecorelay@ecorelay"]


def test_a_client_that_copies_plugins_gets_the_new_commands_of_the_same_version(machine: Machine, home: Path):
    machine = but(machine, STANDIN_COPIES="1")
    install(machine)
    assert install(machine).steps == ()
    moved = msgspec.structs.replace(machine, program=("/elsewhere/ecorelay",))
    plan = CLAUDE.plan_install(moved)
    assert [step.title for step in plan.steps[1:]] == [
        "run `claude plugin uninstall ecorelay@ecorelay`",
        "run `claude plugin install ecorelay@ecorelay`",
    ]


def test_another_data_directory_takes_the_plugin_over(machine: Machine, home: Path, tmp_path: Path):
    install(machine)
    other = but(machine, paths=Paths(tmp_path / "other"), ECORELAY_HOME=str(tmp_path / "other"))
    install(other)
    assert standin_claude.state_of(home)["markets"] == {"ecorelay": str(folder_of(other))}
    assert CLAUDE.plan_install(other).steps == ()


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"mcpServers": {"relay": {"command": "/x/ecorelay", "args": ["mcp"]}}}, "-s user"),
        (
            {"projects": {"/a b": {"mcpServers": {"e": {"command": "ecorelay", "args": ["mcp"]}}}}},
            "cd '/a b' && claude mcp remove e -s local",
        ),
        (
            {"mcpServers": {"e": {"command": "python", "args": ["-m", "ecorelay", "mcp"]}}},
            "claude mcp remove e",
        ),
    ],
)
def test_an_adapter_that_was_added_by_hand_is_noticed(machine: Machine, home: Path, state: Any, place: str):
    (home / ".claude.json").write_text(json.dumps(state))
    assert any(place in note for note in CLAUDE.plan_install(machine).notes)
    assert not any(place in finding.remedy for finding in CLAUDE.check(machine)), "it is the only adapter"
    install(machine)
    assert any(place in finding.remedy for finding in CLAUDE.check(machine))
    assert any("stays" in note and place in note for note in CLAUDE.plan_removal(machine).notes)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"mcpServers": []}', '{"mcpServers": {"x": 1}, "projects": {"/p": null}}', "\xff"],
)
def test_a_state_of_claude_code_that_makes_no_sense_is_not_ours_to_judge(
    machine: Machine, home: Path, text: str
):
    (home / ".claude.json").write_text(text, encoding="latin-1")
    assert len(install(machine).steps) == 3


# --- without the program --------------------------------------------------------------------------------


def test_without_claude_the_plugin_is_rendered_and_the_rest_is_said(machine: Machine):
    machine = but(machine, PATH="/nowhere")
    plan = install(machine)
    assert "not found" in plan.problem
    assert "--claude PATH" in plan.problem
    folder = shlex.quote(str(folder_of(machine)))
    assert plan.by_hand[0] == f"claude plugin marketplace add {folder}"
    assert plan.by_hand[1] == "claude plugin install ecorelay@ecorelay"
    assert files.read_tree(folder_of(machine)) == render(machine)


def test_a_program_that_is_named_is_used(machine: Machine, tmp_path: Path):
    named = standin_claude.make(tmp_path / "other place")
    bare = but(machine, PATH="/usr/bin:/bin")
    found = CLAUDE.find(msgspec.structs.replace(bare, clients={"claude-code": str(named)}))
    assert found is not None
    assert (found.path, found.problem) == (str(named), "")
    found = CLAUDE.find(but(bare, CLAUDE_BIN=str(named)))
    assert found is not None
    assert found.path == str(named)
    missing = CLAUDE.find(but(bare, CLAUDE_BIN="/nowhere/claude"))
    assert missing is not None
    assert "/nowhere/claude" in missing.problem


def test_where_its_installer_puts_it_it_is_found_without_the_path(machine: Machine, home: Path):
    bare = but(machine, PATH="/usr/bin:/bin")
    assert CLAUDE.find(bare) is None
    standin_claude.make(home / ".local" / "bin")
    found = CLAUDE.find(bare)
    assert found is not None
    assert not found.problem


@pytest.mark.parametrize("said", ["2.1.162", "2.0.77", "1.9.9"])
def test_a_claude_code_that_is_too_old_is_told_to_update(machine: Machine, home: Path, said: str):
    plan = install(but(machine, STANDIN_VERSION=said))
    assert said in plan.problem
    assert "claude update" in plan.problem
    assert changes(home) == []
    assert CLAUDE.check(but(machine, STANDIN_VERSION=said))[0].level == "fail"


def test_a_program_that_does_not_tell_its_version_is_not_trusted(machine: Machine, tmp_path: Path):
    (tmp_path / "bin" / "claude").write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    plan = CLAUDE.plan_install(machine)
    assert "no such thing" in plan.problem
    (tmp_path / "bin" / "claude").write_text("not a program")
    assert CLAUDE.plan_install(machine).problem


def test_a_listing_that_fails_is_a_clear_refusal(machine: Machine):
    with pytest.raises(ClientFailed, match="the sky is falling"):
        CLAUDE.plan_install(but(machine, STANDIN_FAILS="plugin list"))
    (finding,) = [
        each for each in CLAUDE.check(but(machine, STANDIN_FAILS="plugin list")) if each.level != "ok"
    ]
    assert finding.level == "fail"


# --- what is rendered -----------------------------------------------------------------------------------


def hook_lines(machine: Machine) -> set[str]:
    hooks = json.loads(render(machine)[HOOKS])["hooks"]
    return {hook["command"] for groups in hooks.values() for group in groups for hook in group["hooks"]}


def test_every_command_names_the_program_absolutely(machine: Machine):
    server = json.loads(render(machine)[MANIFEST])["mcpServers"]["ecorelay"]
    assert server == {"command": machine.program[0], "args": ["mcp", "--carrier", "hook"], "env": {}}
    (line,) = hook_lines(machine)
    assert shlex.split(line) == [machine.program[0], "hook", "claude-code"]


def test_a_module_stands_in_for_a_missing_program(machine: Machine):
    words = ("/a b/python", "-P", "-m", "ecorelay")
    machine = msgspec.structs.replace(machine, program=words)
    server = json.loads(render(machine)[MANIFEST])["mcpServers"]["ecorelay"]
    assert [server["command"], *server["args"]] == [*words, "mcp", "--carrier", "hook"]
    (line,) = hook_lines(machine)
    assert shlex.split(line) == [*words, "hook", "claude-code"]


def test_a_chosen_data_directory_goes_along(machine: Machine, tmp_path: Path):
    place = str(tmp_path / ODD / "data")
    machine = but(machine, ECORELAY_HOME=place, paths=Paths(Path(place)))
    assert json.loads(render(machine)[MANIFEST])["mcpServers"]["ecorelay"]["env"] == {"ECORELAY_HOME": place}
    (line,) = hook_lines(machine)
    assert line.startswith("ECORELAY_HOME=")
    program = tmp_path / ODD / "ecorelay"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\nprintf "%s|" "$ECORELAY_HOME" "$@"\n')
    program.chmod(0o755)
    (line,) = hook_lines(msgspec.structs.replace(machine, program=(str(program),)))
    assert subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True).stdout.decode() == (
        f"{place}|hook|claude-code|"
    )


def test_a_path_that_claude_code_would_expand_is_refused(machine: Machine):
    with pytest.raises(RelayError, match="another directory"):
        render(msgspec.structs.replace(machine, program=("/x/${HOME}/ecorelay",)))


def test_hooks_are_the_five_that_carry_mail():
    shipped = json.loads(files.read_tree(files.shipped("claude_code"))[HOOKS])["hooks"]
    assert shipped.keys() == {"SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "FileChanged"}
    for event, ((group),) in shipped.items():
        (hook,) = group["hooks"]
        wanted: dict[str, object] = {"type": "command", "command": "ecorelay hook claude-code", "timeout": 10}
        assert hook == wanted | ({"asyncRewake": True} if event == "FileChanged" else {})


def test_the_committed_plugin_has_the_version_of_the_program_and_its_licence():
    tree = files.read_tree(files.shipped("claude_code"))
    assert json.loads(tree[MANIFEST])["version"] == __version__
    assert json.loads(tree[MARKET])["plugins"][0]["version"] == __version__
    root = Path(__file__).parents[2]
    assert tree["plugins/ecorelay/LICENSE"] == (root / "LICENSE").read_bytes()
    assert len(tree["plugins/ecorelay/README.md"].split()) >= 40


def test_each_command_of_the_plugin_names_a_tool_that_exists():
    from ecorelay_adapters.tools import TOOLS

    tree = files.read_tree(files.shipped("claude_code"))
    known = {tool.name for tool in TOOLS}
    for command, tool in (("peers", "relay_peers"), ("inbox", "relay_inbox"), ("rename", "relay_rename")):
        text = tree[f"plugins/ecorelay/commands/{command}.md"].decode()
        assert f"`{tool}`" in text
        assert {word.strip("`.,;") for word in text.split() if word.startswith("`relay_")} <= known
    assert b"$ARGUMENTS" in tree["plugins/ecorelay/commands/rename.md"]


# --- permission -----------------------------------------------------------------------------------------


def settings(home: Path) -> Any:
    return json.loads((home / ".claude" / "settings.json").read_text())


def test_tools_are_allowed_only_when_asked_for_and_no_longer_after_removal(machine: Machine, home: Path):
    (home / ".claude").mkdir()
    path = home / ".claude" / "settings.json"
    path.write_text(json.dumps({"permissions": {"allow": ["Bash(ls)"], "deny": []}, "théme": "dark"}))
    path.chmod(0o644)
    install(machine)
    assert RULE not in path.read_text()
    asked = msgspec.structs.replace(machine, allow_tools=True)
    plan = install(asked)
    assert [RULE in "".join(step.diff) for step in plan.steps] == [True]
    assert settings(home)["permissions"] == {"allow": ["Bash(ls)", RULE], "deny": []}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert CLAUDE.plan_install(asked).steps == ()
    do(CLAUDE.plan_removal(machine))
    assert settings(home) == {"permissions": {"allow": ["Bash(ls)"], "deny": []}, "théme": "dark"}


def test_permissions_that_we_made_go_whole(machine: Machine, home: Path):
    install(msgspec.structs.replace(machine, allow_tools=True))
    do(CLAUDE.plan_removal(machine))
    assert settings(home) == {}


def test_settings_that_are_a_link_stay_one(machine: Machine, home: Path, tmp_path: Path):
    (home / ".claude").mkdir()
    (tmp_path / "dotfiles.json").write_text("{}")
    (home / ".claude" / "settings.json").symlink_to(tmp_path / "dotfiles.json")
    install(msgspec.structs.replace(machine, allow_tools=True))
    assert (home / ".claude" / "settings.json").is_symlink()
    assert RULE in (tmp_path / "dotfiles.json").read_text()


@pytest.mark.parametrize("text", ["{,}", "[]", '{"permissions": {"allow": "all"}}', '{"permissions": 1}'])
def test_settings_that_make_no_sense_are_left_alone(machine: Machine, home: Path, text: str):
    (home / ".claude").mkdir()
    (home / ".claude" / "settings.json").write_text(text)
    with pytest.raises(RelayError, match="mend it first"):
        install(msgspec.structs.replace(machine, allow_tools=True))
    assert (home / ".claude" / "settings.json").read_text() == text
    install(machine)


def test_another_place_for_its_settings_is_respected(machine: Machine, home: Path, tmp_path: Path):
    machine = but(machine, CLAUDE_CONFIG_DIR=str(tmp_path / "config"))
    install(msgspec.structs.replace(machine, allow_tools=True))
    assert RULE in (tmp_path / "config" / "settings.json").read_text()
    assert not (home / ".claude" / "settings.json").exists()


# --- removing -------------------------------------------------------------------------------------------


def test_removing_takes_plugin_marketplace_and_folder(machine: Machine, home: Path):
    install(machine)
    plan = do(CLAUDE.plan_removal(machine))
    assert changes(home, since=2) == [
        "plugin uninstall ecorelay@ecorelay --scope user",
        "plugin marketplace remove ecorelay",
    ]
    assert not folder_of(machine).exists()
    assert not plan.problem
    again = CLAUDE.plan_removal(machine)
    assert (again.steps, again.notes, again.problem) == ((), (), "")


def test_nothing_is_removed_where_nothing_was_installed(machine: Machine, home: Path):
    assert CLAUDE.plan_removal(machine) == Plan()
    assert CLAUDE.plan_removal(but(machine, PATH="/nowhere")) == Plan()
    assert not machine.paths.home.exists()


def test_a_removal_that_fails_keeps_the_folder_and_is_finished_by_the_next(machine: Machine):
    install(machine)
    with pytest.raises(ClientFailed):
        do(CLAUDE.plan_removal(but(machine, STANDIN_FAILS="plugin uninstall")))
    assert folder_of(machine).is_dir()
    do(CLAUDE.plan_removal(machine))
    assert CLAUDE.plan_removal(machine).steps == ()


def test_without_claude_the_folder_goes_and_the_rest_is_said(machine: Machine):
    install(machine)
    plan = do(CLAUDE.plan_removal(but(machine, PATH="/nowhere")))
    assert not folder_of(machine).exists()
    assert plan.by_hand == (
        "claude plugin uninstall ecorelay@ecorelay",
        "claude plugin marketplace remove ecorelay",
    )
    assert plan.problem


# --- what proves it ---------------------------------------------------------------------------------------


def test_all_is_well_after_installing(machine: Machine):
    install(machine)
    assert [finding.level for finding in CLAUDE.check(machine)] == ["ok", "ok"]
    configured = CLAUDE.configured(machine)
    assert configured is not None
    assert configured.server is not None
    assert configured.server.words == (machine.program[0], "mcp", "--carrier", "hook")
    (hook,) = configured.hooks
    assert json.loads(hook.event)["hook_event_name"] == "FileChanged"


def test_nothing_is_configured_before(machine: Machine):
    assert CLAUDE.configured(machine) is None
    (_, finding) = CLAUDE.check(machine)
    assert finding.level == "warn"
    assert "not installed" in finding.says


def break_version(machine: Machine, home: Path) -> None:
    entry = standin_claude.state_of(home)["plugins"]["ecorelay@ecorelay"]
    standin_claude.save(home, plugins={"ecorelay@ecorelay": {**entry, "version": "0.0.1"}})


def break_enabled(machine: Machine, home: Path) -> None:
    entry = standin_claude.state_of(home)["plugins"]["ecorelay@ecorelay"]
    standin_claude.save(home, plugins={"ecorelay@ecorelay": {**entry, "enabled": False}})


def break_folder(machine: Machine, home: Path) -> None:
    files.remove_tree(folder_of(machine))


def break_program(machine: Machine, home: Path) -> None:
    path = folder_of(machine) / MANIFEST
    path.write_text(path.read_text().replace("/opt/", "/old/"))


def break_marketplace(machine: Machine, home: Path) -> None:
    other = home / "other"
    files.write_tree(other, render(machine))
    standin_claude.save(home, markets={"ecorelay": str(other)})


@pytest.mark.parametrize(
    ("damage", "level", "words"),
    [
        (break_version, "warn", "version 0.0.1"),
        (break_enabled, "warn", "disabled"),
        (break_folder, "fail", "cache-miss"),
        (break_program, "warn", "does not start this program"),
        (break_marketplace, "fail", "another data directory"),
    ],
)
def test_what_is_wrong_is_found_and_mended_by_installing(
    machine: Machine, home: Path, damage: Callable[[Machine, Path], None], level: str, words: str
):
    install(machine)
    damage(machine, home)
    finding = CLAUDE.check(machine)[1]
    assert (finding.level, finding.remedy) == (level, "ecorelay install claude-code")
    assert words in finding.says
    install(machine)
    assert [each.level for each in CLAUDE.check(machine)] == ["ok", "ok"]


def test_a_plugin_whose_sessions_meet_elsewhere_is_found(machine: Machine, home: Path, tmp_path: Path):
    elsewhere = Paths(tmp_path / "elsewhere")
    install(msgspec.structs.replace(machine, paths=elsewhere))  # ECORELAY_HOME is not in its environment
    (_, finding) = CLAUDE.check(msgspec.structs.replace(machine, paths=elsewhere))
    assert finding.level == "fail"
    assert str(machine.paths.home) in finding.says


def test_every_assistant_has_a_name_of_its_own():
    names = [assistant.name for assistant in ASSISTANTS]
    assert len(set(names)) == len(names)
    assert all(assistant.title for assistant in ASSISTANTS)


# --- the program's words ----------------------------------------------------------------------------------


def test_the_program_beside_the_interpreter_is_named_without_following_links(tmp_path: Path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    python = str(tmp_path / "bin" / "python")
    assert own_program(python) == (python, "-P", "-m", "ecorelay")
    (tmp_path / "bin" / "ecorelay").write_text("#!/bin/sh\n")
    assert own_program(python) == (python, "-P", "-m", "ecorelay")
    (tmp_path / "bin" / "ecorelay").chmod(0o755)
    assert own_program(python) == (str(tmp_path / "bin" / "ecorelay"),)
    with pytest.raises(RelayError):
        own_program("")


def test_a_shell_runs_exactly_the_words():
    words = ["printf", "%s|", ODD, "*", "~", "a\nb"]
    line = shell_command(words, {"VALUE": ODD})
    ran = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True)
    assert ran.stdout.decode() == f"{ODD}|*|~|a\nb|"
