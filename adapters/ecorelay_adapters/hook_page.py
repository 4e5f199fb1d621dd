"""A page of mail as the text a hook prints: at most so many characters, and what of it was shown wholly."""

from __future__ import annotations

import json
import os
import time

from ecorelay_adapters import envelope
from ecorelay_adapters.envelope import Incoming

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the imports
    from collections.abc import Callable
    from typing import Any

WORD_BYTES = 4
TAIL_ROOM = 400
"""Characters kept for what stands below the messages."""
TAIL_GROUPS = 3
"""Groups named there; the others are counted."""


class Shown:
    """What a page became: `text`, and ids of what stands in it wholly, cut, and as notices."""

    def __init__(self) -> None:
        self.text = ""
        self.whole: list[str] = []
        self.cut: list[str] = []
        self.notices: list[str] = []
        self.left = 0
        """Messages of the page that found no room."""


def spelled(text: str) -> int:
    """Characters `text` has inside a JSON string."""
    return len(json.dumps(text, ensure_ascii=False)) - 2


def show(page: dict[str, Any], budget: int, *, now_ms: int, word: Callable[[], str]) -> Shown:
    """Lay out a `hook_page` in at most `budget` characters, as they count inside a JSON string.

    A message that does not fit is left for the next page; the first one, if it alone is too long, is cut.
    """
    shown = Shown()
    messages = page.get("messages") or ()
    room = budget - TAIL_ROOM
    parts: list[str] = []
    for number, mail in enumerate(messages):
        incoming = _incoming(mail)
        text = envelope.whole(incoming, now_ms=now_ms, word=word)
        size = spelled(text)
        if size <= room:
            kept = shown.notices if incoming.msg_id.startswith("n") else shown.whole
            kept.append(incoming.msg_id)
        elif not parts:
            text = _cut(incoming, room, now_ms, word)
            size = room
            shown.cut.append(incoming.msg_id)
        else:
            shown.left = len(messages) - number
            break
        parts.append(text)
        room -= size
    parts += _tail(page, shown.left)
    shown.text = "".join(parts)
    return shown


def _incoming(mail: dict[str, Any]) -> Incoming:
    return Incoming(
        kind=mail["kind"],
        sender=mail["sender"],
        msg_id=mail["msg_id"],
        text=mail.get("text") or "",
        ts=mail["ts"],
        reply_to=mail.get("reply_to"),
        broadcast_id=mail.get("broadcast_id"),
        room=mail.get("room"),
        urgent=mail.get("urgent", False),
        redelivered=mail.get("redelivered", False),
    )


def _cut(mail: Incoming, room: int, now_ms: int, word: Callable[[], str]) -> str:
    """As much of the beginning as fits: characters that JSON spells in two or six leave room for fewer."""
    budget = room
    while True:
        text = envelope.beginning(mail, now_ms=now_ms, word=word, budget=budget)
        over = spelled(text) - room
        if over <= 0:
            return text
        budget -= max(over * budget // (over + room), 1)


def _tail(page: dict[str, Any], left: int) -> list[str]:
    lines = []
    more = left + page.get("remaining", 0)
    if more:
        lines.append(f"{more} more: they come by themselves at the end of the turn, or call relay_inbox.")
    groups = page.get("groups") or ()
    for group in groups[:TAIL_GROUPS]:
        lines.append(
            f"group {group['name']}: {group.get('unread_count', 0)} unread, relay_group_history reads them."
        )
    if len(groups) > TAIL_GROUPS:
        lines.append(f"{len(groups) - TAIL_GROUPS} more groups have unread lines: see relay_group_list.")
    if page.get("missed"):
        lines.append(f"{page['missed']} room messages were missed: too many came at once.")
    return [f"{envelope.MARK} {line}\n" for line in lines]


def random_word() -> str:
    """A boundary nobody can foresee."""
    return os.urandom(WORD_BYTES).hex()


def wall_ms() -> int:
    """Now, in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
