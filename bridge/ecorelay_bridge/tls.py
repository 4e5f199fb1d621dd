"""A connection that is cut is told apart from one that was closed, on every Python.

Before 3.11.3 Python let OpenSSL 3 take the end of the bytes for the end that the other side announced.
"""

from __future__ import annotations

import ssl


def notice_cuts(context: ssl.SSLContext) -> None:
    """Let an end without TLS's own goodbye be an error in connections of this context."""
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF


def is_cut(error: ssl.SSLError) -> bool:
    """Whether that is the error."""
    return isinstance(error, ssl.SSLEOFError) or "UNEXPECTED_EOF" in (error.reason or "")
