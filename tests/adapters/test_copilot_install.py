"""``ecorelay install copilot``: an entry, an extension, and what lets Copilot load it, in its files."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from ecorelay.errors import RelayError
from ecorelay.paths import find_paths
from ecorelay_adapters.clients import json_entry
from ecorelay_adapters.clients.assistant import Machine, Plan
from ecorelay_adapters.clients.copilot import Copilot, extension_path, rendered, settings_path

PROGRAM = ("/opt/ecorelay/bin/ecorelay",)
ENTRY = {
    "command": PROGRAM[0],
    "args": ["mcp", "--carrier", "copilot"],
    "type": "local",
    "tools": ["*"],
    "timeout": 660_000,
}
COPILOT = '#!/bin/sh\necho "GitHub Copilot CLI {version}."\necho "Run copilot update to check for updates."\n'


@dataclasses.dataclass
class Home:
    """A person's home with Copilot in it."""

    root: Path
    environ: dict[str, str]
    copilot: Copilot = dataclasses.field(default_factory=Copilot)

    def machine(self, **more: Any) -> Machine:
        given = {"program": PROGRAM, **more}
        return Machine(environ=self.environ, paths=find_paths(self.environ), version="1.0", **given)

    @property
    def folder(self) -> Path:
        return self.config.parent

    @property
    def config(self) -> Path:
        return self.copilot.config_path(self.machine())

    @property
    def settings(self) -> Path:
        return settings_path(self.machine())

    @property
    def extension(self) -> Path:
        return extension_path(self.machine())

    def write(self, path: Path, content: str | bytes) -> bytes:
        data = content if isinstance(content, bytes) else content.encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return data

    def install(self, **more: Any) -> Plan:
        return self._do(self.copilot.plan_install(self.machine(**more)))

    def uninstall(self) -> Plan:
        return self._do(self.copilot.plan_removal(self.machine()))

    def _do(self, plan: Plan) -> Plan:
        for step in plan.steps:
            step.do()
        return plan

    def entry(self) -> dict[str, Any]:
        found: dict[str, Any] = json_entry.parse(self.config.read_text(), "x")["mcpServers"]["ecorelay"]
        return found

    def tree(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes() if path.is_file() else b""
            for path in sorted(self.folder.rglob("*"))
        }

    def constants(self) -> dict[str, Any]:
        lines = [line for line in self.extension.read_text().splitlines() if line.startswith("const ")][:4]
        return {line.split()[1]: json.loads(line.partition(" = ")[2].removesuffix(";")) for line in lines}

    def checks(self, **more: Any) -> dict[str, tuple[str, str]]:
        return {each.check: (each.level, each.says) for each in self.copilot.check(self.machine(**more))}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "copilot").write_text(COPILOT.format(version="1.0.102"))
    (bin / "copilot").chmod(0o755)
    (tmp_path / ".copilot").mkdir()
    return Home(tmp_path, {"HOME": str(tmp_path), "PATH": f"{bin}:/usr/bin:/bin"})


# --- files that cannot be changed ----------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["config", "settings"])
@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('{\n  "a": 1,,\n}', "line 2"),
        ("[1]", ""),
        ('{"a": "\n"}', "line 1"),
        (b'{"a": "\xff"}', "line 1, column 8"),
        ('{"a": 1', "line 1"),
    ],
)
def test_a_broken_file_is_refused_and_nothing_is_touched(
    home: Home, broken: str, content: str | bytes, place: str
):
    path = getattr(home, broken)
    data = home.write(path, content)
    plan = home.install()
    assert plan.steps == ()
    assert str(path) in plan.problem
    assert place in plan.problem
    assert home.tree() == {path.name: data}
    assert "fail" in {level for level, _ in home.checks().values()}


def test_an_extension_of_our_name_that_is_not_ours_stays(home: Home):
    data = home.write(home.extension, "// somebody's\n")
    assert str(home.extension) in home.install().problem
    assert home.uninstall() == Plan()
    assert home.extension.read_bytes() == data
    assert home.checks()["GitHub Copilot CLI extension"][0] == "warn"


def test_read_only_settings_are_refused(home: Home):
    data = home.write(home.settings, "{}")
    home.settings.chmod(0o444)
    with pytest.raises(RelayError, match="read-only"):
        home.install()
    assert home.settings.read_bytes() == data
    home.settings.chmod(0o644)
    assert len(home.install().steps) == 1  # it goes on where it stopped
    home.uninstall()
    assert home.tree() == {"settings.json": data}


