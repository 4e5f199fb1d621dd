"""A canary's whole way in Codex: to its daemon, which calls us on our thread's behalf with a random word.

That is the way mail takes, but for the last step: into the thread's queue, where it would begin a turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from ecorelay_adapters import codex_thread
from ecorelay_adapters.carriers import Canary
from ecorelay_adapters.codex_daemon import Gone, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay.wire import Stage
    from ecorelay_adapters.codex_daemon import Daemon
    from ecorelay_adapters.tool_calls import ToolCall

MARK: Final = "ecorelay/canary"
"""Member of ``_meta`` of a call that only comes to show that it does; it holds a word."""
PATIENCE_S: Final = 3.5
"""How long all of it may take: less than `canaries.PATIENCE_S`, so that it can be said how far it got."""


class CodexCanary:
    """The canaries of one carrier.

    Args:
        server: what Codex calls us.
        word: makes a random word.
    """

    def __init__(self, server: str, word: Callable[[], str]) -> None:
        self._server = server
        self._word = word
        self._heard: dict[str, str] = {}
        """Word → the thread for which it came; empty: it is still out."""

    def heard(self, call: ToolCall) -> bool:
        """Whether this tool call is a canary's. One of a word that is not out is nobody's."""
        word = call.meta.get(MARK)
        if isinstance(word, str) and word in self._heard:
            self._heard[word] = str(call.meta.get("threadId") or "")
        return MARK in call.meta

    async def fly(self, daemon: Daemon | None, thread: str, *, met: bool) -> Canary:
        """Find out how far it gets.

        Args:
            daemon: connected, and with our thread in it.
            thread: ours; empty while that is unknown.
            met: whether there was a daemon that may have our thread.
        """
        if not thread:
            return Canary(None, "adapter", "which thread is ours is not known before it calls a tool")
        if daemon is None and not met:
            says = "this thread runs without Codex's daemon: mail waits until it calls relay_inbox"
            return Canary(None, "adapter", says)
        if daemon is None:
            return Canary(False, "adapter", "Codex's daemon is away, or does not have the thread any more")
        word = self._word()
        self._heard[word] = ""
        stage: Stage = "adapter"
        try:
            with trio.move_on_after(PATIENCE_S):
                found = (await daemon.ask("thread/read", threadId=thread)).get("thread")
                stage = "carrier"
                if (state := codex_thread.status(found)) in ("", "notLoaded"):
                    return Canary(False, stage, "Codex's daemon does not have the thread loaded")
                await daemon.ask(
                    "mcpServer/tool/call",
                    threadId=thread,
                    server=self._server,
                    tool="relay_peers",
                    arguments={},
                    _meta={MARK: word},
                )
                if self._heard[word] == thread:
                    return Canary(True, "session", f"through Codex's daemon to the thread ({state}) and back")
                return Canary(False, stage, "Codex's daemon called another server for the thread")
        except Gone as error:
            return Canary(False, stage, f"Codex: {error}")
        except Refused as error:
            return Canary(False, "carrier", f"Codex: {error}")
        finally:
            del self._heard[word]
        if stage == "adapter":
            return Canary(False, stage, "Codex's daemon does not answer")
        return Canary(False, stage, "Codex's daemon has the thread, and did not call us for it")
