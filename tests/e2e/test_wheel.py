"""What people install: the wheel, made from the source distribution, in an environment without us."""

import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.helpers.children import HELLO, run

ROOT = Path(__file__).parents[2]
PACKAGES = [
    "ecorelay",
    "bridge/ecorelay_bridge",
    "relay_server/ecorelay_relay_server",
    "adapters/ecorelay_adapters",
]


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
