"""Bytes in, whole lines out: the framing of the local hop, without I/O.

A frame is one line of JSON ended by a newline; a carriage return before it is tolerated and empty lines
are skipped. Bytes are cut at newlines only, never decoded here, so no character is ever torn apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecorelay.errors import WireError
from ecorelay.wire import LINE_MAX_BEFORE_HELLO, find_req_id

if TYPE_CHECKING:
    from collections.abc import Iterator


class LineSplitter:
    """Collects bytes until lines are whole, in time linear in the bytes whatever the chunks.

    Args:
        limit: longest line allowed, in bytes without its end. May be raised at any time, also
            between two lines of one :meth:`feed`.
    """

    def __init__(self, limit: int = LINE_MAX_BEFORE_HELLO) -> None:
        self.limit = limit
        # A bytearray, not a list of chunks: a line that comes byte by byte would cost 40 bytes for each.
        self._rest = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of the line that is not whole yet."""
        return len(self._rest)

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        """Take `data` in at once, and give the lines it completes one by one.

        Raises:
            WireError: while iterating, in the place of a line over the limit, whole or not; the
                lines before it were given. It carries the req_id if the line's beginning shows one.
                The stream is of no use afterwards.
        """
        whole = bytes(data).split(b"\n")
        # Only what is new was searched for a newline; the rest never holds one.
        rest = whole.pop()
        if whole and self._rest:
            self._rest += whole[0]
            whole[0] = bytes(self._rest)
            self._rest = bytearray()
        self._rest += rest
        return self._checked(whole)

    def _checked(self, whole: list[bytes]) -> Iterator[bytes]:
        for line in whole:
            if len(line) > self.limit:
                raise self._too_long(line)
            if line.endswith(b"\r"):
                line = line[:-1]
            if line:
                yield line
        if len(self._rest) > self.limit:
            raise self._too_long(bytes(self._rest))

    def _too_long(self, line: bytes) -> WireError:
        return WireError(
            f"a line is longer than {self.limit:,} bytes; send the text in several messages",
            find_req_id(line[: self.limit]),
        )
