"""What the shell needs of its neighbours, so that tests can put others in their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay.core.actions import Action
    from ecorelay.core.events import Event, Now


class Core(Protocol):
    """`ecorelay.core.hub.Hub`."""

    @property
    def idle_since(self) -> float | None:
        """Mono time since which nothing needs the hub; None while something does."""
        ...

    def knows_hub(self, hub_id: str) -> bool:
        """Whether another hub has a line in `hub status`."""
        ...

    def next_deadline(self) -> float | None:
        """Mono time by which a `Tick` is due."""
        ...

    def handle(self, event: Event, now: Now) -> list[Action]:
        """What to do about `event`."""
        ...


class Outward(Protocol):
    """A session's outward half: `ecorelay.daemon.outqueue.OutQueue`."""

    dirty: bool
    """Owned by the shell."""

    def put(self, data: bytes) -> None:
        """Queue whole lines."""
        ...

    def offer(self, data: bytes, excuse: Callable[[int], bytes]) -> bool:
        """Queue whole lines if there is room to spare, else tell of it later by `excuse`; whether queued."""
        ...

    def flush(self) -> None:
        """Send what is queued; never waits."""
        ...

    def end(self, reason: str) -> None:
        """Close the session once it is flushed."""
        ...
