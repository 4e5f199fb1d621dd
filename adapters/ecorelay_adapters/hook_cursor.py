"""The ``stop`` hook of Cursor CLI (https://cursor.com/docs/agent/hooks).

From public documentation, not run on the real program.

At the end of a turn the event has ``conversation_id``, ``generation_id``, ``status`` and ``loop_count``: how
often in a row a hook has prolonged the conversation. An answer ``{"followup_message": …}`` becomes the next
message of the user, so the mail is printed as that.

That it became one is proved by the next ``stop`` of the same conversation, if its ``loop_count`` says that it
was prolonged. One that says 0 follows a prompt of the user: what was printed before may have been dropped,
and is shown again. A turn that the user broke off, or that failed, is prolonged by nobody, and proves
nothing.
"""

from __future__ import annotations

from ecorelay.home import data_directory
from ecorelay_adapters.beside import find_client
from ecorelay_adapters.hook import line_to_hub, put_mail, say

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the imports
    from collections.abc import Mapping
    from typing import Any

ASSISTANT = "cursor"
OUTPUT_MAX = 200_000
"""Characters of a follow-up; a message of 100 KiB fits in."""
LOOP_LIMIT = 10
"""So often in a row Cursor may be prolonged, as `ecorelay install` writes it beside the hook's command."""


def answer(event: dict[str, Any], environ: Mapping[str, str]) -> int:
    """Answer an event; the exit code is 0 in any case."""
    said = False
    try:
        said = event.get("hook_event_name") == "stop" and _stop(event, environ)
    finally:
        if not said:
            say({})
    return 0


def _stop(event: dict[str, Any], environ: Mapping[str, str]) -> bool:
    """A turn has ended; whether a follow-up was printed."""
    conversation = event.get("conversation_id")
    prolonged = event.get("loop_count")
    if not isinstance(conversation, str) or not isinstance(prolonged, int):
        return False
    with line_to_hub(ASSISTANT, data_directory(environ), find_client()) as line:
        if event.get("status") != "completed":
            line.ask("hook_page", type="hook", event="start")  # nothing printed before is proved any more
            return False
        kind, turn = ("stop", conversation) if prolonged > 0 else ("prompt", "")
        if prolonged >= LOOP_LIMIT:
            # The last follow-up is proved; what waits goes on waiting.
            line.ask("hook_page", type="hook", event=kind, turn=turn[:256])
            return False
        return put_mail(line, kind, turn, OUTPUT_MAX, lambda text: {"followup_message": text})
