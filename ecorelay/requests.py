"""What each request is answered with, how long it may take, and how it is said again after a reconnect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, overload

import msgspec

from ecorelay import wire
from ecorelay.errors import Code, RelayError

PATIENCE_S: Final = 30.0
"""How long a request waits for its answer, unless the caller says otherwise; a waiting read adds its wait."""
GIVE_UP_S: Final = 600.0
"""Nothing is said again after this; the hub remembers an op_id for longer, so nothing happens twice."""

ANSWERS: Final[dict[type[wire.Request], type[wire.Result]]] = {
    wire.Send: wire.Sent,
    wire.Reply: wire.Sent,
    wire.Broadcast: wire.Broadcasted,
    wire.Inbox: wire.InboxPage,
    wire.Confirm: wire.Done,
    wire.Release: wire.Done,
    wire.Peers: wire.PeerList,
    wire.AddPeer: wire.Renamed,
    wire.Rename: wire.Renamed,
    wire.Join: wire.RoomMembers,
    wire.Leave: wire.Done,
    wire.RoomSend: wire.RoomSent,
    wire.Rooms: wire.RoomList,
    wire.GroupCreate: wire.GroupMembers,
    wire.GroupInvite: wire.Done,
    wire.GroupRemove: wire.Done,
    wire.GroupLeave: wire.Done,
    wire.GroupDelete: wire.Done,
    wire.GroupForget: wire.Done,
    wire.GroupSend: wire.Sent,
    wire.GroupHistory: wire.GroupPage,
    wire.GroupConfirm: wire.Done,
    wire.GroupRelease: wire.Done,
    wire.Groups: wire.GroupList,
    wire.GroupInfo: wire.GroupDetails,
    wire.Hook: wire.HookPage,
    wire.Printed: wire.Done,
    wire.Identify: wire.Renamed,
    wire.Trace: wire.Traced,
    wire.ForgetPeer: wire.Done,
    wire.Purge: wire.Purged,
    wire.Backup: wire.BackedUp,
    wire.Block: wire.Done,
    wire.Blocks: wire.BlockList,
    wire.Watch: wire.Done,
    wire.Probe: wire.Probed,
    wire.HubStatus: wire.HubDetails,
    wire.HubReload: wire.Done,
    wire.ForgetHub: wire.HubForgotten,
    wire.HubStop: wire.Done,
}


class RequestError(RelayError):
    """The hub's `failed`. `unread`: what the caller has unread all the same."""

    def __init__(self, code: Code, message: str, unread: int = 0) -> None:
        super().__init__(code, message)
        self.unread = unread


class Asking(ABC):
    """Requests with the type of their answer; the rest of a client is in `ecorelay.client`."""

    @abstractmethod
    async def _ask(self, frame: wire.Request, patience: float | None) -> wire.Result: ...

    @overload
    async def request(
        self, frame: wire.Send | wire.Reply | wire.GroupSend, patience: float | None = None
    ) -> wire.Sent: ...
    @overload
    async def request(self, frame: wire.Broadcast, patience: float | None = None) -> wire.Broadcasted: ...
    @overload
    async def request(self, frame: wire.Inbox, patience: float | None = None) -> wire.InboxPage: ...
    @overload
    async def request(self, frame: wire.Peers, patience: float | None = None) -> wire.PeerList: ...
    @overload
    async def request(
        self, frame: wire.Rename | wire.AddPeer | wire.Identify, patience: float | None = None
    ) -> wire.Renamed: ...
    @overload
    async def request(self, frame: wire.Join, patience: float | None = None) -> wire.RoomMembers: ...
    @overload
    async def request(self, frame: wire.RoomSend, patience: float | None = None) -> wire.RoomSent: ...
    @overload
    async def request(self, frame: wire.Rooms, patience: float | None = None) -> wire.RoomList: ...
    @overload
    async def request(self, frame: wire.GroupCreate, patience: float | None = None) -> wire.GroupMembers: ...
    @overload
    async def request(self, frame: wire.GroupHistory, patience: float | None = None) -> wire.GroupPage: ...
    @overload
    async def request(self, frame: wire.Groups, patience: float | None = None) -> wire.GroupList: ...
    @overload
    async def request(self, frame: wire.GroupInfo, patience: float | None = None) -> wire.GroupDetails: ...
    @overload
    async def request(self, frame: wire.Hook, patience: float | None = None) -> wire.HookPage: ...
    @overload
    async def request(self, frame: wire.Trace, patience: float | None = None) -> wire.Traced: ...
    @overload
    async def request(self, frame: wire.Purge, patience: float | None = None) -> wire.Purged: ...
    @overload
    async def request(self, frame: wire.Backup, patience: float | None = None) -> wire.BackedUp: ...
    @overload
    async def request(self, frame: wire.Blocks, patience: float | None = None) -> wire.BlockList: ...
    @overload
    async def request(self, frame: wire.Probe, patience: float | None = None) -> wire.Probed: ...
    @overload
    async def request(self, frame: wire.HubStatus, patience: float | None = None) -> wire.HubDetails: ...
    @overload
    async def request(self, frame: wire.ForgetHub, patience: float | None = None) -> wire.HubForgotten: ...
    @overload
    async def request(
        self,
        frame: wire.Confirm
        | wire.Release
        | wire.Leave
        | wire.GroupInvite
        | wire.GroupRemove
        | wire.GroupLeave
        | wire.GroupDelete
        | wire.GroupForget
        | wire.GroupConfirm
        | wire.GroupRelease
        | wire.Printed
        | wire.ForgetPeer
        | wire.Block
        | wire.Watch
        | wire.HubStop,
        patience: float | None = None,
    ) -> wire.Done: ...
    @overload
    async def request(self, frame: wire.Request, patience: float | None = None) -> wire.Result: ...

    async def request(self, frame: wire.Request, patience: float | None = None) -> wire.Result:
        """Ask the hub and wait for its answer; survives a lost connection and a restarted hub.

        Any number of tasks may ask at once. If this is cancelled the answer is not wanted: a page it
        held is given back unread, a waiting read ends at the hub, and a mutation may have happened.

        Args:
            frame: its `req_id` is replaced by one of this client, an empty `op_id` by a fresh one.
            patience: seconds until giving up, at most 600; None: 30. A waiting inbox adds its `wait`.

        Raises:
            RequestError: the hub's refusal, with its code, and what to do next.
            RelayError: ``timeout``, the hub did not answer and it is not known whether it was done;
                ``hub_unreachable``, nothing was sent; ``too_large``, no frame may be that long; or the
                reason for which this client has ended for good.
            trio.ClosedResourceError: the client's block was left already.
        """
        return await self._ask(frame, patience)


