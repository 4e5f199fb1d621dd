"""Several sessions of one assistant process behind one adapter: each is a peer with a mailbox of its own.

OpenCode has many sessions in one process and one MCP server for all. Whose a tool call is stands in its
``_meta``; its plugin, the companion, says which sessions there are (see `ecorelay_adapters.companion`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import trio
from msgspec import Struct

from ecorelay.names import is_name, slug
from ecorelay_adapters import identity, tools
from ecorelay_adapters.companion import PREFIX, CompanionCarrier
from ecorelay_adapters.handover import ToolResult
from ecorelay_adapters.identity import Identity
from ecorelay_adapters.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay_adapters.mcp_stdio import ClientInfo, Server, ToolCall

SESSION: Final = "ecorelay/session"
"""Member of a tool call's ``_meta`` in which the companion says whose it is."""
SESSION_KEYS: Final = (SESSION, "ai.opencode/sessionID")
"""Where a tool call's session may stand; the second is OpenCode's own, from 2.x on."""
SESSIONS_MAX: Final = 200
"""Sessions of one process at once; each has a connection to the hub."""
SESSION_ID_MAX: Final = 256
"""Characters of a session's id."""

_NO_SESSION: Final = ToolResult(
    '{"ok":false,"code":"bad_args","message":"this call does not say which session it belongs to: the tools '
    "of ecorelay's plugin do; `ecorelay install` sets it up, `ecorelay doctor` says what is wrong\"}",
    is_error=True,
)
_TOO_MANY: Final = ToolResult(
    f'{{"ok":false,"code":"limit_reached","message":"this process has {SESSIONS_MAX} sessions in ecorelay '
    'already: delete some, or restart it"}',
    is_error=True,
)


class _Member(Struct):
    """One of the sessions."""

    session: Session
    carrier: CompanionCarrier
    scope: trio.CancelScope


class Sessions:
    """See the module; `handle`, `instructions` and `noted` serve the MCP server.

    Args:
        environ: of this process.
        client: what people call the assistant.
        carrier: name of the carrier, in receipts.
    """

    def __init__(self, environ: Mapping[str, str], *, client: str, carrier: str) -> None:
        self._environ = environ
        self._client = client
        self._carrier = carrier
        self._members: dict[str, _Member] = {}
        self._running = trio.Event()

    async def run(self, server: Server) -> None:
        """Keep the sessions. Cancel it to end."""
        self._server = server
        async with trio.open_nursery() as self._nursery:
            self._running.set()
            await trio.sleep_forever()

    async def instructions(self, client: ClientInfo) -> str:
        """For all sessions: each one's name comes with `CompanionCarrier.welcomed`."""
        return tools.instructions(slug(self._client), pushes=True)

    async def handle(self, call: ToolCall) -> ToolResult:
        """Do one tool call, as the session whose it is."""
        id = next((call.meta[key] for key in SESSION_KEYS if _is_id(call.meta.get(key))), None)
        if id is None:
            return _NO_SESSION
        await self._running.wait()
        member = self._members.get(id) or self._begin(id, str(identity.working_directory()))
        return _TOO_MANY if member is None else await member.session.handle(call)

    async def noted(self, method: str, params: dict[str, Any]) -> None:
        """Take a notification of the companion's."""
        id, what = params.get("session"), method.removeprefix(PREFIX)
        if not _is_id(id) or what == method:
            return
        await self._running.wait()
        member = self._members.get(id)
        if what == "session":
            directory = params.get("directory")
            directory = directory if isinstance(directory, str) and directory else None
            member = member or self._begin(id, directory or str(identity.working_directory()))
            if member is not None:
                await member.carrier.connected(self._server.notify, params)
        elif member is not None and what == "gone":
            del self._members[id]  # it may be opened again before this one has ended
            member.scope.cancel()
        elif member is not None:
            member.carrier.told(what, params)

    def _begin(self, id: str, directory: str) -> _Member | None:
        """Make a session a peer; None: there are too many."""
        if len(self._members) >= SESSIONS_MAX:
            return None
        carrier = CompanionCarrier(self._carrier, id)
        session = Session(self._environ, lambda _: carrier, identify=lambda _: self._identity(id, directory))
        member = self._members[id] = _Member(session, carrier, trio.CancelScope())
        self._nursery.start_soon(self._keep, id, member)
        return member

    async def _keep(self, id: str, member: _Member) -> None:
        with member.scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(member.session.instructions, self._server.client)  # to begin
                    await member.session.run(self._server)
            finally:
                if self._members.get(id) is member:
                    del self._members[id]

    def _identity(self, id: str, directory: str) -> Identity:
        wanted = self._environ.get("RELAY_PEER_ID", "").strip()
        place = Path(directory)
        return Identity(
            name=slug(wanted or place.name or self._client),
            pinned=is_name(wanted),
            client=self._client,
            session=id,
            cwd=directory[:4096],
            git_branch=identity.git_branch(place),
        )


def _is_id(found: object) -> TypeGuard[str]:
    return isinstance(found, str) and 0 < len(found) <= SESSION_ID_MAX
