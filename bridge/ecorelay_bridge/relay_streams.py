"""Many streams of bytes in the messages of one connection to a relay server. Decides only, does no I/O.

What goes out next is asked for with :meth:`Streams.next` whenever the connection can take a message, so that
a message holds all that gathered since: a relay moves a few thousand messages a second, whatever their size.
What each stream may send is bounded by the credit its reader grants; see `ecorelay.relay_wire`.
"""

from __future__ import annotations

import secrets
from collections import Counter, deque
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ecorelay.relay_wire import (
    CLOSE,
    CREDIT,
    CREDIT_MORE,
    DATA,
    OPEN,
    PIECE_MAX,
    STREAMS_MAX,
    piece,
    take_apart,
)

if TYPE_CHECKING:
    from collections.abc import Callable

GRANT: Final = CREDIT // 4
"""Bytes that were read before their credit is given back: seldom enough to cost nothing, and the sender
always has the other three quarters."""
STRANGER_MAX: Final = 64 * 1024
"""Bytes a hub may have said unread before it has proved itself; a handshake is a tenth of that."""
FLOWS_MAX: Final = 4_096
"""Streams of one connection, all hubs together: every pair of them that is dialed and dials, and some. More
are refused: a server can open streams in the name of as many hubs as it likes."""
RESETS_HUBS_MAX: Final = 1_000
"""Hubs of which resets are remembered."""
REFUSALS_MAX: Final = 64
"""Answers to streams that were not wanted, waiting to be sent; beyond, there is none."""
RESETS_MAX: Final = 3
"""Streams to one hub that ended as congested within `RESETS_S`, then nothing is opened for `BACK_OFF_S`."""
RESETS_S: Final = 60.0
BACK_OFF_S: Final = 30.0


class End(StrEnum):
    """Why a stream ended."""

    DONE = "done"
    """We closed it."""
    CLOSED = "closed"
    """The other hub closed it, after all it had to say."""
    LEFT = "left"
    """The other hub is not at the relay any more."""
    NO_SUCH_HUB = "no_such_hub"
    CONGESTED = "congested"
    """The relay server closed it: somebody sent beyond the credit."""
    OVERRUN = "overrun"
    """The other hub sent more than it may."""
    LOST = "lost"
    """Our own connection to the relay server ended."""


