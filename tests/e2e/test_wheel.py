"""What people install: the wheel, made from the source distribution, in an environment without us."""

import json
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from ecorelay_adapters.clients.files import read_tree, shipped
from tests.helpers import standin_claude
from tests.helpers.children import HELLO, run

ROOT = Path(__file__).parents[2]
PACKAGES = [
    "ecorelay",
    "bridge/ecorelay_bridge",
    "relay_server/ecorelay_relay_server",
    "adapters/ecorelay_adapters",
]
PLUGIN = ROOT / "adapters" / "claude_code"
LOADED = ("claude_code", "copilot", "opencode")
"""What assistants load, by its folder in adapters/."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", made, ROOT, cwd=made)
    assert len(list(made.glob("ecorelay-*.tar.gz"))) == 1
    (path,) = made.glob("ecorelay-*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory) -> Path:
    """The folder of programs of an environment that holds the wheel, and of ours only the libraries."""
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    place = {"base": str(home), "platbase": str(home)}
    programs = Path(sysconfig.get_path("scripts", "venv", place))
    python = programs / Path(sys.executable).name
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=home)
    # A folder named in a .pth file is searched, but its own .pth files (our editable install) are not.
    libraries = sysconfig.get_path("purelib")
    Path(sysconfig.get_path("purelib", "venv", place), "libraries.pth").write_text(libraries + "\n")
    return programs


@pytest.mark.guarantee("wheel-complete")
def test_the_wheel_holds_every_file_of_the_four_packages(wheel):
    expected = {
        path.relative_to((ROOT / package).parent).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    # What assistants load goes into the adapters' package.
    expected |= {
        f"ecorelay_adapters/files/{path.relative_to(ROOT / 'adapters').as_posix()}"
        for folder in LOADED
        for path in (ROOT / "adapters" / folder).rglob("*")
        if path.is_file()
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{Path(package).name}/py.typed" for package in PACKAGES} <= expected
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.guarantee("wheel-complete")
def test_the_installed_wheel_serves_an_assistant_in_a_folder_with_names_like_ours(programs, tmp_path):
    for name in ("ecorelay", "adapters", "bridge", "ecorelay_adapters"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('code of the project ran')\n")
    ended = run(
        programs / "ecorelay",
        "mcp",
        cwd=tmp_path,
        asking=HELLO,
        ECORELAY_HOME=str(tmp_path / "home"),
        ECORELAY_SPAWN="no",
    )
    assert len(ended.answers[1]["result"]["tools"]) == 19


@pytest.mark.guarantee("wheel-complete")
def test_the_installed_wheel_has_the_version_of_the_source(programs, tmp_path):
    import ecorelay

    said = run(programs / "ecorelay", "--version", cwd=tmp_path).stdout
    assert said == f"ecorelay {ecorelay.__version__}\n"
    code = "import ecorelay, importlib.metadata as m; print(ecorelay.__file__, m.version('ecorelay'))"
    where, version = run(programs / "python", "-I", "-c", code, cwd=tmp_path).stdout.rsplit(maxsplit=1)
    assert not Path(where).is_relative_to(ROOT)
    assert version == ecorelay.__version__


@pytest.mark.guarantee("wheel-complete")
def test_the_installed_wheel_has_the_same_plugin_as_the_checkout(programs, tmp_path):
    code = (
        "from ecorelay_adapters.clients.files import read_tree, shipped\n"
        "import json\n"
        "where = shipped('claude_code')\n"
        "tree = {name: data.decode() for name, data in read_tree(where).items()}\n"
        "print(json.dumps([str(where), tree]))\n"
    )
    where, tree = json.loads(run(programs / "python", "-I", "-c", code, cwd=tmp_path).stdout)
    assert not Path(where).is_relative_to(ROOT)
    assert shipped("claude_code") == PLUGIN
    assert tree == {name: data.decode() for name, data in read_tree(PLUGIN).items()}
    assert ".claude-plugin/marketplace.json" in tree


def test_the_installed_wheel_sets_up_claude_code_with_its_own_program(programs, tmp_path):
    standin_claude.make(tmp_path / "bin")
    (tmp_path / "me").mkdir()
    settings = {"HOME": str(tmp_path / "me"), "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "CLAUDE_BIN": ""}
    run(programs / "ecorelay", "install", "claude-code", cwd=tmp_path, asking=(), **settings)
    (manifest,) = (tmp_path / "me").rglob("claude-code/plugins/ecorelay/.claude-plugin/plugin.json")
    server = json.loads(manifest.read_text())["mcpServers"]["ecorelay"]
    assert server["command"] == str(programs / "ecorelay")
