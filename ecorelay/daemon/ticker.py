"""The hub's only alarm clock: the core's deadlines, the idle exit, and a look at the clocks now and then."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from ecorelay.core.events import Tick

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ecorelay.daemon.perform import Shell

LOOK_S = 10.0
"""Longest sleep: so soon it is noticed that the machine slept or its clock was set."""
PAUSE_S = 0.001
PAUSE_MAX_S = 1.0
"""Shortest sleep before a tick; doubled while a deadline that has come stays (a bug must not spin)."""


class Ticker:
    """Feeds `Tick` when the core's next deadline has come.

    Args:
        shell: the hub; its `rearm` becomes :meth:`rearm`.
        idle_exit_s: seconds without sessions and work after which `leave` is called; inf: never.
        busy: whether something that the core does not know of keeps the hub (a connection before its hello).
        leave: called when the hub has been idle so long.
    """

    def __init__(
        self,
        shell: Shell,
        *,
        idle_exit_s: float,
        busy: Callable[[], bool],
        leave: Callable[[], object],
    ) -> None:
        self._shell = shell
        self._idle_exit_s = idle_exit_s
        self._busy = busy
        self._leave = leave
        self._idle_from = trio.current_time()
        """Idle times before this do not count: the hub began, or something kept it."""
        self._scope = trio.CancelScope()
        self._wakes_at = -math.inf
        shell.rearm = self.rearm

    def rearm(self) -> None:
        """Wake earlier, if the core wants to. Cheap: called after everything that happens."""
        due = self._shell.core.next_deadline()
        if due is not None and due < self._wakes_at:
            self._wakes_at = due
            self._scope.deadline = due
        if not self._shell.sessions and (leave_at := self._leave_at()) < self._wakes_at:
            self._wakes_at = leave_at
            self._scope.deadline = leave_at

    async def run(self) -> NoReturn:
        """Tick until cancelled."""
        shell = self._shell
        # The first tick lets the core set its own deadlines.
        shell.feed((Tick(),))
        pause = PAUSE_S
        while True:
            now = trio.current_time()
            self._wakes_at = max(now + pause, min(now + LOOK_S, self._leave_at(), self._due()))
            with trio.CancelScope(deadline=self._wakes_at) as self._scope:
                await trio.sleep_forever()
            self._wakes_at = -math.inf
            now = trio.current_time()
            if self._leave_at() <= now:
                self._idle_from = math.inf
                self._leave()
            # Without a tick too: feed looks at the clocks.
            shell.feed((Tick(),) if self._due() <= now else ())
            pause = min(pause * 2, PAUSE_MAX_S) if self._due() <= now else PAUSE_S

    def _due(self) -> float:
        due = self._shell.core.next_deadline()
        return math.inf if due is None else due

    def _leave_at(self) -> float:
        idle = self._shell.core.idle_since
        if idle is None:
            return math.inf
        if self._busy():
            self._idle_from = trio.current_time()
        return max(idle, self._idle_from) + self._idle_exit_s
