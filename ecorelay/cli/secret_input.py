"""A secret, a token, an invitation, as a person hands it over: in a file, by stdin, or typed unseen."""

from __future__ import annotations

import sys
from typing import Final

from ecorelay.cli import invitation, screen
from ecorelay.errors import RelayError

STDIN: Final = "-"


def secret_text(source: str, what: str, option: str) -> str:
    """The one line that a file, stdin or a person at the terminal gives.

    Args:
        source: a path; ``-`` is stdin, and a terminal there asks, and does not show what is typed.
        what: for that question: what it is.
        option: which names `source`.

    Raises:
        RelayError: ``bad_args``; quotes nothing of it.
    """
    if source == STDIN and screen.is_terminal(sys.stdin):
        import getpass

        screen.say(f"paste {what} and press Enter; it is not shown")
        try:
            return one_line(getpass.getpass("", stream=sys.stderr).encode(), "what was typed")
        except EOFError:
            raise RelayError("bad_args", "nothing was typed: nothing was changed") from None
    return one_line(secret_bytes(source, option), "stdin" if source == STDIN else source)


def secret_bytes(source: str, option: str) -> bytes:
    """What a file or stdin holds, at most a little more than `one_line` takes. Raises as `secret_text`."""
    if source == STDIN:
        return sys.stdin.buffer.read(invitation.LINE_MAX + 1)
    try:
        with open(source, "rb") as file:
            return file.read(invitation.LINE_MAX + 1)
    except OSError as error:
        raise RelayError("bad_args", f"{option} is {source!r}: {error.strerror or error}") from None


def one_line(data: bytes, where: str) -> str:
    """The text in `data`, which must be one line, or an invitation. Raises as :func:`secret_text`."""
    if len(data) > invitation.LINE_MAX:
        raise RelayError("bad_args", f"{where} has over {invitation.LINE_MAX:,} bytes: that is no secret")
    try:
        text = data.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError:
        raise RelayError("bad_args", f"{where} is not UTF-8") from None
    if not text.strip():
        raise RelayError("bad_args", f"{where} is empty: nothing was changed")
    if not invitation.is_one(text) and "\n" in text:
        raise RelayError("bad_args", f"{where} has more than one line: the secret must be all there is")
    return text
