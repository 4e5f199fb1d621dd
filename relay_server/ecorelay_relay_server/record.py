"""Who came to a realm and who went: written once, read by each hub at its own speed. Decides, does no I/O."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from ecorelay_relay_server.bounds import RECORD_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator


class Record:
    """The last `RECORD_MAX` entries; each has a number, and hubs keep the number they have read up to.

    So a coming costs one text, not one for each hub, and a hub that reads nothing costs nothing.
    """

    def __init__(self) -> None:
        self._entries: deque[tuple[bytes, str]] = deque()
        self.end = 0
        """The number the next entry will have."""

    def add(self, address: bytes, text: str) -> None:
        """Write one down; `address` is whom it is about."""
        self._entries.append((address, text))
        self.end += 1
        if len(self._entries) > RECORD_MAX:
            self._entries.popleft()

    def since(self, number: int) -> Iterator[tuple[bytes, str]] | None:
        """The entries from `number` on; None where some of them are gone."""
        skip = len(self._entries) - (self.end - number)
        return None if skip < 0 else islice(self._entries, skip, None)
