"""The simulator finds bugs: these are planted."""

import pytest

from tests.links import mutations as links
from tests.sim import mutations


@pytest.mark.parametrize("what", mutations.QUICK)
def test_a_planted_bug_is_found(what: str):
    found = mutations.run(mutations.called(what), mutations.QUICK_SEEDS)
    assert found.startswith("seed "), found or "not noticed"


@pytest.mark.parametrize("mutation", [*mutations.MUTATIONS, *map(mutations.Mutation._make, links.MUTATIONS)])
def test_what_every_planted_bug_changes_is_still_there(mutation: mutations.Mutation):
    """Or the table rots with every mend, and nobody sees it before the long run."""
    assert (mutations.ROOT / mutation.file).read_text().count(mutation.old) == 1, mutation.what


@pytest.mark.soak
@pytest.mark.parametrize("what", [each.what for each in mutations.MUTATIONS])
def test_every_planted_bug_is_found(what: str):
    assert mutations.run(mutations.called(what))
