"""Every promise of guarantees.toml has a test that carries it, and no test carries another.

Read from the source, not from a collection, so that the answer is the same whichever tests run.
"""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# A promise is kept only by a test that runs whenever the tests run.
LEFT_OUT = frozenset({"skip", "skipif", "xfail", "real", "soak", "system"})


@dataclass(frozen=True)
class Carried:
    """One use of the marker: which promise, and the test (or the place) that carries it."""

    guarantee: str
    where: str
    by_a_test: bool
    always_runs: bool


def mark_name(node: ast.expr) -> str | None:
    """Return "slow" for `pytest.mark.slow` and `pytest.mark.slow(...)`, None for anything else."""
    if isinstance(node, ast.Call):
        node = node.func
    match node:
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="pytest"), attr="mark")):
            return node.attr
        case _:
            return None


def listed_marks(node: ast.expr) -> list[ast.expr]:
    """Return the marks of a `pytestmark`: it may be one, or a list of them."""
    return list(node.elts) if isinstance(node, ast.List | ast.Tuple) else [node]


def marks_of_body(body: list[ast.stmt]) -> list[ast.expr]:
    """Return what `pytestmark = ...` in a module or class gives to all tests in it."""
    return [
        mark
        for statement in body
        if isinstance(statement, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in statement.targets)
        for mark in listed_marks(statement.value)
    ]


def marks_of_params(decorators: list[ast.expr]) -> list[ast.expr]:
    """Return the marks given to single cases, `pytest.param(..., marks=...)`."""
    return [
        mark
        for decorator in decorators
        if mark_name(decorator) == "parametrize"
        for call in ast.walk(decorator)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "marks"
        for mark in listed_marks(keyword.value)
    ]


def read_id(mark: ast.expr, where: str) -> str:
    match mark:
        case ast.Call(args=[ast.Constant(value=str(value))], keywords=[]):
            return value
        case _:
            raise AssertionError(f"{where}: write @pytest.mark.guarantee with one literal id")


def carried_in(source: str, path: str) -> Iterator[Carried]:
    """Yield every use of the marker in one file."""
    module = ast.parse(source, path)
    owned: set[int] = set()

    def visit(body: list[ast.stmt], inherited: list[ast.expr]) -> Iterator[Carried]:
        inherited = inherited + marks_of_body(body)
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                yield from visit(node.body, inherited + node.decorator_list)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if not node.name.startswith("test"):
                    continue
                own = node.decorator_list + marks_of_params(node.decorator_list)
                runs = not any(mark_name(m) in LEFT_OUT for m in inherited + node.decorator_list)
                for mark in inherited + own:
                    if mark_name(mark) == "guarantee":
                        owned.add(id(mark))
                        where = f"{path}:{node.lineno} {node.name}"
                        yield Carried(read_id(mark, where), where, True, runs)

    yield from visit(module.body, [])
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and mark_name(node) == "guarantee" and id(node) not in owned:
            where = f"{path}:{node.lineno}"
            yield Carried(read_id(node, where), where, False, False)


@cache
def carried_by_all_tests() -> list[Carried]:
    return [
        carried
        for path in sorted(TESTS.rglob("test_*.py"))
        for carried in carried_in(path.read_text(encoding="utf-8"), path.relative_to(TESTS.parent).as_posix())
    ]


def promised() -> list[dict[str, str]]:
    with (TESTS / "guarantees.toml").open("rb") as file:
        promises: list[dict[str, str]] = tomllib.load(file)["guarantee"]
    return promises


def test_each_promise_has_an_id_of_its_own_and_a_sentence():
    promises = promised()
    for promise in promises:
        assert set(promise) == {"id", "sentence"}, promise
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", promise["id"]), promise
        assert promise["sentence"].endswith("."), promise
        assert "\n" not in promise["sentence"], promise
    twice = [i for i, count in Counter(p["id"] for p in promises).items() if count > 1]
    assert twice == []


def test_each_promise_is_carried_by_a_test_that_always_runs():
    proved = {c.guarantee for c in carried_by_all_tests() if c.by_a_test and c.always_runs}
    assert [p["id"] for p in promised() if p["id"] not in proved] == []


def test_no_test_carries_an_unknown_promise():
    known = {p["id"] for p in promised()}
    assert [c for c in carried_by_all_tests() if c.guarantee not in known] == []


def test_the_marker_stands_on_tests_only():
    assert [c.where for c in carried_by_all_tests() if not c.by_a_test] == []


EXAMPLE = """
import pytest
pytestmark = [pytest.mark.slow, pytest.mark.guarantee("of-the-module")]

@pytest.mark.guarantee("one")
async def test_a(): ...

@pytest.mark.xfail
@pytest.mark.guarantee("two")
def test_b(): ...

class TestC:
    pytestmark = pytest.mark.guarantee("three")
    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.guarantee("four"))])
    def test_d(self, x): ...

@pytest.mark.guarantee("five")
def helper(): ...
"""


def test_the_check_itself_reads_every_way_of_marking():
    found = [(c.guarantee, c.by_a_test, c.always_runs) for c in carried_in(EXAMPLE, "test_x.py")]
    assert found == [
        ("of-the-module", True, True),
        ("one", True, True),
        ("of-the-module", True, False),
        ("two", True, False),
        ("of-the-module", True, True),
        ("three", True, True),
        ("four", True, True),
        ("five", False, False),
    ]


def test_the_check_refuses_an_id_that_is_not_a_literal():
    with pytest.raises(AssertionError, match=r"test_x\.py:2 test_a: .* literal id"):
        list(carried_in("@pytest.mark.guarantee(name)\ndef test_a(): ...\n", "test_x.py"))
