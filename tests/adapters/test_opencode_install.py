"""``ecorelay install opencode``: one file in OpenCode's folder of plugins, all of it ours."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ecorelay.errors import RelayError
from ecorelay.paths import find_paths
from ecorelay_adapters.clients.assistant import Command, Machine, Plan
from ecorelay_adapters.clients.opencode import MARK, OpenCode
from ecorelay_adapters.tools import TOOLS

PROGRAM = ("/opt/eco relay/bin/ecorelay",)
WORDS = (*PROGRAM, "mcp", "--carrier", "opencode")
OPENCODE = '#!/bin/sh\necho "{version}"\n'


@dataclasses.dataclass
class Home:
    """A person's home with OpenCode in it."""

    root: Path
    environ: dict[str, str]
    opencode: OpenCode = dataclasses.field(default_factory=OpenCode)

    def machine(self, **more: Any) -> Machine:
        given = {"program": PROGRAM, "version": "1.0", **more}
        return Machine(environ=self.environ, paths=find_paths(self.environ), **given)

    @property
    def plugin(self) -> Path:
        return self.opencode.config_path(self.machine())

    def program(self, script: str) -> None:
        path = self.root / "bin" / "opencode"
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def install(self, **more: Any) -> Plan:
        return self._do(self.opencode.plan_install(self.machine(**more)))

    def uninstall(self) -> Plan:
        return self._do(self.opencode.plan_removal(self.machine()))

    def _do(self, plan: Plan) -> Plan:
        for step in plan.steps:
            step.do()
        return plan

    def constant(self, name: str) -> Any:
        found = re.search(rf"^const {name} = (.*)$", self.plugin.read_text(), re.M)
        assert found is not None
        return json.loads(found[1])

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def checks(self, **more: Any) -> dict[str, tuple[str, str]]:
        found = self.opencode.check(self.machine(**more))
        return {each.check: (each.level, each.says) for each in found}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    environ = {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    found = Home(tmp_path, environ)
    found.program(OPENCODE.format(version="1.18.33"))
    return found


def test_the_plugin_has_all_it_needs(home: Home):
    plan = home.install()
    assert home.plugin == home.root / ".config/opencode/plugins/ecorelay.js"
    assert home.plugin.read_text().startswith(MARK)
    assert home.constant("WORDS") == list(WORDS)
    assert home.constant("VARIABLES") == {}
    assert home.constant("VERSION") == "1.0"
    assert home.constant("TOOLS") == [
        {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
        for tool in TOOLS
    ]
    assert home.files() == [
        ".config/.made-by-ecorelay",
        ".config/opencode/plugins/ecorelay.js",
        "bin/opencode",
    ]
    assert any("started again" in note for note in plan.notes)
    found = home.opencode.configured(home.machine())
    assert found is not None
    assert found.server == Command(words=WORDS)


def test_again_nothing_changes(home: Home):
    home.install()
    assert home.install().steps == ()
    assert home.checks() == {
        "OpenCode": ("ok", f"1.18.33 ({home.root}/bin/opencode)"),
        "OpenCode entry": ("ok", str(home.plugin)),
    }


def test_what_is_out_of_date_is_told_and_renewed(home: Home):
    home.install()
    for more in ({"program": ("/other/ecorelay",)}, {"version": "2.0"}):
        assert home.checks(**more)["OpenCode entry"][0] == "warn"
    home.install(program=("/other/ecorelay",))
    assert home.constant("WORDS")[0] == "/other/ecorelay"
    assert "before-ecorelay" not in "".join(home.files())


def test_one_that_a_person_changed_is_told_and_renewed(home: Home):
    home.install()
    wanted = home.plugin.read_text()
    home.plugin.write_text(wanted.replace("15_000", "5"))
    assert home.checks()["OpenCode entry"][0] == "warn"
    assert len(home.install().steps) == 1
    assert home.plugin.read_text() == wanted


def test_words_are_data_whatever_stands_in_them(home: Home):
    odd = ('/x/"; \\1 \\g<0> `id` ${x}\n// é', "-P")
    home.install(program=odd)
    assert home.constant("WORDS") == [*odd, "mcp", "--carrier", "opencode"]


def test_a_data_directory_of_ones_own_is_written_in(home: Home):
    home.environ["ECORELAY_HOME"] = str(home.root / "data")
    home.install()
    assert home.constant("VARIABLES") == {"ECORELAY_HOME": str(home.root / "data")}
    assert home.checks()["OpenCode entry"][0] == "ok"
    del home.environ["ECORELAY_HOME"]
    assert home.checks()["OpenCode entry"][0] != "ok"


def test_the_folder_is_where_opencode_looks(home: Home):
    home.environ["OPENCODE_CONFIG_DIR"] = str(home.root / "more")
    assert home.plugin == home.root / ".config/opencode/plugins/ecorelay.js"
    home.environ["XDG_CONFIG_HOME"] = str(home.root / "xdg")
    home.install()
    assert home.files() == ["bin/opencode", "xdg/.made-by-ecorelay", "xdg/opencode/plugins/ecorelay.js"]


@pytest.mark.parametrize("text", ["export const Mine = async () => ({})\n", "// ecorelay\n"])
def test_a_file_of_that_name_that_is_not_ours_stays(home: Home, text: str):
    home.plugin.parent.mkdir(parents=True)
    home.plugin.write_text(text)
    plan = home.install()
    assert "is not ecorelay's" in plan.problem
    assert plan.steps == ()
    assert home.uninstall().steps == ()
    assert home.opencode.configured(home.machine()) is None
    assert home.checks()["OpenCode entry"][0] in ("warn", "fail")
    assert home.plugin.read_text() == text


def test_one_that_came_between_plan_and_step_stays(home: Home):
    plan = home.opencode.plan_install(home.machine())
    home.plugin.parent.mkdir(parents=True)
    home.plugin.write_text("mine\n")
    with pytest.raises(RelayError, match="is not ecorelay's"):
        plan.steps[0].do()
    assert home.plugin.read_text() == "mine\n"


def test_a_plan_that_is_only_shown_changes_nothing(home: Home):
    plan = home.opencode.plan_install(home.machine())
    assert plan.steps[0].title == f"set up the plugin ecorelay in {home.plugin}"
    assert plan.steps[0].diff == ("+ ecorelay.js",)
    assert home.files() == ["bin/opencode"]


def test_uninstalled_nothing_is_left(home: Home):
    home.install()
    plan = home.uninstall()
    assert len(plan.steps) == 1
    assert home.files() == ["bin/opencode"]
    assert plan.steps[0].title == f"take the plugin ecorelay out of {home.plugin}"
    assert not (home.root / ".config").exists()
    assert home.uninstall().steps == ()
    assert home.opencode.configured(home.machine()) is None


@pytest.mark.parametrize("there", [".config", ".config/opencode", ".config/opencode/plugins"])
def test_uninstalled_folders_that_were_there_stay_even_empty(home: Home, there: str):
    (home.root / there).mkdir(parents=True)
    before = sorted(home.root.rglob("*"))
    home.install()
    home.uninstall()
    assert sorted(home.root.rglob("*")) == before


def test_uninstalled_what_others_have_there_stays(home: Home):
    home.plugin.parent.mkdir(parents=True)
    (home.plugin.parent / "other.js").write_text("x")
    home.install()
    home.uninstall()
    assert home.files() == [".config/opencode/plugins/other.js", "bin/opencode"]


def test_one_that_a_person_broke_is_removed_too(home: Home):
    home.install()
    home.plugin.write_text(f"{MARK}\nconst WORDS = [\nconst VARIABLES = 7\n")
    assert home.checks()["OpenCode entry"][0] == "warn"
    home.uninstall()
    assert home.files() == ["bin/opencode"]


def test_a_link_stays_a_link(home: Home):
    real = home.root / "dotfiles.js"
    home.plugin.parent.mkdir(parents=True)
    home.plugin.symlink_to(real)
    home.install()
    assert home.plugin.is_symlink()
    assert real.read_text().startswith(MARK)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(home: Home):
    home.plugin.parent.mkdir(parents=True)
    home.plugin.parent.chmod(0o500)
    plan = home.opencode.plan_install(home.machine())
    with pytest.raises(RelayError, match="cannot write"):
        plan.steps[0].do()
    home.plugin.parent.chmod(0o700)


def test_a_file_in_the_place_of_the_folder_is_told(home: Home):
    home.plugin.parent.parent.mkdir(parents=True)
    home.plugin.parent.write_text("x")
    plan = home.opencode.plan_install(home.machine())
    with pytest.raises(RelayError, match=r"ecorelay\.js"):
        plan.steps[0].do()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"x" * 9_000_000], ids=["no text", "huge"])
