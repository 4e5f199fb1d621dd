"""The core under a random load: whatever happens, nothing is lost, doubled or left behind."""

import pytest

from tests.core.workload import Workload


@pytest.mark.parametrize("seed", range(20))
def test_a_random_load_loses_nothing_and_leaves_nothing_behind(seed):
    Workload(seed, evicting=False).run(700)


@pytest.mark.parametrize("seed", range(100, 110))
def test_with_full_mailboxes_what_is_evicted_is_told(seed):
    Workload(seed, evicting=True).run(700)
