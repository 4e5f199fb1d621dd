"""What the shell needs of its neighbours, so that tests can put others in their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay.core.actions import Action
    from ecorelay.core.events import Event, Now
    from ecorelay.core.ops import Op


class Core(Protocol):
    """`ecorelay.core.hub.Hub`."""

    @property
    def idle_since(self) -> float | None:
        """Mono time since which nothing needs the hub; None while something does."""
        ...

    def next_deadline(self) -> float | None:
        """Mono time by which a `Tick` is due."""
        ...

    def handle(self, event: Event, now: Now) -> list[Action]:
        """What to do about `event`."""
        ...


class UnitStore(Protocol):
    """`ecorelay.daemon.store.Store`. For every unit one event comes back, in order, a batch per commit."""

    @property
    def backlog_bytes(self) -> int:
        """Size of what was submitted and is not done."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """What a person should know, one sentence each."""
        ...

    def submit(self, ops: tuple[Op, ...], then: Any) -> None:
        """Have a unit done; never waits."""
        ...

    def size_bytes(self) -> int:
        """Bytes on disk."""
        ...


class Outward(Protocol):
    """A session's outward half: `ecorelay.daemon.outqueue.OutQueue`."""

    dirty: bool
    """Owned by the shell."""

    def put(self, data: bytes) -> None:
        """Queue whole lines."""
        ...

    def flush(self) -> None:
        """Send what is queued; never waits."""
        ...

    def end(self, reason: str) -> None:
        """Close the session once it is flushed."""
        ...
