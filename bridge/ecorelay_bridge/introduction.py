"""Two hubs get to know each other over any byte stream: TLS 1.3, then the mutual proof inside it.

Both sides have 5 s for all of it. A message of the handshake is two bytes of length and the bytes; nothing is
read ahead, so what follows belongs to the link.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Final, Literal

import trio
from msgspec import Struct

from ecorelay.errors import RelayError
from ecorelay_bridge.binding import channel_binding
from ecorelay_bridge.handshake import MESSAGE_MAX, Accepting, Check, Dialing, Party, Proof, refusal_bytes
from ecorelay_bridge.identity import ALPN, dialing_context
from ecorelay_bridge.refusals import Reason, Refused, closed_after_proof
from ecorelay_bridge.relay_stream import below
from ecorelay_bridge.settings import Secret
from ecorelay_bridge.tls import is_cut
from ecorelay_bridge.twins import Twins
from ecorelay_bridge.workers import Workers, leave_at_fixed_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ecorelay_bridge.password import Password

FINISH_S: Final = 5.0
"""Seconds to be through, TLS included."""
GOODBYE_S: Final = 1.0
"""Seconds a refusal and the end of TLS may take."""

# TLS alerts a hub sends in the place of a handshake, see `ecorelay_bridge.listener`.
ALERT_BLOCKED: Final = 49  # access_denied
ALERT_FULL: Final = 80  # internal_error


class Proven(Struct, frozen=True, kw_only=True):
    """A hub that proved itself, and the encrypted stream to it. The next byte each way is the link's."""

    stream: trio.abc.Stream
    """Whoever gets this owns it."""
    role: Literal["dialer", "acceptor"]
    """Ours: ``dialer`` if we connected."""
    hub_id: str
    identity: str
    """Its fingerprint, ``SHA256:…``."""
    secret: Secret
    """The one of ours that it knows: after a change of secrets, close the links whose secret is gone."""
    version: int
    """Of the link protocol: the highest both speak."""
    app: str
    """The version of its program."""
    clock_ahead_ms: int
    """How far its clock is before ours, about: good to the time a message takes. Negative: behind."""
    address: str
    """Where it is: ``host:port``, or the relay's name."""
    relayed: bool = False
    """Whether a relay server is in between."""
    instance: str = ""
    """Which start of that hub; "" unknown."""