def test_what_cannot_be_read_is_told(home: Home, data: bytes):
    home.plugin.parent.mkdir(parents=True)
    home.plugin.write_bytes(data)
    assert home.install().problem
    assert home.uninstall().problem
    assert home.checks()["OpenCode entry"][0] == "fail"
    assert home.plugin.read_bytes() == data


# --- the program ------------------------------------------------------------------------------------------


def test_for_an_opencode_that_it_would_break_it_is_not_written(home: Home):
    home.program(OPENCODE.format(version="1.14.41"))
    plan = home.install()
    assert "1.15 or newer" in plan.problem
    assert plan.steps == ()
    assert home.checks()["OpenCode"][0] == "fail"
    home.program(OPENCODE.format(version="1.15.0"))
    assert home.install().problem == ""
    assert home.checks()["OpenCode"][0] == "ok"


def test_without_the_program_it_is_written_all_the_same(home: Home):
    (home.root / "bin" / "opencode").unlink()
    home.environ["PATH"] = str(home.root / "bin")
    assert "the program `opencode` is not on the PATH" in home.install().notes
    assert home.plugin.exists()
    assert home.checks()["OpenCode"][0] == "fail"


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho hello\n", "#!/nowhere/sh\n"])
def test_a_program_that_does_not_work_is_told(home: Home, script: str):
    home.program(script)
    assert home.checks()["OpenCode"][0] == "fail"
    assert any("opencode" in note for note in home.install().notes)
    assert home.plugin.exists()


def test_the_program_may_be_named(home: Home):
    home.environ["OPENCODE_BIN"] = "/nowhere/opencode"
    assert home.checks()["OpenCode"] == ("fail", "/nowhere/opencode is no program that can be run")
