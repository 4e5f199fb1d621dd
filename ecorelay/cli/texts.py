"""What a person says: from the command line or from stdin, checked before any hub is asked."""

from __future__ import annotations

import os
import sys
from typing import Final

from ecorelay import wire
from ecorelay.cli import screen
from ecorelay.errors import RelayError

STDIN: Final = "-"


def said(given: str, what: str = "TEXT") -> str:
    """The text of the argument `given`; ``-`` reads it from stdin.

    Raises:
        RelayError: ``bad_args`` or ``too_large``; `what` names the argument.
    """
    text = _from_stdin() if given == STDIN else _from_argument(given, what)
    size = len(text.encode())
    if size > wire.TEXT_MAX:
        raise RelayError("too_large", f"{what} has {size:,} bytes, the limit is {wire.TEXT_MAX:,}")
    if not text:
        raise RelayError("bad_args", f"{what} is empty: say something")
    return text


def _from_stdin() -> str:
    if screen.is_terminal(sys.stdin):
        screen.say("type the message, then Ctrl-D (Ctrl-Z and Enter on Windows):")
    data = sys.stdin.buffer.read(wire.TEXT_MAX + 1)
    if len(data) > wire.TEXT_MAX:
        raise RelayError("too_large", f"stdin holds more than {wire.TEXT_MAX:,} bytes: send it in parts")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RelayError("bad_args", f"stdin is not UTF-8 at byte {error.start}: send text") from None


def _from_argument(given: str, what: str) -> str:
    try:
        # The bytes as they were typed: a locale may have made something else of them.
        return os.fsencode(given).decode()
    except UnicodeError:
        raise RelayError("bad_args", f"{what} is not UTF-8: send text, or pass it by stdin with -") from None
