"""Errors by whose fault they are.

:class:`WireError` is theirs (bytes that are no frame), :class:`RelayError` is an answer (a request
that cannot be done, and what to do next), and anything else that is raised is a bug of ours.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Code = Literal[
    "name_taken",
    "not_registered",
    "already_registered",
    "bad_msg",
    "bad_args",
    "too_large",
    "peer_not_found",
    "hub_not_found",
    "peer_gone",
    "unknown_ask",
    "timeout",
    "hub_unreachable",
    "protocol_mismatch",
    "mailbox_error",
    "not_member",
    "not_admin",
    "group_not_found",
    "limit_reached",
    "blocked",
    "unexpected",
]
"""Every code a failed request can carry; the README lists each with what to do."""

CODES: Final[tuple[str, ...]] = get_args(Code)


class RelayError(Exception):
    """A request that was understood and cannot be done.

    Args:
        code: one of :data:`Code`.
        message: one sentence that names the field and limit concerned and says what to do next.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code: Code = code
        self.message = message


class WireError(Exception):
    """Foreign bytes that are not a frame of this direction.

    Args:
        message: what is wrong, without quoting the bytes (they may hold a secret or a private text).
        req_id: the request the bytes seem to belong to, so that its caller gets an answer.
    """

    def __init__(self, message: str, req_id: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.req_id = req_id
