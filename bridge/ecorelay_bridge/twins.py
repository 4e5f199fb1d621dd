"""Notices that two machines are the same hub at once: a cloned disk, or a stolen identity. Decides only.

Each start of a hub has a random `instance`. One that is followed by another was started again and does not
come back. If it does, or if both stay, there are two of them. The links would go to and fro between the two
many times a minute; so who comes back is refused for a while, and both sides say why.

Limits: two that never meet here, because only one of them dials and nobody dials the other, look like one
that was started again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ecorelay.names import key
from ecorelay_bridge.refusals import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT_S: Final = 30.0
"""How long whoever came last keeps the other one out."""
TOGETHER_S: Final = 30.0
"""A stream of the instance before lives no longer than this if nobody answers on it any more."""
INSTANCES_MAX: Final = 8
"""Remembered of one hub; the ones met least lately are forgotten."""


class Twins:
    """What was seen of each hub that proved itself. There are as many as hubs that know the secret.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hubs: dict[str, _Seen] = {}

    def expect(self, hub_id: str, instance: str) -> None:
        """A hub has said who it is, and not proved it yet: nothing is remembered.

        Args:
            hub_id: of it.
            instance: which start of it; "" it does not say.

        Raises:
            Refused: ``twins``, there would be no link.
        """
        now = self._clock()
        seen = self._hubs.get(key(hub_id))
        if seen is None or instance not in seen.began:
            return
        if instance == seen.current:
            beside = any(other != instance for other in seen.up)
            if beside and now - seen.began[instance] > TOGETHER_S:
                raise twins(hub_id)
        elif now - seen.since < KEPT_S:
            raise twins(hub_id)

    def meet(self, hub_id: str, instance: str) -> None:
        """A hub has proved itself.

        Raises:
            Refused: see :meth:`expect`.
        """
        if not instance:
            return
        self.expect(hub_id, instance)
        now = self._clock()
        seen = self._hubs.setdefault(key(hub_id), _Seen())
        seen.began.setdefault(instance, now)
        seen.began.move_to_end(instance)
        if len(seen.began) > INSTANCES_MAX:
            seen.began.popitem(last=False)
        if instance != seen.current:
            seen.current, seen.since = instance, now

    @contextmanager
    def up(self, hub_id: str, instance: str) -> Iterator[None]:
        """A stream of it is up for as long as this lasts."""
        if not instance:
            yield
            return
        streams = self._hubs.setdefault(key(hub_id), _Seen()).up
        streams[instance] += 1
        try:
            yield
        finally:
            streams[instance] -= 1
            if not streams[instance]:
                del streams[instance]


class _Seen:
    __slots__ = ("began", "current", "since", "up")

    def __init__(self) -> None:
        self.began: OrderedDict[str, float] = OrderedDict()
        """Each instance and when it was first met."""
        self.current = ""
        self.since = 0.0
        self.up: Counter[str] = Counter()


def twins(hub_id: str) -> Refused:
    """Two machines are this hub."""
    return Refused(
        Reason.TWINS,
        f"two machines are {hub_id}, with one identity: one of them is a copy",
        "on the copy move identity.pem away, give it a hub_id of its own in bridge.json, and restart its "
        "hub; if there is none, somebody has stolen that identity and the secret",
    )
