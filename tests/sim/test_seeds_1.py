"""Whole hubs under random loads and faults keep what is promised; see CONTRIBUTING.md, *The simulator*."""

from tests.sim import batch


def test_seeds_from_0_keep_what_is_promised():
    batch.seeds(0)