class Flow:
    """One stream, both ways; made by `Streams`.

    Attributes:
        address: of the other hub.
        end: why nothing more comes or goes; None: it lives. What came before may still be read.
        changed: called whenever something in here changed; set by the owner.
        unread_max: bytes that may lie here unread.
    """

    def __init__(self, streams: Streams, address: bytes, number: bytes, *, ours: bool) -> None:
        self.address = address
        self.number = number
        self.end: End | None = None
        self.changed: Callable[[], None] = _nothing
        self.unread_max = CREDIT
        self._streams = streams
        self._out = bytearray()
        self._may_send = CREDIT
        self._in = bytearray()
        self._may_come = CREDIT
        self._read = 0
        """Bytes read whose credit was not given back."""
        self._to_open = ours
        self._closing = False
        self.queued = False
        """Owned by `Streams`: it is among those that want to send."""

    @property
    def waiting(self) -> int:
        """Bytes written that did not leave yet."""
        return len(self._out)

    @property
    def unread(self) -> int:
        """Bytes that came and were not read yet."""
        return len(self._in)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes. Nothing happens if it has ended or is closing."""
        if self.end is None and not self._closing:
            self._out += data
            self._streams.want(self)

    def read(self, size: int) -> bytearray:
        """Up to `size` of the bytes that came; none: there are none."""
        if len(self._in) <= size:
            data, self._in = self._in, bytearray()
        else:
            data = self._in[:size]
            del self._in[:size]
        self._read += len(data)
        self._streams.want(self)
        return data

    def close(self) -> None:
        """Close it once what was written has left."""
        self._closing = True
        self._streams.want(self)

    def drop(self) -> None:
        """Close it now, whatever waits."""
        self._out.clear()
        self._in.clear()
        if self._to_open:  # nobody has heard of it
            self._to_open = False
            self._streams.forget(self, End.DONE)
        self.close()

    # --- for Streams -----------------------------------------------------------------------------------

    def has_next(self) -> bool:
        """Whether there is a message to be sent."""
        return self.end is None and (
            self._to_open or self._read >= GRANT or (bool(self._out) and self._may_send > 0) or self._closes()
        )

    def _closes(self) -> bool:
        return self._closing and not self._out

    def next(self) -> bytes:
        """The message to be sent, if there is one."""
        if self._to_open:
            self._to_open = False
            return piece(OPEN, self.address, self.number)
        if self._read >= GRANT:
            more, self._read = self._read, 0
            self._may_come += more
            return piece(CREDIT_MORE, self.address, self.number, more.to_bytes(4, "big"))
        if self._closes():
            self._streams.forget(self, End.DONE)
            return piece(CLOSE, self.address, self.number)
        size = min(len(self._out), PIECE_MAX, self._may_send)
        self._may_send -= size
        with memoryview(self._out)[:size] as part:
            message = piece(DATA, self.address, self.number, part)
        del self._out[:size]
        self.changed()
        return message

    def came(self, data: memoryview) -> bool:
        """Bytes came; False: more than may."""
        self._may_come -= len(data)
        if self._may_come < 0 or len(self._in) + len(data) > self.unread_max:
            return False
        if not self._closing:
            self._in += data
            self.changed()
        return True

    def granted(self, more: int) -> None:
        """So many more bytes may be sent; never more than `CREDIT` at a time, whatever somebody grants."""
        self._may_send = min(self._may_send + more, CREDIT)
        self._streams.want(self)


class Streams:
    """All streams of one connection.

    Args:
        clock: seconds, monotonic.
        wake: called when there is something for :meth:`next`.
        draw: makes so many random bytes.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        wake: Callable[[], None],
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._clock = clock
        self._wake = wake
        self._draw = draw
        self._flows: dict[tuple[bytes, bytes], Flow] = {}
        self._per_hub: Counter[bytes] = Counter()
        self._ready: deque[Flow] = deque()
        self._refusals: deque[bytes] = deque()
        self._resets: dict[bytes, deque[float]] = {}
        self._over = False
        self.stray = 0
        """Messages that were about nothing here."""

    # --- streams ---------------------------------------------------------------------------------------

    def open(self, address: bytes) -> Flow | None:
        """A new stream to the hub at this address; None: too many are open, to it or in all."""
        if self._over or self._is_full(address):
            return None
        number = self._draw(8)
        while (address, number) in self._flows:
            number = self._draw(8)
        return self._add(Flow(self, address, number, ours=True))

    def backs_off_s(self, address: bytes) -> float:
        """Seconds for which nothing should be opened to this hub, with streams reset too often; or 0."""
        resets = self._resets.get(address)
        if resets is None or len(resets) < RESETS_MAX:
            return 0.0
        return max(0.0, resets[-1] + BACK_OFF_S - self._clock())

    def _is_full(self, address: bytes) -> bool:
        return len(self._flows) >= FLOWS_MAX or self._per_hub.get(address, 0) >= STREAMS_MAX

    def _add(self, flow: Flow) -> Flow:
        self._flows[flow.address, flow.number] = flow
        self._per_hub[flow.address] += 1
        self.want(flow)
        return flow

    def __len__(self) -> int:
        return len(self._flows)

    # --- what comes --------------------------------------------------------------------------------------

    def take(self, message: bytes) -> Flow | None:
        """A data message; a stream that it opens, if it opens one.

        Raises:
            WireError: it breaks the rules.
        """
        came = take_apart(message)
        flow = self._flows.get((came.address, came.stream))
        if came.kind == OPEN:
            if flow is not None or self._over:
                self.stray += 1
                return None  # its number is taken: nonsense, and nobody to tell
            if self._is_full(came.address):
                self.stray += 1
                self.refuse(came.address, came.stream)
                return None
            flow = Flow(self, came.address, came.stream, ours=False)
            flow.unread_max = STRANGER_MAX
            return self._add(flow)
        if flow is None:  # of an earlier connection, or it crossed our close
            self.stray += 1
            return None
        if came.kind == CLOSE:
            self.forget(flow, End.CLOSED)
        elif came.kind == CREDIT_MORE:
            flow.granted(int.from_bytes(came.payload, "big"))
        elif not flow.came(came.payload):
            self.refuse(flow.address, flow.number)
            self.forget(flow, End.OVERRUN)
        return None

    def refuse(self, address: bytes, number: bytes) -> None:
        """Say that there is no such stream here."""
        if len(self._refusals) < REFUSALS_MAX:
            self._refusals.append(piece(CLOSE, address, number))
            self._wake()

    def left(self, address: bytes) -> None:
        """This hub went, or came anew."""
        if address not in self._per_hub:
            return
        for flow in [flow for flow in self._flows.values() if flow.address == address]:
            self.forget(flow, End.LEFT)

    def no_such_hub(self, address: bytes, number: bytes) -> None:
        """Nobody has the address of that stream."""
        if (flow := self._flows.get((address, number))) is not None:
            self.forget(flow, End.NO_SUCH_HUB)

    def congested(self, address: bytes, number: bytes) -> None:
        """The relay server closed that stream both ways."""
        if (flow := self._flows.get((address, number))) is None:
            return
        resets = self._resets.pop(address, None) or deque()
        self._resets[address] = resets  # the latest is the last
        if len(self._resets) > RESETS_HUBS_MAX:
            del self._resets[next(iter(self._resets))]
        resets.append(self._clock())
        while len(resets) > RESETS_MAX or resets[0] <= resets[-1] - RESETS_S:
            resets.popleft()
        self.forget(flow, End.CONGESTED)

    def lost(self) -> None:
        """The connection ended."""
        self._over = True
        for flow in list(self._flows.values()):
            self.forget(flow, End.LOST)

    # --- what goes ---------------------------------------------------------------------------------------

    def want(self, flow: Flow) -> None:
        """This stream may have something to send."""
        if not flow.queued and flow.has_next():
            flow.queued = True
            self._ready.append(flow)
            self._wake()

    def next(self) -> bytes | None:
        """The next message, of each stream in turn; None: there is nothing to send now."""
        if self._refusals:
            return self._refusals.popleft()
        while self._ready:
            flow = self._ready.popleft()
            flow.queued = False
            if flow.has_next():
                message = flow.next()
                self.want(flow)
                return message
        return None

    def forget(self, flow: Flow, end: End) -> None:
        """It has ended. What came may still be read, what was to go is dropped."""
        if flow.end is not None:
            return
        flow.end = end
        if self._flows.pop((flow.address, flow.number), None) is not None:
            self._per_hub[flow.address] -= 1
            if not self._per_hub[flow.address]:
                del self._per_hub[flow.address]
        flow.changed()


def _nothing() -> None:
    pass
