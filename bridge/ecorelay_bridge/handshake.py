r"""The mutual proof of two hubs, without I/O: bytes in, bytes out, then a proof or a refusal.

::

    D→A  open    versions, from, to, identity, instance, x     D dials, A accepts
    A→D  offer   version, versions, from, to, instance, ys     one y for each secret A accepts
    D→A  prove   macs, signature, app, clock                   one mac for each y
    A→D  proved  mac, app, clock

All of it inside TLS 1.3, where A has shown its certificate. Both sides put together the same transcript::

    T  = open ‖ offer ‖ sha256(A's certificate) ‖ A's identity ‖ B      each with its length before it
    B  = the channel binding of this TLS connection, see `ecorelay_bridge.binding`
    K  = HKDF(SPAKE2 key, salt sha256(T), "dialer" or "acceptor")
    mac = HMAC-SHA256(K, T ‖ app ‖ clock)
    signature = Ed25519 of D's identity over "ecorelay-link-v1 dialer\0" ‖ sha256(T)

A changed bit in any of it, other versions than were listed, two TLS connections with somebody between,
whatever certificate that one shows: another T, so another key, and the proof fails. A's identity is proved
by TLS itself, D's by its signature. Nothing derived from the secret is sent but the macs, and those hold
only for keys that a wrong secret cannot compute.

`instance` is drawn anew at each start, so that two machines with one identity can be told from one that
started again; see `ecorelay_bridge.twins`. An older program sends none.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from ecorelay.names import Name, key
from ecorelay_bridge.identity import Identity, fingerprint, public_of_certificate
from ecorelay_bridge.password import NotAnElement
from ecorelay_bridge.refusals import REPLY_MAX, Reason, Refused, told, version_refused, wrong_secret
from ecorelay_bridge.settings import Secret

if TYPE_CHECKING:
    from ecorelay_bridge.password import Exchange, Password

VERSIONS: Final = (1,)
"""Versions of the link protocol this program speaks."""
MESSAGE_MAX: Final = 4096
"""Bytes of one message."""
SIGNATURE_LABEL: Final = b"ecorelay-link-v1 dialer\0"

Check = Callable[[str, str], bool]
"""Called with a hub_id and a fingerprint before anything is proved to them: whether they are known as a pair.
Raises Refused if they differ from what is known."""

_Hex32 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Instance = Annotated[str, Meta(pattern=r"\A([0-9a-f]{32})?\Z")]
_Hex64 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{128}\Z")]
_Versions = Annotated[tuple[Annotated[int, Meta(ge=0, le=65535)], ...], Meta(min_length=1, max_length=16)]
_App = Annotated[str, Meta(pattern=r"\A[0-9A-Za-z][0-9A-Za-z.+_-]{0,39}\Z")]
_Clock = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class _Message(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all four, and of the refusal."""


class Open(_Message, frozen=True, kw_only=True, tag="open"):
    """The dialer's first word. `checking`: it only wants to know whether a link would come about."""

    versions: _Versions
    sender: Name = msgspec.field(name="from")
    to: Name
    identity: _Hex32
    x: _Hex32
    instance: _Instance = ""
    checking: bool = False


class Offer(_Message, frozen=True, kw_only=True, tag="offer"):
    """The acceptor's answer, the version that will be spoken in it."""

    version: Annotated[int, Meta(ge=0, le=65535)]
    versions: _Versions
    sender: Name = msgspec.field(name="from")
    to: Name
    ys: Annotated[tuple[_Hex32, ...], Meta(min_length=1, max_length=2)]
    instance: _Instance = ""


class Prove(_Message, frozen=True, kw_only=True, tag="prove", forbid_unknown_fields=True):
    """The dialer's proof. `app` is its program's version, `clock` its time in ms since 1970."""

    macs: Annotated[tuple[_Hex32, ...], Meta(min_length=1, max_length=2)]
    signature: _Hex64
    app: _App
    clock: _Clock


class Proved(_Message, frozen=True, kw_only=True, tag="proved", forbid_unknown_fields=True):
    """The acceptor's proof. After it the link begins."""

    mac: _Hex32
    app: _App
    clock: _Clock


