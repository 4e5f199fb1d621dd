"""That nothing the core may be told, or has asked for, is without somebody to handle it."""

import ast
import inspect
from pathlib import Path
from typing import get_args

import ecorelay.core
from ecorelay import wire
from ecorelay.core import hub, ops
from tests.helpers import model_store

CORE = [
    node
    for path in sorted(Path(inspect.getfile(ecorelay.core)).parent.glob("*.py"))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
]
"""Everything the sources of the core say."""


def calls_in_core(name: str) -> list[ast.Call]:
    """Every call of `name(...)` or `<anything>.name(...)`."""
    calls = [node for node in CORE if isinstance(node, ast.Call)]
    return [call for call in calls if name in (getattr(call.func, "id", ""), getattr(call.func, "attr", ""))]


def made_as(argument: int, calls: list[ast.Call]) -> set[str]:
    """The classes of which an instance is given as that argument."""
    given = [call.args[argument] for call in calls if len(call.args) > argument]
    return {
        getattr(value.func, "attr", "") or getattr(value.func, "id", "")
        for value in given
        if isinstance(value, ast.Call)
    }


def cases_of(*methods: str) -> set[str]:
    """The classes that the match statements of these methods of the hub name."""
    source = ast.parse(Path(inspect.getfile(hub)).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(source):
        if isinstance(node, ast.FunctionDef) and node.name in methods:
            for pattern in ast.walk(node):
                if isinstance(pattern, ast.MatchClass):
                    found.add(getattr(pattern.cls, "attr", "") or getattr(pattern.cls, "id", ""))
    return found


def test_there_is_somebody_for_every_frame_a_session_may_send_and_no_other():
    assert set(hub._ON_FRAME) == set(get_args(wire.FromSession))


def test_every_note_given_to_the_store_is_known_when_it_comes_back():
    notes = made_as(1, calls_in_core("Store"))
    assert {"MailStored", "PageReady", "HouseKept", "LeaseFreed"} <= notes
    assert cases_of("_stored") == notes
    assert cases_of("_store_failed", "_undo") == notes


def test_every_note_given_to_the_timer_is_known_when_it_comes_back():
    notes = made_as(1, calls_in_core("at"))
    assert {"PingDue", "LeaseEnds", "WaitEnds"} <= notes
    # Given as a variable: a claim that is asked again, a lease that is freed again.
    assert cases_of("_tick") == notes | {"LeaseFreed"}


def test_every_op_is_asked_for_by_the_core_and_known_to_the_model_of_the_store():
    kinds = {kind for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, ops.Op)}
    assert set(model_store._DO) == kinds - {ops.Op}
    asked = {kind.__name__ for kind in kinds if calls_in_core(kind.__name__)}
    assert asked == {kind.__name__ for kind in kinds - {ops.Op}}
