"""What Codex's daemon says of threads, as far as we want to know: no I/O, and nothing trusted.

A submission of ours carries the ids of the messages in it as its client's id. So whoever looks at a thread
later, another process of ours too, sees which messages wait in its queue and which its model was given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

THREAD: Final = re.compile(r"[0-9A-Fa-f-]{8,64}")
"""What is taken for a thread's id; it may become a program's argument."""


def is_a_persons(thread: object) -> bool:
    """Whether a person talks in it: not a subagent, nor Codex that asks something aside."""
    return isinstance(thread, dict) and not thread.get("ephemeral") and thread.get("threadSource") == "user"


def rows(answer: dict[str, Any], kind: type = dict) -> list[Any]:
    """The entries of a list that was asked for."""
    data = answer.get("data")
    return [row for row in data if isinstance(row, kind)] if isinstance(data, list) else []


def shown(turns: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The client's ids of what stands in these turns as the user's words."""
    for turn in turns:
        items = turn.get("items")
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and isinstance(item.get("clientId"), str):
                yield item["clientId"]


def queued(submissions: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The client's ids of what waits in a queue."""
    for each in submissions:
        if isinstance(each.get("clientUserMessageId"), str):
            yield each["clientUserMessageId"]


def running(turns: Sequence[dict[str, Any]]) -> str:
    """The id of the turn that is going on, of the newest ones; empty: none is."""
    for turn in turns[:1]:
        if turn.get("status") == "inProgress" and isinstance(turn.get("id"), str):
            return str(turn["id"])
    return ""


def status(of: object) -> str:
    """A thread's status in a word: notLoaded, idle, active, systemError; empty: it says none."""
    found = of.get("status") if isinstance(of, dict) else None
    kind = found.get("type") if isinstance(found, dict) else None
    return kind if isinstance(kind, str) else ""
