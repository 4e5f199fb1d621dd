"""How much of everything a relay server bears, so that nobody can use up its memory or its time.

What hubs must know of these is in `ecorelay.relay_wire`; the rest is the server's own business.
"""

from __future__ import annotations

from typing import Final

from ecorelay.relay_wire import CREDIT, STREAMS_MAX

# --- what waits for hubs -----------------------------------------------------------------------------------

OVERHEAD: Final = 160
"""Bytes that a queued message is reckoned to take beside its own: many small ones are not cheap."""
LANE_MAX: Final = 2 * STREAMS_MAX * CREDIT
"""Bytes that wait from one hub for one other: all its streams may use all their credit, in pieces of 200
bytes or more."""
DESTINATION_MAX: Final = 64 * 1024 * 1024
"""Bytes that wait for one hub. A stream that would go beyond is closed as congested."""
TOTAL_MAX: Final = 256 * 1024 * 1024
"""Bytes that wait for all hubs, or are being written. Beyond, the hub for which most waits is closed."""
STREAMS_TOTAL: Final = 500_000
"""Streams open in all, some 400 bytes each: all of 1,000 hubs to all others. Beyond, the hub that opened most
of them is closed."""
NOTES_MAX: Final = 256
"""Texts for one hub alone (`no_such_hub`, `congested`) that wait."""
RECORD_MAX: Final = 4_000
"""Comings and goings of a realm that are kept for hubs that have not read them; who missed one is closed."""
TAKE: Final = 256 * 1024
"""Bytes, about, that are written to a hub at once."""

# --- what a hub may do -------------------------------------------------------------------------------------

UNITS_PER_S: Final = 20_000.0
"""What a hub may spend. It is not closed for more: it is read from later, so it alone waits."""
UNITS_BURST: Final = 40_000.0
UNITS_MESSAGE: Final = 1
UNITS_OPEN: Final = 20
"""A hub that comes back opens a stream to each of its many others at once: that is within the burst."""
UNITS_DROPPED: Final = 10
"""A message for nothing: of a dead stream, or to nobody."""
UNITS_CONGESTED: Final = 400
"""A stream that had to be closed: the other hub must be told too, and what waits of it thrown away."""
UNITS_TEXT: Final = 100
MESSAGES_AT_ONCE: Final = 64
"""Of one hub, before the others have their turn."""

# --- connections without a proof ---------------------------------------------------------------------------

HALF_OPEN_MAX: Final = 1_024
"""In all. For one more, the oldest of the source that has most is closed."""
HALF_OPEN_PER_SOURCE: Final = 64
"""Of one source; a trusted proxy has no such bound of its own. A house full of hubs behind one address that
all come back at once gets through: a proof takes a hub some tens of milliseconds."""
HEAD_MAX: Final = 8 * 1024
"""Bytes of an HTTP request."""
HELLO_MAX: Final = 16 * 1024
FAILED_MAX: Final = 5
"""Failed proofs of an identity, or of a source, in a window; then it is refused for a window."""
STRONG_BITS: Final = 128
"""A token that nobody guesses, and that may be used without TLS."""
COMINGS_MAX: Final = 30
"""Proofs of one identity in a window: two machines that throw each other out do not keep all others busy."""
SOURCE_PER_S: Final = 10.0
"""Hubs of one source that come, whatever their identities: each is told to all others of its realm."""
SOURCE_BURST: Final = 2_000.0
"""All hubs behind one tunnel that come back at once, twice."""
WINDOW_S: Final = 60.0
REMEMBERED_MAX: Final = 4_000
"""Sources, and as many identities, of which something is remembered."""

# --- closing -----------------------------------------------------------------------------------------------

CLOSING_S: Final = 1.0
"""How long a hub that is closed may take to say so too."""
CLOSING_MAX: Final = 64
"""Connections at once that get that time; beyond, they are just cut."""
DRAIN_S: Final = 2.0
"""How long what is queued may take to leave when the server ends."""
