"""Whole hubs under random loads and faults keep what is promised; see CONTRIBUTING.md, *The simulator*."""

import pytest

from tests.sim import batch


@pytest.mark.guarantee("delivered-is-proved")
@pytest.mark.guarantee("redelivered-is-marked")
@pytest.mark.guarantee("eviction-notice")
def test_seeds_from_100_keep_what_is_promised():
    batch.seeds(100)
