"""The shortest history that fails as well: parts of it are left out for as long as it does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.sim.outcome import outcome
from tests.sim.steps import FAULTS, Step

TRIES = 400


def kind(error: BaseException | None) -> str:
    """What an error is about, without what is told in numbers and ids."""
    return "" if error is None else re.sub(r"\w*\d\w*", "", f"{type(error).__name__} {error}")[:60]


def shrink(seed: int, steps: Sequence[Step], tries: int = TRIES) -> list[Step]:
    """A short history of this seed that fails in the same way.

    Args:
        seed: of the run.
        steps: that fail.
        tries: runs this may take.
    """
    left = list(steps)
    of = kind(outcome(seed, left).error)

    def fails(fewer: list[Step]) -> bool:
        nonlocal tries
        tries -= 1
        return kind(outcome(seed, fewer).error) == of

    # First whole kinds of faults: what is left says most about the cause.
    for fault in FAULTS:
        fewer = [step for step in left if step[0] != fault]
        if len(fewer) < len(left) and tries > 0 and fails(fewer):
            left = fewer
    size = len(left) // 2
    while size and tries > 0:
        start = 0
        while start < len(left) and tries > 0:
            fewer = left[:start] + left[start + size :]
            if fails(fewer):
                left = fewer
            else:
                start += size
        size //= 2
    return left
