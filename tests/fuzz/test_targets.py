"""Every target on its seeds, on what fuzzing has kept, and on some hundred inputs bent out of them."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from tests.fuzz.bending import bend
from tests.fuzz.table import TARGETS
from tests.fuzz.target import CORPUS

CORPUS_MAX = 300 * 1024
EXAMPLES = 8
BENDS = 8
"""Inputs of one example: Hypothesis is for drawing and replaying, and would cost more than they."""


def run(name: str, data: bytes) -> None:
    """One input; a failure shows it."""
    try:
        TARGETS[name].run(data)
    except Exception as error:
        error.add_note(f"{name} was given {data!r}")
        raise


@pytest.mark.guarantee("hostile-bytes")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_that_was_kept_breaks_a_promise(name: str):
    for data in (b"", *TARGETS[name].seeds, *TARGETS[name].kept()):
        run(name, data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**64 - 1))
def test_nothing_bent_out_of_right_inputs_breaks_a_promise(name: str, number: int):
    target, random = TARGETS[name], Random(number)
    begin = (*target.seeds, *target.kept())
    for _ in range(max(1, round(BENDS * target.share))):
        run(name, bend(random.choice(begin), random, target.words, begin))


def test_the_corpus_is_small_and_all_of_it_is_used():
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= set(TARGETS)
    assert sum(path.stat().st_size for path in files) <= CORPUS_MAX
