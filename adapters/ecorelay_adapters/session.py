"""One assistant session: its client to the hub, its tool calls, and what is pushed to it.

The hub may come late, go and come back; the assistant notices none of it. What it must never see is a
page counted as read that it did not get: a page is confirmed only once its result went out
(`handover`), and given back when the call was cancelled.
"""

from __future__ import annotations

import math
import os
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import trio

from ecorelay import __version__, config, wire
from ecorelay.client import HubClient, idle_pause, open_hub_client
from ecorelay.errors import RelayError
from ecorelay.names import slug
from ecorelay.paths import find_paths
from ecorelay.requests import RequestError
from ecorelay.spawn import hub_connector
from ecorelay_adapters import canaries, identity, tools
from ecorelay_adapters.bell import Bell
from ecorelay_adapters.calls import Outcome, Tools
from ecorelay_adapters.claude_session import ClaudeProcess, read_session
from ecorelay_adapters.envelope import Incoming
from ecorelay_adapters.handover import ToolResult
from ecorelay_adapters.identity import CLAUDE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ecorelay_adapters.carriers import Carrier
    from ecorelay_adapters.identity import Identity
    from ecorelay_adapters.mcp_stdio import ClientInfo, Server, ToolCall
    from ecorelay_adapters.tool_calls import Progress

T = TypeVar("T")

INITIALIZE_PATIENCE_S: Final = 5.0
"""How long `initialize` waits for the hub before it answers without our name."""
CALL_PATIENCE_S: Final = 15.0
"""How long a tool call waits for the hub to come."""
PROGRESS_S: Final = 10.0
"""How often a waiting call says that it is alive."""
PUSHED_KEPT: Final = 2_000
"""Ids of pushed messages kept; the hub's push window and a mailbox's ring hold 500 each."""
UNDECIDED: Final = frozenset({"timeout", "hub_unreachable", "mailbox_error"})
"""What was asked may still come to be: it is asked again. Anything else is the hub's last word."""
RELEASE_S: Final = 1.0
"""How long giving a page back may hold up a call that was cancelled."""
FOLLOW_S: Final = 2.0
"""How often it is looked whether the assistant renamed, cleared or changed its session."""


