"""The simulator finds bugs: these are planted."""

import pytest

from tests.sim import mutations


@pytest.mark.parametrize("what", mutations.QUICK)
def test_a_planted_bug_is_found(what: str):
    found = mutations.run(mutations.called(what), mutations.QUICK_SEEDS)
    assert found.startswith("seed "), found or "not noticed"


@pytest.mark.soak
@pytest.mark.parametrize("what", [each.what for each in mutations.MUTATIONS])
def test_every_planted_bug_is_found(what: str):
    assert mutations.run(mutations.called(what))
