"""How a pushed message gets in front of the model: one small class per way, all with one interface.

A carrier's success says that it was accepted, never that it was read; where a carrier can prove more,
`evidence` says by what. Mail stays unread until there is evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import trio

from ecorelay_adapters import envelope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ecorelay.wire import Stage
    from ecorelay_adapters.envelope import Incoming
    from ecorelay_adapters.handover import ToolResult
    from ecorelay_adapters.tool_calls import ToolCall

CHANNEL_METHOD: Final = "notifications/claude/channel"


class Canary(NamedTuple):
    """What a canary showed: how far it got on the way that mail takes, without a turn of the model.

    `ok` None: it came as far as can be seen without one. `says`: what was seen, one short line.
    """

    ok: bool | None
    stage: Stage
    says: str


class Reports(Protocol):
    """What a carrier tells the session, when it knows."""

    def pushed(self, msg_ids: Sequence[str]) -> None:
        """These were accepted."""

    def failed(self, msg_ids: Sequence[str]) -> None:
        """These were not: they stay unread, for relay_inbox."""

    async def seen(self, msg_ids: Sequence[str]) -> None:
        """There is evidence that the model was given these."""

    async def is_now(self, session: str) -> bool:
        """The assistant's session has this id. Whether we are another peer from now on, that of this id."""


class Carrier(Protocol):
    """One way into a live session. What has a body here need not be written by those that do without."""

    name: str
    """Stands in receipts and in `doctor`."""
    evidence: str
    """What proves that the model saw it; empty: nothing does."""

    async def probe(self) -> bool:
        """Whether it can be used in this session, as far as can be told without using it."""

    async def push(self, mail: Incoming) -> bool | None:
        """Hand one message over; whether it was accepted. None: that is reported later."""

    async def canary(self) -> Canary:
        """Go the way of mail as far as that costs no turn; cancelled after `canaries.PATIENCE_S`."""
        await trio.lowlevel.checkpoint()
        return Canary(None, "adapter", f"the carrier {self.name} shows nothing without a turn of the model")

    async def run(self, reports: Reports) -> None:
        """Do what has to be done meanwhile; cancelled with the session."""
        await trio.lowlevel.checkpoint()

    async def welcomed(self, text: str) -> None:
        """The hub knows us; `text` says to the model who it is and how it talks. Again after a rename."""
        return

    def heard(self, call: ToolCall) -> ToolResult | None:
        """Learn from a tool call; a result: it was meant for the carrier."""
        return None


class ChannelCarrier(Carrier):
    """MCP channel notifications of Claude Code.

    They need a launch flag and a feature of the client; where those are missing they are dropped
    without a word, so this carrier is used only when asked for (``--carrier channel``).
    """

    name = "channel"
    evidence = ""

    def __init__(
        self, notify: Callable[[str, dict[str, object]], Awaitable[None]], ready: trio.Event
    ) -> None:
        self._notify = notify
        self._ready = ready

    async def probe(self) -> bool:
        """The client never says whether it listens."""
        return True

    async def push(self, mail: Incoming) -> bool:
        """Write the notification once the client said it is ready."""
        await self._ready.wait()
        try:
            await self._notify(CHANNEL_METHOD, envelope.channel_params(mail))
        except trio.ClosedResourceError:
            return False
        return True
