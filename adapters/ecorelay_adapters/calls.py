"""From a tool call to a request to the hub, and from its answer to the JSON a model reads.

One function a tool. Each returns an :class:`Outcome`: the result's fields in the order of
`product` tables, and for a page of mail what to tell the hub once the client has it, or has not.
"""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from ecorelay import wire
from ecorelay.errors import RelayError
from ecorelay.names import is_id
from ecorelay_adapters import arguments as args, envelope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from ecorelay.requests import Asking

NEW = ""
"""Stands for an op id: the client makes a fresh one."""
RESULT_MAX = 20_000
"""Characters one result may have, unless a single message is longer."""
PAGE_ROOM = 2_000
"""Of these, kept for what stands around the messages of a page."""
SHOWN_OF_LONG = 16_000
"""Characters shown of a message that is longer than a result may be."""
TEXTS_KEPT_S = 7 * 86_400.0
"""How long the file of such a message stays; read again, the message is written again."""
_TS_MAX = 253_402_300_799_999  # the year 9999
WAIT_WITHOUT_PROGRESS_S = 45.0
"""Clients give up on silent tools after about a minute."""


class Outcome(Struct):
    """The result; for a leased page also the request that confirms it and the one that releases it."""

    fields: dict[str, Any]
    unread: int = 0
    confirm: wire.Request | None = None
    release: wire.Request | None = None