def test_an_extension_that_cannot_be_read_is_told(home: Home):
    home.extension.mkdir(parents=True)
    assert "cannot read" in home.install().problem
    assert "cannot read" in home.uninstall().problem
    assert home.checks()["GitHub Copilot CLI extension"][0] == "fail"


# --- put in and taken out ------------------------------------------------------------------------------

SETTINGS = {
    "none": None,
    "empty": "",
    "an empty object": "{}",
    "spread": '{\n  "banner": "never"\n}\n',
    "comments": '// mine\n{\n  // this too\n  "banner": "never", // and that\n}\n',
    "tabs": '{\n\t"banner": "never"\n}',
    "windows": '{\r\n  "banner": "never"\r\n}\r\n',
    "byte order mark": '\ufeff{"banner": "never"}\n',
    "on already": '{"experimental": true}\n',
    "off": '{"experimental": false, "banner": "never"}\n',
}
CONFIGS = {
    "none": None,
    "empty object": "{}\n",
    "another server": '{\n  "mcpServers": {\n    "a": {"command": "a"}\n  }\n}\n',
    "comments": '{\n  // mine\n  "mcpServers": {}, // none yet\n}\n',
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_installed_all_else_stays_and_uninstalled_every_byte_is_as_it_was(
    home: Home, settings: str, config: str
):
    for path, content in ((home.settings, SETTINGS[settings]), (home.config, CONFIGS[config])):
        if content is not None:
            home.write(path, content)
    before = home.tree()
    home.install()
    assert home.entry() == ENTRY
    assert home.extension.read_bytes() == rendered(home.machine())
    assert stat.S_IMODE(home.extension.stat().st_mode) == 0o600
    now = json_entry.parse(home.settings.read_text(), "x")
    said = json_entry.parse(SETTINGS[settings] or "", "x")
    assert now == {"experimental": True, **said}
    changed = home.tree()
    assert home.install().steps == ()
    assert home.tree() == changed
    home.uninstall()
    assert home.tree() == before
    assert home.uninstall() == Plan()


def test_experimental_of_the_persons_own_stays_however_often_we_come(home: Home):
    home.write(home.settings, '{"experimental": true}')
    home.install()
    home.install(program=("/new/ecorelay",))
    assert home.constants()["EXPERIMENTAL_IS_OURS"] is False
    home.uninstall()
    assert home.settings.read_text() == '{"experimental": true}'


def test_a_newer_version_still_knows_that_the_switch_was_ours(home: Home):
    home.write(home.settings, '{"banner": "never"}')
    home.install()
    moved = home.install(program=("/new/ecorelay",))
    assert len(moved.steps) == 1
    machine = Machine(environ=home.environ, paths=find_paths(home.environ), program=PROGRAM, version="2.0")
    for step in home.copilot.plan_install(machine).steps:
        step.do()
    assert home.constants()["VERSION"] == "2.0"
    assert home.constants()["EXPERIMENTAL_IS_OURS"] is True
    home.uninstall()
    assert home.tree() == {"settings.json": b'{"banner": "never"}'}


def test_what_changed_since_is_kept_when_ours_is_taken_out(home: Home):
    home.write(home.settings, '{\n  "banner": "never"\n}\n')
    home.install()
    home.settings.write_text(home.settings.read_text().replace('"never"', '"always"'))
    home.config.write_text(home.config.read_text().replace('"mcpServers": {', '"mcpServers": {"b": {},', 1))
    home.uninstall()
    assert json.loads(home.settings.read_text()) == {"banner": "always"}
    assert json.loads(home.config.read_text()) == {"mcpServers": {"b": {}}}
    assert not home.extension.parent.parent.exists()


def test_switched_off_by_the_person_it_is_left_and_told(home: Home):
    home.install()
    off = home.settings.read_text().replace("true", "false")
    home.settings.write_text(off)
    plan = home.install()
    assert plan.steps == ()
    assert any("relay_inbox only" in note for note in plan.notes)
    assert home.checks()["GitHub Copilot CLI extension"] == (
        "warn",
        f'not loaded: "experimental" is false in {home.settings}; mail comes by relay_inbox only',
    )
    home.uninstall()
    assert home.settings.read_text() == off


@pytest.mark.parametrize(
    ("extensions", "says"),
    [
        ({"disabledExtensions": ["user:ecorelay"]}, "user:ecorelay is disabled"),
        ({"mode": "disabled"}, "extensions are disabled"),
        ({"mode": "load_only", "disabledExtensions": ["user:other"]}, ""),
        (["nonsense"], ""),
    ],
)
def test_an_extension_disabled_in_copilot_is_told(home: Home, extensions: Any, says: str):
    home.write(home.settings, json.dumps({"extensions": extensions}))
    notes = home.install().notes
    assert any(says in note and "relay_inbox only" in note for note in notes) is bool(says)
    level, found = home.checks()["GitHub Copilot CLI extension"]
    assert (level == "warn", says in found) == (bool(says), True)


@pytest.mark.parametrize("there", [".", ".copilot", ".copilot/extensions", ".copilot/extensions/ecorelay"])
def test_folders_that_were_made_go_and_those_that_were_there_stay(home: Home, there: str):
    home.folder.rmdir()
    (home.root / there).mkdir(parents=True, exist_ok=True)
    before = sorted(home.root.rglob("*"))
    home.install()
    home.install(program=("/new/ecorelay",))
    home.uninstall()
    assert sorted(home.root.rglob("*")) == before


def test_a_folder_that_was_made_and_that_copilot_uses_since_stays_without_a_trace_of_us(home: Home):
    home.folder.rmdir()
    home.install()
    log = home.folder / "logs" / "x.log"
    log.parent.mkdir()
    log.write_text("copilot's")
    home.uninstall()
    assert home.tree() == {"logs": b"", "logs/x.log": b"copilot's"}


def test_an_install_without_a_data_directory_takes_server_and_extension_to_the_usual_one(home: Home):
    home.environ["ECORELAY_HOME"] = str(home.root / "data")
    home.install()
    del home.environ["ECORELAY_HOME"]
    home.install()
    assert home.entry() == ENTRY
    assert home.constants()["DATA_DIRECTORY"] == str(home.machine().paths.home)
    assert {level for level, _ in home.checks().values()} == {"ok"}
    home.uninstall()
    assert home.tree() == {}


def test_other_files_beside_the_extension_stay(home: Home):
    home.install()
    other = home.extension.parent / "notes.txt"
    other.write_text("mine")
    home.uninstall()
    assert other.read_text() == "mine"
    assert not home.extension.exists()


def test_copilot_home_is_where_it_all_goes(home: Home):
    home.environ["COPILOT_HOME"] = str(home.root / "elsewhere" / "copilot")
    home.install()
    assert home.folder == home.root / "elsewhere" / "copilot"
    assert home.entry() == ENTRY
    assert home.extension.exists()
    assert list((home.root / ".copilot").iterdir()) == []


# --- where the data is ---------------------------------------------------------------------------------


def test_server_and_extension_are_led_to_the_same_data(home: Home):
    home.install()
    default = str(home.machine().paths.home)
    assert home.constants() == {
        "VERSION": "1.0",
        "DATA_DIRECTORY": default,
        "DATA_DIRECTORY_IS_FIXED": False,
        "EXPERIMENTAL_IS_OURS": True,
    }
    home.environ["ECORELAY_HOME"] = str(home.root / 'da "ta\\')
    assert home.checks()["GitHub Copilot CLI extension"][0] == "warn"
    home.install()
    assert home.entry()["env"] == {"ECORELAY_HOME": home.environ["ECORELAY_HOME"]}
    assert home.constants()["DATA_DIRECTORY"] == home.environ["ECORELAY_HOME"]
    assert home.constants()["DATA_DIRECTORY_IS_FIXED"] is True
    assert {level for level, _ in home.checks().values()} == {"ok"}


# --- what is told --------------------------------------------------------------------------------------


def test_the_program_is_found_and_how_to_allow_the_tools_is_told(home: Home):
    assert home.checks()["GitHub Copilot CLI"] == ("ok", f"1.0.102 ({home.root}/bin/copilot)")
    assert home.checks()["GitHub Copilot CLI extension"][0] == "warn"
    plan = home.install(allow_tools=True)
    assert any("--allow-tool=ecorelay" in note for note in plan.notes)
    assert home.entry() == ENTRY
    told = home.copilot.configured(home.machine())
    assert told is not None
    assert told.server is not None
    assert told.server.words == (*PROGRAM, "mcp", "--carrier", "copilot")
    assert {level for level, _ in home.checks().values()} == {"ok"}


def test_a_plan_that_is_only_shown_changes_nothing(home: Home):
    home.write(home.settings, "{}")
    before = home.tree()
    plan = home.copilot.plan_install(home.machine())
    assert len(plan.steps) == 3
    assert any("experimental" in line for step in plan.steps for line in step.diff)
    assert home.tree() == before
