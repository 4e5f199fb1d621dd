"""The simulator itself: the same seed is the same run, and a failing one is cut down."""

import pytest

from tests.sim import batch
from tests.sim.ledger import Wrong
from tests.sim.outcome import outcome
from tests.sim.shrink import kind, shrink
from tests.sim.steps import WEIGHTS, Steps, make_history

SEEDS = 3


def test_a_seed_is_the_same_run_in_every_process():
    """Whatever the hashes of strings, the addresses of objects and the time of day are there."""
    elsewhere = batch.simulate("--seeds", str(SEEDS), "--from", "7", "--traces").split()
    here = [(str(seed), outcome(seed, make_history(seed, 40)).trace) for seed in range(7, 7 + SEEDS)]
    assert [word for pair in here for word in pair] == elsewhere
    assert len({trace for _, trace in here}) == SEEDS


def test_every_step_is_one_that_is_made():
    assert set(WEIGHTS) <= set(dir(Steps))


def test_a_history_that_fails_is_cut_down_to_what_matters(monkeypatch: pytest.MonkeyPatch):
    done = []

    def rename(self: Steps) -> None:
        done.append(self)
        raise Wrong("planted")

    monkeypatch.setattr(Steps, "rename", rename)
    seed = next(seed for seed in range(100) if "rename" in [what for what, _ in make_history(seed, 40)])
    steps = make_history(seed, 40)
    assert kind(outcome(seed, steps).error) == "Wrong planted"
    assert [what for what, _ in shrink(seed, steps)] == ["rename"]


@pytest.mark.soak
@pytest.mark.parametrize("first", range(10_000, 20_000, 500))
def test_very_many_seeds_keep_what_is_promised(first: int):
    batch.simulate("--seeds", "500", "--from", str(first), "--length", "120", seconds=1_800)
