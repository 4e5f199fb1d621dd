"""Texts: their checksum, and their length on a page."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from ecorelay.daemon.schema import KINDS

_encoder = msgspec.json.Encoder()


def checksum(
    msg_id: str, kind: int, sender: str, reply_to: str | None, broadcast_id: str | None, text: bytes
) -> int:
    """Over everything a reader is shown of a message, so that none of it can rot unnoticed."""
    head = f"{msg_id}\n{kind}\n{sender}\n{reply_to or ''}\n{broadcast_id or ''}\n"
    return zlib.crc32(text, zlib.crc32(head.encode()))


def readable(data: object, check: int, head: tuple[str, Any, str, str | None, str | None]) -> str | None:
    """The text, if it and what stands around it are what was stored.

    Args:
        data: the text, as bytes; anything else where it is missing.
        check: the checksum stored beside it.
        head: msg_id, kind, sender, reply_to and broadcast_id as they are stored.
    """
    # Of a row that rotted, not even the types are what they were.
    if not isinstance(data, bytes) or not isinstance(head[1], int) or not 0 <= head[1] < len(KINDS):
        return None
    if checksum(*head, data) != check:
        return None
    return data.decode()


def json_length(text: str, size: int) -> int:
    """Characters of `text` as JSON. `size`: its bytes of UTF-8."""
    return len(_encoder.encode(text)) - size + len(text)