class Tools:
    """The 19 tools of one session.

    Args:
        hub: the client of this session.
        texts: directory for texts too long for a result; made on first use.
    """

    def __init__(self, hub: Asking, texts: Path) -> None:
        self._hub = hub
        self._texts = texts

    async def call(self, name: str, raw: bytes, *, can_wait: bool) -> Outcome:
        """Do one tool call.

        Raises:
            RelayError: the answer is this code and message.
        """
        kind, do = _TOOLS[name]
        given = args.parse(name, kind, raw)
        if isinstance(given, args.InboxArgs) and not can_wait:
            given = msgspec.structs.replace(given, wait=min(given.wait, WAIT_WITHOUT_PROGRESS_S))
        return await do(self, given)

    # --- peers -----------------------------------------------------------------------------------

    async def _peers(self, given: args.PeersArgs) -> Outcome:
        got = await self._hub.request(wire.Peers(req_id=0, match=given.match))
        fields: dict[str, Any] = {"me": got.me, "hub_id": got.hub_id}
        _put_rows(fields, "peers", [_peer(peer) for peer in got.peers], got.more)
        return Outcome(fields, got.unread)

    async def _rename(self, given: args.RenameArgs) -> Outcome:
        request = wire.Rename(req_id=0, op_id=NEW, new_name=given.new_name)
        got = await self._hub.request(request)
        return Outcome({"ok": True, "name": got.name}, got.unread)

    # --- mail ------------------------------------------------------------------------------------

    async def _send(self, given: args.SendArgs) -> Outcome:
        request = wire.Send(
            req_id=0,
            op_id=NEW,
            to=given.to,
            text=_text(given.text),
            reply_to=given.reply_to,
            urgent=given.urgent,
        )
        return _sent(await self._hub.request(request))

    async def _reply(self, given: args.ReplyArgs) -> Outcome:
        if not is_id(given.ask_id):
            raise RelayError(
                "unknown_ask", f"{given.ask_id!r} is no id: use the ask_id or msg_id of what you answer"
            )
        request = wire.Reply(req_id=0, op_id=NEW, ask_id=given.ask_id, text=_text(given.text))
        outcome = _sent(await self._hub.request(request))
        outcome.fields = {"ok": True, **outcome.fields}
        return outcome

    async def _broadcast(self, given: args.BroadcastArgs) -> Outcome:
        request = wire.Broadcast(
            req_id=0,
            op_id=NEW,
            question=_text(given.question, "question"),
            exclude_self=given.exclude_self,
        )
        got = await self._hub.request(request)
        fields = {"ok": True, "broadcast_id": got.broadcast_id, "peer_count": got.peer_count}
        if got.pending_hubs:
            fields["pending_hubs"] = got.pending_hubs
        return Outcome(fields, got.unread)

    async def _inbox(self, given: args.InboxArgs) -> Outcome:
        request = wire.Inbox(
            req_id=0,
            limit=given.limit,
            since_id=given.since_id,
            wait=given.wait,
            budget=RESULT_MAX - PAGE_ROOM,
        )
        page = await self._hub.request(request)
        release = wire.Release(req_id=0, lease=page.lease)
        now = int(time.time() * 1000)
        async with self._given_back_on_failure(release):
            fields: dict[str, Any] = {"messages": [self._mail(mail, now) for mail in page.messages]}
        fields["remaining"] = page.remaining
        if page.groups:
            fields["groups"] = [
                {"name": group.name, "unread_count": group.unread_count} for group in page.groups
            ]
        if page.missed:
            fields["missed"] = page.missed
        if not page.lease:
            return Outcome(fields, page.unread)
        shown = [mail for mail in page.messages if mail.text is not None]
        confirm = wire.Confirm(
            req_id=0,
            lease=page.lease,
            msg_ids=tuple(mail.msg_id for mail in shown if mail.kind != "room" and not _is_notice(mail)),
            notices=tuple(mail.msg_id for mail in shown if _is_notice(mail)),
        )
        return Outcome(fields, page.unread, confirm, release)

    @asynccontextmanager
    async def _given_back_on_failure(self, release: wire.Request) -> AsyncIterator[None]:
        """A page that cannot be shown is unread again at once."""
        try:
            yield
        except RelayError:
            with suppress(RelayError):
                await self._hub.request(release)
            raise

    def _mail(self, mail: wire.Mail, now: int) -> dict[str, Any]:
        fields: dict[str, Any] = {"msg_id": mail.msg_id, "kind": mail.kind, "from": mail.sender}
        if mail.kind == "ask":
            fields["ask_id"] = mail.msg_id
        for name in ("broadcast_id", "reply_to", "room"):
            value = getattr(mail, name)
            if value is not None:
                fields[name] = value
        fields["ts"] = _time(mail.ts)
        fields["age"] = envelope.age(now - mail.ts)
        for name in ("urgent", "redelivered", "seen"):
            if getattr(mail, name):
                fields[name] = True
        if mail.pushed_at:
            fields["pushed"] = _time(mail.pushed_at)
        if mail.text is not None:
            self._put_text(fields, mail)
        return fields

    def _put_text(self, fields: dict[str, Any], mail: wire.Mail) -> None:
        """The text, or the first part of a very long one and where the whole lies."""
        text = mail.text or ""
        if len(msgspec.json.encode(text)) <= RESULT_MAX - PAGE_ROOM:
            fields["text"] = text
            return
        fields["text"] = text[:SHOWN_OF_LONG]
        fields["truncated"] = True
        fields["size"] = len(text.encode())
        fields["file"] = str(self._keep(mail.msg_id, text))

    def _keep(self, msg_id: str, text: str) -> Path:
        """Write a long text to a file of ours alone, so that the model can read it in parts."""
        path = self._texts / f"{msg_id}.txt"
        try:
            self._texts.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_old(self._texts)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(handle, "w", encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            raise RelayError(
                "mailbox_error",
                f"a long message could not be written to {path} ({error.strerror or error}); it stays "
                "unread: free space or make the directory writable, then read again",
            ) from error
        return path

    # --- rooms -----------------------------------------------------------------------------------

    async def _join(self, given: args.RoomArgs) -> Outcome:
        got = await self._hub.request(wire.Join(req_id=0, room=given.room))
        return Outcome({"ok": True, "room": got.room, "members": got.members}, got.unread)

    async def _leave(self, given: args.RoomArgs) -> Outcome:
        got = await self._hub.request(wire.Leave(req_id=0, room=given.room))
        return Outcome({"ok": True}, got.unread)

    async def _room(self, given: args.RoomSendArgs) -> Outcome:
        request = wire.RoomSend(req_id=0, op_id=NEW, room=given.room, text=_text(given.text))
        got = await self._hub.request(request)
        fields = {"ok": True, "room": got.room, "delivered_count": got.delivered_count}
        return Outcome(fields, got.unread)

    async def _rooms(self, _given: args.NoArgs) -> Outcome:
        got = await self._hub.request(wire.Rooms(req_id=0))
        fields: dict[str, Any] = {}
        _put_rows(fields, "rooms", [{"name": room.name, "members": room.members} for room in got.rooms])
        return Outcome(fields, got.unread)

    # --- groups ----------------------------------------------------------------------------------

    async def _group_create(self, given: args.GroupCreateArgs) -> Outcome:
        request = wire.GroupCreate(req_id=0, op_id=NEW, name=given.name, members=given.members)
        got = await self._hub.request(request)
        return Outcome({"ok": True, "group": got.group, "members": got.members}, got.unread)

    async def _group_invite(self, given: args.GroupPeerArgs) -> Outcome:
        return await self._group_done(
            wire.GroupInvite(req_id=0, op_id=NEW, group=given.group, peer=given.peer)
        )

    async def _group_remove(self, given: args.GroupRemoveArgs) -> Outcome:
        return await self._group_done(
            wire.GroupRemove(
                req_id=0,
                op_id=NEW,
                group=given.group,
                peer=given.peer,
                reason=given.reason,
            )
        )

    async def _group_leave(self, given: args.GroupArgs) -> Outcome:
        return await self._group_done(wire.GroupLeave(req_id=0, op_id=NEW, group=given.group))

    async def _group_delete(self, given: args.GroupArgs) -> Outcome:
        return await self._group_done(wire.GroupDelete(req_id=0, op_id=NEW, group=given.group))

    async def _group_done(
        self, request: wire.GroupInvite | wire.GroupRemove | wire.GroupLeave | wire.GroupDelete
    ) -> Outcome:
        got = await self._hub.request(request)
        return Outcome({"ok": True}, got.unread)

    async def _group_send(self, given: args.GroupSendArgs) -> Outcome:
        request = wire.GroupSend(req_id=0, op_id=NEW, group=given.group, text=_text(given.text))
        got = await self._hub.request(request)
        return Outcome({"ok": True, "msg_id": got.msg_id}, got.unread)

    async def _group_history(self, given: args.GroupHistoryArgs) -> Outcome:
        request = wire.GroupHistory(
            req_id=0, group=given.group, limit=given.limit, budget=RESULT_MAX - PAGE_ROOM
        )
        page = await self._hub.request(request)
        release = wire.GroupRelease(req_id=0, group=given.group)
        async with self._given_back_on_failure(release):
            lines = [self._line(entry) for entry in page.messages]
        fields: dict[str, Any] = {
            "group": page.group,
            "messages": lines,
            "unread_remaining": page.unread_remaining,
        }
        if page.missed:
            fields["missed"] = page.missed
        if not page.messages:
            return Outcome(fields, page.unread)
        confirm = wire.GroupConfirm(req_id=0, group=given.group, upto=page.upto)
        return Outcome(fields, page.unread, confirm, release)

    def _line(self, entry: wire.GroupEntry) -> dict[str, Any]:
        fields: dict[str, Any] = {"id": entry.msg_id, "from": entry.sender}
        mail = wire.Mail(msg_id=entry.msg_id, kind="group", sender=entry.sender, ts=entry.ts, text=entry.text)
        self._put_text(fields, mail)
        fields["ts"] = _time(entry.ts)
        fields["type"] = entry.kind
        return fields

    async def _group_list(self, _given: args.NoArgs) -> Outcome:
        got = await self._hub.request(wire.Groups(req_id=0))
        fields: dict[str, Any] = {}
        groups = [{"name": group.name, "unread_count": group.unread_count} for group in got.groups]
        _put_rows(fields, "groups", groups)
        return Outcome(fields, got.unread)

    async def _group_info(self, given: args.GroupArgs) -> Outcome:
        got = await self._hub.request(wire.GroupInfo(req_id=0, group=given.group))
        members = [{"name": member.name, "online": member.online} for member in got.members]
        fields = {"group": got.group, "admin": got.admin, "members": members}
        return Outcome({**fields, "unread_count": got.unread_count}, got.unread)


def _sent(got: wire.Sent) -> Outcome:
    fields: dict[str, Any] = {"msg_id": got.msg_id, "status": got.status}
    if got.unverified:
        fields["unverified"] = True
    return Outcome(fields, got.unread)


def _put_rows(fields: dict[str, Any], key: str, rows: list[dict[str, Any]], more: int = 0) -> None:
    """As many rows as a result may hold, and how many there are `more`, if any."""
    shown: list[dict[str, Any]] = []
    used = len(msgspec.json.encode(fields)) + 100
    for row in rows:
        used += len(msgspec.json.encode(row)) + 1
        if used > RESULT_MAX:
            break
        shown.append(row)
    fields[key] = shown
    if more + len(rows) > len(shown):
        fields["more"] = more + len(rows) - len(shown)


def _peer(peer: wire.Peer) -> dict[str, Any]:
    row: dict[str, Any] = {"name": peer.name, "online": peer.online}
    for field in ("cwd", "git_branch", "client"):
        if value := getattr(peer, field):
            row[field] = value
    row["last_seen"] = _time(peer.last_seen)
    if peer.unreachable_since:
        row["unreachable_since"] = _time(peer.unreachable_since)
    return row


def _is_notice(mail: wire.Mail) -> bool:
    """Notices of the hub itself carry no message's id; system mail about groups does."""
    return mail.kind == "system" and not is_id(mail.msg_id)


def _text(text: str, field: str = "text") -> str:
    """Refuse here what could not even be sent: a line of the wire has its own limit."""
    if len(text) > wire.TEXT_MAX or len(text.encode()) > wire.TEXT_MAX:
        raise RelayError(
            "too_large",
            f"{field} is {len(text.encode())} bytes of UTF-8, the limit is {wire.TEXT_MAX}: "
            "send it in parts, or write it to a file and send the path",
        )
    return text


def _remove_old(texts: Path) -> None:
    """Files of long messages that were read long ago."""
    before = time.time() - TEXTS_KEPT_S
    for path in texts.glob("*.txt"):
        with suppress(OSError):
            if path.stat().st_mtime < before:
                path.unlink()


def _time(ms: int) -> str:
    seconds, millis = divmod(min(max(ms, 0), _TS_MAX), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{millis:03d}Z"


_TOOLS: dict[str, tuple[type[args.Args], Callable[[Tools, Any], Awaitable[Outcome]]]] = {
    "relay_peers": (args.PeersArgs, Tools._peers),
    "relay_send": (args.SendArgs, Tools._send),
    "relay_inbox": (args.InboxArgs, Tools._inbox),
    "relay_reply": (args.ReplyArgs, Tools._reply),
    "relay_broadcast": (args.BroadcastArgs, Tools._broadcast),
    "relay_rename": (args.RenameArgs, Tools._rename),
    "relay_join": (args.RoomArgs, Tools._join),
    "relay_leave": (args.RoomArgs, Tools._leave),
    "relay_room": (args.RoomSendArgs, Tools._room),
    "relay_rooms": (args.NoArgs, Tools._rooms),
    "relay_group_create": (args.GroupCreateArgs, Tools._group_create),
    "relay_group_invite": (args.GroupPeerArgs, Tools._group_invite),
    "relay_group_remove": (args.GroupRemoveArgs, Tools._group_remove),
    "relay_group_leave": (args.GroupArgs, Tools._group_leave),
    "relay_group_send": (args.GroupSendArgs, Tools._group_send),
    "relay_group_history": (args.GroupHistoryArgs, Tools._group_history),
    "relay_group_list": (args.NoArgs, Tools._group_list),
    "relay_group_info": (args.GroupArgs, Tools._group_info),
    "relay_group_delete": (args.GroupArgs, Tools._group_delete),
}
