"""``ecorelay hook ASSISTANT``: what an assistant runs at its events, so that mail gets before its model.

The event is JSON on stdin, the answer goes to stdout, in the form each assistant reads: see its module,
``hook_claude``, ``hook_cursor``, ``hook_antigravity``. What they have in common is here.

Which event proves what is the hub's to know (`ecorelay.core.hooks`). Whatever goes wrong here ends quietly
and at once: a hook must never break its user's turn. Standard library alone, and of that the least: hooks run
at every tool call.
"""

from __future__ import annotations

import json
import os
import sys

from ecorelay import __version__
from ecorelay_adapters.hub_line import FIRST_WORD_S, HubLine, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the imports
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from ecorelay_adapters.beside import Process

    Answer = Callable[[dict[str, Any], Mapping[str, str]], int]

INPUT_MAX = 64 * 1024 * 1024
"""A tool's whole answer stands in its event."""
USAGE = """\
usage: ecorelay hook {claude-code,cursor,antigravity}

Answer one hook event of an assistant, which stands as JSON on stdin. What `ecorelay install` sets up runs
it; nobody else needs to.

example: echo '{"hook_event_name":"Stop"}' | ecorelay hook claude-code
"""


def main(arguments: Sequence[str]) -> int:
    """Answer the event on stdin.

    Args:
        arguments: what follows ``ecorelay hook`` on the command line: the assistant's name.

    Returns:
        The exit code: 0, 2 to wake, 64 for wrong arguments (2 would wake).
    """
    if any(word in ("-h", "--help") for word in arguments):
        sys.stdout.write(USAGE)
        return 0
    answer = _answer_of(arguments[0]) if len(arguments) == 1 else None
    if answer is None:
        sys.stderr.write(USAGE)
        return 64
    try:
        event = json.loads(sys.stdin.buffer.read(INPUT_MAX))
    except Exception:
        event = None
    try:
        return answer(event if isinstance(event, dict) else {}, os.environ)
    except Exception:
        return 0


def _answer_of(assistant: str) -> Answer | None:
    """The module that answers an assistant's hooks: that one alone is imported."""
    if assistant == "claude-code":
        from ecorelay_adapters import hook_claude

        return hook_claude.answer
    if assistant == "cursor":
        from ecorelay_adapters import hook_cursor

        return hook_cursor.answer
    if assistant == "antigravity":
        from ecorelay_adapters import hook_antigravity

        return hook_antigravity.answer
    return None


# --- what the assistants' hooks have in common -----------------------------------------------------------


def line_to_hub(assistant: str, home: str, client: Process, patience: float | None = None) -> HubLine:
    """A connection that acts for the peer whose session stands beside the assistant's process.

    Args:
        assistant: its name.
        home: the data directory.
        client: the assistant's process.
        patience: see `HubLine`.

    Raises:
        NoAnswer: there is none to be had, or no session.
    """
    return HubLine(
        home,
        patience,
        role="attach",
        client=f"{assistant}-hook",
        client_pid=client.pid,
        client_start=client.start,
        app_version=__version__,
    )


def put_mail(line: HubLine, event: str, turn: str, room: int, form: Callable[[str], dict[str, Any]]) -> bool:
    """Print what waits, if anything does, and tell the hub that it was printed.

    Args:
        line: to the hub.
        event: what happened, as the hub calls it: see `ecorelay.wire.Hook`.
        turn: the assistant's id of the turn it belongs to; empty: it has none.
        room: characters the text may have, as JSON spells them.
        form: makes the hook's answer of the text.

    Returns:
        whether something was printed.

    Raises:
        NoAnswer: the hub cannot be asked, and nothing was printed.
    """
    page = line.ask("hook_page", type="hook", event=event, turn=turn[:256], budget=room)
    if not any(page.get(part) for part in ("messages", "groups", "missed", "remaining")):
        return False
    # Only now: most hooks have nothing to show.
    from ecorelay_adapters.hook_page import random_word, show, wall_ms

    shown = show(page, room, now_ms=wall_ms(), word=random_word)
    say(form(shown.text))
    if page.get("lease"):
        try:  # noqa: SIM105 - to import contextlib takes half a millisecond
            line.ask(
                "done",
                FIRST_WORD_S,
                type="printed",
                lease=page["lease"],
                msg_ids=shown.whole,
                cut=shown.cut,
                notices=shown.notices,
            )
        except NoAnswer:
            pass  # the page comes again, marked
    return True


def say(answer: dict[str, Any]) -> None:
    """Print the hook's answer, on one line."""
    text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()
