"""The core under a random load: whatever happens, nothing is lost, doubled or left behind."""

import pytest

from tests.core.workload import Workload


@pytest.mark.guarantee("durable-before-ack")
@pytest.mark.guarantee("fifo")
@pytest.mark.guarantee("leased-until-confirmed")
@pytest.mark.guarantee("delivered-is-proved")
@pytest.mark.guarantee("unread-on-every-result")
@pytest.mark.parametrize("seed", range(60))
def test_under_a_random_load_nothing_is_lost_doubled_miscounted_or_left_behind(seed):
    Workload(seed, evicting=False).run(800)


@pytest.mark.guarantee("eviction-notice")
@pytest.mark.guarantee("queues-bounded")
@pytest.mark.parametrize("seed", range(100, 130))
def test_with_full_mailboxes_what_is_evicted_is_told_and_the_rest_is_there(seed):
    Workload(seed, evicting=True).run(800)


@pytest.mark.soak
@pytest.mark.parametrize("start", range(1_000, 11_000, 1_000))
def test_under_very_many_random_loads_the_same_holds(start):
    for seed in range(start, start + 1_000):
        print(f"seed {seed}")  # shown when it fails
        Workload(seed, evicting=seed % 3 == 0).run(1_500)