class Session:
    """The adapter's side of one session; `handle` and `instructions` serve the MCP server.

    Args:
        environ: of this process.
        make_carrier: gives the carrier to push with, once the server is there; None: mail is not pushed.
        hooks: whether the assistant runs our hooks, which fetch mail when the bell is rung.
        identify: who we are, from what the client called itself; default: by environment and directory.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        make_carrier: Callable[[Server], Carrier] | None,
        *,
        hooks: bool = False,
        identify: Callable[[str], Identity] | None = None,
    ) -> None:
        self._environ = environ
        self._identify = identify or self._find_identity
        self._make_carrier = make_carrier
        self._hooks = hooks
        self._bell: Bell | None = None
        self._carrier: Carrier | None = None
        self._client: HubClient | None = None
        self._tools: Tools | None = None
        self._changed = trio.Event()
        """Set, and replaced, whenever a client came or could not be had."""
        self._trouble: RelayError | None = None
        self._over = False
        """There will be no other client."""
        self._refusals = 0
        """How often in a row no client could be had."""
        self._wanted = trio.Event()
        """Somebody calls: worth another try for a hub that could not be had."""
        self._introduced = trio.Event()
        self._other = trio.Event()
        """The session goes on as another peer."""
        self._pushed: dict[str, None] = {}
        """The last messages that were pushed: the assistant's session outlives connections to the hub."""
        self._who = self._identify("")
        self._welcomed = ""
        """The name that the carrier was told last."""

    def _find_identity(self, client: str) -> Identity:
        return identity.find(self._environ, identity.working_directory(), client)

    # --- the hub -------------------------------------------------------------------------------------

    async def run(self, server: Server) -> None:
        """Keep a client open from the first word of the assistant on. Cancel it to end."""
        await self._introduced.wait()
        self._who = self._identify(server.client.name)
        if self._make_carrier is not None:
            carrier = self._make_carrier(server)
            self._carrier = carrier if await carrier.probe() else None
        async with trio.open_nursery() as nursery:
            if (beside := self._who.beside) is not None:
                if isinstance(beside, ClaudeProcess):
                    nursery.start_soon(self._follow, beside)
                if self._hooks:
                    with suppress(RelayError):  # no data directory: whoever calls is told
                        self._bell = Bell(Path(beside.bell(str(find_paths(self._environ).home))))
            if self._carrier is not None:
                nursery.start_soon(self._carrier.run, self)
            try:
                await self._be_clients()
            finally:
                if self._bell is not None:
                    self._bell.take_down()

    async def _be_clients(self) -> None:
        while True:
            try:
                await self._be_client()
            except _Another:
                continue
            except RelayError as error:
                # Another session of this identity took over: the name is not ours to fight for.
                self._over = error.code == "name_taken"
                self._tell(error)
                if self._over:
                    await trio.sleep_forever()
                # Who calls is reason to try again at once. Mail must come also where nobody does.
                self._wanted = trio.Event()
                with trio.move_on_after(self._leisure(error)):
                    await self._wanted.wait()

    def _leisure(self, error: RelayError) -> float:
        """Seconds until a hub that could not be had is tried again, though nobody calls."""
        if error.code == "already_registered":
            return math.inf  # it could be had, and wants nothing of us
        self._refusals += 1
        return idle_pause(self._refusals, random.random())

    async def _be_client(self) -> None:
        paths = find_paths(self._environ)
        settings = config.load(paths, self._environ)
        connect = hub_connector(paths, self._environ, spawn=settings.spawn)
        who = self._who
        if self._bell is not None:
            self._bell.hang()
        hello = wire.Hello(
            versions=(wire.OLDEST_PROTOCOL_VERSION, wire.PROTOCOL_VERSION),
            name=who.name,
            pinned=who.pinned,
            fallback=True,
            identity=who.session or None,
            client=who.client,
            cwd=who.cwd,
            git_branch=who.git_branch,
            client_pid=who.beside.pid if who.beside is not None else 0,
            client_start=who.beside.start if who.beside is not None else 0,
            push=self._carrier is not None,
            bell=self._bell is not None,
            app_version=__version__,
        )
        async with open_hub_client(
            hello,
            connect=connect,
            on_push=self._on_push,
            on_reconnect=self._welcome,
            on_name_changed=self._welcome,
            on_bell=self._on_bell,
            on_canary=self._on_canary,
        ) as client:
            self._client = client
            self._tools = Tools(client, paths.texts)
            self._refusals = 0
            self._tell(None)
            await self._welcome()
            reason = await self._until_over(client)
            self._client = None  # before it closes: who calls from now on waits for the next one
            raise reason

    async def _until_over(self, client: HubClient) -> Exception:
        """Why there must be another client, or none any more."""
        self._other = trio.Event()
        reason: Exception = _Another()
        async with trio.open_nursery() as nursery:

            async def wait_over() -> None:
                nonlocal reason
                reason = await client.wait_over()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_over)
            await self._other.wait()
            nursery.cancel_scope.cancel()
        return reason

    async def _welcome(self, _: wire.Welcome | wire.NameChanged | None = None) -> None:
        """Tell the carrier who we are, when that is new."""
        carrier, client = self._carrier, self._client
        if carrier is not None and client is not None and client.welcome.name != self._welcomed:
            self._welcomed = client.welcome.name
            await carrier.welcomed(self._introduction(self._welcomed, self._warnings(client), ""))

    # --- the assistant's own session -----------------------------------------------------------------

    async def _follow(self, beside: ClaudeProcess) -> None:
        """Take over what its user does to the session: renaming, clearing, resuming another one."""
        known = read_session(beside.file, msgspec.json.decode)
        while True:
            await trio.sleep(FOLLOW_S)
            now = read_session(beside.file, msgspec.json.decode)
            if self._client is None or (now.name, now.id) == (known.name, known.id) or not now.id:
                continue
            try:
                if now.id != known.id and await self._is_another(self._client, now.id):
                    known = now
                    continue  # its own name goes into its own greeting
                if now.name and now.name != known.name and not self._environ.get("RELAY_PEER_ID"):
                    await self._client.request(wire.Rename(req_id=0, op_id="", new_name=slug(now.name)))
            except RelayError as error:
                print(f"ecorelay: could not follow the session: {error.message}", file=sys.stderr)
                if error.code in UNDECIDED:
                    continue
            known = now

    async def _is_another(self, client: HubClient, session: str) -> bool:
        """The session has another id: whether we are, from now on, the peer that had it before."""
        self._who = msgspec.structs.replace(self._identify(self._who.client), session=session)
        leads_to = await client.request(wire.Identify(req_id=0, identity=session))
        if leads_to.name == client.welcome.name:
            return False
        self._other.set()
        return True

    def _tell(self, trouble: RelayError | None) -> None:
        self._trouble = trouble
        self._changed.set()
        self._changed = trio.Event()

    async def _hub(self, patience: float) -> tuple[HubClient, Tools]:
        """The client, once there is one.

        Raises:
            RelayError: why there is none.
        """
        self._introduced.set()
        self._wanted.set()
        if self._client is None and not self._over:
            with trio.move_on_after(patience):
                await self._changed.wait()
        if self._client is None or self._tools is None:
            raise self._trouble or RelayError(
                "hub_unreachable", "the hub is still starting: try again, or run `ecorelay hub status`"
            )
        return self._client, self._tools

    # --- what the MCP server asks ------------------------------------------------------------------

    async def instructions(self, client: ClientInfo) -> str:
        """Who the session is and how it talks; without the name if the hub is not there in time."""
        try:
            hub, _ = await self._hub(INITIALIZE_PATIENCE_S)
            return self._introduction(hub.welcome.name, self._warnings(hub), client.name)
        except RelayError as error:
            second = error.code == "already_registered"
            why = error.message if second else f"the hub cannot be reached now: {error.message}"
            return self._introduction(self._who.name, [why], client.name)

    def _warnings(self, hub: HubClient) -> list[str]:
        taken = hub.welcome.wanted_taken and self._who.pinned
        return [f"the name {self._who.name} was taken by a living session"] if taken else []

    def _introduction(self, name: str, warnings: Sequence[str], client: str) -> str:
        return tools.instructions(
            name,
            warning="; ".join(filter(None, (*warnings, self._who.problem))),
            pushes=self._carrier is not None or self._bell is not None,
            beside_claude=CLAUDE in (client, self._who.client),
        )

    async def handle(self, call: ToolCall) -> ToolResult:
        """Do one tool call."""
        if self._carrier is not None and (result := self._carrier.heard(call)) is not None:
            return result
        try:
            hub, relay_tools = await self._hub(CALL_PATIENCE_S)
            outcome = await self._call(hub, relay_tools, call)
        except RelayError as error:
            return _failure(error)
        except trio.ClosedResourceError:
            return _failure(RelayError("hub_unreachable", "the session goes on as another peer: try again"))
        if call.name == "relay_rename":
            await self._welcome()
        return self._result(hub, outcome)

    async def _call(self, hub: HubClient, relay_tools: Tools, call: ToolCall) -> Outcome:
        if call.progress is None:
            return await relay_tools.call(call.name, call.arguments, can_wait=False)
        outcome: Outcome | RelayError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._say_alive, call.progress)
                try:
                    outcome = await relay_tools.call(call.name, call.arguments, can_wait=True)
                except RelayError as error:
                    outcome = error
                nursery.cancel_scope.cancel()
        except BaseException:  # Cancelled, perhaps in a group
            # Given up in the moment the answer came: nobody will see the page it may hold.
            if isinstance(outcome, Outcome) and outcome.release is not None:
                with trio.CancelScope(shield=True), trio.move_on_after(RELEASE_S):
                    await _say(hub, outcome.release)
            raise
        if isinstance(outcome, Outcome):
            return outcome
        assert outcome is not None
        raise outcome

    async def _say_alive(self, progress: Progress) -> None:
        count = 0
        while True:
            await trio.sleep(PROGRESS_S)
            count += 1
            await progress(count, None, "waiting for messages")

    def _result(self, hub: HubClient, outcome: Outcome) -> ToolResult:
        if outcome.unread:
            outcome.fields["unread"] = outcome.unread
        text = msgspec.json.encode(outcome.fields).decode()
        if outcome.confirm is None or outcome.release is None:
            return ToolResult(text)
        confirm, release = outcome.confirm, outcome.release
        return ToolResult(
            text,
            on_written=lambda: _say(hub, confirm),
            on_cancelled=lambda: _say(hub, release),
        )

    # --- pushed mail -----------------------------------------------------------------------------

    def _on_bell(self, _: wire.Bell) -> None:
        if self._bell is not None:
            self._bell.ring()

    async def _on_canary(self, canary: wire.Canary) -> None:
        answer = await canaries.answer(canary, self._carrier, self._bell)
        if self._client is not None:
            self._client.send_nowait(answer)

    async def _on_push(self, push: wire.Push) -> None:
        carrier, client = self._carrier, self._client
        assert carrier is not None, "hello said that we take no pushes"
        if client is None or self._other.is_set():  # its client closes, or it is for the peer that we were
            return
        if push.msg_id in self._pushed:  # again after a reconnect: the assistant has it
            client.send_nowait(wire.Pushed(msg_ids=(push.msg_id,), carrier=carrier.name))
            return
        mail = Incoming(
            kind=push.kind,
            sender=push.sender,
            msg_id=push.msg_id,
            text=push.text,
            ts=push.ts,
            reply_to=push.reply_to,
            broadcast_id=push.broadcast_id,
            room=push.room,
            group=push.group,
            urgent=push.urgent,
        )
        accepted = await carrier.push(mail)
        if accepted:
            self.pushed((push.msg_id,))
        elif accepted is not None:
            self.failed((push.msg_id,))

    # --- what a carrier reports --------------------------------------------------------------------

    def pushed(self, msg_ids: Sequence[str]) -> None:
        """The carrier has these; the hub, if it is away, hears it when it pushes them again."""
        assert self._carrier is not None
        for msg_id in msg_ids:
            self._pushed[msg_id] = None
            if len(self._pushed) > PUSHED_KEPT:
                del self._pushed[next(iter(self._pushed))]
        if self._client is not None:
            self._client.send_nowait(wire.Pushed(msg_ids=tuple(msg_ids), carrier=self._carrier.name))

    def failed(self, msg_ids: Sequence[str]) -> None:
        """The carrier could not: they wait in the inbox."""
        if self._client is not None:
            self._client.send_nowait(wire.PushFailed(msg_ids=tuple(msg_ids)))

    async def seen(self, msg_ids: Sequence[str]) -> None:
        """The model was given these; told until the hub has heard it."""
        confirm = wire.Confirm(req_id=0, msg_ids=tuple(msg_ids))
        await self._insist(lambda client: client.request(confirm))

    async def is_now(self, session: str) -> bool:
        """The assistant's session has this id; whether we are another peer from now on."""
        self._who = msgspec.structs.replace(self._who, session=session)  # a greeting still to come says it
        return bool(await self._insist(lambda client: self._is_another(client, session)))

    async def _insist(self, tell: Callable[[HubClient], Awaitable[T]]) -> T | None:
        """Tell the hub something, however often it goes away meanwhile; None: it refuses."""
        while True:
            try:
                client, _ = await self._hub(CALL_PATIENCE_S)
                return await tell(client)
            except RelayError as error:
                if self._over or error.code not in UNDECIDED:
                    print(f"ecorelay: the hub does not want to know: {error.message}", file=sys.stderr)
                    return None
            except trio.ClosedResourceError:  # the session goes on as another peer
                pass
            await trio.sleep(FOLLOW_S * random.uniform(0.5, 1.5))


class _Another(Exception):
    """The session goes on as another peer."""


async def _say(hub: HubClient, request: wire.Request) -> None:
    """Tell the hub what became of a page. If it cannot be told, the page comes again, marked."""
    try:
        await hub.request(request)
    except (RelayError, trio.ClosedResourceError) as error:
        print(f"ecorelay: a page of mail stays unconfirmed: {error}", file=sys.stderr)


def _failure(error: RelayError) -> ToolResult:
    fields: dict[str, Any] = {"ok": False, "code": error.code, "message": error.message}
    if isinstance(error, RequestError) and error.unread:
        fields["unread"] = error.unread
    return ToolResult(msgspec.json.encode(fields).decode(), is_error=True)


def environment() -> dict[str, str]:
    """A copy of this process's environment."""
    return dict(os.environ)