class Refuse(_Message, frozen=True, kw_only=True, tag="refuse"):
    """Either side, at any point, before it closes. Nobody vouches for it: a hint, no more."""

    reason: Annotated[str, Meta(pattern=rf"\A[a-z_]{{1,{REPLY_MAX}}}\Z")]
    versions: _Versions = VERSIONS


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Open | Offer | Prove | Proved | Refuse)


class Proof(Struct, frozen=True, kw_only=True):
    """What is certain about the other side once both have proved themselves."""

    role: Literal["dialer", "acceptor"]
    """Ours."""
    hub_id: str
    identity: str
    """Its fingerprint."""
    secret: Secret
    """The one of ours that it knows."""
    version: int
    """Of the link protocol, for this link."""
    app: str
    """The version of its program."""
    clock_ms: int
    """Its clock when it sent its proof."""
    checking: bool
    """No link is wanted: `bridge-check` asked."""
    instance: str = ""
    """Which start of that hub; "" unknown."""


class Party(Struct, frozen=True, kw_only=True):
    """This hub, as it takes part in handshakes."""

    hub_id: str
    identity: Identity
    app: str
    now_ms: Callable[[], int]
    versions: tuple[int, ...] = VERSIONS
    instance: str = ""
    """Which start of this hub: 32 hexadecimal digits; "" untold."""


def refusal_bytes(refused: Refused, ours: tuple[int, ...] = VERSIONS) -> bytes | None:
    """What to tell the other side of a refusal; None where it told us."""
    if refused.told:
        return None
    # A signature that is wrong must not tell its author that the secret was right.
    word = Reason.WRONG_SECRET if refused.reason is Reason.BAD_SIGNATURE else refused.reason
    return _encode(Refuse(reason=str(word), versions=ours))


class Dialing:
    """The dialer's side of one handshake: :meth:`open`, :meth:`prove`, :meth:`finish`, each once.

    The first two compute for some milliseconds: call them in a thread.

    Args:
        me: this hub.
        to: the hub_id dialed.
        certificate: what TLS showed, DER.
        binding: of the TLS connection, see `ecorelay_bridge.binding`.
        password: the secret to prove.
        check: see `Check`.
        checking: no link is wanted.

    Raises:
        Refused: by the constructor and every method, when it is over; see :func:`refusal_bytes`.
    """

    def __init__(
        self,
        me: Party,
        to: str,
        certificate: bytes,
        binding: bytes,
        password: Password,
        check: Check,
        *,
        checking: bool = False,
    ) -> None:
        public = public_of_certificate(certificate)
        if public is None:
            raise Refused(Reason.TLS, "its certificate holds no Ed25519 key: that is no ecorelay hub")
        if key(to) == key(me.hub_id):
            raise Refused(Reason.SAME_HUB, "both hubs have one hub_id", "give each machine its own hub_id")
        if public == me.identity.public:
            raise _own_identity()
        self._me = me
        self._to = to
        self._certificate = certificate
        self._binding = binding
        self._public = public
        self._password = password
        self._checking = checking
        self._exchange: Exchange | None = None
        self._open = b""
        self._transcript = b""
        self._keys: list[bytes] = []
        self._version = 0
        self.instance = ""
        """Which start of that hub `offer` was from; of a known one TLS vouches for it."""
        self.known = check(to, fingerprint(public))
        """Whether TLS has already shown the hub we know: then it is no impostor whatever happens next."""

    def __repr__(self) -> str:
        return f"Dialing({self._to})"

    def open(self) -> bytes:
        """Our `open`."""
        self._exchange = self._password.dialing(self._me.hub_id.encode(), self._to.encode())
        self._open = _encode(
            Open(
                versions=self._me.versions,
                sender=self._me.hub_id,
                to=self._to,
                identity=self._me.identity.public.hex(),
                x=self._exchange.start().hex(),
                instance=self._me.instance,
                checking=self._checking,
            )
        )
        return self._open

    def prove(self, raw: bytes) -> bytes:
        """Our `prove`, for its `offer`."""
        offer = _expect(raw, Offer, self._me.versions)
        common = _common(self._me.versions, offer.versions)
        if offer.version != common:
            raise Refused(Reason.GARBAGE, "it chose another protocol version than the best of both")
        if offer.sender != self._to:
            raise Refused(
                Reason.NOT_WHOM_I_DIALED,
                f"the hub there is {offer.sender}, not {self._to}",
                f"correct the entry of {self._to} in bridge.json: hub_id, host or port",
            )
        if offer.to != self._me.hub_id:
            raise Refused(Reason.GARBAGE, "it answered somebody else")
        self._version = common
        self.instance = offer.instance
        self._transcript = _transcript(self._open, raw, self._certificate, self._public, self._binding)
        assert self._exchange is not None
        try:
            self._keys = self._exchange.finish_each([bytes.fromhex(y) for y in offer.ys])
        except NotAnElement:
            raise _bad_element() from None
        app, clock = self._me.app, self._me.now_ms()
        macs = [_mac(shared, "dialer", self._transcript, app, clock).hex() for shared in self._keys]
        signature = self._me.identity.sign(_to_sign(self._transcript))
        return _encode(Prove(macs=tuple(macs), signature=signature.hex(), app=app, clock=clock))

    def finish(self, raw: bytes) -> Proof:
        """The proof, for its `proved`."""
        proved = _expect(raw, Proved, self._me.versions)
        _demand_canonical(proved, raw)
        theirs = bytes.fromhex(proved.mac)
        holds = [
            hmac.compare_digest(theirs, _mac(shared, "acceptor", self._transcript, proved.app, proved.clock))
            for shared in self._keys
        ]
        if not any(holds):
            raise wrong_secret()
        return Proof(
            role="dialer",
            hub_id=self._to,
            identity=fingerprint(self._public),
            secret=self._password.secret,
            version=self._version,
            app=proved.app,
            clock_ms=proved.clock,
            checking=self._checking,
            instance=self.instance,
        )


