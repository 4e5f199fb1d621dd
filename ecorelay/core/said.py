"""What peers of ours said in groups and rooms of other hubs, so that it is known when it comes back.

A line in the name of one of our own peers is believed only if that peer said it. Kept in memory, as digests;
for groups the store knows the ids beyond that.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ecorelay.core.records import Peer
    from ecorelay.core.state import State

KEPT: Final = 10_000
"""The latest of all that was said, on this hub."""


def remember(s: State, peer: Peer, place: str, msg_id: str, text: str) -> None:
    """A peer of ours says this. `place`: the group_id, or the key of the room's address."""
    s.said[msg_id] = _digest(peer, place, text)
    if len(s.said) > KEPT:
        del s.said[next(iter(s.said))]


def is_so(s: State, peer: Peer, place: str, msg_id: str, text: str) -> bool | None:
    """Whether the peer said just this, and there; None: nothing is known of that message."""
    known = s.said.get(msg_id)
    return None if known is None else known == _digest(peer, place, text)


def _digest(peer: Peer, place: str, text: str) -> bytes:
    return hashlib.blake2b(f"{peer.no} {place} {text}".encode(), digest_size=16).digest()
