"""``ecorelay hook claude-code``: what Claude Code runs at its events, so that mail gets before its model.

It reads the event from stdin and answers on stdout in the form Claude Code reads hooks' answers
(https://code.claude.com/docs/en/hooks):

* ``SessionStart`` registers the bell's file to be watched.
* ``FileChanged``, of the bell, ends with exit code 2 when something waits: that wakes an idle session. It
  says nothing of the mail, for the wake's turn begins like any other,
* with ``UserPromptSubmit``, which prints the mail as additional context; so does ``PostToolUse`` in a turn.
* ``Stop`` prints what came meanwhile, and the turn goes on for it. (As the reason of a decision to block, the
  model would be shown it twice.)

Which of them proves what is the hub's to know (`ecorelay.core.hooks`). Whatever goes wrong here ends quietly
and at once: a hook must never break its user's turn. Standard library alone, for it runs at every tool call.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

from ecorelay import __version__
from ecorelay.home import data_directory
from ecorelay_adapters.claude_session import find_process, read_session
from ecorelay_adapters.hub_line import FIRST_WORD_S, HubLine, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the imports
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ecorelay_adapters.claude_session import ClaudeProcess

OUTPUT_MAX = 8_000
"""Characters of a hook's output; Claude Code puts longer ones into a file its model may never open."""
FRAME_ROOM = 200
"""Of these, for the JSON around the text."""
INPUT_MAX = 64 * 1024 * 1024
"""A tool's whole answer stands in its event."""
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
USAGE = """\
usage: ecorelay hook claude-code

Answer one hook event of Claude Code, which stands as JSON on stdin. The plugin that `ecorelay install
claude-code` sets up runs it; nobody else needs to.

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
    if list(arguments) != ["claude-code"]:
        sys.stderr.write(USAGE)
        return 64
    try:
        event = json.loads(sys.stdin.buffer.read(INPUT_MAX))
        return _answer(event, os.environ) if isinstance(event, dict) else 0
    except Exception:
        return 0


def _answer(event: dict[str, Any], environ: Mapping[str, str]) -> int:
    kind = EVENTS.get(event.get("hook_event_name", ""))
    if kind is None or event.get("agent_id"):  # a subagent's events: it is not the one mail is for
        return 0
    home = data_directory(environ)
    client = find_process(environ)
    if kind == "start":
        return _start(event, home, client)
    if kind == "bell":
        return _bell(event, home, client)
    with _line(home, client) as line:
        _put_mail(event, kind, line)
    return 0


def _line(home: str, client: ClaudeProcess, patience: float | None = None) -> HubLine:
    return HubLine(
        home,
        patience,
        role="attach",
        client="claude-code-hook",
        client_pid=client.pid,
        client_start=client.start,
        app_version=__version__,
    )


def _start(event: dict[str, Any], home: str, client: ClaudeProcess) -> int:
    """The bell is watched from now on. A context that was lost is told who it is."""
    name = ""
    try:
        with _line(home, client) as line:
            name = line.ask("hook_page", FIRST_WORD_S, type="hook", event="start")["name"]
    except NoAnswer:
        pass  # its adapter may still be starting; the bell's file is the same for both
    bell = client.bell(home)
    os.umask(0o077)
    with suppress(OSError):  # nobody wakes it then; all else works
        os.makedirs(os.path.dirname(bell), exist_ok=True)  # what is watched need not exist, its folder must
    answer: dict[str, Any] = {"watchPaths": [bell]}
    if name and event.get("source") in ("clear", "compact"):
        answer["additionalContext"] = f'You are still "{name}" in ecorelay: see relay_peers.'
    _say({"hookSpecificOutput": {"hookEventName": "SessionStart", **answer}})
    return 0


def _bell(event: dict[str, Any], home: str, client: ClaudeProcess) -> int:
    """The bell was rung: wake the session, if it is idle and something waits that was not shown."""
    if event.get("event") == "unlink" or event.get("file_path") != client.bell(home):
        return 0
    if read_session(client.file, json.loads).busy:
        return 0  # its next tool, or the end of its turn, shows it
    with _line(home, client, BELL_S) as line:
        page = line.ask("hook_page", BELL_S, type="hook", event="bell")
    if not page.get("wake"):
        return 0
    sys.stderr.write(
        f"[ecorelay] Messages for {page['name']} have arrived. They are shown with this turn; "
        "if you see none, call relay_inbox.\n"
    )
    return WAKE


def _put_mail(event: dict[str, Any], kind: str, line: HubLine) -> None:
    room = OUTPUT_MAX - FRAME_ROOM
    turn = str(event.get("prompt_id", ""))[:256]
    page = line.ask("hook_page", type="hook", event=kind, turn=turn, budget=room)
    if not any(page.get(part) for part in ("messages", "groups", "missed", "remaining")):
        return
    # Only now: most hooks have nothing to show.
    from ecorelay_adapters.hook_page import random_word, show, wall_ms

    shown = show(page, room, now_ms=wall_ms(), word=random_word)
    name = event["hook_event_name"]
    _say({"hookSpecificOutput": {"hookEventName": name, "additionalContext": shown.text}})
    if page.get("lease"):
        line.ask(
            "done",
            FIRST_WORD_S,
            type="printed",
            lease=page["lease"],
            msg_ids=shown.whole,
            cut=shown.cut,
            notices=shown.notices,
        )


def _say(answer: dict[str, Any]) -> None:
    text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()
