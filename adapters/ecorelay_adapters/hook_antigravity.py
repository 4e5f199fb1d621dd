"""The hooks of Antigravity CLI.

From public documentation and reports, not run on the real program.

An event does not say its name, but shows it by its fields:

* ``PreInvocation`` (``conversationId``, ``invocationNum``) comes before each request to the model. An answer
  ``{"injectSteps": [{"ephemeralMessage": …}]}`` is put before the model with that request.
* ``Stop`` (``conversationId``, ``executionNum``, ``terminationReason``) comes at the end of a turn. An answer
  ``{"decision": "continue", "reason": …}`` prolongs it, and the reason is put before the model.

That the model was given it is proved by the next ``PreInvocation`` of the same turn, or by its ordinary end.
The first one of a turn proves nothing, for the turn before it may have been broken off.
"""

from __future__ import annotations

from ecorelay.home import data_directory
from ecorelay_adapters.beside import find_client
from ecorelay_adapters.hook import line_to_hub, put_mail, say

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the imports
    from collections.abc import Mapping
    from typing import Any

ASSISTANT = "antigravity"
OUTPUT_MAX = 20_000
"""Characters of mail in one answer; of a longer message relay_inbox has the whole."""
EXECUTIONS_MAX = 5
"""So often in a row a turn is prolonged; Antigravity has a limit of its own."""
ORDINARY = frozenset({"no_tool_call", "model_stop"})
"""Reasons for which a turn ends by itself, in lower case."""


def answer(event: dict[str, Any], environ: Mapping[str, str]) -> int:
    """Answer an event; the exit code is 0 in any case."""
    said = False
    try:
        conversation = event.get("conversationId")
        if isinstance(conversation, str) and conversation:
            said = _answered(event, conversation, environ)
    finally:
        if not said:
            say({})
    return 0


def _answered(event: dict[str, Any], conversation: str, environ: Mapping[str, str]) -> bool:
    """Whether something was printed."""
    invocation, execution = event.get("invocationNum"), event.get("executionNum")
    if not isinstance(invocation, int) and not isinstance(execution, int):
        return False  # of another kind
    with line_to_hub(ASSISTANT, data_directory(environ), find_client()) as line:
        if isinstance(invocation, int):
            kind, turn = ("stop", conversation) if invocation > 0 else ("prompt", "")
            return put_mail(line, kind, turn, OUTPUT_MAX, _injected)
        if event.get("error") or str(event.get("terminationReason", "")).lower() not in ORDINARY:
            line.ask("hook_page", type="hook", event="start")  # nothing printed before is proved any more
            return False
        if isinstance(execution, int) and execution >= EXECUTIONS_MAX:
            line.ask("hook_page", type="hook", event="stop", turn=conversation[:256])
            return False
        return put_mail(line, "stop", conversation, OUTPUT_MAX, _prolonged)


def _injected(text: str) -> dict[str, Any]:
    return {"injectSteps": [{"ephemeralMessage": text}]}


def _prolonged(text: str) -> dict[str, Any]:
    return {"decision": "continue", "reason": text}
