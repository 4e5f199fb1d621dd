"""Exit codes: what a script may tell apart. The README has the same table."""

from __future__ import annotations

from typing import Final

OK: Final = 0
REFUSED: Final = 1
"""Understood and not done: somebody else's name, not your group, a failed check of `demo`."""
USAGE: Final = 2
"""Wrong arguments or settings."""
NO_HUB: Final = 3
"""No hub is running, or none can be reached or started."""
NOT_FOUND: Final = 4
"""No such peer, hub, group or message."""
LIMIT: Final = 5
"""Out of time or over a limit; the message says which, and how long to wait."""
BROKEN: Final = 6
"""The hub could not: a full disk, a damaged file, a bug."""
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
"""Whoever read our output went away; mail that was not read to the end stays unread."""

_BY_CODE: Final[dict[str, int]] = {
    "name_taken": REFUSED,
    "not_registered": REFUSED,
    "already_registered": REFUSED,
    "bad_msg": REFUSED,
    "bad_args": USAGE,
    "too_large": LIMIT,
    "peer_not_found": NOT_FOUND,
    "hub_not_found": NOT_FOUND,
    "peer_gone": NOT_FOUND,
    "unknown_ask": NOT_FOUND,
    "timeout": LIMIT,
    "hub_unreachable": NO_HUB,
    "protocol_mismatch": NO_HUB,
    "mailbox_error": BROKEN,
    "not_member": REFUSED,
    "not_admin": REFUSED,
    "group_not_found": NOT_FOUND,
    "limit_reached": LIMIT,
    "blocked": REFUSED,
    "unexpected": BROKEN,
}


def exit_code(code: str) -> int:
    """The exit code for an error code of `ecorelay.errors`."""
    return _BY_CODE.get(code, REFUSED)
