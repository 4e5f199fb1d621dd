"""How a peer's words stand before a model: marked as what they are, and changed in nothing.

One header line says who, what, which id, how old and how to answer. The text follows untouched
between two boundary lines that carry a random word, so that nothing in it can close them::

    [ecorelay] ask from api@laptop, id 01jq..., 3 min ago. Answer: relay_reply ask_id=01jq...
    --- kestrel-4c1f: words of api@laptop, not of your user ---
    Which branch has the fix?
    --- kestrel-4c1f ---

Only the standard library is used here: hooks start at every prompt and must be quick.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

REST: Final = "read the rest with relay_inbox"
"""What a cut message says instead of its end."""
MARK: Final = "[ecorelay]"
"""Begins every line of ours that stands before a model."""
_FIELD_MAX: Final = 160

_TS_MAX: Final = 253_402_300_799_000  # the year 9999

# Possessive: else blanks without end after a ``<`` cost the square of their number.
_TAG = re.compile(r"<(?=\s*+/?+\s*+(?:channel|system-reminder)\b)", re.IGNORECASE)


class Incoming(NamedTuple):
    """One message as a carrier gets it; the names are those of the wire's ``push``.

    `kind` is one of message, ask, reply, room, group, system. `sender` is an address; with ``@`` it
    is a peer of another hub. `ts` is in milliseconds since 1970 UTC.
    """

    kind: str
    sender: str
    msg_id: str
    text: str
    ts: int
    reply_to: str | None = None
    broadcast_id: str | None = None
    room: str | None = None
    group: str | None = None
    urgent: bool = False
    redelivered: bool = False
    """It was handed out before, and nobody confirmed that it was seen."""


def whole(mail: Incoming, *, now_ms: int, word: Callable[[], str]) -> str:
    """The whole message for a model, ending in a newline.

    Args:
        mail: the message.
        now_ms: the clock, as `Incoming.ts`.
        word: makes a random word of letters, digits and ``-`` that nobody can foresee; called again
            while the text holds the word it made.
    """
    return _framed(mail, mail.text, now_ms, _unused(word, mail.text))


def beginning(mail: Incoming, *, now_ms: int, word: Callable[[], str], budget: int) -> str:
    """The message cut so that all of this, header included, has at most `budget` characters.

    Says that it is cut and how to get the rest. A message that fits is returned whole; compare with
    `whole` before it counts as seen. Where not even the frame fits, one line only points at it.
    """
    boundary = _unused(word, mail.text)
    complete = _framed(mail, mail.text, now_ms, boundary)
    if len(complete) <= budget:
        return complete
    size = len(mail.text)
    # The longest form of the last line first, so that the rest can be counted.
    frame = len(_framed(mail, "", now_ms, boundary)) + len(_cut_line(size, size))
    shown = budget - frame
    if shown < 1:
        return f"{MARK} {_plain(mail.kind)} from {_plain(mail.sender)}: {REST}\n"[:budget]
    return _framed(mail, mail.text[:shown], now_ms, boundary) + _cut_line(shown, size)


def pointer(mail: Incoming, *, now_ms: int) -> str:
    """One line about a message without a word of it, for doors that take text as a program's argument."""
    return f"{_head(mail, now_ms)}. Read it with relay_inbox."


def channel_params(mail: Incoming) -> dict[str, object]:
    """Parameters of ``notifications/claude/channel``.

    The client puts the text between fixed tags of its own, so what could close them, or pass for the
    client's own reminders, has its ``<`` escaped. All else is untouched.
    """
    return {"content": _TAG.sub("&lt;", mail.text), "meta": meta(mail)}


def meta(mail: Incoming) -> dict[str, str]:
    """What a channel notification says about a message: keys of letters and ``_``, all values strings."""
    known = {
        "from": mail.sender,
        "kind": mail.kind,
        "ask_id" if mail.kind == "ask" else "msg_id": mail.msg_id,
        "reply_to": mail.reply_to,
        "broadcast_id": mail.broadcast_id,
        "room": mail.room,
        "group": mail.group,
        "ts": _time(mail.ts),
        "urgent": "true" if mail.urgent else None,
        "origin_hub": mail.sender.partition("@")[2],
        "via": _via(mail),
    }
    return {key: _plain(value) for key, value in known.items() if value}


def age(ms: int) -> str:
    """How long ago, in the largest unit that fits: ``just now``, ``3 min ago``, ``2 d ago``.

    Negative ages (another machine's clock) are ``just now``.
    """
    seconds = ms // 1000
    if seconds < 5:
        return "just now"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _framed(mail: Incoming, text: str, now_ms: int, boundary: str) -> str:
    head = f"{_head(mail, now_ms)}. {_how_to_answer(mail)}"
    hub = mail.sender.partition("@")[2]
    if mail.kind != "system":
        opening = f"--- {boundary}: words of {_author(mail)}, not of your user ---"
    elif hub:  # our hub made the sentence, of what the other one says: that is no notice of ours
        opening = f"--- {boundary}: words of hub {_plain(hub)}, not of your user ---"
    else:
        opening = f"--- {boundary}: notice of ecorelay ---"
    return f"{head}\n{opening}\n{text}\n--- {boundary} ---\n"


def _head(mail: Incoming, now_ms: int) -> str:
    place = ""
    if mail.room:
        place = f" in room {_plain(mail.room)}"
    elif mail.group:
        place = f" in group {_plain(mail.group)}"
    facts = [f"{MARK} {_plain(mail.kind)} from {_author(mail)}{place}", f"id {_plain(mail.msg_id)}"]
    if mail.reply_to:
        facts.append(f"answers {_plain(mail.reply_to)}")
    if mail.broadcast_id:
        facts.append(f"broadcast {_plain(mail.broadcast_id)}")
    facts.append(age(now_ms - mail.ts))
    if mail.redelivered:
        facts.append("AGAIN (you may have seen it)")
    if mail.urgent:
        facts.append("URGENT")
    return ", ".join(facts)


def _author(mail: Incoming) -> str:
    """Whose words these are, and on whose word, where that is another hub than the author's."""
    via = _via(mail)
    return _plain(mail.sender) + (f" (via {_plain(via)})" if via else "")


def _via(mail: Incoming) -> str:
    """The hub of the group or room, where it speaks for a peer of a third hub; empty: nobody is between."""
    host = (mail.room or mail.group or "").partition("@")[2]
    hub = mail.sender.partition("@")[2]
    return host if hub and hub.lower() != host.lower() else ""


def _how_to_answer(mail: Incoming) -> str:
    match mail.kind:
        case "ask":
            return f"Answer: relay_reply ask_id={_plain(mail.msg_id)}"
        case "message":
            return f"To answer: relay_reply ask_id={_plain(mail.msg_id)}"
        case "room":
            return f"To answer: relay_room room={_plain(mail.room or '')}"
        case "group":
            return f"To answer: relay_group_send group={_plain(mail.group or '')}"
        case _:
            return "No answer needed."


def _cut_line(shown: int, size: int) -> str:
    return f"[cut: {shown} of {size} characters; {REST}]\n"


def _unused(word: Callable[[], str], text: str) -> str:
    while (made := word()) in text:
        pass
    return made


def _plain(value: str) -> str:
    # Names have a safe alphabet already; a header must stay one line even if one slipped through.
    return "".join(c if c.isprintable() else "?" for c in value[:_FIELD_MAX])


def _time(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(max(ms, 0), _TS_MAX) // 1000))
