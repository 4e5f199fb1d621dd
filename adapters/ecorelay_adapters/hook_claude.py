"""The hooks of Claude Code (https://code.claude.com/docs/en/hooks).

* ``SessionStart`` registers the bell's file to be watched.
* ``FileChanged``, of the bell, ends with exit code 2 when something waits: that wakes an idle session. It
  says nothing of the mail, for the wake's turn begins like any other,
* with ``UserPromptSubmit``, which prints the mail as additional context; so does ``PostToolUse`` in a turn.
* ``Stop`` prints what came meanwhile, and the turn goes on for it. (As the reason of a decision to block, the
  model would be shown it twice.)
"""

from __future__ import annotations

import json
import os
import sys

from ecorelay.home import data_directory
from ecorelay_adapters.claude_session import find_process, read_session
from ecorelay_adapters.hook import line_to_hub, put_mail, say
from ecorelay_adapters.hub_line import FIRST_WORD_S, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the imports
    from collections.abc import Mapping
    from typing import Any

    from ecorelay_adapters.claude_session import ClaudeProcess

ASSISTANT = "claude-code"
OUTPUT_MAX = 8_000
"""Characters of a hook's output; Claude Code puts longer ones into a file its model may never open."""
FRAME_ROOM = 200
"""Of these, for the JSON around the text."""
BELL_S = 2.0
"""How long the bell's hook waits for the hub: it runs in the background, and holds up nobody."""
WAKE = 2
"""The exit code that wakes."""
EVENTS = {
    "SessionStart": "start",
    "FileChanged": "bell",
    "UserPromptSubmit": "prompt",
    "PostToolUse": "tool",
    "Stop": "stop",
}


def answer(event: dict[str, Any], environ: Mapping[str, str]) -> int:
    """Answer an event; gives the exit code."""
    kind = EVENTS.get(event.get("hook_event_name", ""))
    if kind is None or event.get("agent_id"):  # a subagent's events: it is not the one mail is for
        return 0
    home = data_directory(environ)
    client = find_process(environ)
    if kind == "start":
        return _start(event, home, client)
    if kind == "bell":
        return _bell(event, home, client)
    name = event["hook_event_name"]
    with line_to_hub(ASSISTANT, home, client) as line:
        put_mail(
            line,
            kind,
            str(event.get("prompt_id", "")),
            OUTPUT_MAX - FRAME_ROOM,
            lambda text: {"hookSpecificOutput": {"hookEventName": name, "additionalContext": text}},
        )
    return 0


def _start(event: dict[str, Any], home: str, client: ClaudeProcess) -> int:
    """The bell is watched from now on. A context that was lost is told who it is."""
    name = ""
    try:
        with line_to_hub(ASSISTANT, home, client) as line:
            name = line.ask("hook_page", FIRST_WORD_S, type="hook", event="start")["name"]
    except NoAnswer:
        pass  # its adapter may still be starting; the bell's file is the same for both
    bell = client.bell(home)
    os.umask(0o077)
    try:  # noqa: SIM105 - see `hook.put_mail`
        os.makedirs(os.path.dirname(bell), exist_ok=True)  # what is watched need not exist, its folder must
    except OSError:
        pass  # nobody wakes it then; all else works
    answer: dict[str, Any] = {"watchPaths": [bell]}
    if name and event.get("source") in ("clear", "compact"):
        answer["additionalContext"] = f'You are still "{name}" in ecorelay: see relay_peers.'
    say({"hookSpecificOutput": {"hookEventName": "SessionStart", **answer}})
    return 0


def _bell(event: dict[str, Any], home: str, client: ClaudeProcess) -> int:
    """The bell was rung: wake the session, if it is idle and something waits that was not shown."""
    if event.get("event") == "unlink" or event.get("file_path") != client.bell(home):
        return 0
    if read_session(client.file, json.loads).busy:
        return 0  # its next tool, or the end of its turn, shows it
    with line_to_hub(ASSISTANT, home, client, BELL_S) as line:
        page = line.ask("hook_page", BELL_S, type="hook", event="bell")
    if not page.get("wake"):
        return 0
    sys.stderr.write(
        f"[ecorelay] Messages for {page['name']} have arrived. They are shown with this turn; "
        "if you see none, call relay_inbox.\n"
    )
    return WAKE