class Introducer:
    """This hub, introducing itself. One for all connections.

    Args:
        me: this hub.
        passwords: for each secret, the new one first.
        check: see `Check`.
        remember: keeps who proved itself; called before the link begins. Raises RelayError if it cannot.
        workers: do the computing.
        finish_s: seconds for one introduction.
        twins: told of every hub that proved itself; refuses the link where two machines are one hub.
    """

    def __init__(
        self,
        me: Party,
        passwords: tuple[Password, ...],
        check: Check,
        remember: Callable[[Proof], Awaitable[None]],
        workers: Workers,
        *,
        finish_s: float = FINISH_S,
        twins: Twins | None = None,
    ) -> None:
        self.me = me
        self.passwords = passwords
        self._check = check
        self._remember = remember
        self._workers = workers
        self._finish_s = finish_s
        self._twins = twins or Twins(trio.current_time)
        self._accepting_tls = me.identity.accepting_context()
        self._dialing_tls = dialing_context()

    async def dial(
        self, stream: trio.abc.Stream, to: str, password: Password, *, checking: bool = False
    ) -> tuple[trio.SSLStream[trio.abc.Stream], Proof]:
        """Introduce ourselves to the hub `to` at the other end.

        Resource handling: takes `stream` over; it is closed unless this returns.

        Args:
            stream: connected.
            to: the hub_id expected there.
            password: the secret to prove.
            checking: no link is wanted.

        Raises:
            Refused: no proof; the other side was told why, if it could be.
        """
        tls = trio.SSLStream(stream, self._dialing_tls)
        way = _DialerWay(
            tls, self.me, to, password, self._check, self._remember, self._workers, checking, self._twins
        )
        return await self._bounded(tls, way)

    async def accept(
        self,
        stream: trio.abc.Stream,
        *,
        on_offer: Callable[[], None] = lambda: None,
        familiar: bool = False,
        only_known: bool = False,
    ) -> tuple[trio.SSLStream[trio.abc.Stream], Proof]:
        """Introduce ourselves to whoever connected.

        Resource handling: see :meth:`dial`.

        Args:
            stream: connected.
            on_offer: called when computing begins: from then on, no proof is a failed one.
            familiar: whether a hub has proved itself from there before: if it then says that it is one we
                know, it need not wait behind strangers.
            only_known: refuse whoever does not say so. Who says so and has not that hub's key learns
            nothing of
                the secret, not even whether a guess was right.

        Raises:
            Refused: see :meth:`dial`.
        """
        tls = trio.SSLStream(stream, self._accepting_tls, server_side=True)
        way = _AcceptorWay(
            tls,
            lambda binding: Accepting(self.me, self.passwords, self._check, binding),
            self._remember,
            self._workers,
            on_offer,
            self._twins,
            familiar=familiar,
            only_known=only_known,
        )
        return await self._bounded(tls, way)

    async def _bounded(
        self, tls: trio.SSLStream[trio.abc.Stream], way: _DialerWay | _AcceptorWay
    ) -> tuple[trio.SSLStream[trio.abc.Stream], Proof]:
        try:
            with trio.move_on_after(self._finish_s):
                return tls, await way.go()
            raise way.ended(broken=True) or Refused(Reason.TOO_SLOW, way.too_slow(), encrypted=way.encrypted)
        except Refused as refused:
            await _say_goodbye(tls, refusal_bytes(refused, self.me.versions) if way.can_tell else None)
            raise
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(tls)
            raise (
                (way.ended(broken=True) if way.encrypted else _at_relay(tls, way.tls_failed(error)))
                or _at_relay(tls, None)
                or Refused(Reason.CLOSED, "the connection broke during the handshake")
            ) from None
        except BaseException:
            await trio.aclose_forcefully(tls)
            raise


class _Way:
    """What both sides' ways have in common."""

    def __init__(
        self,
        tls: trio.SSLStream[trio.abc.Stream],
        remember: Callable[[Proof], Awaitable[None]],
        twins: Twins,
    ) -> None:
        self._tls = tls
        self._remember = remember
        self._twins = twins
        self.encrypted = False
        self.can_tell = False
        """Whether the other side still waits for a message of the handshake: it can be told why not."""

    async def _encrypt(self) -> bytes:
        """Do TLS. Gives its channel binding."""
        await self._tls.do_handshake()
        self.encrypted = self.can_tell = True
        if self._tls.selected_alpn_protocol() != ALPN:
            raise Refused(Reason.NOT_ECORELAY, "it speaks TLS, but is no ecorelay hub")
        return channel_binding(self._tls)

    async def _send(self, raw: bytes) -> None:
        await self._tls.send_all(len(raw).to_bytes(2, "big") + raw)

    async def _receive(self) -> bytes:
        size = int.from_bytes(await self._exactly(2), "big")
        if not 0 < size <= MESSAGE_MAX:
            raise Refused(Reason.GARBAGE, "what it sent is no message of the handshake")
        return await self._exactly(size)

    async def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = await self._tls.receive_some(size - len(data))
            if not more:
                raise self.ended(broken=False) or Refused(Reason.CLOSED, "it closed the connection")
            data += more
        return bytes(data)

    async def _keep(self, proof: Proof) -> None:
        if proof.checking:
            return
        try:
            await self._remember(proof)
        except RelayError as error:
            raise Refused(Reason.NOT_REMEMBERED, error.message) from None
        self._twins.meet(proof.hub_id, proof.instance)

    def ended(self, *, broken: bool) -> Refused | None:
        """What an end without a word means at this point; None: nothing special."""
        return None

    def too_slow(self) -> str:
        return "it did not finish in time" if self.encrypted else "it connected and then said nothing"

    def tls_failed(self, error: BaseException) -> Refused | None:
        return None


