"""Mail that waits for its carrier, and what of it goes before the model together.

The first message goes at once. After something was handed over, what comes within `GATHER_S` goes together:
each hand-over may begin a turn, and a turn costs the session's user more than a moment's delay.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from ecorelay.names import is_id
from ecorelay_adapters import envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ecorelay_adapters.envelope import Incoming

GATHER_S: Final = 0.3
"""After something was handed over, what comes within this time goes together."""
BATCH_MAX: Final = 20
"""Messages that go together."""
BATCH_CHARACTERS: Final = 500_000
"""Of all texts of a batch, unless one message alone has more. Codex takes a million in one turn."""


class Batches:
    """The waiting mail, in the order it came; bounded by the hub, which pushes no more than its window.

    What was taken and is not yet `handed_over` or `put_back` counts as here, so that a message that is
    pushed again meanwhile does not wait twice.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Incoming, float]] = deque()
        """Mail, and when it came."""
        self._taken: Sequence[Incoming] = ()
        self.not_before = 0.0
        """When the next ordinary batch may go, as `trio.current_time`."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, mail: Incoming) -> bool:
        """Take one message; False: it is here already."""
        if any(mail.msg_id == other.msg_id for other in self._taken) or any(
            mail.msg_id == other.msg_id for other, _ in self._waiting
        ):
            return False
        self._waiting.append((mail, trio.current_time()))
        return True

    @property
    def urgent(self) -> bool:
        """Whether one that waits is."""
        return any(mail.urgent for mail, _ in self._waiting)

    @property
    def oldest(self) -> float:
        """When the one that waits longest came, as `trio.current_time`."""
        return self._waiting[0][1]

    def take(self, *, urgent: bool = False) -> Sequence[Incoming]:
        """What goes now: the first of those that wait, or only those that are `urgent`."""
        if urgent:
            batch = [mail for mail, _ in self._waiting if mail.urgent][:BATCH_MAX]
            self._waiting = deque(entry for entry in self._waiting if entry[0] not in batch)
        else:
            batch, size = [], 0
            while self._waiting and len(batch) < BATCH_MAX:
                size += len(self._waiting[0][0].text)
                if batch and size > BATCH_CHARACTERS:
                    break
                batch.append(self._waiting.popleft()[0])
        self._taken = batch
        return batch

    def done(self, *, handed_over: bool) -> None:
        """What was taken is gone; `handed_over`: and the next ordinary batch waits a little."""
        self._taken = ()
        if handed_over:
            self.not_before = trio.current_time() + GATHER_S

    def put_back(self) -> None:
        """What was taken waits again, before the others, as if it had come just now."""
        now = trio.current_time()
        self._waiting.extendleft((mail, now) for mail in reversed(self._taken))
        self._taken = ()

    def give_up(self, due: float) -> Sequence[Incoming]:
        """Take out those that came until `due`, the first in any case."""
        count = max(1, sum(came <= due for _, came in self._waiting))
        return [self._waiting.popleft()[0] for _ in range(min(count, len(self._waiting)))]

    def clear(self) -> Sequence[Incoming]:
        """Take out all that wait."""
        given = [mail for mail, _ in self._waiting]
        self._waiting.clear()
        return given


def together(batch: Iterable[Incoming], *, now_ms: int, word: Callable[[], str]) -> str:
    """A batch as one text for the model; see `envelope.whole`."""
    return "\n".join(envelope.whole(mail, now_ms=now_ms, word=word) for mail in batch)


_MARK: Final = "ecorelay:"
_LABEL_MAX: Final = 4_096
"""Characters of one: `BATCH_MAX` ids and as much again."""


def label(msg_ids: Iterable[str]) -> str:
    """One id for what was handed over together: whoever meets it later knows which messages it holds."""
    return _MARK + ",".join(msg_ids)


def labelled(id: object) -> tuple[str, ...]:
    """The messages of a hand-over; none, if it is not ours."""
    if not isinstance(id, str) or not id.startswith(_MARK) or len(id) > _LABEL_MAX:
        return ()
    return tuple([msg_id for msg_id in id.removeprefix(_MARK).split(",") if is_id(msg_id)])
