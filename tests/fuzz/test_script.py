"""scripts/fuzz.py, as far as it goes without the fuzzer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.fuzz import table, target
from tests.fuzz.target import Target

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_without_the_fuzzer_it_says_how_to_get_it(script: ModuleType, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "atheris", None)  # as if it were not installed
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "all"])
    assert script.main() == 2
    assert "pip install" in capsys.readouterr().err


def test_of_what_was_found_the_fewest_are_kept_that_reach_all(
    script: ModuleType, monkeypatch, tmp_path: Path
):
    def run(data: bytes) -> None:
        steps(data)

    steps = _loaded(
        tmp_path, "def steps(data):\n    for byte in data:\n        if byte == 65:\n            pass\n"
    )
    monkeypatch.setattr(script, "PACKAGES", ("stepping",))
    monkeypatch.setattr(target, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(table, "TARGETS", {"x": Target("x", run, (b"",))})
    work = tmp_path / "work"
    work.mkdir()
    for number, data in enumerate((b"", b"B", b"BB", b"A", b"BABA", b"C" * 5_000)):
        (work / str(number)).write_bytes(data)
    script._keep("x", work)
    kept = [path.read_bytes() for path in (tmp_path / "corpus" / "x").iterdir()]
    assert kept == [b"BABA"]


def _loaded(folder: Path, code: str):
    """The function `steps` of a module of this code."""
    path = folder / "stepping.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("stepping", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.steps
