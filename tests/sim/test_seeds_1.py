"""Whole hubs under random loads and faults keep what is promised; see CONTRIBUTING.md, *The simulator*."""

import pytest

from tests.sim import batch


@pytest.mark.guarantee("durable-before-ack")
@pytest.mark.guarantee("stored-once")
@pytest.mark.guarantee("fifo")
def test_seeds_from_0_keep_what_is_promised():
    batch.seeds(0)
