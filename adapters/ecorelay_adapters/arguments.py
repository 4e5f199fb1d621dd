"""What each tool takes, checked at one door; a mistake is answered in words a model can act on."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from ecorelay.errors import RelayError
from ecorelay.names import NAME_RULE, AddressText, Id, Name

# An id is checked for its form by the hub too; here a wrong one is only an id nobody knows.
AnyId = Annotated[str, Meta(min_length=1, max_length=64)]
A = TypeVar("A", bound="Args")


class Args(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every tool's arguments."""


class NoArgs(Args, frozen=True):
    """For tools that take nothing."""


class PeersArgs(Args, frozen=True):
    """relay_peers."""

    match: Annotated[str, Meta(max_length=256)] = ""


class SendArgs(Args, frozen=True):
    """relay_send."""

    to: AddressText
    text: str
    reply_to: Id | None = None
    urgent: bool = False


class InboxArgs(Args, frozen=True):
    """relay_inbox."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    since_id: Id | None = None
    wait: Annotated[float, Meta(ge=0, le=600)] = 0


class ReplyArgs(Args, frozen=True):
    """relay_reply."""

    ask_id: AnyId
    text: str


class BroadcastArgs(Args, frozen=True):
    """relay_broadcast."""

    question: str
    exclude_self: bool = True


class RenameArgs(Args, frozen=True):
    """relay_rename."""

    new_name: Name


class RoomArgs(Args, frozen=True):
    """relay_join, relay_leave."""

    room: AddressText


class RoomSendArgs(Args, frozen=True):
    """relay_room."""

    room: AddressText
    text: str


class GroupCreateArgs(Args, frozen=True):
    """relay_group_create."""

    name: Name
    members: Annotated[tuple[AddressText, ...], Meta(max_length=100)]


class GroupPeerArgs(Args, frozen=True):
    """relay_group_invite."""

    group: AddressText
    peer: AddressText


class GroupRemoveArgs(Args, frozen=True):
    """relay_group_remove."""

    group: AddressText
    peer: AddressText
    reason: Annotated[str, Meta(max_length=256)]


class GroupArgs(Args, frozen=True):
    """relay_group_leave, relay_group_info, relay_group_delete."""

    group: AddressText


class GroupSendArgs(Args, frozen=True):
    """relay_group_send."""

    group: AddressText
    text: str


class GroupHistoryArgs(Args, frozen=True):
    """relay_group_history."""

    group: AddressText
    limit: Annotated[int, Meta(ge=1, le=500)] = 50


_FIELD = re.compile(r" - at `\$\.?(.*)`\Z", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"required field `(.*)`")
_PATTERN = "matching regex"


def parse(tool: str, kind: type[A], raw: bytes) -> A:
    """The arguments of a call.

    Args:
        tool: its name, for the message.
        kind: the struct that says what it takes.
        raw: a JSON object. Numbers and booleans may come as strings, as some models write them.

    Raises:
        RelayError: ``bad_args``, naming the field and what it may be.
    """
    try:
        return msgspec.json.decode(raw, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RelayError("bad_args", f"{tool}: {_explain(str(error), kind)}") from None


def _explain(error: str, kind: type[Args]) -> str:
    takes = ", ".join(kind.__struct_fields__) or "no arguments"
    if unknown := _UNKNOWN.search(error):
        return f"there is no argument {unknown[1][:64]!r}; it takes {takes}"
    if missing := _MISSING.search(error):
        return f"the argument {missing[1]!r} is missing; it takes {takes}"
    where = _FIELD.search(error)
    field = where[1] if where else ""
    what = error[: where.start()] if where else error
    if not field:
        return f"{what}; it takes {takes}"
    if _PATTERN in what:
        name = field.removesuffix("[...]")
        if name in ("reply_to", "since_id"):
            return f"{name} is the msg_id of a message, as relay_inbox shows it"
        if name in ("name", "new_name"):
            return f"{name} must be {NAME_RULE}"
        return f"{name} must be a name or name@hub_id; a name is {NAME_RULE}"
    return f"{field}: {what[:1].lower()}{what[1:]}"
