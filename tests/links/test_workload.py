"""Hubs and links under a random load: whatever goes wrong, no mail is lost, doubled or miscounted."""

import pytest

from tests.links import workload


@pytest.mark.parametrize("start", range(0, 240, 20))
def test_under_a_random_load_no_mail_between_hubs_is_lost_or_doubled(start):
    for seed in range(start, start + 20):
        workload.check(seed, 160)


@pytest.mark.soak
@pytest.mark.parametrize("start", range(10_000, 20_000, 500))
def test_under_very_many_random_loads_the_same_holds(start):
    for seed in range(start, start + 500):
        workload.check(seed, 500)
