"""A text that must not be seen: the hubs' secret, a relay server's token."""

from __future__ import annotations

import math
import unicodedata


class Secret:
    """A text that no repr, error or log shows. Equal to another one with the same text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        # Typed on another system, the same letters may come as other code points.
        self._text = unicodedata.normalize("NFC", text)

    def reveal(self) -> str:
        """The text itself: for deriving keys, never for showing."""
        return self._text

    def bits(self) -> float:
        """How hard it is to guess at best: as if each character had been drawn from the kinds it has."""
        text = self._text
        kinds = (
            (str.islower, 26),
            (str.isupper, 26),
            (str.isdigit, 10),
            (lambda c: not c.isalnum(), 33),
        )
        pool = sum(size for is_kind, size in kinds if any(is_kind(c) for c in text))
        return min(len(text) * math.log2(max(pool, 2)), len(set(text)) * 8.0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a secret is not copied out of its process")
