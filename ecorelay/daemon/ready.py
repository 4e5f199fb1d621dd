"""Telling whoever started the hub that it listens, or why it does not."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from ecorelay.errors import RelayError
from ecorelay.launch import Ready

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTION = "--ready-fd"


def parse(arguments: Sequence[str]) -> int | None:
    """The descriptor given by ``--ready-fd N``; None: a person looks on.

    Raises:
        RelayError: ``bad_args``, anything else was given.
    """
    match arguments:
        case []:
            return None
        case [option, number] if option == OPTION and number.isascii() and number.isdigit():
            return int(number)
        case _:
            raise RelayError(
                "bad_args", "hub run takes no arguments; its settings are in config.toml and ECORELAY_…"
            )


class Starter:
    """Whoever started the hub; told one thing, once.

    Args:
        handle: a pipe's writing end, or None for a person at stderr. It is closed after the word.
    """

    def __init__(self, handle: int | None) -> None:
        self.watching = handle is None
        """A person looks on."""
        self._handle = -1 if handle is None else handle
        if handle is not None:
            try:
                # Nothing we start may keep it open: the starter waits for its end.
                os.set_inheritable(handle, False)
            except OSError:
                raise RelayError("bad_args", f"{OPTION} {handle}: there is no such descriptor") from None

    def tell_listening(self, where: str) -> None:
        """The hub can be reached. `where`: for a person."""
        if self.watching:
            print(f"ecorelay hub: {where}", file=sys.stderr, flush=True)
        self._tell(Ready(ok=True))

    def tell_refused(self, error: RelayError) -> None:
        """The hub does not start. A person learns it from whoever catches `error`."""
        self._tell(Ready(ok=False, code=error.code, message=error.message))

    def _tell(self, ready: Ready) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            # Who does not wait for the word any more does not need it.
            with suppress(OSError):
                os.write(handle, msgspec.json.encode(ready) + b"\n")
            os.close(handle)