class Accepting:
    """The acceptor's side of one handshake: :meth:`read_open`, :meth:`offer`, :meth:`finish`, each once.

    :meth:`offer` computes for some milliseconds: call it in a thread.

    Args:
        me: this hub.
        passwords: for each secret accepted, at most two.
        check: see `Check`.
        binding: of the TLS connection, see `ecorelay_bridge.binding`.

    Raises:
        Refused: by every method, when it is over.
    """

    def __init__(self, me: Party, passwords: tuple[Password, ...], check: Check, binding: bytes) -> None:
        self._me = me
        self._binding = binding
        self._passwords = passwords
        self._check = check
        self.known = False
        """Whether it says that it is a hub we know."""
        self._raw_open = b""
        self._opened: Open | None = None
        self._transcript = b""
        self._keys: list[bytes] = []
        self._version = 0

    def __repr__(self) -> str:
        return "Accepting()"

    def read_open(self, raw: bytes) -> Open:
        """Take its `open`: who it says it is. Nothing of it is proved yet."""
        opened = _expect(raw, Open, self._me.versions)
        self._version = _common(self._me.versions, opened.versions)
        if key(opened.sender) == key(opened.to):
            raise Refused(Reason.SAME_HUB, "both hubs have one hub_id", "give each machine its own hub_id")
        if key(opened.sender) == key(self._me.hub_id):
            raise Refused(
                Reason.OWN_HUB_ID,
                f"another hub calls itself {opened.sender}, as this one does",
                "give each machine a hub_id of its own in bridge.json",
            )
        if opened.identity == self._me.identity.public.hex():
            raise _own_identity()
        if opened.to != self._me.hub_id:
            raise Refused(
                Reason.NOT_ME,
                f"{opened.sender} dialed the hub {opened.to}, and this is {self._me.hub_id}",
                f"correct this hub's entry in bridge.json of {opened.sender}",
            )
        self.known = self._check(opened.sender, fingerprint(bytes.fromhex(opened.identity)))
        self._raw_open, self._opened = raw, opened
        return opened

    def offer(self) -> bytes:
        """Our `offer`."""
        opened = self._opened
        assert opened is not None
        x = bytes.fromhex(opened.x)
        ys, shared = [], []
        for password in self._passwords:
            exchange = password.accepting(opened.sender.encode(), self._me.hub_id.encode())
            ys.append(exchange.start().hex())
            try:
                shared += exchange.finish_each([x])
            except NotAnElement:
                raise _bad_element() from None
        raw = _encode(
            Offer(
                version=self._version,
                versions=self._me.versions,
                sender=self._me.hub_id,
                to=opened.sender,
                ys=tuple(ys),
                instance=self._me.instance,
            )
        )
        identity = self._me.identity
        self._transcript = _transcript(
            self._raw_open, raw, identity.certificate, identity.public, self._binding
        )
        self._keys = shared
        return raw

    def finish(self, raw: bytes) -> tuple[bytes, Proof]:
        """Our `proved` and the proof, for its `prove`."""
        opened = self._opened
        assert opened is not None
        prove = _expect(raw, Prove, self._me.versions)
        _demand_canonical(prove, raw)
        if len(prove.macs) != len(self._keys):
            raise Refused(Reason.GARBAGE, "its proof is not for our offer")
        holds = [
            hmac.compare_digest(
                bytes.fromhex(theirs), _mac(shared, "dialer", self._transcript, prove.app, prove.clock)
            )
            for theirs, shared in zip(prove.macs, self._keys, strict=True)
        ]
        # Before it is known whether the secret was right: the time of the answer must not tell it.
        signed = _signed(bytes.fromhex(opened.identity), bytes.fromhex(prove.signature), self._transcript)
        if not any(holds):
            raise wrong_secret()
        if not signed:
            raise Refused(
                Reason.BAD_SIGNATURE,
                f"somebody who knows the secret shows {opened.sender}'s identity without having it",
                "find out who; change the secret",
            )
        which = holds.index(True)
        app, clock = self._me.app, self._me.now_ms()
        mac = _mac(self._keys[which], "acceptor", self._transcript, app, clock)
        proof = Proof(
            role="acceptor",
            hub_id=opened.sender,
            identity=fingerprint(bytes.fromhex(opened.identity)),
            secret=self._passwords[which].secret,
            version=self._version,
            app=prove.app,
            clock_ms=prove.clock,
            checking=opened.checking,
            instance=opened.instance,
        )
        return _encode(Proved(mac=mac.hex(), app=app, clock=clock)), proof