class _DialerWay(_Way):
    def __init__(
        self,
        tls: trio.SSLStream[trio.abc.Stream],
        me: Party,
        to: str,
        password: Password,
        check: Check,
        remember: Callable[[Proof], Awaitable[None]],
        workers: Workers,
        checking: bool,
        twins: Twins,
    ) -> None:
        super().__init__(tls, remember, twins)
        self._me = me
        self._to = to
        self._password = password
        self._check = check
        self._workers = workers
        self._checking = checking
        self._proof_is_out = False
        self._known = False

    async def go(self) -> Proof:
        binding = await self._encrypt()
        certificate: bytes = self._tls.getpeercert(binary_form=True) or b""
        dialing = Dialing(
            self._me, self._to, certificate, binding, self._password, self._check, checking=self._checking
        )
        self._known = dialing.known
        await self._send(await self._workers.run(dialing.open))
        # Not at a fixed time as the acceptor's answer: whoever would measure this one sees it once, and then
        # not for a minute.
        try:
            prove = await self._workers.run(dialing.prove, await self._receive())
        except Refused as refused:
            if refused.told and refused.failed_proof:
                # It has nothing of ours to guess on, and must not make us wait as if it had.
                raise Refused(Reason.GARBAGE, "it refused our proof before there was one") from None
            raise
        if self._known and not self._checking:
            self._twins.expect(self._to, dialing.instance)  # while it can still be told
        self._proof_is_out = True
        await self._send(prove)
        try:
            proof = dialing.finish(await self._receive())
        except Refused as refused:
            # However it is worded: somebody we do not know got our proof, and may have tried a guess on it.
            refused.was_guess = not self._known
            raise
        self.can_tell = False
        await self._keep(proof)
        return proof

    def ended(self, *, broken: bool) -> Refused | None:
        # TLS has shown whether it is the hub we know. If so it learned nothing, and what broke is the
        # network; anybody else may have asked for our proof only to guess.
        if not self._proof_is_out or (broken and self._known):
            return None
        return closed_after_proof()

    def too_slow(self) -> str:
        if self.encrypted:
            return "it did not finish the handshake in time"
        return "it takes the connection and then says nothing: it hangs, is overloaded, or is no ecorelay hub"

    def tls_failed(self, error: BaseException) -> Refused:
        cause = error.__cause__
        word = (cause.reason or "") if isinstance(cause, ssl.SSLError) else ""
        if "ACCESS_DENIED" in word:
            return Refused(
                Reason.SOURCE_BLOCKED,
                "it refuses this machine's address for a minute, after too many failed proofs from it",
                "see whether another hub or check on this machine uses a wrong secret",
                told=True,
            )
        if "INTERNAL_ERROR" in word:
            return Refused(Reason.BUSY, "it has no room for another connection just now", told=True)
        if word in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
            return _not_ecorelay("what answers there does not speak TLS")
        if "NO_APPLICATION_PROTOCOL" in word:
            return _not_ecorelay("it speaks TLS, but is no ecorelay hub")
        if not word or (isinstance(cause, ssl.SSLError) and is_cut(cause)):
            return _not_ecorelay(
                "it closed the connection when TLS began: no ecorelay hub, or one without room just now"
            )
        # OpenSSL's own word for it, from a fixed list: no text of the other side.
        return Refused(
            Reason.TLS,
            f"TLS failed ({word.lower().replace('_', ' ')})",
            "ecorelay needs TLS 1.3 from end to end: no proxy that opens TLS may stand between the hubs",
        )


