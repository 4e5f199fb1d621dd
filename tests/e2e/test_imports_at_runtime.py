"""What the processes that start often really import: each module costs every session its time."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.children import HELLO, run

COMMAND_LINE = {"typer", "click", "rich", "pydantic"}
MARK = "import time:"


def imported_by(
    *arguments: str, home: Path, asking: Sequence[dict[str, Any]] = (), **settings: str
) -> set[str]:
    """Run Python with `arguments` to its end and return the modules it imported."""
    command = [sys.executable, "-X", "importtime", *arguments]
    ended = run(*command, cwd=home, asking=asking, ECORELAY_HOME=str(home), **settings)
    return {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith(MARK)}


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_importing_ecorelay_imports_nothing_else(tmp_path):
    without = imported_by("-c", "pass", home=tmp_path)
    assert imported_by("-c", "import ecorelay", home=tmp_path) - without == {"ecorelay"}


def test_asking_for_the_version_imports_neither_typer_nor_trio(tmp_path):
    imported = packages(imported_by("-m", "ecorelay", "--version", home=tmp_path))
    assert imported & {*COMMAND_LINE, "trio", "msgspec"} == set()


@pytest.mark.guarantee("light-start")
def test_the_adapter_answers_an_assistant_without_the_command_line_the_hub_or_a_database(tmp_path):
    imported = imported_by("-m", "ecorelay", "mcp", home=tmp_path, asking=HELLO, ECORELAY_SPAWN="no")
    assert {"ecorelay_adapters.mcp_stdio", "trio"} <= imported
    assert packages(imported) & {*COMMAND_LINE, "argparse", "sqlite3", "mcp", "trio_websocket"} == set()
    assert {m for m in imported if m.startswith(("ecorelay.core", "ecorelay.daemon"))} == set()


@pytest.mark.guarantee("light-start")
def test_the_hub_runs_without_the_command_line_or_an_adapter(tmp_path):
    imported = imported_by("-m", "ecorelay", "hub", "run", home=tmp_path, ECORELAY_IDLE_EXIT_S="0")
    assert {"ecorelay.daemon.store", "trio"} <= imported
    assert packages(imported) & {*COMMAND_LINE, "ecorelay_adapters", "mcp", "trio_websocket"} == set()


def test_the_command_line_is_what_needs_typer(tmp_path):
    # Were this not so, the tests above would look for a name that nobody imports any more.
    assert "typer" in packages(imported_by("-m", "ecorelay", "--help", home=tmp_path))
