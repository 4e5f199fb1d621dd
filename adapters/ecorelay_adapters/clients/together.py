"""Several assistants looked at side by side: most of the time they wait for the programs they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SLOW_S: Final = 1.0
"""After so long a person wonders what is going on."""

Asked = TypeVar("Asked")
Found = TypeVar("Found")


def side_by_side(
    ask: Callable[[Asked], Found], asked: Sequence[Asked], when_slow: Callable[[], None]
) -> list[Found]:
    """What `ask` found of each, in their order; the first of them that it raised for is raised.

    Args:
        ask: called for all at once, in threads.
        asked: each of them.
        when_slow: called once, if it takes more than `SLOW_S`.
    """
    from concurrent.futures import ThreadPoolExecutor, wait

    with ThreadPoolExecutor(max_workers=max(len(asked), 1)) as threads:
        asking = [threads.submit(ask, each) for each in asked]
        if wait(asking, timeout=SLOW_S).not_done:
            when_slow()
        return [each.result() for each in asking]