def seconds_to_wait(frame: wire.Request, patience: float | None) -> float:
    """How long `frame` may take in all."""
    waits = frame.wait if isinstance(frame, wire.Inbox) else 0.0
    return min(PATIENCE_S if patience is None else patience, GIVE_UP_S) + waits


def said_again(frame: wire.Request, time_left: float) -> wire.Request | wire.Result | RelayError:
    """The form in which `frame`, sent on a connection that is lost, goes to the hub of the next one.

    Args:
        frame: as it was sent.
        time_left: seconds until its caller gives up.

    Returns:
        the frame to send; or what to tell the caller instead.
    """
    match frame:
        case wire.Mutation():
            return msgspec.structs.replace(frame, resend=True)
        case wire.Inbox(wait=wait) if wait:
            # A hub that started anew would wait from the beginning, past the caller's patience.
            return msgspec.structs.replace(frame, wait=min(wait, max(0.0, time_left - PATIENCE_S)))
        case wire.Confirm():
            # The lease ended with its connection, and its number may be another's by now.
            return msgspec.structs.replace(frame, lease=0)
        case wire.Release() | wire.GroupRelease():
            return wire.Done(req_id=frame.req_id)  # the end of the connection gave the page back
        case wire.HubStop():
            # The next hub is not the one that was to stop.
            return RelayError("hub_unreachable", "the hub closed the connection; it may have stopped already")
        case _:
            return frame


def asked_by_another(frame: wire.Request, before: str, now: str) -> RelayError | None:
    """What is known of a request that was sent as the peer `before`, when its session is the peer `now`.

    The hub remembers for each peer what it has done: said again by another, it might be done twice, or be
    refused though it was done. None: it may be said again by anybody.
    """
    match frame:
        case wire.Mutation():
            known = _may_have_been_done(frame)
        case wire.Confirm() | wire.GroupConfirm() | wire.Printed():
            known = "what was shown may be shown again"
        case _:
            return None
    return RelayError(
        "timeout",
        f"another session took the name {before} while there was no connection to the hub, and this one is "
        f"{now} now; {known}",
    )


def _may_have_been_done(frame: wire.Mutation) -> str:
    match frame:
        case wire.Send() | wire.Reply() | wire.GroupSend() | wire.Broadcast():
            return f"it may have been stored, as {frame.op_id}: ask the recipient before you repeat it"
        case _:
            return "it may have been done: look before you repeat it"


def no_answer(frame: wire.Request, sent: bool, seconds: float, trouble: str) -> RelayError:
    """What is known of a request that was given up after `seconds`.

    Args:
        frame: the request.
        sent: whether any hub may have got it.
        seconds: how long it waited.
        trouble: why there is no connection; empty: there is one.
    """
    why = f" ({trouble})" if trouble else ""
    if not sent and not trouble:
        return RelayError(
            "timeout",
            f"the hub was too busy for {seconds:.0f} s; nothing was sent: try again later",
        )
    if not sent:
        return RelayError(
            "hub_unreachable",
            f"no connection to the hub for {seconds:.0f} s{why}; nothing was sent: "
            "see `ecorelay hub status`, then try again",
        )
    known = "the request changed nothing: try again"
    match frame:
        case wire.Mutation():
            known = _may_have_been_done(frame)
        case wire.Inbox() | wire.GroupHistory():
            known = "nothing was marked as read: try again"
    return RelayError("timeout", f"the hub did not answer within {seconds:.0f} s{why}; {known}")