# --- what both sides compute ---------------------------------------------------------------------


def _transcript(opened: bytes, offer: bytes, certificate: bytes, acceptor: bytes, binding: bytes) -> bytes:
    return _joined(opened, offer, hashlib.sha256(certificate).digest(), acceptor, binding)


def _joined(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _mac(shared: bytes, label: str, transcript: bytes, app: str, clock: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    salt = hashlib.sha256(transcript).digest()
    derived = HKDF(SHA256(), 32, salt=salt, info=label.encode()).derive(shared)
    return hmac.digest(derived, transcript + _joined(app.encode(), str(clock).encode()), "sha256")


def _to_sign(transcript: bytes) -> bytes:
    return SIGNATURE_LABEL + hashlib.sha256(transcript).digest()


def _signed(public: bytes, signature: bytes, transcript: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _to_sign(transcript))
    except (InvalidSignature, ValueError):
        return False
    return True


def _common(ours: tuple[int, ...], theirs: tuple[int, ...]) -> int:
    common = set(ours) & set(theirs)
    if not common:
        raise version_refused(theirs, ours)
    return max(common)


# --- the door for foreign bytes ------------------------------------------------------------------


_M = TypeVar("_M", bound=_Message)


def _expect(raw: bytes, kind: type[_M], ours: tuple[int, ...]) -> _M:
    """Decode what must be of one kind.

    Raises:
        Refused: it is not, or is the other side's refusal.
    """
    message: object = None
    if len(raw) <= MESSAGE_MAX:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = _decoder.decode(raw)
    if isinstance(message, kind):
        return message
    if isinstance(message, Refuse):
        raise told(message.reason, message.versions, ours)
    # From no exception: what the decoder says may quote the bytes.
    raise Refused(Reason.GARBAGE, f"what it sent is no {kind.__struct_config__.tag} of the handshake")


def _demand_canonical(message: Prove | Proved, raw: bytes) -> None:
    # These two are in no transcript: another spelling of the same values must not pass either.
    if _encode(message) != raw:
        raise Refused(Reason.GARBAGE, "its proof is not spelt as ecorelay spells it")


def _own_identity() -> Refused:
    return Refused(
        Reason.OWN_IDENTITY,
        "the hub there has the same identity as this one: one of them is a copy, or this hub dialed itself",
        "on the copy move identity.pem away and restart its hub: it makes its own",
    )


def _bad_element() -> Refused:
    return Refused(Reason.GARBAGE, "what it sent for the proof is no element of the group")
