"""Every limit and guard that a person may set, with its default and unit.

Set one as ``[limits]`` in ``config.toml`` or as ``ECORELAY_LIMITS_<NAME>`` in the environment.
What the protocol itself bounds (line lengths, page sizes) is in `ecorelay.wire`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ecorelay.wire import TEXT_MAX

Count = Annotated[int, Meta(ge=1)]
Guard = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All limits; the README lists them with their defaults."""

    text_bytes: Annotated[int, Meta(ge=1, le=TEXT_MAX)] = TEXT_MAX
    """Longest text, in bytes of UTF-8."""
    mailbox_messages: Count = 500
    """Entries in one mailbox's ring, and in one group's."""
    mailbox_bytes: Count = 16 * 1024 * 1024
    """Bytes of text in one mailbox's ring, and in one group's."""
    outbox_messages: Count = 10_000
    """Messages that may wait for one other hub; for one of its peers as many as a mailbox holds."""
    outbox_bytes: Count = 256 * 1024 * 1024
    """Bytes of what waits for one other hub."""
    outbox_days: Seconds = 30.0
    """How long it waits; then it ends as `dead`, and its sender is told."""
    data_bytes: Annotated[int, Meta(ge=16 * 1024 * 1024)] = 2 * 1024**3
    """Size hub.db may reach; beyond it a send is answered `mailbox_error`."""
    peers: Count = 10_000
    """Addresses of this hub."""
    groups: Count = 200
    group_members: Annotated[int, Meta(ge=2, le=100)] = 100
    rooms: Count = 1_000
    room_members: Annotated[int, Meta(ge=1, le=100)] = 100
    room_backlog_bytes: Count = 1024 * 1024
    """Room messages kept in memory for one session without push."""
    room_backlog_total_bytes: Count = 64 * 1024 * 1024
    """The same over all sessions."""
    broadcast_peers: Annotated[int, Meta(ge=1, le=1_000)] = 1_000
    """Online peers one broadcast may ask."""
    sends_per_minute: Guard = 600
    """Guard: messages a minute for one pair of sender and recipient; 0 switches it off."""
    broadcasts_per_hour: Guard = 60
    """Guard: broadcasts an hour for one sender; 0 switches it off."""
    sessions: Count = 2_000
    """Open connections."""
    delivered_within_s: Seconds = 0.3
    """How long a send waits for the push to be acknowledged before it is answered `queued`."""
    lease_s: Seconds = 30.0
    """How long a page may stay unconfirmed."""
    push_window_messages: Count = 500
    """Pushes one session may leave unacknowledged."""
    push_window_bytes: Count = 1024 * 1024
    ping_s: Seconds = 60.0
    """Silence after which a session is pinged; three unanswered pings in a row end it."""
    forget_auto_peer_days: Seconds = 14.0
    forward_old_name_days: Seconds = 30.0
    receipts_days: Seconds = 7.0
    op_ids_hours: Seconds = 24.0
