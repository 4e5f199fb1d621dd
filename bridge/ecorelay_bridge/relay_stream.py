"""A stream over a relay as Trio's streams are: TLS, the handshake and the link run over it unchanged."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final

import trio

from ecorelay.relay_wire import CREDIT
from ecorelay_bridge.relay_streams import End

if TYPE_CHECKING:
    from ecorelay_bridge.relay_streams import Flow

WAITING_MAX: Final = 128 * 1024
"""Bytes that may wait for the connection or for credit before `send_all` waits too. More than one message
holds, so that there is always a full one while the connection is busy."""
READ_MAX: Final = 64 * 1024
LINGER_S: Final = 1.0
"""Seconds what was sent may take to leave when the stream is closed."""


def below(stream: trio.abc.Stream) -> RelayStream | None:
    """The stream over a relay that carries this encrypted one; None: it is a direct one."""
    carrier = stream.transport_stream if isinstance(stream, trio.SSLStream) else None
    return carrier if isinstance(carrier, RelayStream) else None


_WHY: Final = {
    End.LEFT: "the other hub left the relay",
    End.NO_SUCH_HUB: "the other hub is not at the relay",
    End.CONGESTED: "the relay cut the stream: one of the two hubs sent more than it may",
    End.OVERRUN: "the other hub sent more than it may",
    End.LOST: "the connection to the relay ended",
}


class RelayStream(trio.abc.Stream):
    """One stream to another hub.

    `send_all` returns as soon as little enough waits. Closing waits up to a second until what was sent has
    left; cancelled, what did not leave is dropped. There is no end of one direction alone.

    Args:
        flow: what it is the face of; nobody else reads or writes it.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._closed = False
        self._lot = trio.lowlevel.ParkingLot()
        self._sends = trio.lowlevel.ParkingLot()
        self._sending = False
        self._receiving = False
        flow.changed = self._wake

    @property
    def end(self) -> End | None:
        """Why it ended; None: it did not."""
        return self._flow.end

    def why(self) -> str:
        """Why it ended, in words; empty where it did not, or one of the two hubs closed it."""
        return "" if self._flow.end is None else _WHY.get(self._flow.end, "")

    def refuse(self) -> None:
        """Close it at once, without waiting for anything."""
        self._closed = True
        self._flow.drop()

    def trust(self) -> None:
        """The other hub has proved itself: it may send ahead."""
        self._flow.unread_max = CREDIT

    def _wake(self) -> None:
        self._lot.unpark_all()
        self._sends.unpark_all()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check()
            with memoryview(data) as view:
                for at in range(0, len(view), WAITING_MAX):
                    self._flow.write(view[at : at + WAITING_MAX])
                    await self._room()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await trio.lowlevel.checkpoint()
        self._check()
        await self._room()

    async def _room(self) -> None:
        while self._flow.waiting > WAITING_MAX:
            await self._sends.park()
            self._check()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._flow.end is not None:
            raise trio.BrokenResourceError(f"the stream over the relay ended: {self._flow.end}")

    async def receive_some(self, max_bytes: int | None = None) -> bytearray:
        """See `trio.abc.ReceiveStream`."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        size = READ_MAX if max_bytes is None else operator.index(max_bytes)
        if size < 1:
            raise ValueError("max_bytes must be at least 1")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self._closed:
                    raise trio.ClosedResourceError
                if self._flow.unread:
                    return self._flow.read(size)
                if self._flow.end is End.CLOSED:
                    return bytearray()
                self._check()
                await self._lot.park()
        finally:
            self._receiving = False

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        if not self._closed:
            self._closed = True
            self._flow.close()
            self._wake()
        try:
            with trio.move_on_after(LINGER_S):
                await trio.lowlevel.checkpoint()
                while self._flow.end is None:
                    await self._lot.park()
        finally:
            self._flow.drop()
