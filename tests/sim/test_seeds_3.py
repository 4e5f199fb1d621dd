"""Whole hubs under random loads and faults keep what is promised; see CONTRIBUTING.md, *The simulator*."""

import pytest

from tests.sim import batch


@pytest.mark.guarantee("queues-bounded")
@pytest.mark.guarantee("group-cursor-on-confirmation")
@pytest.mark.guarantee("reconnect-restores")
def test_seeds_from_200_keep_what_is_promised():
    batch.seeds(200)
