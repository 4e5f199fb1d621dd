"""What all tests share: when the costly ones run, and how Hypothesis looks for examples."""

import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

# No deadline: no test judges by the clock of the machine it runs on. In CI the same examples each
# time, so that a run which fails there fails here too; elsewhere new ones.
hypothesis.settings.register_profile("ecorelay", deadline=None)
hypothesis.settings.register_profile("ecorelay-ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ecorelay-ci" if os.environ.get("CI") else "ecorelay")

ON_DEMAND = {
    "real": "drives a real assistant: ask for it with -m real",
    "soak": "runs for long: ask for it with -m soak",
}


def pytest_collection_modifyitems(config: pytest.Config, items: "Sequence[pytest.Item]") -> None:
    """Skip, with the reason, what runs only when it is asked for by name."""
    asked: str = config.getoption("markexpr")
    for name, reason in ON_DEMAND.items():
        if name in asked:
            continue
        for item in items:
            if item.get_closest_marker(name) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