class _AcceptorWay(_Way):
    def __init__(
        self,
        tls: trio.SSLStream[trio.abc.Stream],
        accepting: Callable[[bytes], Accepting],
        remember: Callable[[Proof], Awaitable[None]],
        workers: Workers,
        on_offer: Callable[[], None],
        twins: Twins,
        *,
        familiar: bool,
        only_known: bool,
    ) -> None:
        super().__init__(tls, remember, twins)
        self._accepting = accepting
        self._workers = workers
        self._on_offer = on_offer
        self._familiar = familiar
        self._only_known = only_known

    async def go(self) -> Proof:
        accepting = self._accepting(await self._encrypt())
        accepting.read_open(await self._receive())
        if self._only_known and not accepting.known:
            raise Refused(Reason.BUSY, "its address is refused for a minute, but for hubs that are known")
        # Saying that one is known is free. Only from where a hub has proved itself it counts.
        await self._workers.take_turn(known=self._familiar and accepting.known)
        self._on_offer()
        began = trio.current_time()
        offer = await self._workers.run(accepting.offer)
        await leave_at_fixed_time(began)
        await self._send(offer)
        proved, proof = accepting.finish(await self._receive())
        await self._keep(proof)
        await self._send(proved)
        return proof

    def tls_failed(self, error: BaseException) -> Refused:
        return Refused(Reason.TLS, "what connected does not speak TLS 1.3 as an ecorelay hub does")


def _not_ecorelay(sentence: str) -> Refused:
    return Refused(
        Reason.NOT_ECORELAY, sentence, "correct host or port of this peer, or start ecorelay on that machine"
    )


def _at_relay(tls: trio.SSLStream[trio.abc.Stream], refused: Refused | None) -> Refused | None:
    """What a broken stream means if it is one over a relay; `refused`: what it would mean else."""
    over_relay = below(tls)
    if over_relay is None or (refused is not None and refused.told):
        return refused
    if why := over_relay.why():
        return Refused(Reason.NOT_AT_RELAY, why)
    if over_relay.end is not None and (refused is None or refused.reason is Reason.NOT_ECORELAY):
        return Refused(Reason.CLOSED, "it closed the stream during the handshake: it goes, or has no room")
    return refused


async def _say_goodbye(tls: trio.SSLStream[trio.abc.Stream], raw: bytes | None) -> None:
    """Tell why, end TLS, close: all of it within a second, and whoever does not listen is cut off."""
    with trio.move_on_after(GOODBYE_S):
        try:
            if raw is not None:
                await tls.send_all(len(raw).to_bytes(2, "big") + raw)
                await tls.aclose()
        except trio.BrokenResourceError:
            pass
    await trio.aclose_forcefully(tls)


async def hand_over(
    introduced: tuple[trio.SSLStream[trio.abc.Stream], Proof],
    me: Party,
    address: str,
    on_link: Callable[[Proven], Awaitable[None]],
) -> None:
    """Give a proven stream to the hub; closed when that returns, however it does.

    Args:
        introduced: what :meth:`Introducer.dial` or :meth:`Introducer.accept` gave.
        me: this hub.
        address: of the other.
        on_link: the hub's part.
    """
    tls, proof = introduced
    if (over_relay := below(tls)) is not None:
        over_relay.trust()
    try:
        await on_link(
            Proven(
                stream=tls,
                role=proof.role,
                hub_id=proof.hub_id,
                identity=proof.identity,
                secret=proof.secret,
                version=proof.version,
                app=proof.app,
                clock_ahead_ms=proof.clock_ms - me.now_ms(),
                address=address,
                relayed=over_relay is not None,
                instance=proof.instance,
            )
        )
    finally:
        with trio.move_on_after(GOODBYE_S) as goodbye:
            goodbye.shield = True
            with contextlib.suppress(trio.BrokenResourceError, trio.BusyResourceError):
                await tls.aclose()
        await trio.aclose_forcefully(tls)
